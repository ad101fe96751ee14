"""What goes on beside another computation changes nothing, and does not outlive it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from afterwatt.hwprofiles.stacks import Spread
from afterwatt.sim import beside, run
from afterwatt.sim.beside import both
from afterwatt.sim.workload import TraceWorkload
from tests.helpers import make_config, poisson

SPREAD = {"prefill": Spread(0.7, 1.6), "decode": Spread(0.8, 1.3), "energy": Spread(0.9, 1.2)}
forks = pytest.mark.skipif(sys.platform != "linux", reason="a process is copied on Linux only")


@pytest.fixture(params=[1, 2])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(beside, "cores", lambda: request.param)
    return request.param


def test_both_answers_come_in_order(cores: int):
    assert both(lambda number: number * 10, 1, 2) == (10, 20)


@forks
def test_the_second_is_made_elsewhere_where_a_core_is_free(cores: int):
    here, there = both(lambda _: os.getpid(), 0, 1)
    assert here == os.getpid()
    assert (there == here) == (cores == 1)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_call_that_fails_fails_here(cores: int, failing: int):
    def call(number: int) -> int:
        if number == failing:
            raise ValueError(f"number {number}")
        return number

    with pytest.raises(ValueError, match=f"number {failing}"):
        both(call, 1, 2)


PROGRAM = """
import os, time
from afterwatt.sim import beside
beside.cores = lambda: 2

def call(number):
    os.write(1, b"%d\\n" % os.getpid())  # in one piece: two processes share the pipe
    time.sleep(60)

beside.both(call, 1, 2)
"""


@forks
@pytest.mark.parametrize("deadly", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_process_that_is_stopped(deadly: signal.Signals):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(2)}
        assert len(pids) == 2
        process.send_signal(deadly)
        assert process.wait(10) != 0
    (copy,) = pids - {process.pid}
    for _ in range(100):
        with suppress(ProcessLookupError):
            os.kill(copy, 0)
            if "State:\tZ" not in Path(f"/proc/{copy}/status").read_text():
                time.sleep(0.1)
                continue
        return
    raise AssertionError(f"process {copy} lives on")


def test_bounds_found_on_two_cores_are_those_found_on_one(cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "LEAST_S", 0.0)
    config = make_config(TraceWorkload(poisson(40, 0.2, 200, 30)), bounds=True)
    config = replace(config, stack=replace(config.stack, spread=SPREAD))
    alone, together = (run.simulate(config, tmp_path / str(spare), spare_core=spare) for spare in (False, True))
    assert together.summary.prediction.range_90 is not None
    assert together.summary == alone.summary
