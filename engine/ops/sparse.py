r"""Products of a matrix that is mostly zeros, kept without them, with a dense one: Y = A B, for weights that were pruned.

A (m, k) is kept in one of three ways. B (k, n) has an example a column: the batch comes last, so that a number of A meets a whole
row of B. The words are SciPy's; all three are made from a dense matrix in `engine.sparse`.

    CSR    data (nnz)           the numbers, row after row
           indices (nnz)        the column of each: in any order; repeated ones add up
           indptr (m + 1)       row i has the numbers from indptr[i] up to indptr[i + 1]
    BSR    data (blocks, r, c), indices (blocks), indptr (m / r + 1): as CSR, of blocks of r rows and c columns
    2:4    values (m, k / 2)    of each four columns two are kept, which is what is asked of weights by hardware that has a use for it
           indices (m, k / 2)   which of the four: 0, 1, 2 or 3

Only the numbers have derivatives, not their places. In CSR three products are closed under their rules:

    A B                 matmul_csr
    Y at A's places     matmul_csr_data_grad: of the product of Y and B transposed, only what A keeps (SDDMM is its usual name)
    A transposed        is again sparse: the same numbers in another order (`transposed`)

The rules of 2:4 are those of CSR, in which it can be written. All indices are checked in each call: what lies outside is an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.index import take
from engine.ops.layout import matrix_transpose, reshape
from engine.ops.linear import matmul
from engine.shapes import ShapeError

__all__ = ["matmul_2to4", "matmul_bsr", "matmul_csr", "matmul_csr_data_grad"]


@op("nnz, nnz, p, k n -> p-1 n", linear=("data", "b"), constant=("indices", "indptr"), flops="2*nnz*n")
def matmul_csr(data, indices, indptr, b):
    r"""$y_{ij} = \sum_{t = s_i}^{s_{i+1} - 1} a_t\, b_{q_t j}$, with row starts s and columns q

    data (nnz), indices (nnz) and indptr (m + 1) are A in CSR; b (k, n); returns (m, n), in the dtype that data and b promote to.
    Raises ShapeError for indptr that does not run from 0 to nnz without a step back, and for indices that are no rows of b.
    """
    _check(indices, indptr, len(b))
    y = np.zeros((len(indptr) - 1, b.shape[1]), np.result_type(data, b))
    for i in range(len(y)):
        row = slice(indptr[i], indptr[i + 1])
        y[i] = data[row] @ b[indices[row]]
    return y


@matmul_csr.shape
def _(data, indices, indptr, b):
    return _rows(indptr), b[1]


@matmul_csr.vjp("data")
def _(g, indices, indptr, b):
    r"""\bar a_t = \sum_j \bar y_{i_t j} b_{q_t j}"""
    return matmul_csr_data_grad(g, b, indices, indptr)


@matmul_csr.vjp("b")
def _(g, data, indices, indptr, b_shape):
    r"""\bar B = A^\top \bar Y"""
    order, rows, starts = transposed(indices, indptr, b_shape[0])
    return matmul_csr(take(data, order), rows, starts, g)


@op("m n, k n, nnz, p -> nnz", linear=("gy", "b"), constant=("indices", "indptr"), flops="2*nnz*n")
def matmul_csr_data_grad(gy, b, indices, indptr):
    r"""$\bar a_t = \sum_j \bar y_{i_t j} b_{q_t j}$, with the rows i and the columns q of what is kept

    gy (m, n), b (k, n), indices (nnz), indptr (m + 1); returns (nnz). Raises ShapeError as `matmul_csr` does.
    """
    _check(indices, indptr, len(b))
    out = np.zeros(len(indices), np.result_type(gy, b))
    for i in range(len(gy)):
        row = slice(indptr[i], indptr[i + 1])
        out[row] = b[indices[row]] @ gy[i]
    return out


@matmul_csr_data_grad.shape
def _(gy, b, indices, indptr):
    if _rows(indptr) != gy[0]:
        raise ShapeError(f"indptr has {indptr[0]} elements for {gy[0]} rows: it has one more than there are rows")
    return indices


@matmul_csr_data_grad.vjp("gy")
def _(g, b, indices, indptr):
    r"""\bar{\bar Y} = A B, \quad a_t = g_t"""
    return matmul_csr(g, indices, indptr, b)


@matmul_csr_data_grad.vjp("b")
def _(g, gy, b_shape, indices, indptr):
    r"""\bar B = A^\top \bar Y, \quad a_t = g_t"""
    order, rows, starts = transposed(indices, indptr, b_shape[0])
    return matmul_csr(take(g, order), rows, starts, gy)


@op("blocks r c, blocks, p, k n -> (p-1)*r n", linear=("data", "b"), constant=("indices", "indptr"), flops="2*blocks*r*c*n")
def matmul_bsr(data, indices, indptr, b):
    r"""$Y_i = \sum_{t = s_i}^{s_{i+1} - 1} A_t B_{q_t}$, blocks of r rows of Y from blocks of c rows of B

    data (blocks, r, c), indices (blocks) and indptr (m / r + 1) are A in BSR; b (k, n), k a multiple of c; returns (m, n).
    Raises ShapeError as `matmul_csr` does.
    """
    _, r, c = data.shape
    _check(indices, indptr, len(b) // c)
    y = np.zeros((len(indptr) - 1, r, b.shape[1]), np.result_type(data, b))
    for i in range(len(y)):
        for t in range(indptr[i], indptr[i + 1]):
            y[i] += data[t] @ b[indices[t] * c : (indices[t] + 1) * c]
    return y.reshape(len(y) * r, b.shape[1])


@matmul_bsr.shape
def _(data, indices, indptr, b):
    _, r, c = data
    if r < 1 or c < 1 or b[0] % c:
        raise ShapeError(f"blocks of {r} by {c} do not divide a matrix with {b[0]} columns: that many rows b has")
    return _rows(indptr) * r, b[1]


@matmul_bsr.vjp("data")
def _(g, data_shape, indices, indptr, b):
    r"""\bar A_t = \bar Y_{i_t} B_{q_t}^\top"""
    _, r, c = data_shape
    mine = take(reshape(g, shape=(len(indptr) - 1, r, g.shape[1])), rows_of(indptr), axis=0)
    theirs = take(reshape(b, shape=(b.shape[0] // c, c, b.shape[1])), indices, axis=0)
    return matmul(mine, matrix_transpose(theirs))


@matmul_bsr.vjp("b")
def _(g, data, indices, indptr, b_shape):
    r"""\bar B = A^\top \bar Y"""
    order, rows, starts = transposed(indices, indptr, b_shape[0] // data.shape[2])
    return matmul_bsr(matrix_transpose(take(data, order, axis=0)), rows, starts, g)


@op("m h, m h, k n -> m n", linear=("values", "b"), constant=("indices",), flops="2*m*h*n")
def matmul_2to4(values, indices, b):
    r"""$y_{ij} = \sum_t a_{it}\, b_{q_{it} j}, \quad q_{it} = 4 \lfloor t / 2 \rfloor + \mathrm{indices}_{it}$

    values and indices (m, k / 2) are A in 2:4, indices from 0 to 3; b (k, n), k a multiple of 4; returns (m, n).
    Two equal indices add up. Raises ShapeError for an index that is not one of four.
    """
    q = columns_2to4(indices)
    y = np.zeros((len(values), b.shape[1]), np.result_type(values, b))
    for i in range(len(y)):
        y[i] = values[i] @ b[q[i]]
    return y


@matmul_2to4.shape
def _(values, indices, b):
    if values[1] * 2 != b[0] or b[0] % 4:
        raise ShapeError(f"values has {values[1]} columns, two for each four rows of b, of which there are {b[0]}")
    return values[0], b[1]


@matmul_2to4.vjp("values")
def _(g, values_shape, indices, b):
    r"""\bar a_{it} = \sum_j \bar y_{ij} b_{q_{it} j}"""
    return reshape(matmul_csr_data_grad(g, b, *_as_csr(indices)), shape=values_shape)


@matmul_2to4.vjp("b")
def _(g, values, indices, b_shape):
    r"""\bar B = A^\top \bar Y"""
    order, rows, starts = transposed(*_as_csr(indices), b_shape[0])
    return matmul_csr(take(reshape(values, shape=(indices.size,)), order), rows, starts, g)


def transposed(indices: Any, indptr: Any, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the numbers of A, in CSR or BSR, stand in its transpose: their order there, its indices and its indptr."""
    order = np.argsort(indices.astype(np.min_scalar_type(columns)), kind="stable")  # up to 16 bits NumPy sorts by digits
    starts = np.concatenate([[0], np.cumsum(np.bincount(indices.astype(np.intp), minlength=columns))])
    return order, rows_of(indptr)[order], starts


