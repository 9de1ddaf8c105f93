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

JOB = "quantization.json"
CHECKPOINT = "qat.safetensors"
REPORT = ("network.safetensors", "table.md", "report.json", "accuracy.png")


@click.command("quantize", short_help="A trained model in integers: accuracy, bytes, latency, noise by layer.")
@click.argument("model")
@click.option("--data", metavar="NAME", help="The data set of a model by name.  [default: mnist5k]")
@click.option("--int8/--int4", "whole", default=None, help="Plain for --bits 8 and --bits 4.")
@click.option("--bits", type=int, help="Of the weights, 1 to 8; what flows between layers has 8.  [default: 8]")
@click.option("--how", type=click.Choice(["static", "dynamic", "weights"]), default="static", show_default=True, help="What becomes codes.")
@click.option("--group", type=int, metavar="N", help="Of dynamic and weights: a scale for each N inputs of an output.")
@click.option("--observer", default="minmax", show_default=True, metavar="NAME", help="minmax, average, percentile, mse, entropy.")
@click.option("--rounding", default="nearest", show_default=True, metavar="NAME", help="nearest, gptq, adaround, powers.")
@click.option("--rule", default="fp32", show_default=True, metavar="NAME", help="fp32, q31-double, q31-single, rndnu, pow2.")
@click.option("--equalise", is_flag=True, help="Give neighbouring layers equal ranges first.")
@click.option("--correct", is_flag=True, help="Give back by the biases what rounding shifts on the average.")
@click.option(
    "--calibrate",
    "examples",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    metavar="N",
    help="Training examples to calibrate on.",
)
@click.option("--qat", type=click.IntRange(1), metavar="EPOCHS", help="Then train so long with rounding; 5 are enough for most.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Of that training, at the start.  [default: 0.001]")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where to write.  [default: FOLDER/int8]")
@click.option("--kernels", type=click.Choice(["cpu", "none"]), help="cpu: the Numba kernels; none: the definitions.  [default: cpu]")
@click.option(
    "--resume", is_flag=True, help="Go on with the training in the folder; the same command, bit for bit as if it had not stopped."
)
@click.option("--overwrite", is_flag=True, help="Begin anew in a folder that has such a training already.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def command(
    model: str, data: str | None, report: Path | None, kernels: str | None, resume: bool, overwrite: bool, as_json: bool, **how: Any
) -> int:
    """Quantize MODEL: a folder of `gnomon train` or of `gnomon prune` (its last stage: zeros stay zeros), or a model by name.

    Weights become integers with a scale a channel, what flows between layers codes of 8 bits; from input to logits there is no float.
    That is --how static. With dynamic the inputs of each product become codes by their own range as they come, and nothing is calibrated;
    with weights nothing else becomes codes. `engine.quantise.narrow.Narrow.load` reads what these two leave.
    With --qat the weights, and the steps of all these grids, are learned on while everything is rounded, on the data of the model.
    A model by name is that in runs/MODEL-DATA, where `gnomon train` leaves it; if it is not there, or not trained to the end, it is
    trained first.

    The folder gets network.safetensors, which `engine.quantise.integer.Network.load` reads, of the last row in the table; table.md,
    report.json and accuracy.png; quantization.json, and with --qat a checkpoint: Ctrl-C loses nothing, --resume goes on.

    \b
    Examples
      gnomon train lenet5_classic --data mnist5k
      gnomon quantize runs/lenet5_classic-mnist5k
      gnomon quantize runs/lenet5_classic-mnist5k --bits 4 --rounding gptq --correct
      gnomon quantize runs/lenet5_classic-mnist5k --bits 2 --qat 10
      gnomon quantize runs/lenet5_classic-mnist5k --bits 4 --rounding powers --rule pow2
      gnomon quantize runs/lenet5_classic-mnist5k --how weights --bits 4 --group 32
      gnomon prune mlp --keep 0.1 && gnomon quantize runs/mlp-mnist5k-pruned --int4 --qat 5
      gnomon quantize mlp --int8 --calibrate 512 --qat 5 --data mnist5k --report runs/whole

    Exit code 130 if it was interrupted.
    """
    with told():
        from engine.cli.demo import has_numba
        from engine.cli.folder import to_go_on
        from kernels.registry import use

        needs("safetensors", "matplotlib", "rich")
        folder, experiment, named = opened(model, data)
        job = described(experiment, how)
        where = report or folder / f"int{job.bits}{f'-{job.how}' * (job.how != 'static')}{f'-{job.group}' * (job.group is not None)}"
        params = experiment.start() if named else found(folder, experiment)
        begun(job, params, where, resume, overwrite)
        try:
            with use("cpu" if kernels is None and has_numba() else None if kernels == "none" else kernels):
                params = taught(folder, experiment, kernels) if named else params
                results = followed(job, params, where, quiet=as_json)
                rows, noise = job.rows(params, results), job.noise(params, results[0])
            write(job, results[-1], rows, noise, where)
        except KeyboardInterrupt as e:
            click.echo(f"{e or 'interrupted'}\n  to go on:\n  {to_go_on('quantize')}", err=True)
            return 130
    click.echo(json.dumps([row.as_dict() for row in rows]) if as_json else told_rows(job, rows, noise, where))
    return 0


