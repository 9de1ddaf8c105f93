"""Functions with right rules, and wrong rules for them: what the gradient tester is judged by.

    @right("..., ... -> ...")
    def maximum(a, b): ...                     the function, in NumPy

    @maximum.vjp
    def _(g, args, y): ...                     its rule: a tuple, one gradient for each floating-point argument

    @maximum.mutant("nothing at a tie", source=..., kills=..., at=call([1.0], [1.0]))
    def _(g, args, y): ...                     a wrong one, and a call at which it shows

`RIGHT` and `CATALOGUE` fill up as the families are imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from strategies import Drawn, arguments

from engine.domain import Domain, Pick, real
from engine.shapes import Notation

Rule = Callable[..., Any]
RIGHT: dict[str, Right] = {}
CATALOGUE: dict[str, Mutant] = {}


@dataclass(frozen=True)
class Call:
    """One call, and the cotangent that goes back (None: a fixed random one)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    g: Any = None


def call(*args: Any, g: Any = None, **kwargs: Any) -> Call:
    """A call; lists and numbers become float64 arrays, arrays stay as they are laid out."""
    return Call(tuple(a if isinstance(a, np.ndarray) else np.asarray(a, np.float64) for a in args), kwargs, g)


@dataclass(eq=False)
class Right:
    """A function with right rules, and what the tester is told about it.

    told     keyword arguments for check_gradient, but for cases and domain
    domain   by argument, told to the tester
    generic  by argument, where the validation draws values: a smooth part, if `domain` has edges and kinks
    draw     draws (args, kwargs) where shapes and options hang together
    options  by keyword, the values from which the tester and the validation choose
    """

    name: str
    f: Callable[..., Any]
    family: str
    signature: str | None = None
    draw: Callable[[Pick], tuple[Sequence[Any], dict[str, Any]]] | None = None
    domain: dict[str, Domain] = field(default_factory=dict)
    generic: dict[str, Domain] = field(default_factory=dict)
    options: dict[str, Sequence[Any]] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    back: Rule | None = None
    push: Rule | None = None

    def __post_init__(self) -> None:
        assert self.name not in RIGHT, f"two right rules are called {self.name}"
        RIGHT[self.name] = self

    def vjp(self, rule: Rule) -> Rule:
        """The decorated function is the rule."""
        self.back = rule
        return rule

    def jvp(self, rule: Rule) -> Rule:
        """The decorated function takes (tangents, args, y) to the tangent of y."""
        self.push = rule
        return rule

    def mutant(self, name: str, **facts: Any) -> Callable[[Rule], Rule]:
        """The decorated function is a wrong vjp."""
        return self._mutant(name, "vjp", facts)

    def mutant_jvp(self, name: str, **facts: Any) -> Callable[[Rule], Rule]:
        """The decorated function is a wrong jvp beside a right vjp."""
        return self._mutant(name, "jvp", facts)

    def mutant_f(self, name: str, **facts: Any) -> Callable[[Rule], Rule]:
        """The decorated function has the right values, and derivatives that its framework gets wrong."""
        return self._mutant(name, "f", facts)

    def _mutant(self, name: str, part: str, facts: dict[str, Any]) -> Callable[[Rule], Rule]:
        def register(wrong: Rule) -> Rule:
            full = f"{self.name}: {name}"
            assert full not in CATALOGUE, f"two mutants are called {full}"
            CATALOGUE[full] = Mutant(full, self, part, wrong, **facts)
            return wrong

        return register

    def sample(self, pick: Pick) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call at which the function is smooth."""
        if self.draw:
            args, kwargs = self.draw(pick)
            return tuple(args), dict(kwargs)
        assert self.signature is not None, f"{self.name} has neither a signature nor a way to draw"
        notation = Notation(self.signature)
        names = self.f.__code__.co_varnames[: len(notation.inputs)]
        domain = {n: self.generic.get(n, self.domain.get(n, real)) for n in names}
        args, _ = arguments(SimpleNamespace(sampler=None, notation=notation, args=names, domain=domain, defaults={}), pick)
        return tuple(args), {k: pick.choice(list(v)) for k, v in self.options.items()}

    def settings(self) -> dict[str, Any]:
        """What check_gradient is told, as keyword arguments."""
        told = dict(self.told)
        if self.signature:
            told["signature"] = self.signature
        if self.draw:
            told["cases"] = _cases(self.draw)
        elif self.options:
            told["kwargs"] = {k: st.sampled_from(list(v)) for k, v in self.options.items()}
        if self.domain:
            told["domain"] = self.domain
        if self.push:
            told["jvp"] = self.push
        return told

    def check(self, **settings: Any) -> Any:
        """The tester's report on the right rule."""
        from engine.testing import check_gradient

        return check_gradient(self.f, self.back, **{**self.settings(), **settings})


