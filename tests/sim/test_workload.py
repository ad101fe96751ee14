"""What arrives when: traces, users and batches submit what they say, with ids in order of submission."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.sim.clock import VirtualEnvironment
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.workload import ClosedLoop, Saturation, StaticBatch, TraceWorkload, Workload
from afterwatt.traces.schema import Batch
from tests.helpers import PS_PER_S, Requests, between, poisson, run_body

TRACE = poisson(50, 2.0, between(1, 100), between(1, 50), 3)


def submitted(workload: Workload) -> list[Ticket]:
    """Submit into the void: whatever arrives is done at once."""
    env = VirtualEnvironment()
    seen: list[Ticket] = []

    def submit(ticket: Ticket) -> None:
        assert ticket.arrival_ps == env.now
        seen.append(ticket)
        workload.finished(ticket)

    workload.start(env, submit)
    env.run()
    assert [ticket.seq_id for ticket in seen] == list(range(len(seen)))
    return seen


def all_of(ticket: Ticket) -> dict[str, object]:
    """Return everything that a ticket holds, by name."""
    held = {name: getattr(ticket, name) for name in dir(ticket) if not name.startswith("_")}
    return {name: value for name, value in held.items() if not callable(value)}


def test_a_trace_arrives_when_it_says():
    seen = submitted(TraceWorkload(TRACE))
    assert [ticket.arrival_ps for ticket in seen] == TRACE.arrival_ps
    assert [(ticket.prompt_tokens, ticket.output_tokens) for ticket in seen] == list(
        zip(TRACE.prompts, TRACE.outputs, strict=True)
    )


@pytest.mark.parametrize("limit", [1, 7, 50, 99])
def test_a_limit_takes_the_first_so_many(limit):
    assert len(submitted(TraceWorkload(TRACE, limit))) == min(limit, 50)


def test_requests_of_one_instant_keep_their_order():
    seen = submitted(TraceWorkload(Requests([5, 5, 5, 9], [1, 2, 3, 4], [1, 1, 1, 1])))
    assert [ticket.prompt_tokens for ticket in seen] == [1, 2, 3, 4]


def test_the_size_of_batches_does_not_matter():
    class InThrees(Requests):
        def batches(self, size: int = 3):
            return super().batches(3)

    threes = submitted(TraceWorkload(InThrees(TRACE.arrival_ps, TRACE.prompts, TRACE.outputs)))
    assert [all_of(ticket) for ticket in threes] == [all_of(ticket) for ticket in submitted(TraceWorkload(TRACE))]


def test_labels_and_prefixes_travel_along():
    class Labelled(Requests):
        def batches(self, size: int = 8192):
            for batch in super().batches(size):
                yield Batch(
                    *(
                        batch.arrival_s,
                        batch.prompt_tokens,
                        batch.output_tokens,
                        ["chat", None],
                        batch.prefixes,
                        ["a", "b"],
                    )
                )

    first, second = submitted(TraceWorkload(Labelled([0, 1], [20, 20], [1, 1], [(1, 2), (1, 3)], 8)))
    assert (first.klass, second.klass, first.session, second.session) == ("chat", None, "a", "b")
    assert (first.prefix, second.prefix) == ((1, 2), (1, 3))


@given(st.integers(1, 6), st.integers(0, 30), st.sampled_from([0.0, 0.5]))
@settings(deadline=None)
def test_users_send_so_many_requests_in_all_and_never_more_at_a_time_than_they_are(users, requests, think_s):
    lengths = TRACE.first(7)
    outcome_requests = max(1, requests)
    outcome = run_body(ClosedLoop(users, lengths, outcome_requests, think_s), kv_blocks=60)
    assert len(outcome.tickets) == outcome_requests
    assert [ticket.prompt_tokens for ticket in outcome.tickets] == [
        lengths.prompts[number % 7] for number in range(outcome_requests)
    ]
    for user in range(users):
        mine = [ticket for ticket in outcome.tickets if ticket.user == user]
        for before, after in pairwise(mine):
            assert after.arrival_ps == before.finish_ps + round(think_s * PS_PER_S)


def test_a_user_whose_request_is_refused_goes_on():
    lengths = Requests([0, 0], [5000, 10], [10, 10])  # the first is beyond the model's context
    outcome = run_body(ClosedLoop(2, lengths, 10), model="llama-2-7b")
    assert outcome.rows["status"].tolist() == ["rejected", "finished"] * 5
    assert set(outcome.rows["reject_reason"]) == {"over_context", None}


def test_users_without_lengths_send_nothing():
    assert submitted(ClosedLoop(3, Requests([], [], []), 10)) == []


def test_a_static_batch_is_there_at_once():
    seen = submitted(StaticBatch(5, 100, 20))
    assert {(t.arrival_ps, t.prompt_tokens, t.output_tokens) for t in seen} == {(0, 100, 20)}
    assert len(seen) == 5


@pytest.mark.parametrize("workload", [TraceWorkload(TRACE), ClosedLoop(3, TRACE, 9), StaticBatch(50, 7, 8)])
def test_a_sample_is_of_the_same_mix_and_the_same_for_the_same_seed(workload):
    one, other = workload.sample(20, 5), workload.sample(20, 5)
    assert one == other
    assert len(one) == 20
    lengths = set(zip(TRACE.prompts, TRACE.outputs, strict=True)) | {(7, 8)}
    assert {(request.prompt_tokens, request.output_tokens) for request in one} <= lengths


def test_a_sample_of_a_trace_is_not_its_beginning():
    """Traces drift; with prefixes it is the beginning, as a random sample would share nothing."""
    seen = [ticket.prompt_tokens for ticket in TraceWorkload(TRACE).sample(20, 5)]
    assert seen != TRACE.prompts[:20]
    shared = Requests(TRACE.arrival_ps, TRACE.prompts, TRACE.outputs, [(1,)] * 50, 8)
    assert [ticket.prompt_tokens for ticket in TraceWorkload(shared).sample(20, 5)] == TRACE.prompts[:20]


def test_saturation_submits_all_at_once_and_keeps_them():
    workload = Saturation(TraceWorkload(TRACE).sample(30, 1), None)
    assert len(submitted(workload)) == len(workload.submitted) == 30


def test_arrivals_are_rounded_to_the_nearest_picosecond():
    requests = Requests([0], [1], [1])
    arrivals = np.array([0.0, 0.1, 1 / 3, 86_400.123456789])
    batch = Batch(arrivals, np.ones(4, np.int64), np.ones(4, np.int64))
    requests.batches = lambda size=8192: iter([batch])
    seen = submitted(TraceWorkload(requests))
    assert [ticket.arrival_ps for ticket in seen] == [round(arrival * PS_PER_S) for arrival in arrivals]
