r"""Where parameters start: each initialiser with its equation and its source.

An initialiser is a function `(rng, shape, dtype) -> array`. Its own parameters are keyword-only; fix them with
`functools.partial(he_normal, slope=0.1)`. Numbers are drawn in float64 and rounded once, so that float32 and float64
parameters of one seed differ by rounding only.

The aim of all of them: signals, and gradients on their way back, keep their size from layer to layer. For $y = \sum_{i=1}^n x_i w_i$
with independent terms of mean 0, $\mathrm{Var}\, y = n\, \mathrm{Var}\, x\, \mathrm{Var}\, w$; with $n$ the fan-in, that asks for
$\mathrm{Var}\, w = 1/n$. Going back, the same holds with the fan-out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Initialiser = Callable[[np.random.Generator, Shape, Any], np.ndarray]


def fans(shape: Shape) -> tuple[int, int]:
    """How many inputs feed one output, and how many outputs one input feeds.

    (in, out) for a matrix that is used as x @ w; (out, in/groups, *window) for a convolution.
    Raises ValueError for fewer than two axes.
    """
    if len(shape) < 2:
        raise ValueError(f"an array of shape {shape} has no fan-in and fan-out: use zeros, constant, normal or uniform")
    if len(shape) == 2:
        return shape[0], shape[1]
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def zeros(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32) -> np.ndarray:
    r"""$w = 0$: for biases. Equal weights would stay equal for ever."""
    return np.zeros(shape, dtype)


def ones(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32) -> np.ndarray:
    r"""$w = 1$: for scales."""
    return np.ones(shape, dtype)


def constant(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32, *, value: float) -> np.ndarray:
    r"""$w = c$"""
    return np.full(shape, value, dtype)


def normal(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32, *, std: float = 1.0) -> np.ndarray:
    r"""$w \sim N(0, \sigma^2)$"""
    return (std * rng.standard_normal(shape)).astype(dtype)


def uniform(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32, *, bound: float = 1.0) -> np.ndarray:
    r"""$w \sim U[-a, a]$, of variance $a^2/3$"""
    return rng.uniform(-bound, bound, shape).astype(dtype)


def glorot_uniform(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32, *, gain: float = 1.0) -> np.ndarray:
    r"""$w \sim U[-a, a], \quad a = \gamma \sqrt{6 / (n_\mathrm{in} + n_\mathrm{out})}$

    Also called Xavier. Made for tanh, which is the identity near 0; a compromise between the way forward and the way back.
    Source: Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, eq. 16.
    """
    return uniform(rng, shape, dtype, bound=gain * math.sqrt(6 / _at_least_one(sum(fans(shape)))))


def glorot_normal(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32, *, gain: float = 1.0) -> np.ndarray:
    r"""$w \sim N(0, \sigma^2), \quad \sigma = \gamma \sqrt{2 / (n_\mathrm{in} + n_\mathrm{out})}$

    Source: Glorot & Bengio (2010), eq. 12.
    """
    return normal(rng, shape, dtype, std=gain * math.sqrt(2 / _at_least_one(sum(fans(shape)))))


xavier_uniform = glorot_uniform
xavier_normal = glorot_normal


def he_normal(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32, *, slope: float = 0.0) -> np.ndarray:
    r"""$w \sim N(0, \sigma^2), \quad \sigma = \sqrt{2 / ((1 + a^2)\, n_\mathrm{in})}$

    Also called Kaiming. Made for relu, which halves the mean square; `slope` is the a of a leaky relu.
    Source: He et al. (2015), Delving deep into rectifiers, eq. 10 and 15.
    """
    return normal(rng, shape, dtype, std=math.sqrt(2 / ((1 + slope**2) * _at_least_one(fans(shape)[0]))))


def he_uniform(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32, *, slope: float = 0.0) -> np.ndarray:
    r"""$w \sim U[-b, b], \quad b = \sqrt{6 / ((1 + a^2)\, n_\mathrm{in})}$

    The variance of `he_normal` (He et al. 2015, eq. 15) as a uniform distribution.
    """
    return uniform(rng, shape, dtype, bound=math.sqrt(6 / ((1 + slope**2) * _at_least_one(fans(shape)[0]))))


kaiming_normal = he_normal
kaiming_uniform = he_uniform


def lecun_normal(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32) -> np.ndarray:
    r"""$w \sim N(0, \sigma^2), \quad \sigma = 1 / \sqrt{n_\mathrm{in}}$

    Source: LeCun, Bottou, Orr & Müller (1998), Efficient BackProp, eq. 16.
    """
    return normal(rng, shape, dtype, std=math.sqrt(1 / _at_least_one(fans(shape)[0])))


def lecun_uniform(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32) -> np.ndarray:
    r"""$w \sim U[-a, a], \quad a = \sqrt{3 / n_\mathrm{in}}$

    The variance of `lecun_normal` as a uniform distribution.
    """
    return uniform(rng, shape, dtype, bound=math.sqrt(3 / _at_least_one(fans(shape)[0])))


def orthogonal(rng: np.random.Generator, shape: Shape, dtype: Any = np.float32, *, gain: float = 1.0) -> np.ndarray:
    r"""$W^\top W = \gamma^2 I$ or $W W^\top = \gamma^2 I$, whichever the shape allows

    A kernel (out, in, *window) is taken as a matrix of `out` rows. $Q$ of a Gaussian's $QR$, with the signs of
    R's diagonal, is uniform over the orthogonal matrices.
    Source: Saxe, McClelland & Ganguli (2014), Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks; for the signs, Mezzadri (2007), How to generate random matrices from the classical compact groups.
    """
    fans(shape)  # raises for fewer than two axes
    rows, columns = shape[0], math.prod(shape[1:])
    a = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(a)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray((gain * (q if rows >= columns else q.T)).reshape(shape).astype(dtype))


def _at_least_one(fan: int) -> int:
    return max(fan, 1)  # an array without elements has a fan of 0 and needs no number
