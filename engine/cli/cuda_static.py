"""`gnomon bench --cuda-static`: what the machine code of the CUDA kernels says, without a GPU. No number is a measured time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.problems import Failure, needs, unknown

if TYPE_CHECKING:
    from benchmarks.cuda_static import Subject
    from kernels.cuda.static import Evidence

Found = list[tuple["Subject", "Evidence"]]

LABEL = """\
static: read off the machine code that ptxas makes. Nothing was run, and no number is a time that was measured
share: products of all instructions in the main loop; cycles: what a warp takes to issue a product, at least, by the control codes
floor: microseconds that the case in the title takes at least, by the roofline of {devices}"""
COLUMNS = ("kernel", "target", "regs", "spills", "shared", "occupancy", "limited by", "loop", "share", "cycles", "floor, us", "the loop")
RIGHT = ("regs", "spills", "shared", "occupancy", "loop", "share", "cycles", "floor, us")
FREQUENT = 4  # instructions of a loop that are told
WIDE = 190  # columns, where nobody says how wide the paper is


def static(what: Sequence[str], rungs: str, targets: Sequence[str], file: Path | None, write: bool) -> int:
    """Print the evidence of ops; exit code 1 if it is worse than the golden table, unless that is to be written."""
    chosen, on = ops_named(what), targets_named(targets)
    found = collected(chosen, rungs, on)
    if file:
        file.write_text(json.dumps([as_dict(s, e) for s, e in found], indent=1) + "\n", encoding="utf-8")
    printed(found)
    return written(found, rungs) if write else judged(found)


def ops_named(what: Sequence[str]) -> list[str]:
    needs("numba_cuda")
    import kernels
    from benchmarks.cuda_static import ops
    from kernels.cuda.static import missing

    if why := missing():
        raise Failure(why)
    for name in what:
        if name not in kernels.ops("cuda"):
            raise unknown("op with CUDA kernels", name, kernels.ops("cuda"))
    return list(what) or ops()


def targets_named(targets: Sequence[str]) -> list[str]:
    from benchmarks.cuda_static import TARGETS

    for name in targets:
        if name not in TARGETS:
            raise unknown("target", name, TARGETS)
    return list(targets) or list(TARGETS)


def collected(ops: Sequence[str], rungs: str, targets: Sequence[str]) -> Found:
    """The evidence, with a bar on a terminal: what is not kept from an earlier time is compiled, about a second each."""
    from rich.console import Console
    from rich.progress import track

    from benchmarks.cuda_static import found, subjects

    console = Console(stderr=True)
    quiet = {"console": console, "disable": not console.is_terminal, "transient": True}
    work = [(s, target) for op in track(ops, "looking", **quiet) for s in subjects(op, rungs) for target in targets]  # type: ignore[arg-type]
    return [(s, found(s, target)) for s, target in track(work, "compiling", **quiet)]  # type: ignore[arg-type]


def printed(found: Found) -> None:
    """A table for each rung and dtype."""
    from rich.console import Console

    from kernels.cuda.targets import DEVICES

    console = Console()
    console = console if console.is_terminal else Console(width=WIDE)
    click.echo(LABEL.format(devices=", ".join(device.name for device in DEVICES)))
    for _, rows in groupby(found, key=lambda pair: (pair[0].rung.op, pair[0].rung.name, pair[0].dtype)):
        console.print(table(list(rows)))


def table(rows: Found) -> Any:
    from rich import box
    from rich.table import Table

    s = rows[0][0]
    made = Table(
        title=f"\n{s.rung.op} {s.rung.step} {s.rung.name}, {s.dtype}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    for name in COLUMNS:
        made.add_column(name, justify="right" if name in RIGHT else "left", no_wrap=name not in ("kernel", "the loop"))
    for _, of_kernel in groupby(rows, key=lambda pair: pair[0].kernel):
        for number, (subject, e) in enumerate(of_kernel):
            made.add_row("" if number else f"{subject.kernel}\n[dim]{subject.case}", *cells(subject, e))
    return made


def cells(s: Subject, e: Evidence) -> tuple[str, ...]:
    floor = "  ".join(f"{1e6 * seconds:.3g}" for seconds, _ in s.bounds(e.product).values())
    often = ", ".join(f"{count} {name}" for name, count in list(e.mix.items())[:FREQUENT])
    bad = f"\n[red]{', '.join(e.forbidden)}" if e.forbidden else ""
    share = f"{100 * e.share:.0f} % {e.product}" if e.products else "none"
    cycles = f"{e.issue:.2f}" if e.issue else ""
    return (
        e.target, str(e.registers), f"{e.spills}{f' +{e.stack}' if e.stack else ''}", f"{e.shared:,}", f"{100 * e.occupancy:.0f} %",
        e.limiter, str(e.loop), share, cycles, floor, often + bad,
    )  # fmt: skip


def as_dict(s: Subject, e: Evidence) -> dict[str, Any]:
    """What --json writes of a kernel and target."""
    about = {"label": "static", "op": s.rung.op, "rung": s.rung.name, "step": s.rung.step, "serves": s.rung.serves, "dtype": s.dtype}
    floors = {name: {"seconds": seconds, "by": by} for name, (seconds, by) in s.bounds(e.product).items()}
    return {**about, "kernel": s.kernel, **asdict(e), "share": e.share, "case": s.case, "roofline": floors}


def judged(found: Found) -> int:
    """Say what is worse than the golden table; 1 if anything is."""
    from benchmarks.cuda_static import ops
    from kernels.cuda.static import golden

    table, known = golden.told()["kernels"], ops()
    worse = [line for s, e in found if s.rung.op in known for line in golden.regressions(s.name, e, table)]
    click.echo("\n".join(worse) if worse else "no worse than the golden table")
    return int(bool(worse))


def written(found: Found, rungs: str) -> int:
    from kernels.cuda.static import golden

    golden.write(((s.name, e) for s, e in found), rungs)
    click.echo(f"{golden.FILE}: written")
    return 0
