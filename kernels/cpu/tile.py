"""A tile of c that stays in registers while a strip of a and a strip of b pass through it: what all products are made of.

    c (rows, vecs vectors) = or += a (rows, k) b (k, vecs vectors)

For each p, `vecs` vectors of b are loaded and each number of a is spread over a vector: rows x vecs fused products for vecs + rows loads.
Nothing is written until all of k is through. A sum runs over p = 0, 1, 2, ... in every lane of every tile, so it does not matter which
tile an element of c falls into. Addresses are integers, steps are bytes: a may lie in any way, rows of b and c are contiguous.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.features import BITS, registers, tier
from kernels.cpu.vector import INT, Vectors, loop

ROWS = 12 if registers() >= 32 else 6  # with two vectors each: 24 or 12 sums, and registers left for a and b
FEW = 3  # rows for which a tile is broader instead: so few sums would wait for one another
BROAD, LESS_BROAD = (8, 4) if registers() >= 32 else (4, 2)
MASKS_ARE_FREE = BITS[tier()] == 512  # elsewhere a vector that is there in full is written without a mask
LONG = 128  # p from which on it pays to fetch c ahead
AHEAD = 2  # strips of b to fetch ahead: its rows may lie so far apart that the machine does not guess the next place
NEAR_A, NEAR_B = 16, 8  # p to fetch ahead from the second-level cache: a strip of b is larger than the first, and a passes only once


@intrinsic(prefer_literal=True)
def tiles(
    typing: Any, rows: Any, vecs: Any, parts: Any, like: Any, a: Any, b: Any, c: Any, a_steps: Any, b_p: Any, c_i: Any, sizes: Any, add: Any
) -> Any:
    """A strip of c, `vecs` vectors wide, tile by tile downwards.

    rows, vecs  literals: of a tile. What is left of m are tiles of fewer rows
    parts       a literal: 2 for vectors half as wide, else 1
    like        a number of the type of a, b and c
    a, b, c     addresses of the first elements
    a_steps     bytes from one element of a to the one below it, to the one beside it, and from one tile to the next
    b_p, c_i    bytes from one row to the next
    sizes       m, k, and how many columns are there: more than the first half of the vectors hold. k may be 0
    add         false: c is written; true: c is added to
    """
    return types.void(rows, vecs, parts, like, a, b, c, a_steps, b_p, c_i, sizes, add), written(rows, vecs, parts)


@intrinsic(prefer_literal=True)
def finished_tiles(
    typing: Any, rows: Any, vecs: Any, parts: Any, like: Any, a: Any, b: Any, c: Any, a_steps: Any, b_p: Any, c_i: Any, sizes: Any,
    add: Any, bias: Any, relu: Any, room: Any,
) -> Any:  # fmt: skip
    """The same, and what a layer does to c before it is written.

    bias        address of what is added to a row of the strip, or 0: then this is `tiles`
    relu        whether what is below 0 becomes 0 after that
    room        address of k rows of whole vectors, or 0: the first tile writes there what it reads of b, and the others read it there.
                A literal 0: there is no code for that
    """
    return types.void(rows, vecs, parts, like, a, b, c, a_steps, b_p, c_i, sizes, add, bias, relu, room), written(rows, vecs, parts)


def written(rows: Any, vecs: Any, parts: Any) -> Any:
    """How the code of a strip is written."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[3]), parts.literal_value)
        _, _, _, _, a, b, c, a_steps, b_p, c_i, sizes, add, *more = values
        a_i, a_p, a_tile = [builder.extract_value(a_steps, x) for x in range(3)]
        m, k, n = [builder.extract_value(sizes, x) for x in range(3)]
        strip = Strip(v, rows.literal_value, vecs.literal_value, a, a_i, a_p, a_tile, b, b_p, c, c_i, k, n, add)
        strip.finish = more[:2]
        if more and not isinstance(signature.args[-1], types.Literal):
            strip.downwards(m, more[2])
        else:
            strip.downwards(m)
        return context.get_dummy_value()

    return code


