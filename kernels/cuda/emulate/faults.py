"""What a run can be stopped by: a fault says which check found it, who did it, where in the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels.cuda.emulate.parse import Instruction

CHECKS = ("bounds", "alignment", "uninitialised", "race", "barrier", "limit", "shuffle")
ON_REQUEST = ("warp", "grid")  # races within a warp, and in global memory: of these a run is free only if it means to be


@dataclass(frozen=True)
class Thread:
    """A thread by its block and its place in it."""

    block: tuple[int, int, int]
    thread: tuple[int, int, int]

    def __str__(self) -> str:
        return f"block {self.block} thread {self.thread}"


class Fault(Exception):
    """A kernel did what a check forbids.

    `check` is one of CHECKS; `threads` are those that did it, the first few of `count`; `address` is what the first of them
    asked for; `line` is the line of the PTX text and `source` the file and line that it was compiled from, where known.
    """

    def __init__(
        self,
        check: str,
        what: str,
        *,
        threads: Sequence[Thread] = (),
        count: int = 0,
        address: int | None = None,
        instruction: Instruction | None = None,
    ) -> None:
        self.check, self.what, self.threads, self.count, self.address = check, what, tuple(threads), count or len(threads), address
        self.instruction = instruction
        self.line = instruction.line if instruction else None
        self.source = instruction.source if instruction else None
        super().__init__(self.told())

    def told(self) -> str:
        lines = [f"{self.check}: {self.what}"]
        if self.threads:
            more = f" and {self.count - len(self.threads)} more" if self.count > len(self.threads) else ""
            lines.append(f"by {', '.join(map(str, self.threads))}{more}")
        if self.instruction:
            lines.append(f"PTX line {self.line}: {self.instruction.text}")
        if self.source:
            lines.append(f"{nearby(self.source[0])}, line {self.source[1]}")
        return "\n  ".join(lines)


def nearby(file: str) -> str:
    """The path as seen from the current folder, if it is in there."""
    here, path = Path.cwd(), Path(file)
    return str(path.relative_to(here)) if path.is_relative_to(here) else file


class Unsupported(Exception):
    """An instruction that this interpreter does not know; says its name and its line."""

    def __init__(self, x: Instruction, why: str = "it is not interpreted") -> None:
        super().__init__(f"{x.opcode}: {why}\n  PTX line {x.line}: {x.text}")
