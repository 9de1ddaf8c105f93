"""Each check with a kernel that it must stop and one, as near as can be, that it must not."""

import numpy as np
import pytest
import tally
from hand_written import kernel
from hypothesis import given
from hypothesis import strategies as st

from kernels.cuda.emulate import CHECKS, Fault, access, run
from kernels.cuda.emulate.checks import COLUMNS, touch

TILE = ".shared .align 16 .b8 tile[2048];"
MINE = (
    "shl.b32 %r1, %tid, 2; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2; mad.lo.s64 %q1, %j, 4, %a0;"  # my word of the tile, and of the array
)


def launched(body, threads=64, blocks=1, arrays=None, checks=True, declared=TILE, **options):
    arrays = [np.zeros(threads * blocks, "u4")] if arrays is None else arrays
    bounds, target = options.pop("bounds", ""), options.pop("written_for", "sm_80")
    return run(
        kernel(MINE + body, len(arrays), declared=declared, bounds=bounds, target=target),
        None,
        blocks,
        threads,
        arrays,
        checks=checks,
        **options,
    )


def stopped(check, body, words=None, **options):
    """The fault that a kernel is stopped by; with the check switched off, if it can be, it runs."""
    with pytest.raises(Fault, match=words) as fault:
        launched(body, **options)
    assert fault.value.check == check and str(fault.value).startswith(check)
    if check not in ("bounds", "alignment"):
        launched(body, **{**options, "checks": tuple(c for c in CHECKS if c != check)})
    tally.ran("cuda", f"a fault of the check {check}")
    return fault.value


def test_bounds_name_the_threads():
    fault = stopped("bounds", "st.global.u32 [%q1+16], 1;", "writes 4 bytes at offset 256 of argument 0, which has 256 bytes")
    assert [t.thread[0] for t in fault.threads] == [60, 61, 62, 63] and fault.count == 4
    assert fault.line and "st.global" in fault.instruction.text
    launched("setp.lt.u32 %p1, %tid, 60; @%p1 st.global.u32 [%q1+16], 1;")
    fault = stopped("bounds", "ld.global.u32 %r3, [%q1+-4];", "offset -4 of argument 0", blocks=2)
    assert fault.threads[0].block == (0, 0, 0) and fault.threads[0].thread == (0, 0, 0) and fault.count == 1
    stopped("bounds", "ld.global.u32 %r3, [%j];", "address 0x0, where nothing is")
    stopped("bounds", "st.shared.u32 [%r1+1800], 1;", "offset 2048 of shared memory, of which there are 2048 bytes")
    stopped("bounds", ".local .b8 mine[8]; mov.u64 %q5, mine; st.local.u64 [%q5+4], 0;", "offset 4 of local memory")


def test_no_index_reaches_another_array():
    """On a device the first array is followed by the second: what is read there is wrong, not a fault."""
    a, b = np.zeros(64, "u4"), np.zeros(1 << 16, "u4")
    stopped("bounds", "ld.global.u32 %r3, [%q1+20000];", "offset 20000 of argument 0", arrays=[a, b])
    launched("mad.lo.s64 %q1, %j, 4, %a1; ld.global.u32 %r3, [%q1+20000];", arrays=[a, b])


def test_a_read_only_array_is_not_written():
    x = np.zeros(64, "u4")
    x.flags.writeable = False
    stopped("bounds", "st.global.u32 [%q1], 1;", "which is read-only", arrays=[x])
    launched("ld.global.u32 %r3, [%q1];", arrays=[x])


def test_alignment():
    fault = stopped("alignment", "ld.global.v2.u32 {%r3, %r4}, [%q1];", "must be at a multiple of 8", arrays=[np.zeros(65, "u4")])
    assert [t.thread[0] for t in fault.threads] == [1, 3, 5, 7] and fault.count == 32
    launched("mad.lo.s64 %q1, %j, 8, %a0; ld.global.v2.u32 {%r3, %r4}, [%q1];", arrays=[np.zeros(128, "u4")])
    stopped("alignment", "add.u32 %r3, %r1, 2; ld.shared.u32 %r4, [%r3];", "offset 2 of shared memory")


