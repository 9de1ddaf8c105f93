"""The calls that the gradient tester draws: that they are what they say, that nothing worth trying is left out, that they shrink."""

import math
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from engine.domain import positive
from engine.testing import strategies
from engine.testing.case import Case, Cotangent
from engine.testing.drawing import sample
from engine.testing.layouts import LAYOUTS, MAKERS, laid_out, surroundings
from engine.testing.shrink import shrunk
from engine.testing.signature import Integers, below_axis, parse, region, understand
from engine.testing.subject import Subject
from engine.testing.values import MODES, Alphabet, Region, framed

FAST = settings(max_examples=1000, database=None, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(FAST, phases=[Phase.generate])
SEEDS = (0, 1, 2)  # for what is said about shares: what one seed gives may lie at a rim


def drawn(strategy, count=300, seeds=(0,)):
    """`count` examples as Hypothesis draws them, for each of the seeds."""
    found = []

    @settings(MANY, max_examples=count)
    @given(strategy)
    def look(x):
        found.append(x)

    for number in seeds:
        hypothesis.seed(number)(look)()
    return found


def smallest(strategy, condition, seed=0):
    return find(strategy, condition, settings=FAST, random=random.Random(seed))


def elementwise(x):
    return np.sin(x)


def product(x, y):
    return x * y


# Layouts.


@pytest.mark.parametrize("layout", MAKERS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (4,), (3, 0), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_a_layout_keeps_the_numbers(layout, shape, dtype):
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    y = laid_out(x, layout)
    assert y.shape == x.shape
    assert y.dtype.newbyteorder("=") == x.dtype
    assert np.array_equal(x, y)
    assert not np.shares_memory(x, y)


def test_layouts_are_what_they_are_called():
    x = np.arange(24.0).reshape(2, 3, 4)
    strides = {name: laid_out(x, name).strides for name in MAKERS}
    assert strides["F"] == (8, 16, 48)
    assert strides["permuted"] == (8, 64, 16)
    assert strides["stepped"] == (768, 128, 16)
    assert strides["reversed"] == (-96, -32, -8)
    assert not laid_out(x, "read-only").flags.writeable
    assert not laid_out(x, "misaligned").flags.aligned
    assert not laid_out(x, "swapped").dtype.isnative
    assert laid_out(np.ones((3, 2)), "repeated").strides == (0, 0)
    assert laid_out(np.array([[1.0, 2.0], [1.0, 2.0]]), "repeated").strides == (0, 8)
    with pytest.raises(ValueError, match="layout 'D' is wanted, there are C, F"):
        laid_out(x, "D")


@pytest.mark.parametrize("layout", ["stepped", "offset"])
def test_gaps_hold_nan_and_tell_when_they_are_written_to(layout):
    x = laid_out(np.ones((2, 3)), layout)
    before = surroundings(x)
    assert np.isnan(np.frombuffer(before)).sum() == len(before) // 8 - 6
    root = x if x.base is None else x.base
    root = root if root.base is None else root.base
    root.reshape(-1)[-1] = 7.0
    assert surroundings(x) != before


# Values.

REGIONS = {
    "all": framed(-np.inf, np.inf), "above 0": framed(0.0, np.inf), "below 2": framed(-np.inf, 2.0), "unit": region((-1, 1)),
    "narrow": region((5, 7)), "far": region((1e6, 1e7)), "one point": region((3, 3)), "tiny": region((1e-9, 2e-9)), "engine's": positive,
}  # fmt: skip


COARSE = [(name, np.float16) for name in REGIONS if name not in ("far", "tiny")]  # float16 has no such numbers


@pytest.mark.parametrize(("name", "dtype"), [*((name, dtype) for name in REGIONS for dtype in (np.float64, np.float32)), *COARSE])
def test_every_code_stands_for_a_number_of_the_region(name, dtype):
    found = Alphabet(np.dtype(dtype), REGIONS[name])
    numbers = [found.number(code, salt) for code in range(found.ends["extreme"]) for salt in range(3)]
    assert all(found.allows(v) for v in numbers)
    assert all(float(dtype(v)) == v for v in numbers)


def test_simple_numbers_come_first():
    assert Alphabet().points[:6] == (0.0, 1.0, -1.0, 2.0, 0.5, -0.5)
    assert Alphabet(region=framed(0.0, np.inf)).points[:3] == (1.0, 2.0, 0.5)
    assert Alphabet(region=region({"low": 2, "kinks": [2.75]})).points[:2] == (2.0, 3.0)
    assert 2.75 in Alphabet(region=region({"low": 2, "kinks": [2.75]})).points


def test_generic_numbers_are_not_alike_and_reach_every_magnitude():
    found = Alphabet()
    ends = found.ends
    generic = {found.number(code, salt) for code in range(ends["points"] + 24, ends["generic"]) for salt in range(20)}
    assert len(generic) == (ends["generic"] - ends["points"] - 24) * 20
    assert min(generic) < -2.9 and max(generic) > 2.9
    extreme = np.abs([found.number(code, salt) for code in range(ends["wide"], ends["extreme"]) for salt in range(20)])
    assert extreme.min() < 1e-300 < 1e290 < extreme.max()
    assert np.any((extreme > 0) & (extreme < np.finfo(float).tiny))


def test_every_magnitude_in_a_bounded_region_too():
    found = Alphabet(region=region((-4, 4)))
    extreme = np.array([found.number(code, 1) for code in range(found.ends["wide"], found.ends["extreme"])])
    assert np.any((extreme > 0) & (extreme < 1e-200))
    assert np.any((extreme < 0) & (extreme > -1e-200))
    assert np.any(extreme > 3.9)


def test_shifted_numbers_lie_close_together_far_from_zero():
    found = [x for x in drawn(strategies.values((5,), modes=["shifted"])) if abs(x[0]) > 1e5]
    assert len(found) > 3
    assert all(np.ptp(x) < abs(x[0]) / 4 for x in found)


def test_more_elements_where_they_are_wanted():
    found = drawn(strategies.arrays(strategies.shapes(max_elements=300), modes=["generic"]), 200)
    assert max(x.size for x in found) > 128
    assert all(x.size <= 300 for x in found)
    large = max(found, key=lambda x: x.size)
    assert len(np.unique(large)) > large.size / 2


def test_what_is_not_finite_is_drawn_only_on_demand():
    assert all(np.isfinite(x).all() for x in drawn(strategies.arrays()))
    asked = drawn(strategies.arrays(nonfinite=True))
    assert any(np.isnan(x).any() for x in asked)
    assert any(np.isposinf(x).any() for x in asked)
    assert any(np.isneginf(x).any() for x in asked)


def test_holes_are_not_drawn_and_kinks_are():
    at = [x for x in drawn(strategies.arrays(domain=Region(kinks=(1.5,), holes=(0.0,)))) if x.size]
    assert not any((x == 0).any() for x in at)
    assert any((x == 1.5).any() for x in at)


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode):
    found = drawn(strategies.values((3, 4), modes=[mode]), 60)
    kinds = [len(np.unique(x)) for x in found]
    if MODES[mode].made_of:
        assert max(kinds) == MODES[mode].made_of
    if mode == "few":
        assert {float(v) for x in found for v in x.ravel()} == {0.0, 1.0, -1.0, 2.0}
    if mode == "generic":
        assert max(kinds) == 12


@pytest.mark.parametrize(
    ("given_as", "message"),
    [("x > 0", "a domain is a Domain"), ({"lo": 1}, "a domain has low, high and kinks; given"), ((2, 1), "an interval")],
)
def test_domains_that_are_none(given_as, message):
    with pytest.raises((TypeError, ValueError), match=message):
        region(given_as)


def test_the_ends_of_an_interval_belong_to_it_and_those_of_a_domain_do_not():
    assert region((0, 1)).contains(0.0)
    assert region({"high": 1}).contains(1.0)
    assert not region(positive).contains(0.0)


# Shapes.


def test_shapes_of_every_kind():
    found = drawn(strategies.shapes(), seeds=SEEDS)
    sizes = [int(np.prod(s)) for s in found]
    assert max(sizes) <= 27
    assert {len(s) for s in found} == {0, 1, 2, 3}
    assert sum(0 in s for s in found) > 20
    assert any(1 in s and max(s) > 1 for s in found)
    assert all(0 not in s for s in drawn(strategies.shapes(min_size=1), 100))


def test_broadcastable_shapes_broadcast():
    found = drawn(strategies.broadcastable(3))
    assert all(len(np.broadcast_shapes(*shapes)) <= 3 for shapes in found)
    assert any(len({len(s) for s in shapes}) == 3 for shapes in found)
    assert any(np.broadcast_shapes(*shapes) not in shapes for shapes in found)
    assert any(1 in s for shapes in found for s in shapes if np.broadcast_shapes(*shapes) != s)


# Cotangents.


@pytest.mark.parametrize("kind", ["one-hot", "ones", "random", "sparse"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_recipe_gives_the_same_cotangent_twice(kind, layout):
    recipe = Cotangent(kind, layout, 5)
    ys = np.zeros((2, 3), np.float32), np.arange(4), np.zeros(()), np.zeros((0, 2))
    first, second = recipe(ys), recipe(ys)
    assert [g.shape for g in first] == [y.shape for y in ys]
    assert [g.dtype for g in first] == [y.dtype for y in ys]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not first[1].any()
    assert isinstance(recipe(np.zeros(3)), np.ndarray)


def test_cotangents_are_what_they_are_called():
    y = np.zeros((4, 5))
    assert Cotangent("one-hot", "C", 23)(y)[0, 3] == 1
    assert Cotangent("one-hot", "C", 23)(y).sum() == 1
    assert (Cotangent("ones")(y) == 1).all()
    g = Cotangent("random", "C", 1)(y)
    assert (g > 0).any()
    assert (g < 0).any()
    assert len(np.unique(g)) == 20
    assert 0 < np.count_nonzero(Cotangent("sparse", "C", 1)(y)) < 20
    assert Cotangent("random", "repeated", 1)(y).strides == (0, 8)


# Options.


def test_indices_index():
    found = drawn(strategies.indices(strategies.shapes(), 3))
    assert all(((i >= -3) & (i < 3)).all() for i in found)
    assert any((i < 0).any() for i in found)
    assert any(len(np.unique(i)) < i.size for i in found)
    apart = drawn(strategies.indices((3,), 4, repeats=False, negative=False), 50)
    assert all(len(set(i)) == 3 for i in apart)
    with pytest.raises(ValueError, match="5 indices without repeats are wanted of an axis of size 4"):
        sample(strategies.indices((5,), 4, repeats=False), 0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_axes_and_keys_are_taken(shape):
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    axes = drawn(strategies.axes(len(shape)), 200)
    for axis in axes:
        np.sum(x, axis=axis)
    assert {type(a) for a in axes} == ({int, tuple, type(None)} if shape else {tuple, type(None)})
    for key in drawn(strategies.keys(shape), 200):
        x[key]


def test_keys_of_every_kind():
    found = [part for key in drawn(strategies.keys((3, 4)), 300) for part in (key if isinstance(key, tuple) else (key,))]
    assert {type(part) for part in found} == {int, slice, np.ndarray, type(None), type(...)}
    assert any(isinstance(part, slice) and (part.step or 1) < 0 for part in found)
    assert any(isinstance(part, slice) and (part.step or 1) > 1 for part in found)


@pytest.mark.parametrize(("image", "kernel"), [((5, 4), (3, 1)), ((2,), (3,)), ((7, 7), (2, 3))])
def test_windows_fit(image, kernel):
    for w in drawn(strategies.windows(image, kernel), 200):
        for n, k, s, p, d in zip(image, kernel, w["stride"], w["padding"], w["dilation"], strict=True):
            assert (n + 2 * p - d * (k - 1) - 1) // s + 1 >= 1


# Whole calls.


def test_everything_comes_up():
    found = drawn(strategies.cases(product), seeds=SEEDS)
    layouts = {name for case in found for name in case.layouts}
    assert layouts == set(LAYOUTS)
    assert {case.recipe.layout for case in found} == set(LAYOUTS)
    assert {case.recipe.kind for case in found} == {"one-hot", "ones", "random", "sparse"}
    notes = {note.partition(": ")[2] for case in found for note in case.notes if ": " in note}
    assert {note.removesuffix("dominant diagonal").removesuffix(", ") for note in notes} - {""} == set(MODES) - {"generic"}
    assert sum(case.args[0] is case.args[1] for case in found) > 5
    assert sum("y equals x" in case.notes for case in found) > 5
    assert any("y equals x" in case.notes and case.args[0].shape != case.args[1].shape for case in found)


def test_each_example_is_a_new_one():
    """Hypothesis would make four in five of them by copying a part of an earlier one over another part."""
    for number in SEEDS:
        found = drawn(strategies.cases(product), 200, seeds=[number])
        assert len({repr(case) for case in found}) > 140
        assert sum(case.size > 3 for case in found) > 30


@pytest.mark.parametrize(
    "text", ["m k, k n -> m n", "n n, n -> n", "... k, k -> ...", "n c h w, o c i j -> n o h-i+1 w-j+1", "3 n -> n", " -> "]
)
def test_shapes_fit_the_signature(text):
    (notation,) = parse(text)
    names = [f"x{i}" for i in range(len(notation.inputs))]

    def anything(*xs):
        return np.zeros(notation.infer(names, [x.shape for x in xs], {})[0]) + sum(x.sum() for x in xs)

    for case in drawn(strategies.cases(anything, text), 100):
        notation.infer(names, [x.shape for x in case.args], {})
        assert all(x.size <= 27 for x in case.args)


def test_matrices_with_a_dominant_diagonal():
    found = [case.args[0] for case in drawn(strategies.cases(np.linalg.cholesky)) if "a: dominant diagonal" in case.notes]
    assert len(found) > 10
    for x in found:
        np.linalg.cholesky(x)
    ones = [case.args[0] for case in drawn(strategies.cases(np.linalg.inv, "n n"), 600) if case.args[0].shape == (2, 2)]
    assert any(np.array_equal(x, np.eye(2)) for x in ones)


def test_values_stay_in_the_domain():
    found = drawn(strategies.cases(product, domain={"x": (0, 1), 1: positive}))
    assert all((case.args[0] >= 0).all() and (case.args[0] <= 1).all() for case in found)
    assert all((case.args[1] > 0).all() for case in found)
    assert any((case.args[0] == 0).any() for case in found)
    with pytest.raises(ValueError, match="domain: there is no argument 'z'; the arguments are x, y"):
        strategies.cases(product, domain={"z": (0, 1)})


def test_options_may_depend_on_the_shapes():
    def summed(x, *, axis, scale, bias):
        return np.sum(x, axis) * scale + bias

    kwargs = {"axis": lambda shapes: strategies.axes(len(shapes["x"])), "scale": st.sampled_from([1, 2]), "bias": 3}
    found = drawn(strategies.cases(summed, "...", kwargs=kwargs))
    for case in found:
        summed(*case.args, **case.kwargs)
    assert {case.kwargs["scale"] for case in found} == {1, 2}
    assert {case.kwargs["bias"] for case in found} == {3}
    assert {type(case.kwargs["axis"]) for case in found} == {int, tuple, type(None)}
    with pytest.raises(TypeError, match="kwargs is a dict or a strategy of dicts, given list"):
        strategies.cases(summed, "...", kwargs=[1])


def test_a_strategy_of_options_and_a_list_of_signatures():
    kwargs = st.fixed_dictionaries({"a": st.booleans()})
    found = drawn(strategies.cases(lambda x, w, a: x @ w, ["m k, k n", "k, k"], kwargs=kwargs), 100)
    assert {x.ndim for case in found for x in case.args} == {1, 2}
    assert {case.kwargs["a"] for case in found} == {True, False}


def picked(x, i, *, axis):
    return np.log(np.take(x, i, axis))


USERS = st.integers(1, 4).flatmap(
    lambda n: st.tuples(st.tuples(strategies.values((n, 2), domain=(1, 2)), strategies.indices((3,), n)), st.just({"axis": 0}))
)


def test_shapes_and_options_of_a_users_strategy():
    varied, kept = (drawn(strategies.cases(picked, user_cases=USERS, vary_values=vary), 200) for vary in (True, False))
    for case in (*varied, *kept):
        x, i = case.args
        assert x.shape[1:] == (2,)
        assert (i < len(x)).all()
        assert case.kwargs == {"axis": 0}
    assert all((case.args[0] >= 1).all() and (case.args[0] <= 2).all() for case in kept)
    assert sum((case.args[0] > 2).any() for case in varied) > 5
    assert {case.layouts for case in kept} == {("C", "C")}
    assert len({case.layouts for case in varied}) > 5


def test_the_domain_is_found_at_a_users_example():
    assert understand(picked, cases=USERS).notes == ("x > 0",)
    below = [case for case in drawn(strategies.cases(picked, user_cases=USERS), 200, SEEDS) if (case.args[0] <= 0).any()]
    assert 0 < len(below) < 150  # of 600; now and then a number from outside: what was found by trying may be wrong


def test_a_users_strategy_that_gives_nothing_to_start_from():
    nothing = st.just(((np.zeros((0, 2)), np.zeros(0, int)), {"axis": 0}))
    assert understand(picked, cases=nothing).notes == ()


def test_low_precision():
    found = drawn(strategies.cases(np.exp, dtype=np.float16), 200)
    assert {case.args[0].dtype for case in found} == {np.dtype(np.float16)}
    assert understand(np.exp, dtype=np.float16).notes == ("x < 11.0938",)


def test_a_sample_without_hypothesis():
    strategy = strategies.cases(product)
    assert repr(sample(strategy, 3)) == repr(sample(strategy, 3))
    assert len({repr(sample(strategy, seed)) for seed in range(50)}) > 40
    with pytest.raises(TypeError, match="is drawn by Hypothesis only"):
        sample(st.integers(), 0)


@given(strategies.cases(product))
@settings(FAST, max_examples=100)
def test_the_code_of_a_case_makes_it_again(case):
    for text, x in zip(case.code(), case.args, strict=True):
        again = eval(text, {"np": np, "laid_out": laid_out})
        assert np.array_equal(again, x)
        assert again.dtype == x.dtype
        assert again.strides == x.strides or x.size == 0
        assert again.flags.writeable == x.flags.writeable


def test_a_case_tells_what_it_is():
    x = laid_out(np.array([[1.0, np.nan]]), "stepped")
    case = Case((x, x), {"axis": 1}, Cotangent("random", "F", 7), ("stepped", "stepped"), ("y is x",))
    twice = ", ".join(["laid_out(np.array([[1.0, np.nan]]), 'stepped')"] * 2)
    assert repr(case) == f"Case({twice}, axis=1; cotangent random, F, seed 7)  [y is x]"
    assert case.size == 2
    plain = case.contiguous()
    assert plain.layouts == ("C", "C")
    assert plain.args[0].flags.c_contiguous
    assert plain.args[0] is not plain.args[1]


# Signatures, found by trying.


def layer_norm(x, gain, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain + bias


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def affine(x, w, b):
    return x @ w + b


def picked_rows(x, idx):
    return x[idx]


def chosen(scores, labels):
    return -scores[np.arange(len(scores)), labels]


KNOWN = {
    "sin": (np.sin, ["..."]),
    "of one number": (lambda x: math.sin(x), [""]),
    "product": (product, ["..., ..."]),
    "hypot": (np.hypot, ["..., ..."]),
    "three": (lambda a, b, c: a * b + c, ["..., ..., ..."]),
    "difference": (lambda x: np.diff(x), ["n", "m n", "l m n", "b c h w"]),
    "matmul": (lambda x, w: x @ w, ["n, n", "m k, k", "k, k n", "m k, k n", "l m n, n", "l m k, l k n"]),
    "affine": (affine, ["n, n, m", "k, k n, n", "m k, k n, n", "m k, k n, m n"]),
    "outer": (np.outer, ["n, m"]),
    "solve": (np.linalg.solve, ["n n, n m"]),
    "cholesky": (np.linalg.cholesky, ["n n", "l n n"]),
    "rows": (picked_rows, ["n, k"]),
    "labels": (chosen, ["m n, m"]),
    "along": (lambda x, i: np.take_along_axis(x, i, 1), ["m n, m k"]),
    "ldexp": (np.ldexp, ["..., ..."]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_signatures_found_by_trying(name):
    f, wanted = KNOWN[name]
    found = [n.text.removesuffix(" -> ...") for n in understand(f).alternatives]
    assert set(wanted) <= set(found)
    assert ("..." in found[0]) == ("..." in wanted[0])


def test_integers_found_by_trying():
    for f, name in ((picked_rows, "idx"), (chosen, "labels"), (np.ldexp, "x2")):
        contract = understand(f)
        assert contract.names[1] == name
        assert contract.arguments[1].integers is not None
        for case in drawn(strategies.cases(contract), 100):
            f(*case.args)
    given_too = understand(picked_rows, "m n, k", domain={"idx": below_axis("x")})
    assert {int(i) for case in drawn(strategies.cases(given_too), 100) for i in case.args[1].ravel()} == {0, 1, 2, 3, 4}
    whole = drawn(strategies.cases(np.ldexp, "..., ...", domain={1: Integers(-2, 0)}), 100)
    assert {int(i) for case in whole for i in case.args[1].ravel()} == {-2, -1}


def test_the_gradient_chooses_among_signatures():
    """layer_norm takes a gain of the shape of x; its gradient is written for a gain per feature."""

    def vjp(g, args, y):
        x, _, _ = args
        rows = tuple(range(x.ndim - 1))
        return np.zeros_like(x), (g * x).sum(rows), g.sum(rows)

    found = understand(Subject(layer_norm, vjp))
    assert [n.text for n in found.alternatives] == ["n, n, n -> ...", "m n, n, n -> ...", "l m n, n, n -> ..."]
    assert "shapes 'm n, m n, m n' are left out: f takes them, its gradient does not" in found.notes


def test_an_elementwise_function_broadcasts_whatever_its_gradient_does():
    unreduced = Subject(product, lambda g, args, y: (g * args[1], g * args[0]))
    assert [n.text for n in understand(unreduced).alternatives] == ["..., ... -> ..."]


def test_a_gradient_that_fits_no_shape_is_not_an_excuse():
    wrong = Subject(softmax, lambda g, args, y: (np.zeros((7, 7)),))
    assert understand(wrong).alternatives


MASK, WEIGHTS = np.array([True, False, True, True]), np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75], [3.0, 1.0, -2.0], [0.1, 0.2, 0.3]])

FITTED = {
    "three matrices": (
        lambda a, b, c: a @ b @ c,
        lambda g, x, y: (g @ (x[1] @ x[2]).T, x[0].T @ g @ x[2].T, (x[0] @ x[1]).T @ g),
        "n m, m k, k l",
    ),
    "attention": (
        lambda q, k, v: softmax(q @ k.T) @ v,
        lambda g, x, y: (g @ x[2].T @ x[1], (g @ x[2].T).T @ x[0], softmax(x[0] @ x[1].T).T @ g),
        "n m, k m, k l",
    ),
    "a step of a network": (
        lambda x, h, w, u, b: np.tanh(x @ w + h @ u + b),
        lambda g, a, y: (g @ a[2].T, g @ a[3].T, a[0].T @ g, a[1].T @ g, g.sum(0)),
        "n m, n k, m l, k l, l",
    ),
    "weights of its own": (lambda x: x @ WEIGHTS, lambda g, x, y: (g @ WEIGHTS.T,), "n 4"),
    "a mask of its own": (lambda x: x[MASK], lambda g, x, y: (np.zeros(x[0].shape),), "4"),
    "halves": (lambda x: x.reshape(len(x), 2, x.shape[1] // 2).sum(1), lambda g, x, y: (np.concatenate([g, g], 1),), "n 2"),
    "points turned": (
        lambda t, p: np.array([np.cos(t) * p[0] - np.sin(t) * p[1], np.sin(t) * p[0] + np.cos(t) * p[1]]),
        lambda g, x, y: (np.zeros(()), np.stack([g[0], g[1]])),
        ", 2 n",
    ),
}


@pytest.mark.parametrize("name", FITTED)
def test_shapes_that_a_function_and_its_gradient_ask_for(name):
    f, vjp, wanted = FITTED[name]
    assert wanted in [n.text.removesuffix(" -> ...") for n in understand(Subject(f, vjp)).alternatives]


def test_a_window_is_smaller_than_what_it_slides_over():
    def slid(x, w):
        return np.einsum("ncij,oc->noij", x[:, :, : x.shape[2] - w.shape[2] + 1, : x.shape[3] - w.shape[3] + 1], w[:, :, 0, 0])

    def vjp(g, args, y):
        return np.zeros(args[0].shape), np.zeros(args[1].shape)

    (found,) = understand(Subject(slid, vjp)).alternatives
    assert [len(set(side)) for side in found.inputs] == [4, 4]
    assert found.inputs[0][1] == found.inputs[1][1]


def test_a_bias_is_a_vector_even_if_nobody_summed_its_gradient():
    def unsummed(g, args, y):
        x, w, _ = args
        return g @ w.T, x.T @ g, g

    def dense(x, w, b):
        return x @ w + b

    assert [n.inputs[2] for n in understand(Subject(dense, unsummed)).alternatives] == [["n"]]


def test_an_argument_without_a_gradient_holds_integers():
    """Floating-point numbers would do for the function; the gradient says whether they are meant."""
    for vjp in (lambda g, a, y: (g * a[1], None), lambda g, a, y: (g * a[1],)):
        assert [bool(a.integers) for a in understand(Subject(product, vjp)).arguments] == [False, True]


def test_a_product_of_vectors_is_none_of_square_matrices():
    def vjp(g, args, y):
        return g * args[1], g * args[0]

    assert [n.text for n in understand(Subject(lambda u, v: u @ v, vjp)).alternatives] == ["n, n -> ..."]


def test_sizes_of_a_functions_own_arrays():
    """A number may stand for all of them in f; its gradient says that it is not meant."""
    own = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    for vjp, wanted in ((lambda g, a, y: (g * own,), ["5", "n 5"]), (lambda g, a, y: (np.sum(g * own),), [""])):
        found = understand(Subject(lambda x: x * own, vjp)).alternatives
        assert [n.text.removesuffix(" -> ...") for n in found] == wanted


def test_a_row_and_a_column():
    found = understand(lambda x, i, j: x[i, j])
    assert [n.text for n in found.alternatives] == ["m n, k, k -> ..."]
    for case in drawn(strategies.cases(found), 50):
        case.args[0][case.args[1], case.args[2]]


def test_a_mask_of_truth_values():
    found = understand(lambda x, m: x[np.logical_not(m)] if m.dtype == bool else x[None, None, None, m, "integers are no masks"])
    assert all(case.args[1].dtype == bool for case in drawn(strategies.cases(found), 50))


def test_a_window_longer_than_most_axes_are():
    found = understand(lambda x: np.lib.stride_tricks.sliding_window_view(x, 7).mean(-1))
    assert [set(least.values()) for least in found.smallest] == [{7}]
    sizes = {case.args[0].size for case in drawn(strategies.cases(found), 50)}
    assert min(sizes) == 7 and len(sizes) > 1


def test_no_elements_where_one_gives_nothing_yet():
    """np.diff gives n - 1 numbers, and for none it gives none."""
    assert understand(lambda x: np.diff(x), "n").smallest == ({"n": 1},)
    assert understand(lambda x: np.array([x[i : i + 4].sum() for i in range(len(x) - 3)]), "n").smallest == ({"n": 3},)
    assert understand(lambda x: x.sum(-1), "m n").smallest == ({"m": 0, "n": 0},)


def test_numbers_alone_test_nothing():
    summed = Subject(lambda x: x * x, lambda g, a, y: (float(np.sum(2 * a[0] * g)),))
    assert [n.text for n in understand(summed).alternatives] == ["... -> ..."]


def test_a_positional_option_is_no_array():
    def rolled(x, shift):
        return np.roll(x, shift)

    assert understand(rolled, kwargs={"shift": 2}).names == ["x"]


def test_the_smallest_sizes():
    assert understand(lambda x: x.max(-1), "... n").smallest == ({"n": 1, "...": 0},)
    assert understand(lambda x: np.gradient(x), "n").smallest == ({"n": 2},)
    assert understand(np.sin).smallest == ({"...": 0},)
    assert all(case.args[0].size for case in drawn(strategies.cases(lambda x: x.max(), "n"), 100))


def test_examples_stand_in_for_a_signature():
    found = understand(affine, (np.ones((2, 3)), np.ones((3, 4)), np.ones(4)))
    assert [n.text for n in found.alternatives] == ["n2 n3, n3 n4, n4 -> ..."]
    fixed = understand(lambda x: x.reshape(2, 3), np.ones(6, np.float32))
    assert [n.text for n in fixed.alternatives] == ["6 -> ..."]
    assert fixed.arguments[0].dtype == np.float32
    rows = understand(picked_rows, (np.ones((3, 2)), np.array([0, 2, 2])))
    assert rows.arguments[1].integers.bounds({}) == (0, 3)


@pytest.mark.parametrize(
    ("f", "notes"),
    [
        (np.log, ("x > 0",)), (np.log1p, ("x > -1",)), (np.sqrt, ("x >= 0",)), (np.arcsin, ("x >= -1 and x <= 1",)),
        (np.arccosh, ("x >= 1",)), (lambda x: 1 / x, ("x is not 0",)), (lambda x: 1 / (x - 2), ("x is not 2",)),
        (np.sin, ()), (lambda x, y: x / y, ("y is not 0",)),
        (lambda x: np.log(-x), ("x < 0",)), (lambda x: np.exp(np.exp(x)), ("x < 6.56496",)), (lambda x: np.log(x - 30), ("x > 30",)),
    ],
)  # fmt: skip
def test_domains_found_by_trying(f, notes):
    assert understand(f).notes == notes


def test_domains_that_hang_together():
    """Each is found with the other held where it is."""
    found = understand(lambda x, y: np.log(x - y)).arguments
    assert -0.9 < found[0].region.low < 0.9 and found[0].region.high > 1e300
    assert 0.3 < found[1].region.high < 3.0 and found[1].region.low < -1e300


def test_options_found_by_trying():
    def summed(x, axis=None, keepdims=False, *, dtype=None, eps=1e-5, training=False):
        return np.sum(x, axis=axis, keepdims=keepdims)

    found = drawn(strategies.cases(summed), 300)
    assert all(set(case.kwargs) == {"axis", "keepdims"} for case in found)
    assert {case.kwargs["keepdims"] for case in found} == {True, False}
    assert {-1, 0, None} <= {case.kwargs["axis"] for case in found}
    for case in found:
        summed(*case.args, **case.kwargs)
    one_way = Subject(summed, lambda g, args, y: (np.broadcast_to(g, args[0].shape),))
    assert not understand(one_way).dependent


def test_functions_that_tell_nothing_about_themselves():
    assert len(understand(lambda *xs: np.concatenate(xs)).names) == 1
    assert understand(lambda *xs: xs[0] * xs[1]).names == ["x1", "x2"]
    with pytest.raises(ValueError, match="no signature was found that never takes with arguments a, b"):
        understand(never)


def never(a, b):
    raise RuntimeError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("m k, k n -> m n", ["m k, k n -> m n"]), ("... , ... -> ...", ["... , ... -> ..."]), ("m k, k", ["m k, k -> ..."]),
        ("(m,k),(k,n)->(m,n)", ["m k, k n -> m n", "... m k, ... k n -> ... m n"]), ("(),()->()", [",  -> ", "..., ... -> ..."]),
    ],
)  # fmt: skip
def test_signatures_in_text(text, wanted):
    assert [n.text for n in parse(text)] == wanted


@pytest.mark.parametrize("text", ["m ... -> m", "m k) -> m", "M K -> M", "m k -> m +"])
def test_text_that_is_no_signature(text):
    with pytest.raises(ValueError, match="signature"):
        parse(text)


# Shrinking.


def test_the_simplest_of_all():
    found = smallest(strategies.cases(elementwise), lambda case: True)
    assert repr(found) == "Case(np.array(0.0); cotangent one-hot, C, seed 0)"


def test_an_empty_array():
    assert smallest(strategies.cases(elementwise), lambda case: case.size == 0).args[0].shape == (0,)


def tied(x):
    return len(np.unique(x)) < x.size


MINIMAL = {
    "not an integer": (elementwise, lambda c: (c.args[0] != np.round(c.args[0])).any(), ["np.array(0.5)"]),
    "a tie": (elementwise, lambda c: tied(c.args[0]), ["np.array([0.0, 0.0])"]),
    "a tie off zero": (elementwise, lambda c: tied(c.args[0][c.args[0] != 0]), ["np.array([1.0, 1.0])"]),
    "reversed": (elementwise, lambda c: any(s < 0 for s in c.args[0].strides), ["laid_out(np.array([0.0, 0.0]), 'reversed')"]),
    "equal": (product, lambda c: c.size and np.array_equal(*c.args) and c.args[0] is not c.args[1], ["np.array(0.0)"] * 2),
    "the same": (product, lambda c: c.args[0] is c.args[1], ["np.array(0.0)"] * 2),
    "repeats": (picked_rows, lambda c: tied(c.args[1]), ["np.array([0.0])", "np.array([0, 0])"]),
    "empty axis": (lambda x: x.prod(1), lambda c: c.args[0].shape[0] and not c.args[0].size, ["np.zeros((1, 0), 'float64')"]),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", MINIMAL)
def test_minimal_arguments(name, seed):
    f, condition, code = MINIMAL[name]
    signature = "m n" if name == "empty axis" else None
    found = smallest(strategies.cases(f, signature), condition, seed)
    assert found.code() == code
    assert found.recipe == Cotangent()


@pytest.mark.parametrize("seed", [0, 1])
def test_minimal_cotangents(seed):
    strategy = strategies.cases(elementwise)
    strided = smallest(strategy, lambda c: not c.cotangent(c.args[0]).flags.c_contiguous, seed)
    assert strided.code() == ["np.array([0.0, 0.0])"]
    assert strided.recipe.kind == "one-hot"
    signed = smallest(strategy, lambda c: (c.cotangent(c.args[0]) < 0).any(), seed)
    assert signed.size == 1
    assert signed.recipe.layout == "C"


def test_what_is_never_drawn_is_not_found():
    with pytest.raises(NoSuchExample):
        smallest(strategies.cases(elementwise, domain=(1, 2)), lambda c: (c.args[0] < 1).any())


# Shrinking by arrays.


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


def special(*shape):
    x = normal(*shape)
    x.flat[-2] = 37.5
    return x


BY_ARRAYS = {
    "one special element": ([special(3, 4)], ["C"], lambda c: (c.args[0] == 37.5).any(), ["np.array(37.5)"]),
    "an inner axis": (
        [normal(3, 3), normal(3, 3)], ["C", "F"], lambda c: (c.args[0] @ c.args[1]).size and c.args[0].shape[1] > 1,
        ["np.array([[0.0, 0.0]])", "np.array([[0.0], [0.0]])"],
    ),
    "both broadcast": (
        [normal(1, 3, 1), normal(1, 1, 4)], ["C", "stepped"], lambda c: np.broadcast(*c.args).size > max(a.size for a in c.args),
        ["np.array([[0.0], [0.0]])", "np.array([[0.0, 0.0]])"],
    ),
    "ties": ([np.array([[2.5, 2.5], [1.0, 2.5]])], ["F"], lambda c: tied(c.args[0]), ["np.array([0.0, 0.0])"]),
    "reversed": ([normal(2, 3)], ["reversed"], lambda c: c.args[0].size > 1 and c.args[0].strides[-1] < 0, None),
    "a fraction": ([normal(2, 3) + 5], ["C"], lambda c: (c.args[0] % 1).any(), ["np.array(0.5)"]),
    "repeats": (
        [normal(4, 2), np.array([3, 1, 3])], ["C", "C"], lambda c: c.args[0][c.args[1]].size and tied(c.args[1]),
        ["np.array([0.0])", "np.array([0, 0])"],
    ),
    "empty": ([np.zeros((2, 0, 3))], ["C"], lambda c: c.size == 0, None),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_ARRAYS)
def test_a_call_shrinks_by_its_arrays(name):
    arrays, layouts, condition, code = BY_ARRAYS[name]
    calls = []

    def fails(case):
        calls.append(case)
        try:
            return bool(condition(case))
        except (ValueError, IndexError):
            return False

    case = Case(tuple(map(laid_out, arrays, layouts)), {}, Cotangent("random", "F", 77), tuple(layouts), ("x: wide",))
    found = shrunk(case, fails)
    assert condition(found)
    assert found.recipe == Cotangent()
    assert found.notes == ()
    assert len(calls) < 120
    assert code is None or found.code() == code
    assert found.size <= 4


def test_a_call_shrinks_inside_its_domain():
    contract = understand(elementwise, "n", (5, 7))
    found = shrunk(Case((np.array([5.5, 6.25]),), {}, Cotangent(), ("C",)), lambda c: True, contract=contract)
    assert found.args[0].size == 0
    found = shrunk(Case((np.array([5.5, 6.25]),), {}, Cotangent(), ("C",)), lambda c: c.size > 0, contract=contract)
    assert found.code() == ["np.array([6.0])"]


def test_the_same_object_stays_the_same_while_it_matters():
    x = normal(2, 3)
    case = Case((x, x), {}, Cotangent(), ("C", "C"))
    found = shrunk(case, lambda c: c.args[0] is c.args[1] and c.size > 0)
    assert found.args[0] is found.args[1]
    assert found.size == 1
    found = shrunk(case, lambda c: np.array_equal(*c.args) and c.args[0].size > 0)
    assert found.args[0] is not found.args[1]


def test_shrinking_stops_where_it_is_told_to():
    calls = []
    shrunk(Case((normal(3, 3),), {}, Cotangent("random"), ("C",)), lambda c: calls.append(c) or False, tries=10)
    assert len(calls) == 10


def test_the_examples_of_the_handbook():
    """The section on strategies holds two tests. They pass."""
    text = (Path(strategies.__file__).parent / "README.md").read_text(encoding="utf-8")
    code = text.partition("## Strategies")[2].partition("```python")[2].partition("```")[0]
    names = {}
    exec(code, names)
    tests = [f for name, f in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        settings(FAST, max_examples=50)(test)()
    assert understand(np.arcsin).notes == ("x >= -1 and x <= 1",)
