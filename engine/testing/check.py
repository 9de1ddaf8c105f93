"""`check_gradient`: draw calls, judge each, shrink what fails, judge it again, report."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from engine.testing import contracts
from engine.testing.adapters import Adapted, framework_of
from engine.testing.case import Case
from engine.testing.diagnose import diagnosis
from engine.testing.layouts import laid_out
from engine.testing.oracles import Place, unit
from engine.testing.report import FAIL, INCONCLUSIVE, PASS, Counterexample, Report
from engine.testing.signature import understand
from engine.testing.strategies import cases as calls
from engine.testing.subject import Array, ClaimError, Subject, floating, is_float, outputs
from engine.testing.verdict import RTOL, TAIL, WRONG, Comparison, Finding, Tally, worst

SHRINKING = 400  # calls that may be spent on making a counterexample smaller
SHRINKING_SECONDS = 10.0
REPEATS = 60  # of one call, to see whether it always gives the same
CONCLUSIVE = 0.1  # of the elements that were looked at, or there is no verdict
SEVERITIES = (WRONG, TAIL)


class Found(Exception):
    """A call that fails."""


class NotHere(Exception):
    """The function cannot be called like this, or its value says nothing."""


@dataclass
class Judged:
    """What judging one call gave."""

    findings: list[Finding]
    cotangent: Any = None
    claims: list[Any] = field(default_factory=list)


class Examiner:
    """Judges calls of one subject."""

    def __init__(self, subject: Subject, names: Sequence[str], severity: str):
        self.subject, self.names, self.severity = subject, list(names), severity
        self.tally = Tally()
        self.tails: list[Finding] = []
        self.comparison: Comparison | None = None

    def named(self, args: Sequence[Any]) -> list[str]:
        """A name for each argument; where there are more than names, the first ones are cotangents."""
        extra = len(args) - len(self.names)
        return [f"g{i + 1}" if extra > 1 else "g" for i in range(extra)] + self.names[: len(args)]

    def judge(self, case: Case) -> Judged:
        """Everything that is to be said about one call. Raises NotHere if it cannot be called like this."""
        judged = Judged([])
        for finding in self._findings(case, judged):
            if finding.severity == WRONG or self.severity == TAIL:
                judged.findings.append(finding)
            else:
                self.tally.counts["tails"] += 1
                self.tails.append(finding)
        return judged

    def _findings(self, case: Case, judged: Judged) -> Iterator[Finding]:
        subject, args, options = self.subject, case.args, case.kwargs
        names = self.named(args)
        watch = contracts.watched(args, names)
        try:
            y = subject.value(args, options)
        except Exception as e:  # whatever a user's function raises on arguments that it does not take
            raise NotHere(f"the function raised {type(e).__name__}") from e
        yield from watch.findings("the function")
        g = judged.cotangent = masked(case.cotangent(y), y)
        watch = contracts.watched(args, names, g=g, y=y)
        try:
            claims = judged.claims = subject.gradients(g, args, y, options) if subject.vjp else self.by_jvp(g, args, y, options)
        except ClaimError as e:
            if all(np.isfinite(part).all() for part in outputs(y) if is_float(part)):
                yield Finding("raised", str(e))
            else:
                self.tally.skip("the function is not finite")
            return
        yield from watch.findings("the vjp")
        wrong = list(contracts.form(claims, args, names))
        yield from wrong
        if any(f.check == "shape" for f in wrong):
            return
        yield from contracts.buffers(claims, names)
        kept = [None if c is None else np.array(c) for c in claims]
        yield from self.values(case, y, g, claims)
        if subject.vjp:
            linear = contracts.Linear(subject, g, args, y, options, kept, self._rtol(args), self._rounding)
            yield from linear.findings(
                np.random.default_rng(1), self.comparison is not None and self.comparison.sound and not self.comparison.far_out
            )
            yield from contracts.again(subject, g, args, y, options, claims, kept)
            if subject.jvp:
                yield from self.pushes(case, y, g, kept)

    def _rounding(self) -> float:
        return self.comparison.rounding if self.comparison else math.inf

    def _rtol(self, args: Sequence[Any]) -> float:
        return max((RTOL.get(np.asarray(args[i]).dtype.itemsize, 1e-8) for i in floating(args)), default=1e-8)

    def by_jvp(self, g: Any, args: Sequence[Any], y: Any, options: dict[str, Any]) -> list[Any]:
        """The gradient that a jvp implies: its answer to each unit tangent, weighted."""
        found: list[Any] = [None] * len(args)
        for place in floating(args):
            grad = np.zeros(np.shape(args[place]), np.asarray(args[place]).dtype)
            for i in range(grad.size):
                dy = self.subject.tangent(unit_tangents(args, place, i), args, y, options)
                grad.reshape(-1)[i] = dot(g, dy)
            found[place] = grad
        return found

    # Values.

    def values(self, case: Case, y: Any, g: Any, claims: Sequence[Any]) -> Iterator[Finding]:
        self.comparison = None
        floats = floating(case.args)
        if not floats or all(claims[i] is None for i in floats):
            self.tally.reasons["no argument has a gradient"] += 1
            return
        try:
            place = Place(self.subject.oracle, case.args, case.kwargs)
        except Exception as e:  # the function takes these arguments, but not in float64
            self.tally.skip(f"the function raised {type(e).__name__} in float64")
            return
        values = flat(y)
        if place.y0.size != values.size:
            self.tally.skip("the function has other outputs in float64")
            return
        dtype = np.result_type(*[np.asarray(case.args[i]).dtype for i in floats])
        trouble = disagreement(values, place, dtype)
        if trouble:
            self.tally.skip(trouble)
            return
        if values.size and not (place.finite & np.isfinite(values)).any():
            self.tally.skip("the value is not finite")
            return
        known = np.concatenate([np.full(np.size(case.args[i]), claims[i] is not None) for i in floats])
        claimed = np.concatenate(
            [np.ravel(np.full(np.shape(case.args[i]), np.nan) if claims[i] is None else np.asarray(claims[i], np.float64)) for i in floats]
        )
        weights = np.where(place.finite & np.isfinite(values), flat(g), 0.0)
        self.comparison = comparison = Comparison(
            place, weights, claimed, self.tally,
            dtype=dtype, values=values, elementwise=elementwise(case.args, y), strict=self.severity == TAIL,
            known=known, derived=self.subject.derived,
        )  # fmt: skip
        yield from comparison.findings()

    def pushes(self, case: Case, y: Any, g: Any, claims: Sequence[Any]) -> Iterator[Finding]:
        """<g, J d> = <J' g, d>, for tangents of all arguments and of one alone; where the function is smooth."""
        comparison = self.comparison
        if comparison is None or comparison.kinked or not comparison.sound or not np.isfinite(contracts.joined(claims)).all():
            return
        rng = np.random.default_rng(2)
        floats = floating(case.args)
        for moving in {tuple(floats), *((i,) for i in floats)}:
            tangents = [rng.uniform(-1, 1, np.shape(case.args[i])).astype(np.asarray(case.args[i]).dtype) * (i in moving) for i in floats]
            try:
                dy = self.subject.tangent(tangents, case.args, y, case.kwargs)
            except NotImplementedError:
                self.tally.counts["no forward mode"] += 1
                return
            except ClaimError as e:
                yield Finding("jvp", str(e))
                return
            if [np.shape(d) for d in outputs(dy)] != [np.shape(part) for part in outputs(y)]:
                yield Finding(
                    "jvp", f"the tangent has shape {[np.shape(d) for d in outputs(dy)]}, y has {[np.shape(part) for part in outputs(y)]}"
                )
                return
            self.tally.counts["jvp"] += 1
            d = np.concatenate([np.ravel(t).astype(np.float64) for t in tangents] or [np.zeros(0)])
            with np.errstate(all="ignore"):
                pushed, pulled = dot(g, dy), float(np.nan_to_num(comparison.claims) @ d)
                terms = np.maximum(np.nan_to_num(comparison.size), np.abs(np.nan_to_num(comparison.claims)))
                sums = comparison.rounding + 1024 * comparison.eps * float(np.max(terms, initial=0.0))
                slack = comparison.floor * d.size + sums * float(np.abs(d).sum())
                bound = comparison.rtol * float(terms @ np.abs(d)) + slack if d.size else 0.0
                if abs(pushed - pulled) <= bound:
                    continue
            if abs(pushed - pulled) <= 64 * self.trembling(case, y, g, tangents, pushed, pulled):
                continue
            who = "all arguments" if len(moving) == len(floats) else self.named(case.args)[moving[0]]
            yield Finding(
                "jvp", f"<g, J d> is not <J'g, d> when {who} move", WRONG, None, pushed, pulled, bound, "the vjp, which is right here"
            )
            return

    def trembling(self, case: Case, y: Any, g: Any, tangents: Sequence[Any], pushed: float, pulled: float) -> float:
        """By how much both sides change when the arguments change in their last digits."""
        rng = np.random.default_rng(3)
        args = [
            a * (1 + 4 * unit(a.dtype) * rng.choice([-1, 1], a.shape)).astype(a.dtype) if is_float(a) else a
            for a in map(np.asarray, case.args)
        ]
        try:
            dy = self.subject.tangent(tangents, args, y, case.kwargs)
            claims = self.subject.gradients(g, args, y, case.kwargs)
        except ClaimError:
            return 0.0
        with np.errstate(all="ignore"):
            pull = dot(tuple(claims[i] for i in floating(args)), tuple(tangents))
            return float(np.nan_to_num(max(abs(dot(g, dy) - pushed), abs(pull - pulled))))


