"""How many zeros a matrix must have before its product without them is the faster one.

    python -m benchmarks sparse-break-even                                    CSR and blocks, a layer of 784 inputs and 300 outputs
    python -m benchmarks sparse-break-even --shape 512 512 --batch 64 --json FILE --plot FILE.png

Ours without zeros, our own dense product of the same matrix, zeros and all, and SciPy's product of its CSR or BSR: one thread each, by
the CPU time of the thread, in turns A B C A B C; what is not right is not timed. Zeros lie at random: those of CSR one by one, those of
blocks as whole blocks. 2:4 has half zeros by its definition. The break-even is where the ratio of medians to the dense product crosses 1,
interpolated between two densities on logarithmic scales.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from time import thread_time
from typing import Any

import numpy as np

import kernels
from benchmarks.clock import Times, times
from engine import sparse

ZEROS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
ROUND = 0.004  # seconds
ALLOWED = {"float32": 1e-5, "float64": 1e-13}  # relative to the product of absolute values


@dataclass(frozen=True)
class Point:
    """One matrix, times one b."""

    form: str  # csr, bsr 4x4, ... or 2:4
    shape: tuple[int, int]
    batch: int
    dtype: str
    zeros: float
    ours: Times
    dense: Times
    scipy: Times | None  # it has no 2:4

    @property
    def density(self) -> float:
        return 1 - self.zeros

    def over(self, other: Times | None) -> float | None:
        """How many times faster ours is, by medians."""
        return None if other is None else other.median / self.ours.median


class Wrong(RuntimeError):
    """An implementation that does not say what the dense product in float64 says."""


@contextmanager
def one_thread() -> Iterator[None]:
    from numba import config

    before, config.NUMBA_NUM_THREADS = config.NUMBA_NUM_THREADS, 1
    try:
        yield
    finally:
        config.NUMBA_NUM_THREADS = before


def matrix(form: str, m: int, k: int, zeros: float, dtype: str) -> np.ndarray:
    """A dense matrix (m, k) with about so many zeros, lying as the form has them."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(m, k)).astype(dtype)
    if form == "2:4":
        chosen = np.argsort(np.argsort(rng.random((m, k // 4, 4)), axis=2), axis=2) < 2
        return np.where(chosen.reshape(m, k), w, 0).astype(dtype)
    r, c = block(form)
    kept = rng.random((math.ceil(m / r), math.ceil(k / c))) >= zeros
    return np.where(np.kron(kept, np.ones((r, c), bool))[:m, :k], w, 0).astype(dtype)


def block(form: str) -> tuple[int, int]:
    if form == "csr":
        return 1, 1
    r, c = form.removeprefix("bsr ").split("x")
    return int(r), int(c)


def sides(form: str, w: np.ndarray, b: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The calls to be compared, for a product w b."""
    from scipy.sparse import bsr_matrix, csr_matrix

    run = {op: kernels.serving(op, "cpu").run for op in ("matmul", "matmul_csr", "matmul_bsr", "matmul_2to4")}
    calls = {"dense": partial(run["matmul"], w, b)}
    if form == "csr":
        theirs = csr_matrix(w)
        calls["ours"] = partial(run["matmul_csr"], *sparse.csr(w), b)
    elif form == "2:4":
        return {**calls, "ours": partial(run["matmul_2to4"], *sparse.two_to_four(w), b)}
    else:
        theirs = bsr_matrix(w, blocksize=block(form))
        calls["ours"] = partial(run["matmul_bsr"], *sparse.bsr(w, block(form)), b)
    return {**calls, "scipy": lambda: theirs @ b}


def measure(form: str, shape: tuple[int, int], batch: int, zeros: float, dtype: str, rounds: int) -> Point:
    """Verified first, then timed in turns. Raises Wrong."""
    w = matrix(form, *shape, zeros, dtype)
    b = np.random.default_rng(1).normal(size=(shape[1], batch)).astype(dtype)
    calls = sides(form, w, b)
    want = w.astype(np.float64) @ b
    size = np.abs(w).astype(np.float64) @ np.abs(b)
    for name, call in calls.items():
        error = np.max(np.abs(call() - want) / np.maximum(size, np.finfo(dtype).tiny), initial=0.0)
        if not error <= ALLOWED[dtype]:
            raise Wrong(f"{name}, {form}, {shape} times {batch} columns, {zeros:.0%} zeros: off by {error:.1e}")
    repeats = {name: max(1, round(ROUND / max(spent(call, 3), 1e-7))) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(spent(call, repeats[name]))
    timed = {name: times(seconds) for name, seconds in found.items()}
    really = 1 - np.count_nonzero(w) / w.size
    return Point(form, shape, batch, dtype, really, timed["ours"], timed["dense"], timed.get("scipy"))


def spent(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of this thread a call."""
    start = thread_time()
    for _ in range(repeats):
        call()
    return (thread_time() - start) / repeats


def break_even(points: Sequence[Point]) -> float | None:
    """The density below which ours is faster than dense from there on; 1 if it always is, None if it is not at any density measured."""
    row = sorted(points, key=lambda p: p.density)  # the most zeros first
    gain = [math.log(p.over(p.dense) or 1.0) for p in row]
    lost = next((i for i, g in enumerate(gain) if g < 0), None)
    if lost is None:
        return 1.0
    if lost == 0:
        return None
    (low, won), (high, gone) = [(math.log(row[i].density), gain[i]) for i in (lost - 1, lost)]
    return math.exp(low + (high - low) * won / (won - gone))


def said(density: float | None) -> str:
    if density is None:
        return "not at any density measured"
    return "always" if density == 1.0 else f"from {1 - density:.0%} zeros on (density {density:.2f})"


def report(points: Sequence[Point]) -> str:
    """A table for each form: how many times faster ours is, by medians, and below it the break-even."""
    lines = []
    batches = list(dict.fromkeys(p.batch for p in points))
    for form in dict.fromkeys(p.form for p in points):
        mine = [p for p in points if p.form == form]
        rows = sorted({round(p.zeros, 3) for p in mine})
        lines += ["", f"{form}, a of {mine[0].shape[0]} x {mine[0].shape[1]}, {mine[0].dtype}", ""]
        lines.append("| zeros | " + " | ".join(f"batch {n}: us | x dense | x scipy" for n in batches) + " |")
        lines.append("|---|" + "---|" * (3 * len(batches)))
        for zeros in rows:
            cells = []
            for n in batches:
                p = next((p for p in mine if p.batch == n and round(p.zeros, 3) == zeros), None)
                ratios = [None, None] if p is None else [p.over(p.dense), p.over(p.scipy)]
                cells += ["" if p is None else f"{p.ours.median * 1e6:.1f}", *["" if r is None else f"{r:.2f}" for r in ratios]]
            lines.append(f"| {zeros:.1%} | " + " | ".join(cells) + " |")
        if form != "2:4":
            ends = [f"batch {n}: {said(break_even([p for p in mine if p.batch == n]))}" for n in batches]
            lines += ["", "faster than dense: " + "; ".join(ends)]
    worst = max(t.spread for p in points for t in (p.ours, p.dense))
    return "\n".join([*lines, "", f"largest spread (median over best) of ours and dense: {worst:.2f}"])


def plot(points: Sequence[Point], file: str) -> None:
    """Ours over dense, by zeros: a panel a batch, a line a form."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    batches = list(dict.fromkeys(p.batch for p in points))
    figure, panels = pyplot.subplots(1, len(batches), figsize=(4.6 * len(batches), 4.2), sharey=True, squeeze=False, layout="constrained")
    for panel, n in zip(panels[0], batches, strict=True):
        panel.axhline(1, color="black", linewidth=1)
        for colour, form in enumerate(dict.fromkeys(p.form for p in points)):
            row = sorted((p for p in points if p.form == form and p.batch == n), key=lambda p: p.density)
            density = [p.density for p in row]
            style = {"color": f"C{colour}", "marker": "o", "markersize": 4}
            panel.plot(density, [p.over(p.dense) for p in row], label=form, **style)
            if form == "csr":
                panel.plot(
                    density, [p.dense.median / p.scipy.median for p in row if p.scipy], "--", color=f"C{colour}", label="SciPy's csr"
                )
        panel.set(xscale="log", yscale="log", title=f"batch {n}", xlabel="density (share of numbers kept)")
        panel.invert_xaxis()
        ticks = [1, 0.5, 0.2, 0.1, 0.05, 0.02]
        panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
        panel.set_yticks([0.25, 0.5, 1, 2, 4, 8, 16], ["1/4", "1/2", "1", "2", "4", "8", "16"])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("times faster than our dense product")
    panels[0][0].legend()
    m, k = points[0].shape
    figure.suptitle(f"Products without zeros: {m} x {k}, {points[0].dtype}, one thread")
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape", nargs=2, type=int, default=[300, 784], metavar=("M", "K"), help="of the sparse matrix (default: 300 784)"
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64, 256], metavar="N", help="columns of b (default: 1 64 256)")
    parser.add_argument("--zeros", nargs="+", type=float, default=ZEROS, metavar="SHARE", help="from 0 to 1")
    parser.add_argument("--forms", nargs="+", default=["csr", "bsr 4x4", "bsr 16x1", "2:4"], help='csr, 2:4, "bsr 4x4" and other blocks')
    parser.add_argument("--dtype", choices=list(ALLOWED), default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="also write the points")
    parser.add_argument("--plot", metavar="FILE.png", help="also draw them")
    options = parser.parse_args(arguments)
    m, k = options.shape
    points = []
    with one_thread():
        for form in options.forms:
            r, c = (1, 4) if form == "2:4" else block(form)
            shape = (m // r * r, k // c * c)
            for n in options.batch:
                for zeros in [0.5] if form == "2:4" else options.zeros:
                    try:
                        points.append(measure(form, shape, n, zeros, options.dtype, options.rounds))
                    except Wrong as e:
                        print(e, file=sys.stderr)
                        return 1
    from kernels.cpu.features import tier

    print(f"tier {tier()}, one thread, seconds of the thread")
    print(report(points))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([{**asdict(p), "tier": tier()} for p in points], file, indent=1)
    if options.plot:
        plot(points, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
