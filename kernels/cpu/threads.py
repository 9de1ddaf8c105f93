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
from queue import SimpleQueue
from threading import Thread
from typing import Any

from numba import config

_pool: SimpleQueue[Job] | None = None


def threads() -> int:
    """How many threads a job may use: `NUMBA_NUM_THREADS` if it is set, else the CPUs of this process."""
    return int(config.NUMBA_NUM_THREADS)


def share(run: Callable[..., Any], pieces: Sequence[tuple[Any, ...]]) -> None:
    """`run(*piece)` for every piece, by as many threads as there are; returns when all is done.

    `run` must release the interpreter lock (`nogil=True`), else the threads only wait for each other.
    """
    helpers = min(threads(), len(pieces)) - 1
    if helpers < 1:
        for piece in pieces:
            run(*piece)
        return
    job, pool = Job(run, pieces, helpers), _workers()
    for _ in range(helpers):
        pool.put(job)
    job.finish()


class Job:
    """Pieces that several threads take from. One step of a list, an iterator or a queue is one step under the interpreter lock: each
    piece is taken once. Futures would do, at three times the price."""

    def __init__(self, run: Callable[..., Any], pieces: Sequence[tuple[Any, ...]], helpers: int):
        self.run = run
        self.left: Iterator[tuple[Any, ...]] = iter(pieces)
        self.helpers = helpers
        self.open = [None] * helpers  # places for helpers
        self.done: SimpleQueue[BaseException | None] = SimpleQueue()  # what became of the helpers that took one

    def work(self) -> None:
        for piece in self.left:
            self.run(*piece)

    def help(self) -> None:
        try:
            self.open.pop()
        except IndexError:  # too late: all is done
            return
        try:
            self.work()
        except BaseException as e:
            self.done.put(e)
        else:
            self.done.put(None)

    def finish(self) -> None:
        """Work, close the places that nobody has taken, and wait for the helpers. What a helper raised is raised here."""
        helpers = self.helpers  # not those that are open: one may be taken already
        try:
            self.work()
        finally:
            while self._close_one():
                helpers -= 1
            failures = [e for e in [self.done.get() for _ in range(helpers)] if e is not None]
        if failures:
            raise failures[0]

    def _close_one(self) -> bool:
        try:
            self.open.pop()
        except IndexError:
            return False
        return True


def _workers() -> SimpleQueue[Job]:
    global _pool
    if _pool is None:
        _pool = SimpleQueue()
        for _ in range(max(1, threads() - 1)):
            Thread(target=_serve, args=(_pool,), name="kernel", daemon=True).start()
    return _pool


def _serve(pool: SimpleQueue[Job]) -> None:
    while True:
        pool.get().help()


def _forget() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a child has none of its parent's threads
