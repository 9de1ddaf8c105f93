"""A network of codes in one compiled call has the codes of its layers, on every tier; and a plan that is wrong in one number is caught."""

import copy
import gc
import threading
from dataclasses import replace

import numpy as np
import pytest
from alone import ROOT, on_tier, run_alone
from hypothesis import given
from hypothesis import strategies as st
from large_cases import LARGE
from test_freed_memory import WRITES_OVER
from test_integer import lenet, pictures, residual, whole, zero_point

import kernels
from engine import ops
from engine.op import ShapeError
from engine.ops.chain import COMPUTED, Call, Chain, drawn_codes, drawn_conv, drawn_dense, network_codes
from engine.quantise.integer import Codes, Conv, Dense, Flatten, MaxPool, Network, Requantise
from engine.quantise.rules import RULES

if "cpu" not in kernels.backends():
    pytest.skip("no kernels", allow_module_level=True)

from kernels.cpu import network as kernel
from kernels.cpu import network_plan as plan
from kernels.cpu.network_tile import SIZE
from kernels.cpu.requantise import FP32, ONCE


@st.composite
def networks(draw):
    """A network, and codes for it: convolutions, pools and products of any geometry, under any rules."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds, rules = st.sampled_from(["uint8", "int8"]), st.sampled_from(list(RULES))

    def codes():
        kind = draw(kinds)
        return Codes(float(rng.uniform(0.01, 0.1)), zero_point(rng, kind), kind)

    def weighted(kind, name, x, w, axis, **geometry):
        scale = rng.uniform(0.001, 0.01, w.shape[axis]).astype(np.float32)
        y = codes()
        y = replace(y, scale=float(x.scale * scale.mean() * 150 * np.sqrt(w.size / w.shape[axis])))
        bias = rng.integers(-20_000, 20_000, w.shape[axis]).astype(np.int32)
        to = Requantise.between(x, scale, y, rule=draw(rules), relu=draw(st.booleans()))
        layers.append(kind(name, w, bias, to, x.zero_point, **geometry))
        return y

    layers, x = [], codes()
    first, (c, h, w) = x, (draw(st.integers(1, 9)), draw(st.integers(1, 15)), draw(st.integers(1, 15)))
    batch = whole(rng, (draw(st.sampled_from([0, 1, 7, 64])), c, h, w), x.dtype)
    for i in range(draw(st.integers(0, 3))):
        kernel, around = (draw(st.integers(1, 4)), draw(st.integers(1, 3))), draw(st.sampled_from([0, 1, (2, 0), ((0, 2), (1, 0))]))
        geometry = {
            "stride": draw(st.sampled_from([1, 1, 2, (1, 3)])),
            "padding": around,
            "dilation": draw(st.sampled_from([1, 1, 2, (2, 1)])),
        }
        groups = draw(st.sampled_from([g for g in (1, 1, 2, 3) if c % g == 0]))
        filters = groups * draw(st.sampled_from([1, 2, 3, 5, 6, 11, 16, 33]))
        try:
            shape = ops.conv2d.infer([(1, c, h, w), (filters, c // groups, *kernel)], {**geometry, "groups": groups})[0]
        except ShapeError:
            break
        x = weighted(Conv, f"conv{i}", x, whole(rng, (filters, c // groups, *kernel), np.int8), 0, groups=groups, **geometry)
        (c, h, w), pool = shape[1:], draw(st.sampled_from([None, 2, 2, 3, (2, 1)]))
        if pool and min(h, w) >= 3:
            stride, around = draw(st.sampled_from([None, None, 1, 2])), draw(st.sampled_from([0, 0, (1, 0)]))
            layers.append(MaxPool(f"pool{i}", pool, stride, around))
            _, c, h, w = layers[-1].call().shape((1, c, h, w))
    if draw(st.booleans()) or not layers:
        layers.append(Flatten("flat"))
        for i, m in enumerate(draw(st.lists(st.sampled_from([1, 10, 16, 40]), max_size=2))):
            x, (c, h, w) = weighted(Dense, f"fc{i}", x, whole(rng, (c * h * w, m), np.int8), 1), (m, 1, 1)
    return Network(first, x, tuple(layers)), batch


@given(networks())
def test_a_network_has_the_codes_of_its_layers(drawn):
    network, x = drawn
    wanted = network.values(x)[network.layers[-1].name]
    with kernels.use("cpu"):
        got = network.run(x)
    assert got.dtype == wanted.dtype and np.array_equal(got, wanted)
    numbers = np.random.default_rng(0).normal(0, 60 * network.input.scale, x.shape)
    with kernels.use("cpu"):
        floats = network(numbers)
    assert floats.dtype == np.float32 and np.array_equal(floats, network(numbers))


def test_one_compiled_call_serves(monkeypatch):
    network, x = lenet(), pictures("uint8", 5)
    wanted = network.run(x)

    def refuse(*_, **__):
        raise AssertionError("call by call")

    monkeypatch.setattr(kernel, "SERVING", dict.fromkeys(COMPUTED, refuse))
    with kernels.use("cpu"):
        assert np.array_equal(network.run(x), wanted)
        assert np.array_equal(network(network.input.dequantise(x)), network.output.dequantise(wanted))
        for view in (x[::-1], x.transpose(0, 1, 3, 2), np.broadcast_to(x[:1], x.shape)):
            assert np.array_equal(network.run(view), by_layers(network, view))


def by_layers(network, x):
    with kernels.use(None):
        return network.run(x)


def test_many_filters_in_groups_run_call_by_call():
    rng = np.random.default_rng(0)
    for filters, wanted in ((32, True), (36, False)):
        x = drawn_codes(rng, (3, 4, 9, 8), "int8")
        chain = Chain((drawn_conv(rng, x.shape, filters, (3, 3), "int8", "fp32", groups=4, padding=1), Call("flatten")))
        assert (kernel.plan_of(chain, x) is not None) == wanted
        out = np.empty(chain.shape(x.shape), chain.calls[0].params["dtype"])
        assert kernel.one_call(x, chain=chain, out=out) is out
        assert np.array_equal(out, network_codes.definition(x, chain=chain))


@pytest.mark.parametrize("make", [residual, lambda: asymmetric(lenet())])
def test_what_has_no_form_runs_layer_by_layer(make):
    network = make()
    x = pictures("uint8", 3, (3, 8, 8) if make is residual else (1, 28, 28))
    assert network._chains is None
    with kernels.use("cpu"):
        got = network.run(x)
    assert np.array_equal(got, network.run(x))


def asymmetric(network):
    first, *others = network.layers
    return replace(network, layers=(replace(first, w_zero_point=np.arange(6, dtype=np.int32)), *others))


def test_no_numbers_and_nan_are_as_without_kernels():
    network = lenet()
    with kernels.use("cpu"):
        assert network(np.zeros((0, 1, 28, 28))).shape == (0, 10)
        with pytest.raises(ValueError, match="1 of 784 numbers are nan"):
            network(np.where(np.arange(784) == 5, np.nan, 0.5).reshape(1, 1, 28, 28))
        edge = np.full((1, 1, 28, 28), np.inf)
        assert np.array_equal(network(edge), network.output.dequantise(by_layers(network, network.input.quantise(edge))))


def test_what_does_not_fit_is_named():
    network = lenet()
    with kernels.use("cpu"):
        with pytest.raises(ShapeError, match=r"network_codes: call 1, conv2d_codes of \(1, 2, 28, 28\): x has 2 channels"):
            network.run(np.zeros((1, 2, 28, 28), np.uint8))
        with pytest.raises(ShapeError, match=r"network_codes: call 4, matmul_codes of \(1, 144\): .*400"):
            network.run(np.zeros((1, 1, 20, 20), np.uint8))
        with pytest.raises(TypeError, match="reads codes of uint8"):
            network.run(np.zeros((1, 1, 28, 28), np.int8))
        with pytest.raises(TypeError, match="begins with conv2d_codes, and the array is float32"):
            network_codes(np.zeros((1, 1, 28, 28), np.float32), chain=network._chains[0])
    with pytest.raises(ValueError, match="one call or more"):
        Chain(())
    with pytest.raises(ValueError, match="no call of 'tanh'"):
        Chain((Call("tanh"),))
    w, *by = network._chains[0].calls[0].arrays
    with pytest.raises(TypeError, match="these are int16, int32"):
        Chain((Call("conv2d_codes", (w.astype(np.int16), *by), {"rule": "fp32"}),))


HERE = f"""
    import sys
    sys.path.insert(0, {str(ROOT / "tests")!r})
