"""Whole networks of codes on the CPU, one idea at a time. Every rung gives the same bits.

    y = f_L(... f_1(x))     the calls of a chain (`engine/ops/chain.py`): convolutions, products, pools, a flattening; codes or floats

From step 3 on all of it is one compiled call, with a layout of its own:

    cells     a code as the processor multiplies it: an unsigned byte where a word has four numbers (`words.py`), else 16 bits. Codes of
              int8 have 128 added, and so has their zero point: in all layers the codes are whole numbers from 0 up
    pictures  channels last, (n, rows, columns, c), some at a time, and around each the border of the layer that reads it, filled with its
              zero point. What a kernel meets in one row of pixels lies in line, and is read as words where it lies
    weights   words in the same order, two vectors of filters abreast; zeros where the last word of a row reaches over its end. Of few
              filters a vector holds those of several windows side by side
    tables    where each word of a window lies, from its first one; where the windows begin, and where their codes go

A tile is ROWS windows by two vectors of filters. Sums begin at the bias, less the zero point times the weights, so that padding costs
nothing; they are requantised while they are in the first-level cache. Where they are pooled two by two, the four windows of a code follow
one another. A product with a matrix is a convolution whose kernel is as large as the picture. `network_tile.py` has the instructions;
`network_plan.py` makes the tables, once for a chain and a shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import finalize

import numpy as np
from numba import config, float32, int32, njit, types

from kernels.arrays import result
from kernels.cpu import codes
from kernels.cpu import network_plan as at
from kernels.cpu.arrays import LINE, dense
from kernels.cpu.cache import stamped
from kernels.cpu.eager import given, room
from kernels.cpu.narrow import LANES
from kernels.cpu.network_plan import BY, TOGETHER, VECTOR, NoForm, Plan, Planner
from kernels.cpu.network_tile import (
    CELL,
    ROWS,
    SIDE,
    SIZE,
    bytes_to_cells,
    cells_to_bytes,
    one_by_one,
    one_by_rows,
    requantised,
    two_by_one,
    two_by_rows,
)
from kernels.cpu.threads import share, threads
from kernels.cpu.vector import address, hold
from kernels.registry import rung
from kernels.windows import count, pair, sides

EXACT = {"uint8": 0.0, "int8": 0.0, "float32": 0.0}
FEW = 3  # windows up to which they go one by one
WORTH_A_THREAD = 4_000_000  # products in a piece, see `gemm.py`


# A plan, step by step.


@njit(nogil=True)
def layer(like, line, base, n):
    """A convolution of n pictures, or a product. What a last tile computes beyond them goes to places of pictures that are not there."""
    x, to, words, sums = base + line[at.SOURCE], base + line[at.TARGET], line[at.WORDS], base
    four = 4 if line[at.POOLED] != 0 else 1
    windows = n * line[at.PIXELS] * four
    rows = 1 if line[at.PIXELS] == 1 and four == 1 and n <= FEW else ROWS
    tiles = (windows + rows - 1) // rows
    for j in range(0, line[at.VECTORS], 2):
        vecs = min(2, line[at.VECTORS] - j)
        w, starts = line[at.WEIGHTS] + j * words * VECTOR, line[at.STARTS] + j * VECTOR
        for i in range(0, tiles, TOGETHER):
            some, first = min(TOGETHER, tiles - i), line[at.WINDOWS] + 4 * i * rows
            if rows == 1:
                if vecs == 2:
                    two_by_one(like, x, first, line[at.OFFSETS], w, starts, words, sums, some)
                else:
                    one_by_one(like, x, first, line[at.OFFSETS], w, starts, words, sums, some)
            elif vecs == 2:
                two_by_rows(like, x, first, line[at.OFFSETS], w, starts, words, sums, some)
            else:
                one_by_rows(like, x, first, line[at.OFFSETS], w, starts, words, sums, some)
            size, targets = some * rows // four, line[at.TARGETS] + 4 * (i * rows // four)
            for f in range(j, j + vecs):
                requantised(
                    like, line[at.RULE], line[at.POOLED], sums + (f - j) * VECTOR, vecs * VECTOR, size, line[at.MULTIPLIERS] + f * BY,
                    to + f * LANES * SIZE, targets, line[at.ZERO], line[at.LOW], line[at.HIGH], line[at.FILTERS] - f * LANES,
                )  # fmt: skip


@njit(nogil=True)
def largest(cells, line, n):
    """The largest cell of each window, which is cut to its picture."""
    c, h, w = line[at.CHANNELS], line[at.DOWN], line[at.ACROSS]
    for i in range(n):
        for p in range(line[at.GRID]):
            r = p * line[at.STEP] - line[at.CORNER]
            for q in range(line[at.GRID + 1]):
                s = q * line[at.STEP + 1] - line[at.CORNER + 1]
                to = line[at.TARGET] + i * line[at.TARGET_PICTURE] + p * line[at.TARGET_ROW] + q * c
                cells[to : to + c] = 0
                for j in range(max(r, 0), min(r + line[at.KERNEL], h)):
                    for k in range(max(s, 0), min(s + line[at.KERNEL + 1], w)):
                        source = line[at.SOURCE] + ((i * h + j) * w + k) * c
                        for f in range(c):
                            cells[to + f] = max(cells[to + f], cells[source + f])


@njit(nogil=True)
def enter(x, cells, about, first, n):
    """Pictures from first on, whose channels come first, into cells."""
    c, h, w, flip = about[at.DEPTH], about[at.TALL], about[at.WIDE], about[at.FLIP]
    for i in range(n):
        for k in range(c):
            for r in range(h):
                source, to = (((first + i) * c + k) * h + r) * w, about[at.AT] + i * about[at.WHOLE] + r * about[at.ROW] + k
                if c == 1:  # one after the other: as vectors
                    for s in range(w):
                        cells[to + s] = x[source + s] ^ flip
                    continue
                for s in range(w):
                    cells[to + s * c] = x[source + s] ^ flip


@njit(nogil=True)
def enter_in_squares(like, x, cells, about, first, n):
    """The same for many channels: of some pixels some channels at a time, the last ones once more where they do not fill a square."""
    c, w, pixels = about[at.DEPTH], about[at.WIDE], about[at.TALL] * about[at.WIDE]
    targets = np.empty(SIDE, np.int64)
    for i in range(n):
        for k in range(0, c, SIDE):
            channel = min(k, c - SIDE)
            for p in range(0, pixels, SIDE):
                pixel = min(p, pixels - SIDE)
                r, s = pixel // w, pixel % w
                for j in range(SIDE):
                    targets[j] = address(cells) + (about[at.AT] + i * about[at.WHOLE] + r * about[at.ROW] + s * c + channel) * SIZE
                    s += 1
                    if s == w:
                        r, s = r + 1, 0
                bytes_to_cells(like, address(x) + ((first + i) * c + channel) * pixels + pixel, pixels, address(targets), about[at.FLIP])


@njit(nogil=True)
def enter_floats(x, cells, about, scale, first, n):
    """The same with numbers, which become codes."""
    c, h, w = about[at.DEPTH], about[at.TALL], about[at.WIDE]
    zero, low, high, flip = float32(about[at.NIL]), float32(about[at.LEAST]), float32(about[at.GREATEST]), int32(about[at.FLIP])
    for i in range(n):
        for k in range(c):
            for r in range(h):
                source, to = (((first + i) * c + k) * h + r) * w, about[at.AT] + i * about[at.WHOLE] + r * about[at.ROW] + k
                if c == 1:
                    for s in range(w):
                        cells[to + s] = int32(min(max(np.rint(x[source + s] / scale) + zero, low), high)) + flip
                    continue
                for s in range(w):
                    cells[to + s * c] = int32(min(max(np.rint(x[source + s] / scale) + zero, low), high)) + flip


@njit(nogil=True)
def leave(cells, y, about, first, n):
    """Cells as codes, with channels first, for the pictures from first on."""
    c, size, flip = about[at.DEPTH], about[at.TALL] * about[at.WIDE], about[at.FLIP]
    for i in range(n):
        for k in range(c):
            to, source = ((first + i) * c + k) * size, about[at.AT] + i * about[at.WHOLE] + k
            for s in range(size):
                y[to + s] = cells[source + s * c] ^ flip


@njit(nogil=True)
def leave_in_squares(like, cells, y, about, first, n):
    """The same for many channels."""
    c, pixels = about[at.DEPTH], about[at.TALL] * about[at.WIDE]
    targets = np.empty(SIDE, np.int64)
    for i in range(n):
        for k in range(0, c, SIDE):
            channel = min(k, c - SIDE)
            for p in range(0, pixels, SIDE):
                pixel = min(p, pixels - SIDE)
                for j in range(SIDE):
                    targets[j] = address(y) + ((first + i) * c + channel + j) * pixels + pixel
                source = address(cells) + (about[at.AT] + i * about[at.WHOLE] + pixel * c + channel) * SIZE
                cells_to_bytes(like, source, c * SIZE, address(targets), about[at.FLIP])


@njit(nogil=True)
def leave_floats(cells, y, about, scale, first, n):
    """The same as numbers."""
    c, size, zero = about[at.DEPTH], about[at.TALL] * about[at.WIDE], about[at.NIL] + about[at.FLIP]
    for i in range(n):
        for k in range(c):
            to, source = ((first + i) * c + k) * size, about[at.AT] + i * about[at.WHOLE] + k
            for s in range(size):
                y[to + s] = float32(cells[source + s * c] - zero) * scale


@njit(nogil=True)
def in_squares(about):
    return about[at.DEPTH] >= SIDE and about[at.TALL] * about[at.WIDE] >= SIDE


def run(before, after, x, y, plan, first, last):
    """The network on pictures first to last. `before`, `after`: the scales of numbers that come and go."""
    some, begin, end = plan[0, at.SOME], plan[0, at.FIRST : at.LAST], plan[0, at.LAST :]
    memory = np.empty(plan[0, at.BYTES] + LINE, np.uint8)
    skip = -address(memory) % LINE
    cells = memory[skip : skip + plan[0, at.BYTES]].view(CELL)
    for s in range(1, len(plan)):
        if plan[s, at.KIND] == at.EDGE:
            start = plan[s, at.SOURCE]
            cells[start : start + min(some, last - first) * plan[s, at.PICTURE]] = plan[s, at.VALUE]
    for i in range(first, last, some):
        n = min(some, last - i)
        if begin[at.FLOATS] != 0:
            enter_floats(x.view(np.float32), cells, begin, before, i, n)
        elif in_squares(begin):
            enter_in_squares(before, x, cells, begin, i, n)
        else:
            enter(x, cells, begin, i, n)
        for s in range(1, len(plan)):
            if plan[s, at.KIND] == at.PRODUCTS:
                layer(before, plan[s], address(cells), n)
            elif plan[s, at.KIND] == at.POOL:
                largest(cells, plan[s], n)
        if end[at.FLOATS] != 0:
            leave_floats(cells, y.view(np.float32), end, after, i, n)
        elif in_squares(end):
            leave_in_squares(before, cells, y, end, i, n)
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


# Plans.


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
    idea="one compiled call: weights kept as words, channels last, so that rows of a window lie in line; give pictures to threads",
)  # fmt: skip
def one_call(x: Any, *, chain: Any, out: Any = None) -> np.ndarray:
    plan = plan_of(chain, x)
    if plan is None:
        return call_by_call(SERVING, chain, x, out)
    y = result((len(x), *plan.shape), plan.dtype, out, x)
    if y.size:
        job = *plan.scales, dense(x).reshape(-1).view(np.uint8), y.reshape(-1).view(np.uint8), plan.lines
        worth = WORTH_A_THREAD // max(1, plan.work)
        step = len(x) if threads() == 1 else max(1, worth, -(-len(x) // (2 * threads())))
        if step >= len(x):
            compiled()(*job, 0, len(x))
        else:
            share(compiled(), [(*job, i, min(len(x), i + step)) for i in range(0, len(x), step)])
    return y
