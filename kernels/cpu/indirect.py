"""Tiles that find what they multiply by tables of places: products with a matrix that is nowhere written down.

A convolution is such a product. What window w reads at kernel position p lies at `starts[p] + sources[w]`, for every w and p: so the
matrix of all that all windows read is a sum of two short tables and the picture itself, and no element of it is copied.

    spread      c[i, targets[w]] = sum over p of a[i, p] b[starts[p] + sources[w]]       a number of a times a vector of b
    meet        c[i, p] += sum over w and lanes of g[i, places[w]] b[starts[p] + sources[w]]     a vector of g times a vector of b

A window is a whole vector: of one window in as many pictures, or of so many windows side by side. Tables hold bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.features import registers
from kernels.cpu.tile import MASKS_ARE_FREE, transposed
from kernels.cpu.vector import INT, Vectors, loop

# rows by vectors: sums that stay in registers, with some left for what is loaded. Any number of rows is a sum of these
SPREAD = ((8, 3), (6, 4), (4, 6), (3, 8), (2, 8), (1, 8)) if registers() >= 32 else ((4, 3), (2, 5), (1, 8))
MEET = ((8, 3), (6, 4), (4, 6), (2, 10), (1, 12)) if registers() >= 32 else ((3, 3), (1, 8))
PANEL = SPREAD[0][0]  # rows of a that are packed side by side
SPARE = 12  # entries that a table has behind its last one, which they repeat: a tile takes as many windows or positions as it holds


def entry(v: Vectors, table: Any, i: Any) -> Any:
    """Number i of a table of int64."""
    place = v.builder.add(table, v.builder.mul(i, INT(8)))
    return v.builder.load(v.pointer(place, INT))


@intrinsic(prefer_literal=True)
def spread(
    typing: Any, rows: Any, vecs: Any, like: Any, a: Any, a_p: Any, b: Any, starts: Any, k: Any, sources: Any, targets: Any, count: Any,
    c: Any, c_i: Any,
) -> Any:  # fmt: skip
    """`rows` rows of c, `vecs` windows at a time, for all `count` windows.

    rows, vecs        literals
    a, b, c           addresses; the numbers of a for one p stand side by side, for the next one a_p bytes on
    starts, sources, targets    addresses of tables; starts has k entries
    c_i               bytes from one row of c to the next
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[2]))
        _, _, _, a, a_p, b, starts, k, sources, targets, count, c, c_i = values
        tall, wide = rows.literal_value, vecs.literal_value

        def group(w: Any) -> list[Any]:
            here = [builder.add(b, entry(v, sources, builder.add(w, INT(x)))) for x in range(wide)]

            def product(p: Any, a: Any, *sums: Any) -> list[Any]:
                start = entry(v, starts, p)
                vectors = [v.load(builder.add(place, start)) for place in here]
                after = list(sums)
                for i in range(tall):
                    number = v.broadcast(v.plus(a, i * v.size))
                    for x, vector in enumerate(vectors):
                        after[i * wide + x] = v.fused(number, vector, after[i * wide + x])
                return [builder.add(a, a_p), *after]

            _, (_, *sums) = loop(builder, k, [a, *[v.zero] * (tall * wide)], product)
            there = [builder.add(c, entry(v, targets, builder.add(w, INT(x)))) for x in range(wide)]
            for i in range(tall):
                for x, place in enumerate(there):
                    v.store(sums[i * wide + x], builder.add(place, builder.mul(c_i, INT(i))))
            return []

        up = builder.sdiv(builder.add(count, INT(wide - 1)), INT(wide))
        loop(builder, builder.mul(up, INT(wide)), [], group, step=wide)
        return context.get_dummy_value()

    return types.void(rows, vecs, like, a, a_p, b, starts, k, sources, targets, count, c, c_i), code


