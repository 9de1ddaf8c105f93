"""A torch.nn.Module as the judge of a whole model sees it: parameters in, a number and the way it went at every kink out."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from engine.tree import flatten, tree_map

AT_ZERO = {"relu", "leaky_relu", "abs", "sign", "prelu", "rrelu", "threshold", "elu", "celu", "selu", "l1_loss", "hardtanh", "relu6"}
BETWEEN = {"maximum", "minimum", "fmax", "fmin", "smooth_l1_loss", "huber_loss", "l1_loss"}
THREES = {"hardswish", "hardsigmoid"}


class Branches(TorchDispatchMode):  # type: ignore[misc]
    """Notes on which side of its kinks each operation was, and every integer and truth value that came out of one."""

    def __init__(self) -> None:
        super().__init__()
        self.notes = hashlib.blake2b(digest_size=16)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        for choice in choices(func.overloadpacket.__name__.strip("_"), args, kwargs or {}, y):
            self.notes.update(choice.contiguous().numpy().tobytes())
        return y


def choices(name: str, args: Any, kwargs: Any, y: Any) -> list[Any]:
    """Small integers that tell which way the operation `name` went."""
    found = [part for part in parts(y) if not part.dtype.is_floating_point and not part.dtype.is_complex]
    floats = [a for a in parts(args) if a.dtype.is_floating_point]
    if not floats:
        return found
    x = floats[0]
    bounds = {0.0} if name in AT_ZERO else {-3.0, 3.0} if name in THREES else set()
    if name.startswith(("clamp", "hard", "soft", "threshold")):
        given = [b for b in flatten([list(args), dict(kwargs)])[0] if isinstance(b, (int, float)) and not isinstance(b, bool)]
        bounds |= {sign * float(b) for b in given for sign in (1, -1)}
    found += [torch.sign(x - b).to(torch.int8) for b in sorted(bounds)]
    if name in BETWEEN and len(floats) > 1:
        gap = floats[0] - floats[1]
        bends = [float(b) for b in (*args[2:], *kwargs.values()) if isinstance(b, float)] or [1.0]
        found += [torch.sign(t).to(torch.int8) for t in (gap, *(gap.abs() - b for b in bends))]
    if name in ("amax", "amin", "max", "min") and len(floats) == 1:
        axes = args[1] if len(args) > 1 and args[1] != [] else tuple(range(x.ndim))
        found.append(x == getattr(x, "amax" if "max" in name else "amin")(axes, keepdim=True))
    return found


def parts(nest: Any) -> list[Any]:
    return [t for t in flatten(list(nest) if isinstance(nest, tuple) else nest)[0] if isinstance(t, torch.Tensor)]


class OfTorch:
    """A module, copied to float64, on fixed inputs."""

    def __init__(self, module: Any, inputs: tuple[Any, ...], loss: Callable[[Any], Any] | None, train: bool | None, seed: int):
        self.module = copy.deepcopy(module).double().cpu()
        if train is not None:
            self.module.train(train)
        self.inputs, self.loss, self.seed = tree_map(as_double, inputs), loss, seed
        self.params = {
            name: p.detach().numpy().copy() for name, p in self.module.named_parameters() if p.requires_grad and p.is_floating_point()
        }

    def loss_of(self, params: dict[str, Any]) -> Any:
        """The loss for parameters that are tensors. Random numbers are the same each time, running statistics are copies."""
        buffers = {name: b.clone() for name, b in self.module.named_buffers()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            y = functional_call(self.module, {**params, **buffers}, self.inputs)
            return self.loss(y) if self.loss else weighted(y)

    def value(self, params: Any) -> float:
        if any(np.iscomplexobj(p) for p in params.values()):
            raise TypeError("a module takes real parameters")
        with torch.no_grad():
            return float(self.loss_of({name: torch.from_numpy(np.array(p)) for name, p in params.items()}))

    def run(self, params: Any) -> tuple[float, bytes]:
        with Branches() as branches:
            value = self.value(params)
        return value, branches.notes.digest()

    def gradient(self, params: Any) -> dict[str, np.ndarray[Any, Any]]:
        """What autograd says; zeros for a parameter that it did not reach."""
        given = {name: torch.from_numpy(np.array(p)).requires_grad_() for name, p in params.items()}
        y = self.loss_of(given)
        if not y.requires_grad:
            return {name: np.zeros(p.shape) for name, p in params.items()}
        found = torch.autograd.grad(y, list(given.values()), allow_unused=True)
        return {name: np.zeros(p.shape) if g is None else g.numpy() for (name, p), g in zip(given.items(), found, strict=True)}


def as_double(x: Any) -> Any:
    x = torch.as_tensor(x).detach().cpu() if not isinstance(x, (bool, int, float, str)) else x
    return x.double() if isinstance(x, torch.Tensor) and x.dtype.is_floating_point else x


def weighted(y: Any) -> Any:
    """The outputs, weighted with random numbers of both signs and summed up. What is a number already stays."""
    found = [t for t in parts(y) if t.dtype.is_floating_point]
    if len(found) == 1 and found[0].ndim == 0:
        return found[0]
    rng = torch.Generator().manual_seed(0)
    weights = [torch.rand(t.shape, generator=rng, dtype=t.dtype) + 0.5 for t in found]
    signs = [torch.randint(0, 2, t.shape, generator=rng) * 2 - 1 for t in found]
    return sum(((t * w * s).sum() for t, w, s in zip(found, weights, signs, strict=True)), torch.zeros(()))