def opened(model: str, data: str | None) -> tuple[Path, Experiment, bool]:
    """The folder of a training or a pruning, the experiment in it, and whether the model was told by name."""
    from engine.cli.prune import JOB as PRUNING
    from engine.cli.train import EXPERIMENT, read_experiment, specified
    from engine.experiment import Experiment
    from engine.models import MODELS

    folder = Path(model)
    named = model in MODELS and not any((folder / file).is_file() for file in (PRUNING, EXPERIMENT))
    if named:
        folder = Path("runs") / f"{model}-{data or 'mnist5k'}"
        if not (folder / EXPERIMENT).is_file():
            return folder, specified(model, data or "mnist5k", {"optimizer": None, "seed": None}), named
    if not folder.exists():
        raise Failure(f"there is no folder {model}, and no model called so\n  models are {', '.join(MODELS)}; `gnomon train` makes folders")
    if (folder / PRUNING).is_file():
        experiment = Experiment.from_dict(json.loads((folder / PRUNING).read_text())["experiment"])
    else:
        experiment, _ = read_experiment(folder)
    if data not in (None, experiment.data):
        raise click.UsageError(
            f"the model in {folder} was trained on {experiment.data}, by whose levels its inputs are scaled: it is quantized on the same"
            f"\n  leave out --data, or train on the other: gnomon train {experiment.model} --data {data}"
        )
    return folder, experiment, named


def taught(folder: Path, experiment: Experiment, kernels: str | None) -> dict[str, Any]:
    """The parameters of a model by name, trained to the end if they are not."""
    from engine.cli import train

    if (folder / train.EXPERIMENT).is_file():
        _, backend = train.read_experiment(folder)
    else:
        _, backend = train.begun(experiment.model, experiment.data, folder, kernels, False, {"optimizer": None, "seed": None})
    return experiment.checked(train.trained(experiment, folder, backend, (folder / train.CHECKPOINT).is_file()))


def found(folder: Path, experiment: Experiment) -> dict[str, Any]:
    """The parameters in the folder of a training or of a pruning."""
    from engine import checkpoints
    from engine.cli.prune import JOB as PRUNING
    from engine.cli.train import CHECKPOINT as RUN
    from engine.run import Run

    if (folder / PRUNING).is_file():
        stages = [*sorted(folder.glob("stage-[0-9][0-9].safetensors"))]
        if not stages:
            raise Failure(f"the pruning in {folder} has no stage that is done\n  finish it with --resume")
        groups, _ = checkpoints.load(stages[-1])
        return groups["params"]
    run, _ = Run.load(folder / RUN)
    return experiment.checked(run.chosen().params)