@st.composite
def _cases(draw: Any, sampler: Any) -> Any:
    args, kwargs = sampler(Drawn(draw))
    return tuple(args), dict(kwargs)


@dataclass(frozen=True, eq=False)
class Mutant:
    """A wrong rule for a right function.

    source   the thread or commit in which the fault was reported
    fault    what is wrong, in one sentence
    kills    the property that should reject it
    at       a call at which it shows
    truth    the right gradient there by a formula in high precision, where differences cannot see it; called with `at.args`
    beyond   what of it lies beyond the default settings, if something does
    order    2 if only a second derivative is wrong
    """

    name: str
    right: Right
    part: str
    wrong: Rule
    source: str
    fault: str
    kills: str
    at: Call
    truth: Callable[..., Any] | None = None
    beyond: str = ""
    order: int = 1

    @property
    def family(self) -> str:
        return self.right.family

    def claim(self) -> dict[str, Any]:
        """f, vjp and jvp with the fault."""
        return {"f": self.right.f, "vjp": self.right.back, "jvp": self.right.push} | {self.part: self.wrong}

    def check(self, **settings: Any) -> Any:
        """The tester's report on the wrong rule."""
        from engine.testing import check_gradient

        claim, told = self.claim(), self.right.settings()
        told.pop("jvp", None)
        return check_gradient(claim.pop("f"), claim.pop("vjp"), **{**told, **claim, **settings})


def right(
    signature: str | None = None,
    *,
    name: str | None = None,
    draw: Any = None,
    domain: dict[str, Domain] | None = None,
    generic: dict[str, Domain] | None = None,
    options: dict[str, Sequence[Any]] | None = None,
    **told: Any,
) -> Callable[[Callable[..., Any]], Right]:
    """Register the decorated function; its rule follows. See `Right` for the arguments."""

    def register(f: Callable[..., Any]) -> Right:
        family = f.__module__.rpartition(".")[2]
        return Right(name or f.__name__, f, family, signature, draw, domain or {}, generic or {}, options or {}, told)

    return register


def unary(name: str, f: Rule, slope: Rule, family: str, *, domain: Domain = real, generic: Domain | None = None) -> Right:
    """y = f(x) for each element; `slope` takes (x, y)."""

    def forward(x: Any) -> Any:
        return f(x)

    told = {"x": domain} if domain is not real else {}
    record = Right(name, forward, family, "... -> ...", None, told, {"x": generic} if generic else {})
    record.back = unary_rule(slope)
    return record


def binary(name: str, f: Rule, slopes: Rule, family: str, *, domains: Any = (), generic: Any = ()) -> Right:
    """y = f(a, b) for each pair of elements that broadcasting makes; `slopes` takes (a, b, y) to two slopes."""

    def forward(a: Any, b: Any) -> Any:
        return f(a, b)

    domain, smooth = ({n: d for n, d in zip("ab", given, strict=False) if d is not real} for given in (domains, generic))
    record = Right(name, forward, family, "..., ... -> ...", None, domain, smooth)
    record.back = binary_rule(slopes)
    return record


def unary_rule(slope: Rule) -> Rule:
    """A vjp from dy/dx."""

    def rule(g: Any, args: Any, y: Any, **kwargs: Any) -> Any:
        (x,) = args
        return (fitted(g * slope(x, y, **kwargs), x),)

    return rule


def binary_rule(slopes: Rule) -> Rule:
    """A vjp from dy/da and dy/db."""

    def rule(g: Any, args: Any, y: Any, **kwargs: Any) -> Any:
        return tuple(fitted(g * s, x) for s, x in zip(slopes(*args, y, **kwargs), args, strict=True) if x.dtype.kind == "f")

    return rule


def fitted(g: Any, x: Any) -> Any:
    """`g` in the shape and dtype of x: summed over the axes along which x was broadcast."""
    g = np.asarray(g)
    extra = g.ndim - x.ndim
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(x.shape) if n == 1 and g.shape[i + extra] != 1)
    return (g.sum(axis=axes).reshape(x.shape) if axes else g).astype(x.dtype, copy=False)
