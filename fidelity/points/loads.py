"""The requests of a measured run, and the workload that brings them to the simulator."""

from collections.abc import Generator
from dataclasses import dataclass, field
from math import ceil, log
from typing import Any, Final

import numpy as np

from afterwatt.sim.clock import PS_PER_S, Alarm, Kind, VirtualEnvironment, priority
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.workload import Lengths, Submit

UNIT_TOKENS: Final = 16
"""Tokens per prefix block: contexts that lie in the cache beforehand are whole multiples."""
PROMPT_KINDS: Final = 16
_GOLDEN: Final = 0.6180339887498949
_SILVER: Final = 0.4142135623730951
_ROOT_3: Final = 0.7320508075688772


@dataclass(frozen=True, slots=True)
class RequestLoad:
    """What a run is given.

    Attributes:
        prompts, outputs: tokens of each request, in the order in which they come.
        arrivals_s: when; None: all are there at 0 (decisions then do not depend on time).
        cached_tokens: context that lies in the KV cache before the clock starts: a first request brings it there.
        seats: sequences that run at a time while more wait: what is measured is the steady part; None: the whole run.
    """

    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    arrivals_s: tuple[float, ...] | None = None
    cached_tokens: int = 0
    seats: int | None = None

    @property
    def longest_tokens(self) -> int:
        """Return the longest prompt and answer of one request, cached context included."""
        return self.cached_tokens + max(p + o for p, o in zip(self.prompts, self.outputs, strict=True))

    @property
    def warm_ups(self) -> int:
        """Return how many leading requests only prepare the cache."""
        return 1 if self.cached_tokens else 0

    @property
    def name(self) -> str:
        """Return it in words."""
        count = len(self.prompts)
        parts = [f"{count} request{'s' if count > 1 else ''}"]
        parts += [f"{sum(tokens) / count:.0f} {side}" for tokens, side in ((self.prompts, "in"), (self.outputs, "out"))]
        if self.cached_tokens:
            parts.append(f"{self.cached_tokens} cached")
        if self.seats is not None:
            parts.append(f"{self.seats} at a time")
        return ", ".join(parts)


def batch_of(count: int, prompt: int, output: int, cached: int = 0) -> RequestLoad:
    """Return a static batch of equal requests."""
    return RequestLoad((prompt,) * count, (output,) * count, None, cached // UNIT_TOKENS * UNIT_TOKENS)


def pieces_of(prompt: int, piece: int) -> RequestLoad:
    """Return a prompt whose pieces pass a pipeline one behind the other, as requests of their own."""
    whole, rest = divmod(prompt, piece)
    prompts = (piece,) * whole + ((rest,) if rest else ())
    return RequestLoad(prompts, (1,) * len(prompts))


def spread_lengths(count: int, mean_tokens: float, step: float, kinds: int | None = None) -> tuple[int, ...]:
    """Return lengths that fall off exponentially about a mean, evenly over their distribution and in mixed order.

    A low-discrepancy sequence (multiples of an irrational number) instead of chance: the same for everybody.
    """
    points = (np.arange(count) + 0.5) * step % 1.0
    if kinds is not None:  # few different lengths: iterations of few different sizes, whose times are then known
        points = (np.floor(points * kinds) + 0.5) / kinds
    return tuple(max(1, ceil(-mean_tokens * log(1.0 - point))) for point in points.tolist())


def chat_of(count: int, prompt_mean: float, output_mean: float, seats: int | None) -> RequestLoad:
    """Return requests of mixed lengths that are all there at 0."""
    prompts = spread_lengths(count, prompt_mean, _SILVER, kinds=PROMPT_KINDS)
    return RequestLoad(prompts, spread_lengths(count, output_mean, _GOLDEN), None, 0, seats)


def arrivals_of(count: int, rate_per_s: float, prompt_mean: float, output_mean: float) -> RequestLoad:
    """Return requests that come at a rate, whatever becomes of earlier ones: Poisson, by the quantiles of its gaps."""
    gaps = -np.log(1.0 - (np.arange(count) + 0.5) * _ROOT_3 % 1.0) / rate_per_s
    arrivals = np.cumsum(gaps) - gaps[0]
    prompts = spread_lengths(count, prompt_mean, _SILVER, kinds=PROMPT_KINDS)
    return RequestLoad(prompts, spread_lengths(count, output_mean, _GOLDEN), tuple(arrivals.tolist()))


@dataclass(eq=False)
class LoadWorkload:
    """A load as the simulator's workload; see `sim.workload.Workload`."""

    load: RequestLoad
    _warm: int | None = field(default=None, init=False, repr=False)
    _submit: Submit | None = field(default=None, init=False, repr=False)
    _env: VirtualEnvironment | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """The load in words."""
        return self.load.name

    @property
    def prefix_unit_tokens(self) -> int | None:
        """Of the context that is cached beforehand."""
        return UNIT_TOKENS if self.load.cached_tokens else None

    @property
    def open_loop(self) -> bool:
        """Unless the first request's end is waited for."""
        return not self.load.cached_tokens

    def start(self, env: VirtualEnvironment, submit: Submit) -> None:
        """Begin, with what fills the cache if there is such a thing."""
        self._env, self._submit = env, submit
        env.process(self._arrive(env, submit))

    def finished(self, ticket: Ticket) -> None:
        """When the cache is filled, the others come."""
        if ticket.seq_id == self._warm:
            assert self._env is not None
            assert self._submit is not None
            self._warm = None
            for other in self._tickets(self._env.now):
                self._submit(other)

    def _prefix(self) -> tuple[int, ...]:
        return tuple(range(self.load.cached_tokens // UNIT_TOKENS))

    def _tickets(self, now_ps: int) -> list[Ticket]:
        load, prefix = self.load, self._prefix()
        first = load.warm_ups
        arrivals = load.arrivals_s or (0.0,) * len(load.prompts)
        return [
            Ticket(first + number, load.cached_tokens + prompt, output, prefix, now_ps + round(arrival * PS_PER_S))
            for number, (prompt, output, arrival) in enumerate(zip(load.prompts, load.outputs, arrivals, strict=True))
        ]

    def _arrive(self, env: VirtualEnvironment, submit: Submit) -> Generator[Any, Any, None]:
        base = priority(Kind.ARRIVAL, 0)
        if self.load.cached_tokens:
            yield Alarm(env, base, 0)
            self._warm = 0
            submit(Ticket(0, self.load.cached_tokens, 1, self._prefix(), 0))
            return
        for ticket in self._tickets(0):
            yield Alarm(env, base + ticket.seq_id, ticket.arrival_ps - env.now)
            submit(ticket)

    def sample(self, most: int, seed: int) -> list[Lengths]:  # noqa: ARG002 - in order: a capacity is not measured here
        """Return the first requests."""
        return [
            Lengths(ticket.prompt_tokens, ticket.output_tokens, ticket.prefix) for ticket in self._tickets(0)[:most]
        ]
