"""`gnomon emulate` as a user meets it, the function for notebooks, and the drawing of addresses."""

import json
import shlex

import numpy as np
import pytest
import tally
from hand_written import kernel

from engine.__main__ import main
from kernels.cuda.emulate import Fault, run

DOUBLED = """
setp.ge.u32 %p1, %i, 100; @%p1 bra done;
mad.lo.s64 %q1, %j, 4, %a0; mad.lo.s64 %q2, %j, 4, %a1; ld.global.f32 %f1, [%q1]; add.f32 %f2, %f1, %f1; st.global.f32 [%q2], %f2;
done:
"""


@pytest.fixture
def gnomon(capsys):
    """Run a command; returns its exit code, stdout and stderr."""

    def command(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return command


@pytest.fixture
def doubled(tmp_path):
    path = tmp_path / "doubled.ptx"
    path.write_text(kernel(DOUBLED, 2, target="sm_80"))
    return path


def test_a_run_says_what_it_did(gnomon, doubled):
    code, out, _ = gnomon("emulate", doubled, "f32:100", "f32:100:empty", "--grid", "4", "--expect", "a1 = 2 * a0", "--count")
    assert code == 0
    assert "4 x 1 x 1 blocks of 32 x 1 x 1 threads, sm_80, emulated" in out and "checks passed: alignment, barrier" in out
    assert "a0: 0 of 100 changed" in out and "a1: 100 of 100 changed" in out and "useful share of their bytes" in out
    code, out, _ = gnomon("emulate", f"{doubled}:kernel", "f32:100", "f32:100", "--grid", "4", "--lines")
    assert code == 0 and "ld.global.f32 %f1, [%q1]" in out
    code, out, _ = gnomon("emulate", doubled, "f32:100:range", "f32:100", "--grid", "4", "--json", "--count", "--no-check")
    told = json.loads(out)
    assert told["emulated"] and told["checks"] == [] and told["counts"]["global_loads"]["requests"] == 4 and told["unexpected"] == []
    tally.ran("cuda", "a command of the emulator")


def test_a_broken_rule_is_told_and_exits_with_1(gnomon, doubled):
    code, out, err = gnomon("emulate", doubled, "f32:90", "f32:100", "--grid", "4")
    assert code == 1 and out == "" and "bounds: reads 4 bytes at offset 360 of a0, which has 360 bytes" in err and "PTX line" in err
    code, out, err = gnomon("emulate", doubled, "f32:100:empty", "f32:100", "--grid", "4")
    assert code == 1 and "uninitialised: reads 4 bytes at offset 0 of a0" in err
    code, out, err = gnomon("emulate", doubled, "f32:100", "f32:100", "--grid", "4", "--expect", "a1=a0")
    assert code == 1 and "a1 is not a0: they differ by" in err
    code, out, err = gnomon("emulate", doubled, "f32:100", "f32:100", "--block", "2048")
    assert code == 1 and "limit: 2048 threads of a block; sm_80 has 1024" in err


@pytest.mark.parametrize(
    "arguments, says",
    [
        ((), "14 parameters, these arguments fill 0"),
        (("f32:100", "f32=5"), "14 parameters, these arguments fill 8"),
        (("f33:100",), "Did you mean f32"),
        (("f32:100:zero",), "Did you mean zeros"),
        (("f32:4x",), "is no argument, such as"),
        (("u32=-1",), "u32=-1: -1 is no u32"),
        (("f32:100", "--grid", "1x2"), "is no size, such as 4"),
        (("f32:100", "--check", "rac"), "Did you mean race"),
        (("f32:100", "f32:100", "--grid", "4", "--expect", "b=a0"), "with a name of a0, a1"),
        (("f32:100", "f32:100", "--grid", "4", "--expect", "a1=a0+c"), "NameError"),
    ],
)
def test_what_is_not_understood_exits_with_2(gnomon, doubled, arguments, says):
    code, _, err = gnomon("emulate", doubled, *arguments)
    assert code == 2 and says in err


@pytest.mark.parametrize("word", ["numpy", "no_such_module:f", "math:no_such", "numpy:zeros"])
def test_what_is_no_kernel(gnomon, word):
    code, _, err = gnomon("emulate", word, "f32:8")
    assert code in (1, 2) and err


def test_a_missing_file(gnomon):
    code, _, err = gnomon("emulate", "nowhere.ptx", "f32:8")
    assert code == 1 and "nowhere.ptx: No such file" in err


def test_the_drawing_shows_sectors_and_banks(gnomon, doubled, tmp_path):
    picture = tmp_path / "lanes.png"
    code, _, _ = gnomon("emulate", doubled, "f32:100", "f32:100", "--grid", "4", "--picture", picture)
    assert code == 0 and picture.read_bytes().startswith(b"\x89PNG")
    body = (
        "mov.u32 %r1, tile; mad.lo.u32 %r1, %tid, 128, %r1; st.shared.u32 [%r1], 0; "
        "mad.lo.s64 %q1, %j, 16, %a0; ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%q1];"
    )
    text = kernel(body + "ld.global.u32 %r6, [%a0];", declared=".shared .b8 tile[8192];")
    report = run(text, None, 2, 64, [np.zeros(512, "u4")], touches=True, names=["x"])
    store, words, one = report.touches
    assert (store.shared, store.width, store.cost) == (True, 4, "32 wavefronts, 1 at best") and (store.offsets == 128 * np.arange(32)).all()
    assert (words.where, words.width, words.cost) == ("x", 16, "16 sectors, 100% useful") and (words.lanes == np.arange(32)).all()
    assert one.cost == "1 sector, 12% useful" and (one.offsets == 0).all()
    axes = report.picture().axes
    assert len(axes) == 3 and "store of shared memory: 32 wavefronts" in axes[0].get_title(loc="left")
    shown = {(int(t.get_position()[0]), int(t.get_position()[1])): t.get_text() for t in axes[0].texts}
    assert shown == {(0, lane): str(lane) for lane in range(32)}
    assert [t.get_text() for t in axes[2].texts] == ["0+"]
    with pytest.raises(ValueError, match="touches=True"):
        run(text, None, 1, 32, [np.zeros(512, "u4")]).picture()


@pytest.mark.numba_cuda
def test_the_examples_of_the_help_work_when_pasted(gnomon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, out, _ = gnomon("emulate", "--help")
    examples = [line.strip() for line in out.splitlines() if line.strip().startswith("gnomon emulate kernels.")]
    assert len(examples) == 5
    wanted = {"without_guard": "bounds: reads 4 bytes at offset 4000 of x", "without_barrier": "race: reads"}
    for line in examples:
        code, out, err = gnomon(*shlex.split(line)[1:])
        fault = next((words for name, words in wanted.items() if name in line), None)
        assert (code, fault in err) == (1, True) if fault else code == 0, (line, err)
    assert (tmp_path / "lanes.png").exists()


@pytest.mark.numba_cuda
def test_a_function_of_a_notebook_or_one_under_jit():
    from numba import cuda

    from kernels.cuda.emulate import emulate, examples

    x, y = np.arange(50, dtype="f4"), np.zeros(50, "f4")
    for f in (examples.doubled, cuda.jit(examples.doubled)):
        y[:] = 0
        report = emulate(f, x, y, grid=2, block=32)
        assert (y == 2 * x).all() and "sm_80, emulated" in str(report) and report.counts.global_loads.requests == 2
        assert [t.where for t in report.touches] == ["x", "y"]
    z = np.zeros((50, 2), "f4")
    emulate(examples.doubled, x[::-1], z[:, 1], grid=2, block=32, cc=(10, 0))
    assert (z[:, 1] == 2 * x[::-1]).all() and (z[:, 0] == 0).all()
    x.flags.writeable = False
    emulate(examples.doubled, x, y, grid=2, block=32)
    with pytest.raises(Fault, match="limit: PTX for sm_90 does not run on sm_80"):
        emulate(examples.doubled, x, y, grid=2, block=32, cc=(9, 0), target="sm_80")


@pytest.mark.numba_cuda
@pytest.mark.parametrize("name, fronts, sectors", [("transposed", 16.5, 4), ("transposed_straight", None, 18)])
def test_the_lessons_count_what_their_docstrings_say(name, fronts, sectors):
    from kernels.cuda.emulate import emulate, examples

    x, y = np.random.default_rng(0).normal(size=(64, 64)).astype("f4"), np.zeros((64, 64), "f4")
    counts = emulate(getattr(examples, name), x, y, grid=(2, 2), block=(32, 32)).counts
    assert (y == x.T).all() and counts.wavefronts_per_request() == fronts and counts.sectors_per_request() == sectors
