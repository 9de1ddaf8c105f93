"""A value that an interpreter keeps an eye on. It answers NumPy's operators, methods and protocols."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from engine.interpret import Interpreter
    from engine.op import Op

OPS: dict[str, Op] = {}
"""Every op by name; an op enters itself when it is defined."""

NUMPY: dict[Any, Callable[..., Any]] = {}
"""What stands in for a NumPy function when one of its arguments is traced."""

HINTS: dict[str, str] = {}
"""What to write instead of a NumPy function that has no stand-in, by its name."""


class Unsupported(TypeError):
    """NumPy has this function, the engine has no derivative for it."""


class Traced:
    """An array as seen by the interpreter that owns it.

    owner   the interpreter
    value   the array, or the `Traced` of the interpreter below
    slot    what the owner notes about it: a place on the tape, a tangent, ...
    """

    __slots__ = ("owner", "slot", "value")
    __array_priority__ = 1000.0
    __hash__ = None  # type: ignore[assignment]   # == is elementwise, as on arrays

    def __init__(self, owner: Interpreter, value: Any, slot: Any = None):
        self.owner = owner
        self.value = value
        self.slot = slot

    # What an array tells about itself.

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return self.value.size  # type: ignore[no-any-return]

    @property
    def T(self) -> Any:
        return np.transpose(self)

    @property
    def mT(self) -> Any:
        return np.matrix_transpose(self)

    @property
    def real(self) -> Any:
        return np.real(self)

    @property
    def imag(self) -> Any:
        return np.imag(self)

    @property
    def flat(self) -> Any:
        return np.ravel(self)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    def __len__(self) -> int:
        return len(primal(self))

    def __iter__(self) -> Iterator[Any]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Traced({primal(self)!r}, by {type(self.owner).__name__})"

    def __format__(self, spec: str) -> str:
        return format(primal(self).item() if self.ndim == 0 else primal(self), spec)

    def __copy__(self) -> Traced:
        return self  # nothing is ever written into it

    def __deepcopy__(self, memo: Any) -> Traced:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a traced value cannot be pickled: it is part of a computation that is still going on")

    # Choices may look at the number: they are not differentiated.

    def __bool__(self) -> bool:
        return bool(primal(self))

    def __contains__(self, item: Any) -> bool:
        return primal(item) in primal(self)

    def __round__(self, *digits: int) -> Any:
        return round(primal(self), *digits)

    def __lt__(self, other: Any) -> Any:
        return primal(self) < primal(other)

    def __le__(self, other: Any) -> Any:
        return primal(self) <= primal(other)

    def __gt__(self, other: Any) -> Any:
        return primal(self) > primal(other)

    def __ge__(self, other: Any) -> Any:
        return primal(self) >= primal(other)

    def __eq__(self, other: Any) -> Any:
        return primal(self) == primal(other)

    def __ne__(self, other: Any) -> Any:
        return primal(self) != primal(other)

    # A number taken out loses its derivative, so it is refused.

    def __float__(self) -> float:
        raise self.owner.refusal("float() (a function of `math`, an assignment to an element of a plain array)")

    def __int__(self) -> int:
        raise self.owner.refusal("int()")

    def __complex__(self) -> complex:
        raise self.owner.refusal("complex()")

    def __index__(self) -> int:
        raise self.owner.refusal("use as a plain integer")

    def item(self, *_: int) -> Any:
        raise self.owner.refusal(".item()")

    def tolist(self) -> Any:
        raise self.owner.refusal(".tolist()")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError(
            "np.array(), np.asarray() and assignment into a NumPy array would cut this value off from its derivative.\n"
            "  for np.array([a, b]) write np.stack([a, b]), for an array filled by a loop collect a list and stack that,\n"
            "  for rng.normal(m, s) write m + s * rng.normal();\n"
            "  to cut it on purpose, use stop_gradient(x) and read it after"
        )

    def __setitem__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "a traced array cannot be assigned into: the tape needs the old value.\n"
            "  build a new one: np.where(mask, a, b), np.concatenate, or ops.scatter_add(x, indices, values)"
        )

    # Operators are op calls.

    def __add__(self, other: Any) -> Any:
        return OPS["add"](self, other)

    def __radd__(self, other: Any) -> Any:
        return OPS["add"](other, self)

    def __sub__(self, other: Any) -> Any:
        return OPS["subtract"](self, other)

    def __rsub__(self, other: Any) -> Any:
        return OPS["subtract"](other, self)

    def __mul__(self, other: Any) -> Any:
        return OPS["multiply"](self, other)

    def __rmul__(self, other: Any) -> Any:
        return OPS["multiply"](other, self)

    def __truediv__(self, other: Any) -> Any:
        return OPS["divide"](self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return OPS["divide"](other, self)

    def __pow__(self, other: Any) -> Any:
        return OPS["pow"](self, other)

    def __rpow__(self, other: Any) -> Any:
        return OPS["pow"](other, self)

    def __neg__(self) -> Any:
        return OPS["negative"](self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return OPS["abs"](self)

    def __mod__(self, other: Any) -> Any:
        return np.remainder(self, other)

    def __rmod__(self, other: Any) -> Any:
        return np.remainder(other, self)

    def __floordiv__(self, other: Any) -> Any:
        return np.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return np.floor_divide(other, self)

    def __divmod__(self, other: Any) -> Any:
        return np.divmod(self, other)

    def __rdivmod__(self, other: Any) -> Any:
        return np.divmod(other, self)

    def __matmul__(self, other: Any) -> Any:
        return np.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return np.matmul(other, self)

    def __getitem__(self, key: Any) -> Any:
        return OPS["getitem"](self, key=key)

    # NumPy's protocols.

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        key: Any = ufunc if method == "__call__" else (ufunc, method)
        if key is ufunc and _is_of("scipy.special", ufunc):
            key = ufunc.__name__  # so that SciPy need not be imported for a table of its functions
        stand_in = NUMPY.get(key)
        if stand_in is None:
            module = "np." if _is_of("numpy", ufunc) else "scipy.special." if _is_of("scipy.special", ufunc) else ""
            raise unsupported(f"{module}{ufunc.__name__}" + ("" if method == "__call__" else f".{method}"))
        return stand_in(*inputs, **kwargs)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        stand_in = NUMPY.get(function)
        if stand_in is None:
            module = getattr(function, "__module__", "numpy").replace("numpy", "np", 1)
            raise unsupported(f"{module}.{function.__name__}")
        return stand_in(*args, **kwargs)


def _is_of(module: str, ufunc: np.ufunc) -> bool:
    """Is this the module's ufunc, and not another's of the same name? What is not imported has none."""
    return getattr(sys.modules.get(module), ufunc.__name__, None) is ufunc


def _method(name: str) -> Callable[..., Any]:
    def call(self: Traced, *args: Any, **kwargs: Any) -> Any:
        return getattr(np, name)(self, *args, **kwargs)

    call.__name__ = name
    call.__doc__ = f"`np.{name}` of this array."
    return call


# An array's methods are NumPy's functions, which come back here through the protocols.
_METHODS = """
    all any argmax argmin argpartition argsort conj conjugate copy cumsum cumprod diagonal dot max mean min nonzero prod ravel repeat
    round searchsorted squeeze std sum swapaxes take trace var
