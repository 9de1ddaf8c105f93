"""One line of plain numpy for each function and each way of calling it, with the arguments to call it on."""

import numpy as np
from scipy import special

# An argument is a function of a Generator. Their elements are apart from one another, from 0 and from whole numbers, for
# the functions with kinks.


def real(*shape, low=-2.0, high=2.0):
    def draw(rng):
        n = int(np.prod(shape))
        steps = (rng.permutation(n) + 0.3 + 0.4 * rng.random(n)) / max(n, 1)
        x = low + (high - low) * steps
        near = np.abs(x - np.round(x)) < 0.02
        return np.asarray(np.where(near, x + 0.03, x).reshape(shape))

    return draw


def positive(*shape):
    return real(*shape, low=0.3, high=3.0)


def unit(*shape):
    return real(*shape, low=0.05, high=0.95)


def definite(n):
    def draw(rng):
        a = rng.normal(size=(n, n))
        return a @ a.T + n * np.eye(n)

    return draw


def regular(*shape):
    def draw(rng):
        return rng.normal(size=shape) * 0.5 + 2 * np.eye(shape[-1])

    return draw


MASK = np.arange(12).reshape(3, 4) % 3 != 1
PLACES = np.array([2, 0, 2, 1])
WEIGHTS = np.array([0.5, 2.0, 1.5, 1.0])

