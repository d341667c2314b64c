"""The addresses that may be notified when jobs end, read once from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.settings import Environment
from scoreline.tasks.webhooks.delivery import address_fault, check_secret, check_target


@dataclass(frozen=True, kw_only=True)
class WebhookSettings:
    """The addresses that may be notified when jobs end, and the secret for signing."""

    url: str | None = field(default=None, repr=False)
    """The address to notify if a job names no address. The path of the address may be a secret."""
    allowed: tuple[str, ...] = ()
    """Addresses, or prefixes of addresses, that a job may notify in addition to `url`."""
    secret: str = field(default="", repr=False)
    """The secret that workers use to sign notifications."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> WebhookSettings:
        """Read the settings; raises `InvalidSettings` with a message that lists all faults."""
        env = Environment(environ)
        url, secret = env.text("WEBHOOK_URL"), env.text("WEBHOOK_SECRET")
        listed = [item for item in re.split(r"[\s,]+", env.text("ALLOWED_WEBHOOKS")) if item]
        if url and (fault := address_fault(url)):  # do not quote the address, which may be a secret
            env.faults.append(f"WEBHOOK_URL: {fault}")
        for target in listed:
            try:
                check_target(target, [target])
            except InvalidRequest as error:
                env.faults.append(f"ALLOWED_WEBHOOKS: {error}")
        if secret:
            try:
                check_secret(secret)
            except ValueError as error:
                env.faults.append(f"WEBHOOK_SECRET {error}")
        env.finish()
        return cls(url=url or None, allowed=tuple(listed), secret=secret)

    def check(self, webhook: str) -> str:
        """Return `webhook` if a job may notify this address; otherwise raise `InvalidRequest`."""
        return check_target(webhook, self.allowed, self.url)
