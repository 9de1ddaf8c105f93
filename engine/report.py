"""Results as pictures, a table and one JSON file: loss curves, confusion matrices, the worst mistakes, the first filters.

matplotlib draws through Agg, without a display and without its global state: a Figure is made, saved and forgotten.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.metrics import confusion_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

TRAIN, TEST, WRONG, GREY = "#2a5d9f", "#d9732b", "#b3343a", "#6b7280"
SEQUENTIAL, DIVERGING = "Blues", "RdBu_r"
STYLE: Any = {
    "figure.dpi": 144,
    "figure.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e5e7eb",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
}
SMALL: Any = {"fontsize": 8, "fontweight": "normal", "loc": "center"}


@dataclass(frozen=True)
class Curve:
    """The loss while training, as points (epochs done, loss). The loss in training is a mean over an epoch: it stands in its middle."""

    train: Sequence[tuple[float, float]]
    test: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Answers:
    """What a model said about the test set."""

    truth: np.ndarray
    said: np.ndarray
    names: Sequence[str] = ()  # of the classes; none for a regression
    sureness: np.ndarray | None = None  # the probability of what was said
    pictures: np.ndarray | None = None  # n h w, if the data are pictures


@dataclass(frozen=True)
class Result:
    """One trained model, with everything that the report shows of it."""

    model: str
    title: str
    data: str
    facts: dict[str, Any]  # for report.json: parameters, seconds, metrics, verdict
    curve: Curve | None  # None if it was not trained, but made from another
    answers: Answers
    extra: dict[str, Any] = field(default_factory=dict)  # words for the axes
    filters: np.ndarray | None = None  # o h w, of the first convolution
    picture: np.ndarray | None = None  # h w
    responses: np.ndarray | None = None  # o h w, of the picture to each filter


def write(results: Sequence[Result], facts: dict[str, Any], folder: str | os.PathLike[str]) -> list[Path]:
    """Write every picture that the results call for, then table.md and report.json; returns the files in that order.

    Raises OSError if the folder cannot be written.
    """
    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in pictures(results):
        with styled():
            figure = draw()
            figure.savefig(where / name)
        files.append(where / name)
    content = {**facts, "models": [r.facts for r in results], "pictures": [f.name for f in files]}
    texts = {"table.md": table(results), "report.json": json.dumps(finite(content), indent=2) + "\n"}
    for name, text in texts.items():
        (where / name).write_text(text, encoding="utf-8")
    return [*files, *(where / name for name in texts)]


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table. Where there are several seeds, the metric is their mean and standard deviation."""
    head = ["model", "data, train + test", "parameters", "train", "on the test set", "gradient"]
    rows = [head, ["---", "---", "---:", "---:", "---", "---"]]
    for r in results:
        f = r.facts
        name = next(iter(f["metrics"]))
        metric = f["seeds"][name]
        spread = f" ± {metric['sd']:.3f}" if len(metric["values"]) > 1 else ""
        rows.append(
            [
                r.title,
                f"{r.data}, {f['examples']['train']:,} + {f['examples']['test']:,}",
                f"{f['parameters']:,}",
                f"{f['seconds']['train']:.1f} s",
                f"{name.replace('r2', 'R2')} {metric['mean']:.3f}{spread}",
                f"{f['gradient']['verdict']}, {f['gradient']['worst']:.0e}" if f["gradient"] else f"none: {smaller(f)}",
            ]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def smaller(facts: dict[str, Any]) -> str:
    """How much a model in integers takes, as a file, of what it took in float32."""
    return f"{facts['bytes']['float32'] / facts['bytes']['file']:.2g}x smaller"


def finite(tree: Any) -> Any:
    """The same nesting for JSON: numbers of Python, and None for what is not finite."""
    if isinstance(tree, dict):
        return {str(k): finite(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [finite(v) for v in tree]
    if isinstance(tree, (np.generic, np.ndarray)):
        return finite(tree.tolist())
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def pictures(results: Sequence[Result]) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The names of the pictures and what draws them."""
    yield "loss.png", lambda: loss_curves(results)
    classified = [r for r in results if r.answers.names]
    if classified:
        yield "confusion.png", lambda: confusion_matrices(classified)
    fitted = [r for r in results if not r.answers.names]
    if fitted:
        yield "regression.png", lambda: regressions(fitted)
    for r in results:
        if r.answers.pictures is not None and r.answers.sureness is not None and len(worst(r.answers, 1)):
            yield f"mistakes-{r.model}.png", lambda r=r: worst_mistakes(r)  # type: ignore[misc]
        if r.filters is not None:
            yield f"filters-{r.model}.png", lambda r=r: first_filters(r)  # type: ignore[misc]


@contextmanager
def styled() -> Iterator[None]:
    """The project's style, inside the block only."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def plots(columns: int, rows: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels with axes and titles, each `width` by `height` inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    room = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1)
    made = Figure(figsize=(columns * width, rows * height), layout=room)
    return made, list(made.subplots(rows, columns, squeeze=False).ravel())


def pictures_in_rows(columns: int, rows: int, size: float, title: str, right: float = 0.99) -> tuple[Figure, list[Axes]]:
    """A figure of square pictures under small titles, `size` inches each. Its layout is fixed: to find one for so many is slow."""
    from matplotlib.figure import Figure

    width, height, head = columns * size, rows * (size + 0.4), 0.3
    made = Figure(figsize=(width, height + head))
    panels = made.subplots(rows, columns, squeeze=False)
    made.subplots_adjust(0.01, 0.01, right, (height - 0.4) / (height + head), wspace=0.08, hspace=0.48 / size)
    made.suptitle(title, fontsize=11, fontweight="bold", x=0.01, y=1 - 0.1 / (height + head), ha="left", va="top")
    for panel in panels.ravel():
        panel.axis("off")
    return made, list(panels.ravel())


def grid(count: int, most: int) -> tuple[int, int]:
    """Columns and rows for `count` panels, at most `most` in a row."""
    columns = min(count, most)
    return columns, math.ceil(count / columns)


def loss_curves(results: Sequence[Result]) -> Figure:
    """A panel a trained model: the loss on the training data and on the test data after each epoch."""
    trained = [(r, r.curve) for r in results if r.curve]
    made, panels = plots(*grid(len(trained), 3), 3.6, 2.9)
    for panel, (r, curve) in zip(panels, trained, strict=False):
        panel.plot(*np.transpose(curve.train), color=TRAIN, label="train")
        panel.plot(*np.transpose(curve.test), color=TEST, label="test")
        panel.set(title=r.title, xlabel="epoch", ylabel=f"loss, {r.extra.get('loss', 'mean')}", yscale="log")
        plain_log_ticks(panel.yaxis, panel.get_ylim())
        panel.legend(loc="upper right")
    empty(panels[len(trained) :])
    return made


def plain_log_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """Numbers such as 0.05 on a logarithmic axis, and not only powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = limits
    subs = (1.0, 2.0, 5.0) if math.log10(high / low) < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())


def empty(panels: Iterable[Axes]) -> None:
    """Leave panels blank."""
    for panel in panels:
        panel.axis("off")


def confusion_matrices(results: Sequence[Result]) -> Figure:
    """A panel a classifier; the colour is the share of the row, the number the count."""
    made, panels = plots(*grid(len(results), 2), 4.6, 4.4)
    for panel, r in zip(panels, results, strict=False):
        matrix = confusion_matrix(r.answers.truth, r.answers.said, labels=np.arange(len(r.answers.names)))
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        panel.imshow(share, cmap=SEQUENTIAL, vmin=0, vmax=1)
        for (i, j), n in np.ndenumerate(matrix):
            if n:
                ink = "white" if share[i, j] > 0.4 else WRONG if i != j else "black"
                panel.text(j, i, str(n), ha="center", va="center", fontsize=8 if len(matrix) > 4 else 12, color=ink)
        ticks = range(len(r.answers.names))
        panel.set_xticks(ticks, r.answers.names)
        panel.set_yticks(ticks, r.answers.names)
        panel.set(title=f"{r.title}\n{int(np.trace(matrix))} of {matrix.sum()} right", xlabel="said", ylabel="true")
        panel.grid(visible=False)
    empty(panels[len(results) :])
    return made


def regressions(results: Sequence[Result]) -> Figure:
    """A panel a regression: what was said against the truth."""
    made, panels = plots(*grid(len(results), 2), 4.6, 4.2)
    for panel, r in zip(panels, results, strict=False):
        truth, said = r.answers.truth, r.answers.said
        ends = [min(truth.min(), said.min()), max(truth.max(), said.max())]
        panel.plot(ends, ends, color=GREY, linewidth=1, linestyle="--", label="equal")
        panel.scatter(truth, said, s=18, color=TEST, alpha=0.7, linewidth=0, label="test set")
        panel.set(title=r.title, xlabel=f"true {r.extra.get('target', 'value')}", ylabel="predicted", aspect="equal")
        panel.legend(loc="upper left")
    return made


def worst(answers: Answers, count: int) -> np.ndarray:
    """Indices of the wrong answers, the surest first."""
    wrong = np.flatnonzero(answers.truth != answers.said)
    assert answers.sureness is not None
    return wrong[np.argsort(-answers.sureness[wrong], kind="stable")][:count]


def percent(p: float) -> str:
    """0.998 is not called 100%."""
    return ">99%" if p > 0.99 else f"{p:.0%}"


def worst_mistakes(r: Result, count: int = 24) -> Figure:
    """The pictures that were read wrongly with the greatest confidence."""
    a = r.answers
    assert a.pictures is not None and a.sureness is not None
    chosen, total = worst(a, count), int(np.sum(a.truth != a.said))
    shown = f"all {total}" if total <= count else f"{len(chosen)} of {total}"
    columns, rows = grid(len(chosen), 8)
    made, panels = pictures_in_rows(max(columns, 5), rows, 1.2, f"{r.title}: the surest mistakes on the test set, {shown}")
    for panel, i in zip(panels, chosen, strict=False):
        panel.imshow(a.pictures[i], cmap="gray_r")
        panel.set_title(f"{a.names[a.truth[i]]}, said {a.names[a.said[i]]}\n{percent(a.sureness[i])} sure", **SMALL)
    return made


def first_filters(r: Result) -> Figure:
    """Each filter of the first convolution; below it, what it answers to one picture."""
    assert r.filters is not None and r.picture is not None and r.responses is not None
    n = len(r.filters) + 1
    made, panels = pictures_in_rows(n, 2, 1.35, f"{r.title}: the first filters, and the response of each", right=0.93)
    above, below = panels[:n], panels[n:]
    below[0].imshow(r.picture, cmap="gray_r")
    below[0].set_title("a test picture", **SMALL)
    for row, pictures, label in ((above, r.filters, "filter"), (below, r.responses, "response")):
        size = float(np.abs(pictures).max())
        for i, (panel, picture) in enumerate(zip(row[1:], pictures, strict=True), start=1):
            drawn = panel.imshow(picture, cmap=DIVERGING, vmin=-size, vmax=size)
            panel.set_title(f"{label} {i}", **SMALL)
        place = row[-1].get_position()
        made.colorbar(drawn, cax=made.add_axes((place.x1 + 0.01, place.y0, 0.01, place.height)))
    return made
