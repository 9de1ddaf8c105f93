r"""Masks: which weights of a model are there. A dict of booleans under the parameters' own names; a name without a mask is whole.

    masks = {"w1": np.abs(params["w1"]) > 0.02}
    run = fit(loss, params, data, optimizer=Adam(), epochs=3, masks=masks)      # what is not kept is 0, and stays 0

A pruned network is $f(m \odot w)$, so its gradient is $m \odot g$. With weights and moments that are 0 where m is, each optimiser's step
there is 0 as well, whatever its momentum or decay. So a mask is applied to the gradient, once a step, and to nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from engine import checkpoints

Arrays = dict[str, Any]
Masks = dict[str, np.ndarray]


class MaskError(ValueError):
    """Masks that do not belong to these arrays."""


def checked(masks: Mapping[str, Any], params: Mapping[str, Any]) -> Masks:
    """`masks` as arrays of booleans. Raises MaskError unless each has the name and the shape of a parameter."""
    found: Masks = {}
    for name, given in masks.items():
        mask = np.asarray(given)
        if name not in params:
            raise MaskError(
                f"there is a mask for {name!r}, but no such parameter: {', '.join(params)}\n  are these the masks of another model?"
            )
        if mask.dtype != np.bool_ or mask.shape != np.shape(params[name]):
            raise MaskError(
                f"the mask of {name!r} does not fit\n  wanted  bool {np.shape(params[name])}\n  given   {mask.dtype} {mask.shape}"
            )
        found[name] = mask
    return found


def masked(arrays: Mapping[str, Any], masks: Mapping[str, np.ndarray]) -> Arrays:
    r"""$m \odot x$ for each array that has a mask, the others as they are. What is masked is 0 even where x is infinite or nan."""
    return {name: np.where(masks[name], x, np.zeros((), x.dtype)) if name in masks else x for name, x in arrays.items()}


def weights(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of what is pruned unless one says otherwise: arrays of two axes and more. Biases and scales are few, and cheap."""
    return tuple(name for name, p in params.items() if np.ndim(p) >= 2)


def within(masks: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]) -> Masks:
    """Masks that keep what both keep; an array that one of them does not name has the mask of the other."""
    return {**before, **{name: mask & before[name] if name in before else mask for name, mask in masks.items()}}


def kept(masks: Mapping[str, np.ndarray]) -> int:
    """How many weights the masks keep."""
    return sum(int(np.count_nonzero(mask)) for mask in masks.values())


def gone(masks: Mapping[str, np.ndarray]) -> int:
    """How many weights they do not keep."""
    return sum(mask.size for mask in masks.values()) - kept(masks)


def density(masks: Mapping[str, np.ndarray]) -> float:
    """The share of the weights under a mask that is kept: 1 - sparsity. Masks of nothing have density 1."""
    total = sum(mask.size for mask in masks.values())
    return kept(masks) / total if total else 1.0


def save(path: str | os.PathLike[str], masks: Mapping[str, np.ndarray], **notes: Any) -> None:
    """Write masks, and notes in terms of JSON, to a file. See `engine.checkpoints.save`."""
    checkpoints.save(path, {"masks": masks}, notes)


def load(path: str | os.PathLike[str], params: Mapping[str, Any]) -> Masks:
    """The masks in a file, checked against the parameters that they are for. Raises CheckpointError and MaskError."""
    groups, _ = checkpoints.load(path)
    if "masks" not in groups:
        raise checkpoints.CheckpointError(f"{os.fspath(path)} holds no masks, only {', '.join(groups)}")
    return checked(groups["masks"], params)
