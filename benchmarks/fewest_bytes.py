r"""The smallest file that knows 99 % of MNIST: four small convolutions, with weights of -1, 0 and 1 in Huffman codes.

    GNOMON_DATA=folder python -m benchmarks fewest-bytes             train, in runs/fewest-bytes; goes on where it was broken off
    net = read(FILE)
    logits = net(images)                                             # (n, 1, 28, 28), from 0 to 1

Each layer is a convolution of 3 by 3 without a bias, perhaps the maximum over squares, a batch norm, relu; at last the mean over the
pixels, a product, and a norm. It is trained in floats, then with weights that are whole multiples of a learned step (LSQ), from -Q to Q.
What is kept is a whole number for each weight, and for each channel a factor and a shift, which are the norm and the step, in sixteenths
of an octave and in twelfths. The file is one of `engine.packed`, and says all that is needed but the kind of the layers:

    layers   channels, padding, size of the squares
    w        the whole numbers of all layers, one after the other
    factor   16 log2 of the factors, which are positive: what a norm learns is their logarithm
    shift    12 times the shifts

Pictures are turned, sheared, stretched and shifted a little in each step. The last 5,000 of the training images are not trained on: they
choose among seeds, and chose the units of factors and shifts.

Sources: Esser et al. (2020), Learned step size quantization; Han, Mao & Dally (2016), Deep compression, sec. 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from engine import ops, packed
from engine.data import load
from engine.initialise import he_normal
from engine.ops.normalise import batch_norm_update
from engine.optim import AdamW
from engine.run import Run
from engine.schedule import Cosine
from engine.traced import primal
from engine.train import fit, predictions
from kernels.registry import use

Arrays = dict[str, Any]

FILE = Path(__file__).with_name("results") / "fewest_bytes.packed"
HELD_BACK = 5000
SETTLING = 5000  # pictures, over which the statistics of the norms are taken at last
CLASSES = 10
BATCH = 128
ALIKE = 8  # pictures of a batch that are moved in the same way: most of the time goes into where the pixels lie
OCTAVE, UNIT = 16, 12  # parts of an octave in a factor, and of 1 in a shift
EPS, MOMENTUM = 1e-5, 0.05  # of the norms
DECAY = 0.01  # of the weights


class Conv(NamedTuple):
    """A layer: channels, pixels around the picture, and the size of the squares whose maximum is taken."""

    channels: int
    padding: int = 0
    pool: int = 1


Layers = tuple[Conv, ...]


class Phase(NamedTuple):
    """A part of the training, in which the rate falls to 0 along a half cosine."""

    epochs: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """`highest` is Q."""

    layers: Layers = (Conv(8, pool=2), Conv(12, pool=2), Conv(12, padding=1), Conv(16))
    highest: int = 1
    floats: Phase = field(default=Phase(10, 0.01))
    rounded: Phase = field(default=Phase(20, 0.005))


# The file.


@dataclass(frozen=True)
class Net:
    """What is in the file."""

    layers: Layers
    w: tuple[np.ndarray, ...]  # int8
    factor: tuple[np.ndarray, ...]  # int16, in the file a byte each if they fit
    shift: tuple[np.ndarray, ...]  # int16

    def __call__(self, x: Any) -> Any:
        """The logits."""
        *convs, last = zip(self.w, self.factor, self.shift, strict=True)
        for layer, (w, factor, shift) in zip(self.layers, convs, strict=True):
            y = pooled(ops.conv2d(x, w.astype(np.float32), padding=layer.padding), layer.pool)
            x = ops.relu(y * _factor(factor)[:, None, None] + _shift(shift)[:, None, None])
        w, factor, shift = last
        return ops.matmul(ops.mean(x, axis=(2, 3)), w.astype(np.float32)) * _factor(factor) + _shift(shift)

    @property
    def numbers(self) -> int:
        """How many are stored: weights, factors, shifts."""
        return sum(x.size for part in (self.w, self.factor, self.shift) for x in part)

    def packed(self) -> bytes:
        """As a file."""
        flat = {name: np.concatenate([x.reshape(-1) for x in getattr(self, name)]) for name in ("w", "factor", "shift")}
        return packed.pack({"layers": np.asarray(self.layers, np.uint8), **flat})


def read(path: Path) -> Net:
    """The net in a file."""
    arrays = packed.load(path)
    layers = tuple(Conv(*map(int, row)) for row in arrays["layers"])
    shapes = _shapes(layers)
    channels = [(layer.channels,) for layer in layers] + [(CLASSES,)]
    return Net(layers, *(_cut(arrays[name], wanted) for name, wanted in (("w", shapes), ("factor", channels), ("shift", channels))))


def _cut(flat: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, ...]:
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return tuple(x.reshape(shape) for x, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True))


def _factor(codes: np.ndarray) -> np.ndarray:
    return np.exp2(codes.astype(np.float32) / OCTAVE)


def _shift(codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.float32) / UNIT


def _shapes(layers: Layers) -> list[tuple[int, ...]]:
    """Of the weights: those of the convolutions, then that of the product."""
    counts = [1, *(layer.channels for layer in layers)]
    return [*((o, c, 3, 3) for c, o in pairwise(counts)), (counts[-1], CLASSES)]


# Training.


def start(layers: Layers, seed: int) -> tuple[Arrays, Arrays]:
    """Parameters and running statistics: He et al. (2015), eq. 10."""
    rng = np.random.default_rng(seed)
    params: Arrays = {}
    state: Arrays = {}
    for i, shape in enumerate(_shapes(layers)):
        channels = shape[0] if len(shape) == 4 else shape[1]
        params[f"{i}/w"] = he_normal(rng, shape, np.float32)
        params.update({f"{i}/norm/w": np.zeros(channels, np.float32), f"{i}/norm/b": np.zeros(channels, np.float32)})
        state.update({f"{i}/norm/mean": np.zeros(channels, np.float32), f"{i}/norm/var": np.ones(channels, np.float32)})
    return params, state


def logits(layers: Layers, params: Mapping[str, Any], x: Any, state: Arrays, *, momentum: float | None = None) -> tuple[Any, Arrays]:
    """The logits, and the running statistics. With `momentum` a batch is normalised by its own, and the running ones move towards them."""
    state = dict(state)
    for i, layer in enumerate(layers):
        y = pooled(ops.conv2d(x, params[f"{i}/w"], padding=layer.padding), layer.pool)
        x = ops.relu(_normalised(f"{i}/norm", params, y, state, momentum))
    i = len(layers)
    return _normalised(f"{i}/norm", params, ops.matmul(ops.mean(x, axis=(2, 3)), params[f"{i}/w"]), state, momentum), state


def pooled(y: Any, size: int) -> Any:
    """The maximum over squares."""
    return y if size == 1 else ops.max_pool2d(y, kernel_size=size)


def _normalised(name: str, params: Mapping[str, Any], y: Any, state: Arrays, momentum: float | None) -> Any:
    """By the statistics of the batch, which go into `state`, or by those."""
    w, b, seen = ops.exp(params[f"{name}/w"]), params[f"{name}/b"], [f"{name}/mean", f"{name}/var"]
    if momentum is None:
        return ops.batch_norm_inference(y, w, b, *(state[part] for part in seen), eps=EPS)
    y, *of_batch = ops.batch_norm(y, w, b, eps=EPS)
    count = math.prod(y.shape) // y.shape[1]
    after = batch_norm_update(*(state[part] for part in seen), *map(ops.stop_gradient, of_batch), count=count, momentum=momentum)
    state.update({part: np.asarray(primal(new), np.float32) for part, new in zip(seen, after, strict=True)})
    return y


def rounded(params: Mapping[str, Any], highest: int) -> Arrays:
    """The parameters with weights on their grids; those without a step as they are."""
    given = {name: x for name, x in params.items() if not name.endswith("/step")}
    for name in [name for name in given if f"{name}/step" in params]:
        share = 1 / math.sqrt(math.prod(given[name].shape) * highest)
        step = ops.learned_step_size(params[f"{name}/step"], share=share)
        given[name] = ops.fake_quant(given[name], step, np.zeros((), np.float32), low=-highest, high=highest)
    return given


def stepped(params: Arrays, highest: int) -> Arrays:
    r"""With the logarithm of a step for each array of weights, from LSQ's $2\, \overline{|w|} / \sqrt{Q}$."""
    weights = {name: x for name, x in params.items() if x.ndim > 1}
    steps = {f"{name}/step": np.log(2 * np.abs(x).mean() / np.sqrt(highest)).astype(np.float32) for name, x in weights.items()}
    return {**params, **steps}


