"""Suites of whole steps: training, inference, and training up to an accuracy. See `benchmarks/networks`."""

from __future__ import annotations

import os

from benchmarks.networks.case import Accuracy, Step
from benchmarks.networks.layers import LAYERS, description
from benchmarks.networks.quantised import Quantised
from benchmarks.suites import Suite
from engine.data.mnist import FOLDER

BATCHES = (1, 32, 128, 512)
TARGETS = {"mlp": ((32,), 1.5), "lenet": ((32, 128), 2.0), "cnn": ((128,), 1.5)}  # at these batch sizes, against PyTorch
TRAINERS = ("torch", "torch-compile", "jax")


def training(net: str) -> Suite:
    batches, target = TARGETS[net]
    return Suite(f"{net}-step", f"{description(net)}, a step of training", [Step(net, n) for n in batches], TRAINERS, ("torch",), target)


def other_sizes(net: str) -> Suite:
    cases = [Step(net, n) for n in BATCHES if n not in TARGETS[net][0]]
    return Suite(f"{net}-step-more", f"{description(net)}, a step at other batch sizes", cases, TRAINERS)


def inference(net: str) -> Suite:
    cases = [Step(net, n, training=False) for n in BATCHES]
    return Suite(f"{net}-inference", f"{description(net)}, inference", cases, (*TRAINERS, "onnxruntime"))


INT8 = [Quantised(net, n) for net in ("lenet", "cnn") for n in (1, 64)]


def accuracy(data: str, target: float) -> Suite:
    cases = [Accuracy(net, data, target) for net in ("lenet", "cnn")]
    return Suite(f"accuracy-{data}", f"training on {data} up to {100 * target:g} %", cases, TRAINERS)


SUITES = [make(net) for net in LAYERS for make in (training, other_sizes, inference)] + [
    accuracy("mnist5k", 0.97),
    Suite(
        "int8-inference",
        "LeNet-5 and the 3x3 CNN in int8, against ONNX Runtime in int8",
        INT8,
        ("onnxruntime", "f32"),
        ("onnxruntime",),
        1.0,
    ),
    Suite("int8-gain", "the same against our float32", INT8, ("f32",), target=2.0),
]
if os.environ.get(FOLDER):  # full MNIST is raced where the user has its files
    SUITES.append(accuracy("mnist", 0.99))
