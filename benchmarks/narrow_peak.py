"""Operations a second of the instructions behind products of narrow numbers, `kernels.cpu.words` and `kernels.cpu.amx`, alone.

As many sums as there are registers for, none of which waits for another; nothing is loaded. Under sums of float32 bfloat16 is
multiplied, under sums of int32 int8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SUMS = {True: 20, False: 8}  # of 32 registers, of 16
TURNS = 1000
REGISTERS = 4  # of eight matrix registers hold sums


def instructions(sum_dtype: str) -> tuple[Callable[[int], Any], float]:
    """A function of a number of repeats, and the operations of one: in matrix registers where the system lends them."""
    from kernels.cpu.amx import SIDE, lent
    from kernels.cpu.features import lanes, registers
    from kernels.cpu.words import QUADS

    group = 4 if sum_dtype == "int32" and (QUADS or lent()) else 2
    like, room = np.zeros(1, sum_dtype), np.zeros(4096, np.uint8)
    if lent():
        run, work = compiled("matrices"), REGISTERS * SIDE**3 * group
    else:
        run, work = compiled("vectors"), SUMS[registers() >= 32] * lanes(32) * group
    return lambda repeats: run(like, room, repeats * TURNS), 2.0 * work * TURNS


def compiled(kind: str) -> Any:
    """run(like, room, turns): `like` is an array of the dtype of a sum, `room` takes what comes out."""
    from llvmlite import ir
    from numba import njit, types
    from numba.extending import intrinsic

    from kernels.cpu.amx import Matrices
    from kernels.cpu.features import registers
    from kernels.cpu.vector import INT, address, loop
    from kernels.cpu.words import Words

    @intrinsic
    def vectors(typing: Any, like: Any, place: Any, turns: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            v = Words(builder, context.get_value_type(signature.args[0]))
            words = builder.load(builder.inttoptr(values[1], v.words.as_pointer()))
            words.align = 1
            a = b = words if v.whole else builder.bitcast(words, v.type)
            _, sums = loop(builder, values[2], [v.zero] * SUMS[registers() >= 32], lambda _, *sums: [v.fused(a, b, s) for s in sums])
            for i, total in enumerate(sums):
                v.store(total, v.plus(values[1], i * v.bytes))
            return context.get_dummy_value()

        return types.void(like, place, turns), code

    @intrinsic
    def matrices(typing: Any, like: Any, place: Any, turns: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            on, whole = Matrices(builder), isinstance(context.get_value_type(signature.args[0]), ir.IntType)
            on.lay_out()
            for register in range(REGISTERS):
                on.zero(register)
                on.load(REGISTERS + register, values[1], INT(64))

            def turn(_: Any) -> list[Any]:
                for register in range(REGISTERS):
                    on.dot("bssd" if whole else "bf16ps", register, REGISTERS + register // 2, REGISTERS + 2 + register % 2)
                return []

            loop(builder, values[2], [], turn)
            for register in range(REGISTERS):
                on.store(register, values[1], INT(64))
            on.let_go()
            return context.get_dummy_value()

        return types.void(like, place, turns), code

    chosen = matrices if kind == "matrices" else vectors

    @njit(nogil=True)
    def run(like, room, turns):  # type: ignore[no-untyped-def]
        chosen(like[0], address(room), turns)

    return run
