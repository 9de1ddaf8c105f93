"""Networks in floats whose weights are codes: calibrated on nothing.

    net = fold(predict, params, x[:1])
    small = weight_only(net, weight_grids(net, bits=..., group=32))     # products in floats, of weights that are expanded for each
    small = dynamic(net)                                                # products of whole numbers: inputs become codes as they come
    logits = small(x)
    small.save("small.safetensors")

What is done to x by the codes is told in `engine.forms.coded`. Biases, functions and pools are in floats, and what flows is too. So there
are two networks of codes for each model: this one, that loses less, and that of `convert.integers`, in which there is no float at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from engine import checkpoints
from engine.forms.coded import Coded, Dynamic, Inputs
from engine.quantise.convert import Grids, weight_grids
from engine.quantise.folded import Folded, Layer
from engine.quantise.functions import Function
from engine.quantise.numbers import Grid, Scheme

KIND = "narrow network"


@dataclass(frozen=True, eq=False)
class Narrow:
    """A folded network whose weights are forms: `weight_only`, `dynamic`."""

    net: Folded

    def __call__(self, x: Any) -> np.ndarray:
        """From floats to floats, in the dtype of x. Raises ValueError, with the layer, for numbers that cannot become codes."""
        return self.values(x)[self.net.layers[-1].name]

    def values(self, x: Any) -> dict[str, np.ndarray]:
        """The input and what each layer gives, by name."""
        known: dict[str, np.ndarray] = {"input": np.asarray(x)}
        for layer in self.net.layers:
            try:
                known[layer.name] = np.asarray(layer(*[known[name] for name in layer.reads]))
            except ValueError as e:
                raise ValueError(f"{layer.name}: {e}") from e
        return known

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that it holds, by name: codes as they are packed, scales, zero points that are not 0, biases."""
        found: dict[str, np.ndarray] = {}
        for name, layer, form in self._formed():
            found.update({f"{name}/{part}": x for part, x in form.arrays.items()})
            found[f"{name}/b"] = np.asarray(layer.b)
        return found

    @property
    def bytes(self) -> int:
        """Of these."""
        return sum(x.nbytes for x in self.arrays.values())

    @property
    def weights(self) -> tuple[int, int]:
        """How many weights and biases are not 0, and how many there are."""
        whole = [part for _, layer, form in self._formed() for part in (form.expand(), np.asarray(layer.b))]
        return sum(int(np.count_nonzero(part)) for part in whole), sum(part.size for part in whole)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to `path` as safetensors, codes packed. See `engine.checkpoints.save`."""
        checkpoints.save(path, {"arrays": self.arrays}, {KIND: 1, "layers": [_told(layer) for layer in self.net.layers]})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Narrow:
        """What `save` wrote. Raises as `engine.checkpoints.load`, and CheckpointError for something else."""
        groups, notes = checkpoints.load(path)
        if not isinstance(notes, dict) or notes.get(KIND) != 1:
            raise checkpoints.CheckpointError(f"{os.fspath(path)} holds no {KIND}, but {', '.join(groups) or 'nothing'}")
        return cls(Folded(tuple(_layer(told, groups["arrays"]) for told in notes["layers"])))

    def _formed(self) -> list[tuple[str, Layer, Coded]]:
        return [(layer.name, layer, layer.w) for layer in self.net.weighted]  # type: ignore[misc]


def weight_only(net: Folded, grids: Grids | None = None) -> Narrow:
    """Weights as codes on their grids, default `weight_grids(net)`; the numbers are those of `convert.rounded`, to the bit.

    Each product expands its weights anew, which at batch 1 takes longer than the product. It is bytes that are saved. Weights that lie on
    their grids stay where they are. Raises ValueError, with the layer, for a grid that is missing or another array's.
    """
    return _narrow(net, grids, Coded.rounded)


def dynamic(net: Folded, grids: Grids | None = None, *, inputs: Inputs = "row") -> Narrow:
    """Weights as codes, and products with the codes of what comes, by its own range.

    inputs   whether each row, or picture, has a range of its own, or each batch: see `engine.forms.coded.Dynamic`
    Raises ValueError, with the layer, for a grid that is missing, another array's or not symmetric, OverflowError where sums could leave
    int32.
    """
    return _narrow(net, grids, lambda w, grid: Dynamic.rounded(w, grid, inputs=inputs))


def _narrow(net: Folded, grids: Grids | None, form: Callable[[Any, Grid], Coded]) -> Narrow:
    grids = weight_grids(net) if grids is None else grids
    layers = []
    for layer in net.weighted:
        if layer.name not in grids:
            raise ValueError(f"there is no grid of {layer.name}: take those of `weight_grids` of this network")
        try:
            layers.append(replace(layer, w=form(layer.w, grids[layer.name])))  # type: ignore[arg-type]
        except (ValueError, OverflowError) as e:
            raise type(e)(f"{layer.name}: {e}") from e
    return Narrow(net.put(*layers))


def _told(layer: Layer) -> dict[str, Any]:
    """A layer as JSON holds it, but for its arrays."""
    told: dict[str, Any] = {"name": layer.name, "kind": layer.kind, "reads": layer.reads, "relu": layer.relu, "options": layer.options}
    if layer.function is not None:
        told["function"] = layer.function.told()
    if isinstance(layer.w, Coded):
        told["weights"] = {"of": layer.w.of, "scheme": asdict(layer.w.grid.scheme), "inputs": getattr(layer.w, "inputs", None)}
    return told


def _layer(told: dict[str, Any], arrays: dict[str, np.ndarray]) -> Layer:
    """What `_told` took apart."""
    name, more = told["name"], dict[str, Any]()
    if "function" in told:
        more["function"] = Function.told_by(told["function"])
    if "weights" in told:
        about, codes, scale = told["weights"], arrays[f"{name}/codes"], arrays[f"{name}/scale"]
        scheme = Scheme(**about["scheme"])
        grid = Grid(scheme, scale, arrays.get(f"{name}/zero_point", np.zeros(scale.shape, scheme.dtype)))
        form = Dynamic(codes, grid, tuple(about["of"]), about["inputs"]) if about["inputs"] else Coded(codes, grid, tuple(about["of"]))
        more.update(w=form, b=arrays[f"{name}/b"])
    options = {key: _tuples(value) for key, value in told["options"].items()}
    return Layer(name, told["kind"], tuple(told["reads"]), relu=told["relu"], options=options, **more)


def _tuples(value: Any) -> Any:
    """JSON has lists only."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
