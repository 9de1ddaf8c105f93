"""`gnomon export`: a checkpoint as a file that other programs run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.problems import Failure, needs, told

if TYPE_CHECKING:
    from engine.experiment import Experiment
    from engine.export.onnx import Exported
    from engine.quantise.job import Quantising

NETWORK = "network.safetensors"  # what `gnomon quantize` leaves in a folder
EXAMPLES = 256  # of the test part, on which a network of integers is compared


@click.command("export", short_help="A model, in floats or integers, as a verified ONNX file; integers as one file of C.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--onnx", "path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write an ONNX file.")
@click.option("--c", "source", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a network of integers as C99.")
@click.option("--name", default="digits", show_default=True, metavar="NAME", help="What function and constants in C begin with.")
@click.option("--shape", metavar="CxHxW", help="Of one input, for integers without a report.json beside them.")
@click.option("--opset", type=int, metavar="N", help="Of the ONNX operators; an older one for an older runtime.  [default: 21]")
@click.option("--raw", is_flag=True, help="The file takes inputs as the data set has them; their scaling becomes a part of the model.")
@click.option("--codes", is_flag=True, help="Of integers: the ONNX file takes and gives codes, in place of floats.")
@click.option("--qdq", is_flag=True, help="Of integers: floats between pairs of QuantizeLinear and DequantizeLinear, which compilers take.")
@click.option("--data", metavar="NAME", help="The data set, for a checkpoint without an experiment.json beside it.")
@click.option("--model", metavar="NAME", help="The model, for such a checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    checkpoint: Path,
    path: Path | None,
    source: Path | None,
    name: str,
    shape: str | None,
    opset: int | None,
    raw: bool,
    codes: bool,
    qdq: bool,
    data: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Write the model in CHECKPOINT, a run's folder or its .safetensors file, to an ONNX file (--onnx). The integers that `gnomon quantize`
    left in a folder are written so, too, or as one file of C99 (--c), which needs nothing but <stdint.h> and gives the same codes.

    The ONNX file takes any number of examples at once, as `x`, and gives logits, one number for two classes and for a regression, as `y`.
    It is there only if it is right: onnx.checker has passed it, and ONNX Runtime, if installed, gave what the model gives on random
    inputs, for one example and for three, and at each step on the way. What was compared is printed, with the names, shapes and the opset.

    A model is trained on inputs of mean 0 and variance 1. Those who run the file scale theirs so, by the two numbers that are printed, or
    --raw puts that into the model.

    Integers are operators on codes (QLinearConv, QGemm) between floats: the file has their answers to the bit, or is not written. ONNX has
    an operator for the rule fp32 only; the others can be written as C. With --qdq each layer is in floats between codes, by operators of
    the standard alone, and it is told how many codes ONNX Runtime has otherwise.

    \b
    Examples
      gnomon export runs/lenet5_classic-mnist5k --onnx lenet.onnx
      gnomon export runs/mlp-digits --onnx mlp.onnx --raw --opset 17
      gnomon export checkpoint.safetensors --model mlp --data digits --onnx mlp.onnx --json
      gnomon export runs/lenet5_classic-mnist5k/int8 --onnx lenet-int8.onnx
      gnomon export runs/lenet5_classic-mnist5k/int8 --c lenet.c --name lenet

    Exit code 1, and no file, for an opset that is too old for the model, or a difference.
    """
    if (path is None) == (source is None):
        raise click.UsageError("where to: --onnx FILE for a model in floats or integers, --c FILE for integers")
    if source is not None:
        for_onnx = {"--opset": opset, "--raw": raw, "--codes": codes, "--qdq": qdq, "--data": data, "--model": model, "--json": as_json}
        unused = [option for option, given in for_onnx.items() if given]
        if unused:
            raise click.UsageError(f"{', '.join(unused)}: for --onnx; with --c there are --name and --shape")
        with told():
            click.echo(in_c(checkpoint, source, name, shape))
        return
    assert path is not None
    with told():
        integers = of_integers(checkpoint)
        if integers is not None:
            click.echo(in_onnx(integers, path, shape, opset, raw=raw, codes=codes, qdq=qdq, as_json=as_json))
            return
        if codes or qdq:
            raise click.UsageError(f"{'--codes' if codes else '--qdq'} is for a network of integers, which `gnomon quantize` makes")
        from engine.cli.evaluate import located
        from engine.run import Run

        needs("onnx")
        found, experiment = located(checkpoint, data, model)
        run, _ = Run.load(found)
        report = exported(experiment, experiment.checked(run.chosen().params), path, opset, raw)
    click.echo(told_of(report, experiment, raw, as_json))


