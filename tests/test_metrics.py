"""Metrics equal scikit-learn's and SciPy's on random cases, ties and absent classes included; what is not defined is an error."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as theirs

from engine import metrics as ours

SEEDS = st.integers(0, 2**32 - 1)
AVERAGES = ["macro", "micro", None]


@pytest.fixture(autouse=True)
def quiet_oracle():
    """scikit-learn warns where it returns nan or a default; here the value is what counts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn")
        yield


def labels(rng, classes, n=None):
    """Truth and prediction, in which classes may be absent from either."""
    n = int(rng.integers(1, 30)) if n is None else n
    some = rng.permutation(classes)[: rng.integers(1, len(classes) + 1)]
    return rng.choice(some, n), rng.choice(classes, n)


def probabilities(rng, n, c, dtype=np.float64):
    p = np.exp(3 * rng.normal(size=(n, c)))
    p = (p / p.sum(axis=1, keepdims=True)).astype(dtype)
    certain = rng.random(n) < 0.2
    p[certain] = np.eye(c, dtype=dtype)[rng.integers(0, c, int(certain.sum()))]
    return p


def rounded(rng, *shape):
    """Scores with many ties."""
    return np.round(rng.normal(size=shape), 1)


# Labels.


@given(seed=SEEDS)
def test_labels_of_many_classes(seed):
    rng = np.random.default_rng(seed)
    names = [np.arange(4), np.array(["cat", "dog", "bird"]), np.array([-3, 7, 100])][seed % 3]
    t, y = labels(rng, names)
    assert ours.accuracy(t, y) == theirs.accuracy_score(t, y)
    np.testing.assert_array_equal(ours.confusion_matrix(t, y), theirs.confusion_matrix(t, y))
    for average in AVERAGES:
        for zero in (0.0, 1.0, math.nan):
            for name in ("precision", "recall", "f1"):
                want = getattr(theirs, f"{name}_score")(t, y, average=average, zero_division=zero)
                np.testing.assert_allclose(getattr(ours, name)(t, y, average=average, zero_division=zero), want, rtol=1e-14)


@given(seed=SEEDS)
def test_some_of_the_labels_in_an_order_of_ones_own(seed):
    rng = np.random.default_rng(seed)
    t, y = labels(rng, np.arange(5), n=20)
    chosen = rng.permutation(7)[: rng.integers(1, 8)]  # 5 and 6 never occur
    if np.isin(chosen, t).any():
        np.testing.assert_array_equal(ours.confusion_matrix(t, y, labels=chosen), theirs.confusion_matrix(t, y, labels=chosen))
    for average in AVERAGES:
        want = theirs.f1_score(t, y, average=average, labels=chosen, zero_division=0)
        np.testing.assert_allclose(ours.f1(t, y, average=average, labels=chosen), want, rtol=1e-14)
        want = theirs.precision_score(t, y, average=average, labels=chosen, zero_division=1)
        np.testing.assert_allclose(ours.precision(t, y, average=average, labels=chosen, zero_division=1), want, rtol=1e-14)


@given(seed=SEEDS)
def test_two_classes(seed):
    rng = np.random.default_rng(seed)
    t, y = labels(rng, np.array([0, 1]))
    for zero in (0.0, 1.0):
        assert ours.precision(t, y, zero_division=zero) == theirs.precision_score(t, y, zero_division=zero)
        assert ours.recall(t, y, zero_division=zero) == theirs.recall_score(t, y, zero_division=zero)
        assert math.isclose(ours.f1(t, y, zero_division=zero), theirs.f1_score(t, y, zero_division=zero), rel_tol=1e-14)
    if len(np.unique([t, y])) == 2:
        assert ours.recall(t, y, positive=0) == theirs.recall_score(t, y, pos_label=0, zero_division=0)
        assert ours.precision(t == 1, y == 1) == theirs.precision_score(t, y, zero_division=0)


def test_two_classes_with_names():
    t, y = np.array(["ham", "spam", "spam", "ham"]), np.array(["spam", "spam", "ham", "ham"])
    assert ours.precision(t, y, positive="spam") == 0.5
    with pytest.raises(ValueError, match="positive=1 is none of the classes 'ham', 'spam'"):
        ours.precision(t, y)


# Numbers.


