"""Static evidence: what the assembler makes of the kernels may not become worse than the golden table says.

The first tests read text and need nothing; the others need numba-cuda and the assembler, and are counted as not run where one is missing.
"""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import tally
from click.testing import CliRunner

from kernels.cuda.static import assemble, golden, missing
from kernels.cuda.static.evidence import Evidence, forbidden, most_frequent
from kernels.cuda.static.sass import read

STALLS = {2: "0x000fc40000000000", 1: "0x000fe20000000000", 5: "0x000fca0000000000"}


def code(*lines):
    """Machine code in the form of nvdisasm: labels, and instructions with their stalls."""
    text, place = [], 0
    for line in lines:
        if line.startswith("."):
            text.append(line)
        else:
            stall, _, what = line.partition(" ")
            text.append(f"        /*{place:04x}*/    {what} ;    /* 0x0000000000007b1d */")
            text.append(f"                           /* {STALLS[int(stall)]} */")
            place += 16
    return read("\n".join(text))


NESTED = (
    "1 MOV R1, c[0x0][0x28]",
    ".L_x_1:",
    "1 LDG.E.128 R4, [R2.64]",
    ".L_x_0:",
    "2 LDS.128 R8, [R0]",
    "2 FFMA R1, R4, R8, R1",
    "1 FFMA R2, R5, R8, R2",
    "1 FFMA R9, -RZ, RZ, 1",
    "5 @!P0 BRA `(.L_x_0)",
    "1 IMAD.MOV.U32 R3, RZ, RZ, R4",
    "5 @P1 BRA `(.L_x_1)",
    "5 EXIT",
    ".L_x_2:",
    "1 BRA `(.L_x_2)",
)


def test_the_main_loop_is_the_innermost_one():
    body = code(*NESTED).main_loop()
    assert [i.opcode for i in body] == ["LDS.128", "FFMA", "FFMA", "FFMA", "BRA"]
    assert [i.stall for i in body] == [2, 2, 1, 1, 5]


def test_a_product_of_zeros_moves_a_number():
    assert most_frequent(code(*NESTED).main_loop()) == ("FFMA", 2)


def test_a_loop_without_products_is_judged_by_its_requests():
    found = code(
        ".L_x_0:",
        "1 IADD3 R1, R1, 1, RZ",
        "1 IADD3 R1, R1, 1, RZ",
        "1 ISETP P0",
        "5 @P0 BRA `(.L_x_0)",
        ".L_x_1:",
        "1 LDG.E R1, [R2]",
        "5 @P0 BRA `(.L_x_1)",
    )
    assert found.main_loop()[0].opcode == "LDG.E"


def test_code_without_a_loop_is_its_own():
    assert len(code("1 LDG.E R1, [R2]", "5 EXIT").main_loop()) == 2


def test_what_is_forbidden():
    routine = (
        ".L_x_0:",
        "1 CALL.REL.NOINC `(.L_x_9)",
        "5 @P0 BRA `(.L_x_0)",
        "5 EXIT",
        ".L_x_9:",
        "1 I2F.U64.RP R1, R2",
        "5 RET.REL.NODEC R20",
    )
    assert forbidden(code(*routine), False) == ("1 integer division in a loop",)
    assert forbidden(code("1 I2F.U32.RP R1, R2", "5 EXIT"), False) == ()
    assert forbidden(code("1 DFMA R2, R4, R6, R2", "1 F2F.F64.F32 R2, R4", "1 STL [R1], R2"), False) == ("1 DFMA", "1 F2F", "1 STL")
    assert forbidden(code("1 DFMA R2, R4, R6, R2", "1 STL [R1], R2"), True) == ("1 STL",)


EVIDENCE = Evidence("sm_80", 96, 0, 0, 16640, 0.25, "registers", 73, 64, "FFMA", 2.4, {"FFMA": 64}, ())


@pytest.mark.parametrize(
    "quantity, worse",
    [
        ("registers", {"registers": 101}),
        ("spills", {"spills": 4}),
        ("stack", {"stack": 8}),
        ("occupancy", {"occupancy": 0.125}),
        ("share", {"loop": 76}),
        ("product", {"product": "DFMA"}),
        ("forbidden", {"forbidden": ("39 DADD",)}),
    ],
)
def test_each_regression_is_told_with_golden_and_found(quantity, worse):
    table = {"k": {"sm_80": golden.quantities(EVIDENCE)}}
    assert golden.regressions("k", EVIDENCE, table) == []
    (line,) = golden.regressions("k", replace(EVIDENCE, **worse), table)
    now = golden.quantities(replace(EVIDENCE, **worse))[quantity]
    assert line == f"k on sm_80: {quantity}: golden {table['k']['sm_80'][quantity]}, found {now}"


def test_a_kernel_that_is_not_in_the_table_is_told():
    assert "not in the golden table" in golden.regressions("k", EVIDENCE, {})[0]


