"""Right numbers, broken promises: buffers shared or overwritten, wrong dtype, hidden state, no linearity in the cotangent."""

from __future__ import annotations

import itertools

import numpy as np

from mutants.record import Right, call, fitted, right, unary_rule


@right("..., ... -> ...")
def add_under_contract(a, b):
    return a + b


@add_under_contract.vjp
def _(g, args, y):
    a, b = args
    return fitted(g, a).copy(), fitted(g, b).copy()


@add_under_contract.mutant(
    "one buffer for both",
    source="MyGrad@407b2764",
    fault="both gradients are the same array: adding into one changes the other",
    kills="aliasing",
    at=call([1.0], [2.0]),
)
def _(g, args, y):
    a, b = args
    if a.shape == b.shape:
        both = fitted(g, a).copy()
        return both, both
    return fitted(g, a).copy(), fitted(g, b).copy()


@add_under_contract.mutant(
    "views of one buffer",
    source="MyGrad@407b2764",
    fault="the gradients overlap in memory without being the same object",
    kills="aliasing",
    at=call([1.0, 3.0], [2.0, 4.0]),
)
def _(g, args, y):
    a, b = args
    both = np.array(g)
    return fitted(both, a), fitted(both[...], b)


square = Right("square_under_contract", lambda x: np.square(x), "contracts", "... -> ...")
square.vjp(unary_rule(lambda x, y: 2 * x))


@square.mutant(
    "g |g|",
    source="report, section 2.1: one-hot cotangents do not see it",
    fault="the cotangent enters squared, with its sign",
    kills="linearity",
    at=call([1.0]),
)
def _(g, args, y):
    return (2 * args[0] * g * np.abs(g),)


@square.mutant(
    "sign of g",
    source="report, section 2.1",
    fault="only the sign of the cotangent is used",
    kills="linearity",
    at=call([1.0]),
)
def _(g, args, y):
    return (2 * args[0] * np.sign(g),)


@square.mutant(
    "a part without g",
    source="report, section 4.4: part not multiplied by the cotangent",
    fault="one of two equal terms is not multiplied by the cotangent",
    kills="linearity",
    at=call([1.0]),
)
def _(g, args, y):
    (x,) = args
    return (x * g + x,)


@square.mutant(
    "single precision",
    source="report, section 4.4: wrong dtype; HIPS vspace checks",
    fault="the gradient of a float64 array is float32",
    kills="dtype",
    at=call([1.0]),
)
def _(g, args, y):
    return ((2 * args[0] * g).astype(np.float32),)


@square.mutant(
    "rounded on the way",
    source="report, section 5: cast to lower dtype",
    fault="the slope goes through float32 and comes back as float64",
    kills="relative",
    at=call([0.1]),
)
def _(g, args, y):
    return ((2 * args[0]).astype(np.float32).astype(np.float64) * g,)


@square.mutant(
    "double for single",
    source="derived from HIPS vspace checks",
    fault="the gradient of a float32 array is float64",
    kills="dtype",
    at=call(np.ones(1, np.float32), g=np.ones(1, np.float32)),
    beyond="float32 arguments",
)
def _(g, args, y):
    return ((2 * args[0] * g).astype(np.float64),)


@square.mutant(
    "one element too many axes",
    source="derived from pytorch#13669",
    fault="a 0-d argument gets a gradient of shape (1,)",
    kills="shape",
    at=call(2.0),
)
def _(g, args, y):
    return (np.atleast_1d(2 * args[0] * g),)


@square.mutant(
    "cotangent doubled in place",
    source="report, section 4.4: cotangent overwritten",
    fault="the factor 2 is multiplied into the caller's cotangent",
    kills="mutation",
    at=call([1.0]),
)
def _(g, args, y):
    g = np.asarray(g)
    if g.flags.writeable:
        g *= 2
        return (args[0] * g,)
    return (2 * args[0] * g,)


@square.mutant(
    "input doubled in place",
    source="mlx#941",
    fault="the argument is used as the buffer of the result",
    kills="mutation",
    at=call([1.0]),
)
def _(g, args, y):
    (x,) = args
    if x.flags.writeable:
        x *= 2
        return (x * g,)
    return (2 * x * g,)


_buffers: dict[tuple[int, ...], np.ndarray] = {}


@square.mutant(
    "one buffer for all calls",
    source="mlx#941",
    fault="the result lies in a buffer that the next call writes over",
    kills="aliasing",
    at=call([1.0]),
)
def _(g, args, y):
    (x,) = args
    out = _buffers.setdefault(x.shape, np.empty(x.shape))
    out[...] = 2 * x * g
    return (out,)


