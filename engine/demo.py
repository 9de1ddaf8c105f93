"""The main job: four kinds of model on real data, each trained, measured and its gradient judged; the last pruned and in integers too."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

import numpy as np

from engine import nets, ops, packed
from engine.experiment import Experiment, Params
from engine.masks import gone
from engine.progress import Callback
from engine.prune import Cubic, Gradual, by_weights, magnitude
from engine.quantise.job import Quantising, arrays
from engine.report import Answers, Curve, Result
from engine.run import Run
from engine.train import mean_loss, predictions
from kernels.registry import use


@dataclass(frozen=True)
class Show:
    """A model on a data set, with its title and how little of it will do in a hurry.

    keep       prune to this share while it trains
    integers   the title of the same model in integers, which follows it
    """

    model: str
    data: str
    title: str
    hurried: dict[str, Any]
    keep: float | None = None
    integers: str = ""

    @property
    def name(self) -> str:
        """What its pictures are called."""
        alone = sum(show.model == self.model and show.keep is None for show in SHOWS) == 1
        return self.model + ("" if alone else f"-{self.data}") + ("" if self.keep is None else "-pruned")

    def pruning(self, e: Experiment) -> list[Callback]:
        """Prune by magnitude over all layers, along a cubic curve, until two thirds of the training are done."""
        if self.keep is None:
            return []
        steps = e.recipe.epochs * -(-len(e.train[0]) // e.recipe.batch_size) * 2 // 3
        return [Gradual(by_weights(magnitude, scope="global"), Cubic(self.keep, steps=steps), every=max(1, steps // 20))]


SHOWS = (
    Show("linear", "diabetes", "Linear regression", {"epochs": 10}),
    Show("logistic", "breast_cancer", "Logistic regression, cancer", {"epochs": 10}),
    Show("logistic", "digits", "Logistic regression, digits", {"epochs": 8}),
    Show("mlp", "mnist5k", "MLP 784-300-100-10", {"epochs": 3, "examples": 1000}),
    Show("lenet5_classic", "mnist5k", "LeNet-5, 6-16-120-84", {"epochs": 2, "examples": 1000}, integers="LeNet-5 in int8"),
    Show("lenet5_classic", "mnist5k", "LeNet-5, a tenth of it", {"epochs": 2, "examples": 1000}, 0.1, "LeNet-5, a tenth, in int8"),
)
HURRIED: dict[str, Any] = {"rows": 8, "directions": 1, "coordinates": 2}
LOSS = {"regression": "mean squared error", "classification": "cross entropy"}

Watch = Callable[[str], Sequence[Callback]]
Waiting = Callable[[str], AbstractContextManager[Any]]


def chosen(models: Sequence[str]) -> list[Show]:
    """The shows of these models, in their order; all for none."""
    return [show for show in SHOWS if not models or show.model in models]


def study(show: Show, *, seeds: Sequence[int], quick: bool, backend: str | None, watch: Watch, waiting: Waiting) -> list[Result]:
    """Train a model once for each seed, measure it, and judge its gradient; then in integers, if they are to be shown. The pictures are
    of the first seed.

    watch     gives the callbacks of a training run that has this name
    waiting   `with waiting("..."):` tells the user what is being done
    """
    trained = [_trained(show, seed, quick, backend, watch, waiting) for seed in seeds]
    experiment, run, facts = trained[0]
    with use(backend), waiting(f"{show.title}: checking the gradient"):
        began = time.perf_counter()
        # In a hurry the gradient is that of the definitions: to compile the kernels for float64 takes ten seconds.
        verdict = experiment.judged(run.params, masks=run.masks, **(HURRIED if quick else {"backend": backend}))
        facts["seconds"]["verdict"] = time.perf_counter() - began
        facts["gradient"] = verdict.as_dict()
    facts["seeds"] = spread(seeds, [f["metrics"] for _, _, f in trained])
    with use(backend):
        results = [_result(show, experiment, run, facts)]
        if show.integers:
            with waiting(f"{show.title}: in integers"):
                small = [_in_integers(show, e, r) for e, r, _ in trained]
            answers, about = small[0]
            about["seeds"] = spread(seeds, [f["metrics"] for _, f in small])
            results.append(Result(f"{show.name}-int8", show.integers, show.data, about, None, replace(answers, pictures=None)))
    return results


def _trained(
    show: Show, seed: int, quick: bool, backend: str | None, watch: Watch, waiting: Waiting
) -> tuple[Experiment, Run, dict[str, Any]]:
    e = Experiment.of(show.model, show.data, seed=seed, **(show.hurried if quick else {}))
    with use(backend):
        with waiting(f"{show.title}: reading the data, compiling the kernels"):
            params = e.start()
            compiling = e.warm_up()
            before = [mean_loss(e.what.loss, params, part) for part in (e.train, e.test)]
        began = time.perf_counter()
        run = e.fit(callbacks=[*watch(show.title), *show.pruning(e)], progress=False)
        training = time.perf_counter() - began
        facts = {
            **e.as_dict(),
            "title": show.title,
            "parameters": nets.count(run.params) - gone(run.masks or {}),
            "examples": {"train": len(e.train[0]), "test": len(e.test[0])},
            "seconds": {"train": training, "compile": compiling},
            "loss_at_start": dict(zip(("train", "test"), before, strict=True)),
            "metrics": e.measured(e.scores(run.params, e.test[0]), e.test[1]),
            "history": run.history,
        }
    return e, run, facts


def _in_integers(show: Show, e: Experiment, run: Run) -> tuple[Answers, dict[str, Any]]:
    """What a trained model answers in integers of 8 bits, calibrated on examples that it was trained on."""
    began = time.perf_counter()
    job = Quantising(e)
    network = job.result(run.params).network
    made = time.perf_counter() - began
    x, seconds = job.inputs(e.test[0]), []
    for _ in range(2):
        began = time.perf_counter()
        scores = predictions(network, x)
        seconds.append(time.perf_counter() - began)
    facts = {
        **e.as_dict(),
        "title": show.integers,
        "parameters": nets.count(run.params) - gone(run.masks or {}),
        "examples": {"train": len(e.train[0]), "test": len(e.test[0])},
        "seconds": {"train": made, "compile": max(0.0, seconds[0] - seconds[1])},
        "metrics": e.measured(scores, e.test[1]),
        "gradient": None,
        "bytes": {"float32": int(packed.sizes(run.params)["dense"]), "file": int(packed.sizes(arrays(network))["file"])},
    }
    return _answers(e, scores), facts


def spread(seeds: Sequence[int], measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each metric that is a number its mean over the seeds, the sample standard deviation and the values."""
    numbers = [name for name, value in measured[0].items() if isinstance(value, float)]
    values = {name: [m[name] for m in measured] for name in numbers}
    return {
        "seeds": list(seeds),
        **{name: {"mean": mean(v), "sd": stdev(v) if len(v) > 1 else 0.0, "values": v} for name, v in values.items()},
    }


