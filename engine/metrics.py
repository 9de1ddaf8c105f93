r"""How good a prediction is, and how sure one can be of the number.

Labels are integers or strings, one for each example; scores have one row for each example and one column for each class.
Every function returns a Python float unless it says otherwise, adds up in float64, changes no argument, and raises
ValueError for arrays that do not fit each other, are empty or hold nan.

    n      examples        TP, FP, FN    true positives, false positives, false negatives of a class
    t, y   truth and prediction          [.]  1 if it holds, else 0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

__all__ = [
    "accuracy", "confusion_matrix", "f1", "log_loss", "mae", "mcnemar", "mse", "precision", "r2", "recall", "roc_auc", "top_k_accuracy",
    "wilson_interval",
]  # fmt: skip

Labels = Sequence[Any] | np.ndarray


# Labels against labels.


def accuracy(truth: Any, predicted: Any) -> float:
    r"""$\frac{1}{n} \sum_i [t_i = y_i]$"""
    t, y = _labels(truth, predicted)
    return float(np.mean(t == y))


def confusion_matrix(truth: Any, predicted: Any, *, labels: Labels | None = None) -> np.ndarray:
    r"""$C_{ab} = \sum_i [t_i = a][y_i = b]$

    labels   what the rows and columns stand for, in this order; default: all that occur, sorted. Examples whose truth or
             prediction is not among them are not counted
    Returns int64, (len(labels), len(labels)). Raises ValueError if no truth is among the labels, or a label is there twice.
    """
    t, y = _labels(truth, predicted)
    known, order = _label_order(labels, t, y)
    if not np.isin(t, known).any():
        raise ValueError(f"none of the labels {_few(known)} occurs in the truth, which has {_few(np.unique(t))}")
    counted = np.isin(t, known) & np.isin(y, known)
    c = len(known)
    pairs = np.searchsorted(known, t[counted]) * c + np.searchsorted(known, y[counted])
    matrix = np.bincount(pairs, minlength=c * c).reshape(c, c)
    ordered: np.ndarray = matrix[np.ix_(order, order)].astype(np.int64)
    return ordered


def precision(
    truth: Any,
    predicted: Any,
    *,
    average: str | None = "binary",
    labels: Labels | None = None,
    positive: Any = 1,
    zero_division: float = 0.0,
) -> Any:
    r"""$\mathrm{TP} / (\mathrm{TP} + \mathrm{FP})$: of those called positive, how many are

    average         "binary": of the class `positive`, if there are two classes at most
                    "macro": the mean over the classes; "micro": of the sums of TP and FP over the classes
                    None: an array, one for each class
    labels          the classes that count, in this order; default: all that occur, sorted. Not used with "binary"
    zero_division   the value where the denominator is 0; with nan such a class is left out of the mean
    Source: van Rijsbergen (1979), Information retrieval, ch. 7; the averages: Yang (1999), sec. 3.
    """
    tp, called, _ = _counts(truth, predicted, average, labels, positive)
    return _average(tp, called, average, zero_division)


def recall(
    truth: Any,
    predicted: Any,
    *,
    average: str | None = "binary",
    labels: Labels | None = None,
    positive: Any = 1,
    zero_division: float = 0.0,
) -> Any:
    r"""$\mathrm{TP} / (\mathrm{TP} + \mathrm{FN})$: of those that are positive, how many were found

    Parameters as for `precision`.
    """
    tp, _, actual = _counts(truth, predicted, average, labels, positive)
    return _average(tp, actual, average, zero_division)


def f1(
    truth: Any,
    predicted: Any,
    *,
    average: str | None = "binary",
    labels: Labels | None = None,
    positive: Any = 1,
    zero_division: float = 0.0,
) -> Any:
    r"""$2\,\mathrm{TP} / (2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN})$: the harmonic mean of precision and recall

    Parameters as for `precision`. With "macro" it is the mean of the classes' F1, not the F1 of the means.
    Source: van Rijsbergen (1979), Information retrieval, ch. 7; Opitz & Burst (2019), Macro F1 and macro F1, on the two means.
    """
    tp, called, actual = _counts(truth, predicted, average, labels, positive)
    return _average(2 * tp, called + actual, average, zero_division)


# Numbers against numbers.


def mse(truth: Any, predicted: Any) -> float:
    r"""$\frac{1}{n} \sum_i (t_i - y_i)^2$, over columns too if there are several"""
    t, y = _numbers(truth, predicted)
    return float(np.mean((t - y) ** 2))


def mae(truth: Any, predicted: Any) -> float:
    r"""$\frac{1}{n} \sum_i |t_i - y_i|$, over columns too if there are several"""
    t, y = _numbers(truth, predicted)
    return float(np.mean(np.abs(t - y)))


def r2(truth: Any, predicted: Any) -> float:
    r"""$1 - \sum_i (t_i - y_i)^2 / \sum_i (t_i - \bar t)^2$, the mean over columns if there are several

    A truth that does not vary gives 1 if it is met exactly, else 0. Raises ValueError for fewer than two examples.
    """
    t, y = _numbers(truth, predicted)
    if len(t) < 2:
        raise ValueError("r2 of one example: its variance is 0\n  give at least two")
    left, around = ((t - y) ** 2).sum(axis=0), ((t - t.mean(axis=0)) ** 2).sum(axis=0)
    steady = np.where(left == 0, 1.0, 0.0)
    return float(np.mean(np.where(around == 0, steady, 1 - left / np.where(around == 0, 1, around))))


# Labels against scores.


def log_loss(truth: Any, probabilities: Any, *, labels: Labels | None = None) -> float:
    r"""$-\frac{1}{n} \sum_i \ln p_{i t_i}$

    probabilities   (n, classes), rows that add up to 1; or (n,), of the second of two classes. They are kept off 0 and 1 by the
                    machine epsilon of their dtype
    labels          the class of each column; default: what occurs, sorted, or 0, 1, ... if some class does not occur
    Raises ValueError for a number outside [0, 1] or a row that does not add up to 1.
    Source: Bishop (2006), Pattern recognition and machine learning, eq. 4.108.
    """
    p = _scores(probabilities)
    eps = float(np.finfo(p.dtype).eps)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities run from {p.min()} to {p.max()}\n  apply softmax or sigmoid to logits first")
    p = np.stack([1 - p, p], axis=1) if p.ndim == 1 else p
    total = p.sum(axis=1, dtype=np.float64)
    if np.abs(total - 1).max() > math.sqrt(eps):
        raise ValueError(
            f"row {np.abs(total - 1).argmax()} of the probabilities adds up to {total[np.abs(total - 1).argmax()]:.6g}, not to 1"
        )
    column = _columns(truth, p, labels)
    return float(-np.mean(np.log(np.clip(p[np.arange(len(p)), column].astype(np.float64), eps, 1 - eps))))


def roc_auc(truth: Any, scores: Any, *, labels: Labels | None = None) -> float:
    r"""$\frac{1}{P N} \sum_{i: t_i = 1} \sum_{j: t_j = 0} ([s_i > s_j] + [s_i = s_j] / 2)$

    The chance that a positive example scores above a negative one, from the sum of the ranks of the positive ones.
    scores   (n,), of the greater of two labels; or (n, classes): then the mean over the classes of one against the rest
    labels   the class of each column, as for `log_loss`
    Raises ValueError if a class has no example, or no counterexample: there is nothing to rank.
    Source: Hanley & McNeil (1982), The meaning and use of the area under a ROC curve; ranks: Mann & Whitney (1947).
    """
    s = _scores(scores)
    if s.ndim == 1:
        t = _same_length(np.asarray(truth), s)
        found = np.unique(t)
        if len(found) != 2:
            raise ValueError(f"the area under the curve needs two classes in the truth, which has {_few(found)}")
        return _area(t == found[1], s)
    column = _columns(truth, s, labels)
    absent = np.setdiff1d(np.arange(s.shape[1]), column)
    if len(absent) or s.shape[1] < 2:
        raise ValueError(
            f"the area under the curve needs examples of two classes or more and of every column; columns {_few(absent)} have none"
        )
    return float(np.mean([_area(column == c, s[:, c]) for c in range(s.shape[1])]))


def top_k_accuracy(truth: Any, scores: Any, *, k: int, labels: Labels | None = None) -> float:
    r"""$\frac{1}{n} \sum_i [\,t_i$ is among the k classes of greatest score$\,]$

    scores   (n, classes); of equal scores the later column counts as the greater
    labels   the class of each column, as for `log_loss`
    Source: Russakovsky et al. (2015), ImageNet large scale visual recognition challenge, sec. 4.1.
    """
    s = _scores(scores)
    if s.ndim != 2 or not 1 <= k <= s.shape[1]:
        raise ValueError(f"the best {k} of scores of shape {s.shape}: wanted is 1 <= k <= classes and a column for each class")
    column = _columns(truth, s, labels)
    best = np.argsort(s, axis=1, kind="stable")[:, -k:]
    return float(np.mean((best == column[:, None]).any(axis=1)))


# How sure.


def wilson_interval(right: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    r"""$\left( p + \frac{z^2}{2n} \pm z \sqrt{\frac{p (1-p)}{n} + \frac{z^2}{4 n^2}} \right) / (1 + z^2/n), \; p = k / n$

    Where the rate behind k = `right` successes in `n` independent tries lies: an accuracy on n test examples, say. Never leaves [0, 1].
    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference; Brown, Cai & DasGupta (2001), sec. 3.1.1.
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"{right} of {n}: wanted is 0 <= right <= n and n > 0")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: wanted is a number between 0 and 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return (0.0 if right == 0 else low), (1.0 if right == n else high)  # exactly so, but for rounding


