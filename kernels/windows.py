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


def fits(x: Any, w: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> None:
    """Does this kernel go over this picture? Raises ValueError."""
    check_groups(x.shape[1], len(w), w.shape[1], groups)
    check_windows(x.shape[2:], w.shape[2:], stride, padding, dilation)


def fits_to_x(gy: Any, w: Any, *, input_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> None:
    check_groups(w.shape[1] * groups, len(w), w.shape[1], groups)
    check_gradient(gy, check_windows(input_size, w.shape[2:], stride, padding, dilation))


def fits_to_w(x: Any, gy: Any, *, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> None:
    check_groups(x.shape[1], gy.shape[1], x.shape[1] // max(1, groups), groups)
    check_gradient(gy, check_windows(x.shape[2:], kernel_size, stride, padding, dilation))


def check_groups(channels: int, filters: int, seen: int, groups: int) -> None:
    if groups < 1 or channels % groups or filters % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels and {filters} filters")
    if seen * groups != channels:
        raise ValueError(f"x has {channels} channels in {groups} groups, so a filter has {channels // groups} channels, not {seen}")


def check_windows(size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Pair:
    """How many windows there are."""
    size, kernel, stride, dilation = pair(size), pair(kernel), pair(stride), pair(dilation)
    if min(*stride, *dilation) < 1:
        raise ValueError(f"stride {stride} and dilation {dilation} are at least 1")
    windows = count(size, kernel, stride, padding, dilation)
    if min(windows) < 1:
        raise ValueError(f"a kernel of {kernel} with dilation {dilation} does not fit into {size} with padding {padding}")
    return windows


def check_gradient(gy: Any, windows: Pair) -> None:
    if tuple(gy.shape[2:]) != windows:
        raise ValueError(f"gy is {tuple(gy.shape[2:])}, conv2d returns {windows} for these sizes")
