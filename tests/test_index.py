"""Indexing by NumPy's rules: the value against NumPy's own, the pull against a count of where each number came from."""

import numpy as np
import pytest

from engine import ShapeError, grad, hessian, hvp, jvp, ops, vjp
from engine.domain import Pick
from engine.traced import OPS

SHAPE = (3, 4, 2)
I, J = np.array([2, 0, 2]), np.array([[1], [-1]])
ROWS = np.array([True, False, True])
ALL = np.random.default_rng(0).random(SHAPE) < 0.4

KEYS = {
    "an integer": 1,
    "a negative integer": -3,
    "a numpy integer": np.int64(2),
    "a 0-d array": np.array(2),
    "nothing": (),
    "everything": ...,
    "a new axis": None,
    "a slice": slice(1, None),
    "a slice backwards": slice(None, None, -2),
    "an empty slice": slice(2, 1),
    "slices": (slice(0, 2), slice(None, None, 3), slice(1)),
    "one element": (0, -1, 1),
    "the last axis": (..., 0),
    "ellipsis in the middle": (0, ..., None, slice(1)),
    "ellipsis for no axis": (0, 1, ..., 1),
    "integers in an array": I,
    "integers in a list": [2, 0, 2],
    "integers in 2-d": np.array([[0, 0], [0, 1]]),
    "unsigned integers": np.array([1, 1], np.uint8),
    "no integers": np.array([], np.intp),
    "an empty list": [],
    "array on the second axis": (slice(None), I),
    "array behind an ellipsis": (..., np.array([1, 1, 0])),
    "two arrays": (I, np.array([3, 3, 3])),
    "two arrays that broadcast": (I, J),
    "two arrays apart": (I, slice(None), np.array([1, 1, 1])),
    "array and integer apart": (I, slice(None), 1),
    "integer and array apart": (0, slice(1, 3), np.array([1, 1])),
    "array between slices": (slice(1), I, slice(None, None, -1)),
    "arrays and a new axis": (I, None, J),
    "an open grid": np.ix_([0, 2, 0], [1, 3], [0]),
    "lists in a tuple": ([0, 1, 0], [1, 1, 1]),
    "a mask of rows": ROWS,
    "a mask in a list": [True, False, True],
    "a mask of all": ALL,
    "a mask of nothing": np.zeros(SHAPE, bool),
    "a mask of two axes": ALL[..., 0],
    "a mask behind": (slice(None), np.array([False, True, True, False])),
    "a mask and an integer": (ROWS, 2),
    "a mask and an array": (ROWS, np.array([1, 1])),
    "a mask, a slice and an array": (ROWS, slice(2), np.array([0, 0])),
    "True": True,
    "False and a slice": (False, slice(1)),
}


def adjoint(key, shape, g):
    """What the pull must be, by np.add.at on positions."""
    source = np.arange(np.prod(shape, dtype=int)).reshape(shape)[key]
    total = np.zeros(int(np.prod(shape)))
    np.add.at(total, np.reshape(source, -1), np.reshape(g, -1).astype(float))
    return total.reshape(shape)


@pytest.mark.parametrize("name", KEYS)
def test_getitem(name):
    key, rng = KEYS[name], np.random.default_rng(1)
    for dtype in (np.float64, np.float32):
        x, dx = rng.normal(size=(2, *SHAPE)).astype(dtype)
        y, pull = vjp(lambda x: x[key], x)
        assert np.array_equal(y, x[key]) and y.shape == x[key].shape and y.dtype == dtype
        assert np.array_equal(ops.getitem(x, key=key), x[key])
        assert np.array_equal(jvp(lambda x: x[key], (x,), (dx,))[1], dx[key])
        g = rng.normal(size=y.shape).astype(dtype)
        (gx,) = pull(g)
        assert gx.dtype == dtype
        assert np.allclose(gx, adjoint(key, SHAPE, g), rtol=1e-6 if dtype is np.float32 else 1e-14, atol=1e-6 if dtype is np.float32 else 0)


