r"""Update rules: one step of an optimiser for one array. State in, state out.

    sgd_step        p, g           -> p
    momentum_step   p, g, m        -> p, m
    nesterov_step   p, g, m        -> p, m
    adagrad_step    p, g, v        -> p, v
    rmsprop_step    p, g, v        -> p, v
    adam_step       p, g, m, v, t  -> p, m, v
    adamw_step      p, g, m, v, t  -> p, m, v

p          the parameter;  g  the gradient of the loss in it
m, v       running means or sums of g and of g * g: zeros before the first step
t          steps taken, this one included: 1, 2, ...
lr ...     Python floats. A NumPy scalar would promote float32 to float64 (NEP 50)

The arrays of one call have one shape and dtype, and these are kept. Each step returns a tuple, the new p first, and changes
none of its arguments. All raise ShapeError if the shapes differ. weight_decay adds weight_decay * p to the gradient, but for
adamw, where it shrinks p itself. No step has derivative rules: a step ends a derivative.

Where papers differ, these are the steps of torch.optim of the same names at its defaults (dampening 0, not centered), so that
published hyper-parameters carry over.
"""

from __future__ import annotations

import numpy as np

from engine.domain import Pick
from engine.op import Op, op
from engine.shapes import ShapeError

__all__ = ["adagrad_step", "adam_step", "adamw_step", "momentum_step", "nesterov_step", "rmsprop_step", "sgd_step"]


@op(outputs=("p",))
def sgd_step(p, g, *, lr: float, weight_decay: float = 0.0):
    r"""$p' = p - \eta (g + \lambda p)$

    One step of gradient descent. Returns (p,).
    Source: Robbins & Monro (1951), A stochastic approximation method. The decay is the gradient of weight_decay / 2 times the
    squared norm of p.
    """
    return (p - lr * (g + weight_decay * p),)


@op(outputs=("p", "m"))
def momentum_step(p, g, m, *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0):
    r"""$m' = \mu m + g + \lambda p, \quad p' = p - \eta m'$

    One step of gradient descent with momentum, the heavy ball. Returns p, m.
    Source: Polyak (1964), Some methods of speeding up the convergence of iteration methods, with the learning rate taken out of
    m: then a change of lr acts on all of the step.
    """
    m = momentum * m + (g + weight_decay * p)
    return p - lr * m, m


@op(outputs=("p", "m"))
def nesterov_step(p, g, m, *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0):
    r"""$m' = \mu m + g + \lambda p, \quad p' = p - \eta (g + \lambda p + \mu m')$

    One step of gradient descent with Nesterov's momentum. Returns p, m. p is the point at which the gradient is taken, one
    momentum step ahead of Nesterov's own iterate.
    Source: Sutskever, Martens, Dahl & Hinton (2013), On the importance of initialization and momentum, eqs. 3 and 4; in
    this form Bengio, Boulanger-Lewandowski & Pascanu (2013), Advances in optimizing recurrent networks, sec. 3.5.
    """
    g = g + weight_decay * p
    m = momentum * m + g
    return p - lr * (g + momentum * m), m


@op(outputs=("p", "v"))
def adagrad_step(p, g, v, *, lr: float, eps: float = 1e-10, weight_decay: float = 0.0):
    r"""$v' = v + g^2, \quad p' = p - \eta \, g / (\sqrt{v'} + \varepsilon)$, where g stands for $g + \lambda p$

    One step of Adagrad; v is the sum of all squared gradients so far. Returns p, v.
    Source: Duchi, Hazan & Singer (2011), Adaptive subgradient methods, Figure 1 with diagonal matrices.
    """
    g = g + weight_decay * p
    v = v + g * g
    return p - lr * g / (np.sqrt(v) + eps), v


@op(outputs=("p", "v"))
def rmsprop_step(p, g, v, *, lr: float, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0):
    r"""$v' = \alpha v + (1 - \alpha) g^2, \quad p' = p - \eta \, g / (\sqrt{v'} + \varepsilon)$, where g stands for $g + \lambda p$

    One step of RMSProp; v is the running mean of the squared gradient. Returns p, v.
    Source: Tieleman & Hinton (2012), Neural networks for machine learning, lecture 6.5 (there alpha is 0.9).
    """
    g = g + weight_decay * p
    v = alpha * v + (1 - alpha) * (g * g)
    return p - lr * g / (np.sqrt(v) + eps), v


@op(outputs=("p", "m", "v"))
def adam_step(p, g, m, v, *, lr: float, t: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0):
    r"""$p' = p - \eta \, \hat m / (\sqrt{\hat v} + \varepsilon)$, where $\hat m = m' / (1 - \beta_1^t)$ and $\hat v = v' / (1 - \beta_2^t)$

    One step of Adam: m' = beta1 m + (1 - beta1) g, v' = beta2 v + (1 - beta2) g g, and g stands for g + weight_decay * p.
    Returns p, m, v. Raises ValueError if t < 1: at t = 0 the corrections divide by zero.
    Source: Kingma & Ba (2015), Algorithm 1; epsilon outside the root, as printed there.
    """
    return _adam(p, g + weight_decay * p, m, v, lr, t, beta1, beta2, eps)


@op(outputs=("p", "m", "v"))
def adamw_step(p, g, m, v, *, lr: float, t: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01):
    r"""$p' = (1 - \eta \lambda) p - \eta \, \hat m / (\sqrt{\hat v} + \varepsilon)$, where $\hat m$ and $\hat v$ are those of Adam

    One step of AdamW: the decay acts on p itself and is not divided by the root of v.
    Returns p, m, v. Raises ValueError if t < 1.
    Source: Loshchilov & Hutter (2019), Decoupled weight decay regularization, Algorithm 2. There the decay is not multiplied by
    the learning rate but by its schedule alone; here by lr, as in torch.
    """
    return _adam(p * (1 - lr * weight_decay), g, m, v, lr, t, beta1, beta2, eps)


def _adam(p, g, m, v, lr, t, beta1, beta2, eps):
    if t < 1:
        raise ValueError(f"t is {t}, but counts steps from 1, this one included: the bias corrections divide by 1 - beta**t")
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    return p - lr / (1 - beta1**t) * m / (np.sqrt(v / (1 - beta2**t)) + eps), m, v


def _one_shape(step: Op) -> None:
    """Every array of `step` has the shape of p."""

    @step.shape
    def _(*shapes, **hyper):
        for name, shape in zip(step.args, shapes, strict=True):
            if shape != shapes[0]:
                raise ShapeError(f"{name} has shape {shape}, p has {shapes[0]}: all arrays of one step have one shape")
        return [shapes[0]] * len(step.outputs)

    @step.sample
    def _(pick: Pick):
        shape = pick.choice([(), (pick.size(0, 3),), (pick.size(1, 2), pick.size(1, 3))])
        arrays = {name: pick.array(*shape) for name in step.args}
        if "v" in arrays:
            arrays["v"] = np.square(arrays["v"])
        hyper = {"lr": pick.choice([0.1, 0.001]), "weight_decay": pick.choice([0.0, 0.01])}
        return list(arrays.values()), {**hyper, "t": pick.size(1, 5)} if step in (adam_step, adamw_step) else hyper

    step.checks_first = True  # a kernel trusts its arguments, and NumPy would broadcast a gradient in silence


for _step in (sgd_step, momentum_step, nesterov_step, adagrad_step, rmsprop_step, adam_step, adamw_step):
    _one_shape(_step)
