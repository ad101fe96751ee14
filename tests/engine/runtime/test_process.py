"""A worker in its own process: it answers, it can be halted, and when it dies nobody waits for it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from afterwatt.engine.runtime.compute import Compute
from afterwatt.engine.runtime.drive import drive
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.process import WorkerLostError, WorkerProcess, WorkerSetup
from afterwatt.engine.runtime.request import Request
from afterwatt.policies.config import PolicySet
from tests.engine.arithmetic import ArithmeticFactory, expected_output

SETUP = WorkerSetup(PolicySet(block_tokens=4), flush_ns=0)


def requests(count: int, output: int = 6, every_ns: int = 1_000_000) -> list[Request]:
    return [Request(n, np.arange(n, n + 5), output, n * every_ns) for n in range(count)]


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    made = WorkerProcess(ArithmeticFactory(64, 4, step_s=0.002), SETUP)
    yield made
    made.stop()


def test_what_goes_in_comes_out(worker: WorkerProcess):
    """The same over and over: nothing of one run is left in the next."""
    for _ in range(2):
        recording = drive(worker, requests(12))
        assert recording.lost is None
        assert len(recording.served) == 12
        for request_id, served in recording.served.items():
            assert served.finished
            assert served.output_ids == expected_output(range(request_id, request_id + 5), 6)
            arrival = recording.start_ns + request_id * 1_000_000
            assert served.request.arrival_ns == arrival <= served.sent_ns <= served.scheduled_ns
            assert served.token_ns == sorted(served.token_ns)
        assert recording.steps[0].arrivals[0] == 0
        assert len(recording.decisions) == len(recording.steps)


def test_a_horizon_ends_a_run_and_the_next_one_starts_clean(worker: WorkerProcess):
    cut = drive(worker, requests(3, output=100_000 // 64), horizon_s=0.1)
    assert not any(served.finished for served in cut.served.values())
    assert drive(worker, requests(2)).served[1].finished


def test_a_request_that_can_never_fit_is_refused_and_others_go_on(worker: WorkerProcess):
    large = Request(0, np.arange(300), 9, 0)
    recording = drive(worker, [large, *(Request(n, np.arange(4), 3, 0) for n in (1, 2))])
    assert recording.served[0].refused == "never_fits"
    assert recording.served[1].finished
    assert recording.served[2].finished


def test_a_killed_worker_loses_its_requests_and_says_so(worker: WorkerProcess):
    killer = threading.Timer(0.15, os.kill, (worker.pid, signal.SIGKILL))
    killer.start()
    begun = time.monotonic()
    recording = drive(worker, [Request(0, np.arange(5), 2, 0), Request(1, np.arange(5), 200, 0)])
    assert time.monotonic() - begun < 30.0  # noticed, not waited for
    assert "killed by SIGKILL" in recording.lost
    assert recording.served[0].finished
    assert not recording.served[0].lost
    assert recording.served[1].lost
    with pytest.raises(WorkerLostError):
        drive(worker, requests(1))


def test_an_interrupt_leaves_a_whole_recording(worker: WorkerProcess):
    """The terminal's Ctrl-C reaches the worker too, which leaves it to its owner."""
    os.kill(worker.pid, signal.SIGINT)
    interrupter = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
    interrupter.start()
    recording = drive(worker, [Request(0, np.arange(5), 2, 0), Request(1, np.arange(5), 200, 0)])
    assert recording.interrupted
    assert recording.served[0].finished
    assert 0 < len(recording.served[1].output_ids) < 200
    assert recording.lost is None


@dataclass(frozen=True)
class Refusing:
    sentence: str

    def __call__(self) -> Compute:
        raise EngineError(self.sentence)


@dataclass(frozen=True)
class Dying:
    def __call__(self) -> Compute:
        os._exit(7)


def test_a_model_that_cannot_be_made_says_why():
    with pytest.raises(EngineError, match="no such shard"):
        WorkerProcess(Refusing("no such shard"), SETUP)


def test_a_process_that_ends_before_it_is_ready_is_noticed():
    with pytest.raises(WorkerLostError, match="ended with code 7"):
        WorkerProcess(Dying(), SETUP)


def test_a_stopped_worker_with_work_is_waited_for_no_longer_than_said():
    """What hangs in a driver looks like this: there, and silent for ever."""
    worker = WorkerProcess(ArithmeticFactory(64, 4, step_s=0.002), SETUP, silent_s=0.4)
    try:
        assert drive(worker, requests(2)).served[1].finished
        time.sleep(0.6)  # silence with nothing to do is none
        stopper = threading.Timer(0.1, os.kill, (worker.pid, signal.SIGSTOP))
        stopper.start()
        begun = time.monotonic()
        recording = drive(worker, [Request(0, np.arange(5), 200, 0)])
        assert 0.3 < time.monotonic() - begun < 20.0
        assert "said nothing for 0.4 s" in recording.lost
        assert recording.served[0].lost
    finally:
        worker.stop()


def test_a_stopped_worker_does_not_keep_timing_waiting():
    worker = WorkerProcess(ArithmeticFactory(64, 4), SETUP, silent_s=0.3)
    try:
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(WorkerLostError, match="said nothing"):
            worker.halt()
    finally:
        worker.stop()


@dataclass(frozen=True, slots=True)
class FullFactory:
    """A model that its device has no room for."""

    def __call__(self) -> Compute:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_model_that_does_not_fit_says_why():
    with pytest.raises(EngineError, match=r"RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"):
        WorkerProcess(FullFactory(), SETUP)
