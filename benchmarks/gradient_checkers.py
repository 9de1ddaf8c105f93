"""The catalogue of wrong rules through the gradient checkers that there are: `python -m benchmarks gradient-checkers`.

Every checker gets each first-order reverse rule of tests/mutants, the wrong one and the right one beside it, wrapped as a function of
its framework. The others do not choose inputs, so they are asked twice:

    typical   two calls as one writes them in a test: random numbers, a shape or two, contiguous, nothing equal
    trigger   the one call at which the fault is known to show; no user knows it beforehand

A wrong rule counts as killed if it is rejected and the right rule is not. A right rule that is rejected is a false alarm.
Gnomon is told the shapes and the domain that the catalogue tells it, and no inputs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from engine.domain import Pick

ROOT = Path(__file__).resolve().parent.parent
Rule = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """A function of its floating-point arguments alone, with one output, and its rule, at one point."""

    f: Rule
    vjp: Rule
    xs: tuple[np.ndarray, ...]


def call(f: Rule, vjp: Rule, args: Sequence[Any], kwargs: dict[str, Any]) -> Call:
    """Options and integers are bound; several outputs are laid end to end."""
    args = [np.asarray(a) for a in args]
    floats = [i for i, a in enumerate(args) if a.dtype.kind == "f"]

    def whole(xs: Sequence[Any]) -> list[Any]:
        given = list(args)
        for i, x in zip(floats, xs, strict=True):
            given[i] = x
        return given

    def of_floats(*xs: Any) -> Any:
        y = f(*whole(xs), **kwargs)
        return joined(y) if isinstance(y, (tuple, list)) else np.asarray(y)

    def pull(g: Any, *xs: Any) -> tuple[Any, ...]:
        given = whole(xs)
        y = f(*given, **kwargs)
        found = vjp(parted(g, y) if isinstance(y, (tuple, list)) else g, tuple(given), y, **kwargs)
        found = found if isinstance(found, (tuple, list)) else (found,)
        return tuple(found) if len(found) == len(floats) else tuple(found[i] for i in floats)

    return Call(of_floats, pull, tuple(args[i] for i in floats))


def joined(ys: Iterable[Any]) -> np.ndarray:
    floats = [np.asarray(y).ravel() for y in ys if np.asarray(y).dtype.kind == "f"]
    return np.concatenate(floats) if floats else np.zeros(0)


def parted(g: np.ndarray, ys: Sequence[Any]) -> tuple[Any, ...]:
    parts, start = [], 0
    for y in ys:
        y = np.asarray(y)
        stop = start + (y.size if y.dtype.kind == "f" else 0)
        parts.append(g[start:stop].reshape(y.shape) if y.dtype.kind == "f" else np.zeros(y.shape, y.dtype))
        start = stop
    return tuple(parts)


# The checkers. Each returns whether it accepts; what it raises is a rejection.


def gradcheck(c: Call, fast: bool = False) -> bool:
    """PyTorch's; the rule as a torch.autograd.Function."""
    import torch

    from engine.testing.adapters import adapter

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: Any) -> Any:
            ctx.save_for_backward(*xs)
            return torch.from_numpy(np.array(c.f(*[x.detach().numpy() for x in xs])))

        @staticmethod
        def backward(ctx: Any, *gs: Any) -> Any:
            found = c.vjp(gs[0].numpy(), *[x.detach().numpy() for x in ctx.saved_tensors])
            return tuple(None if g is None else torch.from_numpy(np.array(g)) for g in found)

    xs = tuple(adapter("torch").wrap(x).requires_grad_() for x in c.xs)
    return bool(torch.autograd.gradcheck(Function.apply, xs, fast_mode=fast))


def gradcheck_fast(c: Call) -> bool:
    return gradcheck(c, fast=True)


def jax_check_grads(c: Call) -> bool:
    """JAX's; the rule as a jax.custom_vjp around callbacks, in float64."""
    import jax
    from jax.test_util import check_grads

    def shaped(x: Any) -> Any:
        return jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype)

    @jax.custom_vjp
    def f(*xs: Any) -> Any:
        return jax.pure_callback(lambda *a: np.array(c.f(*map(np.asarray, a))), shaped(c.f(*c.xs)), *xs)

    def pull(xs: Any, g: Any) -> Any:
        def called(g: Any, *a: Any) -> tuple[Any, ...]:
            found = c.vjp(np.asarray(g), *map(np.asarray, a))
            return tuple(np.zeros_like(x) if v is None else np.array(v) for v, x in zip(found, a, strict=True))

        return jax.pure_callback(called, tuple(map(shaped, xs)), g, *xs)

    f.defvjp(lambda *xs: (f(*xs), xs), pull)
    try:
        with jax.enable_x64(True):
            check_grads(f, c.xs, order=1, modes=["rev"])
    finally:
        jax.clear_caches()  # it keeps all that it has compiled, and each rule is another program
    return True


def hips_check_grads(c: Call) -> bool:
    """HIPS autograd's; the rule by defvjp. Its random numbers are NumPy's global ones: they are seeded here."""
    from autograd.extend import defvjp, primitive
    from autograd.test_util import check_grads

    f = primitive(c.f)
    places = range(len(c.xs))
    defvjp(f, *[lambda y, *xs, i=i: lambda g: c.vjp(g, *xs)[i] for i in places], argnums=places)
    np.random.seed(0)
    check_grads(f, tuple(places), modes=["rev"], order=1)(*c.xs)  # without places: the first argument alone
    return True