"""
TIERS = """
    import numpy as np
    import engine
    from engine.domain import Pick
    from engine.ops.chain import network_codes
    from kernels.cpu import network as kernel
    from large_cases import LARGE
    done = 0

    def agrees(args, params):
        global done
        done += kernel.plan_of(params["chain"], args[0]) is not None
        assert np.array_equal(kernel.one_call(*args, **params), network_codes.definition(*args, **params)), params

    for seed in range(150):
        agrees(*network_codes.sampler(Pick(np.random.default_rng(seed))))
    for seed, draw in enumerate(LARGE["network_codes"]):
        args, params = draw(np.random.default_rng(seed))
        agrees([args[0][:9]], params)
    assert done > 130, done
"""


@pytest.mark.parametrize("tier", ["generic", "avx2", "avx512", "amx"])
def test_each_tier_has_the_codes_of_the_definition(tier):
    on_tier(tier, HERE + TIERS)


def test_a_plan_goes_with_its_network():
    network, x = lenet(), pictures("uint8", 2)
    with kernels.use("cpu"):
        network.run(x)
    place = id(network._chains[0])
    assert place in kernel.plans
    del network
    gc.collect()
    assert place not in kernel.plans


COPIES = """
    import copy, gc, pickle
    import numpy as np
    import kernels
    from test_integer import lenet, pictures
    network, x = lenet(), pictures("uint8", 3)
    wanted = network.run(x)
    with kernels.use("cpu"):
        assert np.array_equal(network.run(x), wanted)
        for copied in (copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))):
            network = copied(network)
            gc.collect()
            for _ in range(3):
                assert np.array_equal(network.run(x), wanted)
