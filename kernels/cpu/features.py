"""What this CPU can do, and how much of it the kernels may use.

A tier is a set of vector instructions: generic (128 bits: every machine has that much), avx2, avx512, amx. The highest that this machine
has is in force, unless the environment names a lower one: `GNOMON_CPU=avx2 python ...` compiles everything in the process as if the
machine had no more. So each tier is tested and timed on one machine. What is known comes from LLVM, which compiles for it.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from llvmlite import binding
from numba import config
from numba.core.registry import cpu_target

VARIABLE = "GNOMON_CPU"

NEEDS = {  # tier: what LLVM calls the instructions that it adds to the one before
    "generic": (),
    "avx2": ("avx", "avx2", "fma"),
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
    "amx": ("amx-tile", "amx-int8", "amx-bf16"),
}
BITS = {"generic": 128, "avx2": 256, "avx512": 512, "amx": 512}
BEYOND = {  # tier: how the names of instructions begin that only a higher tier has
    "generic": ("avx", "fma", "f16c", "xop", "vaes", "vpclmul", "gfni", "amx", "evex"),
    "avx2": ("avx512", "avx10", "evex", "amx"),
    "avx512": ("amx",),
    "amx": (),
}


@lru_cache(maxsize=1)
def of_machine() -> dict[str, bool]:
    """The instructions of this machine; empty where LLVM cannot ask."""
    try:
        found = dict(binding.get_host_cpu_features())
    except RuntimeError:
        return {}
    if not config.ENABLE_AVX:  # Numba's own switch
        return {name: has and not name.startswith("avx") for name, has in found.items()}
    return found


def available() -> list[str]:
    """The tiers that this machine has, the lowest first."""
    tiers: list[str] = []
    for name, needs in NEEDS.items():
        if not all(of_machine().get(feature) for feature in needs):
            break
        tiers.append(name)
    return tiers


@lru_cache(maxsize=1)
def tier() -> str:
    """The tier in force. Raises ValueError if the environment names one that is unknown or that this machine does not have."""
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if not wanted:
        return available()[-1]
    if wanted not in NEEDS:
        raise ValueError(f"{VARIABLE}={wanted}: there is no such tier; the tiers are {', '.join(NEEDS)}")
    if wanted not in available():
        raise ValueError(f"{VARIABLE}={wanted}: this machine does not have it; it has {', '.join(available())}")
    return wanted


def has(feature: str) -> bool:
    """May the kernels use this instruction set (LLVM's name for it) in the tier in force?"""
    return bool(of_machine().get(feature)) and not feature.startswith(BEYOND[tier()])


def lanes(bits: int) -> int:
    """How many numbers of so many bits a vector holds."""
    return BITS[tier()] // bits


def registers() -> int:
    """How many vector registers there are."""
    if tier() in ("avx512", "amx"):
        return 32
    return 16 if of_machine().get("sse2") else 32


@lru_cache(maxsize=1)
def caches() -> dict[int, int]:
    """Bytes of the data caches by level, as far as the system tells; else those of a small machine."""
    found = {1: 32 << 10, 2: 512 << 10, 3: 4 << 20}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = [(index / name).read_text().strip() for name in ("level", "type", "size")]
            if kind != "Instruction" and size.endswith("K"):
                found[int(level)] = int(size[:-1]) << 10
        except (OSError, ValueError):  # a system may hide any of the files
            continue
    return found


def restrict() -> None:
    """Let Numba compile for the tier in force, if the environment names a lower one than the machine's.

    Numba compiles, and keeps compiled code, for one set of instructions a process: it must not have begun.
    """
    if tier() == available()[-1]:
        return
    allowed = ",".join(f"{'+' if has(name) else '-'}{name}" for name in of_machine())
    config.CPU_FEATURES = allowed
    if allowed not in cpu_target.target_context.codegen().magic_tuple():
        raise RuntimeError(f"{VARIABLE}={tier()}: Numba has compiled for the whole machine already; import the kernels before that")


restrict()  # here, because a file of kernels that follows begins Numba's work as it is imported
