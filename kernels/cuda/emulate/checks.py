"""What a run is watched for, besides the bounds and alignment of each access, which are always looked at.

uninitialised   a read of shared or local memory, or of an argument that the caller calls uninitialised, that nobody wrote
race            two threads of a block touch a byte of shared memory, one of them writing, with no barrier between; threads of
                one warp count as one, in step, unless `warp` is asked for. Found from who touched what between which barriers, not
                from the order in which the interpreter happens to run: also where the answer is right
warp            a race within a warp that no `bar.warp.sync` orders: a warp need not be in step since compute capability 7.0
barrier         threads of a block wait at different barriers, or some have ended
shuffle         a mask that does not fit the lanes that are there, a lane read that is not
limit           what the target cannot launch
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from kernels.cuda.emulate.access import ATOMIC, COPY, DOES, READ, WRITE, Access
from kernels.cuda.emulate.faults import STRICT, Fault
from kernels.cuda.emulate.memory import SHARED, WINDOW
from kernels.cuda.emulate.parse import Function, Instruction

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes, Machine, Three

KIB = 1024
SHARED_UNASKED = 48 * KIB  # of `.shared` variables of fixed size, on any target
SHARED_AT_MOST = {  # bytes that a block can have, CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"
    (7, 5): 64 * KIB, (8, 0): 163 * KIB, (8, 6): 99 * KIB, (8, 7): 163 * KIB, (8, 9): 99 * KIB, (9, 0): 227 * KIB, (10, 0): 227 * KIB,
    (10, 3): 227 * KIB, (11, 0): 227 * KIB, (12, 0): 99 * KIB, (12, 1): 99 * KIB,
}  # fmt: skip
BLOCK, GRID, THREADS, REGISTERS, LOCAL = (1024, 1024, 64), (2**31 - 1, 65535, 65535), 1024, 65536, 512 * KIB


def capability(target: str) -> tuple[int, int, str]:
    """sm_90a -> (9, 0, "a")"""
    digits = target.removeprefix("sm_").rstrip("af")
    return int(digits[:-1]), int(digits[-1]), target.removeprefix("sm_" + digits)


def launchable(kernel: Function, written_for: str, target: str, grid: Three, block: Three, shared: int, static: int, local: int) -> None:
    """Raise a Fault for a launch that a device of `target` would refuse."""
    threads = block[0] * block[1] * block[2]
    major, minor, _ = capability(target)
    theirs = capability(written_for)
    if (theirs[2] and written_for != target) or theirs[:2] > (major, minor):
        raise Fault("limit", f"PTX for {written_for} does not run on {target}")
    if (major, minor) not in SHARED_AT_MOST:
        raise Fault("limit", f"{target} is not known; there are {', '.join(f'sm_{a}{b}' for a, b in SHARED_AT_MOST)}")
    at_most = SHARED_AT_MOST[major, minor]
    for what, has, most in (
        ("threads of a block", threads, THREADS),
        *((f"threads of a block along {axis}", n, m) for axis, n, m in zip("xyz", block, BLOCK, strict=True)),
        *((f"blocks along {axis}", n, m) for axis, n, m in zip("xyz", grid, GRID, strict=True)),
        ("bytes of shared variables of fixed size", static, SHARED_UNASKED),
        ("bytes of shared memory of a block", static + shared, at_most),
        ("bytes of local memory of a thread", local, LOCAL),
        ("threads of a block, by the kernel's .maxntid", threads, int(np.prod(kernel.bounds.get("maxntid", (threads,))))),
        ("registers of a block, by the kernel's .maxnreg", threads * kernel.bounds.get("maxnreg", (0,))[0], REGISTERS),
    ):
        if has > most:
            raise Fault("limit", f"{has} {what}; {target} has {most}" if "by the" not in what else f"{has} {what}; at most {most}")
    if min(*grid, *block) < 1:
        raise Fault("limit", f"a grid of {grid} blocks of {block} threads")
    wanted = kernel.bounds.get("reqntid")
    if wanted and tuple([*wanted, 1, 1][:3]) != block:
        raise Fault("limit", f"blocks of {block} threads; the kernel asks for {wanted} by .reqntid")


class Watcher:
    """What may be told of a run as it goes; does nothing with it."""

    def begin(self, machine: Machine, root: Lanes) -> None:
        """A wave begins."""

    def end(self, machine: Machine, root: Lanes) -> None:
        """It has ended."""

    def segment(self, R: Lanes, start: int, end: int) -> None:
        """A group runs instructions start to end."""

    def parted(self, R: Lanes, x: Instruction, yes: np.ndarray) -> None:
        """A group parts at a branch, which these of it take."""

    def access(self, access: Access, R: Lanes, positions: np.ndarray, kind: int) -> None:
        """A group reads, writes, updates or begins to copy; one position may stand for all."""

    def landed(self, threads: np.ndarray, positions: np.ndarray, size: int) -> None:
        """Copies have arrived, for those who waited."""

    def barrier(self, machine: Machine, blocks: np.ndarray) -> None:
        """The threads of these blocks have met."""

    def warp_barrier(self, R: Lanes) -> None:
        """These lanes have met."""


class Uninitialised(Watcher):
    """A byte for each of the arena: has it been written?"""

    def __init__(self, uninitialised: tuple[int, ...] = ()) -> None:
        self.names = {f"argument {i}" for i in uninitialised}
        self.written = np.zeros(0, bool)

    def begin(self, machine: Machine, root: Lanes) -> None:
        if self.written.size != machine.memory.arena.size:
            self.written = np.ones(machine.memory.arena.size, bool)
            for r in machine.memory.regions:
                if self.names & set(r.name.split(", ")):
                    self.written[r.start : r.start + r.size] = False
        self.written[machine.memory.shared[0] :] = False

    def access(self, access: Access, R: Lanes, positions: np.ndarray, kind: int) -> None:
        if kind in (READ, ATOMIC):
            bad = first_unwritten(self.written, positions, access.bytes)
            if bad >= 0:
                self.fault(access, R, positions)
        if kind in (WRITE, ATOMIC):
            mark(self.written, positions, access.bytes)

    def landed(self, threads: np.ndarray, positions: np.ndarray, size: int) -> None:
        mark(self.written, positions, size)

    def fault(self, access: Access, R: Lanes, positions: np.ndarray) -> None:
        every = np.broadcast_to(positions, (R.size,))
        bad = np.flatnonzero(~self.written[every[:, None] + np.arange(access.bytes)].all(axis=1))
        what, address = described(access, R, every, int(bad[0]))
        raise access.machine.fault(
            "uninitialised", f"reads {access.bytes} bytes at {what} that nobody has written", R, bad, access.x, address
        )


def described(access: Access, R: Lanes, positions: np.ndarray, i: int) -> tuple[str, int]:
    """A position in the arena in words, and the address that thread i knows it by."""
    m = access.memory
    p = int(positions[i])
    if p >= m.local[0]:
        return f"offset {(p - m.local[0]) % m.local[1]} of local memory", (p - m.local[0]) % m.local[1]
    if p >= m.shared[0]:
        offset = (p - m.shared[0]) % m.shared[1]
        return f"offset {offset} of shared memory", offset if access.space == "shared" else SHARED << WINDOW | offset
    region = next(r for r in m.regions if r.start <= p <= r.start + r.size)
    return f"offset {p - region.start} of {region.name}", region.address + p - region.start


@njit(nogil=True, cache=True)
def first_unwritten(written, positions, size):
    for i in range(positions.size):
        for b in range(positions[i], positions[i] + size):
            if not written[b]:
                return i
    return -1


@njit(nogil=True, cache=True)
def mark(written, positions, size):
    for i in range(positions.size):
        written[positions[i] : positions[i] + size] = True


LAST = np.dtype(
    [("writer", "i4"), ("written", "i4"), ("written_in_step", "i4"), ("by", "i4"), ("reader", "i4"), ("other", "i4"), ("read", "i4"),
     ("read_in_step", "i4"), ("copier", "i4")]
)  # fmt: skip


class Races(Watcher):
    """For each byte of shared memory: who wrote it last and who read it, and between which barriers."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.last: np.ndarray = np.zeros(0, LAST)

    def begin(self, machine: Machine, root: Lanes) -> None:
        self.machine, self.root = machine, root
        self.start = machine.memory.shared[0]
        self.last = np.zeros(machine.memory.local[0] - self.start, LAST)
        for name in ("writer", "reader", "other", "copier"):
            self.last[name] = -1
        self.epoch = np.zeros(machine.live_count.size, np.int32)  # barriers that a block has passed
        self.step = np.zeros(machine.warps_now, np.int32)  # barriers that a warp has passed on its own
        self.warp_of = root["warp"]

    def access(self, access: Access, R: Lanes, positions: np.ndarray, kind: int) -> None:
        if access.space not in ("shared", "generic"):
            return
        other = np.zeros(3, np.int64)
        if positions.size == 1 and R.size > 1:
            positions = np.full(R.size, positions[0])
        bad = touch(
            self.last, self.start, positions, access.bytes, kind, R["thread"], self.warp_of, self.machine.block_of, self.epoch, self.step,
            self.strict, other,
        )  # fmt: skip
        if bad >= 0:
            self.fault(access, R, positions, kind, bad, other)

    def fault(self, access: Access, R: Lanes, positions: np.ndarray, kind: int, bad: int, other: np.ndarray) -> None:
        what, address = described(access, R, np.asarray(positions), bad)
        them, did = self.machine.who(int(other[0])), ("read", "wrote", "updated", "has begun to copy to")[other[1]]
        wait = " and nobody has waited for" if other[1] == COPY else ", with no barrier between"
        text = f"{DOES[kind]} {what}, which {them} {did}{wait}"
        fault = self.machine.fault("race", text, R, np.array([bad]), access.x, address)
        fault.threads = (*fault.threads, them)
        raise fault

    def landed(self, threads: np.ndarray, positions: np.ndarray, size: int) -> None:
        arrive(self.last, self.start, positions, size, threads, self.warp_of, self.machine.block_of, self.epoch, self.step)

    def barrier(self, machine: Machine, blocks: np.ndarray) -> None:
        self.epoch[blocks] += 1

    def warp_barrier(self, R: Lanes) -> None:
        self.step[np.unique(R["warp"])] += 1


