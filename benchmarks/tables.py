"""Records as text: rows on a terminal, a summary of a suite, tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks import interval
from benchmarks.clock import CALLED
from benchmarks.peers import OURS
from benchmarks.records import Record, ours
from benchmarks.suites import Suite

COLUMNS = {"median us": 10, "best us": 10, "spread": 6, "GFLOP/s": 8, "GB/s": 6, "of limit": 8, "first s": 8}
HEAD = f"  {'':<26} {' '.join(name.rjust(width) for name, width in COLUMNS.items())}   ours is faster by"


def rows(records: Sequence[Record]) -> list[str]:
    """The lines of one case."""
    lines = [f"{records[0]['case']}   {records[0]['stands_for']}"]
    base = next((r for r in records if r["impl"] == OURS), next((r for r in records if ours(r["impl"])), None))
    for r in records:
        if r["missing"]:
            lines.append(f"  {called(r['impl']):<26} {'WRONG: ' if r['missing'].startswith('wrong') else ''}{r['missing']}")
            continue
        about = base["ratio_to"].get(r["impl"]) if base else None
        figures = [
            f"{r['median_s'] * 1e6:.1f}", f"{r['best_s'] * 1e6:.1f}", f"{r['spread']:.2f}",
            *(f"{r[k]:.1f}" if r[k] else "" for k in SPEEDS), share(r), f"{r['first_s']:.2f}" if r["first_s"] else "",
        ]  # fmt: skip
        text = " ".join(figure.rjust(width) for figure, width in zip(figures, COLUMNS.values(), strict=True))
        lines.append(f"  {called(r['impl']):<26} {text}   {interval.Ratio(**about) if about else ''}".rstrip())
    return lines


def called(name: str) -> str:
    """A function in a file without the folder."""
    return name.rpartition("/")[2] if ":" in name else name


SPEEDS = ("gflops", "gbs")


def share(r: Record) -> str:
    return f"{r['share_of_limit']:.0%}" if r["share_of_limit"] else ""


@dataclass(frozen=True)
class Row:
    """One row of the table of targets: a suite against one peer."""

    suite: Suite
    peer: str
    mean: interval.Ratio
    worst: tuple[float, str]
    best: tuple[float, str]
    cases: int

    @property
    def target(self) -> float | None:
        return self.suite.target if self.peer in (self.suite.of or self.suite.against) else None

    def __str__(self) -> str:
        target = f"   target {self.target:g}: {'met' if self.mean.median >= self.target else 'missed'}" if self.target else ""
        ends = f"worst {self.worst[0]:.2f} ({self.worst[1]}), best {self.best[0]:.2f} ({self.best[1]})"
        return f"{called(self.suite.name):<14} against {self.peer:<14} {self.mean!s:<22} over {self.cases} cases, {ends}{target}"


def summary(suite: Suite, records: Iterable[Record]) -> list[Row]:
    """The geometric mean over the cases of a suite, against each peer that ran in any; of the user's function, if it has its name."""
    impl = suite.name if ":" in suite.name else OURS
    names = {str(case) for case in suite.cases}
    found: dict[str, dict[str, Record]] = {}
    for r in records:
        if r["case"] in names and r["rounds_s"]:
            found.setdefault(r["impl"], {})[r["case"]] = r
    made = []
    for peer, theirs in found.items():
        both = [case for case in theirs if case in found.get(impl, {})]
        if peer == impl or ":" in peer or not both:
            continue
        ratios = sorted((found[impl][case]["ratio_to"][peer]["median"], case) for case in both if peer in found[impl][case]["ratio_to"])
        if ratios:
            mean = interval.geometric_mean([(theirs[case]["rounds_s"], found[impl][case]["rounds_s"]) for _, case in ratios])
            made.append(Row(suite, peer, mean, ratios[0], ratios[-1], len(ratios)))
    return made


def markdown(suites: Iterable[Suite], records: Sequence[Record]) -> str:
    """The table of targets, then a table for each suite that ran."""
    ran = [(suite, made) for suite in suites if (made := summary(suite, records))]
    lines = ["| suite | what | against | ours is faster by | worst | best | target |", "|---|---|---|---|---|---|---|"]
    for suite, made in ran:
        for i, row in enumerate(made):
            target = f"{row.target:g}, {'met' if row.mean.median >= row.target else 'missed'}" if row.target else ""
            ends = " | ".join(f"{value:.2f}, {short(case)}" for value, case in (row.worst, row.best))
            name = f"{suite.name} | {suite.what}" if i == 0 else " | "
            lines.append(f"| {name} | {row.peer} | {row.mean} | {ends} | {target} |")
    return "\n".join([*conditions(records), "", *lines, *[line for suite, made in ran for line in table(suite, made, records)]])


def table(suite: Suite, made: Sequence[Row], records: Sequence[Record]) -> list[str]:
    """One line a case: ours, and against each peer."""
    peers = [row.peer for row in made]
    head = ["case", "us", "GFLOP/s", "GB/s", "of the limit", *(f"x {peer}" for peer in peers)]
    lines = ["", f"#### {suite.name}: {suite.what}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    found = {r["case"]: r for r in records if r["impl"] == OURS and r["rounds_s"]}
    several = len({case.op for case in suite.cases}) > 1
    for case in dict.fromkeys(map(str, suite.cases)):
        if case in found:
            r = found[case]
            ratios = [f"{r['ratio_to'][peer]['median']:.2f}" if peer in r["ratio_to"] else "" for peer in peers]
            cells = [case if several else short(case), f"{r['median_s'] * 1e6:,.1f}", *(number(r[k]) for k in SPEEDS), share(r), *ratios]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def short(case: str) -> str:
    """Without the op."""
    return case.partition(" ")[2]


def number(value: float | None) -> str:
    return f"{value:.0f}" if value and value >= 10 else f"{value:.1f}" if value else ""


def conditions(records: Sequence[Record]) -> list[str]:
    """On what, and how, in one line a kind of run; then the others with their versions."""
    ran = [r for r in records if r["rounds_s"]]
    others = sorted({r["backend"] for r in ran if not ours(r["impl"])})
    return [*dict.fromkeys(told(r) for r in ran), f"Others: {', '.join(others)}."]


def told(r: Record) -> str:
    cache, clock = "cold" if r["cold"] else "warm", CALLED[r["clock"]]
    threads = f"{r['threads']} thread{'s'[: r['threads'] > 1]}"
    return f"{r['machine']}; tier {r['tier']}, {threads} on either side, {cache} caches, {clock}."


BEGIN, END = "<!-- kernels: begin -->", "<!-- kernels: end -->"


def into(text: str, made: str) -> str:
    """A text with the tables between their markers. Raises ValueError if these are not there, once each and in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text has no {BEGIN} with {END} behind it")
    return f"{text.partition(BEGIN)[0]}{BEGIN}\n{made}\n{END}{text.partition(END)[2]}"
