"""`gnomon quantize`: a trained model in integers, and what it costs and gains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.problems import Failure, needs, told, unknown

if TYPE_CHECKING:
    from engine.experiment import Experiment
    from engine.quantise.job import Quantising, Result
    from engine.tradeoff import Row


@click.command("quantize", short_help="A trained model in integers: accuracy, bytes, latency, noise by layer.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--bits", default=8, show_default=True, help="Of the weights, 2 to 8; what flows between layers has 8.")
@click.option("--observer", default="minmax", show_default=True, metavar="NAME", help="minmax, average, percentile, mse, entropy.")
@click.option("--rounding", default="nearest", show_default=True, metavar="NAME", help="nearest, gptq, adaround.")
@click.option("--rule", default="fp32", show_default=True, metavar="NAME", help="fp32, q31-double, q31-single, rndnu, pow2.")
@click.option("--equalise", is_flag=True, help="Give neighbouring layers equal ranges first.")
@click.option("--correct", is_flag=True, help="Give back by the biases what rounding shifts on the average.")
@click.option("--calibrate", "examples", default=512, show_default=True, metavar="N", help="Training examples to calibrate on.")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where to write.  [default: FOLDER/int8]")
@click.option("--kernels", type=click.Choice(["cpu", "none"]), help="cpu: the Numba kernels; none: the definitions.  [default: cpu]")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def command(folder: Path, report: Path | None, kernels: str | None, as_json: bool, **how: Any) -> None:
    """Quantize the model in FOLDER, one of `gnomon train` or of `gnomon prune` (its last stage: zeros stay zeros).

    Weights become integers with a scale a channel, what flows between layers codes of 8 bits; from input to logits there is no float.
    The folder gets network.safetensors, which `engine.quantise.integer.Network.load` reads, table.md, report.json and accuracy.png.

    \b
    Examples
      gnomon train lenet5_classic --data mnist5k
      gnomon quantize runs/lenet5_classic-mnist5k
      gnomon quantize runs/lenet5_classic-mnist5k --bits 4 --rounding gptq --correct
      gnomon prune mlp --keep 0.1 && gnomon quantize runs/mlp-mnist5k-pruned
    """
    with told():
        from engine.cli.demo import has_numba
        from engine.quantise.folded import NoIntegerForm
        from kernels.registry import use

        needs("safetensors", "matplotlib", "rich")
        experiment, params = found(folder)
        job = described(experiment, how)
        where = report or folder / ("int8" if job.bits == 8 else f"int{job.bits}")
        with use("cpu" if kernels is None and has_numba() else None if kernels == "none" else kernels):
            try:
                result = job.result(params, done=progress(as_json))
            except (NoIntegerForm, OverflowError) as e:
                raise Failure(str(e)) from e
            rows, noise = job.rows(params, result), job.noise(params, result)
        write(job, result, rows, noise, where)
    click.echo(json.dumps([row.as_dict() for row in rows]) if as_json else told_rows(job, rows, noise, where))


def found(folder: Path) -> tuple[Experiment, dict[str, Any]]:
    """The experiment and the parameters in the folder of a training or of a pruning."""
    from engine import checkpoints
    from engine.cli.prune import JOB
    from engine.cli.train import CHECKPOINT, read_experiment
    from engine.experiment import Experiment
    from engine.run import Run

    if (folder / JOB).is_file():
        stages = [*sorted(folder.glob("stage-[0-9][0-9].safetensors"))]
        if not stages:
            raise Failure(f"the pruning in {folder} has no stage that is done\n  finish it with --resume")
        groups, _ = checkpoints.load(stages[-1])
        return Experiment.from_dict(json.loads((folder / JOB).read_text())["experiment"]), groups["params"]
    experiment, _ = read_experiment(folder)
    run, _ = Run.load(folder / CHECKPOINT)
    return experiment, experiment.checked(run.chosen().params)


def described(experiment: Experiment, how: dict[str, Any]) -> Quantising:
    """The job that the options describe. Raises UsageError for what is not known or cannot be."""
    from engine.quantise.job import OBSERVERS, ROUNDINGS, Quantising
    from engine.quantise.rules import RULES

    for what, known in (("observer", OBSERVERS), ("rounding", ROUNDINGS), ("rule", RULES)):
        if how[what] not in known:
            raise unknown(what, how[what], known)
    if experiment.what.task == "regression":
        raise click.UsageError(f"{experiment.model} is for regression; what rounding costs is told in accuracy: a classification is wanted")
    try:
        return Quantising(experiment, **how)
    except ValueError as e:
        raise click.UsageError(str(e)) from e


def progress(quiet: bool) -> Any:
    """Tell each step that is done."""
    return (lambda what: None) if quiet else (lambda what: click.echo(what, err=True))


def write(job: Quantising, result: Result, rows: Sequence[Row], noise: dict[str, float], where: Path) -> None:
    """The network and the report."""
    from engine import tradeoff
    from engine.machine import processor, versions
    from engine.report import finite

    where.mkdir(parents=True, exist_ok=True)
    result.network.save(where / "network.safetensors")
    (where / "table.md").write_text(tradeoff.markdown(rows) + "\n")
    content = {"command": "gnomon quantize", "job": job.as_dict(), "noise": noise, "processor": processor(), "versions": versions()}
    (where / "report.json").write_text(json.dumps(finite({**content, "rows": [row.as_dict() for row in rows]}), indent=2) + "\n")
    tradeoff.plot(rows, where / "accuracy.png", title=f"{job.experiment.model} on {job.experiment.data}: {job.bits} bits, {job.rounding}")


def told_rows(job: Quantising, rows: Sequence[Row], noise: dict[str, float], where: Path) -> str:
    """The table, the noise by layer, and where the rest is."""
    from engine import tradeoff
    from engine.quantise.choose import table

    e = job.experiment
    head = (
        f"{e.model} on {e.data}, seed {e.seed}: {job.bits} bits, {job.observer}, {job.rounding}, {job.rule}; {rows[0].of:,} test examples"
    )
    legend = "p: chance of so large a difference to the model in floats if neither is better. times: its float32 / packed file"
    layers = f"signal to noise, the whole network up to each layer\n{table(noise)}"
    return (
        f"\n{head}\n\n{tradeoff.table(rows)}\n\n{legend}\n\n{layers}\n\nnetwork.safetensors, table.md, report.json, accuracy.png in {where}"
    )
