"""`gnomon bench`: how fast, against whom, and how far to trust it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.problems import Failure, needs, told, unknown

if TYPE_CHECKING:
    from benchmarks.job import Job
    from benchmarks.race import Plan
    from benchmarks.records import Book, Record
    from benchmarks.suites import Suite


class Names(click.ParamType[Any]):
    """a,b,c: a list."""

    name = "NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


@click.command("bench", short_help="Kernels against other libraries, verified first; your own function too.")
@click.argument("what", nargs=-1)
@click.option("--suite", "extra", default=(), type=Names(), help="Suites by name: the same as WHAT.")
@click.option("--op", help="The op that functions of yours compute, if they are not marked with it.")
@click.option("--against", type=Names(), help="Only these peers; all: whatever there is.  [default: those of each suite]")
@click.option("--rungs", type=click.Choice(["serving", "all"]), default="serving", show_default=True, help="Which of our kernels.")
@click.option("--case", "only", default="", metavar="TEXT", help="Only cases whose name contains this, such as 1024x1024.")
@click.option("--threads", type=click.IntRange(1), help="On either side.  [default: all cores; 1 for --clock cpu]")
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(1), help="Turns that each implementation takes.")
@click.option("--seconds", "limit", default=30.0, show_default=True, help="For the rounds of a case: fewer where calls take long, but 3.")
@click.option(
    "--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True, help="cpu: processor time, for busy machines."
)
@click.option("--cold-cache", "cold", is_flag=True, help="Empty the caches before each call.")
@click.option("--fresh", is_flag=True, help="Compile everything anew, so that `first s` is the time of compiling.")
@click.option("--quick", is_flag=True, help="Every third case, 5 rounds, 2 seconds a case.")
@click.option("--small", is_flag=True, help="Every case at a small size, to try the harness itself.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write records there, after each case.")
@click.option("--resume", is_flag=True, help="Go on with the records in --json.")
@click.option(
    "--compare",
    "old",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Records of an older run: has ours become slower?",
)
@click.option("--plot", "folder", type=click.Path(path_type=Path, file_okay=False), help="Draw a roofline and a sweep of sizes, as PNG.")
@click.option("--update-readme", "update", is_flag=True, help="Write the tables into benchmarks/README.md.")
@click.option(
    "--backend", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="cuda: on the GPU, timed by its clock."
)
@click.option("--cuda-static", "static", is_flag=True, help="CUDA kernels as the assembler leaves them: registers, loops. Needs no GPU.")
@click.option("--target", "targets", multiple=True, metavar="sm_80", help="For --cuda-static; may be repeated.  [default: all]")
@click.option("--write-golden", "golden", is_flag=True, help="With --cuda-static: what is found becomes what must not get worse.")
@click.option("--list", "listing", is_flag=True, help="List suites and peers, and whether they are here.")
def command(
    what: Sequence[str], extra: Sequence[str], op: str | None, against: Sequence[str] | None, rungs: str, only: str, threads: int | None,
    rounds: int, limit: float, clock: str, cold: bool, fresh: bool, quick: bool, small: bool, file: Path | None, resume: bool,
    old: Path | None, folder: Path | None, update: bool, backend: str, static: bool, targets: Sequence[str], golden: bool, listing: bool,
) -> int:  # fmt: skip
    """Time kernels next to other libraries: each in a process of its own, with as many threads, in turns. What is wrong is not timed.

    \b
    WHAT is any of                   (by default all the suites)
      a suite                        sgemm, conv, adam, ...: --list has them
      an op                          matmul: every case it has
      module:function, file.py:function
                                     your own function, next to ours and the others; say --op, or mark it with @bench("matmul")
      file.py                        every function in it that is marked

    \b
    Examples
      gnomon bench sgemm --threads 1
      gnomon bench conv --against torch,onnxruntime --json conv.json --plot plots
      gnomon bench matmul --rungs all --case "256x256"
      gnomon bench mine.py:product --op matmul --quick
      gnomon bench sgemm conv --json new.json --compare old.json
      gnomon bench sgemm --backend cuda
      gnomon bench --cuda-static matmul --rungs all --target sm_80

    `ours is faster by`: the ratio of medians with its 95 % interval; above 1 ours is faster. Exit code 1 if an implementation is
    wrong, or if --compare finds one of ours slower.
    """
    with told():
        needs("rich")
        if static:
            return evidence((*what, *extra, *((op,) if op else ())), rungs, targets, file, golden)
        if targets or golden:
            raise click.UsageError("--target and --write-golden are for --cuda-static")
        if folder:
            needs("matplotlib")
        if listing:
            click.echo(listed())
            return 0
        chosen = placed(understood((*what, *extra), op), backend)
        plan = planned(threads, rounds, limit, "device" if backend == "cuda" else clock, cold, fresh, small, quick)
        before = stored(old) if old else []
        job = job_of(chosen, plan, opened(file, resume, plan), peers_named(against, backend), rungs, quick, only, backend)
        run(job, with_limits=not small and backend == "cpu")
        found = list(job.mine())
        if folder:
            draw(found, chosen, plan, folder)
        if update:
            written(job.book.all)
        changed = compared(before, found) if old else 0
        wrong = sum((r["missing"] or "").startswith("wrong") for r in found)
    return int(bool(wrong or changed))


def evidence(*arguments: Any) -> int:
    from engine.cli.cuda_static import static

    return static(*arguments)


def understood(names: Sequence[str], op: str | None) -> list[Suite]:
    """The suites that are meant: of a function of the user's, one by its name. Raises UsageError for what is neither."""
    from benchmarks.suites import Suite, cases_of, suites
    from benchmarks.yours import cases_for

    known = suites()
    ops = list(dict.fromkeys(case.op for suite in known.values() for case in suite.cases))
    chosen = []
    for name in [n for n in names if not is_function(n)]:
        if name in known:
            chosen.append(known[name])
        elif name in ops:
            peers = tuple(dict.fromkeys(p for s in known.values() for p in s.against if any(c.op == name for c in s.cases)))
            chosen.append(Suite(name, f"every case of {name}", cases_of(name), peers))
        else:
            raise unknown("suite or op", name, [*known, *ops], "`gnomon bench --list` lists the suites")
    if op and op not in ops:
        raise unknown("op with cases", op, ops)
    for name in [f for given in names for f in functions_in(given)]:
        f, meant = meant_by(name, op)
        chosen.append(Suite(name, f"your {meant}", cases_for(f, meant), ("numpy", "torch")))
    return chosen or list(known.values())


