"""``manage.py scoreline_resend``: submits the jobs that could not be submitted before."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from scoreline.storage.errors import ScorelineError, describe
from scoreline.storage.wording import plural
from scoreline.tasks.django.scoring.defaults import SUBMITTING
from scoreline.tasks.django.scoring.sending import models, rows_of, send_waiting

log = logging.getLogger(__name__)


class Command(BaseCommand):
    """Submits what waits, and asks for the state of what is under way."""

    help = (
        "Submit the jobs of rows that are still `submitting`, because Redis or the bucket did not answer, or because "
        "the process died. The command may be repeated, and may run several times at once: each row has one job. "
        "The exit code is 1 if rows still wait, or if a job could not be asked for."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--refresh",
            action="store_true",
            help="Also ask for the state of jobs under way, for example if no webhook is set.",
        )

    def handle(self, *_: Any, refresh: bool, verbosity: int, **__: Any) -> None:
        """Submit, and then refresh; raises `CommandError` if rows still wait."""
        done = send_waiting()
        ended, error = 0, done.error
        if refresh and not error:
            ended, error = self._refresh()
        if verbosity:
            said = f"{plural(done.sent, 'job')} submitted, {done.refused:,} refused"
            self.stdout.write(f"{said}, {ended:,} ended" if refresh else said)
        if error:
            waiting = sum(rows_of(model).filter(state=SUBMITTING).count() for model in models())
            raise CommandError(f"{plural(waiting, 'row')} still waiting to be submitted: {error}" if waiting else error)

    def _refresh(self) -> tuple[int, str]:
        """Return how many jobs have ended, and why the last one could not be asked for."""
        ended, text = 0, ""
        for model in models():
            rows = rows_of(model).filter(ended__isnull=True).exclude(state=SUBMITTING)
            for row in list(rows.order_by("pk")):
                try:
                    ended += row.refresh()
                except ScorelineError as error:
                    text = describe(error)
                    if error.transient:
                        return ended, text
                except Exception as error:  # of a receiver of `on_ended`, which must not keep other rows waiting
                    log.exception("scoring.receiver_failed", extra={"job_id": row.job_id})
                    text = describe(error)
        return ended, text
