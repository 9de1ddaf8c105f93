"""Functions of other frameworks as functions of NumPy arrays.

A framework is a module beside this one, of at most 30 lines, with these functions:

    wrap(x)           a NumPy array as an array of the framework, in the same memory where that can be
    unwrap(y)         the way back
    vjp(f, *xs)       ys and pull: pull(gs) is a tuple, a gradient for each of xs
    jvp(f, xs, ds)    ys and their tangents

f takes floating-point arrays of the framework and returns a tuple of such; vjp may be called on a function that calls vjp.
A framework without derivatives of its own has no vjp and no jvp; one whose functions need a context has scope(), which makes it.
None is imported before it is asked for. Complex numbers are pairs of real ones (pairs.py).
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any

import numpy as np

from engine.testing.adapters.pairs import is_complex, real_parts

Function = Callable[..., Any]

PACKAGES = {"engine": "engine", "torch": "torch", "jax": "jax", "jaxlib": "jax", "tensorflow": "tensorflow", "cupy": "cupy",
            "autograd": "autograd"}  # fmt: skip
FRAMEWORKS = tuple(dict.fromkeys(PACKAGES.values()))


class NoFramework(ModuleNotFoundError):
    """A framework that is not there, or that nobody has an adapter for."""


def installed() -> list[str]:
    """The frameworks that could be used here. None is imported."""
    return [name for name in FRAMEWORKS if find_spec(name)]


def adapter(framework: str) -> Any:
    """The adapter module of `framework`. Raises NoFramework if it is unknown or not installed."""
    if framework not in FRAMEWORKS:
        raise NoFramework(f"there is no adapter for {framework!r}; there are {', '.join(FRAMEWORKS)}", name=framework)
    if not find_spec(framework):
        raise NoFramework(f"{framework} is not installed; installed are {', '.join(installed())}", name=framework)
    return importlib.import_module(f"{__name__}.{framework}")


def framework_of(*things: Any) -> str | None:
    """The framework that a function, a module of layers or an array comes from, or None for plain NumPy and Python.

    A function of one's own belongs to the framework that its code names: `def f(x): return torch.tanh(x)`.
    """
    return next((PACKAGES[home] for thing in things for home in _homes(thing) if home in PACKAGES), None)


def _homes(thing: Any) -> Iterator[str]:
    """The packages that a thing may come from, the surest first."""
    thing = getattr(thing, "func", thing)  # what a partial calls
    for owner in (type(thing), thing, getattr(thing, "__objclass__", None), *_named_in(thing)):
        module = owner.__name__ if type(owner) is type(np) else getattr(owner, "__module__", None)
        yield (module or "").partition(".")[0]
        if isinstance(owner, type):  # a class of one's own belongs to whom it inherits from
            yield from (base.__module__.partition(".")[0] for base in owner.__mro__[1:])


def _named_in(f: Any) -> list[Any]:
    """What the names in the code of `f` stand for, and those in the functions beside it that it calls."""
    found: list[Any] = []
    left, seen = [f], {id(f)}
    while left:
        here = left.pop()
        code = getattr(here, "__code__", None)
        if not isinstance(code, CodeType):
            continue
        held = [getattr(cell, "cell_contents", None) for cell in here.__closure__ or ()]  # one may be empty
        captured = [thing for thing in held if callable(thing) or isinstance(thing, ModuleType)]
        named = [here.__globals__[name] for name in _names(code) if name in here.__globals__] + captured
        beside = [n for n in named if getattr(n, "__module__", None) == f.__module__ and id(n) not in seen]
        seen.update(map(id, beside))
        left += beside
        found += named
    return found


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def floating(x: Any) -> bool:
    """Does the framework's own array, traced or not, hold real floating-point numbers?"""
    dtype = getattr(x, "dtype", None)
    return getattr(dtype, "kind", "") == "f" or "float" in str(dtype)


def outputs(y: Any) -> Any:
    """A single array as it is, several as a plain tuple."""
    return tuple(y) if isinstance(y, (tuple, list)) else y


def each(convert: Function, value: Any, kind: Any) -> Any:
    """`value` with every array in its tuples, lists and dicts converted."""
    if isinstance(value, kind):
        return convert(value)
    if isinstance(value, dict):
        return {k: each(convert, v, kind) for k, v in value.items()}
    return type(value)(each(convert, v, kind) for v in value) if type(value) in (tuple, list) else value


