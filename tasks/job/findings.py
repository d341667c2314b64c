"""What a check of a job's results has found, as data. ``scoreline.tasks.quality`` has the checks themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from scoreline.storage.typed_json import build

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
