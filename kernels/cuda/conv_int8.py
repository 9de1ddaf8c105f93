"""Convolution of small whole numbers on a GPU, one idea at a time. Exact: every rung gives the same bits.

    y[n, o, p, q]  =  sum over k, i, j of (x[n, k, p s + i d - top, q s + j d - left] - z)  w[o, k, i, j]

    x (n, c, h, w) uint8 or int8   w (o, c / groups, i, j) int8   y (n, o, p, q) int32     any strides; z stands for 0 in x

From the second rung on, four channels of a pixel are one word of 32 bits, and so are four of a weight: `dp4a` adds four products to a sum
at once. Where a group has no multiple of four channels, zeros fill the last word of a weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from kernels.cuda.conv import (
    FEW,
    THREADS,
    Geometry,
    Run,
    forward,
    implicit_by,
    multiply,
    numbers,
    places_of_windows,
    product_of_windows,
)  # fmt: skip
from kernels.cuda.intrinsics import dp4a
from kernels.cuda.launch import empty, launch
from kernels.cuda.matmul import tiles_by
from kernels.registry import rung
from kernels.windows import fits

u, i32 = np.uint32, np.int32
EXACT = {"uint8 int8": 0.0, "int8 int8": 0.0}
ONES = 0x01010101  # a word of four ones


def fits_int8(x: Any, w: Any, *, zero_point: int = 0, **geometry: Any) -> None:
    """Raises ValueError."""
    fits(x, w, **geometry)
    about = np.iinfo(x.dtype)
    if not about.min <= zero_point <= about.max:
        raise ValueError(f"zero_point is {zero_point}, which {x.dtype} does not hold ({about.min} to {about.max})")


def window_of_bytes(x, w, y, g, zero_point):
    at = cuda.grid(1)
    if at < y.size:
        n, o, p, q = at // (g.O * g.P * g.Q), at // (g.P * g.Q) % g.O, at // g.Q % g.P, at % g.Q
        first = o // (g.O // g.groups) * g.K
        total = i32(0)
        for k in range(g.K):
            for i in range(g.I):
                for j in range(g.J):
                    r, s = p * g.down + i * g.di - g.top, q * g.across + j * g.dj - g.left
                    if 0 <= r < g.H and 0 <= s < g.W:
                        total += (i32(x[n, first + k, r, s]) - zero_point) * i32(w[o, k, i, j])
        y[n, o, p, q] = total


def bytes_run(zero_point: int) -> Run:
    def run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
        blocks = (-(-y.size // THREADS),)
        launch(window_of_bytes, blocks, (THREADS,), x, w, y, numbers(g, np.int64), i32(zero_point), writes=[y])

    return run


@rung(
    "conv2d_int8", "cuda", step=1, wants="n c h w, o k i j", check=fits_int8, rtol=EXACT,
    idea="the definition: one sum a thread, and a test at each product whether the window lies inside the picture",
)  # fmt: skip
def windows_of_bytes(
    x: Any, w: Any, *, zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: a request of x is of 32 bytes, a sector or two; each product is converted, and indices have 64 bits, as in conv2d."""
    return forward(bytes_run(zero_point), x, w, out, stride, padding, dilation, groups, dtype=np.int32)


# The second rung: words of four channels. They are made first: of pictures, and behind them a word that stands for 0; of weights, and
# behind them a sum for each filter, -z times its weights, for  (x - z) w  is  x w - z w.


