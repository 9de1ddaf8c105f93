"""Steps of optimisers on a GPU, one idea at a time. The formulas are those of the CPU: `kernels/steps.py`.

    p, g, m, v   any one shape, any strides; float32 or float64

Arithmetic is for nothing here: what counts are the bytes that a step moves for each parameter. Adam in float32 must read p, g, m, v and
write p, m, v, 28 bytes: with 3.35 TB/s that is 8.4 ms for a billion parameters, and no kernel can do better.

Each takes arrays, or dicts of arrays under the same names, and returns the like, in place if `out` names the arguments themselves:
the contract is that of `kernels/cpu/update.py`. `mixed` makes a step for parameters in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from kernels import scalars
from kernels.cuda import elementwise
from kernels.cuda.arrays import dense
from kernels.cuda.intrinsics import (
    WORD,
    applied,
    arrays_at,
    at_words,
    bfloat16,
    each,
    each_word,
    from_bfloat16,
    from_half,
    half,
    load4,
    put_each,
    put_each_word,
    several,
    store4,
)  # fmt: skip
from kernels.cuda.launch import Kernel, launch
from kernels.cuda.places import Places
from kernels.cuda.targets import WARP
from kernels.registry import rung
from kernels.steps import OPTIMISERS, Numbers, Optimiser, Run

u = np.uint32

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
THREADS = 256
CHUNK = 4096  # numbers that a block takes: four words a thread, or eight
ROOM = 2**31  # numbers in an array

LINES = "a launch for each operation of the formula, as NumPy has it: what each makes goes to memory and comes back"
FUSED = "one launch, in the order of the formula: what is used again is read again, for a store might have changed it"
LOCALS = "each number is read once, before anything is written"
BY_WORDS = "words of 128 bits: four numbers of float32 an access"
TOGETHER = "one launch for all arrays of a model, by a table of chunks and one of where arrays lie"

# What a step is given, and where its results go.


class Job(NamedTuple):
    """By name: what is read, what is written, the weight decay. Flat arrays."""

    reads: list[tuple[np.ndarray, ...]]
    writes: list[tuple[np.ndarray, ...]]
    decays: list[float]
    results: tuple[Any, ...]

    @staticmethod
    def of(given: Sequence[Any], weight_decay: Any, out: Any, narrow: np.dtype | None = None) -> Job:
        """If `narrow`, g is of that dtype, and so is one result more, the last.

        Raises ValueError for a shape, dtype or layout that does not fit, and for an `out` that overlaps with more than its argument.
        """
        named = isinstance(given[0], dict)
        dicts = [x if named else {"": x} for x in given]
        first = dicts[0]
        if any(d.keys() != first.keys() for d in dicts):
            raise ValueError("all arguments are dicts of arrays under the same names")
        results = len(given) - (narrow is None)
        to = [None] * results if out is None else list(out)
        if len(to) != results:
            raise ValueError(f"out has {len(to)} places for {results} results")
        dtype = next((getattr(p, "dtype", None) for p in first.values()), FLOATS[0])
        if dtype is None or dtype not in FLOATS:  # None equals float64, for NumPy
            raise TypeError(f"wants arrays of NumPy's, in one of {', '.join(map(str, FLOATS))}; the first one is {dtype}")
        kinds = [dtype] * (len(given) + results)
        if narrow is not None:
            kinds[1] = kinds[-1] = narrow
        new = [
            {name: np.empty(p.shape, kind) for name, p in first.items()} if d is None else d if named else {"": d}
            for d, kind in zip(to, kinds[len(given) :], strict=True)
        ]
        for slot, (d, kind) in enumerate(zip([*dicts, *new], kinds, strict=True)):
            for name, p in first.items():
                fits(d.get(name), p.shape, kind, told(slot, len(dicts), name), written=slot >= len(dicts))
        reads = [tuple([dense(np.asarray(d[name])).reshape(-1) for d in dicts]) for name in first]
        writes = [tuple([d[name].reshape(-1) for d in new]) for name in first]
        if out is not None:
            no_overlap(reads, writes, list(first))
        decays = [weight_decay[name] if isinstance(weight_decay, dict) else weight_decay for name in first]
        return Job(reads, writes, decays, tuple(new if named else [d[""] for d in new]))


def told(slot: int, reads: int, name: str) -> str:
    array = ("p", "g", "the first moment", "the second moment")[slot] if slot < reads else f"out[{slot - reads}]"
    return f"{array} of {name!r}" if name else array


def fits(x: Any, shape: tuple[int, ...], dtype: np.dtype, name: str, written: bool) -> None:
    good = isinstance(x, (np.ndarray, np.generic)) and x.shape == shape and x.dtype == dtype and x.size < ROOM
    if not good or (written and not (isinstance(x, np.ndarray) and x.flags.carray)):
        given = f"{x.shape} {x.dtype}" if hasattr(x, "dtype") else "missing" if x is None else type(x).__name__
        raise ValueError(f"{name} is {given}; wanted is {shape} {dtype}" + (", in C order and writable" if written else ""))


def no_overlap(reads: list[tuple[np.ndarray, ...]], writes: list[tuple[np.ndarray, ...]], names: list[str]) -> None:
    """Raises ValueError if a result would be written over what is still to be read. Over its own argument it may be written."""
    spans = []
    for name, read, write in zip(names, reads, writes, strict=True):
        own = [write[max(i - 1, 0)] if i != 1 else None for i in range(len(read))]  # each argument but the gradient has a result
        spans += [(*span(x), False, told(i, len(read), name)) for i, x in enumerate(read) if own[i] is None or span(x) != span(own[i])]
        spans += [(*span(x), True, told(len(read) + i, len(read), name)) for i, x in enumerate(write)]
    end_read = end_written = 0
    last = ""
    for start, end, is_result, name in sorted(s for s in spans if s[0] < s[1]):
        if start < end_written or (is_result and start < end_read):
            raise ValueError(f"{name if is_result else last} has memory in common with another array; it may be its own argument, no other")
        if is_result:
            end_written, last = end, name
        else:
            end_read = max(end_read, end)


def span(x: np.ndarray) -> tuple[int, int]:
    start = x.__array_interface__["data"][0]
    return start, start + x.nbytes


def in_turn(run: Callable[..., None]) -> Run:
    """A step that does one array after the other: run(reads, writes, numbers)."""

    def step(given: Sequence[Any], numbers: Numbers, weight_decay: Any, out: Any) -> tuple[Any, ...]:
        job = Job.of(given, weight_decay, out)
        for reads, writes, decay in zip(job.reads, job.writes, job.decays, strict=True):
            if reads[0].size:
                run(reads, writes, tuple([reads[0].dtype.type(x) for x in numbers(decay)]))
        return job.results

    return step


# A launch for each operation.


root_of_each = elementwise.of_one(elementwise.by_words, sqrt)  # made once: a new function would be compiled at each step


class Launched:
    """An array on which each operation is a launch of its own, as each of NumPy's is a pass; or a number, on which it is none."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def _with(self, f: Any, other: Launched) -> Launched:
        a, b = self.value, other.value
        return Launched(elementwise.mapped(elementwise.by_words, f, a, b) if a.ndim + b.ndim else f(a, b))

    def __add__(self, other: Launched) -> Launched:
        return self._with(scalars.add, other)

    def __sub__(self, other: Launched) -> Launched:
        return self._with(scalars.subtract, other)

    def __mul__(self, other: Launched) -> Launched:
        return self._with(scalars.multiply, other)

    def __truediv__(self, other: Launched) -> Launched:
        return self._with(scalars.divide, other)

    def sqrt(self) -> Launched:
        """What `np.sqrt` calls on an object that is no number of NumPy's."""
        return Launched(root_of_each(self.value) if self.value.ndim else np.sqrt(self.value))


