"""ServeGen: not requests but clients' rates per 600 s window, and length tables per 6 h, from which requests are drawn.

Three forms: the originals (a folder of `chunk-<i>-trace.csv` without header and `chunk-<i>-dataset.json`, or one such
CSV), and Parquet copies (`<model>_trace.parquet` with a client column, `<model>_dataset.parquet`). Column arg1 is the
shape of a Gamma or Weibull gap; its scale follows from the rate, which is what was counted. Window starts are seconds
after local midnight (ServeGen's examples call 64800..68400 "18:00-19:00").

Clients without length tables cannot be drawn: they are left out, and the notes say with how much of the rate. Bins of
0 input or output tokens are left out of their tables. Lengths are drawn independently of each other, as only their
marginals are published (ServeGen's own sampler uses one random number for all fields, which ties them together fully).
Source: github.com/alibaba/ServeGen, Apache-2.0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.compute as pc

from afterwatt.traces.cells import floats, ints, labels
from afterwatt.traces.errors import TraceError
from afterwatt.traces.formats.servegen_lengths import PeriodLengths, read_lengths
from afterwatt.traces.options import Options
from afterwatt.traces.peek import Peek, chunk_number, look, trace_chunks
from afterwatt.traces.ratetable import WINDOW_S, ClientRates, RateTableTrace
from afterwatt.traces.schema import Trace
from afterwatt.traces.table import read_chunks

_COLUMNS = ("window_start_s", "rate", "cv", "pattern", "arg1", "arg2")
_MOST_S = 10**9
_LEAST_SHAPE = {"Gamma": 1e-4, "Weibull": 0.1}
"""Below it a mean rests on gaps that come once in millions; the published ones begin at 0.0067 and 0.15."""


class _ServeGen:
    name = "servegen"
    about = "ServeGen: rate windows and length tables of many clients (rate=, duration= or n= recommended)"
    required = ("client", *_COLUMNS)

    def matches(self, peek: Peek) -> bool:
        """By columns (Parquet), by the first row (the CSV has no header), or by the files in the folder."""
        if peek.kind == "directory":
            return True
        if peek.kind != "csv":
            return set(peek.columns).issuperset(self.required)
        return len(peek.columns) == len(_COLUMNS) and peek.columns[3] in ("", "Gamma", "Weibull") and _is_number(peek)

    def open(self, peek: Peek, options: Options) -> Trace:
        """Read the tables; the requests are drawn on the way.

        Raises:
            TraceError: where a table breaks a rule, or there are no length tables.
        """
        for name in ("cv", "unit", "block_tokens"):
            if getattr(options, name) is not None:
                raise TraceError(f"the tables fix {name}; leave {name}= out", path=peek.path)
        clients = self._clients(peek)
        lengths, notes = read_lengths(peek, options, tuple(clients))
        served, said = _served(clients, lengths, peek.path)
        usable = {client: {at: made for at, made in periods.items() if made} for client, periods in lengths.items()}
        return RateTableTrace(peek.path, served, usable, options, (*said, *notes))

    def _clients(self, peek: Peek) -> dict[int, ClientRates]:
        if peek.kind == "directory":
            chunks = {chunk_number(file): file for file in trace_chunks(peek.path)}
            clients: dict[int, ClientRates] = {}
            for client, file in chunks.items():
                clients |= _read(replace(look(str(file)), header_lines=0, columns=_COLUMNS), client)
        elif peek.kind == "csv":
            clients = _read(replace(peek, header_lines=0, columns=_COLUMNS), chunk_number(peek.path))
        else:
            clients = _read(peek, None)
        if not clients:
            raise TraceError("no window of any client has traffic", path=peek.path)
        return clients


SERVEGEN = _ServeGen()


def _is_number(peek: Peek) -> bool:
    try:
        return all(float(cell) >= 0 for index, cell in enumerate(peek.columns) if index != 3)
    except ValueError:
        return False


def _read(peek: Peek, client: int | None) -> dict[int, ClientRates]:
    """Windows with traffic by client; a file of one client says no client."""
    columns = _COLUMNS if client is not None else ("client", *_COLUMNS)
    parts: list[dict[str, np.ndarray]] = []
    for chunk in read_chunks(peek, columns):
        cells = chunk.columns
        start_s = ints(cells["window_start_s"], 0, _MOST_S, "seconds")
        cells["window_start_s"].fail_where(start_s % WINDOW_S != 0, f"is not the start of a window of {WINDOW_S} s")
        rate = floats(cells["rate"], 0.0, 1e6, "is no rate of requests per second (0 to a million)")
        shape = floats(cells["arg1"], 0.0, 1e9, "is no shape of a gap distribution")
        pattern = np.asarray(pc.fill_null(labels(cells["pattern"]), "").to_numpy(zero_copy_only=False), object)
        busy = rate > 0
        known = np.isin(pattern, ("Gamma", "Weibull"))
        cells["pattern"].fail_where(busy & ~known, "is neither Gamma nor Weibull, though the window has traffic")
        for family, least in _LEAST_SHAPE.items():
            tiny = busy & (pattern == family) & (shape < least)
            cells["arg1"].fail_where(tiny, f"is no usable shape of {family} gaps (from {least:g})")
        who = ints(cells["client"], 0, _MOST_S, "clients") if client is None else np.full(chunk.rows, client)
        parts.append({"who": who[busy], "start_s": start_s[busy], "rate": rate[busy], "shape": shape[busy]})
        parts[-1]["weibull"] = pattern[busy] == "Weibull"
    if not parts:
        return {}
    return _by_client({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, peek.path)


def _by_client(column: dict[str, np.ndarray], path: str) -> dict[int, ClientRates]:
    order = np.lexsort((column["start_s"], column["who"]))
    column = {name: values[order] for name, values in column.items()}
    twice = (np.diff(column["who"]) == 0) & (np.diff(column["start_s"]) == 0)
    if twice.any():
        index = int(np.argmax(twice))
        raise TraceError(
            f"client {column['who'][index]} has two rows for the window at {column['start_s'][index]} s; keep one",
            path=path,
        )
    if not len(order):
        return {}
    who, first = np.unique(column["who"], return_index=True)
    clients = {}
    for client, start, stop in zip(who.tolist(), first.tolist(), [*first[1:].tolist(), len(order)], strict=True):
        part = slice(start, stop)
        clients[client] = ClientRates(
            column["start_s"][part],
            column["rate"][part],
            ["weibull" if weibull else "gamma" for weibull in column["weibull"][part]],
            column["shape"][part],
        )
    return clients


def _served(
    clients: dict[int, ClientRates], lengths: PeriodLengths, path: str
) -> tuple[dict[int, ClientRates], tuple[str, ...]]:
    """The windows that can be drawn, and remarks on those that cannot."""
    total = sum(float(rates.rate_per_s.sum()) for rates in clients.values())
    served: dict[int, ClientRates] = {}
    unknown, unanswered = [0, 0.0], 0.0
    for client, rates in clients.items():
        if client not in lengths:
            unknown = [unknown[0] + 1, unknown[1] + float(rates.rate_per_s.sum())]
            continue
        periods = sorted(lengths[client])
        at = np.searchsorted(periods, rates.start_s, side="right") - 1
        if (at < 0).any():
            missing = rates.start_s[np.argmax(at < 0)]
            raise TraceError(f"client {client} sends at second {missing}, before its first length table", path=path)
        keep = np.array([lengths[client][periods[index]] is not None for index in at])
        unanswered += float(rates.rate_per_s[~keep].sum())
        if keep.any():
            served[client] = rates.only(keep)
    if not served:
        raise TraceError("no client with traffic has length tables; say lengths=FILE", path=path)
    said = []
    if unknown[0]:
        said.append(
            f"{unknown[0]} of {len(clients)} clients, with {unknown[1] / total:.1%} of the rate, have no length tables "
            "and are left out"
        )
    if unanswered:
        said.append(f"periods with requests of 0 tokens only, with {unanswered / total:.2%} of the rate, are left out")
    return served, tuple(said)
