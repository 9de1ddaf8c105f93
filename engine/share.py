r"""Weight sharing: an array holds k different numbers, the codebook, and for each weight the place of its number there.

    shared = share(params, 16, masks=masks)
    run = fit(shared.loss(mlp.loss), shared.params, data, optimizer=Adam(1e-4), epochs=5)
    params = shared.expand(run.params)              # dense again: at most 16 different numbers an array, and 0 where it is pruned

$w_{ij} = c_{k_{ij}}$, with $k_{ij} = 0$ for a pruned weight, which is exactly 0 whatever the training does. The gradient of a number of the
codebook is the sum of the gradients of its members. There are thousands of them, so plain SGD wants a smaller rate than for the weights;
Adam does not mind.
Source: Han, Mao & Dally (2016), Deep compression: compressing deep neural networks with pruning, trained quantization and Huffman coding,
sec. 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from engine import checkpoints, ops
from engine.masks import checked, masked
from engine.seed import fold

Arrays = dict[str, Any]
Start = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

CODEBOOK = "/codebook"
ROUNDS = 1000  # Lloyd's rounds end of themselves, mostly after some dozens


@dataclass(frozen=True, eq=False)
class Shared:
    """Parameters of which some arrays are shared.

    params   what is trained: "w1/codebook" (k) for each shared w1, the other arrays as they were
    codes    for each shared array, in its shape: 0 for a pruned weight, else the place in the codebook, from 1
    masks    of pruned arrays that are not shared
    """

    params: Arrays
    codes: Arrays
    masks: Arrays

    def expand(self, params: Mapping[str, Any] | None = None) -> Arrays:
        """The dense parameters that belong to `params`, named as `self.params`, which are the default. Differentiable in all of them."""
        params = self.params if params is None else params
        dense: Arrays = {}
        for key in self.params:
            name = key.removesuffix(CODEBOOK)
            if key != name and name in self.codes:
                dense[name] = self._filled(name, params[key])
            else:
                dense[key] = params[key] * self.masks[key] if key in self.masks else params[key]
        return dense

    def loss(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """`loss` as a function of the codebooks, for `engine.train.fit`."""

        def over_codebooks(params: Mapping[str, Any], *batch: Any, **state_and_seed: Any) -> Any:
            return loss(self.expand(params), *batch, **state_and_seed)

        return over_codebooks

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to `path`, to go on with. See `engine.checkpoints.save`; `engine.packed` writes the small file."""
        checkpoints.save(path, {"params": self.params, "codes": self.codes, "masks": self.masks}, {"shared": 1})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Shared:
        """What `save` wrote. Raises as `engine.checkpoints.load`, and CheckpointError for a checkpoint of something else."""
        groups, notes = checkpoints.load(path)
        if not isinstance(notes, dict) or notes.get("shared") != 1:
            raise checkpoints.CheckpointError(f"{os.fspath(path)} holds no shared parameters, but {', '.join(groups) or 'nothing'}")
        return cls(groups["params"], groups["codes"], groups["masks"])

    def _filled(self, name: str, codebook: Any) -> Any:
        """The array: one lookup for each weight that is kept, none for the others, of which there may be ten times as many."""
        kept, members = self._places[name]
        shape = self.codes[name].shape
        flat = ops.scatter(ops.take(codebook, members), key=kept, shape=(self.codes[name].size,))
        return ops.reshape(flat, shape=shape)

    @cached_property
    def _places(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Where the kept weights of each array lie, and where their numbers lie in the codebook."""
        flat = {name: codes.reshape(-1) for name, codes in self.codes.items()}
        kept = {name: np.flatnonzero(codes) for name, codes in flat.items()}
        return {name: (kept[name], codes[kept[name]].astype(np.intp) - 1) for name, codes in flat.items()}


def share(
    params: Mapping[str, Any],
    clusters: int | Mapping[str, int] = 16,
    *,
    masks: Mapping[str, Any] | None = None,
    start: str = "linear",
    seed: int = 0,
) -> Shared:
    """Share the weights of each array by `cluster`.

    clusters      numbers in a codebook: one for all arrays of two and more axes, or by name, for just those
    masks         booleans by name, of the shape of the array: what is False becomes 0 and stays it. An array without one is kept whole
    start, seed   see `cluster`; each array has a seed of its own

    Raises ValueError for a name of another model and for a weight that is not finite, MaskError for a mask of another model, TypeError
    for an array that is not floats.
    """
    masks = checked(masks or {}, params)
    params = masked({name: np.asarray(x) for name, x in params.items()}, masks)
    wanted = dict(clusters) if isinstance(clusters, Mapping) else {name: clusters for name, x in params.items() if x.ndim > 1}
    _check(params, wanted)
    trained: Arrays = {}
    codes: Arrays = {}
    for name, x in params.items():
        if name not in wanted:
            trained[name] = x
            continue
        try:
            trained[name + CODEBOOK], codes[name] = cluster(x, wanted[name], mask=masks.get(name), start=start, seed=fold(seed, name))
        except (TypeError, ValueError) as e:
            raise type(e)(f"share: {name}: {e}") from None
    return Shared(trained, codes, {name: mask for name, mask in masks.items() if name not in wanted})


def cluster(w: Any, k: int, *, mask: Any = None, start: str = "linear", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""$\min_{c, k} \sum_i (w_i - c_{k_i})^2$ over the kept weights, by Lloyd's rounds: each weight to the nearest c, each c to their mean

    w       floats of any shape; the codebook has their dtype, all sums are in float64
    k       numbers in the codebook; fewer if fewer different weights are kept, which are then all there
    mask    booleans, what is kept; default: everything
    start   where the rounds begin: "linear", evenly from the smallest to the largest, the best for accuracy in the paper, since it gives
            the few large weights numbers of their own; "density", evenly over the sorted weights; "random" ones of the weights (Forgy);
            "kmeans++", random ones far from each other
    seed    of the last two

    Returns the codebook (at most k), rising, and the codes, of the shape of w: 0 where nothing is kept, else the place in it, from 1;
    they are the smallest unsigned integers that hold k. A number that loses all its members goes to the weight farthest from its own.
    Raises ValueError for k < 1, another start, a mask of another shape and weights that are not finite, TypeError for what is not floats.
    Sources: Lloyd (1982), Least squares quantization in PCM; Han, Mao & Dally (2016), sec. 3.1 and 3.2; Arthur & Vassilvitskii (2007),
    k-means++: the advantages of careful seeding, sec. 2.2.
    """
    w = np.asarray(w)
    kept = np.ones(w.shape, bool) if mask is None else np.asarray(mask)
    if w.dtype.kind != "f":
        raise TypeError(f"weights to share are floats, these are {w.dtype}")
    if k < 1 or start not in STARTS:
        raise ValueError(f"k is 1 or more and start one of {', '.join(STARTS)}; given are k={k}, start={start!r}")
    if kept.shape != w.shape or kept.dtype != bool:
        raise ValueError(f"the mask is {kept.dtype} {kept.shape}, the weights want bool {w.shape}")
    if not np.isfinite(w[kept]).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(w[kept]))} of the kept weights are not finite")
    codebook, members = _clustered(w[kept].astype(np.float64), k, STARTS[start], np.random.default_rng(seed))
    codes = np.zeros(w.shape, np.min_scalar_type(max(len(codebook), 1)))
    codes[kept] = members + 1
    return codebook.astype(w.dtype), codes


