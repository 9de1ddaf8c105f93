"""What the lanes of a warp do together: shuffles, votes, matches, reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from kernels.cuda.emulate.parse import Instruction

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes, Machine

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


class Warps:
    """The operations, with the check that those whom a mask names are there."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def members(self, R: Lanes, x: Instruction, mask: np.ndarray) -> np.ndarray:
        """The mask of each thread, checked: the thread itself is in it, and all that it names run this instruction."""
        here, own = active(R), BIT[R["lane"]]
        mask = np.broadcast_to(mask, here.shape)
        if "shuffle" in self.machine.checks:
            for wrong, what in (
                (mask & own == 0, "is not in the mask that it gives"),
                (mask & ~here != 0, "names lanes that are not here"),
            ):
                if wrong.any():
                    first = int(np.flatnonzero(wrong)[0])
                    detail = f"its mask {mask[first]:#010x} {what}" if "names" in what else f"a lane {what}, {mask[first]:#010x}"
                    detail += f": {mask[first] & ~here[first]:#010x} have exited or run elsewhere" if "names" in what else ""
                    raise self.machine.fault("shuffle", detail, R, np.flatnonzero(wrong), x)
        return mask & here

    def shuffle(self, x: Instruction, mode: str) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        def shuffle(R: Lanes, a: np.ndarray, b: np.ndarray, c: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            members = self.members(R, x, mask)
            lane = R["lane"]
            by, clamp, segment = (v.astype(np.int64) for v in (b & np.uint32(31), c & np.uint32(31), c >> np.uint32(8) & np.uint32(31)))
            low, high = lane & segment, (lane & segment) | (clamp & ~segment)
            j = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": low | (by & ~segment)}[mode]
            there = j >= high if mode == "up" else j <= high
            j = np.where(there, j, lane)
            if "shuffle" in self.machine.checks:
                absent = members & BIT[j] == 0
                if absent.any():
                    first = int(np.flatnonzero(absent)[0])
                    raise self.machine.fault(
                        "shuffle", f"reads lane {j[first]}, which is not in the mask or not here", R, np.flatnonzero(absent), x
                    )
            a = np.broadcast_to(a, (R.size,))
            return dense(R, a)[R["warp"], j], there

        return shuffle

    def vote(self, x: Instruction, mode: str) -> Callable[..., np.ndarray]:
        def vote(R: Lanes, yes: np.ndarray, mask: np.ndarray) -> np.ndarray:
            members = self.members(R, x, mask)
            ballot = bits(dense(R, np.broadcast_to(yes, (R.size,)), False))[R["warp"]] & members
            if mode == "ballot":
                return ballot
            return {"all": ballot == members, "any": ballot != 0, "uni": (ballot == members) | (ballot == 0)}[mode]

        return vote

    def match(self, x: Instruction, whole: bool) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        def match(R: Lanes, a: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            members = self.members(R, x, mask)
            values = dense(R, np.broadcast_to(a, (R.size,)))
            same = bits(values[:, :, None] == values[:, None, :])[R["warp"], R["lane"]] & members
            if whole:
                return np.where(same == members, members, np.uint32(0)), same == members
            return same, same == members

        return match

    def reduce(self, x: Instruction, op: str) -> Callable[..., np.ndarray]:
        f = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[op]

        def reduce(R: Lanes, a: np.ndarray, mask: np.ndarray) -> np.ndarray:
            members = self.members(R, x, mask)
            values = dense(R, np.broadcast_to(a, (R.size,)))[R["warp"]]
            info = np.iinfo(values.dtype)
            neutral = {"min": info.max, "max": info.min, "and": -1 if info.min else info.max}.get(op, 0)
            inside = (members[:, None] & BIT) != 0
            return f.reduce(np.where(inside, values, values.dtype.type(neutral)), axis=1, dtype=values.dtype)

        return reduce

    def meet(self, x: Instruction) -> Callable[[Lanes, np.ndarray], None]:
        """bar.warp.sync"""

        def meet(R: Lanes, mask: np.ndarray) -> None:
            self.members(R, x, mask)
            for w in self.machine.watchers:
                w.warp_barrier(R)

        return meet

    def active(self, R: Lanes) -> np.ndarray:
        return active(R)
