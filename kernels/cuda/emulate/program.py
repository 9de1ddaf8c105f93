"""A kernel, translated once for every run of it: lines of Python, and segments of them between places where threads part or meet."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from kernels.cuda.emulate.instructions import OPCODES
from kernels.cuda.emulate.parse import Function, Instruction, Number
from kernels.cuda.emulate.translate import BOOL, Translator

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes

CONTROL = ("bra", "brx", "ret", "exit", "bar", "barrier", "trap")  # what is the machine's to do
COLLECTIVE = ("shfl", "vote", "match", "redux", "elect", "mma", "ldmatrix")  # lanes of a warp wait for each other there
CHANGING = {"volatile", "acquire", "relaxed"}  # loads of what other threads may change


class Program:
    """The lines of a kernel and what the machine needs to know of those that are its own to do."""

    def __init__(self, kernel: Function) -> None:
        t = Translator(kernel, OPCODES)
        self.body, self.homes, self.names, self.fixed = kernel.body, t.homes, t.names, t.fixed
        self.lines = [None if is_control(x) else t.line(x) for x in self.body]
        self.tests = [self.function(t.value(x.guard, BOOL)) if x.guard and is_control(x) else None for x in self.body]
        self.index = {x: self.function(t.value(x.operands[0], "u4")) for x in self.body if x.parts[0] == "brx"}
        self.reductions = {x: self.reduction(t, x) for x in self.body if x.opcode.startswith(("bar.red", "barrier.red"))}
        self.next_control = self.next_of([line is None for line in self.lines])
        self.collective = [is_collective(x) for x in self.body]
        self.next_meeting = self.next_of([line is None or meets for line, meets in zip(self.lines, self.collective, strict=True)])
        self.segments: dict[tuple[int, int], Callable[[Lanes], None]] = {}
        self.loops: dict[tuple[int, int], bool] = {}

    def function(self, expression: str) -> Callable[[Lanes], np.ndarray]:
        return eval(f"lambda R: {expression}", self.names)  # type: ignore[no-any-return]

    def reduction(self, t: Translator, x: Instruction) -> tuple[Callable[[Lanes], np.ndarray], Callable[[Lanes, np.ndarray], None]]:
        """The predicate of a bar.red, and what takes its result."""
        space: dict[str, Any] = {}
        line = t.set(x.operands[0], "value", "u4" if "popc" in x.parts else BOOL)
        exec(f"def result(R, value):\n {line}", self.names, space)
        return self.function(t.value(x.operands[-1], BOOL)), space["result"]

    def next_of(self, which: list[bool]) -> list[int]:
        """For each instruction the next of these, itself included; the end of the body after the last."""
        after, at = [0] * len(which) + [len(which)], len(which)
        for i in range(len(which) - 1, -1, -1):
            after[i] = at = i if which[i] else at
        return after

    def segment(self, start: int, end: int) -> Callable[[Lanes], None]:
        """The lines from `start` to `end` as one function: its line i is instruction start + i - 2."""
        found = self.segments.get((start, end))
        if found is None:
            space: dict[str, Any] = {}
            exec(compile("def segment(R):\n " + "\n ".join(map(str, self.lines[start:end])), "<ptx>", "exec"), self.names, space)
            found = self.segments[start, end] = space["segment"]
        return found

    def plain_barrier(self, x: Instruction, threads: int) -> bool:
        """Whether an instruction waits for all threads of a block, and no more: bar.sync, barrier.sync and their longer names."""
        if x.parts[0] not in ("bar", "barrier") or "sync" not in x.parts:
            return False
        return len(x.operands) < 2 or x.operands[1] == Number(threads)

    def may_wait(self, start: int, end: int) -> bool:
        """Whether a loop looks at what other threads may change."""
        if (start, end) not in self.loops:
            self.loops[start, end] = any(x.parts[0] == "atom" or CHANGING & set(x.parts) for x in self.body[start:end])
        return self.loops[start, end]


def is_control(x: Instruction) -> bool:
    return x.parts[0] in CONTROL and not x.opcode.startswith("bar.warp")


def is_collective(x: Instruction) -> bool:
    return x.opcode.startswith("bar.warp") or (x.parts[0] in COLLECTIVE and "sync" in x.parts)


@lru_cache(maxsize=64)
def program_of(kernel: Function) -> Program:
    """The program of a kernel that `parse` gave: the same for the same text."""
    return Program(kernel)
