"""The context of all checks: the environment, the working directory, and the services of the deployment."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Event

from scoreline.storage.container_memory import limit_bytes
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.settings import StorageSettings
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.connections import Connections, Patience
from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.dispatch.settings import QueueSettings
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.tasks.schedules.settings import ScheduleSettings
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.worker import memory
from scoreline.worker.settings import WorkerSettings

CONNECT_S = 3
ANSWER_S = 4
"""Seconds without an answer after which Redis or the bucket counts as unreachable."""
PATIENCE = Patience(
    outlasts_outages=False, redis_connect_s=CONNECT_S, redis_answer_s=ANSWER_S, bucket_answer_s=ANSWER_S
)


@dataclass
class Context:
    """Reads settings and opens services at their first use. Every property may raise `InvalidSettings`."""

    environ: Mapping[str, str]
    now: Callable[[], float] = time.time
    """Function that returns the time of this machine's clock."""
    folder: Path = field(default_factory=Path.cwd)
    """The directory that is searched for a Procfile."""
    leaving: Event = field(default_factory=Event)
    """Event that is set when the checks must end."""

    @property
    def storage(self) -> StorageSettings:
        """The settings of the object store."""
        return self.connections.storage_settings

    @property
    def queue(self) -> QueueSettings:
        """The settings of Redis and the broker."""
        return self.connections.queue_settings

    @property
    def models(self) -> ModelSettings:
        """The settings that say which models are trusted."""
        return self.connections.model_settings

    @cached_property
    def worker(self) -> WorkerSettings:
        """The settings of a worker."""
        return WorkerSettings.from_env(self.environ)

    @cached_property
    def webhooks(self) -> WebhookSettings:
        """The settings of webhooks."""
        return WebhookSettings.from_env(self.environ)

    @cached_property
    def schedules(self) -> ScheduleSettings:
        """The settings of the schedules."""
        return ScheduleSettings.from_env(self.environ)

    @cached_property
    def connections(self) -> Connections:
        """The services, with short timeouts and few retries."""
        return Connections(self.environ, PATIENCE)

    @property
    def buckets(self) -> Buckets:
        """The stores of all buckets that the settings allow."""
        return self.connections.buckets

    @property
    def store(self) -> ObjectStore:
        """The store of the main bucket."""
        return self.buckets.main

    @cached_property
    def registry(self) -> ModelRegistry:
        """The model registry, which checks signatures if MODEL_VERIFY_KEYS is set and `verifies` is true."""
        return self.connections.registry if self.verifies else ModelRegistry(self.store)

    @property
    def verifies(self) -> bool:
        """Whether signatures can be checked, which requires the package cryptography."""
        return find_spec("cryptography") is not None

    @property
    def ledger(self) -> RedisLedger:
        """The ledger of the main bucket's jobs."""
        return self.connections.ledger

    @property
    def broker(self) -> Queue:
        """The queue that workers read."""
        return self.connections.queue

    @cached_property
    def client(self) -> Client:
        """The client that the scheduler uses to submit jobs."""
        return Client(self.buckets, self.broker, self.ledger, self.webhooks)

    @cached_property
    def scheduler(self) -> Scheduler:
        """The scheduler, which reads the schedules."""
        return Scheduler.from_settings(self.client, self.schedules)

    @cached_property
    def on_dyno(self) -> bool:
        """Whether this process runs on Heroku."""
        return bool(self.environ.get("DYNO"))

    @cached_property
    def cores(self) -> int:
        """The number of cores that a worker on this machine may use."""
        return memory.cores() if find_spec("joblib") else os.cpu_count() or 1

    @cached_property
    def processes(self) -> int:
        """The number of processes that a worker on this machine starts."""
        fit = memory.size(limit_bytes=limit_bytes(), cores=self.cores).processes
        return self.worker.concurrency or fit

    @cached_property
    def worker_line(self) -> tuple[str, ...]:
        """The words of the ``worker:`` line in the Procfile; empty without such a line."""
        try:
            lines = (self.folder / "Procfile").read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return ()
        line = next((line.partition(":")[2] for line in lines if line.startswith("worker:")), "")
        try:
            return tuple(shlex.split(line))
        except ValueError:  # the line has an unclosed quotation mark
            return tuple(line.split())

    def worker_variable(self, name: str) -> str:
        """Return an environment variable of the worker, from its line in the Procfile or from the environment."""
        on_line = dict(word.split("=", 1) for word in self.worker_line if "=" in word and word[0] != "-")
        return on_line.get(name, self.environ.get(name, "")).strip()