def described(experiment: Experiment, how: dict[str, Any]) -> Quantising:
    """The job that the options describe. Raises UsageError for what is not known or cannot be."""
    from engine.quantise.job import OBSERVERS, ROUNDINGS, Quantising
    from engine.quantise.rules import RULES

    for what, known in (("observer", OBSERVERS), ("rounding", ROUNDINGS), ("rule", RULES)):
        if how[what] not in known:
            raise unknown(what, how[what], known)
    if experiment.what.task == "regression":
        raise click.UsageError(f"{experiment.model} is for regression; what rounding costs is told in accuracy: a classification is wanted")
    plain = {None: None, True: 8, False: 4}[how.pop("whole")]
    if None not in (plain, how["bits"]) and plain != how["bits"]:
        raise click.UsageError(f"--int{plain} is --bits {plain}, and --bits {how['bits']} is given: which of the two?")
    if how["lr"] is not None and how["qat"] is None:
        raise click.UsageError("--lr is the rate of training with rounding: tell how long, as --qat 5")
    try:
        return Quantising(
            experiment,
            **{name: value for name, value in {**how, "bits": plain if how["bits"] is None else how["bits"]}.items() if value is not None},
        )
    except ValueError as e:
        raise click.UsageError(str(e)) from e


def begun(job: Quantising, params: dict[str, Any], where: Path, resume: bool, overwrite: bool) -> None:
    """Enter the folder. What took no training is written over without a question. Raises as `enter`, and for a model without integers."""
    from engine.cli.folder import enter
    from engine.quantise.convert import weight_grids

    free = not resume and not (where / CHECKPOINT).exists()
    enter(
        where / JOB,
        job.as_dict(),
        "quantization",
        resume=resume,
        overwrite=overwrite or free,
        made=[CHECKPOINT, *REPORT],
        check=lambda: weight_grids(job.folded(params)),
    )


def followed(job: Quantising, params: dict[str, Any], where: Path, *, quiet: bool) -> list[Result]:
    """The network as it is rounded, and as it is trained with rounding; a line for each step that is done, a bar for the training."""
    import numpy as np

    from engine.cli.demo import bars

    def done(what: str) -> None:
        if not quiet:
            click.echo(what, err=True)

    results = []
    try:
        results.append(job.result(params, done=done))
        if job.qat is not None:
            file = where / CHECKPOINT
            bar = bars(f"{job.kind} QAT")
            with np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is told by fit
                results.append(job.trained(params, done=done, checkpoint=file, resume=file.is_file(), callbacks=bar, progress=False))
    except OverflowError as e:
        cure = "\n  the training has run away: --overwrite with a smaller --lr" if results else ""
        raise Failure(f"{e}{cure}") from e
    return results


def write(job: Quantising, result: Result, rows: Sequence[Row], noise: dict[str, float], where: Path) -> None:
    """The network and the report."""
    from engine import tradeoff
    from engine.machine import processor, versions
    from engine.report import finite

    result.network.save(where / "network.safetensors")
    (where / "table.md").write_text(tradeoff.markdown(rows) + "\n")
    content = {"command": "gnomon quantize", "job": job.as_dict(), "noise": noise, "processor": processor(), "versions": versions()}
    (where / "report.json").write_text(json.dumps(finite({**content, "rows": [row.as_dict() for row in rows]}), indent=2) + "\n")
    title = f"{job.experiment.model} on {job.experiment.data}: {job.bits} bits, {way(job)}"
    tradeoff.plot(rows, where / "accuracy.png", title=title, joined=False)


def way(job: Quantising) -> str:
    """How weights came to their codes, in words."""
    words = [job.rounding, job.qat and f"QAT {job.qat}", job.how != "static" and job.how, job.group and f"groups of {job.group}"]
    return ", ".join(word for word in words if word)


def told_rows(job: Quantising, rows: Sequence[Row], noise: dict[str, float], where: Path) -> str:
    """The table, the noise by layer, and where the rest is."""
    from engine import tradeoff
    from engine.quantise.choose import table

    e = job.experiment
    steps = f"{job.observer}, {way(job)}, {job.rule}" if job.how == "static" else way(job)
    head = f"{e.model} on {e.data}, seed {e.seed}: {job.bits} bits, {steps}; {rows[0].of:,} test examples"
    legend = "p: chance of so large a difference to the model in floats if neither is better. times: its float32 / packed file"
    layers = f"signal to noise, the whole network up to each layer{', static' * (job.qat is not None)}\n{table(noise)}"
    return f"\n{head}\n\n{tradeoff.table(rows)}\n\n{legend}\n\n{layers}\n\n{', '.join(REPORT)} in {where}"
