"""Y = A B on a GPU, where A (m, k) is mostly zeros and kept without them, one idea at a time; b (k, n) is dense, and so is y (m, n).

    CSR    data (nnz), indices (nnz), indptr (m + 1)                          SciPy's words
    BSR    data (blocks, r, c), indices (blocks), indptr (m / r + 1)          of blocks
    2:4    values (m, k / 2), indices (m, k / 2): which two of each four columns are kept

float32 or float64; b may have any strides, indices any width. Places are checked on the host in each call, before anything is read.

Arrays are flat and indices uint32, as in `matmul.py` from its third rung on. Rows of a result lie along the first axis of the grid, for
there may be more than 65535 blocks of them. i is a row, j a column, t the number of what is kept. A sum runs over t in order, where a
rung does not say reassoc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from kernels.cuda.arrays import counted, dense, result
from kernels.cuda.intrinsics import address, load1_shared, load4
from kernels.cuda.launch import Kernel, empty, launch
from kernels.registry import rung
from kernels.sparse import check_2to4, check_bsr, check_csr, check_fours, check_places, check_samples

u = np.uint32

THREADS = 256
WARPS = (32, 8)  # threads of a block: eight warps
ALL = u(0xFFFFFFFF)  # lanes
FEW = 8  # columns of b up to which lanes share a row of a, where they would not fill a row of b


# Places.


def places(indices: Any, indptr: Any, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as kernels read them. Raises ValueError for places that are none."""
    check_places(indices, indptr, columns)
    return np.ascontiguousarray(indices, u), np.ascontiguousarray(indptr, u)


def flat(x: Any) -> np.ndarray:
    return dense(x).reshape(-1)


