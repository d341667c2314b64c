"""Derives the command-line options of a job from `scoreline.tasks.job.submit_options`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from scoreline.tasks.job.submit_options import Option, SubmitOptions, described
from scoreline.tasks.quality.checks.checks_file import NONE, decode, read_checks


def job_options[F: Callable[..., Any]](options: type, names: Iterable[str] | None = None) -> Callable[[F], F]:
    """Return a decorator that adds the options in `options` to a command. Options without a value are None.

    Parameters
    ----------
    names : iterable of str, optional
        The options to add; by default, all.
    """
    known = described(options)
    chosen = list(known if names is None else names)

    def decorate(command: F) -> F:
        for name in reversed(chosen):
            command = _option_of(name, known[name])(command)
        return command

    return decorate


def _option_of(name: str, option: Option) -> Callable[[Any], Any]:
    """Return a decorator that adds one option to a command."""
    flag = f"--{(option.flag or name).replace('_', '-')}"
    text = f"{option.help}  [default: {option.default}]" if option.default else option.help
    if option.kind == "flag":
        return click.option(flag, name, is_flag=True, default=None, help=text)
    if option.kind == "labels":
        return label_option(flag, name, text, option.metavar)
    if option.kind == "pair":
        return click.option(flag, name, type=str, nargs=2, default=None, metavar=option.metavar, help=text)
    kind = click.Choice(option.choices) if option.choices else _KINDS[option.kind]
    return click.option(flag, name, type=kind, metavar=option.metavar or None, help=text)


def read_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a job with the text of each file in place of its path. The word ``none`` stays.

    Raises
    ------
    click.BadParameter
        A file cannot be read.
    InvalidRequest
        A file is too large, is not text, or has faults; the message names the file.
    """
    read = dict(options)
    for name, option in described(SubmitOptions).items():
        path = options.get(name)
        if option.kind == "file" and path and path != NONE:
            try:
                read[name] = decode(Path(path).read_bytes(), path)
            except OSError as error:
                raise click.BadParameter(
                    f"cannot read {path}: {error.strerror}", param_hint=f"--{name.replace('_', '-')}"
                ) from None
            read_checks(read[name], path)
    return read


def label_option(flag: str, name: str, text: str, metavar: str = "NAME=VALUE") -> Callable[[Any], Any]:
    """Return a decorator that adds an option for labels, which may be repeated. Without labels, the value is None."""

    def join(ctx: click.Context, param: click.Parameter, given: tuple[tuple[str, str], ...]) -> dict[str, str] | None:
        if len(dict(given)) < len(given):
            raise click.BadParameter(f"a {'label' if name == 'labels' else 'parameter'} is given twice", ctx, param)
        return dict(given) or None

    return click.option(flag, name, type=_Label(), multiple=True, callback=join, metavar=metavar, help=text)


class _Label(click.ParamType[Any]):
    """A label, written as ``name=value``."""

    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not (name and equals and text):
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, ctx)
        return name, text


class _Names(click.ParamType[Any]):
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        return [name.strip() for name in value.split(",")]


class _Types(click.ParamType[Any]):
    """Types by column, written as ``column=type,column=type``."""

    name = "types"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        pairs = [item.rpartition("=") for item in value.split(",")]
        if not all(name and kind for name, _, kind in pairs):
            self.fail(f"{value!r} is not of the form column=type,column=type", param, ctx)
        return {name.strip(): kind.strip() for name, _, kind in pairs}


NAMES = _Names()
_KINDS: dict[str, Any] = {
    "text": str,
    "count": click.IntRange(1),
    "names": NAMES,
    "types": _Types(),
    "character": str,
    "file": str,
}
