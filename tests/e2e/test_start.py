"""A process that starts with a missing or wrong setting reports it."""

from __future__ import annotations

import atexit
import subprocess
import sys
from pathlib import Path

import click
import pytest

from scoreline.storage.errors import LedgerUnavailable, QueueUnavailable, ScorelineError, StoreUnavailable
from scoreline.worker.cli import main
from scoreline.worker.dev.stack import Stack


def test_a_worker_reports_a_missing_bucket_and_the_default_address_of_redis(stack: Stack, tmp_path: Path) -> None:
    # Given a bucket that does not exist, and no URL of Redis
    wrong = {"R2_BUCKET": "no-such-bucket", "REDIS_URL": "", "CELERY_BROKER_URL": "amqp://127.0.0.1:9//"}
    log = tmp_path / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "scoreline", "worker", "-c", "1", "-l", "INFO"]
    # When a worker starts and waits for its broker
    guard = stack.run(command, log, stack.environ | wrong)
    stack.wait("the worker", lambda: "consumer: Cannot connect" in log.read_text(), guard, log)
    stack.stop(guard)
    # Then the log reports each fault once, with a remedy
    lines = log.read_text().splitlines()
    (of_bucket,) = [line for line in lines if "ERROR bucket.unusable" in line]
    assert "bucket=no-such-bucket" in of_bucket
    assert "no bucket 'no-such-bucket' at http://127.0.0.1" in of_bucket
    assert "set R2_BUCKET to a bucket that exists in this account" in of_bucket
    (of_redis,) = [line for line in lines if "WARNING settings.assumed" in line]
    assert "variable=REDIS_URL used=redis://127.0.0.1:6379/0" in of_redis
    assert not [line for line in lines if "Traceback" in line]


def test_a_worker_that_cannot_import_its_tasks_does_not_start(stack: Stack, tmp_path: Path) -> None:
    # Given a package whose library is missing on this machine
    (tmp_path / "sklearn.py").write_text("raise ImportError('libgomp.so.1: no such file')")
    command = [sys.executable, "-m", "celery", "-A", "scoreline", "worker", "-c", "1"]
    ended = subprocess.run(
        command, env=stack.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    # Then it takes no messages, which it would discard
    assert ended.returncode == 1
    assert "error: the tasks of the worker cannot be imported: ImportError: libgomp.so.1: no such file" in ended.stderr
    assert "ready" not in ended.stderr


@pytest.mark.parametrize(
    ("environ", "error", "explained"),
    [
        ({}, LedgerUnavailable("cannot reach Redis"), True),
        ({}, QueueUnavailable("cannot reach the broker"), True),
        ({"CELERY_BROKER_URL": "redis://rabbit:5672/0"}, QueueUnavailable("cannot reach the broker"), False),
        ({"CELERY_BROKER_URL": "amqp://rabbit:5672/0"}, LedgerUnavailable("cannot reach Redis"), True),
        ({"CELERY_BROKER_URL": "redis://rabbit:5672/0"}, LedgerUnavailable("cannot reach Redis"), False),
        ({}, StoreUnavailable("cannot list s3://127.0.0.1:6379"), False),
        ({"REDIS_URL": "redis://127.0.0.1:6379/1"}, LedgerUnavailable("cannot reach Redis"), False),
    ],
)
def test_the_command_line_names_the_default_address_that_was_tried_if_redis_url_is_not_set(
    environ: dict[str, str],
    error: ScorelineError,
    explained: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    for name in ("REDIS_URL", "REDIS_TLS_URL", "CELERY_BROKER_URL"):
        monkeypatch.setenv(name, environ.get(name, ""))
    monkeypatch.setattr(main, "cli", failing)
    monkeypatch.setattr(sys, "argv", ["scoreline"])
    monkeypatch.setattr(atexit, "register", lambda call: None)  # this process looks for garbage at its end
    with pytest.raises(SystemExit):
        main.main()
    said = capsys.readouterr().err
    assert ("(REDIS_URL is not set, so redis://127.0.0.1:6379/0 was tried)" in said) == explained
    assert len(said.splitlines()) == 1
