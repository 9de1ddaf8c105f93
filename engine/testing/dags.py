"""Random expressions of arrays, as graphs: shared values, reused leaves, values cut off from their derivative, blocks.

    dags        a strategy of them
    Dag         one of them: call it on arrays; `source` prints it as Python
    frozen      the same function with its detached values held fixed: what derivatives must be those of
    NUMPY       what the words mean in NumPy; another engine gives its own dictionary

Every word is analytic, and values stay below 20 in size, so that a complex step gives the derivative to the last digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from engine.testing.drawing import Choices, Made, choice, one_in
from engine.testing.generate import a_shape

Shape = tuple[int, ...]
Words = Mapping[str, Callable[..., Any]]

NUMPY: dict[str, Callable[..., Any]] = {
    "sin": np.sin,
    "tanh": np.tanh,
    "exp": np.exp,
    "square": lambda x: x * x,
    "negative": lambda x: -x,
    "half": lambda x: 0.5 * x,
    "detach": lambda x: x,
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "over": lambda a, b: a / (2 + b * b),
    "matmul": lambda a, b: a @ b,
    "concatenate": lambda a, b, *, axis: np.concatenate([a, b], axis=axis),
    "sum": lambda x, *, axis, keepdims: np.sum(x, axis=axis, keepdims=keepdims),
    "mean": lambda x, *, axis, keepdims: np.mean(x, axis=axis, keepdims=keepdims),
    "cumsum": lambda x, *, axis: np.cumsum(x, axis=axis),
    "transpose": lambda x, *, axes: np.transpose(x, axes),
    "reshape": lambda x, *, shape: np.reshape(x, shape),
    "getitem": lambda x, *, key: x[key],
    "take": lambda x, *, indices, axis: np.take(x, np.array(indices), axis=axis),
    "block": lambda f, *xs: f(*xs),
}
"""What each word means. `detach(x)` is x without its derivative; `block(f, *xs)` is f(*xs), of which a tape may keep less."""

LARGEST = 20.0  # a value that could become larger is squashed first
MOST = 64  # elements of a value
START = 1.5  # leaves are this large at most


@dataclass(frozen=True)
class Node:
    """One word, applied to earlier values by their places; leaves come first."""

    word: str
    parents: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()
    inner: Dag | None = None

    def __call__(self, values: Sequence[Any], words: Words) -> Any:
        parents = [values[i] for i in self.parents]
        if self.inner is None:
            return words[self.word](*parents, **dict(self.options))
        inner = self.inner
        return words["block"](lambda *xs: inner(*xs, words=words)[0], *parents)


@dataclass(frozen=True)
class Dag:
    """An expression: leaves of these shapes, nodes in order, and the places of the values that it returns."""

    leaves: tuple[Shape, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]

    def __call__(self, *leaves: Any, words: Words = NUMPY) -> tuple[Any, ...]:
        """The outputs, a tuple."""
        values = list(leaves)
        for node in self.nodes:
            values.append(node(values, words))
        return tuple(values[i] for i in self.outputs)

    @property
    def words(self) -> set[str]:
        """The words in it, those in its blocks included."""
        return {n.word for n in self.nodes} | {w for n in self.nodes if n.inner for w in n.inner.words}

    def source(self, name: str = "f", *, inner: bool = False) -> str:
        """The expression as Python, in the words of NUMPY. An inner one returns an array, not a tuple."""
        lines: list[str] = []
        for i, node in enumerate(self.nodes):
            parents = [f"v{p}" for p in node.parents] + [f"{k}={v!r}" for k, v in node.options]
            if node.inner is not None:
                lines += [f"    {line}" for line in node.inner.source(f"b{len(self.leaves) + i}", inner=True).splitlines()]
                parents.insert(0, f"b{len(self.leaves) + i}")
            lines.append(f"    v{len(self.leaves) + i} = {node.word}({', '.join(parents)})")
        arguments = ", ".join(f"v{i}" for i in range(len(self.leaves)))
        shapes = ", ".join(map(str, self.leaves))
        results = ", ".join(f"v{i}" for i in self.outputs) + "," * (not inner)
        return "\n".join([f"def {name}({arguments}):  # {shapes}", *lines, f"    return {results}"])

    def __repr__(self) -> str:
        return self.source()


def frozen(dag: Dag, leaves: Sequence[Any]) -> Callable[..., tuple[Any, ...]]:
    """`dag` in NumPy with each detached value held at what it is at `leaves`."""
    held: list[Any] = []

    def hold(x: Any) -> Any:
        held.append(np.array(x))
        return x

    dag(*leaves, words={**NUMPY, "detach": hold})

    def f(*others: Any) -> tuple[Any, ...]:
        values = iter(held)
        return dag(*others, words={**NUMPY, "detach": lambda x: next(values)})

    return f


# Drawing.


@dataclass
class Draft:
    """An expression that grows: zeros in the shape of each value so far, and a bound on its size."""

    choices: Choices
    values: list[Any]
    bounds: list[float]
    nodes: list[Node] = field(default_factory=list)

    def add(self, node: Node, bound: float) -> int:
        """A new value, squashed if its numbers could be too large; none if they would be too many. The place of the last one."""
        made = np.asarray(node(self.values, NUMPY))
        if made.size > MOST:
            return len(self.values) - 1
        self.nodes.append(node)
        self.values.append(made)
        self.bounds.append(bound)
        last = len(self.values) - 1
        return last if bound <= LARGEST else self.add(Node("tanh", (last,)), 1.0)

    def pick(self) -> int:
        """The place of a value: the newest is the simplest, so that the simplest expression is a chain."""
        return len(self.values) - 1 - self.choices.integer(0, len(self.values) - 1)

    def shape(self, i: int) -> Shape:
        found: Shape = self.values[i].shape
        return found

    def finished(self, leaves: int) -> Dag:
        """Returns what nobody else uses, or, of leaves alone, the last leaf."""
        used = {p for node in self.nodes for p in node.parents}
        sinks = [i for i in range(leaves, len(self.values)) if i not in used]
        return Dag(tuple(v.shape for v in self.values[:leaves]), tuple(self.nodes), tuple(sinks or [leaves - 1]))


def dags(*, max_leaves: int = 3, max_nodes: int = 10, blocks: bool = True, detached: bool = True) -> SearchStrategy[Dag]:
    """Random expressions of 1 to `max_leaves` arrays in about `max_nodes` words at most.

    blocks      parts of them stand in blocks, to be checkpointed
    detached    some values are cut off from their derivative
    """

    def make(c: Choices) -> Dag:
        shapes = [a_shape(c, max_rank=2, max_elements=6) for _ in range(c.integer(1, max_leaves))]
        return _grown(c, shapes, c.integer(0, max_nodes), blocks, detached)

    return Made(make, "dags()")


def _grown(c: Choices, shapes: Sequence[Shape], count: int, blocks: bool, detached: bool) -> Dag:
    draft = Draft(c, [np.zeros(s) for s in shapes], [START] * len(shapes))
    ways = (*STEPS, _block) if blocks else STEPS
    for _ in range(count):
        choice(c, ways)(draft)
        if detached and one_in(c, 12):
            last = len(draft.values) - 1
            draft.add(Node("detach", (last,)), draft.bounds[last])
    return draft.finished(len(shapes))


def _alone(draft: Draft) -> None:
    """A word of one value, element by element."""
    i = draft.pick()
    bound = draft.bounds[i]
    grown = {"sin": 1.0, "tanh": 1.0, "negative": bound, "half": bound / 2, "square": bound * bound}
    if bound <= 3:
        grown["exp"] = math.exp(bound)
    word = choice(draft.choices, tuple(grown))
    draft.add(Node(word, (i,)), grown[word])


def _pair(draft: Draft) -> None:
    """Two values that broadcast, or one value twice."""
    i, j = draft.pick(), draft.pick()
    if not _broadcast(draft.shape(i), draft.shape(j)):
        j = i
    a, b = draft.bounds[i], draft.bounds[j]
    grown = {"multiply": a * b, "add": a + b, "subtract": a + b, "over": a / 2}
    word = choice(draft.choices, tuple(grown))
    draft.add(Node(word, (i, j)), grown[word])


def _broadcast(a: Shape, b: Shape) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False))


def _reduction(draft: Draft) -> None:
    i, c = draft.pick(), draft.choices
    shape = draft.shape(i)
    axis = choice(c, (None, *range(-len(shape), len(shape))))
    options = (("axis", axis), ("keepdims", bool(c.integer(0, 1))))
    n = math.prod(shape) if axis is None else shape[axis]
    word = choice(c, ("sum", "mean")) if n else "sum"  # the mean of nothing is not a number
    draft.add(Node(word, (i,), options), draft.bounds[i] * max(1, n))


def _rearrangement(draft: Draft) -> None:
    """The same numbers in another order or shape, or their running sums."""
    i, c = draft.pick(), draft.choices
    shape = draft.shape(i)
    word = choice(c, ("transpose", "flatten", "spread", "cumsum"))
    if word == "transpose":
        draft.add(Node(word, (i,), (("axes", tuple(range(len(shape)))[::-1]),)), draft.bounds[i])
    elif word == "cumsum" and shape:
        axis = c.integer(0, len(shape) - 1)
        draft.add(Node(word, (i,), (("axis", axis),)), draft.bounds[i] * max(1, shape[axis]))
    else:
        flat = word == "flatten" or len(shape) > 2
        draft.add(Node("reshape", (i,), (("shape", (math.prod(shape),) if flat else (*shape, 1)),)), draft.bounds[i])


KEYS = (slice(None, None, -1), 0, slice(None, None, 2), (Ellipsis, None), slice(1, None))


def _selection(draft: Draft) -> None:
    """Some of the elements, backwards, or several times."""
    i, c = draft.pick(), draft.choices
    shape = draft.shape(i)
    if not shape or not shape[0]:
        _alone(draft)
    elif c.integer(0, 1):
        draft.add(Node("getitem", (i,), (("key", choice(c, KEYS)),)), draft.bounds[i])
    else:
        chosen = tuple(c.integer(0, shape[0] - 1) for _ in range(c.integer(1, 3)))
        draft.add(Node("take", (i,), (("indices", chosen), ("axis", 0))), draft.bounds[i])


def _joining(draft: Draft) -> None:
    """A product of matrices, or two arrays in a row; of one array with itself where nothing else fits."""
    i, j = draft.pick(), draft.pick()
    left, right = draft.shape(i), draft.shape(j)
    if 0 < len(left) <= 2 and 0 < len(right) <= 2 and left[-1] == right[0] and not one_in(draft.choices, 3):
        draft.add(Node("matmul", (i, j)), draft.bounds[i] * draft.bounds[j] * max(1, left[-1]))
        return
    if len(left) != len(right) or left[1:] != right[1:]:
        j = i
    if left:
        draft.add(Node("concatenate", (i, j), (("axis", 0),)), max(draft.bounds[i], draft.bounds[j]))


def _block(draft: Draft) -> None:
    """An expression of its own, of one or two of the values."""
    c = draft.choices
    parents = [draft.pick() for _ in range(c.integer(1, 2))]
    parents = [p if draft.bounds[p] <= START else draft.add(Node("tanh", (p,)), 1.0) for p in parents]
    inner = _grown(c, [draft.shape(p) for p in parents], c.integer(1, 4), blocks=False, detached=True)
    inner = Dag(inner.leaves, inner.nodes, inner.outputs[-1:])
    draft.add(Node("block", tuple(parents), (), inner), LARGEST)


STEPS = (_alone, _pair, _pair, _reduction, _rearrangement, _selection, _joining)
"""The ways in which an expression grows."""
