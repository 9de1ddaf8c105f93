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
# # One neuron, by hand
#
# A neuron takes a number $x$, stretches it by a *weight* $w$, shifts it by a *bias* $b$ and bends the result:
#
# $$z = w x + b, \qquad y = \tanh z.$$
#
# It learns when we know one thing: **if I nudge $w$ or $b$ a little, how does the error change?** This notebook finds
# the answer in five ways: by pencil, by trying, in forward mode, in reverse mode, and op by op. All five agree, and
# each claim is asserted. Then the neuron learns, and we watch it walk downhill.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np

from engine import grad, jvp, ops, value_and_grad
from engine.explain import explain, rules

# %% [markdown]
# ## 1. Forward, with real numbers
#
# One example: $x = 2$, and the answer should be $t = 1$. The neuron starts at $w = 0.5, b = -1.3$. The error is $L =
# \frac12 (y - t)^2$.
#
# | step | formula | number |
# |---|---|---|
# | 1 | $z = 0.5 \cdot 2 - 1.3$ | $-0.3$ |
# | 2 | $y = \tanh(-0.3)$ | $-0.2913$ |
# | 3 | $L = \frac12 (-0.2913 - 1)^2$ | $0.8337$ |

# %%
x, t = 2.0, 1.0
w, b = 0.5, -1.3


def neuron(w, b, x):
    return np.tanh(w * x + b)


def loss(w, b):
    return 0.5 * (neuron(w, b, x) - t) ** 2


z = w * x + b
y = neuron(w, b, x)
print(f"z = {z:.4f}   y = {y:.4f}   L = {loss(w, b):.4f}")

assert np.isclose(z, -0.3)
assert round(y, 4) == -0.2913
assert round(loss(w, b), 4) == 0.8337

# %% [markdown]
# ## 2. The derivative by pencil
#
# The loss is a chain of three steps, $(w, b) \to z \to y \to L$. Each step alone is easy, and the chain rule multiplies
# them:
#
# $$\frac{dL}{dy} = y - t, \qquad \frac{dy}{dz} = 1 - y^2, \qquad \frac{dz}{dw} = x, \qquad \frac{dz}{db} = 1.$$

# %%
dL_dy = y - t
dy_dz = 1 - y**2
dL_dz = dL_dy * dy_dz
dL_dw = dL_dz * x
dL_db = dL_dz * 1

print(f"dL/dy = {dL_dy:.4f}")
print(f"dL/dz = {dL_dy:.4f} * {dy_dz:.4f} = {dL_dz:.4f}")
print(f"dL/dw = {dL_dz:.4f} * {x} = {dL_dw:.4f}")
print(f"dL/db = {dL_db:.4f}")

# %% [markdown]
# Both are negative: a larger $w$ or a larger $b$ makes the error smaller. That fits, for $y$ is too low.
#
# ## 3. The derivative by trying
#
# Nudge $w$ by a small $h$ and look. A difference to one side is wrong by about $h$, one to both sides by about $h^2$.
# So take $h$ tiny? Then the two values of $L$ agree in almost all their digits, and the subtraction leaves the rounding
# errors.


# %%
def one_side(h):
    return (loss(w + h, b) - loss(w, b)) / h


def both_sides(h):
    return (loss(w + h, b) - loss(w - h, b)) / (2 * h)


steps = 10.0 ** np.arange(-15, 0.1, 0.25)
errors = {f.__name__: np.array([abs(f(h) - dL_dw) for h in steps]) for f in (one_side, both_sides)}

figure, ax = plt.subplots(figsize=(6, 3.4))
ax.loglog(steps, errors["one_side"], "o-", ms=3, label="one side: error falls like $h$")
ax.loglog(steps, errors["both_sides"], "s-", ms=3, label="both sides: like $h^2$")
ax.set_xlabel("step $h$")
ax.set_ylabel("error of $dL/dw$")
ax.set_title("Too large a step is coarse, too small a step drowns in rounding")
ax.legend()
ax.grid(alpha=0.3)
figure.tight_layout()
plt.show()

