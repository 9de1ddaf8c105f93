"""Tensor cores: mma.sync and ldmatrix, by where the elements of a matrix lie in the registers of a warp.

Of a lane L, let g = L // 4 and t = L % 4, and let a register hold e neighbours along k (1 of tf32 or f64, 2 of f16 or bf16, 4 of s8 or u8).
Then register r of A holds row g + 8 (r mod 2), columns t e + 4 e (r // 2) and on; of a tile of 8 rows, row g, columns t e + 4 e r and on.
Register r of B holds column g, rows t e + 4 e r and on. Register r of C and D holds row g + 8 (r // 2), column 2 t + r mod 2.
(PTX ISA 9.7.14.5, all shapes that are interpreted.)

Products are exact, their sum and C are added in float64 and rounded once: a device adds in an order and with cuts that are nowhere written
down, so its float32 sums differ by a few units in the last place of the largest term. Integers are exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from kernels.cuda.emulate.access import READ, WRITE, Access
from kernels.cuda.emulate.conversions import from_bf16, tf32
from kernels.cuda.emulate.parse import SIZES, Instruction
from kernels.cuda.emulate.warps import WARP, dense, masks

if TYPE_CHECKING:
    from kernels.cuda.emulate.machine import Lanes

SHAPES = {
    "m8n8k4": ("f64",),
    "m16n8k4": ("tf32", "f64"),
    "m16n8k8": ("tf32", "f16", "bf16", "f64"),
    "m16n8k16": ("f16", "bf16", "s8", "u8", "f64"),
    "m16n8k32": ("s8", "u8"),
    "m8n8k16": ("s8", "u8"),
}
LANE = np.arange(WARP)
G, T = LANE // 4, LANE % 4


@cache
def places(matrix: str, rows: int, registers: int, e: int) -> tuple[np.ndarray, np.ndarray]:
    """The (row, column) of each element, by lane, register and place in the register."""
    g, t, r, j = G[:, None, None], T[:, None, None], np.arange(registers)[:, None], np.arange(e)
    if matrix == "a":
        row, column = (g + 8 * (r % 2), t * e + 4 * e * (r // 2) + j) if rows == 16 else (g, t * e + 4 * e * r + j)
    elif matrix == "b":
        row, column = t * e + 4 * e * r + j, g
    else:
        i = r * e + j  # of c, by element: two registers of f16 hold four
        row, column = g + 8 * (i // 2), 2 * t + i % 2
    return tuple(np.broadcast_arrays(row, column))  # type: ignore[return-value]


def numbers(registers: np.ndarray, kind: str) -> np.ndarray:
    """Registers (..., n) as the numbers in them, (..., n, e), in float64."""
    if kind in ("f64", "f32", "s32"):
        return registers[..., None].astype(np.float64)
    if kind == "tf32":
        return tf32(registers.view(np.float32), "rz")[..., None].view(np.float32).astype(np.float64)
    part = {"f16": "f2", "bf16": "u2", "s8": "i1", "u8": "u1"}[kind]
    parts = np.ascontiguousarray(registers).view(part).reshape(*registers.shape, -1)
    return (from_bf16(parts) if kind == "bf16" else parts).astype(np.float64)


def tile(R: Lanes, registers: list[np.ndarray], kind: str, where: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The matrix of each warp, (warps, rows, columns), in float64."""
    by_lane = np.stack([dense(R, np.broadcast_to(a, (R.size,))) for a in registers], axis=-1)
    out = np.zeros((len(by_lane), *shape))
    out[:, where[0], where[1]] = numbers(by_lane, kind)
    return out


