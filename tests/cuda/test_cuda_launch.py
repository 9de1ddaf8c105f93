"""How a product is cut into launches, what a device holds, and the tables of README.md."""

import re
from pathlib import Path

import numpy as np
import pytest
import tally
from laws_of_rungs import agrees
from products import checked

from kernels.cuda.targets import DEVICES, TARGETS
from kernels.registry import ladder

README = Path(__file__).resolve().parents[2] / "kernels" / "cuda" / "README.md"


@pytest.mark.numba_cuda
@pytest.mark.parametrize("shapes", [((5, 4, 3), (5, 3, 6)), ((45, 3), (3, 6)), ((3, 20, 3), (3, 3, 2)), ((5, 20, 3), (3, 6))], ids=str)
def test_a_product_that_no_grid_holds_is_done_in_pieces(shapes, monkeypatch):
    """As if a grid were at most two blocks tall and deep."""
    from kernels.cuda.launch import on

    rung = ladder("matmul", "cuda")[2]
    rng = np.random.default_rng(0)
    args = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    monkeypatch.setattr("kernels.cuda.arrays.MOST", 2)
    with on("recorded") as device:
        rung.run(*args)
    assert len(device.launches) > 1
    assert all(max(launch.grid[1:]) <= 2 for launch in device.launches)
    with checked():
        agrees(rung, "float32", args, {})
    tally.ran("cuda", "a product in pieces")


@pytest.mark.numba_cuda
def test_more_numbers_than_a_uint32_counts_are_refused():
    from kernels.cuda.arrays import counted

    counted(np.broadcast_to(np.float32(0), (2**16, 2**16 - 1)))
    with pytest.raises(ValueError, match="4294967296 numbers"):
        counted(np.broadcast_to(np.float32(0), (2**16, 2**16)))


@pytest.mark.numba_cuda
def test_a_grid_that_no_device_takes_is_refused():
    from kernels.cuda.launch import launch

    with pytest.raises(ValueError, match=r"\(1, 65536\) blocks: at most"):
        launch(None, (1, 65536), (32,), writes=[])


@pytest.mark.numba_cuda
def test_what_the_kernels_give_back_is_copied_from_a_gpu_and_nothing_else_is(monkeypatch):
    """With a stand-in for Numba: it copies arrays in, runs, and is asked for what was written."""
    from types import SimpleNamespace

    from kernels.cuda import launch

    class There(np.ndarray):
        def copy_to_host(self, a):
            a[...] = self

    class Dispatcher:
        def __init__(self, function, launch_bounds):
            self.function, self.bounds = function, launch_bounds

        def __getitem__(self, configuration):
            assert configuration == ((1,), (32,), 0, 64)
            return self.function

    def double(x, y, n):
        y[...], x[...] = x * n, 0

    cuda = SimpleNamespace(to_device=lambda a: a.copy().view(There), jit=Dispatcher)
    monkeypatch.setattr(launch, "numba_cuda", lambda: cuda)
    monkeypatch.setattr(launch, "has_gpu", lambda: True)
    x, y = np.arange(4.0), np.zeros(4)
    with launch.on():
        launch.launch(double, (1,), (32,), x, y, np.uint32(2), writes=[y], shared=64)
    np.testing.assert_array_equal(y, [0, 2, 4, 6])
    np.testing.assert_array_equal(x, [0, 1, 2, 3])


def test_a_backend_is_there_if_its_library_and_its_hardware_are(monkeypatch):
    from kernels import registry

    monkeypatch.setattr(registry, "_installed", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(registry, "has_gpu", lambda: False)
    assert registry.backends() == ["cpu"]
    monkeypatch.setattr(registry, "has_gpu", lambda: True)
    assert registry.backends() == ["cpu", "cuda"]


def test_without_numba_cuda_it_is_said_how_to_install_it(monkeypatch):
    from kernels import registry

    monkeypatch.setattr(registry, "_installed", lambda: ["cpu"])
    monkeypatch.setattr(registry, "_loaded", set())
    with (
        pytest.raises(registry.MissingKernel, match=r"pip install 'gnomon\[cuda\]'; there is cpu"),
        registry.use("cuda", device="emulated"),
    ):
        pass


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "share", "limiter"),
    [
        (1024, 32, 8192, 1.0, "warps"),
        (256, 95, 16640, 0.25, "registers"),
        (256, 134, 8192, 0.125, "registers"),
        (64, 32, 80 * 1024, 0.0625, "shared memory"),
        (32, 16, 0, 0.5, "blocks"),
    ],
)
def test_occupancy(threads, registers, shared, share, limiter):
    """Of sm_80: 64 warps, 32 blocks, 65536 registers in four parts, 164 KiB."""
    assert TARGETS[8, 0].occupancy(threads, registers, shared) == (share, limiter)


def test_a_roofline_has_two_slopes():
    a100 = DEVICES[0]
    assert a100.bound(19.5e12, 1) == 1.0
    assert a100.bound(1, 2.039e12) == 1.0
    assert a100.bound(312e12, 1, "float16") == 1.0


@pytest.mark.numba_cuda
def test_the_readme_has_the_tables_that_are_counted():
    from kernels.cuda.__main__ import PARTS

    text = README.read_text(encoding="utf-8")
    for name, make in PARTS.items():
        found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.DOTALL)
        assert found, f"kernels/cuda/README.md has lost the marks of {name}"
        assert found[1].strip() == make().strip(), "stale: run python -m kernels.cuda --write"
