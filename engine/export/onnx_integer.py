r"""A network of integers as an ONNX file, for any size of batch, verified before it is there.

    report = export("lenet.onnx", network, x)                  # floats in, floats out, integers between
    report = export("lenet.onnx", network, x, codes=True)      # codes in, codes out: Network.run
    report = export("lenet.onnx", network, x, qdq=True)        # floats between pairs of QuantizeLinear and DequantizeLinear
    print(report)

By default the layers are operators on codes (QLinearConv, QGemm) that requantise by rule "fp32", so the file has the codes of
`Network.run`, each of them, or is not written. Means and sums of branches, for which ONNX Runtime's own operators round otherwise, are
written in floats that hold their whole numbers exactly. QGemm is an operator of ONNX Runtime; the form `qdq` has the standard's only.
That is what compilers for other devices take, each with an arithmetic of its own: what is told there is how many codes ONNX Runtime has
otherwise.

What other rules do has no operator in ONNX: such a network is refused, and is exported as C (`engine.export.c99`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.checkpoints import write_whole
from engine.export.onnx import OPSET
from engine.export.onnx_integer_forms import ON_CODES, ON_FLOATS, RUNTIMES, Value, Writer
from engine.export.onnx_verify import loaded, ran
from engine.export.onnx_writer import OLDEST, ExportError
from engine.quantise.integer import Add, AvgPool, Conv, Dense, InFloats, Layer, Network

__all__ = ["OPSET", "Exported", "Found", "export", "written"]

Declared = dict[str, tuple[str, tuple[int, ...]]]  # by name the dtype, and the shape of one example

DRAWN = 64  # examples of codes from all over their range, beside those that are given
FEW = 0.05  # of a layer's codes may be the next ones if it is in floats; of means and sums any, for up to half of them may be ties
CURE = "what ONNX Runtime has no operators for can be exported as C: engine.export.c99"


@dataclass(frozen=True)
class Found:
    """Of so many numbers so many are not ours."""

    differing: int
    compared: int

    def __str__(self) -> str:
        return f"{self.differing:,} of {self.compared:,}"


@dataclass(frozen=True)
class Exported:
    """What was written.

    form             "QOperator" or "QDQ"
    inputs, outputs  (name, dtype and shape) of each, and what codes q stand for; n is the size of the batch
    runtime          the version of ONNX Runtime that ran it, None if there is none installed
    examples         that it was run on
    answers          of the whole file
    layers           the codes of each layer from those that ours have before it: none differs by more than 1, and none at all but in floats
    """

    path: Path
    opset: int
    bytes: int
    nodes: int
    form: str
    inputs: list[tuple[str, str]]
    outputs: list[tuple[str, str]]
    runtime: str | None
    examples: int
    answers: Found | None
    layers: Found | None

    def __str__(self) -> str:
        rows = [("input", *v) for v in self.inputs] + [("output", *v) for v in self.outputs]
        lines = [f"{self.path}: {self.bytes:,} bytes, opset {self.opset}, {self.nodes} nodes, {self.form}"]
        lines += [f"  {what:<6}  {name}  {of}" for what, name, of in rows]
        if self.runtime is None:
            return "\n".join([*lines, "verified: onnx.checker; not run, for ONNX Runtime is not installed (pip install onnxruntime)"])
        lines.append(f"verified: onnx.checker; on {self.examples:,} examples by ONNX Runtime {self.runtime}")
        return "\n".join([*lines, f"  {self.answers} outputs differ", f"  {self.layers} codes of a layer differ, from the same codes"])


def export(
    path: str | os.PathLike[str],
    network: Network,
    example: Any,
    *,
    codes: bool = False,
    qdq: bool = False,
    scaled: tuple[float, float] = (0.0, 1.0),
    opset: int = OPSET,
) -> Exported:
    r"""Write the network to `path`, in place of what is there, if it is verified.

    example  inputs, (n, ...), floats as `Network` takes them, n may be 0: on them, and on others of any codes, the file is compared
    codes    the file takes and gives codes, as `Network.run`, in place of floats
    qdq      layers as floats between DequantizeLinear and QuantizeLinear, in place of operators on codes
    scaled   mean $\mu$ and scale $\sigma$ of (x - \mu) / \sigma, which becomes a part of the file; `example` is then without
    opset    from OLDEST on

    The whole file has the network's answers, to the bit, and so has each layer from the same codes. Of a layer in floats, and of each in
    the form qdq, a code may be the next one: how many are is told, and what becomes of them.

    Raises ExportError for a rule other than "fp32", for a network without scales, an opset that is too old, a layer that ONNX has no word
    for, and for a file that onnx.checker or ONNX Runtime refuses or that has other codes, naming the layer; ValueError for examples of nan
    or of another shape, and for `codes` with `scaled`; OSError if the folder or the disk refuses. Whatever is raised, `path` is as it was.
    """
    if codes and scaled != (0.0, 1.0):
        raise ValueError("codes stand for inputs that are scaled already: leave out codes, or scaled")
    x = _inputs(network, np.asarray(example, np.float32), scaled)
    data, ins, outs, nodes = written(network, x.shape[1:], codes=codes, qdq=qdq, scaled=scaled, opset=opset)
    try:
        import onnxruntime
    except ModuleNotFoundError:
        runtime, answers, layers = None, None, None
    else:
        runtime = onnxruntime.__version__
        layers = _layers_compared(network, network.input.quantise(_prepared(x, scaled)), qdq, opset)
        answers = _answers_compared(network, data, x, codes, scaled, exact=not qdq and not _floating(network))
    write_whole(Path(os.path.realpath(path)), data)
    told_in, told_out = (
        [(name, f"{dtype} ({', '.join(['n', *map(str, shape)])})" + (f", {of.scale:.9g} (q - {of.zero_point})" if codes else ""))]
        for ((name, (dtype, shape)),), of in ((ins.items(), network.input), (outs.items(), network.output))
    )
    form = "QDQ" if qdq else "QOperator"
    return Exported(Path(path), opset, len(data), nodes, form, told_in, told_out, runtime, len(x), answers, layers)


def written(
    network: Network,
    shape: Sequence[int],
    *,
    codes: bool = False,
    qdq: bool = False,
    scaled: tuple[float, float] = (0.0, 1.0),
    opset: int = OPSET,
) -> tuple[bytes, Declared, Declared, int]:
    """A network as an ONNX model that onnx.checker has seen, its inputs and outputs, and how many nodes it has; `shape` is that of one
    input. See `export`."""
    meant, to = _meant(network), Writer(network.scales)
    given = "x"
    if scaled != (0.0, 1.0):
        mean, deviation = (to.number(f"input/{name}", part, np.float32) for name, part in zip(("mean", "deviation"), scaled, strict=True))
        given = to("Div", [to("Sub", [given, mean], "input/centred"), deviation], "input/scaled")
    values = {"input": Value("input", given if codes else "input/codes", meant["input"])}
    if not codes:
        to.rounded(given, values["input"])
    last = network.layers[-1].name
    for layer, reads in network.reading():
        values[layer.name] = Value(layer.name, "y" if codes and layer.name == last else f"{layer.name}/codes", meant[layer.name])
        _write(to, layer, [values[name] for name in reads], values[layer.name], qdq)
    if not codes:
        to.floats(values[last], "y")
    y = network.run(np.zeros((1, *shape), network.input.dtype))
    kinds = (network.input.dtype, network.output.dtype) if codes else ("float32", "float32")
    ins, outs = {"x": (kinds[0], tuple(shape))}, {"y": (kinds[1], y.shape[1:])}
    return _model(to, ins, outs, opset), ins, outs, len(to.nodes)


def _write(to: Writer, layer: Layer, reads: list[Value], y: Value, qdq: bool) -> None:
    forms = ON_FLOATS if qdq else ON_CODES
    if type(layer) not in forms:
        raise ExportError(f"{layer.name}: there is no form in ONNX for a layer of the kind {type(layer).__name__}")
    if isinstance(layer, (Conv, Dense)):
        if layer.to.rule != "fp32":
            raise ExportError(
                f"{layer.name} requantises by the rule {layer.to.rule}, for which ONNX has no operator: its own round as fp32 does\n"
                "  quantise with the rule fp32 (gnomon quantize --rule fp32), or export it as C, which has each rule (gnomon export --c)"
            )
        if f"{layer.name}/w" not in to.scales:
            raise ExportError(NO_SCALE.format(f"the weights of {layer.name}"))
    forms[type(layer)](to, layer, reads, y)


NO_SCALE = "the network does not tell the scale of {}: Network(scales=) holds that of each layer's codes and of its weights"


def _meant(network: Network) -> dict[str, Any]:
    try:
        return network.codes()
    except KeyError as e:
        raise ExportError(NO_SCALE.format(f"the codes of {e.args[0]}")) from e


def _model(to: Writer, ins: Declared, outs: Declared, opset: int) -> bytes:
    """The file."""
    import onnx
    from onnx import helper

    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise ExportError(f"opset {opset}: there are {OLDEST} to {newest} here\n  pass opset={min(max(opset, OLDEST), newest)}")

    def declared(of: Declared) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["n", *shape])
            for name, (dtype, shape) in of.items()
        ]

    arrays = [onnx.numpy_helper.from_array(np.asarray(a, order="C"), name) for name, a in to.arrays.items()]
    graph = helper.make_graph(to.nodes, "model", declared(ins), declared(outs), arrays)
    sets = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(sets)
    sets += [helper.make_opsetid(RUNTIMES, 1)] * any(node.domain == RUNTIMES for node in to.nodes)
    model = helper.make_model(graph, opset_imports=sets, ir_version=version, producer_name="gnomon")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise ExportError(f"onnx.checker refuses the model: {e}") from e
    return model.SerializeToString()  # type: ignore[no-any-return]


# Verification.


def _inputs(network: Network, example: np.ndarray, scaled: tuple[float, float]) -> np.ndarray:
    """The examples that are given, and some more of any codes."""
    about = np.iinfo(network.input.dtype)
    q = np.random.default_rng(0).integers(about.min, about.max + 1, (DRAWN, *example.shape[1:])).astype(about.dtype)
    drawn = network.input.dequantise(q) * np.float32(scaled[1]) + np.float32(scaled[0])
    return np.concatenate([example, drawn])


def _prepared(x: np.ndarray, scaled: tuple[float, float]) -> np.ndarray:
    return np.asarray((x - np.float32(scaled[0])) / np.float32(scaled[1]))


def _layers_compared(network: Network, q: np.ndarray, qdq: bool, opset: int) -> Found:
    """Each layer on the codes that ours has before it, in a model that joins none of them: what is wrong there may fade before the end.

    Raises ExportError for the first layer whose codes differ; in floats, by more than 1 or in more than FEW places.
    """
    ours, meant, to = network.values(q), _meant(network), Writer(network.scales)
    read = dict.fromkeys(name for _, reads in network.reading() for name in reads)
    ins: Declared = {f"{name}/given": (str(ours[name].dtype), ours[name].shape[1:]) for name in read}
    outs: Declared = {f"{layer.name}/codes": (str(ours[layer.name].dtype), ours[layer.name].shape[1:]) for layer in network.layers}
    for layer, reads in network.reading():
        before = [Value(name, f"{name}/given", meant[name]) for name in reads]
        _write(to, layer, before, Value(layer.name, f"{layer.name}/codes", meant[layer.name]), qdq)
    theirs = ran(_session(network, _model(to, ins, outs, opset), as_written=True), {f"{name}/given": ours[name] for name in read}, CURE)
    differing = compared = 0
    for layer, codes in zip(network.layers, theirs, strict=True):
        apart = np.abs(codes.astype(int) - ours[layer.name])
        count, rounds = int(np.count_nonzero(apart)), qdq or isinstance(layer, InFloats)
        many = apart.size if isinstance(layer, (AvgPool, Add)) else FEW * apart.size
        if apart.max(initial=0) > rounds or count > rounds * many:
            told = f"{layer.name}: {count:,} of {apart.size:,} codes differ, by up to {apart.max()}"
            raise ExportError(f"ONNX Runtime does not give what the network gives: {told}\n  {_why(layer, network)}")
        differing, compared = differing + count, compared + apart.size
    return Found(differing, compared)


def _why(layer: Layer, network: Network) -> str:
    scales = f"the scales that the network tells of {layer.name} are not those it was made with: convert it again"
    if not _signed(network):
        return scales
    return f"{scales}\n  or this is an x86 without VNNI, where ONNX Runtime's sums of int8 saturate: use codes of uint8"


def _answers_compared(network: Network, data: bytes, x: np.ndarray, codes: bool, scaled: tuple[float, float], *, exact: bool) -> Found:
    """The whole file, on one example and on all. Raises ExportError if it has other answers, and layers in floats are no excuse."""
    q = network.input.quantise(_prepared(x, scaled))
    ours, session = network.run(q), _session(network, data)
    ours = ours if codes else network.output.dequantise(ours)
    given = q if codes else x
    theirs = np.concatenate([ran(session, {"x": part}, CURE)[0] for part in (given[:1], given)])
    wanted = np.concatenate([ours[:1], ours])
    if theirs.shape != wanted.shape or theirs.dtype != wanted.dtype:
        raise ExportError(f"ONNX Runtime gives {theirs.dtype} {theirs.shape}, the network {wanted.dtype} {wanted.shape}")
    found = Found(int(np.count_nonzero(theirs != wanted)), wanted.size)
    if exact and found.differing:
        raise ExportError(
            f"ONNX Runtime does not give what the network gives: {found} outputs differ, and each layer is right\n"
            "  the network's input or output has another scale than its layers: convert it again"
        )
    return found


def _session(network: Network, data: bytes, *, as_written: bool = False) -> Any:
    """On an x86 without VNNI sums of uint8 saturate unless asked not to; codes of int8 cannot ask, QGemm then finds none of its types."""
    return loaded(data, CURE, entries={} if _signed(network) else {"session.x64quantprecision": "1"}, as_written=as_written)


def _signed(network: Network) -> bool:
    return any(codes.dtype == "int8" for codes in network.codes().values())


def _floating(network: Network) -> bool:
    return any(isinstance(layer, InFloats) for layer in network.layers)