def unit_tangents(args: Sequence[Any], place: int, i: int) -> list[Any]:
    made = []
    for p in floating(args):
        t = np.zeros(np.shape(args[p]), np.asarray(args[p]).dtype)
        if p == place:
            t.reshape(-1)[i] = 1
        made.append(t)
    return made


def dot(a: Any, b: Any) -> float:
    """Of arrays or tuples of arrays, leaving out integers."""
    pairs = zip(outputs(a), outputs(b), strict=True)
    return float(sum(np.sum(np.asarray(x, np.float64) * np.asarray(z, np.float64)) for x, z in pairs if is_float(x) and np.size(x)))


def flat(y: Any) -> Array:
    """All floating-point outputs as one vector of float64."""
    parts = [np.asarray(part).astype(np.float64).ravel() for part in outputs(y) if is_float(part)]
    return np.concatenate(parts) if parts else np.zeros(0)


def masked(g: Any, y: Any) -> Any:
    """The cotangent, with 0 for the outputs that are not finite."""

    def one(g: Any, y: Any) -> Any:
        return g if not is_float(y) or np.isfinite(y).all() else np.where(np.isfinite(y), g, 0).astype(g.dtype)

    return tuple(one(a, b) for a, b in zip(g, y, strict=True)) if isinstance(y, tuple) else one(g, y)


