"""One PostgreSQL server for a run of tests, and a database of its own for each test."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg
from psycopg import sql

from scoreline.worker.dev.postgres import url
from scoreline.worker.dev.stack import ROOT, Stack, free_port


class Postgres:
    """A context manager that runs a server. Its data lie in the checkout, and are removed at the end."""

    def __init__(self) -> None:
        self._stack = Stack()
        self._folder = Path()
        self._databases = 0
        self.port = free_port()
        self._guard: Any = None

    def __enter__(self) -> Self:
        parent = ROOT / ".cache/tmp"
        parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=parent))
        self._folder.chmod(0o711)
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server on the port that it had before."""
        self._guard = self._stack.start_postgres(self._folder / "data", self.port)

    def stop(self) -> None:
        """Stop the server at once; its clients lose their connections."""
        if self._guard is not None:
            self._stack.stop(self._guard)
            self._guard = None

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a machine that fails does."""
        below = psutil.Process(self._guard.pid).children(recursive=True)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):  # the process of a connection that was just closed
                if process.name() == "postgres":
                    process.send_signal(signal.SIGKILL)
        self.stop()
        psutil.wait_procs(below)

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a connection that commits each statement."""
        return psycopg.connect(url(self.port, database), autocommit=True)

    def create(self) -> str:
        """Create a database, and return its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def drop(self, name: str) -> None:
        """Drop a database, and end its connections."""
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class Database:
    """One database of the server."""

    def __init__(self, server: Postgres, name: str) -> None:
        self.server, self.name = server, name
        self.url = url(server.port, name)

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection that commits each statement."""
        return self.server.connect(self.name)

    def run(self, query: Any, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement, and return its rows."""
        with self.connect() as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []
