"""Windows of two by two that neither overlap nor leave a gap: a row of them as vectors, for pooling.

    top, bottom   addresses of two rows of a picture, one below the other
    y, gy, at     addresses of a row of windows: values, and int64 indices of pixels
    first, width  index of the first pixel of top, and from a pixel to the one below it
    count         windows

The lanes of two neighbouring vectors of pixels are sorted into left and right ones, so that a lane is a window. What is left of a row is
masked. `like` is a number of the type of the values.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.lanes import Rows
from kernels.cpu.vector import INT

SHORT = ir.IntType(32)  # a place within a window, and from one window to the next
FLAG = ir.IntType(1)


class Windows(Rows):
    """Vectors of windows, with their pixels and indices."""

    def __init__(self, builder: Any, element: Any):
        super().__init__(builder, element)
        self.places = ir.VectorType(SHORT, self.lanes)
        self.indices = ir.VectorType(INT, self.lanes)
        self.flags = ir.VectorType(FLAG, self.lanes)

    def pixels(self, address: Any, i: Any, left: Any) -> tuple[Any, Any]:
        """The left and the right pixels, of one row, of the windows from i on."""
        places = self._halves(address, i)
        if left is None:
            low, high = [self.load(place) for place in places]
        else:
            low, high = [self.load_some(place, mask) for place, mask in zip(places, self._halves_that_count(left), strict=True)]
        return self.pick(low, high, range(0, 2 * self.lanes, 2)), self.pick(low, high, range(1, 2 * self.lanes, 2))

    def put_pixels(self, lefts: Any, rights: Any, address: Any, i: Any, left: Any) -> None:
        order = [lane for pair in zip(range(self.lanes), range(self.lanes, 2 * self.lanes), strict=True) for lane in pair]
        halves = [self.pick(lefts, rights, part) for part in (order[: self.lanes], order[self.lanes :])]
        masks = (None, None) if left is None else self._halves_that_count(left)
        for value, place, mask in zip(halves, self._halves(address, i), masks, strict=True):
            self.store(value, place) if mask is None else self.store_some(value, place, mask)

    def _halves(self, address: Any, i: Any) -> tuple[Any, Any]:
        low = self.at(address, i, 2 * self.size)
        return low, self.plus(low, self.bytes)

    def _halves_that_count(self, left: Any) -> tuple[Any, Any]:
        pixels = self.builder.mul(left, INT(2))
        return self.first(pixels), self.first(self.builder.sub(pixels, INT(self.lanes)))

    def numbered(self, address: Any, i: Any, left: Any) -> Any:
        """The indices at an address."""
        place = self.pointer(self.at(address, i, 8), self.indices)
        if left is None:
            found = self.builder.load(place)
            found.align = 8
            return found
        kinds = [self.indices.as_pointer(), SHORT, self.flags, self.indices]
        run = self._masked("load", self.indices, kinds)
        return self.builder.call(run, [place, SHORT(8), self.first(left), ir.Constant(self.indices, [0] * self.lanes)])

    def put_numbers(self, value: Any, address: Any, i: Any, left: Any) -> None:
        place = self.pointer(self.at(address, i, 8), self.indices)
        if left is None:
            self.builder.store(value, place).align = 8
            return
        run = self._masked("store", ir.VoidType(), [self.indices, self.indices.as_pointer(), SHORT, self.flags])
        self.builder.call(run, [value, place, SHORT(8), self.first(left)])

    def _masked(self, what: str, result: Any, kinds: list[Any]) -> Any:
        name = f"llvm.masked.{what}.v{self.lanes}i64.p0"
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, kinds), name)

    def corners(self) -> Any:
        """From the first window of a vector to the left upper pixel of each."""
        return ir.Constant(self.places, [2 * lane for lane in range(self.lanes)])

    def larger(self, value: Any, best: Any) -> Any:
        """Also a nan, over anything but a nan."""
        return self.builder.and_(self.builder.fcmp_unordered(">", value, best), self.builder.fcmp_ordered("ord", best, best))

    def quarter(self, value: Any) -> Any:
        return self.builder.fmul(value, self.constant(0.25))

    def all(self, flags: Any) -> Any:
        run = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(FLAG, [self.flags]), f"llvm.vector.reduce.and.v{self.lanes}i1"
        )
        return self.builder.call(run, [flags])


@intrinsic
def largest_of_fours(typing: Any, like: Any, top: Any, bottom: Any, y: Any, count: Any) -> Any:
    """The largest of each window, of whole numbers."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Windows(builder, values[0].type)
        _, top, bottom, y, count = values

        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.icmp_signed(">", a, b), a, b)

        def vector(i: Any, left: Any) -> list[Any]:
            v.put_values(larger(larger(*v.pixels(top, i, left)), larger(*v.pixels(bottom, i, left))), y, i, left)
            return []

        v.row(count, vector)
        return context.get_dummy_value()

    return types.void(like, top, bottom, y, count), code


