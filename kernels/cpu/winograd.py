r"""Convolution on the CPU, third part of the ladder: kernels of 3 by 3 with 16 products for 4 windows in place of 36.

    y = A' [ (G w G') * (B' x B) ] A                  for each patch of 4 by 4 pixels, whose 2 by 2 windows it computes
    gw = G' [ sum of (A gy A') * (B' x B) ] G         over all patches: the transpose of the first in w

G w G' is made once a call, B' x B once a patch and channel, A gy A' once a patch and filter: sums and differences only.

In the convolution the products run over the channels: 16 matrix products, one for each place in a patch, in the tiles of `indirect.py`. A
vector is one patch of as many pictures. The gradient in x is the same, with the weights turned about. In the gradient in w the products
run over the patches, and a vector is one patch in as many channels, or filters: so sums stay vectors to the end, and any number of pictures
will do.

The price is rounding: sums of pixels meet sums of weights, and what cancels leaves its error behind. An error is some units in the last
place of any pixel of a window times any weight of the kernel (for the gradient in w: of any pixel of a window times what came back to the
window), where that of the other rungs is relative to the products of pixels with their own weights. Where both are of one scale that
is the same, and there the rung's bound holds; where large pixels meet small weights only, digits are lost. An infinity may come out as nan.

Source: Lavin & Gray (2016), Fast algorithms for convolutional neural networks, sec. 4.1, after Winograd (1980).
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.conv import forward, input_grad, weight_grad
from kernels.cpu.features import BITS, registers, tier
from kernels.cpu.implicit import (
    BLOCK,
    PARTS,
    area,
    channel_at,
    compiled,
    cut,
    implicit,
    implicit_to_w,
    implicit_to_x,
    lay_vectors,
    multiply,
    scatter,
    small,
    strip,
    weights_for_x,
    weights_for_y,
    worth,
)
from kernels.cpu.indirect import PANEL, SPARE
from kernels.cpu.threads import share
from kernels.cpu.unit import unit
from kernels.cpu.vector import INT, Vectors, address, loop, size_of
from kernels.registry import rung

VECTOR = BITS[tier()] // 8
PLACES = 16  # in a patch
CHANNELS = 16  # and filters, from which on the products that are saved are more than the sums that are added
WINDOWS = 64  # that a gradient in w is a sum over: in fewer, a product may be small beside all that its patch adds and takes away again
DEEP = 256  # patches for each part of a gradient in w: a part has sums of its own, to clear, to transform and to add up
SUMS = 16 if registers() >= 32 else 8  # vectors of sums in a tile of it, with registers left for what is loaded


@intrinsic
def spread_patches(typing: Any, like: Any, source: Any, pitch: Any, count: Any, target: Any, step: Any) -> Any:
    """B' x B of patches side by side, two vectors apart, in rows `pitch` apart; place i of all of them to `target` + i `step`, in line."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, pitch, count, target, step = values

        def differences(x: list[Any]) -> list[Any]:
            return [builder.fsub(x[0], x[2]), builder.fadd(x[1], x[2]), builder.fsub(x[2], x[1]), builder.fsub(x[1], x[3])]

        def patch(_: Any, here: Any, there: Any) -> list[Any]:
            rows = [builder.add(here, builder.mul(pitch, INT(r))) for r in range(4)]
            x = [[v.load(v.plus(row, c * v.bytes)) for c in range(4)] for row in rows]
            across = [differences(row) for row in x]
            down = [differences([across[r][c] for r in range(4)]) for c in range(4)]
            for c in range(4):
                for r in range(4):
                    v.store(down[c][r], builder.add(there, builder.mul(step, INT(4 * r + c))))
            return [v.plus(here, 2 * v.bytes), v.plus(there, v.bytes)]

        loop(builder, count, [source, target], patch)
        return context.get_dummy_value()

    return types.void(like, source, pitch, count, target, step), code


