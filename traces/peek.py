"""A first look at a file: what kind it is and which columns it has, told from its content, never from its name."""

from __future__ import annotations

import csv
import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from afterwatt.traces.errors import TraceError, shown

Kind = Literal["parquet", "csv", "jsonl", "json", "directory"]

_PEEK_BYTES = 1 << 16
LINE_BYTES = 1 << 24
"""Longest line believed in a text file: a line of 16 MiB is no request."""

_PACKED = {
    b"\x1f\x8b": "gzip-compressed; unpack it first (gunzip)",
    b"PK\x03\x04": "a zip archive; unpack it first (unzip)",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unpack it first (unzstd)",
    b"BZh": "bzip2-compressed; unpack it first (bunzip2)",
    b"\xfd7zXZ": "xz-compressed; unpack it first (unxz)",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"version https://git-lfs": "a Git LFS pointer, not the data; fetch it with git lfs pull",
}


@dataclass(frozen=True, slots=True)
class Peek:
    """What a first look found.

    Attributes:
        path: the file as the user wrote it.
        kind: how it is stored.
        columns: names of the columns (CSV header, Parquet schema, keys of the first JSON object), in file order.
        first: the first JSON object, or None for other kinds.
        header_lines: lines up to and including a CSV's header (0 for other kinds).
    """

    path: str
    kind: Kind
    columns: tuple[str, ...]
    first: dict[str, Any] | None = None
    header_lines: int = 0


def look(path: str) -> Peek:
    """Look at a file's first bytes.

    Raises:
        TraceError: if there is no such file, it is no regular file, is empty, or is of no kind known here.
    """
    if trace_chunks(path):
        return Peek(path, "directory", ())
    head = _first_bytes(path)
    if head.startswith(b"PAR1"):
        return Peek(path, "parquet", _parquet_columns(path))
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            raise TraceError(f"the file is {what}", path=path)
    body = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not body:
        raise TraceError("the file is blank; a trace needs at least one request", path=path)
    if body.startswith(b"{"):
        first = _first_object(path)
        return Peek(path, "jsonl", tuple(first), first)
    if body.startswith(b"["):
        return Peek(path, "json", ())
    return _peek_csv(path, head)


def trace_chunks(path: str) -> list[Path]:
    """ServeGen's `chunk-<i>-trace.csv` files in a folder, by number; none where it is no such folder."""
    try:
        return sorted((file for file in Path(path).glob("chunk-*-trace.csv") if file.is_file()), key=chunk_number)
    except (OSError, ValueError):
        return []


def chunk_number(file: str | Path) -> int:
    """The number in the name of one of ServeGen's chunk files; 0 where there is none."""
    found = re.search(r"chunk-(\d{1,9})-", Path(file).name)
    return int(found[1]) if found else 0


def closest(word: str, choices: list[str] | tuple[str, ...]) -> str:
    """The words " (did you mean 'x'?)" for the nearest choice, or nothing where none is near."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _first_bytes(path: str) -> bytes:
    file = Path(path)
    try:
        if file.is_dir():
            raise TraceError("this is a directory; name a file in it", path=path)
        if not file.exists():
            raise TraceError(f"there is no such file{_sibling(file)}", path=path)
        if not file.is_file():
            raise TraceError(
                "this is no regular file, and traces are read more than once; save it to a file", path=path
            )
        with file.open("rb") as stream:
            head = stream.read(_PEEK_BYTES)
    except (OSError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"the file cannot be opened ({error}); check its name and permissions", path=path) from error
    if not head:
        raise TraceError("the file is empty; a trace needs at least one request", path=path)
    return head


def _sibling(file: Path) -> str:
    try:
        return closest(file.name, [other.name for other in file.parent.iterdir()])
    except OSError:
        return f" (nor a folder {shown(str(file.parent))})"


def _parquet_columns(path: str) -> tuple[str, ...]:
    try:
        with pq.ParquetFile(path) as file:
            return tuple(file.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise TraceError(
            f"the Parquet file is damaged or cut short ({first_line(error)}); get it again", path=path
        ) from error


def first_line(error: BaseException) -> str:
    """A library's complaint, cut to one line fit for the middle of a sentence."""
    text = str(error).strip()
    return (text.splitlines() or [type(error).__name__])[0].rstrip(". ")[:160]


def _first_object(path: str) -> dict[str, Any]:
    with Path(path).open("rb") as stream:
        line = stream.read(3)
        line = b"" if line == b"\xef\xbb\xbf" else line
        line += stream.readline(LINE_BYTES)
        while not line.strip():
            line = stream.readline(LINE_BYTES)
    return parse_object(line, path, 1)


def parse_object(line: bytes, path: str, row: int) -> dict[str, Any]:
    """One line of JSON Lines as a dict.

    Raises:
        TraceError: if the line is no JSON object.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        if len(line) >= LINE_BYTES:
            raise TraceError(f"the line exceeds {LINE_BYTES:,} bytes; split it", path=path, row=row) from error
        raise TraceError(
            f"the line is not JSON ({first_line(error)}); JSON Lines hold one whole object a line", path=path, row=row
        ) from error
    if not isinstance(value, dict):
        raise TraceError(f"{shown(value)} is not a JSON object; JSON Lines hold one object a line", path=path, row=row)
    return value


def _peek_csv(path: str, head: bytes) -> Peek:
    try:
        text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "strict" if len(head) < _PEEK_BYTES else "ignore")
    except UnicodeDecodeError as error:
        raise TraceError(
            "the file is neither Parquet nor UTF-8 text (JSON Lines, CSV); convert it first", path=path
        ) from error
    lines = re.split(r"\r\n|\n|\r", text)
    number = next((i for i, line in enumerate(lines) if line.strip()), 0)
    header = lines[number]
    if "\x00" in header or not header.isprintable():
        raise TraceError("the file is neither Parquet nor text (JSON Lines, CSV); convert it first", path=path)
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if "," not in header and separator in header:
            raise TraceError(f"the columns are separated by {name}; save the file with commas between", path=path)
    try:
        columns = tuple(next(csv.reader([header])))
    except (csv.Error, StopIteration) as error:
        raise TraceError(f"the header line cannot be split at commas ({error}); check its quotes", path=path) from error
    return Peek(path, "csv", columns, header_lines=number + 1)
