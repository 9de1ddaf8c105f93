"""NumPy's functions on traced values, beyond their derivatives: plain answers, refusals, kinks, empty and scalar arrays, nesting."""

import numpy as np
import pytest
from numpy_programs import rosenbrock
from scipy.optimize import rosen_der, rosen_hess
from test_numpy_functions import ALL, arguments

from engine import Unsupported, grad, hessian, hvp, jacobian, jvp, ops, stop_gradient, value_and_grad, vjp
from engine.ops.numpy_protocol.table import function_named
from engine.traced import HINTS, NUMPY, Traced
from engine.tree import flatten

# Functions with no derivative to carry: they give plain numbers, on which a program may decide.

X = np.array([[1.5, -0.5, 2.5], [0.5, 1.5, -2.0]])
LOGICAL = {np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.logical_and, np.logical_or, np.logical_xor}
LOGICAL |= {np.floor_divide, np.heaviside}

CONSTANTS = {
    "shape": lambda x: (np.shape(x), np.ndim(x), np.size(x), np.size(x, 0), x.shape, x.size, len(x)),
    "comparisons": lambda x: (x > 1, x >= 1, x < 1, x <= 1, x == 1.5, x != 1.5, 1 > x, X > x, X == x),  # noqa: SIM300
    "comparison functions": lambda x: (np.equal(x, 1.5), np.not_equal(x, X), np.less(x, 1), np.less_equal(1, x)),
    "greater": lambda x: (np.greater(x, 1), np.greater_equal(x, 1), np.logical_and(x > 1, x), np.logical_or(x, 0)),
    "logical": lambda x: (np.logical_xor(x, 0), np.logical_not(x), np.logical_and.reduce(x > 1), np.logical_or.reduce(x)),
    "is": lambda x: (np.isnan(x), np.isfinite(x), np.isinf(x), np.signbit(x), np.isposinf(x), np.isneginf(x), np.isin(x, [1.5])),
    "complex": lambda x: (np.iscomplex(x), np.isreal(x), np.iscomplexobj(x), np.isrealobj(x)),
    "close": lambda x: (np.isclose(x, X), np.allclose(x, X), np.array_equal(x, X), np.array_equiv(x, X)),
    "any": lambda x: (np.any(x > 2), np.all(x > 2), np.any(x), np.all(x, axis=0), x.any(), x.all()),
    "argmax": lambda x: (np.argmax(x), np.argmin(x, axis=1), x.argmax(0), x.argmin(), np.nanargmax(x), np.nanargmin(x)),
    "argsort": lambda x: (np.argsort(x, axis=1), x.argsort(), np.argpartition(x, 1), np.lexsort((x[0], x[1]))),
    "nonzero": lambda x: (np.nonzero(x), x.nonzero(), np.flatnonzero(x), np.argwhere(x), np.count_nonzero(x), np.where(x > 1)),
    "searchsorted": lambda x: (np.searchsorted([0.0, 1.0, 2.0], x), np.digitize(x, [0.0, 1.0]), np.histogram(x, 3)),
    "histogram": lambda x: (np.histogram_bin_edges(x), np.bincount(np.array([0, 2]), minlength=3)),
    "unique": lambda x: (np.unique_counts(x), np.unique_inverse(x)) if hasattr(np, "unique_counts") else (),
    "unique_all": lambda x: (np.unique(x, return_counts=True)[1], np.unique(x, return_index=True)[1]),
    "rounding": lambda x: (
        np.floor(x),
        np.ceil(x),
        np.trunc(x),
        np.rint(x),
        np.round(x),
        np.around(x, 1),
        x.round(),
        np.floor_divide(x, 2),
    ),
    "floor": lambda x: (x // 2, 5 // x, np.heaviside(x, 0.5), np.spacing(x), np.divmod(x, 2)[0], np.modf(x)[1], np.fix(x)),
    "types": lambda x: (np.result_type(x, np.float32), np.can_cast(x, np.float64), np.min_scalar_type(x), np.common_type(x)),
    "memory": lambda x: (np.may_share_memory(x, X), np.shares_memory(x, X)),
    "likes": lambda x: (np.zeros_like(x), np.ones_like(x), np.empty_like(x).shape, np.full_like(x, 2), np.ones_like(x, dtype=int)),
    "triangles": lambda x: (np.tril_indices_from(x), np.triu_indices_from(x), np.diag_indices_from(x[:, :2])),
    "rank": lambda x: (np.linalg.matrix_rank(x),),
    "text": lambda x: (np.array_repr(x), np.array_str(x), np.array2string(x), f"{x[0, 0]:.1f}"),
}


@pytest.mark.parametrize("f", CONSTANTS.values(), ids=CONSTANTS)
def test_what_carries_no_derivative_is_a_plain_answer(f):
    answers = []

    def inside(x):
        answers.extend(flatten(f(x))[0])
        return np.sum(x)

    grad(inside)(X)
    wanted = flatten(f(X))[0]
    assert not any(isinstance(a, Traced) for a in answers)
    for a, b in zip(answers, wanted, strict=True):
        assert type(a) is type(b)
        np.testing.assert_array_equal(a, b)


def test_plain_answers_under_two_interpreters():
    seen = []

    def f(x):
        seen.extend([np.floor(x), x > 1, np.argmax(x)])
        return np.sum(x**3)

    hvp(f, (X,), (X,))
    assert [type(s) for s in seen] == [np.ndarray, np.ndarray, np.int64]


# What cannot be done says so.

BUFFER = np.zeros((2, 3))
REFUSALS = {
    "fft": (lambda x: np.fft.fft(x), Unsupported, r"np\.fft\.fft has no derivative"),
    "nextafter": (lambda x: np.nextafter(x, 1), Unsupported, r"np\.nextafter has no derivative"),
    "reduceat": (lambda x: np.add.reduceat(x[0], [0, 1]), Unsupported, r"np\.add\.reduceat has no derivative"),
    "apply_along_axis": (lambda x: np.apply_along_axis(np.sum, 0, x), Unsupported, r"np\.apply_along_axis"),
    "histogram": (lambda x: np.histogram([0.1, 0.2, 0.3], weights=x[0]), Unsupported, "histogram"),
    "eig": (lambda x: np.linalg.eig(x[:, :2]), Unsupported, r"np\.linalg\.eig has no derivative"),
    "out": (lambda x: np.sum(x, out=np.zeros(())), TypeError, r"np\.sum: out= is not possible"),
    "out by place": (lambda x: np.sum(x, None, None, np.zeros(())), TypeError, r"np\.sum: out="),
    "out of a ufunc": (lambda x: np.exp(x, out=BUFFER), TypeError, r"np\.exp: out= .*\n.*give the result a name"),
    "in place": (lambda x: BUFFER.__iadd__(x), TypeError, r"np\.add: out= .*\n.*give the result a name"),
    "where of a ufunc": (lambda x: np.exp(x, where=x > 0), TypeError, r"np\.exp: where= .*\n.*np\.where\(mask"),
    "at": (lambda x: np.add.at(BUFFER, 0, x[0]), TypeError, r"np\.add\.at writes .*\n.*scatter_add"),
    "copyto": (lambda x: np.copyto(BUFFER, x), TypeError, r"np\.copyto writes"),
    "put": (lambda x: np.put(x, [0], 1.0), TypeError, r"np\.put writes"),
    "put_along_axis": (lambda x: np.put_along_axis(x, np.zeros((1, 3), int), 1.0, 0), TypeError, "writes"),
    "place": (lambda x: np.place(x, x > 0, 1.0), TypeError, r"np\.place writes"),
    "putmask": (lambda x: np.putmask(x, x > 0, 1.0), TypeError, r"np\.putmask writes"),
    "fill_diagonal": (lambda x: np.fill_diagonal(x, 1.0), TypeError, r"np\.fill_diagonal writes"),
    "array": (lambda x: np.array([x[0, 0], x[0, 1]]), TypeError, r"np\.array\(\[a, b\]\) write np\.stack\(\[a, b\]\)"),
    "asarray": (lambda x: np.asarray(x), TypeError, r"np\.asarray\(\)"),
    "assignment": (lambda x: BUFFER.__setitem__(0, x[0]), TypeError, "assignment into a NumPy array"),
    "assignment into traced": (lambda x: x.__setitem__(0, 1.0), TypeError, "cannot be assigned into"),
    "float": (lambda x: float(x[0, 0]), TypeError, r"float\(\)"),
    "integer dtype": (lambda x: np.sum(x, dtype=int), TypeError, "dtype=int64"),
    "unknown option": (lambda x: np.sum(x, axes=0), TypeError, "axes"),
    "quantile in q": (lambda x: np.quantile(X, abs(x[0, 1])), TypeError, "q is not differentiated"),
    "quantile method": (lambda x: np.quantile(x, 0.5, method="lower"), TypeError, 'only method="linear"'),
    "kind of sorting": (lambda x: np.sort(x, kind="bogo"), TypeError, "a kind of sorting is wanted"),
    "casting": (lambda x: x.astype(np.float32, casting="safe"), TypeError, "according to the rule 'safe'"),
    "memory order": (lambda x: np.reshape(x, 6, order="X"), TypeError, r'"C" or "F"'),
    "uneven gradient": (lambda x: np.gradient(x[0], [1.0, 2.0, 4.0]), TypeError, "one number an axis"),
    "complex": (lambda x: np.real(x + 1j), Unsupported, "two real arrays"),
    "pad mode": (lambda x: np.pad(x, 1, mode="linear_ramp", end_values=1), TypeError, "end_values"),
}


@pytest.mark.parametrize("f, error, message", REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_done_says_so(f, error, message):
    with pytest.raises(error, match=message):
        vjp(f, X)
    assert not BUFFER.any()


def test_the_nearest_function_is_named():
    with pytest.raises(Unsupported) as e:
        grad(lambda x: np.nanpercentile(x, 5))(X)
    assert str(e.value) == (
        "np.nanpercentile has no derivative in this engine.\n"
        "  nearest function: np.percentile\n"
        "  if it should not be differentiated: np.nanpercentile(stop_gradient(x))"
    )


def test_what_to_write_instead_is_said_where_it_is_known():
    with pytest.raises(Unsupported, match=r"instead: np\.linalg\.pinv\(a\) @ b"):
        grad(lambda x: np.linalg.lstsq(x, np.ones(2))[0].sum())(X)
    for name in HINTS:
        assert function_named(name.removeprefix("np.")) not in NUMPY, f"{name} has a stand-in, and a hint to do without it"


def test_numpys_own_errors_come_through():
    for f in (
        lambda x: np.reshape(x, (4, 4)),
        lambda x: np.concatenate([x, np.ones((2, 2))]),
        lambda x: x @ x,
        lambda x: np.split(x, 4, axis=1),
        lambda x: np.moveaxis(x, 5, 0),
        lambda x: np.average(x, weights=[1.0, 2.0]),
        lambda x: np.linalg.norm(x, 7),
        lambda x: np.diff(x, -1),
        lambda x: np.convolve(x[0], []),
    ):
        with pytest.raises((ValueError, TypeError, IndexError)) as ours:
            vjp(f, X)
        with pytest.raises((ValueError, TypeError, IndexError)):
            f(X)
        assert not isinstance(ours.value, Unsupported)


# Edges.


def test_kinks_and_zeros():
    zero = np.zeros(3)
    np.testing.assert_array_equal(grad(np.linalg.norm)(zero), zero)
    np.testing.assert_array_equal(grad(lambda x: np.sqrt(np.sum(x**2) + 0.0) if np.any(x) else np.linalg.norm(x, 2))(zero), zero)
    np.testing.assert_array_equal(grad(np.std)(np.full(3, 0.1)), zero)
    np.testing.assert_array_equal(grad(np.max)(np.array([1.0, 3.0, 3.0])), [0, 0.5, 0.5])
    np.testing.assert_array_equal(grad(lambda x: np.sum(np.abs(x)))(zero), zero)
    np.testing.assert_array_equal(grad(lambda x: np.sum(np.maximum(x, 0)))(zero), zero + 0.5)
    np.testing.assert_array_equal(grad(lambda x: np.sum(np.clip(x, 0, 1)))(zero), zero + 1)
    np.testing.assert_array_equal(grad(np.prod)(np.array([0.0, 2.0, 3.0])), [6, 0, 0])


HOLES = np.array([[1.5, np.nan, 2.5], [0.5, np.nan, -2.0]])


@pytest.mark.parametrize("f", [np.nansum, np.nanprod, np.nanmax, np.nanmin])
@pytest.mark.parametrize("initial", [0, 0.5, -3.0])
@pytest.mark.parametrize("where", [True, np.array([True, False, True]), ~np.isnan(HOLES)], ids=["all", "columns", "numbers"])
def test_where_the_missing_begin(f, initial, where):
    y, pull = vjp(lambda x: f(x, axis=0, initial=initial, where=where), HOLES)
    np.testing.assert_allclose(y, f(HOLES, axis=0, initial=initial, where=where), rtol=1e-14)
    assert np.all(np.isfinite(pull(np.ones(3))[0]))


@pytest.mark.filterwarnings("ignore:All-NaN", "ignore:Mean of empty", "ignore:Degrees of freedom", "ignore:.* encountered in")
@pytest.mark.parametrize("f", [np.nanmax, np.nanmin, np.nanmean, np.nanvar, np.nanstd])
def test_of_missing_numbers_alone(f):
    y, pull = vjp(lambda x: f(x, axis=0), HOLES)
    np.testing.assert_allclose(y, f(HOLES, axis=0), rtol=1e-14)
    assert np.all(np.isfinite(pull(np.ones(3))[0][:, ::2]))


def test_ldexp_does_not_meet_the_power_itself():
    y, pull = vjp(lambda x: np.ldexp(x, 1030), 2.0**-1000)
    assert y == 2.0**30
    assert pull(2.0**-10)[0] == 2.0**1020
    assert grad(lambda x: np.ldexp(x, -1030) * 2.0**1000)(2.0**1000) == 2.0**-30


def test_a_logarithm_of_sums_takes_no_beginning():
    with pytest.raises(TypeError, match="initial="):
        grad(lambda x: np.logaddexp.reduce(x, initial=0))(X[0])


EMPTY = np.zeros((0, 3))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.sum(x, axis=0),
        lambda x: np.exp(x),
        lambda x: np.concatenate([x, x]),
        lambda x: x @ np.ones((3, 2)),
        lambda x: np.cumsum(x, axis=1),
        lambda x: np.sort(x),
        lambda x: x.reshape(3, 0),
        lambda x: np.prod(x),
        lambda x: np.linalg.norm(x, axis=1),
        lambda x: np.linalg.norm(x),
        lambda x: np.max(x, axis=1),
        lambda x: np.max(x, axis=0, initial=2.0),
        lambda x: np.nanmin(x, axis=0, initial=2.0),
        lambda x: np.diff(x),
        lambda x: np.where(x > 0, x, 1.0),
        lambda x: np.stack([x, x]).mean(axis=0),
    ],
)
def test_nothing_at_all_has_a_gradient_of_its_shape(f):
    y, pull = vjp(f, EMPTY)
    assert y.shape == f(EMPTY).shape
    assert pull(np.ones(y.shape))[0].shape == (0, 3)


