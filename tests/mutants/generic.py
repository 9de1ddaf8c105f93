"""Operators that break any rule of the engine's registry: what comes out of it, or one of the op calls inside.

    broken(op)   the mutants of every rule of `op`. Those that no sampled call tells from the rule are left out as equivalent,
                 those that raise at every sampled call as stillborn

A rule is written in ops. It runs here with an interpreter in force that tampers with one of its calls: a term dropped, operands
swapped, a sum made a mean, another axis, a scatter that assigns where it should add.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from strategies import arguments

from engine import ops
from engine.domain import Pick
from engine.forward import as_value
from engine.interpret import Interpreter, interpreting, running
from engine.op import Op, as_array
from engine.reverse import vjp
from engine.testing.exact import EXACTLY, bare, seen
from engine.testing.ops import contract_of
from engine.traced import OPS, Traced
from mutants.record import Call, Mutant, Right
from mutants.truth import compare

SAMPLES = 16
Tampering = Callable[[Op, list[Any], dict[str, Any], Any], Any]


class Tamper(Interpreter):
    """Compute, but for the call number `target`, whose result `change` makes."""

    def __init__(self, below: Interpreter, target: int = -1, change: Tampering | None = None):
        self.below, self.target, self.change = below, target, change
        self.calls: list[str] = []

    def apply(self, op: Op, args: Any, params: dict[str, Any]) -> Any:
        values = [a.value if type(a) is Traced and a.owner is self else a for a in args]
        y = self.below.apply(op, values, params)
        if len(self.calls) == self.target and self.change:
            with interpreting(self.below):
                y = self.change(op, values, params, y)
        self.calls.append(op.name)
        return tuple(self.watch(p) for p in y) if type(y) is tuple else self.watch(y)

    def watch(self, v: Any) -> Any:
        return Traced(self, as_value(v)) if np.asarray(v).dtype.kind == "f" else v


def unwrapped(tamper: Tamper, v: Any) -> Any:
    if type(v) is tuple:
        return tuple(unwrapped(tamper, p) for p in v)
    return v.value if type(v) is Traced and v.owner is tamper else v


def differentiable(op: Op, args: Any) -> list[int]:
    return [i for i, a in enumerate(args) if op.argument(i) not in op.constant and as_array(a).dtype.kind == "f"]


def by_rules(op: Op, args: Any, params: dict[str, Any], y: Any, g: Any, tamper: Callable[[str], Tamper]) -> tuple[Any, ...]:
    """The gradient of each floating-point argument, rule by rule, each run under the interpreter that `tamper` gives for it."""
    out = []
    answers: dict[str, Any] = {}
    for i in differentiable(op, args):
        name = op.argument(i)
        if name not in answers:
            answers[name] = _answer(op, name, args, params, y, g, tamper(name))
        answer = answers[name]
        rule = op.vjps[name]
        part = answer[i if op.variadic else rule.args.index(name)] if type(answer) is tuple else answer
        out.append(_fitted(op, part, np.asarray(args[i])))
    return tuple(out)


def _answer(op: Op, name: str, args: Any, params: dict[str, Any], y: Any, g: Any, tamper: Tamper) -> Any:
    def wrapped(v: Any) -> Any:
        return tuple(map(wrapped, v)) if type(v) is tuple else tamper.watch(v)

    with interpreting(tamper):
        answer = op.vjps[name](wrapped(g), wrapped(y), tuple(map(wrapped, args)), {**op.defaults, **params})
    return unwrapped(tamper, answer)


def _fitted(op: Op, g: Any, x: np.ndarray) -> Any:
    g = np.asarray(g)
    if g.shape != x.shape and op.notation and op.notation.broadcasts:
        g = ops.sum_to(g, shape=x.shape)
    return np.array(g, x.dtype)


def registry_right(op: Op) -> Right:
    """The op under the rules that it has, as NumPy functions."""
    name = f"engine: {op.name}"
    from mutants.record import RIGHT

    if name in RIGHT:
        return RIGHT[name]

    def f(*args: Any, **params: Any) -> Any:
        with interpreting(EXACTLY):  # so that the arbiter can run it
            y = op(*map(seen, args), **params)
        return tuple(map(bare, y)) if type(y) is tuple else bare(y)

    def back(g: Any, args: Any, y: Any, **params: Any) -> Any:
        places = differentiable(op, args)

        def moving(*xs: Any) -> Any:
            full = list(args)
            for i, x in zip(places, xs, strict=True):
                full[i] = x
            return op(*full, **params)

        return vjp(moving, *[args[i] for i in places])[1](g)

    def draw(pick: Pick) -> Any:
        return arguments(op, pick)

    f.__signature__ = inspect.signature(op.definition)  # type: ignore[attr-defined]
    record = Right(name, f, "generic", told=contract_of(op))
    record.sample = draw  # type: ignore[method-assign]
    record.back = back
    return record


# What can be done to one call inside a rule: its name, the ops it applies to, and the tampering.


def _first(op: Op, args: list[Any], params: dict[str, Any], y: Any) -> Any:
    return np.array(np.broadcast_to(args[0], np.shape(y)))


def _second(op: Op, args: list[Any], params: dict[str, Any], y: Any) -> Any:
    return np.array(np.broadcast_to(args[1], np.shape(y)))


def _negated(op: Op, args: list[Any], params: dict[str, Any], y: Any) -> Any:
    return -np.asarray(y)


def _swapped(op: Op, args: list[Any], params: dict[str, Any], y: Any) -> Any:
    return op(args[1], args[0], *args[2:], **params)


def _branches_swapped(op: Op, args: list[Any], params: dict[str, Any], y: Any) -> Any:
    return op(args[0], args[2], args[1])


def _mean(op: Op, args: list[Any], params: dict[str, Any], y: Any) -> Any:
    return np.asarray(y) * (np.size(y) / max(np.size(args[0]), 1))


def _sum(op: Op, args: list[Any], params: dict[str, Any], y: Any) -> Any:
    return np.asarray(y) * (np.size(args[0]) / max(np.size(y), 1))


def _other_axis(op: Op, args: list[Any], params: dict[str, Any], y: Any) -> Any:
    axis = params["axis"]
    if not isinstance(axis, int) or np.ndim(args[0]) < 2:
        return y
    return op(*args, **{**params, "axis": (axis + 1) % np.ndim(args[0])})


def _assigned(op: Op, args: list[Any], params: dict[str, Any], y: Any) -> Any:
    """A scatter in which the last of several values for a place wins."""
    out = np.zeros_like(y)
    out[params["key"]] = args[-1]
    return out


def _off_by_one(op: Op, args: list[Any], params: dict[str, Any], y: Any) -> Any:
    y = np.asarray(y)
    return np.roll(y, 1, axis=-1) if y.ndim else y


BINARY_SUMS, BINARY_PRODUCTS = {"add", "subtract"}, {"multiply", "divide"}
IN_ORDER = {"subtract", "divide", "matmul", "pow", "solve", "arctan2"}
FUNCTIONS = {"exp", "log", "sin", "cos", "sinh", "cosh", "tanh", "sigmoid", "sqrt", "square", "reciprocal", "sign", "erf", "gaussian"}
ALONG = {"sum", "mean", "cumsum", "take", "concat", "flip", "roll", "expand_dims", "max", "logsumexp"}
MOVES = {"matrix_transpose", "flip", "roll", "cumsum", "negative", "tril", "triu"}

INSIDE: list[tuple[str, Callable[[str], bool], Tampering]] = [
    ("second term dropped", BINARY_SUMS.__contains__, _first),
    ("first term dropped", BINARY_SUMS.__contains__, _second),
    ("a factor dropped", BINARY_PRODUCTS.__contains__, _first),
    ("operands swapped", IN_ORDER.__contains__, _swapped),
    ("branches swapped", {"where"}.__contains__, _branches_swapped),
    ("mean for sum", {"sum", "sum_to"}.__contains__, _mean),
    ("sum for mean", {"mean"}.__contains__, _sum),
    (
        "another axis",
        {"sum", "mean", "cumsum", "take", "concat", "flip", "roll", "expand_dims", "max", "logsumexp"}.__contains__,
        _other_axis,
    ),
    ("left out", (FUNCTIONS | MOVES).__contains__, _first),
    ("sign", {"multiply", "matmul", "conv2d", "take", "getitem"}.__contains__, _negated),
    ("assign for add", {"scatter"}.__contains__, _assigned),
    ("off by one", {"getitem", "pad", "broadcast_to"}.__contains__, _off_by_one),
]


# What can be done to what a rule returns, seen beside the gradients of the other arguments.


def _scaled(gs: list[Any], i: int, y: Any, args: Any) -> Any:
    return 1.5 * gs[i]


def _slightly_scaled(gs: list[Any], i: int, y: Any, args: Any) -> Any:
    return 1.0001 * gs[i]


def _zero(gs: list[Any], i: int, y: Any, args: Any) -> Any:
    return 0 * gs[i]


def _sign(gs: list[Any], i: int, y: Any, args: Any) -> Any:
    return -gs[i]


def _others(gs: list[Any], i: int, y: Any, args: Any) -> Any:
    other = gs[(i + 1) % len(gs)]
    return other.copy() if other.shape == gs[i].shape else gs[i]


def _averaged(gs: list[Any], i: int, y: Any, args: Any) -> Any:
    size = max(np.size(p) for p in (y if isinstance(y, tuple) else (y,)))
    return gs[i] * min(gs[i].size / size, 1) if size else gs[i]


def _transposed(gs: list[Any], i: int, y: Any, args: Any) -> Any:
    g = gs[i]
    return np.swapaxes(g, -1, -2).copy() if g.ndim >= 2 and g.shape[-1] == g.shape[-2] else g


def _reversed(gs: list[Any], i: int, y: Any, args: Any) -> Any:
    return gs[i][..., ::-1].copy() if gs[i].ndim else gs[i]


def _last_lost(gs: list[Any], i: int, y: Any, args: Any) -> Any:
    g = gs[i].copy()
    if g.size:
        g.reshape(-1)[-1] = 0
    return g


RESULT = [
    ("scale", _scaled),
    ("scale by a ten-thousandth", _slightly_scaled),
    ("zero", _zero),
    ("sign", _sign),
    ("the other's gradient", _others),
    ("mean for sum", _averaged),
    ("transposed", _transposed),
    ("reversed", _reversed),
    ("last element lost", _last_lost),
]


def _tampered_rule(op: Op, arg: str, target: int, change: Tampering) -> Callable[..., Any]:
    def rule(g: Any, args: Any, y: Any, **params: Any) -> Any:
        return by_rules(op, args, params, y, g, lambda name: Tamper(running(), *((target, change) if name == arg else ())))

    return rule


def _spoiled_rule(op: Op, arg: str, spoil: Callable[..., Any]) -> Callable[..., Any]:
    back = registry_right(op).back

    def rule(g: Any, args: Any, y: Any, **params: Any) -> Any:
        gs = [np.asarray(p) for p in back(g, args, y, **params)]
        places = [op.argument(i) for i in differentiable(op, args)]
        return tuple(np.asarray(spoil(gs, i, y, args)) if name == arg else gs[i] for i, name in enumerate(places))

    return rule


def _stale_rule(op: Op, arg: str) -> Callable[..., Any]:
    """What the rule saves is what it was given the first time that it saw these shapes."""
    saved: dict[Any, Any] = {}
    back = registry_right(op).back

    def rule(g: Any, args: Any, y: Any, **params: Any) -> Any:
        gs = list(back(g, args, y, **params))
        key = (tuple(np.shape(a) for a in args), repr(sorted(params.items(), key=str)))
        old_args, old_y = saved.setdefault(key, (tuple(np.array(a) for a in args), y))
        try:
            old = back(g, old_args, old_y, **params)
        except (ValueError, np.linalg.LinAlgError):
            return tuple(gs)
        places = [op.argument(i) for i in differentiable(op, args)]
        return tuple(o if name == arg and np.shape(o) == np.shape(n) else n for name, o, n in zip(places, old, gs, strict=True))

    return rule


def sampled(op: Op, count: int = SAMPLES) -> Iterator[tuple[Any, dict[str, Any], Any, Any]]:
    """Calls of the op with their values and cotangents."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        args, params = arguments(op, Pick(rng))
        args = tuple(as_array(a) for a in args)
        y = op(*args, **params)
        if differentiable(op, args):
            made = [_cotangent(rng, p) for p in (y if isinstance(y, tuple) else (y,))]
            yield args, params, y, (tuple(made) if isinstance(y, tuple) else made[0])


