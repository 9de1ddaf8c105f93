"""Where things lie: every array, variable, block's shared and thread's local memory in one arena of bytes.

An address as a kernel sees it is a window and an offset in it, `window << 36 | offset`. Each allocation has a window to itself, so an
index that is out of bounds by less than 64 GiB lands in no other array: it is found, whatever it would have hit on a device.

    window 0     nothing: address 0 and what is near it
    window 1     shared memory of the thread's block (its addresses in the shared state space are offsets in this window)
    window 2     local memory of the thread
    window 3...  arguments, `.global` and `.const` variables
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numba import njit

WINDOW = 36  # bits of an offset
SHARED, LOCAL, FIRST = 1, 2, 3
MASK = (1 << WINDOW) - 1
LINE = 256  # allocations of the driver begin at multiples of it


@dataclass
class Region:
    """One allocation: its bytes in the arena, its window, and the host's bytes that it is a copy of."""

    name: str
    window: int
    start: int
    size: int
    host: int = 0  # the address of the host's bytes
    writable: bool = True

    @property
    def address(self) -> int:
        return self.window << WINDOW


def bytes_of(x: np.ndarray) -> tuple[int, int]:
    """The first and one past the last address that an array's elements take."""
    low = high = x.__array_interface__["data"][0]
    if x.size == 0:
        return low, low
    for n, s in zip(x.shape, x.strides, strict=True):
        low, high = low + min(0, (n - 1) * s), high + max(0, (n - 1) * s)
    return low, high + x.itemsize


def host_bytes(address: int, size: int) -> np.ndarray:
    """The bytes at an address of this process, as an array: its owner must be held."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


class Memory:
    """The arena and its regions. `take_in` copies arrays in, `give_back` what the kernel wrote out again."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.end = LINE
        self.arena = np.zeros(0, np.uint8)
        self.views: dict[str, np.ndarray] = {}
        self.shared = self.local = (0, 0)  # where each begins, and bytes of one block or thread
        self.shared_used = self.local_used = 0  # bytes that one has of them
        self.starts = self.sizes = self.writable = np.zeros(FIRST, np.int64)

    def region(self, name: str, size: int, host: int = 0, writable: bool = True) -> Region:
        made = Region(name, FIRST + len(self.regions), self.end, size, host, writable)
        self.end += (size // LINE + 1) * LINE
        self.regions.append(made)
        return made

    def take_in(self, arrays: dict[str, np.ndarray]) -> dict[str, int]:
        """Regions for arrays; arrays whose bytes overlap share one. The address of each array's first element."""
        spans = {name: bytes_of(x) for name, x in arrays.items()}
        addresses: dict[str, int] = {}
        together: list[str] = []
        last = 0
        for name in sorted(spans, key=spans.__getitem__):
            if together and (spans[name][0] >= last or spans[name][0] == spans[name][1]):
                self.joined(together, spans, arrays, addresses)
                together = []
            last = max(last, spans[name][1]) if together else spans[name][1]
            together.append(name)
        if together:
            self.joined(together, spans, arrays, addresses)
        return addresses

    def joined(self, names: list[str], spans: dict[str, tuple[int, int]], arrays: dict[str, np.ndarray], addresses: dict[str, int]) -> None:
        low, high = min(spans[n][0] for n in names), max(spans[n][1] for n in names)
        where = self.region(", ".join(names), high - low, low, any(arrays[n].flags.writeable for n in names))
        for n in names:
            addresses[n] = where.address + arrays[n].__array_interface__["data"][0] - low

    def lay_out(self, shared: tuple[int, int], local: tuple[int, int]) -> None:
        """Make the arena, with `shared` = (blocks, bytes each) and `local` = (threads, bytes each) behind the regions."""
        self.shared_used, self.local_used = shared[1], local[1]
        self.shared = (self.end, rounded(shared[1]))
        self.local = (self.shared[0] + shared[0] * self.shared[1], rounded(local[1], 16))
        size = self.local[0] + local[0] * self.local[1] + LINE
        self.arena = np.zeros(rounded(size), np.uint8)
        self.views = {t: self.arena.view(t) for t in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")}
        self.starts = np.array([0] * FIRST + [r.start for r in self.regions], np.int64)
        self.sizes = np.array([-1] * FIRST + [r.size for r in self.regions], np.int64)
        self.writable = np.array([-1] * FIRST + [r.size if r.writable else -1 for r in self.regions], np.int64)
        for r in self.regions:
            if r.host and r.size:
                self.arena[r.start : r.start + r.size] = host_bytes(r.host, r.size)

    def forget(self) -> None:
        """Fill shared and local memory with what no program should read: NaN, or -1."""
        self.arena[self.shared[0] :] = 0xFF

    def give_back(self) -> None:
        for r in self.regions:
            if r.host and r.size and r.writable:
                host_bytes(r.host, r.size)[:] = self.arena[r.start : r.start + r.size]

    def region_at(self, address: int) -> Region | None:
        """The region whose window an address lies in."""
        window = address >> WINDOW
        return self.regions[window - FIRST] if FIRST <= window < FIRST + len(self.regions) else None


def rounded(size: int, to: int = LINE) -> int:
    return -(-size // to) * to


# Positions in the arena. Each returns the first thread whose access is out of bounds or misaligned, or -1.


@njit(nogil=True, cache=True)
def positions_in_window(address, offset, width, align, base, size, out):
    """Shared or local memory: `base` is where that of each thread begins."""
    one_address, one_base = address.size == 1, base.size == 1
    for i in range(out.size):
        a = np.int64(address[0 if one_address else i]) + offset
        if a < 0 or a + width > size or a & (align - 1):
            return i
        out[i] = base[0 if one_base else i] + a
    return -1


@njit(nogil=True, cache=True)
def positions_in_regions(address, offset, width, align, starts, sizes, out):
    """Global memory and constants: a window each."""
    for i in range(out.size):
        a = np.int64(address[i]) + offset
        w = a >> WINDOW
        if w < 0 or w >= sizes.size or (a & MASK) + width > sizes[w] or a & (align - 1):
            return i
        out[i] = starts[w] + (a & MASK)
    return -1


@njit(nogil=True, cache=True)
def positions_anywhere(address, offset, width, align, starts, sizes, shared, shared_size, local, local_size, out):
    """Generic addresses: shared and local memory are windows too."""
    one_address, one_shared, one_local = address.size == 1, shared.size == 1, local.size == 1
    for i in range(out.size):
        a = np.int64(address[0 if one_address else i]) + offset
        w, off = a >> WINDOW, a & MASK
        if w < 0 or w >= sizes.size or a & (align - 1):
            return i
        size = shared_size if w == SHARED else local_size if w == LOCAL else sizes[w]
        if off + width > size:
            return i
        start = starts[w]
        if w == SHARED:
            start = shared[0 if one_shared else i]
        if w == LOCAL:
            start = local[0 if one_local else i]
        out[i] = start + off
    return -1