@pytest.mark.parametrize("name", KEYS)
def test_getitem_at_second_order(name):
    key, rng = KEYS[name], np.random.default_rng(2)
    x, v = rng.normal(size=(2, *SHAPE))
    weight = rng.normal(size=x[key].shape)
    hv = jvp(grad(lambda x: ops.sum(weight * x[key] ** 3)), (x,), (v,))[1]
    assert np.allclose(hv, adjoint(key, SHAPE, 6 * weight * x[key] * v[key]), rtol=1e-13)


@pytest.mark.parametrize("name", KEYS)
def test_scatter_add(name):
    key, rng = KEYS[name], np.random.default_rng(3)
    x = rng.normal(size=SHAPE)
    whole = rng.normal(size=x[key].shape)
    for values in (whole, rng.normal(), whole[:1] if whole.ndim and len(whole) else whole):
        want = x.copy()
        np.add.at(want, key, values)
        y, pull = vjp(lambda x, v: ops.scatter_add(x, key, v), x, np.asarray(values))
        assert np.allclose(y, want, rtol=1e-14)
        g = rng.normal(size=SHAPE)
        gx, gv = pull(g)
        assert np.array_equal(gx, g)
        lost = g[key].ndim - np.ndim(values)
        back = g[key].sum(tuple(range(lost)))
        if np.shape(values) != back.shape:
            back = back.sum(0, keepdims=True)
        assert np.allclose(gv, back, rtol=1e-13)
        dx, dv = rng.normal(size=SHAPE), rng.normal(size=np.shape(values))
        moved = dx.copy()
        np.add.at(moved, key, dv)
        assert np.allclose(jvp(lambda x, v: ops.scatter_add(x, key, v), (x, np.asarray(values)), (dx, dv))[1], moved)


def test_scatter_add_leaves_its_argument_alone():
    x = np.zeros(3)
    x.flags.writeable = False
    assert np.array_equal(ops.scatter_add(x, [0, 0], 1.0), [2, 0, 0])
    assert np.array_equal(x, [0, 0, 0])


def test_scatter_add_takes_any_layout():
    x = np.random.default_rng(11).normal(size=(3, 4))
    for view in (np.asfortranarray(x), x.T, x[::-1, ::2]):
        want = view.copy()
        want[[0, 2]] += 1
        assert np.array_equal(ops.scatter_add(view, np.array([0, 2]), 1.0), want)


def test_scatter_add_promotes():
    assert ops.scatter_add(np.zeros(2, np.int64), 0, 0.5).dtype == np.float64
    assert ops.scatter_add(np.zeros(2, np.float32), 0, np.float32(1)).dtype == np.float32


def test_one_by_one_is_the_same_as_at_once():
    x = np.random.default_rng(4).normal(size=(5, 2))
    by_one = grad(lambda x: sum(ops.sum(ops.exp(row)) for row in x))(x)
    assert np.allclose(by_one, np.exp(x), rtol=1e-15)


def test_a_view_of_a_view():
    x = np.random.default_rng(5).normal(size=(4, 5))
    h = hessian(lambda x: ops.sum(x[1:, ::2][::-1, 1] ** 2))(x)
    want = np.zeros((4, 5))
    want[1:, 2] = 2
    assert np.array_equal(h.reshape(20, 20), np.diag(want.reshape(-1)))


@pytest.mark.parametrize(
    "key, message",
    [
        (7, "getitem: index 7 is out of bounds for axis 0 with size 3"),
        ((0, 0, 0, 0), "getitem: too many indices"),
        (np.array([0, 3]), "getitem: index 3 is out of bounds"),
        (np.array([True, False]), "getitem: boolean index did not match"),
        ((I, np.array([0, 1])), "getitem: shape mismatch"),
        (0.5, "getitem: only integers, slices"),
        ((np.array([5]), [0, 1, 2, 3]), "getitem: "),
    ],
)
def test_a_key_that_does_not_fit(key, message):
    with pytest.raises(IndexError, match=message):
        ops.getitem(np.zeros(SHAPE), key=key)
    with pytest.raises(IndexError, match=message):
        grad(lambda x: ops.sum(x[key]))(np.zeros(SHAPE))


