"""Property tests for gradients: anybody's, of any framework."""

from engine.testing.check import check_gradient
from engine.testing.gradient_test import gradient_test
from engine.testing.module import check_module
from engine.testing.report import FAIL, INCONCLUSIVE, PASS, Counterexample, GradientError, Report

__all__ = [
    "FAIL", "INCONCLUSIVE", "PASS", "Counterexample", "GradientError", "Report", "check_gradient", "check_module", "gradient_test",
]  # fmt: skip
