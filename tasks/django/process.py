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
_made: Overview | None = None


def overview() -> Overview:
    """Return the overview of the client of this process; raises `InvalidSettings`."""
    global _made
    found: Client = client()
    with _guard:
        if _made is None or _made.client is not found:
            scheduler = Scheduler.from_settings(found, ScheduleSettings.from_env(environ()))
            _made = Overview(found, scheduler)
        return _made


def _forget() -> None:
    global _guard, _made
    _guard = threading.Lock()  # in a forked process, no thread would release the old lock
    _made = None


os.register_at_fork(after_in_child=_forget)
