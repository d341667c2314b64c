"""Fills the reference pages with information from the code. This module is an extension of Sphinx; tests use it too.

In a page, a comment marks the place of generated content. If all of the content comes from the code, the comment stands
alone::

    <!-- generated: commands -->

If the page has a table of names and meanings, and only the other columns come from the code, the comment stands above
the table. The columns from the code are inserted between name and meaning::

    <!-- generated: settings -->
    | setting | meaning |
    |---|---|
    | `TICK_SECONDS` | how often beat asks for the schedules that are due, in seconds |

A name that is missing from such a table, or that the code does not know, is an error.

Pages link to files outside ``docs/`` by their paths in the repository. On the built site, these files are pages in
``project/``.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import click

import scoreline
from scoreline.storage import errors
from scoreline.storage.settings import Environment
from scoreline.tasks.job.submit_options import Option, RecordsOptions, SubmitOptions, described
from scoreline.worker import logs

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FOLDERS = ("storage", "tasks", "worker")
PROJECT = {
    ROOT / "ARCHITECTURE.md": DOCS / "project/architecture.md",
    ROOT / "CONTRIBUTING.md": DOCS / "project/contributing.md",
    ROOT / "SECURITY.md": DOCS / "project/security.md",
    ROOT / "CHANGELOG.md": DOCS / "project/changelog.md",
    ROOT / "benchmarks/README.md": DOCS / "project/benchmarks.md",
    ROOT / "benchmarks/results/README.md": DOCS / "project/figures.md",
    ROOT / "benchmarks/results/throughput.md": DOCS / "project/throughput.md",
    ROOT / "benchmarks/results/shapes.md": DOCS / "project/shapes.md",
    ROOT / "benchmarks/results/peers.md": DOCS / "project/peers.md",
}
"""Files outside ``docs/``, and the pages that show them."""

_MARK = re.compile(r"^<!-- generated: (?P<what>\w+) ?(?P<argument>[\w./]*) -->\n(?P<table>(?:\|.*\|\n)*)", re.MULTILINE)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_NAME = re.compile(r"`([^`]+)`")
_HELP_COLUMNS = 80
_LEVELS = {
    "debug": "DEBUG",
    "info": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "exception": "ERROR",
    "critical": "CRITICAL",
}
"""The level of an event, by the method that logs it. `exception` also adds a traceback."""
_READ_BY_LIBRARIES = {
    "SENTRY_DSN": "a DSN",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "an address",
    "OTEL_EXPORTER_OTLP_HEADERS": "`name=value`, with commas",
    "OTEL_SERVICE_NAME": "a name",
}
"""Variables that Sentry and OpenTelemetry read themselves, not a settings class."""


class PageIncomplete(Exception):
    """A table of a page lacks a name that the code has, or has a name that the code lacks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One environment variable."""

    accepts: str
    default: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One log event, even if the code logs it in several places."""

    levels: tuple[str, ...]
    fields: tuple[str, ...]


def fill(text: str) -> str:
    """Return the source of a page with every comment replaced by its content; raises `PageIncomplete`."""

    def filled(match: re.Match[str]) -> str:
        make = _MAKERS[match["what"]]
        arguments = [match["argument"]] if match["argument"] else []
        return make(*arguments, match["table"]) if match["table"] else make(*arguments)

    done = _MARK.sub(filled, text)
    if "<!-- generated: settings" in text:  # the settings are in several tables
        _refuse_missing("settings", settings(), re.findall(r"^\| `([A-Z0-9_]+)` \|", done, re.MULTILINE))
    return done


def setup(app: Any) -> dict[str, bool]:
    """Have Sphinx fill each page before it is parsed."""

    def read(_: Any, name: str, source: list[str]) -> None:
        page = DOCS / f"{name}.md"
        source[0] = relink(fill(source[0]), page, page)

    app.connect("source-read", read)
    return {"parallel_read_safe": True}


# Links and files


def relink(text: str, source: Path, page: Path) -> str:
    """Return a text with its links adapted to a page. Links to files outside the site become plain text."""

    def linked(match: re.Match[str]) -> str:
        target, _, anchor = match["target"].partition("#")
        if not target or "://" in target:
            return match[0]
        found = (source.parent / target).resolve()
        found = PROJECT.get(found, found)
        if not match["image"] and not (found.is_relative_to(DOCS) and found.is_file()):
            return match["text"]
        path = os.path.relpath(found, page.parent)
        return f"{match['image']}[{match['text']}]({path}{'#' * bool(anchor)}{anchor})"

    return _LINK.sub(linked, text)


def _file(path: str) -> str:
    source = ROOT / path
    return relink(source.read_text(), source, PROJECT[source])


def _table(path: str) -> str:
    """Return a table that a benchmark has written, for insertion into a page."""
    return (ROOT / path).read_text()


# Settings


_ENVIRONMENTS: tuple[Mapping[str, str], ...] = (
    {"R2_ACCOUNT_ID": "abc", "R2_ACCESS_KEY_ID": "key", "R2_SECRET_ACCESS_KEY": "hush", "R2_BUCKET": "models"},
    {},
    {"ENVIRONMENT": "development"},
)
"""Environments that together make every settings class read all of its variables."""