@pytest.mark.parametrize(
    "f",
    [np.sum, np.mean, np.max, np.prod, np.exp, np.ravel, np.cumsum, np.transpose, np.squeeze, np.atleast_2d, np.linalg.norm, np.sort]
    + [lambda x: x[...], lambda x: x[None], lambda x: x.reshape(1, 1), lambda x: np.dot(x, x), lambda x: np.where(x > 0, x, 0)],
)
def test_a_scalar_array(f):
    x = np.asarray(0.7)
    if f in (np.linalg.norm, np.sort):
        x = x.reshape(1)
    y, pull = vjp(f, x)
    want = f(x)
    assert np.shape(y) == np.shape(want)
    assert y == want
    assert pull(np.ones(np.shape(y)))[0].shape == x.shape


def test_a_float_is_an_argument_too():
    assert grad(lambda x: np.sin(x) * x)(0.5) == pytest.approx(np.cos(0.5) * 0.5 + np.sin(0.5))
    assert isinstance(value_and_grad(np.tanh)(0.3)[0], np.floating)


def test_strided_and_read_only_arrays():
    base = np.arange(24.0).reshape(4, 6)
    base.flags.writeable = False
    x = base[::-2, 1::2].T
    g = grad(lambda x: np.sum(np.sin(x) * x.T[0, 1]))(x)
    np.testing.assert_allclose(g, grad(lambda x: np.sum(np.sin(x) * x.T[0, 1]))(x.copy()))