def test_reads_of_what_nobody_wrote():
    text = "reads 4 bytes at offset 0 of shared memory that nobody has written"
    fault = stopped("uninitialised", "ld.shared.u32 %r3, [%r1];", text)
    assert fault.count == 64 and fault.address == 0
    launched("st.shared.u32 [%r1], 1; ld.shared.u32 %r3, [%r1];")
    stopped("uninitialised", "st.shared.u8 [%r1], 1; ld.shared.u32 %r3, [%r1];", text)
    stopped("uninitialised", ".local .align 4 .b8 mine[8]; st.local.u32 [mine], 1; ld.local.u32 %r3, [mine+4];", "offset 4 of local memory")
    stopped("uninitialised", "ld.global.u32 %r3, [%q1];", "offset 0 of argument 0", uninitialised=[0])
    launched("st.global.u32 [%q1], 1; ld.global.u32 %r3, [%q1];", uninitialised=[0])
    stopped("uninitialised", "atom.shared.add.u32 %r3, [tile], 1;", text)
    # what a block left in shared memory is not there for the next
    stopped("uninitialised", "setp.eq.u32 %p1, %cta, 0; @%p1 st.shared.u32 [%r1], 1; ld.shared.u32 %r3, [%r1];", text, blocks=2)


WRITE = "st.shared.u32 [%r1], %tid; "
NEIGHBOUR = "xor.b32 %r3, %r1, 128; "  # the same lane of the other warp


def test_a_missing_barrier_is_found_though_the_answer_is_right():
    read = NEIGHBOUR + "ld.shared.u32 %r4, [%r3]; st.global.u32 [%q1], %r4;"
    out = np.zeros(64, "u4")
    launched(WRITE + read, arrays=[out], checks=False)
    assert (out == np.arange(64) ^ 32).all()
    words = r"reads offset 128 of shared memory, which block \(0, 0, 0\) thread \(32, 0, 0\) wrote, with no barrier between"
    fault = stopped("race", WRITE + read, words)
    assert [t.thread[0] for t in fault.threads] == [0, 32]
    launched(WRITE + "bar.sync 0;" + read)


def test_a_write_after_a_read_and_after_a_write():
    into = WRITE + "bar.sync 0; "
    stopped(
        "race",
        into + "ld.shared.u32 %r4, [%r1]; " + NEIGHBOUR + "st.shared.u32 [%r3], 1;",
        "writes offset .* thread .* read, with no barrier",
    )
    launched(into + "ld.shared.u32 %r4, [%r1]; bar.sync 0; " + NEIGHBOUR + "st.shared.u32 [%r3], 1;")
    stopped("race", WRITE + NEIGHBOUR + "st.shared.u32 [%r3], 1;", "writes offset .* thread .* wrote, with no barrier")
    launched(WRITE + "st.shared.u32 [%r1], 1;")
    # of several readers the first is not forgotten
    one = (
        "setp.eq.u32 %p1, %tid, 0; @%p1 ld.shared.u32 %r4, [tile]; setp.eq.u32 %p2, %tid, 32; "
        "@%p2 ld.shared.u32 %r4, [tile]; @%p2 st.shared.u32 [tile], 1;"
    )
    stopped("race", into + one, "which block .* thread .0, 0, 0. read")
    stopped("race", into + one.replace("@%p2 st.shared", "@%p1 st.shared"), "which block .* thread .32, 0, 0. read")


def test_two_numbers_for_one_word():
    stopped("race", "st.shared.u32 [tile], %tid;", "threads write different numbers to offset 0", threads=32)
    launched("st.shared.u32 [tile], 5;", threads=32)
    stopped("race", "st.global.u32 [%a0], %cta;", "threads write different numbers to offset 0 of argument 0", blocks=2)


def test_atomics_race_with_others_but_not_among_themselves():
    into = "setp.eq.u32 %p1, %tid, 0; @%p1 st.shared.u32 [tile], 0; bar.sync 0; atom.shared.add.u32 %r3, [tile], 1; "
    launched(into)
    stopped("race", into + "ld.shared.u32 %r4, [tile];", "reads offset 0 .* updated")
    launched(into + "bar.sync 0; ld.shared.u32 %r4, [tile];")


def test_bytes_of_one_word_are_apart():
    byte = "add.u32 %r5, %tid, %r2; st.shared.u8 [%r5], 1;"
    launched(byte)
    stopped("race", byte + "ld.shared.u32 %r4, [tile];")


