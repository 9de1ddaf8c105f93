"""An op: a NumPy function with its shapes, its domain and its derivative rules in one record.

    @op("m k, k n -> m n", linear=("x", "w"), flops="2*m*k*n")
    def matmul(x, w): ...            the definition: specification, oracle and default implementation

    @matmul.vjp("x")
    def _(g, w): ...                 a rule names what it needs; a tape keeps only that

A rule may name   g              the cotangent of the output (vjp)
                  d              the tangent of the argument (jvp)
                  y              the output
                  x              an argument
                  x_shape        only the shape of an argument: the tape then need not keep the array
                  needed         of which of its arguments the gradient is wanted, a tuple of booleans: it may return None for another (vjp)
                  *, axis        a parameter of the op

`slope` takes neither g nor d: it is dy/dx of an elementwise op and gives both rules.
An op with several outputs gets tuples for g and y. A rule for several arguments returns a tuple.
A vjp that is mostly zeros may have an `accumulate` beside it, which adds to a gradient what the vjp would return.
For an op of any number of arguments, `def concat(*xs)`, the one rule is for "xs": d, xs and what is returned are tuples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import attrgetter, is_
from typing import Any

import numpy as np

from engine.domain import Domain, Pick, real
from engine.interpret import EVAL, running
from engine.shapes import Notation, Shape, ShapeError
from engine.traced import NUMPY, OPS, Traced
from kernels.registry import Rung, running_kernels

Function = Callable[..., Any]

Y = -1  # in Rule.wants: the output
NEEDED = -2  # in Rule.wants: which of the rule's arguments are traced
SHAPE = 1 << 16  # in Rule.wants: added to the place of an argument of which only the shape is wanted
ALL = 1 << 15  # in Rule.wants: the place of `*xs`
REMEMBERED = 4096  # calls of one op, by shapes, dtypes and parameters, of which it is known that they fit and what computes them
SIGNATURE = attrgetter("__class__", "shape", "dtype")  # of an array: all that check and choice of a kernel look at


class MissingRule(TypeError):
    """Asked for a derivative that the op does not have."""


class EscapedValue(TypeError):
    """A traced value used after the function that it was traced in had returned."""


@dataclass(frozen=True)
class Rule:
    """One derivative rule of an op."""

    op: str
    args: tuple[str, ...]
    function: Function
    formula: str
    wants: tuple[int, ...]
    params: tuple[str, ...]
    slope: bool = False
    accumulate: Rule | None = None

    def __call__(self, lead: Any, y: Any, values: Sequence[Any], params: dict[str, Any], needed: tuple[bool, ...] | None = None) -> Any:
        """`lead` is the cotangent or the tangent; an element of `values` may be a shape where no more is wanted."""
        wanted = [values[w] if 0 <= w < ALL else y if w == Y else self._wanted(w, values, needed) for w in self.wants]
        options = {name: params[name] for name in self.params} if self.params else {}
        if not self.slope:
            return self.function(lead, *wanted, **options)
        slope = self.function(*wanted, **options)
        if type(slope) is int:  # 1 and -1 stand for themselves: no multiplication
            return lead if slope == 1 else -lead if slope == -1 else lead * slope
        return lead * slope

    def _wanted(self, want: int, values: Sequence[Any], needed: tuple[bool, ...] | None) -> Any:
        """What is neither just an argument nor the output."""
        if want == NEEDED:
            return needed or (True,) * len(self.args)
        return values if want == ALL else _shape(values, want)


def _shape(values: Sequence[Any], want: int) -> Any:
    place = want - SHAPE
    if place == ALL:
        return tuple(v if type(v) is tuple else shape_of(v) for v in values)
    v = values[place]
    return v if type(v) is tuple else shape_of(v)


def shape_of(v: Any) -> Shape:
    """The shape of an array, a traced value or a number."""
    return v.shape if hasattr(v, "shape") else np.shape(v)


@dataclass(frozen=True)
class Plan:
    """What reverse mode does for a call in which certain arguments are traced."""

    rules: tuple[tuple[Rule, tuple[int, ...], tuple[bool, ...]], ...]  # each rule, the places of its arguments, and which are traced
    keep: tuple[int, ...]  # for each argument: 2 keep the value, 1 keep the shape, 0 keep nothing
    keep_y: bool
    several: bool  # whether the rules take a tuple for g


@lru_cache(maxsize=REMEMBERED)
def nothing(shape: Shape, dtype: Any) -> Any:
    """Zeros to read, the same object each time, for the cotangent of an output on which nothing depends. One number stands under every
    index, so that the indices of a pooling do not cost an array of zeros."""
    x = np.broadcast_to(np.zeros((), dtype), shape)
    return x if shape else x[()]


@dataclass(eq=False)
class Op:
    """A NumPy function with its contract and its rules. Call it on arrays, or on anything that speaks their protocols."""

    name: str
    definition: Function
    args: tuple[str, ...]
    variadic: bool
    defaults: dict[str, Any]
    notation: Notation | None
    formula: str
    linear: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    flops: str | None = None
    surrogate: str | None = None
    domain: dict[str, Domain] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    vjps: dict[str, Rule] = field(default_factory=dict)
    jvps: dict[str, Rule] = field(default_factory=dict)
    shape_rule: Function | None = None
    sampler: Callable[[Pick], tuple[list[Any], dict[str, Any]]] | None = None

    def __post_init__(self) -> None:
        self.__doc__ = self.definition.__doc__
        self.__name__ = self.name
        self.__wrapped__ = self.definition
        self.elementwise = self.notation is not None and self.notation.elementwise
        self.checks_first = self.notation is not None and not self.elementwise
        self._plans: dict[tuple[bool, ...], Plan] = {}
        self._known: dict[Any, tuple[Rung | None, Function]] = {}

    def __call__(self, *args: Any, **params: Any) -> Any:
        if self.variadic and len(args) == 1 and type(args[0]) in (list, tuple):
            args = tuple(args[0])
        if self.defaults:
            params = {**self.defaults, **params} if params else self.defaults
        interpreter = running()
        return self.run(args, params) if interpreter is EVAL else interpreter.apply(self, args, params)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    # Running.

    @property
    def served(self) -> bool:
        """Whether a kernel is in force."""
        return self.name in running_kernels()

    def run(self, args: Sequence[Any], params: dict[str, Any]) -> Any:
        """Check the contract and compute, by the kernel in force or by the definition."""
        kernel = running_kernels().get(self.name)
        known = key = None
        if self.checks_first or kernel is not None:
            try:
                key = tuple(map(SIGNATURE, args)), *params.values()
                known = self._known.get(key)
            except (TypeError, AttributeError):  # an unhashable parameter, a Python number among arrays: check each time
                key = None
        if known is not None and known[0] is kernel:
            arrays, compute = args, known[1]
        else:
            arrays = [a if type(a) is np.ndarray else self._as_array(a) for a in args]
            compute = self._fitting(arrays, params, kernel)
            if key is not None and all(map(is_, arrays, args)):
                self._remember(key, kernel, compute)
        try:
            return compute(*arrays, **params)
        except (ValueError, IndexError) as e:
            raise self._explained(e, arrays, params) from e
        except TypeError as e:
            for i, a in enumerate(arrays):
                if getattr(a, "dtype", np.dtype(float)).kind not in "biufc":
                    raise TypeError(f"{self.name}: an array of numbers is wanted, {self.argument(i)} holds {a.dtype}") from e
            raise

    def _fitting(self, arrays: Sequence[Any], params: dict[str, Any], kernel: Rung | None) -> Function:
        """The kernel, if it takes these arrays, else the definition. Raises ShapeError for arrays that do not fit the op."""
        if self.checks_first:
            self._check(arrays, params)
        return kernel.run if kernel is not None and kernel.takes(arrays) else self.definition

    def _remember(self, key: Any, kernel: Rung | None, compute: Function) -> None:
        if len(self._known) >= REMEMBERED:  # a step of an optimiser has other parameters each time
            self._known.clear()
        self._known[key] = kernel, compute

    def _as_array(self, a: Any) -> Any:
        if isinstance(a, np.generic) or (self.elementwise and isinstance(a, (bool, int, float, complex))):
            return a  # a Python scalar among arrays keeps their dtype (NEP 50)
        if type(a) is Traced:
            raise EscapedValue(
                f"{self.name}: a value traced by {type(a.owner).__name__} was used after the traced function had returned, "
                "in another thread, or inside a checkpoint.\n"
                "  return it from the function instead of storing it elsewhere; pass it to the checkpoint as an argument"
            )
        return as_array(a)

    def infer(self, shapes: Sequence[Shape], params: dict[str, Any]) -> list[Shape]:
        """The shapes of the outputs, from the notation or from the op's shape rule. Raises ShapeError."""
        if self.notation is not None:
            if len(shapes) != len(self.notation.inputs):
                raise ShapeError(f"wants {len(self.notation.inputs)} arrays, was given {len(shapes)}")
            if self.shape_rule is None:
                return self.notation.infer(self.args, shapes, params)
            self.notation.bind(self.args, shapes)
        assert self.shape_rule is not None, f"{self.name} has neither a notation nor a shape rule"
        out = self.shape_rule(*shapes, **params)
        return out if isinstance(out, list) else [out]

    def _check(self, arrays: Sequence[Any], params: dict[str, Any]) -> None:
        try:
            self.infer(tuple([a.shape for a in arrays]), params)
        except ShapeError as e:
            raise self._explained(e, arrays, params) from None

    def _explained(self, error: Exception, arrays: Sequence[Any], params: dict[str, Any]) -> Exception:
        """The same error with the op, what it wants and what it was given."""
        names = self.args if not self.variadic else [f"{self.args[0]}[{i}]" for i in range(len(arrays))]
        given = "  ".join(f"{n}: {np.shape(a)}" for n, a in zip(names, arrays, strict=False))
        options = "".join(f"  {k}={v!r}" for k, v in params.items() if len(repr(v)) < 80)
        wants = f"\n  wants  {self.notation.text}" if self.notation else ""
        kind = ShapeError if type(error) is ValueError else type(error)
        return kind(f"{self.name}: {error}{wants}\n  given  {given}{options}")

    # Rules.

    def slope(self, *args: str) -> Callable[[Function], Function]:
        """The decorated function is dy/dx of this elementwise op; it gives vjp and jvp."""

        def register(function: Function) -> Function:
            for a in args:
                self.vjps[a] = self.jvps[a] = self._rule((a,), function, lead=None)
            return function

        return register

    def vjp(self, *args: str) -> Callable[[Function], Function]:
        """The decorated function takes the cotangent g of the output back to `args`."""

        def register(function: Function) -> Function:
            rule = self._rule(args, function, lead="g")
            self.vjps.update(dict.fromkeys(args, rule))
            return function

        return register

    def jvp(self, *args: str) -> Callable[[Function], Function]:
        """The decorated function takes the tangent d of an argument on to the output."""

        def register(function: Function) -> Function:
            rule = self._rule(args, function, lead="d")
            self.jvps.update(dict.fromkeys(args, rule))
            return function

        return register

    def accumulate(self, arg: str) -> Callable[[Function], Function]:
        """The decorated function adds to `total`, in place, what the vjp rule above it would return: for gradients that are mostly zeros.

        It takes `total`, `g`, and of the rest only what that vjp names, which is all that a tape keeps.
        """

        def register(function: Function) -> Function:
            rule = self._rule((arg,), function, lead="total")
            self.vjps[arg] = replace(self.vjps[arg], accumulate=rule)
            return function

        return register

    def _rule(self, args: tuple[str, ...], function: Function, lead: str | None) -> Rule:
        where = f"{self.name}, rule for {', '.join(args)}"
        formula = inspect.cleandoc(function.__doc__ or "").strip()
        if not formula:
            raise ValueError(f"{where}: the docstring is the formula, and there is none")
        for a in args:
            if a not in self.args:
                raise ValueError(f"{where}: {self.name} has no argument {a!r}")
        code = function.__code__
        names = list(code.co_varnames[: code.co_argcount])
        if lead is not None and (not names or names.pop(0) != lead):
            raise ValueError(f"{where}: its first argument is {lead}")
        wants = tuple(Y if (lead, name) == ("total", "g") else self._place(name, where) for name in names)
        keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        return Rule(self.name, args, function, formula, wants, keywords, slope=lead is None)

    def _place(self, name: str, where: str) -> int:
        if name in ("y", "needed"):
            return Y if name == "y" else NEEDED
        stem = name.removesuffix("_shape") if name not in self.args else name
        if stem not in self.args:
            raise ValueError(f"{where}: {name!r} is neither y nor one of {', '.join(self.args)}")
        place = ALL if self.variadic else self.args.index(stem)
        return place if stem == name else place + SHAPE

    def shape(self, rule: Function) -> Function:
        """The decorated function infers the output's shape from the arguments' shapes, where the notation cannot say it."""
        self.shape_rule = rule
        return rule

    def sample(self, sampler: Function) -> Function:
        """The decorated function draws arguments and parameters, where notation and domain do not say it all."""
        self.sampler = sampler
        return sampler

    def plan(self, traced: tuple[bool, ...]) -> Plan:
        """What reverse mode keeps and runs, when it is known of each argument whether it is traced."""
        plan = self._plans.get(traced)
        if plan is None:
            plan = self._plans[traced] = self._make_plan(traced)
        return plan

    def _make_plan(self, traced: tuple[bool, ...]) -> Plan:
        count = len(traced)
        rules: dict[int, tuple[Rule, list[int]]] = {}
        for place in [i for i, is_traced in enumerate(traced) if is_traced]:
            arg = self.argument(place)
            if arg in self.constant:
                continue
            rule = self.vjps.get(arg) or Rule(self.name, (arg,), self._raise_missing, "none", (), ())
            rules.setdefault(id(rule), (rule, []))
            if self.variadic:
                rules[id(rule)] = (rule, list(range(count)))
            elif not rules[id(rule)][1]:
                rules[id(rule)][1].extend(self.args.index(a) for a in rule.args)
        wants = {w for rule, _ in rules.values() for w in rule.wants}
        keep = tuple(2 if i in wants or ALL in wants else 1 if i + SHAPE in wants or ALL + SHAPE in wants else 0 for i in range(count))
        plans = [(rule, tuple(places), tuple([traced[p] for p in places])) for rule, places in rules.values()]
        return Plan(tuple(plans), keep, Y in wants, self.outputs != ("y",))

    def argument(self, place: int) -> str:
        """The name of the argument at `place`."""
        return self.args[0 if self.variadic else place]

    def missing(self, arg: str, kind: str) -> MissingRule:
        """The error for a derivative that is asked for and not there."""
        there = ", ".join(dict.fromkeys(self.vjps if kind == "vjp" else self.jvps)) or "none"
        file = self.definition.__code__.co_filename.replace("\\", "/")
        file = file[file.rfind("engine/") :] if "engine/" in file else file
        return MissingRule(
            f"{self.name} has no {kind} rule for {arg} (rules: {there}).\n"
            f"  write one in {file} under the definition, @{self.name}.{kind}({arg!r}), or cut the derivative with stop_gradient"
        )

    def _raise_missing(self, g: Any) -> Any:
        raise self.missing(next(a for a in self.args if a not in self.vjps and a not in self.constant), "vjp")


