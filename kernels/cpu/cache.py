"""When compiled code is too old.

Numba keeps compiled code until the file of its function changes. Code that is made of several files must not outlive any of them.
"""

from __future__ import annotations

from pathlib import Path
from types import CodeType
from typing import Any

from numba import types

FOLDER = Path(__file__).resolve().parent


def stamped(function: Any) -> Any:
    """A jitted function whose compiled code is thrown away when any file of this folder, or of the one around it, has changed, and is
    loaded after the units (`unit.py`) that it calls."""
    cache = getattr(function, "_cache", None)  # Numba has no public word for it
    file = getattr(cache, "_cache_file", None)
    if hasattr(file, "_source_stamp"):
        files = [(path.name, path.stat()) for folder in (FOLDER.parent, FOLDER) for path in sorted(folder.glob("*.py"))]
        file._source_stamp = tuple((name, about.st_mtime, about.st_size) for name, about in files)
    if hasattr(cache, "load_overload"):
        load = cache.load_overload

        def load_overload(signature: Any, context: Any) -> Any:
            for unit in units(function.__wrapped__):
                for number in numbers(signature):
                    unit.ready(number)
            return load(signature, context)

        cache.load_overload = load_overload
    return function


def units(function: Any) -> set[Any]:
    """The units that a function calls by name, itself or in what is jitted into it."""
    names = {name: function.__globals__.get(name) for name in names_in(function.__code__)}
    cells = zip(function.__code__.co_freevars, [cell.cell_contents for cell in function.__closure__ or ()], strict=True)
    found = set()
    for called in {**names, **dict(cells)}.values():
        if hasattr(called, "called_unit"):
            found.add(called.called_unit)
        elif hasattr(called, "py_func") and called.py_func is not function:
            found |= units(called.py_func)
    return found


def names_in(code: CodeType) -> set[str]:
    """Names in a function and in what is defined within it."""
    return set(code.co_names).union(*[names_in(inner) for inner in code.co_consts if isinstance(inner, CodeType)])


def numbers(signature: Any) -> set[Any]:
    """The types of floating-point numbers in a signature."""
    given = [getattr(t, "dtype", t) for t in getattr(signature, "args", signature)]
    return {t for t in given if t in (types.float32, types.float64)}
