"""Integer and bit instructions, comparisons and moves, held to Python's integers."""

import math

import numpy as np
import pytest
import tally
from hand_written import KIND, elementwise, floats, integers, kernel, same
from hypothesis import given
from hypothesis import strategies as st

from kernels.cuda.emulate import run

N = 300
SIGNED = ("i2", "i4", "i8")
ALL = (*SIGNED, "u2", "u4", "u8")


def wrapped(values, dtype):
    bits = 8 * np.dtype(dtype).itemsize
    return np.array([v % (1 << bits) for v in values], f"u{bits // 8}").view(dtype)


def cut(a, b):
    """Division towards zero; the device gives all ones for a division by zero."""
    return -1 if b == 0 else int(math.copysign(1, a) * math.copysign(1, b)) * (abs(a) // abs(b))


def left(a, b):
    return a if b == 0 else a - cut(a, b) * b


BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
    "div": cut,
    "rem": left,
}


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("name", [*BINARY, "mul.hi"])
def test_arithmetic(name, dtype):
    rng = np.random.default_rng(1)
    a, b = integers(rng, N, dtype), integers(rng, N, dtype)
    bits = 8 * np.dtype(dtype).itemsize
    f = BINARY.get(name) or (lambda p, q: p * q >> bits)
    wanted = wrapped([f(int(p), int(q)) for p, q in zip(a, b, strict=True)], dtype)
    same(elementwise(f"{name}.{KIND[dtype]} %d, %x0, %x1;", a, b, result=dtype), wanted)
    tally.ran("cuda", "an instruction of the emulator")


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "u4"])
def test_wide_products(dtype):
    rng = np.random.default_rng(2)
    wide = f"{dtype[0]}{2 * int(dtype[1])}"
    a, b, c = integers(rng, N, dtype), integers(rng, N, dtype), integers(rng, N, wide)
    wanted = [int(p) * int(q) for p, q in zip(a, b, strict=True)]
    same(elementwise(f"mul.wide.{KIND[dtype]} %d, %x0, %x1;", a, b, result=wide), wrapped(wanted, wide))
    sums = [p + int(q) for p, q in zip(wanted, c, strict=True)]
    same(elementwise(f"mad.wide.{KIND[dtype]} %d, %x0, %x1, %x2;", a, b, c, result=wide), wrapped(sums, wide))


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("part", ["lo", "hi"])
def test_products_and_sums(part, dtype):
    rng = np.random.default_rng(3)
    a, b, c = (integers(rng, N, dtype) for _ in range(3))
    bits = 8 * np.dtype(dtype).itemsize
    wanted = [(int(p) * int(q) >> (bits if part == "hi" else 0)) + int(r) for p, q, r in zip(a, b, c, strict=True)]
    same(elementwise(f"mad.{part}.{KIND[dtype]} %d, %x0, %x1, %x2;", a, b, c, result=dtype), wrapped(wanted, dtype))


def test_saturation_and_small_products():
    rng = np.random.default_rng(4)
    a, b, c = (integers(rng, N, "i4") for _ in range(3))
    ints = [tuple(map(int, t)) for t in zip(a, b, c, strict=True)]

    def clamp(v):
        return max(-(2**31), min(2**31 - 1, v))

    same(elementwise("add.sat.s32 %d, %x0, %x1;", a, b, result="i4"), np.array([clamp(p + q) for p, q, _ in ints], "i4"))
    same(elementwise("sub.sat.s32 %d, %x0, %x1;", a, b, result="i4"), np.array([clamp(p - q) for p, q, _ in ints], "i4"))

    def low(v):
        return (v & 0xFFFFFF) - ((v & 0x800000) << 1)

    same(elementwise("mul24.lo.s32 %d, %x0, %x1;", a, b, result="i4"), wrapped([low(p) * low(q) for p, q, _ in ints], "i4"))
    same(
        elementwise("mad24.hi.s32 %d, %x0, %x1, %x2;", a, b, c, result="i4"),
        wrapped([(low(p) * low(q) >> 16) + r for p, q, r in ints], "i4"),
    )
    same(elementwise("sad.s32 %d, %x0, %x1, %x2;", a, b, c, result="i4"), wrapped([abs(p - q) + r for p, q, r in ints], "i4"))


