"""Where anybody's arrays come in: `kernels.serving("matmul")(a, b)` takes what speaks DLPack, the array interface or the buffer protocol.

Nothing is copied here. Kernels trust what they are given, so what does not fit is said at the door, with the op's name, what it
wants and what it was given. The axes that an op wants are written as in "... m k, ... k n":

    m      an axis; the same name has the same size wherever it stands
    3      an axis of just this size
    ...    leading axes, which broadcast against one another
    *s     any axes, the same ones wherever the name stands

Where the contract says `dicts`, each argument may be a dict of arrays under the same names instead, and so may each result in `out`.

The engine does not pass here: its ops have a contract of their own, and call `Rung.run`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from kernels.registry import Rung


def enter(rung: Rung, arrays: Sequence[Any], params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arrays as NumPy's, and `out` among the parameters, if the rung takes them. Raises TypeError or ValueError."""
    names = arguments(rung.run)
    if len(arrays) != len(names):
        raise TypeError(f"{rung.op} on {rung.backend}: wants {len(names)} arrays, {', '.join(names)}; given {len(arrays)}")
    if rung.contract.dicts and any(isinstance(a, dict) for a in arrays):
        return enter_by_name(rung, names, arrays, params)
    found = [as_array(rung, name, a) for name, a in zip(names, arrays, strict=True)]
    if not rung.takes(found):
        clash = f"wants all arrays in one of {dtypes(rung)}{but(rung, names)}"
        raise TypeError(told(rung, clash, names, found))
    try:
        bind(rung.contract.wants, names, [a.shape for a in found])
        if rung.contract.check is not None:
            rung.contract.check(*found, **{name: value for name, value in params.items() if name != "out"})
    except ValueError as e:
        raise ValueError(told(rung, str(e), names, found)) from None
    out = params.get("out")
    if isinstance(out, (tuple, list)):  # a place for each result; None asks for a new array
        params = {**params, "out": [None if a is None else as_array(rung, f"out[{i}]", a) for i, a in enumerate(out)]}
    elif out is not None:
        params = {**params, "out": as_array(rung, "out", out)}
    return found, params


def enter_by_name(
    rung: Rung, names: Sequence[str], dicts: Sequence[Any], params: dict[str, Any]
) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]]:
    """As `enter`, for dicts of arrays. That shapes and dtypes agree, name by name, a kernel sees itself as it goes through them."""
    found = [named(rung, name, d, dicts[0]) for name, d in zip(names, dicts, strict=True)]
    some = next(iter(found[0].values()), None)
    if some is not None and not rung.takes([some] * len(found)):
        raise TypeError(f"{rung.op} on {rung.backend}: wants all arrays in one of {dtypes(rung)}; given {some.dtype}")
    for name, value in params.items():
        if name == "out" and value is not None:
            places = [None if d is None else named(rung, f"out[{i}]", d, dicts[0]) for i, d in enumerate(value)]
            params = {**params, "out": places}
        elif isinstance(value, dict):
            same_names(rung, name, value, dicts[0])
    return found, params


def named(rung: Rung, name: str, d: Any, first: Any) -> dict[str, np.ndarray]:
    if not isinstance(d, dict) or not isinstance(first, dict):
        raise TypeError(f"{rung.op} on {rung.backend}: all are arrays, or all are dicts of arrays; {name} is a {type(d).__name__}")
    same_names(rung, name, d, first)
    if set(map(type, d.values())) == {np.ndarray}:
        return d
    return {key: as_array(rung, f"{name}[{key!r}]", a) for key, a in d.items()}


def same_names(rung: Rung, name: str, d: dict[str, Any], first: dict[str, Any]) -> None:
    if d.keys() != first.keys():
        missing, extra = [key for key in first if key not in d], [key for key in d if key not in first]
        raise ValueError(
            f"{rung.op} on {rung.backend}: the names in {name} are not those in the first dict: missing {missing}, not there {extra}"
        )


@lru_cache(maxsize=1024)
def arguments(run: Any) -> tuple[str, ...]:
    """The names of the arrays that a kernel takes."""
    parameters = inspect.signature(run, follow_wrapped=False).parameters.values()
    return tuple([p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD])


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
        pairs: list[tuple[str, Any]] = list(zip(axes[:at], shape[:at], strict=True))
        if free:
            pairs += [(free, shape[at:cut]), *zip(axes[at:], shape[cut:], strict=True)]
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
