"""A counterexample as a program that shows it with nothing but the framework."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.op_table import Entry
from engine.testing.report import Counterexample
from engine.testing.subject import outputs

PREAMBLE = {
    "torch": ["import torch", "from torch.nn import functional as F", "torch.set_printoptions(precision=12)"],
    "jax": ["import jax, jax.numpy as jnp", 'jax.config.update("jax_enable_x64", True)'],
}
HOMES = {"torch": "torch", "F": "torch.nn.functional", "jnp": "jax.numpy", "lax": "jax.lax", "nn": "jax.nn", "jsp": "jax.scipy.special",
         "sla": "jax.scipy.linalg", "np": "numpy", "partial": "functools"}  # fmt: skip


@cache
def sources(module: ModuleType) -> dict[str, str]:
    """The text of each function in the tables of a module, by its key."""
    text = inspect.getsource(module)
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    first = value.elts[0] if isinstance(value, ast.Tuple) and value.elts else value
                    found[key.value] = " ".join((ast.get_source_segment(text, first) or "").split())
    return found


@cache
def helpers(module: ModuleType) -> dict[str, str]:
    """The text of each function that stands in the module itself."""
    text = inspect.getsource(module)
    nodes = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
    return {n.name: (ast.get_source_segment(text, n) or "").replace(": Any", "").replace(" -> Any", "") for n in nodes}


def named(f: Any, module: ModuleType) -> str:
    """Where one finds the function: `jnp.tanh`."""
    for alias in HOMES:
        home = getattr(module, alias, None)
        for place, prefix in (
            (home, alias),
            (getattr(home, "special", None), f"{alias}.special"),
            (getattr(home, "linalg", None), f"{alias}.linalg"),
        ):
            name = next(
                (n for n in (getattr(f, "__name__", ""), getattr(f, "__name__", "").partition("_")[2]) if n and _is(place, n, f)), ""
            )
            if name:
                return f"{prefix}.{name}"
    return ""


def _is(home: Any, name: str, f: Any) -> bool:
    return home is not None and getattr(home, name, None) is f


def written(entry: Entry, module: ModuleType) -> list[str]:
    """The function as one would write it, with what it needs."""
    text = sources(module).get(entry.name, "")
    name = named(entry.f, module)
    if name or not text:
        text = name or getattr(entry.f, "__name__", repr(entry.f))
    return [*[h for n, h in helpers(module).items() if f"{n}(" in text], f"f = {text}"]


def _imports(body: str, framework: str) -> list[str]:
    known = {"lax": "from jax import lax", "nn": "from jax import nn", "jsp": "from jax.scipy import special as jsp",
             "sla": "from jax.scipy import linalg as sla", "partial": "from functools import partial"}  # fmt: skip
    lines = [text for alias, text in known.items() if f"{alias}." in body or (alias == "partial" and "partial(" in body)]
    first = [p for p in PREAMBLE[framework] if " as F" not in p or "F." in body]
    return [*first, *[x for x in lines if framework == "jax" or "jax" not in x]]


def program(c: Counterexample, entry: Entry, module: ModuleType, framework: str) -> str:
    """The counterexample in the framework's own words."""
    mode = "forward" if c.finding.check == "jvp" else "reverse"
    return program_of(c.args, c.kwargs, c.cotangent, entry, module, framework, mode)


def program_of(
    args: Sequence[Any], kwargs: Any, cotangent: Any, entry: Entry, module: ModuleType, framework: str, mode: str = "reverse"
) -> str:
    """A call and its derivative. A cotangent of None is one of ones; `forward` shows the tangents too."""
    made = [array(x, framework) for x in args]
    floats = [i for i, x in enumerate(args) if np.asarray(x).dtype.kind == "f"]
    names = [f"x{i + 1}" for i in range(len(made))]
    options = "".join(f", {k}={v!r}" for k, v in kwargs.items())
    lines = [*written(entry, module), *(f"{n} = {m}" for n, m in zip(names, made, strict=True))]
    inner, outer = ", ".join(names) + options, ", ".join(names[i] for i in floats)
    lines += _torch(inner, outer, cotangent, mode) if framework == "torch" else _jax(inner, outer, cotangent, mode)
    return "\n".join([*_imports("\n".join(lines), framework), *lines])


def _torch(inner: str, outer: str, cotangent: Any, mode: str) -> list[str]:
    several = isinstance(cotangent, tuple)
    gs = "[torch.ones_like(y)]" if cotangent is None else f"[{', '.join(array(g, 'torch') for g in outputs(cotangent))}]"
    ys = "list(y)" if several else "[y]"
    if mode == "forward":
        ones = ", ".join(f"torch.ones_like({n})" for n in outer.split(", "))
        return [f"print(torch.func.jvp(lambda {outer}: f({inner}), ({outer},), ({ones},))[1])", *_torch(inner, outer, cotangent, "reverse")]
    return [
        f"for x in ({outer},): x.requires_grad_()",
        f"y = f({inner})",
        f"print(torch.autograd.grad({ys}, [{outer}], {gs}, allow_unused=True))",
    ]


def _jax(inner: str, outer: str, cotangent: Any, mode: str) -> list[str]:
    if mode == "forward":
        ones = ", ".join(f"jnp.ones_like({n})" for n in outer.split(", "))
        return [f"print(jax.jvp(lambda {outer}: f({inner}), ({outer},), ({ones},))[1])", *_jax(inner, outer, cotangent, "reverse")]
    gs = [array(g, "jax") for g in outputs(cotangent)] if cotangent is not None else ["jnp.ones_like(y)"]
    g = f"({', '.join(gs)},)" if isinstance(cotangent, tuple) else gs[0]
    return [f"y, pull = jax.vjp(lambda {outer}: f({inner}), {outer})", f"print(pull({g}))"]


def array(x: Any, framework: str) -> str:
    """An array in the framework's words; how it lies in memory is said in a comment."""
    x = np.asarray(x)
    name = "torch." if framework == "torch" else "jnp."
    maker, kind = ("torch.tensor", f"torch.{x.dtype}") if framework == "torch" else ("jnp.array", f"'{x.dtype}'")
    if x.size == 0:
        return f"{name}zeros({x.shape}, dtype={kind})"
    numbers = repr(x.tolist()).replace("nan", "float('nan')").replace("inf", "float('inf')")
    plain = x.flags.c_contiguous or x.size < 2
    return f"{maker}({numbers}, dtype={kind})" + ("" if plain else f"  # strides {x.strides}")
