"""Each intrinsic does what its twin in NumPy does, on the emulator with all checks on."""

import numpy as np
import pytest
import tally
from products import checked

pytestmark = pytest.mark.numba_cuda
u = np.uint32
SHARED = 256  # numbers in the tiles below


def run(kernel, *args, writes, block=32):
    from kernels.cuda.launch import launch

    with checked():
        launch(kernel, (1,), (block,), *args, writes=writes)
    tally.ran("cuda", "an intrinsic does what its twin does")


def flat(n, dtype, seed=0):
    from kernels.cuda.arrays import aligned

    x = aligned((n,), dtype)
    x[...] = np.arange(n) if np.dtype(dtype).kind == "u" else np.random.default_rng(seed).normal(size=n) * 3
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_four_at_a_time(dtype):
    from numba import cuda

    from kernels.cuda import intrinsics as of

    load4, store4, load4_shared, address, load1_shared = of.load4, of.store4, of.load4_shared, of.address, of.load1_shared

    def kernel(x, y, z, one):
        tile = cuda.shared.array(SHARED, x.dtype, alignment=16)
        i = u(u(cuda.threadIdx.x) * u(4))
        a, b, c, d = load4(x, i)
        store4(y, i, (d, c, b, a))
        store4(tile, i, (a, b, c, d))
        cuda.syncthreads()
        store4(z, i, load4_shared(tile, address(tile, u(u(124) - i))))
        one[cuda.threadIdx.x] = load1_shared(tile, address(tile, u(i + u(1))))

    x, y, z, one = flat(128, dtype), flat(128, dtype), flat(128, dtype), flat(32, dtype)
    run(kernel, x, y, z, one, writes=[y, z, one])
    want, turned = np.empty_like(x), np.empty_like(x)
    for i in range(0, 128, 4):
        of.store4_twin(want, i, of.load4_twin(x, i)[::-1])
        of.store4_twin(turned, i, of.load4_shared_twin(x, of.address_twin(x, 124 - i)))
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(z, turned)
    assert one.tolist() == [of.load1_shared_twin(x, of.address_twin(x, i + 1)) for i in range(0, 128, 4)]


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_two_at_a_time(dtype):
    from numba import cuda

    from kernels.cuda import intrinsics as of

    store2 = of.store2

    def kernel(x, y):
        i = u(u(cuda.threadIdx.x) * u(2))
        store2(y, i, (x[u(i + u(1))], x[i]))

    x, y, want = flat(64, dtype), flat(64, dtype), np.empty(64, dtype)
    run(kernel, x, y, writes=[y])
    for i in range(0, 64, 2):
        of.store2_twin(want, i, (x[i + 1], x[i]))
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_copies_in_the_background(dtype):
    from numba import cuda

    from kernels.cuda import intrinsics as of

    copy1, copy4, wait_for_copies = of.copy1, of.copy4, of.wait_for_copies

    def kernel(x, y):
        tile = cuda.shared.array(SHARED, x.dtype, alignment=16)
        t = u(cuda.threadIdx.x)
        copy4(tile, u(t * u(4)), x, u(u(124) - t * u(4)))
        copy1(tile, u(u(128) + t), x, u(u(31) - t))
        wait_for_copies()
        cuda.syncthreads()
        for r in range(5):
            y[u(t + u(r) * u(32))] = tile[u(t + u(r) * u(32))]

    x, y, want = flat(128, dtype), flat(160, dtype), np.empty(160, dtype)
    run(kernel, x, y, writes=[y])
    for t in range(32):
        of.copy4_twin(want, 4 * t, x, 124 - 4 * t)
        of.copy1_twin(want, 128 + t, x, 31 - t)
    np.testing.assert_array_equal(y, want)


def test_numbers_and_their_bits():
    from numba import cuda

    from kernels.cuda import intrinsics as of

    bits, number, tf32, half = of.bits, of.number, of.tf32, of.half

    def kernel(x, y, z):
        t = u(cuda.threadIdx.x)
        y[t] = bits(number(tf32(x[t])))
        z[t] = half(x[t])

    x = flat(32, np.float32)
    x[:8] = [0.0, -0.0, np.inf, -np.inf, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 65520.0, 1e-8]  # ties, and the ends of float16
    y, z = np.empty(32, np.uint32), np.empty(32, np.uint16)
    run(kernel, x, y, z, writes=[y, z])
    np.testing.assert_array_equal(y, of.bits_twin(of.number_twin(of.tf32_twin(x))))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(z, of.half_twin(x))
    assert of.number_twin(of.tf32_twin(np.float32(1 + 2.0**-11))) == 1 + 2.0**-10, "ties go away from zero"


