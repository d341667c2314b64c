"""Adds labels that arrived after the scores to an output, and computes the metrics of its accepted runs.

The labels are kept in one Parquet file in ``_outcomes/``, whose name contains its digest. ``outcomes.json`` names the
file and is changed by compare-and-swap, so that two processes that add labels at once lose none: the second one starts
again with the labels of the first one.
"""

from __future__ import annotations

import hashlib
import logging
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    InvalidRequest,
    ObjectNotFound,
    PreconditionFailed,
    ScorelineError,
    StoreUnavailable,
)
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.base import if_unchanged
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.objects.writer import PART_BYTES, ObjectWriter
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.typed_json import decode_object
from scoreline.storage.wording import listed, plural
from scoreline.tasks.job.documents import read_job, read_review
from scoreline.tasks.quality.gate.latest import Latest, RunEntry
from scoreline.tasks.quality.gate.pointer import Pointer
from scoreline.tasks.quality.gate.published import RunGone
from scoreline.tasks.quality.outcomes.outcome_labels import LabelInput
from scoreline.tasks.quality.outcomes.outcome_runs import Compared, compare, outputs_of
from scoreline.tasks.quality.outcomes.outcome_store import SHOWN, Added, Labels, keys_at, merge_labels
from scoreline.tasks.quality.outcomes.read_outcomes import LabelFile, Outcomes, read_with_etag
from scoreline.tasks.quality.outcomes.run_outcomes import RunOutcomes
from scoreline.tasks.quality.results.reading import results_of

log = logging.getLogger(__name__)

MAX_RUNS = 400
"""Maximum number of runs in the document. The oldest ones are dropped."""
_TRIES = 10
_LONGEST_PAUSE_S = 2.0
_LEFT_S = 86_400.0
"""Seconds after which a file with labels that the document does not name is deleted."""