class Strip:
    """What the tiles of a strip share."""

    def __init__(self, v: Vectors, rows: int, vecs: int, *values: Any):
        self.v, self.builder, self.rows, self.vecs = v, v.builder, rows, vecs
        self.a, self.a_i, self.a_p, self.a_tile, self.b, self.b_p, self.c, self.c_i, self.k, n, self.add = values
        unsure = range(vecs // 2, vecs)  # which vectors may have lanes that are not there
        self.masks = {x: v.first(v.builder.sub(n, INT(x * v.lanes))) for x in unsure}
        self.full = v.builder.icmp_signed("==", n, INT(vecs * v.lanes))
        self.starts = [v.zero] * vecs  # of the sums of a row
        self.finish: list[Any] = []  # bias and relu, if c may be finished here
        packed = v.builder.icmp_signed("==", self.b_p, INT(vecs * v.bytes))  # then the next strip lies behind this one
        self.ahead = v.builder.select(packed, v.builder.mul(self.k, self.b_p), INT(AHEAD * vecs * v.bytes))
        self.near_a, self.near_b = v.builder.mul(self.a_p, INT(NEAR_A)), v.builder.mul(self.b_p, INT(NEAR_B))
        self.long = v.builder.icmp_signed(">=", self.k, INT(LONG))

    def downwards(self, m: Any, room: Any = None) -> None:
        """Tiles of `rows` rows, then what is left in tiles of 8, 4, 2 and 1: to have one for each number of rows takes long to compile."""
        left, a, c = m, self.a, self.c
        if room is not None:
            left, a, c = self.copying_tile(left, room)
        for some in [self.rows, *(x for x in (8, 4, 2, 1) if x < self.rows)]:
            done, (a, c) = loop(self.builder, left, [a, c], lambda _, a, c, some=some: self.tile(some, a, c), step=some)
            left = self.builder.sub(left, done)

    def copying_tile(self, m: Any, room: Any) -> tuple[Any, ...]:
        """The first tile, if it is a whole one, copies b as it reads it: two more instructions for each p, where a pass of its own would
        wait for memory. The following ones find b in line. What is left of m, and where the next tile finds its own."""
        builder, v = self.builder, self.v
        copies = builder.and_(builder.icmp_signed("!=", room, INT(0)), builder.icmp_signed(">=", m, INT(self.rows)))
        count = builder.select(copies, INT(self.rows), INT(0))
        _, (a, c) = loop(builder, count, [self.a, self.c], lambda _, a, c: self.tile(self.rows, a, c, room), step=self.rows)
        wide = INT(self.vecs * v.bytes)
        self.b, self.b_p = builder.select(copies, room, self.b), builder.select(copies, wide, self.b_p)
        self.ahead = builder.select(copies, INT(0), self.ahead)  # what comes next does not lie behind it
        self.near_b = builder.mul(self.b_p, INT(NEAR_B))
        return builder.sub(m, count), a, c

    def tile(self, rows: int, a: Any, c: Any, room: Any = None) -> list[Any]:
        """A tile of c, at address c, from the rows of a at address a. Where the next tile finds its own. `room`: where to copy b to."""
        builder, v = self.builder, self.v
        down = [builder.mul(self.a_i, INT(row)) for row in range(rows)]
        places = [builder.add(c, builder.mul(self.c_i, INT(row))) for row in range(rows)]
        with builder.if_then(self.long):
            for place in places:
                for x in range(self.vecs):
                    v.prefetch(v.plus(place, x * v.bytes), writing=True)  # c comes while the sums are made

        def product(p: Any, a: Any, b: Any, *sums: Any) -> list[Any]:
            left = [builder.add(a, step) for step in down]
            if self.vecs <= 2:  # a broad tile has its hands full with loading
                self.fetch_ahead(a, b)
            to = None if room is None else builder.add(room, builder.mul(p, INT(self.vecs * v.bytes)))
            return [builder.add(a, self.a_p), builder.add(b, self.b_p), *self.products(left, b, sums, to)]

        _, (_, _, *sums) = loop(builder, self.k, [a, self.b, *self.starts * rows], product)
        if MASKS_ARE_FREE:
            self.write(sums, places, masked=True)
        else:
            with builder.if_else(self.full) as (whole, part):
                with whole:
                    self.write(sums, places, masked=False)
                with part:
                    self.write(sums, places, masked=True)
        after = self.a_tile if rows == self.rows else builder.mul(self.a_i, INT(rows))  # packed tiles are all as wide as a whole one
        return [builder.add(a, after), builder.add(c, builder.mul(self.c_i, INT(rows)))]

    def fetch_ahead(self, a: Any, b: Any) -> None:
        v = self.v
        ahead, near = self.builder.add(b, self.ahead), self.builder.add(b, self.near_b)
        for x in range(self.vecs):
            v.prefetch(v.plus(ahead, x * v.bytes), writing=False)
            v.prefetch(v.plus(near, x * v.bytes), level=1)
        v.prefetch(self.builder.add(a, self.near_a), level=1)

    def products(self, left: list[Any], b: Any, sums: tuple[Any, ...], room: Any = None) -> list[Any]:
        """The sums, row by row, after one more p. Of a broad tile the numbers of a stay in registers, else the vectors of b."""
        v, vecs = self.v, self.vecs
        after = list(sums)
        if vecs > 2:
            mine = [v.broadcast(place) for place in left]
            for x in range(vecs):
                right = self.right(b, x)
                for row, number in enumerate(mine):
                    after[row * vecs + x] = v.fused(number, right, after[row * vecs + x])
            return after
        vectors = [self.right(b, x) for x in range(vecs)]
        if room is not None:
            for x, right in enumerate(vectors):
                v.store(right, v.plus(room, x * v.bytes))
        for row, place in enumerate(left):
            number = v.broadcast(place)
            for x, right in enumerate(vectors):
                after[row * vecs + x] = v.fused(number, right, after[row * vecs + x])
        return after

    def right(self, b: Any, x: int) -> Any:
        """Vector x of a row of b."""
        place = self.v.plus(b, x * self.v.bytes)
        return self.v.load_some(place, self.masks[x]) if x in self.masks else self.v.load(place)

    def write(self, sums: list[Any], places: list[Any], *, masked: bool) -> None:
        """The sums to c: as they are, added to what is there, or finished."""
        if self.finish:
            bias, relu = self.finish
            with self.builder.if_else(self.builder.icmp_signed("!=", bias, INT(0))) as (finishing, not_yet):
                with finishing:
                    self.finish_rows(bias, relu, sums, places, masked)
                with not_yet:
                    self.write_or_add(sums, places, masked)
        else:
            self.write_or_add(sums, places, masked)

    def write_or_add(self, sums: list[Any], places: list[Any], masked: bool) -> None:
        with self.builder.if_else(self.add) as (adding, writing):
            with adding:
                for value, place in self.in_rows(sums, places):
                    old = self.load(place, masked)
                    self.store(self.v.added(old, value), place, masked)
            with writing:
                for value, place in self.in_rows(sums, places):
                    self.store(value, place, masked)

    def finish_rows(self, bias: Any, relu: Any, sums: list[Any], places: list[Any], masked: bool) -> None:
        """c = sums + bias, or c + sums + bias, and relu."""
        v, builder, floor = self.v, self.builder, lowest(self.v, relu)
        none = ir.Constant(ir.VectorType(ir.IntType(1), v.lanes), [0] * v.lanes)
        lanes = [self.masks[x] if masked and x in self.masks else ir.Constant(none.type, [1] * v.lanes) for x in range(self.vecs)]
        shifts = [v.load_some(v.plus(bias, x * v.bytes), lanes[x]) for x in range(self.vecs)]
        before = [builder.select(self.add, mask, none) for mask in lanes]
        for value, (place, x) in self.in_rows(sums, places):
            old = v.load_some(v.plus(place, x * v.bytes), before[x])
            value = builder.fadd(builder.select(self.add, builder.fadd(old, value), value), shifts[x])
            self.store(raised(v, value, floor), (place, x), masked)

    def in_rows(self, sums: list[Any], places: list[Any]) -> list[tuple[Any, tuple[Any, int]]]:
        """Each vector of sums with where its row of c begins and which vector of the row it is."""
        return [(value, (places[number // self.vecs], number % self.vecs)) for number, value in enumerate(sums)]

    def load(self, place: tuple[Any, int], masked: bool) -> Any:
        row, x = place
        address = self.v.plus(row, x * self.v.bytes)
        return self.v.load_some(address, self.masks[x]) if masked and x in self.masks else self.v.load(address)

    def store(self, value: Any, place: tuple[Any, int], masked: bool) -> None:
        row, x = place
        address = self.v.plus(row, x * self.v.bytes)
        if masked and x in self.masks:
            self.v.store_some(value, address, self.masks[x])
        else:
            self.v.store(value, address)


@intrinsic(prefer_literal=True)
def dots(typing: Any, rows: Any, like: Any, a: Any, b: Any, c: Any, a_i: Any, c_i: Any, m: Any, k: Any) -> Any:
    """A column of inner products, c[i] = sum over p of a[i, p] b[p], where a is contiguous along p: vectors lie along p.

    rows        a literal: so many are done at a time, then the rest one by one
    a_i, c_i    bytes from one row to the next
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[1]))
        _, _, a, b, c, a_i, c_i, m, k = values

        def some(count: int) -> Any:
            def body(_: Any, a: Any, c: Any) -> list[Any]:
                for row, total in enumerate(inner(v, [builder.add(a, builder.mul(a_i, INT(row))) for row in range(count)], b, k)):
                    place = v.pointer(builder.add(c, builder.mul(c_i, INT(row))), v.element)
                    builder.store(total, place).align = v.size
                return [builder.add(step, builder.mul(by, INT(count))) for step, by in ((a, a_i), (c, c_i))]

            return body

        done, (a, c) = loop(builder, m, [a, c], some(rows.literal_value), step=rows.literal_value)
        loop(builder, builder.sub(m, done), [a, c], some(1))
        return context.get_dummy_value()

    return types.void(rows, like, a, b, c, a_i, c_i, m, k), code


def inner(v: Vectors, rows: list[Any], b: Any, k: Any) -> list[Any]:
    """The inner products of b and of each of a few rows. Lane l sums p = l, l + lanes, ...; the lanes are added last."""
    builder = v.builder

    def along(offset: Any, load: Any, sums: Any) -> list[Any]:
        right = load(builder.add(b, offset))
        return [v.fused(load(builder.add(row, offset)), right, total) for row, total in zip(rows, sums, strict=True)]

    def whole(_: Any, offset: Any, *sums: Any) -> list[Any]:
        return [v.plus(offset, v.bytes), *along(offset, v.load, sums)]

    done, (offset, *sums) = loop(builder, k, [INT(0), *[v.zero] * len(rows)], whole, step=v.lanes)
    mask = v.first(builder.sub(k, done))
    return [v.total(total) for total in along(offset, lambda place: v.load_some(place, mask), sums)]


@intrinsic(prefer_literal=True)
def lines(typing: Any, rows: Any, like: Any, a: Any, b: Any, c: Any, a_p: Any, b_p: Any, k: Any, n: Any) -> Any:
    """One row, c[j] = sum over p = 0, 1, 2, ... of a[p] b[p, j], with whole rows of b read in line: memory is fastest so.

    rows        a literal: so many of b are added at a time to a c in the first-level cache, then the rest one by one
    a_p, b_p    bytes from one p to the next. k is 1 or more
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[1]))
        _, _, a, b, c, a_p, b_p, k, n = values

        def some(count: int, before: Any) -> Any:
            def body(p: Any, a: Any, b: Any) -> list[Any]:
                first = builder.icmp_signed("==", builder.add(before, p), INT(0))
                mine = [v.broadcast(builder.add(a, builder.mul(a_p, INT(row)))) for row in range(count)]
                places = [builder.add(b, builder.mul(b_p, INT(row))) for row in range(count)]

                def total(offset: Any, load: Any) -> Any:
                    value = builder.select(first, v.zero, load(builder.add(c, offset)))
                    for number, place in zip(mine, places, strict=True):
                        value = v.fused(number, load(builder.add(place, offset)), value)
                    return value

                def whole(_: Any, offset: Any) -> list[Any]:
                    v.store(total(offset, v.load), builder.add(c, offset))
                    return [v.plus(offset, v.bytes)]

                done, (offset,) = loop(builder, n, [INT(0)], whole, step=v.lanes)
                mask = v.first(builder.sub(n, done))
                v.store_some(total(offset, lambda place: v.load_some(place, mask)), builder.add(c, offset), mask)
                return [builder.add(step, builder.mul(by, INT(count))) for step, by in ((a, a_p), (b, b_p))]

            return body

        done, (a, b) = loop(builder, k, [a, b], some(rows.literal_value, INT(0)), step=rows.literal_value)
        loop(builder, builder.sub(k, done), [a, b], some(1, done))
        return context.get_dummy_value()

    return types.void(rows, like, a, b, c, a_p, b_p, k, n), code


@intrinsic
def shift(typing: Any, like: Any, source: Any, target: Any, n: Any, relu: Any) -> Any:
    """target += source, both contiguous; with `relu` what is below 0 becomes 0 after that."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, target, n, relu = values
        floor = lowest(v, relu)

        def whole(_: Any, here: Any, there: Any) -> list[Any]:
            v.store(raised(v, builder.fadd(v.load(there), v.load(here)), floor), there)
            return [v.plus(here, v.bytes), v.plus(there, v.bytes)]

        done, (here, there) = loop(builder, n, [source, target], whole, step=v.lanes)
        mask = v.first(builder.sub(n, done))
        v.store_some(raised(v, builder.fadd(v.load_some(there, mask), v.load_some(here, mask)), floor), there, mask)
        return context.get_dummy_value()

    return types.void(like, source, target, n, relu), code


def lowest(v: Vectors, relu: Any) -> Any:
    """A floor: 0, or -inf, to which nothing is raised."""
    return v.builder.select(relu, v.zero, ir.Constant(v.type, [float("-inf")] * v.lanes))


def raised(v: Vectors, value: Any, floor: Any) -> Any:
    """What is below a floor is raised to it; nan stays, and 0 is the positive one."""
    return v.builder.select(v.builder.fcmp_ordered("<=", value, floor), floor, value)


@intrinsic
def transpose(typing: Any, like: Any, source: Any, step: Any, rows: Any, columns: Any, target: Any, target_step: Any) -> Any:
    """A square as wide as a vector, transposed: number (i, j) of the source goes to (j, i) of the target.

    `rows` (1 or more) and `columns` of the source are there. Of the target whole vectors are written, for every j in order: behind
    what is there stand the last row again, and zeros.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, step, rows, columns, target, target_step = values
        mask, below = v.first(columns), builder.sub(rows, INT(1))
        square = []
        for i in range(v.lanes):
            row = builder.select(builder.icmp_signed("<", INT(i), below), INT(i), below)
            square.append(v.load_some(builder.add(source, builder.mul(row, step)), mask))
        for j, column in enumerate(transposed(v, square)):
            v.store(column, builder.add(target, builder.mul(target_step, INT(j))))
        return context.get_dummy_value()

    return types.void(like, source, step, rows, columns, target, target_step), code


def transposed(v: Vectors, rows: list[Any]) -> list[Any]:
    """Columns of a square from its rows: row i of the upper half and of the lower half are zipped, as often as the square can be halved."""
    half = v.lanes // 2
    low = [x for i in range(half) for x in (i, v.lanes + i)]
    high = [half + x for x in low]
    for _ in range(v.lanes.bit_length() - 1):
        rows = [v.pick(rows[i], rows[i + half], places) for i in range(half) for places in (low, high)]
    return rows


@intrinsic
def copy(typing: Any, like: Any, source: Any, source_step: Any, target: Any, target_step: Any, rows: Any, columns: Any) -> Any:
    """Rows of numbers, each contiguous."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, source_step, target, target_step, rows, columns = values

        def row(_: Any, source: Any, target: Any) -> list[Any]:
            def pair(_: Any, here: Any, there: Any) -> list[Any]:
                for x, found in enumerate([v.load(v.plus(here, x * v.bytes)) for x in range(2)]):
                    v.store(found, v.plus(there, x * v.bytes))
                return [v.plus(here, 2 * v.bytes), v.plus(there, 2 * v.bytes)]

            def single(_: Any, here: Any, there: Any) -> list[Any]:
                v.copy_number(here, there)
                return [v.plus(here, v.size), v.plus(there, v.size)]

            done, (here, there) = loop(builder, columns, [source, target], pair, step=2 * v.lanes)
            loop(builder, builder.sub(columns, done), [here, there], single)
            return [builder.add(source, source_step), builder.add(target, target_step)]

        loop(builder, rows, [source, target], row)
        return context.get_dummy_value()

    return types.void(like, source, source_step, target, target_step, rows, columns), code


@intrinsic
def gather(typing: Any, like: Any, source: Any, source_steps: Any, target: Any, target_steps: Any, rows: Any, columns: Any) -> Any:
    """Rows of numbers that lie in any way, one by one; steps from row to row and from column to column."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, source_steps, target, target_steps, rows, columns = values
        (down, across), (target_down, target_across) = [
            [builder.extract_value(s, x) for x in range(2)] for s in (source_steps, target_steps)
        ]

        def row(_: Any, source: Any, target: Any) -> list[Any]:
            def single(_: Any, here: Any, there: Any) -> list[Any]:
                v.copy_number(here, there)
                return [builder.add(here, across), builder.add(there, target_across)]

            loop(builder, columns, [source, target], single)
            return [builder.add(source, down), builder.add(target, target_down)]

        loop(builder, rows, [source, target], row)
        return context.get_dummy_value()

    return types.void(like, source, source_steps, target, target_steps, rows, columns), code
