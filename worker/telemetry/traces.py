"""Spans to OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT is set: one a task, those of a job in one trace.

The context travels in the messages' headers (W3C ``traceparent``): an application that sends ``scoreline.submit``
within a span of its own finds the job there, else planning is the root. Parts and the end of a job are children of
planning, side by side, not of the part before them whose completion sent them.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from typing import Any

from celery.signals import (
    before_task_publish,
    celeryd_after_setup,
    task_postrun,
    task_prerun,
    worker_process_init,
    worker_process_shutdown,
)

from scoreline.storage.errors import describe
from scoreline.worker.logs import redact, secrets_of
from scoreline.worker.version import __version__

log = logging.getLogger(__name__)

_FLUSH_S = 2.0
_PACKAGES = {
    "opentelemetry-sdk": "opentelemetry.sdk",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry.exporter.otlp.proto.http",
}
_DONE = ("job_id", "rows", "rejected")
"""What an answer of a task may say of a span."""
_HEADERS = ("traceparent", "tracestate")


class Tracer:
    """Spans of one process, which runs one task at a time.

    Parameters
    ----------
    provider : opentelemetry.sdk.trace.TracerProvider
        Exports them.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("scoreline")
        self._propagator = TraceContextTextMapPropagator()
        self._hidden = secrets_of(os.environ)
        self._span: Any = None
        self._token: Any = None
        self._onward: dict[str, str] = {}

    def begin(self, task_id: str, task: Any, kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Begin a task's span."""
        from opentelemetry import context, trace

        carrier = {name: value for name in _HEADERS if (value := task.request.get(name))}
        attributes = {"celery.task_id": task_id, "celery.retries": task.request.retries or 0}
        known = {f"scoreline.{name}": (kwargs or {}).get(name) for name in ("job_id", "part")}
        self._span = self._tracer.start_span(
            task.name,
            context=self._propagator.extract(carrier),
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes | {name: value for name, value in known.items() if value is not None},
        )
        inside = trace.set_span_in_context(self._span)
        self._token = context.attach(inside)
        self._onward = carrier
        if task.name == "scoreline.plan" or not carrier:
            self._onward = {}
            self._propagator.inject(self._onward, inside)

    def send(self, headers: dict[str, Any] | None = None, **_: Any) -> None:
        """Give a message on its way the context that its task belongs to."""
        if headers is not None:
            headers.update(self._onward)

    def note(self, error: BaseException) -> None:
        """Mark the span under way as one in which something went wrong."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, redact(describe(error), self._hidden)))

    def end(self, retval: Any = None, state: str | None = None, **_: Any) -> None:
        """End the task's span, with what it did."""
        from opentelemetry import context

        if self._span is None:
            return
        if isinstance(retval, BaseException) and state == "FAILURE":
            self.note(retval)
        elif isinstance(retval, dict):
            self._span.set_attributes({f"scoreline.{name}": retval[name] for name in _DONE if name in retval})
        self._span.set_attribute("celery.state", state or "")
        self._span.end()
        context.detach(self._token)
        self._span, self._onward = None, {}

    def close(self, **_: Any) -> None:
        """Send what is left, for at most two seconds: the process ends by ``os._exit``, which waits for no thread."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True, name="spans")
        thread.start()
        thread.join(_FLUSH_S)


_tracer: Tracer | None = None


def connect() -> None:
    """Set up each child: what exports has a thread, which no fork takes along."""
    celeryd_after_setup.connect(_in_parent, weak=False)
    worker_process_init.connect(_in_child, weak=False)


def note(error: BaseException) -> None:
    """Mark the span under way, if there is any."""
    if _tracer is not None:
        _tracer.note(error)


def _in_parent(**_: Any) -> None:
    if _wanted() and (missing := _missing()):
        remedy = f"pip install {' '.join(missing)}, or take OTEL_EXPORTER_OTLP_ENDPOINT away"
        log.warning("opentelemetry.missing", extra={"remedy": remedy})


def _in_child(**_: Any) -> None:
    global _tracer
    if not _wanted() or _missing():
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or "scoreline"
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = Tracer(provider)
    task_prerun.connect(_tracer.begin, weak=False)
    before_task_publish.connect(_tracer.send, weak=False)
    task_postrun.connect(_tracer.end, weak=False)
    worker_process_shutdown.connect(_tracer.close, weak=False)


def _wanted() -> bool:
    return bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip())


def _missing() -> list[str]:
    return [package for package, module in _PACKAGES.items() if not _found(module)]


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False