@given(seed=SEEDS)
def test_numbers(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 20)),) + ((3,) if seed % 2 else ())
    t, y = rng.normal(size=shape), rng.normal(size=shape)
    if seed % 3 == 0:
        t[:] = 1.5  # a truth that does not vary
        y = t.copy() if seed % 5 == 0 else y
    assert math.isclose(ours.mse(t, y), theirs.mean_squared_error(t, y), rel_tol=1e-13)
    assert math.isclose(ours.mae(t, y), theirs.mean_absolute_error(t, y), rel_tol=1e-13)
    assert math.isclose(ours.r2(t, y), theirs.r2_score(t, y), rel_tol=1e-12, abs_tol=1e-13)


def test_sums_of_single_precision_are_taken_in_double():
    t = np.full(10_000_000, 0.1, np.float32)[::2]
    assert ours.mae(t, np.zeros_like(t)) == pytest.approx(float(np.float32(0.1)), rel=1e-12)


# Scores.


@given(seed=SEEDS)
def test_log_loss(seed):
    rng = np.random.default_rng(seed)
    n, c = int(rng.integers(1, 20)), int(rng.integers(2, 6))
    dtype = [np.float64, np.float32][seed % 2]
    p, t = probabilities(rng, n, c, dtype), rng.integers(0, c, n)  # most often some class does not occur
    rtol = 1e-12 if dtype is np.float64 else 2e-6
    np.testing.assert_allclose(ours.log_loss(t, p), theirs.log_loss(t, p, labels=range(c)), rtol=rtol, atol=rtol)
    names = np.array(list("abcdefg"))[:c]
    np.testing.assert_allclose(ours.log_loss(names[t], p, labels=names), theirs.log_loss(t, p, labels=range(c)), rtol=rtol, atol=rtol)
    turned = rng.permutation(c)
    np.testing.assert_allclose(ours.log_loss(t, p[:, turned], labels=turned), ours.log_loss(t, p), rtol=1e-12)
    binary = t % 2
    np.testing.assert_allclose(ours.log_loss(binary, p[:, 0]), theirs.log_loss(binary, p[:, 0], labels=[0, 1]), rtol=rtol, atol=rtol)


@given(seed=SEEDS)
def test_area_under_the_curve_of_two_classes(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    t = np.arange(n) % 2 == 0 if seed % 2 else rng.permutation(["b"] + ["a"] * (n - 1))
    for s in (rounded(rng, n), rng.normal(size=n), np.zeros(n), rng.integers(0, 3, n)):
        np.testing.assert_allclose(ours.roc_auc(t, s), theirs.roc_auc_score(t, s), rtol=1e-13)


def test_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    t, s = rng.integers(0, 2, 50), rounded(rng, 50)
    pairs = [(a > b) + (a == b) / 2 for a in s[t == 1] for b in s[t == 0]]
    assert math.isclose(ours.roc_auc(t, s), np.mean(pairs), rel_tol=1e-14)


@given(seed=SEEDS)
def test_area_under_the_curve_of_each_class_against_the_rest(seed):
    rng = np.random.default_rng(seed)
    c = int(rng.integers(3, 6))
    t = rng.permutation(np.r_[np.arange(c), rng.integers(0, c, 15)])
    p = np.round(probabilities(rng, len(t), c), 1)
    p[:, -1] = 1 - p[:, :-1].sum(axis=1)  # scikit-learn wants rows that add up to 1
    np.testing.assert_allclose(ours.roc_auc(t, p), theirs.roc_auc_score(t, p, multi_class="ovr"), rtol=1e-12)


@given(seed=SEEDS)
def test_top_k(seed):
    rng = np.random.default_rng(seed)
    n, c = int(rng.integers(1, 20)), int(rng.integers(3, 7))
    t, s = rng.integers(0, c, n), rounded(rng, n, c)
    for k in range(1, c + 1):
        assert ours.top_k_accuracy(t, s, k=k) == theirs.top_k_accuracy_score(t, s, k=k, labels=range(c))


# How sure.


@given(seed=SEEDS)
def test_wilson_interval(seed):
    from scipy.stats import binomtest

    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 2000))
    right = int(rng.choice([0, n, rng.integers(0, n + 1)]))
    confidence = float(rng.choice([0.8, 0.95, 0.999]))
    want = binomtest(right, n).proportion_ci(confidence, method="wilson")
    low, high = ours.wilson_interval(right, n, confidence=confidence)
    np.testing.assert_allclose([low, high], [want.low, want.high], rtol=1e-9, atol=1e-12)
    assert 0 <= low <= right / n <= high <= 1


def test_the_interval_of_none_or_all_touches_the_end():
    for n in range(1, 500):
        assert ours.wilson_interval(0, n)[0] == 0.0
        assert ours.wilson_interval(n, n)[1] == 1.0


