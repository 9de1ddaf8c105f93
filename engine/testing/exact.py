"""The engine's ops on numbers of high precision, so that the arbiter can run a function of the engine, and its gradients too.

An interpreter at the very bottom: the tapes above it see arrays of float64. Most definitions compute in high precision as they
stand. Those of a few ops guard against overflow or speak of dtypes, and are written here as their formulas say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.interpret import EVAL, Interpreter
from engine.op import Op
from engine.testing import exact_matrices
from engine.testing.precise import Precise, wrapped
from engine.traced import Traced, primal


class Seen(Precise):
    """Numbers in high precision that pass for float64, and so does what is computed from them."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def __array_ufunc__(self, *call: Any, **options: Any) -> Any:
        return _passing(super().__array_ufunc__(*call, **options))

    def __array_function__(self, *call: Any) -> Any:
        return _passing(super().__array_function__(*call))

    def __getitem__(self, key: Any) -> Any:
        return _passing(super().__getitem__(key))


def _passing(y: Any) -> Any:
    return y.view(Seen) if isinstance(y, np.ndarray) and y.view(np.ndarray).dtype == object else y


class Exactly(Interpreter):
    """Compute in high precision where an argument has it."""

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        values = [a.value if type(a) is Traced and a.owner is self else a for a in args]
        if not any(isinstance(v, Precise) for v in values):
            return EVAL.apply(op, values, params)
        given = [v.view(Precise) if isinstance(v, Precise) else np.asarray(v) for v in values]
        y = wrapped(FORMULAS.get(op.name, op.definition)(*given, **params))
        return tuple(map(seen, y)) if type(y) is tuple else seen(y)


EXACTLY = Exactly()


def seen(x: Any) -> Any:
    """An array of high precision as a value that the engine can trace; anything else as it is."""
    return Traced(EXACTLY, x.view(Seen)) if isinstance(x, Precise) else x


def bare(y: Any) -> Any:
    """The array under a value."""
    y = primal(y)
    return y.view(Precise) if isinstance(y, Precise) else y


# Definitions that are about floats, as formulas.


def _astype(x: Any, *, dtype: Any) -> Any:
    return x.astype(dtype)


def _top(x: Any, axis: Any) -> Any:
    return np.max(x, axis=axis, keepdims=True)


def _logsumexp(x: Any, *, axis: Any, keepdims: bool) -> Any:
    if x.size == 0:
        raise TypeError("nothing to add up in high precision")
    top = _top(x, axis)
    return np.log(np.sum(np.exp(x - top), axis=axis, keepdims=keepdims)) + (top if keepdims else np.max(x, axis=axis))


def _log_softmax(x: Any, *, axis: Any) -> Any:
    return x - _logsumexp(x, axis=axis, keepdims=True) if x.size else x


def _softmax(x: Any, *, axis: Any) -> Any:
    return np.exp(_log_softmax(x, axis=axis))


def _cross_entropy(z: Any, t: Any) -> Any:
    log_p = _log_softmax(z, axis=-1)
    return -np.sum(np.where(t == 0, 0, t * log_p), axis=-1), log_p


def _vector_norm(x: Any, *, axis: Any, keepdims: bool, ord: float) -> Any:
    if not np.isfinite(ord) or ord == 0:
        raise TypeError("this norm is exact in floats")
    return np.sum(np.abs(x) ** ord, axis=axis, keepdims=keepdims) ** (1 / wrapped(np.array(ord)))


FORMULAS: dict[str, Callable[..., Any]] = {
    "astype": _astype, "logsumexp": _logsumexp, "log_softmax": _log_softmax, "softmax": _softmax, "cross_entropy": _cross_entropy,
    "vector_norm": _vector_norm,
    **{name: getattr(exact_matrices, name) for name in ("qr", "eigh", "svd", "det", "cofactor", "pinv")},
}  # fmt: skip
