"""Arguments for any op, drawn from its own notation, domain or sampler."""

import numpy as np
from hypothesis import strategies as st

from engine.domain import Pick
from engine.shapes import ANY


class Drawn(Pick):
    """Sizes and options by Hypothesis, which shrinks them; values from a seed, so that no two are equal by accident."""

    def __init__(self, draw):
        super().__init__(np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
        self.draw = draw

    def size(self, low, high):
        return self.draw(st.integers(low, high))

    def choice(self, options):
        return options[self.size(0, len(options) - 1)]


def arguments(op, pick):
    """Arguments and parameters for one call of `op`, float64."""
    if op.sampler is not None:
        args, params = op.sampler(pick)
        return list(args), {**op.defaults, **params}
    sizes = {name: pick.size(0, 4) for name in op.notation.names}
    rest = [pick.size(0, 3) for _ in range(pick.size(0, 2))]
    args = []
    for name, tokens in zip(op.args, op.notation.inputs, strict=True):
        shape = []
        for token in tokens:
            shape += _part(rest, pick) if token == ANY else [int(token) if token.isdigit() else sizes[token]]
        args.append(pick.array(*shape, domain=op.domain[name]))
    return args, dict(op.defaults)


def _part(rest, pick):
    """A shape that broadcasts to `rest`: some leading axes missing, some axes 1."""
    kept = rest[pick.size(0, len(rest)) :]
    return [pick.choice([1, n]) for n in kept]


@st.composite
def calls(draw, op):
    """(args, params) for `op`."""
    return arguments(op, Drawn(draw))


LAYOUTS = ("C", "F", "stepped", "reversed", "offset", "read-only", "repeated")


def laid_out(x, layout):
    """The same numbers in another layout; the gaps hold nan, so that reading them shows."""
    if x.ndim == 0:
        return x
    if layout == "F":
        return np.asfortranarray(x)
    if layout == "reversed":
        return np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    if layout in ("stepped", "offset"):
        step, start = (2, 0) if layout == "stepped" else (1, 3)
        filler = np.nan if x.dtype.kind == "f" else 0
        room = np.full((*x.shape[:-1], start + step * x.shape[-1]), filler, x.dtype)
        room[..., start::step] = x
        return room[..., start::step]
    if layout == "repeated" and x.shape[0] > 1 and np.all(x == x[:1]):
        return np.broadcast_to(x[:1], x.shape)
    y = x.copy()
    y.flags.writeable = layout != "read-only"
    return y
