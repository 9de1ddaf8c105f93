"""Pruned weights kept without their zeros, so that less is computed: CSR, blocks, 2:4.

    formed = sparse(params, masks, kind="auto", batch=64)       # under kernels.use("cpu"), where the products are fast
    running(mlp.predict)(formed, x)

A weight W (k, n) is kept as A, its transpose, and y = (A x^T)^T: `engine.ops.sparse` says why the batch comes last. The transposes move
nothing in memory. What a layer gives lies by columns, as the next one wants it; only the input is brought into that order, as it is read.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal

import numpy as np

from engine import ops
from engine.forms.form import Form
from engine.masks import checked
from engine.ops.layout import turned
from engine.shapes import Shape, ShapeError
from engine.sparse import bsr, csr, two_to_four

Kind = Literal["auto", "csr", "bsr", "2:4"]

ROUNDS = 15  # of a race; the best counts, as noise only adds
BLOCKS = (1, 2, 4, 8, 16, 32)


class _Pruned(Form):
    """The products of what is kept as its transpose A."""

    @abstractmethod
    def times(self, b: Any) -> Any:
        """A b, for a b with an example a column."""

    def expand(self) -> Any:
        return turned(self.times(np.eye(self.shape[0], dtype=self.dtype)))

    def matmul(self, x: Any) -> Any:
        return self._through(x, lambda y: y)

    def dense(self, x: Any, b: Any, *, activation: Any) -> Any:
        return self._through(x, lambda y: ops.bias_activation(y, b, axis=0, activation=activation))

    def _through(self, x: Any, finish: Callable[[Any], Any]) -> Any:
        """x W by columns, `finish`, and back to rows."""
        k, n = self.shape
        if x.shape[-1:] != (k,):
            raise ShapeError(f"x has the shape {x.shape}, wanted are rows of {k}")
        rows = x if len(x.shape) == 2 else ops.reshape(x, shape=(math.prod(x.shape[:-1]), k))
        y = turned(finish(self.times(turned(rows))))
        return y if rows is x else ops.reshape(y, shape=(*x.shape[:-1], n))


@dataclass(frozen=True, eq=False)
class CSR(_Pruned):
    """The numbers of A one by one: data (nnz), indices (nnz), indptr (n + 1), and k, the number of inputs."""

    learned: ClassVar[tuple[str, ...]] = ("data",)
    data: Any
    indices: np.ndarray
    indptr: np.ndarray
    inputs: int

    @property
    def shape(self) -> Shape:
        return (self.inputs, len(self.indptr) - 1)

    def times(self, b: Any) -> Any:
        return ops.matmul_csr(self.data, self.indices, self.indptr, b)


@dataclass(frozen=True, eq=False)
class Blocks(_Pruned):
    """Those blocks of A in which anything is kept: data (blocks, r, c), indices (blocks), indptr (n / r + 1), and k."""

    learned: ClassVar[tuple[str, ...]] = ("data",)
    data: Any
    indices: np.ndarray
    indptr: np.ndarray
    inputs: int

    @property
    def shape(self) -> Shape:
        return (self.inputs, (len(self.indptr) - 1) * self.data.shape[1])

    def times(self, b: Any) -> Any:
        return ops.matmul_bsr(self.data, self.indices, self.indptr, b)


@dataclass(frozen=True, eq=False)
class TwoToFour(_Pruned):
    """Two of each four inputs of an output: values and indices (n, k / 2)."""

    learned: ClassVar[tuple[str, ...]] = ("values",)
    values: Any
    indices: np.ndarray

    @property
    def shape(self) -> Shape:
        return (2 * self.values.shape[1], self.values.shape[0])

    def times(self, b: Any) -> Any:
        return ops.matmul_2to4(self.values, self.indices, b)


def sparse(
    params: Mapping[str, Any],
    masks: Mapping[str, Any] | None = None,
    *,
    kind: Kind = "auto",
    batch: int = 64,
    block: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """The parameters, masked, with the matrices among them kept without their zeros: the pruned model as `running` runs it fast.

    masks   booleans by the names of parameters, True for what is kept. Left out: what is not zero, in matrices that have zeros
    kind    "csr"; "bsr", blocks; "2:4"; or "auto": for each matrix what multiplies `batch` rows fastest, measured here and now on the
            kernels in force, its array included. So call it under the `kernels.use` that the model will run under
    block   (inputs, outputs) of a block; left out, the largest that the mask is made of
    What has no mask, and a mask of another number of axes, stays an array. So do the kernels of convolutions: there is no sparse product
    for them.
    Raises MaskError for a mask of no parameter, of another shape or not of booleans, and ValueError for a matrix that is not of that kind.
    """
    if kind not in ("auto", "csr", "bsr", "2:4"):
        raise ValueError(f'kind is "auto", "csr", "bsr" or "2:4", not {kind!r}')
    if masks is None:
        masks = {name: np.asarray(p) != 0 for name, p in params.items() if np.ndim(p) == 2 and not np.all(p)}
    formed = dict(params)
    for name, mask in checked(masks, params).items():
        kept = np.where(mask, params[name], np.zeros((), np.asarray(params[name]).dtype))
        if np.ndim(kept) != 2:
            formed[name] = kept
        elif kind == "auto":
            formed[name] = _fastest(dict(_candidates(kept, mask, block)), batch)
        else:
            try:
                formed[name] = _kept_as(kind, kept, mask, block)
            except ValueError as e:
                raise ValueError(f"{name} cannot be kept as {kind}: {e}") from None
    return formed


def race(w: Any, mask: Any = None, *, batch: int = 64, block: tuple[int, int] | None = None) -> dict[str, float]:
    """Seconds that a layer with this weight (k, n) takes for `batch` rows, by kind, "dense" among them: the best of some rounds.

    On the kernels in force. Parameters as for `sparse`; kinds that do not fit the mask are left out. Raises MaskError as `sparse`, and
    ValueError for an array that is no matrix.
    """
    w = np.asarray(w)
    if w.ndim != 2:
        raise ValueError(f"race: a matrix (k, n) is wanted, not an array of shape {w.shape}")
    mask = checked({"w": w != 0 if mask is None else mask}, {"w": w})["w"]
    return _timed(dict(_candidates(np.where(mask, w, np.zeros((), w.dtype)), mask, block)), batch)


def _fastest(candidates: Mapping[str, Any], batch: int) -> Any:
    seconds = _timed(candidates, batch)
    return candidates[min(seconds, key=seconds.__getitem__)]


def _timed(candidates: Mapping[str, Any], batch: int) -> dict[str, float]:
    """In turns, so that what disturbs one disturbs the others."""
    k, n = candidates["dense"].shape
    x, b = np.ones((batch, k), candidates["dense"].dtype), np.zeros(n, candidates["dense"].dtype)
    best = dict.fromkeys(candidates, math.inf)
    for turn in range(ROUNDS + 1):
        for kind, w in candidates.items():
            start = time.perf_counter()
            w.dense(x, b, activation="identity") if isinstance(w, Form) else ops.dense(x, w, b)
            seconds = time.perf_counter() - start
            best[kind] = min(best[kind], seconds) if turn else math.inf  # the first may compile
    return best


def _candidates(w: np.ndarray, mask: Any, block: tuple[int, int] | None) -> Iterator[tuple[str, Any]]:
    """The array, and every kind that it can be kept as."""
    yield "dense", w
    for kind in ("csr", "bsr", "2:4"):
        try:
            yield kind, _kept_as(kind, w, mask, block)
        except ValueError:  # the mask is not of that kind
            continue


def _kept_as(kind: str, w: np.ndarray, mask: Any, block: tuple[int, int] | None) -> Form:
    a, kept = w.T, np.asarray(mask).T
    if kind == "csr":
        return CSR(*csr(a, kept), inputs=len(w))
    if kind == "2:4":
        return TwoToFour(*two_to_four(a, kept))
    inputs, outputs = block or _block_of(kept)
    return Blocks(*bsr(a, (outputs, inputs), kept), inputs=len(w))


def _block_of(kept: np.ndarray) -> tuple[int, int]:
    """(inputs, outputs) of the largest block that is kept whole or not at all, wherever it stands in a mask (n, k)."""
    n, k = kept.shape
    sizes = [(r, c) for r, c in product(BLOCKS, BLOCKS) if r * c > 1 and n % r == 0 and k % c == 0]
    for r, c in sorted(sizes, key=math.prod, reverse=True):
        grid = kept.reshape(n // r, r, k // c, c)
        if np.array_equal(grid.any(axis=(1, 3)), grid.all(axis=(1, 3))):
            return c, r
    raise ValueError("the mask is not made of blocks; say by block= how large they shall be")
