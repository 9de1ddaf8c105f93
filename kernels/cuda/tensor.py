"""C = A B of narrow numbers on tensor cores: both factors are copied into words, then words are multiplied.

    a (..., m, k)   b (..., k, n)   c (..., m, n)     any strides; leading axes broadcast

A word is 32 bits: one tf32, two float16 or bfloat16, four int8, neighbours along k. In words all kinds are alike: a row of a and a
column of b lie along k, one product of a warp (`mma.sync`) is 16 by 8 sums of 8 words, and a fragment of it is read by `ldmatrix`,
whatever the words hold. So there is one kernel, in which only the name of the instruction changes. k is filled up with zeros to a
whole slab, so no test is in its loop.

Copying costs a pass over both factors: a 2 n-th of the work of n by n. Whatever has to be done to a number, rounding, is done there, once
and not once a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from kernels.cuda.arrays import by_pieces, counted, multiply
from kernels.cuda.intrinsics import address, bits, copy4, half, load_matrices, number, product_of_warp, store2, tf32, wait_for_copies
from kernels.cuda.launch import empty, launch
from kernels.registry import rung

u = np.uint32

SLAB = 16  # words of k at a time: 64 bytes of each row, four copies of 16 bytes
TILE = 128  # rows and columns of a block
SQUARE = (32, 33)  # one column more than is used: lanes that read down a column meet 32 banks
OF_TILE = 2 * TILE * SLAB  # two slabs: one is multiplied while the other arrives


# Words.


@cuda.jit(device=True, inline="always")
def bfloat16(x):
    """A float32 as the bits of the nearest bfloat16, the even one of two; what is below the smallest normal number becomes 0."""
    found = bits(x)
    size = u(found & u(0x7FFFFFFF))
    near = u(u(found + u(0x7FFF) + u(u(found >> u(16)) & u(1))) >> u(16))
    if size < u(0x00800000):
        return u(0)
    return u(0x7FFF) if size > u(0x7F800000) else near


@cuda.jit(device=True, inline="always")
def as_it_is(x):
    return u(x)


NARROW = {"tf32": tf32, "bf16": bfloat16, "f16": as_it_is, "s8": as_it_is, "u8": as_it_is}
PER_WORD = {"tf32": 1, "f16": 2, "bf16": 2, "s8": 4, "u8": 4}
RAW = {"tf32": np.float32, "bf16": np.float32, "f16": np.uint16, "s8": np.uint8, "u8": np.uint8}  # an array as the kernels read it


@cache
def rows_into_words(narrow: Any, per: int) -> Callable[..., None]:
    """A kernel: words[z, i, q] are the numbers `per` q and on of row i of x (z, rows, k), with zeros beyond k. A block does TILE rows."""
    width, per = u(32 // per), u(per)

    def kernel(x, words, rows, k, deep, x_step):
        q, z = u(u(cuda.blockIdx.x) * u(32) + u(cuda.threadIdx.x)), u(cuda.blockIdx.z)
        i = u(u(cuda.blockIdx.y) * u(TILE) + u(cuda.threadIdx.y))
        end = min(rows, u(u(cuda.blockIdx.y) * u(TILE) + u(TILE)))
        while q < deep and i < end:
            word, e = u(0), u(0)
            while e < per:
                p = u(q * per + e)
                if p < k:
                    word = u(word | u(narrow(x[u(z * x_step + i * k + p)]) << u(e * width)))
                e = u(e + u(1))
            words[u((z * rows + i) * deep + q)] = word
            i = u(i + u(8))

    return kernel


@cache
def columns_into_words(narrow: Any, per: int) -> Callable[..., None]:
    """A kernel: the same of the columns of x (z, k, rows). Lanes read along rows of x and write along k: a square turns them over."""
    width, per = u(32 // per), u(per)

    def kernel(x, words, rows, k, deep, x_step):
        lane, other, z = u(cuda.threadIdx.x), u(cuda.threadIdx.y), u(cuda.blockIdx.z)
        first = u(u(cuda.blockIdx.x) * u(32))
        square = cuda.shared.array(SQUARE, np.uint32)
        for s in range(TILE // 32):
            top = u(u(cuda.blockIdx.y) * u(TILE) + u(s) * u(32))
            for r in range(4):
                q, j = u(other + u(r) * u(8)), u(top + lane)
                word, e = u(0), u(0)
                while e < per:
                    p = u((first + q) * per + e)
                    if p < k and j < rows:
                        word = u(word | u(narrow(x[u(z * x_step + p * rows + j)]) << u(e * width)))
                    e = u(e + u(1))
                square[q, lane] = word
            cuda.syncthreads()
            for r in range(4):
                j, q = u(top + other + u(r) * u(8)), u(first + lane)
                if j < rows and q < deep:
                    words[u((z * rows + j) * deep + q)] = square[lane, u(other + u(r) * u(8))]
            cuda.syncthreads()

    return kernel


def words_of(kind: str, x: np.ndarray, deep: int, *, columns: bool) -> Any:
    """The rows of x (s, rows, k), or the columns of x (s, k, rows), in words: flat, (s, rows, deep)."""
    many, rows, k = (x.shape[0], x.shape[2], x.shape[1]) if columns else x.shape
    kernel = (columns_into_words if columns else rows_into_words)(NARROW[kind], PER_WORD[kind])
    words = empty(many * rows * deep, np.uint32)
    grid = -(-deep // 32), -(-rows // TILE), many
    sizes = map(np.uint32, (rows, k, deep, rows * k))
    launch(kernel, grid, (32, 8), x.view(RAW[kind]).reshape(-1), words, *sizes, writes=[words])
    return words


# Products.


@cache
def product_of_words(kind: str, pairs: bool) -> Callable[..., None]:
    """A kernel: c (z, m, n) of words a (z, m, deep) and b (z, n, deep). A warp makes 64 by 32 sums, in 4 by 4 tiles of 16 by 8.

    pairs   n is even, so that two neighbours of c can be stored at once

    In shared memory the four pieces of 16 bytes of a row trade places, by bits 1 and 2 of the number of the row: so the eight rows that
    `ldmatrix` reads at once lie in different banks, and no room is lost.
    """
    multiply_add = product_of_warp(kind)
    numbers = np.int32 if kind in ("s8", "u8") else np.float32
    rounded = half if kind == "f16" else numbers

    def kernel(a, b, c, m, n, deep, a_step, b_step):
        t, z = u(cuda.threadIdx.x), u(cuda.blockIdx.z)
        top, left = u(u(cuda.blockIdx.y) * u(TILE)), u(u(cuda.blockIdx.x) * u(TILE))
        tile_a = cuda.shared.array(OF_TILE, np.uint32, alignment=16)
        tile_b = cuda.shared.array(OF_TILE, np.uint32, alignment=16)
        row, piece = u(t // u(4)), u(t % u(4))  # what this thread copies, and 64 rows below
        to = u(row * u(SLAB) + (piece ^ u(row // u(2) % u(4))) * u(4))
        a_0 = u(z * a_step + min(u(top + row), u(m - u(1))) * deep + piece * u(4))
        a_1 = u(z * a_step + min(u(top + row + u(64)), u(m - u(1))) * deep + piece * u(4))
        b_0 = u(z * b_step + min(u(left + row), u(n - u(1))) * deep + piece * u(4))
        b_1 = u(z * b_step + min(u(left + row + u(64)), u(n - u(1))) * deep + piece * u(4))
        warp, lane = u(t // u(32)), u(t % u(32))
        rows, columns = u(warp // u(4) * u(64)), u(warp % u(4) * u(32))
        r, s, swap = u(lane % u(8)), u(lane // u(8)), u(lane % u(8) // u(2))  # this lane names row r of matrix s
        from_a = u((rows + r + s % u(2) * u(8)) * u(SLAB) + (u(s // u(2)) ^ swap) * u(4))
        from_b = u((columns + r + s // u(2) * u(8)) * u(SLAB) + (u(s % u(2)) ^ swap) * u(4))
        sums = cuda.local.array((4, 4, 4), numbers)
        y = cuda.local.array((4, 2), np.uint32)
        for i in range(4):
            for j in range(4):
                for e in range(4):
                    sums[i, j, e] = numbers(0)
        slabs, done = u(deep // u(SLAB)), u(0)
        while done <= slabs:
            if done > u(0):
                wait_for_copies()
                cuda.syncthreads()
            if done < slabs:  # the next slab sets out
                room = u(to + (done & u(1)) * u(TILE * SLAB))
                copy4(tile_a, room, a, a_0)
                copy4(tile_a, u(room + u(64 * SLAB)), a, a_1)
                copy4(tile_b, room, b, b_0)
                copy4(tile_b, u(room + u(64 * SLAB)), b, b_1)
                a_0, a_1, b_0, b_1 = u(a_0 + u(SLAB)), u(a_1 + u(SLAB)), u(b_0 + u(SLAB)), u(b_1 + u(SLAB))
            if done > u(0):  # and the one that is here is multiplied
                room = u(u(u(done - u(1)) & u(1)) * u(TILE * SLAB))
                for h in range(2):  # halves of a slab: eight words
                    for j in range(2):
                        place = u((from_b ^ u(8 * h)) + room + u(j * 16 * SLAB))
                        y[2 * j, 0], y[2 * j, 1], y[2 * j + 1, 0], y[2 * j + 1, 1] = load_matrices(tile_b, address(tile_b, place))
                    for i in range(4):
                        x = load_matrices(tile_a, address(tile_a, u((from_a ^ u(8 * h)) + room + u(i * 16 * SLAB))))
                        for j in range(4):
                            four = sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3]
                            four = multiply_add(x, (y[j, 0], y[j, 1]), four)
                            sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3] = four
            done = u(done + u(1))
        for i in range(4):
            for j in range(4):
                for e in range(0, 4, 2):
                    down = u(top + rows + lane // u(4) + u(16 * i + 4 * e))
                    across = u(left + columns + lane % u(4) * u(2) + u(8 * j))
                    at = u((z * m + down) * n + across)
                    one, other = rounded(sums[i, j, e]), rounded(sums[i, j, e + 1])
                    if down < m and across < n:
                        if pairs:
                            store2(c, at, (one, other))
                        else:
                            c[at] = one
                            if u(across + u(1)) < n:
                                c[u(at + u(1))] = other

    return kernel


def on_tensor_cores(kind: str, a: Any, b: Any, out: np.ndarray | None, dtype: Any) -> np.ndarray:
    """c = a b of `dtype`. Of kind "u8" only a is unsigned."""

    def run(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
        (many, m, n), k = z.shape, x.shape[2]
        deep = -(-k // (PER_WORD[kind] * SLAB)) * SLAB
        counted(x, y, z)
        left, right = words_of(kind, x, deep, columns=False), words_of(kind, y, deep, columns=True)
        sizes = map(np.uint32, (m, n, deep, 0 if len(x) == 1 else m * deep, 0 if len(y) == 1 else n * deep))
        z = z.reshape(-1).view(np.uint16 if kind == "f16" else dtype)
        launch(product_of_words(kind, n % 2 == 0), (-(-n // TILE), -(-m // TILE), many), (256,), left, right, z, *sizes, writes=[z])

    return by_pieces(run, a, b, out, dtype, TILE)


@rung(
    "matmul", "cuda", step=11, rtol={"float32": 2e-3},
    idea="tensor cores: numbers are rounded to the eleven bits of tf32, 1024 products are one instruction; sums in float32 (reassoc)",
)  # fmt: skip
def tensor_tf32(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: an instruction does 32 times what a fused product does. The error is that of two roundings to 2^-11, whatever k is."""
    return on_tensor_cores("tf32", a, b, out, np.float32)


