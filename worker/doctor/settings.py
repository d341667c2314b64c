"""Whether every variable can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scoreline.storage.errors import InvalidSettings
from scoreline.worker import logs
from scoreline.worker.doctor.base import Finding, error, ok, warning
from scoreline.worker.doctor.setup import Setup


def settings(setup: Setup) -> Iterator[Finding]:
    """Read what every part of Scoreline reads; all faults at once."""
    readers: tuple[Callable[[], object], ...] = (
        lambda: setup.storage,
        lambda: setup.queue,
        lambda: setup.models,
        lambda: setup.worker,
        lambda: setup.webhooks,
        lambda: setup.schedules,
        lambda: logs.form_from_env(setup.environ),
    )
    faults = []
    for read in readers:
        try:
            read()
        except InvalidSettings as fault:
            faults.append(str(fault).removeprefix("invalid settings: "))
    if faults:
        yield error("; ".join(faults), "mend these variables: README.md says what each means")
    elif (setup.webhooks.allowed or setup.webhooks.url) and not setup.webhooks.secret:
        yield warning(
            "WEBHOOK_SECRET is not set: no webhook is sent unsigned",
            "set it for the workers: whsec_ and 32 random bytes in base64 (openssl rand -base64 32)",
        )
    else:
        yield ok("every variable can be read")