def pack(narrow, words, channels, plane, deep, size, last):
    """A thread for each of `size` words: `channels` planes of bytes to `deep` planes of words; and a word behind all, if there is room."""
    at = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
    if at < size:
        place, k, z = at % plane, u(u(at // plane) % deep * u(4)), u(at // u(plane * deep))
        word = u(0)
        for e in range(4):
            if u(k + u(e)) < channels:
                word |= u(u(u(narrow[u((z * channels + k + u(e)) * plane + place)]) & u(255)) << u(8 * e))
        words[at] = word
    elif at == size and size < u(words.size):
        words[at] = last


def sum_up(words, filters, size, zero_point):
    """A thread for each filter of so many words: what its sums start from."""
    o = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
    if o < filters:
        total, at, end = i32(0), u(o * size), u((o + u(1)) * size)
        while at < end:
            total = dp4a(total, words[at], i32(ONES))
            at = u(at + u(1))
        words[u(filters * size + o)] = i32(-i32(zero_point * total))


def packed(x: np.ndarray, w: np.ndarray, g: Geometry, zero_point: int) -> tuple[Any, Any, Geometry]:
    """The words of x and of w, flat, and the geometry of both in words."""
    of_words = g._replace(C=g.groups * -(-g.K // 4), K=-(-g.K // 4))
    pictures = empty(g.N * of_words.C * g.H * g.W + 1, np.uint32 if x.dtype == np.uint8 else np.int32)
    weights = empty(g.O * of_words.K * g.I * g.J + g.O, np.int32)
    for narrow, words, plane, size in ((x, pictures, g.H * g.W, pictures.size - 1), (w, weights, g.I * g.J, weights.size - g.O)):
        told = numbers((g.K, plane, of_words.K, size, zero_point % 256 * ONES))
        launch(pack, (size // THREADS + 1,), (THREADS,), narrow.reshape(-1), words, *told, writes=[words])
    told = numbers((g.O, of_words.K * g.I * g.J))
    launch(sum_up, (-(-g.O // THREADS),), (THREADS,), weights, *told, i32(zero_point), writes=[weights])
    return pictures, weights, of_words


def window_of_words(x, w, y, g):
    at = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
    if at < y.size:
        q, p, o, n = at % g.Q, u(at // g.Q) % g.P, u(at // u(g.P * g.Q)) % g.O, u(at // u(g.O * g.P * g.Q))
        from_x, at_w, outside = u((n * g.C + o // u(g.O // g.groups) * g.K) * g.H * g.W), u(o * g.K * g.I * g.J), u(x.size - 1)
        total = w[u(g.O * g.K * g.I * g.J + o)]
        k = u(0)
        while k < g.K:
            r, i = u(p * g.down - g.top), u(0)
            while i < g.I:
                s, j = u(q * g.across - g.left), u(0)
                while j < g.J:
                    there = u(from_x + r * g.W + s) if (r < g.H) & (s < g.W) else outside
                    total = dp4a(total, x[there], w[at_w])
                    s, j, at_w = u(s + g.dj), u(j + u(1)), u(at_w + u(1))
                r, i = u(r + g.di), u(i + u(1))
            from_x, k = u(from_x + g.H * g.W), u(k + u(1))
        y[at] = total


def words_run(zero_point: int) -> Run:
    def run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
        pictures, weights, g = packed(x, w, g, zero_point)
        flat = y.reshape(-1)
        launch(window_of_words, (-(-y.size // THREADS),), (THREADS,), pictures, weights, flat, numbers(g), writes=[flat])

    return run


@rung(
    "conv2d_int8", "cuda", step=2, rtol=EXACT,
    idea="four channels of a pixel in one word, packed before: dp4a adds four products at once, and indices are uint32",
)  # fmt: skip
def windows_of_words(
    x: Any, w: Any, *, zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: a quarter of the loads, four sectors a request; outside of the picture a word of zero points is read, so no lane parts."""
    return forward(words_run(zero_point), x, w, out, stride, padding, dilation, groups, dtype=np.int32)


implicit_words = implicit_by(tiles_by(dp4a), shifted=True)


def implicit_words_run(zero_point: int) -> Run:
    def run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
        pictures, weights, g = packed(x, w, g, zero_point)
        product = product_of_windows(g)._replace(first_sum=weights.size - g.O)
        multiply(implicit_words, weights, pictures, y.reshape(-1), places_of_windows(g), product)

    return run


@rung(
    "conv2d_int8", "cuda", step=3, rtol=EXACT,
    idea="the tiles of conv2d's implicit product, of words: 8 by 8 sums a thread, a table finds the words of the picture",
)  # fmt: skip
def implicit_bytes(
    x: Any, w: Any, *, zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: what conv2d's costs a product costs four here: a quarter of the depth, the same loop with dp4a."""
    return forward(implicit_words_run(zero_point), x, w, out, stride, padding, dilation, groups, dtype=np.int32)


def by_size_run(zero_point: int) -> Run:
    few, many = words_run(zero_point), implicit_words_run(zero_point)
    return lambda x, w, y, g: (few if g.filters <= FEW else many)(x, w, y, g)


@rung(
    "conv2d_int8", "cuda", step=4, serves=True, rtol=EXACT,
    idea="few filters a group would fill a sixteenth of a tile: they go by one sum a thread",
)  # fmt: skip
def bytes_by_size(
    x: Any, w: Any, *, zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: of one filter a group, a tenth of the instructions."""
    return forward(by_size_run(zero_point), x, w, out, stride, padding, dilation, groups, dtype=np.int32)
