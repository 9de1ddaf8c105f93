"""NumPy's own functions on traced values: a function written with plain `numpy` differentiates as it is.

NumPy asks a traced value before it computes (`__array_ufunc__`, NEP 13, and `__array_function__`, NEP 18). The answer is a
*stand-in*: a function with the signature of NumPy's, written in ops. It has no rule of its own and needs none.

Each module here fills `engine.traced.NUMPY` for one family. What is in none of them raises `engine.Unsupported`.
"""

from engine.ops.numpy_protocol import constants, differences, elementwise, hints, layout, orders, products, reductions, special  # noqa: F401, I001
from engine.ops.numpy_protocol import ufuncs  # noqa: F401
