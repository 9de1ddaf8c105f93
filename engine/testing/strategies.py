"""Hypothesis strategies for what functions of arrays are called with. Each is usable by itself.

    shapes, broadcastable     shapes: 0-d, empty, of size 1, ragged
    values, arrays            numbers in one of ten ways; the same in any layout
    cotangents                recipes for cotangents
    indices, axes, keys, windows    options that fit a shape
    cases                     everything for one call of one function

All shrink in this order: shapes, options, values (to 0, 1, -1, 2), layouts (to C), the cotangent (to one-hot).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from engine.testing import generate
from engine.testing.case import Case, Cotangent
from engine.testing.drawing import Choices, Made, choice, one_in
from engine.testing.generate import KINDS, MAX_ELEMENTS, Shape
from engine.testing.layouts import LAYOUTS, Array, laid_out
from engine.testing.signature import Contract, region, understand
from engine.testing.values import MIX, Alphabet

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


# Options that fit a shape.


def indices(
    shape: Shape | SearchStrategy[Shape], size: int, *, negative: bool = True, repeats: bool = True, dtype: Any = np.int64
) -> SearchStrategy[Array]:
    """An array of integers that index an axis of `size`, from either end, with or without repeats.

    Raises ValueError, when drawn, where there are too few places for so many indices.
    """

    def make(c: Choices) -> Array:
        found = shape if isinstance(shape, tuple) else c.draw(shape)
        count = math.prod(found)
        if (count and not size) or (not repeats and count > size):
            raise ValueError(f"{count} indices{'' if repeats else ' without repeats'} are wanted of an axis of size {size}")
        left = list(range(size))
        chosen = [choice(c, left) if repeats else left.pop(c.integer(0, len(left) - 1)) for _ in range(count)]
        if negative and count and one_in(c, 4):
            chosen = [i - size if c.integer(0, 1) else i for i in chosen]
        return np.array(chosen, dtype).reshape(found)

    return Made(make, f"indices({shape}, {size})")


def axes(ndim: int, *, none: bool = True, negative: bool = True, several: bool = True) -> SearchStrategy[Any]:
    """What `axis=` takes for an array of `ndim` axes: an integer, counted from either end; None; a tuple of any of them."""
    kinds = ["one"] * (ndim > 0) + ["none"] * none + ["negative"] * (negative and ndim > 0) + ["several"] * several

    def make(c: Choices) -> Any:
        kind = choice(c, kinds)
        if kind == "several":
            chosen = [a for a in range(ndim) if c.integer(0, 1)]
            return tuple(a - ndim if negative and one_in(c, 3) else a for a in chosen)
        return None if kind == "none" else c.integer(0, ndim - 1) - (ndim if kind == "negative" else 0)

    if not kinds:
        raise ValueError("an array without axes has no axis but None and (); allow one of these")
    return Made(make, f"axes({ndim})")


def keys(shape: Shape, *, arrays: bool = True) -> SearchStrategy[Any]:
    """What stands in x[...] for an x of `shape`: integers, slices with steps of either sign, ..., None, index arrays and masks."""

    def make(c: Choices) -> Any:
        parts = [_key_part(c, n, arrays) for n in shape[: c.integer(0, len(shape))]]
        if one_in(c, 4):
            parts.insert(c.integer(0, len(parts)), None)
        if one_in(c, 4):
            parts.append(...)
        return tuple(parts) if len(parts) != 1 or one_in(c, 2) else parts[0]

    return Made(make, f"keys({shape})")


def _key_part(c: Choices, n: int, arrays: bool) -> Any:
    kind = choice(c, ("slice", "integer", "backwards", "indices", "mask") if n and arrays else ("slice", "integer") if n else ("slice",))
    if kind == "integer":
        return c.integer(0, n - 1) - (n if one_in(c, 3) else 0)
    if kind == "indices":
        return c.draw(indices((c.integer(1, 3),), n))
    if kind == "mask":
        return np.array([bool(c.integer(0, 1)) for _ in range(n)])
    start, stop, step = c.integer(0, n), c.integer(0, n), c.integer(1, 3)
    return (
        slice(n - 1 - start, None, -step) if kind == "backwards" and start < n else slice(min(start, stop), max(start, stop) or None, step)
    )


def windows(image: Shape, kernel: Shape, *, dilated: bool = True) -> SearchStrategy[dict[str, Any]]:
    """stride, padding and dilation of a window of shape `kernel` that fits into `image`; each a tuple with an integer for each axis."""

    def make(c: Choices) -> dict[str, Any]:
        dilation = tuple(c.integer(1, 2) if dilated and 2 * (k - 1) < n else 1 for n, k in zip(image, kernel, strict=True))
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple(max(0, -((n - s) // 2)) + c.integer(0, 2) for n, s in zip(image, spans, strict=True))
        stride = tuple(c.integer(1, 3) for _ in image)
        return {"stride": stride, "padding": padding, "dilation": dilation}

    return Made(make, f"windows({image}, {kernel})")


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
        contract = understand(f, signature, domain, kwargs, dtype=dtype, cases=user_cases is not None)
    if user_cases is None:
        return Made(lambda c: generate.a_case(c, contract, max_elements=max_elements, among=among, nonfinite=nonfinite), "cases()")
    of = user_cases
    return Made(lambda c: generate.a_users_case(c, contract, of, vary=vary_values, among=among, nonfinite=nonfinite), "cases()")
