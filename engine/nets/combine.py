"""Layers made of layers: one after the other, around a shortcut, side by side.

A part without a name is called by its kind and a number, "conv1", "conv2", in the order of the arguments. The names are the
first words of the paths: "block1/conv1/w". The same layer with arrays, given twice, has them once: its uses are tied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from engine import ops
from engine.nets.layer import Arrays, Layer, Part, function, inside
from engine.seed import fold
from engine.shapes import Shape, ShapeError

Named = list[tuple[str, Layer]]


def serial(*layers: Layer | Callable[[Any], Any], name: str | None = None) -> Layer:
    r"""$y = f_k(\ldots f_2(f_1(x)))$: each layer takes what the one before it gives. A plain function is a layer too."""
    named = named_parts(layers)

    def run(params: Mapping[str, Any], x: Any, state: Mapping[str, Any], train: bool, seed: int | None) -> tuple[Any, Arrays]:
        scope = Scope(params, state, train, seed)
        for part, inner in named:
            x = scope.run(part, inner, x)
        return x, scope.state

    return combined("serial", lambda shape: chain(named, shape), lambda shape: end_of(named, shape), run, name)


def residual(*layers: Layer | Callable[[Any], Any], shortcut: Layer | None = None, name: str | None = None) -> Layer:
    r"""$y = f_k(\ldots f_1(x)) + x$, or $\ldots + s(x)$ with a layer as `shortcut` where f changes the shape

    Source: He, Zhang, Ren & Sun (2016), Deep residual learning for image recognition, eq. 1 and 2.
    """
    named = named_parts(layers)
    aside = [] if shortcut is None else [("shortcut", shortcut)]

    def parts(shape: Shape) -> Iterator[Part]:
        yield from chain(named, shape)
        yield from chain(aside, shape)

    def out(shape: Shape) -> Shape:
        through, around = end_of(named, shape), end_of(aside, shape)
        if through != around:
            raise ShapeError(
                f"the layers take {shape} to {through}, the shortcut gives {around}: they cannot be added; pass shortcut=a layer"
            )
        return through

    def run(params: Mapping[str, Any], x: Any, state: Mapping[str, Any], train: bool, seed: int | None) -> tuple[Any, Arrays]:
        scope = Scope(params, state, train, seed)
        y = around = x
        for part, inner in named:
            y = scope.run(part, inner, y)
        for part, inner in aside:
            around = scope.run(part, inner, around)
        return y + around, scope.state

    return combined("residual", parts, out, run, name)


def concat(*branches: Layer | Callable[[Any], Any], axis: int = 1, name: str | None = None) -> Layer:
    r"""$y = [f_1(x), f_2(x), \ldots]$: all take the same x, the results are joined along `axis`

    axis    counted with the batch axis: 1 for the channels of a picture, -1 for the last
    """
    named = named_parts(branches)

    def parts(shape: Shape) -> Iterator[Part]:
        return (Part(part, inner, shape) for part, inner in named)

    def out(shape: Shape) -> Shape:
        ends = [(1, *end_of([pair], shape)) for pair in named]
        return tuple(ops.concat.infer(ends, {"axis": axis})[0][1:])

    def run(params: Mapping[str, Any], x: Any, state: Mapping[str, Any], train: bool, seed: int | None) -> tuple[Any, Arrays]:
        scope = Scope(params, state, train, seed)
        return ops.concat([scope.run(part, inner, x) for part, inner in named], axis=axis), scope.state

    return combined("concat", parts, out, run, name)


# What a combination of one's own is made of.


def combined(kind: str, parts: Callable[[Shape], Any], out: Callable[[Shape], Shape], run: Callable[..., Any], name: str | None) -> Layer:
    """A layer whose arrays are those of its parts."""

    def make(seed: int, shape: Shape, dtype: Any) -> tuple[Arrays, Arrays]:
        params: Arrays = {}
        state: Arrays = {}
        for part, inner, given in parts(shape):
            with inside(part):
                own, observed = inner.make(fold(seed, part), given, dtype)
            _share(params, {f"{part}/{key}": x for key, x in own.items()})
            _share(state, {f"{part}/{key}": x for key, x in observed.items()})
        return params, state

    return Layer(kind, make, out, run, parts, name)


def named_parts(layers: Sequence[Layer | Callable[[Any], Any]]) -> Named:
    """Each layer with its name; the same layer twice has one name, unless it has no arrays to share."""
    named: Named = []
    counts: dict[str, int] = {}
    for given in layers:
        inner = given if isinstance(given, Layer) else _plain(given)
        known = None if inner.bare else next((part for part, other in named if other is inner), None)
        part = known or inner.name
        if part is None:
            counts[inner.kind] = counts.get(inner.kind, 0) + 1
            part = f"{inner.kind}{counts[inner.kind]}"
        if any(part == other for other, of in named if of is not inner):
            raise ValueError(
                f"two layers are called {part!r}\n  to share arrays, use the same layer twice: d = dense(10); serial(d, relu, d)"
            )
        named.append((part, inner))
    return named


def _plain(given: Callable[[Any], Any]) -> Layer:
    if not callable(given):
        raise TypeError(f"a net is made of layers and functions, not of {given!r}")
    if getattr(given, "__module__", "").startswith("engine.nets"):
        raise TypeError(f"{given.__name__} makes a layer: write {given.__name__}(...)")
    return function(given)


def chain(named: Named, shape: Shape) -> Iterator[Part]:
    """The layers with the shapes that reach them, one after the other."""
    for part, inner in named:
        yield Part(part, inner, shape)
        with inside(part):
            shape = inner.out(shape)


def end_of(named: Named, shape: Shape) -> Shape:
    """The shape at the end of a chain."""
    for part, inner in named:
        with inside(part):
            shape = inner.out(shape)
    return shape


class Scope:
    """One pass through the parts of a layer: hands each its arrays, and collects the new state."""

    def __init__(self, params: Mapping[str, Any], state: Mapping[str, Any], train: bool, seed: int | None):
        self.params = _by_part(params)
        self.state = dict(state)
        self.train = train
        self.seed = seed
        self.uses = 0

    def run(self, part: str, inner: Layer, x: Any) -> Any:
        """What the part gives for x."""
        self.uses += 1
        seed = None if self.seed is None else fold(self.seed, self.uses)  # by use, not by name: a tied layer drops anew
        params = self.params.get(part, {})
        state = {} if inner.bare else _by_part(self.state).get(part, {})
        with inside(part, params):
            y, state = inner.run(params, x, state, self.train, seed)
        for key, value in state.items():
            self.state[f"{part}/{key}"] = value
        return y


def _by_part(arrays: Mapping[str, Any]) -> dict[str, Arrays]:
    """{"conv1/w": ...} as {"conv1": {"w": ...}}."""
    groups: dict[str, Arrays] = {}
    for path, x in arrays.items():
        part, _, rest = path.partition("/")
        groups.setdefault(part, {})[rest] = x
    return groups


def _share(arrays: Arrays, more: Arrays) -> None:
    """Put in what is new. A layer's second use must want what its first use made."""
    for path, x in more.items():
        if path in arrays and arrays[path].shape != x.shape:
            raise ShapeError(f"{path} is used twice, once with shape {arrays[path].shape} and once with {x.shape}")
        arrays.setdefault(path, x)
