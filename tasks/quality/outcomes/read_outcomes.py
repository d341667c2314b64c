"""What happened after rows were scored: the metrics of each run of an output on labels that arrived later.

This module has the document ``_outcomes/outcomes.json`` of an output; `late_labels` makes it. It works with
``requirements.txt`` alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound, PreconditionFailed
from scoreline.storage.objects.base import ObjectStore, if_unchanged
from scoreline.storage.typed_json import MALFORMED, build, decode_object, moment
from scoreline.tasks.quality.outcomes.run_outcomes import DECILES, RunOutcomes, pooled

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A file with labels that are kept, sorted by the hash of their keys."""

    name: str
    """Name of the object in ``_outcomes/``."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The content of ``_outcomes/outcomes.json``."""

    key: Sequence[str]
    """The columns that identify a row."""
    target: str
    """The column of the labels."""
    updated: str
    """Time of the latest change, in UTC and ISO 8601."""
    labels: int
    """Number of keys whose label is known."""
    files: Sequence[LabelFile] = ()
    """The labels, a later file before the earlier ones where both have a key."""
    runs: Sequence[RunOutcomes] = ()
    """The runs, the oldest first."""

    def versions(self) -> list[RunOutcomes]:
        """Return the runs of each model version as one, in order of the latest run of each."""
        by_version: dict[tuple[str, str], list[RunOutcomes]] = {}
        for run in self.runs:
            by_version.setdefault((run.model, run.scorer), []).append(run)
        return sorted(map(pooled, by_version.values()), key=lambda found: found.at)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline outcomes show --json`` prints, with the versions."""
        return self._head() | {
            "runs": [run.to_dict() for run in self.runs],
            "versions": [version.to_dict() for version in self.versions()],
        }

    @classmethod
    def from_dict(cls, raw: Any) -> Outcomes:
        """Check a decoded document; raises `TypeError` or `ValueError`."""
        if isinstance(raw, dict) and raw.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found = build(cls, raw)
        moment(found.updated, "updated")
        for number, run in enumerate(found.runs):
            moment(run.at, f"runs[{number}].at")
            if not run.groups or run.whole.segment is not None:
                raise ValueError(f"runs[{number}] has no group of all rows")
            for group in run.groups:
                if not 0 <= group.labels <= group.rows:
                    raise ValueError(f"runs[{number}] has more labels than rows")
                if group.deciles and len(group.deciles) != DECILES:
                    raise ValueError(f"runs[{number}] has {len(group.deciles)} deciles")
        return found

    def to_json(self) -> bytes:
        """Encode, with a line for each run."""
        head = json.dumps(self._head(), ensure_ascii=False)
        lines = ",".join(f"\n{json.dumps(run.to_dict(), ensure_ascii=False)}" for run in self.runs)
        return f'{head[:-1]},\n"runs": [{lines}]}}\n'.encode()

    def _head(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "key": list(self.key),
            "target": self.target,
            "updated": self.updated,
            "labels": self.labels,
            "files": [asdict(file) for file in self.files],
        }


def read_outcomes(store: ObjectStore, output: str) -> Outcomes | None:
    """Return the outcomes of an output; None if no labels were added.

    Parameters
    ----------
    store : ObjectStore
        The bucket of the output.
    output : str
        The output within its bucket; empty or ending in ``/``.

    Raises
    ------
    DocumentCorrupt
        The object is not what Scoreline writes there.
    """
    return read_with_etag(store, output)[0]


def forget_labels(store: ObjectStore, output: str) -> None:
    """Delete the labels of an output in which no job has results any more. The numbers stay.

    Parameters
    ----------
    output : str
        As for `read_outcomes`, as are the errors.
    """
    found, etag = read_with_etag(store, output)
    if found is None:
        return
    if next(iter(store.list(f"{output}job_id=")), None) is not None:
        return
    labels = [info.key for info in store.list(keys.outcomes_folder(output)) if info.key != keys.outcomes(output)]
    with contextlib.suppress(PreconditionFailed):  # someone adds labels, so a run has results after all
        if found.files:
            store.put(keys.outcomes(output), replace(found, files=(), labels=0).to_json(), mode=if_unchanged(etag))
        store.delete_many(labels)  # also those that a process left that was killed here


def read_with_etag(store: ObjectStore, output: str) -> tuple[Outcomes | None, str | None]:
    """Return the outcomes of an output and their ETag (see `read_outcomes`)."""
    key = keys.outcomes(output)
    try:
        got = store.get(key)
    except ObjectNotFound:
        return None, None
    try:
        return Outcomes.from_dict(decode_object(got.data)), got.info.etag
    except MALFORMED as error:
        raise DocumentCorrupt(
            f"{store.uri(key)} is not what Scoreline writes there ({type(error).__name__}: {error}): move it "
            "elsewhere, then add the labels again"
        ) from error
