"""Compiled code: where it is kept, when it is too old, that the next process loads it, forks, and tiers that are refused."""

import os

import pytest
from alone import available_tiers, run_alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_may_call_kernels_that_its_parent_has_called():
    done = run_alone(
        """
        import os, sys
        import numpy as np
        import kernels
        a = np.random.default_rng(0).normal(size=(300, 300))
        product = kernels.serving("matmul", "cpu")
        want = product(a, a)
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(product(a, a), want) else 3)
        status = os.waitpid(child, 0)[1]
        assert np.array_equal(product(a, a), want)
        print(status)
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0"


def test_compiled_code_is_too_old_when_any_file_that_it_is_made_of_has_changed():
    """Numba has no public word for this; if it changes, this fails, and `kernels/cpu/cache.py` is where to look."""
    from numba import njit

    from kernels.cpu.cache import stamped

    stamp = stamped(njit(cache=True)(available_tiers))._cache._cache_file._source_stamp
    assert {"features.py", "gemm.py", "tile.py", "vector.py"} <= {name for name, _, _ in stamp}


def test_the_units_that_a_function_calls_are_found_among_its_names():
    """If one is not, LLVM ends the process that loads the function from the cache."""
    from kernels.cpu import gemm, implicit
    from kernels.cpu.cache import units

    def names(function):
        return {unit.function.__name__ for unit in units(function)}

    assert names(gemm.product) == {"by_shape"}
    assert len(names(implicit.multiply.called_unit.function)) == len(implicit.SPREAD)  # in closures
    assert {"lay", "multiply", "positions"} <= names(implicit.to_x.py_func)  # also in what is inlined
    assert not names(lambda: [gemm.by_shape])  # as an attribute: so no unit may be called like that


def test_compiled_kernels_go_where_numba_is_told_and_are_loaded_from_there(tmp_path):
    code = """
        import numpy as np
        import kernels
        from kernels.cpu.cache import units
        from kernels.cpu.gemm import of_matrices, product

        def hits(function):
            forms = {(unit, number): form for unit in units(function) for number, form in unit.forms.items()}
            return [form.cache_hits for form in forms.values()] + [hit for unit, _ in forms for hit in hits(unit.function)]

        a = np.arange(12.0).reshape(3, 4)
        assert np.array_equal(kernels.serving("matmul", "cpu")(a, a.T), np.matmul(a, a.T))
        print(sorted(set(hits(product) + list(of_matrices["d"].stats.cache_hits.values()))), len(hits(product)) > 10)
    """
    first, second = [run_alone(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert first.stdout.strip() == "[0] True", first.stderr
    assert second.stdout.strip() == "[1] True", second.stderr
    assert list(tmp_path.rglob("gemm.*.nbc"))


def test_a_tier_that_is_unknown_or_not_there_is_refused_by_name():
    done = run_alone("import kernels; kernels.ladder('matmul', 'cpu')", GNOMON_CPU="mmx")
    assert done.returncode != 0
    assert "GNOMON_CPU=mmx: there is no such tier; the tiers are generic, avx2, avx512, amx" in done.stderr
    missing = [tier for tier in ("avx2", "avx512", "amx") if tier not in available_tiers()]
    if missing:
        done = run_alone("import kernels; kernels.ladder('matmul', 'cpu')", GNOMON_CPU=missing[0])
        assert f"GNOMON_CPU={missing[0]}: this machine does not have it; it has {', '.join(available_tiers())}" in done.stderr


def test_a_lower_tier_is_refused_when_numba_has_already_compiled_for_the_machine():
    if len(available_tiers()) == 1:
        pytest.skip("the machine has one tier")
    done = run_alone(
        """
        from numba import njit
        njit(lambda x: x)(1)
        import kernels
        kernels.ladder("matmul", "cpu")
        """,
        GNOMON_CPU="generic",
    )
    assert "GNOMON_CPU=generic: Numba has compiled for the whole machine already; import the kernels before that" in done.stderr