def op(
    notation: str | None = None,
    *,
    linear: Iterable[str] = (),
    constant: Iterable[str] = (),
    flops: str | None = None,
    surrogate: str | None = None,
    outputs: Iterable[str] = ("y",),
    numpy: Iterable[Any] | Any = (),
    **domain: Domain,
) -> Callable[[Function], Op]:
    r"""Turn a NumPy function into an op.

    notation    the shapes, e.g. "m k, k n -> m n"; left out if a `@op.shape` rule says them
    linear      arguments in each of which the op is linear: the jvp is the op itself
    constant    arguments that carry no derivative: indices, labels, masks
    flops       floating-point operations, an expression in the names and parameters; default: one an output element
    surrogate   why the rules are not the derivative (a source); exempts from the difference law
    outputs     names of the outputs, if there are several
    numpy       the ufuncs or NumPy functions of the same signature, for which this op stands in
    domain      by argument: where the op is defined and smooth

    The docstring's first line is the formula, in `$...$`.
    """

    def register(definition: Function) -> Op:
        name = definition.__name__
        formula = inspect.cleandoc(definition.__doc__ or "").split("\n")[0].strip()
        if not formula.startswith("$"):
            raise ValueError(f"{name}: the first line of its docstring is the formula, $...$, and there is none")
        if surrogate is not None and not surrogate.strip():
            raise ValueError(f"{name}: an empty sentence is no reason for a surrogate rule")
        code = definition.__code__
        variadic = bool(code.co_flags & inspect.CO_VARARGS)
        total = code.co_argcount + code.co_kwonlyargcount
        args = (code.co_varnames[total],) if variadic else code.co_varnames[: code.co_argcount]
        record = Op(
            name=name,
            definition=definition,
            args=args,
            variadic=variadic,
            defaults=dict(definition.__kwdefaults__ or {}),
            notation=Notation(notation) if notation else None,
            formula=formula,
            linear=tuple(linear),
            constant=tuple(constant),
            flops=flops,
            surrogate=surrogate,
            domain={a: domain.get(a, real) for a in args},
            outputs=tuple(outputs),
        )
        OPS[name] = record
        for function in numpy if isinstance(numpy, tuple) else (numpy,):
            NUMPY[function] = _ignoring_defaults(record)
        return record

    return register


def _ignoring_defaults(record: Op) -> Function:
    """Stand in for a ufunc: its options are taken at their defaults only."""

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            raise TypeError(f"np.{record.name} of a traced array takes no {', '.join(kwargs)}: use np.where or assign to a new name")
        return record(*args)

    return stand_in


def as_array(a: Any) -> np.ndarray:
    """`a` as a NumPy array, without a copy where it speaks the array, buffer or DLPack protocol.

    Raises TypeError if there are no numbers in it.
    """
    if hasattr(a, "__dlpack__") and not hasattr(a, "__array__"):
        return np.from_dlpack(a)
    if hasattr(a, "filled"):
        raise TypeError("a masked array: its mask would be lost\n  fill it, x.filled(0), and choose with np.where(mask, a, b)")
    x = np.asarray(a)
    if x.dtype.kind not in "biufc":
        raise TypeError(f"an array of numbers is wanted, {type(a).__name__} holds {x.dtype}: {str(a)[:60]}")
    return x
