"""PyTorch: tensors in the memory of the arrays. Negative strides and the other byte order, which it has not, are copied."""

import warnings
from functools import partial
from typing import Any

import torch

unwrap = partial(torch.Tensor.numpy, force=True)


def wrap(x: Any) -> Any:
    plain = min(x.strides, default=0) >= 0 and x.dtype.isnative and x.flags.aligned
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "not writable": the tester looks itself whether an input was written to
        return torch.from_numpy(x if plain else x.astype(x.dtype.newbyteorder("="), order="C"))


def vjp(f: Any, *xs: Any) -> Any:
    ys = f(*(leaves := [x if x.requires_grad else x.detach().requires_grad_() for x in xs]))  # some do inside of another vjp

    def pull(gs: Any) -> Any:
        ends, seeds = zip(*[(y, g) for y, g in zip(ys, gs, strict=True) if y.requires_grad] or [(x, 0 * x) for x in leaves], strict=True)
        return torch.autograd.grad(ends, leaves, seeds, True, any(x.requires_grad for x in xs), materialize_grads=True)

    return ys, pull


def jvp(f: Any, xs: Any, ds: Any) -> Any:
    return torch.func.jvp(f, tuple(x.clone() for x in xs), ds)  # clones: it takes no expanded tensors