@intrinsic
def collect_patches(typing: Any, like: Any, source: Any, step: Any, count: Any, target: Any, pitch: Any) -> Any:
    """A' m A of patches side by side: the 2 by 2 windows of each, in rows `pitch` apart."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, step, count, target, pitch = values

        def two(m: list[Any]) -> list[Any]:
            plus, minus = builder.fadd(m[1], m[2]), builder.fsub(m[1], m[2])
            return [builder.fadd(m[0], plus), builder.fsub(minus, m[3])]

        def patch(_: Any, here: Any, there: Any) -> list[Any]:
            m = [[v.load(builder.add(here, builder.mul(step, INT(4 * r + c)))) for c in range(4)] for r in range(4)]
            across = [two(row) for row in m]
            for c in range(2):
                for r, value in enumerate(two([across[r][c] for r in range(4)])):
                    v.store(value, v.plus(builder.add(there, builder.mul(pitch, INT(r))), c * v.bytes))
            return [v.plus(here, v.bytes), v.plus(there, 2 * v.bytes)]

        loop(builder, count, [source, target], patch)
        return context.get_dummy_value()

    return types.void(like, source, step, count, target, pitch), code


@intrinsic
def spread_weights(typing: Any, like: Any, source: Any, row: Any, column: Any, target: Any, step: Any) -> Any:
    """G w G' of a panel: from 3 by 3 vectors of its rows, `row` and `column` bytes apart, 4 by 4, `step` apart."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]), wide=PANEL)
        _, source, row, column, target, step = values
        half = ir.Constant(v.type, [0.5] * v.lanes)

        def four(x: list[Any]) -> list[Any]:
            outer, inner = builder.fmul(half, builder.fadd(x[0], x[2])), builder.fmul(half, x[1])
            return [x[0], builder.fadd(outer, inner), builder.fsub(outer, inner), x[2]]

        def place(r: int, c: int) -> Any:
            return builder.add(source, builder.add(builder.mul(row, INT(r)), builder.mul(column, INT(c))))

        across = [four([v.load(place(r, c)) for c in range(3)]) for r in range(3)]
        for c in range(4):
            for r, value in enumerate(four([across[r][c] for r in range(3)])):
                v.store(value, builder.add(target, builder.mul(step, INT(4 * r + c))))
        return context.get_dummy_value()

    return types.void(like, source, row, column, target, step), code


