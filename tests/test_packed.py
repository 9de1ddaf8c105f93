"""A packed model is the model to the bit, its file is as small as the formulas say, and a file that is not whole is refused."""

import os
import re
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine import huffman, packed
from engine.models import cnn, mlp
from engine.packed import DTYPES, FORMULAS, MAGIC, PackedError, entries, formulas, halved, load, pack, save, sizes, unpack
from engine.share import share

RNG = np.random.default_rng(8)


def bits(params):
    """Names, shapes, dtypes and bits, in this order; 0 for -0."""
    native = {name: np.where(x == 0, 0, x).astype(np.asarray(x).dtype.newbyteorder("=")) for name, x in params.items()}
    return [(name, x.shape, x.dtype, x.tobytes()) for name, x in native.items()]


def alike(a, b):
    return bits(a) == bits(b)


def pruned(params, keep):
    return {name: RNG.random(w.shape) < keep for name, w in params.items() if w.ndim > 1}


def compressed(params, keep, k=16):
    """The model pruned and shared, at random: what counts here are its bytes."""
    return share(
        {name: w + (w.ndim == 1) * RNG.normal(size=w.shape).astype(w.dtype) for name, w in params.items()}, k, masks=pruned(params, keep)
    ).expand()


@st.composite
def models(draw):
    """Arrays of any dtype and shape, with few or many different numbers, few or many zeros."""
    params = {}
    for name in draw(st.lists(st.text(max_size=5), unique=True, max_size=3)):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
        if draw(st.booleans()):
            codebook = draw(arrays.arrays(dtype, draw(st.integers(1, 5))))
            x = codebook[draw(arrays.arrays(np.intp, shape, elements=st.integers(0, len(codebook) - 1)))]
        else:
            x = draw(arrays.arrays(dtype, shape))
        params[name] = np.where(draw(arrays.arrays(bool, shape)), x, np.zeros((), dtype)) if draw(st.booleans()) else x
    return params


@settings(max_examples=100)
@given(models())
def test_what_is_packed_is_unpacked(params):
    data = pack(params)
    assert alike(unpack(data), params)
    assert data == pack(unpack(data))


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.08, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("model", [mlp.init, cnn.init_classic])
def test_a_model_comes_back_to_the_bit(model, dtype, keep, tmp_path):
    params = compressed(model(0, dtype=dtype), keep)
    assert save(tmp_path / "m", params) == os.path.getsize(tmp_path / "m")
    again = load(tmp_path / "m")
    assert alike(again, params)
    assert all(x.flags.c_contiguous and x.flags.writeable for x in again.values())
    assert os.listdir(tmp_path) == ["m"]


