"""Gathers and scatters: repeated indices, overwritten values, empty slices."""

from __future__ import annotations

import numpy as np

from mutants.record import call, right


def _target_and_values(pick):
    n, k = pick.size(1, 4), pick.size(0, 4)
    return [pick.array(n), pick.integers(k, high=n), pick.array(k)], {}


def last_writers(indices, n):
    """For each place, who wrote there last; -1 where nobody did."""
    owner = np.full(n, -1)
    for k, i in enumerate(indices):
        owner[i] = k
    return owner


@right(draw=_target_and_values)
def put(x, indices, values):
    y = x.copy()
    y[indices] = values
    return y


@put.vjp
def _(g, args, y):
    x, indices, _values = args
    owner = last_writers(indices, len(x))
    stays = owner[indices] == np.arange(len(indices)) if len(indices) else np.zeros(0, bool)
    return np.where(owner < 0, g, 0.0), np.where(stays, g[indices], 0.0)


@put.mutant(
    "overwritten sources",
    source="pytorch#146299, #162242",
    fault="the gradient is gathered, so a value that a later one overwrote gets it too",
    kills="value",
    at=call([5.0], np.array([0, 0]), [1.0, 2.0]),
)
def _(g, args, y):
    x, indices, _values = args
    return np.where(last_writers(indices, len(x)) < 0, g, 0.0), g[indices]


@put.mutant(
    "the overwritten target keeps its gradient",
    source="MyGrad@9b958b90, pytorch#197887",
    fault="what was in the array before it was written over still gets a gradient",
    kills="value",
    at=call([5.0], np.array([0]), [1.0]),
)
def _(g, args, y):
    x, indices, _values = args
    owner = last_writers(indices, len(x))
    stays = owner[indices] == np.arange(len(indices)) if len(indices) else np.zeros(0, bool)
    return g.copy(), np.where(stays, g[indices], 0.0)


def _rows(pick):
    n, k, d = pick.size(1, 3), pick.size(0, 3), pick.size(1, 2)
    return [pick.array(n, d), pick.integers(k, 1, high=n), pick.array(k, d)], {}


@right(draw=_rows)
def tensor_scatter_update(x, indices, updates):
    y = x.copy()
    for k, (i,) in enumerate(indices):
        y[i] = updates[k]
    return y


@tensor_scatter_update.vjp
def _(g, args, y):
    x, indices, updates = args
    owner = last_writers(indices[:, 0], len(x))
    back = np.zeros_like(updates)
    for i, k in enumerate(owner):
        if k >= 0:
            back[k] = g[i]
    return np.where((owner < 0)[:, None], g, 0.0), back


@tensor_scatter_update.mutant(
    "overwritten rows",
    source="tensorflow#56961",
    fault="each update gets the gradient of its row, also where a later update took the row",
    kills="value",
    at=call([[5.0]], np.array([[0], [0]]), [[1.0], [2.0]]),
)
def _(g, args, y):
    x, indices, _updates = args
    owner = last_writers(indices[:, 0], len(x))
    return np.where((owner < 0)[:, None], g, 0.0), g[indices[:, 0]]


def _taken(pick):
    n, d = pick.size(1, 4), pick.size(1, 2)
    return [pick.array(n, d), pick.integers(pick.size(0, 4), low=-n, high=n)], {}


@right(draw=_taken)
def take_rows(x, indices):
    return x[indices]


@take_rows.vjp
def _(g, args, y):
    x, indices = args
    back = np.zeros_like(x)
    np.add.at(back, indices, g)
    return (back,)


@take_rows.mutant(
    "assigned, not added",
    source="generic: assign for add; as in MyGrad@5b8448cf",
    fault="an index that is taken twice keeps only its last gradient",
    kills="value",
    at=call([[5.0]], np.array([0, 0])),
)
def _(g, args, y):
    x, indices = args
    back = np.zeros_like(x)
    back[indices] = g
    return (back,)


@take_rows.mutant(
    "buffered addition",
    source="derived from jax#12469",
    fault="x[i] += g adds once for each index, however often it is repeated",
    kills="value",
    at=call([[5.0]], np.array([0, 0])),
)
def _(g, args, y):
    x, indices = args
    back = np.zeros_like(x)
    back[indices] += g
    return (back,)


