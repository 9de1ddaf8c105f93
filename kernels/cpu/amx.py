"""Tiles of 16 by 16 sums in registers of their own (AMX), and the instruction that multiplies 16 rows of 16 words with 16 rows of 16 words.

    c (16, 16) += a (16, 16 words) b (16 words, 16)        words as in `words.py`: four int8 or two bfloat16

A system lends the registers on request only, once a process (`lent`). Before use they must be laid out, in each thread; after use they are
let go of, else every change of threads saves 8 KiB.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 1, ch. 18; Linux, Documentation/arch/x86/xstate.rst.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import lru_cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.features import tier
from kernels.cpu.vector import BYTE, INT, Vectors, loop
from kernels.cpu.words import BFLOAT16, QUADS

SIDE = 16  # rows of a tile, and words in a row
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18
LAYOUT = bytes([1] + [0] * 15 + [64, 0] * 8 + [0] * 16 + [SIDE] * 8 + [0] * 8)  # palette 1; bytes a row, rows, of each of 8 registers
SIGNS = ("us", "ss", "su")  # of the int8 of a and of b: unsigned, signed


@lru_cache(maxsize=1)
def lent() -> bool:
    """May this process use the registers? Asks the system at the first call."""
    if tier() != "amx" or not (QUADS and BFLOAT16):
        return False
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        return False
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0


class Matrices:
    """The instructions on the registers 0 to 7."""

    def __init__(self, builder: Any):
        self.builder = builder

    def _call(self, name: str, *values: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.x86.{name}"), values)

    def lay_out(self) -> None:
        layout = cgutils.alloca_once_value(self.builder, ir.Constant(ir.ArrayType(BYTE, 64), bytearray(LAYOUT)))
        self._call("ldtilecfg", self.builder.bitcast(layout, BYTE.as_pointer()))

    def let_go(self) -> None:
        self._call("tilerelease")

    def zero(self, register: int) -> None:
        self._call("tilezero", BYTE(register))

    def load(self, register: int, address: Any, step: Any) -> None:
        self._call("tileloadd64", BYTE(register), self.builder.inttoptr(address, BYTE.as_pointer()), step)

    def store(self, register: int, address: Any, step: Any) -> None:
        self._call("tilestored64", BYTE(register), self.builder.inttoptr(address, BYTE.as_pointer()), step)

    def dot(self, kind: str, c: int, a: int, b: int) -> None:
        self._call(f"tdp{kind}", BYTE(c), BYTE(a), BYTE(b))


@intrinsic
def lay_out(typing: Any) -> Any:
    """Before the first tile of a call."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        Matrices(builder).lay_out()
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def let_go(typing: Any) -> Any:
    """After the last tile of a call."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        Matrices(builder).let_go()
        return context.get_dummy_value()

    return types.void(), code


@intrinsic(prefer_literal=True)
def matrix_tiles(
    typing: Any, signs: Any, like: Any, a: Any, b: Any, before: Any, before_i: Any, c: Any, a_i: Any, c_i: Any, sizes: Any, add: Any
) -> Any:
    """A strip of c, up to two tiles wide, two tiles by two downwards.

    signs       a literal, the place in SIGNS: of the int8 of a and b
    a, b        addresses of words. Of a, tile beneath tile, then the two beside them, ...; a_i bytes from such a pair of tiles of rows to
                the next. Of b, rows as broad as two tiles
    c, c_i      address of c, and bytes from one row to the next
    sizes       m; how many times 16 words k has; n, up to 32
    before, before_i   as c and c_i, of what is added to
    add         false: c is the product; true: that and what was before
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        whole = isinstance(context.get_value_type(signature.args[1]), ir.IntType)
        _, _, a, b, before, before_i, c, a_i, c_i, sizes, add = values
        m, k, n = [builder.extract_value(sizes, x) for x in range(3)]
        kind = f"b{SIGNS[signs.literal_value]}d" if whole else "bf16ps"
        Corner(builder, kind, b, a_i, before_i, c_i, k, n, add).downwards(a, before, c, m)
        return context.get_dummy_value()

    return types.void(signs, like, a, b, before, before_i, c, a_i, c_i, sizes, add), code


