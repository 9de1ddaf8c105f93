"""Functions of one number or two, in Python that every backend compiles.

Constants are in the type of the number, `type(x)(1)`: Numba takes a Python number to be an int64 or a float64, and float32 with either to
be float64. A nan goes through each of them, as it does in NumPy.
"""

from math import exp, exp2, expm1, fabs, log, log1p, log2, log10, sqrt, tanh


def negative(x):
    return -x


def reciprocal(x):
    return type(x)(1) / x


def square(x):
    return x * x


def relu(x):
    zero = type(x)(0)
    return zero if x <= zero else x


def sigmoid(x):
    """By the power that does not overflow."""
    one = type(x)(1)
    e = exp(-fabs(x))
    return (one if x >= type(x)(0) else e) / (one + e)


def softplus(x):
    zero = type(x)(0)
    return (zero if x <= zero else x) + log1p(exp(-fabs(x)))


def leaky_relu(x, negative_slope):
    return x if x > type(x)(0) else negative_slope * x


def elu(x, alpha):
    zero = type(x)(0)
    return x if x > zero else alpha * expm1(x)


def add(x1, x2):
    return x1 + x2


def subtract(x1, x2):
    return x1 - x2


def multiply(x1, x2):
    return x1 * x2


def divide(x1, x2):
    return x1 / x2


def maximum(x1, x2):
    return x1 if x1 >= x2 or x1 != x1 else x2


def minimum(x1, x2):
    return x1 if x1 <= x2 or x1 != x1 else x2


def power(x1, x2):
    return x1**x2


def identity(x):
    return x


UNARY = {
    "negative": negative, "reciprocal": reciprocal, "square": square, "sqrt": sqrt, "abs": fabs, "exp": exp, "exp2": exp2, "expm1": expm1,
    "log": log, "log2": log2, "log10": log10, "log1p": log1p, "relu": relu, "tanh": tanh, "sigmoid": sigmoid, "softplus": softplus,
}  # fmt: skip
BINARY = {
    "add": add, "subtract": subtract, "multiply": multiply, "divide": divide, "maximum": maximum, "minimum": minimum, "pow": power,
}  # fmt: skip
ACTIVATIONS = {"identity": identity, "relu": relu, "tanh": tanh, "sigmoid": sigmoid}
