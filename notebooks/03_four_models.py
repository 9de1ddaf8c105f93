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
# # Four models, one shape
#
# Linear regression, logistic regression, a multilayer perceptron and a convolutional network are four *files of the same form*: `init` makes a dict of
# arrays, `predict` is a formula, `loss` is a number. Training is the same for all: take the gradient of the number, make a step.
#
# Here they learn from real data, and after each we look at what it has learned.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np

import kernels
from engine import grad, ops
from engine.data import load
from engine.metrics import accuracy, confusion_matrix, r2
from engine.models import cnn, linear, logistic, mlp
from engine.optim import AdamW, Momentum
from engine.schedule import Cosine
from engine.train import fit
from engine.verdict import judge

plt.rcParams.update({"figure.dpi": 90, "axes.grid": True, "grid.alpha": 0.3, "image.cmap": "gray_r"})

# %% [markdown]
# ## 1. Linear regression: a formula that one can solve
#
# 442 patients, ten measurements, and how far their diabetes went on in a year. The measurements are standardised on the training part.

# %%
patients = load("diabetes")
print(patients)
print(inspect.getsource(linear.predict))

# %% [markdown]
# The loss is a quadratic bowl, so there is an exact answer to compare with: the normal equations
# $X^\top X w = X^\top t$. Gradient descent with momentum should walk to the same place. In the target's own units (the disease score), centred:

# %%
centre = patients.y_train.mean()
x, t = patients.x_train.astype(np.float64), patients.y_train.astype(np.float64) - centre
run = fit(
    linear.loss, linear.init(0, 10, dtype=np.float64), (x, t), optimizer=Momentum(lr=0.1), epochs=800, batch_size=len(x), progress=False
)

design = np.column_stack([x, np.ones(len(x))])
exact = ops.solve(design.T @ design, design.T @ t)
predicted = linear.predict(run.params, patients.x_test) + centre

gap = np.abs(linear.predict(run.params, x) - design @ exact).max()
print(f"largest difference between the walk and the solution: {gap:.2g} points of {np.ptp(t):.0f}")
assert gap < 0.5
assert r2(patients.y_test, predicted) > 0.35

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
left.semilogy([h["loss"] for h in run.history])
left.set(title="The loss falls", xlabel="step", ylabel="squared error")
order = np.argsort(run.params["w"])
right.barh(np.array(patients.features)[order], run.params["w"][order])
right.set(title="What each measurement adds", xlabel="disease score for one standard deviation")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## 2. Logistic regression: one template for each digit
#
# 1,797 digits of 8 by 8 pixels. The model is the same product, but its ten numbers go through a softmax and are judged by the probability that they
# give to the truth. The gradient in the logits is as simple as a gradient can be: *probability minus truth*.

# %%
digits = load("digits")
params = logistic.init(0, 64, 10, dtype=np.float64)
z, truth = np.array([[2.0, -1.0, 0.5]]), np.array([0])
g = grad(lambda z: ops.cross_entropy(z, truth))(z)
assert np.allclose(g, ops.softmax(z) - np.eye(3)[truth])

data = (digits.x_train, digits.y_train)
run = fit(logistic.loss, params, data, optimizer=AdamW(lr=0.02, weight_decay=0.01), epochs=30, batch_size=32, progress=False)
score = accuracy(digits.y_test, np.argmax(logistic.predict(run.params, digits.x_test), axis=1))
print(f"held-out accuracy {score:.3f}")
assert score > 0.95

# %%
figure, axes = plt.subplots(1, 10, figsize=(9, 1.4))
for k, ax in enumerate(axes):
    ax.imshow(run.params["w"][:, k].reshape(8, 8), cmap="RdBu_r", vmin=-1.5, vmax=1.5)
    ax.set_title(digits.classes[k])
    ax.axis("off")
figure.suptitle("The ten templates: red votes for, blue votes against", y=1.12)
plt.show()

# %% [markdown]
# ## 3. A multilayer perceptron: templates of templates
#
# 5,000 handwritten digits of MNIST, 28 by 28 pixels: 4,000 to learn from, 1,000 held back. Two hidden layers, 266,610 numbers.
# The whole model is this:

