"""Does a file give what the model gives? It is run by ONNX Runtime, and each value held to what rounding excuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.export.onnx_writer import ExportError
from engine.graph import Graph, Value
from engine.tree import flatten

BATCHES = (1, 3)
NARROW = "it has few operators for float64: export parameters and example in float32; or another opset"
Write = Callable[[Graph], tuple[bytes, list[str]]]
"""Makes a model of a graph, and tells the names of its inputs."""


@dataclass(frozen=True)
class Comparison:
    """How far an output of ONNX Runtime is from ours."""

    name: str
    examples: tuple[int, ...]  # of the first input; empty where it is a number
    difference: float
    allowed: float

    def __str__(self) -> str:
        many = "".join(f", {n} example" + "s" * (n != 1) for n in self.examples)
        return f"{self.name}{many}: at most {self.difference:.1e} apart, {self.allowed:.1e} is rounding"


def verified(
    data: bytes,
    predict: Callable[..., Any],
    graph: Graph,
    params: Mapping[str, Any],
    batches: Sequence[Sequence[Any]],
    write: Write,
) -> tuple[str | None, list[Comparison]]:
    """The version of ONNX Runtime, and how far its outputs are from predict's on each batch; None if it is not installed.

    On the last batch each value on the way is compared, too, in a model by `write`: what is wrong there may fade before the end.

    What rounding excuses: 8 times by how much our own result differs from the same computed in float64, and 16 units in the last place of
    the largest element for each call on the longest way through the graph. Raises ExportError beyond that.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None, []
    session, depth = loaded(data), _depth(graph)
    ins, outs = [[v.name for v in of] for of in (session.get_inputs(), session.get_outputs())]
    found = []
    for given in batches:
        theirs = ran(session, dict(zip(ins, given, strict=True)))
        with np.errstate(all="ignore"):
            ours = [np.asarray(y) for y in flatten(predict(params, *given))[0]]
            exact = flatten(graph(_wide(params), *_wide(dict(enumerate(given))).values()))[0]
        for name, got, wanted, wide, v in zip(outs, theirs, ours, exact, graph.outputs, strict=True):
            found.append(Comparison(name, np.shape(given[0])[:1], *_apart(got, wanted, wide, depth[v])))
            if not found[-1].difference <= found[-1].allowed:
                told = f"{found[-1]}; {got.dtype} {got.shape} for {wanted.dtype} {wanted.shape}"
                culprit = _culprit(graph, params, given, write) or "each call alone is right within rounding: try inputs of another range"
                raise ExportError(f"ONNX Runtime does not give what the model gives: {told}\n  {culprit}")
    culprit = _culprit(graph, params, batches[-1], write)
    if culprit:
        raise ExportError(f"ONNX Runtime does not give what the model gives on the way to its outputs\n  {culprit}")
    return onnxruntime.__version__, found


def loaded(data: bytes, cure: str = NARROW, *, entries: Mapping[str, str] | None = None, as_written: bool = False) -> Any:
    """A session of ONNX Runtime, with these entries in its configuration; `as_written`: without joining nodes. Raises ExportError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong comes as an exception
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for entry in (entries or {}).items():
        options.add_session_config_entry(*entry)
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # of classes that its C++ part makes
        raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot load the model: {e}\n  {cure}") from e


def ran(session: Any, given: Mapping[str, Any], cure: str = NARROW) -> list[Any]:
    """What it gives. Raises ExportError."""
    try:
        return session.run(None, given)  # type: ignore[no-any-return]
    except Exception as e:  # as above
        raise ExportError(f"ONNX Runtime cannot run the model: {e}\n  {cure}") from e


def drawn(rng: np.random.Generator, like: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An array of this shape in the range of another."""
    low, high = (like.min(), like.max()) if like.size else (0, 0)
    if like.dtype.kind in "biu":
        return rng.integers(int(low), int(high) + 1, shape).astype(like.dtype)
    return (rng.uniform(low, high, shape) if -np.inf < low < high < np.inf else rng.normal(size=shape)).astype(like.dtype)


def _wide(arrays: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: np.asarray(x, np.float64) if np.asarray(x).dtype.kind == "f" else x for name, x in arrays.items()}


def _apart(got: Any, wanted: Any, exact: Any, depth: int) -> tuple[float, float]:
    """The largest difference, and what rounding excuses; infinite for another shape or dtype, or where only one is a number."""
    if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
        return np.inf, 0.0
    if wanted.dtype.kind != "f" or not wanted.size:
        return float(np.sum(got != wanted)), 0.0
    there = np.isfinite(wanted) & np.isfinite(exact)
    with np.errstate(invalid="ignore"):
        alike = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        apart = np.where(alike, 0, np.where(there & np.isfinite(got), np.abs(got - wanted), np.inf))
        ours = np.max(np.abs(wanted - exact), where=there, initial=0)
    scale = np.max(np.abs(wanted), where=there, initial=0)
    return float(np.max(apart)), float(8 * ours + 16 * depth * np.finfo(wanted.dtype).eps * scale)


def _depth(graph: Graph) -> dict[Value, int]:
    """For each value, how many calls there are on the longest way to it."""
    depth: dict[Value, int] = {}
    for call in graph.calls:
        depth.update(dict.fromkeys(call.outputs, 1 + max((depth.get(a, 0) for a in call.args), default=0)))
    return {**dict.fromkeys((*graph.inputs, *graph.parameters, *graph.constants), 0), **depth}


def _culprit(graph: Graph, params: Mapping[str, Any], given: Sequence[Any], write: Write) -> str:
    """The first call of which ONNX Runtime gives other numbers, found with all values on the way as outputs; empty if there is none."""
    used = {*[v for call in graph.calls for v in call.args], *graph.outputs}
    floats = [y for call in graph.calls for y in call.outputs if y in used and y.dtype.kind == "f"]
    if not floats:
        return ""
    whole = Graph(graph.inputs, graph.parameters, graph.calls, tuple(floats), tuple)
    data, ins = write(whole)
    theirs = dict(zip(floats, ran(loaded(data), dict(zip(ins, given, strict=True))), strict=True))
    with np.errstate(all="ignore"):
        ours, exact, depth = whole.run(params, *given), whole.run(_wide(params), *_wide(dict(enumerate(given))).values()), _depth(whole)
    for number, call in enumerate(graph.calls, 1):
        for y in (y for y in call.outputs if y in theirs):
            difference, allowed = _apart(theirs[y], np.asarray(ours[y]), exact[y], depth[y])
            if not difference <= allowed:
                told = f"the first that differs, by {difference:.1e} where {allowed:.1e} is rounding"
                return f"call {number}, {call}: {told}; the line of {call.op.name} in FORMS is wrong for such arguments"
    return ""
