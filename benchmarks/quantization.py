"""What quantization keeps of the models: accuracy over several seeds, codes against ONNX Runtime's, and bytes.

    python -m benchmarks quantization                            all of it, in runs/quantization; goes on where it was broken off
    python -m benchmarks quantization --only int8-mlp --seeds 2
    GNOMON_DATA=folder python -m benchmarks quantization --only onnx,bytes     on all of MNIST, from a folder with its four files

What is printed is the mean over the seeds and the standard deviation. Each seed splits the digits and trains the model anew, and the
integers answer the same examples as the floats that they are made of; p is of McNemar's exact test over the examples of all seeds, the
chance of so large a difference if neither is better. A trained model serves all cases that begin with it.

`bytes` trains nothing: it reads the model that `python -m benchmarks fewest-bytes` made and that lies beside, and tests it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import numpy as np

from benchmarks import fewest_bytes
from benchmarks.job import machine
from engine.data import load
from engine.experiment import Experiment, Params
from engine.export import onnx_integer
from engine.export.onnx_verify import loaded
from engine.metrics import mcnemar
from engine.quantise.job import Quantising
from engine.train import predictions
from kernels.registry import use

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- quantization: begin -->", "<!-- quantization: end -->"
HEAD = ("what", "figure", "mean ± sd", "wanted", "", "seeds")

EXACT = {"session.x64quantprecision": "1"}  # else ONNX Runtime's sums saturate on a processor without VNNI

Outcome = Mapping[str, float]  # what one seed gives, by name


@dataclass(frozen=True)
class Figure:
    """A number of the table, as text, from the outcomes of all seeds; and, if one is wanted, whether it is good enough."""

    what: str
    told: Callable[[Sequence[Outcome]], str]
    wanted: str = ""
    good: Callable[[Sequence[Outcome]], bool] | None = None


@dataclass(frozen=True)
class Case:
    """`measure(seed, folder)` gives what the figures are about. `full`: of all of MNIST, if it is there."""

    name: str
    what: str
    measure: Callable[[int, Path], Outcome]
    figures: tuple[Figure, ...]
    full: bool = False


# Figures.


def average(name: str, unit: str = "", digits: int = 2) -> Callable[[Sequence[Outcome]], str]:
    """Mean and standard deviation."""

    def told(found: Sequence[Outcome]) -> str:
        values = [outcome[name] for outcome in found]
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{mean(values):,.{digits}f}{spread}{unit}"

    return told


def p(found: Sequence[Outcome]) -> str:
    """McNemar's, of those examples of all seeds that only one of the two gets right."""
    gained, lost = (int(sum(outcome[name] for outcome in found)) for name in ("gained", "lost"))
    small = np.repeat([1, 0], [gained, lost])
    return f"{mcnemar(np.ones_like(small), small, 1 - small):.2g}" if len(small) else "1"


def loses(most: float) -> tuple[Figure, ...]:
    """Of integers against floats."""
    return (
        Figure("accuracy, floats", average("floats", " %")),
        Figure("accuracy, integers", average("integers", " %")),
        Figure("difference", average("points", " points"), f">= -{most:g}", lambda found: mean(o["points"] for o in found) >= -most),
        Figure("p", p),
    )


# What is measured.


def compared(experiment: Experiment, params: Params, answers: np.ndarray) -> Outcome:
    """The answers of integers next to those of the floats."""
    x, truth = experiment.test
    floats = experiment.scores(params, x).argmax(axis=1) == truth
    integers = answers == truth
    return {
        "floats": 100 * float(floats.mean()),
        "integers": 100 * float(integers.mean()),
        "points": 100 * float(integers.mean() - floats.mean()),
        "gained": int(np.sum(integers & ~floats)),
        "lost": int(np.sum(floats & ~integers)),
    }


def trained(experiment: Experiment, folder: Path) -> Params:
    """The model in floats: read, or trained first, as `gnomon train` does it."""
    file = folder / f"{experiment.model}-{experiment.data}-seed-{experiment.seed}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    return experiment.fit(checkpoint=file, resume=file.is_file()).params


def after_training(model: str) -> Callable[[int, Path], Outcome]:
    """Static quantization to int8: ranges from 512 training examples, nothing trained."""

    def measure(seed: int, folder: Path) -> Outcome:
        experiment = Experiment.of(model, "mnist5k", seed=seed)
        params, job = trained(experiment, folder), Quantising(experiment)
        network = job.result(params).network
        return compared(experiment, params, predictions(network, job.inputs(experiment.test[0])).argmax(axis=1))

    return measure


def with_training(model: str, bits: int, epochs: int) -> Callable[[int, Path], Outcome]:
    """Weights of so few bits, trained as such; what flows has 8."""

    def measure(seed: int, folder: Path) -> Outcome:
        experiment = Experiment.of(model, "mnist5k", seed=seed)
        params, job = trained(experiment, folder), Quantising(experiment, bits=bits, qat=epochs)
        file = folder / f"{model}-mnist5k-seed-{seed}-int{bits}.safetensors"
        network = job.trained(params, checkpoint=file, resume=file.is_file()).network
        return compared(experiment, params, predictions(network, job.inputs(experiment.test[0])).argmax(axis=1))

    return measure


