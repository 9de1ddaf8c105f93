"""Nested dicts, lists and tuples of arrays, taken apart into leaves and put together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rebuild = Callable[[list[Any]], Any]


def flatten(tree: Any) -> tuple[list[Any], Rebuild]:
    """The leaves of `tree` in order, and the function that builds the same nesting around other leaves.

    dict, list, tuple and namedtuple are nesting; None is an empty branch; anything else is a leaf.
    """
    leaves: list[Any] = []
    shape = _take_apart(tree, leaves)

    def rebuild(others: list[Any]) -> Any:
        return _put_together(shape, iter(others))

    return leaves, rebuild


def tree_map(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`f` of the leaves that stand in the same place of each tree, in that nesting.

    Raises ValueError if the trees differ in their nesting.
    """
    leaves, rebuild = flatten(tree)
    columns = [leaves]
    for other in others:
        column, _ = flatten(other)
        if skeleton(other) != skeleton(tree):
            raise ValueError(f"these trees are nested differently:\n  {skeleton(tree)}\n  {skeleton(other)}")
        columns.append(column)
    return rebuild([f(*row) for row in zip(*columns, strict=True)])


def skeleton(tree: Any) -> Any:
    """The nesting alone, with `*` for each leaf: two trees fit each other if their skeletons are equal."""
    leaves, rebuild = flatten(tree)
    return rebuild(["*"] * len(leaves))


def paths(tree: Any, prefix: str = "") -> list[str]:
    """A name for each leaf, in the order of `flatten`: "w", "0", "block/w"."""
    if tree is None:
        return []
    if isinstance(tree, dict):
        return [p for k in tree for p in paths(tree[k], f"{prefix}/{k}")]
    if isinstance(tree, (list, tuple)):
        return [p for i, t in enumerate(tree) for p in paths(t, f"{prefix}/{i}")]
    return [prefix.lstrip("/")]


class _Leaf:
    """Stands for a leaf in a nesting."""


def _take_apart(tree: Any, leaves: list[Any]) -> Any:
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {k: _take_apart(v, leaves) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return _like(tree, [_take_apart(v, leaves) for v in tree])
    leaves.append(tree)
    return _Leaf


def _put_together(shape: Any, leaves: Any) -> Any:
    if shape is _Leaf:
        return next(leaves)
    if shape is None:
        return None
    if isinstance(shape, dict):
        return {k: _put_together(v, leaves) for k, v in shape.items()}
    return _like(shape, [_put_together(v, leaves) for v in shape])


def _like(sequence: Any, items: list[Any]) -> Any:
    if hasattr(sequence, "_fields"):  # a namedtuple takes its fields one by one
        return type(sequence)(*items)
    return type(sequence)(items)
