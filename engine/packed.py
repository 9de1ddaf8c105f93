r"""A model in as few bytes as its zeros and its repetitions allow, and exactly the model.

    save("lenet.packed", params)              # pruned, shared, quantised, or not
    params = load("lenet.packed")             # the same names, shapes, dtypes and numbers

Of each array there are stored *positions*, where it is not 0, and *values*, what it is there; both in whichever way takes the fewest bytes:

    positions  all             everything is stored, zeros too
               bitmask         a bit for each number
               gaps            how many zeros there are before each value, in Huffman codes; one more symbol means `span` zeros and no value
               gaps of zeros   how many values there are before each zero, where zeros are fewer
    values     plain           one after the other, in the smallest dtype that holds them exactly
               codebook        the different ones, as plain values, and for each its place among them, in Huffman codes

The file, where all is little-endian and n is a count in groups of seven bits, the lowest first, with the highest bit of a byte set if
more follow (LEB128):

    file       "gnompak1", CRC-32 of the rest (4 bytes), arrays to the end
    array      n bytes of name (UTF-8), dtype (1 byte, see DTYPES), n axes, n for each, positions, values
    positions  0 | 1, the bits, the first the highest | 2 or 3, span (1 byte), n symbols, Huffman
    values     0, plain | 1, n numbers, plain, Huffman
    plain      dtype (1 byte), the numbers
    Huffman    n symbols of the alphabet, lengths of their codes, two in a byte, the first in its higher half, n bytes, the bits

A safetensors file around this would take 144 bytes where these are 12, and tell no more than that there are bytes.
Source: Han, Mao & Dally (2016), Deep compression: compressing deep neural networks with pruning, trained quantization and Huffman coding,
sec. 2 (relative index), 3 (codebook) and 4 (Huffman). There a gap has a fixed number of bits, and a zero is stored where one is too long.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine import huffman
from engine.checkpoints import write_whole

Arrays = dict[str, np.ndarray]

MAGIC = b"gnompak1"
DTYPES = tuple(map(np.dtype, ("<f2", "<f4", "<f8", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "?")))  # the file has the place
POSITIONS = ("all", "bitmask", "gaps", "gaps of zeros")
VALUES = ("plain", "codebook")
SPANS = (7, 15, 31, 63, 127, 255)  # alphabets of 3 to 8 bits: where zeros are rare few symbols do, and a table of lengths costs bytes


class PackedError(ValueError):
    """A file that is not a packed model, or no longer a whole one."""


class Entry(NamedTuple):
    """An array in a packed model, how it is stored, and the bytes it takes there, with its name and shape."""

    name: str
    array: np.ndarray
    positions: str
    values: str
    bytes: int


def save(path: str | os.PathLike[str], params: Mapping[str, Any]) -> int:
    """Write `params`, arrays by name, to `path`, in place of what is there, whole or not at all. Returns the size of the file.

    What is pruned is 0. What is shared is found by itself: what counts is how many different numbers an array has.
    Raises TypeError for an array that is not of real numbers of up to 64 bits, OSError if the folder or the disk refuses.
    """
    data = pack(params)
    write_whole(Path(os.path.realpath(path)), data)
    return len(data)


def load(path: str | os.PathLike[str]) -> Arrays:
    """The arrays in the file at `path`, to the bit as they were saved, but with 0 for -0. A mask is where one is not 0: `w != 0`.

    Raises FileNotFoundError, and PackedError for a file that is truncated, damaged or something else.
    """
    return {entry.name: entry.array for entry in entries(path)}


def entries(path: str | os.PathLike[str]) -> list[Entry]:
    """The arrays in the file at `path`, with how each is stored. Raises as `load`."""
    try:
        return _read(Path(path).read_bytes())
    except ValueError as e:
        raise PackedError(f"{os.fspath(path)}: {e}\n  use an older copy, or pack the model again") from e


def pack(params: Mapping[str, Any]) -> bytes:
    """The file of `save`, in memory."""
    arrays = {name: _plain(name, x) for name, x in params.items()}
    body = b"".join(_head(name, x) + _stored(x) for name, x in arrays.items())
    return MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def unpack(data: bytes) -> Arrays:
    """The arrays in what `pack` made. Raises PackedError."""
    try:
        return {entry.name: entry.array for entry in _read(data)}
    except PackedError:
        raise
    except ValueError as e:
        raise PackedError(str(e)) from e


def halved(params: Mapping[str, Any], *patterns: str) -> Arrays:
    """The arrays with their floats rounded to the nearest of float16, in the dtype that they have: two bytes each in the file.

    patterns    of the names to round, as "*/codebook" for the codebooks of `engine.share`; none means all

    Raises ValueError for a number that is finite, but beyond 65504.
    """
    rounded: Arrays = {}
    for name, given in params.items():
        x = np.asarray(given)
        if x.dtype.kind != "f" or (patterns and not any(fnmatchcase(name, pattern) for pattern in patterns)):
            rounded[name] = x
            continue
        with np.errstate(over="ignore"):
            rounded[name] = x.astype(np.float16).astype(x.dtype)
        if not np.array_equal(np.isfinite(rounded[name]), np.isfinite(x)):
            raise ValueError(f"halved: {name} has numbers up to {np.abs(x).max()}, float16 ends at 65504")
    return rounded


# What it takes.


def sizes(params: Mapping[str, Any]) -> dict[str, float]:
    """The bytes of a model: by the formulas of `formulas`, added up over its arrays, and as they are.

    dense, gzip   the arrays one after the other, compressed by gzip: what a tool that knows nothing makes of the zeros
    payload       positions and values of the packed file, with the codebooks and the lengths of the Huffman codes
    file          the packed file: names, shapes, dtypes and checksum too
    file, gzip    the packed file, compressed by gzip, which should find nothing more
    """
    arrays = {name: _plain(name, x) for name, x in params.items()}
    rows = [formulas(x) for x in arrays.values()]
    data = pack(arrays)
    return {
        **{formula: sum(row[formula] for row in rows) for formula in FORMULAS},
        "dense, gzip": len(gzip.compress(b"".join(x.tobytes() for x in arrays.values()))),
        "payload": len(data) - len(MAGIC) - 4 - sum(len(_head(name, x)) for name, x in arrays.items()),
        "file": len(data),
        "file, gzip": len(gzip.compress(data)),
    }


FORMULAS = ("dense", "bitmask", "csr", "relative index", "entropy-coded mask", "codebook", "codebook, Huffman")


def formulas(w: Any) -> dict[str, float]:
    r"""The bytes of one array, by formula. It has n numbers of b bits, of which m are not 0; those are k different ones.

    dense                n b
    bitmask              n + m b
    csr                  m (b + 16) + 32 (rows + 1); the first axis has the rows, and 16 is 32 for more than 2^16 columns
    relative index       (m + f) (b + r), with gaps of r = 5 bits (8 for a convolution), and f zeros stored where one is too long
    entropy-coded mask   n H(m / n) + m b, the bound for positions that say nothing of one another; H of `engine.huffman.entropy`
    codebook             (m + f) (ceil(log2(k + 1)) + r) + k b, the code 0 for a stored zero
    codebook, Huffman    k b and what the gaps and the codes take in Huffman codes, without the tables of their lengths

    over 8. An array without zeros needs no positions, and one whose codebook would take more than its values has none.
    Sources: Han, Mao & Dally (2016), sec. 2 and 3; for the entropy, Shannon (1948).
    """
    w = _plain("w", w)
    flat, b = w.reshape(-1), 8 * w.itemsize
    kept = np.flatnonzero(flat)
    n, m = len(flat), len(kept)
    r = 8 if w.ndim > 2 else 5
    span = 2**r - 1
    gaps = _gaps(kept, span)
    stored = len(gaps) if m < n else m  # with the zeros where a gap is too long
    index = r if m < n else 0
    rows = len(w) if w.ndim > 1 else 1
    columns = 16 if n <= 2**16 * rows else 32
    counts = np.unique(_bits(flat[kept]), return_counts=True)[1]
    k = len(counts)
    in_bits = {
        "dense": n * b,
        "bitmask": (n if m < n else 0) + m * b,
        "csr": m * (b + columns) + 32 * (rows + 1) if m < n else n * b,
        "relative index": stored * (b + index),
        "entropy-coded mask": n * huffman.entropy([m, n - m]) + m * b,
        "codebook": stored * index + min(stored * b, stored * math.ceil(math.log2(k + 1)) + k * b),
        "codebook, Huffman": (_huffman_bits(np.bincount(gaps)) if m < n else 0) + min(m * b, _huffman_bits(counts) + k * b),
    }
    return {formula: in_bits[formula] / 8 for formula in FORMULAS}


def _huffman_bits(counts: np.ndarray) -> float:
    return huffman.size(counts, huffman.code_lengths(counts)) if np.count_nonzero(counts) <= 2**huffman.LIMIT else math.inf


# Writing.


def _plain(name: str, given: Any) -> np.ndarray:
    """`given` in row order, little-endian, and without -0, which is what a negative weight times a mask gives."""
    x: np.ndarray = np.asarray(given)
    dtype = x.dtype.newbyteorder("<")
    if dtype not in DTYPES:
        raise TypeError(f"{name}: an array of {x.dtype} cannot be packed, real numbers of up to 64 bits can")
    return np.where(x == 0, np.zeros((), dtype), x).astype(dtype, order="C")


def _head(name: str, x: np.ndarray) -> bytes:
    text = name.encode()
    return b"".join([_number(len(text)), text, _dtype(x.dtype), *map(_number, (x.ndim, *x.shape))])


def _stored(x: np.ndarray) -> bytes:
    """Positions and values."""
    flat = x.reshape(-1)
    kept = np.flatnonzero(flat)
    return min(b"\x00" + _values(flat), min(_positions(flat), key=len) + _values(flat[kept]), key=len)


def _positions(flat: np.ndarray) -> list[bytes]:
    """In every way there is."""
    kept = flat != 0
    method, rare = (2, kept) if 2 * np.count_nonzero(kept) <= len(kept) else (3, ~kept)
    gaps = {span: _gaps(np.flatnonzero(rare), span) for span in SPANS}
    codes = [bytes([method, span]) + _number(len(symbols)) + _huffman(symbols) for span, symbols in gaps.items()]
    return [b"\x01" + np.packbits(kept).tobytes(), *codes]


def _gaps(places: np.ndarray, span: int) -> np.ndarray:
    """What lies before each of the rising places: `span` for so many and no place, a smaller one for the rest and a place."""
    between = np.diff(places, prepend=-1) - 1
    last = np.cumsum(between // span + 1) - 1
    symbols = np.full(last[-1] + 1 if len(last) else 0, span)
    symbols[last] = between % span
    return symbols


def _values(flat: np.ndarray) -> bytes:
    plain = b"\x00" + _numbers(flat)
    different, places = np.unique(_bits(flat), return_inverse=True)
    if len(different) > 2**huffman.LIMIT:
        return plain
    return min(plain, b"\x01" + _number(len(different)) + _numbers(different.view(flat.dtype)) + _huffman(places), key=len)


def _numbers(flat: np.ndarray) -> bytes:
    """In the smallest dtype of their kind from which they come back to the bit."""
    for dtype in DTYPES:
        if dtype.kind == flat.dtype.kind and dtype.itemsize <= flat.itemsize:
            with np.errstate(over="ignore", invalid="ignore"):
                narrow = flat.astype(dtype)
            if np.array_equal(_bits(narrow.astype(flat.dtype)), _bits(flat)):
                break
    return _dtype(dtype) + narrow.tobytes()


def _huffman(symbols: np.ndarray) -> bytes:
    lengths, bits = huffman.encode(symbols)
    pairs = np.append(lengths, np.zeros(len(lengths) % 2, np.uint8)).reshape(-1, 2)
    table: np.ndarray = pairs[:, 0] << 4 | pairs[:, 1]
    return _number(len(lengths)) + table.tobytes() + _number(len(bits)) + bits.tobytes()


def _bits(flat: np.ndarray) -> np.ndarray:
    """The numbers as unsigned integers of their size, by which nan is itself."""
    return flat.view(f"<u{flat.itemsize}")


def _dtype(dtype: np.dtype[Any]) -> bytes:
    return bytes([DTYPES.index(dtype)])


def _number(n: int) -> bytes:
    groups = [n & 127]
    while n := n >> 7:
        groups.append(n & 127)
    return bytes([g | 128 for g in groups[:-1]] + groups[-1:])


# Reading.


def _read(data: bytes) -> list[Entry]:
    if data[: len(MAGIC)] != MAGIC:
        raise PackedError(f"is not a packed model: it starts with {data[: len(MAGIC)]!r}, not with {MAGIC!r}")
    body = data[len(MAGIC) + 4 :]
    if zlib.crc32(body).to_bytes(4, "little") != data[len(MAGIC) : len(MAGIC) + 4]:
        raise PackedError(f"is damaged, or only a part ({len(data)} bytes): its checksum does not fit its content")
    reader, found = _Reader(body), []
    while reader.place < len(body):
        found.append(reader.entry())
    return found


class _Reader:
    """The inverse of each function that writes, from one place in the bytes to the next."""

    def __init__(self, data: bytes):
        self.data = data
        self.place = 0

    def entry(self) -> Entry:
        start = self.place
        name = self.take(self.number()).decode()
        dtype = DTYPES[self.one_of(DTYPES)]
        shape = [self.number() for _ in range(self.number())]
        positions = self.one_of(POSITIONS)
        kept = self.positions(positions, math.prod(shape))
        values = self.one_of(VALUES)
        flat = np.zeros(math.prod(shape), dtype)
        flat[kept] = self.values(values, len(flat[kept]))
        return Entry(name, flat.reshape(shape), POSITIONS[positions], VALUES[values], self.place - start)

    def positions(self, method: int, n: int) -> Any:
        if method == 0:
            return slice(None)
        if method == 1:
            return np.unpackbits(np.frombuffer(self.take(-(-n // 8)), np.uint8), count=n).astype(bool)
        span = self.byte()
        gaps = self.huffman(self.number())
        ends = gaps < span
        places = np.cumsum(gaps + ends)[ends] - 1
        if places.max(initial=-1) >= n:
            raise PackedError(f"an array of {n} numbers is asked for number {places.max()}")
        kept = np.full(n, method == 3)
        kept[places] = method == 2
        return kept

    def values(self, method: int, count: int) -> np.ndarray:
        if method == 0:
            return self.numbers(count)
        codebook = self.numbers(self.number())
        places = self.huffman(count)
        if places.max(initial=-1) >= len(codebook):
            raise PackedError(f"a codebook of {len(codebook)} numbers is asked for number {places.max()}")
        values: np.ndarray = codebook[places]
        return values

    def numbers(self, count: int) -> np.ndarray:
        dtype = DTYPES[self.one_of(DTYPES)]
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def huffman(self, count: int) -> np.ndarray:
        symbols = self.number()
        pairs = np.frombuffer(self.take(-(-symbols // 2)), np.uint8)
        lengths = np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)[:symbols]
        return huffman.decode(lengths, np.frombuffer(self.take(self.number()), np.uint8), count)

    def one_of(self, known: tuple[Any, ...]) -> int:
        number = self.byte()
        if number >= len(known):
            raise PackedError(f"has the number {number}, where {len(known) - 1} is the largest: it is of a later version, or damaged")
        return number

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        n, shift = 0, 0
        while (group := self.byte()) & 128:
            n, shift = n | (group & 127) << shift, shift + 7
        return n | group << shift

    def take(self, count: int) -> bytes:
        taken = self.data[self.place : self.place + count]
        if len(taken) < count:
            raise PackedError("ends within an array")
        self.place += count
        return taken
