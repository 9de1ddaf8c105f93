r"""Prune and train: once, in stages, from the first weights again, or a little every hundred steps.

    prune = by_weights(magnitude, scope="global")
    for stage in iterate(params, prune=prune, keeps=[0.5, 0.2, 0.1], train=train, folder="runs/pruned"):
        print(stage.keep, kept(stage.masks), accuracy(stage.params))

    run = fit(..., callbacks=[Gradual(prune, Cubic(0.1, steps=1000), every=100)])         # while training

`prune(params, keep, before)` gives masks of the share `keep`, within the masks `before`: what is gone stays gone. `train(params, masks,
number, checkpoint)` trains and returns a run; most often it is `fit` with some arguments.

With a `folder` each stage is a file when it is done, and its training a checkpoint before. The same call again goes on from there.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine import checkpoints
from engine.masks import Arrays, Masks, checked, masked, within
from engine.progress import Callback
from engine.prune.channels import ChannelError, Group, channel_masks, select_channels
from engine.prune.criteria import Scores
from engine.prune.schedule import Schedule
from engine.prune.select import EACH, Grain, NofM, Scope, select
from engine.run import Run, clash
from engine.train import OtherRun

Prune = Callable[[Arrays, float, Masks | None], Masks]
Train = Callable[[Arrays, Masks, int, "Path | None"], Run]


@dataclass(frozen=True)
class Stage:
    """A pruned model.

    number   1, 2, ...; 0 is the dense one
    keep     the share that was asked for
    params, masks   the weights after the training of this stage, and which of them are there
    history  of that training
    name     what it is called where not by its share
    """

    number: int
    keep: float
    params: Arrays
    masks: Masks
    history: list[dict[str, float]] = field(default_factory=list)
    name: str = ""


def by_weights(score: Callable[[Arrays], Scores], *, scope: Scope = "layer", grain: Grain = EACH) -> Prune:
    """Prune single weights, blocks, or n of m, by a criterion: a function from parameters to scores."""

    def prune(params: Arrays, keep: float, before: Masks | None) -> Masks:
        scores = {name: np.asarray(s, np.float64) for name, s in score(params).items()}
        there = before or {}
        worth = {name: np.where(there.get(name, True), s, -np.inf) for name, s in scores.items()}  # what is gone is worth the least
        return within(select(worth, None if isinstance(grain, NofM) else keep, scope=scope, grain=grain), there)

    return prune


def by_channels(score: Callable[[Arrays], Scores], groups: Sequence[Group], *, scope: Scope = "layer") -> Prune:
    """Prune channels, by the scores of all their parts. Raises ChannelError if there are none."""
    if not groups:
        raise ChannelError("there are no channels that can go")

    def prune(params: Arrays, keep: float, before: Masks | None) -> Masks:
        kept = select_channels(groups, score(params), keep, scope=scope, before=before)
        return within(channel_masks(groups, kept, params), before or {})

    return prune


def iterate(
    params: Arrays,
    *,
    prune: Prune,
    keeps: Sequence[float],
    train: Train,
    rewind: Arrays | None = None,
    folder: str | os.PathLike[str] | None = None,
    plan: Mapping[str, Any] | None = None,
) -> Iterator[Stage]:
    """Stages of ever less: prune what was trained last, train what is left.

    params   trained, dense
    keeps    the share after each stage, falling
    rewind   the weights that each stage begins from, with what its mask leaves of them; those that were trained last if None
    folder   where stages and checkpoints go; what is there already is not done again
    plan     what else must be the same for that, in terms of JSON

    One stage is one-shot pruning. With `rewind` the weights of the very beginning, it is the search for lottery tickets.
    Raises ValueError for shares that do not fall, OtherRun if the folder holds the stages of another plan.
    Source: Han et al. (2015), Learning both weights and connections for efficient neural networks, sec. 3; Frankle & Carbin (2019), The
    lottery ticket hypothesis, sec. 2.
    """
    if any(not 0 < k <= 1 for k in keeps) or any(b > a for a, b in itertools.pairwise(keeps)):
        raise ValueError(f"keeps={list(keeps)}: shares in (0, 1] that never rise are wanted")
    said = json.loads(json.dumps({**(plan or {}), "rewound": rewind is not None}))
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    last = Stage(0, 1.0, params, {})
    for number, keep in enumerate(keeps, 1):
        done = None if folder is None else Path(folder) / f"stage-{number:02d}.safetensors"
        found = _read(done, number, keep, params, said) if done is not None and done.is_file() else None
        if found is None:
            masks = prune(last.params, keep, last.masks or None)
            begun = masked(last.params if rewind is None else rewind, masks)
            partial = None if done is None else done.with_name(f"{done.stem}.partial.safetensors")
            run = train(begun, masks, number, partial)
            found = Stage(number, keep, run.params, masks, run.history)
            if done is not None and partial is not None:
                _write(done, found, said)
                partial.unlink(missing_ok=True)
        last = found
        yield found


class Gradual(Callback):
    """Prune while `fit` trains: every so many steps, what the schedule says of the step.

    Source: Zhu & Gupta (2018), To prune, or not to prune, sec. 3.
    """

    def __init__(self, prune: Prune, schedule: Schedule, *, every: int = 100):
        if every < 1:
            raise ValueError(f"every={every}: a number of steps >= 1 is wanted")
        self.prune, self.schedule, self.every = prune, schedule, every

    def start(self, run: Run, plan: Mapping[str, Any]) -> None:
        """Refuse a schedule that the training is too short for."""
        last, steps = self.schedule.begin + self.schedule.steps, plan["epochs"] * plan["batches"]
        if last > steps:
            raise ValueError(f"the schedule ends at step {last}, the training at step {steps}: it would end before its share is reached")

    def step(self, run: Run, loss: float) -> None:
        """Prune, if it is time."""
        since, over = run.step - self.schedule.begin, run.step - self.schedule.begin - self.schedule.steps
        if since >= 0 and over <= 0 and (since % self.every == 0 or over == 0):
            run.prune(self.prune(run.params, self.schedule(run.step), run.masks))


def _write(path: Path, stage: Stage, plan: Mapping[str, Any]) -> None:
    notes = {"number": stage.number, "keep": stage.keep, "history": stage.history, "plan": plan}
    checkpoints.save(path, {"params": stage.params, "masks": stage.masks}, notes)


def _read(path: Path, number: int, keep: float, params: Arrays, plan: Mapping[str, Any]) -> Stage:
    groups, notes = checkpoints.load(path)
    differences = clash({**notes.get("plan", {}), "keep": notes.get("keep")}, {**plan, "keep": keep})
    if differences:
        raise OtherRun(f"{path} is a stage of another run:{differences}\n  take another folder, or delete the stages in this one")
    return Stage(number, keep, groups["params"], checked(groups["masks"], params), notes["history"])
