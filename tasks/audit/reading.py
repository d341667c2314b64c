"""Reads the lines of the audit, the newest first."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import batched

from scoreline.storage import keys
from scoreline.storage.audit import AuditLine
from scoreline.storage.errors import ObjectNotFound
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.typed_json import MALFORMED

_THREADS = 16
UNREADABLE = "cannot be read"
"""The name in a line whose object is malformed. Its action and target are those in the key of the object."""


@dataclass(frozen=True, kw_only=True)
class AuditFilter:
    """The lines that a reader looks for. By default, every line."""

    since: datetime | None = None
    """The earliest time, with a time zone."""
    until: datetime | None = None
    """The latest time, with a time zone."""
    action: str = ""
    """An action such as ``alias.set``, or a kind of thing such as ``alias``."""
    target: str = ""
    """The exact target."""
    who: str = ""
    """The exact name of the person."""

    def may_match(self, day: str, name: str) -> bool:
        """Return whether a line may match, judging by the time, action and target in its key.

        >>> chosen = AuditFilter(action="job", target="a")
        >>> chosen.may_match("2026-11-29", "19800000-9f3c01d2~job.cancel~a.json")
        True
        >>> chosen.may_match("2026-11-29", "19800000-9f3c01d2~job.cancel~b.json")
        False
        """
        match name.removesuffix(".json").split("~"):
            case [left, action, target] if name.endswith(".json") and "/" not in name:
                same_target = self.target == "" or keys.audit_target(self.target) == target
                return self._is_of(action) and same_target and self._is_in(keys.time_in_key(day, left))
            case _:  # not a line of the audit
                return False

    def matches(self, line: AuditLine) -> bool:
        """Return whether a line matches."""
        in_period = self._is_in(datetime.fromisoformat(line.at))
        return (
            in_period and self._is_of(line.action) and self.target in ("", line.target) and self.who in ("", line.who)
        )

    def _is_of(self, action: str) -> bool:
        return self.action in ("", action, action.partition(".")[0])

    def _is_in(self, at: datetime) -> bool:
        return (self.since is None or at >= self.since) and (self.until is None or at <= self.until)


def read_audit(store: ObjectStore, chosen: AuditFilter, limit: int) -> Iterator[AuditLine]:
    """Yield the newest lines that match, at most `limit`.

    A page takes one listing of the days, one listing for each day that is looked at, and one request for each line that
    is read. Time, action and target are looked up in the keys; to find a person, lines are read until there are enough.
    A malformed line is not left out (see `UNREADABLE`).
    """
    found = 0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="audit") as pool:
        for group in batched(_keys(store, chosen), min(limit, 5 * _THREADS)):
            for line in pool.map(lambda key: _read(store, key), group):
                if line is not None and chosen.matches(line):
                    yield line
                    found += 1
                    if found == limit:
                        return


def _keys(store: ObjectStore, chosen: AuditFilter) -> Iterator[str]:
    """Yield the keys of lines that may match, the newest first."""
    first = f"{chosen.since.astimezone(UTC):%Y-%m-%d}" if chosen.since else ""
    last = f"{chosen.until.astimezone(UTC):%Y-%m-%d}" if chosen.until else "9999-12-31"
    for day in reversed(store.folders(keys.AUDIT)):
        if first <= day <= last and keys.is_day(day):
            for info in store.list(folder := keys.audit_day(day)):
                if chosen.may_match(day, info.key.removeprefix(folder)):
                    yield info.key


def _read(store: ObjectStore, key: str) -> AuditLine | None:
    """Return a line; None if it was deleted. A malformed line has the time, action and target in its key."""
    try:
        return AuditLine.from_json(store.get(key).data)
    except ObjectNotFound:
        return None
    except MALFORMED as error:
        day, name = key.split("/")[1:]
        left, action, target = name.removesuffix(".json").split("~")
        reason = f"{type(error).__name__}: {error}"
        at = keys.time_in_key(day, left).isoformat(timespec="milliseconds")
        return AuditLine(
            at=at, action=action, target=target, who=UNREADABLE, where=store.uri(key), details={"error": reason}
        )
