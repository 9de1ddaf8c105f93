r"""Observers: which range of numbers is worth its codes, from batch after batch of them.

    observer = Percentile(99.9)
    for x in batches:
        observer.update(x)
    low, high = observer.range()                # for `choose_grid`
    per_channel = PerChannel(MinMax, axis=1)    # low and high are arrays, one number for each channel

A wide range has wide steps, a narrow one clips. MinMax clips nothing. MovingAverage levels the extremes of single batches. The others keep
a histogram: Percentile clips a share of the numbers, MSE as many as make the squared error smallest, Entropy as many as leave the
distribution most like itself. All but MovingAverage have the same range for the same numbers, whatever the batches and their order.

Each raises NotFinite, with the place, for a number that is not, ValueError for the range of no numbers, TypeError for what is not floats.
What is refused leaves no trace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from engine import ops
from engine.quantise.numbers import Scheme, check_numbers, choose_grid

Ends = tuple[Any, Any]

EMPTY = 1e-4  # what an empty bin counts, where a logarithm is taken


class Observer(ABC):
    """Sees arrays, and says which range they have. `seen` is how many numbers it saw."""

    seen = 0

    def update(self, x: Any) -> None:
        """See one more array, of any shape; one without numbers tells nothing."""
        x = np.asarray(x)
        if x.size:
            check_numbers(x)
            self._see(x)
            self.seen += x.size

    def range(self) -> Ends:
        """The lowest and the highest number to be kept."""
        if not self.seen:
            raise ValueError("no numbers were seen: show the observer a batch before asking for a range")
        return self._range()

    @abstractmethod
    def _see(self, x: np.ndarray) -> None: ...

    @abstractmethod
    def _range(self) -> Ends: ...


class MinMax(Observer):
    """The smallest and the largest number."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def _see(self, x: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))

    def _range(self) -> Ends:
        return self.low, self.high


class MovingAverage(Observer):
    r"""$m_t = d\, m_{t-1} + (1 - d) \min x_t$ from $m_0 = 0$, over $1 - d^t$; the same of the maxima

    decay   d, from 0 (the last batch alone) to below 1 (in the limit the mean over batches)

    The division makes it a mean of the batches seen, however few: PyTorch begins with the first one instead, which then outweighs the
    others.
    Source: Jacob et al. (2018), Quantization and training of neural networks for efficient integer-arithmetic-only inference, sec. 3.1;
    the division is that of Kingma & Ba (2015), Adam: a method for stochastic optimization, sec. 3.
    """

    def __init__(self, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"the decay is from 0 to below 1, not {decay}")
        self.decay = decay
        self.low = self.high = self.weight = 0.0

    def _see(self, x: np.ndarray) -> None:
        new = 1 - self.decay
        self.low = self.decay * self.low + new * float(x.min())
        self.high = self.decay * self.high + new * float(x.max())
        self.weight = self.decay * self.weight + new

    def _range(self) -> Ends:
        return self.low / self.weight, self.high / self.weight


