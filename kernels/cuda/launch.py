"""From a plain Python function to PTX, and from PTX to numbers: on a GPU where there is one, else on the emulator.

A kernel is a Python function without a decorator. Its arguments are NumPy arrays in C order, NumPy scalars, `np.uint32(n)`, tuples of
either, and `Places` of arrays; what it gives back it writes into an array. `ptx_of` compiles it for any compute capability, with no GPU
and no driver. `launch` runs it on the device in force:

    with on("emulated", cc=(8, 0), checks=True) as device:
        launch(kernel, grid, block, a, b, c, np.uint32(n), writes=[c])
        device.launches[0].report

"emulated"   `kernels.cuda.emulate` runs the PTX; every number that comes of it is emulated, none is a time
"real"       the GPU: arrays are copied there, those in `writes` are copied back. What already lies there (`__cuda_array_interface__`)
             is not copied
"recorded"   nothing runs: the launches are kept, for those who want to know what would
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from kernels.cuda.places import Places
from kernels.registry import INSTALL, MissingKernel, has_gpu

Kernel = Callable[..., None]
CC = tuple[int, ...]  # compute capability: (8, 0); (9, 0, "a") for what only this one has

LARGEST_GRID = (2**31 - 1, 65535, 65535)


@dataclass(frozen=True)
class Launch:
    """One launch: a kernel, its arguments, so many blocks of so many threads."""

    function: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    args: tuple[Any, ...]
    writes: tuple[Any, ...]
    shared: int  # bytes of dynamic shared memory
    bounds: tuple[int, ...]  # threads of a block, and how many blocks a multiprocessor should hold at least
    report: Any = None  # what the emulator saw

    def ptx(self, cc: CC) -> tuple[str, str]:
        return ptx_of(self.function, self.args, cc, self.bounds)


def ptx_of(function: Kernel, args: Sequence[Any], cc: CC = (8, 0), launch_bounds: tuple[int, ...] | None = None) -> tuple[str, str]:
    """The PTX of a kernel for arguments like these (arrays, scalars or Numba types), and the name of its entry. Kept for the next call."""
    return _compiled(function, tuple([type_of(a) for a in args]), tuple(cc), launch_bounds)


@cache
def _compiled(function: Kernel, types: tuple[Any, ...], cc: CC, launch_bounds: tuple[int, ...] | None) -> tuple[str, str]:
    cuda = numba_cuda()  # before what comes with it
    from cuda.bindings.nvvm import nvvmError

    compiled = partial(cuda.compile, function, types, device=False, abi="numba", cc=cc, launch_bounds=launch_bounds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Could not find source for function")  # made by `exec`: then its lines are not told
        try:
            text, _ = compiled(lineinfo=True)
        except nvvmError:  # NVVM 7 cannot name some symbols once lines are asked for: then faults do not tell theirs
            text, _ = compiled()
    entry = re.search(r"\.visible\s+\.entry\s+(\w+)", text)
    assert entry is not None, "a kernel compiles to an entry"
    return text, entry[1]


def type_of(a: Any) -> Any:
    """The Numba type of an argument. Numbers are those of NumPy: how wide a Python number is nobody has said."""
    from numba import from_dtype, types

    if isinstance(a, types.Type):
        return a
    if isinstance(a, np.generic):
        return from_dtype(a.dtype)
    if isinstance(a, tuple):
        return types.NamedUniTuple(type_of(a[0]), len(a), type(a)) if hasattr(a, "_fields") else types.UniTuple(type_of(a[0]), len(a))
    if not hasattr(a, "dtype") or not hasattr(a, "ndim"):
        raise TypeError(f"a kernel takes arrays and NumPy scalars, such as np.uint32(1); given {type(a).__name__} {a!r}")
    return types.Array(from_dtype(a.dtype), a.ndim, "C")


def flattened(args: Sequence[Any]) -> list[Any]:
    """Arguments as the PTX counts them: each number or array of a tuple is one."""
    return [b for a in args for b in (a if isinstance(a, tuple) else (a,))]


def numba_cuda() -> Any:
    """The module `cuda` that compiles. Raises MissingKernel where it is not installed."""
    if find_spec("numba_cuda") is None:
        raise MissingKernel(f"CUDA kernels are compiled by numba-cuda, which is not installed: {INSTALL['cuda']}")
    from numba import cuda

    return cuda


# Devices: where a launch goes, and where room for what only kernels see comes from.


class Host:
    """A device that works on the arrays of the host."""

    def empty(self, size: int, dtype: Any) -> Any:
        return np.empty(size, dtype)


@dataclass
class Emulated(Host):
    """The PTX for `cc` is interpreted, with the checks and counters of `kernels.cuda.emulate.run`."""

    cc: CC = (8, 0)
    checks: Any = False
    counters: bool = False
    launches: list[Launch] = field(default_factory=list)  # kept if counters are

    def run(self, launch: Launch) -> None:
        from kernels.cuda.emulate import run

        text, entry = launch.ptx(self.cc)
        report = run(
            text, entry, launch.grid, launch.block, flattened(launch.args),
            shared=launch.shared, checks=self.checks, counters=self.counters, target="sm_" + "".join(map(str, self.cc)),
        )  # fmt: skip
        if self.counters:
            self.launches.append(replace(launch, report=report))


@dataclass
class Real:
    """The GPU that Numba finds. Compiled lazily, for it."""

    def empty(self, size: int, dtype: Any) -> Any:
        return numba_cuda().device_array(size, dtype)

    def run(self, launch: Launch) -> None:
        there: dict[int, Any] = {}  # what lies on the device, by what it is a copy of
        args = [brought(a, there) for a in launch.args]
        _dispatcher(launch.function, launch.bounds)[launch.grid, launch.block, 0, launch.shared](*args)
        for a in launch.writes:
            if there[id(a)] is not a:
                there[id(a)].copy_to_host(a)


def brought(a: Any, there: dict[int, Any]) -> Any:
    """An argument on the device: each array is copied there once."""
    if isinstance(a, tuple):
        found = [brought(b, there) for b in a]
        return type(a)._make(found) if hasattr(a, "_fields") else tuple(found)  # type: ignore[attr-defined]
    if isinstance(a, Places):
        arrays = [brought(b, there) for b in a.arrays]
        return numba_cuda().to_device(a.table([b.__cuda_array_interface__["data"][0] for b in arrays]))
    if isinstance(a, np.generic):
        return a
    if id(a) not in there:
        there[id(a)] = a if hasattr(a, "__cuda_array_interface__") else numba_cuda().to_device(a)
    return there[id(a)]


@cache
def _dispatcher(function: Kernel, bounds: tuple[int, ...]) -> Any:
    return numba_cuda().jit(function, launch_bounds=bounds)


@dataclass
class Recorded(Host):
    """Nothing runs, and what would be written is left as it is."""

    launches: list[Launch] = field(default_factory=list)

    def run(self, launch: Launch) -> None:
        self.launches.append(launch)


DEVICES: dict[str, Callable[..., Any]] = {"emulated": Emulated, "real": Real, "recorded": Recorded}
_device: ContextVar[Any] = ContextVar("device", default=None)


@contextmanager
def on(device: str | None = None, **options: Any) -> Iterator[Any]:
    """Launches in this block run on `device`, by default a GPU. Raises MissingKernel where there is none, ValueError for another word."""
    name = "real" if device is None else device
    if name not in DEVICES:
        raise ValueError(f"no device {name!r}: there is {', '.join(DEVICES)}")
    if name == "real" and not has_gpu():
        raise MissingKernel('no GPU here: use("cuda", device="emulated") runs the CUDA kernels on an emulator')
    token = _device.set(DEVICES[name](**options))
    try:
        yield _device.get()
    finally:
        _device.reset(token)


def launch(
    function: Kernel,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    *args: Any,
    writes: Sequence[Any],
    shared: int = 0,
    blocks_per_sm: int | None = None,
) -> None:
    """Run a kernel on the device in force: the one of `on`, else a GPU, else the emulator.

    grid, block     blocks and threads along x, y, z. An empty grid runs nothing
    args            arrays in C order and NumPy scalars
    writes          those of the arrays that the kernel writes into
    shared          bytes of dynamic shared memory
    blocks_per_sm   so many blocks should fit a multiprocessor: what the compiler may give to one thread follows from it
    """
    if any(a > b for a, b in zip(grid, LARGEST_GRID, strict=False)):
        raise ValueError(f"a grid of {grid} blocks: at most {LARGEST_GRID} can be launched")
    if 0 in grid:
        return
    bounds = (int(np.prod(block)),) if blocks_per_sm is None else (int(np.prod(block)), blocks_per_sm)
    in_force().run(Launch(function, grid, block, args, tuple(writes), shared, bounds))


def in_force() -> Any:
    return _device.get() or (Real() if has_gpu() else Emulated())


def empty(size: int, dtype: Any) -> Any:
    """A flat array on the device in force, for what one kernel leaves to the next."""
    return in_force().empty(size, dtype)
