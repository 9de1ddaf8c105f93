"""The MNIST digits: from a folder of the user's, from the cache, or from a mirror.

Source: LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document recognition, section III.
The lengths and sums are those of the four published files, as other programs that download them have them too.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.dataset import DataError
from engine.data.idx import read_idx, replace

MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")
FOLDER = "GNOMON_DATA"  # the environment variable that names a folder of the user's own files
CHUNK = 1 << 16
PATIENCE = 30.0  # seconds without a byte before a mirror counts as dead


@dataclass(frozen=True)
class Archive:
    """One published file."""

    name: str
    size: int
    sha256: str


ARCHIVES = {
    "train images": Archive("train-images-idx3-ubyte.gz", 9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train labels": Archive("train-labels-idx1-ubyte.gz", 28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "test images": Archive("t10k-images-idx3-ubyte.gz", 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "test labels": Archive("t10k-labels-idx1-ubyte.gz", 4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}

Open = Callable[[str], Any]
Pair = tuple[np.ndarray, np.ndarray]


def read_mnist() -> tuple[Pair, Pair, str]:
    """(images, labels) to train, (images, labels) to test, and where they are from; uint8, n h w and n.

    If the folder that GNOMON_DATA names (or `mnist` in it) has the four files, compressed or not, they are used as they
    are, whatever their number of images. Else the cache is, and what is not there is downloaded.
    Raises DataError for a file that is damaged, that does not fit its companion, or that cannot be had.
    """
    found = own_files()
    if found:
        return *_read(found, "put a good copy in its place"), f"files in {next(iter(found.values())).parent}"
    paths = {part: cached(archive) for part, archive in ARCHIVES.items()}
    return *_read(paths, "delete it and run again: it is then downloaded anew"), "LeCun et al. (1998), the published files"


def own_files() -> dict[str, Path]:
    """The user's four files, or none.

    Raises DataError if GNOMON_DATA names no folder, or if only some of the four are there: training on one set and testing on another
    would look right.
    """
    name = os.environ.get(FOLDER)
    if not name:
        return {}
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: {FOLDER} names this folder, and it is not there\n  make it, or unset {FOLDER}")
    for place in (folder, folder / "mnist"):
        found = {part: path for part, archive in ARCHIVES.items() if (path := _one_of(place, archive.name))}
        missing = [archive.name for part, archive in ARCHIVES.items() if part not in found]
        if found and missing:
            raise DataError(f"{place}: has a part of MNIST, but not {', '.join(missing)}\n  put them there, or unset {FOLDER}")
        if found:
            return found
    return {}


def _one_of(folder: Path, archive: str) -> Path | None:
    plain = archive.removesuffix(".gz")
    names = (archive, plain, plain.replace("-idx", ".idx"))  # the last as some programs unpack it
    return next((folder / name for name in names if (folder / name).is_file()), None)


def cache_folder() -> Path:
    """Where downloads are kept: the user's cache folder as the system has it."""
    try:
        return Path(importlib.import_module("platformdirs").user_cache_dir("gnomon", appauthor=False))
    except ModuleNotFoundError:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gnomon"


def cached(archive: Archive, *, folder: Path | None = None, mirrors: tuple[str, ...] = MIRRORS, open_url: Open | None = None) -> Path:
    """The path of the published file, downloaded if it is not in the cache.

    folder     of the cache; default: mnist in the user's cache folder
    open_url   opens an address and returns something with `read(n)` that is a context manager
    Raises DataError if the file in the cache is not the published one, if every mirror fails or the disk refuses.
    """
    folder = cache_folder() / "mnist" if folder is None else folder
    path = folder / archive.name
    if path.exists():
        problem = _problem(archive, path.read_bytes())
        if problem:
            raise DataError(f"{path}: is not the published file: {problem}\n  delete it and run again: it is then downloaded anew")
        return path
    data = _download(archive, folder, mirrors, open_url or _open)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(
            f"{folder}: could not be made: {e.strerror or e}\n  put the four files elsewhere and name that folder in {FOLDER}"
        ) from e
    replace(path, data)
    return path


def _download(archive: Archive, folder: Path, mirrors: tuple[str, ...], open_url: Open) -> bytes:
    """The whole file, checked, in memory: nothing that is not right reaches the disk."""
    failures = []
    for mirror in mirrors:
        try:
            data = _receive(archive, mirror + archive.name, open_url)
            problem = _problem(archive, data)
        except (OSError, HTTPException) as e:
            problem = f"{type(e).__name__}: {e}"
        if not problem:
            return data
        failures.append(f"  {mirror + archive.name}\n    {problem}")
    own = os.environ.get(FOLDER)
    now = f" (now {own}, where none of them is)" if own else ""
    tried, names = "\n".join(failures), "\n".join(f"    {a.name}" for a in ARCHIVES.values())
    raise DataError(
        f"{archive.name}: could not be downloaded\n{tried}\n  without a network, get these four files by other means\n{names}\n"
        f"  and put them into {folder}, or into a folder of yours that {FOLDER} names{now}"
    )


def _receive(archive: Archive, url: str, open_url: Open) -> bytes:
    data = bytearray()
    with open_url(url) as reply, _bar(archive) as advance:
        while len(data) <= archive.size and (chunk := reply.read(CHUNK)):
            data += chunk
            advance(len(chunk))
    return bytes(data)


def _problem(archive: Archive, data: bytes) -> str:
    """Why these bytes are not the archive; empty if they are."""
    if len(data) != archive.size:
        return f"{len(data):,} bytes, wanted are {archive.size:,}" if len(data) < archive.size else f"more than {archive.size:,} bytes"
    digest = hashlib.sha256(data).hexdigest()
    return "" if digest == archive.sha256 else f"its sha256 is {digest}, wanted is {archive.sha256}"


def _open(url: str) -> Any:
    return importlib.import_module("urllib.request").urlopen(url, timeout=PATIENCE)


@contextmanager
def _bar(archive: Archive) -> Iterator[Callable[[int], None]]:
    """A progress bar on the error stream; one line if rich is not installed."""
    try:
        progress, console = importlib.import_module("rich.progress"), importlib.import_module("rich.console")
    except ModuleNotFoundError:
        print(f"downloading {archive.name}, {archive.size:,} bytes", file=sys.stderr)
        yield lambda _: None
        return
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn())
    with progress.Progress(*columns, console=console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task(archive.name, total=archive.size)
        yield lambda n: bar.advance(task, n)


def _read(paths: dict[str, Path], cure: str) -> tuple[Pair, Pair]:
    return _pair(paths, "train", cure), _pair(paths, "test", cure)


def _pair(paths: dict[str, Path], part: str, cure: str) -> Pair:
    """Images and labels that belong together, checked for what MNIST is."""
    of_images, of_labels = paths[f"{part} images"], paths[f"{part} labels"]
    images, labels = read_idx(of_images, cure=cure), read_idx(of_labels, cure=cure)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"{of_images}: holds {_told(images)}, wanted are images of 28x28 uint8\n  {cure}")
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(f"{of_labels}: holds {_told(labels)}, wanted is one uint8 for each image\n  {cure}")
    if len(images) != len(labels):
        raise DataError(f"{of_labels}: has {len(labels):,} labels, but {of_images.name} has {len(images):,} images\n  {cure}")
    if labels.max() > 9:
        raise DataError(f"{of_labels}: has the label {labels.max()}, wanted are 0 to 9\n  {cure}")
    return images, labels


def _told(array: np.ndarray) -> str:
    return f"{'x'.join(map(str, array.shape)) or 'one number'} of {array.dtype}"