def elementwise(args: Sequence[Any], y: Any) -> bool:
    """Can each output belong to one element of each argument? By their shapes alone."""
    if isinstance(y, tuple):
        return False
    try:
        return bool(np.broadcast_shapes(*[np.shape(a) for a in args]) == np.shape(y))
    except ValueError:
        return False


def disagreement(values: Array, place: Place, dtype: np.dtype[Any]) -> str:
    """Why f as it was called and f as the oracles call it are not the same function here; empty if they are."""
    both = np.isfinite(values) & place.finite
    with np.errstate(all="ignore"):
        size = float(np.max(np.abs(place.y0[both]), initial=0.0))
        far = np.abs(values - place.y0)[both] > 1e6 * RTOL.get(dtype.itemsize, 0.1) * size
    if far.any():
        return "the function is not the same twice, or depends on how its arguments lie in memory"
    return ""


# The run.


@dataclass
class Run:
    """Searches for a call that fails, and makes it small."""

    examiner: Examiner
    examples: int
    seed: int
    known: dict[str, tuple[Case, Judged]] = field(default_factory=dict)
    last: str = ""
    kept: list[Case] = field(default_factory=list)
    shrinking: int = 0
    since: float = 0.0

    def search(self, strategy: st.SearchStrategy[Case]) -> None:
        @hypothesis.seed(self.seed)
        @hypothesis.settings(
            max_examples=self.examples, database=None, deadline=None, report_multiple_bugs=False, print_blob=False,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink), verbosity=Verbosity.quiet,
        )  # fmt: skip
        @hypothesis.given(strategy)
        def one(case: Case) -> None:
            if self.fails(case):
                raise Found

        try:
            one()
        except Found:
            pass
        except HypothesisException as e:
            self.examiner.tally.reasons[f"no calls could be drawn: {type(e).__name__}"] += 1

    def fails(self, case: Case) -> bool:
        """Judge one call. What failed once fails again: whether it is always so is asked at the end."""
        key = repr(case)
        if key in self.known:
            self.last = key
            return True
        if self.known and (self.shrinking >= SHRINKING or time.perf_counter() - self.since > SHRINKING_SECONDS):
            return False
        self.shrinking += bool(self.known)
        try:
            judged = self.examiner.judge(case)
        except NotHere as e:
            self.examiner.tally.counts["refused"] += 1
            self.examiner.tally.reasons[str(e)] += 0
            hypothesis.reject()
        if not self.known:
            self.examiner.tally.counts["examples"] += 1
            self.keep(case)
        if judged.findings:
            self.since = self.since or time.perf_counter()
            self.known[key] = case, judged
            self.last = key
        return bool(judged.findings)

    def keep(self, case: Case) -> None:
        """A few calls with many elements, for the test of determinism."""
        self.kept = sorted([*self.kept, case], key=lambda c: -c.size)[:2]