CHECKERS: dict[str, tuple[str, Callable[[Call], bool]]] = {
    "torch.autograd.gradcheck": ("torch", gradcheck),
    "torch.autograd.gradcheck, fast": ("torch", gradcheck_fast),
    "jax.test_util.check_grads": ("jax", jax_check_grads),
    "autograd.test_util.check_grads": ("autograd", hips_check_grads),
}


def accepts(check: Callable[[Call], bool], calls: Iterable[Call]) -> bool:
    """Does the checker accept the rule at all of these calls?"""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return all(check(c) for c in calls)
        except Exception:  # each checker has its own way to say no
            return False


# The catalogue.


def catalogue() -> list[Any]:
    """The wrong reverse rules of first order that need no special settings."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        mutants = import_module("mutants").CATALOGUE.values()
    except ModuleNotFoundError as e:
        raise SystemExit(f"the catalogue is tests/mutants of a clone of the project: {e}") from None
    return [m for m in mutants if m.part == "vjp" and m.order == 1 and not m.beyond]


def typical(right: Any, count: int = 2) -> Iterator[tuple[Any, Any]]:
    """Calls as one writes them in a test, none of them empty."""
    found = (right.sample(Pick(np.random.default_rng(seed))) for seed in range(200))
    whole = ((args, kwargs) for args, kwargs in found if all(np.size(a) for a in args))
    for _, one in zip(range(count), whole, strict=False):
        yield one


def calls_of(mutant: Any, feed: str, rule: Rule) -> list[Call]:
    points = typical(mutant.right) if feed == "typical" else [(mutant.at.args, mutant.at.kwargs)]
    return [call(mutant.right.f, rule, args, kwargs) for args, kwargs in points]


@dataclass(frozen=True)
class Row:
    """How one checker did. `rights` is how many right rules it was asked about."""

    checker: str
    version: str
    feed: str
    killed: int
    mutants: int
    false_alarms: int
    rights: int
    seconds: float  # of processor time, for each rule


def rated(name: str, feed: str, mutants: Sequence[Any]) -> Row:
    package, check = CHECKERS[name]
    began, alarms, killed = time.process_time(), set(), 0
    for m in mutants:
        accused = not accepts(check, calls_of(m, feed, m.right.back))
        alarms |= {m.right.name} if accused else set()
        killed += not accused and not accepts(check, calls_of(m, feed, m.wrong))
    each = (time.process_time() - began) / (2 * len(mutants))
    return Row(
        name, f"{package} {metadata.version(package)}", feed, killed, len(mutants), len(alarms), len({m.right.name for m in mutants}), each
    )


def ours(mutants: Sequence[Any], examples: int, seed: int) -> Row:
    from mutants.score import score  # found by `catalogue`

    rights = {m.right.name: m.right for m in mutants}.values()
    began = time.process_time()
    found = score(seeds=[seed], catalogue=mutants, rights=rights, examples=examples)
    each = (time.process_time() - began) / (len(mutants) + len(rights))
    killed, alarms = len(found.killed(found.mutants)), len({r.name for r in found.false_alarms})
    return Row("gnomon check", f"gnomon, {examples} examples", "its own", killed, len(mutants), alarms, len(rights), each)


HEAD = "| checker | version | inputs | killed | false alarms | seconds a rule |\n|---|---|---|---|---|---|"


def written(row: Row) -> str:
    counts = f"{row.killed} of {row.mutants} | {row.false_alarms} of {row.rights}"
    return f"| {row.checker} | {row.version} | {row.feed} | {counts} | {row.seconds:.3f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gradient-checkers", description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=200, help="calls that Gnomon draws for each rule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, help="only so many wrong rules, to try it out")
    parser.add_argument("--without", nargs="*", default=[], metavar="CHECKER", help="packages to leave out: torch jax autograd gnomon")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--update", action="store_true", help="write the table to benchmarks/README.md")
    options = parser.parse_args(arguments)
    mutants = catalogue()[: options.first]
    print(HEAD, flush=True)
    rows: list[Row] = []
    for row in all_rows(mutants, options):
        print(written(row), flush=True)
        rows.append(row)
    for package in dict.fromkeys(package for package, _ in CHECKERS.values() if not find_spec(package)):
        print(f"\nnot run: {package} is not installed (pip install 'gnomon[baselines]')")
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    if options.update:
        update(ROOT / "benchmarks" / "README.md", rows)
    return 0


def update(page: Path, rows: Sequence[Row]) -> None:
    """Writes the table between its markers."""
    begin, end = "<!-- gradient-checkers: begin -->", "<!-- gradient-checkers: end -->"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    lines = "\n".join([HEAD, *map(written, rows)])
    page.write_text(f"{before}{begin}\n{lines}\n{end}{after}")


def all_rows(mutants: Sequence[Any], options: argparse.Namespace) -> Iterator[Row]:
    for name, (package, _) in CHECKERS.items():
        if find_spec(package) and package not in options.without:
            yield from (rated(name, feed, mutants) for feed in ("typical", "trigger"))
    if "gnomon" not in options.without:
        yield ours(mutants, options.examples, options.seed)


if __name__ == "__main__":
    sys.exit(main())
