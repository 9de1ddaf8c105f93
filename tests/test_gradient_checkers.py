"""The comparison of gradient checkers, and the tables of the frameworks' functions: small runs of both."""

import json
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import tally

from benchmarks.gradient_checkers import CHECKERS, accepts, call, catalogue, typical
from benchmarks.known_threads import KNOWN


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

    from benchmarks.framework_program import program
    from benchmarks.torch_ops import table
    from engine.testing import check_gradient

    entry = next(e for e in table.entries if e.name == "tanh")
    report = check_gradient(entry.f, framework="torch", signature="...", reference=entry.reference, examples=100)
    assert report.verdict == "FAIL" and report.counterexample.finding.oracle == "mpmath"
    text = program(report.counterexample, entry, import_module("benchmarks.torch_ops"), "torch")
    assert "benchmarks" not in text and "numpy" not in text
    seen = {}
    exec(text.replace("print(", "seen = ("), seen)
    assert isinstance(seen["seen"][0], torch.Tensor)


def test_a_function_that_ends_its_process_is_a_row_with_the_call_that_did_it(tmp_path, capsys):
    if not find_spec("torch"):
        tally.not_run("torch is not installed")
        return
    from benchmarks.framework_ops import main

    file = tmp_path / "found.json"
    arguments = ["torch", "pdist", "negative", "--examples", "5", "--json", str(file)]
    assert main(arguments) == 0
    found = {f["name"]: f for f in json.loads(file.read_text())["found"]}
    assert found["negative"]["verdict"] == "PASS"
    if found["pdist"]["verdict"] == "FAIL":  # until PyTorch mends it
        assert found["pdist"]["check"] == "crash" and "f = torch.pdist" in found["pdist"]["program"]
        assert "SIG" in capsys.readouterr().out
    assert main(["torch", "no_such_function"]) == 2
    with pytest.raises(SystemExit, match="other settings"):
        main(["torch", "negative", "--examples", "6", "--json", str(file)])


def test_a_run_goes_on_where_it_stood_and_the_page_holds_what_was_found(tmp_path):
    from benchmarks.framework_ops import Keeper
    from benchmarks.framework_report import update

    about = {"versions": {"torch": "1"}, "examples": 5, "seed": 0, "orders": [1]}
    wrong = {"name": "g", "group": "elementwise", "verdict": "FAIL", "seconds": 2.0, "check": "value", "order": 1, "what": "",
             "claimed": 2.0, "reference": 1.0, "oracle": "mpmath", "program": "print(2)"}  # fmt: skip
    keeper = Keeper(tmp_path / "found.json", about, False)
    keeper.keep({"name": "f", "group": "elementwise", "verdict": "PASS", "seconds": 1.0, "counts": {"elements": 7}})
    keeper.keep(wrong)
    again = Keeper(tmp_path / "found.json", about, False)
    assert list(again.found) == ["f", "g"] and again.found["g"] == wrong
    assert not Keeper(tmp_path / "found.json", about, True).found
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- torch: begin -->old<!-- torch: end -->\n\nAfter.\n")
    for _ in range(2):
        update(page, "torch", about, list(again.found.values()))
    text = page.read_text()
    assert text.startswith("Before.") and text.endswith("After.\n") and "old" not in text and text.count("torch: begin") == 1
    assert "| `f` | elementwise | PASS | 7 |" in text and "value: 2 for 1 (mpmath)" in text and "Wrong numbers" in text


@pytest.mark.parametrize(
    "signature, first", [("...", ""), ("..., ...", ","), ("m k, k n", "1 1, 1 1"), ("m 3, m 3", "1 3, 1 3"), ("... n", "1 1")]
)
def test_a_compiler_gets_few_shapes_the_smallest_first(signature, first):
    from benchmarks.framework_worker import few_shapes
    from engine.testing.signature import parse

    found = list(few_shapes(signature))
    assert found[0] == first and 3 < len(found) < 8 and len(set(found)) == len(found)
    for text in found:
        (notation,) = parse(text)
        assert all(token.isdigit() for side in notation.inputs for token in side)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_most_functions_have_a_reference(framework):
    if not find_spec(framework):
        tally.not_run(f"{framework} is not installed")
        return
    entries = import_module(f"benchmarks.{framework}_ops").table.entries
    bare = [e.name for e in entries if e.reference is None and e.group not in ("layout", "fourier")]
    assert len(bare) < 25, bare


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_what_is_known_is_known_of_functions_in_the_table(framework):
    if not find_spec(framework):
        tally.not_run(f"{framework} is not installed")
        return
    names = {e.name for e in import_module(f"benchmarks.{framework}_ops").table.entries}
    assert set(KNOWN[framework]) <= names