def test_writing_keeps_other_ops_and_targets():
    one, other = replace(EVIDENCE, registers=1), replace(EVIDENCE, target="sm_100")
    table = golden.merged({}, [("matmul old", EVIDENCE), ("matmul old", other), ("sum s", EVIDENCE)])
    table = golden.merged(table, [("matmul new", one)])
    assert {name: list(of) for name, of in table.items()} == {"matmul new": ["sm_80"], "matmul old": ["sm_100"], "sum s": ["sm_80"]}
    table = golden.merged(table, [("matmul newer", one)], "serving")
    assert "sm_80" in table["matmul new"] and "sm_80" in table["matmul newer"]


def test_without_an_assembler_there_is_a_line_to_install(monkeypatch):
    monkeypatch.setattr(assemble, "tool", lambda name: None)
    assert "pip install 'gnomon[cuda-dev]'" in assemble.missing()
    with pytest.raises(assemble.MissingAssembler, match="ptxas"):
        assemble.run("ptxas", "--version")


# What is really compiled.

SERVED = ("matmul", "conv2d", "conv2d_weight_grad", "adam_step", "sum")
QUICK = ("sm_80", "sm_100")


@pytest.fixture
def assembler():
    """Static evidence can be had; otherwise the case is counted as not run, with the reason."""
    reason = "numba-cuda is not installed (pip install 'gnomon[cuda-dev]')" if find_spec("numba_cuda") is None else missing()
    if reason:
        tally.not_run(f"cuda, static evidence: {reason}")
        pytest.skip(reason)


def no_worse(op, rungs, targets, every=False):
    """`every`: in all dtypes that a rung takes, not only in the first, float32 where it takes that."""
    from benchmarks.cuda_static import found, subjects

    table = golden.told()["kernels"]
    asked = [s for s in subjects(op, rungs) if every or s.dtype == min(s.rung.rtol)]
    evidence = [(s, found(s, target)) for s in asked for target in targets]
    worse = [line for s, e in evidence for line in golden.regressions(s.name, e, table)]
    assert not worse, "\n".join(worse)
    for _, e in evidence:
        tally.ran(e.target, "static evidence is no worse than golden")
    return evidence


@pytest.mark.parametrize("op", SERVED)
def test_served_kernels_are_no_worse_than_the_golden_table(assembler, op):
    no_worse(op, "serving", QUICK)


OPS = []
if find_spec("numba_cuda"):
    from benchmarks.cuda_static import ops

    OPS = ops()


@pytest.mark.exhaustive
@pytest.mark.parametrize("op", OPS)
def test_all_kernels_are_no_worse_than_the_golden_table(assembler, op):
    from benchmarks.cuda_static import TARGETS

    no_worse(op, "all", TARGETS, every=True)


@pytest.mark.exhaustive
def test_nothing_in_the_golden_table_is_gone(assembler):
    from benchmarks.cuda_static import subjects

    assert sorted(golden.told()["kernels"]) == sorted(s.name for op in OPS for s in subjects(op))


@pytest.mark.parametrize(
    "target, share, op", [("sm_80", 0.75, "matmul"), ("sm_100", 0.85, "matmul"), ("sm_80", 0.6, "conv2d"), ("sm_100", 0.6, "conv2d")]
)
def test_the_loop_of_the_served_products_is_products(assembler, target, share, op):
    """The targets of float32: share of FFMA; of the matrix product also 96 registers."""
    _, e = no_worse(op, "serving", [target])[0]
    assert e.product == "FFMA" and e.share >= share and e.spills == e.stack == 0 and not e.forbidden
    if op == "matmul":
        assert e.registers <= 96
    assert sum(e.mix.values()) == e.loop and 1 < e.issue < 3


def test_a_literal_of_float64_is_found_in_a_real_kernel(assembler):
    from numba import cuda

    from kernels.cuda.launch import Launch
    from kernels.cuda.static import evidence

    def doubled(x, y):
        i = np.uint32(cuda.grid(1))
        if i < x.size:
            y[i] = x[i] * 1.1

    x = np.zeros(8, np.float32)
    e = evidence(Launch(doubled, (1,), (128,), (x, x), (x,), 0, (128,)), (8, 0))
    assert any("DMUL" in what for what in e.forbidden)


def test_the_command_prints_and_judges(assembler, tmp_path):
    import json

    from engine.cli.group import gnomon

    done = CliRunner().invoke(gnomon, ["bench", "--cuda-static", "matmul", "--target", "sm_80", "--json", str(tmp_path / "e.json")])
    assert done.exit_code == 0 and "static: " in done.output and "no worse than the golden table" in done.output
    (first, *_) = json.loads((tmp_path / "e.json").read_text())
    assert first["label"] == "static" and first["kernel"].startswith("in_background") and set(first["roofline"]) > {"RTX 4090"}


@pytest.mark.numba_cuda
def test_the_command_without_an_assembler_says_what_to_install(monkeypatch, capsys):
    from engine.cli.group import run

    monkeypatch.setattr(assemble, "tool", lambda name: None)
    assert run(["bench", "--cuda-static", "matmul"]) == 1
    assert "pip install 'gnomon[cuda-dev]'" in capsys.readouterr().err
