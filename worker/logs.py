"""How this process logs: lines for people at a terminal, JSON where a machine collects them, secrets nowhere.

An event has a static name and fields: ``log.info("part.scored", extra={"job_id": ..., "part": 3})``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from celery import current_task
from pythonjsonlogger.json import JsonFormatter

from scoreline.storage.settings import Environment

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data"}
_SECRETS = (
    "R2_SECRET_ACCESS_KEY",
    "AWS_S3_SECRET_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MODEL_SIGNING_KEY",
    "WEBHOOK_SECRET",
    "SENTRY_DSN",
    "OTEL_EXPORTER_OTLP_HEADERS",
)
_URLS = ("REDIS_URL", "REDIS_TLS_URL", "CELERY_BROKER_URL")
_SHORTEST_SECRET = 6
"""Shorter ones would blot out half of every line, and are no secrets."""


def set_up(environ: Mapping[str, str], level: int = logging.INFO, file: str | None = None) -> None:
    """Send every logger to stderr or to a file: as JSON on a dyno or where ``LOG_FORMAT=json``, else as lines."""
    form = form_from_env(environ)
    hidden = secrets_of(environ)
    handler = logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(hidden) if form == "json" else HumanLines(hidden))
    handler.addFilter(_with_task)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("kombu").setLevel(max(level, logging.WARNING))


def form_from_env(environ: Mapping[str, str]) -> Literal["human", "json"]:
    """Return how to log; raises `InvalidSettings`."""
    env = Environment(environ)
    form: Literal["human", "json"] = env.choice(
        "LOG_FORMAT", ("human", "json"), "json" if env.text("DYNO") else "human"
    )
    env.finish()
    return form


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what must not be logged: keys, and passwords within addresses, in every way that they may be written."""
    values = [environ.get(name, "") for name in _SECRETS]
    for name in _URLS:
        password = _password(environ.get(name, ""))
        values += [password, unquote(password)]
    found = {form for value in values if len(value.strip()) >= _SHORTEST_SECRET for form in _written(value.strip())}
    return tuple(sorted(found, key=len, reverse=True))


def _written(secret: str) -> set[str]:
    """Return the ways in which a secret may stand in a line: as it is, quoted by Python, and both quoted by JSON."""
    plain = {secret, repr(secret)[1:-1]}
    return plain | {json.dumps(text, ensure_ascii=ascii)[1:-1] for text in plain for ascii in (True, False)}


def _password(url: str) -> str:
    """Return what stands between the name and the host; an address that cannot be split is hidden whole."""
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return url


class HumanLines(logging.Formatter):
    """``12:30:05 INFO part.scored job_id=nightly-1 part=3 rows=100``."""

    def __init__(self, hidden: Iterable[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
        self._hidden = tuple(hidden)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and a traceback below it where there is one."""
        first, _, rest = super().format(record).partition("\n")
        shown = " ".join(f"{name}={_format_value(value)}" for name, value in fields(record).items())
        return redact("\n".join(filter(None, (f"{first} {shown}".rstrip(), rest))), self._hidden)


class JsonLines(JsonFormatter):
    """One JSON document a line: time, level, logger, event, and the event's fields."""

    def __init__(self, hidden: Iterable[str]) -> None:
        super().__init__(
            ["levelname", "name", "message", "process"],
            timestamp=True,
            rename_fields={"levelname": "level", "name": "logger", "message": "event", "process": "pid"},
        )
        self._hidden = tuple(hidden)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return redact(super().format(record), self._hidden)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and name[0] != "_"}


def redact(text: str, hidden: Iterable[str]) -> str:
    """Blot out secrets.

    >>> redact("redis://:hush-hush@host", ["hush-hush"])
    'redis://:***@host'
    """
    for secret in hidden:
        text = text.replace(secret, "***")
    return text


def _with_task(record: logging.LogRecord) -> bool:
    """Note in which task an event happened."""
    if current_task and current_task.request.id and not hasattr(record, "task_id"):
        record.task_id = current_task.request.id
    return True


def _format_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return json.dumps(text, ensure_ascii=False) if " " in text and isinstance(value, str) else text
