r"""A computation as a lesson: every op with its formula and its numbers, forward and then backward.

    print(explain(lambda x, w, b: np.tanh(x * w + b))(1.5, 2.0, -1.0))

A rule is made of op calls, so the backward pass is explained by the same interpreter that explains the forward pass.
"""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.interpret import Interpreter, interpreting, running
from engine.op import Op, as_array
from engine.reverse import Entry, Tape, record, walk
from engine.traced import OPS, Traced, primal
from engine.tree import flatten, paths


@dataclass(frozen=True)
class Call:
    """One op call: `name = op(inputs)`, and what came out."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    value: Any

    def __str__(self) -> str:
        return f"{self.name} = {self.op.name}({', '.join(self.inputs)})"


class Explain(Interpreter):
    """Note each call, its inputs by name, its formula and its value. slot is the value's name."""

    def __init__(self, below: Interpreter):
        self.below = below
        self.calls: list[Call] = []

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        values = [a.value if type(a) is Traced and a.owner is self else a for a in args]
        y = self.below.apply(op, values, params)
        options = tuple(f"{k}={_short(v)}" for k, v in params.items() if v != op.defaults.get(k) or k not in op.defaults)
        call = Call(f"v{len(self.calls) + 1}", op, (*map(self._label, args), *options), y)
        self.calls.append(call)
        if type(y) is tuple:
            return tuple(Traced(self, part, f"{call.name}[{i}]") for i, part in enumerate(y))
        return Traced(self, y, call.name)

    def _label(self, a: Any) -> str:
        return a.slot if type(a) is Traced and a.owner is self else _short(a)


class NamedTape(Tape):
    """A tape over Explain, which remembers the name of each node."""

    def __init__(self, below: Interpreter):
        super().__init__(below)
        self.names: list[str] = []

    def watch(self, x: Any) -> Traced:
        self.names.append(x.slot)
        return super().watch(x)


@dataclass(frozen=True)
class Share:
    """What one step of the walk back sent to one input of the op: `total` is the sum so far."""

    to: str
    formula: str
    sent: Any
    total: Any


@dataclass(frozen=True)
class Step:
    """One op on the way back: the cotangent `g` of its output, its share for each input, and the op calls of its rules."""

    call: str
    g: Any
    shares: tuple[Share, ...]
    work: tuple[Call, ...]


@dataclass(frozen=True)
class Explanation:
    """The forward and the backward pass, as data. str() reads as a lesson; a notebook shows a table."""

    inputs: dict[str, Any]
    forward: tuple[Call, ...]
    value: Any
    backward: tuple[Step, ...] = ()
    gradients: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = ["inputs", *(f"  {name} = {numbers(x)}" for name, x in self.inputs.items())]
        lines += ["", "forward: one op a line, in the order of computing"]
        lines += _columns([(str(c), f"= {numbers(c.value)}", plain(c.op.formula)) for c in self.forward])
        if self.backward:
            last = self.forward[-1].name
            lines += ["", f"backward: from the last line to the first; gx is d {last} / d x, and starts as g{last} = 1."]
            lines += ["When an op's turn comes, everything that used its output has sent its share: so shares add up first."]
            rows = [row for step in self.backward for row in _step_rows(step)]
            lines += _columns(rows)
            lines += ["", "gradients", *(f"  g{name} = {numbers(g)}" for name, g in self.gradients.items())]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        forward = [(str(c), numbers(c.value), _maths(c.op.formula)) for c in self.forward]
        page = _table("Forward", ("op", "value", "formula"), forward)
        if self.backward:
            rows = [
                (
                    step.call if i == 0 else "",
                    numbers(step.g) if i == 0 else "",
                    f"g{s.to}",
                    _maths(s.formula),
                    numbers(s.sent),
                    numbers(s.total),
                )
                for step in self.backward
                for i, s in enumerate(step.shares)
            ]
            page += _table("Backward, last op first", ("op", "g of its output", "to", "rule", "share", "sum so far"), rows)
        return page


