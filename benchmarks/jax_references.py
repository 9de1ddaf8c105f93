"""References of JAX's functions where they differ from PyTorch's of the same name, or have no like there."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
from scipy import special

from benchmarks import reference_matrices, reference_networks, references
from benchmarks.reference_matrices import in_mpmath, positive
from benchmarks.reference_networks import (
    attention,
    conv,
    log_softmax,
    nearest_to_centres,
    normalised,
    padded,
    picked,
    pooled,
    resized,
    views,
)
from benchmarks.references import Function, in_both


def over(f: Function) -> Function:
    return lambda x, axis=None, keepdims=False: f(x, axis=axis, keepdims=keepdims)


def same_padding(x: Any, kernel: tuple[int, ...], stride: int, dilation: int, fill: float = 0.0) -> Any:
    """Such that there is a window for each `stride` elements."""
    before, after = [], []
    for n, k in zip(x.shape[-len(kernel) :], kernel, strict=True):
        total = max((-(-n // stride) - 1) * stride + dilation * (k - 1) + 1 - n, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return padded(x, before, after, fill)


def spread(x: Any, by: int, rank: int) -> Any:
    """With by - 1 zeros between neighbours along the last axes."""
    shape = (*x.shape[: x.ndim - rank], *(by * (n - 1) + 1 for n in x.shape[-rank:]))
    y = np.zeros(shape) + 0 * x.sum()
    y[(..., *[slice(None, None, by)] * rank)] = x
    return y


def conv_general(groups: int = 1, base: int = 1) -> Function:
    def of(x: Any, w: Any, stride: int = 1, padding: str = "VALID", dilation: int = 1) -> Any:
        kernel = w.shape[2:]
        x = spread(x, base, len(kernel)) if base > 1 else x
        x = same_padding(x, kernel, stride, dilation) if padding == "SAME" else x
        return conv(x, w, stride, 0, dilation, groups)

    return of


def by_batches(x: Any, w: Any, **options: Any) -> Any:
    parts = zip(np.split(x, 2, 0), np.split(w, 2, 0), strict=True)
    return np.concatenate([conv_general()(a, b, **options) for a, b in parts], 1)


def dilated_windows(x: Any) -> Any:
    wide = np.zeros((max(2 * x.shape[0] - 1, 0), x.shape[1])) + 0 * x.sum()
    wide[::2] = x
    y: Any = 0.0
    for i in range(2):
        for j in range(2):
            y = y + wide[i : len(wide) - 1 + i, 2 * j : x.shape[1] - 2 + 2 * j]
    return y


def sums_of_two(x: Any) -> Any:
    """Windows of 2 x 1, every second column, padded to as many as there are rows."""
    below = np.concatenate([x[1:], 0 * x[:1]])
    return (x + below)[:, ::2]


def patches(x: Any) -> Any:
    _, under = views(x, (2, 2))
    return np.concatenate([np.stack([u[:, c] for u in under], 1) for c in range(x.shape[1])], 1)


def nine_around(x: Any) -> Any:
    _, under = views(padded(x, (1, 1), (1, 1)), (3, 3))
    return sum(under[1:], under[0]) / 9


def root_of_cubic(v: Any) -> Any:
    if v == 0:
        return mpmath.mpf(0)
    a = abs(v)
    s = mpmath.sqrt(a * a / 4 + mpmath.mpf(1) / 27)
    u = mpmath.cbrt(a / 2 + s)
    return mpmath.sign(v) * (u - 1 / (3 * u))


def _root_in_floats(x: Any) -> Any:
    return np.asarray(np.vectorize(lambda v: float(root_of_cubic(mpmath.mpf(v))), otypes=[float])(x)) if not np.iscomplexobj(x) else _no(x)


def _no(x: Any) -> Any:
    raise TypeError("real numbers only")


def interpolated(a: Any, b: Any) -> Any:
    return np.interp(a, np.arange(b.size) * 1.0, b)


def segments_max(x: Any, i: Any) -> Any:
    return references.segments(np.maximum, None, -np.inf)(x, i)


def scanned(x: Any) -> Any:
    c: Any = 0.5
    out = []
    for v in x:
        out.append(c * v)
        c = np.tanh(c + v)
    return c + 0 * x.sum(), np.stack(out) if out else x


def at_nearest(x: Any, c: Any) -> Any:
    """Linear interpolation at the columns of c; beyond the rim, the rim."""
    row, column = c
    i, j = reference_networks.whole(row), reference_networks.whole(column)
    y: Any = 0.0
    for di in (0, 1):
        for dj in (0, 1):
            part = x[np.clip(i + di, 0, x.shape[0] - 1), np.clip(j + dj, 0, x.shape[1] - 1)]
            y = y + part * (row - i if di else 1 - (row - i)) * (column - j if dj else 1 - (column - j))
    return y


def _root_of_positive(a: Any) -> Any:
    values, vectors = mpmath.eigsy(a)
    return (vectors * mpmath.diag([mpmath.sqrt(v) for v in values]) * vectors.T).tolist()


def _root_of_floats(a: Any) -> Any:
    values, vectors = np.linalg.eigh(a)
    return vectors @ np.diag(np.sqrt(values)) @ vectors.T


_root = in_mpmath(_root_of_floats, _root_of_positive)
_polar = in_mpmath(
    lambda a: (lambda u, s, v: u @ v)(*np.linalg.svd(a, full_matrices=False)),
    lambda a: (lambda u, s, v: (u * v).tolist())(*mpmath.svd_r(a)),
)

REFERENCES: dict[str, Function] = {
    **references.REFERENCES, **reference_matrices.REFERENCES, **reference_networks.REFERENCES,
    "take": lambda x, i: x[i], "multigammaln": references.mvlgamma,
    "spence": in_both(special.spence, lambda v: mpmath.polylog(2, 1 - v)), "exp1": in_both(special.exp1, lambda v: mpmath.expint(1, v)),
    "expi": in_both(special.expi, mpmath.ei),
    "dawsn": in_both(special.dawsn, lambda v: mpmath.sqrt(mpmath.pi) / 2 * mpmath.exp(-v * v) * mpmath.erfi(v)),
    "fresnel": lambda x: (_fresnel_s(x), _fresnel_c(x)), "sici": lambda x: (_si(x), _ci(x)),
    "modf": lambda x: (x - np.trunc(x), np.trunc(x)),
    "log1mexp": lambda x: np.log(-np.expm1(-np.abs(x))), "pow_of_int_array": lambda x: np.stack([x**0, x, x * x]),
    "standardize": lambda x, axis=-1: normalised(x, axis), "layer_norm_of_standardize": lambda x, w, b: normalised(x, 1) * w + b,
    "glu": lambda x: x[:, :1] * references.expit(x[:, 1:]), "median": lambda x, axis: np.median(x, axis=axis),
    "nanmedian": lambda x, axis: np.median(x, axis=axis),
    "max": over(np.max), "min": over(np.min), "var": over(np.var), "std": over(np.std), "ptp": over(np.ptp), "nansum": over(np.sum),
    "nanmean": over(np.mean), "nanvar": over(np.var), "nanprod": over(np.prod), "nanmax": over(np.max), "average": over(np.mean),
    "flip": lambda m, axis=None: np.flip(m, axis), "logsumexp_all": references.REFERENCES["logsumexp_all"],
    "logmeanexp": lambda x, axis=None, keepdims=False: (lambda y: y if keepdims else np.squeeze(y, axis))(
        np.log(np.mean(np.exp(x - np.max(x, axis=axis, keepdims=True)), axis=axis, keepdims=True)) + np.max(x, axis=axis, keepdims=True)),
    "reduce_window_sum": sums_of_two, "reduce_window_max": pooled(reference_networks.highest, (2, 2), 1), 
    "reduce_window_dilated": dilated_windows,
    "dynamic_slice": lambda x, i: x[np.clip(i[:1], 0, max(len(x) - 1, 0))] if i.size else x[:1], "segment_max": segments_max,
    "interp": interpolated, "convolve": lambda a, b: np.convolve(a, b), "sqrtm_of_square": lambda x: _root(positive(x)) if len(x) else x,
    "polar": lambda x: _polar(x + 4 * np.eye(len(x))) if len(x) else x,
    "conv1d": conv_general(), "conv2d": conv_general(), "conv2d_groups": conv_general(2), "conv1d_base_dilated": conv_general(base=2),
    "conv2d_batch_groups": by_batches, "max_pool": pooled(reference_networks.highest, (2, 2), 2), "avg_pool": nine_around,
    "resize_nearest": resized(nearest_to_centres, 3, 6), "patches": patches, "map_coordinates": at_nearest,
    "dot_product_attention": reference_networks.with_heads(attention()), "cross_entropy": lambda x, t: -picked(log_softmax(x), t)[:, None],
    "embedding_of_one_hot": lambda x, t: x.T[t], "scan": scanned,
    "fori_loop": lambda x: 2 * np.sin(2 * np.sin(2 * np.sin(x))), "map": np.tanh,
    "lax_cond": lambda x: np.sin(x) if np.real(x.sum()) > 0 else np.cos(x),
    "custom_root": in_both(_root_in_floats, root_of_cubic), "switch": np.exp, "checkpoint": lambda x: np.tanh(x) * x,
}  # fmt: skip

_fresnel_s, _fresnel_c = (in_both(lambda x, k=k: special.fresnel(x)[k], f) for k, f in enumerate((mpmath.fresnels, mpmath.fresnelc)))
_si, _ci = (in_both(lambda x, k=k: special.sici(x)[k], f) for k, f in enumerate((mpmath.si, mpmath.ci)))
