"""Ctrl-C at a good moment: the first asks to stop, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and did so between two steps. `run` is where it stands."""

    def __init__(self, message: str, run: Any):
        super().__init__(message)
        self.run = run


class postponed:
    """`with postponed() as asked:` a Ctrl-C in the block makes `asked()` true instead of raising; a second one raises.

    Outside the main thread, where no signal arrives, nothing changes.
    """

    def __init__(self) -> None:
        self.pressed = False
        self.before: Any = None

    def __enter__(self) -> postponed:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def __call__(self) -> bool:
        return self.pressed

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        with suppress(OSError):  # print() could be what was interrupted, and may not be entered twice
            os.write(2, b"\nfinishing this step; Ctrl-C again stops at once\n")
