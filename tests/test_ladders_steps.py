"""Steps of optimisers: kernels that take dicts of arrays, all names in one call, and write where they are told."""

import numpy as np
import pytest
import tally
from laws_of_rungs import CASES, SERVING, broken, named, same_bits, tupled
from strategies import LAYOUTS, laid_out

import kernels
from engine.traced import OPS

BY_NAME = [(rung, dtype) for rung, dtype in CASES if rung.contract.dicts]
SHAPES = {"w": (5, 7), "b": (), "none": (0, 3), "one": (1,), "long": (3 * (1 << 16) + 5,), "k": (2, 3, 4, 6), "row": (1, 67)}


def model(rung, dtype, seed, layout="C"):
    """Dicts of arrays for each argument, and parameters: a weight decay for each name."""
    rng = np.random.default_rng(seed)
    shapes = SHAPES if seed == 0 else {**SHAPES, "long": (261,)}
    given = [{name: np.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()} for _ in OPS[rung.op].args]
    if OPS[rung.op].args[-1] == "v":
        given[-1] = {name: np.square(x) for name, x in given[-1].items()}
    hyper = {**OPS[rung.op].defaults, "lr": 0.01, "weight_decay": {name: 0.1 * (len(name) % 2) for name in SHAPES}}
    given = [{name: laid_out(x, layout) for name, x in d.items()} for d in given]
    return given, {**hyper, "t": 3} if "adam" in rung.op else hyper


def name_by_name(rung, given, params):
    """What a call for each name returns."""
    decay = params["weight_decay"]
    return {name: tupled(rung.run(*[d[name] for d in given], **{**params, "weight_decay": decay[name]})) for name in given[0]}


def does_all_names_at_once(rung, given, params):
    """One call over dicts returns, name by name and bit by bit, what a call for each name returns, in new arrays; it writes nothing."""
    want, before = name_by_name(rung, given, params), [{name: x.copy() for name, x in d.items()} for d in given]
    got = rung.run(*given, **params)
    assert type(got) is tuple
    for k, new in enumerate(got):
        assert list(new) == list(given[0])
        for name, x in new.items():
            assert x.dtype == given[0][name].dtype and x.shape == want[name][k].shape and same_bits(x, want[name][k]), name
            assert x.flags.c_contiguous and x.flags.writeable and not any(np.shares_memory(x, d[name]) for d in given)
    for d, old in zip(given, before, strict=True):
        assert all(same_bits(x, old[name]) for name, x in d.items()), "an argument was written into"


def fenced(x, fences):
    """A copy of x in the middle of memory that nobody may write to."""
    room = np.full(x.size + 128, 7.0, x.dtype)
    fences += [(room[:64], room[:64].copy()), (room[-64:], room[-64:].copy())]
    inside = room[64 : 64 + x.size].reshape(x.shape)
    inside[...] = x
    return inside


def writes_where_it_is_told_and_nowhere_else(rung, given, params):
    """With out=, in place or elsewhere, the results are the same bits, in the arrays named there; gradients and what lies around stay."""
    want = name_by_name(rung, given, params)
    count = len(next(iter(want.values())))
    for places in ("in place", "elsewhere", "moments in place"):
        fences = []
        args = [{name: fenced(x, fences) for name, x in d.items()} for d in given]
        own = [args[0], *args[2:]]
        new = [{name: fenced(np.zeros_like(x), fences) for name, x in d.items()} for d in own]
        out = {"in place": own, "elsewhere": new, "moments in place": [None, *own[1:]]}[places]
        got = rung.run(*args, **params, out=out)
        assert len(got) == count
        for k, (result, to) in enumerate(zip(got, out, strict=True)):
            for name, x in result.items():
                assert same_bits(x, want[name][k]), f"{places}: {name}"
                assert to is None or x is to[name] or np.shares_memory(x, to[name]) or x.size == 0
        kept = args if places == "elsewhere" else [args[1]] if places == "in place" else args[:2]
        for d, old in zip(kept, given if places == "elsewhere" else [given[1]] if places == "in place" else given[:2], strict=True):
            assert all(same_bits(x, old[name]) for name, x in d.items()), f"{places}: an argument was written into"
        assert all(same_bits(x, old) for x, old in fences), f"{places}: written outside of the arrays"


