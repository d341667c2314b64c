"""The addresses of the queue and the ledger, read once from the environment."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from scoreline.storage.settings import Environment

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True, kw_only=True)
class QueueSettings:
    """Addresses of Redis and of the broker."""

    redis_url: str = field(repr=False)
    broker_url: str = field(repr=False)
    redis_tls: Mapping[str, Any] = field(default_factory=dict)
    """TLS options under the names of redis-py and Celery; empty without TLS."""
    broker_tls: Mapping[str, Any] = field(default_factory=dict)
    patience_s: float = 120.0
    """Seconds after which a part is dispatched again if no worker has started it."""
    assumed: bool = False
    """Whether `DEFAULT_REDIS_URL` is used because no variable gives the address of Redis."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> QueueSettings:
        """Read the settings; raises `InvalidSettings` with a message that lists all faults."""
        env = Environment(environ)
        given = env.text("REDIS_TLS_URL", "REDIS_URL")
        redis_url = given or DEFAULT_REDIS_URL
        if not redis_url.startswith(("redis://", "rediss://")):
            env.faults.append("REDIS_URL is not a redis:// or rediss:// URL")
        patience_s = env.number("PART_PATIENCE_SECONDS", 120, minimum=1)
        ca_file = env.text("REDIS_CA_FILE")
        env.check("REDIS_CA_FILE", ca_file, lambda path: Path(path).is_file(), "a file")
        name = "REDIS_TLS_URL" if env.text("REDIS_TLS_URL") else "REDIS_URL"
        redis_url, redis_tls = _tls(env, name, redis_url, ca_file)
        broker_url, broker_tls = _tls(env, "CELERY_BROKER_URL", env.text("CELERY_BROKER_URL"), ca_file)
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
            assumed=not given,
        )


def _is_readable(url: str) -> bool:
    """Return whether the host and the port of a Redis URL can be parsed. An unescaped password may cut the URL in two.

    >>> _is_readable("redis://:secret@host:6379/0"), _is_readable("redis://:se#cret@host:6379/0")
    (True, False)
    """
    try:
        parts = urlsplit(url)
        return parts.hostname is not None or (not parts.netloc and parts.port is None)
    except ValueError:
        return False


def _tls(env: Environment, name: str, url: str, ca_file: str) -> tuple[str, dict[str, Any]]:
    """Remove the TLS options from a ``rediss://`` URL and return both, because each client parses them differently.

    Certificates are verified only if the URL has ``ssl_cert_reqs=required``, or if the settings name a CA bundle.
    Heroku's certificates are self-signed, and there is no authority to verify them against.
    """
    if url.startswith(("redis://", "rediss://")) and not _is_readable(url):  # do not quote what may be a password
        env.faults.append(
            f"{name} cannot be read: if its password contains # / ? or [, write them as %23 %2F %3F and %5B"
        )
        return "", {}
    if not url.startswith("rediss://"):
        return url, {}
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    asked = query.pop("ssl_cert_reqs", "required" if ca_file else "none").lower().removeprefix("cert_")
    ca_file = query.pop("ssl_ca_certs", ca_file)
    if asked not in ("none", "required"):
        env.faults.append(f"ssl_cert_reqs={asked!r} of a rediss:// URL must be none or required")
    options: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED if asked == "required" else ssl.CERT_NONE}
    if asked == "required":
        options["ssl_check_hostname"] = True
        if ca_file:
            options["ssl_ca_certs"] = ca_file
    return urlunsplit(parts._replace(query=urlencode(query))), options
