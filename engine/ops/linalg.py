r"""Linear equations, inverses and determinants.

The rules follow from differentiating the defining equation: $A X = B$ gives $\dot A X + A \dot X = \dot B$, and so
$\dot X = A^{-1} (\dot B - \dot A X)$.
Source: Giles (2008), Collected matrix derivative results for forward and reverse mode algorithmic differentiation, section 2.2.

Every function takes stacks of matrices, (..., n, n), sizes 0 included, float32 or float64; integers become float64. A singular
matrix raises `numpy.linalg.LinAlgError` where there is no answer, and names the matrix in its stack.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.elementwise import where
from engine.ops.layout import expand_dims, matrix_transpose, squeeze, tril, triu
from engine.ops.linear import as_given, matmul, mismatch
from engine.ops.reduce import sum as sum_over
from engine.traced import NUMPY, primal

__all__ = ["Slogdet", "cofactor", "det", "inv", "matrix_power", "pinv", "slogdet", "solve", "triangular_solve"]

LinAlgError = np.linalg.LinAlgError


def _singular(a, cure):
    """The error for the first singular matrix in the stack."""
    signs, _ = np.linalg.slogdet(a)
    places = np.argwhere(signs == 0).tolist()
    which = f"matrix {tuple(places[0])} of the stack" if a.ndim > 2 and places else "the matrix"
    return LinAlgError(f"{which} is singular; {cure}")


def some_matrices(pick: Pick, n: int):
    """A stack of n x n matrices far from singular."""
    stack = (pick.size(0, 2),) if pick.size(0, 2) == 0 else ()
    return pick.array(*stack, n, n) * 0.3 + 2 * np.eye(n)


# Equations.


@op("... n n, ... n k -> ... n k", linear=("b",), flops="2*n*n*n//3 + 2*n*n*k")
def solve(a, b):
    r"""$Y = A^{-1} B$, that is $A Y = B$"""
    try:
        return np.linalg.solve(a, _as_deep(b, a))
    except LinAlgError:
        raise _singular(a, "there is no unique solution; pinv(a) @ b is the one of least squares") from None


def _as_deep(b, a):
    """b with at least as many axes as a: NumPy 1 takes it for vectors otherwise."""
    return b.reshape((1,) * (a.ndim - b.ndim) + b.shape)


@solve.vjp("a", "b")
def _(g, y, a):
    r"""\bar B = A^{-\top} \bar Y, \quad \bar A = -\bar B Y^\top"""
    gb = equations(matrix_transpose(a), g)
    return -matmul(gb, matrix_transpose(y)), gb


@solve.jvp("a")
def _(d, y, a):
    r"""\dot Y = -A^{-1} \dot A Y"""
    return -equations(a, matmul(d, y))


@solve.sample
def _(pick: Pick):
    n = pick.size(0, 3)
    return [some_matrices(pick, n), pick.array(n, pick.size(0, 3))], {}


equations = solve  # the op, OPS["solve"]; from here on b may be a vector


def solve(a: Any, b: Any) -> Any:  # type: ignore[no-redef]
    r"""$y = A^{-1} b$, that is $A y = b$

    a   (..., n, n)
    b   (n), one vector for all of the stack; or (..., n, k), the equations of k columns. This is NumPy 2's reading
    y   (..., n) or (..., n, k)

    Raises LinAlgError for a singular matrix, ShapeError where the sizes n differ.
    """
    a, b = as_given(a), as_given(b)
    return equations(a, b) if len(b.shape) != 1 else squeeze(equations(a, _column("solve", a, b)), axis=-1)


def _column(name, a, b):
    if len(a.shape) > 1 and a.shape[-1] != b.shape[0]:
        raise mismatch(name, f"axis n is {a.shape[-1]} in a but {b.shape[0]} in b", "... n n, n -> ... n", a=a, b=b)
    return expand_dims(b, axis=1)


@op("... n n, ... n k -> ... n k", linear=("b",), flops="n*n*k")
def triangular_solve(a, b, *, lower=True):
    r"""$Y = A^{-1} B$ for a triangular A"""
    if (np.diagonal(a, axis1=-2, axis2=-1) == 0).any():
        raise LinAlgError("a triangular matrix with a 0 on its diagonal is singular")
    return np.linalg.solve(np.tril(a) if lower else np.triu(a), _as_deep(b, a))


@triangular_solve.vjp("a", "b")
def _(g, y, a, *, lower):
    r"""\bar B = A^{-\top} \bar Y, \quad \bar A = -\bar B Y^\top \text{ in the triangle}"""
    gb = triangle(matrix_transpose(a), g, lower=not lower)
    return -_in_triangle(matmul(gb, matrix_transpose(y)), lower), gb


@triangular_solve.jvp("a")
def _(d, y, a, *, lower):
    r"""\dot Y = -A^{-1} \dot A Y \text{ with } \dot A \text{ in the triangle}"""
    return -triangle(a, matmul(_in_triangle(d, lower), y), lower=lower)


def _in_triangle(a, lower):
    return tril(a) if lower else triu(a)


@triangular_solve.sample
def _(pick: Pick):
    n = pick.size(0, 3)
    return [some_matrices(pick, n), pick.array(n, pick.size(0, 3))], {"lower": pick.choice([True, False])}


triangle = triangular_solve  # the op, OPS["triangular_solve"]


def triangular_solve(a: Any, b: Any, *, lower: bool = True) -> Any:  # type: ignore[no-redef]
    r"""$y = A^{-1} b$ for a triangular A

    a       (..., n, n), of which the one triangle is read
    b       (n) or (..., n, k), as in solve
    lower   which triangle

    Raises LinAlgError for a 0 on the diagonal.
    """
    a, b = as_given(a), as_given(b)
    if len(b.shape) != 1:
        return triangle(a, b, lower=lower)
    return squeeze(triangle(a, _column("triangular_solve", a, b), lower=lower), axis=-1)


# Inverses and powers.


@op("... n n -> ... n n", numpy=np.linalg.inv, flops="2*n*n*n")
def inv(a):
    r"""$Y = A^{-1}$

    To solve equations use solve: it is faster and rounds less. Raises LinAlgError for a singular matrix.
    """
    try:
        return np.linalg.inv(a)
    except LinAlgError:
        raise _singular(a, "it has no inverse; pinv(a) is the nearest thing to one") from None


@inv.vjp("a")
def _(g, y):
    r"""\bar A = -Y^\top \bar Y Y^\top"""
    t = matrix_transpose(y)
    return -matmul(matmul(t, g), t)


@inv.jvp("a")
def _(d, y):
    r"""\dot Y = -Y \dot A Y"""
    return -matmul(matmul(y, d), y)


@inv.sample
def _(pick: Pick):
    return [some_matrices(pick, pick.size(0, 3))], {}


@op("... m n -> ... n m")
def pinv(a, *, rtol=None):
    r"""$Y = A^+$, the pseudoinverse of Moore and Penrose: $A Y A = A, \; Y A Y = Y$, both products symmetric

    rtol    singular values below rtol times the largest count as 0; None: max(m, n) times the machine epsilon

    The rules hold where the rank does not change nearby, above all for full rank.
    Source: Golub and Pereyra (1973), The differentiation of pseudo-inverses, theorem 4.3.
    """
    if a.size == 0:
        return np.zeros((*a.shape[:-2], a.shape[-1], a.shape[-2]), np.result_type(a, np.float32))
    return np.linalg.pinv(a, max(a.shape[-2:]) * np.finfo(np.result_type(a, np.float32)).eps if rtol is None else rtol)


@pinv.vjp("a")
def _(g, y, a):
    r"""\bar A = -Y^\top \bar Y Y^\top + (I - A Y) \bar Y^\top Y Y^\top + Y^\top Y \bar Y^\top (I - Y A)"""
    t, h = matrix_transpose(y), matrix_transpose(g)
    rest = matmul(h, matmul(y, t))
    other = matmul(matmul(t, y), h)
    return -matmul(matmul(t, g), t) + rest - matmul(a, matmul(y, rest)) + other - matmul(matmul(other, y), a)


@pinv.jvp("a")
def _(d, y, a):
    r"""\dot Y = -Y \dot A Y + Y Y^\top \dot A^\top (I - A Y) + (I - Y A) \dot A^\top Y^\top Y"""
    t, e = matrix_transpose(y), matrix_transpose(d)
    rest = matmul(matmul(y, t), e)
    other = matmul(e, matmul(t, y))
    return -matmul(matmul(y, d), y) + rest - matmul(matmul(rest, a), y) + other - matmul(y, matmul(a, other))


@pinv.sample
def _(pick: Pick):
    m, n = pick.size(0, 3), pick.size(0, 3)
    return [pick.array(m, n) * 0.3 + 2 * np.eye(m, n)], {}


def matrix_power(a: Any, n: int) -> Any:
    r"""$Y = A^n = A A \cdots A$ for an integer n, by repeated squaring; a negative n takes the inverse first

    Raises TypeError if n is not an integer, LinAlgError for a negative power of a singular matrix.
    """
    if not isinstance(n, (int, np.integer)):
        raise TypeError(f"matrix_power: the exponent is an integer, not {type(n).__name__}")
    a = as_given(a)
    if len(a.shape) < 2 or a.shape[-1] != a.shape[-2]:
        raise mismatch("matrix_power", "the matrices are not square", "... n n -> ... n n", a=a)
    if n == 0:
        return np.broadcast_to(np.eye(a.shape[-1], dtype=a.dtype), a.shape)
    a = power = inv(a) if n < 0 else a
    for bit in f"{abs(int(n)):b}"[1:]:  # from the highest bit down
        power = matmul(power, power)
        if bit == "1":
            power = matmul(power, a)
    return power


# Determinants.


@op("... n n -> ...", numpy=np.linalg.det, flops="2*n*n*n//3")
def det(a):
    r"""$y = \det A$, a polynomial in the elements of A

    Its gradient is right for singular matrices too.
    """
    return np.linalg.det(a)


@det.vjp("a")
def _(g, a):
    r"""\bar A = \bar y\, \mathrm{cof}\, A, \quad \mathrm{cof}\, A = \det(A)\, A^{-\top} \text{ where there is an inverse}"""
    return _as_scale(g) * cofactor(a)


@det.jvp("a")
def _(d, a):
    r"""\dot y = \langle \mathrm{cof}\, A, \dot A \rangle"""
    return _inner(cofactor(a), d)


def _as_scale(g):
    """One number a matrix, in a shape that multiplies the matrices."""
    return expand_dims(g, axis=(-2, -1))


def _inner(a, b):
    """The sum of the products of all elements, for each matrix in a stack."""
    return sum_over(a * b, axis=(-2, -1))


@op("... n n -> ... n n")
def cofactor(a):
    r"""$y_{ij} = (-1)^{i+j} \det(A \text{ without row } i \text{ and column } j) = \partial \det A / \partial a_{ij}$

    Computed from $A = U S V^\top$ as $\det(U) \det(V)\, U\, \mathrm{diag}(\prod_{j \neq i} s_j)\, V^\top$, which asks for no inverse.
    """
    u, s, vt = np.linalg.svd(a)
    others = np.where(np.eye(s.shape[-1], dtype=bool), s.dtype.type(1), s[..., None, :]).prod(axis=-1)
    sign = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    return sign[..., None, None] * np.matmul(u * others[..., None, :], vt)


@cofactor.vjp("a")
def _(g, y, a):
    r"""\bar A = \langle Y, \bar Y \rangle A^{-\top} - A^{-\top} \bar Y^\top Y"""
    return _pushed(g, y, a)


@cofactor.jvp("a")
def _(d, y, a):
    r"""\dot Y = \langle Y, \dot A \rangle A^{-\top} - A^{-\top} \dot A^\top Y"""
    return _pushed(d, y, a)


def _pushed(d, y, a):
    """One helper for both: the second derivative of the determinant is symmetric.

    Near a singular matrix each minor is differentiated instead. That is exact at any rank, and n^2 times the work.
    """
    if _has_inverse(primal(a), primal(y)):
        t = matrix_transpose(inv(a))
        return _as_scale(_inner(y, d)) * t - matmul(matmul(t, matrix_transpose(d)), y)
    i = np.arange(a.shape[-1])
    signs = np.where((i + i[:, None]) % 2, -1, 1).astype(a.dtype)
    return signs * _inner(cofactor(_minors(a)), _minors(d))


def _has_inverse(a, y):
    """Whether the inverses keep at least half of the digits: 1 / condition = |det| / (|A| |cof A|)."""
    size = np.linalg.norm(a, axis=(-2, -1)) * np.linalg.norm(y, axis=(-2, -1))
    return bool((np.abs(np.linalg.det(a)) > np.sqrt(np.finfo(y.dtype).eps) * size).all())


def _minors(a):
    """(..., n, n) -> (..., n, n, n-1, n-1): at [..., i, j, :, :] the matrix without row i and column j."""
    n = a.shape[-1]
    kept = np.array([[k for k in range(n) if k != i] for i in range(n)], dtype=int).reshape(n, max(n - 1, 0))
    return a[..., kept[:, None, :, None], kept[None, :, None, :]]


@cofactor.sample
def _(pick: Pick):
    a = some_matrices(pick, pick.size(0, 3))
    return [a * pick.choice([1.0, np.arange(a.shape[-1]) > 0])], {}  # with a column of zeros: singular


@op("... n n -> ..., ...", outputs=("sign", "logabsdet"), flops="2*n*n*n//3")
def slogdet(a):
    r"""$(\mathrm{sign} \det A, \; \ln |\det A|)$"""
    return tuple(np.linalg.slogdet(a))


@slogdet.vjp("a")
def _(g, y, a):
    r"""\bar A = \bar y_2 A^{-\top}, \quad \text{infinite where } \det A = 0"""
    g, singular = g[1], y[0] == 0
    if not np.any(singular):
        return _as_scale(g) * matrix_transpose(inv(a))
    slope = _as_scale(g) * matrix_transpose(inv(_without(singular, a)))
    at_pole = np.where(primal(g) == 0, 0.0, np.copysign(np.inf, primal(g)))
    return where(singular[..., None, None], at_pole[..., None, None], slope)


@slogdet.jvp("a")
def _(d, y, a):
    r"""\dot y_1 = 0, \quad \dot y_2 = \langle A^{-\top}, \dot A \rangle, \quad \text{infinite where } \det A = 0"""
    still, singular = np.zeros(y[0].shape, y[0].dtype), y[0] == 0
    if not np.any(singular):
        return still, _inner(matrix_transpose(inv(a)), d)
    return still, where(singular, np.inf, _inner(matrix_transpose(inv(_without(singular, a))), d))


def _without(singular, a):
    """The stack with the identity in place of its singular matrices."""
    return where(singular[..., None, None], np.eye(a.shape[-1], dtype=a.dtype), a)


@slogdet.sample
def _(pick: Pick):
    return [some_matrices(pick, pick.size(0, 3))], {}


class Slogdet(NamedTuple):
    """Sign and logarithm of a determinant."""

    sign: Any
    logabsdet: Any


sign_and_log = slogdet  # the op, OPS["slogdet"]


def slogdet(a: Any) -> Slogdet:  # type: ignore[no-redef]
    r"""$(\mathrm{sign} \det A, \; \ln |\det A|)$, where the determinant itself would over- or underflow

    The sign has derivative 0. For a singular matrix the result is (0, -inf), and the gradient of the logarithm is infinite:
    its elements are inf with the sign of the cotangent, or 0 for a cotangent of 0.
    """
    return Slogdet(*sign_and_log(a))


def _numpy_pinv(a, rcond=None, hermitian=False, *, rtol=1e-15):
    """With NumPy's defaults, which for float32 keep singular values that are rounding."""
    return pinv(a, rtol=rtol if rcond is None else rcond)


NUMPY[np.linalg.solve] = solve
NUMPY[np.linalg.slogdet] = slogdet
NUMPY[np.linalg.matrix_power] = matrix_power
NUMPY[np.linalg.pinv] = _numpy_pinv
