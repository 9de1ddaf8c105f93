r"""From importance to masks: keep so many of the most important, exactly so many, whatever is equal.

    masks = select(scores, keep=0.1)                                   # a tenth of each array
    masks = select(scores, keep=0.1, scope="global")                   # a tenth of all, wherever they stand
    masks = select(scores, keep=0.25, grain=Blocks(4, 4))              # whole blocks
    masks = select(scores, grain=NofM(2, 4))                           # two of each four

A grain is what is kept or not kept as one. It sees an array as the matrix by which a product multiplies, one row for each output:
a kernel (o, c, i, j) as (o, c i j), the weight (k, n) of a dense layer turned over, as (n, k), an array of one axis as a single row.
Channels are a grain as well, but one that joins several arrays: `engine.prune.channels`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engine.masks import Masks

Scope = Literal["layer", "global"]


class ScoreError(ValueError):
    """Scores that are not numbers."""


@dataclass(frozen=True)
class Weights:
    """Each weight for itself."""

    def units(self, score: np.ndarray) -> np.ndarray:
        """A score for each unit."""
        return score.reshape(-1)

    def mask(self, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Which weights are kept, from which units are."""
        return kept.reshape(shape)


@dataclass(frozen=True)
class Blocks:
    """Blocks of so many rows and columns of the matrix, at its edges what is left of them. A block is worth the mean of its weights.

    Source: Gray, Radford & Kingma (2017), GPU kernels for block-sparse weights.
    """

    rows: int = 4
    columns: int = 4

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"a block has rows and columns, at least one of each, not {self.rows} x {self.columns}")

    def units(self, score: np.ndarray) -> np.ndarray:
        """A score for each unit."""
        matrix = as_matrix(score)
        down, across = (np.arange(0, n, step) for n, step in zip(matrix.shape, (self.rows, self.columns), strict=True))
        sums = np.add.reduceat(np.add.reduceat(matrix, down, axis=0), across, axis=1)
        sizes = np.outer(np.diff(np.append(down, matrix.shape[0])), np.diff(np.append(across, matrix.shape[1])))
        return np.ravel(sums / sizes)

    def mask(self, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Which weights are kept, from which units are."""
        m, k = as_matrix(np.empty(shape, bool)).shape
        grid = kept.reshape(-(-m // self.rows), -(-k // self.columns))
        return from_matrix(grid.repeat(self.rows, axis=0).repeat(self.columns, axis=1)[:m, :k], shape)


@dataclass(frozen=True)
class NofM:
    """Of each `m` neighbours along a row of the matrix `n` are kept; of fewer at its end, no more than `n`.

    Source: Mishra et al. (2021), Accelerating sparse deep neural networks, sec. 3: 2 of 4.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise ValueError(f"of {self.m} neighbours between 1 and {self.m} can be kept, not {self.n}")

    def masks(self, score: np.ndarray) -> np.ndarray:
        """Which weights are kept: the first of equal ones."""
        matrix = as_matrix(score)
        rows, columns = matrix.shape
        groups = -(-columns // self.m)
        padded = np.full((rows, groups * self.m), -np.inf)
        padded[:, :columns] = matrix
        order = np.argsort(-padded.reshape(rows, groups, self.m), axis=2, kind="stable")
        kept = np.zeros((rows, groups, self.m), bool)
        np.put_along_axis(kept, order[:, :, : self.n], True, axis=2)
        return from_matrix(kept.reshape(rows, -1)[:, :columns], score.shape)


Grain = Weights | Blocks | NofM
EACH = Weights()


def select(
    scores: Mapping[str, Any], keep: float | Mapping[str, float] | None = None, *, scope: Scope = "layer", grain: Grain = EACH
) -> Masks:
    """Masks that keep the most important units.

    keep    which share of the units, in (0, 1], rounded to the nearest count, but at least one; with scope="layer" also by name. None for
            a grain that says it itself, as 2:4 does
    scope   "layer": the share of each array; "global": of all together, by scores that are compared across arrays

    Of equal scores those that stand first are kept. Raises ValueError for a share outside (0, 1], for a name that has no share or no score,
    and for another scope, and ScoreError for a score that is not a number, naming the array.
    """
    arrays = {name: _numbers(name, score) for name, score in scores.items()}
    if isinstance(grain, NofM):
        if keep is not None:
            raise ValueError(f"{grain.n} of {grain.m} is the share that is kept: leave out keep={keep}")
        return {name: grain.masks(score) for name, score in arrays.items()}
    units = {name: grain.units(score) for name, score in arrays.items()}
    kept = chosen(units, keep, scope)
    return {name: grain.mask(kept[name], score.shape) for name, score in arrays.items()}


def chosen(units: Mapping[str, np.ndarray], keep: Any, scope: Scope) -> Masks:
    """Which of the units under each name are kept: the most important of each name, or of all together."""
    if scope not in ("layer", "global"):
        raise ValueError(f'scope is "layer" or "global", not {scope!r}')
    return _of_each(units, keep) if scope == "layer" else _of_all(units, keep)


def _of_each(units: Mapping[str, np.ndarray], keep: Any) -> Masks:
    shares = keep if isinstance(keep, Mapping) else dict.fromkeys(units, keep)
    missing, unknown = [name for name in units if name not in shares], [name for name in shares if name not in units]
    if missing or unknown:
        raise ValueError(
            f"keep says nothing of {', '.join(missing)}" if missing else f"keep is of {', '.join(unknown)} too, without a score"
        )
    return {name: largest(s, count(shares[name], s.size)) for name, s in units.items()}


def _of_all(units: Mapping[str, np.ndarray], keep: Any) -> Masks:
    if isinstance(keep, Mapping):
        raise ValueError('keep by name goes with scope="layer"; over all arrays it is one number')
    every = np.concatenate([np.zeros(0), *units.values()])
    kept = largest(every, count(keep, every.size))
    ends = np.cumsum([s.size for s in units.values()])
    return dict(zip(units, np.split(kept, ends[:-1]), strict=True)) if units else {}


def count(keep: Any, total: int) -> int:
    """How many of `total` a share is. Raises ValueError outside (0, 1]."""
    if isinstance(keep, bool) or not isinstance(keep, (int, float, np.number)) or not 0 < keep <= 1:
        raise ValueError(
            f"keep={keep!r}: a share above 0 and up to 1 is wanted, as 0.1 for a tenth\n  with nothing kept there is no model left"
        )
    return min(total, max(1, round(float(keep) * total)))


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Where the k largest stand; of equal ones the first."""
    kept = np.zeros(scores.size, bool)
    kept[np.argsort(-scores, kind="stable")[:k]] = True
    return kept


def as_matrix(x: np.ndarray) -> np.ndarray:
    """An array as the matrix by which a product multiplies, a row for each output."""
    return x.T if x.ndim == 2 else x.reshape(x.shape[0], -1) if x.ndim > 2 else x.reshape(1, -1)


def from_matrix(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array back from `as_matrix`."""
    return np.ascontiguousarray(matrix.T) if len(shape) == 2 else matrix.reshape(shape)


def _numbers(name: str, score: Any) -> np.ndarray:
    array = np.asarray(score, np.float64)
    wrong = int(np.count_nonzero(np.isnan(array)))
    if wrong:
        raise ScoreError(
            f"{wrong} of {array.size} scores of {name!r} are not numbers (nan)\n"
            "  a criterion that looks at the loss gives such where the loss or its gradient is not finite: look at the data and the weights"
        )
    return array
