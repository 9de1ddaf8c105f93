"""A checkpoint is the old one or the new one, whole, and says what is wrong with it."""

import json
import os
import re
import struct
import sys

import numpy as np
import pytest

from engine.checkpoints import CheckpointError, load, save

safetensors = pytest.importorskip("safetensors.numpy")

RNG = np.random.default_rng(0)
ARRAYS = {
    "params": {
        "conv1/w": RNG.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "transposed": RNG.normal(size=(5, 3)).T,
        "every other": np.arange(12.0)[::2],
        "backwards": np.arange(6.0)[::-1],
        "scalar": np.array(3.5),
        "none": np.zeros((0, 4), np.float32),
        "big endian": np.arange(4, dtype=">f8"),
    },
    "masks": {"conv1/w": RNG.integers(0, 2, (4, 3)) == 1, "half": np.float16([0.1, np.nan, np.inf]), "count": np.int64(2**60)},
    "state": {},
}
NOTES = {"epoch": 3, "history": [{"loss": 0.1}, {"loss": float("nan")}], "name": "é", "seed": 2**63 + 1}


def test_what_is_saved_is_what_is_loaded(tmp_path):
    save(tmp_path / "a run.safetensors", ARRAYS, NOTES)
    arrays, notes = load(tmp_path / "a run.safetensors")
    assert [(g, *d) for g, d in arrays.items()] == [(g, *d) for g, d in ARRAYS.items()]  # in this order: sums depend on it
    for group, named in ARRAYS.items():
        for name, x in named.items():
            y = arrays[group][name]
            assert y.shape == np.shape(x) and y.dtype == x.dtype.newbyteorder("=")
            assert y.tobytes() == np.asarray(x).astype(y.dtype).tobytes()
            assert y.flags.c_contiguous and y.flags.writeable and y.flags.owndata
    assert json.dumps(notes) == json.dumps(NOTES)  # as text: nan is not nan
    assert os.listdir(tmp_path) == ["a run.safetensors"]


def test_any_tool_that_reads_safetensors_reads_it(tmp_path):
    save(tmp_path / "c", ARRAYS, NOTES)
    x = safetensors.load_file(tmp_path / "c")["params/transposed"]
    assert np.array_equal(x, ARRAYS["params"]["transposed"])


def test_a_second_save_takes_the_place_of_the_first(tmp_path):
    save(tmp_path / "c", ARRAYS, NOTES)
    save(tmp_path / "c", {"params": {"w": np.ones(2)}}, {"epoch": 4})
    arrays, notes = load(tmp_path / "c")
    assert arrays["params"]["w"].tolist() == [1, 1] and notes == {"epoch": 4}


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "c"
    save(path, ARRAYS, NOTES)
    return path


@pytest.mark.parametrize("keep", [0, 3, 8, 9, 200, -1])
def test_a_truncated_file(whole, keep):
    whole.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=f"{re.escape(str(whole))} .* is not a checkpoint, or only a part of one"):
        load(whole)


def test_every_damaged_byte_is_seen(whole):
    data = bytearray(whole.read_bytes())
    for i in range(len(data)):
        data[i] ^= 4
        whole.write_bytes(data)
        with pytest.raises(CheckpointError):
            load(whole)
        data[i] ^= 4


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip", b"\x93NUMPY" + bytes(100), struct.pack("<Q", 2) + b"[]", bytes(64)])
def test_a_foreign_file(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load(tmp_path / "x")


def test_weights_of_another_program(tmp_path):
    safetensors.save_file({"w": np.ones(2)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="is a safetensors file, but not a checkpoint of a run: its format is None"):
        load(tmp_path / "x")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at"):
        load(tmp_path / "x")


def test_a_missing_folder(tmp_path):
    with pytest.raises(OSError, match="could not be written"):
        save(tmp_path / "nowhere" / "c", ARRAYS, NOTES)


def test_what_cannot_be_stored_is_named(tmp_path):
    with pytest.raises(TypeError, match="params/z: an array of complex128"):
        save(tmp_path / "c", {"params": {"z": np.ones(2, complex)}}, {})
    with pytest.raises(TypeError, match="set"):
        save(tmp_path / "c", {}, {"a set": {1}})
    with pytest.raises(ValueError, match="has a slash"):
        save(tmp_path / "c", {"a/b": {}}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes to stand for a full disk")
def test_a_full_disk_leaves_the_old_checkpoint(whole):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"could not be written .* the one before it is untouched"):
            save(whole, {"params": {"w": np.ones(100_000)}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load(whole)[1]["epoch"] == 3
    assert os.listdir(whole.parent) == ["c"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_interrupted_while_writing(whole, monkeypatch, moment):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(whole, {"params": {}}, {})
    monkeypatch.undo()
    assert load(whole)[1]["epoch"] == 3
    assert os.listdir(whole.parent) == ["c"]


def test_a_link_stays_a_link(whole):
    link = whole.with_name("latest")
    link.symlink_to(whole)
    save(link, {"params": {}}, {"epoch": 9})
    assert link.is_symlink() and load(whole)[1] == {"epoch": 9}
