"""A model, a data set, a recipe and a seed: all that a training run is a function of."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from engine import metrics, models
from engine.data import Dataset, load
from engine.masks import masked
from engine.recipes import RECIPES, Recipe
from engine.run import Run
from engine.train import fit, predictions, train_step
from engine.verdict import Judgement, judge

Params = dict[str, np.ndarray]


class Mismatch(ValueError):
    """A model and a data set that do not go together."""


@dataclass(frozen=True)
class Experiment:
    """What is trained on what, and how. Everything else follows from it."""

    model: str
    data: str
    recipe: Recipe
    seed: int = 0

    @classmethod
    def of(cls, model: str, data: str, *, seed: int = 0, **changes: Any) -> Experiment:
        """The model's own recipe with changes; None keeps what is there. Raises ValueError for a name that is not known."""
        return cls(models.get(model).name, data, RECIPES[model].but(**changes), seed)

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Experiment:
        """The experiment that `as_dict` described."""
        return cls(said["model"], said["data"], Recipe(**said["recipe"]), said["seed"])

    @cached_property
    def what(self) -> models.Model:
        """The model."""
        return models.get(self.model)

    @cached_property
    def dataset(self) -> Dataset:
        """The data. Raises Mismatch if the model cannot learn them."""
        found = load(self.data, seed=self.seed)
        if found.task != self.what.task:
            others = [name for name, m in models.MODELS.items() if m.task == found.task]
            raise Mismatch(f"{self.model} is for {self.what.task}, {self.data} is a {found.task}: it suits {', '.join(others)}")
        return found

    @cached_property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets to train on."""
        rows = slice(self.recipe.examples)
        return self.prepared(self.dataset.x_train[rows]), self.dataset.y_train[rows]

    @cached_property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets held back."""
        return self.prepared(self.dataset.x_test), self.dataset.y_test

    def held_out(self, data: str) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets held back of another data set. Raises Mismatch if this model was made for something else."""
        if data == self.data:
            return self.test
        other = load(data, seed=self.seed)
        if (other.x_test.shape[1:], len(other.classes)) != (self.dataset.x_test.shape[1:], len(self.dataset.classes)):
            raise Mismatch(f"the model was trained on {self.dataset!r}\n  it does not fit {other!r}")
        return self.prepared(other.x_test), other.y_test

    @cached_property
    def levels(self) -> tuple[float, float]:
        """Mean and standard deviation over all pixels of the training part; tables come standardised."""
        x = self.dataset.x_train
        return (float(np.mean(x, dtype=np.float64)), float(np.std(x, dtype=np.float64))) if x.ndim == 4 else (0.0, 1.0)

    def prepared(self, x: np.ndarray) -> np.ndarray:
        """The inputs as the model sees them: pictures with mean 0 and variance 1. Source: LeCun et al. (1998), sec. II-B."""
        mean, scale = self.levels
        return (x - mean) / scale

    def start(self) -> Params:
        """The parameters before the first step. Raises Mismatch if the model cannot take inputs of this shape."""
        shape = self.dataset.x_train.shape[1:]
        try:
            return self.what.init(self.seed, shape, len(self.dataset.classes), np.float32)
        except ValueError as e:
            raise Mismatch(f"{self.model} cannot take {self.data}: {e}") from e

    def fit(self, **options: Any) -> Run:
        """Train. The options are those of `engine.train.fit` that are not settled here."""
        return fit(
            self.what.loss,
            self.start(),
            self.train,
            optimizer=self.recipe.made(len(self.train[0])),
            epochs=self.recipe.epochs,
            batch_size=self.recipe.batch_size,
            seed=self.seed,
            validation=self.test,
            **options,
        )

    def warm_up(self) -> float:
        """Run two steps, keep nothing, and return by how many seconds the first was slower: the time to compile the kernels."""
        optimizer, first = self.recipe.made(len(self.train[0])), tuple(a[: self.recipe.batch_size] for a in self.train)
        params, seconds = self.start(), []
        for _ in range(2):
            began = time.perf_counter()
            train_step(Run(params, optimizer.init(params), seed=self.seed), self.what.loss, first, optimizer)
            self.what.predict(params, first[0])
            seconds.append(time.perf_counter() - began)
        return max(0.0, seconds[0] - seconds[1])

    def checked(self, params: Params) -> Params:
        """`params`, if they have the names and shapes that this model has. Raises Mismatch."""
        wanted, given = ({name: np.shape(p) for name, p in arrays.items()} for arrays in (self.start(), params))
        if wanted != given:
            raise Mismatch(f"these are not the parameters of {self.model} for {self.data}\n  wanted  {wanted}\n  given   {given}")
        return params

    def scores(self, params: Params, x: np.ndarray) -> np.ndarray:
        """What the model predicts: numbers or logits."""
        return predictions(lambda rows: self.what.predict(params, rows), x)

    def measured(self, scores: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
        """The metrics of scores."""
        said = self.what.decide(scores)
        if self.what.task == "regression":
            return {"r2": metrics.r2(truth, said), "mae": metrics.mae(truth, said), "mse": metrics.mse(truth, said)}
        right, n = int(np.sum(truth == said)), len(truth)
        labels, p = np.arange(len(self.dataset.classes)), self.what.probabilities(scores)
        if len(labels) == 2:
            more = {"f1": metrics.f1(truth, said, labels=labels), "roc_auc": metrics.roc_auc(truth, p[:, 1])}
        else:
            more = {"macro_f1": metrics.f1(truth, said, average="macro", labels=labels)}
        loss = metrics.log_loss(truth, p, labels=labels)
        return {"accuracy": right / n, "interval": metrics.wilson_interval(right, n), "right": right, "of": n, **more, "log_loss": loss}

    def judged(
        self, params: Params, *, masks: Params | None = None, rows: int = 16, backend: str | None = None, **options: Any
    ) -> Judgement:
        """The verdict on the gradient of the loss of some training examples, in float64; with masks, of the loss of what they keep."""
        x, t = (a[:rows] for a in self.train)
        wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in (x, t)]
        return judge(lambda p: self.what.loss(masked(p, masks or {}), *wide), params, seed=self.seed, backend=backend, **options)
