r"""Low rank: a weight as a product of two smaller ones, $W \approx U V$, of which both numbers and work are fewer.

    W (k, n) as U (k, r) and V (r, n):   r (k + n) numbers for k n, and as many products for each example. So r < k n / (k + n) pays

Of all matrices of rank r the truncated singular value decomposition is the nearest; what it misses is the sum of the squares of the
singular values that were cut. A kernel (o, c, i, j) is made a matrix first, in one of two ways:

    conv="filters"   (c i j, o): a convolution with r filters, followed by one of 1 x 1
    conv="spatial"   (c i, o j): a convolution along the rows, followed by one along the columns

How high a rank: so that a share of the energy stays (`ranks_by_energy`), so that the model has a number of parameters
(`ranks_by_budget`), or so that a score measured on data does not fall by more than is allowed (`ranks_by_measure`). After that
`factorise`, and a few epochs of training:

    ranks = ranks_by_budget(params, 60_000)
    formed = factorise(params, ranks)
    run = fit(running(mlp.loss, like=formed), flat(formed), (x, t), optimizer=Adam(), epochs=2)        # of engine.forms

    Eckart & Young (1936), The approximation of one matrix by another of lower rank
    filters   Zhang, Zou, He & Sun (2016), Accelerating very deep convolutional networks for classification and detection, sec. 3.1
    spatial   Jaderberg, Vedaldi & Zisserman (2014), Speeding up convolutional neural networks with low rank expansions, scheme 2;
              by singular values: Tai et al. (2016), Convolutional neural networks with low-rank regularization, theorem 1
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from engine import ops
from engine.forms import Form
from engine.ops.windows import pair, sides
from engine.shapes import Shape, ShapeError

__all__ = [
    "FilterFactors", "LowRank", "SpatialFactors", "Spectrum", "break_even", "factorise", "ranks_by_budget", "ranks_by_energy",
    "ranks_by_measure", "spectrum", "table",
]  # fmt: skip

Conv = Literal["filters", "spatial"]
Ranks = dict[str, int]


# The forms.


@dataclass(frozen=True, eq=False)
class LowRank(Form):
    """W = U V: u (k, r), v (r, n). Raises ShapeError if they do not fit."""

    learned: ClassVar[tuple[str, ...]] = ("u", "v")
    u: Any
    v: Any

    def __post_init__(self) -> None:
        if len(self.u.shape) != 2 or len(self.v.shape) != 2 or self.u.shape[1] != self.v.shape[0]:
            raise ShapeError(f"factors of shapes {self.u.shape} and {self.v.shape}: wanted are (k, r) and (r, n)")

    @property
    def shape(self) -> Shape:
        return (self.u.shape[0], self.v.shape[1])

    def expand(self) -> Any:
        return ops.matmul(self.u, self.v)

    def matmul(self, x: Any) -> Any:
        return ops.matmul(ops.matmul(x, self.u), self.v)

    def dense(self, x: Any, b: Any, *, activation: Any) -> Any:
        return ops.dense(ops.matmul(x, self.u), self.v, b, activation=activation)


@dataclass(frozen=True, eq=False)
class FilterFactors(Form):
    """A kernel (o, c, i, j) as r filters and what each of the o is made of: u (r, c, i, j), v (o, r, 1, 1). Raises ShapeError."""

    learned: ClassVar[tuple[str, ...]] = ("u", "v")
    u: Any
    v: Any

    def __post_init__(self) -> None:
        if len(self.u.shape) != 4 or self.v.shape[1:] != (self.u.shape[0], 1, 1):
            raise ShapeError(f"factors of shapes {self.u.shape} and {self.v.shape}: wanted are (r, c, i, j) and (o, r, 1, 1)")

    @property
    def shape(self) -> Shape:
        return (self.v.shape[0], *self.u.shape[1:])

    def expand(self) -> Any:
        (o, r), size = self.v.shape[:2], math.prod(self.u.shape[1:])
        return ops.reshape(ops.matmul(ops.reshape(self.v, shape=(o, r)), ops.reshape(self.u, shape=(r, size))), shape=self.shape)

    def conv2d(self, x: Any, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        _check_groups(groups)
        return ops.conv2d(ops.conv2d(x, self.u, stride=stride, padding=padding, dilation=dilation), self.v)


@dataclass(frozen=True, eq=False)
class SpatialFactors(Form):
    """A kernel (o, c, i, j) as a column and a row for each of r maps: u (r, c, i, 1), v (o, r, 1, j). Raises ShapeError."""

    learned: ClassVar[tuple[str, ...]] = ("u", "v")
    u: Any
    v: Any

    def __post_init__(self) -> None:
        u, v = self.u.shape, self.v.shape
        if len(u) != 4 or len(v) != 4 or u[3] != 1 or v[1:3] != (u[0], 1):
            raise ShapeError(f"factors of shapes {u} and {v}: wanted are (r, c, i, 1) and (o, r, 1, j)")

    @property
    def shape(self) -> Shape:
        return (self.v.shape[0], *self.u.shape[1:3], self.v.shape[3])

    def expand(self) -> Any:
        (r, c, i, _), (o, _, _, j) = self.u.shape, self.v.shape
        columns, rows = ops.reshape(self.u, shape=(r, c * i)), ops.reshape(ops.permute_dims(self.v, axes=(0, 2, 3, 1)), shape=(o * j, r))
        return ops.permute_dims(ops.reshape(ops.matmul(rows, columns), shape=(o, j, c, i)), axes=(0, 2, 3, 1))

    def conv2d(self, x: Any, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        _check_groups(groups)
        (down, across), (before, around), (deep, wide) = pair(stride, "stride", 1), sides(padding), pair(dilation, "dilation", 1)
        y = ops.conv2d(x, self.u, stride=(down, 1), padding=(before, (0, 0)), dilation=(deep, 1))
        return ops.conv2d(y, self.v, stride=(1, across), padding=((0, 0), around), dilation=(1, wide))


def _check_groups(groups: int) -> None:
    if groups != 1:
        raise ShapeError(
            f"conv2d was called with groups={groups}, but the factors share their maps among all channels: a kernel of groups is one "
            "matrix for each\n  leave this weight out of the ranks"
        )


# The spectrum of a weight.


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""A weight taken apart: $W = \sum_p s_p u_p v_p^\top$, in float64, with falling singular values s."""

    name: str
    shape: Shape
    dtype: Any
    conv: Conv
    u: np.ndarray
    s: np.ndarray
    v: np.ndarray

    @property
    def sides(self) -> tuple[int, int]:
        """k and n of the matrix."""
        return self.u.shape[0], self.v.shape[1]

    def numbers(self, rank: int) -> int:
        """r (k + n): what factors of that rank learn; half of the flops that they take for each example, of a kernel for each place."""
        return rank * sum(self.sides)

    def energy(self, rank: int) -> float:
        r"""$\sum_{p \leq r} s_p^2 / \sum_p s_p^2$: the share of the sum of the squares of W that is kept. 1 for a W of zeros."""
        squares = np.square(self.s)
        return 1.0 if not squares.any() else float(squares[:rank].sum() / squares.sum())

    def cut(self, rank: int) -> Form:
        r"""The nearest form of that rank. Both factors get $\sqrt{s_p}$, so that their gradients are of one size.

        Raises ValueError for a rank below 1 or above min(k, n).
        """
        if not 1 <= rank <= len(self.s):
            k, n = self.sides
            raise ValueError(f"rank {rank} of {self.name}, a {k} by {n} matrix of {self.shape}: wanted is 1 <= rank <= {len(self.s)}")
        root = np.sqrt(self.s[:rank])
        u, v = (self.u[:, :rank] * root).astype(self.dtype), (root[:, None] * self.v[:rank]).astype(self.dtype)
        if len(self.shape) == 2:
            return LowRank(u, v)
        o, c, i, j = self.shape
        if self.conv == "filters":
            return FilterFactors(_packed(u.T, (rank, c, i, j)), _packed(v.T, (o, rank, 1, 1)))
        return SpatialFactors(_packed(u.T, (rank, c, i, 1)), _packed(v.reshape(rank, o, j).swapaxes(0, 1), (o, rank, 1, j)))


