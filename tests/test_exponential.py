"""e^x and what is made of it in kernels, against mpmath, number by number and as vectors."""

import mpmath as mp
import numpy as np
import pytest

pytest.importorskip("numba")
from numba import config, njit

from kernels.cpu import exponential

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="instructions exist in compiled code only")
DTYPES = [np.float32, np.float64]


def of_arrays(f):
    @njit(error_model="numpy")
    def run(x, y):
        for i in range(len(x)):
            y[i] = f(x[i])

    return lambda x: (run(x, y := np.empty_like(x)), y)[1]


@njit(error_model="numpy")
def _pairs(x, a, b):
    for i in range(len(x)):
        a[i], b[i] = exponential.exp_and_expm1(x[i])


def pairs(x):
    a, b = np.empty_like(x), np.empty_like(x)
    _pairs(x, a, b)
    return a, b


RUN = {name: of_arrays(getattr(exponential, name)) for name in ("exp", "expm1", "sigmoid", "tanh")}
TRUE = {"exp": mp.exp, "expm1": mp.expm1, "sigmoid": lambda x: 1 / (1 + mp.exp(-x)), "tanh": mp.tanh}
ULPS = {"exp": 1.5, "expm1": 2.5, "sigmoid": 2.5, "tanh": 3.0}  # as the file states them
HIGH = {"exp": 720.0, "expm1": 80.0, "sigmoid": 720.0, "tanh": 25.0}


def points(name, dtype):
    high = HIGH[name] if dtype is np.float64 else min(HIGH[name], 91.0)
    near = np.random.default_rng(0).uniform(-1, 1, 300)
    edges = [0.0, -0.0, 1e-30, -1e-30, 0.34657, -0.34658, -87.4, -88.0, -103.9, -708.5, -745.1]
    x = np.concatenate([high * near, near, 1e-5 * near, edges]).astype(dtype)
    return x[x >= -HIGH[name] - 30]


def worst(got, x, true, dtype):
    """The largest error in units in the last place."""
    largest, smallest = float(np.finfo(dtype).max), float(np.finfo(dtype).smallest_subnormal)
    errors = []
    for value, number in zip(got, x, strict=True):
        with mp.workdps(40):
            want = true(mp.mpf(float(number)))
            if abs(want) > largest:
                errors.append(0.0 if np.isinf(value) else np.inf)
            else:
                unit = max(float(np.spacing(dtype(abs(want)))), smallest)
                errors.append(float(abs(mp.mpf(float(value)) - want) / unit) if np.isfinite(value) else np.inf)
    return max(errors)


@pytest.mark.parametrize("dtype", DTYPES, ids=["single", "double"])
@pytest.mark.parametrize("name", RUN)
def test_errors_are_as_stated(name, dtype):
    x = points(name, dtype)
    assert worst(RUN[name](x), x, TRUE[name], dtype) <= ULPS[name]


@pytest.mark.parametrize("dtype", DTYPES, ids=["single", "double"])
def test_both_powers_from_one_series(dtype):
    x = points("exp", dtype)
    e, less_one = pairs(x)
    np.testing.assert_array_equal(e, RUN["exp"](x))
    below = x <= 80
    assert worst(less_one[below], x[below], mp.expm1, dtype) <= ULPS["expm1"]


@pytest.mark.parametrize("dtype", DTYPES, ids=["single", "double"])
def test_what_is_not_finite_and_the_sign_of_zero(dtype):
    x = np.array([-np.inf, np.inf, np.nan, 1e30, -1e30], dtype)
    np.testing.assert_array_equal(RUN["exp"](x), np.array([0, np.inf, np.nan, np.inf, 0], dtype))
    np.testing.assert_array_equal(RUN["sigmoid"](x), np.array([0, 1, np.nan, 1, 0], dtype))
    np.testing.assert_array_equal(RUN["tanh"](x), np.array([-1, 1, np.nan, 1, -1], dtype))
    np.testing.assert_array_equal(np.signbit(RUN["tanh"](np.array([0.0, -0.0], dtype))), [False, True])


def test_a_series_that_ends_too_early_is_caught():
    x = points("exp", np.float64)
    assert worst(RUN["exp"](x.astype(np.float32)).astype(np.float64), x, mp.exp, np.float64) > ULPS["exp"]
