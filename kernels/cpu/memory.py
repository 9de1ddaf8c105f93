"""Memory that a result gives back stays with the process, for the next result.

A training step makes and drops the same large arrays each time. The C library of Linux returns a large block to the system when it is
freed, and the next array gets its pages anew, zeroed one fault at a time: for LeNet-5 at batch 128 that is 1500 faults and a
tenth of a step. Here it is told to keep what it has. It is a setting of the whole process, so `GNOMON_MALLOC=system` leaves it out.

Source: glibc's mallopt(3), where both thresholds are described.
"""

from __future__ import annotations

import ctypes
import os
import platform

VARIABLE = "GNOMON_MALLOC"
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
LARGEST = 1 << 25  # bytes, the most that glibc takes: what is larger still comes from the system and goes back to it
KEPT = 1 << 30  # bytes that are free at the end of the heap before some go back


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory. Says whether it will: not without glibc, nor where the environment names the system's way."""
    if os.environ.get(VARIABLE, "").strip().lower() == "system" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))
