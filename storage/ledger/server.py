"""The information that a Redis or Valkey server reports about itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Server:
    """State and settings of a server. A field is None if the server does not report it."""

    name: str
    """Product and version, such as ``Valkey 9.1.2``."""
    version: tuple[int, ...] | None
    """Version of Redis that the server is compatible with."""
    replica: bool
    """Whether the server is a replica, which accepts no writes."""
    policy: str | None
    """Eviction policy, which decides what is deleted when memory is full."""
    persistent: bool | None
    """Whether keys survive a restart of the server."""
    used_bytes: int | None
    max_bytes: int | None
    """Memory limit in bytes; 0 means that there is no limit."""
    clients: int | None
    """Number of open connections, including our own."""
    max_clients: int | None
    now: float | None
    """Time on the server's clock, in seconds since 1970."""

    @classmethod
    def of(cls, info: Mapping[str, Any], config: Mapping[str, str], now: tuple[int, int] | None) -> Server:
        """Combine the answers to INFO, CONFIG GET and TIME, each of which may be missing.

        >>> Server.of({"redis_version": "7.4.1", "maxmemory_policy": "noeviction"}, {}, None).version
        (7, 4, 1)
        """
        redis_version = str(info.get("redis_version", ""))
        product = str(info.get("server_name", "redis")).capitalize()
        append_only = info.get("aof_enabled")
        snapshots = config.get("save")
        return cls(
            name=f"{product} {info.get(f'{product.lower()}_version', redis_version)}".strip(),
            version=tuple(map(int, re.findall(r"\d+", redis_version))) or None,
            replica=info.get("role") in ("slave", "replica"),
            policy=info.get("maxmemory_policy") or config.get("maxmemory-policy"),
            persistent=True if append_only or snapshots else None if None in (append_only, snapshots) else False,
            used_bytes=_number(info.get("used_memory")),
            max_bytes=_number(info.get("maxmemory")),
            clients=_number(info.get("connected_clients")),
            max_clients=_number(info.get("maxclients", config.get("maxclients"))),
            now=now[0] + now[1] / 1e6 if now else None,
        )


def _number(value: Any) -> int | None:
    return None if value is None else int(value)
