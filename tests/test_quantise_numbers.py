"""Numbers in few bits: the arithmetic is ONNX's to the bit and that of Python's integers, and the laws of rounding hold."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import grad, ops
from engine.quantise.numbers import (
    Grid,
    Scheme,
    binary,
    choose_grid,
    dequantise,
    extent,
    fake_quant,
    grid_of,
    pack,
    quantise,
    ternary,
    unpack,
)

AFFINE = {"signed": False, "symmetric": False}

schemes = st.builds(
    Scheme, bits=st.integers(2, 8), signed=st.booleans(), symmetric=st.booleans(), narrow=st.sampled_from([None, True, False])
)
ends = st.floats(-(2.0**100), 2.0**100, width=32)
ranges = st.tuples(ends, ends).map(sorted)
seeds = st.integers(0, 2**32 - 1)


def within(seed, low, high, shape=(40,), dtype=np.float32):
    """Numbers of a range, both ends and 0 among them."""
    x = np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)
    x.flat[:3] = low, high, 0.0
    return x


def on_ties(seed, grid, count=60):
    """Numbers half-way between two codes, on codes, and beyond both ends."""
    halves = np.random.default_rng(seed).integers(-2 * 300, 2 * 300, count) / 2
    return (halves * float(grid.scale)).astype(np.float32)


# The arithmetic.


def exactly(x, grid):
    """By Python's integers and fractions: the quotient in float32, then exact."""
    s, z, scheme = grid.scale, int(grid.zero_point), grid.scheme
    codes = [round(Fraction(float(v / s))) + z for v in x]  # Python rounds a fraction to the even one of two
    return np.array([min(max(q, scheme.lowest), scheme.highest) for q in codes])


def law_of_codes(code, seed, low, high, scheme):
    grid = choose_grid(low, high, scheme)
    grid = (
        Grid(scheme, np.float32(2.0) ** np.round(np.log2(grid.scale)), grid.zero_point) if seed % 2 else grid
    )  # a power of two makes true ties
    x = np.concatenate([within(seed, low, high), on_ties(seed, grid)])
    np.testing.assert_array_equal(code(x, grid), exactly(x, grid))


@given(seeds, st.tuples(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32)).map(sorted), schemes)
def test_codes_are_those_of_exact_arithmetic(seed, bounds, scheme):
    law_of_codes(quantise, seed, *bounds, scheme)


def with_rounding(rounded):
    def code(x, grid):
        s, z = grid.scale, np.float32(grid.zero_point)
        return np.clip(rounded(x, s, z), grid.scheme.lowest, grid.scheme.highest)

    return code


@pytest.mark.parametrize(
    "rounded",
    {
        "half up": lambda x, s, z: np.floor(x / s + np.float32(0.5)) + z,
        "half away from zero": lambda x, s, z: np.trunc(x / s + np.copysign(np.float32(0.5), x)) + z,
        "truncated": lambda x, s, z: np.trunc(x / s) + z,
        "zero point before rounding": lambda x, s, z: np.rint(x / s + z),
        "rounded twice": lambda x, s, z: np.rint(np.rint(2 * x / s) / 2) + z,
        "times the reciprocal": lambda x, s, z: np.rint(x * (np.float32(1) / s)) + z,
    }.items(),
    ids=lambda case: case[0],
)  # fmt: skip
def test_other_roundings_break_the_law(rounded):
    scheme = Scheme(**AFFINE)
    with pytest.raises(AssertionError):
        for seed in range(400):
            law_of_codes(with_rounding(rounded[1]), seed, -1.1 + seed / 300, 3.0, scheme)


