"""Shuffles, votes, matches and reductions; tensor cores and their loads; copies in the background."""

import numpy as np
import pytest
import tally
from hand_written import elementwise, integers, kernel, same

from kernels.cuda.emulate import Fault, run

N = 96
LANE = np.arange(N) % 32
FULL = "0xffffffff"


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 16, 4])
def test_shuffles(mode, width):
    """By the definition of CUDA's __shfl_*_sync with a width: segments of lanes that keep to themselves."""
    x, by = integers(np.random.default_rng(0), N, "u4"), np.random.default_rng(1).integers(0, 32, N).astype("u4")
    segment = (32 - width) << 8
    clamp = segment if mode == "up" else segment | 31
    got = elementwise(f"shfl.sync.{mode}.b32 %d|%p1, %x0, %x1, {clamp}, {FULL};", x, by, result="u4")
    flag = elementwise(f"shfl.sync.{mode}.b32 %r1|%p1, %x0, %x1, {clamp}, {FULL}; selp.u32 %d, 1, 0, %p1;", x, by, result="u4")
    start, inside, b = LANE // width * width, LANE % width, by.astype(int)
    source = {"up": inside - b, "down": inside + b, "bfly": inside ^ b, "idx": b % width}[mode]
    there = (source >= 0) & (source < width)
    if mode == "bfly":  # only beyond the segment upwards is nobody: a lane below it may be read
        source = (LANE ^ b) - start
        there = source < width
    lane = np.where(there, start + source, LANE)
    same(got, x[np.arange(N) - LANE + lane])
    same(flag, there.astype("u4"))
    tally.ran("cuda", "a collective of the emulator")


def test_the_last_warp_may_be_short():
    x = np.arange(40, dtype="u4")
    body = "mad.lo.s64 %q1, %j, 4, %a0; ld.global.u32 %r1, [%q1]; setp.lt.u32 %p2, %i, 32; selp.b32 %r9, -1, 255, %p2;"
    body += (
        "shfl.sync.bfly.b32 %r2|%p1, %r1, 1, 31, %r9; vote.sync.ballot.b32 %r3, %p2, %r9; add.u32 %r2, %r2, %r3; st.global.u32 [%q1], %r2;"
    )
    run(kernel(body), None, 1, 40, [x])
    i = np.arange(40)
    assert (x == ((i ^ 1) + np.where(i < 32, 2**32 - 1, 0)) % 2**32).all()


def test_lanes_that_parted_vote_among_themselves():
    out = np.zeros(N, "u4")
    body = """
    and.b32 %r1, %i, 3; setp.eq.u32 %p1, %r1, 0; @%p1 bra some; mov.u32 %r9, 0xEEEEEEEE; bra.uni both;
    some: mov.u32 %r9, 0x11111111; activemask.b32 %r4;
    both: setp.gt.u32 %p2, %i, 40;
    @%p1 bra first;
    vote.sync.ballot.b32 %r3, %p2, %r9; bra.uni done;
    first: vote.sync.ballot.b32 %r3, %p2, %r9;
    done: mad.lo.s64 %q1, %j, 4, %a0; st.global.u32 [%q1], %r3;
    """
    run(kernel(body), None, 1, N, [out])
    mask = np.where(np.arange(N) % 4 == 0, 0x11111111, 0xEEEEEEEE)
    ballot = np.array([sum(1 << j for j in range(32) if w * 32 + j > 40) for w in range(3)]).repeat(32)
    assert (out == (ballot & mask)).all()


@pytest.mark.parametrize("mode", ["all", "any", "uni"])
def test_votes(mode):
    x = np.zeros(N, "u4")
    x[32:64], x[70] = 1, 1
    got = elementwise(f"setp.ne.u32 %p1, %x0, 0; vote.sync.{mode}.pred %p2, %p1, {FULL}; selp.u32 %d, 1, 0, %p2;", x, result="u4")
    warps = (x.reshape(3, 32) != 0).repeat(32, axis=0).reshape(3, 32, 32)[:, 0]
    value = {"all": warps.all(1), "any": warps.any(1), "uni": warps.all(1) | ~warps.any(1)}[mode]
    same(got, value.repeat(32).astype("u4"))


