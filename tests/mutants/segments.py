"""Scatters that combine, and segments: products and largest values of what has the same index."""

from __future__ import annotations

import numpy as np

from mutants.record import call, right


def _segments(pick):
    k, n = pick.size(0, 4), pick.size(1, 3)
    return [pick.array(k), pick.integers(k, high=n)], {"segments": n}


def _segment_products(x, ids, segments):
    y = np.ones(segments, x.dtype)
    np.multiply.at(y, ids, x)
    return y


def _others_in_segment(x, ids):
    out = np.ones_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j and ids[i] == ids[j]:
                out[i] = out[i] * x[j]
    return out


@right(draw=_segments)
def segment_prod(x, ids, *, segments):
    return _segment_products(x, ids, segments)


@segment_prod.vjp
def _(g, args, y, *, segments):
    x, ids = args
    return (g[ids] * _others_in_segment(x, ids),)


@segment_prod.mutant(
    "y / x",
    source="jax#9296",
    fault="0 / 0 at a zero, and nothing for its companions",
    kills="finite",
    at=call([0.0, 2.0], np.array([0, 0]), segments=1),
)
def _(g, args, y, *, segments):
    x, ids = args
    return (g[ids] * y[ids] / x,)


def _multiplied(pick):
    n, k = pick.size(1, 3), pick.size(0, 4)
    return [pick.array(n), pick.integers(k, high=n), pick.array(k)], {}


@right(draw=_multiplied)
def scatter_mul(x, ids, factors):
    y = x.copy()
    np.multiply.at(y, ids, factors)
    return y


@scatter_mul.vjp
def _(g, args, y):
    x, ids, factors = args
    return g * _segment_products(factors, ids, len(x)), g[ids] * x[ids] * _others_in_segment(factors, ids)


@scatter_mul.mutant(
    "indices taken for unique",
    source="jax#12469, jax#9296",
    fault="each factor gets g x, without the other factors at its place",
    kills="value",
    at=call([2.0], np.array([0, 0]), [3.0, 4.0]),
)
def _(g, args, y):
    x, ids, factors = args
    return g * _segment_products(factors, ids, len(x)), g[ids] * x[ids]


def _source_longer_than_index(pick):
    n, k = pick.size(1, 3), pick.size(0, 3)
    x, source = pick.array(n), pick.array(k + pick.size(0, 2))
    return [x, pick.integers(k, high=n), source + 3.0 * np.arange(len(source)) + 5.0 * pick.choice([-1, 1])], {}


@right(draw=_source_longer_than_index)
def scatter_prod(x, ids, source):
    y = x.copy()
    np.multiply.at(y, ids, source[: len(ids)])
    return y


@scatter_prod.vjp
def _(g, args, y):
    x, ids, source = args
    used = source[: len(ids)]
    back = np.zeros_like(source)
    back[: len(ids)] = g[ids] * x[ids] * _others_in_segment(used, ids)
    return g * _segment_products(used, ids, len(x)), back


@scatter_prod.mutant(
    "source longer than the index",
    source="pytorch#188843 (#94336, #27614)",
    fault="with one index its gradient is broadcast over the whole source, also over what is not used",
    kills="value",
    at=call([2.0], np.array([0]), [3.0, 4.0]),
)
def _(g, args, y):
    x, ids, source = args
    used = source[: len(ids)]
    back = np.zeros_like(source)
    each = g[ids] * x[ids] * _others_in_segment(used, ids)
    back[...] = each if len(ids) == 1 else np.resize(each, len(source)) if len(ids) else 0.0
    return g * _segment_products(used, ids, len(x)), back


def _largest(x, ids, source):
    y = x.copy()
    np.maximum.at(y, ids, source[: len(ids)])
    return y


@right(draw=_source_longer_than_index)
def scatter_amax(x, ids, source):
    return _largest(x, ids, source)


def _amax_shares(x, ids, source, y):
    """Who holds the maximum, each divided by how many do."""
    used = source[: len(ids)]
    mine = (used == y[ids]) * 1.0
    count = (x == y) * 1.0
    np.add.at(count, ids, mine)
    return (x == y) / count, mine / count[ids]


@scatter_amax.vjp
def _(g, args, y):
    x, ids, source = args
    stays, takes = _amax_shares(x, ids, source, y)
    back = np.zeros_like(source)
    back[: len(ids)] = g[ids] * takes
    return g * stays, back


