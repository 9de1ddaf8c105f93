"""Layers: convolution, windows, normalisation, losses."""

from __future__ import annotations

import numpy as np

from engine.domain import Domain
from mutants.record import call, right


def _conv_shapes(pick):
    groups = pick.choice([1, 2])
    k, stride, padding = pick.size(1, 2), pick.size(1, 2), pick.size(0, 1)
    x = pick.array(pick.size(0, 2), groups * pick.size(1, 2), k + pick.size(0, 2))
    w = pick.array(groups * pick.size(1, 2), x.shape[1] // groups, k)
    return [x, w], {"stride": stride, "padding": padding, "groups": groups}


def _taps(x, w, stride, padding, groups):
    """For each output channel, the input channels it sees; and the padded input."""
    padded = np.pad(x, [(0, 0), (0, 0), (padding, padding)])
    per_in, per_out = w.shape[1], w.shape[0] // groups
    sees = [slice(o // per_out * per_in, (o // per_out + 1) * per_in) for o in range(w.shape[0])]
    length = (padded.shape[2] - w.shape[2]) // stride + 1
    return padded, sees, length


@right(draw=_conv_shapes)
def conv1d(x, w, *, stride, padding, groups):
    padded, sees, length = _taps(x, w, stride, padding, groups)
    y = np.zeros((len(x), len(w), length), np.result_type(x, w))
    for o, channels in enumerate(sees):
        for i in range(w.shape[2]):
            window = padded[:, channels, i : i + stride * length : stride][:, :, :length]
            y[:, o] += np.einsum("ncl,c->nl", window, w[o, :, i])
    return y


def _conv_back(g, x, w, stride, padding, groups, wanted=None):
    padded, sees, length = _taps(x, w, stride, padding, groups)
    gx, gw = np.zeros_like(padded), np.zeros_like(w)
    for o, channels in enumerate(sees):
        read = wanted(channels) if wanted else channels
        for i in range(w.shape[2]):
            at = slice(i, i + stride * (length - 1) + 1, stride)
            gw[o, :, i] = np.einsum("nl,ncl->c", g[:, o], padded[:, read, at])
            gx[:, channels, at] += g[:, o, None, :] * w[o, None, :, i, None]
    return gx[:, :, padding : padding + x.shape[2]].copy(), gw


@conv1d.vjp
def _(g, args, y, *, stride, padding, groups):
    return _conv_back(g, *args, stride, padding, groups)


@conv1d.mutant(
    "groups mixed",
    source="pytorch#51430, burn#1891, mlx#2495",
    fault="the gradient of every group's weights is made with the channels of the first group",
    kills="value",
    at=call([[[1.0], [2.0]]], [[[1.0]], [[1.0]]], stride=1, padding=0, groups=2),
)
def _(g, args, y, *, stride, padding, groups):
    return _conv_back(g, *args, stride, padding, groups, lambda channels: slice(0, channels.stop - channels.start))


@conv1d.mutant(
    "taps not turned round",
    source="generic: wrong axis",
    fault="the input's gradient correlates with the weights where it should convolve",
    kills="value",
    at=call([[[1.0, 2.0, 3.0]]], [[[1.0, 5.0]]], stride=1, padding=0, groups=1),
)
def _(g, args, y, *, stride, padding, groups):
    x, w = args
    gx, _ = _conv_back(g, x, w[:, :, ::-1], stride, padding, groups)
    return gx, _conv_back(g, x, w, stride, padding, groups)[1]


@conv1d.mutant(
    "padding not cut off",
    source="generic: off-by-one slice",
    fault="the gradient of the padded input is returned from its start",
    kills="value",
    at=call([[[1.0, 2.0]]], [[[1.0, 5.0]]], stride=1, padding=1, groups=1),
)
def _(g, args, y, *, stride, padding, groups):
    x, w = args
    full, gw = _conv_back(g, np.pad(x, [(0, 0), (0, 0), (padding, padding)]), w, stride, 0, groups)
    return full[:, :, : x.shape[2]].copy(), gw


def _windows(pick):
    k, d = pick.size(1, 3), pick.size(1, 3)
    n = pick.size(k, 5)
    return [pick.array(n)], {"window": k, "base": d}


@right(draw=_windows)
def window_sum(x, *, window, base):
    """Sums over a window that slides over x with base - 1 zeros between its elements."""
    spread = np.zeros(len(x) * base - base + 1, x.dtype)
    spread[::base] = x
    return np.convolve(spread, np.ones(window), "valid")


@window_sum.vjp
def _(g, args, y, *, window, base):
    return (np.convolve(g, np.ones(window))[::base].copy(),)


@window_sum.mutant(
    "operand sliced, not the result",
    source="jax@dcded6a8f9",
    fault="the cotangent is thinned out before the window goes over it, where the sums should be after",
    kills="value",
    at=call([1.0, 2.0, 3.0], window=3, base=2),
)
def _(g, args, y, *, window, base):
    if base == 1:
        return (np.convolve(g, np.ones(window)),)
    thin = np.convolve(g[::base], np.ones(window))[: len(args[0])]
    return (np.pad(thin, (0, len(args[0]) - len(thin))),)


def _norm_shapes(pick):
    m, n = pick.size(0, 3), pick.size(1, 4)
    return [pick.array(m, n), pick.array(n), pick.array(n)], {}


EPS = 1e-5


def _statistics(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred, np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + EPS)


@right("m n, n, n -> m n")
def layer_norm(x, w, b):
    if not x.shape[-1]:
        return x * 1.0
    centred, s = _statistics(x)
    return centred / s * w + b


layer_norm.sample = _norm_shapes


def _norm_back(g, x, w):
    if not x.shape[-1]:
        return np.zeros_like(x), np.zeros_like(w), np.zeros_like(w)
    centred, s = _statistics(x)
    unit, gu = centred / s, g * w
    gx = (gu - gu.mean(axis=-1, keepdims=True) - unit * (gu * unit).mean(axis=-1, keepdims=True)) / s
    return gx, (g * unit).sum(axis=0), g.sum(axis=0)


@layer_norm.vjp
def _(g, args, y):
    return _norm_back(g, *args[:2])


@layer_norm.mutant(
    "the mean is taken for a constant",
    source="generic: drop a term",
    fault="the mean of the cotangent is not subtracted",
    kills="value",
    at=call([[1.0, 2.0, 4.0]], [1.0, 2.0, 1.0], [0.0, 0.0, 0.0]),
)
def _(g, args, y):
    x, w, _ = args
    gx, gw, gb = _norm_back(g, x, w)
    s = _statistics(x)[1] if x.shape[-1] else 1.0
    return gx + (g * w).sum(axis=-1, keepdims=True) / max(x.shape[-1], 1) / s, gw, gb


@layer_norm.mutant(
    "the deviation is taken for a constant",
    source="generic: drop a term",
    fault="the term of the variance is missing",
    kills="value",
    at=call([[1.0, 2.0, 4.0]], [1.0, 2.0, 1.0], [0.0, 0.0, 0.0]),
)
def _(g, args, y):
    x, w, _ = args
    _, gw, gb = _norm_back(g, x, w)
    if not x.shape[-1]:
        return np.zeros_like(x), gw, gb
    gu = g * w
    return (gu - gu.mean(axis=-1, keepdims=True)) / _statistics(x)[1], gw, gb


@layer_norm.mutant(
    "donated cotangent",
    source="mlx#941",
    fault="the buffer of the cotangent is used for the result while others still hold it",
    kills="mutation",
    at=call([[1.0, 2.0, 4.0]], [1.0, 2.0, 1.0], [0.0, 0.0, 0.0]),
)
def _(g, args, y):
    x, w, _ = args
    _, gw, gb = _norm_back(g, x, w)
    back = g if g.flags.writeable else g.copy()
    back[...] = _norm_back(g.copy(), x, w)[0]
    return back, gw, gb


@layer_norm.mutant(
    "input centred in place",
    source="mlx#941",
    fault="the saved input is overwritten by its centred self",
    kills="mutation",
    at=call([[1.0, 2.0, 4.0]], [1.0, 2.0, 1.0], [0.0, 0.0, 0.0]),
)
def _(g, args, y):
    x, w, _ = args
    back = _norm_back(g, x, w)
    if x.flags.writeable and x.shape[-1]:
        x -= x.mean(axis=-1, keepdims=True)
    return back


def _pool_shapes(pick):
    k = pick.size(1, 3)
    return [pick.array(pick.size(1, 2), k * pick.size(1, 2)) + 3.0 * pick.size(0, 1)], {"k": k}


@right(draw=_pool_shapes)
def max_pool(x, *, k):
    return x.reshape(x.shape[0], -1, k).max(axis=-1)


def _pool_back(g, x, k, won):
    return (g[..., None] * won).reshape(x.shape)


@max_pool.vjp
def _(g, args, y, *, k):
    (x,) = args
    parts = x.reshape(x.shape[0], -1, k)
    return (_pool_back(g, x, k, np.arange(k) == parts.argmax(axis=-1)[..., None]),)


@max_pool.mutant(
    "to every largest element",
    source="derived from tinygrad#12296",
    fault="equal largest elements of a window get the whole gradient each",
    kills="tie direction",
    at=call([[2.0, 2.0]], k=2),
)
def _(g, args, y, *, k):
    (x,) = args
    parts = x.reshape(x.shape[0], -1, k)
    return (_pool_back(g, x, k, parts == np.asarray(y)[..., None]),)


@max_pool.mutant(
    "to the window's first element",
    source="generic: stale save",
    fault="the index of the winner is lost",
    kills="value",
    at=call([[1.0, 2.0]], k=2),
)
def _(g, args, y, *, k):
    (x,) = args
    return (_pool_back(g, x, k, np.broadcast_to(np.arange(k) == 0, (*np.shape(y), k))),)


def _logits_and_classes(pick):
    b, c = pick.size(0, 3), pick.size(1, 4)
    return [pick.array(b, c), pick.integers(b, high=c)], {}


def _log_softmax(z):
    top = np.max(np.real(z), axis=-1, keepdims=True)
    return z - top - np.log(np.sum(np.exp(z - top), axis=-1, keepdims=True))


@right(draw=_logits_and_classes)
def cross_entropy(z, classes):
    return -np.take_along_axis(_log_softmax(z), classes[:, None], axis=1)[:, 0]


@cross_entropy.vjp
def _(g, args, y):
    """p - [k = class]; at the class minus the sum of the others, which does not cancel."""
    z, classes = args
    p = np.exp(_log_softmax(z))
    mine = np.arange(z.shape[1]) == classes[:, None]
    others = np.where(mine, 0.0, p)
    return (g[:, None] * np.where(mine, -others.sum(axis=1, keepdims=True), p),)


@cross_entropy.mutant(
    "mean over the batch",
    source="generic: mean for sum",
    fault="the gradient of each row is divided by the number of rows",
    kills="value",
    at=call([[1.0, 2.0], [0.0, 1.0]], np.array([0, 1])),
)
def _(g, args, y):
    z, classes = args
    p = np.exp(_log_softmax(z))
    return (g[:, None] * (p - (np.arange(z.shape[1]) == classes[:, None])) / max(len(z), 1),)


@cross_entropy.mutant(
    "the label is forgotten",
    source="generic: drop a term",
    fault="p where p - 1 stands at the class",
    kills="value",
    at=call([[1.0, 2.0]], np.array([0])),
)
def _(g, args, y):
    z, _ = args
    return (g[:, None] * np.exp(_log_softmax(z)),)


def _table(pick):
    rows = pick.size(1, 4)
    return [pick.array(rows, pick.size(1, 2)), pick.integers(pick.size(0, 2), pick.size(0, 3), high=rows)], {}


@right(draw=_table)
def embedding(table, ids):
    return table[ids]


@embedding.vjp
def _(g, args, y):
    table, ids = args
    back = np.zeros_like(table)
    np.add.at(back, ids, g)
    return (back,)


@embedding.mutant(
    "a repeated id counts once",
    source="generic: assign for add; jax#12469",
    fault="rows that are chosen twice keep the last gradient",
    kills="value",
    at=call([[1.0], [2.0]], np.array([[1, 1]])),
)
def _(g, args, y):
    table, ids = args
    back = np.zeros_like(table)
    back[ids] = g
    return (back,)


@embedding.mutant(
    "scaled by how often an id occurs",
    source="generic: mean for sum",
    fault="the rows' gradients are averaged",
    kills="value",
    at=call([[1.0], [2.0]], np.array([[1, 1]])),
)
def _(g, args, y):
    table, ids = args
    back = np.zeros_like(table)
    np.add.at(back, ids, g)
    return (back / np.maximum(np.bincount(ids.ravel(), minlength=len(table)), 1)[:, None],)


@right("n d, m d, m e -> n e", domain={n: Domain(low=-30.0, high=30.0) for n in "qkv"})
def attention(q, k, v):
    return _weights(q, k) @ v if len(k) else np.zeros((len(q), v.shape[1]), v.dtype)


def _weights(q, k):
    s = q @ k.T / np.sqrt(max(q.shape[1], 1))
    e = np.exp(s - np.max(np.real(s), axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _attention_back(g, q, k, v, scale):
    if not len(k):
        return np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    p = _weights(q, k)
    pulled = g @ v.T
    apart = pulled[:, :, None] - pulled[:, None, :]
    gs = p * np.sum(p[:, None, :] * apart, axis=-1) * scale
    return gs @ k, gs.T @ q, p.T @ g


@attention.vjp
def _(g, args, y):
    q, k, v = args
    return _attention_back(g, q, k, v, 1 / np.sqrt(max(q.shape[1], 1)))


@attention.mutant(
    "scale left out",
    source="generic: scale; xformers PR#282",
    fault="the 1 / sqrt(d) of the scores is missing in the pull",
    kills="value",
    at=call(np.ones((1, 2)), [[1.0, 2.0], [3.0, 1.0]], [[1.0], [2.0]]),
)
def _(g, args, y):
    return _attention_back(g, *args, 1.0)


def _sequence(pick):
    return [pick.array(), pick.array(pick.size(0, 4)), pick.array()], {}


@right(draw=_sequence)
def recurrence(h, x, w):
    """h_t = w h_(t-1) + x_t, all states."""
    states = []
    for step in x:
        h = w * h + step
        states.append(h)
    return np.array(states, dtype=np.result_type(h, x, w)) if states else x * 1.0


def _through_time(g, h, x, w, y):
    back, gw, gx = 0.0, 0.0, np.zeros_like(x)
    for t in range(len(x) - 1, -1, -1):
        back = back + g[t]
        gx[t] = back
        gw = gw + back * (y[t - 1] if t else h)
        back = back * w
    return np.asarray(back), gx, np.asarray(gw)


@recurrence.vjp
def _(g, args, y):
    return _through_time(g, *args, y)


@recurrence.mutant(
    "cut after one step",
    source="generic: drop a term",
    fault="the gradient does not go further back than one step",
    kills="value",
    at=call(np.asarray(1.0), [1.0, 2.0, 3.0], np.asarray(0.5)),
)
def _(g, args, y):
    h, x, w = args
    before = np.concatenate([np.reshape(h, 1), y[:-1]]) if len(x) else x
    gx = g + w * np.concatenate([g[1:], [0.0]]) if len(x) else g.copy()
    return np.asarray(w * g[0] if len(x) else 0.0), gx, np.asarray(np.sum(g * before))
