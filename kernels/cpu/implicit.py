"""Convolution on the CPU, second part of the ladder: the product with the matrix of all windows, which is nowhere written down.

    y[o, window]  =  sum over (k, i, j)  w[o, kij]  *  x[kij, window]

The matrix on the right has a column for each window and a row for each position of the kernel; what stands there is an element of the
picture, at `starts[kij] + sources[window]`. The tiles of `indirect.py` read it where it lies. Two things remain to be arranged:

- **A window is a vector.** Where rows of windows are long, a vector is so many windows side by side. Where they are short it is one
  window of as many pictures: a bundle of pictures is transposed, in registers, into a layout with the pictures last. For fewer
  pictures than that a vector is windows side by side of those that there are; some lie astride two rows and mean nothing.
- **Padding and strides.** A band of rows is copied with its padding around it. A stride s deals the pixels out to s * s smaller
  pictures, as cards, which are then read with stride 1; of rows only those that the kernel reads are laid out. Where a window reads
  one column of them, its rows follow each other without a gap, and all windows of a picture are one row.

The gradient in x is the same product, with the weights that fall into each of the s * s dealt pictures, over the windows of gy that saw a
pixel. Where a window is one pixel, it is that with stride 1, and its numbers are set apart. The gradient in w multiplies vectors by
vectors, of which those of gy are read where they lie, and adds up their lanes at the end. Sums run over k, i, j in order (for the
gradient in x over o, i, j); products are fused with them.

Letters as in `conv.py`; t, u are row and column in a dealt picture, `many` the pictures in a vector, a `band` some rows of windows.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numba import njit

from kernels.cpu.cache import stamped
from kernels.cpu.conv import forward, input_grad, inside, weight_grad
from kernels.cpu.features import BITS, caches, tier
from kernels.cpu.indirect import MEET, PANEL, SPARE, SPREAD, clear, deal_out, lay_lines, meet, move, space_lines, spread
from kernels.cpu.threads import share, threads
from kernels.cpu.tile import gather as gather_numbers
from kernels.cpu.tile import transpose
from kernels.cpu.unit import counting, unit
from kernels.cpu.vector import address, allocate, put, release, size_of
from kernels.cpu.vector import clear as zeros
from kernels.registry import rung

VECTOR = BITS[tier()] // 8  # bytes
BLOCK = caches()[2] // 2  # bytes of a band of pictures: half of the second-level cache
WORTH_A_THREAD = 4_000_000  # flops in a piece, as in gemm
PARTS = 8  # at most, into which a weight gradient is cut, by sizes alone: each part has a sum of its own, and the bits depend on it
MANY = 4096  # windows of pictures that are laid out at once, one after the other: a tile's weights and a table are fetched once for all
AT_ONCE = 128  # windows over which a block of a weight gradient is summed: their rows stay near, and lanes are added up seldom

small = njit(nogil=True, inline="always")


def compiled(function: Any) -> Any:
    return stamped(njit(cache=True, nogil=True)(function))


# Bands of pictures, and back.


@unit
def gather(like, source, step, pixels, target, pictures):
    """Pixel after pixel a vector of pictures, which lie `step` bytes apart. Lanes without a picture repeat the last one."""
    size = size_of(like)
    lanes = VECTOR // size
    for x in range(0, pixels, lanes):
        transpose(like, source + x * size, step, pictures, min(lanes, pixels - x), target + x * VECTOR, VECTOR)


@unit
def scatter(like, source, pixels, target, step, pictures):
    """The reverse of `gather`."""
    size = size_of(like)
    lanes = VECTOR // size
    for x in range(0, pixels, lanes):
        deal_out(like, source + x * VECTOR, min(lanes, pixels - x), target + x * size, step, pictures)


@small
def area(rows, pitch):
    """What a dealt picture takes: an odd number of pixels, else the same pixel of all channels may fall into one set of a cache."""
    return rows * pitch | 1


@small
def room_for(count, x):
    """Room for so many numbers such as those of x. It begins at a multiple of a vector, so that none lies across two lines of a cache."""
    room = np.empty(count + VECTOR // x.itemsize, x.dtype)
    return room[-address(room) % VECTOR // x.itemsize :]


@small
def channel_at(x, n, channel):
    """Where a channel of a picture lies."""
    return address(x) + (n * x.shape[1] + channel) * x.shape[2] * x.shape[3] * size_of(x.dtype.type(0))


@unit
def lay_vectors(like, x, step, height, width, pictures, channels, deal_t, deal_u, first_t, first_u, rows, pitch, above, before, flat):
    """Some channels of a bundle into flat[k, a, b, t, u, picture], t from first_t and u from first_u on, `rows` and `pitch` of them.

    Dealt picture (a, b) has the pixels (t * deal_t + a, u * deal_u + b) of the picture with its padding, which is zeros.

    x               where the first channel of the first picture lies; others follow, pictures `step` bytes apart
    above, before   rows and columns of padding
    """
    size = size_of(like)
    top, bottom = max(0, first_t * deal_t - above), min(height, (first_t + rows) * deal_t - above)
    pixels = max(0, bottom - top) * width
    as_it_is = deal_t == 1 and deal_u == 1 and pixels == rows * width and first_u == before and pitch == width
    room = 0 if as_it_is else allocate((pixels + VECTOR // size + 1) * VECTOR)
    plane = (room + VECTOR - 1) // VECTOR * VECTOR
    to = flat
    for k in range(channels):
        gather(like, x + (k * height + top) * width * size, step, pixels, to if as_it_is else plane, pictures)
        if as_it_is:
            to += area(rows, pitch) * VECTOR
            continue
        for a in range(deal_t):
            for b in range(deal_u):
                across = first_u * deal_u + b - before
                u0, u1 = inside(width, pitch, deal_u, across)
                for r in range(rows):
                    row = (first_t + r) * deal_t + a - above
                    if row < 0 or row >= height:
                        clear(like, to, pitch)
                    else:
                        clear(like, to, u0)
                        pixel = plane + ((row - top) * width + u0 * deal_u + across) * VECTOR
                        move(like, pixel, deal_u * VECTOR, to + u0 * VECTOR, u1 - u0)
                        clear(like, to + u1 * VECTOR, pitch - u1)
                    to += pitch * VECTOR
                to += (area(rows, pitch) - rows * pitch) * VECTOR
    if room:
        release(room)


@unit
def lay_rows(
    like, x, step, height, width, pictures, many, channels, stride_t, stride_u, deal_t, deal_u, first_t, first_u, rows, pitch,
    above, before, flat,
):  # fmt: skip
    """The same, of the first `deal_t` by `deal_u` dealt pictures only, with rows of one picture, or of a few, whose pixels alternate: room
    for `many`. Where there is no pixel are zeros already."""
    size = size_of(like)
    to = flat
    for k in range(channels):
        for a in range(deal_t):
            down = first_t * stride_t + a - above
            r0, r1 = inside(height, rows, stride_t, down)
            for b in range(deal_u):
                across = first_u * stride_u + b - before
                u0, u1 = inside(width, pitch, stride_u, across)
                pixel = x + ((k * height + r0 * stride_t + down) * width + u0 * stride_u + across) * size
                down_x, there = stride_t * width * size, to + (r0 * pitch + u0) * many * size
                if many == 1:
                    high, wide = r1 - r0, u1 - u0
                    if wide == pitch and down_x == pitch * stride_u * size:  # no gap there, and one step from pixel to pixel here
                        high, wide = 1, high * wide
                    lay_lines(like, pixel, down_x, stride_u * size, there, pitch * size, high, wide)
                else:
                    steps = pitch * many * size, many * size
                    for m in range(pictures):
                        source, target = pixel + m * step, there + m * size
                        gather_numbers(like, source, (down_x, stride_u * size), target, steps, r1 - r0, u1 - u0)
                to += area(rows, pitch) * many * size


@unit
def pick_apart(like, source, pitch, many, pictures, rows, columns, target, step, down, across):
    """From rows of pictures whose pixels alternate to where each of the pictures lies, `step` bytes apart; `down` and `across` from pixel
    to pixel there."""
    size = size_of(like)
    for m in range(pictures):
        gather_numbers(like, source + m * size, (pitch * many * size, many * size), target + m * step, (down, across), rows, columns)


def far_of(kernel, dilation, stride):
    """How far the last position of the kernel reads behind the first, in rows and columns of dealt pictures."""
    return (kernel[0] - 1) * dilation[0] // stride[0], (kernel[1] - 1) * dilation[1] // stride[1]


reach = small(far_of)


@small
def dealt(kernel, dilation, stride, direct):
    """How many dealt pictures are laid out, down and across: those that the kernel reads, of rows; all, of bundles."""
    if direct:
        return min(stride[0], (kernel[0] - 1) * dilation[0] + 1), min(stride[1], (kernel[1] - 1) * dilation[1] + 1)
    return stride


# Tables.


@unit
def starts_in(like, table, channels, high, wide, stride_t, stride_u, dilation_t, dilation_u, deal_t, deal_u, rows, pitch, pixel):
    """Where the slice of each position of a kernel, `high` by `wide`, begins, in bytes; `pixel`: bytes from one pixel to the next."""
    at = start = 0
    for k in range(channels):
        for i in range(high):
            for j in range(wide):
                t, a = i * dilation_t // stride_t, i * dilation_t % stride_t
                u, b = j * dilation_u // stride_u, j * dilation_u % stride_u
                start = (((k * deal_t + a) * deal_u + b) * area(rows, pitch) + t * pitch + u) * pixel
                put(table, at, start)
                at += 1
    for i in range(at, at + SPARE):
        put(table, i, start)


@counting
def windows_at(like, sources, targets, pictures, rows, columns, source, picture, pitch, target, there, down, across, many, direct):
    """Fill in what is read and written for a grid of windows, from the pixels `source` and `target` on. Returns how many vectors they are.

    A vector is a window of many pictures; or, `direct`, windows side by side, of which the last ones of a row end where it ends, in picture
    after picture; or windows side by side of a few pictures, over the ends of rows. In a dealt picture and in the result rows are `pitch`
    and `down` apart, columns 1 and `across`, pictures `picture` and `there`.
    """
    size = size_of(like)
    lanes = VECTOR // size
    count = read = written = 0
    if many == lanes:
        for r in range(rows):
            for q in range(columns):
                read, written = (source + r * pitch + q) * VECTOR, (target + r * down + q * across) * VECTOR
                put(sources, count, read)
                put(targets, count, written)
                count += 1
    elif direct:
        for m in range(pictures):
            for r in range(rows):
                for q in range(0, columns, lanes):
                    at = min(q, columns - lanes)
                    read, written = (m * picture + source + r * pitch + at) * size, (m * there + target + r * down + at) * size
                    put(sources, count, read)
                    put(targets, count, written)
                    count += 1
    else:
        for t in range(0, ((rows - 1) * pitch + columns) * many, lanes):
            read = written = t * size
            put(sources, count, read)
            put(targets, count, written)
            count += 1
    for i in range(count, count + SPARE):
        put(sources, i, read)
        put(targets, i, written)
    return count


# The product.


def variant(function: Any, rows: int, columns: int) -> Any:
    """A unit under a name of its own: code from the caches of different processes is told apart by names alone."""
    function.__name__ = function.__qualname__ = f"{function.__name__}_{rows}_by_{columns}"
    return unit(function)


def strip(rows: int, vecs: int) -> Any:
    def strip_of_c(like, a, a_p, b, starts, k, sources, targets, count, c, c_i):
        spread(rows, vecs, like, a, a_p, b, starts, k, sources, targets, count, c, c_i)

    return variant(strip_of_c, rows, vecs)


def first_that_fits(options: Any, make: Any) -> Any:
    """A function that runs the first of the tiles with no more rows than there are, and returns its rows."""
    (rows, wide), rest = options[0], options[1:]
    run = make(rows, wide)
    if not rest:

        @small
        def last(left, job):
            run(*job)
            return rows

        return last
    others = first_that_fits(rest, make)

    @small
    def choose(left, job):
        if left >= rows:
            run(*job)
            return rows
        return others(left, job)

    return choose


strip_of = first_that_fits(SPREAD, strip)


@unit
def multiply(like, panels, rows, b, starts, k, sources, targets, count, c, c_i):
    """All rows of c, from weights that lie in panels of PANEL rows."""
    size = size_of(like)
    i = 0
    while i < rows:
        a = panels + (i // PANEL * k * PANEL + i % PANEL) * size
        left = min(rows - i, PANEL - i % PANEL)
        i += strip_of(left, (like, a, PANEL * size, b, starts, k, sources, targets, count, c + i * c_i, c_i))


@compiled
def weights_for_y(w, groups):
    """w as panels of PANEL filters, group after group: PANEL numbers for the first position of the kernel, then for the next."""
    like = w.dtype.type(0)
    size, filters, depth = size_of(like), len(w) // groups, w[0].size
    tall = -(-filters // PANEL) * PANEL
    panels = np.empty(groups * tall * depth, w.dtype)
    for g in range(groups):
        for o in range(0, filters, PANEL):
            source, target = address(w) + (g * filters + o) * depth * size, address(panels) + (g * tall + o) * depth * size
            gather_numbers(like, source, (size, depth * size), target, (PANEL * size, size), depth, min(PANEL, filters - o))
    return panels


@small
def in_a_vector(left, lanes):
    """How many pictures of those left go into a vector: all lanes, or the power of two that is enough."""
    many = 1
    while many < min(left, lanes):
        many *= 2
    return many


def rows_of(rows, columns, far):
    """Rows of windows and their length: where a window reads one column of a dealt picture, all its rows are one."""
    return (rows, columns) if far[1] else (1, rows * columns)


in_rows = small(rows_of)


@njit(nogil=True)
def bundle(left, picture, others, windows, direct, size):
    """Elements of a picture as it is laid out; how many pictures are laid out at once, of those left, if each goes with so many other
    elements; and room for a table of their windows."""
    lanes = VECTOR // size
    if not direct:
        return picture, in_a_vector(left, lanes), windows + SPARE
    pictures = max(1, min(left, BLOCK // ((picture + others) * size), MANY // windows))
    return picture, pictures, pictures * windows + SPARE


@unit
def lay(
    like, x, step, height, width, pictures, many, direct, channels, stride_t, stride_u, deal_t, deal_u, first_t, first_u, rows, pitch,
    above, before, flat,
):  # fmt: skip
    """A bundle, in the layout that fits it. In rows of windows side by side, `direct`, the padding is zeros already."""
    size = size_of(like)
    about = first_t, first_u, rows, pitch, above, before
    if not direct and many == VECTOR // size:
        lay_vectors(like, x, step, height, width, pictures, channels, deal_t, deal_u, *about, flat)
        return
    picture = channels * deal_t * deal_u * area(rows, pitch) * size
    if direct:
        for m in range(pictures):
            there = flat + m * picture
            lay_rows(like, x + m * step, step, height, width, 1, 1, channels, stride_t, stride_u, deal_t, deal_u, *about, there)
    else:
        zeros(flat, picture * many + 2 * VECTOR)  # a vector that begins in the last row ends behind it
        lay_rows(like, x, step, height, width, pictures, many, channels, stride_t, stride_u, deal_t, deal_u, *about, flat)


@compiled
def to_y(x, panels, y, kernel, stride, corner, dilation, groups, direct, n0, n1, p0, p1):
    """Rows p0 ... p1 of pictures n0 ... n1 of y."""
    like = x.dtype.type(0)
    size = size_of(like)
    lanes = VECTOR // size
    channels, filters, columns = x.shape[1] // groups, y.shape[1] // groups, y.shape[3]
    far = reach(kernel, dilation, stride)
    band, rows, pitch = p1 - p0, p1 - p0 + far[0], columns + far[1]
    depth, tall = channels * kernel[0] * kernel[1], -(-filters // PANEL) * PANEL
    height, width = in_rows(band, columns, far)
    direct = direct and width >= lanes
    deal = dealt(kernel, dilation, stride, direct)
    picture, most, room = bundle(n1 - n0, channels * deal[0] * deal[1] * area(rows, pitch), 0, band * pitch, direct, size)
    flat = room_for(picture * most + 2 * lanes * lanes, x)
    if direct:
        flat[:] = 0
    starts = np.empty(depth + SPARE, np.int64)
    sources, targets = np.empty(room, np.int64), np.empty(room, np.int64)
    c_i = 0 if direct else (band * pitch * most + lanes * lanes) * size
    c = room_for(PANEL * c_i // size, x)
    for n in range(n0, n1, most):
        pictures = min(most, n1 - n)
        many = 1 if direct else in_a_vector(pictures, lanes)
        starts_in(like, address(starts), channels, *kernel, *stride, *dilation, *deal, rows, pitch, many * size)
        grid = height, width, 0, picture, pitch, 0, y.strides[0] // size, columns, 1
        count = windows_at(like, address(sources), address(targets), pictures, *grid, many, direct)
        for g in range(groups):
            source, about = channel_at(x, n, g * channels), (x.strides[0], x.shape[2], x.shape[3], pictures, many, direct, channels)
            lay(like, source, *about, *stride, *deal, p0, 0, rows, pitch, *corner, address(flat))
            for o in range(0, filters, PANEL):
                block, a = min(PANEL, filters - o), address(panels) + (g * tall + o) * depth * size
                first = g * filters + o
                there = address(y) + (((n * y.shape[1] + first) * y.shape[2] + p0) * columns) * size
                to, to_i = (there, y.strides[1]) if direct else (address(c), c_i)
                multiply(like, a, block, address(flat), address(starts), depth, address(sources), address(targets), count, to, to_i)
                if direct:
                    continue
                for i in range(block):
                    if many == lanes:
                        scatter(like, address(c) + i * c_i, band * columns, there + i * y.strides[1], y.strides[0], pictures)
                    else:
                        grid = pitch, many, pictures, band, columns
                        pick_apart(like, address(c) + i * c_i, *grid, there + i * y.strides[1], y.strides[0], columns * size, size)


# The gradient in x.


@counting
def positions(like, kernel, dilation, stride, a, after, last):
    """How many positions of the kernel, along one axis, fall into the dealt pictures number `a`, behind row `after` and up to `last`."""
    count = 0
    for i in range(kernel):
        if i * dilation % stride == a and after < i * dilation // stride <= last:
            count += 1
    return count


@compiled
def weights_for_x(w, groups, stride, dilation):
    """w as panels of PANEL channels, group after group, dealt picture after dealt picture: the positions that fall into it."""
    like = w.dtype.type(0)
    size, filters, channels = size_of(like), len(w) // groups, w.shape[1]
    panels = np.empty(-(-channels // PANEL) * PANEL * w[:, 0].size, w.dtype)
    to = address(panels)
    for g in range(groups):
        for a in range(stride[0]):
            for b in range(stride[1]):
                for k in range(0, channels, PANEL):
                    for i in range(w.shape[2]):
                        for o in range(g * filters, (g + 1) * filters):
                            for j in range(w.shape[3]):
                                if i * dilation[0] % stride[0] == a and j * dilation[1] % stride[1] == b:
                                    source = address(w) + o * w.strides[0] + k * w.strides[1] + i * w.strides[2] + j * size
                                    gather_numbers(like, source, (0, w.strides[1]), to, (0, size), 1, min(PANEL, channels - k))
                                    to += PANEL * size
    return panels


@counting
def starts_out(like, filters, high, wide, stride_t, stride_u, dilation_t, dilation_u, a, b, rows, pitch, pixel, table):
    """Where the windows lie that saw the pixels of dealt picture (a, b), in a gy with the reach of the kernel as padding.

    Rows of the kernel come first, then filters, then columns. Returns how many they are for one row.
    """
    far_t, far_u = reach((high, wide), (dilation_t, dilation_u), (stride_t, stride_u))
    at = 0
    for i in range(high):
        for o in range(filters):
            for j in range(wide):
                if i * dilation_t % stride_t == a and j * dilation_u % stride_u == b:
                    t, u = far_t - i * dilation_t // stride_t, far_u - j * dilation_u // stride_u
                    put(table, at, (o * area(rows, pitch) + t * pitch + u) * pixel)
                    at += 1
    return at // max(1, positions(like, high, dilation_t, stride_t, a, -1, high * dilation_t))


@small
def seen_from(like, t, windows, kernel, dilation, stride, a):
    """The rows of the kernel (from, to), of those that fall into dealt pictures `a`, in which a window saw row t."""
    return positions(like, kernel, dilation, stride, a, -1, t - windows), positions(like, kernel, dilation, stride, a, -1, t)


@compiled
def to_x(gy, panels, gx, kernel, stride, corner, dilation, groups, direct, n0, n1, t0, t1):
    """Rows t0 ... t1 of the dealt pictures, of pictures n0 ... n1 of gx."""
    like = gy.dtype.type(0)
    size = size_of(like)
    lanes = VECTOR // size
    channels, filters = gx.shape[1] // groups, gy.shape[1] // groups
    windows, height, width = gy.shape[2], gx.shape[2], gx.shape[3]
    far = reach(kernel, dilation, stride)
    u0, u1 = corner[1] // stride[1], (width - 1 + corner[1]) // stride[1] + 1
    band, rows, pitch = t1 - t0, t1 - t0 + far[0], u1 - u0 + far[1]
    top, bottom = max(0, t0 * stride[0] - corner[0]), min(height, t1 * stride[0] - corner[0])
    direct = direct and in_rows(band, u1 - u0, far)[1] >= lanes
    tall = -(-channels // PANEL) * PANEL
    picture, most, room = bundle(n1 - n0, filters * area(rows, pitch), 0, band * pitch, direct, size)
    flat = room_for(picture * most + 2 * lanes * lanes, gy)
    if direct:
        flat[:] = 0
    starts = np.empty(filters * kernel[0] * kernel[1], np.int64)
    sources, targets = np.empty(room, np.int64), np.empty(room, np.int64)
    c_i = 0 if direct else (max(band * pitch, (bottom - top) * width) * most + lanes * lanes) * size
    c = room_for(PANEL * c_i // size, gy)
    for n in range(n0, n1, most):
        pictures = min(most, n1 - n)
        many = 1 if direct else in_a_vector(pictures, lanes)
        weights = address(panels)
        for g in range(groups):
            source, about = channel_at(gy, n, g * filters), (gy.strides[0], windows, gy.shape[3], pictures, many, direct, filters)
            lay(like, source, *about, 1, 1, 1, 1, t0 - far[0], u0 - far[1], rows, pitch, 0, 0, address(flat))
            for k in range(0, channels, PANEL):
                block, first, before = min(PANEL, channels - k), g * channels + k, 0
                there = address(gx) + (((n * gx.shape[1] + first) * height + top) * width) * size
                for a in range(stride[0]):
                    ta, tb = inside(height, t1, stride[0], a - corner[0])
                    ta = max(t0, ta)
                    for b in range(stride[1]):
                        ua, ub = inside(width, u1, stride[1], b - corner[1])
                        ua = max(u0, ua)
                        row = starts_out(like, filters, *kernel, *stride, *dilation, a, b, rows, pitch, many * size, address(starts))
                        deep = positions(like, kernel[0], dilation[0], stride[0], a, -1, far[0])
                        part = weights + (before + k * deep * row) * size
                        before += tall * deep * row
                        if ub <= ua:
                            continue
                        whole = many == lanes or direct
                        t = ta
                        while t < tb:
                            i0, i1, end = 0, deep, tb
                            if whole:  # rows that as many rows of the kernel see: a few at the top and at the bottom are seen by fewer
                                i0, i1 = seen_from(like, t, windows, kernel[0], dilation[0], stride[0], a)
                                end = t + 1
                                while end < tb and seen_from(like, end, windows, kernel[0], dilation[0], stride[0], a) == (i0, i1):
                                    end += 1
                            source = (t - t0) * pitch + ua - u0 if whole else 0
                            target = (t * stride[0] + a - corner[0] - top) * width + ua * stride[1] + b - corner[1]
                            wide = in_rows(end - t, ub - ua, far) if direct else (end - t, ub - ua) if whole else (band, u1 - u0)
                            count = windows_at(
                                like, address(sources), address(targets), pictures, *wide, source, picture, pitch, target,
                                gx.strides[0] // size, stride[0] * width, stride[1], many, direct,
                            )  # fmt: skip
                            to, to_i = (there, gx.strides[1]) if direct else (address(c), c_i)
                            first_start, depth = address(starts) + i0 * row * 8, (i1 - i0) * row
                            weight = part + i0 * row * PANEL * size
                            multiply(
                                like, weight, block, address(flat), first_start, depth, address(sources), address(targets), count, to, to_i
                            )
                            t = end
                        if whole:
                            continue
                        for i in range(block):
                            source = address(c) + i * c_i + ((ta - t0) * pitch + ua - u0) * many * size
                            y, x = ta * stride[0] + a - corner[0] - top, ua * stride[1] + b - corner[1]
                            target = there + i * gx.strides[1] + (y * width + x) * size
                            down, across = stride[0] * width * size, stride[1] * size
                            pick_apart(like, source, pitch, many, pictures, tb - ta, ub - ua, target, gx.strides[0], down, across)
                if many == lanes and not direct:
                    for i in range(block):
                        scatter(like, address(c) + i * c_i, (bottom - top) * width, there + i * gx.strides[1], gx.strides[0], pictures)
            weights += tall * filters * kernel[0] * kernel[1] * size


@compiled
def set_apart(pixels, gx, stride, n0, n1):
    """Of pictures n0 ... n1 those pixels that windows of one pixel read to their places in gx, `stride` apart, with zeros between them."""
    like = gx.dtype.type(0)
    size = size_of(like)
    _, r1 = inside(gx.shape[2], pixels.shape[2], stride[0], 0)
    _, c1 = inside(gx.shape[3], pixels.shape[3], stride[1], 0)
    steps = stride[0] * gx.strides[2], stride[1] * size
    for n in range(n0, n1):
        for k in range(gx.shape[1]):
            zeros(channel_at(gx, n, k), gx.strides[1])  # while it is near
            space_lines(like, channel_at(pixels, n, k), pixels.strides[2], channel_at(gx, n, k), *steps, r1, c1)


# The gradient in w.


@unit
def lay_windows(like, gy, step, columns, pictures, many, band, pitch, to):
    """A filter's gradients, in rows from gy on, as vectors of pictures, as `windows_at` counts them. A lane that means nothing is 0."""
    size = size_of(like)
    lanes = VECTOR // size
    if many == lanes:
        gather(like, gy, step, band * columns, to, pictures)
        if pictures < lanes:
            for i in range(band * columns):
                zeros(to + i * VECTOR + pictures * size, (lanes - pictures) * size)
    else:
        zeros(to, (((band - 1) * pitch + columns) * many + lanes) * size)
        for m in range(pictures):
            steps = pitch * many * size, many * size
            gather_numbers(like, gy + m * step, (columns * size, size), to + m * size, steps, band, columns)


