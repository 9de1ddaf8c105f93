"""Factorisations and inverses of matrices in high precision, with LAPACK's choice of signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

from engine.testing.precise import Number, exactly, lifted, wrapped

Array = Any
LARGEST = 5  # matrix of which all products are summed up


def each(factor: Callable[[Array], tuple[Array, ...]]) -> Callable[[Array], tuple[Array, ...]]:
    """`factor`, which takes one matrix, for a stack of them."""

    def of_stack(a: Array) -> tuple[Array, ...]:
        if a.ndim == 2:
            return tuple(map(wrapped, factor(a)))
        return tuple(np.stack(parts) for parts in zip(*map(of_stack, a), strict=True))

    return of_stack


def as_floats(a: Array) -> np.ndarray[Any, Any]:
    return np.array([float(lifted(v)) for v in np.ravel(a)]).reshape(np.shape(a))


def as_matrix(a: Array) -> Any:
    return mpmath.matrix([[lifted(v) for v in row] for row in np.asarray(a)])


def from_matrix(m: Any) -> Array:
    return wrapped(np.array([[Number(m[i, j]) for j in range(m.cols)] for i in range(m.rows)], object).reshape(m.rows, m.cols))


def signs_of(columns: Array, near: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """1 or -1 for each column: what makes it point as the one in floats does."""
    return np.where(np.sum(as_floats(columns) * near, axis=0) < 0, -1, 1)


@each
def _qr(a: Array) -> tuple[Array, ...]:
    """By reflections. One that has nothing to remove is left out, and the sign of its diagonal element stays."""
    m, n = a.shape
    r, q = a.copy(), exactly(np.eye(m))
    for j in range(min(m - 1, n)):
        if not np.any(r[j + 1 :, j] != 0):
            continue
        v = r[j:, j].copy()
        length = np.sqrt(np.sum(v * v))
        v[0] = v[0] + (length if v[0] >= 0 else -length)
        v = v * np.sqrt(2 / np.sum(v * v))
        r[j:] = r[j:] - np.multiply.outer(v, np.sum(v[:, None] * r[j:], axis=0))
        q[:, j:] = q[:, j:] - np.multiply.outer(np.sum(q[:, j:] * v, axis=1), v)
    return q[:, :n], np.triu(r[:n])


@each
def _eigh(a: Array) -> tuple[Array, ...]:
    if a.size == 0:
        raise TypeError("an empty matrix in high precision")
    values, vectors = mpmath.eigsy(as_matrix(a))
    order = sorted(range(len(values)), key=lambda i: values[i])
    v = from_matrix(vectors)[:, order]
    return np.array([Number(values[i]) for i in order], object), v * signs_of(v, np.linalg.eigh(as_floats(a))[1])


@each
def _svd(a: Array) -> tuple[Array, ...]:
    if a.size == 0:
        raise TypeError("an empty matrix in high precision")
    u, s, vt = mpmath.svd_r(as_matrix(a))
    u, vt = from_matrix(u), from_matrix(vt)
    signs = signs_of(u, np.linalg.svd(as_floats(a), full_matrices=False)[0])
    return u * signs, np.array([Number(v) for v in s], object), vt * signs[:, None]


def qr(a: Array) -> tuple[Array, ...]:
    return _qr(a)


def eigh(a: Array, *, uplo: str) -> tuple[Array, ...]:
    return _eigh((a + np.swapaxes(a, -1, -2)) / 2)


def svd(a: Array) -> tuple[Array, ...]:
    return _svd(a)


def det(a: Array) -> Array:
    """By minors of the first row: a polynomial, which a singular matrix does not trouble."""
    n = a.shape[-1]
    if n > LARGEST:
        return np.linalg.det(a)
    total = np.ones(a.shape[:-2])[()] if n == 0 else 0
    for j in range(n):
        rest = det(a[..., 1:, [k for k in range(n) if k != j]])
        total = total + (-1) ** j * a[..., 0, j] * rest
    return total


def cofactor(a: Array) -> Array:
    if a.shape[-1] == 0:
        return a
    others = [[k for k in range(a.shape[-1]) if k != i] for i in range(a.shape[-1])]
    rows = [[(-1) ** (i + j) * det(a[..., kept, :][..., left]) for j, left in enumerate(others)] for i, kept in enumerate(others)]
    return np.ones_like(a) * np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def pinv(a: Array, *, rtol: Any) -> Array:
    """For full rank."""
    t = np.swapaxes(a, -1, -2)
    tall = a.shape[-2] >= a.shape[-1]
    return np.matmul(np.linalg.inv(np.matmul(t, a)), t) if tall else np.matmul(t, np.linalg.inv(np.matmul(a, t)))
