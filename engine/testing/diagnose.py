"""What a wrong gradient looks like: by which factor it is off, whose shape it has, what would make it right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from engine.testing.subject import Array

SAME = 1e-6


def diagnosis(claim: Any, reference: Array, g: Any, y: Any, args: Sequence[Any], place: int) -> str:
    """In words, what the gradient claimed for the argument at `place` has to do with the right one; empty if nothing fits.

    claim       as it was returned
    reference   the right gradient, in the argument's shape
    """
    claim = np.asarray(claim)
    return next(_readings(claim, np.asarray(reference), np.asarray(g) if not isinstance(g, tuple) else None, np.asarray(args[place])), "")


def _readings(claim: Array, right: Array, g: Any, x: Array) -> Iterator[str]:
    with np.errstate(all="ignore"):
        if claim.shape != right.shape:
            yield from _of_shape(claim, right, g)
            return
        if np.isnan(claim).any():
            yield "nan: 0 times an infinity, or 0 / 0, in a term that should have been left out"
            return
        if np.isinf(claim).any():
            yield "infinite: something overflows or divides by zero on the way to a finite gradient"
            return
        if not np.isfinite(right).all():
            return
        if not claim.any():
            yield "zero: nothing flows back to this argument"
            return
        yield from _factor(claim, right, g)
        if right.ndim == 2 and right.shape[0] == right.shape[1] and close(claim, right.T):
            yield "transposed"
        if claim.dtype != np.float16 and close(claim, right.astype(np.float16).astype(claim.dtype)):
            yield "rounded to float16"
        if claim.dtype == np.float64 and close(claim, right.astype(np.float32).astype(np.float64)):
            yield "rounded to float32"
        if right.size > 1:
            yield from _permuted(claim, right)
        off = ~_near(claim, right)
        if right.size > 2 and 0 < off.sum() <= right.size / 3:
            yield f"wrong in {int(off.sum())} of {right.size} elements only, for one where the argument is {x[off].flat[0]:.6g}"


def _of_shape(claim: Array, right: Array, g: Any) -> Iterator[str]:
    axes = tuple(range(claim.ndim - right.ndim)) if claim.ndim >= right.ndim else ()
    axes += (
        tuple(i for i in range(len(axes), claim.ndim) if right.shape[i - len(axes)] == 1 and claim.shape[i] != 1)
        if axes or claim.ndim == right.ndim
        else ()
    )
    if axes:
        summed = claim.sum(axis=axes, keepdims=True)
        if summed.size == right.size and (right.size == 0 or close(summed.reshape(right.shape), right)):
            yield f"not summed over the axes along which the argument was broadcast ({', '.join(map(str, axes))})"
            return
    if claim.ndim == 2 and claim.T.shape == right.shape and close(claim.T, right):
        yield "transposed"
    if claim.size == right.size and close(claim.reshape(right.shape), right):
        yield "the right numbers in another shape"
    if g is not None and claim.shape == g.shape:
        yield "in the shape of the output, not of the argument"


def _factor(claim: Array, right: Array, g: Any) -> Iterator[str]:
    used = right != 0
    if not used.any() or (claim[~used] != 0).any():
        return
    ratios = claim[used] / right[used]
    r = float(ratios.flat[0])
    off = float(np.max(np.abs(ratios - 1)))
    if off <= 1e-3:
        if off > 0:
            yield f"inaccurate: {int(-math.log10(off))} digits are right"
        return
    if not np.all(np.abs(ratios - r) <= SAME * abs(r)):
        if np.all(np.abs(np.abs(ratios) - 1) <= SAME):
            yield "the sign is wrong in some elements"
        return
    n = right.size
    names = {-1.0: "the sign is wrong", 2.0: "twice too large: counted twice, or the 1/2 of a tie or a square is missing",
             0.5: "half of what it should be: a factor 2 is missing, or a tie is shared that should not be"}  # fmt: skip
    sizes = {float(n): f"{n} times too large: a sum where a mean is taken, or counted once for each element",
             1.0 / max(n, 1): f"{n} times too small: a mean where a sum is taken"}  # fmt: skip
    if g is not None and g.size > 1:
        sizes.setdefault(float(g.size), f"{g.size} times too large: a mean over the output is missing")
        sizes.setdefault(1.0 / g.size, f"{g.size} times too small: divided by the number of outputs")
    logs = {math.log(2): "the natural base where 2 is meant: off by ln 2", 1 / math.log(2): "off by 1 / ln 2", math.log(10): "off by ln 10",
            1 / math.log(10): "off by 1 / ln 10"}  # fmt: skip
    for value, text in {**names, **(sizes if n > 1 or (g is not None and g.size > 1) else {}), **logs}.items():
        if abs(r - value) <= SAME * abs(value):
            yield text
            return
    if g is not None:
        sizes_of_g = np.unique(np.abs(g[g != 0]))
        if sizes_of_g.size == 1 and sizes_of_g[0] != 1 and abs(abs(r) - float(sizes_of_g[0])) <= SAME * abs(r):
            yield "multiplied by the cotangent once more"
            return
        if sizes_of_g.size == 1 and sizes_of_g[0] != 1 and abs(abs(r) * float(sizes_of_g[0]) - 1) <= SAME:
            yield "not multiplied by the cotangent"
            return
    yield f"{r:.9g} times what it should be"


def _permuted(claim: Array, right: Array) -> Iterator[str]:
    if close(np.sort(claim, axis=None), np.sort(right, axis=None)):
        if any(close(np.flip(claim, axis), right) for axis in range(right.ndim)):
            yield "reversed along an axis"
        else:
            yield "the right numbers in other places: gathered where it should scatter, or an axis or an index is mixed up"


def _near(a: Array, b: Array) -> Array:
    size = max(float(np.max(np.abs(a), initial=0.0)), float(np.max(np.abs(b), initial=0.0)))
    return np.asarray(np.abs(a - b) <= SAME * np.maximum(np.abs(a), np.abs(b)) + 1e-12 * size)


def close(a: Any, b: Any) -> bool:
    """Equal up to rounding, in the same shape."""
    return np.shape(a) == np.shape(b) and bool(np.all(_near(np.asarray(a), np.asarray(b))))
