"""A deployment under test: its bucket, its client, and the invariants of each of its jobs."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore, exists
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status, read_job, read_outcome
from scoreline.tasks.job.uris import parse_uri
from tests.faults.soak.inputs import Input
from tests.support.estimators import Choosy, Paced
from tests.support.proving import proved_here

MODELS: Mapping[str, Paced] = {
    "line": Choosy(seconds=0.1),
    "steep": Choosy(seconds=0.05, factor=5.0),
    "tolerant": Paced(seconds=0.02),
    "moving": Choosy(seconds=0.05),
}
FACTORS = {"line": 3.0, "steep": 5.0, "tolerant": 3.0}


@dataclass(kw_only=True)
class Place:
    """One deployment.

    Parameters
    ----------
    environ : dict of str to str
        The settings of a client for which the store has no faults.
    """

    environ: dict[str, str]

    def __post_init__(self) -> None:
        self.client = Client.from_env(self.environ)
        self.factor_of_version: dict[str, float] = {}

    @property
    def store(self) -> ObjectStore:
        return self.client.buckets.main

    def publish(self) -> None:
        """Publish the models; "moving" has two versions, and its alias "champion" names the first."""
        models = ModelStorageManager.from_env(self.environ)
        frame = pd.DataFrame({"x": [0.0]})
        with proved_here():
            for name, model in MODELS.items():
                models.publish(name, model.fit(frame))
            models.alias("moving", "champion", models.list()["moving"][0])
            models.publish("moving", Choosy(seconds=0.05, factor=5.0).fit(frame))
        for version, factor in zip(models.list()["moving"], (3.0, 5.0), strict=True):
            self.factor_of_version[version] = factor

    def factor(self, job_id: str) -> float:
        """Return the factor of the model that a job has pinned."""
        model = read_job(self.store, job_id).model
        return FACTORS.get(model.name) or self.factor_of_version[model.version]

    def check_results(self, status: Status, made: Input, *, only: Collection[int] | None = None) -> None:
        """Check that each row of an ended job is in the right place, and that no other rows or objects exist.

        Parameters
        ----------
        made : Input
            What the job has read.
        only : collection of int, optional
            The ids of the rows that the job should have read; by default, all.
        """
        tolerant = status.model.startswith("tolerant@")
        sound = {id_ for id_ in made.values if tolerant or id_ not in made.faults}
        wanted = set(range(made.rows) if only is None else only)
        scored, rejected = self.rows_of(status, made)
        assert sorted(scored) == sorted(sound & wanted), _difference("scored", scored, sound & wanted)
        assert sorted(rejected) == sorted(wanted - sound), _difference("rejected", rejected, wanted - sound)
        factor = self.factor(status.job_id)
        wrong = [id_ for id_, found in scored.items() if not _same(found, factor * made.values[id_] + 1)]
        assert not wrong, f"{status.job_id}: rows {wrong[:5]} have other scores than those of {status.model}"
        assert (status.state, status.error) == ("partial" if rejected else "succeeded", "")

    def rows_of(self, status: Status, made: Input) -> tuple[dict[int, float], list[int]]:
        """Return the scores of a job by id, and the ids of its rejected rows. Also check the manifest of the job."""
        folder = parse_uri(status.output)[1]
        manifest = json.loads(self.store.get(keys.results_manifest(folder)).data)
        success = json.loads(self.store.get(keys.success(folder)).data)
        pinned = read_job(self.store, status.job_id).model
        named = {keys.results_manifest(folder), keys.success(folder)}
        scored: dict[int, float] = {}
        rejected: list[int] = []
        arranged = "files" in manifest
        for entry in manifest["files"] if arranged else manifest["parts"]:
            table = self._table(entry)
            named.add(entry["key"])
            footer = table.schema.metadata
            assert footer[b"scoreline.manifest_sha256"].decode() == pinned.manifest_sha256, entry
            assert footer[b"scoreline.job_id"].decode() == status.job_id, entry
            ids = [int(id_) for id_ in table.column("id").to_pylist()]
            assert ids == sorted(ids), f"{entry['key']} is not in the order of the input"
            assert not scored.keys() & ids, f"{entry['key']} has rows that are elsewhere too"
            scored |= zip(ids, table.column("prediction").to_pylist(), strict=True)
        for entry in manifest["parts"]:
            if entry["rejected"]:
                named.add(entry["rejected_key"])
                rows = pq.read_table(io.BytesIO(self.store.get(entry["rejected_key"]).data))
                assert rows.num_rows == entry["rejected"], entry
                where = zip(rows.column("source").to_pylist(), rows.column("row").to_pylist(), strict=True)
                rejected += [made.first_ids[source] + row for source, row in where]
        assert (success["rows"], success["rejected"]) == (len(scored), len(rejected)) == (status.rows, status.rejected)
        found = {info.key for info in self.store.list(folder)} - {
            keys.results_profile(folder),
            keys.results_report(folder),
        }
        assert found == named, f"left over: {sorted(found - named)}; missing: {sorted(named - found)}"
        return scored, rejected

    def _table(self, entry: Mapping[str, Any]) -> pa.Table:
        data = self.store.get(entry["key"]).data
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"]), entry
        table = pq.read_table(io.BytesIO(data))
        assert table.num_rows == entry["rows"], entry
        return table

    def check_ends(self) -> None:
        """Check that each job has either ``_SUCCESS`` or an outcome without complete results, but not both."""
        for status in self.client.jobs():
            if not status.ended:
                continue
            outcome = read_outcome(self.store, status.job_id)
            succeeded = exists(self.store, keys.success(parse_uri(status.output)[1]))
            assert outcome is not None
            assert succeeded == (outcome.state in ("succeeded", "partial")), f"{status}: _SUCCESS {succeeded}"

    def under_way(self) -> list[str]:
        """Return the ids of the jobs that have a marker."""
        return [info.key.removeprefix(keys.JOBS_ACTIVE) for info in self.store.list(keys.JOBS_ACTIVE)]

    def has_job(self, job_id: str) -> bool:
        """Return whether a job was submitted."""
        return exists(self.store, keys.job(job_id))

    def objects_of(self, status: Status) -> list[str]:
        """Return the URIs of the objects that a succeeded job has scored."""
        manifest = json.loads(self.store.get(keys.results_manifest(parse_uri(status.output)[1])).data)
        read = {source["key"] for entry in manifest["parts"] for source in entry["source"]}
        return sorted(map(self.store.uri, read))

    def clear(self) -> None:
        """Delete all objects except the models."""
        for info in list(self.store.list("")):
            if not info.key.startswith(keys.MODELS):
                self.store.delete(info.key)


def _same(found: float, expected: float) -> bool:
    return found == expected or (math.isnan(found) and math.isnan(expected))


def _difference(what: str, found: Collection[int], expected: Collection[int]) -> str:
    more, fewer = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    return f"{what}: {len(more)} too many {more[:10]}, {len(fewer)} missing {fewer[:10]}"
