"""Writes the audit: one object for each change that a person makes to a job, a model, an alias or a schedule.

A line is written before the change, and if it cannot be written, the change is refused. There is therefore never a
change without a line. A line says what was about to be done: if the process dies at once, or if the change then fails,
there is a line without a change. Lines are created and never replaced.

Scoreline has no accounts. A line names the person as the process knows it: by `acting_as`, which an application calls
for the user of a request; by the setting SUBMITTER; by the name of the Heroku app; or by the user of the operating
system. Anyone with write access to the bucket could write another name.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from scoreline.storage import keys
from scoreline.storage.objects.base import ObjectStore, create_once
from scoreline.storage.settings import IdentitySettings
from scoreline.storage.typed_json import build, decode_object, moment

_MOST_CHARS = 200
"""Maximum number of characters of a name."""


@dataclass(frozen=True, kw_only=True)
class Submitter:
    """A person or a program that submits or changes something."""

    who: str
    """The name of the person or the program."""
    where: str
    """The host or dyno, and the program there: ``CLI``, ``worker`` or ``application``."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Submitter:
        """Return the person for whom a process with this environment acts.

        >>> Submitter.from_env({"SUBMITTER": "alice", "DYNO": "web.1", "HEROKU_APP_NAME": "shop"})
        Submitter(who='alice', where='web.1 of shop, application')
        """
        given = IdentitySettings.from_env(environ)
        if given.dyno:  # the user of a dyno has a random name, so the app is named
            who = f"app {given.app}" if given.app else "an app on Heroku"
            host = f"{given.dyno} of {given.app}" if given.app else given.dyno
        else:
            who, host = _user(), socket.gethostname()
        return cls(who=_name(given.submitter or who), where=_name(f"{host}, {_programs[-1]}"))


@dataclass(frozen=True, kw_only=True)
class AuditLine:
    """One line of the audit."""

    at: str
    """Time of the line, in UTC and ISO 8601."""
    action: str
    """What was about to be done, such as ``alias.set``."""
    target: str
    """The job, alias, model version or schedule that was about to change."""
    who: str
    where: str
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else is known about the change, such as the version before and after it."""

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, default=str).encode()

    @classmethod
    def from_json(cls, data: bytes) -> AuditLine:
        """Decode and check."""
        raw = decode_object(data)
        moment(raw.get("at"), "at")
        return build(cls, raw)


_acting: ContextVar[Submitter | None] = ContextVar("acting", default=None)
_programs = ["application"]
"""The kind of program that this process runs is the last item. Unlike a context variable, the list is seen by all
threads."""


def run_as(program: str) -> Callable[[], None]:
    """Name the kind of program that this process runs, such as ``CLI``. Return a function that takes the name back."""
    _programs.append(program)
    return lambda: _programs.remove(program)


@contextlib.contextmanager
def acting_as(who: str | None, where: str | None = None) -> Iterator[None]:
    """Name the person for whom this thread acts while the block runs.

    A web application calls this for the user of each request::

        with acting_as(request.user.get_username()):
            client.cancel(job_id)

    Parameters
    ----------
    who : str or None
        The name; if None, nothing changes.
    where : str, optional
        The place from which the person acts; by default, this process.
    """
    if not who:
        yield
        return
    here = Submitter.from_env(os.environ)
    token = _acting.set(Submitter(who=_name(who), where=_name(where or here.where)))
    try:
        yield
    finally:
        _acting.reset(token)


def is_acting() -> bool:
    """Return whether the current block names a person (see `acting_as`)."""
    return _acting.get() is not None


def submitter(default: str | None = None) -> Submitter:
    """Return the person for whom this thread acts, and the place of this process.

    Parameters
    ----------
    default : str, optional
        The name if no block of `acting_as` gives one; by default, the name that the environment gives.
    """
    if (named := _acting.get()) is not None:
        return named
    here = Submitter.from_env(os.environ)
    return Submitter(who=_name(default), where=here.where) if default else here


def _name(text: str) -> str:
    """Return a name that can be encoded as UTF-8. A variable of the environment may contain any bytes."""
    return text.encode(errors="replace").decode()[:_MOST_CHARS]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return f"user {os.getuid()}"


def record(store: ObjectStore, *, action: str, target: str, details: Mapping[str, Any] | None = None) -> None:
    """Write a line to the audit. Call this before the change, and make the change only if this call returns.

    Parameters
    ----------
    store : ObjectStore
        The main bucket.
    action : str
        What is about to be done, such as ``alias.set``: the kind of thing, a dot, and a verb.
    target : str
        The job, alias, model version or schedule that is about to change.
    details : mapping, optional
        What else a reader needs to know; values that JSON can hold.

    Raises
    ------
    StoreUnavailable, AccessDenied
        The line could not be written, so the change must not be made.
    """
    now, person = datetime.now(UTC), submitter()
    line = AuditLine(
        at=now.isoformat(timespec="milliseconds"),
        action=action,
        target=target,
        who=person.who,
        where=person.where,
        details=details or {},
    )
    create_once(store, keys.audit_line(now, secrets.token_hex(4), action, target), line.to_json())
