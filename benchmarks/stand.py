"""Runs Scoreline with warm workers that are ready for jobs. Several benchmarks use this module."""

from __future__ import annotations

import io
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from benchmarks import work
from benchmarks.contenders.protocol import REHEARSALS, rehearsed_files
from benchmarks.counting_relay import CountingRelay
from benchmarks.slow_store import SlowStore
from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import exists
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status, read_job
from scoreline.worker.dev.stack import Stack
from scoreline.worker.dev.strict import SECONDS_BETWEEN_WRITES

WARM_ROWS = 1_000
_WARM_PARTS = 8
_POLL_S = {True: 0.01, False: 0.02}
"""Seconds between two checks for the plan, by whether the store is a directory."""
_LEDGER_POLL_S = 0.005
"""Seconds between two checks for the ledger of a job. A check costs a tenth of a request to the store. More requests to
the store would slow down the measured job."""


class Stand:
    """Runs Valkey, a store and a worker until its `with` block ends.

    Parameters
    ----------
    folder : Path
        Folder for all files of the services. The folder is removed at the end.
    processes : int
        Number of processes of the worker.
    directory : bool
        Whether the store is a directory. Otherwise the store is the embedded S3 server.
    settings : dict, optional
        Environment variables of the worker.
    """

    def __init__(
        self,
        folder: Path,
        *,
        processes: int = 2,
        directory: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stack = Stack(folder)
        self._processes = processes
        self._directory = directory
        self._settings = settings
        self._ended = -math.inf
        """Time at which the last job ended, by `time.monotonic`."""
        self.planned_s = 0.0
        """Seconds from submit to the plan of the last job; 0 if the plan was not seen before the outcome."""
        self.distant: SlowStore | None = None
        """The S3 server to use instead of the embedded server, if set before the start."""
        self.relay: CountingRelay | None = None
        """Relay that records the requests to the embedded S3 server, if it is set before the start."""

    def __enter__(self) -> Self:
        stack = self._stack.__enter__()
        if self._directory:
            stack.environ |= {
                "ENVIRONMENT": "development",
                "STORE_DIR": str(stack.folder / "store"),
                "R2_BUCKET": "scoreline",
            }
        elif self.distant is not None:
            stack.environ["R2_ENDPOINT_URL"] = self.distant.endpoint
        elif self.relay is not None:
            server = urlsplit(stack.environ["R2_ENDPOINT_URL"])
            self.relay.server_port = server.port or 80
            stack.environ["R2_ENDPOINT_URL"] = f"http://127.0.0.1:{self.relay.port}"
        try:
            stack.start_worker(self._processes, self._settings)
            self.client = Client.from_env(stack.environ)
            self.store = self.client.buckets.main
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        shutil.rmtree(self._stack.folder, ignore_errors=True)

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables with which a process finds the store and the broker."""
        return self._stack.environ

    def restart_worker(self) -> None:
        """Stop the worker, and start it again with new processes."""
        self._stack.stop_clients()
        self._stack.start_worker(self._processes, self._settings)

    def start_beat(self) -> None:
        """Start beat beside the worker."""
        self._stack.start_beat()

    def publish(self, name: str, model: Any) -> None:
        """Publish a model under the alias ``bench``."""
        ModelStorageManager.from_env(self._stack.environ).publish(name, model, alias="bench")

    def put(self, key: str, table: pa.Table, row_group_size: int | None = None) -> None:
        """Write a table to the store as a Parquet object."""
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=row_group_size)
        self.store.put(key, sink.getvalue())

    def rest(self) -> None:
        """Wait until another job can write ``latest.json`` of the same output at once.

        Like R2, the embedded S3 server takes one write a second for each key. A job that ended less than a second after
        another one would wait, which no job of an application does.
        """
        if not self._directory:
            time.sleep(max(0.0, self._ended + SECONDS_BETWEEN_WRITES - time.monotonic()))

    def score(self, name: str, prefix: str, *, expected: str = "succeeded", **options: Any) -> Status:
        """Score objects, and wait for the outcome. Raise `RuntimeError` if the job does not end as expected."""
        begun, self.planned_s = time.perf_counter(), 0.0
        job = self.client.submit(f"{name}@bench", self.store.uri(prefix), **options)
        while not exists(self.store, keys.outcome(job.job_id)):
            if not self.planned_s and exists(self.store, keys.plan(job.job_id)):
                self.planned_s = time.perf_counter() - begun
            while (progress := self.client.ledger.progress(job.job_id)) is not None and progress.stopped != "closed":
                self.planned_s = self.planned_s or time.perf_counter() - begun
                time.sleep(_LEDGER_POLL_S)
            if progress is None:  # if the ledger is closed, the outcome has been written
                time.sleep(_POLL_S[self._directory])
        self._ended = time.monotonic()
        last = self.client.status(job.job_id)
        if last.state != expected or last.seconds is None:
            raise RuntimeError(f"{job.job_id}: {last.state} {last.error}")
        return last

    def warm(self, name: str, table: pa.Table, features: Sequence[str]) -> None:
        """Score a few rows, too few to show the pace of a model, in enough parts that each process loads it."""
        for number in range(_WARM_PARTS):
            self.put(f"warm/{name}/{number}.parquet", table.slice(0, WARM_ROWS))
        for _ in range(2):
            self.score(name, f"warm/{name}/", part_rows=WARM_ROWS, features=features)

    def get_ready(self, folder: Path, name: str) -> None:
        """Publish a model of `benchmarks.work`, warm up as contenders do, and put the model's files below ``in/NAME/``.

        Raises `RuntimeError` if the pace of the model is still not known afterwards, although the model has scored a
        job.
        """
        files, features = work.inputs(folder, name), work.columns(name)[1:]
        self.publish(name, work.load(folder, name))
        self.warm(name, pq.read_table(files[0]), features)  # two files may be one part, which one process scores
        for file in rehearsed_files(files):
            self.store.put(f"before/{name}/{file.name}", file.read_bytes())
        for _ in range(REHEARSALS):
            done = self.score(name, f"before/{name}/", features=features)
        if self.client.ledger.counters.pace(read_job(self.store, done.job_id).work) is None:
            raise RuntimeError(f"{name}: the pace is not known after {done.rows:,} rows; take more")
        for file in files:
            self.store.put(f"in/{name}/{file.name}", file.read_bytes())

    def server_cpu(self) -> float:
        """CPU seconds that the S3 server has used so far."""
        return sum(sum(item.cpu_times()[:2]) for item in self._descendants("scoreline.worker.dev.s3"))

    def worker_cpu(self) -> float:
        """CPU seconds that the processes of the worker have used so far."""
        return sum(sum(item.cpu_times()[:2]) for item in [self.parent(), *self.pool()])

    def all_cpu(self) -> float:
        """CPU seconds that this process and all its children have used so far: client, worker, broker and store."""
        mine = psutil.Process()
        return sum(sum(item.cpu_times()[:2]) for item in [mine, *mine.children(recursive=True)])

    def pool(self) -> list[psutil.Process]:
        """Return the pool processes of the worker, which do the scoring."""
        return self.parent().children()

    def parent(self) -> psutil.Process:
        """Return the main process of the worker."""
        (parent,) = [item for item in self._descendants("celery") if item.children()]
        return parent

    def processes_by_role(self) -> dict[str, list[psutil.Process]]:
        """Return the main process of the worker, the processes of its pool, and beat."""
        parent = self.parent()
        beat = [item for item in self._descendants("beat") if item.ppid() != parent.pid]
        return {"main": [parent], "pool": parent.children(), "beat": beat}

    def held_messages(self) -> int:
        """Return how many messages the worker has received but not acknowledged."""
        with redis.Redis.from_url(self.environ["REDIS_URL"]) as connection:
            return int(connection.hlen("unacked"))

    def _descendants(self, what: str) -> list[psutil.Process]:
        found = []
        for item in psutil.Process().children(recursive=True):
            try:
                words = item.cmdline()
            except psutil.Error:  # the process has just ended
                continue
            if what in words and not any(word.endswith("guard.py") for word in words):
                found.append(item)
        return found
