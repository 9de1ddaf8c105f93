"""Products of matrices and vectors, against NumPy's, in value, slope, second order, shape, dtype and message."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slopes import check, near

from engine import ShapeError, grad, jvp, ops, vjp
from engine.explain import rules
from engine.interpret import Interpreter, interpreting
from engine.traced import OPS

RNG = np.random.default_rng(0)


def random(*shapes):
    return [RNG.normal(size=s) for s in shapes]


MATMUL = [
    ((2, 3), (3, 4)), ((1, 3), (3, 1)), ((7, 5), (5, 11)), ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((4, 2, 3), (3,)),
    ((3,), (4, 3, 2)), ((4, 2, 3), (3, 5)), ((2, 3), (4, 3, 5)), ((4, 1, 2, 3), (5, 3, 2)), ((4, 2, 3), (1, 3, 2)), ((1, 1), (1, 1)),
    ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((2, 3), (3, 0)), ((0,), (0,)), ((0,), (0, 4)), ((0, 2, 3), (3, 4)), ((0, 2, 0), (0, 4)),
    ((5, 0, 3), (3, 4)), ((2, 2, 0), (0,)), ((1, 2, 3), (0, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("shapes", MATMUL, ids=str)
def test_matmul(shapes):
    check(ops.matmul, np.matmul, *random(*shapes))


class Noting(Interpreter):
    """Note the shapes of every call."""

    def __init__(self):
        self.calls = []

    def apply(self, op, args, params):
        self.calls.append((op.name, *[np.shape(a) for a in args]))
        return op.run(args, params)


def test_one_matrix_for_a_stack_is_one_product():
    x, w = random((4, 2, 3), (3, 5))
    noting = Noting()
    with interpreting(noting):
        ops.matmul(x, w)
    assert ("matmul", (8, 3), (3, 5)) in noting.calls
    assert OPS["matmul"].notation.text == "... m k, ... k n -> ... m n"


@pytest.mark.parametrize(
    "shapes", [((2, 3), (3,)), ((4, 2, 3), (3,)), ((2, 3), (4, 3)), ((4, 2, 3), (4, 3)), ((5, 1, 0, 3), (2, 3))], ids=str
)
def test_matvec(shapes):
    check(ops.matvec, lambda x, w: np.einsum("...mk,...k->...m", x, w), *random(*shapes))


@pytest.mark.parametrize("x, w", [((20, 3), (3,)), ((3,), (3, 5)), ((3,), (3,))])
def test_a_product_with_a_vector_is_one_product(x, w):
    noting = Noting()
    with interpreting(noting):
        ops.matmul(*random(x, w))
    assert [name for name, *_ in noting.calls if name != "matrix_transpose"] in (["matvec"], ["vecdot"])


def test_the_rules_of_the_function_are_those_of_the_op():
    assert rules(ops.matmul) == rules("matmul") == rules(OPS["matmul"])
    with pytest.raises(KeyError, match="no op is called 'outer'"):
        rules(ops.outer)


REFUSED = [((), (3,)), ((2, 3), ()), ((2, 3), (2,)), ((3,), (2, 3)), ((2, 3), (2, 3)), ((4, 2, 3), (2, 5)), ((2, 2, 3), (3, 3, 2))]


@pytest.mark.parametrize("bad", REFUSED, ids=str)
def test_matmul_refuses_what_numpy_refuses(bad):
    x, w = random(*bad)
    with pytest.raises(ValueError):
        np.matmul(x, w)
    with pytest.raises(ShapeError):
        ops.matmul(x, w)


def test_matmul_says_what_clashed():
    with pytest.raises(ShapeError) as e:
        ops.matmul(np.zeros((2, 3)), np.zeros((4, 5)))
    assert str(e.value) == "matmul: axis k is 3 in x but 4 in w\n  wants  ... m k, ... k n -> ... m n\n  given  x: (2, 3)  w: (4, 5)"
    with pytest.raises(ShapeError) as e:
        ops.matmul(np.zeros((7, 2, 3)), np.zeros(4))
    assert str(e.value) == "matmul: axis k is 3 in x but 4 in w\n  wants  ... m k, k -> ... m\n  given  x: (7, 2, 3)  w: (4,)"
    with pytest.raises(ShapeError, match=r"w is a scalar.*\n.*\n.*x: \(2,\)  w: \(\)"):
        ops.matmul(np.zeros(2), 3.0)


@pytest.mark.parametrize("a", list("?bhilefdFD"))
@pytest.mark.parametrize("b", list("?hlfdD"))
def test_matmul_promotes_as_numpy(a, b):
    x, w = np.ones((2, 3), a), np.ones((3, 2), b)
    want = np.matmul(x, w)
    got = ops.matmul(x, w)
    assert got.dtype == want.dtype and np.array_equal(got, want)


def test_gradients_are_single_contiguous_and_apart():
    x, w = (a.astype(np.float32) for a in random((4, 3), (3, 5)))
    _, pull = vjp(ops.matmul, x, w)
    g = np.ones((4, 5), np.float32)
    gx, gw = pull(g)
    for a in (gx, gw):
        assert a.dtype == np.float32 and a.flags.c_contiguous
    assert not any(np.shares_memory(a, b) for a in (gx, gw) for b in (x, w, g)) and not np.shares_memory(gx, gw)


@pytest.mark.parametrize("turn", [lambda a: np.asfortranarray(a), lambda a: a[::-1, ::-1], lambda a: np.repeat(a, 2, 1)[:, ::2]])
def test_strides_do_not_matter_and_inputs_are_left_alone(turn):
    x, w = (turn(a) for a in random((4, 3), (3, 5)))
    x0, w0 = x.copy(), w.copy()
    x.flags.writeable = w.flags.writeable = False
    check(ops.matmul, np.matmul, x, w)
    assert np.array_equal(x, x0) and np.array_equal(w, w0)


def test_lists_and_scalars_are_arrays():
    assert ops.matmul([[1, 2]], [3, 4]).tolist() == [11]
    assert ops.dot(2, [1.0, 3.0]).tolist() == [2, 6]
    assert ops.outer([1, 2], 3).tolist() == [[3], [6]]


def test_the_operator_and_the_numpy_functions_differentiate():
    a, b, v = random((3, 3), (3, 3), (3,))

    def f(a, b, v, m):
        y = m.tensordot(a @ b, m.kron(a, b)[:3, :3], axes=1) + m.outer(v, v @ a) + m.inner(a, b) * m.vdot(a, b)
        return m.einsum("ij,j->i", y, m.dot(b, v)) + m.tensordot(a, b, axes=((1,), (1,))) @ v

    check(lambda a, b, v: f(a, b, v, ops), lambda a, b, v: f(a, b, v, np), *[0.3 * x for x in (a, b)], v, analytic=False)
    check(lambda a, b, v: f(a, b, v, np), lambda a, b, v: f(a, b, v, np), *[0.3 * x for x in (a, b)], v, analytic=False)


DOT = [((), (3,)), ((2, 3), ()), ((3,), (3,)), ((2, 3), (3,)), ((4, 2, 3), (3,)), ((3,), (3, 2)), ((4, 2, 3), (3, 5)), ((3,), (4, 3, 5)),
       ((2, 3), (4, 3, 5)), ((4, 2, 3), (2, 3, 5)), ((0, 3), (2, 3, 2)), ((2, 0), (0, 2))]  # fmt: skip


@pytest.mark.parametrize("shapes", DOT, ids=str)
def test_dot(shapes):
    check(ops.dot, np.dot, *random(*shapes))


@pytest.mark.parametrize(
    "shapes", [((3,), (3,)), ((2, 3), (3,)), ((3,), (4, 3)), ((4, 2, 3), (5, 3)), ((), (2, 3)), ((2,), ()), ((0,), (2, 0))], ids=str
)
def test_inner(shapes):
    check(ops.inner, np.inner, *random(*shapes))


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((2, 3), (4,)), ((), (3,)), ((0,), (3,)), ((), ())], ids=str)
def test_outer(shapes):
    check(ops.outer, np.outer, *random(*shapes))


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5)), ((3,), (4, 2)), ((2, 1, 3), (2, 2)), ((), (2, 2)), ((0, 2), (3, 3))], ids=str)
def test_kron(shapes):
    check(ops.kron, np.kron, *random(*shapes))


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((2, 3), (6,)), ((2, 0), (0,)), ((), ())], ids=str)
def test_vdot(shapes):
    check(ops.vdot, np.vdot, *random(*shapes), analytic=False)


VECDOT = [(((3,), (3,)), -1), (((2, 3), (4, 1, 3)), -1), (((3, 2), (3, 2)), 0), (((2, 0), (2, 0)), 1), (((4, 3, 2), (3, 1)), -2)]


@pytest.mark.parametrize("shapes, axis", VECDOT, ids=str)
def test_vecdot(shapes, axis):
    def by_hand(x, w):
        return np.sum(np.moveaxis(x, axis, -1) * np.moveaxis(w, axis, -1), axis=-1)

    check(lambda x, w: ops.vecdot(x, w, axis=axis), by_hand, *random(*shapes))


def test_a_complex_first_vector_is_conjugated():
    z = np.array([1 + 2j, 3j])
    assert ops.vecdot(z, z) == ops.vdot(z, z) == 14


TENSORDOT = [
    ((2, 3), (3, 4), 1), ((2, 3), (4, 5), 0), ((2, 3, 4), (3, 4, 5), 2), ((2, 3, 4), (4, 2, 5), ((0, 2), (1, 0))),
    ((2, 3), (5, 3), (1, 1)), ((2, 3), (5, 3), (-1, [-1])), ((2, 3, 4), (2, 3, 4), 3), ((3, 0), (0, 2), 1), ((), (3,), 0),
    ((2, 3, 3), (3, 3), ((2, 1), (0, 1))),
]  # fmt: skip


@pytest.mark.parametrize("m, n, axes", TENSORDOT, ids=str)
def test_tensordot(m, n, axes):
    check(lambda x, w: ops.tensordot(x, w, axes=axes), lambda x, w: np.tensordot(x, w, axes=axes), *random(m, n))


CLASHES = [
    (1, "axis 1 of x has size 3 but axis 0 of w has 2"),
    (3, "which has 2 axes"),
    (((0, 1), (0,)), "2 axes of x against 1 of w"),
    (((0, 0), (0, 1)), "named twice"),
    (((5,), (0,)), r"axes \(5,\) of x"),
]


@pytest.mark.parametrize("axes, says", CLASHES)
def test_tensordot_says_what_clashed(axes, says):
    x, w = random((2, 3), (2, 3))
    with pytest.raises(ShapeError, match=says):
        ops.tensordot(x, w, axes=axes)


def test_tensordot_wants_axes():
    with pytest.raises(TypeError, match="axes is an integer, or the axes of x and those of w"):
        ops.tensordot(*random((2, 3), (2, 3)), axes="ij")
    with pytest.raises(ShapeError, match="vdot: x has 6 elements but w has 5"):
        ops.vdot(*random((2, 3), (5,)))


# Einstein's sums.

EINSUM = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("ij,kj->ki", (2, 3), (4, 3)), ("ij,jk,kl", (2, 3), (3, 4), (4, 2)),
    ("ij,jk,kl,lm->im", (2, 3), (3, 4), (4, 2), (2, 2)), ("i,j,k->ijk", (2,), (3,), (4,)), ("bij,bjk->bik", (2, 2, 3), (2, 3, 4)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)), ("ij->ji", (2, 3)), ("ij->j", (2, 3)), ("ij->", (2, 3)), ("ijk->kj", (2, 3, 4)),
    ("ii", (3, 3)), ("ii->i", (3, 3)), ("iij->ij", (3, 3, 2)), ("iji->j", (3, 2, 3)), ("iii->", (3, 3, 3)), ("iii->i", (3, 3, 3)),
    ("iijj->ij", (2, 2, 3, 3)), ("iij,j->i", (3, 3, 2), (2,)), ("ii,ii->", (3, 3), (3, 3)), ("ii,jj->ij", (2, 2), (3, 3)),
    ("i,i->", (4,), (4,)), ("i,i->i", (4,), (4,)), ("i,i,i->", (4,), (4,), (4,)), ("ij,kl->", (2, 3), (4, 5)), ("ij,j->", (2, 3), (3,)),
    ("ij,k->ik", (2, 3), (4,)), (",ij->ji", (), (2, 3)), (",->", (), ()), ("->", ()), ("Ba", (2, 3)), ("bA,Ac", (2, 3), (3, 4)),
    ("ij,ij->ij", (1, 3), (2, 3)), ("ij,ij->", (1, 3), (2, 3)), ("ij,jk->ik", (2, 1), (3, 4)), ("ij,j->i", (2, 4), (1,)),
    ("ii,ij->j", (1, 1), (3, 2)), ("ij,ij->j", (3, 1), (1, 2)), (" i j , j k -> i k ", (2, 3), (3, 4)),
    ("...ij,...jk->...ik", (4, 2, 3), (1, 3, 2)), ("...ij,...jk", (5, 1, 2, 3), (4, 3, 2)), ("...,...->...", (3,), (2, 1)),
    ("...,...", (), ()), ("...,...", (2, 3), ()), ("i...->...", (2, 1, 3)), ("i...->i...", (2, 3)), ("...i->...", (3,)),
    ("...ii->...i", (2, 3, 3)), ("i...i->...", (3, 2, 3)), ("i...,ij...->j...", (2, 3), (2, 4, 3)), ("ij...,jk->ik...", (2, 3, 4), (3, 5)),
    ("...i,i", (2, 3), (3,)), ("...i,...i->", (3,), (3,)), ("a...b,b->...a", (2, 3, 1, 4), (4,)), ("...a,...->a...", (2, 3), (1,)),
    ("i,i->i", (0,), (0,)), ("ij,jk->ik", (2, 0), (0, 3)), ("ij->i", (2, 0)), ("ij,k->ik", (2, 3), (0,)), ("ii", (0, 0)),
    ("...ij,...jk->...ik", (0, 2, 3), (3, 4)), ("ij,j->i", (3, 0), (1,)), ("i,i->", (1,), (0,)),
]  # fmt: skip


@pytest.mark.parametrize("case", EINSUM, ids=str)
def test_einsum(case):
    text, *shapes = case
    check(lambda *xs: ops.einsum(text, *xs), lambda *xs: np.einsum(text, *xs), *random(*shapes))


@pytest.mark.parametrize("text, sizes", [("ij,jk->ik", {"i": 40, "j": 30, "k": 50}), ("bqd,bkd->bqk", {"b": 6, "q": 20, "k": 21, "d": 8})])
def test_a_large_einsum_is_the_same_product(text, sizes):
    xs = random(*[[sizes[i] for i in term] for term in text.partition("->")[0].split(",")])
    check(lambda *xs: ops.einsum(text, *xs), lambda *xs: np.einsum(text, *xs), *xs, second=False)


@given(st.data())
def test_any_subscripts(data):
    letters = st.sampled_from("abcdE")
    terms = data.draw(st.lists(st.text(letters, max_size=3), min_size=1, max_size=3))
    named = sorted(set("".join(terms)))
    out = "".join(data.draw(st.lists(st.sampled_from(named), unique=True, max_size=3))) if named else ""
    sizes = {i: data.draw(st.integers(0, 3)) for i in named}
    text = ",".join(terms) + data.draw(st.sampled_from(["->" + out, ""]))
    xs = [np.random.default_rng(n).normal(size=[sizes[i] for i in t]) for n, t in enumerate(terms)]
    check(lambda *xs: ops.einsum(text, *xs), lambda *xs: np.einsum(text, *xs), *xs, second=False)


def test_subscripts_as_lists():
    x, w = random((4, 2, 3), (3, 5))
    for given_, text in [((x, [Ellipsis, 0, 1], w, [1, 2], [Ellipsis, 0, 2]), "...ij,jk->...ik"), ((x, [2, 0, 1], w, [1, 3]), "cab,bd")]:
        near(ops.einsum(*given_), np.einsum(text, x, w), 1e-13)
        near(ops.einsum(*given_), np.einsum(*given_), 1e-13)
    d = jvp(lambda x: np.einsum(x, [0, 1, 2], [0]), (x,), (np.ones_like(x),))[1]
    assert d.tolist() == [6.0] * 4
    with pytest.raises(TypeError, match="a list of indices after each operand, not int"):
        ops.einsum(x, 3)


@pytest.mark.parametrize("text, shapes, says", [
    ("ij,jk->ik", ((2, 3), (4, 5)), r"index j is 3 so far but 4 in operand 1\n.*xs\[0\]: \(2, 3\)  xs\[1\]: \(4, 5\)"),
    ("ij,jk->il", ((2, 3), (3, 4)), "index l of the result is in no operand"),
    ("ij->ii", ((2, 3),), "index i of the result is there twice"),
    ("ij,jk", ((2, 3),), "names 2 operands, 1 were given"),
    ("ij", ((2, 3, 4),), "operand 0 has 3 axes, 'ij' names 2"),
    ("ijk", ((2, 3),), "operand 0 has 2 axes, 'ijk' names 3"),
    ("...ijk", ((2, 3),), "operand 0 has 2 axes"),
    ("ii", ((2, 3),), "different sizes in operand 0"),
    ("...i->i", ((2, 3),), "not in the result"),
    ("i;j", ((2, 3),), "wanted are letters"),
    ("i..j", ((2, 3),), "dots come in threes"),
    ("ij->i->j", ((2, 3),), "wanted are letters"),
])  # fmt: skip
def test_einsum_says_what_clashed(text, shapes, says):
    with pytest.raises(ShapeError, match=says):
        ops.einsum(text, *random(*shapes))


def test_einsum_in_single_precision():
    x, w = (a.astype(np.float32) for a in random((3, 3, 2), (2,)))
    y, pull = vjp(lambda x, w: ops.einsum("iij,j->i", x, w), x, w)
    assert y.dtype == np.float32 and all(g.dtype == np.float32 for g in pull(y))


def test_third_derivative_of_a_product_of_three():
    a = RNG.normal(size=(3, 3))
    directions = random(*[(3, 3)] * 3)

    def f(x):
        return ops.einsum("ij,jk,ki->", x, x, x)

    def along(f, d):
        return lambda x: jvp(f, (x,), (d,))[1]

    third = along(along(along(f, directions[0]), directions[1]), directions[2])(a)
    p, q, r = directions
    assert np.isclose(third, 3 * np.trace(p @ q @ r) + 3 * np.trace(p @ r @ q))
    assert np.allclose(grad(f)(a), 3 * (a @ a).T)