def _result(show: Show, e: Experiment, run: Run, facts: dict[str, Any]) -> Result:
    scores = e.scores(run.params, e.test[0])
    start, epochs = facts["loss_at_start"], run.history
    curve = Curve(
        [(0, start["train"]), *((h["epoch"] - 0.5, h["loss"]) for h in epochs)],
        [(0, start["test"]), *((h["epoch"], h["val_loss"]) for h in epochs)],
    )
    seen = first_convolution(run.params, e.test[0][:1]) if "conv1/w" in run.params else ()
    extra = {"loss": LOSS[e.what.task], "target": "progression of the disease" if show.data == "diabetes" else "value"}
    return Result(show.name, show.title, show.data, facts, curve, _answers(e, scores), extra, *seen)


def _answers(e: Experiment, scores: np.ndarray) -> Answers:
    """What scores on the test set say."""
    return Answers(
        truth=e.test[1],
        said=e.what.decide(scores),
        names=e.dataset.classes,
        sureness=None if e.what.task == "regression" else np.max(e.what.probabilities(scores), axis=1),
        pictures=e.dataset.x_test[:, 0] if e.dataset.x_test.ndim == 4 else None,
    )


def first_convolution(params: Params, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The filters of the first layer, a picture from (1, c, h, w), and the response of each filter to it, in the same size."""
    w = params["conv1/w"]
    around = (w.shape[2] // 2, w.shape[3] // 2)
    return w[:, 0], picture[0, 0], np.asarray(ops.conv2d(picture.astype(w.dtype), w, padding=around))[0]
