"""Floating-point instructions, held to exact fractions rounded once; approximate ones to their bounds."""

import math
import operator
from fractions import Fraction

import numpy as np
import pytest
import tally
from hand_written import FORMATS, elementwise, exact, floats, half_bits, rounded, same
from hypothesis import given
from hypothesis import strategies as st

from kernels.cuda.emulate.arithmetic import APPROXIMATE

MODES = ("rn", "rz", "rm", "rp")
N = 400


def nearest(values, dtype, form=None, mode="rn"):
    return np.array([rounded(v, form or np.dtype(dtype).str[1:], mode) for v in values], "f8").astype(dtype)


def zero_sum(a, b, mode):
    """The sign of an exact zero sum (IEEE 754, 6.3)."""
    if a == 0 and b == 0 and math.copysign(1, a) == math.copysign(1, b):
        return a
    return -0.0 if mode == "rm" else 0.0


def summed(a, b, mode):
    s = exact(operator.add, a, b)
    return zero_sum(a, b, mode) if isinstance(s, Fraction) and s == 0 else s


def multiplied(a, b):
    p = exact(operator.mul, a, b)
    return math.copysign(0.0, math.copysign(1, a) * math.copysign(1, b)) if isinstance(p, Fraction) and p == 0 else p


def fused(a, b, c, mode):
    if not all(map(math.isfinite, (a, b, c))):
        return exact(lambda x, y, z: x * y + z, a, b, c) if not (math.isfinite(a) and math.isfinite(b)) else float(c)
    p = multiplied(a, b)
    if p == 0:
        return zero_sum(float(p), c, mode) if c == 0 else Fraction(c)
    s = p + Fraction(c)
    return s if s else zero_sum(1.0, -1.0, mode)


def underflown(values, wanted):
    """A number that is rounded to zero keeps its sign."""
    return np.array(
        [math.copysign(w, v) if isinstance(v, Fraction) and w == 0 else w for v, w in zip(values, wanted, strict=True)], wanted.dtype
    )


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma", "div", "sqrt", "rcp"])
def test_an_operation_is_rounded_once(name, mode, dtype):
    rng = np.random.default_rng(sum(map(ord, name + mode)))
    args = [floats(rng, N, dtype) for _ in range({"fma": 3, "sqrt": 1, "rcp": 1}.get(name, 2))]
    if name in ("add", "sub", "fma"):  # sums that nearly cancel, where rounding twice shows
        with np.errstate(all="ignore"):
            args[-1][::3] = (args[0] * (args[1] if name == "fma" else 1) * np.array(-1 if name != "sub" else 1, dtype))[::3]
    kind = {"f4": "f32", "f8": "f64"}[dtype]
    registers = ", ".join(f"%x{i}" for i in range(len(args)))
    got = elementwise(f"{name}.{mode}.{kind} %d, {registers};", *args, result=dtype)
    plain = [[float(v) for v in a] for a in args]
    values = [VALUE[name](*v, mode) for v in zip(*plain, strict=True)]
    same(got, underflown(values, nearest(values, dtype, mode=mode)) if name != "sqrt" else roots(plain[0], dtype, mode))
    tally.ran("cuda", "an instruction of the emulator")


def quotient(a, b):
    if not (math.isfinite(a) and math.isfinite(b)) or b == 0:
        with np.errstate(all="ignore"):
            return float(np.float64(a) / np.float64(b))
    return Fraction(a) / Fraction(b) if a else math.copysign(0.0, math.copysign(1, a) * math.copysign(1, b))


VALUE = {
    "add": summed,
    "sub": lambda a, b, mode: summed(a, -b, mode),
    "mul": lambda a, b, mode: multiplied(a, b),
    "fma": fused,
    "div": lambda a, b, mode: quotient(a, b),
    "rcp": lambda a, mode: quotient(1.0, a),
    "sqrt": lambda a, mode: a,
}