# %%
mnist = load("mnist5k")
print(mnist)
print(inspect.getsource(mlp.predict))


# %%
def trained(model_loss, params, epochs):
    steps = epochs * -(-len(mnist.x_train) // 32)
    recipe = Momentum(lr=Cosine(0.05, steps), weight_decay=1e-3)
    with kernels.use("cpu"):
        return fit(model_loss, params, (mnist.x_train, mnist.y_train), optimizer=recipe, epochs=epochs, batch_size=32, progress=False)


def answers(predict, params):
    with kernels.use("cpu"):
        return np.argmax(predict(params, mnist.x_test), axis=1)


perceptron = trained(mlp.loss, mlp.init(0), epochs=8)
guess = answers(mlp.predict, perceptron.params)
print(f"held-out accuracy {accuracy(mnist.y_test, guess):.3f}")
assert accuracy(mnist.y_test, guess) > 0.92

# %% [markdown]
# ## 4. LeNet-5: the same template, slid over the picture
#
# A convolution shares one small template among all places. The network has a quarter of the perceptron's numbers and makes fewer mistakes.

# %%
print(inspect.getsource(cnn.predict_classic))
lenet = trained(cnn.loss_classic, cnn.init_classic(0), epochs=6)
guess_lenet = answers(cnn.predict_classic, lenet.params)
print(f"held-out accuracy {accuracy(mnist.y_test, guess_lenet):.3f}")


def size(params):
    return sum(p.size for p in params.values())


assert size(lenet.params) < size(perceptron.params) / 4
assert accuracy(mnist.y_test, guess_lenet) > 0.95
assert np.sum(guess_lenet != mnist.y_test) < np.sum(guess != mnist.y_test)

# %%
figure, axes = plt.subplots(1, 6, figsize=(9, 1.8))
for k, ax in enumerate(axes):
    ax.imshow(lenet.params["conv1/w"][k, 0], cmap="RdBu_r", vmin=-0.6, vmax=0.6)
    ax.axis("off")
figure.suptitle("The six 5 by 5 templates of the first layer: edges and strokes")
plt.show()

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
left.semilogy([h["loss"] for h in perceptron.history], "o-", label="perceptron")
left.semilogy([h["loss"] for h in lenet.history], "s-", label="LeNet-5")
left.set(title="Training loss", xlabel="epoch", ylabel="cross entropy")
left.legend()
confused = confusion_matrix(mnist.y_test, guess_lenet)
right.imshow(np.sqrt(confused), cmap="Blues")
for (i, j), n in np.ndenumerate(confused):
    if n:
        right.text(j, i, n, ha="center", va="center", fontsize=7, color="white" if n > 40 else "black")
right.set(title="LeNet-5 on the held-out digits", xlabel="answer", ylabel="truth", xticks=range(10), yticks=range(10))
right.grid(False)
figure.tight_layout()
plt.show()

# %% [markdown]
# Some of the pictures that it got wrong. Which would *you* have got right?

# %%
wrong = np.flatnonzero(guess_lenet != mnist.y_test)[:8]
figure, axes = plt.subplots(1, 8, figsize=(9, 1.7))
for ax in axes:
    ax.axis("off")
for i, ax in zip(wrong, axes, strict=False):
    ax.imshow(mnist.x_test[i, 0])
    ax.set_title(f"{mnist.y_test[i]}, said {guess_lenet[i]}", fontsize=9)
plt.show()

# %% [markdown]
# ## 5. Is the gradient right?
#
# All of this stands on one gradient. `judge` compares it, for every parameter array, with derivatives in which no rule of the engine had a part: a complex step
# where the loss takes complex numbers, an extrapolated difference with an error bound where it does not.

# %%
batch = mnist.x_test[:16].astype(np.float64), mnist.y_test[:16]
verdict = judge(lambda p: cnn.loss_classic(p, *batch), lenet.params)
print(verdict)
assert verdict.verdict == "PASS"

# %% [markdown]
# ## Try it
#
# - Train LeNet-5 with `activation="tanh", pool=ops.avg_pool2d`, as the paper had it. What happens to the loss curve?
# - Write a fifth model: `init`, `predict`, `loss`, in ten lines. `fit` and `judge` will take it as they took these.
