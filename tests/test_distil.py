"""Distillation: the formula and its limits, teachers of every kind, runs that resume, and a student that is better for its teacher."""

import signal
import statistics

import numpy as np
import pytest
import tally

import kernels
from engine import ops, value_and_grad
from engine.data import load
from engine.distil import answers, distillation, distilled, hinted, of_probabilities, of_torch, regressor, soft_loss, soft_targets
from engine.interrupt import Interrupted
from engine.models import mlp
from engine.nets import dense, dropout, relu, serial
from engine.optim import Adam
from engine.progress import Callback
from engine.shapes import ShapeError
from engine.testing import check_gradient
from engine.train import OtherRun, fit, objective, predictions

RNG = np.random.default_rng(17)
Z, Z_TEACHER, T = RNG.normal(size=(7, 5)) * 3, RNG.normal(size=(7, 5)) * 3, RNG.integers(0, 5, 7)


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def by_formula(z, t, z_teacher, temperature, alpha):
    p, q = softmax(z_teacher / temperature), softmax(z / temperature)
    soft = temperature**2 * np.mean(np.sum(p * np.log(p / q), axis=1))
    return alpha * soft + (1 - alpha) * -np.mean(np.log(softmax(z)[np.arange(len(t)), t]))


# The formula.


@pytest.mark.parametrize("temperature", [0.5, 1, 4.0, 20, np.float64(3)])
@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_the_loss_is_the_formula(temperature, alpha):
    criterion = distillation(temperature=temperature, alpha=alpha)
    assert criterion(Z, T, Z_TEACHER) == pytest.approx(by_formula(Z, T, Z_TEACHER, temperature, alpha), rel=1e-13)
    single = criterion(Z.astype(np.float32), T, Z_TEACHER)
    assert single.dtype == np.float32 and single == pytest.approx(by_formula(Z, T, Z_TEACHER, temperature, alpha), rel=1e-5)


def test_without_the_factor_of_temperature_squared_it_is_another_loss():
    assert soft_loss(Z, Z_TEACHER, temperature=4) / 16 != pytest.approx(by_formula(Z, T, Z_TEACHER, 4, 1), rel=0.5)


@pytest.mark.parametrize("temperature", [1, 5])
def test_the_gradient_is_right(temperature):
    def of_student(z):
        return soft_loss(z, Z_TEACHER, temperature=temperature)

    def of_teacher(z_teacher):
        return soft_loss(Z, z_teacher, temperature=temperature)

    for soft, z in ((of_student, "z"), (of_teacher, "z_teacher")):
        check_gradient(soft, framework="engine", signature="7 5 -> ", domain={z: (-3, 3)}, examples=10).raise_if_failed()


def test_for_high_temperatures_logits_are_regressed():
    """Sec. 2.1: the gradient tends to (z - v) / (n c), both centred, with an error that falls as 1 / T."""
    gap = Z - Z.mean(axis=1, keepdims=True) - Z_TEACHER + Z_TEACHER.mean(axis=1, keepdims=True)
    limit = gap / Z.size
    far = [np.abs(value_and_grad(lambda z, v=v: soft_loss(z, Z_TEACHER, temperature=v))(Z)[1] - limit).max() for v in (1e2, 1e3, 1e4)]
    assert far[0] < 0.05 * np.abs(limit).max() and far[1] < 0.15 * far[0] and far[2] < 0.15 * far[1]
    assert soft_loss(Z, Z_TEACHER, temperature=1e4) == pytest.approx(np.sum(gap**2) / (2 * Z.size), rel=1e-3)


def test_alpha_0_is_the_cross_entropy_to_the_bit():
    loss = distillation(temperature=3, alpha=0)
    (mine, slope), (plain, known) = (value_and_grad(f)(Z) for f in (lambda z: loss(z, T, Z_TEACHER), lambda z: ops.cross_entropy(z, T)))
    assert mine == plain
    np.testing.assert_array_equal(slope, known)


def test_alpha_1_looks_at_no_label():
    assert distillation(temperature=3, alpha=1)(Z, np.full(7, -1), Z_TEACHER) == soft_loss(Z, Z_TEACHER, temperature=3)


