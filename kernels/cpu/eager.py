"""Jitted functions that are compiled for one signature a dtype, when that is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config, from_dtype, njit, types
from numpy import dtype

from kernels.cpu.cache import stamped

INT = types.int64


def given(number: Any) -> Any:
    """A flat array that is read: it may be read-only, and lie askew."""
    return types.Array(number, 1, "C", readonly=True, aligned=False)


def room(number: Any) -> Any:
    """A flat array that is written."""
    return types.Array(number, 1, "C")


class Eager(dict[str, Any]):
    """The compiled forms of a function, by the letter of its arrays' dtype. No form takes other types than its own, so that none is
    compiled by surprise; `stamped`, because functions of other files are inlined."""

    def __init__(self, function: Any, signature: Callable[[Any], tuple[Any, ...]], plain: Any = None):
        """`plain`: what to run where nothing is compiled, if the function is made of instructions."""
        super().__init__()
        self.function, self.signature, self.plain = function, signature, plain or function

    def __missing__(self, letter: str) -> Any:
        if config.DISABLE_JIT:  # to debug or to measure coverage
            return self.plain
        run = stamped(njit(cache=True, nogil=True, error_model="numpy")(self.function))
        run.compile(self.signature(from_dtype(dtype(letter))))
        run.disable_compile()
        return self.setdefault(letter, run)


def eager(signature: Callable[[Any], tuple[Any, ...]], plain: Any = None) -> Callable[[Any], Eager]:
    return lambda function: Eager(function, signature, plain)
