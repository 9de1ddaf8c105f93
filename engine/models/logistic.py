r"""Logistic regression, for two classes and for more.

    z = x w + b        x (n, d)    w (d)       b ()      z (n)       two classes: log odds of class 1
                                   w (d, c)    b (c)     z (n, c)    c classes: logits

As linear regression, but for what the numbers mean: p = sigmoid(z), or softmax(z) over the classes. The loss, minus the
logarithm of the probability of what was observed, is convex.
Source: Cox (1958), The regression analysis of binary sequences; for several classes, Theil (1969), A multinomial extension of the
linear logit model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine import ops
from engine.models.inputs import as_rows

Params = dict[str, np.ndarray]


def init(seed: int, d: int, classes: int = 2, *, dtype: Any = np.float32) -> Params:
    """Zeros: every class is as likely. The seed is not used."""
    columns = () if classes == 2 else (classes,)
    return {"w": np.zeros((d, *columns), dtype), "b": np.zeros(columns, dtype)}


def predict(params: Mapping[str, Any], x: Any) -> Any:
    """The log odds of class 1, or the logits of all classes, for each row of x."""
    return ops.matmul(as_rows(x), params["w"]) + params["b"]


def loss(params: Mapping[str, Any], x: Any, t: Any) -> Any:
    r"""$L = -\frac{1}{n} \sum_i \ln p_{i, t_i}$ for labels t = 0, 1, ..."""
    z = predict(params, x)
    return ops.logistic_loss(z, t) if len(z.shape) == 1 else ops.cross_entropy(z, t)
