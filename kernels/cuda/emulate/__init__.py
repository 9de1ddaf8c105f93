"""Run the PTX of a kernel without a GPU: all threads at once, in NumPy, with checks and counters.

    report = run(ptx, None, grid=(4, 4), block=(16, 16), args=[a, b, c])     # c is written in place

See README.md beside this file for what is modelled and what is not.
"""

from kernels.cuda.emulate.faults import CHECKS, ON_REQUEST, Fault, Thread, Unsupported
from kernels.cuda.emulate.parse import PtxError, parse
from kernels.cuda.emulate.python import emulate
from kernels.cuda.emulate.run import Report, run

__all__ = ["run", "emulate", "Report", "Fault", "Thread", "Unsupported", "PtxError", "parse", "CHECKS", "ON_REQUEST"]