def test_matrices_from_shared_memory():
    from numba import cuda

    from kernels.cuda import intrinsics as of

    load_matrices, address = of.load_matrices, of.address

    def kernel(x, rows, y):
        tile = cuda.shared.array(SHARED, np.uint32, alignment=16)
        t = u(cuda.threadIdx.x)
        for r in range(8):
            tile[u(t + u(r) * u(32))] = x[u(t + u(r) * u(32))]
        cuda.syncthreads()
        a, b, c, d = load_matrices(tile, address(tile, u(rows[t] * u(4))))
        y[u(t * u(4))], y[u(t * u(4) + u(1))], y[u(t * u(4) + u(2))], y[u(t * u(4) + u(3))] = a, b, c, d

    rng = np.random.default_rng(4)
    x = rng.integers(0, 2**32, SHARED, dtype=np.uint32)
    rows, y = rng.permutation(64)[:32].astype(np.uint32), np.empty(128, np.uint32)
    run(kernel, x, rows, y, writes=[y])
    np.testing.assert_array_equal(y.reshape(32, 4), of.load_matrices_twin(x, rows * 16))


@pytest.mark.parametrize("kind", ["tf32", "f16", "bf16", "s8", "u8"])
def test_a_product_of_a_warp(kind):
    """Of whole numbers, so that the sums are exact in any order."""
    from numba import cuda

    from kernels.cuda import intrinsics as of

    multiply_add = of.product_of_warp(kind)
    numbers = np.int32 if kind in ("s8", "u8") else np.float32

    def kernel(a, b, c):
        t = u(cuda.threadIdx.x)
        i, j = u(t * u(4)), u(t * u(2))
        x = multiply_add(
            (a[i], a[u(i + u(1))], a[u(i + u(2))], a[u(i + u(3))]),
            (b[j], b[u(j + u(1))]),
            (c[i], c[u(i + u(1))], c[u(i + u(2))], c[u(i + u(3))]),
        )
        c[i], c[u(i + u(1))], c[u(i + u(2))], c[u(i + u(3))] = x

    rng = np.random.default_rng(5)
    a, b = (words(kind if first else kind.replace("u8", "s8"), rng, 32 * n) for n, first in ((4, True), (2, False)))
    c = rng.integers(-99, 100, 128).astype(numbers)
    before = c.copy()
    run(kernel, a, b, c, writes=[c])
    np.testing.assert_array_equal(
        c.reshape(32, 4), of.product_of_warp_twin(kind, a.reshape(32, 4), b.reshape(32, 2), before.reshape(32, 4))
    )
    assert not np.array_equal(c, before)


def words(kind, rng, n):
    """n words of small whole numbers."""
    dtype = {"tf32": np.float32, "f16": np.float16, "bf16": np.float32, "s8": np.int8, "u8": np.uint8}[kind]
    x = rng.integers(0 if kind == "u8" else -8, 9, n * {"tf32": 1, "f16": 2, "bf16": 2}.get(kind, 4)).astype(dtype)
    if kind == "bf16":
        return (x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint32)
    return x.view(np.uint32)


@pytest.mark.parametrize("left", ["uint32", "int32"])
@pytest.mark.parametrize("right", ["uint32", "int32"])
def test_four_products_of_bytes(left, right):
    from numba import cuda

    from kernels.cuda import intrinsics as of

    dp4a = of.dp4a

    def kernel(a, b, c):
        i = u(cuda.threadIdx.x)
        c[i] = dp4a(c[i], a[i], b[i])

    rng = np.random.default_rng(6)
    a, b = rng.integers(0, 2**32, (2, 32)).astype(np.uint32)
    a, b, c = a.view(left), b.view(right), rng.integers(-99, 100, 32).astype(np.int32)
    want = [of.dp4a_twin(c[i], a[i], b[i]) for i in range(32)]
    run(kernel, a, b, c, writes=[c])
    np.testing.assert_array_equal(c, want)
