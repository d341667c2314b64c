from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from scoreline.worker.dev.stack import ROOT
from tests.support.waiting import HANG_S, wait_until

SCORELINE = str(Path(sys.executable).with_name("scoreline"))


def services(mark: str) -> list[psutil.Process]:
    """Return every process that has `mark` in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SCORELINE_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_until_none(mark: str) -> None:
    wait_until(lambda: not services(mark), "the end of every process", lambda: str(services(mark)))


def test_dev_runs_a_command_with_the_addresses_and_exits_with_its_code(tmp_path: Path) -> None:
    environ = os.environ | {"SCORELINE_TEST_MARK": str(tmp_path)}
    done = subprocess.run(
        [SCORELINE, "dev", "--workers", "1", "--", "sh", "-c", "scoreline models list && echo $R2_BUCKET && exit 7"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "scoreline" in done.stdout
    wait_until_none(str(tmp_path))


def test_dev_runs_a_postgresql_and_keeps_its_tables(tmp_path: Path) -> None:
    def run(statement: str) -> str:
        connect = "import os, psycopg; c = psycopg.connect(os.environ['RESULTS_DATABASE_URL'])"
        code = f"{connect}; print(c.execute({statement!r}).statusmessage); c.commit()"
        command = [SCORELINE, "dev", "--workers", "0", "--keep", "--postgres", "--", sys.executable, "-c", code]
        environ = os.environ | {"SCORELINE_TEST_MARK": str(folder)}
        done = subprocess.run(
            command, env=environ, cwd=folder, capture_output=True, text=True, timeout=HANG_S, check=False
        )
        wait_until_none(str(folder))
        return done.stdout or done.stderr

    with tempfile.TemporaryDirectory(dir=ROOT / ".cache/tmp") as name:  # other users may not enter pytest's folders
        folder = Path(name)
        folder.chmod(0o711)
        assert run("CREATE TABLE scores AS SELECT 1 AS id") == "SELECT 1\n"
        assert run("SELECT * FROM scores") == "SELECT 1\n"


@pytest.mark.parametrize(
    ("number", "workers", "processes"),
    [
        # `scoreline dev`, the S3 server and two guards; Valkey is not counted, because it overwrites its environment
        (signal.SIGINT, 0, 4),
        (signal.SIGTERM, 1, 7),  # also a worker, the worker's guard and the worker's child
        (signal.SIGKILL, 1, 7),  # SIGKILL gives `scoreline dev` no time to end its children
    ],
)
def test_no_process_outlives_dev_however_it_ends(
    tmp_path: Path, number: signal.Signals, workers: int, processes: int
) -> None:
    environ = os.environ | {"SCORELINE_TEST_MARK": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [SCORELINE, "dev", "--workers", str(workers)]
    dev = subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=subprocess.PIPE)
    assert dev.stdout is not None
    with dev.stdout:
        assert dev.stdout.readline().startswith(b"export ")
        assert len(services(str(tmp_path))) >= processes
        dev.send_signal(number)
        try:
            dev.wait(HANG_S)
        finally:
            dev.kill()
    wait_until_none(str(tmp_path))


def test_dev_keeps_bucket_and_logs_for_the_next_time(tmp_path: Path) -> None:
    bucket = "from scoreline import Client; bucket = Client.from_env().buckets.main; "

    def dev(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCORELINE, "dev", "--workers", "0", "--keep", "--", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )

    first = dev(sys.executable, "-c", bucket + "bucket.put('a', b'kept')")
    assert first.returncode == 0, first.stderr
    second = dev(sys.executable, "-c", bucket + "print(bucket.get('a').data)")
    assert "b'kept'" in second.stdout, second.stderr
    for said in (first.stderr, second.stderr):
        (folder,) = re.findall(r"^# logs: (\.scoreline/dev/logs-\w+)$", said, re.MULTILINE)
        assert (tmp_path / folder / "s3.log").is_file()
