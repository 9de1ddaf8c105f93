"""The models: forward against NumPy and SciPy, gradients against differences, and that they learn."""

import numpy as np
import pytest
from scipy.signal import correlate2d

import kernels
from engine import ops, value_and_grad
from engine.data import blobs, glyphs, moons
from engine.models import MODELS, cnn, get, linear, logistic, mlp
from engine.nets import conv, count, dense, flatten, max_pool, relu, serial
from engine.optim import Adam, Momentum
from engine.run import Run
from engine.shapes import ShapeError
from engine.train import fit, train_step

RNG = np.random.default_rng(11)
PICTURES = RNG.random((5, 2, 17, 16))
ROWS = RNG.normal(size=(7, 4))


def moved(params):
    """The parameters with all numbers away from 0, where biases start."""
    return {name: p + 0.1 * RNG.normal(size=p.shape) for name, p in params.items()}


def cases():
    numbers, two, many = RNG.normal(size=7), np.array([0, 1, 1, 0, 1, 0, 0]), np.array([0, 2, 1, 0, 2, 2, 1])
    d, p = np.float64, np.array([3, 0, 2, 1, 2])

    def paper(params, x, t):
        return cnn.loss_classic(params, x, t, activation="tanh", pool=ops.avg_pool2d)

    yield "linear", linear.loss, linear.init(0, 4, dtype=d), ROWS, numbers
    yield "logistic", logistic.loss, logistic.init(0, 4, dtype=d), ROWS, two
    yield "multinomial", logistic.loss, logistic.init(0, 4, 3, dtype=d), ROWS, many
    yield "mlp", mlp.loss, mlp.init(0, (4, 6, 5, 3), dtype=d), ROWS, many
    yield "one layer", mlp.loss, mlp.init(0, (4, 3), dtype=d), ROWS, many
    yield "classic", cnn.loss_classic, cnn.init_classic(0, (2, 17, 16), 4, dtype=d), PICTURES, p
    yield "paper", paper, cnn.init_classic(0, (2, 17, 16), 4, dtype=d), PICTURES, p
    yield "caffe", cnn.loss_caffe, cnn.init_caffe(0, (2, 17, 16), 4, dtype=d), PICTURES, p


CASES = {name: (loss, moved(params), x, t) for name, loss, params, x, t in cases()}


def difference(f, p, along):
    """The derivative of f along a direction, by differences of two widths of which the error of second order cancels."""

    def central(h):
        return (f(p + h * along) - f(p - h * along)) / (2 * h)

    return (4 * central(5e-6) - central(1e-5)) / 3


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_every_parameter_is_the_limit_of_differences(name):
    loss, params, x, t = CASES[name]
    value, gradient = value_and_grad(loss)(params, x, t)
    assert value == pytest.approx(loss(params, x, t), rel=1e-14)
    for key, p in params.items():
        single = np.zeros(p.shape)
        single[tuple(RNG.integers(n) for n in p.shape)] = 1.0
        for along in (RNG.normal(size=p.shape), RNG.normal(size=p.shape), single):
            along = along / np.linalg.norm(along)
            want = difference(lambda q, key=key: float(loss({**params, key: q}, x, t)), p, along)
            assert np.sum(gradient[key] * along) == pytest.approx(want, rel=1e-6, abs=1e-9), key


# Forward.


def test_linear_and_logistic_are_one_product():
    p = moved(linear.init(0, 4, dtype=np.float64))
    assert np.allclose(linear.predict(p, ROWS), ROWS @ p["w"] + p["b"])
    assert linear.loss(p, ROWS, np.zeros(7)) == pytest.approx(np.mean((ROWS @ p["w"] + p["b"]) ** 2))
    z, t = logistic.predict(p, ROWS), np.arange(7) % 2
    assert logistic.loss(p, ROWS, t) == pytest.approx(-np.mean(np.log(np.where(t == 1, 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))))))


