"""The Celery app: ``celery -A worker worker``."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task

from storage.errors import LedgerLost, ScorelineError
from tasks import finalize as finalizing
from tasks import part as parts
from tasks import planner
from tasks.client import Client
from tasks.engine import fail_job
from tasks.queue import QUEUE
from tasks.settings import QueueSettings
from worker import (
    control,  # noqa: F401  # registers the control commands
    lifecycle,
)

TIME_LIMIT_S = 600
MAX_RETRIES = 6
RETRY_DELAY_S = 2

_settings = QueueSettings.from_env(os.environ)

app = Celery("scoreline", broker=_settings.broker_url)
app.conf.update(
    task_default_queue=QUEUE,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_acks_on_failure=True,
    task_acks_on_timeout=True,
    task_reject_on_worker_lost=False,  # true loops for ever on a part that kills its process
    task_retry_on_worker_lost=True,  # bounded by each task's max_retries
    worker_cancel_long_running_tasks_on_connection_loss=True,
    task_time_limit=TIME_LIMIT_S,
    task_soft_time_limit=TIME_LIMIT_S - 60,
    broker_transport_options={
        "visibility_timeout": 2 * TIME_LIMIT_S,  # shorter, and a running part is given out twice
        "unacked_restore_interval": 15,
        "unacked_restore_throttle": 1,
        "socket_timeout": 30,
        "socket_connect_timeout": 10,
        "socket_keepalive": True,
        "health_check_interval": 25,
    },
    worker_soft_shutdown_timeout=20,  # a dyno is killed 30 s after its SIGTERM
    broker_connection_retry_on_startup=True,
    broker_pool_limit=2,  # a cap: a child uses one; `inspect` holds two at once, and would wait for ever with one
    task_ignore_result=True,
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    timezone="UTC",
    worker_send_task_events=False,
    worker_max_tasks_per_child=200,
    worker_proc_alive_timeout=60,
)
if _settings.broker_url.startswith("rediss://"):
    app.conf.broker_use_ssl = {"ssl_cert_reqs": None}  # Heroku's certificates are self-signed

lifecycle.connect()


def _retry_or_fail(task: Task[Any, Any], job_id: str, error: ScorelineError) -> None:
    """Try a transient error again for a while; in the end, and at any other error, the job fails with the reason."""
    if error.transient and task.request.retries < MAX_RETRIES:
        raise task.retry(exc=error, countdown=min(60, 2**task.request.retries), max_retries=MAX_RETRIES)
    fail_job(lifecycle.engine(app), job_id, error)


@app.task(name="scoreline.submit")
def submit(model: str, input: str, **options: Any) -> None:
    """Submit a job on behalf of an application that has nothing of ours installed."""
    Client.from_env(os.environ).submit(model, input, **options)


@app.task(name="scoreline.plan", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def plan(self: Task[Any, Any], job_id: str) -> None:
    """Cut a job into parts and dispatch the first."""
    try:
        planner.plan_job(lifecycle.engine(app), job_id)
    except ScorelineError as error:
        _retry_or_fail(self, job_id, error)


@app.task(name="scoreline.score_part", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def score_part(self: Task[Any, Any], job_id: str, part: int) -> None:
    """Score one part; a transient error is retried, and in the end fails the part with that reason."""
    engine = lifecycle.engine(app)
    try:
        again = bool(self.request.retries or (self.request.delivery_info or {}).get("redelivered"))
        parts.score_part(engine, job_id, part, again=again)
    except LedgerLost:  # Redis was emptied: planning again opens a new ledger, and finds what is written already
        engine.send("scoreline.plan", job_id=job_id)
    except ScorelineError as error:
        if error.transient and self.request.retries >= MAX_RETRIES:
            parts.give_up(engine, job_id, part, error)
        else:
            _retry_or_fail(self, job_id, error)
    finally:
        lifecycle.report()


@app.task(name="scoreline.finalize", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def finalize(self: Task[Any, Any], job_id: str) -> None:
    """Check and close a job whose parts are all done."""
    try:
        finalizing.finalize(lifecycle.engine(app), job_id)
    except ScorelineError as error:
        _retry_or_fail(self, job_id, error)
