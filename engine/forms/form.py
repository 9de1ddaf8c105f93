"""A form: what stands for a weight, and knows how to multiply by it. An interpreter runs models on forms."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from engine import interpret, ops
from engine.op import Op
from engine.shapes import Shape, ShapeError
from engine.traced import Traced
from engine.tree import flatten

PRODUCTS = ("matmul", "dense", "conv2d")
"""The ops whose second argument is a weight, by the names of the methods of `Form` that run them."""


@dataclass(frozen=True, eq=False)
class Form(ABC):
    """What stands for a weight W: frozen, and made of arrays.

    A subclass says what it learns, the shape of W and W itself, and overrides the products that it runs in a better way of its own.
    """

    learned: ClassVar[tuple[str, ...]]  # the names of its arrays that are trained; what else it has are places

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """The shape of W."""

    @abstractmethod
    def expand(self) -> Any:
        """W as an array, by ops: differentiable in what is learned."""

    def matmul(self, x: Any) -> Any:
        """x W, as `ops.matmul`."""
        return ops.matmul(x, self.expand())

    def dense(self, x: Any, b: Any, *, activation: Any) -> Any:
        """act(x W + b), as `ops.dense`."""
        return ops.bias_activation(self.matmul(x), b, axis=-1, activation=activation)

    def conv2d(self, x: Any, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        """x * W, as `ops.conv2d`."""
        return ops.conv2d(x, self.expand(), stride=stride, padding=padding, dilation=dilation, groups=groups)

    @property
    def numbers(self) -> dict[str, Any]:
        """What is learned, by name."""
        return {name: getattr(self, name) for name in self.learned}

    def around(self, numbers: Mapping[str, Any]) -> Form:
        """The same form around other numbers."""
        return replace(self, **numbers)

    @property
    def count(self) -> int:
        """How many numbers are learned."""
        return sum(math.prod(x.shape) for x in self.numbers.values())

    @property
    def dtype(self) -> Any:
        """The dtype of W."""
        return next(iter(self.numbers.values())).dtype

    @property
    def size(self) -> int:
        """How many numbers W has."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{type(self).__name__} of {self.shape}"


class Formed(interpret.Interpreter):
    """Run the products of forms as the forms know how; what else is done with a form is done with W. slot is the parameter's name."""

    def __init__(self, below: interpret.Interpreter):
        self.below = below

    def marked(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters, each form as a value that is ours."""
        return {name: Traced(self, p, name) if isinstance(p, Form) else p for name, p in params.items()}

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        mine = [type(a) is Traced and a.owner is self for a in args]
        if True not in mine:
            return self.below.apply(op, args, params)
        with interpret.interpreting(self.below):
            if op.name in PRODUCTS and mine[1] and mine.count(True) == 1:
                return _product(op.name, args[0], args[1], args[2:], params)
            return op(*map(self.expanded, args), **params)

    def expanded(self, x: Any) -> Any:
        """W for a form of ours, anything else as it is."""
        return x.value.expand() if type(x) is Traced and x.owner is self else x


def _product(name: str, x: Any, w: Traced, rest: Sequence[Any], params: dict[str, Any]) -> Any:
    try:
        return getattr(w.value, name)(x, *rest, **params)
    except ShapeError as e:
        raise ShapeError(f"{w.slot}, kept as {w.value}: {e}") from None


def running(f: Callable[..., Any], like: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """f(params, ...) as a function of parameters some of which are forms: a model's predict, or its loss.

    like   what `flat` was made of: the function then takes flat arrays, as `fit` and `grad` need them
    Other arguments and what f returns are as ever. Of dense, matmul and conv2d the form runs the product. Any other use of a weight (its
    transpose, a penalty on its size) gets the weight as an array, made anew in each use: right, and no faster than before.
    Raises ShapeError that names the weight where shapes clash.
    """

    def run(params: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        formed = params if like is None else folded(like, params)
        if not any(isinstance(p, Form) for p in formed.values()):
            return f(formed, *args, **options)
        interpreter = Formed(interpret.running())
        with interpret.interpreting(interpreter):
            y = f(interpreter.marked(formed), *args, **options)
        if type(y) is np.ndarray:  # as of most models: to look through a nesting takes as long as a small layer
            return y
        leaves, rebuild = flatten(y)
        return rebuild([interpreter.expanded(leaf) for leaf in leaves])

    return run


def flat(formed: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as arrays alone, those of a form under its name: "w1/u", "w1/v". Raises ValueError where two would have one name."""
    arrays: dict[str, Any] = {}
    for name, p in formed.items():
        for path, x in [(f"{name}/{key}", x) for key, x in p.numbers.items()] if isinstance(p, Form) else [(name, p)]:
            if path in arrays:
                raise ValueError(f"two arrays would be called {path!r}: give the weight that is a form another name")
            arrays[path] = x
    return arrays


def folded(like: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What `flat` took apart: the forms of `like` around the numbers in `arrays`. Arrays that `like` does not name come along.

    Raises ValueError for arrays that are missing.
    """
    names = flat(like)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"there is no {', '.join(missing)} among {', '.join(arrays)}: wanted are the arrays of flat(formed)")
    more = {name: x for name, x in arrays.items() if name not in names}
    return {name: _around(name, p, arrays) if isinstance(p, Form) else arrays[name] for name, p in like.items()} | more


def _around(name: str, form: Form, arrays: Mapping[str, Any]) -> Form:
    return form.around({key: arrays[f"{name}/{key}"] for key in form.learned})