def test_carries_make_sums_of_128_bits():
    rng = np.random.default_rng(5)
    a, b, c, d = (integers(rng, N, "u8") for _ in range(4))
    lines = "add.cc.u64 %q1, %x0, %x2; addc.u64 {0}, %x1, %x3; mov.b64 %d, {1};"
    high = elementwise(lines.format("%q2", "%q2"), a, b, c, d, result="u8")
    total = [(int(q) << 64 | int(p)) + (int(s) << 64 | int(r)) for p, q, r, s in zip(a, b, c, d, strict=True)]
    assert [int(v) for v in high] == [t >> 64 & (1 << 64) - 1 for t in total]
    lines = "sub.cc.u64 %q1, %x0, %x2; subc.u64 %d, %x1, %x3;"
    high = elementwise(lines, a, b, c, d, result="u8")
    total = [(int(q) << 64 | int(p)) - (int(s) << 64 | int(r)) for p, q, r, s in zip(a, b, c, d, strict=True)]
    assert [int(v) for v in high] == [t >> 64 & (1 << 64) - 1 for t in total]
    w = [integers(rng, N, "u4") for _ in range(3)]
    got = elementwise("mad.lo.cc.u32 %r1, %x0, %x1, %x2; madc.hi.u32 %d, %x0, %x1, 0;", *w, result="u4")
    assert [int(v) for v in got] == [(int(p) * int(q) + int(r)) >> 32 for p, q, r in zip(*w, strict=True)]


@pytest.mark.parametrize("dtype", ["u2", "u4", "u8"])
def test_bitwise(dtype):
    rng = np.random.default_rng(6)
    a, b = integers(rng, N, dtype), integers(rng, N, dtype)
    kind = f"b{8 * np.dtype(dtype).itemsize}"
    for name, f in {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}.items():
        same(elementwise(f"{name}.{kind} %d, %x0, %x1;", a, b, result=dtype), f(a, b))
    same(elementwise(f"not.{kind} %d, %x0;", a, result=dtype), ~a)
    same(elementwise(f"cnot.{kind} %d, %x0;", a, result=dtype), (a == 0).astype(dtype))


@pytest.mark.parametrize("dtype", ALL)
def test_shifts_beyond_the_width(dtype):
    rng = np.random.default_rng(7)
    a, by = integers(rng, N, dtype), rng.integers(0, 80, N).astype("u4")
    by[:3] = [2**32 - 1, 31, 64]
    bits = 8 * np.dtype(dtype).itemsize
    values = [(int(p), int(s)) for p, s in zip(a, by, strict=True)]
    same(elementwise(f"shl.b{bits} %d, %x0, %x1;", a, by, result=dtype), wrapped([p << s if s < bits else 0 for p, s in values], dtype))
    same(elementwise(f"shr.{KIND[dtype]} %d, %x0, %x1;", a, by, result=dtype), wrapped([p >> min(s, bits) for p, s in values], dtype))


@pytest.mark.parametrize("side", ["l", "r"])
@pytest.mark.parametrize("rule", ["wrap", "clamp"])
def test_funnel_shifts(side, rule):
    rng = np.random.default_rng(8)
    a, b, c = integers(rng, N, "u4"), integers(rng, N, "u4"), rng.integers(0, 70, N).astype("u4")

    def of(low, high, n):
        n = n & 31 if rule == "wrap" else min(n, 32)
        both = high << 32 | low
        return (both << n >> 32 if side == "l" else both >> n) & 0xFFFFFFFF

    wanted = [of(*map(int, t)) for t in zip(a, b, c, strict=True)]
    same(elementwise(f"shf.{side}.{rule}.b32 %d, %x0, %x1, %x2;", a, b, c, result="u4"), np.array(wanted, "u4"))


@pytest.mark.parametrize("dtype", ["u4", "i4", "u8", "i8"])
def test_fields_of_bits(dtype):
    rng = np.random.default_rng(9)
    bits = 8 * np.dtype(dtype).itemsize
    a, b = integers(rng, N, dtype), integers(rng, N, dtype)
    pos, n = rng.integers(0, bits + 9, N).astype("u4"), rng.integers(0, bits + 9, N).astype("u4")

    def extracted(v, p, k):
        """The pseudo-code of PTX ISA 9.7.1.16."""
        v %= 1 << bits
        top = min(p + k - 1, bits - 1)
        sign = 0 if k == 0 or dtype[0] == "u" else v >> top & 1
        return sum((v >> (p + i) & 1 if i < k and p + i < bits else sign) << i for i in range(bits))

    def inserted(v, w, p, k):
        v, w = v % (1 << bits), w % (1 << bits)
        for i in range(k):
            if p + i < bits:
                w = w & ~(1 << (p + i)) | (v >> i & 1) << (p + i)
        return w

    wanted = [extracted(int(v), int(p), int(k)) for v, p, k in zip(a, pos, n, strict=True)]
    same(elementwise(f"bfe.{KIND[dtype]} %d, %x0, %x1, %x2;", a, pos, n, result=dtype), wrapped(wanted, dtype))
    wanted = [inserted(int(v), int(w), int(p), int(k)) for v, w, p, k in zip(a, b, pos, n, strict=True)]
    same(elementwise(f"bfi.b{bits} %d, %x0, %x1, %x2, %x3;", a, b, pos, n, result=dtype), wrapped(wanted, dtype))


