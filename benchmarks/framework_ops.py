"""PyTorch's and JAX's own gradients, judged: `python -m benchmarks.framework_ops torch|jax [NAME ...]`.

Each function of benchmarks/torch_ops.py or benchmarks/jax_ops.py goes through `check_gradient`. What it finds is printed as a table,
with a program for each finding that shows it with nothing but the framework. A number is called wrong only after a reference in high
precision has said so.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.metadata
import inspect
import json
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.op_table import Entry
from engine.testing import FAIL, check_gradient
from engine.testing.report import Counterexample, Report
from engine.testing.subject import outputs

FRAMEWORKS = {"torch": ("torch", "numpy"), "jax": ("jax", "jaxlib", "numpy")}
Found = dict[str, Any]


class TookTooLong(BaseException):
    """Not an Exception, so that nobody on the way takes it for a failure of the function."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.framework_ops", description=__doc__.splitlines()[0])
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these functions")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--second", action="store_true", help="the gradient of the gradient too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="for one function")
    parser.add_argument("--json", metavar="FILE", help="write what is found there after each function; what is there already is kept")
    options = parser.parse_args(arguments)
    module = importlib.import_module(f"benchmarks.{options.framework}_ops")
    known = load(options.json)
    chosen = [e for e in module.table.entries if not options.names or e.name in options.names]
    for entry in chosen:
        if entry.name not in known:
            known[entry.name] = found = judged(entry, module, options)
            print(line(found), file=sys.stderr, flush=True)
            save(known, options.json)
    print(report([known[e.name] for e in chosen], options.framework))
    return 0


def load(file: str | None) -> dict[str, Found]:
    """What an earlier run found, by name."""
    if not file or not Path(file).exists():
        return {}
    return {found["name"]: found for found in json.loads(Path(file).read_text())}


def save(known: dict[str, Found], file: str | None) -> None:
    if file:
        Path(file).write_text(json.dumps(list(known.values()), indent=1) + "\n")


def judged(entry: Entry, module: ModuleType, options: argparse.Namespace) -> Found:
    """The verdict on one function."""
    began = time.perf_counter()
    found: Found = {"name": entry.name, "group": entry.group}
    try:
        with warnings.catch_warnings(), within(options.limit):
            warnings.simplefilter("ignore")
            told = check_gradient(
                entry.f, framework=options.framework, signature=entry.signature, reference=entry.reference, examples=options.examples,
                seed=options.seed, orders=(1, 2) if options.second else (1,), **entry.options,
            )  # fmt: skip
    except (Exception, TookTooLong) as e:  # one function that cannot be tried does not end the run
        return {**found, "verdict": "NOT RUN", "text": f"{type(e).__name__}: {e}", "seconds": time.perf_counter() - began}
    return {**found, **facts(told), **example(told, entry, module, options.framework)}


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TookTooLong inside the block when the time is over."""

    def over(*_: Any) -> None:
        raise TookTooLong(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def facts(told: Report) -> Found:
    return {"verdict": told.verdict, "counts": told.counts, "reasons": told.reasons, "seconds": told.seconds, "tails": tails(told)}


def tails(told: Report) -> Found | None:
    """The largest loss of accuracy that was not counted as wrong."""
    if not told.tails:
        return None
    off = max(told.tails, key=lambda t: abs(t.claimed - t.reference) / abs(t.reference) if t.reference else 0.0)
    return {"claimed": off.claimed, "reference": off.reference, "text": off.text, "count": told.counts.get("tails", 0)}


def example(told: Report, entry: Entry, module: ModuleType, framework: str) -> Found:
    """What the counterexample says, and a program that shows it."""
    c = told.counterexample
    if c is None:
        return {}
    f = c.finding
    return {
        "check": f.check, "order": c.order, "text": f.text, "claimed": f.claimed, "reference": f.reference, "bound": f.bound,
        "oracle": f.oracle, "diagnosis": told.diagnosis, "program": program(c, entry, module, framework), "element": c.element,
    }  # fmt: skip


# A program that shows it without this package.


@cache
def sources(module: ModuleType) -> dict[str, str]:
    """The text of each function in the tables of a module, by its key."""
    text = inspect.getsource(module)
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    first = value.elts[0] if isinstance(value, ast.Tuple) else value
                    found[key.value] = ast.get_source_segment(text, first) or ""
    return found


def written(entry: Entry, module: ModuleType, framework: str) -> str:
    """The function as one would write it."""
    name = getattr(entry.f, "__name__", "")
    if entry.name in sources(module):
        return sources(module)[entry.name]
    if framework == "torch":
        return f"torch.{name.replace('special_', 'special.')}"
    homes = {"jnp": module.jnp, "jax.scipy.special": module.jsp, "jax.nn": module.nn, "jax.lax": module.lax}
    return next((f"{home}.{name}" for home, m in homes.items() if getattr(m, name, None) is entry.f), name)


PREAMBLE = {
    "torch": ["import torch", "from torch.nn import functional as F"],
    "jax": ["import jax, jax.numpy as jnp", 'jax.config.update("jax_enable_x64", True)'],
}


def program(c: Counterexample, entry: Entry, module: ModuleType, framework: str) -> str:
    """The counterexample in the framework's own words."""
    made = [array(x, framework) for x in c.args]
    floats = [i for i, x in enumerate(c.args) if np.asarray(x).dtype.kind == "f"]
    if framework == "torch":
        made = [m + ".requires_grad_()" if i in floats else m for i, m in enumerate(made)]
    names = [f"x{i + 1}" for i in range(len(made))]
    options = "".join(f", {k}={v!r}" for k, v in c.kwargs.items())
    gs = [array(g, framework) for g in outputs(c.cotangent)]
    cotangent = gs[0] if not isinstance(c.cotangent, tuple) else f"({', '.join(gs)},)"
    lines = [*PREAMBLE[framework], f"f = {written(entry, module, framework)}"]
    lines += [f"{n} = {m}" for n, m in zip(names, made, strict=True)]
    inner, outer = ", ".join(names), "".join(names[i] + ", " for i in floats)
    if framework == "torch":
        lines += [f"y = f({inner}{options})", f"print(torch.autograd.grad(y, ({outer}), {cotangent}))"]
    else:
        lines += [f"y, pull = jax.vjp(lambda {outer.rstrip(', ')}: f({inner}{options}), {outer.rstrip(', ')})", f"print(pull({cotangent}))"]
    return "\n".join(lines)


