"""What `load` returns, and the error for data that is not as it should be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class DataError(OSError):
    """A data file that is missing, damaged or something else. The message names the file, what is wrong and the cure."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples to train on and examples held back.

    x_train, x_test   float32; images as n c h w with values in [0, 1], tables as n d
    y_train, y_test   int64 labels 0, 1, ... in the order of `classes`, or float32 numbers if there are no classes
    mean, scale       of each column of a table, taken from the training part: x = (raw - mean) / scale; None where x is raw
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    source: str
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    mean: np.ndarray | None = None
    scale: np.ndarray | None = None

    @property
    def task(self) -> str:
        """ "classification" or "regression"."""
        return "classification" if self.classes else "regression"

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.x_train.shape[1:]))
        goal = f"{len(self.classes)} classes" if self.classes else "numbers"
        return f"<{self.name}: {len(self.x_train)} to train, {len(self.x_test)} to test, {shape} -> {goal}; {self.source}>"