def placed(suites: Sequence[Suite], backend: str) -> Sequence[Suite]:
    """The suites where they are to run. Raises Failure where there is no GPU for them."""
    if backend == "cpu":
        return suites
    from benchmarks.cuda_peers import NO_GPU, moved
    from kernels.registry import has_gpu, ops

    if not has_gpu():
        raise Failure(NO_GPU)
    needs("numba_cuda")
    return [moved(suite, ops("cuda")) for suite in suites]


def is_function(name: str) -> bool:
    return ":" in name or name.endswith(".py")


def functions_in(name: str) -> list[str]:
    """module:function as it is; of a file, the functions that are marked in it."""
    from benchmarks.yours import marked
    from engine.cli.explain import from_file

    if not name.endswith(".py"):
        return [name] if ":" in name else []
    found = [f"{name}:{key}" for key, f in vars(from_file(Path(name))).items() if callable(f) and marked(f)]
    if not found:
        raise Failure(f'no function in {name} is marked: put @bench("matmul") above it, or name it, {name}:function --op matmul')
    return found


def meant_by(name: str, op: str | None) -> tuple[Callable[..., Any], str]:
    """The function, and the op it computes."""
    from benchmarks.yours import marked
    from engine.cli.check import function

    f = function(name)
    meant = op or marked(f)
    if not meant:
        raise click.UsageError(f'which op does {name} compute? Say --op matmul, or mark the function with @bench("matmul")')
    return f, meant


def planned(
    threads: int | None, rounds: int, limit: float, clock: str, cold: bool, fresh: bool, small: bool, quick: bool
) -> Plan:  # fmt: skip
    from benchmarks.job import QUICK
    from benchmarks.race import Plan
    from engine.machine import cores

    if clock == "cpu" and threads not in (None, 1):
        raise click.UsageError("--clock cpu adds up the time of all threads, so it compares only with --threads 1")
    count = threads or (1 if clock == "cpu" else cores())
    plan = Plan(threads=count, rounds=rounds, limit=limit, clock=clock, cold=cold, fresh=fresh, small=small)
    return replace(plan, **QUICK) if quick else plan


def peers_named(against: Sequence[str] | None, backend: str = "cpu") -> Sequence[str] | None:
    from benchmarks import cuda_peers, peers

    known = peers.PEERS if backend == "cpu" else cuda_peers.PEERS
    if against == ("all",):
        return tuple(known)
    for name in against or ():
        if name not in known:
            raise unknown("peer", name, known)
    return against


def stored(file: Path) -> list[Record]:
    from benchmarks.records import read

    try:
        found: list[Record] = read(file)
    except ValueError as e:
        raise Failure(f"{file} cannot be read: {e}") from e
    return found


def opened(file: Path | None, resume: bool, plan: Plan) -> Book:
    """Where the records go, with what is there already."""
    from benchmarks.job import tier_in_force
    from benchmarks.records import Book, how

    if resume and not file:
        raise click.UsageError("--resume goes on with the records of --json FILE: which file?")
    if not file or not file.exists():
        return Book(file, [])
    if not resume:
        raise Failure(f"there are records in {file} already\n  --resume goes on with them, another name begins anew")
    found = stored(file)
    now = {"threads": plan.threads, "tier": tier_in_force(), "clock": plan.clock, "cold": plan.cold, "small": plan.small}
    clashes = [f"{key}: then {then}, now {now[key]}" for r in found[:1] for key, then in how(r).items() if then != now[key]]
    if clashes:
        raise click.UsageError(f"the run in {file} was begun otherwise:\n  " + "\n  ".join(clashes))
    return Book(file, found)


