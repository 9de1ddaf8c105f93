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
from kernels.cuda.emulate.faults import Unsupported
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


def high(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of a product."""
    if a.dtype.itemsize < 8:
        wide = f"{a.dtype.kind}{2 * a.dtype.itemsize}"
        return (a.astype(wide) * b.astype(wide) >> wide_shift(a.dtype)).astype(a.dtype)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    x0, x1, y0, y1 = x & low, x >> shift, y & low, y >> shift
    middle = x1 * y0 + (x0 * y0 >> shift)
    other = x0 * y1 + (middle & low)
    top = x1 * y1 + (middle >> shift) + (other >> shift)
    if a.dtype.kind == "i":
        top = top - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return top.view(a.dtype)


def wide_shift(dtype: np.dtype) -> Any:
    return np.array(8 * dtype.itemsize, f"{dtype.kind}{2 * dtype.itemsize}")


def product(part: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """mul.lo, mul.hi or mul.wide"""
    if part == "hi":
        return high
    if part == "lo":
        return np.multiply
    return lambda a, b: a.astype(f"{a.dtype.kind}{2 * a.dtype.itemsize}") * b.astype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Towards zero; all ones for a division by zero."""
    return np.where(b == 0, np.array(-1).astype(a.dtype), (a - np.fmod(a, b)) // np.where(b == 0, b.dtype.type(1), b))


def remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b == 0, a, np.fmod(a, b))


def clamped_sum(a: np.ndarray, b: np.ndarray, sign: int) -> np.ndarray:
    s = a.astype(np.int64) + sign * b.astype(np.int64)
    return np.clip(s, -(2**31), 2**31 - 1).astype(np.int32)


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


def sum_with_carry(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s = a + b
    r = s + c.astype(s.dtype)
    return r, (s < a) | (r < s)


def difference_with_borrow(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    d = a - b
    r = d - c.astype(d.dtype)
    return r, (a < b) | (d < r)


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


def shifted(left: bool, bits: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Shifts by more than the width give 0, or the sign."""

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        by = np.minimum(b, np.uint32(bits)).astype(a.dtype)
        return np.left_shift(a, by) if left else np.right_shift(a, by)

    return of


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


def field(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """bfe: `c` bits from bit `b` on, extended by the field's last bit if signed (PTX ISA 9.7.1.16)."""
    bits = 8 * a.dtype.itemsize
    pos, n = (b & 0xFF).astype(np.int64), (c & 0xFF).astype(np.int64)
    top = np.minimum(pos + n - 1, bits - 1)
    u = a.view(f"u{a.dtype.itemsize}")
    one = u.dtype.type(1)
    sign = np.where((n > 0) & (a.dtype.kind == "i"), (u >> top.clip(0).astype(u.dtype)) & one, u.dtype.type(0))
    mask = ones(n, u.dtype)
    d = np.where(pos < bits, u >> np.minimum(pos, bits - 1).astype(u.dtype), u.dtype.type(0))
    inside = ones(np.minimum(n, bits - pos).clip(0), u.dtype)  # bits that exist; those of the field beyond them are the sign
    return np.where(n == 0, u.dtype.type(0), (d & mask & inside) | np.where(sign == one, ~inside, u.dtype.type(0))).view(a.dtype)


def ones(n: np.ndarray, dtype: Any) -> np.ndarray:
    """The lower n bits."""
    bits = 8 * np.dtype(dtype).itemsize
    short = (np.array(1, dtype) << np.minimum(n, bits - 1).astype(dtype)) - np.array(1, dtype)
    return np.where(n >= bits, ~np.array(0, dtype), short)


@opcode("bfe")
def _(t: Translator, x: Instruction) -> str:
    dtype = dtype_of(types_of(x)[-1])
    a, b, c = t.value(x.operands[1], dtype), t.value(x.operands[2], "u4"), t.value(x.operands[3], "u4")
    return t.set(x.operands[0], f"{t.bind(field)}({a}, {b}, {c})", dtype)


def put(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """bfi: the lower `d` bits of a over those of b from bit `c` on."""
    bits = 8 * a.dtype.itemsize
    pos, n = (c & 0xFF).astype(np.int64), (d & 0xFF).astype(np.int64)
    mask = np.where(pos < bits, ones(n, a.dtype) << np.minimum(pos, bits - 1).astype(a.dtype), a.dtype.type(0))
    return (b & ~mask) | (a << np.minimum(pos, bits - 1).astype(a.dtype) & mask)


@opcode("bfi")
def _(t: Translator, x: Instruction) -> str:
    dtype = unsigned(types_of(x)[-1])
    a, b = (t.value(o, dtype) for o in x.operands[1:3])
    c, d = (t.value(o, "u4") for o in x.operands[3:5])
    return t.set(x.operands[0], f"{t.bind(put)}({a}, {b}, {c}, {d})", dtype)


def reversed_bits(a: np.ndarray) -> np.ndarray:
    bytes_ = np.unpackbits(a.view(np.uint8).reshape(a.size, -1), axis=1, bitorder="little")
    return np.packbits(bytes_[:, ::-1], axis=1, bitorder="little").reshape(-1).view(a.dtype)


def bit_length(a: np.ndarray) -> np.ndarray:
    """The number of bits up to the highest that is set."""
    n, x = np.zeros(a.shape, np.uint32), a.copy()
    for step in (32, 16, 8, 4, 2, 1):
        if step < 8 * a.dtype.itemsize:
            some = x >> a.dtype.type(step) != 0
            n[some] += np.uint32(step)
            x = np.where(some, x >> a.dtype.type(step), x)
    return n + (x != 0).astype(np.uint32)


@opcode("popc", "clz", "brev")
def _(t: Translator, x: Instruction) -> str:
    dtype = unsigned(types_of(x)[-1])
    if x.parts[0] == "brev":
        return t.call(x, reversed_bits, dtype)
    bits = np.uint32(8 * int(dtype[1:]))
    f = popcount if x.parts[0] == "popc" else lambda a: bits - bit_length(a)
    return t.call(x, f, dtype, result="u4")


def popcount(a: np.ndarray) -> np.ndarray:
    return np.unpackbits(a.view(np.uint8).reshape(a.size, -1), axis=1).sum(axis=1, dtype=np.uint32)


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


def packed(dtype: str) -> Callable[..., np.ndarray]:
    def of(*parts: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.stack(np.broadcast_arrays(*parts), axis=1)).view(dtype).reshape(-1)

    return of


def unpacked(n: int, dtype: str) -> Callable[[np.ndarray], list[np.ndarray]]:
    return lambda a: [p.copy() for p in np.ascontiguousarray(a).view(dtype).reshape(-1, n).T]


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


INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
BFLOAT = ("bf16", "bf16x2")
HALVES = ("f16", "f16x2", "bf16", "bf16x2")


def bits_of_bf16(x: np.ndarray, mode: str = "rn") -> np.ndarray:
    """A float64 (rounded to odd, or exact) as bits of bfloat16."""
    y = arithmetic.odd_to_f32(x)
    bits = y.view(np.uint32)
    if mode == "rn":
        up = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    else:
        up = bits >> np.uint32(16)
    return np.where(np.isnan(y), np.uint32(0x7FFF), up).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_f16(x: np.ndarray, mode: str = "rn") -> np.ndarray:
    y = arithmetic.narrowed(x, mode, np.float16)
    y.view(np.uint16)[np.isnan(y)] = 0x7FFF
    return y


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


def clamped(dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """An integer into the range of another type."""
    info = np.iinfo(dtype)

    def of(a: np.ndarray) -> np.ndarray:
        low, high = max(info.min, np.iinfo(a.dtype).min), min(info.max, np.iinfo(a.dtype).max)
        return np.clip(a, a.dtype.type(low), a.dtype.type(high)).astype(dtype)

    return of


def conversion(parts: list[str], to: str, of: str) -> Callable[[np.ndarray], np.ndarray]:
    """cvt where one side, or both, are floating-point numbers."""
    integral = next((INTEGRAL[p] for p in parts if p in INTEGRAL), None)
    mode = next((p for p in parts if p in ("rn", "rz", "rm", "rp", "rna")), "rn")
    flush = "ftz" in parts

    def wide(a: np.ndarray) -> np.ndarray:
        if of in BFLOAT:
            return from_bf16(a).astype(np.float64)
        if of[0] in "us":
            return arithmetic.odd(*parts_of_integer(a))
        return (arithmetic.flushed(a) if flush and of == "f32" else a).astype(np.float64)

    def result(y: np.ndarray) -> np.ndarray:
        y = np.where(y > 0, np.minimum(y, 1), 0.0) if "sat" in parts and to[0] in "fb" else y
        y = np.where(y < 0, 0.0, y) if "relu" in parts else y
        if to in ("f64",):
            return y
        if to == "f32":
            z = arithmetic.one_nan(arithmetic.narrowed(y, mode))
            return arithmetic.flushed(z) if flush else z
        if to == "f16":
            return to_f16(y, mode)
        if to == "bf16":
            return bits_of_bf16(y, mode)
        if to == "tf32":
            return tf32(y.astype(np.float32), mode)
        raise ValueError(f"cvt to {to}")

    def whole(y: np.ndarray) -> np.ndarray:
        info = np.iinfo(dtype_of(to))
        empty = 0 if of != "f64" and info.bits < 64 else (1 << info.bits - 1) if info.min == 0 else info.min
        low, high = float(info.min), float(info.max)  # the latter may round up to a power of two
        z = np.where(np.isnan(y), 0.0, y)
        inside = np.where((z >= low) & (z < high), z, 0.0).astype(dtype_of(to))
        clip = np.where(z >= high, np.array(info.max, dtype_of(to)), np.where(z < low, np.array(info.min, dtype_of(to)), inside))
        return np.where(np.isnan(y), np.array(empty, dtype_of(to)), clip)

    def convert(a: np.ndarray) -> np.ndarray:
        if of[0] in "us" and to == "f64":
            return arithmetic.stepped(*parts_of_integer(a), mode)
        y = wide(a)
        if to[0] in "us":
            return whole((integral or np.trunc)(y))
        return result(integral(y) if integral else y)

    return convert


def parts_of_integer(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An integer of any width as a float64, to nearest, and what that misses."""
    if a.dtype.itemsize < 8:
        return a.astype(np.float64), np.zeros(a.shape)
    low = (a & a.dtype.type(0xFFFFFFFF)).astype(np.float64)
    return arithmetic.two_sum((a >> a.dtype.type(32)).astype(np.float64) * 2.0**32, low)


def tf32(y: np.ndarray, mode: str = "rna") -> np.ndarray:
    """Eleven bits of precision: to nearest, ties away from zero (rna) or to even (rn), or cut (rz)."""
    bits = y.view(np.uint32)
    more = {"rna": np.uint32(0x1000), "rz": np.uint32(0), "rn": np.uint32(0xFFF) + (bits >> np.uint32(13) & np.uint32(1))}[mode]
    finite = (bits & np.uint32(0x7F800000)) != 0x7F800000
    return np.where(finite, (bits + more) & np.uint32(0xFFFFE000), np.where(np.isnan(y), np.uint32(0x7FFFFFFF), bits))


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