def test_an_error_shows_a_ragged_key():
    with pytest.raises(IndexError, match=r"given  x: \(2, 3\)  key=\(array\(\[5\]\), \[1, 2\]\)"):
        ops.getitem(np.zeros((2, 3)), key=(np.array([5]), [1, 2]))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 2)])
@pytest.mark.parametrize("axis", [None, 0, 1, -1, -3])
def test_take(shape, axis):
    rng = np.random.default_rng(6)
    x = rng.normal(size=SHAPE)
    n = x.size if axis is None else SHAPE[axis]
    indices = rng.integers(-n, n, shape)
    y, pull = vjp(lambda x: ops.take(x, indices, axis=axis), x)
    assert np.array_equal(y, np.take(x, indices, axis=axis)) and y.shape == np.take(x, indices, axis=axis).shape
    g = rng.normal(size=y.shape)
    source = np.take(np.arange(x.size).reshape(SHAPE), indices, axis=axis)
    total = np.zeros(x.size)
    np.add.at(total, source.reshape(-1), g.reshape(-1))
    assert np.allclose(pull(g)[0], total.reshape(SHAPE), rtol=1e-13)


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_take_from_a_number(axis):
    def f(x):
        return [np.where(True, x, 0.0)] + [ops.take(x, i, axis=axis) for i in ([0, -1, 0], -1, np.arange(0))]

    ys, pull = vjp(f, np.array(2.0))
    assert [y.shape for y in ys] == [(), (3,), (), (0,)]
    assert pull([1.0, np.array([1.0, 2.0, 4.0]), 8.0, np.zeros(0)])[0] == 16.0


def test_take_outside():
    with pytest.raises(IndexError, match="take: index 5 is out of bounds"):
        ops.take(np.zeros(3), [5])
    with pytest.raises(IndexError, match="out of bounds"):
        ops.scatter_add(np.zeros((3, 2)), np.array([3]), 1.0)


@pytest.mark.parametrize("axis, shape", [(0, (5, 4)), (0, (2, 1)), (1, (3, 6)), (-1, (1, 2)), (1, (3, 0)), (None, (7,))])
def test_take_along_axis(axis, shape):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(3, 4))
    n = x.size if axis is None else x.shape[axis]
    indices = rng.integers(-n, n, shape)
    y, pull = vjp(lambda x: ops.take_along_axis(x, indices, axis=axis), x)
    assert np.array_equal(y, np.take_along_axis(x, indices, axis))
    g = rng.normal(size=y.shape)
    source = np.take_along_axis(np.arange(12).reshape(3, 4), indices, axis)
    total = np.zeros(12)
    np.add.at(total, source.reshape(-1), g.reshape(-1))
    assert np.allclose(pull(g)[0], total.reshape(3, 4), rtol=1e-13)


@pytest.mark.parametrize("k", [-2, 0, 1])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_diag_of_a_vector(n, k):
    rng = np.random.default_rng(8)
    x = rng.normal(size=n)
    y, pull = vjp(lambda x: ops.diag(x, k=k), x)
    assert np.array_equal(y, np.diag(x, k))
    g = rng.normal(size=y.shape)
    assert np.array_equal(pull(g)[0], np.diagonal(g, k))


def test_trace():
    x = np.random.default_rng(9).normal(size=(3, 4, 3))
    assert np.allclose(ops.trace(x, offset=1, axis1=1, axis2=0), np.trace(x, 1, 1, 0))
    assert np.array_equal(grad(lambda x: ops.trace(x, offset=1))(np.ones((3, 3))), np.eye(3, k=1))


def test_rows_named_many_times_add_up_in_every_width():
    rng = np.random.default_rng(10)
    rows = rng.integers(-7, 7, (50, 3))
    for width in ((), (1,), (4,), (2, 0), (3, 2)):
        g = rng.normal(size=(50, 3, *width))
        assert np.allclose(ops.scatter(g, key=rows, shape=(7, *width)), adjoint(rows, (7, *width), g), rtol=1e-12)


