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
from kernels.cuda.targets import SHARED_UNASKED, TARGETS, WARP

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes, Machine, Three

BLOCK, GRID, LOCAL = (1024, 1024, 64), (2**31 - 1, 65535, 65535), 512 * 1024  # of every target; bytes of local memory


def capability(target: str) -> tuple[int, int, str]:
    """sm_90a -> (9, 0, "a")"""
    digits = target.removeprefix("sm_").rstrip("af")
    return int(digits[:-1]), int(digits[-1]), target.removeprefix("sm_" + digits)


def launchable(kernel: Function, written_for: str, target: str, grid: Three, block: Three, shared: int, static: int, local: int) -> None:
    """Raise a Fault for a launch that a device of `target` would refuse."""
    *cc, _ = capability(target)
    *written, special = capability(written_for)
    if (special and written_for != target) or written > cc:
        raise Fault("limit", f"PTX for {written_for} does not run on {target}")
    if tuple(cc) not in TARGETS:
        raise Fault("limit", f"{target} is not known; there are {', '.join(t.name for t in TARGETS.values())}")
    if min(*grid, *block) < 1:
        raise Fault("limit", f"a grid of {grid} blocks of {block} threads")
    device = TARGETS[cc[0], cc[1]]
    threads, bounds = int(np.prod(block)), kernel.bounds
    resident = int(np.prod(bounds.get("maxntid", (threads,)))) * bounds.get("minnctapersm", (1,))[0]
    for what, has, most in (
        ("threads of a block", threads, device.threads_per_block),
        *((f"threads of a block along {axis}", n, m) for axis, n, m in zip("xyz", block, BLOCK, strict=True)),
        *((f"blocks along {axis}", n, m) for axis, n, m in zip("xyz", grid, GRID, strict=True)),
        ("bytes of shared variables of fixed size", static, SHARED_UNASKED),
        ("bytes of shared memory of a block", static + shared, device.shared_per_block),
        ("bytes of local memory of a thread", local, LOCAL),
        ("threads of a multiprocessor, by the kernel's launch bounds", resident, WARP * device.warps_per_sm),
        ("registers of a block, by the kernel's .maxnreg", threads * bounds.get("maxnreg", (0,))[0], device.registers_per_sm),
    ):
        if has > most:
            raise Fault("limit", f"{has} {what}; {target} has {most}")
    allowed = int(np.prod(bounds.get("maxntid", (threads,))))
    if threads > allowed:
        raise Fault("limit", f"blocks of {threads} threads; the kernel was compiled for at most {allowed}, by .maxntid")
    wanted = bounds.get("reqntid")
    if wanted and tuple([*wanted, 1, 1][:3]) != block:
        raise Fault("limit", f"blocks of {block} threads; the kernel asks for {wanted} by .reqntid")


class Watcher:
    """What may be told of a run as it goes; does nothing with it."""

    def begin(self, machine: Machine, root: Lanes) -> None:
        """A wave begins."""

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
        self.arguments = uninitialised
        self.written = np.zeros(0, bool)

    def begin(self, machine: Machine, root: Lanes) -> None:
        if self.written.size != machine.memory.arena.size:
            self.written = np.ones(machine.memory.arena.size, bool)
            names = {machine.names[i] for i in self.arguments}
            for r in machine.memory.regions:
                if names & set(r.name.split(", ")):
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
        raise R.machine.fault("uninitialised", f"reads {access.bytes} bytes at {what} that nobody has written", R, bad, access.x, address)


def described(access: Access, R: Lanes, positions: np.ndarray, i: int) -> tuple[str, int]:
    """A position in the arena in words, and the address that thread i knows it by."""
    m = R.machine.memory
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


# What is known of a byte of shared memory: threads are counted from 1, 0 is nobody; an epoch is the time between two barriers of a block, a
# step that between two barriers of a warp.
WRITER, WRITTEN, WRITTEN_STEP, BY, READER, READ_AT, READ_STEP, OTHER, OTHER_STEP, COPIER, COLUMNS = range(11)


