"""What is said at the start where something is not set, or is not what it should be."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest

from scoreline.storage.errors import LedgerUnavailable, QueueUnavailable, ScorelineError, StoreUnavailable
from scoreline.worker.cli import main
from scoreline.worker.dev.stack import Stack


def test_a_worker_names_a_bucket_that_is_not_there_and_an_address_that_nobody_set(stack: Stack, tmp_path: Path) -> None:
    # Given a bucket that does not exist, and nobody who says where Redis is
    wrong = {"R2_BUCKET": "no-such-bucket", "REDIS_URL": "", "CELERY_BROKER_URL": "redis://127.0.0.1:9/0"}
    log = tmp_path / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "scoreline", "worker", "-c", "1", "-l", "INFO"]
    # When a worker starts, and waits for its broker
    guard = stack.run(command, log, stack.environ | wrong)
    stack.wait("the worker", lambda: "consumer: Cannot connect" in log.read_text(), guard, log)
    stack.stop(guard)
    # Then each is said once, with what to look at
    lines = log.read_text().splitlines()
    (of_bucket,) = [line for line in lines if "ERROR bucket.unusable" in line]
    assert "bucket=no-such-bucket" in of_bucket
    assert "no bucket 'no-such-bucket' at http://127.0.0.1" in of_bucket
    assert "set R2_BUCKET to a bucket that exists in this account" in of_bucket
    (of_redis,) = [line for line in lines if "WARNING settings.assumed" in line]
    assert "variable=REDIS_URL used=redis://127.0.0.1:6379/0" in of_redis
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.parametrize(
    ("url", "error", "told"),
    [
        ("", LedgerUnavailable("cannot reach Redis at 127.0.0.1:6379: refused"), True),
        ("", QueueUnavailable("cannot reach the broker at 127.0.0.1:6379: refused"), True),
        ("", QueueUnavailable("cannot reach the broker at rabbit:5672: refused"), False),
        ("", StoreUnavailable("cannot list s3://127.0.0.1:6379"), False),
        ("redis://127.0.0.1:6379/1", LedgerUnavailable("cannot reach Redis at 127.0.0.1:6379: refused"), False),
    ],
)
def test_a_person_is_told_which_address_was_tried_because_none_is_set(
    url: str, error: ScorelineError, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setattr(main, "cli", failing)
    monkeypatch.setattr(sys, "argv", ["scoreline"])
    with pytest.raises(SystemExit):
        main.main()
    said = capsys.readouterr().err
    assert ("(REDIS_URL is not set, so redis://127.0.0.1:6379/0 was tried)" in said) == told
    assert len(said.splitlines()) == 1