@intrinsic
def largest(typing: Any, like: Any, top: Any, bottom: Any, y: Any, at: Any, first: Any, width: Any, count: Any) -> Any:
    """The largest of each window, and its index: the first of equal ones, row by row."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Windows(builder, values[0].type)
        _, top, bottom, y, at, first, width, count = values
        below = v._spread(builder.trunc(width, SHORT), v.places)
        one = ir.Constant(v.places, [1] * v.lanes)

        def vector(i: Any, left: Any) -> list[Any]:
            best, place = choose(v.pixels(top, i, left), ir.Constant(v.places, [0] * v.lanes), one)
            lower, where = choose(v.pixels(bottom, i, left), below, builder.add(below, one))
            down = v.larger(lower, best)
            best, place = builder.select(down, lower, best), builder.select(down, where, place)
            start = v._spread(builder.add(first, builder.mul(i, INT(2))), v.indices)
            v.put_values(best, y, i, left)
            v.put_numbers(builder.add(builder.sext(builder.add(place, v.corners()), v.indices), start), at, i, left)
            return []

        def choose(pixels: Any, place: Any, beside: Any) -> tuple[Any, Any]:
            right = v.larger(pixels[1], pixels[0])
            return builder.select(right, pixels[1], pixels[0]), builder.select(right, beside, place)

        v.row(count, vector)
        return context.get_dummy_value()

    return types.void(like, top, bottom, y, at, first, width, count), code


@intrinsic
def put_back(typing: Any, like: Any, gy: Any, at: Any, top: Any, bottom: Any, first: Any, width: Any, count: Any) -> Any:
    """Each value to the pixel of its window that has its index, zeros to the other three. False if an index is of no pixel of its window:
    then what is written is wrong."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Windows(builder, values[0].type)
        _, gy, at, top, bottom, first, width, count = values
        below = v._spread(builder.trunc(width, SHORT), v.places)
        one = ir.Constant(v.places, [1] * v.lanes)
        offsets = [ir.Constant(v.places, [0] * v.lanes), one, below, builder.add(below, one)]

        def vector(i: Any, left: Any, fits: Any) -> list[Any]:
            value = v.values(gy, i, left)
            start = builder.trunc(builder.add(first, builder.mul(i, INT(2))), SHORT)
            corner = builder.add(v._spread(start, v.places), v.corners())
            place = builder.sub(builder.trunc(v.numbered(at, i, left), v.places), corner)
            chosen = [builder.icmp_signed("==", place, offset) for offset in offsets]
            parts = [builder.select(flag, value, v.zero) for flag in chosen]
            v.put_pixels(parts[0], parts[1], top, i, left)
            v.put_pixels(parts[2], parts[3], bottom, i, left)
            some = builder.or_(builder.or_(chosen[0], chosen[1]), builder.or_(chosen[2], chosen[3]))
            if left is not None:
                some = builder.or_(some, builder.not_(v.first(left)))
            return [builder.and_(fits, some)]

        (fits,) = v.row(count, vector, [ir.Constant(v.flags, [1] * v.lanes)])
        return v.all(fits)

    return types.boolean(like, gy, at, top, bottom, first, width, count), code


@intrinsic
def mean(typing: Any, like: Any, top: Any, bottom: Any, y: Any, count: Any) -> Any:
    """The mean of each window."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Windows(builder, values[0].type)
        _, top, bottom, y, count = values

        def vector(i: Any, left: Any) -> list[Any]:
            (a, b), (c, d) = v.pixels(top, i, left), v.pixels(bottom, i, left)
            v.put_values(v.quarter(builder.fadd(builder.fadd(a, c), builder.fadd(b, d))), y, i, left)
            return []

        v.row(count, vector)
        return context.get_dummy_value()

    return types.void(like, top, bottom, y, count), code


@intrinsic
def quarters(typing: Any, like: Any, gy: Any, top: Any, bottom: Any, count: Any) -> Any:
    """A quarter of each value to each pixel of its window."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Windows(builder, values[0].type)
        _, gy, top, bottom, count = values

        def vector(i: Any, left: Any) -> list[Any]:
            part = v.quarter(v.values(gy, i, left))
            v.put_pixels(part, part, top, i, left)
            v.put_pixels(part, part, bottom, i, left)
            return []

        v.row(count, vector)
        return context.get_dummy_value()

    return types.void(like, gy, top, bottom, count), code