def array(x: Any, framework: str) -> str:
    """An array in the framework's words; how it lies in memory is said in a comment."""
    x = np.asarray(x)
    numbers = np.array2string(x, separator=", ", threshold=10**6, floatmode="unique").replace("\n", "").replace("nan", "float('nan')")
    maker, kind = ("torch.tensor", f"torch.{x.dtype}") if framework == "torch" else ("jnp.array", f"'{x.dtype}'")
    shaped = f".reshape({x.shape})" if x.size == 0 else ""
    plain = x.flags.c_contiguous or x.size < 2
    return f"{maker}({numbers}, dtype={kind}){shaped}" + ("" if plain else f"  # strides {x.strides}")


# The table.


def line(found: Found) -> str:
    return f"{found['verdict']:<13} {found['name']:<32} {found['seconds']:6.1f} s  {what(found)}"


def what(found: Found) -> str:
    """What is wrong, in a few words."""
    if found["verdict"] != FAIL:
        return found.get("text", "") or "; ".join(found.get("reasons", {})) * (found["verdict"] != "PASS")
    order = " (second order)" if found["order"] == 2 else ""
    numbers = f": {found['claimed']:.6g} for {found['reference']:.6g}, by {found['oracle']}" if np.isfinite(found["reference"]) else ""
    return f"{found['check']}{order}{numbers or ': ' + found['text']}"


def report(all_found: Iterable[Found], framework: str) -> str:
    """The findings as Markdown."""
    found = list(all_found)
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in FRAMEWORKS[framework])
    verdicts = Counter(f["verdict"] for f in found)
    head = f"{versions}: {len(found)} functions, " + ", ".join(f"{n} {v}" for v, n in verdicts.items())
    rows = [f"| `{f['name']}` | {f['verdict']} | {what(f)} | {f.get('diagnosis', '')} |" for f in found if f["verdict"] != "PASS"]
    programs = [f"`{f['name']}`\n\n```python\n{f['program']}\n```" for f in found if f.get("program")]
    return "\n".join([head, "", "| function | verdict | what | looks like |", "|---|---|---|---|", *rows, "", *programs])


if __name__ == "__main__":
    sys.exit(main())
