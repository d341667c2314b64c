"""``scoreline doctor`` as people, Heroku and containers run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from scoreline.storage import keys
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack
from scoreline.worker.doctor import NAMES, examine
from tests.conftest import SCORELINE

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_a_release_is_let_through_with_warnings_and_each_line_fits_a_terminal(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scoreline", "doctor"],
        env={"PATH": "/usr/bin:/bin"} | stack.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [name for name in NAMES if not any(line.split()[1:2] == [name] for line in lines)] == []
    assert "warning  model-keys  MODEL_VERIFY_KEYS is not set: whoever can write the bucket" in lines
    assert "0 errors, " in lines[-1]


def test_a_release_is_held_back_where_something_is_certainly_broken(cli: Cli) -> None:
    done = cli("doctor", "--json", "--only", "redis, shutdown", REDIS_URL="redis://:hush-hush@127.0.0.1:9/0")
    assert done.returncode == 1, done.stderr
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert {name: finding["severity"] for name, finding in found.items()} == {"redis": "error", "shutdown": "ok"}
    assert set(found["redis"]) == {"check", "severity", "message", "remedy"}
    assert "hush-hush" not in done.stdout + done.stderr


def test_all_faults_of_the_settings_are_told_at_once_those_of_the_log_too(cli: Cli) -> None:
    done = cli("doctor", "--only", "settings", LOG_FORMAT="xml", TICK_SECONDS="0")
    assert done.returncode == 1, done.stderr
    assert "LOG_FORMAT='xml'" in done.stdout
    assert "TICK_SECONDS='0'" in done.stdout


def test_what_waits_for_another_check_is_summed_up_in_one_line(cli: Cli) -> None:
    done = cli("doctor", TICK_SECONDS="0")
    text = " ".join(done.stdout.split())
    assert text.count("not looked at") == text.count("mend settings first") == 1
    waiting = text.partition("not looked at")[2].partition(" -> mend settings first")[0]
    assert [name for name in ("bucket", "model-keys", "models", "workers", "clock") if name not in waiting] == []
    assert " 1 error, " in text


@pytest.mark.parametrize(("strictly", "code"), [((), 0), (("--strict",), 1)])
def test_warnings_count_where_somebody_is_strict(cli: Cli, strictly: tuple[str, ...], code: int) -> None:
    assert cli("doctor", "--only", "model-keys", *strictly).returncode == code


def test_a_check_that_there_is_not_is_a_usage_error_with_their_names(cli: Cli) -> None:
    done = cli("doctor", "--only", "redis,moon")
    assert done.returncode == 2
    assert "no check 'moon'; there are settings, packages, redis" in " ".join(done.stderr.split())


def test_a_clock_whose_ticks_a_worker_works_on_is_healthy(stack: Stack, worker: Stack, client: Client) -> None:
    # Given a tick that nobody did yet
    redis = client.ledger
    before = redis.seconds_since_tick()
    # When beat asks for one
    client.queue.send("scoreline.tick")
    # Then it is seen
    stack.wait("the tick", lambda: (since := redis.seconds_since_tick()) is not None and since < (before or 1e9))
    (found,) = examine(stack.environ, only=["clock"])
    assert (found.severity, found.remedy) == ("ok", "")


def test_what_was_written_is_removed_when_somebody_has_no_patience(stack: Stack, store: ObjectStore) -> None:
    # Given a look at the bucket that has begun
    doctor = subprocess.Popen(
        [SCORELINE, "doctor", "--only", "bucket"], env={"PATH": "/usr/bin:/bin"} | stack.environ, stdout=subprocess.PIPE
    )
    stack.wait("the probe", lambda: len(list(store.list(keys.PROBES))) >= 2, None)
    # When it is told to stop
    doctor.send_signal(signal.SIGTERM)
    doctor.communicate(timeout=20)
    # Then nothing is left of it
    assert doctor.returncode == 128 + signal.SIGTERM
    assert list(store.list(keys.PROBES)) == []