def net_of(layers: Layers, params: Mapping[str, Any], state: Mapping[str, Any], highest: int) -> Net:
    """What is kept of a training with rounding."""
    parts: list[tuple[np.ndarray, ...]] = []
    for i in range(len(layers) + 1):
        step, gain = np.exp(params[f"{i}/w/step"]), np.exp(params[f"{i}/norm/w"]) / np.sqrt(state[f"{i}/norm/var"] + EPS)
        codes = np.clip(np.rint(params[f"{i}/w"] / step), -highest, highest)
        shift = params[f"{i}/norm/b"] - state[f"{i}/norm/mean"] * gain
        factor = OCTAVE * np.log2(step * gain)
        parts.append((codes.astype(np.int8), np.rint(factor).astype(np.int16), np.rint(UNIT * shift).astype(np.int16)))
    return Net(tuple(layers), *zip(*parts, strict=True))


def moved(x: np.ndarray, seed: int) -> np.ndarray:
    """Pictures turned and sheared by up to 0.13, stretched by 8 %, shifted by 1.2 pixels, between pixels linearly; eight of them alike."""
    n, _, h, w = x.shape
    rng = np.random.default_rng(seed)
    wide = np.pad(x[:, 0], ((0, 0), (2, 2), (2, 2))).reshape(n, -1)
    rows, columns = np.arange(h)[:, None] - (h - 1) / 2, np.arange(w) - (w - 1) / 2
    new = np.empty((n, h * w), x.dtype)
    for k in range(0, n, ALIKE):
        (turn, shear), stretch, shift = rng.uniform(-0.13, 0.13, 2), rng.uniform(0.92, 1.08, 2), rng.uniform(-1.2, 1.2, 2)
        i = stretch[0] * (np.cos(turn) * rows + (np.sin(turn) + shear) * columns) + shift[0] + (h - 1) / 2
        j = stretch[1] * (np.cos(turn) * columns - np.sin(turn) * rows) + shift[1] + (w - 1) / 2
        i, j = np.clip(i, -1.5, h + 0.5) + 2, np.clip(j, -1.5, w + 0.5) + 2
        top, left = i.astype(np.intp), j.astype(np.intp)
        down, right = ((part - whole).astype(x.dtype).reshape(-1) for part, whole in ((i, top), (j, left)))
        at, some = (top * (w + 4) + left).reshape(-1), wide[k : k + ALIKE]
        upper = some[:, at] * (1 - right) + some[:, at + 1] * right
        lower = some[:, at + w + 4] * (1 - right) + some[:, at + w + 5] * right
        new[k : k + ALIKE] = upper * (1 - down) + lower * down
    return new.reshape(x.shape)


