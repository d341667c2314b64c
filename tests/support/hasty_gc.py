"""``scoreline gc`` for which a day lasts a millisecond: ``python -m tests.support.hasty_gc``."""

from __future__ import annotations

from scoreline.tasks.retention import due_jobs
from scoreline.worker.cli.main import cli

if __name__ == "__main__":
    due_jobs.DAY_S = due_jobs.MIN_AGE_S = 1e-3
    cli(["gc"])
