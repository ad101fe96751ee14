"""A run that another body has recorded, lived through again in virtual time.

The simulator's worker and scheduler run as always; what a world would have answered comes from the record: when an
iteration ended, what had arrived by then, whom a stop token ended. All the rest must come out as it was written down,
entry by entry: who is admitted, how long the prompt pieces are, who is preempted, what the policy was shown, and how
the scheduler stands afterwards.
"""

from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from afterwatt.hwprofiles.roofline import Seen
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.log import DecisionEntry, DecisionLog
from afterwatt.policies.plans import Applied, StepOutcome, StepPlan
from afterwatt.policies.scheduler import Scheduler
from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.policies.views import BatchPolicy
from afterwatt.sim.clock import Alarm, Kind, VirtualEnvironment, priority
from afterwatt.sim.executors import Strides, Uneven
from afterwatt.sim.links import Link, SwapLink
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.worker import Loads, Worker

COMPARED: Final = tuple(name for name in DecisionEntry._fields if name != "time_s")
"""Of a decision: all but when it was taken."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that a body was given; refused_ps: when it was turned away, None if it was taken in."""

    request_id: int
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()
    refused_ps: int | None = None


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One iteration of one worker.

    Attributes:
        begin_ps: the boundary at which it was planned; end_ps: the next one, or when nothing was left to do.
        arrivals: ids of the requests that the scheduler was given at its boundary.
        entry: its decision, as `DecisionEntry`.
        stopped: ids of sequences that a stop token ended.
        free_blocks, outstanding_tokens: of the scheduler once its outcome was applied.
    """

    begin_ps: int
    end_ps: int
    arrivals: tuple[int, ...]
    entry: tuple[Any, ...]
    stopped: tuple[int, ...]
    free_blocks: int
    outstanding_tokens: int


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where a replay and its record part.

    Attributes:
        entry: number of the iteration.
        what: which part of it.
        recorded, replayed: the two values.
    """

    entry: int
    what: str
    recorded: Any
    replayed: Any

    def __str__(self) -> str:
        return f"entry {self.entry}: {self.what} was {self.recorded} and comes out as {self.replayed}"


@dataclass(slots=True)
class Replayed:
    """What came of a replay: entries that agreed, and where it parted from the record (None: nowhere)."""

    entries: int = 0
    mismatch: Mismatch | None = None
    tickets: dict[int, Ticket] = field(default_factory=dict)


class _PartedError(Exception):
    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(str(mismatch))
        self.mismatch = mismatch


class _EndedError(Exception):
    """The record of a run that was cut off is at its end."""


class _Record:
    """The record as the worker's physics, its world, its log and its witness."""

    def __init__(self, scheduler: Scheduler[Ticket], steps: Sequence[RecordedStep], whole: bool) -> None:
        self.scheduler = scheduler
        self._steps = steps
        self._whole = whole
        self._arrived: list[Ticket] = []
        self.begun = self.agreed = 0

    def arrived(self, ticket: Ticket) -> None:
        """Note who is given to the scheduler."""
        self._arrived.append(ticket)

    def part(self, what: str, recorded: object, replayed: object, entry: int | None = None) -> _PartedError:
        """Say where the two differ; by default in the iteration under way."""
        return _PartedError(Mismatch(self.begun - 1 if entry is None else entry, what, recorded, replayed))

    # -- as a time model: one iteration at a time, as long as it took

    def step(
        self, decoding: int, _context: int, chunks: Sequence[Any], _emits: int, _most: int, _seen: Seen = None
    ) -> tuple[int, int, int]:
        """Return how long the next iteration took."""
        number = self.begun
        if number == len(self._steps):
            if not self._whole:
                raise _EndedError
            ran = f"{decoding} decode, {len(chunks)} prompt pieces"
            raise self.part("iteration", "none: the record ends", ran, number)
        self.begun += 1
        recorded = self._steps[number]
        arrived, self._arrived = tuple(ticket.seq_id for ticket in self._arrived), []
        if arrived != recorded.arrivals:
            raise self.part("arrivals", recorded.arrivals, arrived)
        return recorded.end_ps - recorded.begin_ps, 0, 1

    def wake_ps(self, _rest: int) -> int:
        """Return nothing: what a rest has cost is in the iteration's time."""
        return 0

    def hop_ps(self, _tokens: int) -> int:
        """Return nothing: a recorded worker has one stage."""
        return 0

    def tokens(self, plan: StepPlan[Ticket]) -> dict[int, int]:
        """Return how many tokens each sequence that decodes has yielded in the iteration under way."""
        recorded = self._entry().tokens or ()
        decoding = [seq.seq_id for seq, _ in self.scheduler.decoding(plan)]
        if len(recorded) != len(decoding):
            raise self.part("tokens", recorded, f"those of {len(decoding)} sequences")
        return dict(zip(decoding, recorded, strict=True))

    def _entry(self) -> DecisionEntry:
        return DecisionEntry(*self._steps[self.begun - 1].entry)

    # -- as the sink of the decision log

    def entry(self, entry: DecisionEntry) -> None:
        """Hold a decision against the recorded one."""
        recorded = self._entry()
        for name in COMPARED:
            if getattr(entry, name) != getattr(recorded, name):
                raise self.part(name, getattr(recorded, name), getattr(entry, name))

    # -- as the world, and as a witness

    def apply(self, plan: StepPlan[Ticket], outcome: StepOutcome) -> Applied[Ticket]:
        """Tell the scheduler what came of the iteration under way, and hold its state against the recorded one."""
        recorded, scheduler = self._steps[self.begun - 1], self.scheduler
        try:
            applied = scheduler.apply(plan, StepOutcome(outcome.iterations, recorded.stopped, outcome.tokens))
        except PolicyError as fault:
            raise self.part("outcome", recorded.stopped, f"refused: {fault}") from None
        # Who arrives at the boundary is here before the outcome, and was there after it.
        early = sum(ticket.prompt_tokens + ticket.output_tokens for ticket in self._arrived)
        for name, value in (
            ("free_blocks", scheduler.pool.free_blocks),
            ("outstanding_tokens", scheduler.outstanding_tokens - early),
        ):
            if getattr(recorded, name) != value:
                raise self.part(f"{name} afterwards", getattr(recorded, name), value)
        self.agreed += 1
        return applied


