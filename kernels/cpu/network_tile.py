"""What a network of codes (`network.py`) is made of: tiles of sums, sums to cells, and squares of bytes that are turned over.

A cell is a code as the processor multiplies it, a whole number from 0 up: an unsigned byte where a word has four numbers (`words.py`), else
16 bits. Addresses are integers, steps are bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir
from numba import int32, types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.features import registers
from kernels.cpu.requantise import FP32, ONCE, POW2, Q31_DOUBLE
from kernels.cpu.tile import transposed
from kernels.cpu.unit import unit
from kernels.cpu.vector import BYTE, INT, Vectors, loop
from kernels.cpu.words import QUADS, WORD, Words

CELL = np.dtype(np.uint8 if QUADS else np.int16)
SIZE = CELL.itemsize
ROWS = 12 if registers() >= 32 else 4  # windows in a tile: a multiple of four, for those that are pooled
PHASES = 4  # words at once for a single window, whose few sums would wait for one another
SIDE = 16  # bytes of a square that is turned over


@intrinsic(prefer_literal=True)
def products(
    typing: Any, rows: Any, vecs: Any, phases: Any, like: Any, x: Any, windows: Any, offsets: Any, w: Any, starts: Any, words: Any,
    sums: Any, tiles: Any,
) -> Any:  # fmt: skip
    """The sums of some tiles, `rows` windows by `vecs` vectors of filters each.

    rows, vecs, phases   literals; of the words of a window so many are multiplied side by side: they are a multiple of it
    x, windows           where pictures begin, and the address of the windows' offsets from there, 32 bits each
    offsets              address of the words' offsets from a window, 64 bits each
    w, starts            addresses of weights, and of what the sums begin with
    sums                 where the sums go, row after row
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Words(builder, context.get_value_type(signature.args[3]))
        tall, wide, many = (literal.literal_value for literal in (rows, vecs, phases))
        _, _, _, _, x, windows, offsets, w, starts, words, sums, tiles = values

        def tile(_: Any, window: Any, to: Any) -> list[Any]:
            places = [builder.add(x, loaded(builder, v.plus(window, 4 * row), 32)) for row in range(tall)]

            def word(k: Any, offset: Any, w: Any, *sums: Any) -> list[Any]:
                after = list(sums)
                for phase in range(many):
                    step = loaded(builder, v.plus(offset, 8 * phase), 64)
                    right = [v.load(v.plus(w, (phase * wide + i) * v.bytes)) for i in range(wide)]
                    for row, place in enumerate(places):
                        left, at = spread_word(v, builder.add(place, step)), (phase * tall + row) * wide
                        some = [v.fused(left, right[i], after[at + i]) for i in range(wide)]
                        after[at : at + wide] = v.settled(some) if wide > 1 else some
                return [v.plus(offset, 8 * many), v.plus(w, many * wide * v.bytes), *after]

            begin = [v.load(v.plus(starts, i * v.bytes)) for i in range(wide)]
            none = [v.zero] * (tall * wide * (many - 1))
            _, (_, _, *found) = loop(builder, words, [offsets, w, *begin * tall, *none], word, step=many)
            for at in range(tall * wide):
                v.store(reduce(builder.add, found[at :: tall * wide]), v.plus(to, at * v.bytes))
            return [v.plus(window, 4 * tall), v.plus(to, tall * wide * v.bytes)]

        loop(builder, tiles, [windows, sums], tile)
        return context.get_dummy_value()

    return types.void(rows, vecs, phases, like, x, windows, offsets, w, starts, words, sums, tiles), code


def spread_word(v: Any, place: Any) -> Any:
    """A word at any address, in every lane."""
    word = v.builder.load(v.pointer(place, WORD))
    word.align = 1
    return v._spread(word, v.type)


def loaded(builder: Any, place: Any, bits: int) -> Any:
    """A signed number at an address, as one of 64 bits."""
    found = builder.load(builder.inttoptr(place, ir.IntType(bits).as_pointer()))
    return found if bits == 64 else builder.sext(found, INT)


