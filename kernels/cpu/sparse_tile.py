"""Rows of a sparse a times strips of b: sums that stay in registers while the rows of b that a names pass by.

    c (rows, a few vectors) = or += a (rows, k) b (k, a few vectors)

The row of b is looked up, so each number of a costs a load for every vector of b; a dense tile shares these loads between its rows.
That is the price of a zero left out. One row has too few sums to fill the time that a fused product takes, so where a has no blocks
of several rows, every second number (`CHAINS`) has sums of its own, which are added at the end: the order of summation is that, for any n.
Addresses are integers, steps are bytes; rows of b and c are contiguous, indices are 32 bits wide (2:4: 8), row starts 64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.vector import BYTE, INT, Vectors, loop

CHAINS = 2
SHORT = ir.IntType(32)


class Strip:
    """A strip of b and of c, `vecs` vectors wide, of which `columns` numbers are there."""

    def __init__(self, v: Vectors, vecs: int, columns: Any, *, padded: bool):
        """padded: what lies behind the columns of b may be read."""
        self.v, self.builder, self.vecs, self.padded = v, v.builder, vecs, padded
        self.masks = [v.first(v.builder.sub(columns, INT(x * v.lanes))) for x in range(vecs)]
        self.full = v.builder.icmp_signed(">=", columns, INT(vecs * v.lanes))

    def row(self, b: Any) -> list[Any]:
        """The vectors of the row of b at an address."""
        places = [self.v.plus(b, x * self.v.bytes) for x in range(self.vecs)]
        if self.padded:
            return [self.v.load(place) for place in places]
        return [self.v.load_some(place, mask) for place, mask in zip(places, self.masks, strict=True)]

    def add(self, number: Any, b: Any, sums: list[Any]) -> list[Any]:
        """The sums, after a number of a (in every lane) times the row of b at an address."""
        return [self.v.fused(number, right, total) for right, total in zip(self.row(b), sums, strict=True)]

    def write(self, sums: list[Any], c: Any, add: Any | None = None) -> None:
        """The sums to the row of c at an address; `add`: to what stands there, if it is true."""
        with self.builder.if_else(self.full) as (whole, part):
            with whole:
                self._write(sums, c, add, [None] * self.vecs)
            with part:
                self._write(sums, c, add, self.masks)

    def _write(self, sums: list[Any], c: Any, add: Any | None, masks: list[Any]) -> None:
        v = self.v
        for x, (total, mask) in enumerate(zip(sums, masks, strict=True)):
            place = v.plus(c, x * v.bytes)
            if add is not None:
                before = v.load(place) if mask is None else v.load_some(place, mask)
                total = v.builder.select(add, v.builder.fadd(before, total), total)
            if mask is None:
                v.store(total, place)
            else:
                v.store_some(total, place, mask)


def number(v: Vectors, address: Any, kind: Any) -> Any:
    """The integer at an address, 64 bits wide."""
    found = v.builder.load(v.pointer(address, kind))
    found.align = kind.width // 8
    return found if kind == INT else v.builder.zext(found, INT)


def extent(v: Vectors, start: Any, end: Any) -> tuple[Any, Any]:
    """Where a row begins, and how long it is; from the addresses of its start and its end."""
    first = number(v, start, INT)
    return first, v.builder.sub(number(v, end, INT), first)


@intrinsic(prefer_literal=True)
def csr_rows(
    typing: Any, vecs: Any, padded: Any, like: Any, data: Any, indices: Any, starts: Any, ends: Any, b: Any, b_p: Any, c: Any, c_i: Any,
    sizes: Any, add: Any,
) -> Any:  # fmt: skip
    """A strip of c from rows in CSR, or from a part of each row.

    vecs, padded  literals: vectors of a strip; 1 if what lies behind the columns of b may be read, else 0
    like          a number of the type of data, b and c
    data, indices, b, c   addresses
    starts, ends  addresses of where the first row begins and ends, with the next rows behind
    b_p, c_i      bytes from one row to the next
    sizes         rows, and how many columns are there
    add           false: c is written; true: c is added to
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[2]))
        _, _, _, data, indices, starts, ends, b, b_p, c, c_i, sizes, add = values
        rows, columns = [builder.extract_value(sizes, x) for x in range(2)]
        strip = Strip(v, vecs.literal_value, columns, padded=bool(padded.literal_value))

        def products(a: Any, index: Any, sums: list[Any], chain: int) -> list[Any]:
            """The sums of one chain after one number."""
            right = builder.add(b, builder.mul(number(v, v.plus(index, 4 * chain), SHORT), b_p))
            return strip.add(v.broadcast(v.plus(a, chain * v.size)), right, sums)

        def row(_: Any, start: Any, end: Any, c: Any) -> list[Any]:
            first, count = extent(v, start, end)
            a = builder.add(data, builder.mul(first, INT(v.size)))
            index = builder.add(indices, builder.mul(first, INT(4)))

            def several(_: Any, a: Any, index: Any, *sums: Any) -> list[Any]:
                chains = [list(sums[x * strip.vecs : (x + 1) * strip.vecs]) for x in range(CHAINS)]
                after = [total for x, chain in enumerate(chains) for total in products(a, index, chain, x)]
                return [v.plus(a, CHAINS * v.size), v.plus(index, CHAINS * 4), *after]

            def one(_: Any, a: Any, index: Any, *sums: Any) -> list[Any]:
                return [v.plus(a, v.size), v.plus(index, 4), *products(a, index, list(sums), 0)]

            done, (a, index, *sums) = loop(builder, count, [a, index, *[v.zero] * (CHAINS * strip.vecs)], several, step=CHAINS)
            total, others = sums[: strip.vecs], sums[strip.vecs :]
            _, (_, _, *total) = loop(builder, builder.sub(count, done), [a, index, *total], one)
            for x, other in enumerate(others):
                total[x % strip.vecs] = builder.fadd(total[x % strip.vecs], other)
            strip.write(total, c, add)
            return [v.plus(start, 8), v.plus(end, 8), builder.add(c, c_i)]

        loop(builder, rows, [starts, ends, c], row)
        return context.get_dummy_value()

    return types.void(vecs, padded, like, data, indices, starts, ends, b, b_p, c, c_i, sizes, add), code


