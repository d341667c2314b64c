"""Aliases: names for versions of a model. Aliases are changed by compare-and-swap, and record their history."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from scoreline.storage import audit, keys
from scoreline.storage.errors import InvalidRequest, ModelCorrupt, ObjectNotFound, PreconditionFailed
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import ObjectStore, if_unchanged
from scoreline.storage.typed_json import MALFORMED, convert, decode_object

log = logging.getLogger(__name__)

_ATTEMPTS = 50
_THREADS = 16
_MAX_HISTORY = 200
"""Maximum number of changes that are kept. Older changes are dropped."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of an alias."""

    seq: int
    """Number of the change, from 1."""
    version: str
    manifest_sha256: str
    at: str
    """Time of the change in UTC, as ISO 8601."""
    rollback: bool = False
    """Whether the change returned to an earlier version."""
    token: str = ""
    """Random token by which a writer recognizes its own change. A store may retry a write that has already succeeded,
    and then report a conflict with the writer's own change."""
    who: str = ""
    """Who made the change, as in the audit. Like the following fields, it is empty in histories of earlier releases."""
    where: str = ""
    reason: str = ""
    """Why the change was made, if a person said so."""
    forced: bool = False
    """Whether the change was made although rules of promotion forbade it."""
    signature: str = ""
    """The id of a key, and its Ed25519 signature of the change (see `statement`)."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object. Fields that earlier releases do not have are left out if they are empty."""
        added = ("who", "where", "reason", "forced", "signature")
        return {name: value for name, value in asdict(self).items() if name not in added or value}


@dataclass(frozen=True, kw_only=True)
class Alias:
    """An alias, with the history of its changes."""

    name: str
    history: tuple[Change, ...]
    """Changes, oldest first. The last change names the current version."""

    @property
    def current(self) -> Change:
        """The latest change."""
        return self.history[-1]

    @property
    def version(self) -> str:
        """The version that the alias names."""
        return self.current.version

    @property
    def seq(self) -> int:
        """Number of the latest change."""
        return self.current.seq

    @property
    def reachable(self) -> frozenset[str]:
        """The version that the alias names, and all versions that further rollbacks can restore."""
        return frozenset(change.version for change in _effective_changes(self.history))

    @property
    def previous(self) -> Change | None:
        """The change that the next rollback restores, or None. Each further rollback restores an earlier change."""
        effective = _effective_changes(self.history)
        return effective[-2] if len(effective) > 1 else None


def statement(name: str, alias: str, change: Change) -> bytes:
    """Return the bytes to sign for a change. They are not JSON, so that they cannot pass as a manifest."""
    fields = change.to_dict()
    fields.pop("signature", None)
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    return f"scoreline alias\n{name}\n{alias}\n{text}\n".encode("utf-8", "surrogatepass")


def parse(name: str, alias: str, data: bytes) -> Alias:
    """Return the alias that is encoded in an object, or raise `ModelCorrupt`."""
    try:
        raw = decode_object(data)
        history = convert(raw["history"], tuple[Change, ...], "history")
        if (history[-1].version, history[-1].seq) != (raw["version"], raw["seq"]):
            raise ValueError("its history ends with another version")
        for change in history:
            PinnedModel(name=name, version=change.version, manifest_sha256=change.manifest_sha256).check()
    except MALFORMED as error:
        raise ModelCorrupt(
            f"the object of alias {name}@{alias} cannot be read ({type(error).__name__}: {error}): set the alias again "
            f"with `scoreline models alias {name} {alias} VERSION`"
        ) from error
    return Alias(name=alias, history=history)


def read(store: ObjectStore, name: str, alias: str) -> Alias | None:
    """Return an alias with its history, or None if there is no such alias."""
    try:
        return parse(name, alias, store.get(keys.alias(name, alias)).data)
    except ObjectNotFound:
        return None


def read_all(store: ObjectStore, named: Sequence[tuple[str, str]]) -> list[tuple[str, Alias]]:
    """Return pairs of a model name and an alias.

    Aliases are read in parallel, because each alias is a separate object.

    Aliases that were deleted are left out. Aliases that cannot be read are left out with a warning.
    """

    def read_one(pair: tuple[str, str]) -> Alias | None:
        try:
            return read(store, *pair)
        except ModelCorrupt as error:
            log.warning("alias.unreadable", extra={"alias": "@".join(pair), "error": str(error)})
            return None

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="alias") as pool:
        found = list(pool.map(read_one, named))
    return [(name, alias) for (name, _), alias in zip(named, found, strict=True) if alias is not None]