def check_gradient(
    f: Callable[..., Any], vjp: Callable[..., Any] | None = None, *, jvp: Callable[..., Any] | None = None, signature: Any = None,
    domain: Any = None, kwargs: Any = None, cases: Any = None, framework: str | None = None, reference: Callable[..., Any] | None = None,
    examples: int = 200, seed: int = 0, orders: Iterable[int] = (1,), max_elements: int = 27, severity: str = WRONG,
    vary_values: bool = True,
) -> Report:  # fmt: skip
    """Is the gradient of f right? Judged on calls that are drawn for the purpose.

    f            f(*arrays, **options) -> an array or a tuple of arrays. NumPy, or a function of a framework
    vjp          vjp(g, args, y, **options) -> one gradient for each floating-point argument. None: the framework's own
    jvp          jvp(tangents, args, y, **options) -> the tangent of y; checked against the vjp, or alone
    signature    shapes in notation, "m k, k n -> m n"; or example arrays; None: found by trying
    domain       by argument: Domain, (low, high), {"low", "high", "kinks"}; None: found by trying
    kwargs       options: constants, hypothesis strategies, or functions of the shapes that return either
    cases        a strategy of (args, kwargs), where shapes and options hang together
    framework    "engine", "torch", "jax", ...; None: seen from f
    reference    f in NumPy, for the oracles; where f is not NumPy it makes the verdict sharper
    examples     how many calls are drawn
    orders       (1,), or (1, 2) where the framework can differentiate its gradients
    severity     what fails: "wrong", or "tail" for every loss of accuracy too
    vary_values  with cases: False takes values and layouts as they come

    Raises TypeError if there is nothing to check, ValueError if no shapes are found that f takes.
    """
    if severity not in SEVERITIES:
        raise ValueError(f"severity is one of {', '.join(SEVERITIES)}, given {severity!r}")
    start = time.perf_counter()
    subject = subject_of(f, vjp, jvp, framework, reference)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        contract = understand(subject, signature, domain, kwargs, cases=cases)
        strategy = drawn(contract, cases, max_elements, vary_values)
        reports = [checked(subject, contract.names, strategy, examples, seed, severity, order, contract.notes) for order in orders]
    return replace(combined(reports), seconds=time.perf_counter() - start)


def subject_of(f: Any, vjp: Any, jvp: Any, framework: str | None, reference: Any) -> Subject:
    """A Subject from what a user gives. Raises TypeError if there is no derivative to check."""
    name = getattr(f, "__name__", type(f).__name__)
    framework = framework or framework_of(f)
    if framework is None or framework == "numpy":
        if vjp is None and jvp is None:
            raise TypeError(f"{name} is a function of NumPy arrays: give its vjp or its jvp, or name the framework that differentiates it")
        return Subject(f, vjp, jvp, reference, name=name)
    adapted = Adapted(f, framework)
    if vjp is not None or jvp is not None:
        return Subject(adapted, vjp and adapted.hand_written(vjp), jvp and adapted.hand_written(jvp), reference, name=name)
    if not adapted.differentiates:
        raise TypeError(f"{framework} has no derivatives of its own: give the vjp of {name}")
    return Subject(adapted, adapted.vjp, adapted.jvp, reference, lambda count: gradient_of(adapted, name, count), name)


