"""All that Python has no word for: vector loads, copies in the background, tensor cores. Each with a twin in NumPy below it.

An intrinsic is a function that a kernel calls and that becomes the instruction named in its docstring (PTX ISA 9.0). Its twin, `NAME_twin`,
does the same to NumPy arrays: for a collective of a warp, to what all 32 lanes hold, lane first. The tests hold each to its twin.

Nothing else in this folder knows llvmlite: what moves to another compiler, moves here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.cuda import types
from numba.cuda.extending import intrinsic

GLOBAL, SHARED = 1, 3  # address spaces of PTX
I32, I64 = ir.IntType(32), ir.IntType(64)
WORD = 16  # bytes that one instruction loads, stores or copies at most
REGISTER = {"float": "f", "double": "d", "i32": "r", "i64": "l"}  # constraints of inline PTX by type


def assembly(builder: Any, text: str, args: list[Any], returns: Any, *, convergent: bool = False) -> Any:
    """Inline PTX. It may touch memory, so nothing is moved across it; of `convergent` ones neither into a branch."""
    results = returns.elements if isinstance(returns, ir.LiteralStructType) else [] if isinstance(returns, ir.VoidType) else [returns]
    constraints = [*(f"={REGISTER[str(t)]}" for t in results), *(REGISTER[str(x.type)] for x in args), "~{memory}"]
    code = ir.InlineAsm(ir.FunctionType(returns, [x.type for x in args]), text, ",".join(constraints), side_effect=True)
    return builder.call(code, args, attrs=("convergent",) if convergent else ())


def place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """A pointer to element `index`, a uint32, of an array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [builder.zext(index, I64)])


def shared_address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """The same in shared memory, whose addresses are numbers of 32 bits."""
    data = context.make_array(kind)(context, builder, array).data
    start = builder.ptrtoint(builder.addrspacecast(data, data.type.pointee.as_pointer(SHARED)), I32)
    return builder.add(start, builder.mul(index, I32(context.get_abi_sizeof(data.type.pointee))))


def registers(first: int, n: int) -> str:
    return "{" + ", ".join(f"${first + i}" for i in range(n)) + "}"


def loaded4(context: Any, builder: Any, pointer: Any) -> list[Any]:
    """Four neighbours, of which the first lies at 16 bytes, or at what four take, if that is less."""
    kind = pointer.type.pointee
    four = builder.load(builder.bitcast(pointer, ir.VectorType(kind, 4).as_pointer()), align=min(WORD, 4 * context.get_abi_sizeof(kind)))
    return [builder.extract_element(four, I32(i)) for i in range(4)]


def stored4(context: Any, builder: Any, pointer: Any, values: list[Any]) -> None:
    kind = ir.VectorType(pointer.type.pointee, 4)
    vector = ir.Constant(kind, ir.Undefined)
    for i, value in enumerate(values):
        vector = builder.insert_element(vector, value, I32(i))
    builder.store(vector, builder.bitcast(pointer, kind.as_pointer()), align=min(WORD, 4 * context.get_abi_sizeof(kind.element)))


@intrinsic
def load4(typing, array, index):
    """Four neighbours from `array[index]` on, which lies at 16 bytes: `ld.v4.f32`, or `ld.v2.f64` twice."""

    def code(context, builder, signature, args):
        pointer = place(context, builder, array, *args)
        return context.make_tuple(builder, signature.return_type, loaded4(context, builder, pointer))

    return types.UniTuple(array.dtype, 4)(array, types.uint32), code


def load4_twin(array: np.ndarray, index: int) -> tuple[Any, ...]:
    return tuple(array[index : index + 4])


@intrinsic
def store4(typing, array, index, four):
    """A tuple of four to `array[index]` and its neighbours, at 16 bytes: `st.v4.f32`, or `st.v2.f64` twice."""

    def code(context, builder, signature, args):
        stored4(context, builder, place(context, builder, array, *args[:2]), cgutils.unpack_tuple(builder, args[2]))
        return context.get_dummy_value()

    return types.void(array, types.uint32, types.UniTuple(array.dtype, 4)), code


