"""Where the windows of convolution and pooling lie: sizes, strides, padding, dilation. Index arithmetic, no derivatives.

Along one axis, window number p with kernel position i reads the padded input at

    p * stride + i * dilation        0 <= p < out, 0 <= i < kernel

so that out = (size + before + after - reach) // stride + 1, where reach = (kernel - 1) * dilation + 1.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.shapes import ShapeError

Pair = tuple[int, int]
AXES = ("rows", "columns")


def pair(value: Any, name: str, least: int) -> Pair:
    """An int for both axes, or one for each. Raises ShapeError below `least`."""
    try:
        a, b = value if isinstance(value, (tuple, list)) else (value, value)
        a, b = operator.index(a), operator.index(b)
    except (TypeError, ValueError):
        raise ShapeError(f"{name} is an integer or a pair of integers (rows, columns), not {value!r}") from None
    if min(a, b) < least:
        raise ShapeError(f"{name} is at least {least}, not {value!r}")
    return a, b


def sides(padding: Any) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)) from an int, from (rows, columns), or from these pairs themselves."""
    if isinstance(padding, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in padding):
        if len(padding) != 2:
            raise ShapeError(f"padding is an integer, (rows, columns) or ((top, bottom), (left, right)), not {padding!r}")
        return pair(padding[0], "padding", 0), pair(padding[1], "padding", 0)
    rows, columns = pair(padding, "padding", 0)
    return (rows, rows), (columns, columns)


def windows_along(size: int, kernel: int, stride: int, around: Pair, dilation: int, axis: str) -> int:
    """How many windows fit along one axis. Raises ShapeError where none does."""
    if kernel < 1:
        raise ShapeError(f"the kernel has no {axis}")
    reach = (kernel - 1) * dilation + 1
    padded = size + sum(around)
    if reach > padded:
        raise ShapeError(f"the kernel reaches over {reach} {axis}, the input has {padded} with its padding: no window fits")
    return (padded - reach) // stride + 1


def window_grid(size: Pair, kernel: Pair, stride: Any, padding: Any, dilation: Any = 1) -> Pair:
    """The numbers of windows down and across an input of `size`. Raises ShapeError where none fits."""
    strides, dilations = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    rows, columns = map(windows_along, size, kernel, strides, sides(padding), dilations, AXES)
    return rows, columns


def padded(x: np.ndarray, padding: Any, fill: float = 0.0) -> np.ndarray:
    """`x` with `fill` around its last two axes."""
    if not np.any(sides(padding)):
        return x
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + list(sides(padding)), constant_values=fill)


def unpadded(x: np.ndarray, padding: Any) -> np.ndarray:
    """`x` without the padding around its last two axes."""
    (top, bottom), (left, right) = sides(padding)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def positions(kernel: Pair, grid: Pair, stride: Any, dilation: Any = 1) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """Each kernel position (i, j), with the index of what all windows read there in the padded input, one element a window."""
    strides, dilations = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            yield i, j, (..., _every(i * dilations[0], grid[0], strides[0]), _every(j * dilations[1], grid[1], strides[1]))


def _every(start: int, count: int, step: int) -> slice:
    return slice(start, start + (count - 1) * step + 1, step)