def gradient_of(adapted: Adapted, name: str, count: int) -> Subject:
    """The gradient that a framework computes, as a function of (*cotangents, *args), of which `count` are args."""

    def derived(values: Sequence[Any]) -> Adapted:
        return adapted.gradient(len(values) - count)

    def f(*values: Any, **options: Any) -> Any:
        if any(np.iscomplexobj(v) for v in values):
            raise TypeError("a framework takes complex numbers for constants of the derivative, or conjugates them")
        return derived(values)(*values, **options)

    def vjp(g: Any, values: Any, y: Any, **options: Any) -> Any:
        return derived(values).vjp(g, values, y, **options)

    def jvp(d: Any, values: Any, y: Any, **options: Any) -> Any:
        return derived(values).jvp(d, values, y, **options)

    return Subject(f, vjp, jvp, name=f"gradient of {name}", derived=True)


@st.composite
def drawn(draw: st.DrawFn, contract: Any, cases: Any, max_elements: int, vary_values: bool) -> Case:
    """Calls, one in six of them in float32."""
    low = draw(st.integers(0, 5)) == 5
    case = draw(calls(contract, user_cases=cases, max_elements=max_elements, vary_values=vary_values))
    return lowered(case) if low and vary_values else case


def lowered(case: Case) -> Case:
    """The same call with float32 for float64."""
    made: dict[int, Any] = {}
    for x, layout in zip(case.args, case.layouts, strict=True):
        is_double = isinstance(x, np.ndarray) and x.dtype == np.float64
        made.setdefault(id(x), laid_out(x.astype(np.float32), layout) if is_double else x)
    if any(np.isfinite(x).all() and not np.isfinite(made[id(x)]).all() for x in case.args if is_float(x)):
        return case
    return replace(case, args=tuple(made[id(x)] for x in case.args))


def checked(
    subject: Subject, names: Sequence[str], strategy: Any, examples: int, seed: int, severity: str, order: int, notes: Sequence[str]
) -> Report:
    """The report on one order of derivative."""
    if order == 2:
        subject, names, strategy = second_order(subject, names, strategy)
    examiner = Examiner(subject, names, severity)
    run = Run(examiner, examples, seed)
    run.search(strategy)
    counterexample, words = None, ""
    if run.known:
        case, judged = run.known[run.last]
        counterexample, words = explained(examiner, case, judged, order)
    else:
        counterexample = undetermined(examiner, run.kept, order)
    return report(examiner, counterexample, words, notes)


def second_order(subject: Subject, names: Sequence[str], strategy: Any) -> tuple[Subject, Sequence[str], Any]:
    """The gradient as a function of the cotangents and the arguments; names and calls for it.

    Raises TypeError if nobody can differentiate the gradient.
    """
    if subject.gradient is None:
        raise TypeError(f"{subject.name}: the second order needs a framework that differentiates its own gradients")

    def called(case: Case) -> Case:
        try:
            y = subject.value(case.args, case.kwargs)
        except Exception:  # what it raises is raised again where the call is judged
            return case
        gs = tuple(g for g, part in zip(outputs(case.cotangent(y)), outputs(y), strict=True) if is_float(part))
        layouts = (case.recipe.layout,) * len(gs) + case.layouts
        return replace(case, args=gs + case.args, layouts=layouts, recipe=replace(case.recipe, kind="random"))

    return subject.gradient(len(names)), names, strategy.map(called)


def explained(examiner: Examiner, case: Case, judged: Judged, order: int) -> tuple[Counterexample, str]:
    """The counterexample, judged once more, and what it looks like."""
    again = [examiner.judge(case).findings for _ in range(3)]
    finding = worst(judged.findings)
    if not all(again):
        failed = 1 + sum(map(bool, again))
        finding = Finding(
            "determinism", f"this call fails {failed} times of 4, and passes otherwise: {finding.text or finding.check}", finding.severity
        )
    element = located(finding, case, examiner.named(case.args))
    return Counterexample(case, judged.cotangent, finding, element, order), looks_like(examiner, case, judged, finding)


