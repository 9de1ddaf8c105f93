"""Functions as one writes them with plain numpy: losses, densities, networks, loops, simulations."""

import numpy as np
from numpy_one_liners import definite, positive, real, unit
from scipy import special


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2.0) ** 2.0 + (1 - x[:-1]) ** 2.0)


def beale(p):
    x, y = p
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def ackley(x):
    return -20 * np.exp(-0.2 * np.sqrt(np.mean(x**2))) - np.exp(np.mean(np.cos(2 * np.pi * x))) + 20 + np.e


def rastrigin(x):
    return 10 * x.size + (x * x - 10 * np.cos(2 * np.pi * x)).sum()


def styblinski_tang(x):
    return 0.5 * np.sum(x**4 - 16 * x**2 + 5 * x)


def lennard_jones(positions):
    """The energy of atoms, over all pairs."""
    i, j = np.triu_indices(len(positions), 1)
    r = np.linalg.norm(positions[i] - positions[j], axis=1)
    return np.sum(4 * (r**-12 - r**-6))


def logistic_loss(w, x):
    labels = np.array([1.0, -1.0, 1.0, 1.0, -1.0])
    return np.mean(np.log1p(np.exp(-labels * (x @ w)))) + 0.1 * np.dot(w, w)


def softmax_by_hand(z):
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)


def cross_entropy_by_hand(z):
    labels = np.array([0, 3, 1])
    logits = z - np.log(np.sum(np.exp(z), axis=-1, keepdims=True))
    return -np.mean(logits[np.arange(3), labels])


def mixture_logpdf(x, means, log_scales, logits):
    """Of Gaussians in one dimension."""
    z = (x[:, None] - means) / np.exp(log_scales)
    log_weights = logits - np.logaddexp.reduce(logits)
    parts = log_weights - 0.5 * z**2 - log_scales - 0.5 * np.log(2 * np.pi)
    top = np.max(parts, axis=1, keepdims=True)
    return np.squeeze(top, 1) + np.log(np.sum(np.exp(parts - top), axis=1))


def gaussian_logpdf(x, mean, cov):
    d = x - mean
    _, logdet = np.linalg.slogdet(cov)
    return -0.5 * (np.einsum("ni,ij,nj->n", d, np.linalg.inv(cov), d) + logdet + x.shape[1] * np.log(2 * np.pi))


def gaussian_process(log_length, y):
    """The log likelihood of y under a Gaussian process on a grid."""
    t = np.linspace(0, 1, 5)
    k = np.exp(-0.5 * (t[:, None] - t) ** 2 / np.exp(log_length) ** 2) + 0.1 * np.eye(5)
    root = np.linalg.cholesky(k)
    return -0.5 * np.sum(np.linalg.solve(root, y) ** 2) - np.log(np.diagonal(root)).sum()


def tanh_net(x, w1, b1, w2, b2):
    for w, b in ((w1, b1), (w2, b2)):
        x = np.tanh(np.dot(x, w) + b)
    return x


def layers_in_a_dict(w1, w2):
    params = {"a": w1, "b": [w2, w2 * 2]}
    h = np.maximum(params["a"].T @ np.ones(3), 0)
    return sum((h @ w).sum() for w in params["b"])


def convolution_by_hand(image, kernel):
    m, n = image.shape[0] - kernel.shape[0] + 1, image.shape[1] - kernel.shape[1] + 1
    return np.array([[0.0]]) + sum(
        kernel[i, j] * image[i : i + m, j : j + n] for i in range(kernel.shape[0]) for j in range(kernel.shape[1])
    )


def convolution_by_loops(signal, kernel):
    out = []
    for i in range(len(signal) - len(kernel) + 1):
        out.append(signal[i : i + len(kernel)].dot(kernel))
    return np.stack(out)


def fixed_point(a):
    """Newton's square root, until it no longer moves."""
    x = a / 2
    for _ in range(50):
        y = 0.5 * (x + a / x)
        if np.all(np.abs(y - x) < 1e-14 * x):
            break
        x = y
    return y


def branches(x):
    y = x
    while y < 10:
        y = y * 1.7 + 0.3 if y < 4 else y**1.5
    return y