@pytest.mark.parametrize("case", BY_NAME, ids=named)
def test_one_call_does_what_a_call_for_each_name_does(case):
    rung, dtype = case
    for seed, layout in enumerate(LAYOUTS):
        does_all_names_at_once(rung, *model(rung, dtype, seed, layout))
        tally.ran(rung.backend, "all names at once")


@pytest.mark.parametrize("case", BY_NAME, ids=named)
def test_results_go_where_they_are_told(case):
    rung, dtype = case
    writes_where_it_is_told_and_nowhere_else(rung, *model(rung, dtype, 0))
    tally.ran(rung.backend, "results where they are told")


@pytest.mark.parametrize("case", BY_NAME, ids=named)
def test_a_model_without_parameters(case):
    rung, dtype = case
    _, params = model(rung, dtype, 0)
    given = [{} for _ in OPS[rung.op].args]
    assert rung(*given, **{**params, "weight_decay": {}}) == rung(*given, **{**params, "weight_decay": 0.1}) == ({},) * (len(given) - 1)


@pytest.mark.parametrize("rung", [r for r in SERVING if r.contract.dicts], ids=lambda r: f"{r.backend}-{r.op}")
def test_the_number_of_threads_changes_no_bit_of_a_model(rung, monkeypatch):
    from kernels.cpu import threads, update

    given, params = model(rung, np.float32, 0)
    answers = []
    for count in (1, 2, 3):
        for module in (threads, update):
            monkeypatch.setattr(module, "threads", lambda count=count: count)
        monkeypatch.setattr(threads, "_pool", None)
        answers.append([x.tobytes() for new in rung.run(*given, **params) for x in new.values()])
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("most", [1, 16, 100, 10**9])
def test_pieces_of_a_table_are_all_of_it(most):
    from kernels.cpu.table import cut

    sizes = np.array([0, 5, 1, 200, 3, 0, 64])
    table = np.stack([sizes, 1000 * np.arange(7), 1000 * np.arange(7) + 10**6], axis=1)
    pieces = cut(table, np.arange(7), np.zeros((7, 2), np.float32), most)
    elements = [(g, a + 4 * i, b + 4 * i) for t, groups, _ in pieces for (n, a, b), g in zip(t, groups, strict=True) for i in range(n)]
    assert elements == [(g, a + 4 * i, b + 4 * i) for g, (n, a, b) in enumerate(table) for i in range(n)]
    assert all(t[:, 0].max() <= most and t[:, 0].sum() < 2 * most + 1 for t, _, _ in pieces)
    assert len(pieces) > 1 or most > sizes.sum()


@pytest.mark.parametrize(
    "break_it, error, says",
    [
        (lambda p, g, m, v: g.pop("w"), ValueError, r"names in g are not those in the first dict: missing \['w'\], not there \[\]"),
        (lambda p, g, m, v: v.update(z=v["w"]), ValueError, r"names in v .* missing \[\], not there \['z'\]"),
        (lambda p, g, m, v: g.update(w=g["w"].T), ValueError, r"g of 'w' is \(7, 5\) float64; wanted is \(5, 7\) float64"),
        (lambda p, g, m, v: m.update(b=np.float32(1)), ValueError, r"moment of 'b' is \(\) float32; wanted is \(\) float64"),
        (lambda p, g, m, v: g.update(w="much"), ValueError, "g of 'w' is .*; wanted is"),
        (lambda p, g, m, v: p.update({k: x.astype(int) for k, x in p.items()}), TypeError, "one of float32, float64; given int64"),
    ],
)
def test_dicts_that_do_not_fit(break_it, error, says):
    for rung in kernels.ladder("adam_step", "cpu"):
        given, params = model(rung, np.float64, 0)
        break_it(*given)
        with pytest.raises(error, match=says) as e:
            rung(*given, **params)
        assert str(e.value).startswith("adam_step on cpu: ")


def test_dicts_and_arrays_are_not_mixed():
    rung = kernels.serving("sgd_step", "cpu")
    x = {"w": np.ones(3)}
    for args in [(x, np.ones(3)), (np.ones(3), x)]:
        with pytest.raises(TypeError, match="sgd_step on cpu: all are arrays, or all are dicts of arrays"):
            rung(*args, lr=0.1)
    with pytest.raises(ValueError, match="the names in weight_decay are not those in the first dict: missing"):
        rung(x, x, lr=0.1, weight_decay={"b": 0.1})
    with pytest.raises(ValueError, match=r"the names in out\[0\] are not those in the first dict"):
        rung(x, x, lr=0.1, out=({"b": np.ones(3)},))