class Races(Watcher):
    """For each byte of shared memory: who wrote it last, up to two who read it since the last barrier, who copies to it."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict

    def begin(self, machine: Machine, root: Lanes) -> None:
        self.machine = machine
        self.start = machine.memory.shared[0]
        self.last = np.zeros((machine.memory.local[0] - self.start, COLUMNS), np.int32)
        self.epoch = np.zeros(machine.live_count.size, np.int32)
        self.step = np.zeros(machine.warps_now, np.int32)
        self.warp_of = root["warp"]

    def access(self, access: Access, R: Lanes, positions: np.ndarray, kind: int) -> None:
        if access.space not in ("shared", "generic"):
            return
        if positions.size == 1 and R.size > 1:
            positions = np.full(R.size, positions[0])
        now = self.warp_of, self.machine.block_of, self.epoch, self.step
        other = np.zeros(2, np.int64)
        bad = touch(self.last, self.start, positions, access.bytes, kind, R["thread"], *now, self.strict, other)
        if bad >= 0:
            self.fault(access, R, positions, kind, bad, int(other[0]), int(other[1]))

    def fault(self, access: Access, R: Lanes, positions: np.ndarray, kind: int, bad: int, other: int, did: int) -> None:
        what, address = described(access, R, positions, bad)
        them = self.machine.who(other)
        deed = f"{('read', 'wrote', 'updated')[did]}, with no barrier between" if did != COPY else "copies to, and has not waited for"
        fault = self.machine.fault("race", f"{DOES[kind]} {what}, which {them} {deed}", R, np.array([bad]), access.x, address)
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
    """Record accesses, thread by thread. The first that nothing orders after an earlier one, or -1; `other`: who that was, what it did."""
    for i in range(positions.size):
        t = threads[i]
        e, s, w = epoch[block_of[t]], step[warp_of[t]], warp_of[t]
        for at in range(positions[i] - start, positions[i] - start + size):
            if at < 0 or at >= last.shape[0]:
                break
            b = last[at]
            if b[COPIER]:
                other[0], other[1] = b[COPIER] - 1, COPY
                return i
            atomic = kind == ATOMIC and b[BY] == ATOMIC
            if b[WRITER] and b[WRITTEN] == e and not atomic and apart(t, b[WRITER] - 1, b[WRITTEN_STEP], warp_of, step, strict):
                other[0], other[1] = b[WRITER] - 1, b[BY]
                return i
            if kind == READ:
                remember(b, t, e, s, w, warp_of)
                continue
            if b[READER] and b[READ_AT] == e:
                for who in (READER, OTHER):
                    if b[who] and apart(t, b[who] - 1, b[READ_STEP if who == READER else OTHER_STEP], warp_of, step, strict):
                        other[0], other[1] = b[who] - 1, READ
                        return i
            if kind == COPY:
                b[COPIER] = t + 1
            else:
                b[WRITER], b[WRITTEN], b[WRITTEN_STEP], b[BY] = t + 1, e, s, kind
    return -1


@njit(nogil=True, cache=True)
def remember(b, t, e, s, w, warp_of):
    """Keep a reader of this epoch and another, of another warp if there is one: any writer is then apart from one of them."""
    if b[READER] == 0 or b[READ_AT] != e:
        b[READER], b[READ_AT], b[READ_STEP], b[OTHER] = t + 1, e, s, 0
    elif warp_of[b[READER] - 1] == w:
        if b[READ_STEP] != s:
            b[READER], b[READ_STEP] = t + 1, s
        elif b[READER] != t + 1 and b[OTHER] == 0:
            b[OTHER], b[OTHER_STEP] = t + 1, s
    elif b[OTHER] == 0 or warp_of[b[OTHER] - 1] != w or b[OTHER_STEP] != s:
        b[OTHER], b[OTHER_STEP] = t + 1, s


@njit(nogil=True, cache=True)
def arrive(last, start, positions, size, threads, warp_of, block_of, epoch, step):
    """Copies become writes of those who waited for them."""
    for i in range(positions.size):
        t = threads[i]
        for at in range(positions[i] - start, positions[i] - start + size):
            b = last[at]
            b[COPIER], b[WRITER], b[WRITTEN], b[WRITTEN_STEP], b[BY] = 0, t + 1, epoch[block_of[t]], step[warp_of[t]], WRITE


def watchers(checks: frozenset[str], uninitialised: tuple[int, ...]) -> list[Watcher]:
    """The watchers that checks by these names need."""
    found: list[Watcher] = []
    if "uninitialised" in checks:
        found.append(Uninitialised(uninitialised))
    if "race" in checks or STRICT in checks:
        found.append(Races(STRICT in checks))
    return found
