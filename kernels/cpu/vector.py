"""Vectors as LLVM has them, for code that must stay in registers: what a loop over an array cannot say.

`Vectors` writes the instructions of one `@intrinsic`. Addresses are integers, offsets are bytes, alignment is that of one number.
The width is that of the tier in force (`features`), so one source serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.features import lanes

INT = ir.IntType(64)
BYTE = ir.IntType(8)


class Vectors:
    """Vectors of the numbers of one type, and the instructions on them."""

    def __init__(self, builder: Any, element: Any, parts: int = 1, wide: int | None = None):
        """`parts`: 2 for vectors half as wide as they can be; `wide`: so many lanes, in as many registers as it takes."""
        self.builder = builder
        self.element = element
        self.whole = isinstance(element, ir.IntType)
        self.size = element.width // 8 if self.whole else 4 if isinstance(element, ir.FloatType) else 8
        self.lanes = wide or max(2, lanes(8 * self.size) // parts)
        self.type = ir.VectorType(element, self.lanes)
        self.bytes = self.size * self.lanes
        self.zero = ir.Constant(self.type, None)

    def pointer(self, address: Any, kind: Any = None) -> Any:
        return self.builder.inttoptr(address, (kind or self.type).as_pointer())

    def plus(self, address: Any, offset: Any) -> Any:
        """An address so many bytes on: `offset` is a number of ours or a value of LLVM's."""
        if isinstance(offset, int):
            return self.builder.add(address, INT(offset)) if offset else address
        return self.builder.add(address, offset)

    def load(self, address: Any) -> Any:
        found = self.builder.load(self.pointer(address))
        found.align = self.size
        return found

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.pointer(address)).align = self.size

    def load_some(self, address: Any, mask: Any) -> Any:
        """The first lanes, as the mask has them, and zeros; memory behind them is not touched."""
        run = self._intrinsic("llvm.masked.load", ".p0", self.type, [self.type.as_pointer(), ir.IntType(32), mask.type, self.type])
        return self.builder.call(run, [self.pointer(address), ir.IntType(32)(self.size), mask, self.zero])

    def store_some(self, value: Any, address: Any, mask: Any) -> None:
        run = self._intrinsic("llvm.masked.store", ".p0", ir.VoidType(), [self.type, self.type.as_pointer(), ir.IntType(32), mask.type])
        self.builder.call(run, [value, self.pointer(address), ir.IntType(32)(self.size), mask])

    def integers(self, address: Any, kind: Any, mask: Any | None = None) -> Any:
        """As many integers of a kind as there are lanes, 64 bits wide; with a mask as in `load_some`."""
        some = ir.VectorType(kind, self.lanes)
        if mask is None:
            found = self.builder.load(self.pointer(address, some))
            found.align = kind.width // 8
        else:
            name = f"llvm.masked.load.v{self.lanes}i{kind.width}.p0"
            run = ir.FunctionType(some, [some.as_pointer(), ir.IntType(32), mask.type, some])
            given = [self.pointer(address, some), ir.IntType(32)(kind.width // 8), mask, ir.Constant(some, [0] * self.lanes)]
            found = self.builder.call(cgutils.get_or_insert_function(self.builder.module, run, name), given)
        return self.builder.zext(found, ir.VectorType(INT, self.lanes))

    def scaled(self, numbers: Any, by: Any) -> Any:
        """64-bit integers, each times one."""
        return self.builder.mul(numbers, self._spread(by, numbers.type))

    def gather(self, address: Any, offsets: Any, mask: Any | None) -> Any:
        """The numbers that lie at offsets (64 bits wide) from an address; zeros where the mask says so."""
        places = self.builder.add(self._spread(address, offsets.type), offsets)
        pointers = self.builder.inttoptr(places, ir.VectorType(self.element.as_pointer(), self.lanes))
        mask = ir.Constant(ir.VectorType(ir.IntType(1), self.lanes), [1] * self.lanes) if mask is None else mask
        run = self._intrinsic("llvm.masked.gather", f".v{self.lanes}p0", self.type, [pointers.type, ir.IntType(32), mask.type, self.type])
        return self.builder.call(run, [pointers, ir.IntType(32)(self.size), mask, self.zero])

    def first(self, count: Any) -> Any:
        """The mask of the first `count` lanes."""
        numbers = ir.VectorType(INT, self.lanes)
        return self.builder.icmp_signed("<", ir.Constant(numbers, list(range(self.lanes))), self._spread(count, numbers))

    def broadcast(self, address: Any) -> Any:
        """The number at an address, in every lane."""
        number = self.builder.load(self.pointer(address, self.element))
        number.align = self.size
        return self._spread(number, self.type)

    def copy_number(self, source: Any, target: Any) -> None:
        number = self.builder.load(self.pointer(source, self.element))
        number.align = self.size
        self.builder.store(number, self.pointer(target, self.element)).align = self.size

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once where the machine has such an instruction."""
        return self.builder.call(self._intrinsic("llvm.fmuladd", "", self.type, [self.type] * 3), [a, b, c])

    def settled(self, values: Sequence[Any]) -> list[Any]:
        """The same values, made before what follows. LLVM puts off what only the next turn of a loop asks for, and first loads all that
        this needs: a tile that fills the 32 registers of AVX-512 would spill. This is an empty instruction that takes and gives them."""
        if 8 * self.bytes < 512:
            return list(values)
        kind, places = ir.LiteralStructType([self.type] * len(values)), range(len(values))
        constraints = ",".join(["=v" for _ in places] + [str(i) for i in places])
        wall = ir.InlineAsm(ir.FunctionType(kind, [self.type for _ in places]), "", constraints, side_effect=True)
        found = self.builder.call(wall, values)
        return [self.builder.extract_value(found, i) for i in places]

    def added(self, a: Any, b: Any) -> Any:
        return self.builder.add(a, b) if self.whole else self.builder.fadd(a, b)

    def total(self, value: Any) -> Any:
        """The sum of the lanes, in halves: the upper half is added to the lower one until one is left."""
        width = self.lanes
        while width > 1:
            width //= 2
            low, high = [self.pick(value, value, range(start, start + width)) for start in (0, width)]
            value = self.added(low, high)
        return self.builder.extract_element(value, ir.IntType(32)(0))

    def pick(self, a: Any, b: Any, places: Sequence[int]) -> Any:
        """Lanes of a and b, counted as if b stood behind a."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places)))

    def prefetch(self, address: Any, *, writing: bool = False, level: int = 2) -> None:
        """Bring the line at an address near: to the cache of this level, or to the first one if it will be written to."""
        kinds = [BYTE.as_pointer(), *[ir.IntType(32)] * 3]
        run = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0")
        how = (1, 3, 1) if writing else (0, 4 - level, 1)
        self.builder.call(run, [self.pointer(address, BYTE), *[ir.IntType(32)(number) for number in how]])

    def _spread(self, number: Any, kind: Any) -> Any:
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count))

    def _intrinsic(self, name: str, pointers: str, result: Any, kinds: list[Any]) -> Any:
        full = f"{name}.v{self.lanes}{'i' if self.whole else 'f'}{8 * self.size}{pointers}"
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, kinds), full)