@pytest.mark.parametrize("temperature", [0.7, 1, 8])
def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn(temperature):
    shifted = Z_TEACHER + np.arange(7)[:, None]  # the same probabilities
    value, slope = value_and_grad(lambda z: soft_loss(z, Z_TEACHER, temperature=temperature))(shifted)
    assert abs(value) < 1e-13 and np.abs(slope).max() < 1e-14


def test_no_examples_no_loss():
    assert soft_loss(np.zeros((0, 5)), np.zeros((0, 5)), temperature=2) == 0


def test_on_kernels_as_by_definition():
    loss, params = distilled(mlp.predict, temperature=2, alpha=0.5), mlp.init(0, (6, 8, 5))
    x = RNG.normal(size=(7, 6)).astype(np.float32)
    data = x, T, Z_TEACHER.astype(np.float32)
    want, gradient = value_and_grad(loss)(params, *data)
    for backend in kernels.backends():
        with kernels.use(backend):
            value, slope = value_and_grad(loss)(params, *data)
        assert value == pytest.approx(want, rel=1e-5)
        for name in params:
            np.testing.assert_allclose(slope[name], gradient[name], rtol=1e-4, atol=1e-6)


# What is refused.


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf])
def test_a_temperature_that_is_none(temperature):
    with pytest.raises(ValueError, match="temperature divides the logits, a positive number"):
        distillation(temperature=temperature, alpha=0.5)
    with pytest.raises(ValueError, match="temperature"):
        soft_loss(Z, Z_TEACHER, temperature=temperature)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan])
def test_an_alpha_that_is_no_share(alpha):
    with pytest.raises(ValueError, match="share of the soft targets in the loss, from 0 to 1"):
        distillation(temperature=2, alpha=alpha)


def test_another_number_of_classes_or_of_rows():
    for alpha in (0, 0.5):
        with pytest.raises(ShapeError, match=r"logits of shape \(7, 5\), the teacher gave \(7, 4\)\n  wants  n classes, n classes"):
            distillation(temperature=2, alpha=alpha)(Z, T, Z_TEACHER[:, :4])
    with pytest.raises(ShapeError, match=r"\(7, 5\), the teacher gave \(1, 5\)"):
        soft_loss(Z, Z_TEACHER[:1], temperature=2)  # which would broadcast
    with pytest.raises(ShapeError, match=r"logits of shape \(7,\)"):
        soft_loss(Z[:, 0], Z_TEACHER[:, 0], temperature=2)


def test_a_teacher_that_gives_something_else():
    x = np.arange(10.0)[:, None]
    with pytest.raises(ShapeError, match=r"shape \(10, 1\), wanted is \(n, 3\)(.|\n)*has no column"):
        soft_targets(lambda x: x, x, classes=3)
    with pytest.raises(ShapeError, match=r"shape \(10,\), wanted is \(n, classes\)"):
        soft_targets(lambda x: x[:, 0], x)
    with pytest.raises(ShapeError, match=r"given 4 examples and gives an array of shape \(3, 1\)"):
        soft_targets(lambda x: x[1:], x, batch_size=4)
    with pytest.raises(ShapeError, match="given 4 examples"):
        answers(lambda x: np.float64(1), x, batch_size=4)
    with pytest.raises(ShapeError, match="change their shape from batch to batch"):
        soft_targets(lambda x: x if x[0] == 0 else np.hstack([x, x]), x, batch_size=4)
    with pytest.raises(ValueError, match=r"example 7 is not finite: \[nan\]"):
        soft_targets(lambda x: np.where(x == 7, np.nan, x), x, batch_size=4)
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=r"-inf, the logarithm of a probability of 0"):
        soft_targets(np.log, x)
    with pytest.raises(TypeError, match="numbers are wanted"):
        soft_targets(lambda x: x.astype(str), x)
    for options in ({"x": x[:0]}, {"x": x, "batch_size": 0}):
        with pytest.raises(ValueError, match="one example or more at a time"):
            soft_targets(lambda x: x, **options)


def test_probabilities_that_are_none():
    x = np.zeros((2, 3))
    for p in ([[0.5, 0.6], [0.5, 0.5]], [[-0.1, 1.1], [0.5, 0.5]], [[np.nan, 1.0], [0.5, 0.5]]):
        with pytest.raises(ValueError, match=r"row 0 of the teacher's probabilities(.|\n)*without of_probabilities"):
            of_probabilities(lambda x, p=p: np.array(p))(x)
    with pytest.raises(ShapeError, match=r"shape \(2,\), wanted is \(n, classes\)"):
        of_probabilities(lambda x: np.array([0.5, 0.5]))(x)


