r"""Einstein's sums: an index that stands in several factors pairs them, one that is missing from the result is summed.

The gradient of an einsum is an einsum. In $y_{ik} = \sum_j a_{ij} b_{jk}$ the factor $a$ changes places with the result:
$\bar a_{ij} = \sum_k \bar y_{ik} b_{jk}$. What then lacks an index gets it from a constant factor: a row of ones for an index
that only $a$ had (its sum is handed back to every term), the identity $\delta_{ij}$ for an index that $a$ had twice (a diagonal
is written back on the diagonal). So there is one rule, and derivatives of any order stay einsums.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import prod
from string import ascii_letters
from typing import Any

import numpy as np

from engine.domain import Pick
from engine.op import as_array, op
from engine.ops.elementwise import add
from engine.shapes import Shape, ShapeError
from engine.traced import NUMPY

__all__ = ["einsum"]


@op()
def einsum(*xs, subscripts):
    r"""$y_{\mathrm{out}} = \sum_{\text{other indices}} \prod_n (x_n)_{\mathrm{in}_n}$

    subscripts    as in `einsum` below
    """
    sums = read(subscripts, tuple([x.shape for x in xs]))
    # Pairwise contraction in a good order finds matrix products; below some work, finding it takes longer than it saves.
    optimize = len(xs) > 1 and prod(sums.sizes.values()) > 8192
    return np.einsum(sums.text, *xs, optimize=optimize)


@einsum.shape
def _(*xs, subscripts):
    sums = read(subscripts, xs)
    return tuple(sums.sizes[i] for i in sums.out)


@einsum.vjp("xs")
def _(g, xs, *, subscripts):
    r"""\bar x_n = \sum \bar y_{\mathrm{out}} \prod_{m \neq n} (x_m)_{\mathrm{in}_m} \text{ over all indices not in } \mathrm{in}_n"""
    shapes = tuple([x.shape for x in xs])
    return tuple([_pull(g, xs, n, *transposed(subscripts, shapes, n)) for n in range(len(xs))])


def _pull(g, xs, n, text, constants):
    return sums_of_products(g, *xs[:n], *xs[n + 1 :], *[make(size, dtype=g.dtype) for make, size in constants], subscripts=text)


@einsum.jvp("xs")
def _(d, xs, *, subscripts):
    r"""\dot y = \sum_n \text{the same product with } \dot x_n \text{ for } x_n"""
    parts = [sums_of_products(*xs[:n], dx, *xs[n + 1 :], subscripts=subscripts) for n, dx in enumerate(d)]
    return reduce(add, parts)


DRAWN = (
    "ij,jk->ik", "ij,jk,kl", "ij->ji", "ij->j", "i,i->", "ii", "ii->i", "iji->j", "iij,j->i", "i,j", ",ij", "ba", "bij,bkj->bik",
    "...ij,...jk->...ik", "i...->...", "...i,i",
)  # fmt: skip


@einsum.sample
def _(pick: Pick):
    text = pick.choice(DRAWN)
    sizes = {i: pick.size(0, 3) for i in "ijklab"}
    batch = (pick.size(1, 2),) if "..." in text else ()
    terms = text.partition("->")[0].split(",")
    xs = [pick.array(*(batch if "..." in t else ()), *(sizes[i] for i in t.replace("...", ""))) for t in terms]
    return xs, {"subscripts": text}


sums_of_products = einsum  # the op, OPS["einsum"]


def einsum(subscripts: Any, *operands: Any, optimize: Any = True) -> Any:  # type: ignore[no-redef]
    r"""$y_{\mathrm{out}} = \sum_{\text{other indices}} \prod_n (x_n)_{\mathrm{in}_n}$, as `np.einsum`

    subscripts    one letter for each axis of each operand, as in "ij,jk->ik". Without "->" the result has the letters
                  that stand once, in alphabetical order. "..." stands for further leading axes, which broadcast. A
                  letter twice in one operand takes its diagonal. Or NumPy's other form: einsum(x, [0, 1], w, [1, 2], [0, 2])
    optimize      accepted for NumPy's sake; the order of the products is chosen here, and changes rounding only

    Any real dtypes; promotes as NumPy does. Raises ShapeError where sizes or numbers of axes clash.
    """
    if not isinstance(subscripts, str):
        subscripts, operands = _from_lists(subscripts, *operands)
    return sums_of_products(*[x if hasattr(x, "shape") else as_array(x) for x in operands], subscripts=subscripts)


NUMPY[np.einsum] = einsum


def _from_lists(*given):
    """Subscripts as text, and operands, from x, [0, 1], w, [1, 2], ..., [0, 2]."""
    out = given[-1] if len(given) % 2 else None
    pairs = given[: len(given) // 2 * 2]
    text = ",".join(map(_letters, pairs[1::2]))
    return text if out is None else f"{text}->{_letters(out)}", pairs[::2]


def _letters(indices):
    if not isinstance(indices, (list, tuple)):
        raise TypeError(f'einsum: wanted is "ij,jk->ik" first, or a list of indices after each operand, not {type(indices).__name__}')
    return "".join("..." if i is Ellipsis else ascii_letters[i] for i in indices)


# Reading the subscripts.


@dataclass(frozen=True)
class Sums:
    """Subscripts with everything implied written out: no "...", and the result's indices."""

    terms: tuple[str, ...]
    out: str
    sizes: dict[str, int]

    @property
    def text(self) -> str:
        return ",".join(self.terms) + "->" + self.out


