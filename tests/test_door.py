"""What comes in to a kernel that is called by itself: anybody's arrays, uncopied, or an error that says what clashed."""

import numpy as np
import pytest

import kernels
from kernels.door import bind


class Elsewhere:
    """An array that speaks DLPack and nothing else."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **kwargs):
        return self.a.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


class Interface:
    """An array that speaks the array interface and nothing else."""

    def __init__(self, a):
        self.__array_interface__ = a.__array_interface__
        self.a = a


def test_anything_that_speaks_a_protocol_comes_in_without_a_copy():
    from kernels.door import enter

    rung = kernels.serving("matmul", "cpu")
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    for other in (Elsewhere, Interface):
        got, _ = enter(rung, [other(a), other(b)], {})
        assert all(np.shares_memory(x, y) for x, y in zip(got, (a, b), strict=True))
        np.testing.assert_allclose(rung(other(a), other(b)), a @ b)


@pytest.mark.parametrize("other", [Elsewhere, Interface])
def test_anybodys_arrays_come_in_by_name_too_and_are_written_in_place(other):
    p, g, m = [{"w": np.arange(6.0).reshape(2, 3) + i, "b": np.array(2.0 + i)} for i in range(3)]
    rung = kernels.serving("momentum_step", "cpu")
    want = rung(p, g, m, lr=0.1)
    given = [{"w": other(x["w"]), "b": x["b"]} for x in (p, g, m)]
    for got in (rung(*given, lr=0.1), rung(p, given[1], m, lr=0.1), rung(*given, lr=0.1, out=(given[0], given[2]))):
        for new, old in zip(got, want, strict=True):
            for name, x in old.items():
                np.testing.assert_array_equal(new[name], x)
    np.testing.assert_array_equal(p["w"], want[0]["w"])
    np.testing.assert_array_equal(m["w"], want[1]["w"])


def test_what_cannot_be_read_is_named():
    class Unreadable:
        def __dlpack__(self, **kwargs):
            raise RuntimeError("it is on another planet")

    p = {"w": np.ones(2), "b": np.ones(3)}
    with pytest.raises(TypeError, match=r"sgd_step on cpu: g\['b'\] is a Unreadable that cannot be read as an array: it is on another"):
        kernels.serving("sgd_step", "cpu")(p, {**p, "b": Unreadable()}, lr=0.1)


@pytest.mark.parametrize(
    "op, shapes, params, clash",
    [
        ("matmul", [(2, 3), (4, 5)], {}, "axis k is 3 in a but 4 in b"),
        ("matmul", [(3,), (3, 5)], {}, "a has 1 axes where at least 2 are wanted"),
        ("matmul", [(2, 3, 4), (5, 4, 6)], {}, "leading axes (2,) and (5,) do not broadcast"),
        ("conv2d", [(1, 3, 8, 8), (4, 2, 3, 3)], {}, "x has 3 channels in 1 groups, so a filter has 3 channels, not 2"),
        ("conv2d", [(1, 3, 8, 8), (4, 3, 9, 3)], {}, "a kernel of (9, 3) with dilation (1, 1) does not fit into (8, 8) with padding 0"),
        ("conv2d_input_grad", [(1, 4, 6, 5), (4, 3, 3, 3)], {"input_size": (8, 8)}, "gy is (6, 5), conv2d returns (6, 6) for these sizes"),
        ("sgd_step", [(3, 4), (4, 3)], {"lr": 0.1}, "axis *s is (3, 4) in p but (4, 3) in g"),
    ],
)
def test_shapes_that_clash_are_said_at_the_door(op, shapes, params, clash):
    with pytest.raises(ValueError) as e:
        kernels.serving(op, "cpu")(*[np.ones(s) for s in shapes], **params)
    first, wants, given = str(e.value).split("\n")
    assert first == f"{op} on cpu: {clash}"
    assert wants.startswith("  wants  ") and given.startswith("  given  ") and "float64" in given


def test_what_is_no_array_and_too_few_of_them_is_said():
    product = kernels.serving("matmul", "cpu")
    with pytest.raises(TypeError, match="matmul on cpu: wants 2 arrays, a, b; given 1"):
        product(np.ones((2, 2)))
    with pytest.raises(TypeError, match="matmul on cpu: wants all arrays in one of float32, float64"):
        product(object(), np.ones((2, 2)))


@pytest.mark.parametrize(
    "wants, shapes, sizes",
    [
        ("m k, k n", [(2, 3), (3, 4)], {"m": 2, "k": 3, "n": 4}),
        ("... m, m", [(5, 6, 2), (2,)], {"m": 2}),
        ("*s, *s", [(), ()], {"*s": ()}),
        ("m *s, *s", [(2, 3, 4), (3, 4)], {"m": 2, "*s": (3, 4)}),
        ("m 2", [(7, 2)], {"m": 7}),
    ],
)
def test_names_bind_axes(wants, shapes, sizes):
    assert bind(wants, ["x", "y"][: len(shapes)], shapes) == sizes


@pytest.mark.parametrize("wants, shapes", [("m 2", [(7, 3)]), ("m m", [(2, 3)]), ("*s, *s", [(2,), (2, 1)]), ("m", [(2, 2)])])
def test_what_does_not_bind_is_refused(wants, shapes):
    with pytest.raises(ValueError):
        bind(wants, ["x", "y"][: len(shapes)], shapes)
