"""The state of one worker process: engine, client, scheduler and models."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Container
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from billiard.process import current_process
from celery import Celery, Task

from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import QueueUnavailable, StoreError
from scoreline.storage.ledger import shared_connection
from scoreline.storage.ledger.redis_ledger import host_and_port
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.settings import StorageSettings
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.small_objects import KeptObjects
from scoreline.storage.tables.spool import Spool
from scoreline.storage.tables.survey_orders import SurveyOrders
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.connections import CLIENT, WORKER, Connections
from scoreline.tasks.dispatch.queue import send_message
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.tasks.inputs.survey_with_helpers import help_planner
from scoreline.tasks.records.format import RecordsFormat
from scoreline.tasks.schedules.guarded_inputs import check_outside_schedules
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.tasks.schedules.settings import ScheduleSettings
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.short_steps import ShortSteps
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.worker import telemetry
from scoreline.worker.cache import ModelCache
from scoreline.worker.interrupted_part import allow_release
from scoreline.worker.memory import Sizing
from scoreline.worker.pool_files import PoolFiles
from scoreline.worker.run_request import is_between_batches, model_of_request, run_request
from scoreline.worker.settings import DEFAULT_CACHE_BYTES, WorkerSettings
from scoreline.worker.shared_memory import Board

_TICKS_A_REST = 1.5
"""While no schedule is due, the bucket is read once in this many tick intervals, that is, by every second tick. If
every tick read the bucket, each schedule would cost 120 requests an hour."""

_HOUSEKEEPING_S = 0.5


@dataclass
class Process:
    """The state of this process. The module `startup` sets the fields that children inherit.

    All objects with connections are created after the fork, because processes cannot share connections.
    """

    engine: Engine | None = None
    cache: ModelCache | None = None
    client: Client | None = None
    scheduler: Scheduler | None = None
    board: Board | None = None
    sizing: Sizing | None = None
    pool_files: PoolFiles = field(default_factory=PoolFiles)
    is_busy: bool = False
    """Whether this process does a task at the moment."""
    preloaded: list[Bundle] = field(default_factory=list)
    store_error: StoreError | None = None
    """The error that made the sizes of the models in the bucket unknown; None without an error."""


process = Process()


def open_models() -> ModelStorageManager:
    """Return a new model manager with its own connections."""
    settings = ModelSettings.from_env(os.environ)
    return ModelStorageManager.from_settings(StorageSettings.from_env(os.environ), settings)


def engine(app: Celery) -> Engine:
    """Return the engine of this process. The first call creates the engine."""
    if process.engine is None:
        cache_bytes = process.sizing.cache_bytes if process.sizing else DEFAULT_CACHE_BYTES
        connections, settings = Connections(os.environ, WORKER), WorkerSettings.from_env(os.environ)
        ledger, broker = connections.ledger, host_and_port(connections.queue_settings.broker_url)
        names = connections.queue_names

        def count_load(bundle: Bundle) -> None:
            ledger.counters.count_load(bundle.manifest.name, bundle.load_seconds)

        process.cache = ModelCache(open_models(), settings.cache_bytes or cache_bytes, process.preloaded, count_load)

        def send(name: str, **kwargs: Any) -> None:
            send_message(app, name, kwargs, queue=names.of_task(name), address=broker)

        process.engine = Engine(
            buckets=connections.buckets,
            ledger=ledger,
            models=process.cache,
            send=send,
            on_fault=telemetry.report,
            alerts=AlertSettings.events_from(os.environ),
            parts_per_process=settings.parts_per_process,
            weights=settings.group_weights,
            lease_s=settings.lease_s,
            reconcile_s=settings.reconcile_s,
            count_messages=partial(count_messages, app),
            batch_bytes=settings.batch_bytes,
            tables=Tables(RecordsFormat(), process.pool_files.shared_rows()),
            kept=KeptObjects(
                for_parts=True,
                spool=process.pool_files.spool(settings.spool_bytes),
                orders=process.pool_files.survey_orders(),
            ),
            profile=settings.profile,
            verify_keys=connections.model_settings.verify_keys,
            between_batches=ShortSteps(
                has_room=process.cache.has_room_beside,
                can_take_turns=process.cache.can_take_turns,
                do_request=partial(_do_request, app),
                model_of_request=lambda step: model_of_request(client(app).submission.registry, step),
            ),
            databases=partial(DatabaseSettings.from_env, os.environ),
            trace=telemetry.trace_context,
            span=telemetry.step,
        )
        _begin_to_help(process.engine, settings)
        if process.board is not None:
            allow_release()
            arguments = (process.board, process.cache, settings.redis_idle_s)
            threading.Thread(target=_keep_house, args=arguments, daemon=True, name="housekeeping").start()
    return process.engine


def leave_steps(**_: Any) -> None:
    """Leave the long steps that this process has begun to other processes, because it ends."""
    between = None if process.engine is None else process.engine.between_batches
    if isinstance(between, ShortSteps):
        between.abandon()


def _begin_to_help(engine: Engine, settings: WorkerSettings) -> None:
    """Start the thread that surveys objects for planners of other processes while this process is idle."""
    orders = process.pool_files.survey_orders()
    spool = process.pool_files.spool(settings.spool_bytes, helper=True)
    if orders is not None and spool is not None:
        arguments = (orders, spool, engine.buckets)
        threading.Thread(target=_help, args=arguments, daemon=True, name="survey helper").start()


def _help(orders: SurveyOrders, spool: Spool, buckets: Buckets) -> None:
    while True:
        order = orders.wait()
        if order is not None and not process.is_busy:
            help_planner(order, buckets, spool, lambda: not process.is_busy)
        del order  # which may have many objects


def begin_task(**_: Any) -> None:
    """Record that this process begins a task."""
    process.is_busy = True


def end_task(task: Task[Any, Any], **_: Any) -> None:
    """Record that this process has ended its task, unless that was a request between two batches of its part."""
    if not is_between_batches(task):
        process.is_busy = False


def _do_request(app: Celery, within: Engine, step: WaitingStep, longest_s: float) -> bool:
    """Do a request of an application with the engine `within`, which shares no documents with the part under way."""
    before, process.engine = process.engine, within
    try:
        return run_request(app, step, longest_s)
    finally:
        process.engine = before


def client(app: Celery) -> Client:
    """Return the client with which this process submits jobs, for schedules and for requests over the broker.

    The client uses the connections of the engine, because small Redis plans allow only a few connections.
    """
    if process.client is None:
        connections, webhooks = Connections(os.environ, CLIENT, app=app), WebhookSettings.from_env(os.environ)
        process.client = Client(connections.buckets, connections.queue, engine(app).ledger, webhooks)
        process.client.submission.dispatcher.alerts = engine(app).alerts
        process.client.submission.dispatcher.trace = telemetry.trace_context
        process.client.submission.carries_records = connections.queue_settings.carries_records
        guard = partial(check_outside_schedules, connections.buckets.main)
        process.client.submission.check_request = guard  # requests over the broker are not trusted
    return process.client


def scheduler(app: Celery) -> Scheduler:
    """Return the scheduler of this process; the scheduler submits jobs through `client`."""
    if process.scheduler is None:
        settings = ScheduleSettings.from_env(os.environ)
        rest_s = _TICKS_A_REST * WorkerSettings.from_env(os.environ).tick_s
        process.scheduler = Scheduler.from_settings(client(app), settings, telemetry.report, rest_s)
    return process.scheduler


def count_processes(app: Celery) -> list[int]:
    """Count the processes of each worker of this deployment. Wait half a second for the workers to answer."""
    own = Connections(os.environ, WORKER, app=app).queue.own_gauges(timeout_s=0.5)
    return [int(gauges["processes"]) for gauges in own.values()]


def count_messages(app: Celery) -> int | None:
    """Count the messages of parts that no process has received yet; None if the broker does not answer."""
    queue = Connections(os.environ, WORKER, app=app).queue
    try:
        return queue.backlog().waiting.get(queue.names.of_task("scoreline.score_part"))
    except QueueUnavailable:
        return None


def queue_names() -> QueueNames:
    """Return the names of the deployment's queues."""
    return Connections(os.environ).queue_names