def euler(x):
    """Fluid on a torus, a few steps: roll, broadcast, divide."""
    u = x
    for _ in range(3):
        u = u - 0.1 * u * (np.roll(u, -1) - np.roll(u, 1)) + 0.05 * (np.roll(u, 1) - 2 * u + np.roll(u, -1))
    return u


def pendulum(state):
    angle, speed = state[0], state[1]
    path = []
    for _ in range(5):
        speed = speed - 0.1 * np.sin(angle)
        angle = angle + 0.1 * speed
        path.append(angle)
    return np.array([1.0, 2.0, 3.0, 4.0, 5.0]) * np.stack(path)


def recurrent(w, x):
    h = np.zeros(3)
    for row in x:
        h = np.tanh(w @ h + row)
    return h


def attention(q, k, v):
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)) @ v


def batch_norm_by_hand(x):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)


def pairwise_distances(x, y):
    return np.sqrt(np.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=-1))


def huber_by_hand(x):
    return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5)


def trimmed_mean(x):
    return np.mean(np.sort(x, axis=0)[1:-1], axis=0)


def ranking_loss(scores):
    order = np.argsort(-scores)
    gaps = np.diff(scores[order])
    return np.sum(np.log1p(np.exp(gaps)))


def black_scholes(s, v):
    k, t, r = 1.1, 0.7, 0.02
    d1 = (np.log(s / k) + (r + v * v / 2) * t) / (v * np.sqrt(t))
    return s * special.ndtr(d1) - k * np.exp(-r * t) * special.ndtr(d1 - v * np.sqrt(t))


def viterbi_soft(emissions, transitions):
    alpha = emissions[0]
    for e in emissions[1:]:
        alpha = np.logaddexp.reduce(alpha[:, None] + transitions, axis=0) + e
    return np.logaddexp.reduce(alpha)


def determinant_by_expansion(a):
    if a.shape == (1, 1):
        return a[0, 0]
    minors = [np.delete(np.delete(a, 0, axis=0), j, axis=1) for j in range(len(a))]
    return np.sum([0.0]) + sum((-1) ** j * a[0, j] * determinant_by_expansion(m) for j, m in enumerate(minors))


def power_iteration(a):
    v = np.ones(len(a)) / np.sqrt(len(a))
    for _ in range(30):
        v = a @ v
        v = v / np.linalg.norm(v)
    return v @ a @ v


def spline(x):
    """Piecewise cubic with knots, by clipping and powers."""
    knots = np.array([-1.0, 0.0, 1.0])
    return np.stack([np.ones_like(x), x, x**2, x**3, *np.maximum(x[None] - knots[:, None], 0) ** 3], axis=1) @ np.arange(7.0)


PROGRAMS = {
    rosenbrock: (real(6),),
    beale: (real(2),),
    ackley: (real(4),),
    rastrigin: (real(4),),
    styblinski_tang: (real(4),),
    lennard_jones: (lambda rng: rng.random((4, 3)) * 0.3 + 1.3 * np.arange(4)[:, None],),
    logistic_loss: (real(3), real(5, 3)),
    softmax_by_hand: (real(3, 4),),
    cross_entropy_by_hand: (real(3, 4),),
    mixture_logpdf: (real(6), real(3), unit(3), real(3)),
    gaussian_logpdf: (real(4, 3), real(3), definite(3)),
    gaussian_process: (lambda rng: np.asarray(-0.8), real(5)),
    tanh_net: (real(5, 3), real(3, 4), real(4), real(4, 2), real(2)),
    layers_in_a_dict: (real(3, 4), real(4, 2)),
    convolution_by_hand: (real(5, 6), real(2, 3)),
    convolution_by_loops: (real(7), real(3)),
    fixed_point: (positive(4),),
    branches: (positive(),),
    euler: (real(6),),
    pendulum: (real(2),),
    recurrent: (real(3, 3), real(4, 3)),
    attention: (real(2, 3, 4), real(2, 3, 4), real(2, 3, 2)),
    batch_norm_by_hand: (real(5, 3),),
    pairwise_distances: (real(3, 2), real(4, 2)),
    huber_by_hand: (real(7),),
    trimmed_mean: (real(5, 2),),
    ranking_loss: (real(5),),
    black_scholes: (positive(3), unit(3)),
    viterbi_soft: (real(4, 3), real(3, 3)),
    determinant_by_expansion: (real(3, 3),),
    power_iteration: (definite(3),),
    spline: (real(6),),
}