# Derivatives of derivatives.


def test_the_hessian_of_rosenbrock():
    x = np.array([1.3, 0.7, 0.8, 1.9, 1.2])
    np.testing.assert_allclose(grad(rosenbrock)(x), rosen_der(x), rtol=1e-12)
    np.testing.assert_allclose(hessian(rosenbrock)(x), rosen_hess(x), rtol=1e-12)


def test_third_derivatives():
    f = lambda x: np.sum(np.tanh(x) ** 2)  # noqa: E731
    third = grad(lambda x: np.sum(grad(lambda x: np.sum(grad(f)(x)))(x)))
    x = np.array([0.3, -1.1])
    h = 1e-3
    second = lambda x: grad(lambda x: np.sum(grad(f)(x)))(x)  # noqa: E731
    np.testing.assert_allclose(third(x), (second(x + h) - second(x - h)) / (2 * h), rtol=1e-4)


def test_a_derivative_inside_a_function():
    def step(w):
        return w - 0.1 * grad(lambda w: np.sum(np.cosh(w)))(w)

    np.testing.assert_allclose(jacobian(step)(np.array([0.2, 0.5])), np.diag(1 - 0.1 * np.cosh([0.2, 0.5])))


def test_two_variables_are_not_confused():
    assert grad(lambda x: x * grad(lambda y: x + y)(1.0))(2.0) == 1.0
    assert grad(lambda x: x * jvp(lambda y: np.multiply(x, y), (3.0,), (1.0,))[1])(2.0) == 4.0


