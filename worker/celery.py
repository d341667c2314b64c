"""The Celery app: ``celery -A scoreline worker``, ``celery -A scoreline beat``, ``celery -A scoreline inspect models``.

Only a worker imports the tasks and the packages for scoring. Beat and ``celery inspect`` import neither, so beat needs
less than 60 MB.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.signals import beat_init, celeryd_init, setup_logging
from kombu import Queue

from scoreline.storage.errors import InvalidSettings, describe
from scoreline.storage.settings import main_bucket
from scoreline.tasks.dispatch.connections import MAIN_PROCESS, share_connection
from scoreline.tasks.dispatch.queue import broker_settings
from scoreline.tasks.dispatch.queue_names import CLOCK_TASKS, QueueNames
from scoreline.tasks.dispatch.settings import QueueSettings
from scoreline.worker import allocator, control, logs
from scoreline.worker.settings import GC_S, SOFT_TIME_LIMIT_S, TIME_LIMIT_S, WorkerSettings

ANSWER_KEPT_S = 3600

_queue = QueueSettings.from_env(os.environ)
_worker = WorkerSettings.from_env(os.environ)
_names = QueueNames.of(main_bucket(os.environ))

app = Celery("scoreline", broker=_queue.broker_url)
app.conf.update(
    broker_read_url=_queue.broker_url,  # CELERY_BROKER_URL may have options, and overrides only `broker`
    broker_write_url=_queue.broker_url,
    task_default_queue=_names.jobs,
    task_queues=[Queue(name) for name in _names.read],
    task_routes={name: {"queue": _names.clock} for name in sorted(CLOCK_TASKS)},
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_acks_on_failure=True,
    task_acks_on_timeout=True,
    task_reject_on_worker_lost=False,  # if true, a part that kills its process would be delivered forever
    task_retry_on_worker_lost=True,  # limited by max_retries of a task and by the attempts of a part
    worker_cancel_long_running_tasks_on_connection_loss=True,
    task_time_limit=TIME_LIMIT_S,
    task_soft_time_limit=SOFT_TIME_LIMIT_S,
    **broker_settings(
        _queue.broker_url,
        _queue.broker_tls,
        redis={
            "visibility_timeout": 2 * TIME_LIMIT_S,  # with a shorter timeout, running parts would be delivered twice
            "unacked_restore_interval": 60,  # in seconds; an idle worker opens a connection at each interval
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
    ),
    worker_consumer="scoreline.worker.consumer:TaskConsumer",
    worker_concurrency=_worker.concurrency,  # if None, `startup` computes the number from the memory
    worker_soft_shutdown_timeout=_worker.soft_shutdown_s,
    broker_connection_retry_on_startup=True,
    broker_channel_error_retry=_queue.broker_url.startswith("redis"),  # Redis may be full, or read-only in a failover
    broker_connection_max_retries=None,  # a worker retries forever if it cannot reach the broker
    broker_pool_limit=2,  # two for `inspect`; all code of a worker shares a single connection
    task_ignore_result=True,  # tasks that answer an application override this
    result_backend=f"scoreline.worker.answers:AnswerBackend+{_queue.redis_url}",
    redis_backend_use_ssl=dict(_queue.redis_tls) or None,
    redis_socket_connect_timeout=10,
    redis_socket_timeout=30,
    redis_backend_health_check_interval=25,
    redis_socket_keepalive=True,
    result_expires=ANSWER_KEPT_S,
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    timezone="UTC",
    worker_send_task_events=False,
    worker_max_tasks_per_child=2_000,  # with 200 and small parts, new processes took a tenth of the CPU time
    worker_proc_alive_timeout=60,
    beat_scheduler="scoreline.worker.beat:Scheduler",
    beat_schedule={
        name: {
            "task": f"scoreline.{name}",
            "schedule": float(every_s),
            # Messages expire, so that they do not pile up while no worker is running. No process reads their results.
            "options": {"expires": every_s, "ignore_result": True},
        }
        for name, every_s in (("reconcile", _worker.reconcile_s), ("tick", _worker.tick_s), ("gc", GC_S))
    },
)


@setup_logging.connect
def _set_up_logs(loglevel: int | None = None, logfile: str | None = None, **_: Any) -> None:
    """Set up logging by `logs` instead of Celery. With ``--logfile``, write to that file."""
    logs.set_up(os.environ, loglevel or logging.INFO, logfile)


@beat_init.connect
def _become_beat(**_: Any) -> None:
    """Make beat use a single connection, which the scheduler closes after each message."""
    from scoreline.worker.channel import use_channel

    share_connection(_queue, MAIN_PROCESS)
    use_channel()


@celeryd_init.connect
def _become_worker(conf: Any, options: Mapping[str, Any], **_: Any) -> None:
    """Import the tasks and size the pool. Celery reads the settings of the pool only after this signal."""
    allocator.use_one_heap(os.environ)
    if not _worker.remote_control:
        control.refuse_changes()
    try:
        from scoreline.worker import consumer, startup

        app.loader.import_task_module("scoreline.worker.tasks")  # imported by name, because `tasks` imports this module
    except Exception as error:  # otherwise Celery would start without tasks, and discard every message
        raise SystemExit(f"error: the tasks of the worker cannot be imported: {describe(error)}") from error
    share_connection(_queue, MAIN_PROCESS)
    consumer.tolerate_foreign_messages()
    try:
        startup.fit_into_memory(conf, options)
    except InvalidSettings as error:  # otherwise Celery would log the error and fail every message
        raise SystemExit(f"error: {error}") from None
    except Exception as error:  # otherwise Celery would start one process per core
        raise SystemExit(f"error: the worker cannot be sized: {describe(error)}") from error
