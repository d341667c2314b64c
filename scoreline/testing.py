"""Scores in the process that submits, for the tests of an application: no Redis, no worker and no bucket.

::

    from scoreline.testing import eager

    def test_customers_are_scored(tmp_path):
        with eager(tmp_path) as client:
            client.models.publish("churn", model, alias="champion")
            job = client.submit_records("churn@champion", [{"age": 41, "plan": "pro"}])
            assert job.wait()[0]["prediction"] == "stays"

The job is planned, scored and finalized by the code that a worker runs, so that its results, its documents and its
errors are those of production. Needs `ml-requirements.txt`, as a worker does.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoreline.storage.errors import InvalidRequest, JobFailed, require_extra
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.client import Client, stand_in
from scoreline.tasks.dispatch.memory_queue import MemoryQueue
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.webhooks.settings import WebhookSettings

if TYPE_CHECKING:
    import pandas as pd

    from scoreline.tasks.webhooks.delivery import Notification

__all__ = ["EagerClient", "SentNotification", "eager"]


@dataclass(frozen=True, kw_only=True)
class SentNotification:
    """The notification of a job's end that a worker would have sent."""

    url: str
    id: str
    """The header ``webhook-id``."""
    body: Mapping[str, Any]
    """What the receiver would have got: ``type``, ``timestamp`` and ``data``."""


class EagerClient(Client):
    """A client whose jobs run in its own process, on objects in a folder; `eager` makes one.

    Schedules run with `scoreline.tasks.schedules.scheduler.Scheduler`, which takes such a client too.

    Parameters
    ----------
    folder : Path
        Holds a folder for each bucket.
    run : bool
        Whether jobs run at once; otherwise they wait for `run`.
    settings : mapping of str to str
        Settings, under the names of their environment variables.

    Raises
    ------
    PackageMissing
        A package that a worker needs is not installed.
    InvalidSettings
        The message names every fault at once.
    """

    def __init__(self, folder: Path, *, run: bool, settings: Mapping[str, str]) -> None:
        with require_extra("scoreline.testing"):
            from scoreline.storage.models.manager import ModelStorageManager
            from scoreline.storage.models.settings import ModelSettings
            from scoreline.tasks.steps.eager import EagerWorker, LoadedModels
            from scoreline.tasks.steps.engine import Engine
        environ = {"WEBHOOK_SECRET": "no notification is sent"} | dict(settings)
        environ |= {"ENVIRONMENT": "development", "DYNO": "", "FORCE_R2": "", "STORE_DIR": str(folder)}
        buckets, ledger, webhooks = Buckets.from_env(environ), MemoryLedger(), WebhookSettings.from_env(environ)
        self.models = ModelStorageManager(
            buckets.main,
            cloud_only=False,
            use_r2=False,
            settings=ModelSettings.from_env(environ),
            buckets=buckets,
            try_here=True,
        )
        """The models in the folder: publish here what a job scores with."""
        self.notifications: list[SentNotification] = []
        """The notifications of jobs' ends, in their order; none is sent."""
        self.folder = folder
        """Holds a folder for each bucket, with a file for each object."""
        self._messages = MemoryQueue(lambda message: worker.do(message), at_once=run)
        engine = Engine(
            buckets=buckets,
            ledger=ledger,
            send=self._messages.send,
            models=LoadedModels(models=self.models, counters=ledger.counters),
        )
        worker = EagerWorker(engine=engine, webhooks=webhooks, send=self._record)
        super().__init__(buckets, self._messages, ledger, webhooks)

    def put(self, key: str, content: bytes | str | pd.DataFrame) -> str:
        """Write an object for jobs to read; returns its URI.

        Parameters
        ----------
        key : str
            ``in/customers.parquet``, or a URI, which may name another bucket of ALLOWED_BUCKETS.
        content : bytes, str or DataFrame
            A DataFrame is written as Parquet, without its index.
        """
        bucket, name = parse_uri(key) if key.startswith("s3://") else (self.buckets.main.bucket, key)
        store = self.buckets[bucket]
        if isinstance(content, str):
            content = content.encode()
        if not isinstance(content, bytes):
            sink = io.BytesIO()
            content.to_parquet(sink, index=False)
            content = sink.getvalue()
        store.put(name, content)
        return store.uri(name)

    def results(self, job_id: str) -> pd.DataFrame:
        """Read all results of a job, in the order of its input.

        With ``partition_by``, rows are in the order of their folders instead, and the folders' column comes last.

        Raises
        ------
        JobNotFound
            No job has that id.
        JobFailed
            It ended without all its results; the message gives the reason.
        InvalidRequest
            It has not ended.
        """
        from pyarrow import dataset

        status = self.status(job_id)
        if not status.ended:
            raise InvalidRequest(f"job {job_id} is {status.state} and has not ended: call run()")
        if status.state not in ("succeeded", "partial"):
            raise JobFailed(f"job {job_id} {status.state}" + (f": {status.error}" if status.error else ""))
        layout = ResultsLayout.of(self.buckets, read_job(self.buckets.main, job_id))
        bucket = self.folder / layout.store.bucket
        listed = (info.key for info in layout.store.list(layout.folder))
        found = [bucket / key for key in listed if not key.removeprefix(layout.folder).startswith("_")]
        files = dataset.dataset(
            list(map(str, found)),
            format="parquet",
            partitioning=dataset.partitioning(flavor="hive"),
            partition_base_dir=str(bucket / layout.folder),
        )
        frame: pd.DataFrame = files.to_table().to_pandas()
        return frame

    def run(self, messages: int | None = None) -> int:
        """Do what waits to be done, and what follows from it; returns the number of messages dealt with.

        Parameters
        ----------
        messages : int, optional
            Deal with so many at most, to see a job under way: the first plans it, each further one scores a part, and
            the last finalizes it.

        Raises
        ------
        ScorelineError
            Its `transient` is true: a worker would try again by itself, and here the next call does.
        """
        return self._messages.run(messages)

    def _record(self, url: str, notification: Notification, secret: str) -> None:
        body = json.loads(notification.body)
        self.notifications.append(SentNotification(url=url, id=notification.id, body=body))


