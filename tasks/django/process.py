"""The overview that all threads of this process share."""

from __future__ import annotations

import os
import threading

from scoreline.tasks.client import Client
from scoreline.tasks.django.project_client import client, environ
from scoreline.tasks.overview.overview import Overview
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.tasks.schedules.settings import ScheduleSettings

_guard = threading.Lock()
_made: dict[int, Overview] = {}


def overview() -> Overview:
    """Return the overview of the client of this process; raises `InvalidSettings`."""
    found: Client = client()
    with _guard:
        known = _made.get(id(found))
        if known is None or known.client is not found:
            _made.clear()
            scheduler = Scheduler.from_settings(found, ScheduleSettings.from_env(environ()))
            known = _made[id(found)] = Overview(found, scheduler)
        return known


def _forget() -> None:
    global _guard
    _guard = threading.Lock()  # in a forked process, no thread would release the old lock
    _made.clear()


os.register_at_fork(after_in_child=_forget)
