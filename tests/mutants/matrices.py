"""Right rules of matrix functions."""

from __future__ import annotations

import numpy as np

from engine.domain import Domain, Pick
from mutants.record import right


@right("m, n -> m n")
def outer(a, b):
    return np.outer(a, b)


@outer.vjp
def _(g, args, y):
    a, b = args
    return g @ b, a @ g


@right("n, n -> ")
def dot(a, b):
    return np.dot(a, b)


@dot.vjp
def _(g, args, y):
    a, b = args
    return g * b, g * a


@right("m k, k n -> m n")
def matrix_product(a, b):
    return a @ b


@matrix_product.vjp
def _(g, args, y):
    a, b = args
    return g @ b.T, a.T @ g


@right("b m k, b k n -> b m n")
def batched_product(a, b):
    return a @ b


@batched_product.vjp
def _(g, args, y):
    a, b = args
    return g @ b.swapaxes(1, 2), a.swapaxes(1, 2) @ g


@right("i j k, k l -> i j l")
def tensordot(a, b):
    return np.tensordot(a, b, axes=1)


@tensordot.vjp
def _(g, args, y):
    a, b = args
    return np.tensordot(g, b, axes=([2], [1])), np.tensordot(a, g, axes=([0, 1], [0, 1]))


@right("i j, j k, k -> i")
def chain(a, b, c):
    return np.einsum("ij,jk,k->i", a, b, c)


@chain.vjp
def _(g, args, y):
    a, b, c = args
    return np.outer(g, b @ c), np.outer(g @ a, c), g @ a @ b


@right("n, m n, m -> ")
def bilinear(x, w, z):
    return z @ w @ x


@bilinear.vjp
def _(g, args, y):
    x, w, z = args
    return g * (z @ w), g * np.outer(z, x), g * (w @ x)


@right("m n, p q -> r s")
def kron(a, b):
    return np.kron(a, b)


@kron.vjp
def _(g, args, y):
    a, b = args
    blocks = g.reshape(a.shape[0], b.shape[0], a.shape[1], b.shape[1])
    return np.einsum("ipjq,pq->ij", blocks, b), np.einsum("ipjq,ij->pq", blocks, a)


kron.signature, kron.draw = None, lambda pick: ([pick.array(pick.size(0, 2), pick.size(1, 2)), pick.array(1, pick.size(1, 2))], {})


@right("3, 3 -> 3")
def cross(a, b):
    return np.cross(a, b)


@cross.vjp
def _(g, args, y):
    a, b = args
    return np.cross(b, g), np.cross(g, a)


@right("n n -> ")
def trace(a):
    return np.trace(a)


@trace.vjp
def _(g, args, y):
    return (g * np.eye(len(args[0])),)


@right("n n -> n")
def diagonal(a):
    return np.diagonal(a)


@diagonal.vjp
def _(g, args, y):
    return (np.diag(g),)


@right("n n, n -> ")
def quadratic_form(a, x):
    return x @ a @ x


@quadratic_form.vjp
def _(g, args, y):
    a, x = args
    return g * np.outer(x, x), g * (a + a.T) @ x


def _well_conditioned(pick: Pick):
    n = pick.size(1, 3)
    return [pick.array(n, n) + 4 * np.eye(n)], {}


@right("n n -> n n")
def inverse(a):
    return np.linalg.inv(a)


inverse.sample = _well_conditioned


@inverse.vjp
def _(g, args, y):
    return (-y.T @ g @ y.T,)


@right(draw=_well_conditioned, vary_values=False)
def cholesky_of_gram(a):
    return np.linalg.cholesky(a @ a.T)


@cholesky_of_gram.vjp
def _(g, args, y):
    """Murray (2016): L^-T Phi(L^T g) L^-1, made symmetric; then through a a^T."""
    (a,) = args
    phi = np.tril(y.T @ np.tril(g))
    phi[np.diag_indices_from(phi)] /= 2
    half = np.linalg.solve(y.T, np.linalg.solve(y.T, phi.T).T)
    return ((half + half.T) @ a,)


@right(draw=_well_conditioned, vary_values=False)
def matrix_cube(a):
    return a @ a @ a


@matrix_cube.vjp
def _(g, args, y):
    (a,) = args
    t = a.T
    return (g @ t @ t + t @ g @ t + t @ t @ g,)


def _symmetric(pick: Pick):
    n = pick.size(1, 3)
    return [pick.array(n, n) / 4 + np.diag(2.0 * np.arange(n))], {}


@right("n n -> n", domain={"a": Domain(low=-1e3, high=1e3)})
def eigenvalues(a):
    return np.linalg.eigvalsh((a + a.T) / 2)


eigenvalues.sample = _symmetric


@eigenvalues.vjp
def _(g, args, y):
    (a,) = args
    v = np.linalg.eigh((a + a.T) / 2)[1]
    return ((v * g) @ v.T,)


@right("m n -> ", domain={"a": Domain(low=-1e3, high=1e3)})
def nuclear_norm(a):
    return np.sum(np.linalg.svd(a, compute_uv=False))


nuclear_norm.sample = _well_conditioned


@nuclear_norm.vjp
def _(g, args, y):
    u, _, v = np.linalg.svd(args[0], full_matrices=False)
    return (g * u @ v,)


@right(draw=lambda pick: ([pick.array(3, 2) + np.eye(3, 2) * 3, pick.array(3)], {}))
def least_squares(a, b):
    return np.linalg.solve(a.T @ a, a.T @ b)


@least_squares.vjp
def _(g, args, y):
    a, b = args
    u = np.linalg.solve(a.T @ a, g)
    return np.outer(b - a @ y, u) - np.outer(a @ u, y), a @ u
