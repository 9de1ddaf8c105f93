"""`gnomon emulate`: a CUDA kernel run, checked and counted without a GPU."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from engine.cli.explain import imported
from engine.cli.problems import Failure, needs, told, unknown

if TYPE_CHECKING:
    from kernels.cuda.emulate import Report

DTYPES = {f"{kind}{bits}": f"{kind}{bits // 8}" for kind in "fiu" for bits in (8, 16, 32, 64) if (kind, bits) != ("f", 8)}
FILLS: dict[str, Callable[[np.random.Generator, tuple[int, ...], Any], Any]] = {
    "random": lambda rng, shape, t: rng.normal(size=shape) if t.kind == "f" else rng.integers(-8 if t.kind == "i" else 0, 9, shape),
    "zeros": lambda rng, shape, t: np.zeros(shape),
    "ones": lambda rng, shape, t: np.ones(shape),
    "range": lambda rng, shape, t: np.arange(np.prod(shape)).reshape(shape),
    "nan": lambda rng, shape, t: np.full(shape, np.nan if t.kind == "f" else 0),
    "empty": lambda rng, shape, t: np.full(shape, np.nan if t.kind == "f" else 0),
}
ARRAY = re.compile(r"([fiu]\d+):(\d+(?:x\d+)*)(?::(\w+))?$")
NUMBER = re.compile(r"([fiu]\d+)=(\S+)$")


@click.command("emulate", short_help="A CUDA kernel run, checked and counted without a GPU.")
@click.argument("kernel")
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT]...")
@click.option("--grid", default="1", show_default=True, metavar="X[,Y[,Z]]", help="Blocks.")
@click.option("--block", default="32", show_default=True, metavar="X[,Y[,Z]]", help="Threads of a block.")
@click.option("--shared", default=0, metavar="BYTES", help="Dynamic shared memory of a block.")
@click.option("--target", default="sm_80", show_default=True, metavar="sm_XY", help="The device that it is compiled for and held against.")
@click.option(
    "--check",
    "checks",
    multiple=True,
    metavar="NAME",
    help="Only this check, or these. By default all but `warp` and `grid`: races within a warp, and in global memory.",
)
@click.option("--no-check", is_flag=True, help="No checks but bounds and alignment.")
@click.option("--count", is_flag=True, help="Count instructions, sectors, wavefronts.")
@click.option("--lines", is_flag=True, help="The same, and by line of the PTX: requests, and sectors or wavefronts.")
@click.option("--expect", multiple=True, metavar="NAME=EXPRESSION", help='What an array should hold, in NumPy: --expect "c=a @ b".')
@click.option("--picture", metavar="FILE", type=click.Path(dir_okay=False), help="Draw which lane of the first warp touches which address.")
@click.option("--ptx", metavar="FILE", type=click.Path(dir_okay=False), help="Write the PTX to a file.")
@click.option("--seed", default=0, show_default=True, help="Of random arrays.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    kernel: str,
    arguments: Sequence[str],
    grid: str,
    block: str,
    shared: int,
    target: str,
    checks: Sequence[str],
    no_check: bool,
    count: bool,
    lines: bool,
    expect: Sequence[str],
    picture: str | None,
    ptx: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Run KERNEL on the emulator and say what it did, or which rule it broke, where, and by which threads.

    \b
    KERNEL is one of
      module:function, file.py:function   a kernel in Python, plain or under cuda.jit (needs numba-cuda)
      file.ptx, file.ptx:entry            PTX, as compilers write it

    \b
    An ARGUMENT is one of
      f32:64x64         an array of random numbers; f16 f32 f64, i8 to i64, u8 to u64
      f32:64x64:zeros   an array of random, zeros, ones, range, nan; or empty: not to be read before it is written
      u32=64            a number

    \b
    Examples
      gnomon emulate kernels.cuda.emulate.examples:doubled f32:1000 f32:1000:empty --grid 8 --block 128 --expect "y=2*x"
      gnomon emulate kernels.cuda.emulate.examples:without_guard f32:1000 f32:1000 --grid 8 --block 128
      gnomon emulate kernels.cuda.emulate.examples:without_barrier f32:64x64 f32:64x64 --grid 2,2 --block 32,32
      gnomon emulate kernels.cuda.emulate.examples:transposed f32:64x64 f32:64x64 --grid 2,2 --block 32,32 --count
      gnomon emulate kernels.cuda.emulate.examples:transposed f32:64x64 f32:64x64 --grid 2,2 --block 32,32 --picture lanes.png

    Nothing here is a time: every number is emulated.
    """
    with told():
        if picture is not None:
            needs("matplotlib")
        rng = np.random.default_rng(seed)
        values = [argument(word, rng) for word in arguments]
        text, entry, names = compiled(kernel, values, target, block)
        if ptx is not None:
            Path(ptx).write_text(text)
        before = [np.copy(v) for v in values]
        report = launched(
            text, entry, sizes(grid), sizes(block), values,
            shared=shared, target=target, checks=chosen(checks, no_check), counters=count or lines, touches=picture is not None,
            uninitialised=[i for i, word in enumerate(arguments) if word.endswith(":empty")], names=names,
        )  # fmt: skip
        if picture is not None:
            report.picture().savefig(picture, dpi=120)
    misses = [miss for e in expect for miss in compared(e, names, before, values)]
    if as_json:
        click.echo(json.dumps({**report.as_dict(), "unexpected": misses}, indent=2, default=float))
    else:
        click.echo(
            "\n".join(
                [str(report), *by_line(report, lines), *(f"{n}: {written(a, b)}" for n, a, b in zip(names, before, values, strict=False))]
            )
        )
        click.echo("".join(report.output), nl=False)
    if misses:
        raise Failure("\n  ".join(misses))