@functools.cache
def settings() -> Mapping[str, Setting]:
    """Return every variable that a settings class reads, each with its accepted values and its default."""
    found = {name: Setting(accepts=accepts, default="") for name, accepts in _READ_BY_LIBRARIES.items()}

    def note(name: str, accepts: str, default: object) -> None:
        shown = "" if default in ("", None) else f"`{default}`"
        if name not in found or not found[name].default:
            found[name] = Setting(accepts=accepts, default=shown)

    first, flag, number, choice = Environment.first, Environment.flag, Environment.number, Environment.choice

    def read_first(env: Environment, *names: str) -> tuple[str, str]:
        for name in names:
            note(name, "", None)
        return first(env, *names)

    def read_text(env: Environment, *names: str, default: str = "") -> str:
        for name in names:
            note(name, "", default if len(names) == 1 else None)
        return first(env, *names)[1] or default

    def read_flag(env: Environment, name: str, default: bool) -> bool:
        note(name, "`true` or `false`", str(default).lower())
        return flag(env, name, default)

    def read_number(env: Environment, name: str, default: int, minimum: int = 0) -> int:
        note(name, f"a whole number, at least {minimum}", default if default >= minimum else None)
        return number(env, name, default, minimum)

    def read_choice(env: Environment, name: str, options: tuple[str, ...], default: str) -> str:
        note(name, ", ".join(f"`{option}`" for option in options), default)
        return choice(env, name, options, default)

    readers: dict[str, Any] = {
        "first": read_first,
        "text": read_text,
        "flag": read_flag,
        "number": read_number,
        "choice": read_choice,
    }
    with mock.patch.multiple(Environment, **readers):
        for environ in _ENVIRONMENTS:
            for read in (*(kind.from_env for kind in _settings_classes()), logs.form_from_env):
                with contextlib.suppress(errors.InvalidSettings):
                    read(environ)
    for owner in ("AWS_S3", "AWS"):  # the code reads the key id and the secret only if one of them is set
        for half in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            note(f"{owner}_{half}", "", None)
    return found


def _settings_classes() -> Iterator[Any]:
    for found in pkgutil.walk_packages(scoreline.__path__, "scoreline."):
        if found.name.endswith(".settings"):
            yield from (kind for kind in vars(import_module(found.name)).values() if hasattr(kind, "from_env"))


def _settings_table(table: str) -> str:
    known = settings()
    columns = {name: (item.accepts or "a text", item.default) for name, item in known.items()}
    return _merge("settings", table, ("accepts", "default"), columns, whole=False)


# Log events


@functools.cache
def events() -> Mapping[str, Event]:
    """Return every event that the code logs, each with its levels and its possible fields."""
    found: dict[str, Event] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name, level, fields in _logged(ast.parse(path.read_text())):
                before = found.get(name, Event(levels=(), fields=()))
                found[name] = Event(
                    levels=tuple(dict.fromkeys((*before.levels, level))),
                    fields=tuple(dict.fromkeys((*before.fields, *fields))),
                )
    return found


def _logged(tree: ast.Module) -> Iterator[tuple[str, str, list[str]]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=str(name)), *_]
            ) if level in _LEVELS and re.fullmatch(r"\w+\.\w+", name):
                extra = next((keyword.value for keyword in node.keywords if keyword.arg == "extra"), None)
                keys = extra.keys if isinstance(extra, ast.Dict) else []
                yield name, _LEVELS[level], [str(key.value) for key in keys if isinstance(key, ast.Constant)]


def _events_table(table: str) -> str:
    columns = {
        name: (
            " or ".join(event.levels),
            ", ".join(f"`{field}`" for field in event.fields),
        )
        for name, event in events().items()
    }
    return _merge("log events", table, ("level", "fields"), columns)


# Documents


def fields_of(path: str) -> Mapping[str, tuple[str, str]]:
    """Return the type and the default of each field of the dataclass with the path ``module.Class``."""
    kind = _import(path)
    return {
        field.name: (f"`{field.type}`".replace("|", r"\|"), _default_of(field)) for field in dataclasses.fields(kind)
    }


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    return "" if field.default_factory is dataclasses.MISSING else "empty"


def _fields_table(path: str, table: str) -> str:
    return _merge(path, table, ("type", "default"), fields_of(path))


# Options of a job


def options() -> Mapping[str, Option]:
    """Return every option that `Client.submit` takes."""
    return described(SubmitOptions)