@intrinsic(prefer_literal=True)
def finished(
    typing: Any, rule: Any, pooled: Any, like: Any, sums: Any, step: Any, size: Any, by: Any, to: Any, targets: Any, zero: Any, low: Any,
    high: Any, left: Any,
) -> Any:  # fmt: skip
    """A vector of filters of some windows as cells: `requantise.py` has the arithmetic, number by number.

    rule, pooled   literals; if pooled, of each four windows in line the largest sums count
    sums, step     address, and bytes from one window to the next
    size           how many codes of each filter
    by             address of the multipliers
    to, targets    where pictures begin, and the address of the codes' offsets from there
    left           filters that are there
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, _, _, sums, step, size, by, to, targets, *about, left = values
        v = Words(builder, context.get_value_type(signature.args[2]))
        four = 4 if pooled.literal_value else 1
        rounded = Multiplier(v, by, *about).rule(rule.literal_value)

        def every(mask: Any) -> None:
            def one(_: Any, sums: Any, target: Any) -> list[Any]:
                total = v.load(sums)
                for other in range(1, four):
                    number = v.load(builder.add(sums, builder.mul(step, INT(other))))
                    total = builder.select(builder.icmp_signed(">", number, total), number, total)
                put_cells(v, rounded(total), builder.add(to, loaded(builder, target, 32)), mask)
                return [builder.add(sums, builder.mul(step, INT(four))), v.plus(target, 4)]

            loop(builder, size, [sums, targets], one)

        with builder.if_else(builder.icmp_signed(">=", left, INT(v.lanes))) as (whole, part):
            with whole:
                every(None)
            with part:
                every(v.first(left))
        return context.get_dummy_value()

    return types.void(rule, pooled, like, sums, step, size, by, to, targets, zero, low, high, left), code


class Multiplier:
    """From sums to codes, a vector at a time: the functions of `requantise.py` in instructions."""

    def __init__(self, v: Any, by: Any, zero: Any, low: Any, high: Any):
        self.v, self.builder, self.by = v, v.builder, by
        self.zero, self.low, self.high = zero, low, high
        self.wide = ir.VectorType(INT, v.lanes)

    def rule(self, number: int) -> Callable[[Any], Any]:
        if number == FP32:
            return self.fp32()
        m, s = [self._load(self.wide, (4 + 8 * i) * self.v.lanes) for i in range(2)]
        return {Q31_DOUBLE: self.q31_double, ONCE: self.once, POW2: self.pow2}[number](m, s)

    def fp32(self) -> Callable[[Any], Any]:
        """A float32 with 3 2^22 added holds a whole number in its lowest bits."""
        builder, v = self.builder, self.v
        floats = ir.VectorType(ir.FloatType(), v.lanes)
        m = self._load(floats, 0)
        least, most = [v._spread(builder.sitofp(builder.sub(x, self.zero), floats.element), floats) for x in (self.low, self.high)]
        rounds = ir.Constant(floats, [float(3 << 22)] * v.lanes)
        zero = v._spread(builder.trunc(builder.sub(self.zero, INT(0x4B400000)), WORD), v.type)  # the bits of 3 2^22

        def code(a: Any) -> Any:
            product = builder.fmul(builder.sitofp(a, floats), m)
            product = builder.select(builder.fcmp_ordered("<", product, least), least, product)
            product = builder.select(builder.fcmp_ordered(">", product, most), most, product)
            return builder.add(builder.bitcast(builder.fadd(product, rounds), v.type), zero)

        return code

    def q31_double(self, m: Any, s: Any) -> Callable[[Any], Any]:
        builder = self.builder
        left, right = self._clipped(builder.sub(self._all(31), s), 0), self._clipped(builder.sub(s, self._all(31)), 0)
        mask = builder.sub(builder.shl(self._all(1), right), self._all(1))
        half = builder.ashr(mask, self._all(1))

        def code(a: Any) -> Any:
            widened = self._clipped(builder.shl(builder.sext(a, self.wide), left), -(1 << 31), (1 << 31) - 1)
            upper = builder.ashr(builder.add(builder.mul(widened, m), self._all(1 << 30)), self._all(31))
            below = builder.zext(builder.icmp_signed("<", upper, self._all(0)), self.wide)
            away = builder.icmp_signed(">", builder.and_(upper, mask), builder.add(half, below))
            return self._code(builder.add(builder.ashr(upper, right), builder.zext(away, self.wide)))

        return code

    def once(self, m: Any, s: Any) -> Callable[[Any], Any]:
        half = self.builder.ashr(self.builder.shl(self._all(1), s), self._all(1))
        return lambda a: self._shifted(self.builder.mul(self.builder.sext(a, self.wide), m), half, s)

    def pow2(self, m: Any, s: Any) -> Callable[[Any], Any]:
        left, right = self._clipped(self.builder.sub(self._all(0), s), 0), self._clipped(s, 0)
        half = self.builder.ashr(self.builder.shl(self._all(1), right), self._all(1))
        return lambda a: self._shifted(self.builder.shl(self.builder.sext(a, self.wide), left), half, right)

    def _shifted(self, product: Any, half: Any, s: Any) -> Any:
        return self._code(self.builder.ashr(self.builder.add(product, half), s))

    def _code(self, number: Any) -> Any:
        zero, low, high = [self.v._spread(x, self.wide) for x in (self.zero, self.low, self.high)]
        number = self.builder.add(number, zero)
        number = self.builder.select(self.builder.icmp_signed("<", number, low), low, number)
        return self.builder.select(self.builder.icmp_signed(">", number, high), high, number)

    def _clipped(self, number: Any, low: int, high: int | None = None) -> Any:
        number = self.builder.select(self.builder.icmp_signed("<", number, self._all(low)), self._all(low), number)
        if high is None:
            return number
        return self.builder.select(self.builder.icmp_signed(">", number, self._all(high)), self._all(high), number)

    def _load(self, kind: Any, offset: int) -> Any:
        found = self.builder.load(self.v.pointer(self.v.plus(self.by, offset), kind))
        found.align = 4
        return found

    def _all(self, number: int) -> Any:
        return ir.Constant(self.wide, [number] * self.v.lanes)


def put_cells(v: Any, numbers: Any, place: Any, mask: Any) -> None:
    """Whole numbers as cells, side by side; with a mask, the first lanes."""
    builder = v.builder
    cells = ir.VectorType(ir.IntType(8 * SIZE), v.lanes)
    numbers = builder.trunc(numbers, cells)
    if mask is None:
        builder.store(numbers, v.pointer(place, cells)).align = SIZE
        return
    kinds = [cells, cells.as_pointer(), WORD, mask.type]
    name = f"llvm.masked.store.v{v.lanes}i{8 * SIZE}.p0"
    run = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
    builder.call(run, [numbers, v.pointer(place, cells), WORD(SIZE), mask])


@unit
def two_by_rows(like, x, windows, offsets, w, starts, words, sums, tiles):
    products(ROWS, 2, 1, int32(0), x, windows, offsets, w, starts, words, sums, tiles)


@unit
def one_by_rows(like, x, windows, offsets, w, starts, words, sums, tiles):
    products(ROWS, 1, 1, int32(0), x, windows, offsets, w, starts, words, sums, tiles)


@unit
def two_by_one(like, x, windows, offsets, w, starts, words, sums, tiles):
    products(1, 2, PHASES, int32(0), x, windows, offsets, w, starts, words, sums, tiles)


@unit
def one_by_one(like, x, windows, offsets, w, starts, words, sums, tiles):
    products(1, 1, PHASES, int32(0), x, windows, offsets, w, starts, words, sums, tiles)


@unit
def requantised(like, rule, pooled, sums, step, size, by, to, targets, zero, low, high, left):
    number = int32(0)
    if pooled != 0:
        if rule == FP32:
            finished(FP32, 1, number, sums, step, size, by, to, targets, zero, low, high, left)
        elif rule == Q31_DOUBLE:
            finished(Q31_DOUBLE, 1, number, sums, step, size, by, to, targets, zero, low, high, left)
        elif rule == ONCE:
            finished(ONCE, 1, number, sums, step, size, by, to, targets, zero, low, high, left)
        else:
            finished(POW2, 1, number, sums, step, size, by, to, targets, zero, low, high, left)
    elif rule == FP32:
        finished(FP32, 0, number, sums, step, size, by, to, targets, zero, low, high, left)
    elif rule == Q31_DOUBLE:
        finished(Q31_DOUBLE, 0, number, sums, step, size, by, to, targets, zero, low, high, left)
    elif rule == ONCE:
        finished(ONCE, 0, number, sums, step, size, by, to, targets, zero, low, high, left)
    else:
        finished(POW2, 0, number, sums, step, size, by, to, targets, zero, low, high, left)


@intrinsic(prefer_literal=True)
def turned(typing: Any, inwards: Any, source: Any, step: Any, targets: Any, flip: Any) -> Any:
    """A square of codes, column by column; each has `flip` added, or taken off, which is to flip a bit.

    inwards        a literal: bytes become cells, or else cells bytes
    source, step   of a row, and from one to the next
    targets        the address of where each column goes, of addresses
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v, (_, source, step, targets, flip) = Vectors(builder, BYTE, wide=SIDE), values
        cells = ir.VectorType(ir.IntType(8 * SIZE), SIDE)
        before, after = (v.type, cells) if inwards.literal_value else (cells, v.type)
        rows = []
        for i in range(SIDE):
            rows.append(builder.load(v.pointer(builder.add(source, builder.mul(step, INT(i))), before)))
            rows[-1].align = 1
        rows = transposed(v, [builder.trunc(row, v.type) for row in rows])
        bit = v._spread(builder.trunc(flip, BYTE), v.type)
        for i, row in enumerate(rows):
            place = loaded(builder, v.plus(targets, 8 * i), 64)
            builder.store(builder.zext(builder.xor(row, bit), after), v.pointer(place, after)).align = 1
        return context.get_dummy_value()

    return types.void(inwards, source, step, targets, flip), code


@unit
def bytes_to_cells(like, source, step, targets, flip):
    turned(1, source, step, targets, flip)


@unit
def cells_to_bytes(like, source, step, targets, flip):
    turned(0, source, step, targets, flip)
