"""How each model is trained unless one says otherwise: optimiser, rate, batch, epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from engine.optim import SGD, Adagrad, Adam, AdamW, Momentum, Optimizer, RMSprop
from engine.schedule import Cosine, Rate

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
}


@dataclass(frozen=True)
class Recipe:
    """What `fit` needs to know beside the model and the data. The rate falls to 0 along a half cosine.

    examples    how many of the training examples are used; None for all
    """

    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    weight_decay: float = 0.0
    examples: int | None = None

    def made(self, examples: int) -> Optimizer:
        """The optimiser, with its schedule over all the steps that so many examples take."""
        steps = self.epochs * -(-examples // self.batch_size)
        rate: Rate = Cosine(self.lr, steps)
        return OPTIMIZERS[self.optimizer](lr=rate, weight_decay=self.weight_decay)

    def but(self, **changes: Any) -> Recipe:
        """This recipe with some of its numbers changed; None keeps what is there."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


RECIPES: dict[str, Recipe] = {
    "linear": Recipe("sgd", 0.05, 32, 40),
    "logistic": Recipe("adamw", 0.02, 32, 30, 0.01),
    "mlp": Recipe("momentum", 0.05, 32, 15, 1e-3),
    "lenet5_classic": Recipe("momentum", 0.05, 32, 10, 2e-3),
    "lenet5_caffe": Recipe("momentum", 0.02, 32, 6, 2e-3),
    "cnn3x3": Recipe("momentum", 0.02, 32, 8, 2e-3),
}