@contextlib.contextmanager
def eager(
    folder: Path | str | None = None, *, run: bool = True, settings: Mapping[str, str] | None = None
) -> Iterator[EagerClient]:
    """Score in this process while the block runs, whoever submits: a client on a folder, without Redis or workers.

    `scoreline.submit` and its like, `Client.from_env()` and `scoreline.tasks.django.client()` use this client
    meanwhile, in all threads, so that the code under test needs no change; a client that was made before does not.
    Blocks may be nested, and the innermost counts. Environment variables are neither read nor set.

    A job that fails ends as failed, as it does in production. An error that a worker would wait out is raised by the
    call that met it. Publishing loads a model in this process, without the trial in a fresh one.

    Parameters
    ----------
    folder : Path or str, optional
        Keeps the objects, one folder for each bucket; by default a temporary one, which is removed.
    run : bool
        Whether a job has ended when `submit` returns. Otherwise it waits for `EagerClient.run`, or for a call that
        waits for it (`watch`, `RecordsJob.wait`).
    settings : mapping of str to str, optional
        Settings, under the names of their environment variables: ``R2_BUCKET`` (``scoreline`` by default),
        ``ALLOWED_BUCKETS``, ``WEBHOOK_URL``, ``ALLOWED_WEBHOOKS``, ``MODEL_VERIFY_KEYS`` and so on.

    Yields
    ------
    EagerClient
        A `Client` with `models`, `put`, `results`, `run` and `notifications`.

    Raises
    ------
    PackageMissing
        A package that a worker needs is not installed: pip install -r ml-requirements.txt.
    InvalidSettings
        The message names every fault at once.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="scoreline-"))
        client = EagerClient(Path(folder), run=run, settings=settings or {})
        stack.enter_context(stand_in(client))
        yield client
