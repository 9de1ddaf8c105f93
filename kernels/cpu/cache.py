"""When compiled code is too old.

Numba keeps compiled code until the file of its function changes. Code that is made of several files must not outlive any of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent


def stamped(function: Any) -> Any:
    """A jitted function whose compiled code is thrown away when any file of this folder has changed."""
    file = getattr(getattr(function, "_cache", None), "_cache_file", None)  # Numba has no public word for it
    if hasattr(file, "_source_stamp"):
        files = [(path.name, path.stat()) for path in sorted(FOLDER.glob("*.py"))]
        file._source_stamp = tuple((name, about.st_mtime, about.st_size) for name, about in files)
    return function
