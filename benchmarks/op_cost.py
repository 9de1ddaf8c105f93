"""What one op call on the tape costs over its NumPy time, on small arrays.

A chain of calls of one op is recorded (forward) and walked back. From both, the time of the same arithmetic in plain NumPy is taken
off, and the rest divided by the number of calls. Rounds of the two alternate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.clock import Times, seconds, times
from engine import ops, vjp

CALLS = 200
ROUNDS = 15
TARGET = 8.0  # microseconds, forward

X = np.linspace(-1.0, 1.0, 16).reshape(4, 4)
W = np.eye(4) + 0.01


@dataclass(frozen=True)
class Chain:
    """One op, and the arithmetic of its forward and of its vjp in NumPy."""

    name: str
    op: Callable[[Any], Any]
    forward: Callable[[Any], Any]
    back: Callable[[Any, Any], Any]


CHAINS = [
    Chain("add", lambda x: ops.add(x, W), lambda x: np.add(x, W), lambda g, x: g),
    Chain("multiply", lambda x: ops.multiply(x, W), lambda x: np.multiply(x, W), lambda g, x: g * W),
    Chain("x * w", lambda x: x * W, lambda x: x * W, lambda g, x: g * W),
    Chain("np.tanh(x)", lambda x: np.tanh(x), lambda x: np.tanh(x), lambda g, x: g * (1 - x * x)),
    Chain("sin", lambda x: ops.sin(x), lambda x: np.sin(x), lambda g, x: g * np.cos(x)),
    Chain("matmul", lambda x: ops.matmul(x, W), lambda x: np.matmul(x, W), lambda g, x: np.matmul(g, W.T)),
    Chain("reshape", lambda x: ops.reshape(x, shape=(4, 4)), lambda x: np.reshape(x, (4, 4)), lambda g, x: np.reshape(g, (4, 4))),
    Chain("sum, keepdims", lambda x: ops.sum(x, axis=(), keepdims=True), lambda x: np.sum(x, axis=(), keepdims=True), lambda g, x: g),
    Chain("x[:, ::-1]", lambda x: x[:, ::-1], lambda x: x[:, ::-1], lambda g, x: _put(g)),
]


def _put(g: Any) -> Any:
    gx = np.zeros((4, 4))
    gx[:, ::-1] += g
    return gx


@dataclass(frozen=True)
class Cost:
    """Microseconds a call over NumPy, forward and back."""

    name: str
    numpy: float
    forward: Times
    back: Times


def cost(chain: Chain, rounds: int = ROUNDS, calls: int = CALLS) -> Cost:
    def on_tape(x: Any) -> Any:
        for _ in range(calls):
            x = chain.op(x)
        return x

    def plain() -> None:
        x = X
        for _ in range(calls):
            x = chain.forward(x)

    def plain_back() -> None:
        g = W
        for _ in range(calls):
            g = chain.back(g, X)

    _, pull = vjp(on_tape, X)
    taken = [
        (seconds(lambda: vjp(on_tape, X), 1), seconds(plain, 1), seconds(lambda: pull(W), 1), seconds(plain_back, 1))
        for _ in range(rounds + 2)
    ]
    forward, numpy, back, numpy_back = (times([t / calls * 1e6 for t in column[2:]]) for column in zip(*taken, strict=True))
    return Cost(chain.name, numpy.median, _over(forward, numpy), _over(back, numpy_back))


def _over(on_tape: Times, numpy: Times) -> Times:
    return Times(max(on_tape.best - numpy.best, 1e-3), max(on_tape.median - numpy.median, 1e-3))


def report(costs: list[Cost]) -> str:
    """A table, and the means of the medians."""
    head = f"{'us':>8} {'best':>7} {'spread':>7}"
    rows = [f"  {'op':<16} {'NumPy us':>9}   forward {head}   back {head}"]
    rows += [f"  {c.name:<16} {c.numpy:>9.2f}   {'':7} {_columns(c.forward)}   {'':4} {_columns(c.back)}" for c in costs]
    forward, back = (sum(t.median for t in column) / len(costs) for column in ([c.forward for c in costs], [c.back for c in costs]))
    rows.append(f"  {'mean':<16} {'':>9}   {'':7} {forward:>8.2f} {'':15}   {'':4} {back:>8.2f}")
    return "\n".join([*rows, f"  target: forward <= {TARGET:g} us, {'met' if forward <= TARGET else 'missed'}"])


def _columns(t: Times) -> str:
    return f"{t.median:>8.2f} {t.best:>7.2f} {t.spread:>7.2f}"
