"""The models, each three functions over a flat dict of arrays: init, predict, loss. By name, for the command line."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engine import ops
from engine.models import cnn, linear, logistic, mlp
from engine.shapes import Shape

__all__ = ["MODELS", "Model", "cnn", "get", "linear", "logistic", "mlp"]

Params = dict[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A model by name.

    init      (seed, shape of one example, number of classes, dtype) -> params; the classes do not matter to a regression
    predict   (params, x) -> a number for each example, or logits
    loss      (params, x, t) -> a scalar
    """

    name: str
    about: str
    task: Literal["regression", "classification"]
    init: Callable[[int, Shape, int, Any], Params]
    predict: Callable[[Mapping[str, Any], Any], Any]
    loss: Callable[[Mapping[str, Any], Any, Any], Any]

    def probabilities(self, scores: Any) -> np.ndarray:
        """What predict returned for n examples of a classification, as probabilities (n, classes)."""
        if np.ndim(scores) == 2:
            return np.asarray(ops.softmax(scores))
        return np.stack([ops.sigmoid(-scores), ops.sigmoid(scores)], axis=1)

    def decide(self, scores: Any) -> np.ndarray:
        """What predict returned, as answers: the numbers of a regression, the most probable classes of a classification."""
        if self.task == "regression":
            return np.asarray(scores)
        return np.argmax(scores, axis=1) if np.ndim(scores) == 2 else (np.asarray(scores) > 0).astype(np.int64)


def _linear(seed: int, shape: Shape, classes: int, dtype: Any) -> Params:
    return linear.init(seed, math.prod(shape), dtype=dtype)


def _logistic(seed: int, shape: Shape, classes: int, dtype: Any) -> Params:
    return logistic.init(seed, math.prod(shape), classes, dtype=dtype)


def _mlp(seed: int, shape: Shape, classes: int, dtype: Any) -> Params:
    return mlp.init(seed, (math.prod(shape), *mlp.SIZES[1:-1], classes), dtype=dtype)


def _classic(seed: int, shape: Shape, classes: int, dtype: Any) -> Params:
    return cnn.init_classic(seed, shape, classes, dtype=dtype)


def _caffe(seed: int, shape: Shape, classes: int, dtype: Any) -> Params:
    return cnn.init_caffe(seed, shape, classes, dtype=dtype)


def _3x3(seed: int, shape: Shape, classes: int, dtype: Any) -> Params:
    return cnn.init_3x3(seed, shape, classes, dtype=dtype)


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model("linear", "linear regression", "regression", _linear, linear.predict, linear.loss),
        Model("logistic", "logistic regression, two classes or more", "classification", _logistic, logistic.predict, logistic.loss),
        Model("mlp", "multilayer perceptron, 784-300-100-10", "classification", _mlp, mlp.predict, mlp.loss),
        Model(
            "lenet5_classic", "LeNet-5 in the sizes of 1998: 6-16-120-84", "classification", _classic, cnn.predict_classic, cnn.loss_classic
        ),
        Model("lenet5_caffe", "LeNet-5 in the sizes of Caffe: 20-50-500", "classification", _caffe, cnn.predict_caffe, cnn.loss_caffe),
        Model("cnn3x3", "kernels of 3 by 3: 32-64-64 channels", "classification", _3x3, cnn.predict_3x3, cnn.loss_3x3),
    )
}


def get(name: str) -> Model:
    """The model called `name`. Raises ValueError that names the nearest one."""
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.3)
    raise ValueError(f"there is no model {name!r}; there are {', '.join(MODELS)}" + (f"\n  did you mean {near[0]}?" if near else ""))
