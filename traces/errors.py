"""The one error of this package: a trace that cannot be read as it stands."""

from __future__ import annotations

from pathlib import Path

_SHOWN_CHARS = 60


class TraceError(ValueError):
    """A trace, or a wish about one, that is refused.

    The message is one sentence that names file, row, column, value, rule and way out, as far as each applies.
    The offenders are attributes too, so that a caller need not parse the sentence.

    Attributes:
        path: the file, or None where there is none (a synthetic trace).
        row: 1-based number of the data row (header and blank lines not counted), or None.
        column: the column's name in the file, or None.
    """

    def __init__(
        self, message: str, *, path: str | Path | None = None, row: int | None = None, column: str | None = None
    ) -> None:
        self.path = None if path is None else str(path)
        self.row = row
        self.column = column
        place = ", ".join(
            part
            for part in (
                self.path,
                None if row is None else f"row {row}",
                None if column is None else f"column '{column}'",
            )
            if part is not None
        )
        super().__init__(f"{place}: {message}" if place else message)


def shown(value: object) -> str:
    """A value as it may stand in a message: quoted if text, and never longer than a line."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"
