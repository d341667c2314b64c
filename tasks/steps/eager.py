"""Runs the steps of a job in the process that submits it, as the Celery tasks of a worker would."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import (
    DocumentCorrupt,
    JobNotFound,
    LedgerFenced,
    LedgerLost,
    ObjectNotFound,
    ScorelineError,
    describe,
)
from scoreline.storage.ledger.counters import Counters
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.tasks.databases import loader
from scoreline.tasks.dispatch.memory_queue import Message
from scoreline.tasks.dispatch.outcome import fail_job
from scoreline.tasks.dispatch.reconcile import reconcile_job
from scoreline.tasks.records.carried import Carried
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.inline import score_records
from scoreline.tasks.steps.planner import plan_job
from scoreline.tasks.steps.score_part import score_part
from scoreline.tasks.webhooks.notify import Sender, give_up, notify
from scoreline.tasks.webhooks.settings import WebhookSettings

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class EagerWorker:
    """Handles messages one at a time.

    Errors that would fail a job in a worker fail the job here, too. Errors that a worker would retry are raised to the
    sender of the message, who can retry.
    """

    engine: Engine
    webhooks: WebhookSettings
    send: Sender
    """Delivers the notification of a job's end."""
    databases: DatabaseSettings = field(default_factory=lambda: DatabaseSettings.from_env({}))
    """The databases into which results are loaded."""

    def do(self, message: Message) -> None:
        """Handle a message.

        Raises
        ------
        ScorelineError
            A transient error: the message must be sent again.
        """
        job_id = message.kwargs["job_id"]
        try:
            self._do(message, job_id)
        except JobNotFound as error:
            log.warning("job.unknown", extra={"job_id": job_id, "error": describe(error)})
        except Exception as error:
            if getattr(error, "transient", False):
                raise
            if not isinstance(error, ScorelineError):
                log.exception("task.broken", extra={"job_id": job_id})
            self._give_up(message, job_id, error)

    def _give_up(self, message: Message, job_id: str, error: Exception) -> None:
        """Fail the job of a message, or give up the webhook of the job. Drop the message if the job cannot be read."""
        try:
            if message.name == "scoreline.events" and isinstance(error, ScorelineError):
                give_up(self.engine, job_id, error)
            elif message.name == "scoreline.load":
                loader.give_up(self.engine, self.databases, job_id, error)
            else:
                fail_job(self.engine, job_id, error)
        except DocumentCorrupt:
            log.exception("task.broken", extra={"job_id": job_id})

    def _do(self, message: Message, job_id: str) -> None:
        match message.name:
            case "scoreline.events":
                notify(self.engine, self.webhooks, job_id, self.send)
            case "scoreline.load":
                loader.load(self.engine, self.databases, job_id, message.kwargs.get("lane"))
            case "scoreline.plan":
                plan_job(self.engine, job_id)
            case "scoreline.finalize":
                finalize(self.engine, job_id)
            case "scoreline.score_part" | "scoreline.score_staged":
                try:
                    self._score(message, job_id)
                except (LedgerLost, LedgerFenced, ObjectNotFound):  # no ledger for this plan, or no plan
                    reconcile_job(self.engine, job_id)
            case _:
                raise AssertionError(f"no step of a job has the name {message.name!r}")

    def _score(self, message: Message, job_id: str) -> None:
        if message.name == "scoreline.score_staged":
            step = WaitingStep(task=message.name, job_id=job_id)
            _, carried = self.engine.ledger.waiting.receive(step)
            score_records(self.engine, job_id, message.id, Carried.of(carried))
        else:
            score_part(self.engine, job_id, message.kwargs["part"], message.id)


@dataclass(frozen=True, kw_only=True)
class LoadedModels:
    """A model source that loads each bundle once and keeps it in memory."""

    models: ModelStorageManager
    counters: Counters
    _bundles: dict[PinnedModel, Bundle] = field(default_factory=dict)

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return a bundle, loading it on first use. Raises the same errors as `ModelStorageManager.load_pinned`."""
        if pinned not in self._bundles:
            self._bundles[pinned] = bundle = self.models.load_pinned(pinned)
            self.counters.count_load(pinned.name, bundle.load_seconds)
        return self._bundles[pinned]

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return a bundle's manifest without loading the bundle."""
        return self.models.registry.manifest(pinned)
