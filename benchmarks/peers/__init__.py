"""Implementations that race against one another: each a module in this folder, found at run time, missing with a reason.

How to plug one in
------------------
`benchmarks/peers/NAME.py` is the implementation called NAME (a dash in a name is an underscore in the file) and has

    available() -> str | None                       why it is not here ("torch is not installed"), None if it is
    prepare(case, args, params) -> callable         of no arguments: what is timed. Raises Missing(reason) if it cannot do this case
    allowed(case) -> float                          optional: the largest error; by default `case.allowed`
    as_numpy(y) -> array, tuple or dict of arrays   optional: what the callable returned, as NumPy; by default `peers.as_numpy`.
                                                    None stands for an output that it has no use for
    called(name) -> object with these               optional: where one module answers to several names

`args` are the NumPy arrays of `case.call()`, `params` its keywords. `prepare` turns them into arrays of its own: that is not timed, nor is
what a user would do once (making a model, packing weights that stay). What a user pays in every call stays inside the callable.
It is called over and over: a step of training may go on from where it stands. The first result is compared before anything is
timed. An implementation takes as many threads as `threads()` says; the usual variables of the environment are set already.

How to plug in another kind of case (a whole training step)
-----------------------------------------------------------
A case is any object that can be pickled and has

    op, dtype, stands_for                   strings; str(case) names it, `shape` is its sizes in words. The two together are one row
    home                                    the package of its implementations: "benchmarks.peers" here, another one for another kind
    call(seed=0) -> args, params            the data, the same in every process
    small() -> case                         the same at a size that takes no time
    reference(args, params) -> Any          what is right, once, in float64: arrays in any nesting. It is handed to every process
    error(args, params, y, reference)       the error of a first result, as NumPy gives it; infinite for another shape
    allowed                                 the largest error
    work(args, params, y) -> (flops, bytes) of one call; 0 where it cannot be said

so a training step is a class with these eight and modules `HOME/gnomon.py`, `HOME/torch.py`, ... with `available` and `prepare`. The
race (`race.py`), the process (`side.py`), records, tables and comparison ask for no more. A list of cases gets a name, and its
peers and target, with `Suite` in `suites.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np

OURS = "gnomon"
PEERS = {  # what can be named with --against
    "numpy": "the definition, in NumPy and its BLAS",
    "torch": "PyTorch, eager",
    "torch-compile": "PyTorch through torch.compile",
    "jax": "JAX, jit-compiled",
    "onnxruntime": "ONNX Runtime",
    "scipy": "SciPy's sparse matrices",
    "dense": "a product with all the zeros, in NumPy's BLAS",
    "naive": "Numba without an idea: our first rung",
    "f32": "our own kernel in float32, where another dtype is asked for",
    "door": "our own kernel, called as anybody calls it",
}

Call = Callable[[], Any]


class Missing(Exception):
    """This implementation is not here, or cannot do this case: the reason."""


def find(name: str, home: str = "benchmarks.peers") -> Any:
    """The implementation of that name. `gnomon/RUNG` is a rung, module:function or file.py:function a function of the user's."""
    where = "benchmarks.peers.user" if ":" in name else f"{home}.{name.partition('/')[0].replace('-', '_')}"
    if importlib.util.find_spec(where) is None:
        raise Missing(f"there is no {name} in {home}")
    module = importlib.import_module(where)
    return module.called(name) if hasattr(module, "called") else module


def absent(*libraries: str) -> str | None:
    """Which of these are not installed, in words."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed" if missing else None


def threads() -> int:
    """How many threads an implementation may use."""
    return int(os.environ.get("NUMBA_NUM_THREADS") or os.cpu_count() or 1)


def as_numpy(y: Any) -> Any:
    """A result of anybody's as NumPy arrays, in the nesting in which it came."""
    if y is None:
        return None
    if isinstance(y, (tuple, list)):
        return tuple(as_numpy(part) for part in y)
    if isinstance(y, dict):
        return {name: as_numpy(part) for name, part in y.items()}
    if hasattr(y, "detach"):  # PyTorch: NumPy does not know bfloat16
        y = y.detach()
        return (y.float() if str(y.dtype) == "torch.bfloat16" else y).cpu().numpy()
    return np.asarray(y)