"""
for _name in _METHODS.split():
    setattr(Traced, _name, _method(_name))


def _reshape(self: Traced, *shape: Any, **kwargs: Any) -> Any:
    return np.reshape(self, shape[0] if len(shape) == 1 else shape, **kwargs)


def _transpose(self: Traced, *axes: Any) -> Any:
    return np.transpose(self, axes[0] if len(axes) == 1 else axes or None)


def _astype(self: Traced, dtype: Any, order: str = "K", casting: Any = "unsafe", subok: bool = True, copy: bool = True) -> Any:
    if not np.can_cast(self.dtype, dtype, casting):
        raise TypeError(f"Cannot cast array data from {self.dtype!r} to {np.dtype(dtype)!r} according to the rule {casting!r}")
    return OPS["astype"](self, dtype=np.dtype(dtype))


def _flatten(self: Traced, order: Any = "C") -> Any:
    return np.ravel(self, order)


def _clip(self: Traced, min: Any = None, max: Any = None, **kwargs: Any) -> Any:
    return np.clip(self, min, max, **kwargs)


for _name, _function in {"clip": _clip, "reshape": _reshape, "transpose": _transpose, "astype": _astype, "flatten": _flatten}.items():
    setattr(Traced, _name, _function)

for _name in ("fill", "partition", "put", "resize", "sort"):
    setattr(Traced, _name, Traced.__setitem__)


def primal(x: Any) -> Any:
    """The plain array under however many interpreters."""
    while type(x) is Traced:
        x = x.value
    return x


def unsupported(name: str) -> Unsupported:
    """The error for a NumPy function that has no derivative here, with the nearest thing that has one."""
    return Unsupported(
        f"{name} has no derivative in this engine.{_nearest(name)}\n  if it should not be differentiated: {name}(stop_gradient(x))"
    )


def _nearest(name: str) -> str:
    if name in HINTS:
        return f"\n  instead: {HINTS[name]}"
    known = sorted(OPS) + sorted(getattr(f, "__name__", "") for f in NUMPY if not isinstance(f, tuple))
    near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1, cutoff=0.6)
    return f"\n  nearest op: ops.{near[0]}" if near and near[0] in OPS else f"\n  nearest function: np.{near[0]}" if near else ""
