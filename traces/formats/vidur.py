"""Vidur's processed traces: arrived_at in seconds, token counts printed as whole floats.

The arXiv summarisation file has lengths only (with a total and a ratio); it needs `rate=`.
Source: github.com/microsoft/vidur, MIT (derived from Azure 2023 and an arXiv summarisation set).
"""

from __future__ import annotations

from afterwatt.traces.formats.burstgpt import check_sum
from afterwatt.traces.peek import Peek
from afterwatt.traces.tableformat import Rules, TableFormat


class _Vidur(TableFormat):
    def rules(self, peek: Peek) -> Rules:
        """Where there is a total column, it adds up."""
        if "num_total_tokens" not in peek.columns:
            return super().rules(peek)
        return lambda chunk, fields: check_sum(chunk, fields, "num_total_tokens")


VIDUR = _Vidur(
    name="vidur",
    about="Vidur: arrived_at in s, num_prefill_tokens, num_decode_tokens",
    arrival="arrived_at",
    prompt="num_prefill_tokens",
    output="num_decode_tokens",
    optional=("num_total_tokens",),
)

VIDUR_LENGTHS = _Vidur(
    name="vidur-lengths",
    about="Vidur without arrivals (arXiv summarisation): needs rate=",
    prompt="num_prefill_tokens",
    output="num_decode_tokens",
    optional=("num_total_tokens",),
    lacks=("arrived_at",),
)
