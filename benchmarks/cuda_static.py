"""The kernels of the CUDA ladders, as the benchmark cases launch them, and their static evidence.

A rung launches what its arguments ask for: rows that begin at multiples of 16 bytes take another kernel than those that do not. So each
rung is given every case of its op, in every dtype that it takes, on a device that only keeps launches; each kernel counts once.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from benchmarks.cases import Case, parts
from benchmarks.suites import cases_of
from engine.traced import OPS
from kernels.cuda.launch import CC, Launch
from kernels.cuda.static import Evidence, evidence, recorded
from kernels.cuda.static.golden import versions
from kernels.cuda.targets import DEVICES, Device
from kernels.registry import Rung

TARGETS: dict[str, CC] = {"sm_80": (8, 0), "sm_90": (9, 0), "sm_100": (10, 0), "sm_120": (12, 0)}
KINDS = {"HMMA.TF32": "tf32", "HMMA": "float16", "HMMA.BF16": "bfloat16", "IMMA": "int8", "DFMA": "float64"}  # peaks by product
LARGEST = 1 << 21  # numbers in the arguments of a case
EXAMPLE = (1024, 1024)  # of an op without cases: a map or a reduction
LESSONS = ("multiply", "tanh", "sum")  # of those ops: others are the same kernel with another function
SINGLE = {"float64": "float32"}  # the dtype is told by the rung
SOURCES = ("*.py", "cuda/*.py", "cuda/static/*.py")
FOLDER = Path(kernels.__file__).parent / "cuda" / "static" / "__pycache__"


@dataclass(frozen=True)
class Subject:
    """One kernel of one rung for numbers of one kind. FLOP and bytes are those of `case`, the first that launches it."""

    rung: Rung
    dtype: str
    kernel: str
    launch: Launch
    case: str
    flops: int
    bytes: int

    @property
    def name(self) -> str:
        return f"{self.rung.op} {self.rung.name} {self.dtype}: {self.kernel}"

    def bounds(self, product: str) -> dict[str, tuple[float, str]]:
        """The roofline of the case by device: seconds, and what they are spent on."""
        return {device.name: self.bound(device, KINDS.get(product, "float32")) for device in DEVICES}

    def bound(self, device: Device, kind: str) -> tuple[float, str]:
        by = "products" if self.flops / device.flops[kind] > self.bytes / device.bandwidth else "memory"
        return device.bound(self.flops, self.bytes, kind), by


def ops() -> list[str]:
    """Those whose kernels are all different: the ops with cases, and LESSONS."""
    return [op for op in kernels.ops("cuda") if op in LESSONS or cases_of(op)]


def subjects(op: str, rungs: str = "all") -> Iterator[Subject]:
    """The kernels of an op's rungs, "serving" or "all"."""
    for rung in kernels.ladder(op, "cuda"):
        if rungs == "all" or rung.serves:
            for dtype in sorted(rung.rtol):
                yield from of_rung(rung, dtype)


def of_rung(rung: Rung, dtype: str) -> Iterator[Subject]:
    """Of those with the same name, as when only the kinds of their arguments differ, the second is called #2."""
    known: set[Any] = set()
    names: Counter[str] = Counter()
    for case, args, params in arguments(rung.op):
        given = [in_dtype(a, kind) for a, kind in zip(args, kinds(dtype, len(args)), strict=True)]
        if not rung.takes([part for a in given for part in parts(a)]):
            continue
        y, launches = recorded(rung.run, given, params)
        flops, moved = case.work(given, params, y)
        for key, launch in launches.items():
            if key not in known:
                known.add(key)
                name = key[0]
                names[name] += 1
                number = f" #{names[name]}" if names[name] > 1 else ""
                yield Subject(rung, dtype, name + number, launch, case.shape, flops, moved)


@cache
def arguments(op: str) -> list[tuple[Case, list[Any], dict[str, Any]]]:
    """The cases of an op that are not too large, the largest first: how a kernel is chosen does not depend on more."""
    alike = dict.fromkeys(replace(case, turned=(), dtype=SINGLE.get(case.dtype, case.dtype)) for case in cases_of(op))
    cases = sorted(alike, key=size) or [Case(op, (EXAMPLE,) * len(OPS[op].args), "an example")]
    fitting = [case for case in cases if size(case) <= LARGEST] or cases[:1]
    return [(case, *case.call()) for case in reversed(fitting)]


def size(case: Case) -> int:
    return sum(prod(shape) for shape in case.shapes)


def kinds(dtype: str, count: int) -> list[str]:
    """ "float32" is the dtype of all arrays, "uint8 int8" says it of each."""
    names = dtype.split()
    return names if len(names) == count else names[:1] * count


def in_dtype(a: Any, kind: str) -> Any:
    """Floating-point numbers as another kind; integers of eight bits as those of the other sign; indices stay."""
    if isinstance(a, dict):
        return {name: in_dtype(each, kind) for name, each in a.items()}
    same = isinstance(a, np.ndarray) and (a.dtype.kind == "f") == (np.dtype(kind).kind == "f") and (a.dtype.kind == "f" or a.itemsize == 1)
    return a.astype(kind) if same else a


# Evidence, kept on disk.


def found(subject: Subject, target: str) -> Evidence:
    """The evidence of a kernel for "sm_80". Kept until a source or a compiler changes. Raises MissingAssembler."""
    file = FOLDER / f"{hashlib.sha256(f'{subject.name} {target}'.encode()).hexdigest()[:16]}.json"
    try:
        kept = json.loads(file.read_text())
    except (OSError, ValueError):
        kept = {}
    if kept.get("stamp") == stamp():
        return Evidence(**{**kept["evidence"], "forbidden": tuple(kept["evidence"]["forbidden"])})
    made = evidence(subject.launch, TARGETS[target])
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"stamp": stamp(), "evidence": asdict(made)}))
    except OSError:  # a folder that cannot be written: compiled again the next time
        pass
    return made


@cache
def stamp() -> str:
    """Changes with the sources of the kernels, and with the compilers."""
    root = Path(kernels.__file__).parent
    text = b"".join(path.read_bytes() for pattern in SOURCES for path in sorted(root.glob(pattern)))
    return hashlib.sha256(text + Path(__file__).read_bytes() + str(versions()).encode()).hexdigest()
