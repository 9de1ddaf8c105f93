"""Plans for networks of codes: what the compiled part of `network.py` reads, in lines of numbers, and how a chain becomes one.

A line is a step; in its columns are sizes, and addresses of weights and tables that the plan keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kernels.cpu.arrays import LINE
from kernels.cpu.features import caches
from kernels.cpu.narrow import LANES
from kernels.cpu.network_tile import PHASES, ROWS, SIZE
from kernels.cpu.requantise import settled
from kernels.cpu.words import QUADS
from kernels.windows import Pair, count, pair, sides

GROUP = 4 if QUADS else 2  # codes a word
VECTOR = 4 * LANES  # bytes
TOGETHER = 4  # tiles whose sums are requantised at once: in the first-level cache they leave room for weights
MOST = 12  # pictures at a time: their windows fill tiles, and a matrix is read once for all
NEAR = caches()[2] // 2  # bytes of pictures that stay in the second-level cache
BY = 20 * LANES  # bytes of the multipliers of a vector of filters: float32, mantissa, shift
GROUPED = 32  # filters up to which groups are multiplied as one, with zeros: of more, most products would be for nothing
SLACK = 64  # bytes behind the last picture: a word may reach over its end
LARGEST_ROOM = 1 << 31  # tables have 32 bits


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


class NoForm(Exception):
    """Of a chain that is done call by call."""


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
    work: int  # products a picture
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
        if self.end or (call.op == "quantise") != (self.dtype.kind == "f") or call.op not in TAKEN:
            raise NoForm
        TAKEN[call.op](self, *call.arrays, **call.params)

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
        if self.flat or w.shape[1] * groups != c or (groups > 1 and len(w) > GROUPED):
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
        if min(filters, rows, columns) < 1 or not 0 <= zero + flip(self.dtype) <= 255:
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
            offsets[: len(places)] = places * SIZE
            one, size = (x.row * stride[0], x.c * stride[1]), (some, rows, columns // many)
            squares = lattice((*size, pool, pool), (x.picture, pool * one[0], pool * many * one[1], *one))
            targets = lattice(size, (y.picture, y.row, many * y.c))
            tables = {WINDOWS: self.table(squares, pool**2, ROWS // pool**2), TARGETS: self.table(targets, 1, ROWS // pool**2)}
            return {**lines, **tables, OFFSETS: self.keep(offsets), SOURCE: x.at * SIZE, TARGET: y.start * SIZE}

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
        rows = (places * SIZE).astype(np.int32).reshape(-1, together)
        return self.keep(np.pad(rows, ((0, -len(rows) % multiple), (0, 0)), mode="edge"))

    def plan(self) -> Plan:
        spaces = [
            Space(*sizes, reader.around, reader.value) if reader else Space(*sizes)
            for sizes, reader in zip([self.first, *(s.sizes for s in self.steps)], [*self.steps, None], strict=True)
        ]
        most = max(space.picture for space in spaces)
        some = max(1, min(MOST, NEAR // (SIZE * sum(space.picture for space in spaces))))
        at = TOGETHER * ROWS * 2 * VECTOR // SIZE  # the sums of some tiles stand first
        for i, space in enumerate(spaces):
            spaces[i] = replace(space, at=at)
            at += -(-some * space.picture // SLACK) * SLACK
        size = at * SIZE + SLACK
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
        return Plan(table, self.scales, shape, self.dtype, sum(step.work for step in self.steps), self.arrays)


TAKEN = {
    "quantise": Planner.quantise,
    "dequantise": Planner.dequantise,
    "flatten": Planner.flatten,
    "max_pool2d": Planner.max_pool2d,
    "matmul_codes": Planner.matmul,
    "conv2d_codes": Planner.conv2d,
}


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


def in_words(window: np.ndarray, alone: bool) -> tuple[np.ndarray, int]:
    """Weights as a tile reads them, and how many words a filter has: word after word, for two vectors of filters, or for the last one."""
    filters, runs, length = window.shape
    window = np.pad(window, ((0, -filters % LANES), (0, 0), (0, -length % GROUP))).reshape(-1, runs * (-(-length // GROUP)), GROUP)
    if alone:  # `PHASES`
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
    """Cells before each place of a grid, row after row; steps are those from a place to the next along an axis."""
    places = np.zeros((), np.int64)
    for size, step in zip(sizes, steps, strict=True):
        places = np.add.outer(places, step * np.arange(size))
    return places.ravel()
