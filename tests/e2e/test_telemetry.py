"""Errors and spans of a real worker arrive at test servers in place of Sentry and an OpenTelemetry collector."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import psutil
import pytest
import redis
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import exists
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import ROOT, Stack
from tests.support.elsewhere import application
from tests.support.ending import killed_at_end
from tests.support.estimators import Staged
from tests.support.telemetry_sink import Sink, attributes
from tests.support.waiting import HANG_S, wait_until

HIDDEN = {"redis": "hush-of-redis", "webhook": "hush-of-webhooks-of-all-kinds"}
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass(frozen=True)
class Reported:
    """The telemetry that a worker sent while it ran two jobs."""

    sink: Sink
    secrets: tuple[str, ...]
    good: str
    bad: str
    log: str


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reported]:
    """A worker that scores one job, fails another with an unexpected error, and is stopped."""
    with killed_at_end(Stack(tmp_path_factory.mktemp("telemetry"))) as stack, Sink() as sink:
        with redis.Redis.from_url(stack.environ["REDIS_URL"]) as connection:
            connection.config_set("requirepass", HIDDEN["redis"])
        stack.environ["REDIS_URL"] = stack.environ["REDIS_URL"].replace("//", f"//:{HIDDEN['redis']}@")
        hidden = (*HIDDEN.values(), stack.environ["R2_SECRET_ACCESS_KEY"])
        guard = stack.start_worker(
            2,
            sink.environ | {"WEBHOOK_SECRET": HIDDEN["webhook"], "OTEL_BSP_SCHEDULE_DELAY": "600000"},
        )
        log = next(stack.folder.glob("worker*.log"))
        stack.wait(  # otherwise the reconciliation at the start might handle the jobs below, in separate traces
            "the reconciliation of the start",
            lambda: re.search(r"Task scoreline\.reconcile\S+ succeeded", log.read_text()) is not None,
        )
        client = Client.from_env(stack.environ)
        model = Staged(breaks_from=1_000.0, says=f"no way with {' '.join(hidden)}").fit(pd.DataFrame({"x": [0.0]}))
        ModelStorageManager.from_env(stack.environ).publish("watched", model)
        with application(stack.environ["REDIS_URL"]) as app:
            for job, ids in {"good": np.arange(300), "bad": np.r_[np.arange(100), np.arange(1_000, 1_100)]}.items():
                frame = pd.DataFrame({"id": ids, "x": ids.astype(float)})
                client.buckets.main.put(f"in/{job}.parquet", frame.to_parquet(index=False, row_group_size=100))
                message = {"model": "watched", "input": client.buckets.main.uri(f"in/{job}.parquet"), "part_rows": 100}
                headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"} if job == "good" else {}
                app.send_task("scoreline.submit", kwargs=message, task_id=job, queue="scoreline", headers=headers)
        ends = {}
        for job in ("good", "bad"):
            wait_until(partial(exists, client.buckets.main, keys.job(job)), f"the job {job}", log.read_text)
            ends[job] = list(client.watch(job, timeout_s=HANG_S))[-1].state
        assert ends == {"good": "succeeded", "bad": "failed"}, log.read_text()
        for parent in psutil.Process(guard.pid).children():  # whatever time the worker takes to send what it has
            parent.send_signal(signal.SIGTERM)
        guard.wait(HANG_S)
        yield Reported(sink=sink, secrets=hidden, good="good", bad="bad", log=log.read_text())


def of_job(spans: list[Span], job: str) -> list[Span]:
    return [span for span in spans if attributes(span).get("scoreline.job_id") == job]


def test_a_failed_job_and_its_cause_are_one_event_each(reported: Reported) -> None:
    events = {event["exception"]["values"][-1]["type"]: event for event in reported.sink.events()}
    assert sorted(events) == ["JobFailed", "MemoryError"]
    assert len(reported.sink.events()) == 2
    assert events["JobFailed"]["tags"]["job_id"] == reported.bad
    assert events["MemoryError"]["tags"].items() >= {"job_id": reported.bad, "part": 1}.items()
    assert events["JobFailed"]["exception"]["values"][-1]["value"].startswith("1 of 2 parts failed; part 1: Memory")
    for event in events.values():
        assert event["release"].startswith("scoreline@")
        assert event["environment"] == "production"


def test_no_event_and_no_span_holds_a_secret_or_a_row(reported: Reported) -> None:
    assert {path for path, _ in reported.sink.received} == {"/api/1/envelope/", "/v1/traces"}
    for _, body in reported.sink.received:
        for secret in reported.secrets:
            assert secret.encode() not in body
        assert b'"vars"' not in body
        assert b"in/bad.parquet" not in body  # although this URI is an argument of a task
        assert b"results/watched" not in body  # although a task returns this key
    assert b"no way with *** *** ***" in b"".join(body for _, body in reported.sink.received)


def test_each_task_is_a_span_and_a_job_belongs_to_the_trace_of_its_caller(reported: Reported) -> None:
    spans = of_job(reported.sink.spans(), reported.good)
    by_name: dict[str, list[Span]] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span)
    assert {name: len(of_name) for name, of_name in by_name.items()} == {
        "scoreline.submit": 1,
        "scoreline.plan": 1,
        "scoreline.score_part": 3,
        "scoreline.finalize": 1,
    }
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    (submit,), (plan,) = by_name["scoreline.submit"], by_name["scoreline.plan"]
    assert [span.parent_span_id.hex() for span in (submit, plan)] == [CALLER, CALLER]
    assert {span.parent_span_id for span in spans if span not in (submit, plan)} == {plan.span_id}
    parts = [attributes(span) for span in by_name["scoreline.score_part"]]
    assert sorted(part["scoreline.part"] for part in parts) == [0, 1, 2]
    assert {(part["scoreline.rows"], part["scoreline.rejected"]) for part in parts} == {(100, 0)}
    assert all(span.end_time_unix_nano > span.start_time_unix_nano for span in spans)


def test_a_failed_part_is_marked_and_a_job_without_a_caller_is_a_trace_of_its_own(reported: Reported) -> None:
    spans = of_job(reported.sink.spans(), reported.bad)
    assert {attributes(span)["scoreline.part"]: span.status.code for span in spans if "part" in span.name} == {
        0: Status.STATUS_CODE_UNSET,
        1: Status.STATUS_CODE_ERROR,
    }
    (trace,) = {span.trace_id.hex() for span in spans}
    assert trace != TRACE


def in_process(code: str, environ: dict[str, str]) -> str:
    """Run code in a process that is set up as the main process of a worker and then as its child. Return its log."""
    begin = (
        "import logging, os, sys; from celery import signals; from scoreline.worker import logs, telemetry; "
        "logs.set_up(os.environ); "
        "sys.modules.update(dict.fromkeys(os.environ.get('MISSING', '').split())); telemetry.connect(); "
        "signals.celeryd_after_setup.send(sender=None); signals.worker_process_init.send(sender=None); "
    )
    done = subprocess.run(
        [sys.executable, "-c", begin + code],
        env=os.environ | environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
    )
    return done.stderr


def test_a_missing_package_is_one_warning() -> None:
    environ = {
        "SENTRY_DSN": "http://key@127.0.0.1:9/1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "MISSING": "sentry_sdk opentelemetry.exporter",
    }
    said = in_process("telemetry.report(ValueError('no'), job_id='j')", environ).splitlines()
    assert [line.split(" ", 2)[2] for line in said] == [
        'sentry.missing remedy="pip install sentry-sdk, or unset SENTRY_DSN"',
        'opentelemetry.missing remedy="pip install opentelemetry-exporter-otlp-proto-http, or unset '
        'OTEL_EXPORTER_OTLP_ENDPOINT"',
    ]


def test_an_error_is_an_event_only_when_it_is_no_longer_retried(reported: Reported) -> None:
    with Sink() as sink:
        in_process(
            "import sentry_sdk; from scoreline import StoreUnavailable; error = StoreUnavailable('R2 is down'); "
            "sentry_sdk.capture_exception(error); "
            "[telemetry.report(error, job_id=job) for job in ('a', 'b', 'a')]; sentry_sdk.flush(5)",
            {"SENTRY_DSN": sink.environ["SENTRY_DSN"]},
        )
        found = [(event["exception"]["values"][-1]["type"], event["tags"]["job_id"]) for event in sink.events()]
    assert found == [("JobFailed", "a"), ("JobFailed", "b")]


def test_an_invalid_dsn_is_logged_and_does_not_stop_a_worker() -> None:
    said = in_process("", {"SENTRY_DSN": "not-an-address"})
    assert 'ERROR sentry.refused error="SENTRY_DSN is invalid: ' in said
    assert len(said.splitlines()) == 2