def rows_of(indptr: Any) -> np.ndarray:
    """The row of each number, in as few bits as kernels count with."""
    return np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), np.diff(indptr))


def columns_2to4(indices: Any) -> np.ndarray:
    """The column of each number of a matrix in 2:4. Raises ShapeError for an index that is not one of four."""
    _integers("indices", indices)
    if indices.size and not 0 <= indices.min() <= indices.max() <= 3:
        raise ShapeError(f"indices run from {indices.min()} to {indices.max()}, but name one of four columns: 0, 1, 2 or 3")
    columns: np.ndarray = np.arange(indices.shape[1]) // 2 * 4 + indices.astype(np.int64)
    return columns


def _as_csr(indices: Any) -> tuple[np.ndarray, np.ndarray]:
    """Columns and row starts of a matrix in 2:4."""
    m, h = indices.shape
    return columns_2to4(indices).reshape(m * h), np.arange(m + 1) * h


def _rows(indptr: Any) -> int:
    if indptr[0] < 1:
        raise ShapeError("indptr is empty: it has one element more than there are rows")
    return int(indptr[0]) - 1


def _check(indices: Any, indptr: Any, columns: int) -> None:
    """Raises ShapeError for places that are none."""
    _integers("indices", indices)
    _integers("indptr", indptr)
    if indptr[0] != 0 or indptr[-1] != len(indices) or np.any(indptr[1:] < indptr[:-1]):
        raise ShapeError(f"indptr runs from 0 to {len(indices)}, where the last row ends, and never back")
    if len(indices) and not 0 <= indices.min() <= indices.max() < columns:
        raise ShapeError(f"indices run from {indices.min()} to {indices.max()}, but there are {columns} columns, counted from 0")


