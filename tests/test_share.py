"""Weight sharing: codebooks are near the best, a pruned weight stays 0, and a number's gradient is the sum of its members'."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import checkpoints, grad, ops, stop_gradient
from engine.masks import MaskError
from engine.models import mlp
from engine.nets import combine, layers
from engine.optim import SGD, Adam, AdamW, Momentum
from engine.share import STARTS, Shared, cluster, share
from engine.train import fit, objective

RNG = np.random.default_rng(6)


def spelled(codebook, codes):
    """The array that codes and codebook stand for."""
    return np.concatenate([np.zeros(1, codebook.dtype), codebook])[codes]


def error(w, k, **given):
    return np.sum(np.square(spelled(*cluster(w, k, **given)) - w, dtype=np.float64))


def smallest_error(w, k):
    """The best clusters of few numbers: stretches of the sorted ones, all of them tried."""
    v = np.sort(w)
    cuts = itertools.combinations(range(1, len(v)), min(k, len(v)) - 1)
    return min(sum(np.sum(np.square(part - part.mean())) for part in np.split(v, cut)) for cut in cuts)


# Clusters.


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_weight_has_the_nearest_number_and_each_number_is_the_mean_of_its_weights(start, dtype):
    w = (RNG.standard_t(3, (50, 40)) * 0.05).astype(dtype)
    mask = RNG.random(w.shape) < 0.4
    codebook, codes = cluster(w, 16, mask=mask, start=start, seed=3)
    assert codebook.dtype == dtype and codebook.shape == (16,) and (np.diff(codebook) > 0).all()
    assert codes.dtype == np.uint8 and codes.shape == w.shape
    assert np.array_equal(codes != 0, mask)
    nearest = np.abs(w[mask][:, None] - codebook).min(axis=1)
    np.testing.assert_allclose(np.abs(w - spelled(codebook, codes))[mask], nearest, rtol=1e-5, atol=1e-7)
    for i, c in enumerate(codebook, 1):
        assert c == pytest.approx(w[codes == i].mean(dtype=np.float64), rel=1e-6)


@pytest.mark.parametrize("start", STARTS)
def test_clusters_come_near_the_best_there_are(start):
    found = best = 0.0
    for seed in range(30):
        w = np.random.default_rng(seed).normal(size=12)
        assert error(w, 3, start=start, seed=seed) >= smallest_error(w, 3) - 1e-12
        found, best = found + error(w, 3, start=start, seed=seed), best + smallest_error(w, 3)
    assert found < 1.5 * best


@pytest.mark.parametrize("start", STARTS)
def test_numbers_without_members_go_where_they_are_missed(start):
    w = np.concatenate([RNG.normal(size=500) * 1e-3, [100.0, 101.0]])  # between these a linear start has fourteen empty clusters
    codebook, codes = cluster(w, 16, start=start)
    assert len(codebook) == 16
    assert (np.bincount(codes)[1:] > 0).all()
    assert error(w, 16, start=start) < 0.51  # as if 100 and 101 had one number, where some starts end


@given(st.lists(st.sampled_from([-2.0, -0.0, 0.0, 1 / 3, 1e-30, 5.0]), max_size=20), st.integers(1, 8), st.sampled_from(sorted(STARTS)))
def test_more_numbers_than_different_weights_give_the_weights(values, k, start):
    w = np.array(values, np.float32)
    codebook, codes = cluster(w, k, start=start)
    different = len(np.unique(w))
    assert len(codebook) == min(k, different) or (k < different and len(codebook) <= k)
    if k >= different:
        assert np.array_equal(spelled(codebook, codes), w)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (), (1,), (2, 3, 2, 2)])
@pytest.mark.parametrize("keep", [False, True])
def test_any_shape(shape, keep):
    codebook, codes = cluster(np.ones(shape, np.float32), 4, mask=np.full(shape, keep))
    assert codes.shape == shape and (codes == keep).all()
    assert codebook.tolist() == [1.0] * (keep and codes.size > 0)


def test_many_numbers_take_wider_codes():
    w = np.arange(70_000.0)
    for k, dtype in [(255, np.uint8), (256, np.uint16), (70_000, np.uint32)]:
        codebook, codes = cluster(w, k)
        assert codes.dtype == dtype and codes.max() == len(codebook) == k


def test_a_strided_array_and_a_seed():
    w = RNG.normal(size=(30, 40))
    for x in (w.T, w[::2, ::-3]):
        assert all(map(np.array_equal, cluster(x, 5), cluster(np.ascontiguousarray(x), 5)))
    assert all(map(np.array_equal, cluster(w, 8, start="random", seed=1), cluster(w, 8, start="random", seed=1)))
    assert not np.array_equal(cluster(w, 8, start="random", seed=1)[0], cluster(w, 8, start="random", seed=2)[0])


# Trained codebooks.


def a_model(dtype=np.float32, keep=0.3):
    params = mlp.init(1, (6, 5, 4), dtype=dtype)
    masks = {name: RNG.random(w.shape) < keep for name, w in params.items() if w.ndim > 1}
    x, t = RNG.normal(size=(40, 6)).astype(dtype), RNG.integers(0, 4, 40)
    return params, masks, (x, t)


def law_of_members(shared, loss, batch, rtol):
    """The gradient of a number of the codebook is the sum of the gradients of its members."""
    gradients = grad(shared.loss(loss))(shared.params, *batch)
    dense = grad(loss)(shared.expand(), *batch)
    for name, codes in shared.codes.items():
        sums = [np.sum(dense[name][codes == i], dtype=np.float64) for i in range(1, codes.max() + 1)]
        np.testing.assert_allclose(gradients[f"{name}/codebook"], sums, rtol=rtol, atol=rtol)
    for name in gradients.keys() & dense.keys():
        np.testing.assert_allclose(gradients[name], dense[name], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("keep", [0.3, 1.0])
def test_a_number_has_the_gradient_of_all_its_members(dtype, rtol, keep):
    params, masks, batch = a_model(dtype, keep)
    law_of_members(share(params, 4, masks=masks), mlp.loss, batch, rtol)


class OfTheMean(Shared):
    """Wrong: every member passes on its share of the gradient, as if the codebook were a mean."""

    def _filled(self, name, codebook):
        share_of_each = super()._filled(name, codebook / np.bincount(self.codes[name].reshape(-1))[1:])
        return stop_gradient(super()._filled(name, codebook)) + (share_of_each - stop_gradient(share_of_each))


class WithTheFirst(Shared):
    """Wrong: a pruned weight counts as a member of the first number."""

    def _filled(self, name, codebook):
        return super()._filled(name, codebook) + (self.codes[name] == 0) * (codebook[0] - stop_gradient(codebook[0]))


@pytest.mark.parametrize("broken", [OfTheMean, WithTheFirst])
def test_wrong_gradients_break_the_law(broken):
    params, masks, batch = a_model(np.float64)
    good = share(params, 4, masks=masks)
    bad = broken(good.params, good.codes, good.masks)
    assert all(np.array_equal(w, bad.expand()[name]) for name, w in good.expand().items())  # the values are right
    with pytest.raises(AssertionError):
        law_of_members(bad, mlp.loss, batch, 1e-12)


@pytest.mark.parametrize("optimizer", [SGD(0.05), Momentum(0.05, weight_decay=0.01), Adam(0.02), AdamW(0.02, weight_decay=0.1)], ids=repr)
def test_training_keeps_zeros_and_ties(optimizer):
    params, masks, data = a_model()
    shared = share(params, 4, masks=masks)
    before = mlp.loss(shared.expand(), *data)
    run = fit(shared.loss(mlp.loss), shared.params, data, optimizer=optimizer, epochs=20, batch_size=10, progress=False)
    dense = shared.expand(run.params)
    assert list(dense) == list(params)
    for name, mask in masks.items():
        assert not dense[name][~mask].any()
        assert len(np.unique(dense[name][mask])) <= 4
        assert not np.array_equal(run.params[f"{name}/codebook"], shared.params[f"{name}/codebook"])
    assert mlp.loss(dense, *data) < before


def test_some_arrays_by_name_the_others_as_they_are():
    params, masks, batch = a_model()
    masks["b1"] = np.array([True, False, True, True, False])
    shared = share({**params, "b1": np.arange(1, 6, dtype=np.float32)}, {"w2": 3}, masks=masks)
    assert list(shared.params) == ["w1", "b1", "w2/codebook", "b2"] and list(shared.codes) == ["w2"]
    dense = shared.expand()
    assert np.array_equal(dense["w1"], params["w1"] * masks["w1"])  # pruned, not shared
    assert dense["b1"].tolist() == [1, 0, 3, 4, 0]
    run = fit(shared.loss(mlp.loss), shared.params, batch, optimizer=AdamW(0.1), epochs=2, progress=False)
    assert not shared.expand(run.params)["w1"][~masks["w1"]].any()


def test_what_is_saved_goes_on(tmp_path):
    pytest.importorskip("safetensors")
    params, masks, data = a_model()
    shared = share(params, {"w1": 3}, masks=masks)
    shared.save(tmp_path / "s")
    again = Shared.load(tmp_path / "s")
    a, b = (fit(s.loss(mlp.loss), s.params, data, optimizer=Adam(), epochs=2, progress=False).params for s in (shared, again))
    assert list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)
    assert all(np.array_equal(x, again.expand()[name]) for name, x in shared.expand().items())
    checkpoints.save(tmp_path / "other", {"params": params}, {})
    with pytest.raises(checkpoints.CheckpointError, match="other holds no shared parameters, but params"):
        Shared.load(tmp_path / "other")


# One name, several uses.


def tied(params, x, t):
    """An autoencoder whose decoder is the encoder the other way round."""
    h = ops.tanh(x @ params["encoder/w"] + params["encoder/b"])
    y = dense_decoder({**params, "decoder/w": params["encoder/w"].T}, h)
    return ops.mean(ops.square(y - t))


def dense_decoder(params, h):
    return h @ params["decoder/w"] + params["decoder/b"]


def test_a_model_of_ones_own_with_tied_parameters():
    params = {"encoder/w": RNG.normal(size=(6, 3)), "encoder/b": np.zeros(3), "decoder/b": np.zeros(6)}
    masks = {"encoder/w": RNG.random((6, 3)) < 0.6}
    x = RNG.normal(size=(30, 6))
    shared = share(params, 4, masks=masks)
    law_of_members(shared, tied, (x, x), 1e-12)
    untied = grad(lambda p, x, t: ops.mean(ops.square(dense_decoder(p, ops.tanh(x @ p["encoder/w"] + p["encoder/b"])) - t)))
    apart = untied({**shared.expand(), "decoder/w": shared.expand()["encoder/w"].T}, x, x)
    np.testing.assert_allclose(grad(tied)(shared.expand(), x, x)["encoder/w"], apart["encoder/w"] + apart["decoder/w"].T, rtol=1e-12)
    run = fit(shared.loss(tied), shared.params, (x, x), optimizer=Adam(0.05), epochs=10, progress=False)
    assert not shared.expand(run.params)["encoder/w"][~masks["encoder/w"]].any()
    assert tied(shared.expand(run.params), x, x) < tied(shared.expand(), x, x)


def test_a_net_with_one_layer_in_two_places():
    d = layers.dense(5)
    net = combine.serial(d, ops.tanh, layers.dropout(0.2), d)
    params, state = net.init(2, (5,), np.float64)
    assert list(params) == ["dense1/w", "dense1/b"]  # once, however often it is used
    masks = {"dense1/w": RNG.random((5, 5)) < 0.5}
    x = RNG.normal(size=(20, 5))
    loss = objective(net, lambda y, t: ops.mean(ops.square(y - t)))
    shared = share(params, 3, masks=masks)
    law_of_members(shared, lambda p, x, t: loss(p, x, t, state=state, seed=None)[0], (x, x), 1e-12)
    run = fit(shared.loss(loss), shared.params, (x, x), optimizer=Adam(0.05), epochs=3, state=state, progress=False)
    dense = shared.expand(run.params)["dense1/w"]
    assert not dense[~masks["dense1/w"]].any() and len(np.unique(dense)) <= 4


def test_what_is_masked_is_0_whatever_stood_there():
    params = {"w": np.array([[np.inf, 1.0], [2.0, np.nan]]), "b": np.array([np.nan, 3.0])}
    dense = share(params, 2, masks={"w": np.isfinite(params["w"]), "b": np.isfinite(params["b"])}).expand()
    assert dense["w"].tolist() == [[0, 1], [2, 0]] and dense["b"].tolist() == [0, 3]


def test_arrays_begin_at_places_of_their_own():
    w = np.random.default_rng(0).normal(size=(30, 30))
    a, b = share({"a": w, "b": w}, 3, start="random", seed=1).params.values()
    assert not np.array_equal(a, b)


# What is refused.


def test_an_array_that_looks_like_a_codebook_is_one_only_if_it_is():
    shared = share({"a/codebook": np.ones(2), "w": np.ones((2, 2))}, 2)
    assert list(shared.expand()) == ["a/codebook", "w"]
    assert replace(shared, params=shared.params).expand()["w"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda p, m: share(p, {"w9": 4}), ValueError, "share: there is no parameter w9; there are w1, b1, w2, b2"),
        (lambda p, m: share(p, masks={"v": m["w1"]}), MaskError, "there is a mask for 'v', but no such parameter: w1"),
        (
            lambda p, m: share(p, masks={"w1": m["w1"].T}),
            MaskError,
            r"the mask of 'w1' does not fit\n  wanted  bool \(6, 5\)\n  given   bool \(5, 6\)",
        ),
        (lambda p, m: share(p, masks={"w1": m["w1"] * 1.0}), MaskError, r"given   float64 \(6, 5\)"),
        (lambda p, m: share(p, 0), ValueError, "share: w1: k is 1 or more and start one of linear, density, random, kmeans.*given are k=0"),
        (lambda p, m: share(p, start="best"), ValueError, "share: w1: .*start='best'"),
        (lambda p, m: share({"w1": np.ones((2, 2), int)}), TypeError, "share: w1: weights to share are floats, these are int64"),
        (lambda p, m: share({"w1": np.array([[1, np.nan]])}), ValueError, "share: w1: 1 of the kept weights are not finite"),
        (lambda p, m: share({**p, "w1/codebook": p["b1"]}), ValueError, "share: w1/codebook would be the name of a codebook, but is a"),
        (lambda p, m: cluster(np.ones(3), 2, mask=np.ones(4, bool)), ValueError, r"the mask is bool \(4,\), the weights want bool \(3,\)"),
    ],
)
def test_what_is_refused(call, kind, message):
    params, masks, _ = a_model()
    with pytest.raises(kind, match=message):
        call(params, masks)


def test_a_pruned_weight_may_be_anything():
    w, mask = np.array([[1.0, np.nan], [np.inf, 2.0]]), np.eye(2, dtype=bool)
    assert share({"w": w}, 4, masks={"w": mask}).expand()["w"].tolist() == [[1, 0], [0, 2]]
