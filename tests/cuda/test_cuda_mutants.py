"""Kernels broken on purpose, and what catches each: a check of the emulator by its name, the definition, or a look at the PTX."""

import inspect
import re

import numpy as np
import pytest
import tally

pytestmark = pytest.mark.numba_cuda

SHAPES = [((37, 40), (40, 35)), ((130, 17), (17, 132))]

# what was done, the kernel or the function that makes it, what is replaced by what, and what catches it
MUTANTS = [
    ("the barrier before a tile is read", "shared_squares", "cuda.syncthreads()\n            for q", "for q", "race"),
    ("the barrier before a tile is written again", "shared_squares", "cuda.syncthreads()\n            p = ", "p = ", "race"),
    ("a swapped index of a tile", "shared_squares", "left[y, x] = ", "left[x, y] = ", "definition"),
    ("a swapped index of a factor", "shared_squares", "left[y, u(q)], right[u(q), x]", "left[y, u(q)], right[x, u(q)]", "definition"),
    ("the guard of a load", "shared_squares", " if u(p + y) < k and j < n else b.dtype.type(0)", "", "bounds"),
    ("the guard of a store", "shared_squares", "if i < m and j < n:\n            c[", "if j < n:\n            c[", "bounds"),
    (
        "zeros beyond the edge",
        "column_of_8",
        "tile_a[a_i, a_p] = ",
        "if i < m and u(p + a_p) < k:\n            tile_a[a_i, a_p] = ",
        "uninitialised",
    ),
    ("threads that stay away from a barrier", "shared_squares", "while p < k:", "while p < k and j < n:", "barrier"),
    ("a double among singles", "shared_squares", "    total = c.dtype.type(0)", "    total = 0.0", "double"),
    ("a double as a literal", "column_of_8", "total[r] += ", "total[r] += 1.0 * ", "double"),
    (
        "a tile that is larger than a device has",
        "square_of_8",
        "cuda.shared.array(OF_A, a.dtype)",
        "cuda.shared.array(65536, a.dtype)",
        "limit",
    ),
    ("whole words of rows that begin anywhere", "two_tiles", "words=False", "words=True", "alignment"),
    ("waiting for what is copied", "two_tiles", "wait_for_copies()\n", "\n", "uninitialised"),
    ("the barrier after waiting", "two_tiles", "wait_for_copies()\n            cuda.syncthreads()", "wait_for_copies()", "race"),
    (
        "the barrier before what is left of k",
        "two_tiles",
        "if rest > u(0):\n            b_at = ",
        "if rest > u(1000):\n            b_at = ",
        "definition",
    ),
    ("rows from inside of the edge", "two_tiles", "min(u(top + a_i + u(r) * u(32)), u(m - u(1)))", "u(top + a_i + u(r) * u(32))", "bounds"),
    ("which tile is where", "two_tiles", "even = u(u(1) - odd)", "even = odd", "race"),
]

MADE = {
    "shared_squares": "squares_by(fused)",
    "two_tiles": "in_background(lanes=16, warps=1, step=8, tall=64, wide=64, words=False)",
}


def mutant(name, old, new):
    """The kernel of matmul.py with its source changed: a function, or what a function that makes kernels makes."""
    from kernels.cuda import matmul

    call = MADE.get(name, name)
    source = f"{inspect.getsource(getattr(matmul, call.partition('(')[0]))}\nbroken = {call}\n"
    assert source.count(old) >= 1, f"{name} has no {old!r}"
    scope = dict(vars(matmul))
    exec(compile(source.replace(old, new, 1), matmul.__file__, "exec"), scope)
    return scope["broken"]


LAUNCHES = {
    "shared_squares": {"tile": (32, 32), "block": (32, 32)},
    "column_of_8": {"tile": (64, 64), "block": (512,)},
    "square_of_8": {"tile": (128, 128), "block": (256,)},
    "two_tiles": {"tile": (128, 128), "block": (256,)},
}


def caught(kernel, name):
    """By what: the check of a fault; "double" if the PTX of float32 works in double precision; "definition" if the product is wrong."""
    from kernels.cuda.arrays import multiply
    from kernels.cuda.emulate import Fault
    from kernels.cuda.launch import on

    rng = np.random.default_rng(0)
    for first, second in SHAPES:
        a, b = rng.normal(size=first).astype(np.float32), rng.normal(size=second[:1] + (second[1] - 1,)).astype(np.float32)
        with on("recorded") as device:
            multiply(kernel, a, b, None, **LAUNCHES[name])
        if doubles(device.launches[0].ptx((8, 0))[0]):
            return "double"
        try:
            with on("emulated", checks=True):
                c = multiply(kernel, a, b, None, **LAUNCHES[name])
        except Fault as fault:
            return fault.check
        if not np.allclose(c, a @ b, rtol=1e-4, atol=1e-4):
            return "definition"
    return "nothing"


def doubles(ptx):
    """Instructions of double precision."""
    return re.findall(r"^\s*(?:@!?%p\d+ )?(\w[\w.]*\.f64)\b", ptx, re.MULTILINE)


@pytest.mark.parametrize("case", MUTANTS, ids=lambda case: case[0].replace(" ", "-"))
def test_a_broken_kernel_is_caught(case):
    _, name, old, new, catches = case
    assert caught(mutant(name, old, new), name) == catches
    tally.ran("cuda", "a mutant is caught")


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_kernel_that_is_not_broken_passes(name):
    assert caught(mutant(name, "u(0)", "u(0)"), name) == "nothing"


def test_no_kernel_of_float32_works_in_double_precision():
    from kernels.cuda.launch import on
    from kernels.registry import ladder

    for op in ("matmul", "matmul_bf16"):
        for rung in ladder(op, "cuda"):
            if "float32" not in rung.rtol:
                continue
            with on("recorded") as device:
                for n in (4, 5):
                    rung.run(np.ones((3, 3), np.float32), np.ones((3, n), np.float32))
            for launch in device.launches:
                assert not doubles(launch.ptx((8, 0))[0]), f"{rung.name}: {launch.function}"
