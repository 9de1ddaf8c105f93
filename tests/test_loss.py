"""Losses: against mpmath in the tails, scikit-learn on random data, and the messages for what cannot be a label."""

import mpmath as mp
import numpy as np
import pytest
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error
from slopes import central, near

from engine import ShapeError, grad, hessian, jvp, ops, value_and_grad, vjp

mp.mp.dps = 60
RNG = np.random.default_rng(2)
LOGITS = [0.0, 1e-9, 0.3, -0.3, 5.0, -5.0, 36.7, -36.7, 40.0, -40.0, 88.0, -104.0, 700.0, -700.0, 745.0, -745.0, 1000.0, -1000.0]


def ulps(got, want, dtype):
    """By how many units in the last place `got` is off the exact number `want`."""
    info = np.finfo(dtype)
    unit = max(abs(want) * mp.mpf(float(info.eps)), mp.mpf(float(info.smallest_subnormal)))
    return float(abs(mp.mpf(float(got)) - want) / unit)


def exact_logistic(z, t):
    z, t = mp.mpf(float(z)), mp.mpf(float(t))
    p, q = 1 / (1 + mp.exp(-z)), 1 / (1 + mp.exp(z))
    return t * mp.log1p(mp.exp(-z)) + (1 - t) * mp.log1p(mp.exp(z)), p * (1 - t) - q * t


def exact_cross_entropy(z, t):
    z, t = [mp.mpf(float(v)) for v in z], [mp.mpf(float(v)) for v in t]
    total = mp.fsum(map(mp.exp, z))
    value = mp.fsum(ti * (mp.log(total) - zi) for zi, ti in zip(z, t, strict=True))
    return value, [mp.exp(zi) / total * mp.fsum(t) - ti for zi, ti in zip(z, t, strict=True)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("t", [0, 1, 0.25])
@pytest.mark.parametrize("z", LOGITS)
def test_logistic_loss_in_the_tails(z, t, dtype):
    z = dtype(z)
    value, slope = value_and_grad(lambda z: ops.logistic_loss(z, t))(z)
    assert value.dtype == slope.dtype == dtype
    want, want_slope = exact_logistic(z, dtype(t))
    assert ulps(value, want, dtype) <= 4 and ulps(slope, want_slope, dtype) <= 8 * (1 + (t == 0.25))


ROWS = [
    [0.0, 0, 0],
    [1, 2, 3],
    [40, 0, -3],
    [0, 40, 1],
    [1000, 0, -1000],
    [-1000, -1000, -999],
    [1000, 1000, 999],
    [1e-8, 0, 0],
    [37, 0, 0],
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_cross_entropy_in_the_tails(row, label, dtype):
    z = np.array(row, dtype)
    value, slope = value_and_grad(lambda z: ops.cross_entropy(z, label))(z)
    assert value.dtype == slope.dtype == dtype
    want, want_slope = exact_cross_entropy(z, np.eye(3)[label])
    assert ulps(value, want, dtype) <= 8
    size = 16 + abs(float(max(z) - min(z)))  # ln p has rounded by then, and e^(ln p) shows it
    assert all(ulps(a, b, dtype) <= size for a, b in zip(slope, want_slope, strict=True))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_slope_of_a_right_answer_keeps_its_digits(dtype):
    """p - 1 would be 0 here."""
    z = np.array([40, 0], dtype)
    for t in (0, [1.0, 0.0]):
        slope = grad(lambda z: ops.cross_entropy(z, t))(z)  # noqa: B023
        assert slope[0] == -slope[1] and np.isclose(slope[1], np.exp(-40), rtol=1e-5)


def test_soft_labels_and_smoothing_are_the_sum_they_say():
    z, t = RNG.normal(size=(4, 3)), RNG.dirichlet(np.ones(3), size=4)
    for row, target, got in zip(z, t, ops.cross_entropy(z, t, reduction="none"), strict=True):
        assert ulps(got, exact_cross_entropy(row, target)[0], float) < 32
    labels = np.array([0, 2, 1, 1])
    smooth = 0.9 * np.eye(3)[labels] + 0.1 / 3
    near(ops.cross_entropy(z, labels, label_smoothing=0.1), ops.cross_entropy(z, smooth), 1e-15)
    near(ops.cross_entropy(z, np.eye(3)[labels], label_smoothing=0.1), ops.cross_entropy(z, smooth), 1e-15)
    near(ops.cross_entropy(z, np.eye(3, dtype=int)[labels]), ops.cross_entropy(z, labels), 0)


def test_against_scikit_learn():
    z, labels = RNG.normal(size=(30, 4)) * 3, RNG.integers(0, 4, 30)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    near(ops.cross_entropy(z, labels), log_loss(labels, p, labels=range(4)), 1e-12)
    near(ops.logistic_loss(z[:, 0], labels > 1), log_loss(labels > 1, 1 / (1 + np.exp(-z[:, 0]))), 1e-12)
    near(ops.squared_error(z, p), mean_squared_error(p, z), 1e-14)
    near(ops.mean_absolute_error(z, p), mean_absolute_error(p, z), 1e-14)


def test_huber_is_a_parabola_and_then_straight():
    r = np.array([-3.0, -1.5, -0.5, 0.0, 0.5, 1.5, 1e300])
    y, dy = jvp(lambda x: ops.huber(x, 0.0, delta=1.5, reduction="none"), (r,), (np.ones_like(r),))
    assert y.tolist() == [1.5 * (3 - 0.75), 1.125, 0.125, 0, 0.125, 1.125, 1.5e300]
    assert dy.tolist() == [-1.5, -1.5, -0.5, 0, 0.5, 1.5, 1.5]
    near(ops.huber(r[:6] * 1.0, 0, delta=1e9), ops.squared_error(r[:6], 0) / 2, 1e-15)


def test_an_absolute_error_of_zero_has_slope_zero():
    assert grad(lambda x: ops.mean_absolute_error(x, np.array([1.0, 2.0])))(np.array([1.0, 3.0])).tolist() == [0, 0.5]


NUMERIC = [ops.squared_error, ops.mean_absolute_error, ops.huber]


@pytest.mark.parametrize("loss", [*NUMERIC, ops.logistic_loss, ops.cross_entropy])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_both_arguments_and_every_reduction(loss, reduction):
    x, t = RNG.normal(size=(3, 4)), RNG.uniform(0.1, 0.9, size=(3, 4))

    def f(x, t):
        return loss(x, t, reduction=reduction)

    ds = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4)) / 100
    y, dy = jvp(f, (x, t), ds)
    near(dy, central(f, (x, t), ds, h=1e-4)[0], 1e-8)
    g = RNG.normal(size=np.shape(y))
    assert np.isclose(sum(np.vdot(a, d) for a, d in zip(vjp(f, x, t)[1](g), ds, strict=True)), np.vdot(g, dy), rtol=1e-12)
    each = loss(x, t, reduction="none")
    assert each.shape == ((3,) if loss is ops.cross_entropy else (3, 4))
    near(y, {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction], 1e-14)


