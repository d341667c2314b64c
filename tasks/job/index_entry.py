"""The entry of a job in the index: one small object a job, so that jobs can be found without reading their documents.

The index is a cache of ``job.json`` and ``outcome.json``. An entry may be missing, may be there twice, or may say that
a job is under way although it has ended; only the documents are authoritative.

The entry of a small job of records that is complete always says that the job is under way: its outcome contains what
the entry would say (`entry_in`), so that ending the job takes a request less. Any other end is in the index before the
marker of the job is removed. If an entry says that a job is under way, and there is no marker, the job is therefore
complete.

A listing of keys is all that a page of jobs needs to choose its entries. The key begins with the milliseconds that are
left of the day of the submission, so that the newest jobs of a day are listed first, and contains the model. The state
is not in the key, because it changes. It is in the size, which listings contain, too: blanks at the end of the object
make its size modulo `_STATES_OF_SIZES` the number of the state.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from scoreline.storage import keys
from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.typed_json import build, convert, decode_object, moment
from scoreline.tasks.job.documents import COMPLETE, ENDED, WITH_RESULTS, Job, Outcome, State, Status

_STATES: tuple[State, ...] = ("submitted", "running", "succeeded", "partial", "failed", "cancelled", "blocked")
"""The states in the order of their numbers. A later release may add states, but not change this order."""
_STATES_OF_SIZES = 16
_MAX_ERROR = 1_000


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """The content of an entry."""

    status: Status
    """The status of the job at its last change: submitted, resumed, or ended."""
    group: str = ""
    """The group that the job belongs to."""

    @property
    def key(self) -> str:
        """The key of the entry, which depends only on ``job.json``."""
        model = self.status.model.partition("@")[0]
        return keys.job_index(moment(self.status.submitted, "submitted"), model, self.status.job_id)

    def to_json(self) -> bytes:
        """Encode, with as many blanks at the end as the state needs."""
        status = {name: value for name, value in asdict(self.status).items() if name != "checks"}
        data = json.dumps({"status": status, "group": self.group}, sort_keys=True).encode()
        return data + b" " * ((_STATES.index(self.status.state) - len(data)) % _STATES_OF_SIZES)

    @classmethod
    def from_json(cls, data: bytes) -> IndexEntry:
        """Decode and check."""
        raw = decode_object(data)
        status = build(Status, raw["status"], "status")
        moment(status.submitted, "status.submitted")
        keys.check_name("job id", status.job_id)
        return cls(status=status, group=convert(raw.get("group", ""), str, "group"))


@dataclass(frozen=True, kw_only=True)
class ListedEntry:
    """What the listing of an entry says, without reading it."""

    key: str
    submitted: datetime
    model: str
    job_id: str
    state: State | None
    """The state; None if a later release knows more states."""

    @property
    def is_under_way(self) -> bool:
        """Whether the entry says that the job has not ended. It may be out of date."""
        return self.state is not None and self.state not in ENDED

    @classmethod
    def of(cls, info: ObjectInfo) -> ListedEntry | None:
        """Return what a key and a size say; None if the object is not an entry.

        >>> from scoreline.storage.objects.base import ObjectInfo
        >>> key = keys.job_index(datetime.fromisoformat("2026-11-29T18:30:00+00:00"), "churn", "nightly")
        >>> listed = ListedEntry.of(ObjectInfo(key=key, size=34, etag=""))
        >>> listed.submitted.isoformat(), listed.model, listed.job_id, listed.state
        ('2026-11-29T18:30:00+00:00', 'churn', 'nightly', 'succeeded')
        """
        day, _, name = info.key.removeprefix(keys.JOBS_INDEX).partition("/")
        match name.split("~"):
            case [left, model, job_id] if keys.is_day(day) and keys.is_name(job_id):
                number = info.size % _STATES_OF_SIZES
                return cls(
                    key=info.key,
                    submitted=keys.time_in_key(day, left),
                    model=model,
                    job_id=job_id,
                    state=_STATES[number] if number < len(_STATES) else None,
                )
            case _:
                return None


def entry_of(job: Job, outcome: Outcome | None = None, *, total_rows: int | None = None) -> IndexEntry:
    """Return the entry of a job.

    Parameters
    ----------
    outcome : Outcome, optional
        How the job ended; None while it is under way.
    total_rows : int, optional
        Number of rows of the input. For a complete job, this is the number of results plus the number of rejected rows.
    """
    status = Status(
        job_id=job.spec.job_id,
        state="submitted",
        model=job.model.ref,
        output=keys.output_folder(job.spec.output, job.spec.job_id),
        submitted=job.submitted,
        labels=job.labels,
        submitter=job.submitter,
    )
    if outcome is not None and outcome.state in ENDED:
        whole = outcome.rows + outcome.rejected if outcome.state in WITH_RESULTS else 0
        status = replace(
            status,
            state=outcome.state,
            parts=outcome.parts,
            parts_done=outcome.parts_done,
            rows=outcome.rows,
            rejected=outcome.rejected,
            total_rows=whole if total_rows is None else total_rows,
            seconds=outcome.seconds,
            error=outcome.error[:_MAX_ERROR],
            reason=outcome.reason,
            work_s=outcome.work_s,
            class_a=outcome.class_a,
            class_b=outcome.class_b,
            result_bytes=outcome.result_bytes,
        )
    return IndexEntry(status=status, group=job.spec.group_name)


def entry_in(outcome: Outcome) -> IndexEntry | None:
    """Return the entry of a complete job according to its outcome alone; None if the outcome does not say it all.

    Raises one of `MALFORMED` or `InvalidRequest` if the job in the outcome is malformed.
    """
    if outcome.job is None or outcome.state not in COMPLETE:
        return None
    return entry_of(Job.from_json(json.dumps(outcome.job).encode()), outcome)