"""


def test_a_copy_has_a_plan_of_its_own_where_freed_memory_is_written_over():
    done = run_alone(HERE + COPIES, **WRITES_OVER)
    assert done.returncode == 0, done.stderr


def test_many_python_threads_may_run_a_network_at_once():
    network, x, found = lenet(), pictures("uint8", 30), []
    wanted = network.run(x)

    def work():
        with kernels.use("cpu"):
            found.extend(np.array_equal(network.run(x[:n]), wanted[:n]) for n in (30, 1, 13, 30))

    crowd = [threading.Thread(target=work) for _ in range(5)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(timeout=60)
    assert found == [True] * 20


# Tests of the tests: plans that are wrong in one number.


def set_to(kind, column, change):
    def mutate(lines):
        rows = lines[1:, plan.KIND] == kind
        lines[1:][rows, column] = [change(value) for value in lines[1:][rows, column]]

    return mutate


WRONG = {
    "a border of 0": set_to(plan.EDGE, plan.VALUE, lambda _: 0),
    "a border of half the pictures": set_to(plan.EDGE, plan.PICTURE, lambda size: size // 2),
    "another zero point": set_to(plan.PRODUCTS, plan.ZERO, lambda zero: zero ^ 1),
    "no relu": set_to(plan.PRODUCTS, plan.LOW, lambda _: 0),
    "another rule": set_to(plan.PRODUCTS, plan.RULE, lambda rule: ONCE if rule == FP32 else FP32),
    "a filter less": set_to(plan.PRODUCTS, plan.FILTERS, lambda filters: filters - 1),
    "a word less": set_to(plan.PRODUCTS, plan.WORDS, lambda words: words - 1),
    "a pixel less": set_to(plan.PRODUCTS, plan.PIXELS, lambda pixels: pixels - 1),
    "no pool": set_to(plan.PRODUCTS, plan.POOLED, lambda _: 0),
    "codes a cell to the right": set_to(plan.PRODUCTS, plan.TARGET, lambda at: at + SIZE),
    "a window a row shorter": set_to(plan.POOL, plan.KERNEL, lambda rows: rows - 1),
    "as it should be": lambda lines: None,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_plan_that_is_wrong_in_one_number_is_caught(name, monkeypatch):
    rng, planned = np.random.default_rng(3), kernel.planned

    def mutated(chain, x):
        found = planned(chain, x)
        WRONG[name](found.lines)
        return found

    monkeypatch.setattr(kernel, "planned", mutated)
    x, around = drawn_codes(rng, (40, 3, 21, 20), "int8"), {"padding": ((2, 1), (1, 2))}
    calls = [drawn_conv(rng, x.shape, 18, (3, 3), "int8", "fp32", pool=2, **around)]
    calls.append(Call("max_pool2d", (), {"kernel_size": 3, "stride": 2, "padding": 1}))
    shape = calls[1].shape(calls[0].shape(x.shape))
    calls.append(drawn_conv(rng, shape, 7, (2, 2), calls[0].params["dtype"], "q31-double", **around))
    calls += [Call("flatten"), drawn_dense(rng, int(np.prod(calls[2].shape(shape)[1:])), 19, calls[2].params["dtype"], "pow2")]
    relu = {"zero_point": 20, "low": 20, "high": 120}
    calls = [Call(c.op, c.arrays, {**c.params, **relu} if c.arrays else c.params) for c in calls]
    wrong = 0
    for last in (1, 2, 3, 5):  # each layer may be the last: later ones may hide what is wrong
        chain = Chain(tuple(calls[:last]))
        wrong += not np.array_equal(kernel.one_call(x, chain=chain), network_codes.definition(x, chain=chain))
    assert (wrong == 0) == (name == "as it should be")


def test_large_cases_have_a_plan():
    found = [
        kernel.plan_of(params["chain"], args[0]) for args, params in (draw(np.random.default_rng(0)) for draw in LARGE["network_codes"])
    ]
    assert None not in found
    assert copy.copy(found[0]).lines is found[0].lines
