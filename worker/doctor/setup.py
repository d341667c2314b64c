"""What is examined: the environment, the working directory, and what they lead to."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Event

from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.settings import StorageSettings
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.dispatch.settings import QueueSettings
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.tasks.schedules.settings import ScheduleSettings
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.worker import memory
from scoreline.worker.settings import WorkerSettings

CONNECT_S = 3
ANSWER_S = 4
"""Seconds for one answer of Redis or the bucket: what takes longer counts as away."""


@dataclass
class Setup:
    """Opens what the settings name when it is asked for; every property may raise `InvalidSettings`."""

    environ: Mapping[str, str]
    now: Callable[[], float] = time.time
    """This machine's clock."""
    folder: Path = field(default_factory=Path.cwd)
    """Where a Procfile would be."""
    leaving: Event = field(default_factory=Event)
    """Set when a check has to come to its end."""

    @cached_property
    def storage(self) -> StorageSettings:
        """Where objects live."""
        return StorageSettings.from_env(self.environ)

    @cached_property
    def queue(self) -> QueueSettings:
        """Where Redis and the broker are."""
        return QueueSettings.from_env(self.environ)

    @cached_property
    def models(self) -> ModelSettings:
        """Which models are trusted."""
        return ModelSettings.from_env(self.environ)

    @cached_property
    def worker(self) -> WorkerSettings:
        """What a worker does."""
        return WorkerSettings.from_env(self.environ)

    @cached_property
    def webhooks(self) -> WebhookSettings:
        """Who is told how jobs end."""
        return WebhookSettings.from_env(self.environ)

    @cached_property
    def schedules(self) -> ScheduleSettings:
        """Where the schedules are."""
        return ScheduleSettings.from_env(self.environ)

    @cached_property
    def buckets(self) -> Buckets:
        """Stores that do not wait long."""
        settings = self.storage
        if settings.r2 is not None:
            settings = replace(settings, r2=replace(settings.r2, timeout_s=min(ANSWER_S, settings.r2.timeout_s)))
        return Buckets(settings, patient=False)

    @property
    def store(self) -> ObjectStore:
        """The main bucket."""
        return self.buckets.main

    @cached_property
    def registry(self) -> ModelRegistry:
        """Models by name, with their signatures checked as the settings say, where that is possible."""
        return ModelRegistry(self.store, verify_keys=self.models.verify_keys if self.verifies else ())

    @property
    def verifies(self) -> bool:
        """Whether signatures can be checked here."""
        return find_spec("cryptography") is not None

    @cached_property
    def ledger(self) -> RedisLedger:
        """The ledger of the main bucket's jobs."""
        return RedisLedger(
            self.queue.redis_url,
            namespace=self.storage.bucket_name,
            tls=self.queue.redis_tls,
            connect_timeout_s=CONNECT_S,
            timeout_s=ANSWER_S,
        )

    @cached_property
    def broker(self) -> Queue:
        """Where messages go."""
        return Queue(self.queue.broker_url, self.queue.broker_tls)

    @cached_property
    def scheduler(self) -> Scheduler:
        """Who reads the schedules."""
        return Scheduler(Client(self.buckets, self.broker, self.ledger), self.schedules.file)

    @cached_property
    def on_dyno(self) -> bool:
        """Whether this is Heroku."""
        return bool(self.environ.get("DYNO"))

    @cached_property
    def cores(self) -> int:
        """Cores of this machine that its processes may use."""
        return memory.cores() if find_spec("joblib") else os.cpu_count() or 1

    @cached_property
    def processes(self) -> int:
        """Processes that a worker of this machine has."""
        fit = memory.size(limit_bytes=memory.limit_bytes(), cores=self.cores).processes
        return self.worker.concurrency or fit

    @cached_property
    def worker_line(self) -> tuple[str, ...]:
        """The words of the Procfile's ``worker:`` line; none where there is none."""
        try:
            lines = (self.folder / "Procfile").read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return ()
        line = next((line.partition(":")[2] for line in lines if line.startswith("worker:")), "")
        try:
            return tuple(shlex.split(line))
        except ValueError:  # a quotation that does not end
            return tuple(line.split())

    def of_worker(self, name: str) -> str:
        """Return a variable as a worker has it: on Heroku the Procfile's line may set what other dynos do not see."""
        on_line = dict(word.split("=", 1) for word in self.worker_line if "=" in word and word[0] != "-")
        return on_line.get(name, self.environ.get(name, "")).strip()