def test_values_that_do_not_fit():
    with pytest.raises(ShapeError, match="scatter"):
        ops.scatter(np.zeros((2, 2)), key=slice(0, 3), shape=(5,))
    with pytest.raises(ShapeError, match="add_at"):
        ops.scatter_add(np.zeros((4, 3)), np.array([0, 1]), np.zeros((3, 3)))


# Many parts of one array: each adds to one gradient, in place.

PARTS = {
    "rows": lambda x, i: x[i % 4],
    "slices": lambda x, i: x[: i % 4, ::-1],
    "repeated rows": lambda x, i: x[np.array([i % 4, 1, i % 4, -1])],
    "masks": lambda x, i: x[np.arange(4) < i % 4],
    "places": lambda x, i: x[[0, 0, i % 4], [1, 1, 2]],
    "a number": lambda x, i: x[i % 4, 2],
    "take rows": lambda x, i: ops.take(x, np.array([[i % 4, 0], [0, 0]]), axis=0),
    "take one": lambda x, i: ops.take(x, i % 4, axis=0),
    "take columns": lambda x, i: ops.take(x, np.array([i % 3, -1]), axis=-1),
    "take numbers": lambda x, i: ops.take(x, np.array([i % 4, -1, -12])),
    "among others": lambda x, i: x[i % 4] * 2.0 if i % 3 else ops.sum(x.T @ x, axis=0),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_parts_add_up_in_one_gradient(part, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4)).astype(dtype).T
    weights = [rng.normal(size=np.shape(part(x, i))).astype(dtype) for i in range(9)]
    _, pull = vjp(lambda x: [part(x, i) for i in range(9)], x)
    got, again = pull(weights)[0], pull(weights)[0]
    alone = [vjp(lambda x, i=i: part(x, i), x)[1](w)[0] for i, w in enumerate(weights)]
    np.testing.assert_allclose(got, np.sum(alone, axis=0), rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-6)
    np.testing.assert_array_equal(got, again)
    assert got.dtype == dtype


def test_a_loop_over_parts_makes_one_array_of_zeros(monkeypatch):
    made = []
    scatter = ops.scatter.definition
    monkeypatch.setattr(ops.scatter, "definition", lambda *args, **kwargs: made.append(1) or scatter(*args, **kwargs))
    g = grad(lambda x: sum(x[i] * i for i in range(50)))(np.ones(50))
    assert g.tolist() == list(range(50))
    assert len(made) == 1


def test_parts_under_two_interpreters():
    f = lambda x: sum(np.sin(x[i]) * x[i - 1] for i in range(5))  # noqa: E731
    x, v = np.linspace(0.1, 2, 5), np.linspace(1, -1, 5)
    h = 1e-6
    np.testing.assert_allclose(hvp(f, (x,), (v,)), (grad(f)(x + h * v) - grad(f)(x - h * v)) / (2 * h), rtol=1e-8)
    np.testing.assert_allclose(grad(lambda x: np.sum(grad(f)(x) * v))(x), hvp(f, (x,), (v,)), rtol=1e-13)


ACCUMULATING = {op.name: (op, rule) for op in OPS.values() for rule in op.vjps.values() if rule.accumulate}


@pytest.mark.parametrize("op, rule", ACCUMULATING.values(), ids=ACCUMULATING)
@pytest.mark.parametrize("seed", range(60))
def test_accumulating_is_adding_what_the_pull_gives(op, rule, seed):
    rng = np.random.default_rng(seed)
    args, params = op.sampler(Pick(rng))
    params = op.defaults | params
    y = op(*args, **params)
    g, total = rng.normal(size=y.shape), rng.normal(size=args[0].T.shape).T
    want = total + rule(g, y, args, params)
    rule.accumulate(total, g, args, params)
    np.testing.assert_allclose(total, want, rtol=1e-13, atol=1e-13)
