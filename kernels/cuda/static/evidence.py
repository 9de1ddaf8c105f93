"""The evidence of one launch for one target, and which launches a rung makes."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.cuda.launch import CC, Launch, on, type_of
from kernels.cuda.static.assemble import assembled
from kernels.cuda.static.sass import Code, Instruction, read
from kernels.cuda.targets import TARGETS

DOUBLE = ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX", "DMMA")
LOCAL = ("LDL", "STL")
MEMORY = ("LD", "ST", "RED", "ATOM")  # of these the width is told: LDS.128


@dataclass(frozen=True)
class Evidence:
    """All of it static.

    registers    of a thread; spills and stack in bytes, 0 wanted
    shared       bytes of a block, static and dynamic
    occupancy    share of the warps of a multiprocessor that blocks can fill, and the limiter: what stops more
    loop         instructions in the main loop: the innermost with most products; of a kernel without a loop, all of it
    products     those that multiply and add, of the kind that is most frequent: FFMA, HMMA, ...; share is products / loop
    issue        cycles that one warp takes for a product of that kind, at least: the sum of stalls in the loop, from the control
                 codes, over products. What it waits for memory is not in it. A warp cannot be faster than its lanes: an FFMA takes 2
                 cycles on sm_80, which has 16 of them a partition, and 1 later. None without products
    mix          of the loop: instruction to how often
    forbidden    double precision in a kernel without float64, local loads and stores, integer division in a loop
    """

    target: str
    registers: int
    spills: int
    stack: int
    shared: int
    occupancy: float
    limiter: str
    loop: int
    products: int
    product: str
    issue: float | None
    mix: dict[str, int]
    forbidden: tuple[str, ...]

    @property
    def share(self) -> float:
        return self.products / self.loop


def evidence(launch: Launch, cc: CC) -> Evidence:
    """Of a launch, compiled and assembled for a compute capability. Raises MissingAssembler, MissingKernel."""
    limits, target = TARGETS[cc[:2]], "sm_" + "".join(map(str, cc))
    made = assembled(*launch.ptx(cc), target)
    code = read(made.sass)
    body = code.main_loop()
    product, products = most_frequent(body)
    shared = made.shared + launch.shared
    occupancy, limiter = limits.occupancy(int(np.prod(launch.block)), made.registers, shared)
    cycles = sum(max(i.stall, 1) for i in body)
    return Evidence(
        target=target, registers=made.registers, spills=made.spills, stack=made.stack, shared=shared, occupancy=occupancy, limiter=limiter,
        loop=len(body), products=products, product=product,
        issue=cycles / products if products else None,
        mix=dict(Counter(map(word, body)).most_common()), forbidden=forbidden(code, has_doubles(launch)),
    )  # fmt: skip


def most_frequent(body: Sequence[Instruction]) -> tuple[str, int]:
    found = Counter(kind(i) for i in body if i.multiplies).most_common(1)
    return found[0] if found else ("", 0)


def kind(product: Instruction) -> str:
    """FFMA; of tensor cores with the numbers they multiply: HMMA.TF32, HMMA.BF16."""
    numbers = [part for part in product.opcode.split(".") if part in ("TF32", "BF16")]
    return ".".join([product.name, *numbers])


def word(i: Instruction) -> str:
    """An instruction as the mix tells it: its name, and how wide it is if it goes to memory. Many are used to move a number."""
    if i.moves:
        return "MOV"
    if not i.name.startswith(MEMORY):
        return i.name
    return ".".join([i.name, *(part for part in i.opcode.split(".") if part in ("64", "128"))])


def forbidden(code: Code, doubles: bool) -> tuple[str, ...]:
    """What should not be there, with how often: "3 DADD"."""
    found = Counter(i.name for i in code.instructions if i.name in LOCAL or (not doubles and is_double(i)))
    found.update("integer division in a loop" for i in code.in_loops() if divides(i))
    return tuple(f"{count} {what}" for what, count in sorted(found.items()))


def is_double(i: Instruction) -> bool:
    return i.name in DOUBLE or "F64" in i.opcode.split(".") or i.opcode.endswith("64H")


def divides(i: Instruction) -> bool:
    """The reciprocal of an integer begins by converting it upwards, I2F.RP, which nothing else does."""
    return i.name in ("I2F", "I2FP") and "RP" in i.opcode.split(".")


def has_doubles(launch: Launch) -> bool:
    return "float64" in " ".join(str(type_of(a)) for a in launch.args)


# Which launches.


def recorded(run: Callable[..., Any], args: Sequence[Any], params: dict[str, Any]) -> tuple[Any, dict[Any, Launch]]:
    """What a rung would return for these arguments (its shapes; nothing is computed), and what it would launch: by name, kinds of
    arguments, bounds and bytes of dynamic shared memory, each once."""
    with on("recorded") as device:
        y = run(*args, **params)
    found: dict[Any, Launch] = {}
    for launch in device.launches:
        found.setdefault((name_of(launch.function), *[str(type_of(a)) for a in launch.args], launch.bounds, launch.shared), launch)
    return y, found


def name_of(function: Any) -> str:
    """`flat_thread`, or of a kernel that a function made, with what it was made: `in_background(lanes=8, words=True)`."""
    maker = made_by(function)
    if maker == function.__name__:
        return maker
    told = {name: spelt(value) for name, value in sorted(inspect.getclosurevars(function).nonlocals.items())}
    return f"{maker}({', '.join(f'{name}={word}' for name, word in told.items() if word not in ('', name, maker))})"


def made_by(function: Any) -> str:
    """A function, or the one in which it was defined."""
    return str(function.__qualname__).partition(".")[0]


def spelt(value: Any) -> str:
    """A constant of a kernel: a number, or a function by its name."""
    if isinstance(value, (bool, int, str, np.generic)):
        return str(value)
    value = getattr(value, "py_func", value)
    return made_by(value) if hasattr(value, "__qualname__") else ""
