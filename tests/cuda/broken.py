"""A module of kernels with its text changed: what the tests of mutants try."""

import inspect
import linecache
import types

RUNG = "from kernels.registry import rung\n"


def broken(module, old, new):
    """`module` with the one `old` in its text made `new`; nothing of it enters a ladder."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{module.__name__} has {source.count(old)} times {old!r}"
    source = source.replace(RUNG, "rung = lambda *about, **more: lambda run: run\n").replace(old, new)
    name = f"<{module.__name__} with {new!r}>"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name  # where Numba looks for lines
    changed = types.ModuleType(name)
    exec(compile(source, name, "exec"), vars(changed))
    return changed


def caught(run, right):
    """By what: the check of a fault; "double" if the PTX of float32 works in double precision; "definition" if run() is not right."""
    from kernels.cuda.emulate import Fault
    from kernels.cuda.launch import on

    try:
        with on("emulated", checks=True, counters=True) as device:
            got = run()
    except Fault as fault:
        return fault.check
    if any(doubles(launch) for launch in device.launches):
        return "double"
    return "nothing" if right(got) else "definition"


def doubles(launch):
    """Does the kernel of a launch work in double precision?"""
    return ".f64" in launch.ptx((8, 0))[0]