closer = [abs(f(1e-3) - dL_dw) / abs(f(1e-4) - dL_dw) for f in (one_side, both_sides)]
assert np.allclose(closer, (10, 100), rtol=0.1)  # a tenth of the step: a tenth and a hundredth of the error
assert errors["both_sides"][:8].max() > 1e-3  # below h = 1e-13: two or three digits are left
assert np.isclose(both_sides(1e-5), dL_dw, rtol=1e-8)

# %% [markdown]
# Trying is honest, but it never gives all the digits, and it costs two evaluations for *each* parameter. It is good for
# checking, and that is what the engine's own tests use it for.
#
# ## 4. Forward mode: push a nudge through
#
# Forward mode carries a nudge $\dot w$ beside the value, through the same steps, by the exact rule of each step. There
# is no $h$ and no rounding to fear. One run answers for one direction; here are three. The third moves $w$ and $b$ at
# once, and its answer is the sum of the first two.

# %%
_, along_w = jvp(loss, (w, b), (1.0, 0.0))
_, along_b = jvp(loss, (w, b), (0.0, 1.0))
_, along_both = jvp(loss, (w, b), (1.0, 1.0))
print(f"along w {along_w:.4f}   along b {along_b:.4f}   along both {along_both:.4f}")

assert np.isclose(along_w, dL_dw, rtol=1e-14)
assert np.isclose(along_b, dL_db, rtol=1e-14)
assert np.isclose(along_both, along_w + along_b, rtol=1e-14)

# %% [markdown]
# ## 5. Reverse mode: all directions at once
#
# Reverse mode starts at the other end. It asks of every number on the way: *how much does the loss change if this
# number does?* One walk back answers for all parameters, two or two million. That is the gradient.

# %%
gradient = grad(loss, argnums=(0, 1))(w, b)
print("gradient:", [f"{g:.4f}" for g in gradient])

assert np.allclose(gradient, (dL_dw, dL_db), rtol=1e-14)

# %% [markdown]
# Note that `loss` is plain NumPy. The engine watched `np.tanh` and the operators as they ran.
#
# ## 6. Reverse mode, op by op
#
# `explain` prints what ran, and then the walk back. Compare it with your pencil work: `gv3` is $dL/dy$, `gv2` is
# $dL/dz$.

# %%
story = explain(loss)(w, b)
print(story)

assert np.isclose(story.gradients["w"], dL_dw, rtol=1e-14)
assert np.isclose(story.gradients["b"], dL_db, rtol=1e-14)
passed = [float(share.sent) for step in story.backward for share in step.shares]
assert any(np.isclose(passed, dL_dz))

# %% [markdown]
# Nobody told the engine about neurons. It knows a rule for each *op*, and the rule stands in the source right under the
# op. For `tanh` it is our $1 - y^2$, in a form that keeps its digits where $y$ is so close to $1$ that $1 - y^2$ would
# lose them all:

# %%
print(rules("tanh"), end="\n\n")
print(inspect.getsource(ops.tanh.vjps["x"].function))

assert np.isclose(ops.tanh.vjps["x"].function(z), 1 - y**2, rtol=1e-14)
assert 1 - np.tanh(20.0) ** 2 == 0 < ops.tanh.vjps["x"].function(20.0)

# %% [markdown]
# ## 7. The neuron learns
#
# Now sixty examples: the answer is $-1$ for small $x$ and $+1$ for large $x$, with a stretch in between where both
# occur. The same neuron takes all the examples in one array. The loop is ten lines: find the gradient, take a step
# against it, again.

# %%
rng = np.random.default_rng(7)
xs = rng.uniform(-3, 3, 60)
ts = np.where(xs + 0.7 * rng.normal(size=60) > 0.8, 1.0, -1.0)


def mean_loss(p):
    return np.mean(0.5 * (neuron(p["w"], p["b"], xs) - ts) ** 2)


p = {"w": np.array(-1.0), "b": np.array(1.5)}  # a bad start: it says the opposite
path, losses = [], []
for _ in range(150):
    value, g = value_and_grad(mean_loss)(p)
    path.append((p["w"], p["b"]))
    losses.append(value)
    p = {name: p[name] - 0.5 * g[name] for name in p}

