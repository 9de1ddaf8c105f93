"""The CUDA ladders. Importing this registers them, if numba-cuda is there; a kernel is compiled when it is first launched.

What runs them is in `launch`: a GPU, or the emulator, which needs neither a GPU nor a driver.
"""

from importlib.util import find_spec

if find_spec("numba_cuda") is not None:
    from kernels.cuda import conv, conv_int8, dense, elementwise, int8, matmul, reduce, sparse, tensor, update  # noqa: F401
