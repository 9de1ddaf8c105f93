"""`gnomon export` as a user meets it: the file does what the checkpoint does, and mistakes are told."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tally

from engine.__main__ import main

if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxruntime") is None:
    tally.not_run("gnomon export: onnx or onnxruntime is not installed")
    pytest.skip("onnx and onnxruntime are wanted", allow_module_level=True)

import onnxruntime


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run: pictures of 8 by 8."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    assert main(["train", "mlp", "--data", "digits", "--epochs", "1", "--out", str(folder), "--kernels", "none"]) == 0
    return folder


@pytest.fixture
def gnomon(capsys):
    def command(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return command


def answers(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.astype(np.float32)})[0].argmax(axis=1)


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_the_file_is_right_as_often_as_the_checkpoint(gnomon, run, tmp_path, raw):
    from engine.experiment import Experiment

    code, out, _ = gnomon("export", run, "--onnx", tmp_path / "m.onnx", *raw)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "mlp, trained on digits" and lines[1].endswith("bytes, opset 21")
    assert lines[2:4] == ["  input   x  float32 (n, 1, 8, 8)", "  output  y  float32 (n, 10)"]
    assert f"by ONNX Runtime {onnxruntime.__version__}" in lines[4] and "y, 3 examples: at most" in lines[6]
    assert lines[7].startswith("x is as in the data set" if raw else "x is scaled as in training")
    experiment = Experiment.from_dict(json.loads((run / "experiment.json").read_text()))
    x = experiment.dataset.x_test if raw else experiment.test[0]
    right = json.loads(gnomon("evaluate", run, "--json")[1])["right"]
    assert np.sum(answers(tmp_path / "m.onnx", x) == experiment.test[1]) == right > 300


def test_export_as_json_of_a_file_alone(gnomon, run, tmp_path):
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((run / "checkpoint.safetensors").read_bytes())
    code, out, _ = gnomon("export", alone, "--model", "mlp", "--data", "digits", "--onnx", tmp_path / "m.onnx", "--opset", 17, "--json")
    told = json.loads(out)
    assert code == 0 and told["opset"] == 17 and told["bytes"] == (tmp_path / "m.onnx").stat().st_size
    assert told["scaled"]["mean"] > 0 and all(c["difference"] <= c["allowed"] for c in told["compared"])


def test_mistakes(gnomon, run, tmp_path):
    for arguments, code, says in [
        ((run,), 2, "--onnx"),
        ((run, "--onnx", tmp_path / "m.onnx", "--opset", 12), 1, "pass opset=13"),
        ((tmp_path, "--onnx", tmp_path / "m.onnx"), 1, "there is no checkpoint"),
        ((run, "--onnx", tmp_path / "no" / "m.onnx"), 1, "could not be written"),
        ((run, "--onnx", tmp_path / "m.onnx", "--model", "mpl", "--data", "digits"), 2, "Did you mean mlp"),
        ((run, "--onnx", tmp_path / "m.onnx", "--model", "mlp", "--data", "iris"), 2, "not the parameters of mlp"),
    ]:
        got, out, err = gnomon("export", *arguments)
        assert (got, out) == (code, "") and says in err
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_message_names_the_extra(run, tmp_path):
    program = "import sys; sys.modules['onnx'] = None; from engine.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "export", str(run), "--onnx", str(tmp_path / "m.onnx")]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parent.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "pip install 'gnomon[export]'" in done.stderr and not list(tmp_path.iterdir())


# Integers.


@pytest.fixture(scope="module")
def small(run):
    """The folder of the same model in integers."""
    assert main(["quantize", str(run), "--kernels", "none"]) == 0
    return run / "int8"


@pytest.mark.parametrize("options", [[], ["--raw"], ["--codes"], ["--qdq"], ["--raw", "--qdq"]])
def test_the_file_is_right_as_often_as_the_integers(gnomon, run, small, tmp_path, options):
    from engine.experiment import Experiment
    from engine.quantise.integer import Network

    network, path = Network.load(small / "network.safetensors"), tmp_path / "m.onnx"
    code, out, _ = gnomon("export", small, "--onnx", path, *options)
    lines = out.splitlines()
    assert code == 0 and lines[0] == "mlp, trained on digits"
    assert lines[1].startswith(f"{path}: {path.stat().st_size:,} bytes, opset 21, ")
    assert lines[1].endswith("QDQ" if "--qdq" in options else "QOperator")
    assert f"on 320 examples by ONNX Runtime {onnxruntime.__version__}" in lines[4] and lines[5] == "  0 of 3,210 outputs differ"
    assert lines[-1].startswith("x is as in the data set" if "--raw" in options else "x is scaled as in training")
    experiment = Experiment.from_dict(json.loads((run / "experiment.json").read_text()))
    x = np.asarray(experiment.test[0], np.float32).reshape(len(experiment.test[0]), -1)
    wanted, session = network(x), onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    if "--raw" in options:
        x = experiment.dataset.x_test.reshape(x.shape).astype(np.float32)
    if "--codes" in options:
        x, wanted = network.input.quantise(x), network.run(network.input.quantise(x))
    assert np.array_equal(session.run(None, {"x": x})[0], wanted)


def test_integers_of_a_file_alone_as_json(gnomon, small, tmp_path):
    alone, path = tmp_path / "alone.safetensors", tmp_path / "m.onnx"
    alone.write_bytes((small / "network.safetensors").read_bytes())
    code, out, _ = gnomon("export", alone, "--onnx", path, "--shape", "64", "--opset", 13, "--json")
    told = json.loads(out)
    assert code == 0 and (told["opset"], told["form"], told["scaled"]) == (13, "QOperator", None)
    assert told["answers"] == {"differing": 0, "compared": 650} and told["layers"]["differing"] == 0
    assert told["bytes"] == path.stat().st_size


def test_mistakes_with_integers(gnomon, run, small, tmp_path):
    path, alone = tmp_path / "m.onnx", tmp_path / "alone.safetensors"
    alone.write_bytes((small / "network.safetensors").read_bytes())
    assert gnomon("quantize", run, "--rule", "rndnu", "--report", tmp_path / "rndnu", "--kernels", "none")[0] == 0
    for arguments, code, says in [
        ((small, "--opset", 12), 1, "pass opset=13"),
        ((tmp_path / "rndnu",), 1, "requantises by the rule rndnu, for which ONNX has no operator"),
        ((alone,), 2, "--shape 1x28x28"),
        ((alone, "--shape", "1x64x"), 2, "sizes with x between them"),
        ((alone, "--shape", 64, "--raw"), 2, "leave out --codes, or --shape"),
        ((small, "--codes", "--raw"), 2, "leave out --codes, or --shape"),
        ((run, "--codes"), 2, "--codes is for a network of integers"),
        ((run, "--qdq"), 2, "--qdq is for a network of integers"),
        ((alone, "--shape", "7"), 2, "the network takes no inputs of the shape 7"),
    ]:
        got, out, err = gnomon("export", *arguments, "--onnx", path)
        assert (got, out) == (code, "") and says in err
    assert not path.exists()


def test_mistakes_with_c(gnomon, run, small, tmp_path):
    path = tmp_path / "m.c"
    for arguments, code, says in [
        ((small, "--qdq", "--opset", 17), 2, "--opset, --qdq: for --onnx"),
        ((run,), 1, "make one: gnomon quantize"),
    ]:
        got, out, err = gnomon("export", *arguments, "--c", path)
        assert (got, out) == (code, "") and says in err
    assert not path.exists()
