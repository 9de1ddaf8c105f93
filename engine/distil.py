r"""Knowledge distillation: a small model learns from what a larger one answers, which tells more than the labels do.

    z_teacher = soft_targets(teacher, x)                                    # once a data set
    loss = distilled(mlp.predict, temperature=4, alpha=0.9)
    run = fit(loss, params, (x, t, z_teacher), optimizer=Adam(), epochs=20)

A teacher is any function from arrays to arrays: x (n, ...) to logits (n, classes). `of_torch` makes one of a torch module,
`of_probabilities` one of scikit-learn's predict_proba. It is asked once about each example, before the training; its answers are data
like any other. So a run resumes exactly, there is nothing of the teacher in its checkpoint, and a checkpoint of other answers is refused.

    soft targets   Hinton, Vinyals & Dean (2015), Distilling the knowledge in a neural network, sec. 2
    hints          Romero et al. (2015), FitNets: hints for thin deep nets, sec. 2.2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engine import ops
from engine.initialise import glorot_uniform
from engine.progress import tracked
from engine.shapes import Shape, ShapeError

__all__ = ["answers", "distillation", "distilled", "hinted", "of_probabilities", "of_torch", "regressor", "soft_loss", "soft_targets"]

Arrays = dict[str, np.ndarray]
Teacher = Callable[[Any], Any]
Criterion = Callable[[Any, Any, Any], Any]
Loss = Callable[[Mapping[str, Any], Any, Any, Any], Any]


# What a teacher says.


def soft_targets(teacher: Teacher, x: Any, *, classes: int | None = None, batch_size: int = 256, progress: bool = True) -> np.ndarray:
    """The teacher's logits for each example: (n, classes), to stand in the data beside the labels.

    teacher    x[i:j] -> logits, up to a constant for each row. For one that gives probabilities write of_probabilities(teacher)
    classes    how many columns are wanted; left out, as many as there are
    progress   show a bar over the batches on a terminal
    Raises ShapeError for another number of rows or columns, ValueError for logits that are not finite.
    """
    z = answers(teacher, x, batch_size=batch_size, progress=progress)
    if z.ndim != 2 or (classes is not None and z.shape[1] != classes):
        raise ShapeError(
            f"the teacher gives an array of shape {z.shape}, wanted is (n, {'classes' if classes is None else classes}): a row of logits "
            "for each example\n  a class that the teacher never saw has no column: put one in, with a logit far below the others"
        )
    return z


def answers(teacher: Teacher, x: Any, *, batch_size: int = 256, progress: bool = True) -> np.ndarray:
    """What the teacher gives for each example, computed some rows at a time: logits, or features for `hinted`, of any shape (n, ...).

    Raises ValueError if there is no example or an answer is not finite, TypeError for answers that are not numbers, ShapeError if
    the answers are not one for each example.
    """
    if batch_size < 1 or len(x) == 0:
        raise ValueError(f"a teacher is asked about one example or more at a time: batch_size is {batch_size}, examples are {len(x)}")
    starts = range(0, len(x), batch_size)
    parts = [_answer(teacher, x[start : start + batch_size], start) for start in tracked(starts, "asking the teacher", progress)]
    if len({part.shape[1:] for part in parts}) > 1:
        raise ShapeError(f"the teacher's answers change their shape from batch to batch: {sorted({part.shape[1:] for part in parts})}")
    return np.concatenate(parts)


def _answer(teacher: Teacher, x: Any, start: int) -> np.ndarray:
    y = np.asarray(teacher(x))
    if y.dtype.kind not in "biuf":
        raise TypeError(f"the teacher gives {y.dtype}, numbers are wanted")
    if y.shape[:1] != (len(x),):
        raise ShapeError(f"the teacher was given {len(x)} examples and gives an array of shape {y.shape}: wanted is one row for each")
    y = y if y.dtype.kind == "f" else y.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(y).reshape(len(y), -1).all(axis=1))
    if len(bad):
        raise ValueError(
            f"the teacher's answer for example {start + bad[0]} is not finite: {y[bad[0]]}\n"
            "  nan is that of a model that diverged; -inf, the logarithm of a probability of 0, is avoided by of_probabilities"
        )
    return y


def of_probabilities(predict: Teacher) -> Teacher:
    r"""A teacher from a function that gives probabilities, as scikit-learn's predict_proba: $z = \ln \max(p, \varepsilon)$

    predict   x -> (n, classes), rows that add up to 1. A model of scikit-learn has its columns in the order of its `classes_`
    Probabilities are the softmax of their logarithms. A probability of 0, as forests give, counts as the machine epsilon of its dtype.
    The teacher raises ValueError for a number outside [0, 1] and for a row that does not add up to 1.
    """

    def teacher(x: Any) -> np.ndarray:
        p = np.asarray(predict(x))
        p = p if p.dtype.kind == "f" else p.astype(np.float64)
        if p.ndim != 2:
            raise ShapeError(f"probabilities have the shape {p.shape}, wanted is (n, classes)")
        eps = float(np.finfo(p.dtype).eps)
        off = np.abs(p.sum(axis=1, dtype=np.float64) - 1)
        bad = np.flatnonzero(~((p >= 0).all(axis=1) & (off <= math.sqrt(eps))))
        if len(bad):
            raise ValueError(
                f"row {bad[0]} of the teacher's probabilities is {p[bad[0]]}: wanted are numbers from 0 to 1 that add up to 1\n"
                "  if these are logits, give the teacher as it is, without of_probabilities"
            )
        logits: np.ndarray = np.log(np.maximum(p, p.dtype.type(eps)))
        return logits

    return teacher


def of_torch(module: Any) -> Teacher:
    """A teacher from a torch module: as in use (no dropout, running statistics), without gradients, where its parameters are.

    The module is left as it was. Raises ImportError without torch.
    """
    import torch

    def teacher(x: Any) -> np.ndarray:
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            with torch.no_grad():
                given = torch.tensor(np.asarray(x), device=next((p.device for p in module.parameters()), None))
                y: np.ndarray = module(given).cpu().numpy()
                return y
        finally:
            for part, training in modes:
                part.training = training

    return teacher


# Soft targets.


def distilled(predict: Callable[[Mapping[str, Any], Any], Any], *, temperature: float, alpha: float) -> Loss:
    """The loss of a student for `fit`, over data (x, t, z_teacher): `distillation` of predict(params, x).

    The data of validation are three arrays too. For a net of `engine.nets` write objective(net, distillation(temperature=..., alpha=...)).
    """
    criterion = distillation(temperature=temperature, alpha=alpha)

    def loss(params: Mapping[str, Any], x: Any, t: Any, z_teacher: Any) -> Any:
        return criterion(predict(params, x), t, z_teacher)

    return loss


def distillation(*, temperature: float, alpha: float) -> Criterion:
    r"""$L = \alpha\, T^2\, \mathrm{KL}(\sigma(z_t / T)\, \|\, \sigma(z / T)) + (1 - \alpha)\, H(t, \sigma(z))$, with the softmax $\sigma$

    temperature   T: the higher, the more the small logits count, by which the teacher says what a picture is almost
    alpha         from 0, the cross-entropy with the labels alone, to 1, the teacher alone: labels are then not looked at
    Returns the criterion (z, t, z_teacher) -> a scalar: logits (n, classes) of the student, labels as `ops.cross_entropy` takes them,
    and logits (n, classes) of the teacher.

    The gradients of soft targets shrink as 1 / T^2; the factor T^2 keeps the balance with the labels when T is changed.
    The paper has the cross-entropy of the soft targets where the divergence stands here. Their difference is the entropy of the
    teacher's answers, of which the student is no part: the gradients are the same, and the divergence is 0 where nothing is left to learn.
    Raises ValueError for a T that is not positive and finite, and for an alpha outside [0, 1].
    Source: Hinton, Vinyals & Dean (2015), sec. 2.
    """
    temperature, alpha = _positive(temperature), float(alpha)
    if not 0 <= alpha <= 1:
        raise ValueError(f"distillation: alpha is the share of the soft targets in the loss, from 0 to 1, not {alpha!r}")

    def criterion(z: Any, t: Any, z_teacher: Any) -> Any:
        _check_logits(z, z_teacher)
        if alpha == 0:
            return ops.cross_entropy(z, t)
        soft = soft_loss(z, z_teacher, temperature=temperature)
        return soft if alpha == 1 else alpha * soft + (1 - alpha) * ops.cross_entropy(z, t)

    return criterion


def soft_loss(z: Any, z_teacher: Any, *, temperature: float) -> Any:
    r"""$L = \frac{T^2}{n} \sum_i \sum_c p_{ic} (\ln p_{ic} - \ln q_{ic}), \quad p = \sigma(z_t / T), \; q = \sigma(z / T)$

    z, z_teacher   logits (n, classes) of one shape; the teacher's are brought to the dtype of the student's
    $\partial L / \partial z = T (q - p) / n$. For high T it tends to $(z - z_t) / (n c)$, with both centred for each example: the
    regression of logits (sec. 2.1).
    Raises ShapeError where the shapes differ, ValueError for a T that is not positive and finite.
    """
    temperature = _positive(temperature)
    _check_logits(z, z_teacher)
    ln_p = ops.log_softmax(_as_dtype(z_teacher, z) / temperature)
    ln_q = ops.log_softmax(z / temperature)
    return temperature**2 / max(z.shape[0], 1) * ops.sum(ops.exp(ln_p) * (ln_p - ln_q))


# Hints.


def hinted(features: Callable[[Mapping[str, Any], Any], Any], *, name: str = "hint") -> Callable[[Mapping[str, Any], Any, Any], Any]:
    r"""$L = \mathrm{mean}\, (r(f(x)) - h)^2$, for `fit` over data (x, h): the student's lower part learns to say what the teacher's does.

    features   (params, x) -> f, what a layer of the student gives: (n, k), or (n, c, h, w)
    h          what a layer of the teacher gives, from `answers`: (n, m), or (n, o, p, q)
    r          the regressor from the one to the other, made by `regressor` and trained with the student: its arrays stand in params
               under `name`. When the hints have done their work it is left out
    The paper has half the sum of the squares of an example where the mean stands here: another learning rate, not another minimum.
    Raises ShapeError where shapes clash.
    Source: Romero et al. (2015), eq. 3.
    """

    def loss(params: Mapping[str, Any], x: Any, h: Any) -> Any:
        f = features(params, x)
        w, b = params[f"{name}/w"], params[f"{name}/b"]
        y = ops.dense(f, w, b) if len(w.shape) == 2 else ops.bias_activation(ops.conv2d(f, w), b)
        return ops.squared_error(y, _as_dtype(h, f))

    return loss


def regressor(seed: int, student: Shape, teacher: Shape, *, name: str = "hint", dtype: Any = np.float32) -> Arrays:
    """The arrays of the regressor of `hinted`, {"hint/w": ..., "hint/b": ...}: drawn as Glorot & Bengio (2010), b = 0.

    student, teacher   shapes of the features of one example. (k,) and (m,): a dense layer. (c, h, w) and (o, p, q): a convolution whose
                       kernel is as large as makes p x q of h x w, which needs fewer weights than a dense layer (sec. 2.2)
    Raises ShapeError for features of different kinds, and for a teacher's map that is larger than the student's.
    """
    rng = np.random.default_rng(seed)
    if len(student) == len(teacher) == 1:
        w = glorot_uniform(rng, (student[0], teacher[0]), dtype)
    elif len(student) == len(teacher) == 3 and student[1] >= teacher[1] and student[2] >= teacher[2]:
        kernel = (student[1] - teacher[1] + 1, student[2] - teacher[2] + 1)
        w = glorot_uniform(rng, (teacher[0], student[0], *kernel), dtype)
    else:
        raise ShapeError(
            f"no regressor from features {tuple(student)} to {tuple(teacher)}: wanted are (k,) and (m,), or (c, h, w) and (o, p, q) with "
            "p <= h and q <= w\n  choose a layer of the student whose map is as large, or pool the teacher's"
        )
    return {f"{name}/w": w, f"{name}/b": np.zeros(teacher[0], dtype)}


def _as_dtype(x: Any, like: Any) -> Any:
    """What the teacher said in the student's precision, so that float32 stays float32."""
    return x if x.dtype == like.dtype else ops.astype(x, dtype=like.dtype)


def _positive(temperature: float) -> float:
    """The temperature as a Python number, which leaves float32 as it is."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"distillation: the temperature divides the logits, a positive number, not {temperature!r}")
    return float(temperature)


def _check_logits(z: Any, z_teacher: Any) -> None:
    if len(z.shape) != 2 or z.shape != z_teacher.shape:
        raise ShapeError(
            f"distillation: the student gives logits of shape {z.shape}, the teacher gave {z_teacher.shape}\n"
            "  wants  n classes, n classes: the same classes in the same order, of the same examples"
        )