def test_two_classes_as_one_logit_or_as_two_are_the_same_model():
    p = moved(logistic.init(0, 4, dtype=np.float64))
    twice = {"w": np.stack([np.zeros(4), p["w"]], axis=1), "b": np.stack([0.0, p["b"]])}
    t = np.arange(7) % 2
    assert logistic.loss(p, ROWS, t) == pytest.approx(logistic.loss(twice, ROWS, t), rel=1e-14)


def test_mlp_against_numpy():
    p = moved(mlp.init(0, (4, 6, 5, 3), dtype=np.float64))
    h = np.maximum(ROWS @ p["w1"] + p["b1"], 0)
    h = np.maximum(h @ p["w2"] + p["b2"], 0)
    assert np.allclose(mlp.predict(p, ROWS), h @ p["w3"] + p["b3"])


def test_the_default_mlp_takes_pictures():
    p = mlp.init(0)
    assert {name: a.shape for name, a in p.items() if name[0] == "w"} == {"w1": (784, 300), "w2": (300, 100), "w3": (100, 10)}
    assert mlp.predict(p, np.zeros((2, 1, 28, 28), np.float32)).shape == (2, 10)


def correlated(x, w, b, padding=0):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    return np.stack(
        [[sum(correlate2d(c, k, "valid") for c, k in zip(e, f, strict=True)) + a for f, a in zip(w, b, strict=True)] for e in x]
    )


def pooled(x, how):
    n, c, h, w = x.shape
    return how(x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2), axis=(3, 5))


def lenet(p, x, padding, between, pool, dense_layers):
    """LeNet-5 by SciPy."""
    h = pooled(between(correlated(x, p["conv1/w"], p["conv1/b"], padding)), pool)
    h = pooled(between(correlated(h, p["conv2/w"], p["conv2/b"])), pool).reshape(len(x), -1)
    for i in range(1, dense_layers + 1):
        h = h @ p[f"dense{i}/w"] + p[f"dense{i}/b"]
        h = h if i == dense_layers else np.tanh(h) if between is np.tanh else np.maximum(h, 0)
    return h


def test_lenet_against_scipy():
    p = CASES["classic"][1]
    assert np.allclose(cnn.predict_classic(p, PICTURES), lenet(p, PICTURES, 2, lambda h: np.maximum(h, 0), np.max, 3))
    of_paper = cnn.predict_classic(p, PICTURES, activation="tanh", pool=ops.avg_pool2d)
    assert np.allclose(of_paper, lenet(p, PICTURES, 2, np.tanh, np.mean, 3))
    p = CASES["caffe"][1]
    assert np.allclose(cnn.predict_caffe(p, PICTURES), lenet(p, PICTURES, 0, lambda h: h, np.max, 2))


def test_lenet_as_a_net_of_ones_own_has_the_same_names_and_numbers():
    net = serial(
        conv(6, 5, padding=2), relu, max_pool(2), conv(16, 5), relu, max_pool(2), flatten,
        dense(120), relu, dense(84), relu, dense(4),
    )  # fmt: skip
    params = CASES["classic"][1]
    assert list(net.init(0, (2, 17, 16))[0]) == list(params)
    assert np.allclose(net(params, PICTURES), cnn.predict_classic(params, PICTURES), rtol=1e-12)


@pytest.mark.parametrize(
    "name, numbers", [("lenet5_classic", 61_706), ("lenet5_caffe", 431_080), ("cnn3x3", 87_114), ("mlp", 266_610), ("logistic", 7_850)]
)
def test_the_papers_counts(name, numbers):
    assert count(get(name).init(0, (1, 28, 28), 10, np.float32)) == numbers


@pytest.mark.parametrize("name", CASES)
def test_kernels_train_as_the_definitions_do(name):
    """Loss, gradients and two steps, on kernels and without; also the update of a parameter without axes."""
    loss, params, x, t = CASES[name]
    after = {}
    for backend in (None, *kernels.backends()):
        if backend == "cuda":
            continue
        with kernels.use(backend):
            run = Run(params, Adam(0.01).init(params))
            losses = [train_step(run, loss, (x, t), Adam(0.01)) for _ in range(2)]
        after[backend] = {"losses": np.array(losses), **run.params}
    for result in after.values():
        for key, want in after[None].items():
            assert result[key].shape == want.shape and np.allclose(result[key], want, rtol=1e-9, atol=1e-10), key


