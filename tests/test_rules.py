"""The laws of derivative rules, over every op and every argument in the registry."""

import laws
import numpy as np
import pytest
import tally
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAYOUTS, calls, laid_out

from engine.traced import OPS

ALL = sorted(OPS.values(), key=lambda op: op.name)
WITH_RULES = [op for op in ALL if laws.has_rules(op)]
BY_NAME = {"ids": lambda op: op.name}


def each_place(law, op, data):
    args, params = data.draw(calls(op))
    for place in laws.differentiable(op, args):
        law(op, place, args, params)
        tally.ran("definition", law.__name__)


def each_call(law, op, data, *more):
    args, params = data.draw(calls(op))
    law(op, args, params, *more)
    tally.ran("definition", law.__name__)


@pytest.mark.parametrize("op", WITH_RULES, **BY_NAME)
@given(data=st.data())
def test_pull_is_the_transpose_of_push(op, data):
    each_place(laws.transposition, op, data)


@pytest.mark.parametrize("op", [op for op in WITH_RULES if op.surrogate is None], **BY_NAME)
@given(data=st.data())
def test_push_is_the_limit_of_differences(op, data):
    each_place(laws.differences, op, data)


@pytest.mark.parametrize("op", WITH_RULES, **BY_NAME)
@given(data=st.data())
def test_rules_are_ops(op, data):
    each_place(laws.second_order, op, data)


@pytest.mark.parametrize("op", [op for op in WITH_RULES if op.surrogate is None], **BY_NAME)
@given(data=st.data())
def test_special_points_and_ties(op, data):
    try:
        each_place(laws.special_points, op, data)
    except np.linalg.LinAlgError:
        tally.not_run(f"special points of {op.name}: a singular matrix")


@pytest.mark.parametrize("op", ALL, **BY_NAME)
@given(data=st.data())
def test_the_output_has_the_promised_shape(op, data):
    each_call(laws.promised_shape, op, data)


@pytest.mark.parametrize("op", ALL, **BY_NAME)
@given(data=st.data())
def test_inputs_are_left_alone(op, data):
    each_call(laws.inputs_unchanged, op, data)


@pytest.mark.parametrize("op", WITH_RULES, **BY_NAME)
@given(data=st.data())
def test_gradients_have_buffers_of_their_own(op, data):
    each_call(laws.gradients_apart, op, data)


@pytest.mark.parametrize("op", WITH_RULES, **BY_NAME)
@given(data=st.data())
def test_single_precision_stays_single(op, data):
    each_call(laws.single_precision, op, data)


@pytest.mark.parametrize("op", ALL, **BY_NAME)
@given(data=st.data(), layout=st.sampled_from(LAYOUTS))
def test_strides_do_not_matter(op, data, layout):
    each_call(laws.any_layout, op, data, layout, laid_out)


def test_every_argument_has_both_modes_or_none():
    for op in WITH_RULES:
        for arg in op.args:
            if arg not in op.constant:
                forward, backward = arg in op.jvps or arg in op.linear, arg in op.vjps
                assert forward and backward, f"{op.name}: {arg} has jvp {forward}, vjp {backward}"


def test_the_registry_is_what_was_tested():
    assert len(WITH_RULES) >= 20
    for op in set(ALL) - set(WITH_RULES):
        tally.not_run(f"laws of rules over {op.name}: it has none, by design")
