"""Whole networks in every framework: the home of `Step`, `Accuracy` and `Quantised` cases, and their implementations,
a module each.

A module has `available()` and `prepare(case, args, params)` as `benchmarks/peers/__init__.py` says, and a class

    Net(name, params)       a network of `layers.py` with these weights: a flat dict under our names, in our layouts, in NumPy's arrays
    .batch(x, t)            pictures and labels as the framework's own arrays; not timed
    .step(x, t)             one step of Adam along the gradient of the mean cross-entropy; its loss, as a Python number
    .logits(x)              what the network says, as an array of the framework's
    .params()               the weights, back under our names and in our layouts

Conversions happen once, outside of what is timed: PyTorch keeps a dense weight as (outputs, inputs), JAX convolves pictures whose
channels come last.
"""
