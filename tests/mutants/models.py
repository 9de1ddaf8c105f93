"""Right rules of losses, small layers, and functions of several outputs."""

from __future__ import annotations

import numpy as np

from engine.domain import Pick, positive
from mutants.record import fitted, right


def _shifted(x, axis=-1):
    return x - np.max(np.real(x), axis=axis, keepdims=True, initial=-np.inf)


@right("m n -> m n")
def log_softmax(x):
    s = _shifted(x)
    return s - np.log(np.sum(np.exp(s), axis=-1, keepdims=True)) if x.shape[-1] else x * 1.0


@log_softmax.vjp
def _(g, args, y):
    """g_i - p_i sum g = sum_j p_j g_i - p_i g_j, with nothing but real cancellation."""
    p = np.exp(y)
    others = np.sum(p[..., None, :] * (1 - np.eye(p.shape[-1])), axis=-1)
    rest = np.sum(g[..., None, :] * (1 - np.eye(p.shape[-1])), axis=-1)
    return (g * others - p * rest,)


@right("n, n -> ", domain={"p": positive, "q": positive})
def relative_entropy(p, q):
    return np.sum(p * np.log(p / q))


@relative_entropy.vjp
def _(g, args, y):
    p, q = args
    return g * (np.log(p / q) + 1), -g * p / q


def _against(pick: Pick):
    shape = (pick.size(0, 3), pick.size(1, 3))
    x = pick.array(*shape)
    return (x, x + pick.choice([-1.0, 1.0]) * (0.3 + pick.rng.uniform(0, 0.4, shape))), {}


@right("m n, m n -> ")
def mean_squared_error(x, t):
    return np.mean((x - t) ** 2) if x.size else np.sum(x)


@mean_squared_error.vjp
def _(g, args, y):
    x, t = args
    d = 2 * g * (x - t) / max(x.size, 1)
    return d, -d


@right("m n, m n -> m")
def hinge(x, t):
    return np.sum(np.maximum(1 - x * t, 0.0), axis=1)


@hinge.vjp
def _(g, args, y):
    x, t = args
    on = g[:, None] * (x * t < 1)
    return -on * t, -on * x


@right("m n, m n -> m", generic={"x": positive, "t": positive})
def cosine_similarity(x, t):
    return np.sum(x * t, axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(t, axis=1))


cosine_similarity.signature = None
cosine_similarity.draw = lambda pick: ([1.0 + pick.array(2, 2) / 4, 1.0 + pick.array(2, 2) / 4], {})


@cosine_similarity.vjp
def _(g, args, y):
    def one(a, b):
        r, s = np.linalg.norm(a, axis=1)[:, None], np.linalg.norm(b, axis=1)[:, None]
        return g[:, None] * ((b / s) / r - y[:, None] * (a / r) / r)

    return one(*args), one(*args[::-1])


def _image(pick: Pick):
    k = pick.size(1, 2)
    return [pick.array(k + pick.size(0, 2), k + pick.size(0, 2)), pick.array(k, k)], {}


@right(draw=_image)
def correlate2d(x, w):
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape)
    return np.einsum("pqij,ij->pq", windows, w)


@correlate2d.vjp
def _(g, args, y):
    x, w = args
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape)
    back = np.zeros_like(x)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            back[i : i + g.shape[0], j : j + g.shape[1]] += g * w[i, j]
    return back, np.einsum("pqij,pq->ij", windows, g)


@right("b n -> b n")
def batch_norm(x):
    if not len(x):
        return x * 1.0
    d = x - x.mean(axis=0)
    return d / np.sqrt(np.mean(d * d, axis=0) + 1e-3)


@batch_norm.vjp
def _(g, args, y):
    (x,) = args
    if not len(x):
        return (x * 1.0,)
    d = x - x.mean(axis=0)
    s = np.sqrt(np.mean(d * d, axis=0) + 1e-3)
    return ((g - g.mean(axis=0) - y * np.mean(g * y, axis=0)) / s,)


@right("n, n -> n")
def interpolated(x, w):
    """Half way between two neighbours, on a ring."""
    return w * x + (1 - w) * np.roll(x, 1)


@interpolated.vjp
def _(g, args, y):
    x, w = args
    return g * w + np.roll(g * (1 - w), -1), g * (x - np.roll(x, 1))


@right("n -> ")
def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


rosenbrock.signature, rosenbrock.draw = None, lambda pick: ([pick.array(pick.size(1, 4))], {})


@rosenbrock.vjp
def _(g, args, y):
    (x,) = args
    back = np.zeros_like(x)
    inner = x[1:] - x[:-1] ** 2
    back[1:] += 200 * inner
    back[:-1] += -400 * x[:-1] * inner - 2 * (1 - x[:-1])
    return (g * back,)


@right("..., ... -> ..., ...")
def two_outputs(a, b):
    return a + b, a * b


@two_outputs.vjp
def _(g, args, y):
    (a, b), (gs, gp) = args, g
    return fitted(gs + gp * b, a), fitted(gs + gp * a, b)


@right("n -> n, n")
def polar(x):
    return np.cos(x), np.sin(x)


@polar.vjp
def _(g, args, y):
    c, s = y
    return (g[1] * c - g[0] * s,)
