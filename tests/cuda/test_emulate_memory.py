"""State spaces, widths, vectors, atomics, generic addresses: what is stored is what is loaded."""

import numpy as np
import pytest
import tally
from hand_written import KIND, elementwise, floats, integers, kernel, same

from kernels.cuda.emulate import Fault, run

N = 96
LD = {"i1": "s8", "u1": "u8", "i2": "s16", "u2": "u16", "i4": "s32", "u4": "u32", "i8": "s64", "u8": "u64", "f4": "f32", "f8": "f64"}


@pytest.mark.parametrize("dtype", LD)
def test_every_width_is_copied(dtype):
    rng = np.random.default_rng(0)
    x = floats(rng, N, dtype) if dtype[0] == "f" else integers(rng, N, dtype)
    same(elementwise(f"mov.b{max(16, 8 * x.itemsize)} %d, %x0;", x, result=dtype), x)
    tally.ran("cuda", "an access of the emulator")


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2"])
def test_short_integers_are_extended_to_the_register(dtype):
    x = integers(np.random.default_rng(1), N, dtype)
    out = np.zeros(N, "i8")
    width = x.itemsize
    body = (
        f"mad.lo.s64 %q1, %j, {width}, %a0; ld.global.{LD[dtype]} %r1, [%q1]; "
        f"ld.global.{LD[dtype]} %q3, [%q1]; "
        f"cvt.{'s64.s32' if dtype[0] == 'i' else 'u64.u32'} %q2, %r1;"
    )
    body += "sub.s64 %q3, %q3, %q2; add.s64 %q2, %q2, %q3; mad.lo.s64 %q1, %j, 8, %a1; st.global.s64 [%q1], %q2;"
    run(kernel(body, 2), None, 1, N, [x, out])
    same(out, x.astype("i8"))


