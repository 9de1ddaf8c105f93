"""SciPy's sparse matrices times a dense one."""

from __future__ import annotations

from typing import Any

from benchmarks import peers


def available() -> str | None:
    return peers.absent("scipy")


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    from scipy import sparse

    if case.op not in ("matmul_csr", "matmul_bsr"):
        raise peers.Missing("only sparse matrices")
    data, indices, indptr, b = args
    rows = (len(indptr) - 1) * (data.shape[1] if data.ndim == 3 else 1)
    kind = sparse.bsr_matrix if case.op == "matmul_bsr" else sparse.csr_matrix
    a = kind((data, indices, indptr), shape=(rows, b.shape[0]))
    return lambda: a @ b