def test_races_within_a_warp_only_if_asked_for():
    body = WRITE + "xor.b32 %r3, %r1, 4; {} ld.shared.u32 %r4, [%r3];"
    launched(body.format(""), threads=32)
    strict = (*CHECKS, "warp")
    with pytest.raises(Fault, match="race: reads offset 4"):
        launched(body.format(""), threads=32, checks=strict)
    launched(body.format("bar.warp.sync -1;"), threads=32, checks=strict)
    launched(body.format("bar.sync 0;"), threads=32, checks=strict)
    again = "ld.shared.u32 %r4, [%r1]; {} xor.b32 %r3, %r1, 4; st.shared.u32 [%r3], 1;"
    with pytest.raises(Fault, match="race: writes offset"):
        launched(WRITE + "bar.warp.sync -1;" + again.format(""), threads=32, checks=strict)
    launched(WRITE + "bar.warp.sync -1;" + again.format("bar.warp.sync -1;"), threads=32, checks=strict)


def test_barriers():
    words = "threads wait for 4 of their block that have ended"
    fault = stopped("barrier", "setp.lt.u32 %p1, %tid, 4; @%p1 exit; bar.sync 0;", words)
    assert fault.count == 60
    launched("setp.lt.u32 %p1, %tid, 4; @%p1 bra skip; st.global.u32 [%q1], 1; skip: bar.sync 0;")
    two = "setp.lt.u32 %p1, %tid, 32; @%p1 bra low; bar.sync 0; bra.uni done; low: bar.sync 0; done:"
    stopped("barrier", two, "threads of a block wait at different barriers, others of it at line")
    launched(two.replace("%tid, 32", "%tid, 64"))
    stopped("barrier", "setp.lt.u32 %p1, %tid, 4; @%p1 bar.sync 0; bar.sync 0;", "different barriers")


@pytest.mark.parametrize("options, words", [
    ({"threads": 1056}, "1056 threads of a block; sm_80 has 1024"),
    ({"written_for": "sm_90"} | {"target": "sm_80"}, "PTX for sm_90 does not run on sm_80"),
    ({"written_for": "sm_90a"} | {"target": "sm_100"}, "PTX for sm_90a does not run on sm_100"),
    ({"target": "sm_33"}, "PTX for sm_80 does not run on sm_33"),
    ({"target": "sm_99"}, "sm_99 is not known; there are sm_80, "),
    ({"declared": ".shared .b8 tile[49152]; .shared .b8 more[4];", "first": "st.shared.u8 [more], 0;"},
     "49156 bytes of shared variables of fixed size; sm_80 has 49152"),
    ({"declared": TILE + ".extern .shared .b8 more[];", "shared": 165000}, "bytes of shared memory of a block; sm_80 has 166912"),
    ({"bounds": ".maxntid 32, 1, 1"}, "blocks of 64 threads; the kernel was compiled for at most 32, by .maxntid"),
    ({"bounds": ".maxntid 1024, 1, 1 .minnctapersm 3"}, "3072 threads of a multiprocessor, by the kernel's launch bounds; sm_80 has 2048"),
    ({"bounds": ".reqntid 32, 2, 1"}, r"blocks of \(64, 1, 1\) threads; the kernel asks for \(32, 2, 1\)"),
    ({"bounds": ".maxnreg 128", "threads": 1024}, "131072 registers of a block"),
    ({"declared": TILE + ".local .b8 mine[600000];"}, "600000 bytes of local memory of a thread"),
])  # fmt: skip
def test_limits(options, words):
    options = dict(options)
    with pytest.raises(Fault, match=words) as fault:
        launched(options.pop("first", "") + "st.shared.u32 [%r1], 1;", **options)
    assert fault.value.check == "limit"


def test_limits_differ_by_target():
    options = {"declared": TILE + ".extern .shared .b8 more[];", "shared": 200_000}
    launched("st.shared.u32 [%r1], 1;", **options, target="sm_90")
    with pytest.raises(Fault, match="sm_120 has 101376"):
        launched("st.shared.u32 [%r1], 1;", **options, target="sm_120")
    with pytest.raises(ValueError, match="no check foo"):
        launched("", checks=("foo",))


def test_what_was_written_before_a_fault_stays():
    out = np.zeros(64, "u4")
    with pytest.raises(Fault):
        launched("st.global.u32 [%q1], 9; ld.global.u32 %r3, [%q1+4000];", arrays=[out])
    assert (out == 9).all()


def test_a_fault_tells_the_line_of_the_source():
    body = ".loc 1 42 7\nst.global.u32 [%q1+16], 1;"
    text = kernel(MINE + body, 1, declared=TILE) + '\n.file 1 "lesson.py"\n'
    with pytest.raises(Fault, match=r"lesson\.py, line 42") as fault:
        run(text, None, 1, 64, [np.zeros(64, "u4")])
    assert fault.value.source == ("lesson.py", 42)


