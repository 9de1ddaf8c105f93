"""A kernel as Python: one line for each instruction, an array over the threads for each register.

    fma.rn.f32 %f10, %f9, %f8, %f104;      becomes      R['%f10'] = fma(R['%f9'], R['%f8'], R['%f104'])

`R` maps registers to arrays: one element for each thread that runs now, or a single one where all threads have the same. Arrays are values:
an instruction binds a new one and changes none. A register keeps one dtype: unsigned integers of its width, or floating-point numbers if
that is what instructions put there; another type in an instruction is a view.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.cuda.emulate.faults import Unsupported
from kernels.cuda.emulate.parse import SIZES, Function, Instruction, Negated, Number, Operand, PtxError, Register, Symbol, Vector

BOOL = "b1"
SPECIAL = {f"%{name}.{axis}": "u4" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"}
SPECIAL.update(dict.fromkeys(("%laneid", "%warpid", "%nwarpid", "%smid", "%nsmid", "%clock", "%clock_hi"), "u4"))
SPECIAL.update({f"%lanemask_{which}": "u4" for which in ("eq", "lt", "le", "gt", "ge")})
SPECIAL.update({"%dynamic_smem_size": "u4", "%total_smem_size": "u4", "%clock64": "u8", "%globaltimer": "u8", "%gridid": "u8"})


def dtype_of(kind: str) -> str:
    """NumPy's name for a type of PTX: s32 is i4, b32 is u4. Types without arithmetic in NumPy are bits."""
    if kind == "pred":
        return BOOL
    if kind in ("f16", "f32", "f64"):
        return f"f{SIZES[kind]}"
    if kind in ("bf16", "f16x2", "bf16x2", "tf32"):
        return f"u{SIZES[kind]}"
    return f"{'i' if kind[0] == 's' else 'u'}{SIZES[kind]}"


def types_of(x: Instruction) -> list[str]:
    """The types that an opcode names: setp.lt.s64 -> [s64], cvt.rn.f32.s32 -> [f32, s32]."""
    return [p for p in x.parts[1:] if p in SIZES]


def homes(kernel: Function) -> dict[str, str]:
    """The dtype in which each register is kept."""
    found = {name: BOOL if kind == "pred" else dtype_of(kind).replace("i", "u") for name, kind in kernel.types.items()}
    for x in kernel.body:
        kinds = types_of(x)
        if not kinds or not x.operands or kinds[0] not in ("f32", "f64", "f16"):
            continue
        first = x.operands[0]
        if x.parts[0] in ("st", "red", "mma", "set", "setp"):
            continue  # their first operand, or its type, is another
        for o in first.items if isinstance(first, Vector) else (first,):
            if isinstance(o, Register) and found.get(o.name) == f"u{SIZES[kinds[0]]}":
                found[o.name] = dtype_of(kinds[0])
    return found


