"""Checks that every environment variable is valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scoreline.storage.errors import InvalidSettings
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.retention.settings import RetentionSettings
from scoreline.worker import logs
from scoreline.worker.doctor.check import Finding, error, ok, warning
from scoreline.worker.doctor.context import Context


def settings(context: Context) -> Iterator[Finding]:
    """Read every setting, and report all faults at once."""
    readers: tuple[Callable[[], object], ...] = (
        lambda: context.storage,
        lambda: context.queue,
        lambda: context.models,
        lambda: context.worker,
        lambda: context.webhooks,
        lambda: context.schedules,
        lambda: AlertSettings.from_env(context.environ),
        lambda: RetentionSettings.from_env(context.environ),
        lambda: logs.form_from_env(context.environ),
    )
    faults = []
    for read in readers:
        try:
            read()
        except InvalidSettings as fault:
            faults.append(str(fault).removeprefix("invalid settings: "))
    if faults:
        yield error("; ".join(faults), "correct these variables; the reference of settings explains each of them")
    elif (context.webhooks.allowed or context.webhooks.url) and not context.webhooks.secret:
        yield warning(
            "WEBHOOK_SECRET is not set, and an unsigned webhook is never sent",
            "set it for the workers to whsec_ followed by the output of `openssl rand -base64 32`",
        )
    else:
        yield ok("all variables are valid")
