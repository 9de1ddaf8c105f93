"""A formula on numbers becomes one loop of vector instructions over arrays.

    def sgd(p, g, lr, decay):
        return (p - lr * (g + decay * p),)

    sgd_line = along(sgd, arrays=2, numbers=2)

The formula is written once, in Python's operators and `np.sqrt`. It is run once, when the kernel is compiled, on `Number`s that write
instructions. A vector of each array is read before one is written, so a result may lie just where an argument lies: no test for that
is compiled in, where LLVM, which does not know it, would make one and then go number by number. The last vector is masked: an element
goes through the same instructions wherever it stands, so pieces may be cut anywhere without changing a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from kernels.cpu.vector import INT, Vectors, loop

AHEAD = 2048  # bytes: what is needed soon is fetched, past the end of a page as well, where the machine does not guess it
FUSED = ("contract",)  # a product may be fused with the sum that it goes into


class Number:
    """A number of a formula: the vector that holds it for some elements, and the operators of arithmetic."""

    def __init__(self, vectors: Vectors, value: Any):
        self.vectors = vectors
        self.value = value

    def _new(self, instruction: Callable[..., Any], *others: Number) -> Number:
        return Number(self.vectors, instruction(self.value, *[other.value for other in others], flags=FUSED))

    def __add__(self, other: Number) -> Number:
        return self._new(self.vectors.builder.fadd, other)

    def __sub__(self, other: Number) -> Number:
        return self._new(self.vectors.builder.fsub, other)

    def __mul__(self, other: Number) -> Number:
        return self._new(self.vectors.builder.fmul, other)

    def __truediv__(self, other: Number) -> Number:
        return self._new(self.vectors.builder.fdiv, other)

    def sqrt(self) -> Number:
        """What `np.sqrt` calls on an object that is no number of NumPy's."""
        v = self.vectors
        return Number(v, v.builder.call(v._intrinsic("llvm.sqrt", "", v.type, [v.type]), [self.value]))


def along(formula: Callable[..., tuple[Any, ...]], *, arrays: int, numbers: int) -> Any:
    """run(like, line, numbers): `formula` along the arrays of one line of a table, in numbers of the type of `like`.

    line      address of integers: how many elements, then where each array lies that is read, then where each result goes
    numbers   address of the numbers that are the same for all elements
    """

    @intrinsic
    def run(typing: Any, like: Any, line: Any, constants: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            v = Vectors(builder, context.get_value_type(signature.args[0]))
            same = [Number(v, v.broadcast(v.plus(values[2], i * v.size))) for i in range(numbers)]

            def word(i: int) -> Any:
                return builder.load(v.pointer(v.plus(values[1], 8 * i), INT))

            def apply(start: Any, load: Callable[..., Any], store: Callable[..., Any], *mask: Any) -> None:
                offset = builder.mul(start, INT(v.size))
                found = [Number(v, load(builder.add(place, offset), *mask)) for place in places[:arrays]]
                for result, place in zip(formula(*found, *same), places[arrays:], strict=True):
                    store(result.value, builder.add(place, offset), *mask)

            def whole(i: Any) -> list[Any]:
                for place in places[:arrays]:
                    v.prefetch(v.plus(builder.add(place, builder.mul(i, INT(v.size))), AHEAD), writing=True)
                apply(i, v.load, v.store)
                return []

            size, places = word(0), [word(1 + i) for i in range(arrays + len(formula(*[same[0]] * arrays, *same)))]
            done, _ = loop(builder, size, [], whole, step=v.lanes)
            left = builder.sub(size, done)
            with builder.if_then(builder.icmp_signed(">", left, INT(0))):
                apply(done, v.load_some, v.store_some, v.first(left))
            return context.get_dummy_value()

        return types.void(like, line, constants), code

    return run
