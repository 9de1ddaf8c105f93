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
# # Eight bits, and then only integers
#
# A trained weight is a float of 32 bits. How many of them matter? We round LeNet-5 to 8 bits, then to 4, 3 and 2, and end with a network in which there is no float between the
# picture and the answer: integers are multiplied, added, shifted. That is what runs in a watch.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np

import kernels
from engine import packed
from engine.data import load
from engine.models import cnn
from engine.optim import Momentum
from engine.quantise import choose, convert, correct, rounding
from engine.quantise.folded import fold
from engine.quantise.job import arrays
from engine.quantise.numbers import Scheme, choose_grid, dequantise, grid_of, quantise
from engine.quantise.observers import MSE, Entropy, MinMax, Percentile
from engine.quantise.rules import RULES, requantise
from engine.train import fit

plt.rcParams.update({"figure.dpi": 90, "axes.grid": True, "grid.alpha": 0.3, "image.cmap": "gray_r"})

# %% [markdown]
# ## 1. One number
#
# A *grid* is a scale $s$ and a zero point $z$: the integer $q$ stands for $s (q - z)$. To quantise is to divide, to round, and to clip.

# %%
grid = choose_grid(-1.0, 3.0, Scheme(bits=8, signed=False, symmetric=False))
x = np.array([-1.0, 0.0, 0.1, 1.2345, 3.0, 7.0], np.float32)
q = quantise(x, grid)
print(f"scale {float(grid.scale):.6f}, zero point {int(grid.zero_point)}")
print("numbers  ", x)
print("codes    ", q)
print("back     ", dequantise(q, grid))
print(inspect.getsource(dequantise))
inside = x <= 3
assert np.abs(dequantise(q, grid) - x)[inside].max() <= grid.scale / 2 * 1.0001
assert dequantise(q, grid)[1] == 0  # zero has a code of its own: padding and relu make many

# %% [markdown]
# Inside the range no number is farther off than half a step. Outside it is clipped: 7 became 3. So a range is a bargain, wide steps or clipped numbers. *Observers*
# strike it in different ways. Here is a bell curve with a few far outliers:

# %%
rng = np.random.default_rng(0)
heavy = np.concatenate([rng.normal(size=20_000), 25 * rng.normal(size=20)]).astype(np.float32)
flowing = Scheme(bits=4, signed=True, symmetric=False)
observers = {"min-max": MinMax(), "percentile": Percentile(99.9), "squared error": MSE(flowing), "entropy": Entropy(levels=16)}
errors = {}
for name, observer in observers.items():
    observer.update(heavy)
    low, high = observer.range()
    rounded = dequantise(quantise(heavy, choose_grid(low, high, flowing)), choose_grid(low, high, flowing))
    bulk = np.abs(heavy) < 3
    errors[name] = np.sqrt(np.mean((rounded - heavy)[bulk] ** 2))
    print(f"{name:<14} range {float(low):7.2f} to {float(high):6.2f}   error of the bulk, in 4 bits: {errors[name]:.3f}")
assert errors["squared error"] < errors["min-max"] / 2

# %% [markdown]
# ## 2. A network, layer by layer
#
# `fold` takes any model apart: what is left are layers with nothing between them. (A maximum and a relu have changed places: neither falls, so nothing changes.)

# %%
digits = load("mnist5k")
mean, deviation = digits.x_train.mean(), digits.x_train.std()
train, test = ((x - mean) / deviation for x in (digits.x_train, digits.x_test))
with kernels.use("cpu"):
    run = fit(
        cnn.loss_classic, cnn.init_classic(0), (train, digits.y_train), optimizer=Momentum(lr=0.02), epochs=5, batch_size=32, progress=False
    )
net = fold(cnn.predict_classic, run.params, test[:2])
print(net)


def accuracy(f):
    with kernels.use("cpu"):
        return float(np.mean(f(test).argmax(axis=1) == digits.y_test))


whole = accuracy(net)
print(f"\naccuracy in floats {whole:.3f}")

# %% [markdown]
# ### Weights
#
# Weights get a symmetric grid, one scale for each channel: channels differ, and a scale that fits the largest wastes the codes of the smallest.

# %%
w = net["conv2"].w
one, each = grid_of(w, Scheme(bits=4)), grid_of(w, Scheme(bits=4, axis=0))
print("largest weight of each channel:", np.abs(w).max(axis=(1, 2, 3)).round(2))
for name, g in (("one scale", one), ("a scale a channel", each)):
    print(f"{name:<18} mean squared error {np.mean((dequantise(quantise(w, g), g) - w) ** 2):.2e}")
assert np.mean((dequantise(quantise(w, each), each) - w) ** 2) < np.mean((dequantise(quantise(w, one), one) - w) ** 2)

# %% [markdown]
# ## 3. A product of integers
#
# Let $x = s_x (q_x - z)$ and $w = s_w q_w$. Then $\sum x w = s_x s_w \sum (q_x - z) q_w$: *integers* are multiplied and added, and one factor remains. By hand, for one output of
# the last layer:

