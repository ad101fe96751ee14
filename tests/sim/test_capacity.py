"""Capacity is what saturation shows: checked where it can be worked out, and by loading a replica up to it."""

from dataclasses import replace

import numpy as np
import pytest

from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.hwprofiles.stacks import Spread
from afterwatt.sim import run
from afterwatt.sim.capacity import TARGET_FRAC, Load, load_of, measure_capacity, throughput
from afterwatt.sim.run import memory_of, simulate
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.workload import StaticBatch, TraceWorkload
from tests.helpers import PS_PER_S, Requests, between, make_config, poisson, run_body


def capacity_of(requests: Requests, hw: str = "m40", policy: str = "chunked", kv_blocks: int | None = None, **options):
    config = make_config(TraceWorkload(requests), hw, policy, **options)
    memory = memory_of(config)
    if kv_blocks is not None:
        memory = replace(memory, kv_blocks=kv_blocks)
    return measure_capacity(config, memory, config.workload)


@pytest.mark.parametrize("policy", ["chunked+seqs=1", "prefill-first+seqs=1", "decode-first+seqs=1"])
def test_one_at_a_time_it_is_one_over_the_service_time(policy):
    config = make_config(StaticBatch(1, 1, 1))
    times = TimeModel(config.serving)
    service_ps = times.step(0, 0, ((None, 200, 0),), 1, 1)[0]
    service_ps += sum(times.step(1, 200 + k, (), 1, 1)[0] for k in range(1, 30))
    capacity = capacity_of(poisson(100, 1.0, 200, 30), policy=policy)
    assert capacity == pytest.approx(PS_PER_S / service_ps, rel=1e-6)


def test_one_at_a_time_a_mix_gets_the_mean_service_time():
    """Within what weighing by tokens costs: prompts and outputs of very different lengths."""
    requests = poisson(4000, 1.0, between(1, 600), between(1, 60), 2)
    outcome = run_body(requests, policy="prefill-first+seqs=1", keep_log=False)
    services = [ticket.finish_ps - ticket.scheduled_ps for ticket in outcome.tickets]
    capacity = capacity_of(requests, policy="prefill-first+seqs=1")
    assert capacity == pytest.approx(PS_PER_S / np.mean(services), rel=0.05)


def test_decoding_together_it_is_the_batch_over_its_time():
    """Prompts of one token, equal outputs, 16 seats: sixteen finish per 200 steps."""
    config = make_config(StaticBatch(1, 1, 1))
    times = TimeModel(config.serving)
    steps_ps = sum(times.step(16, 16 * (1 + k), (), 16, 1)[0] for k in range(1, 201))
    capacity = capacity_of(poisson(300, 1.0, 1, 200), policy="prefill-first+seqs=16")
    assert capacity == pytest.approx(16 * PS_PER_S / steps_ps, rel=0.02)


@pytest.mark.parametrize("policy", ["chunked", "prefill-first"])
def test_below_it_the_queue_stays_above_it_the_queue_grows(policy):
    lengths = poisson(1500, 1.0, between(10, 800), between(10, 200), 1)
    capacity = capacity_of(lengths, policy=policy)
    waits = []
    for share in (0.7, 1.3):
        requests = poisson(1500, share * capacity, between(10, 800), between(10, 200), 1)
        outcome = run_body(requests, policy=policy, keep_log=False)
        waits.append([(ticket.scheduled_ps - ticket.arrival_ps) / PS_PER_S for ticket in outcome.tickets])
    assert np.mean(waits[0][-300:]) < 10.0
    assert np.mean(waits[1][-300:]) > 10 * np.mean(waits[0][-300:]) + 20.0


def test_replicas_and_what_does_not_fit_are_left_to_others():
    requests = poisson(300, 1.0, between(10, 300), between(10, 60), 4)
    alone, many = capacity_of(requests), capacity_of(requests, "8xm40")
    assert alone == many  # of one replica
    too_long = poisson(100, 1.0, 5000, 10)
    assert capacity_of(too_long) is None


