"""PyTorch: tensors in the memory of the arrays. Negative strides and the other byte order, which it has not, are copied."""

from typing import Any

import torch
from torch.autograd import forward_ad

from engine.testing.adapters.shared import asked, plain


def wrap(x: Any) -> Any:
    half = (x := plain(x)).dtype.name == "bfloat16"
    return torch.from_numpy(x.view("i2")).view(torch.bfloat16) if half else torch.from_numpy(x)


def unwrap(y: Any) -> Any:
    return y.detach().view(torch.int16).numpy().view("bfloat16") if y.dtype == torch.bfloat16 else y.numpy(force=True)


def vjp(f: Any, *xs: Any) -> Any:
    ys = f(*(leaves := [x if x.requires_grad else x.view_as(x).requires_grad_() for x in xs]))  # as some do in another vjp
    return ys, lambda gs: torch.autograd.grad(**asked(ys, gs, leaves), create_graph=any(x.requires_grad for x in xs))


def jvp(f: Any, xs: Any, ds: Any) -> Any:
    with forward_ad.dual_level():
        ys = [forward_ad.unpack_dual(y) for y in f(*map(forward_ad.make_dual, xs, ds))]
        return ys, tuple(torch.zeros_like(y) if d is None else d for y, d in ys)
