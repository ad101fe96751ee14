"""Azure LLM inference traces: TIMESTAMP, ContextTokens, GeneratedTokens.

Two timestamp forms exist. 2023 (Splitwise, ISCA 2024): seven fractional digits and no zone; read as UTC, which only
`start_utc` depends on. 2024 (one week): up to six digits and an offset. A text without zone and without seven digits is
neither, and is refused rather than guessed at.
Source: github.com/Azure/AzurePublicDataset, CC-BY 4.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from afterwatt.traces.cells import Cells, instants_ns
from afterwatt.traces.options import UNITS
from afterwatt.traces.peek import Peek
from afterwatt.traces.table import read_chunks
from afterwatt.traces.tableformat import Clock, TableFormat

_NAIVE_CHARS = len("2023-11-16 18:17:03.9799600")


def _read_naive(cells: Cells) -> NDArray[Any]:
    """Seven-digit local times as ns; other lengths are refused, since they come from files that lost their zone."""
    ticks = instants_ns(cells, zone=False, form="the file begins with (2023-11-16 18:17:03.9799600, no zone)")
    text = cells.values if isinstance(cells.values, list) else pc.cast(cells.values, pa.string())
    lengths = np.asarray(pc.utf8_length(pc.utf8_trim_whitespace(pa.array(text, pa.string()))))
    cells.fail_where(lengths != _NAIVE_CHARS, "has neither a zone nor seven fractional digits; add the zone (+00:00)")
    return ticks


def _read_zoned(cells: Cells) -> NDArray[Any]:
    """Times with an offset as ns since 1970 UTC."""
    form = "2024-05-10 00:00:00.009930+00:00, zone included (or 2023-11-16 18:17:03.9799600)"
    return instants_ns(cells, zone=True, form=form)


@dataclass(frozen=True)
class _Azure(TableFormat):
    naive: bool = False

    def matches(self, peek: Peek) -> bool:
        """Columns, and the form of the first timestamp."""
        if not super().matches(peek):
            return False
        first = next(read_chunks(peek, ["TIMESTAMP"]), None)
        value = None if first is None else first.columns["TIMESTAMP"].values[0]
        text = str(value.as_py() if isinstance(value, pa.Scalar) else value).strip()
        return (len(text) == _NAIVE_CHARS and text[-1:].isdigit() and text[-6:-5] not in "+-") == self.naive

    def remarks(self, peek: Peek) -> tuple[str, ...]:
        """The naive form's zone is an assumption."""
        said = super().remarks(peek)
        return (*said, "TIMESTAMP has no zone and is read as UTC") if self.naive else said


AZURE_2023 = _Azure(
    name="azure-2023",
    about="Azure LLM inference trace 2023 (code, conv): timestamps of seven digits, no zone",
    arrival="TIMESTAMP",
    prompt="ContextTokens",
    output="GeneratedTokens",
    clock=Clock(UNITS["ns"], _read_naive, wall=True),
    naive=True,
)

AZURE_2024 = _Azure(
    name="azure-2024",
    about="Azure LLM inference trace 2024 (one week): timestamps with an offset",
    arrival="TIMESTAMP",
    prompt="ContextTokens",
    output="GeneratedTokens",
    clock=Clock(UNITS["ns"], _read_zoned, wall=True),
)
