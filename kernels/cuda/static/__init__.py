"""What the machine code of a kernel says, without a GPU: PTX is assembled (ptxas) and read back (nvdisasm).

    _, launches = recorded(run, args, params)
    for launch in launches.values():
        evidence(launch, (8, 0)).registers

Everything here is static: how many registers, which instructions stand in the main loop. None of it is a time. `python -m engine bench
--cuda-static` prints it for every rung; `golden` says what may not become worse.
"""

from kernels.cuda.static.assemble import MissingAssembler, missing
from kernels.cuda.static.evidence import Evidence, evidence, name_of, recorded

__all__ = ["Evidence", "MissingAssembler", "evidence", "missing", "name_of", "recorded"]
