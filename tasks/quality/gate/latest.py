"""The document ``latest.json`` of an output: which run readers take, the runs before it, and who decided so.

This module has the document and the rules by which it changes, as values; `pointer` reads and writes it. A run is newer
than another by its slot, or by the time of its submission if it belongs to no schedule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from scoreline.storage import keys
from scoreline.storage.typed_json import build, convert, decode_object, moment
from scoreline.tasks.job.documents import Job, Outcome
from scoreline.tasks.job.findings import Checks, Decision, Review

FORMAT = 1
MAX_RUNS = 100
"""Maximum number of runs that the document lists. The decisions about older runs are in the audit."""
MAX_CHANGES = 50
"""Maximum number of changes that the document lists. Older changes are in the audit."""
MAX_FILES = 20_000
"""Maximum number of files that the document lists. The files of a run with more of them are only in its manifest."""
LEFT_S = 86_400.0
"""Seconds for which a run that is no longer the latest stays, because someone may be reading it."""
CHECKS = "checks"
"""The name that stands for the person if a run was accepted because of its checks."""

Action = Literal["finalize", "accept", "reject", "rollback"]


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """The place of a run among the runs of an output: a newer run has a larger place."""

    at: datetime
    """The slot, or the time of submission if the run belongs to no schedule."""
    number: int
    """The number of the job within its slot."""
    submitted: datetime
    job_id: str

    def to_dict(self) -> dict[str, Any]:
        """Return the place as JSON has it."""
        return {
            "at": self.at.isoformat(),
            "number": self.number,
            "submitted": self.submitted.isoformat(),
            "job_id": self.job_id,
        }

    @classmethod
    def from_dict(cls, raw: Any, where: str) -> Place:
        """Check a decoded place; raises `TypeError` or `ValueError`."""
        if not isinstance(raw, dict):
            raise TypeError(f"{where} is not an object")
        return cls(
            at=moment(raw.get("at"), f"{where}.at"),
            number=convert(raw.get("number"), int, f"{where}.number"),
            submitted=moment(raw.get("submitted"), f"{where}.submitted"),
            job_id=convert(raw.get("job_id"), str, f"{where}.job_id"),
        )


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """A run of an output that was accepted or withdrawn."""

    job_id: str
    model: str
    """The ``name@version`` that scored every row."""
    model_sha256: str
    """Digest of the manifest of the model version."""
    submitted: str
    slot: str | None = None
    """The slot, if a schedule submitted the job; None otherwise."""
    number: int = 1
    """The number of the job within its slot."""
    rows: int
    rejected: int
    decision: Decision = "accepted"
    who: str = CHECKS
    where: str = ""
    decided: str = ""
    """Time of the decision, in UTC and ISO 8601."""
    reason: str = ""
    review: int = 0
    """The number of the person's decision; 0 if the checks decided."""
    left: str = ""
    """The time at which the run was last replaced as the latest; empty if it never was."""

    @property
    def place(self) -> Place:
        """The place of the run among the others."""
        submitted = moment(self.submitted, "submitted")
        at = submitted if self.slot is None else moment(self.slot, "slot")
        return Place(at=at, number=self.number, submitted=submitted, job_id=self.job_id)

    @classmethod
    def of(cls, job: Job, outcome: Outcome, review: Review | None = None) -> RunEntry:
        """Return the entry of a run that its checks accepted, or about which a person decided."""
        found = keys.slot_of(job.spec.job_id) if job.schedule is not None else None
        entry = cls(
            job_id=job.spec.job_id,
            model=job.model.ref,
            model_sha256=job.model.manifest_sha256,
            submitted=job.submitted,
            slot=None if found is None else found[0].isoformat(),
            number=1 if found is None else found[1],
            rows=outcome.rows,
            rejected=outcome.rejected,
        )
        if review is None:
            return replace(entry, decided=_now(), reason=_reason_of(outcome.checks))
        return replace(
            entry,
            decision=review.decision,
            who=review.who,
            where=review.where,
            decided=review.at,
            reason=review.reason,
            review=review.number,
        )


