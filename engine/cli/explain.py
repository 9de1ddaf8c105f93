"""`gnomon explain`: a computation read aloud, or the rules of an op."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from engine.cli.problems import Failure, told, unknown

if TYPE_CHECKING:
    from engine.explain import Explanation

CONSTANTS = {"pi": math.pi, "e": math.e}


@click.command("explain", short_help="A computation step by step, forward and backward; the rules of an op.")
@click.argument("what")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--at", multiple=True, metavar="NAME=VALUE", help="The same as NAME=VALUE at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: str, values: Sequence[str], at: Sequence[str], as_json: bool) -> None:
    """Explain WHAT with real numbers.

    \b
    WHAT is one of
      an expression     of numbers, names and the ops of this engine, or np.something
      module:function   a function of your own; or file.py:function
      op:NAME           the formula, the shapes and the rules of one op; op: alone lists the ops

    A VALUE is a number or a list: w=2, "x=[1, 2, 3]". The backward pass is told if the result is a single number.

    \b
    Examples
      gnomon explain "tanh(x * w + b)" x=1.5 w=2 b=-1
      gnomon explain "sum(square(a @ x - b))" "a=[[1,2],[3,4]]" "x=[1,-1]" "b=[0,1]"
      gnomon explain model.py:loss --at w=0.5 --at "x=[1,2]"
      gnomon explain op:logsumexp
    """
    with told():
        if what.startswith("op:"):
            click.echo(about_op(what.removeprefix("op:")))
            return
        given = dict(parsed(v) for v in (*values, *at))
        f = imported(what) if is_path(what) else compiled(what, given)
        explanation = run(f, given)
    click.echo(json.dumps(as_dict(explanation), indent=2) if as_json else str(explanation))


def about_op(name: str) -> str:
    """The rules of an op; all the ops for an empty name."""
    from engine.explain import plain, rules
    from engine.traced import OPS

    if not name:
        return "\n".join(f"{n:<22} {plain(op.formula)}" for n, op in sorted(OPS.items()))
    if name not in OPS:
        raise unknown("op", name, sorted(OPS), "`gnomon explain op:` lists them")
    return rules(name)


def parsed(text: str) -> tuple[str, Any]:
    """`x=1.5` or `x=[1, 2]` as a name and floating-point numbers."""
    name, sign, value = (part.strip() for part in text.partition("="))
    if not sign or not name.isidentifier():
        raise click.UsageError(f"{text!r} is not NAME=VALUE, such as w=2 or x=[1,2,3]")
    try:
        numbers = np.asarray(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        numbers = np.asarray(None)
    if numbers.dtype.kind not in "biuf":
        raise click.UsageError(f"{name}={value}: the value is not a number or a list of numbers in rows of equal length")
    return name, numbers.astype(np.float64)[()]


def is_path(what: str) -> bool:
    """Is it module:function or file.py:function, and not an expression?"""
    module, colon, name = what.rpartition(":")
    return bool(colon) and name.isidentifier() and (module.endswith(".py") or all(part.isidentifier() for part in module.split(".")))


def imported(what: str) -> Callable[..., Any]:
    """The function that `module:function` or `file.py:function` names."""
    where, _, name = what.rpartition(":")
    module = from_file(Path(where)) if where.endswith(".py") else from_path(where)
    f = getattr(module, name, None)
    if not callable(f):
        raise unknown(f"function in {where}", name, [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")])
    return f  # type: ignore[no-any-return]


def from_file(path: Path) -> Any:
    """The module in a file, wherever it lies."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise Failure(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def from_path(name: str) -> Any:
    """The module of that name, from this folder or from the Python path."""
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{name}.".startswith(f"{e.name}."):
            raise
        raise Failure(f"there is no module {name} here or on the Python path; a file is named with its .py") from None
    finally:
        sys.path.remove("")


def compiled(expression: str, given: dict[str, Any]) -> Callable[..., Any]:
    """An expression as a function of those names in it that are neither ops nor constants."""
    from engine.traced import OPS

    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as e:
        pointer = " " * max((e.offset or 1) - 1, 0) + "^"
        raise click.UsageError(f"this is not an expression: {e.msg}\n  {expression.strip()}\n  {pointer}") from None
    there: dict[str, Any] = {"np": np, **OPS, **{k: v for k, v in CONSTANTS.items() if k not in given}, "__builtins__": {}}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in there:
            raise unknown("op", node.func.id, sorted(OPS), "`gnomon explain op:` lists them")
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            raise click.UsageError(f".{node.attr}: a name with a leading underscore has no place in an expression")
    used = sorted((n for n in ast.walk(tree) if isinstance(n, ast.Name)), key=lambda n: (n.lineno, n.col_offset))
    names = dict.fromkeys(n.id for n in used if n.id not in there)
    return eval(f"lambda {', '.join(names)}: ({expression.strip()})", there)  # type: ignore[no-any-return]


def run(f: Callable[..., Any], given: dict[str, Any]) -> Explanation:
    """Explain `f` at the numbers given by name."""
    from engine.explain import explain

    parameters = [p for p in inspect.signature(f).parameters.values() if p.kind is not p.VAR_KEYWORD]
    names = [p.name for p in parameters]
    missing = [p.name for p in parameters if p.name not in given and p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    if missing:
        raise click.UsageError(f"no value for {', '.join(missing)}: add {' '.join(f'{n}=...' for n in missing)}")
    extra = [n for n in given if n not in names]
    if extra:
        raise click.UsageError(f"{', '.join(extra)}: there is no such name here, only {', '.join(names) or 'none'}")
    order = [n for n in names if n in given]

    def of_given(*values: Any) -> Any:
        return f(**dict(zip(order, values, strict=True)))

    of_given.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in order])  # type: ignore[attr-defined]
    try:
        return explain(of_given)(*[given[n] for n in order])
    except Exception as e:  # whatever it is, it is about what the user asked to compute
        raise Failure(f"{type(e).__name__}: {e}") from e


def as_dict(explanation: Explanation) -> dict[str, Any]:
    """An explanation as JSON knows it."""
    from engine.explain import plain

    e = explanation
    forward = [{"call": str(c), "op": c.op.name, "formula": plain(c.op.formula), "value": listed(c.value)} for c in e.forward]
    backward = [
        {"call": s.call, "g": listed(s.g), "shares": [{"to": h.to, "rule": plain(h.formula), "share": listed(h.sent)} for h in s.shares]}
        for s in e.backward
    ]
    inputs, gradients = ({name: listed(x) for name, x in named.items()} for named in (e.inputs, e.gradients))
    return {"inputs": inputs, "forward": forward, "value": listed(e.value), "backward": backward, "gradients": gradients}


def listed(value: Any) -> Any:
    """An array, or a tuple of arrays, as nested lists."""
    return [listed(v) for v in value] if isinstance(value, tuple) else np.asarray(value).tolist()
