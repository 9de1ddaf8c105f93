"""Equations, determinants and factors, against numpy.linalg and against what the textbook says at singular and equal values."""

import itertools

import numpy as np
import pytest
from slopes import central, check, near

from engine import MissingRule, ShapeError, grad, hessian, jvp, ops, vjp

RNG = np.random.default_rng(1)
LinAlgError = np.linalg.LinAlgError
SIZES = [(0, 0), (1, 1), (2, 2), (5, 5), (2, 3, 3), (0, 3, 3), (2, 1, 2, 2), (3, 0, 0)]


def regular(*shape):
    """A stack of matrices with condition numbers of a few units."""
    return RNG.normal(size=shape) * 0.3 + 2 * np.eye(*shape[-2:])


def positive(*shape):
    a = regular(*shape)
    return a @ np.swapaxes(a, -1, -2)


def symmetric(a):
    return (a + np.swapaxes(a, -1, -2)) / 2


# Equations.


@pytest.mark.parametrize("a, b", [
    ((3, 3), (3,)), ((3, 3), (3, 2)), ((4, 3, 3), (3,)), ((4, 3, 3), (4, 3, 2)), ((4, 3, 3), (3, 2)), ((3, 3), (4, 3, 2)),
    ((2, 1, 3, 3), (5, 3, 1)), ((1, 1), (1,)), ((0, 0), (0,)), ((0, 0), (0, 2)), ((3, 3), (3, 0)), ((0, 3, 3), (3,)), ((3, 3, 3), (3, 3)),
])  # fmt: skip
def test_solve(a, b):
    check(ops.solve, by_inverse, regular(*a), RNG.normal(size=b))


def by_inverse(a, b):
    """NumPy 2's reading of b, which np.linalg.solve of NumPy 1 does not share."""
    return (np.linalg.inv(a) @ b[:, None])[..., 0] if b.ndim == 1 else np.linalg.inv(a) @ b


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("a, b", [((3, 3), (3,)), ((4, 3, 3), (3, 2)), ((3, 3), (2, 3, 1)), ((0, 0), (0, 2)), ((1, 1), (1, 1))])
def test_triangular_solve_reads_one_triangle(a, b, lower):
    def reference(a, b):
        return by_inverse(np.tril(a) if lower else np.triu(a), b)

    check(lambda a, b: ops.triangular_solve(a, b, lower=lower), reference, regular(*a), RNG.normal(size=b))
    ga = vjp(lambda a: ops.triangular_solve(a, np.ones(3), lower=lower), regular(3, 3))[1](np.ones(3))[0]
    assert not np.any(np.triu(ga, 1) if lower else np.tril(ga, -1))


def test_singular_equations_say_which():
    stack = np.stack([np.eye(2), np.ones((2, 2)), np.eye(2)])
    with pytest.raises(LinAlgError, match=r"solve: matrix \(1,\) of the stack is singular; there is no unique solution"):
        ops.solve(stack, np.ones(2))
    with pytest.raises(LinAlgError, match=r"inv: the matrix is singular; it has no inverse.*\n.*n n -> .*\n  given  a: \(2, 2\)"):
        ops.inv(np.zeros((2, 2)))
    with pytest.raises(LinAlgError, match="triangular_solve: a triangular matrix with a 0 on its diagonal is singular"):
        ops.triangular_solve(np.array([[1.0, 2], [0, 0]]), np.ones(2), lower=False)
    with pytest.raises(LinAlgError, match="singular"):
        ops.matrix_power(np.zeros((2, 2)), -1)


@pytest.mark.parametrize("f", [ops.inv, ops.det, ops.slogdet, ops.cholesky, ops.eigh])
def test_what_is_not_square_is_refused(f):
    with pytest.raises(ShapeError, match="axis n is 2 in a but 3 in a"):
        f(np.ones((2, 3)))
    with pytest.raises(ShapeError, match="a has 1 axes where at least 2 are wanted"):
        f(np.ones(3))