@dataclass(frozen=True, kw_only=True)
class AddedOutcomes:
    """What became of a file with labels."""

    outcomes: Outcomes
    added: Added
    changed: bool
    """Whether anything is stored that was not stored before."""
    unknown: int
    """Number of keys of the file that no run has. Their labels are kept for runs that are accepted later."""
    examples: Sequence[str]
    """Some of these keys."""
    skipped: Mapping[str, str]
    """Runs that were not compared, by job, with the reason."""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline outcomes add --json`` prints."""
        return {
            **asdict(self.added),
            "changed": self.changed,
            "unknown": self.unknown,
            "examples": list(self.examples),
            "labels": self.outcomes.labels,
            "runs": [run.job_id for run in self.outcomes.runs],
            "skipped": dict(self.skipped),
        }


def add_outcomes(
    buckets: Buckets,
    registry: ModelRegistry,
    output: str,
    source: str | Path,
    *,
    key: Sequence[str],
    target: str,
    time_column: str | None = None,
    options: ReadOptions | None = None,
) -> AddedOutcomes:
    """Add labels to an output. The same call again changes nothing, unless runs were accepted or withdrawn since.

    Parameters
    ----------
    output : str
        URI of the output; ends in ``/``.
    source : str or Path
        A local file, or the URI of one or several objects.
    key : sequence of str
        The columns that identify a row, in the file and in the results.
    target : str
        The column with the labels.
    time_column : str, optional
        The column with the time of each label. Of two labels of a key, the later one counts.
    options : ReadOptions, optional
        How to read the file.

    Raises
    ------
    InvalidRequest
        The file, its columns or its values cannot be used; nothing was added.
    StoreUnavailable
        Transient: try again.
    """
    pointer = Pointer.of(buckets, output)
    labels_in = LabelInput(buckets, source, key, target, time_column, options)
    for attempt in range(_TRIES):
        with tempfile.TemporaryDirectory(prefix="scoreline-") as folder:  # for its owner alone
            try:
                return _Adding(pointer, buckets, registry, output, Path(folder)).run(labels_in, tuple(key), target)
            except PreconditionFailed:  # another process has added labels meanwhile
                log.info("outcomes.again", extra={"output": output})
        time.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, 0.05 * 2**attempt)))
    raise StoreUnavailable(f"the outcomes of {output} were changed {_TRIES} times meanwhile: try again")


class _Adding:
    """One attempt to add labels."""

    def __init__(self, pointer: Pointer, buckets: Buckets, registry: ModelRegistry, output: str, folder: Path) -> None:
        self._pointer, self._buckets, self._registry = pointer, buckets, registry
        self._store, self._prefix = pointer.store, pointer.prefix
        self._output, self._folder = output, folder
        self._skipped: dict[str, str] = {}
        self._listed: set[str] = set()
        """The runs that ``latest.json`` lists, which are the newest ones."""

    def run(self, source: LabelInput, key: tuple[str, ...], target: str) -> AddedOutcomes:
        entries = self._entries()
        before, etag = read_with_etag(self._store, self._prefix)
        if before is not None and (tuple(before.key), before.target) != (key, target):
            raise InvalidRequest(
                f"the outcomes of {self._output} have the key {', '.join(before.key)} and the target "
                f"{before.target!r}: name the same columns, or remove "
                f"{self._store.uri(keys.outcomes_folder(self._prefix))} to start again"
            )
        work = self._folder / "work"
        work.mkdir()
        labels = merge_labels(source, target, None if before is None else self._fetch(before), work)
        used = np.zeros(len(labels), bool)
        runs = self._compare(entries, labels, used, key)
        unknown, examples = _unknown(labels, used, source)
        if not used[np.asarray(labels.row) >= 0].any():
            raise InvalidRequest(
                f"none of the {plural(unknown, 'key')} of {source.name} is in an accepted run of {self._output}, such "
                f"as {', '.join(examples)}: name the column that has the same keys as the results with --key; nothing "
                "was added"
            )
        return self._store_all(labels, before, etag, runs, key, target, unknown, examples)

    def _entries(self) -> list[RunEntry]:
        """Return the accepted runs, the oldest first."""
        document, _ = self._pointer.read()
        document = document or Latest()
        self._listed = {run.job_id for run in document.runs}
        found = [run for run in document.runs if run.decision == "accepted"]
        if not found:
            raise InvalidRequest(
                f"no run of {self._output} is accepted, so there are no scores to compare with labels: `scoreline "
                f"results {self._output}` lists its runs"
            )
        return found[::-1]

    def _compare(self, entries: Sequence[RunEntry], labels: Labels, used: Any, key: Sequence[str]) -> list[RunOutcomes]:
        """Compare every accepted run whose results exist."""
        found: list[RunOutcomes] = []
        lacking = 0
        misfits: list[str] = []
        for entry in entries:
            compared = self._compare_run(entry, labels, used, key)
            found += compared.outcomes
            lacking += compared.lacks_key
            misfits += compared.misfits
            if compared.contradicts:
                raise InvalidRequest(
                    f"the target has other values than the classes: {'; '.join(compared.misfits)}. Name the column "
                    "with the labels on which the model was fitted, or correct it; nothing was added"
                )
            if why := compared.skipped or ("" if compared.outcomes else "; ".join(compared.misfits)):
                self._skipped[entry.job_id] = why
        if not found and misfits:
            raise InvalidRequest(
                f"the target is of another kind than the scores: {misfits[-1]}. Name the column with the labels on "
                "which the model was fitted; nothing was added"
            )
        if lacking == len(entries):
            raise InvalidRequest(
                f"no accepted run of {self._output} has the key {listed(key)} in its results: name a column that the "
                "jobs keep, or keep it with `scoreline submit --keep`; nothing was added"
            )
        if not found:
            job_id, why = next(reversed(self._skipped.items()))
            raise InvalidRequest(f"no accepted run of {self._output} can be compared: {why} (job {job_id})")
        return found

    def _compare_run(self, entry: RunEntry, labels: Labels, used: Any, key: Sequence[str]) -> Compared:
        try:
            published = self._pointer.load(entry.job_id)
            job = read_job(self._buckets.main, entry.job_id)
        except (RunGone, ObjectNotFound):
            return Compared(skipped="its results were removed")
        except InvalidRequest:  # the job was removed
            return Compared(skipped="it was removed")
        folder = keys.output_folder(self._prefix, entry.job_id)
        return compare(
            results_of(self._store, folder, entry.job_id, entry.rows, published),
            entry,
            labels,
            used,
            key=key,
            outputs=outputs_of(self._registry, entry),
            segment=job.spec.segment,
        )

    def _fetch(self, before: Outcomes) -> Path | None:
        """Copy the labels that are stored to the local disk."""
        if not before.files:
            return None
        (file,) = before.files
        key = keys.outcome_labels(self._prefix, file.name)
        path = self._folder / "stored.parquet"
        digest = hashlib.sha256()
        try:
            with path.open("wb") as copy:
                for start in range(0, file.bytes, PART_BYTES):
                    piece = (start, min(start + PART_BYTES, file.bytes))
                    data = self._store.get(key, byte_range=piece).data
                    digest.update(data)
                    copy.write(data)
        except ObjectNotFound:
            if read_with_etag(self._store, self._prefix)[0] != before:
                raise PreconditionFailed(f"{self._store.uri(key)} was replaced") from None
            raise DocumentCorrupt(
                f"{self._store.uri(key)} is gone, which has the labels that were added before: remove "
                f"{self._store.uri(keys.outcomes(self._prefix))}, and add all labels again"
            ) from None
        if digest.hexdigest() != file.sha256:
            raise DocumentCorrupt(
                f"{self._store.uri(key)} is not the file with the labels that were added before: its digest differs. "
                f"Remove {self._store.uri(keys.outcomes_folder(self._prefix))}, and add all labels again"
            )
        return path

    def _store_all(
        self,
        labels: Labels,
        before: Outcomes | None,
        etag: str | None,
        runs: list[RunOutcomes],
        key: tuple[str, ...],
        target: str,
        unknown: int,
        examples: Sequence[str],
    ) -> AddedOutcomes:
        name = f"labels-{labels.sha256[:32]}.parquet"
        file = LabelFile(name=name, rows=len(labels), bytes=labels.path.stat().st_size, sha256=labels.sha256)
        after = Outcomes(
            key=key,
            target=target,
            updated=datetime.now(UTC).isoformat(timespec="seconds"),
            labels=len(labels),
            files=(file,),
            runs=tuple(self._kept(before, runs)[-MAX_RUNS:]),
        )
        after = Outcomes.from_dict(decode_object(after.to_json()))  # as it is read again
        changed = before is None or replace(before, updated=after.updated).to_json() != after.to_json()
        if changed:
            if before is None or file not in before.files:
                self._upload(labels.path, name)
            self._store.put(keys.outcomes(self._prefix), after.to_json(), mode=if_unchanged(etag))
            self._remove_others(name)
        return AddedOutcomes(
            outcomes=after if changed or before is None else before,
            added=labels.added,
            changed=changed,
            unknown=unknown,
            examples=examples,
            skipped=self._skipped,
        )

    def _kept(self, before: Outcomes | None, runs: list[RunOutcomes]) -> list[RunOutcomes]:
        """Return the runs of the document: those that were compared, and earlier ones that cannot be compared again.

        The results of these are gone since, or ``latest.json`` does not list them any more.
        """
        own = {run.job_id for run in runs}
        earlier = [] if before is None else [run for run in before.runs if run.job_id not in own]
        unlisted = {run.job_id for run in earlier} - self._listed
        stays = set(self._skipped) | {job_id for job_id in unlisted if not self._is_withdrawn(job_id)}
        found = [*(run for run in earlier if run.job_id in stays), *runs]
        return sorted(found, key=lambda run: (run.at, run.job_id, run.scorer))

    def _is_withdrawn(self, job_id: str) -> bool:
        review, _ = read_review(self._buckets.main, job_id)
        return review is not None and review.decision == "withdrawn"

    def _upload(self, path: Path, name: str) -> None:
        with (
            path.open("rb") as file,
            ObjectWriter(self._store, keys.outcome_labels(self._prefix, name), size=path.stat().st_size) as writer,
        ):
            while data := file.read(PART_BYTES):
                writer.write(data)
            writer.complete()

    def _remove_others(self, name: str) -> None:
        """Delete files with labels that no document names. Another process may be about to name a new one."""
        own = keys.outcome_labels(self._prefix, name)
        try:
            for info in list(self._store.list(keys.outcomes_folder(self._prefix))):
                is_labels = info.key.rpartition("/")[2].startswith("labels-")
                if is_labels and info.key != own and time.time() - info.modified > _LEFT_S:
                    self._store.delete(info.key)
        except ScorelineError as error:
            log.warning("outcomes.left", extra={"output": self._output, "error": str(error)})


def _unknown(labels: Labels, used: Any, source: LabelInput) -> tuple[int, list[str]]:
    """Return how many keys of the file no run has, and some of them."""
    missing = np.flatnonzero(~used & (labels.row >= 0))
    rows = np.sort(labels.row[missing])[:SHOWN].tolist()
    return len(missing), list(keys_at(source, rows))
