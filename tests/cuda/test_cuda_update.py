"""Steps of optimisers on CUDA equal their definitions, on the emulator with all checks on; their bytes are counted; mutants are caught."""

from functools import partial

import numpy as np
import pytest
import tally
from broken import broken, caught, doubles
from hypothesis import given
from hypothesis import strategies as st
from laws_of_rungs import agrees, has_the_signature_of_its_op, leaves_alone, one_serves, same_bits
from products import checked
from strategies import LAYOUTS, laid_out

import kernels
from engine.traced import OPS
from kernels.registry import ladder
from kernels.steps import OPTIMISERS

pytestmark = pytest.mark.numba_cuda
SHAPES = [(0,), (), (1,), (5, 7), (257,), (3, 0), (2, 3, 4), (1023,), (4100,)]
MODEL = {"w": (5, 7), "b": (), "none": (0, 3), "long": (4103,), "k": (2, 3, 4, 6)}
ARRAYS = {"sgd_step": 3, "momentum_step": 5, "nesterov_step": 5, "adagrad_step": 5, "rmsprop_step": 5, "adam_step": 7, "adamw_step": 7}
IN_ORDER = {**ARRAYS, "momentum_step": 6, "nesterov_step": 7, "adagrad_step": 7, "rmsprop_step": 7, "adam_step": 11, "adamw_step": 11}


def hyper(name):
    params = {**OPS[name].defaults, "lr": 0.01, "weight_decay": 0.1}
    return {**params, "t": 3} if "adam" in name else params


