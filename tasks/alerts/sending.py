"""Sends the alerts that wait in the bucket. The clock does this after each tick.

Alerts about the same schedule or group are sent together: the first within a minute, and then at most one message in
ten minutes. An alert is deleted after it was sent to all of its recipients. If a process dies in between, a recipient
may receive it twice.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from scoreline.storage import keys
from scoreline.storage.errors import AlertUndelivered, ObjectNotFound, PackageMissing, PreconditionFailed, describe
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.objects.base import IfMatch, ObjectStore
from scoreline.storage.typed_json import MALFORMED
from scoreline.tasks.alerts import wording
from scoreline.tasks.alerts.recipients import Recipient
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.dispatch.outbox import WAITING, WAITING_S
from scoreline.tasks.job.alert import Alert

log = logging.getLogger(__name__)

GATHER = timedelta(seconds=20)
"""How long an alert waits for others of the same schedule or group."""
QUIET_S = 600.0
"""Seconds between two messages to a recipient about the same schedule or group."""
PATIENCE = timedelta(days=1)
"""How long an alert is sent again if a recipient cannot be reached."""
_ROUND_S = 20.0
_SECRET_CHARS = 4
"""Minimum number of characters of a part of an address that may be a secret."""
_LISTED_EVERY_S = 600.0
"""Seconds after which the alerts are listed even if no flag says that there are any, because Redis may be emptied."""
_SWEPT_EVERY_S = 86_400.0
_SENT_KEPT = timedelta(days=30)
_FILE = "the file with the schedules"
"""What faults of ``schedules.toml`` are about. No schedule and no group can have this name."""
_TRIES = 20
_MAX_ROUND = 100
"""Maximum number of alerts that one round reads."""

type Send = Callable[[Sequence[str], str, str], None]
"""``send(urls, title, body)`` delivers a message; raises `AlertUndelivered`."""


def send_message(urls: Sequence[str], title: str, body: str) -> None:
    """Send a message to addresses in the form of Apprise.

    Raises
    ------
    AlertUndelivered
        An address is malformed, or its service refuses the message or does not answer.
    PackageMissing
        Apprise is not installed.
    """
    try:
        import apprise  # imported late, because only a process that sends alerts needs it
    except ImportError:
        raise PackageMissing("apprise is not installed: install ml-requirements.txt to send alerts") from None
    failed = []
    for number, url in enumerate(urls, 1):
        with _reasons(url) as reasons:
            channel = apprise.Apprise.instantiate(url)
            took = channel is not None and channel.notify(body=body, title=title, body_format=apprise.NotifyFormat.TEXT)
        if channel is None:
            failed.append(f"address {number} of {len(urls)} is none that Apprise knows")
        elif not took:
            service = str(channel.service_name or type(channel).__name__)
            failed.append(f"{service} did not take the message: {reasons[-1] if reasons else 'it does not say why'}")
    if failed:
        raise AlertUndelivered("; ".join(failed))


@contextlib.contextmanager
def _reasons(url: str) -> Iterator[list[str]]:
    """Collect what Apprise logs, without lines that contain a part of the address. Nothing reaches the log itself."""
    secrets = [part for part in re.split(r"[/:@?&=]+", unquote(url)) if len(part) >= _SECRET_CHARS]
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = record.getMessage()
            if record.levelno >= logging.WARNING and not any(secret in line for secret in secrets):
                found.append(line.rstrip("."))

    logger, collector = logging.getLogger("apprise"), Collector()
    was, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)
        logger.propagate = was


def send_waiting(
    main: ObjectStore, ledger: Ledger, settings: AlertSettings, now: datetime | None = None, send: Send = send_message
) -> int:
    """Send the alerts that wait, and return the number of messages.

    The bucket is listed only if an alert was written since the last round, and every ten minutes.
    """
    now = now or datetime.now(UTC)
    if not settings.recipients or not ledger.once_in("alerts-round", _ROUND_S):
        return 0
    if not ledger.take_flag(WAITING) and not ledger.once_in("alerts-listed", _LISTED_EVERY_S):
        return 0
    round_ = _Round(main=main, ledger=ledger, settings=settings, now=now, send=send)
    sent = sum(round_.tell(recipient) for recipient in settings.recipients)
    if round_.settle():
        ledger.set_flag(WAITING, WAITING_S)
    if ledger.once_in("alerts-swept", _SWEPT_EVERY_S):
        _sweep(main, now)
    return sent


@dataclass(kw_only=True)
class _Round:
    """One round of sending, with the alerts that wait."""

    main: ObjectStore
    ledger: Ledger
    settings: AlertSettings
    now: datetime
    send: Send

    def __post_init__(self) -> None:
        self.alerts = {alert.id: alert for alert in read_waiting(self.main)}

    def tell(self, recipient: Recipient) -> int:
        """Send a recipient all alerts that are due, and return the number of messages."""
        sent = 0
        for about, alerts in self._due(recipient).items():
            try:
                self.send(recipient.urls, wording.title(about, alerts), wording.body(alerts, self.settings.web_url))
            except (AlertUndelivered, PackageMissing) as error:
                log.error("alert.unsent", extra={"recipient": recipient.name, "error": describe(error)})
                continue
            log.info("alert.sent", extra={"recipient": recipient.name, "about": about, "alerts": len(alerts)})
            sent += 1
            for alert in alerts:
                self._note(alert, recipient)
        return sent

    def settle(self) -> bool:
        """Delete the alerts that nobody waits for any more. Return whether alerts are left."""
        left = False
        for alert in self.alerts.values():
            waiting = [item.name for item in self._recipients(alert)]
            too_old = self.now - datetime.fromisoformat(alert.at) > PATIENCE
            if waiting and not too_old:
                left = True
                continue
            if waiting:
                log.error("alert.undelivered", extra={"alert": alert.id, "recipients": waiting})
            self._delete(alert)
        return left

    def _due(self, recipient: Recipient) -> dict[str, list[Alert]]:
        """Return the alerts to send to a recipient now, by what they are about, the earliest first."""
        found: dict[str, list[Alert]] = {}
        for alert in sorted(self.alerts.values(), key=lambda alert: alert.at):
            if recipient in self._recipients(alert):
                found.setdefault(about(alert), []).append(alert)
        return {
            name: alerts
            for name, alerts in found.items()
            if self.now - datetime.fromisoformat(alerts[0].at) >= GATHER
            and self.ledger.once_in(f"alert:{recipient.name}:{name}", QUIET_S)
        }

    def _recipients(self, alert: Alert) -> list[Recipient]:
        """Return the recipients that have not received an alert yet."""
        return [item for item in self.settings.recipients if item.wants(alert) and item.name not in alert.received]

    def _note(self, alert: Alert, recipient: Recipient) -> None:
        """Record that a recipient has received an alert, beside those who have received it from another process."""
        key = keys.alert(alert.id)
        for _ in range(_TRIES):
            try:
                found = self.main.get(key)
                received = Alert.from_json(found.data).received
            except ObjectNotFound:  # all recipients have received it from the other process
                self.alerts.pop(alert.id, None)
                return
            except MALFORMED:
                return
            alert = replace(alert, received=tuple(dict.fromkeys((*received, recipient.name))))
            self.alerts[alert.id] = alert
            if not self._recipients(alert):
                return
            with contextlib.suppress(PreconditionFailed):
                self.main.put(key, alert.to_json(), mode=IfMatch(found.info.etag))
                return

    def _delete(self, alert: Alert) -> None:
        """Delete an alert, and remember that it was sent, because its event may be reported again."""
        self.main.put(keys.alert_sent(alert.id), b"")
        self.main.delete(keys.alert(alert.id))


def about(alert: Alert) -> str:
    """Return what an alert is about: alerts about the same schedule or group are sent together."""
    return alert.schedule or alert.group or _FILE


def read_waiting(main: ObjectStore) -> list[Alert]:
    """Return some of the alerts that wait. An alert that cannot be read is left where it is, and logged.

    If there are many, they are chosen at random, so that no alert is held up by those that cannot be sent.
    """
    found = []
    waiting = [info.key for info in main.list(keys.ALERTS)]
    for key in sorted(random.sample(waiting, min(len(waiting), _MAX_ROUND))):
        try:
            found.append(Alert.from_json(main.get(key).data))
        except ObjectNotFound:  # another process has sent it
            continue
        except MALFORMED as error:
            log.error("alert.unreadable", extra={"key": key, "error": describe(error)})
    return found


def _sweep(main: ObjectStore, now: datetime) -> None:
    """Delete the old objects that say which alerts were sent."""
    oldest = (now - _SENT_KEPT).timestamp()
    old = [info.key for info in main.list(keys.ALERTS_SENT) if info.modified < oldest]
    for key in old:
        main.delete(key)
