"""Convolutions: fresh memory, tiers, the rounding of patches."""

import itertools

import numpy as np
import pytest
from alone import on_tier
from laws_of_rungs import broken

import kernels
from engine.traced import OPS


def what_lies_in_fresh_memory_does_not_show(rung):
    """The room that a kernel takes holds what was there before: here nan, for sizes that were not asked for before."""
    rng = np.random.default_rng(0)
    for n, h, w, (side, stride) in itertools.product((1, 2, 3, 5, 7, 17), range(4, 12), (5, 9, 21), ((3, 1), (1, 2))):
        grid = (h - 1) // stride + 1, (w - 1) // stride + 1
        x, k, gy = [rng.normal(size=shape).astype("f4") for shape in ((n, 5, h, w), (9, 5, side, side), (n, 9, *grid))]
        args, more = {
            "conv2d": ((x, k), {}),
            "conv2d_input_grad": ((gy, k), {"input_size": (h, w)}),
            "conv2d_weight_grad": ((x, gy), {"kernel_size": (side, side)}),
        }[rung.op]
        full = [np.full(1 << bits, np.nan, "f4") for bits in range(8, 19) for _ in range(6)]
        del full
        with np.errstate(all="ignore"):
            y = rung.run(*args, padding=side // 2, stride=stride, **more)
        assert np.all(np.isfinite(y)), (n, h, w, side)


@pytest.mark.parametrize("op", ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"])
def test_what_lies_in_fresh_memory_does_not_show(op):
    what_lies_in_fresh_memory_does_not_show(kernels.serving(op, "cpu"))


def pads_with_zeros(x, w, *, padding, stride, room=np.zeros):
    n, c, height, width = x.shape
    around = room((n, c, height + 2 * padding, width + 2 * padding), x.dtype)
    around[:, :, padding : padding + height, padding : padding + width] = x
    return OPS["conv2d"].definition(around, w, stride=stride)


def pads_with_what_was_there(x, w, **window):
    return pads_with_zeros(x, w, **window, room=np.empty)


def test_a_rung_that_reads_memory_before_it_wrote_there_is_caught():
    what_lies_in_fresh_memory_does_not_show(broken(pads_with_zeros, op="conv2d"))
    with pytest.raises(AssertionError):
        what_lies_in_fresh_memory_does_not_show(broken(pads_with_what_was_there, op="conv2d"))


@pytest.mark.parametrize("tier", ["generic", "avx2"])  # from avx512 on all are the same here: what runs anyway
def test_each_tier_that_this_machine_has_convolves_right(tier):
    printed = on_tier(
        tier,
        """
        import numpy as np
        import engine, kernels
        from engine.traced import OPS
        from kernels.cpu import features
        rng = np.random.default_rng(0)
        for x, w, geometry in [
            ((19, 5, 9, 8), (13, 5, 3, 3), {"padding": 1}),  # bundles
            ((3, 4, 11, 37), (7, 4, 3, 5), {"padding": 2}),  # side by side
            ((2, 3, 9, 34), (11, 3, 2, 3), {"stride": 2, "padding": 1}),
            ((3, 5, 7, 11), (9, 5, 1, 1), {"stride": 2}),  # all windows in line
            ((3, 4, 7, 5), (6, 2, 3, 3), {"groups": 2, "stride": 2, "padding": 1}),  # a few pictures
            ((17, 32, 6, 7), (33, 32, 3, 3), {"padding": 1}),  # patches
        ]:
            params = {**OPS["conv2d"].defaults, **geometry}
            x, w = rng.normal(size=x).astype("f4"), rng.normal(size=w).astype("f4")
            gy = rng.normal(size=OPS["conv2d"].definition(x, w, **params).shape).astype("f4")
            for op, args, more in [
                ("conv2d", (x, w), {}),
                ("conv2d_input_grad", (gy, w), {"input_size": x.shape[2:]}),
                ("conv2d_weight_grad", (x, gy), {"kernel_size": w.shape[2:]}),
            ]:
                size = OPS[op].definition(*[np.abs(a).astype("f8") for a in args], **params, **more)
                want = OPS[op].definition(*[a.astype("f8") for a in args], **params, **more)
                assert np.all(np.abs(kernels.serving(op, "cpu")(*args, **params, **more) - want) <= 1e-5 * size), (op, geometry)
        print(features.tier())
        """,
    )
    assert printed.split() == [tier]


def test_patches_round_relative_to_any_pixel_of_a_window_times_any_weight():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(16, 32, 12, 12)).astype("f4"), rng.normal(size=(32, 32, 3, 3)).astype("f4")
    x[..., 5] *= 1e4
    w[..., 2] *= 1e4  # large pixels never meet large weights in the windows of column 6
    params = {**OPS["conv2d"].defaults, "padding": 1}
    doubles, eps = [a.astype("f8") for a in (x, w)], np.finfo("f4").eps
    want, size = [OPS["conv2d"].definition(*arrays, **params) for arrays in (doubles, list(map(np.abs, doubles)))]
    any_weight = np.broadcast_to(np.abs(doubles[1]).sum(axis=(2, 3), keepdims=True), w.shape)
    crossed = OPS["conv2d"].definition(np.abs(doubles[0]), any_weight, **params)
    windows, patches = [np.abs(r.run(x, w, **params) - want) for r in kernels.ladder("conv2d", "cpu")[-2:]]
    assert np.all(windows <= 16 * eps * size)
    assert np.all(patches <= 16 * eps * crossed)
    assert np.any(patches > 16 * eps * size), "then hold this rung to the bound of the others, and say so"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(16, 32, 12, 12), (1, 17, 9, 10), (3, 40, 7, 15)])