def by_lines(made: Optimiser) -> Run:
    """Predicted for Adam: 15 launches, 144 bytes a parameter: 12 for two arrays and what they make, 8 for one."""
    formula = made.formula(np.sqrt)

    @in_turn
    def lines(reads: tuple[Any, ...], writes: tuple[Any, ...], numbers: tuple[Any, ...]) -> None:
        for to, result in zip(writes, formula(*map(Launched, (*reads, *numbers))), strict=True):
            to[...] = result.value

    return lines


# One launch for an array. Kernels: (reads, writes, numbers, n), the first three tuples.


@cuda.jit(device=True, inline="always")
def number_of_thread():
    return u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))


def sgd_in_order(reads, writes, numbers, n):
    (p, g), (new_p,), (lr, decay) = reads, writes, numbers
    i = number_of_thread()
    if i < n:
        new_p[i] = p[i] - lr * (g[i] + decay * p[i])


def momentum_in_order(reads, writes, numbers, n):
    (p, g, m), (new_p, new_m), (lr, momentum, decay) = reads, writes, numbers
    i = number_of_thread()
    if i < n:
        new_m[i] = momentum * m[i] + (g[i] + decay * p[i])
        new_p[i] = p[i] - lr * new_m[i]


def nesterov_in_order(reads, writes, numbers, n):
    (p, g, m), (new_p, new_m), (lr, momentum, decay) = reads, writes, numbers
    i = number_of_thread()
    if i < n:
        new_m[i] = momentum * m[i] + (g[i] + decay * p[i])
        new_p[i] = p[i] - lr * ((g[i] + decay * p[i]) + momentum * new_m[i])