def block(rows: int, columns: int) -> Any:
    def block_of_w(like, g, g_i, b, starts, depth, sources, places, count, skipped, c, c_i):
        for p in range(0, depth, columns):
            meet(rows, columns, like, g, g_i, b, starts + p * 8, sources, places, count, skipped, c + p * size_of(like), c_i)

    return variant(block_of_w, rows, columns)


block_of = first_that_fits(MEET, block)


@compiled
def to_w(x, parts, gy, kernel, stride, corner, dilation, groups, direct, n0, n1, p0, p1, part):
    """What rows p0 ... p1 of pictures n0 ... n1 of gy add to w, into parts[part], whose rows have room for a whole tile."""
    like = x.dtype.type(0)
    size = size_of(like)
    lanes = VECTOR // size
    sums = parts[part]
    channels, filters, columns = x.shape[1] // groups, gy.shape[1] // groups, gy.shape[3]
    far = reach(kernel, dilation, stride)
    band, rows, pitch = p1 - p0, p1 - p0 + far[0], columns + far[1]
    depth = channels * kernel[0] * kernel[1]
    height, width = in_rows(band, columns, far)
    direct = direct and width >= lanes
    deal = dealt(kernel, dilation, stride, direct)
    laid, others = channels * deal[0] * deal[1] * area(rows, pitch), filters * band * columns
    picture, most, room = bundle(n1 - n0, laid, others, band * pitch, direct, size)
    flat = room_for(picture * most + 2 * lanes * lanes, x)
    if direct:
        flat[:] = 0
    starts = np.empty(depth + SPARE, np.int64)
    sources, places = np.empty(room, np.int64), np.empty(room, np.int64)
    g = room_for(0 if direct else filters * (room + lanes) * lanes, x)
    left = width % lanes if direct else 0  # the last vector of a row shares lanes with the one before
    for n in range(n0, n1, most):
        pictures = min(most, n1 - n)
        many = 1 if direct else in_a_vector(pictures, lanes)
        starts_in(like, address(starts), channels, *kernel, *stride, *dilation, *deal, rows, pitch, many * size)
        here, there, about = address(sources), address(places), (gy.strides[0] // size, columns, 1, many, direct)
        count = whole = windows_at(like, here, there, pictures, height, width - left, 0, picture, pitch, 0, *about)
        if left:
            last = width - lanes
            count += windows_at(like, here + whole * 8, there + whole * 8, pictures, height, lanes, last, picture, pitch, last, *about)
        for group in range(groups):
            source, about = channel_at(x, n, group * channels), (x.strides[0], x.shape[2], x.shape[3], pictures, many, direct, channels)
            lay(like, source, *about, *stride, *deal, p0, 0, rows, pitch, *corner, address(flat))
            first, g_i = channel_at(gy, n, group * filters) + p0 * columns * size, gy.strides[1]
            if not direct:
                source, first, g_i = first, address(g), (count + lanes) * VECTOR
                for o in range(filters):
                    lay_windows(like, source + o * gy.strides[1], gy.strides[0], columns, pictures, many, band, pitch, first + o * g_i)
            w = 0
            while w < count:
                end, skipped = (whole, 0) if w < whole else (count, lanes - left)
                some, o = min(AT_ONCE, end - w), 0
                while o < filters:
                    to = address(sums) + (group * filters + o) * sums.strides[0]
                    job = (like, first + o * g_i, g_i, address(flat), address(starts), depth, here + w * 8, there + w * 8)
                    o += block_of(filters - o, (*job, some, skipped, to, sums.strides[0]))
                w += some


# Pieces.


def side_by_side(examples: int, columns: int, depth: int, itemsize: int) -> bool:
    """Are vectors windows of one row, rather than of several pictures? Then nothing is transposed, which costs about as much as 16 products
    with a vector; but what the last vector of a row holds twice is computed twice."""
    lanes = VECTOR // itemsize
    if columns < lanes:
        return False
    twice = -columns % lanes / columns
    return examples < lanes or depth * twice < 16


def cut(
    examples: int, rows: tuple[int, int], row_bytes: int, halo: int, bundle: int, wanted: int, room: int = BLOCK
) -> list[tuple[int, int, int, int]]:
    """Ranges of pictures and of rows, about as many as are wanted.

    row_bytes   what one row of the result has to read in a bundle; `halo` rows more are read by each band
    bundle      pictures that go into a vector
    room        bytes of what a band reads
    """
    bundles, (first, last) = ceil(examples / bundle), rows
    across = ceil(bundles / ceil(bundles / wanted))
    fitting = max(1, room // max(1, row_bytes) - halo)
    bands = max(1, ceil((last - first) / fitting), min(ceil(wanted / across), (last - first) // (2 * halo + 2)))
    step, height = ceil(bundles / across) * bundle, ceil((last - first) / bands)
    return [(n, min(examples, n + step), p, min(last, p + height)) for n in range(0, examples, step) for p in range(first, last, height)]


def worth(flops: int) -> int:
    """Pieces for the threads that there are: where a result does not depend on the cut."""
    return max(1, min(threads(), flops // WORTH_A_THREAD))


IMPLICIT = "a tile in registers finds what it multiplies by tables of places; short rows: vectors of pictures, transposed in registers"


@rung("conv2d", "cpu", step=5, idea=IMPLICIT)
@forward
def implicit(x: Any, w: Any, y: Any, stride: Any, corner: Any, dilation: Any, groups: int) -> None:
    if not y.size:
        return
    kernel, depth = w.shape[2:], w[0].size
    far = far_of(kernel, dilation, stride)
    direct = side_by_side(len(x), rows_of(*y.shape[2:], far)[1], depth, x.itemsize)
    width = 1 if direct else VECTOR // x.itemsize
    row = x.shape[1] // groups * stride[0] * stride[1] * (y.shape[3] + far[1]) * min(width, len(x)) * x.itemsize
    pieces = cut(len(x), (0, y.shape[2]), row, far[0], width, worth(2 * y.size * depth))
    panels = weights_for_y(w, groups)
    share(to_y, [(x, panels, y, kernel, stride, corner, dilation, groups, direct, *piece) for piece in pieces])


@rung("conv2d_input_grad", "cpu", step=5, idea=IMPLICIT)
@input_grad
def implicit_to_x(gx: Any, w: Any, gy: Any, stride: Any, corner: Any, dilation: Any, groups: int) -> None:
    if not gx.size:
        return
    kernel, depth = w.shape[2:], w[:, 0].size // groups
    one_pixel = kernel == (1, 1) and corner == (0, 0)  # is all that a window reads
    if one_pixel and stride != (1, 1) and gy.size:
        pixels = np.empty((*gx.shape[:2], *gy.shape[2:]), gx.dtype)
        implicit_to_x.__wrapped__(pixels, w, gy, (1, 1), corner, dilation, groups)
        share(set_apart, [(pixels, gx, stride, *piece[:2]) for piece in cut(len(gx), (0, 1), 0, 0, 1, worth(gx.size))])
        return
    far = far_of(kernel, dilation, stride)
    line = rows_of(*gx.shape[2:], far)[1] if one_pixel else gx.shape[3]
    direct = stride == (1, 1) and side_by_side(len(gx), line, depth, gx.itemsize)
    width = 1 if direct else VECTOR // gx.itemsize
    row = gy.shape[1] // groups * (gx.shape[3] // stride[1] + 1 + far[1]) * min(width, len(gx)) * gx.itemsize
    band = corner[0] // stride[0], (gx.shape[2] - 1 + corner[0]) // stride[0] + 1
    pieces = cut(len(gx), band, row, far[0], width, worth(2 * gy.size * w[0].size))
    panels = weights_for_x(w, groups, stride, dilation)
    share(to_x, [(gy, panels, gx, kernel, stride, corner, dilation, groups, direct, *piece) for piece in pieces])


@rung("conv2d_weight_grad", "cpu", step=5, idea=IMPLICIT + "; the sums along lanes are reassociated")
@weight_grad
def implicit_to_w(x: Any, gw: Any, gy: Any, stride: Any, corner: Any, dilation: Any, groups: int) -> None:
    kernel, depth = gw.shape[2:], gw[:1].size
    if not x.size or not gy.size or not gw.size:
        gw[...] = 0
        return
    far = far_of(kernel, dilation, stride)
    direct = side_by_side(len(x), rows_of(*gy.shape[2:], far)[1], depth, x.itemsize)
    width = 1 if direct else VECTOR // x.itemsize
    row = x.shape[1] // groups * stride[0] * stride[1] * (gy.shape[3] + far[1]) + len(gw) // groups * gy.shape[3]
    row *= min(width, len(x)) * x.itemsize
    wanted = max(1, min(PARTS, 2 * gy.size * depth // WORTH_A_THREAD))
    pieces = cut(len(x), (0, gy.shape[2]), row, far[0], width, wanted, 2 * BLOCK)  # few windows: much adding up of lanes
    parts = np.zeros((len(pieces), len(gw), depth + SPARE), gw.dtype)
    share(to_w, [(x, parts, gy, kernel, stride, corner, dilation, groups, direct, *piece, i) for i, piece in enumerate(pieces)])
    np.add.reduce(parts[:, :, :depth].reshape(len(pieces), *gw.shape), axis=0, out=gw)