class Histogram:
    """Counts of numbers in bins of equal width, for any range.

    bins   at least so many, and at most twice so many, between 0 and the number farthest from it

    The width is a power of two and 0 an edge, so that bins of a wider range are pairs of these: no count is ever split or lost, and the
    same numbers have the same counts, however they came in batches.
    """

    def __init__(self, bins: int = 2048):
        if bins < 1:
            raise ValueError(f"a histogram has 1 bin or more, not {bins}")
        self.bins = bins
        self.exponent = -1100  # of the width; of zeros alone any will do, and this is below all
        self.counts = np.zeros(4 * bins, np.int64)  # the bin that starts at 0 is in the middle
        self.low, self.high = np.inf, -np.inf

    def add(self, x: np.ndarray) -> None:
        """Count these, which are finite."""
        x = x.astype(np.float64).reshape(-1)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        farthest, power = np.frexp(max(-self.low, self.high))
        if farthest > 0:
            self._widen(int(power + np.frexp(farthest / self.bins)[1] - 1))
        places = np.floor(np.ldexp(x, -self.exponent)).astype(np.int64)
        self.counts += np.bincount(places + 2 * self.bins, minlength=4 * self.bins)

    def edges(self) -> np.ndarray:
        """The left edge of each bin, and the right one of the last."""
        edges: np.ndarray = np.ldexp(np.arange(-2.0 * self.bins, 2 * self.bins + 1), self.exponent)
        return edges

    def sizes(self) -> np.ndarray:
        """The counts by size, without the sign, up to the last bin that has any."""
        middle = 2 * self.bins
        both = self.counts[middle:] + self.counts[:middle][::-1]
        return both[: np.flatnonzero(both)[-1] + 1]

    @property
    def width(self) -> float:
        """That of a bin."""
        return float(np.ldexp(1.0, self.exponent))

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            places = np.arange(-2 * self.bins, 2 * self.bins) >> min(exponent - self.exponent, 62)
            counts = np.zeros_like(self.counts)
            np.add.at(counts, places + 2 * self.bins, self.counts)
            self.counts, self.exponent = counts, exponent


class OfHistogram(Observer):
    """An observer that keeps a histogram."""

    def __init__(self, bins: int):
        self.histogram = Histogram(bins)

    def _see(self, x: np.ndarray) -> None:
        self.histogram.add(x)


class Percentile(OfHistogram):
    """Without the (100 - percent) / 2 % of the numbers that are lowest, and as many that are highest; exact but for the width of a bin.

    percent   above 0, up to 100, which is MinMax
    Source: Wu, Judd, Zhang, Isaev & Micikevicius (2020), Integer quantization for deep learning inference: principles and empirical
    evaluation, where 99.9 to 99.9999 are compared.
    """

    def __init__(self, percent: float = 99.99, *, bins: int = 2048):
        if not 0 < percent <= 100:
            raise ValueError(f"the percentage is above 0 and up to 100, not {percent}")
        super().__init__(bins)
        self.percent = percent

    def _range(self) -> Ends:
        h = self.histogram
        upto, edges = np.cumsum(h.counts), h.edges()
        cut = self.seen * (1 - self.percent / 100) / 2
        low = edges[np.searchsorted(upto, cut, side="right")]
        high = edges[np.searchsorted(upto, self.seen - cut, side="left") + 1]
        return max(h.low, float(low)), min(h.high, float(high))


class MSE(OfHistogram):
    r"""$\min_{a, b} \sum_i c_i\, (\hat x_i - x_i)^2$ over the bins i, with the numbers $\hat x_i$ of the grid of the range from a to b

    scheme      for whose grid; a symmetric one has one end to search for, an affine one two
    fractions   so many fractions of the extremes are tried: both ends at one size, and of an affine grid in turns, until neither gains

    The ends enclose 0, as grids do.
    Source: for one end Choukroun, Kravchik, Yang & Kisilev (2019), Low-bit quantization of neural networks for efficient inference; a
    search like that of PyTorch's HistogramObserver.
    """

    def __init__(self, scheme: Scheme, *, fractions: int = 128, bins: int = 2048):
        super().__init__(bins)
        self.scheme = replace(scheme, axis=None, group=None)
        self.fractions = np.arange(fractions, 0, -1) / fractions

    def _range(self) -> Ends:
        h, f = self.histogram, self.fractions
        a, b = min(h.low, 0.0), max(h.high, 0.0)
        t = f * max(-a, b)
        low, high = self._best(np.maximum(a, -t), np.minimum(b, t))
        before = None
        while not self.scheme.symmetric and before != (low, high):
            before = low, high
            low, _ = self._best(f * a, np.full_like(f, high))
            _, high = self._best(np.full_like(f, low), f * b)
        return low, high

    def _best(self, lows: np.ndarray, highs: np.ndarray) -> Ends:
        """Of several ranges the one with the smallest error, the first of equal ones."""
        h, scheme = self.histogram, self.scheme
        filled = np.flatnonzero(h.counts)
        x = (h.edges()[filled] + h.width / 2)[:, None]
        grid = choose_grid(lows, highs, scheme, dtype=np.float64)
        y = ops.fake_quant(x, grid.scale, grid.zero_point, low=scheme.lowest, high=scheme.highest)
        i = int(np.argmin(h.counts[filled] @ np.square(y - x)))
        return float(lows[i]), float(highs[i])


