"""`@gradient_test`: a function whose gradient is a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.testing.check import check_gradient

Function = Callable[..., Any]


def gradient_test(vjp: Function | None = None, *, inconclusive: bool = False, **settings: Any) -> Callable[[Function], Callable[[], None]]:
    """Make a test of a function: it passes if the gradient of the function is right.

        @gradient_test(softplus_vjp, signature="...")
        def test_softplus(x):
            return np.logaddexp(0, x)

        @gradient_test(framework="torch", orders=(1, 2))
        def test_attention(q, k, v):
            return attention(q, k, v)

    vjp            a rule of one's own; None: what the framework of the function computes
    inconclusive   is a run that concludes nothing good enough? By default it fails
    settings       of `check_gradient`: signature, domain, kwargs, cases, orders, examples, seed, severity, ...

    The test raises GradientError with the whole report. It takes no arguments, so that pytest looks for no fixtures.
    """

    def made(f: Function) -> Callable[[], None]:
        def test() -> None:
            check_gradient(f, vjp, **settings).raise_if_failed(inconclusive=not inconclusive)

        test.__name__, test.__qualname__, test.__module__, test.__doc__ = f.__name__, f.__qualname__, f.__module__, f.__doc__
        return test

    return made
