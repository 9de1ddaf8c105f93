"""The IDX format of MNIST: a header that gives the type and the sizes, then the numbers.

    bytes 0, 1    zero
    byte  2       the type: 08 uint8, 09 int8, 0b int16, 0c int32, 0d float32, 0e float64
    byte  3       the number of axes
    then          the length of each axis, as big-endian uint32
    then          the numbers in row order, big-endian

Source: Y. LeCun, C. Cortes & C. Burges, The MNIST database, "File formats".
"""

from __future__ import annotations

import gzip
import math
import os
import secrets
import zlib
from pathlib import Path

import numpy as np

from engine.data.dataset import DataError

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CODES = {np.dtype(name).newbyteorder("="): code for code, name in TYPES.items()}

GZIP = b"\x1f\x8b"
CURE = "get the file again from where it came from"


def read_idx(path: str | os.PathLike[str], *, cure: str = CURE) -> np.ndarray:
    """The array in an IDX file; the file is gzip-compressed if its name ends in .gz.

    cure   what the error message tells the user to do about a bad file
    Returns a new array in this machine's byte order.
    Raises DataError for a file that is not IDX, truncated or too long; FileNotFoundError.
    """
    data = _contents(Path(path), cure)
    try:
        return _parse(data)
    except ValueError as e:
        raise DataError(f"{path}: {e}\n  {cure}") from None


def write_idx(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write `array` as IDX, gzip-compressed if the name ends in .gz. The same array gives the same bytes.

    Raises TypeError for a dtype that IDX does not have, ValueError for more than 255 axes or an axis over 2^32 - 1.
    """
    array = np.asarray(array)
    code = CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        raise TypeError(f"IDX has no {array.dtype}; it has {', '.join(map(str, CODES))}")
    if array.ndim > 255 or any(n >= 2**32 for n in array.shape):
        raise ValueError(f"IDX cannot say the shape {array.shape}")
    header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    data = header + array.astype(TYPES[code]).tobytes()
    replace(Path(path), gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data)


def replace(path: Path, data: bytes) -> None:
    """Put `data` at `path`, all of it or nothing: it is written under another name and then renamed.

    Raises DataError if the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(data)
        os.replace(partial, path)
    except OSError as e:
        raise DataError(f"{path}: could not be written: {e.strerror or e}\n  make room there, or write somewhere else") from e
    finally:
        partial.unlink(missing_ok=True)


def _contents(path: Path, cure: str) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".gz":
        if data[:2] == GZIP:
            raise DataError(f"{path}: is compressed by gzip, but its name does not end in .gz\n  rename it to {path.name}.gz")
        return data
    if data[:2] != GZIP:
        raise DataError(f"{path}: is not a gzip file: it starts with {data[:8]!r}, not with {GZIP!r}\n  {cure}")
    try:
        return gzip.decompress(data)
    except EOFError:
        raise DataError(f"{path}: ends in the middle of its gzip stream, after {len(data):,} bytes\n  {cure}") from None
    except (OSError, zlib.error) as e:
        raise DataError(f"{path}: its gzip stream is damaged: {e}\n  {cure}") from None


def _parse(data: bytes) -> np.ndarray:
    if len(data) < 4:
        raise ValueError(f"has {len(data)} bytes, too few for the header of an IDX file")
    if data[:2] != b"\0\0" or data[2] not in TYPES:
        raise ValueError(f"is not an IDX file: it starts with {data[:4].hex(' ')}, wanted is 00 00, a type (08 to 0e), the number of axes")
    kind, start = np.dtype(TYPES[data[2]]), 4 + 4 * data[3]
    if len(data) < start:
        raise ValueError(f"ends inside its header, which says {data[3]} axes")
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
    want, have = math.prod(shape) * kind.itemsize, len(data) - start
    if want != have:
        lengths = "x".join(map(str, shape))
        raise ValueError(f"is {'truncated' if have < want else 'too long'}: {lengths} of {kind.name} is {want:,} bytes, it has {have:,}")
    return np.frombuffer(data, kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))