def test_sizes_that_clash_are_refused():
    with pytest.raises(
        ShapeError, match=r"solve: axis n is 3 in a but 2 in b\n  wants  ... n n, n -> ... n\n  given  a: \(3, 3\)  b: \(2,\)"
    ):
        ops.solve(np.eye(3), np.ones(2))
    with pytest.raises(ShapeError, match="solve: axis n is 3 in a but 2 in b"):
        ops.solve(np.eye(3), np.ones((2, 1)))
    with pytest.raises(ShapeError, match="matrix_power: the matrices are not square"):
        ops.matrix_power(np.ones((2, 3)), 2)
    with pytest.raises(TypeError, match="the exponent is an integer, not float"):
        ops.matrix_power(np.eye(2), 0.5)


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_inv(shape):
    check(ops.inv, np.linalg.inv, regular(*shape))


@pytest.mark.parametrize("n", [-3, -1, 0, 1, 2, 3, 7, 10])
def test_matrix_power(n):
    a = RNG.normal(size=(2, 3, 3)) / 2 + np.eye(3)
    check(lambda a: ops.matrix_power(a, n), lambda a: np.linalg.matrix_power(a, n), a, second=n != 0)
    assert ops.matrix_power(np.array([[1, 1], [1, 0]]), 10).tolist() == [[89, 55], [55, 34]]


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (2, 3, 2), (0, 3), (3, 0), (1, 1)], ids=str)
def test_pinv(shape):
    a = RNG.normal(size=shape) * 0.3 + 2 * np.eye(*shape[-2:])
    check(ops.pinv, np.linalg.pinv, a, analytic=False)


def test_pinv_where_the_rank_stays():
    u, v = RNG.normal(size=(4, 2)), RNG.normal(size=(2, 3))
    check(lambda u, v: ops.pinv(u @ v), lambda u, v: np.linalg.pinv(u @ v), u, v, analytic=False, second=False)


# Determinants.


def leibniz(a):
    """The determinant as its definition: a sum over permutations."""
    n = a.shape[-1]
    total = 0
    for p in itertools.permutations(range(n)):
        sign = np.linalg.det(np.eye(n)[list(p)]).round()
        total = total + sign * np.prod([a[..., i, j] for i, j in enumerate(p)], axis=0)
    return total


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_det(shape):
    check(ops.det, np.linalg.det, regular(*shape))


def of_rank(n, r):
    return RNG.normal(size=(n, r)) @ RNG.normal(size=(r, n))


@pytest.mark.parametrize("n, r", [(1, 0), (2, 1), (2, 0), (3, 2), (3, 1), (3, 0), (4, 3), (4, 2), (5, 4)])
def test_det_of_a_singular_matrix_has_its_derivatives(n, r):
    """A polynomial: complex steps through the sum over permutations give every slope to rounding."""
    a = of_rank(n, r)
    check(lambda a: ops.det(a), leibniz, a)
    exact = np.array([[np.imag(leibniz(a + 1e-30j * e)) / 1e-30 for e in row] for row in np.eye(n * n).reshape(n, n, n, n)])
    near(grad(ops.det)(a), exact, 1e-13)


def test_det_of_a_stack_with_one_singular_matrix():
    a = np.stack([regular(3, 3), of_rank(3, 2), np.zeros((3, 3))])
    check(ops.det, leibniz, a)


def test_the_hessian_of_det_at_zero():
    h = hessian(ops.det)(np.zeros((2, 2)))
    assert h[0, 0, 1, 1] == h[1, 1, 0, 0] == 1 and h[0, 1, 1, 0] == -1 and np.count_nonzero(h) == 4


def test_third_derivative_of_a_cubic_determinant():
    d = RNG.normal(size=(3, 3))

    def along(f):
        return lambda x: jvp(f, (x,), (d,))[1]

    for a in (regular(3, 3), np.zeros((3, 3)), of_rank(3, 1)):
        near(along(along(along(ops.det)))(a), 6 * np.linalg.det(d), 1e-10)


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_slogdet(shape):
    a = regular(*shape) * RNG.choice([-1, 1], size=(*shape[:-2], 1, 1))
    check(ops.slogdet, lambda a: tuple(np.linalg.slogdet(a)), a, analytic=False)


