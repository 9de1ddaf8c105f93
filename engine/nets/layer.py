"""A layer: how to make its arrays, which shape it gives, and what it computes.

Shapes are those of one example, without the batch axis: (1, 28, 28). What `apply` takes and returns has the batch axis in front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np

from engine.shapes import Shape, ShapeError

Arrays = dict[str, Any]


class NetError(ShapeError):
    """A layer was given what it cannot take. The message begins with the layer's path."""


class Part(NamedTuple):
    """A layer within a layer: its name there, and the shape that reaches it."""

    name: str
    layer: Layer
    shape: Shape


@dataclass(frozen=True, eq=False)
class Layer:
    """Two functions over flat dicts, `init` and `apply`, and what they say about shapes.

        params, state = net.init(seed, (1, 28, 28))
        y, state = net.apply(params, x, state, train=True, seed=3)
        y = net(params, x, state)                                    # to use it

    params   what is learned, state what is only observed (running statistics), both by name: "block1/conv1/w"
    seed     an integer; the same seed gives the same arrays and the same dropout
    """

    kind: str
    make: Callable[[int, Shape, Any], tuple[Arrays, Arrays]]  # seed, shape, dtype -> params, state
    out: Callable[[Shape], Shape]
    run: Callable[[Mapping[str, Any], Any, Mapping[str, Any], bool, int | None], tuple[Any, Arrays]]  # params, x, state, train, seed
    parts: Callable[[Shape], Iterable[Part]] | None = None
    name: str | None = None
    bare: bool = False  # it has no arrays: used twice in a net, it is two layers
    seen: list[Shape] = field(default_factory=list, repr=False)  # the input's shape at the last `init`, for printing

    def __post_init__(self) -> None:
        if self.name is not None and (not self.name or "/" in self.name):
            raise ValueError(f"a layer is called {self.name!r}: a name is not empty and has no slash, paths come from layers within layers")

    def init(self, seed: int, shape: Shape, dtype: Any = np.float32) -> tuple[Arrays, Arrays]:
        """Parameters and state for inputs of `shape`, without the batch axis.

        Raises NetError, naming the layer and the shapes, if they do not go together.
        """
        shape = _as_shape(shape)
        self.out(shape)  # all shapes, before any array is made
        self.seen[:] = [shape]
        return self.make(seed, shape, dtype)

    def apply(
        self, params: Mapping[str, Any], x: Any, state: Mapping[str, Any] | None = None, *, train: bool = False, seed: int | None = None
    ) -> tuple[Any, Arrays]:
        """The output for a batch x, and the new state. `train` turns dropout and batch statistics on; dropout wants a seed."""
        before = {} if state is None else state
        y, moved = self.run(params, x, before, train, seed)
        return y, {**before, **moved}

    def __call__(self, params: Mapping[str, Any], x: Any, state: Mapping[str, Any] | None = None) -> Any:
        """The output for a batch x, as in use: no dropout, running statistics."""
        return self.apply(params, x, state)[0]

    def table(self, shape: Shape | None = None) -> str:
        """A line for each layer: its path, what it gives for an input of `shape`, and how many numbers it learns."""
        from engine.nets.table import table

        return table(self, _as_shape(shape) if shape is not None else self.seen[0] if self.seen else None)

    def __str__(self) -> str:
        return self.table()


def layer(
    kind: str,
    init: Callable[[np.random.Generator, Shape, Any], Arrays],
    apply: Callable[[Mapping[str, Any], Any], Any],
    *,
    shape: Callable[[Shape], Shape] | None = None,
    name: str | None = None,
) -> Layer:
    """A layer of one's own, from two functions.

        def scale():
            return layer("scale", lambda rng, shape, dtype: {"s": np.ones(shape, dtype)}, lambda p, x: x * p["s"])

    init    (rng, shape, dtype) -> its arrays by name
    apply   (params, x) -> y
    shape   the output's shape from the input's; left out, it is found by a trial with zeros
    """

    def make(seed: int, given: Shape, dtype: Any) -> tuple[Arrays, Arrays]:
        return init(np.random.default_rng(seed), given, dtype), {}

    def trial(given: Shape) -> Shape:
        return without_batch(apply(init(np.random.default_rng(0), given, np.float32), np.zeros((1, *given), np.float32)))

    def run(params: Mapping[str, Any], x: Any, state: Mapping[str, Any], train: bool, seed: int | None) -> tuple[Any, Arrays]:
        return apply(params, x), {}

    return Layer(kind, make, shape or trial, run, name=name)


def function(
    f: Callable[[Any], Any], *, kind: str | None = None, shape: Callable[[Shape], Shape] | None = None, name: str | None = None
) -> Layer:
    """A layer without arrays that computes f(x), for an op or any function of ops and NumPy. `shape` as in `layer`."""

    def run(params: Mapping[str, Any], x: Any, state: Mapping[str, Any], train: bool, seed: int | None) -> tuple[Any, Arrays]:
        return f(x), {}

    def trial(given: Shape) -> Shape:
        return without_batch(f(np.zeros((1, *given), np.float32)))

    called = kind if kind is not None else str(getattr(f, "__name__", ""))
    return Layer(called if called.isidentifier() else "function", nothing, shape or trial, run, name=name, bare=True)


def nothing(seed: int, shape: Shape, dtype: Any) -> tuple[Arrays, Arrays]:
    """The arrays of a layer that has none."""
    return {}, {}


def same_shape(shape: Shape) -> Shape:
    """The output's shape of a layer that keeps it."""
    return shape


def without_batch(y: Any) -> Shape:
    """The shape of one example in a batch of one."""
    if np.ndim(y) == 0 or np.shape(y)[0] != 1:
        raise ShapeError(f"a batch of 1 came out with shape {np.shape(y)}: the first axis counts the examples and must stay")
    return tuple(np.shape(y)[1:])


def count(params: Mapping[str, Any]) -> int:
    """How many numbers there are in `params`."""
    return sum(math.prod(np.shape(p)) for p in params.values())


class inside:
    """`with inside("conv1"):` an error in the block is raised again with the layer's path in front."""

    __slots__ = ("name", "params")

    def __init__(self, name: str, params: Mapping[str, Any] | None = None):
        self.name = name
        self.params = params

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: Any) -> None:
        if isinstance(e, (ValueError, IndexError, KeyError)):
            self._raise(e)

    def _raise(self, e: Exception) -> NoReturn:
        if isinstance(e, NetError):
            raise NetError(f"{self.name}/{e}") from e.__cause__
        if isinstance(e, KeyError):
            there = ", ".join(self.params or ()) or "none"
            raise NetError(f"{self.name}: {e} is not among the arrays of this layer; there are: {there}") from e
        raise NetError(f"{self.name}: {e}") from e


def _as_shape(shape: Any) -> Shape:
    """`shape` as a tuple of plain integers."""
    axes: Iterator[Any] = iter(shape if isinstance(shape, Iterable) else (shape,))
    return tuple(int(n) for n in axes)