@intrinsic
def csr_column(typing: Any, like: Any, data: Any, indices: Any, indptr: Any, b: Any, b_p: Any, c: Any, rows: Any) -> Any:
    """One column: vectors lie along a row of a, and gather what it names of b. Lane l of chain x sums every so many numbers."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, data, indices, indptr, b, b_p, c, rows = values

        def row(_: Any, indptr: Any, c: Any) -> list[Any]:
            start, count = extent(v, indptr, v.plus(indptr, 8))
            a = builder.add(data, builder.mul(start, INT(v.size)))
            index = builder.add(indices, builder.mul(start, INT(4)))

            def several(_: Any, a: Any, index: Any, *sums: Any) -> list[Any]:
                after = []
                for x, total in enumerate(sums):
                    right = v.gather(b, v.scaled(v.integers(v.plus(index, 4 * x * v.lanes), SHORT), b_p), None)
                    after.append(v.fused(v.load(v.plus(a, x * v.bytes)), right, total))
                return [v.plus(a, CHAINS * v.bytes), v.plus(index, CHAINS * 4 * v.lanes), *after]

            def some(done: Any, a: Any, index: Any, total: Any) -> list[Any]:
                mask = v.first(builder.sub(left, done))
                right = v.gather(b, v.scaled(v.integers(index, SHORT, mask), b_p), mask)
                return [v.plus(a, v.bytes), v.plus(index, 4 * v.lanes), v.fused(v.load_some(a, mask), right, total)]

            done, (a, index, *sums) = loop(builder, count, [a, index, *[v.zero] * CHAINS], several, step=CHAINS * v.lanes)
            left = builder.sub(count, done)
            turns = builder.udiv(builder.add(left, INT(v.lanes - 1)), INT(v.lanes))
            _, (_, _, total) = loop(builder, builder.mul(turns, INT(v.lanes)), [a, index, sums[0]], some, step=v.lanes)
            for other in sums[1:]:
                total = builder.fadd(total, other)
            builder.store(v.total(total), v.pointer(c, v.element)).align = v.size
            return [v.plus(indptr, 8), v.plus(c, v.size)]

        loop(builder, rows, [indptr, c], row)
        return context.get_dummy_value()

    return types.void(like, data, indices, indptr, b, b_p, c, rows), code


@intrinsic(prefer_literal=True)
def csr_samples(
    typing: Any, vecs: Any, padded: Any, like: Any, out: Any, indices: Any, indptr: Any, gy: Any, gy_i: Any, b: Any, b_p: Any, sizes: Any,
    add: Any,
) -> Any:  # fmt: skip
    """Inner products of rows of gy with the rows of b that a names, in a strip of both: what a keeps of gy times b transposed.

    vecs, padded  literals as for `csr_rows`; padded: all columns of the strip are there
    out           address of the first inner product of a
    indptr        of the first row
    sizes         rows, and how many columns are there
    add           false: out is written; true: out is added to
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[2]))
        _, _, _, out, indices, indptr, gy, gy_i, b, b_p, sizes, add = values
        rows, columns = [builder.extract_value(sizes, x) for x in range(2)]
        strip = Strip(v, vecs.literal_value, columns, padded=bool(padded.literal_value))

        def row(_: Any, indptr: Any, gy: Any) -> list[Any]:
            start, count = extent(v, indptr, v.plus(indptr, 8))
            left = strip.row(gy)

            def one(_: Any, out: Any, index: Any) -> list[Any]:
                right = strip.row(builder.add(b, builder.mul(number(v, index, SHORT), b_p)))
                total = builder.fmul(left[0], right[0])
                for x in range(1, strip.vecs):
                    total = v.fused(left[x], right[x], total)
                place = v.pointer(out, v.element)
                before = builder.load(place)
                before.align = v.size
                found = v.total(total)
                builder.store(builder.select(add, builder.fadd(before, found), found), place).align = v.size
                return [v.plus(out, v.size), v.plus(index, 4)]

            first = builder.add(out, builder.mul(start, INT(v.size)))
            loop(builder, count, [first, builder.add(indices, builder.mul(start, INT(4)))], one)
            return [v.plus(indptr, 8), builder.add(gy, gy_i)]

        loop(builder, rows, [indptr, gy], row)
        return context.get_dummy_value()

    return types.void(vecs, padded, like, out, indices, indptr, gy, gy_i, b, b_p, sizes, add), code


