from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from scoreline.worker.dev.stack import Stack, free_port
from tests.support.waiting import HANG_S

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the server to another user")


def test_root_keeps_the_data_where_only_root_may_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    stack = Stack()
    guard = stack.start_postgres(closed / "data")
    try:
        with psycopg.connect(stack.environ["RESULTS_DATABASE_URL"]) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        stack.stop(guard)
    assert (closed / "data").stat().st_uid != 0


def test_root_without_setpriv_is_told_what_is_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    command = [sys.executable, "-m", "scoreline.worker.dev.postgres", str(free_port()), str(closed / "data")]
    ended = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=HANG_S)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: PostgreSQL runs as nobody, who may not enter {closed}: install setpriv")