def test_the_hessian_of_cross_entropy():
    z = RNG.normal(size=5)
    p = np.exp(z) / np.exp(z).sum()
    for t in (3, RNG.dirichlet(np.ones(5))):
        near(hessian(lambda z: ops.cross_entropy(z, t))(z), np.diag(p) - np.outer(p, p), 1e-14)  # noqa: B023
    near(hessian(lambda z: ops.logistic_loss(z, 1))(np.array(0.7)), np.exp(0.7) / (1 + np.exp(0.7)) ** 2, 1e-15)


def test_a_class_ruled_out():
    z = np.array([[0.0, -np.inf, 1.0]])
    value, slope = value_and_grad(lambda z: ops.cross_entropy(z, [2]))(z)
    assert np.isclose(value, np.log1p(np.exp(-1))) and slope[0, 1] == 0 and np.isfinite(slope).all()
    assert ops.cross_entropy(z, [1]) == np.inf
    assert grad(lambda z: ops.cross_entropy(z, [1]))(z)[0, 1] == -1


def test_rows_to_ignore():
    z, labels = RNG.normal(size=(4, 3)), np.array([0, -100, 2, -100])
    kept = [0, 2]
    value, slope = value_and_grad(lambda z: ops.cross_entropy(z, labels, ignore_index=-100, label_smoothing=0.1))(z)
    near(value, ops.cross_entropy(z[kept], labels[kept], label_smoothing=0.1), 1e-15)
    assert not slope[[1, 3]].any() and slope[kept].all()
    assert ops.cross_entropy(z, np.full(4, -100), ignore_index=-100) == 0
    near(ops.cross_entropy(z, labels, ignore_index=-100, reduction="none")[[1, 3]], np.zeros(2), 0)


