"""Kernels as Numba compiles them, for both of its compilers: results of NumPy on the emulator, all checks on."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tally

from kernels.cuda.emulate import CHECKS, Fault, run

pytestmark = pytest.mark.numba_cuda
DIALECTS = [(8, 0), (10, 0)]  # capabilities below 10 go through an older compiler
TARGETS = [(8, 0), (9, 0), (10, 0), (12, 0)]


@cache
def compiled(function, types, cc, bounds=None):
    from numba import cuda

    return cuda.compile(function, types, device=False, abi="numba", cc=cc, launch_bounds=bounds, lineinfo=True)[0]


def emulated(function, cc, grid, block, *args, shared=0, bounds=None, checks=True):
    from numba import from_dtype
    from numba.cuda import types

    kinds = tuple(types.Array(from_dtype(a.dtype), a.ndim, "C") if isinstance(a, np.ndarray) else from_dtype(a.dtype) for a in args)
    tally.ran("cuda", "a kernel of Numba on the emulator")
    return run(compiled(function, kinds, cc, bounds), None, grid, block, args, shared=shared, checks=checks, counters=True)


def kernels():
    """The kernels, made where Numba is there: they need its `cuda` among their globals."""
    from numba import cuda, float32, int32

    tile = 16

    def tiled(a, b, c):
        s, t = cuda.shared.array((tile, tile), float32), cuda.shared.array((tile, tile), float32)
        i, j = cuda.blockIdx.y * tile + cuda.threadIdx.y, cuda.blockIdx.x * tile + cuda.threadIdx.x
        total = float32(0)
        for k in range(0, a.shape[1], tile):
            y, x = cuda.threadIdx.y, cuda.threadIdx.x
            s[y, x] = a[i, k + x] if i < a.shape[0] and k + x < a.shape[1] else float32(0)
            t[y, x] = b[k + y, j] if k + y < b.shape[0] and j < b.shape[1] else float32(0)
            cuda.syncthreads()
            for p in range(tile):
                total += s[y, p] * t[p, x]
            cuda.syncthreads()
        if i < c.shape[0] and j < c.shape[1]:
            c[i, j] = total

    def summed(x, out):
        part = cuda.shared.array(32, float32)
        i = cuda.grid(1)
        total = x[i] if i < x.size else float32(0)
        for step in (16, 8, 4, 2, 1):
            total += cuda.shfl_down_sync(0xFFFFFFFF, total, step)
        if cuda.threadIdx.x % 32 == 0:
            part[cuda.threadIdx.x // 32] = total
        cuda.syncthreads()
        if cuda.threadIdx.x < 32:
            total = part[cuda.threadIdx.x] if cuda.threadIdx.x < cuda.blockDim.x // 32 else float32(0)
            for step in (16, 8, 4, 2, 1):
                total += cuda.shfl_down_sync(0xFFFFFFFF, total, step)
            if cuda.threadIdx.x == 0:
                cuda.atomic.add(out, 0, total)

    def histogram(x, counts):
        mine = cuda.shared.array(16, int32)
        if cuda.threadIdx.x < 16:
            mine[cuda.threadIdx.x] = 0
        cuda.syncthreads()
        i = cuda.grid(1)
        while i < x.size:
            cuda.atomic.add(mine, x[i] % 16, 1)
            i += cuda.gridsize(1)
        cuda.syncthreads()
        if cuda.threadIdx.x < 16:
            cuda.atomic.add(counts, cuda.threadIdx.x, mine[cuda.threadIdx.x])

    def polynomial(x, y):
        i = cuda.grid(1)
        if i < x.size:
            powers = cuda.local.array(6, float32)
            powers[0] = 1
            for k in range(1, 6):
                powers[k] = powers[k - 1] * x[i]
            n = i % 6
            y[i] = powers[n] + powers[(n + 3) % 6]

    def moved(x, y, n):
        more = cuda.shared.array(0, float32)
        i = cuda.threadIdx.x
        more[i] = x[i]
        cuda.syncthreads()
        y[i] = more[n - 1 - i]

    def divided(x, y, q, r):
        i = cuda.grid(1)
        if i < x.size and y[i] != 0:
            q[i] = x[i] // y[i]
            r[i] = x[i] % y[i]

    def voted(x, out):
        i = cuda.grid(1)
        yes = x[i] > 0
        out[i, 0] = cuda.ballot_sync(0xFFFFFFFF, yes)
        out[i, 1] = cuda.all_sync(0xFFFFFFFF, yes) + 2 * cuda.any_sync(0xFFFFFFFF, yes)
        out[i, 2] = cuda.popc(cuda.match_any_sync(0xFFFFFFFF, i // 5))
        out[i, 3] = cuda.syncthreads_count(int32(i % 3 == 0))
        out[i, 4] = cuda.clz(i) + 100 * cuda.ffs(i) + 10000 * cuda.popc(i)

    def extremes(x, out):
        i = cuda.grid(1)
        if i < x.size:
            cuda.atomic.max(out, 0, x[i])
            cuda.atomic.min(out, 1, x[i])
            cuda.atomic.add(out, 2, x[i])

    def out_of_bounds(x):
        x[cuda.grid(1) + 1] = 1

    return dict(locals())


@pytest.fixture(scope="module")
def k():
    return kernels()


@pytest.mark.parametrize("cc", TARGETS, ids=str)
def test_a_tiled_product_with_ragged_edges(k, cc):
    rng = np.random.default_rng(0)
    for m, kk, n in ((16, 16, 16), (33, 20, 17), (1, 40, 3)):
        a, b, c = rng.normal(size=(m, kk)).astype("f4"), rng.normal(size=(kk, n)).astype("f4"), np.zeros((m, n), "f4")
        report = emulated(k["tiled"], cc, (-(-n // 16), -(-m // 16)), (16, 16), a, b, c, bounds=256)
        assert np.abs(c - a.astype("f8") @ b).max() < 1e-5
        assert report.target == f"sm_{cc[0]}{cc[1]}" and report.counts.wavefronts_per_request() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("cc", DIALECTS, ids=str)
def test_sums_by_shuffles_and_atomics(k, cc):
    x, out = np.random.default_rng(1).normal(size=1000).astype("f4"), np.zeros(1, "f4")
    emulated(k["summed"], cc, 4, 256, x, out)
    assert out[0] == pytest.approx(x.sum(dtype="f8"), abs=1e-4)
    counts, y = np.zeros(16, "i4"), np.random.default_rng(2).integers(0, 1000, 777).astype("i4")
    emulated(k["histogram"], cc, 2, 64, y, counts)
    assert (counts == np.bincount(y % 16, minlength=16)).all()


@pytest.mark.parametrize("cc", DIALECTS, ids=str)
def test_local_arrays_and_dynamic_shared_memory(k, cc):
    x, y = np.random.default_rng(3).normal(size=100).astype("f4"), np.zeros(100, "f4")
    emulated(k["polynomial"], cc, 2, 64, x, y)
    n = np.arange(100) % 6
    assert np.allclose(y, x**n + x ** ((n + 3) % 6), rtol=1e-5)
    emulated(k["moved"], cc, 1, 96, x[:96], y[:96], np.int64(96), shared=4 * 96)
    assert (y[:96] == x[95::-1]).all()


@pytest.mark.parametrize("dtype", ["i8", "i4", "u4"])
@pytest.mark.parametrize("cc", DIALECTS, ids=str)
def test_quotients_round_down_as_pythons_do(k, cc, dtype):
    rng = np.random.default_rng(4)
    x, y = (rng.integers(-1000 if dtype[0] == "i" else 0, 1000, 200).astype(dtype) for _ in range(2))
    q, r = np.zeros(200, "i8"), np.zeros(200, "i8")
    emulated(k["divided"], cc, 1, 256, x, y, q, r)
    some = y != 0
    assert (q[some] == x[some].astype("i8") // y[some]).all() and (r[some] == x[some].astype("i8") % y[some]).all()


@pytest.mark.parametrize("cc", DIALECTS, ids=str)
def test_what_warps_do_together(k, cc):
    x, out = np.random.default_rng(5).normal(size=64).astype("f4"), np.zeros((64, 5), "i8")
    x[32:] = np.abs(x[32:]) + 1
    emulated(k["voted"], cc, 1, 64, x, out)
    ballot = np.packbits((x > 0).reshape(2, 32), axis=1, bitorder="little").view("u4")[:, 0].astype("i8")
    assert (out[:, 0] % 2**32 == ballot.repeat(32)).all()
    assert (out[:, 1] == np.repeat([2, 3], 32)).all()
    i = np.arange(64)
    assert (out[:, 2] == [sum(j // 5 == v // 5 and j // 32 == v // 32 for j in i) for v in i]).all()
    assert (out[:, 3] == 22).all()
    assert (out[:, 4] == [64 - int(v).bit_length() + 100 * (int(v) & -int(v)).bit_length() + 10000 * int(v).bit_count() for v in i]).all()


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8"])
@pytest.mark.parametrize("cc", DIALECTS, ids=str)
def test_atomic_extremes(k, cc, dtype):
    x = (np.random.default_rng(6).normal(size=100) * 100).astype(dtype)
    out = np.zeros(3, dtype)
    emulated(k["extremes"], cc, 1, 128, x, out)
    assert out[0] == x.max() and out[1] == x.min() and out[2] == pytest.approx(x.sum(dtype="f8"), abs=1e-3)


FUNCTIONS = {
    "exp": (math.exp, np.exp, (-20, 20)),
    "log": (math.log, np.log, (1e-6, 1e6)),
    "sqrt": (math.sqrt, np.sqrt, (0, 1e9)),
    "sin": (math.sin, np.sin, (-1e6, 1e6)),
    "cos": (math.cos, np.cos, (-50, 50)),
    "tan": (math.tan, np.tan, (-1, 1)),
    "tanh": (math.tanh, np.tanh, (-9, 9)),
    "erf": (math.erf, None, (-4, 4)),
    "atan": (math.atan, np.arctan, (-1e3, 1e3)),
    "expm1": (math.expm1, np.expm1, (-1, 1)),
    "log1p": (math.log1p, np.log1p, (-0.9, 9)),
    "sinh": (math.sinh, np.sinh, (-9, 9)),
    "acos": (math.acos, np.arccos, (-1, 1)),
}


@pytest.mark.parametrize("cc", DIALECTS, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_libdevice(name, cc):
    """Within a few units in the last place of the true value, as NVIDIA states: every instruction between is rounded as on the device."""
    from numba import cuda

    f, truth, (low, high) = FUNCTIONS[name]

    def mapped(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = f(x[i])

    for dtype in ("f4", "f8"):
        x = np.random.default_rng(7).uniform(low, high, 200).astype(dtype)
        y = np.zeros_like(x)
        emulated(mapped, cc, 1, 256, x, y)
        wanted = truth(x.astype("f8")) if truth else np.array([f(float(v)) for v in x])
        assert (np.abs(y - wanted) <= 8 * np.spacing(np.abs(wanted).astype(dtype))).all()


@pytest.mark.parametrize("cc", DIALECTS, ids=str)
def test_powers_and_quotients_of_numbers(cc):
    from numba import cuda

    def powers(x, y, out):
        i = cuda.grid(1)
        if i < x.size:
            out[0, i] = x[i] ** y[i]
            out[1, i] = x[i] ** 3
            out[2, i] = x[i] / y[i]
            out[3, i] = math.fmod(x[i], y[i])
            out[4, i] = round(x[i])

    for dtype in ("f4", "f8"):
        rng = np.random.default_rng(8)
        x, y = rng.uniform(0.1, 10, 100).astype(dtype), rng.uniform(-3, 3, 100).astype(dtype)
        out = np.zeros((5, 100), dtype)
        emulated(powers, cc, 1, 128, x, y, out)
        wanted = np.stack([x.astype("f8") ** y, x.astype("f8") ** 3, x.astype("f8") / y, np.fmod(x, y).astype("f8"), np.rint(x)])
        assert (np.abs(out - wanted) <= 8 * np.spacing(np.abs(wanted).astype(dtype))).all()
        assert (out[2] == x / y).all()


@pytest.mark.parametrize("cc", DIALECTS, ids=str)
def test_half_numbers_are_converted(cc):
    from numba import cuda

    def scaled(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = np.float16(np.float32(x[i]) * np.float32(1.5))

    x, y = np.random.default_rng(9).normal(size=50).astype("f2"), np.zeros(50, "f2")
    emulated(scaled, cc, 1, 64, x, y)
    assert (y == (x.astype("f4") * np.float32(1.5)).astype("f2")).all()


def test_a_fault_names_the_line_of_the_python_source(k):
    with pytest.raises(Fault) as stopped:
        emulated(k["out_of_bounds"], (8, 0), 1, 32, np.zeros(32, "f4"))
    assert stopped.value.check == "bounds" and stopped.value.threads[0].thread == (31, 0, 0)
    file, line = stopped.value.source
    assert file == __file__ and "x[cuda.grid(1) + 1] = 1" in Path(file).read_text().splitlines()[line - 1]


def test_a_dropped_barrier_is_a_race(k):
    from numba import from_dtype
    from numba.cuda import types

    a = np.ones((32, 32), "f4")
    kind = types.Array(from_dtype(a.dtype), 2, "C")
    text = compiled(k["tiled"], (kind, kind, kind), (8, 0), 256)
    places = [i for i, line in enumerate(text.splitlines()) if "bar.sync" in line]
    assert len(places) == 2
    for place in places:
        lines = text.splitlines()
        lines[place] = ""
        c = np.zeros_like(a)
        run("\n".join(lines), None, (2, 2), (16, 16), [a, a, c], checks=False)
        with pytest.raises(Fault) as stopped:
            run("\n".join(lines), None, (2, 2), (16, 16), [a, a, c], checks=CHECKS)
        assert stopped.value.check == "race"
