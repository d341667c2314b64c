"""Each part and step is a span in the trace of its job, though its message may be in another, or not be used."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.tasks.dispatch import trace_context
from scoreline.tasks.dispatch.dispatcher import Dispatcher, send_step
from scoreline.worker.telemetry.traces import Tracer

A, B = (f"00-{digit * 32}-{digit * 16}-01" for digit in "ab")


class Traced:
    """A process that reports its spans."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = Tracer(provider)

    def begin(self, name: str, traceparent: str = "", **kwargs: Any) -> None:
        request = {"traceparent": traceparent} if traceparent else {}
        task = SimpleNamespace(name=name, request=Request(request))
        self.tracer.begin("id", task, kwargs)

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def headers(self) -> dict[str, Any]:
        sent: dict[str, Any] = {}
        self.tracer.send(sent)
        return sent


class Request(dict[str, Any]):
    retries = 0


@pytest.fixture
def at() -> Iterator[Traced]:
    made = Traced()
    yield made
    for _ in range(2):  # otherwise the next test would run within the spans of this one
        made.tracer.end()


def ids_of(span: ReadableSpan) -> tuple[str, str]:
    """Return the ids of the trace and of the span."""
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def trace_of(span: ReadableSpan) -> str:
    return ids_of(span)[0]


def test_a_part_of_another_job_moves_to_the_trace_of_that_job(at: Traced) -> None:
    at.begin("scoreline.score_part", A, job_id="a", part=3)
    at.tracer.turn_to(B, "b", 0, is_named=False)
    assert at.headers() == {"traceparent": B}
    at.tracer.end({"rows": 4}, "SUCCESS")
    (span,) = at.exporter.get_finished_spans()
    assert trace_of(span) == "b" * 32
    assert span.attributes is not None
    assert {name: span.attributes[f"scoreline.{name}"] for name in ("job_id", "part", "rows")} == {
        "job_id": "b",
        "part": 0,
        "rows": 4,
    }


@pytest.mark.parametrize(("is_named", "expected"), [(True, True), (False, False)])
def test_without_a_known_trace_only_a_part_of_the_same_job_stays_in_that_of_its_message(
    at: Traced, *, is_named: bool, expected: bool
) -> None:
    at.begin("scoreline.score_part", A, job_id="a", part=3)
    at.tracer.turn_to("", "a" if is_named else "b", 5, is_named=is_named)
    at.tracer.end(None, "SUCCESS")
    (span,) = at.exporter.get_finished_spans()
    assert (trace_of(span) == "a" * 32) == expected
    assert span.attributes is not None
    assert span.attributes["scoreline.part"] == 5


def test_a_step_within_a_part_is_in_its_own_trace_and_so_are_its_messages(at: Traced) -> None:
    at.begin("scoreline.score_part", A, job_id="a", part=0)
    with at.tracer.step("scoreline.finalize", B, "b"):
        assert at.headers() == {"traceparent": B}
        assert at.tracer.context() == B
    assert at.headers() == {"traceparent": A}
    with contextlib.suppress(ValueError), at.tracer.step("scoreline.plan", B, "b"):
        planned = at.headers()["traceparent"]
        raise ValueError("no")
    at.tracer.end(None, "SUCCESS")
    found = at.spans()
    assert {name: trace_of(span) for name, span in found.items()} == {
        "scoreline.finalize": "b" * 32,
        "scoreline.plan": "b" * 32,
        "scoreline.score_part": "a" * 32,
    }
    # The parts of a job are below its planning
    plan = found["scoreline.plan"]
    assert planned.split("-")[1:3] == list(ids_of(plan))
    assert not plan.status.is_ok


def test_steps_side_by_side_are_in_the_traces_of_their_jobs(at: Traced) -> None:
    at.begin("scoreline.score_staged", A, job_id="a")
    seen: list[dict[str, Any]] = []

    def other() -> None:
        seen.append(at.headers())
        with at.tracer.step("scoreline.other", B, "b"):
            seen.append(at.headers())
        seen.append(at.headers())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert [sent["traceparent"] for sent in seen] == [A, B, A]
    assert at.headers() == {"traceparent": A}


def test_a_task_within_a_task_and_a_dropped_span(at: Traced) -> None:
    at.begin("scoreline.score_part", A, job_id="a", part=0)
    at.begin("scoreline.submit", B)
    at.tracer.drop()
    at.tracer.end({"job_id": "b"}, "SUCCESS")
    assert at.headers() == {"traceparent": A}
    at.tracer.end(None, "SUCCESS")
    at.tracer.end(None, "SUCCESS")  # no task is left
    assert list(at.spans()) == ["scoreline.score_part"]
    assert (at.headers(), at.tracer.context()) == ({}, "")


def test_a_step_that_waits_has_the_trace_of_its_sender() -> None:
    ledger = MemoryLedger()
    provider = TracerProvider()
    sender = Dispatcher(buckets=None, ledger=ledger, send=lambda *_, **__: None)  # type: ignore[arg-type]
    with trace.use_span(provider.get_tracer("application").start_span("request")) as span:
        now = trace_context.current()
        send_step(sender, "plan", "j")
    context = span.get_span_context()
    assert now.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-0")
    taken = ledger.waiting.take(60)
    assert taken is not None
    assert taken.trace == now
    assert trace_context.current() == ""
