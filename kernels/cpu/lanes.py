"""A row of numbers as vectors, the last of which may be there in part; and what is done with rows in one pass over them.

Addresses are integers; `like` is a number of the type of the values; `count` numbers are in a row. Sums and the largest are taken lane by
lane, then over the lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.exponential import Numbers
from kernels.cpu.vector import INT, Vectors, loop


class Rows(Vectors):
    """The vectors of a row."""

    def row(self, count: Any, body: Callable[..., Sequence[Any]], starts: Sequence[Any] = ()) -> list[Any]:
        """`values = body(i, left, *values)` for each vector of a row: it begins at number i, and all of it counts if left is None."""
        builder = self.builder
        i, values = loop(builder, count, starts, lambda i, *values: body(i, None, *values), step=self.lanes)
        left, before = builder.sub(count, i), builder.block
        part, after = builder.append_basic_block("part"), builder.append_basic_block("end")
        builder.cbranch(builder.icmp_signed(">", left, INT(0)), part, after)
        builder.position_at_end(part)
        ends, last = body(i, left, *values), builder.block
        builder.branch(after)
        builder.position_at_end(after)
        merged = [builder.phi(value.type) for value in values]
        for phi, value, end in zip(merged, values, ends, strict=True):
            phi.add_incoming(value, before)
            phi.add_incoming(end, last)
        return merged

    def at(self, address: Any, i: Any, size: int) -> Any:
        """The address of number i, where numbers have so many bytes."""
        return self.builder.add(address, self.builder.mul(i, INT(size)))

    def values(self, address: Any, i: Any, left: Any) -> Any:
        place = self.at(address, i, self.size)
        return self.load(place) if left is None else self.load_some(place, self.first(left))

    def put_values(self, value: Any, address: Any, i: Any, left: Any) -> None:
        place = self.at(address, i, self.size)
        self.store(value, place) if left is None else self.store_some(value, place, self.first(left))

    def constant(self, number: float) -> Any:
        return ir.Constant(self.type, [number] * self.lanes)

    def spread(self, number: Any) -> Any:
        """A number in every lane."""
        return self._spread(number, self.type)

    def counted(self, value: Any, left: Any, other: Any) -> Any:
        """The lanes that count of a value, and another's where they do not."""
        return value if left is None else self.builder.select(self.first(left), value, other)

    def most(self, value: Any) -> Any:
        """The largest of the lanes, in halves."""
        width = self.lanes
        while width > 1:
            width //= 2
            low, high = [self.pick(value, value, range(start, start + width)) for start in (0, width)]
            value = self.builder.select(self.builder.fcmp_ordered(">", high, low), high, low)
        return self.builder.extract_element(value, ir.IntType(32)(0))


