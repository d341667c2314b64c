"""Opens the services that a process is configured to use: buckets, queue, ledger and registry.

No other module creates connections to these services. Clients, workers, the doctor and the command line differ only in
their `Patience`, which says how long they wait. Works with `requirements.txt` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.settings import StorageSettings, main_bucket
from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.tasks.dispatch.redis_url import is_redis_url
from scoreline.tasks.dispatch.settings import QueueSettings


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Time limits for a process that waits for a service to answer."""

    outlasts_outages: bool
    """Whether requests to a bucket are retried long enough to survive a short outage."""
    redis_connect_s: float
    redis_answer_s: float
    bucket_answer_s: float | None = None
    """Maximum value of R2_TIMEOUT_SECONDS for this process; None for no maximum."""


WORKER = Patience(outlasts_outages=True, redis_connect_s=5, redis_answer_s=10)
MAIN_PROCESS = Patience(outlasts_outages=True, redis_connect_s=10, redis_answer_s=30)
"""Longer time limits, because the main process of a worker cancels all tasks when it loses its broker."""
CLIENT = Patience(outlasts_outages=False, redis_connect_s=4, redis_answer_s=5)
"""Short time limits, because a user or a web request needs an answer within 10 s."""


def share_connection(settings: QueueSettings, patience: Patience) -> None:
    """Make ledger, queue and answers of this process share a single connection (see `shared_connection`)."""
    from scoreline.storage.ledger import shared_connection  # imports redis, which takes 0.1 s

    addresses = [(settings.broker_url, settings.broker_tls), (settings.redis_url, settings.redis_tls)]
    for url, tls in addresses if is_redis_url(settings.broker_url) else addresses[1:]:
        shared_connection.share(url, tls, connect_timeout_s=patience.redis_connect_s, timeout_s=patience.redis_answer_s)


class Connections:
    """The services of one process. Each service is opened at its first use, and then stays open.

    Every property may raise `InvalidSettings`; the error message lists all faults of the settings.

    Parameters
    ----------
    environ : mapping of str to str
        The environment variables that contain the settings.
    patience : Patience
        How long to wait for a service.
    app : celery.Celery, optional
        The app of a worker. The queue uses the connections of this app to the broker; by default, the queue opens its
        own.
    """

    def __init__(self, environ: Mapping[str, str], patience: Patience = CLIENT, *, app: Any = None) -> None:
        self._environ = environ
        self._patience = patience
        self._app = app

    @cached_property
    def storage_settings(self) -> StorageSettings:
        """The settings of the object store."""
        return StorageSettings.from_env(self._environ)

    @cached_property
    def queue_settings(self) -> QueueSettings:
        """The settings of Redis and the broker."""
        return QueueSettings.from_env(self._environ)

    @cached_property
    def model_settings(self) -> ModelSettings:
        """The settings that say which models are trusted."""
        return ModelSettings.from_env(self._environ)

    @cached_property
    def buckets(self) -> Buckets:
        """The stores of all buckets that the settings allow."""
        settings, longest_s = self.storage_settings, self._patience.bucket_answer_s
        if settings.r2 is not None and longest_s is not None:
            settings = replace(settings, r2=replace(settings.r2, timeout_s=min(longest_s, settings.r2.timeout_s)))
        return Buckets(settings, fail_fast=not self._patience.outlasts_outages)

    @cached_property
    def queue_names(self) -> QueueNames:
        """The names of the deployment's queues."""
        return QueueNames.of(main_bucket(self._environ))

    @cached_property
    def queue(self) -> Queue:
        """The queue that workers read."""
        settings = self.queue_settings
        note = settings.note_of(settings.broker_url)
        return Queue(settings.broker_url, self.queue_names, settings.broker_tls, self._app, note=note)

    @cached_property
    def ledger(self) -> RedisLedger:
        """The ledger of the main bucket's jobs."""
        return RedisLedger(
            self.queue_settings.redis_url,
            namespace=self.storage_settings.bucket_name,
            tls=self.queue_settings.redis_tls,
            connect_timeout_s=self._patience.redis_connect_s,
            timeout_s=self._patience.redis_answer_s,
            patience_s=self.queue_settings.patience_s,
            note=self.queue_settings.note_of(self.queue_settings.redis_url),
        )

    @cached_property
    def registry(self) -> ModelRegistry:
        """The registry of the models in the main bucket.

        It checks signatures if MODEL_VERIFY_KEYS is set, and signs changes of aliases if MODEL_SIGNING_KEY is.
        """
        settings = self.model_settings
        return ModelRegistry(self.buckets.main, verify_keys=settings.verify_keys, signing_key=settings.signing_key)
