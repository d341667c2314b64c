"""What the checks of a job found, and whether these findings keep its results from readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreline.storage.typed_json import convert
from scoreline.tasks.job.findings import Finding, Level

__all__ = ["Finding", "Level", "Verdict"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All findings about a job."""

    findings: tuple[Finding, ...] = ()

    @property
    def blocked(self) -> bool:
        """Whether a finding keeps the results from readers.

        >>> Verdict(findings=(Finding(check="rows", level="warn", message="few rows"),)).blocked
        False
        """
        return any(finding.level == "block" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON has it: its findings, those that block first."""
        ordered = sorted(self.findings, key=lambda finding: finding.level != "block")
        return {"findings": [finding.to_dict() for finding in ordered]}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Verdict:
        """Check a decoded verdict; raises `TypeError` or `ValueError`.

        >>> Verdict.from_dict({"findings": [{"check": "rows", "level": "block", "message": "no rows"}]}).blocked
        True
        """
        found = convert(raw.get("findings", ()), Sequence[Any], "findings")
        return cls(findings=tuple(Finding.from_dict(item, f"findings[{number}]") for number, item in enumerate(found)))
