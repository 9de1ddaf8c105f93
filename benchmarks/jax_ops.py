"""JAX's functions of floating-point arrays, and what they take."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax, nn
from jax.scipy import linalg as sla
from jax.scipy import special as jsp
from scipy import special

from benchmarks import jax_references
from benchmarks import op_table as same
from benchmarks.op_table import BINARY, POSITIVE, UNARY, Table, one_axis, some_axes
from engine.testing.signature import Integers, below_axis

table = Table(jax_references.REFERENCES)

# Elementwise

NAMES = {
    "acos": jnp.arccos,
    "acosh": jnp.arccosh,
    "asin": jnp.arcsin,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "atanh": jnp.arctanh,
    "rsqrt": lax.rsqrt,
    "sigmoid": nn.sigmoid,
    "lgamma": jsp.gammaln,
}

for name, (reference, domain) in UNARY.items():
    f = NAMES.get(name) or getattr(jsp, name, None) or getattr(jnp, name, None)
    if f is not None:
        table.add(
            "elementwise",
            "...",
            {
                name: (f, reference),
            },
            domain=domain,
        )

table.add("elementwise", "..., ...", {name: (getattr(jnp, name), reference) for name, reference in BINARY.items()})
table.add(
    "elementwise",
    "...",
    {
        "clip": (lambda x: jnp.clip(x, -1, 1), lambda x: np.clip(x, -1, 1)),
        "integer_pow_2": (lambda x: lax.integer_pow(x, 2), lambda x: x * x),
        "integer_pow_3": (lambda x: lax.integer_pow(x, 3), lambda x: x**3),
        "integer_pow_-1": (lambda x: lax.integer_pow(x, -1), lambda x: 1 / x),
        "integer_pow_0": (lambda x: lax.integer_pow(x, 0), lambda x: x * 0 + 1),
        "pow_of_int_array": lambda x: x ** jnp.arange(3).reshape(3, *[1] * x.ndim),
        "polygamma_2": lambda x: jsp.polygamma(2, x),
        "multigammaln": lambda x: jsp.multigammaln(x + 2, 2),
        "modf": jnp.modf,
        "frexp_mantissa": lambda x: jnp.frexp(x)[0],
        "log1mexp": lambda x: nn.log1mexp(jnp.abs(x)),
    },
)
table.add("elementwise", "...", {"ndtri": jsp.ndtri}, domain=(1e-9, 1 - 1e-9))
table.add("elementwise", "...", {"spence": jsp.spence, "exp1": jsp.exp1}, domain=(1e-3, 30.0))
table.add("elementwise", "...", {"expi": jsp.expi, "fresnel": jsp.fresnel, "dawsn": jsp.dawsn, "sici": jsp.sici}, domain=(-10.0, 10.0))
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
        "power": (jnp.power, np.power),
        "float_power": (jnp.float_power, np.power),
        "xlogy": (jsp.xlogy, special.xlogy),
    },
    domain={
        0: POSITIVE,
    },
)
table.add(
    "elementwise",
    "..., ...",
    {
        "xlog1py": (jsp.xlog1py, special.xlog1py),
    },
    domain={
        1: (-1.0, None),
    },
)
table.add(
    "elementwise",
    "..., ...",
    {
        "where": (lambda a, b: jnp.where(a > b, a, b * 2), lambda a, b: np.where(a > b, a, b * 2)),
        "lax_rem": (lambda a, b: lax.rem(*jnp.broadcast_arrays(a, b)), np.fmod),
        "lax_max": (lambda a, b: lax.max(*jnp.broadcast_arrays(a, b)), np.maximum),
        "divmod_remainder": lambda a, b: jnp.divmod(a, b)[1],
        "heaviside": jnp.heaviside,
        "select": lambda a, b: lax.select(a > b, a, b) if a.shape == b.shape else a + b,
        "sparse_plus_of_sum": lambda a, b: nn.sparse_plus(a + b),
    },
)
table.add(
    "elementwise",
    "..., ...",
    {
        "betaln": jsp.betaln,
        "beta": (jsp.beta, special.beta),
        "rel_entr": (jsp.rel_entr, special.rel_entr),
        "kl_div": (jsp.kl_div, lambda a, b: special.xlogy(a, a / b) - a + b),
        "gammaincc": jsp.gammaincc,
        "gammainc": jsp.gammainc,
        "zeta": lambda a, b: jsp.zeta(a + 1, b),
    },
    domain=POSITIVE,
)
table.add(
    "elementwise",
    "..., ..., ...",
    {
        "clip_of_arrays": (jnp.clip, lambda x, a, b: np.minimum(np.maximum(x, a), b)),
        "lax_clamp": (lambda a, x, b: lax.clamp(*jnp.broadcast_arrays(a, x, b)), lambda a, x, b: np.minimum(np.maximum(x, a), b)),
    },
)
table.add(
    "elementwise",
    "..., ...",
    {
        "ldexp": (jnp.ldexp, np.ldexp),
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
        "relu": (nn.relu, lambda x: np.maximum(x, 0)),
        "relu6": (nn.relu6, lambda x: np.clip(x, 0, 6)),
        "elu": (nn.elu, same.elu),
        "selu": (nn.selu, same.selu),
        "celu": (lambda x: nn.celu(x, 1.5), lambda x: np.where(x > 0, x, 1.5 * np.expm1(np.minimum(x, 0) / 1.5))),
        "gelu": (lambda x: nn.gelu(x, approximate=False), same.gelu),
        "gelu_tanh": (lambda x: nn.gelu(x), same.gelu_tanh),
        "silu": (nn.silu, lambda x: x * special.expit(x)),
        "mish": (nn.mish, lambda x: x * np.tanh(same.softplus(x))),
        "softplus": (nn.softplus, same.softplus),
        "soft_sign": (nn.soft_sign, lambda x: x / (1 + np.abs(x))),
        "hard_tanh": (nn.hard_tanh, lambda x: np.clip(x, -1, 1)),
        "hard_sigmoid": (nn.hard_sigmoid, lambda x: np.clip(x + 3, 0, 6) / 6),
        "hard_swish": (nn.hard_swish, lambda x: x * np.clip(x + 3, 0, 6) / 6),
        "leaky_relu": (nn.leaky_relu, lambda x: np.where(x >= 0, x, 0.01 * x)),
        "log_sigmoid": (nn.log_sigmoid, lambda x: -same.softplus(-x)),
        "squareplus": (nn.squareplus, lambda x: (x + np.sqrt(x * x + 4)) / 2),
        "sparse_sigmoid": (nn.sparse_sigmoid, lambda x: (np.clip(x, -1, 1) + 1) / 2),
        "sparse_plus": nn.sparse_plus,
    },
)
table.add(
    "activation",
    "... n",
    {
        "softmax": (nn.softmax, same.softmax),
        "log_softmax": (nn.log_softmax, same.log_softmax),
        "standardize": nn.standardize,
    },
    kwargs={
        "axis": one_axis,
    },
)
table.add(
    "activation",
    "m 2 n",
    {
        "glu": lambda x: nn.glu(x, 1),
    },
)

# Reductions

table.add(
    "reduction",
    "... n",
    {
        "cumsum": (jnp.cumsum, np.cumsum),
        "cumprod": (jnp.cumprod, np.cumprod),
        "cummax": lambda x, axis: lax.cummax(x, axis % x.ndim),
        "cummin": lambda x, axis: lax.cummin(x, axis % x.ndim),
        "cumlogsumexp": lambda x, axis: lax.cumlogsumexp(x, axis % x.ndim),
        "cumprod_reverse": lambda x, axis: lax.cumprod(x, axis % x.ndim, reverse=True),
        "sort": lambda x, axis: jnp.sort(x, axis),
        "diff": lambda x, axis: jnp.diff(x, axis=axis),
        "median": lambda x, axis: jnp.median(x, axis),
        "quantile": lambda x, axis: jnp.quantile(x, 0.3, axis),
        "percentile": lambda x, axis: jnp.percentile(x, 75.0, axis),
        "trapezoid": lambda x, axis: jnp.trapezoid(x, axis=axis),
        "nanmedian": lambda x, axis: jnp.nanmedian(x, axis),
        "gradient": lambda x, axis: jnp.gradient(x, axis=axis) if x.shape[axis] > 1 else x,
        "associative_scan": lambda x, axis: lax.associative_scan(jnp.multiply, x, axis=axis % x.ndim),
    },
    kwargs={
        "axis": one_axis,
    },
)
table.add(
    "reduction",
    "... n",
    {
        "sum": (jnp.sum, np.sum),
        "mean": (jnp.mean, np.mean),
        "prod": (jnp.prod, np.prod),
        "max": jnp.max,
        "min": jnp.min,
        "var": jnp.var,
        "std": jnp.std,
        "ptp": jnp.ptp,
        "logsumexp": (jsp.logsumexp, same.logsumexp),
        "logmeanexp": nn.logmeanexp,
        "nansum": jnp.nansum,
        "nanmean": jnp.nanmean,
        "nanvar": jnp.nanvar,
        "nanprod": jnp.nanprod,
        "nanmax": jnp.nanmax,
        "norm_1": lambda x, axis: jnp.linalg.vector_norm(x, ord=1, axis=axis),
        "norm_2": lambda x, axis: jnp.linalg.vector_norm(x, axis=axis),
        "norm_3": lambda x, axis: jnp.linalg.vector_norm(x, ord=3, axis=axis),
        "norm_inf": lambda x, axis: jnp.linalg.vector_norm(x, ord=jnp.inf, axis=axis),
        "average": jnp.average,
        "flip": jnp.flip,
    },
    kwargs={
        "axis": some_axes,
    },
)
table.add(
    "reduction",
    "... n, ... n",
    {
        "weighted_average": lambda x, w: jnp.average(x + 0 * w, weights=w + 0 * x, axis=-1),
    },
)
table.add(
    "reduction",
    "...",
    {
        "sum_all": (jnp.sum, np.sum),
        "prod_all": (jnp.prod, np.prod),
        "max_all": jnp.max,
        "logsumexp_all": lambda x: jsp.logsumexp(x),
    },
)
table.add(
    "reduction",
    "m n",
    {
        "top_k": lambda x: lax.top_k(x, 1)[0],
        "reduce_window_sum": lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1), (1, 2), "SAME"),
        "reduce_window_max": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (1, 1), "VALID"),
        "reduce_window_dilated": lambda x: lax.reduce_window(
            x, 0.0, lax.add, (2, 2), (1, 1), "VALID", base_dilation=(2, 1), window_dilation=(1, 2)
        ),
        "reduce_precision": lambda x: lax.reduce_precision(x, 8, 23),
        "sort_key_val": lambda x: lax.sort_key_val(x, x * 2)[1],
    },
)

# Indexing and layout

MODES = {"mode": st.sampled_from(["fill", "clip", "wrap"])}
table.add(
    "indexing",
    "m n, k",
    {
        "getitem": lambda x, i: x[i],
        "take": lambda x, i: jnp.take(x, i, 0),
        "at_get_fill": lambda x, i: x.at[i].get(mode="fill", fill_value=0),
        "dynamic_slice": lambda x, i: lax.dynamic_slice(x, (i[0] if i.size else 0, 0), (min(1, x.shape[0]), x.shape[1])),
        "segment_sum": lambda x, i: jax.ops.segment_sum(x[: i.size], i[: x.shape[0]], 3),
        "segment_max": lambda x, i: jax.ops.segment_max(x[: i.size], i[: x.shape[0]], x.shape[0]),
    },
    domain={
        "i": below_axis("x"),
    },
)
table.add(
    "indexing",
    "m n, k",
    {
        "take_modes": lambda x, i, mode: jnp.take(x, i, 0, mode=mode),
    },
    domain={
        "i": Integers(-5, 6),
    },
    kwargs=MODES,
)
table.add(
    "indexing",
    "m n, k n",
    {
        "take_along_axis": lambda x, i: jnp.take_along_axis(x, i, 0),
    },
    domain={
        "i": below_axis("x"),
    },
)
table.add(
    "indexing",
    "m n, k, k n",
    {
        "at_add": lambda x, i, v: x.at[i].add(v),
        "at_set": lambda x, i, v: x.at[i].set(v),
        "at_max": lambda x, i, v: x.at[i].max(v),
        "at_min": lambda x, i, v: x.at[i].min(v),
        "at_divide": lambda x, i, v: x.at[i].divide(v),
        "at_power": lambda x, i, v: jnp.abs(x).at[i].power(v),
    },
    domain={
        "i": below_axis("x"),
    },
)
table.add(
    "indexing",
    "m n, k, k n",
    {
        "at_max_clip": lambda x, i, v: x.at[i].max(v, mode="clip"),
        "at_add_drop": lambda x, i, v: x.at[i].add(v, mode="drop"),
        "at_set_clip": lambda x, i, v: x.at[i].set(v, mode="clip"),
    },
    domain={
        "i": Integers(-5, 6),
    },
)
table.add(
    "layout",
    "m n",
    {
        "slice": lambda x: x[::2, 1:],
        "slice_reversed": lambda x: x[::-2],
        "transpose": lambda x: x.T,
        "diagonal": lambda x: jnp.diagonal(x, 1),
        "tril": jnp.tril,
        "triu": jnp.triu,
        "roll": lambda x: jnp.roll(x, (1, -2), (0, 1)),
        "repeat": lambda x: jnp.repeat(x, 2, 1),
        "tile": lambda x: jnp.tile(x, (2, 2)),
        "broadcast_to": lambda x: jnp.broadcast_to(x, (3, *x.shape)),
        "rot90": jnp.rot90,
        "stack": lambda x: jnp.stack([x, x * 2, x], 1),
        "concatenate": lambda x: jnp.concatenate([x, x], 1),
        "array_split": lambda x: jnp.array_split(x, 2, 1),
        "trace": jnp.trace,
        "pad_negative": lambda x: lax.pad(x, 0.0, ((1, 2, 1), (0, 1, 0))),
        "pad_edge": lambda x: jnp.pad(x, 2, mode="edge") if x.size else x,
        "pad_wrap": lambda x: jnp.pad(x, 1, mode="wrap") if x.size else x,
        "pad_reflect": lambda x: jnp.pad(x, 1, mode="reflect") if x.size else x,
        "pad_mean": lambda x: jnp.pad(x, 1, mode="mean") if x.size else x,
        "kron": lambda x: jnp.kron(x, x),
        "vander": lambda x: jnp.vander(x.ravel(), 3),
        "lax_rev": lambda x: lax.rev(x, (1,)),
        "moveaxis": lambda x: jnp.moveaxis(x, 0, 1),
        "masked": lambda x: jnp.where(jnp.arange(x.size).reshape(x.shape) % 2 == 0, x, 0.0),
    },
)
table.add(
    "layout",
    "n, k",
    {
        "convolve": lambda a, b: jnp.convolve(a, b, "full"),
        "correlate": lambda a, b: jnp.correlate(a, b, "same"),
        "interp": lambda a, b: jnp.interp(a, jnp.arange(b.size) * 1.0, b) if b.size else a,
    },
)

# Linear algebra

table.add(
    "linalg",
    "m k, k n",
    {
        "matmul": (jnp.matmul, np.matmul),
    },
)
table.add(
    "linalg",
    "l m k, l k n",
    {
        "matmul_batched": (jnp.matmul, np.matmul),
    },
)
table.add(
    "linalg",
    "m k, k",
    {
        "matvec": (jnp.matmul, np.matmul),
    },
)
table.add(
    "linalg",
    "n, n",
    {
        "dot": (jnp.dot, np.dot),
        "vdot": (jnp.vdot, np.dot),
        "inner": (jnp.inner, np.dot),
        "vecdot": (jnp.linalg.vecdot, np.dot),
    },
)
table.add(
    "linalg",
    "m, n",
    {
        "outer": (jnp.outer, np.outer),
    },
)
table.add(
    "linalg",
    "m k, n k",
    {
        "einsum": (lambda a, b: jnp.einsum("ik,jk->ij", a, b), lambda a, b: a @ b.T),
    },
)
table.add(
    "linalg",
    "l m k, l k n",
    {
        "tensordot": (lambda a, b: jnp.tensordot(a, b, ([0, 2], [0, 1])), lambda a, b: np.tensordot(a, b, ([0, 2], [0, 1]))),
    },
)
table.add(
    "linalg",
    "m k, k l, l n",
    {
        "multi_dot": (lambda a, b, c: jnp.linalg.multi_dot([a, b, c]), lambda a, b, c: a @ b @ c),
    },
)
table.add(
    "linalg",
    "m 3, m 3",
    {
        "cross": (jnp.cross, np.cross),
    },
)
table.add(
    "linalg",
    "n n",
    {
        "inv": (jnp.linalg.inv, np.linalg.inv),
        "det": (jnp.linalg.det, np.linalg.det),
        "slogdet": lambda x: jnp.linalg.slogdet(x)[1],
        "expm": sla.expm,
        "matrix_power": (lambda x: jnp.linalg.matrix_power(x, 3), lambda x: x @ x @ x),
        "eigvalsh": lambda x: jnp.linalg.eigvalsh(x + x.T),
        "cholesky": (lambda x: jnp.linalg.cholesky(x @ x.T + jnp.eye(len(x))), lambda x: np.linalg.cholesky(x @ x.T + np.eye(len(x)))),
        "sqrtm_of_square": lambda x: jnp.real(sla.sqrtm(x @ x.T + jnp.eye(len(x)))),
        "lu_factor": lambda x: sla.lu_factor(x)[0],
        "polar": lambda x: sla.polar(x + 4 * jnp.eye(len(x)), method="svd")[0],
        "eigh_vectors_invariant": lambda x: (lambda v: v[1] @ jnp.diag(jnp.tanh(v[0])) @ v[1].T)(jnp.linalg.eigh(x + x.T)),
        "cond": jnp.linalg.cond,
    },
)
table.add(
    "linalg",
    "n n, n k",
    {
        "solve": (jnp.linalg.solve, np.linalg.solve),
        "solve_triangular": lambda a, b: sla.solve_triangular(a, b),
        "cho_solve": lambda a, b: sla.cho_solve((a, True), b),
        "lu_solve": lambda a, b: sla.lu_solve(sla.lu_factor(a), b),
    },
)
table.add(
    "linalg",
    "m n",
    {
        "svdvals": jnp.linalg.svdvals,
        "qr": lambda x: tuple(jnp.linalg.qr(jnp.concatenate([x, jnp.eye(x.shape[1])]))),
        "pinv": jnp.linalg.pinv,
        "norm_nuc": lambda x: jnp.linalg.norm(x, "nuc"),
        "norm_fro": jnp.linalg.norm,
        "norm_spectral": lambda x: jnp.linalg.norm(x, 2),
        "norm_max_row": lambda x: jnp.linalg.norm(x, jnp.inf),
        "cov": jnp.cov,
        "corrcoef": jnp.corrcoef,
    },
)
table.add(
    "linalg",
    "m n, m",
    {
        "lstsq": lambda a, b: jnp.linalg.lstsq(a, b)[0],
    },
)

# Networks

CONV = {"stride": st.integers(1, 2), "padding": st.sampled_from(["SAME", "VALID"]), "dilation": st.integers(1, 2)}


def conv(rank: int, **fixed: Any) -> Any:
    """A convolution over `rank` axes, with equal options along each."""

    def of(x: Any, w: Any, stride: int = 1, padding: str = "VALID", dilation: int = 1) -> Any:
        return lax.conv_general_dilated(x, w, (stride,) * rank, padding, rhs_dilation=(dilation,) * rank, **fixed)

    return of


table.add(
    "network",
    "b c 5, o c 2",
    {
        "conv1d": conv(1),
    },
    kwargs=CONV,
)
table.add(
    "network",
    "b c 3 4, o c 2 2",
    {
        "conv2d": conv(2),
    },
    kwargs=CONV,
)
table.add(
    "network",
    "b 2 3 3, 4 1 2 2",
    {
        "conv2d_groups": conv(2, feature_group_count=2),
    },
    kwargs=CONV,
)
table.add(
    "network",
    "2 2 3 3, 2 2 2 2",
    {
        "conv2d_batch_groups": conv(2, batch_group_count=2),
    },
    kwargs=CONV,
)
table.add(
    "network",
    "b 4 c, 2 c o",
    {
        "conv_transpose": lambda x, w: lax.conv_transpose(x, w, (2,), "SAME"),
    },
)
table.add(
    "network",
    "b c 4 4",
    {
        "max_pool": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"),
        "avg_pool": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 1, 3, 3), (1, 1, 1, 1), "SAME") / 9,
        "resize_linear": lambda x: jax.image.resize(x, (*x.shape[:2], 3, 6), "linear"),
        "resize_nearest": lambda x: jax.image.resize(x, (*x.shape[:2], 3, 6), "nearest"),
        "resize_cubic": lambda x: jax.image.resize(x, (*x.shape[:2], 6, 6), "cubic"),
        "patches": lambda x: lax.conv_general_dilated_patches(x, (2, 2), (1, 1), "VALID"),
    },
)
table.add(
    "network",
    "4 3, 2 k",
    {
        "map_coordinates": lambda x, c: jax.scipy.ndimage.map_coordinates(x, list(c), 1, mode="nearest"),
    },
)
table.add(
    "network",
    "b m h k, b n h k, b n h k",
    {
        "dot_product_attention": nn.dot_product_attention,
        "dot_product_attention_causal": partial(nn.dot_product_attention, is_causal=True),
    },
)
table.add(
    "network",
    "b n, n, n",
    {
        "layer_norm_of_standardize": lambda x, w, b: nn.standardize(x) * w + b,
    },
)
table.add(
    "network",
    "b c, b",
    {
        "cross_entropy": lambda x, t: -jnp.take_along_axis(nn.log_softmax(x), t[:, None], 1),
        "embedding_of_one_hot": lambda x, t: nn.one_hot(t, x.shape[1]) @ x.T,
    },
    domain={
        "t": below_axis("x", 1),
    },
)
table.add(
    "network",
    "n",
    {
        "scan": lambda x: lax.scan(lambda c, v: (jnp.tanh(c + v), c * v), 0.5, x),
        "fori_loop": lambda x: lax.fori_loop(0, 3, lambda i, v: jnp.sin(v) * 2, x),
        "map": lambda x: lax.map(jnp.tanh, x),
        "lax_cond": lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
        "custom_root": lambda x: lax.custom_root(
            lambda y: y**3 + y - x,
            jnp.zeros_like(x),
            lambda f, y: lax.fori_loop(0, 30, lambda i, v: v - f(v) / (3 * v * v + 1), y),
            lambda g, y: y / g(jnp.ones_like(y)),
        ),
        "switch": lambda x: lax.switch(1, [jnp.sin, jnp.exp, jnp.cos], x),
        "checkpoint": jax.checkpoint(lambda x: jnp.tanh(x) * x),
    },
)
table.add(
    "fourier",
    "n",
    {
        "rfft": (jnp.fft.rfft, np.fft.rfft),
        "irfft": (lambda x: jnp.fft.irfft(x + 2j * x), lambda x: np.fft.irfft(x + 2j * x)),
        "fft_abs2": (lambda x: jnp.abs(jnp.fft.fft(x)) ** 2, lambda x: np.abs(np.fft.fft(x)) ** 2),
    },
)