def _reason_of(checks: Checks | None) -> str:
    warned = 0 if checks is None else checks.count("warn")
    return "no check objected" if not warned else f"{warned} finding{'s' if warned > 1 else ''}, none of which blocks"


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """A file with results of the latest run."""

    uri: str
    rows: int
    bytes: int
    sha256: str
    value: str | None = None
    """The value of the partition column; None if it is null, or if there is no such column."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of the run that readers take."""

    action: Action
    at: str
    who: str
    where: str = ""
    reason: str = ""
    before: str | None = None
    """The job that was the latest before; None if there was none."""
    after: str | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """What readers need of the run that they take."""

    results: str
    """URI of the folder with the results; ends in ``/``."""
    manifest_sha256: str
    """Digest of ``_manifest.json`` in this folder."""
    files: tuple[ResultFile, ...] | None = ()
    """The files in order of the input; None if there are more than `MAX_FILES`, so that only the manifest lists
    them."""
    partition_by: str | None = None
    """The column whose values the names of the folders contain."""
    checks: Checks | None = None


@dataclass(frozen=True, kw_only=True)
class Latest:
    """The content of ``latest.json``."""

    job_id: str | None = None
    """The run that readers take; None if no run is accepted."""
    published: Published | None = None
    runs: tuple[RunEntry, ...] = ()
    """The runs of the output, the newest first."""
    older_runs: int = 0
    """Number of older runs that are no longer listed."""
    history: tuple[Change, ...] = ()
    """The changes of `job_id`, the latest first."""
    older_changes: int = 0
    """Number of older changes that are no longer listed."""
    next: str = ""
    """A run that is about to become the latest, so that it must not be removed."""
    floor: Place | None = None
    """Only newer runs than this place replace the run to which a person went back."""

    @property
    def run(self) -> RunEntry | None:
        """The entry of the run that readers take; None if no run is accepted."""
        return None if self.job_id is None else self.entry(self.job_id)

    def entry(self, job_id: str) -> RunEntry | None:
        """Return the entry of a run; None if it is not listed."""
        return next((run for run in self.runs if run.job_id == job_id), None)

    def to_json(self) -> bytes:
        """Encode, with a line for each file, so that people can read a long document, too."""
        head: dict[str, Any] = {"format": FORMAT, "job_id": self.job_id}
        files: Sequence[ResultFile] | None = ()
        if self.published is not None:
            found = self.published
            head |= {"results": found.results, "manifest_sha256": found.manifest_sha256}
            if found.partition_by is not None:
                head["partition_by"] = found.partition_by
            if found.checks is not None:
                head["checks"] = found.checks.to_dict()
            files = found.files
        tail: dict[str, Any] = {
            "runs": [_without_defaults(run) for run in self.runs],
            "older_runs": self.older_runs,
            "history": [asdict(change) for change in self.history],
            "older_changes": self.older_changes,
        }
        if self.next:
            tail["next"] = self.next
        if self.floor is not None:
            tail["floor"] = self.floor.to_dict()
        listed = (
            "null" if files is None else "[" + ",".join(f"\n{_line(_without_defaults(file))}" for file in files) + "]"
        )
        return f'{_line(head)[:-1]},\n"files": {listed},\n{_line(tail)[1:]}\n'.encode()

    @classmethod
    def from_json(cls, data: bytes) -> Latest:
        """Decode and check; raises one of the errors in `MALFORMED`."""
        raw = decode_object(data)
        if raw.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        job_id = convert(raw.get("job_id"), str | None, "job_id")
        runs = convert(raw.get("runs", ()), tuple[RunEntry, ...], "runs")
        for run in runs:
            _ = run.place  # raises an error if a time is malformed
            if run.left:
                moment(run.left, "left")
        found = cls(
            job_id=job_id,
            published=None if job_id is None else build(Published, raw),
            runs=runs,
            older_runs=convert(raw.get("older_runs", 0), int, "older_runs"),
            history=convert(raw.get("history", ()), tuple[Change, ...], "history"),
            older_changes=convert(raw.get("older_changes", 0), int, "older_changes"),
            next=convert(raw.get("next", ""), str, "next"),
            floor=None if raw.get("floor") is None else Place.from_dict(raw["floor"], "floor"),
        )
        if job_id is not None and found.run is None:
            raise ValueError("the run that it names is not among its runs")
        return found

    def keeps(self, job_id: str, now: datetime) -> bool:
        """Return whether the results of a job must not be removed, because readers take them or may be reading them."""
        if job_id in (self.job_id, self.next):
            return True
        run = self.entry(job_id)
        left = "" if run is None else run.left
        return bool(left) and now - moment(left, "left") < timedelta(seconds=LEFT_S)


