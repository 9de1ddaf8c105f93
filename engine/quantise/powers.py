r"""Weights that are powers of two: a product with one is a shift, and a layer needs no multiplier.

    codes, powers = logarithmic(w, bits=4)            # w ~ powers.expand(codes): 0 and seven powers of two, with both signs
    y, exponent = shift_product(x, codes, powers)     # x integers: x @ powers.expand(codes) = y 2^exponent, exactly

    net, grids = of_powers(net, bits=4)               # a folded network whose weights are powers of two
    small = integers(net, calibrated(net, batches), grids=grids, rule="pow2")
    codes = run_by_shifts(small, codes)               # small.run(codes) without a multiplication

Numbers are close to each other where they are small, so the error is a share of the weight, from the smallest power up at most 41 %, or
19 % with powers of the root of 2. On a grid of equal steps it is the same for all. With few bits heavy-tailed weights fare better here,
evenly spread ones there.
Sources: Miyashita, Lee & Murmann (2016), Convolutional neural networks using logarithmic data representation, sec. 3; the code for 0 as in
Zhou, Yao, Guo, Xu & Chen (2017), Incremental network quantization: towards lossless CNNs with low-precision weights, eq. 2 and 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine import ops
from engine.interpret import Interpreter, interpreting, running
from engine.op import Op
from engine.quantise.folded import Folded, Layer
from engine.quantise.integer import Network
from engine.quantise.numbers import Grid, Scheme, check_numbers

MOST_BITS = 4  # of codes whose powers, 1 to 64, are int8


@dataclass(frozen=True)
class Powers:
    r"""$\mathrm{sign}(q)\, 2^{(t - n + |q|) / r}$ for the codes q from -n to n, $n = 2^{bits - 1} - 1$, and 0 for the code 0

    bits   2 to 8
    top    t: the largest is 2^(t / r)
    root   r: 1 for powers of 2, 2 for powers of its root
    Raises ValueError for other bits or roots.
    """

    bits: int
    top: int
    root: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8 or self.root not in (1, 2):
            raise ValueError(f"powers have 2 to 8 bits and the root 1 or 2; given are bits={self.bits}, root={self.root}")

    @property
    def count(self) -> int:
        """n, how many powers there are."""
        return (1 << self.bits - 1) - 1

    def expand(self, codes: Any, dtype: Any = np.float32) -> np.ndarray:
        """The numbers that codes stand for; powers of 2 are exact where the dtype holds them."""
        codes = np.asarray(codes)
        numbers: np.ndarray = np.sign(codes) * np.exp2((self.top - self.count + np.abs(codes.astype(int))) / self.root)
        return numbers.astype(dtype)


def logarithmic(w: Any, bits: int = 4, *, root: int = 1) -> tuple[np.ndarray, Powers]:
    r"""$|w| \approx 2^{e / r}, \; e = \max(\mathrm{round}(r \log_2 |w|),\ t - n + 1), \; t = \mathrm{round}(r \log_2 \max |w|)$

    w         finite floats of any shape. What is nearer to 0 than to the smallest power has the code 0
    bits      of a code: one for the sign, so that there are n = 2^(bits-1) - 1 powers
    root      r, 1 or 2

    returns   codes, int8 in the shape of w, and the powers
    Raises ValueError for other bits or roots, for no numbers and for one that is not finite, TypeError for what is not floats.
    """
    w = np.asarray(w)
    check_numbers(w)
    size = np.abs(w, dtype=np.float64)
    with np.errstate(divide="ignore"):  # the logarithm of 0 is below them all
        exponents = np.rint(root * np.log2(size))
    largest = exponents.max()
    powers = Powers(bits, int(largest) if np.isfinite(largest) else 0, root)
    lowest = powers.top - powers.count + 1
    codes = np.where(size < np.exp2(lowest / root - 1), 0, np.maximum(exponents, lowest) - lowest + 1)
    return np.copysign(codes, w).astype(np.int8), powers


def shift_product(x: Any, codes: Any, powers: Powers) -> tuple[np.ndarray, int]:
    r"""$\sum_p x_{ip} w_{pj} = y_{ij} 2^e, \; y_{ij} = \sum_{l} 2^{l} \sum_p x_{ip}\, \mathrm{sign}(q_{pj}) [|q_{pj}| = l + 1]$

    No number is multiplied: from the largest power to the smallest, the sum so far is shifted by one place, and the x whose weight is the
    next power are added or subtracted.

    x         (..., m, k), uint8 or int8
    codes     (k, n), those of `logarithmic`
    returns   y (..., m, n), int64, exact, and the integer e
    Raises ValueError for powers of the root of 2, which is no shift, and if a sum could leave int64; TypeError for other x.
    """
    if powers.root != 1:
        raise ValueError("a product with a power of the root of 2 is no shift: take root=1")
    codes = np.asarray(codes)
    places = int(np.abs(codes.astype(int)).max(initial=1))
    if len(codes) << places + 7 >= 1 << 63:
        raise ValueError(f"sums of {len(codes)} products with shifts of {places - 1} places leave int64: take fewer bits")
    return _added_up(lambda signs: ops.matmul_int8(x, signs), codes, places), powers.top - powers.count + 1


def _added_up(product: Callable[[np.ndarray], Any], codes: np.ndarray, places: int) -> Any:
    """The sum of products with the powers of codes, int64, from those with their signs."""
    y, size = np.int64(0), np.abs(codes.astype(int))
    for power in range(places, 0, -1):
        y = (y << 1) + product(np.where(size == power, np.sign(codes), 0).astype(np.int8))
    return y


# Networks.


def of_powers(net: Folded, bits: int = MOST_BITS) -> tuple[Folded, dict[str, Grid]]:
    r"""The network with weights $\pm 2^e$ and 0, each channel rounded as by `logarithmic`, and the grids on which they lie, for `integers`.

    bits   of a code, 2 to 4: then the powers of a channel are 1 to 64 times its scale, int8
    Raises ValueError for other bits, and, with the layer, for weights that are not finite.
    """
    if not 2 <= bits <= MOST_BITS:
        raise ValueError(f"bits={bits}: powers of two that are int8 have 2 to {MOST_BITS} bits")
    grids, layers = {}, []
    for layer in net.weighted:
        try:
            w, scale = _powers_by_channel(layer, bits)
        except ValueError as e:
            raise ValueError(f"the weights of {layer.name}: {e}") from e
        grids[layer.name] = Grid(Scheme(axis=layer.channels), scale, np.zeros(len(scale), np.int8))
        layers.append(replace(layer, w=w))
    return net.put(*layers), grids


def _powers_by_channel(layer: Layer, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights that are powers of two, and the smallest power of each channel."""
    assert layer.w is not None
    found = [logarithmic(w, bits) for w in np.moveaxis(layer.w, layer.channels, 0)]
    w = np.stack([powers.expand(codes, layer.w.dtype) for codes, powers in found])
    scale = [np.exp2(powers.top - powers.count + 1) for _, powers in found]
    return np.moveaxis(w, 0, layer.channels), np.asarray(scale, layer.w.dtype)


