"""Reads and changes ``latest.json``, always by compare-and-swap, so that it names one complete accepted run.

A run that was complete long ago may be removed by retention at any moment. Before such a run becomes the latest, the
document therefore says that this is about to happen (`Latest.next`). Retention writes the tombstone of a job first and
reads the document afterwards, so either retention finds the run there and keeps it, or the tombstone is found here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    ObjectNotFound,
    PreconditionFailed,
    ScorelineError,
    StoreUnavailable,
    describe,
)
from scoreline.storage.objects.base import ObjectStore, if_unchanged
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.typed_json import MALFORMED
from scoreline.tasks.job.documents import Job, Outcome, read_outcome, read_tombstone
from scoreline.tasks.job.findings import Checks
from scoreline.tasks.job.places import is_records_of
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.gate.latest import (
    Action,
    Change,
    Latest,
    Published,
    RunEntry,
    before,
    newest,
    noted,
    pointed,
    replaces,
)
from scoreline.tasks.quality.gate.published import RunGone, published

log = logging.getLogger(__name__)

_TRIES = 40
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
"""Seconds between two attempts, because other jobs of the same output may end at the same time."""


def publishes(job: Job, main: str) -> bool:
    """Return whether a job can become the latest run of its output.

    A job that scores rejected rows again has only a few of the rows. A job of records without an output of its own
    answers the application that has the records.

    Parameters
    ----------
    main : str
        Name of the main bucket.
    """
    spec = job.spec
    if spec.rejected_of is not None:
        return False
    bucket, key = parse_uri(spec.inputs[0])
    of_records = bucket == main and (is_records_of(spec.job_id, key) or keys.is_records(key))
    return not (of_records and spec.output == f"s3://{main}/results/{job.model.name}/")


type LatestRead = Callable[[], tuple[Latest | None, str | None]]
"""Returns a document as `Pointer.read` does."""


def publish_latest(
    buckets: Buckets,
    job: Job,
    outcome: Outcome,
    *,
    read: LatestRead | None = None,
    results: Published | None = None,
) -> None:
    """Name a job that its checks have accepted in the ``latest.json`` of its output, if the job belongs there.

    The job has its results already, so it ends even if the document cannot be changed. Only a store that does not
    answer is an error, after which the finalizer tries again.

    Parameters
    ----------
    read : callable, optional
        Returns the document, if the caller has read it. The document is read again only if it has changed since.
    results : Published, optional
        What readers need of the job, if the caller has just written it. By default, it is read from the bucket.
    """
    if not publishes(job, buckets.main.bucket):
        return
    try:
        Pointer.of(buckets, job.spec.output).publish(RunEntry.of(job, outcome), outcome.checks, read, results)
    except ScorelineError as error:
        if error.transient:
            raise
        log.error("latest.not_written", extra={"job_id": job.spec.job_id, "error": describe(error)})


@dataclass(frozen=True, kw_only=True)
class Move:
    """What a change of ``latest.json`` does."""

    document: Latest
    """The document with its new entries, which still names the same run."""
    to: Sequence[RunEntry] | None = None
    """Runs to name instead, the first whose results exist; empty for none at all. None if the run stays the same."""
    or_none: bool = False
    """Whether no run is named if the results of none exist, or all are damaged. Otherwise, that is an error."""


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """The ``latest.json`` of one output.

    Parameters
    ----------
    main : ObjectStore
        The main bucket, with the documents of jobs.
    store : ObjectStore
        The bucket with the results.
    prefix : str
        The output within its bucket; empty or ending in ``/``.
    """

    main: ObjectStore
    store: ObjectStore
    prefix: str

    @classmethod
    def of(cls, buckets: Buckets, output: str) -> Pointer:
        """Return the pointer of an output, given as a URI that ends in ``/``."""
        bucket, prefix = parse_uri(output)
        return cls(main=buckets.main, store=buckets[bucket], prefix=prefix)

    @property
    def key(self) -> str:
        """Key of the document."""
        return keys.latest(self.prefix)

    @property
    def uri(self) -> str:
        """URI of the document."""
        return self.store.uri(self.key)

    def read(self) -> tuple[Latest | None, str | None]:
        """Return the document and its ETag; None if there is none.

        Raises
        ------
        DocumentCorrupt
            The object is not what Scoreline writes there.
        """
        try:
            got = self.store.get(self.key)
        except ObjectNotFound:
            return None, None
        try:
            return Latest.from_json(got.data), got.info.etag
        except MALFORMED as error:
            raise DocumentCorrupt(
                f"{self.uri} is not what Scoreline writes there ({type(error).__name__}: {error}): move it elsewhere, "
                "then `scoreline accept JOB --reason TEXT` names a run again"
            ) from error

    def publish(
        self,
        entry: RunEntry,
        checks: Checks | None,
        read: LatestRead | None = None,
        results: Published | None = None,
    ) -> None:
        """Note a run that its checks have accepted, and name it unless a newer run is named. Repeated calls do nothing.

        The results must be complete, with ``_SUCCESS``, and the job must not have ended for its readers. The other
        parameters are those of `publish_latest`.
        """

        def decide(document: Latest) -> Move | None:
            if document.entry(entry.job_id) is not None:  # noted by an earlier attempt, and perhaps withdrawn since
                return None
            becomes = replaces(document, entry, by_person=False)
            return Move(document=noted(document, entry, stays=becomes), to=[entry] if becomes else None)

        def load(job_id: str) -> Published:
            if results is not None:
                return replace(results, checks=checks)
            return published(self.store, keys.output_folder(self.prefix, job_id), checks)

        self._change(decide, "finalize", entry, load, removable=False, read=read)

    def protect(self, entry: RunEntry) -> None:
        """Keep the results of a run from being removed if the run is about to become the latest by `accept`."""

        def decide(document: Latest) -> Move | None:
            if document.next == entry.job_id or not self._accepts(document, entry):
                return None
            return Move(document=replace(document, next=entry.job_id))

        self._change(decide, "accept", entry)

    def accept(self, entry: RunEntry, checks: Checks) -> None:
        """Note that a person has accepted a run, and name it unless a newer run is named.

        The results must be complete, with ``_SUCCESS``.
        """

        def decide(document: Latest) -> Move | None:
            known = document.entry(entry.job_id)
            if known is not None and known.review > entry.review:  # another person has decided since
                return None
            if not self._accepts(document, entry):
                return Move(document=noted(document, entry))
            return Move(document=replace(noted(document, entry, stays=True), floor=None), to=[entry])

        self._change(decide, "accept", entry, lambda job_id: self.load(job_id, checks))

    def withdraw(self, entry: RunEntry) -> None:
        """Note that a person has withdrawn a run. If it is named, name the newest accepted run before it."""

        def decide(document: Latest) -> Move | None:
            known = document.entry(entry.job_id)
            if known is not None and known.review > entry.review:
                return None
            changed = noted(document, entry)
            if document.job_id != entry.job_id:
                return Move(document=replace(changed, next="" if document.next == entry.job_id else document.next))
            return Move(document=changed, to=_before(changed, entry), or_none=True)

        self._change(decide, "reject", entry)

    def roll_back(self, to: RunEntry, who: str, where: str, reason: str) -> None:
        """Name an earlier run, because a person asked for it; raises `RunGone` if its results no longer exist."""
        asked = replace(to, who=who, where=where, reason=reason)

        def decide(document: Latest) -> Move | None:
            known = document.entry(to.job_id)
            if known is not None and known.decision != "accepted":
                raise RunGone(f"job {to.job_id} was withdrawn: `scoreline accept {to.job_id} --reason TEXT` accepts it")
            changed = document if known is not None else noted(document, to, stays=True)
            if document.job_id == to.job_id:
                return None
            return Move(document=replace(changed, floor=newest(changed)), to=[known or to])

        self._change(decide, "rollback", asked)

    @staticmethod
    def _accepts(document: Latest, entry: RunEntry) -> bool:
        return replaces(document, entry, by_person=True)

    def _change(
        self,
        decide: Callable[[Latest], Move | None],
        action: Action,
        by: RunEntry,
        load: Callable[[str], Published] | None = None,
        *,
        removable: bool = True,
        read: LatestRead | None = None,
    ) -> None:
        """Change the document until no other process changes it meanwhile.

        Parameters
        ----------
        decide : callable
            Returns what to do with the current document; None to leave it.
        by : RunEntry
            Who changes the document, and why.
        load : callable, optional
            Returns what readers need of the run that becomes the latest; by default, `load`.
        removable : bool
            Whether retention may remove the run that becomes the latest at any moment.
        read : callable, optional
            Returns the document that the caller has read.
        """
        gone: list[str] = []
        pause_s, failed = _FIRST_PAUSE_S, 0
        while failed < _TRIES:
            found, etag = (read or self.read)()
            read = None
            document = found or Latest()
            move = decide(document)
            if move is None:
                return
            try:
                if move.to is None:
                    self._put(move.document, etag)
                    return
                if removable:
                    document, etag = self._announce(document, etag, move, gone)
                if self._name(etag, move, _change_of(action, by), gone, load or self.load):
                    return
            except PreconditionFailed:
                failed += 1
                time.sleep(random.uniform(0, pause_s))
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
        raise StoreUnavailable(f"{self.uri} was changed {_TRIES} times while it was being changed: try again")

    def _announce(
        self, document: Latest, etag: str | None, move: Move, gone: Sequence[str]
    ) -> tuple[Latest, str | None]:
        """Write which run is about to become the latest, so that its results are not removed."""
        run = _first(move, gone)
        if run is None or document.next == run.job_id:
            return document, etag
        document = replace(document, next=run.job_id)
        return document, self._put(document, etag)

    def _name(
        self, etag: str | None, move: Move, change: Change, gone: list[str], load: Callable[[str], Published]
    ) -> bool:
        """Name the first run whose results exist. Return False if there is another one to try."""
        run = _first(move, gone)
        if run is None:
            if move.to and not move.or_none:
                raise RunGone(f"the results of job {move.to[0].job_id} were removed, or are not complete")
            self._put(pointed(move.document, None, None, change), etag)
            return True
        try:
            found = load(run.job_id)
        except (RunGone, DocumentCorrupt) as error:
            if isinstance(error, DocumentCorrupt) and not move.or_none:
                raise
            log.warning("latest.run_gone", extra={"job_id": run.job_id, "error": str(error)})
            gone.append(run.job_id)
            return False
        self._put(pointed(move.document, run.job_id, found, change), etag)
        return True

    def load(self, job_id: str, checks: Checks | None = None) -> Published:
        """Return what readers need of a run; raises `RunGone` if it is removed, or being removed."""
        if read_tombstone(self.main, job_id) is not None:
            raise RunGone(f"the results of job {job_id} were removed, because they are no longer kept")
        if checks is None:
            outcome = read_outcome(self.main, job_id)
            checks = None if outcome is None else outcome.checks
        return published(self.store, keys.output_folder(self.prefix, job_id), checks)

    def _put(self, document: Latest, etag: str | None) -> str:
        return self.store.put(self.key, document.to_json(), mode=if_unchanged(etag)).etag


def _first(move: Move, gone: Sequence[str]) -> RunEntry | None:
    return next((run for run in move.to or () if run.job_id not in gone), None)


def _before(document: Latest, entry: RunEntry) -> list[RunEntry]:
    """Return the accepted runs before a run, the newest first."""
    found: list[RunEntry] = []
    while (run := before(document, entry.place if not found else found[-1].place)) is not None:
        found.append(run)
    return found


def _change_of(action: Action, by: RunEntry) -> Change:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Change(action=action, at=now, who=by.who, where=by.where, reason=by.reason)