def roots(values, dtype, mode):
    """Roots by integers: of x 2^(2 k), with as many bits as the format and two more, the last one for what is left."""
    out = []
    for v in values:
        if not math.isfinite(v) or v <= 0:
            out.append(v if v == 0 or v == math.inf else math.nan)
            continue
        x, shift = Fraction(v), 2 * 600
        n = math.isqrt((x.numerator << (2 * shift)) // x.denominator)
        left = Fraction(n) ** 2 != x * Fraction(2) ** (2 * shift)
        out.append(Fraction(2 * n + left, 2 << shift))
    return nearest(out, dtype, mode=mode)


def test_a_fused_product_is_not_rounded_by_way_of_double():
    """The exact sum lies 2^-70 below the middle of two float32; a float64 takes it for the middle, which would round up."""
    unit = 2.0**-23
    a, b, c = (np.array([v], "f4") for v in (2.0**-12 * (1 + unit), 2.0**-12 * (1 - unit), 1 + unit))
    assert np.float32(a.astype("f8") * b + c)[0] != c[0]
    same(elementwise("fma.rn.f32 %d, %x0, %x1, %x2;", a, b, c, result="f4"), c)


def fused_numbers(a, b, c):
    values = [fused(float(p), float(q), float(r), "rn") for p, q, r in zip(a, b, c, strict=True)]
    return underflown(values, nearest(values, "f4"))


NUMBERS = {
    "add.f32": lambda a, b, c: a + b,
    "sub.f32": lambda a, b, c: a - b,
    "mul.f32": lambda a, b, c: a * b,
    "div.rn.f32": lambda a, b, c: a / b,
    "fma.rn.f32": fused_numbers,
    "abs.f32": lambda a, b, c: np.abs(a),
    "neg.f32": lambda a, b, c: -a,
    "sqrt.rn.f32": lambda a, b, c: np.sqrt(a),
}
OPERANDS = {"abs": 1, "neg": 1, "sqrt": 1, "fma": 3}


@given(st.lists(st.tuples(st.sampled_from(sorted(NUMBERS)), *[st.integers(0, 5)] * 4), max_size=15), st.integers(0, 2**31))
def test_programs_of_numbers(steps, seed):
    rng = np.random.default_rng(seed)
    a, b = floats(rng, 40), floats(rng, 40)
    lines = [f"mov.f32 %f{i}, {'%x0' if i % 2 else '%x1'};" for i in range(6)]
    values = [a if i % 2 else b for i in range(6)]
    for name, d, *sources in steps:
        used = sources[: OPERANDS.get(name.split(".")[0], 2)]
        lines.append(f"{name} %f{d}, {', '.join(f'%f{s}' for s in used)};")
        with np.errstate(all="ignore"):
            values[d] = NUMBERS[name](*(values[s] for s in sources))
    for i in range(6):
        same(elementwise("\n".join([*lines, f"mov.f32 %d, %f{i};"]), a, b, result="f4"), values[i])
    tally.ran("cuda", "a random program of numbers")


def test_a_result_that_is_no_number_has_the_bits_of_the_device():
    x = np.array([math.nan, -math.nan, math.inf, 0, 1], "f4")
    y = np.array([1, 1, -math.inf, 0, 1], "f4")
    for line in (
        "add.f32 %d, %x0, %x1;",
        "mul.f32 %d, %x0, 0f7FC00001;",
        "fma.rn.f32 %d, %x0, %x1, 0fFFC00001;",
        "min.NaN.f32 %d, %x0, 0fFFC00001;",
    ):
        got = elementwise(line, x, y, result="f4")
        assert (got.view("u4")[np.isnan(got)] == 0x7FFFFFFF).all() and np.isnan(got).any(), line


def flushed(x):
    return np.where(np.abs(x) < 2.0**-126, np.copysign(np.float32(0), x), x)


@pytest.mark.parametrize("line", ["add.ftz.f32 %d, %x0, %x1;", "mul.ftz.f32 %d, %x0, %x1;", "fma.rn.ftz.f32 %d, %x0, %x1, %x0;"])
def test_ftz_flushes_before_and_after(line):
    rng = np.random.default_rng(3)
    x, y = floats(rng, N), (2.0 ** rng.integers(-149, -100, N)).astype("f4") * np.float32(rng.choice([-1, 1]))
    a, b = flushed(x), flushed(y)
    with np.errstate(all="ignore"):
        wide = {"a": a.astype("f8") + b, "m": a.astype("f8") * b, "f": a.astype("f8") * b + a}[line[0]]
        wanted = flushed(wide.astype("f4"))
    same(elementwise(line, x, y, result="f4"), wanted)


def test_saturation_clamps_to_the_unit_interval_and_nan_to_zero():
    x = floats(np.random.default_rng(4), N)
    with np.errstate(all="ignore"):
        wanted = np.where(x * np.float32(0.5) > 0, np.minimum(x * np.float32(0.5), np.float32(1)), np.float32(0))
    same(elementwise("mul.sat.f32 %d, %x0, 0f3F000000;", x, result="f4"), wanted)


def test_pairs_of_float32():
    rng = np.random.default_rng(17)
    x, y = floats(rng, 2 * N), floats(rng, 2 * N)
    for name, f in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply)):
        with np.errstate(all="ignore"):
            wanted = f(x, y)
        same(elementwise(f"{name}.rn.f32x2 %d, %x0, %x1;", x.view("u8"), y.view("u8"), result="u8").view("f4"), wanted)
    each = elementwise("fma.rn.f32 %d, %x0, %x1, %x0;", x, y, result="f4")
    same(elementwise("fma.rn.f32x2 %d, %x0, %x1, %x0;", x.view("u8"), y.view("u8"), result="u8").view("f4"), each)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_minima_and_maxima_prefer_numbers_and_order_zeros(dtype):
    rng = np.random.default_rng(5)
    x, y = floats(rng, N, dtype), floats(rng, N, dtype)
    x[:8], y[:8] = [0.0, -0.0, math.nan, 1, math.nan, -0.0, math.inf, -math.inf], [-0.0, 0.0, 1, math.nan, math.nan, -0.0, 1, 1]

    def smaller(a, b):
        if math.isnan(a) or math.isnan(b):
            return b if math.isnan(a) else a
        return min((a, math.copysign(1, a)), (b, math.copysign(1, b)))[0]

    kind = {"f4": "f32", "f8": "f64"}[dtype]
    pairs = list(zip(map(float, x), map(float, y), strict=True))
    same(elementwise(f"min.{kind} %d, %x0, %x1;", x, y, result=dtype), np.array([smaller(a, b) for a, b in pairs], dtype))
    same(elementwise(f"max.{kind} %d, %x0, %x1;", x, y, result=dtype), np.array([-smaller(-a, -b) for a, b in pairs], dtype))
    either = np.isnan(x) | np.isnan(y)
    if dtype == "f4":
        got = elementwise("max.NaN.f32 %d, %x0, %x1;", x, y, result=dtype)
        assert (np.isnan(got) == either).all()