def loop(builder: Any, count: Any, starts: Sequence[Any], body: Callable[..., Sequence[Any]], step: int = 1) -> tuple[Any, list[Any]]:
    """`values = body(i, *values)` for i = 0, step, ... while a whole step is left of `count`. Returns the i after these, and the values."""
    before, turn, after = builder.block, builder.append_basic_block("turn"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed(">=", count, INT(step)), turn, after)
    builder.position_at_end(turn)
    starts = [INT(0), *starts]
    values = [builder.phi(start.type) for start in starts]
    following = builder.add(values[0], INT(step))
    ends = [following, *body(*values)]
    last = builder.block
    builder.cbranch(builder.icmp_signed("<=", builder.add(following, INT(step)), count), turn, after)
    builder.position_at_end(after)
    left = [builder.phi(start.type) for start in starts]
    for value, final, start, end in zip(values, left, starts, ends, strict=True):
        for phi in (value, final):
            phi.add_incoming(start, before)
            phi.add_incoming(end, last)
    return left[0], left[1:]


# Numba lets go of an array after its last use, and an address is none: its memory would be free, and others' to write to, while a call
# works on it. So arrays live to the end of the block; where their address is used beyond it, `hold` is a use.
config.EXTEND_VARIABLE_LIFETIMES = 1


@intrinsic
def address(typing: Any, array: Any) -> Any:
    """Where the first element of an array lies."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ptrtoint(context.make_array(signature.args[0])(context, builder, values[0]).data, INT)

    return types.int64(array), code


@intrinsic
def hold(typing: Any, array: Any) -> Any:
    """Nothing; but the array is there until here."""
    return types.void(array), lambda context, builder, signature, values: context.get_dummy_value()


@intrinsic
def size_of(typing: Any, like: Any) -> Any:
    """Bytes of a number, known when it is compiled: to divide by what is known is to shift."""
    return types.int64(like), lambda context, builder, signature, values: INT(signature.args[0].bitwidth // 8)


@intrinsic
def put(typing: Any, table: Any, i: Any, entry: Any) -> Any:
    """Write number i of a table of int64, given its address."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.add(values[0], builder.mul(values[1], INT(8)))
        builder.store(values[2], builder.inttoptr(place, INT.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


@intrinsic
def allocate(typing: Any, size: Any) -> Any:
    """The address of so many bytes, to be given back to `release`. What np.empty costs is too much for a small product."""
    return types.int64(size), lambda context, builder, signature, values: builder.ptrtoint(context.nrt.allocate(builder, values[0]), INT)


@intrinsic
def clear(typing: Any, room: Any, size: Any) -> Any:
    """Zeros, in so many bytes: what is multiplied though nobody asks for it must not be denormal, which takes a hundred times as long."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        cgutils.memset(builder, builder.inttoptr(values[0], BYTE.as_pointer()), values[1], 0)
        return context.get_dummy_value()

    return types.void(room, size), code


@intrinsic
def release(typing: Any, room: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        context.nrt.free(builder, builder.inttoptr(values[0], BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.void(room), code


@intrinsic
def apart(typing: Any) -> Any:
    """Nothing; but the function in which this stands is compiled once, not into each of its callers: that doubles what is to compile."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), code
