"""Who trains, who tests, and in which batches: permutations that depend on a seed and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.seed import fold


def split(n: int, *, test: float | int, seed: int, stratify: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint sets of indices, (train, test), that together are 0 .. n-1, each in random order.

    test       how many to hold back: a number of examples, or a fraction (rounded, at least one on each side)
    stratify   n labels: each class is then held back in proportion, to within one example
    Raises ValueError if one side would be empty or `stratify` has another length.
    """
    held = _held_back(n, test)
    rng = np.random.default_rng(fold(seed, "split"))
    order = _order(n, rng, stratify)
    places = (np.arange(held) * n + rng.integers(n)) // held  # evenly through the classes, which stand one after the other
    kept = np.ones(n, bool)
    kept[places] = False
    return rng.permutation(order[kept]), rng.permutation(order[places])


def k_fold(n: int, k: int, *, seed: int, stratify: Any = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """k pairs of indices, (train, test): each example is in the test part of one pair.

    The parts differ in length by one at most; with `stratify`, n labels, so do the counts of each class in them.
    Raises ValueError unless 2 <= k <= n.
    """
    if not 2 <= k <= n:
        raise ValueError(f"{k} folds of {n} examples: wanted is 2 <= k <= n")
    rng = np.random.default_rng(fold(seed, "k_fold"))
    order = _order(n, rng, stratify)
    part = np.arange(n) % k
    return [(rng.permutation(order[part != i]), rng.permutation(order[part == i])) for i in range(k)]


def permutation(n: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of the examples in an epoch: a function of n, the seed and the epoch, so that training can resume anywhere."""
    return np.random.default_rng(fold(seed, "batches", epoch)).permutation(n)


def batches(
    *arrays: np.ndarray, size: int, seed: int, epoch: int, drop_last: bool = False, start: int = 0
) -> Iterator[tuple[np.ndarray, ...]]:
    """The arrays in batches of `size` rows that belong together, in the random order of this epoch.

    drop_last   leave out the last batch if it is smaller
    start       the first batch to give: how many of this epoch are done
    Each batch is a tuple of new arrays. Raises ValueError, at once, if the lengths differ or there would be no batch.
    """
    n = _length(arrays)
    if size < 1 or start < 0:
        raise ValueError(f"batches of {size} from number {start} on: wanted are size >= 1 and start >= 0")
    if drop_last and size > n:
        raise ValueError(f"drop_last leaves no batch: there are {n} examples for batches of {size}")
    order = permutation(n, seed=seed, epoch=epoch)
    end = n - n % size if drop_last else n
    return (tuple(a[order[i : i + size]] for a in arrays) for i in range(start * size, end, size))


def _held_back(n: int, test: float | int) -> int:
    held = test if isinstance(test, (int, np.integer)) else max(1, min(n - 1, round(test * n))) if 0 < test < 1 else 0
    if isinstance(test, bool) or not 0 < held < n:
        raise ValueError(f"cannot hold back {test!r} of {n} examples: wanted is a fraction between 0 and 1, or a number from 1 to n - 1")
    return int(held)


def _order(n: int, rng: np.random.Generator, stratify: Any) -> np.ndarray:
    """A random order; if there are labels, random within each class and the classes one after the other."""
    order = rng.permutation(n)
    if stratify is None:
        return order
    labels = np.asarray(stratify)
    if labels.shape != (n,):
        raise ValueError(f"stratify has the shape {labels.shape}, wanted is one label for each of {n} examples")
    return order[np.argsort(labels[order], kind="stable")]


def _length(arrays: tuple[np.ndarray, ...]) -> int:
    lengths = {len(a) for a in arrays}
    if len(lengths) != 1:
        raise ValueError(f"the arrays have {', '.join(str(len(a)) for a in arrays) or 'no'} rows: wanted is one number of rows for all")
    return lengths.pop()
