"""The main job: what it prints, what it leaves, how good the models are, and that a broken rule does not pass."""

from __future__ import annotations

import dataclasses
import json
from statistics import mean, stdev

import numpy as np
import pytest

from engine.__main__ import main
from engine.demo import SHOWS, chosen, spread
from engine.experiment import Experiment
from engine.report import Answers, finite, percent, worst
from engine.traced import OPS
from kernels import use

PICTURES = {
    "loss.png",
    "confusion.png",
    "regression.png",
    "mistakes-logistic-digits.png",
    "mistakes-mlp.png",
    "mistakes-lenet5_classic.png",
    "filters-lenet5_classic.png",
    "mistakes-lenet5_classic-pruned.png",
    "filters-lenet5_classic-pruned.png",
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One hurried demo: exit code, what it printed, its folder."""
    folder = tmp_path_factory.mktemp("demo") / "a report"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("rich.console.Console.file", property(lambda _: Printed(lines), lambda *_: None))
        code = main(["demo", "--quick", "--report", str(folder)])
    return code, "".join(lines), folder


class Printed:
    """A file that keeps what is written."""

    encoding = "utf-8"

    def __init__(self, lines):
        self.write, self.flush = lines.append, lambda: None

    def isatty(self):
        return False


ROWS = [(title, bool(made)) for s in SHOWS for title, made in ((s.title, False), (s.integers, True)) if title]


def test_the_table_has_a_row_for_each_model(quick):
    code, out, folder = quick
    assert code == 0
    for title, _ in ROWS:
        assert title in out
    assert out.count("PASS") == len(SHOWS) and "FAIL" not in out
    assert str(folder) in out.replace("\n", "") and "266,610" in out and "61,706" in out
    assert f"{61_706 - 61_470 + 6_147:,}" in out  # the biases, and a tenth of the weights
    assert max(map(len, out.partition("\n\n")[2].partition("\n\n")[0].splitlines())) <= 80


def test_the_pictures_are_pictures(quick):
    from matplotlib.image import imread

    folder = quick[2]
    assert {p.name for p in folder.glob("*.png")} == PICTURES
    for path in folder.glob("*.png"):
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 150 and len(set(map(bytes, pixels[::7].reshape(-1, pixels.shape[2])))) > 20


def test_the_report_holds_what_the_table_says(quick):
    told = json.loads((quick[2] / "report.json").read_text(), parse_constant=pytest.fail)
    assert set(told["pictures"]) == PICTURES and told["quick"] is True and told["seed"] == 0
    assert [(m["title"], m["gradient"] is None) for m in told["models"]] == ROWS
    for m in told["models"]:
        if m["gradient"] is None:
            continue
        assert m["gradient"]["verdict"] == "PASS" and m["gradient"]["worst"] < 1e-9
        assert {a["name"] for a in m["gradient"]["arrays"]} == set(Experiment.from_dict(m).start())
        assert all(a["probes"] for a in m["gradient"]["arrays"])
        assert m["seconds"].keys() == {"train", "compile", "verdict"} and len(m["history"]) == m["recipe"]["epochs"]
        assert m["history"][-1]["val_loss"] < m["loss_at_start"]["test"]
    matched = [m["metrics"] for m in told["models"] if "right" in m["metrics"]]
    assert all(m["accuracy"] == m["right"] / m["of"] and m["interval"][0] < m["accuracy"] < m["interval"][1] for m in matched)


def test_models_in_integers_answer_as_the_floats_do(quick):
    told = {m["title"]: m for m in json.loads((quick[2] / "report.json").read_text())["models"]}
    for show in SHOWS:
        if show.integers:
            whole, small = told[show.title], told[show.integers]
            assert abs(whole["metrics"]["right"] - small["metrics"]["right"]) <= 0.01 * whole["metrics"]["of"]
            assert small["parameters"] == whole["parameters"] and "history" not in small
            assert small["bytes"]["float32"] > (3.9 if show.keep is None else 20) * small["bytes"]["file"]
            assert small["metrics"]["log_loss"] != whole["metrics"]["log_loss"]  # it is another model


def test_seeds_give_mean_and_spread(tmp_path, capsys):
    code = main(["demo", "--quick", "--models", "linear", "--seeds", "3", "--seed", "5", "--kernels", "none", "--report", str(tmp_path)])
    found = json.loads((tmp_path / "report.json").read_text())["models"][0]["seeds"]
    assert code == 0 and found["seeds"] == [5, 6, 7] and len(set(found["r2"]["values"])) == 3
    assert found["r2"]["mean"] == pytest.approx(mean(found["r2"]["values"]))
    assert found["r2"]["sd"] == pytest.approx(stdev(found["r2"]["values"]))
    assert f"R2 {found['r2']['mean']:.4f}" in (out := capsys.readouterr().out) and f"± {found['r2']['sd']:.4f}" in out


def test_the_same_seed_gives_the_same_result(tmp_path):
    reports = []
    for name in ("one", "two"):
        assert main(["demo", "--quick", "--models", "linear,logistic", "--report", str(tmp_path / name)]) == 0
        models = json.loads((tmp_path / name / "report.json").read_text())["models"]
        reports.append([(m["metrics"], m["gradient"]) for m in models])
    assert reports[0] == reports[1]


FLOORS = {("logistic", "digits"): 0.95, ("mlp", "mnist5k"): 0.93, ("lenet5_classic", "mnist5k"): 0.965}


@pytest.mark.parametrize("model, data", FLOORS)
def test_held_out_accuracy_at_the_default_seed(model, data):
    e = Experiment.of(model, data)
    with use("cpu"):
        run = e.fit(progress=False)
        found = e.measured(e.scores(run.params, e.test[0]), e.test[1])
    assert found["accuracy"] >= FLOORS[model, data]
    assert not set(map(bytes, e.train[0])) & set(map(bytes, e.test[0]))  # nothing that was trained on is tested on


def test_linear_regression_finds_the_least_squares_solution():
    e = Experiment.of("linear", "diabetes", epochs=400)
    run = e.fit(progress=False)
    x, t = (a.astype(np.float64) for a in e.train)
    ours = e.what.loss(run.params, x, t)
    best = np.linalg.lstsq(np.c_[x, np.ones(len(x))], t, rcond=None)[1][0] / len(x)
    assert best <= ours <= 1.01 * best


@pytest.mark.parametrize("rule", ["vjp of dense", "vjp of cross_entropy"])
def test_a_broken_rule_fails_and_is_exit_code_1(tmp_path, capsys, monkeypatch, rule):
    name = rule.removeprefix("vjp of ")
    right = OPS[name].vjps
    place = next(iter(right))
    whole = right[place]

    def longer(*args, **options):
        found = whole.function(*args, **options)
        return tuple(None if part is None else part * 1.001 for part in found) if isinstance(found, tuple) else found * 1.001

    broken = dataclasses.replace(whole, function=longer)
    monkeypatch.setitem(right, place, broken)
    monkeypatch.setattr(OPS[name], "_plans", {})
    code = main(["demo", "--quick", "--models", "mlp", "--kernels", "none", "--report", str(tmp_path)])
    out = capsys.readouterr().out
    assert code == 1 and "FAIL" in out and "they differ by" in out
    assert json.loads((tmp_path / "report.json").read_text())["models"][0]["gradient"]["verdict"] == "FAIL"


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--models", "mpl"], 2, "Did you mean mlp"),
        (["--seeds", "0"], 2, "--seeds"),
        (["--kernels", "gpu"], 2, "--kernels"),
        (["--report", __file__], 1, "exists"),
    ],
)
def test_mistakes_are_told_before_any_work(capsys, arguments, code, says):
    assert main(["demo", "--quick", *arguments]) == code
    told = capsys.readouterr()
    assert says in told.err and "Traceback" not in told.err and told.out == ""


def test_parts():
    assert [s.data for s in chosen(["logistic"])] == ["breast_cancer", "digits"] and len(chosen([])) == len(SHOWS)
    assert spread([0], [{"accuracy": 0.5, "of": 2}]) == {"seeds": [0], "accuracy": {"mean": 0.5, "sd": 0.0, "values": [0.5]}}
    assert finite({"a": [np.float32(1), float("nan"), (np.arange(2),)]}) == {"a": [1.0, None, [[0, 1]]]}
    assert percent(0.998) == ">99%" and percent(0.42) == "42%"
    answers = Answers(np.array([0, 1, 2, 1]), np.array([0, 2, 1, 0]), "abc", np.array([0.9, 0.5, 0.8, 0.6]))
    assert worst(answers, 2).tolist() == [2, 3]


def test_the_table_in_markdown_has_a_row_for_each_model(quick):
    rows = (quick[2] / "table.md").read_text().splitlines()
    assert len(rows) == 2 + len(ROWS)
    assert all(row.count("|") == 7 for row in rows)
    told = json.loads((quick[2] / "report.json").read_text())["models"]
    for row, m in zip(rows[2:], told, strict=True):
        assert f"{m['parameters']:,}" in row and (m["gradient"]["verdict"] if m["gradient"] else "x smaller") in row
        assert f"{next(iter(m['metrics'].values())):.3f}" in row
