"""Short steps do not wait for the end of a long part: a process does them between two batches, and loses nothing."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import redis
from celery import Celery

from scoreline.storage import keys
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import exists
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.tasks.job.documents import Status, read_job
from scoreline.tasks.job.plan import BATCH_ROWS
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.planner import plan_job
from scoreline.tasks.steps.preflight import UncachedModels
from scoreline.tasks.steps.score_part import score_part
from scoreline.tasks.steps.short_steps import LOOK_EVERY_S
from tests.support.estimators import TRIAL_ROWS, Paced, Turnstile
from tests.support.proving import proved_here
from tests.support.rig import Rig
from tests.support.telemetry_sink import Sink, attributes
from tests.support.waiting import HANG_S

MANY = TRIAL_ROWS + 100
"""Number of records that a `Turnstile` holds."""
RECORDS = [{"id": n, "x": float(n)} for n in range(5)]


class Held:
    """A job with a single part, whose batches wait until the test lets them pass."""

    def __init__(self, rig: Rig, folder: Path, batches: int = 2, ballast_bytes: int = 0) -> None:
        self.rig, self.folder = rig, folder
        folder.mkdir()
        model = Turnstile(str(folder), lasts=LOOK_EVERY_S).fit(pd.DataFrame({"x": [0.0]}))
        model.ballast_ = np.ones(ballast_bytes // 8)
        with proved_here():
            ModelStorageManager.from_env(rig.environ).publish(folder.name, model)
        self.job: Status = rig.submit(1, rows=batches * BATCH_ROWS, model=folder.name)
        self.rows = rig.rows
        # The pace is known before a worker plans the job. Otherwise the batches would depend on the machine's speed
        work = read_job(rig.store, self.job.job_id).work
        for kind in (work, f"{work} scoring"):
            rig.client.ledger.counters.note_pace(kind, 1e9)

    def wait_for_batch(self, number: int) -> None:
        self.rig.wait((self.folder / f"{number}.begun").exists, f"batch {number}")

    def let_pass(self, number: int) -> None:
        (self.folder / str(number)).touch()

    def end(self) -> None:
        (self.folder / "all").touch()
        self.rig.rows = self.rows
        self.rig.verify(self.rig.end(self.job))


def test_records_do_not_wait_if_there_is_no_room_for_their_model_beside_that_of_the_part(
    rig: Rig, tmp_path: Path
) -> None:
    # Given a process with room for one of two models, at a part with the first one
    large, batches = 6 << 20, 12
    other = Paced()
    other.ballast_ = np.ones(large // 8)
    rig.publish(other)
    long = Held(rig, tmp_path / "long", batches, large)
    rig.start_worker(1, MODEL_CACHE_MB="10")
    long.wait_for_batch(0)
    # When records for the second model are submitted, and all batches but the last one pass
    scored = rig.client.submit_records("paced", RECORDS)
    for number in range(batches - 1):
        long.let_pass(number)
    # Then the records are scored before the part ends, and the part is scored as if alone
    assert [row["prediction"] for row in scored.wait(timeout_s=HANG_S)] == [3.0 * n + 1 for n in range(5)]
    assert rig.client.status(long.job.job_id).parts_done == 0
    long.end()
    assert "model.released" in rig.logs()


def test_records_and_planning_do_not_wait_for_a_long_part(rig: Rig, tmp_path: Path) -> None:
    rig.publish()
    # Given the only process of a worker at a long part
    long = Held(rig, tmp_path / "long", batches=3)
    rig.start_worker(1)
    long.wait_for_batch(0)
    # When records and another job are submitted during the first batch
    scored = rig.client.submit_records("paced", RECORDS)
    rig.put_table("other/a.parquet", np.arange(10), 10)
    other = rig.client.submit("paced", rig.store.uri("other/"))
    long.let_pass(0)
    # Then the records are scored before the second batch ends, and the job is planned before the third batch ends
    assert [row["prediction"] for row in scored.wait(timeout_s=HANG_S)] == [3.0 * n + 1 for n in range(5)]
    long.let_pass(1)
    rig.wait(lambda: exists(rig.store, keys.plan(other.job_id)), "the plan")
    # And all jobs end with each row in one place, although their messages arrive afterwards
    long.end()
    rig.rows = 10
    rig.verify(rig.end(other))
    rig.rows = len(RECORDS)
    rig.verify(scored.status())


@pytest.mark.parametrize("flush", [False, True], ids=["", "and Redis is emptied"])
def test_a_process_that_dies_at_a_step_between_batches_loses_neither_job(
    rig: Rig, tmp_path: Path, *, flush: bool
) -> None:
    long = Held(rig, tmp_path / "long")
    rig.start_worker(1)
    long.wait_for_batch(0)
    short = tmp_path / "short"
    short.mkdir()
    with proved_here():
        model = Turnstile(str(short)).fit(pd.DataFrame({"x": [0.0]}))
        ModelStorageManager.from_env(rig.environ).publish("short", model)
    records = [{"id": n, "x": float(n)} for n in range(MANY)]
    scored = rig.client.submit_records("short", records)
    long.let_pass(0)
    # When the process dies while it scores the records between the batches of the long part
    rig.wait((short / "0.begun").exists, "the records")
    assert not (tmp_path / "long/1.begun").exists()
    rig.kill(rig.children())
    if flush:
        rig.redis.flushall()
        rig.start_beat()
    # Then both jobs are done by the process that replaces it
    (short / "all").touch()
    long.end()
    assert [row["id"] for row in scored.wait(timeout_s=HANG_S)] == list(range(MANY))
    rig.rows = len(records)
    rig.verify(scored.status())


@pytest.mark.parametrize("fault", ["", "the process dies", "the process dies and Redis is emptied"])
def test_results_are_arranged_between_the_batches_of_a_long_part(rig: Rig, tmp_path: Path, fault: str) -> None:
    rig.publish()
    # Given the only process of a worker at a long part, and a job whose results still have to be arranged
    long = Held(rig, tmp_path / "long", batches=24)
    rig.start_worker(1)
    long.wait_for_batch(0)
    rig.put_table("arranged/a.parquet", np.arange(60), 10)
    job = rig.client.submit("paced", rig.store.uri("arranged/"), part_rows=10, gather=True)
    here = engine_of(rig)
    plan_job(here, job.job_id)
    for number in range(6):
        score_part(here, job.job_id, number, "here")
    # When its finalizer is held while it writes the results
    rig.chaos(hold="part-00000.parquet? PUT")
    long.let_pass(0)
    rig.wait(rig.held, "a finalizer that writes the results")
    # Then the part goes on
    long.wait_for_batch(1)
    rig.chaos(hold="_nothing")
    if fault:
        rig.kill(rig.children())
        if "Redis" in fault:
            rig.redis.flushall()
            rig.start_beat()
        long.end()
    number = 1
    while not fault and not rig.client.status(job.job_id).ended:
        # And the job ends before the part does
        long.wait_for_batch(number)
        long.let_pass(number)
        number += 1
    if not fault:
        assert rig.client.status(long.job.job_id).parts_done == 0
        long.end()
    done = rig.end(job)
    assert (done.state, done.rows) == ("succeeded", 60)
    data = rig.store.get(f"{parse_uri(done.output)[1]}part-00000.parquet").data
    assert pq.read_table(io.BytesIO(data))["id"].to_pylist() == list(range(60))
    rig.verify_clean(done)


def engine_of(rig: Rig) -> Engine:
    """Return the engine of a worker that runs in this process."""
    models = UncachedModels(models=ModelStorageManager.from_env(rig.environ))
    return Engine(buckets=rig.client.buckets, ledger=rig.client.ledger, send=rig.client.queue.send, models=models)


class Elsewhere:
    """An application that knows only Celery, and sends to the queue of the deployment."""

    def __init__(self, rig: Rig, broker_url: str) -> None:
        self.rig = rig
        self.broker = redis.Redis.from_url(broker_url)
        self.app = Celery(broker=broker_url, backend=rig.environ["REDIS_URL"], set_as_current=False)
        self.app.conf.task_default_queue = QueueNames.of(rig.store.bucket).jobs
        self.steps: list[WaitingStep] = []

    def send(self, name: str, *args: Any, queue: str | None = None, traceparent: str = "", **kwargs: Any) -> Any:
        headers = {"traceparent": traceparent} if traceparent else {}
        sent = self.app.send_task(f"scoreline.{name}", args, kwargs, queue=queue, headers=headers)
        self.steps.append(WaitingStep(task=f"scoreline.{name}", job_id=sent.id))
        return sent

    def wait_until_listed(self) -> None:
        """Wait until the main process of a worker holds all requests."""
        listed = self.rig.client.ledger.waiting.states
        self.rig.wait(lambda: "" not in listed(self.steps), "the requests in the ledger")

    def unacked(self) -> int:
        return int(self.broker.hlen("unacked"))

    def close(self) -> None:
        self.app.close()
        self.broker.close()


@pytest.fixture(params=["", "and the broker is another Redis"])
def elsewhere(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Elsewhere]:
    url = rig.environ["REDIS_URL"].removesuffix("/0") + ("/1" if request.param else "/0")
    if request.param:
        rig.stack.environ["CELERY_BROKER_URL"] = url
        rig.client = Client.from_env(rig.environ | {"CELERY_BROKER_URL": url})
    app = Elsewhere(rig, url)
    yield app
    app.close()


def test_requests_of_other_applications_do_not_wait_for_a_long_part(
    rig: Rig, tmp_path: Path, elsewhere: Elsewhere
) -> None:
    rig.publish()
    rig.put_table("other/a.parquet", np.arange(10), 10)
    # Given the only process of a worker at a long part
    rig.start_worker(1)
    long = Held(rig, tmp_path / "long", batches=4)
    long.wait_for_batch(0)
    # When an application sends records, a job and a request that is refused, during the first batch
    scored = elsewhere.send("score_records", model="paced", records=RECORDS)
    submitted = elsewhere.send("submit", "paced", rig.store.uri("other/"), queue="scoreline")
    refused = elsewhere.send("submit", model="paced")
    elsewhere.wait_until_listed()
    long.let_pass(0)
    # Then all are answered before the second batch ends
    answer = scored.get(timeout=HANG_S)
    assert [row["prediction"] for row in answer["results"]] == [3.0 * n + 1 for n in range(5)]
    assert submitted.get(timeout=HANG_S)["job_id"] == submitted.id
    with pytest.raises(Exception, match="lacks input"):
        refused.get(timeout=HANG_S)
    # And their messages are acknowledged
    rig.wait(lambda: elsewhere.unacked() == 1, "only the message of the part")
    # And the job is planned before the third batch ends, and its status is answered before the fourth begins
    long.let_pass(1)
    rig.wait(lambda: exists(rig.store, keys.plan(submitted.id)), "the plan")
    asked = elsewhere.send("status", job_id=submitted.id)
    elsewhere.wait_until_listed()
    long.let_pass(2)
    assert asked.get(timeout=HANG_S)["state"] == "running"
    long.end()
    for job_id, rows in ((submitted.id, 10), (scored.id, len(RECORDS))):
        rig.rows = rows
        rig.verify(rig.end(rig.client.status(job_id)))


@pytest.mark.parametrize("flush", [False, True], ids=["", "and Redis is emptied"])
def test_a_process_that_dies_at_a_request_between_batches_loses_neither_job(
    rig: Rig, tmp_path: Path, elsewhere: Elsewhere, *, flush: bool
) -> None:
    long = Held(rig, tmp_path / "long")
    rig.start_worker(1)
    long.wait_for_batch(0)
    short = tmp_path / "short"
    short.mkdir()
    with proved_here():
        model = Turnstile(str(short)).fit(pd.DataFrame({"x": [0.0]}))
        ModelStorageManager.from_env(rig.environ).publish("short", model)
    records = [{"id": n, "x": float(n)} for n in range(MANY)]
    scored = elsewhere.send("score_records", model="short", records=records)
    elsewhere.wait_until_listed()
    long.let_pass(0)
    # When the process dies while it scores the records between the batches of the long part
    rig.wait((short / "0.begun").exists, "the records")
    assert not (tmp_path / "long/1.begun").exists()
    rig.kill(rig.children())
    if flush:
        rig.redis.flushall()
        rig.start_beat()
    # Then both jobs are done by the process that replaces it, and the application is answered if Redis was not emptied
    (short / "all").touch()
    long.end()
    if not flush:
        assert scored.get(timeout=HANG_S)["rows"] == MANY
    rig.rows = len(records)
    rig.verify(rig.end(rig.client.status(scored.id)))


def test_a_request_outlives_the_worker_that_holds_it(rig: Rig, tmp_path: Path) -> None:
    """The worker stops while it holds the message of a request. The message then returns to the broker."""
    rig.publish()
    elsewhere = Elsewhere(rig, rig.environ["REDIS_URL"])
    long = Held(rig, tmp_path / "long")
    rig.start_worker(1)
    long.wait_for_batch(0)
    scored = elsewhere.send("score_records", model="paced", records=RECORDS)
    elsewhere.wait_until_listed()
    for parent in rig.parents():
        parent.send_signal(signal.SIGQUIT)
    rig.wait(lambda: not elsewhere.unacked(), "both messages in the broker")
    rig.start_worker(1)
    assert scored.get(timeout=HANG_S)["rows"] == len(RECORDS)
    long.end()
    elsewhere.close()


def test_each_span_is_in_the_trace_of_its_job_though_messages_are_permits(rig: Rig, tmp_path: Path) -> None:
    rig.publish()
    rig.put_table("other/a.parquet", np.arange(10), 10)
    elsewhere = Elsewhere(rig, rig.environ["REDIS_URL"])
    with Sink() as sink:
        # Given the only process of a worker that reports to OpenTelemetry, at a long part
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]}
        rig.start_worker(1, **otel, OTEL_BSP_SCHEDULE_DELAY="100")
        long = Held(rig, tmp_path / "long", batches=3)
        long.wait_for_batch(0)
        # When an application sends requests in spans of its own, and one is submitted without a trace
        records = elsewhere.send("score_records", traceparent=caller("a"), model="paced", records=RECORDS)
        job = elsewhere.send("submit", traceparent=caller("b"), model="paced", input=rig.store.uri("other/"))
        own = rig.client.submit_records("paced", RECORDS)
        elsewhere.wait_until_listed()
        long.let_pass(0)
        assert records.get(timeout=HANG_S)["rows"] == len(RECORDS)
        assert job.get(timeout=HANG_S)["job_id"] == job.id
        assert len(own.wait(timeout_s=HANG_S)) == len(RECORDS)
        long.let_pass(1)
        rig.wait(lambda: exists(rig.store, keys.plan(job.id)), "the plan")
        # And the message of its part is lost, and a message for a part that is done comes back, in another trace
        rig.wait(lambda: rig.redis.delete(rig.queue), "the message of the part")
        named = {"job_id": long.job.job_id, "part": 0}
        elsewhere.send("score_part", queue=rig.queue, traceparent=caller("c"), **named)
        long.end()
        assert rig.end(rig.client.status(job.id)).state == "succeeded"
        wanted = {
            ("scoreline.score_records", records.id),
            ("scoreline.submit", job.id),
            ("scoreline.plan", job.id),
            ("scoreline.score_part", job.id),
            ("scoreline.finalize", job.id),
            ("scoreline.score_staged", own.job_id),
            ("scoreline.plan", long.job.job_id),
            ("scoreline.score_part", long.job.job_id),
            ("scoreline.finalize", long.job.job_id),
        }
        rig.wait(lambda: wanted <= set(traces_of(sink)), "all spans")
    found = traces_of(sink)
    # Then each step is one span, in the trace of its job
    assert {name: len(found[name]) for name in wanted} == dict.fromkeys(wanted, 1)
    of_job: dict[str, set[str]] = {}
    for (_, job_id), traces in found.items():
        of_job.setdefault(job_id, set()).update(traces)
    assert of_job[records.id] == {"a" * 32}
    assert of_job[job.id] == {"b" * 32}
    assert len(of_job[own.job_id]) == len(of_job[long.job.job_id]) == 1
    assert not of_job[own.job_id] & of_job[long.job.job_id]
    assert not of_job[long.job.job_id] & {caller("c")[3:35]}
    # And the parts of a job are below its planning, though another message was used for them
    spans = {(span.name, attributes(span).get("scoreline.job_id")): span for span in sink.spans()}
    for job_id in (job.id, long.job.job_id):
        plan = spans["scoreline.plan", job_id]
        assert spans["scoreline.score_part", job_id].parent_span_id == plan.span_id
        assert spans["scoreline.finalize", job_id].parent_span_id == plan.span_id
    elsewhere.close()


def caller(digit: str) -> str:
    return f"00-{digit * 32}-{digit * 16}-01"


def traces_of(sink: Sink) -> dict[tuple[str, str], list[str]]:
    """Return the traces of the spans, by the name and the job of the span."""
    found: dict[tuple[str, str], list[str]] = {}
    for span in sink.spans():
        job_id = attributes(span).get("scoreline.job_id", "")
        found.setdefault((span.name, job_id), []).append(span.trace_id.hex())
    return found