@intrinsic
def copy_rows(typing: Any, like: Any, x: Any, x_step: Any, y: Any, y_step: Any, rows: Any, count: Any) -> Any:
    """Rows of so many numbers each, so many bytes apart. Most are too short to be worth a call of memcpy."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, x, x_step, y, y_step, rows, count = values

        def row(_: Any, here: Any, there: Any) -> list[Any]:
            def vector(i: Any, left: Any) -> list[Any]:
                v.put_values(v.values(here, i, left), there, i, left)
                return []

            v.row(count, vector)
            return [builder.add(here, x_step), builder.add(there, y_step)]

        loop(builder, rows, [x, y], row)
        return context.get_dummy_value()

    return types.void(like, x, x_step, y, y_step, rows, count), code


# A bias and an activation, and back.

IDENTITY, RELU, TANH, SIGMOID = range(4)


@intrinsic
def activated(typing: Any, like: Any, x: Any, b: Any, y: Any, count: Any, which: Any) -> Any:
    """y = act(x + b); b is a number, or the address of a row of them."""
    same = b == like

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        numbers = Numbers(builder, v.type)
        _, x, b, y, count, which = values
        shared = v.spread(b) if same else None

        def relu(a: Any) -> Any:
            return builder.select(builder.fcmp_ordered("<=", a, v.zero), v.zero, a)  # a nan stays

        def through(act: Callable[[Any], Any]) -> None:
            def vector(i: Any, left: Any) -> list[Any]:
                v.put_values(act(builder.fadd(v.values(x, i, left), shared if same else v.values(b, i, left))), y, i, left)
                return []

            v.row(count, vector)

        for number, act in ((IDENTITY, lambda a: a), (RELU, relu), (TANH, numbers.tanh), (SIGMOID, numbers.sigmoid)):
            with builder.if_then(builder.icmp_signed("==", which, which.type(number))):
                through(act)
        return context.get_dummy_value()

    return types.void(like, x, b, y, count, which), code


@intrinsic
def activated_back(typing: Any, like: Any, gy: Any, h: Any, gx: Any, sums: Any, count: Any, which: Any) -> Any:
    """gx = gy act', which is expressed in h, the value. Returns the sum of gx; or adds gx to a row of sums, if there is an address."""
    apart = not isinstance(sums, types.NoneType)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, gy, h, gx, sums, count, which = values
        one, result = v.constant(1.0), cgutils.alloca_once_value(builder, v.element(0.0))

        def relu(g: Any, a: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, v.zero), g, v.zero)

        def tanh(g: Any, a: Any) -> Any:
            return builder.fmul(g, builder.fmul(builder.fsub(one, a), builder.fadd(one, a)))  # no digits lost near 1

        def sigmoid(g: Any, a: Any) -> Any:
            return builder.fmul(g, builder.fmul(a, builder.fsub(one, a)))

        def through(slope: Callable[[Any, Any], Any]) -> None:
            def vector(i: Any, left: Any, *total: Any) -> list[Any]:
                g = slope(v.values(gy, i, left), v.values(h, i, left))  # 0 in the lanes that do not count
                v.put_values(g, gx, i, left)
                if apart:
                    v.put_values(builder.fadd(g, v.values(sums, i, left)), sums, i, left)
                return [builder.fadd(g, t) for t in total]

            for total in v.row(count, vector, [] if apart else [v.zero]):
                builder.store(v.total(total), result)

        for number, slope in ((IDENTITY, lambda g, a: g), (RELU, relu), (TANH, tanh), (SIGMOID, sigmoid)):
            with builder.if_then(builder.icmp_signed("==", which, which.type(number))):
                through(slope)
        return builder.load(result)

    return like(like, gy, h, gx, sums, count, which), code


# Rows of logits.


@intrinsic
def largest(typing: Any, like: Any, z: Any, count: Any) -> Any:
    """The largest number of a row, -inf for none. A nan is not seen: it will show in what is made of it."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, z, count = values
        least = v.constant(float("-inf"))

        def vector(i: Any, left: Any, best: Any) -> list[Any]:
            value = v.counted(v.values(z, i, left), left, least)
            return [builder.select(builder.fcmp_ordered(">", value, best), value, best)]

        return v.most(v.row(count, vector, [least])[0])

    return like(like, z, count), code


@intrinsic
def exponentials(typing: Any, like: Any, z: Any, top: Any, d: Any, count: Any) -> Any:
    """d = z - top, where top is the largest; the sum of those e^d that are not 1, and how many are."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        numbers = Numbers(builder, v.type)
        _, z, top, d, count = values
        top = v.spread(top)

        def vector(i: Any, left: Any, rest: Any, ties: Any) -> list[Any]:
            below = builder.fsub(v.values(z, i, left), top)
            v.put_values(below, d, i, left)
            equal = builder.fcmp_ordered("==", below, v.zero)
            e = builder.select(equal, v.zero, numbers.exp(below))
            one = builder.select(equal, v.constant(1.0), v.zero)
            return [builder.fadd(rest, v.counted(e, left, v.zero)), builder.fadd(ties, v.counted(one, left, v.zero))]

        sums = v.row(count, vector, [v.zero, v.zero])
        return context.make_tuple(builder, signature.return_type, [v.total(s) for s in sums])

    return types.UniTuple(like, 2)(like, z, top, d, count), code


