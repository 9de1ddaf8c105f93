"""`gnomon quantize` as a user meets it: after a training, after a pruning, with what can be wrong."""

import json

import numpy as np
import pytest

from engine.cli.group import run
from engine.quantise.integer import Network


def gnomon(capsys, *arguments):
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "glyphs"
    assert run(["train", "mlp", "--data", "glyphs", "--epochs", "3", "--kernels", "none", "--out", str(folder)]) == 0
    return folder


def test_a_trained_model_in_integers(trained, tmp_path, capsys):
    code, out, err = gnomon(capsys, "quantize", trained, "--report", tmp_path / "q")
    assert code == 0 and "mlp on glyphs, seed 0: 8 bits, minmax, nearest, fp32" in out and "integers, fp32" in out and " dB" in out
    assert err.split() == ["folded", "calibrated"]
    made = {"quantization.json", "network.safetensors", "table.md", "report.json", "accuracy.png"}
    assert {p.name for p in (tmp_path / "q").iterdir()} == made
    report = json.loads((tmp_path / "q" / "report.json").read_text())
    whole, small = report["rows"]
    assert abs(whole["accuracy"] - small["accuracy"]) <= 0.02 and small["bytes"]["file"] < whole["bytes"]["file"] / 3
    assert min(report["noise"].values()) > 20
    network = Network.load(tmp_path / "q" / "network.safetensors")
    from engine.experiment import Experiment

    e = Experiment.from_dict(report["job"]["experiment"])
    x = e.test[0].reshape(len(e.test[0]), -1).astype(np.float32)
    assert np.sum(network(x).argmax(axis=1) == e.test[1]) == small["right"]


def test_integers_as_one_file_of_c(trained, tmp_path, capsys):
    assert gnomon(capsys, "quantize", trained, "--report", tmp_path / "q")[0] == 0
    code, out, _ = gnomon(capsys, "export", tmp_path / "q", "--c", tmp_path / "g.c", "--name", "glyphs")
    text = (tmp_path / "g.c").read_text()
    assert code == 0 and "glyphs_run" in out and "void glyphs_run(" in text and "#include <stdint.h>" in text
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((tmp_path / "q" / "network.safetensors").read_bytes())
    code, _, err = gnomon(capsys, "export", alone, "--c", tmp_path / "h.c")
    assert code == 2 and "--shape 1x28x28" in err
    size = Network.load(alone).layers[0].w.shape[0]
    assert gnomon(capsys, "export", alone, "--c", tmp_path / "h.c", "--name", "glyphs", "--shape", size)[0] == 0
    assert (tmp_path / "h.c").read_text() == text
    code, _, err = gnomon(capsys, "export", alone, "--c", tmp_path / "i.c", "--shape", "1x2y3")
    assert code == 2 and "sizes with x between them" in err
    code, _, err = gnomon(capsys, "export", alone)
    assert code == 2 and "--onnx FILE for a model in floats" in err


def test_a_pruned_model_keeps_its_zeros(tmp_path, capsys):
    pruned = tmp_path / "pruned"
    options = ("--data", "glyphs", "--dense-epochs", 2, "--epochs", 1, "--kernels", "none", "--stages", 1, "--keep", 0.2)
    assert gnomon(capsys, "prune", "mlp", *options, "--report", pruned)[0] == 0
    code, out, _ = gnomon(capsys, "quantize", pruned, "--bits", 4, "--rounding", "gptq", "--correct", "--equalise", "--json")
    whole, small = json.loads(out)
    network = Network.load(pruned / "int4" / "network.safetensors")
    kept = sum(int(np.count_nonzero(layer.w)) for layer in network.layers if hasattr(layer, "w"))
    assert code == 0 and kept <= round(0.2 * sum(layer.w.size for layer in network.layers if hasattr(layer, "w")))
    assert max(int(np.abs(layer.w).max()) for layer in network.layers if hasattr(layer, "w")) <= 7
    assert small["accuracy"] > whole["accuracy"] - 0.05


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (("--bits", "0"), 2, "bits=0: weights have 2 to 8 bits"),
        (("--bits", "9"), 2, "bits=9"),
        (("--observer", "minmix"), 2, "Did you mean minmax?"),
        (("--rule", "fp64"), 2, "There are: fp32, q31-double"),
        (("--rounding", "up"), 2, "nearest, gptq, adaround"),
        (("--calibrate", "0"), 2, "at least one is wanted"),
    ],
)
def test_what_cannot_be_is_told(trained, tmp_path, capsys, arguments, code, said):
    found, _, err = gnomon(capsys, "quantize", trained, *arguments, "--report", tmp_path / "none")
    assert found == code and said in err and "Traceback" not in err
    assert not (tmp_path / "none").exists()


def test_a_folder_without_a_model(tmp_path, capsys):
    code, _, err = gnomon(capsys, "quantize", tmp_path)
    assert code == 1 and "there is no run in" in err
