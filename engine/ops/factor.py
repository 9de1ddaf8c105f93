r"""Matrices as products: Cholesky, eigenvectors, singular values, QR.

A factor is differentiated through the equations that define it: with $A = L L^\top$ the matrix $L^{-1} \dot A L^{-\top}$ splits in
one way into a lower triangle and its transpose, with $A = V \Lambda V^\top$ the matrix $V^\top \dot V$ is antisymmetric, and so on.
Sources: Murray (2016), Differentiation of the Cholesky decomposition, section 3; Giles (2008), Collected matrix derivative
results, sections 3.1 and 3.2; Townsend (2016), Differentiating the singular value decomposition; Roberts and Roberts (2020), QR
and LQ decomposition matrix backpropagation algorithms.

Symmetric matrices. cholesky and eigh are functions of $(A + A^\top) / 2$: both triangles are read. For a symmetric matrix that
is NumPy's value, and the gradient is the symmetric one, which is right along every change that keeps A symmetric.

Equal values. Where two eigenvalues or singular values are equal to rounding, the vectors that belong to them may be turned into
one another, and have no derivative. Functions of the values alone keep theirs if they treat equal values alike (a trace, a
nuclear norm), and so do functions of the other vectors. Where a cotangent shows that anything else was computed, a pull raises
LinAlgError; a push gives nan in those vectors. The vectors of a singular value 0 are treated in the same way.

Every function takes stacks, (..., m, n), sizes 0 included, float32 or float64; integers become float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.elementwise import where
from engine.ops.layout import concat, expand_dims, matrix_transpose, tril, triu
from engine.ops.linalg import LinAlgError, some_matrices, triangular_solve
from engine.ops.linear import as_given, matmul, mismatch
from engine.ops.reduce import sum as sum_over
from engine.traced import NUMPY, primal

__all__ = ["Eigh", "Qr", "Svd", "cholesky", "eigh", "eigvalsh", "qr", "svd", "svdvals"]


def _symmetric(a):
    """(A + A^T) / 2, halved first so that nothing overflows."""
    half = 0.5 * a
    return half + (matrix_transpose(half) if not isinstance(half, np.ndarray) else np.swapaxes(half.conj(), -1, -2))


# Cholesky.


@op("... n n -> ... n n", flops="n*n*n//3")
def cholesky(a, *, upper=False):
    r"""$A = L L^\top$, or $A = U^\top U$ with upper=True

    a   symmetric and positive definite; of another matrix $(A + A^\top) / 2$ is factored

    Raises LinAlgError for a matrix that is not positive definite, with its smallest eigenvalue.
    """
    a = _symmetric(a)
    try:
        y = np.linalg.cholesky(a)
    except LinAlgError:
        raise _indefinite(a) from None
    return np.swapaxes(y, -1, -2).conj() if upper else y


def _indefinite(a):
    smallest = np.linalg.eigvalsh(a)[..., 0]
    place = np.unravel_index(np.argmin(smallest), smallest.shape)
    which = f"matrix {tuple(map(int, place))} of the stack" if place else "the matrix"
    return LinAlgError(
        f"{which} is not positive definite: its smallest eigenvalue is {smallest[place]:.3g}\n"
        "  if that is rounding, add a little to the diagonal: a + 1e-6 * np.eye(n)"
    )


@cholesky.vjp("a")
def _(g, y, *, upper):
    r"""\bar A = \mathrm{sym}(L^{-\top} \Phi(L^\top \bar L) L^{-1}), \quad \Phi = \text{lower triangle, diagonal halved}"""
    t = y if upper else matrix_transpose(y)
    g = matrix_transpose(g) if upper else g
    left = triangular_solve(t, _lower_half(matmul(t, g)), lower=False)
    return _symmetric(triangular_solve(t, matrix_transpose(left), lower=False))


@cholesky.jvp("a")
def _(d, y, *, upper):
    r"""\dot L = L\, \Phi(L^{-1} \mathrm{sym}(\dot A) L^{-\top}), \quad \Phi = \text{lower triangle, diagonal halved}"""
    y = matrix_transpose(y) if upper else y
    left = triangular_solve(y, _symmetric(d))
    dy = matmul(y, _lower_half(triangular_solve(y, matrix_transpose(left))))
    return matrix_transpose(dy) if upper else dy


def _lower_half(a):
    return 0.5 * (tril(a) + tril(a, k=-1))


@cholesky.sample
def _(pick: Pick):
    a = some_matrices(pick, pick.size(0, 3))
    return [np.matmul(a, np.swapaxes(a, -1, -2))], {"upper": pick.choice([True, False])}


# Eigenvectors of a symmetric matrix.


@op("... n n -> ... n, ... n n", outputs=("eigenvalues", "eigenvectors"), flops="9*n*n*n")
def eigh(a, *, uplo="L"):
    r"""$A = V \Lambda V^\top$

    uplo    the triangle that LAPACK works on, "L" or "U": of equal ones, but the signs of the vectors may follow from it

    In the rules $F_{ij} = 1 / (\lambda_j - \lambda_i)$, and 0 on the diagonal.
    """
    return tuple(np.linalg.eigh(_symmetric(a), uplo))


@eigh.vjp("a")
def _(g, y):
    r"""\bar A = \mathrm{sym}(V (\mathrm{diag}\, \bar \lambda + F \odot V^\top \bar V) V^\top)"""
    w, v = y
    t = matrix_transpose(v)
    share = matmul(t, g[1])
    _refuse(_turning(share, w), "eigenvectors of equal eigenvalues")
    middle = _diagonal(g[0]) + _inverse_gaps(w) * share
    return _symmetric(matmul(matmul(v, middle), t))


@eigh.jvp("a")
def _(d, y):
    r"""\dot \lambda = \mathrm{diag}\, E, \quad \dot V = V (F \odot E), \quad E = V^\top \mathrm{sym}(\dot A) V"""
    w, v = y
    e = matmul(matmul(matrix_transpose(v), _symmetric(d)), v)
    return _on_diagonal(e), matmul(v, where(_turning(e, w), np.nan, _inverse_gaps(w) * e))


def _diagonal(x):
    """Vectors as diagonal matrices."""
    return expand_dims(x, axis=-2) * np.eye(x.shape[-1], dtype=x.dtype)


def _on_diagonal(a):
    """The diagonals of square matrices."""
    return sum_over(a * np.eye(a.shape[-1], dtype=a.dtype), axis=-1)


def _inverse_gaps(w):
    r"""$1 / (w_j - w_i)$, and 0 where the two are equal to rounding."""
    return _inverse(_gaps(w), _rounding(w)[..., None])


def _gaps(w):
    return expand_dims(w, axis=-2) - expand_dims(w, axis=-1)


def _inverse(x, smallest):
    """1 / x, and 0 where |x| is not above `smallest`."""
    zero = np.abs(primal(x)) <= smallest
    return where(zero, 0.0, 1 / where(zero, 1.0, x))


def _rounding(w):
    """By how much computed eigenvalues and singular values are uncertain, (..., 1)."""
    w = np.abs(primal(w))
    return w.shape[-1] * np.finfo(w.dtype).eps * w.max(axis=-1, keepdims=True, initial=0)


def _turning(share, w):
    """The pairs of equal values in whose place (..., i, j) `share` holds more than rounding."""
    equal = (np.abs(_gaps(primal(w))) <= _rounding(w)[..., None]) & ~np.eye(w.shape[-1], dtype=bool)
    return equal & _above_noise(share, share)


def _above_noise(x, source):
    """Where x is more than rounding of a product with `source` may leave."""
    size = np.abs(primal(source))
    noise = max(x.shape[-2:]) * np.finfo(x.dtype).eps * size.max(axis=(-2, -1), keepdims=True, initial=0)
    return np.abs(primal(x)) > noise


def _refuse(lost, what):
    if lost.any():
        raise LinAlgError(f"{what} may be turned into one another, and have no derivative; functions of the values alone have one")


@eigh.sample
def _(pick: Pick):
    n = pick.size(0, 2)  # from 3 on LAPACK may turn the signs of vectors between one matrix and the next
    return [pick.array(n, n) * 0.2 + np.diag(np.arange(n) * 2.0)], {"uplo": pick.choice(["L", "U"])}  # eigenvalues apart


class Eigh(NamedTuple):
    """Eigenvalues in ascending order, and eigenvectors as columns."""

    eigenvalues: Any
    eigenvectors: Any


eigen = eigh  # the op, OPS["eigh"]


def eigh(a: Any) -> Eigh:  # type: ignore[no-redef]
    r"""$A = V \Lambda V^\top$ for a symmetric A: eigenvalues in ascending order, eigenvectors in the columns of V

    Both triangles are read, as $(A + A^\top) / 2$; np.linalg.eigh of a traced array reads one, as NumPy does.
    For equal eigenvalues see the head of this file. The sign of each eigenvector is LAPACK's choice.
    """
    return Eigh(*eigen(a))


def eigvalsh(a: Any) -> Any:
    r"""$\lambda_1 \leq \ldots \leq \lambda_n$, the eigenvalues of a symmetric matrix; see eigh"""
    return eigen(a)[0]


# NumPy's functions of the same names read one triangle. So do their stand-ins: a gradient of theirs lies in that triangle.


def _mirrored(a: Any, uplo: str) -> Any:
    """The symmetric matrix of which `a` holds one triangle."""
    if uplo.upper() not in ("L", "U"):
        raise ValueError(f"UPLO is 'L' or 'U', not {uplo!r}")
    half = tril(a) if uplo.upper() == "L" else triu(a)
    return half + matrix_transpose(tril(half, k=-1) if uplo.upper() == "L" else triu(half, k=1))


def _numpy_cholesky(a: Any, /, *, upper: bool = False) -> Any:
    return cholesky(_mirrored(a, "U" if upper else "L"), upper=upper)


def _numpy_eigh(a: Any, UPLO: str = "L") -> Any:
    return Eigh(*eigen(_mirrored(a, UPLO), uplo=UPLO.upper()))


def _numpy_eigvalsh(a: Any, UPLO: str = "L") -> Any:
    return eigvalsh(_mirrored(a, UPLO))


NUMPY[np.linalg.cholesky] = _numpy_cholesky
NUMPY[np.linalg.eigh] = _numpy_eigh
NUMPY[np.linalg.eigvalsh] = _numpy_eigvalsh


# Singular values.


@op(outputs=("U", "S", "Vh"))
def svd(a):
    r"""$A = U S V^\top$ with as many columns in U and V as there are singular values

    In the rules $F_{ij} = 1 / (s_j^2 - s_i^2)$ and 0 on the diagonal, $P = I - U U^\top$, $Q = I - V V^\top$,
    $X = F \odot (U^\top \bar U - \bar U^\top U)$, $Z = F \odot (V^\top \bar V - \bar V^\top V)$, $E = U^\top \dot A V$.
    """
    return tuple(np.linalg.svd(a, full_matrices=False))


@svd.shape
def _(a):
    *stack, m, n = a
    k = min(m, n)
    return [(*stack, m, k), (*stack, k), (*stack, k, n)]


@svd.vjp("a")
def _(g, y):
    r"""\bar A = U (\mathrm{diag}\, \bar s + X S + S Z) V^\top + P \bar U S^{-1} V^\top + U S^{-1} \bar V^\top Q"""
    (u, s, vt), (gu, gs, gvt) = y, g
    row, column, f = expand_dims(s, axis=-2), expand_dims(s, axis=-1), _inverse_square_gaps(s)
    v, gv = matrix_transpose(vt), matrix_transpose(gvt)
    x, z = matmul(matrix_transpose(u), gu), matmul(vt, gv)
    _refuse(_turning(x, s) | _turning(z, s), "singular vectors of equal singular values")
    middle = _diagonal(gs) + f * _antisymmetric(x) * row + column * f * _antisymmetric(z)
    left, right, inverse = _off_columns(gu, u), _off_columns(gv, v), expand_dims(_inverse(s, _rounding(s)), axis=-2)
    _refuse((_vanishing(s) & _above_noise(left, gu)).any() | (_vanishing(s) & _above_noise(right, gv)).any(), "singular vectors of 0")
    total = matmul(matmul(u, middle), vt) + matmul(left * inverse, vt)
    return total + matmul(u, matrix_transpose(right * inverse))


@svd.jvp("a")
def _(d, y):
    r"""\dot s = \mathrm{diag} E, \; \dot U = U (F \odot (E S + S E^\top)) + P \dot A V S^{-1}, \; \dot V \text{ alike, of } \dot A^\top"""
    u, s, vt = y
    v = matrix_transpose(vt)
    row, column, f = expand_dims(s, axis=-2), expand_dims(s, axis=-1), _inverse_square_gaps(s)
    inverse = expand_dims(_inverse(s, _rounding(s)), axis=-2)
    dv, du = matmul(d, v), matmul(matrix_transpose(d), u)
    e = matmul(matrix_transpose(u), dv)
    t = matrix_transpose(e)
    f = where(_turning(e, s) | _turning(t, s), np.nan, f)
    left, right = _off_columns(dv, u), _off_columns(du, v)
    u_moves = matmul(u, f * (e * row + column * t)) + where(_vanishing(s) & _above_noise(left, dv), np.nan, left * inverse)
    v_moves = matmul(v, f * (column * e + t * row)) + where(_vanishing(s) & _above_noise(right, du), np.nan, right * inverse)
    return u_moves, _on_diagonal(e), matrix_transpose(v_moves)


def _vanishing(s):
    """The columns of singular values that are 0 to rounding."""
    return (primal(s) <= _rounding(s))[..., None, :]


def _antisymmetric(a):
    return a - matrix_transpose(a)


def _off_columns(x, u):
    """x without its part in the span of the orthonormal columns of u."""
    return x - matmul(u, matmul(matrix_transpose(u), x))


def _inverse_square_gaps(s):
    r"""$1 / (s_j^2 - s_i^2)$, and 0 where the two are equal to rounding."""
    row, column = expand_dims(s, axis=-2), expand_dims(s, axis=-1)
    return _inverse_gaps(s) * _inverse(row + column, 0)


@svd.sample
def _(pick: Pick):
    m, n = pick.choice([(0, 2), (1, 1), (2, 2), (3, 2), (2, 3), (1, 3), (3, 0)])  # at most 2 values, as for eigh
    values = np.zeros((m, n))
    np.fill_diagonal(values, [2.0, 1.0])
    return [pick.array(m, n) * 0.1 + values], {}


class Svd(NamedTuple):
    """Left singular vectors as columns, singular values in descending order, right singular vectors as rows."""

    U: Any
    S: Any
    Vh: Any


thin_svd = svd  # the op, OPS["svd"]


def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:  # type: ignore[no-redef]
    r"""$A = U\, \mathrm{diag}(s)\, V^\top$, singular values in descending order

    full_matrices   True (NumPy's default) is for square matrices only: of another matrix the further columns are arbitrary
    compute_uv      False: s alone
    hermitian       accepted for NumPy's sake

    For equal singular values, and for 0, see the head of this file.
    The signs of the vectors are LAPACK's choice. Raises ShapeError.
    """
    a = as_given(a)
    if len(a.shape) < 2:
        raise mismatch("svd", "a matrix is wanted", "... m n", a=a)
    if full_matrices and compute_uv and a.shape[-1] != a.shape[-2]:
        raise mismatch("svd", "full_matrices of a matrix that is not square have no derivative", "full_matrices=False", a=a)
    y = Svd(*thin_svd(a))
    return y if compute_uv else y.S


def svdvals(a: Any) -> Any:
    r"""$s_1 \geq \ldots \geq s_k \geq 0$, the singular values of a matrix; see svd"""
    return svd(a, compute_uv=False)


NUMPY[np.linalg.svd] = svd
if hasattr(np.linalg, "svdvals"):
    NUMPY[np.linalg.svdvals] = svdvals


# QR.


@op(outputs=("Q", "R"))
def qr(a):
    r"""$A = Q R$ with orthonormal columns in Q and an upper triangle R, for at least as many rows as columns

    In the rules $X = \dot A R^{-1}$, $W = Q^\top X$, $\Omega$ is the antisymmetric matrix with W's strict lower triangle, and
    C the symmetric matrix with the lower triangle of $R \bar R^\top - \bar Q^\top Q$.
    """
    if a.shape[-2] < a.shape[-1]:
        raise ValueError("a matrix with at least as many rows as columns is wanted")
    return tuple(np.linalg.qr(a))


@qr.shape
def _(a):
    *stack, m, n = a
    return [(*stack, m, n), (*stack, n, n)]


@qr.vjp("a")
def _(g, y):
    r"""\bar A = (\bar Q + Q C) R^{-\top}"""
    (q, r), (gq, gr) = y, g
    m = matmul(r, matrix_transpose(gr)) - matmul(matrix_transpose(gq), q)
    c = tril(m) + matrix_transpose(tril(m, k=-1))
    return matrix_transpose(triangular_solve(r, matrix_transpose(gq + matmul(q, c)), lower=False))


@qr.jvp("a")
def _(d, y):
    r"""\dot R = (W - \Omega) R, \quad \dot Q = Q \Omega + (X - Q W)"""
    q, r = y
    x = matrix_transpose(triangular_solve(matrix_transpose(r), matrix_transpose(d)))
    w = matmul(matrix_transpose(q), x)
    turn = _antisymmetric(tril(w, k=-1))
    return matmul(q, turn) + (x - matmul(q, w)), matmul(w - turn, r)


@qr.sample
def _(pick: Pick):
    n = pick.size(0, 3)
    m = n + pick.size(0, 2)
    return [pick.array(m, n) * 0.3 + 2 * np.eye(m, n)], {}


class Qr(NamedTuple):
    """Orthonormal columns and an upper triangle."""

    Q: Any
    R: Any


tall_qr = qr  # the op, OPS["qr"]


def qr(a: Any, mode: str = "reduced") -> Any:  # type: ignore[no-redef]
    r"""$A = Q R$ with orthonormal columns in Q and an upper triangle R

    a      (..., m, n) with linearly independent columns; if it is wide, the first m of them
    mode   "reduced": Q (..., m, k) and R (..., k, n), k = min(m, n); "r": R alone

    Its derivative raises LinAlgError for columns that are linearly dependent.
    """
    a = as_given(a)
    if mode not in ("reduced", "r"):
        raise ValueError(f'qr: mode {mode!r} has no derivative; there are "reduced" and "r"')
    if len(a.shape) < 2:
        raise mismatch("qr", "a matrix is wanted", "... m n", a=a)
    m, n = a.shape[-2:]
    q, r = tall_qr(a if m >= n else a[..., :m])
    if m < n:
        r = concat(r, matmul(matrix_transpose(q), a[..., m:]), axis=-1)
    return Qr(q, r) if mode == "reduced" else r


NUMPY[np.linalg.qr] = qr
