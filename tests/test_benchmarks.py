"""Every case of the benchmark is right at a small size, and a wrong one is not timed. Nothing here is timed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tally

import kernels
from benchmarks.cases import CASES, error
from benchmarks.clock import times
from benchmarks.op_cost import CHAINS, cost, report
from benchmarks.race import DEFINITION, Runner, _one_case, runners
from engine.traced import OPS

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = kernels.backends()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op} {case}")
def test_every_case_verifies_at_a_small_size(case):
    args, params = case.small().call()
    assert error(case, args, params, OPS[case.op].definition(*args, **params)) <= 1e-5
    for backend in BACKENDS:
        rung = kernels.serving(case.op, backend)
        assert error(case, args, params, rung.run(*args, **params)) <= rung.rtol[case.dtype]
        tally.ran(backend, "a benchmark case verifies")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op} {case}")
def test_a_case_is_what_it_says(case):
    args, params = case.small().call()
    assert all(a.dtype == case.dtype for a in args if a.dtype.kind == "f")
    for i in case.turned:
        assert args[i].swapaxes(-1, -2).flags.c_contiguous
    assert dict(case.params).items() <= params.items() or case.op == "max_pool2d_input_grad"
    assert len(case.stands_for) > 2


def test_every_op_with_a_kernel_has_a_case():
    for backend in BACKENDS:
        assert set(kernels.ops(backend)) <= {case.op for case in CASES}


def test_the_error_sees_a_wrong_number_a_wrong_shape_and_nan():
    case = CASES[0].small()
    args, params = case.call()
    y = OPS[case.op].definition(*args, **params)
    wrong, hole = y.copy(), y.copy()
    wrong[-1, -1] += 1e-3
    hole[0, 0] = np.nan
    assert error(case, args, params, wrong) > 1e-5
    assert error(case, args, params, hole) == np.inf
    assert error(case, args, params, y[:-1]) == np.inf


class Puppet:
    """A worker that answers by heart."""

    def __init__(self, name, error):
        self.runner, self.error, self.rounds = Runner(name, "cpu", 1), error, 0

    def ask(self, **message):
        if "begin" in message:
            return {"error": self.error, "allowed": 1e-5, "first": 0.5, "flops": 2000}
        self.rounds += 1
        return {"seconds": 1e-6 * self.rounds}


def test_a_wrong_implementation_is_not_timed():
    sides = [Puppet("right", 1e-6), Puppet("wrong", 1e-4), Puppet("nothing but nan", float("inf"))]
    found = _one_case(0, CASES[0], sides, 3, True)
    assert [side.rounds for side in sides] == [3, 0, 0]
    assert [r.time is None for r in found] == [False, True, True]
    assert found[0].time == times([1e-6, 2e-6, 3e-6])
    assert found[0].time.spread == pytest.approx(2.0)
    assert found[0].gflops == pytest.approx(2.0)


def test_the_definition_runs_against_the_serving_rung_or_against_all():
    for backend in BACKENDS:
        some, every = runners("matmul", backend, every=False), runners("matmul", backend, every=True)
        assert [r.name for r in some] == ["numpy", kernels.serving("matmul", backend).name]
        assert every[0] == DEFINITION and len(every) == 1 + len(kernels.ladder("matmul", backend))


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_command_verifies_times_and_writes(tmp_path):
    done = run("kernels", "sgd_step", "--small", "--cached", "--rounds", "1", "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    records = json.loads((tmp_path / "out.json").read_text())
    assert {r["impl"] for r in records} == {"numpy", "sgd_threaded"}
    assert all(r["ratio_to"]["numpy"] > 0 and r["threads"] >= 1 for r in records)


def test_the_command_names_the_ops_that_there_are():
    done = run("kernels", "frobnicate")
    assert done.returncode == 2
    assert "no cases or no kernel for frobnicate; there are: matmul, conv2d" in done.stderr


def test_the_cost_of_an_op_is_printed_for_every_chain():
    text = report([cost(chain, rounds=1, calls=2) for chain in CHAINS])
    assert all(chain.name in text for chain in CHAINS)
    assert "target: forward <= 8 us" in text


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.name)
def test_a_chain_computes_in_numpy_what_it_computes_on_the_tape(chain):
    from engine import vjp

    x = np.linspace(-1.0, 1.0, 16).reshape(4, 4)
    y, pull = vjp(chain.op, x)
    g = np.cos(np.arange(16.0)).reshape(4, 4)
    np.testing.assert_allclose(y, chain.forward(x), rtol=1e-12)
    if chain.name != "np.tanh(x)":  # whose NumPy cost is stated on the output
        np.testing.assert_allclose(pull(g)[0], chain.back(g, x), rtol=1e-12, atol=1e-15)
