"""Counters against closed forms."""

import numpy as np
import pytest
import tally
from hand_written import kernel

from kernels.cuda.emulate import run

TILE = ".shared .align 16 .b8 tile[16384];"


def counted(body, threads=64, blocks=2, floats=1 << 14, **options):
    text = kernel(body, declared=TILE)
    return run(text, None, blocks, threads, [np.zeros(floats, "f4")], checks=False, counters=True, **options).counts


@pytest.mark.parametrize("step, sectors", [(0, 1), (1, 4), (2, 8), (4, 16), (8, 32), (16, 32)])
def test_sectors_of_strided_loads(step, sectors):
    counts = counted(f"mad.lo.s64 %q1, %j, {4 * step}, %a0; ld.global.f32 %f1, [%q1];")
    loads = counts.global_loads
    assert (loads.requests, loads.cost) == (4, 4 * sectors)
    assert loads.useful == (4 if step == 0 else 128) * 4
    assert counts.useful_share() == pytest.approx((4 if step == 0 else 128) / (32 * sectors)) and counts.sectors_per_request() == sectors
    assert counts.l2_bytes() == 4 * sectors * 32
    tally.ran("cuda", "a counter of the emulator")


def test_words_of_16_bytes_and_offsets():
    full = counted("mad.lo.s64 %q1, %j, 16, %a0; ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%q1];")
    assert full.sectors_per_request() == 16 and full.useful_share() == 1
    off = counted("mad.lo.s64 %q1, %j, 4, %a0; st.global.f32 [%q1+4], 0f00000000;")
    assert off.global_stores.cost == 4 * 5 and off.useful_share() == pytest.approx(128 / 160)


@pytest.mark.parametrize("step, fronts", [(0, 1), (1, 1), (2, 2), (3, 1), (4, 4), (32, 32), (33, 1)])
def test_wavefronts_of_strided_words(step, fronts):
    counts = counted(f"mov.u32 %r1, tile; mad.lo.u32 %r1, %tid, {4 * step}, %r1; ld.shared.f32 %f1, [%r1];", threads=64)
    assert counts.shared_loads.requests == 4 and counts.wavefronts_per_request() == fronts


FOUR, TWO = "v4.f32 {%f1, %f2, %f3, %f4}", "v2.f32 {%f1, %f2}"


@pytest.mark.parametrize("kind, step, requests, fronts", [
    (FOUR, 16, 4, 1), (FOUR, 32, 4, 2), (FOUR, 128, 4, 8), (TWO, 8, 2, 1), (TWO, 16, 2, 2),
    ("u8 %r5", 1, 1, 1), ("u8 %r5", 128, 1, 32), ("f64 %g1", 8, 2, 1),
])  # fmt: skip
def test_wavefronts_of_words_by_parts_of_a_warp(kind, step, requests, fronts):
    counts = counted(f"mov.u32 %r1, tile; mad.lo.u32 %r1, %tid, {step}, %r1; ld.shared.{kind}, [%r1];", threads=32, blocks=1)
    assert (counts.shared_loads.requests, counts.shared_loads.cost) == (requests, requests * fronts)


def test_lanes_that_are_off_cost_nothing():
    counts = counted("setp.lt.u32 %p1, %tid, 8; mad.lo.s64 %q1, %j, 4, %a0; @%p1 ld.global.f32 %f1, [%q1];")
    assert (counts.global_loads.requests, counts.global_loads.cost) == (2, 2)


def test_atomics_by_memory():
    counts = counted("mad.lo.s64 %q1, %j, 4, %a0; red.global.add.f32 [%q1], 0f3F800000; atom.shared.add.u32 %r1, [tile], 1;")
    assert (counts.atomics.requests, counts.atomics.cost) == (4, 16) and (counts.shared_atomics.requests, counts.shared_atomics.cost) == (
        4,
        4,
    )
    assert counts.l2_bytes() == 16 * 32 and counts.shared_stores.requests == counts.global_stores.requests == 0


