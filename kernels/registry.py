"""Which function runs an op, on which backend: names to functions, nothing else.

`engine` and `kernels` meet here and only here. The engine asks `running_kernels()` for a dict from op name to rung and
falls back on the op's own definition; a kernel file registers its rungs with `@rung`. Nothing in this module
imports NumPy or Numba, so `import engine` stays light: `use("cpu")` is what loads the kernels.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Function = Callable[..., Any]


class MissingKernel(LookupError):
    """Asked for a backend or an op that no kernel serves."""


@dataclass(frozen=True)
class Contract:
    """What an op's kernels want of their arrays: the axes of each, as `kernels.door` reads them, and what else must hold."""

    wants: str
    check: Function | None = None
    dicts: bool = False  # dicts of arrays under the same names do as well, all in one call


@dataclass(frozen=True)
class Rung:
    """One step of a ladder: the same function as the op, by one more idea."""

    op: str
    backend: str
    step: int
    idea: str
    serves: bool
    rtol: dict[str, float]
    integers: tuple[int, ...]
    run: Function
    known: dict[tuple[Any, ...], bool] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def contract(self) -> Contract:
        return _CONTRACTS[self.op]

    def takes(self, arrays: Iterable[Any]) -> bool:
        """Does `rtol` give a bound for arrays of these dtypes?"""
        dtypes = tuple([a.dtype for a in arrays])
        known = self.known.get(dtypes)
        return self._fits(dtypes) if known is None else known

    def _fits(self, dtypes: tuple[Any, ...]) -> bool:
        names = [str(d.name) if d.isnative else "" for d in dtypes]  # "": in another byte order than this machine's
        floats = {name for i, name in enumerate(names) if i not in self.integers}
        whole = all(dtypes[i].kind in "iu" for i in self.integers)
        fits = " ".join(names) in self.rtol or (whole and len(floats) == 1 and floats.pop() in self.rtol)
        return self.known.setdefault(dtypes, fits)

    def __call__(self, *arrays: Any, **params: Any) -> Any:
        """Run on anybody's arrays: NumPy's, PyTorch's, any that speak DLPack or the array interface. None is copied to come in.

        Raises TypeError for dtypes that this rung does not take, ValueError for shapes that clash: each names the op, what it
        wants and what it was given.
        """
        if self.contract.dicts:  # such a kernel looks at its arrays itself: the door converts them, or says what clashed
            try:
                return self.run(*arrays, **params)
            except (TypeError, ValueError, LookupError, AttributeError):  # before anything was written
                pass
        return self._through_the_door(arrays, params)

    def _through_the_door(self, arrays: tuple[Any, ...], params: dict[str, Any]) -> Any:
        given, options = _door()(self, arrays, params)
        try:
            return self.run(*given, **options)
        except ValueError as e:  # what only the kernel can see: an `out` that does not fit, an array among many
            raise ValueError(f"{self.op} on {self.backend}: {e}") from e


@lru_cache(maxsize=1)
def _door() -> Function:
    from kernels.door import enter

    return enter


_LADDERS: dict[tuple[str, str], list[Rung]] = {}
_CONTRACTS: dict[str, Contract] = {}
_DEFINITIONS: dict[str, Rung] = {}
_loaded: set[str] = set()
_running: ContextVar[dict[str, Rung]] = ContextVar("kernels", default=_DEFINITIONS)


def rung(
    op: str,
    backend: str,
    *,
    step: int,
    idea: str,
    serves: bool = False,
    rtol: dict[str, float] | None = None,
    integers: Iterable[int] = (),
    wants: str | None = None,
    check: Function | None = None,
    dicts: bool = False,
) -> Callable[[Function], Function]:
    """Register the decorated function as one step of the ladder of `op` on `backend`.

    step      its place in the order of reading: 1, 2, ...
    idea      one sentence: what this rung adds to the one above it
    serves    True for exactly one rung a ladder: the one that `use(backend)` puts to work
    rtol      largest error against the definition in float64, relative to the definition applied to
              absolute values, by dtype name. The default is a few roundings of a sum of a thousand terms.
              The dtypes named here are those that the rung takes: "float32" for all arrays of a call in this one, or one for
              each array, "uint8 int8"
    integers  places of arguments that hold integers instead, of any width: indices
    wants     the axes of each array, "m k, k n", said once an op, by its first rung: see `kernels.door`
    check     what else must hold, said once an op: check(*arrays, **params) raises ValueError
    dicts     each argument may be a dict of arrays instead, said once an op: one call then does what a call for each name would
    """

    def register(run: Function) -> Function:
        ladder = _LADDERS.setdefault((op, backend), [])
        if any(r.step == step for r in ladder):
            raise ValueError(f"{op} on {backend}: two rungs claim step {step}")
        if wants is not None:
            _CONTRACTS[op] = Contract(wants, check, dicts)
        bounds = {"float32": 1e-5, "float64": 1e-13} if rtol is None else rtol
        ladder.append(Rung(op, backend, step, idea, serves, bounds, tuple(integers), run))
        ladder.sort(key=lambda r: r.step)
        return run

    return register