@intrinsic
def powers(typing: Any, like: Any, z: Any, top: Any, e: Any, count: Any) -> Any:
    """e = e^(z - top), and their sum."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        numbers = Numbers(builder, v.type)
        _, z, top, e, count = values
        top = v.spread(top)

        def vector(i: Any, left: Any, total: Any) -> list[Any]:
            power = numbers.exp(builder.fsub(v.values(z, i, left), top))
            v.put_values(power, e, i, left)
            return [builder.fadd(total, v.counted(power, left, v.zero))]

        return v.total(v.row(count, vector, [v.zero])[0])

    return like(like, z, top, e, count), code


@intrinsic
def lowered(typing: Any, like: Any, d: Any, by: Any, t: Any, count: Any) -> Any:
    """d -= by; the sum of t d over the t that are not 0."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, d, by, t, count = values
        by = v.spread(by)

        def vector(i: Any, left: Any, total: Any) -> list[Any]:
            log_p, target = builder.fsub(v.values(d, i, left), by), v.values(t, i, left)
            v.put_values(log_p, d, i, left)
            none = builder.fcmp_ordered("==", target, v.zero)  # also in the lanes that do not count
            return [builder.fadd(total, builder.fmul(target, builder.select(none, v.zero, log_p)))]

        return v.total(v.row(count, vector, [v.zero])[0])

    return like(like, d, by, t, count), code


@intrinsic
def sum_of(typing: Any, like: Any, t: Any, count: Any) -> Any:
    """The sum of a row."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, t, count = values
        return v.total(v.row(count, lambda i, left, total: [builder.fadd(total, v.values(t, i, left))], [v.zero])[0])

    return like(like, t, count), code


@intrinsic
def against_target(typing: Any, like: Any, log_p: Any, t: Any, all_t: Any, g: Any, gz: Any, count: Any) -> Any:
    """gz = g (p (all_t - t) + t (p - 1))"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        numbers = Numbers(builder, v.type)
        _, log_p, t, all_t, g, gz, count = values
        all_t, g = v.spread(all_t), v.spread(g)

        def vector(i: Any, left: Any) -> list[Any]:
            target = v.values(t, i, left)
            p, p_minus_one = numbers.exp_and_expm1(v.values(log_p, i, left))
            gap = v.fused(target, p_minus_one, builder.fmul(p, builder.fsub(all_t, target)))
            v.put_values(builder.fmul(g, gap), gz, i, left)
            return []

        v.row(count, vector)
        return context.get_dummy_value()

    return types.void(like, log_p, t, all_t, g, gz, count), code


# Rows that are brought to mean 0 and variance 1, and back.


