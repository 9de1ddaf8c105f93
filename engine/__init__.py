"""Gnomon: derivatives that one can read."""

from engine import ops
from engine.forward import jvp
from engine.op import EscapedValue, MissingRule, Op, op
from engine.ops import stop_gradient
from engine.reverse import RuleError, checkpoint, grad, hessian, hvp, jacobian, value_and_grad, vjp
from engine.shapes import ShapeError
from engine.traced import Unsupported

__all__ = [
    "EscapedValue", "MissingRule", "Op", "RuleError", "ShapeError", "Unsupported", "checkpoint", "grad", "hessian", "hvp", "jacobian",
    "jvp", "op", "ops", "stop_gradient", "value_and_grad", "vjp",
]  # fmt: skip
