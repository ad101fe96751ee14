"""What arrives: a trace, a number of users who wait for their answers, or one static batch."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import NamedTuple, Protocol

import numpy as np
import simpy

from afterwatt.sim.clock import PS_PER_S, Alarm, Kind, VirtualEnvironment, priority
from afterwatt.sim.ticket import Ticket
from afterwatt.traces.schema import Batch, Trace

Submit = Callable[[Ticket], None]


class Lengths(NamedTuple):
    """A request of a mix, without its time: what capacity is measured with."""

    prompt_tokens: int
    output_tokens: int
    prefix: Sequence[int] = ()


class Workload(Protocol):
    """A source of requests."""

    @property
    def name(self) -> str:
        """How reports call it."""

    @property
    def prefix_unit_tokens(self) -> int | None:
        """Tokens per prefix block (None: requests name no prefixes)."""

    @property
    def open_loop(self) -> bool:
        """Whether requests arrive whatever becomes of earlier ones, at a rate of their own."""

    def start(self, env: VirtualEnvironment, submit: Submit) -> None:
        """Begin to submit requests; ids count up from 0 in the order of submission."""

    def finished(self, ticket: Ticket) -> None:
        """Take note that a request has finished or was refused."""

    def sample(self, most: int, seed: int) -> list[Lengths]:
        """Return up to so many requests of the same mix."""


def tickets(batch: Batch, first_id: int) -> Iterator[Ticket]:
    """Turn a batch of a trace into tickets."""
    # By way of Python's integers, which do not end at 106 days of picoseconds.
    arrivals = [int(arrival) for arrival in np.rint(batch.arrival_s * PS_PER_S).tolist()]
    prompts, outputs = batch.prompt_tokens.tolist(), batch.output_tokens.tolist()
    count = len(arrivals)
    prefixes = batch.prefixes if batch.prefixes is not None else [()] * count
    classes = batch.klass if batch.klass is not None else [None] * count
    sessions = (
        [None if name is None else str(name) for name in batch.session] if batch.session is not None else [None] * count
    )
    ids = range(first_id, first_id + count)
    return map(Ticket, ids, prompts, outputs, prefixes, arrivals, classes, sessions)


class Arrivals:
    """Submits tickets in turn, each when it arrives: one alarm, which every arrival sets for the next one.

    Args:
        env: the clock.
        upcoming: the tickets, in order of arrival; read one ahead.
        submit: takes them.
    """

    def __init__(self, env: VirtualEnvironment, upcoming: Iterator[Ticket], submit: Submit) -> None:
        self._env = env
        self._upcoming = upcoming
        self._submit = submit
        self._rank = priority(Kind.ARRIVAL, 0)
        self._callbacks = [self._arrive]
        first = next(upcoming, None)
        if first is not None:
            self._next = first
            Alarm(env, self._rank + first.seq_id, first.arrival_ps - env.now).callbacks = self._callbacks

    def _arrive(self, alarm: Alarm) -> None:
        self._submit(self._next)
        following = next(self._upcoming, None)
        if following is not None:
            self._next = following
            alarm.again(self._rank + following.seq_id, following.arrival_ps - self._env._now, self._callbacks)


@dataclass(frozen=True, slots=True)
class TraceWorkload:
    """Open loop: requests arrive when the trace says, whatever becomes of them.

    Attributes:
        trace: where they come from.
        limit: use only the first so many (None: all).
    """

    trace: Trace
    limit: int | None = None

    @property
    def name(self) -> str:
        """The trace's path."""
        return self.trace.info.path

    @property
    def prefix_unit_tokens(self) -> int | None:
        """What the trace says."""
        return self.trace.info.prefix_block_tokens if self.trace.info.has_prefixes else None

    @property
    def open_loop(self) -> bool:
        """Always."""
        return True

    def start(self, env: VirtualEnvironment, submit: Submit) -> None:
        """Begin with the first arrival at 0."""
        Arrivals(env, self._all(), submit)

    def finished(self, ticket: Ticket) -> None:
        """Nobody waits."""

    def _all(self) -> Iterator[Ticket]:
        return islice(chain.from_iterable(self._batches()), self.limit)

    def _batches(self) -> Iterator[Iterator[Ticket]]:
        count = 0
        for batch in self.trace.batches():
            yield tickets(batch, count)
            count += len(batch)

    def sample(self, most: int, seed: int) -> list[Lengths]:
        """Return a random sample; with prefixes the first requests, as a sample of them would share nothing."""
        if self.prefix_unit_tokens is not None:
            first = (ticket for ticket, _ in zip(self._all(), range(most), strict=False))
            return [Lengths(ticket.prompt_tokens, ticket.output_tokens, ticket.prefix) for ticket in first]
        batch = self.trace.head(min(self.limit or 10**6, 65_536))
        pick = np.random.default_rng([seed, 0xCA9]).permutation(len(batch))[:most]
        lengths = zip(batch.prompt_tokens[pick].tolist(), batch.output_tokens[pick].tolist(), repeat(()))
        return list(map(Lengths._make, lengths))


