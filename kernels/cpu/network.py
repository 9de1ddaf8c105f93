"""Whole networks of codes on the CPU, one idea at a time. Every rung gives the same bits.

    y = f_L(... f_1(x))     the calls of a chain (`engine/ops/chain.py`): convolutions, products, pools, a flattening; codes or float32 at the ends

From step 3 on the layers are one compiled call, with a layout of its own:

    cells     a code as the processor multiplies it: an unsigned byte where a word has four numbers (`words.py`), else 16 bits. Codes of int8
              have 128 added, and so has their zero point: of all layers the codes are whole numbers from 0 up
    pictures  channels last, (n, rows, columns, c), some at a time, and around each the border of the layer that reads it, filled with its
              zero point. What a kernel meets in one row of pixels then lies in line, and is read as words where it lies
    weights   words in the same order, two vectors of filters abreast; zeros where the last word of a row reaches over its end
    tables    where each word of a window lies, from its first one; where the window of each sum begins, where each code goes to

A tile is ROWS windows by two vectors of filters. It begins at the bias, less the zero point times the weights, so padding costs nothing; its
sums are requantised from the first-level cache. Where sums are pooled two by two, the windows are in such an order that four neighbours of a tile
make one code. A product with a matrix is a convolution whose kernel is as large as the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import Any
from weakref import finalize

import numpy as np
from llvmlite import ir
from numba import config, float32, int32, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu import codes
from kernels.cpu.arrays import LINE, dense, result
from kernels.cpu.cache import stamped
from kernels.cpu.eager import given, room
from kernels.cpu.features import caches, registers
from kernels.cpu.narrow import LANES
from kernels.cpu.requantise import FP32, ONCE, POW2, Q31_DOUBLE, settled
from kernels.cpu.threads import share, threads
from kernels.cpu.unit import unit
from kernels.cpu.vector import INT, address, hold, loop
from kernels.cpu.windows import Pair, count, pair, sides
from kernels.cpu.words import QUADS, WORD, Words
from kernels.registry import rung

EXACT = {"uint8": 0.0, "int8": 0.0, "float32": 0.0}
GROUP = 4 if QUADS else 2  # codes a word
CELL = np.dtype(np.uint8 if QUADS else np.int16)
VECTOR = 4 * LANES  # bytes
ROWS = 12 if registers() >= 32 else 4  # windows in a tile: a multiple of four, for those that are pooled
PHASES = 4  # words at once for a single window, whose few sums would wait for one another
FEW = 3  # windows up to which they go one by one
TOGETHER = 4  # tiles whose sums are requantised at once: in the first-level cache they leave room for weights
MOST = 12  # pictures at a time: their windows fill tiles, and a matrix is read once for all
NEAR = caches()[2] // 2  # bytes of pictures that stay in the second-level cache
BY = 20 * LANES  # bytes of the multipliers of a vector of filters: float32, mantissa, shift
SLACK = 64  # bytes behind the last picture: a word may reach over its end
LARGEST_ROOM = 1 << 31  # tables have 32 bits
WORTH_A_THREAD = 4_000_000  # products in a piece, see `gemm.py`


# What a plan says, in a line of numbers for each step.

EDGE, PRODUCTS, POOL = range(3)
KIND = 0
SOURCE, TARGET = 1, 2  # where pictures begin: bytes of a product, cells of a pool
PICTURE, VALUE = 2, 3  # of an edge: cells of a picture, and what they are
PIXELS, WORDS, VECTORS, FILTERS, WEIGHTS, STARTS, OFFSETS, WINDOWS, TARGETS, MULTIPLIERS, RULE, POOLED, ZERO, LOW, HIGH = range(3, 18)
CHANNELS, DOWN, ACROSS, GRID, KERNEL, STEP, CORNER, TARGET_ROW, TARGET_PICTURE = 3, 4, 5, 6, 8, 10, 12, 14, 15  # of a pool
# of all, in the first line: how many pictures at a time, bytes of room, and of both ends where pictures lie and what they are
SOME, BYTES, FIRST, LAST = 0, 1, 2, 13
AT, DEPTH, TALL, WIDE, ROW, WHOLE, FLIP, FLOATS, NIL, LEAST, GREATEST = range(11)
COLUMNS = 24


# Tiles.


@intrinsic(prefer_literal=True)
def products(
    typing: Any, rows: Any, vecs: Any, phases: Any, like: Any, x: Any, windows: Any, offsets: Any, w: Any, starts: Any, words: Any, sums: Any,
    tiles: Any,
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
    cells = ir.VectorType(ir.IntType(8 * CELL.itemsize), v.lanes)
    numbers = builder.trunc(numbers, cells)
    if mask is None:
        builder.store(numbers, v.pointer(place, cells)).align = CELL.itemsize
        return
    kinds = [cells, cells.as_pointer(), WORD, mask.type]
    name = f"llvm.masked.store.v{v.lanes}i{8 * CELL.itemsize}.p0"
    run = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
    builder.call(run, [numbers, v.pointer(place, cells), WORD(CELL.itemsize), mask])


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


# A plan, step by step.


@njit(nogil=True)
def layer(like, line, base, n):
    """A convolution of n pictures, or a product. What a last tile computes beyond them goes to places of pictures that are not there."""
    x, to, words, sums = base + line[SOURCE], base + line[TARGET], line[WORDS], base
    four = 4 if line[POOLED] != 0 else 1
    windows = n * line[PIXELS] * four
    rows = 1 if line[PIXELS] == 1 and four == 1 and n <= FEW else ROWS
    tiles = (windows + rows - 1) // rows
    for j in range(0, line[VECTORS], 2):
        vecs = min(2, line[VECTORS] - j)
        w, starts = line[WEIGHTS] + j * words * VECTOR, line[STARTS] + j * VECTOR
        for i in range(0, tiles, TOGETHER):
            some, first = min(TOGETHER, tiles - i), line[WINDOWS] + 4 * i * rows
            if rows == 1:
                if vecs == 2:
                    two_by_one(like, x, first, line[OFFSETS], w, starts, words, sums, some)
                else:
                    one_by_one(like, x, first, line[OFFSETS], w, starts, words, sums, some)
            elif vecs == 2:
                two_by_rows(like, x, first, line[OFFSETS], w, starts, words, sums, some)
            else:
                one_by_rows(like, x, first, line[OFFSETS], w, starts, words, sums, some)
            size, targets = some * rows // four, line[TARGETS] + 4 * (i * rows // four)
            for f in range(j, j + vecs):
                requantised(
                    like, line[RULE], line[POOLED], sums + (f - j) * VECTOR, vecs * VECTOR, size, line[MULTIPLIERS] + f * BY,
                    to + f * LANES * CELL_BYTES, targets, line[ZERO], line[LOW], line[HIGH], line[FILTERS] - f * LANES,
                )  # fmt: skip


CELL_BYTES = CELL.itemsize


@njit(nogil=True)
def largest(cells, line, n):
    """The largest cell of each window, which is cut to its picture."""
    c, h, w = line[CHANNELS], line[DOWN], line[ACROSS]
    for i in range(n):
        for p in range(line[GRID]):
            r = p * line[STEP] - line[CORNER]
            for q in range(line[GRID + 1]):
                s = q * line[STEP + 1] - line[CORNER + 1]
                to = line[TARGET] + i * line[TARGET_PICTURE] + p * line[TARGET_ROW] + q * c
                cells[to : to + c] = 0
                for j in range(max(r, 0), min(r + line[KERNEL], h)):
                    for k in range(max(s, 0), min(s + line[KERNEL + 1], w)):
                        at = line[SOURCE] + ((i * h + j) * w + k) * c
                        for f in range(c):
                            cells[to + f] = max(cells[to + f], cells[at + f])


@njit(nogil=True)
def enter(x, cells, about, first, n):
    """Pictures from first on, whose channels come first, into cells."""
    c, h, w, flip = about[DEPTH], about[TALL], about[WIDE], about[FLIP]
    for i in range(n):
        for k in range(c):
            for r in range(h):
                source, to = (((first + i) * c + k) * h + r) * w, about[AT] + i * about[WHOLE] + r * about[ROW] + k
                if c == 1:  # one after the other: as vectors
                    for s in range(w):
                        cells[to + s] = x[source + s] ^ flip
                    continue
                for s in range(w):
                    cells[to + s * c] = x[source + s] ^ flip


@njit(nogil=True)
def enter_floats(x, cells, about, scale, first, n):
    """The same with numbers, which become codes."""
    c, h, w = about[DEPTH], about[TALL], about[WIDE]
    zero, low, high, flip = float32(about[NIL]), float32(about[LEAST]), float32(about[GREATEST]), int32(about[FLIP])
    for i in range(n):
        for k in range(c):
            for r in range(h):
                source, to = (((first + i) * c + k) * h + r) * w, about[AT] + i * about[WHOLE] + r * about[ROW] + k
                if c == 1:
                    for s in range(w):
                        cells[to + s] = int32(min(max(np.rint(x[source + s] / scale) + zero, low), high)) + flip
                    continue
                for s in range(w):
                    cells[to + s * c] = int32(min(max(np.rint(x[source + s] / scale) + zero, low), high)) + flip


@njit(nogil=True)
def leave(cells, y, about, first, n):
    """Cells as codes, with channels first, for the pictures from first on."""
    c, size, flip = about[DEPTH], about[TALL] * about[WIDE], about[FLIP]
    for i in range(n):
        for k in range(c):
            to, source = ((first + i) * c + k) * size, about[AT] + i * about[WHOLE] + k
            for s in range(size):
                y[to + s] = cells[source + s * c] ^ flip


@njit(nogil=True)
def leave_floats(cells, y, about, scale, first, n):
    """The same as numbers."""
    c, size, zero = about[DEPTH], about[TALL] * about[WIDE], about[NIL] + about[FLIP]
    for i in range(n):
        for k in range(c):
            to, source = ((first + i) * c + k) * size, about[AT] + i * about[WHOLE] + k
            for s in range(size):
                y[to + s] = float32(cells[source + s * c] - zero) * scale


def run(before, after, x, y, plan, first, last):
    """The network on pictures first to last. `before`, `after`: the scales of numbers that come and go."""
    some, begin, end = plan[0, SOME], plan[0, FIRST:LAST], plan[0, LAST:]
    memory = np.empty(plan[0, BYTES] + LINE, np.uint8)
    skip = -address(memory) % LINE
    cells = memory[skip : skip + plan[0, BYTES]].view(CELL)
    for s in range(1, len(plan)):
        if plan[s, KIND] == EDGE:
            at = plan[s, SOURCE]
            cells[at : at + min(some, last - first) * plan[s, PICTURE]] = plan[s, VALUE]
    for i in range(first, last, some):
        n = min(some, last - i)
        if begin[FLOATS] != 0:
            enter_floats(x.view(np.float32), cells, begin, before, i, n)
        else:
            enter(x, cells, begin, i, n)
        for s in range(1, len(plan)):
            if plan[s, KIND] == PRODUCTS:
                layer(before, plan[s], address(cells), n)
            elif plan[s, KIND] == POOL:
                largest(cells, plan[s], n)
        if end[FLOATS] != 0:
            leave_floats(cells, y.view(np.float32), end, after, i, n)
        else:
            leave(cells, y, end, i, n)
    hold(memory)


@cache
def compiled() -> Any:
    made = stamped(njit(cache=True, nogil=True, error_model="numpy")(run))
    plan = types.Array(types.int64, 2, "C")
    made.compile((types.float32, types.float32, given(types.uint8), room(types.uint8), plan, types.int64, types.int64))
    made.disable_compile()
    return made


# Making a plan.


class NoForm(Exception):
    """A chain that is done call by call."""


@dataclass(frozen=True, eq=False)
class Space:
    """Pictures as they lie between two layers: c channels of h by w pixels in a border of a value. `at`: cells before the first one."""

    c: int
    h: int
    w: int
    around: tuple[Pair, Pair] = ((0, 0), (0, 0))
    value: int = 0
    at: int = 0

    @property
    def row(self) -> int:
        """Cells from a pixel to the one below it."""
        return (self.w + sum(self.around[1])) * self.c

    @property
    def picture(self) -> int:
        return (self.h + sum(self.around[0])) * self.row

    @property
    def start(self) -> int:
        """Cells before the first pixel within the border."""
        return self.at + self.around[0][0] * self.row + self.around[1][0] * self.c


@dataclass(frozen=True, eq=False)
class Step:
    """A layer: the sizes of what it gives, and its line, once it is known where pictures lie.

    around, value   the border of what it reads
    """

    sizes: tuple[int, int, int]
    line: Callable[[Space, Space, int], dict[int, int]]
    around: tuple[Pair, Pair] = ((0, 0), (0, 0))
    value: int = 0
    work: int = 0  # products a picture


@dataclass(eq=False)
class Plan:
    """A chain for pictures of one shape: what is compiled reads the lines, which have addresses of `arrays` in them."""

    lines: np.ndarray
    scales: list[np.float32]
    shape: tuple[int, ...]
    dtype: np.dtype
    step: int  # pictures that are worth a thread
    arrays: list[np.ndarray]


class Planner:
    """Goes through the calls of a chain. Raises NoForm."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype):
        self.sizes = (*shape, 1, 1) if len(shape) == 1 else shape
        if len(self.sizes) != 3 or min(self.sizes) < 1:
            raise NoForm
        self.first, self.flat, self.dtype = self.sizes, len(shape) == 1, dtype
        self.begin = {FLIP: flip(dtype)}
        self.end: dict[int, int] = {}
        self.scales = [np.float32(0), np.float32(0)]
        self.steps: list[Step] = []
        self.arrays: list[np.ndarray] = []

    def take(self, call: Any) -> None:
        if self.end or (call.op == "quantise") != (self.dtype.kind == "f") or call.op not in self.TAKEN:
            raise NoForm
        self.TAKEN[call.op](self, *call.arrays, **call.params)

    def quantise(self, scale: Any, zero_point: Any, *, low: int = -128, high: int = 127) -> None:
        self.dtype = np.dtype(np.int8 if low < 0 else np.uint8)
        self.begin = {FLIP: flip(self.dtype), FLOATS: 1, NIL: int(number(zero_point)), LEAST: low, GREATEST: high}
        self.scales[0] = single(scale)

    def dequantise(self, scale: Any, zero_point: Any) -> None:
        self.end = {FLIP: flip(self.dtype), FLOATS: 1, NIL: int(number(zero_point))}
        self.scales[1] = single(scale)
        self.dtype = np.dtype(np.float32)

    def flatten(self) -> None:
        self.flat = True

    def max_pool2d(self, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        if self.flat:
            raise NoForm
        kernel, (c, *size) = pair(kernel_size), self.sizes
        step, corner = kernel if stride is None else pair(stride), [before for before, _ in sides(padding)]
        grid = count(tuple(size), kernel, step, padding)

        def line(x: Space, y: Space, some: int) -> dict[int, int]:
            pairs = {GRID: grid, KERNEL: kernel, STEP: step, CORNER: corner}
            both = {column + i: numbers[i] for column, numbers in pairs.items() for i in range(2)}
            sizes = {CHANNELS: c, DOWN: size[0], ACROSS: size[1], TARGET_ROW: y.row, TARGET_PICTURE: y.picture}
            return {KIND: POOL, SOURCE: x.at, TARGET: y.start, **sizes, **both}

        self.add(Step((c, *grid), line))

    def matmul(self, w: Any, bias: Any, mantissa: Any, shift: Any, **to: Any) -> None:
        c, h, across = self.sizes
        if not self.flat or len(w) != c * h * across:
            raise NoForm
        window = w.T.reshape(-1, c, h, across).transpose(0, 2, 3, 1).reshape(w.shape[1], 1, len(w))
        self.product(window, lambda x: [0], (1, 1), (1, 1), 1, 1, bias, mantissa, shift, zero=0, **to)

    def conv2d(
        self, w: Any, bias: Any, mantissa: Any, shift: Any, *, x_zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1, pool: int = 1, **to: Any,
    ) -> None:  # fmt: skip
        c, h, across = self.sizes
        if self.flat or w.shape[1] * groups != c:
            raise NoForm
        w = whole(w, groups).transpose(0, 2, 3, 1)
        (_, tall, wide, _), stride, (down, over) = w.shape, pair(stride), pair(dilation)
        grid = count((h, across), (tall, wide), stride, padding, (down, over))
        two = pool if pool == 2 else 1
        many = abreast(w.shape, grid[1] // two, stride[1] * two) if over == 1 else 1
        w = beside(w, many, stride[1] * two)
        in_line = over == 1 or wide == 1  # a row of the kernel, or else one of its pixels
        window = w.reshape(len(w), tall, -1) if in_line else w.reshape(len(w), tall * wide, c)

        def runs(x: Space) -> list[int]:
            return [i * down * x.row + j * over * c for i in range(tall) for j in range(1 if in_line else wide)]

        by = (np.tile(part, many) for part in (bias, mantissa, shift))
        self.product(window, runs, grid, stride, two, many, *by, zero=x_zero_point, around=sides(padding), **to)
        if pool > 2:
            self.max_pool2d(kernel_size=pool)

    def product(
        self, window: np.ndarray, runs: Callable[[Space], list[int]], grid: Pair, stride: Pair, pool: int, many: int, bias: Any,
        mantissa: Any, shift: Any, *, zero: int, rule: str, zero_point: int = 0, low: int = -128, high: int = 127, dtype: Any = "int8",
        around: tuple[Pair, Pair] = ((0, 0), (0, 0)),
    ) -> None:  # fmt: skip
        """`window`: the weights, (filters, runs, cells of a run), in the order in which cells lie; of `many` windows side by side."""
        kind, by, *code = settled(rule, zero_point, low, high, dtype)
        filters, _, length = window.shape
        rows, columns = grid[0] // pool, grid[1] // pool
        if min(filters, rows, columns) < 1:
            raise NoForm
        packed, words = in_words(window, rows * columns == many)
        lie = -(-length // GROUP)
        start = bias - (zero + flip(self.dtype)) * window.sum(axis=(1, 2), dtype=np.int64)
        lines = {
            KIND: PRODUCTS, WORDS: words, VECTORS: -(-filters // LANES), FILTERS: filters, WEIGHTS: self.keep(packed),
            STARTS: self.keep(vectors(start.astype(np.int32))), MULTIPLIERS: self.keep(multipliers(mantissa, shift)), RULE: by,
            POOLED: pool - 1, PIXELS: rows * columns // many,
            **dict(zip((ZERO, LOW, HIGH), [x + flip(kind) for x in code], strict=True)),
        }  # fmt: skip

        def line(x: Space, y: Space, some: int) -> dict[int, int]:
            offsets = np.zeros(words, np.int64)
            places = np.add.outer(runs(x), GROUP * np.arange(lie)).ravel()
            offsets[: len(places)] = places * CELL_BYTES
            one, size = (x.row * stride[0], x.c * stride[1]), (some, rows, columns // many)
            squares = lattice((*size, pool, pool), (x.picture, pool * one[0], pool * many * one[1], *one))
            targets = lattice(size, (y.picture, y.row, many * y.c))
            tables = {WINDOWS: self.table(squares, pool**2, ROWS // pool**2), TARGETS: self.table(targets, 1, ROWS // pool**2)}
            return {**lines, **tables, OFFSETS: self.keep(offsets), SOURCE: x.at * CELL_BYTES, TARGET: y.start * CELL_BYTES}

        work = math.prod(grid) * window.size // many
        self.add(Step((filters // many, rows, columns), line, around, zero + flip(self.dtype), work))
        self.dtype = kind

    def add(self, step: Step) -> None:
        if min(step.sizes) < 1:
            raise NoForm
        self.steps.append(step)
        self.sizes = step.sizes

    def keep(self, array: np.ndarray) -> int:
        """The address of an array that the plan keeps, at a cache line: a vector across two of them is loaded twice."""
        memory = np.empty(array.nbytes + LINE, np.uint8)
        skip = -memory.ctypes.data % LINE
        memory[skip : skip + array.nbytes] = np.frombuffer(np.ascontiguousarray(array), np.uint8)
        self.arrays.append(memory)
        return int(memory.ctypes.data) + skip

    def table(self, places: np.ndarray, together: int, multiple: int) -> int:
        """Bytes before each of them. The last ones stand again to the end of a tile: what is done twice comes out the same."""
        rows = (places * CELL_BYTES).astype(np.int32).reshape(-1, together)
        return self.keep(np.pad(rows, ((0, -len(rows) % multiple), (0, 0)), mode="edge"))

    def plan(self) -> Plan:
        spaces = [
            Space(*sizes, reader.around, reader.value) if reader else Space(*sizes)
            for sizes, reader in zip([self.first, *(s.sizes for s in self.steps)], [*self.steps, None], strict=True)
        ]
        most = max(space.picture for space in spaces)
        some = max(1, min(MOST, NEAR // (CELL_BYTES * sum(space.picture for space in spaces))))
        at = TOGETHER * ROWS * 2 * VECTOR // CELL_BYTES  # the sums of some tiles stand first
        for i, space in enumerate(spaces):
            spaces[i] = replace(space, at=at)
            at += -(-some * space.picture // SLACK) * SLACK
        size = at * CELL_BYTES + SLACK
        if size >= LARGEST_ROOM or some * most >= LARGEST_ROOM:
            raise NoForm
        lines = [
            {SOME: some, BYTES: size, **ends(FIRST, spaces[0], self.begin), **ends(LAST, spaces[-1], self.end or {FLIP: flip(self.dtype)})}
        ]
        lines += [{KIND: EDGE, SOURCE: s.at, PICTURE: s.picture, VALUE: s.value} for s in spaces if s.around != ((0, 0), (0, 0))]
        lines += [step.line(x, y, some) for step, x, y in zip(self.steps, spaces, spaces[1:], strict=False)]
        table = np.zeros((len(lines), COLUMNS), np.int64)
        for i, line in enumerate(lines):
            for column, value in line.items():
                table[i, column] = value
        shape = (math.prod(self.sizes),) if self.flat else self.sizes
        return Plan(
            table, self.scales, shape, self.dtype, max(1, WORTH_A_THREAD // max(1, sum(step.work for step in self.steps))), self.arrays
        )

    TAKEN = {
        "quantise": quantise, "dequantise": dequantise, "flatten": flatten, "max_pool2d": max_pool2d, "matmul_codes": matmul,
        "conv2d_codes": conv2d,
    }  # fmt: skip


def flip(dtype: np.dtype) -> int:
    """What is added to codes of a dtype to make them whole numbers from 0 up."""
    return 128 if dtype == np.int8 else 0


def number(x: Any) -> Any:
    """The only one of an array. Raises NoForm."""
    if np.size(x) != 1:
        raise NoForm
    return np.asarray(x).item()


def single(scale: Any) -> np.float32:
    """A float32. Raises NoForm."""
    if np.asarray(scale).dtype != np.float32:
        raise NoForm
    return np.float32(number(scale))


def ends(column: int, space: Space, about: dict[int, int]) -> dict[int, int]:
    """What the first line says of the pictures that come or go."""
    sizes = (1, 1, space.c) if space.h == 1 == space.w else (space.c, space.h, space.w)  # the same cells, in one line
    lies = {AT: space.start, ROW: space.row, WHOLE: space.picture, **dict(zip((DEPTH, TALL, WIDE), sizes, strict=True))}
    return {column + place: value for place, value in {**lies, **about}.items()}


def whole(w: np.ndarray, groups: int) -> np.ndarray:
    """Weights of groups as of one: zeros where a filter does not look."""
    if groups == 1:
        return w
    o, c, *kernel = w.shape
    full = np.zeros((groups, o // groups, groups, c, *kernel), w.dtype)
    for g in range(groups):
        full[g, :, g] = w.reshape(groups, o // groups, c, *kernel)[g]
    return full.reshape(o, groups * c, *kernel)


def in_words(window: np.ndarray, single: bool) -> tuple[np.ndarray, int]:
    """Weights as a tile reads them, and how many words a filter has: word after word, for two vectors of filters, or for the last one."""
    filters, runs, length = window.shape
    window = np.pad(window, ((0, -filters % LANES), (0, 0), (0, -length % GROUP))).reshape(-1, runs * (-(-length // GROUP)), GROUP)
    if single:
        window = np.pad(window, ((0, 0), (0, -window.shape[1] % PHASES), (0, 0)))
    words, vecs = window.shape[1], len(window) // LANES
    by_vector = window.reshape(vecs, LANES, words, GROUP)
    two = vecs // 2 * 2
    pairs = by_vector[:two].reshape(two // 2, 2, LANES, words, GROUP).transpose(0, 3, 1, 2, 4)
    last = by_vector[two:].transpose(0, 2, 1, 3)
    return np.concatenate([pairs.ravel(), last.ravel()]).astype(np.int8 if QUADS else np.int16), words


def vectors(numbers: np.ndarray) -> np.ndarray:
    """Whole vectors, zeros at the end."""
    return np.pad(numbers, (0, -len(numbers) % LANES))


def multipliers(mantissa: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Of each vector of filters the multipliers as float32, the mantissas and the shifts, as bytes."""
    scales = mantissa.astype(np.float32) / (np.int64(1) << np.maximum(shift, 0)).astype(np.float32)
    parts = [vectors(x).reshape(-1, LANES).view(np.uint8) for x in (scales, mantissa.astype(np.int64), shift.astype(np.int64))]
    return np.concatenate(parts, axis=1)


def abreast(w: tuple[int, ...], columns: int, step: int) -> int:
    """How many windows of a row, each `step` pixels from the next, one vector of filters is best used for, if there are few filters."""
    filters, tall, wide, c = w
    fits = [many for many in range(1, max(1, LANES // max(1, filters)) + 1) if columns % many == 0]
    return min(fits, key=lambda many: (tall * -(-(wide + (many - 1) * step) * c // GROUP) / many, many))


def beside(w: np.ndarray, many: int, step: int) -> np.ndarray:
    """Weights (filters, rows, columns, c) for so many windows side by side: zeros where each does not look."""
    filters, tall, wide, c = w.shape
    full = np.zeros((many, filters, tall, wide + (many - 1) * step, c), w.dtype)
    for i in range(many):
        full[i, :, :, i * step : i * step + wide] = w
    return full.reshape(many * filters, *full.shape[2:])


def lattice(sizes: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """Cells before each place of a grid, the last axis first."""
    places = np.zeros((), np.int64)
    for size, step in zip(sizes, steps, strict=True):
        places = np.add.outer(places, step * np.arange(size))
    return places.ravel()


plans: dict[int, dict[Any, Plan | None]] = {}  # by the identity of the chain: they go when it goes


def plan_of(chain: Any, x: np.ndarray) -> Plan | None:
    """The plan for pictures like these, made once; None for what is done call by call."""
    if id(chain) not in plans:
        plans[id(chain)] = {}
        finalize(chain, plans.pop, id(chain), None)
    known, key = plans[id(chain)], (x.shape[1:], x.dtype.char)
    if key not in known:
        known[key] = planned(chain, x)
    return known[key]


def planned(chain: Any, x: np.ndarray) -> Plan | None:
    fits(x, chain=chain)  # nobody else looks at what a call hands to the next
    if config.DISABLE_JIT:  # to debug or to measure coverage: instructions exist in compiled code only
        return None
    try:
        planner = Planner(x.shape[1:], x.dtype)
        for call in chain.calls:
            planner.take(call)
        return planner.plan()
    except NoForm:
        return None


# Rungs.


def call_by_call(by: dict[str, Callable[..., Any]], chain: Any, x: Any, out: Any = None) -> np.ndarray:
    y = x
    for call in chain.calls:
        y = by[call.op](y, *call.arrays, **call.params)
    to = result(y.shape, y.dtype, out, x)
    to[...] = y
    return to


def flat(x: Any) -> np.ndarray:
    return x.reshape(len(x), math.prod(x.shape[1:]))


@stamped
@njit(cache=True, nogil=True)
def largest_by_definition(x, y, kernel, step, corner):
    """The largest of each window, which is cut to its picture."""
    n, c, h, w = x.shape
    for i in range(n):
        for k in range(c):
            for p in range(y.shape[2]):
                for q in range(y.shape[3]):
                    top, left = p * step[0] - corner[0], q * step[1] - corner[1]
                    most = x[i, k, max(top, 0), max(left, 0)]
                    for r in range(max(top, 0), min(top + kernel[0], h)):
                        for s in range(max(left, 0), min(left + kernel[1], w)):
                            most = max(most, x[i, k, r, s])
                    y[i, k, p, q] = most


def largest_codes(x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> np.ndarray:
    kernel, ((top, _), (left, _)) = pair(kernel_size), sides(padding)
    step = kernel if stride is None else pair(stride)
    y = np.empty((*x.shape[:2], *count(x.shape[2:], kernel, step, padding)), x.dtype)
    largest_by_definition(dense(x), y, kernel, step, (top, left))
    return y


def to_codes(x: Any, scale: Any, zero_point: Any, *, low: int = -128, high: int = 127) -> np.ndarray:
    return np.clip(np.rint(x / scale) + np.asarray(zero_point, x.dtype), low, high).astype(np.int8 if low < 0 else np.uint8)


def to_numbers(q: Any, scale: Any, zero_point: Any) -> np.ndarray:
    return (q.astype(np.float32) - np.asarray(zero_point, np.float32)) * scale


ENDS = {"max_pool2d": largest_codes, "flatten": flat, "quantise": to_codes, "dequantise": to_numbers}
DEFINED = {"conv2d_codes": codes.loops_then_codes, "matmul_codes": codes.products_then_codes, **ENDS}
SERVING = {"conv2d_codes": codes.near_codes, "matmul_codes": codes.words_then_codes, **ENDS}


def fits(x: Any, *, chain: Any) -> None:
    """Raises ValueError for a shape that a call does not take, TypeError for floats where there should be codes, or the other way round."""
    if (chain.calls[0].op == "quantise") != (x.dtype.kind == "f"):
        raise TypeError(f"the chain begins with {chain.calls[0].op}, and the array is {x.dtype}")
    chain.shape(x.shape)


@rung("network_codes", "cpu", step=1, wants="*x", check=fits, rtol=EXACT, idea="the definition: call by call, each by its definition")
def calls_by_definition(x: Any, *, chain: Any) -> np.ndarray:
    return call_by_call(DEFINED, chain, x)


@rung("network_codes", "cpu", step=2, rtol=EXACT, idea="call by call, by the kernels that serve")
def calls_by_kernels(x: Any, *, chain: Any, out: Any = None) -> np.ndarray:
    return call_by_call(SERVING, chain, x, out)


@rung(
    "network_codes", "cpu", step=3, serves=True, rtol=EXACT,
    idea="one compiled call: weights kept as words, pictures with channels last, in which a row of a window lies in line; give pictures to threads",
)  # fmt: skip
def one_call(x: Any, *, chain: Any, out: Any = None) -> np.ndarray:
    plan = plan_of(chain, x)
    if plan is None:
        return call_by_call(SERVING, chain, x, out)
    y = result((len(x), *plan.shape), plan.dtype, out, x)
    if y.size:
        job = *plan.scales, dense(x).reshape(-1).view(np.uint8), y.reshape(-1).view(np.uint8), plan.lines
        step = len(x) if threads() == 1 else max(plan.step, -(-len(x) // (2 * threads())))
        if step >= len(x):
            compiled()(*job, 0, len(x))
        else:
            share(compiled(), [(*job, i, min(len(x), i + step)) for i in range(0, len(x), step)])
    return y