def _clustered(w: np.ndarray, k: int, start: Start, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The codebook, and for each weight its place there."""
    different, places = np.unique(w, return_inverse=True)
    if len(different) <= k:
        return different, places
    v = np.sort(w)
    codebook = _lloyd(v, np.sort(start(v, k, rng)))
    return codebook, np.searchsorted(_between(codebook), w, side="left")


def _lloyd(v: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Lloyd's rounds on sorted numbers: a cluster is a stretch, its sum the difference of two sums from the start. k log n a round."""
    k, before = len(c), None
    sums = np.concatenate([[0.0], np.cumsum(v)])
    for _ in range(ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(v, _between(c), side="right"), [len(v)]])
        if before is not None and np.array_equal(edges, before):
            break
        first, end = edges[:-1][np.diff(edges) > 0], edges[1:][np.diff(edges) > 0]
        means = np.clip((sums[end] - sums[first]) / (end - first), v[first], v[end - 1])  # rounding must not leave the stretch
        c = np.sort(np.concatenate([means, _farthest(v, first, end, means, k - len(means))]))
        before = edges if len(means) == k else None
    return c


def _farthest(v: np.ndarray, first: np.ndarray, end: np.ndarray, means: np.ndarray, count: int) -> np.ndarray:
    """The `count` weights farthest from the means of their stretches, or fewer: all are ends of stretches."""
    ends = np.concatenate([v[first], v[end - 1]])
    order = np.argsort(-np.abs(ends - np.tile(means, 2)), kind="stable")
    farthest: np.ndarray = ends[order[:count]]
    return farthest


def _between(c: np.ndarray) -> np.ndarray:
    """The borders of the clusters around c."""
    borders: np.ndarray = c[:-1] + (c[1:] - c[:-1]) / 2
    return borders


def _linear(v: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    return np.linspace(v[0], v[-1], k)


def _density(v: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    return v[(2 * np.arange(k) + 1) * len(v) // (2 * k)]


def _random(v: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(v, k, replace=False)


def _kmeans_plus_plus(v: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Each next one with a probability that grows as the square of the distance to the nearest one so far."""
    c = [rng.choice(v)]
    nearest = np.square(v - c[0])
    while len(c) < k:
        total = np.cumsum(nearest)
        c.append(v[min(np.searchsorted(total, rng.random() * total[-1], side="right"), len(v) - 1)])
        nearest = np.minimum(nearest, np.square(v - c[-1]))
    return np.array(c)


STARTS: dict[str, Start] = {"linear": _linear, "density": _density, "random": _random, "kmeans++": _kmeans_plus_plus}


def _check(params: Mapping[str, np.ndarray], wanted: Mapping[str, int]) -> None:
    unknown = sorted(wanted.keys() - params.keys())
    if unknown:
        raise ValueError(f"share: there is no parameter {', '.join(unknown)}; there are {', '.join(params)}")
    taken = sorted(name + CODEBOOK for name in wanted if name + CODEBOOK in params)
    if taken:
        raise ValueError(f"share: {', '.join(taken)} would be the name of a codebook, but is a parameter already")
