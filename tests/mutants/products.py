"""Matrix products and factorisations: transposes, and spectra with equal values."""

from __future__ import annotations

import numpy as np

from engine.domain import Domain
from mutants.record import call, fitted, right

T = np.swapaxes


def _matmul_shapes(pick):
    k = pick.size(0, 3)
    lead = pick.choice([(), (), (2,), (1, 2)])
    a = pick.choice([(k,), (pick.size(1, 3), k), (*lead, pick.size(1, 3), k)])
    b = pick.choice([(k,), (k, pick.size(1, 3)), (*lead[-1:], k, pick.size(1, 3))])
    return [pick.array(*a), pick.array(*b)], {}


def _as_matrices(a, b, y):
    """Shapes without 1-d cases: a a row, b a column, and y to fit."""
    rows = a if a.ndim > 1 else a[None, :]
    columns = b if b.ndim > 1 else b[:, None]
    return rows, columns, (*np.shape(rows)[:-2], *np.shape(columns)[:-2]), y


def _matmul_back(g, a, b):
    rows = a if a.ndim > 1 else a[None, :]
    columns = b if b.ndim > 1 else b[:, None]
    g = np.asarray(g)
    if b.ndim == 1:
        g = g[..., None]
    if a.ndim == 1:
        g = g[..., None, :] if b.ndim > 1 else g.reshape(*g.shape[:-1], 1, 1)
    ga, gb = g @ T(columns, -1, -2), T(rows, -1, -2) @ g
    return fitted(ga, rows).reshape(a.shape), fitted(gb, columns).reshape(b.shape)


@right(draw=_matmul_shapes)
def matmul(a, b):
    return np.matmul(a, b)


@matmul.vjp
def _(g, args, y):
    return _matmul_back(g, *args)


@matmul.mutant(
    "a vector on the right",
    source="MyGrad@41a7b2e5",
    fault="a 1-d second operand is taken for a row, so the gradient of the matrix is transposed or cannot be made",
    kills="value",
    at=call(np.ones((3, 3)), np.array([1.0, 2.0, 3.0])),
)
def _(g, args, y):
    a, b = args
    ga, gb = _matmul_back(g, a, b)
    if b.ndim == 1 and a.ndim == 2:
        ga = (np.outer(b, g)).reshape(a.shape)
    return ga, gb


@matmul.mutant(
    "a vector on the left",
    source="MyGrad@41a7b2e5",
    fault="the gradient of a 1-d first operand is summed over the wrong axis",
    kills="value",
    at=call([1.0, 2.0], [[1.0, 2.0], [3.0, 4.0]]),
)
def _(g, args, y):
    a, b = args
    ga, gb = _matmul_back(g, a, b)
    if a.ndim == 1 and b.ndim == 2 and b.shape[0] == b.shape[1]:
        ga = g @ b
    return ga, gb


@matmul.mutant(
    "no transpose",
    source="generic: operands swapped",
    fault="b stands where its transpose should: seen on square matrices only",
    kills="value",
    at=call([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]),
)
def _(g, args, y):
    a, b = args
    ga, gb = _matmul_back(g, a, b)
    if a.ndim == b.ndim == 2 and b.shape[0] == b.shape[1]:
        ga = g @ b
    return ga, gb


@matmul.mutant(
    "one batch for all",
    source="derived from pytorch#13669",
    fault="a matrix that all of a batch share gets the gradient of the first only",
    kills="value",
    at=call(np.ones((2, 1, 1)), np.ones((1, 1)), g=np.array([[[1.0]], [[2.0]]])),
)
def _(g, args, y):
    a, b = args
    ga, gb = _matmul_back(g, a, b)
    if a.ndim == 3 and b.ndim == 2 and len(a):
        gb = T(a[0], -1, -2) @ g[0]
    return ga, gb


def _inner_shapes(pick):
    n = pick.size(0, 3)
    return [pick.array(pick.choice([n, 1])), pick.array(n)][:: pick.choice([-1, 1])], {}


@right(draw=_inner_shapes)
def inner_einsum(a, b):
    return np.einsum("i,i", a, b)


@inner_einsum.vjp
def _(g, args, y):
    a, b = args
    return fitted(g * b * np.ones_like(a), a), fitted(g * a * np.ones_like(b), b)


@inner_einsum.mutant(
    "size 1 within a label",
    source="HIPS#376",
    fault="an axis of size 1 that stretches along its label is not summed",
    kills="shape",
    at=call([1.0, 2.0], [3.0]),
)
def _(g, args, y):
    a, b = args
    return g * b * np.ones_like(a), g * a * np.ones_like(b)