class Corner:
    """What the tiles of a strip share. A tile that is not whole is made in a room of its own, and what there is of it copied."""

    STEP = 8 * SIDE  # bytes from one row of b, and of the room, to the next

    def __init__(self, builder: Any, kind: str, *values: Any):
        self.builder, self.kind, self.on = builder, kind, Matrices(builder)
        self.b, self.a_i, self.before_i, self.c_i, self.k, self.n, self.add = values
        room = cgutils.alloca_once(builder, ir.ArrayType(INT, self.STEP // 8 * 2 * SIDE))
        self.room = builder.ptrtoint(room, INT)

    def downwards(self, a: Any, before: Any, c: Any, m: Any) -> None:
        builder = self.builder

        def pair(i: Any, a: Any, before: Any, c: Any) -> list[Any]:
            left = builder.sub(m, i)
            rows = builder.select(builder.icmp_signed("<", left, INT(2 * SIDE)), left, INT(2 * SIDE))
            with builder.if_else(builder.icmp_signed(">", rows, INT(SIDE))) as (two, one):
                for count, some in ((2, two), (1, one)):
                    with some, builder.if_else(builder.icmp_signed(">", self.n, INT(SIDE))) as (broad, narrow):
                        with broad:
                            self.tiles(count, 2, a, before, c, rows)
                        with narrow:
                            self.tiles(count, 1, a, before, c, rows)
            down = [builder.mul(step, INT(2 * SIDE)) for step in (self.before_i, self.c_i)]
            return [builder.add(place, by) for place, by in zip((a, before, c), (self.a_i, *down), strict=True)]

        loop(builder, builder.add(m, INT(2 * SIDE - 1)), [a, before, c], pair, step=2 * SIDE)

    def tiles(self, down: int, across: int, a: Any, before: Any, c: Any, rows: Any) -> None:
        """So many tiles of c at address c, from the rows of a at address a; `rows` are there, and n columns."""
        builder, on, v = self.builder, self.on, Vectors(self.builder, INT)
        both = [builder.icmp_signed("==", size, INT(SIDE * count)) for size, count in ((rows, down), (self.n, across))]
        part = builder.not_(builder.and_(*both))
        registers = list(enumerate((i, j) for i in range(down) for j in range(across)))
        with builder.if_else(self.add) as (adding, writing):
            with adding:
                with builder.if_then(part):
                    self.copy(before, self.before_i, self.room, INT(self.STEP), rows)
                place, step = self.whole(part, before, self.before_i)
                for register, (i, j) in registers:
                    on.load(register, builder.add(place, self.corner(step, i, j)), step)
            with writing:
                for register, _ in registers:
                    on.zero(register)

        def product(_: Any, a: Any, b: Any, ahead: Any) -> list[Any]:
            for line in (0, 4 * SIDE):
                for row in range(4):
                    v.prefetch(v.plus(builder.add(ahead, builder.mul(self.c_i, INT(row))), line), writing=True)
            for j in range(across):
                on.load(6 + j, builder.add(b, INT(4 * SIDE * j)), INT(self.STEP))
            for i in range(down):
                on.load(4 + i, builder.add(a, INT(4 * SIDE * SIDE * i)), INT(4 * SIDE))
                for j in range(across):
                    on.dot(self.kind, i * across + j, 4 + i, 6 + j)
                    for line in range(j * SIDE // across, (j + 1) * SIDE // across):  # of a, what the next turn reads
                        v.prefetch(v.plus(a, SIDE * self.STEP + 4 * SIDE * (SIDE * i + line)), level=1)
            return [
                builder.add(a, INT(SIDE * self.STEP)),
                builder.add(b, INT(SIDE * self.STEP)),
                builder.add(ahead, builder.mul(self.c_i, INT(4))),
            ]

        below = builder.add(c, builder.mul(self.c_i, INT(2 * SIDE)))  # what comes next of c is fetched meanwhile
        loop(builder, self.k, [a, self.b, below], product)
        place, step = self.whole(part, c, self.c_i)
        for register, (i, j) in registers:
            on.store(register, builder.add(place, self.corner(step, i, j)), step)
        with builder.if_then(part):
            self.copy(self.room, INT(self.STEP), c, self.c_i, rows)

    def whole(self, part: Any, place: Any, step: Any) -> list[Any]:
        """Where whole tiles can be read or written, and the bytes from row to row: there, or in the room."""
        return [self.builder.select(part, x, y) for x, y in ((self.room, place), (INT(self.STEP), step))]

    def corner(self, step: Any, i: int, j: int) -> Any:
        """Bytes to the tile in row i and column j of tiles."""
        return self.builder.add(self.builder.mul(step, INT(SIDE * i)), INT(4 * SIDE * j))

    def copy(self, source: Any, source_step: Any, target: Any, target_step: Any, rows: Any) -> None:
        builder, size = self.builder, self.builder.mul(self.n, INT(4))

        def row(_: Any, here: Any, there: Any) -> list[Any]:
            cgutils.raw_memcpy(builder, *[builder.inttoptr(x, BYTE.as_pointer()) for x in (there, here)], size, 1)
            return [builder.add(here, source_step), builder.add(there, target_step)]

        loop(builder, rows, [source, target], row)
