"""Messages from other applications and forged documents do no harm, and logs contain no secret."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest
import redis
from celery import Celery

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.signatures import generate_keys
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.schedules.in_force import InForce
from scoreline.worker.dev.stack import Stack
from tests.support.elsewhere import application
from tests.support.estimators import Paced, Talkative
from tests.support.waiting import HANG_S, wait_until
from tests.support.warm import run_scoreline

NIGHTLY = {"cron": "0 2 * * *", "model": "secure", "input": "s3://scoreline/nightly/in/"}
SSN = "078-05-1120"


@pytest.fixture(scope="module")
def elsewhere(worker: Stack) -> Iterator[Celery]:
    """A Celery application that has the address of the broker but does not use Scoreline."""
    with application(worker.environ["REDIS_URL"], worker.environ["REDIS_URL"]) as app:
        yield app


@pytest.fixture
def uri(models: ModelStorageManager, store: ObjectStore) -> str:
    if "secure" not in models.list():
        models.publish("secure", Paced().fit(pd.DataFrame({"x": [0.0]})))
    store.put("in/secure.parquet", pd.DataFrame({"x": [1.0]}).to_parquet(index=False))
    return store.uri("in/secure.parquet")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"input": "s3://theirs/in/"}, "bucket 'theirs' is not in ALLOWED_BUCKETS"),
        ({"output": "s3://theirs/out/"}, "bucket 'theirs' is not in ALLOWED_BUCKETS"),
        ({"output": "s3://scoreline/a/../b/"}, "has '.' or '..' between its slashes"),
        ({"input": "file:///etc/passwd"}, "is not of the form s3://bucket/key"),
        ({"job_id": "../../models"}, "is not a valid name"),
        ({"job_id": "active"}, "job id 'active' is reserved"),
        ({"model": "../jobs"}, "is not a valid name"),
        ({"model": 7}, "7"),
        ({"max_rejected": 5.5}, "max_rejected 5.5 is not a text"),
        ({"features": [1]}, "features [1] are not all texts"),
        ({"part_rows": "many"}, "part_rows 'many' is not a whole number"),
        ({"webhook": "http://169.254.169.254/"}, "is not within ALLOWED_WEBHOOKS"),
        ({"rm": "-rf"}, "unknown options rm; known are"),
        ({"input": "s3://scoreline/jobs/x/job.json", "format": "csv"}, "is in a place that Scoreline keeps for itself"),
        ({"output": "s3://scoreline/results/secure/job_id=other/"}, "is in the folder of a job's results"),
        ({"output": "s3://scoreline/models/secure/"}, "is in a folder that Scoreline keeps for itself"),
        ({"output": "s3://scoreline/nightly/in/x/"}, "which the schedule 'nightly' reads"),
        ({"job_id": "nightly-20991125T020000Z"}, "those of schedules do, which are reserved"),
    ],
)
def test_a_message_with_a_forbidden_or_malformed_option_is_refused_with_the_reason(
    elsewhere: Celery, store: ObjectStore, uri: str, wrong: dict[str, Any], reason: str
) -> None:
    store.put(keys.SCHEDULES_IN_FORCE, InForce(source="s", tables={"nightly": NIGHTLY}).to_json())
    asked = {"model": "secure", "input": uri, **wrong}
    sent = elsewhere.send_task("scoreline.submit", kwargs=asked, queue="scoreline")
    with pytest.raises(Exception, match=re.escape(reason)):
        sent.get(timeout=HANG_S)


def test_messages_for_unknown_jobs_or_parts_are_dropped(
    elsewhere: Celery, worker: Stack, client: Client, uri: str
) -> None:
    job = list(client.watch(client.submit("secure", uri).job_id, timeout_s=HANG_S))[-1].job_id
    with redis.Redis.from_url(worker.environ["REDIS_URL"]) as server:
        before = server.info("memory")["used_memory"]
        for name in ("plan", "score_part", "finalize", "events", "score_staged"):
            for job_id in ("../x", 7, None, {"a": 1}, "no-such-job"):
                extra = {"part": 0} if name == "score_part" else {}
                elsewhere.send_task(f"scoreline.{name}", kwargs={"job_id": job_id, **extra}, queue="scoreline")
        for part in (-1, 2**31, "0", None):
            elsewhere.send_task("scoreline.score_part", kwargs={"job_id": job, "part": part}, queue="scoreline")
        elsewhere.send_task("scoreline.score_part", args=["too", "few", "or", "many"], queue="scoreline")
        elsewhere.send_task("os.system", args=["true"], queue="scoreline")
        # Then the next job is scored, and Redis contains none of the hostile messages
        again = client.submit("secure", uri).job_id
        assert list(client.watch(again, timeout_s=HANG_S))[-1].state == "succeeded"
        assert server.info("memory")["used_memory"] < before + (8 << 20)


def test_nothing_in_redis_quotes_an_input(
    worker: Stack, elsewhere: Celery, client: Client, store: ObjectStore, uri: str
) -> None:
    # Given a foreign application that knows the address of Redis and the URI of an input
    store.put("people/a.csv", f"ssn,x\n{SSN},1\n{SSN},2\n".encode())
    asked: dict[str, Any] = {"model": "secure", "input": "s3://scoreline/people/", "max_rejected": 0}
    requests: dict[str, dict[str, Any]] = {
        "as-types": {"types": {"x": "bool", "ssn": "int64"}},
        "as-header": {"delimiter": ";"},
        "as-partition": {"partition_by": "y", "keep": "ssn"},
    }
    for job_id, wrong in requests.items():
        sent = elsewhere.send_task("scoreline.submit", kwargs=asked | wrong, task_id=job_id, queue="scoreline")
        assert sent.get(timeout=HANG_S)["job_id"] == job_id
        ended = list(client.watch(job_id, timeout_s=HANG_S))[-1]
        assert ended.state == "failed", job_id
        # Then the answer says that the job failed, and which command shows the reason
        answer = elsewhere.send_task("scoreline.status", kwargs={"job_id": job_id}, queue="scoreline.clock").get(HANG_S)
        assert (answer["state"], f"scoreline status {job_id}" in answer["error"]) == ("failed", True)
    # And no key of Redis contains a value or the header of the input
    with redis.Redis.from_url(worker.environ["REDIS_URL"]) as server:
        for key in server.scan_iter():
            kept = {"string": server.get, "hash": server.hgetall, "list": lambda name: server.lrange(name, 0, -1)}
            content = str(kept.get(server.type(key).decode(), lambda name: "")(key))
            assert SSN not in content, key
            assert "ssn,x" not in content, key


def malformed(app: Celery) -> dict[str, Any]:
    """Return bytes that a hostile producer may put into a queue; some of them resemble a message."""
    channel: Any
    with app.connection_for_write() as connection, connection.channel() as channel:
        body = [[], {"job_id": "no-such-job"}, {}]
        headers = {"task": "scoreline.plan", "id": "one", "lang": "py", "retries": 0}
        channel.basic_publish(
            channel.prepare_message(
                json.dumps(body),
                content_type="application/json",
                content_encoding="utf-8",
                headers=headers,
                properties={"delivery_tag": "tag-of-one", "delivery_info": {}},
            ),
            exchange="",
            routing_key="never-read",
        )
        sound = json.loads(channel.client.lpop("never-read"))

    def with_(**changed: Any) -> str:
        return json.dumps(sound | {name.replace("_", "-"): value for name, value in changed.items()})

    def headed(**changed: Any) -> str:
        return with_(headers=headers | changed)

    def said(body: Any) -> str:
        return with_(body=base64.b64encode(json.dumps(body).encode()).decode())

    return {
        "no JSON": "no JSON",
        "bytes": b"\xff\xfe\x00",
        "brackets": "[" * 100_000,
        "a list": "[]",
        "a number": "7",
        "null": "null",
        "an empty object": "{}",
        "no properties": with_(properties=None),
        "properties without a tag": with_(properties={}),
        "a tag that is an object": with_(properties=sound["properties"] | {"delivery_tag": {"a": 1}}),
        "no delivery_info": with_(properties={"delivery_tag": "x"}),
        "headers that are a list": with_(headers=[1]),
        "headers that are a text": with_(headers="x"),
        "a body that is no base64": with_(body="%%%"),
        "a body that is a number": with_(body=7),
        "another encoding": with_(content_encoding="rot13"),
        "a pickle": with_(content_type="application/x-python-serialize"),
        "a task that is an object": headed(task={"a": 1}),
        "an id that is an object": headed(id={"a": 1}),
        "no id": with_(headers={"task": "scoreline.plan"}),
        "limits that are texts": headed(timelimit=["x", "y"]),
        "one limit": headed(timelimit=[1]),
        "limits without end": with_(headers=headers | {"timelimit": [1e400, 1]}),
        "retries that are a text": headed(retries="x"),
        "a time that is a number": headed(eta=7),
        "a time that is none": headed(eta="yesterday"),
        "a time beyond all": headed(eta="9999-12-31T23:59:59+00:00", expires="0001-01-01T00:00:00+00:00"),
        "two arguments": said([[], {}]),
        "no arguments": said({}),
        "arguments that are a text": said(["x", {}, {}]),
        "named arguments that are a list": said([[], [1], {}]),
        "options that are a list": said([[], {"job_id": "x"}, [1]]),
    }


def answers_to(client: Client, what: str) -> dict[str, Any]:
    """Ask the only worker until it answers, because it may be busy."""
    return wait_until(lambda: client.queue.ask_workers(what), f"an answer to {what}")


def test_no_malformed_message_ends_a_worker(worker: Stack, elsewhere: Celery, client: Client, uri: str) -> None:
    def pids() -> dict[str, Any]:
        return {name: stats["pid"] for name, stats in answers_to(client, "stats").items()}

    before = pids()
    wrong = malformed(elsewhere)
    with redis.Redis.from_url(worker.environ["REDIS_URL"]) as server:
        for message in wrong.values():
            server.lpush("scoreline", message)
            server.lpush("scoreline.clock", message)
        # Commands to all workers are published on a channel, not put into a queue
        for message in ("no JSON", "[]", "{}", '{"properties": {}}', *wrong.values()):
            server.publish("/0.celery.pidbox", message)
        # Then the worker continues, and Redis contains none of the hostile messages
        wait_until(lambda: not server.llen("scoreline") + server.llen("scoreline.clock"), "empty queues")
        again = client.submit("secure", uri).job_id
        assert list(client.watch(again, timeout_s=HANG_S))[-1].state == "succeeded"
        assert pids() == before
        wait_until(lambda: not server.hlen("unacked"), "no message that is held")


def test_commands_to_a_worker_change_nothing(worker: Stack, elsewhere: Celery, client: Client, uri: str) -> None:
    before = answers_to(client, "stats"), answers_to(client, "active_queues")
    commands: dict[str, dict[str, Any]] = {
        "pool_shrink": {"n": 1},
        "pool_grow": {"n": 1},
        "cancel_consumer": {"queue": "scoreline"},
        "add_consumer": {"queue": "theirs"},
        "rate_limit": {"task_name": "scoreline.plan", "rate_limit": "1/h"},
        "time_limit": {"task_name": "scoreline.plan", "hard": 1},
        "revoke": {"task_id": ["x"], "terminate": True},
        "enable_events": {},
        "evict_models": {},
        "shutdown": {},
    }
    for name, arguments in commands.items():
        answers = elsewhere.control.broadcast(name, arguments=arguments, reply=True, timeout=HANG_S, limit=1)
        ((answer,),) = (found.values() for found in answers or [])
        assert "REMOTE_CONTROL=true" in answer["error"], name
    now = answers_to(client, "stats")
    assert {name: stats["pool"]["processes"] for name, stats in now.items()} == {
        name: stats["pool"]["processes"] for name, stats in before[0].items()
    }
    assert answers_to(client, "active_queues") == before[1]
    again = client.submit("secure", uri).job_id
    assert list(client.watch(again, timeout_s=HANG_S))[-1].state == "succeeded"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"inputs": ["s3://theirs/in/"]}, "bucket 'theirs' is not in ALLOWED_BUCKETS"),
        ({"output": "s3://theirs/out/"}, "bucket 'theirs' is not in ALLOWED_BUCKETS"),
    ],
)
def test_a_forged_job_document_cannot_reach_another_bucket(
    worker: Stack, client: Client, store: ObjectStore, uri: str, changed: dict[str, object], reason: str
) -> None:
    # Given a valid job document that was changed by someone with write access to the bucket
    sound = json.loads(store.get(keys.job(client.submit("secure", uri).job_id)).data)
    job_id = f"foreign-{next(iter(changed))}"
    sound["spec"] |= {"job_id": job_id, **changed}
    store.put(keys.active(job_id), b"2026-01-01T00:00:00+00:00")
    store.put(keys.job(job_id), json.dumps(sound).encode())
    # Then the reconciler sends the job to the planner, and the job fails with the reason
    client.reconcile()
    ended = list(client.watch(job_id, timeout_s=HANG_S))[-1]
    assert ended.state == "failed"
    assert reason in ended.error


def test_a_document_with_a_path_that_goes_up_is_named_and_not_followed(
    client: Client, store: ObjectStore, uri: str
) -> None:
    sound = json.loads(store.get(keys.job(client.submit("secure", uri).job_id)).data)
    sound["spec"] |= {"job_id": "upwards", "output": "s3://scoreline/a/../../"}
    store.put(keys.active("upwards"), b"2026-01-01T00:00:00+00:00")
    store.put(keys.job("upwards"), json.dumps(sound).encode())
    said = client.reconcile()["upwards"]
    assert said.startswith("failed: s3://scoreline/jobs/upwards/job.json is not what Scoreline writes there: ")
    assert "has '.' or '..' between its slashes" in said
    # And the list of jobs contains the forged job
    (listed,) = [job for job in client.jobs() if job.job_id == "upwards"]
    assert (listed.state, listed.error) == ("failed", said.removeprefix("failed: "))
    for key in (keys.active("upwards"), keys.job("upwards")):
        store.delete(key)


def test_no_secret_appears_in_any_log_or_message(own: Stack) -> None:
    # Given services with passwords, one of which must be quoted in a URL
    private, _ = generate_keys()
    secrets = {
        "REDIS": "hush/of@redis-1234",
        "R2_SECRET_ACCESS_KEY": 'hush-of-r2-"1234"',
        "WEBHOOK_SECRET": "hush-of-hooks-1234",
        "MODEL_SIGNING_KEY": private,
    }
    port = own.environ["REDIS_URL"].rpartition(":")[2]
    environ = own.environ | {name: value for name, value in secrets.items() if name != "REDIS"}
    environ["REDIS_URL"] = f"redis://:{quote(secrets['REDIS'], safe='')}@127.0.0.1:{port}"
    client, models = Client.from_env(own.environ), ModelStorageManager.from_env(own.environ)
    models.publish("paced", Talkative().fit(pd.DataFrame({"x": [0.0]})))
    for number in range(4):
        client.buckets.main.put(f"in/{number}.parquet", pd.DataFrame({"x": [1.0] * 100}).to_parquet(index=False))
    with redis.Redis.from_url(own.environ["REDIS_URL"]) as server:
        server.config_set("requirepass", secrets["REDIS"])
    client = Client.from_env(environ)
    # When a worker and beat log at level DEBUG, while one job succeeds, another fails, and Redis stops
    log = own.folder / "debug.log"
    command = [sys.executable, "-m", "celery", "-A", "scoreline", "worker", "-B", "-c", "1", "-l", "DEBUG"]
    guard = own.run(command, log, environ | {"RECONCILE_SECONDS": "1", "LOG_FORMAT": "json"})
    own.wait("the worker", lambda: "ready" in log.read_text(), guard, log)
    client.buckets.main.put("bad/a.parquet", b"no Parquet")
    for folder, state in (("in/", "succeeded"), ("bad/", "failed")):
        job = client.submit("paced", client.buckets.main.uri(folder)).job_id
        assert list(client.watch(job, timeout_s=HANG_S))[-1].state == state
    seen = len(log.read_text())
    own.restart_valkey()  # this server has no password, so every connection that sends a password fails
    own.wait("an error in the log", lambda: "rror" in log.read_text()[seen:])
    said = [log.read_text()]
    assert "connecting with" in said[0]
    away = environ["REDIS_URL"].replace(f":{port}", ":9")
    for arguments in (["submit", "paced", "s3://scoreline/in/"], ["doctor"]):
        for wrong in ({"REDIS_URL": away}, {"R2_ENDPOINT_URL": "http://127.0.0.1:9"}):
            done = run_scoreline(*arguments, environ={"PATH": "/usr/bin:/bin"} | environ | wrong)
            said.append(done.stdout + done.stderr)
    # Then no output contains a secret, in any encoding
    assert all(said)
    for name, value in secrets.items():
        for form in (value, quote(value, safe=""), json.dumps(value)[1:-1]):
            assert not any(form in text for text in said), name
