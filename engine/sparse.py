"""Dense matrices without their zeros, and back: what `matmul_csr`, `matmul_bsr` and `matmul_2to4` take.

What is kept is what is not zero; or, if a mask (m, k) of booleans is given, just what it says, zeros included: the places of a pruned
weight then stay the same while it is trained. The numbers keep their dtype; indices are int32 (2:4: uint8), indptr int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.ops.sparse import columns_2to4, rows_of

__all__ = ["bsr", "bsr_to_dense", "csr", "csr_to_dense", "two_to_four", "two_to_four_to_dense"]


def csr(w: Any, mask: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w (m, k) in CSR: data (nnz), indices (nnz), rising in each row, and indptr (m + 1)."""
    w, kept = _kept(w, mask)
    rows, columns = np.nonzero(kept)
    return w[rows, columns], columns.astype(np.int32), _starts(rows, len(w))


def csr_to_dense(data: Any, indices: Any, indptr: Any, columns: int) -> np.ndarray:
    """(m, columns); repeated places add up."""
    w = np.zeros((len(indptr) - 1, columns), data.dtype)
    np.add.at(w, (rows_of(indptr), indices), data)
    return w


def bsr(w: Any, block: tuple[int, int], mask: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w (m, k) in blocks of (r, c), those in which anything is kept: data (blocks, r, c), indices (blocks) and indptr (m / r + 1).

    Of such a block all is kept. Raises ValueError if blocks do not divide w.
    """
    w, kept = _kept(w, mask)
    (m, k), (r, c) = w.shape, block
    if min(block) < 1 or m % r or k % c:
        raise ValueError(f"bsr: blocks of {r} by {c} do not divide a matrix of {m} by {k}")
    grid = (m // r, r, k // c, c)
    rows, columns = np.nonzero(kept.reshape(grid).any(axis=(1, 3)))
    return w.reshape(grid)[rows, :, columns], columns.astype(np.int32), _starts(rows, m // r)


def bsr_to_dense(data: Any, indices: Any, indptr: Any, columns: int) -> np.ndarray:
    """(m, columns); repeated blocks add up."""
    _, r, c = data.shape
    m = len(indptr) - 1
    w = np.zeros((m, columns // c, r, c), data.dtype)
    np.add.at(w, (rows_of(indptr), indices), data)
    dense: np.ndarray = w.swapaxes(1, 2).reshape(m * r, columns)
    return dense


def two_to_four(w: Any, mask: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """w (m, k) in 2:4: values and indices (m, k / 2), rising in each pair; where fewer than two of four are kept, zeros fill up.

    Raises ValueError if four does not divide k, and for the first four of which more than two are kept.
    """
    w, kept = _kept(w, mask)
    m, k = w.shape
    if k % 4:
        raise ValueError(f"two_to_four: four does not divide {k} columns")
    fours = kept.reshape(m, k // 4, 4)
    crowded = np.argwhere(fours.sum(axis=2) > 2)
    if len(crowded):
        i, q = crowded[0]
        raise ValueError(f"two_to_four: row {i} keeps {fours[i, q].sum()} of the columns {4 * q} to {4 * q + 3}, where two may be kept")
    indices = np.sort(np.argsort(~fours, axis=2, kind="stable")[:, :, :2], axis=2).reshape(m, k // 2)
    columns = columns_2to4(indices)
    values = np.take_along_axis(np.where(kept, w, np.zeros((), w.dtype)), columns, axis=1)
    return values, indices.astype(np.uint8)


def two_to_four_to_dense(values: Any, indices: Any) -> np.ndarray:
    """(m, k); two equal places add up."""
    m, h = values.shape
    w = np.zeros((m, 2 * h), values.dtype)
    np.add.at(w, (np.arange(m)[:, None], columns_2to4(indices)), values)
    return w


def _kept(w: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    w = np.asarray(w)
    kept = w != 0 if mask is None else np.asarray(mask, bool)
    if w.ndim != 2 or kept.shape != w.shape:
        raise ValueError(f"a matrix and a mask of its shape are wanted; w is {w.shape}, the mask {kept.shape}")
    return w, kept


def _starts(rows: np.ndarray, m: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m))])