def mcnemar(truth: Any, one: Any, other: Any) -> float:
    r"""$\min(1, 2 \sum_{i \leq \min(b, c)} \binom{b + c}{i} 2^{-(b+c)})$

    The chance of seeing two classifiers differ this much on the same examples if neither is better: the exact two-sided test.
    b and c count the examples that only one of them gets right; what both get right or wrong does not matter. 1 if b = c = 0.
    Source: McNemar (1947), Note on the sampling error of the difference between correlated proportions; Dietterich (1998), sec. 3.1.
    """
    t, y = _labels(truth, one)
    _, z = _labels(truth, other)
    b, c = int(np.sum((y == t) & (z != t))), int(np.sum((y != t) & (z == t)))
    ways = term = 1
    for i in range(min(b, c)):
        term = term * (b + c - i) // (i + 1)
        ways += term
    return float(min(1.0, 2 * ways / 2 ** (b + c)))


# Helpers.


def _labels(truth: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    t, y = np.asarray(truth), np.asarray(predicted)
    if t.shape != y.shape or t.ndim != 1 or not t.size:
        raise ValueError(f"truth has the shape {t.shape}, the prediction {y.shape}: wanted is one label each for the same examples")
    if (t.dtype.kind in "US") != (y.dtype.kind in "US"):
        raise ValueError(f"truth is {t.dtype}, the prediction {y.dtype}: they cannot be compared")
    for a in (t, y):
        _no_nan(a)
    return t, y


def _numbers(truth: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    t, y = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if t.shape != y.shape or t.ndim not in (1, 2) or not t.size:
        raise ValueError(
            f"truth has the shape {t.shape}, the prediction {y.shape}: wanted is one shape, (n,) or (n, columns), that is not empty"
        )
    for a in (t, y):
        _no_nan(a)
    return t, y


def _scores(scores: Any) -> np.ndarray:
    s = np.asarray(scores)
    s = s if s.dtype.kind == "f" else s.astype(np.float64)
    if s.ndim not in (1, 2) or not s.size:
        raise ValueError(f"scores have the shape {s.shape}: wanted is (n,) or (n, classes), not empty")
    _no_nan(s)
    return s


def _no_nan(a: np.ndarray) -> None:
    if a.dtype.kind == "f" and np.isnan(a).any():
        raise ValueError(f"nan at {tuple(int(i) for i in np.argwhere(np.isnan(a))[0])}: a model that diverged has no score")


def _same_length(t: np.ndarray, s: np.ndarray) -> np.ndarray:
    if t.shape != (len(s),):
        raise ValueError(f"truth has the shape {t.shape}, the scores {s.shape}: wanted is one label for each row")
    return t


def _label_order(labels: Labels | None, *seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels sorted, and where each of them, in the order asked for, stands in that."""
    if labels is None:
        known = np.unique(np.concatenate(seen))
        return known, np.arange(len(known))
    known, order = np.unique(np.asarray(labels), return_inverse=True)
    if len(known) != len(order) or not len(known):
        raise ValueError(f"labels {_few(np.asarray(labels))}: wanted is each class once, and at least one")
    return known, order


def _columns(truth: Any, scores: np.ndarray, labels: Labels | None) -> np.ndarray:
    """The column of each example's class."""
    t, c = _same_length(np.asarray(truth), scores), scores.shape[1]
    if labels is not None:
        known, order = _label_order(labels)
    else:
        known, order = _label_order(None, t)
        if len(known) < c and t.dtype.kind in "iub" and t.min() >= 0 and t.max() < c:  # some class does not occur
            known = order = np.arange(c)
    if len(known) != c:
        raise ValueError(f"scores have {c} columns for the {len(known)} classes {_few(known)}\n  say by labels= which class each column is")
    stranger = np.setdiff1d(t, known)
    if len(stranger):
        raise ValueError(f"the truth has {_few(stranger)}, the columns are {_few(known)}")
    return np.argsort(order)[np.searchsorted(known, t)]


def _counts(
    truth: Any, predicted: Any, average: str | None, labels: Labels | None, positive: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each class: true positives, how many were called so, how many are so; summed up for "micro"."""
    if average not in ("binary", "macro", "micro", None):
        raise ValueError(f'average={average!r}: wanted is "binary", "macro", "micro" or None')
    t, y = _labels(truth, predicted)
    if average == "binary":
        labels = [_the_positive(np.unique(np.concatenate([t, y])), positive)]
    known, order = _label_order(labels, t, y)
    columns = [known[i] for i in order]
    counts = np.array([[np.sum((t == c) & (y == c)), np.sum(y == c), np.sum(t == c)] for c in columns]).T
    tp, called, actual = counts.sum(axis=1, keepdims=True) if average == "micro" else counts
    return tp, called, actual


def _the_positive(found: np.ndarray, positive: Any) -> Any:
    if len(found) > 2:
        raise ValueError(f'there are {len(found)} classes, {_few(found)}\n  for more than two, choose average="macro", "micro" or None')
    if positive not in found.tolist() and (len(found) == 2 or found.dtype.kind in "US"):
        raise ValueError(f"positive={positive!r} is none of the classes {_few(found)}")
    return positive


def _average(part: np.ndarray, whole: np.ndarray, average: str | None, zero_division: float) -> Any:
    ratio = np.where(whole == 0, zero_division, part / np.where(whole == 0, 1, whole))
    if average is None:
        return ratio
    defined = ratio[~np.isnan(ratio)]
    return float(defined.mean()) if len(defined) else math.nan


def _area(positive: np.ndarray, scores: np.ndarray) -> float:
    _, inverse, ties = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(ties) - (ties - 1) / 2  # of equal scores: the mean of the ranks that they share
    p, n = int(positive.sum()), int((~positive).sum())
    return float((rank[inverse][positive].sum() - p * (p + 1) / 2) / (p * n))


def _few(labels: np.ndarray) -> str:
    shown = ", ".join(map(repr, labels.tolist()[:10]))
    return f"{shown}, ..." if len(labels) > 10 else shown or "none"
