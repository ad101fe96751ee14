"""Checked conversion of one column's cells to numbers, instants, labels and lists of ids.

Every reader funnels its values through here, so that a null, a NaN, a fraction, a word or a number of absurd size is
refused in one place, with file, row, column, value and rule. Conversion is by column (Arrow kernels); only the error
path looks at single cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from afterwatt.traces.errors import TraceError, shown
from afterwatt.traces.schema import Floats, Ints

_FIX = "correct or remove the row"


@dataclass(frozen=True, slots=True)
class Cells:
    """A stretch of one column as its file gave it.

    Attributes:
        path: the file, for messages.
        column: the column's name in the file.
        first_row: 1-based data row of the first cell.
        values: an Arrow array (CSV: text; Parquet: as stored) or a plain list (JSON).
        text: True where the file format knows only text (CSV), so that numbers are to be parsed.
    """

    path: str
    column: str
    first_row: int
    values: Any
    text: bool = False

    def fail(self, index: int, rule: str) -> NoReturn:
        """Raise the TraceError that names cell `index` (0-based) with its value, and the rule it breaks."""
        value = self.values[index]
        if isinstance(value, pa.Scalar):
            value = value.as_py()
        raise TraceError(f"{shown(value)} {rule}", path=self.path, row=self.first_row + index, column=self.column)

    def fail_where(self, bad: NDArray[np.bool_], rule: str) -> None:
        """Raise for the first cell marked bad, if any is."""
        if bad.any():
            self.fail(int(np.argmax(bad)), rule)


def ints(cells: Cells, least: int, most: int, why: str) -> Ints:
    """Whole numbers in least..most; a float column passes where every value is whole (4808.0).

    Args:
        cells: what to convert.
        least: smallest value allowed.
        most: largest value allowed.
        why: what the column counts, as the subject of the rule ("prompt tokens").

    Raises:
        TraceError: on a null, a non-number, a fraction or a value outside the bounds.
    """
    values = _numbers(cells)
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        cells.fail_where(~finite, f"is not a number of {why}; {_FIX}")
        cells.fail_where(values != np.floor(values), f"has a fraction, but {why} are counted in whole numbers; {_FIX}")
    cells.fail_where(values < least, f"is below {least}, the least number of {why} there can be; {_FIX}")
    cells.fail_where(values > most, f"is more than {most:,} {why}, beyond belief: is the column or its unit right?")
    return np.asarray(values, np.int64)


def floats(cells: Cells, least: float, most: float, rule: str) -> Floats:
    """Finite numbers in least..most.

    Raises:
        TraceError: on a null, a non-number, NaN, an infinity, or a value outside the bounds (`rule` ends the sentence).
    """
    values = np.asarray(_numbers(cells), np.float64)
    cells.fail_where(~np.isfinite(values), f"is not a finite number; {_FIX}")
    cells.fail_where((values < least) | (values > most), rule)
    return values


def instants_ns(cells: Cells, zone: bool, form: str) -> Ints:
    """Wall-clock instants as nanoseconds since 1970 UTC, from ISO 8601 text or Arrow timestamps.

    Args:
        cells: what to convert.
        zone: whether each text must carry an offset (then converted to UTC) or must not (then taken as UTC).
        form: the form required, as examples for the message.

    Raises:
        TraceError: on a null, text of another form, a missing or unexpected zone.
    """
    array = _arrow(cells, pa.string())
    if pa.types.is_timestamp(array.type):
        if zone and array.type.tz is None:
            cells.fail(0, "has no time zone; store the column as timestamps in UTC")
        kind, rule = pa.timestamp("ns", array.type.tz), f"lies outside the years 1970 to 2262; {_FIX}"
    elif _is_text(array.type):
        kind = pa.timestamp("ns", "UTC") if zone else pa.timestamp("ns")
        rule = f"is not a date and time of the form {form}; {_FIX}"
    else:
        cells.fail(0, f"is not a date and time; write one like {form}")
    ticks = np.asarray(pc.cast(_cast(cells, array, kind, rule), pa.int64()))
    cells.fail_where(ticks < 0, f"lies before 1970; {_FIX}")
    return ticks


def labels(cells: Cells) -> pa.Array:
    """Text labels as a plain string array; a null, or an empty CSV cell, stays null. Whole numbers become text.

    Raises:
        TraceError: where a cell is neither text nor a whole number.
    """
    array = _plain(_as_array(cells, pa.string()))
    if pa.types.is_null(array.type):
        return pc.cast(array, pa.string())
    if not (_is_text(array.type) or pa.types.is_integer(array.type)):
        cells.fail(_first_valid(array), "is neither text nor a whole number, so it cannot label a request; convert it")
    text = pc.cast(array, pa.string())
    return pc.replace_with_mask(text, pc.equal(text, ""), pa.scalar(None, pa.string())) if cells.text else text


def id_lists(cells: Cells) -> pa.Array:
    """Lists of whole numbers below 2^64 (hash ids), as list<uint64>; in CSV as digits with spaces between.

    Raises:
        TraceError: on a null list, a null or non-number within one, or a negative id.
    """
    array = _split_ids(cells) if cells.text else _id_array(cells)
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        cells.fail(0, "is not a list of hash ids; write whole numbers in a list")
    if not (pa.types.is_integer(array.type.value_type) or len(array.flatten()) == 0):
        cells.fail(0, "holds hash ids that are not whole numbers; number the blocks")
    flat = array.flatten()
    if flat.null_count or (len(flat) and pc.min(flat).as_py() < 0):
        bad = np.asarray(pc.or_kleene(pc.is_null(flat), pc.fill_null(pc.less(flat, 0), True)))
        owner = np.searchsorted(np.asarray(array.offsets) - array.offsets[0].as_py(), np.argmax(bad), side="right") - 1
        cells.fail(int(owner), f"holds a null or negative hash id; {_FIX}")
    return pc.cast(array, pa.list_(pa.uint64()))


def _id_array(cells: Cells) -> pa.Array:
    """Lists of ids as an Arrow array: signed, unless one needs the 64th bit."""
    if isinstance(cells.values, list):
        parts = [part for value in cells.values if isinstance(value, list) for part in value]
        if float in set(map(type, parts)):  # Arrow would cut the fraction off
            _blame(cells, (list,))
        if any(type(part) is int and part >= 2**63 for part in parts):
            return _arrow(cells, pa.list_(pa.uint64()))
    return _arrow(cells, pa.list_(pa.int64()))


def _numbers(cells: Cells) -> NDArray[Any]:
    """The cells as an int64, uint64 or float64 numpy array without nulls."""
    array = _arrow(cells, None)
    if _is_text(array.type):
        if not cells.text:
            cells.fail(0, "is text where a number belongs; store the column as numbers")
        return _parsed_numbers(cells, array)
    if pa.types.is_unsigned_integer(array.type):
        return np.asarray(pc.cast(array, pa.uint64()))
    if pa.types.is_integer(array.type):
        return np.asarray(pc.cast(array, pa.int64()))
    if pa.types.is_floating(array.type):
        return np.asarray(pc.cast(array, pa.float64()))
    return cells.fail(0, f"is of type {array.type} where a number belongs; store the column as numbers")


def _parsed_numbers(cells: Cells, array: pa.Array) -> NDArray[Any]:
    try:
        return np.asarray(pc.cast(array, pa.int64()))
    except pa.ArrowInvalid:
        return np.asarray(_cast(cells, array, pa.float64(), f"is not a number; {_FIX}"))


def _cast(cells: Cells, array: pa.Array, kind: pa.DataType, rule: str) -> pa.Array:
    """Parse text, and name the first cell that resists (white space around a value is forgiven)."""
    try:
        return pc.cast(array, kind)
    except pa.ArrowInvalid:
        trimmed = pc.utf8_trim_whitespace(array) if _is_text(array.type) else array
    index = _first_failing(trimmed, lambda part: pc.cast(part, kind))
    if index is None:
        return pc.cast(trimmed, kind)
    return cells.fail(index, f"is empty; {_FIX}" if trimmed[index].as_py() == "" else rule)


def _first_failing(array: pa.Array, convert: Callable[[pa.Array], object]) -> int | None:
    """Index of the first cell on which `convert` raises, by halving; None where it accepts all."""

    def fails(low: int, high: int) -> bool:
        try:
            convert(array.slice(low, high - low))
        except pa.ArrowInvalid:
            return True
        return False

    if not fails(0, len(array)):
        return None
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(low, middle) else (middle, high)
    return low


def _arrow(cells: Cells, wanted: pa.DataType | None) -> pa.Array:
    """The cells as a plain Arrow array (dictionaries decoded) without nulls."""
    return _without_nulls(cells, _plain(_as_array(cells, wanted)))


def _without_nulls(cells: Cells, array: pa.Array) -> pa.Array:
    if array.null_count:
        cells.fail(int(np.argmax(np.asarray(array.is_null()))), f"stands where a value is required; {_FIX}")
    return array


def _as_array(cells: Cells, wanted: pa.DataType | None) -> pa.Array:
    if not isinstance(cells.values, list):
        return cells.values
    try:
        return pa.array(cells.values, wanted)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        kinds = (int, float) if wanted is None else (str,) if pa.types.is_string(wanted) else (list,)
        if kinds == (str,) and all(type(value) in (int, str, NoneType) for value in cells.values):
            return _texts(cells)
        return _blame(cells, kinds)


def _texts(cells: Cells) -> pa.Array:
    """Return numbers and texts as texts; half of a UTF-16 pair is no text that any file can hold."""
    texts = [None if value is None else str(value) for value in cells.values]
    for index, text in enumerate(texts):
        if text is not None and not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            cells.fail(index, f"is not text that can be read: it has one half of a pair of UTF-16; {_FIX}")
    return pa.array(texts, pa.string())


def _blame(cells: Cells, kinds: tuple[type, ...]) -> NoReturn:
    """Name the JSON value that is not of the kinds its column needs."""
    names = {int: "a number", str: "text", list: "a list of whole numbers"}
    for index, value in enumerate(cells.values):
        parts = value if isinstance(value, list) else [value]
        small = all(type(part) is not int or -(2**63) <= part < 2**64 for part in parts)
        whole = not isinstance(value, list) or all(type(part) is int for part in parts)
        if type(value) not in kinds or not small or not whole:
            cells.fail(index, f"is not {names[kinds[0]]} that can be read; {_FIX}")
    cells.fail(0, f"and the values after it do not form one column of {names[kinds[0]]}; {_FIX}")


def _split_ids(cells: Cells) -> pa.Array:
    text = pc.utf8_trim_whitespace(cells.values)
    parts = pc.if_else(pc.equal(text, ""), pa.scalar([], pa.list_(pa.string())), pc.utf8_split_whitespace(text))
    parts = pc.cast(parts, pa.list_(pa.string()))
    negative = pc.any(pc.starts_with(parts.flatten(), "-")).as_py()
    kind = pa.int64() if negative else pa.uint64()
    try:
        flat = pc.cast(parts.flatten(), kind)
    except pa.ArrowInvalid:
        index = _first_failing(parts, lambda part: pc.cast(part.flatten(), kind))
        cells.fail(index or 0, f"is not a list of hash ids (whole numbers with spaces between); {_FIX}")
    counts = np.asarray(pc.list_value_length(parts), np.int64)
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32()), flat)


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _first_valid(array: pa.Array) -> int:
    return int(np.argmax(np.asarray(array.is_valid())))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
