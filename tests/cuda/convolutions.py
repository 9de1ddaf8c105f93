"""What the tests of CUDA convolutions share: geometries that nothing divides, and mutants."""

import inspect
import re

import numpy as np
from hypothesis import strategies as st
from products import numbers
from strategies import LAYOUTS, laid_out

from engine.ops.windows import window_grid


@st.composite
def geometries(draw):
    """Shapes of x and w, and parameters: no picture, one pixel, more columns than a tile; windows that see nothing of the picture."""
    n, groups = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    channels, filters = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 3, 5]))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride, dilation = (draw(st.sampled_from([1, 1, 2, (1, 3), (3, 2), (2, 5)])) for _ in range(2))
    padding = draw(st.sampled_from([0, 1, (2, 1), ((0, 3), (2, 0)), ((4, 1), (0, 5))]))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation if isinstance(dilation, tuple) else (dilation, dilation), strict=True)]
    room = draw(st.integers(0, 8)), draw(st.sampled_from([0, 1, 2, 7, 30, 31, 32, 33]))
    size = reach[0] + room[0], reach[1] + room[1]
    params = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return (n, channels * groups, *size), (filters * groups, channels, *kernel), params


@st.composite
def calls(draw, op, dtypes):
    """Arguments in a layout, parameters, and the dtype, "float32" or "uint8 int8"."""
    x, w, params = draw(geometries())
    y = (x[0], w[0], *window_grid(x[2:], w[2:], params["stride"], params["padding"], params["dilation"]))
    dtype = draw(st.sampled_from(sorted(dtypes)))
    kinds = dtype.split() * (2 if len(dtype.split()) == 1 else 1)
    shapes, more = {
        "conv2d": ((x, w), {}),
        "conv2d_input_grad": ((y, w), {"input_size": x[2:]}),
        "conv2d_weight_grad": ((x, y), {"kernel_size": w[2:]}),
        "conv2d_int8": ((x, w), {"zero_point": draw(st.sampled_from([0, 3, 127]))}),
    }[op]
    rng, layout = np.random.default_rng(draw(st.integers(0, 99))), draw(st.sampled_from(LAYOUTS))
    return [laid_out(numbers(rng, s, kind), layout) for s, kind in zip(shapes, kinds, strict=True)], {**more, **params}, dtype


def mutate(monkeypatch, module, names, old, new):
    """Put functions of a module in place, as they are if their source says `new` where it says `old`.

    names   the function, then those that are made of it; each by its source, or by the line `name = ...` that makes it
    """
    first, *others = [source(module, name) for name in names]
    assert first.count(old) == 1, f"{first.count(old)} times {old!r}"
    within = dict(vars(module))
    for text in (first.replace(old, new), *others):
        exec(compile(text, module.__file__, "exec"), within)  # Numba looks its lines up there
    for name in names:
        monkeypatch.setattr(module, name, within[name])


def source(module, name):
    """As many empty lines as stand before it in the file, and the text of `def name` or `name = ...`."""
    text = inspect.getsource(module)
    found = re.search(rf"^((@.*\n)?def {name}\(.*\n((    .*)?\n)+|{name} = .*\n)", text, re.MULTILINE)
    return "\n" * text.count("\n", 0, found.start()) + found[0]