def over(rows: int, columns: int, tall: int = 8) -> tuple[int, int]:
    """A block for so many rows of y and 32 columns."""
    return -(-rows // tall), -(-columns // 32)


# CSR.


def csr(
    kernel: Kernel, by_columns: bool, data: Any, indices: Any, indptr: Any, b: Any, out: np.ndarray | None, block: Any = WARPS
) -> np.ndarray:
    """y by a kernel of (data, places, starts, b, y, m, n): a row of y for each thread of `block`, or for each of its warps."""
    short, starts = places(indices, indptr, len(b))
    m, n = len(starts) - 1, b.shape[1]
    y = result((m, n), b.dtype, out, data, b, indices, indptr)
    counted(y, b, short)
    if y.size:
        grid = over(m, n) if by_columns else (-(-m // block[-1]),)
        z = y.reshape(-1)
        launch(kernel, grid, block, flat(data), short, starts, flat(b), z, u(m), u(n), writes=[z])
    return y


def row_a_thread(data, places, starts, b, y, m, n):
    i = u(u(cuda.blockIdx.x) * u(THREADS) + u(cuda.threadIdx.x))
    if i < m:
        first, end, j = starts[i], starts[u(i + u(1))], u(0)
        while j < n:
            total, t = y.dtype.type(0), first
            while t < end:
                total += data[t] * b[u(places[t] * n + j)]
                t = u(t + u(1))
            y[u(i * n + j)] = total
            j = u(j + u(1))


@rung(
    "matmul_csr", "cuda", step=1, wants="nnz, nnz, p, k n", check=check_csr, integers=(1, 2),
    idea="the definition: a row of y a thread, one sum after the other",
)  # fmt: skip
def csr_rows_across_lanes(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: lanes read numbers of as many rows, a sector each, and write as far apart; a warp takes as long as its longest row."""
    return csr(row_a_thread, False, data, indices, indptr, b, out, (THREADS,))


@cuda.jit(device=True, inline="always")
def of_warp(total):
    """In lane 0 the sum of what all lanes hold, by halves."""
    for apart in (16, 8, 4, 2, 1):
        total += cuda.shfl_down_sync(ALL, total, apart)
    return total


def row_a_warp(data, places, starts, b, y, m, n):
    lane, i = u(cuda.threadIdx.x), u(u(cuda.blockIdx.x) * u(8) + u(cuda.threadIdx.y))
    if i < m:
        first, end, j = starts[i], starts[u(i + u(1))], u(0)
        while j < n:
            total, t = y.dtype.type(0), u(first + lane)
            while t < end:
                total += data[t] * b[u(places[t] * n + j)]
                t = u(t + u(32))
            total = of_warp(total)
            if lane == u(0):
                y[u(i * n + j)] = total
            j = u(j + u(1))


@rung(
    "matmul_csr", "cuda", step=2, integers=(1, 2),
    idea="a row a warp: lanes take its numbers side by side, and add up what they have by shuffles (reassoc)",
)  # fmt: skip
def csr_row_a_warp(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: data and places by whole sectors; b is still a sector a number. Rows shorter than 32 leave lanes idle."""
    return csr(row_a_warp, False, data, indices, indptr, b, out)


def columns_a_warp(data, places, starts, b, y, m, n):
    lane, i = u(cuda.threadIdx.x), u(u(cuda.blockIdx.x) * u(8) + u(cuda.threadIdx.y))
    j = u(u(cuda.blockIdx.y) * u(32) + lane)
    if i < m:
        column, total = min(j, u(n - u(1))), y.dtype.type(0)
        t, end = starts[i], starts[u(i + u(1))]
        while t < end:
            many = min(u(32), u(end - t))
            mine = u(t + min(lane, u(many - u(1))))
            number, row, q = data[mine], np.int32(places[mine]), u(0)  # shuffles know no uint32
            while q < many:
                total += cuda.shfl_sync(ALL, number, q) * b[u(u(cuda.shfl_sync(ALL, row, q)) * n + column)]
                q = u(q + u(1))
            t = u(t + u(32))
        if j < n:
            y[u(i * n + j)] = total


@rung(
    "matmul_csr", "cuda", step=3, integers=(1, 2),
    idea="lanes take columns of y: a row of b is read side by side; numbers are loaded a lane each and handed to all by shuffles",
)  # fmt: skip
def csr_columns_across_lanes(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: of b four sectors a request, all of them used; a 32nd of the requests for numbers and places, and no sum of a warp."""
    return csr(columns_a_warp, True, data, indices, indptr, b, out)


@rung("matmul_csr", "cuda", step=4, serves=True, integers=(1, 2), idea="few columns would leave lanes idle: they go by a row a warp")
def csr_by_width(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: of one column 32 times as many lanes have something to add."""
    run = csr_row_a_warp if b.shape[1] <= FEW else csr_columns_across_lanes
    return run(data, indices, indptr, b, out=out)


# What CSR keeps of a product: the gradient in data.


def samples(kernel: Kernel, gy: Any, b: Any, indices: Any, indptr: Any, out: np.ndarray | None, block: tuple[int, ...]) -> np.ndarray:
    """y (nnz) by a kernel of (gy, b, places, starts, y, m, n): a row of gy for each thread of `block`, or for each of its warps."""
    check_samples(gy, b, indices, indptr)
    short, starts = places(indices, indptr, len(b))
    y = result((len(short),), b.dtype, out, gy, b, indices, indptr)
    counted(gy, b, y)
    if y.size:
        grid = (-(-len(gy) // block[-1]),)
        launch(kernel, grid, block, flat(gy), flat(b), short, starts, y, u(len(gy)), u(b.shape[1]), writes=[y])
    return y


def sample_a_thread(gy, b, places, starts, y, m, n):
    i = u(u(cuda.blockIdx.x) * u(THREADS) + u(cuda.threadIdx.x))
    if i < m:
        t, end = starts[i], starts[u(i + u(1))]
        while t < end:
            total, left, right = y.dtype.type(0), u(i * n), u(places[t] * n)
            last = u(left + n)
            while left < last:
                total += gy[left] * b[right]
                left, right = u(left + u(1)), u(right + u(1))
            y[t] = total
            t = u(t + u(1))


@rung(
    "matmul_csr_data_grad", "cuda", step=1, wants="m n, k n, nnz, p", check=check_samples, integers=(2, 3),
    idea="the definition: a row a thread, one inner product for each element that it keeps",
)  # fmt: skip
def samples_row_a_thread(gy: Any, b: Any, indices: Any, indptr: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: a sector a lane of gy and of b, in which one number is wanted at a time."""
    return samples(sample_a_thread, gy, b, indices, indptr, out, (THREADS,))


def sample_a_warp(gy, b, places, starts, y, m, n):
    lane, i = u(cuda.threadIdx.x), u(u(cuda.blockIdx.x) * u(8) + u(cuda.threadIdx.y))
    if i < m:
        t, end = starts[i], starts[u(i + u(1))]
        while t < end:
            total, j, right = y.dtype.type(0), lane, u(places[t] * n)
            while j < n:
                total += gy[u(i * n + j)] * b[u(right + j)]
                j = u(j + u(32))
            total = of_warp(total)
            if lane == u(0):
                y[t] = total
            t = u(t + u(1))


@rung(
    "matmul_csr_data_grad", "cuda", step=2, serves=True, integers=(2, 3),
    idea="an inner product a warp: both rows are read side by side, and added up by shuffles (reassoc)",
)  # fmt: skip
def samples_product_a_warp(gy: Any, b: Any, indices: Any, indptr: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: four sectors a request, all used; the row of gy is read again for each number it keeps, from the nearest cache."""
    return samples(sample_a_warp, gy, b, indices, indptr, out, WARPS)


# BSR.


def bsr(kernel: Kernel, data: Any, indices: Any, indptr: Any, b: Any, out: np.ndarray | None) -> np.ndarray:
    """y by a kernel of (data, places, starts, b, y, r, c, n): a block of threads for 8 rows of a row of blocks, and 32 columns."""
    _, r, c = data.shape
    short, starts = places(indices, indptr, len(b) // c)
    m, n = (len(starts) - 1) * r, b.shape[1]
    y = result((m, n), b.dtype, out, data, b, indices, indptr)
    counted(y, b, data)
    if y.size:
        (across, down), z = over(r, n), y.reshape(-1)
        sizes = map(u, (r, c, n))
        launch(kernel, (across * (len(starts) - 1), down), WARPS, flat(data), short, starts, flat(b), z, *sizes, writes=[z])
    return y


def element_of_blocks(data, places, starts, b, y, r, c, n):
    pieces = u(u(r + u(7)) // u(8))
    i, j = u(u(cuda.blockIdx.x) // pieces), u(u(cuda.blockIdx.y) * u(32) + u(cuda.threadIdx.x))
    row = u(u(cuda.blockIdx.x) % pieces * u(8) + u(cuda.threadIdx.y))
    if row < r and j < n:
        total, t, end = y.dtype.type(0), starts[i], starts[u(i + u(1))]
        while t < end:
            left, right = u((t * r + row) * c), u(places[t] * c * n + j)
            last = u(left + c)
            while left < last:
                total += data[left] * b[right]
                left, right = u(left + u(1)), u(right + n)
            t = u(t + u(1))
        y[u((i * r + row) * n + j)] = total


@rung(
    "matmul_bsr", "cuda", step=1, wants="blocks r c, blocks, p, k n", check=check_bsr, integers=(1, 2),
    idea="the definition: an element of y a thread, block by block",
)  # fmt: skip
def bsr_element_a_thread(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: two requests of memory a product, of b by four whole sectors; a place serves c products."""
    return bsr(element_of_blocks, data, indices, indptr, b, out)


TILE_OF_DATA, TILE_OF_B = (8, 32), (32, 32)


@cuda.jit(device=True, inline="always")
def onward(t, q, blocks, columns, c):
    """From column q of block t so many blocks and columns on: no division is in the loop."""
    q = u(q + columns)
    over = u(1) if q >= c else u(0)
    return u(t + blocks + over), u(q - over * c)


def tile_of_blocks(data, places, starts, b, y, r, c, n):
    """All blocks of a row are one matrix of r rows, and each of its columns tells which row of b it meets: 32 columns at a time."""
    x, row_of_tile = u(cuda.threadIdx.x), u(cuda.threadIdx.y)
    pieces = u(u(r + u(7)) // u(8))
    i, j = u(u(cuda.blockIdx.x) // pieces), u(u(cuda.blockIdx.y) * u(32) + x)
    row = u(u(cuda.blockIdx.x) % pieces * u(8) + row_of_tile)
    left = cuda.shared.array(TILE_OF_DATA, data.dtype)
    right = cuda.shared.array(TILE_OF_B, data.dtype)
    zero = y.dtype.type(0)
    total = zero
    first, end = starts[i], starts[u(i + u(1))]
    by_32, and_32, by_8, and_8 = u(u(32) // c), u(32) % c, u(u(8) // c), u(8) % c
    t, q = u(first + x // c), x % c  # the number that this thread fetches, and the row of b
    t_b, q_b = u(first + row_of_tile // c), row_of_tile % c
    p, depth = u(0), u((end - first) * c)
    while p < depth:
        left[row_of_tile, x] = data[u((t * r + row) * c + q)] if row < r and t < end else zero
        t, q = onward(t, q, by_32, and_32, c)
        for s in range(0, 32, 8):
            right[u(row_of_tile + u(s)), x] = b[u((places[t_b] * c + q_b) * n + j)] if t_b < end and j < n else zero
            t_b, q_b = onward(t_b, q_b, by_8, and_8, c)
        cuda.syncthreads()
        for e in range(32):
            total += left[row_of_tile, u(e)] * right[u(e), x]
        cuda.syncthreads()
        p = u(p + u(32))
    if row < r and j < n:
        y[u((i * r + row) * n + j)] = total


@rung(
    "matmul_bsr", "cuda", step=2, serves=True, integers=(1, 2),
    idea="tiles in shared memory, over the edges of blocks: a row of b is fetched once for eight rows of y",
)  # fmt: skip
def bsr_tiles(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: an eighth of the requests for b, a 32nd of those for numbers, if a block has eight rows or more; of one row, eight times
    as many threads as have work."""
    return bsr(tile_of_blocks, data, indices, indptr, b, out)


# 2:4.


def two_of_four(values: Any, indices: Any, b: Any, out: np.ndarray | None, run: Callable[..., None]) -> np.ndarray:
    """y by run(values, indices, b, y, m, h, n) of flat arrays; indices are bytes."""
    check_fours(indices)
    (m, h), n = values.shape, b.shape[1]
    y = result((m, n), b.dtype, out, values, b, indices)
    counted(y, b, values)
    if y.size:
        run(flat(values), np.ascontiguousarray(indices, np.uint8).reshape(-1), flat(b), y.reshape(-1), m, h, n)
    return y


def element_of_fours(values, indices, b, y, m, h, n):
    i, j = u(u(cuda.blockIdx.x) * u(8) + u(cuda.threadIdx.y)), u(u(cuda.blockIdx.y) * u(32) + u(cuda.threadIdx.x))
    if i < m and j < n:
        total, t = y.dtype.type(0), u(0)
        while t < h:
            row = u(t // u(2) * u(4) + u(indices[u(i * h + t)]))
            total += values[u(i * h + t)] * b[u(row * n + j)]
            t = u(t + u(1))
        y[u(i * n + j)] = total


@rung(
    "matmul_2to4", "cuda", step=1, wants="m h, m h, k n", check=check_2to4, integers=(1,),
    idea="the definition: an element of y a thread, the sum over what its row keeps",
)  # fmt: skip
def pairs_element_a_thread(values: Any, indices: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: three requests a product: a number, its position, and of b four whole sectors. Half the products of the dense matrix."""

    def run(values, indices, b, y, m, h, n):
        launch(element_of_fours, over(m, n), WARPS, values, indices, b, y, u(m), u(h), u(n), writes=[y])

    return two_of_four(values, indices, b, out, run)


TILE_OF_VALUES, TILE_OF_FOURS = (32, 32), (64, 32)  # 32 numbers a row stand for 64 rows of b


def square_of_fours(values, indices, b, y, m, h, n):
    x, row, zero = u(cuda.threadIdx.x), u(cuda.threadIdx.y), y.dtype.type(0)
    i, j = u(u(cuda.blockIdx.x) * u(32) + row), u(u(cuda.blockIdx.y) * u(32) + x)
    left = cuda.shared.array(TILE_OF_VALUES, values.dtype)
    which = cuda.shared.array(TILE_OF_VALUES, u)
    right = cuda.shared.array(TILE_OF_FOURS, values.dtype)
    total, p, k = zero, u(0), u(h * u(2))
    while p < h:
        inside = i < m and u(p + x) < h
        at = u(i * h + p + x)
        left[row, x] = values[at] if inside else zero
        which[row, x] = u(x // u(2) * u(4) + u(indices[at])) if inside else u(0)
        for s in range(0, 64, 32):
            q = u(p * u(2) + row + u(s))
            right[u(row + u(s)), x] = b[u(q * n + j)] if q < k and j < n else zero
        cuda.syncthreads()
        for t in range(32):
            total += left[row, u(t)] * right[which[row, u(t)], x]
        cuda.syncthreads()
        p = u(p + u(32))
    if i < m and j < n:
        y[u(i * n + j)] = total


@rung(
    "matmul_2to4",
    "cuda",
    step=2,
    integers=(1,),
    idea="tiles in shared memory: 64 rows of b are fetched once for 32 rows of y, and gathered there",
)
def pairs_squares(values: Any, indices: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: a 32nd of the requests; a warp gathers one row at a time, so no bank is asked twice. Three shared loads a product."""

    def run(values, indices, b, y, m, h, n):
        launch(square_of_fours, over(m, n, 32), (32, 32), values, indices, b, y, u(m), u(h), u(n), writes=[y])

    return two_of_four(values, indices, b, out, run)


# The third rung: positions as the hardware packs them, two bits each.


def pack_positions(indices, words, h, deep):
    """A thread for each word: of a row, the positions 16 q and on; zeros beyond its end."""
    at = u(u(cuda.blockIdx.x) * u(THREADS) + u(cuda.threadIdx.x))
    if at < u(words.size):
        i, t = u(at // deep), u(at % deep * u(16))
        word = u(0)
        for e in range(16):
            if u(t + u(e)) < h:
                word |= u(u(indices[u(i * h + t + u(e))]) << u(2 * e))
        words[at] = word


ROW_OF_TILE = 36  # of 32 values: four more, so that a thread finds four of them at 16 bytes
OF_VALUES, OF_WORDS, OF_FOURS, SUMS = 32 * ROW_OF_TILE, 64, 64 * 32, 4


def gathered(values, words, b, y, m, h, n, deep):
    """A thread makes four sums, eight rows apart; two words hold the positions of a row of a tile."""
    x, warp, zero = u(cuda.threadIdx.x), u(cuda.threadIdx.y), y.dtype.type(0)
    top, j = u(u(cuda.blockIdx.x) * u(32)), u(u(cuda.blockIdx.y) * u(32) + x)
    left = cuda.shared.array(OF_VALUES, values.dtype, alignment=16)
    which = cuda.shared.array(OF_WORDS, u)
    right = cuda.shared.array(OF_FOURS, values.dtype)
    total = cuda.local.array(SUMS, y.dtype)
    for r in range(4):
        total[r] = zero
    p, k, t, side = u(0), u(h * u(2)), u(warp * u(32) + x), u(32 * right.itemsize)
    while p < h:
        for r in range(4):
            row = u(warp + u(8 * r))
            inside = u(top + row) < m and u(p + x) < h
            left[u(row * u(ROW_OF_TILE) + x)] = values[u((top + row) * h + p + x)] if inside else zero
        if t < u(OF_WORDS):
            i = u(top + t // u(2))
            which[t] = words[u(i * deep + p // u(16) + t % u(2))] if i < m else u(0)
        for s in range(8):
            q = u(p * u(2) + warp + u(8 * s))
            right[u((warp + u(8 * s)) * u(32) + x)] = b[u(q * n + j)] if q < k and j < n else zero
        cuda.syncthreads()
        half, near = u(0), address(right, x)
        while half < u(2):
            for r in range(4):
                row = u(warp + u(8 * r))
                positions = which[u(row * u(2) + half)]
                for s in range(4):
                    four = load4(left, u(row * u(ROW_OF_TILE) + half * u(16) + u(4 * s)))
                    for e in range(4):
                        position = u(positions >> u(8 * s + 2 * e)) & u(3)
                        total[r] += four[e] * load1_shared(right, u(u(near + position * side) + u(8 * s + e // 2 * 4) * side))
            half, near = u(half + u(1)), u(near + u(32) * side)
        cuda.syncthreads()
        p = u(p + u(32))
    for r in range(4):
        i = u(top + warp + u(8 * r))
        if i < m and j < n:
            y[u(i * n + j)] = total[r]


@rung(
    "matmul_2to4", "cuda", step=3, serves=True, integers=(1,),
    idea="positions are two bits, sixteen of them a word, packed before; four numbers are one load: one gather a product is left",
)  # fmt: skip
def pairs_gathered(values: Any, indices: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Predicted: 1 + 1/4 + 1/16 shared loads a product instead of three; positions are a 16th of the numbers; as bytes, a quarter."""

    def run(values, indices, b, y, m, h, n):
        deep = -(-h // 32) * 2
        words = empty(m * deep, u)
        launch(pack_positions, (-(-m * deep // THREADS),), (THREADS,), indices, words, u(h), u(deep), writes=[words])
        launch(gathered, over(m, n, 32), WARPS, values, words, b, y, u(m), u(h), u(n), u(deep), writes=[y])

    return two_of_four(values, indices, b, out, run)
