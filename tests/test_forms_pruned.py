"""Pruned weights without their zeros: the same answers, gradients of what is kept alone, and the kind that is fastest."""

import numpy as np
import pytest

import kernels
from engine import grad, ops, value_and_grad
from engine.forms import CSR, Blocks, TwoToFour, flat, folded, pruned, race, running, sparse
from engine.masks import MaskError
from engine.models import cnn, mlp
from engine.optim import Adam, Momentum
from engine.shapes import ShapeError
from engine.train import fit

RNG = np.random.default_rng(31)
PARAMS = mlp.init(0, (16, 12, 8, 5), dtype=np.float64)
PARAMS = {name: p + 0.1 * RNG.normal(size=p.shape) for name, p in PARAMS.items()}


def single(m, n, kept=0.3):
    return RNG.random((m, n)) < kept


def blocks(m, n, rows, columns):
    return np.kron(single(m // rows, n // columns, 0.4), np.ones((rows, columns))) > 0


def two_of_four(m, n):
    """Of each four inputs of an output two are kept."""
    order = np.argsort(RNG.random((m // 4, 4, n)), axis=1)
    return (np.argsort(order, axis=1) < 2).reshape(m, n)


MASKS = {
    "csr": {"w1": single(16, 12), "w2": single(12, 8)},
    "bsr": {"w1": blocks(16, 12, 4, 2), "w2": blocks(12, 8, 2, 4)},
    "2:4": {"w1": two_of_four(16, 12), "w2": two_of_four(12, 8)},
}
FORMS = {"csr": CSR, "bsr": Blocks, "2:4": TwoToFour}


def masked(params, masks):
    return {name: p * masks[name] if name in masks else p for name, p in params.items()}


@pytest.fixture(params=FORMS)
def kind(request):
    return request.param


# The same answers.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [0, 1, 3, 64, 70])
def test_a_pruned_model_answers_as_the_masked_one(kind, dtype, batch):
    params, x = {name: p.astype(dtype) for name, p in PARAMS.items()}, RNG.normal(size=(batch, 16)).astype(dtype)
    formed = sparse(params, MASKS[kind], kind=kind)
    assert {name: type(p) for name, p in formed.items()} == {**dict.fromkeys(params, np.ndarray), "w1": FORMS[kind], "w2": FORMS[kind]}
    want = mlp.predict(masked(PARAMS, MASKS[kind]), np.float64(x))
    for backend in (None, *kernels.backends()):
        with kernels.use(backend):
            y = running(mlp.predict)(formed, x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, want, rtol=0, atol=100 * np.finfo(dtype).eps * max(np.abs(want).max(initial=0), 1))


def test_forms_tell_shape_numbers_and_the_weight(kind):
    form, w = sparse(PARAMS, MASKS[kind], kind=kind)["w1"], PARAMS["w1"] * MASKS[kind]["w1"]
    assert form.shape == (16, 12) and form.dtype == np.float64 and form.size == 192
    assert form.count == np.count_nonzero(MASKS[kind]["w1"])
    np.testing.assert_array_equal(form.expand(), w)


@pytest.mark.parametrize("shape", [(16,), (2, 3, 16), (2, 0, 16)])
def test_rows_in_any_stack(kind, shape):
    formed, w, b = sparse(PARAMS, MASKS[kind], kind=kind), PARAMS["w1"] * MASKS[kind]["w1"], PARAMS["b1"]
    x = RNG.normal(size=shape)
    np.testing.assert_allclose(running(lambda p, x: ops.matmul(x, p["w1"]))(formed, x), x @ w, atol=1e-12)
    y = running(lambda p, x: ops.dense(x, p["w1"], b, activation="tanh"))(formed, x)
    np.testing.assert_allclose(y, np.tanh(x @ w + b), atol=1e-12)


@pytest.mark.parametrize("w", [np.zeros((4, 8)), np.ones((4, 8)), np.zeros((4, 0)), np.zeros((0, 8))], ids=["zeros", "ones", "k 0", "0 n"])
def test_weights_of_nothing_and_of_no_zeros(w):
    formed = sparse({"w": w}, {"w": w != 0}, kind="csr")
    x = RNG.normal(size=(3, len(w)))
    np.testing.assert_allclose(running(lambda p, x: ops.matmul(x, p["w"]))(formed, x), x @ w)


def test_without_masks_what_is_zero_is_left_out():
    params = masked(PARAMS, MASKS["csr"])
    formed = sparse(params, kind="csr")
    assert isinstance(formed["w1"], CSR) and formed["w3"] is params["w3"]  # which has no zeros
    x = RNG.normal(size=(3, 16))
    np.testing.assert_allclose(running(mlp.predict)(formed, x), mlp.predict(params, x), atol=1e-12)


def test_kernels_of_convolutions_stay_arrays_and_are_masked():
    params = cnn.init_classic(0, (1, 12, 12), 4, dtype=np.float64)
    masks = {name: RNG.random(p.shape) < 0.5 for name, p in params.items()}
    formed, x = sparse(params, masks, kind="csr"), RNG.normal(size=(2, 1, 12, 12))
    assert [name for name, p in formed.items() if isinstance(p, CSR)] == ["dense1/w", "dense2/w", "dense3/w"]
    np.testing.assert_allclose(running(cnn.predict_classic)(formed, x), cnn.predict_classic(masked(params, masks), x), atol=1e-12)


def test_what_a_layer_gives_lies_as_the_next_one_wants_it(kind):
    """The transposes between two such layers move nothing."""
    form = sparse(PARAMS, MASKS[kind], kind=kind)["w1"]
    y = form.dense(RNG.normal(size=(6, 16)), PARAMS["b1"], activation="relu")
    assert y.shape == (6, 12) and y.T.flags.c_contiguous


# Trained.


def test_gradients_are_those_of_the_weight_where_it_is_kept(kind):
    formed, x, t = sparse(PARAMS, MASKS[kind], kind=kind), RNG.normal(size=(7, 16)), RNG.integers(0, 5, 7)
    value, slope = value_and_grad(running(mlp.loss, like=formed))(flat(formed), x, t)
    known, whole = value_and_grad(mlp.loss)(masked(PARAMS, MASKS[kind]), x, t)
    assert value == pytest.approx(known, rel=1e-13)
    for name in ("w1", "w2"):
        at = formed[name].around({key: slope[f"{name}/{key}"] for key in formed[name].learned})
        np.testing.assert_allclose(at.expand(), whole[name] * MASKS[kind][name], atol=1e-13)
    for name in ("b1", "b2", "w3", "b3"):
        np.testing.assert_allclose(slope[name], whole[name], atol=1e-13)


@pytest.mark.parametrize("optimizer", [Adam(lr=1e-2, weight_decay=0.1), Momentum(lr=0.05, nesterov=True)], ids=["Adam", "Momentum"])
def test_training_takes_no_step_where_nothing_is_kept(kind, optimizer):
    x = RNG.normal(size=(80, 16))
    t = (x[:, 0] > 0).astype(int)
    formed = sparse(PARAMS, MASKS[kind], kind=kind)
    run = fit(running(mlp.loss, like=formed), flat(formed), (x, t), optimizer=optimizer, epochs=15, batch_size=16, progress=False)
    assert run.history[-1]["loss"] < 0.5 * run.history[0]["loss"]
    trained = folded(formed, run.params)
    for name, mask in MASKS[kind].items():
        w = trained[name].expand()
        assert not w[~mask].any() and np.mean(w[mask] != PARAMS[name][mask]) > 0.5  # some go to units that are never on


def test_a_zero_that_the_mask_keeps_is_trained():
    params, mask = {"w": np.array([[0.0, 2.0], [3.0, 0.0]])}, np.array([[True, False], [True, False]])
    formed = sparse(params, {"w": mask}, kind="csr")
    slope = grad(running(lambda p, x: ops.sum(ops.matmul(x, p["w"])), like=formed))(flat(formed), np.array([[5.0, 7.0]]))
    np.testing.assert_array_equal(slope["w/data"], [5.0, 7.0])


# Blocks and kinds.


@pytest.mark.parametrize("rows, columns", [(4, 2), (1, 4), (8, 1), (16, 32)])
def test_the_largest_block_is_found(rows, columns):
    mask = np.kron([[1, 0], [0, 1]], np.ones((rows, columns))) > 0
    form = sparse({"w": RNG.normal(size=mask.shape)}, {"w": mask}, kind="bsr")["w"]
    assert form.data.shape == (2, columns, rows) and form.count == mask.sum()


def test_blocks_of_a_given_size_fill_up_with_zeros():
    mask = np.zeros((8, 6), bool)
    mask[1, 0] = True
    form = sparse({"w": np.ones((8, 6))}, {"w": mask}, kind="bsr", block=(4, 2))["w"]
    assert form.data.shape == (1, 2, 4) and form.count == 8
    np.testing.assert_array_equal(form.expand(), mask)


@pytest.mark.parametrize("fastest", ["dense", "csr", "bsr", "2:4"])
def test_auto_takes_what_was_measured_fastest(fastest, monkeypatch):
    asked = []

    def timed(candidates, batch):
        asked.append((set(candidates), batch))
        return {kind: 1.0 if kind == fastest else 2.0 for kind in candidates}

    monkeypatch.setattr(pruned, "_timed", timed)
    mask = np.zeros((8, 4), bool)
    mask[:2] = True  # two of four, and blocks
    formed = sparse({"w": np.ones((8, 4)), "b": np.ones(4)}, {"w": mask}, batch=17)
    assert asked == [({"dense", "csr", "bsr", "2:4"}, 17)]
    assert type(formed["w"]) is {"dense": np.ndarray, **FORMS}[fastest]
    np.testing.assert_array_equal(formed["w"] if fastest == "dense" else formed["w"].expand(), mask)


def test_a_race_times_every_kind_that_fits_and_finds_that_fewer_are_faster():
    w = RNG.normal(size=(512, 256)).astype(np.float32)
    few = RNG.random(w.shape) < 0.01
    with kernels.use(kernels.backends()[0] if kernels.backends() else None):
        seconds = race(w, few, batch=128)
        assert {"dense", "csr"} <= set(seconds) and "bsr" not in seconds
        assert all(0 < s < 1 for s in seconds.values())
        if kernels.backends():
            assert seconds["csr"] < seconds["dense"]  # measured: six times as fast
            assert isinstance(sparse({"w": w}, {"w": few}, batch=128)["w"], (CSR, TwoToFour))
    assert set(race(np.ones((3, 5)), batch=1)) == {"dense", "csr"}


# What is refused.


def test_masks_of_another_model():
    with pytest.raises(MaskError, match="there is a mask for 'w9', but no such parameter: w1, b1"):
        sparse(PARAMS, {"w9": np.ones(3, bool)})
    with pytest.raises(MaskError, match=r"the mask of 'w1' does not fit\n  wanted  bool \(16, 12\)\n  given   bool \(12, 16\)"):
        sparse(PARAMS, {"w1": MASKS["csr"]["w1"].T})
    with pytest.raises(MaskError, match=r"given   float64 \(16, 12\)"):
        sparse(PARAMS, {"w1": np.ones((16, 12))})


def test_a_race_of_something_else():
    with pytest.raises(ValueError, match=r"a matrix \(k, n\) is wanted, not an array of shape \(2, 3, 4\)"):
        race(np.ones((2, 3, 4)))


def test_weights_that_are_not_of_that_kind():
    masks = {"w1": np.ones((16, 12), bool)}
    masks["w1"][0, 0] = False
    with pytest.raises(ValueError, match="w1 cannot be kept as 2:4: two_to_four: row 0 keeps 3 of the columns 0 to 3"):
        sparse(PARAMS, masks, kind="2:4")
    with pytest.raises(ValueError, match="w1 cannot be kept as bsr: the mask is not made of blocks"):
        sparse(PARAMS, masks, kind="bsr")
    with pytest.raises(ValueError, match="w1 cannot be kept as bsr: bsr: blocks of 2 by 5 do not divide a matrix of 12 by 16"):
        sparse(PARAMS, masks, kind="bsr", block=(5, 2))
    with pytest.raises(ValueError, match=r'kind is "auto", "csr", "bsr" or "2:4", not .coo.'):
        sparse(PARAMS, masks, kind="coo")


def test_rows_of_another_length_are_refused_by_name(kind):
    formed = sparse(PARAMS, MASKS[kind], kind=kind)
    for columns in (12, 20):  # of which CSR would find all that it looks for
        said = rf"w1, kept as {FORMS[kind].__name__} of \(16, 12\): x has the shape \(3, {columns}\), wanted are rows of 16"
        with pytest.raises(ShapeError, match=said):
            running(mlp.predict)(formed, np.zeros((3, columns)))


def test_nothing_given_is_changed(kind):
    before = {name: p.copy() for name, p in PARAMS.items()}
    formed = sparse(PARAMS, MASKS[kind], kind=kind)
    running(mlp.predict)(formed, np.ones((2, 16)))
    for name, p in before.items():
        np.testing.assert_array_equal(PARAMS[name], p)