def noted(document: Latest, entry: RunEntry, *, stays: bool = False) -> Latest:
    """Return the document with the entry of a run, in place of an older entry of the run.

    Parameters
    ----------
    stays : bool
        Whether the run is listed even if it is older than `MAX_RUNS` others, because it becomes the latest.
    """
    before = document.entry(entry.job_id)
    if before is not None and not entry.left:
        entry = replace(entry, left=before.left)
    others = [run for run in document.runs if run.job_id != entry.job_id]
    runs = sorted([*others, entry], key=lambda run: run.place, reverse=True)
    needed = {document.job_id, entry.job_id if stays else None}
    can_go = [run.job_id for run in reversed(runs) if run.job_id not in needed]
    dropped = can_go[: max(0, len(runs) - MAX_RUNS)]
    kept = [run for run in runs if run.job_id not in dropped]
    return replace(document, runs=tuple(kept), older_runs=document.older_runs + len(runs) - len(kept))


def pointed(document: Latest, job_id: str | None, published: Published | None, change: Change) -> Latest:
    """Return the document that names another run, or none. The run must be listed.

    If the document named the same run before, only what is published of the run changes.
    """
    if job_id == document.job_id:
        return replace(document, published=published, next="")
    runs = tuple(replace(run, left=change.at) if run.job_id == document.job_id else run for run in document.runs)
    changes = (replace(change, before=document.job_id, after=job_id), *document.history)
    return replace(
        document,
        job_id=job_id,
        published=published,
        runs=runs,
        history=changes[:MAX_CHANGES],
        older_changes=document.older_changes + max(0, len(changes) - MAX_CHANGES),
        next="",
    )


def replaces(document: Latest, entry: RunEntry, *, by_person: bool) -> bool:
    """Return whether an accepted run becomes the latest. An older run never replaces a newer one.

    After a person went back to a run, only a newer run than those before replaces it, or a run that a person accepts.
    This also holds if the run is withdrawn then, and there is none before it.
    """
    run = document.run
    if run is not None and entry.job_id == run.job_id:
        return True
    floors = [None if run is None else run.place, None if by_person else document.floor]
    return all(floor is None or entry.place > floor for floor in floors)


def before(document: Latest, place: Place) -> RunEntry | None:
    """Return the newest accepted run before a place; None if there is none. Runs that were left behind do not count."""
    found = (
        run
        for run in document.runs
        if run.decision == "accepted" and run.place < place and not was_left_behind(document, run)
    )
    return max(found, key=lambda run: run.place, default=None)


def was_left_behind(document: Latest, run: RunEntry) -> bool:
    """Return whether a person went back past a run, and no person has chosen or accepted the run since."""
    for change in document.history:  # the latest first
        if change.after == run.job_id:
            return False
        if change.action != "rollback" or change.before is None or change.after is None:
            continue
        left, to = document.entry(change.before), document.entry(change.after)
        if left is not None and to is not None and to.place < run.place <= left.place:
            return run.review == 0 or run.decided < change.at
    return False


def newest(document: Latest) -> Place | None:
    """Return the place of the newest run that the document lists; None if it lists none."""
    places = [run.place for run in document.runs]
    return max([*places, *([document.floor] if document.floor else [])], default=None)


def _without_defaults(item: RunEntry | ResultFile) -> Mapping[str, Any]:
    optional = ("slot", "number", "where", "review", "left", "value", "reason")
    defaults = {"slot": None, "number": 1, "where": "", "review": 0, "left": "", "value": None, "reason": ""}
    return {name: value for name, value in asdict(item).items() if name not in optional or value != defaults[name]}


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
