"""What pruning, sharing and coding make of the models: accuracy, bytes and speed, over several seeds, next to published numbers.

    python -m benchmarks compression                            all of it, in runs/compression; goes on where it was broken off
    python -m benchmarks compression --only channels --seeds 2
    GNOMON_DATA=folder python -m benchmarks compression --only deep-mlp,deep-caffe     on all of MNIST, from a folder with its four files

Each case is a job of `gnomon prune`, once for each seed; its folder holds the stages, so nothing is trained twice. What is printed is the
mean over the seeds and the standard deviation; differences to the dense model are paired, seed by seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click

from engine.experiment import Experiment
from engine.prune.job import Pruning
from engine.tradeoff import Row
from kernels.registry import use


@dataclass(frozen=True)
class Figure:
    """A number that is wanted: its value for one seed's rows, and whether the mean over the seeds is good enough."""

    what: str
    value: Callable[[Sequence[Row]], float]
    wanted: str
    good: Callable[[float], bool]
    unit: str = ""


@dataclass(frozen=True)
class Case:
    """A job, and what is wanted of it. `full`: of all of MNIST, if it is there."""

    name: str
    what: str
    job: Pruning
    figures: tuple[Figure, ...]
    full: bool = False


def points(rows: Sequence[Row]) -> float:
    """Percentage points of accuracy that the last row has more than the dense one."""
    return 100 * (rows[-1].accuracy - rows[0].accuracy)


def error(rows: Sequence[Row]) -> float:
    """Percent of wrong answers of the last row."""
    return 100 * (1 - rows[-1].accuracy)


def smaller(rows: Sequence[Row]) -> float:
    """How many times smaller the packed file of the last row is than the dense model's float32."""
    return rows[0].bytes["dense"] / rows[-1].bytes["file"]


def faster(rows: Sequence[Row]) -> float:
    """How many times faster the last row is for 64 examples."""
    return rows[0].latency[64][0] / rows[-1].latency[64][0]


def loses(most: float) -> Figure:
    return Figure("accuracy against dense", points, f">= -{most:g}", lambda v: v >= -most, " points")


def errs(most: float) -> Figure:
    return Figure("error", error, f"<= {most:g}", lambda v: v <= most, " %")


def shrinks(least: float) -> Figure:
    return Figure("times smaller, real file", smaller, f">= {least:g}", lambda v: v >= least)


def mlp(keep: float) -> Pruning:
    return Pruning(Experiment.of("mlp", "mnist5k"), keep=keep)


CASES = (
    Case("lenet300-12x", "LeNet-300-100, a twelfth of the weights", mlp(1 / 12), (loses(0.3),)),
    Case("lenet300-20x", "LeNet-300-100, a twentieth of the weights", mlp(1 / 20), (loses(1),)),
    Case(
        "channels",
        "3x3 CNN 32-64-64, half of the channels",
        Pruning(Experiment.of("cnn3x3", "mnist5k"), criterion="taylor", grain="channels", keep=0.5, scope="layer", stages=1, epochs=8),
        (Figure("times faster, batch 64", faster, ">= 2.5", lambda v: v >= 2.5), loses(0.5)),
    ),
    Case(
        "deep-mlp",
        "LeNet-300-100: pruned, 16 shared weights, Huffman (Deep Compression: 40, 1.58 %)",
        Pruning(Experiment.of("mlp", "mnist"), keep=0.06, stages=4, share=16),
        (shrinks(40), errs(1.6)),
        full=True,
    ),
    Case(
        "deep-caffe",
        "Caffe LeNet-5: pruned, 16 shared weights, Huffman (Deep Compression: 39, 0.74 %)",
        Pruning(Experiment.of("lenet5_caffe", "mnist"), keep=0.06, stages=4, share=16),
        (shrinks(39), errs(0.8)),
        full=True,
    ),
)


def seeded(job: Pruning, seed: int) -> Pruning:
    return replace(job, experiment=replace(job.experiment, seed=seed))


def run(case: Case, seeds: Sequence[int], folder: Path) -> list[Sequence[Row]]:
    """The rows of each seed."""
    found = []
    for seed in seeds:
        job = seeded(case.job, seed)
        with use("cpu"):
            stages = list(job.run(folder / case.name / f"seed-{seed}"))
            found.append(job.rows(stages))
        click.echo(f"  seed {seed}  " + "   ".join(f"{r.name} {r.accuracy:.2%}" for r in found[-1]), err=True)
    return found


def lines(case: Case, found: Sequence[Sequence[Row]]) -> list[list[str]]:
    """A line of the table for each figure."""
    made = []
    for figure in case.figures:
        values = [figure.value(rows) for rows in found]
        spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        verdict = "met" if figure.good(mean(values)) else "missed"
        made.append([case.what, figure.what, f"{mean(values):.2f}{spread}{figure.unit}", figure.wanted, verdict, str(len(values))])
    return made


@click.command("compression", help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default="", metavar="NAME,...", help="Only these cases: " + ", ".join(case.name for case in CASES))
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="On the packaged digits; one on all of MNIST.")
@click.option("--folder", default="runs/compression", show_default=True, type=click.Path(file_okay=False, path_type=Path))
def command(only: str, seeds: int, folder: Path) -> int:
    names = [name for name in only.split(",") if name]
    unknown = [name for name in names if name not in [case.name for case in CASES]]
    if unknown:
        raise click.UsageError(f"no case {', '.join(unknown)}; there are {', '.join(case.name for case in CASES)}")
    table = [["what", "figure", "mean ± sd", "wanted", "", "seeds"]]
    for case in CASES:
        if names and case.name not in names:
            continue
        if case.full and "GNOMON_DATA" not in os.environ:
            click.echo(f"{case.name}: not run, it is about all of MNIST: GNOMON_DATA names the folder with its four files", err=True)
            continue
        click.echo(f"{case.name}: {case.what}", err=True)
        table += lines(case, run(case, range(1 if case.full else seeds), folder))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    result: Any = command.main(args=list(arguments or []), prog_name="python -m benchmarks compression", standalone_mode=False)
    return int(result or 0)
