"""An integer network in C: compiled without a warning, it gives the codes of `Network.run`, bit for bit, under each rule."""

import re
import shutil
import subprocess
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from engine.export import c99, c99_parts
from engine.export.c99 import placed, source, write
from engine.models import cnn
from engine.quantise import convert
from engine.quantise.folded import fold
from engine.quantise.integer import Add, AvgPool, Codes, Conv, Dense, Flatten, MaxPool, Network, Requantise
from engine.quantise.rules import RULES
from tests import tally
from tests.test_integer import DTYPES, GEOMETRIES, WINDOWS, drawn_conv, drawn_dense, lenet, pictures, residual, whole

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
GUARDED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@lru_cache
def compiler(*flags):
    """gcc and these flags, or gcc alone if it has no library for them; None without gcc."""
    gcc = shutil.which("gcc")
    if gcc is None:
        return None
    empty = subprocess.run([gcc, *flags, "-x", "c", "-o", "/dev/null", "-"], input=b"int main(void) { return 0; }", capture_output=True)
    return [gcc, *flags] if empty.returncode == 0 else [gcc]


def compiled(text, folder, *flags, name="net"):
    """The program of that text, or skip."""
    gcc = compiler(*GUARDED) if flags == () else compiler()
    if gcc is None:
        tally.not_run("integer networks in C: there is no gcc")
        pytest.skip("there is no gcc")
    if flags == () and len(gcc) == 1:
        tally.not_run("integer networks in C under the sanitizers of gcc: it has none")
    file, program = folder / f"{name}.c", folder / name
    file.write_text(text)
    said = subprocess.run(
        [*gcc, *STRICT, *(flags or ["-O2"]), f"-D{name.upper()}_MAIN", file, "-o", program], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    return program


def answers(program, network, codes, shape):
    """What the program says to these codes."""
    said = subprocess.run([program], input=codes.tobytes(), capture_output=True)
    assert said.returncode == 0, said.stderr.decode()
    return np.frombuffer(said.stdout, network.output.dtype).reshape(shape)


def agrees(network, codes, folder, *flags, text=None):
    """Whether C has the codes of the network."""
    wanted = network.run(codes)
    program = compiled(text or source(network, "net", codes.shape[1:]), folder, *flags)
    return np.array_equal(answers(program, network, codes, wanted.shape), wanted)


def one(layer, x, y):
    return Network(x, y, (layer,))


RULE_NAMES = list(RULES)


@pytest.mark.parametrize("number", range(len(GEOMETRIES)))
def test_a_convolution_of_each_geometry(number, tmp_path):
    dtype, rule = DTYPES[number % 2], RULE_NAMES[number % len(RULES)]
    layer, x, _, y, codes = drawn_conv(number, GEOMETRIES[number], dtype, per_channel=number % 3 > 0, rule=rule)
    if number % 4 == 1:
        layer = replace(layer, w_zero_point=np.random.default_rng(number).integers(-9, 9, len(layer.bias)).astype(np.int32))
    assert len(np.unique(layer(codes))) > 20  # not all at the ends
    assert agrees(one(layer, x, y), codes, tmp_path)
    tally.ran("gcc", "a convolution in C, bit for bit")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_depthwise_convolution_with_padding_on_two_sides(dtype, tmp_path):
    layer, x, _, y, codes = drawn_conv(3, {"groups": 4, "padding": ((0, 2), (3, 1)), "stride": (2, 1)}, dtype, per_channel=True)
    assert agrees(one(layer, x, y), codes, tmp_path)


def test_padding_wider_than_the_picture(tmp_path):
    layer, x, _, y, codes = drawn_conv(5, {"padding": 7, "dilation": 2, "stride": 3}, "uint8", per_channel=True)
    assert agrees(one(layer, x, y), codes[:, :, :2, :3], tmp_path)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_dense_layer(rule, asymmetric, tmp_path):
    layer, x, _, y, codes = drawn_dense(2, "int8" if asymmetric else "uint8", per_channel=asymmetric, rule=rule)
    if asymmetric:
        layer = replace(layer, w_zero_point=np.arange(-5, 6, dtype=np.int32))
    assert agrees(one(layer, x, y), codes, tmp_path)


def sums_as_biases(rule):
    """A layer whose sums are its biases: all over int32, at ties and next to them, each with a multiplier of its own."""
    rng = np.random.default_rng(len(rule))
    count = 6000
    ratio = 2.0 ** rng.uniform(-32, 8, count)
    ratio[::2] = 2.0 ** np.floor(np.log2(ratio[::2]))
    wanted = rng.integers(-260, 260, count) / 2
    sums = np.rint(wanted / ratio) + rng.integers(-1, 2, count)
    sums[::7] = rng.integers(-(2**31) + 1, 2**31, len(sums[::7]))
    sums = np.clip(sums, -(2**31) + 1, 2**31 - 1).astype(np.int32)
    m = RULES[rule].store(ratio.astype(np.float32))
    to = Requantise(rule, m.mantissa, m.shift, 3, -128, 127, "int8")
    return one(Dense("fc", np.zeros((1, count), np.int8), sums, to), Codes(1.0), Codes(1.0, 3, "int8"))


@pytest.mark.parametrize("rule", RULES)
def test_requantisation_of_sums_and_multipliers_of_every_size(rule, tmp_path):
    network, codes = sums_as_biases(rule), np.zeros((1, 1), np.uint8)
    assert len(np.unique(network.run(codes))) == 256
    assert agrees(network, codes, tmp_path)
    tally.ran("gcc", f"{rule} in C, bit for bit", 6000)


@pytest.mark.parametrize("number", range(len(WINDOWS)))
def test_pools_of_each_geometry(number, tmp_path):
    for k, kind in enumerate([MaxPool, AvgPool, AvgPool]):
        dtype = DTYPES[(number + k) % 2]
        z = 5 if number % 2 else -7 if dtype == "int8" else 0
        more = {} if kind is MaxPool else {"zero_point": z, "count_include_pad": k == 1}
        network = one(kind("pool", **WINDOWS[number], **more), Codes(0.5, z, dtype), Codes(0.5, z, dtype))
        assert agrees(network, whole(np.random.default_rng(number), (2, 3, 9, 10), dtype), tmp_path)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_with_two_branches(rule, dtype, tmp_path):
    assert agrees(residual(dtype, rule), pictures(dtype, 32, (3, 8, 8)), tmp_path)


def of_all_kinds():
    """uint8 and int8 codes, two rules, names that are none in C, branches that are read much later, and a pool that nobody reads."""
    rng = np.random.default_rng(9)
    x, h, r = Codes(0.02, 100), Codes(0.05, -11, "int8"), Codes(0.03, 90)
    w, w2, w3 = (rng.integers(-127, 128, shape).astype(np.int8) for shape in [(4, 4, 3, 3), (4, 1, 3, 3), (144, 4)])
    bias = rng.integers(-500, 500, 4).astype(np.int32)
    return Network(x, h, (
        Conv("a/b", w, bias, Requantise.between(x, 0.004, h, rule="fp32"), 100, padding=1, reads=("input",)),
        Conv("a_b", w2, bias, Requantise.between(h, 0.02, r, rule="q31-double"), -11, padding=1, groups=4),
        MaxPool("*/ int", 3, 1, 1),
        MaxPool("unread", 2),
        Add.between("1", h, r, h, reads=("a/b", "*/ int")),
        Add.between("conv", h, x, r, reads=("1", "input")),
        Flatten("flat"),
        Dense("memory", w3, bias, Requantise.between(r, 0.003, h, rule="fp32"), 90),
        Flatten("flat again"),
    ))  # fmt: skip


def test_types_rules_and_names_of_all_kinds(tmp_path):
    network, codes = of_all_kinds(), whole(np.random.default_rng(1), (20, 4, 6, 6), "uint8")
    text = source(network, "net", codes.shape[1:])
    assert "conv_2(" in text and "dense(" in text and "add_2(" in text
    assert agrees(network, codes, tmp_path, text=text)
    assert agrees(network, codes, tmp_path, "-O3", text=text)


@lru_cache
def classic(rule):
    predict, params = cnn.predict_classic, cnn.init_classic(0)
    x = np.random.default_rng(0).normal(size=(64, 1, 28, 28)).astype(np.float32)
    net = fold(predict, params, x[:2])
    return convert.integers(net, convert.calibrated(net, [x]), rule=rule)


@pytest.mark.parametrize("rule", RULES)
def test_lenet_has_the_codes_of_the_network_on_ten_thousand_pictures(rule, tmp_path):
    network, count = classic(rule), 10_000 if rule == "fp32" else 1000
    x = np.random.default_rng(1).normal(size=(count, 1, 28, 28)) * np.linspace(0.1, 3, count).reshape(-1, 1, 1, 1)
    codes = network.input.quantise(x)
    wanted = np.concatenate([network.run(part) for part in np.array_split(codes, 10)])
    program = compiled(source(network, "net"), tmp_path, "-O3")
    assert np.array_equal(answers(program, network, codes, wanted.shape), wanted)
    assert len(np.unique(wanted)) > 50
    tally.ran("gcc", "LeNet-5 in C, bit for bit", count)


def test_no_option_of_the_compiler_has_a_say(tmp_path):
    assert agrees(lenet(), pictures("uint8", 64), tmp_path, "-O3", "-ffast-math", "-ffp-contract=fast")


MUTANTS = {
    "a zero point forgotten": (lambda: residual("uint8"), "- zero) * (w[j]", "- 0 * zero) * (w[j]"),
    "a tie of a mean": (lambda: residual("uint8"), "(2 * rest + (below & 1) > n)", "(2 * rest >= n)"),
    "a tie of a sum": (lambda: sums_as_biases("rndnu"), "v + (INT64_C(1) << shift >> 1)", "v + (INT64_C(1) << shift >> 1) - 1"),
    "the group of a channel": (lambda: of_all_kinds(), "o / group * ", "0 * group * "),
    "an unsigned largest code": (lambda: of_all_kinds(), "largest = 0", "largest = 90"),
    "24 bits": (lambda: sums_as_biases("fp32"), "half_even_shift(v, spare) << spare", "v"),
    "a tie of q31": (lambda: sums_as_biases("q31-double"), "+ (high < 0)", ""),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_broken_c_is_caught(mutant, tmp_path):
    make, old, new = MUTANTS[mutant]
    network = make()
    shape = {"uint8": (3, 8, 8), "int8": (4, 6, 6)}[network.output.dtype] if len(network.layers) > 1 else (1,)
    codes = whole(np.random.default_rng(2), (40, *shape), "uint8")
    text = source(network, "net", shape)
    assert text.count(old) >= 1
    assert not agrees(network, codes, tmp_path, "-O2", text=text.replace(old, new))


def test_buffers_that_overlap_are_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(c99, "placed", lambda sizes, lives: ([0] * len(sizes), max(sizes)))
    assert not agrees(residual("uint8"), pictures("uint8", 8, (3, 8, 8)), tmp_path, "-O2")


def without_library(text, file):
    """Compiled as for a machine that has no C library, with more warnings."""
    if compiler() is not None:
        file.write_text(text)
        more = ["-Wconversion", "-Wshadow", "-Wmissing-prototypes", "-Wcast-qual", "-ffreestanding"]
        said = subprocess.run([*compiler(), *STRICT, *more, "-c", file, "-o", file.with_suffix(".o")], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr


def test_it_needs_stdint_only_and_has_no_float(tmp_path):
    for text in (source(lenet()), source(of_all_kinds(), shape=(4, 6, 6)), source(classic("pow2"))):
        without_library(text, tmp_path / "net.c")
        text, main = text.split("#ifdef DIGITS_MAIN")
        assert re.findall("#include.*", text) == ["#include <stdint.h>"] and "stdio" in main
        assert not re.search(r"\b(float|double|malloc|math)\b", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
        assert max(map(len, text.splitlines())) <= 140


def test_what_is_not_used_is_not_there():
    text = source(lenet(rule="q31-single"))
    assert "fp32" not in text and "average" not in text and "struct add" not in text
    assert c99_parts.RULES.keys() == RULES.keys()


# Sizes and memory.


def test_sizes_are_told(tmp_path):
    network = lenet()
    written = write(tmp_path / "net.c", network, name="net")
    arrays = [a for layer in network.layers if hasattr(layer, "w") for a in (layer.w, layer.bias, np.zeros(len(layer.bias), "i4,i1"))]
    assert written.constants == sum(a.nbytes for a in arrays)
    assert written.memory == 6 * 28 * 28 + 6 * 14 * 14  # the largest two neighbours
    text = written.path.read_text()
    assert f"constant arrays: {written.constants}." in text and f"besides x and y: {written.memory}." in text
    assert "#define NET_INPUT_SIZE 784\n" in text and "#define NET_OUTPUT_SIZE 10\n" in text
    said = {end: re.search(rf"{end}_SCALE (\S+)f\n.*{end}_ZERO_POINT \((\S+)\)", text).groups() for end in ("INPUT", "OUTPUT")}
    for end, codes in (("INPUT", network.input), ("OUTPUT", network.output)):
        assert np.float32(said[end][0]) == np.float32(codes.scale) and int(said[end][1]) == codes.zero_point


def test_no_two_buffers_overlap_while_both_are_alive():
    rng = np.random.default_rng(3)
    for _ in range(200):
        count = int(rng.integers(1, 12))
        sizes = [int(size) for size in rng.integers(0, 50, count)]
        lives = [(i, int(rng.integers(i, count))) for i in range(count)]
        offsets, total = placed(sizes, lives)
        filled = np.zeros((count, total), int)
        for offset, size, (first, last) in zip(offsets, sizes, lives, strict=True):
            filled[first : last + 1, offset : offset + size] += 1
        assert filled.max(initial=0) <= 1
        assert total <= sum(sizes)
    assert placed([8, 2, 4, 1], [(0, 1), (1, 2), (2, 3), (3, 3)]) == ([0, 8, 0, 4], 10)  # in turns
    assert placed([4, 4, 4, 4], [(0, 3), (1, 2), (2, 3), (3, 3)])[1] == 12  # what a branch needs stays


# Errors.


def test_what_does_not_fit_is_named(tmp_path):
    network = lenet()
    for name in ("", "2d", "a-b", "_a", "é"):
        with pytest.raises(ValueError, match="a name in C"):
            source(network, name)
    with pytest.raises(ValueError, match="conv1: it reads 1 channels of pictures, not 3 x 28 x 28"):
        source(network, shape=(3, 28, 28))
    with pytest.raises(ValueError, match=r"fc1: it reads 400 codes, not 576: flatten"):
        source(network, shape=(1, 32, 32))
    with pytest.raises(ValueError, match="conv2: the kernel reaches over 5 rows, the input has 2"):
        source(network, shape=(1, 4, 4))
    x = Codes(1.0)
    with pytest.raises(ValueError, match="pool: it reads pictures, not 784"):
        source(one(MaxPool("pool", 2), x, x), shape=(784,))
    with pytest.raises(ValueError, match="sum: codes of one shape are added, these are 1 x 4 x 4 and 1 x 2 x 2"):
        source(Network(x, x, (MaxPool("pool", 2), Add.between("sum", x, x, x, reads=("input", "pool")))), shape=(1, 4, 4))
    odd = replace(drawn_conv(0, {}, "uint8", per_channel=True)[0], groups=3)
    with pytest.raises(ValueError, match="conv: 8 outputs are not parted by 3 groups"):
        source(one(odd, replace(x, zero_point=odd.zero_point), replace(x, zero_point=odd.to.zero_point)), shape=(12, 9, 9))
    with pytest.raises(ValueError, match="pool: it reads or gives no codes"):
        source(one(MaxPool("pool", 1), x, x), shape=(0, 4, 4))
    with pytest.raises(ValueError, match="nothing to compute"):
        source(one(Flatten("flat"), x, x))
    with pytest.raises(TypeError, match="other: there is no C for a layer of the kind Other"):
        source(one(type("Other", (MaxPool,), {})("other", 2), x, x))


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "net.c"
    write(path, lenet(), name="net")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="conv1"):
        write(path, lenet(), name="net", shape=(3, 28, 28))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["net.c"]
    with pytest.raises(OSError, match="could not be written"):
        write(tmp_path / "nowhere" / "net.c", lenet())


def test_a_part_of_an_input_is_an_error_of_the_program(tmp_path):
    program = compiled(source(lenet(), "net"), tmp_path)
    assert subprocess.run([program], input=bytes(784 + 3), capture_output=True).returncode == 1
    assert subprocess.run([program], input=b"", capture_output=True).returncode == 0
