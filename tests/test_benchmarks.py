"""Every case is right at a small size, a wrong implementation is not timed, records hold what they say. No time is judged."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tally
from click.testing import CliRunner

import kernels
from benchmarks import interval, peers, race, records, roofline, tables
from benchmarks.cases import Case
from benchmarks.clock import times
from benchmarks.compile_cost import DEMO, Cost, row
from benchmarks.compile_cost import cost as cost_of_compiling
from benchmarks.compile_cost import main as compile_costs
from benchmarks.job import Job
from benchmarks.op_cost import CHAINS, cost, report
from benchmarks.race import Plan, one_case
from benchmarks.records import Book, compare
from benchmarks.side import Side
from benchmarks.suites import Suite, cases_of, suites
from benchmarks.yours import bench, cases_for, marked
from engine.cli import bench as command
from engine.cli.group import gnomon
from engine.traced import OPS

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = kernels.backends()
CASES = list(dict.fromkeys(case.small() for suite in suites().values() for case in suite.cases if isinstance(case, Case) and case.there))
IDS = str


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_case_verifies_at_a_small_size(case):
    args, params = case.call()
    reference = case.reference(args, params)
    numpy = peers.find("numpy")
    y = numpy.as_numpy(numpy.prepare(case, args, params)())
    assert case.error(args, params, y, reference) <= numpy.allowed(case)
    for backend in BACKENDS:
        if case.op in kernels.ops(backend):
            ours = peers.find("gnomon")
            try:
                y = peers.as_numpy(ours.prepare(case, args, params)())
            except AttributeError:
                if "net" not in dict(case.about):
                    raise
                continue  # a step that takes arrays, not dicts of them
            assert case.error(args, params, y, reference) <= ours.allowed(case)
            tally.ran(backend, "a benchmark case verifies")


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_case_is_what_it_says(case):
    args, params = case.call()
    assert all(a.dtype == case.dtype for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f" and case.dtype.startswith("float"))
    for i in case.turned:
        assert args[i].swapaxes(-1, -2).flags.c_contiguous
    assert dict(case.params).items() <= params.items() or case.op == "max_pool2d_input_grad"
    assert len(case.stands_for) > 2


def test_every_op_with_a_kernel_has_a_case():
    for backend in BACKENDS:
        assert set(kernels.ops(backend)) <= {case.op for suite in suites().values() for case in suite.cases}


def test_the_error_sees_a_wrong_number_a_wrong_shape_and_nan():
    case = Case("matmul", ((40, 20), (20, 30)), "small")
    args, params = case.call()
    y = OPS[case.op].definition(*args, **params)
    wrong, hole = y.copy(), y.copy()
    wrong[-1, -1] += 1e-3
    hole[0, 0] = np.nan
    assert case.error(args, params, wrong) > 1e-5
    assert case.error(args, params, hole) == np.inf
    assert case.error(args, params, y[:-1]) == np.inf
    assert case.error(args, params, (y, y)) == np.inf


def test_the_work_of_a_product_and_of_a_convolution():
    product = Case("matmul", ((4, 5), (5, 6)), "small")
    args, params = product.call()
    assert product.work(args, params, np.zeros((4, 6), np.float32)) == (2 * 4 * 5 * 6, 4 * (20 + 30 + 24))
    layer = Case("conv2d", ((2, 3, 8, 8), (4, 3, 3, 3)), "small", (("padding", 1),))
    assert layer.products == 2 * 4 * 8 * 8 * 3 * 9
    assert Case("conv2d_weight_grad", layer.shapes, "small", layer.params).products == layer.products


@pytest.mark.parametrize("name", ["torch", "jax", "onnxruntime", "torch-compile", "scipy"])
def test_a_peer_says_why_it_is_missing(name, monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda module: module if module.startswith("benchmarks") else None)
    assert "not installed" in peers.find(name).available()


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "scipy", "dense", "door", "f32"])
def test_a_peer_that_is_here_agrees_with_the_definition(name):
    peer = peers.find(name)
    if why := peer.available():
        tally.not_run(f"{name}: {why}")
        return
    tried = 0
    for case in CASES[:: 1 if name in ("scipy", "dense") else 7]:
        args, params = case.call()
        try:
            y = peer.prepare(case, args, params)()
        except peers.Missing:
            continue
        y = getattr(peer, "as_numpy", peers.as_numpy)(y)
        allowed = peer.allowed(case) if hasattr(peer, "allowed") else case.allowed
        assert case.error(args, params, y) <= allowed, case
        tried += 1
    assert tried or name in ("scipy", "dense", "f32")


def test_jax_agrees_with_the_definition_of_each_op_that_it_has():
    """In a process of its own: that JAX computes in double precision holds for a whole process."""
    if why := peers.find("jax").available():
        tally.not_run(f"jax: {why}")
        return
    worker, found = race.Worker("jax", {**os.environ}), {}
    try:
        for case in {case.op: case for case in CASES}.values():
            answer = worker.ask(begin=case)
            if "missing" not in answer:
                assert answer["error"] <= answer["allowed"], case
                found[case.op] = answer["error"]
    finally:
        worker.stop()
    assert {"matmul", "dense", "conv2d", "max_pool2d_with_indices", "normalise_grad", "cross_entropy_grad", "adam_step"} <= set(found)


def test_plain_loops_are_not_asked_for_what_takes_minutes():
    with pytest.raises(peers.Missing, match="take too long"):
        peers.find("naive").prepare(Case("matmul", ((2048, 2048), (2048, 2048)), "large"), [], {})


def test_a_dense_peer_undoes_each_form_of_a_sparse_matrix():
    from benchmarks.peers.dense import from_2to4, from_bsr, from_csr

    data, columns = np.array([1.0, 2.0, 3.0]), np.array([1, 0, 2])
    np.testing.assert_array_equal(from_csr(data, columns, np.array([0, 1, 3]), (2, 3)), [[0, 1, 0], [2, 0, 3]])
    blocks = np.arange(8.0).reshape(2, 2, 2)
    np.testing.assert_array_equal(from_bsr(blocks, np.array([1, 0]), np.array([0, 1, 2]), (4, 4))[:2], [[0, 0, 0, 1], [0, 0, 2, 3]])
    np.testing.assert_array_equal(from_2to4(np.array([[5.0, 6.0]]), np.array([[1, 3]], np.uint8), (1, 4)), [[0, 5, 0, 6]])


class Puppets:
    """Workers that answer by heart."""

    def __init__(self, errors, dies=()):
        self.errors, self.dies, self.rounds = errors, dies, dict.fromkeys(errors, 0)

    def ask(self, impl, **message):
        if "begin" in message:
            return {"error": self.errors[impl], "allowed": 1e-5, "first": 0.5, "flops": 2000, "bytes": 100}
        self.rounds[impl] += 1
        if impl in self.dies and self.rounds[impl] == 2:
            return {"missing": "its process ended with -11"}
        return {"seconds": [1e-6 * self.rounds[impl]] * 3}


CASE = Case("matmul", ((40, 20), (20, 30)), "small")


def test_a_wrong_implementation_is_not_timed(tmp_path):
    sides = Puppets({"gnomon": 1e-6, "wrong": 1e-4, "nan": float("nan"), "inf": float("inf")})
    found = one_case(CASE, list(sides.errors), Plan(rounds=3), sides, str(tmp_path / "reference"))
    assert list(sides.rounds.values()) == [3, 0, 0, 0]
    assert [r.wrong for r in found] == [False, True, True, True]
    assert [r.time is None for r in found] == [False, True, True, True]
    assert found[0].time == times([1e-6, 2e-6, 3e-6])
    assert found[0].time.spread == pytest.approx(2.0)


def test_one_that_dies_while_it_is_timed_is_missing_and_the_others_go_on(tmp_path):
    sides = Puppets({"gnomon": 0.0, "torch": 0.0}, dies=("torch",))
    ours, theirs = one_case(CASE, ["gnomon", "torch"], Plan(rounds=4), sides, str(tmp_path / "reference"))
    assert len(ours.rounds) == 4 and not theirs.rounds and theirs.missing == "its process ended with -11"


def test_rounds_are_fewer_where_calls_take_long(tmp_path):
    class Slow(Puppets):
        def ask(self, impl, **message):
            return super().ask(impl, **message) if "begin" in message else {"seconds": [1.0]}

    found = one_case(CASE, ["gnomon"], Plan(rounds=50, limit=10), Slow({"gnomon": 0.0}), str(tmp_path / "reference"))
    assert len(found[0].rounds) == 10
    found = one_case(CASE, ["gnomon"], Plan(rounds=50, limit=0.1), Slow({"gnomon": 0.0}), str(tmp_path / "reference"))
    assert len(found[0].rounds) == race.FEWEST


@dataclass(frozen=True)
class Other:
    """A case of another kind: what `benchmarks/peers/__init__.py` asks for and nothing else."""

    op: str = "sum"
    dtype: str = "float64"
    stands_for: str = "another kind"
    shape: str = "100"
    allowed: float = 1e-12
    home: ClassVar[str] = "another_kind"

    def call(self, seed=0):
        return [np.arange(100.0)], {}

    def small(self):
        return self

    def reference(self, args, params):
        return 4950.0

    def error(self, args, params, y, reference):
        return abs(float(y) - reference)

    def work(self, args, params, y):
        return 100, 800

    def __str__(self):
        return "sum 100"


def test_a_case_of_another_kind_races_with_implementations_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "another_kind").mkdir()
    (tmp_path / "another_kind" / "__init__.py").write_text("")
    source = "def available(): return None\ndef prepare(case, args, params): return lambda: args[0].sum()"
    for name, text in (("gnomon", source), ("torch", source + " + 1"), ("jax", "def available(): return 'not today'")):
        (tmp_path / "another_kind" / f"{name}.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    answers = {name: Side(name).begin(Other()) for name in ("gnomon", "torch", "jax", "scipy")}
    assert answers["gnomon"]["error"] == 0 and answers["gnomon"]["bytes"] == 800
    assert answers["torch"]["error"] == 1
    assert answers["jax"] == {"missing": "not today"}
    assert "no scipy in another_kind" in answers["scipy"]["missing"]


def test_a_side_times_what_it_began_and_empties_the_caches_on_request():
    side = Side("numpy")
    assert side.begin(CASE)["error"] <= CASE.allowed
    assert len(side.round(3)["seconds"]) == 3 and min(side.round(2)["seconds"]) > 0
    side.sweep = lambda: swept.append(1)
    swept = []
    assert len(side.round(2)["seconds"]) == len(swept) == 2


def test_a_reference_is_computed_once(tmp_path, monkeypatch):
    file = tmp_path / "reference"
    first = Side("numpy").begin(CASE, reference=str(file))
    monkeypatch.setattr(Case, "reference", lambda *_: pytest.fail("it is in the file"))
    assert Side("numpy").begin(CASE, reference=str(file)) == {**first, "first": pytest.approx(first["first"], abs=1)}


def test_workers_answer_stand_still_and_say_what_they_died_of(tmp_path):
    worker = race.Worker("numpy", {**os.environ})
    try:
        assert worker.ask(begin=CASE)["error"] <= CASE.allowed
        assert len(worker.ask(round=2)["seconds"]) == 2
        if Path(f"/proc/{worker.process.pid}/stat").exists():
            assert os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED | os.WNOWAIT) is not None
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
        with pytest.raises(race.Ended, match="its process ended with -9"):
            worker.ask(round=1)
    finally:
        worker.stop()


# Intervals


def test_the_interval_of_a_ratio_covers_it_in_nineteen_of_twenty():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        theirs, ours = 2.0 * rng.lognormal(0, 0.1, 15), rng.lognormal(0, 0.1, 15)
        found = interval.ratio(theirs, ours)
        assert found.low <= found.median <= found.high
        covered += found.low <= 2.0 <= found.high
    assert covered >= 180


def test_what_hits_both_sides_of_a_round_is_not_in_the_interval():
    busy = np.random.default_rng(1).lognormal(0, 1.0, 15)
    found = interval.ratio(3.0 * busy, busy)
    assert found.low == pytest.approx(3.0) and found.high == pytest.approx(3.0)


def test_the_mean_over_cases_is_geometric():
    found = interval.geometric_mean([([2.0] * 9, [1.0] * 9), ([1.0] * 9, [8.0] * 9)])
    assert found == interval.Ratio(*[pytest.approx(0.5)] * 3)


# The limits


def test_the_limit_is_the_slower_of_arithmetic_and_memory():
    roof = roofline.Roof(1, {"float32": 100e9}, {1: 200e9, 2: 100e9, 3: 50e9, 0: 10e9}, {1: 32_000, 2: 1_000_000, 3: 30_000_000})
    assert roof.limit("float32", 1_000_000_000, 1000) == pytest.approx(0.01)
    assert roof.limit("float32", 10, 16_000) == pytest.approx(16_000 / 200e9)
    assert roof.limit("float32", 0, 100_000_000) == pytest.approx(0.01)
    assert roof.limit("float32", 0, 16_000, cold=True) == pytest.approx(16_000 / 10e9)
    assert roof.limit("bfloat16", 10, 10) is None and roof.limit("bfloat16", 0, 10) is not None


def test_the_limits_are_measured(monkeypatch):
    monkeypatch.setattr(roofline, "MOST", 1 << 20)
    monkeypatch.setattr(roofline, "LONG_ENOUGH", 1e-4)
    roof = roofline.measured.__wrapped__(2)
    assert {"float32", "float64"} <= set(roof.peaks) and set(roof.bandwidths) == {0, 1, 2, 3}
    assert min(*roof.peaks.values(), *roof.bandwidths.values()) > 1e8


# Records

SCHEMA = {
    "case", "op", "shape", "dtype", "stands_for", "impl", "backend", "tier", "threads", "clock", "cold", "best_s", "median_s", "spread",
    "rounds_s", "gflops", "gbs", "share_of_limit", "ratio_to", "first_s", "error", "missing",
}  # fmt: skip


def made(case=CASE, factor=1.0, noise=0.01, seed=0, impls=("gnomon", "numpy", "wrong", "absent"), plan=None):
    """Records of a race that never was: ours takes `factor` us, NumPy 2 us."""
    rng = np.random.default_rng(seed)
    base = {"gnomon": factor * 1e-6, "numpy": 2e-6}
    results = []
    for impl in impls:
        rounds = tuple(base[impl] * rng.lognormal(0, noise, 15)) if impl in base else ()
        missing = "not installed" if impl == "absent" else None
        error = 1.0 if impl == "wrong" else 0.0
        results.append(race.Result(case, impl, error, 1e-5, 0.1, 1000, 100, rounds, min(rounds, default=0.0), missing))
    roof = roofline.Roof(1, {"float32": 2e9}, {0: 1e9, 1: 1e12}, {1: 1000})
    return records.records(results, plan or Plan(), roof, "generic", "a machine")


def test_records_have_the_schema():
    ours, numpy, wrong, absent = made()
    for r in (ours, numpy, wrong, absent):
        assert set(r) >= SCHEMA
        json.dumps(r)
    assert ours["ratio_to"]["numpy"].keys() == {"median", "low", "high"}
    assert ours["ratio_to"]["numpy"]["median"] == pytest.approx(2.0, rel=0.02)
    assert numpy["ratio_to"] == {} and set(ours["ratio_to"]) == {"numpy"}
    assert ours["share_of_limit"] == pytest.approx(0.5, rel=0.05)
    assert wrong["missing"].startswith("wrong by") and wrong["best_s"] is None
    assert absent["missing"] == "not installed" and absent["error"] is None


def test_a_broken_off_run_loses_no_case(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    book = Book(file, [])
    book.add(made())
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        book.add(made(Case("matmul", ((2, 2), (2, 2)), "second")))
    assert {r["case"] for r in records.read(file)} == {str(CASE)}


def test_a_case_that_is_run_again_takes_the_place_of_the_old_one(tmp_path):
    book = Book(tmp_path / "run.json", [])
    book.add(made(factor=1.0))
    book.add(made(factor=3.0))
    assert len(book.all) == 4 and book.all[0]["median_s"] == pytest.approx(3e-6, rel=0.02)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="does not hold records"):
        records.read(tmp_path / "x.json")


def test_a_regression_is_flagged_and_noise_is_not():
    old = made(seed=1)
    (slower,) = compare(old, made(factor=1.3, seed=2))
    assert slower.regression and slower.ratio.median == pytest.approx(1 / 1.3, rel=0.02)
    (faster,) = compare(old, made(factor=0.7, seed=2))
    assert not faster.regression and faster.ratio.low > 1
    flagged = sum(compare(made(seed=s, noise=0.1), made(seed=1000 + s, noise=0.1))[0].regression for s in range(50))
    assert flagged <= 4


def test_a_slower_machine_is_no_regression():
    old, new = made(seed=1), made(seed=2)
    for r in new:
        r["rounds_s"] = [2.0 * t for t in r["rounds_s"]]
    (change,) = compare(old, new)
    assert change.ratio.median == pytest.approx(1.0, rel=0.02)


def test_runs_under_other_conditions_are_not_compared():
    assert compare(made(), made(plan=Plan(threads=2))) == []
    assert compare(made(), made(plan=Plan(cold=True))) == []


# Tables


def test_a_suite_is_summed_up():
    cases = [Case("matmul", ((n, n), (n, n)), "square") for n in (8, 16)]
    suite = Suite("squares", "products", cases, target=1.5)
    found = [*made(cases[0], factor=1.0), *made(cases[1], factor=4.0)]
    (row,) = tables.summary(suite, found)
    assert row.peer == "numpy" and row.cases == 2
    assert row.mean.median == pytest.approx(1.0, rel=0.02)
    assert row.worst == (pytest.approx(0.5, rel=0.02), str(cases[1])) and row.best[1] == str(cases[0])
    assert "target 1.5: missed" in str(row)


def test_the_tables_stand_between_their_markers():
    suite = Suite("squares", "products", [CASE], target=1.5)
    text = tables.markdown([suite], made())
    assert "| squares | products | numpy | 2.0" in text and "1.5, met" in text and "a machine" in text
    around = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    assert tables.into(around, text) == f"before\n{tables.BEGIN}\n{text}\n{tables.END}\nafter\n"
    assert tables.into(tables.into(around, text), text) == tables.into(around, text)
    with pytest.raises(ValueError, match="kernels: begin"):
        tables.into("nothing", text)


def test_rows_say_what_is_wrong_and_what_is_missing():
    text = "\n".join(tables.rows(made()))
    assert "WRONG: wrong by 1.0e+00" in text and "absent" in text and "not installed" in text


def test_the_readme_has_the_markers():
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert tables.into(readme, "x")


def test_pictures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.plots import pictures

    found = [r for n in (64, 128, 256) for r in made(Case("matmul", ((n, n), (n, n)), "square"))]
    roof = roofline.Roof(1, {"float32": 2e9}, {0: 1e9, 1: 1e12, 2: 1e11, 3: 1e10}, {1: 1000})
    assert [path.name for path in pictures(found, roof, tmp_path)] == ["roofline.png", "sweep.png"]
    assert all(path.stat().st_size > 10_000 for path in tmp_path.iterdir())
    assert pictures(found[:4], roof, tmp_path / "none")[1:] == [] if (tmp_path / "none").mkdir() is None else False


# A function of one's own

MINE = """
import numpy as np
from benchmarks import bench

