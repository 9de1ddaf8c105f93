"""Gnomon: derivatives that one can read."""

try:
    import kernels.registry  # noqa: F401
except ModuleNotFoundError:
    import sys

    _other = getattr(sys.modules.get("kernels"), "__file__", "it")
    raise ImportError(
        f"another package called `kernels` comes first on the path: {_other}\n"
        "  gnomon brings its own; remove the other from this environment, or move its folder behind gnomon's on sys.path"
    ) from None

from engine import ops
from engine.forward import jvp
from engine.op import EscapedValue, MissingRule, Op, op
from engine.ops import (
    numpy_protocol,  # noqa: F401   which makes NumPy's own functions differentiable
    stop_gradient,
)
from engine.reverse import RuleError, checkpoint, grad, hessian, hvp, jacobian, value_and_grad, vjp
from engine.shapes import ShapeError
from engine.traced import Unsupported

__all__ = [
    "EscapedValue", "MissingRule", "Op", "RuleError", "ShapeError", "Unsupported", "checkpoint", "grad", "hessian", "hvp", "jacobian",
    "jvp", "op", "ops", "stop_gradient", "value_and_grad", "vjp",
]  # fmt: skip
