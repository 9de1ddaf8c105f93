"""One call to be judged: arguments as they lie in memory, options, and how to make a cotangent for whatever comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.testing.layouts import Array, laid_out
from engine.testing.subject import is_float

COTANGENTS = ("one-hot", "ones", "random", "sparse")


@dataclass(frozen=True)
class Cotangent:
    """How to make the cotangents of outputs that are not known yet: the same recipe gives the same numbers each time.

    kind     one-hot    1 in one element of one output, 0 elsewhere: one row of the Jacobian
             ones       the gradient of the sum
             random     both signs, no two alike
             sparse     random, a third of the elements kept
    layout   a name of engine.testing.layouts. "repeated" makes the numbers equal along the first axis
    seed     which element, which numbers
    """

    kind: str = "one-hot"
    layout: str = "C"
    seed: int = 0

    def __call__(self, ys: Any) -> Any:
        """An array in the shape and dtype of each output: one array for one output, a tuple for a tuple."""
        outputs = ys if isinstance(ys, tuple) else (ys,)
        made = tuple(laid_out(g, self.layout) for g in self._values([np.asarray(y) for y in outputs]))
        return made if isinstance(ys, tuple) else made[0]

    def _values(self, ys: Sequence[Array]) -> list[Array]:
        if self.kind == "one-hot":
            return self._one_hot(ys)
        made = [self._numbers(y, np.random.default_rng([self.seed, i])) for i, y in enumerate(ys)]
        return [_alike(g) if self.layout == "repeated" else g for g in made]

    def _one_hot(self, ys: Sequence[Array]) -> list[Array]:
        made = [np.zeros(y.shape, y.dtype) for y in ys]
        places = [(g, i) for g in made if _continuous(g) for i in range(g.size)]
        if places:
            g, i = places[self.seed % len(places)]
            g.reshape(-1)[i] = 1
        return made

    def _numbers(self, y: Array, rng: np.random.Generator) -> Array:
        if not _continuous(y):
            return np.zeros(y.shape, y.dtype)
        if self.kind == "ones":
            return np.ones(y.shape, y.dtype)
        g = rng.uniform(0.25, 2.0, y.shape) * rng.choice([-1.0, 1.0], y.shape)
        if self.kind == "sparse":
            g = g * (rng.uniform(size=y.shape) < 1 / 3)
        return np.asarray(g).astype(y.dtype)


def _continuous(y: Array) -> bool:
    return y.dtype.kind == "c" or is_float(y)


def _alike(g: Array) -> Array:
    """`g` with its first entry along the first axis everywhere on that axis."""
    return np.array(np.broadcast_to(g[:1], g.shape)) if g.ndim and g.shape[0] else g


@dataclass(frozen=True)
class Case:
    """One call to be judged.

    args      the arguments, each in its layout. The same object may stand twice
    kwargs    the options
    recipe    of the cotangent: `case.cotangent(ys)` makes it
    layouts   the name of each argument's layout
    notes     what is special about the values: "x1: ties", "x2 is x1"
    cast      in float32, though nobody asked for it
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    recipe: Cotangent = Cotangent()
    layouts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cast: bool = False

    def cotangent(self, ys: Any) -> Any:
        """The cotangent for the outputs `ys`: one array for one output, a tuple for a tuple."""
        return self.recipe(ys)

    @property
    def size(self) -> int:
        """The number of elements in all arguments; one that stands twice counts once."""
        return sum(np.size(a) for a in {id(a): a for a in self.args}.values())

    def contiguous(self) -> Case:
        """The same numbers in fresh C-contiguous arrays. An object that stands twice becomes two."""
        args = tuple(laid_out(a, "C") if isinstance(a, np.ndarray) else a for a in self.args)
        return replace(self, args=args, layouts=("C",) * len(args))

    def code(self) -> list[str]:
        """An expression for each argument, which gives it back in its layout (with `np` and `laid_out` imported)."""
        layouts = self.layouts or ("C",) * len(self.args)
        return [expression(a, layout) for a, layout in zip(self.args, layouts, strict=True)]

    def __repr__(self) -> str:
        options = "".join(f", {k}={v!r}" for k, v in self.kwargs.items())
        recipe = f"{self.recipe.kind}, {self.recipe.layout}, seed {self.recipe.seed}"
        notes = f"  [{'; '.join(self.notes)}]" if self.notes else ""
        return f"Case({', '.join(self.code())}{options}; cotangent {recipe}){notes}"


def expression(x: Any, layout: str = "C") -> str:
    """Python that makes `x` again."""
    if not isinstance(x, np.ndarray):
        return repr(x)
    if x.size == 0 and x.ndim > 1:
        text = f"np.zeros({x.shape}, {str(x.dtype)!r})"
    else:
        plain = x.dtype == np.float64 or (x.dtype == np.int64 and x.size)
        text = f"np.array({_numbers(x.tolist())}{'' if plain else f', {str(x.dtype)!r}'})"
    return text if layout == "C" else f"np.asfortranarray({text})" if layout == "F" else f"laid_out({text}, {layout!r})"


def _numbers(x: Any) -> str:
    return repr(x).replace("nan", "np.nan").replace("inf", "np.inf")
