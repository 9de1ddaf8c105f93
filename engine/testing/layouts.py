"""The same numbers in other strides: what code that reads an array as if it were contiguous gets wrong.

Gaps and surroundings hold nan (for integers 0), so that reading them shows, and `surroundings` tells whether they were written to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

GUARD = 3  # elements on either side of an array that lies inside a larger buffer


def _filled(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.full(shape, np.nan if dtype.kind in "fc" else 0, dtype)


def _contiguous(x: Array) -> Array:
    return np.array(x, order="C")


def _fortran(x: Array) -> Array:
    return np.array(x, order="F")


def _permuted(x: Array) -> Array:
    """Contiguous in the order of axes 1, 2, ..., 0: channels last, for an image."""
    axes = (*range(1, x.ndim), *range(min(x.ndim, 1)))
    y: Array = np.array(x.transpose(axes), order="C").transpose(np.argsort(axes))
    return y


def _stepped(x: Array) -> Array:
    """Every second element along each axis of a larger array."""
    every = (slice(None, None, 2),) * x.ndim
    view: Array = _filled(tuple(2 * n for n in x.shape), x.dtype)[every or ...]
    view[...] = x
    return view


def _reversed(x: Array) -> Array:
    """Negative strides along every axis."""
    back = (slice(None, None, -1),) * x.ndim
    view: Array = np.array(x[back or ...], order="C")[back or ...]
    return view


def _offset(x: Array) -> Array:
    """Contiguous, but not at the start of its buffer."""
    view: Array = _filled((x.size + 2 * GUARD,), x.dtype)[GUARD : GUARD + x.size].reshape(x.shape)
    view[...] = x
    return view


def _repeated(x: Array) -> Array:
    """Stride 0 along every axis on which nothing changes, as `broadcast_to` makes it."""
    first = x
    for axis in range(x.ndim):
        head = first.take(range(min(1, x.shape[axis])), axis)
        first = head if x.shape[axis] > 1 and np.array_equal(np.broadcast_to(head, first.shape), first, equal_nan=True) else first
    return np.broadcast_to(np.array(first, order="C"), x.shape) if first.shape != x.shape else _contiguous(x)


def _read_only(x: Array) -> Array:
    y = _contiguous(x)
    y.flags.writeable = False
    return y


def _misaligned(x: Array) -> Array:
    """One byte off: legal for NumPy, not for code that casts a pointer."""
    view: Array = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype)[: x.size].reshape(x.shape)
    view[...] = x
    return view


def _swapped(x: Array) -> Array:
    """The other byte order."""
    return x.astype(x.dtype.newbyteorder())


MAKERS: dict[str, Callable[[Array], Array]] = {
    "C": _contiguous, "F": _fortran, "permuted": _permuted, "stepped": _stepped, "reversed": _reversed, "offset": _offset,
    "repeated": _repeated, "read-only": _read_only, "misaligned": _misaligned, "swapped": _swapped,
}  # fmt: skip

LAYOUTS = ("C", "F", "permuted", "stepped", "reversed", "offset", "repeated", "read-only")
"""The layouts that are drawn unless told otherwise: all but those that few libraries take."""

ODD_LAYOUTS = ("misaligned", "swapped")


def laid_out(x: Any, layout: str) -> Array:
    """A new array with the numbers of `x` in `layout`. Raises ValueError for a layout that is not there."""
    if layout not in MAKERS:
        raise ValueError(f"layout {layout!r} is wanted, there are {', '.join(MAKERS)}")
    return MAKERS[layout](np.asarray(x))


def same_layout(x: Any, like: Array) -> Array:
    """A new array with the numbers of `x` and the strides of `like`, an array of that shape that came from `laid_out`."""
    return next((y for y in (laid_out(x, name) for name in MAKERS) if y.strides == like.strides), laid_out(x, "C"))


def surroundings(x: Array) -> bytes:
    """The bytes of the whole buffer that `x` lies in. Compare before and after a call: neither `x` nor what is around it may change."""
    base = x
    while isinstance(base.base, np.ndarray):
        base = base.base
    return base.tobytes()
