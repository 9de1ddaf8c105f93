"""Points around a kink: a rule that takes the first or the last of equal elements is one of the gradients nearby."""

import numpy as np
import pytest
from hypothesis import strategies as st

from engine.testing import check_gradient
from engine.testing.around import orders


def running_minimum(x):
    return np.minimum.accumulate(x)


def takes_the_last(g, args, y):
    """The gradient of each running minimum goes to the last element that is as small."""
    (x,) = args
    back = np.zeros_like(x)
    for j in range(len(x)):
        np.add.at(back, max(k for k in range(j + 1) if x[k] == y[j]), g[j])
    return (back,)


def takes_the_first(g, args, y):
    (x,) = args
    back = np.zeros_like(x)
    for j in range(len(x)):
        np.add.at(back, min(k for k in range(j + 1) if x[k] == y[j]), g[j])
    return (back,)


@pytest.mark.parametrize("vjp", [takes_the_last, takes_the_first])
@pytest.mark.parametrize("count", [4, 7])
def test_the_first_and_the_last_of_many_equal_elements_are_right(vjp, count):
    calls = st.just(((np.zeros(count),), {}))
    report = check_gradient(running_minimum, vjp, cases=calls, vary_values=False, examples=40)
    assert report.verdict == "PASS" and report.counts["at a kink"] > 20, report.explain()


def test_the_gradient_of_another_element_is_not():
    def takes_another(g, args, y):
        (back,) = takes_the_last(g, args, y)
        return (np.roll(back, 1),)

    assert (
        check_gradient(running_minimum, takes_another, cases=st.just(((np.zeros(4),), {})), vary_values=False, examples=40).verdict
        == "FAIL"
    )


def test_orders_rise_and_fall_along_each_axis_by_rows_and_by_columns():
    found = list(orders([(2, 3)]))
    assert len(found) == len({f.tobytes() for f in found}) == 8
    assert all(len(set(f)) == 6 and -1 < f.min() < f.max() < 1 for f in found)
    for shape in [(), (0,), (1, 1)]:
        assert len(list(orders([shape]))) == 1
    assert all(len(f) == 9 for f in orders([(2, 3), (3,)]))


def test_a_weight_of_nothing_is_no_crash():
    def f(x):
        return x[:0]

    assert check_gradient(f, lambda g, args, y: (np.zeros_like(args[0]),), signature="n", examples=20).verdict != "FAIL"


def test_without_gradients_nearby_nothing_is_said_of_a_kink():
    """Between 10^-300 and 10^243 no step is small and yet seen."""

    def windows(x):
        return np.stack([np.maximum(np.maximum(x[0], x[1]), x[2]), np.maximum(x[1], x[2]), x[3]])

    def to_the_first(g, args, y):
        x = args[0]
        first, second = int(np.argmax(x[:3])), 1 if x[1] >= x[2] else 2
        back = np.zeros(4)
        back[first] += g[0]
        back[second] += g[1]
        back[3] += g[2]
        return (back,)

    x = np.array([8.7e243, 8.7e243, 8.7e243, 1e-300])
    report = check_gradient(windows, to_the_first, cases=st.just(((x,), {})), vary_values=False, examples=30)
    assert report.verdict != "FAIL", report.explain()


def test_a_share_of_a_tie_of_three_is_right_where_the_slope_alone_is_zero():
    """Clipped between two equal bounds: the lower one moves nothing by itself, and it moves the value between the other two."""

    def clipped(x, low, high):
        return np.minimum(np.maximum(x, low), high)

    def shared(g, args, y):
        x, low, high = args
        inner = np.maximum(x, low)
        to_inner = np.where(inner < high, 1.0, np.where(inner == high, 0.5, 0.0))
        to_x = np.where(x > low, 1.0, np.where(x == low, 0.5, 0.0))
        return g * to_inner * to_x, g * to_inner * (1 - to_x), g * (1 - to_inner)

    zeros = np.zeros(3)
    report = check_gradient(clipped, shared, cases=st.just(((zeros, zeros.copy(), zeros.copy()), {})), vary_values=False, examples=40)
    assert report.verdict == "PASS", report.explain()
