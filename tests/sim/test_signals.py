"""Ctrl-C comes between two events, and nothing that it finds under way is cut in two."""

import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import simpy

from afterwatt.compiled import IN_USE
from afterwatt.hwprofiles.stacks import Spread
from afterwatt.sim import capacity, signals
from afterwatt.sim import run as running
from afterwatt.sim.body import Body
from afterwatt.sim.clock import VirtualEnvironment
from afterwatt.sim.signals import SignalsBetweenEvents
from afterwatt.sim.workload import TraceWorkload
from tests.cli.running import left_in, script
from tests.helpers import make_config, poisson


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Python's own handler, as at a terminal: in a background shell Ctrl-C is ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    """Send a signal that Python sees before the next statement."""
    signal.raise_signal(number)


def counting(env: VirtualEnvironment, seen: list[int], at: int, events: int = 5) -> Generator[simpy.Event, None, None]:
    """Count events, with Ctrl-C in the middle of one."""
    for number in range(events):
        yield env.timeout(1)
        seen.append(number)
        if number == at:
            interrupt()
            seen.append(-1)


@pytest.mark.parametrize("at", [0, 2, 4], ids=["first", "amid", "last"])
def test_the_event_under_way_ends_and_no_other_begins(at: int):
    env, seen = VirtualEnvironment(), []
    env.process(counting(env, seen, at))
    with pytest.raises(KeyboardInterrupt), SignalsBetweenEvents(env):
        env.run()
    assert seen == [*range(at + 1), -1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_time_is_not_skipped_past_it():
    env, skipped = VirtualEnvironment(), []

    def process() -> Generator[simpy.Event, None, None]:
        skipped.append(env.skip(10))
        interrupt()
        skipped.append(env.skip(10))
        yield env.timeout(1)

    env.process(process())
    with pytest.raises(KeyboardInterrupt), SignalsBetweenEvents(env):
        env.run()
    assert skipped == [True, False]


def test_one_that_comes_while_time_is_skipped_is_not_lost():
    env = VirtualEnvironment()

    class Brought:
        """What was brought forward; asked whether it was, it is interrupted."""

        @property
        def callbacks(self) -> None:
            if not asked:
                asked.append(True)
                interrupt()

    def process() -> Generator[simpy.Event, None, None]:
        env._queue.insert(0, (env.now, 1 << 60, 0, Brought()))
        assert not env.skip(10)
        yield env.timeout(1)

    asked: list[bool] = []
    env.process(process())
    with pytest.raises(KeyboardInterrupt), SignalsBetweenEvents(env):
        env.run()
    assert asked


def test_a_handler_that_returns_lets_the_run_go_on():
    env, seen, called = VirtualEnvironment(), [], []
    signal.signal(signal.SIGTERM, lambda number, _: called.append(number))

    def process() -> Generator[simpy.Event, None, None]:
        interrupt(signal.SIGTERM)
        seen.append(list(called))
        yield env.timeout(1)
        seen.append(list(called))

    env.process(process())
    with SignalsBetweenEvents(env):
        env.run()
    assert seen == [[], [signal.SIGTERM]]


def test_what_python_does_not_handle_is_left_alone():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with SignalsBetweenEvents(VirtualEnvironment()):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_defers_nothing():
    found: list[object] = []

    def run() -> None:
        with SignalsBetweenEvents(VirtualEnvironment()):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def test_a_run_within_a_run_ends_at_once():
    outer, inner = VirtualEnvironment(), VirtualEnvironment()
    seen: list[int] = []
    inner.process(counting(inner, seen, 1))

    def process() -> Generator[simpy.Event, None, None]:
        with SignalsBetweenEvents(inner):
            inner.run()
        yield outer.timeout(1)

    outer.process(process())
    with pytest.raises(KeyboardInterrupt), SignalsBetweenEvents(outer):
        outer.run()
    assert seen == [0, 1, -1]


def test_what_has_no_end_is_ended_by_the_second_one(monkeypatch: pytest.MonkeyPatch):
    env, seen = VirtualEnvironment(), []
    env.process(counting(env, seen, 0))

    def process() -> Generator[simpy.Event, None, None]:
        interrupt()
        interrupt()  # soon after: patience
        seen.append(-2)
        monkeypatch.setattr(signals, "PATIENCE_S", -1.0)
        interrupt()
        seen.append(-3)
        yield env.timeout(1)

    env.process(process())
    with pytest.raises(KeyboardInterrupt), SignalsBetweenEvents(env):
        env.run()
    assert seen == [-2]


@pytest.mark.slow
@pytest.mark.skipif(not IN_USE.places, reason=IN_USE.why)
def test_ctrl_c_at_any_moment_leaves_nothing(tmp_path: Path):
    """mypyc aborts the process where an exception comes amid a product; once in some 20 tries, were none deferred."""
    moments = random.Random(1)
    words = ["--hw", "2xa100-80", "--trace", "synth:chat?n=4000000&rate=8", "--no-report"]
    for _ in range(60):
        process = subprocess.Popen(
            [*script("simulate"), *words],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not list(tmp_path.glob("runs/**/.*partial*/requests.parquet")):
            time.sleep(0.02)
        time.sleep(0.3 * moments.random())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert left_in(tmp_path) == []


@pytest.mark.parametrize("where", ["capacity", "bounds", "bounds beside"])
def test_ctrl_c_in_a_further_run_leaves_nothing(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs behind a figure are interrupted as the run itself is; a copy of the process ends with it."""
    made: list[Body] = []

    def interrupted(*parts):
        body = Body(*parts)
        made.append(body)
        if where == "capacity" or len(made) == 2:  # the first is the run itself
            body._env.process(counting(body._env, [], 0))
        return body

    monkeypatch.setattr(capacity if where == "capacity" else running, "Body", interrupted)
    monkeypatch.setattr(running, "LEAST_S", 0.0)
    config = make_config(TraceWorkload(poisson(40, 1.0, 100, 20)), bounds=True)
    stack = replace(config.stack, spread={name: Spread(0.9, 1.1) for name in ("prefill", "decode", "energy")})
    config = replace(config, stack=stack)
    with pytest.raises(KeyboardInterrupt):
        running.simulate(config, tmp_path / "run", spare_core=where == "bounds beside")
    assert len(made) == (1 if where == "capacity" else 2)
    assert left_in(tmp_path) == []
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
