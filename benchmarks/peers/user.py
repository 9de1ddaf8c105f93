"""A function of the user's own, module:function or file.py:function, with the arrays and the parameters of the op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import peers


class Yours:
    """The function of that name, looked up when it is first needed: its module may import anything."""

    def __init__(self, name: str):
        self.name = name

    def available(self) -> str | None:
        return None

    def function(self) -> Callable[..., Any]:
        from engine.cli.explain import imported

        return imported(self.name)

    def prepare(self, case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
        f = self.function()
        given = {k: v for k, v in params.items() if k in dict(case.params) or takes(f, k)}
        return lambda: f(*args, **given)


def takes(f: Callable[..., Any], name: str) -> bool:
    """Has it a parameter of that name? Parameters at their default are only handed over if so."""
    import inspect

    try:
        parameters = inspect.signature(f).parameters
    except ValueError:  # some built-in functions do not say
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def called(name: str) -> Yours:
    return Yours(name)
