"""Stores the schedules in force, so that a mistake in ``schedules.toml`` stops no schedule.

If the text cannot be read, every schedule stays as it was. If one schedule has a fault, its last valid version stays in
force. A schedule that is missing in a readable text is no longer in force.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from scoreline.storage import audit, keys
from scoreline.storage.audit import acting_as
from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.typed_json import build, decode_object
from scoreline.tasks.job.documents import decoding
from scoreline.tasks.schedules.file import Fault, Parsed, parse_tables
from scoreline.tasks.schedules.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class InForce:
    """The schedules that the latest tick found: the content of ``schedules/in-force.json``."""

    source: str = ""
    """The location of the text of the schedules."""
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The table of each schedule in force, which is its last valid table."""
    faults: tuple[str, ...] = ()
    """All faults of the text."""

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> InForce:
        """Decode."""
        return build(cls, decode_object(data))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The schedules in force, and the faults of the text in ``schedules.toml``."""

    source: str
    schedules: tuple[Schedule, ...]
    faults: tuple[Fault, ...]
    document: InForce
    """The document to store."""
    kept: frozenset[str] = frozenset()
    """The names of schedules with a fault, whose last valid table is in force."""


def put_in_force(source: str, parsed: Parsed, last: InForce) -> Reading:
    """Replace the schedules in force by the schedules of a text; a schedule with a fault stays as it was."""
    if parsed.names is None:
        kept = dict(last.tables)
    else:
        kept = {name: last.tables[name] for name in parsed.names if name in last.tables.keys() - parsed.tables}
    former = parse_tables(kept)  # check again: another release may have written the document
    tables = {**parsed.tables, **former.tables}
    order = list(tables if parsed.names is None else parsed.names)
    return Reading(
        source=source,
        schedules=tuple(sorted((*parsed.schedules, *former.schedules), key=lambda item: order.index(item.name))),
        faults=parsed.faults,
        document=InForce(source=source, tables=tables, faults=tuple(map(str, parsed.faults))),
        kept=frozenset(former.tables),
    )


def record_changes(main: ObjectStore, last: InForce | None, new: InForce) -> None:
    """Write a line to the audit for each schedule whose table was added, changed or removed.

    A person changes a table by deploying ``schedules.toml`` or by writing the object, so a tick only sees that the
    table is another one.
    """
    former = last.tables if last is not None else {}
    with acting_as(f"whoever changed {new.source}"):
        for name in sorted({*former, *new.tables}):
            before, after = former.get(name), new.tables.get(name)
            if before == after:
                continue
            changed = {
                key for key in {*(before or {}), *(after or {})} if (before or {}).get(key) != (after or {}).get(key)
            }
            action = "schedule.add" if before is None else "schedule.remove" if after is None else "schedule.change"
            audit.record(main, action=action, target=name, details={"keys": sorted(changed)})


def read_in_force(main: ObjectStore) -> InForce | None:
    """Return the document that the latest tick stored; None if it is missing or cannot be read."""
    try:
        with decoding(main, keys.SCHEDULES_IN_FORCE):
            return InForce.from_json(main.get(keys.SCHEDULES_IN_FORCE).data)
    except (ObjectNotFound, DocumentCorrupt):  # the next tick writes the document again
        return None
