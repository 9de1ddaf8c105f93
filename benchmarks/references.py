"""The frameworks' functions once more, in plain NumPy: what the arbiter of the gradient tester evaluates in high precision.

They say what a function is, not how it is best computed: no trick against overflow that its author may have got wrong.
`REFERENCES[name]` takes the arguments and options of the function `name` of the tables. Windows, matrices and losses have files
of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
from scipy import special

from engine.testing.precise import Number, lifted
from engine.testing.scalars import safely

Function = Callable[..., Any]


def in_both(plain: Function, precise: Function) -> Function:
    """A function of one number that NumPy programs do not know in high precision: for floats, and for mpmath's numbers."""

    def f(x: Any) -> Any:
        if np.asarray(x).dtype != object:
            return plain(x)
        return np.asarray(np.frompyfunc(lambda v: Number(safely(precise, lifted(v), cost=200.0)), 1, 1)(x.view(np.ndarray)), object).view(
            type(x)
        )

    return f


polygamma_2 = in_both(lambda x: special.polygamma(2, x), lambda v: mpmath.psi(2, v))
ndtri = in_both(special.ndtri, lambda p: mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1))


def softplus(x: Any) -> Any:
    return np.logaddexp(0.0, x)


def expit(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def mvlgamma(x: Any) -> Any:
    return np.log(np.pi) / 2 + special.gammaln(x + 2) + special.gammaln(x + 1.5)


# Activations


def softplus_beta(x: Any) -> Any:
    return np.where(x * 3 > 10, x, softplus(3 * x) / 3)


def softshrink(x: Any) -> Any:
    return np.where(x > 0.5, x - 0.5, np.where(x < -0.5, x + 0.5, 0 * x))


def prelu(x: Any, w: Any) -> Any:
    return np.where(x.T > 0, x.T, w * x.T)


def glu(x: Any) -> Any:
    return x[:, 0:1] * expit(x[:, 1:2])


def sparse_plus(x: Any) -> Any:
    return np.where(x <= -1, 0 * x, np.where(x >= 1, x, (x + 1) ** 2 / 4))


def standardize(x: Any, axis: Any = -1) -> Any:
    centred = x - np.mean(x, axis=axis, keepdims=True)
    return centred / np.sqrt(np.mean(x * x, axis=axis, keepdims=True) - np.mean(x, axis=axis, keepdims=True) ** 2 + 1e-5)


# Reductions


def lower_median(x: Any, axis: int = 0) -> Any:
    return np.take(np.sort(x, axis), (x.shape[axis] - 1) // 2, axis)


def largest(x: Any, axis: int = 0) -> Any:
    return np.max(x, axis=axis, keepdims=True)


def cummax(x: Any, axis: int = 0) -> Any:
    return np.maximum.accumulate(x, axis)


def cummin(x: Any, axis: int = 0) -> Any:
    return np.minimum.accumulate(x, axis)


def logcumsumexp(x: Any, axis: int = 0) -> Any:
    return np.logaddexp.accumulate(x, axis)


def quantile(q: float) -> Function:
    return lambda x, axis: np.quantile(x, q, axis=axis)


def cumulative_trapezoid(x: Any, axis: int = 0) -> Any:
    x = np.moveaxis(x, axis, -1)
    return np.moveaxis(np.cumsum((x[..., 1:] + x[..., :-1]) / 2, -1), -1, axis)


def norm(order: float) -> Function:
    """The norm of a vector along some axes."""

    def of(x: Any, axis: Any = None) -> Any:
        size = np.abs(x)
        if np.isinf(order):
            return np.max(size, axis=axis) if order > 0 else np.min(size, axis=axis)
        if order == 2:
            return np.sqrt(np.sum(x * x, axis=axis))
        return np.sum(size, axis=axis) if order == 1 else np.sum(size**order, axis=axis) ** (1 / order)

    return of


def renorm(x: Any) -> Any:
    x = np.atleast_2d(x)
    size = np.sqrt(np.sum(x * x, axis=tuple(range(1, x.ndim)), keepdims=True))
    return np.where(size > 1, x / (size + 1e-7), x)


def cumprod_reverse(x: Any, axis: int = 0) -> Any:
    return np.flip(np.cumprod(np.flip(x, axis), axis), axis)


def logmeanexp(x: Any, axis: Any = None) -> Any:
    top = np.max(x, axis=axis, keepdims=True)
    return np.squeeze(np.log(np.mean(np.exp(x - top), axis=axis, keepdims=True)) + top, axis)


# Indexing: one entry after the other, so that it is plain which one is last.


def filled(x: Any, i: Any, value: float) -> Any:
    return np.where(np.isin(np.arange(len(x)), i)[:, None], 0 * x + value, x)


def put(combine: Function) -> Function:
    """x[i[k]] = combine(x[i[k]], v[k]) for one k after the other, by rows."""

    def of(x: Any, i: Any, v: Any, **_: Any) -> Any:
        y = x + 0 * v.sum() if np.iscomplexobj(v) else x.copy()
        for k, at in enumerate(i):
            y[at] = combine(y[at], v[k])
        return y

    return of


def put_along(combine: Function, fresh: Any = None) -> Function:
    """The same where each column has indices of its own. `fresh`: what an entry that is written to holds before, instead of x."""

    def of(x: Any, i: Any, v: Any) -> Any:
        y = x + 0 * v.sum() if np.iscomplexobj(v) else x.copy()
        if fresh is not None:
            y[i, np.arange(i.shape[1])] = fresh
        for k, row in enumerate(i):
            for c, at in enumerate(row):
                y[at, c] = combine(y[at, c], v[k, c])
        return y

    return of


def put_mean(x: Any, i: Any, v: Any) -> Any:
    count = np.array([1 + np.sum(i == k) for k in range(len(x))])
    return put(np.add)(x, i, v) / count[:, None]


def put_mean_along(include: bool) -> Function:
    def of(x: Any, i: Any, v: Any) -> Any:
        count = np.array([[np.sum(i[:, c] == k) for c in range(i.shape[1])] for k in range(len(x))]).reshape(len(x), i.shape[1])
        total = put_along(np.add, None if include else 0.0)(x, i, v)
        return total / np.maximum(count + include, 1)

    return of


def segments(ufunc: Any, count: int | None = None, start: float = 0.0) -> Function:
    """Rows of x gathered by the numbers i; a segment of no rows holds `start`."""

    def of(x: Any, i: Any) -> Any:
        n = len(x) if count is None else count
        rows = [[x[k] for k in range(min(len(x), len(i))) if i[k] == s] for s in range(n)]
        return np.stack([fold(ufunc, r) if r else 0 * x.sum(0) + start for r in rows]) if n else x

    return of


def fold(ufunc: Any, rows: list[Any]) -> Any:
    y = rows[0]
    for r in rows[1:]:
        y = ufunc(y, r)
    return y


def wrapped_or_dropped(x: Any, i: Any) -> tuple[Any, Any]:
    """Indices as JAX reads them: negative ones count from the end. Which of them are inside?"""
    i = np.where(i < 0, i + len(x), i)
    return i, (i >= 0) & (i < len(x))


def take_modes(x: Any, i: Any, mode: str = "fill") -> Any:
    if mode == "fill":
        i, inside = wrapped_or_dropped(x, i)
        return np.where(inside[:, None], x[np.where(inside, i, 0)], np.nan)
    return x[np.clip(i, 0, len(x) - 1) if mode == "clip" else i % len(x)]


def clipped(combine: Function) -> Function:
    def of(x: Any, i: Any, v: Any) -> Any:
        return put(combine)(x, np.clip(np.where(i < 0, i + len(x), i), 0, len(x) - 1), v)

    return of


def dropped(x: Any, i: Any, v: Any) -> Any:
    i, inside = wrapped_or_dropped(x, i)
    return put(np.add)(x, i[inside], v[inside])


def last(old: Any, new: Any) -> Any:
    return new + 0 * old


REFERENCES: dict[str, Function] = {
    "frac": lambda x: x - np.trunc(x), "positive": lambda x: +x, "polygamma_2": polygamma_2, "mvlgamma": mvlgamma, "ndtri": ndtri,
    "softplus_beta": softplus_beta, "softshrink": softshrink, "rrelu": lambda x: np.where(x >= 0, x, x * (1 / 8 + 1 / 3) / 2),
    "prelu": prelu, "glu": glu, "sparse_plus": sparse_plus, "standardize": standardize,
    "max": lambda x, axis: np.max(x, axis=axis), "min": lambda x, axis: np.min(x, axis=axis), "nanmedian": lower_median,
    "kthvalue": lambda x, axis: np.min(x, axis=axis), "cummax": cummax, "cummin": cummin, "logcumsumexp": logcumsumexp,
    "cumlogsumexp": logcumsumexp, "cumprod_reverse": cumprod_reverse, "sort": lambda x, axis: np.sort(x, axis), "topk": largest,
    "quantile": quantile(0.3), "percentile": quantile(0.75), "aminmax": lambda x, axis: (np.min(x, axis=axis), np.max(x, axis=axis)),
    "diff": lambda x, axis: np.diff(x, axis=axis), "trapezoid": lambda x, axis: np.trapezoid(x, axis=axis),
    "cumulative_trapezoid": cumulative_trapezoid, "nansum": lambda x, axis: np.sum(x, axis=axis),
    "gradient": lambda x, axis: np.gradient(x, axis=axis) if x.shape[axis] > 1 else x,
    "associative_scan": lambda x, axis: np.cumprod(x, axis), "amax": lambda x, axis: np.max(x, axis=axis),
    "amin": lambda x, axis: np.min(x, axis=axis), "var": lambda x, axis: np.var(x, axis=axis),
    "std": lambda x, axis: np.sqrt(np.var(x, axis=axis)), "var_mean": lambda x, axis: (np.var(x, axis=axis), np.mean(x, axis=axis)),
    "nanmean": lambda x, axis: np.mean(x, axis=axis), "nanvar": lambda x, axis: np.var(x, axis=axis),
    "nanprod": lambda x, axis: np.prod(x, axis=axis), "nanmax": lambda x, axis: np.max(x, axis=axis),
    "norm_1": norm(1), "norm_2": norm(2), "norm_3": norm(3), "norm_0.5": norm(0.5), "norm_inf": norm(np.inf), "norm_-inf": norm(-np.inf),
    "flip": lambda x, axis: np.flip(x, axis), "ptp": lambda x, axis: np.max(x, axis=axis) - np.min(x, axis=axis),
    "logmeanexp": logmeanexp, "average": lambda x, axis: np.mean(x, axis=axis),
    "weighted_average": lambda x, w: np.sum(x * w, axis=-1) / np.sum(w + 0 * x, axis=-1),
    "max_all": np.max, "median_all": lambda x: lower_median(np.reshape(x, -1)), "norm_all": norm(2), "renorm": renorm,
    "logsumexp_all": lambda x: fold(np.logaddexp, list(np.reshape(x, -1))),
    "top_k": lambda x: np.max(x, axis=1, keepdims=True), "reduce_precision": lambda x: x,
    "sort_key_val": lambda x: np.sort(x, 1) * 2,
    # indexing
    "index_select": lambda x, i: x[i], "getitem": lambda x, i: x[i], "take": lambda x, i: np.reshape(x, -1)[i],
    "embedding": lambda x, i: x[i],
    "embedding_bag": lambda x, i: np.mean(x[i], axis=0)[None] if len(i) else 0 * x[:1], "index_fill": lambda x, i: filled(x, i, 2.0),
    "gather": lambda x, i: np.take_along_axis(x, i, 0), "take_along_dim": lambda x, i: np.take_along_axis(x, i, 0),
    "take_along_axis": lambda x, i: np.take_along_axis(x, i, 0),
    "index_add": put(np.add), "index_put_accumulate": put(np.add), "index_copy": put(last), "index_put": put(last),
    "index_reduce_prod": put(np.multiply), "index_reduce_amax": put(np.maximum), "index_reduce_mean": put_mean,
    "scatter": put_along(last), "scatter_add": put_along(np.add), "scatter_reduce_sum": put_along(np.add),
    "scatter_reduce_prod": put_along(np.multiply), "scatter_reduce_mean": put_mean_along(True),
    "scatter_reduce_amax": put_along(np.maximum), "scatter_reduce_amin": put_along(np.minimum),
    "scatter_reduce_prod_alone": put_along(np.multiply, 1.0), "scatter_reduce_mean_alone": put_mean_along(False),
    "scatter_reduce_amax_alone": put_along(np.maximum, -np.inf),
    "at_get_fill": lambda x, i: x[i], "take_modes": take_modes,
    "segment_sum": segments(np.add, 3), "segment_prod": segments(np.multiply, 3, 1.0), "segment_max": segments(np.maximum, None, -np.inf),
    "at_add": put(np.add), "at_set": put(last), "at_mul": put(np.multiply), "at_max": put(np.maximum), "at_min": put(np.minimum),
    "at_divide": put(np.divide), "at_max_clip": clipped(np.maximum), "at_set_clip": clipped(last), "at_add_drop": dropped,
    "at_power": lambda x, i, v: put(np.power)(np.abs(x), i, v),
}  # fmt: skip