def name_of(file: str) -> str | None:
    """Return the alias name for a file name in the folder of aliases; None if the file is not an alias."""
    alias = file.removesuffix(".json")
    return alias if alias != file and keys.is_name(alias) else None


def move(
    store: ObjectStore,
    name: str,
    alias: str,
    choose: Callable[[Alias | None], PinnedModel],
    *,
    rollback: bool = False,
    reason: str = "",
    forced: bool = False,
    sign: Callable[[bytes], str] | None = None,
) -> Alias:
    """Move an alias by compare-and-swap, so that no concurrent change is lost.

    Parameters
    ----------
    choose : callable
        Receives the current alias, or None if the alias is new. Returns the version that the alias will name. The
        function is called again whenever another writer has changed the alias in the meantime.
    rollback : bool
        Whether the change returns to an earlier version.
    reason : str
        Why the alias is moved, for its history and the audit.
    forced : bool
        Whether the alias is moved although rules forbid it.
    sign : callable, optional
        Returns the line with the signature of a statement; by default, changes are not signed.

    Raises
    ------
    InvalidRequest
        Other writers changed the alias during every attempt.

    Each change is written to the audit before it is made.

    If the object of the alias is corrupt, the object is replaced as if the alias were new. The history of the alias is
    lost then.
    """
    token = secrets.token_hex(8)
    announced: dict[str, Any] | None = None
    for _ in range(_ATTEMPTS):
        current, etag = _read_or_replace(store, name, alias)
        if current is not None and any(change.token == token for change in current.history):
            return current
        target = choose(current)
        moved: dict[str, Any] = {"from": current.version if current else None, "to": target.version}
        moved |= ({"reason": reason} if reason else {}) | ({"forced": True} if forced else {})
        if moved != announced:
            action = "alias.rollback" if rollback else "alias.set"
            audit.record(store, action=action, target=f"{name}@{alias}", details=moved)
            announced = moved
        person = audit.submitter()
        change = Change(
            who=person.who,
            where=person.where,
            reason=reason,
            forced=forced,
            seq=current.seq + 1 if current else 1,
            version=target.version,
            manifest_sha256=target.manifest_sha256,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            rollback=rollback,
            token=token,
        )
        if sign is not None:
            change = replace(change, signature=sign(statement(name, alias, change)).strip())
        new = Alias(name=alias, history=with_change(current.history if current else (), change))
        try:
            store.put(keys.alias(name, alias), _encode(new), mode=if_unchanged(etag))
        except PreconditionFailed:
            continue
        return new
    raise InvalidRequest(f"the alias {name}@{alias} was changed by others {_ATTEMPTS} times in a row: try again")


def _read_or_replace(store: ObjectStore, name: str, alias: str) -> tuple[Alias | None, str | None]:
    """Return an alias and the ETag of its object. If the object is corrupt, return None and the ETag of the object."""
    try:
        stored = store.get(keys.alias(name, alias))
    except ObjectNotFound:
        return None, None
    try:
        return parse(name, alias, stored.data), stored.info.etag
    except ModelCorrupt as error:
        log.warning("alias.unreadable", extra={"alias": f"{name}@{alias}", "error": str(error)})
        return None, stored.info.etag


def _encode(alias: Alias) -> bytes:
    latest = alias.current
    body: dict[str, Any] = {
        "version": latest.version,
        "manifest_sha256": latest.manifest_sha256,
        "seq": latest.seq,
    }
    return json.dumps(body | {"history": [change.to_dict() for change in alias.history]}, indent=1).encode()


def _effective_changes(history: tuple[Change, ...]) -> list[Change]:
    """Return the changes that no rollback has undone, oldest first."""
    effective: list[Change] = []
    for change in history:
        if change.rollback and effective:
            effective.pop()
            if effective:
                effective[-1] = change
                continue
        effective.append(change)
    return effective


def with_change(history: tuple[Change, ...], change: Change) -> tuple[Change, ...]:
    """Return the history with `change` appended.

    If the history becomes too long, keep only the latest changes that no rollback has undone.
    """
    history = (*history, change)
    if len(history) <= _MAX_HISTORY:
        return history
    kept = _effective_changes(history)[-_MAX_HISTORY:]
    # The signature of a rollback does not match what it becomes
    return tuple(replace(change, rollback=False, signature="") if change.rollback else change for change in kept)