def store4_twin(array: np.ndarray, index: int, four: tuple[Any, ...]) -> None:
    array[index : index + 4] = four


@intrinsic
def address(typing, array, index):
    """Where `array[index]` lies in shared memory, in bytes: a uint32, so that a loop adds to it, and an instruction a constant, for nothing."""

    def code(context, builder, signature, args):
        return shared_address(context, builder, array, *args)

    return types.uint32(array, types.uint32), code


def address_twin(array: np.ndarray, index: int) -> int:
    """From the beginning of the array."""
    return index * array.itemsize


@intrinsic
def load4_shared(typing, array, place):
    """Four neighbours from an `address` in a shared array on, a multiple of 16 bytes: `ld.shared.v4.f32`, or `ld.shared.v2.f64` twice."""

    def code(context, builder, signature, args):
        kind = context.get_value_type(array.dtype)
        size = context.get_abi_sizeof(kind)
        n = WORD // size
        four = []
        for offset in range(0, 4 * size, WORD):
            text = f"ld.shared.v{n}.f{8 * size} {registers(0, n)}, [${n}+{offset}];"
            some = assembly(builder, text, [args[1]], ir.LiteralStructType([kind] * n))
            four += [builder.extract_value(some, i) for i in range(n)]
        return context.make_tuple(builder, signature.return_type, four)

    return types.UniTuple(array.dtype, 4)(array, types.uint32), code


