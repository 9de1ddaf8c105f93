"""How arrays reach jitted code."""

from __future__ import annotations

from typing import Any

import numpy as np


def dense(x: Any) -> np.ndarray:
    """`x` in C order, aligned and writable, so that one compiled variant serves; a copy only if it is not so already."""
    return x if x.flags.carray else np.array(x, order="C")
