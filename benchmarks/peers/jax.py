"""JAX, jit-compiled by XLA for the shapes of the case. Each call waits for its result."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import inf, prod
from typing import Any

from benchmarks import peers


def available() -> str | None:
    return peers.absent("jax")


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    if peers.threads() == 1:  # NPROC, which is set for all, bounds XLA's pool; it does without one where this is said
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    jax.config.update("jax_enable_x64", True)
    if case.op.endswith("_step"):
        f = update(case, params)
    elif case.op in BUILDS:
        f = BUILDS[case.op](case, params)
    else:
        raise peers.Missing(f"no {case.op} in JAX")
    arrays = jax.device_put(args)
    if case.op == "matmul_bf16":
        arrays = [a.astype("bfloat16") for a in arrays]
    compiled = jax.jit(f)
    return lambda: jax.block_until_ready(compiled(*arrays))


def as_numpy(y: Any) -> Any:
    import jax
    import numpy as np

    return jax.tree.map(lambda a: np.asarray(a, "float32" if a.dtype == "bfloat16" else a.dtype), y)


def matmul(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    import jax.numpy as jnp

    return jnp.matmul


def matmul_int8(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    import jax.numpy as jnp

    return lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.int32)


def activation(name: str) -> Callable[[Any], Any]:
    import jax

    return {"identity": lambda y: y, "relu": jax.nn.relu, "tanh": jax.numpy.tanh, "sigmoid": jax.nn.sigmoid}[name]


def dense(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    act = activation(params["activation"])
    return lambda x, w, b: act(x @ w + b)


def bias_activation(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    act = activation(params["activation"])
    return lambda x, b: act(x + b.reshape(-1, *[1] * (x.ndim - 1 - params["axis"] % x.ndim)))


def bias_activation_grad(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    """The slope of an activation is one of its value y."""
    slope: Callable[[Any], Any] = {
        "identity": lambda y: 1,
        "relu": lambda y: y > 0,
        "tanh": lambda y: 1 - y * y,
        "sigmoid": lambda y: y * (1 - y),
    }[params["activation"]]

    def grad(gy: Any, y: Any) -> Any:
        gx = gy * slope(y)
        return gx, gx.sum([i for i in range(y.ndim) if i != params["axis"] % y.ndim])

    return grad


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def convolution(params: dict[str, Any]) -> Callable[..., Any]:
    from jax import lax

    stride, padding, dilation = [pair(params[k]) for k in ("stride", "padding", "dilation")]

    def conv(x: Any, w: Any) -> Any:
        around = [(p, p) for p in padding]
        return lax.conv_general_dilated(x, w, stride, around, rhs_dilation=dilation, feature_group_count=params["groups"])

    return conv


def conv2d(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    return convolution(params)


def conv2d_input_grad(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    import jax

    conv, shape = convolution(params), case.shapes[0]

    def grad(gy: Any, w: Any) -> Any:
        x = jax.ShapeDtypeStruct((gy.shape[0], *shape[1:]), gy.dtype)
        return jax.linear_transpose(lambda x: conv(x, w), x)(gy)[0]

    return grad


def conv2d_weight_grad(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    import jax

    conv, shape = convolution(params), case.shapes[1]

    def grad(x: Any, gy: Any) -> Any:
        return jax.linear_transpose(lambda w: conv(x, w), jax.ShapeDtypeStruct(shape, x.dtype))(gy)[0]

    return grad


def windows(params: dict[str, Any]) -> tuple[Any, ...]:
    """Sizes, strides and padding for all four axes of pictures."""
    kernel, stride = pair(params["kernel_size"]), pair(params["stride"] or params["kernel_size"])
    return (1, 1, *kernel), (1, 1, *stride), ((0, 0), (0, 0), *[(p, p) for p in pair(params["padding"])])


def max_pool2d(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    """The largest alone: where they stand is not asked for in JAX, and its way back looks at x again."""
    from jax import lax

    return lambda x: (lax.reduce_window(x, -inf, lax.max, *windows(params)), None)


def avg_pool2d(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    from jax import lax

    kernel, *others = windows(params)
    return lambda x: lax.reduce_window(x, 0.0, lax.add, kernel, *others) / prod(kernel)


def avg_pool2d_input_grad(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    import jax

    pool = avg_pool2d(case, params)
    return lambda gy: jax.linear_transpose(pool, jax.ShapeDtypeStruct(case.shapes[0], gy.dtype))(gy)[0]


def softmax(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    import jax

    f = getattr(jax.nn, case.op)
    return lambda x: f(x, axis=params["axis"])


def normalise(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    over = {"axis": params["axis"], "keepdims": True}

    def norm(x: Any, w: Any, b: Any) -> Any:
        mean, var = x.mean(**over), x.var(**over)
        return (x - mean) / (var + params["eps"]) ** 0.5 * w + b, mean, var

    return norm


def normalise_grad(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    """By its formula, from the mean and the variance that are given."""
    over = {"axis": params["axis"], "keepdims": True}

    def grad(gy: Any, x: Any, w: Any, mean: Any, var: Any) -> Any:
        others = [i for i, n in enumerate((1,) * (x.ndim - w.ndim) + w.shape) if n == 1]
        s, h = (var + params["eps"]) ** 0.5, gy * w
        x_hat = (x - mean) / s
        gx = (h - h.mean(**over) - x_hat * (h * x_hat).mean(**over)) / s
        return gx, (gy * x_hat).sum(others).reshape(w.shape), gy.sum(others).reshape(w.shape)

    return grad


def cross_entropy_grad(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    import jax.numpy as jnp

    return lambda log_p, t, gy: gy[..., None] * (jnp.exp(log_p) * t.sum(-1, keepdims=True) - t)


def cross_entropy(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    import jax

    def loss(z: Any, t: Any) -> Any:
        log_p = jax.nn.log_softmax(z)
        return -(t * log_p).sum(-1), log_p

    return loss


def update(case: Any, params: dict[str, Any]) -> Callable[..., Any]:
    """A step of an optimiser by its formula, over one array or a dict of them. XLA fuses each array into one pass."""
    import jax.numpy as jnp

    if case.op not in FORMULAS:
        raise peers.Missing(f"no {case.op} in JAX")
    formula = FORMULAS[case.op]

    def step(*given: Any) -> Any:
        if not isinstance(given[0], dict):
            return formula(jnp, *given, **params)
        each = {k: formula(jnp, *[arrays[k] for arrays in given], **params) for k in given[0]}
        return tuple({k: y[i] for k, y in each.items()} for i in range(len(given) - 1))

    return step


def adam(np: Any, p: Any, g: Any, m: Any, v: Any, *, lr: float, t: int, beta1: float, beta2: float, eps: float, weight_decay: float) -> Any:
    g = g + weight_decay * p
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    return p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps), m, v


def sgd(np: Any, p: Any, g: Any, *, lr: float, weight_decay: float) -> Any:
    return (p - lr * (g + weight_decay * p),)


def momentum(np: Any, p: Any, g: Any, m: Any, *, lr: float, momentum: float, weight_decay: float) -> Any:
    m = momentum * m + (g + weight_decay * p)
    return p - lr * m, m


FORMULAS: dict[str, Callable[..., Any]] = {"adam_step": adam, "sgd_step": sgd, "momentum_step": momentum}

BUILDS: dict[str, Callable[..., Callable[..., Any]]] = {
    "matmul": matmul,
    "matmul_bf16": matmul,
    "matmul_int8": matmul_int8,
    "dense": dense,
    "bias_activation": bias_activation,
    "bias_activation_grad": bias_activation_grad,
    "conv2d": conv2d,
    "conv2d_input_grad": conv2d_input_grad,
    "conv2d_weight_grad": conv2d_weight_grad,
    "max_pool2d_with_indices": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "avg_pool2d_input_grad": avg_pool2d_input_grad,
    "normalise": normalise,
    "normalise_grad": normalise_grad,
    "softmax": softmax,
    "log_softmax": softmax,
    "cross_entropy": cross_entropy,
    "cross_entropy_grad": cross_entropy_grad,
}
