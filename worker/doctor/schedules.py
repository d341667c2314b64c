"""Checks that the schedules are valid, and that the models and buckets that they name exist."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from scoreline.storage.errors import BucketNotAllowed, InvalidSettings, LedgerUnavailable, ScorelineError, describe
from scoreline.tasks.schedules.checks import faults_now
from scoreline.tasks.schedules.file import parse
from scoreline.tasks.schedules.schedule import Schedule
from scoreline.worker.doctor.check import Finding, error, ok, warning
from scoreline.worker.doctor.context import Context
from scoreline.worker.doctor.liveness import clock_silence


def schedules(context: Context) -> Iterator[Finding]:
    """Check the schedules.

    A fault in a schedule is an error, because the schedule then runs in its last valid form, or not at all. A missing
    model or bucket is a warning, because it may be added before the schedule runs.
    """
    try:
        where, text = context.scheduler.source()
    except InvalidSettings as fault:
        yield error(describe(fault), "meanwhile, schedules that have run before are run as they were")
        return
    parsed = parse(text, context.webhooks)
    wrong = [
        error(
            f"{where}: {fault}",
            "correct it; `scoreline schedule check` shows what is still wrong. Meanwhile, a schedule that has run "
            "before is run as it was",
        )
        for fault in parsed.faults
    ]
    enabled = [item for item in parsed.schedules if item.enabled]
    for item in enabled:
        wrong += [warning(f"{item.name}: {message}", remedy) for message, remedy in _faults_of(context, item)]
    with contextlib.suppress(LedgerUnavailable):  # the check `redis` reports this error
        if enabled and (silent := clock_silence(context)):
            names = ", ".join(item.name for item in enabled)
            wrong.append(warning(f"{names} will not run: {silent}", "start the clock; see the check `clock`"))
    yield from wrong
    if not wrong:
        yield ok(
            f"{len(enabled)} of {len(parsed.schedules)} in {where} are enabled" if text else "there are no schedules"
        )


def _faults_of(context: Context, item: Schedule) -> Iterator[tuple[str, str]]:
    output = context.client.default_output(item.model)
    for key, fault in faults_now(item, context.registry, context.buckets, output):
        yield describe(fault), _remedy(key, fault)


def _remedy(key: str, fault: ScorelineError) -> str:
    if isinstance(fault, BucketNotAllowed):
        return "add the bucket to ALLOWED_BUCKETS of the workers and of beat"
    if key == "model":
        return "publish the model, or correct the schedule"
    return "correct the schedule"