def explain(f: Callable[..., Any]) -> Callable[..., Explanation]:
    """`explain(f)(*args)` runs f and tells each op with its numbers; for a scalar f of floating-point arguments, the walk back too.

    Arguments may be nestings of arrays; they are called by f's own parameter names ("p/w1" inside a dict).
    """

    def run(*args: Any) -> Explanation:
        e = Explain(running())
        leaves, rebuild = flatten(args)
        names = _argument_names(f, args)
        values = [np.float64(x) if type(x) in (int, float) else x if type(x) is Traced else as_array(x) for x in leaves]
        named = rebuild([Traced(e, x, name) for x, name in zip(values, names, strict=True)])
        inputs = dict(zip(names, values, strict=True))
        if any(x.dtype.kind != "f" for x in values):
            with interpreting(e):
                value = f(*named)
            return Explanation(inputs, tuple(e.calls), primal(value))
        with interpreting(e):
            tape, nodes, _, ys, nest, _ = record(f, named, False, "explain", NamedTape(e))
            value = nest([primal(y) for y in ys])
            forward = tuple(e.calls)
            scalar = len(ys) == 1 and type(ys[0]) is Traced and ys[0].shape == ()
            if not scalar:
                return Explanation(inputs, forward, value)
            steps: list[Step] = []
            gradients = walk(tape, [(ys[0].slot, np.ones((), ys[0].dtype)[()])], consume=False, watcher=_watcher(tape, e, steps))
            return Explanation(
                inputs, forward, value, tuple(steps), {n: primal(gradients.result(x.slot)) for n, x in zip(names, nodes, strict=True)}
            )

    return run


def _watcher(tape: NamedTape, e: Explain, steps: list[Step]) -> Callable[[Entry, Any, list[tuple[int, Any, Any]]], None]:
    by_name = {c.name: str(c) for c in e.calls}
    seen = len(e.calls)

    def watch(entry: Entry, g: Any, shown: list[tuple[int, Any, Any]]) -> None:
        nonlocal seen
        formulas = {place: rule.formula for rule, places, _ in entry.plan.rules for place in places}
        shares = tuple(Share(tape.names[entry.parents[p]], formulas[p], primal(gx), primal(total)) for p, gx, total in shown)
        name = tape.names[entry.out[0]].partition("[")[0]
        cotangent = tuple(map(primal, g)) if type(g) is tuple else primal(g)
        steps.append(Step(by_name[name], cotangent, shares, tuple(e.calls[seen:])))
        seen = len(e.calls)

    return watch


def _argument_names(f: Callable[..., Any], args: Sequence[Any]) -> list[str]:
    try:
        own = [p.name for p in inspect.signature(f).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):  # a builtin without a signature
        own = []
    own = own[: len(args)] + [f"x{i}" for i in range(len(own[: len(args)]), len(args))]
    return [p for name, a in zip(own, args, strict=True) for p in paths(a, name)]


# Rules and formulas as text.


def rules(op: Op | str | Callable[..., Any]) -> str:
    """The formula of an op and of each of its rules, with what they need, as text.

    op    the op, its name, or the function of the same name that calls it: rules(ops.matmul)

    Raises KeyError with the known names.
    """
    if not isinstance(op, Op):
        name = op if isinstance(op, str) else op.__name__
        if name not in OPS:
            raise KeyError(f"no op is called {name!r}; there are {', '.join(sorted(OPS))}")
        op = OPS[name]
    lines = [op.name, f"  {plain(op.formula)}"]
    if op.notation:
        lines.append(f"  shapes      {op.notation.text}")
    for arg in op.args:
        if arg in op.constant:
            lines.append(f"  {arg:<10}  constant: carries no derivative")
            continue
        vjp, jvp = op.vjps.get(arg), op.jvps.get(arg)
        if vjp is not None and vjp is jvp:
            lines.append(f"  {arg:<10}  slope  {plain(vjp.formula)}")
            continue
        if jvp is not None:
            lines.append(f"  {arg:<10}  jvp    {plain(jvp.formula)}")
        elif arg in op.linear:
            lines.append(f"  {arg:<10}  jvp    linear: the op itself, of the tangent")
        if vjp is not None:
            lines.append(f"  {arg:<10}  vjp    {plain(vjp.formula)}")
    if op.surrogate:
        lines.append(f"  not the derivative: {op.surrogate}")
    return "\n".join(lines)


