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
    for command in ("demo", "train", "evaluate", "explain", "info"):
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
    ran = subprocess.run(
        f'"{sys.executable}" -m engine explain op: | head -n 1', shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in ran.stderr and "Exception" not in ran.stderr and ran.stdout


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
    called = [step["op"] for step in told["forward"]]
    assert "matmul" in called and called[-3:] == ["subtract", "square", "sum"]


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


def test_info_says_what_of_an_extra_is_missing(monkeypatch):
    from importlib import metadata

    from engine import machine

    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=1", 'no-such-thing>=2; extra == "demo"', 'numpy; extra == "train"'])
    assert machine.extras() == {"demo": "missing: no-such-thing", "train": "installed"}
