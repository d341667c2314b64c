"""Sets up logging: readable lines for a terminal, or JSON for a log collector. Both formats redact secrets.

A log message is an event with a static name and fields: ``log.info("part.scored", extra={"job_id": ..., "part": 3})``.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import celery  # fast, because celery loads its modules late
from pythonjsonlogger.json import JsonFormatter

from scoreline.storage.settings import Environment
from scoreline.storage.wording import printable

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data"}
_SECRETS = (
    "R2_SECRET_ACCESS_KEY",
    "AWS_S3_SECRET_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MODEL_SIGNING_KEY",
    "WEBHOOK_SECRET",
    "SENTRY_DSN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "WEBHOOK_URL",
)
_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
_CONTINUED = "| "
"""Prefix of all lines after the first line of a message or traceback, so that no line looks like an event."""
_QUOTED = re.compile(r'[\s"\x00-\x1f]|^$')
_SHORTEST_SECRET = 6
"""Minimum number of characters of a redacted secret. Shorter values would match parts of ordinary words."""
_ORDINARY = frozenset({"scoreline", "postgres", "password", "default"})
"""Passwords of development servers, which are not redacted. Otherwise, these words would be missing from every
event."""


def set_up(environ: Mapping[str, str], level: int = logging.INFO, file: str | None = None) -> None:
    """Write all logs to stderr or to `file`, in the format that `form_from_env` returns."""
    form = form_from_env(environ)
    hidden = secrets_of(environ)
    handler = logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(hidden) if form == "json" else HumanLines(hidden))
    handler.addFilter(_add_task_id)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("kombu").setLevel(max(level, logging.WARNING))


def form_from_env(environ: Mapping[str, str]) -> Literal["human", "json"]:
    """Return the log format that ``LOG_FORMAT`` and ``DYNO`` select; raises `InvalidSettings` for an unknown format."""
    env = Environment(environ)
    form: Literal["human", "json"] = env.choice(
        "LOG_FORMAT", ("human", "json"), "json" if env.text("DYNO") else "human"
    )
    env.finish()
    return form


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets that must not be logged: keys, and passwords in URLs, in all spellings."""
    values = [environ.get(name, "") for name in _SECRETS]
    for name in _HEADERS:
        text = environ.get(name, "")
        values += [text, *(unquote(pair.partition("=")[2]) for pair in text.split(","))]
    for url in environ.values():
        password = _password(url)
        values += [word for word in (password, unquote(password)) if word.lower() not in _ORDINARY]
    values.append(_below_host(environ.get("WEBHOOK_URL", "")))
    found = {form for value in values if len(value.strip()) >= _SHORTEST_SECRET for form in _spellings(value.strip())}
    return tuple(sorted(found, key=len, reverse=True))


def _spellings(secret: str) -> set[str]:
    """Return the spellings in which a secret may be logged: as it is, and with the escapes of Python and JSON."""
    plain = {secret, repr(secret)[1:-1]}
    return plain | {json.dumps(text, ensure_ascii=ascii)[1:-1] for text in plain for ascii in (True, False)}


def _password(text: str) -> str:
    """Return the password in a URL. If the URL has no password, return the user name, because it may be a token.

    If `text` is not a URL, return an empty text. If the URL cannot be parsed, return the whole URL, which is then
    redacted. Any environment variable may contain a URL with a password, for example the URL of a database or a proxy.
    """
    if "://" not in text or any(map(str.isspace, text.strip())):
        return ""
    try:
        parts = urlsplit(text.strip())
        token = parts.username if parts.scheme in ("http", "https") else ""
        return parts.password or dict(parse_qsl(parts.query)).get("password", "") or token or ""
    except ValueError:
        return text


def _below_host(url: str) -> str:
    """Return the secret part of a webhook's address: the path and the query.

    >>> _below_host("https://example.org/hooks/T0"), _below_host("https://example.org/scoreline")
    ('hooks/T0', '/scoreline')
    """
    path = url.partition("://")[2].partition("/")[2]
    return f"/{path}" if path.isidentifier() else path  # with the slash: events may contain the bare word


class HumanLines(logging.Formatter):
    """Formats an event as ``12:30:05 INFO part.scored job_id=nightly-1 part=3 rows=100``."""

    def __init__(self, hidden: Iterable[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
        self._hidden = tuple(hidden)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of an event, and its traceback if it has one."""
        first, *rest = printable(super().format(record), keep="\n\t").split("\n")
        shown = " ".join(f"{name}={_format_value(value)}" for name, value in fields(record).items())
        lines = [f"{first} {shown}".rstrip(), *(f"{_CONTINUED}{line}" for line in rest if line)]
        return redact("\n".join(lines), self._hidden)


class JsonLines(JsonFormatter):
    """Formats an event as one line of JSON: time, level, logger, pid, event, and the fields of the event."""

    def __init__(self, hidden: Iterable[str]) -> None:
        super().__init__(
            ["levelname", "name", "message", "process"],
            timestamp=True,
            rename_fields={"levelname": "level", "name": "logger", "message": "event", "process": "pid"},
        )
        self._hidden = tuple(hidden)

    def format(self, record: logging.LogRecord) -> str:
        """Return an event as a line of JSON."""
        return redact(super().format(record), self._hidden)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of an event, which the caller passed as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and name[0] != "_"}


def redact(text: str, hidden: Iterable[str]) -> str:
    """Replace every secret in a text by three asterisks.

    >>> redact("redis://:hush-hush@host", ["hush-hush"])
    'redis://:***@host'
    """
    for secret in hidden:
        text = text.replace(secret, "***")
    return text


def _add_task_id(record: logging.LogRecord) -> bool:
    """Add the id of the running task to an event."""
    if celery.current_task and celery.current_task.request.id and not hasattr(record, "task_id"):
        record.task_id = celery.current_task.request.id
    return True


def _format_value(value: Any) -> str:
    """Return a value as one word. A text with spaces, quotes or control characters is quoted."""
    if not isinstance(value, str):
        return json.dumps(value, default=str)
    whole = json.dumps(value, ensure_ascii=False)
    return printable(whole) if _QUOTED.search(value) else printable(value)