def test_instructions_by_class_and_divergence():
    n = 2 * 64
    base = counted("")
    counts = counted(
        "fma.rn.f32 %f1, %f1, %f1, %f1; add.f32 %f2, %f1, %f1; mad.lo.u32 %r1, %r1, %r1, %r1; "
        "bar.sync 0; shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;"
    )
    more = {k: counts.instructions[k] - base.instructions[k] for k in counts.instructions}
    assert {k: v for k, v in more.items() if v} == {"fma": n, "float": n, "integer": n, "sync": n, "warp": n}
    assert counts.flops == 3 * n and counts.barriers == 2 and counts.active_share == 1 and counts.divergent_branches == 0
    assert counts.per_fma() == counts.total / n and counts.per_fma("fma", "sync") == 2
    parted = counted("setp.lt.u32 %p1, %tid, 40; @%p1 bra some; " + "mov.u32 %r1, 1; " * 100 + "some: mov.u32 %r2, 1;")
    assert parted.divergent_branches == 2  # the second warp of each block
    whole, half = 2 * 2 * 32, 2 * 24
    before = parted.warp_instructions - 2 * 100  # 24 lanes of one warp a block run the 100
    assert parted.active_share == pytest.approx((before * 32 + half * 100) / (parted.warp_instructions * 32)) and whole == n


def test_a_tiled_product_by_its_formulas():
    """64 by 64 by 64 in tiles of 32: every number of a and b is loaded twice, by whole rows; a row of a is one word for all lanes."""
    body = """
    .reg .b32 %x, %y, %gx, %gy, %k; .reg .f32 %sum;
    and.b32 %x, %tid, 31; shr.u32 %y, %tid, 5; and.b32 %gx, %cta, 1; shr.u32 %gy, %cta, 1; shl.b32 %gx, %gx, 5; shl.b32 %gy, %gy, 5;
    add.u32 %gx, %gx, %x; add.u32 %gy, %gy, %y; mov.u32 %k, 0; mov.f32 %sum, 0f00000000; mov.u32 %r1, tile;
    shl.b32 %r2, %tid, 2; add.u32 %r2, %r2, %r1; shl.b32 %r3, %y, 7; add.u32 %r3, %r3, %r1; shl.b32 %r4, %x, 2; add.u32 %r4, %r4, %r1;
    outer: add.u32 %r5, %k, %x; mad.lo.u32 %r5, %gy, 64, %r5; mul.wide.u32 %q1, %r5, 4; add.s64 %q1, %q1, %a0; ld.global.f32 %f1, [%q1];
    add.u32 %r6, %k, %y; mad.lo.u32 %r6, %r6, 64, %gx; mul.wide.u32 %q2, %r6, 4; add.s64 %q2, %q2, %a1; ld.global.f32 %f2, [%q2];
    st.shared.f32 [%r2], %f1; st.shared.f32 [%r2+4096], %f2; bar.sync 0;
    """
    body += "".join(
        f"ld.shared.f32 %f3, [%r3+{4 * p}]; ld.shared.f32 %f4, [%r4+{4096 + 128 * p}]; fma.rn.f32 %sum, %f3, %f4, %sum;" for p in range(32)
    )
    body += """
    bar.sync 0; add.u32 %k, %k, 32; setp.lt.u32 %p1, %k, 64; @%p1 bra outer;
    mad.lo.u32 %r7, %gy, 64, %gx; mul.wide.u32 %q3, %r7, 4; add.s64 %q3, %q3, %a2; st.global.f32 [%q3], %sum;
    """
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(64, 64)).astype("f4"), rng.normal(size=(64, 64)).astype("f4"), np.zeros((64, 64), "f4")
    counts = run(kernel(body, 3, declared=TILE), None, 4, 1024, [a.ravel(), b.ravel(), c.ravel()], counters=True).counts
    assert np.abs(c - a.astype("f8") @ b).max() < 1e-4
    assert counts.instructions["fma"] == 64**3 and counts.flops == 2 * 64**3
    assert counts.global_loads.requests == 2 * 2 * 64 * 64 // 32 and counts.sectors_per_request() == 4 and counts.useful_share() == 1
    assert counts.wavefronts_per_request() == 1 and counts.shared_loads.requests == 2 * 64**3 // 32
    assert counts.l2_bytes() == 4 * (2 * 2 * 64 * 64 + 64 * 64) and counts.flops_per_l2_byte() == pytest.approx(6.4)
    assert counts.barriers == 4 * 4 and counts.as_dict()["per_fma"] == counts.per_fma()
