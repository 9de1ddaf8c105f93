"""All that Python has no word for: vector loads, copies in the background, tensor cores. Each with a twin in NumPy below it.

An intrinsic is a function that a kernel calls and that becomes the instruction named in its docstring (PTX ISA 9.0). Its twin, `NAME_twin`,
does the same to NumPy arrays: for a collective of a warp, to what all 32 lanes hold, lane first. The tests hold each to its twin.

Nothing else in this folder knows llvmlite: what moves to another compiler, moves here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
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


@intrinsic
def load4(typing, array, index):
    """Four neighbours from `array[index]` on, which lies at 16 bytes: `ld.v4.f32`, or `ld.v2.f64` twice."""

    def code(context, builder, signature, args):
        pointer = place(context, builder, array, *args)
        four = builder.load(builder.bitcast(pointer, ir.VectorType(pointer.type.pointee, 4).as_pointer()), align=WORD)
        return context.make_tuple(builder, signature.return_type, [builder.extract_element(four, I32(i)) for i in range(4)])

    return types.UniTuple(array.dtype, 4)(array, types.uint32), code


def load4_twin(array: np.ndarray, index: int) -> tuple[Any, ...]:
    return tuple(array[index : index + 4])


@intrinsic
def store4(typing, array, index, four):
    """A tuple of four to `array[index]` and its neighbours, at 16 bytes: `st.v4.f32`, or `st.v2.f64` twice."""

    def code(context, builder, signature, args):
        pointer = place(context, builder, array, *args[:2])
        kind = ir.VectorType(pointer.type.pointee, 4)
        vector = ir.Constant(kind, ir.Undefined)
        for i in range(4):
            vector = builder.insert_element(vector, builder.extract_value(args[2], i), I32(i))
        builder.store(vector, builder.bitcast(pointer, kind.as_pointer()), align=WORD)
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
    """Four neighbours from an `address` in a shared array on, a multiple of 16 bytes: `ld.shared.v4.b32`, or `ld.shared.v2.b64` twice."""

    def code(context, builder, signature, args):
        kind = context.get_value_type(array.dtype)
        size = context.get_abi_sizeof(kind)
        n = WORD // size
        four = []
        for offset in range(0, 4 * size, WORD):
            text = f"ld.shared.v{n}.b{8 * size} {registers(0, n)}, [${n}+{offset}];"
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

    copy.__doc__ = (
        f"copy(to, index, source, start): {n} of `source` to `to`, in the background: `cp.async`; there after `wait_for_copies` and a barrier"
    )
    return copy


copy1, copy4 = background(1), background(4)


def copy1_twin(to: np.ndarray, index: int, source: np.ndarray, start: int) -> None:
    to[index] = source[start]


def copy4_twin(to: np.ndarray, index: int, source: np.ndarray, start: int) -> None:
    to[index : index + 4] = source[start : start + 4]


@intrinsic
def copy1_or_zero(typing, to, index, source, start, inside):
    """`copy1` if `inside`, else a zero to the same place, and nothing is read: `cp.async` of 0 bytes, of which the rest is filled."""

    def code(context, builder, signature, args):
        target = shared_address(context, builder, to, *args[:2])
        pointer = place(context, builder, source, *args[2:4])
        size = context.get_abi_sizeof(pointer.type.pointee)
        there = builder.ptrtoint(builder.addrspacecast(pointer, pointer.type.pointee.as_pointer(GLOBAL)), I64)
        read = builder.select(args[4], I32(size), I32(0))
        assembly(builder, f"cp.async.ca.shared.global [$0], [$1], {size}, $2;", [target, there, read], ir.VoidType())
        return context.get_dummy_value()

    return types.void(to, types.uint32, source, types.uint32, types.boolean), code


def copy1_or_zero_twin(to: np.ndarray, index: int, source: np.ndarray, start: int, inside: bool) -> None:
    to[index] = source[start] if inside else 0


@intrinsic
def wait_for_copies(typing):
    """Until all copies that this thread began have arrived: `cp.async.wait_all`. Its twin does nothing: NumPy's have."""

    def code(context, builder, signature, args):
        assembly(builder, "cp.async.wait_all;", [], ir.VoidType())
        return context.get_dummy_value()

    return types.void(), code


def wait_for_copies_twin() -> None: ...


@intrinsic
def dp4a(typing, a, b, total):
    """total + the sum of four products of bytes, exact: those of `a` are unsigned if it is a uint32, those of `b` signed: `dp4a`."""
    kind = "u32" if a == types.uint32 else "s32"

    def code(context, builder, signature, args):
        return assembly(builder, f"dp4a.{kind}.s32 $0, $1, $2, $3;", args, I32)

    return types.int32(a, types.int32, types.int32), code


def dp4a_twin(a: Any, b: Any, total: Any) -> np.int32:
    narrow = np.uint8 if np.asarray(a).dtype == np.uint32 else np.int8
    four = np.asarray(a).view(narrow).astype(np.int32) * np.asarray(b).view(np.int8).astype(np.int32)
    return np.int32(four.sum(dtype=np.int32) + np.int32(total))
