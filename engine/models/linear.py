r"""Linear regression.

    y = x w + b        x (n, d)    w (d)    b ()    y (n)

The loss is a bowl in w and b: with any start, and rates small enough, gradient descent finds the one bottom, which is also the
solution of the normal equations. Source: Legendre (1805), Nouvelles méthodes pour la détermination des orbites, appendix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine import ops
from engine.models.inputs import as_rows

Params = dict[str, np.ndarray]


def init(seed: int, d: int, *, dtype: Any = np.float32) -> Params:
    """Zeros: in a bowl every start is as good. The seed is not used."""
    return {"w": np.zeros(d, dtype), "b": np.zeros((), dtype)}


def predict(params: Mapping[str, Any], x: Any) -> Any:
    """The number that belongs to each row of x."""
    return ops.matmul(as_rows(x), params["w"]) + params["b"]


def loss(params: Mapping[str, Any], x: Any, t: Any) -> Any:
    r"""$L = \frac{1}{n} \sum_i (y_i - t_i)^2$"""
    return ops.squared_error(predict(params, x), t)
