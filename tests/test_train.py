"""The loop does what it says, and a run that was stopped anywhere goes on to the same bits."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import kernels
from engine import ops
from engine.checkpoints import CheckpointError, save
from engine.interrupt import Interrupted, postponed
from engine.nets import batch_norm, dense, dropout, relu, serial
from engine.optim import SGD, Adam, Momentum
from engine.progress import Bar, Callback, Lines, tracked
from engine.run import Run
from engine.schedule import Cosine, LinearWarmup
from engine.train import Diverged, fit, mean_loss, objective, predictions, train_step

RNG = np.random.default_rng(5)
X = RNG.normal(size=(50, 3)).astype(np.float32)
T = (X @ np.float32([[1, -2], [0.5, 1], [0, 3]]) + np.float32([0.3, -1])).astype(np.float32)
T_CLASS = (X[:, 0] > 0).astype(np.int64)


def squared(y, t):
    return ops.mean(ops.square(y - t))


def line_loss(p, x, t):
    return squared(ops.matmul(x, p["w"]) + p["b"], t)


def line():
    return {"w": np.zeros((3, 2), np.float32), "b": np.zeros(2, np.float32)}


NET = serial(dense(8), batch_norm(), relu, dropout(0.3), dense(5), relu, dropout(0.2), dense(2))
SCHEDULE = LinearWarmup(0.05, 4, then=Cosine(0.05, 10))
OPTIMIZERS = [Adam(lr=SCHEDULE), Momentum(lr=SCHEDULE, nesterov=True, weight_decay=0.01, no_decay=("*/b",))]
EPOCHS, STEPS = 3, 12  # 50 examples in batches of 16: 4 steps, the last of 2


def fit_net(optimizer, **options):
    """A net with all that a run must remember: running statistics, dropout, moments, a schedule, clipping, the best epoch."""
    params, state = NET.init(1, (3,))
    fixed = {"batch_size": 16, "seed": 7, "clip_norm": 0.8, "validation": (X[:20], T[:20]), "patience": 99, "progress": False}
    return fit(objective(NET, squared), params, (X, T), state=state, optimizer=optimizer, epochs=EPOCHS, **{**fixed, **options})


def same_bits(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
        assert a[name].tobytes() == b[name].tobytes(), name


def same_run(a, b):
    same_bits(a.params, b.params)
    same_bits(a.state, b.state)
    for slot, x in a.moments.items():
        same_bits(x, b.moments[slot]) if isinstance(x, dict) else None
    assert a.moments["t"] == b.moments["t"] == a.step == b.step
    assert [{**r, "seconds": 0} for r in a.history] == [{**r, "seconds": 0} for r in b.history]
    same_bits(a.best[0], b.best[0])
    same_bits(a.best[1], b.best[1])


class At(Callback):
    """Do something at one step."""

    def __init__(self, step, what):
        self.at, self.what = step, what

    def step(self, run, loss):
        if run.step == self.at:
            self.what()


@pytest.fixture(autouse=True)
def interrupts():
    """SIGINT interrupts, also where the shell began the run in the background, for which it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_interrupted_at_any_step_and_resumed_ends_in_the_same_bits(optimizer, tmp_path):
    whole = fit_net(optimizer)
    assert whole.step == STEPS and len(whole.history) == EPOCHS
    for step in range(1, STEPS + 1):
        path = tmp_path / f"{step}.safetensors"
        with pytest.raises(Interrupted) as stop:
            fit_net(optimizer, checkpoint=path, callbacks=[At(step, press)])
        assert stop.value.run.step == step
        same_run(whole, fit_net(optimizer, checkpoint=path, resume=True))


def test_on_kernels_too(tmp_path):
    if "cpu" not in kernels.backends():
        pytest.skip("no kernels here")
    with kernels.use("cpu"):
        whole = fit_net(OPTIMIZERS[0])
        with pytest.raises(Interrupted):
            fit_net(OPTIMIZERS[0], checkpoint=tmp_path / "c", callbacks=[At(6, press)])
        same_run(whole, fit_net(OPTIMIZERS[0], checkpoint=tmp_path / "c", resume=True))


def test_interrupted_again_and_again(tmp_path):
    whole, path = fit_net(OPTIMIZERS[0]), tmp_path / "c"
    for step in (1, 2, 6, 11):
        with pytest.raises(Interrupted):
            fit_net(OPTIMIZERS[0], checkpoint=path, resume=step > 1, callbacks=[At(step, press)])
    same_run(whole, fit_net(OPTIMIZERS[0], checkpoint=path, resume=True))


