"""A workload driven through a worker in real time: requests go in when they are due, what comes of them is kept."""

import time
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field, replace
from operator import attrgetter

from afterwatt.engine.runtime.process import WorkerLostError, WorkerProcess
from afterwatt.engine.runtime.request import Report, Request, StepRecord
from afterwatt.policies.log import DecisionEntry

NS_PER_S = 1_000_000_000


@dataclass(slots=True)
class Served:
    """A request and its history; times by `time.monotonic_ns`.

    Attributes:
        request: what was asked for, with the time at which it was due as its arrival.
        sent_ns: when it really was handed over.
        output_ids, token_ns: tokens, and when they were there.
        scheduled_ns, cached_tokens: of its first admission (None: never).
        finished, lost: whether it is done; whether it went down with a worker.
        refused, refused_ns: why it was not taken in, and when that was decided (None: it was taken in).
        preemptions: how often it lost its memory.
    """

    request: Request
    sent_ns: int
    output_ids: list[int] = field(default_factory=list)
    token_ns: list[int] = field(default_factory=list)
    scheduled_ns: int | None = None
    cached_tokens: int = 0
    finished: bool = False
    lost: bool = False
    _: KW_ONLY
    refused: str | None = None
    refused_ns: int | None = None
    preemptions: int = 0


@dataclass(slots=True)
class Recording:
    """Everything a run has left: requests by id, iterations and decisions in order.

    Attributes:
        start_ns: time 0 of the run; end_ns: when it was over.
        served: requests by id.
        steps, decisions: iteration by iteration.
        interrupted: somebody ended it early; lost: why a worker was lost (None: none was).
    """

    start_ns: int
    end_ns: int = 0
    served: dict[int, Served] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)
    decisions: list[DecisionEntry] = field(default_factory=list)
    interrupted: bool = False
    lost: str | None = None

    @property
    def duration_s(self) -> float:
        """From time 0 to the end."""
        return (self.end_ns - self.start_ns) / NS_PER_S

    def add(self, report: Report) -> int:
        """Take in a report; return how many requests it ends."""
        ended = 0
        for refusal in report.refusals:
            served = self.served[refusal.request_id]
            served.refused, served.refused_ns = refusal.reason, refusal.at_ns
            ended += 1
        for admission in report.admissions:
            served = self.served[admission.request_id]
            served.scheduled_ns, served.cached_tokens = admission.at_ns, admission.cached_tokens
        for request_id in report.preempted:
            self.served[request_id].preemptions += 1
        for step in report.steps:
            for request_id, token in step.emitted:
                served = self.served[request_id]
                served.output_ids.append(token)
                served.token_ns.append(step.done_ns)
            for request_id in step.finished:
                self.served[request_id].finished = True
            ended += len(step.finished)
        self.steps += report.steps
        self.decisions += report.decisions
        return ended


def drive(worker: WorkerProcess, requests: Iterable[Request], horizon_s: float | None = None) -> Recording:
    """Send requests when they are due and gather what comes of them, until all are done.

    Ctrl-C ends it early, and so does the loss of the worker: the recording is whole in either case, and says so.

    Args:
        worker: ready and idle.
        requests: `arrival_ns` counts from the start of the run here.
        horizon_s: end then, done or not.
    """
    due = sorted(requests, key=attrgetter("arrival_ns", "request_id"))
    worker.halt()
    recording = Recording(time.monotonic_ns())
    start = recording.start_ns
    coming, in_flight = 0, 0
    end_ns = None if horizon_s is None else start + round(horizon_s * NS_PER_S)
    try:
        while coming < len(due) or in_flight:
            now = time.monotonic_ns()
            if end_ns is not None and now >= end_ns:
                break
            ready = []
            while coming < len(due) and start + due[coming].arrival_ns <= now:
                ready.append(_arrived(due[coming], start))
                coming += 1
            if ready:
                recording.served |= {request.request_id: Served(request, now) for request in ready}
                in_flight += len(ready)
                worker.submit(ready)
            wake = [start + due[coming].arrival_ns] if coming < len(due) else []
            wake += [end_ns] if end_ns is not None else []
            timeout_s = max(0.0, (min(wake) - time.monotonic_ns()) / NS_PER_S) if wake else None
            report = worker.poll(timeout_s, busy=in_flight > 0)
            if report is not None:
                in_flight -= recording.add(report)
    except KeyboardInterrupt:
        recording.interrupted = True
    except WorkerLostError as fault:
        _note_loss(recording, fault)
    if not recording.lost:
        _wind_up(worker, recording)
    recording.end_ns = time.monotonic_ns()
    return recording


def _wind_up(worker: WorkerProcess, recording: Recording) -> None:
    """Take in what the worker has not yet told."""
    try:
        for report in worker.halt():
            recording.add(report)
    except WorkerLostError as fault:
        _note_loss(recording, fault)


def _note_loss(recording: Recording, fault: WorkerLostError) -> None:
    recording.lost = str(fault)
    for served in recording.served.values():
        served.lost = not (served.finished or served.refused)


def _arrived(request: Request, start_ns: int) -> Request:
    """Return a request with its arrival on the machine's clock."""
    return replace(request, arrival_ns=start_ns + request.arrival_ns)
