"""Tests ``scoreline doctor`` as users, Heroku and containers run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from scoreline.storage import keys
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack
from scoreline.worker.doctor import NAMES, examine
from tests.conftest import SCORELINE
from tests.support.rig import Rig
from tests.support.waiting import HANG_S, wait_until

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_warnings_let_a_release_pass_and_every_line_fits_80_columns(stack: Stack) -> None:
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
    assert "warning  model-keys  MODEL_VERIFY_KEYS is not set: anyone who can write to the" in lines
    assert "0 errors, " in lines[-1]


def test_an_error_holds_a_release_back(cli: Cli) -> None:
    done = cli("doctor", "--json", "--only", "redis, shutdown", REDIS_URL="redis://:hush-hush@127.0.0.1:9/0")
    assert done.returncode == 1, done.stderr
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert {name: finding["severity"] for name, finding in found.items()} == {"redis": "error", "shutdown": "ok"}
    assert set(found["redis"]) == {"check", "severity", "message", "remedy"}
    assert "hush-hush" not in done.stdout + done.stderr


def test_all_faults_of_the_settings_are_reported_at_once_including_those_of_logging(cli: Cli) -> None:
    done = cli("doctor", "--only", "settings", LOG_FORMAT="xml", TICK_SECONDS="0")
    assert done.returncode == 1, done.stderr
    assert "LOG_FORMAT='xml'" in done.stdout
    assert "TICK_SECONDS='0'" in done.stdout


def test_skipped_checks_are_summarised_in_one_line(cli: Cli) -> None:
    done = cli("doctor", TICK_SECONDS="0")
    text = " ".join(done.stdout.split())
    assert text.count("skipped") == text.count("fix the check `settings` first") == 1
    skipped = text.partition("skipped")[2].partition(" -> fix the check")[0]
    assert [name for name in ("bucket", "model-keys", "models", "workers", "clock") if name not in skipped] == []
    assert " 1 error, " in text


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--strict",), 1)])
def test_warnings_fail_the_command_if_it_is_strict(cli: Cli, options: tuple[str, ...], code: int) -> None:
    assert cli("doctor", "--only", "model-keys", *options).returncode == code


def test_an_unknown_check_is_a_usage_error_that_lists_all_checks(cli: Cli) -> None:
    done = cli("doctor", "--only", "redis,moon")
    assert done.returncode == 2
    assert "no check is named 'moon'; choose from settings, packages, redis" in " ".join(done.stderr.split())


def test_a_clock_whose_ticks_a_worker_runs_is_healthy(worker: Stack, client: Client) -> None:
    # When the task `scoreline.tick` is requested, as beat does
    asked = time.monotonic()
    client.queue.send("scoreline.tick")

    def has_run() -> bool:
        since = client.ledger.seconds_since_tick()
        return since is not None and since < time.monotonic() - asked  # an earlier test may also have requested it

    # Then a worker runs the task, and the check `clock` of the doctor passes
    wait_until(has_run, "the tick")
    (found,) = examine(worker.environ, only=["clock"])
    assert (found.severity, found.remedy) == ("ok", "")


def test_a_doctor_that_is_stopped_removes_what_it_wrote(rig: Rig) -> None:
    # Given a running `scoreline doctor --only bucket`, which has written test objects and waits for the store
    rig.chaos(hold="-parts?")
    environ = {"PATH": "/usr/bin:/bin"} | rig.stack.environ
    with subprocess.Popen([SCORELINE, "doctor", "--only", "bucket"], env=environ, stdout=subprocess.PIPE) as doctor:
        rig.wait(rig.held, "a doctor in its middle")
        assert len(list(rig.store.list(keys.PROBES))) >= 2
        # When the doctor receives SIGTERM
        doctor.send_signal(signal.SIGTERM)
        rig.chaos()
        doctor.communicate(timeout=HANG_S)
    # Then the doctor has deleted all of its objects
    assert doctor.returncode == 128 + signal.SIGTERM
    assert list(rig.store.list(keys.PROBES)) == []
