"""Serves the site with gunicorn: one process, so that all readers share one cache, and several threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication

_THREADS = 8
_TIMEOUT_S = 150
"""Seconds that an answer may take. Trying out a job takes up to two minutes."""


class Server(BaseApplication):
    """A gunicorn server that is configured in code.

    Parameters
    ----------
    host, port
        The address to listen on.
    make : callable
        Makes the WSGI application in the process that serves it.
    ready : callable
        Called once the server listens.
    """

    def __init__(self, host: str, port: int, make: Callable[[], Any], ready: Callable[[], None]) -> None:
        self._host, self._port, self._make, self._ready = host, port, make, ready
        super().__init__()

    def load_config(self) -> None:
        """Set the options of gunicorn."""
        address = f"[{self._host}]" if ":" in self._host else self._host
        options = {
            "bind": f"{address}:{self._port}",
            "workers": 1,
            "threads": _THREADS,
            "worker_class": "gthread",
            "timeout": _TIMEOUT_S,
            "graceful_timeout": 10,
            "keepalive": 5,
            "limit_request_line": 8_190,
            "proc_name": "scoreline-web",
            "forwarded_allow_ips": "",  # X-Forwarded-For is not believed: WEB_PROXIES says who is a proxy
            "control_socket_disable": True,
            "when_ready": lambda server: self._ready(),
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        """Return the application."""
        return self._make()
