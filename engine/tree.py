"""Nested dicts, lists and tuples of arrays, taken apart into leaves and put together again."""

from __future__ import annotations

import copy
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
        if skeleton(other) != skeleton(tree):
            raise ValueError(f"these trees are nested differently:\n  {skeleton(tree)}\n  {skeleton(other)}")
        columns.append(leaves_as(tree, other))
    return rebuild([f(*row) for row in zip(*columns, strict=True)])


def skeleton(tree: Any) -> Any:
    """The nesting alone, with `*` for each leaf: two trees fit each other if their skeletons are equal."""
    leaves, rebuild = flatten(tree)
    return rebuild(["*"] * len(leaves))


def leaves_as(model: Any, tree: Any) -> list[Any]:
    """The leaves of `tree` in the order of `model`, which has the same skeleton: of two equal dicts each may have its own order."""
    if isinstance(model, dict):
        return [leaf for k in model for leaf in leaves_as(model[k], tree[k])]
    if isinstance(model, (list, tuple)):
        return [leaf for m, t in zip(model, tree, strict=True) for leaf in leaves_as(m, t)]
    return [] if model is None else [tree]


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


class _Names(tuple[Any, ...]):
    """Stands for a dict of leaves: their names."""

    __slots__ = ()


def _take_apart(tree: Any, leaves: list[Any]) -> Any:
    if tree is None:
        return None
    if type(tree) is dict and not any(map(_nests, tree.values())):
        leaves.extend(tree.values())  # a flat dict, as the parameters of a model are
        return _Names(tree)
    if isinstance(tree, dict):
        return _like_dict(tree, {k: _take_apart(v, leaves) for k, v in tree.items()})
    if isinstance(tree, (list, tuple)):
        return _like(tree, [_take_apart(v, leaves) for v in tree])
    leaves.append(tree)
    return _Leaf


def _nests(tree: Any) -> bool:
    return tree is None or isinstance(tree, (dict, list, tuple))


def _put_together(shape: Any, leaves: Any) -> Any:
    if shape is _Leaf:
        return next(leaves)
    if type(shape) is _Names:
        return dict(zip(shape, leaves))  # noqa: B905   of the leaves it takes as many as there are names
    if shape is None:
        return None
    if isinstance(shape, dict):
        return _like_dict(shape, {k: _put_together(v, leaves) for k, v in shape.items()})
    return _like(shape, [_put_together(v, leaves) for v in shape])


def _like_dict(model: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    if type(model) is dict:
        return items
    other = copy.copy(model)  # an OrderedDict, a defaultdict with its factory
    other.update(items)
    return other


def _like(sequence: Any, items: list[Any]) -> Any:
    if hasattr(sequence, "_fields"):  # a namedtuple takes its fields one by one
        return type(sequence)(*items)
    return type(sequence)(items)