def test_a_weight_gradient_by_patches_rounds_relative_to_any_pixel_of_a_window(shape, dtype):
    rng = np.random.default_rng(0)
    x, gy = rng.normal(size=shape).astype(dtype), rng.normal(size=(shape[0], 19, *shape[2:])).astype(dtype)
    x[..., 5] *= 1e4
    gy[..., 4] *= 1e4  # what comes back to column 4 meets large pixels in the last column of a window only
    params = {**OPS["conv2d_weight_grad"].defaults, "padding": 1, "kernel_size": (3, 3)}
    doubles, eps = [a.astype("f8") for a in (x, gy)], np.finfo(dtype).eps
    want, size = [OPS["conv2d_weight_grad"].definition(*arrays, **params) for arrays in (doubles, list(map(np.abs, doubles)))]
    windows, patches = [np.abs(r.run(x, gy, **params) - want) for r in kernels.ladder("conv2d_weight_grad", "cpu")[-2:]]
    assert np.all(windows <= 16 * eps * size)
    assert np.all(patches <= 16 * eps * size.sum(axis=(2, 3), keepdims=True))
    assert np.any(patches > 16 * eps * size), "then hold this rung to the bound of the others, and say so"


@pytest.mark.parametrize("seed", range(3))
def test_convolutions_of_every_geometry_are_right(seed):
    """More combinations than examples of the law of rungs have: narrow and wide pictures, one and many, strides beyond the kernel."""
    rng = np.random.default_rng(seed)
    for _ in range(200):
        n, h, w = (int(rng.integers(1, most)) for most in (rng.choice([3, 20]), 12, rng.choice([4, 20])))
        groups, (k, s, d, p) = (
            int(rng.integers(1, 3)),
            (tuple(map(int, rng.integers(a, b, 2))) for a, b in ((1, 4), (1, 4), (1, 3), (0, 3))),
        )
        if any((k[i] - 1) * d[i] + 1 > size + 2 * p[i] for i, size in enumerate((h, w))):
            continue
        x = rng.normal(size=(n, groups * int(rng.integers(1, 4)), h, w))
        kernel = rng.normal(size=(groups * int(rng.integers(1, 10)), x.shape[1] // groups, *k))
        about = {"stride": s, "padding": p, "dilation": d, "groups": groups}
        gy = rng.normal(size=OPS["conv2d"].definition(x, kernel, **about).shape)
        for op, args, more in (
            ("conv2d", (x, kernel), {}),
            ("conv2d_input_grad", (gy, kernel), {"input_size": (h, w)}),
            ("conv2d_weight_grad", (x, gy), {"kernel_size": k}),
        ):
            want, size = (OPS[op].definition(*[f(a) for a in args], **about, **more) for f in (np.asarray, np.abs))
            got = kernels.serving(op, "cpu").run(*[a.astype(np.float32) for a in args], **about, **more)
            assert np.all(np.abs(got - want) <= 1e-5 * (size + 1)), (op, x.shape, kernel.shape, about)