@pytest.mark.parametrize(
    "out, says",
    [
        (lambda p, g, m: ({"w": p["w"][:3]}, m), r"out\[0\] of 'w' is \(3,\) float64; wanted is \(6,\) float64, in C order and writable"),
        (lambda p, g, m: ({"w": np.zeros(12)[::2]}, m), r"out\[0\] of 'w' is \(6,\) float64; .* in C order"),
        (lambda p, g, m: ({"w": np.zeros(6, "f4")}, m), "float32; wanted is"),
        (lambda p, g, m: (g, m), r"out\[0\] of 'w' has memory in common with another array"),
        (lambda p, g, m: (m, p), "has memory in common with another array"),
        (lambda p, g, m: (p, p), "has memory in common with another array"),
        (lambda p, g, m: ({"w": m["room"][1:7]}, None), "has memory in common with another array"),
    ],
)
def test_results_that_cannot_go_there(out, says):
    for rung in kernels.ladder("momentum_step", "cpu"):
        room = np.arange(8.0)
        p, g, m = {"w": np.ones(6)}, {"w": np.ones(6)}, {"w": room[:6], "room": room}
        to = out(p, g, m)
        del m["room"]
        before = [x["w"].copy() for x in (p, g, m)]
        with pytest.raises(ValueError, match=says) as e:
            rung(p, g, m, lr=0.1, out=to)
        assert str(e.value).startswith("momentum_step on cpu: ")
        assert all(np.array_equal(x["w"], old) for x, old in zip((p, g, m), before, strict=True))


def test_single_arrays_go_where_they_are_told_too():
    for rung in kernels.ladder("momentum_step", "cpu"):
        p, g, m = np.arange(5.0), np.ones(5), np.ones(5)
        want = rung(p, g, m, lr=0.1)
        got = rung(p, g, m, lr=0.1, out=(p, None))
        assert got[0] is p and np.array_equal(p, want[0]) and np.array_equal(got[1], want[1]) and np.array_equal(m, np.ones(5))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("case", BY_NAME, ids=named)
def test_one_array_goes_where_it_is_told(case, known, monkeypatch):
    from kernels.cpu import table

    rung, dtype = case
    monkeypatch.setattr(table, "known", lambda: known)
    for layout in LAYOUTS:
        given, params = model(rung, dtype, 0, layout)
        want = name_by_name(rung, given, params)
        for name in given[0]:
            args, fences = [d[name] for d in given], []
            own = [fenced(x, fences) for x in (args[0], *args[2:])]
            old = args[1].copy()
            got = rung(own[0], args[1], *own[1:], **{**params, "weight_decay": params["weight_decay"][name]}, out=own)
            assert all(x is to and same_bits(x, w) for x, to, w in zip(got, own, want[name], strict=True)), name
            assert same_bits(args[1], old) and all(same_bits(x, before) for x, before in fences)


@pytest.mark.parametrize(
    "out, says",
    [
        (lambda p, g, m: (p[:3], m), r"out\[0\] is \(3,\) float64; wanted is \(6,\) float64, in C order and writable"),
        (lambda p, g, m: (np.zeros(12)[::2], m), r"out\[0\] is \(6,\) float64; .* in C order"),
        (lambda p, g, m: (np.zeros(6, "f4"), m), "float32; wanted is"),
        (lambda p, g, m: (np.broadcast_to(p[:1], 6), m), "writable"),
        (lambda p, g, m: (p, "m"), r"out\[1\]"),
        (lambda p, g, m: (p,), "out has 1 places for 2 results"),
        (lambda p, g, m: (g, m), r"out\[0\] has memory in common with another array"),
        (lambda p, g, m: (m, p), "has memory in common with another array"),
        (lambda p, g, m: (p, p), "has memory in common with another array"),
    ],
)
def test_results_of_one_array_that_cannot_go_there(out, says):
    for rung in kernels.ladder("momentum_step", "cpu"):
        p, g, m = np.ones(6), np.ones(6), np.arange(6.0)
        before = [x.copy() for x in (p, g, m)]
        with pytest.raises((ValueError, TypeError), match=says) as e:
            rung(p, g, m, lr=0.1, out=out(p, g, m))
        assert str(e.value).startswith("momentum_step on cpu: ")
        assert all(np.array_equal(x, old) for x, old in zip((p, g, m), before, strict=True))