def test_matches():
    x = np.random.default_rng(2).integers(0, 5, N).astype("u4")
    x[32:64] = 3
    groups = x.reshape(3, 32)
    wanted = np.array([[sum(1 << j for j in range(32) if row[j] == v) for v in row] for row in groups]).reshape(-1)
    same(elementwise(f"match.any.sync.b32 %d, %x0, {FULL};", x, result="u4"), wanted.astype("u4"))
    whole = np.array([0, 2**32 - 1, 0]).repeat(32).astype("u4")
    same(elementwise(f"match.all.sync.b32 %d|%p1, %x0, {FULL};", x, result="u4"), whole)
    same(elementwise(f"match.any.sync.b64 %d, %x0, {FULL};", x.astype("u8") << np.uint64(33), result="u4"), wanted.astype("u4"))


@pytest.mark.parametrize("op", ["add", "min", "max", "and", "or", "xor"])
@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_reductions(op, kind):
    dtype = f"{kind[0].replace('s', 'i')}4"
    x = integers(np.random.default_rng(3), N, dtype)
    f = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[op]
    form = "b32" if op in ("and", "or", "xor") else kind
    same(
        elementwise(f"redux.sync.{op}.{form} %d, %x0, {FULL};", x, result=dtype), f.reduce(x.reshape(3, 32), axis=1, dtype=dtype).repeat(32)
    )


def test_one_lane_is_elected():
    got = elementwise("setp.gt.u32 %p2, %i, 100; elect.sync %r1|%p1, 0xffffffff; selp.u32 %d, 1, 0, %p1;", np.zeros(N, "u4"), result="u4")
    same(got, (LANE == 0).astype("u4"))


@pytest.mark.parametrize("line, words", [
    ("setp.lt.u32 %p1, %tid, 8; @%p1 exit; shfl.sync.bfly.b32 %r1, %i, 1, 31, -1;",
     "its mask 0xffffffff names lanes that are not here: 0x000000ff"),
    ("shfl.sync.bfly.b32 %r1, %i, 1, 31, 0x0000ffff;", "a lane is not in the mask that it gives, 0x0000ffff"),
    ("setp.gt.u32 %p1, %tid, 7; @%p1 exit; shfl.sync.idx.b32 %r1, %i, 20, 31, 0xff;",
     "reads lane 20, which is not in the mask or not here"),
    ("setp.gt.u32 %p1, %tid, 7; @%p1 exit; vote.sync.ballot.b32 %r1, %p1, -1;", "names lanes that are not here"),
    ("setp.gt.u32 %p1, %tid, 7; @%p1 bra low; bar.warp.sync -1; low: mov.u32 %r1, 1;", "names lanes that are not here"),
    ("setp.gt.u32 %p1, %tid, 7; @%p1 exit; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [tile];", "all 32 lanes of a warp take part"),
])  # fmt: skip
def test_masks_that_do_not_fit(line, words):
    text = kernel(line, declared=".shared .align 16 .b8 tile[512];")
    with pytest.raises(Fault, match=words) as stopped:
        run(text, None, 1, 32, [np.zeros(1)])
    assert stopped.value.check == "shuffle" and stopped.value.threads


# Tensor cores: what each lane holds is written out here element by element, as the figures of the PTX ISA have it.

SHAPES = [
    ("m16n8k8", "f32.tf32.tf32.f32"), ("m16n8k4", "f32.tf32.tf32.f32"), ("m16n8k16", "f32.f16.f16.f32"), ("m16n8k8", "f32.f16.f16.f32"),
    ("m16n8k16", "f16.f16.f16.f16"), ("m16n8k16", "f32.bf16.bf16.f32"), ("m16n8k8", "f32.bf16.bf16.f32"), ("m16n8k32", "s32.s8.s8.s32"),
    ("m16n8k16", "s32.s8.s8.s32"), ("m16n8k32", "s32.u8.s8.s32"), ("m8n8k16", "s32.s8.u8.s32"), ("m8n8k4", "f64.f64.f64.f64"),
    ("m16n8k8", "f64.f64.f64.f64"),
]  # fmt: skip
WIDTH = {"f64": 8, "f32": 4, "tf32": 4, "s32": 4, "f16": 2, "bf16": 2, "s8": 1, "u8": 1}


