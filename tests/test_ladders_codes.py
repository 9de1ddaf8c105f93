"""Requantisation, alone and behind a product, on every tier; and rungs that requantise otherwise are caught."""

import numpy as np
import pytest
from alone import on_tier
from large_cases import LARGE
from laws_of_rungs import agrees

import kernels
from engine.ops.requantisation import RESCALE, drawn
from engine.traced import OPS
from kernels.registry import Rung

CODES = """
    import numpy as np
    import engine, kernels
    from engine.ops.requantisation import RESCALE, drawn
    from engine.traced import OPS
    rng = np.random.default_rng(0)

    def agrees(op, args, params):
        want, got = OPS[op].definition(*args, **params), kernels.serving(op, "cpu")(*args, **params)
        assert want.dtype == got.dtype and np.array_equal(want, got), (op, params)

    for rule in RESCALE:
        for shape, pool in [((9, 45), 1), ((2, 3, 7, 9), 1), ((2, 3, 9, 43), 2), ((2, 2, 10, 11), 3), ((2, 3, 1, 1), 2), ((2, 300), 1)]:
            for dtype in ("uint8", "int8"):
                args, params = drawn(rng, shape, rule, dtype=dtype, zero_point=3, pool=pool)
                agrees("requantise", args, params)
        (_, *by), to = drawn(rng, (0, 5), rule, dtype="uint8", zero_point=3, pool=2)
        x, w = rng.integers(0, 256, (3, 4, 9, 10)).astype(np.uint8), rng.integers(-128, 128, (5, 4, 3, 3)).astype(np.int8)
        agrees("conv2d_codes", [x, w, *by], {"padding": 1, "x_zero_point": 7, **to})
        del to["pool"]
        agrees("matmul_codes", [x.reshape(27, 40), rng.integers(-128, 128, (40, 5)).astype(np.int8), *by], to)
"""


@pytest.mark.parametrize("tier", ["generic", "avx2", "avx512", "amx"])
def test_each_tier_has_the_codes_of_the_definition(tier):
    on_tier(tier, CODES)


@pytest.mark.parametrize("op", ["requantise", "conv2d_codes", "matmul_codes"])
def test_codes_are_written_where_they_are_told(op):
    (args, params), rung = LARGE[op][0](np.random.default_rng(0)), kernels.serving(op, "cpu")
    want = rung(*args, **params)
    out = np.empty_like(want)
    assert rung(*args, out=out, **params) is out
    np.testing.assert_array_equal(out, want)
    with pytest.raises(ValueError, match="out is a NumPy array"):
        rung(*args, out=np.empty(3), **params)


@pytest.mark.parametrize("op", ["requantise", "conv2d_codes", "matmul_codes"])
def test_codes_and_rules_that_are_not_there_are_refused(op):
    (args, params), rung = LARGE[op][0](np.random.default_rng(0)), kernels.serving(op, "cpu")
    with pytest.raises(ValueError, match=r"no rule 'nearest'; there are fp32, q31-double"):
        rung(*args, **{**params, "rule": "nearest"})
    with pytest.raises(ValueError, match="int8 holds -128 to 127"):
        rung(*args, **{**params, "dtype": "int8", "high": 128})
    with kernels.use("cpu"), pytest.raises(ValueError, match=f"{op}.*there is no rule 'nearest'"):
        OPS[op](*args, **{**params, "rule": "nearest"})


def test_few_pictures_at_a_time_are_all_pictures(monkeypatch):
    from kernels.cpu import codes

    (args, params), conv = LARGE["conv2d_codes"][0](np.random.default_rng(0)), kernels.serving("conv2d_codes", "cpu")
    want = conv(*args, **params)
    for near in (1, 1 << 20, 1 << 30):
        monkeypatch.setattr(codes, "NEAR", near)
        np.testing.assert_array_equal(conv(*args, **params), want)


# Tests of the tests.

requantise = OPS["requantise"].definition


def rounds_once(*args, rule, **params):
    return requantise(*args, rule="rndnu" if rule == "fp32" else rule, **params)


def rounds_by_the_other_of_q31(*args, rule, **params):
    return requantise(*args, rule="q31-single" if rule == "q31-double" else rule, **params)


def forgets_the_bias(sums, bias, *by, **params):
    return requantise(sums, bias * 0, *by, **params)


def has_one_multiplier(sums, bias, mantissa, shift, **params):
    return requantise(sums, bias, mantissa * 0 + mantissa[:1], shift * 0 + shift[:1], **params)


def wraps_around(*args, low, high, dtype, **params):
    return requantise(*args, low=-128, high=127, **{**params, "zero_point": 0}, dtype="int8").view(dtype)


def pools_the_last_one(sums, *by, pool, **params):
    p, q = (size // pool * pool for size in sums.shape[2:]) if sums.ndim == 4 else (0, 0)
    return requantise(sums if pool == 1 else sums[:, :, pool - 1 : p : pool, pool - 1 : q : pool], *by, pool=1, **params)


WRONG = [rounds_once, rounds_by_the_other_of_q31, forgets_the_bias, has_one_multiplier, wraps_around, pools_the_last_one]


@pytest.mark.parametrize("run", [requantise, *WRONG])
def test_a_rung_that_requantises_otherwise_is_caught(run):
    exact = {"int32 int32 int64 int64": 0.0}
    rung = Rung("requantise", "cpu", 1, "as it is told", True, exact, (), run)
    rng, caught = np.random.default_rng(0), 0
    for rule in RESCALE:
        args, params = drawn(rng, (40, 7, 20, 20), rule, dtype="uint8", zero_point=5, pool=2)
        try:
            agrees(rung, *exact, args, params)
        except AssertionError:
            caught += 1
    assert (caught == 0) == (run is requantise)