def job_of(
    suites: Sequence[Suite], plan: Plan, book: Book, against: Sequence[str] | None, rungs: str, quick: bool, only: str, backend: str = "cpu"
) -> Job:  # fmt: skip
    from benchmarks.job import Job

    job = Job(suites, plan, book, against=against, all=rungs == "all", quick=quick, only=only, backend=backend)
    if not job.cases():
        told_why = f"no case is called *{only}*" if only else "none of these ops is here"
        raise Failure(f"there is nothing to race: {told_why}")
    return job


def run(job: Job, with_limits: bool) -> None:
    """Race, with a bar on a terminal and the rows of each case as they come, then a line for each suite and peer."""
    from benchmarks.clock import CALLED
    from benchmarks.job import machine
    from benchmarks.roofline import measured
    from benchmarks.tables import HEAD, rows, summary

    plan, left = job.plan, job.left()
    cache, clock = "cold" if plan.cold else "warm", CALLED[plan.clock]
    click.echo(f"{machine(job.backend)}\n{plan.threads} threads on either side, {cache} caches, {clock}")
    for name, why in absent(job).items():
        click.echo(f"not here: {name} ({why})")
    roof = measured(plan.threads) if with_limits and left else None
    if roof:
        click.echo(str(roof))
    click.echo(f"\n{HEAD}")
    with Bar(len(left)) as bar:
        job.run(lambda found: bar.tell(rows(found)), roof)
    click.echo("")
    for suite in job.suites:
        for row in summary(suite, job.mine()):
            click.echo(str(row))


def absent(job: Job) -> dict[str, str]:
    """The peers that the job names and that are not here, with the reason."""
    from benchmarks.peers import Missing, find

    found, home = {}, "benchmarks.peers" if job.backend == "cpu" else "benchmarks.cuda_peers"
    for name in dict.fromkeys(p for s in job.suites for p in (job.against if job.against is not None else s.against)):
        try:
            if why := find(name, home).available():
                found[name] = why
        except Missing:  # a kind of case of its own has peers of its own
            continue
    return found


class Bar:
    """How many cases are done, and how long it will take. Off the screen while rows are printed."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True, redirect_stdout=False)
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def tell(self, lines: Sequence[str]) -> None:
        self.bar.stop()
        click.echo("\n".join(lines))
        self.bar.advance(self.task)
        self.bar.start()

    def __exit__(self, *error: object) -> None:
        self.bar.stop()


def compared(before: Sequence[Record], found: Sequence[Record]) -> int:
    """Print how ours changed; how many have become slower."""
    from benchmarks.records import compare

    changes = sorted(compare(before, found), key=lambda c: c.ratio.median)
    slower = [c for c in changes if c.regression]
    click.echo(f"\nagainst the older run, {len(changes)} cases in both (above 1: faster now)")
    for change in changes if len(changes) <= 10 else [*changes[:5], *changes[-5:]]:
        click.echo(f"  {change.ratio!s:<22} {change.impl}  {change.case}{'   SLOWER' if change.regression else ''}")
    click.echo(f"  slower: {len(slower)}")
    return len(slower)


def draw(found: Sequence[Record], suites: Sequence[Suite], plan: Plan, folder: Path) -> None:
    from benchmarks.plots import pictures
    from benchmarks.roofline import measured

    folder.mkdir(parents=True, exist_ok=True)
    for path in pictures(found, measured(plan.threads), folder):
        click.echo(str(path))


def written(found: Sequence[Record]) -> None:
    """Put the tables between their markers."""
    import benchmarks
    from benchmarks.suites import suites
    from benchmarks.tables import into, markdown

    path = Path(benchmarks.__file__).with_name("README.md")
    if not path.is_file():
        raise Failure(f"there is no {path}: the tables are those of a clone of the project")
    path.write_text(into(path.read_text(encoding="utf-8"), markdown(suites().values(), found)), encoding="utf-8")
    click.echo(f"{path}: tables written")


def listed() -> str:
    """Suites with their targets, peers and whether they are here."""
    from benchmarks.peers import PEERS, find
    from benchmarks.suites import suites

    lines = ["suites"]
    for suite in suites().values():
        target = f"target {suite.target:g} against {', '.join(suite.of or suite.against)}" if suite.target else ""
        missing = "" if any(case.there for case in suite.cases) else "no such op yet"
        lines.append(f"  {suite.name:<18} {suite.what:<56} {len(suite.cases):>3} cases   {target or missing}".rstrip())
    return "\n".join(
        [*lines, "", "peers", *(f"  {name:<18} {about:<60} {find(name).available() or 'here'}" for name, about in PEERS.items())]
    )