class ClosedLoop:
    """Users who each send a request, wait for its end, think, and send the next one.

    Args:
        users: how many.
        lengths: a trace that lengths come from, in order and over again; its arrival times are not used.
        requests: how many in all.
        think_s: pause between an answer and the next request.
    """

    prefix_unit_tokens = None
    open_loop = False

    def __init__(self, users: int, lengths: Trace, requests: int, think_s: float = 0.0) -> None:
        self.users = users
        self.lengths = lengths
        self.requests = requests
        self.think_s = think_s
        self._waiting: dict[int, simpy.Event] = {}

    @property
    def name(self) -> str:
        """Users, their pause, and lengths."""
        pause = f" who pause {self.think_s:g} s" if self.think_s else ""
        return f"{self.users} users{pause}, lengths of {self.lengths.info.path}"

    def start(self, env: VirtualEnvironment, submit: Submit) -> None:
        """All users begin at 0."""
        self._waiting.clear()
        source = self._all()
        for user in range(min(self.users, self.requests)):
            env.process(self._user(env, submit, user, source))

    def finished(self, ticket: Ticket) -> None:
        """Let the user whose request it was go on."""
        waiting = self._waiting.pop(ticket.seq_id)
        waiting.env.schedule(waiting, priority(Kind.ARRIVAL, ticket.user or 0))  # type: ignore[arg-type]

    def _all(self) -> Iterator[Ticket]:
        count = 0
        while count < self.requests:
            before = count
            for batch in self.lengths.batches():
                yield from tickets(batch.sliced(0, min(len(batch), self.requests - count)), count)
                count = min(self.requests, count + len(batch))
            if count == before:
                return

    def _user(
        self, env: VirtualEnvironment, submit: Submit, user: int, source: Iterator[Ticket]
    ) -> Generator[simpy.Event, None, None]:
        think_ps = round(self.think_s * PS_PER_S)
        yield Alarm(env, priority(Kind.ARRIVAL, user), 0)
        for ticket in source:
            ticket.arrival_ps = env.now
            ticket.user = user
            ticket.prefix = ()
            self._waiting[ticket.seq_id] = done = env.event()
            done._ok, done._value = True, None
            submit(ticket)
            yield done
            if think_ps:
                yield Alarm(env, priority(Kind.ARRIVAL, user), think_ps)

    def sample(self, most: int, seed: int) -> list[Lengths]:
        """Return a random sample of the lengths."""
        return TraceWorkload(self.lengths).sample(most, seed)


class StaticBatch:
    """A batch of equal requests, all there at 0: how most published benchmarks run."""

    prefix_unit_tokens = None
    open_loop = False

    def __init__(self, batch: int, prompt_tokens: int, output_tokens: int) -> None:
        self.batch = batch
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens

    @property
    def name(self) -> str:
        """Its sizes."""
        return f"batch of {self.batch}, {self.prompt_tokens} in, {self.output_tokens} out"

    def start(self, env: VirtualEnvironment, submit: Submit) -> None:
        """All arrive at 0."""
        env.process(self._arrive(env, submit))

    def finished(self, ticket: Ticket) -> None:
        """Nobody waits."""

    def _arrive(self, env: VirtualEnvironment, submit: Submit) -> Generator[simpy.Event, None, None]:
        yield Alarm(env, priority(Kind.ARRIVAL, 0), 0)
        for number in range(self.batch):
            submit(Ticket(number, self.prompt_tokens, self.output_tokens, (), 0))

    def sample(self, most: int, seed: int) -> list[Lengths]:  # noqa: ARG002 - all are alike
        """Return requests of the batch's sizes."""
        return [Lengths(self.prompt_tokens, self.output_tokens)] * min(most, self.batch)


class Saturation:
    """Requests that are all there at 0, to measure capacity with.

    Attributes:
        submitted: the tickets, for their times.
    """

    name = "saturation"
    open_loop = False

    def __init__(self, mix: list[Lengths], prefix_unit_tokens: int | None) -> None:
        self._mix = mix
        self.prefix_unit_tokens = prefix_unit_tokens
        self.submitted: list[Ticket] = []

    def start(self, env: VirtualEnvironment, submit: Submit) -> None:
        """All arrive at 0."""
        env.process(self._arrive(env, submit))

    def finished(self, ticket: Ticket) -> None:
        """Nobody waits."""

    def _arrive(self, env: VirtualEnvironment, submit: Submit) -> Generator[simpy.Event, None, None]:
        yield Alarm(env, priority(Kind.ARRIVAL, 0), 0)
        for number, of in enumerate(self._mix):
            ticket = Ticket(number, of.prompt_tokens, of.output_tokens, of.prefix, 0)
            self.submitted.append(ticket)
            submit(ticket)

    def sample(self, most: int, seed: int) -> list[Lengths]:  # noqa: ARG002 - the requests themselves
        """Return the requests."""
        return self._mix[:most]
