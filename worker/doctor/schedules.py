"""Whether the schedules can be read, and what they name is there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

from scoreline.storage import keys
from scoreline.storage.errors import LedgerUnavailable, ModelNotFound, ScorelineError, describe
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.schedules.file import parse, render
from scoreline.tasks.schedules.schedule import Schedule
from scoreline.worker.doctor.base import Finding, error, ok, warning
from scoreline.worker.doctor.live import silence
from scoreline.worker.doctor.setup import Setup


def schedules(setup: Setup) -> Iterator[Finding]:
    """Read the schedules; one that is in the deployed file and cannot be used is an error, as it came with it."""
    asked = setup.environ.get("SCHEDULES_FILE", "").strip()
    if asked and not setup.schedules.file.is_file():
        yield warning(
            f"SCHEDULES_FILE={asked} is no file: the object {keys.SCHEDULES} of the bucket counts, if there is one",
            "deploy the file, or unset SCHEDULES_FILE",
        )
    where, text = setup.scheduler.source()
    parsed = parse(text, setup.webhooks)
    report = error if setup.schedules.file.is_file() else warning
    wrong = [report(f"{where}: {fault}", "`scoreline schedule check` until it says nothing") for fault in parsed.faults]
    enabled = [item for item in parsed.schedules if item.enabled]
    for item in enabled:
        wrong += [warning(f"{item.name}: {message}", remedy) for message, remedy in _look_at(setup, item)]
    with contextlib.suppress(LedgerUnavailable):  # the check of Redis says why
        if enabled and (silent := silence(setup)):
            names = ", ".join(item.name for item in enabled)
            wrong.append(warning(f"nothing runs {names}: {silent}", "start the clock: see the check `clock`"))
    yield from wrong
    if not wrong:
        yield ok(f"{len(enabled)} of {len(parsed.schedules)} in {where} are enabled" if text else "there are none")


def _look_at(setup: Setup, item: Schedule) -> Iterator[tuple[str, str]]:
    slot = item.following(datetime.now(UTC))
    if "{" not in item.model:  # what a slot fills in may be published by then
        try:
            setup.registry.resolve(item.model)
        except ModelNotFound as fault:
            yield describe(fault), f"publish the model, or mend {keys.SCHEDULES}"
    for place in filter(None, (*item.inputs, item.options.get("output"))):
        try:
            setup.buckets[parse_uri(render(item, place, slot))[0]]
        except ScorelineError as fault:
            yield describe(fault), "add the bucket to ALLOWED_BUCKETS of workers and beat"