def load4_shared_twin(array: np.ndarray, place: int) -> tuple[Any, ...]:
    return load4_twin(array, place // array.itemsize)


def background(n: int) -> Any:
    """An intrinsic that copies n neighbours from global to shared memory while the thread goes on."""

    @intrinsic
    def copy(typing, to, index, source, start):
        def code(context, builder, signature, args):
            target = shared_address(context, builder, to, *args[:2])
            pointer = place(context, builder, source, *args[2:])
            size = n * context.get_abi_sizeof(pointer.type.pointee)
            there = builder.ptrtoint(builder.addrspacecast(pointer, pointer.type.pointee.as_pointer(GLOBAL)), I64)
            width = min(size, WORD)
            kind = "cg" if width == WORD else "ca"  # past the first-level cache, which only whole words may
            for offset in range(0, size, WORD):
                text = f"cp.async.{kind}.shared.global [$0+{offset}], [$1+{offset}], {width};"
                assembly(builder, text, [target, there], ir.VoidType())
            return context.get_dummy_value()

        return types.void(to, types.uint32, source, types.uint32), code

    copy.__doc__ = f"copy(to, index, source, start): {n} of `source` to `to`, in the background: `cp.async`; there after `wait_for_copies` and a barrier"
    return copy


copy1, copy4 = background(1), background(4)


def copy1_twin(to: np.ndarray, index: int, source: np.ndarray, start: int) -> None:
    to[index] = source[start]


def copy4_twin(to: np.ndarray, index: int, source: np.ndarray, start: int) -> None:
    to[index : index + 4] = source[start : start + 4]


@intrinsic
def wait_for_copies(typing):
    """Until all copies that this thread began have arrived: `cp.async.wait_all`. Its twin does nothing: NumPy's have."""

    def code(context, builder, signature, args):
        assembly(builder, "cp.async.wait_all;", [], ir.VoidType())
        return context.get_dummy_value()

    return types.void(), code


def wait_for_copies_twin() -> None: ...


# Several arrays at once, as a tuple of any length: a formula takes a number from each and gives several.


def members(context: Any, builder: Any, kinds: Any, arrays: Any, index: Any) -> list[Any]:
    """A pointer to element `index` of each array of a tuple."""
    values = cgutils.unpack_tuple(builder, arrays)
    return [place(context, builder, kind, array, index) for kind, array in zip(kinds, values, strict=True)]


@intrinsic
def each(typing, arrays, index):
    """`array[index]` of each array of a tuple."""

    def code(context, builder, signature, args):
        found = [builder.load(pointer) for pointer in members(context, builder, arrays, *args)]
        return context.make_tuple(builder, signature.return_type, found)

    return types.Tuple([array.dtype for array in arrays])(arrays, types.uint32), code


def each_twin(arrays: tuple[np.ndarray, ...], index: int) -> tuple[Any, ...]:
    return tuple([array[index] for array in arrays])


@intrinsic
def each4(typing, arrays, index):
    """`load4` of each array of a tuple: four tuples, one for each place."""

    def code(context, builder, signature, args):
        words = [loaded4(context, builder, pointer) for pointer in members(context, builder, arrays, *args)]
        four = [context.make_tuple(builder, signature.return_type[0], found) for found in zip(*words, strict=True)]
        return context.make_tuple(builder, signature.return_type, four)

    return types.UniTuple(types.Tuple([array.dtype for array in arrays]), 4)(arrays, types.uint32), code


def each4_twin(arrays: tuple[np.ndarray, ...], index: int) -> tuple[tuple[Any, ...], ...]:
    return tuple([each_twin(arrays, index + i) for i in range(4)])


@intrinsic
def put_each(typing, arrays, index, values):
    """`array[index] = value` for each array of a tuple and its value."""

    def code(context, builder, signature, args):
        pointers = members(context, builder, arrays, *args[:2])
        for pointer, value in zip(pointers, cgutils.unpack_tuple(builder, args[2]), strict=True):
            builder.store(value, pointer)
        return context.get_dummy_value()

    return types.void(arrays, types.uint32, values), code


def put_each_twin(arrays: tuple[np.ndarray, ...], index: int, values: tuple[Any, ...]) -> None:
    for array, value in zip(arrays, values, strict=True):
        array[index] = value


@intrinsic
def put_each4(typing, arrays, index, four):
    """`store4` to each array of a tuple, from four tuples of a value for each."""

    def code(context, builder, signature, args):
        pointers = members(context, builder, arrays, *args[:2])
        values = [cgutils.unpack_tuple(builder, one) for one in cgutils.unpack_tuple(builder, args[2])]
        for pointer, words in zip(pointers, zip(*values, strict=True), strict=True):
            stored4(context, builder, pointer, list(words))
        return context.get_dummy_value()

    return types.void(arrays, types.uint32, four), code


def put_each4_twin(arrays: tuple[np.ndarray, ...], index: int, four: tuple[tuple[Any, ...], ...]) -> None:
    for i, values in enumerate(four):
        put_each_twin(arrays, index + i, values)


def applied(formula: Any, results: int) -> Any:
    """An intrinsic run(numbers, more) = formula(*numbers, *more), in numbers of one type, of which it gives so many. Numba inlines no such call."""

    @intrinsic
    def run(typing, numbers, more):
        def code(context, builder, signature, args):
            given = [value for some in args for value in cgutils.unpack_tuple(builder, some)]
            kinds = [kind for some in signature.args for kind in some]
            return context.compile_internal(builder, formula, signature.return_type(*kinds), given)

        return types.UniTuple(numbers[0], results)(numbers, more), code

    return run


def arrays_at(count: int) -> Any:
    """An intrinsic run(like, places, first): so many flat arrays of numbers of the type of `like`, which begin at the addresses from
    places[first] on. Nothing knows how long they are. Its twin is a list of arrays from `first` on."""

    @intrinsic
    def run(typing, like, places, first):
        kind = types.Array(like, 1, "C")

        def code(context, builder, signature, args):
            found = []
            for i in range(count):
                address = builder.load(place(context, builder, places, args[1], builder.add(args[2], I32(i))))
                array = context.make_array(kind)(context, builder)
                array.data = builder.inttoptr(address, array.data.type)
                found.append(array._getvalue())
            return context.make_tuple(builder, signature.return_type, found)

        return types.UniTuple(kind, count)(like, places, types.uint32), code

    return run
