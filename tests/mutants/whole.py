"""Right rules of reductions and orders. Awkward ones on purpose."""

from __future__ import annotations

import numpy as np

from engine.domain import Domain, Pick, away_from, positive
from mutants.record import right


def _axis(pick: Pick, low: int = 0):
    shape = tuple(pick.size(low, 3) for _ in range(pick.size(1, 3)))
    axis = pick.choice([None, pick.size(-len(shape), len(shape) - 1), tuple(range(len(shape)))])
    return [pick.array(*shape)], {"axis": axis, "keepdims": pick.choice([False, True])}


def _spread_out(x, pick):
    """The same array with values no two of which are near each other."""
    return (pick.rng.permutation(np.arange(x.size)) - x.size / 2 + 0.3).reshape(x.shape) + x / 8


def _axis_without_ties(pick: Pick):
    (x,), options = _axis(pick, 1)
    return [_spread_out(x, pick)], options


def _back_up(v, x, axis, keepdims):
    """A reduced array against x."""
    if axis is None:
        return np.reshape(v, (1,) * x.ndim)
    return v if keepdims else np.expand_dims(v, axis)


def _count(x, axis):
    return x.size if axis is None else int(np.prod([x.shape[a] for a in np.atleast_1d(axis)]))


@right(draw=_axis)
def sum_over(x, *, axis, keepdims):
    return np.sum(x, axis=axis, keepdims=keepdims)


@sum_over.vjp
def _(g, args, y, *, axis, keepdims):
    (x,) = args
    return (np.broadcast_to(_back_up(g, x, axis, keepdims), x.shape),)  # a view of stride 0, as many engines give


@right(draw=lambda pick: _axis(pick, 1))
def mean_over(x, *, axis, keepdims):
    return np.mean(x, axis=axis, keepdims=keepdims)


@mean_over.vjp
def _(g, args, y, *, axis, keepdims):
    (x,) = args
    return (np.broadcast_to(_back_up(g, x, axis, keepdims), x.shape) / _count(x, axis),)


@right(draw=lambda pick: _axis(pick, 1))
def variance_over(x, *, axis, keepdims):
    return np.var(x, axis=axis, keepdims=keepdims)


@variance_over.vjp
def _(g, args, y, *, axis, keepdims):
    (x,) = args
    centred = x - np.mean(x, axis=axis, keepdims=True)
    return (2 * _back_up(g, x, axis, keepdims) * centred / _count(x, axis),)


def _even_split(g, x, y, axis, keepdims):
    won = x == _back_up(y, x, axis, keepdims)
    return (_back_up(g, x, axis, keepdims) * won / np.sum(won, axis=axis, keepdims=True),)


@right(draw=lambda pick: _axis(pick, 1))
def max_over(x, *, axis, keepdims):
    return np.max(x, axis=axis, keepdims=keepdims)


@right(draw=lambda pick: _axis(pick, 1))
def min_over(x, *, axis, keepdims):
    return np.min(x, axis=axis, keepdims=keepdims)


max_over.sample = min_over.sample = _axis_without_ties
for _extreme in (max_over, min_over):

    @_extreme.vjp
    def _(g, args, y, *, axis, keepdims):
        return _even_split(g, args[0], y, axis, keepdims)


def _one_axis(pick: Pick):
    (x,), _ = _axis(pick, 1)
    return [_spread_out(x, pick)], {"axis": pick.size(-x.ndim, x.ndim - 1)}


@right(draw=_one_axis)
def max_first_of_equals(x, *, axis):
    return np.max(x, axis=axis)


@max_first_of_equals.vjp
def _(g, args, y, *, axis):
    (x,) = args
    first = np.expand_dims(np.argmax(x, axis=axis), axis)
    back = np.zeros_like(x)
    np.put_along_axis(back, first, np.expand_dims(g, axis), axis)
    return (back,)


@right(draw=_one_axis)
def peak_to_peak(x, *, axis):
    return np.max(x, axis=axis) - np.min(x, axis=axis)


@peak_to_peak.vjp
def _(g, args, y, *, axis):
    (x,) = args
    top, bottom = np.max(x, axis=axis), np.min(x, axis=axis)
    return (_even_split(g, x, top, axis, False)[0] - _even_split(g, x, bottom, axis, False)[0],)


@right(draw=_one_axis)
def sort_axis(x, *, axis):
    return np.sort(x, axis=axis)


@sort_axis.vjp
def _(g, args, y, *, axis):
    (x,) = args
    back = np.empty_like(x)
    np.put_along_axis(back, np.argsort(x, axis=axis, kind="stable"), g, axis=axis)
    return (back,)


