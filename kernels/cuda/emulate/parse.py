"""PTX text as instructions: what runs, where it stands in the text, and what is declared around it.

    module = parse(text)      # cached: the same text is read once
    module.kernels["name"]    # parameters, launch bounds, shared and local variables, instructions with their lines

The grammar is that of the PTX ISA 9.0, sections 4 and 5, as far as compilers and inline assembly use it. Scopes are dissolved: a name that
is declared in one carries the number of its scope. Calls of functions that the module defines are put in place of the call, so that a
program is one list of instructions (there is no recursion in what Numba compiles).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache


class PtxError(Exception):
    """The text is not PTX that this interpreter knows; says the line."""


@dataclass(frozen=True)
class Register:
    name: str


@dataclass(frozen=True)
class Number:
    """A literal: an integer, or the bits of a floating-point number of `width` bytes."""

    value: int
    width: int = 0  # 0: an integer; 4 and 8: bits of f32 and f64

    def real(self) -> float:
        if self.width == 0:
            return float(self.value)
        return float(struct.unpack("<f" if self.width == 4 else "<d", self.value.to_bytes(self.width, "little"))[0])


@dataclass(frozen=True)
class Symbol:
    """The address of a variable."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Address:
    """[base + offset]"""

    base: Register | Symbol | Number
    offset: int = 0


@dataclass(frozen=True)
class Vector:
    """{a, b, ...}"""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """d|p: a result and a predicate with it."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Negated:
    """!p"""

    register: Register


Operand = Register | Number | Symbol | Address | Vector | Pair | Negated


@dataclass(frozen=True, eq=False)
class Instruction:
    opcode: str  # "fma.rn.f32"
    operands: tuple[Operand, ...]
    guard: Register | Negated | None
    line: int  # of the PTX text, from 1
    source: tuple[str, int] | None  # file and line of what was compiled, if the text says so
    text: str

    @cached_property
    def parts(self) -> list[str]:
        return self.opcode.replace("::", "_").split(".")


@dataclass(frozen=True)
class Variable:
    """Something with an address: state space, alignment, bytes, and what it holds at first."""

    name: str
    space: str
    align: int
    size: int  # 0: `.extern .shared x[]`, as long as the launch says
    data: bytes | None = None
    pointers: tuple[tuple[int, str], ...] = ()  # (offset, name) of addresses among what it holds
    line: int = 0


@dataclass(eq=False)
class Function:
    """An entry or a function: parameters, bounds, and a body with labels as positions in it."""

    name: str
    entry: bool
    parameters: list[Variable]
    returned: list[Variable]
    bounds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)  # of registers: "b32", "pred"
    variables: dict[str, Variable] = field(default_factory=dict)
    body: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)  # of labels, for brx


@dataclass
class Module:
    version: str = ""
    target: str = ""
    kernels: dict[str, Function] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)

    def kernel(self, name: str | None) -> Function:
        """The kernel of that name; of the only one there is, for None."""
        if name is None and len(self.kernels) == 1:
            return next(iter(self.kernels.values()))
        if name not in self.kernels:
            raise PtxError(f"there is no kernel {name!r} in this text; there are: {', '.join(self.kernels) or 'none'}")
        return self.kernels[name]


SIZES = {f"{letter}{bits}": bits // 8 for letter in "bsuf" for bits in (8, 16, 32, 64) if (letter, bits) != ("f", 8)}  # bytes
SIZES.update({"f32x2": 8, "f16x2": 4, "bf16": 2, "bf16x2": 4, "tf32": 4, "pred": 1, "b128": 16})

NAME = r"[A-Za-z_$%][\w$]*"
LABEL = re.compile(rf"({NAME})\s*:(?!:)")
TO_END_OF_LINE = re.compile(r"\.(version|target|address_size|loc|file)\b([^\n;]*)")
HEAD = re.compile(r"(?:\.(?:visible|extern|weak|common)\s+)*\.(entry|func)\b")
DECLARED = re.compile(
    rf"^(?:\.(?:visible|extern|weak|common)\s+)*\.(reg|shared|local|global|const|param)\b(.*?)\.(v[24]\s+\.)?([a-z]+\d*(?:x2)?)"
    rf"((?:\s+\.ptr(?:\s*\.(?:global|shared|const|local))?(?:\s*\.align\s+\d+)?)?)\s+({NAME}[^=]*?)\s*(?:=\s*(.*))?$",
    re.DOTALL,
)
INTEGER = re.compile(r"^[+-]?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?$")
FLOAT_BITS = re.compile(r"^0([fFdD])([0-9a-fA-F]{8}|[0-9a-fA-F]{16})$")
DECIMAL = re.compile(r"^[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?$")
LOC = re.compile(r"\s*(\d+)\s+(\d+)\s+(\d+)")
FILE = re.compile(r'\s*(\d+)\s+"([^"]*)"')


@lru_cache(maxsize=64)
def parse(text: str) -> Module:
    """The module that the text declares. Raises `PtxError` with the line of what it does not understand."""
    module = Reader(text).read()
    for kernel in module.kernels.values():
        inline_calls(kernel, module.functions)
    return module


def without_comments(text: str) -> str:
    """Blanks for comments: every character keeps its place."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.DOTALL)


