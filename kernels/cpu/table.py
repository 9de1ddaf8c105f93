"""Many arrays in one call: a table of where they lie.

What Numba asks of each array that it is handed costs 0.1 microseconds, and a variant to compile for each number of arrays; what NumPy
takes to say in Python where an array lies costs 1. A model has ten arrays or a hundred, and a step needs seven of each. So compiled
code goes through the dicts by CPython's own functions, and reads the records behind the arrays, `PyArrayObject_fields`, as NumPy's
header has them: extensions are compiled with that, so it does not change under them.

A line of the table is for the arrays of one name: how many elements they have, then the address of each.

Of a step on one small array most is Python: `on_one` does the whole of it in one compiled call.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.cache import stamped
from kernels.cpu.unit import called_at
from kernels.cpu.vector import INT, address

HEAD = object.__basicsize__  # of every Python object; its last field is the type
ITEMS = HEAD + 8  # of a list, the address of what a tuple has in place
COUNT, NUMBER = HEAD, HEAD  # of a tuple: how many items; of a float: what it is
TYPE, DATA, AXES, SIZES, DTYPE, FLAGS = HEAD - 8, HEAD, HEAD + 8, HEAD + 16, HEAD + 40, HEAD + 48  # of an array
READ, WRITTEN = 0x101, 0x501  # flags: C order and aligned; and writable
KIND, FLOAT = id(np.ndarray), id(float)

Dicts = list[dict[str, Any]]
Told = Callable[[int, str], str]
ADDRESS = INT.as_pointer()


def _loads(bits: int) -> Any:
    @intrinsic
    def run(typing: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            found = builder.load(builder.inttoptr(values[0], ir.IntType(bits).as_pointer()))
            return found if bits == 64 else builder.sext(found, INT)

        return types.int64(types.int64), code

    return run


word, half = _loads(64), _loads(32)


@intrinsic
def number(typing: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.inttoptr(values[0], ir.DoubleType().as_pointer()))

    return types.float64(types.int64), code


@intrinsic
def item(typing: Any, d: Any, key: Any) -> Any:
    """The address of d[key], of a dict and a key at their addresses; 0 if there is none."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        get = cgutils.get_or_insert_function(builder.module, ir.FunctionType(INT, [INT, INT]), "PyDict_GetItemWithError")
        return builder.call(get, values)

    return types.int64(types.int64, types.int64), code


