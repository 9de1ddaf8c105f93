r"""Channels: parts of several arrays that can only go together, and the smaller arrays that are left without them.

    groups = channels(predict, params, x)                  # found by running the model once
    keep = select_channels(groups, magnitude(params), 0.5)
    masks = channel_masks(groups, keep, params)            # as zeros, to train with
    small = shrink(params, groups, keep)                   # as smaller arrays: predict(small, x) is the same function, in less time

A channel of a hidden layer is a row of the weight that makes it, its bias, its scale and shift in a norm, its statistics, and all
that multiplies it later: a column of the next weight; after `flatten` as many columns as it has pixels. Where two layers are added up,
or one weight serves twice, the channels of both are one. None of this is told: `Couple` runs the model and follows each place of each
axis of each parameter through the notations of the ops. What they do not tell apart is *fixed*, and stays: the axes of inputs and of
outputs, an axis of one place, the axis of a softmax or a layer norm, channels in groups, what is taken by its place as in h[:, :3], and
whatever passes through an op that no rule here knows.

Without its channels a network computes the same as with zeros in their place, whatever the activations, since what multiplies a channel
later is zero as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.interpret import Interpreter, interpreting, running
from engine.masks import Arrays, Masks
from engine.op import Op, as_array
from engine.prune.select import Scope, ScoreError, chosen
from engine.shapes import ANY
from engine.traced import Traced
from engine.tree import flatten

FIXED = 0  # the place of all that cannot go
Places = tuple[np.ndarray, ...]  # for each axis of a value, a number for each index along it


class ChannelError(ValueError):
    """Channels that cannot go as it was asked."""


@dataclass(frozen=True)
class Group:
    """Channels that have their parts in the same axes.

    name       that of the array in which its channels stand first; with a number, "w2 (2)", if another group stands first there too
    members    (name, axis): for each channel the indices along that axis, (channels, indices of each)
    """

    name: str
    members: dict[tuple[str, int], np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.members.values())))

    def __str__(self) -> str:
        where = ", ".join(f"{name}[{':, ' * axis}i]" for name, axis in self.members)
        return f"{len(self)} channels of {where}"


Kept = dict[str, np.ndarray]
"""By a group's name, which of its channels are kept: booleans."""


def channels(f: Callable[..., Any], params: Mapping[str, Any], *inputs: Any) -> list[Group]:
    """The groups of channels of f(params, *inputs) that can go: in the order of `params`.

    params    a dict of arrays: parameters, and a model's state with them if f takes them so: {**params, **state}
    inputs    of few examples, of the right shape: f is run on them once
    """
    couple = Couple(running())
    names = list(params)
    traced = {name: couple.parameter(as_array(params[name])) for name in names}
    leaves, rebuild = flatten(inputs)
    with interpreting(couple):
        out = f(traced, *rebuild([couple.fixed(as_array(x)) for x in leaves]))
    for y in flatten(out)[0]:
        if type(y) is Traced and y.owner is couple:
            couple.fix(*y.slot.places)
    return _grouped(names, [traced[name].slot.places for name in names], couple)


def select_channels(
    groups: Sequence[Group], scores: Mapping[str, Any], keep: Any, *, scope: Scope = "layer", before: Masks | None = None
) -> Kept:
    """Which channels to keep: the most important by the sum of the scores of all their parts (of the mean, with scope="global").

    keep    as in `engine.prune.select.select`; by name, it is by the names of groups
    before  masks of what is there: the rest counts nothing, and a channel of which nothing is there goes first

    With |w| as scores it is the L1 norm of Li, Kadav, Durdanovic, Samet & Graf (2017), Pruning filters for efficient ConvNets, sec. 3.1.
    Raises ChannelError for a group without a score, ScoreError for a score that is not a number.
    """
    units = {group.name: _worth(group, scores, before or {}, mean=scope == "global") for group in groups}
    kept = chosen(units, keep, scope)
    for name, which in kept.items():
        if not which.any():
            which[int(np.argmax(units[name]))] = True  # a layer without channels would cut the network in two
    return kept