def argument(word: str, rng: np.random.Generator) -> Any:
    """An array or a number from the command line."""
    if m := ARRAY.match(word):
        dtype, shape, fill = np.dtype(known_type(m[1])), tuple(int(n) for n in m[2].split("x")), m[3] or "random"
        if fill not in FILLS:
            raise unknown("filling", fill, FILLS)
        return np.asarray(FILLS[fill](rng, shape, dtype)).astype(dtype)
    if m := NUMBER.match(word):
        try:
            return np.dtype(known_type(m[1])).type(float(m[2]) if m[1][0] == "f" else int(m[2], 0))
        except (ValueError, OverflowError):
            raise click.UsageError(f"{word}: {m[2]} is no {m[1]}") from None
    raise click.UsageError(f"{word!r} is no argument, such as f32:64x64, f32:64x64:zeros or u32=64")


def known_type(name: str) -> str:
    if name not in DTYPES:
        raise unknown("type", name, DTYPES)
    return DTYPES[name]


def sizes(text: str) -> tuple[int, ...]:
    """`4,4` as numbers."""
    if not re.fullmatch(r"\d+(,\d+){0,2}", text):
        raise click.UsageError(f"{text!r} is no size, such as 4 or 4,4 or 4,4,2")
    return tuple(int(n) for n in text.split(","))


def chosen(checks: Sequence[str], none: bool) -> bool | Sequence[str]:
    from kernels.cuda.emulate import CHECKS, ON_REQUEST

    for name in checks:
        if name not in (*CHECKS, *ON_REQUEST):
            raise unknown("check", name, (*CHECKS, *ON_REQUEST))
    return False if none else list(checks) or True


def compiled(kernel: str, values: Sequence[Any], target: str, block: str) -> tuple[str, str | None, tuple[str, ...]]:
    """The PTX, the entry and the names of the parameters."""
    path, _, entry = kernel.partition(".ptx")
    if path != kernel:
        return Path(path + ".ptx").read_text(), entry.lstrip(":") or None, tuple(f"a{i}" for i in range(len(values)))
    if not re.fullmatch(r"[\w./\\-]+:\w+", kernel):
        raise click.UsageError(f"{kernel!r} is no kernel, such as module:function, file.py:function or file.ptx")
    from kernels.cuda.emulate.python import kind_of
    from kernels.cuda.launch import ptx_of
    from kernels.registry import MissingKernel

    capability = re.fullmatch(r"sm_(\d+)(\d)([af]?)", target)
    if capability is None:
        raise click.UsageError(f"{target!r} is no target, such as sm_80 or sm_90a")
    cc = tuple(int(n) for n in capability.groups()[:2]) + ((capability[3],) if capability[3] else ())
    try:
        function = imported(kernel)
        function = getattr(function, "py_func", function)
        names = tuple(inspect.signature(function).parameters)
        if len(names) != len(values):
            raise click.UsageError(f"{kernel} takes {len(names)} arguments, {', '.join(names)}; given {len(values)}")
        return (*ptx_of(function, [kind_of(v) for v in values], cc, (int(np.prod(sizes(block))),)), names)
    except MissingKernel as e:
        raise Failure(str(e)) from e


def launched(*launch: Any, **options: Any) -> Report:
    """A run, whose faults are told without a traceback."""
    from kernels.cuda.emulate import Fault, PtxError, Unsupported, run

    try:
        return run(*launch, **options)
    except (Fault, PtxError, Unsupported) as e:
        raise Failure(str(e)) from e
    except TypeError as e:
        raise click.UsageError(str(e)) from e


def written(before: Any, after: Any) -> str:
    """What became of an argument."""
    if not isinstance(after, np.ndarray):
        return str(after)
    changed = int(np.sum(before.view(f"u{before.itemsize}") != after.view(f"u{after.itemsize}"))) if after.size else 0
    some = ", ".join(f"{v:.6g}" for v in after.reshape(-1)[:4])
    return f"{changed} of {after.size} changed; {some}{', ...' if after.size > 4 else ''}"


def by_line(report: Report, wanted: bool) -> list[str]:
    """Requests by line of the PTX."""
    if not wanted or report.counts is None:
        return []
    head = f"{'PTX':>6}{'source':>8}{'requests':>10}{'cost':>10}  sectors of global memory, wavefronts of shared memory"
    return [
        head,
        *(
            f"{c['line']:>6}{c['source'][1] if c['source'] else '':>8}{c['requests']:>10}{c['cost']:>10}  {c['text'][:90]}"
            for c in report.counts.by_line
        ),
    ]


def compared(expected: str, names: Sequence[str], before: Sequence[Any], after: Sequence[Any]) -> list[str]:
    """What is wrong with an array that should hold an expression of what the arguments were."""
    name, sign, expression = (part.strip() for part in expected.partition("="))
    if not sign or name not in names:
        raise click.UsageError(f"{expected!r} is not NAME=EXPRESSION with a name of {', '.join(names)}")
    got = after[list(names).index(name)]
    there = {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in zip(names, before, strict=False)}
    try:
        wanted = np.broadcast_to(np.asarray(eval(expression, {"np": np, **there})), got.shape)
    except Exception as e:  # whatever it is, it is about what the user wrote
        raise click.UsageError(f"{expected}: {type(e).__name__}: {e}") from e
    scale = float(np.max(np.abs(wanted), initial=0.0))
    error = float(np.max(np.abs(got.astype(np.float64) - wanted), initial=0.0))
    allowed = scale * (1e-5 if got.dtype.itemsize == 4 else 1e-2 if got.dtype.itemsize < 4 else 1e-12) if got.dtype.kind == "f" else 0.0
    return [] if error <= allowed else [f"{name} is not {expression}: they differ by {error:.3g}, where {allowed:.3g} is allowed"]