def replay_decisions(
    config: SchedulerConfig,
    batching: BatchPolicy,
    requests: Sequence[RecordedRequest],
    steps: Sequence[RecordedStep],
    whole: bool = True,
) -> Replayed:
    """Live through a recorded run of one worker again.

    Args:
        config: the worker's sizes, as recorded.
        batching: the policy, made anew.
        requests: all that it was given, in order of id.
        steps: its iterations, in order.
        whole: whether it ran until nothing was left to do; else nothing is said of what would have come after.

    Returns:
        How many entries agree, and the first thing that does not.
    """
    env = VirtualEnvironment()
    scheduler: Scheduler[Ticket] = Scheduler(config, batching)
    record = _Record(scheduler, steps, whole)
    found = Replayed()
    # Its time is part of the iteration's.
    swap = SwapLink(Link(env, 0, float("inf"), 0.0), 0.0) if config.swap_blocks else None
    log = DecisionLog(record.entry)
    executor = Uneven(record, record.tokens) if config.draft_tokens else Strides(record)
    worker = Worker(env, 0, scheduler, executor, _ignore, Loads(1), swap, log, record.apply)
    env.process(_arrive(env, worker, record, requests, steps, found))
    try:
        env.run()
        if record.begun < len(steps):
            raise record.part("iteration", "one more", "none: nothing is left to do", record.begun)
    except _EndedError:
        pass
    except _PartedError as parted:
        found.mismatch = parted.mismatch
    found.entries = record.agreed
    return found


def _ignore(ticket: Ticket) -> None:
    pass


def _arrive(
    env: VirtualEnvironment,
    worker: Worker,
    record: _Record,
    requests: Sequence[RecordedRequest],
    steps: Sequence[RecordedStep],
    found: Replayed,
) -> Generator[Any, None, None]:
    """Hand over each request at the boundary at which it was taken in or turned away."""
    at = {request_id: step.begin_ps for step in steps for request_id in step.arrivals}
    boundaries = [step.begin_ps for step in steps]
    due: dict[int, list[RecordedRequest]] = defaultdict(list)
    for request in requests:
        when = at.get(request.request_id)
        if request.refused_ps is not None:
            when = next((boundary for boundary in boundaries if boundary >= request.refused_ps), request.refused_ps)
        if when is not None:
            due[when].append(request)
    for when in sorted(due):
        yield Alarm(env, priority(Kind.ARRIVAL, due[when][0].request_id), when - env.now)
        for request in due[when]:
            ticket = Ticket(request.request_id, request.prompt_tokens, request.output_tokens, request.prefix, when)
            found.tickets[ticket.seq_id] = ticket
            refused = worker.scheduler.refusal(ticket)
            if (refused is None) != (request.refused_ps is None):
                recorded = "taken in" if request.refused_ps is None else "refused"
                raise record.part(f"request {ticket.seq_id}", recorded, refused or "taken in", record.begun)
            if refused is None:
                record.arrived(ticket)
                worker.arrive(ticket)