def arguments(name, shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    args = [np.asarray(rng.normal(size=shape), dtype) for _ in OPS[name].args]
    return [np.square(x) if a == "v" else x for a, x in zip(OPS[name].args, args, strict=True)]


def model(name, dtype, shapes=MODEL):
    """Dicts of arrays for each argument, and a weight decay for each name."""
    drawn = {key: arguments(name, shape, dtype, seed) for seed, (key, shape) in enumerate(shapes.items())}
    given = [{key: np.asarray(args[i]) for key, args in drawn.items()} for i in range(len(OPS[name].args))]
    return given, {**hyper(name), "weight_decay": {key: 0.1 * (len(key) % 2) for key in shapes}}


@pytest.mark.parametrize("step", [2, 3, 4, 5])
@given(shape=st.sampled_from(SHAPES), layout=st.sampled_from(LAYOUTS))
def test_a_rung_agrees(step, shape, layout):
    rung, args = ladder("momentum_step", "cuda")[step - 1], arguments("momentum_step", shape, np.float32)
    args = [laid_out(x, layout) for x in args]
    with checked():
        leaves_alone(rung, args, hyper("momentum_step"))
        agrees(rung, "float32", args, hyper("momentum_step"))
    tally.ran("cuda", "a rung agrees")


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_agrees_and_its_bytes_are_those_of_its_arrays(name):
    """In single precision throughout; 28 bytes a parameter for Adam, exactly, from the rung on that reads first; more where it does not."""
    from kernels.cuda.launch import on

    n = 1024
    args = arguments(name, n, np.float32)
    for rung in ladder(name, "cuda")[1:]:
        with on("emulated", checks=True, counters=True) as device:
            agrees(rung, "float32", args, hyper(name))
        (launch,) = device.launches
        arrays = IN_ORDER[name] if rung.step == 2 else ARRAYS[name]
        assert launch.report.counts.l2_bytes() == 4 * arrays * n
        assert launch.report.counts.useful_share() == 1.0
        assert not doubles(launch)
        tally.ran("cuda", "a rung agrees")
    assert ARRAYS["adam_step"] * 4 == 28


def test_a_launch_for_each_operation():
    from kernels.cuda.launch import on

    name = "adam_step"
    args = arguments(name, (3, 40), np.float32)
    with on("emulated", checks=True, counters=True) as device:
        agrees(ladder(name, "cuda")[0], "float32", args, hyper(name))
    assert len(device.launches) == 15
    assert not any(doubles(launch) for launch in device.launches)


def test_a_step_agrees_in_double_precision():
    from kernels.cuda.launch import on

    args = arguments("adam_step", 1024, np.float64)
    with on("emulated", checks=True, counters=True) as device:
        agrees(kernels.serving("adam_step", "cuda"), "float64", args, hyper("adam_step"))
    assert device.launches[0].report.counts.l2_bytes() == 56 * 1024


@pytest.mark.parametrize("name", OPTIMISERS)
def test_one_rung_serves_and_all_have_the_signature_of_the_op(name):
    one_serves(ladder(name, "cuda"))
    for rung in ladder(name, "cuda"):
        has_the_signature_of_its_op(rung)


@pytest.mark.parametrize("name, dtype", [("adam_step", "float32"), ("sgd_step", "float64")])
def test_one_launch_does_what_a_call_for_each_name_does(name, dtype):
    """To the bit, in new arrays and in place; and nothing else is written."""
    from kernels.cuda.launch import on

    given, params = model(name, dtype)
    rung = kernels.serving(name, "cuda")
    before = [{key: x.copy() for key, x in d.items()} for d in given]
    with on("emulated", checks=True, counters=True) as device:
        got = rung.run(*given, **params)
        assert len(device.launches) == 1
        for key in MODEL:
            want = rung.run(*[d[key] for d in given], **{**params, "weight_decay": params["weight_decay"][key]})
            assert all(same_bits(new[key], w) and new[key].shape == w.shape for new, w in zip(got, want, strict=True)), key
        assert all(same_bits(d[key], old[key]) for d, old in zip(given, before, strict=True) for key in d)
        out = (given[0], *given[2:])
        assert rung.run(*given, **params, out=out) == out
    assert all(same_bits(new[key], to[key]) for new, to in zip(got, out, strict=True) for key in MODEL)
    assert all(same_bits(given[1][key], before[1][key]) for key in MODEL)
    tally.ran("cuda", "all names at once")


def test_what_a_table_costs_is_a_closed_form():
    """Of each chunk: a line of the table of chunks, 7 addresses, 9 numbers; 160 bytes where these begin at sectors."""
    from kernels.cuda.launch import on

    given, params = model("adam_step", np.float32, {"a": (4096,), "b": (8192,)})
    with on("emulated", counters=True) as device:
        kernels.serving("adam_step", "cuda").run(*given, **{**params, "weight_decay": 0.0})
    moved = device.launches[0].report.counts.l2_bytes() - 28 * 12288
    assert 3 * (32 + 64 + 64) <= moved <= 3 * (32 + 96 + 64)


def test_a_model_without_parameters():
    with checked():
        assert kernels.serving("sgd_step", "cuda")({}, {}, lr=0.1) == ({},)


@pytest.mark.parametrize("step", [3, 5])
def test_arrays_that_begin_anywhere(step):
    """Views into one array, in place: they begin at no word, so numbers are taken one by one."""
    room = np.random.default_rng(0).normal(size=400).astype(np.float32)
    want = room.copy()
    p, g = room[1:102], room[203:304]
    want[1:102] -= np.float32(0.1) * g
    with checked():
        got = ladder("sgd_step", "cuda")[step - 1].run({"p": p}, {"p": g}, lr=0.1, out=({"p": p},))
    assert got[0]["p"] is p
    np.testing.assert_allclose(room, want, rtol=1e-6)


@pytest.mark.parametrize(
    "out, says",
    [
        (lambda p, g, m: (p[:3], m), r"out\[0\] is \(3,\) float64; wanted is \(6,\) float64, in C order and writable"),
        (lambda p, g, m: (np.zeros(12)[::2], m), "in C order"),
        (lambda p, g, m: (np.zeros(6, "f4"), m), "float32; wanted is"),
        (lambda p, g, m: (p,), "out has 1 places for 2 results"),
        (lambda p, g, m: (g, m), r"out\[0\] has memory in common with another array"),
        (lambda p, g, m: (m, p), "has memory in common with another array"),
        (lambda p, g, m: (p, p), "has memory in common with another array"),
    ],
)
def test_results_that_cannot_go_there(out, says):
    p, g, m = np.ones(6), np.ones(6), np.arange(6.0)
    with checked(), pytest.raises(ValueError, match=says):
        kernels.serving("momentum_step", "cuda")(p, g, m, lr=0.1, out=out(p, g, m))
    assert np.array_equal(m, np.arange(6.0))


def narrow(format, x):
    from kernels.cuda.intrinsics import bfloat16_twin

    return x.astype(np.float16) if format == "float16" else bfloat16_twin(x)


def wide(format, x):
    from kernels.cuda.intrinsics import from_bfloat16_twin

    return x.astype(np.float32) if format == "float16" else from_bfloat16_twin(x)


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_parameters_in_16_bits(format):
    """The step is that of float32 on the masters; p is what they round to; 28 bytes a parameter for Adam, here too."""
    from kernels.cuda.launch import on
    from kernels.cuda.update import mixed

    given, params = model("adam_step", np.float32, {**MODEL, "whole": (4096,)})
    given[1] = {key: np.asarray(narrow(format, g)) for key, g in given[1].items()}
    with on("emulated", checks=True, counters=True) as device:
        got = mixed("adam_step", format)(*given, **params)
    for key in given[0]:
        args = [given[0][key], wide(format, given[1][key]), given[2][key], given[3][key]]
        want = OPS["adam_step"].definition(*[x.astype(float) for x in args], **{**params, "weight_decay": params["weight_decay"][key]})
        for new, w in zip(got, want, strict=False):
            np.testing.assert_allclose(new[key], w, rtol=2e-5, atol=1e-6)
        assert same_bits(got[3][key], np.asarray(narrow(format, got[0][key]))) and got[3][key].dtype == given[1][key].dtype
    assert not doubles(device.launches[0])
    one = {key: {"whole": d["whole"]} for key, d in enumerate(given)}
    with on("emulated", counters=True) as device:
        mixed("adam_step", format)(*one.values(), **{**params, "weight_decay": 0.0})
    assert 28 * 4096 <= device.launches[0].report.counts.l2_bytes() <= 28 * 4096 + 192
    tally.ran("cuda", "a step in 16 bits")


def test_bfloat16_and_its_twin():
    """Ties go to the even one; infinities and nan stay."""
    from kernels.cuda import intrinsics as of
    from kernels.cuda.launch import launch

    to, back, half, from_half = of.bfloat16, of.from_bfloat16, of.half, of.from_half
    from numba import cuda

    u = np.uint32

    def kernel(x, y, z, w):
        t = u(cuda.threadIdx.x)
        y[t] = to(x[t])
        z[t] = back(y[t])
        w[t] = from_half(half(x[t]))

    x = np.random.default_rng(0).normal(size=32).astype(np.float32)
    x[:7] = [np.inf, -np.inf, np.nan, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 3e38, 1e-40]
    y, z, w = np.zeros(32, np.uint16), np.zeros(32, np.float32), np.zeros(32, np.float32)
    with checked():
        launch(kernel, (1,), (32,), x, y, z, w, writes=[y, z, w])
    np.testing.assert_array_equal(y, of.bfloat16_twin(x))
    np.testing.assert_array_equal(z, of.from_bfloat16_twin(y))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(w, of.from_half_twin(of.half_twin(x)))
    assert z[3] == 1 and z[4] == 1 + 2.0**-6


def test_a_format_that_is_not_there():
    from kernels.cuda.update import mixed

    with pytest.raises(ValueError, match="one of float16, bfloat16; given 'float8'"):
        mixed("adam_step", "float8")


LAST_OF_SGD = "new_p[i] = p[i] - lr * (g[i] + decay * p[i])\n\n\ndef momentum_in_order"
MUTANTS = [
    ("the guard of the last number", "if u(i + u(e)) < n:", "if u(i + u(e)) <= n:", "bounds"),
    ("the guard of a word", "if whole and u(i + u(wide - 1)) < n:", "if whole:", "bounds"),
    ("the barrier before the table is read", "start, end\n        cuda.syncthreads()", "start, end", "race"),
    ("what a chunk begins with", "same[t] = numbers[u(group * u(count) + t)]", "same[t] = numbers[t]", "definition"),
    ("an address of the table", "where[t] = places[u(line * u(slots) + t)]", "where[t] = places[u(line * u(slots) + t + u(1))]", "bounds"),
    ("an address that nobody looked up", "if t < u(slots):", "if t < u(slots - 1):", "uninitialised"),
    ("a double as a literal", LAST_OF_SGD, LAST_OF_SGD.replace("lr *", "1.1 * lr *"), "double"),
    ("nothing", "THREADS = 256", "THREADS = 256", "nothing"),
]  # fmt: skip


@pytest.mark.parametrize("case", MUTANTS, ids=lambda case: case[0])
def test_a_broken_step_is_caught(case):
    from kernels.cuda import update

    _, old, new, catches = case
    changed = broken(update, old, new)
    sgd = OPTIMISERS["sgd_step"]
    fused = changed.in_turn(changed.launched(partial(changed.in_order, "sgd_step")))
    step = sgd.stepped(fused if catches == "double" else changed.together(sgd))
    room = np.random.default_rng(0).normal(size=200).astype(np.float32)
    p = {key: room[1 + 70 * i : 1 + 70 * i + n] for i, (key, n) in enumerate({"a": 35, "c": 59}.items())}
    g = {key: np.random.default_rng(i).normal(size=x.size).astype(np.float32) for i, (key, x) in enumerate(p.items())}
    decay = {"a": 0.1, "c": 0.3}
    want = {key: p[key] - 0.5 * (g[key] + decay[key] * p[key]) for key in p}

    def run():
        return step(p, g, lr=0.5, weight_decay=decay, out=(p,))[0]

    def right(got):
        return all(np.allclose(got[key], want[key], rtol=1e-5, atol=1e-6) for key in p)

    assert caught(run, right) == catches
    tally.ran("cuda", "a mutant is caught")


@pytest.mark.parametrize("whole, catches", [("at_words(reads) and at_words(writes))", "nothing"), ("True)", "alignment")])
def test_words_are_for_arrays_that_begin_at_them(whole, catches):
    """Two views into one array, the second a number further on: on a device both cannot begin at a word."""
    from kernels import steps
    from kernels.cuda import update
    from kernels.cuda.launch import launch

    changed = broken(update, "n, at_words(reads) and at_words(writes))", f"n, {whole}")
    room = np.random.default_rng(0).normal(size=36).astype(np.float32)
    p, g, numbers = room[:35], room[1:], (np.float32(0.5), np.float32(0.1))

    def run():
        new = np.zeros(35, np.float32)
        launch(changed.word_a_thread(steps.sgd, 2, 4), (1,), (32,), (p, g), (new,), numbers, np.uint32(35), writes=[new])
        return new

    assert caught(run, lambda new: np.allclose(new, p - 0.5 * (g + 0.1 * p), rtol=1e-5)) == catches
    tally.ran("cuda", "a mutant is caught")
