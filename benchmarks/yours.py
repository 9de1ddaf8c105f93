"""A function of one's own, next to ours and the others: marked where it is written, `gnomon bench file.py` does the rest.

    from benchmarks import bench

    @bench("matmul")
    def mine(a, b):
        ...

It takes the arrays and the parameters of the op; parameters that it does not name are not handed over where they have their default. It is
compared with the definition first, in every case, and not timed where it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from benchmarks.cases import Case, Shape
from benchmarks.suites import cases_of

F = TypeVar("F", bound=Callable[..., Any])
MARK = "__bench__"


def bench(op: str, shapes: Sequence[Sequence[Shape]] = (), dtype: str | None = None, **params: Any) -> Callable[[F], F]:
    """Mark a function for `gnomon bench`.

    op      whose arguments it takes, and whose definition it must agree with
    shapes  of the arguments, a tuple for each case; by default the cases that the op has here
    dtype   only cases in this one; of `shapes`, float32 if it is not said
    params  of the op, for cases by `shapes`
    """
    own = [Case(op, tuple(map(tuple, each)), "your own case", tuple(params.items()), dtype=dtype or "float32") for each in shapes]

    def mark(f: F) -> F:
        setattr(f, MARK, (op, own, dtype))
        return f

    return mark


def marked(f: Callable[..., Any]) -> str | None:
    """The op that a function is marked with."""
    found = getattr(f, MARK, None)
    return found[0] if found else None


def cases_for(f: Callable[..., Any], op: str) -> list[Any]:
    """Its own cases, or those of the op."""
    _, own, dtype = getattr(f, MARK, (op, [], None))
    return own or [case for case in cases_of(op) if dtype in (None, case.dtype)]
