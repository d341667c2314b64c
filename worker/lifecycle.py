"""A worker process from fork to exit: what it opens, and when. Composition root of the worker."""

from __future__ import annotations

import os
from typing import Any

from billiard.process import current_process
from celery import Celery
from celery.signals import worker_init

from storage.ledger.redis_ledger import RedisLedger
from storage.objects.buckets import Buckets
from storage.settings import Environment
from tasks.engine import Engine
from tasks.settings import QueueSettings
from worker.board import Board
from worker.cache import ModelCache

_SLOTS = 256


class _Process:
    """What this process holds; made after the fork, since clients must not be shared across one."""

    engine: Engine | None = None
    cache: ModelCache | None = None
    board: Board | None = None


def connect() -> None:
    """Make the parts that the children inherit when the worker starts."""
    worker_init.connect(_make_board, weak=False)


def _make_board(**_: Any) -> None:
    _Process.board = Board(_SLOTS)


def engine(app: Celery) -> Engine:
    """Return the engine of this process; the first call makes it."""
    if _Process.engine is None:
        env = Environment(os.environ)
        cache_bytes = env.number("MODEL_CACHE_MB", 1024, minimum=1) << 20
        env.finish()
        buckets = Buckets.from_env(os.environ)
        _Process.cache = ModelCache(buckets.main, cache_bytes)

        def send(name: str, **kwargs: Any) -> None:
            app.send_task(name, kwargs=kwargs)

        _Process.engine = Engine(
            buckets=buckets,
            ledger=RedisLedger(QueueSettings.from_env(os.environ).redis_url),
            models=_Process.cache,
            send=send,
        )
    return _Process.engine


def report() -> None:
    """Tell the parent which models are here."""
    if _Process.board is not None and _Process.cache is not None:
        slot = getattr(current_process(), "index", None) or 0
        _Process.board.write(slot, os.getpid(), _Process.cache.snapshot())


def models() -> dict[int, Any]:
    """Return the models of every child by pid; for the parent."""
    return {} if _Process.board is None else _Process.board.read()
