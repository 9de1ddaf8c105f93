"""CuPy, which calls cuBLAS: products of matrices."""

from __future__ import annotations

from typing import Any

from benchmarks import cuda_peers, peers


def available() -> str | None:
    return cuda_peers.absent() or peers.absent("cupy")


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    import cupy

    if case.op != "matmul":
        raise peers.Missing("only products of matrices")
    a, b = map(cupy.asarray, args)
    return lambda: cupy.matmul(a, b)


def as_numpy(y: Any) -> Any:
    return y.get()
