"""`check_module`: the gradient of a whole model, with a verdict for each of its parameters by name.

A model is judged at its own parameters and on the inputs it is given, by the judge of `engine.verdict`: along the gradient, along
random directions and single entries of each parameter, with steps that cross no kink. `check_gradient` draws calls of its own and
is for the functions that a model is made of.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from engine.nets import Layer
from engine.testing.adapters import framework_of
from engine.testing.report import FAIL, INCONCLUSIVE, PASS, GradientError
from engine.tree import flatten, tree_map
from engine.verdict import RTOL, Judgement, Model, OfEngine, judge_model


@dataclass(frozen=True)
class ModuleReport:
    """The verdict on each parameter of a model.

    verdict      FAIL if one parameter fails, PASS if all of them pass
    judgement    all that was compared
    """

    name: str
    judgement: Judgement
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        return self.judgement.verdict

    @property
    def parameters(self) -> dict[str, str]:
        """The verdict on each parameter, by name."""
        return {a.name: a.verdict for a in self.judgement.arrays}

    @property
    def failed(self) -> list[str]:
        """The names of the parameters whose gradient is wrong."""
        return [name for name, found in self.parameters.items() if found == FAIL]

    def __bool__(self) -> bool:
        return self.verdict == PASS

    def __str__(self) -> str:
        return self.explain()

    def explain(self) -> str:
        """The report as text: a line for each parameter, and each comparison that did not pass."""
        head, *lines = str(self.judgement).splitlines()
        what, _, rest = head.partition(":")
        return "\n".join([f"{what}  {self.name}:{rest}", *lines])

    def raise_if_failed(self, *, inconclusive: bool = True) -> None:
        """Raise GradientError unless the verdict is PASS; with `inconclusive=False` only if it is FAIL."""
        if self.verdict == FAIL or (inconclusive and self.verdict == INCONCLUSIVE):
            raise GradientError("\n" + self.explain())

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        return {"name": self.name, **self.judgement.as_dict(), "text": self.explain(), "seconds": self.seconds}

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.explain())}</pre>"


def check_module(
    model: Any, *inputs: Any, params: Any = None, state: Any = None, loss: Callable[[Any], Any] | None = None, train: bool | None = None,
    seed: int = 0, rtol: float = RTOL, directions: int = 2, coordinates: int = 4,
) -> ModuleReport:  # fmt: skip
    """Is the gradient right in every parameter of a model?

    model         a torch.nn.Module; a net of `engine.nets`; or a function (params, *inputs) of ops or NumPy
    inputs        what the model is called with; floating-point arrays are taken to float64, and so are the parameters
    params        the parameters, by name. A module has its own; those of a net are made from `seed`
    state         of a net: what `init` returned beside the parameters
    loss          of the model's output, a number; left out, the output is weighted with fixed random numbers and summed up
    train         batch statistics and dropout, the same one each time; left out, a module stays as it is and a net is in use
    rtol, directions, coordinates    of `engine.verdict.judge`

    The model itself is not changed. Raises TypeError for a model that is none of these.
    """
    start = time.perf_counter()
    torch = sys.modules.get("torch")  # who has a module has imported it
    if torch is not None and isinstance(model, torch.nn.Module):
        from engine.testing.torch_module import OfTorch

        module = OfTorch(model, inputs, loss, train, seed)
        name, judged, params = type(model).__name__, cast(Model, module), module.params
    else:
        name, judged, params = of_engine(model, inputs, params, state, loss, bool(train), seed)
    found = judge_model(judged, params, seed=seed, rtol=rtol, directions=directions, coordinates=coordinates)
    return ModuleReport(name, found, time.perf_counter() - start)


def of_engine(model: Any, inputs: tuple[Any, ...], params: Any, state: Any, loss: Any, train: bool, seed: int) -> tuple[str, Model, Any]:
    """A name, the loss, and the parameters. Raises TypeError for what is no model, or has no parameters."""
    xs = tree_map(wide, inputs)
    framework = framework_of(model)
    if framework not in (None, "engine"):
        raise TypeError(f"a model of {framework} cannot be checked whole: give its loss to check_gradient, with framework={framework!r}")
    if isinstance(model, Layer):
        if len(xs) != 1:
            raise TypeError(f"a net takes one input, given {len(xs)}")
        if params is None:
            params, state = model.init(seed, np.shape(xs[0])[1:], np.float64)
        name = model.name or model.kind

        def output(p: Any) -> Any:
            return model.apply(p, xs[0], tree_map(wide, state), train=train, seed=seed)[0]

    elif callable(model) and params is not None:
        name = getattr(model, "__name__", type(model).__name__)

        def output(p: Any) -> Any:
            return model(p, *xs)

    else:
        raise TypeError(
            f"{type(model).__name__} is no model that can be checked\n"
            "  give a torch.nn.Module, a net of engine.nets, or a function (params, *inputs) and its params="
        )
    return name, OfEngine(lambda p: weighted(output(p), seed) if loss is None else loss(output(p))), params


def wide(x: Any) -> Any:
    """Floating-point numbers as float64; integers are indices and stay."""
    x = np.asarray(x)
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def weighted(y: Any, seed: int) -> Any:
    """The outputs, weighted with random numbers of both signs and summed up. What is a number already stays."""
    parts = flatten(y)[0]
    if len(parts) == 1 and np.ndim(parts[0]) == 0:
        return parts[0]
    rng = np.random.default_rng(seed)
    total = 0.0
    for part in parts:
        if part.dtype.kind == "f" or part.dtype.kind == "c":
            total = total + (part * rng.uniform(0.5, 1.5, part.shape) * rng.choice([-1.0, 1.0], part.shape)).sum()
    return total
