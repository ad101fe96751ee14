"""ServeGen's length tables: by client and 6 h period, one table of token counts per field.

Original form: JSON of {period start: {field: "{tokens: probability, ...}"}}, where each field is text that holds a
Python dict. It is read with `ast.literal_eval`, which accepts literals only. The Parquet copy has one row per bin.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from afterwatt.traces.cells import Cells, floats, ints, labels
from afterwatt.traces.errors import TraceError, shown
from afterwatt.traces.options import Options
from afterwatt.traces.peek import Peek, chunk_number, look, trace_chunks
from afterwatt.traces.ratetable import ClientLengths, CountTable
from afterwatt.traces.schema import MAX_TOKENS, Floats, Ints
from afterwatt.traces.table import read_chunks

_COLUMNS = ("client", "window_start_s", "field", "bin", "prob")
_PROMPT, _TEXT, _OUTPUT, _IMAGES, _IMAGE = "input_tokens", "text_tokens", "output_tokens", "image_count", "image_tokens"
_USED = (_PROMPT, _TEXT, _OUTPUT, _IMAGES, _IMAGE)
_SLACK = 1e-3

PeriodLengths = dict[int, dict[int, ClientLengths | None]]
CountTables = dict[tuple[int, int], dict[str, CountTable]]


def read_lengths(peek: Peek, options: Options, clients: tuple[int, ...]) -> tuple[PeriodLengths, tuple[str, ...]]:
    """Length tables by client and period start (None where the period knows only requests of 0 tokens), with remarks.

    Raises:
        TraceError: where there is no file of tables, or one of them breaks a rule.
    """
    tables: CountTables = {}
    for file, client in _files(peek, options, clients):
        tables |= _read_json(file, client) if client is not None else _read_parquet(look(file))
    lengths: PeriodLengths = {}
    notes: set[str] = set()
    for (client, start_s), fields in tables.items():
        made = _client_lengths(fields, f"client {client}, period {start_s} s", peek.path, notes)
        lengths.setdefault(client, {})[start_s] = made
    return lengths, tuple(sorted(notes))


def _files(peek: Peek, options: Options, clients: tuple[int, ...]) -> Iterator[tuple[str, int | None]]:
    """Files of tables; with a client where the file is about one."""
    if options.lengths is not None:
        client = None if look(options.lengths).kind == "parquet" else clients[0]
        yield options.lengths, client
        return
    if peek.kind == "parquet":
        beside = Path(peek.path.replace("_trace", "_dataset"))
        if str(beside) == peek.path or not beside.is_file():
            raise TraceError(f"no length tables lie beside it ({beside.name}); say lengths=FILE", path=peek.path)
        yield str(beside), None
        return
    chunks = trace_chunks(peek.path) if peek.kind == "directory" else [Path(peek.path)]
    found = [(chunk.with_name(chunk.name.replace("-trace.csv", "-dataset.json")), chunk) for chunk in chunks]
    there = [(tables, chunk) for tables, chunk in found if tables != chunk and tables.is_file()]
    if not there:
        raise TraceError(
            "no length tables lie beside it (chunk-<i>-dataset.json for chunk-<i>-trace.csv); say lengths=FILE",
            path=peek.path,
        )
    for tables, chunk in there:
        yield str(tables), chunk_number(chunk)


def _read_parquet(peek: Peek) -> CountTables:
    missing = [name for name in _COLUMNS if name not in peek.columns]
    if missing:
        raise TraceError(
            f"a file of length tables has the columns {', '.join(_COLUMNS)}; it lacks {missing[0]}", path=peek.path
        )
    parts: list[tuple[np.ndarray, ...]] = []
    for chunk in read_chunks(peek, _COLUMNS):
        cells = chunk.columns
        field = np.asarray(labels(cells["field"]).to_numpy(zero_copy_only=False), object)
        used = np.isin(field, _USED)  # reason_ratio is a fraction, audio and video are not modelled
        prob = floats(cells["prob"], 0.0, 1.0, "is no probability")
        tokens = _bins(chunk.columns["bin"], used)
        who = ints(cells["client"], 0, 10**9, "clients")
        start_s = ints(cells["window_start_s"], 0, 10**9, "seconds")
        parts.append((who[used], start_s[used], field[used], tokens, prob[used]))
    who, start_s, field, tokens, prob = (np.concatenate(column) for column in zip(*parts, strict=True))
    code = np.searchsorted(sorted(_USED), field.astype(str))
    order = np.lexsort((tokens, code, start_s, who))
    edges = np.flatnonzero(np.any([np.diff(column[order]) != 0 for column in (who, start_s, code)], axis=0)) + 1
    tables: CountTables = {}
    for group in np.split(order, edges):
        head = group[0]
        key = (int(who[head]), int(start_s[head]))
        where = f"client {key[0]}, period {key[1]} s, {field[head]}"
        tables.setdefault(key, {})[str(field[head])] = _table(tokens[group], prob[group], where, peek.path)
    return tables


def _bins(cells: Cells, used: np.ndarray) -> Ints:
    """Token counts of the rows in use; the column is text where another field of the file holds fractions."""
    column = cells.values if not hasattr(cells.values, "dictionary_decode") else cells.values.dictionary_decode()
    index = np.flatnonzero(used)
    # Row numbers would be off after leaving rows out, so bins are checked where they stand, fractions and all.
    picked = Cells(cells.path, cells.column, cells.first_row, column.take(index), text=True)
    return ints(picked, 0, MAX_TOKENS, "tokens") if len(index) else np.empty(0, np.int64)


def _read_json(path: str, client: int) -> CountTables:
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
        periods = {int(start_s): dict(fields) for start_s, fields in said.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TraceError("this is not ServeGen's JSON of {period: {field: table}}; get it again", path=path) from error
    tables: CountTables = {}
    for start_s, fields in periods.items():
        for name in fields:
            if name in _USED:
                where = f"period {shown(start_s)} s, {name}"
                tokens, prob = _literal_table(fields[name], where, path)
                tables.setdefault((client, start_s), {})[name] = _table(tokens, prob, where, path)
    return tables


def _literal_table(text: object, where: str, path: str) -> tuple[Ints, Floats]:
    try:
        said: dict[int, float] = ast.literal_eval(str(text))
        tokens, prob = np.array([*said.keys()]), np.array([*said.values()], np.float64)
        sound = len(tokens) > 0 and tokens.dtype.kind == "i" and np.isfinite(prob).all() and (prob >= 0).all()
    except (ValueError, TypeError, SyntaxError, AttributeError, RecursionError, MemoryError, OverflowError) as error:
        raise TraceError(f"{where}: {shown(text)} is no table of tokens: probability; repair it", path=path) from error
    if not sound or tokens.min() < 0 or tokens.max() > MAX_TOKENS:
        raise TraceError(f"{where}: the table holds what is no token count or no probability; repair it", path=path)
    order = np.argsort(tokens)
    return tokens[order].astype(np.int64), prob[order]


def _table(tokens: Ints, prob: Floats, where: str, path: str) -> CountTable:
    total = float(prob.sum())
    if abs(total - 1) > _SLACK:
        raise TraceError(f"{where}: the probabilities add up to {total:.6g}, not 1; repair the table", path=path)
    return CountTable(tokens, np.cumsum(prob))


def _client_lengths(fields: Mapping[str, CountTable], where: str, path: str, notes: set[str]) -> ClientLengths | None:
    name = _PROMPT if _PROMPT in fields else _TEXT
    if name not in fields or _OUTPUT not in fields:
        raise TraceError(f"{where}: a table of {name if name not in fields else _OUTPUT} is missing", path=path)
    output = _without_zero(fields[_OUTPUT], notes)
    prompt = _without_zero(fields[name], notes) if name == _PROMPT else fields[name]
    if output is None or prompt is None:
        return None
    if name == _PROMPT:
        return ClientLengths(prompt, output)
    if _IMAGES in fields and _IMAGE not in fields:
        raise TraceError(f"{where}: requests have images, but a table of {_IMAGE} is missing", path=path)
    notes.add("prompts are text and image tokens together; audio and video are not modelled; at least 1 token")
    return ClientLengths(prompt, output, fields.get(_IMAGES), fields.get(_IMAGE))


def _without_zero(table: CountTable, notes: set[str]) -> CountTable | None:
    """The table given that there is at least one token; None where there never is."""
    weights = np.diff(table.cumulative, prepend=0.0)
    some = table.tokens > 0
    if weights[some].sum() <= 0:
        return None
    if weights[~some].sum() > 0:
        notes.add("bins of 0 tokens are left out of the length tables: such requests failed")
    return CountTable(table.tokens[some], np.cumsum(weights[some]))
