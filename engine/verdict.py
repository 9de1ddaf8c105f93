"""Is the gradient of a whole model right? The derivative of a loss in every parameter array, judged without any rule of ours.

For each array the loss is differentiated along a few directions: along the gradient itself, along random ones, and along
single coordinates. The rules say $g \\cdot v$. The judge is a complex step, confirmed by a difference; where the loss does
not take complex numbers it is an extrapolated difference (Ridders) that brings its own error bound. All in float64.

A step that crosses a kink (a relu that switches, a pool whose winner changes) would measure the wrong thing: such steps
are seen (`engine.branches`) and shortened. At a kink itself there is no derivative, only slopes to either side, and where
several kinks meet even right rules may give a number outside of both: then the verdict is INCONCLUSIVE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from engine.branches import run
from engine.difference import Estimate, central, complex_step, ridders
from engine.reverse import value_and_grad
from engine.tree import flatten, leaves_as, paths, tree_map
from kernels.registry import use

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"
RTOL = 1e-6
EXACT = 1e-9  # a complex step that is this close has hit; one that is farther off may have been fooled in part, by an |x| say
FIRST_STEP = 0.1  # of the size of the parameters: the scale on which a loss bends
LAST_STEP = 1e-9  # a kink nearer than this is met, not avoided
SHRINK = 8.0
CONFIRMING_STEPS = (1e-5, 1e-7, 1e-9)

Loss = Callable[[Any], Any]


class Model(Protocol):
    """A loss of parameters, and its gradient as somebody computes it."""

    def value(self, params: Any) -> Any:
        """The loss, a number. It may be asked for with complex parameters, and raise TypeError."""

    def run(self, params: Any) -> tuple[Any, bytes]:
        """The loss, and which way it went at every kink: two runs with the same bytes lie on the same smooth piece."""

    def gradient(self, params: Any) -> Any:
        """The claim, nested as `params`."""


@dataclass(frozen=True)
class OfEngine:
    """A loss written with ops or with NumPy; its gradient by this engine, on the kernels of `backend`."""

    loss: Loss
    backend: str | None = None

    def value(self, params: Any) -> Any:
        return self.loss(params)

    def run(self, params: Any) -> tuple[Any, bytes]:
        return run(self.loss, params)

    def gradient(self, params: Any) -> Any:
        with use(self.backend):
            return value_and_grad(self.loss)(params)[1]


@dataclass(frozen=True)
class Probe:
    """One directional derivative: what the rules say and what the judge says."""

    direction: str
    gradient: float
    reference: float
    error: float  # relative
    judge: str
    verdict: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.direction}: gradient {self.gradient:.9g}, {self.judge} {self.reference:.9g}. {self.reason}"


@dataclass(frozen=True)
class ArrayVerdict:
    """All the probes of one parameter array."""

    name: str
    shape: tuple[int, ...]
    probes: tuple[Probe, ...]

    @property
    def verdict(self) -> str:
        """FAIL if any probe fails, PASS if another one passes."""
        found = {p.verdict for p in self.probes}
        return FAIL if FAIL in found else PASS if PASS in found or not found else INCONCLUSIVE

    @property
    def worst(self) -> float:
        """The largest relative error among the probes that came to a conclusion."""
        return max((p.error for p in self.probes if p.verdict != INCONCLUSIVE), default=0.0 if not self.probes else math.nan)


@dataclass(frozen=True)
class Judgement:
    """The verdict on a whole gradient."""

    arrays: tuple[ArrayVerdict, ...]

    @property
    def verdict(self) -> str:
        """PASS only if every array passes; where nothing was compared there is no verdict."""
        found = {a.verdict for a in self.arrays}
        return next((v for v in (FAIL, INCONCLUSIVE) if v in found), PASS if self.probes else INCONCLUSIVE)

    @property
    def worst(self) -> float:
        """The largest relative error of any probe."""
        return max((a.worst for a in self.arrays if not math.isnan(a.worst)), default=math.nan)

    @property
    def inconclusive(self) -> int:
        """How many probes met a kink or noise."""
        return sum(p.verdict == INCONCLUSIVE for a in self.arrays for p in a.probes)

    @property
    def probes(self) -> int:
        """How many directional derivatives were compared."""
        return sum(len(a.probes) for a in self.arrays)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        rows = [{**asdict(a), "verdict": a.verdict, "worst": a.worst} for a in self.arrays]
        return {
            "verdict": self.verdict,
            "worst": self.worst,
            "probes": self.probes,
            "inconclusive": self.inconclusive,
            "arrays": rows,
            "text": str(self),
        }

    def __str__(self) -> str:
        lines = [f"{self.verdict}: worst relative error {self.worst:.1e} in {self.probes} directions, {self.inconclusive} inconclusive"]
        for a in self.arrays:
            judges = ", ".join(dict.fromkeys(p.judge for p in a.probes))
            lines.append(f"  {a.verdict:<12} {a.name:<16} {a.shape!s:<18} {a.worst:.1e}  {judges}")
            lines += [f"      {p}" for p in a.probes if p.verdict != PASS]
        return "\n".join(lines)


def judge(
    loss: Loss, params: Any, *, seed: int = 0, rtol: float = RTOL, directions: int = 2, coordinates: int = 4, backend: str | None = None
) -> Judgement:
    """Compare the gradient of `loss` at `params` with derivatives that no rule had a part in.

    loss          of the parameters alone: a number. Its data should be float64. It must not draw random numbers
    params        a nesting of arrays; they are taken to float64
    rtol          relative to the largest of the two values and the root mean square of the array's gradient
    directions    random directions for each array, beside the one along the gradient
    coordinates   single entries of each array: the largest of the gradient, the smallest that is not 0, and random ones
    backend       the kernels that compute the gradient; the judge always runs on the definitions

    Raises TypeError if the loss is not a scalar. A loss that is not finite, or not the same twice, is INCONCLUSIVE.
    """
    return judge_model(OfEngine(loss, backend), params, seed=seed, rtol=rtol, directions=directions, coordinates=coordinates)


def judge_model(model: Model, params: Any, *, seed: int = 0, rtol: float = RTOL, directions: int = 2, coordinates: int = 4) -> Judgement:
    """`judge` for a loss that brings its own gradient, of whatever framework."""
    params = tree_map(lambda p: np.asarray(p, np.float64), params)
    gradient = model.gradient(params)
    with use(None), np.errstate(all="ignore"):
        bench = Bench(model, params, rtol)
        gs = [np.asarray(g) for g in leaves_as(params, gradient)]
        rng = np.random.default_rng(seed)
        found = []
        for place, (name, g) in enumerate(zip(paths(params), gs, strict=True)):
            ways = aims(g, rng, directions, coordinates)
            found.append(ArrayVerdict(name or "x", g.shape, tuple(bench.probe(place, g, *way) for way in ways)))
    return Judgement(tuple(found))


def aims(g: np.ndarray, rng: np.random.Generator, directions: int, coordinates: int) -> Iterator[tuple[str, np.ndarray]]:
    """The directions along which an array is judged: each a name and an array of length 1."""
    if g.size == 0:
        return
    length = float(np.linalg.norm(g))
    if g.size > 1 and 0 < length < math.inf:
        yield "along the gradient", g / length
    for i in range(directions if g.size > 1 else 0):
        v = rng.standard_normal(g.shape)
        yield f"random direction {i + 1}", v / np.linalg.norm(v)
    for flat in entries(g, rng, coordinates):
        v = np.zeros(g.shape)
        v.flat[flat] = 1.0
        where = ", ".join(str(int(k)) for k in np.unravel_index(flat, g.shape))
        yield f"entry [{where}]" if where else "the number", v


def entries(g: np.ndarray, rng: np.random.Generator, count: int) -> Iterable[int]:
    """Flat indices: the largest gradient, the smallest one that is not 0, then random ones."""
    size = np.abs(g).ravel()
    chosen = [int(np.argmax(size))]
    if size.any():
        chosen.append(int(np.argmin(np.where(size > 0, size, np.inf))))
    chosen += rng.permutation(g.size)[:count].tolist()
    return list(dict.fromkeys(chosen))[:count]


class Crossed(Exception):
    """A step went over a kink."""


class Bench:
    """A loss at a point, and derivatives of it along lines through that point."""

    def __init__(self, model: Model, params: Any, rtol: float):
        self.model, self.rtol = model, rtol
        self.leaves, self.rebuild = flatten(params)
        value, self.branches = model.run(params)
        self.value = float(value)
        again = float(model.run(params)[0])
        self.trouble = ""
        if not math.isfinite(self.value):
            self.trouble = f"the loss is {self.value}"
        elif again != self.value:
            self.trouble = "the loss is not the same twice: it draws random numbers, give it a fixed seed"

    def probe(self, place: int, g: np.ndarray, direction: str, v: np.ndarray) -> Probe:
        """Judge one directional derivative."""
        ours = float(np.vdot(g, v))
        line = Line(self, place, v)
        floor = float(np.sqrt(np.mean(g * g)))

        def found(judge: str, reference: float, verdict: str, reason: str = "") -> Probe:
            return Probe(direction, ours, reference, relative(ours, reference, floor), judge, verdict, reason)

        if self.trouble:
            return found("none", math.nan, INCONCLUSIVE, self.trouble)
        if not np.isfinite(g).all():
            return found("none", math.nan, FAIL, "the gradient is not finite, the loss is")
        exact = line.by_complex_step()
        if exact is not None and relative(ours, exact, floor) <= min(EXACT, self.rtol) and line.confirms(exact, floor):
            return found("complex step", exact, PASS)
        smooth = line.by_ridders()
        if smooth is None:
            left, right = line.one_sided()
            return found("one-sided slopes", (left + right) / 2, INCONCLUSIVE, f"at a kink: the slopes are {left:.6g} and {right:.6g}")
        error = abs(ours - smooth.value)
        scale = max(abs(ours), abs(smooth.value), floor)
        if scale <= smooth.error:  # neither shows in the last digits of the loss
            return Probe(direction, ours, 0.0, 0.0, "Ridders", PASS)
        if error <= self.rtol * scale:
            return found("Ridders", smooth.value, PASS)
        if error <= 10 * smooth.error:
            return found("Ridders", smooth.value, INCONCLUSIVE, f"the difference is known to {smooth.error:.0e} only")
        if not line.bears_out(smooth, error):
            return found("Ridders", smooth.value, INCONCLUSIVE, "shorter steps give another difference: a kink lies nearby")
        return found("Ridders", smooth.value, FAIL, f"they differ by {error:.1e}, the difference is known to {smooth.error:.0e}")


class Line:
    """The loss along p + t v, for one parameter array p."""

    def __init__(self, bench: Bench, place: int, v: np.ndarray):
        self.bench, self.place, self.v = bench, place, v
        p = bench.leaves[place]
        touched = np.abs(p[v != 0])
        size = max(float(touched.max()) if touched.size == 1 else 0.0, float(np.sqrt(np.mean(p * p)))) or 1.0
        self.scale = size / float(np.abs(v).max())  # at t = scale the entry that moves most has moved by its own size

    def moved(self, t: float | complex) -> Any:
        leaves = list(self.bench.leaves)
        leaves[self.place] = leaves[self.place] + t * self.v
        return self.bench.rebuild(leaves)

    def at(self, t: float) -> float:
        """The loss; raises Crossed if it lies on another smooth piece, or outside of where the loss is defined."""
        value, branches = self.bench.model.run(self.moved(t))
        if branches != self.bench.branches or not math.isfinite(value):
            raise Crossed
        return float(value)

    def anywhere(self, t: float) -> float:
        return float(self.bench.model.value(self.moved(t)))

    def by_complex_step(self) -> float | None:
        return complex_step(lambda t: complex(self.bench.model.value(self.moved(t))), self.bench.value, h=1e-30 * self.scale)

    def confirms(self, exact: float, floor: float) -> bool:
        """A plain difference on the same smooth piece, good to two digits, rules out a complex step that was fooled."""
        for h in CONFIRMING_STEPS:
            try:
                rough = central(self.at, h * self.scale)
            except Crossed:
                continue
            return abs(rough.value - exact) <= 1e-2 * max(abs(exact), floor) + rough.error
        return False

    def by_ridders(self) -> Estimate | None:
        """None if every step that is long enough to measure crosses a kink."""
        h = FIRST_STEP
        while h >= LAST_STEP:
            try:
                return ridders(self.at, h * self.scale)
            except Crossed:
                h /= SHRINK
        return None

    def bears_out(self, smooth: Estimate, error: float) -> bool:
        """Do much shorter steps say the same, before somebody is blamed? They do not if a kink lies between that nobody saw."""
        for h in CONFIRMING_STEPS:
            try:
                rough = central(self.at, h * self.scale)
            except Crossed:
                continue
            if rough.error <= 0.1 * error:
                return abs(rough.value - smooth.value) <= 0.3 * error
        return True

    def one_sided(self) -> tuple[float, float]:
        """The slopes to the left and to the right, by differences of second order."""
        h, f0 = 1e-5 * self.scale, self.bench.value
        left, right = ([self.anywhere(side * k * h) for k in (1, 2)] for side in (-1, 1))
        return (3 * f0 - 4 * left[0] + left[1]) / (2 * h), (4 * right[0] - right[1] - 3 * f0) / (2 * h)


def relative(a: float, b: float, floor: float) -> float:
    """How far a and b are apart, on the scale of the larger of them and of `floor`."""
    scale = max(abs(a), abs(b), floor)
    return abs(a - b) / scale if scale else 0.0
