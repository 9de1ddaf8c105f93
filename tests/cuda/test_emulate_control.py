"""Branches, loops, predicates, calls, barriers: threads part and meet."""

import numpy as np
import pytest
import tally
from hand_written import elementwise, kernel, same
from hypothesis import given
from hypothesis import strategies as st

from kernels.cuda.emulate import Fault, PtxError, Unsupported, parse, run

N = 70


def written(body, threads=N, blocks=1, **options):
    """What each thread leaves in %r0."""
    out = np.zeros(threads * blocks, "u4")
    report = run(kernel(body + "\nmad.lo.s64 %q40, %j, 4, %a0; st.global.u32 [%q40], %r0;", **options), None, blocks, threads, [out])
    return out, report


def test_both_sides_of_a_branch():
    body = """
    setp.lt.u32 %p1, %i, 20; @%p1 bra low; mul.lo.u32 %r0, %i, 10; bra.uni join;
    low: add.u32 %r0, %i, 1000;
    join: add.u32 %r0, %r0, 1;
    """
    i = np.arange(N)
    same(written(body)[0], np.where(i < 20, i + 1001, i * 10 + 1).astype("u4"))


def collatz(n):
    steps = 0
    while n != 1:
        n, steps = (3 * n + 1 if n % 2 else n // 2), steps + 1
    return steps


def test_loops_of_different_lengths():
    body = """
    add.u32 %r1, %i, 1; mov.u32 %r0, 0;
    loop: setp.eq.u32 %p1, %r1, 1; @%p1 bra done;
    and.b32 %r2, %r1, 1; setp.eq.u32 %p2, %r2, 0; add.u32 %r0, %r0, 1;
    @%p2 bra even; mad.lo.u32 %r1, %r1, 3, 1; bra.uni loop;
    even: shr.u32 %r1, %r1, 1; bra.uni loop;
    done:
    """
    same(written(body)[0], np.array([collatz(i + 1) for i in range(N)], "u4"))


def test_threads_that_leave_early():
    body = "mov.u32 %r0, 5; mad.lo.s64 %q1, %j, 4, %a0; st.global.u32 [%q1], 1; setp.gt.u32 %p1, %i, 30; @%p1 exit; mov.u32 %r0, 7;"
    same(written(body)[0], np.where(np.arange(N) > 30, 1, 7).astype("u4"))


def test_guards_of_any_instruction():
    body = """
    mov.u32 %r0, 1; rem.u32 %r1, %i, 3; setp.eq.u32 %p1, %r1, 0; setp.eq.u32 %p2, %r1, 1; setp.gt.u32 %p3, %i, 1000;
    @%p1 add.u32 %r0, %r0, 10; @!%p1 add.u32 %r0, %r0, 20; @%p2 mov.b64 {%r5, %r0}, 0x700000000; @%p3 mov.u32 %r0, 999;
    mad.lo.s64 %q1, %j, 4, %a0; st.global.u32 [%q1], %r0; @%p1 ld.global.u32 %r0, [%q1]; @%p1 add.u32 %r0, %r0, 1;
    """
    i = np.arange(N) % 3
    same(written(body)[0], np.where(i == 0, 12, np.where(i == 1, 7, 21)).astype("u4"))


def test_what_a_guard_leaves_alone_is_not_accessed():
    """Addresses of lanes that a predicate switches off may be anything."""
    body = (
        "mov.u32 %r0, 3; setp.lt.u32 %p1, %i, 4; mul.wide.u32 %q1, %i, 1000000; "
        "add.s64 %q1, %q1, %a0; @%p1 bra skip; skip: setp.eq.u32 %p2, %i, 0;"
    )
    same(written(body + "@%p2 ld.global.u32 %r0, [%q1];")[0], np.where(np.arange(N) == 0, 0, 3).astype("u4"))


def test_a_table_of_branches():
    body = """
    and.b32 %r1, %i, 3;
    targets: .branchtargets zero, one, two, zero;
    brx.idx %r1, targets;
    zero: mov.u32 %r0, 100; bra.uni join;
    one: mov.u32 %r0, 101; bra.uni join;
    two: mov.u32 %r0, 102;
    join:
    """
    same(written(body)[0], np.array([100, 101, 102, 100], "u4")[np.arange(N) & 3])


FUNCTIONS = """
.func (.param .b32 result) twice (.param .b32 x)
{ .reg .b32 %r<3>; .reg .pred %p<2>; ld.param.u32 %r1, [x]; setp.gt.u32 %p1, %r1, 50; @%p1 bra large;
  add.u32 %r2, %r1, %r1; st.param.u32 [result], %r2; ret;
  large: mov.u32 %r2, 7; st.param.u32 [result+0], %r2; ret; }
.func (.param .b32 result) twice_and_one (.param .b32 x)
{ .reg .b32 %r<3>; ld.param.u32 %r1, [x];
  { .param .b32 param0; st.param.b32 [param0], %r1; .param .b32 retval0; call.uni (retval0), twice, (param0); ld.param.b32 %r2, [retval0]; }
  add.u32 %r2, %r2, 1; st.param.u32 [result], %r2; ret; }
"""


def test_calls_of_functions():
    call = (
        "{ .param .b32 param0; st.param.b32 [param0], %i; .param .b32 retval0; "
        "call (retval0), twice_and_one, (param0); ld.param.b32 %r0, [retval0]; }"
    )
    i = np.arange(N)
    same(written(call, declared=FUNCTIONS)[0], np.where(i > 50, 8, 2 * i + 1).astype("u4"))


def test_a_call_that_some_threads_make():
    call = (
        "{ .param .b32 param0; st.param.b32 [param0], %i; .param .b32 retval0; "
        "@!%p1 call (retval0), twice, (param0); @!%p1 ld.param.b32 %r0, [retval0]; }"
    )
    i = np.arange(N)
    body = "mov.u32 %r0, 3; setp.gt.u32 %p1, %i, 40;" + call
    same(written(body, declared=FUNCTIONS)[0], np.where(i > 40, 3, 2 * i).astype("u4"))


def test_a_call_without_an_end_or_a_body_is_refused():
    endless = ".func f () { call f; ret; }"
    with pytest.raises(PtxError, match="recursion"):
        written("call f;", declared=endless)
    with pytest.raises(Unsupported, match="calls elsewhere, of which this text has no body"):
        written("call elsewhere;", declared=".extern .func elsewhere ();")


def test_the_registers_of_an_inner_scope_are_its_own():
    body = (
        "mov.u32 %r1, 5; { .reg .u32 %r1; .reg .pred p; mov.u32 %r1, 9; setp.eq.u32 p, %r1, 9; "
        "@p add.u32 %r0, %r1, 1; } add.u32 %r0, %r0, %r1;"
    )
    same(written(body)[0], np.full(N, 15, "u4"))


def test_a_trap_stops_the_kernel():
    with pytest.raises(Fault, match="trap: the kernel stops itself") as stopped:
        written("setp.eq.u32 %p1, %i, 33; @%p1 trap; mov.u32 %r0, 1;")
    assert [t.thread for t in stopped.value.threads] == [(33, 0, 0)]


@pytest.mark.parametrize(
    "op, value", [("popc.u32", lambda yes: yes.sum()), ("and.pred", lambda yes: yes.all()), ("or.pred", lambda yes: yes.any())]
)
def test_barriers_that_count(op, value):
    d = "%r0" if op.startswith("popc") else "%p2"
    body = (
        f"mov.u32 %r0, 0; rem.u32 %r1, %i, 5; setp.eq.u32 %p1, %r1, 0; "
        f"setp.ge.u32 %p3, %i, 140; or.pred %p1, %p1, %p3; bar.red.{op} {d}, 0, %p1;"
    )
    body += "selp.u32 %r0, 1, 0, %p2;" if d == "%p2" else ""
    yes = ((np.arange(3 * N) % 5 == 0) | (np.arange(3 * N) >= 140)).reshape(3, N)
    same(written(body, blocks=3)[0], np.repeat([int(value(y)) for y in yes], N).astype("u4"))


@pytest.mark.parametrize("line", ["bar.sync 1, 64;", "barrier.sync.aligned 0;", "barrier.cta.sync 0;", "bar.cta.sync 0;"])
def test_other_names_of_a_barrier(line):
    body = (
        "shl.b32 %r1, %tid, 2; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2; "
        "st.shared.u32 [%r1], %tid; {} xor.b32 %r1, %r1, 128; ld.shared.u32 %r0, [%r1];"
    )
    got, _ = written(body.format(line), threads=64, declared=".shared .align 256 .b8 tile[256];")
    same(got, (np.arange(64) ^ 32).astype("u4"))


def test_a_barrier_of_some_threads_is_not_interpreted():
    with pytest.raises(Unsupported, match=r"bar\.sync"):
        written("mov.u32 %r0, 0; bar.sync 1, 32;", threads=64)


def test_a_barrier_in_a_branch_that_all_of_a_block_take():
    body = """
    mov.u32 %r0, 0; setp.eq.u32 %p1, %cta, 1; @%p1 bra skip;
    shl.b32 %r1, %tid, 2; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2; st.shared.u32 [%r1], %tid; bar.sync 0;
    xor.b32 %r1, %r1, 4; ld.shared.u32 %r0, [%r1];
    skip:
    """
    got, _ = written(body, blocks=2, declared=".shared .align 256 .b8 tile[288];")
    same(got, np.concatenate([np.arange(N) ^ 1, np.zeros(N)]).astype("u4"))


def test_special_registers():
    out = np.zeros((2 * 3 * 2, 4 * 2 * 5, 9), "u4")
    names = ["tid.x", "tid.y", "tid.z", "ctaid.x", "ctaid.y", "ctaid.z", "laneid", "warpid", "lanemask_lt"]
    body = """mov.u32 %r1, %ctaid.z; mov.u32 %r2, %nctaid.y; mov.u32 %r3, %ctaid.y; mad.lo.u32 %r1, %r1, %r2, %r3; mov.u32 %r2, %nctaid.x;
    mov.u32 %r3, %ctaid.x; mad.lo.u32 %r1, %r1, %r2, %r3; mov.u32 %r4, %tid.z; mov.u32 %r2, %ntid.y; mov.u32 %r3, %tid.y;
    mad.lo.u32 %r4, %r4, %r2, %r3; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.u32 %r4, %r4, %r2, %r3; mad.lo.u32 %r1, %r1, 40, %r4;
    mul.wide.u32 %q1, %r1, 36; add.s64 %q1, %q1, %a0;"""
    body += "".join(f"mov.u32 %r5, %{name}; st.global.u32 [%q1+{4 * i}], %r5;" for i, name in enumerate(names))
    run(kernel(body), None, (2, 3, 2), (4, 2, 5), [out.ravel()])
    for b in range(12):
        for t in range(40):
            lane = t % 32
            wanted = [t % 4, t // 4 % 2, t // 8, b % 2, b // 2 % 3, b // 6, lane, t // 32, (1 << lane) - 1]
            assert out[b, t].tolist() == wanted


PIECES = st.recursive(
    st.tuples(st.just("step"), st.integers(1, 9)),
    lambda inner: st.one_of(
        st.tuples(st.just("if"), st.integers(2, 7), st.lists(inner, max_size=3), st.lists(inner, max_size=3)),
        st.tuples(st.just("for"), st.integers(2, 5), st.lists(inner, max_size=3)),
    ),
    max_leaves=12,
)


def as_ptx(pieces, lines, depth=0):
    for piece in pieces:
        k = len(lines)
        if piece[0] == "step":
            lines.append(f"mad.lo.u32 %r0, %r0, {2 * piece[1] + 1}, %i; add.u32 %r0, %r0, {piece[1]};")
        elif piece[0] == "if":
            lines.append(f"rem.u32 %r20, %r0, {piece[1]}; setp.eq.u32 %p1, %r20, 0; @!%p1 bra else{k};")
            as_ptx(piece[2], lines, depth)
            lines.append(f"bra.uni join{k}; else{k}:")
            as_ptx(piece[3], lines, depth)
            lines.append(f"join{k}:")
        else:
            counter = f"%r{21 + depth}"
            lines.append(
                f"rem.u32 {counter}, %i, {piece[1]}; loop{k}: setp.eq.u32 %p1, {counter}, 0; "
                f"@%p1 bra end{k}; sub.u32 {counter}, {counter}, 1;"
            )
            as_ptx(piece[2], lines, depth + 1)
            lines.append(f"bra.uni loop{k}; end{k}:")
    return lines


def in_python(pieces, i, v):
    for piece in pieces:
        if piece[0] == "step":
            v = (v * (2 * piece[1] + 1) + i + piece[1]) % 2**32
        elif piece[0] == "if":
            v = in_python(piece[2] if v % piece[1] == 0 else piece[3], i, v)
        else:
            for _ in range(i % piece[1]):
                v = in_python(piece[2], i, v)
    return v


@given(st.lists(PIECES, max_size=4))
def test_programs_of_branches_and_loops(pieces):
    body = "mov.u32 %r0, %i;\n" + "\n".join(as_ptx(pieces, [""]))
    same(written(body, blocks=2)[0], np.array([in_python(pieces, i, i) for i in range(2 * N)], "u4"))
    tally.ran("cuda", "a random program of branches")


def test_text_that_is_not_understood_is_told_with_its_line():
    with pytest.raises(PtxError, match="line 3: this declaration is not understood"):
        parse(".version 8.0\n.target sm_80\n.reg .foo %x;")
    with pytest.raises(PtxError, match="there is no kernel 'other'"):
        run(kernel("mov.u32 %r1, 1;"), "other", 1, 1, [np.zeros(1)])
    assert elementwise("/* a comment */ mov.u32 %d, %x0; // another", np.ones(1, "u4"), result="u4")[0] == 1
