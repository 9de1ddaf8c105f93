"""What each instruction does: opcode -> a line of Python over arrays (see `translate.py`).

Integers and bits are NumPy's own operations; floating-point numbers are those of `arithmetic.py`; memory, and what threads do together, is
the machine's. Semantics as in the PTX ISA 9.0, section 9.7, in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.cuda.emulate import arithmetic, copies, tensor, warps
from kernels.cuda.emulate.access import Access
from kernels.cuda.emulate.conversions import (
    BFLOAT,
    bits_of_bf16,
    clamped,
    conversion,
    from_bf16,
    packed,
    to_f16,
    unpacked,
)
from kernels.cuda.emulate.faults import Unsupported
from kernels.cuda.emulate.integers import (
    bit_length,
    clamped_sum,
    difference_with_borrow,
    field,
    popcount,
    product,
    put,
    quotient,
    remainder,
    reversed_bits,
    shifted,
    sum_with_carry,
)
from kernels.cuda.emulate.memory import FIRST, LOCAL, SHARED, WINDOW
from kernels.cuda.emulate.parse import SIZES, Address, Instruction, Pair, Register, Symbol, Vector
from kernels.cuda.emulate.printf import printed
from kernels.cuda.emulate.translate import BOOL, Translator, dtype_of, types_of

OPCODES: dict[str, Callable[[Translator, Instruction], str]] = {}
Line = Callable[[Translator, Instruction], str]


def opcode(*names: str) -> Callable[[Line], Line]:
    def add(build: Line) -> Line:
        OPCODES.update(dict.fromkeys(names, build))
        return build

    return add


def in_pairs(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A function of float32 on both halves of 64 bits."""

    def of(*args: np.ndarray) -> np.ndarray:
        two = [np.ascontiguousarray(np.broadcast_to(a, np.broadcast_shapes(*(b.shape for b in args)))).view(np.float32) for a in args]
        return f(*two).view(np.uint64)

    return of


def real(kind: str) -> bool:
    return kind in ("f32", "f64")


# Integers. Sums and products of the lower half are the same signed or not.


@opcode("add", "sub")
def _(t: Translator, x: Instruction) -> str:
    kind, name = types_of(x)[-1], x.parts[0]
    if real(kind):
        return t.call(x, arithmetic.function(name, x.parts, dtype_of(kind)), dtype_of(kind))
    if kind == "f32x2":
        return t.call(x, in_pairs(arithmetic.function(name, x.parts, "f4")), "u8")
    if kind in HALVES:
        return half(t, x, {"add": np.add, "sub": np.subtract}[name])
    if "sat" in x.parts:
        sign = 1 if name == "add" else -1
        return t.call(x, lambda a, b: clamped_sum(a, b, sign), "i4")
    if "cc" in x.parts:
        return carry(t, x, x.operands[1:3], None, name == "sub")
    a, b = (t.value(o, unsigned(kind)) for o in x.operands[1:])
    return t.set(x.operands[0], f"{a} {'+' if name == 'add' else '-'} {b}", unsigned(kind))


def unsigned(kind: str) -> str:
    return f"u{SIZES[kind]}"


def carry(t: Translator, x: Instruction, two: Any, first: str | None, borrow: bool = False) -> str:
    """d = a + b + carry or a - b - borrow; the carry flag is a register, CC."""
    kind = types_of(x)[-1]
    a = first or t.value(two[0], unsigned(kind))
    b = t.value(two[-1], unsigned(kind))
    f = t.bind(difference_with_borrow if borrow else sum_with_carry)
    c = "R['CC']" if x.parts[0].endswith("c") else t.constant(0, BOOL)
    keep = "R['CC']" if "cc" in x.parts else "_"
    t.homes["CC"] = BOOL
    return f"sum_, {keep} = {f}({a}, {b}, {c}); {t.set(x.operands[0], 'sum_', unsigned(kind))}"


@opcode("addc", "subc")
def _(t: Translator, x: Instruction) -> str:
    return carry(t, x, x.operands[1:3], None, x.parts[0] == "subc")


