"""What to write instead of a function of NumPy's that has no stand-in, where the nearest name would mislead."""

from engine.traced import HINTS

HINTS.update(
    {
        "np.add.reduceat": "ops.scatter_add(zeros, indices, x), or differences of np.cumsum(x)",
        "np.apply_along_axis": "np.stack([f(row) for row in x])",
        "np.apply_over_axes": "the reductions one after the other, with keepdims=True",
        "np.choose": "np.select, or np.take_along_axis",
        "np.corrcoef": "a matrix product of x - np.mean(x, axis=1, keepdims=True), scaled by np.std",
        "np.cov": "a matrix product of x - np.mean(x, axis=1, keepdims=True)",
        "np.fft.fft": "np.convolve, ops.conv1d, or a product with the matrix of the transform",
        "np.linalg.cond": "np.linalg.norm(a) * np.linalg.norm(np.linalg.inv(a))",
        "np.linalg.eig": "np.linalg.eigh, for a symmetric matrix",
        "np.linalg.eigvals": "np.linalg.eigvalsh, for a symmetric matrix",
        "np.linalg.lstsq": "np.linalg.pinv(a) @ b",
        "np.linalg.tensorinv": "np.linalg.inv of the array reshaped to a matrix",
        "np.linalg.tensorsolve": "np.linalg.solve of the array reshaped to a matrix",
        "np.nanmedian": "np.median(x[~np.isnan(x)])",
        "np.piecewise": "np.select, or np.where",
        "np.polyadd": "np.add of the coefficients, padded to one length",
        "np.polyfit": "np.linalg.pinv(np.vander(x, n)) @ y",
        "np.polymul": "np.convolve",
        "np.resize": "np.tile, then a slice",
        "np.union1d": "np.unique(np.concatenate([a, b]))",
    }
)
