"""A request with what the virtual body notes about it."""

from collections.abc import Sequence as Keys

from afterwatt.policies.sequence import Sequence
from afterwatt.policies.slo import Slo
from afterwatt.policies.views import RequestView
from afterwatt.sim.clock import PS_PER_S


class Ticket(Sequence):
    """A sequence and its history.

    Attributes:
        arrival_ps, scheduled_ps, first_ps, finish_ps: of arrival, admission, first and last token; None: not yet.
        replica: where it was sent (None: refused before).
        user: which closed-loop user waits for it (None: nobody).
        klass, session: labels from the trace.
        refused: why it was not taken in (None: it was).
        cached_tokens: prompt tokens found in the prefix cache at its first admission.
        last_ps: time of its last output token outside of the decode strides noted in its lane.
        joined: index of the first stride in its lane that it may have decoded in.
        energy_j: active energy allocated so far.
        stall_ps: longest gap between two of its output tokens so far.
    """

    __slots__ = (
        "arrival_ps",
        "cached_tokens",
        "carried",
        "energy_j",
        "finish_ps",
        "first_ps",
        "joined",
        "klass",
        "last_ps",
        "refused",
        "replica",
        "scheduled_ps",
        "session",
        "stall_ps",
        "user",
    )

    def __init__(
        self,
        seq_id: int,
        prompt_tokens: int,
        output_tokens: int,
        prefix: Keys[int],
        arrival_ps: int,
        klass: str | None = None,
        session: str | None = None,
    ) -> None:
        Sequence.__init__(self, seq_id, prompt_tokens, output_tokens, prefix)  # super() doubles the time this takes
        self.arrival_ps = arrival_ps
        self.klass = klass
        self.session = session
        self.scheduled_ps: int | None = None
        self.first_ps: int | None = None
        self.finish_ps: int | None = None
        self.replica: int | None = None
        self.user: int | None = None
        self.refused: str | None = None
        self.cached_tokens = 0
        self.last_ps = 0
        self.joined = 0
        self.carried = False
        self.energy_j = 0.0
        self.stall_ps = 0

    def view(self, slo: Slo) -> RequestView:
        """Return what a policy may see of it."""
        arrival_s = self.arrival_ps / PS_PER_S
        return RequestView(
            self.seq_id, self.prompt_tokens, self.output_tokens, self.klass, arrival_s, slo, self.phase()
        )