def test_slogdet_where_det_overflows():
    a = 1e5 * np.eye(100)
    sign, log = ops.slogdet(a)
    assert sign == 1 and np.isclose(log, 100 * np.log(1e5), rtol=1e-14)
    assert np.allclose(grad(lambda a: ops.slogdet(a).logabsdet)(a), 1e-5 * np.eye(100), rtol=1e-14)


def test_slogdet_of_a_singular_matrix_has_an_infinite_slope():
    a = np.stack([np.ones((2, 2)), 2 * np.eye(2)])
    y, pull = vjp(ops.slogdet, a)
    assert y.sign.tolist() == [0, 1] and y.logabsdet[0] == -np.inf
    for g, want in [(1.0, np.inf), (-1.0, -np.inf), (0.0, 0.0)]:
        (ga,) = pull(ops.Slogdet(np.zeros(2), np.array([g, 1.0])))
        assert (ga[0] == want).all() and ga[1].tolist() == [[0.5, 0], [0, 0.5]]
    _, dy = jvp(ops.slogdet, (a,), (np.ones_like(a),))
    assert dy.logabsdet.tolist() == [np.inf, 1] and dy.sign.tolist() == [0, 0]


# Factors.


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_cholesky_along_symmetric_changes(shape, upper):
    def reference(a):
        y = np.linalg.cholesky(a)
        return np.swapaxes(y, -1, -2) if upper else y

    check(lambda a: ops.cholesky(a, upper=upper), reference, positive(*shape), analytic=False, like=symmetric)


def test_the_gradient_of_cholesky_is_symmetric_and_ignores_the_other_triangle():
    a, g = positive(3, 3), RNG.normal(size=(3, 3))
    pull = vjp(ops.cholesky, a)[1]
    (ga,) = pull(g)
    near(ga, ga.T, 1e-14)
    assert np.array_equal(pull(np.tril(g))[0], ga)


def test_cholesky_is_a_function_of_both_triangles():
    a = positive(3, 3) + np.array([[0, 0.3, 0], [-0.1, 0, 0], [0, 0.2, 0]])
    near(ops.cholesky(a), np.linalg.cholesky(symmetric(a)), 1e-15)
    d = RNG.normal(size=(3, 3))
    near(jvp(ops.cholesky, (a,), (d,))[1], central(lambda a: np.linalg.cholesky(symmetric(a)), [a], [d])[0], 1e-8)


def test_a_known_cholesky_gradient():
    """The logarithm of the determinant, by its factor."""
    a = positive(4, 4)
    near(grad(lambda a: 2 * np.sum(np.log(np.diagonal(ops.cholesky(a)))))(a), np.linalg.inv(a), 1e-12)


def test_numpys_own_reads_one_triangle():
    """An entry below the diagonal then stands for its mirror image too."""
    a = positive(4, 4)
    inverse = np.linalg.inv(a)
    g = grad(lambda a: 2 * np.sum(np.log(np.diagonal(np.linalg.cholesky(a)))))(a)
    near(g, 2 * np.tril(inverse) - np.diag(np.diag(inverse)), 1e-12)
    noise = np.triu(RNG.normal(size=(4, 4)), 1)
    near(vjp(np.linalg.eigvalsh, a + noise)[0], np.linalg.eigvalsh(a + noise), 1e-13)
    near(vjp(lambda a: np.linalg.eigvalsh(a, "U"), a + noise.T)[0], np.linalg.eigvalsh(a + noise.T, "U"), 1e-13)
    for seed in range(8):  # the signs of the vectors are those of NumPy too
        b = np.random.default_rng(seed).normal(size=(6, 6))
        near(vjp(lambda a: np.linalg.eigh(a, "U")[1], b)[0], np.linalg.eigh(b, "U")[1], 1e-13)
        near(vjp(lambda a: np.linalg.eigh(a)[1], b)[0], np.linalg.eigh(b)[1], 1e-13)
    with pytest.raises(ValueError, match="UPLO is 'L' or 'U'"):
        grad(lambda a: np.sum(np.linalg.eigvalsh(a, "X")))(a)


