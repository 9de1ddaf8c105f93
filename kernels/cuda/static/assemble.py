"""PTX to machine code and back to text, by NVIDIA's own assembler and disassembler; neither needs a GPU or a driver."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

INSTALL = "pip install 'gnomon[cuda-dev]'"
TOOLS = ("ptxas", "nvdisasm")


class MissingAssembler(LookupError):
    """ptxas or nvdisasm is not here."""


@dataclass(frozen=True)
class Assembled:
    """What ptxas says of a kernel (bytes; a spill is what left the registers), and the code as nvdisasm writes it."""

    registers: int
    stack: int
    spills: int
    shared: int
    sass: str


@cache
def tool(name: str) -> str | None:
    """Where a program is: in NVIDIA's wheels, in the toolkit, or on the path."""
    if find_spec("cuda") is not None and find_spec("cuda.pathfinder") is not None:
        from cuda.pathfinder import find_nvidia_binary_utility

        if found := find_nvidia_binary_utility(name):
            return str(found)
    return shutil.which(name)


def missing() -> str | None:
    """Why there is no static evidence here, and what to install; None if there is."""
    lacking = [name for name in TOOLS if tool(name) is None]
    return f"{' and '.join(lacking)} not found: {INSTALL}" if lacking else None


@cache
def version(name: str) -> str:
    return re.findall(r"V([\d.]+)", run(name, "--version"))[-1]


def run(name: str, *arguments: str) -> str:
    """The output of a tool, both streams: ptxas tells of registers on the second. Raises MissingAssembler, or ValueError with its words."""
    program = tool(name)
    if program is None:
        raise MissingAssembler(missing())
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{name} {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout + done.stderr


@cache
def assembled(ptx: str, entry: str, target: str) -> Assembled:
    """`ptx` for `target`, "sm_80". Kept for the next call: ops share kernels."""
    with tempfile.TemporaryDirectory(prefix="gnomon-ptx-") as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        told = run("ptxas", "-v", f"-arch={target}", str(source), "-o", str(binary))
        sass = run("nvdisasm", "-c", "-hex", "-ndf", str(binary))
    told = told[told.index(f"Compiling entry function '{entry}'") :]
    return Assembled(
        registers=number(r"Used (\d+) registers", told),
        stack=number(r"(\d+) bytes stack frame", told),
        spills=number(r"(\d+) bytes spill stores", told) + number(r"(\d+) bytes spill loads", told),
        shared=number(r"(\d+) bytes smem", told),
        sass=sass,
    )


def number(pattern: str, text: str) -> int:
    """What is not mentioned is not used."""
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
