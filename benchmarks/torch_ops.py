"""PyTorch's functions of floating-point arrays, and what they take."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from hypothesis import strategies as st
from scipy import special
from torch.nn import functional as F

from benchmarks import op_table as same
from benchmarks import reference_matrices, reference_networks, references
from benchmarks.op_table import BINARY, POSITIVE, UNARY, Table, one_axis, some_axes
from engine.testing.signature import Integers, below_axis

table = Table({**references.REFERENCES, **reference_matrices.REFERENCES, **reference_networks.REFERENCES,
               "median": references.lower_median})  # fmt: skip

# Elementwise

NAMES = {
    "cbrt": None,
    "ndtr": torch.special.ndtr,
    "log_ndtr": torch.special.log_ndtr,
    "erfcx": torch.special.erfcx,
    "entr": torch.special.entr,
    "i0e": torch.special.i0e,
    "i1": torch.special.i1,
    "i1e": torch.special.i1e,
}

for name, (reference, domain) in UNARY.items():
    f = NAMES.get(name, getattr(torch, name, None))
    if f is not None:
        table.add(
            "elementwise",
            "...",
            {
                name: (f, reference),
            },
            domain=domain,
        )

table.add("elementwise", "..., ...", {name: (getattr(torch, name), reference) for name, reference in BINARY.items()})
table.add(
    "elementwise",
    "...",
    {
        "frac": torch.frac,
        "positive": torch.positive,
        "sgn": (torch.sgn, np.sign),
        "clamp": (lambda x: torch.clamp(x, -1, 1), lambda x: np.clip(x, -1, 1)),
        "pow_2": (lambda x: torch.pow(x, 2), lambda x: x * x),
        "pow_3": (lambda x: x**3, lambda x: x**3),
        "pow_-1": (lambda x: x**-1, lambda x: 1 / x),
        "pow_0": (lambda x: x**0, lambda x: x * 0 + 1),
        "exp_of_base_2": (lambda x: torch.pow(2.0, x), lambda x: np.power(2.0, x)),
        "polygamma_2": lambda x: torch.polygamma(2, x),
        "mvlgamma": lambda x: torch.mvlgamma(x + 2, 2),
        "exp_": (lambda x: x.clone().exp_(), np.exp),
    },
)
table.add("elementwise", "...", {"ndtri": torch.special.ndtri}, domain=(1e-9, 1 - 1e-9))
table.add(
    "elementwise",
    "...",
    {
        "pow_0.5": (lambda x: x**0.5, np.sqrt),
        "pow_-1.5": (lambda x: x**-1.5, lambda x: x**-1.5),
    },
    domain=POSITIVE,
)
table.add(
    "elementwise",
    "..., ...",
    {
        "pow": (torch.pow, np.power),
        "float_power": (torch.float_power, np.power),
        "xlogy": (torch.xlogy, special.xlogy),
    },
    domain={
        0: POSITIVE,
    },
)
table.add(
    "elementwise",
    "..., ...",
    {
        "xlog1py": (torch.special.xlog1py, special.xlog1py),
    },
    domain={
        1: (-1.0, None),
    },
)
table.add(
    "elementwise",
    "..., ...",
    {
        "rsub": (torch.rsub, lambda a, b: b - a),
        "abs_difference": (lambda a, b: (a - b).abs(), lambda a, b: np.abs(a - b)),
        "where": (lambda a, b: torch.where(a > b, a, b * 2), lambda a, b: np.where(a > b, a, b * 2)),
        "masked_fill": (lambda a, b: torch.masked_fill(a + 0 * b, b > 0, 2.0), lambda a, b: np.where(b > 0, 2.0, a + 0 * b)),
    },
)
table.add(
    "elementwise",
    "..., ..., ...",
    {
        "lerp": (torch.lerp, lambda a, b, w: a + w * (b - a)),
        "addcmul": (torch.addcmul, lambda a, b, c: a + b * c),
        "addcdiv": (torch.addcdiv, lambda a, b, c: a + b / c),
        "clamp_of_tensors": (torch.clamp, lambda x, a, b: np.minimum(np.maximum(x, a), b)),
    },
)
table.add(
    "elementwise",
    "m n, n, m n",
    {
        "clamp_of_alike": (torch.clamp, lambda x, a, b: np.minimum(np.maximum(x, a), b)),
    },
)
table.add(
    "elementwise",
    "..., ...",
    {
        "ldexp": (torch.ldexp, np.ldexp),
    },
    domain={
        1: Integers(-4, 5),
    },
)

# Activations

table.add(
    "activation",
    "...",
    {
        "relu": (torch.relu, lambda x: np.maximum(x, 0)),
        "relu6": (F.relu6, lambda x: np.clip(x, 0, 6)),
        "elu": (F.elu, same.elu),
        "selu": (F.selu, same.selu),
        "celu": (partial(F.celu, alpha=1.5), lambda x: np.where(x > 0, x, 1.5 * np.expm1(np.minimum(x, 0) / 1.5))),
        "gelu": (F.gelu, same.gelu),
        "gelu_tanh": (partial(F.gelu, approximate="tanh"), same.gelu_tanh),
        "silu": (F.silu, lambda x: x * special.expit(x)),
        "mish": (F.mish, lambda x: x * np.tanh(same.softplus(x))),
        "softplus": (F.softplus, same.softplus),
        "softplus_beta": partial(F.softplus, beta=3.0, threshold=10.0),
        "softsign": (F.softsign, lambda x: x / (1 + np.abs(x))),
        "hardtanh": (F.hardtanh, lambda x: np.clip(x, -1, 1)),
        "hardsigmoid": (F.hardsigmoid, lambda x: np.clip(x + 3, 0, 6) / 6),
        "hardswish": (F.hardswish, lambda x: x * np.clip(x + 3, 0, 6) / 6),
        "hardshrink": (F.hardshrink, lambda x: np.where(np.abs(x) > 0.5, x, 0.0)),
        "softshrink": F.softshrink,
        "tanhshrink": (F.tanhshrink, lambda x: x - np.tanh(x)),
        "threshold": (lambda x: F.threshold(x, 1.0, 5.0), lambda x: np.where(x > 1, x, 5.0)),
        "leaky_relu": (F.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x)),
        "logsigmoid": (F.logsigmoid, lambda x: -same.softplus(-x)),
        "rrelu": F.rrelu,
    },
)
table.add(
    "activation",
    "... n",
    {
        "softmax": (lambda x, axis: torch.softmax(x, axis), same.softmax),
        "log_softmax": (lambda x, axis: torch.log_softmax(x, axis), same.log_softmax),
        "softmin": (lambda x, axis: F.softmin(x, axis), lambda x, axis: same.softmax(-x, axis)),
    },
    kwargs={
        "axis": one_axis,
    },
)
table.add(
    "activation",
    "c n, c",
    {
        "prelu": lambda x, w: F.prelu(x.T, w),
    },
)
table.add(
    "activation",
    "m 2 n",
    {
        "glu": lambda x: F.glu(x, 1),
    },
)

# Reductions

table.add(
    "reduction",
    "... n",
    {
        "sum": (lambda x, axis: torch.sum(x, axis), lambda x, axis: np.sum(x, axis)),
        "mean": (lambda x, axis: torch.mean(x, axis), lambda x, axis: np.mean(x, axis)),
        "prod": (lambda x, axis: torch.prod(x, axis), lambda x, axis: np.prod(x, axis)),
        "max": lambda x, axis: torch.max(x, axis)[0],
        "min": lambda x, axis: torch.min(x, axis)[0],
        "median": lambda x, axis: torch.median(x, axis)[0],
        "nanmedian": lambda x, axis: torch.nanmedian(x, axis)[0],
        "mode": lambda x, axis: torch.mode(x, axis)[0],
        "kthvalue": lambda x, axis: torch.kthvalue(x, 1, axis)[0],
        "cumsum": (lambda x, axis: torch.cumsum(x, axis), np.cumsum),
        "cumprod": (lambda x, axis: torch.cumprod(x, axis), np.cumprod),
        "cummax": lambda x, axis: torch.cummax(x, axis)[0],
        "cummin": lambda x, axis: torch.cummin(x, axis)[0],
        "logcumsumexp": lambda x, axis: torch.logcumsumexp(x, axis),
        "sort": lambda x, axis: torch.sort(x, dim=axis, stable=True)[0],
        "topk": lambda x, axis: torch.topk(x, 1, axis)[0],
        "quantile": lambda x, axis: torch.quantile(x, 0.3, axis),
        "aminmax": lambda x, axis: tuple(torch.aminmax(x, dim=axis)),
        "diff": lambda x, axis: torch.diff(x, dim=axis),
        "trapezoid": lambda x, axis: torch.trapezoid(x, dim=axis),
        "cumulative_trapezoid": lambda x, axis: torch.cumulative_trapezoid(x, dim=axis),
        "nansum": lambda x, axis: torch.nansum(x, axis),
    },
    kwargs={
        "axis": one_axis,
    },
)
table.add(
    "reduction",
    "... n",
    {
        "amax": lambda x, axis: torch.amax(x, axis),
        "amin": lambda x, axis: torch.amin(x, axis),
        "var": lambda x, axis: torch.var(x, axis, correction=0),
        "std": lambda x, axis: torch.std(x, axis, correction=0),
        "var_mean": lambda x, axis: torch.var_mean(x, axis, correction=0),
        "logsumexp": (lambda x, axis: torch.logsumexp(x, axis), same.logsumexp),
        "nanmean": lambda x, axis: torch.nanmean(x, axis),
        "norm_1": lambda x, axis: torch.linalg.vector_norm(x, 1, axis),
        "norm_2": lambda x, axis: torch.linalg.vector_norm(x, 2, axis),
        "norm_3": lambda x, axis: torch.linalg.vector_norm(x, 3, axis),
        "norm_0.5": lambda x, axis: torch.linalg.vector_norm(x, 0.5, axis),
        "norm_inf": lambda x, axis: torch.linalg.vector_norm(x, float("inf"), axis),
        "norm_-inf": lambda x, axis: torch.linalg.vector_norm(x, -float("inf"), axis),
        "flip": lambda x, axis: torch.flip(x, axis),
    },
    kwargs={
        "axis": some_axes,
    },
)
table.add(
    "reduction",
    "...",
    {
        "sum_all": (torch.sum, np.sum),
        "prod_all": (torch.prod, np.prod),
        "max_all": torch.max,
        "median_all": torch.median,
        "norm_all": torch.linalg.vector_norm,
        "logsumexp_flat": (lambda x: torch.logsumexp(x.flatten(), 0), lambda x: same.logsumexp(np.reshape(x, -1))),
    },
)
table.add(
    "reduction",
    "... n",
    {
        "renorm": lambda x: torch.renorm(torch.atleast_2d(x), 2, 0, 1.0),
    },
)

# Indexing and layout

table.add(
    "indexing",
    "m n, k",
    {
        "index_select": lambda x, i: torch.index_select(x, 0, i),
        "getitem": lambda x, i: x[i],
        "take": lambda x, i: torch.take(x, i),
        "embedding": lambda x, i: F.embedding(i, x),
        "embedding_bag": lambda x, i: F.embedding_bag(i[None], x, mode="mean"),
        "index_fill": lambda x, i: torch.index_fill(x, 0, i, 2.0),
    },
    domain={
        "i": below_axis("x"),
    },
)
table.add(
    "indexing",
    "m n, k n",
    {
        "gather": lambda x, i: torch.gather(x, 0, i),
        "take_along_dim": lambda x, i: torch.take_along_dim(x, i, 0),
    },
    domain={
        "i": below_axis("x"),
    },
)
table.add(
    "indexing",
    "m n, k, k n",
    {
        "index_add": lambda x, i, v: torch.index_add(x, 0, i, v),
        "index_put_accumulate": lambda x, i, v: torch.index_put(x, (i,), v, accumulate=True),
        "index_copy": lambda x, i, v: torch.index_copy(x, 0, i, v),
        "index_put": lambda x, i, v: torch.index_put(x, (i,), v),
        "index_reduce_prod": lambda x, i, v: torch.index_reduce(x, 0, i, v, "prod"),
        "index_reduce_amax": lambda x, i, v: torch.index_reduce(x, 0, i, v, "amax"),
        "index_reduce_mean": lambda x, i, v: torch.index_reduce(x, 0, i, v, "mean"),
    },
    domain={
        "i": below_axis("x"),
    },
)


table.add(
    "indexing",
    "m n, k n, k n",
    {
        "scatter": lambda x, i, v: torch.scatter(x, 0, i, v),
        "scatter_add": lambda x, i, v: torch.scatter_add(x, 0, i, v),
        "scatter_reduce_sum": lambda x, i, v: torch.scatter_reduce(x, 0, i, v, "sum"),
        "scatter_reduce_prod": lambda x, i, v: torch.scatter_reduce(x, 0, i, v, "prod"),
        "scatter_reduce_mean": lambda x, i, v: torch.scatter_reduce(x, 0, i, v, "mean"),
        "scatter_reduce_amax": lambda x, i, v: torch.scatter_reduce(x, 0, i, v, "amax"),
        "scatter_reduce_amin": lambda x, i, v: torch.scatter_reduce(x, 0, i, v, "amin"),
        "scatter_reduce_prod_alone": lambda x, i, v: torch.scatter_reduce(x, 0, i, v, "prod", include_self=False),
        "scatter_reduce_mean_alone": lambda x, i, v: torch.scatter_reduce(x, 0, i, v, "mean", include_self=False),
        "scatter_reduce_amax_alone": lambda x, i, v: torch.scatter_reduce(x, 0, i, v, "amax", include_self=False),
    },
    domain={
        "i": below_axis("x"),
    },
)
table.add(
    "layout",
    "m n",
    {
        "slice": lambda x: x[::2, 1:],
        "transpose": lambda x: x.T,
        "diagonal": lambda x: torch.diagonal(x, 1),
        "tril": torch.tril,
        "triu": torch.triu,
        "roll": lambda x: torch.roll(x, (1, -2), (0, 1)),
        "repeat": lambda x: x.repeat(2, 1, 3),
        "tile": lambda x: torch.tile(x, (2, 2)),
        "repeat_interleave": lambda x: torch.repeat_interleave(x, 2, 1),
        "expand": lambda x: x.expand(3, *x.shape),
        "rot90": torch.rot90,
        "diag_embed": torch.diag_embed,
        "stack": lambda x: torch.stack([x, x * 2, x], 1),
        "cat": lambda x: torch.cat([x, x], 1),
        "split": lambda x: torch.split(x, 2, 1),
        "unbind": lambda x: torch.unbind(torch.cat([x, x[:0]]), 0)[:1] or x.sum(),
        "movedim": lambda x: torch.movedim(x, 0, 1),
        "masked_select": lambda x: torch.masked_select(x, torch.arange(x.numel()).reshape(x.shape) % 2 == 0),
        "as_strided": lambda x: torch.as_strided(x.contiguous(), (x.shape[0],), (0,)) if x.numel() else x.sum(),
        "trace": torch.trace,
        "pad_constant": lambda x: F.pad(x, (1, -1, 0, 2)) if x.shape[1] else x.sum(),
        "flatten": torch.flatten,
        "kron": lambda x: torch.kron(x, x),
    },
)
table.add(
    "layout",
    "2 h w",
    {
        "pad_reflect": lambda x: F.pad(x, (1, 1), mode="reflect"),
        "pad_replicate": lambda x: F.pad(x, (2, 1), mode="replicate"),
        "pad_circular": lambda x: F.pad(x, (1, 1), mode="circular"),
        "unfold_dim": lambda x: x.unfold(2, 2, 1),
    },
)

# Linear algebra

table.add(
    "linalg",
    "m k, k n",
    {
        "matmul": (torch.matmul, np.matmul),
        "mm": (torch.mm, np.matmul),
    },
)
table.add(
    "linalg",
    "l m k, l k n",
    {
        "bmm": (torch.bmm, np.matmul),
    },
)
table.add(
    "linalg",
    "m k, k",
    {
        "mv": (torch.mv, np.matmul),
    },
)
table.add(
    "linalg",
    "n, n",
    {
        "dot": (torch.dot, np.dot),
        "vdot": (torch.vdot, np.dot),
        "inner": (torch.inner, np.dot),
    },
)
table.add(
    "linalg",
    "m, n",
    {
        "outer": (torch.outer, np.outer),
        "ger": (torch.ger, np.outer),
    },
)
table.add(
    "linalg",
    "m n, m k, k n",
    {
        "addmm": (torch.addmm, lambda c, a, b: c + a @ b),
    },
)
table.add(
    "linalg",
    "m n, l m k, l k n",
    {
        "addbmm": (torch.addbmm, lambda c, a, b: c + np.sum(a @ b, 0)),
    },
)
table.add(
    "linalg",
    "l m n, l m k, l k n",
    {
        "baddbmm": (torch.baddbmm, lambda c, a, b: c + a @ b),
    },
)
table.add(
    "linalg",
    "m, m k, k",
    {
        "addmv": (torch.addmv, lambda c, a, b: c + a @ b),
    },
)
table.add(
    "linalg",
    "m k, n k",
    {
        "einsum": (lambda a, b: torch.einsum("ik,jk->ij", a, b), lambda a, b: a @ b.T),
        "cdist": torch.cdist,
        "cdist_1": lambda a, b: torch.cdist(a, b, 1.0),
        "cdist_inf": lambda a, b: torch.cdist(a, b, float("inf")),
        "cdist_0.5": lambda a, b: torch.cdist(a, b, 0.5),
    },
)
table.add(
    "linalg",
    "l m k, l k n",
    {
        "tensordot": (lambda a, b: torch.tensordot(a, b, ([0, 2], [0, 1])), lambda a, b: np.tensordot(a, b, ([0, 2], [0, 1]))),
    },
)
table.add(
    "linalg",
    "m k, k l, l n",
    {
        "multi_dot": (lambda a, b, c: torch.linalg.multi_dot([a, b, c]), lambda a, b, c: a @ b @ c),
    },
)
table.add(
    "linalg",
    "m 3, m 3",
    {
        "cross": (lambda a, b: torch.linalg.cross(a, b), np.cross),
    },
)
table.add(
    "linalg",
    "n n",
    {
        "inv": (torch.linalg.inv, np.linalg.inv),
        "det": (torch.linalg.det, np.linalg.det),
        "slogdet": lambda x: torch.linalg.slogdet(x)[1],
        "logdet": lambda x: torch.logdet(x @ x.T + torch.eye(len(x), dtype=x.dtype)),
        "matrix_exp": torch.linalg.matrix_exp,
        "matrix_power": (lambda x: torch.linalg.matrix_power(x, 3), lambda x: x @ x @ x),
        "eigvalsh": lambda x: torch.linalg.eigvalsh(x + x.T),
        "cholesky": (
            lambda x: torch.linalg.cholesky(x @ x.T + torch.eye(len(x), dtype=x.dtype)),
            lambda x: np.linalg.cholesky(x @ x.T + np.eye(len(x))),
        ),
        "cholesky_inverse": lambda x: torch.cholesky_inverse(torch.tril(x, -1) + torch.eye(len(x), dtype=x.dtype) * 2),
        "householder_product": lambda x: torch.linalg.householder_product(x, x[0] if len(x) else x.sum(0)),
        "lu_factor": lambda x: torch.linalg.lu_factor(x)[0],
        "eigh_vectors_invariant": lambda x: (lambda v: v[1] @ torch.diag(torch.tanh(v[0])) @ v[1].T)(torch.linalg.eigh(x + x.T)),
    },
)
table.add(
    "linalg",
    "n n, n k",
    {
        "solve": (torch.linalg.solve, np.linalg.solve),
        "solve_triangular": lambda a, b: torch.linalg.solve_triangular(torch.triu(a), b, upper=True),
        "cholesky_solve": lambda a, b: torch.cholesky_solve(b, torch.tril(a)),
        "lu_solve": lambda a, b: torch.linalg.lu_solve(*torch.linalg.lu_factor(a), b),
        "lstsq": lambda a, b: torch.linalg.lstsq(a, b)[0],
    },
)
table.add(
    "linalg",
    "m n",
    {
        "svdvals": torch.linalg.svdvals,
        "qr": lambda x: tuple(torch.linalg.qr(torch.cat([x, torch.eye(x.shape[1], dtype=x.dtype)]))),
        "pinv": torch.linalg.pinv,
        "norm_nuc": lambda x: torch.linalg.matrix_norm(x, "nuc"),
        "norm_fro": torch.linalg.matrix_norm,
        "norm_spectral": lambda x: torch.linalg.matrix_norm(x, 2),
        "norm_max_row": lambda x: torch.linalg.matrix_norm(x, float("inf")),
        "vander": lambda x: torch.linalg.vander(x, N=3),
        "cov": torch.cov,
    },
)

# Networks

table.add(
    "network",
    "b n, m n, m",
    {
        "linear": (F.linear, lambda x, w, b: x @ w.T + b),
    },
)
table.add(
    "network",
    "b m, b n, o m n, o",
    {
        "bilinear": F.bilinear,
    },
)
CONV = {"stride": st.integers(1, 2), "padding": st.integers(0, 1), "dilation": st.integers(1, 2)}
table.add(
    "network",
    "b c 5, o c 2",
    {
        "conv1d": F.conv1d,
        "conv_transpose1d": lambda x, w, stride, padding, dilation: F.conv_transpose1d(
            x, w.transpose(0, 1), None, stride, padding, 0, 1, dilation
        ),
    },
    kwargs=CONV,
)
table.add(
    "network",
    "b c 3 4, o c 2 2",
    {
        "conv2d": F.conv2d,
        "conv_transpose2d": lambda x, w, stride, padding, dilation: F.conv_transpose2d(
            x, w.transpose(0, 1), None, stride, padding, 0, 1, dilation
        ),
    },
    kwargs=CONV,
)
table.add(
    "network",
    "b 2 3 3, 4 1 2 2",
    {
        "conv2d_groups": lambda x, w: F.conv2d(x, w, groups=2),
    },
)
table.add(
    "network",
    "b c 2 3 2, o c 1 2 2",
    {
        "conv3d": F.conv3d,
    },
)
table.add(
    "network",
    "b c 4 4",
    {
        "max_pool2d": lambda x: F.max_pool2d(x, 2),
        "max_pool2d_overlap": lambda x: F.max_pool2d(x, 3, 1, 1),
        "avg_pool2d": lambda x: F.avg_pool2d(x, 2, 1, 1),
        "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 3),
        "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 3),
        "lp_pool2d": lambda x: F.lp_pool2d(x, 2.0, 2),
        "unfold": lambda x: F.unfold(x, 2),
        "interpolate_nearest": lambda x: F.interpolate(x, (3, 6)),
        "interpolate_bilinear": lambda x: F.interpolate(x, (3, 6), mode="bilinear"),
        "interpolate_bicubic": lambda x: F.interpolate(x, (3, 5), mode="bicubic"),
        "interpolate_area": lambda x: F.interpolate(x, (3, 3), mode="area"),
        "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
        "local_response_norm": lambda x: F.local_response_norm(x, 3),
        "instance_norm": F.instance_norm,
        "normalize": F.normalize,
    },
)
table.add(
    "network",
    "b c 6",
    {
        "max_pool1d": lambda x: F.max_pool1d(x, 3, 2),
        "avg_pool1d": lambda x: F.avg_pool1d(x, 2),
    },
)
table.add(
    "network",
    "b 4 h w",
    {
        "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
        "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    },
)
table.add(
    "network",
    "b 4 4",
    {
        "fold": lambda x: F.fold(x, (3, 3), 2),
    },
)
table.add(
    "network",
    "b c 3 3, b 2 2 2",
    {
        "grid_sample": lambda x, g: F.grid_sample(x, g, align_corners=False),
        "grid_sample_border": lambda x, g: F.grid_sample(x, g, padding_mode="border", align_corners=True),
        "grid_sample_reflection": lambda x, g: F.grid_sample(x, g, padding_mode="reflection", align_corners=False),
    },
)
table.add(
    "network",
    "b 3, 3, 3",
    {
        "layer_norm": lambda x, w, b: F.layer_norm(x, x.shape[1:], w, b),
    },
)
table.add(
    "network",
    "b n, n, n",
    {
        "batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    },
)
table.add(
    "network",
    "b n, n",
    {
        "rms_norm": lambda x, w: F.rms_norm(x, x.shape[1:], w),
    },
)
table.add(
    "network",
    "b 4 n, 4, 4",
    {
        "group_norm": lambda x, w, b: F.group_norm(x, 2, w, b),
    },
)
table.add(
    "network",
    "b m k, b n k, b n l",
    {
        "attention": F.scaled_dot_product_attention,
        "attention_causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    },
)
table.add(
    "network",
    "b n, b n",
    {
        "cosine_similarity": F.cosine_similarity,
        "pairwise_distance": F.pairwise_distance,
        "mse_loss": (F.mse_loss, lambda a, b: np.mean((a - b) ** 2)),
        "l1_loss": (F.l1_loss, lambda a, b: np.mean(np.abs(a - b))),
        "smooth_l1_loss": F.smooth_l1_loss,
        "huber_loss": F.huber_loss,
        "soft_margin_loss": lambda a, b: F.soft_margin_loss(a, torch.sign(b.detach())),
        "hinge_embedding_loss": lambda a, b: F.hinge_embedding_loss(a, torch.sign(b.detach())),
        "kl_div": lambda a, b: F.kl_div(a, b, reduction="batchmean", log_target=True),
        "poisson_nll_loss": lambda a, b: F.poisson_nll_loss(a, b),
        "binary_cross_entropy_with_logits": lambda a, b: F.binary_cross_entropy_with_logits(a, b, reduction="none"),
        "multilabel_soft_margin_loss": F.multilabel_soft_margin_loss,
        "cross_entropy_soft": lambda a, b: F.cross_entropy(a, b, reduction="none"),
    },
)
table.add(
    "network",
    "..., ...",
    {
        "binary_cross_entropy": lambda a, b: F.binary_cross_entropy(*torch.broadcast_tensors(a, b), reduction="none"),
    },
    domain=(0.0, 1.0),
)
table.add(
    "network",
    "b n, b n, b n",
    {
        "triplet_margin_loss": F.triplet_margin_loss,
        "gaussian_nll_loss": lambda a, b, v: F.gaussian_nll_loss(a, b, v * v + 0.5),
    },
)
table.add(
    "network",
    "n, n",
    {
        "margin_ranking_loss": lambda a, b: F.margin_ranking_loss(a, b, torch.ones_like(a)),
    },
)
table.add(
    "network",
    "b c, b",
    {
        "cross_entropy": lambda x, t: F.cross_entropy(x, t, reduction="none"),
        "cross_entropy_smoothed": lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
        "nll_loss": lambda x, t: F.nll_loss(x, t),
        "multi_margin_loss": lambda x, t: F.multi_margin_loss(x, t),
    },
    domain={
        "t": below_axis("x", 1),
    },
)
table.add(
    "network",
    ["n d", "0 d"],
    {
        "pdist": F.pdist,
        "affine_grid": lambda x: (
            F.affine_grid(torch.nn.functional.pad(x, (0, 3))[None, :1, :3].expand(1, 2, 3), [1, 1, 2, 2], align_corners=False)
            if len(x)
            else x.sum()
        ),
    },
)
table.add(
    "network",
    "4 2 3",
    {
        "ctc_loss": lambda x: F.ctc_loss(
            torch.log_softmax(x, 2), torch.tensor([[1, 2], [2, 2]]), torch.tensor([4, 4]), torch.tensor([2, 1]), reduction="none"
        ),
    },
)
table.add(
    "network",
    "5 n",
    {
        "gru_cell": lambda x: torch.gru_cell(
            x[:2], x[2:4], x[:1].T.repeat(3, 1) @ x[:1].expand(1, -1), torch.ones(3 * x.shape[1], x.shape[1], dtype=x.dtype)
        ),
    },
)
table.add(
    "fourier",
    "n",
    {
        "rfft": (torch.fft.rfft, np.fft.rfft),
        "rfft_as_real": (
            lambda x: torch.view_as_real(torch.fft.rfft(x)),
            lambda x: np.fft.rfft(x).view(float).reshape(-1, 2),
        ),
        "fft_abs2": (lambda x: torch.fft.fft(x).abs() ** 2, lambda x: np.abs(np.fft.fft(x)) ** 2),
        "irfft": (lambda x: torch.fft.irfft(x + 2j * x), lambda x: np.fft.irfft(x + 2j * x)),
        "hfft": (lambda x: torch.fft.hfft(x + 1j * x), lambda x: np.fft.hfft(x + 1j * x)),
    },
)