@bench("matmul", shapes=[((8, 5), (5, 7))])
def right(a, b):
    return np.einsum("ij,jk->ik", a, b)

@bench("matmul", dtype="float64")
def wrong(a, b):
    return np.einsum("ij,jk->ik", a, b) + 1

def unmarked(a, b):
    return a @ b
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return str(tmp_path / "mine.py")


def test_a_function_of_the_users_is_one_of_the_sides(mine):
    assert Side(f"{mine}:right").begin(CASE)["error"] <= CASE.allowed
    answer = Side(f"{mine}:wrong").begin(CASE)
    assert answer["error"] > answer["allowed"]


def test_a_mark_says_op_and_cases():
    @bench("matmul", shapes=[((8, 5), (5, 7))], dtype="float64")
    def own(a, b): ...

    @bench("conv2d")
    def those_there_are(x, w): ...

    assert marked(own) == "matmul" and marked(print) is None
    assert cases_for(own, "matmul") == [Case("matmul", ((8, 5), (5, 7)), "your own case", dtype="float64")]
    assert cases_for(those_there_are, "conv2d") == cases_of("conv2d")


def test_parameters_at_their_default_are_handed_over_only_if_they_are_named():
    from benchmarks.peers.user import takes

    assert takes(lambda x, w, *, stride=1: x, "stride") and not takes(lambda x, w: x, "stride") and takes(lambda x, **k: x, "stride")


