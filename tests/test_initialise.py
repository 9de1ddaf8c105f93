"""Initialisers have the distribution that their source gives them."""

import math
from functools import partial

import numpy as np
import pytest

from engine import initialise as i

DENSE, CONV = (300, 200), (40, 30, 5, 3)  # fans: 300 and 200; 30 * 15 = 450 and 40 * 15 = 600
WANTED = [
    (i.glorot_uniform, DENSE, 2 / 500, "uniform"),
    (i.glorot_uniform, CONV, 2 / 1050, "uniform"),
    (partial(i.glorot_uniform, gain=3.0), DENSE, 9 * 2 / 500, "uniform"),
    (i.glorot_normal, CONV, 2 / 1050, "normal"),
    (i.he_normal, DENSE, 2 / 300, "normal"),
    (i.he_normal, CONV, 2 / 450, "normal"),
    (partial(i.he_normal, slope=0.5), CONV, 2 / (1.25 * 450), "normal"),
    (i.he_uniform, CONV, 2 / 450, "uniform"),
    (partial(i.he_uniform, slope=2.0), DENSE, 2 / (5 * 300), "uniform"),
    (i.lecun_normal, CONV, 1 / 450, "normal"),
    (i.lecun_uniform, DENSE, 1 / 300, "uniform"),
    (partial(i.normal, std=0.2), (9000,), 0.04, "normal"),
    (partial(i.uniform, bound=0.6), (9000,), 0.12, "uniform"),
]
FOURTH = {"uniform": 9 / 5, "normal": 3.0}  # E w^4 / (E w^2)^2 tells the two apart


@pytest.mark.parametrize("draw, shape, variance, kind", WANTED, ids=lambda v: getattr(v, "__name__", None))
def test_variance_and_kind(draw, shape, variance, kind):
    w = draw(np.random.default_rng(3), shape, np.float64)
    standard = math.sqrt(1 / w.size)
    assert w.shape == shape
    assert abs(w.mean()) < 4 * math.sqrt(variance) * standard
    assert np.mean(w**2) == pytest.approx(variance, rel=8 * standard)
    assert np.mean(w**4) / np.mean(w**2) ** 2 == pytest.approx(FOURTH[kind], rel=0.1)
    if kind == "uniform":
        assert np.abs(w).max() == pytest.approx(math.sqrt(3 * variance), rel=1e-2)
        assert np.abs(w).max() <= math.sqrt(3 * variance)


@pytest.mark.parametrize(
    "draw", [i.glorot_uniform, i.glorot_normal, i.he_normal, i.he_uniform, i.lecun_normal, i.lecun_uniform, i.orthogonal]
)
def test_one_seed_is_one_draw_in_both_precisions(draw):
    single, double = (draw(np.random.default_rng(3), (4, 3, 2, 2), dtype) for dtype in (np.float32, np.float64))
    assert single.dtype == np.float32 and double.dtype == np.float64 and single.flags.c_contiguous
    assert np.array_equal(single, double.astype(np.float32))
    assert not np.array_equal(double, draw(np.random.default_rng(4), (4, 3, 2, 2), np.float64))
    assert draw(np.random.default_rng(0), (0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match="no fan-in and fan-out"):
        draw(np.random.default_rng(0), (3,))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (3, 2, 2, 2), (9, 2, 2, 2), (1, 4)])
def test_orthogonal(shape):
    w = i.orthogonal(np.random.default_rng(0), shape, np.float64, gain=2.0).reshape(shape[0], -1)
    small = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    assert np.allclose(small, 4 * np.eye(len(small)))


def test_orthogonal_has_no_preferred_sign():
    firsts = [i.orthogonal(np.random.default_rng(seed), (2, 2), np.float64)[0, 0] for seed in range(400)]
    assert abs(np.mean(np.sign(firsts))) < 0.2 and np.mean(np.square(firsts)) == pytest.approx(0.5, abs=0.1)


def test_constants():
    rng = np.random.default_rng(0)
    assert not i.zeros(rng, (2, 3)).any() and np.all(i.ones(rng, (2,)) == 1) and np.all(i.constant(rng, (2,), value=0.5) == 0.5)
    assert i.xavier_uniform is i.glorot_uniform and i.kaiming_normal is i.he_normal


def test_signals_keep_their_size_through_twenty_layers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 256))
    for draw, f in [(i.he_normal, lambda z: np.maximum(z, 0)), (i.lecun_uniform, lambda z: z), (i.orthogonal, lambda z: z)]:
        y = x
        for _ in range(20):
            y = f(y @ draw(rng, (256, 256), np.float64))
        assert 0.3 < np.mean(y**2) / np.mean(f(x) ** 2) < 3, draw
