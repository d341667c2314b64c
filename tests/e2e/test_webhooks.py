"""The notification of a job is delivered to its webhook once the webhook can be reached, and to no other address."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
import redis
from standardwebhooks import Webhook

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Delivery, read_delivery
from scoreline.tasks.schedules.schedule import State
from scoreline.worker.dev.stack import Stack
from tests.support.estimators import Paced
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import wait_until

MISSPELT = """
[hourly]
cron = "0 * * * *"
model = "pacde"
input = "{input}"
webhook = "{webhook}"
"""
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def notifications(receiver: Receiver, path: str) -> list[dict[str, Any]]:
    """Return the notifications that reached a path, each verified with a library other than Scoreline."""
    verify = Webhook(SECRET).verify
    return [{"id": head["webhook-id"], **verify(body, head)} for where, head, body in receiver.got if where == path]


def test_each_end_of_a_job_is_delivered_to_its_allowed_webhook_only(own: Stack, receiver: Receiver) -> None:
    # Given workers that may call only webhooks below /ours/, and a client that may request any webhook of the receiver
    settings = {"ALLOWED_WEBHOOKS": f"{receiver.url}/ours/", "WEBHOOK_SECRET": SECRET, "RECONCILE_SECONDS": "60"}
    own.start_worker(1, settings)
    client = Client.from_env(own.environ | {"ALLOWED_WEBHOOKS": receiver.url})
    store = client.buckets.main
    model = Paced(seconds=0.01, refuses_from=1e9).fit(pd.DataFrame({"x": [0.0]}))
    ModelStorageManager.from_env(own.environ).publish("paced", model)
    store.put("in/a.parquet", pd.DataFrame({"x": [1.0, 2.0]}).to_parquet(index=False))

    def submit(path: str, source: str = "in/", **options: Any) -> str:
        return client.submit("paced", store.uri(source), webhook=receiver.url + path, **options).job_id

    def notice(job: str) -> Delivery:
        return wait_until(lambda: read_delivery(store, job), f"the end of telling {job}")

    # A receiver that is busy or hangs up finally gets the notification, with the same id at each attempt
    receiver.answers["/ours/busy"] = [503, 0, 429]
    busy = submit("/ours/busy")
    # A receiver that answers 410 is not called again, and no redirect is followed
    receiver.answers |= {"/ours/gone": [410], "/ours/moved": [307]}
    gone, moved = submit("/ours/gone"), submit("/ours/moved")
    # A webhook that the workers do not allow is not called, although the job document names it
    foreign = submit("/theirs")
    # The notification of a failed job says why it failed
    failed = submit("/ours/failed", source="nowhere/")
    # The notification of a failed job of records says why it failed
    records = client.submit_records("paced", [{"x": 1e9}], webhook=receiver.url + "/ours/records").job_id
    # The notification of a slot says why its job was refused
    store.put(keys.SCHEDULES, MISSPELT.format(input=store.uri("in/"), webhook=f"{receiver.url}/ours/slot").encode())
    two_hours_ago = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    store.put(keys.schedule_state("hourly"), State(through=two_hours_ago).to_json())
    client.queue.send("scoreline.tick")

    assert notice(gone).error.endswith("answered 410")
    assert notice(moved).error.endswith("answered 307")
    refused = f"webhook {receiver.url + '/theirs'!r} is not within ALLOWED_WEBHOOKS, which allows {receiver.url}/ours/"
    assert notice(foreign).error == refused
    assert notice(failed).delivered
    (event,) = notifications(receiver, "/ours/failed")
    assert (event["id"], event["type"]) == (f"{failed}.1", "job.failed")
    assert "nowhere/" in event["data"]["error"]
    assert notice(busy).delivered
    repeated = notifications(receiver, "/ours/busy")
    assert [(event["id"], event["type"], event["data"]["rows"]) for event in repeated] == [
        (f"{busy}.1", "job.succeeded", 2)
    ] * 4
    assert repeated[0]["data"] == client.status(busy).to_dict()
    assert notice(records).delivered
    assert "x is 1000000000.0 or more" in notifications(receiver, "/ours/records")[0]["data"]["error"]
    (slot,) = wait_until(lambda: notifications(receiver, "/ours/slot"), "the notification of a refused slot")
    assert (slot["type"], slot["id"]) == ("job.failed", f"{slot['data']['job_id']}.1")
    assert "no model 'pacde'" in slot["data"]["error"]
    paths = set(receiver.paths)
    assert paths == {"/ours/busy", "/ours/gone", "/ours/moved", "/ours/failed", "/ours/records", "/ours/slot"}

    # When Redis is emptied while the receiver is down, the bucket still says that the notification is pending
    receiver.answers["/ours/away"] = [503] * 1_000
    away = submit("/ours/away")
    wait_until(lambda: notifications(receiver, "/ours/away"), "a first try")
    with redis.Redis.from_url(own.environ["REDIS_URL"]) as server:
        wait_until(lambda: server.flushall() and list(store.list(keys.active(away))), "the marker")
    assert client.reconcile()[away] == "ended"
    receiver.answers["/ours/away"].clear()
    assert notice(away).delivered
    wait_until(lambda: not list(store.list(keys.active(away))), "the marker's end")

    # Each run of a resumed job sends its own notification, with a new id
    store.put("nowhere/a.parquet", pd.DataFrame({"x": [1.0]}).to_parquet(index=False))
    client.resume(failed)
    wait_until(lambda: len(notifications(receiver, "/ours/failed")) == 2, "the notification of the second end")
    assert [(event["id"], event["type"]) for event in notifications(receiver, "/ours/failed")][1] == (
        f"{failed}.2",
        "job.succeeded",
    )
    wait_until(lambda: not list(store.list(keys.JOBS_ACTIVE)), "the end of all markers")
    # And the log names the address of each notification, and contains no secret
    log = next(own.folder.glob("worker*.log")).read_text()
    assert f"event.sent job_id={busy} state=succeeded to={receiver.url}" in log
    assert f"event.undelivered job_id={gone}" in log
    # And each failed job is logged as an error with its reason
    assert re.search(rf"ERROR job\.ended job_id={failed} state=failed error=.*nowhere/", log)
    assert re.search(rf"ERROR schedule\.refused job_id={slot['data']['job_id']} error=.*no model 'pacde'", log)
    assert SECRET not in log
    assert json.loads(store.get(keys.job(busy)).data)["webhook"].endswith("/ours/busy")
