"""Where the windows of a convolution or a pooling lie, from parameters that the op has already checked."""

from __future__ import annotations

from typing import Any

Pair = tuple[int, int]


def pair(value: Any) -> Pair:
    """(rows, columns) from an int for both, or from a pair."""
    a, b = value if isinstance(value, (tuple, list)) else (value, value)
    return int(a), int(b)


def sides(padding: Any) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)) from an int, from (rows, columns), or from these pairs."""
    rows, columns = padding if isinstance(padding, (tuple, list)) else (padding, padding)
    return pair(rows), pair(columns)


def count(size: Pair, kernel: Pair, stride: Pair, padding: Any, dilation: Pair = (1, 1)) -> Pair:
    """How many windows stand below one another, and how many side by side."""
    room = [s + before + after for s, (before, after) in zip(size, sides(padding), strict=True)]
    p, q = ((r - (k - 1) * d - 1) // s + 1 for r, k, s, d in zip(room, kernel, stride, dilation, strict=True))
    return p, q
