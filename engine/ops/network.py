r"""What only networks need: dropout and embedding."""

from __future__ import annotations

import numpy as np

from engine.domain import Pick
from engine.op import op, shape_of
from engine.ops.index import take
from engine.ops.linear import as_given
from engine.traced import primal

__all__ = ["dropout", "embedding"]

Seed = int | tuple[int, ...]


@op(linear=("x",))
def dropout(x, *, rate: float, seed: Seed):
    r"""$y_i = x_i / (1 - r)$ with probability $1 - r$, else 0

    rate   the probability of 0, from 0 to 1
    seed   an int, or several such as (seed, epoch, batch, layer): the same seed and shape give the same mask. There is no
           hidden state, so that a second call, as for the derivative, drops the same elements
    Leave it out in use: the factor 1 / (1 - rate) keeps the expected value.
    The mask is drawn by Philox, a counter-based generator: Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3.
    Raises ValueError for a rate outside [0, 1].
    Source: Srivastava et al. (2014), Dropout, sec. 10, in its inverted form.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a probability from 0 to 1, not {rate}")
    x = x if x.dtype.kind in "fc" else x.astype(np.float64)
    words = seed if isinstance(seed, tuple) else (seed,)
    source = np.random.Philox((*words, len(words)))  # the length, since NumPy takes (7, 0) for 7
    kept = np.random.Generator(source).random(x.shape) >= rate
    return np.where(kept, x / (1 - rate) if rate < 1 else x, 0)


@dropout.shape
def _(x, *, rate, seed):
    return x


@dropout.vjp("x")
def _(g, *, rate, seed):
    r"""\bar x_i = \bar y_i / (1 - r) \text{ where } x_i \text{ was kept, else } 0"""
    return dropout(g, rate=rate, seed=seed)


@dropout.sample
def _(pick: Pick):
    shape = pick.choice([(), (pick.size(0, 4),), (pick.size(1, 3), pick.size(1, 3))])
    return [pick.array(*shape)], {"rate": pick.choice([0.0, 0.3, 1.0]), "seed": pick.choice([7, (7, 1, 2)])}


def embedding(ids, table):
    r"""$y_{\ldots d} = t_{k d}, \; k = \mathrm{ids}_{\ldots}$: a row of the table for each id

    ids     integers from 0 to rows - 1, of any shape; no derivative
    table   (rows, d)
    returns (..., d). The gradients of rows chosen several times add up.
    Raises TypeError for ids that are not integers, IndexError for an id that is not in the table: it does not count from the end.
    """
    ids, rows = as_given(ids), shape_of(table)[0]
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids are {ids.dtype}, integers are wanted: ids.astype(int)")
    plain = primal(ids)
    if type(plain) is np.ndarray and ids.size and not 0 <= plain.min() <= plain.max() < rows:
        raise IndexError(f"embedding: ids from {plain.min()} to {plain.max()}, but the table has rows 0 to {rows - 1}")
    return take(table, ids, axis=0)
