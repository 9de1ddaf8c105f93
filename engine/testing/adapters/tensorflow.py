"""TensorFlow, eager."""

from typing import Any

import tensorflow as tf

wrap = tf.convert_to_tensor


def unwrap(y: Any) -> Any:
    return y.numpy()


def vjp(f: Any, *xs: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(xs)
        ys = f(*xs)

    def pull(gs: Any) -> Any:
        found = tape.gradient(ys, xs, output_gradients=gs, unconnected_gradients="zero")
        return tuple(tf.convert_to_tensor(g) for g in found)  # the gradient of a gather comes as slices

    return ys, pull


def jvp(f: Any, xs: Any, ds: Any) -> Any:
    with tf.autodiff.ForwardAccumulator(xs, ds) as accumulator:
        ys = f(*xs)
        return ys, accumulator.jvp(ys, unconnected_gradients="zero")
