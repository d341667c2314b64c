"""Prepares the main process of a worker before and after it forks its pool.

Before the fork, this module computes and logs the size of the pool, and loads `PRELOAD_MODELS` once for all children.
When the worker is ready, the module requests that jobs under way are reconciled.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from celery import Celery
from celery.signals import (
    celeryd_after_setup,
    task_postrun,
    task_prerun,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
)

from scoreline.storage import keys
from scoreline.storage.audit import run_as
from scoreline.storage.container_memory import limit_bytes
from scoreline.storage.errors import ScorelineError, StoreError, describe
from scoreline.storage.settings import StorageSettings
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.dispatch.connections import WORKER, Connections, share_connection
from scoreline.tasks.dispatch.settings import DEFAULT_REDIS_URL, QueueSettings
from scoreline.worker import lifecycle, memory, model_processes, telemetry
from scoreline.worker.lifecycle import process
from scoreline.worker.pool_files import PoolFiles
from scoreline.worker.settings import WorkerSettings
from scoreline.worker.shared_memory import Board

log = logging.getLogger(__name__)

_BUCKET_REMEDY = (
    "set R2_BUCKET to a bucket that exists in this account, and use a token that may read and write it; "
    "`scoreline doctor --only bucket` says more"
)
_SLOTS = 256


def connect(app: Celery) -> None:
    """Register the functions that run at each stage of a worker's start."""

    def reconcile_jobs(**_: Any) -> None:
        with app.connection_for_write() as connection:  # closed at once, because this process sends no other message
            app.send_task("scoreline.reconcile", expires=60, connection=connection, ignore_result=True)
        _count_preloaded()

    worker_init.connect(_name_program, weak=False)
    worker_init.connect(_share_memory, weak=False)
    worker_process_init.connect(_share_connection, weak=False)
    worker_process_init.connect(model_processes.allow_children, weak=False)
    worker_process_shutdown.connect(lifecycle.leave_steps, weak=False)
    worker_process_shutdown.connect(model_processes.end_children, weak=False)
    celeryd_after_setup.connect(_read_all_queues, weak=False)
    celeryd_after_setup.connect(_log_sizing, weak=False)
    celeryd_after_setup.connect(_open_pool_files, weak=False)
    task_prerun.connect(lifecycle.begin_task, weak=False)
    task_postrun.connect(lifecycle.end_task, weak=False)
    telemetry.connect()
    celeryd_after_setup.connect(_preload, weak=False)
    celeryd_after_setup.connect(_freeze, weak=False)  # last, when all that the children share is there
    worker_ready.connect(reconcile_jobs, weak=False)


def fit_into_memory(conf: Any, options: Mapping[str, Any]) -> None:
    """Set the number of processes and the memory of each process. A setting or option may fix the number."""
    settings = WorkerSettings.from_env(os.environ)
    AlertSettings.from_env(os.environ)  # a mistake there must not stay unnoticed until something fails at night
    connections = Connections(os.environ)
    registry = connections.registry
    preloaded = largest = 0
    try:
        next(connections.buckets.main.list(keys.MODELS), None)  # raises an error if the bucket does not exist
        preloaded, largest = memory.measure_models(registry, settings.preload)
    except StoreError as error:
        process.store_error = error
    asked = options.get("concurrency")
    if not isinstance(asked, int) or asked < 1:  # "auto" would be the number of cores
        asked = None
    sizing = memory.size(
        limit_bytes=limit_bytes(),
        cores=memory.cores(),
        asked=asked,
        preloaded_bytes=preloaded,
        model_bytes=largest,
        cache_bytes=settings.cache_bytes,
    )
    conf.worker_concurrency = sizing.processes
    conf.worker_max_memory_per_child = sizing.process_bytes >> 10
    process.sizing = sizing


def _name_program(**_: Any) -> None:
    """Name this process and its children in the audit."""
    run_as("worker")


def _share_memory(**_: Any) -> None:
    process.board = Board(_SLOTS)


def _share_connection(**_: Any) -> None:
    """Give a child its own connection, with the time limits of a child."""
    share_connection(QueueSettings.from_env(os.environ), WORKER)


def _read_all_queues(instance: Any, **_: Any) -> None:
    """Read the queues for steps and parts, too, if ``-Q`` names only the queues of earlier releases."""
    names, queues = Connections(os.environ).queue_names, instance.app.amqp.queues
    if names.jobs in queues.consume_from and not {names.steps, names.parts} & set(queues.consume_from):
        for name in (names.steps, names.parts):
            queues.select_add(name)


def _log_sizing(**_: Any) -> None:
    """Log the size of the pool and the faults that were found before logging was set up."""
    if QueueSettings.from_env(os.environ).assumed:
        log.warning("settings.assumed", extra={"variable": "REDIS_URL", "used": DEFAULT_REDIS_URL})
    if (error := process.store_error) is not None and error.transient:
        log.warning("models.unmeasured", extra={"error": describe(error)})
    elif error is not None:
        bucket = StorageSettings.from_env(os.environ).bucket_name
        log.error("bucket.unusable", extra={"bucket": bucket, "error": describe(error), "remedy": _BUCKET_REMEDY})
    if (sizing := process.sizing) is not None:
        log.info(
            "worker.sized",
            extra={
                "processes": sizing.processes,
                "limit_mb": sizing.limit_bytes >> 20,
                "process_mb": sizing.process_bytes >> 20,
                "cache_mb": sizing.cache_bytes >> 20,
                "arrow_pool": pa.default_memory_pool().backend_name,
            },
        )
        if sizing.short_bytes:
            log.warning("worker.memory_short", extra={"missing_mb": sizing.short_bytes >> 20})


def _open_pool_files(**_: Any) -> None:
    """Open the files that processes of the pool share. One process needs none."""
    count = 1 if process.sizing is None else process.sizing.processes
    if count > 1 and WorkerSettings.from_env(os.environ).spool_bytes:
        process.pool_files = PoolFiles.open(count)


def _preload(**_: Any) -> None:
    """Load models before the pool forks, so that the children share the memory of the models.

    The parent never predicts with these models. Otherwise, OpenMP would start threads in the parent. These threads do
    not survive a fork, and a child would wait for them forever. If a model cannot be loaded, the error is logged, and a
    job that needs the model fails with the reason.
    """
    settings = WorkerSettings.from_env(os.environ)
    if not settings.preload:
        return
    models = lifecycle.open_models()
    for ref in settings.preload:
        try:
            bundle = models.load(ref)
        except ScorelineError as error:
            log.error("models.preload_failed", extra={"model": ref, "error": describe(error)})
            continue
        process.preloaded.append(bundle)
        seconds = round(bundle.load_seconds, 3)
        log.info("models.preloaded", extra={"model": bundle.manifest.ref, "seconds": seconds})


def _freeze(**_: Any) -> None:
    """Exclude what exists before the pool forks from garbage collection, in this process and in its children.

    Most of it are the modules of libraries, which live as long as the process. A full collection of them takes a tenth
    of a second, again and again while a child plans, counts and finalizes jobs with many columns. In a child, it would
    also copy all shared pages.
    """
    gc.collect()
    gc.freeze()


def _count_preloaded() -> None:
    """After the fork, count the models that the parent has loaded, for the metrics."""
    if process.preloaded:
        ledger = Connections(os.environ, WORKER).ledger
        for bundle in process.preloaded:
            ledger.counters.count_load(bundle.manifest.name, bundle.load_seconds)
        ledger.disconnect()