def _integers(name: str, x: Any) -> None:
    if x.dtype.kind not in "iu":
        raise TypeError(f"{name} counts columns or places in integers; it holds {x.dtype}")


def _draw(pick: Pick):
    """Places in CSR: rows that may be empty, columns in any order, some of them twice."""
    m, k = pick.size(0, 4), pick.size(1, 5)
    counts = [pick.size(0, 4) for _ in range(m)]
    indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return m, k, pick.integers(int(indptr[-1]), high=k).astype(pick.choice([np.int64, np.int32])), indptr


@matmul_csr.sample
def _(pick: Pick):
    _, k, indices, indptr = _draw(pick)
    return [pick.array(len(indices)), indices, indptr, pick.array(k, pick.size(0, 5))], {}


@matmul_csr_data_grad.sample
def _(pick: Pick):
    m, k, indices, indptr = _draw(pick)
    n = pick.size(0, 5)
    return [pick.array(m, n), pick.array(k, n), indices, indptr], {}


@matmul_bsr.sample
def _(pick: Pick):
    _, k, indices, indptr = _draw(pick)
    r, c = pick.size(1, 5), pick.size(1, 3)
    return [pick.array(len(indices), r, c), indices, indptr, pick.array(k * c, pick.size(0, 5))], {}


@matmul_2to4.sample
def _(pick: Pick):
    m, fours = pick.size(0, 3), pick.size(0, 3)
    indices = pick.integers(m, 2 * fours, high=4).astype(pick.choice([np.uint8, np.int64]))
    return [pick.array(m, 2 * fours), indices, pick.array(4 * fours, pick.size(0, 5))], {}
