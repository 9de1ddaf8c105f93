"""The machine: all threads of a wave of blocks at once, an instruction at a time.

Threads that are at the same instruction run as one group, `Lanes`: the registers of these threads. A branch that they disagree on makes two
groups of one. The group at the lowest instruction runs first, so groups meet again where the paths join (reconvergence by minimum PC).
Barriers hold a group's threads until all of their block are there. What the lanes of a warp do together (a shuffle, a vote) holds those
that come first until the others are there, or until nobody else can run: a compiler may lay out a path that they are on behind it.

Blocks run in waves of at most WAVE threads, so that the registers of a large grid fit the caches; blocks of different waves do not see each
other run, which only programs that wait for one another would notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels.cuda.emulate.copies import Copies
from kernels.cuda.emulate.faults import Fault, Thread, Unsupported
from kernels.cuda.emulate.memory import Memory, rounded
from kernels.cuda.emulate.parse import Function, Instruction, Module, PtxError
from kernels.cuda.emulate.program import program_of
from kernels.cuda.emulate.warps import WARP
from kernels.cuda.places import Places

WAVE = 16384  # threads: with 8 bytes, a register of all of them is 128 KiB
WAVE_BYTES = 1 << 22  # of shared memory: what the checks know of a byte takes 40
PATIENCE = 100_000_000  # instructions of groups, after which a program is thought to wait for what does not come
TURNS = 1000  # of a loop that looks at what others may change, while others wait: then these go on for once
END = 1 << 60
Three = tuple[int, int, int]


class Lanes(dict[str, Any]):
    """The registers of the threads that run now: those of a wave, or of some of them, taken from there when first asked for."""

    def __init__(self, machine: Machine, size: int, parent: Lanes | None = None, index: np.ndarray | None = None) -> None:
        super().__init__()
        self.machine, self.size, self.parent, self.index = machine, size, parent, index
        self.taken: dict[str, np.ndarray] = {}
        self.masks: np.ndarray | None = None

    def __missing__(self, name: str) -> np.ndarray:
        if self.parent is None:
            value = np.zeros(1, self.machine.program.homes[name])  # never written
        else:
            value = self.parent[name]
            if value.size > 1:
                value = value[self.index]
            self.taken[name] = value
        self[name] = value
        return value

    def some(self, index: np.ndarray) -> Lanes:
        return Lanes(self.machine, len(index), self, index)

    def put_back(self) -> None:
        """Give the parent the registers that were written."""
        if self.parent is None:
            return
        for name, value in self.items():
            if self.taken.get(name) is not value:
                whole = np.empty(self.parent.size, value.dtype)
                whole[:] = self.parent[name]
                whole[self.index] = value
                self.parent[name] = whole
        self.taken = dict(self)


class Machine:
    """A kernel, its memory and its grid; `run` runs it."""

    def __init__(
        self,
        module: Module,
        kernel: Function,
        grid: Three,
        block: Three,
        arguments: list[Any],
        *,
        shared: int = 0,
        checks: frozenset[str] = frozenset(),
        names: Sequence[str] = (),
    ) -> None:
        self.module, self.kernel, self.grid, self.block, self.checks = module, kernel, grid, block, checks
        self.program = program_of(kernel)
        self.watchers: list[Any] = []
        self.names = [names[i] if i < len(names) else f"argument {i}" for i in range(len(arguments))]
        self.threads = block[0] * block[1] * block[2]
        self.blocks = grid[0] * grid[1] * grid[2]
        self.memory = Memory()
        self.copies = Copies(self)
        self.symbols: dict[str, int] = {}
        self.dynamic = shared
        self.first_block = self.warps_now = 0
        self.output: list[str] = []
        self.lay_out(arguments)
        self.fixed = {register: self.fixed_value(*what) for register, what in self.program.fixed.items()}
        self.yielding = False
        self.patience = PATIENCE

    # Memory and parameters.

    def lay_out(self, arguments: list[Any]) -> None:
        from kernels.cuda.emulate.launch import parameters

        lists = {name: a for name, a in zip(self.names, arguments, strict=True) if isinstance(a, Places)}
        arguments = [a.table([0] * len(a.arrays)) if isinstance(a, Places) else a for a in arguments]
        arrays = {name: a for name, a in zip(self.names, arguments, strict=True) if isinstance(a, np.ndarray)}
        addresses = self.memory.take_in(arrays | {f"{name}[{j}]": x for name, a in lists.items() for j, x in enumerate(a.arrays)})
        for name, a in lists.items():
            arrays[name][:] = [addresses[f"{name}[{j}]"] for j in range(len(a.arrays))]
        self.arguments = arguments  # until their bytes are given back
        self.parameters = parameters(self.kernel, arguments, [addresses.get(name, 0) for name in self.names])
        used = {name for what, name, *_ in self.program.fixed.values() if what == "address"}
        variables = {**self.module.variables, **self.kernel.variables}
        placed = [
            (v, self.memory.region(v.name, v.size, writable=v.space == "global"))
            for n, v in variables.items()
            if v.space in ("global", "const") and not n.startswith("_ZN08NumbaEnv")
        ]
        self.symbols.update({v.name: r.address for v, r in placed})
        static = self.offsets([v for n, v in variables.items() if v.space == "shared" and v.size and n in used])
        local = self.offsets([v for v in variables.values() if v.space == "local"])
        dynamic = [v for v in variables.values() if v.space == "shared" and not v.size]
        self.static = static
        base = rounded(static, max([16, *(v.align for v in dynamic)])) if dynamic else static
        self.symbols.update({v.name: base for v in dynamic})
        shared = base + self.dynamic if self.dynamic else static
        self.wave = max(1, min(self.blocks, WAVE // max(self.threads, 1), WAVE_BYTES // max(shared, 1)))
        self.memory.lay_out((self.wave, shared), (self.wave * self.threads, local))
        for v, r in placed:
            data = np.frombuffer(v.data or bytes(v.size), np.uint8)
            self.memory.arena[r.start : r.start + v.size] = data
            for at, name in v.pointers:
                self.memory.arena[r.start + at : r.start + at + 8] = np.array([self.symbols[name]], np.uint64).view(np.uint8)

    def offsets(self, variables: list[Any]) -> int:
        """Places for variables of a block or a thread, one after the other; their size."""
        at = 0
        for v in variables:
            at = rounded(at, v.align)
            self.symbols[v.name] = at
            at += v.size
        return at

    def fixed_value(self, what: str, name: str, offset: int, dtype: str) -> np.ndarray:
        """An address, or bytes of a parameter, as one number for all threads."""
        if what == "parameter":
            return self.parameters[name][offset : offset + int(dtype[1:])].copy().view(dtype)
        if name not in self.symbols:
            raise PtxError(f"{name} is not declared")
        return np.array([self.symbols[name] + offset], np.int64).astype(dtype)

    # A run.

    def run(self) -> None:
        with np.errstate(all="ignore"):
            for first in range(0, self.blocks, self.wave):
                self.first_block = first
                self.run_wave(min(self.wave, self.blocks - first))

    def begin(self, blocks: int) -> Lanes:
        """The registers of a wave: what a thread knows of itself."""
        t, n = self.threads, blocks * self.threads
        thread = np.arange(n)
        inside, block = thread % t, thread // t
        R = Lanes(self, n)
        per_block = -(-t // WARP)
        self.warps_now = blocks * per_block
        R.update(self.fixed)
        R["thread"] = thread
        R["lane"], R["warp"] = inside % WARP, block * per_block + inside // WARP
        R["shared"] = self.memory.shared[0] + block * self.memory.shared[1] if blocks > 1 else np.array([self.memory.shared[0]])
        R["local"] = self.memory.local[0] + thread * self.memory.local[1]
        R.update(self.special(inside, block + self.first_block))
        self.block_of, self.live = block, np.ones(n, bool)
        self.live_count, self.arrived_count = np.full(blocks, t), np.zeros(blocks, np.int64)
        self.arrived_at = np.full(n, -1)
        self.copies.begin(n)
        return R

    def special(self, inside: np.ndarray, block: np.ndarray) -> dict[str, np.ndarray]:
        def u4(x: Any) -> np.ndarray:
            return np.atleast_1d(np.asarray(x)).astype(np.uint32)

        registers = {}
        for letters, index, sizes in (("tid", inside, self.block), ("ctaid", block, self.grid)):
            step = 1
            for axis, size in zip("xyz", sizes, strict=True):
                registers[f"%{letters}.{axis}"] = u4(0) if size == 1 else u4(index // step % size)
                registers[f"%n{letters}.{axis}"] = u4(size)
                step *= size
        lane = u4(inside % WARP)
        one = np.uint32(1)
        below = (one << lane) - one
        registers.update({
            "%laneid": lane, "%warpid": u4(inside // WARP), "%nwarpid": u4(-(-self.threads // WARP)), "%smid": u4(0), "%nsmid": u4(1),
            "%lanemask_eq": one << lane, "%lanemask_lt": below, "%lanemask_le": below | one << lane,
            "%lanemask_gt": ~(below | one << lane), "%lanemask_ge": ~below, "%dynamic_smem_size": u4(self.dynamic),
            "%total_smem_size": u4(self.memory.shared_used), "%clock": u4(0), "%clock_hi": u4(0),
            "%clock64": np.zeros(1, np.uint64), "%globaltimer": np.zeros(1, np.uint64), "%gridid": np.zeros(1, np.uint64),
        })  # fmt: skip
        return registers

    def run_wave(self, blocks: int) -> None:
        root = self.root = self.begin(blocks)
        self.memory.forget()
        for w in self.watchers:
            w.begin(self, root)
        self.waiting: dict[int, list[np.ndarray]] = {0: [root["thread"]]}
        self.held: dict[int, list[np.ndarray]] = {}
        while self.waiting or self.held:
            places = sorted(self.waiting)
            self.alone = not places or (self.yielding and len(places) == 1 and bool(self.held))
            pc = min(self.held) if self.alone else places[1] if self.yielding and len(places) > 1 else places[0]
            self.yielding = False
            parts = (self.held if self.alone else self.waiting).pop(pc)
            threads = parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts))
            lanes = root if len(threads) == root.size else root.some(threads)
            self.advance(lanes, pc)
            lanes.put_back()

    def advance(self, R: Lanes, pc: int) -> None:
        """Run a group until it parts, ends, waits, or comes to where others wait."""
        stop, turns = self.next_waiting(pc), 0
        while pc < stop:
            all_here = R.size == self.live_count.sum()
            start, pc = pc, min((self.program.next_control if all_here else self.program.next_meeting)[pc], stop)
            self.steps(R, start, pc)
            if pc == stop:
                break
            if pc == len(self.program.body):
                return self.exit(R)
            if self.program.collective[pc]:
                if not self.alone and self.early(R, pc):
                    return None
                self.alone = False
                self.steps(R, pc, pc + 1)
                pc += 1
                continue
            x, test = self.program.body[pc], self.program.tests[pc]
            for w in self.watchers:
                w.segment(R, pc, pc + 1)
            if test is not None and not (yes := test(R)).all():
                if yes.any():
                    return self.part(R, pc, x, np.broadcast_to(yes, (R.size,)))
                pc += 1
            elif x.parts[0] == "bra":
                back, pc = pc, self.target(x)
                if pc <= back and (self.waiting or self.held):
                    stop = self.next_waiting(pc)
                    turns += self.program.may_wait(pc, back)
                    self.yielding = turns > TURNS
                    if self.yielding or pc in self.waiting:
                        break
            elif self.passes(R, x):
                pc += 1
            else:
                return self.control(R, pc, x)
        return self.wait(pc, R["thread"])

    def early(self, R: Lanes, pc: int) -> bool:
        """Whether lanes of the warps of this group, with those that are held here, are still elsewhere. Then these warps are held, and
        the whole ones wait for their turn."""
        threads = np.concatenate([R["thread"], *self.held.pop(pc, [])])
        warp = self.root["warp"]
        missing = np.bincount(warp[self.live], minlength=self.warps_now) - np.bincount(warp[threads], minlength=self.warps_now)
        absent = missing[warp[threads]] > 0
        if not absent.any() and len(threads) == R.size:
            return False
        if absent.any():
            self.held[pc] = [threads[absent]]
        if not absent.all():
            self.wait(pc, threads[~absent])
        return True

    def part(self, R: Lanes, pc: int, x: Instruction, yes: np.ndarray) -> None:
        """Some of a group branch, end or wait at a barrier, and the others go on."""
        threads = R["thread"]
        self.wait(pc + 1, threads[~yes])
        if x.parts[0] == "bra":
            for w in self.watchers:
                w.parted(R, x, yes)
            return self.wait(self.target(x), threads[yes])
        R.put_back()
        return self.control(self.root.some(threads[yes]), pc, x)

    def target(self, x: Instruction) -> int:
        return self.kernel.labels[x.operands[0].name]  # type: ignore[union-attr]

    def steps(self, R: Lanes, start: int, end: int) -> None:
        """Run the instructions from `start` to `end`, none of which is the machine's."""
        if start == end:
            return
        self.patience -= end - start
        if self.patience < 0:
            what = f"no end after {PATIENCE} instructions: do threads wait for one another?"
            raise self.fault("limit", what, R, np.arange(1), self.program.body[start])
        for w in self.watchers:
            w.segment(R, start, end)
        try:
            self.program.segment(start, end)(R)
        except (Fault, Unsupported):
            raise
        except Exception as e:  # a bug of the interpreter: say where
            at = start + line_of(e) - 2
            x = self.program.body[at]
            raise RuntimeError(f"the interpreter failed at PTX line {x.line}: {x.text}\n  as {self.program.lines[at]}") from e

    def next_waiting(self, pc: int) -> int:
        """The next place from here on where others wait."""
        return min((p for p in self.waiting if p > pc), default=END)

    def wait(self, pc: int, threads: np.ndarray) -> None:
        self.waiting.setdefault(pc, []).append(threads)

    def passes(self, R: Lanes, x: Instruction) -> bool:
        """A barrier at which all threads of all blocks are at once."""
        if R.size != self.live.size or not self.program.plain_barrier(x, self.threads):
            return False
        for w in self.watchers:
            w.barrier(self, np.arange(self.live_count.size))
        return True

    def control(self, R: Lanes, pc: int, x: Instruction) -> None:
        """An instruction after which a group does not simply go on."""
        name = x.parts[0]
        if name in ("ret", "exit"):
            return self.exit(R)
        if name == "trap":
            raise self.fault("trap", "the kernel stops itself", R, np.arange(R.size), x)
        if name == "brx":
            return self.switch(R, x)
        if self.program.plain_barrier(x, self.threads) or x in self.program.reductions:
            R.put_back()
            return self.arrive(R, pc)
        raise Unsupported(x)

    def switch(self, R: Lanes, x: Instruction) -> None:
        index = np.broadcast_to(self.program.index[x](R), (R.size,))
        table = self.kernel.tables[x.operands[1].name]  # type: ignore[union-attr]
        for i, label in enumerate(table):
            threads = R["thread"][index == i]
            if threads.size:
                self.wait(self.kernel.labels[label], threads)

    def exit(self, R: Lanes) -> None:
        threads = R["thread"]
        self.live[threads] = False
        self.live_count -= np.bincount(self.block_of[threads], minlength=self.live_count.size)
        self.release()

    def arrive(self, R: Lanes, pc: int) -> None:
        threads = R["thread"]
        self.arrived_at[threads] = pc
        self.arrived_count += np.bincount(self.block_of[threads], minlength=self.live_count.size)
        self.release()

    def release(self) -> None:
        """Let the blocks go on of which all threads that are left have come to a barrier."""
        full = (self.arrived_count == self.live_count) & (self.arrived_count > 0)
        if not full.any():
            return
        threads = np.flatnonzero(full[self.block_of] & (self.arrived_at >= 0))
        places = self.arrived_at[threads]
        if "barrier" in self.checks:
            self.check_barrier(threads, places, full)
        self.arrived_at[threads] = -1
        self.arrived_count[full] = 0
        for w in self.watchers:
            w.barrier(self, np.flatnonzero(full))
        for pc in np.unique(places):
            here = threads[places == pc]
            x = self.program.body[pc]
            if "red" in x.parts:
                self.barrier_reduction(here, x)
            self.wait(int(pc) + 1, here)

    def check_barrier(self, threads: np.ndarray, places: np.ndarray, full: np.ndarray) -> None:
        x = self.program.body[int(places[0])]
        gone = full & (self.live_count < self.threads)
        if gone.any():
            waiting = threads[gone[self.block_of[threads]]]
            left = self.threads - int(self.live_count[self.block_of[waiting[0]]])
            raise self.fault("barrier", f"threads wait for {left} of their block that have ended", self.root, waiting, x)
        first = np.full(full.size, -1)
        first[self.block_of[threads][::-1]] = places[::-1]
        apart = places != first[self.block_of[threads]]
        if apart.any():
            other = self.program.body[int(places[apart][0])]
            what = f"threads of a block wait at different barriers, others of it at line {x.line}"
            raise self.fault("barrier", what, self.root, threads[apart], other)

    def barrier_reduction(self, threads: np.ndarray, x: Instruction) -> None:
        """bar.red: and, or, or the number of the predicates of a block."""
        predicate, result = self.program.reductions[x]
        yes = np.broadcast_to(predicate(self.root), (self.root.size,))[threads]
        blocks = self.block_of[threads]
        n = np.bincount(blocks, yes, self.live_count.size).astype(np.uint32)
        value = {"popc": n, "and": n == np.bincount(blocks, minlength=n.size), "or": n > 0}
        R = self.root.some(threads)
        result(R, next(v for name, v in value.items() if name in x.parts)[blocks])
        R.put_back()

    # Telling who.

    def who(self, thread: int) -> Thread:
        """The coordinates of a thread of this wave."""

        def three(i: int, sizes: Three) -> Three:
            return i % sizes[0], i // sizes[0] % sizes[1], i // (sizes[0] * sizes[1])

        return Thread(three(self.first_block + thread // self.threads, self.grid), three(thread % self.threads, self.block))

    def fault(self, check: str, what: str, R: Lanes, index: np.ndarray, x: Instruction | None, address: int | None = None) -> Fault:
        """A fault of those threads of a group."""
        threads = R["thread"][index]
        return Fault(check, what, threads=[self.who(int(i)) for i in threads[:4]], count=len(threads), address=address, instruction=x)


def line_of(e: Exception) -> int:
    """The line of a segment at which an exception came up."""
    frames, line = e.__traceback__, 2
    while frames is not None:
        line = frames.tb_lineno if frames.tb_frame.f_code.co_filename == "<ptx>" else line
        frames = frames.tb_next
    return line