def _cotangent(rng: np.random.Generator, y: Any) -> Any:
    y = np.asarray(y)
    if y.dtype.kind != "f":
        return np.zeros(y.shape)
    return np.asarray(rng.uniform(0.5, 2.0, y.shape) * rng.choice([-1.0, 1.0], y.shape), y.dtype)


def calls_inside(op: Op, arg: str) -> list[str]:
    """The op calls that the rule for `arg` makes, longest run of the samples."""
    longest: list[str] = []
    for args, params, y, g in sampled(op, 6):
        tamper = Tamper(running())
        _answer(op, arg, args, params, y, g, tamper)
        longest = max(longest, tamper.calls, key=len)
    return longest


def candidates(op: Op) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """(argument, name, rule) for every operator that may apply."""
    for arg in dict.fromkeys(op.vjps):
        for name, spoil in RESULT:
            yield arg, name, _spoiled_rule(op, arg, spoil)
        yield arg, "stale save", _stale_rule(op, arg)
        for place, called in enumerate(calls_inside(op, arg)):
            for name, applies, change in INSIDE:
                if applies(called):
                    yield arg, f"{called} #{place}: {name}", _tampered_rule(op, arg, place, change)


def broken(op: Op) -> Iterator[Mutant]:
    """The mutants of every rule of `op` that are mutants indeed, each with the smallest sampled call that shows it."""
    record = registry_right(op)
    calls = list(sampled(op))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wants = [record.back(g, args, y, **params) for args, params, y, g in calls]
        for arg, name, rule in candidates(op):
            at = _where_it_shows(rule, calls, wants)
            if at is not None:
                full = f"{record.name}({arg}): {name}"
                yield Mutant(full, record, "vjp", rule, source="generic", fault=name, kills="value", at=at)


def _where_it_shows(rule: Callable[..., Any], calls: list[Any], wants: list[Any]) -> Call | None:
    found, raised = [], 0
    for _ in range(2 if rule.__qualname__.startswith("_stale") else 1):
        for (args, params, y, g), want in zip(calls, wants, strict=True):
            try:
                got = rule(g, args, y, **params)
            except Exception:
                raised += 1
                continue
            if compare(got, want, 1e-5):
                found.append((sum(np.size(a) for a in args), len(found), Call(args, params, g)))
    if raised == len(calls) or not found:
        return None
    return min(found, key=lambda f: f[:2])[2]


def with_rules() -> list[Op]:
    """The ops whose rules can be broken: those that have any, and are not stand-ins for something else."""
    return [op for name, op in sorted(OPS.items()) if op.vjps and op.surrogate is None]
