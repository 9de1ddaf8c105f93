"""Complex numbers as pairs of real arrays: what happens to a conjugate that is dropped."""

from __future__ import annotations

import numpy as np

from mutants.record import call, right


def _spectrum(pick):
    n = pick.size(1, 5)
    return [pick.array(n // 2 + 1), pick.array(n // 2 + 1)], {"n": n}


@right(draw=_spectrum)
def irfft(re, im, *, n):
    return np.fft.irfft(re + 1j * im, n)


def _weights(n):
    """How often a frequency stands in the full spectrum; and of the imaginary parts those that are read."""
    k = np.arange(n // 2 + 1)
    alone = (k == 0) | (2 * k == n)
    return np.where(alone, 1.0, 2.0), np.where(alone, 0.0, 1.0)


@irfft.vjp
def _(g, args, y, *, n):
    count, read = _weights(n)
    back = np.fft.rfft(g) / n * count
    return back.real, back.imag * read


@irfft.mutant(
    "each frequency counted once",
    source="jax@bc2e42807e",
    fault="the frequencies that stand for their mirror images too are not doubled",
    kills="value",
    at=call([1.0, 2.0, 3.0], [0.0, 1.0, 0.0], n=4),
)
def _(g, args, y, *, n):
    back = np.fft.rfft(g) / n
    return back.real.copy(), back.imag * _weights(n)[1]


@irfft.mutant(
    "conjugated",
    source="jax#979, mlx#3766",
    fault="the other convention for complex gradients: the imaginary part has the wrong sign",
    kills="value",
    at=call([1.0, 2.0, 3.0], [0.0, 1.0, 0.0], n=4),
)
def _(g, args, y, *, n):
    count, read = _weights(n)
    back = np.fft.rfft(g) / n * count
    return back.real, -back.imag * read


@right("n -> k k2")
def rfft(x):
    y = np.fft.rfft(x)
    return y.real.copy(), y.imag.copy()


rfft.signature, rfft.draw = None, lambda pick: ([pick.array(pick.size(1, 5))], {})


def _rfft_back(gre, gim, n):
    angle = 2 * np.pi * np.outer(np.arange(n // 2 + 1), np.arange(n)) / n
    return gre @ np.cos(angle) - gim @ np.sin(angle)


@rfft.vjp
def _(g, args, y):
    return (_rfft_back(*g, len(args[0])),)


@rfft.mutant(
    "conjugated",
    source="jax#979",
    fault="e^{-i k t} for e^{i k t} in the pull",
    kills="value",
    at=call([1.0, 2.0, 3.0]),
)
def _(g, args, y):
    return (_rfft_back(g[0], -g[1], len(args[0])),)


@right("n, n, n, n -> n, n")
def complex_product(a, b, c, d):
    return a * c - b * d, a * d + b * c


def _pull_through(g, re, im):
    return g[0] * re + g[1] * im, g[1] * re - g[0] * im


@complex_product.vjp
def _(g, args, y):
    a, b, c, d = args
    return (*_pull_through(g, c, d), *_pull_through(g, a, b))


@complex_product.mutant(
    "conjugate dropped",
    source="jax#979, mlx#3766",
    fault="g times the other factor, where its conjugate is wanted",
    kills="value",
    at=call([1.0], [2.0], [3.0], [4.0]),
)
def _(g, args, y):
    a, b, c, d = args
    return (*_pull_through(g, c, -d), *_pull_through(g, a, -b))
