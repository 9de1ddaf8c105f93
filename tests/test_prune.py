"""Importance by its formula, exact counts whatever is equal, shares that arrive, stages that go on where they stopped."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import masks as m
from engine import ops, prune
from engine.optim import Adam, Momentum
from engine.prune.select import as_matrix, from_matrix
from engine.reverse import grad
from engine.train import Interrupted, OtherRun, fit

RNG = np.random.default_rng(11)
X = RNG.normal(size=(60, 5))
T = np.tanh(X @ RNG.normal(size=(5, 3)))
PARAMS = {"w1": RNG.normal(size=(5, 4)) / 2, "b1": RNG.normal(size=4) / 10, "w2": RNG.normal(size=(4, 3)) / 2}
BATCHES = [(X[i : i + 20], T[i : i + 20]) for i in (0, 20, 40)]


def loss(p, x, t):
    return ops.mean(ops.square(ops.matmul(ops.tanh(ops.matmul(x, p["w1"]) + p["b1"]), p["w2"]) - t))


def moved(name, place, by, at=PARAMS):
    w = at[name].copy()
    w[place] += by
    return {**at, name: w}


# Importance.


def test_taylor_is_the_loss_that_the_first_order_foresees():
    scores = prune.taylor(loss, PARAMS, BATCHES)
    assert list(scores) == ["w1", "w2"]
    for name, place in (("w1", (2, 3)), ("w2", (0, 1))):
        h, w = 1e-6, PARAMS[name][place]
        changes = [(loss(moved(name, place, h * w), *b) - loss(moved(name, place, -h * w), *b)) / (2 * h) for b in BATCHES]
        np.testing.assert_allclose(scores[name][place], np.mean(np.abs(changes)), rtol=1e-6)


def test_snip_is_a_share_of_the_whole():
    scores = prune.snip(loss, PARAMS, BATCHES)
    assert abs(sum(s.sum() for s in scores.values()) - 1) < 1e-12
    g = grad(lambda p: sum(loss(p, *b) for b in BATCHES))(PARAMS)
    ratio = np.concatenate([(np.abs(PARAMS[n] * g[n]) / scores[n]).ravel() for n in scores])
    np.testing.assert_allclose(ratio, ratio[0])


def test_movement_follows_plain_steps():
    scores = prune.movement(loss, PARAMS, BATCHES, lr=0.1)
    now, total = dict(PARAMS), dict.fromkeys(scores, 0.0)
    for b in BATCHES:
        g = grad(lambda p, b=b: loss(p, *b))(now)
        total = {name: total[name] - now[name] * g[name] for name in total}
        now = {name: now[name] - 0.1 * g[name] for name in now}
    for name in scores:
        np.testing.assert_allclose(scores[name], total[name], rtol=1e-12)
        away = np.sign(now[name] - PARAMS[name]) == np.sign(PARAMS[name])
        assert (scores[name][away] > 0).mean() > 0.9  # what moved away from 0 stays


def test_the_diagonal_of_the_hessian_exactly_and_by_probes():
    exact = prune.hessian(loss, PARAMS, BATCHES)
    for name, place in (("w1", (1, 0)), ("w2", (3, 2))):
        h, w = 1e-4, PARAMS[name][place]
        bent = [(loss(moved(name, place, h), *b) - 2 * loss(PARAMS, *b) + loss(moved(name, place, -h), *b)) / h**2 for b in BATCHES]
        np.testing.assert_allclose(exact[name][place], np.mean(bent) * w**2 / 2, rtol=1e-4)
    probed = prune.hessian(loss, PARAMS, BATCHES, probes=2000, seed=1)
    for name in exact:
        np.testing.assert_allclose(probed[name], exact[name], atol=0.15 * np.abs(exact[name]).max())


def test_lamp_is_one_for_the_largest_and_falls():
    w = np.array([[3.0, -1.0], [2.0, 0.0], [2.0, 5.0]])
    s = prune.lamp({"w": w})["w"]
    np.testing.assert_allclose(s, [[9 / 34, 1 / 43], [4 / 42, 0], [4 / 42, 1]])
    assert np.array_equal(prune.lamp({"w": np.zeros((2, 2))})["w"], np.zeros((2, 2)))


def test_magnitude_and_the_control():
    assert np.array_equal(prune.magnitude(PARAMS)["w1"], np.abs(PARAMS["w1"]))
    a, b = (prune.random(PARAMS, seed=s) for s in (0, 1))
    assert np.array_equal(a["w1"], prune.random(PARAMS, seed=0)["w1"]) and not np.array_equal(a["w1"], b["w1"])
    assert prune.batch_norm_scale({"s": np.array([-2.0, 1.0])}, names=("s",))["s"].tolist() == [2, 1]


def test_criteria_say_what_they_lack():
    with pytest.raises(ValueError, match="at least one batch"):
        prune.taylor(loss, PARAMS, [])
    with pytest.raises(ValueError, match="probes=0"):
        prune.hessian(loss, PARAMS, BATCHES, probes=0)
    with pytest.raises(ValueError, match="no such parameter: w7; there are w1, b1, w2"):
        prune.magnitude(PARAMS, names=("w7",))


# Exact choice.

SHAPES = [(), (1,), (7,), (3, 5), (4, 4), (2, 3, 3, 2), (0, 4), (1, 9)]


@given(seed=st.integers(0, 10**6), keep=st.floats(0.001, 1), levels=st.integers(1, 6), scope=st.sampled_from(["layer", "global"]))
def test_so_many_are_kept_whatever_is_equal(seed, keep, levels, scope):
    """Scores of few levels, so that most are equal; and what is kept is worth no less than what is not."""
    rng = np.random.default_rng(seed)
    scores = {f"w{i}": rng.integers(0, levels, shape).astype(float) for i, shape in enumerate(SHAPES)}
    masks = prune.select(scores, keep, scope=scope)
    assert all(masks[name].shape == s.shape and masks[name].dtype == bool for name, s in scores.items())
    if scope == "layer":
        for name, s in scores.items():
            assert masks[name].sum() == min(s.size, max(1, round(keep * s.size)))
            assert s.size == 0 or masks[name].all() or s[masks[name]].min() >= s[~masks[name]].max()
    else:
        total = sum(s.size for s in scores.values())
        assert m.kept(masks) == max(1, round(keep * total))
        left = np.concatenate([s[masks[name]] for name, s in scores.items()])
        gone = np.concatenate([s[~masks[name]] for name, s in scores.items()])
        assert gone.size == 0 or left.min() >= gone.max()


def test_the_law_of_counts_catches_a_threshold():
    """`score >= the k-th largest`, which is what most libraries do, keeps too many of equal ones."""
    s = np.array([1.0, 1, 1, 0])
    assert (s >= np.sort(s)[::-1][0]).sum() == 3 and prune.select({"w": s}, 0.25)["w"].tolist() == [True, False, False, False]


def test_of_equal_scores_the_first_are_kept():
    levels = np.tile([0.0, 1.0, 1.0], 1000)
    kept = prune.select({"w": levels}, 0.4)["w"]
    assert kept.sum() == 1200 and np.array_equal(np.flatnonzero(kept), np.flatnonzero(levels)[:1200])


@given(seed=st.integers(0, 10**6), r=st.integers(1, 5), c=st.integers(1, 5), keep=st.floats(0.01, 1))
def test_blocks_go_whole(seed, r, c, keep):
    rng = np.random.default_rng(seed)
    for shape in ((7, 9), (8, 12), (3, 2, 3, 3), (5,)):
        score = rng.random(shape)
        mask = as_matrix(prune.select({"w": score}, keep, grain=prune.Blocks(r, c))["w"])
        matrix, worth = as_matrix(score), []
        for i in range(0, matrix.shape[0], r):
            for j in range(0, matrix.shape[1], c):
                block = mask[i : i + r, j : j + c]
                assert block.all() or not block.any()
                worth.append((matrix[i : i + r, j : j + c].mean(), block.any()))
        kept = [value for value, is_kept in worth if is_kept]
        assert len(kept) == max(1, round(keep * len(worth)))
        assert min(kept) >= max([value for value, is_kept in worth if not is_kept], default=0)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 4), extra=st.integers(0, 4))
def test_n_of_m_neighbours(seed, n, extra):
    rng, of = np.random.default_rng(seed), n + extra
    for shape in ((12, 5), (7, 3), (2, 3, 2, 2)):
        score = rng.integers(0, 3, shape).astype(float)
        mask, matrix = as_matrix(prune.select({"w": score}, grain=prune.NofM(n, of))["w"]), as_matrix(score)
        for i in range(0, matrix.shape[1], of):
            for row in range(len(matrix)):
                part, values = mask[row, i : i + of], matrix[row, i : i + of]
                assert part.sum() == min(n, len(part))
                assert part.all() or values[part].min() >= values[~part].max()


def test_two_of_four_fits_the_kernel_that_takes_it():
    from engine.sparse import two_to_four

    w = RNG.normal(size=(8, 6))
    mask = prune.select({"w": np.abs(w)}, grain=prune.NofM(2, 4))["w"]
    values, _ = two_to_four(w.T, mask.T)
    assert values.shape == (6, 4) and np.allclose(np.sort(values.ravel()), np.sort(w.T[mask.T]))


def test_matrices_there_and_back():
    for shape in ((4, 5), (2, 3, 4, 5), (6,), (2, 3, 4)):
        x = RNG.normal(size=shape)
        assert np.array_equal(from_matrix(as_matrix(x), shape), x)
    assert as_matrix(np.empty((4, 5))).shape == (5, 4) and as_matrix(np.empty((2, 3, 4, 5))).shape == (2, 60)


@pytest.mark.parametrize("keep", [0, 0.0, -0.1, 1.01, float("nan"), "0.1", True, None])
def test_shares_that_are_none(keep):
    with pytest.raises(ValueError, match="a share above 0 and up to 1 is wanted"):
        prune.select({"w": np.ones(4)}, keep)


def test_what_else_cannot_be_chosen():
    with pytest.raises(prune.ScoreError, match="1 of 4 scores of 'w' are not numbers"):
        prune.select({"w": np.array([1, np.nan, 2, 3])}, 0.5)
    with pytest.raises(ValueError, match="keep says nothing of w2"):
        prune.select({"w1": np.ones(2), "w2": np.ones(2)}, {"w1": 0.5})
    with pytest.raises(ValueError, match="keep is of w2 too, without a score"):
        prune.select({"w1": np.ones(2)}, {"w1": 0.5, "w2": 0.5})
    with pytest.raises(ValueError, match='scope is "layer" or "global", not \'all\''):
        prune.select({"w1": np.ones(2)}, 0.5, scope="all")
    with pytest.raises(ValueError, match='goes with scope="layer"'):
        prune.select({"w1": np.ones(2)}, {"w1": 0.5}, scope="global")
    with pytest.raises(ValueError, match="2 of 4 is the share"):
        prune.select({"w1": np.ones(4)}, 0.5, grain=prune.NofM(2, 4))
    with pytest.raises(ValueError, match="between 1 and 4 can be kept"):
        prune.NofM(5, 4)
    with pytest.raises(ValueError, match="not 0 x 4"):
        prune.Blocks(0, 4)


# Schedules.


@pytest.mark.parametrize("kind", prune.SCHEDULES.values())
def test_a_schedule_falls_and_arrives(kind):
    schedule = kind(0.05, steps=40, begin=10, start=0.8)
    shares = [schedule(t) for t in range(60)]
    assert shares[:10] == [0.8] * 10 and shares[50:] == [0.05] * 10
    assert all(a >= b for a, b in itertools.pairwise(shares))


def test_schedules_by_their_formulas():
    assert prune.Linear(0.2, steps=4)(1) == pytest.approx(0.8)
    assert prune.Cubic(0.1, steps=10)(5) == pytest.approx(0.1 + 0.9 * 0.125)
    assert [prune.Exponential(0.8**5, steps=5)(t) for t in range(6)] == pytest.approx([0.8**t for t in range(6)])
    assert [prune.OneShot(0.1, steps=2)(t) for t in range(4)] == [1, 1, 0.1, 0.1]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"end": 0}, "0 < end <= start <= 1"),
        ({"end": 0.5, "start": 0.4}, "0 < end"),
        ({"end": 0.5, "start": 1.5}, "0 < end"),
        ({"end": 0.5, "steps": 0}, "cannot end before it starts"),
        ({"end": 0.5, "begin": -1}, "cannot end before it starts"),
    ],
)
def test_schedules_that_are_none(wrong, said):
    with pytest.raises(ValueError, match=said):
        prune.Cubic(**wrong)


# Stages.

MAGNITUDE = prune.by_weights(prune.magnitude)


def train(params, masks, number, checkpoint):
    return fit(loss, params, (X, T), optimizer=Momentum(0.05), epochs=3, batch_size=20, masks=masks, seed=number, progress=False)


def stages(**options):
    return list(prune.iterate(PARAMS, **{"prune": MAGNITUDE, "keeps": [0.6, 0.3, 0.1], "train": train, **options}))


def test_each_stage_is_within_the_one_before():
    found = stages()
    assert [m.kept(stage.masks) for stage in found] == [12 + 7, 6 + 4, 2 + 1]
    for before, after in itertools.pairwise(found):
        assert all(np.all(before.masks[name] | ~after.masks[name]) for name in after.masks)
    for stage in found:
        assert all(np.all(stage.params[name][~mask] == 0) for name, mask in stage.masks.items())


def test_a_stage_holds_what_was_trained():
    runs = []

    def watched(*given):
        runs.append(train(*given))
        return runs[-1]

    found = stages(train=watched)
    assert [stage.params for stage in found] == [run.params for run in runs] and [s.history for s in found] == [r.history for r in runs]
    assert [(stage.number, stage.keep) for stage in found] == [(1, 0.6), (2, 0.3), (3, 0.1)]


def test_what_is_gone_stays_gone_under_a_criterion_that_changes_its_mind():
    numbers = iter(range(9))
    fickle = prune.by_weights(lambda p: prune.random(p, seed=next(numbers)))
    found = stages(prune=fickle)
    assert [m.kept(stage.masks) for stage in found] == [19, 10, 3]
    assert all(np.all(found[0].masks[name] | ~found[2].masks[name]) for name in ("w1", "w2"))


def test_what_is_gone_stays_gone_where_more_could_be_kept():
    """A larger share than is left, another grain, and a mask of an array that is not scored."""
    before = {"w1": np.arange(20).reshape(5, 4) % 3 == 0, "b1": np.array([True, False, True, True])}
    for rule in (MAGNITUDE, prune.by_weights(prune.magnitude, grain=prune.NofM(3, 4)), prune.by_weights(prune.magnitude, scope="global")):
        masks = rule(PARAMS, 0.9, before)
        assert np.all(before["w1"] | ~masks["w1"]) and np.array_equal(masks["b1"], before["b1"]) and masks["w2"].sum() > 6
    groups = prune.channels(lambda p, x: ops.matmul(ops.tanh(ops.matmul(x, p["w1"]) + p["b1"]), p["w2"]), PARAMS, X[:1])
    masks = prune.by_channels(lambda p: prune.magnitude(p, names=list(p)), groups)(PARAMS, 0.5, {"w1": before["w1"]})
    assert np.all(before["w1"] | ~masks["w1"]) and prune.kept_by(groups, {**masks, "w1": masks["w1"]})["w1"].sum() == 2


def test_rewinding_begins_from_the_first_weights():
    begun = []

    def watched(params, masks, number, checkpoint):
        begun.append((params, masks))
        return train(params, masks, number, checkpoint)

    first = {name: p + 1 for name, p in PARAMS.items()}
    stages(train=watched, rewind=first)
    for params, masks in begun:
        assert all(np.array_equal(params[name], np.where(masks[name], first[name], 0)) for name in masks)
        assert np.array_equal(params["b1"], first["b1"])


def test_stopped_stages_go_on(tmp_path):
    whole = stages(folder=tmp_path / "whole")
    calls = []

    def stopping(params, masks, number, checkpoint):
        calls.append(number)
        if number == 2 and calls.count(2) == 1:
            raise Interrupted("stopped", None)
        return train(params, masks, number, checkpoint)

    with pytest.raises(Interrupted):
        stages(folder=tmp_path / "parts", train=stopping)
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["stage-01.safetensors"]
    parts = stages(folder=tmp_path / "parts", train=stopping)
    assert calls == [1, 2, 2, 3]
    for a, b in zip(whole, parts, strict=True):
        assert a.keep == b.keep and a.history[-1]["loss"] == b.history[-1]["loss"]
        assert all(np.array_equal(a.params[name], b.params[name]) for name in PARAMS)
        assert all(np.array_equal(a.masks[name], b.masks[name]) for name in a.masks)
    with pytest.raises(OtherRun, match=r"keep: then 0\.6, now 0\.5"):
        stages(folder=tmp_path / "parts", keeps=[0.5, 0.1])
    with pytest.raises(OtherRun, match="rewound: then False, now True"):
        stages(folder=tmp_path / "parts", rewind=PARAMS)
    with pytest.raises(OtherRun, match=r"lr: then None, now 0\.1"):
        stages(folder=tmp_path / "parts", plan={"lr": 0.1})
    train(PARAMS, None, 1, None).save(tmp_path / "parts" / "stage-01.safetensors", {})
    with pytest.raises(OtherRun, match="keep: then None"):  # a checkpoint, but of no stage
        stages(folder=tmp_path / "parts")


@pytest.mark.parametrize("keeps", [[0.5, 0.6], [0.0], [1.2], [0.5, -0.1]])
def test_shares_must_fall(keeps):
    with pytest.raises(ValueError, match="shares in"):
        stages(keeps=keeps)


def test_channels_in_stages():
    def f(p, x):
        return ops.matmul(ops.tanh(ops.matmul(x, p["w1"]) + p["b1"]), p["w2"])

    groups = prune.channels(f, PARAMS, X[:1])
    found = stages(prune=prune.by_channels(lambda p: prune.magnitude(p, names=list(p)), groups), keeps=[0.75, 0.5])
    counts = []
    for stage in found:
        kept = prune.kept_by(groups, stage.masks)
        counts.append(int(kept["w1"].sum()))
        small = prune.shrink(stage.params, groups, kept)
        np.testing.assert_allclose(f(small, X), f(stage.params, X), rtol=1e-12)
    assert counts == [3, 2]
    with pytest.raises(prune.ChannelError, match="no channels that can go"):
        prune.by_channels(prune.magnitude, [])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_channels_in_stages_where_one_layer_follows_the_other(scope):
    """What is gone of one layer must not blur what the channels of the next are worth, and never comes back."""
    from engine.models import mlp

    params = {name: p.astype(np.float64) for name, p in mlp.init(3, (6, 8, 7, 3)).items()}
    groups = prune.channels(mlp.predict, params, X[:1, [0, 1, 2, 3, 4, 0]])
    numbers = iter(range(-3, 9))
    rules = {
        "magnitude": lambda p: prune.magnitude(p, names=list(p)),
        "fickle": lambda p: prune.random(p, seed=next(numbers) % 5, names=list(p)),
        "negative": lambda p: {name: -s for name, s in prune.magnitude(p, names=list(p)).items()},
    }
    for what, score in rules.items():
        rule = prune.by_channels(score, groups, scope=scope)
        masks, kept = None, {group.name: np.ones(len(group), bool) for group in groups}
        for keep in (0.75, 0.5, 0.3):
            masks = rule(m.masked(params, masks or {}), keep, masks)
            now = prune.kept_by(groups, masks)
            assert all(np.all(kept[name] | ~now[name]) for name in kept), what
            assert sum(int(k.sum()) for k in now.values()) in (round(15 * keep), round(8 * keep) + round(7 * keep)), what
            kept = now
    masks = rule(params, 0.75, None)
    here = m.masked(params, masks)
    kept = prune.kept_by(groups, prune.by_channels(rules["magnitude"], groups)(params, 0.3, masks))["w1"]
    left = prune.kept_by(groups, masks)["w1"]
    worth = np.where(left, np.abs(here["w1"]).sum(0) + np.abs(here["b1"]) + np.abs(here["w2"]).sum(1), -1)
    assert set(np.flatnonzero(kept)) == set(np.argsort(-worth)[: round(0.3 * 8)])


# While training.


def gradual(schedule, every=2, epochs=10, **options):
    watcher = prune.Gradual(MAGNITUDE, schedule, every=every)
    given = {"epochs": epochs, "batch_size": 20, "progress": False, "callbacks": [watcher], **options}
    return fit(loss, PARAMS, (X, T), optimizer=Adam(0.01), **given)


def test_a_little_every_few_steps(tmp_path):
    whole = gradual(prune.Cubic(0.25, steps=17, begin=4))
    assert m.kept(whole.masks) == 5 + 3
    assert all(np.all(whole.params[name][~mask] == 0) for name, mask in whole.masks.items())
    file = tmp_path / "run.safetensors"
    gradual(prune.Cubic(0.25, steps=17, begin=4), epochs=7, checkpoint=file)  # 21 steps: the schedule has just ended
    parts = gradual(prune.Cubic(0.25, steps=17, begin=4), checkpoint=file, resume=True)
    assert all(whole.params[name].tobytes() == parts.params[name].tobytes() for name in PARAMS)


def test_the_last_share_is_reached_between_two_prunings():
    """Steps 0 and 10 prune, and step 17, at which the schedule ends."""
    assert m.kept(gradual(prune.Linear(0.25, steps=17), every=10).masks) == 5 + 3


def test_a_schedule_that_ends_after_the_training():
    with pytest.raises(ValueError, match="the schedule ends at step 40, the training at step 30"):
        gradual(prune.Cubic(0.25, steps=40))
    with pytest.raises(ValueError, match="every=0"):
        prune.Gradual(MAGNITUDE, prune.Cubic(0.25), every=0)
