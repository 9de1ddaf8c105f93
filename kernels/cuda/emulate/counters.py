"""What a run costs where no clock is: instructions, sectors, wavefronts, divergence.

All are counts of what the PTX asks for, by the documented rules below; none is a time, and no cache is modelled.

    instructions   of threads, by class; those of PTX, which are not quite those of the machine code
    request        one memory instruction of one warp (of shared memory: see wavefronts)
    sectors        32 bytes of global memory at a multiple of 32: a request moves each that it touches, once
    useful         distinct bytes that lanes ask for, of the bytes in these sectors
    wavefronts     shared memory has 32 banks of 4 bytes, word w in bank w mod 32. A warp asks in one go if each lane wants 4 bytes or
                   less, in two halves for 8 bytes, in four quarters for 16; each is a request. A wavefront gives one word of every bank
                   (any number of lanes may want it), so a request takes as many as the most words wanted of one bank: 1 is the best
    active share   lanes that run, of 32 for each warp and instruction
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from kernels.cuda.emulate.access import ATOMIC, READ, Access
from kernels.cuda.emulate.checks import Watcher
from kernels.cuda.emulate.parse import Instruction
from kernels.cuda.emulate.translate import types_of
from kernels.cuda.emulate.warps import WARP, masks

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes, Machine

SECTOR, BANKS = 32, 32
CLASSES = ("fma", "tensor", "float", "integer", "move", "global", "shared", "local", "param", "atomic", "branch", "sync", "warp")
TRAFFIC = ("global_loads", "global_stores", "shared_loads", "shared_stores", "atomics", "shared_atomics")
BY_NAME = {
    "atomic": ("atom", "red"),
    "branch": ("bra", "brx", "ret", "exit", "call", "trap"),
    "sync": ("bar", "barrier", "membar", "fence"),
    "warp": ("shfl", "vote", "match", "redux", "activemask"),
    "move": ("mov", "cvt", "cvta", "selp", "isspacep"),
}


def class_of(x: Instruction) -> str:
    """What an instruction is counted as."""
    name, kinds = x.parts[0], types_of(x)
    if name in ("fma", "mad") and kinds and kinds[-1][0] in "fb" and kinds[-1] not in ("b32", "b64", "b16"):
        return "fma"
    if name in ("mma", "ldmatrix", "stmatrix"):
        return "shared" if name != "mma" else "tensor"
    if name in ("ld", "ldu", "st"):
        space = next((p.split("_")[0] for p in x.parts[1:] if p.split("_")[0] in ("global", "shared", "local", "param", "const")), "global")
        return {"const": "param"}.get(space, space)
    if name == "cp":
        return "global" if len(x.operands) > 1 else "sync"
    fixed = next((kind for kind, names in BY_NAME.items() if name in names), None)
    if fixed:
        return fixed
    return "float" if kinds and kinds[-1] in ("f16", "f16x2", "bf16", "bf16x2", "f32", "f64") else "integer"


@dataclass
class Traffic:
    """Requests of one kind: how many, what they move or take, and how much of it is wanted."""

    requests: int = 0
    cost: int = 0  # sectors or wavefronts
    useful: int = 0  # bytes

    def add(self, requests: int, cost: int, useful: int) -> None:
        self.requests, self.cost, self.useful = self.requests + requests, self.cost + cost, self.useful + useful


@dataclass
class Counts:
    """The counters of a run. Ratios that nothing stands for are None."""

    instructions: dict[str, int]  # of threads, by class
    warp_instructions: int
    active_share: float | None
    flops: int
    divergent_branches: int  # of warps
    barriers: int  # of blocks
    global_loads: Traffic
    global_stores: Traffic
    shared_loads: Traffic
    shared_stores: Traffic
    atomics: Traffic  # of global memory
    shared_atomics: Traffic
    by_line: list[dict[str, Any]] = field(default_factory=list)  # each instruction that touches memory: where it stands, its traffic

    @property
    def total(self) -> int:
        return sum(self.instructions.values())

    def per_fma(self, *classes: str) -> float | None:
        """Instructions of threads, all or of some classes, for each fused product and sum; tensor cores aside."""
        return ratio(sum(self.instructions[c] for c in classes or self.instructions), self.instructions["fma"])

    def sectors_per_request(self) -> float | None:
        return ratio(self.global_loads.cost + self.global_stores.cost, self.global_loads.requests + self.global_stores.requests)

    def useful_share(self) -> float | None:
        """Of the bytes that global requests move, those that lanes want."""
        return ratio(self.global_loads.useful + self.global_stores.useful, SECTOR * (self.global_loads.cost + self.global_stores.cost))

    def wavefronts_per_request(self) -> float | None:
        return ratio(self.shared_loads.cost + self.shared_stores.cost, self.shared_loads.requests + self.shared_stores.requests)

    def l2_bytes(self) -> int:
        """Bytes of all sectors of global loads, stores and atomics: what goes by the second-level cache if the first one keeps nothing."""
        return SECTOR * (self.global_loads.cost + self.global_stores.cost + self.atomics.cost)

    def flops_per_l2_byte(self) -> float | None:
        return ratio(self.flops, self.l2_bytes())

    def rows(self) -> list[tuple[str, str]]:
        """The counters in words and figures, for a table."""
        by_class = ", ".join(f"{name} {n}" for name, n in self.instructions.items() if n)
        figures = [
            ("instructions of threads", self.total, "d"),
            ("  for each fused product", self.per_fma(), ".2f"),
            ("active share of lanes", self.active_share, ".1%"),
            ("divergent branches of warps", self.divergent_branches, "d"),
            ("barriers of blocks", self.barriers, "d"),
            ("floating-point operations", self.flops, "d"),
            ("requests to global memory", self.global_loads.requests + self.global_stores.requests, "d"),
            ("  sectors for each", self.sectors_per_request(), ".2f"),
            ("  useful share of their bytes", self.useful_share(), ".1%"),
            ("requests to shared memory", self.shared_loads.requests + self.shared_stores.requests, "d"),
            ("  wavefronts for each", self.wavefronts_per_request(), ".2f"),
            ("atomics", self.atomics.requests + self.shared_atomics.requests, "d"),
            ("bytes by way of the L2 cache", self.l2_bytes(), "d"),
            ("  operations for each", self.flops_per_l2_byte(), ".2f"),
        ]
        return [*((name, "-" if n is None else format(n, form)) for name, n, form in figures), (by_class, "")]

    def as_dict(self) -> dict[str, Any]:
        ratios = ("per_fma", "sectors_per_request", "useful_share", "wavefronts_per_request", "l2_bytes", "flops_per_l2_byte")
        return {"total": self.total, **{name: getattr(self, name)() for name in ratios}, **asdict(self)}


def ratio(a: float, b: float) -> float | None:
    return a / b if b else None


class Counters(Watcher):
    """Counts as a run goes."""

    def __init__(self, body: list[Instruction]) -> None:
        self.body = body
        self.threads, self.warps = np.zeros(len(body) + 2, np.int64), np.zeros(len(body) + 2, np.int64)  # differences along the program
        self.divergent = self.barriers = 0
        self.traffic = {name: Traffic() for name in TRAFFIC}
        self.by_instruction: dict[Instruction, Traffic] = {}

    def segment(self, R: Lanes, start: int, end: int) -> None:
        warps = int(np.count_nonzero(masks(R)))
        for counts, n in ((self.threads, R.size), (self.warps, warps)):
            counts[start] += n
            counts[end] -= n

    def parted(self, R: Lanes, x: Instruction, yes: np.ndarray) -> None:
        taken = np.bincount(R["warp"], yes)
        self.divergent += int(np.count_nonzero((taken > 0) & (taken < np.bincount(R["warp"]))))

    def barrier(self, machine: Machine, blocks: np.ndarray) -> None:
        self.barriers += len(blocks)

    def access(self, access: Access, R: Lanes, positions: np.ndarray, kind: int) -> None:
        m = R.machine.memory
        if positions.size == 1 and R.size > 1:
            positions = np.full(R.size, positions[0])
        first = int(positions[0])
        if first >= m.local[0] or access.space == "const":
            return
        if first >= m.shared[0]:
            found = wavefronts(positions, access.bytes, R["warp"], R["lane"])
            name = {READ: "shared_loads", ATOMIC: "shared_atomics"}.get(kind, "shared_stores")
        else:
            found = sectors(positions, access.bytes, R["warp"])
            name = {READ: "global_loads", ATOMIC: "atomics"}.get(kind, "global_stores")
        self.traffic[name].add(*found)
        self.by_instruction.setdefault(access.x, Traffic()).add(*found)

    def counts(self) -> Counts:
        threads, warps = np.cumsum(self.threads)[: len(self.body)], np.cumsum(self.warps)[: len(self.body)]
        instructions = dict.fromkeys(CLASSES, 0)
        flops = 0
        for x, n in zip(self.body, threads, strict=True):
            instructions[class_of(x)] += int(n)
            flops += int(n) * flops_of(x)
        lines = [
            {"line": x.line, "source": x.source, "text": x.text, **asdict(t)}
            for x, t in sorted(self.by_instruction.items(), key=lambda item: item[0].line)
        ]
        share = ratio(int(threads.sum()), WARP * int(warps.sum()))
        return Counts(instructions, int(warps.sum()), share, flops, self.divergent, self.barriers, **self.traffic, by_line=lines)


def flops_of(x: Instruction) -> int:
    """Floating-point operations of one thread: a fused product and sum is two, what a warp does in mma.sync is shared by 32."""
    import re

    if x.parts[0] == "mma":
        m, n, k = map(int, re.findall(r"\d+", next(p for p in x.parts if re.fullmatch(r"m\d+n\d+k\d+", p))))
        return 2 * m * n * k // WARP
    kinds = types_of(x)
    if not kinds or kinds[-1] not in ("f16", "f32", "f64", "f16x2", "bf16", "bf16x2"):
        return 0
    lanes = 2 if kinds[-1].endswith("x2") else 1
    return lanes * {"fma": 2, "mad": 2, "add": 1, "sub": 1, "mul": 1}.get(x.parts[0], 0)


@njit(nogil=True, cache=True)
def sectors(positions, size, warps):
    """Requests, sectors and useful bytes of one instruction of a group; lanes of a warp stand together."""
    requests = moved = useful = 0
    seen, pieces = np.empty(64, np.int64), np.empty(32, np.int64)
    i = 0
    while i < positions.size:
        w, n, k = warps[i], 0, 0
        while i < positions.size and warps[i] == w:
            for s in range(positions[i] // SECTOR, (positions[i] + size - 1) // SECTOR + 1):
                n = added(seen, n, s)
            k = added(pieces, k, positions[i])
            i += 1
        requests, moved, useful = requests + 1, moved + n, useful + k * size
    return requests, moved, useful


@njit(nogil=True, cache=True)
def added(seen, n, x):
    """A set in an array: its size after x is added."""
    for j in range(n - 1, -1, -1):
        if seen[j] == x:
            return n
    seen[n] = x
    return n + 1


@njit(nogil=True, cache=True)
def wavefronts(positions, size, warps, lanes):
    """Requests (goes of a warp), wavefronts and useful bytes of one instruction of a group."""
    go = 32 if size <= 4 else 16 if size == 8 else 8
    words = max(size // 4, 1)
    requests = fronts = useful = 0
    seen = np.empty((BANKS, 32), np.int64)
    count = np.zeros(BANKS, np.int64)
    i = 0
    while i < positions.size:
        w, part = warps[i], lanes[i] // go
        count[:] = 0
        while i < positions.size and warps[i] == w and lanes[i] // go == part:
            for j in range(words):
                word = positions[i] // 4 + j
                bank = word % BANKS
                count[bank] = added(seen[bank], count[bank], word)
            i += 1
        requests, fronts = requests + 1, fronts + count.max()
        useful += count.sum() * 4
    return requests, fronts, useful