@pytest.mark.parametrize("dtype", ["u4", "u8"])
def test_counting_bits(dtype):
    bits = 8 * np.dtype(dtype).itemsize
    a = integers(np.random.default_rng(10), N, dtype)
    ints = [int(v) for v in a]
    same(elementwise(f"popc.b{bits} %d, %x0;", a, result="u4"), np.array([v.bit_count() for v in ints], "u4"))
    same(elementwise(f"clz.b{bits} %d, %x0;", a, result="u4"), np.array([bits - v.bit_length() for v in ints], "u4"))
    same(elementwise(f"brev.b{bits} %d, %x0;", a, result=dtype), np.array([int(f"{v:0{bits}b}"[::-1], 2) for v in ints], dtype))
    same(elementwise(f"bfind.u{bits} %d, %x0;", a, result="u4"), np.array([(v.bit_length() - 1) % 2**32 for v in ints], "u4"))
    found = [(bits - v.bit_length()) if v else 2**32 - 1 for v in ints]
    same(elementwise(f"bfind.shiftamt.u{bits} %d, %x0;", a, result="u4"), np.array(found, "u4"))
    s = [int(v) for v in a.view(f"i{bits // 8}")]
    wanted = [((~v if v < 0 else v).bit_length() - 1) % 2**32 for v in s]
    same(elementwise(f"bfind.s{bits} %d, %x0;", a, result="u4"), np.array(wanted, "u4"))


@given(st.integers(0, 255))
def test_any_function_of_three_bits(table):
    a, b, c = (integers(np.random.default_rng(i), 64, "u4") for i in range(3))
    wanted = [
        sum((table >> ((p >> i & 1) << 2 | (q >> i & 1) << 1 | r >> i & 1) & 1) << i for i in range(32))
        for p, q, r in zip(map(int, a), map(int, b), map(int, c), strict=True)
    ]
    same(elementwise(f"lop3.b32 %d, %x0, %x1, %x2, {table};", a, b, c, result="u4"), np.array(wanted, "u4"))


def test_permuted_bytes():
    rng = np.random.default_rng(11)
    a, b, c = (integers(rng, N, "u4") for _ in range(3))

    def of(p, q, code):
        source = [*p.to_bytes(4, "little"), *q.to_bytes(4, "little")]
        out = 0
        for i in range(4):
            k = code >> (4 * i) & 15
            v = source[k & 7]
            out |= (0xFF * (v >> 7) if k & 8 else v) << 8 * i
        return out

    same(
        elementwise("prmt.b32 %d, %x0, %x1, %x2;", a, b, c, result="u4"),
        np.array([of(*map(int, t)) for t in zip(a, b, c, strict=True)], "u4"),
    )
    modes = {  # PTX ISA 9.7.9.7, from the last byte to the first
        "f4e": ["3210", "4321", "5432", "6543"], "b4e": ["5670", "6701", "7012", "0123"], "rc8": ["0000", "1111", "2222", "3333"],
        "ecl": ["3210", "3211", "3222", "3333"], "ecr": ["0000", "1110", "2210", "3210"], "rc16": ["1010", "3232", "1010", "3232"],
    }  # fmt: skip
    for mode, rows in modes.items():
        wanted = [of(int(p), int(q), int(rows[int(k) & 3], 16)) for p, q, k in zip(a, b, c, strict=True)]
        same(elementwise(f"prmt.b32.{mode} %d, %x0, %x1, %x2;", a, b, c, result="u4"), np.array(wanted, "u4"))


