"""The receipt of a part. The store keeps the receipt as metadata of the part's object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scoreline.storage.errors import ScoringError


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """States for which plan and part an object was written, and how many rows were scored and rejected.

    Receipts are compared by plan, part and rows, but not by digest, because another CPU may round the last bit
    differently.
    """

    plan_sha256: str
    part: int
    rows: int
    """Number of rows scored."""
    rejected: int
    """Number of rows rejected."""
    sha256: str = ""
    """Hexadecimal digest of the object."""
    rejects_sha256: str = ""
    """Hexadecimal digest of the object with the rejected rows. The key of this object contains the beginning of the
    digest. The digest is empty if no row was rejected, in the receipt of this object itself, and in receipts of earlier
    releases."""
    seconds: str = ""
    """Timings of the part, as `Timings.to_text` writes them; empty for rejected rows."""
    carried: int = 0
    """Number of the scored rows whose scores were carried over from the accepted run."""
    carry_sha256: str = ""
    """Hexadecimal digest of the object with the scores that a later job may carry over; empty if there is none."""
    carry_sketch: str = ""
    """By which a later job recognizes these scores (see `scoreline.tasks.steps.unchanged`)."""
    carry_fault: str = ""
    """Why scores of the accepted run could not be carried over; empty if nothing was missing."""

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata to store with the object."""
        metadata = {
            "plan": self.plan_sha256,
            "part": str(self.part),
            "rows": str(self.rows),
            "rejected": str(self.rejected),
        }
        optional = {
            "sha256": self.sha256,
            "rejects": self.rejects_sha256,
            "seconds": self.seconds,
            "carried": str(self.carried or ""),
            "carry": self.carry_sha256,
            "sketch": self.carry_sketch,
            "carry-fault": self.carry_fault,
        }
        return metadata | {name: value for name, value in optional.items() if value}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], uri: str) -> Receipt:
        """Read the receipt of the object at `uri`.

        Raises
        ------
        ScoringError
            The object has no receipt, so Scoreline did not write it.
        """
        try:
            return cls(
                plan_sha256=metadata["plan"],
                part=int(metadata["part"]),
                rows=int(metadata["rows"]),
                rejected=int(metadata["rejected"]),
                sha256=metadata["sha256"],
                rejects_sha256=metadata.get("rejects", ""),
                seconds=metadata.get("seconds", ""),
                carried=int(metadata.get("carried", "0")),
                carry_sha256=metadata.get("carry", ""),
                carry_sketch=metadata.get("sketch", ""),
                carry_fault=metadata.get("carry-fault", ""),
            )
        except (KeyError, ValueError):
            raise _foreign_object(uri) from None

    def rejects_of(self, results: Receipt) -> bool:
        """Return whether this is the receipt of the rejected rows that the receipt `results` names."""
        same = (self.plan_sha256, self.part, self.rows, self.rejected) == (
            results.plan_sha256,
            results.part,
            results.rows,
            results.rejected,
        )
        return same and results.rejects_sha256 in ("", self.sha256)

    def check(self, plan_sha256: str, part: int, uri: str) -> Receipt:
        """Return the receipt unchanged if it belongs to the given part of the given plan.

        Raises
        ------
        ScoringError
            The object at `uri` was written for another part or by another job.
        """
        if (self.plan_sha256, self.part) != (plan_sha256, part):
            raise _foreign_object(uri)
        return self


def _foreign_object(uri: str) -> ScoringError:
    return ScoringError(
        f"{uri} exists already and was not written for this part of this job: remove it, then resume the job"
    )