right = [np.mean(np.sign(neuron(*path[i], xs)) == ts) for i in (0, -1)]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}   right answers {right[0]:.0%} -> {right[1]:.0%}   w = {p['w']:.2f}, b = {p['b']:.2f}")

assert np.all(np.diff(losses) < 0)  # every step went down
assert right[0] < 0.3
assert right[1] > 0.85
assert max(abs(grad(mean_loss)(p)[name]) for name in p) < 1e-2  # and it has arrived at the bottom

# %%
figure, (left, right_hand) = plt.subplots(1, 2, figsize=(9, 3.4))
grid = np.linspace(-3.2, 3.2, 200)
for step, colour in ((0, "0.75"), (5, "0.55"), (15, "0.35"), (149, "C3")):
    left.plot(grid, neuron(*path[step], grid), color=colour, label=f"step {step}")
left.plot(xs, ts, "o", ms=4, alpha=0.5, color="C0")
left.set_xlabel("$x$")
left.set_ylabel("$y$")
left.set_title("What the neuron answers")
left.legend(loc="center left", fontsize=8)

right_hand.plot(losses)
right_hand.set_ylim(0)
right_hand.set_xlabel("step")
right_hand.set_title("Loss")
right_hand.grid(alpha=0.3)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## 8. The walk downhill
#
# With two parameters the loss is a landscape over the plane, and we can look at it. The gradient points straight
# uphill, across the lines of equal height, and each step goes the other way, as far as the slope is steep. On the
# shoulder near $w = -0.3$ the slope is gentle and the steps are short: that is the ledge in the loss curve above.

# %%
ws, bs = np.meshgrid(np.linspace(-2, 3, 120), np.linspace(-2.5, 2.5, 120))
heights = np.mean(0.5 * (neuron(ws[..., None], bs[..., None], xs) - ts) ** 2, axis=-1)
walk = np.array(path)

figure, ax = plt.subplots(figsize=(5.4, 4.4))
filled = ax.contourf(ws, bs, heights, levels=16, cmap="viridis")
ax.contour(ws, bs, heights, levels=16, colors="white", linewidths=0.3)
ax.plot(*walk.T, "o-", color="C3", ms=3, lw=1, label="gradient descent")
ax.plot(*walk[0], "s", color="white", ms=7, label="start")
ax.plot(*walk[-1], "*", color="white", ms=12, label="end")
ax.set_aspect("equal")  # else right angles do not look like right angles
ax.set_xlabel("weight $w$")
ax.set_ylabel("bias $b$")
ax.set_title("The loss over the two parameters, and the path")
ax.legend(loc="lower left", fontsize=8, facecolor="0.5", framealpha=0.6)
figure.colorbar(filled, label="loss")
figure.tight_layout()
plt.show()

lengths = np.linalg.norm(np.diff(walk, axis=0), axis=1)
assert heights.min() > losses[-1] - 1e-3  # no point of the picture lies deeper than the end of the path
assert lengths[3:7].max() < lengths[0] / 2 < lengths[8:12].max()  # short steps on the shoulder, long ones behind it

# %% [markdown]
# ## 9. Very wrong, and nothing to learn from it
#
# One more look at the factor $1 - y^2$. Start the neuron further and further on the wrong side. Its loss gets worse,
# and one would hope for a larger gradient. The opposite happens: the neuron is so sure of itself, $|y| \approx 1$, that
# a nudge of $w$ changes next to nothing. This is the *vanishing gradient* in its smallest example, and the reason why
# careful starts and other bends than $\tanh$ were invented.

# %%
print("    w    loss   dL/dw")
slopes = {}
for start in (-1.0, -3.0, -10.0):
    value, g = value_and_grad(mean_loss)({"w": np.array(start), "b": np.array(0.0)})
    slopes[start] = abs(g["w"])
    print(f"{start:>5}   {value:.3f}   {g['w']:.4f}")

assert slopes[-1.0] > 3 * slopes[-3.0] > 9 * slopes[-10.0]

# %% [markdown]
# ## Try it
#
# - Replace `np.tanh` by `np.sin` in `neuron`. What does the landscape look like now, and does the path still find the bottom?
# - Start at $w = -10$. How many steps does it take?
# - Write the loss with a second neuron after the first, and do part 2 again by pencil. Which factor comes in?
