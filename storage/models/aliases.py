"""Names that move from version to version, by compare-and-swap and with their history."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ModelCorrupt, ObjectNotFound, PreconditionFailed
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import ObjectStore, if_unchanged

_TRIES = 50
_HISTORY = 200
"""Changes kept; older ones go."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting of an alias."""

    seq: int
    """1 for the first setting."""
    version: str
    manifest_sha256: str
    at: str
    """UTC, ISO 8601."""
    rollback: bool = False
    """Whether it went back to what stood before."""
    token: str = ""
    """Random: tells a setter that its request, answered with a refusal after a retry, was carried out all the same."""


@dataclass(frozen=True, kw_only=True)
class Alias:
    """Where a name stands, and how it came there."""

    name: str
    history: tuple[Change, ...]
    """Oldest first; the last is where the alias stands."""

    @property
    def current(self) -> Change:
        """The last change."""
        return self.history[-1]

    @property
    def version(self) -> str:
        """What the alias stands for."""
        return self.current.version

    @property
    def seq(self) -> int:
        """How often the alias was set."""
        return self.current.seq

    @property
    def previous(self) -> Change | None:
        """What a rollback goes back to: a rollback takes the setting before it away, so that the next goes further."""
        stood = _stack(self.history)
        return stood[-2] if len(stood) > 1 else None


def parse(name: str, alias: str, data: bytes) -> Alias:
    """Decode an alias object; raises `ModelCorrupt`."""
    try:
        raw = json.loads(data)
        history = tuple(Change(**item) for item in raw["history"])
        if (history[-1].version, history[-1].seq) != (raw["version"], raw["seq"]):
            raise ValueError("its history ends elsewhere")
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ModelCorrupt(f"alias {name}@{alias} cannot be read: {error!r}") from error
    return Alias(name=alias, history=history)


def read(store: ObjectStore, name: str, alias: str) -> tuple[Alias, str] | None:
    """Return an alias and the ETag of its object, where there is one."""
    try:
        stored = store.get(keys.alias(name, alias))
    except ObjectNotFound:
        return None
    return parse(name, alias, stored.data), stored.info.etag


def move(
    store: ObjectStore, name: str, alias: str, choose: Callable[[Alias | None], PinnedModel], *, rollback: bool = False
) -> Alias:
    """Set an alias to what `choose` makes of its present state; of two setters at once, none is lost.

    Raises
    ------
    InvalidRequest
        Others changed it again and again.
    """
    token = secrets.token_hex(8)
    for _ in range(_TRIES):
        found = read(store, name, alias)
        current = found[0] if found else None
        if current is not None and any(change.token == token for change in current.history):
            return current
        target = choose(current)
        change = Change(
            seq=current.seq + 1 if current else 1,
            version=target.version,
            manifest_sha256=target.manifest_sha256,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            rollback=rollback,
            token=token,
        )
        new = Alias(name=alias, history=_bounded((*(current.history if current else ()), change)))
        try:
            store.put(keys.alias(name, alias), _encode(new), mode=if_unchanged(found[1] if found else None))
        except PreconditionFailed:
            continue
        return new
    raise InvalidRequest(f"alias {name}@{alias} was changed by others {_TRIES} times: try again")


def _encode(alias: Alias) -> bytes:
    now = alias.current
    body: dict[str, Any] = {"version": now.version, "manifest_sha256": now.manifest_sha256, "seq": now.seq}
    return json.dumps(body | {"history": [asdict(change) for change in alias.history]}, indent=1).encode()


def _stack(history: tuple[Change, ...]) -> list[Change]:
    stood: list[Change] = []
    for change in history:
        if change.rollback and stood:
            stood.pop()
            if stood:
                stood[-1] = change
                continue
        stood.append(change)
    return stood


def _bounded(history: tuple[Change, ...]) -> tuple[Change, ...]:
    if len(history) <= _HISTORY:
        return history
    return tuple(replace(change, rollback=False) for change in _stack(history)[-_HISTORY:])
