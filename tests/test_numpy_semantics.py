"""Every way of calling, on every kind of shape: the traced run gives NumPy's values, shapes and dtypes, or fails where NumPy does."""

import warnings
from itertools import product

import numpy as np
import pytest

from engine import vjp
from engine.tree import flatten

SHAPES = [(), (0,), (1,), (5,), (0, 3), (3, 0), (2, 3), (2, 3, 4), (2, 0, 4), (2, 1, 3)]
AXES = [None, 0, -1, 1, (0,), (0, 1), (-1, 0), (), 5]
CALLS: dict[str, list] = {}


def calls(names, *options, by_name=()):
    """Each function with each combination of positional options; those whose place `by_name` names go by that name."""
    for name in names.split():
        for chosen in product(*options):
            given = dict(zip(by_name, chosen[len(chosen) - len(by_name) :], strict=True))
            rest = chosen[: len(chosen) - len(by_name)]
            CALLS.setdefault(name, []).append((rest, given))


calls("sum prod mean max min var std ptp nansum nanmax nanmean nanprod", AXES, [False, True], by_name=("axis", "keepdims"))
calls("median", [None, 0, -1, (0, 1), 5], [False, True], by_name=("axis", "keepdims"))
calls("cumsum cumprod sort", [None, 0, -1, 1, 3])
calls("quantile", [0.3, [0.0, 1.0, 0.5], 0, 1, [[0.2, 0.4]]], [None, 0, -1, (0, 1), 1])
calls(
    "linalg.norm",
    [None, 1, 2, -1, 0, np.inf, -np.inf, 3, 0.5, -2, "fro", "nuc"],
    [None, 0, -1, (0, 1), (1, 0), (-1, -2), (0, 1, 2)],
    [False, True],
)
calls("pad", [0, 1, (1, 2), ((1, 0), (0, 2)), ((2, 3),)], ["constant", "edge", "reflect", "symmetric", "wrap"])
calls("split array_split", [1, 2, 3, [1], [0, 2], [1, 1], [5], [-1]], [0, 1, -1])
calls("atleast_1d atleast_2d atleast_3d ravel transpose squeeze flip flipud fliplr diagflat nan_to_num unique hsplit ediff1d gradient copy")
calls("rot90 diag diagonal trace tril triu", [-2, -1, 0, 1, 2, 5])
calls("roll", [1, -2, 7, (1, 2), [1, -1]], [None, 0, -1, (0, 1), (0, 0)])
calls("repeat", [0, 1, 2, [1, 2], [2], [1, 2, 0], [1, 1, 1, 2, 2]], [None, 0, 1, -1])
calls("tile", [0, 1, 2, [1, 2], (2, 1, 3), ()])
calls("delete", [0, -1, [0, 1], slice(0, 2), [True, False], [], 9], [None, 0, 1, -1])
calls("insert", [0, 1, -1, [0, 1], [1, 1], slice(0, 2), [], 9], [7.0, [7.0, 8.0], [7.0], [[7.0], [8.0]]], [None, 0, 1, -1])
calls("take", [0, -1, [0, 1], [[0], [1]], [], 9, [-2, 5]], [None, 0, 1, -1], ["raise", "wrap", "clip"], by_name=("axis", "mode"))
calls("compress", [[True, False, True], [], [0, 1]], [None, 0, -1])
calls("diff", [0, 1, 2, 3, -1], [0, -1, 1])
calls("reshape", [-1, (2, -1), (3, 2), (-1, 1), (), (0, -1), 6, (6, 1), (-1, -1), (4, 3, 2)], ["C", "F"])
calls("swapaxes rollaxis moveaxis", [0, 1, -1, 2], [0, 1, -1, 2])
calls("moveaxis", [(0, 1), (1, 0), 0], [(0, 1), (-1, 0)])
calls("expand_dims squeeze flip", [0, 1, -1, (0, 1), (0, -1), 3, (0, 0)])
calls("average", [None, 0, 1, -1, (0, 1)], [None, [1.0, 2.0], [1.0, 2.0, 3.0], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
calls("convolve correlate", [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]], ["full", "same", "valid"])
calls("dot inner outer vdot kron matmul cross tensordot", [2.0, [1.0, 2.0, 3.0], np.ones((3, 2)), np.ones((4, 3))])
calls("linspace", [2.0], [1, 2, 5])
calls("add.reduce multiply.reduce maximum.reduce minimum.reduce logaddexp.reduce", [0, -1, None, (0, 1), 1])
calls("add.accumulate multiply.accumulate maximum.accumulate minimum.accumulate", [0, -1, 1])
calls("concatenate stack vstack hstack dstack column_stack")

OURS_IS_MILDER = {("median", (2, 0, 4))}  # NumPy cannot reshape to nothing here


def function(name):
    found = np
    for part in name.split("."):
        found = getattr(found, part)
    return found


def traced(f, x, *options, **named):
    return vjp(lambda x: f(x, *options, **named), x)[0]


def attempt(f, *args, **kwargs):
    """What f gives, or None and its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mean of nothing warns, in NumPy as here
        try:
            return f(*args, **kwargs), None
        except (ValueError, TypeError, IndexError, ZeroDivisionError) as e:
            return None, e


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="earlier NumPys fail at corners at which this one answers")
@pytest.mark.parametrize("name", CALLS)
def test_as_numpy_does(name):
    rng = np.random.default_rng(3)
    call = function(name)
    for (options, named), shape, dtype in product(CALLS[name], SHAPES, [np.float64, np.float32]):
        x = np.asarray(rng.normal(size=shape), dtype)
        wanted, error = attempt(call, x, *options, **named)
        got, ours = attempt(traced, call, x, *options, **named)
        case = f"np.{name}{options} {named} of {dtype.__name__}{shape}"
        if (name, shape) not in OURS_IS_MILDER:
            assert (error is None) == (ours is None), f"{case}: NumPy {error!r}, here {ours!r}"
        if error is None:
            same(case, wanted, got, 1e-4 if dtype is np.float32 else 1e-10)


def same(case, wanted, got, rtol):
    wanted, got = flatten(wanted)[0], flatten(got)[0]
    assert len(wanted) == len(got), case
    for a, b in zip(map(np.asarray, wanted), map(np.asarray, got), strict=True):
        assert a.shape == b.shape, case
        assert a.dtype == b.dtype, case
        np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol, err_msg=case)
