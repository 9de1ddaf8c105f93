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
