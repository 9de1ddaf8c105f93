"""Made data: no file, no package, any amount. The same seed gives the same examples."""

from __future__ import annotations

import numpy as np

from engine.seed import fold

Examples = tuple[np.ndarray, np.ndarray]

DIRECTIONS = ("horizontal", "vertical", "falling", "rising")
GLYPHS = {
    "H": ("X...X", "X...X", "X...X", "XXXXX", "X...X", "X...X", "X...X"),
    "I": (".XXX.", "..X..", "..X..", "..X..", "..X..", "..X..", ".XXX."),
    "L": ("X....", "X....", "X....", "X....", "X....", "X....", "XXXXX"),
    "O": (".XXX.", "X...X", "X...X", "X...X", "X...X", "X...X", ".XXX."),
    "T": ("XXXXX", "..X..", "..X..", "..X..", "..X..", "..X..", "..X.."),
    "X": ("X...X", "X...X", ".X.X.", "..X..", ".X.X.", "X...X", "X...X"),
}


def blobs(n: int, *, classes: int = 3, features: int = 2, spread: float = 0.5, seed: int = 0) -> Examples:
    """n points around as many centres as there are classes, at random in [-2, 2]. x (n, features) float32, y (n) int64."""
    rng = np.random.default_rng(fold(seed, "blobs"))
    centres = rng.uniform(-2, 2, (classes, features))
    y = _labels(n, classes, rng)
    return (centres[y] + spread * rng.normal(size=(n, features))).astype(np.float32), y


def moons(n: int, *, noise: float = 0.1, seed: int = 0) -> Examples:
    """n points on two half circles, each with an end inside the other: no line parts them. x (n, 2) float32, y (n) int64."""
    rng = np.random.default_rng(fold(seed, "moons"))
    y = _labels(n, 2, rng)
    angle = rng.uniform(0, np.pi, n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    x = np.where(y[:, None] == 0, upper, lower) + noise * rng.normal(size=(n, 2))
    return x.astype(np.float32), y


def stripes(n: int, *, size: int = 12, noise: float = 0.2, seed: int = 0) -> Examples:
    """n images of stripes in four directions, of any phase and width: no single pixel tells. x (n, 1, size, size) in [0, 1], y (n)."""
    rng = np.random.default_rng(fold(seed, "stripes"))
    y = _labels(n, len(DIRECTIONS), rng)
    along = np.array([[1, 0], [0, 1], [1, -1], [1, 1]])[y]  # the direction across the stripes: rows, columns
    row, column = np.mgrid[:size, :size]
    distance = along[:, 0, None, None] * row + along[:, 1, None, None] * column
    period, phase = rng.uniform(3, 6, (n, 1, 1)), rng.uniform(0, 2 * np.pi, (n, 1, 1))
    return _images(0.5 + 0.5 * np.sin(2 * np.pi * distance / period + phase), noise, rng), y


def glyphs(n: int, *, size: int = 12, noise: float = 0.2, seed: int = 0) -> Examples:
    """n images of six letters of 5 x 7 pixels, anywhere in the picture. x (n, 1, size, size) in [0, 1], y (n).

    Raises ValueError for a size under 7.
    """
    if size < 7:
        raise ValueError(f"a letter is 7 pixels high: pictures of {size}x{size} are too small")
    rng = np.random.default_rng(fold(seed, "glyphs"))
    y = _labels(n, len(GLYPHS), rng)
    letters = np.array([[[pixel == "X" for pixel in line] for line in glyph] for glyph in GLYPHS.values()], float)
    row = rng.integers(0, size - 6, (n, 1, 1)) + np.arange(7)[:, None]
    column = rng.integers(0, size - 4, (n, 1, 1)) + np.arange(5)
    x = np.zeros((n, size, size))
    x[np.arange(n)[:, None, None], row, column] = letters[y]
    return _images(x, noise, rng), y


def _labels(n: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """n labels in random order, of each class as many as of the others, to within one."""
    return rng.permutation(np.arange(n) % classes)


def _images(x: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(x + noise * rng.normal(size=x.shape), 0, 1).astype(np.float32)[:, None]
