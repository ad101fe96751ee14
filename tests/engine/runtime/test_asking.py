"""A policy that wants to be asked again at a time: so long the engine sleeps."""

from itertools import count

import numpy as np
import pytest

from afterwatt.engine.runtime.process import WorkerSetup, _work
from afterwatt.engine.runtime.request import Report, Request
from afterwatt.engine.runtime.worker import EngineWorker
from afterwatt.policies.batching import BATCHING
from afterwatt.policies.config import PolicySet
from afterwatt.policies.sizes import SchedulerConfig
from tests.engine.arithmetic import ArithmeticCompute, expected_output
from tests.policies.holding import HoldsUntil

CONFIG = SchedulerConfig(kv_blocks=40, block_tokens=4, max_seqs=4, token_budget=30, max_context_tokens=60)
TICK_NS = 7


class Clock:
    """Advances by itself a little, and by a jump where somebody waits."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += TICK_NS
        return self.now_ns


class Wire:
    """The owner's end of a pipe in the same process: requests at set times, until one that says stop."""

    def __init__(self, clock: Clock, due: list[tuple[int, tuple[str, object]]]) -> None:
        self.clock, self.due = clock, due
        self.sent: list[Report] = []
        self.waits_s: list[float | None] = []

    def poll(self, timeout_s: float | None = 0.0) -> bool:
        coming_ns = self.due[0][0]
        if timeout_s != 0.0:
            self.waits_s.append(timeout_s)
            until_ns = coming_ns if timeout_s is None else self.clock.now_ns + round(timeout_s * 1e9)
            self.clock.now_ns = max(self.clock.now_ns, min(until_ns, coming_ns))
        return coming_ns <= self.clock.now_ns

    def recv(self) -> tuple[str, object]:
        return self.due.pop(0)[1]

    def send(self, message: tuple[str, Report]) -> None:
        self.sent.append(message[1])


def test_an_idle_worker_says_when_to_come_back():
    worker = EngineWorker(ArithmeticCompute(40, 4), CONFIG, HoldsUntil(3e-9), count().__next__)
    worker.take([Request(0, np.arange(5), 2)])
    assert not worker.step()  # at 0
    assert worker.wake_ns == 3
    assert not worker.step()
    assert not worker.step()
    assert worker.step()  # at 3
    assert worker.scheduler.batching.asked_s == [0.0, 1e-9, 2e-9, 3e-9]


@pytest.mark.parametrize("earlier", [False, True])
def test_the_loop_waits_until_then_or_until_somebody_comes(monkeypatch: pytest.MonkeyPatch, earlier: bool):
    policy = HoldsUntil(2.0)
    monkeypatch.setitem(BATCHING, "holding", lambda: policy)
    clock = Clock()
    due = [(0, ("take", [Request(0, np.arange(5), 6)]))]
    if earlier:
        due.append((10**9, ("take", [Request(1, np.arange(7), 3)])))
    due.append((9 * 10**9, ("stop", None)))
    wire = Wire(clock, due)
    _work(wire, ArithmeticCompute(40, 4), WorkerSetup(PolicySet(batching="holding", block_tokens=4), flush_ns=0), clock)
    steps = [step for report in wire.sent for step in report.steps]
    assert 2 * 10**9 <= steps[0].plan_ns < 2 * 10**9 + 10 * TICK_NS
    produced = [token for step in steps for seq_id, token in step.emitted if seq_id == 0]
    assert produced == expected_output(range(5), 6)
    assert len(wire.waits_s) == 2 + earlier  # it sleeps, and does not ask over and over
    assert wire.waits_s[0] == pytest.approx(2.0, abs=1e-6)
    assert wire.waits_s[-1] is None
    if earlier:
        assert 0.9 < wire.waits_s[1] < 1.1


def test_a_process_wakes_by_the_real_clock(monkeypatch: pytest.MonkeyPatch):
    policy = HoldsUntil(0.0)
    worker = EngineWorker(ArithmeticCompute(40, 4), CONFIG, policy, count().__next__)
    assert worker.wake_ns is None
    worker.take([Request(0, np.arange(5), 2)])
    while worker.step():
        pass
    assert worker.wake_ns is None