def channel_masks(groups: Sequence[Group], kept: Kept, params: Mapping[str, Any]) -> Masks:
    """Masks of all parts of the channels that are not kept: of their biases, and of what multiplies them later.

    Raises ChannelError if `kept` is not of these groups.
    """
    masks: Masks = {}
    for group in groups:
        for (name, axis), indices in group.members.items():
            if name in params:
                mask = masks.setdefault(name, np.ones(np.shape(params[name]), bool))
                np.moveaxis(mask, axis, 0)[indices[_going(group, kept)].reshape(-1)] = False
    return masks


def shrink(arrays: Mapping[str, Any], groups: Sequence[Group], kept: Kept) -> Arrays:
    """The arrays without the channels that are not kept. Names stay, so the model's own functions run on them.

    arrays    parameters, state, or anything else under their names: moments, masks
    Raises ChannelError if an array has fewer places than a group, and if `kept` is not of these groups.
    """
    small = dict(arrays)
    for group in groups:
        for (name, axis), indices in group.members.items():
            if name not in small:
                continue
            size = np.shape(arrays[name])[axis]
            if indices.max() >= size:
                raise ChannelError(f"{name} has {size} places along axis {axis}, the group has more: {group}\n  are these other arrays?")
    for name, axes in _dropped(groups, kept).items():
        if name in small:
            x = np.asarray(small[name])
            for axis, indices in axes.items():
                x = np.delete(x, indices, axis=axis)
            small[name] = x
    return small


def kept_by(groups: Sequence[Group], masks: Mapping[str, np.ndarray]) -> Kept:
    """The channels of which masks leave anything. Raises ChannelError for one that is pruned in some of its arrays, but not in all."""
    kept: Kept = {}
    for group in groups:
        gone = [_gone(masks[name], axis, indices) if name in masks else None for (name, axis), indices in group.members.items()]
        masked = [g for g in gone if g is not None]
        everywhere = np.logical_and.reduce(masked) if masked else np.zeros(len(group), bool)
        anywhere = np.logical_or.reduce(masked) if masked else everywhere
        torn = np.flatnonzero(anywhere & ~everywhere)
        if len(torn):
            has = [key for key, g in zip(group.members, gone, strict=True) if g is not None and g[torn[0]]]
            lacks = [key for key, g in zip(group.members, gone, strict=True) if g is not None and not g[torn[0]]]
            raise ChannelError(
                f"channel {torn[0]} of {group.name} is pruned in {_told(has)}, but not in {_told(lacks)}\n"
                f"  these belong together ({group}); channel_masks prunes all of it"
            )
        kept[group.name] = ~everywhere
    return kept


