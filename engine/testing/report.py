"""What a run found, as a verdict, as text, as HTML, as data."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.testing.case import Case, expression
from engine.testing.finding import TAIL, WRONG, Finding
from engine.testing.subject import outputs
from engine.verdict import FAIL, INCONCLUSIVE, PASS

__all__ = ["EXIT_CODES", "FAIL", "INCONCLUSIVE", "PASS", "Counterexample", "GradientError", "Report", "shown"]

EXIT_CODES = {PASS: 0, FAIL: 1, INCONCLUSIVE: 2}


class GradientError(AssertionError):
    """A gradient that is wrong, or that nothing could be said about."""


@dataclass(frozen=True)
class Counterexample:
    """The smallest call that shows what is wrong.

    cotangent   the cotangent, as it was laid out
    element     which argument, and where in it; None if it is not about one element
    """

    case: Case
    cotangent: Any
    finding: Finding
    element: tuple[str, tuple[int, ...]] | None = None
    order: int = 1

    @property
    def args(self) -> tuple[Any, ...]:
        return self.case.args

    @property
    def kwargs(self) -> dict[str, Any]:
        return self.case.kwargs

    @property
    def layout(self) -> tuple[str, ...]:
        return self.case.layouts

    @property
    def size(self) -> int:
        """The number of elements of all arguments."""
        return self.case.size

    def code(self, f: str = "f", vjp: str = "vjp") -> str:
        """A few lines of Python that show it again."""
        gs = outputs(self.cotangent)
        codes = [
            expression(np.asarray(g)) if self.case.recipe.layout == "C" else expression(np.asarray(g), self.case.recipe.layout) for g in gs
        ]
        lines = ["import numpy as np"]
        args = self._arguments()
        if "laid_out(" in "".join((*args, *codes)):
            lines.append("from engine.testing.layouts import laid_out")
        lines += args
        names = [f"x{i + 1}" for i in range(len(self.args))]
        options = "".join(f", {k}={v!r}" for k, v in self.kwargs.items())
        lines.append(f"args = ({', '.join(names)}{',' if len(names) == 1 else ''})")
        lines.append(f"y = {f}(*args{options})")
        lines.append(f"g = {codes[0] if not isinstance(self.cotangent, tuple) else '(' + ', '.join(codes) + ',)'}")
        lines.append(f"print({vjp}(g, args, y{options}))")
        return "\n".join(lines)

    def _arguments(self) -> list[str]:
        seen: dict[int, str] = {}
        lines = []
        for i, (x, code) in enumerate(zip(self.args, self.case.code(), strict=True)):
            lines.append(f"x{i + 1} = {seen.get(id(x), code)}")
            seen.setdefault(id(x), f"x{i + 1}")
        return lines


@dataclass(frozen=True)
class Report:
    """The outcome of a run.

    verdict         PASS, FAIL or INCONCLUSIVE
    counts          what was done, by name
    reasons         why elements were left without a verdict, and how many
    counterexample  the smallest failing call, if any
    diagnosis       what the wrong numbers look like
    tails           losses of accuracy that are not counted as wrong
    """

    name: str
    verdict: str
    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    counterexample: Counterexample | None = None
    diagnosis: str = ""
    tails: tuple[Finding, ...] = ()
    severity: str = WRONG
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.verdict == PASS

    def __str__(self) -> str:
        return self.explain()

    def raise_if_failed(self, *, inconclusive: bool = True) -> None:
        """Raise GradientError unless the verdict is PASS; with `inconclusive=False` only if it is FAIL."""
        if self.verdict == FAIL or (inconclusive and self.verdict == INCONCLUSIVE):
            raise GradientError("\n" + self.explain())

    def explain(self) -> str:
        """The report as text."""
        lines = [f"{self.verdict}  {self.name}: {self._summary()}"]
        if self.counterexample is not None:
            lines += ["", *_about(self.counterexample)]
            if self.diagnosis:
                lines.append(f"  it looks like   {self.diagnosis}")
            lines += ["", *("  " + line for line in self.counterexample.code().splitlines())]
        if self.reasons:
            lines += ["", "without a verdict:"]
            lines += [f"  {n:>6}  {reason}" for reason, n in sorted(self.reasons.items(), key=lambda r: -r[1])]
        if self.tails:
            first = self.tails[0]
            lines += ["", f"accuracy is lost {self.counts.get('tails', len(self.tails))} times, for one: {first.text}", *_numbers(first)]
        lines += [f"note: {n}" for n in self.notes]
        return "\n".join(lines)

    def _summary(self) -> str:
        c = self.counts
        return f"{c.get('elements', 0)} elements compared in {c.get('examples', 0)} calls, {sum(self.reasons.values())} without a verdict"

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        c = self.counterexample
        found = None
        if c is not None:
            found = {
                "check": c.finding.check,
                "text": c.finding.text,
                "severity": c.finding.severity,
                "claimed": _json(c.finding.claimed),
                "reference": _json(c.finding.reference),
                "bound": _json(c.finding.bound),
                "oracle": c.finding.oracle,
                "argument": c.element and c.element[0],
                "index": c.element and list(c.element[1]),
                "layouts": list(c.layout),
                "kwargs": {k: repr(v) for k, v in c.kwargs.items()},
                "code": c.code(),
            }
        return {
            "name": self.name,
            "verdict": self.verdict,
            "counts": self.counts,
            "reasons": self.reasons,
            "counterexample": found,
            "diagnosis": self.diagnosis,
            "tails": [{"claimed": _json(t.claimed), "reference": _json(t.reference), "text": t.text} for t in self.tails],
            "notes": list(self.notes),
            "seconds": self.seconds,
            "text": self.explain(),
        }

    def _repr_html_(self) -> str:
        colour = {PASS: "#2e7d32", FAIL: "#c62828"}.get(self.verdict, "#b26a00")
        head = f'<b style="color:{colour}">{self.verdict}</b> <code>{html.escape(self.name)}</code>: {html.escape(self._summary())}'
        rest = self.explain().split("\n", 1)
        body = f"<pre>{html.escape(rest[1].strip())}</pre>" if len(rest) > 1 and rest[1].strip() else ""
        return f"<div>{head}{body}</div>"


def _json(v: float) -> Any:
    return v if math.isfinite(v) else repr(v)


def _about(c: Counterexample) -> list[str]:
    f = c.finding
    where = f"{c.element[0]}{list(c.element[1]) if c.element[1] else ''}" if c.element else ""
    order = " of second order" if c.order == 2 else ""
    lines = [f"{f.check}{order}: {f.text or 'the gradient is wrong'}{' (accuracy, in a tail)' if f.severity == TAIL else ''}"]
    if where:
        lines.append(f"  in              {where}")
    return lines + _numbers(f)


def _numbers(f: Finding) -> list[str]:
    if f.element is None or math.isnan(f.reference):
        return []
    lines = [f"  your rule says  {f.claimed!r}"]
    bound = f"  (right within {f.bound:.1e})" if math.isfinite(f.bound) else ""
    lines.append(f"  it should be    {f.reference!r}{bound}{', by ' + f.oracle if f.oracle else ''}")
    return lines


def shown(findings: Sequence[Finding], limit: int = 20) -> tuple[Finding, ...]:
    """As many as a report keeps."""
    return tuple(findings[:limit])
