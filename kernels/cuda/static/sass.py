"""Machine code as nvdisasm writes it, as data: instructions, their stalls, and the loops they stand in.

An instruction has 128 bits. Bits 105 to 108 say for how many cycles its warp issues nothing afterwards: that layout, of all
capabilities since 7.0, is not NVIDIA's word but what Jia, Maggioni, Staiger & Scarpazza (2018), Dissecting the NVIDIA Volta GPU
architecture via microbenchmarking, section 2.1, found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LABEL = re.compile(r"^(\.L_x_\d+):")
LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);\s+/\* 0x[0-9a-f]{16} \*/")
SECOND = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")
STALL, STALL_BITS = 105 - 64, 0xF  # in the second half
PRODUCTS = ("FFMA", "FFMA2", "DFMA", "HFMA2", "HMMA", "IMMA", "DMMA", "IDP", "HGMMA", "QMMA", "OMMA")


@dataclass(frozen=True)
class Instruction:
    place: int
    opcode: str  # with what follows a dot: LDS.128
    operands: str
    stall: int

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def moves(self) -> bool:
        """IMAD.MOV, and products of zero by zero: a number is moved through a pipe that has nothing else to do."""
        return self.name == "MOV" or ".MOV" in self.opcode or re.search(r"-?RZ(\.H\d_H\d)?, -?RZ", self.operands) is not None

    @property
    def multiplies(self) -> bool:
        return self.name in PRODUCTS and not self.moves

    @property
    def to(self) -> str | None:
        """The label that it jumps to."""
        found = re.search(r"`\((\.L_x_\d+)\)", self.operands)
        return found[1] if found and self.name in ("BRA", "CALL") else None


@dataclass(frozen=True)
class Code:
    """The instructions of a kernel and of what it calls, and at which of them each label stands."""

    instructions: Sequence[Instruction]
    labels: dict[str, int]

    def loops(self) -> list[tuple[int, int]]:
        """First and last instruction of each: a jump back and what it jumps to. An empty one, on which code ends, is none."""
        back = [(self.labels[i.to], at) for at, i in enumerate(self.instructions) if i.name == "BRA" and i.to in self.labels]
        return [(first, last) for first, last in back if first < last]

    def innermost(self) -> list[Sequence[Instruction]]:
        loops = self.loops()
        inner = [a for a in loops if not any(a[0] <= b[0] and b[1] <= a[1] and a != b for b in loops)]
        return [self.instructions[first : last + 1] for first, last in inner]

    def main_loop(self) -> Sequence[Instruction]:
        """The innermost loop with most products; of those with as many, the longest. All of it if there is none."""
        return max(self.innermost(), key=lambda body: (sum(i.multiplies for i in body), len(body)), default=self.instructions)

    def in_loops(self) -> Iterator[Instruction]:
        """What is run again and again: bodies of loops, and the routines that they call."""
        places = {at for first, last in self.loops() for at in range(first, last + 1)}
        for at in sorted(places):
            called = self.instructions[at]
            if called.name == "CALL" and called.to in self.labels:
                places |= set(range(self.labels[called.to], self.end_of(self.labels[called.to]) + 1))
        return (self.instructions[at] for at in sorted(places))

    def end_of(self, start: int) -> int:
        """Where a routine returns."""
        return next((at for at in range(start, len(self.instructions)) if self.instructions[at].name == "RET"), start)


def read(sass: str) -> Code:
    """Code from the text of `nvdisasm -c -hex`."""
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    lines = iter(sass.splitlines())
    for line in lines:
        if label := LABEL.match(line):
            labels[label[1]] = len(found)
        elif code := LINE.match(line):
            control = SECOND.match(next(lines))
            if control is None:
                raise ValueError(f"no second half of an instruction after {line!r}")
            stall = int(control[1], 16) >> STALL & STALL_BITS
            found.append(Instruction(int(code[1], 16), code[3], code[4].strip(), stall))
    return Code(found, labels)