@scatter_amax.mutant(
    "source longer than the index",
    source="pytorch#188843",
    fault="with one index the whole source is compared with the result, and what is not used gets a gradient",
    kills="value",
    at=call([2.0], np.array([0]), [3.0, 3.0]),
)
def _(g, args, y):
    x, ids, source = args
    stays, takes = _amax_shares(x, ids, source, y)
    back = np.zeros_like(source)
    back[: len(ids)] = g[ids] * takes
    if len(ids) == 1:
        back = (source == y[ids]) * g[ids] * takes
    return g * stays, back


@scatter_amax.mutant(
    "a tie counted twice",
    source="derived from pytorch#184572",
    fault="target and source each get the whole gradient where they are equal",
    kills="tie direction",
    at=call([3.0], np.array([0]), [3.0]),
)
def _(g, args, y):
    x, ids, source = args
    back = np.zeros_like(source)
    back[: len(ids)] = g[ids] * (source[: len(ids)] == y[ids])
    return g * (x == y), back


def _beyond_the_end(pick):
    n, k = pick.size(1, 3), pick.size(0, 3)
    values = pick.array(k) + 4.0 * np.arange(k) + pick.choice([-9.0, 9.0])
    return [pick.array(n), pick.integers(k, high=n + 2), values], {}


@right(draw=_beyond_the_end)
def scatter_max_clipped(x, ids, values):
    return _largest(x, np.minimum(ids, len(x) - 1), values)


@scatter_max_clipped.vjp
def _(g, args, y):
    x, ids, values = args
    ids = np.minimum(ids, len(x) - 1)
    stays, takes = _amax_shares(x, ids, values, y)
    return g * stays, g[ids] * takes


@scatter_max_clipped.mutant(
    "the gather forgets the mode",
    source="jax#40626",
    fault="an index beyond the end is clipped on the way there and filled with 0 on the way back",
    kills="value",
    at=call([1.0], np.array([3]), [9.0]),
)
def _(g, args, y):
    x, ids, values = args
    clipped = np.minimum(ids, len(x) - 1)
    stays, takes = _amax_shares(x, clipped, values, y)
    return g * stays, np.where(ids < len(x), g[clipped] * takes, 0.0)


@scatter_max_clipped.mutant(
    "division by a count of 0",
    source="jax#40626",
    fault="the winners are counted at the index as given, so beyond the end there are none: 1 / 0",
    kills="finite",
    at=call([1.0], np.array([3]), [9.0]),
)
def _(g, args, y):
    x, ids, values = args
    clipped = np.minimum(ids, len(x) - 1)
    stays, takes = _amax_shares(x, clipped, values, y)
    return g * stays, np.where(ids < len(x), g[clipped] * takes, g[clipped] * (takes > 0) / np.zeros(len(ids)))


def _distinct_segments(pick):
    k, n = pick.size(0, 4), pick.size(1, 3)
    return [pick.array(k) + 5.0 * pick.rng.permutation(k), pick.integers(k, high=n)], {"segments": n}


@right(draw=_distinct_segments)
def segment_max(x, ids, *, segments):
    """0 for an empty segment."""
    y = np.full(segments, -np.inf, x.dtype)
    np.maximum.at(y, ids, x)
    return np.where(np.isin(np.arange(segments), ids), y, 0.0).astype(x.dtype)


def _segment_shares(x, ids, y):
    won = (x == y[ids]) * 1.0
    count = np.zeros_like(y)
    np.add.at(count, ids, won)
    return won, count


@segment_max.vjp
def _(g, args, y, *, segments):
    x, ids = args
    won, count = _segment_shares(x, ids, y)
    return (g[ids] * won / count[ids],)


@segment_max.jvp
def _(ds, args, y, *, segments):
    x, ids = args
    won, count = _segment_shares(x, ids, y)
    out = np.zeros_like(y)
    np.add.at(out, ids, ds[0] * won)
    return out / np.maximum(count, 1.0)


@segment_max.mutant_jvp(
    "an empty segment",
    source="tensorflow#57002",
    fault="0 / 0 where no element has the id: ids that do not begin with 0",
    kills="mode agreement",
    at=call([2.0, 1.0], np.array([1, 1]), segments=2),
)
def _(ds, args, y, *, segments):
    x, ids = args
    won, count = _segment_shares(x, ids, y)
    out = np.zeros_like(y)
    np.add.at(out, ids, ds[0] * won)
    return out / count
