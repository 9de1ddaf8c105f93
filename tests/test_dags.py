"""Random expressions, with shared values, reused leaves, detached values and checkpointed blocks: every mode against a complex step."""

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from engine import checkpoint, jvp, ops, reverse, stop_gradient, vjp
from engine.testing.dags import NUMPY, Dag, Node, dags, frozen
from engine.testing.drawing import sample

H = 1e-30

OPS = {
    **NUMPY,
    "sin": ops.sin, "tanh": ops.tanh, "exp": ops.exp, "square": ops.square, "negative": ops.negative, "add": ops.add,
    "subtract": ops.subtract, "multiply": ops.multiply, "matmul": ops.matmul, "sum": ops.sum, "mean": ops.mean, "cumsum": ops.cumsum,
    "half": lambda x: ops.multiply(0.5, x),
    "over": lambda a, b: ops.divide(a, ops.add(2, ops.square(b))),
    "concatenate": lambda a, b, *, axis: ops.concat([a, b], axis=axis),
    "transpose": ops.permute_dims,
    "reshape": ops.reshape,
    "getitem": ops.getitem,
    "take": lambda x, *, indices, axis: ops.take(x, np.array(indices), axis=axis),
    "detach": stop_gradient,
    "block": lambda f, *xs: checkpoint(f)(*xs),
}  # fmt: skip
"""The engine's own words; a block is checkpointed."""

PROTOCOLS = {**NUMPY, "detach": stop_gradient, "block": lambda f, *xs: checkpoint(lambda *ys: f(*ys))(*xs)}
"""NumPy's words, which the engine's values answer."""


def with_ops(dag):
    return lambda *xs: dag(*xs, words=OPS)


def with_numpy(dag):
    return lambda *xs: dag(*xs, words=PROTOCOLS)


WAYS = [with_ops, with_numpy]


@st.composite
def placed(draw, **kinds):
    """An expression and where to differentiate it; now and then one array stands for two leaves."""
    dag = draw(dags(**kinds))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    leaves = [rng.uniform(-1.5, 1.5, s) for s in dag.leaves]
    if draw(st.booleans()) and len(leaves) > 1 and dag.leaves[0] == dag.leaves[1]:
        leaves[1] = leaves[0]
    return dag, leaves, rng


def random_like(rng, arrays):
    return [np.asarray(rng.uniform(-1, 1, np.shape(a))) for a in arrays]


def stepped(f, xs, dxs):
    """J dx by a complex step."""
    return [np.imag(y) / H for y in f(*[x + 1j * H * d for x, d in zip(xs, dxs, strict=True)])]


def pulled_back(f, xs, gs):
    """J' g by a complex step for each element."""
    grads = [np.zeros(x.shape) for x in xs]
    for place, x in enumerate(xs):
        for i in range(x.size):
            unit = [np.zeros(z.shape) for z in xs]
            unit[place].flat[i] = 1
            grads[place].flat[i] = sum(float(np.sum(g * d)) for g, d in zip(gs, stepped(f, xs, unit), strict=True))
    return grads


def agree(claimed, wanted, rtol=1e-11):
    scale = 1 + max((float(np.max(np.abs(w), initial=0)) for w in wanted), default=0)
    for c, w in zip(claimed, wanted, strict=True):
        assert np.shape(c) == np.shape(w)
        assert np.max(np.abs(c - w), initial=0) <= rtol * scale, f"{c} claimed, {w} by complex step"


def dot(a, b):
    return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))


# The laws.


def reverse_mode(dag, leaves, rng, way=with_ops):
    before = [x.copy() for x in leaves]
    y, pull = vjp(way(dag), *leaves)
    agree(y, dag(*leaves), 1e-13)
    gs = random_like(rng, y)
    kept = [g.copy() for g in gs]
    grads = pull(tuple(gs))
    agree(grads, pulled_back(frozen(dag, leaves), leaves, gs))
    agree(pull(tuple(gs)), grads, 0)
    assert all(np.array_equal(a, b) for a, b in zip([*leaves, *gs], [*before, *kept], strict=True)), "an input was written into"
    owned = [*grads, *{id(x): x for x in leaves}.values(), *gs]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(owned) for b in owned[:i]), "two arrays share a buffer"


def forward_mode(dag, leaves, rng, way=with_ops):
    dxs = random_like(rng, leaves)
    _, dy = jvp(way(dag), leaves, dxs)
    agree(dy, stepped(frozen(dag, leaves), leaves, dxs))


