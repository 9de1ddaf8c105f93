"""Steps of optimisers on the CPU, one idea at a time.

    p, g, m, v   any one shape, any strides; float32 or float64

    sgd       p -= lr g                                    rmsprop   v = alpha v + (1 - alpha) g g,  p -= lr g / (sqrt v + eps)
    momentum  m = momentum m + g,  p -= lr m               adam      m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g g,
    nesterov  m = momentum m + g,  p -= lr (g + momentum m)          p -= lr m / c1 / (sqrt(v / c2) + eps),  c = 1 - beta ** t
    adagrad   v += g g,  p -= lr g / (sqrt v + eps)        adamw     p *= 1 - lr weight_decay, then adam

where g stands for g + weight_decay p, except in adamw.

Little is done to a number once it is here: memory is the limit, and the ladder is about passing over it less often. Every rung
is a function of flat arrays that writes new ones: run(p, g, m, v, new_p, new_m, new_v, ...hyper-parameters), each without what
it does not have. `sgd` and its like turn that into the op, and bring the hyper-parameters into the dtype of p, as NumPy does
with Python floats: else float32 would be computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import sqrt
from typing import Any

import numpy as np
from numba import njit

from kernels.cpu.arrays import dense
from kernels.cpu.threads import share
from kernels.registry import rung

WORTH_A_THREAD = 1 << 16  # elements in a piece: half a megabyte or more to move, about 30 microseconds

LINES = "the definition: one pass over memory for each line of the formula"
ONE_PASS = "one pass: each number is read once and written once; products are fused with sums (contract)"
THREADS = "give blocks to threads"

Run = Callable[..., Any]
Arrays = tuple[np.ndarray, ...]

# Division by zero gives inf or nan, as in NumPy: a test for it would stand in the way of vector instructions.
lines = njit(cache=True, nogil=True, error_model="numpy")
one_pass = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


def step(run: Run, arrays: tuple[Any, ...], hyper: tuple[float, ...]) -> Arrays:
    """The new p, m, v by `run`, from arrays p, g, m, v."""
    shape, number = arrays[0].shape, arrays[0].dtype.type
    flat = [dense(np.asarray(x)).reshape(-1) for x in arrays]
    new = [np.empty_like(flat[0]) for _ in range(len(arrays) - 1)]
    run(*flat, *new, *[number(h) for h in hyper])
    return tuple([x.reshape(shape) for x in new])


def in_threads(run: Run, arrays: int, *job: Any) -> None:
    """`run` on blocks of the first `arrays` of its arguments, cut by size alone."""
    size = len(job[0])
    if size <= WORTH_A_THREAD:
        run(*job)
        return
    flat, hyper = job[:arrays], job[arrays:]
    blocks = [slice(i, i + WORTH_A_THREAD) for i in range(0, size, WORTH_A_THREAD)]
    share(run, [(*[x[block] for x in flat], *hyper) for block in blocks])


# Gradient descent, with and without momentum.


def sgd(run: Run) -> Run:
    @wraps(run)
    def sgd_step(p: Any, g: Any, *, lr: float, weight_decay: float = 0.0) -> Arrays:
        return step(run, (p, g), (lr, weight_decay))

    return sgd_step


def with_momentum(run: Run) -> Run:
    @wraps(run)
    def momentum_step(p: Any, g: Any, m: Any, *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> Arrays:
        return step(run, (p, g, m), (lr, momentum, weight_decay))

    return momentum_step


@rung("sgd_step", "cpu", step=1, wants="*s, *s", idea=LINES)
@sgd
@lines
def sgd_lines(p, g, new_p, lr, decay):
    g = g + decay * p
    new_p[:] = p - lr * g


@one_pass
def sgd_one_pass(p, g, new_p, lr, decay):
    for i in range(len(p)):
        new_p[i] = p[i] - lr * (g[i] + decay * p[i])


rung("sgd_step", "cpu", step=2, idea=ONE_PASS)(sgd(sgd_one_pass))


@rung("sgd_step", "cpu", step=3, serves=True, idea=THREADS)
@sgd
def sgd_threaded(*job: Any) -> None:
    in_threads(sgd_one_pass, 3, *job)


@rung("momentum_step", "cpu", step=1, wants="*s, *s, *s", idea=LINES)
@with_momentum
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


rung("momentum_step", "cpu", step=2, idea=ONE_PASS)(with_momentum(momentum_one_pass))


@rung("momentum_step", "cpu", step=3, serves=True, idea=THREADS)
@with_momentum
def momentum_threaded(*job: Any) -> None:
    in_threads(momentum_one_pass, 5, *job)


@rung("nesterov_step", "cpu", step=1, wants="*s, *s, *s", idea=LINES)
@with_momentum
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


rung("nesterov_step", "cpu", step=2, idea=ONE_PASS)(with_momentum(nesterov_one_pass))


@rung("nesterov_step", "cpu", step=3, serves=True, idea=THREADS)
@with_momentum
def nesterov_threaded(*job: Any) -> None:
    in_threads(nesterov_one_pass, 5, *job)


# A step length for each parameter, from the squares of its gradients.


def adagrad(run: Run) -> Run:
    @wraps(run)
    def adagrad_step(p: Any, g: Any, v: Any, *, lr: float, eps: float = 1e-10, weight_decay: float = 0.0) -> Arrays:
        return step(run, (p, g, v), (lr, eps, weight_decay))

    return adagrad_step


def rmsprop(run: Run) -> Run:
    @wraps(run)
    def rmsprop_step(p: Any, g: Any, v: Any, *, lr: float, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0) -> Arrays:
        return step(run, (p, g, v), (lr, alpha, 1 - alpha, eps, weight_decay))

    return rmsprop_step


@rung("adagrad_step", "cpu", step=1, wants="*s, *s, *s", idea=LINES)
@adagrad
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


rung("adagrad_step", "cpu", step=2, idea=ONE_PASS)(adagrad(adagrad_one_pass))


@rung("adagrad_step", "cpu", step=3, serves=True, idea=THREADS)
@adagrad
def adagrad_threaded(*job: Any) -> None:
    in_threads(adagrad_one_pass, 5, *job)


@rung("rmsprop_step", "cpu", step=1, wants="*s, *s, *s", idea=LINES)
@rmsprop
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


rung("rmsprop_step", "cpu", step=2, idea=ONE_PASS)(rmsprop(rmsprop_one_pass))


@rung("rmsprop_step", "cpu", step=3, serves=True, idea=THREADS)
@rmsprop
def rmsprop_threaded(*job: Any) -> None:
    in_threads(rmsprop_one_pass, 5, *job)


# Adam and AdamW: one loop, in which the gradient takes up `decay` of p, and p keeps `kept` of itself.


def moments(
    run: Run, arrays: tuple[Any, ...], lr: float, t: int, beta1: float, beta2: float, eps: float, decay: float, kept: float
) -> Arrays:
    if t < 1:
        raise ValueError(f"t is {t}, but counts steps from 1, this one included: the bias corrections divide by 1 - beta**t")
    return step(run, arrays, (lr / (1 - beta1**t), 1 - beta2**t, beta1, 1 - beta1, beta2, 1 - beta2, eps, decay, kept))


def adam(run: Run) -> Run:
    @wraps(run)
    def adam_step(
        p: Any, g: Any, m: Any, v: Any, *,
        lr: float, t: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0,
    ) -> Arrays:  # fmt: skip
        return moments(run, (p, g, m, v), lr, t, beta1, beta2, eps, weight_decay, 1.0)

    return adam_step


def adamw(run: Run) -> Run:
    @wraps(run)
    def adamw_step(
        p: Any, g: Any, m: Any, v: Any, *,
        lr: float, t: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01,
    ) -> Arrays:  # fmt: skip
        return moments(run, (p, g, m, v), lr, t, beta1, beta2, eps, 0.0, 1 - lr * weight_decay)

    return adamw_step


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


def adam_threaded(*job: Any) -> None:
    in_threads(adam_one_pass, 7, *job)


for _op, _made in (("adam_step", adam), ("adamw_step", adamw)):
    rung(_op, "cpu", step=1, wants="*s, *s, *s, *s", idea=LINES)(_made(adam_lines))
    rung(_op, "cpu", step=2, idea=ONE_PASS)(_made(adam_one_pass))
    rung(_op, "cpu", step=3, serves=True, idea=THREADS)(_made(adam_threaded))