@given(seed=SEEDS)
def test_mcnemar(seed):
    from scipy.stats import binomtest

    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 300))
    t, y, z = rng.integers(0, 3, (3, n))
    y = np.where(rng.random(n) < 0.6, t, y)
    b, c = int(np.sum((y == t) & (z != t))), int(np.sum((y != t) & (z == t)))
    want = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert math.isclose(ours.mcnemar(t, y, z), want, rel_tol=1e-9)
    assert ours.mcnemar(t, y, z) == ours.mcnemar(t, z, y)


def test_mcnemar_of_many_examples():
    t = np.zeros(5000, int)
    assert ours.mcnemar(t, t, t) == 1.0
    assert ours.mcnemar(t, t, t + 1) == 0.0  # 2^-4999 is under the smallest float


# What is refused.

T = np.array([0, 1, 1])


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: ours.accuracy([0, 1], [0, 1, 1]), r"truth has the shape \(2,\), the prediction \(3,\)"),
        (lambda: ours.accuracy([], []), r"the shape \(0,\)"),
        (lambda: ours.accuracy(T[:, None], T), r"the shape \(3, 1\)"),  # would broadcast
        (lambda: ours.accuracy(["0", "1", "1"], T), "cannot be compared"),
        (lambda: ours.confusion_matrix(T, T, labels=[5, 6]), "none of the labels 5, 6 occurs in the truth, which has 0, 1"),
        (lambda: ours.confusion_matrix(T, T, labels=[0, 0]), "each class once"),
        (lambda: ours.f1([0, 1, 2], [0, 1, 2]), r'there are 3 classes, 0, 1, 2\n  .* average="macro"'),
        (lambda: ours.f1([1, 2], [1, 2], positive=0), "positive=0 is none of the classes 1, 2"),
        (lambda: ours.f1(T, T, average="mean"), "average='mean'"),
        (lambda: ours.mse([1.0], [[1.0]]), "wanted is one shape"),
        (lambda: ours.mse([1.0, np.nan], [1.0, 1.0]), r"nan at \(1,\)"),
        (lambda: ours.r2([1.0], [1.0]), "at least two"),
        (lambda: ours.log_loss(T, [0.1, 0.2, 1.2]), "run from 0.1 to 1.2\n  apply softmax"),
        (lambda: ours.log_loss(T, [[0.5, 0.5], [0.5, 0.5], [0.5, 0.6]]), "row 2 .* adds up to 1.1"),
        (lambda: ours.log_loss([0, 1, 2], [0.1, 0.2, 0.3]), "2 columns for the 3 classes 0, 1, 2"),
        (lambda: ours.log_loss(["a", "a"], [0.1, 0.2]), "say by labels="),
        (lambda: ours.log_loss([0, 1], [0.1, 0.2], labels=[1, 2]), "the truth has 0, the columns are 1, 2"),
        (lambda: ours.log_loss([0, 1], [0.1, np.nan]), "nan at"),
        (lambda: ours.roc_auc([1, 1], [0.1, 0.2]), "needs two classes in the truth, which has 1"),
        (lambda: ours.roc_auc([0, 1, 2], [0.1, 0.2, 0.3]), "which has 0, 1, 2"),
        (lambda: ours.roc_auc([0, 1], np.ones((2, 3))), "columns 2 have none"),
        (lambda: ours.roc_auc([0, 0], np.ones((2, 1))), "two classes or more"),
        (lambda: ours.top_k_accuracy([0, 1], np.ones((2, 2)), k=3), "the best 3"),
        (lambda: ours.top_k_accuracy([0, 1], np.ones(2), k=1), "a column for each class"),
        (lambda: ours.wilson_interval(3, 2), "3 of 2"),
        (lambda: ours.wilson_interval(0, 0), "0 of 0"),
        (lambda: ours.wilson_interval(1, 2, confidence=95), "confidence 95"),
        (lambda: ours.mcnemar(T, T, T[:2]), "the shape"),
    ],
)
def test_what_is_not_defined_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_arguments_are_not_changed():
    rng = np.random.default_rng(0)
    t, p = np.arange(4), probabilities(rng, 4, 4)
    for a in (t, p):
        a.flags.writeable = False
    ours.confusion_matrix(t[::-1], t)
    ours.log_loss(t, p[::-1])
    ours.roc_auc(t, p)
    ours.top_k_accuracy(t, p, k=2)
