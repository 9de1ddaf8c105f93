"""Give the pieces of a job to a few threads.

Plain Python threads around jitted code that has let go of the interpreter lock, rather than Numba's `prange`: nothing is
set for the process, a forked child starts afresh, several Python threads may call kernels at once (Numba's OpenMP layer
dies in a forked child, its workqueue layer in the second thread), and a kernel compiles in a third of the time.

A kernel cuts its job by sizes alone, never by the number of threads, and two pieces never write to one place.
So the bits of a result do not depend on who computed what.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numba import config

_pool: ThreadPoolExecutor | None = None


def threads() -> int:
    """How many threads a job may use: `NUMBA_NUM_THREADS` if it is set, else the CPUs of this process."""
    return int(config.NUMBA_NUM_THREADS)


def share(run: Callable[..., Any], pieces: Sequence[tuple[Any, ...]]) -> None:
    """`run(*piece)` for every piece, by as many threads as there are; returns when all is done.

    `run` must release the interpreter lock (`nogil=True`), else the threads only wait for each other.
    """
    if len(pieces) == 1:
        run(*pieces[0])
        return
    helpers = min(threads(), len(pieces)) - 1
    left = iter(pieces)  # `next` of a built-in iterator is one step under the interpreter lock: each piece is taken once
    futures = [_workers().submit(_work, run, left) for _ in range(helpers)]
    try:
        _work(run, left)
    finally:
        for future in futures:
            if not future.cancel():  # one that has not begun has nothing left to do
                future.result()


def _work(run: Callable[..., Any], left: Iterator[tuple[Any, ...]]) -> None:
    for piece in left:
        run(*piece)


def _workers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, threads() - 1), thread_name_prefix="kernel")
    return _pool


def _forget() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a child has none of its parent's threads
