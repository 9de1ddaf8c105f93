"""Forms: a model runs on them as it is written, under every interpreter, and what they cannot do is done with the weight itself."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import engine
import kernels
from engine import grad, interpret, jvp, nets, ops, value_and_grad
from engine.forms import Form, flat, folded, running
from engine.lowrank import LowRank, factorise
from engine.models import cnn, mlp
from engine.observe import count
from engine.optim import Adam
from engine.reverse import checkpoint
from engine.shapes import ShapeError
from engine.train import fit, objective

RNG = np.random.default_rng(23)
X = RNG.normal(size=(5, 6))
PARAMS = mlp.init(0, (6, 8, 7, 4), dtype=np.float64)
FORMED = factorise(PARAMS, {"w1": 3, "w2": 2})
T = np.array([0, 3, 1, 2, 0])


def expanded(formed):
    return {name: p.expand() if isinstance(p, Form) else p for name, p in formed.items()}


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@dataclass(frozen=True, eq=False)
class Scaled(Form):
    """Nothing but a number and an array: it runs no product of its own."""

    learned: ClassVar[tuple[str, ...]] = ("s",)
    s: Any
    w: Any

    @property
    def shape(self):
        return self.w.shape

    def expand(self):
        return ops.multiply(self.s, self.w)


# Running.


def test_a_model_runs_on_forms_as_it_is_written():
    close(running(mlp.predict)(FORMED, X), mlp.predict(expanded(FORMED), X))


def test_a_form_that_knows_no_product_is_expanded():
    kernel = Scaled(np.array(2.0), RNG.normal(size=(3, 2, 3, 3)))
    x = RNG.normal(size=(2, 2, 5, 5))
    close(running(lambda p, x: ops.conv2d(x, p["w"], padding=1))({"w": kernel}, x), ops.conv2d(x, 2 * kernel.w, padding=1))
    weight = Scaled(np.array(2.0), PARAMS["w1"])
    formed = {**PARAMS, "w1": weight}
    close(running(mlp.predict)(formed, X), mlp.predict({**PARAMS, "w1": 2 * PARAMS["w1"]}, X))
    slope = grad(running(mlp.loss, like=formed))(flat(formed), X, T)["w1/s"]
    whole = grad(mlp.loss)({**PARAMS, "w1": 2 * PARAMS["w1"]}, X, T)["w1"]
    assert slope == pytest.approx(np.sum(whole * PARAMS["w1"]))


OTHER_USES = {
    "transposed": lambda p, x: ops.matmul(ops.matmul(x, p["w1"]), np.transpose(p["w1"])),
    "on the left": lambda p, x: ops.matmul(p["w1"], np.ones((8, 2))),
    "times itself": lambda p, x: ops.matmul(p["w1"], ops.matrix_transpose(p["w1"])),
    "by NumPy": lambda p, x: np.maximum(x @ p["w1"], 0) + np.sum(p["w1"] ** 2),
    "a penalty": lambda p, x: ops.sum(ops.square(p["w1"])),
    "a row": lambda p, x: p["w1"][2] * 3,
    "a vector": lambda p, x: ops.matmul(x[0], p["w1"]),
    "a stack": lambda p, x: ops.matmul(np.stack([x, 2 * x]), p["w1"]),
    "dense of a vector": lambda p, x: ops.dense(x[0], p["w1"], p["b1"], activation="tanh"),
    "dense of a stack": lambda p, x: ops.dense(np.stack([x, 2 * x]), p["w1"], p["b1"], activation="sigmoid"),
    "given back": lambda p, x: {"w": p["w1"], "y": [x]},
    "joined": lambda p, x: ops.concat([p["w1"], p["w1"]], axis=0),
}


@pytest.mark.parametrize("use", OTHER_USES)
def test_any_other_use_gets_the_weight(use):
    f = OTHER_USES[use]
    mine, plain = running(f)(FORMED, X), f(expanded(FORMED), X)
    if isinstance(plain, dict):
        mine, plain = mine["w"], plain["w"]
    assert type(mine) is type(plain)
    close(mine, plain)


def test_a_model_without_forms_runs_as_if_nothing_were_there():
    assert running(lambda p: interpret.running())(PARAMS) is interpret.EVAL
    close(running(mlp.predict, like=PARAMS)(PARAMS, X), mlp.predict(PARAMS, X))


def test_a_bias_that_is_a_form_is_expanded_beside_a_weight_that_is_one():
    formed = {**FORMED, "b1": Scaled(np.array(2.0), np.arange(8.0))}
    close(running(mlp.predict)(formed, X), mlp.predict(expanded(formed), X))


def test_a_form_tells_what_an_array_would_tell():
    seen = []
    running(lambda p: seen.extend([p["w1"].shape, p["w1"].ndim, p["w1"].size, p["w1"].dtype]))(FORMED)
    assert seen == [(6, 8), 2, 48, np.float64]
    assert FORMED["w1"].count == 3 * 14 and str(FORMED["w1"]) == "LowRank of (6, 8)"


@pytest.mark.parametrize("backend", kernels.backends())
def test_forms_run_on_kernels(backend):
    params = {name: np.float32(p) for name, p in PARAMS.items()}
    formed = factorise(params, {"w1": 3, "w2": 2})
    want = running(mlp.predict)(formed, np.float32(X))
    with kernels.use(backend, require=["dense", "matmul"]):
        y = running(mlp.predict)(formed, np.float32(X))
        value, slope = value_and_grad(running(mlp.loss, like=formed))(flat(formed), np.float32(X), T)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    known = value_and_grad(running(mlp.loss, like=formed))(flat(formed), np.float32(X), T)
    assert value == pytest.approx(known[0], rel=1e-5)
    for name, g in known[1].items():
        np.testing.assert_allclose(slope[name], g, rtol=1e-4, atol=1e-5)


def test_two_small_products_run_where_one_large_one_would():
    costs = count(running(mlp.predict, like=FORMED))(flat(FORMED), X)
    assert costs.calls == {"matmul": 2, "dense": 3}
    assert costs.flops["matmul"] == 2 * 5 * (6 * 3 + 8 * 2) and costs.flops["dense"] == 2 * 5 * (3 * 8 + 2 * 7 + 7 * 4)


# Derivatives.


def test_gradients_of_factors_follow_from_those_of_the_weight():
    r"""$\bar U = \bar W V^\top, \; \bar V = U^\top \bar W$"""
    value, slope = value_and_grad(running(mlp.loss, like=FORMED))(flat(FORMED), X, T)
    assert value == pytest.approx(mlp.loss(expanded(FORMED), X, T), rel=1e-13)
    whole = grad(mlp.loss)(expanded(FORMED), X, T)
    assert list(slope) == ["w1/u", "w1/v", "b1", "w2/u", "w2/v", "b2", "w3", "b3"]
    for name in ("w1", "w2"):
        close(slope[f"{name}/u"], whole[name] @ FORMED[name].v.T)
        close(slope[f"{name}/v"], FORMED[name].u.T @ whole[name])
    for name in ("b1", "b2", "w3", "b3"):
        close(slope[name], whole[name])


def test_derivatives_within_a_model_on_forms():
    """The model itself takes derivatives: in x, and in its weight."""

    def slopes(p, x):
        return grad(mlp.loss, argnums=1)(p, x, T), grad(lambda w: mlp.loss({**p, "w1": w}, x, T))(p["w1"])

    for mine, plain in zip(running(slopes)(FORMED, X), slopes(expanded(FORMED), X), strict=True):
        close(mine, plain)


def test_second_order_forward_mode_and_checkpoints():
    loss, arrays = running(mlp.loss, like=FORMED), flat(FORMED)
    moves = {name: RNG.normal(size=p.shape) for name, p in arrays.items()}
    slope = grad(loss)(arrays, X, T)
    _, along = jvp(lambda p: loss(p, X, T), (arrays,), (moves,))
    assert along == pytest.approx(sum(np.sum(slope[name] * moves[name]) for name in arrays), rel=1e-11)
    again = grad(checkpoint(lambda p: loss(p, X, T)))(arrays)
    bent = engine.hvp(lambda p: loss(p, X, T), (arrays,), (moves,))
    h = 1e-5
    ahead, behind = (grad(loss)({name: p + s * h * moves[name] for name, p in arrays.items()}, X, T) for s in (1, -1))
    for name in arrays:
        close(again[name], slope[name])
        np.testing.assert_allclose(bent[name], (ahead[name] - behind[name]) / (2 * h), rtol=1e-5, atol=1e-7)


# Flat and folded.


def test_flat_and_folded_undo_each_other():
    arrays = flat(FORMED)
    assert list(arrays) == ["w1/u", "w1/v", "b1", "w2/u", "w2/v", "b2", "w3", "b3"]
    again = folded(FORMED, {**arrays, "more": X})
    assert list(again) == [*FORMED, "more"] and again["more"] is X
    assert again["w1"].u is FORMED["w1"].u and isinstance(again["w2"], LowRank)


def test_arrays_that_are_missing_or_meet():
    with pytest.raises(ValueError, match="there is no w1/u, w1/v, w2/u, w2/v among w1, b1"):
        running(mlp.predict, like=FORMED)(PARAMS, X)
    with pytest.raises(ValueError, match="two arrays would be called 'w1/u'"):
        flat({**FORMED, "w1/u": X})


def test_shapes_that_clash_name_the_weight():
    with pytest.raises(ShapeError, match=r"w1, kept as LowRank of \(6, 8\): matmul: axis k is 5 in x but 6 in w"):
        running(mlp.predict)(FORMED, X[:, :5])


# Trained.


def test_factors_are_trained_by_fit_and_resume(tmp_path):
    x = RNG.normal(size=(64, 6)).astype(np.float32)
    t = (x[:, 0] > 0).astype(int)
    formed = factorise(mlp.init(0, (6, 16, 2)), {"w1": 3})
    loss = running(mlp.loss, like=formed)

    def train(epochs, **options):
        return fit(loss, flat(formed), (x, t), optimizer=Adam(lr=1e-2), epochs=epochs, batch_size=16, progress=False, **options)

    run, path = train(20), tmp_path / "c"
    assert run.history[-1]["loss"] < 0.5 * run.history[0]["loss"]
    train(8, checkpoint=path)
    again = train(20, checkpoint=path, resume=True)
    for name, p in run.params.items():
        assert again.params[name].tobytes() == p.tobytes()
    assert folded(formed, run.params)["w1"].shape == (6, 16)


def test_nets_run_on_forms_too():
    net = nets.serial(nets.conv(4, 3), nets.batch_norm(), nets.relu, nets.flatten, nets.dropout(0.3), nets.dense(3))
    params, state = net.init(0, (2, 6, 6), np.float64)
    formed = factorise(params, {"conv1/w": 3, "dense1/w": 2})
    x, t = RNG.normal(size=(4, 2, 6, 6)), np.array([0, 1, 2, 0])
    loss = objective(net, ops.cross_entropy)
    mine, new = running(loss)(formed, x, t, state=state, seed=1)
    plain, known = loss(expanded(formed), x, t, state=state, seed=1)
    assert mine == pytest.approx(plain, rel=1e-12)
    for name in known:
        close(new[name], known[name])


def test_convolutional_models_run_on_forms():
    params = cnn.init_classic(0, (1, 14, 13), 4, dtype=np.float64)
    x = RNG.normal(size=(2, 1, 14, 13))
    for conv in ("filters", "spatial"):
        formed = factorise(params, {"conv1/w": 2, "conv2/w": 5, "dense1/w": 7}, conv=conv)
        close(running(cnn.predict_classic)(formed, x), cnn.predict_classic(expanded(formed), x))
