"""Layout ops against NumPy's functions, and their pulls against a count of where each number came from."""

import numpy as np
import pytest

from engine import ShapeError, grad, hessian, jvp, ops, vjp

CUBE = (2, 3, 4)

# name -> (our call, NumPy's call, shapes to try): every op here only moves or copies numbers
MOVES = {
    "reshape": (lambda x: ops.reshape(x, shape=(4, -1)), lambda x: np.reshape(x, (4, -1)), [CUBE, (4, 5)]),
    "reshape to one axis": (lambda x: ops.reshape(x, shape=-1), lambda x: np.reshape(x, -1), [CUBE, (), (0, 3)]),
    "permute_dims": (lambda x: ops.permute_dims(x, axes=(1, -1, 0)), lambda x: np.transpose(x, (1, -1, 0)), [CUBE, (2, 0, 3)]),
    "permute_dims reversed": (lambda x: ops.permute_dims(x), np.transpose, [CUBE, (), (3,)]),
    "matrix_transpose": (ops.matrix_transpose, lambda x: np.swapaxes(x, -1, -2), [CUBE, (2, 3), (0, 2, 3)]),
    "moveaxis": (lambda x: ops.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1), [CUBE, (3,), (0, 2)]),
    "moveaxis of several": (lambda x: ops.moveaxis(x, (0, -1), (1, 0)), lambda x: np.moveaxis(x, (0, -1), (1, 0)), [CUBE, (2, 3)]),
    "swapaxes": (lambda x: ops.swapaxes(x, 0, -1), lambda x: np.swapaxes(x, 0, -1), [CUBE, (3,), (0, 2)]),
    "expand_dims": (lambda x: ops.expand_dims(x, axis=(0, -1)), lambda x: np.expand_dims(x, (0, -1)), [CUBE, (), (0,)]),
    "squeeze": (lambda x: ops.squeeze(x), np.squeeze, [(1, 3, 1), (1, 1), (2,), (0, 1)]),
    "squeeze one": (lambda x: ops.squeeze(x, axis=-1), lambda x: np.squeeze(x, -1), [(1, 3, 1), (1,)]),
    "flip": (lambda x: ops.flip(x), np.flip, [CUBE, (), (0, 2)]),
    "flip some": (lambda x: ops.flip(x, axis=(0, -1)), lambda x: np.flip(x, (0, -1)), [CUBE, (2, 3)]),
    "roll": (lambda x: ops.roll(x, shift=-2), lambda x: np.roll(x, -2), [CUBE, (3,), (0, 2), ()]),
    "roll axes": (lambda x: ops.roll(x, shift=(1, 7), axis=(0, -1)), lambda x: np.roll(x, (1, 7), (0, -1)), [CUBE, (2, 3)]),
    "roll one shift": (lambda x: ops.roll(x, shift=1, axis=(0, 1)), lambda x: np.roll(x, 1, (0, 1)), [CUBE, (2, 3)]),
    "repeat": (lambda x: ops.repeat(x, repeats=3), lambda x: np.repeat(x, 3), [CUBE, (), (0,)]),
    "repeat a number": (lambda x: ops.repeat(x, repeats=3, axis=-1), lambda x: np.repeat(x, 3, -1), [(), (2,)]),
    "repeat along": (lambda x: ops.repeat(x, repeats=2, axis=-2), lambda x: np.repeat(x, 2, -2), [CUBE, (2, 3)]),
    "repeat each": (lambda x: ops.repeat(x, repeats=[0, 2, 1], axis=1), lambda x: np.repeat(x, [0, 2, 1], 1), [CUBE]),
    "tile": (lambda x: ops.tile(x, repetitions=3), lambda x: np.tile(x, 3), [CUBE, (), (0, 2)]),
    "tile to more axes": (lambda x: ops.tile(x, repetitions=(2, 1, 3)), lambda x: np.tile(x, (2, 1, 3)), [CUBE, (2,), ()]),
    "tile to nothing": (lambda x: ops.tile(x, repetitions=(0, 2)), lambda x: np.tile(x, (0, 2)), [CUBE, (2,)]),
    "broadcast_to": (lambda x: ops.broadcast_to(x, shape=(2, 3, 4)), lambda x: np.broadcast_to(x, (2, 3, 4)), [(1, 4), (3, 1), (), CUBE]),
    "diagonal": (lambda x: ops.diagonal(x, offset=1), lambda x: np.diagonal(x, 1), [CUBE, (3, 3), (0, 2)]),
    "diagonal of others": (lambda x: ops.diagonal(x, offset=-1, axis1=-1, axis2=0), lambda x: np.diagonal(x, -1, -1, 0), [CUBE, (3, 2)]),
    "diag of a matrix": (lambda x: ops.diag(x, k=-1), lambda x: np.diag(x, -1), [(3, 4), (1, 1)]),
    "pad by edge": (lambda x: ops.pad(x, pad_width=((2, 1),), mode="edge"), lambda x: np.pad(x, ((2, 1),), "edge"), [CUBE, (1,)]),
    "pad by reflection": (lambda x: ops.pad(x, pad_width=5, mode="reflect"), lambda x: np.pad(x, 5, "reflect"), [(2, 3), (1,), (4,)]),
    "pad by symmetry": (lambda x: ops.pad(x, pad_width=5, mode="symmetric"), lambda x: np.pad(x, 5, "symmetric"), [(2, 3), (1,)]),
    "pad by wrapping": (lambda x: ops.pad(x, pad_width=(5, 0), mode="wrap"), lambda x: np.pad(x, (5, 0), "wrap"), [(2, 3), (1,)]),
}
CASES = [pytest.param(*MOVES[name][:2], shape, id=f"{name} {shape}") for name in MOVES for shape in MOVES[name][2]]


