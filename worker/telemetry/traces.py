"""Reports each task to OpenTelemetry as a span if OTEL_EXPORTER_OTLP_ENDPOINT is set. A job is one trace.

The trace context is sent in the headers of messages (W3C ``traceparent``). If an application sends ``scoreline.submit``
within a span of its own, the job belongs to the application's trace. Otherwise, the planning of the job is the root of
the trace. The spans of parts and of the end of a job are children of the planning span, even if another part has sent
their messages.
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
_RESULT_KEYS = ("job_id", "rows", "rejected")
"""Keys in the return value of a task that become attributes of its span."""
_HEADERS = ("traceparent", "tracestate")


class Tracer:
    """The spans of one process, which runs one task at a time.

    Parameters
    ----------
    provider : opentelemetry.sdk.trace.TracerProvider
        The provider that exports the spans.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("scoreline")
        self._propagator = TraceContextTextMapPropagator()
        self._hidden = secrets_of(os.environ)
        self._span: Any = None
        self._token: Any = None
        self._propagated: dict[str, str] = {}

    def begin(self, task_id: str, task: Any, kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Begin the span of a task."""
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
        self._propagated = carrier
        if task.name == "scoreline.plan" or not carrier:
            self._propagated = {}
            self._propagator.inject(self._propagated, inside)

    def send(self, headers: dict[str, Any] | None = None, **_: Any) -> None:
        """Add the trace context to the headers of a message that is being sent."""
        if headers is not None:
            headers.update(self._propagated)

    def note(self, error: BaseException) -> None:
        """Mark the current span as failed."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, redact(describe(error), self._hidden)))

    def end(self, retval: Any = None, state: str | None = None, **_: Any) -> None:
        """Add the return value of the task to its span, and end the span."""
        from opentelemetry import context

        if self._span is None:
            return
        if isinstance(retval, BaseException) and state == "FAILURE":
            self.note(retval)
        elif isinstance(retval, dict):
            self._span.set_attributes({f"scoreline.{name}": retval[name] for name in _RESULT_KEYS if name in retval})
        self._span.set_attribute("celery.state", state or "")
        self._span.end()
        context.detach(self._token)
        self._span, self._propagated = None, {}

    def close(self, **_: Any) -> None:
        """Export the remaining spans, for at most 2 s. The process ends by ``os._exit``, which waits for no thread."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True, name="spans")
        thread.start()
        thread.join(_FLUSH_S)


_tracer: Tracer | None = None


def connect() -> None:
    """Set up each child after the fork, because the exporter's thread does not survive a fork."""
    celeryd_after_setup.connect(_in_parent, weak=False)
    worker_process_init.connect(_in_child, weak=False)


def is_on() -> bool:
    """Return whether this process reports its tasks."""
    return _tracer is not None


def note(error: BaseException) -> None:
    """Mark the current span as failed; do nothing without a span."""
    if _tracer is not None:
        _tracer.note(error)


def _in_parent(**_: Any) -> None:
    if _wanted() and (missing := _missing()):
        remedy = f"pip install {' '.join(missing)}, or unset OTEL_EXPORTER_OTLP_ENDPOINT"
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
    except ModuleNotFoundError:  # raised if the parent package is also missing
        return False
