"""References of functions of matrices. What NumPy has not in high precision is written out, or taken from mpmath."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

from engine.testing.precise import Number, lifted
from engine.testing.scalars import Work

Function = Callable[..., Any]


def in_mpmath(plain: Function, precise: Function) -> Function:
    """A function of one matrix: `plain` for floats, `precise` for a matrix of mpmath's; it returns a nested list of numbers."""

    def f(x: Any) -> Any:
        if np.asarray(x).dtype != object:
            return plain(x)
        bare = x.view(np.ndarray)
        Work.done += 100.0 * x.size * max(x.shape)
        found = precise(mpmath.matrix([[lifted(v) for v in row] for row in bare]))
        y = np.array([Number(v) for v in np.ravel(np.array(found, object))], object).reshape(np.shape(np.array(found, object)))
        return y.view(type(x))

    return f


def _sorted(values: Any) -> Any:
    return sorted(values)


def singular_values(x: Any) -> Any:
    if min(np.shape(x)) == 0:
        return np.ravel(x)[:0]
    return _singular(x)


_singular = in_mpmath(
    lambda x: np.linalg.svd(x, compute_uv=False),
    lambda a: sorted(mpmath.svd_r(a if a.rows >= a.cols else a.T, compute_uv=False), reverse=True),
)


def eigenvalues(x: Any) -> Any:
    s = x + x.T
    return _eigenvalues(s) if len(x) else s[0:0].sum(0)


_eigenvalues = in_mpmath(np.linalg.eigvalsh, lambda a: _sorted(mpmath.eigsy(a, eigvals_only=True)))


def _tanh_of(a: Any) -> Any:
    values, vectors = mpmath.eigsy(a)
    return (vectors * mpmath.diag([mpmath.tanh(v) for v in values]) * vectors.T).tolist()


def _tanh_of_floats(a: Any) -> Any:
    values, vectors = np.linalg.eigh(a)
    return vectors @ np.diag(np.tanh(values)) @ vectors.T


_tanh = in_mpmath(_tanh_of_floats, _tanh_of)


def tanh_of_symmetric(x: Any) -> Any:
    return _tanh(x + x.T) if len(x) else x


def identity(x: Any) -> Any:
    return np.eye(len(x))


def positive(x: Any) -> Any:
    return x @ x.T + identity(x)


def log_abs_det(x: Any) -> Any:
    return np.log(np.abs(np.linalg.det(x)))


def exponential(x: Any) -> Any:
    """Taylor's series of a 1024th part, squared ten times."""
    small, term, total = x / 1024, identity(x) + 0 * x, identity(x) + 0 * x
    for k in range(1, 60):
        term = term @ small / k
        total = total + term
    for _ in range(10):
        total = total @ total
    return total


def inverse_of_lower(x: Any) -> Any:
    low = np.tril(x, -1) + 2 * identity(x)
    return np.linalg.inv(low @ low.T)


def reflections(x: Any, tau: Any = None) -> Any:
    """The product of I - tau v v' for the columns v below the diagonal, each with a 1 on it."""
    n = len(x)
    if n == 0:
        return x
    q = identity(x) + 0 * x
    for i in range(n):
        v = np.concatenate([0 * x[:i, i], np.ones(1) + 0 * x[i : i + 1, i], x[i + 1 :, i]])
        q = q - x[0, i] * np.multiply.outer(q @ v, v)
    return q


def lu(x: Any) -> Any:
    """Both factors in one matrix, with the largest pivots."""
    a = x.copy()
    for i in range(len(a)):
        p = i + int(np.argmax(np.abs(a[i:, i])))
        a[[i, p]] = a[[p, i]]
        for r in range(i + 1, len(a)):
            factor = a[r, i] / a[i, i]
            a[r] = np.concatenate([a[r, :i], np.reshape(factor, 1), a[r, i + 1 :] - factor * a[i, i + 1 :]])
    return a


