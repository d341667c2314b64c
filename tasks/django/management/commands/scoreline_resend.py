"""``manage.py scoreline_resend``: submits the jobs that could not be submitted before."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from scoreline.storage.errors import ScorelineError, describe
from scoreline.storage.wording import plural
from scoreline.tasks.django.scoring.sending import models, send_waiting


class Command(BaseCommand):
    """Submits what waits, and asks for the state of what is under way."""

    help = (
        "Submit the jobs of rows that are still `submitting`, because Redis or the bucket did not answer, or because "
        "the process died. The command may be repeated, and may run several times at once: each row has one job. "
        "The exit code is 1 if rows still wait."
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
            waiting = sum(model._base_manager.filter(state="submitting").count() for model in models())
            raise CommandError(f"{plural(waiting, 'row')} still waiting to be submitted: {error}")

    def _refresh(self) -> tuple[int, str]:
        """Return how many jobs have ended, and why the last one could not be asked for."""
        ended, text = 0, ""
        for model in models():
            rows = model._base_manager.filter(ended__isnull=True).exclude(state="submitting")
            for row in list(rows.order_by("pk")):
                try:
                    ended += row.refresh()
                except (ScorelineError, OperationalError) as error:
                    text = describe(error)
                    if getattr(error, "transient", True):
                        return ended, text
        return ended, text
