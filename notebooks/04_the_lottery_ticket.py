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
# # The lottery ticket
#
# A trained network can lose nine of ten weights and hardly notice. Then why did it need them? Frankle and Carbin (2019) have an answer that one can test on a laptop: in
# the random weights of the beginning there is, by luck, a small network that would have learned the task *alone*. The rest are tickets that did not win.
#
# We train LeNet-300-100, prune it in rounds down to 2 %, and give what is left its **first** weights back. Then we do the same with *new* random weights in the
# same places. If the ticket is about the weights it was drawn with, the second must fail where the first does not.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np

import kernels
from engine import packed, prune
from engine.data import load
from engine.masks import density, kept, masked, weights
from engine.metrics import mcnemar, wilson_interval
from engine.models import mlp
from engine.optim import Adam
from engine.train import fit

plt.rcParams.update({"figure.dpi": 90, "axes.grid": True, "grid.alpha": 0.3, "image.cmap": "gray_r"})

digits = load("mnist5k")
data, truth = (digits.x_train, digits.y_train), digits.y_test
print(digits)

# %% [markdown]
# ## 1. What a mask is
#
# A pruned network is $f(m \odot w)$ with a mask $m$ of zeros and ones, so its gradient is $m \odot g$. Where a weight is 0 and its gradient is 0, no optimiser moves it, whatever
# its momentum. That is all there is to it, and it is these lines:

# %%
print(inspect.getsource(masked))

# %% [markdown]
# `fit(..., masks=masks)` applies it to the gradient in each step. Adam has a momentum; still, after training, the masked weights are zero to the bit:

# %%
first = mlp.init(seed=0)


def trained(params, masks, seed=0, epochs=6):
    with kernels.use("cpu"):
        return fit(mlp.loss, params, data, optimizer=Adam(lr=1.2e-3), epochs=epochs, batch_size=60, masks=masks, seed=seed, progress=False)


def answers(params):
    return mlp.predict(params, digits.x_test).argmax(axis=1)


def accuracy(params):
    return float(np.mean(answers(params) == truth))


masks = prune.select(prune.magnitude(first), keep=0.3)
run = trained(masked(first, masks), masks, epochs=1)
print(f"{kept(masks):,} of {sum(first[name].size for name in weights(first)):,} weights, accuracy {accuracy(run.params):.3f}")
assert all(np.all(run.params[name][~mask] == 0) for name, mask in masks.items())

# %% [markdown]
# ## 2. Rounds
#
# Prune a little, go back to the first weights, train again; then prune that. `iterate` does it: in each stage it masks the least important of what was trained
# last, hands `train` the *first* weights under that mask (`rewind=`), and yields what came out. The shares fall by a constant factor, down to 2 %.

# %%
rounds = 10
shares = [prune.Exponential(end=0.02, steps=rounds)(i) for i in range(1, rounds + 1)]
print("kept in each round:", ", ".join(f"{s:.1%}" for s in shares))

dense = trained(first, None)
by_magnitude = prune.by_weights(prune.magnitude, scope="layer")
tickets = list(
    prune.iterate(
        dense.params,
        prune=by_magnitude,
        keeps=shares,
        train=lambda params, masks, number, _: trained(params, masks),
        rewind=first,
    )
)
print(f"dense {accuracy(dense.params):.3f}")
for stage in tickets:
    print(f"{density(stage.masks):6.1%} kept: accuracy {accuracy(stage.params):.3f}")

# %% [markdown]
# Every surviving weight began where it began in the dense network. Here is the first layer of the smallest ticket: which pixels the network still looks at. Nobody told it that
# digits are in the middle of the picture.

# %%
seen = tickets[-1].masks["w1"].sum(axis=1).reshape(28, 28)
figure, (left, right) = plt.subplots(1, 2, figsize=(6.5, 3))
left.imshow(digits.x_train[:, 0].mean(axis=0))
left.set_title("the mean digit", fontsize=10)
drawn = right.imshow(seen)
right.set_title("weights left at each pixel", fontsize=10)
figure.colorbar(drawn, ax=right)
for ax in (left, right):
    ax.axis("off")
