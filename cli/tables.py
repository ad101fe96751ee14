"""Tables for the terminal, with the sources of facts as numbered notes below; plain when piped."""

from collections.abc import Sequence
from typing import NamedTuple


class Column(NamedTuple):
    """A column: its head, whether its cells stand at the right, and whether they may be folded when space is short."""

    title: str
    right: bool = False
    folds: bool = True


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    title: str = "",
    note: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print a table on standard output.

    Args:
        columns: heads; all empty for a table without.
        rows: cells as text.
        title: a line above.
        note: a sentence below.
        notes: numbered lines below, `[1] ...`.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from reports.terminal import default_console

    console = default_console()
    headed = any(column.title for column in columns)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", show_header=headed)
    for column in columns:
        justify = "right" if column.right else "left"
        table.add_column(Text(column.title), justify=justify, no_wrap=not column.folds, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if title:
        console.print(Text(title), style="bold", highlight=False)
    console.print(table)
    if note:
        console.print(Text(note), style="dim", highlight=False)
    if notes:
        console.print()
    for number, text in enumerate(notes, 1):
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(f"[{number}]"), Text(text))
        console.print(grid, style="dim")


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
