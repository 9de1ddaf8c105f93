"""Steps of optimisers on a GPU, one idea at a time. The formulas are those of the CPU: `kernels/steps.py`.

    p, g, m, v   any one shape, any strides; float32 or float64

Arithmetic is for nothing here: what is counted are the bytes that a step moves for each parameter. Adam in float32 must read p, g, m, v
and write p, m, v, 28 bytes, so a device with 3.35 TB/s needs 8.4 ms for a billion parameters, and no kernel can do better.

Each takes arrays, or dicts of arrays under the same names, and returns the like, in place if `out` names the arguments themselves:
the contract is that of `kernels/cpu/update.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from kernels.cuda import elementwise
from kernels.cuda.arrays import dense
from kernels.cuda.intrinsics import applied, arrays_at, each, each4, put_each, put_each4
from kernels.cuda.launch import launch
from kernels.cuda.places import Places
from kernels.registry import rung
from kernels.steps import OPTIMISERS, Numbers, Optimiser, Run

u = np.uint32

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
THREADS = 256
WORDS = 4  # words of four numbers that a thread takes of a chunk
CHUNK = THREADS * 4 * WORDS  # numbers that a block takes

LINES = "a launch for each operation of the formula, as NumPy has it: what one computes goes to memory and comes back"
FUSED = "one launch, in the order of the formula: what was just written is read again, for arrays might overlap"
LOCALS = "each number is read once, before anything is written"
BY_WORDS = "words of 128 bits: four numbers an access"
TOGETHER = "one launch for all arrays of a model, by a table of chunks and of where arrays lie"


class Job(NamedTuple):
    """The arrays of a step by name: what is read, what is written, and the weight decay of each."""

    names: list[str]
    reads: list[tuple[np.ndarray, ...]]
    writes: list[tuple[np.ndarray, ...]]
    decays: list[float]
    results: tuple[Any, ...]

    @staticmethod
    def of(given: Sequence[Any], weight_decay: Any, out: Any) -> Job:
        """Raises ValueError for a shape, dtype or layout that does not fit, and for an `out` that overlaps with more than its argument."""
        named = isinstance(given[0], dict)
        dicts = [x if named else {"": x} for x in given]
        names = list(dicts[0])
        if any(list(d.keys() ^ dicts[0].keys()) for d in dicts):
            raise ValueError("all arguments are dicts of arrays under the same names")
        places = out or (None,) * (len(given) - 1)
        if len(places) != len(given) - 1:
            raise ValueError(f"out has {len(places)} places for {len(given) - 1} results")
        first = {name: np.asarray(x) for name, x in dicts[0].items()}
        if any(x.dtype not in FLOATS for x in first.values()):
            raise TypeError(f"wants arrays in one of {', '.join(map(str, FLOATS))}; given {', '.join({str(x.dtype) for x in first.values()})}")
        reads = [tuple([fitting(d[name], first[name], f"argument {i}", name) for i, d in enumerate(dicts)]) for name in names]
        new = [{name: np.empty(x.shape, x.dtype) for name, x in first.items()} if to is None else to if named else {"": to} for to in places]
        writes = [tuple([written(d[name], first[name], f"out[{i}]", name) for i, d in enumerate(new)]) for name in names]
        if out is not None:
            no_overlap(reads, writes, names)
        decays = [weight_decay[name] if isinstance(weight_decay, dict) else weight_decay for name in names]
        return Job(names, reads, writes, decays, tuple(new if named else [d[""] for d in new]))
