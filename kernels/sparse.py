"""What must hold of a matrix that is kept without its zeros: the same on every backend.

`kernels.door` asks before a call, and kernels again in each; `out` is checked where the result is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def check_csr(data: Any, indices: Any, indptr: Any, b: Any) -> None:
    """Raises ValueError for places that are none."""
    check_places(indices, indptr, len(b))


def check_bsr(data: Any, indices: Any, indptr: Any, b: Any) -> None:
    _, r, c = data.shape
    if r < 1 or c < 1 or len(b) % c:
        raise ValueError(f"blocks of {r} by {c} do not divide a matrix with {len(b)} columns: that many rows b has")
    check_places(indices, indptr, len(b) // c)


def check_2to4(values: Any, indices: Any, b: Any) -> None:
    if 2 * values.shape[1] != len(b) or len(b) % 4:
        raise ValueError(f"values has {values.shape[1]} columns, two for each four rows of b, of which there are {len(b)}")
    check_fours(indices)


def check_fours(indices: Any) -> None:
    if indices.size and not 0 <= indices.min() <= indices.max() <= 3:
        raise ValueError(f"indices run from {indices.min()} to {indices.max()}, but name one of four columns: 0, 1, 2 or 3")


def check_places(indices: Any, indptr: Any, columns: int) -> None:
    if len(indptr) < 1:
        raise ValueError("indptr is empty: it has one element more than there are rows")
    if indptr[0] != 0 or indptr[-1] != len(indices) or np.any(indptr[1:] < indptr[:-1]):
        raise ValueError(f"indptr runs from 0 to {len(indices)}, where the last row ends, and never back")
    if len(indices) and not 0 <= indices.min() <= indices.max() < columns:
        raise ValueError(f"indices run from {indices.min()} to {indices.max()}, but there are {columns} columns, counted from 0")
    if columns > 1 << 31:
        raise ValueError(f"{columns} columns are more than 32 bits count")


def check_samples(gy: Any, b: Any, indices: Any, indptr: Any) -> None:
    if len(indptr) != len(gy) + 1:
        raise ValueError(f"indptr has {len(indptr)} elements for {len(gy)} rows: it has one more than there are rows")
    check_places(indices, indptr, len(b))