def element(matrix, m, kind, lane, i):
    """(row, column) of element i of a lane: PTX ISA 9.7.14.5."""
    g, t = lane // 4, lane % 4
    e = max(1, 4 // WIDTH[kind])
    if matrix == "c":
        return (g + 8 * (i // 2), 2 * t + i % 2)
    r, j = i // e, i % e
    if matrix == "b":
        return (t * e + j + 4 * e * r, g)
    return (g + 8 * (r % 2), t * e + j + 4 * e * (r // 2)) if m == 16 else (g, t * e + j + 4 * e * r)


def drawn(rng, kind, shape):
    if kind in ("s8", "u8"):
        return rng.integers(*((-128, 128) if kind == "s8" else (0, 256)), shape).astype("i1" if kind == "s8" else "u1")
    if kind == "s32":
        return rng.integers(-1000, 1000, shape).astype("i4")
    x = rng.integers(-8, 9, shape) * 2.0 ** rng.integers(-3, 4, shape)
    return x.astype({"f64": "f8", "f16": "f2"}.get(kind, "f4"))


def bits(x, kind):
    return (x.view("u4") >> np.uint32(16)).astype("u2") if kind == "bf16" else x


@pytest.mark.parametrize("shape, kinds", SHAPES)
def test_products_of_tensor_cores(shape, kinds):
    m, n, k = (int(s) for s in shape[1:].replace("n", " ").replace("k", " ").split())
    to, of_a, of_b, of_c = kinds.split(".")
    rng = np.random.default_rng(4)
    a, b, c = drawn(rng, of_a, (2, m, k)), drawn(rng, of_b, (2, k, n)), drawn(rng, of_c, (2, m, n))
    lanes = {}
    for name, x, kind in (("a", a, of_a), ("b", b, of_b), ("c", c, of_c)):
        each = x[0].size // 32
        held = np.array([[bits(x, kind)[w][element(name, m, kind, lane, i)] for i in range(each)] for w in range(2) for lane in range(32)])
        lanes[name] = held.view("u4" if WIDTH[kind] < 8 else "f8")
    for name in "ab" if of_a == "tf32" else "":  # bits of a float32 that tf32 has not: they are cut off
        lanes[name] = lanes[name] | rng.integers(0, 1 << 13, lanes[name].shape).astype("u4")
    letter = {name: "%g" if WIDTH[kind] == 8 else "%f" if kind == "f32" else "%r" for name, kind in (("a", of_a), ("b", of_b), ("c", of_c))}
    counts = {name: x.shape[1] for name, x in lanes.items()}
    body, first = [], {"a": 1, "b": 11, "c": 21}
    for i, name in enumerate("abc"):
        kind = {"%g": "f64", "%f": "f32", "%r": "u32"}[letter[name]]
        width = 8 if kind == "f64" else 4
        body.append(f"mad.lo.s64 %q{i + 1}, %j, {counts[name] * width}, %a{i};")
        body += [f"ld.global.{kind} {letter[name]}{first[name] + r}, [%q{i + 1}+{r * width}];" for r in range(counts[name])]
    operands = [", ".join(f"{letter[x]}{first[x] + r}" for r in range(counts[x])) for x in "cabc"]
    form = "satfinite." if to == "s32" else ""
    body.append(f"mma.sync.aligned.{shape}.row.col.{form}{kinds} " + ", ".join(f"{{{o}}}" for o in operands) + ";")
    kind, width = {"%g": ("f64", 8), "%f": ("f32", 4), "%r": ("u32", 4)}[letter["c"]]
    body += [f"st.global.{kind} [%q3+{r * width}], {letter['c']}{first['c'] + r};" for r in range(counts["c"])]
    run(kernel("\n".join(body), 3), None, 1, 64, [lanes[x].reshape(-1) for x in "abc"])
    wide = (a.astype("f8") @ b.astype("f8") + c).astype(c.dtype)
    held = lanes["c"].view(c.dtype).reshape(2, 32, -1)
    for w in range(2):
        for lane in range(32):
            for i in range(held.shape[2]):
                assert held[w, lane, i] == wide[w][element("c", m, to, lane, i)]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("turned", ["", ".trans"])
def test_matrices_are_loaded_and_stored(count, turned):
    tile = np.arange(count * 64, dtype="u2")
    got = np.zeros((32, count), "u4")
    back = np.zeros_like(tile)
    registers = ", ".join(f"%r{i + 1}" for i in range(count))
    body = f"""
    mul.wide.u32 %q1, %i, {count * 4}; add.s64 %q2, %a0, %q1; cvt.u32.u64 %r20, %q1; mov.u32 %r21, tile; add.u32 %r22, %r21, %r20;
    {"".join(f"ld.global.u32 %r30, [%q2+{4 * i}]; st.shared.u32 [%r22+{4 * i}], %r30;" for i in range(count))} bar.sync 0;
    rem.u32 %r23, %i, {8 * count}; mad.lo.u32 %r24, %r23, 16, %r21;
    ldmatrix.sync.aligned.m8n8.x{count}{turned}.shared.b16 {{{registers}}}, [%r24+0]; bar.sync 0;
    add.s64 %q3, %a1, %q1;
    {"".join(f"st.global.u32 [%q3+{4 * i}], %r{i + 1};" for i in range(count))}
    stmatrix.sync.aligned.m8n8.x{count}{turned}.shared.b16 [%r24], {{{registers}}}; bar.sync 0;
    add.s64 %q4, %a2, %q1;
    {"".join(f"ld.shared.u32 %r30, [%r22+{4 * i}]; st.global.u32 [%q4+{4 * i}], %r30;" for i in range(count))}
    """
    run(kernel(body, 3, declared=f".shared .align 16 .b8 tile[{count * 128}];"), None, 1, 32, [tile, got.reshape(-1), back])
    matrices = tile.reshape(count, 8, 8)
    for lane in range(32):
        for i in range(count):
            m = matrices[i].T if turned else matrices[i]
            low, high = m[lane // 4, 2 * (lane % 4)], m[lane // 4, 2 * (lane % 4) + 1]
            assert got[lane, i] == int(low) | int(high) << 16
    assert (back == tile).all()


COPY = """
mul.wide.u32 %q1, %i, 16; add.s64 %q2, %a0, %q1; mul.lo.u32 %r1, %tid, 16; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2;
"""


def copied(body, threads=32):
    source, out = np.arange(threads * 4, dtype="u4"), np.zeros(threads, "u4")
    text = kernel(COPY + body + "mad.lo.s64 %q3, %j, 4, %a1; st.global.u32 [%q3], %r5;", 2, declared=".shared .align 16 .b8 tile[1024];")
    run(text, None, 1, threads, [source, out])
    return out


def test_a_copy_is_there_after_the_wait():
    out = copied("cp.async.cg.shared.global [%r1], [%q2], 16; cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r5, [%r1+4];")
    assert (out == np.arange(32) * 4 + 1).all()
    out = copied(
        "cp.async.ca.shared.global [%r1], [%q2], 4; cp.async.wait_all; bar.sync 0; xor.b32 %r1, %r1, 16; ld.shared.u32 %r5, [%r1];"
    )
    assert (out == (np.arange(32) ^ 1) * 4).all()


def test_groups_arrive_in_order():
    first = "st.shared.v4.u32 [%r1], {0, 0, 0, 0}; st.shared.v4.u32 [%r1+512], {9, 9, 9, 9};"
    two = (
        "cp.async.ca.shared.global [%r1], [%q2], 4; cp.async.commit_group; "
        "cp.async.ca.shared.global [%r1+512], [%q2], 8; cp.async.commit_group;"
    )
    out = copied(first + two + "cp.async.wait_group 1; ld.shared.u32 %r5, [%r1];")
    assert (out == np.arange(32) * 4).all()
    with pytest.raises(
        Fault, match=r"race: reads offset 512 of shared memory, which block \(0, 0, 0\) thread \(0, 0, 0\) copies to, and has not waited"
    ):
        copied(first + two + "cp.async.wait_group 1; ld.shared.u32 %r5, [%r1+512];")


def test_a_copy_that_nobody_waits_for_is_not_seen():
    source, out = np.arange(128, dtype="u4"), np.zeros(32, "u4")
    body = COPY + "st.shared.u32 [%r1], 77; cp.async.ca.shared.global [%r1], [%q2], 4; cp.async.commit_group; ld.shared.u32 %r5, [%r1];"
    text = kernel(body + "mad.lo.s64 %q3, %j, 4, %a1; st.global.u32 [%q3], %r5;", 2, declared=".shared .align 16 .b8 tile[1024];")
    run(text, None, 1, 32, [source, out], checks=False)
    assert (out == 77).all()


def test_a_short_source_is_filled_with_zeros():
    out = copied(
        "mov.u32 %r9, 4; cp.async.cg.shared.global [%r1], [%q2], 16, %r9; cp.async.wait_all; "
        "ld.shared.v2.u32 {%r5, %r6}, [%r1]; add.u32 %r5, %r5, %r6;"
    )
    assert (out == np.arange(32) * 4).all()
    edge = "setp.lt.u32 %p1, %i, 30; selp.b32 %r9, 16, 0, %p1; add.s64 %q9, %q2, 100000; selp.b64 %q2, %q2, %q9, %p1;"
    out = copied(edge + "cp.async.cg.shared.global [%r1], [%q2], 16, %r9; cp.async.wait_all; ld.shared.u32 %r5, [%r1+12];")
    assert (out == np.where(np.arange(32) < 30, np.arange(32) * 4 + 3, 0)).all()


def test_another_thread_needs_a_barrier_after_the_wait():
    body = "cp.async.ca.shared.global [%r1], [%q2], 4; cp.async.wait_all; {} xor.b32 %r1, %r1, 512; ld.shared.u32 %r5, [%r1];"
    assert (copied(body.format("bar.sync 0;"), 64) == (np.arange(64) ^ 32) * 4).all()
    with pytest.raises(Fault, match="race: reads offset 512"):
        copied(body.format(""), 64)


def behind(then):
    """Every lane brings a number to a shuffle; the odd ones get theirs on a path that lies behind it."""
    return f"""
    and.b32 %r3, %i, 1; setp.eq.u32 %p1, %r3, 1; mul.lo.u32 %r1, %i, 3; @%p1 bra behind;
    meet: shfl.sync.bfly.b32 %r2|%p2, %r1, 16, 31, {FULL};
    mad.lo.s64 %q1, %j, 4, %a0; st.global.u32 [%q1], %r2; ret;
    behind: add.u32 %r1, %r1, 1000; {then};
    """


def test_lanes_wait_for_those_whose_path_lies_behind():
    out, i = np.zeros(N, "u4"), np.arange(N)
    run(kernel(behind("bra.uni meet")), None, 1, N, [out], checks=True)
    brought = i * 3 + np.where(i % 2, 1000, 0)
    assert (out == brought[i ^ 16]).all()


def test_lanes_that_never_come_are_told():
    """Half a warp ends on the path behind: the mask of the others names it."""
    with pytest.raises(Fault) as e:
        run(kernel(behind("ret")), None, 1, N, [np.zeros(N, "u4")], checks=True)
    assert e.value.check == "shuffle" and "0xaaaaaaaa have exited" in str(e.value)


def test_half_warps_that_wait_at_two_places_go_on_by_masks_of_their_own():
    """One half shuffles, then votes; the other votes, then shuffles: neither waits for the other."""
    out, i = np.zeros(N, "u4"), np.arange(N)
    body = """
    and.b32 %r3, %i, 1; setp.eq.u32 %p1, %r3, 1; @%p1 bra odd;
    shfl.sync.bfly.b32 %r2|%p2, %i, 2, 31, 0x55555555; vote.sync.ballot.b32 %r4, %p1, 0x55555555; bra.uni done;
    odd: vote.sync.ballot.b32 %r4, %p1, 0xaaaaaaaa; shfl.sync.bfly.b32 %r2|%p2, %i, 4, 31, 0xaaaaaaaa;
    done: add.u32 %r2, %r2, %r4; mad.lo.s64 %q1, %j, 4, %a0; st.global.u32 [%q1], %r2;
    """
    run(kernel(body), None, 1, N, [out], checks=True)
    assert (out == np.where(i % 2, (i ^ 4) + 0xAAAAAAAA, i ^ 2)).all()


def test_who_waits_at_a_barrier_is_not_waited_for_at_a_shuffle():
    """One half comes to a barrier of the block, the other shuffles with a mask of its own first."""
    out, i = np.zeros(N, "u4"), np.arange(N)
    body = """
    and.b32 %r3, %i, 1; setp.eq.u32 %p1, %r3, 1; mov.u32 %r2, 7; @%p1 bra barrier;
    shfl.sync.bfly.b32 %r2|%p2, %i, 2, 31, 0x55555555;
    barrier: bar.sync 0; mad.lo.s64 %q1, %j, 4, %a0; st.global.u32 [%q1], %r2;
    """
    run(kernel(body), None, 1, N, [out], checks=True)
    assert (out == np.where(i % 2, 7, i ^ 2)).all()
