"""`gnomon prune`: train a model, prune it in stages, and tell what each costs and gains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.problems import needs, told, unknown

if TYPE_CHECKING:
    from engine.prune.job import Pruning
    from engine.prune.stages import Stage
    from engine.tradeoff import Row

JOB = "pruning.json"
MADE = ("dense.safetensors", "stage-*.safetensors", "shared.safetensors")
REPORT = ("table.md", "report.json", "accuracy.png", "pruned.packed")


@click.command("prune", short_help="Prune a model in stages: accuracy, bytes and latency of each.")
@click.argument("model")
@click.option("--data", default="mnist5k", show_default=True, metavar="NAME", help="The data set.")
@click.option("--keep", default=0.1, show_default=True, help="The share that is kept at last.")
@click.option("--criterion", default="magnitude", show_default=True, metavar="NAME", help="What makes a weight important; see below.")
@click.option("--schedule", default="cubic", show_default=True, metavar="NAME", help="oneshot, linear, cubic, exponential.")
@click.option("--stages", type=click.IntRange(1), help="How often it is pruned and trained.  [default: 4, where one is not all there is]")
@click.option("--grain", default="weights", show_default=True, metavar="WHAT", help="weights, channels, blocks:4x4, 2:4.")
@click.option(
    "--scope",
    default="global",
    show_default=True,
    type=click.Choice(["global", "layer"]),
    help="Choose among all layers, or the same share in each.",
)
@click.option("--epochs", type=click.IntRange(1), help="Of each stage's training.  [default: two thirds of the recipe's]")
@click.option("--dense-epochs", type=click.IntRange(1), help="Of the training before.  [default: the recipe's]")
@click.option("--examples", type=click.IntRange(1), help="Train on so many examples only.")
@click.option("--rewind", is_flag=True, help="Each stage begins from the first weights again: lottery tickets.")
@click.option("--share", type=click.IntRange(1, 65535), metavar="K", help="At last, share weights: K numbers for each array.")
@click.option("--seed", default=0, show_default=True, help="Of the split of the data, the first weights and the order of the examples.")
@click.option(
    "--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="The folder.  [default: runs/MODEL-DATA-pruned]"
)
@click.option("--kernels", type=click.Choice(["cpu", "none"]), help="cpu: the Numba kernels; none: the definitions.  [default: cpu]")
@click.option("--resume", is_flag=True, help="Go on with what is in the folder; the same command, bit for bit as if it had not stopped.")
@click.option("--overwrite", is_flag=True, help="Begin anew in a folder that has a pruning already.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def command(
    model: str,
    data: str,
    dense_epochs: int | None,
    examples: int | None,
    seed: int,
    report: Path | None,
    kernels: str | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **how: Any,
) -> int:
    """Train MODEL, prune it in stages with training in between, and measure each stage on the held-out part of the data.

    \b
    MODEL        mlp, lenet5_classic, lenet5_caffe, cnn3x3, or another one of `gnomon train`
    --criterion  magnitude |w|; lamp, the same, comparable between layers; taylor |w dL/dw|; movement, away from 0 in some steps;
                 hessian, w w d2L/dw2 / 2; snip, before the training; random, the control

    The table tells of each stage: accuracy with its 95 % interval, p of a paired test against the dense model (McNemar), weights kept,
    the bytes of positions and values, of the packed file, and of gzip on plain arrays; the time of a call for 1 and for 64 examples on
    the kernels that suit it best. The folder gets pruning.json, a checkpoint a stage, table.md, report.json and accuracy.png, and the
    packed file of the last stage. Ctrl-C loses nothing: --resume goes on.

    \b
    Examples
      gnomon prune mlp --keep 0.05
      gnomon prune cnn3x3 --grain channels --keep 0.5 --scope layer --stages 1 --report runs/half
      gnomon prune lenet5_caffe --data mnist --keep 0.06 --stages 6 --share 16

    Exit code 130 if it was interrupted.
    """
    with told():
        from engine.cli.demo import has_numba
        from engine.cli.folder import enter, to_go_on
        from kernels.registry import use

        needs("safetensors", "matplotlib", "rich")
        folder = report or Path("runs") / f"{model}-{data}-pruned"
        changes = {"epochs": dense_epochs, "examples": examples, "seed": seed}
        job = described(model, data, changes, how)
        enter(folder / JOB, job.as_dict(), "pruning", resume=resume, overwrite=overwrite, made=[*MADE, *REPORT], check=job.check)
        backend = "cpu" if kernels is None and has_numba() else None if kernels == "none" else kernels
        try:
            with use(backend):
                found = followed(job, folder, quiet=as_json)
                rows = measured(job, found)
            write(job, found, rows, folder)
        except KeyboardInterrupt as e:  # in a training, where its message says how far that is, or between two
            click.echo(f"{e or 'interrupted'}\n  everything is in {folder}; to go on:\n  {to_go_on('prune')}", err=True)
            return 130
    click.echo(json.dumps([row.as_dict() for row in rows]) if as_json else told_rows(job, rows, folder))
    return 0


def described(model: str, data: str, changes: dict[str, Any], how: dict[str, Any]) -> Pruning:
    """The job that the options describe. Raises UsageError for what is not known or does not go together."""
    from engine.cli.train import specified
    from engine.prune import SCHEDULES
    from engine.prune.job import CRITERIA, Pruning, usual_stages

    for what, known in (("criterion", CRITERIA), ("schedule", SCHEDULES)):
        if how[what] not in known:
            raise unknown(what, how[what], known)
    experiment = specified(model, data, {"optimizer": None, **changes})
    if experiment.what.task == "regression":
        raise click.UsageError(f"{model} is for regression; what pruning costs is told in accuracy: a classification is wanted")
    try:
        stages = how["stages"] or usual_stages(how["criterion"], how["schedule"], how["grain"])
        return Pruning(experiment, **{**how, "stages": stages})
    except ValueError as e:
        raise click.UsageError(str(e)) from e


def followed(job: Pruning, folder: Path, *, quiet: bool) -> list[Stage]:
    """The stages, with a bar for each training and a line for each that is done."""
    from engine.cli.demo import bars

    found = []
    for stage in job.run(folder, bars):
        found.append(stage)
        if not quiet:
            click.echo(line(job, stage), err=True)
    return found


def line(job: Pruning, stage: Stage) -> str:
    """What a stage that is done has come to."""
    from engine.masks import kept, weights

    found = job.experiment.measured(job.experiment.scores(stage.params, job.experiment.test[0]), job.experiment.test[1])
    total = sum(stage.params[name].size for name in weights(stage.params))
    there = kept({name: mask for name, mask in stage.masks.items() if mask.ndim > 1}) if stage.masks else total
    where = stage.name or f"stage {stage.number} of {job.stages}"
    return f"{where}: {there:,} of {total:,} weights, accuracy {found['accuracy']:.2%}"


def measured(job: Pruning, found: Sequence[Stage]) -> list[Row]:
    """The rows of the table."""
    from engine.cli.demo import spinner

    with spinner("measuring sizes and times"):
        return job.rows(found)


def write(job: Pruning, found: Sequence[Stage], rows: Sequence[Row], folder: Path) -> None:
    """The report: table.md, report.json, accuracy.png, and the packed file of the last stage."""
    from engine import packed, tradeoff
    from engine.machine import processor, versions

    packed.save(folder / "pruned.packed", job.small(found[-1]))
    (folder / "table.md").write_text(tradeoff.markdown(rows) + "\n")
    content = {"command": "gnomon prune", "job": job.as_dict(), "processor": processor(), "versions": versions()}
    (folder / "report.json").write_text(json.dumps({**content, "rows": [row.as_dict() for row in rows]}, indent=2) + "\n")
    title = f"{job.experiment.model} on {job.experiment.data}: {job.criterion}, {job.grain}"
    tradeoff.plot(rows, folder / "accuracy.png", title=title)


def told_rows(job: Pruning, rows: Sequence[Row], folder: Path) -> str:
    """The table, what it is of, and where the rest is."""
    from engine import tradeoff

    e = job.experiment
    head = f"{e.model} on {e.data}, seed {e.seed}: {job.criterion}, {job.grain}, {job.scope}; {rows[0].of:,} test examples"
    legend = "p: chance of so large a difference to the dense model if neither is better. times: dense float32 / packed file"
    return f"\n{head}\n\n{tradeoff.table(rows)}\n\n{legend}\n{', '.join(REPORT)} in {folder}"