class Translator:
    """Turns instructions into lines, and keeps what the lines refer to by name."""

    def __init__(self, kernel: Function, opcodes: dict[str, Any]) -> None:
        self.kernel, self.opcodes = kernel, opcodes
        self.homes = homes(kernel)
        self.names: dict[str, Any] = {"np": np, "where": np.where}
        self.fixed: dict[str, tuple[str, str, int, str]] = {}  # registers whose value is the launch's: addresses and parameters

    def line(self, x: Instruction) -> str:
        """The Python of one instruction, its guard included."""
        build = self.opcodes.get(x.parts[0])
        if build is None:
            raise Unsupported(x)
        try:
            line: str = build(self, x)
        except (ValueError, IndexError, AttributeError, KeyError, StopIteration, AssertionError) as e:
            raise Unsupported(x, f"this form of it is not interpreted ({type(e).__name__}: {e})") from e
        if x.guard is None:
            return line
        step: dict[str, Any] = {}
        exec(f"def step(R):\n {line}", self.names, step)
        return f"{self.bind(guarded(step['step']))}(R, {self.value(x.guard, BOOL)})"

    def fixed_as(self, what: str, name: str, offset: int, dtype: str) -> str:
        """The register that holds the address of a symbol, or some bytes of a parameter, in every run."""
        register = f"{what} {name}+{offset} {dtype}"
        self.fixed[register] = (what, name, offset, dtype)
        self.homes[register] = dtype
        return register

    def bind(self, thing: Any, name: str = "_") -> str:
        """A name by which lines refer to a thing."""
        unique = f"{name}{len(self.names)}"
        self.names[unique] = thing
        return unique

    def constant(self, value: int, dtype: str) -> str:
        width = int(dtype[1:])
        if dtype == BOOL:
            return self.bind(np.array([bool(value)]))
        return self.bind(np.frombuffer((value % (1 << 8 * width)).to_bytes(width, "little"), dtype).copy(), "k")

    def home(self, name: str) -> str:
        """The dtype of a register."""
        if name in SPECIAL:
            return SPECIAL[name]
        if name not in self.homes:
            raise PtxError(f"register {name} is not declared, and is no special register that is interpreted")
        return self.homes[name]

    def value(self, o: Operand, dtype: str) -> str:
        """An expression for an operand, as an array of a dtype."""
        if isinstance(o, Negated):
            return f"~{self.value(o.register, dtype)}"
        if isinstance(o, Number):
            return self.number(o, dtype)
        if isinstance(o, Symbol):
            return f"R[{self.fixed_as('address', o.name, o.offset, dtype)!r}]"
        if isinstance(o, Vector) and len(o.items) == 1:
            return self.value(o.items[0], dtype)
        if not isinstance(o, Register):
            raise ValueError(f"{o} is no value")
        home = self.home(o.name)
        return seen_as(f"R[{o.name!r}]", home, dtype)

    def number(self, o: Number, dtype: str) -> str:
        if dtype[0] != "f":
            return self.constant(
                o.value if o.width in (0, int(dtype[1:])) else int(np.array(o.real(), f"f{dtype[1:]}").view(f"u{dtype[1:]}")), dtype
            )
        if o.width == int(dtype[1:]):
            return self.constant(o.value, dtype)
        return self.bind(np.array([o.real()], dtype), "k")

    def set(self, o: Operand, expression: str, dtype: str) -> str:
        """A line that gives a register the value of an expression of that dtype."""
        if not isinstance(o, Register):
            raise ValueError(f"{o} is no register")
        if o.name == "_":
            return expression
        return f"R[{o.name!r}] = {seen_as(f'({expression})', dtype, self.home(o.name))}"

    def call(self, x: Instruction, f: Callable[..., Any], dtype: str, *, result: str | None = None, name: str = "") -> str:
        """d = f(a, b, ...) with all of one dtype."""
        arguments = ", ".join(self.value(o, dtype) for o in x.operands[1:])
        return self.set(x.operands[0], f"{self.bind(f, name or x.parts[0])}({arguments})", result or dtype)


def guarded(step: Callable[[Any], None]) -> Callable[[Any, np.ndarray], None]:
    """A step that only the threads do whose predicate holds."""

    def of(R: Any, yes: np.ndarray) -> None:
        if yes.all():
            step(R)
        elif yes.any():
            some = R.some(np.flatnonzero(yes))
            step(some)
            some.put_back()

    return of


def seen_as(expression: str, has: str, wants: str) -> str:
    """The bits of an array as another dtype: a view, cut or extended (signed numbers by their sign)."""
    if has == wants:
        return expression
    if BOOL in (has, wants):
        return f"{expression}.astype({wants!r})" if wants != BOOL else f"({expression} != 0)"
    if has[1:] == wants[1:]:
        return f"{expression}.view({wants!r})"
    same = f"{expression}.view('u{has[1:]}')" if has[0] == "f" else expression
    return seen_as(f"{same}.astype('{'i' if has[0] == 'i' else 'u'}{wants[1:]}')", f"{'i' if has[0] == 'i' else 'u'}{wants[1:]}", wants)