def test_what_is_not_positive_definite_is_named():
    with pytest.raises(LinAlgError, match=r"cholesky: the matrix is not positive definite: its smallest eigenvalue is -2"):
        ops.cholesky(np.diag([1.0, -2.0]))
    with pytest.raises(LinAlgError, match=r"matrix \(1,\) of the stack"):
        ops.cholesky(np.stack([np.eye(2), -np.eye(2)]))


def spread(*shape):
    n = shape[-1]
    return symmetric(RNG.normal(size=shape) * 0.2 + np.diag(np.arange(n) * 2.0))


def of_eigh(m):
    """What does not depend on the signs of the vectors."""

    def f(a):
        w, v = m.eigh(a)
        return w, m.einsum("...ij,...kj->...ikj", v, v)

    return f


class NumPy:
    eigh, svd, qr, einsum = np.linalg.eigh, np.linalg.svd, np.linalg.qr, np.einsum


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_eigh(shape):
    check(of_eigh(ops), of_eigh(NumPy), spread(*shape), analytic=False, like=symmetric)


def test_eigenvalues_alone():
    a = spread(4, 4)
    check(ops.eigvalsh, np.linalg.eigvalsh, a, analytic=False, like=symmetric)
    w, v = ops.eigh(a)
    near(v @ np.diag(w) @ v.T, a, 1e-14)


@pytest.mark.parametrize(
    "a", [np.eye(3), np.zeros((3, 3)), np.diag([1.0, 1, 2]), np.ones((3, 3)), np.stack([np.eye(2), np.diag([1.0, 2])])], ids=str
)
def test_symmetric_functions_of_equal_eigenvalues_have_their_gradient(a):
    assert np.allclose(grad(lambda a: np.sum(ops.eigvalsh(a) ** 3))(a), 3 * a @ a, atol=1e-13)


def test_a_vector_of_its_own_among_equal_eigenvalues():
    a, q = np.diag([5.0, 1, 1]), RNG.normal(size=3)

    def top(a):
        v = ops.eigh(a).eigenvectors[:, 2]
        return (v @ q) ** 2

    d = symmetric(RNG.normal(size=(3, 3)))
    slope = central(lambda a: (np.linalg.eigh(a)[1][:, 2] @ q) ** 2, [a], [d])[0]
    assert np.isclose(jvp(top, (a,), (d,))[1], slope) and np.isclose(np.vdot(grad(top)(a), d), slope)


def test_turning_vectors_are_refused_and_not_guessed():
    c = np.arange(9.0).reshape(3, 3)

    def mixed(a):
        w, v = ops.eigh(a)
        return np.sum(c * ((v * w**2) @ v.T))

    with pytest.raises(LinAlgError, match="eigenvectors of equal eigenvalues may be turned into one another"):
        grad(mixed)(np.eye(3))
    assert np.isnan(jvp(mixed, (np.eye(3),), (np.ones((3, 3)),))[1])
    with pytest.raises(LinAlgError, match="singular vectors of equal singular values"):
        grad(lambda a: np.sum(np.linalg.svd(a).U @ np.arange(9.0).reshape(3, 3)))(np.eye(3))
    with pytest.raises(LinAlgError, match="singular vectors of 0"):
        grad(lambda a: np.sum(np.linalg.svd(a, full_matrices=False).U[:, 1] * np.arange(3.0)))(np.ones((3, 2)))


def long(*shape):
    m, n = shape[-2:]
    values = np.zeros((m, n))
    np.fill_diagonal(values, 2.0 * np.arange(min(m, n), 0, -1))
    return RNG.normal(size=shape) * 0.2 + values


OBLONG = [(3, 3), (4, 2), (2, 4), (1, 3), (3, 1), (2, 3, 2), (0, 3), (3, 0), (0, 0), (0, 2, 3)]


