"""`check_gradient`: draw calls, judge each, shrink what fails, judge it again, report."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from engine.testing import contracts
from engine.testing.adapters import Adapted, framework_of
from engine.testing.adapters.pairs import in_parts, taken_apart
from engine.testing.case import Case
from engine.testing.contract import Contract
from engine.testing.diagnose import diagnosis
from engine.testing.examine import Examiner, Judged, masked
from engine.testing.finding import TAIL, WRONG, Finding, worst
from engine.testing.layouts import laid_out
from engine.testing.report import FAIL, INCONCLUSIVE, PASS, Counterexample, Report
from engine.testing.search import Search
from engine.testing.signature import understand
from engine.testing.strategies import cases as calls
from engine.testing.subject import ClaimError, Subject, floating, is_float, outputs

REPEATS = 60  # of one call, to see whether it always gives the same
CONCLUSIVE = 0.1  # of the elements that were looked at, or there is no verdict
BFLOAT16 = 3.3e38  # all but its largest number
SEVERITIES = (WRONG, TAIL)


def check_gradient(
    f: Callable[..., Any], vjp: Callable[..., Any] | None = None, *, jvp: Callable[..., Any] | None = None, signature: Any = None,
    domain: Any = None, kwargs: Any = None, cases: Any = None, framework: str | None = None, reference: Callable[..., Any] | None = None,
    examples: int = 200, seed: int = 0, orders: Iterable[int] = (1,), max_elements: int = 27, severity: str = WRONG,
    vary_values: bool = True, batched: Any = None,
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
    batched      f for a stack of calls, such as jax.vmap(f) or torch.vmap(f); or (f, vjp) for stacks. Checked against a loop over f

    Raises TypeError if there is nothing to check, ValueError if no shapes are found that f takes.
    """
    if severity not in SEVERITIES:
        raise ValueError(f"severity is one of {', '.join(SEVERITIES)}, given {severity!r}")
    start = time.perf_counter()
    framework = framework or framework_of(f) or "numpy"
    f, reference, signature = taken_apart(f, reference, signature)
    subject = subject_of(f, vjp, jvp, framework, reference)
    stacked = None if batched is None else of_stacks(batched, framework or framework_of(f))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        contract = understand(subject, signature, domain, kwargs, cases=cases)
        strategy = drawn(contract, cases, max_elements, vary_values)
        reports = [checked(subject, contract, strategy, examples, seed, severity, order, vary_values, stacked) for order in orders]
    return replace(combined(reports), seconds=time.perf_counter() - start)


def subject_of(f: Any, vjp: Any, jvp: Any, framework: str | None, reference: Any) -> Subject:
    """A Subject from what a user gives. Raises TypeError if there is no derivative to check."""
    name = getattr(f, "__name__", type(f).__name__)
    framework = framework or framework_of(f)
    if framework is None or framework == "numpy":
        if vjp is None and jvp is None:
            raise TypeError(f"{name} is a function of NumPy arrays: give its vjp or its jvp, or name the framework that differentiates it")
        return Subject(f, vjp, jvp, reference, name=name)
    adapted, reference = Adapted(f, framework), reference and in_parts(reference)
    if vjp is not None or jvp is not None:
        return Subject(adapted, vjp and adapted.hand_written(vjp), jvp and adapted.hand_written(jvp), reference, name=name)
    if not adapted.differentiates:
        raise TypeError(f"{framework} has no derivatives of its own: give the vjp of {name}")
    return Subject(adapted, adapted.vjp, adapted.jvp, reference, lambda count: gradient_of(adapted, name, count), name)


def of_stacks(batched: Any, framework: str | None) -> Subject:
    """A Subject from what a user gives for stacks of calls: a function of a framework, or a pair (f, vjp)."""
    f, vjp = batched if isinstance(batched, tuple) else (batched, None)
    return subject_of(f, vjp, None, framework, None)


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
    if any(a.rounded for a in contract.arguments):
        return rounded(case, contract)
    return lowered(case) if low and vary_values else case


def rounded(case: Case, contract: Contract) -> Case:
    """The same call with bfloat16 for float32, where the contract says so. What would be infinite is the largest number."""
    made: dict[int, Any] = {}
    for x, layout, argument in zip(case.args, case.layouts, contract.arguments, strict=True):
        if argument.rounded is not None and is_float(x):
            made.setdefault(id(x), laid_out(np.clip(x, -BFLOAT16, BFLOAT16).astype(argument.rounded), layout))
    return replace(case, args=tuple(made.get(id(x), x) for x in case.args))


def lowered(case: Case) -> Case:
    """The same call with float32 for float64."""
    made: dict[int, Any] = {}
    for x, layout in zip(case.args, case.layouts, strict=True):
        is_double = isinstance(x, np.ndarray) and x.dtype == np.float64
        made.setdefault(id(x), laid_out(x.astype(np.float32), layout) if is_double else x)
    if any(leaves_the_range(x, made[id(x)]) for x in case.args if is_float(x)):
        return case
    return replace(case, args=tuple(made[id(x)] for x in case.args), cast=True)


def leaves_the_range(x: Any, lower: Any) -> bool:
    """Does a number become infinite, or 0, in the lower precision?"""
    return bool(np.any(np.isfinite(x) & ~np.isfinite(lower)) or np.any((np.asarray(x) != 0) & (lower == 0)))


def checked(
    subject: Subject, contract: Contract, strategy: Any, examples: int, seed: int, severity: str, order: int, vary_values: bool,
    batched: Subject | None = None,
) -> Report:  # fmt: skip
    """The report on one order of derivative."""
    if order == 2:
        subject, strategy = second_order(subject, len(contract.names), strategy)
    examiner = Examiner(subject, contract.names, severity, contract.alternatives, batched)
    search = Search(examiner, examples, seed)
    search.run(strategy)
    if not search.known:
        return report(examiner, undetermined(examiner, search.kept, order), "", contract.notes)
    case, judged = search.smallest(contract) if vary_values else search.known[search.last]
    return report(examiner, *explained(examiner, case, judged, order), contract.notes)


def second_order(subject: Subject, count: int, strategy: Any) -> tuple[Subject, Any]:
    """The gradient as a function of the cotangents and the arguments, of which there are `count`; and calls for it.

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

    return subject.gradient(count), strategy.map(called)


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
        except ClaimError:  # judged already
            continue
        try:
            off = sum(not contracts.alike(examiner.subject.gradients(g, case.args, y, case.kwargs), first) for _ in range(REPEATS))
        except ClaimError as e:
            return Counterexample(case, g, Finding("determinism", f"called {REPEATS} times, {e}"), None, order)
        if off:
            return Counterexample(
                case, g, Finding("determinism", f"{off} of {REPEATS} calls give another gradient than the first"), None, order
            )
    return None


def report(examiner: Examiner, counterexample: Counterexample | None, words: str, notes: Sequence[str]) -> Report:
    tally = examiner.counted
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
