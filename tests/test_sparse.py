"""Matrices without their zeros: made and unmade exactly, multiplied as SciPy does, refused where places are none, and trained."""

import numpy as np
import pytest
from alone import on_tier
from laws_of_rungs import agrees, broken
from strategies import laid_out

import engine
import kernels
from engine import sparse
from engine.ops import matmul_2to4, matmul_bsr, matmul_csr, matmul_csr_data_grad, multiply, tanh
from engine.shapes import ShapeError
from engine.traced import OPS

scipy_sparse = pytest.importorskip("scipy.sparse")


def pruned(rng, m, k, density):
    return rng.normal(size=(m, k)) * (rng.random((m, k)) < density)


def two_of_four(rng, m, k):
    order = np.argsort(rng.random((m, k // 4, 4)), axis=2)
    return rng.normal(size=(m, k)) * (np.argsort(order, axis=2) < 2).reshape(m, k)


# Made and unmade.


@pytest.mark.parametrize("m, k", [(0, 5), (5, 0), (1, 1), (7, 12), (12, 7)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_csr_keeps_what_is_not_zero_and_nothing_else(m, k, density):
    w = pruned(np.random.default_rng(0), m, k, density)
    data, indices, indptr = sparse.csr(w)
    assert len(data) == len(indices) == indptr[-1] == np.count_nonzero(w)
    np.testing.assert_array_equal(sparse.csr_to_dense(data, indices, indptr, k), w)
    theirs = scipy_sparse.csr_matrix(w)
    for ours, known in ((data, theirs.data), (indices, theirs.indices), (indptr, theirs.indptr)):
        np.testing.assert_array_equal(ours, known)


@pytest.mark.parametrize("block", [(1, 1), (2, 3), (6, 4), (3, 12), (1, 4)])
def test_blocks_are_those_in_which_anything_is_kept(block):
    w = pruned(np.random.default_rng(1), 6, 12, 0.1)
    data, indices, indptr = sparse.bsr(w, block)
    theirs = scipy_sparse.bsr_matrix(w, blocksize=block)
    theirs.sort_indices()
    np.testing.assert_array_equal(sparse.bsr_to_dense(data, indices, indptr, 12), w)
    for ours, known in ((data, theirs.data), (indices, theirs.indices), (indptr, theirs.indptr)):
        np.testing.assert_array_equal(ours, known)


def test_two_to_four_and_back():
    rng = np.random.default_rng(2)
    w = two_of_four(rng, 5, 12)
    w[0, :4], w[1, 4:8] = 0, [0, 0, 0, 3.0]  # fewer than two
    values, indices = sparse.two_to_four(w)
    assert values.shape == indices.shape == (5, 6) and indices.dtype == np.uint8
    assert np.all(indices[:, ::2] < indices[:, 1::2])
    np.testing.assert_array_equal(sparse.two_to_four_to_dense(values, indices), w)


def test_a_mask_keeps_zeros_and_drops_what_it_does_not_name():
    w, mask = np.array([[0.0, 2.0, 3.0, 4.0]]), np.array([[True, True, False, False]])
    data, indices, indptr = sparse.csr(w, mask)
    assert (data.tolist(), indices.tolist(), indptr.tolist()) == ([0.0, 2.0], [0, 1], [0, 2])
    values, indices = sparse.two_to_four(w, mask)
    assert (values.tolist(), indices.tolist()) == ([[0.0, 2.0]], [[0, 1]])
    data, indices, _ = sparse.bsr(w, (1, 2), mask)
    assert (data.tolist(), indices.tolist()) == ([[[0.0, 2.0]]], [0])


def test_what_cannot_be_made_is_said():
    w = np.ones((2, 8))
    w[0, :2] = 0
    with pytest.raises(ValueError, match="row 0 keeps 4 of the columns 4 to 7, where two may be kept"):
        sparse.two_to_four(w)
    with pytest.raises(ValueError, match="four does not divide 6 columns"):
        sparse.two_to_four(w[:, :6])
    with pytest.raises(ValueError, match="blocks of 3 by 4 do not divide a matrix of 2 by 8"):
        sparse.bsr(w, (3, 4))
    with pytest.raises(ValueError, match=r"w is \(2, 8\), the mask \(8,\)"):
        sparse.csr(w, np.ones(8))


# Multiplied.


def products():
    return [r for op in ("matmul_csr", "matmul_bsr", "matmul_2to4") for r in kernels.ladder(op, "cpu")]


@pytest.mark.parametrize("rung", kernels.ladder("matmul_csr", "cpu"), ids=lambda r: r.name)
@pytest.mark.parametrize("n", [1, 5, 64, 70])
def test_repeated_columns_in_any_order_add_up_as_in_scipy(rung, n):
    rng = np.random.default_rng(3)
    indptr = np.array([0, 40, 40, 41, 300])
    data, indices, b = rng.normal(size=300), rng.integers(0, 9, 300), rng.normal(size=(9, n))
    want = scipy_sparse.csr_matrix((data, indices, indptr), shape=(4, 9)) @ b
    np.testing.assert_allclose(rung(data, indices, indptr, b), want, rtol=1e-12, atol=1e-12)


def drops_repeated_columns(data, indices, indptr, b):
    w = np.zeros((len(indptr) - 1, len(b)))
    w[np.repeat(np.arange(len(w)), np.diff(indptr)), indices] = data
    return w @ b


def test_a_rung_that_drops_repeated_columns_is_caught():
    args = [np.array([1.0, 2.0]), np.array([3, 3]), np.array([0, 2]), np.ones((4, 3))]
    with pytest.raises(AssertionError, match="off by"):
        agrees(broken(drops_repeated_columns, op="matmul_csr"), "float64", args, {})


@pytest.mark.parametrize("rung", products(), ids=lambda r: r.name)
@pytest.mark.parametrize("n", [1, 7, 40, 130])
def test_what_is_not_finite_stays_in_its_row_and_column(rung, n):
    rng = np.random.default_rng(4)
    w, b = two_of_four(rng, 24, 320), rng.normal(size=(320, n))
    w[:4] = np.where(w[:4] != 0, np.inf, 0)
    b[5, n - 1] = np.nan
    made = {"matmul_csr": sparse.csr(w), "matmul_bsr": sparse.bsr(w, (4, 2)), "matmul_2to4": sparse.two_to_four(w)}[rung.op]
    with np.errstate(invalid="ignore"):
        want = OPS[rung.op].definition(*made, b)
        got = rung(*made, laid_out(b, "stepped"))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    assert np.isfinite(got[4:, : n - 1]).all()


@pytest.mark.parametrize("rung", products(), ids=lambda r: r.name)
def test_a_result_may_be_written_where_it_is_wanted(rung):
    rng = np.random.default_rng(5)
    w, b, out = two_of_four(rng, 8, 16), rng.normal(size=(16, 5)), np.full((8, 5), np.nan)
    made = {"matmul_csr": sparse.csr(w), "matmul_bsr": sparse.bsr(w, (2, 2)), "matmul_2to4": sparse.two_to_four(w)}[rung.op]
    assert rung(*made, b, out=out) is out
    np.testing.assert_allclose(out, w @ b, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="out is a NumPy array"):
        rung(*made, b, out=out.T)


# Refused: by the definition, by every kernel under `use`, and at the door.


WRONG = {
    "a column too far": ([0, 3], [0, 1, 2], "indices run from 0 to 3, but there are 3 columns"),
    "a column below 0": ([-1, 2], [0, 1, 2], "indices run from -1 to 2, but there are 3 columns"),
    "a step back": ([0, 2], [0, 3, 2], "indptr runs from 0 to 2"),
    "no start": ([0, 2], [1, 1, 2], "indptr runs from 0 to 2"),
    "no end": ([0, 2], [0, 1, 1], "indptr runs from 0 to 2"),
    "no rows": ([], [], "indptr is empty"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("backend", [None, "cpu"])
def test_places_that_are_none_are_refused(wrong, kind, backend):
    indices, indptr = np.array(wrong[0], kind), np.array(wrong[1], kind)
    data, b = np.ones(len(indices)), np.ones((3, 2))
    with kernels.use(backend):
        with pytest.raises(ShapeError, match=f"matmul_csr: {wrong[2]}"):
            matmul_csr(data, indices, indptr, b)
        with pytest.raises(ShapeError, match=f"matmul_bsr: {wrong[2]}"):
            matmul_bsr(np.ones((len(indices), 2, 2)), indices, indptr, np.ones((6, 2)))
        with pytest.raises(ShapeError, match="matmul_csr_data_grad"):
            matmul_csr_data_grad(np.ones((2, 2)), b, indices, indptr)


@pytest.mark.parametrize("rung", [r for op in ("matmul_csr", "matmul_bsr") for r in kernels.ladder(op, "cpu")], ids=lambda r: r.name)
def test_every_rung_refuses_places_that_are_none(rung):
    for indices, indptr, message in WRONG.values():
        data = np.ones(len(indices)) if rung.op == "matmul_csr" else np.ones((len(indices), 1, 1))
        for call in (rung, rung.run):
            with pytest.raises(ValueError, match=message):
                call(data, np.array(indices, np.int32), np.array(indptr, np.int64), np.ones((3, 2)))


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
@pytest.mark.parametrize("backend", [None, "cpu"])
def test_an_index_that_is_not_one_of_four_is_refused(kind, backend):
    with kernels.use(backend), pytest.raises(ShapeError, match="matmul_2to4: indices run from 1 to 4"):
        matmul_2to4(np.ones((1, 2)), np.array([[1, 4]], kind), np.ones((4, 2)))


def test_shapes_that_clash_and_places_that_are_no_integers_are_said():
    ones = np.ones(2)
    with pytest.raises(ShapeError, match="axis nnz is 2 in data but 3 in indices"):
        matmul_csr(ones, np.arange(3), np.array([0, 2]), np.ones((3, 2)))
    with pytest.raises(ShapeError, match="blocks of 2 by 2 do not divide a matrix with 5 columns"):
        matmul_bsr(np.ones((1, 2, 2)), np.array([0]), np.array([0, 1]), np.ones((5, 1)))
    with pytest.raises(ShapeError, match="values has 2 columns, two for each four rows of b, of which there are 6"):
        matmul_2to4(np.ones((1, 2)), np.zeros((1, 2), np.uint8), np.ones((6, 1)))
    with pytest.raises(ShapeError, match="indptr has 3 elements for 4 rows"):
        matmul_csr_data_grad(np.ones((4, 2)), np.ones((3, 2)), np.array([0, 1]), np.array([0, 1, 2]))
    with pytest.raises(TypeError, match="integers; it holds float64"):
        matmul_csr(ones, ones, np.array([0, 2]), np.ones((3, 2)))
    with pytest.raises(ValueError, match="matmul_bsr on cpu: blocks of 2 by 2 do not divide a matrix with 5 columns"):
        kernels.serving("matmul_bsr")(np.ones((1, 2, 2)), np.array([0]), np.array([0, 1]), np.ones((5, 1)))


# Trained.


@pytest.mark.parametrize("backend", [None, "cpu"])
@pytest.mark.parametrize("form", ["csr", "bsr", "2to4"])
def test_a_pruned_layer_has_the_gradient_of_the_dense_one_where_it_keeps_something(form, backend):
    rng = np.random.default_rng(6)
    w, b, g = two_of_four(rng, 12, 40), rng.normal(size=(40, 33)), rng.normal(size=(12, 33))
    op, made, back = {
        "csr": (matmul_csr, sparse.csr(w), lambda d, *p: sparse.csr_to_dense(d, *p, 40)),
        "bsr": (matmul_bsr, sparse.bsr(w, (3, 2)), lambda d, *p: sparse.bsr_to_dense(d, *p, 40)),
        "2to4": (matmul_2to4, sparse.two_to_four(w), sparse.two_to_four_to_dense),
    }[form]
    data, *where = made
    with kernels.use(backend):
        gw, gb = engine.grad(lambda d, x: multiply(tanh(op(d, *where, x)), g).sum(), argnums=(0, 1))(data, b)
    g = g * (1 - np.tanh(w @ b) ** 2)
    kept = back(np.ones_like(data), *where) != 0
    np.testing.assert_allclose(back(gw, *where), np.where(kept, g @ b.T, 0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(gb, w.T @ g, rtol=1e-10, atol=1e-12)


# Tiers of the CPU.


@pytest.mark.parametrize("tier", ["generic", "avx2", "avx512", "amx"])
def test_each_tier_that_this_machine_has_multiplies_right(tier):
    printed = on_tier(
        tier,
        """
        import numpy as np
        import kernels
        from engine import sparse
        from kernels.cpu import features
        rng = np.random.default_rng(0)
        run = {op: kernels.serving(op) for op in ("matmul_csr", "matmul_bsr", "matmul_2to4", "matmul_csr_data_grad")}
        for n in (1, 3, 18, 64, 150):
            w, b = rng.normal(size=(36, 600)) * (rng.random((36, 600)) < 0.3), rng.normal(size=(600, n))
            w, b = w.astype("f4"), b.astype("f4")
            places = rng.integers(0, 4, (36, 300)).astype("u1")
            values = rng.normal(size=places.shape).astype("f4")
            g = rng.normal(size=(36, n)).astype("f4")
            for got, a in [
                (run["matmul_csr"](*sparse.csr(w), b), w),
                (run["matmul_bsr"](*sparse.bsr(w, (6, 2)), b), w),
                (run["matmul_2to4"](values, places, b), sparse.two_to_four_to_dense(values, places)),
            ]:
                assert np.all(np.abs(got - a.astype("f8") @ b) <= 1e-5 * (np.abs(a).astype("f8") @ np.abs(b))), n
            _, indices, indptr = sparse.csr(w)
            got = sparse.csr_to_dense(run["matmul_csr_data_grad"](g, b, indices, indptr), indices, indptr, 600)
            error = np.abs(got - (w != 0) * (g.astype("f8") @ b.T))
            assert np.all(error <= 1e-5 * (np.abs(g).astype("f8") @ np.abs(b.T))), n
        print(features.tier())
        """,
    )
    assert printed.strip() == tier


# The break-even.


def test_the_break_even_is_where_the_ratio_crosses_one():
    from benchmarks.clock import Times
    from benchmarks.sparse_break_even import Point, break_even, said

    def point(zeros, ratio):
        return Point("csr", (4, 4), 1, "float32", zeros, Times(1.0, 1.0), Times(ratio, ratio), None)

    row = [point(0.0, 0.25), point(0.5, 0.5), point(0.75, 2.0), point(0.9, 8.0)]
    assert break_even(row) == pytest.approx(np.sqrt(0.5 * 0.25))  # halfway, on logarithmic scales
    assert break_even(row[:2]) is None and said(None) == "not at any density measured"
    assert break_even(row[2:]) == 1.0 and said(1.0) == "always"


def test_the_break_even_command_verifies_times_and_writes(tmp_path, capsys):
    import json

    from benchmarks.sparse_break_even import main

    file, picture = tmp_path / "points.json", tmp_path / "points.png"
    small = ["--shape", "16", "32", "--batch", "1", "8", "--zeros", "0.5", "0.9", "--rounds", "2", "--json", str(file)]
    pytest.importorskip("matplotlib")
    assert main([*small, "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "csr, a of 16 x 32, float32" in printed and "2:4" in printed and "faster than dense: batch 1:" in printed
    points = json.loads(file.read_text())
    assert len(points) == 3 * 2 * 2 + 2 and all(p["ours"]["best"] > 0 for p in points)
    assert picture.stat().st_size > 10_000


def test_the_break_even_command_does_not_time_what_is_wrong(monkeypatch, capsys):
    from benchmarks import sparse_break_even

    true = sparse_break_even.sides
    monkeypatch.setattr(sparse_break_even, "sides", lambda form, w, b: {**true(form, w, b), "ours": lambda: w @ b + 1e-3})
    assert sparse_break_even.main(["--shape", "16", "32", "--batch", "8", "--zeros", "0.5", "--rounds", "1"]) == 1
    assert "ours, csr, (16, 32) times 8 columns, 50% zeros: off by" in capsys.readouterr().err