@compiled
def weights(w, transposed):
    """G w G', place after place, as panels of PANEL rows; `transposed`: of the gradient in x, w turned about and channels for filters."""
    like = w.dtype.type(0)
    rows, depth = (w.shape[1], w.shape[0]) if transposed else (w.shape[0], w.shape[1])
    panel, high = PANEL * size_of(like), -(-rows // PANEL)
    plain = weights_for_x(w, 1, (1, 1), (1, 1)) if transposed else weights_for_y(w, 1)
    panels = np.empty((PLACES, high * PANEL * depth), w.dtype)
    for i in range(high):
        for k in range(depth):
            first, row, column = i * depth * 9 + k * 9, 3, 1
            if transposed:  # rows of the kernel come first there; the last of them, and the last column, first
                first, row, column = i * depth * 9 + (2 * depth + k) * 3 + 2, -3 * depth, -1
            target = address(panels) + (i * depth + k) * panel
            spread_weights(like, address(plain) + first * panel, row * panel, column * panel, target, panels.strides[0])
    return panels


two_wide = strip(PANEL, 2)


@small
def multiply_evenly(like, panel, rows, b, starts, k, places, count, c):
    """`multiply`, with the last patches in twos, where a tile that is three wide would compute one or two of them again."""
    twos = -count % 3 * 2
    if rows < PANEL or twos > count:
        twos = 0
    threes = count - twos
    multiply(like, panel, rows, b, starts, k, places, places, threes, c, count * VECTOR)
    last = places + threes * 8
    two_wide(like, panel, PANEL * size_of(like), b, starts, k, last, last, twos, c, count * VECTOR)


@compiled
def by_patches(x, panels, y, corner, n0, n1, t0, t1):
    """Rows t0 ... t1 of patches, of pictures n0 ... n1, into y."""
    like = x.dtype.type(0)
    size = size_of(like)
    lanes = VECTOR // size
    channels, filters, windows, columns = x.shape[1], y.shape[1], y.shape[2], y.shape[3]
    across = (columns + 1) // 2
    count, pitch, rows = (t1 - t0) * across, 2 * across + 2, 2 * (t1 - t0) + 2
    flat = np.empty(channels * area(rows, pitch) * lanes + 2 * lanes * lanes, x.dtype)
    patch, product = (channels * count | 1) * VECTOR, (PANEL * count | 1) * VECTOR  # from one place to the next: odd, as an area is
    patches = np.empty(PLACES * patch // size, x.dtype)
    products = np.empty(PLACES * product // size, x.dtype)
    wide = 2 * across * VECTOR
    plane = np.empty((2 * (t1 - t0) * 2 * across + lanes) * lanes, x.dtype)
    starts, places = np.arange(channels) * (count * VECTOR), np.arange(count + SPARE) * VECTOR
    places[count:] = places[count - 1]
    p0, p1 = 2 * t0, min(windows, 2 * t1)
    for n in range(n0, n1, lanes):
        pictures = min(lanes, n1 - n)
        about = x.strides[0], x.shape[2], x.shape[3], pictures, channels
        lay_vectors(like, channel_at(x, n, 0), *about, 1, 1, p0, 0, rows, pitch, *corner, address(flat))
        for k in range(channels):
            for t in range(t1 - t0):
                source = address(flat) + (k * area(rows, pitch) + 2 * t * pitch) * VECTOR
                target = address(patches) + (k * count + t * across) * VECTOR
                spread_patches(like, source, pitch * VECTOR, across, target, patch)
        for o in range(0, filters, PANEL):
            block = min(PANEL, filters - o)
            for i in range(PLACES):
                a, b = address(panels) + i * panels.strides[0] + o * channels * size, address(patches) + i * patch
                c = address(products) + i * product
                multiply_evenly(like, a, block, b, address(starts), channels, address(places), count, c)
            for r in range(block):
                for t in range(t1 - t0):
                    source = address(products) + (r * count + t * across) * VECTOR
                    collect_patches(like, source, product, across, address(plane) + 2 * t * wide, wide)
                there = address(y) + (((n * filters + o + r) * windows + p0) * columns) * size
                if 2 * across == columns:
                    scatter(like, address(plane), (p1 - p0) * columns, there, y.strides[0], pictures)
                else:
                    for p in range(p1 - p0):
                        scatter(like, address(plane) + p * wide, columns, there + p * columns * size, y.strides[0], pictures)


@intrinsic
def spread_windows(typing: Any, like: Any, source: Any, pitch: Any, count: Any, target: Any, step: Any) -> Any:
    """A g A' of the 2 by 2 windows of patches side by side, as `spread_patches` has them; without the minus of the last row of A."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, pitch, count, target, step = values

        def four(g: list[Any]) -> list[Any]:
            return [g[0], builder.fadd(g[0], g[1]), builder.fsub(g[0], g[1]), g[1]]

        def patch(_: Any, here: Any, there: Any) -> list[Any]:
            rows = [here, builder.add(here, pitch)]
            across = [four([v.load(v.plus(row, c * v.bytes)) for c in range(2)]) for row in rows]
            for c in range(4):
                for r, value in enumerate(four([across[0][c], across[1][c]])):
                    v.store(value, builder.add(there, builder.mul(step, INT(4 * r + c))))
            return [v.plus(here, 2 * v.bytes), v.plus(there, v.bytes)]

        loop(builder, count, [source, target], patch)
        return context.get_dummy_value()

    return types.void(like, source, pitch, count, target, step), code


@intrinsic
def collect_weights(typing: Any, like: Any, source: Any, step: Any, target: Any) -> Any:
    """G' m G: from 16 vectors, `step` apart, the 9 of a kernel, in line; with the minus that `spread_windows` has left out."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[0]))
        _, source, step, target = values
        half = ir.Constant(v.type, [0.5] * v.lanes)

        def three(m: list[Any]) -> list[Any]:
            plus, minus = [builder.fmul(half, run(m[1], m[2])) for run in (builder.fadd, builder.fsub)]
            return [builder.fadd(m[0], plus), minus, builder.fsub(plus, m[3])]

        m = [[v.load(builder.add(source, builder.mul(step, INT(4 * r + c)))) for c in range(4)] for r in range(4)]
        across = [three(row) for row in m]
        for c in range(3):
            for r, value in enumerate(three([across[r][c] for r in range(4)])):
                v.store(value, v.plus(target, (3 * r + c) * v.bytes))
        return context.get_dummy_value()

    return types.void(like, source, step, target), code


def tile_of(lanes):
    """Filters, which stand in one vector, and vectors of channels, of which a tile holds the sums."""
    rows = min(PANEL, lanes)
    return rows, SUMS // rows


tile = small(tile_of)


@intrinsic(prefer_literal=True)
def meet_patches(typing: Any, whole: Any, like: Any, g: Any, x: Any, block: Any, count: Any, c: Any, c_i: Any) -> Any:
    """c[i, k] += sum over `count` patches of g[patch, i] x[k, patch], x being vectors of channels, `block` bytes from one k to the next.

    whole    a literal: 1 for all of `tile_of`, 0 for only one vector of channels
    c_i      bytes from one row of c to the next
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Vectors(builder, context.get_value_type(signature.args[1]))
        _, _, g, x, block, count, c, c_i = values
        rows, wide = tile_of(v.lanes)
        wide = wide if whole.literal_value else 1
        blocks = [builder.mul(block, INT(k)) for k in range(wide)]

        def patch(_: Any, g: Any, x: Any, *sums: Any) -> list[Any]:
            vectors = [v.load(builder.add(x, after)) for after in blocks]
            numbers = [v.broadcast(v.plus(g, i * v.size)) for i in range(rows)]
            pairs = [(number, vector) for number in numbers for vector in vectors]
            return [v.plus(g, v.bytes), v.plus(x, v.bytes), *[v.fused(*pair, old) for pair, old in zip(pairs, sums, strict=True)]]

        _, (_, _, *sums) = loop(builder, count, [g, x, *[v.zero] * (rows * wide)], patch)
        for number, value in enumerate(sums):
            i, k = divmod(number, wide)
            place = v.plus(builder.add(c, builder.mul(c_i, INT(i))), k * v.bytes)
            v.store(builder.fadd(v.load(place), value), place)
        return context.get_dummy_value()

    return types.void(whole, like, g, x, block, count, c, c_i), code


@unit
def add_products(like, g, x, block, count, filters, wide, c):
    """To the sums of one place, rows of `wide` vectors of channels, what `count` patches add."""
    lanes, row, k = VECTOR // size_of(like), wide * VECTOR, 0
    rows, vecs = tile(lanes)
    while k < wide:
        whole = k + vecs <= wide
        for o in range(0, filters, rows):
            here, there = g + o // lanes * block + o % lanes * size_of(like), c + o * row + k * VECTOR
            if whole:
                meet_patches(1, like, here, x + k * block, block, count, there, row)
            else:
                meet_patches(0, like, here, x + k * block, block, count, there, row)
        k += vecs if whole else 1


@small
def lay_band(like, x, n, first, t, rows, pitch, corner, flat):
    """Some rows of one picture, for each pixel a vector of channels, from the first one on; lanes without a channel repeat the last one."""
    some = min(VECTOR // size_of(like), x.shape[1] - first)
    about = x.strides[1], x.shape[2], x.shape[3], some, 1
    lay_vectors(like, channel_at(x, n, first), *about, 1, 1, t, 0, rows, pitch, *corner, flat)


@small
def finish(like, sums, w):
    """G' m G of all sums, to w."""
    size = size_of(like)
    filters, channels = w.shape[0], w.shape[1]
    lanes = VECTOR // size
    wide, kernel = -(-channels // lanes), np.zeros((9 + lanes) * lanes, w.dtype)
    for o in range(filters):
        for k in range(wide):
            collect_weights(like, address(sums) + (o * wide + k) * VECTOR, sums.strides[0], address(kernel))
            target = address(w) + (o * channels + k * lanes) * 9 * size
            scatter(like, address(kernel), 9, target, 9 * size, min(lanes, channels - k * lanes))


@compiled
def by_patches_to_w(x, gy, parts, corner, most, r0, r1, part):
    """What rows r0 ... r1 of patches, counted through all pictures, add to w: parts[part]. `most` rows are transformed at once."""
    like = x.dtype.type(0)
    size = size_of(like)
    lanes = VECTOR // size
    channels, filters, down, across = x.shape[1], gy.shape[1], (gy.shape[2] + 1) // 2, (gy.shape[3] + 1) // 2
    wide, high = -(-channels // lanes), -(-filters // lanes)
    block, pitch, row = most * across * VECTOR, (2 * across + 2) * VECTOR, 2 * across * VECTOR
    place = ((wide + high) * most * across | 1) * VECTOR  # from one place to the next: odd, as an area is
    patches = np.empty(PLACES * place // size, x.dtype)
    sums = np.zeros((PLACES, (high * lanes * wide | 1) * lanes), x.dtype)
    flat = np.empty((area(2 * min(most, down) + 2, 2 * across + 2) + 2 * lanes) * lanes, x.dtype)
    r = r0
    while r < r1:
        end, there = min(r1, r + most), address(patches)
        while r < end:
            n, t = r // down, r % down
            rows = min(end - r, down - t)
            for k in range(wide):
                lay_band(like, x, n, k * lanes, 2 * t, 2 * rows + 2, 2 * across + 2, corner, address(flat))
                for i in range(rows):
                    spread_patches(like, address(flat) + 2 * i * pitch, pitch, across, there + k * block + i * across * VECTOR, place)
            for o in range(high):
                lay_band(like, gy, n, o * lanes, 2 * t, 2 * rows, 2 * across, (0, 0), address(flat))
                for i in range(rows):
                    target = there + (wide + o) * block + i * across * VECTOR
                    spread_windows(like, address(flat) + 2 * i * row, row, across, target, place)
            there += rows * across * VECTOR
            r += rows
        count = (there - address(patches)) // VECTOR
        for i in range(PLACES):
            b, c = address(patches) + i * place, address(sums) + i * sums.strides[0]
            add_products(like, b + wide * block, b, block, count, filters, wide, c)
    finish(like, sums, parts[part])


def fits(w: Any, stride: Any, dilation: Any, groups: int) -> bool:
    """Is it a kernel of 3 by 3 over enough channels?"""
    return w.shape[2:] == (3, 3) and stride == dilation == (1, 1) and groups == 1 and min(w.shape[:2]) >= CHANNELS


def enough(x: Any) -> bool:
    """Are there pictures for half a vector at least?"""
    return 2 * len(x) >= VECTOR // x.itemsize


def at_once(filters: int, channels: int, rows: int, across: int, itemsize: int) -> int:
    """Of so many rows of patches, how many are transformed at once: what BLOCK holds, but no fewer numbers than there are sums, which are
    read and written for each band."""
    lanes = VECTOR // itemsize
    row = PLACES * (ceil(channels / lanes) + ceil(filters / lanes)) * across * VECTOR
    fitting = max(1, BLOCK // row, filters * channels // (filters + channels) // across)
    return ceil(rows / ceil(rows / fitting))


def run(x: Any, w: Any, y: Any, corner: Any, transposed: bool) -> None:
    rows, across, width = -(-y.shape[2] // 2), -(-y.shape[3] // 2), VECTOR // x.itemsize
    row = PLACES * x.shape[1] * across * VECTOR
    pieces = cut(len(x), (0, rows), row, 0, width, worth(2 * y.size * w[0].size))
    panels = weights(w, transposed)
    share(by_patches, [(x, panels, y, corner, *piece) for piece in pieces])


PATCHES = "kernels of 3 by 3 over many channels: 16 products a patch of 4 windows for 36, with rounding relative to the patch (reassoc)"


@rung("conv2d", "cpu", step=6, serves=True, idea=PATCHES)
@forward
def patches(x: Any, w: Any, y: Any, stride: Any, corner: Any, dilation: Any, groups: int) -> None:
    if y.size and enough(x) and fits(w, stride, dilation, groups):
        run(x, w, y, corner, False)
    else:
        implicit.__wrapped__(x, w, y, stride, corner, dilation, groups)


@rung("conv2d_input_grad", "cpu", step=6, serves=True, idea=PATCHES)
@input_grad
def patches_to_x(gx: Any, w: Any, gy: Any, stride: Any, corner: Any, dilation: Any, groups: int) -> None:
    if gx.size and gy.size and enough(gy) and max(corner) <= 2 and fits(w, stride, dilation, groups):
        run(gy, w, gx, (2 - corner[0], 2 - corner[1]), True)
    else:
        implicit_to_x.__wrapped__(gx, w, gy, stride, corner, dilation, groups)


@rung("conv2d_weight_grad", "cpu", step=6, serves=True, idea=PATCHES)
@weight_grad
def patches_to_w(x: Any, gw: Any, gy: Any, stride: Any, corner: Any, dilation: Any, groups: int) -> None:
    if x.size and gy[:, :1].size >= WINDOWS and fits(gw, stride, dilation, groups):
        across, rows = -(-gy.shape[3] // 2), len(gy) * -(-gy.shape[2] // 2)
        step = ceil(rows / max(1, min(PARTS, rows * across // DEEP)))
        firsts = range(0, rows, step)
        parts = np.empty((len(firsts), *gw.shape), gw.dtype)
        most = at_once(*gw.shape[:2], step, across, gw.itemsize)
        share(by_patches_to_w, [(x, gy, parts, corner, most, first, min(rows, first + step), i) for i, first in enumerate(firsts)])
        np.add.reduce(parts, axis=0, out=gw)
    else:
        implicit_to_w.__wrapped__(x, gw, gy, stride, corner, dilation, groups)
