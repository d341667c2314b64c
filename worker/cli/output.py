"""How output looks: whole lines in files and pipes, at most the width of the terminal in a terminal."""

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
"""Columns of a table that goes into a file or a pipe."""
_ELLIPSIS = "…"


def terminal_width(*, stderr: bool = False) -> int | None:
    """Return the columns of the terminal that receives the output; None if a file or a pipe receives it."""
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
    """Print an indented label and a text beside it; in a terminal, wrap the text."""
    column, width = 11, terminal_width()
    lines = [text]
    if width is not None:
        lines = textwrap.wrap(text, width - column, break_long_words=False, break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        click.echo(f"{f'  {label}' if number == 0 else '':<{column}}{line}")


def echo_cut(text: str) -> None:
    """Print a line; in a terminal, cut what does not fit."""
    click.echo(text if (width := terminal_width()) is None else cut(text, width))


def cut(text: str, chars: int) -> str:
    """Cut a text to a number of characters, the last of which is then an ellipsis.

    >>> cut("20261101T120000Z", 9), cut("short", 9)
    ('20261101…', 'short')
    """
    return text if len(text) <= chars else text[: chars - 1] + _ELLIPSIS


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "error"), plural(1_000, "warning")
    ('1 error', '1,000 warnings')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, cut: Collection[str] = (), wrapped: Collection[str] = ()
) -> None:
    """Print a table without lines.

    Parameters
    ----------
    columns : sequence of str
        The headings.
    rows : iterable of sequence of str
        The cells.
    cut, wrapped : collection of str
        The headings of the columns that give way if the table is wider than the terminal: their cells are cut, with an
        ellipsis, or wrapped.
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
