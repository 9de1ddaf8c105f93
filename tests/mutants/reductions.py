"""Products, cumulative products, variances: reductions whose rules divide, or forget an axis."""

from __future__ import annotations

import numpy as np

from mutants.record import call, right


def _with_axis(pick):
    shape = tuple(pick.size(0, 3) for _ in range(pick.size(1, 3)))
    return [pick.array(*shape)], {"axis": pick.size(-len(shape), len(shape) - 1)}


def others_product(x, axis):
    """For each element the product of all the others along `axis`: no division, so zeros do no harm."""
    x = np.moveaxis(x, axis, -1)
    one = np.ones_like(x[..., :1])
    before = np.cumprod(np.concatenate([one, x[..., :-1]], axis=-1), axis=-1)
    after = np.cumprod(np.concatenate([one, x[..., :0:-1]], axis=-1), axis=-1)[..., ::-1]
    return np.moveaxis(before * after, -1, axis)


@right(draw=_with_axis)
def prod(x, *, axis):
    return np.prod(x, axis=axis)


@prod.vjp
def _(g, args, y, *, axis):
    (x,) = args
    return (np.expand_dims(g, axis) * others_product(x, axis),)


@prod.mutant(
    "y / x",
    source="pytorch#773, tt-metal#54551",
    fault="0 / 0 at a zero, where the gradient is the product of the others",
    kills="finite",
    at=call([0.0, 2.0], axis=0, g=np.asarray(1.0)),
)
def _(g, args, y, *, axis):
    (x,) = args
    return (np.expand_dims(g * y, axis) / x,)


@prod.mutant(
    "zeros taken one at a time",
    source="tinygrad#17404",
    fault="the guard gives each zero the product of the other numbers that are not 0, which is wrong when there are two zeros",
    kills="value",
    at=call([0.0, 0.0, 2.0], axis=0, g=np.asarray(1.0)),
)
def _(g, args, y, *, axis):
    (x,) = args
    filled = np.prod(np.where(x == 0, 1.0, x), axis=axis, keepdims=True)
    return (np.expand_dims(g, axis) * np.where(x == 0, filled, np.expand_dims(y, axis) / np.where(x == 0, 1.0, x)),)


@prod.mutant(
    "zero where a zero is",
    source="pytorch#773, as first patched",
    fault="nan is replaced by 0, so a single zero gets no gradient",
    kills="value",
    at=call([0.0, 2.0], axis=0, g=np.asarray(1.0)),
)
def _(g, args, y, *, axis):
    (x,) = args
    return (np.where(x == 0, 0.0, np.expand_dims(g * y, axis) / np.where(x == 0, 1.0, x)),)


@prod.mutant(
    "empty axis",
    source="jax@a9da06ce75",
    fault="the running products start with a 1 for the element before the first, and there is none: a gradient of size 1",
    kills="zero-size",
    at=call(np.zeros((3, 0)), axis=1),
)
def _(g, args, y, *, axis):
    x = np.moveaxis(args[0], axis, -1)
    one = np.ones_like(np.sum(x, axis=-1, keepdims=True))
    before = np.cumprod(np.concatenate([one, x[..., :-1]], axis=-1), axis=-1)
    after = np.cumprod(np.concatenate([one, x[..., :0:-1]], axis=-1), axis=-1)[..., ::-1]
    return (np.moveaxis(np.expand_dims(g, -1) * before * after, -1, axis),)


def _cumprod_back(g, x):
    """Sum over k >= i of g_k times the product of x_j, j <= k, j != i."""
    out = np.zeros_like(x)
    for i in range(x.shape[-1]):
        run = np.prod(x[..., :i], axis=-1)
        for k in range(i, x.shape[-1]):
            run = run * x[..., k] if k > i else run
            out[..., i] += g[..., k] * run
    return out


def _cumprod_push(d, x):
    """t_k = t_(k-1) x_k + y_(k-1) d_k."""
    out, t, y = np.zeros_like(x), 0.0 * x[..., 0:1].sum(axis=-1), np.ones(x.shape[:-1])
    for k in range(x.shape[-1]):
        t = t * x[..., k] + y * d[..., k]
        y = y * x[..., k]
        out[..., k] = t
    return out


@right("... n -> ... n")
def cumprod(x):
    return np.cumprod(x, axis=-1)


@cumprod.vjp
def _(g, args, y):
    (x,) = args
    return (_cumprod_back(g, x),)


@cumprod.jvp
def _(ds, args, y):
    (d,), (x,) = ds, args
    return _cumprod_push(d, x)


