"""A pruning from the first step to the table: an experiment, a criterion, a schedule; train it dense, prune it in stages, measure each.

    job = Pruning(Experiment.of("lenet5_classic", "mnist5k"), keep=0.1)
    rows = job.rows(list(job.run(Path("runs/pruned"))))

Everything is a function of what the record holds, so a folder with some of its stages is gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from engine import forms, packed, tradeoff
from engine.data import batches
from engine.experiment import Experiment, Mismatch
from engine.masks import Arrays, Masks, weights
from engine.optim import Adam
from engine.progress import Callback
from engine.prune import criteria
from engine.prune.channels import Group, channels, kept_by, shrink
from engine.prune.criteria import Scores
from engine.prune.schedule import SCHEDULES, OneShot
from engine.prune.select import EACH, Blocks, Grain, NofM, Scope, count
from engine.prune.stages import Prune, Stage, by_channels, by_weights, iterate
from engine.run import Run
from engine.schedule import Cosine
from engine.share import share
from engine.train import fit

LOOKED_AT = 10  # batches, by the criteria that look at data
PROBES = 20  # of the Hessian's diagonal
CENTROIDS = 1e-3  # the rate at which Adam trains them: one is a weight of many places, and its gradient the sum of theirs
SPEED = (1, 64)  # batches whose latency is told

Watch = Callable[[str], Sequence[Callback]]


@dataclass(frozen=True)
class Pruning:
    """What is pruned, how, and how much.

    criterion   one of CRITERIA
    schedule    one of `engine.prune.SCHEDULES`: how the shares fall from stage to stage
    keep        the share that is kept at last: of weights, blocks or channels
    stages      how many times it is pruned and trained
    grain       weights, channels, blocks:4x4 (any size), 2:4 (any n:m)
    scope       global: the least important of all layers; layer: the same share of each
    epochs      of training in each stage; None for two thirds of the recipe's
    rewind      each stage begins from the weights before the first step
    share       at last, share the weights that are left: so many numbers for each array, trained as such (`engine.share`)
    """

    experiment: Experiment
    criterion: str = "magnitude"
    schedule: str = "cubic"
    keep: float = 0.1
    stages: int = 4
    grain: str = "weights"
    scope: Scope = "global"
    epochs: int | None = None
    rewind: bool = False
    share: int | None = None

    def __post_init__(self) -> None:
        for what, given, known in (("criterion", self.criterion, CRITERIA), ("schedule", self.schedule, SCHEDULES)):
            if given not in known:
                raise ValueError(f"there is no {what} {given!r}; there are {', '.join(known)}")
        grain = as_grain(self.grain)
        if isinstance(grain, NofM) and self.stages != 1:
            raise ValueError(f"{self.grain} is one stage: the share is always {grain.n} of {grain.m}, and not reached by way of others")
        if self.criterion == "snip" and self.stages != 1:
            raise ValueError(f"snip prunes before the training, once: {self.stages} stages are not to be had")
        if self.schedule == OneShot.name and self.stages != 1:
            raise ValueError(f"{OneShot.name} prunes once: {self.stages} stages are not to be had")
        count(self.keep, 1)  # a share outside (0, 1] is told now

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Pruning:
        """The pruning that `as_dict` described."""
        return cls(**{**said, "experiment": Experiment.from_dict(said["experiment"])})

    @cached_property
    def keeps(self) -> list[float]:
        """The share of each stage."""
        schedule = SCHEDULES[self.schedule](self.keep, steps=self.stages)
        return [schedule(i) for i in range(1, self.stages + 1)]

    @cached_property
    def groups(self) -> list[Group]:
        """The channels of the model."""
        return channels(self.experiment.what.predict, self.experiment.start(), self.experiment.train[0][:1])

    def check(self) -> None:
        """Raise Mismatch if the model cannot take the data, or has nothing of what is to go."""
        params, e = self.experiment.start(), self.experiment
        if self.grain == "channels" and not self.groups:
            raise Mismatch(f"{e.model} has no channels that can go\n  prune weights or blocks of it")
        if not weights(params):
            raise Mismatch(f"{e.model} on {e.data} has no weights of two axes and more, of which some could go")

    def dense(self, folder: Path, watch: Watch) -> Run:
        """The model before: trained, or read where that was done."""
        file = folder / "dense.safetensors"
        return self.experiment.fit(checkpoint=file, resume=file.is_file(), callbacks=watch("dense"), progress=False)

    def run(self, folder: Path, watch: Watch = lambda _: ()) -> Iterator[Stage]:
        """The dense model as stage 0, then the stages. What is in the folder is not done again."""
        self.check()
        folder.mkdir(parents=True, exist_ok=True)
        dense = self.dense(folder, watch)

        def train(params: Arrays, masks: Masks, number: int, partial: Path | None) -> Run:
            resume = partial is not None and partial.is_file()
            return self._tuned(params, masks, number, checkpoint=partial, resume=resume, callbacks=watch(f"stage {number}"))

        first = self.experiment.start()
        plan = {name: said for name, said in self.as_dict().items() if name not in ("keep", "stages", "share")}
        stage = Stage(0, 1.0, dense.params, {}, dense.history, "dense")
        yield stage
        for stage in iterate(
            first if self.criterion == "snip" else dense.params,
            prune=self.prune,
            keeps=self.keeps,
            train=train,
            rewind=first if self.rewind else None,
            folder=folder,
            plan=plan,
        ):
            yield stage
        if self.share is not None:
            yield self._shared(stage, folder, watch)

    def rows(self, stages: Sequence[Stage]) -> list[tradeoff.Row]:
        """What each stage costs and gains; the first is the dense one."""
        e, (x, truth) = self.experiment, self.experiment.test
        answers = [e.what.decide(e.scores(stage.params, x)) for stage in stages]
        exactly = isinstance(as_grain(self.grain), NofM)
        names = [stage.name or (self.grain if exactly else f"keep {stage.keep:.3g}") for stage in stages]
        rows, models, predict = [], [], forms.running(e.what.predict)
        for name, stage, said in zip(names, stages, answers, strict=True):
            params, note = self.deployed(stage)
            rows.append(tradeoff.measured(name, said, answers[0], truth, self.small(stage), note=note))
            models.append(partial(predict, params))
        return tradeoff.timed(rows, models, {batch: x[:batch].astype(np.float32) for batch in SPEED if batch <= len(x)})

    def small(self, stage: Stage) -> Arrays:
        """The arrays of a stage without the channels that are gone; all of them, if it was not channels that were pruned."""
        if self.grain != "channels" or not stage.masks:
            return stage.params
        return shrink(stage.params, self.groups, kept_by(self.groups, stage.masks))

    def deployed(self, stage: Stage) -> tuple[dict[str, Any], str]:
        """The parameters as they run fastest, and how: smaller arrays, sparse forms, or dense ones where those are faster."""
        if not stage.masks or self.grain == "channels":
            return self.small(stage), "dense, smaller" if stage.masks else "dense"
        formed = forms.sparse(stage.params, stage.masks, batch=SPEED[-1])
        kinds = [f"{name} {KINDS[type(formed[name])]}" for name in stage.masks if type(formed[name]) in KINDS]
        return formed, ", ".join(kinds) or "dense"

    @cached_property
    def prune(self) -> Prune:
        """The function from parameters to masks."""
        if self.grain == "channels":
            return by_channels(lambda params: self._scores(params, list(params)), self.groups, scope=self.scope)
        return by_weights(lambda params: self._scores(params, None), scope=self.scope, grain=as_grain(self.grain))

    def _scores(self, params: Arrays, names: list[str] | None) -> Scores:
        return CRITERIA[self.criterion](self, params, names)

    @property
    def looked_at(self) -> list[tuple[Any, ...]]:
        """The batches that criteria look at: the first of an epoch that no training has."""
        some = batches(*self.experiment.train, size=self.experiment.recipe.batch_size, seed=self.experiment.seed, epoch=1 << 20)
        return [batch for _, batch in zip(range(LOOKED_AT), some, strict=False)]

    def _shared(self, last: Stage, folder: Path, watch: Watch) -> Stage:
        """The last stage with shared weights: a codebook for each array, trained, in float16."""
        assert self.share is not None
        shared, file, e = share(last.params, self.share, masks=last.masks), folder / "shared.safetensors", self.experiment
        epochs = self.epochs or e.recipe.epochs // 2 or 1
        steps = epochs * -(-len(e.train[0]) // e.recipe.batch_size)
        run = fit(
            shared.loss(e.what.loss),
            shared.params,
            e.train,
            optimizer=Adam(Cosine(CENTROIDS, steps)),
            epochs=epochs,
            batch_size=e.recipe.batch_size,
            seed=e.seed + last.number + 1,
            checkpoint=file,
            resume=file.is_file(),
            callbacks=watch("shared weights"),
            progress=False,
        )
        params = shared.expand(packed.halved(run.params, "*/codebook"))
        return Stage(last.number + 1, last.keep, params, last.masks, run.history, f"{self.share} shared")

    def _tuned(self, params: Arrays, masks: Masks, number: int, **options: Any) -> Run:
        e = self.experiment
        whole = self.rewind or self.criterion == "snip"  # these begin where the dense model began, and need as long
        recipe = replace(e.recipe, epochs=self.epochs or (e.recipe.epochs if whole else -(-2 * e.recipe.epochs // 3)))
        return fit(
            e.what.loss,
            params,
            e.train,
            optimizer=recipe.made(len(e.train[0])),
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            masks=masks,
            seed=e.seed if whole else e.seed + number,
            validation=e.test,
            progress=False,
            **options,
        )


Names = list[str] | None

KINDS: dict[type, str] = {forms.CSR: "csr", forms.Blocks: "blocks", forms.TwoToFour: "2:4"}

CRITERIA: dict[str, Callable[[Pruning, Arrays, Names], Scores]] = {
    "magnitude": lambda job, p, names: criteria.magnitude(p, names=names),
    "lamp": lambda job, p, names: criteria.lamp(p, names=names),
    "random": lambda job, p, names: criteria.random(p, seed=job.experiment.seed, names=names),
    "taylor": lambda job, p, names: criteria.taylor(job.experiment.what.loss, p, job.looked_at, names=names),
    "snip": lambda job, p, names: criteria.snip(job.experiment.what.loss, p, job.looked_at, names=names),
    "movement": lambda job, p, names: criteria.movement(
        job.experiment.what.loss, p, job.looked_at, lr=job.experiment.recipe.lr, names=names
    ),
    "hessian": lambda job, p, names: criteria.hessian(
        job.experiment.what.loss, p, job.looked_at, probes=PROBES, seed=job.experiment.seed, names=names
    ),
}


def usual_stages(criterion: str, schedule: str, grain: str) -> int:
    """How often it is pruned unless one says otherwise: once, where once is all there is."""
    once = criterion == "snip" or schedule == OneShot.name or isinstance(as_grain(grain), NofM)
    return 1 if once else 4


def as_grain(text: str) -> Grain:
    """weights, blocks:4x4, 2:4; channels count as weights here, being none of a single array. Raises ValueError for anything else."""
    if text in ("weights", "channels"):
        return EACH
    head, _, rest = text.partition(":")
    try:
        if head == "blocks":
            rows, columns = rest.split("x")
            return Blocks(int(rows), int(columns))
        return NofM(int(head), int(rest))
    except ValueError as e:
        raise ValueError(f"there is no grain {text!r}; there are weights, channels, blocks:4x4 (any size), 2:4 (any n:m)") from e
