"""Broadcasting, padding, axes: where a gradient has the wrong shape, or the right shape and the wrong order."""

from __future__ import annotations

import numpy as np

from mutants.record import binary, binary_rule, call, fitted, right

multiply = binary("multiply", np.multiply, lambda a, b, y: (b, a), "layout")


@multiply.mutant(
    "not summed",
    source="pytorch#13669, #1787",
    fault="the gradient keeps the shape of the result",
    kills="shape",
    at=call([2.0], [1.0, 2.0, 3.0]),
)
def _(g, args, y):
    a, b = args
    return g * b, g * a


@multiply.mutant(
    "both arguments get the other's",
    source="generic: operands swapped",
    fault="b belongs to a, and a to b",
    kills="value",
    at=call([2.0], [3.0]),
)
@binary_rule
def _(a, b, y):
    return a, b


@multiply.mutant(
    "mean over the broadcast axes",
    source="generic: mean for sum",
    fault="the axes along which an argument was repeated are averaged",
    kills="value",
    at=call([2.0], [1.0, 2.0, 3.0]),
)
def _(g, args, y):
    a, b = args

    def averaged(back, x):
        return fitted(back, x) * (x.size / max(back.size, 1))

    return averaged(g * b, a), averaged(g * a, b)


@right("..., ... -> ...")
def add(a, b):
    return a + b


@add.vjp
def _(g, args, y):
    a, b = args
    return fitted(g, a).copy(), fitted(g, b).copy()


@add.mutant(
    "only missing axes are summed",
    source="pytorch#13669: (4, 1) with (1, 4)",
    fault="axes of size 1 that were stretched stay stretched",
    kills="shape",
    at=call(np.ones((4, 1)), np.ones((1, 4))),
)
def _(g, args, y):
    return tuple(np.array(np.sum(g, axis=tuple(range(g.ndim - x.ndim)))) for x in args)


@add.mutant(
    "axes counted from the front",
    source="HomericIntelligence/Odyssey PR#2080",
    fault="the axes of size 1 are looked up before those in front of them are counted",
    kills="shape",
    at=call(np.ones((2, 1)), np.ones((2, 2, 6))),
)
def _(g, args, y):
    def undone(x):
        lead = g.ndim - x.ndim
        axes = {*range(lead), *(i for i, n in enumerate(x.shape) if n == 1)}
        return np.sum(g, axis=tuple(axes)).reshape(x.shape)

    return tuple(undone(x) for x in args)


@add.mutant(
    "values out of order",
    source="HomericIntelligence/Odyssey PR#2080, where the sizes happen to fit",
    fault="the sum runs over trailing axes where leading ones were added",
    kills="value",
    at=call([1.0, 2.0], np.ones((2, 2)), g=np.array([[1.0, 2.0], [3.0, 4.0]])),
)
def _(g, args, y):
    def undone(x):
        if x.ndim == g.ndim or x.shape != g.shape[: x.ndim]:
            return fitted(g, x).copy()
        return np.sum(g, axis=tuple(range(x.ndim, g.ndim)))

    return tuple(undone(x) for x in args)


def _expanded(pick):
    n = pick.size(1, 4)
    return [pick.array(pick.size(0, 3))], {"n": n, "i": pick.size(0, n - 1)}


@right(draw=_expanded)
def expand_and_pick(x, *, n, i):
    return np.broadcast_to(x, (n, *x.shape))[i].copy()


@expand_and_pick.vjp
def _(g, args, y, *, n, i):
    return (g,)


@expand_and_pick.mutant(
    "counted for each copy",
    source="pytorch#9145",
    fault="all rows of an expanded array are one memory, and the gradient of one is added n times",
    kills="value",
    at=call([2.0], n=3, i=0),
)
def _(g, args, y, *, n, i):
    return (n * g,)


def _padded(pick):
    return [pick.array(pick.size(0, 4), pick.size(1, 2))], {"left": pick.size(0, 2), "right": pick.size(0, 2)}


@right(draw=_padded)
def pad(x, *, left, right):
    return np.pad(x, [(left, right), (0, 0)])


