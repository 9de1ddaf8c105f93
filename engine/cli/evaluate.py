"""`gnomon evaluate`: a checkpoint on held-out data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.problems import Failure, told, unknown

if TYPE_CHECKING:
    import numpy as np

    from engine.experiment import Experiment


@click.command("evaluate", short_help="Metrics and the confusion matrix of a checkpoint.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", metavar="NAME", help="The data set; its held-out part is used.  [default: that of the training]")
@click.option("--model", metavar="NAME", help="The model, for a checkpoint without an experiment.json beside it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(checkpoint: Path, data: str | None, model: str | None, as_json: bool) -> None:
    """Measure the model in CHECKPOINT, a run's folder or its .safetensors file, on the held-out part of a data set.

    \b
    Examples
      gnomon evaluate runs/mlp-digits --data digits
      gnomon evaluate runs/lenet/checkpoint.safetensors --data mnist --json
    """
    with told():
        from engine.run import Run

        path, experiment = located(checkpoint, data, model)
        run, _ = Run.load(path)
        found = measured(experiment, data or experiment.data, experiment.checked(run.chosen().params))
    if as_json:
        click.echo(json.dumps({k: v.tolist() if hasattr(v, "tolist") else v for k, v in found.items()}))
        return
    from engine.cli.train import metrics_text

    matrix = found.pop("confusion", None)
    names = found.pop("classes", ())
    click.echo(f"{experiment.model} on the held-out part of {data or experiment.data}\n\n{metrics_text(found)}")
    if matrix is not None:
        click.echo("\n" + "\n".join(matrix_lines(matrix, names)))


def located(checkpoint: Path, data: str | None, model: str | None) -> tuple[Path, Experiment]:
    """The file, and what was trained: from the experiment.json beside it, or from what the user says."""
    from engine.cli.train import CHECKPOINT, EXPERIMENT, read_experiment
    from engine.data import names
    from engine.experiment import Experiment
    from engine.models import MODELS

    for what, given, known in (("model", model, list(MODELS)), ("data set", data, names())):
        if given is not None and given not in known:
            raise unknown(what, given, known)
    path = checkpoint / CHECKPOINT if checkpoint.is_dir() else checkpoint
    if not path.is_file():
        raise Failure(f"there is no checkpoint at {path}")
    if (path.parent / EXPERIMENT).is_file() and model is None:
        return path, read_experiment(path.parent)[0]
    if model is None or data is None:
        raise click.UsageError(f"there is no {EXPERIMENT} beside {path}: say what it is with --model and --data")
    return path, Experiment.of(model, data)


def measured(experiment: Experiment, data: str, params: dict[str, Any]) -> dict[str, Any]:
    """The metrics, with the confusion matrix of a classification."""
    import numpy as np

    from engine.metrics import confusion_matrix

    x, truth = experiment.held_out(data)
    scores = experiment.scores(params, x)
    found = experiment.measured(scores, truth)
    if experiment.what.task == "classification":
        classes = experiment.dataset.classes
        found["confusion"] = confusion_matrix(truth, experiment.what.decide(scores), labels=np.arange(len(classes)))
        found["classes"] = classes
    return found


def matrix_lines(matrix: np.ndarray, names: Sequence[str]) -> list[str]:
    """The confusion matrix as text; a 0 off the diagonal is a dot."""
    width = max(len(str(matrix.max())), *map(len, names))
    head = " ".join(f"{name:>{width}}" for name in names)
    rows = [
        f"{name:>{width}} | " + " ".join(f"{'.' if n == 0 and i != j else n:>{width}}" for j, n in enumerate(line))
        for i, (name, line) in enumerate(zip(names, matrix.tolist(), strict=True))
    ]
    return ["rows: true, columns: said", f"{'':>{width}} | {head}", *rows]