def test_requests_that_are_refused_do_not_weigh_on_those_that_are_served():
    """Half of them are beyond the context, or beyond all KV blocks there are: capacity is in accepted requests."""
    short = poisson(300, 1.0, 100, 40)
    mixed_context = Requests(short.arrival_ps, [100, 5000] * 150, [40] * 300)
    mixed_blocks = Requests(short.arrival_ps, [100, 3000] * 150, [40] * 300)
    expected = capacity_of(short, kv_blocks=100)
    assert capacity_of(mixed_context, kv_blocks=100) == pytest.approx(expected, rel=0.02)
    assert capacity_of(mixed_blocks, kv_blocks=100) == pytest.approx(expected, rel=0.02)


def test_the_offered_load_is_a_share_of_capacity():
    config = make_config(StaticBatch(1, 1, 1), "4xm40:tp2")
    load = load_of(config, 2.0, 101, 50.0, open_loop=True)
    assert load == Load(0.5, 4.0, 4)  # 2/s offered to 2 replicas of 2/s each; at 85 % two replicas are needed
    assert load_of(config, 2.0, 101, 100.0 / (2.0 * TARGET_FRAC), open_loop=True).devices_needed == 2
    assert load_of(config, 2.0, 101, 50.0, open_loop=False) == Load(None, 4.0, None)
    assert load_of(config, None, 101, 50.0, open_loop=True) == Load(None, None, None)


def test_on_as_many_devices_as_the_report_asks_for_the_load_is_carried(tmp_path):
    requests = poisson(800, 3.0, between(10, 800), between(10, 200), 6)
    overloaded = simulate(make_config(TraceWorkload(requests), "m40"), tmp_path / "one")
    load = overloaded.summary.load
    assert load.offered_frac > 1.0
    devices = load.devices_needed
    assert devices > 1
    enough = simulate(make_config(TraceWorkload(requests), f"{devices}xm40"), tmp_path / "enough")
    assert enough.summary.load.offered_frac <= TARGET_FRAC * 1.001
    assert enough.summary.ttft_s.p90 < 10.0 < overloaded.summary.ttft_s.p90


@pytest.mark.parametrize(("requests", "measured"), [(1, False), (2, True)])
def test_it_is_not_measured_for_one_request(tmp_path, requests, measured):
    """Which offers no rate to hold against it."""
    load = simulate(make_config(TraceWorkload(poisson(requests, 0.1, 20, 3))), tmp_path / "run").summary.load
    assert (load.capacity_requests_per_s is not None) == measured
    assert (load.offered_frac is not None) == measured


def test_of_a_static_batch_it_is_measured_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(run, "measure_capacity", lambda *given: calls.append(given) or measure_capacity(*given))
    config = make_config(StaticBatch(2, 20, 3), bounds=True)
    spread = {"prefill": Spread(0.7, 1.6), "decode": Spread(0.8, 1.3), "energy": Spread(0.9, 1.2)}
    found = run.simulate(replace(config, stack=replace(config.stack, spread=spread)), tmp_path / "run").summary
    assert found.load.capacity_requests_per_s is not None
    assert found.prediction.range_90.ttft_s["mean"] is not None
    assert len(calls) == 1


def test_a_sample_that_fits_at_once_finishes_with_its_last():
    """Nobody waits: the rate is of all of them up to the last finish."""
    done = []
    for number, finish_s in enumerate((4.0, 5.0, 8.0, 10.0)):
        ticket = Ticket(number, 10, 5, (), 0)
        ticket.finish_ps, ticket.scheduled_ps = round(finish_s * 1e12), 0
        done.append(ticket)
    assert throughput(done, 1.0, np.array([1.0, 1.0])) == pytest.approx(0.4)
    assert throughput([], 1.0, np.array([1.0, 1.0])) is None
