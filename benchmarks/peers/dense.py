"""A product with all the zeros, in NumPy's BLAS: what a sparse one must beat."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import peers


def available() -> str | None:
    return None


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    if case.op not in BACK:
        raise peers.Missing("the case is dense itself")
    a, b = BACK[case.op](*args[:-1], case.shapes[0]), args[-1]
    return lambda: np.matmul(a, b)


def from_csr(data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> Any:
    a = np.zeros(shape, data.dtype)
    a[np.repeat(np.arange(shape[0]), np.diff(indptr)), indices] = data
    return a


def from_bsr(data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> Any:
    _, r, c = data.shape
    blocks = np.zeros((shape[0] // r, shape[1] // c, r, c), data.dtype)
    blocks[np.repeat(np.arange(len(blocks)), np.diff(indptr)), indices] = data
    return blocks.swapaxes(1, 2).reshape(shape)


def from_2to4(values: Any, indices: Any, shape: tuple[int, int]) -> Any:
    a = np.zeros((shape[0], shape[1] // 4, 4), values.dtype)
    fours = (shape[0], shape[1] // 4, 2)
    np.put_along_axis(a, indices.reshape(fours).astype(np.int64), values.reshape(fours), axis=2)
    return a.reshape(shape)


BACK = {"matmul_csr": from_csr, "matmul_bsr": from_bsr, "matmul_2to4": from_2to4}