def qr(x: Any) -> Any:
    """Of x above an identity matrix, by reflections: the signs are LAPACK's."""
    m, n = x.shape[0] + x.shape[1], x.shape[1]
    r = np.concatenate([x, np.eye(n) + 0 * x.sum()]) if n else x
    if n == 0:
        return x, np.zeros((0, 0))
    q = np.eye(m) + 0 * x.sum()
    for k in range(n):
        v = np.concatenate([0 * r[:k, k], r[k:, k]])
        size = np.sqrt(np.sum(v * v))
        sign = np.where(np.real(v[k]) < 0, -1.0, 1.0)
        v = v + sign * size * np.eye(m)[k]
        scale = 2 / np.sum(v * v)
        r = r - scale * np.multiply.outer(v, v @ r)
        q = q - scale * np.multiply.outer(q @ v, v)
    return q[:, :n], np.triu(r[:n])


def pseudoinverse(x: Any) -> Any:
    """Of a matrix of full rank."""
    if 0 in x.shape:
        return x.T
    return np.linalg.inv(x.T @ x) @ x.T if x.shape[0] >= x.shape[1] else x.T @ np.linalg.inv(x @ x.T)


def triangular(a: Any, b: Any) -> Any:
    return np.linalg.solve(np.triu(a), b)


def by_cholesky(a: Any, b: Any) -> Any:
    low = np.tril(a)
    return np.linalg.solve(low @ low.T, b)


def covariance(x: Any) -> Any:
    centred = x - np.mean(x, axis=1, keepdims=True)
    return np.squeeze(centred @ centred.T / (x.shape[1] - 1))


def correlation(x: Any) -> Any:
    c = np.atleast_2d(covariance(x))
    d = np.sqrt(np.diagonal(c))
    return np.squeeze(c / d / d[:, None])


def distances(order: float) -> Function:
    def of(a: Any, b: Any) -> Any:
        apart = np.abs(a[:, None] - b[None])
        if np.isinf(order):
            return np.max(apart, axis=-1) if a.shape[1] else apart.sum(-1)
        if order == 2:
            return np.sqrt(np.sum((a[:, None] - b[None]) ** 2, axis=-1))
        return np.sum(apart, -1) if order == 1 else np.sum(apart**order, -1) ** (1 / order)

    return of


def pairs(x: Any) -> Any:
    i, j = np.triu_indices(len(x), 1)
    return np.sqrt(np.sum((x[i] - x[j]) ** 2, axis=-1))


REFERENCES: dict[str, Function] = {
    "slogdet": log_abs_det, "logdet": lambda x: np.log(np.linalg.det(positive(x))), "matrix_exp": exponential, "expm": exponential,
    "eigvalsh": eigenvalues, "cholesky_inverse": inverse_of_lower, "householder_product": reflections, "lu_factor": lu,
    "eigh_vectors_invariant": tanh_of_symmetric, "solve_triangular": triangular, "cholesky_solve": by_cholesky, "cho_solve": by_cholesky,
    "lu_solve": lambda a, b: np.linalg.solve(a, b), "svdvals": singular_values, "qr": qr, "pinv": pseudoinverse,
    "lstsq": lambda a, b: pseudoinverse(a) @ b,
    "norm_nuc": lambda x: np.sum(singular_values(x)), "norm_fro": lambda x: np.sqrt(np.sum(x * x)),
    "norm_spectral": lambda x: np.max(singular_values(x)) if x.size else np.sum(x), 
    "norm_max_row": lambda x: np.max(np.sum(np.abs(x), axis=1)) if len(x) else np.sum(x),
    "cond": lambda x: (lambda s: np.max(s) / np.min(s))(singular_values(x)),
    "vander": lambda x: np.stack([x**0, x, x * x], -1), "cov": covariance, "corrcoef": correlation,
    "cdist": distances(2), "cdist_1": distances(1), "cdist_inf": distances(np.inf), "cdist_0.5": distances(0.5), "pdist": pairs,
}  # fmt: skip