def _square(pick):
    n = pick.size(1, 3)
    return [pick.array(n, n) + 3 * np.eye(n)], {}


def _cofactors(a):
    n = len(a)
    out = np.empty_like(a)
    for i in range(n):
        for j in range(n):
            rest = np.delete(np.delete(a, i, 0), j, 1)
            out[i, j] = (-1) ** (i + j) * np.linalg.det(rest)
    return out


@right("n n -> ")
def det(a):
    return np.linalg.det(a)


det.sample = _square


@det.vjp
def _(g, args, y):
    return (g * _cofactors(args[0]),)


@det.jvp
def _(ds, args, y):
    return np.sum(_cofactors(args[0]) * ds[0])


@det.mutant(
    "det times the inverse",
    source="pytorch#192540",
    fault="y A^-T has no inverse to use where the matrix is singular, and its gradient there is finite",
    kills="finite",
    at=call([[1.0, 1.0], [1.0, 1.0]], g=np.asarray(1.0)),
)
def _(g, args, y):
    return (g * y * np.linalg.inv(args[0]).T,)


@det.mutant_jvp(
    "elementwise for matrix product",
    source="pytorch#192540",
    fault="the trace of the elementwise product: right for diagonal matrices",
    kills="mode agreement",
    at=call([[2.0, 1.0], [1.0, 2.0]]),
)
def _(ds, args, y):
    return np.trace(_cofactors(args[0]) * ds[0])


@right("n n -> ")
def log_abs_det(a):
    return np.linalg.slogdet(a)[1]


log_abs_det.sample = _square


@log_abs_det.vjp
def _(g, args, y):
    return (g * np.linalg.inv(args[0]).T,)


@log_abs_det.jvp
def _(ds, args, y):
    return np.trace(np.linalg.solve(args[0], ds[0]))


@log_abs_det.mutant_jvp(
    "transposed",
    source="pytorch#196696",
    fault="the trace is taken with A^-T: right for symmetric matrices",
    kills="mode agreement",
    at=call([[2.0, 1.0], [0.0, 2.0]]),
)
def _(ds, args, y):
    return np.trace(np.linalg.solve(args[0].T, ds[0]))


@log_abs_det.mutant(
    "not transposed",
    source="derived from pytorch#196696",
    fault="A^-1 for A^-T",
    kills="value",
    at=call([[2.0, 1.0], [0.0, 2.0]], g=np.asarray(1.0)),
)
def _(g, args, y):
    return (g * np.linalg.inv(args[0]),)


def _system(pick):
    n = pick.size(1, 3)
    return [pick.array(n, n) + 4 * np.eye(n), pick.array(n, pick.size(0, 2))], {}


@right("n n, n k -> n k")
def solve(a, b):
    return np.linalg.solve(a, b)


solve.sample = _system


@solve.vjp
def _(g, args, y):
    gb = np.linalg.solve(args[0].T, g)
    return -gb @ y.T, gb


@solve.jvp
def _(ds, args, y):
    da, db = ds
    return np.linalg.solve(args[0], db - da @ y)


@solve.mutant_jvp(
    "b for the solution",
    source="pytorch#196698",
    fault="A^-1 (db - dA b): the solution is not put in",
    kills="mode agreement",
    at=call([[2.0, 1.0], [0.0, 2.0]], [[1.0], [2.0]]),
)
def _(ds, args, y):
    a, b = args
    da, db = ds
    return np.linalg.solve(a, db - da @ b)


@solve.mutant(
    "sign of the matrix's gradient",
    source="derived from pytorch#196698",
    fault="the minus is missing",
    kills="value",
    at=call([[2.0]], [[1.0]]),
)
def _(g, args, y):
    gb = np.linalg.solve(args[0].T, g)
    return gb @ y.T, gb


@solve.mutant(
    "solved with A for its transpose",
    source="generic: wrong axis",
    fault="A^-1 g for A^-T g: right for symmetric matrices",
    kills="value",
    at=call([[2.0, 1.0], [0.0, 2.0]], [[1.0], [2.0]]),
)
def _(g, args, y):
    gb = np.linalg.solve(args[0], g)
    return -gb @ y.T, gb


@right("n n, n k -> n k")
def cholesky_solve(factor, b):
    low = np.tril(factor)
    return np.linalg.solve(low @ low.T, b)


cholesky_solve.sample = _system