@pytest.mark.parametrize("shape", [(2, 3, 4), (4,), (1, 1), (0, 3), (0, 0)], ids=str)
def test_shapes(shape):
    z = RNG.normal(size=shape)
    labels = RNG.integers(0, shape[-1], shape[:-1]) if z.size else np.zeros(shape[:-1], int)
    value, slope = value_and_grad(lambda z: ops.cross_entropy(z, labels))(z)
    assert value.shape == () and slope.shape == shape
    assert ops.cross_entropy(z, labels, reduction="none").shape == shape[:-1]
    if not z.size:
        assert value == 0


@pytest.mark.parametrize("loss", NUMERIC + [ops.logistic_loss])
def test_no_elements_have_mean_zero(loss):
    value, slope = value_and_grad(lambda x: loss(x, np.zeros((0, 2))))(np.zeros((0, 2)))
    assert value == 0 and slope.shape == (0, 2)


@pytest.mark.parametrize("loss", NUMERIC + [ops.logistic_loss])
@pytest.mark.parametrize("t", [np.array([0, 1]), np.array([False, True]), 1, 0.5, np.float32([0, 1])], ids=repr)
def test_targets_keep_single_precision(loss, t):
    value, slope = value_and_grad(lambda x: loss(x, t))(np.float32([0.3, -2]))
    assert value.dtype == slope.dtype == np.float32
    labels = np.array([0, 1])
    for target in (labels, np.eye(2), np.eye(2, dtype=int)):
        assert ops.cross_entropy(np.eye(2, dtype=np.float32), target, label_smoothing=0.1).dtype == np.float32


def test_inputs_are_left_alone():
    z, t = RNG.normal(size=(3, 4)), RNG.uniform(size=(3, 4))
    z0, t0 = z.copy(), t.copy()
    z.flags.writeable = t.flags.writeable = False
    for loss in (*NUMERIC, ops.logistic_loss, ops.cross_entropy):
        grad(loss, argnums=(0, 1))(z, t)
    assert np.array_equal(z, z0) and np.array_equal(t, t0)


@pytest.mark.parametrize("call, kind, says", [
    (lambda: ops.squared_error(np.ones((3, 1)), np.ones(3)), ShapeError,
     r"squared_error: prediction and target differ in shape; .*\n  wants  x and t of one shape\n  given  x: \(3, 1\)  t: \(3,\)"),
    (lambda: ops.logistic_loss(np.ones(2), [-1, 1]), ValueError, r"t\[0\] is -1.0; for labels -1 and 1 write \(t \+ 1\) / 2"),
    (lambda: ops.logistic_loss(np.ones((1, 2)), [[0.5, 1.5]]), ValueError, r"probabilities between; t\[0, 1\] is 1.5$"),
    (lambda: ops.logistic_loss(np.ones(2), [0, np.nan]), ValueError, r"t\[1\] is nan"),
    (lambda: ops.cross_entropy(np.ones((2, 3)), [1, 7]), ValueError, r"cross_entropy: t\[1\] is 7, there are 3 classes, 0 to 2$"),
    (lambda: ops.cross_entropy(np.ones((3, 3)), [1, 2, 3]), ValueError, "they seem to start at 1: subtract 1"),
    (lambda: ops.cross_entropy(np.ones((2, 3)), [0, -1]), ValueError, r"t\[1\] is -1, there are 3 classes"),
    (lambda: ops.cross_entropy(np.ones(3), 3), ValueError, "t is 3, there are 3 classes"),
    (lambda: ops.cross_entropy(np.ones((2, 3)), [0.0, 1.0]), TypeError, r"labels are integers, these are float64; .*t.astype\(int\)"),
    (lambda: ops.cross_entropy(np.ones((2, 3)), [0, 1, 2]), ShapeError, r"wants  .*\n  given  z: \(2, 3\)  t: \(3,\)"),
    (lambda: ops.cross_entropy(1.0, 0), ShapeError, "labels are one for each row"),
    (lambda: ops.cross_entropy(np.ones((2, 3)), [0, 1], label_smoothing=1.5), ValueError, "label_smoothing is between 0 and 1, not 1.5"),
    (lambda: ops.huber(np.ones(2), 0, delta=0.0), ValueError, "delta is where the parabola ends, a positive number, not 0.0"),
    (lambda: ops.squared_error(1.0, 0, reduction="average"), ValueError, "reduction is \"mean\", \"sum\" or \"none\", not 'average'"),
])  # fmt: skip
def test_messages(call, kind, says):
    with pytest.raises(kind, match=says):
        call()
