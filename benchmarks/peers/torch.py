"""PyTorch, eager: its own tensors over the same memory, one call. Optimisers are the fused ones of torch.optim where there is one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import peers

Built = tuple[Callable[..., Any], list[Any]]  # a function and the tensors it is called on: what torch.compile compiles


def available() -> str | None:
    return peers.absent("torch")


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    f, tensors = built(case, args, params)
    return lambda: f(*tensors)


def built(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    import torch

    torch.set_num_threads(peers.threads())
    if case.op.endswith("_step"):
        return optimiser(case, args, params)
    if case.op not in BUILDS:
        raise peers.Missing(f"no {case.op} in PyTorch")
    return BUILDS[case.op](case, args, params)


def tensors(args: list[Any], dtype: Any = None) -> list[Any]:
    """The arrays as tensors, sharing memory; on the device of `with torch.device(...)`, if there is one."""
    import torch

    found = [torch.from_numpy(a).to(torch.get_default_device()) for a in args]
    return [t.to(dtype) for t in found] if dtype else found


def matmul(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    import torch

    return torch.matmul, tensors(args)


def matmul_bf16(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    import torch

    return torch.matmul, tensors(args, torch.bfloat16)


def matmul_int8(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    import torch

    if any(a.dtype != np.int8 or a.ndim != 2 for a in args):
        raise peers.Missing("torch._int_mm multiplies two matrices of int8")
    return torch._int_mm, tensors(args)


def activation(name: str) -> Callable[[Any], Any]:
    import torch

    return {"identity": lambda y: y, "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[name]


def dense(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    """As nn.Linear keeps its weights: (n, k), in C order."""
    from torch.nn.functional import linear

    x, w, b = tensors(args)
    act = activation(params["activation"])
    return lambda x, w, b: act(linear(x, w, b)), [x, w.T.contiguous(), b]


def bias_activation(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    x, b = tensors(args)
    act = activation(params["activation"])
    after = x.ndim - 1 - params["axis"] % x.ndim
    return lambda x, b: act(x + b), [x, b.reshape(-1, *[1] * after)]


def conv2d(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    from torch.nn.functional import conv2d

    return lambda x, w: conv2d(x, w, **params), tensors(args)


def conv_backward(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    """The node that a backward pass of a convolution runs, for one of the two gradients."""
    import torch

    backward = torch.ops.aten.convolution_backward
    to_input = case.op == "conv2d_input_grad"
    gy, w = tensors(args) if to_input else (tensors(args)[1], torch.empty(case.shapes[1], dtype=tensors(args)[0].dtype))
    x = torch.empty((gy.shape[0], case.shapes[0][1], *params["input_size"]), dtype=gy.dtype) if to_input else tensors(args)[0]
    stride, padding, dilation = [pair(params[k]) for k in ("stride", "padding", "dilation")]
    mask, which = ([True, False, False], 0) if to_input else ([False, True, False], 1)

    def grad(gy: Any, x: Any, w: Any) -> Any:
        return backward(gy, x, w, None, stride, padding, dilation, False, [0, 0], params["groups"], mask)[which]

    return grad, [gy, x, w]


def pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def max_pool(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    from torch.nn.functional import max_pool2d

    return lambda x: max_pool2d(x, **params, return_indices=True), tensors(args)


def max_pool_backward(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    import torch

    gy, indices = tensors(args)
    x = torch.empty((*gy.shape[:2], *params["input_size"]), dtype=gy.dtype)
    window = dict(case.params)
    kernel, stride = pair(window["kernel_size"]), pair(window.get("stride") or window["kernel_size"])
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    return lambda gy, x, i: backward(gy, x, kernel, stride, pair(window.get("padding", 0)), [1, 1], False, i), [gy, x, indices.long()]


def avg_pool(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    from torch.nn.functional import avg_pool2d

    return lambda x: avg_pool2d(x, **params), tensors(args)


def avg_pool_backward(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    import torch

    (gy,) = tensors(args)
    x = torch.empty((*gy.shape[:2], *params["input_size"]), dtype=gy.dtype)
    kernel, stride, padding = [pair(params[k] or params["kernel_size"] if k == "stride" else params[k]) for k in WINDOW]
    backward = torch.ops.aten.avg_pool2d_backward
    return lambda gy, x: backward(gy, x, kernel, stride, padding, False, params["count_include_pad"], None), [gy, x]


WINDOW = ("kernel_size", "stride", "padding")


def cross_entropy(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    """With labels, as one has them; log p stays inside."""
    from torch.nn.functional import cross_entropy

    z, t = tensors(args)
    return lambda z, t: (cross_entropy(z, t, reduction="none"), None), [z, t.argmax(-1)]


def normalise(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    """Layer norm over the last axis, batch norm over all axes but that of channels."""
    from torch.nn.functional import batch_norm, layer_norm

    x, w, b = tensors(args)
    eps = params["eps"]
    if params["axis"] == -1:
        return lambda x, w, b: (layer_norm(x, (x.shape[-1],), w, b, eps), None, None), [x, w, b]
    return lambda x, w, b: (batch_norm(x, None, None, w, b, True, 0.1, eps), None, None), [x, w.reshape(-1), b.reshape(-1)]


def softmax(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    import torch

    return lambda x: torch.softmax(x, params["axis"]), tensors(args)


def cross_entropy_backward(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    """The two nodes that a backward pass of F.cross_entropy runs."""
    import torch

    log_p, t, gy = tensors(args)
    none, total = 0, torch.tensor(0.0)

    def grad(log_p: Any, labels: Any, gy: Any) -> Any:
        picked = torch.ops.aten.nll_loss_backward(gy, log_p, labels, None, none, -100, total)
        return torch.ops.aten._log_softmax_backward_data(picked, log_p, -1, log_p.dtype)

    return grad, [log_p, t.argmax(-1), gy]


def normalise_backward(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    """The node that a backward pass of layer norm or batch norm runs."""
    import torch

    gy, x, w, mean, var = tensors(args)
    rstd, eps, whole = (var + params["eps"]).rsqrt(), params["eps"], [True] * 3
    if params["axis"] == -1:
        backward = torch.ops.aten.native_layer_norm_backward
        return lambda gy, x, w, mean, rstd: backward(gy, x, [x.shape[-1]], mean, rstd, w, w, whole), [gy, x, w, mean, rstd]
    batch_backward, shape = torch.ops.aten.native_batch_norm_backward, w.shape

    def grad(gy: Any, x: Any, w: Any, mean: Any, rstd: Any) -> Any:
        gx, gw, gb = batch_backward(gy, x, w, None, None, mean, rstd, True, eps, whole)
        return gx, gw.reshape(shape), gb.reshape(shape)

    return grad, [gy, x, *[a.reshape(-1) for a in (w, mean, rstd)]]


def bias_activation_backward(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    import torch

    back = torch.ops.aten
    through = {
        "identity": lambda gy, y: gy,
        "relu": lambda gy, y: back.threshold_backward(gy, y, 0),
        "tanh": back.tanh_backward,
        "sigmoid": back.sigmoid_backward,
    }[params["activation"]]
    gy, y = tensors(args)
    others = [i for i in range(y.ndim) if i != params["axis"] % y.ndim]

    def grad(gy: Any, y: Any) -> Any:
        gx = through(gy, y)
        return gx, gx.sum(others)

    return grad, [gy, y]


def csr(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    import torch

    data, indices, indptr, b = tensors(args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that they are in beta
        a = torch.sparse_csr_tensor(indptr.long(), indices.long(), data, (len(indptr) - 1, b.shape[0]), check_invariants=False)
    return torch.matmul, [a, b]


def bsr(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    import torch

    data, indices, indptr, b = tensors(args)
    rows = (len(indptr) - 1) * data.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        a = torch.sparse_bsr_tensor(indptr.long(), indices.long(), data, (rows, b.shape[0]), check_invariants=False)
    return torch.matmul, [a, b]


BUILDS: dict[str, Callable[..., Built]] = {
    "matmul": matmul,
    "matmul_bf16": matmul_bf16,
    "matmul_int8": matmul_int8,
    "dense": dense,
    "bias_activation": bias_activation,
    "conv2d": conv2d,
    "conv2d_input_grad": conv_backward,
    "conv2d_weight_grad": conv_backward,
    "max_pool2d_with_indices": max_pool,
    "max_pool2d_input_grad": max_pool_backward,
    "avg_pool2d": avg_pool,
    "avg_pool2d_input_grad": avg_pool_backward,
    "cross_entropy": cross_entropy,
    "normalise": normalise,
    "cross_entropy_grad": cross_entropy_backward,
    "normalise_grad": normalise_backward,
    "bias_activation_grad": bias_activation_backward,
    "softmax": softmax,
    "matmul_csr": csr,
    "matmul_bsr": bsr,
}

OPTIMISERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {  # op: class, options, names of its state
    "sgd_step": ("SGD", {"fused": True}, ()),
    "momentum_step": ("SGD", {"fused": True}, ("momentum_buffer",)),
    "nesterov_step": ("SGD", {"fused": True, "nesterov": True}, ("momentum_buffer",)),
    "adagrad_step": ("Adagrad", {"fused": True}, ("sum",)),
    "rmsprop_step": ("RMSprop", {"foreach": True}, ("square_avg",)),
    "adam_step": ("Adam", {"fused": True}, ("exp_avg", "exp_avg_sq")),
    "adamw_step": ("AdamW", {"fused": True}, ("exp_avg", "exp_avg_sq")),
}


def optimiser(case: Any, args: list[Any], params: dict[str, Any]) -> Built:
    """`opt.step()` of torch.optim, from the state that the case gives, for one array or a dict of them. It steps in place, on and on."""
    import torch

    cls, options, named = OPTIMISERS[case.op]
    hyper = {k: v for k, v in params.items() if k in ("lr", "eps", "alpha", "momentum", "weight_decay")}
    if "beta1" in params:
        hyper["betas"] = (params["beta1"], params["beta2"])
    arrays = [each if isinstance(each, dict) else {"": each} for each in args]
    p, g, *state = [dict(zip(each, tensors([a.copy() for a in each.values()]), strict=True)) for each in arrays]
    opt = getattr(torch.optim, cls)([a.requires_grad_() for a in p.values()], **options, **hyper)
    for k, a in p.items():
        a.grad = g[k]
        opt.state[a] = {name: moments[k] for name, moments in zip(named, state, strict=True)}
        if cls != "SGD":
            opt.state[a]["step"] = torch.tensor(float(params.get("t", 1) - 1))

    def step() -> Any:
        opt.step()
        return after

    moved = [p, *state]
    after = tuple(moved) if isinstance(args[0], dict) else tuple(each[""] for each in moved)
    return step, []
