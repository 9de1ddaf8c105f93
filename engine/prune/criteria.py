r"""Importance: a number for each weight that says what the model would lose with it. The least important go first.

    scores = magnitude(params)                                # {name: array}, for every weight
    scores = taylor(loss, params, batches)                    # those that look at data take batches: a list of tuples (x, t)

Scores are compared with one another only, so a factor does not matter, except between layers where one choice is made over all.
`names` are the parameters to score, those of two axes and more by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from engine.forward import jvp
from engine.masks import Arrays, weights
from engine.reverse import grad
from engine.seed import fold

Loss = Callable[..., Any]
Batches = Sequence[tuple[Any, ...]]
Scores = dict[str, np.ndarray]


def magnitude(params: Mapping[str, Any], *, names: Sequence[str] | None = None) -> Scores:
    r"""$s = |w|$

    Source: Han, Pool, Tran & Dally (2015), Learning both weights and connections for efficient neural networks, sec. 3.
    """
    return {name: np.abs(params[name]) for name in _chosen(params, names)}


def lamp(params: Mapping[str, Any], *, names: Sequence[str] | None = None) -> Scores:
    r"""$s_i = w_i^2 / \sum_{j : |w_j| \geq |w_i|} w_j^2$: magnitudes made comparable between layers; of equal ones all are in the sum

    Source: Lee, Park, Mo, Ahn & Shin (2021), Layer-adaptive sparsity for the magnitude-based pruning, eq. 3.
    """
    scores: Scores = {}
    for name in _chosen(params, names):
        squares = np.square(np.ravel(params[name]), dtype=np.float64)
        rising = np.sort(squares)
        left = np.append(np.cumsum(rising[::-1])[::-1], 1.0)  # of each place, what is as large or larger
        rest = left[np.searchsorted(rising, squares)]
        scores[name] = np.divide(squares, rest, out=np.zeros_like(squares), where=rest > 0).reshape(np.shape(params[name]))
    return scores


def random(params: Mapping[str, Any], *, seed: int, names: Sequence[str] | None = None) -> Scores:
    """Numbers drawn evenly from [0, 1): the control against which a criterion must win."""
    return {name: np.random.default_rng(fold(seed, name)).random(np.shape(params[name])) for name in _chosen(params, names)}


def taylor(loss: Loss, params: Mapping[str, Any], batches: Batches, *, names: Sequence[str] | None = None) -> Scores:
    r"""$s = \frac{1}{B} \sum_b |w\, \partial L_b / \partial w|$: to first order, by how much the loss of a batch moves without w

    Source: Molchanov, Mallya, Tyree, Frosio & Kautz (2019), Importance estimation for neural network pruning, eq. 8, without the square.
    """
    chosen = _chosen(params, names)
    total = {name: np.zeros(np.shape(params[name])) for name in chosen}
    for g in _gradients(loss, params, batches):
        for name in chosen:
            total[name] += np.abs(params[name] * g[name])
    return {name: s / len(batches) for name, s in total.items()}


def snip(loss: Loss, params: Mapping[str, Any], batches: Batches, *, names: Sequence[str] | None = None) -> Scores:
    r"""$s = |w\, g| / \sum |w\, g|, \quad g = \frac{1}{B} \sum_b \partial L_b / \partial w$: for weights that are not trained yet

    Source: Lee, Ajanthan & Torr (2019), SNIP: single-shot network pruning based on connection sensitivity, eq. 5 and 6.
    """
    chosen = _chosen(params, names)
    total = {name: np.zeros(np.shape(params[name])) for name in chosen}
    for g in _gradients(loss, params, batches):
        for name in chosen:
            total[name] += g[name]
    scores = {name: np.abs(params[name] * s) for name, s in total.items()}
    whole = sum(float(np.sum(s)) for s in scores.values())
    return {name: s / whole if whole else s for name, s in scores.items()}


def movement(loss: Loss, params: Mapping[str, Any], batches: Batches, *, lr: float = 0.01, names: Sequence[str] | None = None) -> Scores:
    r"""$s = -\sum_t w_t\, g_t$ over steps $w_{t+1} = w_t - \eta\, g_t, \; g_t = \partial L_t / \partial w_t$: what moves away from 0 stays

    The steps are taken on a copy, one for each batch. (The paper learns the scores while it trains; here they are of the training so far.)
    Source: Sanh, Wolf & Rush (2020), Movement pruning: adaptive sparsity by fine-tuning, sec. 4.
    """
    chosen = _chosen(params, names)
    now: Arrays = dict(params)
    total = {name: np.zeros(np.shape(params[name])) for name in chosen}
    for batch in _some(batches):
        g = grad(lambda p, batch=batch: loss(p, *batch))(now)
        for name in chosen:
            total[name] -= now[name] * g[name]
        now = {name: w - np.asarray(lr * g[name], w.dtype) for name, w in now.items()}
    return total


def hessian(
    loss: Loss,
    params: Mapping[str, Any],
    batches: Batches,
    *,
    probes: int | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> Scores:
    r"""$s = \frac{1}{2} h\, w^2$, h the diagonal of the Hessian of the mean loss over the batches: what a minimum gains without w

    probes    None: each element of the diagonal by a product of the Hessian with a unit vector, which is for small networks. A number:
              the mean of z * H z over so many random z of signs, whose expectation it is

    A weight at which the loss curves down has a negative score: without it the loss is smaller. Raises ValueError for probes < 1.
    Source: LeCun, Denker & Solla (1990), Optimal brain damage, eq. 5; Bekas, Kokiopoulou & Saad (2007), An estimator for the diagonal of a
    matrix, eq. 2.
    """
    chosen = _chosen(params, names)
    if probes is not None and probes < 1:
        raise ValueError(f"probes={probes}: at least one is wanted, or None for the exact diagonal")
    diagonal = {name: np.zeros(np.shape(params[name])) for name in chosen}
    for batch in _some(batches):
        slope = grad(lambda p, batch=batch: loss(p, *batch))
        for part, z in _probes(params, chosen, probes, seed):
            _, bent = jvp(slope, (dict(params),), (z,))
            for name in part:
                diagonal[name] += z[name] * bent[name]
    return {name: np.square(params[name]) * h / (2 * len(batches) * (probes or 1)) for name, h in diagonal.items()}


def batch_norm_scale(params: Mapping[str, Any], *, names: Sequence[str]) -> Scores:
    r"""$s = |\gamma|$, of the scales of batch norms: what a channel is worth to what follows. `names` are those of the scales.

    Source: Liu, Li, Shen, Huang, Yan & Zhang (2017), Learning efficient convolutional networks through network slimming, sec. 3.
    """
    return {name: np.abs(params[name]) for name in _chosen(params, names)}


def _chosen(params: Mapping[str, Any], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return weights(params)
    missing = [name for name in names if name not in params]
    if missing:
        raise ValueError(f"no such parameter: {', '.join(missing)}; there are {', '.join(params)}")
    return tuple(names)


def _some(batches: Batches) -> Batches:
    if not len(batches):
        raise ValueError("this criterion looks at data: at least one batch is wanted")
    return batches


def _gradients(loss: Loss, params: Mapping[str, Any], batches: Batches) -> Iterator[Arrays]:
    for batch in _some(batches):
        yield grad(lambda p, batch=batch: loss(p, *batch))(dict(params))


def _probes(params: Mapping[str, Any], chosen: Sequence[str], probes: int | None, seed: int) -> Iterator[tuple[Sequence[str], Arrays]]:
    """Directions, each with the names that it is a probe of."""
    nowhere = {name: np.zeros(np.shape(p), p.dtype) for name, p in params.items()}
    if probes is not None:
        rng = np.random.default_rng(seed)
        for _ in range(probes):
            yield (
                chosen,
                {**nowhere, **{name: rng.choice([-1.0, 1.0], np.shape(params[name])).astype(params[name].dtype) for name in chosen}},
            )
        return
    for name in chosen:
        for place in np.ndindex(np.shape(params[name])):
            unit = nowhere[name].copy()
            unit[place] = 1
            yield (name,), {**nowhere, name: unit}
