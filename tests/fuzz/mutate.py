"""Damaged input, drawn from a seed: bytes, texts, JSON values, tables and words that are nearly sound."""

import copy
import io
import json
import random
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DEEP = 3000
"""Levels of nesting: more than Python's stack takes."""
NUMBERS = (
    *("0", "-1", "1", "-0.0", "1e400", "-1e308", "1e-400", "nan", "inf", "-inf", "0.5", "1e9", "1e18", "3.7"),
    *("9" * 400, "9" * 4301, "9223372036854775808", "18446744073709551616", "4294967296", "2147483648"),
    *("²", "٣", "1_000", "0x10", "1,5", "", " ", "true", "null", "1e", "--1"),
)
TEXTS = (
    *("", "x", "\x00", "a\x00b", "\ufeff", "²", "\ud800", "..", "/", "/dev/zero", "x" * 300, "x" * 5000),
    *("[" * DEEP, '{"a":' * DEEP, '"', "'", "\n", "\r", ",", "=", "?", "&", "%", "://", "#", "\\ud800", "<a href='x'>"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.5, 1e308, 10**18, 2**63, 2**64, 10**400, float("nan"), float("inf")),
    *("", "x", "1", "²", "a\x00b", "\ud800", "x" * 300, [], [None], [[]], {}, {"a": None}, [1, "x"], {"": []}),
)
_NUMBER = re.compile(r"-?\d[\d_]*(?:\.\d+)?(?:[eE][-+]?\d+)?")


def damaged_bytes(draw: random.Random, content: bytes) -> bytes:
    """Flip, cut, double or insert a few bytes."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[at : at + draw.choice((1, 4, 64, len(data)))]
        elif kind == 2:
            data[at:at] = data[at : at + draw.choice((1, 16, 256))]
        elif kind == 3:
            data[at:at] = draw.choice(TEXTS).encode("utf-8", "surrogatepass")
        else:
            data[at : at + 1] = bytes([draw.choice((0, 9, 10, 13, 34, 44, 91, 123, 127, 192, 255))])
    return bytes(data)


def damaged_text(draw: random.Random, content: str) -> str:
    """Put another number or text in place of one, or drop, double, swap or mix lines."""
    for _ in range(draw.randint(1, 3)):
        kind = draw.randrange(6)
        numbers = list(_NUMBER.finditer(content))
        lines = content.splitlines(keepends=True)
        if kind <= 1 and numbers:
            found = draw.choice(numbers)
            content = content[: found.start()] + draw.choice(NUMBERS) + content[found.end() :]
        elif kind == 2 and lines:
            at = draw.randrange(len(lines))
            content = "".join(lines[:at] + draw.choice(([], [lines[at]] * 2)) + lines[at + 1 :])
        elif kind == 3 and len(lines) > 1:
            one, other = draw.sample(range(len(lines)), 2)
            lines[one], lines[other] = lines[other], lines[one]
            content = "".join(lines)
        else:
            words = list(re.finditer(r"\"[^\"\n]*\"|[A-Za-z_][\w.-]*", content))
            if words:
                found = draw.choice(words)
                word = draw.choice((draw.choice(TEXTS), f'"{draw.choice(TEXTS)}"', draw.choice(words)[0]))
                content = content[: found.start()] + word + content[found.end() :]
    return content


def damaged_value(draw: random.Random, value: Any) -> Any:
    """Replace, drop, rename, double or wrap something within a JSON value."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.randint(1, 2)):
        holders = _holders(value)
        if not holders:
            return copy.deepcopy(draw.choice(VALUES))
        holder = draw.choice(holders)
        key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
        kind = draw.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice(("", "x", "²", "\x00", *holder))] = holder.pop(key)
        elif kind == 2:
            holder[key] = [holder[key]]
        elif kind == 3 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    return value


def _holders(value: Any) -> list[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return ([value] if inside else []) + [holder for item in inside for holder in _holders(item)]


def json_bytes(draw: random.Random, value: Any) -> bytes:
    """Write a damaged value as JSON, at times damaged again as text or bytes, or nested without end."""
    kind = draw.randrange(12)
    if kind == 0:
        return draw.choice(("[" * 100_000, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * DEEP + "]" * DEEP)).encode()
    if kind == 1:
        return damaged_bytes(draw, json.dumps(value).encode())
    if kind == 2:
        return damaged_text(draw, json.dumps(value, indent=1)).encode("utf-8", "surrogatepass")
    return json.dumps(damaged_value(draw, value)).encode("utf-8", "surrogatepass")


_TYPES = (
    *(pa.string(), pa.large_string(), pa.binary(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32()),
    *(pa.decimal128(20, 2), pa.date32(), pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.duration("s"), pa.null()),
    *(pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.dictionary(pa.int32(), pa.string())),
)


def damaged_parquet(draw: random.Random, content: bytes) -> bytes:
    """Damage the bytes, or write the table again with a column of another type, gone, renamed or of odd cells."""
    if draw.random() < 0.4:
        return damaged_bytes(draw, content)
    table = pq.read_table(io.BytesIO(content))
    at = draw.randrange(table.num_columns)
    field, kind = table.schema.field(at), draw.randrange(6)
    if kind == 0:
        table = table.remove_column(at)
    elif kind == 1:
        name = draw.choice(("", "x", "\x00", *table.schema.names))
        table = table.rename_columns([name if place == at else old for place, old in enumerate(table.schema.names)])
    elif kind == 2:
        table = table.slice(0, draw.choice((0, 1)))
    elif kind == 3:
        table = table.set_column(at, field.name, _cast(draw.choice(_TYPES), table.column(at)))
    else:
        cells = table.column(at).to_pylist()
        cells[draw.randrange(len(cells))] = draw.choice((None, -1, 0, 2**62, float("nan"), float("inf"), 1e300, "x"))
        try:
            table = table.set_column(at, field.name, pa.array(cells, from_pandas=False))
        except (pa.ArrowException, OverflowError):
            table = table.set_column(at, field.name, pa.array(["x"] * table.num_rows))
    sink = io.BytesIO()
    try:
        pq.write_table(table, sink)
    except pa.ArrowException:
        return damaged_bytes(draw, content)
    return sink.getvalue()


def _cast(kind: pa.DataType, column: pa.ChunkedArray) -> pa.Array:
    try:
        return column.cast(kind)
    except pa.ArrowException:
        return pa.nulls(len(column), kind)


def damaged_words(draw: random.Random, words: list[str]) -> list[str]:
    """Damage one or two words of a command line."""
    words = list(words)
    for _ in range(draw.randint(1, 2)):
        at = draw.randrange(len(words))
        kind = draw.randrange(5)
        if kind == 0:
            words[at] = draw.choice((*NUMBERS, *TEXTS))
        elif kind == 1:
            words[at] = damaged_bytes(draw, words[at].encode("utf-8", "surrogatepass")).decode(
                "utf-8", "surrogateescape"
            )
        elif kind == 2:
            words.insert(at, draw.choice(words))
        elif kind == 3 and len(words) > 1:
            del words[at]
        else:
            words[at] = damaged_text(draw, words[at])
    return words
