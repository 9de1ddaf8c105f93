"""A masked weight is 0 and stays 0, whatever the optimiser does; masks are checked, saved and found again."""

import numpy as np
import pytest

from engine import masks as m
from engine import ops
from engine.checkpoints import CheckpointError, save
from engine.optim import SGD, Adagrad, Adam, AdamW, Momentum, RMSprop
from engine.run import Run
from engine.train import OtherRun, fit, train_step

RNG = np.random.default_rng(3)
X = RNG.normal(size=(40, 6)).astype(np.float32)
T = RNG.normal(size=(40, 3)).astype(np.float32)
PARAMS = {"w1": RNG.normal(size=(6, 5)).astype(np.float32), "b1": np.ones(5, np.float32), "w2": RNG.normal(size=(5, 3)).astype(np.float32)}
MASKS = {"w1": RNG.random((6, 5)) < 0.4, "w2": RNG.random((5, 3)) < 0.5, "b1": np.array([True, False, True, True, False])}
ALL = [
    SGD(0.05, weight_decay=0.1),
    Momentum(0.05, weight_decay=0.1),
    Momentum(0.05, nesterov=True, weight_decay=0.1),
    Adagrad(0.05, weight_decay=0.1),
    RMSprop(0.05, weight_decay=0.1),
    Adam(0.05, weight_decay=0.1),
    AdamW(0.05, weight_decay=0.1),
]


def loss(p, x, t):
    return ops.mean(ops.square(ops.matmul(ops.tanh(ops.matmul(x, p["w1"]) + p["b1"]), p["w2"]) - t))


def trained(optimizer, **options):
    return fit(loss, PARAMS, (X, T), **{"optimizer": optimizer, "epochs": 4, "batch_size": 8, "progress": False, **options})


def zero_where_masked(params, masks):
    return all(np.all(params[name][~mask] == 0) and not np.signbit(params[name][~mask]).any() for name, mask in masks.items())


@pytest.mark.parametrize("backend", [None, "cpu"])
@pytest.mark.parametrize("optimizer", ALL, ids=lambda o: f"{type(o).__name__} {getattr(o, 'nesterov', '')}")
def test_a_masked_weight_is_0_after_any_number_of_steps_of_any_optimiser(optimizer, backend):
    import kernels

    with kernels.use(backend):
        run = trained(optimizer, masks=MASKS, clip_norm=0.5)
    assert zero_where_masked(run.params, MASKS)
    assert all(np.any(run.params[name] != PARAMS[name]) for name in PARAMS)
    for slot in optimizer.slots:
        assert zero_where_masked(run.moments[slot], MASKS)


def test_masking_the_gradient_alone_is_not_enough_if_moments_remember():
    """What `Run.prune` is for: with the moments of a dense run the masked weights would move on."""
    optimizer = Momentum(0.05)
    dense = trained(optimizer)
    careless = Run(m.masked(dense.params, MASKS), dict(dense.moments), masks=MASKS)
    careful = Run(dense.params, dict(dense.moments))
    careful.prune(MASKS)
    for run in (careless, careful):
        train_step(run, loss, (X, T), optimizer)
    assert zero_where_masked(careful.params, MASKS) and not zero_where_masked(careless.params, MASKS)


def test_the_gradient_of_what_is_gone_counts_in_no_norm():
    """Clipping sees the pruned network's gradient: that of the weights that are there."""
    from engine.optim import global_norm
    from engine.reverse import grad

    g = grad(lambda p: loss(p, X, T))(m.masked(PARAMS, MASKS))
    norm = global_norm(m.masked(g, MASKS))
    assert norm < 0.9 * global_norm(g)
    run = Run(m.masked(PARAMS, MASKS), {"t": 0}, masks=MASKS)
    train_step(run, loss, (X, T), SGD(1.0), clip_norm=0.5 * norm)
    way = {name: run.params[name] - m.masked(PARAMS, MASKS)[name] for name in PARAMS}
    np.testing.assert_allclose(global_norm(way), 0.5 * norm, rtol=1e-5)


def test_infinite_and_undefined_numbers_are_masked_to_0():
    x = np.array([np.inf, np.nan, -np.inf, 1.0])
    assert np.array_equal(m.masked({"x": x}, {"x": np.array([False, False, False, True])})["x"], [0, 0, 0, 1])


def test_a_stopped_run_goes_on_with_its_masks(tmp_path):
    whole = trained(Adam(0.05), masks=MASKS)
    file = tmp_path / "run.safetensors"
    trained(Adam(0.05), masks=MASKS, epochs=2, checkpoint=file)
    parts = trained(Adam(0.05), masks=MASKS, checkpoint=file, resume=True)
    assert all(whole.params[name].tobytes() == parts.params[name].tobytes() for name in PARAMS)
    other = {**MASKS, "w1": ~MASKS["w1"]}
    with pytest.raises(OtherRun, match="masks"):
        trained(Adam(0.05), masks=other, checkpoint=file, resume=True)
    with pytest.raises(OtherRun, match="masks"):
        trained(Adam(0.05), checkpoint=file, resume=True)


@pytest.mark.parametrize(
    "masks, said",
    [
        ({"w9": np.ones((6, 5), bool)}, "no such parameter: w1, b1, w2"),
        ({"w1": np.ones((5, 6), bool)}, r"wanted  bool \(6, 5\)\n  given   bool \(5, 6\)"),
        ({"w1": np.ones((6, 5))}, "given   float64"),
    ],
)
def test_masks_of_another_model_are_told(masks, said):
    with pytest.raises(m.MaskError, match=said):
        trained(Adam(), masks=masks)


def test_masks_are_saved_and_found_again(tmp_path):
    m.save(tmp_path / "masks", MASKS, keep=0.4)
    found = m.load(tmp_path / "masks", PARAMS)
    assert list(found) == list(MASKS) and all(np.array_equal(found[name], MASKS[name]) for name in MASKS)
    with pytest.raises(m.MaskError, match="w2"):
        m.load(tmp_path / "masks", {"w1": PARAMS["w1"], "b1": PARAMS["b1"]})
    save(tmp_path / "other", {"params": PARAMS}, {})
    with pytest.raises(CheckpointError, match="holds no masks, only params"):
        m.load(tmp_path / "other", PARAMS)


def test_masks_within_masks():
    a, b = {"w1": MASKS["w1"], "b1": MASKS["b1"]}, {"w1": ~MASKS["w1"], "w2": MASKS["w2"]}
    found = m.within(a, b)
    assert set(found) == set(MASKS) and not found["w1"].any() and found["b1"] is a["b1"] and found["w2"] is b["w2"]
    assert np.array_equal(m.within(MASKS, MASKS)["w1"], MASKS["w1"])


def test_counting():
    assert m.weights(PARAMS) == ("w1", "w2")
    half = {"w1": np.arange(30).reshape(6, 5) % 2 == 0}
    assert m.kept(half) == 15 and m.density(half) == 0.5
    assert m.kept(MASKS) == sum(int(x.sum()) for x in MASKS.values())
    assert m.gone(MASKS) == 30 + 15 + 5 - m.kept(MASKS) and m.density({}) == 1