@lru_cache(maxsize=1024)
def read(subscripts: str, shapes: tuple[Shape, ...]) -> Sums:
    """The subscripts, spelled out for operands of these shapes. Raises ShapeError."""
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if not re.fullmatch(r"[A-Za-z,.]*", left) or not re.fullmatch(r"[A-Za-z.]*", right):
        raise ShapeError(f'{subscripts!r}: wanted are letters, ",", "..." and one "->"')
    if len(terms) != len(shapes):
        raise ShapeError(f"{subscripts!r} names {len(terms)} operands, {len(shapes)} were given")
    if any("." in t.replace("...", "", 1) for t in (*terms, right)):
        raise ShapeError(f'{subscripts!r}: dots come in threes, "...", once in an operand')
    spare = _unused(subscripts)
    widest = max(len(s) - len(t.replace("...", "")) if "..." in t else 0 for t, s in zip(terms, shapes, strict=True))
    rest = "".join(next(spare) for _ in range(widest))
    terms = [_spelled(t, len(s), rest, n) for n, (t, s) in enumerate(zip(terms, shapes, strict=True))]
    sizes = _sizes(terms, shapes)
    if not arrow:
        named = "".join(terms)
        right = "..." + "".join(sorted(i for i in set(named) - set(rest) if named.count(i) == 1))
    elif rest and "..." not in right:
        raise ShapeError(f'{subscripts!r}: the axes of "..." are not in the result; write "..." on the right too, or sum over named axes')
    out = right.replace("...", rest)
    for i in out:
        if i not in sizes or out.count(i) > 1:
            raise ShapeError(f"{subscripts!r}: index {i} of the result is {'there twice' if i in sizes else 'in no operand'}")
    return Sums(tuple(terms), out, sizes)


def _unused(text: str) -> Iterator[str]:
    """Letters that are not in `text`."""
    yield from (i for i in ascii_letters if i not in text)
    raise ShapeError(f"{text!r}: with the axes that are implied these are more than {len(ascii_letters)} indices")


def _spelled(term: str, ndim: int, rest: str, n: int) -> str:
    """One operand's indices, with "..." as the last letters of `rest`: broadcasting aligns at the right."""
    named = len(term.replace("...", ""))
    if ndim < named or (ndim > named and "..." not in term):
        raise ShapeError(f"operand {n} has {ndim} axes, {term!r} names {named}")
    return term.replace("...", rest[len(rest) - (ndim - named) :])


def _sizes(terms: list[str], shapes: tuple[Shape, ...]) -> dict[str, int]:
    """The size of each index. An axis of size 1 broadcasts against the same index of another operand."""
    sizes: dict[str, int] = {}
    for n, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        for i, size in zip(term, shape, strict=True):
            if any(other != size for j, other in zip(term, shape, strict=True) if j == i):
                raise ShapeError(f"index {i} stands for axes of different sizes in operand {n}, {shape}: there is no diagonal")
            if size != sizes.get(i, 1) and size != 1 and sizes.get(i, 1) != 1:
                raise ShapeError(f"index {i} is {sizes[i]} so far but {size} in operand {n}")
            sizes[i] = size if sizes.get(i, 1) == 1 else sizes[i]
    return sizes


@lru_cache(maxsize=1024)
def transposed(subscripts: str, shapes: tuple[Shape, ...], n: int) -> tuple[str, tuple[tuple[Any, int], ...]]:
    """The subscripts of the gradient of operand n, and the constant factors that come after g and the other operands."""
    sums = read(subscripts, shapes)
    spare = _unused("".join(sums.sizes))
    terms = [sums.out, *sums.terms[:n], *sums.terms[n + 1 :]]
    others = (tuple(sums.sizes[i] for i in sums.out), *shapes[:n], *shapes[n + 1 :])
    there = _sizes(terms, others)
    constants: list[tuple[Any, int]] = []
    out = ""
    for i, size in zip(sums.terms[n], shapes[n], strict=True):
        if i in out:  # once more in this operand: nothing off the diagonal
            twin = next(spare)
            terms, constants, out = [*terms, i + twin], [*constants, (np.eye, size)], out + twin
        elif size == there.get(i):
            out += i
        elif size != sums.sizes[i]:  # size 1, broadcast against others: they are summed, and the axis stays
            one = next(spare)
            terms, constants, out = [*terms, one], [*constants, (np.ones, 1)], out + one
        else:  # summed in this operand alone: every term gets the whole cotangent
            terms, constants, out = [*terms, i], [*constants, (np.ones, size)], out + i
    return ",".join(terms) + "->" + out, tuple(constants)
