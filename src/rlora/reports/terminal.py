"""Tables on a terminal, which neither break a word nor lose a column."""

import os
import sys
import textwrap
from collections.abc import Sequence

import rich.table
from rich import box
from rich.console import Console, Group, RenderableType
from rich.text import Text

from rlora.reports.render import marked
from rlora.reports.tables import Table

GAP = 2  # characters between two columns
LONGEST_CELL = 40  # a longer text, such as the reason of a skipped run, may wrap
NOTE_WIDTH = 100
FILE_WIDTH = 1_000  # a file has no edge, at which a table would have to break


def make_console() -> Console:
    """Return the console of the report: as wide as the terminal, or as a table needs in a file."""
    is_wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=FILE_WIDTH) if is_wide else Console()


def view(table: Table, width: int) -> RenderableType:
    """Return a table with its title and notes.

    If the table is too wide for the terminal, cells lose the spaces around "±". If that does not
    suffice, it is shown in several parts that repeat the columns of text.

    Args:
        table: Table as text.
        width: Width of the terminal in characters.
    """
    rows = [table.header, *table.rows]
    columns = range(len(table.header))
    widths = [max(len(row[column]) for row in rows) for column in columns]
    if _total(widths) > width:
        rows = [[text.replace(" ± ", "±") for text in row] for row in rows]
        widths = [_least_width(rows, column) for column in columns]
    parts = [_part(table, rows, widths, part) for part in _columns(table, widths, width)]
    notes = [
        line for note in table.notes for line in textwrap.wrap(note, min(width, NOTE_WIDTH)) or [""]
    ]
    return Group(Text(table.title, style="bold"), *parts, *map(Text, notes), Text())


def _columns(table: Table, widths: Sequence[int], width: int) -> list[list[int]]:
    """Return the columns of each part."""
    keys = list(range(table.text_columns))
    parts = [list(keys)]
    for column in range(table.text_columns, len(widths)):
        wider = [*parts[-1], column]
        if _total([widths[each] for each in wider]) > width and parts[-1] != keys:
            parts.append([*keys, column])
        else:
            parts[-1] = wider
    return parts


def _part(
    table: Table, rows: Sequence[Sequence[str]], widths: Sequence[int], columns: Sequence[int]
) -> rich.table.Table:
    grid = rich.table.Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        title = "\n".join(textwrap.wrap(rows[0][column], max(widths[column], 1)))
        grid.add_column(
            Text(title),
            justify="left" if column < table.text_columns else "right",
            no_wrap=widths[column] <= LONGEST_CELL,
            overflow="fold",
        )
    for number, row in enumerate(rows[1:]):
        texts = marked(table, number, [text.replace("[", r"\[") for text in row], "[bold]{}[/]")
        grid.add_row(*(texts[column] for column in columns))
    return grid


def _least_width(rows: Sequence[Sequence[str]], column: int) -> int:
    """Return the width of a column whose header breaks between words and whose cells do not."""
    words = max(map(len, rows[0][column].split() or [""]))
    return max([words, *(len(row[column]) for row in rows[1:])])


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)
