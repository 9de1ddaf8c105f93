# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The chain rule and the tape
#
# Reverse mode in three questions that everybody asks:
#
# 1. Why do gradients **add**?
# 2. Why this **order**, and why may one not simply recurse?
# 3. What has to be **remembered**?
#
# Every number below is computed by the engine, and every claim is asserted.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np

from engine import grad, ops
from engine.explain import explain
from engine.interpret import EVAL, interpreting
from engine.reverse import Tape, walk

# %% [markdown]
# ## 1. The smallest example that goes wrong
#
# `b = a + a; c = b + b`. Nothing could be simpler: $c = 4a$, so $dc/da = 4$.
# But a program that *sets* the gradient of an input instead of *adding* to it finds 1, and one that
# visits an op each time that one of its uses is reached may find something else again.


# %%
def f(a):
    b = a + a
    return b + b


story = explain(f)(3.0)
print(story)

# %% [markdown]
# Read the backward part from its top. `v2 = add(v1, v1)` uses `v1` **twice**, so `v1` gets two shares of 1: their sum is 2. Only then comes the turn of
# `v1 = add(a, a)`, with the *complete* 2, and it sends 2 and 2 to `a`.
#
# Why add? Because of the chain rule in several variables. If $c = F(u, w)$ and both $u$ and $w$ are $b$, then
# $$\frac{dc}{db} = \frac{\partial F}{\partial u} \frac{du}{db} + \frac{\partial F}{\partial w} \frac{dw}{db}.$$
# A value that is used twice moves the result by two routes, and small moves add.

# %%
totals = [float(share.total) for step in story.backward for share in step.shares]
assert totals == [1, 2, 2, 4]
assert grad(f)(3.0) == 4.0

# %% [markdown]
# ## 2. The order: last op first, each op once
#
# When an op's turn comes, *all* that used its output must have sent its share. The tape gets this for nothing:
# an op can only use what was computed before it, so the order in which the ops **ran** is already a topological order, and the walk is the list read backwards.
#
# The tempting alternative is to recurse: "to know the gradient of a value, go to each of its uses". On a graph where each value is used twice, the number of
# *routes* doubles at every op. Below, the routes are walked one by one, as a naive recursion does, beside the tape's list.


# %%
def doubled(x, times):
    for _ in range(times):
        x = x + x
    return x


def by_routes(times):
    """The derivative of `doubled` and the visits it takes, by following every route from the output to the input."""
    if times == 0:
        return 1, 1
    (left, visits_left), (right, visits_right) = by_routes(times - 1), by_routes(times - 1)
    return left + right, 1 + visits_left + visits_right


def by_tape(times):
    """The same, by the walk: it visits each entry of the tape once."""
    return grad(lambda x: doubled(x, times))(1.0), len(explain(lambda x: doubled(x, times))(1.0).backward)


depths = range(1, 17)
routes = [by_routes(n) for n in depths]
walks = [by_tape(n) for n in depths]

assert [slope for slope, _ in routes] == [slope for slope, _ in walks] == [2**n for n in depths]
assert grad(lambda x: doubled(x, 60))(1.0) == 2.0**60  # by routes this would take thousands of years

# %%
figure, ax = plt.subplots(figsize=(6, 3.2))
ax.semilogy(list(depths), [visits for _, visits in routes], "o-", label="every route on its own: about $2^{n+1}$")
ax.semilogy(list(depths), [visits for _, visits in walks], "s-", label="the tape: each op once")
ax.set_xlabel("additions in a row, n")
ax.set_ylabel("visits")
ax.set_title("Why the walk visits each op once")
ax.legend()
ax.grid(alpha=0.3)
figure.tight_layout()
plt.show()

# %% [markdown]
# There is no recursion in the walk either, so Python's limit of about a thousand nested calls does not bind it:


# %%
def chain(x):
    for _ in range(20_000):
        x = ops.sin(x)
    return x


assert np.isfinite(grad(chain)(1.0))

# %% [markdown]
# ## 3. What is remembered
#
# A rule names what it needs, and the tape keeps only that. Look at three rules.

# %%
for op in (ops.exp, ops.sin, ops.add):
    rule = next(iter(op.vjps.values()))
    print(f"{op.name:<5} rule{inspect.signature(rule.function)!s:<6} {rule.formula}")

# %% [markdown]
# `exp` needs its **output**, `sin` its **input**, and `add` **nothing**. Here is a tape with all three, before the walk:

# %%
tape_ = Tape(EVAL)
x = tape_.watch(np.array([0.0, 1.0, 2.0]))
with interpreting(tape_):
    y = ops.sum(ops.exp(x) + ops.sin(x))

for entry in tape_.entries:
    kept = [v.tolist() if isinstance(v, np.ndarray) else f"shape {v}" for v in entry.saved if v is not None]
    output = None if entry.y is None else np.round(entry.y, 3).tolist()
    print(f"{entry.op.name:<5} from nodes {entry.parents!s:<8} keeps of its input {kept!s:<20} of its output {output}")

assert tape_.entries[0].y is not None
assert tape_.entries[2].saved == [None, None]

# %% [markdown]
# The walk reads this list from its end. As it passes an entry it drops it, so memory falls while gradients come in.

# %%
left = []
gradients = walk(tape_, [(y.slot, np.float64(1.0))], consume=True, watcher=lambda *_: left.append(len(tape_.entries)))
assert left == [3, 2, 1, 0]
assert np.allclose(gradients.result(x.slot), np.exp(x.value) + np.cos(x.value))
print("gradient:", gradients.result(x.slot).round(4), "   entries left after each step:", left)

# %% [markdown]
# ## 4. A rule is a computation too
#
# The rules are made of ops, so an outer tape can record them: that is all there is to second derivatives. Below, the ops that the *rule* of `tanh` calls on the
# way back, found by the same interpreter that explained the forward pass.

# %%
second = explain(ops.tanh)(0.5)
print([str(call) for call in second.backward[0].work])

t = np.tanh(0.5)
assert np.isclose(grad(grad(ops.tanh))(0.5), -2 * t * (1 - t**2))

# %% [markdown]
# ## Try it
#
# - Write a function in which one value is used three times. How many shares does it get, and in which lines?
# - `ops.sqrt` names `y` in its rule. Could it name `x` instead? What would the tape keep then?
# - Which of the ops that you know could do with a *shape* alone? (`ops.sum` does.)