def of_svd(m):
    def f(a):
        u, s, vt = m.svd(a, full_matrices=False)
        return s, m.einsum("...ik,...kj->...ikj", u, vt)

    return f


@pytest.mark.parametrize("shape", OBLONG, ids=str)
def test_svd(shape):
    check(of_svd(ops), of_svd(NumPy), long(*shape), analytic=False)
    check(ops.svdvals, lambda a: np.linalg.svd(a, compute_uv=False), long(*shape), analytic=False)


def test_the_nuclear_norm_of_a_multiple_of_a_rotation():
    q = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    near(grad(lambda a: np.sum(np.linalg.svd(a, compute_uv=False)))(2 * q), q, 1e-14)


def test_svd_says_what_it_cannot():
    with pytest.raises(ShapeError, match="full_matrices of a matrix that is not square"):
        ops.svd(np.ones((3, 2)))
    with pytest.raises(ShapeError, match="svd: a matrix is wanted"):
        ops.svd(np.ones(3))


@pytest.mark.parametrize("shape", OBLONG, ids=str)
def test_qr(shape):
    check(lambda a: tuple(ops.qr(a)), lambda a: tuple(np.linalg.qr(a)), long(*shape), analytic=False)


def test_qr_modes():
    a = long(3, 2)
    near(ops.qr(a, mode="r"), np.linalg.qr(a, mode="r"), 1e-15)
    with pytest.raises(ValueError, match="qr: mode 'complete' has no derivative"):
        ops.qr(a, mode="complete")
    with pytest.raises(LinAlgError, match="0 on its diagonal"):
        grad(lambda a: np.sum(ops.qr(a).Q))(np.array([[1.0, 0], [0, 0], [0, 0]]))


# All of them.


EVERY = [
    ops.inv,
    ops.det,
    ops.slogdet,
    ops.cholesky,
    ops.eigh,
    ops.svd,
    ops.qr,
    ops.pinv,
    lambda a: ops.solve(a, a[..., 0]),
    lambda a: ops.matrix_power(a, 3),
]


@pytest.mark.parametrize("f", EVERY)
def test_single_precision_stays_single(f):
    a = positive(3, 3).astype(np.float32) + np.diag([0, 1, 2]).astype(np.float32)
    y, pull = vjp(f, a)
    outputs = y if isinstance(y, tuple) else (y,)
    assert all(part.dtype == np.float32 for part in outputs)
    ones = [np.ones_like(part) for part in outputs]
    assert pull(type(y)(*ones) if isinstance(y, tuple) else ones[0])[0].dtype == np.float32


@pytest.mark.parametrize("f", EVERY)
def test_inputs_are_left_alone_and_integers_are_floats(f):
    a = np.array([[4, 1, 0], [1, 7, 2], [0, 2, 11]])
    before = a.copy()
    a.flags.writeable = False
    if f is not EVERY[-1]:
        for part in y if isinstance(y := f(a), tuple) else (y,):
            assert part.dtype == np.float64
    f(a[::-1, ::-1].T)
    assert np.array_equal(a, before)


def test_the_numpy_functions_differentiate():
    n = np.linalg
    a = positive(3, 3) + np.diag([0.0, 1, 2])
    b = RNG.normal(size=3)

    def f(a, b):
        p = n.pinv(a) + n.inv(a) + n.matrix_power(a, 2) / 100 + n.cholesky((a + a.T) / 2) + n.qr(a)[1] * n.qr(a)[1]
        w = n.svd(a, compute_uv=False) + n.eigvalsh((a + a.T) / 2) + n.eigh((a + a.T) / 2).eigenvalues
        return p @ n.solve(a, b) + w * n.slogdet(a)[1] + n.det(a) / 10

    check(f, f, a, b, analytic=False, second=False)


def test_no_rule_is_missing():
    a = positive(3, 3)
    for f in EVERY:
        try:
            y, pull = vjp(f, a)
            pull(type(y)(*map(np.zeros_like, y)) if isinstance(y, tuple) else np.zeros_like(y))
        except MissingRule as e:  # pragma: no cover
            pytest.fail(str(e))
