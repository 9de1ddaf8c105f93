"""C = A B on a GPU, one idea at a time.

    a (..., m, k)   b (..., k, n)   c (..., m, n)     float32 or float64, any strides; leading axes broadcast

Each rung takes every size, 0 and ragged ones included, and differs from the one above it by its idea and by nothing else. The order of
the ideas is that of Boehm (2022), How to optimize a CUDA matmul kernel; docstrings say what was predicted, the table in README.md what
the emulator then counted. Each sum runs over p = 0, 1, 2, ... in this order, with products fused into sums, on every rung: the bits of
all rungs are the same.

A kernel is the function of a thread. From the third on, arrays are flat and indices are uint32: `u` stands around each sum of indices, for
Numba makes them 64 bits wide again. `z` is the matrix of a stack, (i, j) an element of c, p what is summed over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from kernels.cuda.arrays import multiply
from kernels.cuda.intrinsics import address, copy1, copy4, load4, load4_shared, store4, wait_for_copies
from kernels.registry import rung

u = np.uint32


@cuda.jit(device=True, inline="always")
def fused(total, x, y):
    return total + x * y


SQUARE, OF_SQUARE = 32, (32, 32)  # a tile in shared memory: a row of it is what a warp reads at once


def row_a_lane(a, b, c):
    i, j, z = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y, cuda.blockIdx.z
    if i < c.shape[1] and j < c.shape[2]:
        total = c.dtype.type(0)
        s, t = z if len(a) > 1 else 0, z if len(b) > 1 else 0
        for p in range(a.shape[2]):
            total += a[s, i, p] * b[t, p, j]
        c[z, i, j] = total


@rung(
    "matmul",
    "cuda",
    step=1,
    wants="... m k, ... k n",
    idea="the definition: one inner product a thread; lanes of a warp take rows of c",
)
def rows_across_lanes(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: a warp meets 32 rows of a and c at once, 32 sectors in each of which it wants 4 bytes of 32; of b it wants one number."""
    return multiply(row_a_lane, a, b, out, tile=(32, 8), block=(32, 8), flat=False)


def column_a_lane(a, b, c):
    i, j, z = cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y, cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockIdx.z
    if i < c.shape[1] and j < c.shape[2]:
        total = c.dtype.type(0)
        s, t = z if len(a) > 1 else 0, z if len(b) > 1 else 0
        for p in range(a.shape[2]):
            total += a[s, i, p] * b[t, p, j]
        c[z, i, j] = total


