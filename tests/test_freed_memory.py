"""No kernel works on memory that it has let go of. Numba frees an array after its last use, and to hand on its address is none.

glibc can be told to write over what is freed, at once; then whoever still reads it finds nonsense. Elsewhere this is not run, and said.
"""

import platform

import pytest
import tally
from alone import run_alone

GLIBC = platform.libc_ver()[0] == "glibc"
WRITES_OVER = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.perturb=165"}  # the cache of a thread would be spared


def alone(code):
    if not GLIBC:
        tally.not_run("freed memory is written over: the C library is not glibc")
        pytest.skip("glibc writes over what is freed, others do not")
    return run_alone(code, **WRITES_OVER)


def test_every_case_is_right_where_freed_memory_is_written_over():
    done = alone(
        """
        from benchmarks import peers
        from benchmarks.cases import Case
        from benchmarks.suites import suites
        import kernels

        ours, count = peers.find("gnomon"), 0
        for case in dict.fromkeys(c.small() for s in suites().values() for c in s.cases if isinstance(c, Case) and c.there):
            if case.op in kernels.ops("cpu"):
                args, params = case.call()
                reference = case.reference(args, params)
                for _ in range(3):
                    try:
                        y = peers.as_numpy(ours.prepare(case, args, params)())
                    except AttributeError:
                        assert "net" in dict(case.about), case  # a step that takes arrays, not dicts of them
                        continue
                    assert case.error(args, params, y, reference) <= ours.allowed(case), case
                count += 1
        print(count)
        """
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150
    tally.ran("cpu", "right where freed memory is written over", int(done.stdout))


def test_an_address_of_what_is_gone_is_caught():
    """The same sum by address, of an array that lives to the end of the block, and of one that does not."""
    done = alone(
        """
        import numpy as np
        from numba import njit
        from kernels.cpu.vector import address
        from kernels.cpu.table import word

        def total(n, run):
            numbers = np.full(n, 3, np.int64)
            return run(address(numbers), n)

        @njit
        def added(first, n):
            count = 0
            for i in range(n):
                count += word(first + 8 * i)
            return count

        print(njit(total)(5, added), njit(_dbg_extend_lifetimes=False)(total)(5, added))
        """
    )
    assert done.returncode == 0, done.stderr
    kept, gone = map(int, done.stdout.split())
    assert kept == 15 and gone != 15
