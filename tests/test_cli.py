"""The command line as a user meets it: what it prints, what it says to mistakes, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.__main__ import main

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def gnomon(capsys):
    """Run a command; returns its exit code, stdout and stderr."""

    def run(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


def in_a_process(*arguments, prelude="", **options):
    """A command in a Python of its own, after some lines of code."""
    program = f"import sys\n{prelude}\nfrom engine.__main__ import main\nsys.exit(main({list(arguments)!r}))"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


# Help, and what is not understood.


def test_help_names_every_command_and_shows_examples(gnomon):
    code, out, _ = gnomon("--help")
    assert code == 0
    for command in ("demo", "train", "evaluate", "prune", "export", "explain", "emulate", "info"):
        assert f"\n  {command} " in out
        code, text, _ = gnomon(command, "--help")
        assert code == 0 and "Examples" in text and "gnomon " + command in text
    assert "Exit codes" in out


def test_help_loads_nothing_heavy():
    done = in_a_process("--help", prelude="import atexit; atexit.register(lambda: print('LOADED', *sorted(sys.modules)))")
    loaded = set(done.stdout.partition("LOADED")[2].split())
    assert done.returncode == 0 and "engine.cli.demo" in loaded
    assert not loaded & {"numba", "scipy", "matplotlib", "sklearn", "rich", "safetensors", "engine.data", "engine.demo", "engine.train"}


def test_python_m_engine_is_the_same_program(gnomon):
    done = subprocess.run([sys.executable, "-m", "engine", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == gnomon("--help")[1]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["trian"], "Did you mean train"),
        (["explain"], "Missing argument"),
        (["info", "--jsn"], "--json"),
        (["explain", "op:tahn"], "tanh"),
        (["explain", "tahn(x)", "x=1"], "tanh"),
        (["explain", "tanh(x"], "not an expression"),
        (["explain", "tanh(x)"], "no value for x"),
        (["explain", "tanh(x)", "x=1", "y=2"], "y: there is no such name"),
        (["explain", "tanh(x)", "x=one"], "not a number"),
        (["explain", "x", "x=[[1,2],[3]]"], "rows of equal length"),
        (["explain", "x", "1.5"], "NAME=VALUE"),
        (["explain", "x.__class__", "x=1"], "underscore"),
    ],
)
def test_a_mistyped_command_is_answered_and_exits_with_2(gnomon, arguments, says):
    code, out, err = gnomon(*arguments)
    assert code == 2 and out == ""
    assert says in err


def test_without_click_the_message_names_the_extra():
    done = in_a_process("--help", prelude="sys.modules['click'] = None")
    assert done.returncode == 1 and "pip install 'gnomon[cli]'" in done.stderr and "Traceback" not in done.stderr


def test_a_reader_that_stops_early_is_no_error():
    command = [sys.executable, "-m", "engine", "explain", "op:"]
    writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert writer.stdout.readline()
    writer.stdout.close()
    told = writer.stderr.read()
    writer.wait(timeout=120)
    writer.stderr.close()
    assert "Traceback" not in told and "Exception" not in told


# explain


def test_explain_shows_both_passes_with_the_numbers(gnomon):
    code, out, _ = gnomon("explain", "tanh(x * w + b)", "x=1.5", "w=2", "b=-1")
    assert code == 0
    assert "0.964028" in out and "gx = 0.141302" in out and "gw = 0.105976" in out and "gb = 0.070651" in out


def test_explain_as_json_is_the_gradient(gnomon):
    code, out, _ = gnomon("explain", "sum(square(a @ x - b))", "a=[[1,2],[3,4]]", "x=[1,-1]", "b=[0,1]", "--json")
    told = json.loads(out)
    residual = [1 - 2 - 0, 3 - 4 - 1]  # by hand: the gradient in x is 2 a^T (a x - b)
    assert code == 0
    assert told["value"] == residual[0] ** 2 + residual[1] ** 2
    assert told["gradients"]["x"] == [2 * (1 * residual[0] + 3 * residual[1]), 2 * (2 * residual[0] + 4 * residual[1])]
    assert [step["op"] for step in told["forward"]][-3:] == ["subtract", "square", "sum"]


def test_explain_takes_constants_unless_they_are_given(gnomon):
    assert json.loads(gnomon("explain", "sin(pi * x)", "x=0.5", "--json")[1])["value"] == 1.0
    assert json.loads(gnomon("explain", "pi * x", "x=0.5", "pi=4", "--json")[1])["value"] == 2.0


def test_explain_a_function_in_a_file(gnomon, tmp_path):
    file = tmp_path / "model.py"
    file.write_text("def loss(w, x, k=3.0):\n    return w * x * k\n\ndef broken(w):\n    return w @ w\n")
    code, out, _ = gnomon("explain", f"{file}:loss", "--at", "w=2", "--at", "x=5", "--json")
    assert code == 0 and json.loads(out)["gradients"] == {"w": 15.0, "x": 6.0}
    code, _, err = gnomon("explain", f"{file}:lss", "w=1")
    assert code == 2 and "Did you mean loss" in err
    code, _, err = gnomon("explain", f"{file}:broken", "w=1")
    assert code == 1 and "matmul" in err
    code, _, err = gnomon("explain", f"{tmp_path / 'none.py'}:loss", "w=1")
    assert code == 1 and "there is no file" in err
    code, _, err = gnomon("explain", "no.such.module:loss", "w=1")
    assert code == 1 and "there is no module" in err


def test_explain_an_op(gnomon):
    code, out, _ = gnomon("explain", "op:matmul")
    assert code == 0 and "... m k, ... k n -> ... m n" in out and "vjp" in out
    code, out, _ = gnomon("explain", "op:")
    assert code == 0 and len(out.splitlines()) > 60


# info


def test_info(gnomon):
    code, out, _ = gnomon("info")
    told = json.loads(gnomon("info", "--json")[1])
    assert code == 0
    assert {"versions", "processor", "linear algebra", "kernels", "folders", "environment", "extras"} == set(told)
    assert told["versions"]["python"] == sys.version.split()[0] and told["processor"]["cores"] >= 1
    assert told["versions"]["numpy"] in out
    assert told["kernels"]["cpu"]["tier"].startswith(("generic", "avx", "amx"))


def test_info_says_what_of_an_extra_is_missing(monkeypatch):
    from importlib import metadata

    from engine import machine

    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=1", 'no-such-thing>=2; extra == "demo"', 'numpy; extra == "train"'])
    assert machine.extras() == {"demo": "missing: no-such-thing", "train": "installed"}


# train and evaluate


def trained(*arguments, prelude=""):
    return in_a_process("train", "mlp", "--data", "digits", *map(str, arguments), prelude=prelude)


def parameters(folder):
    from engine.run import Run

    return Run.load(folder / "checkpoint.safetensors")[0].params


def test_train_leaves_a_checkpoint_that_evaluate_reads(gnomon, tmp_path):
    code, out, err = gnomon("train", "mlp", "--data", "digits", "--epochs", 2, "--out", tmp_path / "a run", "--kernels", "none")
    assert code == 0 and "epoch 2/2" in err
    code, text, _ = gnomon("evaluate", tmp_path / "a run")
    assert code == 0 and out.splitlines()[:3] == text.splitlines()[2:5]  # the same metrics
    told = json.loads(gnomon("evaluate", tmp_path / "a run" / "checkpoint.safetensors", "--data", "digits", "--json")[1])
    matrix = told["confusion"]
    assert told["accuracy"] > 0.9 and f"{told['accuracy']:.4f}" in text
    assert sum(matrix[i][i] for i in range(10)) == told["right"] and sum(map(sum, matrix)) == told["of"] == 359
    spec = json.loads((tmp_path / "a run" / "experiment.json").read_text())
    assert spec["model"] == "mlp" and spec["recipe"]["epochs"] == 2 and spec["kernels"] is None


def test_train_prints_json(gnomon, tmp_path):
    code, out, _ = gnomon("train", "linear", "--data", "diabetes", "--epochs", 20, "--out", tmp_path, "--json")
    assert code == 0 and 0.3 < json.loads(out)["r2"] < 0.7


PRESS = """
import os, signal, engine.train
step = engine.train.train_step
def pressed(run, *args, **kwargs):
    value = step(run, *args, **kwargs)
    if run.step == {step}:
        os.kill(os.getpid(), signal.SIGINT)
    return value