@opcode("mul", "mul24")
def _(t: Translator, x: Instruction) -> str:
    kind = types_of(x)[-1]
    if real(kind):
        return t.call(x, arithmetic.function("mul", x.parts, dtype_of(kind)), dtype_of(kind))
    if kind == "f32x2":
        return t.call(x, in_pairs(arithmetic.function("mul", x.parts, "f4")), "u8")
    if kind in HALVES:
        return half(t, x, np.multiply)
    if x.parts[0] == "mul24":
        return t.call(x, cut24(x, lambda a, b: product(x.parts[1])(a, b)), dtype_of(kind))
    part = x.parts[1]
    if part == "lo":
        a, b = (t.value(o, unsigned(kind)) for o in x.operands[1:])
        return t.set(x.operands[0], f"{a} * {b}", unsigned(kind))
    wide = f"{dtype_of(kind)[0]}{2 * SIZES[kind]}"
    return t.call(x, product(part), dtype_of(kind), result=wide if part == "wide" else None)


def cut24(x: Instruction, f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The lower 24 bits of two factors, extended by sign; of a product of 48 bits the lower 32, or the upper."""
    signed, upper = types_of(x)[-1] == "s32", x.parts[1] == "hi"

    def of(a: np.ndarray, b: np.ndarray, *c: np.ndarray) -> np.ndarray:
        p, q = (v.astype(np.int64) << 40 >> 40 if signed else v.astype(np.int64) & 0xFFFFFF for v in (a, b))
        d = (p * q >> (16 if upper else 0)).astype(a.dtype)
        return d + c[0] if c else d

    return of


@opcode("mad", "madc", "mad24")
def _(t: Translator, x: Instruction) -> str:
    kind = types_of(x)[-1]
    if real(kind):
        return t.call(x, arithmetic.function("fma", x.parts, dtype_of(kind)), dtype_of(kind))
    part = next(p for p in x.parts if p in ("lo", "hi", "wide"))
    if x.parts[0] == "mad24":
        return t.call(x, cut24(x, np.multiply), dtype_of(kind))
    a, b = (t.value(o, dtype_of(kind)) for o in x.operands[1:3])
    if part == "wide":
        wide = f"{dtype_of(kind)[0]}{2 * SIZES[kind]}"
        return t.set(x.operands[0], f"{t.bind(product('wide'))}({a}, {b}) + {t.value(x.operands[3], wide)}", wide)
    p = f"{t.bind(product(part))}({a}, {b})"
    if "cc" in x.parts or x.parts[0] == "madc":
        return carry(t, x, (x.operands[3],), f"{p}.view('{unsigned(kind)}')", False)
    if "sat" in x.parts:
        return t.set(x.operands[0], f"{t.bind(lambda p, c: clamped_sum(p, c, 1))}({p}, {t.value(x.operands[3], 'i4')})", "i4")
    return t.set(x.operands[0], f"{p} + {t.value(x.operands[3], dtype_of(kind))}", dtype_of(kind))


@opcode("fma")
def _(t: Translator, x: Instruction) -> str:
    kind = types_of(x)[-1]
    if kind in HALVES:
        return half(t, x, None)
    if kind == "f32x2":
        return t.call(x, in_pairs(arithmetic.function("fma", x.parts, "f4")), "u8")
    return t.call(x, arithmetic.function("fma", x.parts, dtype_of(kind)), dtype_of(kind), name="fma")


@opcode("div")
def _(t: Translator, x: Instruction) -> str:
    kind = types_of(x)[-1]
    if real(kind):
        return t.call(x, arithmetic.function("div", x.parts, dtype_of(kind)), dtype_of(kind))
    return t.call(x, quotient, dtype_of(kind))


@opcode("rem")
def _(t: Translator, x: Instruction) -> str:
    return t.call(x, remainder, dtype_of(types_of(x)[-1]))


@opcode("rcp", "sqrt", "rsqrt")
def _(t: Translator, x: Instruction) -> str:
    kind, name = types_of(x)[-1], x.parts[0]
    dtype = dtype_of(kind)
    if name == "rcp" and "approx" in x.parts and kind == "f64":
        return t.call(x, arithmetic.rcp_gross, dtype)
    if "approx" in x.parts:
        f = arithmetic.approximate(name)
        return t.call(x, arithmetic.ftz(f) if "ftz" in x.parts and kind == "f32" else f, dtype)
    return t.call(x, arithmetic.function(name, x.parts, dtype), dtype)


@opcode("ex2", "lg2", "sin", "cos", "tanh")
def _(t: Translator, x: Instruction) -> str:
    f = arithmetic.approximate(x.parts[0])
    kind = types_of(x)[-1]
    if kind in HALVES:
        return half(t, x, {"ex2": np.exp2, "tanh": np.tanh}[x.parts[0]])
    return t.call(x, arithmetic.ftz(f) if "ftz" in x.parts else f, "f4")


@opcode("neg", "abs")
def _(t: Translator, x: Instruction) -> str:
    kind = types_of(x)[-1]
    f = {"neg": np.negative, "abs": np.abs}[x.parts[0]]
    if real(kind):
        return t.call(x, arithmetic.ftz(f) if "ftz" in x.parts else f, dtype_of(kind))
    return half(t, x, f) if kind in HALVES else t.call(x, f, dtype_of(kind))


@opcode("min", "max")
def _(t: Translator, x: Instruction) -> str:
    kind, name = types_of(x)[-1], x.parts[0]
    if kind in HALVES:
        return half(t, x, {"min": np.fmin, "max": np.fmax}[name])
    if not real(kind):
        return t.call(x, {"min": np.minimum, "max": np.maximum}[name], dtype_of(kind))
    two = {"min": arithmetic.smaller, "max": arithmetic.larger}[name]

    def of(*args: np.ndarray) -> np.ndarray:
        bare = [np.abs(a) for a in args] if "xorsign" in x.parts else list(args)
        y = bare[0]
        for b in bare[1:]:
            y = two(y, b)
        if "NaN" in x.parts:
            y = arithmetic.one_nan(np.where(sum(np.isnan(a) for a in args) > 0, y.dtype.type(np.nan), y))
        return np.copysign(y, args[0] * np.sign(args[1])) if "xorsign" in x.parts else y

    return t.call(x, arithmetic.ftz(of) if "ftz" in x.parts else of, dtype_of(kind))


@opcode("sad")
def _(t: Translator, x: Instruction) -> str:
    return t.call(x, lambda a, b, c: c + (np.maximum(a, b) - np.minimum(a, b)), dtype_of(types_of(x)[-1]))


# Bits.


@opcode("and", "or", "xor", "not", "cnot")
def _(t: Translator, x: Instruction) -> str:
    f = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "cnot": lambda a: (a == 0).astype(a.dtype)}
    return t.call(x, f[x.parts[0]], dtype_of(types_of(x)[-1]))


@opcode("shl", "shr")
def _(t: Translator, x: Instruction) -> str:
    dtype = dtype_of(types_of(x)[-1])
    f = t.bind(shifted(x.parts[0] == "shl", 8 * int(dtype[1:])), x.parts[0])
    return t.set(x.operands[0], f"{f}({t.value(x.operands[1], dtype)}, {t.value(x.operands[2], 'u4')})", dtype)


@opcode("shf")
def _(t: Translator, x: Instruction) -> str:
    left, wrap = x.parts[1] == "l", x.parts[2] == "wrap"

    def of(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        n = (c & np.uint32(31) if wrap else np.minimum(c, np.uint32(32))).astype(np.uint64)
        both = b.astype(np.uint64) << np.uint64(32) | a
        return ((both << n >> np.uint64(32)) if left else both >> n).astype(np.uint32)

    return t.call(x, of, "u4")


@opcode("bfe")
def _(t: Translator, x: Instruction) -> str:
    dtype = dtype_of(types_of(x)[-1])
    a, b, c = t.value(x.operands[1], dtype), t.value(x.operands[2], "u4"), t.value(x.operands[3], "u4")
    return t.set(x.operands[0], f"{t.bind(field)}({a}, {b}, {c})", dtype)


@opcode("bfi")
def _(t: Translator, x: Instruction) -> str:
    dtype = unsigned(types_of(x)[-1])
    a, b = (t.value(o, dtype) for o in x.operands[1:3])
    c, d = (t.value(o, "u4") for o in x.operands[3:5])
    return t.set(x.operands[0], f"{t.bind(put)}({a}, {b}, {c}, {d})", dtype)


@opcode("popc", "clz", "brev")
def _(t: Translator, x: Instruction) -> str:
    dtype = unsigned(types_of(x)[-1])
    if x.parts[0] == "brev":
        return t.call(x, reversed_bits, dtype)
    bits = np.uint32(8 * int(dtype[1:]))
    f = popcount if x.parts[0] == "popc" else lambda a: bits - bit_length(a)
    return t.call(x, f, dtype, result="u4")


@opcode("bfind")
def _(t: Translator, x: Instruction) -> str:
    dtype = dtype_of(types_of(x)[-1])
    bits = 8 * int(dtype[1:])

    def of(a: np.ndarray) -> np.ndarray:
        a = np.where(a < 0, ~a, a) if a.dtype.kind == "i" else a
        n = bit_length(a.view(f"u{a.dtype.itemsize}")) - np.uint32(1)
        return np.where(n == 0xFFFFFFFF, n, np.uint32(bits - 1) - n) if "shiftamt" in x.parts else n

    return t.call(x, of, dtype, result="u4")


@opcode("prmt")
def _(t: Translator, x: Instruction) -> str:
    mode = x.parts[2] if len(x.parts) > 2 else ""

    def of(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        both, c = np.broadcast_arrays(both, c)
        source = np.ascontiguousarray(both).view(np.uint8).reshape(both.size, 8)
        s = (c & 3).astype(np.int64)[:, None]
        k = np.arange(4)
        if mode == "":
            code = (c[:, None] >> (4 * k).astype(np.uint32)) & np.uint32(15)
            byte = np.take_along_axis(source, (code & 7).astype(np.int64), 1)
            sign = np.where(byte & 0x80, np.uint8(0xFF), np.uint8(0))
            return np.ascontiguousarray(np.where(code & 8, sign, byte)).view(np.uint32).reshape(-1)
        pick = {
            "f4e": s + k,
            "b4e": (s - k) % 8,
            "rc8": s + 0 * k,
            "ecl": np.maximum(k, s),
            "ecr": np.minimum(k, s),
            "rc16": (s & 1) * 2 + k % 2,
        }[mode]
        return np.ascontiguousarray(np.take_along_axis(source, pick, 1)).view(np.uint32).reshape(-1)

    return t.call(x, of, "u4")


@opcode("lop3")
def _(t: Translator, x: Instruction) -> str:
    """Any function of three bits, by its table of eight."""
    table = x.operands[4].value  # type: ignore[union-attr]

    def of(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        y = np.zeros_like(a & b & c)
        for i in range(8):
            if table >> i & 1:
                y = y | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
        return y

    arguments = ", ".join(t.value(o, "u4") for o in x.operands[1:4])
    return t.set(x.operands[0], f"{t.bind(of)}({arguments})", "u4")


@opcode("dp4a", "dp2a")
def _(t: Translator, x: Instruction) -> str:
    a_kind, b_kind = types_of(x)[-2:]
    ta, tb = ("i1" if k == "s32" else "u1" for k in (a_kind, b_kind))
    four = x.parts[0] == "dp4a"
    hi = "hi" in x.parts

    def of(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        p = a.view(ta if four else ta[0] + "2").reshape(a.size, -1).astype(np.int64)
        q = b.view(tb).reshape(b.size, -1).astype(np.int64)
        q = q if four else q[:, 2:] if hi else q[:, :2]
        return (c.astype(np.int64) + (p * q).sum(axis=1)).astype(np.uint32)

    return t.call(x, of, "u4")


# Comparisons and choices.

COMPARE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
UNORDERED: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "ne": lambda a, b: (a < b) | (a > b), "equ": lambda a, b: ~((a < b) | (a > b)), "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b), "gtu": lambda a, b: ~(a <= b), "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}  # fmt: skip
JOIN = {"and": "&", "or": "|", "xor": "^"}


def comparison(t: Translator, x: Instruction, kind: str) -> str:
    """The expression a cmp b."""
    if kind in ("bf16", "bf16x2", "f16x2"):
        raise ValueError(f"a comparison of {kind}")
    f = UNORDERED.get(x.parts[1]) if kind[0] == "f" else None
    f = f or COMPARE[x.parts[1]]
    if "ftz" in x.parts and kind == "f32":
        f = flushed_first(f)
    a, b = (t.value(o, dtype_of(kind)) for o in x.operands[1:3])
    return f"{t.bind(f, x.parts[1])}({a}, {b})"


def flushed_first(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda a, b: f(arithmetic.flushed(a), arithmetic.flushed(b))


@opcode("setp")
def _(t: Translator, x: Instruction) -> str:
    kind = types_of(x)[-1]
    yes = comparison(t, x, kind)
    join = next((JOIN[p] for p in x.parts if p in JOIN), None)
    third = t.value(x.operands[3], BOOL) if len(x.operands) > 3 else None

    def joined(e: str) -> str:
        return f"({e}) {join} {third}" if join else e

    if isinstance(x.operands[0], Pair):
        first, second = x.operands[0].first, x.operands[0].second
        return f"yes_ = {yes}; {t.set(first, joined('yes_'), BOOL)}; {t.set(second, joined('~yes_'), BOOL)}"
    return t.set(x.operands[0], joined(yes), BOOL)


@opcode("set")
def _(t: Translator, x: Instruction) -> str:
    result, kind = types_of(x)[-2:]
    join = next((JOIN[p] for p in x.parts if p in JOIN), None)
    yes = comparison(t, x, kind) + (f" {join} {t.value(x.operands[3], BOOL)}" if join else "")
    true = t.bind(np.array([1.0], "f4")) if result == "f32" else t.constant(-1, unsigned(result))
    dtype = "f4" if result == "f32" else unsigned(result)
    return t.set(x.operands[0], f"where({yes}, {true}, {true} * 0)", dtype)


@opcode("selp")
def _(t: Translator, x: Instruction) -> str:
    dtype = dtype_of(types_of(x)[-1])
    a, b = (t.value(o, dtype) for o in x.operands[1:3])
    return t.set(x.operands[0], f"where({t.value(x.operands[3], BOOL)}, {a}, {b})", dtype)


@opcode("slct")
def _(t: Translator, x: Instruction) -> str:
    kind, by = types_of(x)[-2:]
    a, b = (t.value(o, unsigned(kind)) for o in x.operands[1:3])
    return t.set(x.operands[0], f"where({t.value(x.operands[3], dtype_of(by))} >= 0, {a}, {b})", unsigned(kind))


@opcode("testp")
def _(t: Translator, x: Instruction) -> str:
    kind = types_of(x)[-1]
    tiny = np.finfo(dtype_of(kind)).tiny
    f = {
        "finite": np.isfinite, "infinite": np.isinf, "number": lambda a: ~np.isnan(a), "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= tiny), "subnormal": lambda a: (a != 0) & (np.abs(a) < tiny),
    }[x.parts[1]]  # fmt: skip
    return t.call(x, f, dtype_of(kind), result=BOOL)


@opcode("copysign")
def _(t: Translator, x: Instruction) -> str:
    return t.call(x, lambda a, b: np.copysign(b, a), dtype_of(types_of(x)[-1]))


# Moves and conversions.


@opcode("mov")
def _(t: Translator, x: Instruction) -> str:
    d, s = x.operands
    kind = types_of(x)[-1]
    if isinstance(s, Vector):
        part = f"u{SIZES[kind] // len(s.items)}"
        parts = ", ".join(t.value(o, part) for o in s.items)
        return t.set(d, f"{t.bind(packed(unsigned(kind)))}({parts})", unsigned(kind))
    if isinstance(d, Vector):
        part = f"u{SIZES[kind] // len(d.items)}"
        lines = [f"parts_ = {t.bind(unpacked(len(d.items), part))}({t.value(s, unsigned(kind))})"]
        return "; ".join(lines + [t.set(o, f"parts_[{i}]", part) for i, o in enumerate(d.items)])
    return t.set(d, t.value(s, dtype_of(kind)), dtype_of(kind))


@opcode("cvta")
def _(t: Translator, x: Instruction) -> str:
    """Between a state space and generic addresses: windows of shared and local memory begin at a multiple of 2^36."""
    dtype = unsigned(types_of(x)[-1])
    window = SHARED if any(p.startswith("shared") for p in x.parts) else LOCAL if "local" in x.parts else 0
    base = t.constant((window << WINDOW) % (1 << 8 * int(dtype[1:])), dtype)
    sign = "-" if "to" in x.parts else "+"
    value = t.value(x.operands[1], dtype)
    return t.set(x.operands[0], f"{value} {sign} {base}" if window else value, dtype)


@opcode("isspacep")
def _(t: Translator, x: Instruction) -> str:
    a = f"({t.value(x.operands[1], 'u8')} >> {t.constant(WINDOW, 'u8')})"
    test = {"shared": f"{a} == {SHARED}", "local": f"{a} == {LOCAL}", "global": f"{a} >= {FIRST}", "const": f"{a} < 0"}
    return t.set(x.operands[0], test[x.parts[1].split("_")[0]], BOOL)


HALVES = ("f16", "f16x2", "bf16", "bf16x2")


def half(t: Translator, x: Instruction, f: Callable[..., np.ndarray] | None) -> str:
    """f16, bf16 and pairs of them: in float64, rounded once."""
    kind = types_of(x)[-1]
    brain, two = kind.startswith("bf"), kind.endswith("x2")

    def of(*args: np.ndarray) -> np.ndarray:
        wide = [w.astype(np.float64) for w in (from_bf16(halves(a)) if brain else halves(a).view(np.float16) for a in args)]
        wide = [w.reshape(-1) for w in np.broadcast_arrays(*wide)]
        if f is None:
            y = arithmetic.odd(*arithmetic.rest_of("fma", tuple(wide)))
        elif f in (np.add, np.subtract):
            y = arithmetic.odd(*arithmetic.rest_of("add" if f is np.add else "sub", tuple(wide)))
        else:
            y = f(*wide)
        y = np.where(y > 0, np.minimum(y, 1), 0.0) if "sat" in x.parts else np.where(y < 0, 0.0, y) if "relu" in x.parts else y
        bits = bits_of_bf16(y) if brain else to_f16(y).view(np.uint16)
        return np.ascontiguousarray(bits).view(np.uint32).reshape(-1) if two else bits.reshape(-1)

    def halves(a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a).view(np.uint16).reshape(a.size, -1)

    return t.call(x, of, unsigned(kind))


@opcode("cvt")
def _(t: Translator, x: Instruction) -> str:
    to, of = types_of(x)[:2]
    if len(x.operands) == 3:
        return two_halves(t, x, to)
    value = t.value(x.operands[1], dtype_of(of))
    result = dtype_of(to)
    if of[0] in "usb" and to[0] in "us" and to not in BFLOAT and of not in BFLOAT:
        e = f"{t.bind(clamped(result))}({value})" if "sat" in x.parts else f"{value}.astype({result!r})"
        return t.set(x.operands[0], value if result == dtype_of(of) else e, result)
    return t.set(x.operands[0], f"{t.bind(conversion(x.parts, to, of), 'cvt')}({value})", result)


def two_halves(t: Translator, x: Instruction, to: str) -> str:
    """cvt.rn.f16x2.f32 d, a, b: a goes to the upper half."""
    f = conversion(x.parts, to.removesuffix("x2"), "f32")
    a, b = (t.value(o, "f4") for o in x.operands[1:3])
    both = t.bind(packed("u4"))
    g = t.bind(lambda v: f(v).view(np.uint16))
    return t.set(x.operands[0], f"{both}({g}({b}), {g}({a}))", "u4")


# Memory.

QUIET = (
    "prefetch",
    "prefetchu",
    "membar",
    "fence",
    "discard",
    "applypriority",
    "nanosleep",
    "griddepcontrol",
    "brkpt",
    "pmevent",
    "setmaxnreg",
)


@opcode(*QUIET)
def _(t: Translator, x: Instruction) -> str:
    """What changes no result here: hints, and orders between accesses that are in order anyway."""
    return "pass"


def space_of(x: Instruction) -> str:
    spaces = ("global", "shared", "local", "const", "param")
    return next((s for s in spaces for p in x.parts[1:] if p == s or p.startswith(s + "_")), "generic")


def plain(x: Instruction) -> str:
    """The type of an access that is neither in the background nor of several blocks."""
    if {"async", "bulk", "multimem", "shared_cluster"} & set(x.parts):
        raise Unsupported(x)
    return types_of(x)[-1]


@opcode("ld", "ldu")
def _(t: Translator, x: Instruction) -> str:
    d, where = x.operands[:2]
    kind = plain(x)
    items = d.items if isinstance(d, Vector) else (d,)
    assert isinstance(where, Address)
    if space_of(x) == "param":
        return parameter(t, x, items, where, kind)
    access = Access(x, space_of(x), SIZES[kind], len(items), where.offset)
    load = t.bind(access.load(dtype_of(kind)), "load")
    address = address_of(t, where)
    if len(items) == 1:
        return t.set(items[0], f"{load}(R, {address})", dtype_of(kind))
    return "; ".join([f"got_ = {load}(R, {address})", *(t.set(o, f"got_[{i}]", dtype_of(kind)) for i, o in enumerate(items))])


def address_of(t: Translator, where: Address) -> str:
    """The base of an address as int64, its offset not added."""
    if isinstance(where.base, Register):
        home = t.home(where.base.name)
        return f"R[{where.base.name!r}].view('i8')" if home == "u8" else f"R[{where.base.name!r}].astype('i8')"
    return t.value(where.base, "i8")


def slot(name: str, offset: int) -> str:
    """The register that stands for a parameter of a call."""
    return f"{name}[{offset}]"


def parameter(t: Translator, x: Instruction, items: Any, where: Address, kind: str) -> str:
    """A parameter of the kernel, which is fixed for a run, or one of a call that was put in place."""
    if not isinstance(where.base, Symbol):
        raise Unsupported(x, "parameters are read by name only")
    name, lines = where.base.name, []
    for i, o in enumerate(items):
        offset = where.base.offset + where.offset + i * SIZES[kind]
        own = any(p.name == name for p in t.kernel.parameters)
        register = t.fixed_as("parameter", name, offset, dtype_of(kind)) if own else slot(name, offset)
        lines.append(t.set(o, t.value(Register(register), dtype_of(kind)), dtype_of(kind)))
    return "; ".join(lines)


@opcode("st")
def _(t: Translator, x: Instruction) -> str:
    where, s = x.operands[:2]
    kind = plain(x)
    items = s.items if isinstance(s, Vector) else (s,)
    assert isinstance(where, Address)
    if space_of(x) == "param":
        lines = []
        for i, o in enumerate(items):
            name = slot(where.base.name, where.base.offset + where.offset + i * SIZES[kind])  # type: ignore[union-attr]
            t.homes[name] = dtype_of(kind)
            lines.append(t.set(Register(name), t.value(o, dtype_of(kind)), dtype_of(kind)))
        return "; ".join(lines)
    access = Access(x, space_of(x), SIZES[kind], len(items), where.offset)
    values = ", ".join(t.value(o, dtype_of(kind)) for o in items)
    return f"{t.bind(access.store(dtype_of(kind)), 'store')}(R, {address_of(t, where)}, {values})"


@opcode("atom", "red")
def _(t: Translator, x: Instruction) -> str:
    kind, red = plain(x), x.parts[0] == "red"
    where, *rest = x.operands if red else x.operands[1:]
    assert isinstance(where, Address)
    op = next(p for p in x.parts if p in ("add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"))
    access = Access(x, space_of(x), SIZES[kind], 1, where.offset)
    values = ", ".join(t.value(o, dtype_of(kind)) for o in rest)
    e = f"{t.bind(access.atomic(op, kind), op)}(R, {address_of(t, where)}, {values})"
    return e if red else t.set(x.operands[0], e, dtype_of(kind))


# What the threads of a warp do together.


@opcode("shfl")
def _(t: Translator, x: Instruction) -> str:
    d = x.operands[0]
    first, second = (d.first, d.second) if isinstance(d, Pair) else (d, Register("_"))
    a, b, c, mask = (t.value(o, "u4") for o in (*x.operands[1:4], x.operands[4]))
    f = t.bind(warps.shuffle(x, next(p for p in x.parts if p in ("up", "down", "bfly", "idx"))))
    return f"got_, there_ = {f}(R, {a}, {b}, {c}, {mask}); {t.set(first, 'got_', 'u4')}; {t.set(second, 'there_', BOOL)}"


@opcode("vote")
def _(t: Translator, x: Instruction) -> str:
    mode = next(p for p in x.parts if p in ("all", "any", "uni", "ballot"))
    f = t.bind(warps.vote(x, mode))
    e = f"{f}(R, {t.value(x.operands[1], BOOL)}, {t.value(x.operands[2], 'u4')})"
    return t.set(x.operands[0], e, "u4" if mode == "ballot" else BOOL)


@opcode("match")
def _(t: Translator, x: Instruction) -> str:
    kind = unsigned(types_of(x)[-1])
    f = t.bind(warps.match(x, "all" in x.parts))
    e = f"{f}(R, {t.value(x.operands[1], kind)}, {t.value(x.operands[2], 'u4')})"
    if isinstance(x.operands[0], Pair):
        return f"got_, all_ = {e}; {t.set(x.operands[0].first, 'got_', 'u4')}; {t.set(x.operands[0].second, 'all_', BOOL)}"
    return t.set(x.operands[0], f"{e}[0]", "u4")


@opcode("activemask")
def _(t: Translator, x: Instruction) -> str:
    return t.set(x.operands[0], f"{t.bind(warps.active)}(R)", "u4")


@opcode("redux")
def _(t: Translator, x: Instruction) -> str:
    op = next(p for p in x.parts if p in ("add", "min", "max", "and", "or", "xor"))
    dtype = dtype_of(types_of(x)[-1])
    f = t.bind(warps.reduce(x, op))
    return t.set(x.operands[0], f"{f}(R, {t.value(x.operands[1], dtype)}, {t.value(x.operands[2], 'u4')})", dtype)


@opcode("elect")
def _(t: Translator, x: Instruction) -> str:
    d = x.operands[0]
    assert isinstance(d, Pair)
    e = f"got_, mine_ = {t.bind(warps.elect(x))}(R, {t.value(x.operands[1], 'u4')})"
    return f"{e}; {t.set(d.first, 'got_', 'u4')}; {t.set(d.second, 'mine_', BOOL)}"


@opcode("bar")
def _(t: Translator, x: Instruction) -> str:
    """bar.warp.sync; barriers of a block are the machine's."""
    return f"{t.bind(warps.meet(x))}(R, {t.value(x.operands[0], 'u4')})"


@opcode("call")
def _(t: Translator, x: Instruction) -> str:
    name = next((o.name for o in x.operands if isinstance(o, Symbol)), "")
    given = x.operands[-1].items if isinstance(x.operands[-1], Vector) else ()
    if name == "vprintf":
        address, buffer = (t.value(Register(slot(o.name, 0)), "i8") for o in given)  # type: ignore[union-attr]
        result = slot(x.operands[0].items[0].name, 0)  # type: ignore[union-attr]
        t.homes[result] = "u4"
        return f"{t.bind(printed)}(R, {address}, {buffer}); R[{result!r}] = {t.constant(0, 'u4')}"
    raise Unsupported(x, f"it calls {name or 'a pointer'}, of which this text has no body")


# Tensor cores, and copies in the background.


@opcode("mma")
def _(t: Translator, x: Instruction) -> str:
    kinds = types_of(x)[-4:]
    f = t.bind(tensor.multiply_add(x, kinds), "mma")
    dtypes = [dtype_of(k) if SIZES[k] >= 4 and k != "tf32" else "u4" for k in kinds]
    groups = [(o.items if isinstance(o, Vector) else (o,)) for o in x.operands]
    given = ", ".join(t.value(o, d) for group, d in zip(groups[1:], dtypes[1:], strict=True) for o in group)
    lines = [f"got_ = {f}(R, {given})", *(t.set(o, f"got_[{i}]", dtypes[0]) for i, o in enumerate(groups[0]))]
    return "; ".join(lines)


@opcode("ldmatrix", "stmatrix")
def _(t: Translator, x: Instruction) -> str:
    if "m8n8" not in x.parts or "b16" not in x.parts:
        raise ValueError("8 by 8 matrices of 16 bits only")
    count = next(int(p[1]) for p in x.parts if p in ("x1", "x2", "x4"))
    load = x.parts[0] == "ldmatrix"
    registers, where = x.operands if load else x.operands[::-1]
    items = registers.items if isinstance(registers, Vector) else (registers,)
    assert isinstance(where, Address)
    if load:
        f = t.bind(tensor.load_matrices(x, count, where.offset), "ldmatrix")
        return "; ".join([f"got_ = {f}(R, {address_of(t, where)})", *(t.set(o, f"got_[{i}]", "u4") for i, o in enumerate(items))])
    f = t.bind(tensor.store_matrices(x, count, where.offset), "stmatrix")
    return f"{f}(R, {address_of(t, where)}, {', '.join(t.value(o, 'u4') for o in items)})"


@opcode("cp")
def _(t: Translator, x: Instruction) -> str:
    if x.parts[1] != "async" or any(p in ("bulk", "mbarrier", "reduce") for p in x.parts):
        raise Unsupported(x)
    if "commit_group" in x.parts:
        return "R.machine.copies.close(R)"
    if "wait_group" in x.parts or "wait_all" in x.parts:
        left = x.operands[0].value if "wait_group" in x.parts else -1  # type: ignore[union-attr]
        return f"R.machine.copies.wait(R, {left})"
    to, of, size = x.operands[:3]
    assert isinstance(to, Address) and isinstance(of, Address)
    f = t.bind(copies.start(x, size.value, to.offset, of.offset))  # type: ignore[union-attr]
    extra = x.operands[3] if len(x.operands) > 3 and not any("cache_hint" in p for p in x.parts) else size
    if isinstance(extra, Register) and t.home(extra.name) == BOOL:
        raise ValueError("ignore-src")
    return f"{f}(R, {address_of(t, to)}, {address_of(t, of)}, {t.value(extra, 'u4')})"
