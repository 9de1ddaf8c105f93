"""What a device of a compute capability offers one multiprocessor's blocks, and how fast three known devices are.

Sources: CUDA C++ Programming Guide 13.0, "Compute Capabilities", table of technical specifications (limits); the tuning guides of
Ampere, Hopper, Blackwell, "Occupancy" and "Unified Shared Memory" (shared memory, of which 1 KiB a block is the system's);
data sheets of A100 80GB SXM, H100 SXM and the Ada GPU architecture white paper (RTX 4090), all without sparsity.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
REGISTERS_AT_ONCE = 256  # registers are given to a warp in such units
SHARED_AT_ONCE = 128  # bytes
RESERVED = 1024  # bytes of shared memory that each block costs on top of its own


@dataclass(frozen=True)
class Target:
    """The limits of one compute capability; sizes in bytes, `sm` is one multiprocessor."""

    cc: tuple[int, int]
    warps_per_sm: int
    blocks_per_sm: int
    shared_per_sm: int
    shared_per_block: int  # at most, if a kernel asks for it; without asking, SHARED_UNASKED
    fma_per_cycle: int  # fused products of float32 that one sm begins in a cycle
    registers_per_sm: int = 65536
    registers_per_thread: int = 255
    threads_per_block: int = 1024

    @property
    def name(self) -> str:
        return f"sm_{self.cc[0]}{self.cc[1]}"

    def occupancy(self, threads: int, registers: int, shared: int) -> tuple[float, str]:
        """The share of an sm's warps that blocks of so many threads fill, and what stops more: a key of `room`."""
        warps = -(-threads // WARP)
        room = {
            "warps": self.warps_per_sm // warps,
            "blocks": self.blocks_per_sm,
            "registers": self._blocks_by_registers(warps, registers),
            "shared memory": self.shared_per_sm // (_rounded(shared, SHARED_AT_ONCE) + RESERVED),
        }
        limiter = min(room, key=lambda what: room[what])
        return room[limiter] * warps / self.warps_per_sm, limiter

    def _blocks_by_registers(self, warps: int, registers: int) -> int:
        """An sm is four partitions, each with a quarter of the registers; a warp lives in one of them."""
        of_a_warp = _rounded(max(registers, 1) * WARP, REGISTERS_AT_ONCE)
        return 4 * (self.registers_per_sm // 4 // of_a_warp) // warps


def _rounded(n: int, unit: int) -> int:
    return -(-n // unit) * unit


KIB = 1024
SHARED_UNASKED = 48 * KIB
TARGETS = {
    target.cc: target
    for target in (
        Target((8, 0), warps_per_sm=64, blocks_per_sm=32, shared_per_sm=164 * KIB, shared_per_block=163 * KIB, fma_per_cycle=64),
        Target((8, 9), warps_per_sm=48, blocks_per_sm=24, shared_per_sm=100 * KIB, shared_per_block=99 * KIB, fma_per_cycle=128),
        Target((9, 0), warps_per_sm=64, blocks_per_sm=32, shared_per_sm=228 * KIB, shared_per_block=227 * KIB, fma_per_cycle=128),
        Target((10, 0), warps_per_sm=64, blocks_per_sm=32, shared_per_sm=228 * KIB, shared_per_block=227 * KIB, fma_per_cycle=128),
        Target((12, 0), warps_per_sm=48, blocks_per_sm=24, shared_per_sm=100 * KIB, shared_per_block=99 * KIB, fma_per_cycle=128),
    )
}


@dataclass(frozen=True)
class Device:
    """One product: what a roofline is drawn from. FLOP/s by kind of product, bytes/s of its memory."""

    name: str
    cc: tuple[int, int]
    flops: dict[str, float]
    bandwidth: float

    def bound(self, flops: float, bytes_moved: float, kind: str = "float32") -> float:
        """Seconds below which no kernel of so many FLOP and bytes can stay: the roofline (Williams, Waterman & Patterson 2009)."""
        return max(flops / self.flops[kind], bytes_moved / self.bandwidth)


DEVICES = (
    Device(
        "A100 80GB SXM", (8, 0),
        {"float32": 19.5e12, "float64": 9.7e12, "tf32": 156e12, "float16": 312e12, "bfloat16": 312e12, "int8": 624e12}, 2.039e12,
    ),
    Device(
        "H100 SXM", (9, 0),
        {"float32": 67e12, "float64": 34e12, "tf32": 494.7e12, "float16": 989.4e12, "bfloat16": 989.4e12, "int8": 1979e12}, 3.35e12,
    ),
    Device(
        "RTX 4090", (8, 9),
        {"float32": 82.6e12, "float64": 1.29e12, "tf32": 82.6e12, "float16": 165.2e12, "bfloat16": 165.2e12, "int8": 660.6e12}, 1.008e12,
    ),
)  # fmt: skip
