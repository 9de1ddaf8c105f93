"""What the walk back over a tape promises to rules, and what it may write into."""

import numpy as np

from engine import grad, ops, vjp
from engine.op import op
from engine.reverse import Gradients


def test_a_joint_rule_is_told_which_gradients_are_needed(scratch_ops):
    asked = []

    @op("m k, k n -> m n")
    def product(x, w):
        r"""$y = x w$"""
        return x @ w

    @product.vjp("x", "w")
    def _(g, x, w, needed):
        r"""\bar x = \bar y w^\top, \quad \bar w = x^\top \bar y"""
        asked.append(needed)
        return g @ w.T if needed[0] else None, x.T @ g if needed[1] else None

    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3)), rng.normal(size=(3, 4))
    only_w = grad(lambda w: ops.sum(product(x, w)))(w)
    only_x = grad(lambda x: ops.sum(product(x, w)))(x)
    both = grad(lambda x, w: ops.sum(product(x, w)), argnums=(0, 1))(x, w)
    assert asked == [(False, True), (True, False), (True, True)]
    assert np.array_equal(only_x, both[0]) and np.array_equal(only_w, both[1])


def test_what_a_joint_rule_made_is_handed_out_without_a_copy(scratch_ops):
    made = []

    @op("n, n -> n")
    def total(x, w):
        r"""$y = x + 2 w$"""
        return x + 2 * w

    @total.vjp("x", "w")
    def _(g):
        r"""\bar x = \bar y, \quad \bar w = 2 \bar y"""
        made[:] = [1 * g, 2 * g]
        return tuple(made)

    gradients = grad(lambda x, w: ops.sum(total(x, w)), argnums=(0, 1))(np.ones(3), np.ones(3))
    assert gradients[0] is made[0] and gradients[1] is made[1]


def test_a_cotangent_that_a_rule_hands_on_is_not_written_into(scratch_ops):
    @op("n -> n, n", outputs=("y", "z"))
    def twice(x):
        r"""$y = x, \quad z = 2 x$"""
        return x.copy(), 2 * x

    @twice.vjp("x")
    def _(g):
        r"""\bar x = \bar y, where z is not used"""
        return g[0]

    def f(x):
        h, k = ops.exp(x), ops.sin(x)
        p = 3 * h
        return ops.sum(np.array([1.0, 2.0, 3.0]) * ((twice(h)[0] + k) + p))

    x = np.array([0.1, 0.2, 0.3])
    assert np.allclose(grad(f)(x), [1, 2, 3] * (4 * np.exp(x) + np.cos(x)), rtol=1e-14, atol=0)


def test_an_output_that_nobody_uses_has_a_cotangent_of_zeros_without_an_array_of_them():
    seen = []
    take = Gradients.take

    def looking(self, out, several):
        seen.append(take(self, out, several))
        return seen[-1]

    x = np.arange(16.0).reshape(1, 1, 4, 4)
    Gradients.take = looking
    try:
        vjp(lambda x: ops.max_pool2d_with_indices(x, kernel_size=2)[0], x)[1](np.ones((1, 1, 2, 2)))
    finally:
        Gradients.take = take
    unused = next(g for g in seen if type(g) is tuple)[1]
    assert unused.shape == (1, 1, 2, 2) and unused.dtype == np.int64 and not unused.any() and unused.strides == (0, 0, 0, 0)
