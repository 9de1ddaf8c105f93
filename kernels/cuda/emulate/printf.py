"""vprintf: a format and a buffer of arguments in a thread's memory become text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from kernels.cuda.emulate.memory import LOCAL, MASK, WINDOW, Memory

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes

SPEC = re.compile(r"%([-+ #0]*\d*(?:\.\d+)?)(hh|h|ll|l|z)?([diouxXcfeEgGsp%])")


def printed(R: Lanes, form: np.ndarray, buffer: np.ndarray) -> None:
    """vprintf: what each thread prints goes to the machine's output, in order."""
    local, memory = R["local"], R.machine.memory
    for i in range(R.size):
        here = int(local[i if local.size > 1 else 0])
        at = place(memory, int(buffer[i if buffer.size > 1 else 0]), here)
        R.machine.output.append(text(memory, string(memory, int(form[i if form.size > 1 else 0]), here), at, here))


def place(memory: Memory, address: int, local: int) -> int:
    """The position in the arena of a generic address of a thread."""
    window = address >> WINDOW
    return (local if window == LOCAL else int(memory.starts[window])) + (address & MASK)


def string(memory: Memory, address: int, local: int) -> str:
    at = place(memory, address, local)
    return bytes(memory.arena[at : at + 4096]).split(b"\0")[0].decode(errors="replace")


def text(memory: Memory, form: str, at: int, local: int) -> str:
    """Arguments lie one after the other, each aligned to its size; what is less than an int is an int, a float a double."""

    def one(m: re.Match[str]) -> str:
        nonlocal at
        flags, length, kind = m.groups()
        if kind == "%":
            return "%"
        wide = kind in "feEgGsp" or length in ("ll", "l", "z")
        dtype = "f8" if kind in "feEgG" else f"{'i' if kind in 'dic' else 'u'}{8 if wide else 4}"
        size = int(dtype[1])
        at = -(-at // size) * size
        value: Any = memory.arena[at : at + size].view(dtype)[0].item()
        at += size
        if kind in "sp":
            return f"%{flags}s" % (string(memory, value, local) if kind == "s" else hex(value))
        return f"%{flags}{'d' if kind in 'iu' else kind}" % value

    return SPEC.sub(one, form)
