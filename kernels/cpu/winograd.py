r"""Convolution on the CPU, third part of the ladder: kernels of 3 by 3 with 16 products for 4 windows in place of 36.

    y = A' [ (G w G') * (B' x B) ] A      for each patch of 4 by 4 pixels, whose 2 by 2 windows it computes

G w G' is made once a call, B' x B once a patch and channel: sums and differences only. Over the channels the products are 16 matrix products,
one for each place in a patch, and run in the tiles of `indirect.py`, a vector being one patch of as many pictures.

The price is rounding. Sums and differences of a patch meet before they are multiplied, and what cancels leaves its error behind: an error is
a few units in the last place of the largest pixel of the patch times the largest weight, summed over channels, where the definition's is
relative to the products of the window itself. Nothing is lost on pictures and weights of one scale, which is what the bound is for; a window of
small pixels beside a pixel a thousand times larger loses three digits, and an infinity or nan reaches the windows of its whole patch.

Source: Lavin & Gray (2016), Fast algorithms for convolutional neural networks, sec. 4.1, after Winograd (1980).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from kernels.cpu.conv import forward, input_grad
from kernels.cpu.features import BITS, caches, tier
from kernels.cpu.implicit import compiled, cut, implicit, implicit_to_x, lay_vectors, multiply, scatter, worth
from kernels.cpu.indirect import PANEL, SPARE
from kernels.cpu.threads import share
from kernels.cpu.vector import INT, Vectors, address, loop, size_of
from kernels.registry import rung

VECTOR = BITS[tier()] // 8
PLACES = 16  # in a patch
CHANNELS = 16  # and filters, from which on the products that are saved are more than the sums that are added
BLOCK = caches()[2] // 2  # bytes of a band of patches: half of the second-level cache


@intrinsic
def spread_patches(typing: Any, like: Any, source: Any, pitch: Any, count: Any, target: Any, step: Any) -> Any:
    """B' x B of patches side by side, two vectors apart; place i of them to `target` + i `step`, in line. Rows of pixels are `pitch` apart."""

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


@compiled
def weights(w, transposed):
    """G w G', place after place, as panels of PANEL rows; `transposed`: of the gradient in x, w turned about and channels for filters."""
    rows, depth = (w.shape[1], w.shape[0]) if transposed else (w.shape[0], w.shape[1])
    tall = -(-rows // PANEL) * PANEL
    half = w.dtype.type(0.5)
    panels = np.zeros((PLACES, tall * depth), w.dtype)
    g = np.empty((4, 3), w.dtype)
    for i in range(rows):
        for k in range(depth):
            x = w[k, i, ::-1, ::-1] if transposed else w[i, k]
            for c in range(3):
                plus = half * (x[0, c] + x[2, c])
                g[0, c], g[1, c], g[2, c], g[3, c] = x[0, c], plus + half * x[1, c], plus - half * x[1, c], x[2, c]
            at = i // PANEL * depth * PANEL + k * PANEL + i % PANEL
            for r in range(4):
                plus = half * (g[r, 0] + g[r, 2])
                panels[4 * r, at], panels[4 * r + 3, at] = g[r, 0], g[r, 2]
                panels[4 * r + 1, at], panels[4 * r + 2, at] = plus + half * g[r, 1], plus - half * g[r, 1]
    return panels


@compiled
def by_patches(x, panels, y, corner, n0, n1, t0, t1):
    """Rows t0 ... t1 of patches, of pictures n0 ... n1, into y."""
    like = x.dtype.type(0)
    size = size_of(like)
    lanes = VECTOR // size
    channels, filters, windows, columns = x.shape[1], y.shape[1], y.shape[2], y.shape[3]
    across = (columns + 1) // 2
    count, pitch, rows = (t1 - t0) * across, 2 * across + 2, 2 * (t1 - t0) + 2
    flat = np.empty(channels * rows * pitch * lanes + 2 * lanes * lanes, x.dtype)
    patches = np.empty(PLACES * channels * count * lanes, x.dtype)
    products = np.empty(PLACES * PANEL * count * lanes, x.dtype)
    wide = 2 * across * VECTOR
    plane = np.empty((2 * (t1 - t0) * 2 * across + lanes) * lanes, x.dtype)
    starts, places = np.arange(channels) * (count * VECTOR), np.arange(count + SPARE) * VECTOR
    places[count:] = places[count - 1]
    p0, p1 = 2 * t0, min(windows, 2 * t1)
    for n in range(n0, n1, lanes):
        pictures = min(lanes, n1 - n)
        lay_vectors(x, n, pictures, 0, channels, (1, 1), (p0, 0), rows, pitch, corner, flat)
        for k in range(channels):
            for t in range(t1 - t0):
                source = address(flat) + (k * rows + 2 * t) * pitch * VECTOR
                target = address(patches) + (k * count + t * across) * VECTOR
                spread_patches(like, source, pitch * VECTOR, across, target, channels * count * VECTOR)
        for o in range(0, filters, PANEL):
            block = min(PANEL, filters - o)
            for i in range(PLACES):
                a, b = address(panels) + i * panels.strides[0] + o * channels * size, address(patches) + i * channels * count * VECTOR
                c = address(products) + i * PANEL * count * VECTOR
                multiply(like, a, block, b, address(starts), channels, address(places), address(places), count, c, count * VECTOR)
            for r in range(block):
                for t in range(t1 - t0):
                    source = address(products) + (r * count + t * across) * VECTOR
                    collect_patches(like, source, PANEL * count * VECTOR, across, address(plane) + 2 * t * wide, wide)
                there = address(y) + (((n * filters + o + r) * windows + p0) * columns) * size
                if 2 * across == columns:
                    scatter(like, address(plane), (p1 - p0) * columns, there, y.strides[0], pictures)
                else:
                    for p in range(p1 - p0):
                        scatter(like, address(plane) + p * wide, columns, there + p * columns * size, y.strides[0], pictures)


def fits(w: Any, examples: int, stride: Any, dilation: Any, groups: int) -> bool:
    """Is it a kernel of 3 by 3 over enough channels, of enough pictures?"""
    deep = min(w.shape[:2]) >= CHANNELS and 2 * examples >= VECTOR // w.itemsize
    return w.shape[2:] == (3, 3) and stride == dilation == (1, 1) and groups == 1 and deep


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
    if y.size and fits(w, len(x), stride, dilation, groups):
        run(x, w, y, corner, False)
    else:
        implicit.__wrapped__(x, w, y, stride, corner, dilation, groups)


@rung("conv2d_input_grad", "cpu", step=6, serves=True, idea=PATCHES)
@input_grad
def patches_to_x(gx: Any, w: Any, gy: Any, stride: Any, corner: Any, dilation: Any, groups: int) -> None:
    if gx.size and gy.size and fits(w, len(gx), stride, dilation, groups) and max(corner) <= 2:
        run(gy, w, gx, (2 - corner[0], 2 - corner[1]), True)
    else:
        implicit_to_x.__wrapped__(gx, w, gy, stride, corner, dilation, groups)
