"""The shape notation."""

import numpy as np
import pytest

from engine.shapes import Notation, ShapeError
from engine.tree import flatten, paths, skeleton, tree_map


def infer(text, *shapes, **params):
    return Notation(text).infer("xyz"[: len(shapes)], shapes, params)


def test_names_bind_and_repeat():
    assert infer("m k, k n -> m n", (2, 3), (3, 4)) == [(2, 4)]
    with pytest.raises(ShapeError, match="axis k is 3 in x but 5 in y"):
        infer("m k, k n -> m n", (2, 3), (5, 4))


def test_expressions_on_the_right():
    assert infer("h w -> (h-i)//s+1 w", (9, 2), i=3, s=2) == [(4, 2)]
    with pytest.raises(ShapeError, match="smaller than the window"):
        infer("h -> h-5", (3,))


def test_dots_broadcast():
    assert infer("..., ... -> ...", (2, 1, 3), (4, 1)) == [(2, 4, 3)]
    assert infer("... m k, ... k n -> ... m n", (5, 1, 2, 3), (6, 3, 4)) == [(5, 6, 2, 4)]
    with pytest.raises(ShapeError, match="cannot broadcast"):
        infer("..., ... -> ...", (2,), (3,))


def test_broadcasting_is_numpys():
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = (tuple(rng.choice([0, 1, 2, 3], size=rng.integers(0, 4))) for _ in range(2))
        try:
            want = np.broadcast_shapes(a, b)
        except ValueError:
            with pytest.raises(ShapeError):
                infer("..., ... -> ...", a, b)
        else:
            assert infer("..., ... -> ...", a, b) == [want]


def test_several_outputs_and_fixed_sizes():
    assert infer("n 3 -> n, 3 n", (7, 3)) == [(7,), (3, 7)]
    with pytest.raises(ShapeError, match="axis 3 is wanted as 3 but 4 in x"):
        infer("n 3 -> n", (7, 4))


def test_ranks():
    with pytest.raises(ShapeError, match="x has 1 axes where 2 are wanted"):
        infer("m n -> n", (3,))
    with pytest.raises(ShapeError, match="x has 1 axes where at least 2 are wanted"):
        infer("... m n -> n", (3,))
    with pytest.raises(ValueError, match="has an arrow"):
        Notation("m n")


def test_trees():
    tree = {"a": [1, (2, None)], "b": 3}
    leaves, rebuild = flatten(tree)
    assert leaves == [1, 2, 3]
    assert rebuild([4, 5, 6]) == {"a": [4, (5, None)], "b": 6}
    assert tree_map(lambda x, y: x + y, tree, tree) == {"a": [2, (4, None)], "b": 6}
    assert tree_map(lambda x, y: x + y, tree, {"b": 30, "a": [10, (20, None)]}) == {"a": [11, (22, None)], "b": 33}
    assert paths(tree) == ["a/0", "a/1/0", "b"]
    assert skeleton((1, [2])) == ("*", ["*"])
    with pytest.raises(ValueError, match="nested differently"):
        tree_map(lambda x, y: x, [1], (1,))