def spectrum(name: str, w: Any, *, conv: Conv = "filters") -> Spectrum:
    """The singular value decomposition of a weight (k, n), or of a kernel (o, c, i, j) as a matrix. `name` is what errors call it.

    Raises ValueError for an array that is no weight, an unknown `conv`, and numbers that are not finite.
    """
    w = np.asarray(w)
    if w.ndim not in (2, 4) or w.dtype.kind != "f" or w.size == 0:
        raise ValueError(f"{name} is {w.dtype} {w.shape}, no weight with a rank: wanted are floating-point numbers, (k, n) or (o, c, i, j)")
    if conv not in ("filters", "spatial"):
        raise ValueError(f'conv is "filters" or "spatial", not {conv!r}')
    if not np.isfinite(w).all():
        raise ValueError(f"{name} holds numbers that are not finite: it has no singular values")
    u, s, v = np.linalg.svd(_as_matrix(w, conv).astype(np.float64), full_matrices=False)
    return Spectrum(name, w.shape, w.dtype, conv, u, s, v)


def _as_matrix(w: np.ndarray, conv: Conv) -> np.ndarray:
    if w.ndim == 2:
        return w
    o, c, i, j = w.shape
    matrix: np.ndarray = w.reshape(o, c * i * j).T if conv == "filters" else w.transpose(1, 2, 0, 3).reshape(c * i, o * j)
    return matrix