def _options_table() -> str:
    rows = []
    for name, option in options().items():
        typed = f"--{name.replace('_', '-')} {option.metavar or '|'.join(option.choices)}".strip().replace("|", r"\|")
        records = "yes" if name in described(RecordsOptions) else ""
        default = f"`{option.default}`" if option.default == '"' else option.default.replace("|", r"\|")
        rows.append(f"| `{name}` | `{typed}` | {default} | {records} | {option.help} |")
    head = ["| option | command line | default | for records | meaning |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


# Metrics


@functools.cache
def metrics() -> Mapping[str, tuple[str, tuple[str, ...], str]]:
    """Return the type, the labels and the help of every metric, as Prometheus shows them."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / "worker/metrics.py").read_text())):
        match node:
            case ast.Call(
                func=ast.Name(id=family), args=[ast.Constant(value=str(name)), ast.Constant(value=str(meaning)), *_]
            ) if family == "_gauge" or family.endswith("MetricFamily"):
                kind = "gauge" if family == "_gauge" else family.removesuffix("MetricFamily").lower()
                shown = f"scoreline_{name}" if family == "_gauge" else name
                labels = next((keyword.value for keyword in node.keywords if keyword.arg == "labels"), None)
                names = labels.elts if isinstance(labels, ast.List) else []
                named = tuple(str(item.value) for item in names if isinstance(item, ast.Constant))
                found[shown + "_total" * (kind == "counter")] = (kind, named, meaning)
    return found


def _metrics_table() -> str:
    rows = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"
        for name, (kind, labels, meaning) in metrics().items()
    ]
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows, ""])


# Commands


@functools.cache
def commands() -> Mapping[str, click.Command]:
    """Return every command, by the words that a user types. A group of commands comes before its subcommands."""
    from scoreline.worker.cli.main import cli

    def below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        if isinstance(command, click.Group):
            for each, inner in sorted(command.commands.items()):
                yield from below(f"{name} {each}", inner)

    return dict(below("scoreline", cli))


def help_of(name: str) -> str:
    """Return the ``--help`` of a command, as it is printed on a terminal of 80 columns."""
    context: click.Context | None = None
    path = name.split()
    width = {"terminal_width": _HELP_COLUMNS, "max_content_width": _HELP_COLUMNS}
    for end in range(1, len(path) + 1):
        command = commands()[" ".join(path[:end])]
        settings: dict[str, Any] = {**command.context_settings, **width}
        context = click.Context(command, parent=context, info_name=path[end - 1], **settings)
    assert context is not None
    return context.command.get_help(context)


def _commands_pages() -> str:
    pages = []
    for name in commands():
        level = "##" if name.count(" ") < 2 else "###"
        pages.append(f"{level} {name}\n\n```text\n{help_of(name)}\n```\n")
    return "\n".join(pages)


# Errors


def _errors_list() -> str:
    lines = []

    def add(kind: type[errors.ScorelineError], depth: int) -> None:
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        again = " Transient: the same call may work later." if kind.transient else ""
        lines.append(f"{'  ' * depth}- `{kind.__name__}`: {summary}{again}")
        for below in kind.__subclasses__():
            if below.__module__ == errors.__name__:
                add(below, depth + 1)

    add(errors.ScorelineError, 0)
    return "\n".join([*lines, ""])


# Messages


def tasks() -> Mapping[str, Any]:
    """Return every Celery task by its name."""
    import_module("scoreline.worker.tasks")
    from scoreline.worker.celery import app

    return {name: task for name, task in sorted(app.tasks.items()) if name.startswith("scoreline.")}


def _messages_table(table: str) -> str:
    columns = {}
    for name, task in tasks().items():
        taken = [parameter for parameter in inspect.signature(task.run).parameters.values() if parameter.name != "self"]
        shown = ", ".join(f"`{parameter}`".replace("'", "") for parameter in map(_bare, taken))
        columns[name] = (shown, "no" if task.ignore_result or task.ignore_result is None else "yes")
    return _merge("messages", table, ("kwargs", "answers"), columns)


def _bare(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(annotation=inspect.Parameter.empty)


# Tables


def _merge(
    what: str, table: str, between: tuple[str, ...], known: Mapping[str, tuple[str, ...]], *, whole: bool = True
) -> str:
    """Insert columns from the code into a table, between the column of names and the column of meanings.

    Raise `PageIncomplete` if the code lacks a name in the table. If `whole` is true, also raise it if the table lacks a
    name in the code.
    """
    head, _, *rows = table.splitlines()
    first, last = _cells(head)
    lines = [f"| {' | '.join((first, *between, last))} |", "|---" * (len(between) + 2) + "|"]
    named = []
    for row in rows:
        label, meaning = _cells(row)
        found = _NAME.match(label)
        if found is None or found[1] not in known:
            raise PageIncomplete(f"{what}: the code has no {label}")
        named.append(found[1])
        lines.append(f"| {' | '.join((label, *known[found[1]], meaning))} |")
    if whole:
        _refuse_missing(what, known, named)
    return "\n".join([*lines, ""])


def _refuse_missing(what: str, known: Iterable[str], named: Iterable[str]) -> None:
    if missing := sorted(set(known) - set(named)):
        raise PageIncomplete(f"{what}: the page lacks {', '.join(missing)}")


def _cells(row: str) -> tuple[str, str]:
    first, _, last = row.strip().strip("|").strip().partition(" | ")
    return first.strip(), last.strip()


_MAKERS: Mapping[str, Callable[..., str]] = {
    "settings": _settings_table,
    "events": _events_table,
    "fields": _fields_table,
    "metrics": _metrics_table,
    "commands": _commands_pages,
    "errors": _errors_list,
    "options": _options_table,
    "file": _file,
    "table": _table,
    "messages": _messages_table,
}
