"""Two pictures of a run: the roofline with its cases, and speed over size for square products."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import OURS
from benchmarks.records import Record
from benchmarks.roofline import Roof

SIZE = (9.0, 5.4)
COLOURS = {OURS: "#c1272d", "numpy": "#0071bc", "torch": "#e07b00", "torch-compile": "#8a5a00", "jax": "#5a3d9a", "onnxruntime": "#22863a"}
FAMILIES = [  # how the name of an op begins; the first that fits
    ("matmul_bf16", "v", "#e07b00"),
    ("matmul_int8", "P", "#22863a"),
    ("matmul", "o", "#c1272d"),
    ("conv2d", "s", "#0071bc"),
    ("dense", "D", "#8a5a00"),
    ("", "^", "#5a3d9a"),
]
PAD = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
DTYPES = {"float32": "-", "float64": "--", "bfloat16": "-.", "int8": ":"}


def pictures(records: Sequence[Record], roof: Roof, folder: Path) -> list[Path]:
    """Draw what there is to draw. Returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    made = []
    for name, draw in (("roofline.png", roofline), ("sweep.png", sweep)):
        figure = draw(records, roof)
        if figure is not None:
            figure.savefig(folder / name, dpi=150)
            made.append(folder / name)
    return made


def axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    ax = figure.add_subplot()
    ax.set_title(title, loc="left", fontsize=12)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_xscale("log")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    return figure, ax


def roofline(records: Sequence[Record], roof: Roof) -> Any:
    """Ours in every case that counts operations, under the limits of the machine. None if there is no such case."""
    shown = [r for r in records if r["impl"] == OURS and r["gflops"] and r["gbs"]]
    if not shown:
        return None
    figure, ax = axes(f"Roofline, {roof.threads} thread{'s'[: roof.threads > 1]}", "operations a byte", "GFLOP/s")
    ax.set_yscale("log")
    at = [r["gflops"] / r["gbs"] for r in shown]
    left, right = min(*at, 1.0) / 2, max(*at, 100.0) * 2
    x = np.geomspace(left, right, 200)
    dtypes = [dtype for dtype in DTYPES if dtype in roof.peaks and dtype in {r["dtype"] for r in shown}]
    top = max((roof.peaks[dtype] for dtype in dtypes), default=max(roof.peaks.values())) / 1e9
    for level, speed in sorted(roof.bandwidths.items()):
        ax.plot(x, np.minimum(x * speed / 1e9, top), color="#999999", linewidth=1.0)
        name = f"L{level}" if level else "memory"
        height = left * 1.15 * speed / 1e9
        ax.annotate(f"{name} {speed / 1e9:.0f} GB/s", (left * 1.15, height), fontsize=8, color="#666666", va="center", bbox=PAD)
    for dtype in dtypes:
        peak = roof.peaks[dtype] / 1e9
        ax.axhline(peak, color="#333333", linewidth=1.2, linestyle=DTYPES[dtype])
        ax.annotate(f"{dtype}, peak {peak:,.0f}", (right, peak), fontsize=8, color="#333333", ha="right", va="bottom")
    for family, marker, colour in FAMILIES:
        mine = [r for r in shown if next(name for name, *_ in FAMILIES if r["op"].startswith(name)) == family]
        if mine:
            places = [r["gflops"] / r["gbs"] for r in mine], [r["gflops"] for r in mine]
            ax.scatter(*places, s=26, marker=marker, color=colour, alpha=0.75, linewidths=0, label=family or "others", zorder=3)
    ax.set_xlim(left, right)
    ax.set_ylim(min(r["gflops"] for r in shown) / 2, top * 2)
    ax.legend(frameon=False, loc="lower right", fontsize=9)
    return figure


def sweep(records: Sequence[Record], roof: Roof) -> Any:
    """Square products in float32, everybody. None if there are fewer than two sizes."""
    lines: dict[str, dict[int, float]] = {}
    for r in records:
        if r["op"] == "matmul" and r["dtype"] == "float32" and r["stands_for"] == "square" and r["gflops"]:
            lines.setdefault(r["impl"], {})[int(r["shape"].partition("x")[0])] = r["gflops"]
    if not any(len(line) > 1 for line in lines.values()):
        return None
    figure, ax = axes(f"Square products in float32, {roof.threads} thread{'s'[: roof.threads > 1]}", "rows and columns", "GFLOP/s")
    sizes = sorted({n for line in lines.values() for n in line})
    peak = roof.peaks.get("float32")
    if peak:
        ax.axhline(peak / 1e9, color="#333333", linewidth=1.0, linestyle="--")
        ax.annotate(f"peak {peak / 1e9:.0f}", (sizes[0], peak / 1e9), fontsize=8, color="#333333", va="bottom")
    for impl, line in lines.items():
        colour = COLOURS.get(impl, "#777777")
        ax.plot(
            sorted(line), [line[n] for n in sorted(line)], marker="o", markersize=4, linewidth=2.2 if impl == OURS else 1.3, color=colour
        )
    labels(ax, {impl: (max(line), line[max(line)]) for impl, line in lines.items()})
    ax.set_xticks(sizes, [str(n) for n in sizes], fontsize=9)
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.set_xlim(sizes[0] / 1.1, sizes[-1] * 1.6)
    return figure


def labels(ax: Any, ends: dict[str, tuple[int, float]]) -> None:
    """A name at the right end of each line, moved apart where they would cover one another."""
    low, high = ax.get_ylim()
    gap, below = 0.045 * (high - min(low, 0.0)), -np.inf
    for impl, (x, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        place = max(y, below + gap)
        ax.annotate(f"  {impl}", (x, place), color=COLOURS.get(impl, "#777777"), fontsize=9, va="center", annotation_clip=False)
        below = place