def _packed(x: np.ndarray, shape: Shape) -> np.ndarray:
    packed: np.ndarray = np.ascontiguousarray(x).reshape(shape)
    return packed


def _that_can_shrink(params: Mapping[str, Any], names: Iterable[str] | None, conv: Conv) -> dict[str, Spectrum]:
    """Of these those that have fewer numbers with rank 1."""
    return {name: weight for name, weight in _spectra(params, names, conv).items() if break_even(*weight.sides)}


def break_even(k: int, n: int) -> int:
    """The largest rank that saves numbers, r (k + n) < k n; 0 if there is none."""
    return (k * n - 1) // (k + n) if k * n else 0


def factorise(params: Mapping[str, Any], ranks: Mapping[str, int], *, conv: Conv = "filters") -> dict[str, Any]:
    """The parameters with forms of these ranks in place of the weights that `ranks` names. What it does not name stays as it is.

    Raises ValueError for a name that is no weight, and for a rank below 1 or above min(k, n).
    """
    cut = {name: weight.cut(ranks[name]) for name, weight in _spectra(params, ranks, conv).items()}
    return {name: cut.get(name, p) for name, p in params.items()}


def _spectra(params: Mapping[str, Any], names: Iterable[str] | None, conv: Conv) -> dict[str, Spectrum]:
    """Of the weights named, or of all matrices and kernels."""
    names = [name for name, p in params.items() if np.ndim(p) in (2, 4) and np.size(p)] if names is None else list(names)
    strangers = [name for name in names if name not in params]
    if strangers:
        raise ValueError(f"there is no parameter {', '.join(map(repr, strangers))}: there are {', '.join(params)}")
    return {name: spectrum(name, params[name], conv=conv) for name in names}


# How high a rank.