@intrinsic(prefer_literal=True)
def meet(
    typing: Any, rows: Any, columns: Any, like: Any, g: Any, g_i: Any, b: Any, starts: Any, sources: Any, places: Any, count: Any,
    skipped: Any, c: Any, c_i: Any,
) -> Any:  # fmt: skip
    """Add to a block of c the sums over `count` windows.

    rows, columns     literals: of the block
    g                 address of numbers, g_i bytes from one row to the next
    starts, sources, places     addresses of tables; `columns` entries of starts
    skipped           so many lanes of each vector of g, the first ones, count as 0: they belong to another window
    c                 address of numbers, c_i bytes from one row to the next
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[2]))
        _, _, _, g, g_i, b, starts, sources, places, count, skipped, c, c_i = values
        tall, wide = rows.literal_value, columns.literal_value
        here = [builder.add(b, entry(v, starts, INT(x))) for x in range(wide)]
        down = [builder.add(g, builder.mul(g_i, INT(i))) for i in range(tall)]
        mask = builder.not_(v.first(skipped))

        def found(place: Any) -> Any:
            return v.load_some(place, mask) if MASKS_ARE_FREE else builder.select(mask, v.load(place), v.zero)

        def window(w: Any, *sums: Any) -> list[Any]:
            source, place = entry(v, sources, w), entry(v, places, w)
            right, after = [v.load(builder.add(start, source)) for start in here], []
            for i, row in enumerate(down):
                left = found(builder.add(row, place))
                after += v.settled([v.fused(left, vector, sums[i * wide + x]) for x, vector in enumerate(right)])
            return after

        _, sums = loop(builder, count, [v.zero] * (tall * wide), window)
        for number, total in enumerate(totals(v, sums)):
            i, x = divmod(number, wide)
            place = v.pointer(v.plus(builder.add(c, builder.mul(c_i, INT(i))), x * v.size), v.element)
            before = builder.load(place)
            before.align = v.size
            builder.store(builder.fadd(before, total), place).align = v.size
        return context.get_dummy_value()

    return types.void(rows, columns, like, g, g_i, b, starts, sources, places, count, skipped, c, c_i), code


def totals(v: Vectors, vectors: list[Any]) -> list[Any]:
    """The sum of the lanes of each vector: neighbours are added, of two vectors at a time, until a lane holds all of one."""
    found = []
    even, odd = range(0, 2 * v.lanes, 2), range(1, 2 * v.lanes, 2)
    for first in range(0, len(vectors), v.lanes):
        level = vectors[first : first + v.lanes]
        many = len(level)
        for _ in range(v.lanes.bit_length() - 1):
            pairs = [(level[i], level[min(i + 1, len(level) - 1)]) for i in range(0, len(level), 2)]
            level = [v.builder.fadd(v.pick(a, b, even), v.pick(a, b, odd)) for a, b in pairs]
        found += [v.builder.extract_element(level[0], ir.IntType(32)(i)) for i in range(many)]
    return found


@intrinsic
def deal_out(typing: Any, like: Any, source: Any, windows: Any, target: Any, step: Any, pictures: Any) -> Any:
    """A square of vectors, one a window, its lanes pictures: the windows of each picture to where they lie in line, `step` bytes from one
    picture to the next. Of the source all the vectors are read; what is written is what is there."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, windows, target, step, pictures = values
        mask = v.first(windows)
        square = [v.load(v.plus(source, x * v.bytes)) for x in range(v.lanes)]
        for j, picture in enumerate(transposed(v, square)):
            with builder.if_then(builder.icmp_signed("<", INT(j), pictures)):
                v.store_some(picture, builder.add(target, builder.mul(step, INT(j))), mask)
        return context.get_dummy_value()

    return types.void(like, source, windows, target, step, pictures), code


@intrinsic
def move(typing: Any, like: Any, source: Any, step: Any, target: Any, count: Any) -> Any:
    """Copy so many vectors, `step` bytes apart, to where they lie in line."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, step, target, count = values

        def one(_: Any, here: Any, there: Any) -> list[Any]:
            v.store(v.load(here), there)
            return [builder.add(here, step), v.plus(there, v.bytes)]

        loop(builder, count, [source, target], one)
        return context.get_dummy_value()

    return types.void(like, source, step, target, count), code


@intrinsic
def clear(typing: Any, like: Any, target: Any, count: Any) -> Any:
    """Zeros in so many vectors."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, target, count = values

        def one(_: Any, there: Any) -> list[Any]:
            v.store(v.zero, there)
            return [v.plus(there, v.bytes)]

        loop(builder, count, [target], one)
        return context.get_dummy_value()

    return types.void(like, target, count), code