def adagrad_in_order(reads, writes, numbers, n):
    (p, g, v), (new_p, new_v), (lr, eps, decay) = reads, writes, numbers
    i = number_of_thread()
    if i < n:
        new_v[i] = v[i] + (g[i] + decay * p[i]) * (g[i] + decay * p[i])
        new_p[i] = p[i] - lr * (g[i] + decay * p[i]) / (sqrt(new_v[i]) + eps)


def rmsprop_in_order(reads, writes, numbers, n):
    (p, g, v), (new_p, new_v), (lr, alpha, rest, eps, decay) = reads, writes, numbers
    i = number_of_thread()
    if i < n:
        new_v[i] = alpha * v[i] + rest * ((g[i] + decay * p[i]) * (g[i] + decay * p[i]))
        new_p[i] = p[i] - lr * (g[i] + decay * p[i]) / (sqrt(new_v[i]) + eps)


def adam_in_order(reads, writes, numbers, n):
    (p, g, m, v), (new_p, new_m, new_v) = reads, writes
    length, c2, beta1, rest1, beta2, rest2, eps, decay, kept = numbers
    i = number_of_thread()
    if i < n:
        new_m[i] = beta1 * m[i] + rest1 * (g[i] + decay * p[i])
        new_v[i] = beta2 * v[i] + rest2 * ((g[i] + decay * p[i]) * (g[i] + decay * p[i]))
        new_p[i] = kept * p[i] - length * new_m[i] / (sqrt(new_v[i] / c2) + eps)


IN_ORDER = {
    "sgd_step": sgd_in_order, "momentum_step": momentum_in_order, "nesterov_step": nesterov_in_order, "adagrad_step": adagrad_in_order,
    "rmsprop_step": rmsprop_in_order, "adam_step": adam_in_order, "adamw_step": adam_in_order,
}  # fmt: skip


def in_order(op: str, _: int) -> Kernel:
    return IN_ORDER[op]


@cache
def locals_first(formula: Any, reads: int, _: int) -> Kernel:
    formula = applied(formula(sqrt), reads - 1)

    def kernel(reads, writes, numbers, n):
        i = number_of_thread()
        if i < n:
            put_each(writes, i, formula(each(reads, i), numbers))

    return kernel


@cache
def word(formula: Any, reads: int, wide: int) -> Any:
    """For kernels: the step of a word of neighbours from i on, `wide` of them, of those that come before n."""
    formula = applied(formula(sqrt), reads - 1)

    @cuda.jit(device=True, inline="always")
    def run(reads, writes, numbers, i, n, whole):
        if whole and u(i + u(wide - 1)) < n:
            put_each_word(writes, i, formula(each_word(reads, i), numbers))
        else:
            for e in range(wide):
                if u(i + u(e)) < n:
                    put_each(writes, u(i + u(e)), formula(each(reads, u(i + u(e))), numbers))

    return run


@cache
def word_a_thread(formula: Any, reads: int, wide: int) -> Kernel:
    of_word = word(formula, reads, wide)

    def kernel(reads, writes, numbers, n):
        of_word(reads, writes, numbers, u(number_of_thread() * u(wide)), n, at_words(reads) and at_words(writes))

    return kernel


