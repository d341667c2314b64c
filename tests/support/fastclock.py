"""The worker's app with schedules that live faster: ``celery -A tests.support.fastclock worker``.

FAST_FROM is the moment at which they begin, FAST_SINCE the real one (seconds since 1970), FAST_BY how much faster.
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
