"""The sets by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.data import embedded, made
from engine.data.dataset import Dataset
from engine.data.mnist import read_mnist
from engine.data.split import split

DIGITS = tuple("0123456789")


def load(name: str, *, seed: int = 0) -> Dataset:
    """The data set called `name`, split into what to train on and what to test on.

    name   one of `names()`: mnist5k and the tables need the extra `data`, mnist a download or the files
    seed   of the split, of which a fifth is held back, the same share of each class; and of made data. MNIST comes split
    Raises ValueError for an unknown name, ModuleNotFoundError if a package is missing, DataError for a bad file.
    """
    if name not in SETS:
        raise ValueError(f"there is no data set called {name!r}; there are {', '.join(SETS)}")
    return SETS[name](seed)


def names() -> list[str]:
    """What `load` knows."""
    return list(SETS)


def standardise(train: np.ndarray, *others: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """`([train, *others], mean, scale)`: each column less its mean and over its standard deviation, both of `train` alone.

    A column that is constant in `train` keeps its scale. Sums are taken in float64; the dtype is kept.
    """
    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    flat = scale <= 8 * np.finfo(train.dtype).eps * np.abs(mean)  # rounding alone makes a constant column vary
    mean, scale = mean.astype(train.dtype), np.where(flat, 1, scale).astype(train.dtype)
    return [(x - mean) / scale for x in (train, *others)], mean, scale


def _table(
    name: str, read: Callable[[], embedded.Table], source: str, features: tuple[str, ...], classes: tuple[str, ...] = ()
) -> Callable[[int], Dataset]:
    def build(seed: int) -> Dataset:
        x, y = read()
        train, test = split(len(y), test=0.2, seed=seed, stratify=y if classes else None)
        (x_train, x_test), mean, scale = standardise(x[train], x[test])
        return Dataset(name, x_train, y[train], x_test, y[test], source, features, classes, mean, scale)

    return build


def _pictures(name: str, read: Callable[[], embedded.Table], source: str) -> Callable[[int], Dataset]:
    def build(seed: int) -> Dataset:
        return _held_back(name, *read(), seed, source, classes=DIGITS)

    return build


def _made(
    name: str, make: Callable[[int], made.Examples], features: tuple[str, ...] = (), classes: tuple[str, ...] = ()
) -> Callable[[int], Dataset]:
    def build(seed: int) -> Dataset:
        return _held_back(name, *make(seed), seed, "made", features, classes)

    return build


def _held_back(
    name: str, x: np.ndarray, y: np.ndarray, seed: int, source: str, features: tuple[str, ...] = (), classes: tuple[str, ...] = ()
) -> Dataset:
    train, test = split(len(y), test=0.2, seed=seed, stratify=y)
    return Dataset(name, x[train], y[train], x[test], y[test], source, features, classes)


def _mnist(seed: int) -> Dataset:
    (x_train, y_train), (x_test, y_test), source = read_mnist()
    return Dataset("mnist", _scaled(x_train), y_train.astype(np.int64), _scaled(x_test), y_test.astype(np.int64), source, classes=DIGITS)


def _scaled(images: np.ndarray) -> np.ndarray:
    x = images[:, None].astype(np.float32)
    x /= 255
    return x


PLANE = ("x1", "x2")
EFRON = "Efron, Hastie, Johnstone & Tibshirani (2004), Least angle regression"
STREET = "Street, Wolberg & Mangasarian (1993), Nuclear feature extraction for breast tumor diagnosis"
FISHER = "Fisher (1936), The use of multiple measurements in taxonomic problems"
FORINA = "Forina et al. (1988), PARVUS"
ALPAYDIN = "Alpaydin & Kaynak (1998), Optical recognition of handwritten digits"
LECUN = "LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document recognition"

SETS: dict[str, Callable[[int], Dataset]] = {
    "diabetes": _table("diabetes", embedded.read_diabetes, EFRON, embedded.DIABETES),
    "breast_cancer": _table("breast_cancer", embedded.read_breast_cancer, STREET, embedded.BREAST_CANCER, ("malignant", "benign")),
    "iris": _table("iris", embedded.read_iris, FISHER, embedded.IRIS, ("setosa", "versicolor", "virginica")),
    "wine": _table("wine", embedded.read_wine, FORINA, embedded.WINE, ("grower 1", "grower 2", "grower 3")),
    "digits": _pictures("digits", embedded.read_digits, ALPAYDIN),
    "mnist5k": _pictures("mnist5k", embedded.read_mnist5k, LECUN),
    "mnist": _mnist,
    "blobs": _made("blobs", lambda seed: made.blobs(1000, seed=seed), PLANE, ("0", "1", "2")),
    "moons": _made("moons", lambda seed: made.moons(1000, seed=seed), PLANE, ("upper", "lower")),
    "stripes": _made("stripes", lambda seed: made.stripes(1000, seed=seed), classes=made.DIRECTIONS),
    "glyphs": _made("glyphs", lambda seed: made.glyphs(1000, seed=seed), classes=tuple(made.GLYPHS)),
}
