"""The worker's app with a fast clock for schedules: ``celery -A tests.support.fastclock worker``.

The clock shows FAST_FROM at the real time FAST_SINCE (seconds since 1970), and runs FAST_BY times as fast.
"""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta

from celery import Celery

from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.worker import lifecycle
from scoreline.worker.celery import app

__all__ = ["app", "fast_now"]

_real = lifecycle.scheduler


def fast_now() -> datetime:
    passed = time.time() - float(os.environ["FAST_SINCE"])
    return datetime.fromisoformat(os.environ["FAST_FROM"]) + timedelta(seconds=passed * float(os.environ["FAST_BY"]))


class FastScheduler(Scheduler):
    def tick(self, now: datetime | None = None) -> dict[str, list[str]]:
        return super().tick(now or fast_now())


def _scheduler(app: Celery) -> Scheduler:
    found = _real(app)
    found.__class__ = FastScheduler
    return found


lifecycle.scheduler = _scheduler
