"""Networks through the ordinary dispatch: what has a kernel runs on the emulator, all else by its definition; the results are the CPU's."""

import numpy as np
import pytest
import tally
from hypothesis import given, settings
from hypothesis import strategies as st
from laws_of_rungs import agrees, has_the_signature_of_its_op
from products import checked
from strategies import calls

import kernels
from engine import optim
from engine.models import cnn, mlp
from engine.reverse import value_and_grad
from engine.traced import OPS

pytestmark = pytest.mark.numba_cuda
EXACT_ENOUGH = {"rtol": 2e-4, "atol": 2e-6}  # float32: sums of some hundred terms, in another order


@pytest.mark.parametrize("op", ["dense", "dense_grad"])
@settings(max_examples=max(5, settings().max_examples * 2 // 5))  # to compile takes seconds
@given(data=st.data())
def test_a_layer_agrees_with_its_definition(op, data):
    rung = kernels.serving(op, "cuda")
    args, params = data.draw(calls(OPS[op]))
    with checked():
        agrees(rung, data.draw(st.sampled_from(["float32", "float64"])), args, params)
    has_the_signature_of_its_op(rung)
    tally.ran("cuda", "a rung agrees")


def trained(loss, params, x, t):
    """The loss, its gradient, and the parameters after a step, of an optimiser that does not divide by what may be rounding alone."""
    value, grads = value_and_grad(loss)(params, x, t)
    step = optim.Momentum(lr=1e-2)
    after, _ = step.step(params, grads, step.init(params))
    return value, grads, after


@pytest.fixture
def launched(monkeypatch):
    """The files of `kernels.cuda` whose kernels the emulator ran."""
    from kernels.cuda.launch import Emulated

    found, run = set(), Emulated.run

    def noted(self, launch):
        found.add(launch.function.__module__.rsplit(".", 1)[-1])
        run(self, launch)

    monkeypatch.setattr(Emulated, "run", noted)
    return found


@pytest.mark.parametrize(
    "loss, params, files",
    [
        (mlp.loss, mlp.init(0, (784, 30, 20, 10)), {"dense", "matmul"}),
        (cnn.loss_classic, cnn.init_classic(0), {"conv", "dense", "matmul"}),
    ],
    ids=["mlp", "lenet5_classic"],
)
def test_a_network_learns_on_the_emulator_what_it_learns_on_the_cpu(launched, loss, params, files):
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(4, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 4)
    with kernels.use("cpu"):
        want = trained(loss, params, x, t)
    assert not launched
    with kernels.use("cuda", device="emulated"):
        got = trained(loss, params, x, t)
    assert files <= launched
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for mine, theirs in zip(got[1:], want[1:], strict=True):
        assert mine.keys() == theirs.keys()
        for key in theirs:
            np.testing.assert_allclose(mine[key], theirs[key], err_msg=key, **EXACT_ENOUGH)
    tally.ran("cuda", "a network on the emulator")


def test_an_op_without_a_kernel_on_cuda_runs_its_definition(launched):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    op = OPS["max_pool2d_with_indices"]
    assert op.name not in kernels.ops("cuda")
    with kernels.use("cuda", device="emulated"):
        y = op(x, kernel_size=2)[0]
    np.testing.assert_array_equal(y, x.reshape(2, 3, 2, 2, 2, 2).max(axis=(3, 5)))
    assert not launched
    with pytest.raises(kernels.MissingKernel, match=op.name), kernels.use("cuda", device="emulated", require=(op.name,)):
        pass
