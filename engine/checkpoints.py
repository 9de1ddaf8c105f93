"""Arrays and notes in one file that is either the old one or the new one, whole.

    save("run.safetensors", {"params": params, "optimizer": moments}, {"epoch": 3})
    arrays, notes = load("run.safetensors")

The format is safetensors: a JSON header with names, shapes and dtypes, then the numbers. Any tool that reads it reads
these; nothing in such a file can run code. A group and a name make a key, "params/conv1/w". The notes (whatever JSON
holds) stand in the header's metadata, with a checksum over notes and numbers.
"""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Groups = dict[str, dict[str, np.ndarray]]

FORMAT = "gnomon checkpoint 1"


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or no longer a whole one."""


def save(path: str | os.PathLike[str], arrays: Mapping[str, Mapping[str, Any]], notes: Mapping[str, Any]) -> None:
    """Write groups of named arrays, and notes, to `path`, in place of what is there.

    The file is written under another name in the same folder, brought to the disk and then renamed: whatever happens
    (full disk, lost power, Ctrl-C), `path` holds the old checkpoint or the new one. A process that is killed while it writes
    leaves a hidden file behind, `.name.*.partial`, that can be deleted.
    Raises TypeError for an array or a note that cannot be stored, OSError if the folder or the disk refuses.
    """
    flat = {key: _plain(key, x) for key, x in _flat(arrays).items()}
    written = json.dumps({"groups": {group: list(named) for group, named in arrays.items()}, "notes": notes})
    metadata = {"format": FORMAT, "notes": written, "crc32": _checksum(written, flat)}
    write_whole(Path(os.path.realpath(path)), _safetensors().numpy.save(flat, metadata))


def load(path: str | os.PathLike[str]) -> tuple[Groups, dict[str, Any]]:
    """The groups of arrays and the notes in the checkpoint at `path`, in the order in which they were saved.

    Raises FileNotFoundError, and CheckpointError for a file that is truncated, damaged or something else.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no checkpoint at {os.fspath(path)}")
    metadata, flat = _read(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{os.fspath(path)} is a safetensors file, but not a checkpoint of a run: its format is {metadata.get('format')!r}, "
            f"{FORMAT!r} is wanted"
        )
    if metadata.get("crc32") != _checksum(metadata.get("notes", ""), flat):
        raise CheckpointError(f"{os.fspath(path)} is damaged: its checksum does not fit its content\n  use an older copy, or start again")
    written = json.loads(metadata["notes"])
    groups = {group: {name: flat[f"{group}/{name}"] for name in names} for group, names in written["groups"].items()}
    return groups, written["notes"]


def _flat(arrays: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    for group in arrays:
        if "/" in group:
            raise ValueError(f"the group name {group!r} has a slash: that is what parts a group from a name")
    return {f"{group}/{name}": x for group, named in arrays.items() for name, x in named.items()}


def _plain(key: str, given: Any) -> np.ndarray:
    """`given` in row order and in this machine's byte order: safetensors stores memory as it lies."""
    x: np.ndarray = np.asarray(given)
    if x.dtype.kind not in "biuf" or x.dtype.itemsize > 8:
        raise TypeError(f"{key}: an array of {x.dtype} cannot be stored, real numbers of up to 64 bits can")
    packed = np.ascontiguousarray(x, x.dtype.newbyteorder("="))
    return packed.reshape(x.shape)  # packing gave a 0-d array an axis


def _checksum(notes: str, flat: Mapping[str, np.ndarray]) -> str:
    crc = zlib.crc32(notes.encode())
    for key in sorted(flat):
        x = flat[key]
        crc = zlib.crc32(f"{key} {x.dtype} {x.shape}".encode(), crc)
        crc = zlib.crc32(x.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    library = _safetensors()
    try:
        with library.safe_open(os.fspath(path), framework="numpy") as file:
            return file.metadata() or {}, {key: np.array(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except (library.SafetensorError, ValueError, KeyError, UnicodeDecodeError) as e:
        size = os.path.getsize(path)
        raise CheckpointError(
            f"{os.fspath(path)} ({size} bytes) is not a checkpoint, or only a part of one: {e}\n  use an older copy, or start again"
        ) from e


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path`, all of it or nothing; see `save`. Raises OSError if the folder or the disk refuses."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else the rename may reach the disk before the numbers do
        os.replace(partial, path)
    except OSError as e:
        before = "; the one before it is untouched" if path.exists() else ""
        raise OSError(e.errno, f"the file could not be written ({e.strerror}){before}", str(path)) from e
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the renaming itself to the disk, where a folder can be opened (not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as e:
        raise ImportError("checkpoints are safetensors files: pip install 'gnomon[train]' (or safetensors)") from e
    return safetensors