@intrinsic(prefer_literal=True)
def bsr_rows(
    typing: Any, tall: Any, vecs: Any, padded: Any, like: Any, data: Any, indices: Any, indptr: Any, b: Any, b_p: Any, c: Any, c_i: Any,
    sizes: Any,
) -> Any:  # fmt: skip
    """A strip of c from rows of blocks.

    tall, vecs, padded  literals: rows of a tile, where a block has as many left; else as for `csr_rows`
    indptr        of the first row of blocks
    sizes         rows of blocks, how many columns are there, and rows and columns of a block
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[3]))
        _, _, _, _, data, indices, indptr, b, b_p, c, c_i, sizes = values
        rows, columns, down, across = [builder.extract_value(sizes, x) for x in range(4)]
        strip = Strip(v, vecs.literal_value, columns, padded=bool(padded.literal_value))
        wide = builder.mul(across, INT(v.size))  # bytes of a row of a block
        block, skip = builder.mul(down, wide), builder.mul(across, b_p)

        def tile(height: int, start: Any, count: Any, top: Any, c: Any) -> None:
            """Sums of `height` rows, the first of which lies `top` bytes into each block."""
            chains = CHAINS if height * strip.vecs < 8 else 1
            places = [builder.mul(wide, INT(i)) for i in range(height)]
            a = builder.add(builder.add(data, builder.mul(start, block)), top)
            index = builder.add(indices, builder.mul(start, INT(4)))

            def column(a: Any, right: list[Any], sums: list[Any]) -> list[Any]:
                numbers = [v.broadcast(builder.add(a, place)) for place in places]
                return [v.fused(numbers[t // strip.vecs], right[t % strip.vecs], total) for t, total in enumerate(sums)]

            def columns_at_once(many: int) -> Callable[..., list[Any]]:
                def body(_: Any, a: Any, b: Any, *sums: Any) -> list[Any]:
                    after = list(sums)
                    for x in range(many):
                        here = slice(x * height * strip.vecs, (x + 1) * height * strip.vecs)
                        after[here] = column(v.plus(a, x * v.size), strip.row(builder.add(b, builder.mul(b_p, INT(x)))), after[here])
                    return [v.plus(a, many * v.size), builder.add(b, builder.mul(b_p, INT(many))), *after]

                return body

            def one_block(_: Any, a: Any, index: Any, *sums: Any) -> list[Any]:
                right = builder.add(b, builder.mul(number(v, index, SHORT), skip))
                done, (at, right, *sums) = loop(builder, across, [a, right, *sums], columns_at_once(chains), step=chains)
                if chains > 1:
                    _, (_, _, *sums) = loop(builder, builder.sub(across, done), [at, right, *sums], columns_at_once(1))
                return [builder.add(a, block), v.plus(index, 4), *sums]

            _, (_, _, *sums) = loop(builder, count, [a, index, *[v.zero] * (chains * height * strip.vecs)], one_block)
            for x in range(height * strip.vecs, len(sums)):
                sums[x % (height * strip.vecs)] = builder.fadd(sums[x % (height * strip.vecs)], sums[x])
            for i in range(height):
                strip.write(sums[i * strip.vecs : (i + 1) * strip.vecs], builder.add(c, builder.mul(c_i, INT(i))))

        def row(_: Any, indptr: Any, c: Any) -> list[Any]:
            start, count = extent(v, indptr, v.plus(indptr, 8))
            left, top = down, INT(0)
            for height in [tall.literal_value >> x for x in range(tall.literal_value.bit_length())]:

                def downwards(_: Any, top: Any, c: Any, height: int = height) -> list[Any]:
                    tile(height, start, count, top, c)
                    return [builder.add(top, builder.mul(wide, INT(height))), builder.add(c, builder.mul(c_i, INT(height)))]

                done, (top, c) = loop(builder, left, [top, c], downwards, step=height)
                left = builder.sub(left, done)
            return [v.plus(indptr, 8), c]

        loop(builder, rows, [indptr, c], row)
        return context.get_dummy_value()

    return types.void(tall, vecs, padded, like, data, indices, indptr, b, b_p, c, c_i, sizes), code


@intrinsic(prefer_literal=True)
def pairs(
    typing: Any, vecs: Any, like: Any, data: Any, indices: Any, a_i: Any, b: Any, b_p: Any, c: Any, c_i: Any, sizes: Any, add: Any
) -> Any:
    """A strip of c from rows of pairs, of which each stands for two of four columns of a; what lies behind the columns of b may be read.

    data, indices the first pair of the first row; of each number the index is a byte
    a_i           numbers from one row of pairs to the next
    sizes         rows, pairs in a row, and how many columns are there
    add           false: c is written; true: c is added to
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[1]))
        _, _, data, indices, a_i, b, b_p, c, c_i, sizes, add = values
        rows, many, columns = [builder.extract_value(sizes, x) for x in range(3)]
        strip = Strip(v, vecs.literal_value, columns, padded=True)
        four = builder.mul(b_p, INT(4))

        def row(_: Any, a: Any, index: Any, c: Any) -> list[Any]:
            def pair(_: Any, a: Any, index: Any, b: Any, *sums: Any) -> list[Any]:
                after = list(sums)
                for x in range(2):  # each of the two has sums of its own
                    right = builder.add(b, builder.mul(number(v, v.plus(index, x), BYTE), b_p))
                    here = slice(x * strip.vecs, (x + 1) * strip.vecs)
                    after[here] = strip.add(v.broadcast(v.plus(a, x * v.size)), right, after[here])
                return [v.plus(a, 2 * v.size), v.plus(index, 2), builder.add(b, four), *after]

            _, (_, _, _, *sums) = loop(builder, many, [a, index, b, *[v.zero] * (2 * strip.vecs)], pair)
            total = [builder.fadd(one, other) for one, other in zip(sums[: strip.vecs], sums[strip.vecs :], strict=True)]
            strip.write(total, c, add)
            return [builder.add(a, builder.mul(a_i, INT(v.size))), builder.add(index, a_i), builder.add(c, c_i)]

        loop(builder, rows, [data, indices, c], row)
        return context.get_dummy_value()

    return types.void(vecs, like, data, indices, a_i, b, b_p, c, c_i, sizes, add), code


