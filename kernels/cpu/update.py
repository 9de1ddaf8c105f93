"""Steps of optimisers on the CPU, one idea at a time.

    p, g, m, v   any one shape, any strides; float32 or float64

    sgd       p -= lr g                                    rmsprop   v = alpha v + (1 - alpha) g g,  p -= lr g / (sqrt v + eps)
    momentum  m = momentum m + g,  p -= lr m               adam      m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g g,
    nesterov  m = momentum m + g,  p -= lr (g + momentum m)          p -= lr m / c1 / (sqrt(v / c2) + eps),  c = 1 - beta ** t
    adagrad   v += g g,  p -= lr g / (sqrt v + eps)        adamw     p *= 1 - lr weight_decay, then adam

where g stands for g + weight_decay p, except in adamw.

Little is done to a number once it is here: memory is the limit, and the ladder is about passing over it less often, then about
what a call costs. The lower rungs are functions of flat arrays that write new ones: run(p, g, m, v, new_p, new_m, new_v, ...numbers),
each without what it does not have, and go from name to name. In the last one a formula runs along all arrays of a table.
`sgd_of` and its like (`kernels/steps.py`, where the formulas are, too) turn either into the op.

Each takes arrays, or dicts of arrays under the same names, and returns the like. weight_decay is then a number, or a dict of numbers.
out=(p, m, v) says where the results go, and may be the arguments themselves; None in a place of it is a new array.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, wraps
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, njit

from kernels import steps
from kernels.cpu.arrays import dense
from kernels.cpu.cache import stamped
from kernels.cpu.formula import along
from kernels.cpu.table import Dicts, cut, no_overlap, on_one, table_of
from kernels.cpu.threads import share, threads
from kernels.cpu.unit import Unit, called_at, unit
from kernels.cpu.vector import address
from kernels.registry import rung
from kernels.steps import Numbers, Run, adagrad_of, adam_of, adamw_of, momentum_of, rmsprop_of, sgd_of

WORTH_A_THREAD = 1 << 16  # elements in a piece: half a megabyte or more to move, about 30 microseconds

LINES = "the definition: one pass over memory for each line of the formula"
ONE_PASS = "one pass: each number is read once and written once; products are fused with sums (contract)"
THREADS = "give blocks to threads"

TOGETHER = "all arrays of a model in one call, by a table of where they lie; a vector is read before it is written, in place or not"

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# Division by zero gives inf or nan, as in NumPy: a test for it would stand in the way of vector instructions.
lines = njit(cache=True, nogil=True, error_model="numpy")
one_pass = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


class Job(NamedTuple):
    """All that a step is made of: what it reads and writes, as dicts and as a table, and the weight decays, of which line i has
    the one at groups[i]."""

    dicts: Dicts  # the arguments, then the results
    table: np.ndarray
    dtype: np.dtype
    elements: int
    decays: list[float]
    groups: np.ndarray
    results: tuple[Any, ...]

    @staticmethod
    def of(given: Sequence[Any], weight_decay: Any, out: Any) -> Job:
        """Raises ValueError for a shape, dtype or layout that does not fit, and for an `out` that overlaps with more than its argument."""
        named = isinstance(given[0], dict)
        dicts, reads = [dict(x) if named else {"": x} for x in given], len(given)  # nobody takes an array out of our own dicts meanwhile
        if [*map(len, dicts)] != [len(dicts[0])] * reads:
            raise ValueError("all arguments are dicts of arrays under the same names")
        if out is not None and len(out) != reads - 1:
            raise ValueError(f"out has {len(out)} places for {reads - 1} results")
        first = dicts[0]
        dtype = getattr(next(iter(first.values())), "dtype", None) if first else FLOATS[0]
        if dtype is None or dtype not in FLOATS:  # None equals float64, for NumPy
            raise TypeError(f"wants arrays of NumPy's, in one of {', '.join(map(str, FLOATS))}; the first one is {dtype}")
        for to in out or (None,) * (reads - 1):
            if to is None:
                dicts.append({name: np.empty(p.shape, dtype) for name, p in first.items()})
            else:
                dicts.append(dict(to) if named else {"": to})

        def told(slot: int, name: str) -> str:
            array = ("p", "g", "the first moment", "the second moment")[slot] if slot < reads else f"out[{slot - reads}]"
            return f"{array} of {name!r}" if named else array

        table, elements, dicts = table_of(dicts, reads, dtype, told)
        if out is not None:
            no_overlap(table, dtype.itemsize, dicts, reads, told)
        decays, groups = [weight_decay], np.zeros(len(first), np.int64)
        if isinstance(weight_decay, dict):
            decays = list(dict.fromkeys(weight_decay.values()))
            groups[:] = [decays.index(weight_decay[name]) for name in first]
        new = dicts[reads:]
        return Job(dicts, table, dtype, elements, decays, groups, tuple(new if named else [d[""] for d in new]))


def in_turn(run: Run) -> Run:
    """A step that does one array after the other: run(p, g, ..., new_p, ..., ...numbers) on flat ones."""

    @wraps(run)
    def step(given: Sequence[Any], numbers: Numbers, weight_decay: Any, out: Any) -> tuple[Any, ...]:
        job = Job.of(given, weight_decay, out)
        for name, group in zip(job.dicts[0], job.groups, strict=True):
            flat = [dense(d[name]).reshape(-1) for d in job.dicts]
            run(*flat, *[job.dtype.type(x) for x in numbers(job.decays[group])])
        return job.results

    return step


def in_threads(run: Run, arrays: int, *job: Any) -> None:
    """`run` on blocks of the first `arrays` of its arguments, cut by size alone."""
    size = len(job[0])
    if size <= WORTH_A_THREAD:
        run(*job)
        return
    flat, hyper = job[:arrays], job[arrays:]
    blocks = [slice(i, i + WORTH_A_THREAD) for i in range(0, size, WORTH_A_THREAD)]
    share(run, [(*[x[block] for x in flat], *hyper) for block in blocks])


@stamped
@njit(cache=True, nogil=True)
def line_by_line(run, table, groups, numbers):
    for i in range(len(table)):
        called_at(run, numbers[0, 0], address(table[i]), address(numbers[groups[i]]))


@cache
def place(run: Unit, dtype: np.dtype) -> int:
    return run.place(from_dtype(dtype))


def at_once(run: Unit, given: Sequence[Any], out: Any, numbers: Numbers, weight_decay: Any) -> bool:
    """The shortest way, for one small array; False, and nothing is done, where that is not what is given or something does not fit."""
    p = given[0]
    if type(p) is not np.ndarray or p.dtype not in FLOATS or type(weight_decay) is not float or len(out) != len(given) - 1:
        return False
    return on_one(place(run, p.dtype), (*given, *out), numbers(weight_decay), len(given), WORTH_A_THREAD)


def together(run: Any) -> Run:
    """A step that does all arrays at once: run(like, line, numbers) is a unit, which goes along the arrays of one line of a table."""
    run = run.called_unit

    @wraps(run.function)
    def step(given: Sequence[Any], numbers: Numbers, weight_decay: Any, out: Any) -> tuple[Any, ...]:
        if out is not None and at_once(run, given, out, numbers, weight_decay):
            return tuple(out)
        job = Job.of(given, weight_decay, out)
        if job.elements:
            work = job.table, job.groups, np.array([numbers(decay) for decay in job.decays], job.dtype)
            if job.elements <= WORTH_A_THREAD or threads() == 1:
                line_by_line(place(run, job.dtype), *work)
            else:
                share(line_by_line, [(place(run, job.dtype), *piece) for piece in cut(*work, WORTH_A_THREAD)])
        return job.results

    return step


# Gradient descent, with and without momentum.


@rung("sgd_step", "cpu", step=1, wants="*s, *s", dicts=True, idea=LINES)
@sgd_of
@in_turn
@lines
def sgd_lines(p, g, new_p, lr, decay):
    g = g + decay * p
    new_p[:] = p - lr * g


@one_pass
def sgd_one_pass(p, g, new_p, lr, decay):
    for i in range(len(p)):
        new_p[i] = p[i] - lr * (g[i] + decay * p[i])


rung("sgd_step", "cpu", step=2, idea=ONE_PASS)(sgd_of(in_turn(sgd_one_pass)))


@rung("sgd_step", "cpu", step=3, idea=THREADS)
@sgd_of
@in_turn
def sgd_threaded(*job: Any) -> None:
    in_threads(sgd_one_pass, 3, *job)


sgd_line = along(steps.sgd(np.sqrt), arrays=2, numbers=2)


@rung("sgd_step", "cpu", step=4, serves=True, idea=TOGETHER)
@sgd_of
@together
@unit
def sgd_together(like, line, numbers):
    sgd_line(like, line, numbers)


@rung("momentum_step", "cpu", step=1, wants="*s, *s, *s", dicts=True, idea=LINES)
@momentum_of
@in_turn
@lines
def momentum_lines(p, g, m, new_p, new_m, lr, momentum, decay):
    g = g + decay * p
    new_m[:] = momentum * m + g
    new_p[:] = p - lr * new_m


@one_pass
def momentum_one_pass(p, g, m, new_p, new_m, lr, momentum, decay):
    for i in range(len(p)):
        mi = momentum * m[i] + (g[i] + decay * p[i])
        new_m[i] = mi
        new_p[i] = p[i] - lr * mi


rung("momentum_step", "cpu", step=2, idea=ONE_PASS)(momentum_of(in_turn(momentum_one_pass)))


@rung("momentum_step", "cpu", step=3, idea=THREADS)
@momentum_of
@in_turn
def momentum_threaded(*job: Any) -> None:
    in_threads(momentum_one_pass, 5, *job)


momentum_line = along(steps.momentum(np.sqrt), arrays=3, numbers=3)


@rung("momentum_step", "cpu", step=4, serves=True, idea=TOGETHER)
@momentum_of
@together
@unit
def momentum_together(like, line, numbers):
    momentum_line(like, line, numbers)


@rung("nesterov_step", "cpu", step=1, wants="*s, *s, *s", dicts=True, idea=LINES)
@momentum_of
@in_turn
@lines
def nesterov_lines(p, g, m, new_p, new_m, lr, momentum, decay):
    g = g + decay * p
    new_m[:] = momentum * m + g
    new_p[:] = p - lr * (g + momentum * new_m)


@one_pass
def nesterov_one_pass(p, g, m, new_p, new_m, lr, momentum, decay):
    for i in range(len(p)):
        gi = g[i] + decay * p[i]
        mi = momentum * m[i] + gi
        new_m[i] = mi
        new_p[i] = p[i] - lr * (gi + momentum * mi)


rung("nesterov_step", "cpu", step=2, idea=ONE_PASS)(momentum_of(in_turn(nesterov_one_pass)))


@rung("nesterov_step", "cpu", step=3, idea=THREADS)
@momentum_of
@in_turn
def nesterov_threaded(*job: Any) -> None:
    in_threads(nesterov_one_pass, 5, *job)


nesterov_line = along(steps.nesterov(np.sqrt), arrays=3, numbers=3)


@rung("nesterov_step", "cpu", step=4, serves=True, idea=TOGETHER)
@momentum_of
@together
@unit
def nesterov_together(like, line, numbers):
    nesterov_line(like, line, numbers)


# A step length for each parameter, from the squares of its gradients.


@rung("adagrad_step", "cpu", step=1, wants="*s, *s, *s", dicts=True, idea=LINES)
@adagrad_of
@in_turn
@lines
def adagrad_lines(p, g, v, new_p, new_v, lr, eps, decay):
    g = g + decay * p
    new_v[:] = v + g * g
    new_p[:] = p - lr * g / (np.sqrt(new_v) + eps)


@one_pass
def adagrad_one_pass(p, g, v, new_p, new_v, lr, eps, decay):
    for i in range(len(p)):
        gi = g[i] + decay * p[i]
        vi = v[i] + gi * gi
        new_v[i] = vi
        new_p[i] = p[i] - lr * gi / (sqrt(vi) + eps)


rung("adagrad_step", "cpu", step=2, idea=ONE_PASS)(adagrad_of(in_turn(adagrad_one_pass)))


@rung("adagrad_step", "cpu", step=3, idea=THREADS)
@adagrad_of
@in_turn
def adagrad_threaded(*job: Any) -> None:
    in_threads(adagrad_one_pass, 5, *job)


adagrad_line = along(steps.adagrad(np.sqrt), arrays=3, numbers=3)


@rung("adagrad_step", "cpu", step=4, serves=True, idea=TOGETHER)
@adagrad_of
@together
@unit
def adagrad_together(like, line, numbers):
    adagrad_line(like, line, numbers)


@rung("rmsprop_step", "cpu", step=1, wants="*s, *s, *s", dicts=True, idea=LINES)
@rmsprop_of
@in_turn
@lines
def rmsprop_lines(p, g, v, new_p, new_v, lr, alpha, rest, eps, decay):
    g = g + decay * p
    new_v[:] = alpha * v + rest * (g * g)
    new_p[:] = p - lr * g / (np.sqrt(new_v) + eps)


@one_pass
def rmsprop_one_pass(p, g, v, new_p, new_v, lr, alpha, rest, eps, decay):
    for i in range(len(p)):
        gi = g[i] + decay * p[i]
        vi = alpha * v[i] + rest * (gi * gi)
        new_v[i] = vi
        new_p[i] = p[i] - lr * gi / (sqrt(vi) + eps)


rung("rmsprop_step", "cpu", step=2, idea=ONE_PASS)(rmsprop_of(in_turn(rmsprop_one_pass)))


@rung("rmsprop_step", "cpu", step=3, idea=THREADS)
@rmsprop_of
@in_turn
def rmsprop_threaded(*job: Any) -> None:
    in_threads(rmsprop_one_pass, 5, *job)


rmsprop_line = along(steps.rmsprop(np.sqrt), arrays=3, numbers=5)


@rung("rmsprop_step", "cpu", step=4, serves=True, idea=TOGETHER)
@rmsprop_of
@together
@unit
def rmsprop_together(like, line, numbers):
    rmsprop_line(like, line, numbers)


# Adam and AdamW: one loop, in which the gradient takes up `decay` of p, and p keeps `kept` of itself.


@in_turn
@lines
def adam_lines(p, g, m, v, new_p, new_m, new_v, length, c2, beta1, rest1, beta2, rest2, eps, decay, kept):
    g = g + decay * p
    new_m[:] = beta1 * m + rest1 * g
    new_v[:] = beta2 * v + rest2 * (g * g)
    new_p[:] = kept * p - length * new_m / (np.sqrt(new_v / c2) + eps)


@one_pass
def adam_one_pass(p, g, m, v, new_p, new_m, new_v, length, c2, beta1, rest1, beta2, rest2, eps, decay, kept):
    for i in range(len(p)):
        gi = g[i] + decay * p[i]
        mi = beta1 * m[i] + rest1 * gi
        vi = beta2 * v[i] + rest2 * (gi * gi)
        new_m[i], new_v[i] = mi, vi
        new_p[i] = kept * p[i] - length * mi / (sqrt(vi / c2) + eps)


@in_turn
def adam_threaded(*job: Any) -> None:
    in_threads(adam_one_pass, 7, *job)


adam_line = along(steps.adam(np.sqrt), arrays=4, numbers=9)


@together
@unit
def adam_together(like, line, numbers):
    adam_line(like, line, numbers)


for _op, _made in (("adam_step", adam_of), ("adamw_step", adamw_of)):
    rung(_op, "cpu", step=1, wants="*s, *s, *s, *s", dicts=True, idea=LINES)(_made(adam_lines))
    rung(_op, "cpu", step=2, idea=ONE_PASS)(_made(in_turn(adam_one_pass)))
    rung(_op, "cpu", step=3, idea=THREADS)(_made(adam_threaded))
    rung(_op, "cpu", step=4, serves=True, idea=f"{TOGETHER}; one division (Kingma & Ba 2015, section 2)")(_made(adam_together))
