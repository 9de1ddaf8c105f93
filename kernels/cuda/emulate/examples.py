"""Kernels for first steps with `gnomon emulate`: a few lines each, some of them wrong on purpose."""

from numba import cuda, float32

SIDE = 32


def doubled(x, y):
    """y = 2 x"""
    i = cuda.grid(1)
    if i < x.size:
        y[i] = float32(2) * x[i]


def without_guard(x, y):
    """The same, but blocks that reach beyond the end read and write there."""
    i = cuda.grid(1)
    y[i] = float32(2) * x[i]


def transposed_straight(x, y):
    """y = x^T: rows of x are read side by side, columns of y are written 4 n bytes apart."""
    j, i = cuda.grid(2)
    y[j, i] = x[i, j]


def transposed(x, y):
    """y = x^T by way of a square in shared memory, whose columns fall into one bank."""
    square = cuda.shared.array((SIDE, SIDE), float32)
    a, b = cuda.threadIdx.x, cuda.threadIdx.y
    square[b, a] = x[cuda.blockIdx.y * SIDE + b, cuda.blockIdx.x * SIDE + a]
    cuda.syncthreads()
    y[cuda.blockIdx.x * SIDE + b, cuda.blockIdx.y * SIDE + a] = square[a, b]


def without_barrier(x, y):
    """The same without its barrier: a race."""
    square = cuda.shared.array((SIDE, SIDE), float32)
    a, b = cuda.threadIdx.x, cuda.threadIdx.y
    square[b, a] = x[cuda.blockIdx.y * SIDE + b, cuda.blockIdx.x * SIDE + a]
    y[cuda.blockIdx.x * SIDE + b, cuda.blockIdx.y * SIDE + a] = square[a, b]