plt.show()
middle = seen[6:22, 6:22].sum() / seen.sum()
print(f"{middle:.0%} of the weights that are left look at the middle, which is a third of the picture")
assert middle > 0.4

# %% [markdown]
# ## 3. The control
#
# The same masks, but other first weights. The *structure* of the ticket is the same; what it was drawn with is not.

# %%
others = mlp.init(seed=99)
controls = [trained(masked(others, stage.masks), stage.masks) for stage in tickets]

# %% [markdown]
# And another control: masks that are drawn at random, of the same sizes, with the first weights.

# %%
lots = [prune.select(prune.random(first, seed=i), keep=share) for i, share in enumerate(shares)]
blind = [trained(masked(first, m), m) for m in lots]

# %%
n = len(truth)
figure, ax = plt.subplots(figsize=(7.5, 4))
curves = {
    "ticket: its mask, its first weights": [accuracy(s.params) for s in tickets],
    "its mask, other first weights": [accuracy(r.params) for r in controls],
    "a random mask": [accuracy(r.params) for r in blind],
}
for (label, values), mark in zip(curves.items(), "os^", strict=True):
    low, high = np.transpose([wilson_interval(round(v * n), n) for v in values])
    ax.plot(np.array(shares) * 100, np.array(values) * 100, mark + "-", label=label, markersize=5)
    ax.fill_between(np.array(shares) * 100, low * 100, high * 100, alpha=0.12)
ax.axhline(accuracy(dense.params) * 100, color="grey", linestyle="--", linewidth=1, label="dense")
ax.set(xscale="log", xlabel="weights kept, %", ylabel="accuracy on held-out digits, %", title="From dense to 2 %, and the cliff")
ax.set_xticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
ax.minorticks_off()
ax.invert_xaxis()
ax.legend()
plt.show()

# %% [markdown]
# The bands are 95 % intervals of each accuracy on its own; to compare two networks on the *same* pictures a paired test is sharper. It looks only at the pictures that one
# of the two gets right:

# %%
for share, stage, control, lot in list(zip(shares, tickets, controls, blind, strict=True))[1::4]:
    same = mcnemar(truth, answers(stage.params), answers(dense.params))
    other = mcnemar(truth, answers(stage.params), answers(control.params))
    chance = mcnemar(truth, answers(stage.params), answers(lot.params))
    print(f"{share:6.1%} kept: p against dense {same:.3f}, against other first weights {other:.3f}, against a random mask {chance:.2g}")

ticket, control, lot = (np.mean(values[-3:]) for values in curves.values())
assert ticket > control > lot
assert ticket > lot + 0.03
assert accuracy(tickets[4].params) > accuracy(dense.params) - 0.015

# %% [markdown]
# ## 4. What it weighs
#
# A zero need not be stored, but its *place* must be told: which weights are there. With few left, that is most of the file.

# %%
print(f"{'kept':>6} {'float32':>9} {'bitmask':>9} {'CSR':>9} {'packed':>9}   bytes")
for stage in (tickets[0], tickets[4], tickets[9]):
    sizes = packed.sizes(stage.params)
    columns = [sizes["dense"], sizes["bitmask"], sizes["csr"], sizes["file"]]
    print(f"{density(stage.masks):6.1%} " + " ".join(f"{size:9,.0f}" for size in columns))
assert packed.sizes(tickets[9].params)["file"] < packed.sizes(tickets[9].params)["dense"] / 25

# %% [markdown]
# ## Try it
#
# - Keep the trained weights instead of the first ones: leave out `rewind=`. Which curve falls later? Which would you deploy?
# - Prune *before* the training: `prune.snip(mlp.loss, first, [(data[0][:60], data[1][:60])])` scores weights by one gradient. How far does it get?
# - `scope="global"` lets the layers compete. Which layer loses most? (The last one has 1,000 weights. What would happen to it at 2 % of *each* layer?)
