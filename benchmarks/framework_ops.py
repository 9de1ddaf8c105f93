"""PyTorch's and JAX's own gradients, judged: `python -m benchmarks framework-ops torch|jax [NAME ...]`.

Each function of benchmarks/torch_ops.py or benchmarks/jax_ops.py goes through `check_gradient`, in a process apart: a function that
takes too long, or ends its process, is a row of the table and not the end of the run. What is found is kept after each function, so that
a run that was broken off goes on where it stood. `--update` writes the table and the findings to the page benchmarks/frameworks.md.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import framework_report
from benchmarks.op_table import Entry

FRAMEWORKS = {"torch": ("torch", "numpy"), "jax": ("jax", "jaxlib", "numpy")}
LIFETIME = {"jax": 40}  # functions that one process judges: JAX keeps all that it has compiled
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
Found = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these functions, judged anew")
    parser.add_argument("--examples", type=int, default=60, help="calls drawn for each function (default: %(default)s)")
    parser.add_argument("--second", action="store_true", help="the gradient of the gradient too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="for one function (default: %(default)g)")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run found")
    parser.add_argument("--update", action="store_true", help="write benchmarks/frameworks.md")
    parser.add_argument("--json", metavar="FILE", help="where what is found is kept (default: benchmarks/results/frameworks/NAME.json)")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks framework-ops", description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    table = importlib.import_module(f"benchmarks.{options.framework}_ops").table
    unknown = sorted(set(options.names) - {e.name for e in table.entries})
    if unknown:
        print(f"not in the table of {options.framework}: {', '.join(unknown)}", file=sys.stderr)
        return 2
    keeper = Keeper(Path(options.json or HERE / "results" / "frameworks" / f"{options.framework}.json"), about(options), options.again)
    wanted = [e for e in table.entries if (e.name in options.names if options.names else e.name not in keeper.found)]
    if wanted:
        sweep(wanted, keeper, options)
    everything = [keeper.found[e.name] for e in table.entries if e.name in keeper.found]
    print(framework_report.findings([f for f in everything if not options.names or f["name"] in options.names], options.framework))
    if options.update:
        framework_report.update(HERE / "frameworks.md", options.framework, keeper.about, everything)
    return 0


def about(options: argparse.Namespace) -> Found:
    """What the results belong to."""
    versions = {p: importlib.metadata.version(p) for p in FRAMEWORKS[options.framework]}
    return {"versions": versions, "examples": options.examples, "seed": options.seed, "orders": [1, 2] if options.second else [1]}


class Keeper:
    """What is found, in a file that is written anew after each function."""

    def __init__(self, file: Path, about: Found, again: bool):
        self.file, self.about = file, about
        self.found: dict[str, Found] = {}
        if file.exists() and not again:
            known = json.loads(file.read_text())
            if known["about"] != about:
                raise SystemExit(f"{file} is of a run with other settings, {known['about']}: --again forgets it, --json FILE leaves it")
            self.found = {f["name"]: f for f in known["found"]}

    def keep(self, found: Found) -> None:
        self.found[found["name"]] = found
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(f) for f in self.found.values())
        beside = self.file.with_suffix(".new")
        beside.write_text(f'{{"about": {json.dumps(self.about)},\n"found": [\n{lines}\n]}}\n')
        os.replace(beside, self.file)


# One process for as many functions as it survives.


class Worker:
    """A process that judges one function after the other. `ask` gives None where it died or took too long; it is started again then."""

    def __init__(self, framework: str):
        self.framework = framework
        self.process: subprocess.Popen[str] | None = None
        self.why = ""
        self.asked = 0

    def ask(self, request: Found, seconds: float) -> Found | None:
        if self.asked >= LIFETIME.get(self.framework, 10**9):
            self.stop()
        if self.process is None:
            self.asked = 0
            command = [sys.executable, "-m", "benchmarks.framework_worker", self.framework]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
            )
            seconds += 60  # for the import
        self.asked += 1
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        self.why = ended(self.process.wait()) if ready else f"took more than {seconds:g} s"
        self.stop()
        return None

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            with suppress(BrokenPipeError):  # what was not read any more
                self.process.__exit__(None, None, None)
            self.process = None


def ended(code: int) -> str:
    with suppress(ValueError):
        return f"the process is ended by {signal.Signals(-code).name}"
    return f"the process ends with status {code}"


def sweep(entries: Sequence[Entry], keeper: Keeper, options: argparse.Namespace) -> None:
    worker = Worker(options.framework)
    try:
        with progress(len(entries)) as show:
            for entry in entries:
                found = judged(worker, entry, options)
                keeper.keep(found)
                show(found)
    finally:
        worker.stop()


def judged(worker: Worker, entry: Entry, options: argparse.Namespace) -> Found:
    request = {"name": entry.name, "examples": options.examples, "seed": options.seed, "second": options.second}
    began = time.perf_counter()
    found = worker.ask(request, options.limit)
    if found:
        return found
    lost = {"name": entry.name, "group": entry.group, "seconds": round(time.perf_counter() - began, 2)}
    if worker.why.startswith("took"):
        return {**lost, "verdict": "NOT RUN", "text": worker.why}
    return {
        **lost,
        "verdict": "FAIL",
        "check": "crash",
        "order": 1,
        "what": worker.why,
        "program": last_call(worker, request, options.limit),
    }


def last_call(worker: Worker, request: Found, limit: float) -> str:
    """The call that ended the process, by making it once more."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "call.py"
        worker.ask({**request, "trace": str(file)}, 4 * limit)
        return file.read_text() if file.exists() else ""


# What is seen while it runs.


@contextmanager
def progress(total: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar on a terminal, if rich is installed; a line for each function elsewhere."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:
        yield lambda found: print(framework_report.line(found), file=sys.stderr, flush=True)
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda found: print(framework_report.line(found), file=sys.stderr, flush=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("judging", total=total)

        def show(found: Mapping[str, Any]) -> None:
            if found["verdict"] != "PASS":
                bar.console.print(framework_report.line(found), highlight=False, markup=False)
            bar.update(task, advance=1, description=str(found["name"]))

        yield show


if __name__ == "__main__":
    sys.exit(main())
