"""What a smaller model costs and what it gains: accuracy against the dense one, numbers kept, bytes, latency; as a table and a picture.

rows = [measured("dense", answers, answers, truth, params), measured("a tenth", others, answers, truth, pruned)]
rows = timed(rows, [predict, fast], {1: x[:1], 64: x[:64]})
print(table(rows))
plot(rows, "accuracy.png")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np

from engine import packed
from engine.metrics import mcnemar, wilson_interval

BESIDE = 1.03  # files of the same size are drawn so much apart
ROUNDS, SECONDS = 15, 0.02  # of timing: turns that each model takes, and how long one lasts at least


@dataclass(frozen=True)
class Row:
    """One model.

    right, of, interval   answers that are right, of how many, and the 95 % interval of the accuracy
    p                     of the exact McNemar test against the dense model's answers; None for the dense one
    kept, numbers         numbers that are not 0, and that there are
    bytes                 "dense": the arrays as they are; "payload": positions and values of the packed file; "file": all of it;
                          "gzip": the arrays, compressed by gzip
    latency               microseconds of a call, by batch: the median over the rounds, and the best
    note                  how it runs
    """

    name: str
    right: int
    of: int
    interval: tuple[float, float]
    p: float | None
    kept: int
    numbers: int
    bytes: dict[str, int]
    latency: dict[int, tuple[float, float]] = field(default_factory=dict)
    note: str = ""

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right / self.of

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {**asdict(self), "accuracy": self.accuracy}


def measured(name: str, answers: Any, dense: Any, truth: Any, params: Mapping[str, Any], *, note: str = "") -> Row:
    """What is known without a clock. `answers` are the model's, `dense` those of the dense model, both on the examples of `truth`."""
    right, of = int(np.sum(np.asarray(answers) == truth)), len(truth)
    found = packed.sizes(params)
    return Row(
        name,
        right,
        of,
        wilson_interval(right, of),
        None if answers is dense else mcnemar(truth, answers, dense),
        sum(int(np.count_nonzero(p)) for p in params.values()),
        sum(int(np.size(p)) for p in params.values()),
        {"dense": int(found["dense"]), "payload": int(found["payload"]), "file": int(found["file"]), "gzip": int(found["dense, gzip"])},
        note=note,
    )


def timed(rows: Sequence[Row], models: Sequence[Callable[[Any], Any]], inputs: Mapping[int, Any]) -> list[Row]:
    """The rows with the time of a call of each one's model for each batch. All take turns, so that a busy moment hits all alike."""
    spent: dict[tuple[int, int], list[float]] = {(i, batch): [] for i in range(len(rows)) for batch in inputs}
    calls = {(i, batch): _calls(models[i], inputs[batch]) for i, batch in spent}
    for _ in range(ROUNDS):
        for (i, batch), times in spent.items():
            began = time.perf_counter()
            for _ in range(calls[i, batch]):
                models[i](inputs[batch])
            times.append((time.perf_counter() - began) / calls[i, batch] * 1e6)
    return [replace(row, latency={b: (median(spent[i, b]), min(spent[i, b])) for b in inputs}) for i, row in enumerate(rows)]


def _calls(model: Callable[[Any], Any], x: Any) -> int:
    """How many calls last long enough for the clock; the first, which may compile, does not count."""
    model(x)
    began = time.perf_counter()
    model(x)
    return max(1, round(SECONDS / max(time.perf_counter() - began, 1e-7)))


# As a table.

HEAD = ("model", "accuracy", "95 % interval", "p", "kept", "of dense", "bytes", "file", "times", "gzip")


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table in words, its head first. "times" is how many times smaller the packed file is than the dense model's float32."""
    batches = list(rows[0].latency) if rows else []
    whole = rows[0].bytes["dense"] if rows else 1
    body = [
        [
            row.name,
            f"{row.accuracy:.2%}",
            f"{row.interval[0]:.2%} to {row.interval[1]:.2%}",
            "" if row.p is None else f"{row.p:.2g}",
            f"{row.kept:,}",
            f"{row.kept / rows[0].kept:.1%}",
            f"{row.bytes['payload']:,}",
            f"{row.bytes['file']:,}",
            f"{whole / row.bytes['file']:.1f}",
            f"{row.bytes['gzip']:,}",
            *[f"{row.latency[b][0]:,.0f}" for b in batches],
            row.note,
        ]
        for row in rows
    ]
    return [[*HEAD, *[f"us, batch {b}" for b in batches], "runs as"], *body]


def table(rows: Sequence[Row]) -> str:
    """The table as text, in columns."""
    lines = cells(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1

    def aligned(line: Sequence[str]) -> str:
        return "  ".join(c.ljust(w) if i in (0, last) else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))).rstrip()

    return "\n".join(map(aligned, lines))


def markdown(rows: Sequence[Row]) -> str:
    """The table for a README."""
    head, *body = cells(rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))


def plot(rows: Sequence[Row], path: Any, *, title: str, joined: bool = True) -> None:
    """Accuracy against the size of the file, with intervals; the dense model, which is the first, as a line.

    joined   the rows are stages of one thing, with a line through them; else each is a model of its own, with a colour of its own
    """
    from engine.report import GREY, TRAIN, plain_log_ticks, plots, styled

    sizes = np.array([row.bytes["file"] / 1024 for row in rows])
    accuracy = np.array([row.accuracy for row in rows]) * 100
    low, high = (np.array([row.interval[i] for row in rows]) * 100 for i in (0, 1))
    bars: Any = {"marker": "o", "markersize": 4, "capsize": 2, "lw": 1.4}
    with styled():
        made, (panel,) = plots(1, 1, 6.6, 4.2)
        panel.axhline(accuracy[0], color=GREY, lw=1, ls="--")
        panel.set(xscale="log", title=title, xlabel="packed file, KiB", ylabel="accuracy on the test set, %")
        if joined:
            panel.errorbar(sizes, accuracy, yerr=[accuracy - low, high - accuracy], color=TRAIN, **bars)
            for i, (size, y, row) in enumerate(zip(sizes, accuracy, rows, strict=True)):
                panel.annotate(row.name, (size, y), textcoords="offset points", xytext=(5, 6 if i % 2 else -12), fontsize=8)
        else:
            for i, (size, row) in enumerate(zip(sizes * BESIDE ** np.arange(len(rows)), rows, strict=True)):
                label = f"{row.name}: {row.accuracy:.2%}, {sizes[i]:,.1f} KiB"
                panel.errorbar(size, accuracy[i], yerr=[[accuracy[i] - low[i]], [high[i] - accuracy[i]]], ls="", label=label, **bars)
            made.legend(loc="outside lower center", fontsize=8)
        panel.set_xlim(sizes.min() / 1.6, sizes.max() * 1.6)
        plain_log_ticks(panel.xaxis, panel.get_xlim())
        made.savefig(path)