class Entropy(OfHistogram):
    r"""$\min_t D(P_t \,\|\, Q_t), \; D = \sum_i p_i \ln (p_i / q_i)$: what the codes lose of the distribution P of sizes |x| up to t, Q

    P has the counts of the bins up to t, and in the last one all that is larger too. Q has that many levels instead: each is some bins, and
    its numbers, without the larger ones, are spread evenly over those of its bins that are not empty in P. Of both an empty bin counts a
    little. The range is what [min, max] and [-t, t] have in common, and 0.

    levels   of sizes; 128 for 8 bits with a sign
    bins     between 0 and the largest size. With as few of them as levels Q would be P, and the range MinMax's: ONNX Runtime's default
             (its issue 10261). Thresholds are tried from `levels` bins up, the bins / 256-th ones

    Zeros are not counted: they have a code whatever the range, and the many that relu makes would draw t towards them.
    Source: Migacz (2017), 8-bit inference with TensorRT, GPU Technology Conference, the slides on calibration.
    """

    def __init__(self, levels: int = 128, *, bins: int = 2048):
        if not 1 <= levels <= bins // 2:
            raise ValueError(f"there are twice as many bins as levels, or more; given are bins={bins}, levels={levels}")
        super().__init__(bins)
        self.levels = levels

    def _see(self, x: np.ndarray) -> None:
        some = x[x != 0]
        if some.size:
            super()._see(some)

    def _range(self) -> Ends:
        h = self.histogram
        if not h.counts.any():
            return 0.0, 0.0
        sizes = h.sizes()
        tried = np.append(np.arange(self.levels, len(sizes), max(h.bins // 256, 1)), len(sizes))
        t = h.width * float(tried[int(np.argmin([self._divergence(sizes, end) for end in tried]))])
        return max(min(h.low, 0.0), -t), min(max(h.high, 0.0), t)

    def _divergence(self, sizes: np.ndarray, end: int) -> float:
        """D for the threshold behind so many bins."""
        inside = sizes[:end]
        p = inside.astype(np.float64)
        p[-1] += sizes[end:].sum()
        filled = p > 0
        level = np.arange(end) * self.levels // end
        each = np.bincount(level, inside) / np.maximum(np.bincount(level, filled), 1)
        p, q = _smooth(p), _smooth(each[level] * filled)
        return float(np.sum(p * np.log(p / q)))


def _smooth(counts: np.ndarray) -> np.ndarray:
    """Shares, none of them 0."""
    counts = np.where(counts > 0, counts, EMPTY)
    shares: np.ndarray = counts / counts.sum()
    return shares


class PerChannel(Observer):
    """An observer of its own for each index along an axis; the ends of the range are arrays.

    make   called without arguments, gives an observer
    Raises ValueError for an array with other channels than the first.
    """

    def __init__(self, make: Callable[[], Observer], axis: int):
        self.make, self.axis = make, axis
        self.observers: list[Observer] = []

    def _see(self, x: np.ndarray) -> None:
        channels = np.moveaxis(x, self.axis, 0)
        self.observers = self.observers or [self.make() for _ in channels]
        if len(channels) != len(self.observers):
            raise ValueError(f"there were {len(self.observers)} channels along axis {self.axis}, and now there are {len(channels)}")
        for observer, channel in zip(self.observers, channels, strict=True):
            observer.update(channel)

    def _range(self) -> Ends:
        low, high = zip(*(observer.range() for observer in self.observers), strict=True)
        return np.array(low), np.array(high)
