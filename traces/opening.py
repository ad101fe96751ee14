"""`open_trace`: from an address to a checked trace."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from afterwatt.traces.errors import TraceError
from afterwatt.traces.formats import FORMATS, Format
from afterwatt.traces.formats.named import open_named, suggestion
from afterwatt.traces.options import Options, options_from_query, split_query
from afterwatt.traces.peek import Peek, closest, look
from afterwatt.traces.schema import Trace

SYNTH = "synth:"


def open_trace(
    address: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002  # the word users know
    **wishes: Any,  # noqa: ANN401  # the fields of Options, checked there
) -> Trace:
    """Open a trace file, or a synthetic trace, and check it.

    Args:
        address: a path; or a path with options behind a question mark (`arxiv.parquet?rate=2&seed=1`, where no file is
            called so); or a synthetic trace (`synth:chat?rate=0.5&n=2000&seed=1`, see `traces.synth`).
        format: name of the reader to use; None recognises the content.
        **wishes: fields of `Options` (seed, rate_per_s, cv, requests, duration_s, start_s, unit, sort, drop_empty,
            lengths, arrival_column, prompt_column ...). They yield to the same option in the address.

    Returns:
        A trace that can be walked any number of times, in bounded memory.

    Raises:
        TraceError: in one sentence, where the address, an option or any row of the file is wrong.
    """
    text = os.fspath(address)
    if not text:
        raise TraceError("the trace's address is empty; give a file or synth:chat?rate=0.5&n=2000")
    if text.startswith(SYNTH):
        from afterwatt.traces.synth import synth_trace  # brings scipy.special

        return synth_trace(text, _options(wishes))
    place, query = (text, {}) if _exists(text) else split_query(text)
    options = _options(wishes | options_from_query(place, query))
    if format is not None and format not in FORMATS:
        raise TraceError(f"unknown format '{format}'{closest(format, tuple(FORMATS))}; known: {', '.join(FORMATS)}")
    peek = look(place)
    if options.names_columns:
        if format is not None:
            raise TraceError(f"format={format} has columns of its own; name either the format or the columns")
        return open_named(peek, options)
    form = _recognise(peek) if format is None else _as_told(peek, FORMATS[format])
    return form.open(peek, options)


def _options(wishes: dict[str, Any]) -> Options:
    known = [field.name for field in fields(Options)]
    for name in wishes:
        if name not in known:
            raise TraceError(f"unknown option '{name}'{closest(name, known)}; known: {', '.join(known)}")
    return Options(**wishes)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _recognise(peek: Peek) -> Format:
    for form in FORMATS.values():
        if form.matches(peek):
            return form
    columns = ", ".join(peek.columns[:12]) + (", …" if len(peek.columns) > 12 else "")
    likeliest = max(FORMATS.values(), key=lambda form: _likeness(form, peek))
    near = suggestion(peek)
    if not near and _likeness(likeliest, peek) > 0:
        near = f"; nearest is {likeliest.name}, for which it lacks {_missing(likeliest, peek)}"
    if not near.startswith("; if"):
        near += (
            f"; known: {', '.join(FORMATS)}; of a log of your own name the columns: ?arrival=...&prompt=...&output=..."
        )
    raise TraceError(f"the columns ({columns[:300]}) are those of no trace format known here{near}", path=peek.path)


def _as_told(peek: Peek, form: Format) -> Format:
    missing = [name for name in form.required if name not in peek.columns]
    if missing:
        raise TraceError(f"the file lacks {_missing(form, peek)}, which {form.name} files have", path=peek.path)
    return form


def _likeness(form: Format, peek: Peek) -> float:
    needs = form.required
    found = sum(1.0 if name in peek.columns else 0.5 * bool(closest(name, peek.columns)) for name in needs)
    return found / len(needs) if needs else -1.0


def _missing(form: Format, peek: Peek) -> str:
    missing = [name for name in form.required if name not in peek.columns]
    return ", ".join(f"'{name}'{closest(name, peek.columns)}" for name in missing) or "nothing"
