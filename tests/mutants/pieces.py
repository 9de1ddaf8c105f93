"""Right rules of functions that move numbers about: views, copies, gathers, scatters."""

from __future__ import annotations

import numpy as np

from engine.domain import Pick
from mutants.record import right


@right("m n -> n m")
def transposed_view(x):
    return x.T


@transposed_view.vjp
def _(g, args, y):
    return (g.T,)


@right("... -> ...")
def nothing_at_all(x):
    return np.array(x)


@nothing_at_all.vjp
def _(g, args, y):
    return (g,)


@right("m n -> m n")
def flipped(x):
    return x[::-1, ::-1]


@flipped.vjp
def _(g, args, y):
    return (g[::-1, ::-1],)


@right("m n -> k")
def ravel(x):
    return x.ravel()


ravel.signature, ravel.draw = None, lambda pick: ([pick.array(pick.size(0, 3), pick.size(0, 3))], {})


@ravel.vjp
def _(g, args, y):
    return (g.reshape(args[0].shape),)


@right("n -> 3 n")
def tripled(x):
    return np.broadcast_to(x, (3, *x.shape))


@tripled.vjp
def _(g, args, y):
    return (g.sum(axis=0),)


@right("m n -> m n")
def lower_triangle(x):
    return np.tril(x)


@lower_triangle.vjp
def _(g, args, y):
    return (np.tril(g),)


def _stacked(pick: Pick):
    shape = (pick.size(0, 3), pick.size(1, 2))
    return [pick.array(*shape) for _ in range(3)], {"axis": pick.size(-3, 2)}


@right(draw=_stacked)
def stack(a, b, c, *, axis):
    return np.stack([a, b, c], axis=axis)


@stack.vjp
def _(g, args, y, *, axis):
    return tuple(np.take(g, i, axis=axis) for i in range(3))


def _tiled(pick: Pick):
    return [pick.array(pick.size(0, 3), pick.size(1, 2))], {"reps": (pick.size(1, 2), pick.size(1, 3))}


@right(draw=_tiled)
def tile(x, *, reps):
    return np.tile(x, reps)


@tile.vjp
def _(g, args, y, *, reps):
    m, n = args[0].shape
    return (g.reshape(reps[0], m, reps[1], n).sum(axis=(0, 2)),)


def _mirrored(pick: Pick):
    return [pick.array(pick.size(2, 4))], {"width": pick.size(0, 1)}


@right(draw=_mirrored)
def pad_reflect(x, *, width):
    return np.pad(x, width, mode="reflect")


@pad_reflect.vjp
def _(g, args, y, *, width):
    back = np.zeros_like(args[0])
    np.add.at(back, np.pad(np.arange(len(back)), width, mode="reflect"), g)
    return (back,)


def _fancy(pick: Pick):
    m, n = pick.size(1, 3), pick.size(1, 3)
    k = pick.size(0, 3)
    return [pick.array(m, n), pick.integers(k, high=m), pick.integers(k, low=-n, high=n)], {}


@right(draw=_fancy)
def pick_pairs(x, i, j):
    return x[i, j]


@pick_pairs.vjp
def _(g, args, y):
    x, i, j = args
    back = np.zeros_like(x)
    np.add.at(back, (i, j), g)
    return (back,)


def _along(pick: Pick):
    m, n = pick.size(0, 3), pick.size(1, 3)
    return [pick.array(m, n), pick.integers(m, pick.size(0, 2), high=n)], {}


@right(draw=_along)
def take_along_rows(x, indices):
    return np.take_along_axis(x, indices, axis=1)


@take_along_rows.vjp
def _(g, args, y):
    x, indices = args
    back = np.zeros_like(x)
    np.add.at(back, (np.arange(len(x))[:, None], indices), g)
    return (back,)


def _with_mask(pick: Pick):
    n = pick.size(0, 4)
    return [pick.array(n), pick.integers(n, high=2) == 1], {}


@right(draw=_with_mask)
def compress(x, mask):
    return x[mask]


@compress.vjp
def _(g, args, y):
    x, mask = args
    back = np.zeros_like(x)
    back[mask] = g
    return (back,)


def _added(pick: Pick):
    n, k = pick.size(1, 3), pick.size(0, 4)
    return [pick.array(n), pick.integers(k, low=-n, high=n), pick.array(k)], {}


@right(draw=_added)
def scatter_add(x, indices, values):
    y = np.array(x)
    np.add.at(y, indices, values)
    return y


@scatter_add.vjp
def _(g, args, y):
    _, indices, _ = args
    return g.copy(), g[indices]
