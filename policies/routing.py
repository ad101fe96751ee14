"""Routing: which replica gets a request."""

from collections.abc import Callable, Mapping, Sequence

from afterwatt.policies.views import ReplicaView, RequestView, RoutePolicy


class RoundRobin:
    """Replicas in turn, whatever their state."""

    looks = False

    def __init__(self) -> None:
        self._next = 0

    def route(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:  # noqa: ARG002 - the protocol's
        """Return the next replica in turn."""
        chosen = self._next % len(replicas)
        self._next = chosen + 1
        return replicas[chosen].replica


class LeastOutstanding:
    """The replica with the fewest tokens still to compute and to produce; of equals, the lowest number."""

    looks = True

    def route(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:  # noqa: ARG002 - the protocol's
        """Return the least loaded replica."""
        return min(replicas, key=lambda view: (view.outstanding_tokens, view.replica)).replica


class PrefixAffinity:
    """The replica with the least work after its prefix hit is taken off the request's own.

    A hit saves its tokens of prefill, a busier replica costs its outstanding tokens: both in one unit, so that a hot
    prefix does not pile everything onto one replica.
    """

    looks = True

    def route(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:  # noqa: ARG002 - the protocol's
        """Return the replica with the least outstanding tokens net of the hit."""
        return min(replicas, key=lambda view: (view.outstanding_tokens - view.prefix_tokens, view.replica)).replica


ROUTING: Mapping[str, Callable[..., RoutePolicy]] = {
    "round-robin": RoundRobin,
    "least-outstanding": LeastOutstanding,
    "prefix-affinity": PrefixAffinity,
}
