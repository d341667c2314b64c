"""Describes the work of a job in a short text, which the ledger stores beside the progress of the job."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.objects.requests import Requests
from scoreline.storage.typed_json import MALFORMED, build, decode_object
from scoreline.tasks.job.documents import Job

type Priority = Literal["high", "low"]
_UNUSUAL: dict[str, Priority] = {"high": "high", "low": "low"}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The work of a job, as far as it does not change while the job runs.

    Examples
    --------
    >>> work = Workload(pace="churn@1 default", group="churn", rows=9, since=0.5)
    >>> Workload.of_text(work.text) == work
    True
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
    deadline: float | None = None
    """Time at which the current run ends as failed, in seconds since 1970; None if it has no deadline."""
    priority: Priority | None = None
    """Priority of the job in its group; None for ``normal``."""

    @property
    def requests(self) -> Requests:
        """The requests that planning took."""
        return Requests(class_a=self.class_a, class_b=self.class_b)

    @classmethod
    def of(
        cls,
        job: Job,
        rows: int,
        since: float | None = None,
        planning: Requests | None = None,
        deadline: str | None = None,
    ) -> Workload:
        """Return the work of a job.

        Parameters
        ----------
        rows : int
            Number of rows in the plan.
        since : float, optional
            When the current run began; by default, the time of submission.
        planning : Requests, optional
            The requests that planning took.
        deadline : str, optional
            The deadline of the current run, in ISO 8601.
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
            deadline=None if deadline is None else datetime.fromisoformat(deadline).timestamp(),
            priority=_UNUSUAL.get(job.spec.priority or "normal"),
        )

    @property
    def text(self) -> str:
        """The work as text, which `of_text` reads. What earlier releases do not know is left out unless it is set."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(known, separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> Workload | None:
        """Return the work that a text describes; None if the text is empty or malformed."""
        if not text:
            return None
        try:
            return build(cls, decode_object(text.encode()))
        except (*MALFORMED, InvalidRequest):
            return None