ONE_LINERS = {
    # arithmetic and ufuncs
    "operators": (lambda x, y: (x + y) * x - x / y + x**2 - 2**y + -x + abs(y) + +x, real(3, 4), positive(4)),
    "reflected": (lambda x: 1 - x + 2 / x + 3 * x + 2.0**x + np.float64(2) * x + np.ones((3, 1)) / x, positive(4)),
    "matmul": (lambda x, y: x @ y, real(3, 4), real(4, 2)),
    "rmatmul": (lambda x: np.ones((2, 3)) @ x, real(3, 4)),
    "remainder": (lambda x: x % 0.7 + 5.3 % x, positive(6)),
    "add-dtype": (lambda x, y: np.add(x, y, dtype=np.float64), real(3), real(3)),
    "subtract": (lambda x, y: np.subtract(x, y), real(3, 1), real(4)),
    "multiply-list": (lambda x: np.multiply(x, [1.0, 2.0, 3.0]), real(2, 3)),
    "divide-list": (lambda x: np.divide(x, [1.0, 2.0, 3.0]) + x / [3.0, 2.0, 1.0], real(2, 3)),
    "power": (lambda x, y: np.power(x, y), positive(3), real(3)),
    "power-const": (lambda x: np.power(x, 3) + x**-1.5 + x**0, positive(5)),
    "float_power": (lambda x: np.float_power(x, 2), real(5)),
    "sqrt": (lambda x: np.sqrt(x) + np.cbrt(x) + np.square(x) + np.reciprocal(x), positive(5)),
    "exp": (lambda x: np.exp(x) + np.exp2(x) + np.expm1(x), real(5)),
    "log": (lambda x: np.log(x) + np.log2(x) + np.log10(x) + np.log1p(x), positive(5)),
    "abs": (lambda x: np.abs(x) + np.absolute(x) + np.fabs(x), real(6)),
    "sign": (lambda x: np.sign(x) * x, real(6)),
    "negative": (lambda x: np.negative(x) + np.positive(x) * np.conjugate(x) + np.real(x), real(6)),
    "imag": (lambda x: np.imag(x) + x + np.real_if_close(x) * np.angle(x), real(6)),
    "maximum": (lambda x, y: np.maximum(x, y) * np.minimum(x, 0.5), real(3, 4), real(4)),
    "fmax": (lambda x, y: np.fmax(x, y) * np.fmin(x, y), real(3, 4), real(4)),
    "fmax-nan": (lambda x: np.fmax(x, [np.nan, 0.5, np.nan, -3]) + np.fmin([np.nan, 0.5, np.nan, -3], x), real(4)),
    "logaddexp": (lambda x, y: np.logaddexp(x, y) + np.hypot(x, y) * np.logaddexp2(x, y), real(3, 4), real(4)),
    "copysign": (lambda x, y: np.copysign(x, y) + np.ldexp(x, [1, 2, -3]), real(3), real(3)),
    "fmod": (lambda x, y: np.fmod(x, y) + np.mod(x, y) + np.remainder(x, y), real(7), positive(7)),
    "divmod": (lambda x: np.divmod(x, 0.7)[1] + np.modf(x)[0], real(7)),
    "trigonometry": (lambda x: np.sin(x) + np.cos(x) * np.tan(x / 2) + np.sinc(x) + np.arctan(x), real(5)),
    "inverse-trigonometry": (lambda x: np.arcsin(x) + np.arccos(x) + np.arctanh(x), unit(5)),
    "hyperbolic": (lambda x: np.sinh(x) + np.cosh(x) + np.tanh(x) + np.arcsinh(x) + np.arccosh(x + 4), real(5)),
    "angles": (lambda x, y: np.arctan2(x, y) + np.deg2rad(x) + np.rad2deg(y) + np.radians(x) + np.degrees(y), real(4), real(4)),
    "where": (lambda x, y: np.where(MASK, x, y) + np.where(x > 0, x**2, 0.0), real(3, 4), real(4)),
    "where-list": (lambda x: np.where([True, False], x, [1.0, 2.0]), real(2)),
    "select": (lambda x: np.select([x > 1, x > 0], [x**2, 3 * x], default=-1.0), real(8)),
    "clip": (lambda x: np.clip(x, -1, 0.5) + x.clip(0.2) + np.clip(x, None, 0.7), real(9)),
    "clip-names": (lambda x: np.clip(x, a_min=-1, a_max=0.5), real(9)),
    "clip-traced": (lambda x, y: np.clip(x, y, y + 1.3), real(9), real(9)),
    "nan_to_num": (
        lambda x: np.nan_to_num(np.where(MASK, x, [np.nan, np.inf, -np.inf, 1.0]), nan=0.5, posinf=2.0, neginf=-2.0),
        real(3, 4),
    ),
    "nan_to_num-defaults": (lambda x: np.nan_to_num(_holed(x)), real(3, 4)),
    "scipy": (
        lambda x: special.expit(x) + special.erf(x) - special.erfc(x) * special.ndtr(x) + special.log_expit(x),
        real(5),
    ),
    "scipy-entropy": (
        lambda x: special.xlogy(x, x) + special.xlog1py(x, x) + special.entr(x) + special.logit(x) + special.log1p(x)
        + special.expm1(x) + special.exp2(x) + special.cbrt(x),
        unit(5),
    ),
    # reductions
    "sum": (lambda x: np.sum(x**2), real(3, 4)),
    "sum-axis": (lambda x: np.sum(x, axis=0) * 2, real(3, 4)),
    "sum-position": (lambda x: np.sum(x, 1, None, None, True), real(3, 4)),
    "sum-axes": (lambda x: np.sum(x, axis=(0, -1)), real(2, 3, 4)),
    "sum-where": (lambda x: np.sum(x, axis=1, where=MASK, initial=2.0), real(3, 4)),
    "sum-dtype": (lambda x: np.sum(x, dtype=np.float64), real(3, 4)),
    "method-sum": (lambda x: x.sum(axis=-1, keepdims=True) * x, real(3, 4)),
    "mean": (lambda x: np.mean(x, axis=1) + x.mean() + np.mean(x, axis=(0, 1), keepdims=True)[0], real(3, 4)),
    "mean-where": (lambda x: np.mean(x, axis=0, where=MASK), real(3, 4)),
    "prod": (lambda x: np.prod(x, axis=0) + x.prod() + np.prod(x, initial=2.0), real(3, 2)),
    "max": (lambda x: np.max(x, axis=0) + x.max() + np.amax(x, 0) + np.max(x, initial=0.5), real(3, 4)),
    "min": (lambda x: np.min(x, axis=0) + x.min() + np.amin(x, 0) + np.min(x, axis=1, keepdims=True), real(3, 4)),
    "max-where": (lambda x: np.max(x, axis=0, where=MASK, initial=-9.0), real(3, 4)),
    "var": (lambda x: np.var(x, axis=0, ddof=1) + x.var() + np.var(x), real(3, 4)),
    "std": (lambda x: np.std(x, axis=0, ddof=1) + x.std(keepdims=True) + np.std(x, 0), real(3, 4)),
    "ptp": (lambda x: np.ptp(x, axis=0) + np.ptp(x), real(3, 4)),
    "average": (lambda x: np.average(x, axis=1, weights=WEIGHTS) + np.average(x), real(3, 4)),
    "average-returned": (lambda x, w: np.average(x, weights=w, returned=True), real(3, 4), positive(3, 4)),
    "cumsum": (lambda x: np.cumsum(x, axis=1) + x.cumsum(0) + np.cumsum(x).reshape(3, 4), real(3, 4)),
    "cumprod": (lambda x: np.cumprod(x, axis=1) + x.cumprod().reshape(3, 4), real(3, 4)),
    "cumulative": (lambda x: np.cumulative_sum(x, axis=1, include_initial=True) if hasattr(np, "cumulative_sum") else x, real(3, 4)),
    "cumulative_prod": (lambda x: np.cumulative_prod(x, axis=0) if hasattr(np, "cumulative_prod") else x, real(3, 4)),
    "nansum": (lambda x: np.nansum(_holed(x), axis=0) + np.nanprod(_holed(x)), real(3, 4)),
    "nanmean": (lambda x: np.nanmean(_holed(x), axis=0) + np.nanmax(_holed(x)) - np.nanmin(_holed(x), axis=0), real(3, 4)),
    "nanvar": (lambda x: np.nanvar(_holed(x), axis=0) + np.nanstd(_holed(x), ddof=1, keepdims=True), real(3, 4)),
    "nancumsum": (lambda x: np.nancumsum(_holed(x), axis=0) + np.nancumprod(_holed(x), axis=1), real(3, 4)),
    "nan of a mask": (lambda x: np.nansum(_holed(x), where=x > 0) * np.nanmean(_holed(x), where=x < 0.9), real(3, 4)),
    "var of a mask": (lambda x: np.var(x, axis=1, where=MASK, ddof=1) + np.std(x, where=[True, True, False, True]), real(3, 4)),
    # ufunc methods
    "add.reduce": (lambda x: np.add.reduce(x) + np.add.reduce(x, axis=None), real(3, 4)),
    "multiply.reduce": (lambda x: np.multiply.reduce(x, axis=1, keepdims=True), real(3, 4)),
    "maximum.reduce": (lambda x: np.maximum.reduce(x) - np.minimum.reduce(x, axis=0), real(3, 4)),
    "logaddexp.reduce": (lambda x: np.logaddexp.reduce(x, axis=1), real(3, 4)),
    "accumulate": (lambda x: np.add.accumulate(x) + np.multiply.accumulate(x, axis=1), real(3, 4)),
    "maximum.accumulate": (lambda x: np.maximum.accumulate(x, axis=1) + np.minimum.accumulate(x), real(4, 5)),
    "outer-ufunc": (
        lambda x, y: np.multiply.outer(x, y) + np.subtract.outer(x, y) + np.hypot.outer(y, x).transpose(1, 2, 0),
        real(2, 3), real(4),
    ),
    # order
    "sort-kind": (lambda x: np.sort(x, kind="stable") + np.partition(x, 1, kind="introselect")[:, 1:2], real(3, 4)),
    "copies": (lambda x: np.copy(x, order="F") * x.copy("F") + x.astype(np.float64, order="C", casting="safe", copy=False), real(3, 4)),
    "sort": (lambda x: np.sort(x) * np.arange(4) + np.sort(x, axis=0) + np.sort(x, axis=None).reshape(3, 4), real(3, 4)),
    "partition": (lambda x: np.sort(np.partition(x, 2, axis=1)[:, :2], axis=1), real(3, 4)),
    "median": (lambda x: np.median(x) + np.median(x, axis=0) + np.median(x, axis=1, keepdims=True), real(3, 4)),
    "quantile": (lambda x: np.quantile(x, [0.1, 0.5, 0.77], axis=1), real(3, 4)),
    "percentile": (lambda x: np.percentile(x, 30) + np.percentile(x, 60, axis=(0, 1), keepdims=True), real(3, 4)),
    "unique": (lambda x: np.unique(x[[0, 2, 0, 1]]) ** 2 + (np.unique_values(x) if hasattr(np, "unique_values") else 0.0), real(3)),
    "bincount": (lambda x: np.bincount(PLACES, weights=x, minlength=5), real(4)),
    # layout
    "reshape": (lambda x: np.reshape(x, (4, 3)) + x.reshape(4, -1) + x.reshape((4, 3)) + np.reshape(x, (4, 3), order="F"), real(3, 4)),
    "ravel": (lambda x: np.ravel(x) + x.flatten() + np.ravel(x, order="F") + x.ravel(), real(3, 4)),
    "transpose": (lambda x: np.transpose(x, (2, 0, 1)) + x.T.transpose(0, 2, 1) + x.transpose(2, 0, 1), real(2, 3, 4)),
    "permute_dims": (lambda x: np.permute_dims(x, (1, 0)) if hasattr(np, "permute_dims") else x, real(2, 3)),
    "matrix_transpose": (lambda x: np.matrix_transpose(x) + x.mT if hasattr(np, "matrix_transpose") else x, real(2, 3, 4)),
    "swapaxes": (lambda x: np.swapaxes(x, 0, -1) + x.swapaxes(2, 0), real(2, 3, 4)),
    "moveaxis": (lambda x: np.moveaxis(x, 0, -1) + np.rollaxis(x, 0, 3), real(2, 3, 4)),
    "expand_dims": (lambda x: np.expand_dims(x, (0, -1)) + x[None, :, :, np.newaxis], real(2, 3)),
    "squeeze": (lambda x: np.squeeze(x) + x.squeeze(axis=0)[..., 0], real(1, 3, 1)),
    "atleast": (lambda x, y: [np.atleast_1d(x), *np.atleast_2d(y, x), np.atleast_3d(y)], real(), real(3)),
    "broadcast_to": (lambda x: np.broadcast_to(x, (2, 3, 4)), real(3, 1)),
    "broadcast_arrays": (lambda x, y: np.broadcast_arrays(x, y), real(3, 1), real(4)),
    "meshgrid": (lambda x, y: np.meshgrid(x, y) + np.meshgrid(x, y, indexing="ij", sparse=True), real(3), real(4)),
    "concatenate": (lambda x, y: np.concatenate([x, y, np.ones((1, 4))]) * 2, real(3, 4), real(2, 4)),
    "concatenate-axis": (lambda x: np.concatenate((x, x**2), axis=-1) + np.concatenate([x, x], axis=None), real(3)),
    "stack": (lambda x, y: np.stack([x, y, x * y], axis=1) + np.stack([x, y, y], -1), real(3), real(3)),
    "vstack": (lambda x, y: np.vstack([x, y]) + np.vstack((y[0], x, x)), real(4), real(2, 4)),
    "hstack": (lambda x, y: np.hstack([x, y]), real(2, 3), real(2, 4)),
    "hstack-1d": (lambda x: np.hstack([x, 1.0, x[0]]), real(4)),
    "dstack": (lambda x, y: np.dstack([x, y]), real(2, 3), real(2, 3)),
    "column_stack": (lambda x, y: np.column_stack([x, y, x * x]), real(3), real(3, 2)),
    "append": (lambda x: np.append(x, [1.0, 2.0]) + np.append(x, x[:2], axis=0), real(4)),
    "block": (lambda x, y: np.block([[x, y], [np.zeros((1, 2)), y[:1]]]), real(2, 2), real(2, 3)),
    "split": (lambda x: np.split(x, 2) + np.split(x, [1, 3], axis=1), real(4, 4)),
    "array_split": (lambda x: np.array_split(x, 3) + np.array_split(x, [2]), real(7)),
    "hsplit": (lambda x: np.hsplit(x, 2) + np.vsplit(x, [1]), real(2, 4)),
    "dsplit": (lambda x: np.dsplit(x, 2) + list(np.unstack(x) if hasattr(np, "unstack") else []), real(2, 3, 4)),
    "take": (lambda x: np.take(x, PLACES, axis=0) + x.take([[0], [3], [1], [1]]) + np.take(x, [5, -1, 1, 2], mode="clip"), real(4, 4)),
    "take_along_axis": (lambda x: np.take_along_axis(x, np.argsort(x, axis=0)[:2], axis=0), real(3, 4)),
    "compress": (lambda x: np.compress([True, False, True], x, axis=0) + np.extract([0, 1, 0, 1], x), real(3, 2)),
    "delete": (lambda x: np.delete(x, 1, axis=0) + np.delete(x, [0, 2, -1, -2])[:2], real(3, 2)),
    "insert": (lambda x: np.insert(x, 1, 5.0) * 2 + np.insert(x, [0, 2], [x[0], 7.0])[:-1], real(4)),
    "insert-row": (lambda x: np.insert(x, 1, x[2] * 2, axis=0), real(3, 2)),
    "repeat": (lambda x: np.repeat(x, 2) + x.repeat([1, 2, 0, 5]), real(4)),
    "tile": (lambda x: np.tile(x, 2) + np.tile(x, (1, 2)), real(2, 3)),
    "flip": (lambda x: np.flip(x) + np.flip(x, 0) * np.flipud(x) - np.fliplr(x), real(3, 4)),
    "rot90": (lambda x: np.rot90(x) + np.rot90(x, 3) + np.rot90(np.rot90(x, 2)), real(2, 3)),
    "roll": (lambda x: np.roll(x, 2) + np.roll(x, -1, axis=1) + np.roll(x, (1, 1), axis=(0, 1)), real(3, 4)),
    "pad": (lambda x: np.pad(x, 1) + np.pad(x, ((1, 1), (0, 2)), "constant", constant_values=2.0), real(2, 3)),
    "pad-modes": (lambda x: np.pad(x, 2, mode="edge") + np.pad(x, 2, "reflect") + np.pad(x, 2, "wrap"), real(4)),
    "tril": (lambda x: np.tril(x) + np.triu(x, 1) * 2 + np.tril(x, -1), real(3, 4)),
    "diag": (lambda x: np.diag(x) @ np.diag(np.diag(x, -1), 1)[:3] if x.ndim == 1 else np.diag(x), real(3, 3)),
    "diag-build": (lambda x: np.diag(x, 1) + np.diagflat(x, -1), real(3)),
    "diagonal": (lambda x: np.diagonal(x, 1, 0, 2) + x.diagonal(axis1=2, axis2=0)[:, :1], real(2, 3, 4)),
    "trace": (lambda x: np.trace(x) + x.trace(offset=1) + np.trace(x, 0, 1, 2).sum(), real(2, 3, 4)),
    "full_like": (lambda x: np.full_like(x, x[0]) + np.full_like(x, 3.0) * np.ones_like(x) + np.zeros_like(x), real(4)),
    "copy": (lambda x: np.copy(x) + x.copy() + x.astype(x.dtype), real(4)),
    # indexing
    "getitem": (lambda x: x[1] + x[:, ::-2].sum() + x[..., -1].sum() + x[1, 2], real(3, 4)),
    "getitem-fancy": (lambda x: x[[0, 2, 0]] * x[:, [1, 1, 0, 2]] + x[MASK].sum(), real(3, 4)),
    "getitem-mask": (lambda x: x[x > 0] ** 2, real(3, 4)),
    "iteration": (lambda x: sum(i * row for i, row in enumerate(x)), real(3, 4)),
    # products
    "dot": (lambda x, y: np.dot(x, y) + x.dot(y) + np.dot(2.0, x)[:, :2] @ np.eye(2), real(3, 4), real(4, 2)),
    "vdot": (lambda x, y: np.vdot(x, y) + np.inner(x[0], y[0]), real(3, 4), real(3, 4)),
    "outer": (lambda x, y: np.outer(x, y) * np.kron(x, y).reshape(3, 4), real(3), real(4)),
    "tensordot": (lambda x, y: np.tensordot(x, y, axes=([0, 2], [1, 0])), real(2, 3, 4), real(4, 2)),
    "einsum": (
        lambda x, y: (
            np.einsum("ij,jk->ki", x, y)
            + np.einsum("ii", x[:, :3])
            + np.einsum(x, (0, 1), y, [1, 2], [2, 0])
            + np.einsum(x, [1, 0], y, range(0, 4, 2)).T[:2]
        ),
        real(3, 4), real(4, 2),
    ),
    "cross": (lambda x, y: np.cross(x, y) + np.cross(x[0], y), real(4, 3), real(4, 3)),
    "matvec": (
        lambda x, y: np.matvec(x, y) + np.vecmat(y, np.matrix_transpose(x)) if hasattr(np, "matvec") else x @ y,
        real(3, 4), real(4),
    ),
    "vecdot": (lambda x, y: np.vecdot(x, y) if hasattr(np, "vecdot") else (x * y).sum(-1), real(3, 4), real(4)),
    "vecdot-axis": (lambda x, y: np.vecdot(x, y, axis=0) if hasattr(np, "vecdot") else (x * y).sum(0), real(3, 4), real(3, 1)),
    "convolve": (lambda x, y: np.convolve(x, y) + np.convolve(y, x), real(5), real(3)),
    "convolve-modes": (lambda x, y: [np.convolve(x, y, m) for m in ("same", "valid")], real(5), real(4)),
    "correlate": (
        lambda x, y: [f for m in ("full", "same", "valid") for f in (np.correlate(x, y, m), np.correlate(y, x, m))],
        real(5), real(2),
    ),
    "polyval": (lambda p, x: np.polyval(p, x), real(4), real(2, 3)),
    "polyder": (lambda p: np.polyval(np.polyder(p), 0.3) + np.polyder(p, 2)[0], real(4)),
    "vander": (lambda x: np.vander(x) + np.vander(x, 3, increasing=True), positive(3)),
    # neighbours
    "diff": (lambda x: np.diff(x) + np.diff(x, 2, append=0.5) + np.diff(x, prepend=1.0)[:, 1:], real(3, 4)),
    "diff-axis": (lambda x: np.diff(x, n=2, axis=0), real(4, 2)),
    "ediff1d": (lambda x: np.ediff1d(x, to_end=[1.0], to_begin=x[0]), real(4)),
    "gradient": (lambda x: [*np.gradient(x), np.gradient(x, 0.5, axis=1), np.gradient(x[0], 0.3)], real(3, 4)),
    "trapezoid": (lambda y, x: _trapezoid(y, x) + _trapezoid(y, dx=0.1), real(3, 4), positive(3, 4)),
    "interp": (lambda x, f: np.interp(x, [-1.7, 0.11, 1.4], f), real(8), real(3)),
    "interp-points": (lambda p: np.interp(0.21, np.sort(p), p**2, left=0.0, right=1.0), real(5)),
    "linspace": (lambda a, b: np.linspace(a, b, 5) + np.linspace(a, 2, 5, endpoint=False), real(3), real(3)),
    "linspace-step": (lambda a: np.linspace(a, 3.0, 4, retstep=True), real()),
    # linear algebra
    "norm": (lambda x: np.linalg.norm(x) + np.linalg.norm(x, axis=1).sum() + np.linalg.norm(x, keepdims=True), real(3, 4)),
    "norm-orders": (lambda x: sum(np.linalg.norm(x, o) for o in (None, 1, 2, 3, 1.5, np.inf, -np.inf, -1)), real(5)),
    "norm-matrix": (lambda x: sum(np.linalg.norm(x, o) for o in ("fro", 1, -1, np.inf, -np.inf)), real(3, 4)),
    "norm-singular": (lambda x: sum(np.linalg.norm(x, o) for o in (2, -2, "nuc")), regular(3, 3)),
    "norm-axes": (lambda x: np.linalg.norm(x, axis=(0, 2)) + np.linalg.norm(x, 1, axis=(2, 0), keepdims=True)[0, :, 0], real(2, 3, 4)),
    "solve": (lambda a, b: np.linalg.solve(a, b), regular(3, 3), real(3)),
    "inv": (lambda a: np.linalg.inv(a) + np.linalg.matrix_power(a, -2) + np.linalg.matrix_power(a, 3), regular(3, 3)),
    "pinv": (lambda a: np.linalg.pinv(a), real(3, 2)),
    "det": (lambda a: np.linalg.det(a) + np.linalg.slogdet(a)[1] + np.linalg.slogdet(a).logabsdet, regular(2, 3, 3)),
    "cholesky": (lambda a: np.linalg.cholesky(a + a.T), definite(3)),
    "cholesky-of-one-triangle": (np.linalg.cholesky, definite(3)),
    "eigh": (lambda a: np.linalg.eigvalsh(a + a.T) + np.linalg.eigh(a + a.T)[0] ** 2, definite(3)),
    "eigh-of-one-triangle": (lambda a: np.linalg.eigvalsh(a, UPLO="U") + np.linalg.eigh(a)[0] ** 2, definite(3)),
    "svd": (lambda a: np.linalg.svd(a, compute_uv=False), regular(3, 3)),
    "qr": (lambda a: np.linalg.qr(a)[1] ** 2, regular(3, 3)),
    "linalg-products": (
        lambda x, y: _new(lambda la: la.matmul(x, y) @ la.outer(x[0], y[0])[:2] + la.tensordot(x, y, axes=1)[0, 0] * la.vecdot(x[0], x[1])),
        real(3, 4), real(4, 2),
    ),
    "linalg-layout": (
        lambda x: _new(lambda la: la.matrix_transpose(la.cross(x, x[::-1])) + la.diagonal(x)[:, None] + la.trace(x, offset=1)),
        real(3, 3),
    ),
    "linalg-norms": (
        lambda x: _new(lambda la: la.vector_norm(x, axis=0, ord=3) + la.matrix_norm(x) + la.matrix_norm(x, ord=1) + la.svdvals(x)),
        regular(3, 3),
    ),
    "multi_dot": (lambda a, b, c: np.linalg.multi_dot([a, b, c]), real(2, 3), real(3, 4), real(4)),
}  # fmt: skip


def _holed(x):
    """x with nans in it."""
    return np.where(MASK, x, np.nan)


def _new(f):
    """Names that np.linalg has from NumPy 2 on."""
    return f(np.linalg) if hasattr(np.linalg, "matrix_norm") else 0.0


def _trapezoid(*args, **kwargs):
    return (np.trapezoid if hasattr(np, "trapezoid") else np.trapz)(*args, **kwargs)
