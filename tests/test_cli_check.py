"""`gnomon check` as a user meets it: verdicts as exit codes, errors apart from them."""

import json
from pathlib import Path

import pytest

from engine.__main__ import main

RULES = '''
"""Rules of somebody."""

import numpy as np

from engine import ops


def scaled(x, w):
    return np.tanh(x) * w


def slope(x):
    return 4 * np.exp(-2 * np.abs(x)) / (1 + np.exp(-2 * np.abs(x))) ** 2


def scaled_vjp(g, args, y):
    x, w = args
    return summed(g * w * slope(x), x), summed(g * np.tanh(x), w)


def scaled_jvp(d, args, y):
    (dx, dw), (x, w) = d, args
    return dx * w * slope(x) + dw * np.tanh(x)


def forgetful_vjp(g, args, y):
    x, w = args
    return summed(g * w * slope(x), x), g * np.tanh(x)


def halved_jvp(d, args, y):
    return scaled_jvp(d, args, y) / 2


def summed(g, x):
    axes = tuple(range(g.ndim - x.ndim))
    g = g.sum(axis=axes)
    return g.sum(axis=tuple(i for i, n in enumerate(x.shape) if n == 1 and g.shape[i] != 1), keepdims=True)


def nowhere(x):
    return x / np.zeros_like(x)


def nowhere_vjp(g, args, y):
    return (np.zeros_like(args[0]),)


def of_ops(x):
    return ops.sum(ops.sin(x))


def needs_a_log(x):
    return np.log(x)


def needs_a_log_vjp(g, args, y):
    return (g / args[0],)


NOT_A_FUNCTION = 3
'''


@pytest.fixture
def gnomon(capsys, tmp_path, monkeypatch):
    """Run `gnomon check` in a folder with rules.py; returns its exit code, stdout and stderr."""
    (tmp_path / "rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, examples=30):
        code = main(["check", *map(str, arguments), "--examples", str(examples)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


BROADCAST = ("rules.py:scaled", "--signature", "..., ... -> ...")


def test_a_right_rule_passes(gnomon):
    code, out, _ = gnomon(*BROADCAST, "--vjp", "rules.py:scaled_vjp", "--jvp", "rules.py:scaled_jvp")
    assert code == 0 and out.startswith("PASS  scaled: ")


def test_a_wrong_rule_fails_with_a_program_that_shows_it(gnomon):
    code, out, _ = gnomon(*BROADCAST, "--vjp", "rules.py:forgetful_vjp")
    assert code == 1 and out.startswith("FAIL  scaled: ")
    assert "import numpy as np" in out and "print(vjp(g, args, y))" in out


def test_a_wrong_forward_rule_fails(gnomon):
    code, out, _ = gnomon(*BROADCAST, "--vjp", "rules.py:scaled_vjp", "--jvp", "rules.py:halved_jvp")
    assert code == 1 and "jvp" in out


def test_a_module_of_the_folder_is_found(gnomon):
    code, _, _ = gnomon("rules:scaled", "--signature", "n, n", "--vjp", "rules:scaled_vjp")
    assert code == 0


def test_a_function_that_is_never_finite_is_inconclusive(gnomon):
    code, out, _ = gnomon("rules.py:nowhere", "--vjp", "rules.py:nowhere_vjp", "--signature", "...")
    assert code == 2 and out.startswith("INCONCLUSIVE")


def test_the_framework_is_seen_from_the_code(gnomon):
    code, out, _ = gnomon("rules.py:of_ops", "--signature", "n", "--orders", "1,2")
    assert code == 0, out


def test_an_op_of_the_engine(gnomon):
    for op in ("op:multiply", "op:take"):
        code, out, _ = gnomon(op)
        assert code == 0 and out.startswith("PASS"), out


def test_a_domain(gnomon):
    code, out, _ = gnomon("rules.py:needs_a_log", "--vjp", "rules.py:needs_a_log_vjp", "--signature", "...", "--domain", "x=0.5:4")
    assert code == 0, out


def test_json_to_a_file_and_to_standard_output(gnomon):
    arguments = (*BROADCAST, "--vjp", "rules.py:forgetful_vjp")
    code, out, _ = gnomon(*arguments, "--json", "report.json")
    report = json.loads(Path("report.json").read_text())
    assert code == 1 and report["verdict"] == "FAIL" and report["text"] == out.rstrip("\n")
    code, out, _ = gnomon(*arguments, "--json", "-")
    again = json.loads(out)
    assert code == 1 and again["counterexample"] == report["counterexample"]


def test_the_seed_decides(gnomon):
    texts = [gnomon(*BROADCAST, "--vjp", "rules.py:forgetful_vjp", "--seed", seed)[1] for seed in (3, 3)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "what is to be checked? module:function, file.py:function or op:NAME"),
        (("--bogus",), "No such option"),
        (("rules.py:scaled", "--orders", "3"), "is not 1, 2 or 1,2"),
        (("rules.py:scaled", "--domain", "x=low"), "is not NAME=LOW:HIGH"),
        (("rules.py:scaled", "--domain", "x=a:b"), "is not NAME=LOW:HIGH"),
        (("rules.py:scaled", "--framework", "paddle"), "'paddle' is not one of"),
        (("sin(x)",), "'sin(x)' is neither module:function nor file.py:function"),
        (("op:tahn",), "there is no op called 'tahn'. Did you mean tan"),
        (("rules.py:scald",), "there is no function in rules.py called 'scald'. Did you mean scaled"),
        (("rules.py:NOT_A_FUNCTION",), "there is no function in rules.py"),
        (("nowhere.py:f",), "there is no file nowhere.py"),
        (("no_such_module:f",), "there is no module no_such_module"),
        (("rules.py:scaled",), "give its vjp or its jvp, or name the framework"),
        (("rules.py:scaled", "--vjp", "rules.py:scaled_vjp", "--signature", "m k k ->-> n"), "gnomon: "),
        (("rules.py:scaled", "--framework", "cupy"), "cupy is not installed"),
    ],
)
def test_what_cannot_be_checked_has_a_code_of_its_own(gnomon, arguments, words):
    code, out, err = gnomon(*arguments)
    assert code == 3 and not out and words in err


def test_help_says_what_the_codes_mean(capsys):
    assert main(["check", "--help"]) == 0
    out, _ = capsys.readouterr()
    assert "0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 not checked" in out and "Examples" in out


def test_a_missing_extra_is_named(gnomon, monkeypatch):
    import sys

    for name in [m for m in sys.modules if m.startswith("engine.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    code, _, err = gnomon("op:tanh")
    assert code == 3 and "pip install 'gnomon[check]'" in err


def test_self_prints_the_score_of_the_tester(capsys, monkeypatch):
    import sys
    from types import ModuleType, SimpleNamespace

    asked = {}

    def score(**settings):
        asked.update(settings)
        return SimpleNamespace(rate=asked.get("rate", 1.0), false_alarms=[], table=lambda: "family  killed\nall  9/9")

    package, module = ModuleType("mutants"), ModuleType("mutants.score")
    module.score = score
    monkeypatch.setitem(sys.modules, "mutants", package)
    monkeypatch.setitem(sys.modules, "mutants.score", module)
    assert main(["check", "--self", "--examples", "5", "--seed", "2"]) == 0
    assert capsys.readouterr().out == "family  killed\nall  9/9\n"
    assert list(asked["seeds"]) == [2] and asked["examples"] == 5
    assert main(["check", "--self", "--seeds", "3"]) == 0
    assert list(asked["seeds"]) == [0, 1, 2]
    asked["rate"] = 0.9
    assert main(["check", "--self", "--examples", "5"]) == 1
