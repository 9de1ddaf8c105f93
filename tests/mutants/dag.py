"""Small autodiff engines with the classic faults: values that are used twice, views, writing in place.

The function under test is a fixed program. Its pull runs the same program on the engine below.
"""

from __future__ import annotations

import numpy as np

from mutants.record import call, fitted, right


class Node:
    """A value, and for each operand a function from this node's gradient to its share."""

    def __init__(self, value, parents=()):
        self.value, self.parents, self.grad = value, parents, 0.0

    def __add__(self, other):
        return Node(self.value + other.value, ((self, lambda g: g), (other, lambda g: g)))

    def __mul__(self, other):
        a, b = self.value, other.value
        return Node(a * b, ((self, lambda g: g * b), (other, lambda g: g * a)))


def in_order(node, seen=None, out=None):
    """Every node after all those that it was made of."""
    seen, out = set() if seen is None else seen, [] if out is None else out
    if id(node) not in seen:
        seen.add(id(node))
        for parent, _ in node.parents:
            in_order(parent, seen, out)
        out.append(node)
    return out


def walk(root, g):
    root.grad = g
    for node in reversed(in_order(root)):
        for parent, share in node.parents:
            parent.grad = parent.grad + share(node.grad)


def assigning_walk(root, g):
    root.grad = g
    for node in reversed(in_order(root)):
        for parent, share in node.parents:
            parent.grad = share(node.grad)


def recursive_walk(root, g):
    """Depth first, handing on all that a node has gathered so far each time it is reached."""

    def back(node):
        for parent, share in node.parents:
            parent.grad = parent.grad + share(node.grad)
            back(parent)

    root.grad = g
    back(root)


def once_each_walk(root, g):
    """Each operand of a node is served once, even if it stands on both sides."""
    root.grad = g
    for node in reversed(in_order(root)):
        served = set()
        for parent, share in node.parents:
            if id(parent) not in served:
                parent.grad = parent.grad + share(node.grad)
            served.add(id(parent))


def first_come_walk(root, g):
    """In the order of discovery from the root, so that a node may be left before all of its gradient has come."""
    root.grad = g
    queue, seen = [root], set()
    while queue:
        node = queue.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        for parent, share in node.parents:
            parent.grad = parent.grad + share(node.grad)
            queue.append(parent)


def by(walker, program):
    """A vjp that runs `program` on nodes and walks it back."""

    def rule(g, args, y):
        leaves = [Node(x) for x in args]
        walker(program(*leaves), g)
        return tuple(fitted(np.broadcast_to(leaf.grad, np.shape(y)), x).copy() for leaf, x in zip(leaves, args, strict=True))

    return rule


@right("..., ... -> ...")
def diamond(a, b):
    s = a * b
    t = s + a
    return t * s + t


@right("... -> ...")
def doubled(a):
    b = a + a
    return b * b


@right("..., ... -> ...")
def short_and_long_way(a, b):
    s = a * b
    u = s * s
    return s + u * u


diamond.vjp(by(walk, diamond.f))
doubled.vjp(by(walk, doubled.f))
short_and_long_way.vjp(by(walk, short_and_long_way.f))

diamond.mutant(
    "assigned, not added",
    source="cTensor#5, DLFS_code#13",
    fault="the last use of a value overwrites the gradient of the others",
    kills="DAG",
    at=call([2.0], [3.0]),
)(by(assigning_walk, diamond.f))

diamond.mutant(
    "handed on twice",
    source="micrograd#2",
    fault="a value that is used twice hands on the gradient of its first use again",
    kills="DAG",
    at=call([2.0], [3.0]),
)(by(recursive_walk, diamond.f))

short_and_long_way.mutant(
    "left too early",
    source="micrograd PR#102",
    fault="nodes are taken in the order of discovery, not of dependence",
    kills="DAG",
    at=call([2.0], [3.0]),
)(by(first_come_walk, short_and_long_way.f))

doubled.mutant(
    "a + a counted once",
    source="micrograd#2, cTensor#5",
    fault="the operands are kept in a set",
    kills="DAG",
    at=call([2.0]),
)(by(once_each_walk, doubled.f))


@right("n -> n")
def scaled_through_a_view(x):
    y = x * 1.0
    y[1:] *= 3.0
    return y * y


@scaled_through_a_view.vjp
def _(g, args, y):
    (x,) = args
    scale = np.where(np.arange(len(x)) > 0, 3.0, 1.0)
    return (2 * g * x * scale * scale,)


@scaled_through_a_view.mutant(
    "the view is forgotten",
    source="MyGrad@5b8448cf, pytorch#197054",
    fault="what is done to a view does not reach the gradient of what it is a view of",
    kills="value",
    at=call([1.0, 2.0]),
)
def _(g, args, y):
    (x,) = args
    scale = np.where(np.arange(len(x)) > 0, 3.0, 1.0)
    return (2 * g * x * scale,)


@right("n, -> n")
def overwritten_after_use(x, v):
    a = x * 1.0
    b = a * a
    a[:1] = v
    return b + a


@overwritten_after_use.vjp
def _(g, args, y):
    x, _ = args
    kept = np.arange(len(x)) > 0
    return g * (2 * x + kept), np.asarray(g[:1].sum())


@overwritten_after_use.mutant(
    "the saved value changed",
    source="pytorch#197887, #197054",
    fault="the square has kept the array that is then written into, and pulls with the new value",
    kills="value",
    at=call([1.0, 2.0], np.asarray(5.0)),
)
def _(g, args, y):
    x, v = args
    kept = np.arange(len(x)) > 0
    return g * (2 * np.where(kept, x, v) + kept), np.asarray(g[:1].sum())


@overwritten_after_use.mutant(
    "gradient to the overwritten value",
    source="MyGrad@9b958b90",
    fault="what was written over still gets the gradient of its place",
    kills="value",
    at=call([1.0, 2.0], np.asarray(5.0)),
)
def _(g, args, y):
    x, _ = args
    return g * (2 * x + 1), np.asarray(g[:1].sum())
