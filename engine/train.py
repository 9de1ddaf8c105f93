"""Training: the loop, one step of it, and the evaluation.

    run = fit(mlp.loss, params, (x, t), optimizer=Adam(lr=1e-3), epochs=5, validation=(x_val, t_val))
    run.params, run.history

A loss is `loss(params, *batch) -> scalar`. One with running statistics or dropout is `loss(params, *batch, state=, seed=) -> (scalar,
new state)`, where a seed of None means evaluation; pass `state=` to fit then. `objective(net, ops.cross_entropy)` makes one of a net.

A run is a function of its seed: the order of an epoch, and the dropout of a step, depend on the seed and on their number, on
nothing else. So a run that was stopped at any step, and goes on from its checkpoint, ends in the same bits.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.data import batches
from engine.interrupt import Interrupted, postponed
from engine.masks import checked, kept, masked
from engine.nets import Layer
from engine.optim import Optimizer, clip_by_global_norm
from engine.progress import Callback
from engine.progress import progress as progress_bar
from engine.reverse import value_and_grad
from engine.run import Arrays, Run, clash, shapes_of
from engine.schedule import rate
from engine.seed import fold

Loss = Callable[..., Any]


class Diverged(ArithmeticError):
    """The loss is not a finite number."""


class OtherRun(ValueError):
    """A checkpoint that belongs to another run."""


def fit(
    loss: Loss,
    params: Arrays,
    data: Any,
    *,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int = 64,
    state: Arrays | None = None,
    masks: Arrays | None = None,
    seed: int = 0,
    clip_norm: float | None = None,
    validation: Any = None,
    evaluate: Callable[[Run], Mapping[str, float]] | None = None,
    patience: int | None = None,
    monitor: str = "val_loss",
    maximise: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """Train `params` on `data`, a tuple of arrays with one row an example, and return the run. Nothing given is changed.

    state         of a loss that has one; see above
    masks         booleans by name: weights that are not kept are 0 and stay 0 (`engine.masks`)
    seed          of the order of the examples and of dropout
    clip_norm     largest norm of a gradient, over all arrays
    validation    arrays as `data`: their mean loss is "val_loss" in the history
    evaluate      more for the history: a function from the run to named numbers
    patience      stop after so many epochs without a better `monitor` (smaller, or with `maximise` larger), and return the
                  parameters of the best one
    checkpoint    a file, written after each epoch and every `checkpoint_every` steps
    resume        go on from that file
    config        what else shall stand in it, in terms of JSON, as {"model": "mlp"}; it must be the same to resume
    callbacks     see `engine.progress.Callback`
    progress      show a bar (rich on a terminal) or a line for each epoch

    Ctrl-C finishes the step, writes the checkpoint and raises Interrupted, whose message says how to go on.
    Raises Diverged if the loss is no longer finite, and OtherRun if a checkpoint belongs to another run.
    """
    arrays = as_arrays(data)
    patient = Patience(patience, monitor, maximise)
    plan = _plan(arrays, params, state, optimizer, batch_size, seed, clip_norm, patient, config, masks)
    run = _resumed(checkpoint, plan) if resume else _begun(params, state, optimizer, seed, masks)
    watchers = [*callbacks, *([progress_bar()] if progress else [])]

    def pause() -> None:
        if checkpoint is not None:
            run.save(checkpoint, plan)
        if asked():  # after the writing, in which it may have been asked too
            raise Interrupted(_how_to_resume(run, checkpoint), run)

    for watcher in watchers:
        watcher.start(run, {**plan, "epochs": epochs, "batches": -(-len(arrays[0]) // batch_size)})
    try:
        with postponed() as asked:
            while run.epoch < epochs and not patient.lost(run.history):
                for batch in batches(*arrays, size=batch_size, seed=seed, epoch=run.epoch, start=run.position):
                    value = train_step(run, loss, batch, optimizer, clip_norm=clip_norm)
                    for watcher in watchers:
                        watcher.step(run, value)
                    if asked() or (checkpoint_every and run.step % checkpoint_every == 0):
                        pause()
                end_epoch(run, _measured(run, loss, optimizer, validation, evaluate))
                patient.keep_best(run)
                ends = [watcher.epoch(run, run.history[-1]) for watcher in watchers]
                pause()
                if any(ends):
                    break
    finally:
        for watcher in watchers:
            watcher.end(run)
    return run.chosen()


def train_step(
    run: Run, loss: Loss, batch: Sequence[Any], optimizer: Optimizer, *, clip_norm: float | None = None, in_place: bool = False
) -> float:
    """One step of `run` along the gradient of the loss on one batch. Returns the loss before the step.

    The moments are the run's own and may be written over; the parameters are new arrays, so whoever keeps old ones keeps them. With
    `in_place` they are written over as well, and whoever keeps some copies them first: a seventh of the time of a step of a small MLP.
    """
    began = time.perf_counter()

    def of_params(params: Arrays) -> tuple[Any, Arrays | None]:
        seed = None if run.state is None else fold(run.seed, "step", run.step)
        return _evaluated(loss, params, batch, run.state, seed)

    (value, state), grads = value_and_grad(of_params, has_aux=True)(run.params)
    value = float(value)
    if not math.isfinite(value):
        raise Diverged(
            f"the loss is {value} at step {run.step + 1} (epoch {run.epoch + 1}): the numbers have run away\n"
            "  a smaller learning rate or clip_norm= may cure it; so may a look at the data, if this is one of the first steps"
        )
    if run.masks is not None:
        grads = masked(grads, run.masks)
    if clip_norm is not None:
        grads, _ = clip_by_global_norm(grads, clip_norm)
    run.params, run.moments = optimizer.step(run.params, grads, run.moments, donate=True, in_place=in_place)
    run.state = None if state is None else {name: np.asarray(x, order="C") for name, x in state.items()}  # as a checkpoint gives it back
    run.step += 1
    run.position += 1
    run.loss_sum += value * len(batch[0])
    run.examples += len(batch[0])
    run.seconds += time.perf_counter() - began
    return value


def end_epoch(run: Run, measured: Mapping[str, float]) -> None:
    """Enter the epoch into the history, with what was measured after it, and turn to the next."""
    record = {"epoch": run.epoch + 1, "loss": run.loss_sum / max(run.examples, 1), "seconds": run.seconds, **measured}
    run.history.append({name: float(value) if name != "epoch" else int(value) for name, value in record.items()})
    run.epoch += 1
    run.position, run.loss_sum, run.examples, run.seconds = 0, 0.0, 0, 0.0


def _measured(
    run: Run, loss: Loss, optimizer: Optimizer, validation: Any, evaluate: Callable[[Run], Mapping[str, float]] | None
) -> dict[str, float]:
    measured = {"lr": rate(optimizer.lr, max(run.step - 1, 0))}
    if validation is not None:
        measured["val_loss"] = mean_loss(loss, run.params, validation, state=run.state)
    return {**measured, **(evaluate(run) if evaluate else {})}


def mean_loss(loss: Loss, params: Arrays, data: Any, *, state: Arrays | None = None, batch_size: int = 256) -> float:
    """The mean of the loss over `data`, evaluated: without dropout, with running statistics."""
    arrays = as_arrays(data)
    total = 0.0
    for start in range(0, len(arrays[0]), batch_size):
        batch = [a[start : start + batch_size] for a in arrays]
        total += float(_evaluated(loss, params, batch, state, None)[0]) * len(batch[0])
    return total / len(arrays[0])


def predictions(predict: Callable[[Any], Any], x: Any, *, batch_size: int = 256) -> np.ndarray:
    """predict(x), computed some rows at a time so that memory is enough."""
    return np.concatenate([predict(x[start : start + batch_size]) for start in range(0, max(len(x), 1), batch_size)])


def objective(net: Layer, criterion: Callable[..., Any]) -> Loss:
    """The loss of a net, as `fit` wants it with `state=`: criterion(net's output, targets)."""

    def loss(params: Arrays, x: Any, *targets: Any, state: Arrays, seed: int | None) -> tuple[Any, Arrays]:
        y, state = net.apply(params, x, state, train=seed is not None, seed=seed)
        return criterion(y, *targets), state

    return loss


def _evaluated(loss: Loss, params: Arrays, batch: Sequence[Any], state: Arrays | None, seed: int | None) -> tuple[Any, Arrays | None]:
    """The loss and the new state; a loss without state gives None for it."""
    if state is None:
        return loss(params, *batch), None
    value, state = loss(params, *batch, state=state, seed=seed)
    return value, state


@dataclass(frozen=True)
class Patience:
    """Early stopping. It is a function of the history, so a run from a checkpoint stops where it would have.

    After Prechelt (1998), Early stopping, but when?
    """

    epochs: int | None  # without a better value; None never stops
    monitor: str
    maximise: bool

    def keep_best(self, run: Run) -> None:
        """Keep the run's arrays if its last epoch is the best. An array is never written into, so keeping it is enough."""
        if self.epochs is not None and self._best(run.history) == len(run.history) - 1:
            run.best = (run.params, run.state)

    def lost(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the last so many epochs have brought nothing better."""
        return self.epochs is not None and bool(history) and len(history) - 1 - self._best(history) >= self.epochs

    def _best(self, history: Sequence[Mapping[str, float]]) -> int:
        """The place of the best epoch, the first of equal ones; nan is worse than any number."""
        if self.monitor not in history[-1]:
            known = ", ".join(history[-1])
            raise ValueError(f"early stopping watches {self.monitor!r}, the history has {known}: pass validation=, or another monitor=")
        values = [record[self.monitor] * (-1 if self.maximise else 1) for record in history]
        ranked = [math.inf if math.isnan(v) else v for v in values]
        return ranked.index(min(ranked))


def as_arrays(data: Any) -> tuple[Any, ...]:
    """`data` as a tuple of arrays with one row an example."""
    if not isinstance(data, (tuple, list)) or not data:
        raise TypeError(f"data is a tuple of arrays, (x, t), not {type(data).__name__}")
    arrays = tuple(np.asarray(a) for a in data)
    shapes = [a.shape for a in arrays]
    if any(not shape or shape[0] != len(arrays[0]) for shape in shapes) or len(arrays[0]) == 0:
        raise ValueError(f"the arrays of data have one row an example, as many in each and not none; these have the shapes {shapes}")
    return arrays


def _plan(
    arrays: Sequence[Any],
    params: Arrays,
    state: Arrays | None,
    optimizer: Optimizer,
    batch_size: int,
    seed: int,
    clip_norm: float | None,
    patient: Patience,
    config: Mapping[str, Any] | None,
    masks: Arrays | None,
) -> dict[str, Any]:
    """What a run must have in common with the one that goes on from its checkpoint."""
    plan = {
        "optimizer": re.sub(r" at 0x\w+", "", repr(optimizer)),
        "batch_size": int(batch_size),
        "seed": int(seed),
        "clip_norm": None if clip_norm is None else float(clip_norm),
        "best_by": None if patient.epochs is None else f"{'largest' if patient.maximise else 'smallest'} {patient.monitor}",
        "data": [f"{a.dtype} {a.shape} {_fingerprint(a)}" for a in arrays],
        "params": shapes_of(params),
        "state": shapes_of(state),
        "config": config,
    }
    if masks is not None:
        plan["masks"] = {
            name: f"{kept({name: m})} of {m.size}, {zlib.crc32(np.packbits(m).data):08x}" for name, m in checked(masks, params).items()
        }
    return dict(json.loads(json.dumps(plan)))  # as a checkpoint gives it back


def _fingerprint(a: Any) -> str:
    """A checksum over at most a thousand rows."""
    return f"{zlib.crc32(np.ascontiguousarray(a[:: max(1, len(a) // 1000)]).data):08x}"


def _begun(params: Arrays, state: Arrays | None, optimizer: Optimizer, seed: int, masks: Arrays | None) -> Run:
    run = Run(dict(params), optimizer.init(params), state, int(seed))
    if masks is not None:
        run.prune(masks)
    return run


def _resumed(path: str | os.PathLike[str] | None, plan: Mapping[str, Any]) -> Run:
    if path is None:
        raise ValueError("resume: which checkpoint? pass checkpoint=")
    run, before = Run.load(path)
    differences = clash(before, plan)
    if differences:
        raise OtherRun(
            f"the checkpoint at {os.fspath(path)} belongs to another run:{differences}\n"
            "  resume with what it began with, or begin anew from its parameters: Run.load(path)[0].params"
        )
    return run


def _how_to_resume(run: Run, path: str | os.PathLike[str] | None) -> str:
    where = f"stopped after step {run.step}, in epoch {run.epoch + 1}"
    if path is None:
        return f"{where}; no checkpoint was asked for (checkpoint=), the exception's run has it all"
    return f"{where}; everything is in {os.fspath(path)}: the same call with resume=True goes on from there"