@rung("matmul", "cuda", step=2, idea="the lanes of a warp take columns of c: they read b and write c side by side")
def columns_across_lanes(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: 4 sectors a request of b and c, all of whose bytes are used; a is one number for all lanes."""
    return multiply(column_a_lane, a, b, out, tile=(8, 32), block=(32, 8), flat=False)


def flat_by(add):
    """A kernel: a sum a thread, made by `add(total, x, y)`."""

    def kernel(a, b, c, m, n, k, a_step, b_step):
        i = u(u(cuda.blockIdx.y) * u(cuda.blockDim.y) + u(cuda.threadIdx.y))
        j = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
        z = u(cuda.blockIdx.z)
        if i < m and j < n:
            total = c.dtype.type(0)
            at, end = u(z * a_step + i * k), u(z * a_step + i * k + k)
            row = u(z * b_step + j)
            while at < end:
                total = add(total, a[at], b[row])
                at, row = u(at + u(1)), u(row + n)
            c[u((z * m + i) * n + j)] = total

    return kernel


flat_thread = flat_by(fused)


@rung("matmul", "cuda", step=3, idea="flat arrays and uint32 indices: no index is negative, and none is 64 bits wide")
def flat(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: the same requests, half the instructions: Numba adds the length to an index that may be negative, in each access."""
    return multiply(flat_thread, a, b, out, tile=(8, 32), block=(32, 8))


def squares_by(add):
    """A kernel of squares in shared memory, of sums that are made by `add(total, x, y)`."""

    def kernel(a, b, c, m, n, k, a_step, b_step):
        x, y, z = u(cuda.threadIdx.x), u(cuda.threadIdx.y), u(cuda.blockIdx.z)
        i, j = u(u(cuda.blockIdx.y) * u(SQUARE) + y), u(u(cuda.blockIdx.x) * u(SQUARE) + x)
        left = cuda.shared.array(OF_SQUARE, a.dtype)
        right = cuda.shared.array(OF_SQUARE, b.dtype)
        total = c.dtype.type(0)
        p = u(0)
        while p < k:
            left[y, x] = a[u(z * a_step + i * k + p + x)] if i < m and u(p + x) < k else a.dtype.type(0)
            right[y, x] = b[u(z * b_step + (p + y) * n + j)] if u(p + y) < k and j < n else b.dtype.type(0)
            cuda.syncthreads()
            for q in range(SQUARE):
                total = add(total, left[y, u(q)], right[u(q), x])
            cuda.syncthreads()
            p = u(p + u(SQUARE))
        if i < m and j < n:
            c[u((z * m + i) * n + j)] = total

    return kernel


shared_squares = squares_by(fused)


@rung("matmul", "cuda", step=4, idea="squares of a and b in shared memory: a number fetched is used by 32 threads")
def squares(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: a 32nd of the bytes from memory; two loads from shared memory a product instead, so still far from the peak."""
    return multiply(shared_squares, a, b, out, tile=(SQUARE, SQUARE), block=(32, 32))


OF_A_COLUMN, OF_B_COLUMN = (64, 8), (8, 64)  # a block makes 64 by 64 sums, from 8 of k at a time


def column_of_8(a, b, c, m, n, k, a_step, b_step):
    t, z = u(cuda.threadIdx.x), u(cuda.blockIdx.z)
    top, left = u(u(cuda.blockIdx.y) * u(64)), u(u(cuda.blockIdx.x) * u(64))
    a_i, a_p, b_p, b_j = t // u(8), t % u(8), t // u(64), t % u(64)  # what this thread fetches
    tile_a = cuda.shared.array(OF_A_COLUMN, a.dtype)
    tile_b = cuda.shared.array(OF_B_COLUMN, a.dtype)
    zero = c.dtype.type(0)
    total = cuda.local.array(8, c.dtype)
    for r in range(8):
        total[r] = zero
    first = u(t // u(64) * u(8))
    rows = tile_a[first:]
    p = u(0)
    while p < k:
        i, j = u(top + a_i), u(left + b_j)
        tile_a[a_i, a_p] = a[u(z * a_step + i * k + p + a_p)] if i < m and u(p + a_p) < k else zero
        tile_b[b_p, b_j] = b[u(z * b_step + (p + b_p) * n + j)] if u(p + b_p) < k and j < n else zero
        cuda.syncthreads()
        q = u(0)
        while q < u(8):
            y = tile_b[q, b_j]
            for r in range(8):
                total[r] += rows[r, q] * y
            q = u(q + u(1))
        cuda.syncthreads()
        p = u(p + u(8))
    for r in range(8):
        i, j = u(top + first + u(r)), u(left + b_j)
        if i < m and j < n:
            c[u((z * m + i) * n + j)] = total[r]


@rung("matmul", "cuda", step=5, idea="eight sums a thread, one below the other: a number of b in a register serves all eight")
def column_a_thread(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: 9 loads from shared memory for 8 products instead of 16; a block of 64 by 64 halves the bytes from memory once more."""
    return multiply(column_of_8, a, b, out, tile=(64, 64), block=(512,))


DEEP = 8  # of k at a time
LARGE = 128  # rows and columns of a block from here on: 256 threads, 8 by 8 sums each
OF_A, OF_B = DEEP * LARGE, DEEP * LARGE  # numbers in a tile


def square_of_8(a, b, c, m, n, k, a_step, b_step):
    t, z = u(cuda.threadIdx.x), u(cuda.blockIdx.z)
    top, left = u(u(cuda.blockIdx.y) * u(LARGE)), u(u(cuda.blockIdx.x) * u(LARGE))
    tile_a = cuda.shared.array(OF_A, a.dtype)
    tile_b = cuda.shared.array(OF_B, a.dtype)
    zero = c.dtype.type(0)
    x, y, total = cuda.local.array(8, c.dtype), cuda.local.array(8, c.dtype), cuda.local.array((8, 8), c.dtype)
    for r in range(8):
        for s in range(8):
            total[r, s] = zero
    row, column = u(t // u(16) * u(8)), u(t % u(16) * u(8))
    p = u(0)
    while p < k:
        for r in range(4):  # a tile is 1024 numbers, four a thread
            i, q = u(top + t // u(8) + u(r) * u(32)), u(p + t % u(8))
            tile_a[u(t + u(r) * u(256))] = a[u(z * a_step + i * k + q)] if i < m and q < k else zero
            j, q = u(left + t % u(LARGE)), u(p + t // u(LARGE) + u(r) * u(2))
            tile_b[u(t + u(r) * u(256))] = b[u(z * b_step + q * n + j)] if q < k and j < n else zero
        cuda.syncthreads()
        q = u(0)
        while q < u(DEEP):
            for r in range(8):
                x[r] = tile_a[u((row + u(r)) * u(DEEP) + q)]
                y[r] = tile_b[u(q * u(LARGE) + column + u(r))]
            for r in range(8):
                for s in range(8):
                    total[r, s] += x[r] * y[s]
            q = u(q + u(1))
        cuda.syncthreads()
        p = u(p + u(DEEP))
    for r in range(8):
        for s in range(8):
            i, j = u(top + row + u(r)), u(left + column + u(s))
            if i < m and j < n:
                c[u((z * m + i) * n + j)] = total[r, s]


@rung("matmul", "cuda", step=6, idea="8 by 8 sums a thread: 16 numbers loaded to registers serve 64 products")
def square_a_thread(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: a quarter of a load a product, of which one in two is of four numbers at once at best. The largest step of all."""
    return multiply(square_of_8, a, b, out, tile=(LARGE, LARGE), block=(256,))


PADDED = LARGE + 4  # a row of the tile of a: 4 more, so that the four numbers of a thread, one below the other, go to other banks
OF_A_PADDED = DEEP * PADDED


def by_words(run, apart, side):
    """A kernel: rows and columns of a thread are two runs of four, `apart` from one to the other, `run` to those of the next thread.

    side   from a row of the tile of a to the next
    """
    run, apart, side = u(run), u(apart), u(side)

    def kernel(a, b, c, m, n, k, a_step, b_step):
        t, z = u(cuda.threadIdx.x), u(cuda.blockIdx.z)
        top, left = u(u(cuda.blockIdx.y) * u(LARGE)), u(u(cuda.blockIdx.x) * u(LARGE))
        tile_a = cuda.shared.array(OF_A_PADDED, a.dtype, alignment=16)  # on its side: a column of a is a row of the tile
        tile_b = cuda.shared.array(OF_B, a.dtype, alignment=16)
        zero = c.dtype.type(0)
        x, y, total = cuda.local.array(8, c.dtype), cuda.local.array(8, c.dtype), cuda.local.array((8, 8), c.dtype)
        for r in range(8):
            for s in range(8):
                total[r, s] = zero
        row, column = u(t // u(16) * run), u(t % u(16) * run)
        i, a_p, b_p, j = u(t // u(2)), u(t % u(2) * u(4)), u(t // u(32)), u(t % u(32) * u(4))  # what this thread fetches: four of each
        inside = u(top + u(LARGE)) <= m and u(left + u(LARGE)) <= n and k % u(DEEP) == u(0) and n % u(4) == u(0)  # all of the block
        p = u(0)
        while p < k:
            at, to = u(z * a_step + (top + i) * k + p + a_p), u(z * b_step + (p + b_p) * n + left + j)
            if inside:
                four = load4(a, at)
                for r in range(4):
                    tile_a[u((a_p + u(r)) * side + i)] = four[r]
                store4(tile_b, u(b_p * u(LARGE) + j), load4(b, to))
            else:
                for r in range(4):
                    tile_a[u((a_p + u(r)) * side + i)] = a[u(at + u(r))] if u(top + i) < m and u(p + a_p + u(r)) < k else zero
                    tile_b[u(b_p * u(LARGE) + j + u(r))] = b[u(to + u(r))] if u(p + b_p) < k and u(left + j + u(r)) < n else zero
            cuda.syncthreads()
            q = u(0)
            while q < u(DEEP):
                x[0], x[1], x[2], x[3] = load4(tile_a, u(q * side + row))
                x[4], x[5], x[6], x[7] = load4(tile_a, u(q * side + row + apart))
                y[0], y[1], y[2], y[3] = load4(tile_b, u(q * u(LARGE) + column))
                y[4], y[5], y[6], y[7] = load4(tile_b, u(q * u(LARGE) + column + apart))
                for r in range(8):
                    for s in range(8):
                        total[r, s] += x[r] * y[s]
                q = u(q + u(1))
            cuda.syncthreads()
            p = u(p + u(DEEP))
        for r in range(8):
            i = u(top + row + u(r % 4) + u(r // 4) * apart)
            for s in range(0, 8, 4):
                j = u(left + column + u(s // 4) * apart)
                at = u((z * m + i) * n + j)
                if inside:
                    store4(c, at, (total[r, s], total[r, s + 1], total[r, s + 2], total[r, s + 3]))
                else:
                    for e in range(4):
                        if i < m and u(j + u(e)) < n:
                            c[u(at + u(e))] = total[r, s + e]

    return kernel


words = by_words(run=8, apart=4, side=LARGE)


@rung("matmul", "cuda", step=7, idea="loads and stores of 128 bits, for which the tile of a lies on its side")
def square_by_words(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: 4 loads of shared memory for 64 products, a quarter of the requests to memory; but columns 8 apart meet in banks."""
    return multiply(words, a, b, out, tile=(LARGE, LARGE), block=(256,))


words_apart = by_words(run=4, apart=64, side=PADDED)


@rung(
    "matmul",
    "cuda",
    step=8,
    idea="no bank is asked twice: columns of a thread are two runs of four, 64 apart, and the tile of a is padded",
)
def square_without_conflicts(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: eight lanes read 128 bytes of b side by side, in one wavefront instead of two; stores to the tile of a take one, too."""
    return multiply(words_apart, a, b, out, tile=(LARGE, LARGE), block=(256,))


TWO_OF_A, TWO_OF_B = 2 * OF_A_PADDED, 2 * OF_B  # two tiles each: one is multiplied while the other arrives


@cuda.jit(device=True, inline="always")
def begin_copies(a, b, tile_a, tile_b, a_at, b_at, a_to, b_to, n, words):
    """The next tiles, in the background: four numbers of each a thread, those of b in one go if its rows begin at multiples of 16 bytes."""
    for r in range(4):
        copy1(tile_a, u(a_to + u(r) * u(32)), a, a_at[r])
        a_at[r] = u(a_at[r] + u(DEEP))
    if words:
        copy4(tile_b, b_to, b, b_at)
    else:
        for r in range(4):
            copy1(tile_b, u(b_to + u(r) * u(2 * LARGE)), b, u(b_at + u(r) * u(2) * n))


def tiles_by(add):
    """The loop of all tiles from here on, for sums that are made by `add(total, x, y)`."""

    @cuda.jit(device=True, inline="always")
    def add_tiles(tile_a, tile_b, left, right, end, x, y, total, tall, wide):
        """Add the products of two tiles, from `left` in that of a, row by row until `end`."""
        size = u(tile_a.itemsize)
        left, right, end = address(tile_a, left), address(tile_b, right), address(tile_a, end)
        while left < end:
            x[0], x[1], x[2], x[3] = load4_shared(tile_a, left)
            x[4], x[5], x[6], x[7] = load4_shared(tile_a, u(left + tall * size))
            y[0], y[1], y[2], y[3] = load4_shared(tile_b, right)
            y[4], y[5], y[6], y[7] = load4_shared(tile_b, u(right + wide * size))
            for r in range(8):
                for s in range(8):
                    total[r, s] = add(total[r, s], x[r], y[s])
            left, right = u(left + u(PADDED) * size), u(right + u(LARGE) * size)

    return add_tiles


add_tiles = tiles_by(fused)


def in_background(lanes, warps, step, tall, wide, words, add_tiles=add_tiles):
    """A kernel: rows of a thread are two runs of four, `tall` apart, its columns two, `wide` apart.

    lanes      lanes of a warp side by side
    warps      warps side by side, 64 columns apart; the next ones stand `step` rows below
    words      n is a multiple of 4, so that rows of b and c begin at multiples of 16 bytes
    add_tiles  how products of tiles are added, of `tiles_by`

    Rows and columns beyond the edge are fetched from just inside of it, and their sums are not stored: no test is in the loop. What is left
    over of k comes last, with tests.
    """
    lanes, warps, step, tall, wide = u(lanes), u(warps), u(step), u(tall), u(wide)

    def kernel(a, b, c, m, n, k, a_step, b_step):
        t, z = u(cuda.threadIdx.x), u(cuda.blockIdx.z)
        warp, lane = u(t // u(32)), u(t % u(32))
        row, column = u(warp // warps * step + lane // lanes * u(4)), u(warp % warps * u(64) + lane % lanes * u(4))
        top, left = u(u(cuda.blockIdx.y) * u(LARGE)), u(u(cuda.blockIdx.x) * u(LARGE))
        tile_a = cuda.shared.array(TWO_OF_A, a.dtype, alignment=16)
        tile_b = cuda.shared.array(TWO_OF_B, b.dtype, alignment=16)
        x, y, total = cuda.local.array(8, a.dtype), cuda.local.array(8, b.dtype), cuda.local.array((8, 8), c.dtype)
        for r in range(8):
            for s in range(8):
                total[r, s] = c.dtype.type(0)
        a_i, a_p = u(t // u(8)), u(t % u(8))
        b_p, b_j = (u(t // u(32)), u(t % u(32) * u(4))) if words else (u(t // u(LARGE)), u(t % u(LARGE)))
        a_at = cuda.local.array(4, np.uint32)
        for r in range(4):
            a_at[r] = u(z * a_step + min(u(top + a_i + u(r) * u(32)), u(m - u(1))) * k + a_p)
        b_at = u(z * b_step + b_p * n + min(u(left + b_j), u(n - u(4)) if words else u(n - u(1))))
        a_to, b_to = u(a_p * u(PADDED) + a_i), u(b_p * u(LARGE) + b_j)
        tiles = u(k // u(DEEP))  # still to be multiplied: a tile that is followed by an odd number of others lies in the second room
        if tiles > u(0):
            odd = u(tiles - u(1)) & u(1)
            begin_copies(a, b, tile_a, tile_b, a_at, b_at, u(a_to + odd * u(OF_A_PADDED)), u(b_to + odd * u(OF_B)), n, words)
        while tiles > u(0):
            wait_for_copies()
            cuda.syncthreads()
            tiles = u(tiles - u(1))
            odd = tiles & u(1)
            if tiles > u(0):
                even = u(u(1) - odd)
                b_at = u(b_at + u(DEEP) * n)
                begin_copies(a, b, tile_a, tile_b, a_at, b_at, u(a_to + even * u(OF_A_PADDED)), u(b_to + even * u(OF_B)), n, words)
            first, end = u(row + odd * u(OF_A_PADDED)), u(row + (odd + u(1)) * u(OF_A_PADDED))
            add_tiles(tile_a, tile_b, first, u(column + odd * u(OF_B)), end, x, y, total, tall, wide)
        rest = u(k % u(DEEP))
        if rest > u(0):
            b_at = u(z * b_step + (k - rest + b_p) * n + min(u(left + b_j), u(n - u(4)) if words else u(n - u(1))))
            cuda.syncthreads()
            for r in range(4):
                if a_p < rest:
                    tile_a[u(a_to + u(r) * u(32))] = a[a_at[r]]
                if words:
                    if b_p < rest:
                        tile_b[u(b_to + u(r))] = b[u(b_at + u(r))]
                elif u(b_p + u(r) * u(2)) < rest:
                    tile_b[u(b_to + u(r) * u(2 * LARGE))] = b[u(b_at + u(r) * u(2) * n)]
            cuda.syncthreads()
            add_tiles(tile_a, tile_b, row, column, u(row + rest * u(PADDED)), x, y, total, tall, wide)
        for r in range(8):
            i = u(top + row + u(r % 4) + u(r // 4) * tall)
            for s in range(0, 8, 4):
                j = u(left + column + u(s // 4) * wide)
                at = u((z * m + i) * n + j)
                if words:
                    if i < m and j < n:
                        store4(c, at, (total[r, s], total[r, s + 1], total[r, s + 2], total[r, s + 3]))
                elif i < m:
                    for e in range(4):
                        if u(j + u(e)) < n:
                            c[u(at + u(e))] = total[r, s + e]

    return kernel


two_tiles = in_background(lanes=16, warps=1, step=8, tall=64, wide=64, words=True)
two_tiles_by_number = in_background(lanes=16, warps=1, step=8, tall=64, wide=64, words=False)


@rung("matmul", "cuda", step=9, idea="two tiles of each: the next arrives from memory in the background (cp.async) while one is multiplied")
def double_buffered(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: one barrier a tile instead of two, no register holds what travels, twice the shared memory."""
    kernel = two_tiles if b.shape[-1] % 4 == 0 else two_tiles_by_number
    return multiply(kernel, a, b, out, tile=(LARGE, LARGE), block=(256,))


warp_tiles = in_background(lanes=8, warps=2, step=32, tall=16, wide=32, words=True)
warp_tiles_by_number = in_background(lanes=8, warps=2, step=32, tall=16, wide=32, words=False)


@rung("matmul", "cuda", step=10, serves=True, idea="a warp makes 32 by 64 sums, near a square: its lanes share more of what they load")
def warp_tiled(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: a warp wants 64 bytes of a and 128 of b at a time, where two rows of 16 threads wanted 32 and 256."""
    kernel = warp_tiles if b.shape[-1] % 4 == 0 else warp_tiles_by_number
    return multiply(kernel, a, b, out, tile=(LARGE, LARGE), block=(256,))
