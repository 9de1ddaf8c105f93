"""`gnomon quantize` as a user meets it: after a training, after a pruning, with what can be wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine import checkpoints
from engine.cli.group import run
from engine.experiment import Experiment
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


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "small"
    assert run(["train", "logistic", "--data", "glyphs", "--epochs", "3", "--kernels", "none", "--out", str(folder)]) == 0
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
    e = Experiment.from_dict(report["job"]["experiment"])
    x = e.test[0].reshape(len(e.test[0]), -1).astype(np.float32)
    assert np.sum(network(x).argmax(axis=1) == e.test[1]) == small["right"]


@pytest.mark.parametrize(
    "options", [("dynamic",), ("weights", "--bits", 4, "--group", 32), ("dynamic", "--bits", 4, "--rounding", "gptq", "--correct")]
)
def test_weights_alone_and_dynamic(trained, tmp_path, capsys, options):
    from engine.quantise.narrow import Narrow

    code, out, err = gnomon(capsys, "quantize", trained, "--how", *options, "--report", tmp_path / "q")
    assert code == 0 and "floats, " in out and options[0] in out and "fp32" not in out and "calibrated" not in err
    report = json.loads((tmp_path / "q" / "report.json").read_text())
    whole, small = report["rows"]
    network = Narrow.load(tmp_path / "q" / "network.safetensors")
    assert f"{network.bytes:,} bytes held" in small["note"] and small["numbers"] == whole["numbers"]
    assert small["bytes"]["dense"] == network.bytes < whole["bytes"]["dense"] / (3.5 if len(options) == 1 else 6)
    assert abs(whole["accuracy"] - small["accuracy"]) <= 0.03 and min(report["noise"].values()) > 10
    code, _, err = gnomon(capsys, "export", tmp_path / "q", "--c", tmp_path / "g.c")
    assert code == 1 and "holds no integer network" in err and not (tmp_path / "g.c").exists()


def test_powers_of_two_and_nothing_but_shifts(trained, tmp_path, capsys):
    options = ("--bits", 4, "--rounding", "powers", "--rule", "pow2")
    code, out, _ = gnomon(capsys, "quantize", trained, *options, "--report", tmp_path / "q", "--json")
    network = Network.load(tmp_path / "q" / "network.safetensors")
    weights = {int(v) for layer in network.layers if hasattr(layer, "w") for v in np.unique(np.abs(layer.w))}
    assert code == 0 and weights <= {0, 1, 2, 4, 8, 16, 32, 64} and json.loads(out)[1]["accuracy"] > json.loads(out)[0]["accuracy"] - 0.05


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
        (("--bits", "0"), 2, "bits=0: weights have 1 to 8 bits"),
        (("--bits", "9"), 2, "bits=9"),
        (("--observer", "minmix"), 2, "Did you mean minmax?"),
        (("--rule", "fp64"), 2, "There are: fp32, q31-double"),
        (("--rounding", "up"), 2, "nearest, gptq, adaround"),
        (("--calibrate", "0"), 2, "'--calibrate': 0 is not in the range x>=1"),
        (("--qat", "0"), 2, "0 is not in the range x>=1"),
        (("--lr", "0.1"), 2, "--lr is the rate of training with rounding: tell how long, as --qat 5"),
        (("--qat", "1", "--lr", "0"), 2, "not in the range x>0"),
        (("--int4", "--bits", "8"), 2, "--int4 is --bits 4, and --bits 8 is given: which of the two?"),
        (("--bits", "1", "--rounding", "gptq"), 2, "weights of one bit are signs"),
        (("--data", "mnist5k"), 2, "was trained on glyphs"),
        (("--qat", "1", "--resume"), 1, "there is no quantization in"),
        (("--qat", "1", "--resume", "--overwrite"), 2, "which of the two?"),
        (("--group", "32"), 2, "integers have none"),
        (("--group", "0", "--how", "weights"), 2, "group=0"),
        (("--rounding", "powers"), 2, "powers of two have 2 to 4 bits"),
        (("--rule", "pow2", "--qat", "1"), 2, "are no powers of two: take another rule than pow2"),
        (("--how", "statik"), 2, "'static', 'dynamic', 'weights'"),
        (("--how", "dynamic", "--qat", "1"), 2, "for networks of integers"),
    ],
)
def test_what_cannot_be_is_told(trained, tmp_path, capsys, arguments, code, said):
    found, _, err = gnomon(capsys, "quantize", trained, *arguments, "--report", tmp_path / "none")
    assert found == code and said in err and "Traceback" not in err
    assert not (tmp_path / "none").exists()


# Training with rounding.


def test_a_model_trained_with_rounding(trained, tmp_path, capsys):
    """Two bits are where rounding to the nearest loses most; what training wins back is in the last row, the picture and the file."""
    code, out, err = gnomon(capsys, "quantize", trained, "--bits", 2, "--qat", 4, "--lr", 0.003, "--report", tmp_path, "--json")
    assert code == 0 and not err
    whole, static, learned = json.loads(out)
    assert [row["name"] for row in (whole, static, learned)] == ["float", "int2 weights (static)", "int2 weights QAT"]
    assert learned["accuracy"] > static["accuracy"] and learned["p"] is not None and set(learned["latency"]) == {"1", "64"}
    assert learned["bytes"]["file"] < whole["bytes"]["file"] / 12
    job = json.loads((tmp_path / "report.json").read_text())["job"]
    assert (job["qat"], job["lr"], job["bits"]) == (4, 0.003, 2)
    network = Network.load(tmp_path / "network.safetensors")
    e = Experiment.from_dict(job["experiment"])
    x = e.test[0].reshape(len(e.test[0]), -1).astype(np.float32)
    assert np.sum(network(x).argmax(axis=1) == e.test[1]) == learned["right"]
    assert set(np.unique(network.layers[0].w)) == {-1, 0, 1}


@pytest.mark.parametrize("rule", ["fp32", "q31-double", "q31-single", "rndnu"])
def test_training_ends_in_integers_by_any_rule(rule, small, tmp_path, capsys):
    code, out, _ = gnomon(capsys, "quantize", small, "--int8", "--qat", 1, "--rule", rule, "--report", tmp_path, "--json")
    learned = json.loads(out)[-1]
    assert code == 0 and learned["name"] == "int8 QAT" and learned["note"] == f"integers, {rule}"
    assert Network.load(tmp_path / "network.safetensors").layers[0].to.rule == rule


@pytest.mark.parametrize("grain, bits", [("weights", 4), ("channels", 1)])
def test_pruned_then_trained_with_rounding_keeps_the_zeros(grain, bits, tmp_path, capsys):
    options = ("--data", "glyphs", "--dense-epochs", 2, "--epochs", 1, "--kernels", "none", "--stages", 1, "--keep", 0.5, "--grain", grain)
    assert gnomon(capsys, "prune", "mlp", *options, "--report", tmp_path)[0] == 0
    assert gnomon(capsys, "quantize", tmp_path, "--bits", bits, "--qat", 2, "--report", tmp_path / "q")[0] == 0
    masks = checkpoints.load(tmp_path / "stage-01.safetensors")[0]["masks"]
    layers = {layer.name: layer.w for layer in Network.load(tmp_path / "q" / "network.safetensors").layers if hasattr(layer, "w")}
    gone = {name: ~masks[name] for name in layers}
    assert sum(map(np.count_nonzero, gone.values())) > 0.3 * sum(w.size for w in layers.values())
    assert not any(np.any(w[gone[name]]) for name, w in layers.items())
    assert bits > 1 or all(np.all(w[~gone[name]]) for name, w in layers.items())


def test_training_that_was_stopped_goes_on_to_the_same_bits(small, tmp_path):
    """Ctrl-C in the second epoch; then the same command with --resume."""
    stop = (
        "import os, signal, engine.train as t\n"
        "step = t.train_step\n"
        "def stopping(run, *given, **options):\n"
        "    if run.step == run_out: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return step(run, *given, **options)\n"
        "t.train_step = stopping\n"
    )

    def ran(folder, *more, stop_at=None):
        prelude = f"run_out = {stop_at}\n{stop}" if stop_at else ""
        given = ["gnomon", "quantize", str(small), "--int4", "--qat", "2", "--kernels", "none", "--report", str(folder), *more]
        code = f"{prelude}\nimport sys\nsys.argv = {given!r}\nfrom engine.cli.group import run\nsys.exit(run(sys.argv[1:]))"
        where = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=where)

    whole = ran(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    steps = len(Experiment.of("logistic", "glyphs").train[0]) // 32
    stopped = ran(tmp_path / "parts", stop_at=steps + steps // 2)
    assert stopped.returncode == 130 and stopped.stderr.splitlines()[-1].endswith("--resume"), stopped.stderr
    assert not (tmp_path / "parts" / "network.safetensors").exists() and not (tmp_path / "parts" / "table.md").exists()
    resumed = ran(tmp_path / "parts", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    one, other = (checkpoints.load(tmp_path / where / "network.safetensors") for where in ("whole", "parts"))
    assert one[1] == other[1]
    for group, arrays in one[0].items():
        assert all(np.array_equal(x, other[0][group][name]) for name, x in arrays.items())


def test_a_folder_that_has_a_training_with_rounding(small, tmp_path, capsys):
    given = ("quantize", small, "--report", tmp_path)
    assert gnomon(capsys, *given)[0] == gnomon(capsys, *given)[0] == 0  # seconds are written over
    assert gnomon(capsys, *given, "--qat", 1)[0] == 0
    for again in ((), ("--qat", 1), ("--int4",)):
        code, _, err = gnomon(capsys, *given, *again)
        assert code == 1 and "--resume goes on with it, --overwrite begins anew, --report DIR takes another folder" in err
    code, _, err = gnomon(capsys, *given, "--qat", 2, "--lr", 0.01, "--resume")
    assert code == 2 and "qat: then 1, now 2" in err and "lr: then 0.001, now 0.01" in err
    assert gnomon(capsys, *given, "--qat", 1, "--resume")[0] == 0
    assert gnomon(capsys, *given, "--overwrite")[0] == 0 and not (tmp_path / "qat.safetensors").exists()


def test_a_model_that_was_trained_anew_is_not_gone_on_with(tmp_path, capsys):
    def train(seed):
        options = ("--data", "glyphs", "--epochs", 1, "--kernels", "none", "--out", tmp_path, "--overwrite", "--seed", 0, "--lr", seed)
        assert gnomon(capsys, "train", "logistic", *options)[0] == 0

    train(0.05)
    assert gnomon(capsys, "quantize", tmp_path, "--qat", 1)[0] == 0
    said = json.loads((tmp_path / "int8" / "quantization.json").read_text())
    train(0.04)
    said["experiment"]["recipe"]["lr"] = 0.04  # and who edits what is written there is told as well
    (tmp_path / "int8" / "quantization.json").write_text(json.dumps(said))
    code, _, err = gnomon(capsys, "quantize", tmp_path, "--qat", 1, "--resume")
    assert code == 1 and "belongs to another run" in err and "weights" in err


def test_training_that_runs_away_is_told(small, tmp_path, capsys, monkeypatch):
    """What flows is clipped, so the loss stays finite: it is the integers that cannot be."""
    code, _, err = gnomon(capsys, "quantize", small, "--qat", 1, "--lr", 1e30, "--report", tmp_path)
    assert code == 1 and "does not fit int32" in err and err.endswith("the training has run away: --overwrite with a smaller --lr\n")
    monkeypatch.setattr("engine.ops.cross_entropy", lambda z, t: np.inf * z.sum())
    code, _, err = gnomon(capsys, "quantize", small, "--qat", 1, "--overwrite", "--report", tmp_path)
    assert code == 1 and "the numbers have run away" in err and "a smaller learning rate" in err
    assert not (tmp_path / "network.safetensors").exists() and not (tmp_path / "table.md").exists()


def test_weights_that_are_not_finite_are_told_before_anything_is_written(small, tmp_path, capsys, monkeypatch):
    import engine.cli.quantize as module

    finite = module.found

    def broken(folder, experiment):
        params = finite(folder, experiment)
        return {**params, "w": np.where(np.arange(params["w"].size).reshape(params["w"].shape) == 7, np.nan, params["w"])}

    monkeypatch.setattr(module, "found", broken)
    code, _, err = gnomon(capsys, "quantize", small, "--qat", 1, "--report", tmp_path / "q")
    assert code == 1 and "the weights of w: 1 of" in err and "not finite" in err and not (tmp_path / "q").exists()
    (tmp_path / "pruning.json").write_text(json.dumps({"experiment": Experiment.of("logistic", "glyphs").as_dict()}))
    monkeypatch.undo()
    code, _, err = gnomon(capsys, "quantize", tmp_path, "--qat", 1)
    assert code == 1 and "has no stage that is done" in err and not (tmp_path / "int8").exists()


# Models by name.


def test_a_model_by_name_is_trained_first_and_once(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ("quantize", "logistic", "--int8", "--calibrate", 64, "--qat", 1, "--data", "glyphs", "--kernels", "none", "--json")
    code, out, err = gnomon(capsys, *line, "--report", "one")
    assert code == 0 and "epoch 1/30" in err and len(json.loads(out)) == 3
    assert {p.name for p in (tmp_path / "runs" / "logistic-glyphs").iterdir()} == {"experiment.json", "checkpoint.safetensors"}
    code, again, err = gnomon(capsys, *line, "--report", "two")
    assert code == 0 and "epoch" not in err.replace("1 epoch", "")
    assert [row["right"] for row in json.loads(again)] == [row["right"] for row in json.loads(out)]


def test_what_is_neither_a_folder_nor_a_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = gnomon(capsys, "quantize", "runs/lenet")
    assert code == 1 and "there is no folder runs/lenet, and no model called so" in err and "lenet5_classic" in err
    code, _, err = gnomon(capsys, "quantize", "linear", "--data", "diabetes", "--qat", 1)
    assert code == 2 and "linear is for regression" in err
    code, _, err = gnomon(capsys, "quantize", "logistic", "--data", "breast_cancer")
    assert code == 1 and "matvec has no form in integers" in err
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_model(tmp_path, capsys):
    code, _, err = gnomon(capsys, "quantize", tmp_path)
    assert code == 1 and "there is no run in" in err