_counter = itertools.count()


@square.mutant(
    "a race, now and then",
    source="pytorch#20980, #56202; report, section 4.4: intermittent race",
    fault="one call in five loses the last element",
    kills="determinism",
    at=call([1.0, 2.0]),
)
def _(g, args, y):
    (x,) = args
    out = np.array(2 * x * g)
    if next(_counter) % 5 == 4 and out.size:
        out.reshape(-1)[-1] = 0.0
    return (out,)


_saved: dict[str, np.ndarray] = {}


@right("... -> ...")
def sine(x):
    _saved["x"] = np.array(x)
    return np.sin(x)


@sine.vjp
@unary_rule
def _(x, y):
    return np.cos(x)


@sine.mutant(
    "the last input of anybody",
    source="generic: stale save; DiffRL#16",
    fault="what backward needs is kept once for the function, so a second forward in between spoils the first",
    kills="interleaving",
    at=call([1.0]),
)
def _(g, args, y):
    x = _saved["x"]
    return (g * np.cos(x),) if x.shape == args[0].shape and x.dtype == args[0].dtype else (g * np.cos(args[0]),)


_first: dict[tuple[int, ...], np.ndarray] = {}


@sine.mutant(
    "the first input of its shape",
    source="generic: stale save",
    fault="the saved input is that of the first call with this shape",
    kills="interleaving",
    at=call([1.0]),
)
def _(g, args, y):
    (x,) = args
    return (g * np.cos(_first.setdefault(x.shape, np.array(x))),)


def _long_or_short(pick):
    return [pick.array(pick.choice([3, 150]))], {}


@right(draw=_long_or_short, max_elements=200)
def scaled(x):
    return 3.0 * x


@scaled.vjp
def _(g, args, y):
    return (3.0 * g,)


@scaled.mutant(
    "beyond 128 elements",
    source="pytorch#177116, #197636, scaled down: an index in 8 bits for one in 32",
    fault="the index of an element wraps round",
    kills="large shapes",
    at=call(np.arange(150.0)),
    beyond="arrays of more than 128 elements",
)
def _(g, args, y):
    out = np.zeros_like(args[0])
    at = np.arange(g.size).astype(np.int8) % np.int8(127)
    out[at] = 3.0 * g
    return (out,)


def _halves(pick):
    return [(pick.array(pick.size(1, 4)) * pick.choice([1.0, 200.0])).astype(np.float16)], {}


def _half_norm(x):
    return np.sqrt(np.sum(x.astype(np.float32) ** 2)).astype(x.dtype) if x.dtype == np.float16 else np.sqrt(np.sum(x * x))


@right(draw=_halves)
def half_norm(x):
    return _half_norm(x)


@half_norm.vjp
def _(g, args, y):
    (x,) = args
    wide = x.astype(np.float64)
    return ((float(g) * wide / (np.sqrt(np.sum(wide**2)) or 1.0)).astype(x.dtype),)


@half_norm.mutant(
    "squares in half precision",
    source="tinygrad#12296: a sum that overflows in half",
    fault="the squares overflow beyond 65504 and the gradient is 0",
    kills="low precision",
    at=call(np.array([300.0, 400.0], np.float16), g=np.float16(1.0)),
)
def _(g, args, y):
    (x,) = args
    norm = np.sqrt(np.sum(x * x, dtype=x.dtype))
    return ((g * (x / norm if norm else x)).astype(x.dtype),)


def _many_halves(pick):
    return [np.full(pick.choice([3, 70000]), 0.5, np.float16)], {}


@right(draw=_many_halves, vary_values=False, max_elements=100000)
def half_max(x):
    return np.max(x)


@half_max.vjp
def _(g, args, y):
    (x,) = args
    won = x == y
    return ((float(g) * won / np.count_nonzero(won)).astype(x.dtype),)


@half_max.mutant(
    "ties counted in half precision",
    source="tinygrad#12296",
    fault="70,000 equal values are inf many in half precision, and each gets 0",
    kills="low precision",
    at=call(np.full(70000, 0.5, np.float16), g=np.float16(1.0)),
    beyond="arrays of 70,000 elements",
)
def _(g, args, y):
    (x,) = args
    won = (x == y).astype(x.dtype)
    return (g * (won / won.sum(dtype=x.dtype)),)