def second_order(dag, leaves, rng, way=with_ops):
    """The pull is pushed and pulled: it is the difference of the pull, and the two are transposes of each other."""
    f = way(dag)
    gs = tuple(random_like(rng, dag(*leaves)))
    dxs, us = random_like(rng, leaves), random_like(rng, leaves)

    def pull(*xs):
        return vjp(f, *xs)[1](gs)

    _, pushed = jvp(pull, leaves, dxs)
    smooth, h = frozen(dag, leaves), 1e-4
    ends = [pulled_back(smooth, [x + s * h * d for x, d in zip(leaves, dxs, strict=True)], gs) for s in (1, -1)]
    agree(pushed, [(a - b) / (2 * h) for a, b in zip(*ends, strict=True)], 1e-5)
    back = vjp(pull, *leaves)[1](tuple(us))
    scale = 1 + sum(float(np.sum(np.abs(a))) for a in (*pushed, *back))
    assert abs(dot(us, pushed) - dot(back, dxs)) <= 1e-11 * scale
    _, twice = jvp(lambda *xs: jvp(f, xs, us)[1], leaves, dxs)
    assert abs(dot(gs, twice) - dot(us, pushed)) <= 1e-11 * scale * 10


LAWS = [reverse_mode, forward_mode, second_order]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("law", LAWS)
def test_every_mode_is_right_on_every_expression(law, way):
    @given(placed())
    @settings(max_examples=5 * settings().max_examples)
    def check(drawn):
        law(*drawn, way=way)

    check()


@given(placed(max_nodes=6))
def test_third_order(drawn):
    """Forward over reverse over forward, and reverse over reverse over forward, are transposes of each other."""
    dag, leaves, rng = drawn
    f = with_ops(dag)
    gs = tuple(random_like(rng, dag(*leaves)))
    dxs, us, vs = (random_like(rng, leaves) for _ in range(3))

    def pushed(*xs):
        return jvp(lambda *zs: vjp(f, *zs)[1](gs), xs, vs)[1]

    _, third = jvp(pushed, leaves, dxs)
    back = vjp(pushed, *leaves)[1](tuple(us))
    scale = 1 + sum(float(np.sum(np.abs(a))) for a in (*third, *back))
    assert abs(dot(us, third) - dot(back, dxs)) <= 1e-10 * scale


@given(placed())
def test_a_checkpoint_changes_no_number(drawn):
    dag, leaves, rng = drawn
    f = with_ops(dag)
    y, pull = vjp(f, *leaves)
    gs = tuple(random_like(rng, y))
    whole, pull_again = vjp(checkpoint(lambda *xs: f(*xs)), *leaves)
    agree(whole, y, 0)
    agree(pull_again(gs), pull(gs), 1e-13)
    dxs = random_like(rng, leaves)
    agree(jvp(checkpoint(f), leaves, dxs)[1], jvp(f, leaves, dxs)[1], 1e-13)


@given(placed())
def test_single_precision_stays_single(drawn):
    dag, leaves, rng = drawn
    low = [x.astype(np.float32) for x in leaves]
    y, pull = vjp(with_ops(dag), *low)
    gs = [g.astype(np.float32) for g in random_like(rng, y)]
    grads = pull(tuple(gs))
    assert {np.asarray(a).dtype for a in (*y, *grads)} == {np.dtype(np.float32)}
    wide = [x.astype(np.float64) for x in low]
    agree(grads, pulled_back(frozen(dag, wide), wide, gs), 1e-3)


@given(placed())
def test_outputs_without_a_cotangent_send_nothing(drawn):
    dag, leaves, rng = drawn
    y, pull = vjp(with_ops(dag), *leaves)
    gs = random_like(rng, y)
    total = [np.zeros(x.shape) for x in leaves]
    for i in range(len(gs)):
        alone = tuple(g if i == j else np.zeros(g.shape) for j, g in enumerate(gs))
        total = [t + p for t, p in zip(total, pull(alone), strict=True)]
    agree(total, pull(tuple(gs)), 1e-12)


# The expressions themselves.


