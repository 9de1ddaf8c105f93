"""`gnomon export`: a checkpoint as a file that other programs run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.problems import needs, told

if TYPE_CHECKING:
    from engine.experiment import Experiment
    from engine.export.onnx import Exported


@click.command("export", short_help="A checkpoint as a verified ONNX file, integers as one file of C.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--onnx", "path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a model in floats.")
@click.option("--c", "source", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a network of integers as C99.")
@click.option("--name", default="digits", show_default=True, metavar="NAME", help="What function and constants in C begin with.")
@click.option("--shape", metavar="CxHxW", help="Of one input, for a network without a report.json beside it.")
@click.option("--opset", type=int, metavar="N", help="Of the ONNX operators; an older one for an older runtime.  [default: 21]")
@click.option("--raw", is_flag=True, help="The file takes inputs as the data set has them; their scaling becomes a part of the model.")
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
    data: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Write the model in CHECKPOINT, a run's folder or its .safetensors file, to an ONNX file (--onnx), or what `gnomon quantize` left
    in a folder to one file of C99 (--c), which needs nothing but <stdint.h> and gives the same codes, bit for bit.

    The ONNX file takes any number of examples at once, as `x`, and gives logits, one number for two classes and for a regression, as `y`.
    It is there only if it is right: onnx.checker has passed it, and ONNX Runtime, if installed, gave what the model gives on random
    inputs, for one example and for three, and at each step on the way. What was compared is printed, with the names, shapes and the opset.

    A model is trained on inputs of mean 0 and variance 1. Those who run the file scale theirs so, by the two numbers that are printed, or
    --raw puts that into the model.

    \b
    Examples
      gnomon export runs/lenet5_classic-mnist5k --onnx lenet.onnx
      gnomon export runs/mlp-digits --onnx mlp.onnx --raw --opset 17
      gnomon export checkpoint.safetensors --model mlp --data digits --onnx mlp.onnx --json
      gnomon export runs/lenet5_classic-mnist5k/int8 --c lenet.c --name lenet

    Exit code 1, and no file, for an opset that is too old for the model, or a difference.
    """
    if (path is None) == (source is None):
        raise click.UsageError("where to: --onnx FILE for a model in floats, --c FILE for a network of integers")
    if source is not None:
        with told():
            click.echo(in_c(checkpoint, source, name, shape))
        return
    assert path is not None
    with told():
        from engine.cli.evaluate import located
        from engine.run import Run

        needs("onnx")
        found, experiment = located(checkpoint, data, model)
        run, _ = Run.load(found)
        report = exported(experiment, experiment.checked(run.chosen().params), path, opset, raw)
    mean, scale = experiment.levels
    if as_json:
        told_as = {**asdict(report), "path": str(report.path), "scaled": {"mean": mean, "scale": scale, "in_the_model": raw}}
        click.echo(json.dumps(told_as))
        return
    click.echo(f"{experiment.model}, trained on {experiment.data}\n{report}")
    if (mean, scale) != (0.0, 1.0):
        click.echo(
            f"x is {'as in the data set, scaled in the model by' if raw else 'scaled as in training:'} (x - {mean:.7g}) / {scale:.7g}"
        )


def exported(experiment: Experiment, params: dict[str, Any], path: Path, opset: int | None, raw: bool) -> Exported:
    """Write the model and tell what was written."""
    from engine.export.onnx import OPSET, export

    def predict(params: Any, x: Any) -> Any:
        return experiment.what.predict(params, experiment.prepared(x) if raw else x)

    rows = experiment.dataset.x_test[:64]
    return export(path, predict, params, rows if raw else experiment.prepared(rows), opset=OPSET if opset is None else opset)


def in_c(folder: Path, path: Path, name: str, shape: str | None) -> str:
    """Write the network of integers in a folder, or in its file, as C, and tell what was written."""
    from engine.export import c99
    from engine.quantise.integer import Network

    file = folder / "network.safetensors" if folder.is_dir() else folder
    network = Network.load(file)
    try:
        written = c99.write(path, network, name, shape_of(file, shape))
    except ValueError as e:
        raise click.UsageError(str(e)) from e
    sizes = f"{written.constants:,} bytes of constants, {written.memory:,} of memory"
    return f"{written.path}: {name}_run, {sizes}\n  gcc -std=c99 -O2 -c {written.path}"


def shape_of(file: Path, told_shape: str | None) -> tuple[int, ...]:
    """The shape of one input: as told, or as in the report beside the network."""
    from engine.quantise.job import Quantising

    if told_shape is not None:
        try:
            return tuple(int(size) for size in told_shape.split("x"))
        except ValueError as e:
            raise click.UsageError(f"--shape {told_shape}: sizes with x between them are wanted, as 1x28x28") from e
    report = file.with_name("report.json")
    if not report.is_file():
        raise click.UsageError(f"there is no report.json beside {file}: tell the shape of one input, --shape 1x28x28")
    job = Quantising.from_dict(json.loads(report.read_text())["job"])
    return tuple(job.inputs(job.experiment.test[0][:1]).shape[1:])
