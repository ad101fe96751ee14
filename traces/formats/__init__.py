"""The trace formats this package reads: one module each, and one line each in the list below.

The order matters only where one format's columns contain another's: the more demanding one comes first.
"""

from __future__ import annotations

from typing import Protocol

from afterwatt.traces.formats import azure, burstgpt, mooncake, own, servegen, sharegpt, splitwise, vidur
from afterwatt.traces.options import Options
from afterwatt.traces.peek import Peek
from afterwatt.traces.schema import Trace


class Format(Protocol):
    """One way in which traces are written down."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def about(self) -> str:
        """One line for listings."""
        ...

    @property
    def required(self) -> tuple[str, ...]:
        """Columns by which it is known; empty where it is known by something else."""
        ...

    def matches(self, peek: Peek) -> bool:
        """Whether a file looks like it."""
        ...

    def open(self, peek: Peek, options: Options) -> Trace:
        """The trace in the file.

        Raises:
            TraceError: where the file breaks a rule of the format.
        """
        ...


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        own.OWN,
        azure.AZURE_2024,
        azure.AZURE_2023,
        mooncake.QWEN,
        mooncake.MOONCAKE,
        burstgpt.BURSTGPT_3,
        burstgpt.BURSTGPT,
        vidur.VIDUR,
        vidur.VIDUR_LENGTHS,
        splitwise.SPLITWISE,
        sharegpt.LLMSERVINGSIM,
        sharegpt.SHAREGPT,
        servegen.SERVEGEN,
    )
}