def ranks_by_energy(params: Mapping[str, Any], share: float, *, names: Iterable[str] | None = None, conv: Conv = "filters") -> Ranks:
    r"""For each weight the smallest r with $\sum_{p \leq r} s_p^2 \geq \mathrm{share} \cdot \sum_p s_p^2$.

    names   the weights that may be factored; left out, all matrices and kernels
    A weight that would not have fewer numbers is left out: it stays whole. Raises ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"ranks_by_energy: the share of the energy that is kept lies between 0 and 1, it is {share!r}")
    ranks: Ranks = {}
    for name, weight in _spectra(params, names, conv).items():
        kept = np.cumsum(np.square(weight.s))
        rank = min(int(np.searchsorted(kept, share * kept[-1])) + 1, len(kept))
        if rank <= break_even(*weight.sides):
            ranks[name] = rank
    return ranks


def ranks_by_budget(params: Mapping[str, Any], budget: int, *, names: Iterable[str] | None = None, conv: Conv = "filters") -> Ranks:
    """Ranks with which the whole model has `budget` numbers or just below, biases and all that is not factored included.

    Sought is the largest product of the energies of all weights. From rank 1 on, that weight gets one more whose energy grows by the
    largest factor for each number that it takes. One whose next rank would not pay becomes whole again, as one step, and is not among
    the ranks; one whose next step does not fit stays as it is. Parameters as for `ranks_by_energy`.
    Raises ValueError for a budget that even ranks of 1 exceed.
    Source: Zhang, Zou, He & Sun (2016), rank selection for whole-model acceleration; there from full ranks down.
    """
    weights = _that_can_shrink(params, names, conv)
    taken = _least(params, weights)
    if budget < taken:
        raise ValueError(
            f"ranks_by_budget: the model has {taken:,} numbers with all ranks 1, the budget is {budget:,}\n  name more weights"
        )
    ranks, closed = dict.fromkeys(weights, 1), set()
    for name, rank, numbers in _steps(weights):
        if name in closed or taken + numbers > budget:
            closed.add(name)
            continue
        ranks[name], taken = rank, taken + numbers
    return _below_whole(ranks, weights)


def ranks_by_measure(
    params: Mapping[str, Any],
    measure: Callable[[dict[str, Any]], float],
    drop: float,
    *,
    names: Iterable[str] | None = None,
    conv: Conv = "filters",
) -> Ranks:
    """The ranks of the smallest model whose score is at most `drop` below that of the whole one.

    measure   parameters with forms -> a score on data, the greater the better: `lambda p: accuracy(t, running(predict)(p, x).argmax(1))`
    The models are those on the way of `ranks_by_budget`. One is sought by halving, which takes a measurement for each doubling of their
    number and supposes that larger ones are no worse; what is returned was measured.
    Raises ValueError for a drop below 0 or a score that is not a number.
    """
    if not drop >= 0:
        raise ValueError(f"ranks_by_measure: the drop that is allowed is 0 or more, not {drop!r}")
    weights = _that_can_shrink(params, names, conv)
    stages = [dict.fromkeys(weights, 1)]
    for name, rank, _ in _steps(weights):
        stages.append({**stages[-1], name: rank})

    def score(ranks: Ranks) -> float:
        found = float(measure({**params, **{name: weights[name].cut(r) for name, r in _below_whole(ranks, weights).items()}}))
        if math.isnan(found):
            raise ValueError("ranks_by_measure: the score is nan")
        return found

    floor = score(stages[-1]) - drop  # of the last stage, in which all weights are whole
    low, high = 0, len(stages) - 1
    while low < high:
        middle = (low + high) // 2
        if score(stages[middle]) >= floor:
            high = middle
        else:
            low = middle + 1
    return _below_whole(stages[high], weights)


def _least(params: Mapping[str, Any], weights: Mapping[str, Spectrum]) -> int:
    """How many numbers the model has with all ranks 1."""
    return sum(weights[name].numbers(1) if name in weights else np.size(p) for name, p in params.items())


def _steps(weights: Mapping[str, Spectrum]) -> Iterator[tuple[str, int, int]]:
    """Name, new rank and numbers that it takes: from rank 1 up to all weights whole, the step that pays best first."""
    heap = [(*_step(weight, 1), name) for name, weight in weights.items()]
    heapq.heapify(heap)
    while heap:
        _, rank, numbers, name = heapq.heappop(heap)
        yield name, rank, numbers
        if rank < _whole(weights[name]):
            heapq.heappush(heap, (*_step(weights[name], rank), name))


def _step(weight: Spectrum, rank: int) -> tuple[float, int, int]:
    """From a rank to the next, or to the whole weight: minus the growth of ln(energy) for each number, the new rank, the numbers."""
    k, n = weight.sides
    new = rank + 1 if rank < break_even(k, n) else _whole(weight)
    numbers = (k * n if new == _whole(weight) else weight.numbers(new)) - weight.numbers(rank)
    return math.log(weight.energy(rank) / weight.energy(new)) / numbers, new, numbers


def _whole(weight: Spectrum) -> int:
    """The rank that stands for a weight as it is."""
    return len(weight.s) + 1


def _below_whole(ranks: Ranks, weights: Mapping[str, Spectrum]) -> Ranks:
    return {name: rank for name, rank in ranks.items() if rank < _whole(weights[name])}


def table(params: Mapping[str, Any], formed: Mapping[str, Any]) -> str:
    """What was gained, a line for each weight that is factored: its rank and the largest that saves, numbers before and after, energy kept.

    Flops are twice the numbers: for an example of a matrix, for a place of the result of a kernel (of "spatial" about so many, as the
    first convolution runs at all columns).
    """
    rows = [f"  {'weight':<16} {'shape':<18} {'rank':>5} {'saves to':>9} {'before':>10} {'after':>10} {'energy':>8}"]
    for name, form in formed.items():
        if isinstance(form, (LowRank, FilterFactors, SpatialFactors)):
            conv: Conv = "spatial" if isinstance(form, SpatialFactors) else "filters"
            k, n = _as_matrix(np.asarray(params[name]), conv).shape
            w, rank = np.asarray(params[name], np.float64), form.numbers["u"].shape[1 if isinstance(form, LowRank) else 0]
            kept = 1 - np.sum(np.square(w - form.expand())) / max(np.sum(np.square(w)), np.finfo(float).tiny)
            rows.append(f"  {name:<16} {w.shape!s:<18} {rank:>5} {break_even(k, n):>9} {w.size:>10,} {form.count:>10,} {kept:>8.1%}")
    before, after = sum(map(np.size, params.values())), sum(p.count if isinstance(p, Form) else np.size(p) for p in formed.values())
    return "\n".join([*rows, f"  {'all':<16} {'':<18} {'':>5} {'':>9} {before:>10,} {after:>10,}"])