_LIBRARY = {"cpu": "numba", "cuda": "numba_cuda"}
INSTALL = {"cpu": "pip install numba", "cuda": "pip install 'gnomon[cuda]'"}


def backends() -> list[str]:
    """The backends that `use` takes as they are: their folder is here, their library is installed, and so is their hardware."""
    return [b for b in _installed() if b != "cuda" or has_gpu()]


def _installed() -> list[str]:
    return [b for b, library in _LIBRARY.items() if _has_folder(b) and importlib.util.find_spec(library)]


def _has_folder(backend: str) -> bool:
    return importlib.util.find_spec(f"kernels.{backend}") is not None


@lru_cache(maxsize=1)
def has_gpu() -> bool:
    """Is there a GPU of NVIDIA with a driver? Asks the driver itself, so that no library need be loaded."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _load(backend: str) -> None:
    if backend in _loaded:  # to look for a library takes longer than a small op
        return
    if backend not in _installed():
        missing = f", whose library is missing: {INSTALL[backend]}" if backend in _LIBRARY and _has_folder(backend) else ""
        here = ", ".join(_installed()) or "none"
        raise MissingKernel(f"no backend {backend!r} here{missing}; there is {here}, and the definitions (None)")
    importlib.import_module(f"kernels.{backend}")
    _loaded.add(backend)


def ops(backend: str) -> list[str]:
    """The ops that have a ladder on `backend`."""
    _load(backend)
    return sorted(op for op, b in _LADDERS if b == backend)


def ladder(op: str, backend: str = "cpu") -> list[Rung]:
    """The rungs of `op` on `backend`, in the order in which they are read."""
    _load(backend)
    if (op, backend) not in _LADDERS:
        raise MissingKernel(f"{op} has no kernel on {backend}; these have: {', '.join(ops(backend))}")
    return list(_LADDERS[op, backend])


def serving(op: str, backend: str = "cpu") -> Rung:
    """The rung that serves `op` on `backend`: a callable with the op's own signature."""
    return next(r for r in ladder(op, backend) if r.serves)


running_kernels: Callable[[], dict[str, Rung]] = _running.get
"""What is in force now: op name -> rung. Empty outside `use`."""


@contextmanager
def use(backend: str | None, *, require: Iterable[str] = (), device: str | None = None) -> Iterator[None]:
    """Run ops on the kernels of `backend` inside the block; `None` means the definitions.

    An op without a kernel runs its definition, and so does a call with dtypes that its kernel does not take: mixed ones,
    integers, float16. Name in `require` the ops that must have a kernel: a gap raises `MissingKernel` here, before any
    work is done.

    device    for cuda: "emulated" runs the kernels without a GPU, by `kernels.cuda.emulate`; None is the GPU, and raises
              `MissingKernel` where there is none
    """
    table = {} if backend is None else {op: serving(op, backend) for op in ops(backend)}
    gaps = sorted(set(require) - set(table))
    if gaps:
        raise MissingKernel(f"no kernel on {backend} for {', '.join(gaps)}; there are kernels for {', '.join(sorted(table)) or 'none'}")
    with _on(backend, device):
        token = _running.set(table)
        try:
            yield
        finally:
            _running.reset(token)


def _on(backend: str | None, device: str | None) -> AbstractContextManager[Any]:
    if backend == "cuda":
        context: AbstractContextManager[Any] = importlib.import_module("kernels.cuda.launch").on(device)
        return context
    if device is not None:
        raise ValueError(f"device={device!r} is for cuda; given backend {backend!r}")
    return nullcontext()


def table(backend: str) -> str:
    """Every rung of `backend` as a table in Markdown; the rung that serves is marked."""
    rows = [
        f"| {op if r.step == 1 else ''} | {r.step}{' *' if r.serves else ''} | `{r.name}` | {r.idea} |"
        for op in ops(backend)
        for r in ladder(op, backend)
    ]
    return "\n".join([f"| {backend} | step | rung | idea |", "|---|---|---|---|", *rows])