def test_cut_on_purpose():
    g = grad(lambda x: np.sum(x * stop_gradient(np.exp(x))))(np.array([0.5]))
    np.testing.assert_allclose(g, np.exp(0.5))


def test_an_array_in_an_object_is_followed():
    class Point:
        def __init__(self, x):
            self.x = x

        def norm(self):
            return np.linalg.norm(self.x)

    np.testing.assert_allclose(grad(lambda x: Point(x).norm())(np.array([3.0, 4.0])), [0.6, 0.8])


def test_ops_and_numpy_mix():
    g = grad(lambda x: np.sum(ops.gelu(np.dot(x, x)) + ops.sum(np.exp(x))))(np.array([0.1, 0.2]))
    assert np.all(np.isfinite(g))


def test_every_stand_in_is_tried(monkeypatch):
    """A function that NumPy gains a stand-in for gains a line in a table here, too."""
    tried = set()
    for function, stand_in in list(NUMPY.items()):
        monkeypatch.setitem(NUMPY, function, _noting(function, stand_in, tried))
    for name, f, draws in ALL:
        vjp(f, *arguments(name, draws)[1])
    for f in CONSTANTS.values():
        vjp(lambda x, f=f: f(x) and None, X)
    for f in REFUSALS.values():
        with pytest.raises(TypeError):
            vjp(f[0], X)
    untried = {f for f in NUMPY if f not in tried and not _follows(f)}
    assert not sorted(map(str, untried))


def _noting(function, stand_in, tried):
    def call(*args, **kwargs):
        tried.add(function)
        return stand_in(*args, **kwargs)

    return call


def _follows(function):
    """Methods that all ufuncs have alike."""
    return isinstance(function, tuple) and (function[1] in ("at", "outer") or function[0] in LOGICAL)


def test_the_ufuncs_of_scipy_go_by_name_and_no_others():
    from scipy import special

    assert grad(special.expit)(0.0) == 0.25
    with pytest.raises(Unsupported, match=r"scipy\.special\.gammaln has no derivative"):
        grad(special.gammaln)(2.0)


def test_another_ufunc_of_the_same_name_is_not_taken_for_scipys():
    from numba import vectorize

    @vectorize(["float64(float64)"])
    def expit(x):
        return 3.0 * x

    with pytest.raises(Unsupported, match=r"^expit has no derivative"):
        grad(lambda x: expit(x))(0.5)
