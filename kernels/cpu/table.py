"""Many arrays in one call: a table of where they lie.

What Numba asks of each array that it is handed costs 0.1 microseconds, and a variant to compile for each number of arrays; what NumPy
takes to say in Python where an array lies costs 1. A model has ten arrays or a hundred, and a step needs seven of each. So the
records behind NumPy's arrays are read by compiled code: `PyArrayObject_fields` of NumPy's C interface, whose layout is fixed.

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
TYPE, DATA, AXES, SIZES, DTYPE, FLAGS = HEAD - 8, HEAD, HEAD + 8, HEAD + 16, HEAD + 40, HEAD + 48
READ, WRITTEN = 0x101, 0x501  # flags: C order and aligned; and writable
ARRAY = id(np.ndarray)


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
@njit(cache=True)  # holds the interpreter lock: nobody changes an array meanwhile
def read(objects, reads, array, dtype, table):
    """Fill the table from the arrays at `objects`, of which the first `reads` of a line are only read.

    Returns the place of the first that does not fit: no plain array, another dtype, not in C order, not of the shape of the first of
    its line. Returns -1 if all do.
    """
    lines, slots = table.shape[0], table.shape[1] - 1
    for line in range(lines):
        first = objects[line]
        for slot in range(slots):
            place = slot * lines + line
            x = objects[place]
            if word(x + TYPE) != array or word(x + DTYPE) != dtype:
                return place
            wanted = READ if slot < reads else WRITTEN
            if half(x + FLAGS) & wanted != wanted or half(x + AXES) != half(first + AXES):
                return place
            size = 1
            for axis in range(half(x + AXES)):
                length = word(word(x + SIZES) + 8 * axis)
                if length != word(word(first + SIZES) + 8 * axis):
                    return place
                size *= length
            table[line, 0] = size
            table[line, 1 + slot] = word(x + DATA)
    return -1


def table_of(slots: Sequence[Sequence[Any]], reads: int, dtype: np.dtype, told: Callable[[int, int], str]) -> tuple[np.ndarray, list[Any]]:
    """The table of the arrays `slots[slot][line]`, and these arrays: to be kept as long as the table is in use.

    What is read, the first `reads` slots, is copied if it is not in C order. What is written must be, for it cannot be elsewhere.
    Raises ValueError for a shape, a dtype or a layout that does not fit, and calls it `told(slot, line)`.
    """
    arrays = [x for slot in slots for x in slot]
    lines = len(slots[0])
    table = np.empty((lines, 1 + len(slots)), np.int64)
    wrong = fill(arrays, reads, dtype, table)
    if wrong >= 0:
        arrays[: reads * lines] = [plain(x, dtype) for x in arrays[: reads * lines]]
        wrong = fill(arrays, reads, dtype, table)
    if wrong >= 0:
        x, first = arrays[wrong], arrays[wrong % lines]
        given = f"{x.shape} {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        wanted = f"{first.shape} {dtype}" + (", in C order and writable" if wrong >= reads * lines else "")
        raise ValueError(f"{told(*divmod(wrong, lines))} is {given}; wanted is {wanted}")
    return table, arrays


def fill(arrays: Sequence[Any], reads: int, dtype: np.dtype, table: np.ndarray) -> int:
    return int(read(np.fromiter(map(id, arrays), np.int64, len(arrays)), reads, ARRAY, id(dtype), table))


def plain(x: Any, dtype: np.dtype) -> np.ndarray:
    """`x` as NumPy's own array in C order; a copy only if it is not so already."""
    x = np.asarray(x)
    x = x if x.flags.c_contiguous and x.flags.aligned else np.array(x, order="C")
    return x.view(dtype) if x.dtype == dtype else x  # equal dtypes may be two objects


def cut(table: np.ndarray, groups: np.ndarray, most: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tables of about `most` elements each, with their groups, by size alone. A number has `size` bytes: long lines are cut."""
    parts = np.maximum(-(-table[:, 0] // most), 1)
    line = np.repeat(np.arange(len(table)), parts)
    start = (np.arange(len(line)) - np.repeat(np.cumsum(parts) - parts, parts)) * most
    lines = table[line]
    lines[:, 0] = np.minimum(lines[:, 0] - start, most)
    lines[:, 1:] += size * start[:, None]
    ends = np.flatnonzero(np.diff(np.cumsum(lines[:, 0]) // most)) + 1
    return list(zip(np.split(lines, ends), np.split(groups[line], ends), strict=True))
