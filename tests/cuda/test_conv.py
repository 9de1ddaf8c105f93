"""Every rung of the convolutions on CUDA equals its definition, on the emulator with all checks on; mutants of them do not."""

from importlib.util import find_spec

import numpy as np
import pytest
import tally
from convolutions import calls
from hypothesis import given, settings
from hypothesis import strategies as st
from laws_of_rungs import agrees, has_the_signature_of_its_op, leaves_alone, one_serves, same_bits
from products import checked

from kernels.registry import ladder

pytestmark = pytest.mark.numba_cuda
OPS = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad", "conv2d_int8")
RUNGS = [rung for op in OPS for rung in ladder(op, "cuda")] if find_spec("numba_cuda") else []


def named(rung):
    return f"{rung.op}-{rung.step}"


@pytest.mark.parametrize("rung", RUNGS, ids=named)
@given(data=st.data())
def test_a_rung_agrees_with_the_definition(rung, data):
    args, params, dtype = data.draw(calls(rung.op, rung.rtol))
    with checked():
        agrees(rung, dtype, args, params)
    tally.ran("cuda", "a rung agrees")
