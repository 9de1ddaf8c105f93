"""`gnomon train`: a run with a checkpoint after each epoch, which Ctrl-C does not lose."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.problems import Failure, needs, told, unknown

if TYPE_CHECKING:
    from engine.experiment import Experiment

CHECKPOINT, EXPERIMENT = "checkpoint.safetensors", "experiment.json"


@click.command("train", short_help="Train a model; a checkpoint after each epoch, exact resuming.")
@click.argument("model")
@click.option("--data", required=True, metavar="NAME", help="The data set.")
@click.option("--epochs", type=click.IntRange(1), help="How often all examples are seen.")
@click.option("--batch-size", type=click.IntRange(1), help="Examples a step.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Learning rate at the start; it falls to 0 along a half cosine.")
@click.option("--optimizer", metavar="NAME", help="One of sgd, momentum, adagrad, rmsprop, adam, adamw")
@click.option("--weight-decay", type=click.FloatRange(0), help="Strength of the pull towards 0.")
@click.option("--examples", type=click.IntRange(1), help="Train on so many examples only.")
@click.option("--seed", type=int, help="Of the split of the data, the first weights and the order of the examples.  [default: 0]")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="The run's folder.  [default: runs/MODEL-DATA]"
)
@click.option("--kernels", type=click.Choice(["cpu", "none"]), help="cpu: the Numba kernels; none: the definitions.  [default: cpu]")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, bit for bit as if it had not stopped.")
@click.option("--overwrite", is_flag=True, help="Begin anew in a folder that has a run already.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def command(
    model: str, data: str, out: Path | None, kernels: str | None, resume: bool, overwrite: bool, as_json: bool, **changes: Any
) -> int:
    """Train MODEL on a data set. What is not said is taken from the model's own recipe.

    \b
    MODEL    linear, logistic, mlp, lenet5_classic, lenet5_caffe, cnn3x3
    --data   diabetes (numbers); breast_cancer, iris, wine, digits, mnist5k, mnist, blobs, moons, stripes, glyphs (classes)

    The folder gets checkpoint.safetensors after each epoch, and experiment.json, which says what was trained on what. Ctrl-C
    finishes the step, writes the checkpoint and prints the command that goes on from there.

    \b
    Examples
      gnomon train mlp --data digits
      gnomon train lenet5_classic --data mnist5k --epochs 5 --seed 3 --out runs/lenet
      gnomon train lenet5_classic --data mnist5k --out runs/lenet --resume

    Exit code 130 if it was interrupted.
    """
    with told():
        from engine.interrupt import Interrupted

        needs("safetensors")
        folder = out or Path("runs") / f"{model}-{data}"
        if resume:
            experiment, backend = opened(model, data, folder, kernels, changes)
        else:
            experiment, backend = begun(model, data, folder, kernels, overwrite, changes)
        try:
            params = trained(experiment, folder, backend, resume)
        except Interrupted as e:
            again = shlex.join(["gnomon", "train", model, "--data", data, *(["--out", str(out)] if out else []), "--resume"])
            where = f"after step {e.run.step}, in epoch {e.run.epoch + 1} of {experiment.recipe.epochs}"
            click.echo(f"stopped {where}; to go on:\n  {again}", err=True)
            return 130
        found = experiment.measured(experiment.scores(params, experiment.test[0]), experiment.test[1])
    click.echo(json.dumps(found) if as_json else told_run(experiment, found, folder))
    return 0


def begun(
    model: str, data: str, folder: Path, kernels: str | None, overwrite: bool, changes: dict[str, Any]
) -> tuple[Experiment, str | None]:
    """A new run: its experiment is written to the folder. Raises Failure if there is one already."""
    experiment = specified(model, data, changes)
    if (folder / CHECKPOINT).exists() and not overwrite:
        raise Failure(
            f"there is a run in {folder} already\n  --resume goes on with it, --overwrite begins anew, --out DIR takes another folder"
        )
    from engine.cli.demo import has_numba

    backend = "cpu" if kernels is None and has_numba() else None if kernels == "none" else kernels
    experiment.start()  # a model and data that do not go together are told before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    (folder / EXPERIMENT).write_text(json.dumps({**experiment.as_dict(), "kernels": backend}, indent=2) + "\n")
    return experiment, backend


def specified(model: str, data: str, changes: dict[str, Any]) -> Experiment:
    """The experiment that the options describe. Raises UsageError for names that are not known."""
    from engine.data import names
    from engine.experiment import Experiment
    from engine.models import MODELS
    from engine.recipes import OPTIMIZERS

    for what, given, known in (("model", model, MODELS), ("data set", data, names()), ("optimizer", changes["optimizer"], OPTIMIZERS)):
        if given is not None and given not in known:
            raise unknown(what, given, known)
    return Experiment.of(model, data, **{**changes, "seed": changes["seed"] or 0})


def opened(model: str, data: str, folder: Path, kernels: str | None, changes: dict[str, Any]) -> tuple[Experiment, str | None]:
    """The experiment of a run that stopped. Raises UsageError if the options say something else."""
    before, backend = read_experiment(folder)
    if not (folder / CHECKPOINT).is_file():
        raise Failure(f"there is no checkpoint in {folder}: the run stopped before its first\n  without --resume it begins anew")
    said = {**before.as_dict(), **before.as_dict()["recipe"], "kernels": backend or "none"}
    now = {"model": model, "data": data, "kernels": kernels, **changes}
    clashes = [f"{name}: then {said[name]}, now {value}" for name, value in now.items() if value is not None and said[name] != value]
    if clashes:
        raise click.UsageError(
            f"the run in {folder} was begun otherwise:\n  " + "\n  ".join(clashes) + "\n  leave these out to go on with it"
        )
    return before, backend


def read_experiment(folder: Path) -> tuple[Experiment, str | None]:
    """What the run in the folder is, and its kernels."""
    from engine.experiment import Experiment

    path = folder / EXPERIMENT
    if not path.is_file():
        raise Failure(f"there is no run in {folder}: {EXPERIMENT} is not there")
    try:
        said = json.loads(path.read_text())
        return Experiment.from_dict(said), said["kernels"]
    except (ValueError, KeyError, TypeError) as e:
        raise Failure(f"{path} does not say what was trained: {type(e).__name__}: {e}") from e


def trained(experiment: Experiment, folder: Path, backend: str | None, resume: bool) -> dict[str, Any]:
    """Train, and return the parameters."""
    import numpy as np

    from kernels.registry import use

    with use(backend), np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is told by fit
        return experiment.fit(checkpoint=folder / CHECKPOINT, resume=resume).params


def told_run(experiment: Experiment, found: dict[str, Any], folder: Path) -> str:
    """The metrics of a finished run, and what to do next."""
    name = shlex.quote(os.fspath(folder))
    return f"{metrics_text(found)}\n\n{folder / CHECKPOINT}\n  gnomon evaluate {name} --data {experiment.data}"


def metrics_text(found: dict[str, Any]) -> str:
    """Metrics as aligned lines."""
    shown = {name: value for name, value in found.items() if name not in ("right", "of", "interval")}
    lines = [f"{name:<12} {value:.4f}" for name, value in shown.items()]
    if "interval" in found:
        low, high = found["interval"]
        lines[0] += f"   {found['right']} of {found['of']}; 95% interval {low:.4f} to {high:.4f}"
    return "\n".join(lines)