@pad.vjp
def _(g, args, y, *, left, right):
    return (g[left : left + len(args[0])],)


@pad.mutant(
    "slice(l, -0)",
    source="autograd@7b61be3",
    fault="with nothing on the right the slice from l to -0 is empty",
    kills="shape",
    at=call(np.ones((2, 1)), left=1, right=0),
)
def _(g, args, y, *, left, right):
    return (g[left:-right],)


def _edges(pick):
    return [pick.array(pick.size(1, 4))], {"width": pick.size(0, 2)}


@right(draw=_edges)
def pad_edge(x, *, width):
    return np.pad(x, width, mode="edge")


@pad_edge.vjp
def _(g, args, y, *, width):
    back = g[width : width + len(args[0])].copy()
    back[0] += g[:width].sum()
    back[-1] += g[width + len(args[0]) :].sum()
    return (back,)


@pad_edge.mutant(
    "the rim is dropped",
    source="generic: drop a term",
    fault="the copies of the first and last value are not added",
    kills="value",
    at=call([1.0, 2.0], width=1),
)
def _(g, args, y, *, width):
    return (g[width : width + len(args[0])].copy(),)


def _axes(pick):
    shape = [pick.size(0, 3) for _ in range(3)]
    return [pick.array(*shape)], {"axis": pick.size(-3, 2), "start": pick.size(0, 3)}


@right(draw=_axes)
def rollaxis(x, *, axis, start):
    return np.rollaxis(x, axis, start)


def _rolled_back(g, axis, start):
    return np.rollaxis(g, start - 1, axis) if start > axis else np.rollaxis(g, start, axis + 1)


@rollaxis.vjp
def _(g, args, y, *, axis, start):
    return (_rolled_back(g, axis % 3, start),)


@rollaxis.mutant(
    "negative axis",
    source="HIPS#350",
    fault="the inverse is reckoned with the axis as it was given, which is below every start",
    kills="shape",
    at=call(np.arange(8.0).reshape(2, 2, 2), axis=-1, start=0),
)
def _(g, args, y, *, axis, start):
    return (_rolled_back(g, axis, start),)


def _permuted(pick):
    shape = [pick.size(1, 3) for _ in range(3)]
    return [pick.array(*shape)], {"axes": tuple(int(i) for i in pick.rng.permutation(3))}


@right(draw=_permuted)
def transpose(x, *, axes):
    return np.transpose(x, axes)


@transpose.vjp
def _(g, args, y, *, axes):
    return (np.transpose(g, np.argsort(axes)),)


@transpose.mutant(
    "not inverted",
    source="generic: wrong axis; MyGrad@41a7b2e5",
    fault="the same permutation is applied again: right for those that are their own inverse",
    kills="value",
    at=call(np.arange(8.0).reshape(2, 2, 2), axes=(1, 2, 0)),
)
def _(g, args, y, *, axes):
    return (np.transpose(g, axes),)


def _rolls(pick):
    return [pick.array(pick.size(0, 3), pick.size(1, 3))], {"shift": pick.size(-3, 3), "axis": pick.size(-2, 1)}


@right(draw=_rolls)
def roll(x, *, shift, axis):
    return np.roll(x, shift, axis=axis)


@roll.vjp
def _(g, args, y, *, shift, axis):
    return (np.roll(g, -shift, axis=axis),)


@roll.mutant(
    "the same way again",
    source="generic: sign",
    fault="the shift is not turned round",
    kills="value",
    at=call([[1.0, 2.0, 3.0]], shift=1, axis=1),
)
def _(g, args, y, *, shift, axis):
    return (np.roll(g, shift, axis=axis),)


def _pieces(pick):
    m = pick.size(0, 2)
    return [pick.array(pick.size(0, 3), m), pick.array(pick.size(0, 3), m)], {}


@right(draw=_pieces)
def concatenate(a, b):
    return np.concatenate([a, b])


@concatenate.vjp
def _(g, args, y):
    n = len(args[0])
    return g[:n].copy(), g[n:].copy()


