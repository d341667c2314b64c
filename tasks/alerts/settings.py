"""Who receives alerts, read once from the environment and from ``alerts.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from scoreline.storage.errors import InvalidSettings
from scoreline.storage.settings import Environment
from scoreline.tasks.alerts.recipients import FAILURES, Recipient, parse_recipients
from scoreline.tasks.job.alert import Event

_EVERYTHING = "ALERT_URLS"
"""The variable with the addresses of a recipient who hears of every failure, and the name of this recipient."""


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """The recipients of alerts."""

    recipients: tuple[Recipient, ...] = ()
    web_url: str = ""
    """Address of the page, for links to jobs; without a slash at the end. Empty if there is no page."""

    @property
    def events(self) -> frozenset[Event]:
        """The events of which anybody wants to hear."""
        return frozenset(event for recipient in self.recipients for event in recipient.on)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> AlertSettings:
        """Read the settings; raises `InvalidSettings` with a message that lists all faults.

        ``ALERT_URLS`` has the addresses of a recipient who hears of every failure. The file ``ALERTS_FILE``, by default
        ``alerts.toml`` in the working directory, has further recipients.
        """
        env = Environment(environ)
        recipients: list[Recipient] = []
        if urls := tuple(env.text("ALERT_URLS").split()):
            recipients.append(Recipient(name=_EVERYTHING, urls=urls))
            if not all("://" in url for url in urls):  # the message must not quote an address
                env.faults.append("ALERT_URLS is not a list of addresses such as mailtos://..., separated by spaces")
        named = env.text("ALERTS_FILE")
        file = Path(named or "alerts.toml")
        if named and not file.is_file():
            env.faults.append(f"ALERTS_FILE={named} is not a file: deploy the file, or unset ALERTS_FILE")
        elif file.is_file():
            found, faults = parse_recipients(file.read_text(encoding="utf-8", errors="replace"), environ)
            recipients += found
            if urls and any(item.name == _EVERYTHING for item in found):
                faults = (*faults, f"[{_EVERYTHING}] is the recipient of that variable: give this one another name")
            env.faults += [f"{file} {fault}" for fault in faults]
        web_url = env.text("WEB_URL").rstrip("/")
        env.check("WEB_URL", web_url, _is_address, "an address such as https://example.org/scoreline")
        env.finish()
        return cls(recipients=tuple(recipients), web_url=web_url)

    @classmethod
    def events_from(cls, environ: Mapping[str, str]) -> frozenset[Event]:
        """Return the events of which anybody wants to hear, for a process that only writes alerts.

        If the settings have faults, these are all failures: a mistake in the settings must not stop jobs. The clock
        reports the faults.
        """
        try:
            return cls.from_env(environ).events
        except InvalidSettings:
            return frozenset(FAILURES)


def _is_address(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