# %%
batches = [train[i : i + 64] for i in range(0, 512, 64)]
with kernels.use("cpu"):
    ranges = convert.calibrated(net, batches)
    grids = convert.weight_grids(net)
    seen = correct.values_of(net, test[:1])
h, last = seen["dense2"][0], net["dense3"]
codes = convert.flowing(ranges["dense2"], relu=True)
q_h, q_w = codes.quantise(h), quantise(last.w, grids["dense3"])
total = int(np.sum((q_h.astype(int) - codes.zero_point) * q_w[:, 0].astype(int)))
product = codes.scale * grids["dense3"].scale[0] * total
print(f"integers: {total}    times the scales: {product:.4f}    in floats: {h @ last.w[:, 0]:.4f}")
assert abs(product - h @ last.w[:, 0]) < 0.02 * np.abs(h @ last.w).max()

# %% [markdown]
# ## 4. Back to a code: five rules
#
# The sum must become a code of the next layer: multiply by $M = s_x s_w / s_y$, round, add a zero point, clip. $M$ is no integer. Runtimes keep it as one and a shift, and round
# in different ways; each is a named rule here, exact to the bit. They differ in few places, by one:

# %%
sums = rng.integers(-(2**20), 2**20, 200_000).astype(np.int32)
M = 0.000123456
results = {}
for name, rule in RULES.items():
    m = rule.store(np.float64(M))
    results[name] = requantise(sums, m, rule=name, zero_point=128, low=0, high=255, dtype=np.uint8).astype(int)
    differs = np.mean(results[name] != results["fp32"])
    print(f"{name:<12} M = {int(m.mantissa)} / 2^{int(m.shift)}   differs from fp32 in {differs:.4%} of the codes")
assert all(np.abs(results[name] - results["fp32"]).max() <= 1 for name in RULES if name != "pow2")

# %% [markdown]
# ## 5. No float between picture and answer

# %%
with kernels.use("cpu"):
    small = convert.integers(net, ranges, grids=grids)
first = small.layers[0]
print(f"{first.name}: weights {first.w.dtype}, bias {first.bias.dtype}, multipliers {first.to.mantissa.dtype}")
codes_in = small.input.quantise(test[:3])
with kernels.use("cpu"):
    codes_out = small.run(codes_in)
print("codes of a picture:", codes_in[0, 0, 14, 8:20])
print("codes of the logits:", codes_out[0], " truth:", digits.y_test[0])
print(f"accuracy in floats {whole:.3f}, in integers {accuracy(small):.3f}")
assert abs(accuracy(small) - whole) < 0.01

# %% [markdown]
# What each layer lost, in decibels (6 for each bit that is right):

# %%
with kernels.use("cpu"):
    decibels = choose.noise(net, small, test[:256])
print(choose.table(decibels))
assert min(decibels.values()) > 20

# %% [markdown]
# ## 6. Fewer bits
#
# At 8 bits nothing is lost, at 4 hardly anything. Then comes a cliff, and rounding *each weight to the nearest* turns out not to be the best rounding. GPTQ rounds one input after
# another and lets those still to come make up for the error, so that the *sums* stay. It needs no gradient, only the Gram matrix of the layer's inputs.

# %%
found = {"nearest": [], "GPTQ": []}
bits = [8, 6, 5, 4, 3, 2]
with kernels.use("cpu"):
    grams = {layer.name: rounding.gram(layer, correct.inputs_of(net, layer.name, batches)) for layer in net.weighted}
for b in bits:
    coarse = convert.weight_grids(net, bits={layer.name: b for layer in net.weighted})
    found["nearest"].append(accuracy(convert.rounded(net, coarse)))
    found["GPTQ"].append(accuracy(net.put(*(rounding.gptq(layer, coarse[layer.name], grams[layer.name]) for layer in net.weighted))))
figure, ax = plt.subplots(figsize=(6.5, 3.4))
for (name, values), mark in zip(found.items(), "os", strict=True):
    ax.plot(bits, np.array(values) * 100, mark + "-", label=name)
ax.axhline(whole * 100, color="grey", linestyle="--", linewidth=1, label="floats")
ax.invert_xaxis()
ax.set(xlabel="bits a weight", ylabel="accuracy on held-out digits, %", title="LeNet-5, no training after rounding")
ax.legend()
plt.show()
assert found["nearest"][3] > whole - 0.02 and found["GPTQ"][5] > found["nearest"][5] + 0.05

# %% [markdown]
# ## 7. What it weighs

# %%
for name, params in (("floats", run.params), ("integers", arrays(small))):
    print(f"{name:<9} {packed.sizes(params)['file']:9,} bytes in a packed file")
assert packed.sizes(arrays(small))["file"] < packed.sizes(run.params)["file"] / 3.5

# %% [markdown]
# ## Try it
#
# - `convert.integers(net, ranges, rule="pow2")`: all multipliers are shifts. What does it cost, and why more than the other rules?
# - Calibrate on 8 pictures instead of 512, or on noise. Which layer's range suffers most?
# - Prune first (`notebooks/04_the_lottery_ticket.py`), then quantise: zeros stay zeros. What is the smallest file that still answers 95 % rightly?
