"""BurstGPT v1, v2 and v3: Timestamp in seconds from midnight of the first day.

A row with 0 response tokens is a failed request; its README says so, and such rows are left out and counted in the
notes. Total tokens must be the sum of the other two. v3 adds a session id (empty on API rows).
Source: github.com/HPMLL/BurstGPT, CC-BY 4.0.
"""

from __future__ import annotations

import numpy as np

from afterwatt.traces.cells import ints
from afterwatt.traces.peek import Peek
from afterwatt.traces.records import OUTPUT, PROMPT
from afterwatt.traces.schema import MAX_TOKENS
from afterwatt.traces.table import RowChunk
from afterwatt.traces.tableformat import Fields, Rules, TableFormat


def check_sum(chunk: RowChunk, fields: Fields, column: str) -> None:
    """Refuse a row whose total is not prompt plus output: one of the three is wrong, and it is unknown which.

    Raises:
        TraceError: at the first such row.
    """
    total = ints(chunk.columns[column], 0, 2 * MAX_TOKENS, "tokens")
    wrong = np.asarray(total != fields[PROMPT] + fields[OUTPUT])
    chunk.columns[column].fail_where(wrong, "is not the sum of prompt and output tokens; correct or remove the row")


class _BurstGpt(TableFormat):
    def rules(self, peek: Peek) -> Rules:
        """The total column adds up."""
        del peek
        return lambda chunk, fields: check_sum(chunk, fields, "Total tokens")


_FAILURES = "0 response tokens, a failed request by BurstGPT's own rule"

BURSTGPT = _BurstGpt(
    name="burstgpt",
    about="BurstGPT v1 and v2: Timestamp in s, class by Log Type",
    arrival="Timestamp",
    prompt="Request tokens",
    output="Response tokens",
    klass="Log Type",
    marks=("Total tokens",),
    failures=_FAILURES,
)

BURSTGPT_3 = _BurstGpt(
    name="burstgpt-3",
    about="BurstGPT v3: as v1, with Session ID",
    arrival="Timestamp",
    prompt="Request tokens",
    output="Response tokens",
    klass="Log Type",
    session="Session ID",
    marks=("Total tokens",),
    failures=_FAILURES,
)