@pytest.mark.parametrize("kinds", ["s32.s32", "u32.u32", "s32.u32", "u32.s32"])
def test_products_of_bytes(kinds):
    rng = np.random.default_rng(12)
    a, b, c = (integers(rng, N, "u4") for _ in range(3))
    ta, tb = ("i1" if k == "s32" else "u1" for k in kinds.split("."))
    p, q = a.view(ta).reshape(N, 4).astype("i8"), b.view(tb).reshape(N, 4).astype("i8")
    same(elementwise(f"dp4a.{kinds} %d, %x0, %x1, %x2;", a, b, c, result="u4"), ((p * q).sum(1) + c).astype("u4"))
    p = a.view(ta[0] + "2").reshape(N, 2).astype("i8")
    same(elementwise(f"dp2a.lo.{kinds} %d, %x0, %x1, %x2;", a, b, c, result="u4"), ((p * q[:, :2]).sum(1) + c).astype("u4"))
    same(elementwise(f"dp2a.hi.{kinds} %d, %x0, %x1, %x2;", a, b, c, result="u4"), ((p * q[:, 2:]).sum(1) + c).astype("u4"))


ORDER = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@pytest.mark.parametrize("dtype", ["i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("name", ORDER)
def test_comparisons(name, dtype):
    rng = np.random.default_rng(13)
    a, b = (floats(rng, N, dtype) if dtype[0] == "f" else integers(rng, N, dtype) for _ in range(2))
    b[::5] = a[::5]
    kind = KIND[dtype]

    def holds(p, q):
        nan = p != p or q != q
        return (not nan or name != "ne") and bool(eval(f"p {ORDER[name]} q"))

    wanted = np.array([holds(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)])
    choose = "selp.u32 %d, 1, 0, %p1;"
    same(elementwise(f"setp.{name}.{kind} %p1, %x0, %x1; {choose}", a, b, result="u4"), wanted.astype("u4"))
    negated = elementwise(f"setp.{name}.{kind} %p2|%p1, %x0, %x1; {choose}", a, b, result="u4")
    same(negated, (~wanted).astype("u4"))
    if dtype[0] == "f":
        nan = np.isnan(a) | np.isnan(b)
        same(elementwise(f"setp.{name}u.{kind} %p1, %x0, %x1; {choose}", a, b, result="u4"), (wanted | nan).astype("u4"))
    joined = elementwise(f"setp.ne.u32 %p3, %i, 7; setp.{name}.and.{kind} %p1, %x0, %x1, !%p3; {choose}", a, b, result="u4")
    same(joined, (wanted & (np.arange(N) == 7)).astype("u4"))
    same(elementwise(f"set.{name}.u32.{kind} %d, %x0, %x1;", a, b, result="u4"), np.where(wanted, 2**32 - 1, 0).astype("u4"))


def test_choices_and_kinds_of_numbers():
    rng = np.random.default_rng(14)
    a, b, c = integers(rng, N, "u4"), integers(rng, N, "u4"), integers(rng, N, "i4")
    same(elementwise("slct.u32.s32 %d, %x0, %x1, %x2;", a, b, c, result="u4"), np.where(c >= 0, a, b))
    x = floats(rng, N)
    tiny = np.float32(2.0**-126)
    for name, wanted in {
        "finite": np.isfinite(x), "infinite": np.isinf(x), "number": ~np.isnan(x), "notanumber": np.isnan(x),
        "normal": np.isfinite(x) & (np.abs(x) >= tiny), "subnormal": (x != 0) & (np.abs(x) < tiny),
    }.items():  # fmt: skip
        same(elementwise(f"testp.{name}.f32 %p1, %x0; selp.u32 %d, 1, 0, %p1;", x, result="u4"), wanted.astype("u4"))
    number = elementwise(
        "setp.num.f32 %p1, %x0, %x0; setp.nan.f32 %p2, %x0, %x0; selp.u32 %r1, 1, 0, %p1; selp.u32 %d, 2, %r1, %p2;", x, result="u4"
    )
    same(number, np.where(np.isnan(x), 2, 1).astype("u4"))


def test_moves_pack_and_unpack():
    rng = np.random.default_rng(15)
    a, b = integers(rng, N, "u4"), integers(rng, N, "u4")
    packed = elementwise("mov.b64 %d, {%x0, %x1};", a, b, result="u8")
    same(packed, b.astype("u8") << np.uint64(32) | a)
    same(elementwise("mov.b64 {%r1, %d}, %x0;", packed, result="u4"), b)
    same(elementwise("mov.b64 {_, %d}, %x0;", packed, result="u4"), b)
    same(elementwise("mov.b32 {%h1, %h2}, %x0; mov.b32 %d, {%h2, %h1};", a, result="u4"), a >> np.uint32(16) | a << np.uint32(16))
    same(elementwise("mov.b32 %d, %x0;", a, result="f4").view("u4"), a)


@pytest.mark.parametrize("to", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("of", ["i2", "u2", "i4", "u4", "i8", "u8"])
def test_integers_change_width(to, of):
    a = integers(np.random.default_rng(16), N, of)
    bits = int(to[1:])
    dtype = f"{'i' if to[0] == 's' else 'u'}{bits // 8}"
    same(elementwise(f"cvt.{to}.{KIND[of]} %d, %x0;", a, result=dtype), wrapped([int(v) for v in a], dtype))
    info = np.iinfo(dtype)
    wanted = np.array([max(info.min, min(info.max, int(v))) for v in a], dtype)
    same(elementwise(f"cvt.sat.{to}.{KIND[of]} %d, %x0;", a, result=dtype), wanted)


def test_literals():
    n = np.zeros(1, "u4")
    for text, value in {"0x1F": 31, "0b101": 5, "017": 15, "-1": 2**32 - 1, "4294967295U": 2**32 - 1, "WARP_SZ": 32}.items():
        assert elementwise(f"mov.u32 %d, {text};", n, result="u4")[0] == value
    for text, value in {"0f3F800000": 1.0, "0d3FF8000000000000": 1.5, "2.5": 2.5}.items():
        assert elementwise(f"mov.f32 %d, {text};", n, result="f4")[0] == np.float32(value)
        assert elementwise(f"add.f64 %d, {text}, 0d0000000000000000;", n, result="f8")[0] == value


# Fuzz: straight programs of integers against the same in Python.

STEPS = {
    "add.u32": lambda a, b, c: a + b, "sub.u32": lambda a, b, c: a - b, "mul.lo.u32": lambda a, b, c: a * b,
    "mul.hi.u32": lambda a, b, c: a * b >> 32, "and.b32": lambda a, b, c: a & b, "or.b32": lambda a, b, c: a | b,
    "xor.b32": lambda a, b, c: a ^ b, "min.u32": lambda a, b, c: min(a, b), "max.u32": lambda a, b, c: max(a, b),
    "mad.lo.u32": lambda a, b, c: a * b + c, "div.u32": lambda a, b, c: a // b if b else -1, "rem.u32": lambda a, b, c: a % b if b else a,
}  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), *[st.integers(0, 7)] * 4, st.booleans()), max_size=25), st.integers(0, 2**31))
def test_programs_of_integers(steps, seed):
    rng = np.random.default_rng(seed)
    a, b = integers(rng, 40, "u4"), integers(rng, 40, "u4")
    lines = [f"mov.u32 %r{i}, {'%x0' if i % 2 else '%x1'};" for i in range(8)]
    values = [[int(v) for v in (a if i % 2 else b)] for i in range(8)]
    for name, d, p, q, r, guarded in steps:
        third = f", %r{r}" if name.startswith("mad") else ""
        if guarded:
            lines.append(f"setp.lt.u32 %p1, %r{p}, %r{r};")
        lines.append(f"{'@%p1 ' if guarded else ''}{name} %r{d}, %r{p}, %r{q}{third};")
        fresh = [STEPS[name](*t) % 2**32 for t in zip(values[p], values[q], values[r], strict=True)]
        values[d] = [f if not guarded or u < w else old for f, u, w, old in zip(fresh, values[p], values[r], values[d], strict=True)]
    for i in range(8):
        same(elementwise("\n".join([*lines, f"mov.u32 %d, %r{i};"]), a, b, result="u4"), np.array(values[i], "u4"))
    tally.ran("cuda", "a random program of integers")


def test_an_unknown_instruction_is_named_with_its_line():
    from kernels.cuda.emulate import PtxError, Unsupported

    with pytest.raises(Unsupported, match=r"tcgen05\.alloc.*\n *PTX line \d+"):
        run(kernel("tcgen05.alloc.cta_group::1.sync.aligned.b32 [%r1], 32;"), None, 1, 1, [np.zeros(1)])
    with pytest.raises(PtxError, match="register %cluster_ctarank is not declared, and is no special register"):
        run(kernel("mov.u32 %r1, %cluster_ctarank;"), None, 1, 1, [np.zeros(1)])
    with pytest.raises(Unsupported, match=r"barrier\.cluster"):
        run(kernel("barrier.cluster.arrive;"), None, 1, 1, [np.zeros(1)])
    with pytest.raises(Unsupported, match=r"mma\.sync.*this form"):
        run(kernel("mma.sync.aligned.m8n8k4.row.col.f16.f16.f16.f16 {%r1,%r2},{%r1},{%r1},{%r1};"), None, 1, 32, [np.zeros(1)])
