"""ShareGPT-derived files: LLMServingSim's JSON Lines (token counts, ns), and the original JSON of conversations.

LLMServingSim: input_toks, output_toks, arrival_time_ns; token ids, where given, are not carried on.
The original holds text. No tokenizer is run here, so it can be read only where every turn carries a count under
`num_tokens`; then each answer is a request whose prompt is all turns before it, and `rate=` draws the arrivals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from afterwatt.traces.cells import Cells
from afterwatt.traces.errors import TraceError, shown
from afterwatt.traces.peek import Peek
from afterwatt.traces.table import RowChunk
from afterwatt.traces.tableformat import NANOSECONDS, TableFormat

_READ_CHARS = 1 << 20
_LONGEST_CHARS = 1 << 26
_ROWS = 4096
_COUNT = "num_tokens"

LLMSERVINGSIM = TableFormat(
    name="llmservingsim",
    about="LLMServingSim's ShareGPT samples: input_toks, output_toks, arrival_time_ns",
    arrival="arrival_time_ns",
    prompt="input_toks",
    output="output_toks",
    clock=NANOSECONDS,
)


@dataclass(frozen=True)
class _ShareGpt(TableFormat):
    @property
    def required(self) -> tuple[str, ...]:
        """Known by being a JSON list of conversations, not by columns."""
        return ()

    def matches(self, peek: Peek) -> bool:
        """Any file that is one JSON list."""
        return peek.kind == "json"

    def columns(self, peek: Peek) -> tuple[str, ...]:
        """What the flattened rows hold."""
        del peek
        return self.prompt, self.output, "session"

    def remarks(self, peek: Peek) -> tuple[str, ...]:
        """How conversations became requests."""
        del peek
        return ("each answer is a request whose prompt is all turns before it; an opening answer only adds context",)

    def chunks(self, peek: Peek) -> Iterator[RowChunk]:
        """Requests from conversations, in file order."""
        rows: list[tuple[int, int, str]] = []
        first_row = 1
        for number, item in enumerate(_array_items(peek.path), 1):
            rows.extend(_requests(item, peek.path, number))
            if len(rows) >= _ROWS:
                yield _as_chunk(rows, peek.path, first_row)
                first_row += len(rows)
                rows = []
        if rows:
            yield _as_chunk(rows, peek.path, first_row)


SHAREGPT = _ShareGpt(
    name="sharegpt",
    about=f"ShareGPT's JSON of conversations, where turns carry {_COUNT}: needs rate=",
    prompt="prompt_tokens",
    output="output_tokens",
    session="session",
    kinds=("json",),
)


def _as_chunk(rows: list[tuple[int, int, str]], path: str, first_row: int) -> RowChunk:
    columns = zip(("prompt_tokens", "output_tokens", "session"), zip(*rows, strict=True), strict=True)
    return RowChunk(
        first_row, len(rows), {name: Cells(path, name, first_row, list(values)) for name, values in columns}
    )


def _requests(item: object, path: str, number: int) -> Iterator[tuple[int, int, str]]:
    """(prompt tokens, output tokens, session) of each answer in one conversation."""

    def refuse(message: str) -> NoReturn:
        raise TraceError(message, path=path, row=number, column="conversations")

    turns = item.get("conversations") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(turns, list):
        refuse(f"{shown(item)} is not a ShareGPT conversation; a JSON list is read only as ShareGPT")
    session = str(item.get("id", number))
    context = 0
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
            refuse(f"{shown(turn)} is not a turn with a speaker under 'from'; correct or remove the conversation")
        tokens = turn.get(_COUNT)
        if type(tokens) is not int or tokens < 0:
            refuse(
                f"a turn has no whole '{_COUNT}', and text is not tokenised here; count the tokens of each turn first, "
                "or write JSON Lines with input_toks, output_toks, arrival_time_ns"
            )
        if turn["from"] not in ("human", "user", "system") and context > 0:
            yield context, tokens, session
        context += tokens


def _array_items(path: str) -> Iterator[Any]:
    """The items of one huge JSON list, one at a time."""
    decoder = json.JSONDecoder()
    number, at = 1, 1
    try:
        with Path(path).open(encoding="utf-8-sig") as stream:
            text = stream.read(_READ_CHARS).lstrip()
            while True:
                while at < len(text) and text[at] in " \t\r\n,":
                    at += 1
                if text.startswith("]", at):
                    return
                try:
                    item, at = decoder.raw_decode(text, at)
                except ValueError as error:
                    more = stream.read(_READ_CHARS)
                    if not more or len(text) - at > _LONGEST_CHARS:
                        raise TraceError(
                            f"the JSON list is broken ({error}); repair it", path=path, row=number
                        ) from error
                    text, at = text[at:] + more, 0
                    continue
                yield item
                number += 1
    except (UnicodeDecodeError, RecursionError) as error:
        raise TraceError("the JSON list is not UTF-8 or nests too deeply; repair it", path=path, row=number) from error