def _slices(pick):
    n = pick.size(0, 6)
    start = min(pick.size(0, 2), n)
    return [pick.array(n, pick.size(1, 2))], {"start": start, "stop": pick.choice([n, start, n - 1]), "step": pick.size(1, 3)}


@right(draw=_slices)
def strided_slice(x, *, start, stop, step):
    return x[start:stop:step].copy()


@strided_slice.vjp
def _(g, args, y, *, start, stop, step):
    back = np.zeros_like(args[0])
    back[start:stop:step] = g
    return (back,)


@strided_slice.mutant(
    "empty with a stride",
    source="jax@f39d111d8f",
    fault="the padding behind the last element is reckoned as if there were one",
    kills="zero-size",
    at=call(np.ones((3, 2)), start=1, stop=1, step=2),
)
def _(g, args, y, *, start, stop, step):
    (x,) = args
    count = len(y)
    behind = len(x) - (start + (count - 1) * step + 1)
    spread = np.zeros((max(count * step - step + 1, 0) if count else 0, x.shape[1]), x.dtype)
    spread[::step] = g
    return (np.concatenate([np.zeros((start, x.shape[1])), spread, np.zeros((behind, x.shape[1]))]),)


@strided_slice.mutant(
    "the stride is forgotten",
    source="generic: off-by-one slice",
    fault="the gradient goes to neighbours instead of every step-th",
    kills="value",
    at=call(np.ones((3, 1)), start=0, stop=3, step=2),
)
def _(g, args, y, *, start, stop, step):
    back = np.zeros_like(args[0])
    back[start : start + len(y)] = g
    return (back,)


def _shuffled_ramp(pick):
    m, n = pick.size(0, 3), pick.size(0, 4)
    return (pick.rng.permutation(np.arange(m * n) + 0.3 * pick.array(m * n)).reshape(m, n),), {}


@right("m n -> m n")
def sort(x):
    return np.sort(x, axis=1)


sort.sample = _shuffled_ramp


@sort.vjp
def _(g, args, y):
    (x,) = args
    order = np.argsort(x, axis=1, kind="stable")
    back = np.empty_like(x)
    np.put_along_axis(back, order, g, axis=1)
    return (back,)


@sort.mutant(
    "gathered, not scattered",
    source="mlx#3700; report, section 2.10",
    fault="g[order] where g must be put at order: the same for permutations that are their own inverse",
    kills="value",
    at=call([[3.0, 1.0, 2.0]]),
)
def _(g, args, y):
    (x,) = args
    return (np.take_along_axis(g, np.argsort(x, axis=1, kind="stable"), axis=1),)


def _repeats(pick):
    shape = (pick.size(0, 3), pick.size(1, 3))
    return [pick.array(*shape)], {"repeats": pick.size(1, 3), "axis": pick.size(0, 1)}


@right(draw=_repeats)
def repeat(x, *, repeats, axis):
    return np.repeat(x, repeats, axis=axis)


@repeat.vjp
def _(g, args, y, *, repeats, axis):
    (x,) = args
    shape = x.shape[: axis + 1] + (repeats,) + x.shape[axis + 1 :]
    return (g.reshape(shape).sum(axis=axis + 1),)


@repeat.mutant(
    "the whole axis is summed",
    source="autograd@72a6ccc",
    fault="every element of the axis gets the sum over all of them",
    kills="value",
    at=call([[1.0, 2.0]], repeats=1, axis=1),
)
def _(g, args, y, *, repeats, axis):
    (x,) = args
    return (np.broadcast_to(g.sum(axis=axis, keepdims=True), x.shape).copy(),)


@repeat.mutant(
    "tiled instead",
    source="generic: wrong axis",
    fault="the copies are taken to lie behind one another, as tile lays them",
    kills="value",
    at=call([[1.0, 2.0]], repeats=2, axis=1),
)
def _(g, args, y, *, repeats, axis):
    (x,) = args
    shape = x.shape[:axis] + (repeats,) + x.shape[axis:]
    return (g.reshape(shape).sum(axis=axis),)
