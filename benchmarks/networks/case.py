"""A training step, an inference, and training up to an accuracy, as cases of a race."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from benchmarks import peers
from benchmarks.networks.layers import description, init, products
from engine.data import batches, load

STEPS = 5  # of training, before the weights are compared
FARTHEST = 1e-3  # of what they have moved: see `Step.error`
BY_PATCHES = 4e-3  # these round gradients relative to the patch, and Adam makes steps of what is left of those that cancel: 2e-3 for 1e-5
PICTURES = 8  # of a batch that differ: of so few, there are some where in no window rounding decides which pixel is the largest
APART = {"mlp": 3, "lenet": 21, "cnn": 36}  # the seeds that draw these: tests/test_networks.py holds them to it


@dataclass(frozen=True)
class Step:
    """One step of training (forward, backward, Adam) of a network at a batch size; or, without `training`, its logits.

    Every framework begins with the same weights and sees the same batch.
    """

    net: str
    batch: int
    training: bool = True
    dtype: str = "float32"
    home: ClassVar[str] = "benchmarks.networks"
    there: ClassVar[bool] = True

    @property
    def allowed(self) -> float:
        """How far the weights may be off."""
        return BY_PATCHES if self.net == "cnn" and self.training else FARTHEST

    @property
    def op(self) -> str:
        return f"{self.net}-{'step' if self.training else 'inference'}"

    @property
    def stands_for(self) -> str:
        return f"{description(self.net)}, {'one step of training' if self.training else 'one inference'}"

    @property
    def shape(self) -> str:
        return f"batch {self.batch}"

    def __str__(self) -> str:
        return f"{self.op} {self.shape}"

    def small(self) -> Step:
        return replace(self, batch=min(self.batch, PICTURES))

    def call(self, seed: int = 0) -> tuple[list[Any], dict[str, Any]]:
        """Weights, pictures and labels: so many pictures, over and over.

        A picture is the pattern of its class under noise: of mere noise the gradients would cancel.
        """
        seed += APART[self.net]
        rng = np.random.default_rng(seed)
        patterns, t = rng.random((10, 1, 28, 28), np.float32), rng.integers(0, 10, PICTURES)
        x, again = (patterns[t] + rng.random((PICTURES, 1, 28, 28), np.float32)) / 2, np.arange(self.batch) % PICTURES
        return [init(self.net, seed), x[again], t[again]], {}

    def reference(self, args: list[Any], params: dict[str, Any]) -> dict[str, Any]:
        """The definitions in float64: the logits; or the weights after some steps, with the losses on the way."""
        from benchmarks.networks.gnomon import Net

        weights, x, t = args
        net = Net(self.net, {name: w.astype(np.float64) for name, w in weights.items()}, kernels=False)
        return self.prepared(net, x.astype(np.float64), t)().result()  # type: ignore[no-any-return]

    def prepared(self, net: Any, x: Any, t: Any) -> peers.Call:
        """What is timed."""
        pictures, labels = net.batch(x, t)
        return Trained(net, pictures, labels) if self.training else Answered(net, pictures)

    def error(self, args: list[Any], params: dict[str, Any], y: dict[str, Any], reference: dict[str, Any] | None = None) -> float:
        r"""The largest $\|y - r\| / \|r - s\|$ over the arrays: r the reference, s where a weight began (0 for logits and losses).

        A norm, since Adam's first steps have the sign of the gradient: where that is rounding, a single weight goes anywhere.
        """
        wanted = reference or self.reference(args, params)
        if {name: np.shape(a) for name, a in y.items()} != {name: np.shape(a) for name, a in wanted.items()}:
            return float("inf")
        worst = 0.0
        for name, want in wanted.items():
            moved = want - args[0][name] if name in args[0] else want
            gap = np.linalg.norm(y[name] - want) / max(np.linalg.norm(moved), np.finfo(np.float64).tiny)
            worst = max(worst, float("inf") if np.isnan(gap) else float(gap))
        return worst

    def work(self, args: list[Any], params: dict[str, Any], y: Any) -> tuple[int, int]:
        """Products and sums of the layers with weights; the first one has no gradient in its input. Memory is not counted."""
        first, *others = products(self.net)
        passes = (2 * first + 3 * sum(others)) if self.training else first + sum(others)
        return 2 * self.batch * passes, 0


@dataclass
class Answered:
    """A network and a batch: a call gives its logits."""

    net: Any
    x: Any
    y: Any = None

    def __call__(self) -> Answered:
        self.y = self.net.logits(self.x)
        return self

    def result(self) -> dict[str, Any]:
        return {"logits": peers.as_numpy(self.y)}


class Trained:
    """A network and a batch: a call is a step of training, on and on."""

    def __init__(self, net: Any, x: Any, t: Any):
        self.net, self.x, self.t = net, x, t
        self.losses: list[float] = []

    def __call__(self) -> Trained:
        self.losses.append(self.net.step(self.x, self.t))
        return self

    def result(self) -> dict[str, Any]:
        """The weights after `STEPS` steps, and all losses."""
        while len(self.losses) < STEPS:
            self()
        found = {**self.net.params(), "losses": np.array(self.losses)}
        self.losses = []
        return found


BATCH = 64
EVERY = 25  # steps between two looks at the accuracy
EPOCHS = 20  # then it is given up


@dataclass(frozen=True)
class Accuracy:
    """Training up to an accuracy on the test set: Adam, batches of 64, the same first weights and the same order for every framework.

    The first call looks at the test set every 25 steps and finds out how many are needed. A timed call trains anew for that many, and
    looks at nothing: the seconds are of training alone, without compilation and evaluation.

    data   "mnist5k", or "mnist": see `engine.data`
    """

    net: str
    data: str
    target: float
    seed: int = 0
    dtype: str = "float32"
    home: ClassVar[str] = "benchmarks.networks"
    there: ClassVar[bool] = True
    allowed: ClassVar[float] = 0.0

    @property
    def op(self) -> str:
        return f"{self.net}-to-{100 * self.target:g}"

    @property
    def stands_for(self) -> str:
        return f"{description(self.net)} on {self.data} to {100 * self.target:g} % of the test set, seconds of training alone"

    @property
    def shape(self) -> str:
        return self.data

    def __str__(self) -> str:
        return f"{self.op} {self.shape}"

    def small(self) -> Accuracy:
        return replace(self, target=min(self.target, 0.5))

    def call(self, seed: int = 0) -> tuple[list[Any], dict[str, Any]]:
        """First weights, pictures and labels to train on, and those to test on."""
        d = load(self.data, seed=self.seed)
        return [init(self.net, self.seed), d.x_train, d.y_train, d.x_test, d.y_test], {}

    def prepared(self, make: Any, args: list[Any]) -> peers.Call:
        weights, *sets = args
        return Run(self, lambda: make(self.net, weights), sets)

    def reference(self, args: list[Any], params: dict[str, Any]) -> float:
        return self.target

    def error(self, args: list[Any], params: dict[str, Any], y: Any, reference: Any = None) -> float:
        """How much is missing."""
        return max(0.0, self.target - y["accuracy"])

    def work(self, args: list[Any], params: dict[str, Any], y: Any) -> tuple[int, int]:
        return y["steps"] * Step(self.net, BATCH).work(args, params, y)[0], 0


class Run:
    """Training from the beginning, up to the target or for as many steps as that took."""

    def __init__(self, case: Accuracy, begin: Any, sets: list[Any]):
        self.case, self.begin = case, begin
        self.x, self.t, self.x_test, self.t_test = sets
        self.steps: int | None = None
        self.accuracy = 0.0

    def __call__(self) -> Run:
        net = self.begin()
        if self.steps is None:
            self.steps = self.needed(net)
        else:
            for _, batch in zip(range(self.steps), self.batches(), strict=False):
                net.step(*net.batch(*batch))
        return self

    def needed(self, net: Any) -> int:
        done = 0
        for done, batch in enumerate(self.batches(), 1):
            net.step(*net.batch(*batch))
            if done % EVERY == 0:
                self.accuracy = self.measured(net)
                if self.accuracy >= self.case.target:
                    break
        return done

    def batches(self) -> Iterator[Any]:
        for epoch in range(EPOCHS):
            yield from batches(self.x, self.t, size=BATCH, seed=self.case.seed, epoch=epoch, drop_last=True)

    def measured(self, net: Any) -> float:
        right = 0
        for i in range(0, len(self.x_test), 500):
            x, t = self.x_test[i : i + 500], self.t_test[i : i + 500]
            right += int(np.sum(np.argmax(peers.as_numpy(net.logits(net.batch(x, t)[0])), axis=1) == t))
        return right / len(self.x_test)

    def result(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy, "steps": self.steps}


def prepare(make: Any, case: Any, args: list[Any]) -> peers.Call:
    """What is timed in `case`, for the networks that `make(name, params)` makes."""
    if isinstance(case, Accuracy):
        return case.prepared(make, args)
    if case.dtype != "float32":
        raise peers.Missing(f"no network in {case.dtype}")
    weights, x, t = args
    return case.prepared(make(case.net, weights), x, t)  # type: ignore[no-any-return]


def as_numpy(y: Any) -> Any:
    """What a call returned, as `error` compares it."""
    return y.result()