def located(finding: Finding, case: Case, names: Sequence[str]) -> tuple[str, tuple[int, ...]] | None:
    if finding.element is None:
        return None
    i = finding.element
    for place in floating(case.args):
        n = np.size(case.args[place])
        if i < n:
            return names[place], tuple(int(k) for k in np.unravel_index(i, np.shape(case.args[place])))
        i -= n
    return None


def looks_like(examiner: Examiner, case: Case, judged: Judged, finding: Finding) -> str:
    if finding.check not in ("value", "shape", "raised", "tie", "kink"):
        return ""
    if case.layouts and any(layout != "C" for layout in (*case.layouts, case.recipe.layout)):
        plain = replace(case.contiguous(), recipe=replace(case.recipe, layout="C"))
        if not examiner.judge(plain).findings:
            return "right when everything lies contiguously in memory: the rule does not heed strides"
    if not judged.claims or finding.check == "raised":
        return ""
    if finding.check == "shape":
        return _of_shape(case, judged)
    examiner.judge(case)
    comparison = examiner.comparison
    if comparison is None:
        return ""
    place = next(p for p, s in zip(floating(case.args), comparison.place.slices, strict=True) if s.start <= (finding.element or 0) < s.stop)
    part = comparison.place.slices[floating(case.args).index(place)]
    right = comparison.reference.copy()
    if finding.element is not None and finding.check == "value":
        right[finding.element] = finding.reference
    return diagnosis(judged.claims[place], right[part].reshape(np.shape(case.args[place])), judged.cotangent, None, case.args, place)


def _of_shape(case: Case, judged: Judged) -> str:
    for place in floating(case.args):
        claim = judged.claims[place]
        if claim is not None and np.shape(claim) != np.shape(case.args[place]):
            return diagnosis(claim, np.zeros(np.shape(case.args[place])), judged.cotangent, None, case.args, place)
    return ""


def undetermined(examiner: Examiner, kept: Sequence[Case], order: int) -> Counterexample | None:
    """A call whose gradient is not always the same, seen by calling it many times."""
    if examiner.subject.vjp is None:
        return None
    for case in kept:
        y = examiner.subject.value(case.args, case.kwargs)
        g = masked(case.cotangent(y), y)
        try:
            first = [None if c is None else np.array(c) for c in examiner.subject.gradients(g, case.args, y, case.kwargs)]
            off = sum(not contracts.alike(examiner.subject.gradients(g, case.args, y, case.kwargs), first) for _ in range(REPEATS))
        except ClaimError as e:
            return Counterexample(case, g, Finding("determinism", f"called {REPEATS} times, {e}"), None, order)
        if off:
            return Counterexample(
                case, g, Finding("determinism", f"{off} of {REPEATS} calls give another gradient than the first"), None, order
            )
    return None


def report(examiner: Examiner, counterexample: Counterexample | None, words: str, notes: Sequence[str]) -> Report:
    tally = examiner.tally
    judged = tally.compared + tally.counts["inconclusive"]
    if counterexample is not None:
        verdict = FAIL
    elif tally.compared == 0 or tally.compared < CONCLUSIVE * judged:
        verdict = INCONCLUSIVE
    else:
        verdict = PASS
    reasons = {k: max(v, 1) for k, v in tally.reasons.items() if v or verdict == INCONCLUSIVE}
    counts = {"elements": tally.compared, **tally.counts}
    return Report(
        examiner.subject.name, verdict, counts, reasons, counterexample, words, tuple(examiner.tails[:20]), examiner.severity, tuple(notes)
    )


def combined(reports: Sequence[Report]) -> Report:
    """The first that failed, else the first that is not a PASS; counts of all."""
    first = next(r for v in (FAIL, INCONCLUSIVE, PASS) for r in reports if r.verdict == v)
    counts: dict[str, int] = {}
    for r in reports:
        for k, n in r.counts.items():
            counts[k] = counts.get(k, 0) + n
    return replace(first, counts=counts)