def test_expressions_say_everything():
    found = [sample(dags(), seed) for seed in range(300)]
    assert {w for dag in found for w in dag.words} == set(NUMPY)
    uses = [[p for node in dag.nodes for p in node.parents] for dag in found]
    assert sum(any(used.count(p) > 1 for p in used) for used in uses) > 100
    assert sum(any(len(set(node.parents)) < len(node.parents) for node in dag.nodes) for dag in found) > 50
    assert sum(any(i not in used for i in range(len(dag.leaves))) for dag, used in zip(found, uses, strict=True)) > 20
    assert any(len(dag.outputs) > 2 for dag in found)
    assert any(0 in shape for dag in found for shape in dag.leaves)


def test_values_stay_moderate():
    rng = np.random.default_rng(0)
    for seed in range(200):
        dag = sample(dags(max_nodes=30), seed)
        y = dag(*[rng.choice([-1.5, 1.5], s) for s in dag.leaves])
        assert all(np.abs(part).max(initial=0) <= 20 for part in y)
        assert all(np.size(part) <= 64 for part in y)


def test_without_blocks_and_detached_values():
    found = {w for seed in range(100) for w in sample(dags(blocks=False, detached=False), seed).words}
    assert not {"block", "detach"} & found


def test_the_source_is_python():
    inner = Dag(((2,),), (Node("sin", (0,)),), (1,))
    dag = Dag(
        ((2,), ()), (Node("block", (0,), (), inner), Node("add", (2, 1)), Node("sum", (3,), (("axis", None), ("keepdims", False)))), (4,)
    )
    assert dag.source() == (
        "def f(v0, v1):  # (2,), ()\n"
        "    def b2(v0):  # (2,)\n"
        "        v1 = sin(v0)\n"
        "        return v1\n"
        "    v2 = block(b2, v0)\n"
        "    v3 = add(v2, v1)\n"
        "    v4 = sum(v3, axis=None, keepdims=False)\n"
        "    return v4,"
    )
    for seed in range(50):
        drawn = sample(dags(), seed)
        names = dict(NUMPY)
        exec(drawn.source(), names)
        leaves = [np.full(s, 0.5) for s in drawn.leaves]
        assert all(np.array_equal(a, b) for a, b in zip(names["f"](*leaves), drawn(*leaves), strict=True))


def test_detached_values_are_held():
    dag = Dag(((),), (Node("detach", (0,)), Node("multiply", (0, 1))), (2,))
    f = frozen(dag, [np.array(3.0)])
    assert f(np.array(5.0)) == (15.0,)
    assert dag(np.array(5.0)) == (25.0,)


# Broken engines, which the laws must catch.


def assigning(self, node, g, fresh):
    self.sums[node] = g


def sharing(self, node):
    return self.sums.get(node, np.zeros(self.tape.shapes[node]))


BROKEN = {
    "assigns where it should add": (reverse.Gradients, "add", assigning, reverse_mode, "by complex step"),
    "hands out shared buffers": (reverse.Gradients, "result", sharing, reverse_mode, "share a buffer|written into"),
}


def first_failure(law, **kinds):
    found = []

    def fails(drawn):
        try:
            law(*drawn)
        except AssertionError as e:
            found.append(str(e))
            return True
        return False

    try:
        dag = find(placed(**kinds), fails, settings=settings(max_examples=300, database=None, deadline=None))[0]
    except NoSuchExample:
        return None, ""
    return dag, found[-1]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tape_is_caught_and_the_expression_is_small(name, monkeypatch):
    where, method, wrong, law, message = BROKEN[name]
    monkeypatch.setattr(where, method, wrong)
    dag, said = first_failure(law)
    assert any(part in said for part in message.split("|"))
    assert len(dag.nodes) <= 2


@pytest.mark.parametrize(
    ("word", "wrong"),
    [("detach", lambda x: x), ("square", lambda x: stop_gradient(x) * x), ("block", lambda f, *xs: stop_gradient(f(*xs)))],
)
def test_a_wrong_word_is_caught(word, wrong, monkeypatch):
    monkeypatch.setitem(OPS, word, wrong)
    dag, _ = first_failure(forward_mode)
    assert word in dag.words
    assert len(dag.nodes) <= 3


def test_a_wrong_second_derivative_is_caught(monkeypatch):
    """sin with the right slope, taken as a constant: nothing of first order can see it."""
    monkeypatch.setitem(OPS, "sin", lambda x: ops.sin(stop_gradient(x)) + stop_gradient(ops.cos(x)) * (x - stop_gradient(x)))
    dag, _ = first_failure(second_order)
    assert dag is not None
    assert "sin" in dag.words
    assert len(dag.nodes) <= 2
