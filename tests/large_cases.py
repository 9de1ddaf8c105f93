"""Sizes that a sampler does not draw, for each op: over the edges of blocks and tiles, long enough to be cut for threads."""

import numpy as np
from laws_of_rungs import tupled

from engine.ops.chain import Call, Chain, drawn_codes, drawn_conv, drawn_dense
from engine.ops.requantisation import RESCALE, drawn
from engine.traced import OPS
from kernels.scalars import BINARY, UNARY


def matrices(m, k, n, left=(), right=()):
    return lambda rng: ([rng.normal(size=(*left, m, k)), rng.normal(size=(*right, k, n))], {})


def a_layer(m, k, n, activation):
    def draw(rng):
        return [rng.normal(size=m + (k,)), rng.normal(size=(k, n)), rng.normal(size=n)], {"activation": activation}

    return draw


def small_numbers(m, k, n, left=(), right=(), a=np.uint8):
    """Mostly the extreme ones: where a sum of two products leaves 16 bits, and a sign counts most."""

    def draw(rng):
        return [
            np.where(rng.random(shape) < 0.2, rng.integers(low, high + 1, shape), rng.choice([low, high], shape)).astype(dtype)
            for shape, dtype, low, high in [((*left, m, k), a, np.iinfo(a).min, np.iinfo(a).max), ((*right, k, n), np.int8, -128, 127)]
        ], {}

    return draw


def sums(shape, rule, dtype="uint8", pool=1):
    return lambda rng: drawn(rng, shape, rule, dtype=dtype, zero_point=5, pool=pool)


def with_codes(draw, rule, **to):
    """A product whose sums become codes."""

    def drawn_with(rng):
        args, params = draw(rng)
        if "zero_point" in params:
            params["x_zero_point"] = params.pop("zero_point")
        (_, *by), codes = drawn(rng, (0, args[1].shape[0 if params else 1]), rule, dtype="uint8", zero_point=5, pool=1)
        if not params:
            del codes["pool"]
        return [*args, *by], {**params, **codes, **to}

    return drawn_with


def network(x, *layers, dtype="uint8", rule=None):
    """A chain of (filters, kernel, geometry), of the parameters of a pool, and of the numbers of outputs of products."""

    def draw(rng):
        codes, calls, shape, kind = drawn_codes(rng, x, dtype), [], x, dtype
        for layer in layers:
            by = rule or str(rng.choice(list(RESCALE)))
            if isinstance(layer, dict):
                calls.append(Call("max_pool2d", (), layer))
            elif isinstance(layer, tuple):
                filters, kernel, geometry = layer
                calls.append(drawn_conv(rng, shape, filters, kernel, kind, by, **geometry))
            else:
                if len(shape) == 4:
                    calls.append(Call("flatten"))
                    shape = calls[-1].shape(shape)
                calls.append(drawn_dense(rng, shape[1], layer, kind, by))
            shape, kind = calls[-1].shape(shape), calls[-1].params.get("dtype", kind)
        return [codes], {"chain": Chain(tuple(calls))}

    return draw


def all_alike(m, k, n, a, b):
    return lambda rng: ([np.full((m, k), a), np.full((k, n), b)], {})


def convolution(what, x, w, **geometry):
    def draw(rng):
        full = {**OPS["conv2d"].defaults, **geometry}
        a, b = rng.normal(size=x), rng.normal(size=w)
        gy = rng.normal(size=OPS["conv2d"](a, b, **full).shape)
        if what == "conv2d":
            return [a, b], full
        if what == "conv2d_input_grad":
            return [gy, b], {**full, "input_size": x[2:]}
        return [a, gy], {**full, "kernel_size": w[2:]}

    return draw


def small_pictures(x, w, dtype=np.uint8, **geometry):
    def draw(rng):
        (a, b), _ = small_numbers(x[0], int(np.prod(x[1:])), w[0], a=dtype)(rng)
        b = rng.choice([-128, 127, 3], size=w).astype(np.int8)
        return [a.reshape(x), b], {**OPS["conv2d_int8"].defaults, **geometry}

    return draw