def share_models() -> None:
    """Write a description of this child's models to shared memory, for the main process to read."""
    if process.board is not None and process.cache is not None:
        slot = getattr(current_process(), "index", None) or 0
        process.board.write(slot, os.getpid(), process.cache.snapshot())


def models_by_pid() -> dict[int, Any]:
    """Return the models of every child. Only the main process calls this."""
    return {} if process.board is None else process.board.read()


def cached_bytes(pids: Container[int]) -> int:
    """Return the memory of the models in the children `pids`. Only the main process calls this.

    Preloaded models are counted once, because the children share them.
    """
    shared = sum(bundle.memory_bytes for bundle in process.preloaded)
    own = (model for pid, held in models_by_pid().items() if pid in pids for model in held if not model["preloaded"])
    return shared + sum(int(model["bytes"]) for model in own)


def evict_models() -> int:
    """Make every child evict its models, and evict the models that this process has preloaded.

    Return the number of children with models.
    """
    holders = sum(bool(held) for held in models_by_pid().values())
    process.preloaded.clear()
    if process.board is not None:
        process.board.request_eviction()
    return holders


def _keep_house(board: Board, cache: ModelCache, redis_idle_s: float) -> None:
    """Evict the models of this child when the main process requests it, and close idle connections."""
    seen = board.evictions_requested()
    while True:
        time.sleep(_HOUSEKEEPING_S)
        shared_connection.close_idle(redis_idle_s)
        if (requested := board.evictions_requested()) != seen:
            seen = requested
            cache.evict_all()
            share_models()
