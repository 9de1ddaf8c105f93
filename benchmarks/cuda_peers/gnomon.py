"""Our CUDA kernels: what a rung launches is recorded once, its arrays are brought to the device, and the launches are done again and again.

So the time is that of the kernels. What a rung does on the host, copies to the device and back among it, is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks import cuda_peers, peers
from benchmarks.peers import gnomon
from kernels.cuda.places import Places


@dataclass(frozen=True)
class Rungs(gnomon.Rungs):
    backend: str = "cuda"

    def available(self) -> str | None:
        return cuda_peers.absent() or peers.absent("numba_cuda")

    def prepare(self, case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
        from kernels.cuda.launch import on

        run = self.of(case).run
        with on("recorded") as device:
            y = run(*args, **params)
        return Again(y, device.launches)

    def as_numpy(self, again: Again) -> Any:
        return peers.as_numpy(again.fetched())


class Again:
    """Launches that were recorded, on arrays that stay on the device. Calling it does them; arrays in the same place are one."""

    def __init__(self, y: Any, launches: list[Any]) -> None:
        from kernels.cuda.launch import brought

        first: dict[Any, Any] = {}
        same = [replace(launch, args=the_same(launch.args, first), writes=the_same(launch.writes, first)) for launch in launches]
        self.y = y
        self.there: dict[int, Any] = {}
        self.launches = [(launch, [brought(a, self.there) for a in launch.args]) for launch in same]

    def __call__(self) -> Again:
        from kernels.cuda.launch import started

        for launch, args in self.launches:
            started(launch, args)
        return self

    def fetched(self) -> Any:
        """The result, on the host."""
        for launch, _ in self.launches:
            for a in launch.writes:
                self.there[id(a)].copy_to_host(a)
        return self.y


def the_same(a: Any, first: dict[Any, Any]) -> Any:
    """For an array, in tuples or not, its first view that was met: what one kernel writes, the next one reads."""
    if isinstance(a, tuple):
        found = [the_same(b, first) for b in a]
        return type(a)._make(found) if hasattr(a, "_fields") else tuple(found)
    if isinstance(a, Places):
        return Places(the_same(a.arrays, first))
    return first.setdefault(place(a), a) if isinstance(a, np.ndarray) else a


def place(a: np.ndarray) -> Any:
    return a.__array_interface__["data"][0], a.shape, a.dtype.str


def called(name: str) -> Rungs:
    return Rungs(name.partition("/")[2])
