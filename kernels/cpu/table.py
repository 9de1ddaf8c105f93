"""Many arrays in one call: a table of where they lie.

What Numba asks of each array that it is handed costs 0.1 microseconds, and a variant to compile for each number of arrays; what NumPy
takes to say in Python where an array lies costs 1. A model has ten arrays or a hundred, and a step needs seven of each. So compiled
code reads the records behind the arrays: `PyListObject` of CPython, `PyArrayObject_fields` of NumPy. Both are in the headers that
extensions are compiled with, so they do not change under them.

A line of the table is for the arrays of one name: how many elements they have, then the address of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from kernels.cpu.cache import stamped
from kernels.cpu.vector import INT

HEAD = object.__basicsize__  # of every Python object; its last field is the type
ITEMS = HEAD + 8  # of a list
TYPE, DATA, AXES, SIZES, DTYPE, FLAGS = HEAD - 8, HEAD, HEAD + 8, HEAD + 16, HEAD + 40, HEAD + 48  # of an array
READ, WRITTEN = 0x101, 0x501  # flags: C order and aligned; and writable
KIND = id(np.ndarray)


def _loads(bits: int) -> Any:
    @intrinsic
    def run(typing: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            found = builder.load(builder.inttoptr(values[0], ir.IntType(bits).as_pointer()))
            return found if bits == 64 else builder.sext(found, INT)

        return types.int64(types.int64), code

    return run


word, half = _loads(64), _loads(32)


@stamped
@njit(cache=True)  # and with the interpreter lock: nobody changes an array meanwhile
def read(arrays, reads, kind, dtype, table):
    """Fill the table from the list at the address `arrays`, slot after slot; the first `reads` slots are only read. `kind` and `dtype` are
    addresses, too.

    Returns how many elements a slot has. If one does not fit (no plain array, another dtype, not in C order, not of the shape of the
    first of its line), returns its place i as -1 - i.
    """
    lines, slots = table.shape[0], table.shape[1] - 1
    objects = word(arrays + ITEMS)
    total = 0
    for line in range(lines):
        first = word(objects + 8 * line)
        size = 1
        for axis in range(half(first + AXES) if word(first + TYPE) == kind else 0):
            size *= word(word(first + SIZES) + 8 * axis)
        table[line, 0] = size
        total += size
        for slot in range(slots):
            place = slot * lines + line
            x = word(objects + 8 * place)
            if word(x + TYPE) != kind or word(x + DTYPE) != dtype or half(x + AXES) != half(first + AXES):
                return -1 - place
            wanted = READ if slot < reads else WRITTEN
            if half(x + FLAGS) & wanted != wanted:
                return -1 - place
            for axis in range(half(x + AXES)):
                if word(word(x + SIZES) + 8 * axis) != word(word(first + SIZES) + 8 * axis):
                    return -1 - place
            table[line, 1 + slot] = word(x + DATA)
    return total


def table_of(
    slots: Sequence[Sequence[Any]], reads: int, dtype: np.dtype, told: Callable[[int, int], str]
) -> tuple[np.ndarray, int, list[Any]]:
    """The table of the arrays `slots[slot][line]`, how many elements a slot has, and the arrays: to be kept as long as the table is in use.

    What is read, the first `reads` slots, is copied if it is not in C order. What is written must be, for it cannot be elsewhere.
    Raises ValueError for a shape, a dtype or a layout that does not fit, and calls it `told(slot, line)`.
    """
    arrays = [x for slot in slots for x in slot]
    lines = len(slots[0])
    table = np.empty((lines, 1 + len(slots)), np.int64)
    total = read(id(arrays), reads, KIND, id(dtype), table)
    if total < 0:
        arrays[: reads * lines] = [plain(x, dtype) for x in arrays[: reads * lines]]
        total = read(id(arrays), reads, KIND, id(dtype), table)
    if total < 0:
        place = -1 - total
        x, first = arrays[place], arrays[place % lines]
        given = f"{x.shape} {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        wanted = f"{first.shape} {dtype}" + (", in C order and writable" if place >= reads * lines else "")
        raise ValueError(f"{told(*divmod(place, lines))} is {given}; wanted is {wanted}")
    return table, total, arrays


@stamped
@njit(cache=True)
def overlap(table, size, reads):
    """The place of a result that has memory in common with another array than its own argument, the very same; -1 if there is none.

    In the order of their addresses: what begins before all that came before it has ended overlaps with some of that.
    """
    lines, slots = table.shape[0], table.shape[1] - 1
    order = np.arange(lines * slots)
    gap = len(order) // 2
    while gap > 0:  # Shell's sort
        for i in range(gap, len(order)):
            x, j = order[i], i
            while j >= gap and start_of(table, order[j - gap]) > start_of(table, x):
                order[j] = order[j - gap]
                j -= gap
            order[j] = x
        gap //= 2
    end_read = end_written = 0
    last = -1
    for i in order:
        line, slot, start = i // slots, i % slots, start_of(table, i)
        end = start + size * table[line, 0]
        if start == end or (slot < reads and start == result_of(table, line, slot, reads)):
            continue  # counts as the result that it becomes
        if slot < reads:
            if start < end_written:
                return last
            end_read = max(end_read, end)
        else:
            if start < max(end_read, end_written):
                return slot * lines + line
            end_written, last = end, slot * lines + line
    return -1


@njit(inline="always")
def start_of(table, i):
    return table[i // (table.shape[1] - 1), 1 + i % (table.shape[1] - 1)]


@njit(inline="always")
def result_of(table, line, slot, reads):
    """Where the new value of an argument goes. All have one but the second, the gradient."""
    return table[line, 1 + reads + (slot if slot == 0 else slot - 1)] if slot != 1 else -1


def no_overlap(table: np.ndarray, size: int, reads: int, told: Callable[[int, int], str]) -> None:
    """Raises ValueError if a result would be written over what is still to be read."""
    place = overlap(table, size, reads)
    if place >= 0:
        raise ValueError(
            f"{told(*divmod(place, len(table)))} has memory in common with another array; it may be its own argument, no other"
        )


def plain(x: Any, dtype: np.dtype) -> np.ndarray:
    """`x` as NumPy's own array in C order; a copy only if it is not so already."""
    x = np.asarray(x)
    x = x if x.flags.c_contiguous and x.flags.aligned else np.array(x, order="C")
    return x.view(dtype) if x.dtype == dtype else x  # equal dtypes may be two objects


def cut(table: np.ndarray, groups: np.ndarray, numbers: np.ndarray, most: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The same job in pieces of about `most` elements, by size alone: long lines are cut, short ones stay together."""
    parts = np.maximum(-(-table[:, 0] // most), 1)
    line = np.repeat(np.arange(len(table)), parts)
    start = (np.arange(len(line)) - np.repeat(np.cumsum(parts) - parts, parts)) * most
    lines = table[line]
    lines[:, 0] = np.minimum(lines[:, 0] - start, most)
    lines[:, 1:] += numbers.itemsize * start[:, None]
    ends = np.flatnonzero(np.diff(np.cumsum(lines[:, 0]) // most)) + 1
    return [(t, g, numbers) for t, g in zip(np.split(lines, ends), np.split(groups[line], ends), strict=True)]