@pytest.mark.parametrize("ours, theirs, shape", CASES)
def test_moves_are_numpy_s(ours, theirs, shape):
    for dtype in (np.float64, np.float32, np.int16, bool):
        x = (np.random.default_rng(0).normal(size=shape) * 9).astype(dtype)
        y, want = ours(x), theirs(x)
        assert y.shape == want.shape and y.dtype == want.dtype
        assert np.array_equal(y, want)


@pytest.mark.parametrize("ours, theirs, shape", CASES)
def test_a_pull_adds_up_at_the_source_of_each_number(ours, theirs, shape):
    rng = np.random.default_rng(1)
    source = theirs(np.arange(np.prod(shape, dtype=int)).reshape(shape))
    for dtype in (np.float64, np.float32):
        x, g = rng.normal(size=shape).astype(dtype), rng.normal(size=source.shape).astype(dtype)
        want = np.zeros(x.size)
        np.add.at(want, source.reshape(-1), g.reshape(-1).astype(float))
        (gx,) = vjp(ours, x)[1](g)
        assert gx.shape == shape and gx.dtype == dtype
        assert np.allclose(gx, want.reshape(shape), rtol=4 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("ours, theirs, shape", CASES)
def test_a_push_moves_the_tangent_likewise(ours, theirs, shape):
    x, dx = np.random.default_rng(2).normal(size=(2, *shape))
    assert np.array_equal(jvp(ours, (x,), (dx,))[1], theirs(dx))


def test_the_second_derivative_passes_through():
    x = np.random.default_rng(3).normal(size=(2, 3))

    def f(x):
        return ops.sum(ops.tile(ops.flip(ops.reshape(x, shape=(3, 2))), repetitions=(2, 1)) ** 3)

    assert np.allclose(hessian(f)(x).reshape(6, 6), np.diag(12 * x.reshape(6)))


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (0, 2), (2, 3, 3), (4,), (1,)])
@pytest.mark.parametrize("k", [-5, -1, 0, 2])
def test_triangles(shape, k):
    rng = np.random.default_rng(4)
    x, g_like = rng.normal(size=shape), rng.normal(size=np.tril(np.zeros(shape)).shape)
    for ours, theirs in ((ops.tril, np.tril), (ops.triu, np.triu)):
        assert np.array_equal(ours(x, k=k), theirs(x, k))
        (gx,) = vjp(lambda v, f=ours: f(v, k=k), x)[1](g_like)
        kept = theirs(np.ones(g_like.shape), k) * g_like
        assert np.allclose(gx, kept if len(shape) > 1 else kept.sum(0))