def in_onnx_runtime(seed: int, folder: Path) -> Outcome:
    """LeNet-5 in integers on all test images, here and in ONNX Runtime, from the same codes."""
    experiment = Experiment.of("lenet5_classic", "mnist", seed=seed)
    params = trained(experiment, folder)
    network = Quantising(experiment).result(params).network
    codes = network.input.quantise(experiment.test[0])
    data, inputs, _, _ = onnx_integer.written(network, codes.shape[1:], codes=True)
    (name,), session = inputs, loaded(data, entries=EXACT)
    ours, theirs = predictions(network.run, codes), predictions(lambda rows: session.run(None, {name: rows})[0], codes)
    return {"differing": int(np.sum(ours != theirs)), "compared": ours.size, **compared(experiment, params, ours.argmax(axis=1))}


def of_fewest_bytes(seed: int, folder: Path) -> Outcome:
    """The file that lies beside, and what it answers on all test images."""
    net, digits = fewest_bytes.read(fewest_bytes.FILE), load("mnist")
    right = predictions(net, digits.x_test).argmax(axis=1) == digits.y_test
    return {"bytes": fewest_bytes.FILE.stat().st_size, "numbers": net.numbers, "integers": 100 * float(right.mean())}


LENET, MLP = "LeNet-5", "LeNet-300-100"
CASES = (
    Case("int8-lenet5", f"{LENET}, int8 after training", after_training("lenet5_classic"), loses(0.1)),
    Case("int8-mlp", f"{MLP}, int8 after training", after_training("mlp"), loses(0.1)),
    Case("int4-lenet5", f"{LENET}, int4 weights with training", with_training("lenet5_classic", 4, 5), loses(0.5)),
    Case("int4-mlp", f"{MLP}, int4 weights with training", with_training("mlp", 4, 5), loses(0.5)),
    Case(
        "onnx",
        f"{LENET} in integers, 10,000 images",
        in_onnx_runtime,
        (
            Figure(
                "codes of logits unlike ONNX Runtime's",
                average("differing", digits=0),
                "0",
                lambda found: not any(o["differing"] for o in found),
            ),
            Figure("of", average("compared", digits=0)),
            Figure("accuracy, integers", average("integers", " %")),
        ),
        full=True,
    ),
    Case(
        "bytes",
        "the smallest file for 99 % of MNIST",
        of_fewest_bytes,
        (
            Figure("accuracy", average("integers", " %"), ">= 99", lambda found: found[0]["integers"] >= 99),
            Figure("bytes, all included", average("bytes", digits=0), "", None),
            Figure("numbers in it", average("numbers", digits=0)),
        ),
        full=True,
    ),
)


# The command.


def run(case: Case, seeds: Sequence[int], folder: Path) -> list[Outcome]:
    """The outcome of each seed."""
    found = []
    for seed in seeds:
        with use("cpu"):
            found.append(case.measure(seed, folder))
        click.echo(f"  seed {seed}  " + "   ".join(f"{name} {value:.6g}" for name, value in found[-1].items()), err=True)
    return found


def lines(case: Case, found: Sequence[Outcome]) -> list[list[str]]:
    """A line of the table for each figure."""
    made = []
    for figure in case.figures:
        verdict = "" if figure.good is None else "met" if figure.good(found) else "missed"
        made.append([case.what, figure.what, figure.told(found), figure.wanted, verdict, str(len(found))])
    return made


def table(made: Sequence[Sequence[str]]) -> str:
    """In columns."""
    rows = [HEAD, *made]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown(made: Sequence[Sequence[str]]) -> str:
    """For the README, with what it was measured on."""
    rows = [HEAD, ["---"] * len(HEAD), *made]
    return "\n".join([f"{machine()}.", "", *(f"| {' | '.join(row)} |" for row in rows)])


def into(text: str, made: str) -> str:
    """A text with the table between its markers. Raises ValueError if these are not there, once each and in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text has no {BEGIN} with {END} behind it")
    return f"{text.partition(BEGIN)[0]}{BEGIN}\n{made}\n{END}{text.partition(END)[2]}"


@click.command("quantization", help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default="", metavar="NAME,...", help="Only these cases: " + ", ".join(case.name for case in CASES))
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="On the packaged digits; one on all of MNIST.")
@click.option("--folder", default="runs/quantization", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "record", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write what each seed gave.")
@click.option("--update", is_flag=True, help="Write the table into benchmarks/README.md.")
def command(only: str, seeds: int, folder: Path, record: Path | None, update: bool) -> int:
    names = [name for name in only.split(",") if name]
    unknown = [name for name in names if name not in [case.name for case in CASES]]
    if unknown:
        raise click.UsageError(f"no case {', '.join(unknown)}; there are {', '.join(case.name for case in CASES)}")
    made, records = [], {}
    for case in CASES:
        if names and case.name not in names:
            continue
        if case.full and "GNOMON_DATA" not in os.environ:
            click.echo(f"{case.name}: not run, it is about all of MNIST: GNOMON_DATA names the folder with its four files", err=True)
            continue
        click.echo(f"{case.name}: {case.what}", err=True)
        found = run(case, range(1 if case.full else seeds), folder)
        made += lines(case, found)
        records[case.name] = {"what": case.what, "machine": machine(), "seeds": found}
    click.echo(table(made))
    if record is not None:
        record.write_text(json.dumps(records, indent=2) + "\n")
    if update:
        README.write_text(into(README.read_text(encoding="utf-8"), markdown(made)), encoding="utf-8")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    result: Any = command.main(args=list(arguments or []), prog_name="python -m benchmarks quantization", standalone_mode=False)
    return int(result or 0)