@pytest.mark.parametrize("count, kind", [(2, "f32"), (4, "f32"), (2, "f64"), (4, "u8"), (2, "u64"), (4, "b16")])
def test_vectors(count, kind):
    width = int(kind[1:]) // 8
    x = np.random.default_rng(2).integers(0, 256, N * count * width, dtype=np.uint8)
    letter = {"f32": "%f", "f64": "%g", "u64": "%q"}.get(kind, "%h")
    names = ", ".join(f"{letter}{i + 1}" for i in range(count))
    back = ", ".join(f"{letter}{count - i}" for i in range(count))
    out = np.zeros_like(x)
    step = count * width
    body = (
        f"mad.lo.s64 %q10, %j, {step}, %a0; mad.lo.s64 %q11, %j, {step}, %a1; "
        f"ld.global.v{count}.{kind} {{{names}}}, [%q10]; "
        f"st.global.v{count}.{kind} [%q11], {{{back}}};"
    )
    run(kernel(body, 2), None, 2, N // 2, [x, out])
    assert (out.reshape(N, count, width) == x.reshape(N, count, width)[:, ::-1]).all()


def test_strided_arrays_are_written_in_place():
    base = np.zeros((8, 10), "f4")
    column = base[::-1, 3]  # a negative stride: its first element lies last
    text = kernel("ld.param.u64 %q1, [p0_6]; mad.lo.s64 %q2, %j, %q1, %a0; cvt.rn.f32.u32 %f1, %i; st.global.f32 [%q2], %f1;")
    run(text, None, 1, 8, [column])
    assert (base[:, 3] == np.arange(8)[::-1]).all() and base.sum() == 28
    x = np.arange(20, dtype="f4")
    first, second = x[:12], x[8:]  # they overlap: one allocation
    text = kernel("st.global.f32 [%a0+44], 0f3F800000; ld.global.f32 %f1, [%a1+12]; st.global.f32 [%a1+16], %f1;", 2)
    run(text, None, 1, 1, [first, second])
    assert x[11] == 1 and x[12] == 1


def test_scalars_of_every_width_are_parameters():
    out = np.zeros(5, "f8")
    body = """
    ld.param.u8 %h1, [s0]; ld.param.s16 %h2, [s1]; ld.param.u32 %r1, [s2]; ld.param.f32 %f1, [s3]; ld.param.f64 %g5, [s4];
    cvt.rn.f64.u16 %g1, %h1; cvt.rn.f64.s16 %g2, %h2; cvt.rn.f64.u32 %g3, %r1; cvt.f64.f32 %g4, %f1;
    st.global.f64 [%a0], %g1; st.global.f64 [%a0+8], %g2; st.global.f64 [%a0+16], %g3; st.global.f64 [%a0+24], %g4;
    st.global.f64 [%a0+32], %g5;
    """
    text = kernel(body, 1, ("u8", "s16", "u32", "f32", "f64"))
    run(text, None, 1, 1, [out, np.uint8(200), np.int16(-3), np.uint32(7), np.float32(0.5), np.float64(0.1)])
    assert out.tolist() == [200, -3, 7, 0.5, 0.1]
    run(text, None, 1, 1, [out, True, -3, 7, 0.5, 0.1])
    assert out.tolist() == [1, -3, 7, 0.5, 0.1]
    run(text, None, 1, 1, [out, (np.uint8(2), np.int16(4)), np.uint32(7), (np.float32(0.5), np.float64(0.25))])
    assert out.tolist() == [2, 4, 7, 0.5, 0.25]
    with pytest.raises(TypeError, match="12 parameters, these arguments fill 8"):
        run(text, None, 1, 1, [out, np.uint8(1)])
    with pytest.raises(TypeError, match=r"8 bytes \(float64\) for a parameter of 1"):
        run(text, None, 1, 1, [out, np.float64(1), np.int16(-3), np.uint32(7), np.float32(0.5), np.float64(0.1)])


def test_shared_memory_is_a_blocks_own_and_local_memory_a_threads():
    out = np.zeros((4, 64), "u4")
    body = """
    .reg .b64 %depot; .local .align 8 .b8 depot[16];
    mov.u64 %depot, depot; st.local.u32 [%depot+4], %i;
    shl.b32 %r1, %tid, 2; mov.u32 %r2, tile; add.u32 %r2, %r2, %r1; st.shared.u32 [%r2], %i; bar.sync 0;
    xor.b32 %r3, %r1, 252; mov.u32 %r4, tile; add.u32 %r4, %r4, %r3; ld.shared.u32 %r5, [%r4];
    ld.local.u32 %r6, [%depot+4]; mad.lo.u32 %r5, %r5, 1000, %r6;
    mad.lo.s64 %q1, %j, 4, %a0; st.global.u32 [%q1], %r5;
    """
    run(kernel(body, declared=".shared .align 4 .b8 other[12]; .shared .align 16 .b8 tile[256];"), None, 4, 64, [out.ravel()])
    i = np.arange(256).reshape(4, 64)
    assert (out == i[:, ::-1] * 1000 + i).all()


def test_dynamic_shared_memory_comes_behind_the_rest():
    out = np.zeros(3, "u4")
    body = "mov.u32 %r1, more; mov.u32 %r2, %dynamic_smem_size; mov.u32 %r3, %total_smem_size; mov.u32 %r4, fixed; add.u32 %r4, %r4, 0;"
    body += (
        "st.global.u32 [%a0], %r1; st.global.u32 [%a0+4], %r2; st.global.u32 [%a0+8], %r3; "
        "st.shared.u32 [more+36], %r1; st.shared.u32 [fixed], %r1;"
    )
    declared = ".shared .align 4 .b8 fixed[20]; .extern .shared .align 16 .b8 more[];"
    run(kernel(body, declared=declared), None, 1, 1, [out], shared=40)
    assert out.tolist() == [32, 40, 72]
    with pytest.raises(Fault, match="bounds: writes 4 bytes at offset 68 of shared memory, of which there are 68"):
        run(kernel(body, declared=declared), None, 1, 1, [out], shared=36)


def test_variables_have_their_first_values_and_point_to_others():
    declared = """
    .const .align 4 .b8 bytes[8] = {1, 2, 3, 4, 0xFF};
    .global .align 8 .u64 pointer[2] = {bytes, generic(table)};
    .global .align 4 .f32 table[4] = {0f3F800000, 2.5, 3.0};
    .global .u32 counter;
    """
    out = np.zeros(5, "f4")
    body = """
    ld.const.u8 %r1, [bytes+4]; cvt.rn.f32.u32 %f1, %r1; st.global.f32 [%a0], %f1;
    mov.u64 %q1, pointer; ld.global.u64 %q2, [%q1+8]; ld.global.v2.f32 {%f2, %f3}, [%q2]; st.global.f32 [%a0+4], %f3;
    ld.global.f32 %f4, [table+12]; st.global.f32 [%a0+8], %f4;
    atom.global.add.u32 %r2, [counter], 3; ld.global.u32 %r3, [counter]; cvt.rn.f32.u32 %f5, %r3; st.global.f32 [%a0+12], %f5;
    ld.global.u64 %q3, [pointer]; ld.u8 %r4, [%q3+1]; cvt.rn.f32.u32 %f6, %r4; st.global.f32 [%a0+16], %f6;
    """
    run(kernel(body, declared=declared), None, 1, 1, [out])
    assert out.tolist() == [255, 2.5, 0, 3, 2]


def test_generic_addresses_reach_every_space():
    out = np.zeros((64, 4), "u4")
    body = """
    .local .align 4 .b8 mine[4];
    mov.u64 %q1, tile; cvta.shared.u64 %q2, %q1; mad.lo.s64 %q2, %j, 4, %q2; st.u32 [%q2], %i;
    mov.u64 %q3, mine; cvta.local.u64 %q4, %q3; add.u32 %r1, %i, 100; st.u32 [%q4], %r1;
    bar.sync 0;
    cvta.to.shared.u64 %q5, %q2; ld.shared.u32 %r2, [%q5]; cvta.to.local.u64 %q6, %q4; ld.local.u32 %r3, [%q6];
    isspacep.shared %p1, %q2; isspacep.global %p2, %a0; isspacep.local %p3, %q2;
    selp.u32 %r4, 1, 0, %p1; selp.u32 %r5, 2, 0, %p2; selp.u32 %r6, 4, 0, %p3; add.u32 %r4, %r4, %r5; add.u32 %r4, %r4, %r6;
    mad.lo.s64 %q7, %j, 16, %a0; cvta.to.global.u64 %q8, %q7; st.v4.u32 [%q8], {%r2, %r3, %r4, %r4};
    setp.lt.u32 %p4, %i, 32; selp.b64 %q9, %q2, %q7, %p4; st.u32 [%q9+0], 7;
    """
    run(kernel(body, declared=".shared .align 4 .b8 tile[256];"), None, 1, 64, [out.ravel()], checks=("bounds",))
    i = np.arange(64)
    assert (out[:, 0] == np.where(i < 32, i, 7)).all() and (out[:, 1] == i + 100).all() and (out[:, 2] == 3).all()


ATOMIC = {
    "add": lambda x, y: x + y, "min": min, "max": max, "and": lambda x, y: x & y, "or": lambda x, y: x | y, "xor": lambda x, y: x ^ y,
    "exch": lambda x, y: y, "inc": lambda x, y: 0 if x >= y else x + 1, "dec": lambda x, y: y if x == 0 or x > y else x - 1,
}  # fmt: skip


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize(
    "name, kind", [(n, k) for n in ATOMIC for k in ("u32", "s32", "u64", "s64") if k == "u32" or n not in ("inc", "dec")]
)
def test_atomics_of_integers_in_the_order_of_threads(name, kind, space):
    dtype = f"{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}"
    rng = np.random.default_rng(3)
    x, old = integers(rng, N, dtype), np.zeros(N, dtype)
    total = integers(rng, 1, dtype)
    letter = "%q" if kind[1:] == "64" else "%r"
    form = f"b{kind[1:]}" if name in ("and", "or", "xor", "exch") else kind
    width = x.itemsize
    place = "%a1" if space == "global" else "cell"
    into = f"ld.global.{kind} {letter}5, [%a1]; st.shared.{kind} [cell], {letter}5; bar.sync 0;" if space == "shared" else ""
    back = f"bar.sync 0; ld.shared.{kind} {letter}6, [cell]; st.global.{kind} [%a1], {letter}6;" if space == "shared" else ""
    body = (
        f"{into} mad.lo.s64 %q10, %j, {width}, %a0; ld.global.{kind} {letter}1, [%q10]; "
        f"atom.{space}.{name}.{form} {letter}2, [{place}], {letter}1;"
    )
    body += f"mad.lo.s64 %q11, %j, {width}, %a2; st.global.{kind} [%q11], {letter}2; {back}"
    value, seen = int(total[0]), []
    for y in map(int, x):
        seen.append(value)
        value = int(np.array([ATOMIC[name](value, y) % (1 << 8 * width)], f"u{width}").view(dtype)[0])
    run(kernel(body, 3, declared=".shared .align 8 .b8 cell[8];"), None, 1, N, [x, total, old], checks=("bounds",))
    assert old.tolist() == seen and int(total[0]) == value


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_atomic_sums_of_numbers(dtype):
    x = np.random.default_rng(4).normal(size=N).astype(dtype)
    total = np.ones(1, dtype)
    kind, letter, move = {"f4": ("f32", "%f", "f32"), "f8": ("f64", "%g", "f64"), "f2": ("f16", "%h", "b16")}[dtype]
    noftz = ".noftz" if dtype == "f2" else ""
    body = f"mad.lo.s64 %q10, %j, {x.itemsize}, %a0; ld.global.{move} {letter}1, [%q10]; red.global.add{noftz}.{kind} [%a1], {letter}1;"
    run(kernel(body, 2), None, 1, N, [x, total])
    wanted = np.ones(1, dtype)[0]
    for v in x:
        wanted = wanted + v
    assert total[0] == wanted


def test_compare_and_swap_loops_of_many_threads():
    x = np.random.default_rng(5).normal(size=N).astype("f4")
    top = np.full(3, -np.inf, "f4")
    body = """
    mad.lo.s64 %q1, %j, 4, %a0; ld.global.f32 %f1, [%q1]; rem.u32 %r9, %i, 3; mul.wide.u32 %q3, %r9, 4; add.s64 %q2, %a1, %q3;
    ld.global.u32 %r1, [%q2];
    again: mov.b32 %f2, %r1; max.f32 %f3, %f1, %f2; mov.b32 %r2, %f3; atom.global.cas.b32 %r3, [%q2], %r1, %r2;
    setp.ne.u32 %p1, %r3, %r1; mov.u32 %r1, %r3; @%p1 bra again;
    """
    run(kernel(body, 2), None, 3, N // 3, [x, top])
    assert top.tolist() == [x[i::3].max() for i in range(3)]


def test_a_lock_that_lanes_of_a_warp_fight_for_is_taken_in_turn():
    """The loop waits for what a thread beyond it must do: minimum PC alone would never let that one go on."""
    state = np.zeros(2, "u4")
    body = """
    again: atom.global.cas.b32 %r1, [%a0], 0, 1; setp.ne.u32 %p1, %r1, 0; @%p1 bra again;
    ld.volatile.global.u32 %r2, [%a0+4]; add.u32 %r2, %r2, 1; st.volatile.global.u32 [%a0+4], %r2;
    atom.global.exch.b32 %r3, [%a0], 0;
    """
    run(kernel(body), None, 1, 8, [state])
    assert state.tolist() == [0, 8]


def test_what_waits_for_ever_is_stopped(monkeypatch):
    from kernels.cuda.emulate import machine

    monkeypatch.setattr(machine, "PATIENCE", 20_000)
    with pytest.raises(Fault, match="limit: no end after 20000"):
        run(kernel("again: ld.volatile.global.u32 %r1, [%a0]; setp.eq.u32 %p1, %r1, 0; @%p1 bra again;"), None, 1, 8, [np.zeros(1, "u4")])


def test_a_large_grid_runs_in_waves():
    out = np.zeros(50_000, "u4")
    body = (
        "setp.ge.u32 %p1, %i, 50000; @%p1 bra done; shl.b32 %r1, %tid, 2; mov.u32 %r2, tile; "
        "add.u32 %r1, %r1, %r2; st.shared.u32 [%r1], %cta;"
    )
    body += "ld.shared.u32 %r3, [%r1]; mad.lo.u32 %r3, %r3, 1000, %tid; mad.lo.s64 %q1, %j, 4, %a0; st.global.u32 [%q1], %r3; done:"
    run(kernel(body, declared=".shared .align 4 .b8 tile[512];"), None, -(-50_000 // 128), 128, [out])
    i = np.arange(50_000)
    assert (out == i // 128 * 1000 + i % 128).all()


def test_printing():
    report = run(kernel("""
    .local .align 8 .b8 buffer[24];
    mov.u64 %q1, buffer; cvta.local.u64 %q2, %q1; st.local.u32 [%q1], %i; mov.f64 %g1, 0d3FF8000000000000; st.local.f64 [%q1+8], %g1;
    mov.u64 %q5, word; cvta.const.u64 %q6, %q5; st.local.u64 [%q1+16], %q6;
    mov.u64 %q3, form; cvta.const.u64 %q4, %q3;
    { .param .b64 param0; st.param.b64 [param0], %q4; .param .b64 param1; st.param.b64 [param1], %q2; .param .b32 retval0;
    call.uni (retval0), vprintf, (param0, param1); ld.param.b32 %r4, [retval0]; }
    """, declared=""".extern .func (.param .b32 retval) vprintf (.param .b64 a, .param .b64 b);
    .const .align 1 .b8 form[12] = {37, 100, 32, 37, 46, 50, 102, 32, 37, 115, 10}; .const .align 1 .b8 word[3] = {72, 105};
    """), None, 1, 2, [np.zeros(1)])  # fmt: skip
    assert report.output == ["0 1.50 Hi\n", "1 1.50 Hi\n"]


def test_arguments_of_no_elements_and_of_many_kinds():
    out = np.zeros(1, "u8")
    body = "st.global.u64 [%a1], %n0;"
    run(kernel(body, 2), None, 1, 1, [np.zeros(0, "f4"), out])
    assert out[0] == 0
    assert KIND["f4"] == "f32"
