"""HIPS autograd: NumPy arrays, functions written with autograd.numpy."""

from typing import Any

from autograd import make_jvp, make_vjp
from autograd.builtins import tuple as boxed


def wrap(x: Any) -> Any:
    return x


unwrap = wrap


def vjp(f: Any, *xs: Any) -> Any:
    pull, ys = make_vjp(lambda *a: boxed(f(*a)), tuple(range(len(xs))))(*xs)
    return ys, lambda gs: pull(boxed(gs))


def jvp(f: Any, xs: Any, ds: Any) -> Any:
    return make_jvp(lambda x: boxed(f(*x)))(boxed(xs))(boxed(ds))
