"""The URLs of the queue and the ledger, read once from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scoreline.storage.settings import Environment
from scoreline.tasks.dispatch.redis_url import is_redis_url, normalize

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True, kw_only=True)
class QueueSettings:
    """The URLs of Redis and of the broker, with their options."""

    redis_url: str = field(repr=False)
    broker_url: str = field(repr=False)
    redis_tls: Mapping[str, Any] = field(default_factory=dict)
    """TLS options under the names of redis-py and Celery; empty without TLS."""
    broker_tls: Mapping[str, Any] = field(default_factory=dict)
    patience_s: float = 120.0
    """Seconds after which a part is dispatched again if no worker has started it."""
    carries_records: bool = True
    """Whether a few records, and their results, may pass through Redis, so that they need not be read from the
    bucket."""
    assumed: bool = False
    """Whether `DEFAULT_REDIS_URL` is used because no variable gives the address of Redis."""

    def note_of(self, url: str) -> str:
        """Return what an error about a server has to add: that its address is a guess; empty if it is not."""
        if self.assumed and url == DEFAULT_REDIS_URL:
            return f" (REDIS_URL is not set, so {DEFAULT_REDIS_URL} was tried)"
        return ""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> QueueSettings:
        """Read the settings; raises `InvalidSettings` with a message that lists all faults.

        If only the broker is given, and it is a Redis, it is the Redis of the ledger, too.
        """
        env = Environment(environ)
        name, given = env.first("REDIS_TLS_URL", "REDIS_URL")
        if not given and is_redis_url(env.text("CELERY_BROKER_URL")):
            name, given = env.first("CELERY_BROKER_URL")
        name, redis_url = (name, given) if given else ("REDIS_URL", DEFAULT_REDIS_URL)
        patience_s = env.number("PART_PATIENCE_SECONDS", 120, minimum=1)
        carries_records = env.flag("RECORDS_IN_REDIS", True)
        ca_file = env.text("REDIS_CA_FILE")
        env.check("REDIS_CA_FILE", ca_file, lambda path: Path(path).is_file(), "a file")
        redis_tls: Mapping[str, Any] = {}
        broker_tls: Mapping[str, Any] = {}
        if is_redis_url(redis_url):
            redis_url, redis_tls = normalize(name, redis_url, ca_file, env.faults.append)
        else:
            env.faults.append(f"{name} is not a redis:// or rediss:// URL")
        broker_url = env.text("CELERY_BROKER_URL")
        if name == "CELERY_BROKER_URL":
            broker_url = redis_url
        elif is_redis_url(broker_url):
            broker_url, broker_tls = normalize("CELERY_BROKER_URL", broker_url, ca_file, env.faults.append)
        broker_url = broker_url or redis_url
        if broker_url == redis_url:
            broker_tls = redis_tls
        env.finish()
        return cls(
            redis_url=redis_url,
            broker_url=broker_url,
            redis_tls=redis_tls,
            broker_tls=broker_tls,
            patience_s=patience_s,
            carries_records=carries_records,
            assumed=not given,
        )