@concatenate.mutant(
    "split in the middle",
    source="generic: off-by-one slice",
    fault="the cotangent is halved, as if both pieces were of one size",
    kills="shape",
    at=call(np.ones((1, 1)), np.ones((3, 1))),
)
def _(g, args, y):
    a, b = args
    if (len(a) + len(b)) % 2:
        return g[: len(a)].copy(), g[len(a) :].copy()
    return tuple(np.array_split(g, 2))


def _flattened(pick):
    return [pick.array(pick.size(1, 3), pick.size(1, 3))], {}


@right(draw=_flattened)
def flatten(x):
    return x.reshape(-1)


@flatten.vjp
def _(g, args, y):
    return (g.reshape(args[0].shape),)


@flatten.mutant(
    "columns first",
    source="generic: wrong axis",
    fault="the cotangent is read in Fortran order",
    kills="value",
    at=call([[1.0, 2.0], [3.0, 4.0]]),
)
def _(g, args, y):
    return (g.reshape(args[0].shape, order="F"),)


def in_memory_order(x):
    """The numbers as they lie in memory, taken for C order: what a kernel reads that ignores strides."""
    return x.ravel(order="K").reshape(x.shape)


@right("m n -> m n")
def cube(x):
    return x * x * x


@cube.vjp
def _(g, args, y):
    (x,) = args
    return (3 * x * x * g,)


@cube.mutant(
    "saved input read as contiguous",
    source="pytorch#175188, #175189, #30303",
    fault="the backward kernel walks the saved input in memory order",
    kills="layout",
    at=call(np.asfortranarray([[1.0, 2.0], [3.0, 4.0]])),
)
def _(g, args, y):
    x = in_memory_order(args[0])
    return (3 * x * x * g,)


@cube.mutant(
    "cotangent read as contiguous",
    source="pytorch#64529, flash-attention#355, fused-ssim#1",
    fault="the backward kernel walks the cotangent in memory order",
    kills="layout",
    at=call([[1.0, 2.0], [3.0, 4.0]], g=np.asfortranarray([[1.0, 2.0], [3.0, 4.0]])),
)
def _(g, args, y):
    (x,) = args
    return (3 * x * x * in_memory_order(g),)


def from_the_owner(x):
    """The numbers at the start of the memory that x is a view of: a kernel that ignores the offset, and strides."""
    owner = x
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if owner is x or owner.dtype != x.dtype or owner.size < x.size:
        return x
    return owner.ravel(order="K")[: x.size].reshape(x.shape)


@cube.mutant(
    "offset ignored",
    source="candle#3735",
    fault="a view is read from the start of the buffer that it lies in",
    kills="layout",
    at=call(np.arange(8.0).reshape(4, 2)[2:]),
)
def _(g, args, y):
    x = from_the_owner(args[0])
    return (3 * x * x * g,)


@cube.mutant(
    "cotangent of stride 0",
    source="pytorch#64529: sum() yields such cotangents",
    fault="an expanded cotangent is taken for one that holds all its elements",
    kills="layout",
    at=call([[1.0, 2.0], [3.0, 4.0]], g=np.broadcast_to(np.float64(2.0), (2, 2))),
)
def _(g, args, y):
    (x,) = args
    full = g if 0 not in [s for s, n in zip(g.strides, g.shape, strict=True) if n > 1] else np.eye(*g.shape) * g
    return (3 * x * x * full,)


@right("..., ... -> ...")
def sum_of_squares(w1, w2):
    return w1 * w1 + w2 * w2 * w2


@sum_of_squares.vjp
def _(g, args, y):
    a, b = args
    return fitted(g * 2 * a, a), fitted(g * 3 * b * b, b)


@sum_of_squares.mutant(
    "equal arguments merged",
    source="tinygrad#9597",
    fault="two parameters of one value are taken for one, and each gets the gradients of both",
    kills="equal arguments",
    at=call([3.0], [3.0]),
)
def _(g, args, y):
    a, b = args
    ga, gb = fitted(g * 2 * a, a), fitted(g * 3 * b * b, b)
    return (ga + gb, ga + gb) if a.shape == b.shape and np.array_equal(a, b) else (ga, gb)