@pytest.mark.parametrize("name", ["neg", "abs"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_signs(name, dtype):
    x = floats(np.random.default_rng(6), N, dtype)
    kind = {"f4": "f32", "f8": "f64"}[dtype]
    same(elementwise(f"{name}.{kind} %d, %x0;", x, result=dtype), -x if name == "neg" else np.abs(x))
    same(elementwise(f"copysign.{kind} %d, %x1, %x0;", x, np.roll(x, 1), result=dtype), np.copysign(x, np.roll(x, 1)))


BOUNDS = {  # name: (f, domain, bound relative or absolute in units of the result's last place)
    "ex2.approx.ftz.f32": (np.exp2, (-120, 120), 2),
    "lg2.approx.f32": (np.log2, (2, 1e30), 4),
    "rcp.approx.f32": (lambda x: 1 / x, (-1e10, 1e10), 1),
    "sqrt.approx.f32": (np.sqrt, (0, 1e30), 1),
    "rsqrt.approx.f32": (lambda x: 1 / np.sqrt(x), (1e-10, 1e10), 2),
    "sin.approx.f32": (np.sin, (-3, 3), 2),
    "cos.approx.f32": (np.cos, (-3, 3), 2),
    "tanh.approx.f32": (np.tanh, (-9, 9), 2),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_approximate_functions_are_within_the_bounds_of_the_device(name):
    assert name in APPROXIMATE or name.replace(".ftz", "") in APPROXIMATE, "its bound on a device is stated"
    f, (low, high), ulps = BOUNDS[name]
    x = np.random.default_rng(7).uniform(low, high, N).astype("f4")
    wanted = f(x.astype("f8"))
    got = elementwise(f"{name} %d, %x0;", x, result="f4")
    assert (np.abs(got - wanted) <= ulps * np.spacing(np.abs(wanted).astype("f4"))).all()


def test_the_gross_reciprocal_of_doubles_has_twenty_bits():
    x = np.random.default_rng(8).normal(size=N) * 1e3
    got = elementwise("rcp.approx.ftz.f64 %d, %x0;", x, result="f8")
    assert (np.abs(got * x - 1) < 2.0**-19).all() and not (got.view("u8") & np.uint64(0xFFFFFFFF)).any()


# Conversions.

REALS = {"f2": "f16", "f4": "f32", "f8": "f64"}
WHOLES = {"i1": "s8", "u1": "u8", "i2": "s16", "u2": "u16", "i4": "s32", "u4": "u32", "i8": "s64", "u8": "u64"}


@pytest.mark.parametrize(
    "to, of, mode", [("f4", "f8", mode) for mode in MODES] + [("f2", of, mode) for of in ("f4", "f8") for mode in ("rn", "rz")]
)
def test_numbers_become_narrower_in_a_direction(to, of, mode):
    x = floats(np.random.default_rng(9), N, of)
    values = [Fraction(float(v)) if math.isfinite(v) and v else float(v) for v in x]
    got = elementwise(f"cvt.{mode}.{REALS[to]}.{REALS[of]} %d, %x0;", x, result=to)
    same(got, underflown(values, nearest(values, to, mode=mode)))


@pytest.mark.parametrize("mode", ["rn", "rz"])
def test_bfloat16(mode):
    x = floats(np.random.default_rng(10), N)
    got = elementwise(f"cvt.{mode}.bf16.f32 %d, %x0;", x, result="u2")
    numbers = ~np.isnan(x)
    wanted = np.array(
        [half_bits(rounded(Fraction(float(v)) if math.isfinite(v) else float(v), "bf16", mode), "bf16") for v in x[numbers]], "u2"
    )
    zero = np.where(np.signbit(x[numbers]), 0x8000, 0).astype("u2")
    assert (got[numbers] == np.where(wanted & 0x7FFF == 0, zero, wanted)).all() and (got[~numbers] == 0x7FFF).all()
    pair = elementwise(f"cvt.{mode}.bf16x2.f32 %d, %x0, %x1;", x, np.roll(x, 1), result="u4")
    assert (pair >> 16 == got).all() and (pair & 0xFFFF == np.roll(got, 1)).all()


def test_pairs_of_halves():
    x = np.random.default_rng(11).normal(size=N).astype("f4")
    got = elementwise("cvt.rn.f16x2.f32 %d, %x0, %x1;", x, np.roll(x, 1), result="u4")
    assert (got.view("f2").reshape(-1, 2) == np.stack([np.roll(x, 1), x], 1).astype("f2")).all()


@pytest.mark.parametrize("mode", ["rna", "rn", "rz"])
def test_tf32(mode):
    x = np.random.default_rng(12).normal(size=N).astype("f4")
    got = elementwise(f"cvt.{mode}.tf32.f32 %d, %x0;", x, result="u4").view("f4")
    FORMATS["tf32"] = (11, -149, 128)
    same(got, nearest([Fraction(float(v)) for v in x], "f4", "tf32", mode))


@pytest.mark.parametrize("mode", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("of", ["f4", "f8", "f2"])
@pytest.mark.parametrize("to", WHOLES)
def test_numbers_become_whole(to, of, mode):
    x = floats(np.random.default_rng(13), N, of)
    x[:4] = [2.5, -2.5, 0.5, -0.5]
    whole = {"rni": lambda v: round(Fraction(v)), "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}[mode]
    info = np.iinfo(to)
    nan = 0 if of != "f8" and to not in ("i8", "u8") else (info.min if info.min else 1 << info.bits - 1)
    wanted = [
        nan if math.isnan(v) else info.max if v == math.inf else info.min if v == -math.inf else max(info.min, min(info.max, whole(v)))
        for v in map(float, x)
    ]
    got = elementwise(f"cvt.{mode}.{WHOLES[to]}.{REALS[of]} %d, %x0;", x, result=to)
    same(got.astype("i8" if to != "u8" else "u8"), np.array(wanted, "i8" if to != "u8" else "u8"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("of", ["i4", "u4", "i8", "u8", "i2", "u1"])
@pytest.mark.parametrize("to", ["f4", "f8"])
def test_integers_become_numbers(to, of, mode):
    from hand_written import integers

    x = integers(np.random.default_rng(14), N, of)
    got = elementwise(f"cvt.{mode}.{REALS[to]}.{WHOLES[of]} %d, %x0;", x, result=to)
    same(got, nearest([Fraction(int(v)) for v in x], to, mode=mode))


@pytest.mark.parametrize("mode, f", [("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)])
def test_numbers_are_rounded_to_whole_numbers(mode, f):
    x = floats(np.random.default_rng(15), N)
    same(elementwise(f"cvt.{mode}.f32.f32 %d, %x0;", x, result="f4"), f(x))


@pytest.mark.parametrize("kind", ["f16", "f16x2", "bf16", "bf16x2"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma.rn"])
def test_halves_are_rounded_once(kind, name):
    rng = np.random.default_rng(16)
    dtype = "u4" if kind.endswith("x2") else "u2"
    form = "f2" if kind.startswith("f16") else "bf16"
    args = [np.where(rng.random(N) < 0.8, near(rng, form, dtype), rng.integers(0, 1 << 16, N)).astype(dtype) for _ in range(3)]
    operands = ", ".join(f"%x{i}" for i in range(3 if name == "fma.rn" else 2))
    got = elementwise(f"{name}.{kind} %d, {operands};", *args, result=dtype).view("u2").reshape(N, -1)
    op = VALUE[name[:3]]
    parts = [as_floats(a.view("u2").reshape(N, -1), form) for a in args]
    for i in range(N):
        for j in range(got.shape[1]):
            v = op(*[float(p[i, j]) for p in parts[: 3 if name == "fma.rn" else 2]], "rn")
            w = rounded(v, form)
            g = as_floats(got[i, j : j + 1], form)[0]
            assert g == w or (math.isnan(w) and math.isnan(g)), (i, j, [float(p[i, j]) for p in parts], g, w)


def near(rng, form, dtype):
    x = rng.normal(size=N).astype("f4")
    bits = x.astype("f2").view("u2") if form == "f2" else (x.view("u4") >> 16)
    return bits.astype("u4") * (0x10001 if dtype == "u4" else 1)


def as_floats(bits, form):
    return bits.view("f2").astype("f8") if form == "f2" else (bits.astype("u4") << np.uint32(16)).view("f4").astype("f8")
