"""splitwise-sim's request files: arrival_timestamp in seconds, one row a request.

Only rows that mean one LLM request can be read: request_type 2 and batch_size 1. Ids are unique.
Source: github.com/Mutinifni/splitwise-sim, MIT.
"""

from __future__ import annotations

from afterwatt.traces.cells import ints
from afterwatt.traces.peek import Peek
from afterwatt.traces.table import RowChunk
from afterwatt.traces.tableformat import Fields, Rules, TableFormat

_LLM = 2


class _Splitwise(TableFormat):
    def rules(self, peek: Peek) -> Rules:
        """LLM requests of batch size 1 with ids of their own. Remembers every id: some 60 bytes a row."""
        del peek
        seen: set[int] = set()

        def check(chunk: RowChunk, fields: Fields) -> None:
            del fields
            cells = chunk.columns
            kinds = ints(cells["request_type"], 0, 2**31, "request types")
            cells["request_type"].fail_where(kinds != _LLM, "is not 2, the type of LLM requests; remove the row")
            sizes = ints(cells["batch_size"], 1, 2**31, "requests in a batch")
            cells["batch_size"].fail_where(sizes != 1, "means several requests in one row; write one row for each")
            for index, request in enumerate(ints(cells["request_id"], 0, 2**62, "request ids").tolist()):
                if request in seen:
                    cells["request_id"].fail(index, "stands on an earlier row too; request ids are unique")
                seen.add(request)

        return check


SPLITWISE = _Splitwise(
    name="splitwise-sim",
    about="splitwise-sim: arrival_timestamp in s, prompt_size, token_size",
    arrival="arrival_timestamp",
    prompt="prompt_size",
    output="token_size",
    marks=("request_id", "request_type", "batch_size"),
)
