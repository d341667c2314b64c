"""Where the queue and the ledger are, read from the environment once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from storage.settings import Environment


@dataclass(frozen=True, kw_only=True)
class QueueSettings:
    """Addresses of Redis and of the broker."""

    redis_url: str = field(repr=False)
    broker_url: str = field(repr=False)
    patience_s: float = 120.0
    """Seconds after which a part that was dispatched and not started is dispatched again."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> QueueSettings:
        """Read the settings; raises `InvalidSettings` naming every fault at once."""
        env = Environment(environ)
        redis_url = env.text("REDIS_TLS_URL", "REDIS_URL", default="redis://127.0.0.1:6379/0")
        if not redis_url.startswith(("redis://", "rediss://")):
            env.faults.append("REDIS_URL is not a redis:// or rediss:// address")
        patience_s = env.number("PART_PATIENCE_SECONDS", 120, minimum=1)
        env.finish()
        broker_url = env.text("CELERY_BROKER_URL", default=redis_url)
        return cls(redis_url=redis_url, broker_url=broker_url, patience_s=patience_s)


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Where the schedules are."""

    file: Path
    """Of this checkout; where there is none, they are in the bucket."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> ScheduleSettings:
        """Read the settings."""
        return cls(file=Path(Environment(environ).text("SCHEDULES_FILE", default="schedules.toml")))
