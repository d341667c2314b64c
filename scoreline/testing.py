"""Runs jobs inside the tests of an application, without Redis, workers or a bucket.

::

    from scoreline.testing import eager

    def test_customers_are_scored(tmp_path):
        with eager(tmp_path) as client:
            client.models.publish("churn", model, alias="champion")
            job = client.submit_records("churn@champion", [{"age": 41, "plan": "pro"}])
            assert job.wait()[0]["prediction"] == "stays"

Jobs are planned, scored and finalized by the same code as in a worker, so that their results, documents and errors are
the same as in production. Needs `ml-requirements.txt`, as a worker does.
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

from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import InvalidRequest, JobFailed, require_extra
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.settings import Environment
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
    """A notification that a worker would have sent at the end of a job."""

    url: str
    id: str
    """The header ``webhook-id``."""
    body: Mapping[str, Any]
    """The JSON body of the request: ``type``, ``timestamp`` and ``data``."""


class EagerClient(Client):
    """A client that runs jobs in its own process and stores objects in a folder. `eager` makes one.

    To run schedules, pass the client to `scoreline.tasks.schedules.scheduler.Scheduler`.

    Parameters
    ----------
    folder : Path
        Contains a folder for each bucket.
    run : bool
        Whether jobs run at once. Otherwise they wait for a call of `run`.
    settings : mapping of str to str
        Settings, under the names of their environment variables.

    Raises
    ------
    PackageMissing
        A package that a worker needs is not installed.
    InvalidSettings
        Some settings are wrong; the message lists all of them.
    """

    def __init__(self, folder: Path, *, run: bool, settings: Mapping[str, str]) -> None:
        with require_extra("scoreline.testing"):
            from scoreline.storage.models.settings import ModelSettings
            from scoreline.tasks.publishing import ModelStorageManager
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
        """The models in the folder. Publish a model here before a job uses it."""
        self.notifications: list[SentNotification] = []
        """The notifications for jobs that have ended, in order. They are recorded here and never sent."""
        self.folder = folder
        """Contains a folder for each bucket, with a file for each object."""
        self._messages = MemoryQueue(lambda message: worker.do(message), at_once=run)
        engine = Engine(
            buckets=buckets,
            ledger=ledger,
            send=self._messages.send,
            models=LoadedModels(models=self.models, counters=ledger.counters),
            profile=Environment(environ).flag("DATA_PROFILE", True),
        )
        databases = DatabaseSettings.from_env(environ)
        engine.databases = lambda: databases
        worker = EagerWorker(engine=engine, webhooks=webhooks, send=self._record, databases=databases)
        super().__init__(buckets, self._messages, ledger, webhooks)
        self.send_webhook = self._record

    def put(self, key: str, content: bytes | str | pd.DataFrame) -> str:
        """Write an object for jobs to read, and return its URI.

        Parameters
        ----------
        key : str
            A key of the main bucket, such as ``in/customers.parquet``, or a URI in any bucket of ALLOWED_BUCKETS.
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

    def results(self, job_id: str) -> pd.DataFrame:  # type: ignore[override]  # older than the method of `Client`
        """Read all results of a job, in the order of its input.

        With ``partition_by``, rows are in the order of their folders instead, and the partition column comes last.

        Raises
        ------
        JobNotFound
            No job has that id.
        JobFailed
            The job ended without complete results; the message gives the reason.
        InvalidRequest
            The job has not ended.
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
        """Handle the waiting messages, and those sent as a result. Return the number of messages handled.

        Parameters
        ----------
        messages : int, optional
            Maximum number of messages to handle, to observe a job under way. The first message plans a job, each of the
            following ones scores a part, and the last one finalizes the job.

        Raises
        ------
        ScorelineError
            Marked transient: a worker would retry by itself; here, the next call retries.
        """
        return self._messages.run(messages)

    def _record(self, url: str, notification: Notification, secret: str) -> None:
        body = json.loads(notification.body)
        self.notifications.append(SentNotification(url=url, id=notification.id, body=body))


@contextlib.contextmanager
def eager(
    folder: Path | str | None = None, *, run: bool = True, settings: Mapping[str, str] | None = None
) -> Iterator[EagerClient]:
    """Run all jobs in this process while the block runs, on objects in a folder, without Redis or workers.

    In all threads, `scoreline.submit` and the other functions of the package, `Client.from_env()`, and
    `scoreline.tasks.django.client()` use the client of the block, so that the code under test needs no change. Clients
    made before the block are not affected. Blocks may be nested; the innermost one applies. Environment variables are
    neither read nor set.

    A failing job ends with the state ``failed``, as in production. An error after which a worker would retry is raised
    by the call in which it occurs. Publishing loads a model in this process, without first trying it in a new process.

    Parameters
    ----------
    folder : Path or str, optional
        Contains the objects, with one folder for each bucket. By default, a temporary folder is used and then removed.
    run : bool
        Whether a job has ended when `submit` returns. Otherwise it runs in `EagerClient.run`, or in a call that waits
        for it (`watch`, `RecordsJob.wait`).
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
        Some settings are wrong; the message lists all of them.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="scoreline-"))
        client = EagerClient(Path(folder), run=run, settings=settings or {})
        stack.enter_context(stand_in(client))
        yield client
