"""The comparison of gradient checkers, and the tables of the frameworks' functions: small runs of both."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import tally

from benchmarks.gradient_checkers import CHECKERS, accepts, call, catalogue, typical


def product(a, b, i):
    return a * b, i + 1, a[i]


def product_vjp(g, args, y):
    a, b, i = args
    ga = g[0] * b
    np.add.at(ga, i, g[2])
    return ga, g[0] * a, None


def halved(g, args, y):
    ga, gb, _ = product_vjp(g, args, y)
    return ga, gb / 2, None


A, B, I = np.array([1.0, 2.0, 3.0]), np.array([0.5, -1.0, 4.0]), np.array([2, 0, 2])


def test_several_outputs_and_integers_become_one_function_of_floats():
    c = call(product, product_vjp, (A, B, I), {})
    assert np.array_equal(c.f(*c.xs), [*(A * B), 3.0, 1.0, 3.0])
    ga, gb = c.vjp(np.arange(6.0), *c.xs)
    assert np.array_equal(ga, [0.0 + 4, -1.0, 8.0 + 3 + 5]) and np.array_equal(gb, [0.0, 2.0, 6.0])


@pytest.mark.parametrize("name", CHECKERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_checker_accepts_the_right_rule_and_rejects_a_wrong_one(name):
    package, check = CHECKERS[name]
    if not find_spec(package):
        tally.not_run(f"{package} is not installed")
        return
    assert accepts(check, [call(product, product_vjp, (A, B, I), {})])
    assert not accepts(check, [call(product, halved, (A, B, I), {})])


def test_the_catalogue_has_calls_for_every_wrong_rule():
    mutants = catalogue()
    assert len(mutants) > 100
    for m in mutants[::20]:
        points = list(typical(m.right))
        assert len(points) == 2 and all(np.size(a) for args, _ in points for a in args)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_tables_name_each_function_once_and_say_what_it_takes(framework):
    if not find_spec(framework):
        tally.not_run(f"{framework} is not installed")
        return
    entries = import_module(f"benchmarks.{framework}_ops").table.entries
    names = [e.name for e in entries]
    assert len(names) == len(set(names)) > 120
    groups = {e.group for e in entries}
    assert {"elementwise", "reduction", "indexing", "linalg", "network"} <= groups


def test_a_finding_comes_with_a_program_that_shows_it():
    if not find_spec("torch"):
        tally.not_run("torch is not installed")
        return
    import torch

    from benchmarks.framework_ops import main, program
    from benchmarks.torch_ops import table
    from engine.testing import check_gradient

    entry = next(e for e in table.entries if e.name == "tanh")
    report = check_gradient(entry.f, framework="torch", signature="...", reference=entry.reference, examples=100)
    assert report.verdict == "FAIL" and report.counterexample.finding.oracle == "mpmath"
    seen = {}
    exec(program(report.counterexample, entry, import_module("benchmarks.torch_ops"), "torch").replace("print(", "seen = ("), seen)
    assert isinstance(seen["seen"][0], torch.Tensor)
    assert main(["torch", "negative", "--examples", "5"]) == 0
