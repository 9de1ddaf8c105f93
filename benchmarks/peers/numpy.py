"""The definition of the op, which is written in NumPy: a product is `np.matmul` with the BLAS that NumPy was built with."""

from __future__ import annotations

from typing import Any

from benchmarks import peers
from engine.traced import OPS


def available() -> str | None:
    return None


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    definition = OPS[case.op].definition
    if isinstance(args[0], dict):  # a step over all the arrays of a network
        return lambda: [definition(*[arrays[name] for arrays in args], **params) for name in args[0]]
    return lambda: definition(*args, **params)


def allowed(case: Any) -> float:
    """What the definition loses to rounding in the dtype of the case is its own: only what is not the definition is refused."""
    return 1e-10 if case.dtype == "float64" else 1e-3


def as_numpy(y: Any) -> Any:
    """A list of results, array by array, becomes a tuple of dicts as the others have it."""
    return tuple({f"p{i}": part for i, part in enumerate(each)} for each in zip(*y, strict=True)) if isinstance(y, list) else y
