"""Functions that are compiled once and called as those of C are: by their symbol.

Numba links the code of a jitted function into each of its callers and optimises all of it again, level after level. A unit is compiled for
itself, kept on disk for itself, and known to the process by a symbol, so that a caller holds no more of it than the call:

    @unit
    def weighed(like, a, b, count): ...         # like: a number of the type in question; all others are integers: addresses, bytes, counts

    weighed(like, address(x), address(y), 3)    # in a jitted function, in another unit

The symbols must be there before a caller is loaded. What is `stamped` sees to that: it finds the units that it calls, and those that
these call, among the names in the source.
"""

from __future__ import annotations

import inspect
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from kernels.cpu.cache import stamped

INT = ir.IntType(64)


class Unit:
    """The compiled forms of a function, by the type of its first argument."""

    def __init__(self, function: Any, returns: Any):
        self.function, self.returns = function, returns
        self.forms: dict[Any, CFunc] = {}
        self.others = len(inspect.signature(function).parameters) - 1

    def symbol(self, number: Any) -> str:
        return f"gnomon.{self.function.__module__}.{self.function.__qualname__}.{number}"

    @global_compiler_lock
    def ready(self, number: Any) -> str:
        """Compile it or load it, with all that it calls; returns its symbol."""
        symbol = self.symbol(number)
        if number not in self.forms:
            signature = (number, *[types.int64] * self.others), self.returns
            form = CFunc(self.function, signature, {}, {"nopython": True, "error_model": "numpy"})
            form.enable_caching()
            stamped(form).compile()
            binding.add_symbol(symbol, form.address)
            self.forms[number] = form
        return symbol

    def place(self, number: Any) -> int:
        """Where the compiled code lies, for `called_at`."""
        self.ready(number)
        return int(self.forms[number].address)


def unit(function: Any, returns: Any = types.void) -> Any:
    """`function` as a unit: callable in jitted code, and it returns nothing, or an integer."""
    made = Unit(function, returns)

    def call(typing: Any, like: Any, *others: Any) -> Any:
        symbol = made.ready(like)

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            result = ir.VoidType() if returns is types.void else INT
            kind = ir.FunctionType(result, [value.type for value in values])
            found = builder.call(cgutils.get_or_insert_function(builder.module, kind, symbol), values)
            return context.get_dummy_value() if returns is types.void else found

        return returns(like, *[types.int64] * made.others), code

    parameters = inspect.signature(function).parameters.values()
    call.__signature__ = inspect.Signature([inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD), *parameters])
    call.__name__ = call.__qualname__ = function.__name__
    found = intrinsic(call)
    found.called_unit = made
    return found


def counting(function: Any) -> Any:
    """A unit that returns an integer."""
    return unit(function, types.int64)


@intrinsic
def called_at(typing: Any, place: Any, like: Any, first: Any, second: Any) -> Any:
    """Call the unit at a place, one that returns nothing: so that one caller serves all units of this signature."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values[1:]])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(types.int64, like, types.int64, types.int64), code
