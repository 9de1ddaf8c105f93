"""Steps of optimisers, as far as backends share them: the formulas, each of a number, and the ops with their hyper-parameters.

A formula is made for a square root, `adam(np.sqrt)`, for what takes a square root differs from one compiler to the next:

    formula(p, g, m, v, ...numbers) -> new p, m, v        each without what it does not have

`stepped["adam_step"]` turns step(given, numbers, weight_decay, out) into the op. It hands over the arrays (or dicts of arrays), a
function that gives the numbers of the formula for a weight decay, the weight decay (or a dict of them) and where results go.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

Run = Callable[..., Any]
Formula = Callable[..., tuple[Any, ...]]
Root = Callable[[Any], Any]
Numbers = Callable[[float], tuple[float, ...]]  # those of a formula, for a weight decay


# Formulas.


def sgd(root: Root) -> Formula:
    def formula(p, g, lr, decay):
        return (p - lr * (g + decay * p),)

    return formula


def momentum(root: Root) -> Formula:
    def formula(p, g, m, lr, momentum, decay):
        m = momentum * m + (g + decay * p)
        return p - lr * m, m

    return formula


def nesterov(root: Root) -> Formula:
    def formula(p, g, m, lr, momentum, decay):
        g = g + decay * p
        m = momentum * m + g
        return p - lr * (g + momentum * m), m

    return formula


def adagrad(root: Root) -> Formula:
    def formula(p, g, v, lr, eps, decay):
        g = g + decay * p
        v = v + g * g
        return p - lr * g / (root(v) + eps), v

    return formula


def rmsprop(root: Root) -> Formula:
    def formula(p, g, v, lr, alpha, rest, eps, decay):
        g = g + decay * p
        v = alpha * v + rest * (g * g)
        return p - lr * g / (root(v) + eps), v

    return formula


def adam(root: Root) -> Formula:
    """Adam and AdamW: the gradient takes up `decay` of p, and p keeps `kept` of itself."""

    def formula(p, g, m, v, length, c2, beta1, rest1, beta2, rest2, eps, decay, kept):
        g = g + decay * p
        m = beta1 * m + rest1 * g
        v = beta2 * v + rest2 * (g * g)
        c = root(c2)  # the same for all: taken out of the root of v, it leaves one division where there were two
        return kept * p - length * c * m / (root(v) + eps * c), m, v

    return formula


# Ops. The hyper-parameters go into the dtype of p, as NumPy does with Python floats: else float32 would be computed in float64.


def sgd_of(step: Run) -> Run:
    @wraps(step)
    def sgd_step(p: Any, g: Any, *, lr: float, weight_decay: Any = 0.0, out: Any = None) -> tuple[Any, ...]:
        return step((p, g), lambda decay: (lr, decay), weight_decay, out)

    return sgd_step


def momentum_of(step: Run) -> Run:
    @wraps(step)
    def momentum_step(
        p: Any, g: Any, m: Any, *, lr: float, momentum: float = 0.9, weight_decay: Any = 0.0, out: Any = None
    ) -> tuple[Any, ...]:
        return step((p, g, m), lambda decay: (lr, momentum, decay), weight_decay, out)

    return momentum_step


def adagrad_of(step: Run) -> Run:
    @wraps(step)
    def adagrad_step(p: Any, g: Any, v: Any, *, lr: float, eps: float = 1e-10, weight_decay: Any = 0.0, out: Any = None) -> tuple[Any, ...]:
        return step((p, g, v), lambda decay: (lr, eps, decay), weight_decay, out)

    return adagrad_step


def rmsprop_of(step: Run) -> Run:
    @wraps(step)
    def rmsprop_step(
        p: Any, g: Any, v: Any, *, lr: float, alpha: float = 0.99, eps: float = 1e-8, weight_decay: Any = 0.0, out: Any = None
    ) -> tuple[Any, ...]:
        return step((p, g, v), lambda decay: (lr, alpha, 1 - alpha, eps, decay), weight_decay, out)

    return rmsprop_step


def moments(lr: float, t: int, beta1: float, beta2: float, eps: float) -> tuple[float, ...]:
    if t < 1:
        raise ValueError(f"t is {t}, but counts steps from 1, this one included: the bias corrections divide by 1 - beta**t")
    return lr / (1 - beta1**t), 1 - beta2**t, beta1, 1 - beta1, beta2, 1 - beta2, eps


def adam_of(step: Run) -> Run:
    @wraps(step)
    def adam_step(
        p: Any, g: Any, m: Any, v: Any, *, lr: float, t: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
        weight_decay: Any = 0.0, out: Any = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        same = moments(lr, t, beta1, beta2, eps)
        return step((p, g, m, v), lambda decay: (*same, decay, 1.0), weight_decay, out)

    return adam_step


def adamw_of(step: Run) -> Run:
    @wraps(step)
    def adamw_step(
        p: Any, g: Any, m: Any, v: Any, *, lr: float, t: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
        weight_decay: Any = 0.01, out: Any = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        same = moments(lr, t, beta1, beta2, eps)
        return step((p, g, m, v), lambda decay: (*same, 0.0, 1 - lr * decay), weight_decay, out)

    return adamw_step


class Optimiser(NamedTuple):
    """What a ladder of its steps is made of."""

    formula: Callable[[Root], Formula]
    stepped: Callable[[Run], Run]
    reads: int  # p, g and the state
    numbers: int

    @property
    def wants(self) -> str:
        return ", ".join(["*s"] * self.reads)


OPTIMISERS = {
    "sgd_step": Optimiser(sgd, sgd_of, 2, 2),
    "momentum_step": Optimiser(momentum, momentum_of, 3, 3),
    "nesterov_step": Optimiser(nesterov, momentum_of, 3, 3),
    "adagrad_step": Optimiser(adagrad, adagrad_of, 3, 3),
    "rmsprop_step": Optimiser(rmsprop, rmsprop_of, 3, 5),
    "adam_step": Optimiser(adam, adam_of, 4, 9),
    "adamw_step": Optimiser(adam, adamw_of, 4, 9),
}