engine.train.train_step = pressed
"""


@pytest.mark.parametrize("kernels", ["none", "cpu"])
def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_ends_in_the_same_bits(tmp_path, kernels):
    options = ["--epochs", 3, "--kernels", kernels, "--out"]
    assert trained(*options, tmp_path / "whole").returncode == 0
    stopped = trained(*options, tmp_path / "parts", prelude=PRESS.format(step=61))
    assert stopped.returncode == 130 and "Traceback" not in stopped.stderr
    command = stopped.stderr.splitlines()[-1].strip()
    assert command == f"gnomon train mlp --data digits --out {tmp_path / 'parts'} --resume"
    halfway = parameters(tmp_path / "parts")
    resumed = trained("--out", tmp_path / "parts", "--resume")
    assert (
        resumed.returncode == 0
        and resumed.stdout.splitlines()[:3] == trained("--out", tmp_path / "whole", "--resume").stdout.splitlines()[:3]
    )
    whole, parts = parameters(tmp_path / "whole"), parameters(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all((whole[k] == parts[k]).all() for k in whole)
    assert any((halfway[k] != parts[k]).any() for k in whole)  # it had indeed not finished


def test_ctrl_c_before_the_training_is_exit_code_130(tmp_path):
    stop = "(os.kill(os.getpid(), signal.SIGINT), time.sleep(30))"  # a signal may reach another thread first: Python notices a little later
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's jobs in the background begin with the signal ignored
    early = f"import os, signal, time, engine.experiment as x; {heard}; x.Experiment.start = lambda self: {stop}"
    done = trained("--out", tmp_path, prelude=early)
    assert done.returncode == 130 and "Traceback" not in done.stderr


def test_a_run_is_not_overwritten_by_accident(gnomon, tmp_path):
    run = ("train", "logistic", "--data", "iris", "--out", tmp_path, "--kernels", "none")
    assert gnomon(*run, "--epochs", 1)[0] == 0
    code, _, err = gnomon(*run, "--epochs", 1)
    assert code == 1 and "--resume" in err and "--overwrite" in err
    code, _, err = gnomon(*run, "--resume", "--epochs", 2, "--seed", 3)
    assert code == 2 and "epochs: then 1, now 2" in err and "seed: then 0, now 3" in err
    assert gnomon(*run, "--epochs", 2, "--overwrite")[0] == 0
    assert json.loads((tmp_path / "experiment.json").read_text())["recipe"]["epochs"] == 2


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["mpl", "--data", "digits"], 2, "Did you mean mlp"),
        (["mlp", "--data", "digit"], 2, "Did you mean digits"),
        (["mlp"], 2, "--data"),
        (["mlp", "--data", "digits", "--optimizer", "adma"], 2, "Did you mean adam"),
        (["mlp", "--data", "digits", "--epochs", "0"], 2, "--epochs"),
        (["linear", "--data", "digits"], 2, "it suits logistic, mlp"),
        (["mlp", "--data", "diabetes"], 2, "it suits linear"),
        (["lenet5_classic", "--data", "digits"], 2, "12 x 12"),
        (["logistic", "--data", "iris", "--lr", "1e30"], 1, "smaller learning rate"),
        (["logistic", "--data", "iris", "--resume"], 1, "there is no run in"),
    ],
)
def test_mistakes_in_training_are_told(gnomon, tmp_path, arguments, code, says):
    got, out, err = gnomon("train", *arguments, "--out", tmp_path / "run")
    assert got == code and says in err and out == ""


def test_a_checkpoint_that_is_broken_or_another_model_is_told(gnomon, tmp_path):
    run = tmp_path / "run"
    assert gnomon("train", "logistic", "--data", "iris", "--out", run, "--epochs", 1)[0] == 0
    file = run / "checkpoint.safetensors"
    whole = file.read_bytes()
    code, _, err = gnomon("evaluate", run, "--data", "wine")
    assert code == 2 and "does not fit" in err
    code, _, err = gnomon("evaluate", run, "--data", "iris", "--model", "mlp")
    assert code == 2 and "not the parameters of mlp" in err
    for broken in (whole[:-10], whole[:100], b"", whole[:-4] + b"\0\1\2\3", b"PK\3\4" + whole):
        file.write_bytes(broken)
        for command in (["evaluate", run], ["train", "logistic", "--data", "iris", "--out", run, "--resume"]):
            code, _, err = gnomon(*command)
            assert code == 1 and "checkpoint" in err
    (run / "experiment.json").write_text("{")
    code, _, err = gnomon("evaluate", run)
    assert code == 1 and "experiment.json does not say" in err
    (run / "experiment.json").unlink()
    code, _, err = gnomon("evaluate", run)
    assert code == 2 and "--model and --data" in err
    code, _, err = gnomon("evaluate", tmp_path / "nothing")
    assert code == 1 and "there is no checkpoint at" in err


def test_a_full_disk_keeps_the_checkpoint_before(gnomon, tmp_path, monkeypatch):
    import errno
    import os

    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 2:  # each checkpoint brings the file to the disk, then its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = gnomon("train", "logistic", "--data", "iris", "--epochs", 5, "--out", tmp_path, "--kernels", "none")
    assert code == 1 and "No space left on device" in err and "the one before it is untouched" in err
    monkeypatch.undo()
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.safetensors", "experiment.json"}
    assert gnomon("train", "logistic", "--data", "iris", "--out", tmp_path, "--resume")[0] == 0


@pytest.mark.parametrize("module, extra", [("safetensors", "train"), ("sklearn", "data"), ("rich", "cli"), ("matplotlib", "plot")])
def test_a_missing_extra_is_named_before_any_work(tmp_path, module, extra):
    absent = "import importlib.abc\nclass Absent(importlib.abc.MetaPathFinder):\n    def find_spec(self, name, *_):\n"
    absent += f"        if name.partition('.')[0] == {module!r}: raise ModuleNotFoundError('not there', name=name)\n"
    absent += "sys.meta_path.insert(0, Absent())"
    if module in ("rich", "matplotlib"):
        done = in_a_process("demo", "--quick", "--report", str(tmp_path), prelude=absent)
    else:
        done = trained("--out", tmp_path / "run", prelude=absent)
    assert done.returncode == 1 and f"gnomon[{extra}]" in done.stderr and "Traceback" not in done.stderr
    assert "epoch" not in done.stderr and "Linear" not in done.stdout


def test_a_checkpoint_of_another_run_in_the_folder_is_told(gnomon, tmp_path):
    run = ("train", "logistic", "--out", tmp_path / "run", "--epochs", 1, "--kernels", "none")
    assert gnomon(*run, "--data", "iris")[0] == 0
    stranger = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    assert gnomon(*run, "--data", "wine", "--overwrite")[0] == 0
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(stranger)
    code, _, err = gnomon("train", "logistic", "--data", "wine", "--out", tmp_path / "run", "--resume")
    assert code == 1 and "belongs to another run" in err


def test_the_help_of_train_knows_every_name(gnomon):
    from engine.data import names
    from engine.models import MODELS
    from engine.recipes import OPTIMIZERS, RECIPES

    words = set(gnomon("train", "--help")[1].replace(",", " ").split())
    assert set(MODELS) | set(names()) | set(OPTIMIZERS) <= words
    assert set(RECIPES) == set(MODELS)