@intrinsic
def pairs_column(typing: Any, like: Any, data: Any, indices: Any, many: Any, b: Any, b_p: Any, c: Any, rows: Any) -> Any:
    """One column from rows of pairs, each with `many` numbers: vectors lie along a row, and gather what it names of b."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, data, indices, many, b, b_p, c, rows = values
        numbers = ir.VectorType(INT, v.lanes)
        own = ir.Constant(numbers, [lane // 2 * 4 for lane in range(v.lanes)])  # of each lane the first of its four

        def row(_: Any, a: Any, index: Any, c: Any) -> list[Any]:
            def products(a: Any, index: Any, b: Any, total: Any, mask: Any) -> list[Any]:
                places = v.scaled(builder.add(v.integers(index, BYTE, mask), own), b_p)
                left = v.load(a) if mask is None else v.load_some(a, mask)
                b_after = builder.add(b, builder.mul(b_p, INT(2 * v.lanes)))
                return [v.plus(a, v.bytes), v.plus(index, v.lanes), b_after, v.fused(left, v.gather(b, places, mask), total)]

            def whole(_: Any, a: Any, index: Any, b: Any, total: Any) -> list[Any]:
                return products(a, index, b, total, None)

            done, (at, place, right, total) = loop(builder, many, [a, index, b, v.zero], whole, step=v.lanes)
            left = builder.sub(many, done)

            def rest(_: Any, total: Any) -> list[Any]:
                return [products(at, place, right, total, v.first(left))[-1]]

            _, (total,) = loop(builder, builder.zext(builder.icmp_signed(">", left, INT(0)), INT), [total], rest)
            builder.store(v.total(total), v.pointer(c, v.element)).align = v.size
            return [builder.add(a, builder.mul(many, INT(v.size))), builder.add(index, many), v.plus(c, v.size)]

        loop(builder, rows, [data, indices, c], row)
        return context.get_dummy_value()

    return types.void(like, data, indices, many, b, b_p, c, rows), code
