"""C = A B of small whole numbers on a GPU, one idea at a time. Exact: every rung gives the same bits.

    a (..., m, k) uint8 or int8   b (..., k, n) int8   c (..., m, n) int32     any strides; leading axes broadcast

The loops are those of `matmul.py` and `tensor.py`; what is new is what one step of a sum is: a product of two bytes, then `dp4a`, four
products of two words of four bytes, neighbours along k, then a warp's 4096 products on tensor cores. Words are packed by a pass over each
factor, before; zeros fill the last one. A sum that leaves the range of int32 wraps around, on every rung.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from kernels.cuda.arrays import by_pieces, counted, multiply, step
from kernels.cuda.conv_int8 import EXACT, THREADS, pack
from kernels.cuda.intrinsics import dp4a
from kernels.cuda.launch import Kernel, empty, launch
from kernels.cuda.matmul import LARGE, SQUARE, flat_by, in_background, squares_by, tiles_by
from kernels.cuda.tensor import on_tensor_cores
from kernels.registry import rung

u, i32 = np.uint32, np.int32


@cuda.jit(device=True, inline="always")
def byte(total, x, y):
    return i32(total + i32(x) * i32(y))


byte_thread = flat_by(byte)
word_thread = flat_by(dp4a)
word_squares = squares_by(dp4a)


@rung("matmul_int8", "cuda", step=1, wants="... m k, ... k n", rtol=EXACT, idea="the definition: one inner product a thread, byte by byte")
def bytes_a_thread(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: a request of b is 32 bytes, one sector where float32 has four; each byte is converted: matmul's loop and two more."""
    return multiply(byte_thread, a, b, out, tile=(8, 32), block=(32, 8), dtype=np.int32)


def words_of(x: np.ndarray, *, columns: bool) -> Any:
    """The rows of x (s, m, k) in words, flat (s, m, k / 4), or its columns (s, k, n), flat (s, k / 4, n); k rounded up to whole words."""
    many, m, n = x.shape
    planes, k, plane = (many, m, n) if columns else (many * m, n, 1)
    deep = -(-k // 4)
    words = empty(planes * deep * plane, np.uint32 if x.dtype == np.uint8 else np.int32)
    sizes = map(np.uint32, (k, plane, deep, words.size, 0))
    launch(pack, (-(-words.size // THREADS),), (THREADS,), x.reshape(-1), words, *sizes, writes=[words])
    return words


def multiply_words(kernel: Kernel, a: Any, b: Any, out: np.ndarray | None, *, tile: tuple[int, int], block: tuple[int, ...]) -> np.ndarray:
    """`multiply` with words for numbers: a is (s, m, k / 4), b is (s, k / 4, n)."""

    def run(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
        (many, m, n), deep = z.shape, -(-x.shape[2] // 4)
        counted(x, y, z)
        grid = -(-n // tile[1]), -(-m // tile[0]), many
        sizes = map(np.uint32, (m, n, deep, m * deep if step(x) else 0, deep * n if step(y) else 0))
        z = z.reshape(-1)
        launch(kernel, grid, block, words_of(x, columns=False), words_of(y, columns=True), z, *sizes, writes=[z])

    return by_pieces(run, a, b, out, np.int32, tile[0])


@rung(
    "matmul_int8", "cuda", step=2, rtol=EXACT, idea="four neighbours along k are one word, packed before: dp4a adds four products at once"
)
def words_a_thread(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: a quarter of the loads, a quarter of the instructions, and none that converts. Packing is a pass: as n to 1."""
    return multiply_words(word_thread, a, b, out, tile=(8, 32), block=(32, 8))


@rung(
    "matmul_int8",
    "cuda",
    step=3,
    rtol=EXACT,
    idea="squares of words in shared memory: 128 of k at a time, a word fetched is used by 32 threads",
)
def squares_of_words(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: a 32nd of the bytes from memory, and a quarter of the instructions a product of matmul's squares."""
    return multiply_words(word_squares, a, b, out, tile=(SQUARE, SQUARE), block=(32, 32))


word_tiles = in_background(lanes=8, warps=2, step=32, tall=16, wide=32, words=True, add_tiles=tiles_by(dp4a))
word_tiles_by_number = in_background(lanes=8, warps=2, step=32, tall=16, wide=32, words=False, add_tiles=tiles_by(dp4a))


@rung(
    "matmul_int8",
    "cuda",
    step=4,
    rtol=EXACT,
    idea="the tiles of matmul's served rung, of words: 8 by 8 sums a thread, the next tiles arrive in the background",
)
def tiles_of_words(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: a quarter of matmul's instructions a product: the same loop, with dp4a where the fused product was."""
    kernel = word_tiles if b.shape[-1] % 4 == 0 else word_tiles_by_number
    return multiply_words(kernel, a, b, out, tile=(LARGE, LARGE), block=(256,))


@rung(
    "matmul_int8",
    "cuda",
    step=5,
    serves=True,
    rtol=EXACT,
    idea="tensor cores: 4096 products of a warp are one instruction (IMMA), read by ldmatrix",
)
def tensor_int8(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Predicted: of an instruction 128 products a lane instead of four; half the bytes of float16, from the same kernel."""
    return on_tensor_cores("u8" if a.dtype == np.uint8 else "s8", a, b, out, np.int32)