@intrinsic
def sums_about(typing: Any, like: Any, x: Any, level: Any, count: Any) -> Any:
    """The sums of x - level and of its squares."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, x, level, count = values
        level = v.spread(level)

        def vector(i: Any, left: Any, total: Any, squares: Any) -> list[Any]:
            d = v.counted(builder.fsub(v.values(x, i, left), level), left, v.zero)
            return [builder.fadd(total, d), v.fused(d, d, squares)]

        return context.make_tuple(builder, signature.return_type, [v.total(s) for s in v.row(count, vector, [v.zero, v.zero])])

    return types.UniTuple(like, 2)(like, x, level, count), code


@intrinsic
def sums_against(typing: Any, like: Any, gy: Any, w: Any, x: Any, level: Any, count: Any) -> Any:
    """The sums of h and of h (x - level), where h = w gy; h = gy if w is None."""
    plain = isinstance(w, types.NoneType)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, gy, w, x, level, count = values
        level = v.spread(level)

        def vector(i: Any, left: Any, total: Any, products: Any) -> list[Any]:
            h = v.values(gy, i, left)  # 0 in the lanes that do not count
            if not plain:
                h = builder.fmul(h, v.values(w, i, left))
            return [builder.fadd(total, h), v.fused(h, builder.fsub(v.values(x, i, left), level), products)]

        return context.make_tuple(builder, signature.return_type, [v.total(s) for s in v.row(count, vector, [v.zero, v.zero])])

    return types.UniTuple(like, 2)(like, gy, w, x, level, count), code


@intrinsic
def scaled(typing: Any, like: Any, x: Any, level: Any, scale: Any, shift: Any, y: Any, count: Any) -> Any:
    """y = (x - level) scale + shift"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, x, level, scale, shift, y, count = values
        level, scale, shift = [v.spread(number) for number in (level, scale, shift)]

        def vector(i: Any, left: Any) -> list[Any]:
            v.put_values(v.fused(builder.fsub(v.values(x, i, left), level), scale, shift), y, i, left)
            return []

        v.row(count, vector)
        return context.get_dummy_value()

    return types.void(like, x, level, scale, shift, y, count), code


@intrinsic
def scaled_each(typing: Any, like: Any, x: Any, level: Any, scale: Any, w: Any, b: Any, y: Any, count: Any) -> Any:
    """y = (x - level) scale w + b, with a w and a b for each number"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, x, level, scale, w, b, y, count = values
        level, scale = v.spread(level), v.spread(scale)

        def vector(i: Any, left: Any) -> list[Any]:
            x_hat = builder.fmul(builder.fsub(v.values(x, i, left), level), scale)
            v.put_values(v.fused(x_hat, v.values(w, i, left), v.values(b, i, left)), y, i, left)
            return []

        v.row(count, vector)
        return context.get_dummy_value()

    return types.void(like, x, level, scale, w, b, y, count), code


@intrinsic
def combined(typing: Any, like: Any, gy: Any, x: Any, level: Any, scale: Any, along: Any, shift: Any, gx: Any, count: Any) -> Any:
    """gx = gy scale + (x - level) along + shift"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, gy, x, level, scale, along, shift, gx, count = values
        level, scale, along, shift = [v.spread(number) for number in (level, scale, along, shift)]

        def vector(i: Any, left: Any) -> list[Any]:
            mean_free = v.fused(builder.fsub(v.values(x, i, left), level), along, shift)
            v.put_values(v.fused(v.values(gy, i, left), scale, mean_free), gx, i, left)
            return []

        v.row(count, vector)
        return context.get_dummy_value()

    return types.void(like, gy, x, level, scale, along, shift, gx, count), code


@intrinsic
def combined_each(
    typing: Any, like: Any, gy: Any, x: Any, w: Any, level: Any, scale: Any, along: Any, shift: Any, gx: Any, gw: Any, gb: Any, count: Any
) -> Any:
    """gx = gy w scale + (x - level) along + shift; gw += gy (x - level) scale; gb += gy"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Rows(builder, values[0].type)
        _, gy, x, w, level, scale, along, shift, gx, gw, gb, count = values
        level, scale, along, shift = [v.spread(number) for number in (level, scale, along, shift)]

        def vector(i: Any, left: Any) -> list[Any]:
            g, d = v.values(gy, i, left), builder.fsub(v.values(x, i, left), level)
            scaled = builder.fmul(g, scale)
            v.put_values(v.fused(scaled, v.values(w, i, left), v.fused(d, along, shift)), gx, i, left)
            v.put_values(v.fused(scaled, d, v.values(gw, i, left)), gw, i, left)
            v.put_values(builder.fadd(g, v.values(gb, i, left)), gb, i, left)
            return []

        v.row(count, vector)
        return context.get_dummy_value()

    return types.void(like, gy, x, w, level, scale, along, shift, gx, gw, gb, count), code
