"""The interface of the answers. `tests/integration/storage/ledger/test_answers.py` tests every implementation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

ANSWERS_KEPT_S = 60
"""Seconds after which an answer that its reader has not received is dropped. The answer is in the bucket, too."""
MAX_ANSWERS = 200
"""Maximum number of answers that wait for one reader. If there are more, the oldest are dropped, so that an application
that does not fetch its answers takes little of a small Redis."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Tells an application that a job is answered."""

    job_id: str
    text: str = ""
    """The results, as `scoreline.tasks.records.table.encode` writes them; empty if they are only in the bucket."""


class Answers(Protocol):
    """Brings the answers of jobs to the applications that wait for them, without a request to the bucket.

    An answer may be lost: only the bucket is authoritative. Every method raises `LedgerUnavailable` (transient) if the
    ledger cannot be reached.
    """

    def give(self, reader: str, answer: Answer) -> None:
        """Keep an answer for a reader, for `ANSWERS_KEPT_S`."""
        ...

    def receive(self, reader: str, seconds: float) -> Sequence[Answer]:
        """Return the answers for a reader, each answer once. If there is none, wait up to `seconds` for the first."""
        ...
