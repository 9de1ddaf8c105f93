"""`check_module`: a right model passes in every parameter, a broken one fails in those that the fault reaches, by name."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import tally

from engine import nets, op, ops
from engine.testing import FAIL, INCONCLUSIVE, PASS, GradientError
from engine.testing.module import check_module

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(6, 5)).astype(np.float32)
PICTURES = RNG.normal(size=(4, 1, 8, 8)).astype(np.float32)
LABELS = RNG.integers(0, 3, 6)


def broken_relu():
    @op("... -> ...")
    def relu_with_a_fault(x):
        r"""$y = \max(x, 0)$"""
        return np.maximum(x, 0)

    @relu_with_a_fault.slope("x")
    def _(x):
        r"""dy/dx = ?"""
        return ops.where(np.asarray(x > 0), 0.9, 0.0)

    return nets.function(relu_with_a_fault)


# Nets of this engine.


def test_a_net_passes_in_every_parameter():
    net = nets.serial(
        nets.conv(3, 3, padding=1), nets.relu, nets.max_pool(2), nets.batch_norm(), nets.flatten, nets.dense(7), nets.gelu, nets.dense(3)
    )
    report = check_module(net, PICTURES)
    assert report.verdict == PASS and report, report.explain()
    params, _ = net.init(0, (1, 8, 8))
    assert list(report.parameters) == list(params)
    assert set(report.parameters.values()) == {PASS}
    assert "conv1/w" in report.explain() and json.loads(json.dumps(report.as_dict()))["verdict"] == PASS
    report.raise_if_failed()


def test_a_net_in_training_draws_the_same_numbers_each_time():
    net = nets.serial(nets.dense(9), nets.batch_norm(), nets.tanh, nets.dropout(0.5), nets.dense(3))
    report = check_module(net, ROWS, train=True, seed=3, loss=lambda z: ops.cross_entropy(z, LABELS))
    assert report.verdict == PASS, report.explain()


def test_a_fault_is_found_in_the_parameters_below_it(scratch_ops):
    net = nets.serial(nets.dense(8), broken_relu(), nets.dense(3))
    report = check_module(net, ROWS)
    assert report.verdict == FAIL and not report
    assert report.failed == [name for name in report.parameters if name.startswith("dense1")]
    assert "FAIL" in report.explain() and "they differ by" in report.explain()
    with pytest.raises(GradientError, match="dense1/w"):
        report.raise_if_failed()


def test_parameters_of_ones_own_and_a_function():
    params = {"w": RNG.normal(size=(5, 2)), "b": np.zeros(2, np.float32)}
    report = check_module(lambda p, x: np.tanh(x @ p["w"] + p["b"]), ROWS, params=params)
    assert report.verdict == PASS and list(report.parameters) == ["w", "b"]


def test_a_model_without_parameters_has_no_verdict():
    assert check_module(nets.relu, ROWS).verdict == INCONCLUSIVE


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="params="):
        check_module(lambda p, x: x, ROWS)


# Modules of PyTorch.


@pytest.fixture
def torch():
    if not find_spec("torch"):
        tally.not_run("torch is not installed")
        pytest.skip("torch is not installed")
    import torch

    torch.manual_seed(0)
    return torch


def torch_net(torch, middle):
    return torch.nn.Sequential(torch.nn.Linear(5, 9), middle, torch.nn.Dropout(0.3), torch.nn.BatchNorm1d(9), torch.nn.Linear(9, 3))


@pytest.mark.parametrize("kind", ["ReLU", "Tanh", "GELU", "Hardtanh", "LeakyReLU", "Hardswish", "SELU", "Softplus", "ReLU6"])
@pytest.mark.parametrize("train", [True, False])
def test_a_module_passes_in_every_parameter(torch, kind, train):
    module = torch_net(torch, getattr(torch.nn, kind)())
    before = {name: t.clone() for name, t in module.state_dict().items()}
    target = torch.as_tensor(LABELS)
    report = check_module(module, torch.as_tensor(ROWS), train=train, loss=lambda z: torch.nn.functional.cross_entropy(z, target))
    assert report.verdict == PASS, report.explain()
    assert list(report.parameters) == [name for name, _ in module.named_parameters()]
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items()) and module[0].weight.dtype == torch.float32


@pytest.mark.parametrize("seed", range(3))
def test_a_convolutional_module_with_pools_passes(torch, seed):
    torch.manual_seed(seed)
    nn = torch.nn
    first, last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
    module = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), last, nn.ReLU6(), nn.AdaptiveMaxPool2d(1))
    report = check_module(module, PICTURES, seed=seed)
    assert report.verdict == PASS, report.explain()


def test_attention_and_recurrence_pass(torch):
    class Reader(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(10, 8)
            self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.cell = torch.nn.LSTM(8, 4, batch_first=True)

        def forward(self, ids):
            return self.cell(self.layer(self.table(ids)))[0]

    report = check_module(Reader(), np.array([[1, 4, 2], [0, 4, 9]]), train=True, directions=1, coordinates=2)
    assert report.verdict == PASS, report.explain()
    assert "cell.weight_hh_l0" in report.parameters


def broken(torch, factor):
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.tanh(x)

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return factor * g * (1 - torch.tanh(x) ** 2)

    class Middle(torch.nn.Module):
        def forward(self, x):
            return Scaled.apply(x)

    return Middle()


@pytest.mark.parametrize("factor", [1.001, -1.0, 0.0])
def test_a_wrong_function_of_ones_own_is_found_in_the_parameters_below_it(torch, factor):
    report = check_module(torch_net(torch, broken(torch, factor)), ROWS, train=True)
    assert report.failed == ["0.weight", "0.bias"], report.explain()
    assert {report.parameters[name] for name in ("3.weight", "3.bias", "4.weight", "4.bias")} == {PASS}


def test_a_gradient_that_was_cut_off_is_found(torch):
    class Cut(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(5, 5), torch.nn.Linear(5, 2)

        def forward(self, x):
            return self.b(self.a(x).detach())

    report = check_module(Cut(), ROWS)
    assert report.failed == ["a.weight", "a.bias"] and report.parameters["b.weight"] == PASS


def test_frozen_parameters_are_no_parameters_and_unused_ones_have_gradient_zero(torch):
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = torch.nn.Linear(5, 2), torch.nn.Linear(5, 2)
            self.used.bias.requires_grad_(False)

        def forward(self, x):
            return self.used(x)

    report = check_module(Holder(), ROWS)
    assert report.parameters == {"used.weight": PASS, "idle.weight": PASS, "idle.bias": PASS}


def test_a_weight_that_is_used_twice_is_one_parameter(torch):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = torch.nn.Linear(5, 7, bias=False), torch.nn.Linear(7, 5, bias=False)
            self.down.weight = torch.nn.Parameter(self.up.weight.T.detach().clone())
            self.again = self.up

        def forward(self, x):
            return {"y": self.again(self.down(torch.tanh(self.up(x)))), "n": torch.tensor(3)}

    report = check_module(Tied(), ROWS)
    assert report.parameters == {"up.weight": PASS, "down.weight": PASS}


def test_a_function_of_another_framework_is_refused():
    if not find_spec("jax"):
        tally.not_run("jax is not installed")
        pytest.skip("jax is not installed")
    from jax.numpy import tanh

    with pytest.raises(TypeError, match="check_gradient"):
        check_module(lambda p, x: tanh(p["w"] * x), ROWS, params={"w": np.ones(5)})