_SYMBOLS = {
    "partial": "∂", "odot": "⊙", "sum": "Σ", "prod": "Π", "sqrt": "√", "infty": "∞", "leq": "≤", "geq": "≥", "le": "≤", "ge": "≥",
    "ne": "≠", "neq": "≠", "cdot": "·", "times": "×", "pi": "π", "mu": "μ", "sigma": "σ", "eta": "η", "varepsilon": "ε",
    "epsilon": "ε", "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "lambda": "λ", "Phi": "Φ", "phi": "φ", "Delta": "Δ",
    "lfloor": "⌊", "rfloor": "⌋", "langle": "⟨", "rangle": "⟩", "top": "T", "in": "∈", "to": "→", "ldots": "...", "dots": "...",
    "cdots": "...", "quad": "  ", "qquad": "   ", "left": "", "right": "", "tau": "τ", "rho": "ρ", "theta": "θ", "mid": "|",
    "star": "*", "approx": "≈", "circ": "∘", "nabla": "∇", "pm": "±",
}  # fmt: skip
_ACCENTS = {"bar": "\u0304", "dot": "\u0307", "hat": "\u0302", "tilde": "\u0303"}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def plain(formula: str) -> str:
    """A LaTeX formula in the characters of a terminal."""
    text = formula.replace("$", "")
    text = re.sub(r"\\(?:mathrm|text|operatorname|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\(bar|dot|hat|tilde)\s*(?:\{(\w)\}|(\w))", lambda m: (m[2] or m[3]) + _ACCENTS[m[1]], text)
    text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1) / (\2)", text)
    text = re.sub(r"_(?:\{(\d+)\}|(\d))", lambda m: (m[1] or m[2]).translate(_SUBSCRIPTS), text)
    text = re.sub(r"([\^_])\{([^{}]*[^\w{}\\][^{}]*)\}", r"\1(\2)", text)
    text = re.sub(r"\\partial\s+", "∂", text)
    text = re.sub(r"\\([a-zA-Z]+)", lambda m: _SYMBOLS.get(m[1], m[1]), text)
    text = re.sub(r"\\[,;! ]", " ", text)
    return re.sub(r"\s+", " ", text.replace("{", "").replace("}", "")).strip()


def numbers(x: Any, most: int = 8) -> str:
    """An array in one short line: all of it if it is small, else its shape and its ends."""
    if type(x) is tuple:
        return "(" + ", ".join(numbers(part, most) for part in x) + ")"
    a = np.asarray(primal(x))
    if a.size <= most:
        return re.sub(r"\s+", " ", np.array2string(a, precision=6, suppress_small=False, separator=" ")).replace("[ ", "[")
    ends = " ".join(f"{v:.4g}" for v in a.ravel()[:3])
    return f"{'x'.join(map(str, a.shape))} [{ends} ... {a.ravel()[-1]:.4g}]"


def _short(v: Any) -> str:
    return numbers(v, most=4) if isinstance(v, (np.ndarray, np.generic)) else repr(v)


def _step_rows(step: Step) -> list[tuple[str, ...]]:
    name = step.call.partition(" ")[0]
    rows: list[tuple[str, ...]] = []
    for i, s in enumerate(step.shares):
        head = (step.call, f"g{name} = {numbers(step.g)}") if i == 0 else ("", "")
        total = "" if np.array_equal(s.sent, s.total) else f"sum so far {numbers(s.total)}"
        rows.append((*head, f"g{s.to} += {numbers(s.sent)}", plain(s.formula), total))
    return rows


def _head(step: Step, i: int) -> tuple[str, str]:
    return (step.call, numbers(step.g)) if i == 0 else ("", "")


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(len(rows[0]) if rows else 0)]
    return ["  " + "   ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _maths(formula: str) -> str:
    return f"${formula.strip('$')}$"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f'<{tag} style="text-align:left">{html.escape(c)}</{tag}>' for c in cells) + "</tr>"

    return f"<h4>{html.escape(title)}</h4><table>{row(head, 'th')}{''.join(row(r, 'td') for r in rows)}</table>"
