"""What a Redis or Valkey server says of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server; None stands for what it does not say."""

    name: str
    """Product and version, as ``Valkey 9.1.2``."""
    version: tuple[int, ...] | None
    """Of Redis, whose commands it takes."""
    replica: bool
    """Whether it takes no writes because it follows another."""
    policy: str | None
    """What it gives up when its memory is full."""
    persistent: bool | None
    """Whether its keys outlive it."""
    used_bytes: int | None
    max_bytes: int | None
    """0 where nothing but the machine limits it."""
    clients: int | None
    """Open connections, that of who asks included."""
    max_clients: int | None
    now: float | None
    """Its clock, in seconds since 1970."""

    @classmethod
    def of(cls, info: Mapping[str, Any], config: Mapping[str, str], now: tuple[int, int] | None) -> Server:
        """Read the answers to INFO, CONFIG GET and TIME, of which each may be missing.

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