# The command


def gnomon_bench(*arguments):
    return CliRunner().invoke(gnomon, ["bench", *arguments], catch_exceptions=False)


def run(*arguments, timeout=300):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def test_the_command_verifies_times_writes_and_goes_on(tmp_path):
    file = tmp_path / "out.json"
    given = ["sgd_step", "--small", "--rounds", "2", "--threads", "1", "--against", "numpy", "--json", str(file)]
    done = run(*given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout and "against numpy" in done.stdout
    found = records.read(file)
    assert {r["impl"] for r in found} == {"gnomon", "numpy"} and len(found) == 6
    assert all(r["threads"] == 1 and set(r) >= SCHEMA for r in found)
    assert all(r["ratio_to"]["numpy"]["low"] > 0 for r in found if r["impl"] == "gnomon")

    refused = gnomon_bench(*given)
    assert refused.exit_code == 1 and "--resume goes on" in refused.output
    kept = [r for r in found if r["case"] != found[0]["case"]]
    file.write_text(json.dumps(kept))
    again = gnomon_bench(*given, "--resume", "--compare", str(file))
    assert again.exit_code in (0, 1), again.output
    assert again.output.count("sgd_step ") >= 1 and "in both" in again.output
    after = records.read(file)
    assert len(after) == 6 and all(r in after for r in kept)

    clash = gnomon_bench(*given, "--resume", "--clock", "cpu")
    assert clash.exit_code == 2 and "clock: then wall, now cpu" in clash.output


def test_a_wrong_function_of_the_users_ends_with_status_1(mine):
    given = ["--small", "--rounds", "1", "--against", "numpy", "--threads", "1"]
    done = run(mine, *given, "--case", "8x5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine.py:right  against gnomon" in done.stdout and "mine.py:wrong" not in done.stdout
    done = run(mine, *given, "--case", "f64 64x64 64x64")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "mine.py:wrong              WRONG" in done.stdout


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["matmull"], "no suite or op called 'matmull'. Did you mean matmul"),
        (["sgemm", "--against", "pytorch"], "no peer called 'pytorch'. Did you mean torch"),
        (["mine.py:f"], "there is no file mine.py"),
        (["sgemm", "--case", "nonesuch"], "no case is called *nonesuch*"),
        (["sgemm", "--clock", "cpu", "--threads", "2"], "only with --threads 1"),
        (["sgemm", "--resume"], "which file?"),
        (["operator:matmul"], "which op does operator:matmul compute?"),
        (["operator:matmul", "--op", "matmull"], "no op with cases called 'matmull'. Did you mean matmul"),
    ],
)
def test_what_is_not_understood_is_told(arguments, told):
    done = gnomon_bench(*arguments)
    assert done.exit_code in (1, 2) and told in done.output


