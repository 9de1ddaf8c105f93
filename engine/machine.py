"""What this program runs on: versions, processor, threads, linear algebra, kernels, caches, extras. Read, never set."""

from __future__ import annotations

import os
import platform
import re
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = ("numpy", "scipy", "numba", "llvmlite", "click", "rich", "safetensors", "matplotlib", "mlxtend", "scikit-learn")
VARIABLES = (
    "GNOMON_CPU", "GNOMON_DATA", "GNOMON_MALLOC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER", "NUMBA_DISABLE_JIT", "NUMBA_CACHE_DIR", "MPLCONFIGDIR",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Everything, in the nesting in which `gnomon info` prints it."""
    return {
        "versions": versions(),
        "processor": processor(),
        "linear algebra": linear_algebra(),
        "kernels": kernels(),
        "folders": folders(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "extras": extras(),
    }


def version_of(distribution: str) -> str | None:
    """The installed version, None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """This package, Python and the libraries that matter here."""
    found = {name: version_of(name) or "not installed" for name in LIBRARIES}
    return {"gnomon": version_of("gnomon") or "not installed (run from its folder)", "python": platform.python_version(), **found}


def processor() -> dict[str, Any]:
    """Name, cores that this process may use, and the vector extensions that NumPy found."""
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "name": processor_name(),
        "cores": cores(),
        "vector extensions": " ".join([*simd.get("baseline", []), *simd.get("found", [])]),
    }


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name where the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", listing.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or "unknown"


def linear_algebra() -> dict[str, Any]:
    """The library behind np.matmul, and its threads where threadpoolctl is there to ask."""
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    found: dict[str, Any] = {"NumPy was built with": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()}
    if util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_info

        for pool in threadpool_info():
            found[pool.get("internal_api", "pool")] = f"{pool['num_threads']} threads, version {pool.get('version') or 'unknown'}"
    return found


def kernels() -> dict[str, Any]:
    """For each backend that can run here, its ops with the rung that serves; of the CPU the vector instructions in use."""
    from kernels.registry import backends, ladder, ops

    found: dict[str, Any] = {"none": "the definitions, always there"}
    for backend in backends():
        ladders = {op: ladder(op, backend) for op in ops(backend)}
        found[backend] = {op: f"{next(r.name for r in rungs if r.serves)} ({len(rungs)} rungs)" for op, rungs in ladders.items()}
    if "cpu" in found:
        features = import_module("kernels.cpu.features")
        tiers = ", ".join(features.available())
        found["cpu"] = {"tier": f"{features.tier()} (of {tiers}; GNOMON_CPU forces a lower one)", **found["cpu"]}
    return found


def folders() -> dict[str, str]:
    """Where data, compiled kernels and matplotlib's fonts are kept."""
    here = Path(__file__).resolve().parent.parent
    found = {"code": str(here), "compiled kernels": os.environ.get("NUMBA_CACHE_DIR") or str(here / "kernels" / "*" / "__pycache__")}
    if util.find_spec("platformdirs"):
        import platformdirs

        found["data"] = os.environ.get("GNOMON_DATA") or platformdirs.user_cache_dir("gnomon")
    return found


def extras() -> dict[str, str]:
    """For each extra, what of it is missing. Empty if the package is not installed but run from its folder."""
    try:
        needs = metadata.requires("gnomon") or []
    except metadata.PackageNotFoundError:
        return {}
    wanted: dict[str, list[str]] = {}
    for need in needs:
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", need)
        if extra:
            wanted.setdefault(extra[1], []).append(re.split(r"[^\w.-]", need, maxsplit=1)[0])
    missing = {extra: [n for n in dict.fromkeys(names) if version_of(n) is None] for extra, names in wanted.items()}
    return {extra: f"missing: {', '.join(names)}" if names else "installed" for extra, names in missing.items()}
