"""What an adapter may need beside its framework."""

from collections.abc import Sequence
from typing import Any


def plain(x: Any) -> Any:
    """The array itself, or a copy if a stride is negative, the byte order foreign, or the address odd."""
    if min(x.strides, default=0) >= 0 and x.dtype.isnative and x.flags.aligned:
        return x
    return x.astype(x.dtype.newbyteorder("="), order="C")


def asked(ys: Sequence[Any], gs: Sequence[Any], xs: Sequence[Any]) -> dict[str, Any]:
    """Arguments of torch.autograd.grad: the outputs that depend on something; where none does, xs themselves and zeros."""
    ends = [(y, g) for y, g in zip(ys, gs, strict=True) if y.requires_grad] or [(x, 0 * x) for x in xs]
    outputs, cotangents = zip(*ends, strict=True)
    return {"outputs": outputs, "inputs": xs, "grad_outputs": cotangents, "retain_graph": True, "materialize_grads": True}