def test_a_file_without_marks_says_how_to_mark(tmp_path):
    (tmp_path / "plain.py").write_text("def f(a, b): return a @ b\n")
    done = gnomon_bench(str(tmp_path / "plain.py"))
    assert done.exit_code == 1 and '@bench("matmul")' in done.output


def test_the_list_names_suites_and_peers():
    done = gnomon_bench("--list")
    assert done.exit_code == 0
    assert all(name in done.output for name in (*suites(), *peers.PEERS))


def test_a_quick_run_takes_every_third_case_and_each_once():
    suite = suites()["sgemm"]
    whole, quick = (Job([suite, suite], Plan(), Book(None, []), against=(), quick=quick).cases() for quick in (False, True))
    assert len(whole) == len(suite.cases) and len(quick) == -(-len(whole) // 3)


def test_every_rung_races_if_it_is_asked_for():
    job = Job([suites()["sgemm"]], Plan(), Book(None, []), all=True)
    names = job.ours(suites()["sgemm"].cases[0])
    ladder = kernels.ladder("matmul", "cpu")
    assert names == ["gnomon", *(f"gnomon/{r.name}" for r in ladder if not r.serves)]
    for name in names:
        assert peers.find(name).of(CASE) in ladder


def test_the_targets_of_the_issue_are_suites():
    there = suites()
    wanted = {"sgemm": 1.0, "dgemm": 0.95, "bf16": 0.8, "bf16-gain": 4.0, "int8": 0.8, "conv": 1.5, "adam": 1.0, "adam-small": 5.0}
    assert {name: there[name].target for name in wanted} == wanted


def test_the_options_are_told_with_examples():
    done = gnomon_bench("--help")
    assert "Examples" in done.output and len(command.command.params) > 15


# The costs of an op and of compiling


def test_what_was_compiled_is_loaded_in_less_time():
    found = cost_of_compiling("sgd_step")
    assert 0 < found.warm < found.cold
    assert "met" in row(Cost(DEMO, 39.0, 1.9)) and "missed" in row(Cost(DEMO, 39.0, 2.1)) and "met" not in row(Cost("matmul", 39.0, 1.9))


def test_only_kernels_that_there_are_are_compiled():
    with pytest.raises(SystemExit):
        compile_costs(["matmull"])


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
