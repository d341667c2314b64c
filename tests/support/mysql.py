"""One server of MariaDB for a run of tests, where one is installed. Django reaches it as MySQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from scoreline.worker.dev.stack import ROOT, free_port
from tests.support.waiting import wait_until

_INSTALL = "these tests need a server of MariaDB: apt-get install mariadb-server-core"


@contextlib.contextmanager
def mysql_server() -> Iterator[dict[str, Any]]:
    """Run a server, and yield the settings with which Django reaches its empty database. Skip the test without one."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    server, install = (shutil.which(name, path=path) for name in ("mariadbd", "mariadb-install-db"))
    if server is None or install is None:
        pytest.skip(_INSTALL)
    as_mysqldb()
    parent, port = ROOT / ".cache/tmp", free_port()
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mysql-", dir=parent, ignore_cleanup_errors=True) as folder:
        data = f"--datadir={folder}/data"
        small = ["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0"]
        user = ["--user=root"] if os.geteuid() == 0 else []
        log = Path(folder, "log")
        with log.open("wb") as said:
            made = [
                install,
                "--no-defaults",
                data,
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
                *small,
            ]
            subprocess.run([*made, *user], stdout=said, stderr=said, check=True)
            where = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/socket"]
            process = subprocess.Popen([server, "--no-defaults", data, *where, *small, *user], stdout=said, stderr=said)
        try:
            wait_until(lambda: process.poll() is not None or _answers(port), "an answer of MariaDB")
            assert process.poll() is None, log.read_text()
            yield {
                "ENGINE": "django.db.backends.mysql",
                "NAME": "shop",
                "USER": "root",
                "HOST": "127.0.0.1",
                "PORT": port,
            }
        finally:
            process.kill()
            process.wait()


def as_mysqldb() -> None:
    """Let Django use PyMySQL, which needs no compiler, in place of mysqlclient, whose version Django checks."""
    pymysql.version_info = (2, 2, 8, "final", 0)
    pymysql.install_as_MySQLdb()


def fresh_database(settings: dict[str, Any]) -> None:
    """Make an empty database."""
    with _connect(settings["PORT"]) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {settings['NAME']}")
        cursor.execute(f"CREATE DATABASE {settings['NAME']} CHARACTER SET utf8mb4")


def _connect(port: int) -> Any:
    return pymysql.connect(host="127.0.0.1", port=port, user="root", autocommit=True)


def _answers(port: int) -> bool:
    try:
        _connect(port).close()
    except pymysql.Error:
        return False
    return True