# By name.


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda m: m.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_model_by_name(model, dtype):
    params = model.init(3, (1, 16, 18), 4, dtype)
    x, t = RNG.random((6, 1, 16, 18)).astype(dtype), RNG.integers(0, 4, 6)
    t = t.astype(dtype) if model.task == "regression" else t
    value, gradient = value_and_grad(model.loss)(params, x, t)
    assert value.shape == ()
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":  # before, numbers without axes promote by their value
        assert value.dtype == dtype
    assert list(gradient) == list(params) and all(gradient[k].dtype == dtype == params[k].dtype for k in params)
    answers = model.decide(model.predict(params, x))
    assert answers.shape == (6,)
    if model.task == "classification":
        p = model.probabilities(model.predict(params, x))
        assert p.shape == (6, 4) and np.allclose(p.sum(axis=1), 1, atol=1e-6) and answers.dtype == np.int64
    again = model.init(3, (1, 16, 18), 4, dtype)
    assert all(np.array_equal(again[k], params[k]) for k in params)


def test_two_classes_by_name():
    model, params = get("logistic"), {"w": np.array([1.0, -1]), "b": np.array(0.0)}
    scores = model.predict(params, np.array([[2.0, 0], [0, 2], [0.5, 0.5]]))
    assert model.decide(scores).tolist() == [1, 0, 0]
    assert np.allclose(model.probabilities(scores)[:, 1], [0.8807971, 0.1192029, 0.5])


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"there is no model 'lenet'; there are linear, logistic.*\n  did you mean lenet5_"):
        get("lenet")


def test_pictures_that_are_too_small():
    with pytest.raises(ShapeError, match=r"lenet5_classic wants pictures .* at least 12 x 12, these are \(1, 8, 8\)"):
        cnn.init_classic(0, (1, 8, 8))
    with pytest.raises(ShapeError, match="lenet5_caffe wants pictures"):
        get("lenet5_caffe").init(0, (784,), 10, np.float32)
    with pytest.raises(ValueError, match="mlp: the sizes"):
        mlp.init(0, (3,))


# Learning.


def accuracy(model, params, x, t):
    return np.mean(model.decide(model.predict(params, x)) == t)


def test_linear_regression_finds_the_least_squares():
    x = RNG.normal(size=(200, 3))
    t = x @ [2.0, -1.0, 0.5] + 3 + 0.1 * RNG.normal(size=200)
    run = fit(linear.loss, linear.init(0, 3, dtype=np.float64), (x, t), optimizer=Momentum(0.1), epochs=600, batch_size=200, progress=False)
    best = np.linalg.lstsq(np.c_[x, np.ones(200)], t, rcond=None)[0]
    assert np.allclose([*run.params["w"], run.params["b"]], best, atol=1e-8)


@pytest.mark.parametrize("name, make, least", [("logistic", blobs, 0.9), ("mlp", moons, 0.95)])
def test_points_in_the_plane_are_told_apart(name, make, least):
    x, t = make(400, seed=1)
    model = get(name)
    params = model.init(0, (2,), int(t.max()) + 1, np.float32)
    run = fit(model.loss, params, (x, t), optimizer=Adam(2e-2), epochs=30, batch_size=32, progress=False)
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 2
    assert accuracy(model, run.params, x, t) >= least


@pytest.mark.parametrize("name", ["lenet5_classic", "lenet5_caffe", "cnn3x3"])
def test_glyphs_are_told_apart(name):
    x, t = glyphs(360, seed=0)
    x = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    model = get(name)
    params = model.init(0, x.shape[1:], int(t.max()) + 1, np.float32)
    run = fit(model.loss, params, (x[:300], t[:300]), optimizer=Adam(3e-3), epochs=10, batch_size=16, progress=False)
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 4
    assert accuracy(model, run.params, x[300:], t[300:]) >= 0.85