@cholesky_solve.vjp
def _(g, args, y):
    low = np.tril(args[0])
    gb = np.linalg.solve(low @ low.T, g)
    ga = -gb @ y.T
    return np.tril((ga + ga.T) @ low), gb


@cholesky_solve.jvp
def _(ds, args, y):
    low, d = np.tril(args[0]), np.tril(ds[0])
    return np.linalg.solve(low @ low.T, ds[1] - (d @ low.T + low @ d.T) @ y)


@cholesky_solve.mutant_jvp(
    "half of the product rule",
    source="pytorch#196682, #196694",
    fault="dL L^T without L dL^T",
    kills="mode agreement",
    at=call([[2.0]], [[1.0]]),
)
def _(ds, args, y):
    low, d = np.tril(args[0]), np.tril(ds[0])
    return np.linalg.solve(low @ low.T, ds[1] - (d @ low.T) @ y)


AWAY = Domain(kinks=(0.0,), draw_low=0.5, draw_high=2.0)


@right("n -> n n", generic={"v": AWAY})
def householder(v):
    return np.eye(len(v)) - 2 * np.outer(v, v) / np.sum(v * v)


@householder.vjp
def _(g, args, y):
    (v,) = args
    r = np.linalg.norm(v)
    u = v / r
    return ((-2 * (g + g.T) @ u + 4 * (u @ g @ u) * u) / r,)


@householder.jvp
def _(ds, args, y):
    (d,), (v,) = ds, args
    r = np.linalg.norm(v)
    u, d = v / r, d / r
    return -2 * (np.outer(d, u) + np.outer(u, d)) + 4 * np.outer(u, u) * (u @ d)


@householder.mutant_jvp(
    "the length held fixed",
    source="pytorch#196694 and #192540",
    fault="the derivative of the normalisation is left out of the push",
    kills="mode agreement",
    at=call([1.0, 2.0]),
)
def _(ds, args, y):
    (d,), (v,) = ds, args
    return -2 * (np.outer(d, v) + np.outer(v, d)) / np.sum(v * v)


@right("n n -> ", domain={"a": Domain(low=-20.0, high=20.0)})
def trace_of_exponential(a):
    return np.sum(np.exp(np.linalg.eigvalsh((a + a.T) / 2)))


trace_of_exponential.sample = _square


@trace_of_exponential.vjp
def _(g, args, y):
    w, v = np.linalg.eigh((args[0] + args[0].T) / 2)
    return (g * (v * np.exp(w)) @ v.T,)


@trace_of_exponential.mutant(
    "equal eigenvalues",
    source="jax#8732, jax#4646",
    fault="the rule of eigh divides by the gaps, and 0 * inf is nan, though the function does not see the eigenvectors",
    kills="finite",
    at=call([[1.0, 0.0], [0.0, 1.0]], g=np.asarray(1.0)),
)
def _(g, args, y):
    w, v = np.linalg.eigh((args[0] + args[0].T) / 2)
    gaps = w[:, None] - w[None, :]
    ratio = (np.exp(w)[:, None] - np.exp(w)[None, :]) / np.where(np.eye(len(w)) == 1, 1.0, gaps)
    middle = np.diag(np.exp(w)) + ratio * (1 - np.eye(len(w))) * (v.T @ v)
    return (g * (v @ (middle * np.where(np.eye(len(w)) == 1, 1.0, np.round(v.T @ v, 12))) @ v.T),)


@right("m n -> ", domain={"a": Domain(low=-1e3, high=1e3)})
def log_det_of_gram(a):
    return np.sum(np.log1p(np.linalg.svd(a, compute_uv=False) ** 2))


@log_det_of_gram.vjp
def _(g, args, y):
    u, s, v = np.linalg.svd(args[0], full_matrices=False)
    return (g * (u * (2 * s / (1 + s * s))) @ v,)


@log_det_of_gram.mutant(
    "equal singular values",
    source="jax#8732",
    fault="the part that the vectors would get is 0, times 1 / (s_i^2 - s_j^2)",
    kills="finite",
    at=call([[1.0, 0.0], [0.0, 1.0]], g=np.asarray(1.0)),
)
def _(g, args, y):
    u, s, v = np.linalg.svd(args[0], full_matrices=False)
    gaps = s[None, :] ** 2 - s[:, None] ** 2
    ratio = np.where(np.eye(len(s)) == 1, 0.0, 1.0 / np.where(np.eye(len(s)) == 1, 1.0, gaps))
    turning = u @ (ratio * np.zeros_like(gaps) * s) @ v
    return (g * ((u * (2 * s / (1 + s * s))) @ v + turning),)
