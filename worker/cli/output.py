"""Formats output: wraps or cuts lines in a terminal, and prints whole lines to files and pipes."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scoreline.storage.wording import cut, printable

_WIDTH_ELSEWHERE = 240
"""Width, in characters, of a table in a file or a pipe."""
_GAP_CHARS = 2
"""Characters between two columns of a table."""
_FEWEST_CHARS = 12
"""Minimum width of a column that shrinks."""


def terminal_width(*, stderr: bool = False) -> int | None:
    """Return the width of the terminal in characters. Return None if the output is a file or a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return shutil.get_terminal_size().columns if stream.isatty() else None


def echo(text: str, *, indent: int = 0, err: bool = False) -> None:
    """Print a line; in a terminal, wrap the line between words, and indent its continuation.

    Control characters are escaped here and in all functions of this module, because names and messages come from
    outside.
    """
    text = printable(text)
    width = terminal_width(stderr=err)
    if width is not None and len(text) > width:
        text = textwrap.fill(
            text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    click.echo(text, err=err)


def echo_field(label: str, text: str) -> None:
    """Print an indented label and a text; in a terminal, wrap the text."""
    column, width = 11, terminal_width()
    lines = [text := printable(text)]
    if width is not None:
        lines = textwrap.wrap(text, width - column, break_long_words=False, break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        before = f"  {label:<{column - 3}} " if number == 0 else " " * column
        click.echo(f"{before}{line}")


def echo_cut(text: str) -> None:
    """Print a line; in a terminal, cut the line to the width of the terminal."""
    text = printable(text)
    click.echo(text if (width := terminal_width()) is None else cut(text, width))


def echo_json(value: Any) -> None:
    """Print a value as JSON. Control characters are escaped, but other characters outside ASCII are not."""
    click.echo(printable(json.dumps(value, indent=1, ensure_ascii=False), keep="\n"))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, cut: Sequence[str] = (), wrapped: Sequence[str] = ()
) -> None:
    """Print a table without borders.

    If the table is wider than the terminal, the columns in `wrapped` and `cut` shrink. The other columns keep their
    width, so the terminal may break lines.

    Parameters
    ----------
    columns : sequence of str
        The headings.
    rows : iterable of sequence of str
        The cells.
    cut, wrapped : sequence of str
        The headings of columns that may shrink: first those in `wrapped`, then those in `cut`. Cells in `wrapped`
        columns are wrapped, and cells in `cut` columns are cut with an ellipsis.
    """
    cells, out = [[printable(cell, keep="\n") for cell in row] for row in rows], console()
    shown = [printable(name) for name in columns]
    widths = table_widths(shown, cells)
    excess = sum(widths) + _GAP_CHARS * (len(columns) - 1) - out.width
    for name in (*wrapped, *cut):
        place = columns.index(name)
        shrunk = min(max(0, excess), max(0, widths[place] - max(len(name), _FEWEST_CHARS)))
        widths[place] -= shrunk
        excess -= shrunk
    if excess > 0:
        out = Console(width=out.width + excess)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP_CHARS, 0, 0))
    for name, heading, width in zip(columns, shown, widths, strict=True):
        table.add_column(Text(heading), min_width=width, max_width=width, no_wrap=name not in wrapped, overflow="fold")
    for row in cells:
        pairs = zip(columns, row, strict=True)
        table.add_row(*(Text(cell, overflow="ellipsis" if name in cut else None) for name, cell in pairs))
    out.print(table)


def table_widths(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[int]:
    """Return the width that each column of a table needs, in characters."""
    texts = zip(columns, *rows, strict=True)
    return [max((cell_len(line) for text in column for line in text.splitlines()), default=0) for column in texts]


def console() -> Console:
    """Return a console as wide as the terminal. For files and pipes, it is wide enough for whole tables."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH_ELSEWHERE)