# Teachers.


def test_a_teacher_is_asked_in_batches_and_once_about_each_example():
    asked = []
    x = RNG.normal(size=(10, 3))
    z = soft_targets(lambda batch: asked.append(len(batch)) or batch * 2, x, batch_size=4)
    np.testing.assert_array_equal(z, 2 * x)
    assert asked == [4, 4, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_become_logits_of_which_they_are_the_softmax(dtype):
    p = softmax(Z).astype(dtype)
    z = of_probabilities(lambda x: p)(None)
    assert z.dtype == dtype
    np.testing.assert_allclose(softmax(z), p, rtol=1e-5 if dtype == np.float32 else 1e-13)
    sure = of_probabilities(lambda x: np.eye(3, dtype=dtype))(None)
    assert np.isfinite(sure).all() and np.allclose(softmax(sure), np.eye(3), atol=1e-6)


def test_a_teacher_of_scikit_learn():
    forests = pytest.importorskip("sklearn.ensemble")
    x = RNG.normal(size=(60, 4)).astype(np.float32)
    t = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    forest = forests.RandomForestClassifier(10, random_state=0).fit(x, t)
    z = soft_targets(of_probabilities(forest.predict_proba), x, classes=3, batch_size=16)
    np.testing.assert_allclose(softmax(z), forest.predict_proba(x), atol=1e-12)
    params = mlp.init(0, (4, 16, 3))
    loss = distilled(mlp.predict, temperature=1, alpha=1)
    run = fit(loss, params, (x, t, z), optimizer=Adam(lr=1e-2), epochs=40, batch_size=16, progress=False)
    assert run.history[-1]["loss"] < 0.2 * run.history[0]["loss"]
    assert run.params["w1"].dtype == np.float32  # though the forest speaks float64
    with pytest.raises(ShapeError, match="never saw has no column"):
        soft_targets(of_probabilities(forest.predict_proba), x, classes=4)


def test_a_teacher_of_torch():
    try:
        import torch
    except ImportError:
        tally.not_run("a teacher of torch: torch is not installed")
        return
    drop = torch.nn.Dropout(0.5)
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), drop, torch.nn.Linear(8, 4))
    drop.eval()  # a part that is frozen stays so
    x = RNG.normal(size=(9, 3)).astype(np.float32)
    z = soft_targets(of_torch(module), x, classes=4, batch_size=4)
    assert [part.training for part in module.modules()] == [True, True, True, False, True]
    assert module[1].num_batches_tracked == 0  # no statistics were taken
    module.eval()
    np.testing.assert_allclose(z, module(torch.tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6)


# In a run.


class At(Callback):
    """Ctrl-C at one step."""

    def __init__(self, step):
        self.at = step

    def step(self, run, loss):
        if run.step == self.at:
            signal.raise_signal(signal.SIGINT)


def test_a_run_resumes_to_the_same_bits_and_knows_its_teacher(tmp_path):
    x = RNG.normal(size=(40, 4)).astype(np.float32)
    t = (x[:, 0] > 0).astype(int)
    z = soft_targets(lambda x: np.stack([-x[:, 0], x[:, 0]], axis=1) * 4, x)
    net = serial(dense(8), relu, dropout(0.2), dense(2))
    params, state = net.init(0, (4,))

    def train(z=z, **options):
        loss = objective(net, distillation(temperature=3, alpha=0.7))
        fixed = {"state": state, "optimizer": Adam(), "epochs": 2, "batch_size": 8, "progress": False}
        return fit(loss, params, (x, t, z), **fixed, **options)

    whole, path = train(), tmp_path / "c"
    with pytest.raises(Interrupted):
        train(checkpoint=path, callbacks=[At(7)])
    rest = train(checkpoint=path, resume=True)
    for name in params:
        assert rest.params[name].tobytes() == whole.params[name].tobytes()
    with pytest.raises(OtherRun, match="data"):
        train(z=z + 1, checkpoint=path, resume=True)


# What it is good for.


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")  # which ships them
    d = load("digits")
    x, x_test = d.x_train.reshape(-1, 64), d.x_test.reshape(-1, 64)
    teacher = fit(
        mlp.loss, mlp.init(0, (64, 128, 64, 10)), (x, d.y_train), optimizer=Adam(lr=3e-3), epochs=8, batch_size=32, progress=False
    )
    return x, d.y_train, x_test, d.y_test, teacher.params


def test_a_student_learns_more_from_its_teacher_than_from_the_labels(digits):
    """The same 60 examples, start and order; the teacher's answers about them, or the labels alone. Paired over seeds."""
    x, t, x_test, t_test, teacher = digits
    z = soft_targets(lambda batch: mlp.predict(teacher, batch), x, classes=10)

    def accuracy(loss, seed, *data):
        few = np.random.default_rng(seed).permutation(len(x))[:60]
        given = tuple(a[few] for a in (x, *data))
        start = mlp.init(seed, (64, 16, 10))
        run = fit(loss, start, given, optimizer=Adam(lr=1e-2), epochs=100, batch_size=20, seed=seed, progress=False)
        return np.mean(mlp.predict(run.params, x_test).argmax(axis=1) == t_test)

    taught = distilled(mlp.predict, temperature=4, alpha=0.9)
    gains = [accuracy(taught, seed, t, z) - accuracy(mlp.loss, seed, t) for seed in range(5)]
    error = statistics.stdev(gains) / len(gains) ** 0.5
    assert min(gains) > 0 and statistics.mean(gains) > 2.776 * error  # Student's t with 4 degrees of freedom, at 5 %; measured: 0.12


# Hints.


def test_hints_train_the_lower_part_and_leave_the_rest(digits):
    x, _, _, _, teacher = digits
    h = answers(lambda batch: ops.dense(batch, teacher["w1"], teacher["b1"], activation="relu"), x)

    def features(params, x):
        return ops.dense(x, params["w1"], params["b1"], activation="relu")

    student = mlp.init(1, (64, 16, 10))
    params = {**student, **regressor(0, (16,), h.shape[1:])}
    run = fit(hinted(features), params, (x[:400], h[:400]), optimizer=Adam(lr=1e-2), epochs=8, progress=False)
    assert run.history[-1]["loss"] < 0.5 * run.history[0]["loss"]
    assert list(params) == ["w1", "b1", "w2", "b2", "hint/w", "hint/b"]
    for name in ("w2", "b2"):
        np.testing.assert_array_equal(run.params[name], student[name])


def test_hints_of_maps_go_through_a_convolution_that_fits():
    params = regressor(0, (3, 8, 7), (5, 6, 7), dtype=np.float64)
    assert params["hint/w"].shape == (5, 3, 3, 1) and params["hint/b"].shape == (5,)
    x, h = RNG.normal(size=(2, 3, 8, 7)), RNG.normal(size=(2, 5, 6, 7))
    params["hint/b"] = RNG.normal(size=5)
    want = np.mean((ops.conv2d(x, params["hint/w"]) + params["hint/b"][:, None, None] - h) ** 2)
    loss = hinted(lambda params, x: x)
    assert loss(params, x, h) == pytest.approx(want, rel=1e-13)
    assert loss({**params, **regressor(0, (3, 8, 7), (5, 6, 7))}, x.astype(np.float32), h).dtype == np.float32


@pytest.mark.parametrize("student, teacher", [((4,), (4, 2, 2)), ((3, 4, 4), (5, 5, 4)), ((3, 4, 4), (5, 4, 5)), ((3, 4), (3, 4))])
def test_features_between_which_there_is_no_regressor(student, teacher):
    with pytest.raises(ShapeError, match="no regressor from features"):
        regressor(0, student, teacher)


def test_hints_of_another_shape():
    params = regressor(0, (4,), (6,), dtype=np.float64)
    with pytest.raises(ShapeError, match="prediction and target differ in shape"):
        hinted(lambda params, x: x)(params, np.zeros((3, 4)), np.zeros((3, 5)))


def test_predictions_of_the_engine_are_teachers_too(digits):
    x, _, _, _, teacher = digits
    want = predictions(lambda batch: mlp.predict(teacher, batch), x[:50])
    np.testing.assert_allclose(soft_targets(lambda batch: mlp.predict(teacher, batch), x[:50], batch_size=7), want, rtol=1e-4, atol=1e-4)
