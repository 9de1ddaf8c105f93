"""What the tester needs to know of an op of this engine, taken from its record."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from engine.domain import Pick
from engine.op import Op
from engine.testing.strategies import cases


class Drawn(Pick):
    """Sizes and options by Hypothesis, which shrinks them; values from a seed."""

    def __init__(self, draw: st.DrawFn):
        super().__init__(np.random.default_rng(draw(st.integers(0, 2**16))))
        self.draw = draw

    def size(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))


@st.composite
def sampled(draw: st.DrawFn, op: Op, dtype: Any = np.float64) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, params) as the sampler of `op` draws them, its floating-point arrays in `dtype`."""
    if op.sampler is None:
        raise ValueError(f"{op.name} has no sampler: its notation says what it takes")
    args, params = op.sampler(Drawn(draw))
    return tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in map(np.asarray, args)), {**op.defaults, **params}


def contract_of(op: Op, dtype: Any = np.float64) -> dict[str, Any]:
    """Keyword arguments for `check_gradient`: the shapes, domains and options of `op`, for arrays of `dtype`."""
    domain = {} if op.variadic else dict(op.domain)
    if op.sampler is not None:
        return {"cases": sampled(op, dtype), "domain": domain or None}
    assert op.notation is not None, "an op without a sampler has a notation"
    told = {"signature": op.notation.text, "domain": domain, "kwargs": dict(op.defaults)}
    if np.dtype(dtype) == np.float64:
        return told
    drawn = cases(op, dtype=dtype, **told)  # type: ignore[arg-type]
    return {"cases": drawn.map(lambda case: (case.args, case.kwargs)), "domain": domain}