def onnx_pair(tensor, axis=None, block=None):
    """ONNX Runtime's QuantizeLinear and DequantizeLinear, as two functions."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    kind, options = getattr(onnx.TensorProto, tensor), {}
    if axis is not None:
        options = {"axis": axis, **({"block_size": block} if block else {})}

    def model(node, given, of, to):
        taken = [onnx.helper.make_tensor_value_info("x", of, None), onnx.helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, None)]
        taken.append(onnx.helper.make_tensor_value_info("z", kind, None))
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node(node, ["x", "s", "z"], ["y"], **options)],
            "g",
            taken,
            [onnx.helper.make_tensor_value_info("y", to, None)],
        )
        made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
        one = runtime.SessionOptions()
        one.intra_op_num_threads = 1
        return runtime.InferenceSession(made.SerializeToString(), one, providers=["CPUExecutionProvider"])

    there = model("QuantizeLinear", "x", onnx.TensorProto.FLOAT, kind)
    back = model("DequantizeLinear", "x", kind, onnx.TensorProto.FLOAT)
    return (
        lambda x, grid: there.run(None, {"x": x, "s": grid.scale, "z": grid.zero_point})[0],
        lambda q, grid: back.run(None, {"x": q, "s": grid.scale, "z": grid.zero_point})[0],
    )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("axis, group", [(None, None), (1, None), (-1, None), (1, 4)])
def test_bit_for_bit_as_onnx_runtime(signed, symmetric, axis, group):
    scheme = Scheme(signed=signed, symmetric=symmetric, narrow=False, axis=axis, group=group)
    there, back = onnx_pair("INT8" if signed else "UINT8", axis, group)
    rng = np.random.default_rng(7)
    for size in [1e-3, 0.7, 3.0, 1e4]:
        x = rng.normal(size * 0.2, size, (6, 8, 5)).astype(np.float32)
        grid = grid_of(x, scheme)
        s, _ = grid.over(x.shape)
        ties = (s * rng.integers(-600, 600, x.shape) / 2).astype(np.float32)
        extreme = rng.choice([0.0, -0.0, 1e-45, -1e-38, 3e38, -3e38, np.inf, -np.inf], x.shape).astype(np.float32)
        for v in (x, ties, extreme, (1 + np.finfo(np.float32).eps) * ties):
            q = quantise(v, grid)
            assert q.dtype == scheme.dtype
            np.testing.assert_array_equal(q, there(v, grid))
            y = dequantise(q, grid)
            assert y.dtype == np.float32
            np.testing.assert_array_equal(y.view(np.int32), back(q, grid).view(np.int32))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("axis, group", [(None, None), (0, None), (1, 3)])
def test_four_bits_there_and_back_as_onnx_runtime(signed, axis, group):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    scheme = Scheme(4, signed=signed, symmetric=False, axis=axis, group=group)
    x = np.random.default_rng(3).normal(0.3, 1, (5, 9)).astype(np.float32)
    grid = grid_of(0.8 * x, scheme)
    kind = onnx.TensorProto.INT4 if signed else onnx.TensorProto.UINT4
    options = {} if axis is None else {"axis": axis, **({"block_size": group} if group else {})}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **options),
            onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **options),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, x.shape)],
        [
            onnx.numpy_helper.from_array(grid.scale, "s"),
            onnx.helper.make_tensor("z", kind, grid.zero_point.shape, pack(grid.zero_point, 4).tobytes(), raw=True),
        ],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = runtime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    for v in (x, np.float32(0.01) * x, np.float32(40.0) * x):
        np.testing.assert_array_equal(session.run(None, {"x": v})[0], fake_quant(v, grid))


@given(seeds, schemes)
@settings(max_examples=30)
def test_float64_is_divided_in_float64(seed, scheme):
    x = within(seed, -3.0, 5.0, dtype=np.float64)
    grid = grid_of(x, scheme)
    assert grid.scale.dtype == np.float64 and dequantise(quantise(x, grid), grid).dtype == np.float64
    codes = [min(max(round(Fraction(v / grid.scale)) + int(grid.zero_point), scheme.lowest), scheme.highest) for v in x]
    np.testing.assert_array_equal(quantise(x, grid), codes)


# The laws.


@given(seeds, ranges, schemes)
def test_no_number_of_the_range_is_farther_than_half_a_step(seed, bounds, scheme):
    grid, x = choose_grid(*bounds, scheme), within(seed, *bounds)
    error = np.abs(dequantise(quantise(x, grid), grid).astype(float) - x)
    assert (error <= grid.scale * 0.5 * (1 + 1e-5) + 1e-6 * np.abs(x)).all()


@given(ranges, schemes)
def test_zero_stays_zero_and_every_number_of_the_grid_stays(bounds, scheme):
    grid = choose_grid(*bounds, scheme)
    codes = np.arange(scheme.lowest, scheme.highest + 1).astype(scheme.dtype)
    np.testing.assert_array_equal(quantise(dequantise(codes, grid), grid), codes)
    assert dequantise(quantise(np.zeros(3, np.float32), grid), grid).tolist() == [0, 0, 0]
    assert scheme.lowest <= grid.zero_point <= scheme.highest
    y = fake_quant(dequantise(codes, grid), grid)
    np.testing.assert_array_equal(fake_quant(y, grid), y)


@given(seeds, ranges, schemes)
def test_a_larger_number_never_has_a_smaller_code(seed, bounds, scheme):
    grid = choose_grid(*bounds, scheme)
    x = np.sort(2 * within(seed, *bounds))  # beyond both ends, too
    assert (np.diff(quantise(x, grid).astype(int)) >= 0).all()
    assert quantise(np.array([-np.inf, np.inf], np.float32), grid).tolist() == [scheme.lowest, scheme.highest]


@given(seeds, ranges, schemes, st.sampled_from([np.float32, np.float64]))
def test_the_fake_is_what_comes_back(seed, bounds, scheme, dtype):
    x = within(seed, *bounds, dtype=dtype)
    grid = choose_grid(*bounds, scheme, dtype=dtype)
    np.testing.assert_array_equal(fake_quant(x, grid), dequantise(quantise(x, grid), grid))
    assert np.isnan(fake_quant(np.full(1, np.nan, dtype), grid)).all()


def squared_error(x, scheme):
    grid = grid_of(x, scheme)
    return np.mean(np.square(dequantise(quantise(x, grid), grid) - x, dtype=np.float64))


@given(seeds, st.integers(3, 8), st.booleans(), st.booleans())
def test_finer_scales_lose_less(seed, bits, signed, symmetric):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(8, 256)) * np.exp(rng.normal(size=(8, 1)))).astype(np.float32)
    of = {"bits": bits, "signed": signed, "symmetric": symmetric}
    tensor, channel, group = (squared_error(x, Scheme(**of, axis=a, group=g)) for a, g in [(None, None), (0, None), (1, 32)])
    assert group < channel < tensor


@given(seeds, st.integers(2, 8), st.booleans())
def test_affine_beats_symmetric_on_one_side(seed, bits, signed):
    x = np.abs(np.random.default_rng(seed).normal(size=2000)).astype(np.float32)
    assert squared_error(x, Scheme(bits, signed, symmetric=False)) < 0.5 * squared_error(x, Scheme(bits, signed))


# Choosing.


def test_the_grids_of_known_ranges():
    for scheme, low, high, s, z in [
        (Scheme(), -1.27, 0.5, 0.01, 0),
        (Scheme(narrow=False), -1.28, 1.27, 1.28 / 127, 0),  # by 127, not PyTorch's 127.5
        (Scheme(signed=False), -1.0, 1.27, 0.01, 128),
        (Scheme(**AFFINE), 0.0, 2.55, 0.01, 0),
        (Scheme(**AFFINE), -1.0, 1.55, 0.01, 100),
        (Scheme(**AFFINE), 3.0, 5.1, 0.02, 0),  # the range is made to hold 0
        (Scheme(symmetric=False), -5.1, -3.0, 0.02, 127),
        (Scheme(symmetric=False, narrow=True), 0.0, 2.54, 0.01, -127),
        (Scheme(4), -0.7, 0.7, 0.1, 0),
        (Scheme(2, signed=False), -1.0, 1.0, 1.0, 2),
    ]:
        grid = choose_grid(low, high, scheme)
        assert grid.scale == np.float32(s) and grid.zero_point == z, (scheme, grid)
        assert grid.scale.dtype == np.float32 and grid.zero_point.dtype == scheme.dtype
    assert [(s.lowest, s.highest) for s in (Scheme(), Scheme(narrow=False), Scheme(4, signed=False), Scheme(4, **AFFINE), Scheme(2))] == [
        (-127, 127), (-128, 127), (1, 15), (0, 15), (-1, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(**AFFINE)], ids=["symmetric", "affine"])
@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-40, 5.5, -3.0, 3e38])
def test_a_constant_has_a_usable_scale(scheme, value):
    x = np.full(4, value, np.float32)
    grid = grid_of(x, scheme)
    assert np.isfinite(grid.scale) and grid.scale >= np.finfo(np.float32).tiny
    np.testing.assert_allclose(dequantise(quantise(x, grid), grid), x, rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize("shape, axis, group, wanted", [
    ((4, 6), None, None, ()), ((4, 6), 0, None, (4,)), ((4, 6), -1, None, (6,)), ((4, 6), 1, 4, (4, 2)), ((4, 6), 0, 4, (1, 6)),
    ((5,), 0, 2, (3,)), ((2, 7, 3), 1, 7, (2, 1, 3)), ((2, 7, 3), -2, 3, (2, 3, 3)),
])  # fmt: skip
def test_each_part_has_the_grid_it_would_have_alone(shape, axis, group, wanted):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    scheme = Scheme(**AFFINE, axis=axis, group=group)
    low, high = extent(x, scheme)
    grid = grid_of(x, scheme)
    assert low.shape == high.shape == grid.scale.shape == grid.zero_point.shape == scheme.scales(shape) == wanted
    s, z = (np.broadcast_to(p, shape) for p in grid.over(shape))
    for place in np.ndindex(shape):
        part = list(place) if group is not None else [slice(None)] * x.ndim
        if axis is not None:
            first = place[axis] // (group or 1) * (group or 1)
            part[axis] = slice(first, first + (group or 1))
        alone = grid_of(x[tuple(part)], Scheme(**AFFINE))
        assert (s[place], z[place]) == (alone.scale, alone.zero_point)
    strided = np.asfortranarray(np.repeat(x, 2, axis=0))[::2]
    np.testing.assert_array_equal(quantise(strided, grid), quantise(x, grid))


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(axis=0)])
def test_no_numbers_at_all(scheme):
    grid = choose_grid(*([-1.0] * 0,) * 2, scheme) if scheme.axis == 0 else choose_grid(-1, 1, scheme)
    x = np.zeros((0, 3), np.float32)
    assert quantise(x, grid).shape == dequantise(quantise(x, grid), grid).shape == (0, 3)


# Slopes.


@pytest.mark.parametrize("scheme", [Scheme(**AFFINE), Scheme(4), Scheme(axis=0), Scheme(axis=1, group=3)])
def test_the_slopes_are_those_of_clipping(scheme):
    x = np.random.default_rng(3).normal(size=(4, 6))
    grid = grid_of(0.5 * x, scheme)  # half of the numbers' range: many are clipped
    y, g = fake_quant(x, grid), np.random.default_rng(4).normal(size=x.shape)
    s, z = grid.over(x.shape)
    q = x / s + z
    inside = (scheme.lowest <= q) & (q <= scheme.highest)
    assert 0 < inside.sum() < x.size
    of_x = grad(lambda x: ops.sum(g * fake_quant(x, grid)))(x)
    np.testing.assert_array_equal(of_x, g * inside)
    of_s = grad(lambda s: ops.sum(g * fake_quant(x, Grid(scheme, s, grid.zero_point))))(grid.scale)
    each = g * np.where(inside, y / s - x / s, np.where(q > scheme.highest, scheme.highest - z, scheme.lowest - z.astype(float)))
    assert of_s.shape == grid.scale.shape
    places = np.broadcast_to(Grid(scheme, np.arange(grid.scale.size).reshape(grid.scale.shape), grid.zero_point).over(x.shape)[0], x.shape)
    sums = [np.sum(each[places == i]) for i in range(grid.scale.size)]
    np.testing.assert_allclose(np.ravel(of_s), sums, rtol=1e-10, atol=1e-12)


# Fitted grids.


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=6))
def test_no_signs_and_scale_are_better_than_the_binary_ones(values):
    w = np.array(values, np.float64)
    codes, grid = binary(w)
    found = np.sum(np.square(dequantise(codes, grid) - w))
    for signs in product([-1, 1], repeat=len(w)):
        scale = np.dot(signs, w) / len(w)
        assert found <= np.sum(np.square(np.multiply(signs, scale) - w)) + 1e-9


def best_ternary(w):
    """The smallest error of all: it keeps the k largest, at their mean."""
    size = np.sort(np.abs(w))[::-1]
    return min(np.sum(np.square(w)) - np.square(np.sum(size[:k])) / k for k in range(1, len(w) + 1))


@given(seeds)
def test_ternary_comes_near_the_best(seed):
    w = np.random.default_rng(seed).normal(size=300)
    codes, grid = ternary(w)
    found = np.sum(np.square(dequantise(codes, grid) - w))
    assert best_ternary(w) <= found * (1 + 1e-12) < 1.05 * best_ternary(w)
    assert found < np.sum(np.square(dequantise(*binary(w)) - w))
    kept = codes != 0
    np.testing.assert_array_equal(kept, np.abs(w) > 0.7 * np.abs(w).mean())
    assert grid.scale == pytest.approx(np.abs(w[kept]).mean())


@pytest.mark.parametrize("fitted", [ternary, binary])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_channel_is_fitted_alone(fitted, dtype):
    w = np.random.default_rng(2).normal(size=(3, 4, 5)).astype(dtype)
    for axis in (0, 1, -1):
        codes, grid = fitted(w, axis)
        assert codes.dtype == np.int8 and codes.shape == w.shape and grid.scale.shape == (w.shape[axis],) and grid.scale.dtype == dtype
        for i in range(w.shape[axis]):
            alone, of_one = fitted(w.take(i, axis))
            np.testing.assert_array_equal(codes.take(i, axis), alone)
            assert grid.scale[i] == pytest.approx(of_one.scale, rel=1e-6)
    zeros, grid = fitted(np.zeros((2, 3), dtype))
    assert not dequantise(zeros, grid).any()


# Packed codes.


@given(st.sampled_from([1, 2, 4]), st.booleans(), st.lists(st.integers(0, 6), max_size=3), seeds)
def test_packed_codes_come_back(bits, signed, shape, seed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    codes = np.random.default_rng(seed).integers(low, high, shape).astype(np.int8 if signed else np.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8 and packed.shape == (-(-codes.size * bits // 8),)
    again = unpack(packed, tuple(shape), bits, signed=signed)
    assert again.dtype == codes.dtype
    np.testing.assert_array_equal(again, codes)


def test_packed_int4_is_onnx_s():
    onnx = pytest.importorskip("onnx")
    for count in (1, 2, 7, 10):
        codes = np.random.default_rng(count).integers(-8, 8, count).astype(np.int8)
        tensor = onnx.helper.make_tensor("t", onnx.TensorProto.INT4, [count], codes)
        assert tensor.raw_data == pack(codes, 4).tobytes() or bytes(v & 255 for v in tensor.int32_data) == pack(codes, 4).tobytes()
    assert pack(np.array([1, -1, -8], np.int8), 4).tolist() == [0xF1, 0x08]
    assert pack(np.array([True, False, True]), 1).tolist() == [5]


# What is refused.


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: Scheme(0), ValueError, "a scheme has 2 to 8 bits, not 0"),
        (lambda: Scheme(1), ValueError, "not 1; for one bit there is `binary`"),
        (lambda: Scheme(9), ValueError, "not 9"),
        (lambda: Scheme(group=4), ValueError, "along an axis; given are group=4, axis=None"),
        (lambda: Scheme(axis=0, group=0), ValueError, "group=0"),
        (lambda: choose_grid(np.nan, 1), ValueError, "not from nan to 1.0"),
        (lambda: choose_grid(0, np.inf), ValueError, "not from 0.0 to inf"),
        (lambda: choose_grid(0, 1e300), ValueError, r"a range from 0.0 to 1e\+300 is too wide for a scale of float32"),
        (lambda: choose_grid([0, 2], [1, 1], Scheme(axis=0)), ValueError, "not from 2.0 to 1.0"),
        (lambda: quantise(np.array([1, np.nan, 2]), choose_grid(-1, 1)), ValueError, "1 of 3 numbers are nan, for which there is no code"),
        (lambda: quantise(np.array([1, 2]), choose_grid(-1, 1)), TypeError, "numbers to quantise are floats, these are int64"),
        (lambda: quantise(np.ones((2, 3)), grid_of(np.ones((3, 2)), Scheme(axis=0))), ValueError, r"\(3,\).*wants \(2,\)\n  is it another"),
        (lambda: grid_of(np.ones(3), Scheme(axis=1)), ValueError, r"along axis 1, which an array of shape \(3,\) does not have"),
        (lambda: grid_of(np.ones((3, 0))), ValueError, r"there are no numbers in an array of shape \(3, 0\)"),
        (lambda: grid_of(np.array([[1.0, 2], [np.inf, np.nan]])), ValueError, r"2 of 4 numbers .*, the first is inf at \(1, 0\)"),
        (lambda: grid_of(np.ones(3, int)), TypeError, "floats are wanted, these numbers are int64"),
        (lambda: ternary(np.array([np.nan])), ValueError, r"1 of 1 numbers are not finite"),
        (lambda: pack(np.array([8, -1]), 4), ValueError, "codes from -1 to 8 do not fit into 4 bits"),
        (lambda: pack(np.array([16]), 4), ValueError, "codes from 0 to 16 do not fit"),
        (lambda: pack(np.array([1]), 3), ValueError, "codes of 1, 2 or 4 bits are packed, not of 3"),
        (lambda: unpack(np.zeros(2, np.uint8), (5,), 4), ValueError, r"5 codes of 4 bits are 3 bytes, given are \(2,\)"),
    ],
)  # fmt: skip
def test_what_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
