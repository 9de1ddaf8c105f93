"""What the tests of CUDA products share: shapes that nothing divides, and the device that they run on."""

import os

import numpy as np
from hypothesis import strategies as st
from strategies import LAYOUTS, laid_out

EDGES = st.one_of(st.integers(0, 9), st.sampled_from([15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 132]))
DEPTHS = st.one_of(st.integers(0, 9), st.sampled_from([15, 16, 17, 24, 33, 64, 65]))
LEADING = [((), ())] * 3 + [((2,), (2,)), ((2,), ()), ((), (2,)), ((2, 1), (1, 2)), ((0,), ()), ((1, 1), (2,))]


def checked():
    """All launches in this block are checked by the emulator; with GNOMON_DEVICE=real they run on a GPU."""
    from kernels.cuda.launch import on

    return on("real") if os.environ.get("GNOMON_DEVICE") == "real" else on("emulated", checks=True)


@st.composite
def factors(draw, dtypes):
    """Two stacks of matrices in a layout, and their dtype, "float32" or "uint8 int8"."""
    dtype = draw(st.sampled_from(sorted(dtypes)))
    first, second = draw(st.sampled_from(LEADING))
    m, k, n = draw(EDGES), draw(DEPTHS), draw(EDGES)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    layout = draw(st.sampled_from(LAYOUTS))
    kinds = dtype.split() * (2 if len(dtype.split()) == 1 else 1)
    pair = zip(((*first, m, k), (*second, k, n)), kinds, strict=True)
    return [laid_out(numbers(rng, shape, kind), layout) for shape, kind in pair], dtype


def numbers(rng, shape, kind):
    if np.dtype(kind).kind == "f":
        return rng.normal(size=shape).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max + 1, shape).astype(kind)
