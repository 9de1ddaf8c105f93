"""What a call of an op means is for the running interpreter to say.

Each interpreter knows the one `below` it, keeps its own values as `Traced(owner, value, slot)`, and
hands the call down. At the bottom is Eval, which computes. That is the whole of nesting: a tape
inside a tape is a derivative of a derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.op import Op


class Interpreter:
    """Gives a meaning to op calls."""

    below: Interpreter

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        """What calling `op` on `args` means here: `args` in order, `params` complete."""
        raise NotImplementedError

    def refusal(self, what: str) -> Exception:
        """The error for a number that is taken out of a value of this interpreter."""
        return TypeError(
            f"{what} would cut this value off from its derivative.\n"
            "  use engine ops or numpy functions on it; to cut it on purpose, use stop_gradient(x) and read it after"
        )


class Eval(Interpreter):
    """Compute."""

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        return op.run(args, params)


EVAL = Eval()
_running: ContextVar[Interpreter] = ContextVar("interpreter", default=EVAL)
running = _running.get


class interpreting:
    """`with interpreting(i):` op calls inside the block mean what `i` says."""

    __slots__ = ("interpreter", "token")

    def __init__(self, interpreter: Interpreter):
        self.interpreter = interpreter

    def __enter__(self) -> Interpreter:
        self.token: Token[Interpreter] = _running.set(self.interpreter)
        return self.interpreter

    def __exit__(self, *_: object) -> None:
        _running.reset(self.token)
