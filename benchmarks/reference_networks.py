"""References of what networks are made of: windows, normalisations, losses. Loops over positions, one product each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.references import fold as folded
from benchmarks.references import softplus
from engine.testing.precise import lifted

Function = Callable[..., Any]


def log_softmax(x: Any, axis: int = -1) -> Any:
    if x.size == 0:
        return x
    x = x - np.max(x, axis=axis, keepdims=True)
    return x - np.log(np.sum(np.exp(x), axis=axis, keepdims=True))


# Windows


def padded(x: Any, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Any:
    """Around the last axes, as many as there are numbers."""
    rest = x.ndim - len(before)
    return np.pad(x, [(0, 0)] * rest + list(zip(before, after, strict=True)), constant_values=value) if x.size else _empty(x, before, after)


def _empty(x: Any, before: Sequence[int], after: Sequence[int]) -> Any:
    rest = x.ndim - len(before)
    shape = (*x.shape[:rest], *(n + a + b for n, a, b in zip(x.shape[rest:], before, after, strict=True)))
    return np.zeros(shape)


def views(x: Any, kernel: Sequence[int], stride: int = 1, dilation: int = 1) -> tuple[tuple[int, ...], list[Any]]:
    """For each position in the kernel, what lies under it in each window; and how many windows there are along each axis."""
    rank = len(kernel)
    count = tuple((n - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x.shape[-rank:], kernel, strict=True))
    found = []
    for at in itertools.product(*map(range, kernel)):
        cut = tuple(slice(dilation * p, dilation * p + stride * (c - 1) + 1, stride) for p, c in zip(at, count, strict=True))
        found.append(x[(..., *cut)])
    return count, found


def conv(x: Any, w: Any, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1) -> Any:
    rank = w.ndim - 2
    if groups > 1:
        parts = zip(np.split(x, groups, 1), np.split(w, groups, 0), strict=True)
        return np.concatenate([conv(a, b, stride, padding, dilation) for a, b in parts], 1)
    x = padded(x, (padding,) * rank, (padding,) * rank)
    kernel = w.shape[2:]
    _, under = views(x, kernel, stride, dilation)
    y: Any = 0.0
    for at, part in zip(itertools.product(*map(range, kernel)), under, strict=True):
        y = y + np.moveaxis(np.tensordot(part, w[(..., *at)], ([1], [1])), -1, 1)
    return y


def conv_transpose(x: Any, w: Any, stride: int = 1, padding: int = 0, dilation: int = 1) -> Any:
    """x spread out, each element times the kernel. w is (out, in, ...)."""
    rank = w.ndim - 2
    full = [stride * (n - 1) + dilation * (k - 1) + 1 for n, k in zip(x.shape[2:], w.shape[2:], strict=True)]
    y = np.zeros((x.shape[0], w.shape[0], *full)) + 0 * (x.sum() + w.sum())
    for at in itertools.product(*map(range, w.shape[2:])):
        cut = tuple(slice(dilation * p, dilation * p + stride * (n - 1) + 1, stride) for p, n in zip(at, x.shape[2:], strict=True))
        y[(..., *cut)] = y[(..., *cut)] + np.moveaxis(np.tensordot(x, w[(..., *at)], ([1], [1])), -1, 1)
    return y[(..., *[slice(padding, n - padding) for n in full])] if rank else y


def pooled(combine: Function, kernel: Sequence[int], stride: int, padding: int = 0, fill: float = 0.0) -> Function:
    def of(x: Any) -> Any:
        rank = len(kernel)
        _, under = views(padded(x, (padding,) * rank, (padding,) * rank, fill), kernel, stride)
        return combine(np.stack(under))

    return of


def highest(parts: Any) -> Any:
    return np.max(parts, axis=0)


def mean(parts: Any) -> Any:
    return np.mean(parts, axis=0)


def adaptive(combine: Function, size: int) -> Function:
    """Over the last two axes."""

    def of(x: Any) -> Any:
        h, w = x.shape[-2:]
        rows = []
        for i in range(size):
            row = []
            for j in range(size):
                part = x[..., i * h // size : -(-(i + 1) * h // size), j * w // size : -(-(j + 1) * w // size)]
                row.append(combine(part))
            rows.append(np.stack(row, -1))
        return np.stack(rows, -2)

    return of


def resized(weights: Function, *sizes: int) -> Function:
    """The last two axes, each by a matrix of weights."""

    def of(x: Any) -> Any:
        a, b = (weights(n, size) for n, size in zip(x.shape[-2:], sizes, strict=True))
        return np.matmul(np.matmul(a, x), b.T) if x.size else np.zeros((*x.shape[:-2], *sizes))

    return of


def nearest(n: int, size: int) -> Any:
    w = np.zeros((size, n))
    w[np.arange(size), np.arange(size) * n // size] = 1
    return w


def nearest_to_centres(n: int, size: int) -> Any:
    w = np.zeros((size, n))
    w[np.arange(size), np.floor((np.arange(size) + 0.5) * n / size).astype(int)] = 1
    return w


def linear_weights(n: int, size: int) -> Any:
    w = np.zeros((size, n))
    for i in range(size):
        at = max((i + 0.5) * n / size - 0.5, 0.0)
        low = min(int(at), n - 1)
        w[i, low] += 1 - (at - low)
        w[i, min(low + 1, n - 1)] += at - low
    return w


def cubic(a: float) -> Function:
    def weight(d: float) -> float:
        d = abs(d)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    def weights(n: int, size: int) -> Any:
        w = np.zeros((size, n))
        for i in range(size):
            at = (i + 0.5) * n / size - 0.5
            for k in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
                w[i, min(max(k, 0), n - 1)] += weight(at - k)
        return w

    return weights


def unfold(x: Any) -> Any:
    count, under = views(x, (2, 2))
    return np.stack(under, 2).reshape(x.shape[0], x.shape[1] * 4, count[0] * count[1])


def fold(x: Any) -> Any:
    y = np.zeros((x.shape[0], x.shape[1] // 4, 3, 3)) + 0 * x.sum()
    parts = x.reshape(x.shape[0], x.shape[1] // 4, 2, 2, 2, 2)
    for i, j in itertools.product(range(2), repeat=2):
        y[:, :, i : i + 2, j : j + 2] = y[:, :, i : i + 2, j : j + 2] + parts[:, :, i, j]
    return y


def pixel_unshuffle(x: Any) -> Any:
    b, c, h, w = x.shape
    return np.transpose(x.reshape(b, c, h // 2, 2, w // 2, 2), (0, 1, 3, 5, 2, 4)).reshape(b, 4 * c, h // 2, w // 2)


def pixel_shuffle(x: Any) -> Any:
    b, c, h, w = x.shape
    return np.transpose(x.reshape(b, c // 4, 2, 2, h, w), (0, 1, 4, 2, 5, 3)).reshape(b, c // 4, 2 * h, 2 * w)


def channel_shuffle(x: Any) -> Any:
    b, c, h, w = x.shape
    return np.swapaxes(x.reshape(b, 2, c // 2, h, w), 1, 2).reshape(x.shape)


def whole(x: Any) -> Any:
    """The integers below, as integers."""
    return np.array([int(lifted(v)) for v in np.ravel(np.floor(np.real(x)))], int).reshape(np.shape(x))


def grid_sample(mode: str, corners: bool) -> Function:
    """Bilinear. Beyond the rim: 0, the rim, or reflected."""

    def placed(g: Any, n: int) -> Any:
        at = (g + 1) / 2 * (n - 1) if corners else ((g + 1) * n - 1) / 2
        if mode == "reflection":
            low, span = -0.5, n
            away = np.abs(at - low)
            turns = np.floor(away / span)
            rest = away - turns * span
            at = np.where(turns % 2 == 0, rest + low, span - rest + low)
        return at if mode == "zeros" else np.clip(at, 0, n - 1)

    def of(x: Any, g: Any) -> Any:
        h, w = x.shape[-2:]
        column, row = placed(g[..., 0], w), placed(g[..., 1], h)
        j, i = whole(column), whole(row)
        y: Any = 0.0
        images = np.arange(x.shape[0])[:, None, None]
        for di, dj in itertools.product((0, 1), repeat=2):
            inside = (i + di >= 0) & (i + di < h) & (j + dj >= 0) & (j + dj < w)
            part = np.moveaxis(x[images, :, np.clip(i + di, 0, h - 1), np.clip(j + dj, 0, w - 1)], -1, 1)
            weight = (row - i if di else 1 - (row - i)) * (column - j if dj else 1 - (column - j))
            y = y + part * (weight * inside)[:, None]
        return y

    return of


# Normalisations


def normalised(x: Any, axes: Any, eps: float = 1e-5) -> Any:
    centred = x - np.mean(x, axis=axes, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, axis=axes, keepdims=True) + eps)


def group_norm(x: Any, w: Any, b: Any) -> Any:
    parts = normalised(x.reshape(x.shape[0], 2, -1), -1) if x.size else x
    return parts.reshape(x.shape) * w[:, None] + b[:, None]


def local_response_norm(x: Any) -> Any:
    squares = padded(np.moveaxis(x * x, 1, -1), (1,), (1,))
    n = x.shape[1]
    total = np.moveaxis((squares[..., 0:n] + squares[..., 1 : n + 1] + squares[..., 2 : n + 2]) / 3, -1, 1)
    return x / (1 + 1e-4 * total) ** 0.75


def length(x: Any, axis: int) -> Any:
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=True))


def cosine_similarity(a: Any, b: Any) -> Any:
    across = np.sum(a * b, axis=1)
    return across / (np.maximum(length(a, 1), 1e-8) * np.maximum(length(b, 1), 1e-8))[:, 0]


def attention(causal: bool = False) -> Function:
    def of(q: Any, k: Any, v: Any) -> Any:
        scores = np.matmul(q, np.swapaxes(k, -1, -2)) / np.sqrt(float(q.shape[-1]))
        if causal:
            scores = np.where(np.triu(np.ones(scores.shape[-2:], bool), 1), -np.inf, scores)
        weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True)) if scores.size else scores
        return np.matmul(weights / np.sum(weights, axis=-1, keepdims=True), v)

    return of


def with_heads(f: Function) -> Function:
    """The same for arrays (batch, place, head, feature)."""
    return lambda q, k, v: np.swapaxes(f(*(np.swapaxes(a, 1, 2) for a in (q, k, v))), 1, 2)


# Losses


def smooth_l1(a: Any, b: Any) -> Any:
    d = a - b
    return np.mean(np.where(np.abs(d) < 1, d * d / 2, np.abs(d) - 0.5))


def hinge_embedding(a: Any, b: Any) -> Any:
    return np.mean(np.where(b > 0, a, np.where(b < 0, np.maximum(0, 1 - a), a + np.maximum(0, 1 - a))))


def bce_with_logits(a: Any, b: Any) -> Any:
    return softplus(a) - a * b


def multilabel_soft_margin(a: Any, b: Any) -> Any:
    return np.mean(b * softplus(-a) + (1 - b) * softplus(a))


def triplet(a: Any, p: Any, n: Any, swap: bool = False) -> Any:
    def apart(u: Any, v: Any) -> Any:
        return np.sqrt(np.sum((u - v + 1e-6) ** 2, axis=-1))

    far = np.minimum(apart(a, n), apart(p, n)) if swap else apart(a, n)
    return np.mean(np.maximum(1 + apart(a, p) - far, 0))


def gaussian_nll(a: Any, b: Any, v: Any) -> Any:
    variance = np.maximum(v * v + 0.5, 1e-6)
    return np.mean((np.log(variance) + (a - b) ** 2 / variance) / 2)


def picked(x: Any, t: Any) -> Any:
    return x[np.arange(len(t)), t]


def smoothed(x: Any, t: Any) -> Any:
    logs = log_softmax(x)
    return -np.mean(0.9 * picked(logs, t) + 0.1 * np.mean(logs, axis=1))


def multi_margin(x: Any, t: Any) -> Any:
    gaps = np.maximum(0, 1 - picked(x, t)[:, None] + x)
    return np.mean((np.sum(gaps, axis=1) - 1) / x.shape[1])


def ctc(x: Any) -> Any:
    """The forward algorithm for the two labellings of the table, in logarithms."""
    p = log_softmax(x)
    losses = []
    for k, labels in enumerate(([1, 2], [2])):
        states = [0, *[s for label in labels for s in (label, 0)]]
        alpha = [p[0, k, s] if i < 2 else None for i, s in enumerate(states)]
        for t in range(1, len(x)):
            new = []
            for i, s in enumerate(states):
                ways = [alpha[i], alpha[i - 1] if i else None, alpha[i - 2] if i > 1 and s != 0 and s != states[i - 2] else None]
                some = [w for w in ways if w is not None]
                new.append(folded(np.logaddexp, some) + p[t, k, s] if some else None)
            alpha = new
        losses.append(-np.logaddexp(alpha[-1], alpha[-2]))
    return np.stack(losses)


REFERENCES: dict[str, Function] = {
    "bilinear": lambda a, b, w, c: np.moveaxis(np.matmul(np.matmul(a, w), b.T).diagonal(0, 1, 2), 0, 1) + c,
    "conv1d": conv, "conv2d": conv, "conv3d": conv, "conv2d_groups": lambda x, w, **k: conv(x, w, groups=2, **k),
    "conv_transpose1d": conv_transpose, "conv_transpose2d": conv_transpose,
    "max_pool2d": pooled(highest, (2, 2), 2), "max_pool2d_overlap": pooled(highest, (3, 3), 1, 1, -np.inf),
    "avg_pool2d": pooled(mean, (2, 2), 1, 1), "max_pool1d": pooled(highest, (3,), 2), "avg_pool1d": pooled(mean, (2,), 2),
    "adaptive_avg_pool2d": adaptive(lambda p: np.mean(p, axis=(-1, -2)), 3), 
    "interpolate_area": adaptive(lambda p: np.mean(p, axis=(-1, -2)), 3),
    "adaptive_max_pool2d": adaptive(lambda p: np.max(p, axis=(-1, -2)), 3),
    "lp_pool2d": pooled(lambda parts: np.sqrt(np.sum(parts * parts, axis=0)), (2, 2), 2), "unfold": unfold, "fold": fold,
    "interpolate_nearest": resized(nearest, 3, 6), "interpolate_bilinear": resized(linear_weights, 3, 6),
    "interpolate_bicubic": resized(cubic(-0.75), 3, 5),
    "pixel_unshuffle": pixel_unshuffle, "pixel_shuffle": pixel_shuffle, "channel_shuffle": channel_shuffle,
    "grid_sample": grid_sample("zeros", False), "grid_sample_border": grid_sample("border", True),
    "grid_sample_reflection": grid_sample("reflection", False),
    "local_response_norm": local_response_norm, "instance_norm": lambda x: normalised(x, (2, 3)),
    "normalize": lambda x, dim=1: x / np.maximum(length(x, dim), 1e-12),
    "layer_norm": lambda x, w, b: normalised(x, 1) * w + b, "batch_norm": lambda x, w, b: normalised(x, 0) * w + b,
    "rms_norm": lambda x, w: x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + 2.0**-52) * w, "group_norm": group_norm,
    "attention": attention(), "attention_causal": attention(True), "dot_product_attention": with_heads(attention()),
    "dot_product_attention_causal": with_heads(attention(True)),
    "cosine_similarity": cosine_similarity, "pairwise_distance": lambda a, b: np.sqrt(np.sum((a - b + 1e-6) ** 2, axis=1)),
    "smooth_l1_loss": smooth_l1, "huber_loss": smooth_l1, "soft_margin_loss": lambda a, b: np.mean(softplus(-a * np.sign(b))),
    "hinge_embedding_loss": hinge_embedding, "kl_div": lambda a, b: np.sum(np.exp(b) * (b - a)) / len(a),
    "poisson_nll_loss": lambda a, b: np.mean(np.exp(a) - a * b), "binary_cross_entropy_with_logits": bce_with_logits,
    "multilabel_soft_margin_loss": multilabel_soft_margin, "cross_entropy_soft": lambda a, b: -np.sum(b * log_softmax(a, 1), axis=1),
    "binary_cross_entropy": lambda a, b: -(b * np.maximum(np.log(a), -100) + (1 - b) * np.maximum(np.log(1 - a), -100)),
    "triplet_margin_loss": triplet, "gaussian_nll_loss": gaussian_nll, "margin_ranking_loss": lambda a, b: np.mean(np.maximum(0, b - a)),
    "cross_entropy": lambda x, t: -picked(log_softmax(x), t), "cross_entropy_smoothed": smoothed,
    "nll_loss": lambda x, t: -np.mean(picked(x, t)), "multi_margin_loss": multi_margin, "ctc_loss": ctc,
    "embedding_of_one_hot": lambda x, t: x.T[t],
}  # fmt: skip