@pytest.mark.parametrize("step, left", [(1, None), (3, 2), (5, 4), (11, 10)])
def test_a_crash_leaves_the_last_checkpoint(step, left, tmp_path):
    def crash():
        raise RuntimeError("the roof fell in")

    path = tmp_path / "c"
    with pytest.raises(RuntimeError, match="roof"):
        fit_net(OPTIMIZERS[0], checkpoint=path, checkpoint_every=2, callbacks=[At(step, crash)])
    if left is None:
        assert not path.exists()
        return
    assert Run.load(path)[0].step == left
    same_run(fit_net(OPTIMIZERS[0]), fit_net(OPTIMIZERS[0], checkpoint=path, resume=True))


def test_a_killed_process_is_resumed_to_the_same_bits(tmp_path):
    path = tmp_path / "killed"
    program = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_train import At, OPTIMIZERS, fit_net
        fit_net(OPTIMIZERS[0], checkpoint={str(path)!r}, checkpoint_every=3, callbacks=[At(8, lambda: os._exit(9))])
    """
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 9
    assert Run.load(path)[0].step == 6
    same_run(fit_net(OPTIMIZERS[0]), fit_net(OPTIMIZERS[0], checkpoint=path, resume=True))


def test_more_epochs_after_the_end_are_as_if_asked_for_at_once(tmp_path):
    path = tmp_path / "c"
    options = {"optimizer": SGD(0.1), "progress": False, "patience": 2, "monitor": "score", "evaluate": scripted([2, 1, 3, 0, 5])}
    fit(line_loss, line(), (X, T), epochs=3, checkpoint=path, **options)  # which returns the second epoch's parameters
    more = fit(line_loss, line(), (X, T), epochs=5, checkpoint=path, resume=True, **options)
    same_bits(more.params, fit(line_loss, line(), (X, T), epochs=5, **options).params)


def test_the_best_of_before_the_stop_is_kept(tmp_path):
    options = {"evaluate": scripted([3, 1, 2]), "monitor": "score"}
    whole = fit_net(OPTIMIZERS[0], **options)
    with pytest.raises(Interrupted):
        fit_net(OPTIMIZERS[0], checkpoint=tmp_path / "c", callbacks=[At(10, press)], **options)
    again = fit_net(OPTIMIZERS[0], checkpoint=tmp_path / "c", resume=True, **options)
    same_run(whole, again)
    assert again.state["batch_norm1/mean"].tobytes() == Run.load(tmp_path / "c")[0].best[1]["batch_norm1/mean"].tobytes()


def test_memory_is_laid_out_as_a_checkpoint_gives_it_back():
    """Another order in memory is another order of summation, and so other bits."""

    def loss(p, x, state, seed):
        return ops.sum(p["w"]), {"seen": np.asfortranarray(RNG.normal(size=(3, 4))), "strided": np.zeros(8)[::2]}

    run = fit(loss, {"w": np.asfortranarray(X)}, (X,), state={}, optimizer=Adam(0.1), epochs=1, progress=False)
    arrays = [*run.params.values(), *run.state.values(), *run.moments["m"].values()]
    assert len(arrays) == 4 and all(a.flags.c_contiguous for a in arrays)


# Ctrl-C.


def test_ctrl_c_says_how_to_resume(tmp_path, capfd):
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=3, batch_size=10, checkpoint=path, callbacks=[At(7, press)])
    assert (
        str(stop.value) == f"stopped after step 7, in epoch 2; everything is in {path}: the same call with resume=True goes on from there"
    )
    assert "finishing this step" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_the_last_checkpoint_is_written_is_not_forgotten(tmp_path, monkeypatch):
    """Else `gnomon prune` would go on with the next stage."""
    save = Run.save
    monkeypatch.setattr(Run, "save", lambda run, path, plan: (press(), save(run, path, plan)))
    with pytest.raises(Interrupted, match="stopped after step 1"):
        fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=1, batch_size=len(X), progress=False, checkpoint=tmp_path / "c")


def test_ctrl_c_without_a_checkpoint_keeps_the_run_in_the_exception():
    with pytest.raises(Interrupted, match="no checkpoint was asked for") as stop:
        fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=3, progress=False, callbacks=[At(1, press)])
    assert stop.value.run.step == 1 and np.any(stop.value.run.params["w"] != 0)


def test_the_second_ctrl_c_stops_at_once(capsys):
    with pytest.raises(KeyboardInterrupt), postponed() as asked:
        press()
        assert asked()
        press()
        raise AssertionError("still here")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_in_another_thread():
    runs = []
    thread = threading.Thread(target=lambda: runs.append(fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=1, progress=False)))
    thread.start()
    thread.join()
    assert runs[0].step == 1


# What a checkpoint belongs to.


CONFIG = {"model": "a", "sizes": (3, 2)}


@pytest.fixture
def stopped(tmp_path):
    path = tmp_path / "c"
    fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=1, checkpoint=path, config=CONFIG, progress=False)
    return path


@pytest.mark.parametrize(
    "change, line_of_message",
    [
        ({"optimizer": SGD(0.2)}, "optimizer: then SGD(lr=0.1, weight_decay=0.0, no_decay=()), now SGD(lr=0.2,"),
        ({"batch_size": 32}, "batch_size: then 64, now 32"),
        ({"seed": 1}, "seed: then 0, now 1"),
        ({"config": {"model": "b"}}, "config: then {'model': 'a', 'sizes': [3, 2]}, now {'model': 'b'}"),
        ({"clip_norm": 1.0}, "clip_norm: then None, now 1.0"),
        ({"patience": 3, "monitor": "loss"}, "best_by: then None, now smallest loss"),
        ({"data": (X + 1, T)}, "data: then ['float32 (50, 3) "),
        ({"params": {"w": np.zeros((3, 2)), "b": np.zeros(2)}}, "params: then {'b': 'float32 (2,)'"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_a_checkpoint_of_another_run_is_refused(stopped, change, line_of_message):
    call = {"params": line(), "data": (X, T), "optimizer": SGD(0.1), "epochs": 2, "config": CONFIG, **change}
    with pytest.raises(ValueError, match="belongs to another run") as e:
        fit(line_loss, checkpoint=stopped, resume=True, progress=False, **call)
    assert line_of_message in str(e.value)


def test_numpy_numbers_as_settings(tmp_path):
    settings = {"seed": np.int64(3), "batch_size": np.int32(20), "clip_norm": np.float32(0.5), "epochs": np.int64(2)}
    data = (X, np.zeros((50, 0)))
    for resume in (False, True):
        run = fit(
            lambda p, x, t: line_loss(p, x, T[:1]), line(), data, optimizer=SGD(np.float32(0.1)), evaluate=lambda run: {"a": np.float32(1)},
            checkpoint=tmp_path / "c", progress=False, resume=resume, **settings,
        )  # fmt: skip
    assert run.step == 6 and all(p.dtype == np.float32 for p in run.params.values())


def test_what_a_checkpoint_says_of_its_run(stopped):
    fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=2, checkpoint=stopped, resume=True, config=CONFIG, progress=False)
    run, plan = Run.load(stopped)
    assert run.epoch == 2 and plan["config"] == {"model": "a", "sizes": [3, 2]} and plan["batch_size"] == 64


def test_a_schedule_that_is_a_lambda_can_be_resumed(tmp_path):
    def train(epochs, **options):
        optimizer = SGD(lambda step: 0.1 / (1 + step))
        return fit(line_loss, line(), (X, T), optimizer=optimizer, epochs=epochs, checkpoint=tmp_path / "c", progress=False, **options)

    train(1)
    same_bits(train(3, resume=True).params, train(3).params)


def test_resume_wants_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="which checkpoint"):
        fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=1, resume=True)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=1, resume=True, checkpoint=tmp_path / "nowhere")
    save(tmp_path / "weights", {"params": line()}, {})
    with pytest.raises(CheckpointError, match="holds no training run"):
        fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=1, resume=True, checkpoint=tmp_path / "weights")


# The loop.


def test_a_line_is_found_and_nothing_given_is_changed():
    params, x, t = line(), X.copy(), T.copy()
    for a in (*params.values(), x, t):
        a.flags.writeable = False
    run = fit(line_loss, params, (x, t), optimizer=Momentum(0.1), epochs=60, batch_size=16, progress=False)
    assert np.allclose(run.params["w"], [[1, -2], [0.5, 1], [0, 3]], atol=1e-3)
    assert np.allclose(run.params["b"], [0.3, -1], atol=1e-3)
    assert all(p.dtype == np.float32 for p in run.params.values())
    assert not params["w"].any()


def test_parameters_that_a_callback_keeps_stay_as_they_were():
    class Keeps(Callback):
        def start(self, run, plan):
            self.kept = [(run.params, {name: x.copy() for name, x in run.params.items()})]

        def step(self, run, loss):
            self.kept.append((run.params, {name: x.copy() for name, x in run.params.items()}))

    keeps = Keeps()
    with kernels.use("cpu"):
        fit(line_loss, line(), (X, T), optimizer=Adam(0.1), epochs=2, batch_size=16, callbacks=[keeps], progress=False)
    assert len(keeps.kept) == 9
    assert all(np.array_equal(params["w"], then["w"]) for params, then in keeps.kept)
    assert not np.array_equal(keeps.kept[0][0]["w"], keeps.kept[-1][0]["w"])


def test_one_step_is_the_gradient_times_the_rate():
    run = Run(line(), SGD(0.5).init(line()))
    before = train_step(run, line_loss, (X[:7], T[:7]), SGD(0.5))
    assert before == pytest.approx(np.mean(T[:7] ** 2), rel=1e-6)
    assert np.allclose(run.params["b"], 0.5 * T[:7].sum(axis=0) / 7, rtol=1e-5)  # d/db of the mean of (y - t)^2 over 7 x 2
    assert (run.step, run.position, run.examples) == (1, 1, 7)


def test_the_history(tmp_path):
    run = fit(
        line_loss, line(), (X, T), optimizer=SGD(Cosine(0.1, 8)), epochs=2, batch_size=16, progress=False,
        validation=(X[:9], T[:9]), evaluate=lambda run: {"norm": np.abs(run.params["w"]).sum()},
    )  # fmt: skip
    assert [list(record) for record in run.history] == [["epoch", "loss", "seconds", "lr", "val_loss", "norm"]] * 2
    assert [record["epoch"] for record in run.history] == [1, 2]
    assert run.history[0]["lr"] == Cosine(0.1, 8)(3) and run.history[1]["lr"] == Cosine(0.1, 8)(7)
    assert run.history[1]["val_loss"] == pytest.approx(line_loss(run.params, X[:9], T[:9]), rel=1e-6)
    assert all(type(value) in (int, float) for record in run.history for value in record.values())


def test_the_epochs_loss_weighs_examples_not_batches():
    run = fit(line_loss, line(), (X, T), optimizer=SGD(0.0), epochs=1, batch_size=16, progress=False)  # 16, 16, 16 and 2
    assert run.history[0]["loss"] == pytest.approx(line_loss(line(), X, T), rel=1e-6)
    assert mean_loss(line_loss, line(), (X, T), batch_size=16) == pytest.approx(line_loss(line(), X, T), rel=1e-6)


def test_evaluation_has_no_dropout_and_does_not_move_the_state():
    params, state = NET.init(0, (3,))
    loss = objective(NET, squared)
    once = mean_loss(loss, params, (X, T), state=state, batch_size=7)
    assert once == pytest.approx(float(squared(NET(params, X, state), T)), rel=1e-5)
    assert np.all(state["batch_norm1/mean"] == 0)


def test_each_step_drops_other_units():
    seen = []

    def loss(params, x, state, seed):
        seen.append(seed)
        return ops.sum(params["w"] * 0.0), state

    fit(loss, {"w": np.ones(2)}, (X,), state={}, optimizer=SGD(0.1), epochs=2, batch_size=10, progress=False, validation=(X[:3],))
    steps = [s for s in seen if s is not None]
    assert len(steps) == 10 == len(set(steps)) and seen.count(None) == 2


def test_classes_are_learned():
    net = serial(dense(16), relu, dropout(0.1), dense(2))
    params, state = net.init(0, (3,))

    def cross_entropy(z, t):
        return -ops.mean(ops.take_along_axis(ops.log_softmax(z), t[:, None], axis=1))

    run = fit(objective(net, cross_entropy), params, (X, T_CLASS), state=state, optimizer=Adam(1e-2), epochs=40, progress=False)
    assert run.history[-1]["loss"] < 0.3 < run.history[0]["loss"]
    assert np.mean(np.argmax(net(run.params, X, run.state), axis=1) == T_CLASS) >= 0.96


def test_predictions_in_pieces():
    assert np.array_equal(predictions(lambda x: 2 * x, X, batch_size=7), 2 * X)
    assert predictions(lambda x: 2 * x, X[:0]).shape == (0, 3)


def test_clipping_bounds_the_step():
    run = fit(line_loss, line(), (X, T), optimizer=SGD(1.0), epochs=1, batch_size=50, clip_norm=0.01, progress=False)
    assert np.sqrt(sum(np.sum(p**2) for p in run.params.values())) == pytest.approx(0.01, rel=1e-5)


def test_a_loss_that_runs_away_is_said_at_once():
    with np.errstate(all="ignore"), pytest.raises(Diverged, match=r"the loss is (inf|nan) at step \d+ .*\n.*smaller learning rate"):
        fit(line_loss, line(), (X, T), optimizer=SGD(1e6), epochs=50, progress=False)


@pytest.mark.parametrize(
    "data, error",
    [(X, TypeError), ((), TypeError), ((X, T[:3]), ValueError), ((X[:0], T[:0]), ValueError), ((X, np.float32(1)), ValueError)],
)
def test_data_that_does_not_fit(data, error):
    with pytest.raises(error, match="data"):
        fit(line_loss, line(), data, optimizer=SGD(0.1), epochs=1, progress=False)


# Early stopping.


def scripted(values):
    """Measures that come one an epoch."""
    return lambda run: {"score": values[run.epoch]}


def test_early_stopping_returns_the_best_epoch():
    kept = []

    class Keep(Callback):
        def epoch(self, run, record):
            kept.append(run.params)

    run = fit(
        line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=9, progress=False, callbacks=[Keep()],
        evaluate=scripted([3, 1, 2, 1, 5, 0]), monitor="score", patience=3,
    )  # fmt: skip
    assert len(run.history) == 5  # the third epoch after the second
    same_bits(run.params, kept[1])


def test_early_stopping_upwards_and_past_nan():
    def train(values, **options):
        return fit(
            line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=6, progress=False, evaluate=scripted(values), monitor="score", **options
        )

    assert len(train([1, 2, 3, 2, 2, 9], patience=2, maximise=True).history) == 5
    assert len(train([np.nan, 2, np.nan, 1, 1, 1], patience=2).history) == 6


def test_early_stopping_goes_on_from_a_checkpoint_as_it_would_have(tmp_path):
    scores = [3, 1, 2, 1, 5, 0]
    options = {"optimizer": SGD(0.1), "progress": False, "evaluate": scripted(scores), "monitor": "score", "patience": 3}
    whole = fit(line_loss, line(), (X, T), epochs=9, **options)
    for first in (1, 2, 4, 5):
        path = tmp_path / str(first)
        fit(line_loss, line(), (X, T), epochs=first, checkpoint=path, **options)
        again = fit(line_loss, line(), (X, T), epochs=9, checkpoint=path, resume=True, **options)
        assert len(again.history) == 5
        same_bits(again.params, whole.params)


def test_early_stopping_names_what_it_can_watch():
    with pytest.raises(ValueError, match="watches 'val_loss', the history has epoch, loss, seconds, lr"):
        fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=2, patience=1, progress=False)


# Those who look on.


def test_callbacks_are_called_in_order_and_may_end_it():
    heard = []

    class Listen(Callback):
        def start(self, run, plan):
            heard.append(("start", plan["epochs"], plan["batches"]))

        def step(self, run, loss):
            heard.append(("step", run.step))

        def epoch(self, run, record):
            heard.append(("epoch", record["epoch"]))
            return run.epoch == 2

        def end(self, run):
            heard.append(("end", run.step))

    fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=5, batch_size=25, progress=False, callbacks=[Listen()])
    first = [("step", 1), ("step", 2), ("epoch", 1)]
    assert heard == [("start", 5, 2), *first, ("step", 3), ("step", 4), ("epoch", 2), ("end", 4)]


def test_callbacks_hear_of_the_end_after_an_error():
    ended = []

    class End(Callback):
        def end(self, run):
            ended.append(run.step)

    with pytest.raises(ZeroDivisionError):
        fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=1, progress=False, callbacks=[End(), At(1, lambda: 1 // 0)])
    assert ended == [1]


def test_progress_in_lines(capsys):
    fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=2, validation=(X, T))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "val_loss" in lines[0] and "seconds" not in lines[0]


@pytest.mark.parametrize("watcher", [Bar, Lines])
def test_progress_draws_and_leaves(watcher, capsys):
    pytest.importorskip("rich")
    fit(line_loss, line(), (X, T), optimizer=SGD(0.1), epochs=2, batch_size=10, progress=False, callbacks=[watcher()])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("shown", [True, False])
def test_progress_over_items_gives_them_all(terminal, shown, capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert list(tracked(range(5), "counting", shown)) == [0, 1, 2, 3, 4]
    printed = capsys.readouterr()
    assert printed.out == "" and ("counting" in printed.err) == (terminal and shown)