@pytest.mark.parametrize("width", [0, 3, (1, 2), ((1, 0), (0, 2)), ((2,), (1,))])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (1, 1)])
def test_a_constant_pad(shape, width):
    rng = np.random.default_rng(5)
    x = rng.normal(size=shape)
    y, pull = vjp(lambda v: ops.pad(v, pad_width=width, constant_values=0.5), x)
    assert np.array_equal(y, np.pad(x, width, constant_values=0.5))
    g = rng.normal(size=y.shape)
    inside = np.pad(np.ones(shape, bool), width)
    assert np.array_equal(pull(g)[0].reshape(-1), g[inside])
    assert np.array_equal(jvp(lambda v: ops.pad(v, pad_width=width, constant_values=0.5), (x,), (x,))[1], np.pad(x, width))


def test_a_pad_that_cannot_be():
    with pytest.raises(ShapeError, match="mode is 'median', it may be constant, edge"):
        ops.pad(np.zeros(3), pad_width=1, mode="median")
    with pytest.raises(ShapeError, match="pad: index can't contain negative values"):
        ops.pad(np.zeros(3), pad_width=-1)


# Several arrays.


@pytest.mark.parametrize("axis", [0, 1, -1, -2, None])
def test_concat(axis):
    rng = np.random.default_rng(6)
    sizes = (2, 0, 3)
    xs = [rng.normal(size=(n, 2) if axis in (0, -2) else (2, n)) for n in sizes]
    y, pull = vjp(lambda *xs: ops.concat(*xs, axis=axis), *xs)
    want = np.concatenate(xs, axis=axis)
    assert np.array_equal(y, want) and np.array_equal(ops.concat(xs, axis=axis), want)
    g = rng.normal(size=y.shape)
    gs = pull(g)
    assert all(gx.shape == x.shape for gx, x in zip(gs, xs, strict=True))
    assert np.array_equal(np.concatenate(gs, axis=axis), g)
    dxs = [rng.normal(size=x.shape) for x in xs]
    assert np.array_equal(jvp(lambda *xs: ops.concat(*xs, axis=axis), xs, dxs)[1], np.concatenate(dxs, axis=axis))


def test_concat_of_mixed_dtypes_promotes_and_returns_each_gradient_in_its_own():
    x, n, z = np.ones(2, np.float32), np.arange(3), np.ones(1)
    y, pull = vjp(lambda x, z: ops.concat(x, n, z), x, z)
    assert y.dtype == np.float64
    gx, gz = pull(np.arange(6.0))
    assert gx.dtype == np.float32 and gz.dtype == np.float64
    assert np.array_equal(gx, [0, 1]) and np.array_equal(gz, [5])


def test_the_same_array_twice_gets_the_sum():
    x = np.array([1.0, 2.0])
    assert np.array_equal(grad(lambda x: ops.sum(ops.concat(x, x) * np.arange(4.0)))(x), [2, 4])
    assert np.array_equal(grad(lambda x: ops.sum(ops.stack(x, x) * np.arange(4.0).reshape(2, 2)))(x), [2, 4])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)])
def test_stack(shape):
    rng = np.random.default_rng(7)
    xs = [rng.normal(size=shape) for _ in range(3)]
    for axis in range(-len(shape) - 1, len(shape) + 1):
        y, pull = vjp(lambda *xs, axis=axis: ops.stack(*xs, axis=axis), *xs)
        assert np.array_equal(y, np.stack(xs, axis))
        g = rng.normal(size=y.shape)
        for i, gx in enumerate(pull(g)):
            assert np.array_equal(gx, np.take(g, i, axis))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("cut", [1, 2, 4, [1], [1, 3], [0, 0], [-1], [3, 1], [9], [-3, 3], [2, 2, 1], []])
def test_split(cut, axis):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(4, 4))
    ys, pull = vjp(lambda v: ops.split(v, indices_or_sections=cut, axis=axis), x)
    want = np.split(x, cut, axis)
    assert len(ys) == len(want) and all(np.array_equal(a, b) for a, b in zip(ys, want, strict=True))
    source = np.split(np.arange(16).reshape(4, 4), cut, axis)
    gs = tuple(rng.normal(size=y.shape) for y in ys)
    total = np.zeros(16)
    for s, g in zip(source, gs, strict=True):
        np.add.at(total, s.reshape(-1), g.reshape(-1))
    assert np.allclose(pull(gs)[0], total.reshape(4, 4), rtol=1e-15)


def test_a_part_of_a_split_that_is_not_used_has_gradient_zero():
    x = np.arange(6.0)
    assert np.array_equal(grad(lambda x: ops.sum(ops.split(x, indices_or_sections=3)[1] ** 2))(x), [0, 0, 4, 6, 0, 0])


