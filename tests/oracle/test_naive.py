"""The body against an engine that keeps every token by itself: the same picosecond for every request."""

from hypothesis import HealthCheck, given, settings

from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.sim.ticket import Ticket
from tests.helpers import Outcome, between, poisson, run_body
from tests.oracle.naive import Job, NaiveEngine
from tests.strategies import worlds


def assert_as_naive(outcome: Outcome) -> NaiveEngine:
    config = outcome.config
    times = TimeModel(config.serving)
    watermark = outcome.body.workers[0].scheduler.config.watermark_blocks
    engine = NaiveEngine(config.policies, times, outcome.memory.kv_blocks, watermark)
    accepted = [ticket for ticket in outcome.tickets if ticket.refused is None]
    jobs = [Job(t.seq_id, t.arrival_ps, t.prompt_tokens, t.output_tokens) for t in accepted]
    engine.run(jobs)
    assert [history(job) for job in jobs] == [history(ticket) for ticket in accepted]
    assert engine.iterations == len(outcome.log)
    return engine


def history(one: Job | Ticket) -> tuple[int | None, ...]:
    return one.arrival_ps, one.scheduled_ps, one.first_ps, one.finish_ps, one.preemptions


@given(worlds(["m40", "a100-80", "2xm40:tp2"], preemption="recompute"))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_small_worlds(world):
    assert_as_naive(world.run())


def test_a_busy_hour_of_an_m40():
    requests = poisson(300, 0.3, between(1, 1500), between(1, 300), seed=4)
    for policy in ("chunked", "chunked+budget=300+seqs=20", "prefill-first", "decode-first"):
        assert_as_naive(run_body(requests, "m40", policy, kv_blocks=400))
