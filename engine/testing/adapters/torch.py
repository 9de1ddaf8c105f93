"""PyTorch: tensors in the memory of the arrays. Negative strides and the other byte order, which it has not, are copied."""

import warnings
from typing import Any

import torch
from torch.func import jvp  # noqa: F401


def wrap(x: Any) -> Any:
    plain = min(x.strides, default=0) >= 0 and x.dtype.isnative and x.flags.aligned
    x, kind = (x.view("i2"), torch.bfloat16) if x.dtype.name == "bfloat16" else (x, getattr(torch, x.dtype.name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "not writable": the tester looks itself whether an input was written to
        return torch.from_numpy(x if plain else x.astype(x.dtype.newbyteorder("="), order="C")).view(kind)


def unwrap(y: Any) -> Any:
    half = y.dtype == torch.bfloat16
    return y.detach().view(torch.int16).numpy(force=True).view("bfloat16") if half else y.numpy(force=True)


def vjp(f: Any, *xs: Any) -> Any:
    ys = f(*(leaves := [x if x.requires_grad else x.detach().requires_grad_() for x in xs]))  # some do inside of another vjp

    def pull(gs: Any) -> Any:
        ends, seeds = zip(*[(y, g) for y, g in zip(ys, gs, strict=True) if y.requires_grad] or [(x, 0 * x) for x in leaves], strict=True)
        return torch.autograd.grad(ends, leaves, seeds, True, any(x.requires_grad for x in xs), materialize_grads=True)

    return ys, pull