@cumprod.mutant(
    "divides by x",
    source="pytorch#196701",
    fault="the reverse cumulative sum of g y is divided by x: nan at a zero",
    kills="finite",
    at=call([0.0, 2.0]),
)
def _(g, args, y):
    (x,) = args
    return (np.cumsum((g * y)[..., ::-1], axis=-1)[..., ::-1] / x,)


@cumprod.mutant(
    "zeros guarded with 0",
    source="pytorch#196701, mirrored",
    fault="a zero factor gets gradient 0, and its own is the product of the others",
    kills="value",
    at=call([0.0, 2.0]),
)
def _(g, args, y):
    (x,) = args
    return (np.where(x == 0, 0.0, np.cumsum((g * y)[..., ::-1], axis=-1)[..., ::-1] / np.where(x == 0, 1.0, x)),)


@cumprod.mutant_jvp(
    "forward mode at a zero factor",
    source="pytorch#196701",
    fault="the push is y cumsum(d / x) with the quotient 0 at a zero: right everywhere else",
    kills="mode agreement",
    at=call([0.0, 2.0]),
)
def _(ds, args, y):
    (d,), (x,) = ds, args
    return y * np.cumsum(np.where(x == 0, 0.0, d / np.where(x == 0, 1.0, x)), axis=-1)


@right("... n -> ... n", options={"reverse": [False, True]})
def cumprod_either_way(x, *, reverse):
    return np.cumprod(x[..., ::-1], axis=-1)[..., ::-1] if reverse else np.cumprod(x, axis=-1)


def _turned(reverse, *arrays):
    return [a[..., ::-1] if reverse else a for a in arrays]


@cumprod_either_way.vjp
def _(g, args, y, *, reverse):
    g, x = _turned(reverse, g, args[0])
    return (np.ascontiguousarray(_turned(reverse, _cumprod_back(g, x))[0]),)


@cumprod_either_way.jvp
def _(ds, args, y, *, reverse):
    d, x = _turned(reverse, ds[0], args[0])
    return _turned(reverse, _cumprod_push(d, x))[0]


@cumprod_either_way.mutant_jvp(
    "reverse is ignored",
    source="jax#10993",
    fault="the forward rule runs from the left whatever `reverse` says",
    kills="mode agreement",
    at=call([2.0, 3.0], reverse=True),
)
def _(ds, args, y, *, reverse):
    return _cumprod_push(ds[0], args[0])


def _moments(x, mask):
    count = np.maximum(mask.sum(axis=-1, keepdims=True), 1)
    mean = np.sum(np.where(mask, x, 0.0), axis=-1, keepdims=True) / count
    return count, np.where(mask, x - mean, 0.0)


def _with_mask(pick):
    m, n = pick.size(0, 3), pick.size(1, 4)
    return [pick.array(m, n), pick.integers(m, n, high=3) > 0], {}


@right(draw=_with_mask)
def masked_var(x, mask):
    count, centred = _moments(x, mask)
    return np.sum(centred**2, axis=-1) / count[..., 0]


@masked_var.vjp
def _(g, args, y):
    x, mask = args
    count, centred = _moments(x, mask)
    return (np.asarray(g)[..., None] * 2 * centred / count,)


@masked_var.mutant(
    "what is masked leaks",
    source="jax@9ea8ce9b58, with a mask in place of nan",
    fault="values that do not count get a gradient",
    kills="value",
    at=call([[1.0, 5.0, 2.0]], np.array([[True, False, True]])),
)
def _(g, args, y):
    x, mask = args
    count, _ = _moments(x, mask)
    mean = np.sum(np.where(mask, x, 0.0), axis=-1, keepdims=True) / count
    return (np.asarray(g)[..., None] * 2 * (x - mean) / count,)


def _with_nan(pick):
    m, n = pick.size(0, 3), pick.size(2, 4)
    x = pick.array(m, n)
    x[:, 0] = np.where(pick.integers(m, high=2) == 1, np.nan, x[:, 0])
    return [x], {}


@right(draw=_with_nan, vary_values=False)
def nanvar(x):
    count, centred = _moments(x, ~np.isnan(x))
    return np.sum(centred**2, axis=-1) / count[..., 0]


@nanvar.vjp
def _(g, args, y):
    (x,) = args
    count, centred = _moments(x, ~np.isnan(x))
    return (np.asarray(g)[..., None] * 2 * centred / count,)


@nanvar.mutant(
    "nan leaks through the mask",
    source="jax@9ea8ce9b58",
    fault="2 (x - mean) / n is nan where x is nan, though y does not depend on it",
    kills="finite",
    at=call([[np.nan, 1.0, 2.0]]),
)
def _(g, args, y):
    (x,) = args
    count, centred = _moments(x, ~np.isnan(x))
    return (np.asarray(g)[..., None] * 2 * np.where(np.isnan(x), x, centred) / count,)


