"""Options that fit a shape: indices, axes, keys, and what windows take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from engine.testing.drawing import Choices, Made, choice, one_in
from engine.testing.layouts import Array

Shape = tuple[int, ...]


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
        parts: list[Any] = []
        for n in shape[: c.integer(0, len(shape))]:  # two index arrays would have to broadcast: one of them at most
            parts.append(_key_part(c, n, arrays and not any(isinstance(part, np.ndarray) for part in parts)))
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
