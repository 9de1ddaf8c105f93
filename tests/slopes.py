"""A function of arrays against NumPy's: value, both modes, second order. The oracle is NumPy's own function, never the engine."""

import numpy as np

from engine import jvp, vjp


def parts(y):
    return tuple(y) if isinstance(y, tuple) else (y,)


def complex_step(f, xs, ds, h=1e-30):
    """The derivative of an analytic f along ds, to rounding: no subtraction takes place."""
    return tuple(np.imag(y) / h for y in parts(f(*[x + 1j * h * d for x, d in zip(xs, ds, strict=True)])))


def central(f, xs, ds, h=1e-4):
    """The derivative of any f along ds, extrapolated once; good to about 1e-10."""

    def slope(h):
        ends = [parts(f(*[x + s * h * d for x, d in zip(xs, ds, strict=True)])) for s in (1, -1)]
        return [(np.asarray(a) - np.asarray(b)) / (2 * h) for a, b in zip(*ends, strict=True)]

    return tuple((4 * fine - coarse) / 3 for fine, coarse in zip(slope(h / 2), slope(h), strict=True))


def near(a, b, rtol):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    scale = max(np.max(np.abs(b), initial=0), 1)
    gap = np.max(np.abs(a - b), initial=0)
    assert gap <= rtol * scale, f"differ by {gap:.2e} where the scale is {scale:.2e}"


def check(f, reference, *xs, analytic=True, second=True, like=None):
    """f's value and derivatives in each argument along random directions, against `reference`.

    analytic   the reference takes complex numbers: then the comparison is to rounding, else to 1e-7
    like       turns a random direction into an allowed one
    """
    rng = np.random.default_rng(7)
    ds = [rng.normal(size=x.shape) for x in xs]
    ds = [like(d) for d in ds] if like else ds
    y, dy = (parts(t) for t in jvp(f, tuple(xs), tuple(ds)))
    want = parts(reference(*xs))
    slopes = complex_step(reference, xs, ds) if analytic else central(reference, xs, ds)
    for a, b, da, db in zip(y, want, dy, slopes, strict=True):
        near(a, b, 1e-12)
        near(da, db, 1e-11 if analytic else 1e-7)
    out, pull = vjp(f, *xs)
    gs = tuple(rng.normal(size=np.shape(part)) for part in parts(out))
    gradients = pull(type(out)(*gs) if hasattr(out, "_fields") else gs if isinstance(out, tuple) else gs[0])
    for x, gx in zip(xs, gradients, strict=True):
        assert gx.shape == x.shape and gx.dtype == x.dtype
    near(inner(gradients, ds), inner(gs, dy), 1e-11 * (1 + sum(np.abs(d).sum() for d in dy)))
    if second:
        pulled = pull_of(f, gs)
        for a, b in zip(jvp(pulled, tuple(xs), tuple(ds))[1], central(pulled, xs, ds), strict=True):
            near(a, b, 1e-6)
        back = vjp(pulled, *xs)[1](tuple(ds))
        hs = [rng.normal(size=x.shape) for x in xs]
        hs = [like(h) for h in hs] if like else hs
        push = jvp(pulled, tuple(xs), tuple(hs))[1]
        size = 1 + sum(np.abs(p).sum() for p in push)
        near(inner(back, hs), inner(ds, push), 1e-10 * size)


def inner(a, b):
    return sum(np.vdot(x, y) for x, y in zip(a, b, strict=True))


def pull_of(f, gs):
    def pulled(*xs):
        out, pull = vjp(f, *xs)
        return pull(type(out)(*gs) if hasattr(out, "_fields") else gs if isinstance(out, tuple) else gs[0])

    return pulled
