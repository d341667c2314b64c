"""Formats output: lines fit the width of a terminal, and are kept whole in files and pipes."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_ELSEWHERE = 240
"""Width, in characters, of a table in a file or a pipe."""
_ELLIPSIS = "…"


def terminal_width(*, stderr: bool = False) -> int | None:
    """Return the width of the terminal, in characters, or None if the output goes to a file or a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return shutil.get_terminal_size().columns if stream.isatty() else None


def echo(text: str, *, indent: int = 0, err: bool = False) -> None:
    """Print a line; in a terminal, wrap it between words and indent the lines that follow."""
    width = terminal_width(stderr=err)
    if width is not None and len(text) > width:
        text = textwrap.fill(
            text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    click.echo(text, err=err)


def echo_field(label: str, text: str) -> None:
    """Print an indented label with a text beside it; in a terminal, wrap the text."""
    column, width = 11, terminal_width()
    lines = [text]
    if width is not None:
        lines = textwrap.wrap(text, width - column, break_long_words=False, break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        click.echo(f"{f'  {label}' if number == 0 else '':<{column}}{line}")


def echo_cut(text: str) -> None:
    """Print a line; in a terminal, cut it to the width."""
    click.echo(text if (width := terminal_width()) is None else cut(text, width))


def cut(text: str, chars: int) -> str:
    """Cut a text to a number of characters. The last character of a cut text is an ellipsis.

    >>> cut("20261101T120000Z", 9), cut("short", 9)
    ('20261101…', 'short')
    """
    return text if len(text) <= chars else text[: chars - 1] + _ELLIPSIS


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, cut: Collection[str] = (), wrapped: Collection[str] = ()
) -> None:
    """Print a table without borders.

    Parameters
    ----------
    columns : sequence of str
        The headings.
    rows : iterable of sequence of str
        The cells.
    cut, wrapped : collection of str
        The headings of the columns that shrink if the table is wider than the terminal. The cells of `cut` end with an
        ellipsis; those of `wrapped` are wrapped.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=name not in {*cut, *wrapped}, overflow="fold")
    for row in rows:
        cells = zip(columns, row, strict=True)
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") if name in cut else cell for name, cell in cells))
    console().print(table)


def console() -> Console:
    """Return a console as wide as the terminal, or wide enough for whole tables in files and pipes."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH_ELSEWHERE)
