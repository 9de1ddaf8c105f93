"""The state of a training run: all that must be known to go on as if nothing had happened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from engine import checkpoints
from engine.masks import checked, masked

Arrays = dict[str, Any]

COUNTERS = ("seed", "step", "epoch", "position", "loss_sum", "examples", "seconds", "history")


@dataclass
class Run:
    """What training knows between two steps. A checkpoint holds this and nothing else.

    params, moments   what is learned, and what the optimiser remembers. An array of params is never written into; moments are the
                      run's own, and a step may write the new ones over them
    state             running statistics and the like; None for a loss without
    seed              of batches and dropout: the order of epoch e is that of (seed, e), the dropout of step t that of (seed, t)
    step              steps taken
    epoch, position   epochs finished, and batches done of the one under way
    history           a record for each epoch: {"epoch": 1, "loss": ..., "val_loss": ...}
    best              params and state of the best epoch so far, where early stopping asks for them
    masks             which weights are there (`engine.masks`); None for all
    """

    params: Arrays
    moments: Arrays
    state: Arrays | None = None
    seed: int = 0
    step: int = 0
    epoch: int = 0
    position: int = 0
    loss_sum: float = 0.0  # over the examples of this epoch
    examples: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: tuple[Arrays, Arrays | None] | None = None
    masks: Arrays | None = None

    def save(self, path: str | os.PathLike[str], plan: Mapping[str, Any]) -> None:
        """Write it all to `path`, with the plan that it follows. See `engine.checkpoints.save`."""
        slots = {slot: x for slot, x in self.moments.items() if isinstance(x, dict)}
        groups: dict[str, Arrays] = {"params": self.params, **{f"moments.{slot}": arrays for slot, arrays in slots.items()}}
        if self.state is not None:
            groups["state"] = self.state
        if self.masks is not None:
            groups["masks"] = self.masks
        if self.best is not None:
            groups["best.params"] = self.best[0]
            if self.best[1] is not None:
                groups["best.state"] = self.best[1]
        numbers = {slot: x for slot, x in self.moments.items() if slot not in slots}
        counters = {name: getattr(self, name) for name in COUNTERS}
        checkpoints.save(path, groups, {"run": counters, "moments": numbers, "plan": dict(plan)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> tuple[Run, dict[str, Any]]:
        """The run in the checkpoint at `path`, and the plan that it followed. See `engine.checkpoints.load`."""
        groups, notes = checkpoints.load(path)
        if "run" not in notes or "params" not in groups:
            raise checkpoints.CheckpointError(f"{os.fspath(path)} holds no training run, only {', '.join(groups) or 'notes'}")
        slots = {group.partition(".")[2]: arrays for group, arrays in groups.items() if group.startswith("moments.")}
        best = (groups["best.params"], groups.get("best.state")) if "best.params" in groups else None
        run = cls(groups["params"], {**notes["moments"], **slots}, groups.get("state"), best=best, masks=groups.get("masks"))
        for name in COUNTERS:
            setattr(run, name, notes["run"][name])
        return run, notes["plan"]

    def prune(self, masks: Arrays) -> None:
        """Set to 0 what the masks do not keep, in the parameters and in what the optimiser remembers of them, for good."""
        self.masks = checked(masks, self.params)
        self.params = masked(self.params, self.masks)
        self.moments = {slot: masked(x, self.masks) if isinstance(x, dict) else x for slot, x in self.moments.items()}

    def chosen(self) -> Run:
        """This run with the arrays of its best epoch, if it kept them: those to use."""
        if self.best is None:
            return self
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return Run(**{**kept, "params": self.best[0], "state": self.best[1]})


def clash(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The lines that say where two plans differ; empty if they agree."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "".join(f"\n  {name}: then {before.get(name)}, now {now.get(name)}" for name in names)


def shapes_of(arrays: Mapping[str, Any] | None) -> dict[str, str] | None:
    """What two dicts of arrays must have in common for one to go on where the other stopped, in words."""
    return None if arrays is None else {name: f"{np.asarray(x).dtype} {np.shape(x)}" for name, x in sorted(arrays.items())}