def norm_scales(params: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the scales of a net's batch norms: those beside which the state has a variance. For `criteria.batch_norm_scale`."""
    return tuple(name for name in params if name.endswith("/w") and f"{name[:-2]}/var" in state)


# How places are followed.


@dataclass(frozen=True)
class Note:
    """What is known of a value: a number for each place along each axis, and whether it is a parameter, or one rearranged."""

    places: Places
    parameter: bool = False


class Couple(Interpreter):
    """Run, and find out which places of which axes belong together: sets of numbers that are joined. What is with FIXED must stay.

    An axis of one place is FIXED: it goes along with axes of any size, and without it there would be nothing to go along.
    """

    def __init__(self, below: Interpreter):
        self.below = below
        self.parent = [FIXED]

    def parameter(self, x: np.ndarray) -> Traced:
        """A value each of whose places may go."""
        return Traced(self, x, Note(tuple(self._new(n) for n in x.shape), True))

    def fixed(self, x: Any) -> Traced:
        """A value whose places stay."""
        return Traced(self, x, Note(_fixed(np.shape(x))))

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        mine = [type(a) is Traced and a.owner is self for a in args]
        values = [a.value if own else a for a, own in zip(args, mine, strict=True)]
        notes = [a.slot if own else Note(_fixed(np.shape(a))) for a, own in zip(args, mine, strict=True)]
        y = self.below.apply(op, values, params)
        outputs = y if type(y) is tuple else (y,)
        shapes = [np.shape(part) for part in outputs]
        found = self._followed(op, notes, shapes, params)
        if found is None:
            for note in notes:
                self.fix(*note.places)
            found = [_fixed(shape) for shape in shapes]
        moved = op.name in MOVES and all(note.parameter for note in notes)
        traced = tuple(Traced(self, part, Note(places, moved)) for part, places in zip(outputs, found, strict=True))
        return traced if type(y) is tuple else traced[0]

    def root(self, place: int) -> int:
        """The number that stands for all that belong to this one."""
        while self.parent[place] != place:
            self.parent[place] = self.parent[self.parent[place]]
            place = self.parent[place]
        return place

    def fix(self, *axes: np.ndarray) -> None:
        """These stay."""
        for axis in axes:
            for place in axis:
                self.parent[self.root(int(place))] = FIXED

    def join(self, a: np.ndarray, b: np.ndarray) -> None:
        """Each of a goes only with its b. FIXED, the smallest number, wins."""
        for i, j in zip(a, b, strict=True):
            low, high = sorted((self.root(int(i)), self.root(int(j))))
            self.parent[high] = low

    def _new(self, n: int) -> np.ndarray:
        if n == 1:
            return np.full(1, FIXED)
        first = len(self.parent)
        self.parent.extend(range(first, first + n))
        return np.arange(first, first + n)

    def _followed(self, op: Op, notes: list[Note], outputs: Any, params: dict[str, Any]) -> list[Places] | None:
        """The places of the outputs; None if this is not known."""
        if op.name in MOVES:
            return self._moved(op, notes, params)
        if op.name == "bias_activation":
            self.join(notes[0].places[params["axis"]], notes[1].places[0])
            return [notes[0].places]
        if op.name == "normalise":
            whole = self._broadcast([note.places for note in notes])
            self.fix(*(whole[axis] for axis in _axes(params["axis"], len(whole))))
            return [_where_whole(whole, shape) for shape in outputs]
        if op.name.startswith("conv2d") and params["groups"] != 1:
            return None
        if op.notation is not None:
            return self._named(op, notes, outputs)
        if "axis" in params and len(notes) == len(outputs) == 1:
            return self._along(notes[0].places, outputs[0], params["axis"])
        return None

    def _named(self, op: Op, notes: list[Note], outputs: Any) -> list[Places]:
        """By the notation: an axis of one name is one axis. It is fixed if it stands twice in an argument, or in some outputs only, or is
        summed over without a parameter that is 0 where a channel is gone."""
        assert op.notation is not None
        named: dict[str, np.ndarray] = {}
        holders: dict[str, list[Note]] = {}
        rest: list[Places] = []
        for note, tokens in zip(notes, op.notation.inputs, strict=True):
            names = [ALIASES.get(op.name, {}).get(t, t) for t in tokens if t != ANY]
            split = len(note.places) - len(names)
            rest.append(note.places[:split])
            for name, places in zip(names, note.places[split:], strict=True):
                if name in named:
                    self.join(named[name], places)
                named.setdefault(name, places)
                holders.setdefault(name, []).append(note)
        leading = self._broadcast(rest)
        for name, places in named.items():
            given = sum(name in out for out in op.notation.outputs)
            twice = len({id(note) for note in holders[name]}) < len(holders[name])
            summed = given == 0 and (len(holders[name]) < 2 or not any(note.parameter for note in holders[name]))
            if twice or summed or 0 < given < len(op.notation.outputs):
                self.fix(places)
        found: list[Places] = []
        for tokens, shape in zip(op.notation.outputs, outputs, strict=True):
            after = [named.get(t) for t in tokens if t != ANY]
            ends = shape[len(shape) - len(after) :]
            tail = tuple(p if p is not None else np.full(n, FIXED) for p, n in zip(after, ends, strict=True))
            found.append((*(leading if ANY in tokens else ()), *tail))
        return found

    def _broadcast(self, given: Sequence[Places]) -> Places:
        """Axes lined up from the right; an axis of size 1 goes along with anything."""
        axes = [np.full(1, FIXED)] * max(map(len, given), default=0)
        for places in given:
            for back in range(1, len(places) + 1):
                known, mine = axes[-back], places[-back]
                if len(known) == len(mine) > 1:
                    self.join(known, mine)
                axes[-back] = mine if len(known) == 1 else known
        return tuple(axes)

    def _along(self, places: Places, out: Any, axis: Any) -> list[Places] | None:
        """Reductions, softmax and the like: the axes along which numbers meet are fixed, the others pass."""
        axes = _axes(axis, len(places))
        self.fix(*(places[a] for a in axes))
        if len(out) == len(places):
            return [_where_whole(places, out)]
        left = tuple(p for a, p in enumerate(places) if a not in axes)
        return [left] if len(left) == len(out) else None

    def _moved(self, op: Op, notes: list[Note], params: dict[str, Any]) -> list[Places] | None:
        """Let the op move the numbers of the places themselves, those of one axis at a time, and see along which axis they come out."""
        for note in notes:
            self.fix(*(note.places[axis] for axis in _cut(op, note.places, params)))
        given = [tuple(np.array([self.root(int(place)) for place in axis], int) for axis in note.places) for note in notes]
        found: list[list[np.ndarray]] = []
        for which in range(max(map(len, given))):
            moved = op.definition(*[_spread(places, which) for places in given], **params)
            parts = moved if isinstance(moved, (tuple, list)) else (moved,)
            found = found or [[np.full(n, FIXED) for n in part.shape] for part in parts]
            for axes, part in zip(found, parts, strict=True):
                axis = _direction(part)
                if axis is not None and np.all(axes[axis] == FIXED):
                    axes[axis] = np.moveaxis(part, axis, 0).reshape(part.shape[axis], -1)[:, 0]
                elif np.any(part != FIXED):
                    return None  # over two axes, or two in one
        return [tuple(axes) for axes in found]


ALIASES = {"conv2d": {"k": "c"}}  # without groups, a kernel is as deep as the picture

MOVES = frozenset({
    "broadcast_to", "concat", "expand_dims", "flip", "getitem", "matrix_transpose", "permute_dims", "reshape", "split", "squeeze", "stack",
})  # fmt: skip
"""Ops that move numbers and do not change them."""


def _cut(op: Op, places: Places, params: Mapping[str, Any]) -> list[int]:
    """The axes of which an op takes a part by its place: with a channel fewer the same place would be another channel."""
    if op.name == "split":
        return [params["axis"]]
    if op.name != "getitem":
        return []
    key = [k for k in (params["key"] if isinstance(params["key"], tuple) else (params["key"],)) if k is not None]
    if not all(k is ... or type(k) in (slice, int) for k in key):
        return list(range(len(places)))
    dots = key.index(...) if ... in key else len(key)
    key[dots : dots + 1] = [slice(None)] * (len(places) - len(key) + (... in key))
    return [axis for axis, (k, p) in enumerate(zip(key, places, strict=True)) if not isinstance(k, slice) or len(p[k]) < len(p)]


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes of an `axis` parameter: an int, several, or None for all."""
    return tuple(range(ndim)) if axis is None else tuple(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def _where_whole(places: Places, shape: Any) -> Places:
    """The places of a value of this shape, of whose axes some have shrunk to 1."""
    return tuple(p if len(p) == n else np.full(n, FIXED) for p, n in zip(places, shape, strict=True))


def _direction(part: np.ndarray) -> int | None:
    """The axis along which numbers differ, if it is just one and they are not all FIXED."""
    if part.size == 0 or np.all(part == FIXED):
        return None
    lines = [np.moveaxis(part, axis, 0).reshape(part.shape[axis], -1) for axis in range(part.ndim)]
    alike = [axis for axis, line in enumerate(lines) if np.all(line == line[:, :1])]
    return alike[0] if len(alike) == 1 else None


def _spread(places: Places, which: int) -> np.ndarray:
    """The numbers of one axis, repeated over the others."""
    shape = [len(p) for p in places]
    if which >= len(places):
        return np.full(shape, FIXED)
    along = [1] * len(shape)
    along[which] = shape[which]
    return np.broadcast_to(places[which].reshape(along), shape)


def _fixed(shape: Any) -> Places:
    return tuple(np.full(n, FIXED) for n in shape)


def _grouped(names: Sequence[str], places: Sequence[Places], couple: Couple) -> list[Group]:
    """Places that belong together as channels, and channels of the same arrays as groups."""
    together: dict[int, dict[tuple[str, int], list[int]]] = {}
    for name, axes in zip(names, places, strict=True):
        for axis, numbers in enumerate(axes):
            for index, number in enumerate(numbers):
                root = couple.root(int(number))
                if root != FIXED:
                    together.setdefault(root, {}).setdefault((name, axis), []).append(index)
    alike: dict[Any, list[dict[tuple[str, int], list[int]]]] = {}
    for channel in together.values():
        if len(channel) > 1:  # what is in one array only meets nothing else: the model does not use it
            alike.setdefault(tuple((key, len(indices)) for key, indices in channel.items()), []).append(channel)
    groups: list[Group] = []
    first: Counter[str] = Counter()
    for members, found in alike.items():
        name = members[0][0][0]
        first[name] += 1
        called = name if first[name] == 1 else f"{name} ({first[name]})"
        groups.append(Group(called, {key: np.array([channel[key] for channel in found]) for key, _ in members}))
    return groups


def _worth(group: Group, scores: Mapping[str, Any], before: Masks, *, mean: bool) -> np.ndarray:
    """A score for each channel, of its parts that are there: -inf if none is."""
    scored = [(name, axis, indices) for (name, axis), indices in group.members.items() if name in scores]
    if not scored:
        raise ChannelError(f"there is no score for {group}: the scores are of {', '.join(scores) or 'nothing'}")
    total, count = np.zeros(len(group)), np.zeros(len(group))
    for name, axis, indices in scored:
        score = np.asarray(scores[name], np.float64)
        there = np.asarray(before.get(name, np.ones(score.shape, bool)))
        total += _parts(np.where(there, score, 0), axis, indices).sum(axis=1)
        count += _parts(there, axis, indices).sum(axis=1)
    if np.isnan(total).any():
        raise ScoreError(f"the scores of {group.name} are not numbers (nan): look at the data and the weights")
    return np.where(count > 0, total / np.maximum(count, 1) if mean else total, -np.inf)


def _parts(x: np.ndarray, axis: int, indices: np.ndarray) -> np.ndarray:
    """What each channel has of an array, in a row."""
    parts: np.ndarray = np.moveaxis(x, axis, 0)[indices].reshape(len(indices), -1)
    return parts


def _gone(mask: np.ndarray, axis: int, indices: np.ndarray) -> np.ndarray:
    """Of which channels a mask keeps nothing."""
    gone: np.ndarray = np.logical_not(_parts(mask, axis, indices).any(axis=1))
    return gone


def _going(group: Group, kept: Kept) -> np.ndarray:
    """The channels that are not kept."""
    which = np.asarray(kept.get(group.name, ()), bool)
    if which.shape != (len(group),):
        raise ChannelError(f"wanted is which of the {len(group)} channels of {group.name!r} are kept; there are {', '.join(kept)}")
    return ~which


def _dropped(groups: Sequence[Group], kept: Kept) -> dict[str, dict[int, np.ndarray]]:
    """By name and axis, the indices that go."""
    gone: dict[str, dict[int, np.ndarray]] = {}
    for group in groups:
        for (name, axis), indices in group.members.items():
            before = gone.setdefault(name, {}).get(axis, np.zeros(0, int))
            gone[name][axis] = np.concatenate([before, indices[_going(group, kept)].reshape(-1)])
    return gone


def _told(keys: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name} (axis {axis})" for name, axis in keys)
