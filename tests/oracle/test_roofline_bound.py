"""Nothing is faster than its memory, its arithmetic or its links: over devices, models, precisions and plans."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from afterwatt.hwprofiles import device_names
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.deployment import make_deployment, parse_deployment
from afterwatt.hwprofiles.effort import work
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.mixers import StepShape
from afterwatt.hwprofiles.rates import computed_precision
from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.hwprofiles.step import StepModel
from afterwatt.modelspecs import load_model, model_names
from afterwatt.modelspecs.precision import PRECISIONS
from tests.helpers import PS_PER_S, between, poisson, run_body

SPLITS = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)]


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, list[tuple[None, int, int]], int, int]:
    """(decoding, context tokens, prompt pieces, emits, iterations) such as a scheduler makes."""
    decoding = draw(st.integers(0, 256))
    context = sum(draw(st.lists(st.integers(1, 8000), min_size=decoding, max_size=decoding))) if decoding else 0
    pieces = draw(st.lists(st.tuples(st.none(), st.integers(1, 4000), st.integers(0, 8000)), max_size=4))
    assume(decoding or pieces)
    emits = decoding + draw(st.integers(0, len(pieces)))
    iterations = draw(st.integers(1, 40)) if len(pieces) <= 1 and emits == decoding else 1
    return decoding, context, pieces, emits, iterations


def sums(pieces: list[tuple[None, int, int]], iterations: int) -> tuple[int, int, int, int]:
    tokens = sum(size for _, size, _ in pieces)
    pairs = sum(size * past + size * (size + 1) // 2 for _, size, past in pieces)
    growth = sum(size * size for _, size, _ in pieces) if iterations > 1 else 0
    return tokens, sum(past for _, _, past in pieces), pairs, growth


def serving_of(hw: str, model: str) -> Serving:
    deployment = parse_deployment(hw)
    return Serving(deployment, load_model(model), PRECISIONS["fp16"], load_stack(deployment.pool.device))


@given(
    st.sampled_from(device_names()),
    st.sampled_from(model_names()),
    st.sampled_from(sorted(PRECISIONS)),
    st.sampled_from(SPLITS),
    plans(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_iteration_beats_the_roofline(device_name, model_name, stored, split, plan):
    device, model, precision = load_device(device_name), load_model(model_name), PRECISIONS[stored]
    tp, pp = split
    assume(model.heads % tp == 0 and model.layers >= pp)
    deployment, stack = make_deployment(device, tp * pp, tp, pp), load_stack(device)
    serving = Serving(deployment, model, precision, stack)
    decoding, context, pieces, emits, iterations = plan
    stages = [TimeModel(serving, stage) for stage in range(pp)]
    parts = [stage.step(decoding, context, pieces, emits, iterations) for stage in stages]
    columns = StepShape(*(np.array([float(value)]) for value in (decoding, context, emits, *sums(pieces, iterations))))
    done = work(StepModel(serving), columns)
    peak_bytes = tp * deployment.pool.peak_bytes_per_s
    peak_flops = tp * device.flops_per_s[computed_precision(device, precision, stack.quantised_in)]
    for k in {0, min(held for _, _, held in parts) - 1}:
        time_s = sum(first + slope * k for first, slope, _ in parts) / PS_PER_S
        assert time_s >= (done.hbm_bytes[0] + k * done.hbm_slope_bytes[0]) / peak_bytes
        assert time_s >= (done.flops[0] + k * done.flops_slope[0]) / peak_flops
        assert all(first > 0 and slope >= 0 for first, slope, _ in parts)


@given(st.sampled_from(["m40", "t4", "a100-80", "h100-sxm"]), plans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_stride_takes_what_its_iterations_take_one_by_one(device, plan):
    decoding, context, pieces, emits, iterations = plan
    times = TimeModel(serving_of(device, "llama-3.1-8b"))
    first, slope, held = times.step(decoding, context, pieces, emits, iterations)
    assert 1 <= held <= iterations
    for k in range(held):
        moved = [(None, size, past + k * size) for _, size, past in pieces]
        assert times.step(decoding, context + k * decoding, moved, emits, 1)[0] == first + slope * k


@given(st.sampled_from(["m40", "p40", "a100-80"]), plans(), st.integers(1, 50))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_more_work_never_takes_less_time(device, plan, more):
    decoding, context, pieces, emits, _ = plan
    times = TimeModel(serving_of(device, "mixtral-8x7b"))
    base = times.step(decoding, context, pieces, emits, 1)[0]
    assert times.step(decoding + more, context + more, pieces, emits + more, 1)[0] >= base
    assert times.step(decoding, context + more * bool(decoding), pieces, emits, 1)[0] >= base
    assert times.step(decoding, context, [*pieces, (None, more, 0)], emits, 1)[0] >= base


@pytest.mark.parametrize("hw", ["m40", "2xa100-80:tp2", "2xm40:pp2"])
def test_no_run_moves_more_bytes_than_its_memory_can(hw):
    """Interval by interval, from the time series."""
    outcome = run_body(poisson(100, 2.0, between(1, 1000), between(1, 200)), hw)
    timeline, deployment = outcome.result.timeline, outcome.config.deployment
    busy_s = timeline["prefill_s"] + timeline["decode_s"]
    moved = timeline["hbm_bytes"] / deployment.pool.gpus_per_replica
    assert (moved <= busy_s * deployment.pool.peak_bytes_per_s * (1 + 1e-9)).all()


def test_a_split_that_does_not_divide_is_refused():
    with pytest.raises(HardwareError):
        parse_deployment("3xm40:tp2")