@njit(nogil=True, cache=True)
def apart(t, u, in_step, warp_of, step, strict):
    """Whether nothing orders what thread u did in step `in_step` of its warp before what thread t does now, in the same epoch."""
    if t == u:
        return False
    if warp_of[t] != warp_of[u]:
        return True
    return strict and in_step == step[warp_of[t]]


@njit(nogil=True, cache=True)
def touch(last, start, positions, size, kind, threads, warp_of, block_of, epoch, step, strict, other):
    """Record accesses, in the order of threads; the first that nothing orders after an earlier one, or -1. `other`: who, and what it did."""
    for i in range(positions.size):
        t = threads[i]
        e, s = epoch[block_of[t]], step[warp_of[t]]
        for at in range(positions[i] - start, positions[i] - start + size):
            if at < 0 or at >= last.size:
                break
            b = last[at]
            if b.copier >= 0:
                other[0], other[1] = b.copier, 3
                return i
            if b.writer >= 0 and b.written == e and apart(t, b.writer, b.written_in_step, warp_of, step, strict):
                if not (kind == 2 and b.by == 2):
                    other[0], other[1] = b.writer, b.by
                    return i
            if kind == 0:
                if b.reader < 0 or b.read != e or (warp_of[b.reader] == warp_of[t] and b.read_in_step != s):
                    b.reader, b.other, b.read, b.read_in_step = t, -1, e, s
                elif b.reader != t and (b.other < 0 or warp_of[b.other] == warp_of[b.reader]):
                    b.other = t
            else:
                if b.reader >= 0 and b.read == e:
                    for u in (b.reader, b.other):
                        if u >= 0 and apart(t, u, b.read_in_step, warp_of, step, strict):
                            other[0], other[1] = u, 0
                            return i
                if kind == 3:
                    b.copier = t
                else:
                    b.writer, b.written, b.written_in_step, b.by = t, e, s, kind
    return -1


@njit(nogil=True, cache=True)
def arrive(last, start, positions, size, threads, warp_of, block_of, epoch, step):
    """Copies become writes of those who waited for them."""
    for i in range(positions.size):
        t = threads[i]
        for at in range(positions[i] - start, positions[i] - start + size):
            b = last[at]
            b.copier, b.writer, b.written, b.written_in_step, b.by = -1, t, epoch[block_of[t]], step[warp_of[t]], 1


def watchers(checks: frozenset[str], uninitialised: tuple[int, ...]) -> list[Watcher]:
    """The watchers that checks by these names need."""
    found: list[Watcher] = []
    if "uninitialised" in checks:
        found.append(Uninitialised(uninitialised))
    if "race" in checks or STRICT in checks:
        found.append(Races(STRICT in checks))
    return found
