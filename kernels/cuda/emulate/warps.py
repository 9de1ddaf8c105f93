"""What the lanes of a warp do together: shuffles, votes, matches, reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from kernels.cuda.emulate.parse import Instruction

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes

WARP = 32
BIT = np.uint32(1) << np.arange(WARP, dtype=np.uint32)


def dense(R: Lanes, values: np.ndarray, fill: Any = 0) -> np.ndarray:
    """Values by warp and lane, (warps, 32); `fill` where no thread runs."""
    if R.size == R.machine.warps_now * WARP and values.size == R.size:
        return values.reshape(-1, WARP)
    out = np.full((R.machine.warps_now, WARP), fill, values.dtype)
    out[R["warp"], R["lane"]] = values
    return out


def active(R: Lanes) -> np.ndarray:
    """The mask of the lanes that run now, for each thread."""
    return masks(R)[R["warp"]]


def masks(R: Lanes) -> np.ndarray:
    if R.masks is None:
        R.masks = bits(dense(R, np.ones(R.size, bool), False))
    return R.masks


def bits(yes: np.ndarray) -> np.ndarray:
    """Rows of 32 booleans as words."""
    return np.packbits(yes, axis=-1, bitorder="little").view(np.uint32)[..., 0]


def members(R: Lanes, x: Instruction, mask: np.ndarray) -> np.ndarray:
    """The mask of each thread, checked: the thread itself is in it, and all that it names run this instruction."""
    here = active(R)
    mask = np.broadcast_to(mask, here.shape)
    if "shuffle" in R.machine.checks:
        absent = mask & ~here
        for wrong, words in (
            (mask & BIT[R["lane"]] == 0, "a lane is not in the mask that it gives, {mask:#010x}"),
            (absent != 0, "its mask {mask:#010x} names lanes that are not here: {absent:#010x} have exited or run elsewhere"),
        ):
            if wrong.any():
                first = int(np.flatnonzero(wrong)[0])
                what = words.format(mask=mask[first], absent=absent[first])
                raise R.machine.fault("shuffle", what, R, np.flatnonzero(wrong), x)
    return mask & here


def shuffle(x: Instruction, mode: str) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """shfl.sync (PTX ISA 9.7.9.6): the value of another lane, and whether there is one within the segment."""

    def shuffle(R: Lanes, a: np.ndarray, b: np.ndarray, c: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        named, lane = members(R, x, mask), R["lane"]
        by, clamp, segment = (v.astype(np.int64) for v in (b & np.uint32(31), c & np.uint32(31), c >> np.uint32(8) & np.uint32(31)))
        low, high = lane & segment, (lane & segment) | (clamp & ~segment)
        j = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": low | (by & ~segment)}[mode]
        there = j >= high if mode == "up" else j <= high
        j = np.where(there, j, lane)
        absent = named & BIT[j] == 0
        if "shuffle" in R.machine.checks and absent.any():
            what = f"reads lane {j[absent][0]}, which is not in the mask or not here"
            raise R.machine.fault("shuffle", what, R, np.flatnonzero(absent), x)
        return dense(R, np.broadcast_to(a, (R.size,)))[R["warp"], j], there

    return shuffle


def vote(x: Instruction, mode: str) -> Callable[..., np.ndarray]:
    """vote.sync: all, any, uni or ballot."""

    def vote(R: Lanes, yes: np.ndarray, mask: np.ndarray) -> np.ndarray:
        named = members(R, x, mask)
        ballot = bits(dense(R, np.broadcast_to(yes, (R.size,)), False))[R["warp"]] & named
        if mode == "ballot":
            return ballot
        return {"all": ballot == named, "any": ballot != 0, "uni": (ballot == named) | (ballot == 0)}[mode]

    return vote


def match(x: Instruction, whole: bool) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """match.sync: the lanes that hold the same, and whether all do."""

    def match(R: Lanes, a: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        named = members(R, x, mask)
        values = dense(R, np.broadcast_to(a, (R.size,)))
        same = bits(values[:, :, None] == values[:, None, :])[R["warp"], R["lane"]] & named
        return (np.where(same == named, named, np.uint32(0)) if whole else same), same == named

    return match


def reduce(x: Instruction, op: str) -> Callable[..., np.ndarray]:
    """redux.sync: a sum, an extreme or a logical function of the lanes."""
    f = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[op]

    def reduce(R: Lanes, a: np.ndarray, mask: np.ndarray) -> np.ndarray:
        named = members(R, x, mask)
        values = dense(R, np.broadcast_to(a, (R.size,)))[R["warp"]]
        info = np.iinfo(values.dtype)
        neutral = {"min": info.max, "max": info.min, "and": -1 if info.min else info.max}.get(op, 0)
        inside = (named[:, None] & BIT) != 0
        return f.reduce(np.where(inside, values, values.dtype.type(neutral)), axis=1, dtype=values.dtype)

    return reduce


def elect(x: Instruction) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """elect.sync: the lowest lane of the mask, and whether it is one's own."""

    def elect(R: Lanes, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        named = members(R, x, mask).astype(np.int64)
        first = np.log2(named & -named).astype(np.uint32)
        return first, first == R["lane"]

    return elect


def meet(x: Instruction) -> Callable[[Lanes, np.ndarray], None]:
    """bar.warp.sync"""

    def meet(R: Lanes, mask: np.ndarray) -> None:
        members(R, x, mask)
        for w in R.machine.watchers:
            w.warp_barrier(R)

    return meet