# What cannot be.


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: ops.reshape(x, shape=(4,)), ShapeError, "reshape: cannot reshape array of size 6"),
        (lambda x: ops.reshape(x, shape=(-1, -1)), ShapeError, "reshape: can only specify one unknown"),
        (lambda x: ops.permute_dims(x, axes=(0, 0)), ShapeError, "permute_dims: repeated axis"),
        (lambda x: ops.permute_dims(x, axes=(0,)), ShapeError, "permute_dims: axes don't match"),
        (lambda x: ops.permute_dims(x, axes=(0, 2)), np.exceptions.AxisError, "permute_dims: .*out of bounds"),
        (lambda x: ops.matrix_transpose(x[0]), ShapeError, "matrix_transpose: x has 1 axes where at least 2"),
        (lambda x: ops.moveaxis(x, 0, 2), ShapeError, "moveaxis: destination is 2"),
        (lambda x: ops.moveaxis(x, (0, 0), (0, 1)), ShapeError, "moveaxis: source is"),
        (lambda x: ops.moveaxis(x, (0, 1), 0), ShapeError, "moveaxis: 2 axes to move"),
        (lambda x: ops.swapaxes(x, 0, 2), ShapeError, "swapaxes: axes 0 and 2"),
        (lambda x: ops.expand_dims(x, axis=4), np.exceptions.AxisError, "expand_dims: "),
        (lambda x: ops.squeeze(x, axis=0), ShapeError, "squeeze: cannot select an axis"),
        (lambda x: ops.concat(x, x[:, :1]), ShapeError, r"concat: .*\n  given  xs\[0\]: \(2, 3\)  xs\[1\]: \(2, 1\)"),
        (lambda x: ops.concat([]), ShapeError, "concat: need at least one array"),
        (lambda x: ops.stack(x, x[:1]), ShapeError, "stack: all input arrays must have the same shape"),
        (lambda x: ops.split(x, indices_or_sections=2, axis=1), ShapeError, "split: array split does not result in an equal"),
        (lambda x: ops.flip(x, axis=(0, 0)), ShapeError, "flip: repeated axis"),
        (lambda x: ops.roll(x, shift=(1, 2, 3), axis=(0, 1)), ShapeError, "roll: shape mismatch"),
        (lambda x: ops.repeat(x, repeats=[1, 2, 3], axis=0), ShapeError, "repeat: operands could not be broadcast"),
        (lambda x: ops.repeat(x, repeats=-1), ShapeError, "repeat: .*negative"),
        (lambda x: ops.broadcast_to(x, shape=(3, 2)), ShapeError, "broadcast_to: "),
        (lambda x: ops.sum_to(x, shape=(2, 2)), ShapeError, "sum_to: "),
        (lambda x: ops.diagonal(x[0]), ShapeError, "diagonal: "),
    ],
)
def test_what_cannot_be_says_so(call, error, message):
    x = np.zeros((2, 3))
    with pytest.raises(error, match=message):
        call(x)
    with pytest.raises(error):
        grad(lambda x: ops.sum(call(x)))(x)


def test_an_integer_cast_has_no_derivative_and_may_be_an_index():
    x = np.array([2.0, 0.0, 1.0])

    def f(x):
        return ops.sum(x[ops.astype(x, dtype=np.int64)] * np.arange(3.0))

    assert np.array_equal(grad(f)(x), [1, 2, 0])
    assert np.array_equal(jvp(f, (x,), (np.array([1.0, 10.0, 100.0]),))[1], 21)


def test_astype_goes_back_to_the_dtype_of_the_argument():
    x = np.arange(3, dtype=np.float32)
    y, pull = vjp(lambda x: ops.astype(x, dtype=np.float64), x)
    (gx,) = pull(np.ones(3))
    assert y.dtype == np.float64 and gx.dtype == np.float32


def test_transpose_reverses_the_axes_or_takes_an_order():
    x = np.arange(24.0).reshape(2, 3, 4)
    g = np.random.default_rng(0).normal(size=(4, 3, 2))
    y, pull = vjp(ops.transpose, x)
    assert np.array_equal(y, x.T)
    assert np.array_equal(pull(g)[0], g.T)
    assert np.array_equal(ops.transpose(x, (1, 0, 2)), np.transpose(x, (1, 0, 2)))
