"""Tables for the terminal, with the sources of facts as numbered notes below; plain when piped."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

_GAP: Final = 2


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its head.
        right: whether its cells stand at the right.
        folds: whether they may be broken over lines when space is short.
        spare: whether the column goes when the table would not fit otherwise.
    """

    title: str
    right: bool = False
    folds: bool = True
    spare: bool = False


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    title: str = "",
    note: str | None = None,
    sources: Sequence[str] = (),
) -> None:
    """Print a table on standard output.

    Args:
        columns: heads; all empty for a table without.
        rows: cells as text.
        title: a line above.
        note: a sentence below.
        sources: numbered lines below, `[1] ...`.
    """
    from afterwatt.reports.terminal import default_console

    console = default_console()
    if title:
        console.print(title, style="bold", highlight=False, markup=False)
    _print_cells(console, columns, rows)
    if note:
        console.print(note, style="dim", highlight=False, markup=False)
    if sources:
        console.print()
    for number, text in enumerate(sources, 1):
        _print_cells(console, [Column("", folds=False), Column("")], [[f"[{number}]", text]], "dim", gap=1)


def _print_cells(
    console: "Console",
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    style: str = "",
    gap: int = _GAP,
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    widths = [max(map(len, cells)) + gap for cells in zip([c.title for c in columns], *rows, strict=True)]
    fits = sum(widths) <= console.width + gap
    shown = [place for place, column in enumerate(columns) if fits or not column.spare]
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, gap - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
        style=style,
        show_header=any(column.title for column in columns),
    )
    for place in shown:
        column = columns[place]
        justify = "right" if column.right else "left"
        table.add_column(Text(column.title), justify=justify, no_wrap=not column.folds, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(row[place]) for place in shown), style=style)
    console.print(table)


class Footnotes:
    """Sources, numbered in the order in which they are first cited."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def cite(self, text: str) -> str:
        """Give the mark of a source: `[3]`; nothing for none."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"
