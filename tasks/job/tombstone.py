"""The tombstone of a job that was removed: it takes the place of ``job.json``, so that the job id stays taken.

A tombstone has no ``spec``. Earlier releases therefore treat it as a corrupt job, which they neither run, nor resume,
nor submit again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scoreline.storage.errors import JobRemoved
from scoreline.storage.typed_json import build, moment
from scoreline.storage.wording import plural

_FIELD = "removed"


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """What is left of a removed job: the content of its ``job.json``."""

    job_id: str
    state: str
    """How the job had ended."""
    why: str
    """Why the job was removed, in words."""
    at: str
    """Time of the decision to remove the job, in UTC and ISO 8601."""
    model: str
    """The ``name@version`` that scored the job."""
    output: str
    """Where the results were."""
    submitted: str
    """Time of submission, in UTC and ISO 8601."""
    schedule: str | None = None
    """Name of the schedule whose slot the job was."""
    rows: int = 0
    rejected: int = 0
    parts: int = 0
    run: int = 1
    """The last run of the job."""
    objects: int = 0
    """Number of objects that were to be removed: results and documents."""
    size: int = 0
    """Number of bytes of these objects."""
    job_sha256: str = ""
    """Digest of the ``job.json`` that the tombstone replaced."""
    plan_sha256: str = ""
    """Digest of the plan; empty if the job was never planned."""
    manifest_sha256: str = ""
    """Digest of the results manifest; empty if the job had none."""

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps({_FIELD: asdict(self)}, sort_keys=True, ensure_ascii=False).encode()

    @property
    def text(self) -> str:
        """One sentence that says when and why the job was removed."""
        rows = f"{plural(self.rows, 'row')} scored, {self.rejected:,} rejected"
        return f"job {self.job_id!r} ({self.state}, {rows}) was removed on {self.at[:10]}: {self.why}"


def tombstone_in(raw: Mapping[str, Any]) -> Tombstone | None:
    """Return the tombstone in the decoded content of ``job.json``; None if it contains a job.

    Raises one of the errors in `MALFORMED` if the tombstone is malformed.
    """
    if _FIELD not in raw or "spec" in raw:
        return None
    found = build(Tombstone, raw[_FIELD], _FIELD)
    for name in ("at", "submitted"):
        moment(getattr(found, name), name)
    return found


def refuse_removed(raw: Mapping[str, Any]) -> None:
    """Raise `JobRemoved` if the decoded content of ``job.json`` is a tombstone."""
    if (found := tombstone_in(raw)) is not None:
        raise JobRemoved(found.text)
