"""Data to train on: `load("mnist5k")`, seeded splits, folds and batches."""

from engine.data.dataset import DataError, Dataset
from engine.data.idx import read_idx, write_idx
from engine.data.made import blobs, glyphs, moons, stripes
from engine.data.sets import load, names, standardise
from engine.data.split import batches, k_fold, permutation, split

__all__ = [
    "DataError", "Dataset", "batches", "blobs", "glyphs", "k_fold", "load", "moons", "names", "permutation", "read_idx", "split",
    "standardise", "stripes", "write_idx",
]  # fmt: skip