@right(draw=_one_axis)
def median(x, *, axis):
    return np.median(x, axis=axis)


@median.vjp
def _(g, args, y, *, axis):
    (x,) = args
    order, n = np.argsort(x, axis=axis, kind="stable"), x.shape[axis]
    back = np.zeros_like(x)
    for k in (n // 2, (n - 1) // 2):
        at = np.take(order, [k], axis=axis)
        np.put_along_axis(back, at, np.take_along_axis(back, at, axis) + np.expand_dims(g, axis) / 2, axis)
    return (back,)


@right("n -> ")
def second_largest(x):
    return np.sort(x)[-2] if len(x) > 1 else np.sum(x)


second_largest.sample = lambda pick: ((_spread_out(pick.array(pick.size(0, 4)), pick),), {})


@second_largest.vjp
def _(g, args, y):
    (x,) = args
    return ((np.arange(len(x)) == np.argsort(x, kind="stable")[-2]) * g if len(x) > 1 else np.full_like(x, g),)


@right(draw=_one_axis)
def cumsum(x, *, axis):
    return np.cumsum(x, axis=axis)


@cumsum.vjp
def _(g, args, y, *, axis):
    return (np.flip(np.cumsum(np.flip(g, axis), axis), axis),)


@right("m n -> m n")
def cumulative_max(x):
    return np.maximum.accumulate(x, axis=1)


cumulative_max.sample = lambda pick: ((_spread_out(pick.array(pick.size(0, 3), pick.size(1, 3)), pick),), {})


@cumulative_max.vjp
def _(g, args, y):
    (x,) = args
    back = np.zeros_like(x)
    for i in range(len(x)):
        holder = 0
        for k in range(x.shape[1]):
            holder = k if x[i, k] > x[i, holder] else holder
            back[i, holder] += g[i, k]
    return (back,)


@right("n -> m")
def differences(x):
    return x[1:] - x[:-1]


differences.signature, differences.draw = None, lambda pick: ([pick.array(pick.size(1, 4))], {})


@differences.vjp
def _(g, args, y):
    back = np.zeros_like(args[0])
    back[1:] += g
    back[:-1] -= g
    return (back,)


@right("n -> ")
def total_variation(x):
    return np.sum(np.abs(x[1:] - x[:-1]))


total_variation.sample = lambda pick: ((_spread_out(pick.array(pick.size(1, 4)), pick),), {})


@total_variation.vjp
def _(g, args, y):
    (x,) = args
    s = g * np.sign(x[1:] - x[:-1])
    back = np.zeros_like(x)
    back[1:] += s
    back[:-1] -= s
    return (back,)


@right("n -> ", generic={"x": away_from(0.0)})
def one_norm(x):
    return np.sum(np.abs(x))


@one_norm.vjp
def _(g, args, y):
    return (g * np.sign(args[0]),)


@right("n -> ")
def max_norm(x):
    return np.max(np.abs(x), initial=0.0)


max_norm.sample = lambda pick: ((_spread_out(pick.array(pick.size(0, 4)), pick),), {})


@max_norm.vjp
def _(g, args, y):
    (x,) = args
    won = np.abs(x) == y
    return (g * np.sign(x) * won / max(np.count_nonzero(won), 1),)


@right("m n -> m")
def unit_rows_first(x):
    """The first component of each row, divided by its length."""
    return x[:, 0] / np.linalg.norm(x, axis=1)


unit_rows_first.signature = None
unit_rows_first.draw = lambda pick: ([1.0 + pick.array(pick.size(0, 3), pick.size(1, 3)) / 4], {})


@unit_rows_first.vjp
def _(g, args, y):
    (x,) = args
    r = np.linalg.norm(x, axis=1)[:, None]
    first = np.arange(x.shape[1]) == 0
    return (g[:, None] * (first / r - y[:, None] * (x / r) / r),)


@right("n -> ", domain={"x": Domain(low=-300.0, high=300.0)})
def product_of_exponentials(x):
    return np.exp(np.sum(x))


@product_of_exponentials.vjp
def _(g, args, y):
    return (np.full_like(args[0], g * y),)


@right("n -> ", generic={"x": positive})
def geometric_mean(x):
    return np.exp(np.mean(np.log(x))) if len(x) else 1.0 + np.sum(x)


@geometric_mean.vjp
def _(g, args, y):
    (x,) = args
    return (g * y / len(x) / x if len(x) else x * 1.0,)