def run_by_shifts(network: Network, codes: np.ndarray) -> np.ndarray:
    """`network.run(codes)`, the same bits, with shifts and sums for the products of its layers and for requantisation.

    The sums of branches and means of pools are what they were. Raises ValueError for weights that are not powers of two, or a zero point of
    theirs, and for a rule other than pow2, which multiplies.
    """
    with interpreting(ByShifts(running())):
        return network.values(codes)[network.layers[-1].name]  # layer by layer, each a call that is seen


class ByShifts(Interpreter):
    """Layers of codes whose weights are powers of two, by shifts and sums."""

    def __init__(self, below: Interpreter):
        self.below = below

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        if op not in (ops.matmul_codes, ops.conv2d_codes):
            if op in (ops.matmul_int8, ops.conv2d_int8):
                raise ValueError("weights with a zero point are no powers of two: take `of_powers` and its grids")
            return self.below.apply(op, args, params)
        if params["rule"] != "pow2":
            raise ValueError(f"rule {params['rule']} multiplies sums: for shifts alone take integers(..., rule='pow2')")
        x, w, *by = args
        to = dict(params)
        product, like = ops.matmul_int8, dict[str, Any]()
        if op is ops.conv2d_codes:
            product, like = ops.conv2d_int8, {name: to.pop(name) for name in ("stride", "padding", "dilation", "groups")}
            like["zero_point"] = to.pop("x_zero_point")
        with interpreting(self.below):
            sums = _added_up(lambda signs: product(x, signs, **like), *_places(np.asarray(w)))
            return ops.requantise(sums.astype(np.int32), *by, **to)


def _places(w: np.ndarray) -> tuple[np.ndarray, int]:
    """Codes of the powers 1, 2, 4 to 64, and how many powers there are."""
    size = np.abs(w.astype(int))
    if np.any(size & (size - 1)):
        raise ValueError("the weights are no powers of two: take `of_powers` and its grids")
    places = np.where(size > 0, np.log2(np.maximum(size, 1)).astype(int) + 1, 0)
    return np.copysign(places, w), int(places.max(initial=1))
