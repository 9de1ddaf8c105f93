r"""A model as an ONNX file, for any size of batch, verified before it is there.

    report = export("lenet.onnx", predict, params, x)
    print(report)

What predict calls is found by `engine.graph.trace`, and each call is written by the table in `onnx_forms`: op -> how ONNX says it. Calls
on parameters and constants alone are computed here. The file passes onnx.checker, and, where ONNX Runtime is installed, gives what
predict gives on random inputs of two batch sizes; else there is no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.checkpoints import write_whole
from engine.export.onnx_forms import FORMS
from engine.export.onnx_verify import BATCHES, Comparison, drawn, verified
from engine.export.onnx_writer import OLDEST, ExportError, Writer
from engine.graph import Graph, Value, trace
from engine.op import as_array
from engine.tree import paths

__all__ = ["FORMS", "OLDEST", "OPSET", "Comparison", "ExportError", "Exported", "export", "written"]

OPSET = 21  # of ONNX 1.16


@dataclass(frozen=True)
class Exported:
    """What was written.

    inputs, outputs  (name, dtype and shape) of each; n is the size of the batch
    runtime          the version of ONNX Runtime that gave what the model gives, None if there is none installed
    compared         for each output and batch size: the largest difference, and the largest that rounding excuses
    """

    path: Path
    opset: int
    bytes: int
    inputs: list[tuple[str, str]]
    outputs: list[tuple[str, str]]
    runtime: str | None
    compared: list[Comparison]

    def __str__(self) -> str:
        rows = [("input", *v) for v in self.inputs] + [("output", *v) for v in self.outputs]
        wide = max(len(name) for _, name, _ in rows)
        lines = [
            f"{self.path}: {self.bytes:,} bytes, opset {self.opset}",
            *(f"  {what:<6}  {name:<{wide}}  {of}" for what, name, of in rows),
        ]
        if self.runtime is None:
            return "\n".join([*lines, "verified: onnx.checker; not run, for ONNX Runtime is not installed (pip install onnxruntime)"])
        lines.append(f"verified: onnx.checker; each call, and the outputs, on random inputs by ONNX Runtime {self.runtime}")
        return "\n".join([*lines, *(f"  {c}" for c in self.compared)])


def export(
    path: str | os.PathLike[str],
    predict: Callable[..., Any],
    params: Mapping[str, Any],
    example: Any,
    *,
    opset: int = OPSET,
    names: Mapping[str, str] | None = None,
    batch: bool = True,
) -> Exported:
    """Write predict(params, *inputs) to `path`, in place of what is there, if it is verified.

    params   arrays by name; a net's state among them, {**params, **state}, for a predict that takes both so
    example  the input, some examples of it, or a tuple of inputs; the numbers say in which range the model is compared
    opset    from OLDEST on
    names    other names for inputs and outputs than those that the report tells: {"x": "pixels", "y": "logits"}
    batch    the first axis of every input is the batch, of any size; else the model takes inputs of just the shapes of `example`

    Raises ExportError for an op that has no form, an opset that is too old for one, a file that onnx.checker or ONNX Runtime refuses, or
    one that gives something else than predict; GraphError for a predict that is no graph; OSError if the folder or the disk refuses.
    Whatever is raised, `path` is as it was.
    """
    inputs = tuple(map(as_array, example if isinstance(example, tuple) else (example,)))
    graph = trace(predict, params, *inputs, batch=batch)
    data, ins, outs = written(graph, params, opset=opset, names=names)
    rng = np.random.default_rng(0)
    batches = [[drawn(rng, x, (n, *x.shape[1:]) if batch else x.shape) for x in inputs] for n in (BATCHES if batch else BATCHES[:1])]
    runtime, compared = verified(data, predict, graph, params, batches, lambda whole: written(whole, params, opset=opset)[:2])
    write_whole(Path(os.path.realpath(path)), data)
    told_in, told_out = (list(zip(said, map(str, of), strict=True)) for said, of in ((ins, graph.inputs), (outs, graph.outputs)))
    return Exported(Path(path), opset, len(data), told_in, told_out, runtime, compared)


def written(
    graph: Graph, params: Mapping[str, Any], *, opset: int = OPSET, names: Mapping[str, str] | None = None
) -> tuple[bytes, list[str], list[str]]:
    """A graph as an ONNX model that onnx.checker has seen, and the names of its inputs and outputs. See `export`."""
    import onnx
    from onnx import helper

    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise ExportError(f"opset {opset}: there are {OLDEST} to {newest} here\n  pass opset={min(max(opset, OLDEST), newest)}")
    writer = Writer(graph, params, opset, FORMS)
    ins = [v.name for v in graph.inputs]
    outs = _output_names(graph, {*ins, *writer.arrays})
    unknown = [name for name in names or {} if name not in ins + outs]
    if unknown:
        raise ExportError(f"names: there is no {', '.join(unknown)} among {', '.join(ins + outs)}")
    ins, outs = ([(names or {}).get(name, name) for name in found] for found in (ins, outs))
    called = writer.finished(ins, outs)
    made = helper.make_graph(
        [helper.make_node(node.kind, node.inputs, node.outputs, node.outputs[0], **node.attributes) for node in writer.nodes],
        "model",
        [_declared(name, v) for name, v in zip(ins, graph.inputs, strict=True)],
        [_declared(name, v) for name, v in zip(outs, graph.outputs, strict=True)],
        [onnx.numpy_helper.from_array(np.asarray(x, order="C"), called.get(name, name)) for name, x in writer.arrays.items()],
    )
    sets = [helper.make_opsetid("", opset)]
    model = helper.make_model(made, opset_imports=sets, ir_version=helper.find_min_ir_version_for(sets), producer_name="gnomon")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise ExportError(f"onnx.checker refuses the model: {e}") from e
    return model.SerializeToString(), ins, outs


def _declared(name: str, v: Value) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), [n if type(n) is int else str(n) for n in v.shape])


def _output_names(graph: Graph, taken: set[str]) -> list[str]:
    """y for one; several have the names and numbers by which what is returned is nested. None is taken by something else."""
    said = [path if path and not path[0].isdigit() else f"y{path}" for path in paths(graph.nest([0] * len(graph.outputs)))]
    return [f"{name}_" if name in taken else name for name in said]