@rung(
    "matmul",
    "cuda",
    step=12,
    rtol={"float16": 2e-3},
    idea="tensor cores for float16: two numbers a word, sums in float32, rounded once (reassoc)",
)
def tensor_f16(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: half the bytes and twice the products an instruction of tf32, from the same kernel."""
    return on_tensor_cores("f16", a, b, out, np.float16)


RTOL = {"float32": 1e-5}  # of the rounding of sums only: the numbers are rounded alike everywhere


def inner_product_of_bf16(a, b, c, m, n, k, a_step, b_step):
    i, j = u(u(cuda.blockIdx.y) * u(8) + u(cuda.threadIdx.y)), u(u(cuda.blockIdx.x) * u(32) + u(cuda.threadIdx.x))
    z = u(cuda.blockIdx.z)
    if i < m and j < n:
        total = np.float32(0)
        p = u(0)
        while p < k:
            x, y = bfloat16(a[u(z * a_step + i * k + p)]), bfloat16(b[u(z * b_step + p * n + j)])
            total += number(u(x << u(16))) * number(u(y << u(16)))
            p = u(p + u(1))
        c[u((z * m + i) * n + j)] = total


@rung(
    "matmul_bf16",
    "cuda",
    step=1,
    wants="... m k, ... k n",
    rtol=RTOL,
    idea="the definition: one inner product a thread, of rounded numbers",
)
def inner_products_of_bf16(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    return multiply(inner_product_of_bf16, a, b, out, tile=(8, 32), block=(32, 8))


@rung(
    "matmul_bf16",
    "cuda",
    step=2,
    serves=True,
    rtol=RTOL,
    idea="tensor cores: numbers are rounded once, two a word; sums in float32 (reassoc)",
)
def tensor_bf16(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    return on_tensor_cores("bf16", a, b, out, np.float32)
