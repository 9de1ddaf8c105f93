"""Loads, stores and atomics of one instruction, for all threads that run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from kernels.cuda.emulate.faults import Fault
from kernels.cuda.emulate.memory import LOCAL, MASK, SHARED, WINDOW, Memory, positions_anywhere, positions_in_regions, positions_in_window
from kernels.cuda.emulate.parse import Instruction

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes

READ, WRITE, ATOMIC, COPY = 0, 1, 2, 3  # COPY: cp.async, which writes later
DOES = {READ: "reads", WRITE: "writes", ATOMIC: "updates", COPY: "copies"}


class Access:
    """One instruction's way to memory: where the bytes of each thread lie, and what to do with them."""

    def __init__(self, x: Instruction, space: str, width: int, count: int, offset: int, align: int | None = None) -> None:
        self.x, self.space, self.offset = x, space, offset
        self.width, self.count, self.bytes = width, count, width * count
        self.align = align or self.bytes

    def positions(self, R: Lanes, address: np.ndarray, kind: int) -> np.ndarray:
        """Where in the arena the bytes of each thread begin; one position if it is the same for all."""
        m = R.machine.memory
        sizes = m.sizes if kind == READ else m.writable
        if self.space in ("shared", "local"):
            base, size = R[self.space], (m.shared_used if self.space == "shared" else m.local_used)
            out = np.empty(max(address.size, base.size), np.int64)
            bad = positions_in_window(address, self.offset, self.bytes, self.align, base, size, out)
        elif self.space == "generic":
            out = np.empty(R.size, np.int64)
            shared, local = R["shared"], R["local"]
            bad = positions_anywhere(
                address, self.offset, self.bytes, self.align, m.starts, sizes, shared, m.shared_used, local, m.local_used, out
            )
        else:
            out = np.empty(address.size, np.int64)
            bad = positions_in_regions(address, self.offset, self.bytes, self.align, m.starts, sizes, out)
        if bad >= 0:
            raise self.fault(R, address, kind, sizes)
        for watcher in R.machine.watchers:
            watcher.access(self, R, out, kind)
        return out

    def fault(self, R: Lanes, address: np.ndarray, kind: int, sizes: np.ndarray) -> Fault:
        """Who is out of bounds, or else misaligned, and by how much."""
        m = R.machine.memory
        a = np.broadcast_to(address.astype(np.int64), (R.size,)) + self.offset
        own = {"shared": SHARED, "local": LOCAL}.get(self.space)
        window, within = (np.full(R.size, own), a) if own else (a >> WINDOW, a & MASK)
        table = sizes.copy()
        if own or self.space == "generic":
            table[[SHARED, LOCAL]] = m.shared_used, m.local_used
        known = (window >= 0) & (window < table.size)
        limit = np.where(known, table[np.where(known, window, 0)], -1)
        outside = (within < 0) | (within + self.bytes > limit)
        bad = np.flatnonzero(outside if outside.any() else a & (self.align - 1))
        first = int(a[bad[0]])
        what = f"{DOES[kind]} {self.bytes} bytes at {self.place(m, first, kind)}"
        if outside.any():
            return R.machine.fault("bounds", what, R, bad, self.x, first)
        return R.machine.fault("alignment", f"{what}; it must be at a multiple of {self.align}", R, bad, self.x, first)

    def place(self, m: Memory, address: int, kind: int) -> str:
        """An address in words: an offset in the window that it is nearest to."""
        window, offset = (address + (1 << WINDOW - 1)) >> WINDOW, address
        if self.space in ("shared", "local"):
            window = SHARED if self.space == "shared" else LOCAL
        else:
            offset = address - (window << WINDOW)
        if window in (SHARED, LOCAL):
            name, size = ("shared memory", m.shared_used) if window == SHARED else ("local memory", m.local_used)
            return f"offset {offset} of {name}, of which there are {size} bytes"
        region = m.region_at(window << WINDOW)
        if region is None:
            return f"address {address:#x}, where nothing is"
        if kind != READ and not region.writable:
            return f"offset {offset} of {region.name}, which is read-only"
        return f"offset {offset} of {region.name}, which has {region.size} bytes"

    def load(self, dtype: str) -> Callable[[Lanes, np.ndarray], Any]:
        shift, count = self.width.bit_length() - 1, self.count

        def one(R: Lanes, address: np.ndarray) -> np.ndarray:
            return R.machine.memory.views[dtype][self.positions(R, address, READ) >> shift]

        def several(R: Lanes, address: np.ndarray) -> list[np.ndarray]:
            view, p = R.machine.memory.views[dtype], self.positions(R, address, READ) >> shift
            return [view[p + i] for i in range(count)]

        return one if count == 1 else several

    def store(self, dtype: str) -> Callable[..., None]:
        shift, count = self.width.bit_length() - 1, self.count

        def store(R: Lanes, address: np.ndarray, *values: np.ndarray) -> None:
            view, p = R.machine.memory.views[dtype], self.positions(R, address, WRITE) >> shift
            for i, v in enumerate(values):
                view[p + i] = v if p.size > 1 else v[-1:]  # the last thread wins
            if "race" in R.machine.checks:
                self.all_kept(R, address, [view[p + i] for i in range(count)], values)

        return store

    def all_kept(self, R: Lanes, address: np.ndarray, kept: list[np.ndarray], values: tuple[np.ndarray, ...]) -> None:
        """A race that needs no second instruction: of two numbers that threads write to one place, one is lost."""
        for k, v in zip(kept, values, strict=True):
            lost = k.view(f"u{k.itemsize}") != v.view(f"u{k.itemsize}")
            if lost.any():
                bad = np.flatnonzero(np.broadcast_to(lost, (R.size,)))
                a = int(np.broadcast_to(address, (R.size,))[bad[0]]) + self.offset
                what = f"threads write different numbers to {self.place(R.machine.memory, a, WRITE)}, at once"
                raise R.machine.fault("race", what, R, bad, self.x, a)

    def atomic(self, op: str, kind: str) -> Callable[..., np.ndarray]:
        """Threads in order, each a read and a write that nothing comes between; the values before."""
        from kernels.cuda.emulate.translate import dtype_of

        dtype, shift = dtype_of(kind), self.width.bit_length() - 1
        code = ATOMICS.index(op)
        flush = kind == "f32" and self.space == "global" and op == "add"  # PTX ISA 9.7.13.5
        if kind in ("f16x2", "bf16", "bf16x2", "b128") and op not in ("exch", "cas"):
            raise ValueError(f"atomic {op} of {kind}")

        def atomic(R: Lanes, address: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
            view, p = R.machine.memory.views[dtype], self.positions(R, address, ATOMIC) >> shift
            old = np.empty(R.size, view.dtype)
            if kind == "f16":
                add_halves(view, p, b, old)
            elif flush:
                flushed_sums(view, p, b, old)
            elif op in ("and", "or", "xor"):
                bits_in_turn(view, p, b, old, code)
            else:
                in_turn(view, p, b, b if c is None else c, old, code)
            return old

        return atomic


ATOMICS = ("add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas")


def add_halves(view: np.ndarray, p: np.ndarray, b: np.ndarray, old: np.ndarray) -> None:
    for i in range(old.size):
        j = p[i if p.size > 1 else 0]
        old[i] = view[j]
        view[j] = view[j] + b[i if b.size > 1 else 0]


@njit(nogil=True, cache=True)
def in_turn(view, p, b, c, old, code):
    one_p, one_b, one_c = p.size == 1, b.size == 1, c.size == 1
    for i in range(old.size):
        j = p[0 if one_p else i]
        x, y = view[j], b[0 if one_b else i]
        old[i] = x
        if code == 0:
            view[j] = x + y
        elif code == 1:
            view[j] = y if y < x or x != x else x
        elif code == 2:
            view[j] = y if y > x or x != x else x
        elif code == 3:
            view[j] = 0 if x >= y else x + 1
        elif code == 4:
            view[j] = y if x == 0 or x > y else x - 1
        elif code == 8:
            view[j] = y
        elif code == 9 and x == y:
            view[j] = c[0 if one_c else i]


@njit(nogil=True, cache=True)
def flushed_sums(view, p, b, old):
    one_p, one_b = p.size == 1, b.size == 1
    for i in range(old.size):
        j = p[0 if one_p else i]
        old[i] = view[j]
        view[j] = normal(normal(old[i]) + normal(b[0 if one_b else i]))


@njit(nogil=True, cache=True)
def normal(x):
    return x * np.float32(0) if abs(x) < np.float32(2.0**-126) else x


@njit(nogil=True, cache=True)
def bits_in_turn(view, p, b, old, code):
    one_p, one_b = p.size == 1, b.size == 1
    for i in range(old.size):
        j = p[0 if one_p else i]
        x, y = view[j], b[0 if one_b else i]
        old[i] = x
        view[j] = x & y if code == 5 else x | y if code == 6 else x ^ y