@intrinsic
def lay_lines(typing: Any, like: Any, source: Any, down: Any, step: Any, target: Any, target_down: Any, rows: Any, count: Any) -> Any:
    """Copy rows of so many numbers, `step` bytes apart, to where they lie in line; nothing else is read beyond them, or written."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, down, step, target, target_down, rows, count = values

        def lines(numbers: Any) -> None:
            def line(_: Any, here: Any, there: Any) -> list[Any]:
                numbers(here, there)
                return [builder.add(here, down), builder.add(there, target_down)]

            loop(builder, rows, [source, target], line)

        def vectors(stride: int, found: Any) -> None:
            whole = builder.mul(builder.sdiv(count, INT(v.lanes)), INT(v.lanes))
            left = builder.sub(count, whole)
            mask, span = v.first(left), builder.sub(builder.mul(left, INT(stride)), INT(stride - 1))
            masks = [v.first(builder.sub(span, INT(x * (v.lanes - 1)))) for x in range(stride)]

            def numbers(here: Any, there: Any) -> None:
                def some(_: Any, here: Any, there: Any) -> list[Any]:
                    v.store(found(here, lambda place, _: v.load(place)), there)
                    return [v.plus(here, stride * v.bytes), v.plus(there, v.bytes)]

                _, (here, there) = loop(builder, whole, [here, there], some, step=v.lanes)
                with builder.if_then(builder.icmp_signed(">", left, INT(0))):
                    v.store_some(found(here, lambda place, x: v.load_some(place, masks[x])), there, mask)

            lines(numbers)

        def every_second(here: Any, load: Any) -> Any:
            """The second vector begins with the last number of the first, and ends with the last one that is asked for."""
            places = [*range(0, v.lanes, 2), *range(v.lanes + 1, 2 * v.lanes, 2)]
            return v.pick(load(here, 0), load(v.plus(here, v.bytes - v.size), 1), places)

        def singles(here: Any, there: Any) -> None:
            def single(_: Any, here: Any, there: Any) -> list[Any]:
                v.copy_number(here, there)
                return [builder.add(here, step), v.plus(there, v.size)]

            loop(builder, count, [here, there], single)

        with builder.if_else(builder.icmp_signed("==", step, INT(v.size))) as (in_line, apart):
            with in_line:
                vectors(1, lambda here, load: load(here, 0))
            with apart, builder.if_else(builder.icmp_signed("==", step, INT(2 * v.size))) as (second, others):
                with second:
                    vectors(2, every_second)
                with others:
                    lines(singles)
        return context.get_dummy_value()

    return types.void(like, source, down, step, target, target_down, rows, count), code


@intrinsic
def space_lines(typing: Any, like: Any, source: Any, down: Any, target: Any, target_down: Any, step: Any, rows: Any, count: Any) -> Any:
    """The reverse of `lay_lines`: rows of so many numbers, 1 or more, to where they lie `step` bytes apart. What lies between them is left
    alone, or becomes 0."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, down, target, target_down, step, rows, count = values
        before = builder.sub(count, INT(1))
        whole = builder.mul(builder.sdiv(before, INT(v.lanes)), INT(v.lanes))
        left = builder.sub(count, whole)  # of the last one, nothing behind it is written
        mask, span = v.first(left), builder.sub(builder.mul(left, INT(2)), INT(1))
        masks = [v.first(builder.sub(span, INT(x * v.lanes))) for x in range(2)]
        halves = [[lane for i in range(v.lanes // 2) for lane in (first + i, v.lanes)] for first in (0, v.lanes // 2)]

        def pair(here: Any, there: Any, load: Any, store: Any) -> None:
            found = load(here)
            for x, places in enumerate(halves):
                store(v.pick(found, v.zero, places), v.plus(there, x * v.bytes), x)

        def zipped(_: Any, here: Any, there: Any) -> list[Any]:
            def some(_: Any, here: Any, there: Any) -> list[Any]:
                pair(here, there, v.load, lambda value, place, _: v.store(value, place))
                return [v.plus(here, v.bytes), v.plus(there, 2 * v.bytes)]

            _, (last, to) = loop(builder, whole, [here, there], some, step=v.lanes)
            pair(last, to, lambda place: v.load_some(place, mask), lambda value, place, x: v.store_some(value, place, masks[x]))
            return [builder.add(here, down), builder.add(there, target_down)]

        def apart(_: Any, here: Any, there: Any) -> list[Any]:
            def single(_: Any, here: Any, there: Any) -> list[Any]:
                v.copy_number(here, there)
                return [v.plus(here, v.size), builder.add(there, step)]

            loop(builder, count, [here, there], single)
            return [builder.add(here, down), builder.add(there, target_down)]

        with builder.if_else(builder.icmp_signed("==", step, INT(2 * v.size))) as (second, others):
            for way, line in ((second, zipped), (others, apart)):
                with way:
                    loop(builder, rows, [source, target], line)
        return context.get_dummy_value()

    return types.void(like, source, down, target, target_down, step, rows, count), code
