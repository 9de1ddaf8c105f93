"""Every rung of every ladder keeps the laws of `laws_of_rungs.py`, and each law catches a broken rung.

What is asked of one family of ops only is in the files beside this one: `test_ladders_*.py`, and `test_sparse.py`.
"""

import re
import threading

import numpy as np
import pytest
import tally
from alone import ROOT
from hypothesis import given
from hypothesis import strategies as st
from large_cases import LARGE
from laws_of_rungs import (
    CASES,
    LADDERS,
    RUNGS,
    SERVING,
    agrees,
    broken,
    cast,
    has_the_signature_of_its_op,
    leaves_alone,
    named,
    one_serves,
    same_bits,
    tupled,
)
from strategies import LAYOUTS, calls, laid_out

import kernels
from engine.op import Op
from engine.traced import OPS


def test_every_ladder_has_large_cases():
    assert {rung.op for rung in RUNGS} <= set(LARGE)


# Over all rungs.


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda ladder: f"{ladder[0].backend}-{ladder[0].op}")
def test_exactly_one_rung_serves(ladder):
    one_serves(ladder)
    tally.ran(ladder[0].backend, "one rung serves")


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: f"{rung.backend}-{rung.op}-{rung.step}")
def test_a_rung_has_the_signature_of_its_op(rung):
    has_the_signature_of_its_op(rung)


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda ladder: f"{ladder[0].backend}-{ladder[0].op}")
def test_a_ladder_says_what_arrays_it_wants(ladder):
    assert ladder[0].contract.wants.count(",") + 1 == len(OPS[ladder[0].op].args)


@pytest.mark.parametrize("case", CASES, ids=named)
@given(data=st.data(), layout=st.sampled_from(LAYOUTS))
def test_a_rung_agrees_with_the_definition(case, data, layout):
    rung, dtype = case
    args, params = data.draw(calls(OPS[rung.op]))
    args = [laid_out(a, layout) for a in cast(args, dtype)]
    leaves_alone(rung, args, params)
    agrees(rung, dtype, args, params)
    tally.ran(rung.backend, "a rung agrees")


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_rung_agrees_at_sizes_that_nothing_divides(case):
    rung, dtype = case
    for seed, draw in enumerate(LARGE[rung.op]):
        args, params = draw(np.random.default_rng(seed))
        layout = LAYOUTS[seed % len(LAYOUTS)]
        agrees(rung, dtype, [laid_out(a, layout) for a in cast(args, dtype)], params)
        tally.ran(rung.backend, "a rung agrees, large")


def test_a_job_waits_for_a_helper_that_took_its_place_before_the_rest_began():
    from threading import Event, Thread

    from kernels.cpu.threads import Job

    began, go_on, done = Event(), Event(), []

    def run(piece):
        if piece == 0:
            began.set()
            go_on.wait(60)
        done.append(piece)

    job = Job(run, [(0,), (1,)], helpers=1)
    helper = Thread(target=job.help)
    helper.start()
    began.wait(60)
    rest = Thread(target=job.finish)
    rest.start()
    rest.join(0.05)
    waits = rest.is_alive()
    go_on.set()
    rest.join(60)
    assert waits, "it is done while a helper is still at work on a piece"
    assert sorted(done) == [0, 1]
    helper.join(60)


# What `use` puts in force.


def test_the_engine_runs_the_kernel_only_on_dtypes_that_it_takes():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 4)), rng.integers(-3, 4, (4, 5))
    with kernels.use("cpu", require=("matmul",)):
        for x, w in [
            (a.astype("f4"), b),
            (a.astype("f4"), b * 1.0),
            (a.astype("f2"), b.astype("f2")),
            (b.T, b),
            (a.astype(">f8"), b * 1.0),
        ]:
            got, want = OPS["matmul"](x, w), x @ w
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


def test_a_kernel_called_by_itself_names_the_dtypes_that_it_takes():
    with pytest.raises(TypeError) as e:
        kernels.serving("matmul", "cpu")(np.ones((2, 2), np.float32), np.ones((2, 2), np.int64))
    assert str(e.value) == (
        "matmul on cpu: wants all arrays in one of float32, float64\n  wants  a: ... m k   b: ... k n\n"
        "  given  a: (2, 2) float32   b: (2, 2) int64"
    )


def test_what_is_required_and_missing_is_said_at_the_door():
    with pytest.raises(kernels.MissingKernel, match="no kernel on cpu for tanh"), kernels.use("cpu", require=("matmul", "tanh")):
        pass
    with pytest.raises(kernels.MissingKernel, match="no backend 'abacus'"), kernels.use("abacus"):
        pass


