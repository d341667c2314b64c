"""A stack with short timeouts, methods that cause faults, and the invariants that must hold in the end."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self, cast

import boto3
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from scoreline.storage import keys
from scoreline.storage.errors import ObjectNotFound
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.tasks.job.documents import Status, read_job
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.uris import parse_uri
from scoreline.worker.dev.stack import make_bucket
from tests.support import quick_writes
from tests.support.chaos import OBSERVER
from tests.support.estimators import Paced
from tests.support.proving import proved_here
from tests.support.waiting import HANG_S, wait_until
from tests.support.warm import WarmStack

HASTE = {
    "PART_LEASE_SECONDS": "3",
    "PART_PATIENCE_SECONDS": "4",
    "RECONCILE_SECONDS": "1",
    "R2_TIMEOUT_SECONDS": "60",
    "TICK_SECONDS": "3600",
}


class Rig:
    """Runs services, workers and a job, and stops them at the end of its `with` block.

    Parameters
    ----------
    folder : Path
        Folder for logs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guards: list[Any] = []
        self._clocks: list[Any] = []
        self.stack = WarmStack(folder, s3_module="tests.support.chaos")
        self.rows = 0
        self.job_id = ""
        self._buckets = 0

    def __enter__(self) -> Self:
        self.stack.__enter__()
        self.stack.environ |= quick_writes.hurry(self.stack.environ)
        self._environ = dict(self.stack.environ)
        self._connect()
        return self

    def _connect(self) -> None:
        self.environ = self.stack.environ | HASTE | {"R2_ACCESS_KEY_ID": OBSERVER}
        self.client = Client.from_env(self.environ)
        self.redis: redis.Redis = redis.Redis.from_url(self.environ["REDIS_URL"])

    def __exit__(self, *error: Any) -> None:
        self._end_clients()
        self.stack.__exit__(*error)

    def _end_clients(self) -> None:
        self.kill(self.parents() + self.children() + self.clocks())
        self.stack.stop_clients()
        self._guards.clear()
        self._clocks.clear()
        self.redis.close()
        assert isinstance(self.client.ledger, RedisLedger)
        self.client.ledger.disconnect()

    def renew(self) -> None:
        """Stop everything except the services, empty Redis, and use a new bucket.

        A request that a worker sent before it was killed may still arrive, but only in the old bucket.
        """
        self._end_clients()
        self.chaos()
        for log in self.stack.folder.glob("*worker*.log"):
            log.unlink()
        self.redis.flushall()
        self._buckets += 1
        bucket = f"bucket-{self._buckets}"
        assert make_bucket(int(self._environ["R2_ENDPOINT_URL"].rpartition(":")[2]), bucket)
        self.stack.environ = self._environ | {"R2_BUCKET": bucket}
        self._connect()
        self.rows, self.job_id = 0, ""

    def reset(self) -> None:
        """Delete all objects, messages and keys, but keep services, workers and beat running."""
        self.chaos()
        self.wait_until_idle()
        for info in list(self.store.list("")):
            self.store.delete(info.key)
        self.redis.flushall()

    # Set-up

    def start_worker(self, processes: int = 2, app: str = "scoreline", **extra: str) -> None:
        self._guards.append(self.stack.start_worker(processes, HASTE | extra, app))

    def ensure_beat(self) -> None:
        """Start beat unless one is running."""
        if not self.clocks():
            self.start_beat()

    def start_beat(self, **extra: str) -> None:
        self._clocks.append(self.stack.start_beat(HASTE | extra))

    def publish(self, model: Paced | None = None, **options: Any) -> None:
        """Publish `model`, or a `Paced` with these options, as "paced"."""
        model = (model or Paced(**options)).fit(pd.DataFrame({"x": [0.0]}))
        with proved_here():
            ModelStorageManager.from_env(self.environ).publish("paced", model)

    def put_input(self, parts: int, rows: int = 100, folder: str = "in") -> str:
        """Write two files of row groups with `rows` rows, and return the URI of their folder.

        An earlier job may still read the folder. An input that differs would fail all of its parts that are left.
        """
        self.rows = parts * rows
        for number, groups in enumerate((range(parts // 2), range(parts // 2, parts))):
            ids = np.arange(groups.start * rows, groups.stop * rows)
            key = f"{folder}/{number}.parquet"
            if len(ids):
                data = self._table(ids, rows)
                with contextlib.suppress(ObjectNotFound):
                    assert self.store.get(key).data == data, f"an earlier job reads {key}: name another folder"
                self.store.put(key, data)
        return self.store.uri(f"{folder}/")

    def put_table(self, key: str, ids: Any, row_group_size: int) -> None:
        self.store.put(key, self._table(ids, row_group_size))

    @staticmethod
    def _table(ids: Any, row_group_size: int) -> bytes:
        table = pa.table({"id": ids, "x": ids.astype(float)})
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=row_group_size)
        return sink.getvalue()

    def submit(
        self, parts: int, *, rows: int = 100, model: str = "paced", folder: str = "in", **options: Any
    ) -> Status:
        """Submit a job of `parts` parts."""
        uri = self.put_input(parts, rows, folder)
        return self.client.submit(model, uri, part_rows=rows, **options)

    # Faults and their observation

    def state_key(self, job_id: str) -> str:
        """Return the Redis key of a job's state in the ledger."""
        return f"scoreline:{{{self.store.bucket}/{job_id}}}:state"

    @property
    def queue(self) -> str:
        """The queue with the messages of parts."""
        return QueueNames.of(self.store.bucket).parts

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues with the messages of jobs."""
        return QueueNames.of(self.store.bucket).of_jobs

    @property
    def clock_queue(self) -> str:
        """The queue with the messages of beat."""
        return QueueNames.of(self.store.bucket).clock

    @property
    def store(self) -> ObjectStore:
        return self.client.buckets.main

    def chaos(self, **rules: Any) -> dict[str, Any]:
        """Set the faults of the S3 server, and return how many it has caused so far."""
        address = f"{self.environ['R2_ENDPOINT_URL']}/_chaos"
        request = urllib.request.Request(address, json.dumps(rules).encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=HANG_S) as answer:
            return dict(json.load(answer))

    def held(self) -> int:
        """Return how many requests the S3 server is holding back."""
        with urllib.request.urlopen(f"{self.environ['R2_ENDPOINT_URL']}/_chaos", timeout=HANG_S) as answer:
            return int(json.load(answer)["held"])

    def parents(self) -> list[psutil.Process]:
        """Return the main processes of the workers."""
        return self._below(self._guards)

    def clocks(self) -> list[psutil.Process]:
        """Return the beats that are running."""
        return self._below(self._clocks)

    def _below(self, guards: list[Any]) -> list[psutil.Process]:
        found = []
        for guard in guards:
            if guard.poll() is not None:
                continue  # the guard has ended, so another process may have its id
            try:
                found += psutil.Process(guard.pid).children()
            except psutil.NoSuchProcess:
                continue
        return found

    def children(self) -> list[psutil.Process]:
        """Return the pool processes of all workers."""
        found = []
        for parent in self.parents():
            try:
                found += parent.children()
            except psutil.NoSuchProcess:
                continue
        return found

    @staticmethod
    def kill(processes: Iterable[psutil.Process]) -> None:
        """Kill processes. A process may have ended already, because its parent died."""
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def wait(self, until: Callable[[], Any], what: str) -> None:
        wait_until(until, what, self.logs)

    def wait_until_idle(self) -> None:
        """Wait until no worker has or will get a message of a job."""

        def is_idle() -> bool:
            with self.redis.pipeline() as at_once:  # or a worker could take a message between two looks
                at_once.hlen("unacked")
                for queue in self.queues:
                    at_once.llen(queue)
                return not any(at_once.execute())

        self.wait(is_idle, "an idle worker")

    def wait_for_parts(self, job: Status, parts: int) -> None:
        self.wait(lambda: self.client.status(job.job_id).parts_done >= parts, f"{parts} parts done")

    def wait_for_exit(self, processes: list[psutil.Process]) -> None:
        left = psutil.wait_procs(processes, HANG_S)[1]
        assert left == [], f"{left} have not ended; {self.logs()}"

    def end(self, job: Status, timeout_s: float = HANG_S) -> Status:
        try:
            return list(self.client.watch(job.job_id, timeout_s=timeout_s))[-1]
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.client.status(job.job_id)}; {self.logs()}") from error

    def logs(self) -> str:
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in self.stack.folder.glob("*worker*.log"))

    def messages(self) -> list[bytes]:
        """Return the messages of jobs in the queues, without those that a worker holds."""
        found = [cast(list[bytes], self.redis.lrange(queue, 0, -1)) for queue in self.queues]
        return [message for messages in found for message in messages]

    # Invariants

    def verify(self, job: Status, *, state: str = "succeeded", rejected: tuple[int, ...] = ()) -> None:
        """Check a finished job: no row is lost, doubled or out of place, and no object is left over."""
        assert (job.state, job.error) == (state, ""), self.logs()
        folder = parse_uri(job.output)[1]
        listed = {info.key: info.size for info in self.store.list(folder)}
        manifest = json.loads(self.store.get(keys.results_manifest(folder)).data)
        ids: list[int] = []
        refused: list[int] = []
        for entry in manifest["parts"]:
            data = self.store.get(entry["key"]).data
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
            table = pq.read_table(io.BytesIO(data))
            assert table.num_rows == entry["rows"]
            self.verify_table(job, table)
            ids += table.column("id").to_pylist()
            if entry["rejected"]:
                rows = pq.read_table(io.BytesIO(self.store.get(entry["rejected_key"]).data))
                assert rows.num_rows == entry["rejected"]
                refused += rows.column("id").to_pylist()
        # Every input row is scored or rejected once, and results are in the order of the input
        assert sorted(ids + refused) == list(range(self.rows))
        assert ids == sorted(ids)
        assert tuple(refused) == rejected
        # The manifest is complete and names no missing object, and there are no other objects
        plan = PlanFile(self.store, job.job_id)
        assert len(manifest["parts"]) == plan.parts
        named = {entry["key"] for entry in manifest["parts"]}
        named |= {entry["rejected_key"] for entry in manifest["parts"] if entry["rejected"]}
        named |= {keys.results_manifest(folder), keys.success(folder)}
        carry = ((number, entry.get("carry")) for number, entry in enumerate(manifest["parts"]))
        named |= {keys.carry_part(folder, number, scores["sha256"]) for number, scores in carry if scores}
        beside = {keys.results_profile(folder), keys.results_report(folder)}  # a job of a few records has neither
        beside |= {key for key in listed if key.startswith(keys.challenger_folder(folder))}
        assert set(listed) - beside == named
        success = json.loads(self.store.get(keys.success(folder)).data)
        assert (success["rows"], success["rejected"]) == (len(ids), len(refused)) == (job.rows, job.rejected)
        self.verify_clean(job)

    def verify_table(self, job: Status, table: pa.Table) -> None:
        """Check that values are those of the model, and that the footer names the model of the job."""
        assert np.array_equal(table.column("prediction"), 3 * table.column("id").to_numpy().astype(float) + 1)
        footer = table.schema.metadata
        pinned = read_job(self.store, job.job_id).model
        assert footer[b"scoreline.manifest_sha256"].decode() == pinned.manifest_sha256
        assert footer[b"scoreline.job_id"].decode() == job.job_id

    def verify_clean(self, job: Status) -> None:
        """Check that an ended job has left no marker, upload or message."""
        self.wait(lambda: not list(self.store.list(keys.active(job.job_id))), "the marker's end")
        assert self.open_uploads() == []
        self.wait(lambda: not self.messages(), "an empty queue")

    def open_uploads(self) -> list[str]:
        raw = boto3.client(
            "s3",
            endpoint_url=self.environ["R2_ENDPOINT_URL"],
            aws_access_key_id=OBSERVER,
            aws_secret_access_key="s",
            region_name="auto",
        )
        return [upload["Key"] for upload in raw.list_multipart_uploads(Bucket=self.store.bucket).get("Uploads", [])]
