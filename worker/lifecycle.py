"""A worker process from fork to exit: what it opens, and when. Composition root of the worker."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from billiard.process import current_process
from celery import Celery
from celery.signals import celeryd_after_setup, worker_init, worker_ready

from scoreline.storage import keys
from scoreline.storage.errors import ScorelineError, StoreError, describe
from scoreline.storage.ledger.redis_ledger import RedisLedger, address
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.settings import StorageSettings
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue import Queue, send_message
from scoreline.tasks.dispatch.settings import DEFAULT_REDIS_URL, QueueSettings
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.tasks.schedules.settings import ScheduleSettings
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.worker import memory, telemetry
from scoreline.worker.cache import ModelCache
from scoreline.worker.settings import DEFAULT_CACHE_BYTES, WorkerSettings
from scoreline.worker.shared_memory import Board

log = logging.getLogger(__name__)

_OF_BUCKET = (
    "see that R2_BUCKET is the name of a bucket that exists in this account, and that the token may read and write it: "
    "scoreline doctor --only bucket"
)
_SLOTS = 256
_ORDERS_POLL_S = 0.5


@dataclass
class _Process:
    """What this process holds. Clients are made after the fork, since they must not be shared across one."""

    engine: Engine | None = None
    cache: ModelCache | None = None
    board: Board | None = None
    client: Client | None = None
    scheduler: Scheduler | None = None
    sizing: memory.Sizing | None = None
    fault: StoreError | None = None
    """Why the models in the bucket could not be measured."""
    preloaded: list[Bundle] = field(default_factory=list)


_process = _Process()


def connect(app: Celery) -> None:
    """Make the parts that the children inherit when the worker starts, and look after the jobs once it runs."""

    def look_after_jobs(**_: Any) -> None:
        with app.connection_for_write() as connection:  # of its own, since this process never sends again
            app.send_task("scoreline.reconcile", expires=60, connection=connection, ignore_result=True)
        _count_preloaded()

    worker_init.connect(_make_board, weak=False)
    celeryd_after_setup.connect(_tell_settled, weak=False)
    telemetry.connect()
    celeryd_after_setup.connect(_preload, weak=False)
    worker_ready.connect(look_after_jobs, weak=False)


def fit_into_memory(conf: Any, options: Mapping[str, Any]) -> None:
    """Settle how many processes the worker has, unless somebody says, and what each may take."""
    settings = WorkerSettings.from_env(os.environ)
    storage, models = StorageSettings.from_env(os.environ), ModelSettings.from_env(os.environ)
    store = Buckets(storage, patient=False).main
    preloaded = largest = 0
    try:
        next(store.list(keys.MODELS), None)  # whether there is such a bucket: models that are named do not tell
        preloaded, largest = memory.measured(ModelRegistry(store, verify_keys=models.verify_keys), settings.preload)
    except StoreError as error:
        _process.fault = error
    asked = options.get("concurrency")
    if not isinstance(asked, int) or asked < 1:  # "auto", of which Celery makes a number by the cores alone
        asked = None
    sizing = memory.size(
        limit_bytes=memory.limit_bytes(),
        cores=memory.cores(),
        asked=asked,
        preloaded_bytes=preloaded,
        model_bytes=largest,
        cache_bytes=settings.cache_bytes,
    )
    conf.worker_concurrency = sizing.processes
    conf.worker_max_memory_per_child = sizing.process_bytes >> 10
    _process.sizing = sizing


def _tell_settled(**_: Any) -> None:
    """Log what was settled, and what was found wrong, before there was a log."""
    if QueueSettings.from_env(os.environ).assumed:
        log.warning("settings.assumed", extra={"variable": "REDIS_URL", "used": DEFAULT_REDIS_URL})
    if (fault := _process.fault) is not None and fault.transient:
        log.warning("models.unmeasured", extra={"error": describe(fault)})
    elif fault is not None:
        bucket = StorageSettings.from_env(os.environ).bucket_name
        log.error("bucket.unusable", extra={"bucket": bucket, "error": describe(fault), "remedy": _OF_BUCKET})
    if (sizing := _process.sizing) is not None:
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


def _make_board(**_: Any) -> None:
    _process.board = Board(_SLOTS)


def _preload(**_: Any) -> None:
    """Load models before the pool forks, so that its processes share their memory.

    Nothing is predicted here: OpenMP's threads do not survive a fork, and a child would wait for them for ever. A model
    that cannot be loaded is logged; jobs that need it will say why.
    """
    settings = WorkerSettings.from_env(os.environ)
    if not settings.preload:
        return
    models = _open_models()
    for ref in settings.preload:
        try:
            bundle = models.load(ref)
        except ScorelineError as error:
            log.error("models.preload_failed", extra={"model": ref, "error": describe(error)})
            continue
        _process.preloaded.append(bundle)
        seconds = round(bundle.load_seconds, 3)
        log.info("models.preloaded", extra={"model": bundle.manifest.ref, "seconds": seconds})
    del models
    gc.collect()
    gc.freeze()  # the collector of a child would write to every object, and so copy every page


def _count_preloaded() -> None:
    """Count what the parent loaded, by a connection that no child inherits."""
    if _process.preloaded:
        ledger = _open_ledger(QueueSettings.from_env(os.environ), Buckets.from_env(os.environ))
        for bundle in _process.preloaded:
            ledger.counters.count_load(bundle.manifest.name, bundle.load_seconds)
        ledger.disconnect()


def _open_ledger(queue: QueueSettings, buckets: Buckets) -> RedisLedger:
    return RedisLedger(queue.redis_url, namespace=buckets.main.bucket, tls=queue.redis_tls, patience_s=queue.patience_s)


def _open_models() -> ModelStorageManager:
    settings = ModelSettings.from_env(os.environ)
    return ModelStorageManager.from_settings(StorageSettings.from_env(os.environ), settings)


def engine(app: Celery) -> Engine:
    """Return the engine of this process; the first call makes it."""
    if _process.engine is None:
        sized = _process.sizing.cache_bytes if _process.sizing else DEFAULT_CACHE_BYTES
        queue, settings = QueueSettings.from_env(os.environ), WorkerSettings.from_env(os.environ)
        buckets = Buckets.from_env(os.environ)
        ledger = _open_ledger(queue, buckets)

        def count_load(bundle: Bundle) -> None:
            ledger.counters.count_load(bundle.manifest.name, bundle.load_seconds)

        _process.cache = ModelCache(_open_models(), settings.cache_bytes or sized, _process.preloaded, count_load)

        def send(name: str, **kwargs: Any) -> None:
            send_message(app, name, kwargs, address=address(queue.broker_url))

        _process.engine = Engine(
            buckets=buckets,
            ledger=ledger,
            models=_process.cache,
            send=send,
            on_fault=telemetry.report,
            parts_per_process=settings.parts_per_process,
            lease_s=settings.lease_s,
        )
        if _process.board is not None:
            threading.Thread(target=_obey, args=(_process.board, _process.cache), daemon=True, name="orders").start()
    return _process.engine


def client(app: Celery) -> Client:
    """Return the client of this process, for the schedules and applications that ask by message.

    It shares the engine's connections: small plans of Redis have few.
    """
    if _process.client is None:
        settings = QueueSettings.from_env(os.environ)
        _process.client = Client(
            Buckets.from_env(os.environ, patient=False),
            Queue(settings.broker_url, app=app),
            engine(app).ledger,
            WebhookSettings.from_env(os.environ),
        )
    return _process.client


def scheduler(app: Celery) -> Scheduler:
    """Return the schedules of this process; it submits as an application does."""
    if _process.scheduler is None:
        _process.scheduler = Scheduler(client(app), ScheduleSettings.from_env(os.environ).file)
    return _process.scheduler


def count_processes(app: Celery) -> int:
    """Count the processes of every worker that answers the broker within half a second."""
    with app.connection_for_write() as connection:
        answers = app.control.inspect(timeout=0.5, connection=connection).stats() or {}
    return sum(int(stats.get("pool", {}).get("max-concurrency", 1)) for stats in answers.values())


def report() -> None:
    """Tell the parent which models are here."""
    if _process.board is not None and _process.cache is not None:
        slot = getattr(current_process(), "index", None) or 0
        _process.board.write(slot, os.getpid(), _process.cache.snapshot())


def models() -> dict[int, Any]:
    """Return the models of every child by pid; for the parent."""
    return {} if _process.board is None else _process.board.read()


def cached_bytes(pids: Container[int]) -> int:
    """Return the memory of the models that the children `pids` hold, with those that they share; for the parent."""
    shared = sum(bundle.manifest.memory_bytes for bundle in _process.preloaded)
    own = (model for pid, held in models().items() if pid in pids for model in held if not model["preloaded"])
    return shared + sum(int(model["bytes"]) for model in own)


def evict_models() -> int:
    """Order every child to let go of its models, and let go of those preloaded; returns how many children hold any."""
    holders = sum(bool(held) for held in models().values())
    _process.preloaded.clear()
    if _process.board is not None:
        _process.board.order_eviction()
    return holders


def _obey(board: Board, cache: ModelCache) -> None:
    """Carry out evictions in a child, idle or not."""
    known = board.evictions_ordered()
    while True:
        time.sleep(_ORDERS_POLL_S)
        if (ordered := board.evictions_ordered()) != known:
            known = ordered
            cache.evict_all()
            report()
