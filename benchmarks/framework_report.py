"""What was found about a framework's gradients, as lines, as findings with programs, and as the page benchmarks/frameworks.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.known_threads import KNOWN

Found = Mapping[str, Any]

KINDS = {
    "wrong": "Wrong numbers",
    "special": "nan or infinity where the gradient is finite",
    "kink": "Kinks and ties: no value between the slopes, or a sum that is wrong where the function is smooth",
    "digits": "Digits lost by the rule, where the function itself is accurate",
    "forward": "Forward mode",
    "empty": "Empty arrays",
    "contract": "Contracts, and the end of the process",
}
SMALL = 1e-2  # a relative error below this is a loss of digits


def kind(found: Found) -> str:
    """Which of KINDS a finding is."""
    check, claimed, true = found["check"], found.get("claimed", math.nan), found.get("reference", math.nan)
    if check == "jvp":
        return "forward"
    if found.get("size") == 0 or "zeros((" in found.get("program", ""):
        return "empty"
    if check in ("value", "kink") and not math.isfinite(claimed):
        return "special"
    if check in ("kink", "tie"):
        return "kink"
    if check != "value":
        return "contract"
    tiny = claimed == 0 and 0 < abs(true) < 1e-12
    return "digits" if tiny or abs(claimed - true) <= SMALL * abs(true) else "wrong"


def line(found: Found) -> str:
    return f"{found['verdict']:<13} {found['name']:<32} {found['seconds']:6.1f} s  {what(found)}"


def what(found: Found) -> str:
    """What is wrong, in a few words."""
    if found["verdict"] == "NOT RUN":
        return str(found.get("text", ""))
    if found["verdict"] != "FAIL":
        return "; ".join(found.get("reasons", {}))
    order = " (second order)" if found.get("order") == 2 else ""
    if found["check"] in ("value", "tie", "kink") and math.isfinite(found["reference"]):
        words = f"{found['claimed']:.10g} for {found['reference']:.10g}"
        if found["check"] == "kink":
            words = f"{found['claimed']:.10g} {found['what']}".replace("at a kink, and ", "at a kink, ")
        return f"{found['check']}{order}: {words}"
    if found["check"] == "jvp" and math.isfinite(found["claimed"]) and math.isfinite(found["reference"]):
        return f"{found['check']}{order}: {found['claimed']:.10g} for {found['reference']:.10g}, {found['what']}"
    return f"{found['check']}{order}: {found['what']}"


def counted(found: Sequence[Found]) -> str:
    return ", ".join(f"{n} {v}" for v, n in Counter(f["verdict"] for f in found).most_common())


def findings(found: Sequence[Found], framework: str, level: str = "#") -> str:
    """Each FAIL with its program, by kind."""
    failed = [f for f in found if f["verdict"] == "FAIL"]
    parts = [f"{len(found)} functions: {counted(found)}"]
    for key, title in KINDS.items():
        of_kind = [f for f in failed if kind(f) == key]
        if of_kind:
            parts += [f"{level}# {title}", *(one(f, framework) for f in of_kind)]
    return "\n\n".join(parts)


def one(found: Found, framework: str) -> str:
    thread = KNOWN[framework].get(found["name"], "")
    oracle = f" ({found['oracle']})" if found.get("oracle") else ""
    words = f"**{found['name']}** {what(found)}{oracle}. {thread}".rstrip()
    return f"{words}\n\n```python\n{found['program']}\n```"


def table(found: Iterable[Found]) -> str:
    """A row for each function."""
    head = (
        "| function | family | verdict | numbers judged | by mpmath | at kinks | undecided | seconds |\n|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *map(row, found)])


def row(f: Found) -> str:
    c = f.get("counts", {})
    numbers = " | ".join(str(c.get(k, "")) for k in ("elements", "arbitrated", "at a kink", "inconclusive"))
    return f"| `{f['name']}` | {f['group']} | {f['verdict']} | {numbers} | {f['seconds']:.1f} |"


def tails(found: Sequence[Found]) -> str:
    """The functions whose gradients lose digits where that is no mistake of the rule."""
    some = [f for f in found if f.get("tail") and f["verdict"] == "PASS"]
    head = "| function | claimed | true | why it is not counted as wrong |\n|---|---|---|---|"
    rows = [f"| `{f['name']}` | {f['tail']['claimed']:.6g} | {f['tail']['reference']:.6g} | {f['tail']['text']} |" for f in some]
    return "\n".join([head, *rows]) if rows else "None."


def section(framework: str, about: Found, found: Sequence[Found]) -> str:
    """All of it, for the page."""
    versions = ", ".join(f"{p} {v}" for p, v in about["versions"].items())
    seconds = sum(f["seconds"] for f in found)
    settings = f"{about['examples']} calls a function, seed {about['seed']}, order {about['orders'][-1]}"
    head = f"{versions}; {settings}; {seconds / 60:.0f} minutes on one core."
    rest = [f for f in found if f["verdict"] not in ("PASS", "FAIL")]
    parts = [head, findings(found, framework, "##")]
    if rest:
        parts += ["### Without a verdict", "\n".join(f"- `{f['name']}` {f['verdict']}: {what(f)}" for f in rest)]
    parts += ["### Tails", tails(found), "### All functions", table(found)]
    return "\n\n".join(parts)


def update(page: Path, framework: str, about: Found, found: Sequence[Found]) -> None:
    """Writes the section of one framework between its markers."""
    begin, end = f"<!-- {framework}: begin -->", f"<!-- {framework}: end -->"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{section(framework, about, found)}\n\n{end}{after}")
