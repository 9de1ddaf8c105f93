"""cp.async: copies from global to shared memory that go on while their thread does other things.

What a copy brings is seen only after its thread has waited for it (`cp.async.wait_group`, `wait_all`); until then shared memory holds what
it held before. The source is read at once, so a kernel that changes it before the copy has ended would read something else on a device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernels.cuda.emulate.access import COPY, READ, Access
from kernels.cuda.emulate.parse import Instruction

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes, Machine

ALL = 1 << 40


@dataclass
class Pending:
    """Bytes on their way: of which threads, to where, in which group of each."""

    threads: np.ndarray
    positions: np.ndarray
    data: np.ndarray  # (threads, bytes)
    group: np.ndarray


class Copies:
    """What is on its way in a wave, and how many groups each thread has closed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pending: list[Pending] = []
        self.closed = np.zeros(0, np.int64)

    def begin(self, threads: int) -> None:
        self.pending, self.closed = [], np.zeros(threads, np.int64)

    def add(self, threads: np.ndarray, positions: np.ndarray, data: np.ndarray) -> None:
        self.pending.append(Pending(threads, positions.copy(), data, self.closed[threads]))

    def close(self, R: Lanes) -> None:
        self.closed[R["thread"]] += 1

    def wait(self, R: Lanes, left: int) -> None:
        """Until at most `left` groups of each thread are on their way; -1: nothing at all."""
        until = np.full(self.closed.size, -1)
        until[R["thread"]] = self.closed[R["thread"]] - left if left >= 0 else ALL
        still = []
        for p in self.pending:
            done = p.group < until[p.threads]
            if done.any():
                at = np.flatnonzero(done)
                size = p.data.shape[1]
                self.machine.memory.arena[p.positions[at][:, None] + np.arange(size)] = p.data[at]
                for w in self.machine.watchers:
                    w.landed(p.threads[at], p.positions[at], size)
            if not done.all():
                at = np.flatnonzero(~done)
                still.append(Pending(p.threads[at], p.positions[at], p.data[at], p.group[at]))
        self.pending = still


def start(x: Instruction, size: int, to_offset: int, from_offset: int) -> Callable[..., None]:
    """cp.async of `size` bytes, of which `given` are read and the rest are zeros."""
    target = Access(x, "shared", size, 1, to_offset)

    def start(R: Lanes, to: np.ndarray, of: np.ndarray, given: np.ndarray) -> None:
        positions = np.broadcast_to(target.positions(R, to, COPY), (R.size,))
        given, of = np.broadcast_to(given, (R.size,)), np.broadcast_to(of, (R.size,))
        data = np.zeros((R.size, size), np.uint8)
        for n in np.unique(given[given > 0]):
            index = np.flatnonzero(given == n)
            some = R if len(index) == R.size else R.some(index)
            source = Access(x, "global", int(n), 1, from_offset, align=size)
            p = source.positions(some, np.ascontiguousarray(of[index]), READ)
            data[index, : int(n)] = R.machine.memory.arena[p[:, None] + np.arange(n)]
        R.machine.copies.add(R["thread"], positions, data)

    return start