def pooling(what, x, **geometry):
    def draw(rng):
        full = {**OPS[what].defaults, **geometry}
        a = np.round(rng.normal(size=x), 1)  # with ties
        forward = "max_pool2d_with_indices" if what.startswith("max") else "avg_pool2d"
        y = tupled(OPS[forward](a, **geometry))
        if what == forward:
            return [a], full
        if what == "max_pool2d_input_grad":
            return [rng.normal(size=y[0].shape), y[1]], {"input_size": x[2:]}
        return [rng.normal(size=y[0].shape)], {**full, "input_size": x[2:]}

    return draw


def stepping(what, size):
    def draw(rng):
        arrays = {name: rng.normal(size=size) for name in OPS[what].args}
        hyper = {**OPS[what].defaults, "lr": 0.01}
        return [np.square(a) if name == "v" else a for name, a in arrays.items()], {**hyper, "t": 3} if "adam" in what else hyper

    return draw


def biased(what, shape, **params):
    def draw(rng):
        full = {**OPS[what].defaults, **params}
        x, b = rng.normal(size=shape), rng.normal(size=shape[full["axis"]])
        return ([x, b] if what == "bias_activation" else [rng.normal(size=shape), OPS["bias_activation"](x, b, **full)]), full

    return draw


def a_layer_back(before, k, n, activation):
    def draw(rng):
        gy, y, x, w = [rng.normal(size=shape) for shape in ((*before, n), (*before, n), (*before, k), (k, n))]
        return [gy, np.tanh(y), x, w], {"activation": activation}

    return draw


def classified(what, *shape):
    def draw(rng):
        z, t = 5 * rng.normal(size=shape), rng.multinomial(3, [1 / shape[-1]] * shape[-1], size=shape[:-1]) / 3
        if what == "cross_entropy":
            return [z, t], {}
        return [OPS["cross_entropy"](z, t)[1], t, rng.normal(size=shape[:-1])], {}

    return draw


def normalised(what, shape, axis, small):
    def draw(rng):
        x, w, b = 3 + 2 * rng.normal(size=shape), rng.normal(size=small), rng.normal(size=small)
        params = {"axis": axis, "eps": 1e-5}
        if what == "normalise":
            return [x, w, b], params
        _, mean, var = OPS["normalise"](x, w, b, **params)
        return [rng.normal(size=shape), x, w, mean, var], {**params, "b_shape": small}

    return draw


def sparse(what, m, k, n, density, *, block=(1, 1), tidy=True):
    """A matrix of blocks, some of its rows empty. Not `tidy`: columns in any order, and some of them twice."""

    def draw(rng):
        b = rng.normal(size=(k, n))
        if what == "matmul_2to4":
            return [rng.normal(size=(m, k // 2)), rng.integers(0, 4, (m, k // 2)).astype(np.uint8), b], {}
        kept = rng.random((m, k)) < density * (rng.random((m, 1)) > 0.2)
        rows, indices = np.nonzero(kept)
        if not tidy:
            indices = rng.integers(0, k, len(rows))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m))])
        data = rng.normal(size=(len(rows), *block) if what == "matmul_bsr" else len(rows))
        if what == "matmul_bsr":
            b = rng.normal(size=(k * block[1], n))
        if what == "matmul_csr_data_grad":
            return [rng.normal(size=(m, n)), b, indices.astype(np.int32), indptr], {}
        return [data, indices.astype(np.int32), indptr, b], {}

    return draw


def rows(shape, axis):
    return lambda rng: ([5 * rng.normal(size=shape)], {"axis": axis})


def positive(*shapes, **params):
    return lambda rng: ([rng.uniform(0.97, 1.03, shape) for shape in shapes], params)


