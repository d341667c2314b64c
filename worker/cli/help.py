"""Formats help pages: commands in sections, examples at the end, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

_LONGEST_OPTION = 30
"""Maximum width of an option and its choices. If this width is exceeded, the choices are moved into the help text of
the option."""


_UNBREAKABLE_HYPHEN = "\u2011"


class _Formatter(click.HelpFormatter):
    """Wraps lines only at spaces, so that names such as ml-requirements.txt stay whole."""

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", _UNBREAKABLE_HYPHEN))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(term, text.replace("-", _UNBREAKABLE_HYPHEN)) for term, text in rows], col_max, col_spacing)

    def getvalue(self) -> str:
        return super().getvalue().replace(_UNBREAKABLE_HYPHEN, "-")


class _Context(click.Context):
    formatter_class = _Formatter


class _Page(click.Command):
    """The base class of commands and groups. It formats their help pages."""

    context_class = _Context

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of a command or group, and then the commands of a group."""
        records = [_record(param, ctx) for param in self.get_params(ctx) if isinstance(param, click.Option)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record is not None])
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog, which consists of examples, as a separate section with unchanged lines."""
        if self.epilog:
            with formatter.section("Examples"):
                formatter.write_text("\b\n" + self.epilog)


class Command(_Page):
    """A command whose epilog shows examples."""


class Group(_Page, click.Group):
    """A group of commands whose epilog shows examples. Its help page may list the commands in sections.

    Parameters
    ----------
    sections : mapping of str to sequence of str
        For each heading, the names of the commands in its section. By default, one section contains all commands.
    """

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.sections = sections or {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries of the commands by section. All sections have the same column width."""
        column = max(map(len, self.commands))
        limit = formatter.width - column - 4
        for heading, names in (self.sections or {"Commands": sorted(self.commands)}).items():
            rows = [(name.ljust(column), self.commands[name].get_short_help_str(limit)) for name in names]
            with formatter.section(heading):
                formatter.write_dl(rows)


def _record(option: click.Option, ctx: click.Context) -> tuple[str, str] | None:
    """Return the text of an option for the help page, or None if the option is hidden."""
    record = option.get_help_record(ctx)
    if record is None or not isinstance(option.type, click.Choice) or len(record[0]) <= _LONGEST_OPTION:
        return record
    names = record[0].removesuffix(option.make_metavar(ctx))
    choices = ", ".join(map(str, option.type.choices))
    return f"{names}{(option.name or '').upper()}", f"{record[1]}  [one of: {choices}]"