@dataclass(frozen=True)
class Digits:
    """Images and labels to train on, to choose by, to test on."""

    train: tuple[np.ndarray, np.ndarray]
    choose: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @classmethod
    def read(cls) -> Digits:
        """All of MNIST."""
        digits = load("mnist")
        x, t = digits.x_train, digits.y_train
        return cls((x[:-HELD_BACK], t[:-HELD_BACK]), (x[-HELD_BACK:], t[-HELD_BACK:]), (digits.x_test, digits.y_test))


def trained(recipe: Recipe, digits: Digits, seed: int, folder: Path) -> Net:
    """In floats, then with rounding."""
    params, state = start(recipe.layers, seed)
    for name, phase in (("floats", recipe.floats), ("rounded", recipe.rounded)):
        params = stepped(params, recipe.highest) if name == "rounded" else params
        run = _fitted(recipe, phase, params, state, digits, seed, folder / f"seed-{seed}-{name}.safetensors")
        params, state = run.params, run.state or {}
    return net_of(recipe.layers, params, settled(recipe, run, digits), recipe.highest)


def _fitted(recipe: Recipe, phase: Phase, params: Arrays, state: Arrays, digits: Digits, seed: int, file: Path) -> Run:
    """There is a checkpoint after each epoch, from which it goes on."""

    def loss(params: Arrays, x: Any, t: Any, *, state: Arrays, seed: int | None) -> tuple[Any, Arrays]:
        momentum, x = (None, x) if seed is None else (MOMENTUM, moved(x, seed))
        z, state = logits(recipe.layers, rounded(params, recipe.highest), x, state, momentum=momentum)
        return ops.cross_entropy(z, t), state

    def evaluate(run: Run) -> dict[str, float]:
        now, state = _plain(run.params, recipe.highest), settled(recipe, run, digits)
        return {"accuracy": accuracy(lambda x: logits(recipe.layers, now, x, state)[0], digits.choose)}

    steps = phase.epochs * -(-len(digits.train[0]) // BATCH)
    optimizer = AdamW(Cosine(phase.rate, steps), weight_decay=DECAY, no_decay=("*/step", "*/norm/*"))
    file.parent.mkdir(parents=True, exist_ok=True)
    return fit(
        loss, params, digits.train, optimizer=optimizer, epochs=phase.epochs, batch_size=BATCH, state=state, seed=seed,
        evaluate=evaluate, checkpoint=file, resume=file.is_file(), config=asdict(recipe),
    )  # fmt: skip


def settled(recipe: Recipe, run: Run, digits: Digits) -> Arrays:
    """The statistics over pictures as they are; by those of moved ones, nets of three weights are right less often."""
    params, state, x = _plain(run.params, recipe.highest), run.state or {}, digits.train[0][:SETTLING]
    for i, place in enumerate(range(0, len(x), 500)):
        state = logits(recipe.layers, params, x[place : place + 500], state, momentum=1 / (i + 1))[1]
    return state


def _plain(params: Arrays, highest: int) -> Arrays:
    return {name: np.asarray(x) for name, x in rounded(params, highest).items()}


def accuracy(predict: Callable[[Any], Any], data: tuple[np.ndarray, np.ndarray]) -> float:
    """The share of right answers."""
    return float((predictions(predict, data[0]).argmax(axis=1) == data[1]).mean())


# The command.


@click.command("fewest-bytes", help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Trainings, of which the best is kept.")
@click.option("--folder", default="runs/fewest-bytes", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--publish", is_flag=True, help=f"Write the best beside the benchmarks, as {FILE.parent.name}/{FILE.name}.")
def command(seeds: int, folder: Path, publish: bool) -> int:
    digits, nets = Digits.read(), []
    click.echo("seed  bytes  numbers  of those that choose  test")
    for seed in range(seeds):
        with use("cpu"):
            net = trained(Recipe(), digits, seed, folder)
            nets.append((accuracy(net, digits.choose), -seed, net))
            said = f"{seed:4}  {len(net.packed()):5}  {net.numbers:7}  {nets[-1][0]:20.2%}  {accuracy(net, digits.test):.2%}"
        click.echo(said)
    best = max(nets)[2]
    path = FILE if publish else folder / FILE.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(best.packed())
    click.echo(f"the best on the images that chose is in {path}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    result: Any = command.main(args=list(arguments or []), prog_name="python -m benchmarks fewest-bytes", standalone_mode=False)
    return int(result or 0)