SPECIAL = np.float32([0.0, -0.0, np.nan, -np.inf, 1e-45, 65504, 65505, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    "x",
    [
        SPECIAL,
        np.tile(SPECIAL, 50),
        SPECIAL.reshape(2, 3, 2)[::-1, :, ::-1],
        RNG.normal(size=(4, 5)).T,
        np.arange(6, dtype=">f8"),
        np.array(3.5),
        np.array(0.0),
        np.zeros((0, 4), np.float32),
        np.zeros(100_000),
        np.eye(1, 100_000, 99_999, dtype=np.float32),
        RNG.normal(size=40_000).astype(np.float32),  # more different numbers than any codebook holds
        RNG.integers(-8, 8, (30, 40)).astype(np.int8) * (RNG.random((30, 40)) < 0.1),
        np.int64([2**62, -1, 0]),
        RNG.random(100) < 0.3,
    ],
    ids=lambda x: f"{x.dtype}-{x.shape}",
)
def test_any_array(x):
    assert alike(unpack(pack({"x": x})), {"x": x})


def test_a_zero_has_no_sign():
    """Else what a negative weight times a mask gives would be stored, and counted as a number of the codebook."""
    x = np.arange(-20.0, 60.0)
    x[20] = -0.0
    y = unpack(pack({"x": x}))["x"]
    assert np.array_equal(x, y) and not np.signbit(y[20]) and pack({"x": x}) == pack({"x": x + 0.0})


def test_masks_are_the_places_that_are_not_zero(tmp_path):
    params = mlp.init(0)
    masks = pruned(params, 0.1)
    save(tmp_path / "m", share(params, 8, masks=masks).expand())
    again = load(tmp_path / "m")
    assert all(np.array_equal(again[name] != 0, mask) for name, mask in masks.items())
    shared = share(again, 8, masks=masks)  # the codebooks are found again, to go on with
    assert alike(shared.expand(), again)


# Each array in the way that is shortest for it.


def stored(x):
    (entry,) = packed._read(pack({"x": x}))
    return entry.positions, entry.values


@pytest.mark.parametrize(
    "how, x",
    [
        (("all", "plain"), RNG.normal(size=(30, 30))),
        (("all", "codebook"), RNG.normal(size=4)[RNG.integers(0, 4, (30, 30))]),
        (("gaps", "plain"), RNG.normal(size=(30, 30)) * (RNG.random((30, 30)) < 0.1)),
        (("gaps", "codebook"), RNG.normal(size=4)[RNG.integers(0, 4, (30, 30))] * (RNG.random((30, 30)) < 0.1)),
        (("gaps of zeros", "plain"), RNG.normal(size=(30, 30)) * (RNG.random((30, 30)) < 0.9)),
        (("bitmask", "plain"), RNG.normal(size=24) * np.repeat([1, 1, 0], [9, 1, 14])[RNG.permutation(24)]),
    ],
)
def test_the_shortest_way_is_taken(how, x):
    assert stored(x) == how
    flat = x.reshape(-1) + 0.0
    kept = np.flatnonzero(flat)
    alternatives = [b"\x00" + packed._values(flat), *(way + packed._values(flat[kept]) for way in packed._positions(flat))]
    assert len(packed._stored(x)) == min(map(len, alternatives))


def test_numbers_take_the_smallest_dtype_that_holds_them():
    x = RNG.normal(size=1000)
    half, single, double = (len(pack({"x": x.astype(dtype).astype(np.float64)})) for dtype in ("f2", "f4", "f8"))
    assert double - single == 4000 and single - half == 2000
    assert len(pack({"x": np.arange(120)})) < 160  # int64 that fit in a byte


def test_halved_numbers():
    params = {"w/codebook": np.float32([1 / 3, np.inf]), "b": np.float32([1 / 3, 70_000])}
    assert halved({"codes": np.int32([2**20])})["codes"].tolist() == [2**20]
    less = halved(params, "*/codebook")
    assert less["w/codebook"].dtype == np.float32 and less["w/codebook"][0] == np.float32(np.float16(1 / 3))
    assert less["b"] is params["b"]
    with pytest.raises(ValueError, match=r"halved: b has numbers up to 7.*, float16 ends at 65504"):
        halved(params)


# The formulas.


def test_the_formulas_by_hand():
    w = np.zeros((2, 50), np.float32)
    w[0, [0, 1, 40]], w[1, 49] = [2, 3, 2], 2  # gaps 0, 0, 38 = 31 + 7, 58 = 31 + 27
    by_hand = {
        "dense": 100 * 32,
        "bitmask": 100 + 4 * 32,
        "csr": 4 * (32 + 16) + 3 * 32,
        "relative index": 6 * (32 + 5),
        "entropy-coded mask": 100 * (-0.04 * np.log2(0.04) - 0.96 * np.log2(0.96)) + 4 * 32,
        "codebook": 6 * 5 + 6 * 2 + 2 * 32,
        "codebook, Huffman": 6 * 2 + 4 * 1 + 2 * 32,  # gaps 0 0 31 7 31 27: four symbols, of 2 bits each or 1, 2, 3, 3
    }
    assert list(by_hand) == list(FORMULAS)
    assert formulas(w) == {formula: pytest.approx(bits / 8) for formula, bits in by_hand.items()}


def test_an_array_without_zeros_needs_no_positions():
    row = formulas(np.arange(1, 101, dtype=np.float32))
    assert {row[formula] for formula in FORMULAS} == {400}
    assert set(formulas(np.zeros((3, 0))).values()) == {0}


@pytest.mark.parametrize("keep", [0.01, 0.02, 0.08, 0.25, 0.5, 0.7, 0.9, 0.98, 0.99])
def test_positions_come_near_the_bound(keep):
    flat = (np.random.default_rng(3).random(235_200) < keep) * 1.0
    m = np.count_nonzero(flat)
    bound = len(flat) * huffman.entropy([m, len(flat) - m]) / 8
    assert min(map(len, packed._positions(flat))) < 1.015 * bound + 128  # a table of 256 lengths


def overhead(name, w, k=16):
    """The bytes that the formula leaves out, at most: name, shape, dtypes, counts; half a byte for each symbol of two Huffman codes."""
    return len(name) + 30 + (2 ** (8 if w.ndim > 2 else 5) + k) / 2


@pytest.mark.parametrize("keep", [0.02, 0.08, 0.25])
@pytest.mark.parametrize("model", [mlp.init, cnn.init_caffe])
def test_the_file_is_as_small_as_the_formula(model, keep):
    params = compressed(model(0), keep)
    s = sizes(params)
    ideal = s["codebook, Huffman"]
    assert s["file"] <= ideal + 12 + sum(overhead(name, w) for name, w in params.items())
    assert 0.97 * ideal <= s["payload"] < s["file"] <= s["payload"] + 20 * len(params) + 12
    assert s["file"] == len(pack(params))
    assert s["dense"] == sum(w.nbytes for w in params.values())
    assert s["dense"] > s["bitmask"] > s["codebook"] > s["codebook, Huffman"]
    assert s["file, gzip"] > 0.98 * s["file"]  # there is nothing left to find
    assert s["dense, gzip"] > 1.5 * s["file"]


def test_a_broken_packing_breaks_the_bound(monkeypatch):
    """With gaps in eight plain bits the file would be too large for the law above."""
    monkeypatch.setattr(packed, "_positions", lambda flat: [packed._gaps(np.flatnonzero(flat), 255).astype(np.uint8).tobytes()])
    with pytest.raises(AssertionError):
        test_the_file_is_as_small_as_the_formula(mlp.init, 0.08)


def test_the_bytes_of_the_arrays_are_those_of_the_file(tmp_path):
    params = compressed(cnn.init_classic(0), 0.1)
    n = save(tmp_path / "m", params)
    assert sum(entry.bytes for entry in entries(tmp_path / "m")) + len(MAGIC) + 4 == n


# Files that are not whole, or not ours.


@pytest.fixture
def whole(tmp_path):
    save(tmp_path / "m", compressed(mlp.init(0, (5, 6, 3)), 0.4, 3))
    return tmp_path / "m"


def test_every_damaged_byte_is_seen(whole):
    data = bytearray(whole.read_bytes())
    for i in range(len(data)):
        data[i] ^= 16
        whole.write_bytes(data)
        with pytest.raises(PackedError, match=re.escape(str(whole))):
            load(whole)
        data[i] ^= 16


def test_a_truncated_file(whole):
    data = whole.read_bytes()
    for keep in range(len(data)):
        whole.write_bytes(data[:keep])
        with pytest.raises(PackedError, match=r"is damaged, or only a part|is not a packed model"):
            load(whole)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 127)), min_size=1, max_size=3))
def test_bytes_with_the_right_sum_are_read_or_refused(changes):
    body = bytearray(pack({"w": np.float32([[0, 1, 2, 0, 0, 0, 1, 2, 1, 1]] * 4), "b": np.float32([0.1, 0, 0.2])})[12:])
    for place, byte in changes:
        body[place % len(body)] = byte
    try:
        unpack(MAGIC + zlib.crc32(body).to_bytes(4, "little") + body)
    except PackedError as e:
        assert str(e)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"gnompak2 from the future"])
def test_another_file(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(PackedError, match="is not a packed model: it starts with"):
        load(tmp_path / "m")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "m")


def test_what_cannot_be_packed_leaves_the_old_file(whole):
    before = whole.read_bytes()
    for x in (np.ones(2, complex), np.array(["a"]), np.array([None])):
        with pytest.raises(TypeError, match=r"w: an array of .* cannot be packed"):
            save(whole, {"w": x})
    assert whole.read_bytes() == before and os.listdir(whole.parent) == ["m"]