@intrinsic
def following(typing: Any, d: Any, position: Any) -> Any:
    """(position, key, value) of the item of a dict after the one at `position`; the first is after 0."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        places = [cgutils.alloca_once_value(builder, start) for start in (values[1], INT(0), INT(0))]
        turn = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), [INT, *[ADDRESS] * 3]), "PyDict_Next")
        builder.call(turn, [values[0], *places])
        return context.make_tuple(builder, signature.return_type, [builder.load(place) for place in places])

    return types.UniTuple(types.int64, 3)(types.int64, types.int64), code


@njit(cache=True)
def size_of_one(x, first, kind, dtype, wanted):
    """How many elements the array at the address x has; -1 if it is no plain array, or of another dtype, layout or shape than wanted."""
    if x == 0 or word(x + TYPE) != kind or word(x + DTYPE) != dtype or half(x + AXES) != half(first + AXES):
        return -1
    if half(x + FLAGS) & wanted != wanted:
        return -1
    size = 1
    for axis in range(half(x + AXES)):
        length = word(word(x + SIZES) + 8 * axis)
        if length != word(word(first + SIZES) + 8 * axis):
            return -1
        size *= length
    return size


@stamped
@njit(cache=True)  # and with the interpreter lock: nobody changes an array meanwhile
def read(dicts, reads, kind, dtype, table):
    """Fill the table from the list of dicts at the address `dicts`; the first `reads` are only read. `kind` and `dtype` are addresses, too.

    Returns how many elements a dict has. If an array does not fit (no plain one, another dtype, not in C order, not of the shape of the
    first of its line, none of its name), returns its place i as -1 - i.
    """
    lines, slots = table.shape[0], table.shape[1] - 1
    dicts = word(dicts + ITEMS)
    total = position = 0
    for line in range(lines):
        position, key, first = following(word(dicts), position)
        size = 0
        for slot in range(slots):
            x = item(word(dicts + 8 * slot), key) if slot > 0 else first
            size = size_of_one(x, first, kind, dtype, READ if slot < reads else WRITTEN)
            if size < 0:
                return -1 - (slot * lines + line)
            table[line, 1 + slot] = word(x + DATA)
        table[line, 0] = size
        total += size
    return total


@lru_cache(maxsize=1)
def known() -> bool:
    """Do records of this Python and this NumPy lie as their headers have it? One array and one list are looked at before any is trusted."""

    def at(address: int, kind: Any = ctypes.c_int64) -> Any:
        return kind.from_address(address).value

    x, items = np.zeros((3, 5)), [object()]
    fields = (
        at(id(x) + TYPE),
        at(id(x) + DATA),
        at(id(x) + AXES, ctypes.c_int32),
        at(id(x) + DTYPE),
        at(id(x) + FLAGS, ctypes.c_int32) & WRITTEN,
    )
    if fields != (KIND, x.ctypes.data, 2, id(x.dtype), WRITTEN) or sys.implementation.name != "cpython":
        return False
    pair = (1.25, x)
    if (at(id(pair) + COUNT), at(id(pair) + ITEMS + 8), at(id(pair[0]) + NUMBER, ctypes.c_double)) != (2, id(x), 1.25):
        return False
    return (at(at(id(x) + SIZES)), at(at(id(x) + SIZES) + 8), at(at(id(items) + ITEMS))) == (3, 5, id(items[0]))


def filled(dicts: Dicts, reads: int, dtype: np.dtype, table: np.ndarray) -> int:
    return int(read(id(dicts), reads, KIND, id(dtype), table)) if known() else read_in_python(dicts, reads, dtype, table)


def read_in_python(dicts: Dicts, reads: int, dtype: np.dtype, table: np.ndarray) -> int:
    """What `read` does, through what NumPy says of its arrays."""
    for line, (key, first) in enumerate(dicts[0].items()):
        for slot, d in enumerate(dicts):
            x = d.get(key)
            fits = type(x) is np.ndarray and x.dtype == dtype and x.shape == first.shape and x.flags.c_contiguous and x.flags.aligned
            if not fits or (slot >= reads and not x.flags.writeable):
                return -1 - (slot * len(table) + line)
            table[line, 0], table[line, 1 + slot] = x.size, x.ctypes.data
    return int(table[:, 0].sum())


def table_of(dicts: Dicts, reads: int, dtype: np.dtype, told: Told) -> tuple[np.ndarray, int, Dicts]:
    """The table of the arrays, how many elements a dict has, and the dicts: to be kept as long as the table is in use.

    What is read, the first `reads` dicts, is copied if it is not in C order. What is written must be, for it cannot be elsewhere.
    Raises ValueError for a shape, a dtype or a layout that does not fit, and calls it `told(slot, name)`.
    """
    table = np.empty((len(dicts[0]), 1 + len(dicts)), np.int64)
    total = filled(dicts, reads, dtype, table)
    if total < 0:
        dicts = [{name: plain(x, dtype) for name, x in d.items()} for d in dicts[:reads]] + dicts[reads:]
        total = filled(dicts, reads, dtype, table)
    if total < 0:
        slot, line = divmod(-1 - total, len(table))
        name, first = list(dicts[0].items())[line]
        x = dicts[slot].get(name)
        given = f"{x.shape} {x.dtype}" if isinstance(x, np.ndarray) else "missing" if x is None else type(x).__name__
        wanted = f"{first.shape} {dtype}" + (", in C order and writable" if slot >= reads else "")
        raise ValueError(f"{told(slot, name)} is {given}; wanted is {wanted}")
    return table, total, dicts


@stamped
@njit(cache=True)
def overlap(table, size, reads):
    """The place of a result that has memory in common with another array than its own argument, the very same; -1 if there is none."""
    lines, slots = table.shape[0], table.shape[1] - 1
    starts, places = np.empty((2, lines * slots), np.int64)
    count = 0
    for slot in range(slots):
        result = reads + max(slot - 1, 0) if slot < reads and slot != 1 else slot  # each argument but the second, the gradient, has one
        for line in range(lines):
            if table[line, 0] > 0 and (slot == result or table[line, 1 + slot] != table[line, 1 + result]):  # else it counts as that
                starts[count], places[count] = table[line, 1 + slot], slot * lines + line
                count += 1
    gap = count // 2
    while gap > 0:  # Shell's sort
        for i in range(gap, count):
            start, place, j = starts[i], places[i], i
            while j >= gap and starts[j - gap] > start:
                starts[j], places[j] = starts[j - gap], places[j - gap]
                j -= gap
            starts[j], places[j] = start, place
        gap //= 2
    end_read = end_written = 0
    last = -1
    for i in range(count):  # what begins before all that came before it has ended overlaps with some of that
        end, result = starts[i] + size * table[places[i] % lines, 0], places[i] >= reads * lines
        if starts[i] < end_written or (result and starts[i] < end_read):
            return places[i] if result else last
        if result:
            end_written, last = end, places[i]
        else:
            end_read = max(end_read, end)
    return -1


@stamped
@njit(cache=True)  # with the interpreter lock: what is small is done before another thread would have its turn
def step_on_one(run, arrays, numbers, reads, most, size, kind, dtype, float_kind):
    """As `on_one`: `arrays` and `numbers` are the addresses of the tuples, `kind`, `dtype` and `float_kind` of what is wanted in them."""
    slots, count = word(arrays + COUNT), word(numbers + COUNT)
    table, same = np.empty((1, 1 + slots), np.int64), np.empty(count)
    for slot in range(slots):
        x = word(arrays + ITEMS + 8 * slot)
        elements = size_of_one(x, word(arrays + ITEMS), kind, dtype, READ if slot < reads else WRITTEN)
        if elements < 0 or elements > most:
            return False
        table[0, 0], table[0, 1 + slot] = elements, word(x + DATA)
    for i in range(count):
        x = word(numbers + ITEMS + 8 * i)
        if word(x + TYPE) != float_kind:
            return False
        same[i] = number(x + NUMBER)
    if overlap(table, size, reads) >= 0:
        return False
    if size == 8:
        called_at(run, 0.0, address(table), address(same))
    else:
        called_at(run, np.float32(0), address(table), address(same.astype(np.float32)))
    return True


def on_one(run: int, arrays: tuple[Any, ...], numbers: tuple[float, ...], reads: int, most: int) -> bool:
    """The unit at the place `run` on arguments and results, which are arrays, not dicts. False, and nothing is done, if there is one that
    has more than `most` elements, does not fit or has memory in common with another."""
    dtype = arrays[0].dtype
    return known() and bool(step_on_one(run, id(arrays), id(numbers), reads, most, dtype.itemsize, KIND, id(dtype), FLOAT))


def no_overlap(table: np.ndarray, size: int, dicts: Dicts, reads: int, told: Told) -> None:
    """Raises ValueError if a result would be written over what is still to be read."""
    place = overlap(table, size, reads)
    if place >= 0:
        slot, line = divmod(place, len(table))
        raise ValueError(
            f"{told(slot, list(dicts[0])[line])} has memory in common with another array; it may be its own argument, no other"
        )


def plain(x: Any, dtype: np.dtype) -> Any:
    """`x` as NumPy's own array in C order; a copy only if it is not so already. What is not NumPy's stays: the door knows about that."""
    if not isinstance(x, (np.ndarray, np.generic)):
        return x
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
