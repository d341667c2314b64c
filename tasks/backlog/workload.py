"""Describes the work of a job in a short text, which the ledger stores beside the progress of the job."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.objects.requests import Requests
from scoreline.storage.typed_json import MALFORMED, build, decode_object
from scoreline.tasks.job.documents import Job


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The work of a job, as far as it does not change while the job runs.

    Examples
    --------
    >>> Workload.of_text(Workload(pace="churn@1 default", group="churn", rows=9, since=0.5).text)
    Workload(pace='churn@1 default', group='churn', rows=9, since=0.5, class_a=0, class_b=0)
    """

    pace: str
    """Key of the job's pace in the ledger (see `Job.work`)."""
    group: str
    rows: int
    """Number of rows in the plan; 0 if the job is not planned yet."""
    since: float
    """When the current run of the job began, in seconds since 1970."""
    class_a: int = 0
    class_b: int = 0
    """Numbers of requests that planning took, by the classes of `scoreline.storage.objects.requests`; 0 if unknown."""

    @property
    def requests(self) -> Requests:
        """The requests that planning took."""
        return Requests(class_a=self.class_a, class_b=self.class_b)

    @classmethod
    def of(cls, job: Job, rows: int, since: float | None = None, planning: Requests | None = None) -> Workload:
        """Return the work of a job.

        Parameters
        ----------
        rows : int
            Number of rows in the plan.
        since : float, optional
            When the current run began; by default, the time of submission.
        planning : Requests, optional
            The requests that planning took.
        """
        begun = datetime.fromisoformat(job.submitted).timestamp() if since is None else since
        counted = planning or Requests()
        return cls(
            pace=job.work,
            group=job.spec.group_name,
            rows=rows,
            since=begun,
            class_a=counted.class_a,
            class_b=counted.class_b,
        )

    @property
    def text(self) -> str:
        """The work as text, which `of_text` reads."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> Workload | None:
        """Return the work that a text describes; None if the text is empty or malformed."""
        if not text:
            return None
        try:
            return build(cls, decode_object(text.encode()))
        except (*MALFORMED, InvalidRequest):
            return None
