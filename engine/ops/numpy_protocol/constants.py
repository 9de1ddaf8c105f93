"""Functions of NumPy's that have no derivative to carry: shapes, orders, comparisons, roundings.

They look at the numbers and give plain arrays, on which a program may decide.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.ops.numpy_protocol.table import StandIn, function_named, plain
from engine.traced import NUMPY

COMPARISONS = """
    equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor logical_not
    isnan isfinite isinf signbit isclose allclose array_equal array_equiv isposinf isneginf iscomplex isreal isin
    any all iscomplexobj isrealobj
"""
ROUNDINGS = "floor ceil trunc rint round around fix floor_divide heaviside spacing"
ORDERS = """
    argmax argmin nanargmax nanargmin argsort argpartition argwhere lexsort nonzero flatnonzero searchsorted digitize count_nonzero
    unique_counts unique_inverse histogram_bin_edges
    tril_indices_from triu_indices_from diag_indices_from
"""
SHAPES = """
    shape ndim size result_type can_cast min_scalar_type common_type may_share_memory shares_memory zeros_like ones_like empty_like
    linalg.matrix_rank
"""
TEXTS = "array_repr array_str array2string"


def of_the_numbers(function: Any) -> StandIn:
    """`function` itself, on the plain arrays under its arguments: for what has no derivative to carry."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*map(plain, args), **plain(kwargs))

    return call


for _name in (COMPARISONS + ROUNDINGS + ORDERS + SHAPES + TEXTS).split():
    _function = function_named(_name)
    if _function is not None:
        NUMPY[_function] = of_the_numbers(_function)
    if isinstance(_function, np.ufunc) and _function.nin == 2:
        for _method in ("reduce", "accumulate", "outer"):
            NUMPY[_function, _method] = of_the_numbers(getattr(_function, _method))
