"""A worker in a process of its own, and the end of the wire that its owner holds.

Messages pass over one pipe: requests in, reports of iterations out. A worker that dies is noticed at once; the owner
knows which requests went with it.
"""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from afterwatt.engine.runtime.compute import Compute, ComputeInfo, StepBatch
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.request import NS_PER_S, Report, Request
from afterwatt.engine.runtime.worker import EngineWorker
from afterwatt.policies.config import PolicySet
from afterwatt.policies.making import CostModel, UnknownCosts
from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.policies.slo import NO_PROMISE, Slo

FLUSH_NS = 50_000_000
"""Reports leave a busy worker this often, and when it has nothing to do; sending one costs it about 0.1 ms."""
STOP_S = 3.0
"""How long a worker that is told to end may take over it before it is killed."""
SILENT_S = 600.0
"""How long a worker with something to do may say nothing before it counts as lost: an old card takes tens of seconds
over one long prompt, a GPU that hangs or a stopped process never answers."""


class WorkerLostError(EngineError):
    """A worker's process has ended without being told to."""


def unknown_costs(info: ComputeInfo) -> CostModel:  # noqa: ARG001 - whatever the model, its hardware is unknown
    """Return the costs of hardware without a profile: whoever asks is refused."""
    return UnknownCosts()


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """How a worker is to work.

    Attributes:
        policies: batching, sizes and preemption; of its `kv_blocks` the model has the last word.
        prefix_unit_tokens: tokens per shared prefix block (None: none are shared).
        flush_ns: how often reports leave it while it is busy.
        costs: makes whom its policy may ask, of what the model says of itself; must be picklable, as all of this.
        slo: what users were promised.
    """

    policies: PolicySet
    prefix_unit_tokens: int | None = None
    flush_ns: int = FLUSH_NS
    costs: Callable[[ComputeInfo], CostModel] = unknown_costs
    slo: Slo = NO_PROMISE


def scheduler_config(setup: WorkerSetup, info: ComputeInfo) -> SchedulerConfig:
    """Return the sizes of a worker: what the policies say, in the memory that the model has."""
    return setup.policies.sizes(
        kv_blocks=info.kv_blocks,
        block_tokens=info.block_tokens,
        max_context_tokens=info.max_context,
        host_blocks=info.host_blocks,
        draft_tokens=info.draft_tokens,
        prefix_unit_tokens=setup.prefix_unit_tokens,
    )


