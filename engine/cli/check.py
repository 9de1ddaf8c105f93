"""`gnomon check`: is the gradient of a function right?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from engine.cli.problems import Failure, told, unknown

NOT_CHECKED = 3  # 1 and 2 are verdicts
ENOUGH = 0.95  # of the wrong rules, for --self
FRAMEWORKS = ("numpy", "engine", "torch", "jax", "tensorflow", "cupy", "autograd")


class Check(click.Command):
    """A command whose errors have an exit code that no verdict has."""

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        with set_apart():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with set_apart():
            return super().invoke(ctx)


@contextmanager
def set_apart() -> Iterator[None]:
    try:
        yield
    except click.ClickException as e:
        e.exit_code = NOT_CHECKED  # type: ignore[misc]
        raise


class Orders(click.ParamType[Any]):
    """1, or 1,2: the orders of the derivatives that are checked."""

    name = "1[,2]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        found = value if isinstance(value, tuple) else tuple(dict.fromkeys(value.replace(" ", "").split(",")))
        if not found or not {str(v) for v in found} <= {"1", "2"}:
            self.fail(f"{value!r} is not 1, 2 or 1,2", param, ctx)
        return tuple(int(v) for v in found)


class Interval(click.ParamType[Any]):
    """x=0:1, x=0: or x=:1: where an argument lives."""

    name = "name=low:high"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, dict[str, float]]:
        if isinstance(value, tuple):
            return value
        name, _, ends = value.partition("=")
        low, colon, high = ends.partition(":")
        try:
            found = {key: float(end) for key, end in (("low", low), ("high", high)) if end.strip()}
        except ValueError:
            found = {}
        if not (name.strip() and colon and found):
            self.fail(f"{value!r} is not NAME=LOW:HIGH, such as x=0:1 or x=0:", param, ctx)
        return name.strip(), found


@click.command("check", cls=Check, short_help="Is the gradient of a function right? Yours, or a framework's.")
@click.argument("what", required=False)
@click.option("--vjp", metavar="MODULE:FUNCTION", help="Your rule, vjp(g, args, y, **options).")
@click.option("--jvp", metavar="MODULE:FUNCTION", help="Your forward rule, jvp(tangents, args, y, **options).")
@click.option("--framework", type=click.Choice(FRAMEWORKS), help="Whose arrays the function takes.  [default: seen from its code]")
@click.option("--signature", metavar="SHAPES", help='Such as "m k, k n -> m n" or "..., ...".  [default: found by trying]')
@click.option("--domain", multiple=True, type=Interval(), help="Where an argument lives: x=0:1, x=0: or x=:1. May be repeated.")
@click.option("--examples", default=200, show_default=True, type=click.IntRange(1), help="How many calls are tried.")
@click.option("--elements", default=27, show_default=True, type=click.IntRange(1), help="How large an argument may be.")
@click.option("--orders", default="1", show_default=True, type=Orders(), help="2: the gradient of the gradient.")
@click.option("--seed", default=0, show_default=True, help="Another seed tries other calls.")
@click.option("--strict", is_flag=True, help="A loss of accuracy in a tail is a FAIL too.")
@click.option("--json", "file", metavar="FILE", help="Write the report there; - is standard output.")
@click.option("--self", "itself", is_flag=True, help="Test the tester: how many wrong rules it finds, how many right ones it accuses.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="With --self: how many seeds, from --seed on.")
def command(
    what: str | None, vjp: str | None, jvp: str | None, framework: str | None, signature: str | None,
    domain: Sequence[tuple[str, dict[str, float]]], examples: int, elements: int, orders: tuple[int, ...], seed: int, strict: bool,
    file: str | None, itself: bool, seeds: int,
) -> int:  # fmt: skip
    """Check the gradient of WHAT: module:function, file.py:function, or op:NAME for an op of this engine.

    It takes NumPy arrays, or those of the framework that its code names. A rule of your own is checked with --vjp or --jvp;
    without one, the gradient that the framework computes.

    \b
    Examples
      gnomon check rules.py:softmax --vjp rules.py:softmax_vjp --signature "... n -> ... n"
      gnomon check model.py:loss --framework torch --signature "b n, n"
      gnomon check op:logsumexp --orders 1,2
      gnomon check --self

    Exit codes: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 not checked (not understood, no such function), 130 interrupted.
    """
    with told():
        from engine.testing import check_gradient
        from engine.testing.report import EXIT_CODES

        if itself:
            return score(examples, range(seed, seed + seeds))
        if not what:
            raise click.UsageError("what is to be checked? module:function, file.py:function or op:NAME")
        f, known = understood(what)
        given = {"signature": signature, "domain": dict(domain) or None, "framework": framework}
        rules = {"vjp": vjp and function(vjp), "jvp": jvp and function(jvp)}
        with refusals():
            report = check_gradient(
                f, **{**known, **{k: v for k, v in {**given, **rules}.items() if v is not None}}, examples=examples, max_elements=elements,
                orders=orders, seed=seed, severity="tail" if strict else "wrong",
            )  # fmt: skip
    if file:
        written(json.dumps(report.as_dict(), indent=2), file)
    if file != "-":
        click.echo(report.explain())
    return EXIT_CODES[report.verdict]


def understood(what: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function, and what is known about its arguments without being told."""
    if not what.startswith("op:"):
        return function(what), {}
    from engine.testing.ops import contract_of
    from engine.traced import OPS

    name = what.removeprefix("op:")
    if name not in OPS:
        raise unknown("op", name, sorted(OPS), "`gnomon explain op:` lists them")
    return OPS[name], {"framework": "engine", **contract_of(OPS[name])}


def function(what: str) -> Callable[..., Any]:
    """The function of that name."""
    from engine.cli.explain import imported, is_path

    if not is_path(what):
        raise click.UsageError(f"{what!r} is neither module:function nor file.py:function")
    return imported(what)


@contextmanager
def refusals() -> Iterator[None]:
    """What cannot be checked as it was asked is told in words."""
    try:
        yield
    except (TypeError, ValueError, ModuleNotFoundError) as e:
        raise Failure(str(e)) from e


def written(text: str, file: str) -> None:
    """To a file, or to standard output for a dash."""
    if file == "-":
        click.echo(text)
    else:
        Path(file).write_text(text + "\n", encoding="utf-8")


def score(examples: int, seeds: Sequence[int]) -> int:
    """Print how many wrong rules of tests/mutants are found and how many right ones accused. 0 if nearly all and none."""
    tests = Path(__file__).resolve().parents[2] / "tests"
    if not (tests / "mutants").is_dir():
        raise Failure(f"the wrong rules are in tests/mutants of a clone of the project, and there is no {tests / 'mutants'}")
    sys.path.insert(0, str(tests))
    try:
        scored = import_module("mutants.score").score
    finally:
        sys.path.remove(str(tests))
    with Outcomes() as bar:
        found = scored(seeds=seeds, examples=examples, progress=bar)
    click.echo(found.table())
    return int(found.rate < ENOUGH or bool(found.false_alarms))


class Outcomes:
    """A bar on a terminal: how many rules have been judged, which one was last, and how many verdicts are not as they should be."""

    def __enter__(self) -> Outcomes:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.bar.start()
        self.task = self.bar.add_task("", total=None)
        return self

    def __call__(self, outcome: Any, total: int) -> None:
        self.bar.update(self.task, advance=1, total=total, description=outcome.name[:60])

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
