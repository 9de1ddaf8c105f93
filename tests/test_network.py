"""Dropout and embedding: the same mask again, the right share of zeros, rows that are used twice."""

import numpy as np
import pytest

from engine import grad, hvp, jvp, ops, vjp


def test_the_same_seed_gives_the_same_mask():
    x = np.random.default_rng(0).normal(size=(30, 40))
    y = ops.dropout(x, rate=0.5, seed=7)
    np.testing.assert_array_equal(y, ops.dropout(x, rate=0.5, seed=7))
    for other in (8, (7, 0), (7, 1)):
        assert np.mean((ops.dropout(x, rate=0.5, seed=other) != 0) == (y != 0)) < 0.6
    np.testing.assert_array_equal(ops.dropout(x, rate=0.5, seed=(1, 2)), ops.dropout(x, rate=0.5, seed=(1, 2)))
    state = np.random.get_state()[1].copy()
    ops.dropout(x, rate=0.5, seed=7)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_and_the_expected_value(rate):
    n = 200_000
    y = ops.dropout(np.ones(n), rate=rate, seed=1)
    deviation = np.sqrt(rate * (1 - rate) / n)
    assert abs(np.mean(y == 0) - rate) < 5 * deviation
    assert abs(np.mean(y) - 1) < 5 * deviation / (1 - rate)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate))


def test_rates_at_the_ends():
    x = np.array([1.0, -2.0, np.inf])
    np.testing.assert_array_equal(ops.dropout(x, rate=0.0, seed=0), x)
    np.testing.assert_array_equal(ops.dropout(x, rate=1.0, seed=0), np.zeros(3))
    for rate in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match="rate is a probability from 0 to 1"):
            ops.dropout(x, rate=rate, seed=0)


def test_the_way_back_drops_what_was_dropped():
    rng = np.random.default_rng(1)
    x, g, d = rng.normal(size=(3, 50))
    y, pull = vjp(lambda x: ops.dropout(x, rate=0.3, seed=(5, 6)), x)
    (gx,) = pull(g)
    np.testing.assert_array_equal(gx == 0, y == 0)
    np.testing.assert_allclose(gx[gx != 0], g[gx != 0] / 0.7)
    _, dy = jvp(lambda x: ops.dropout(x, rate=0.3, seed=(5, 6)), (x,), (d,))
    assert np.vdot(g, dy) == pytest.approx(np.vdot(gx, d))
    product = hvp(lambda x: ops.sum(ops.dropout(x, rate=0.3, seed=2) ** 3), (x,), (d,))
    kept = ops.dropout(np.ones(50), rate=0.3, seed=2)
    np.testing.assert_allclose(product, 6 * kept**3 * x * d)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mask_is_of_the_shape_alone(dtype):
    x = np.ones((8, 6), dtype)
    y = ops.dropout(x[:, ::2], rate=0.5, seed=3)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, ops.dropout(np.ones((8, 3)), rate=0.5, seed=3))
    assert ops.dropout(np.zeros((0, 3), dtype), rate=0.5, seed=3).shape == (0, 3)
    assert ops.dropout(np.ones(3, int), rate=0.0, seed=3).dtype == np.float64


TABLE = np.arange(12.0).reshape(4, 3)


def test_a_row_for_each_id():
    ids = np.array([[3, 0], [1, 3]])
    y = ops.embedding(ids, TABLE)
    assert y.shape == (2, 2, 3)
    for at in np.ndindex(2, 2):
        np.testing.assert_array_equal(y[at], TABLE[ids[at]])
    np.testing.assert_array_equal(ops.embedding([2], TABLE), TABLE[2:3])
    np.testing.assert_array_equal(ops.embedding(2, TABLE), TABLE[2])
    assert ops.embedding(np.zeros((0, 5), int), TABLE).shape == (0, 5, 3)
    assert ops.embedding(ids, TABLE.astype(np.float32)).dtype == np.float32


def test_rows_used_twice_add_up():
    ids = np.array([[3, 0, 3], [1, 3, 0]])
    rng = np.random.default_rng(2)
    g, d = rng.normal(size=(2, 3, 3)), rng.normal(size=TABLE.shape)
    want = np.zeros_like(TABLE)
    for at in np.ndindex(2, 3):
        want[ids[at]] += g[at]
    _, pull = vjp(lambda table: ops.embedding(ids, table), TABLE)
    np.testing.assert_allclose(pull(g)[0], want, atol=1e-14)
    _, dy = jvp(lambda table: ops.embedding(ids, table), (TABLE,), (d,))
    np.testing.assert_array_equal(dy, d[ids])
    second = grad(lambda table: ops.sum(grad(lambda t: ops.sum(ops.embedding(ids, t) ** 3))(table)))(TABLE)
    np.testing.assert_allclose(second, 6 * TABLE * np.array([2, 1, 0, 3])[:, None])


def test_ids_that_are_not_in_the_table():
    for bad in (4, -1):
        with pytest.raises(IndexError, match="but the table has rows 0 to 3"):
            ops.embedding(np.array([0, bad]), TABLE)
    with pytest.raises(TypeError, match="ids are float64, integers are wanted"):
        ops.embedding(np.array([1.0]), TABLE)