def multiply_add(x: Instruction, kinds: list[str]) -> Callable[..., list[np.ndarray]]:
    """mma.sync: D = A B + C of each warp; the registers of D."""
    shape = next(p for p in x.parts if re.fullmatch(r"m\d+n\d+k\d+", p))
    m, n, k = (int(s) for s in re.findall(r"\d+", shape))
    to, of_a, of_b, of_c = kinds
    if of_a not in SHAPES.get(shape, ()) or of_b not in SHAPES[shape] or "sp" in x.parts or any("block_scale" in p for p in x.parts):
        raise ValueError(f"{shape} of {of_a} and {of_b}")
    if "row" not in x.parts or "col" not in x.parts:
        raise ValueError("A by rows and B by columns only")
    e = max(1, 4 // SIZES[of_a])
    pair = 2 if to == "f16" else 1
    counts = (m * k // (WARP * e), k * n // (WARP * e), m * n // (WARP * pair))
    a_at, b_at, c_at = (places(w, m, c, f) for w, c, f in zip("abc", counts, (e, e, pair), strict=True))

    def mma(R: Lanes, *registers: np.ndarray) -> list[np.ndarray]:
        all_lanes(R, x)
        a = tile(R, list(registers[: counts[0]]), of_a, a_at, (m, k))
        b = tile(R, list(registers[counts[0] : counts[0] + counts[1]]), of_b, b_at, (k, n))
        c = tile(R, list(registers[counts[0] + counts[1] :]), of_c, c_at, (m, n))
        d = a @ b + c
        return dealt(R, rounded_to(d, to, "satfinite" in x.parts)[:, c_at[0], c_at[1]])

    return mma


def rounded_to(d: np.ndarray, kind: str, clamp: bool) -> np.ndarray:
    if kind == "s32":
        d = np.clip(d, -(2**31), 2**31 - 1) if clamp else d
        return d.astype(np.int64).astype(np.int32)
    return d.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[kind])


def dealt(R: Lanes, d: np.ndarray) -> list[np.ndarray]:
    """Elements (warps, lanes, registers, e) as a list of registers over threads."""
    words = np.ascontiguousarray(d)
    words = words.view(np.uint32)[..., 0] if d.dtype == np.float16 else words[..., 0]
    here = words[R["warp"], R["lane"]]
    return [np.ascontiguousarray(here[:, r]) for r in range(here.shape[1])]


def all_lanes(R: Lanes, x: Instruction) -> None:
    """Every lane of a warp that runs one of these must run it."""
    here = masks(R)
    if ((here != 0) & (here != 0xFFFFFFFF)).any():
        few = np.flatnonzero((here != 0xFFFFFFFF)[R["warp"]])
        raise R.machine.fault("shuffle", "all 32 lanes of a warp take part in it together; some are not here", R, few, x)


def load_matrices(x: Instruction, count: int, offset: int) -> Callable[[Lanes, np.ndarray], list[np.ndarray]]:
    """ldmatrix: 8 by 8 elements of 16 bits, `count` times; lane 8 i + r gives the address of row r of matrix i."""
    access, turned = Access(x, "shared", 16, 1, offset), "trans" in x.parts

    def load(R: Lanes, address: np.ndarray) -> list[np.ndarray]:
        all_lanes(R, x)
        rows, where = row_addresses(R, address, count)
        p = np.broadcast_to(access.positions(rows, where, READ), (rows.size,)) >> 1
        elements = R.machine.memory.views["u2"][p[:, None] + np.arange(8)].reshape(-1, count, 8, 8)
        if turned:
            elements = elements.swapaxes(2, 3)
        words = np.zeros((R.machine.warps_now, count, WARP), np.uint32)
        words[np.unique(R["warp"])] = np.ascontiguousarray(elements).view(np.uint32).reshape(-1, count, WARP)
        here = words[R["warp"], :, R["lane"]]
        return [np.ascontiguousarray(here[:, i]) for i in range(count)]

    return load


def store_matrices(x: Instruction, count: int, offset: int) -> Callable[..., None]:
    """stmatrix: the way back of ldmatrix."""
    access, turned = Access(x, "shared", 16, 1, offset), "trans" in x.parts

    def store(R: Lanes, address: np.ndarray, *registers: np.ndarray) -> None:
        all_lanes(R, x)
        rows, where = row_addresses(R, address, count)
        p = np.broadcast_to(access.positions(rows, where, WRITE), (rows.size,)) >> 1
        words = np.stack([dense(R, np.broadcast_to(a, (R.size,)))[np.unique(R["warp"])] for a in registers], axis=1)
        elements = np.ascontiguousarray(words).view(np.uint16).reshape(-1, count, 8, 8)
        if turned:
            elements = elements.swapaxes(2, 3)
        R.machine.memory.views["u2"][p[:, None] + np.arange(8)] = elements.reshape(-1, 8)

    return store


def row_addresses(R: Lanes, address: np.ndarray, count: int) -> tuple[Any, np.ndarray]:
    """The lanes that give addresses, and these."""
    index = np.flatnonzero(R["lane"] < 8 * count)
    return R.some(index), np.broadcast_to(address, (R.size,))[index]
