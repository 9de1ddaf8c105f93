"""Where anybody's arrays come in: `kernels.serving("matmul")(a, b)` takes what speaks DLPack, the array interface or the buffer protocol.

Nothing is copied here. Kernels trust what they are given, so what does not fit is said at the door, with the op's name, what it
wants and what it was given. The axes that an op wants are written as in "... m k, ... k n":

    m      an axis; the same name has the same size wherever it stands
    3      an axis of just this size
    ...    leading axes, which broadcast against one another
    *s     any axes, the same ones wherever the name stands

The engine does not pass here: its ops have a contract of their own, and call `Rung.run`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels.registry import Rung


def enter(rung: Rung, arrays: Sequence[Any], params: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The arrays as NumPy's, and `out` among the parameters, if the rung takes them. Raises TypeError or ValueError."""
    names = arguments(rung)
    if len(arrays) != len(names):
        raise TypeError(f"{rung.op} on {rung.backend}: wants {len(names)} arrays, {', '.join(names)}; given {len(arrays)}")
    found = [as_array(rung, name, a) for name, a in zip(names, arrays, strict=True)]
    if not rung.takes(found):
        clash = f"wants all arrays in one of {dtypes(rung)}{but(rung, names)}"
        raise TypeError(told(rung, clash, names, found))
    try:
        bind(rung.contract.wants, names, [a.shape for a in found])
        if rung.contract.check is not None:
            rung.contract.check(*found, **params)
    except ValueError as e:
        raise ValueError(told(rung, str(e), names, found)) from None
    if params.get("out") is not None:
        params = {**params, "out": as_array(rung, "out", params["out"])}
    return found, params


def arguments(rung: Rung) -> list[str]:
    """The names of the arrays that a rung takes."""
    parameters = inspect.signature(rung.run, follow_wrapped=False).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def as_array(rung: Rung, name: str, a: Any) -> np.ndarray:
    try:
        if hasattr(a, "__dlpack__") and not isinstance(a, np.ndarray):
            return np.from_dlpack(a)
        return np.asarray(a)
    except Exception as e:  # whatever another library says about memory that is not here, gradients, dtypes of its own
        raise TypeError(f"{rung.op} on {rung.backend}: {name} is a {type(a).__name__} that cannot be read as an array: {e}") from e


def dtypes(rung: Rung) -> str:
    return ", ".join(key.replace(" ", " x ") for key in rung.rtol)


def but(rung: Rung, names: Sequence[str]) -> str:
    return f", and integers in {', '.join(names[i] for i in rung.integers)}" if rung.integers else ""


def told(rung: Rung, clash: str, names: Sequence[str], arrays: Sequence[np.ndarray]) -> str:
    wants = "   ".join(f"{n}: {w.strip()}" for n, w in zip(names, rung.contract.wants.split(","), strict=True))
    given = "   ".join(f"{n}: {a.shape} {a.dtype}" for n, a in zip(names, arrays, strict=True))
    return f"{rung.op} on {rung.backend}: {clash}\n  wants  {wants}\n  given  {given}"


def bind(wants: str, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """What each name stands for. Raises ValueError with the first clash."""
    sizes: dict[str, Any] = {}
    seen: dict[str, str] = {}
    leading: list[tuple[int, ...]] = []
    for name, tokens, shape in zip(names, [side.split() for side in wants.split(",")], shapes, strict=True):
        free = next((t for t in tokens if t == "..." or t[0] == "*"), None)
        axes = [t for t in tokens if t != free]
        if len(shape) < len(axes) or (free is None and len(shape) != len(axes)):
            raise ValueError(f"{name} has {len(shape)} axes where {'at least ' if free else ''}{len(axes)} are wanted")
        at = tokens.index(free) if free else len(tokens)
        cut = len(shape) - (len(axes) - at)
        found = {**dict(zip(axes[:at], shape[:at], strict=True)), **({free: shape[at:cut]} if free else {})}
        pairs = [*found.items(), *zip(axes[at:], shape[cut:], strict=True)] if free else list(zip(axes, shape, strict=True))
        for token, size in pairs:
            if token == "...":
                leading.append(size)
                continue
            known = int(token) if token.isdigit() else sizes.setdefault(token, size)
            if known != size:
                where = f"in {seen[token]} " if token in seen else ""
                raise ValueError(f"axis {token} is {known} {where}but {size} in {name}")
            seen.setdefault(token, name)
    try:
        np.broadcast_shapes(*leading)
    except ValueError:
        raise ValueError(f"leading axes {' and '.join(map(str, leading))} do not broadcast") from None
    return sizes