class WorkerProcess:
    """The owner's end of a worker.

    Args:
        factory: makes the model, in the other process; must be picklable.
        setup: how the worker works.
        start_s: how long making the model may take.
        silent_s: how long it may say nothing while it has something to do.

    Attributes:
        info: what the model says of itself.

    Raises:
        EngineError: the model could not be made; the sentence is the model's own.
        WorkerLostError: the process ended, or said nothing, before it was ready.
    """

    def __init__(
        self,
        factory: Callable[[], Compute],
        setup: WorkerSetup,
        start_s: float = 600.0,
        silent_s: float = SILENT_S,
    ) -> None:
        self.silent_s = silent_s
        self._heard_s = time.monotonic()
        context = multiprocessing.get_context("spawn")
        self._wire, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory, setup), daemon=True)
        self._process.start()
        theirs.close()
        kind, value = self._receive(start_s)
        if kind == "failed":
            self.stop()
            raise EngineError(value)
        self.info: ComputeInfo = value

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    def halt(self) -> list[Report]:
        """Make it drop everything once the iteration under way has ended, and start afresh; return its last reports.

        Afterwards the same model has a new scheduler and an empty cache.

        Raises:
            WorkerLostError: it does not answer within `silent_s`.
        """
        self._send("halt", None)
        reports: list[Report] = []
        while True:
            kind, value = self._receive(self.silent_s)
            if kind == "halted":
                return reports
            reports.append(value)

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand over requests that have arrived."""
        self._send("take", list(requests))

    def poll(self, timeout_s: float | None, busy: bool = False) -> Report | None:
        """Wait for the next report; None if none comes in time.

        Args:
            timeout_s: how long to wait; None: until one comes.
            busy: whether it has something to do, so that it should be heard of within `silent_s`.

        Raises:
            WorkerLostError: the process has ended, or was busy and silent for too long.
        """
        now_s = time.monotonic()
        if not busy:
            self._heard_s = now_s
        left_s = self._heard_s + self.silent_s - now_s
        if left_s <= 0.0:
            raise self._given_up(self.silent_s)
        patience_s = left_s if timeout_s is None and busy else timeout_s
        if not wait([self._wire, self._process.sentinel], patience_s):
            return None
        kind, value = self._receive(0.0)
        assert kind == "report"
        report: Report = value
        return report

    def time_steps(self, batches: Sequence[StepBatch], repeats: int) -> list[list[float]]:
        """Run iterations outside of any schedule: seconds of each, batch by batch for each repeat (interleaved).

        Every batch writes to the blocks that it names, so that nothing else may be under way.

        Raises:
            WorkerLostError: it takes longer than `silent_s` over each on average, or ends.
        """
        self._send("time", (list(batches), repeats))
        kind, value = self._receive(self.silent_s * max(1, len(batches) * repeats))
        assert kind == "timed"
        times: list[list[float]] = value
        return times

    def stop(self, timeout_s: float = STOP_S) -> None:
        """End it: after the iteration under way, or by force when that takes too long."""
        with contextlib.suppress(OSError, ValueError):  # it may be gone already
            self._wire.send(("stop", None))
        self._process.join(timeout_s)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._wire.close()

    def _send(self, kind: str, value: object) -> None:
        try:
            self._wire.send((kind, value))
        except OSError:
            raise self._lost() from None

    def _receive(self, timeout_s: float) -> tuple[str, Any]:
        if timeout_s != 0.0 and not wait([self._wire, self._process.sentinel], timeout_s):
            raise self._given_up(timeout_s)
        try:
            message: tuple[str, Any] | None = self._wire.recv() if self._wire.poll() else None
        except (EOFError, OSError):
            message = None
        if message is None:
            raise self._lost()
        self._heard_s = time.monotonic()
        if message[0] == "broke":
            raise WorkerLostError(f"the worker broke: {message[1]}")
        return message

    def _given_up(self, waited_s: float) -> WorkerLostError:
        self._process.kill()
        return WorkerLostError(
            f"the worker (process {self._process.pid}) said nothing for {waited_s:g} s and was ended: it hangs, or "
            "has more to do at a time than that; give it shorter prompts, or a smaller token budget"
        )

    def _lost(self) -> WorkerLostError:
        self._process.join(STOP_S)
        code = self._process.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
        return WorkerLostError(f"the worker (process {self._process.pid}) was {how}; what it was working on is lost")


def _serve(wire: Connection, factory: Callable[[], Compute], setup: WorkerSetup) -> None:
    """The other process: make the model, then work until told to stop or left alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts the whole group; the owner decides what ends
    try:
        compute = factory()
    except Exception as fault:  # whatever it is, its sentence says more than that the process ended
        wire.send(("failed", str(fault) if isinstance(fault, EngineError) else _sentence(fault)))
        return
    wire.send(("ready", compute.info))
    try:
        _work(wire, compute, setup)
    except (EOFError, BrokenPipeError):
        return  # nobody is there any more
    except Exception as fault:
        wire.send(("broke", _sentence(fault)))
        raise
    finally:
        compute.close()


def _sentence(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"


def _work(wire: Connection, compute: Compute, setup: WorkerSetup, clock: Callable[[], int] = time.monotonic_ns) -> None:
    config, costs = scheduler_config(setup, compute.info), setup.costs(compute.info)

    def afresh() -> EngineWorker:
        return EngineWorker(compute, config, setup.policies.make_batching(costs), clock, slo=setup.slo)

    worker = afresh()
    flushed_ns = clock()
    while True:
        while wire.poll():
            kind, value = wire.recv()
            if kind == "take":
                worker.take(value)
            elif kind == "halt":
                if worker.report:
                    wire.send(("report", worker.take_report()))
                wire.send(("halted", None))
                worker = afresh()
            elif kind == "time":
                wire.send(("timed", _timed(compute, *value)))
            else:
                return
        busy = worker.step()
        if (not busy or clock() - flushed_ns > setup.flush_ns) and worker.report:
            wire.send(("report", worker.take_report()))
            flushed_ns = clock()
        if not busy:
            wire.poll(None if worker.wake_ns is None else max(0, worker.wake_ns - clock()) / NS_PER_S)


def _timed(compute: Compute, batches: Sequence[StepBatch], repeats: int) -> list[list[float]]:
    times = []
    for _ in range(repeats):
        row = []
        for batch in batches:
            start = time.perf_counter()
            compute.step(batch)
            row.append(time.perf_counter() - start)
        times.append(row)
    return times
