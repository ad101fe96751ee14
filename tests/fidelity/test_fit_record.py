"""Plans timed again must be what the simulator says, to the picosecond."""

from dataclasses import replace

import numpy as np
import pytest

from afterwatt.fidelity.fit.record import record, with_stack
from afterwatt.hwprofiles.catalogue import load_site
from afterwatt.hwprofiles.deployment import parse_deployment
from afterwatt.hwprofiles.stacks import FREE, load_stack
from afterwatt.modelspecs import load_model, load_precision
from afterwatt.policies.config import parse_policies
from afterwatt.sim.body import Body
from afterwatt.sim.config import RunConfig, Slowness
from afterwatt.sim.run import memory_of
from afterwatt.sim.workload import StaticBatch

RUNS = [
    ("m40", "llama-2-7b", "int4", (1, 512, 128), "chunked"),
    ("p40", "qwen2.5-14b", "int4", (1, 3000, 1), "chunked+budget=512"),
    ("2xa100-80:tp2", "llama-2-70b", "fp16", (8, 512, 128), "prefill-first"),
    ("2xrtx3090:pp2", "llama-3.1-8b", "fp16", (1, 1024, 64), "chunked"),
    ("h100-sxm", "llama-3.1-8b", "fp16", (64, 700, 300), "chunked+seqs=16"),
    ("4xa100-80:pp4", "llama-2-13b", "fp16", (9, 512, 1), "prefill-first+budget=512"),
    ("2xa100-80:tp2", "mixtral-8x7b", "fp16", (40, 512, 128), "prefill-first+seqs=8"),
]


def config_of(hw, model, precision, load, policies):
    deployment = parse_deployment(hw)
    return RunConfig(
        deployment,
        load_model(model),
        load_precision(precision),
        load_stack(deployment.pool.device),
        parse_policies(policies),
        load_site("de"),
        StaticBatch(*load),
    )


def simulated(config):
    parts = []
    Body(config, memory_of(config), config.workload, None, parts.append).run()
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def other_stacks(stack, count=6):
    """Every parameter somewhere else within its bounds, so that what binds changes too."""
    draw = np.random.default_rng(7)
    for _ in range(count):
        values = {}
        for parameter in FREE:
            value = float(getattr(stack, parameter.name)) * float(np.exp(1.5 * draw.standard_normal()))
            values[parameter.name] = min(max(value, parameter.low), parameter.high)
        yield stack.with_values(values)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run[0]}-{run[1]}")
def test_timed_again_equals_simulated_again(run):
    config = config_of(*run)
    recording = record(config)
    assert recording is not None
    for stack in (config.stack, *other_stacks(config.stack)):
        again = recording.columns(stack)
        truth = simulated(with_stack(config, stack))
        for name in ("arrival_s", "first_token_s", "finish_s", "ttft_s", "tpot_s", "e2e_s"):
            np.testing.assert_allclose(
                np.asarray(again[name], dtype=float), truth[name].astype(float), rtol=1e-12, atol=0.0, err_msg=name
            )


def test_runs_by_the_clock_are_refused():
    config = config_of(*RUNS[0])
    assert record(replace(config, deployment=parse_deployment("2xm40"))) is None
    assert record(replace(config, slowness=Slowness(1.1, 1.1))) is None


def test_decoding_that_overlaps_in_a_pipeline_is_refused():
    assert record(config_of("4xa100-80:pp4", "llama-2-13b", "fp16", (8, 512, 16), "chunked")) is None


def test_energy_does_not_follow_from_ends():
    recording = record(config_of(*RUNS[0]))
    assert recording is not None
    assert "energy_j" not in recording.columns(recording.config.stack)


def test_a_front_end_that_was_not_there_when_it_was_recorded_is_added():
    config = config_of(*RUNS[0])
    served = config.stack.with_values({"front_s": 0.04})
    for recorded in (config, with_stack(config, served)):
        kept = record(recorded)
        assert kept is not None
        for stack in (config.stack, served):
            told = simulated(with_stack(config, stack))
            for name in ("first_token_s", "finish_s", "ttft_s", "tpot_s"):
                assert np.array_equal(kept.columns(stack)[name], told[name])
