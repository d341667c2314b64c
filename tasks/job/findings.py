"""What the checks of a job's results have found, and what a person decided, as data.

``scoreline.tasks.quality`` has the checks themselves, and carries out decisions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scoreline.storage.typed_json import build, decode_object, moment

Level = Literal["warn", "block"]
"""What a finding does. ``warn``: it is shown. ``block``: readers get the results only if a person accepts the job."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a check found.

    A finding may quote values of the input, so it is stored only in the bucket.
    """

    check: str
    """Name of the check, such as ``nulls`` or ``drift``."""
    level: Level
    message: str
    """One sentence that says what was found and what was expected, for people."""
    column: str = ""
    """The column that was checked; empty if the check is about the whole job."""
    value: float | str | None = None
    """What was found, such as the share of nulls."""
    limit: float | str | None = None
    """The limit that the value exceeds."""

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON has it. Fields that are not set are left out.

        >>> Finding(check="rows", level="warn", message="half of the rows are missing").to_dict()
        {'check': 'rows', 'level': 'warn', 'message': 'half of the rows are missing'}
        """
        return {name: value for name, value in asdict(self).items() if value not in ("", None)}

    @classmethod
    def from_dict(cls, raw: Any, where: str = "finding") -> Finding:
        """Check a decoded finding; raises `TypeError` or `ValueError`."""
        return build(cls, raw, where)


Decision = Literal["accepted", "withdrawn"]
"""What a person decided about a job. ``accepted``: its results are for readers. ``withdrawn``: they are not."""


@dataclass(frozen=True, kw_only=True)
class Review:
    """The latest decision of a person about a job: the content of ``review.json``."""

    decision: Decision
    who: str
    where: str = ""
    at: str
    """Time of the decision, in UTC and ISO 8601."""
    reason: str
    number: int = 1
    """The number of the decision: a later one counts more than an earlier one."""

    def to_dict(self) -> dict[str, Any]:
        """Return the review as JSON has it."""
        return asdict(self)

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Review:
        """Decode and check."""
        found = build(cls, decode_object(data))
        moment(found.at, "at")
        return found


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What the checks found about a job that has its results, and what a person decided about the job."""

    findings: Sequence[Finding] = ()
    """The findings, those that block first."""
    review: Review | None = None
    """The latest decision of a person; None if there is none."""

    def to_dict(self) -> dict[str, Any]:
        """Return what outcomes and ``scoreline status --json`` contain."""
        found: dict[str, Any] = {"findings": [finding.to_dict() for finding in self.findings]}
        return found if self.review is None else found | {"review": self.review.to_dict()}

    def count(self, level: Level) -> int:
        """Return the number of findings of a level."""
        return sum(finding.level == level for finding in self.findings)
