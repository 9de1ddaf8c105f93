"""PTX by hand: a kernel around a few lines, one thread an element; and exact rounding to hold results to."""

import math
import struct
from fractions import Fraction

import numpy as np

from kernels.cuda.emulate import run

HEAD = ".version 8.7\n.target {target}\n.address_size 64\n"
REGISTERS = """
.reg .pred %p<9>;
.reg .b16 %h<40>;
.reg .b32 %r<60>;
.reg .f32 %f<40>;
.reg .b64 %q<60>;
.reg .f64 %g<40>;
"""
KIND = {
    "f4": "f32",
    "f8": "f64",
    "i4": "s32",
    "u4": "u32",
    "i8": "s64",
    "u8": "u64",
    "i2": "s16",
    "u2": "u16",
    "i1": "s8",
    "u1": "u8",
    "f2": "b16",
}
LETTER = {
    "f4": "%f",
    "f8": "%g",
    "i4": "%r",
    "u4": "%r",
    "i8": "%q",
    "u8": "%q",
    "i2": "%h",
    "u2": "%h",
    "i1": "%h",
    "u1": "%h",
    "f2": "%h",
}


def code_of(dtype):
    return np.dtype(dtype).str[1:]


def kernel(body, arrays=1, scalars=(), declared="", target="sm_90", bounds=""):
    """A kernel over arrays of one axis: the address of array i is %a{i}, its length %n{i}; the thread of the grid is %i (32 bits)."""
    names = [f".param .u64 p{i}_{j}" for i in range(arrays) for j in range(7)] + [f".param .{kind} s{i}" for i, kind in enumerate(scalars)]
    loads = "".join(f".reg .b64 %a{i}, %n{i}; ld.param.u64 %a{i}, [p{i}_4]; ld.param.u64 %n{i}, [p{i}_2];\n" for i in range(arrays))
    return f"""{HEAD.format(target=target)}{declared}
.visible .entry kernel({", ".join(names)}) {bounds}
{{
{REGISTERS}
.reg .b32 %i, %tid, %ntid, %cta; .reg .b64 %j;
{loads}
mov.u32 %tid, %tid.x; mov.u32 %ntid, %ntid.x; mov.u32 %cta, %ctaid.x;
mad.lo.s32 %i, %cta, %ntid, %tid;
cvt.u64.u32 %j, %i;
{body}
ret;
}}
"""


def elementwise(lines, *operands, result):
    """`lines` for each element: operand i is in register %x{i}, what is left in %d is returned as an array of `result`."""
    operands = [np.ascontiguousarray(x) for x in operands]
    n = operands[0].size
    text, types = [], [code_of(x.dtype) for x in operands]
    out = np.zeros(n, result)
    for i, t in enumerate([*types, code_of(result)]):
        width = np.dtype(t).itemsize
        text.append(f"mad.lo.s64 %q{50 + i}, %j, {width}, %a{i};")
        name = "%d" if i == len(types) else f"%x{i}"
        text.append(f".reg .{ {'f4': 'f32', 'f8': 'f64'}.get(t, f'b{max(16, 8 * width)}') } {name};")
        if i < len(types):
            text.append(f"ld.global.{KIND[t]} {name}, [%q{50 + i}];")
    text += [lines, f"st.global.{KIND[code_of(result)]} [%q{50 + len(types)}], %d;"]
    run(kernel("\n".join(text), len(operands) + 1), None, 1, n, [*operands, out])
    return out


SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    3.0,
    math.inf,
    -math.inf,
    math.nan,
    2.0**-126,
    -(2.0**-149),
    2.0**-130,
    3.4028235e38,
    -3.4028235e38,
    1 / 3,
    2.0**24 + 2,
]


def floats(rng, n, dtype="f4"):
    """Numbers of every magnitude, with the special ones among them."""
    dtype = np.dtype(dtype)
    bits = rng.integers(0, 1 << 63, n, dtype=np.uint64) * np.uint64(2) + rng.integers(0, 2, n, dtype=np.uint64)
    any_bits = (bits >> np.uint64(64 - 8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype)
    with np.errstate(all="ignore"):
        near = (rng.normal(size=n) * 2.0 ** rng.integers(-4, 5, n)).astype(dtype)
        x = np.where(rng.random(n) < 0.3, any_bits, near).astype(dtype)
        some = rng.random(n) < 0.25
        x[some] = rng.choice(np.array(SPECIAL, dtype), some.sum())
    return x


def integers(rng, n, dtype):
    """Integers of every magnitude, the ends of the range among them."""
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True)
    small = rng.random(n) < 0.4
    x[small] = rng.integers(max(info.min, -9), 10, small.sum()).astype(dtype)
    ends = rng.random(n) < 0.2
    x[ends] = rng.choice(np.array([info.min, info.max, 0, 1, info.min + 1], dtype), ends.sum())
    return x


FORMATS = {
    "f2": (11, -24, 16),
    "f4": (24, -149, 128),
    "f8": (53, -1074, 1024),
    "bf16": (8, -133, 128),
}  # bits, unit of the smallest, 2^ of the largest


def rounded(x, form, mode="rn"):
    """A Fraction, or a float that is not finite, rounded to a format in a direction, as a Python float."""
    if not isinstance(x, Fraction):
        return x
    if x == 0:
        return 0.0
    bits, least, top = FORMATS[form]
    size = abs(x)
    power = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** power > size:
        power -= 1
    unit = Fraction(2) ** max(power - bits + 1, least)
    whole, rest = divmod(size, unit)
    up = {
        "rn": rest * 2 > unit or (rest * 2 == unit and whole % 2),
        "rz": False,
        "rm": x < 0 and rest,
        "rp": x > 0 and rest,
        "rna": rest * 2 >= unit,
    }[mode]
    whole += bool(up)
    value = whole * unit
    if value >= Fraction(2) ** top:
        largest = (Fraction(2) ** bits - 1) * Fraction(2) ** (top - bits)
        inward = mode == "rz" or (mode == "rm" and x > 0) or (mode == "rp" and x < 0)
        value = largest if inward else math.inf
    return math.copysign(float(value), -1 if x < 0 else 1)


def exact(f, *args):
    """f of numbers as Fractions where all are finite; f of floats otherwise."""
    if all(math.isfinite(a) for a in args):
        return f(*map(Fraction, args))
    with np.errstate(all="ignore"):
        return float(f(*[np.float64(a) for a in args]))


def same(got, wanted):
    """Equal numbers, signs of zeros included; NaN where NaN."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    nan = np.isnan(wanted)
    bits = f"u{got.dtype.itemsize}"
    wrong = np.flatnonzero((got.view(bits) != wanted.view(bits)) & ~(nan & np.isnan(got)))
    assert not wrong.size, f"at {wrong[:5]}: got {got[wrong[:5]]}, wanted {wanted[wrong[:5]]} ({wrong.size} of {got.size})"


def half_bits(x, form):
    """A Python float that a short format holds, as its bits."""
    if form == "f2":
        return int(np.float16(x).view(np.uint16))
    return struct.unpack("<I", struct.pack("<f", x))[0] >> 16
