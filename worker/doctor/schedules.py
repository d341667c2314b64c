"""Checks that the schedules are valid, and that the models and buckets that they name exist."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

from scoreline.storage import keys
from scoreline.storage.errors import LedgerUnavailable, ModelNotFound, ScorelineError, describe
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.schedules.file import parse, render
from scoreline.tasks.schedules.schedule import Schedule
from scoreline.worker.doctor.check import Finding, error, ok, warning
from scoreline.worker.doctor.context import Context
from scoreline.worker.doctor.liveness import clock_silence


def schedules(context: Context) -> Iterator[Finding]:
    """Read the schedules.

    A fault in the deployed file is an error, because it comes with this release. A fault in the bucket is a warning.
    """
    asked = context.environ.get("SCHEDULES_FILE", "").strip()
    if asked and not context.schedules.file.is_file():
        yield warning(
            f"SCHEDULES_FILE={asked} is not a file, so the object {keys.SCHEDULES} of the bucket is used if it exists",
            "deploy the file, or unset SCHEDULES_FILE",
        )
    where, text = context.scheduler.source()
    parsed = parse(text, context.webhooks)
    report = error if context.schedules.file.is_file() else warning
    wrong = [
        report(f"{where}: {fault}", "correct it; `scoreline schedule check` shows what is still wrong")
        for fault in parsed.faults
    ]
    enabled = [item for item in parsed.schedules if item.enabled]
    for item in enabled:
        wrong += [warning(f"{item.name}: {message}", remedy) for message, remedy in _faults_of(context, item)]
    with contextlib.suppress(LedgerUnavailable):  # the check `redis` reports why
        if enabled and (silent := clock_silence(context)):
            names = ", ".join(item.name for item in enabled)
            wrong.append(warning(f"{names} will not run: {silent}", "start the clock; see the check `clock`"))
    yield from wrong
    if not wrong:
        yield ok(
            f"{len(enabled)} of {len(parsed.schedules)} in {where} are enabled" if text else "there are no schedules"
        )


def _faults_of(context: Context, item: Schedule) -> Iterator[tuple[str, str]]:
    slot = item.following(datetime.now(UTC))
    if "{" not in item.model:  # if the name contains the slot, the model may be published later
        try:
            context.registry.resolve(item.model)
        except ModelNotFound as fault:
            yield describe(fault), f"publish the model, or correct {keys.SCHEDULES}"
    for place in filter(None, (*item.inputs, item.options.get("output"))):
        try:
            context.buckets[parse_uri(render(item, place, slot))[0]]
        except ScorelineError as fault:
            yield describe(fault), "add the bucket to ALLOWED_BUCKETS of the workers and of beat"
