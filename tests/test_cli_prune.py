"""`gnomon prune` as a user meets it: a table, files, a stop that loses nothing, and errors that say what to do."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import packed
from engine.cli.group import run
from engine.experiment import Experiment
from engine.forms import sparse
from engine.masks import masked
from engine.prune.job import CRITERIA, Pruning
from engine.prune.stages import Stage

QUICK = ["--data", "glyphs", "--dense-epochs", "2", "--epochs", "1", "--kernels", "none"]


def prune(capsys, *arguments):
    code = run(["prune", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_table_and_a_folder(tmp_path, capsys):
    code, out, err = prune(capsys, "mlp", *QUICK, "--keep", "0.1", "--stages", "2", "--report", tmp_path)
    assert code == 0
    lines = out.splitlines()
    assert "mlp on glyphs, seed 0: magnitude, weights, global" in out
    assert [line.split("  ")[0] for line in lines if line.startswith(("dense", "keep"))] == ["dense", "keep 0.213", "keep 0.1"]
    assert [line.split(":")[0] for line in err.splitlines()] == ["dense", "stage 1 of 2", "stage 2 of 2"]
    names = {"pruning.json", "dense.safetensors", "stage-01.safetensors", "stage-02.safetensors", "table.md", "report.json", "accuracy.png"}
    assert {p.name for p in tmp_path.iterdir()} == {*names, "pruned.packed"}
    report = json.loads((tmp_path / "report.json").read_text())
    last = report["rows"][-1]
    params = packed.load(tmp_path / "pruned.packed")
    assert sum(np.count_nonzero(p) for p in params.values()) == last["kept"]
    assert (tmp_path / "pruned.packed").stat().st_size == last["bytes"]["file"]
    e = Experiment.from_dict(report["job"]["experiment"])
    assert np.sum(e.what.decide(e.scores(params, e.test[0])) == e.test[1]) == last["right"]


def test_channels_make_arrays_smaller(tmp_path, capsys):
    options = ("--grain", "channels", "--keep", "0.5", "--scope", "layer", "--stages", "1")
    code, out, _ = prune(capsys, "mlp", *QUICK, *options, "--report", tmp_path, "--json")
    dense, half = json.loads(out)
    params = packed.load(tmp_path / "pruned.packed")
    assert code == 0 and params["w1"].shape[1] == 150 and params["w2"].shape == (150, 50)
    assert half["numbers"] == sum(p.size for p in params.values()) < 0.6 * dense["numbers"] and half["note"] == "dense, smaller"


def test_weights_are_shared_at_last_where_they_are_left(tmp_path, capsys):
    assert prune(capsys, "logistic", *QUICK, "--stages", "1", "--share", "4", "--report", tmp_path)[0] == 0
    from engine import checkpoints

    mask = checkpoints.load(tmp_path / "stage-01.safetensors")[0]["masks"]["w"]
    w = packed.load(tmp_path / "pruned.packed")["w"]
    assert np.array_equal(w != 0, mask) and 2 <= len(np.unique(w[mask])) <= 4
    assert np.array_equal(w, w.astype(np.float16))


@pytest.mark.parametrize("criterion", ["lamp", "taylor", "snip", "movement", "hessian", "random"])
def test_every_criterion_runs(criterion, tmp_path, capsys):
    code, out, _ = prune(capsys, "logistic", *QUICK, "--criterion", criterion, "--stages", "1", "--report", tmp_path, "--json")
    dense, pruned = json.loads(out)
    weights = dense["numbers"] - 10  # without the biases
    assert code == 0 and pruned["kept"] - round(weights / 10) in range(11)


def test_what_was_stopped_goes_on_to_the_same_bits(tmp_path):
    """Ctrl-C in the training of the second stage; then the same command with --resume."""
    stop = (
        "import os, signal, engine.train as t\n"
        "step, seen = t.train_step, []\n"
        "def stopping(run, *given, **options):\n"
        "    seen.append(run.step)\n"
        f"    if len(seen) == {10**9}: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return step(run, *given, **options)\n"
        "t.train_step = stopping\n"
    )
    arguments = ["mlp", *QUICK, "--keep", "0.1", "--stages", "2"]

    def ran(folder, *more, stop_at=None):
        prelude = stop.replace(str(10**9), str(stop_at)) if stop_at else ""
        given = ["gnomon", "prune", *arguments, "--report", str(folder), *more]
        code = f"{prelude}\nimport sys\nsys.argv = {given!r}\nfrom engine.cli.group import run\nsys.exit(run(sys.argv[1:]))"
        where = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=where)

    whole = ran(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    steps = len(Experiment.of("mlp", "glyphs").train[0]) // 32
    stopped = ran(tmp_path / "parts", stop_at=3 * steps + steps // 2)
    assert stopped.returncode == 130 and "--resume" in stopped.stderr.splitlines()[-1], stopped.stderr
    resumed = ran(tmp_path / "parts", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("stage-01.safetensors", "stage-02.safetensors", "pruned.packed"):
        a, b = ((tmp_path / where / name) for where in ("whole", "parts"))
        assert same(a, b), name
    assert not list((tmp_path / "parts").glob("*.partial*"))


def same(a, b):
    """The same arrays; what stands beside them has seconds in it."""
    if a.suffix == ".packed":
        return a.read_bytes() == b.read_bytes()
    from engine import checkpoints

    (one, _), (other, _) = checkpoints.load(a), checkpoints.load(b)
    return all(np.array_equal(one[g][n], other[g][n]) for g in one for n in one[g])


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("mlp", "--keep", "0"), "keep=0.0: a share above 0 and up to 1 is wanted"),
        (("mlp", "--keep", "1.5"), "keep=1.5: a share above 0"),
        (("mlp", "--grain", "blocks:0x4"), "there is no grain 'blocks:0x4'"),
        (("mlp", "--grain", "5:4"), "there is no grain '5:4'"),
        (("mlp", "--grain", "2:4", "--stages", "2"), "2:4 is one stage"),
        (("mlp", "--criterion", "snip", "--stages", "2"), "snip prunes before the training, once"),
        (("mlp", "--criterion", "tailor"), "Did you mean taylor?"),
        (("mlp", "--schedule", "oneshot", "--stages", "2"), "oneshot prunes once"),
        (("mlp", "--resume", "--overwrite"), "which of the two?"),
        (("mlp", "--schedule", "square"), "there is no schedule called 'square'"),
        (("mpl",), "Did you mean mlp?"),
        (("mlp", "--data", "mnits5k"), "Did you mean"),
        (("logistic", "--data", "digits", "--grain", "channels"), "logistic has no channels that can go"),
        (("logistic", "--data", "breast_cancer"), "logistic on breast_cancer has no weights of two axes"),
        (("linear", "--data", "diabetes"), "a classification is wanted"),
        (("lenet5_classic", "--data", "digits", "--stages", "1"), "cannot take digits"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(arguments, said, tmp_path, capsys):
    code, _, err = prune(capsys, *arguments, "--report", tmp_path / "none")
    assert code == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "none").exists()


def test_scores_that_are_not_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(CRITERIA, "random", lambda job, params, names: {"w": np.full((784, 10), np.nan)})
    code, _, err = prune(capsys, "logistic", *QUICK, "--criterion", "random", "--report", tmp_path)
    assert code == 1 and "7840 of 7840 scores of 'w' are not numbers (nan)" in err and "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} == {"pruning.json", "dense.safetensors"}


@pytest.mark.parametrize("moment", [("engine.prune.stages", "select"), ("engine.share", "cluster"), ("engine.tradeoff", "measured")])
def test_a_stop_between_trainings_says_how_to_go_on(moment, tmp_path, capsys, monkeypatch):
    given = ("logistic", *QUICK, "--stages", "1", "--share", "4", "--report", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gnomon", "prune", *map(str, given)])
    with monkeypatch.context() as stopping:

        def stop(*given, **options):
            raise KeyboardInterrupt

        stopping.setattr(".".join(moment), stop)
        code, _, err = prune(capsys, *given)
    assert code == 130 and err.splitlines()[-1] == f"  gnomon prune {' '.join(map(str, given))} --resume"
    assert prune(capsys, *given, "--resume")[0] == 0


def test_stages_of_one_share_have_times_of_their_own(tmp_path, capsys):
    _, out, _ = prune(capsys, "logistic", *QUICK, "--keep", "1", "--stages", "2", "--report", tmp_path, "--json")
    _, first, second = json.loads(out)
    assert first["name"] == second["name"] == "keep 1" and first["latency"] != second["latency"]


def test_a_folder_that_has_a_pruning(tmp_path, capsys, monkeypatch):
    given = ("logistic", *QUICK, "--stages", "1", "--report", tmp_path)
    assert prune(capsys, *given)[0] == 0
    code, _, err = prune(capsys, *given)
    assert code == 1 and "--resume goes on with it, --overwrite begins anew" in err
    code, _, err = prune(capsys, *given, "--keep", "0.2", "--resume")
    assert code == 2 and "keep: then 0.1, now 0.2" in err
    assert prune(capsys, *given, "--resume")[0] == 0
    code, _, err = prune(capsys, "logistic", *QUICK, "--report", tmp_path / "new", "--resume")
    assert code == 1 and "no pruning" in err
    assert prune(capsys, *given, "--keep", "0.2", "--overwrite")[0] == 0
    (tmp_path / "pruning.json").write_text("{")
    code, _, err = prune(capsys, *given, "--resume")
    assert code == 1 and "pruning.json is damaged" in err and "--overwrite begins anew" in err
    monkeypatch.setattr(Pruning, "run", lambda job, folder, watch: [][0])
    with pytest.raises(IndexError):
        prune(capsys, *given, "--overwrite")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["pruning.json"]  # no table of what is no longer there


def test_where_the_stages_of_a_job_begin(tmp_path, monkeypatch):
    """From the dense weights; with rewinding, and by a criterion that prunes before the training, from the first ones, and as long."""
    e = replace(Experiment.of("logistic", "glyphs"), recipe=replace(Experiment.of("logistic", "glyphs").recipe, epochs=3))
    first = e.start()

    def begun(**how):
        seen, trained = {}, []
        monkeypatch.setattr("engine.prune.job.iterate", lambda params, **options: seen.update(options, params=params) or iter(()))
        job = Pruning(e, **how)
        list(job.run(tmp_path))
        monkeypatch.setattr("engine.prune.job.fit", lambda *given, **options: trained.append((options["seed"], options["epochs"])))
        for number in (1, 2):
            seen["train"](first, {}, number, None)
        return all(np.array_equal(seen["params"][name], first[name]) for name in first), seen["rewind"], trained

    assert begun() == (False, None, [(1, 2), (2, 2)])
    assert begun(epochs=5) == (False, None, [(1, 5), (2, 5)])
    assert begun(criterion="snip", stages=1) == (True, None, [(0, 3), (0, 3)])
    from_dense, rewound, trained = begun(rewind=True)
    assert not from_dense and all(np.array_equal(rewound[name], first[name]) for name in first) and trained == [(0, 3), (0, 3)]


def test_a_stage_runs_in_the_forms_that_are_fast(monkeypatch):
    job = Pruning(Experiment.of("logistic", "glyphs"))
    params = job.experiment.start()
    masks = {"w": np.arange(params["w"].size).reshape(params["w"].shape) % 20 == 0}
    stage = Stage(1, 0.05, masked(params, masks), masks)
    monkeypatch.setattr("engine.forms.sparse", lambda params, masks, batch: sparse(params, masks, kind="csr", batch=batch))
    formed, note = job.deployed(stage)
    assert note == "w csr" and len(formed["w"].data) == masks["w"].sum()
    assert job.deployed(Stage(0, 1.0, params, {})) == (params, "dense")


def test_a_job_there_and_back():
    job = Pruning(Experiment.of("mlp", "glyphs", seed=3), keep=0.2, grain="blocks:2x3", stages=3)
    again = Pruning.from_dict(json.loads(json.dumps(job.as_dict())))
    assert again == job and again.keeps == job.keeps == pytest.approx([0.437, 0.2296, 0.2], abs=1e-3)
