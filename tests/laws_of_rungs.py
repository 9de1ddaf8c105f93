"""The laws of rungs, as functions that assert, and what is tried: every rung of every ladder of every backend that can run here.

A rung is judged by its op's definition in float64, and the definition shares no code with it. What is allowed is the rung's own
`rtol`, relative to the definition applied to absolute values: the natural scale of the rounding in a sum of products.
"""

import inspect

import numpy as np

import engine  # noqa: F401  (registers the ops)
import kernels
from engine.traced import OPS
from kernels.registry import Rung

LADDERS = [kernels.ladder(op, backend) for backend in kernels.backends() for op in kernels.ops(backend)]
RUNGS = [rung for ladder in LADDERS for rung in ladder]
CASES = [(rung, dtype) for rung in RUNGS for dtype in rung.rtol]
SERVING = [rung for rung in RUNGS if rung.serves]


def named(case):
    rung, dtype = case
    return f"{rung.backend}-{rung.op}-{rung.step}-{dtype.replace(' ', '-')}"


def same_bits(a, b):
    """Compared here, not in an assertion: pytest would look for the first difference in a megabyte for minutes."""
    return bool(a.tobytes() == b.tobytes())


def tupled(y):
    return y if isinstance(y, tuple) else (y,)


def cast(args, dtype):
    """The arguments in another precision; or, if `dtype` names one for each, "uint8 int8", in these."""
    if len(str(dtype).split()) == len(args) > 1 and isinstance(dtype, str):
        return [np.asarray(a).astype(name, copy=False) for a, name in zip(args, dtype.split(), strict=True)]
    return [a.astype(dtype, copy=False) if a.dtype.kind == "f" else a for a in map(np.asarray, args)]  # strides stay


def scale(op, args, params, want):
    """What a rounding error is relative to. A step subtracts from p, so p itself counts."""
    if op.name.startswith("max_pool2d_with"):
        return [np.zeros(w.shape) for w in want]  # chosen, not computed
    if op.name.startswith("normalise"):
        return scale_of_norms(op, args, params)
    if op.name == "dense":  # a squashed sum has the error of the sum
        params = {**params, "activation": "identity"}
    size = tupled(op.definition(*[np.abs(a) if a.dtype.kind == "f" else a for a in args], **params))
    p = np.abs(args[0]) if op.name.endswith("_step") else 0.0
    return [np.abs(s) + np.abs(w) + p for s, w in zip(size, want, strict=True)]


def scale_of_norms(op, args, params):
    """Where a mean is subtracted, absolute values cancel: the sizes of what is subtracted count."""
    x, w = args[:2] if op.name == "normalise" else args[1:3]
    mean, var = op.definition(*args, **params)[1:] if op.name == "normalise" else args[3:]
    s = np.sqrt(var + params["eps"])
    if op.name == "normalise":
        x_hat = (np.abs(x) + np.abs(mean)) / s
        means = [np.mean(np.abs(x) ** p, axis=params["axis"], keepdims=True) if x.size else mean for p in (1, 2)]
        return [np.abs(w) * x_hat + np.abs(args[2]), *means]
    gy, h = np.abs(args[0]), np.abs(args[0] * w)
    minus, *sums = op.definition(gy, np.abs(x), np.abs(w), -np.abs(mean), var, **params)
    return [2 * h / s - minus, *sums]


def agrees(rung, dtype, args, params):
    """The rung says what the definition says in float64, within its rtol, in shape and dtype, in memory of its own."""
    op, args = OPS[rung.op], cast(args, dtype)
    doubles = cast(args, np.float64)
    want = tupled(op.definition(*doubles, **params))
    got = tupled(rung.run(*args, **params))
    assert len(got) == len(want)
    for g, w, s in zip(got, map(np.asarray, want), scale(op, doubles, params, want), strict=True):
        assert g.shape == w.shape, f"shape {g.shape}, the definition has {w.shape}"
        assert g.dtype == (np.dtype(dtype) if w.dtype.kind == "f" else w.dtype), f"{dtype} in, {g.dtype} out"
        error = np.abs(g.astype(float) - w)  # whole numbers must not wrap around
        assert np.all(error <= rung.rtol[dtype] * s), f"off by {np.max(error / np.maximum(s, 1e-300)):.1e}, allowed {rung.rtol[dtype]:.0e}"
        assert g.flags.c_contiguous and g.flags.writeable
        assert not any(np.shares_memory(g, a) for a in args)


def leaves_alone(rung, args, params):
    """The rung does not write into its arguments."""
    before = [np.copy(a) for a in args]
    rung.run(*args, **params)
    assert all(np.array_equal(a, b) for a, b in zip(args, before, strict=True)), "an argument was written into"


def one_serves(ladder):
    """Steps count from 1, each with an idea of its own; exactly one serves."""
    assert [rung.step for rung in ladder] == list(range(1, len(ladder) + 1))
    assert len({rung.idea for rung in ladder}) == len(ladder)
    assert all(len(rung.idea) > 10 for rung in ladder)
    assert sum(rung.serves for rung in ladder) == 1, "exactly one rung serves"


def has_the_signature_of_its_op(rung):
    """Arguments positional and parameters by name, with the op's names and defaults."""
    parameters = inspect.signature(rung.run, follow_wrapped=False).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert keywords.pop("out", None) is None, "where to write the result, if given: a kernel's own parameter"
    wanted = inspect.signature(OPS[rung.op].definition).parameters.values()
    assert len(positional) == len(OPS[rung.op].args)
    assert keywords == {p.name: p.default for p in wanted if p.kind is p.KEYWORD_ONLY}


def broken(run, op="matmul", step=1, idea="broken on purpose", serves=True):
    return Rung(op, "cpu", step, idea, serves, {"float32": 1e-5, "float64": 1e-13}, (), run)
