"""All that Python has no word for: vector loads, copies in the background, tensor cores. Each with a twin in NumPy below it.

An intrinsic is a function that a kernel calls and that becomes the instruction named in its docstring (PTX ISA 9.0). Its twin, `NAME_twin`,
does the same to NumPy arrays: for a collective of a warp, to what all 32 lanes hold, lane first. The tests hold each to its twin.

Nothing else in this folder knows llvmlite: what moves to another compiler, moves here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.cuda import types
from numba.cuda.extending import intrinsic

GLOBAL, SHARED = 1, 3  # address spaces of PTX
I32, I64 = ir.IntType(32), ir.IntType(64)
WORD = 16  # bytes that one instruction loads, stores or copies at most
REGISTER = {"float": "f", "double": "d", "i16": "h", "i32": "r", "i64": "l"}  # constraints of inline PTX by type


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


def vector_from(context: Any, builder: Any, pointer: Any, n: int) -> list[Any]:
    """So many neighbours, of which the first lies at 16 bytes, or at what all of them take, if that is less."""
    kind = pointer.type.pointee
    vector = builder.load(builder.bitcast(pointer, ir.VectorType(kind, n).as_pointer()), align=min(WORD, n * context.get_abi_sizeof(kind)))
    return [builder.extract_element(vector, I32(i)) for i in range(n)]


def vector_to(context: Any, builder: Any, pointer: Any, values: Sequence[Any]) -> None:
    kind = ir.VectorType(pointer.type.pointee, len(values))
    vector = ir.Constant(kind, ir.Undefined)
    for i, value in enumerate(values):
        vector = builder.insert_element(vector, value, I32(i))
    builder.store(vector, builder.bitcast(pointer, kind.as_pointer()), align=min(WORD, len(values) * context.get_abi_sizeof(kind.element)))


def loaded(n: int) -> Any:
    """An intrinsic: n neighbours from `array[index]` on."""

    @intrinsic
    def load(typing, array, index):
        def code(context, builder, signature, args):
            return context.make_tuple(
                builder, signature.return_type, vector_from(context, builder, place(context, builder, array, *args), n)
            )

        return types.UniTuple(array.dtype, n)(array, types.uint32), code

    return load


def stored(n: int) -> Any:
    """An intrinsic: a tuple of n to `array[index]` and its neighbours."""

    @intrinsic
    def store(typing, array, index, some):
        def code(context, builder, signature, args):
            vector_to(context, builder, place(context, builder, array, *args[:2]), cgutils.unpack_tuple(builder, args[2]))
            return context.get_dummy_value()

        return types.void(array, types.uint32, types.UniTuple(array.dtype, n)), code

    return store


load4 = loaded(4)  # of float32 at 16 bytes: ld.v4.f32; of float64 ld.v2.f64 twice
store4 = stored(4)  # st.v4.f32, or st.v2.f64 twice
store2 = stored(2)  # of float32 at 8 bytes: st.v2.f32; of uint16 at 4 bytes: st.v2.u16


def load4_twin(array: np.ndarray, index: int) -> tuple[Any, ...]:
    return tuple(array[index : index + 4])


def store4_twin(array: np.ndarray, index: int, four: tuple[Any, ...]) -> None:
    array[index : index + 4] = four


def store2_twin(array: np.ndarray, index: int, two: tuple[Any, ...]) -> None:
    array[index : index + 2] = two


@intrinsic
def address(typing, array, index):
    """Where `array[index]` lies in shared memory, in bytes: a uint32. Constants added to it are added by the instruction, for nothing."""

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


@intrinsic
def load1_shared(typing, array, place):
    """The number at an `address` in a shared array: `ld.shared.b32`, or `ld.shared.b64`."""

    def code(context, builder, signature, args):
        kind = context.get_value_type(array.dtype)
        return assembly(builder, f"ld.shared.b{8 * context.get_abi_sizeof(kind)} $0, [$1];", [args[1]], kind)

    return array.dtype(array, types.uint32), code


def load1_shared_twin(array: np.ndarray, place: int) -> Any:
    return array[place // array.itemsize]


@intrinsic
def dp4a(typing, total, a, b):
    """total + the sum of four products of bytes, exact: those of a word are unsigned if it is a uint32, else signed: `dp4a`."""
    kinds = ".".join("u32" if word == types.uint32 else "s32" for word in (a, b))

    def code(context, builder, signature, args):
        return assembly(builder, f"dp4a.{kinds} $0, $2, $3, $1;", args, I32)

    return types.int32(types.int32, a, b), code


def dp4a_twin(total: Any, *words: Any) -> np.int32:
    four = [np.atleast_1d(x).view(np.uint8 if x.dtype == np.uint32 else np.int8).astype(np.int32) for x in words]
    return np.int32(np.dot(*four) + np.int32(total))


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
        f"copy(to, index, source, start): {n} of `source` to the shared `to`: `cp.async`; there after `wait_for_copies` and a barrier"
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


def lanes(kind: Any) -> int:
    """How many numbers of a type are a word."""
    return WORD // (kind.bitwidth // 8)


@intrinsic
def word(typing, array, index):
    """The neighbours from `array[index]` on that 16 bytes hold, at 16 bytes: `ld.v4.f32`, `ld.v2.f64`."""
    n = lanes(array.dtype)

    def code(context, builder, signature, args):
        return context.make_tuple(builder, signature.return_type, vector_from(context, builder, place(context, builder, array, *args), n))

    return types.UniTuple(array.dtype, n)(array, types.uint32), code


def word_twin(array: np.ndarray, index: int) -> tuple[Any, ...]:
    return tuple(array[index : index + WORD // array.itemsize])


@intrinsic
def put_word(typing, array, index, values):
    """A tuple of as many numbers as 16 bytes hold to `array[index]` and its neighbours: `st.v4.f32`, `st.v2.f64`."""

    def code(context, builder, signature, args):
        vector_to(context, builder, place(context, builder, array, *args[:2]), cgutils.unpack_tuple(builder, args[2]))
        return context.get_dummy_value()

    return types.void(array, types.uint32, types.UniTuple(array.dtype, lanes(array.dtype))), code


def put_word_twin(array: np.ndarray, index: int, values: tuple[Any, ...]) -> None:
    array[index : index + len(values)] = values


def lanewise(f: Any) -> Any:
    """An intrinsic run(a, b) = (f(a[0], b[0]), f(a[1], b[1]), ...); either may be one number for all. Its twin is that."""

    @intrinsic
    def run(typing, a, b):
        words = a if isinstance(a, types.BaseTuple) else b
        kinds = [x.dtype if isinstance(x, types.BaseTuple) else x for x in (a, b)]

        def code(context, builder, signature, args):
            columns = [
                cgutils.unpack_tuple(builder, x) if isinstance(kind, types.BaseTuple) else [x] * len(words)
                for kind, x in zip(signature.args, args, strict=True)
            ]
            made = [context.compile_internal(builder, f, words.dtype(*kinds), pair) for pair in zip(*columns, strict=True)]
            return context.make_tuple(builder, signature.return_type, made)

        return types.UniTuple(words.dtype, len(words))(a, b), code

    return run


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

    return types.UniTuple(arrays.dtype.dtype, len(arrays))(arrays, types.uint32), code


def each_twin(arrays: tuple[np.ndarray, ...], index: int) -> tuple[Any, ...]:
    return tuple([array[index] for array in arrays])


@intrinsic
def each_word(typing, arrays, index):
    """The `word` of each array of a tuple: a tuple for each place."""
    n = lanes(arrays.dtype.dtype)

    def code(context, builder, signature, args):
        words = [vector_from(context, builder, pointer, n) for pointer in members(context, builder, arrays, *args)]
        found = [context.make_tuple(builder, signature.return_type.dtype, one) for one in zip(*words, strict=True)]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.UniTuple(arrays.dtype.dtype, len(arrays)), n)(arrays, types.uint32), code


def each_word_twin(arrays: tuple[np.ndarray, ...], index: int) -> tuple[tuple[Any, ...], ...]:
    return tuple(zip(*[word_twin(array, index) for array in arrays], strict=True))


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
def put_each_word(typing, arrays, index, places):
    """`put_word` to each array of a tuple, from a tuple for each place."""

    def code(context, builder, signature, args):
        pointers = members(context, builder, arrays, *args[:2])
        values = [cgutils.unpack_tuple(builder, one) for one in cgutils.unpack_tuple(builder, args[2])]
        for pointer, words in zip(pointers, zip(*values, strict=True), strict=True):
            vector_to(context, builder, pointer, words)
        return context.get_dummy_value()

    return types.void(arrays, types.uint32, places), code


def put_each_word_twin(arrays: tuple[np.ndarray, ...], index: int, places: tuple[tuple[Any, ...], ...]) -> None:
    for i, values in enumerate(places):
        put_each_twin(arrays, index + i, values)


def applied(formula: Any, results: int) -> Any:
    """An intrinsic run(numbers, more) = formula(*numbers, *more), which gives so many; Numba inlines no such call. Of a tuple of tuples
    `numbers`, a tuple of what it makes of each."""

    @intrinsic
    def run(typing, numbers, more):
        many = isinstance(numbers.dtype, types.BaseTuple)
        one = numbers.dtype if many else numbers
        made = types.UniTuple(one.dtype, results)

        def code(context, builder, signature, args):
            same = cgutils.unpack_tuple(builder, args[1])
            given = [cgutils.unpack_tuple(builder, x) for x in (cgutils.unpack_tuple(builder, args[0]) if many else [args[0]])]
            found = [context.compile_internal(builder, formula, made(*one, *more), [*x, *same]) for x in given]
            return context.make_tuple(builder, signature.return_type, found) if many else found[0]

        return (types.UniTuple(made, len(numbers)) if many else made)(numbers, more), code

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
                there = builder.inttoptr(address, array.data.type.pointee.as_pointer(GLOBAL))
                array.data = builder.addrspacecast(there, array.data.type)
                found.append(array._getvalue())
            return context.make_tuple(builder, signature.return_type, found)

        return types.UniTuple(kind, count)(like, places, types.uint32), code

    return run


# Tensor cores. A fragment is what the 32 lanes of a warp hold of a matrix, in words of 32 bits: lane L has g = L // 4 and t = L % 4.


@intrinsic
def bits(typing, x):
    """A float32 as the uint32 of the same bits: `mov.b32`."""

    def code(context, builder, signature, args):
        return builder.bitcast(args[0], I32)

    return types.uint32(types.float32), code


def bits_twin(x: Any) -> Any:
    return np.asarray(x, np.float32).view(np.uint32)


@intrinsic
def number(typing, x):
    """A uint32 as the float32 of the same bits: `mov.b32`."""

    def code(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), code


def number_twin(x: Any) -> Any:
    return np.asarray(x, np.uint32).view(np.float32)


@intrinsic
def tf32(typing, x):
    """A float32 rounded to the eleven bits of a tf32, ties away from zero, in the bits of a float32: `cvt.rna.tf32.f32`."""

    def code(context, builder, signature, args):
        return assembly(builder, "cvt.rna.tf32.f32 $0, $1;", [args[0]], I32)

    return types.uint32(types.float32), code


def tf32_twin(x: Any) -> Any:
    found = bits_twin(x)
    near = (found + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(found & 0x7FFFFFFF > 0x7F800000, np.uint32(0x7FFFFFFF), np.where(found & 0x7F800000 == 0x7F800000, found, near))


@intrinsic
def half(typing, x):
    """A float32 rounded to the nearest float16, as the uint16 of its bits: `cvt.rn.f16.f32`."""

    def code(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), code


def half_twin(x: Any) -> Any:
    return np.asarray(x).astype(np.float16).view(np.uint16)


@intrinsic
def load_matrices(typing, array, place):
    """Four matrices of 8 rows of 16 bytes from shared memory: `ldmatrix.x4`. Each lane gets four words: of matrix i, word t of row g.

    place   in lane 8 i + r the `address` of row r of matrix i
    """

    def code(context, builder, signature, args):
        text = f"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {registers(0, 4)}, [$4];"
        four = assembly(builder, text, [args[1]], ir.LiteralStructType([I32] * 4), convergent=True)
        return context.make_tuple(builder, signature.return_type, [builder.extract_value(four, i) for i in range(4)])

    return types.UniTuple(types.uint32, 4)(array, types.uint32), code


def load_matrices_twin(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """places (32,) -> words (32, 4)"""
    words = array.view(np.uint32).reshape(-1)
    lanes = np.arange(32)
    return np.stack([words[places[8 * i + lanes // 4] // 4 + lanes % 4] for i in range(4)], axis=1)


PRODUCTS = {  # kind: shape of one product, types of c, a, b. A row of a and a column of b are eight words each
    "tf32": "m16n8k8.row.col.f32.tf32.tf32.f32",
    "f16": "m16n8k16.row.col.f32.f16.f16.f32",
    "bf16": "m16n8k16.row.col.f32.bf16.bf16.f32",
    "s8": "m16n8k32.row.col.s32.s8.s8.s32",
    "u8": "m16n8k32.row.col.s32.u8.s8.s32",
}


def product_of_warp(kind: str) -> Any:
    """An intrinsic: c + a b of a warp on tensor cores, `mma.sync`: c is 16 by 8, a 16 rows of eight words, b eight columns of eight words.

    a   four words: of row g, g + 8, g, g + 8; word t, t, t + 4, t + 4
    b   two words of column g: t, t + 4
    c   four sums: of row g, g, g + 8, g + 8; column 2 t, 2 t + 1, 2 t, 2 t + 1
    """
    shape = PRODUCTS[kind]
    numbers, register = (types.float32, ir.FloatType()) if ".f32." in shape else (types.int32, I32)

    @intrinsic
    def multiply(typing, a, b, c):
        def code(context, builder, signature, args):
            given = [builder.extract_value(x, i) for x, n in zip(args, (4, 2, 4), strict=True) for i in range(n)]
            text = f"mma.sync.aligned.{shape} {registers(0, 4)}, {registers(4, 4)}, {registers(8, 2)}, {registers(10, 4)};"
            sums = assembly(builder, text, given, ir.LiteralStructType([register] * 4), convergent=True)
            return context.make_tuple(builder, signature.return_type, [builder.extract_value(sums, i) for i in range(4)])

        four = types.UniTuple(numbers, 4)
        return four(types.UniTuple(types.uint32, 4), types.UniTuple(types.uint32, 2), four), code

    return multiply


def product_of_warp_twin(kind: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a (32, 4), b (32, 2) uint32 and c (32, 4) -> (32, 4), the sums in float64 or int64 and then as c."""
    lanes = np.arange(32)
    g, t = lanes // 4, lanes % 4
    rows, columns, sums = np.zeros((16, 8), np.uint32), np.zeros((8, 8), np.uint32), np.zeros((16, 8), c.dtype)
    for i in range(4):
        rows[g + 8 * (i % 2), t + 4 * (i // 2)] = a[:, i]
        sums[g + 8 * (i // 2), 2 * t + i % 2] = c[:, i]
    for i in range(2):
        columns[g, t + 4 * i] = b[:, i]
    left, right = (_numbers(kind if x is rows else kind.replace("u8", "s8"), x) for x in (rows, columns))
    total = (sums + left @ right.T).astype(c.dtype)
    return np.stack([total[g + 8 * (i // 2), 2 * t + i % 2] for i in range(4)], axis=1)


def _numbers(kind: str, words: np.ndarray) -> np.ndarray:
    """Words as the numbers in them, along a row."""
    if kind == "tf32":
        return words.view(np.float32).astype(float)
    if kind == "bf16":
        return (words.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(float)
    return words.view({"f16": np.float16, "s8": np.int8, "u8": np.uint8}[kind]).astype(float if kind == "f16" else np.int64)


def several(count: int) -> Any:
    """An intrinsic run(array, index): so many neighbours from `array[index]` on, one by one. Its twin is a slice."""

    @intrinsic
    def run(typing, array, index):
        def code(context, builder, signature, args):
            first = place(context, builder, array, *args)
            return context.make_tuple(builder, signature.return_type, [builder.load(builder.gep(first, [I64(i)])) for i in range(count)])

        return types.UniTuple(array.dtype, count)(array, types.uint32), code

    return run


@intrinsic
def at_words(typing, arrays):
    """Whether each array of a tuple begins where `load4` wants it."""

    def code(context, builder, signature, args):
        askew = I64(0)
        for pointer in members(context, builder, arrays, args[0], I32(0)):
            beyond = min(WORD, 4 * context.get_abi_sizeof(pointer.type.pointee)) - 1
            askew = builder.or_(askew, builder.and_(builder.ptrtoint(pointer, I64), I64(beyond)))
        return builder.icmp_unsigned("==", askew, I64(0))

    return types.boolean(arrays), code


def at_words_twin(arrays: tuple[np.ndarray, ...]) -> bool:
    return all(x.__array_interface__["data"][0] % min(WORD, 4 * x.itemsize) == 0 for x in arrays)


# Numbers of 16 bits, as the uint16 of their bits: stored so, and computed with in float32.


@intrinsic
def from_half(typing, x):
    """A float16 as a float32: `cvt.f32.f16`. In inline PTX, for NVVM 7 would make two loads of a vector of four half."""

    def code(context, builder, signature, args):
        return assembly(builder, "cvt.f32.f16 $0, $1;", [args[0]], ir.FloatType())

    return types.float32(types.uint16), code


def from_half_twin(x: Any) -> Any:
    return np.asarray(x, np.uint16).view(np.float16).astype(np.float32)


@intrinsic
def bfloat16(typing, x):
    """A float32 rounded to the nearest bfloat16, to the even one of two: `cvt.rn.bf16.f32`, from compute capability 8.0 on."""

    def code(context, builder, signature, args):
        return assembly(builder, "cvt.rn.bf16.f32 $0, $1;", [args[0]], ir.IntType(16))

    return types.uint16(types.float32), code


def bfloat16_twin(x: Any) -> Any:
    found = bits_twin(x)
    near = (found + np.uint32(0x7FFF) + (found >> 16 & 1)) >> 16
    return np.where(found & 0x7FFFFFFF > 0x7F800000, np.uint32(0x7FFF), near).astype(np.uint16)


@intrinsic
def from_bfloat16(typing, x):
    """A bfloat16 as a float32, whose upper half it is: `shl.b32`."""

    def code(context, builder, signature, args):
        return builder.bitcast(builder.shl(builder.zext(args[0], I32), I32(16)), ir.FloatType())

    return types.float32(types.uint16), code


def from_bfloat16_twin(x: Any) -> Any:
    return number_twin(np.asarray(x, np.uint32) << 16)
