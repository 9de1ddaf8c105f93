"""Hypothesis strategies for what functions of arrays are called with. Each is usable by itself.

    shapes, broadcastable     shapes: 0-d, empty, of size 1, ragged
    values, arrays            numbers in one of ten ways; the same in any layout
    cotangents                recipes for cotangents
    indices, axes, keys, windows    options that fit a shape
    cases                     everything for one call of one function

All shrink in this order: shapes, options, values (to 0, 1, -1, 2), layouts (to C), the cotangent (to one-hot).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from engine.testing import generate
from engine.testing.case import Case, Cotangent
from engine.testing.drawing import Choices, Made
from engine.testing.generate import KINDS, MAX_ELEMENTS, Shape
from engine.testing.layouts import LAYOUTS, Array, laid_out
from engine.testing.options import axes, indices, keys, windows
from engine.testing.signature import Contract, region, understand
from engine.testing.values import MIX, Alphabet

__all__ = ["arrays", "axes", "broadcastable", "cases", "cotangents", "indices", "keys", "shapes", "values", "windows"]

# Arrays.


def shapes(*, min_size: int = 0, max_rank: int = 3, max_elements: int = MAX_ELEMENTS) -> SearchStrategy[Shape]:
    """A shape of at most `max_elements` elements: 0-d, empty, of size 1, ragged."""
    return Made(lambda c: generate.a_shape(c, min_size=min_size, max_rank=max_rank, max_elements=max_elements), "shapes()")


def broadcastable(
    count: int = 2, *, min_size: int = 0, max_rank: int = 3, max_elements: int = MAX_ELEMENTS
) -> SearchStrategy[tuple[Shape, ...]]:
    """`count` shapes that broadcast against one another: with axes missing and axes of size 1."""

    def make(c: Choices) -> tuple[Shape, ...]:
        whole = generate.a_shape(c, min_size=min_size, max_rank=max_rank, max_elements=max_elements)
        return tuple(generate.part_of(c, whole) for _ in range(count))

    return Made(make, f"broadcastable({count})")


def values(
    shape: Shape, *, dtype: Any = np.float64, domain: Any = None, modes: Sequence[str] = MIX, nonfinite: bool = False
) -> SearchStrategy[Array]:
    """A contiguous array of `shape`; `arrays` explains the rest."""
    return arrays(shape, dtype=dtype, domain=domain, modes=modes, among=("C",), nonfinite=nonfinite)


def arrays(
    shape: Shape | SearchStrategy[Shape] | None = None, *, dtype: Any = np.float64, domain: Any = None, modes: Sequence[str] = MIX,
    among: Sequence[str] = LAYOUTS, nonfinite: bool = False,
) -> SearchStrategy[Array]:  # fmt: skip
    """An array with its values and its layout.

    shape       a shape, a strategy of shapes, or None for any small shape
    dtype       float16, float32, float64
    domain      engine.domain.Domain, (low, high), {"low": ..., "high": ..., "kinks": [...]}, or None for all numbers
    modes       names of engine.testing.values.MODES, each as often as it is to be drawn
    among       layouts, names of engine.testing.layouts.MAKERS
    nonfinite   draw nan and infinities, too
    """
    alphabet = Alphabet(np.dtype(dtype), region(domain), nonfinite)

    def make(c: Choices) -> Array:
        found = c.draw(shapes() if shape is None else shape) if not isinstance(shape, tuple) else shape
        plan = generate.plan(c, alphabet, generate.a_mode(c, modes), found)
        layout = generate.a_layout(c, among)
        return laid_out(generate.fill(c, [plan])[0], layout)

    return Made(make, "arrays()")


def cotangents(*, kinds: Sequence[str] = KINDS, among: Sequence[str] = LAYOUTS) -> SearchStrategy[Cotangent]:
    """A recipe for cotangents, which is called with the outputs: random, sparse, constant or one-hot, in any layout."""
    return Made(lambda c: generate.a_cotangent(c, among, kinds), "cotangents()")


# Whole calls.


def cases(
    f: Callable[..., Any] | Contract, signature: Any = None, domain: Any = None, kwargs: Any = None,
    user_cases: SearchStrategy[Any] | None = None, max_elements: int = MAX_ELEMENTS, vary_values: bool = True, *,
    dtype: Any = np.float64, among: Sequence[str] = LAYOUTS, nonfinite: bool = False,
) -> SearchStrategy[Case]:  # fmt: skip
    """Calls of `f`, NumPy in, NumPy out.

    f              the function, or what `understand` found out about it (signature, domain and kwargs are then in that)
    signature      shape notation, a list of them to choose from, example arrays, or None to find out by trying
    domain         by name or place: Domain, (low, high), {"low", "high", "kinks"}; where there is none it is found by trying
    kwargs         by name: a constant, a strategy, or a function of the drawn shapes (a dict by argument) that returns either;
                   or one strategy of dicts
    user_cases     a strategy of (args, kwargs), from which shapes and options are taken
    max_elements   of each argument; shapes of `user_cases` are as they are
    vary_values    False: values and layouts are those of `user_cases`, too
    """
    if isinstance(f, Contract):
        contract = f
    else:
        contract = understand(f, signature, domain, kwargs, dtype=dtype, cases=user_cases)
    if user_cases is None:
        return Made(lambda c: generate.a_case(c, contract, max_elements=max_elements, among=among, nonfinite=nonfinite), "cases()")
    of = user_cases
    return Made(lambda c: generate.a_users_case(c, contract, of, vary=vary_values, among=among, nonfinite=nonfinite), "cases()")