def told_of(report: Any, experiment: Experiment | None, raw: bool, as_json: bool) -> str:
    """What was written, and how its inputs are scaled, if that is known."""
    mean, scale = experiment.levels if experiment else (0.0, 1.0)
    if as_json:
        scaled = {"mean": mean, "scale": scale, "in_the_model": raw} if experiment else None
        return json.dumps({**asdict(report), "path": str(report.path), "scaled": scaled})
    lines = [f"{experiment.model}, trained on {experiment.data}"] if experiment else []
    lines.append(str(report))
    if (mean, scale) != (0.0, 1.0):
        how = "as in the data set, scaled in the model by" if raw else "scaled as in training:"
        lines.append(f"x is {how} (x - {mean:.7g}) / {scale:.7g}")
    return "\n".join(lines)


def exported(experiment: Experiment, params: dict[str, Any], path: Path, opset: int | None, raw: bool) -> Exported:
    """Write the model and tell what was written."""
    from engine.export.onnx import OPSET, export

    def predict(params: Any, x: Any) -> Any:
        return experiment.what.predict(params, experiment.prepared(x) if raw else x)

    rows = experiment.dataset.x_test[:64]
    return export(path, predict, params, rows if raw else experiment.prepared(rows), opset=OPSET if opset is None else opset)


def of_integers(checkpoint: Path) -> Path | None:
    """The file of the network of integers that is there; None for anything else."""
    from engine import checkpoints
    from engine.cli.train import CHECKPOINT

    if checkpoint.is_dir():
        file = checkpoint / NETWORK
        return file if file.is_file() and not (checkpoint / CHECKPOINT).is_file() else None
    return checkpoint if checkpoint.is_file() and "integer network" in checkpoints.load(checkpoint)[1] else None


def in_onnx(file: Path, path: Path, shape: str | None, opset: int | None, *, raw: bool, codes: bool, qdq: bool, as_json: bool) -> str:
    """Write the network of integers in a file, and tell what was written."""
    import numpy as np

    from engine.export.onnx_integer import OPSET, export
    from engine.quantise.integer import Network
    from engine.shapes import ShapeError

    needs("onnx")
    network, job = Network.load(file), job_of(file) if shape is None else None
    if raw and (codes or job is None):
        raise click.UsageError("--raw is for floats that are scaled as in a training: leave out --codes, or --shape")
    experiment, example = (job.experiment, _examples(job, raw)) if job else (None, np.zeros((0, *shape_of(file, shape)), np.float32))
    scaled = experiment.levels if experiment and raw else (0.0, 1.0)
    try:
        report = export(path, network, example, codes=codes, qdq=qdq, scaled=scaled, opset=OPSET if opset is None else opset)
    except ShapeError as e:
        raise click.UsageError(f"the network takes no inputs of the shape {'x'.join(map(str, example.shape[1:]))}\n  {e}") from e
    return told_of(report, experiment, raw, as_json)


def _examples(job: Quantising, raw: bool) -> Any:
    """Inputs on which a network of integers is compared, as the data set has them or as the model takes them."""
    rows = job.experiment.dataset.x_test[:EXAMPLES]
    return job.inputs(rows if raw else job.experiment.prepared(rows))


def in_c(folder: Path, path: Path, name: str, shape: str | None) -> str:
    """Write the network of integers in a folder, or in its file, as C, and tell what was written."""
    from engine.export import c99
    from engine.quantise.integer import Network

    file = folder / NETWORK if folder.is_dir() else folder
    if not file.is_file():
        raise Failure(f"there is no network of integers in {folder}\n  make one: gnomon quantize {folder}")
    network = Network.load(file)
    try:
        written = c99.write(path, network, name, shape_of(file, shape))
    except (TypeError, ValueError) as e:
        raise click.UsageError(str(e)) from e
    sizes = f"{written.constants:,} bytes of constants, {written.memory:,} of memory"
    return f"{written.path}: {name}_run, {sizes}\n  gcc -std=c99 -O2 -c {written.path}"


def shape_of(file: Path, told_shape: str | None) -> tuple[int, ...]:
    """The shape of one input: as told, or as in the report beside the network."""
    if told_shape is not None:
        try:
            return tuple(int(size) for size in told_shape.split("x"))
        except ValueError as e:
            raise click.UsageError(f"--shape {told_shape}: sizes with x between them are wanted, as 1x28x28") from e
    job = job_of(file)
    return tuple(job.inputs(job.experiment.test[0][:1]).shape[1:])


def job_of(file: Path) -> Quantising:
    """What made the network, from the report beside it."""
    from engine.quantise.job import Quantising

    report = file.with_name("report.json")
    if not report.is_file():
        raise click.UsageError(f"there is no report.json beside {file}: tell the shape of one input, --shape 1x28x28")
    return Quantising.from_dict(json.loads(report.read_text())["job"])
