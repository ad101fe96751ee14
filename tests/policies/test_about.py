"""What policies may see of a request beside its lengths: class, arrival, promise and phase, in both bodies."""

from dataclasses import replace

import numpy as np
import pytest

from afterwatt.engine.runtime.process import NS_PER_S
from afterwatt.engine.runtime.request import Job, Request
from afterwatt.policies.batching import BATCHING, ChunkedPrefill
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.plans import StepOutcome
from afterwatt.policies.routing import ROUTING
from afterwatt.policies.scheduler import Scheduler
from afterwatt.policies.sequence import Sequence
from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.policies.slo import Slo
from afterwatt.policies.views import BatchDecision, RequestView
from tests.helpers import PS_PER_S, Requests, run_body

SLO = Slo(ttft_s=0.5)
CONFIG = SchedulerConfig(kv_blocks=100, block_tokens=4, max_seqs=8, token_budget=64, max_context_tokens=1000)
SEEN: list[RequestView] = []


class Classed(Requests):
    """Requests that are interactive and batch in turn."""

    def _batch(self):
        labels = [("interactive", "batch")[number % 2] for number in range(len(self))]
        return replace(super()._batch(), klass=labels)


class ByClass:
    """Interactive requests of a run with a promise to the first replica, others to the second."""

    looks = False

    def route(self, request, replicas):
        SEEN.append(request)
        return int(request.klass != "interactive" or request.slo.ttft_s is None)


class InteractiveFirst(ChunkedPrefill):
    """Takes interactive requests before others, and only those while there are any."""

    def select(self, view):
        waiting = list(view.queue)
        told = [view.about(candidate.seq_id) for candidate in waiting]
        told += [view.about(begun.seq_id) for begun in view.prefilling]
        SEEN.extend(told)
        urgent = {one.request_id for one in told if one.klass == "interactive"}
        chosen = [candidate for candidate in waiting if not urgent or candidate.seq_id in urgent]
        decision = super().select(replace(view, queue=iter(chosen)))
        return BatchDecision(decision.decode, decision.chunks)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROUTING, "by-class", ByClass)
    monkeypatch.setitem(BATCHING, "interactive-first", InteractiveFirst)
    SEEN.clear()


def four() -> Classed:
    return Classed([0, 1, 2 * PS_PER_S, 2 * PS_PER_S], [40, 30, 20, 10], [5, 5, 5, 5])


def test_a_router_decides_by_class_and_promise():
    outcome = run_body(four(), "2xm40", "by-class", slo=SLO)
    assert [ticket.replica for ticket in outcome.tickets] == [0, 1, 0, 1]
    assert SEEN[3] == RequestView(3, 10, 5, "batch", 2.0, SLO, "prefill")
    assert [ticket.replica for ticket in run_body(four(), "2xm40", "by-class").tickets] == [1, 1, 1, 1]


def test_where_a_trace_names_no_classes_they_are_unknown():
    run_body(Requests([0], [40], [5]), "2xm40", "by-class")
    assert [RequestView(0, 40, 5, None, 0.0)] == SEEN


def test_a_batching_policy_admits_by_class():
    together = Classed([0] * 4, [40, 30, 20, 10], [5, 5, 5, 5])
    outcome = run_body(together, policy="interactive-first", slo=SLO)
    first, second, third, fourth = (ticket.scheduled_ps for ticket in outcome.tickets)
    assert first == third < second == fourth
    assert SEEN[0] == RequestView(0, 40, 5, "interactive", 0.0, SLO, "prefill")


def test_the_engine_tells_the_same_of_a_request():
    request = Request(3, np.arange(10), 5, 2 * NS_PER_S, klass="batch")
    assert Job(request).view(SLO) == RequestView(3, 10, 5, "batch", 2.0, SLO, "prefill")
    assert Job(Request(0, np.arange(3), 5, NS_PER_S)).view(SLO).klass is None


def test_a_request_goes_on_to_its_output_and_back_when_its_memory_is_lost():
    scheduler: Scheduler[Sequence] = Scheduler(replace(CONFIG, kv_blocks=8), ChunkedPrefill())
    old, young = Sequence(0, 12, 12), Sequence(1, 12, 12)
    for seq in (old, young):
        scheduler.add(seq)
    assert young.phase() == "prefill"
    scheduler.apply(scheduler.plan(0.0), StepOutcome(1))
    assert young.phase() == "decode"
    while not scheduler.preempted:
        scheduler.apply(scheduler.plan(0.0), StepOutcome(1))
    assert (old.phase(), young.phase()) == ("decode", "prefill")


def test_more_is_told_of_whom_a_view_shows_only():
    class Curious(ChunkedPrefill):
        def select(self, view):
            view.about(7)
            return super().select(view)

    scheduler: Scheduler[Sequence] = Scheduler(CONFIG, Curious())
    scheduler.add(Sequence(0, 10, 5))
    with pytest.raises(PolicyError, match="Curious asks about sequence 7, which its view did not show"):
        scheduler.plan(0.0)