def test_a_kernel_that_refuses_is_explained_by_its_op():
    args = [np.ones(3)] * 4
    with kernels.use("cpu"), pytest.raises(ValueError, match="adam_step: t is 0, but counts steps from 1"):
        OPS["adam_step"](*args, lr=0.1, t=0)


# Threads.


@pytest.mark.parametrize("rung", [r for r in SERVING if r.backend == "cpu"], ids=lambda r: r.op)
def test_the_number_of_threads_changes_no_bit(rung, monkeypatch):
    from kernels.cpu import threads

    answers = []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "threads", lambda count=count: count)
        monkeypatch.setattr(threads, "_pool", None)
        for seed, draw in enumerate(LARGE[rung.op]):
            args, params = draw(np.random.default_rng(seed))
            answers.append((seed, tupled(rung.run(*cast(args, np.float32), **params))))
    for seed, answer in answers:
        for got, want in zip(answer, answers[seed][1], strict=True):
            assert same_bits(got, want)
    tally.ran(rung.backend, "threads change no bit", len(answers))


def test_many_python_threads_may_call_kernels_at_once():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 200)).astype("f4"), rng.normal(size=(200, 200)).astype("f4")
    product = kernels.serving("matmul", "cpu")
    want, found = product(a, b), []

    def work():
        found.extend(np.array_equal(product(a, b), want) for _ in range(20))

    crowd = [threading.Thread(target=work) for _ in range(6)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(timeout=60)
    assert found == [True] * 120


# The texts.


def test_the_readme_prints_the_table_of_rungs():
    text = (ROOT / "kernels" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- rungs -->\n(.*?)<!-- end of rungs -->", text, re.DOTALL)
    assert found, "kernels/README.md has lost the marks between which its table of rungs stands"
    table = kernels.table("cpu")
    assert found[1].strip() == table.strip(), "stale: run python -m kernels --write"


# Tests of the tests: broken rungs, and the law that catches each.


def forgets_the_edge(a, b):
    return a[..., : a.shape[-1] // 4 * 4] @ b[..., : a.shape[-1] // 4 * 4, :]


def reads_as_if_contiguous(a, b):
    flat = np.lib.stride_tricks.as_strided(a, a.shape, np.empty(a.shape, a.dtype).strides)
    return flat @ b


def sums_in_single_precision(a, b):
    return (a.astype(np.float32) @ b.astype(np.float32)).astype(a.dtype)


def answers_in_double(a, b):
    return a.astype(np.float64) @ b.astype(np.float64)


def hands_back_its_argument(a, b):
    return a if np.array_equal(b, np.eye(len(b))) else a @ b


def scales_its_argument(a, b):
    y = a @ b
    a *= 2.0
    return y


@pytest.mark.parametrize(
    "run, dtype",
    [
        (forgets_the_edge, "float64"),
        (reads_as_if_contiguous, "float64"),
        (sums_in_single_precision, "float64"),
        (answers_in_double, "float32"),
        (hands_back_its_argument, "float64"),
    ],
)
def test_a_broken_rung_does_not_agree(run, dtype):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 7)), np.eye(7) if run is hands_back_its_argument else rng.normal(size=(7, 6))
    agrees(broken(np.matmul), dtype, [a, b], {})
    with pytest.raises(AssertionError):
        agrees(broken(run), dtype, [laid_out(a.astype(dtype), "stepped"), b], {})


def test_a_rung_that_writes_into_its_argument_is_caught():
    with pytest.raises(AssertionError, match="written into"):
        leaves_alone(broken(scales_its_argument), [np.ones((2, 2)), np.ones((2, 2))], {})


@pytest.mark.parametrize("serves", [(True, True), (False, False)])
def test_a_ladder_where_none_or_two_serve_is_caught(serves):
    ladder = [broken(np.matmul, step=i + 1, idea=f"the idea number {i}", serves=s) for i, s in enumerate(serves)]
    with pytest.raises(AssertionError, match="exactly one"):
        one_serves(ladder)


def test_a_rung_with_another_default_is_caught():
    def conv2d(x, w, *, stride=2, padding=0, dilation=1, groups=1):
        return x

    assert isinstance(OPS["conv2d"], Op)
    with pytest.raises(AssertionError):
        has_the_signature_of_its_op(broken(conv2d, op="conv2d"))


def test_two_rungs_cannot_claim_one_step():
    kernels.ladder("matmul", "cpu")
    with pytest.raises(ValueError, match="two rungs claim step 1"):
        kernels.rung("matmul", "cpu", step=1, idea="another first step")(np.matmul)
