"""An engine that works in the calling process and sends nothing: for preflights, tried checks and baselines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import ScorelineError, ScoringError, describe
from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.steps.engine import Engine, ModelSource


@contextmanager
def dry_engine(
    buckets: Buckets, ledger: Ledger, models: ModelSource, databases: DatabaseSettings | None = None
) -> Iterator[Engine]:
    """Return an engine that sends no message. At the end of the block, the memory for features is released."""
    try:
        engine = Engine(buckets=buckets, ledger=ledger, send=_send_nothing, models=models)
        if databases is not None:
            engine.databases = lambda: databases
        yield engine
    finally:
        MEMORY.release()


@contextmanager
def explaining_estimators() -> Iterator[None]:
    """Raise `ScoringError` in place of an error that is not Scoreline's, because an estimator may raise any."""
    try:
        yield
    except ScorelineError:
        raise
    except Exception as error:
        raise ScoringError(describe(error)) from error


def _send_nothing(name: str, **_: Any) -> NoReturn:
    raise AssertionError(f"an engine without a queue must not send {name}")