LARGE = {
    "matmul": [
        matrices(67, 263, 541),  # over every edge: of tiles, of blocks, of what is worth packing
        matrices(1000, 70, 1030),  # more blocks of rows than each make their own copy of b
        matrices(5, 257, 1100),
        matrices(600, 100, 37),
        matrices(1, 600, 1),
        matrices(33, 40, 31, left=(3, 5), right=(3, 5)),
        matrices(9, 20, 70, left=(4, 1), right=(3, 1, 5)),
        matrices(40, 50, 60, left=(12,)),
        matrices(300, 520, 700),  # worth copying to where it is read in line, and longer than a block of sums
        matrices(8, 300, 600),
        matrices(3, 200, 301),
        matrices(70, 200, 3),  # narrow
        matrices(2, 3, 200, left=(3, 1), right=(4,)),
        matrices(65, 66, 74),  # a few columns are left over
    ],
    "dense": [
        a_layer((67,), 263, 541, "relu"),
        a_layer((130,), 1100, 70, "relu"),  # longer than two blocks of sums
        a_layer((5, 40), 257, 110, "tanh"),
        a_layer((300,), 200, 500, "sigmoid"),
        a_layer((1,), 700, 300, "relu"),
        a_layer((), 40, 70, "sigmoid"),
        a_layer((70,), 200, 3, "relu"),  # narrow
        a_layer((60,), 300, 1, "identity"),
        a_layer((7,), 0, 20, "relu"),
    ],
    "dense_grad": [
        a_layer_back((67,), 263, 541, "relu"),
        a_layer_back((5, 40), 257, 110, "tanh"),
        a_layer_back((1100,), 70, 40, "sigmoid"),  # longer than two blocks of sums
        a_layer_back((), 40, 70, "identity"),
        a_layer_back((1,), 700, 3, "relu"),
        a_layer_back((7,), 0, 20, "relu"),
    ],
    "matmul_bf16": [
        matrices(67, 263, 541),
        matrices(40, 1100, 70),  # longer than a block of words
        matrices(1, 600, 1),
        matrices(5, 257, 1100),
        matrices(33, 40, 31, left=(3, 5), right=(3, 5)),
        matrices(9, 20, 70, left=(4, 1), right=(3, 1, 5)),
        matrices(300, 520, 700),
    ],
    "conv2d_int8": [
        small_pictures((3, 3, 28, 28), (6, 3, 5, 5), padding=2, zero_point=127),
        small_pictures((3, 6, 40, 37), (10, 3, 5, 3), np.int8, stride=(2, 1), padding=((0, 3), (1, 0)), groups=2, zero_point=5),
        small_pictures((2, 2, 64, 70), (5, 2, 3, 3), dilation=(2, 3), zero_point=9),
        small_pictures((9, 3, 5, 5), (7, 3, 5, 5), np.int8),
        small_pictures((5, 8, 9, 9), (8, 1, 3, 3), padding=1, groups=8, zero_point=127),  # depthwise
        small_pictures((2, 9, 10, 10), (13, 9, 1, 1), np.int8, stride=3),
        small_pictures((1, 130, 12, 11), (37, 130, 3, 3), padding=1, zero_point=100),  # longer than a block of words
        small_pictures((1, 64, 30, 30), (40, 64, 3, 3), np.int8, padding=1, stride=2, zero_point=3),
    ],
    "matmul_codes": [with_codes(small_numbers(m, k, n), rule) for m, k, n in [(67, 263, 541), (1, 600, 1)] for rule in RESCALE],
    "conv2d_codes": [
        with_codes(small_pictures(x, w, dtype, **geometry), rule, pool=pool)
        for rule in RESCALE
        for x, w, dtype, geometry, pool in [
            ((9, 3, 58, 60), (33, 3, 3, 3), np.uint8, {"padding": 1, "zero_point": 127}, 2),  # a few pictures at a time
            ((3, 6, 40, 37), (10, 3, 5, 3), np.int8, {"stride": (2, 1), "groups": 2, "zero_point": 5}, 1),
        ]
    ],
    "network_codes": [
        *[
            network((29, 1, 28, 28), (6, (5, 5), {"padding": 2, "pool": 2}), (16, (5, 5), {"pool": 2}), 120, 84, 10, rule=rule)
            for rule in RESCALE
        ],
        network(
            (5, 3, 29, 27),
            (33, (3, 3), {"padding": 1, "pool": 2}),
            (47, (3, 3), {"padding": ((0, 2), (1, 0)), "stride": 2}),
            37,
            dtype="int8",
        ),
        network(
            (3, 5, 17, 19), (20, (3, 2), {"dilation": 2, "padding": 2}), {"kernel_size": 3, "stride": 2, "padding": 1}, (9, (1, 1), {})
        ),
        network((2, 6, 20, 23), (9, (2, 3), {"groups": 3, "pool": 3}), (18, (3, 3), {"groups": 9, "padding": 1}), dtype="int8"),
        network((4, 1, 24, 30), (3, (3, 3), {"stride": (1, 2)}), (8, (1, 3), {"padding": (0, 1), "pool": 2}), 5),  # windows share vectors
        network((7, 64, 30, 30), (64, (3, 3), {"padding": 1, "pool": 2}), (40, (3, 3), {"stride": 3}), dtype="int8"),  # few at a time
        network((1, 2100), 300, 17),
        network((67, 263), 141, 10, dtype="int8"),
        network((130, 1, 9, 9), (32, (3, 3), {"padding": 1}), (64, (3, 3), {}), 10),  # cut for threads
    ],
    "requantise": [
        sums(shape, rule, dtype, pool)
        for rule in RESCALE
        for shape, dtype, pool in [
            ((37, 7, 29, 28), "uint8", 1),  # cut for threads
            ((9, 11, 29, 75), "int8", 2),
            ((2, 3, 40, 37), "uint8", 3),
            ((1300, 131), "int8", 1),
            ((3, 5, 4, 3, 2), "uint8", 1),
        ]
    ],
    "matmul_int8": [
        small_numbers(67, 263, 541),
        small_numbers(40, 2100, 70, a=np.int8),  # longer than a block of words
        small_numbers(1, 600, 1),
        small_numbers(5, 257, 1100, a=np.int8),
        small_numbers(33, 40, 31, left=(3, 5), right=(3, 5)),
        small_numbers(9, 20, 70, left=(4, 1), right=(3, 1, 5)),
        small_numbers(300, 520, 700),
        all_alike(20, 1030, 35, np.uint8(255), np.int8(-128)),
        all_alike(20, 1030, 35, np.int8(-128), np.int8(-128)),
        all_alike(20, 1030, 35, np.uint8(255), np.int8(127)),
    ],
    **{
        op: [
            convolution(op, (33, 3, 28, 28), (6, 3, 5, 5), padding=2),
            convolution(op, (5, 6, 40, 37), (10, 3, 5, 3), stride=(2, 1), padding=((0, 3), (1, 0)), groups=2),
            convolution(op, (2, 2, 64, 70), (5, 2, 3, 3), dilation=(2, 3)),  # longer than a block
            convolution(op, (40, 3, 5, 5), (7, 3, 5, 5)),  # one window: pictures side by side
            convolution(op, (13, 8, 9, 9), (8, 1, 3, 3), padding=1, groups=8),  # depthwise
            convolution(op, (6, 9, 10, 10), (13, 9, 1, 1), stride=3),
            convolution(op, (5, 7, 15, 16), (19, 7, 1, 1), stride=2),  # all windows in line, a quarter of the pixels read
            convolution(op, (3, 4, 40, 61), (9, 4, 2, 2), stride=3, padding=((1, 0), (2, 2))),
            convolution(op, (21, 33, 9, 12), (35, 33, 3, 3), padding=1),  # by patches; five pictures are left over
            convolution(op, (18, 32, 7, 6), (32, 32, 3, 3), padding=((0, 2), (1, 0))),
            convolution(op, (3, 17, 11, 10), (16, 17, 3, 3), padding=2),  # few pictures: the gradient in w alone is by patches
            convolution(op, (1, 64, 3, 3), (64, 64, 3, 3)),  # one window: no sum in which the rounding of a patch would be small
            convolution(op, (1, 3, 40, 40), (9, 3, 5, 5), padding=2),  # one picture, rows longer than a vector
        ]
        for op in ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")
    },
    **{
        op: [
            pooling(op, (32, 7, 29, 28), kernel_size=2, stride=None, padding=0),
            pooling(op, (3, 40, 31, 30), kernel_size=3, stride=2, padding=1),
        ]
        for op in ("max_pool2d_with_indices", "max_pool2d_input_grad", "avg_pool2d", "avg_pool2d_input_grad")
    },
    **{
        op: [
            biased(op, (37, 7, 29, 28), activation="relu"),
            biased(op, (3, 5, 9000), activation="tanh"),
            biased(op, (700, 130), axis=-1, activation="sigmoid"),
            biased(op, (130, 600), axis=0),
        ]
        for op in ("bias_activation", "bias_activation_grad")
    },
    **{
        op: [classified(op, 300, 10), classified(op, 7, 5, 1003), classified(op, 3000, 37)]
        for op in ("cross_entropy", "cross_entropy_grad")
    },
    **{
        op: [
            normalised(op, (700, 131), -1, (131,)),  # layer norm
            normalised(op, (9, 5, 4, 700), (-2, -1), (4, 700)),
            normalised(op, (40, 7, 29, 28), (0, 2, 3), (7, 1, 1)),  # batch norm
            normalised(op, (90, 33), 0, (33,)),
            normalised(op, (4, 60, 5, 7), (1, 3), (5, 1)),  # others
            normalised(op, (4, 60, 5, 7), (0, 2), ()),
            normalised(op, (30, 40, 50), None, (1, 40, 1)),
        ]
        for op in ("normalise", "normalise_grad")
    },
    **{
        op: [
            sparse(op, 67, 264, 141, 0.3),
            sparse(op, 300, 784, 64, 0.1, tidy=False),
            sparse(op, 250, 200, 130, 1.0, tidy=False),  # full, and cut for threads
            sparse(op, 40, 90, 37, 0.0),  # all empty
            sparse(op, 3, 400, 100, 0.01),  # b is not worth copying
            sparse(op, 90, 300, 1, 0.5),
            sparse(op, 700, 1000, 1, 0.05, tidy=False),
            sparse(op, 33, 70, 18, 0.5),
        ]
        for op in ("matmul_csr", "matmul_csr_data_grad")
    },
    "matmul_bsr": [
        sparse("matmul_bsr", m, k, n, density, block=block, tidy=tidy)
        for m, k, n, density, block, tidy in [
            (67, 64, 141, 0.3, (4, 4), True),
            (30, 20, 64, 0.2, (16, 1), False),
            (60, 30, 100, 1.0, (13, 7), False),
            (90, 20, 33, 0.3, (1, 16), True),
            (3, 90, 70, 0.02, (3, 2), True),
            (20, 30, 1, 0.5, (2, 2), False),
            (10, 10, 7, 0.0, (5, 3), True),
        ]
    ],
    "matmul_2to4": [
        sparse("matmul_2to4", m, k, n, 0.5)
        for m, k, n in [(67, 264, 141), (300, 784, 64), (90, 300, 1), (33, 140, 18), (1, 404, 7), (5, 36, 1), (250, 200, 100)]
    ],
    **{op: [rows((300, 37), -1), rows((7, 5, 1003), (1, 2)), rows((40, 50, 30), 1)] for op in ("softmax", "log_softmax")},
    **{op: [positive((515, 33)), positive((7, 11, 13))] for op in (*UNARY, "leaky_relu", "elu")},
    **{op: [positive((515, 33), (33,)), positive((7, 1, 12), (1, 11, 12))] for op in BINARY},
    **{op: [positive((515, 33), axis=0), positive((7, 300, 3), axis=(0, 2))] for op in ("sum", "mean", "prod", "max", "min")},
    **{op: [stepping(op, (3 * (1 << 16) + 5,)), stepping(op, (7, 11, 13))] for op in OPS if op.endswith("_step")},
}