@dataclass(frozen=True)
class Adapted:
    """A function of a framework, and that framework's derivatives of it, as functions of NumPy arrays.

    Arguments that hold integers, and outputs that do, have no derivative: there is a gradient for each floating-point argument.
    """

    function: Function
    framework: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs, as NumPy arrays."""
        with self._scope():
            ys = outputs(self.function(*self._in(_arrays(args)), **self._in(kwargs)))
            return self._out(ys if any(map(is_complex, args)) else real_parts(ys))

    def vjp(self, g: Any, args: tuple[Any, ...], y: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The gradient that reverse mode gives for each floating-point argument; `g` in the nesting of the outputs."""
        gs = g if isinstance(g, tuple) else (g,)
        with self._scope():
            f, xs = self._of_floats(args, kwargs)
            _, pull = self._there.vjp(f, *xs)
            found = pull(self._in(_arrays(tuple(c for c in gs if floating(c)))))
            return tuple(np.array(self._out(part)) for part in found)  # copies: the frameworks share buffers, and mean to

    def jvp(self, d: tuple[Any, ...], args: tuple[Any, ...], y: Any, **kwargs: Any) -> Any:
        """The tangents that forward mode gives for the floating-point outputs; `d` has one for each floating-point argument."""
        fresh = tuple(np.array(a, order="C") for a in _arrays(args))  # PyTorch takes no expanded tensors here
        with self._scope():
            _, dys = self._there.jvp(*self._of_floats(fresh, kwargs), self._in(_arrays(tuple(d))))
            found = self._out(tuple(dys))
        return found if isinstance(y, tuple) else found[0]

    def hand_written(self, rule: Function) -> Function:
        """A rule on arrays of the framework, such as a vjp of one's own, as one on NumPy arrays."""

        def neutral(*args: Any, **kwargs: Any) -> Any:
            with self._scope():
                return self._out(rule(*self._in(args), **self._in(kwargs)))

        return neutral

    def gradient(self, count: int = 1) -> Adapted:
        """The function (*gs, *args) -> gradients, with `count` cotangents: its derivatives are the second order of this one."""

        def of_both(*values: Any, **kwargs: Any) -> Any:
            f, xs = _floats_of(self.function, values[count:], kwargs)
            _, pull = self._there.vjp(f, *xs)
            return tuple(pull(tuple(values[:count])))

        return Adapted(of_both, self.framework)

    @property
    def __signature__(self) -> inspect.Signature:
        try:
            return inspect.signature(self.function)
        except (TypeError, ValueError) as e:  # functions written in C may not tell
            raise AttributeError(str(e)) from None

    @property
    def differentiates(self) -> bool:
        """Has the framework derivatives of its own?"""
        return hasattr(self._there, "vjp")

    def _scope(self) -> AbstractContextManager[Any]:
        return getattr(self._there, "scope", nullcontext)()

    @property
    def _there(self) -> Any:
        return adapter(self.framework)

    def _in(self, values: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "not writable": the tester looks itself whether an input was written to
            return each(self._there.wrap, values, np.ndarray)

    def _out(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._out(v) for v in value)
        if value is None:  # a rule of one's own may say so: no gradient
            return None
        return np.asarray(self._there.unwrap(value) if hasattr(value, "dtype") else value)

    def _of_floats(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Function, tuple[Any, ...]]:
        return _floats_of(self.function, self._in(_arrays(args)), self._in(kwargs))


def _arrays(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments with NumPy's scalars as arrays without axes."""
    return tuple(np.asarray(a) if isinstance(a, np.generic) else a for a in args)


def _floats_of(f: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Function, tuple[Any, ...]]:
    """`f` as a function of its floating-point arguments, returning a tuple of its floating-point outputs; and those arguments."""
    places = [i for i, a in enumerate(args) if floating(a)]

    def of_floats(*xs: Any) -> tuple[Any, ...]:
        found = dict(zip(places, xs, strict=True))
        ys = real_parts(outputs(f(*(found.get(i, a) for i, a in enumerate(args)), **kwargs)))
        return tuple(y for y in (ys if isinstance(ys, tuple) else (ys,)) if floating(y))

    return of_floats, tuple(args[i] for i in places)
