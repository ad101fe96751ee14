"""Who is told how far a study has come: nobody, unless a caller gives a `Watch` of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, float], None]
"""Called with (requests done, virtual seconds)."""


class Watch:
    """Watches nothing."""

    @contextmanager
    def run(self, label: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002 - for those who show it
        """Watch one run of so many requests (None: unknown)."""
        yield lambda _done, _virtual_s: None
