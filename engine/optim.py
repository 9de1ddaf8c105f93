"""Optimisers: records of hyper-parameters with two functions over dicts of arrays.

    adam = Adam(lr=1e-3)
    moments = adam.init(params)
    params, moments = adam.step(params, grads, moments)

Nothing is written into unless it is given away: a step returns new arrays under the same names. What an optimiser remembers is data
as well: `{"t": steps taken, "m": {name: array}, ...}`. The arithmetic of one array is an op of `engine.ops.update`, formula and
source beside it, so that a backend may have a kernel for it; one that takes dicts of arrays does all of them in one call, to the same bits.

lr              a number, or a function of the step (0, 1, ...): see `engine.schedule`
weight_decay    of every parameter, but for those whose name fits a pattern in `no_decay`, as ("*/b", "norm*")

Names, formulas and defaults follow torch.optim, so that published hyper-parameters carry over.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np

from engine import ops
from engine.interpret import EVAL, running
from engine.op import Op
from engine.schedule import Rate, rate
from kernels.registry import running_kernels

Arrays = dict[str, np.ndarray]
Moments = dict[str, Any]


class Optimizer(ABC):
    """What the optimisers share: the walk over the names."""

    slots: ClassVar[tuple[str, ...]] = ()  # what is remembered for each parameter
    lr: Rate
    weight_decay: float
    no_decay: tuple[str, ...]

    @abstractmethod
    def rule(self, lr: float, t: int) -> tuple[Op, dict[str, Any]]:
        """The op of the t-th step of one array, and its hyper-parameters except weight_decay."""

    def init(self, params: Mapping[str, Any]) -> Moments:
        """What is remembered before the first step: zeros."""
        for name, p in params.items():
            if np.asarray(p).dtype.kind != "f":
                raise TypeError(f"{type(self).__name__}: parameter {name!r} is {np.asarray(p).dtype}, floating-point numbers are wanted")
        return {"t": 0, **{slot: {name: np.zeros(np.shape(p), p.dtype) for name, p in params.items()} for slot in self.slots}}

    def step(
        self, params: Mapping[str, Any], grads: Mapping[str, Any], moments: Moments, *, donate: bool = False, in_place: bool = False
    ) -> tuple[Arrays, Moments]:
        """The parameters and the moments after one more step.

        donate     the moments are given away: the new ones may be written over them, which saves the time that fresh memory costs
        in_place   so are the parameters

        Raises ValueError if the names of params, grads and moments differ, ShapeError if their shapes do.
        """
        t = moments["t"] + 1
        op, hyper = self.rule(rate(self.lr, t - 1), t)
        new = self._together(op, hyper, params, grads, moments, donate, in_place) or self._in_turn(op, hyper, params, grads, moments)
        return new[0], {"t": t, **dict(zip(self.slots, new[1:], strict=True))}

    def _together(
        self, op: Op, hyper: dict[str, Any], params: Any, grads: Any, moments: Moments, donate: bool, in_place: bool
    ) -> Sequence[Arrays] | None:
        """All arrays in one call of a kernel; None if there is none for them."""
        kernel = running_kernels().get(op.name) if running() is EVAL else None
        if kernel is None or not kernel.contract.dicts or not type(params) is type(grads) is dict:
            return None
        held = [moments.get(slot) for slot in self.slots]
        decay = {name: self._decay(name) for name in params} if self.no_decay else self.weight_decay
        out = [params if in_place else None, *[x if donate else None for x in held]]
        try:
            return kernel.run(params, grads, *held, **hyper, weight_decay=decay, out=out)  # type: ignore[no-any-return]
        except (TypeError, ValueError, AttributeError):  # before anything was written
            return None  # array by array these are converted, or it is said what clashed

    def _in_turn(
        self, op: Op, hyper: dict[str, Any], params: Mapping[str, Any], grads: Mapping[str, Any], moments: Moments
    ) -> list[Arrays]:
        """Each array by the op."""
        self._check(params, grads, moments)
        new: list[Arrays] = [{} for _ in range(1 + len(self.slots))]
        for name, p in params.items():
            given = [p, np.asarray(grads[name], p.dtype), *[moments[slot][name] for slot in self.slots]]
            for where, x in zip(new, op(*given, **hyper, weight_decay=self._decay(name)), strict=True):
                where[name] = np.asarray(x, p.dtype, order="C")  # one layout in memory: a run from a checkpoint meets the same
        return new

    def _decay(self, name: str) -> float:
        return 0.0 if any(fnmatchcase(name, pattern) for pattern in self.no_decay) else self.weight_decay

    def _check(self, params: Mapping[str, Any], grads: Mapping[str, Any], moments: Moments) -> None:
        for what, named in [("gradients", grads), *((f"moments {slot!r}", moments.get(slot, {})) for slot in self.slots)]:
            if named.keys() != params.keys():
                missing, extra = sorted(params.keys() - named.keys()), sorted(named.keys() - params.keys())
                raise ValueError(
                    f"{type(self).__name__}: the {what} do not fit the parameters: missing {missing}, not a parameter {extra}\n"
                    "  moments come from init(params) of the same optimiser; to train some parameters only, pass only these"
                )


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent: `engine.ops.sgd_step`."""

    lr: Rate
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()

    def rule(self, lr: float, t: int) -> tuple[Op, dict[str, Any]]:
        """`sgd_step`"""
        return ops.sgd_step, {"lr": lr}


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Gradient descent with momentum: `engine.ops.momentum_step`, or `nesterov_step`."""

    slots: ClassVar[tuple[str, ...]] = ("m",)
    lr: Rate
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()

    def rule(self, lr: float, t: int) -> tuple[Op, dict[str, Any]]:
        """`momentum_step` or `nesterov_step`"""
        return ops.nesterov_step if self.nesterov else ops.momentum_step, {"lr": lr, "momentum": self.momentum}


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """A rate for each weight, from all its squared gradients: `engine.ops.adagrad_step`."""

    slots: ClassVar[tuple[str, ...]] = ("v",)
    lr: Rate = 1e-2
    eps: float = 1e-10
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()

    def rule(self, lr: float, t: int) -> tuple[Op, dict[str, Any]]:
        """`adagrad_step`"""
        return ops.adagrad_step, {"lr": lr, "eps": self.eps}


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """A rate for each weight, from its recent squared gradients: `engine.ops.rmsprop_step`."""

    slots: ClassVar[tuple[str, ...]] = ("v",)
    lr: Rate = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()

    def rule(self, lr: float, t: int) -> tuple[Op, dict[str, Any]]:
        """`rmsprop_step`"""
        return ops.rmsprop_step, {"lr": lr, "alpha": self.alpha, "eps": self.eps}


@dataclass(frozen=True)
class Adam(Optimizer):
    """Momentum and a rate for each weight, both with their start corrected: `engine.ops.adam_step`."""

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    lr: Rate = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()

    def rule(self, lr: float, t: int) -> tuple[Op, dict[str, Any]]:
        """`adam_step`"""
        return ops.adam_step, {"lr": lr, "t": t, "beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam whose decay acts on the weight itself: `engine.ops.adamw_step`."""

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    lr: Rate = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2
    no_decay: tuple[str, ...] = ()

    def rule(self, lr: float, t: int) -> tuple[Op, dict[str, Any]]:
        """`adamw_step`"""
        return ops.adamw_step, {"lr": lr, "t": t, "beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}


def global_norm(arrays: Mapping[str, Any]) -> float:
    r"""$\sqrt{\sum_k \| g_k \|^2}$ over all the arrays, added up in float64."""
    return math.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in arrays.values()))


def clip_by_global_norm(grads: Mapping[str, Any], max_norm: float) -> tuple[Arrays, float]:
    r"""$g' = g \min (1, c / \| g \|)$ with the norm over all arrays: the direction stays. Returns g' and the norm.

    Raises FloatingPointError, naming the arrays, if the norm is not finite: no factor cures that.
    Source: Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks, Algorithm 1.
    """
    norm = global_norm(grads)
    if not math.isfinite(norm):
        names = [name for name, g in grads.items() if not np.all(np.isfinite(g))]
        raise FloatingPointError(f"the gradient of {', '.join(names) or 'all parameters together'} is not finite")
    factor = 1.0 if norm <= max_norm else max_norm / norm
    return {name: g if factor == 1.0 else factor * g for name, g in grads.items()}, norm
