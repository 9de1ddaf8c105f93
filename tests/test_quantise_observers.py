"""Observers: what each keeps is what it says, no count is lost, the order of batches does not matter, and the entropy one clips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.quantise.numbers import Scheme, choose_grid, dequantise, fake_quant, grid_of, quantise
from engine.quantise.observers import MSE, Entropy, Histogram, MinMax, MovingAverage, Percentile, PerChannel

AFFINE = Scheme(signed=False, symmetric=False)
MAKES = {
    "minmax": MinMax, "average": MovingAverage, "percentile": lambda: Percentile(99), "mse": lambda: MSE(Scheme(4)),
    "mse affine": lambda: MSE(AFFINE), "entropy": Entropy,
}  # fmt: skip
seeds = st.integers(0, 2**32 - 1)


def seen(observer, *batches):
    for batch in batches:
        observer.update(batch)
    return observer.range()


def heavy(seed, n=20_000, dtype=np.float32):
    return np.random.default_rng(seed).standard_t(2.5, n).astype(dtype)


# Histograms.


def counted(x, exponent, bins):
    """The counts of all numbers at once, by NumPy."""
    return np.histogram(x, np.ldexp(np.arange(-2.0 * bins, 2 * bins + 1), exponent))[0]


def law_of_counts(histogram, batches):
    for batch in batches:
        histogram.add(batch)
    whole = np.concatenate(batches)
    assert histogram.counts.sum() == len(whole)
    np.testing.assert_array_equal(histogram.counts, counted(whole, histogram.exponent, histogram.bins))
    farthest = np.abs(whole).max()
    assert histogram.bins <= farthest / histogram.width < 2 * histogram.bins
    assert (histogram.low, histogram.high) == (whole.min(), whole.max())


def growing(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-6, 6, 5)
    return [(size * rng.normal(size=rng.integers(1, 60))).astype(dtype) for size in sizes]


@given(seeds, st.sampled_from([1, 5, 64, 2048]), st.sampled_from([np.float32, np.float64]))
def test_no_count_is_lost_while_the_range_grows(seed, bins, dtype):
    law_of_counts(Histogram(bins), growing(seed, dtype))


class Restarting(Histogram):
    """Wrong: a wider range begins anew."""

    def _widen(self, exponent):
        if exponent > self.exponent:
            self.counts, self.exponent = np.zeros_like(self.counts), exponent


class Halving(Histogram):
    """Wrong: of a pair of bins, towards zero instead of down."""

    def _widen(self, exponent):
        if exponent > self.exponent:
            by = min(exponent - self.exponent, 62)
            places, counts = np.arange(-2 * self.bins, 2 * self.bins), np.zeros_like(self.counts)
            np.add.at(counts, np.trunc(places / 2.0**by).astype(int) + 2 * self.bins, self.counts)
            self.counts, self.exponent = counts, exponent


@pytest.mark.parametrize("broken", [Restarting, Halving])
def test_lost_counts_break_the_law(broken):
    with pytest.raises(AssertionError):
        for seed in range(20):
            law_of_counts(broken(64), growing(seed))


@pytest.mark.parametrize("x", [[0.0, 0.0], [5e-324], [-5e-324, 1e-310], [1e308, -1.7e308], [1.0, 2.0, 4.0], [-1.0]])
def test_numbers_of_any_size_are_counted(x):
    h = Histogram(4)
    h.add(np.zeros(3))
    h.add(np.array(x))
    assert h.counts.sum() == 3 + len(x)


def test_sizes_have_both_signs():
    h = Histogram(2)
    h.add(np.array([-1.5, 0.1, -0.1, 0.6, 1.9, -1.2]))
    assert h.width == 0.5 and h.sizes().tolist() == [2, 1, 2, 1]


# What each keeps.


@pytest.mark.parametrize("name", [name for name in MAKES if name != "average"])
@given(seed=seeds)
@settings(max_examples=15)
def test_batches_in_any_order_have_one_range(name, seed):
    batches = growing(seed)
    want = seen(MAKES[name](), np.concatenate(batches))
    assert seen(MAKES[name](), *batches) == seen(MAKES[name](), *reversed(batches)) == want


@pytest.mark.parametrize("name", MAKES)
def test_a_range_is_part_of_what_was_seen(name):
    x = heavy(1)
    low, high = seen(MAKES[name](), *np.split(x, 10))
    assert x.min() <= low <= 0 <= high <= x.max()
    assert type(low) is type(high) is float
    again = seen(MAKES[name](), *[b.reshape(20, 10, 10)[:, ::-1].T for b in np.split(x, 10)])
    assert again == (low, high)


def test_minmax_is_the_extent():
    x = heavy(2, dtype=np.float64)
    assert seen(MinMax(), x[:5], x[5:]) == (x.min(), x.max())


def law_of_averages(make):
    batches = [heavy(seed, 100, np.float64) for seed in range(7)]
    for decay in (0.0, 0.9, 0.999):
        weights = decay ** np.arange(6, -1, -1.0)
        low, high = seen(make(decay), *batches)
        assert low == pytest.approx(np.average([b.min() for b in batches], weights=weights))
        assert high == pytest.approx(np.average([b.max() for b in batches], weights=weights))


class FromTheFirst(MovingAverage):
    """Wrong: the first batch has the weight of all that came before it."""

    def _see(self, x):
        super()._see(x)
        if not self.seen:
            self.low, self.high, self.weight = float(x.min()), float(x.max()), 1.0


def test_a_moving_average_is_one_of_the_batches():
    law_of_averages(MovingAverage)
    with pytest.raises(AssertionError):
        law_of_averages(FromTheFirst)


@given(seeds, st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0]))
def test_percentiles_are_those_of_the_numbers(seed, percent):
    x = heavy(seed, 3000, np.float64)
    observer = Percentile(percent)
    low, high = seen(observer, x)
    cut = (100 - percent) / 2
    near = observer.histogram.width
    assert np.percentile(x, cut, method="inverted_cdf") - near <= low <= np.percentile(x, cut, method="higher") + near
    assert np.percentile(x, 100 - cut, method="lower") - near <= high <= np.percentile(x, 100 - cut, method="higher") + near
    if percent == 100:
        assert (low, high) == (x.min(), x.max())


def error_of(x, bounds, scheme):
    return np.mean(np.square(fake_quant(x, choose_grid(*bounds, scheme, dtype=x.dtype)) - x, dtype=np.float64))


FOUR = Scheme(4, signed=False, symmetric=False)


KINDS = {
    "heavy": heavy(3, dtype=np.float64), "even": np.random.default_rng(3).uniform(-1, 1, 20_000), "one side": np.maximum(heavy(4), 0),
    "shifted": np.random.default_rng(3).normal(2.0, 1.0, 20_000), "outlier": np.append(np.random.default_rng(3).normal(size=20_000), 8.0),
}  # fmt: skip


def law_of_squared_errors(make, scheme, x):
    """No other clipping of 25 (25 squared, of two ends) is better by more than bins and fractions explain."""
    found = error_of(x, seen(make(scheme), x), scheme)
    ends = np.linspace(0.05, 1, 25)
    ratios = np.geomspace(0.1, 10, 25) if not scheme.symmetric else [1.0]
    best = min(error_of(x, (min(x.min(), 0) * min(f * g, 1), max(x.max(), 0) * f), scheme) for f in ends for g in ratios)
    assert found <= 1.02 * best
    assert found <= error_of(x, (x.min(), x.max()), scheme) * (1 + 1e-3)


@pytest.mark.parametrize("scheme", [Scheme(4), FOUR, Scheme(), AFFINE], ids=["4", "4 affine", "8", "8 affine"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_other_clipping_has_a_smaller_squared_error(scheme, kind):
    law_of_squared_errors(MSE, scheme, KINDS[kind])


def test_heavy_tails_are_worth_clipping():
    for scheme in (Scheme(4), FOUR):
        x = KINDS["heavy"]
        assert error_of(x, seen(MSE(scheme), x), scheme) < 0.4 * error_of(x, (x.min(), x.max()), scheme)


class OneEnd(MSE):
    """Wrong: both ends are clipped at one size."""

    def _range(self):
        scheme, self.scheme = self.scheme, Scheme(self.scheme.bits)
        both = super()._range()
        self.scheme = scheme
        return both


class Middle(MSE):
    """Wrong: each bin counts once, however many numbers are in it."""

    def _range(self):
        self.histogram.counts = np.minimum(self.histogram.counts, 1)
        return super()._range()


@pytest.mark.parametrize(
    "broken, kind, scheme", [(OneEnd, "outlier", FOUR), (Middle, "heavy", Scheme(4)), (lambda _: MinMax(), "heavy", FOUR)]
)
def test_other_clippings_break_the_law(broken, kind, scheme):
    with pytest.raises(AssertionError):
        law_of_squared_errors(broken, scheme, KINDS[kind])


# Entropy.


def onnx_runtime_s(x, bins):
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    options = {"num_quantized_bins": 128, "percentile": 99.99, "scenario": "same"}
    collector = calibrate.HistogramCollector(method="entropy", symmetric=False, num_bins=bins, **options)
    collector.collect({"x": [x]})
    return tuple(float(end) for end in collector.compute_collection_result()["x"][:2])


def test_entropy_clips_heavy_tails_and_onnx_runtime_s_default_does_not():
    x = np.random.default_rng(0).standard_t(3, 100_000).astype(np.float32)
    low, high = seen(Entropy(), x)
    assert 0.1 * x.max() < high < 0.6 * x.max() and low == -high
    inside = np.abs(x) < high
    assert 0.999 < inside.mean() < 1
    step = [choose_grid(*ends, Scheme()).scale for ends in [(low, high), (x.min(), x.max())]]
    assert step[0] < 0.6 * step[1]


def test_onnx_runtime_s_default_is_minmax():
    pytest.importorskip("onnx")
    x = np.random.default_rng(0).standard_t(3, 100_000).astype(np.float32)
    assert onnx_runtime_s(x, 128) == pytest.approx((x.min(), x.max()))
    finer = onnx_runtime_s(x, 2048)  # with as many bins as ours it clips, and nearly where ours does
    assert finer[1] == pytest.approx(seen(Entropy(), x)[1], rel=0.1)


def divergence(x, t, levels=128, width=None):
    """D as defined, loop by loop."""
    size = np.abs(x[x != 0])
    bins = round(t / width)
    counts = np.bincount(np.floor(size / width).astype(int), minlength=bins)
    p = counts[:bins].astype(float)
    p[-1] += counts[bins:].sum()
    q = np.zeros(bins)
    for level in range(levels):
        mine = [i for i in range(bins) if i * levels // bins == level and p[i] > 0]
        for i in mine:
            q[i] = sum(counts[i] for i in mine) / len(mine)
    p, q = (np.where(d > 0, d, 1e-4) / np.where(d > 0, d, 1e-4).sum() for d in (p, q))
    return sum(p * np.log(p / q))


def law_of_divergence(observer, x):
    _, high = seen(observer, x)
    width = observer.histogram.width
    found = divergence(x, high, width=width)
    for bins in range(128, len(observer.histogram.sizes()), 97):
        assert found <= divergence(x, bins * width, width=width) + 1e-3


class WithoutTheLarger(Entropy):
    """Wrong: what is clipped is in neither distribution, so that the smallest threshold loses nothing."""

    def _divergence(self, sizes, end):
        return super()._divergence(sizes[:end], end)


class LargerInBoth(Entropy):
    """Wrong: what is clipped is in both."""

    def _divergence(self, sizes, end):
        sizes = sizes.copy()
        sizes[end - 1] += sizes[end:].sum()
        return super()._divergence(sizes[:end], end)


def test_no_threshold_has_a_smaller_divergence():
    x = heavy(5, 5000, np.float64)
    law_of_divergence(Entropy(), x)
    for broken in (WithoutTheLarger, LargerInBoth):
        with pytest.raises(AssertionError):
            law_of_divergence(broken(), x)


def test_even_numbers_are_hardly_clipped_and_zeros_do_not_count():
    rng = np.random.default_rng(6)
    x = rng.uniform(-1, 1, 50_000)
    assert seen(Entropy(), x)[1] > 0.9
    y = np.maximum(heavy(7), 0)
    assert seen(Entropy(), y) == seen(Entropy(), y, np.zeros(10**6))
    assert seen(Entropy(), y)[0] == 0
    assert seen(Entropy(), np.zeros(9)) == (0, 0)


# All of them.


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("value", [0.0, 3.0, -0.01, 1e-40])
@pytest.mark.parametrize("scheme", [Scheme(), AFFINE], ids=["symmetric", "affine"])
def test_a_constant_has_a_usable_scale(name, value, scheme):
    x = np.full((5, 5), value)
    grid = choose_grid(*seen(MAKES[name](), x, x), scheme)
    assert np.isfinite(grid.scale) and grid.scale > 0
    np.testing.assert_allclose(dequantise(quantise(x, grid), grid), x, rtol=0.01, atol=1e-38)


@pytest.mark.parametrize("name", MAKES)
def test_each_channel_is_observed_alone(name):
    batches = [heavy(seed, 600).reshape(4, 3, 50) * [[1.0], [10.0], [0.1]] for seed in range(3)]
    for axis in (1, -2, 0):
        low, high = seen(PerChannel(MAKES[name], axis), *batches)
        for c in range(batches[0].shape[axis]):
            assert (low[c], high[c]) == seen(MAKES[name](), *[b.take(c, axis) for b in batches])
    low, high = seen(PerChannel(MinMax, 1), *batches)
    x = np.concatenate(batches)
    scheme = Scheme(axis=1)
    np.testing.assert_array_equal(choose_grid(low, high, scheme, dtype=np.float64).scale, grid_of(x, scheme).scale)


@pytest.mark.parametrize("name", [*MAKES, "channels"])
def test_what_is_refused_and_what_is_left_out(name):
    observer = MAKES[name]() if name in MAKES else PerChannel(MinMax, 0)
    observer.update(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="no numbers were seen: show the observer a batch"):
        observer.range()
    observer.update(np.ones((2, 3)))
    before = observer.range()
    for bad, told in [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")]:
        with pytest.raises(ValueError, match=rf"1 of 6 numbers are not finite, the first is {told} at \(1, 2\)"):
            observer.update(np.array([[1, 2, 3], [4, 5, bad]]))
    with pytest.raises(TypeError, match="floats are wanted, these numbers are int64"):
        observer.update(np.arange(3))
    np.testing.assert_array_equal(observer.range(), before)  # what was refused left no trace


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Percentile(0), "above 0 and up to 100, not 0"),
        (lambda: Percentile(101), "not 101"),
        (lambda: MovingAverage(1.0), "from 0 to below 1, not 1.0"),
        (lambda: Entropy(bins=128), "twice as many bins as levels, or more; given are bins=128, levels=128"),
        (lambda: Entropy(0), "levels=0"),
        (lambda: Histogram(0), "1 bin or more, not 0"),
        (lambda: seen(PerChannel(MinMax, 0), np.ones((2, 3)), np.ones((3, 3))), "were 2 channels along axis 0, and now there are 3"),
    ],
)
def test_what_cannot_be_asked_for(call, message):
    with pytest.raises(ValueError, match=message):
        call()