def launched(kernel: Callable[[int], Kernel], words: bool = False) -> Callable[..., None]:
    """kernel(numbers of a word) takes one number a thread, or one word."""

    def run(reads: tuple[Any, ...], writes: tuple[Any, ...], numbers: tuple[Any, ...]) -> None:
        n, wide = reads[0].size, WORD // reads[0].itemsize
        blocks = -(-n // (THREADS * wide if words else THREADS))
        launch(kernel(wide), (blocks,), (THREADS,), reads, writes, numbers, u(n), writes=writes)

    return run


# One launch for a model.

SLOTS, NUMBERS = 8, 16  # addresses of a line and numbers of a formula: at most


@cache
def looked_up(slots: int, count: int) -> Any:
    """For kernels: what the chunk of a block is, where the arrays lie, and the numbers of its formula, to shared memory."""

    @cuda.jit(device=True, inline="always")
    def run(places, chunks, numbers, where, bounds, same):
        t = u(cuda.threadIdx.x)
        if t < u(WARP):
            line, group, start, end = load4(chunks, u(u(cuda.blockIdx.x) * u(4)))
            if t < u(slots):
                where[t] = places[u(line * u(slots) + t)]
            if t < u(count):
                same[t] = numbers[u(group * u(count) + t)]
            if t == u(0):
                bounds[0], bounds[1] = start, end
        cuda.syncthreads()

    return run


@cache
def chunk_a_block(formula: Any, arrays: int, count: int, wide: int) -> Kernel:
    of_word, look_up = word(formula, arrays, wide), looked_up(2 * arrays - 1, count)
    read_at, written_at, taken = arrays_at(arrays), arrays_at(arrays - 1), several(count)

    def kernel(places, chunks, numbers):
        where, bounds = cuda.shared.array(SLOTS, np.uint64), cuda.shared.array(2, np.uint32)
        same = cuda.shared.array(NUMBERS, numbers.dtype)
        look_up(places, chunks, numbers, where, bounds, same)
        like = numbers.dtype.type(0)
        reads, writes, mine = read_at(like, where, u(0)), written_at(like, where, u(arrays)), taken(same, u(0))
        whole = at_words(reads) and at_words(writes)
        i, end = u(bounds[0] + u(cuda.threadIdx.x) * u(wide)), bounds[1]
        while i < end:
            of_word(reads, writes, mine, i, end, whole)
            i = u(i + u(wide * THREADS))

    return kernel


def chunks_of(sizes: Sequence[int], groups: Sequence[int]) -> np.ndarray:
    """For each block: its line in the table of arrays, its group of numbers, the first number that it takes and one past the last."""
    table = [
        (line, group, i, min(i + CHUNK, n)) for line, (n, group) in enumerate(zip(sizes, groups, strict=True)) for i in range(0, n, CHUNK)
    ]
    return np.array(table, u).reshape(-1)


def all_at_once(kernel: Callable[[int], Kernel], job: Job, numbers: Numbers, dtype: np.dtype) -> None:
    groups = list(dict.fromkeys(job.decays))  # weight decays that differ
    chunks = chunks_of([read[0].size for read in job.reads], [groups.index(decay) for decay in job.decays])
    if chunks.size:
        places = Places(tuple([x for arrays in zip(job.reads, job.writes, strict=True) for some in arrays for x in some]))
        same = np.array([numbers(decay) for decay in groups], dtype).reshape(-1)
        written = [x for arrays in job.writes for x in arrays]
        launch(kernel(WORD // dtype.itemsize), (len(chunks) // 4,), (THREADS,), places, dense(chunks), same, writes=written)


def together(made: Optimiser) -> Run:
    """Predicted: the bytes of the rung before it, and 192 for each chunk of 4096; one launch where there was one for each array."""
    alone = in_turn(launched(partial(word_a_thread, made.formula, made.reads), words=True))

    def step(given: Sequence[Any], numbers: Numbers, weight_decay: Any, out: Any) -> tuple[Any, ...]:
        if not isinstance(given[0], dict):  # there is nothing to look up
            return alone(given, numbers, weight_decay, out)
        job = Job.of(given, weight_decay, out)
        if job.reads:
            all_at_once(partial(chunk_a_block, made.formula, made.reads, made.numbers), job, numbers, job.reads[0][0].dtype)
        return job.results

    return step


# Parameters in 16 bits. What a network computes with are p and g; what is summed up over steps, w and the moments, stays in float32.


class Narrow(NamedTuple):
    """A format of 16 bits: how arrays have it, and a number of it to float32 and back."""

    dtype: np.dtype
    wide: Any
    narrow: Any


FORMATS = {
    "float16": Narrow(np.dtype(np.float16), from_half, half),
    "bfloat16": Narrow(np.dtype(np.uint16), from_bfloat16, bfloat16),  # NumPy has none: the bits
}


@cache
def mixed_chunk(formula: Any, arrays: int, count: int, format: str) -> Kernel:
    """A line of the table: g, w and the moments; then where these go, and p."""
    formula, wide, narrow = applied(formula(sqrt), arrays - 1), FORMATS[format].wide, FORMATS[format].narrow
    look_up, taken = looked_up(2 * arrays, count), several(count)
    narrow_at, wide_at, last = arrays_at(1), arrays_at(arrays - 1), 2 * arrays - 1

    def kernel(places, chunks, numbers):
        where, bounds = cuda.shared.array(SLOTS, np.uint64), cuda.shared.array(2, np.uint32)
        same = cuda.shared.array(NUMBERS, numbers.dtype)
        look_up(places, chunks, numbers, where, bounds, same)
        like, bits = numbers.dtype.type(0), np.uint16(0)
        gradients, state = narrow_at(bits, where, u(0)), wide_at(like, where, u(1))
        new, parameters = wide_at(like, where, u(arrays)), narrow_at(bits, where, u(last))
        mine, g, p = taken(same, u(0)), gradients[0], parameters[0]
        whole = at_words(gradients) and at_words(state) and at_words(parameters) and at_words(new)
        i, end = u(bounds[0] + u(cuda.threadIdx.x) * u(4)), bounds[1]
        while i < end:
            if whole and u(i + u(3)) < end:
                a, b, c, d = load4(g, i)
                e, f, h, k = each_word(state, i)
                found = formula(
                    (with_gradient(e, wide(a)), with_gradient(f, wide(b)), with_gradient(h, wide(c)), with_gradient(k, wide(d))), mine
                )
                put_each_word(new, i, found)
                store4(p, i, (narrow(found[0][0]), narrow(found[1][0]), narrow(found[2][0]), narrow(found[3][0])))
            else:
                for j in range(4):
                    at = u(i + u(j))
                    if at < end:
                        one = formula(with_gradient(each(state, at), wide(g[at])), mine)
                        put_each(new, at, one)
                        p[at] = narrow(one[0])
            i = u(i + u(4 * THREADS))

    return kernel


@cuda.jit(device=True, inline="always")
def with_gradient(state, g):
    return state[:1] + (g,) + state[1:]


def mixed(op: str, format: str = "float16") -> Run:
    """A step for parameters and gradients in 16 bits, which are "float16" or "bfloat16", the latter as the uint16 of their bits.

    run(w, g, m, v, *, lr, ..., out=None) -> w, m, v, p      arrays, or dicts of them; the moments and numbers are those of op

    w, m, v     float32: the parameter itself and its moments, on which the step is that of `op`, with g as a float32
    p           the new w rounded to nearest, ties to even: what the network computes with

    Adam reads 2 + 12 bytes a parameter and writes as many: 28, as in float32, but the network reads 2 where it read 4. A gradient that
    was scaled so that float16 holds it must come unscaled. Source: Micikevicius et al. (2018), Mixed precision training, section 3.1.
    Raises ValueError for a format or shapes, dtypes, layouts that do not fit.
    """
    if format not in FORMATS:
        raise ValueError(f"format is one of {', '.join(FORMATS)}; given {format!r}")
    made = OPTIMISERS[op]
    kernel = mixed_chunk(made.formula, made.reads, made.numbers, format)

    def step(given: Sequence[Any], numbers: Numbers, weight_decay: Any, out: Any) -> tuple[Any, ...]:
        job = Job.of(given, weight_decay, out, narrow=FORMATS[format].dtype)
        reads = [(g.view(np.uint16), w, *state) for w, g, *state in job.reads]
        writes = [(*new, p.view(np.uint16)) for *new, p in job.writes]
        all_at_once(lambda _: kernel, job._replace(reads=reads, writes=writes), numbers, FLOATS[0])
        return job.results

    return made.stepped(step)


for _op, _made in OPTIMISERS.items():
    for _step, (_name, _idea, _run) in enumerate(
        (
            ("a_launch_a_line", LINES, by_lines(_made)),
            ("fused", FUSED, in_turn(launched(partial(in_order, _op)))),
            ("locals_first", LOCALS, in_turn(launched(partial(locals_first, _made.formula, _made.reads)))),
            ("by_words", BY_WORDS, in_turn(launched(partial(word_a_thread, _made.formula, _made.reads), words=True))),
            ("together", TOGETHER, together(_made)),
        ),
        1,
    ):
        _run.__name__ = _name
        rung(_op, "cuda", step=_step, wants=_made.wants, dicts=True, idea=_idea, serves=_name == "together")(_made.stepped(_run))
