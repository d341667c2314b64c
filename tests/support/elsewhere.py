"""Celery applications that know nothing of Scoreline."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery


@contextmanager
def application(broker: str, backend: str | None = None, **conf: Any) -> Iterator[Celery]:
    """Yield an application, and close its connections to `backend` at the end.

    ``Celery.close`` leaves them to the collector of garbage. If this collects a socket before the connection that
    would close it, Python warns of an unclosed socket in whichever test is running. The connections to the broker stay
    in a pool that kombu keeps for all applications.
    """
    app = Celery(broker=broker, backend=backend, set_as_current=False)
    app.conf.update(conf)
    with app:
        yield app
        if backend is not None:
            gc.collect()  # a result that is collected later would connect again to unsubscribe
            results: Any = app.backend
            results.result_consumer.stop()
            results.client.connection_pool.disconnect()