GRID = (*CHECKS, "grid")


def test_races_in_global_memory_only_if_asked_for():
    x = np.zeros(128, "u4")
    shifted = (
        "mad.lo.s64 %q2, %j, 4, %a0; st.global.u32 [%q2], 1; rem.u32 %r4, %i, 127; "
        "mul.wide.u32 %q3, %r4, 4; add.s64 %q3, %q3, %a0; {} ld.global.u32 %r5, [%q3+4];"
    )
    launched(shifted.format(""), arrays=[x], threads=128)
    with pytest.raises(Fault, match="race: reads offset 4 of argument 0, which block") as fault:
        launched(shifted.format(""), arrays=[x], threads=128, checks=(*GRID, "warp"))
    assert fault.value.check == "race" and [t.thread[0] for t in fault.value.threads] == [0, 1]
    launched(shifted.format("bar.sync 0;"), arrays=[x], threads=128, checks=(*GRID, "warp"))
    with pytest.raises(Fault, match=r"which block \(1, 0, 0\) thread \(0, 0, 0\) wrote"):  # no barrier orders two blocks
        launched(shifted.format("bar.sync 0;"), arrays=[x], blocks=2, checks=GRID)


def test_sums_of_many_blocks_race_unless_they_are_atomic():
    """The same number from all, block after block in waves: the sum is wrong, and only this check knows."""
    one = "setp.eq.u32 %p1, %tid, 0; @%p1 {}"
    add = "ld.global.u32 %r3, [%a0]; add.u32 %r3, %r3, 1; setp.eq.u32 %p1, %tid, 0; @%p1 st.global.u32 [%a0], %r3;"
    big = {"threads": 1024, "blocks": 40, "arrays": [np.zeros(40 * 1024, "u4")]}
    launched(add, **big)
    with pytest.raises(Fault, match=r"race: writes offset 0 of argument 0, which block .* (read|wrote)"):
        launched(add, **big, checks=GRID)
    launched(one.format("red.global.add.u32 [%a0], 1;"), **big, checks=GRID)
    with pytest.raises(Fault, match=r"block \(\d+, 0, 0\) thread \(0, 0, 0\) updated"):
        launched(one.format("red.global.add.u32 [%a0], 1;") + "ld.global.u32 %r3, [%a0];", **big, checks=GRID)
    launched(one.format("st.global.u32 [%q1], 1;") + "ld.global.u32 %r3, [%q1];", **big, checks=GRID)


def races(one, two, epochs_passed, steps_passed, strict, grid):
    """By definition: two accesses of different threads, one of them a plain write or the other one plain, that no barrier orders."""
    (kind, t), (earlier, u) = one, two
    if t == u or (kind == earlier == access.READ) or (kind == earlier == access.ATOMIC):
        return False
    if t // 64 != u // 64:
        return grid
    return not epochs_passed and (t // 32 != u // 32 or (strict and not steps_passed))


ACTS = st.one_of(
    st.tuples(st.sampled_from([access.READ, access.WRITE, access.ATOMIC]), st.sampled_from([0, 1, 2, 32, 33, 64, 65, 96])),
    st.tuples(st.just("barrier"), st.sampled_from([0, 1])),
    st.tuples(st.just("warp"), st.sampled_from([0, 1, 2, 3])),
)


@given(st.lists(ACTS, max_size=14), st.booleans(), st.booleans())
def test_races_are_found_when_and_only_when_there_are_some(acts, strict, grid):
    """Accesses of one byte by threads of two blocks of two warps, against the definition applied to all pairs."""
    if not grid:  # shared memory is a block's own
        acts = [(kind, who % 64 if isinstance(kind, int) else who % 2) for kind, who in acts]
    last, epoch, step = np.zeros((1, COLUMNS), np.int32), np.zeros(2, np.int32), np.zeros(4, np.int32)
    past = []
    for kind, who in acts:
        if kind == "barrier":
            epoch[who] += 1
        elif kind == "warp":
            step[who] += 1
        else:
            wanted = any(races((kind, who), (k, u), epoch[u // 64] != e, step[u // 32] != s, strict, grid) for k, u, e, s in past)
            other = np.zeros(2, np.int64)
            got = touch(last, 0, np.zeros(1, np.int64), 1, kind, np.array([who]), 0, 64, epoch, step, strict, grid, other)
            assert (got >= 0) == wanted
            if wanted:
                return
            past.append((kind, who, epoch[who // 64], step[who // 32]))
    tally.ran("cuda", "a random history of a byte")
