"""Which thread touches which address: what one warp asks of memory, instruction by instruction, and a drawing of it.

A row of the drawing is 128 bytes: of global memory four sectors of 32 bytes, of shared memory the 32 banks of 4 bytes. A cell is a word, in
the colour of the lane that asks for it. So a request is good if it fills whole sectors, or stands in every column once.
"""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kernels.cuda.emulate.access import ATOMIC, COPY, READ, WRITE, Access
from kernels.cuda.emulate.checks import Watcher
from kernels.cuda.emulate.counters import SECTOR, sectors, wavefronts
from kernels.cuda.emulate.parse import Instruction
from kernels.cuda.emulate.warps import WARP

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes, Machine

ROW = 128  # bytes: of global memory a line of the caches, of shared memory all banks
VERBS = {READ: "load", WRITE: "store", ATOMIC: "atomic", COPY: "copy"}
MOST = 12  # panels of a drawing
WORDS = ROW // 4
CELL = 0.22  # inches, its height


@dataclass(frozen=True)
class Touch:
    """One request of one warp: its lanes, and the offset of each in an array or in shared memory."""

    instruction: Instruction
    verb: str
    where: str
    shared: bool
    lanes: np.ndarray
    offsets: np.ndarray
    width: int  # bytes of a lane

    @property
    def cost(self) -> str:
        """What it costs, by the rules of the counters."""
        one = np.zeros(len(self.lanes), np.int64)
        if self.shared:
            requests, fronts, _ = wavefronts(self.offsets, self.width, one, self.lanes)
            return f"{fronts} wavefront{'s' if fronts > 1 else ''}, {requests} at best"
        _, moved, useful = sectors(self.offsets, self.width, one)
        return f"{moved} sector{'s' if moved > 1 else ''}, {useful / (SECTOR * moved):.0%} useful"

    @property
    def title(self) -> str:
        if self.instruction.source is None:
            return f"PTX line {self.instruction.line}: {self.verb} of {self.where}: {self.cost}\n{self.instruction.text}"
        file, line = self.instruction.source
        return f"line {line}: {self.verb} of {self.where}: {self.cost}\n{linecache.getline(file, line).strip()}"


class Touches(Watcher):
    """Keeps the first request of a warp for each array at each line of the source (of the PTX, where no source is known)."""

    def __init__(self, block: int = 0, warp: int = 0) -> None:
        self.block, self.warp = block, warp
        self.found: dict[tuple[Any, ...], Touch] = {}

    def begin(self, machine: Machine, root: Lanes) -> None:
        first = (self.block - machine.first_block) * machine.threads
        self.low = first + WARP * self.warp
        self.high = min(self.low + WARP, first + machine.threads)

    def access(self, access: Access, R: Lanes, positions: np.ndarray, kind: int) -> None:
        here = np.flatnonzero((R["thread"] >= self.low) & (R["thread"] < self.high))
        m = R.machine.memory
        if not here.size or int(positions[0]) >= m.local[0] or access.space == "const":
            return
        mine = np.broadcast_to(positions, (R.size,))[here]
        shared = int(mine[0]) >= m.shared[0]
        region = None if shared else next(r for r in m.regions if r.start <= mine[0] <= r.start + r.size)
        where = "shared memory" if region is None else region.name
        start = m.shared[0] + (int(mine[0]) - m.shared[0]) // m.shared[1] * m.shared[1] if region is None else region.start
        key = (access.x.source or access.x, kind, where)
        touch = Touch(access.x, VERBS[kind], where, shared, R["lane"][here], mine - start, access.bytes)
        self.found.setdefault(key, touch)


def draw(touches: Sequence[Touch]) -> Any:
    """A matplotlib figure with a panel for each request, at most a dozen, one below the other."""
    from matplotlib.figure import Figure

    shown = list(touches)[:MOST]
    heights = [CELL * len(rows_of(t)) for t in shown]
    above, between = 0.9, 0.95  # inches: for a title, and for an axis below and a title above
    total = above + sum(heights) + between * len(shown)
    figure = Figure(figsize=(10, total))
    figure.suptitle(
        "Who touches which address: a row is 128 bytes, a cell a word in the colour of its lane", y=1 - 0.15 / total, fontsize=11
    )
    top = total - above
    for touch, height in zip(shown, heights, strict=True):
        top -= height
        panel(figure.add_axes((0.08, top / total, 0.9, height / total)), touch)
        top -= between
    return figure


def rows_of(touch: Touch) -> np.ndarray:
    """The rows of 128 bytes that a request touches."""
    return np.unique(np.concatenate([touch.offsets // ROW, (touch.offsets + touch.width - 1) // ROW]))


def panel(axes: Any, touch: Touch) -> None:
    """One request: cells by row and word, with the lane's number; a plus where other lanes want the same word."""
    rows = rows_of(touch)
    owner, lanes = np.full((len(rows), WORDS), np.nan), np.zeros((len(rows), WORDS), int)
    for lane, offset in zip(touch.lanes, touch.offsets, strict=True):
        for word in range(int(offset) // 4, (int(offset) + touch.width - 1) // 4 + 1):
            at = np.searchsorted(rows, word // WORDS), word % WORDS
            owner[at] = lane if np.isnan(owner[at]) else owner[at]
            lanes[at] += 1
    axes.imshow(owner, cmap="turbo", vmin=-3, vmax=WARP + 2, aspect="auto", alpha=0.6)
    for (y, x), lane in np.ndenumerate(owner):
        if lanes[y, x]:
            axes.text(x, y, f"{int(lane)}{'+' if lanes[y, x] > 1 else ''}", ha="center", va="center", fontsize=7)
    axes.set_title(touch.title, fontsize=8, loc="left", family="monospace")
    axes.set_yticks(range(len(rows)), [f"{int(r) * ROW}" for r in rows], fontsize=6)
    axes.set_xticks(range(0, WORDS, 1 if touch.shared else 8))
    axes.set_xlabel("bank" if touch.shared else "word of a row; a sector is eight", fontsize=7)
    axes.set_ylabel("byte", fontsize=7)
    axes.tick_params(labelsize=6, length=2)
    for x in range(1, WORDS):
        axes.axvline(x - 0.5, color="0.5" if x % 8 == 0 and not touch.shared else "0.85", linewidth=0.8)
    for y in range(1, len(rows)):
        axes.axhline(y - 0.5, color="0.85", linewidth=0.8)
