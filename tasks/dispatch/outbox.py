"""Writes alerts to the bucket, from where the clock sends them to people (see `scoreline.tasks.alerts`)."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass

from scoreline.storage import keys
from scoreline.storage.errors import LedgerError, PreconditionFailed
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.objects.base import CREATE, ObjectStore, exists
from scoreline.tasks.job.alert import Alert, Event

WAITING = "alerts-waiting"
"""Flag in the ledger that is set while alerts wait, so that the clock need not list the bucket."""
WAITING_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Outbox:
    """The alerts of one bucket that are not sent yet."""

    main: ObjectStore
    ledger: Ledger
    events: Collection[Event] = ()
    """The events that somebody wants to hear of. Alerts of other events are not written."""

    def leave(self, alert: Alert) -> None:
        """Write an alert, unless nobody wants to hear of it, or it was already written or sent."""
        if alert.event not in self.events or exists(self.main, keys.alert_sent(alert.id)):
            return
        with contextlib.suppress(PreconditionFailed):
            self.main.put(keys.alert(alert.id), alert.to_json(), mode=CREATE)
        with contextlib.suppress(LedgerError):  # the clock lists the alerts from time to time
            self.ledger.set_flag(WAITING, WAITING_S)