@pytest.mark.parametrize("lr", [1, np.float64(0.5), np.float32(0.5), True])
def test_any_number_will_do_for_a_rate(lr):
    for rung in kernels.ladder("sgd_step", "cpu"):
        p = np.ones(3, "f4")
        assert np.array_equal(rung(p, np.ones(3, "f4"), lr=lr, out=(p,))[0], np.full(3, 1 - float(lr), "f4"))


def test_where_numpys_records_are_not_known_python_asks_for_each_array(monkeypatch):
    from kernels.cpu import table

    rng = np.random.default_rng(0)
    model = [{name: rng.random(shape).astype("f4") for name, shape in (("w", (3, 50)), ("b", 7), ("none", (0, 2)))} for _ in range(4)]
    step = kernels.serving("adam_step", "cpu")
    want = step(*model, lr=0.1, t=2)
    assert table.known(), "this NumPy is not as its header says, or the places are wrong: then steps of a model are slow"
    monkeypatch.setattr(table, "known", lambda: False)
    for got, w in zip(step(*model, lr=0.1, t=2), want, strict=True):
        assert all(same_bits(got[name], w[name]) for name in w)
    with pytest.raises(ValueError, match=r"g of 'b' is \(7,\) float64; wanted is \(7,\) float32"):
        step(model[0], {**model[1], "b": np.ones(7)}, *model[2:], lr=0.1, t=2)


def right_by_name(p, g, *, lr, weight_decay, out=None):
    if not isinstance(p, dict):
        return (p - lr * (g + weight_decay * p),)
    new = {name: np.asarray(p[name] - lr * (g[name] + weight_decay[name] * p[name])) for name in p}
    if out is None or out[0] is None:
        return (new,)
    for name, x in new.items():
        out[0][name][...] = x
    return (out[0],)


def forgets_the_last_name(p, g, **params):
    new = right_by_name(p, g, **params)[0]
    return ({**new, "row": p["row"]} if isinstance(p, dict) else new,)


def one_decay_for_all(p, g, *, weight_decay, **params):
    same = dict.fromkeys(p, weight_decay["w"]) if isinstance(p, dict) else weight_decay
    return right_by_name(p, g, weight_decay=same, **params)


def hands_back_what_has_no_elements(p, g, **params):
    new = right_by_name(p, g, **params)[0]
    return ({**new, "none": p["none"].astype("f8")} if isinstance(p, dict) else new,)


def spoils_the_gradient(p, g, **params):
    new = right_by_name(p, g, **params)
    if isinstance(p, dict):
        g["w"] *= 2.0
    return new


def ignores_where_to(p, g, *, out=None, **params):
    return right_by_name(p, g, **params)


def whole_vectors_only(p, g, *, out=None, **params):
    new = right_by_name(p, g, out=out, **params)
    if out is not None and out[0] is not None:
        x = out[0]["row"]
        np.lib.stride_tricks.as_strided(x, (1, 80))[0, 67:] = 0.0
    return new


@pytest.mark.parametrize("run", [forgets_the_last_name, one_decay_for_all, hands_back_what_has_no_elements, spoils_the_gradient])
def test_a_broken_rung_does_not_do_all_names(run):
    given, params = model(broken(right_by_name, op="sgd_step"), np.float32, 0)
    does_all_names_at_once(broken(right_by_name, op="sgd_step"), given, params)
    with pytest.raises(AssertionError):
        does_all_names_at_once(broken(run, op="sgd_step"), given, params)


@pytest.mark.parametrize("run", [ignores_where_to, whole_vectors_only, spoils_the_gradient])
def test_a_broken_rung_writes_elsewhere(run):
    given, params = model(broken(right_by_name, op="sgd_step"), np.float32, 0)
    writes_where_it_is_told_and_nowhere_else(broken(right_by_name, op="sgd_step"), given, params)
    with pytest.raises(AssertionError):
        writes_where_it_is_told_and_nowhere_else(broken(run, op="sgd_step"), given, params)
