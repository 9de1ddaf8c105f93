r"""Mean 0 and variance 1, and back, on the CPU: layer norm, batch norm and their like, one idea at a time.

    x, y, gy, gx (a, k, m)    mean, var (k): over a and m    w, b, gw, gb (1 | a, 1 | k, 1 | m)     float32 or float64, any strides

Over the last axes, as in layer norm, a is 1; with channels in the middle, as in batch norm, k counts them. Any other choice of axes is
brought into this form by a copy. With s = sqrt(var + eps), x^ = (x - mean) / s, h = w gy and < > the mean over a and m,

    y = w x^ + b        gx = (h - <h> - x^ <h x^>) / s        gw = sum gy x^        gb = sum gy

The mean is taken twice, and the squares with what the first left over: Chan, Golub & LeVeque (1983), Algorithms for computing the
sample variance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from math import prod, sqrt
from typing import Any

import numpy as np
from numba import config, njit, types

from kernels.cpu import lanes
from kernels.cpu.eager import INT, eager, given, room
from kernels.cpu.threads import share
from kernels.cpu.vector import address
from kernels.registry import rung

WORTH_A_THREAD = 1 << 16  # numbers in a piece: about 50 microseconds
NEAR = 1 << 12  # numbers that are summed in their own precision
BLOCK = 64  # rows whose columns are summed in it
FEW = 8  # numbers in a row that are not worth a vector: batch norm of rows (n, c) is turned over first
ALIKE = 1e-5  # a deviation so far below the mean is checked
TRIPLE = types.UniTuple(types.int64, 3)
DOUBLES = room(types.float64)

Run = Callable[..., Any]
Shape = tuple[int, ...]


def fits(x: Any, w: Any, b: Any, **_: Any) -> None:
    """Do w and b broadcast to x? Raises ValueError."""
    for name, part in (("w", w), ("b", b)):
        if np.broadcast_shapes(x.shape, part.shape) != x.shape:
            raise ValueError(f"{name} of shape {part.shape} does not broadcast to x of shape {x.shape}")


def fits_back(gy: Any, x: Any, w: Any, mean: Any, var: Any, *, b_shape: Shape, **_: Any) -> None:
    for name, shape in (("w", w.shape), ("b", b_shape), ("mean", mean.shape)):
        if np.broadcast_shapes(x.shape, shape) != x.shape:
            raise ValueError(f"{name} of shape {shape} does not broadcast to x of shape {x.shape}")


def places(axis: Any, ndim: int) -> list[int]:
    """The axes of an int, of several, or of None for all, counted from the first, in order. Raises ValueError."""
    axes = range(ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    for i in axes:
        if not -ndim <= i < ndim:
            raise ValueError(f"axis {i} is out of bounds for an array of {ndim} axes")
    found = sorted({i % ndim for i in axes})
    if len(found) != len(axes):
        raise ValueError(f"axis {axis} names an axis twice")
    return found


class Form:
    """How an array of some shape, with statistics over some axes, becomes (a, k, m), and back."""

    def __init__(self, shape: Shape, axis: Any, *, as_rows: bool = False):
        """`as_rows`: always with a = 1."""
        over = places(axis, len(shape))
        kept = [i for i in range(len(shape)) if i not in over]
        low, high = (kept[0], kept[-1] + 1) if kept else (0, 0)
        few = low > 0 and prod(shape[high:]) < FEW
        self.moved = len(kept) != high - low or few or (as_rows and low > 0)  # then what is kept goes first, all else behind it
        self.groups = [[], kept, over] if self.moved else [list(range(low)), kept, list(range(high, len(shape)))]
        self.order = [i for group in self.groups for i in group]
        self.back = sorted(range(len(shape)), key=self.order.__getitem__)
        self.shape = shape
        self.sizes = tuple([prod([shape[i] for i in group]) for group in self.groups])
        self.statistics = tuple([1 if i in over else size for i, size in enumerate(shape)])
        self.parts: dict[Shape, Part] = {}

    def flat(self, x: np.ndarray) -> np.ndarray:
        """x as one line of (a, k, m)."""
        return (x.transpose(self.order) if self.moved else x).ravel()

    def restored(self, x: np.ndarray) -> np.ndarray:
        """What is one line of (a, k, m), in the shape that it came from."""
        if not self.moved:
            return x.reshape(self.shape)
        return np.ascontiguousarray(x.reshape([self.shape[i] for i in self.order]).transpose(self.back))

    def part(self, shape: Shape) -> Part:
        return self.parts.get(shape) or self.parts.setdefault(shape, Part(self, shape))


class Part:
    """How what broadcasts from a shape, w or b, becomes (1 | a, 1 | k, 1 | m), and back."""

    def __init__(self, whole: Form, shape: Shape):
        self.shape, self.whole = shape, whole
        self.full = (*[1] * (len(whole.shape) - len(shape)), *shape)
        needed = [any(self.full[i] != 1 for i in group) for group in whole.groups]
        self.least = [whole.shape[i] if need else 1 for need, group in zip(needed, whole.groups, strict=True) for i in group]
        self.sizes = tuple([size if need else 1 for need, size in zip(needed, whole.sizes, strict=True)])
        _, k, m = self.sizes
        self.steps = tuple([step if need else 0 for need, step in zip(needed, (k * m, m, 1), strict=True)])
        self.as_it_is = not whole.moved and prod(shape) == prod(self.sizes)
        self.per_channel = not needed[0] and not needed[2]
        self.per_place = whole.sizes[0] == 1 and not needed[1] and needed[2]

    def flat(self, w: np.ndarray) -> np.ndarray:
        if self.as_it_is:
            return w.ravel()
        return np.broadcast_to(w.reshape(self.full).transpose(self.whole.order), self.least).ravel()

    def gathered(self, gw: np.ndarray, dtype: Any) -> np.ndarray:
        """The gradient, from sums that are one line of (1 | a, 1 | k, 1 | m)."""
        if self.as_it_is:
            return gw.astype(dtype).reshape(self.shape)
        places = gw.reshape(self.least).transpose(self.whole.back)
        once = tuple([i for i, size in enumerate(self.full) if size == 1])
        return places.sum(axis=once, keepdims=True).astype(dtype, order="C").reshape(self.shape)


form = lru_cache(maxsize=256)(Form)


def forward(run: Run) -> Run:
    """Make `run(x, w, b, y, mean, var, form, of_w, of_b, eps)` into normalise."""

    @wraps(run)
    def normalise(x: Any, w: Any, b: Any, *, axis: Any = -1, eps: float = 1e-5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        whole = form(x.shape, axis)
        of_w, of_b = whole.part(w.shape), whole.part(b.shape)
        y, mean, var = np.empty(x.size, x.dtype), np.empty(whole.statistics, x.dtype), np.empty(whole.statistics, x.dtype)
        run(whole.flat(x), of_w.flat(w), of_b.flat(b), y, mean.ravel(), var.ravel(), whole, of_w, of_b, eps)
        return whole.restored(y), mean, var

    return normalise


def backward(run: Run) -> Run:
    """Make `run(gy, x, w, mean, var, gx, form, of_w, of_b, eps) -> gw, gb` into normalise_grad."""

    @wraps(run)
    def normalise_grad(
        gy: Any, x: Any, w: Any, mean: Any, var: Any, *, b_shape: Shape, axis: Any = -1, eps: float = 1e-5
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        whole = form(x.shape, axis)
        of_w, of_b = whole.part(w.shape), whole.part(b_shape)
        gx = np.empty(x.size, x.dtype)
        given = (whole.flat(gy), whole.flat(x), of_w.flat(w), mean.ravel(), var.ravel())
        gw, gb = run(*given, gx, whole, of_w, of_b, eps)
        return whole.restored(gx), of_w.gathered(gw, x.dtype), of_b.gathered(gb, x.dtype)

    return normalise_grad


# Forward.


@eager(lambda t: (given(t), given(t), given(t), room(t), room(t), room(t), TRIPLE, TRIPLE, TRIPLE, types.float64))
def number_by_number(x, w, b, y, mean, var, sizes, w_steps, b_steps, eps):
    (a, k, m), count = sizes, max(1, sizes[0] * sizes[2])
    for j in range(k):
        level, spread = 0.0, 0.0
        for _ in range(2):  # what rounding lost, too: equal values have just this mean
            first, lost = level, 0.0
            for i in range(a):
                for t in range(m):
                    lost += x[(i * k + j) * m + t] - first
            level += lost / count
        for i in range(a):
            for t in range(m):
                spread += (x[(i * k + j) * m + t] - level) ** 2 / count
        mean[j], var[j] = level, spread
        for i in range(a):
            for t in range(m):
                x_hat = (x[(i * k + j) * m + t] - level) / sqrt(spread + eps)
                scale, shift = w[i * w_steps[0] + j * w_steps[1] + t * w_steps[2]], b[i * b_steps[0] + j * b_steps[1] + t * b_steps[2]]
                y[(i * k + j) * m + t] = x_hat * scale + shift


@rung("normalise", "cpu", step=1, wants="*x, *w, *b", check=fits, idea="the definition: number by number, sums in double")
@forward
def by_definition(x: Any, w: Any, b: Any, y: Any, mean: Any, var: Any, whole: Form, of_w: Part, of_b: Part, eps: float) -> None:
    number_by_number[x.dtype.char](x, w, b, y, mean, var, whole.sizes, of_w.steps, of_b.steps, eps)


@njit(nogil=True)
def sums_about(x, a, k, m, j, level):
    """The sums of x - level and of its squares over channel j."""
    like, size, total, squares = x.dtype.type(0), x.itemsize, 0.0, 0.0
    for i in range(a):
        for t in range(0, m, NEAR):
            some = lanes.sums_about(like, address(x) + ((i * k + j) * m + t) * size, level, min(NEAR, m - t))
            total += some[0]
            squares += some[1]
    return total, squares


@njit(nogil=True)
def level_and_spread(x, a, k, m, j):
    """Mean and variance of channel j: the mean, then what rounding lost of it together with the squares."""
    count, number = max(1, a * m), x.dtype.type
    first = number(sums_about(x, a, k, m, j, number(0))[0] / count)
    lost, squares = sums_about(x, a, k, m, j, first)
    level, spread = number(first + lost / count), (squares - lost * (lost / count)) / count
    if not spread > (ALIKE * first) ** 2:  # all values nearly alike: then the difference above is all rounding
        spread = sums_about(x, a, k, m, j, level)[1] / count
    return level, number(spread)


@eager(lambda t: (given(t), given(t), given(t), room(t), room(t), room(t), TRIPLE, *[INT] * 2, types.float64, *[INT] * 2))
def channels(x, w, b, y, mean, var, sizes, w_step, b_step, eps, first, last):
    """One w and one b a channel."""
    (a, k, m), number, size = sizes, x.dtype.type, x.itemsize
    for j in range(first, last):
        mean[j], var[j] = level_and_spread(x, a, k, m, j)
        scale = number(w[j * w_step] / sqrt(var[j] + eps))
        for i in range(a):
            here = (i * k + j) * m * size
            lanes.scaled(number(0), address(x) + here, mean[j], scale, b[j * b_step], address(y) + here, m)


@eager(lambda t: (given(t), given(t), given(t), room(t), room(t), room(t), TRIPLE, types.float64, *[INT] * 2))
def rows(x, w, b, y, mean, var, sizes, eps, first, last):
    """One w and one b for each place in a row, a row for each mean."""
    (_, k, m), number, size = sizes, x.dtype.type, x.itemsize
    for j in range(first, last):
        mean[j], var[j] = level_and_spread(x, 1, k, m, j)
        scale, here = number(1 / sqrt(var[j] + eps)), j * m * size
        lanes.scaled_each(number(0), address(x) + here, mean[j], scale, address(w), address(b), address(y) + here, m)


def prepared(x: Any, w: Any, b: Any, y: Any, mean: Any, var: Any, whole: Form, of_w: Part, of_b: Part, eps: float) -> Any:
    """The function for this form, its arguments, and how many means there are; None where only the definition fits."""
    letter, k = x.dtype.char, whole.sizes[1]
    if config.DISABLE_JIT:  # instructions exist in compiled code only
        return None
    if of_w.per_channel and of_b.per_channel:
        return channels[letter], (x, w, b, y, mean, var, whole.sizes, of_w.steps[1], of_b.steps[1], eps), k
    if of_w.per_place and of_b.per_place:
        return rows[letter], (x, w, b, y, mean, var, whole.sizes, eps), k
    return None


@rung(
    "normalise", "cpu", step=2,
    idea="layer and batch norm: sums of rows as vectors while they are near, added in double (contract, reassoc); else the rung above",
)  # fmt: skip
@forward
def in_vectors(x: Any, *job: Any) -> None:
    found = prepared(x, *job)
    if found is None:
        by_definition.__wrapped__(x, *job)
    else:
        run, arguments, k = found
        run(*arguments, 0, k)


@rung("normalise", "cpu", step=3, serves=True, idea="give ranges of means to threads")
@forward
def in_threads(x: Any, *job: Any) -> None:
    found = prepared(x, *job)
    if found is None or x.size <= WORTH_A_THREAD:
        in_vectors.__wrapped__(x, *job)
    else:
        run, arguments, k = found
        step = max(1, WORTH_A_THREAD * k // x.size)
        share(run, [(*arguments, i, min(k, i + step)) for i in range(0, k, step)])


# Backward.


@eager(lambda t: (*[given(t)] * 5, room(t), DOUBLES, DOUBLES, TRIPLE, TRIPLE, TRIPLE, types.float64))
def back_number_by_number(gy, x, w, mean, var, gx, gw, gb, sizes, w_steps, b_steps, eps):
    (a, k, m), count = sizes, max(1, sizes[0] * sizes[2])
    for j in range(k):
        s, h_mean, along = sqrt(var[j] + eps), 0.0, 0.0
        for i in range(a):
            for t in range(m):
                here, of_w = (i * k + j) * m + t, i * w_steps[0] + j * w_steps[1] + t * w_steps[2]
                x_hat, h = (x[here] - mean[j]) / s, np.float64(gy[here]) * w[of_w]
                h_mean += h / count
                along += h * x_hat / count
                gw[of_w] += gy[here] * x_hat
                gb[i * b_steps[0] + j * b_steps[1] + t * b_steps[2]] += gy[here]
        for i in range(a):
            for t in range(m):
                here, of_w = (i * k + j) * m + t, i * w_steps[0] + j * w_steps[1] + t * w_steps[2]
                gx[here] = (np.float64(gy[here]) * w[of_w] - h_mean - (x[here] - mean[j]) / s * along) / s


@rung(
    "normalise_grad",
    "cpu",
    step=1,
    wants="*x, *x, *w, *mean, *mean",
    check=fits_back,
    idea="the definition: number by number, sums in double",
)
@backward
def back_by_definition(
    gy: Any, x: Any, w: Any, mean: Any, var: Any, gx: Any, whole: Form, of_w: Part, of_b: Part, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    gw, gb = np.zeros(prod(of_w.sizes)), np.zeros(prod(of_b.sizes))
    back_number_by_number[x.dtype.char](gy, x, w, mean, var, gx, gw, gb, whole.sizes, of_w.steps, of_b.steps, eps)
    return gw, gb


@eager(lambda t: (*[given(t)] * 5, room(t), DOUBLES, DOUBLES, TRIPLE, INT, types.float64, *[INT] * 2))
def channels_back(gy, x, w, mean, var, gx, gw, gb, sizes, w_step, eps, first, last):
    """One w a channel; gw and gb are sums over a channel."""
    (a, k, m), number, size = sizes, x.dtype.type, x.itemsize
    count = max(1, a * m)
    for j in range(first, last):
        total, products = 0.0, 0.0
        for i in range(a):
            for t in range(0, m, NEAR):
                here = ((i * k + j) * m + t) * size
                some = lanes.sums_against(number(0), address(gy) + here, None, address(x) + here, mean[j], min(NEAR, m - t))
                total += some[0]
                products += some[1]
        inverse = 1 / sqrt(var[j] + eps)
        gw[j], gb[j] = products * inverse, total
        scale = w[j * w_step] * inverse
        along, shift = number(-scale * products * inverse * inverse / count), number(-scale * total / count)
        for i in range(a):
            here = (i * k + j) * m * size
            lanes.combined(number(0), address(gy) + here, address(x) + here, mean[j], number(scale), along, shift, address(gx) + here, m)


@eager(lambda t: (*[given(t)] * 5, room(t), DOUBLES, DOUBLES, TRIPLE, types.float64, *[INT] * 2))
def rows_back(gy, x, w, mean, var, gx, gw, gb, sizes, eps, first, last):
    """One w for each place in a row; gw and gb are sums over rows, of BLOCK of them in the precision of the numbers."""
    m, number, size = sizes[2], x.dtype.type, x.itemsize
    some_w, some_b = np.zeros(m, x.dtype), np.zeros(m, x.dtype)
    of_w, of_b = address(some_w), address(some_b)
    for top in range(first, last, BLOCK):
        some_w[:] = 0
        some_b[:] = 0
        for j in range(top, min(last, top + BLOCK)):
            g, row, total, products = address(gy) + j * m * size, address(x) + j * m * size, 0.0, 0.0
            for t in range(0, m, NEAR):
                place = address(w) + t * size
                some = lanes.sums_against(number(0), g + t * size, place, row + t * size, mean[j], min(NEAR, m - t))
                total += some[0]
                products += some[1]
            inverse = 1 / sqrt(var[j] + eps)
            along, shift = number(-products * inverse * inverse * inverse / m), number(-total * inverse / m)
            to = address(gx) + j * m * size
            lanes.combined_each(number(0), g, row, address(w), mean[j], number(inverse), along, shift, to, of_w, of_b, m)
        for t in range(m):
            gw[t] += some_w[t]
            gb[t] += some_b[t]


@rung(
    "normalise_grad", "cpu", step=2,
    idea="layer and batch norm: two passes, sums as vectors while a row is near (contract, reassoc); else the rung above",
)  # fmt: skip
@backward
def back_in_vectors(
    gy: Any, x: Any, w: Any, mean: Any, var: Any, gx: Any, whole: Form, of_w: Part, of_b: Part, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    _, k, m = whole.sizes
    letter, given = x.dtype.char, (gy, x, w, mean, var, gx)
    if config.DISABLE_JIT:
        return back_by_definition.__wrapped__(*given, whole, of_w, of_b, eps)
    if of_w.per_channel and of_b.per_channel:
        gw, gb = np.zeros(k), np.zeros(k)
        channels_back[letter](*given, gw, gb, whole.sizes, of_w.steps[1], eps, 0, k)
        return once(gw, of_w), once(gb, of_b)
    if of_w.per_place and of_b.per_place:
        gw, gb = np.zeros(m), np.zeros(m)
        rows_back[letter](*given, gw, gb, whole.sizes, eps, 0, k)
        return gw, gb
    return back_by_definition.__wrapped__(*given, whole, of_w, of_b, eps)


def once(gw: np.ndarray, part: Part) -> np.ndarray:
    """One sum of all channels, where there is one number for all."""
    return gw if part.sizes[1] == len(gw) else gw.sum(keepdims=True)


@rung("normalise_grad", "cpu", step=3, serves=True, idea="give ranges of channels to threads, or blocks of rows, each with sums of its own")
@backward
def back_in_threads(
    gy: Any, x: Any, w: Any, mean: Any, var: Any, gx: Any, whole: Form, of_w: Part, of_b: Part, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    _, k, m = whole.sizes
    letter, given = x.dtype.char, (gy, x, w, mean, var, gx)
    step, many = max(1, WORTH_A_THREAD * k // max(1, x.size)), x.size > WORTH_A_THREAD and not config.DISABLE_JIT
    if many and of_w.per_channel and of_b.per_channel:
        gw, gb = np.zeros(k), np.zeros(k)
        share(channels_back[letter], [(*given, gw, gb, whole.sizes, of_w.steps[1], eps, i, min(k, i + step)) for i in range(0, k, step)])
        return once(gw, of_w), once(gb, of_b)
    if many and of_w.per_place and of_b.per_place:
        gw, gb = np.zeros((2, -(-k // step), m))
        pieces = [(*given, gw[i // step], gb[i // step], whole.sizes, eps, i, min(k, i + step)) for i in range(0, k, step)]
        share(rows_back[letter], pieces)
        return gw.sum(axis=0), gb.sum(axis=0)
    return back_in_vectors.__wrapped__(*given, whole, of_w, of_b, eps)