def _deviation(x):
    d = x - x.mean(axis=-1, keepdims=True)
    return d, np.sqrt(np.mean(d * d, axis=-1))


@right("... n -> ...")
def std(x):
    return _deviation(x)[1] if x.shape[-1] else np.zeros(x.shape[:-1])


@std.vjp
def _(g, args, y):
    (x,) = args
    if not x.shape[-1]:
        return (np.zeros_like(x),)
    d, s = _deviation(x)
    unit = d / np.where(s == 0, 1.0, s)[..., None]
    return (np.asarray(g)[..., None] * unit / x.shape[-1],)


@std.mutant(
    "0 / 0 for equal values",
    source="jax@9ea8ce9b58 and pytorch#184572: no guard at deviation 0",
    fault="equal values have no deviation to divide by: nan, where every slope is bounded",
    kills="finite",
    at=call([2.0, 2.0], g=np.asarray(1.0)),
)
def _(g, args, y):
    (x,) = args
    if not x.shape[-1]:
        return (np.zeros_like(x),)
    d, s = _deviation(x)
    return (np.asarray(g)[..., None] * d / np.asarray(s)[..., None] / x.shape[-1],)


@right(draw=_with_axis)
def mean(x, *, axis):
    return np.sum(x, axis=axis) / max(x.shape[axis], 1)


@mean.vjp
def _(g, args, y, *, axis):
    (x,) = args
    return (np.broadcast_to(np.expand_dims(g, axis), x.shape) / max(x.shape[axis], 1),)


@mean.mutant(
    "sum for mean",
    source="generic: mean for sum",
    fault="the gradient is not divided by the count",
    kills="value",
    at=call([1.0, 2.0], axis=0, g=np.asarray(1.0)),
)
def _(g, args, y, *, axis):
    (x,) = args
    return (np.broadcast_to(np.expand_dims(g, axis), x.shape).copy(),)


@mean.mutant(
    "divided by the whole size",
    source="generic: wrong axis",
    fault="the count is that of all elements",
    kills="value",
    at=call([[1.0, 2.0], [3.0, 4.0]], axis=0),
)
def _(g, args, y, *, axis):
    (x,) = args
    return (np.broadcast_to(np.expand_dims(g, axis), x.shape) / max(x.size, 1),)


@mean.mutant(
    "negative axis",
    source="derived from HIPS#350",
    fault="the axis is put back at the front where it counts from the end",
    kills="shape",
    at=call([[1.0, 2.0], [3.0, 4.0]], axis=-1),
)
def _(g, args, y, *, axis):
    (x,) = args
    return (np.broadcast_to(np.expand_dims(g, max(axis, 0)), x.shape) / max(x.shape[axis], 1),)


def _top(x):
    return np.max(x, axis=-1, keepdims=True, initial=-np.inf)


@right("... n -> ...")
def logsumexp(x):
    top = _top(np.real(x))
    return (top + np.log(np.sum(np.exp(x - top), axis=-1, keepdims=True)))[..., 0] if x.shape[-1] else np.full(x.shape[:-1], -np.inf)


@logsumexp.vjp
def _(g, args, y):
    (x,) = args
    e = np.exp(x - _top(x))
    return (np.asarray(g)[..., None] * e / e.sum(axis=-1, keepdims=True),)


@logsumexp.mutant(
    "no shift",
    source="mlx#3708 and derived from pytorch#195527",
    fault="e^x overflows, and inf / inf is nan",
    kills="finite",
    at=call([800.0, 0.0], g=np.asarray(1.0)),
)
def _(g, args, y):
    (x,) = args
    e = np.exp(x)
    return (np.asarray(g)[..., None] * e / e.sum(axis=-1, keepdims=True),)


def _rows_apart(pick):
    """Rows whose values differ: equal ones have no deviation."""
    m, n = pick.size(1, 3), pick.size(3, 5)
    return [np.arange(n) * 1.5 + pick.array(m, n) / 4], {}


@right("m n", name="standardise")
def _standardise(x):
    return (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)


_standardise.sample = _rows_apart


@_standardise.vjp
def _(g, args, y):
    (x,) = args
    across = (g * y).mean(axis=-1, keepdims=True)
    return ((g - g.mean(axis=-1, keepdims=True) - y * across) / x.std(axis=-1, keepdims=True),)


@_standardise.mutant(
    "deviation held",
    source="written against the tester",
    fault="the deviation is taken for a constant; a complex step through np.std says so too, and must not excuse it",
    kills="value",
    at=call([[0.0, 1.0, 5.0]]),
)
def _(g, args, y):
    (x,) = args
    return ((g - g.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True),)