class Reader:
    """One pass over the text: statements end at a semicolon, scopes at a brace."""

    def __init__(self, text: str) -> None:
        self.text = without_comments(text)
        self.at = 0
        self.module = Module()
        self.files = {m[1]: m[2] for m in re.finditer(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text, re.MULTILINE)}
        self.place: tuple[str, int] | None = None
        self.starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self.function: Function | None = None
        self.scopes: list[dict[str, str]] = []
        self.scopes_seen = 0

    def line(self) -> int:
        from bisect import bisect_right

        return bisect_right(self.starts, self.at)

    def fail(self, what: str) -> PtxError:
        return PtxError(f"line {self.line()}: {what}")

    def read(self) -> Module:
        while self.skip_space():
            self.item()
        return self.module

    def skip_space(self) -> bool:
        while self.at < len(self.text) and (self.text[self.at].isspace() or self.text[self.at] in "\0;"):
            self.at += 1
        return self.at < len(self.text)

    def item(self) -> None:
        text, at = self.text, self.at
        if m := TO_END_OF_LINE.match(text, at):
            self.directive(m[1], m[2])
            self.at = m.end()
        elif text.startswith(".section", at):
            self.at = text.index("}", at) + 1
        elif m := HEAD.match(text, at):
            self.head(m)
        elif text[at] == "{":
            self.open()
        elif text[at] == "}":
            self.close()
        elif self.function is not None and (m := LABEL.match(text, at)):
            self.label(m)
        else:
            self.statement()

    def directive(self, name: str, rest: str) -> None:
        if name == "version":
            self.module.version = rest.strip()
        elif name == "target":
            self.module.target = rest.split(",")[0].strip()
        elif name == "loc" and (m := LOC.match(rest)):
            self.place = (self.files[m[1]], int(m[2])) if int(m[2]) and m[1] in self.files else self.place

    def head(self, m: re.Match[str]) -> None:
        """`.entry name (parameters) bounds {` or `.func (returned) name (parameters) {`, or a declaration of either."""
        end = min(i for c in "{;" if (i := self.text.find(c, m.end())) >= 0)
        words = self.text[m.end() : end]
        shape = re.match(rf"\s*(?:\((.*?)\)\s*)?({NAME})\s*(?:\((.*?)\))?(.*)$", words, re.DOTALL)
        if shape is None:
            raise self.fail(f"this is no head of a function: {words.strip()[:80]}")
        returned, parameters = (self.parameters(shape[k] or "") for k in (1, 3))
        bounds = {
            d: tuple(int(n) for n in re.findall(r"\d+", v))
            for d, v in re.findall(r"\.(maxntid|reqntid|minnctapersm|maxnreg)([^.]*)", shape[4])
        }
        function = Function(shape[2], m[1] == "entry", parameters, returned, bounds)
        self.at = end + 1
        if self.text[end] == ";":
            return  # known elsewhere
        self.function, self.scopes, self.place = function, [{}], None
        (self.module.kernels if function.entry else self.module.functions)[function.name] = function

    def parameters(self, text: str) -> list[Variable]:
        return [self.declaration(p.strip())[0] for p in text.split(",") if p.strip()]

    def open(self) -> None:
        self.scopes_seen += 1
        self.scopes.append({})
        self.at += 1

    def close(self) -> None:
        self.at += 1
        self.scopes.pop()
        if not self.scopes:
            self.function = None

    def label(self, m: re.Match[str]) -> None:
        assert self.function is not None
        self.at = m.end()
        table = re.match(r"\s*\.branchtargets\s+([^;]*);", self.text[self.at : self.at + 100_000])
        if table:
            self.function.tables[m[1]] = [self.name(n.strip()) for n in table[1].split(",")]
            self.at += table.end()
        else:
            self.function.labels[self.name(m[1])] = len(self.function.body)

    def name(self, name: str) -> str:
        """A name as the innermost scope that declares it knows it."""
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), name)

    def statement(self) -> None:
        end = self.text.find(";", self.at)
        if end < 0:
            raise self.fail(f"this does not end: {self.text[self.at : self.at + 60].strip()}")
        words = self.text[self.at : end].strip()
        if words.startswith((".pragma", ".alias")):
            pass
        elif words.startswith("."):
            self.declare(words)
        else:
            self.instruction(words)
        self.at = end + 1

    def declare(self, words: str) -> None:
        if words.startswith((".callprototype", ".noreturn")):
            raise self.fail(f"calls through pointers are not interpreted: {words}")
        for v in self.declaration(words):
            if self.function is None:
                self.module.variables[v.name] = v
            elif v.space == "reg":
                self.function.types[v.name] = {1: "pred"}.get(v.size, f"b{8 * v.size}") if v.data is None else v.data.decode()
            else:
                self.function.variables[v.name] = v

    def declaration(self, words: str) -> list[Variable]:
        m = DECLARED.match(words)
        if m is None or m[4] not in SIZES:
            raise self.fail(f"this declaration is not understood: {words[:100]}")
        space, options, lanes, kind, _, names, first = m.groups()
        width = SIZES[kind] * (int(lanes[1]) if lanes else 1)
        align = re.search(r"\.align\s+(\d+)", options)
        found = []
        for word in names.split(","):
            base, count, dims = re.match(rf"\s*({NAME})\s*(<\d+>)?\s*((?:\[[^\]]*\])*)", word).groups()  # type: ignore[union-attr]
            many = [f"{base}{i}" for i in range(int(count[1:-1]))] if count else [base]
            size = width
            for n in re.findall(r"\[\s*(\d*)\s*\]", dims or ""):
                size *= int(n or 0)
            for name in many:
                unique = self.scoped(name)
                if space == "reg":
                    found.append(Variable(unique, space, width, width, kind.encode(), line=self.line()))
                else:
                    data, pointers = contents(first, SIZES[kind], size) if first else (None, ())
                    found.append(Variable(unique, space, int(align[1]) if align else width, size, data, pointers, self.line()))
        return found

    def scoped(self, name: str) -> str:
        if self.function is None or len(self.scopes) <= 1:
            return name
        unique = f"{name}@{self.scopes_seen}"
        self.scopes[-1][name] = unique
        return unique

    def instruction(self, words: str) -> None:
        if self.function is None:
            raise self.fail(f"an instruction outside of a function: {words[:80]}")
        m = re.match(r"(?:@(!?)\s*(%?[\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)$", words, re.DOTALL)
        if m is None:
            raise self.fail(f"this is no instruction: {words[:80]}")
        guard = None if m[2] is None else Register(self.name(m[2]))
        operands = tuple(self.operand(o) for o in split(m[4]))
        text = re.sub(r"\s+", " ", words)
        self.function.body.append(Instruction(m[3], operands, Negated(guard) if guard and m[1] else guard, self.line(), self.place, text))

    def operand(self, word: str) -> Operand:
        word = word.strip()
        if word.startswith(("{", "(")):
            return Vector(tuple(self.operand(o) for o in split(word[1:-1])))
        if word.startswith("["):
            return self.address(word[1:-1])
        if word.startswith("!"):
            return Negated(Register(self.name(word[1:].strip())))
        if "|" in word:
            first, second = word.split("|")
            return Pair(self.operand(first), self.operand(second))
        return self.simple(word)

    def simple(self, word: str) -> Register | Number | Symbol:
        if word == "WARP_SZ":
            return Number(32)
        if INTEGER.match(word):
            return Number(integer(word))
        if m := FLOAT_BITS.match(word):
            return Number(int(m[2], 16), len(m[2]) // 2)
        if DECIMAL.match(word):
            return Number(struct.unpack("<Q", struct.pack("<d", float(word)))[0], 8)
        name, plus, offset = word.partition("+")
        name = self.name(name.strip())
        if word.startswith("%") or word == "_" or (self.function and name in self.function.types):
            return Register(name if not plus else self.name(word))
        if not re.fullmatch(r"[\w$@%.]+", name):
            raise self.fail(f"this operand is not understood: {word}")
        return Symbol(name, integer(offset.strip()) if plus else 0)

    def address(self, word: str) -> Address:
        m = re.match(r"\s*([^+\s]+)\s*(?:\+\s*(-?\w+))?\s*$", word)
        if m is None:
            raise self.fail(f"this address is not understood: [{word}]")
        base = self.simple(m[1])
        offset = integer(m[2]) if m[2] else 0
        return Address(base, offset)


def split(text: str) -> list[str]:
    """Operands: parted by commas that stand in no brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "{[(") - (c in "}])")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [p for p in parts if p.strip()]


def integer(word: str) -> int:
    """An integer literal of C; a leading 0 makes it octal."""
    sign, digits = (-1, word[1:]) if word[0] == "-" else (1, word.lstrip("+"))
    digits = digits.rstrip("U")
    return sign * int(digits, 8 if re.fullmatch(r"0[0-7]+", digits) else 0)


def contents(words: str, width: int, size: int) -> tuple[bytes, tuple[tuple[int, str], ...]]:
    """The bytes of an initialiser, and where addresses of variables go."""
    data, pointers = bytearray(), []
    for item in re.findall(r"[^{},\s][^{},]*", words):
        word = item.strip()
        if m := FLOAT_BITS.match(word):
            data += int(m[2], 16).to_bytes(len(m[2]) // 2, "little")
        elif INTEGER.match(word):
            data += (integer(word) % (1 << 8 * width)).to_bytes(width, "little")
        elif DECIMAL.match(word):
            data += struct.pack("<f" if width == 4 else "<d", float(word))
        else:
            pointers.append((len(data), re.sub(r"generic\((.*)\)", r"\1", word)))
            data += bytes(width)
    return bytes(data.ljust(max(size, len(data)), b"\0")), tuple(pointers)


def inline_calls(kernel: Function, functions: dict[str, Function]) -> None:
    """Put the bodies of the functions that `kernel` calls in the places of the calls, until none is left."""
    calls = 0
    while (at := next((i for i, x in enumerate(kernel.body) if x.parts[0] == "call" and called(x) in functions), None)) is not None:
        calls += 1
        if calls > 1000:
            raise PtxError(f"line {kernel.body[at].line}: calls without end (recursion is not interpreted): {kernel.body[at].text}")
        inline(kernel, at, functions[called(kernel.body[at])], f"#{calls}")


def called(call: Instruction) -> str:
    """The name of what an instruction calls: `call (r), f, (a, b)` or `call f`."""
    return next((o.name for o in call.operands if isinstance(o, Symbol)), "")


def inline(kernel: Function, at: int, callee: Function, tag: str) -> None:
    """One call: names of the callee get a tag, its parameters are the caller's."""
    call = kernel.body[at]
    vectors = [o for o in call.operands if isinstance(o, Vector)]
    position = next(i for i, o in enumerate(call.operands) if isinstance(o, Symbol))
    results = vectors[0].items if position == 1 else ()
    given = vectors[-1].items if vectors and call.operands[-1] is vectors[-1] and position < len(call.operands) - 1 else ()
    bound = {p.name: o for p, o in zip([*callee.returned, *callee.parameters], [*results, *given], strict=True)}
    rename = {n: n + tag for n in (*callee.types, *callee.variables, *callee.labels, *callee.tables)}
    rename.update({n: o.name for n, o in bound.items() if isinstance(o, (Symbol, Register))})

    def named(o: Operand) -> Operand:
        if isinstance(o, (Register, Symbol)):
            return replace(o, name=rename.get(o.name, o.name))
        if isinstance(o, Negated):
            return Negated(Register(rename.get(o.register.name, o.register.name)))
        if isinstance(o, Address):
            return replace(o, base=named(o.base))  # type: ignore[arg-type]
        if isinstance(o, Vector):
            return Vector(tuple(named(i) for i in o.items))
        return Pair(named(o.first), named(o.second)) if isinstance(o, Pair) else o

    end = f"return{tag}"
    body = []
    if call.guard is not None:  # those whose predicate does not hold go by
        other = call.guard.register if isinstance(call.guard, Negated) else Negated(call.guard)
        body.append(replace(call, opcode="bra", operands=(Symbol(end),), guard=other))
    for x in callee.body:
        guard = named(x.guard) if x.guard else None
        if x.parts[0] == "ret":
            body.append(replace(x, opcode="bra.uni", operands=(Symbol(end),), guard=guard))
        else:
            body.append(replace(x, operands=tuple(named(o) for o in x.operands), guard=guard))
    grow = len(body) - 1
    kernel.labels = {n: p + grow if p > at else p for n, p in kernel.labels.items()}
    start = at + len(body) - len(callee.body)
    kernel.labels.update({rename[n]: start + p for n, p in callee.labels.items()}, **{end: at + len(body)})
    kernel.body[at : at + 1] = body
    kernel.tables.update({rename[n]: [rename[label] for label in table] for n, table in callee.tables.items()})
    kernel.types.update({rename[n]: t for n, t in callee.types.items()})
    kernel.variables.update({rename[n]: replace(v, name=rename[n]) for n, v in callee.variables.items()})
