"""`gnomon demo`: the table of the main job, and its report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from engine.cli.problems import needs, told, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from engine.report import Result

COLUMNS = {"model, data": 27, "params": 7, "train": 6, "compile": 7, "on the test set": 15, "gradient": 12}  # 80 with their gaps
COLOURS = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow"}


@click.command("demo", short_help="Train the models on real data; a table, and a report with pictures.")
@click.option("--models", default="", metavar="NAME,...", help="Only these models, such as linear,mlp.")
@click.option("--report", "folder", default="report", show_default=True, metavar="DIR", help="Where the pictures and report.json go.")
@click.option("--seed", default=0, show_default=True, help="Of the split of the data, the first weights and the order of the examples.")
@click.option(
    "--seeds", "count", default=1, show_default=True, type=click.IntRange(1, 100), help="Train with so many seeds: mean and spread."
)
@click.option(
    "--kernels", type=click.Choice(["cpu", "none"]), help="cpu: the Numba kernels; none: the definitions in NumPy.  [default: cpu]"
)
@click.option("--quick", is_flag=True, help="The same path with little data and few epochs, in under 20 seconds.")
def command(models: str, folder: str, seed: int, count: int, kernels: str | None, quick: bool) -> int:
    """Train linear regression, logistic regression, an MLP and LeNet-5 on data that ship inside packages; LeNet-5 also pruned, and both
    in integers of 8 bits.

    For each: parameters, seconds of training and of compiling, metrics on held-out data, and the verdict on its gradient. Every
    parameter array's gradient at a real batch is compared, in float64, with a complex step or an extrapolated difference.

    \b
    Examples
      gnomon demo
      gnomon demo --models mlp,lenet5_classic --seeds 3
      gnomon demo --quick --report /tmp/report

    Exit code 1 if a gradient fails.
    """
    with told():
        from engine.demo import SHOWS, chosen
        from engine.machine import cores

        needs("rich", "matplotlib")
        names = [name for name in models.split(",") if name]
        known = list(dict.fromkeys(show.model for show in SHOWS))
        for name in names:
            if name not in known:
                raise unknown("model in the demo", name, known)
        os.makedirs(folder, exist_ok=True)  # a folder that cannot be is told now, not in a minute
        backend = "cpu" if kernels is None and has_numba() else None if kernels == "none" else kernels
        began = time.perf_counter()
        console = out()
        drawn = f"seed {seed}" if count == 1 else f"seeds {seed} to {seed + count - 1}: mean ± standard deviation"
        console.print(f"gnomon demo   {drawn}   kernels {backend or 'none'}   {cores()} cores{'   quick' if quick else ''}\n")
        results = shown(console, chosen(names), range(seed, seed + count), quick, backend)
        report(console, results, folder, {"seed": seed, "seeds": count, "quick": quick, "kernels": backend or "none"}, began)
    return int(any(r.facts["gradient"]["verdict"] == "FAIL" for r in results if r.facts["gradient"]))


def has_numba() -> bool:
    """Are there kernels to use?"""
    from kernels.registry import backends

    return "cpu" in backends()


def out() -> Console:
    """Standard output, without guesses at what might be coloured."""
    from rich.console import Console

    return Console(highlight=False)


def shown(console: Console, shows: Sequence[Any], seeds: Sequence[int], quick: bool, backend: str | None) -> list[Result]:
    """Study one model after the other, and print the row of each as soon as it is there."""
    from engine.demo import study

    console.print(row([f"[bold]{name}" for name in COLUMNS]))
    results = []
    for show in shows:
        for result in study(show, seeds=seeds, quick=quick, backend=backend, watch=bars, waiting=spinner):
            console.print(row(cells(result)))
            results.append(result)
    return results


def row(texts: Sequence[str]) -> Any:
    """One row of the table. Each is a table of its own, so that it can be printed when it is ready."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    for name, width in COLUMNS.items():
        table.add_column(width=width, justify="right" if name in ("params", "train", "compile") else "left")
    table.add_row(*texts)
    return table


def cells(result: Result) -> list[str]:
    """What the row says of a result."""
    facts = result.facts
    return [
        f"{result.title}\n[dim]{result.data}, {facts['examples']['train']:,} + {facts['examples']['test']:,}",
        f"{facts['parameters']:,}",
        f"{facts['seconds']['train']:.1f} s",
        f"{facts['seconds']['compile']:.1f} s",
        "\n".join(measured(facts["seeds"])),
        judged(facts),
    ]


def judged(facts: dict[str, Any]) -> str:
    """The verdict on the gradient; integers have none, but are small."""
    from engine.report import smaller

    gradient = facts["gradient"]
    if gradient is None:
        return f"none\n[dim]{smaller(facts)}"
    return f"[{COLOURS[gradient['verdict']]}]{gradient['verdict']}[/]\n[dim]{gradient['worst']:.0e} worst"


NAMES = {"r2": "R2", "mae": "MAE", "accuracy": "accuracy", "f1": "F1", "macro_f1": "macro F1"}


def measured(seeds: dict[str, Any]) -> list[str]:
    """The first two metrics, with their spread if there is one."""
    lines = []
    for name in [n for n in NAMES if n in seeds][:2]:
        found = seeds[name]
        digits = 2 if found["mean"] >= 10 else 4
        lines.append(f"{NAMES[name]} {found['mean']:.{digits}f}")
        if len(found["values"]) > 1:
            lines.append(f"[dim]  ± {found['sd']:.{digits}f}[/]")
    return lines


def report(console: Console, results: Sequence[Result], folder: str, facts: dict[str, Any], began: float) -> None:
    """Write the report and say where it is."""
    from engine.machine import processor, versions
    from engine.report import write

    with spinner("drawing the report"):
        about = {"command": "gnomon demo", **facts, "versions": versions(), "processor": processor()}
        files = write(results, about, folder)
    console.print(f"\n{len(files) - 2} pictures, table.md and report.json in {os.path.abspath(folder)}", soft_wrap=True)
    for file in files:
        console.print(f"  {file.name}", style="dim")
    for result in results:
        if result.facts["gradient"] and result.facts["gradient"]["verdict"] != "PASS":
            console.print(f"\nThe gradient of {result.title}:\n{result.facts['gradient']['text']}", markup=False)
    console.print(f"{time.perf_counter() - began:.0f} s in all")


def bars(title: str) -> list[Any]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return []
    from engine.progress import Bar

    class Titled(Bar):
        """A bar with the model's name in front."""

        def _where(self, run: Any) -> str:
            return f"{title}  {super()._where(run)}"

    return [Titled()]


def spinner(text: str) -> AbstractContextManager[Any]:
    """Say what is being done, on a terminal, until it is done."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)
