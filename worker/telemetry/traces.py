"""Reports each task to OpenTelemetry as a span if OTEL_EXPORTER_OTLP_ENDPOINT is set. A job is one trace.

The trace context is sent in the headers of messages (W3C ``traceparent``). The ledger has it, too: beside each step
that waits, because a process may do the step without its message, and beside the parts of a job, because a message may
be used for a part of another job. If an application sends ``scoreline.submit`` within a span of its own, the job
belongs to the application's trace. Otherwise, the planning of the job is the root of the trace. The spans of parts and
of the end of a job are children of the planning span, even if another part has sent their messages.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
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
from scoreline.storage.ledger.waiting import WaitingStep
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


@dataclass
class _Open:
    """A span that has begun."""

    span: Any
    token: Any
    propagated: dict[str, str]
    """The headers of the messages that are sent within the span."""
    begun_ns: int
    is_kept: bool = True


class Tracer:
    """The spans of one process.

    A process runs one task at a time. Within a part, it may do steps and requests of other jobs, each in a span of its
    own; threads do some of these steps side by side.

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
        self._tasks: list[_Open] = []
        """The spans of the thread that runs tasks. The last one has begun last."""
        self._local = threading.local()

    def begin(self, task_id: str, task: Any, kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Begin the span of a task."""
        carrier = {name: value for name in _HEADERS if (value := task.request.get(name))}
        attributes = {"celery.task_id": task_id, "celery.retries": task.request.retries or 0}
        known = {f"scoreline.{name}": (kwargs or {}).get(name) for name in ("job_id", "part")}
        attributes |= {name: value for name, value in known.items() if value is not None}
        self._tasks.append(self._open(task.name, carrier, attributes, time.time_ns()))

    def _open(self, name: str, carrier: dict[str, str], attributes: dict[str, Any], begun_ns: int) -> _Open:
        from opentelemetry import context, trace

        span = self._tracer.start_span(
            name,
            context=self._propagator.extract(carrier),
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
            start_time=begun_ns,
        )
        inside = trace.set_span_in_context(span)
        propagated = carrier
        if name == "scoreline.plan" or not carrier:
            propagated = {}
            self._propagator.inject(propagated, inside)
        return _Open(span, context.attach(inside), propagated, begun_ns)

    @contextlib.contextmanager
    def step(self, task: str, trace: str, job_id: str) -> Iterator[None]:
        """Report the block as the span of a step that is done without its message. `trace` is its ``traceparent``."""
        opened = self._open(task, {"traceparent": trace} if trace else {}, {"scoreline.job_id": job_id}, time.time_ns())
        stack = self._stack()
        stack.append(opened)
        try:
            yield
        except BaseException as error:
            self.note(error)
            raise
        finally:
            stack.remove(opened)
            self._close(opened)

    def turn_to(self, trace: str, job_id: str, part: int, *, is_named: bool) -> None:
        """Move the span of the current task to the trace of the part for which its message is used.

        Parameters
        ----------
        trace : str
            The ``traceparent`` of the part; empty if it is not known.
        is_named : bool
            Whether the part is of the job that the message names. Then its trace is that of the message, if no other is
            known.
        """
        from opentelemetry import context

        if (opened := self._current()) is None:
            return
        attributes = {"scoreline.job_id": job_id, "scoreline.part": part}
        carrier = {"traceparent": trace} if trace else opened.propagated if is_named else {}
        if carrier == opened.propagated:
            opened.span.set_attributes(attributes)
            return
        context.detach(opened.token)  # the span of the other trace is never ended, so it is not exported
        known = dict(opened.span.attributes or {})
        self._tasks[-1] = self._open(opened.span.name, carrier, known | attributes, opened.begun_ns)

    def drop(self) -> None:
        """Do not export the current span, because another process has done the step in a span of its own."""
        if (opened := self._current()) is not None:
            opened.is_kept = False

    def context(self) -> str:
        """Return the ``traceparent`` to send with a message; empty outside a task."""
        opened = self._current()
        return opened.propagated.get("traceparent", "") if opened is not None else ""

    def send(self, headers: dict[str, Any] | None = None, **_: Any) -> None:
        """Add the trace context to the headers of a message that is being sent."""
        if headers is not None and (opened := self._current()) is not None:
            headers.update(opened.propagated)

    def note(self, error: BaseException) -> None:
        """Mark the current span as failed."""
        if (opened := self._current()) is not None:
            from opentelemetry.trace import Status, StatusCode

            opened.span.set_status(Status(StatusCode.ERROR, redact(describe(error), self._hidden)))

    def end(self, retval: Any = None, state: str | None = None, **_: Any) -> None:
        """Add the return value of the task to its span, and end the span."""
        if not self._tasks:
            return
        opened = self._tasks[-1]
        if isinstance(retval, BaseException) and state == "FAILURE":
            self.note(retval)
        elif isinstance(retval, dict):
            opened.span.set_attributes({f"scoreline.{name}": retval[name] for name in _RESULT_KEYS if name in retval})
        opened.span.set_attribute("celery.state", state or "")
        self._tasks.remove(opened)
        self._close(opened)

    def _close(self, opened: _Open) -> None:
        from opentelemetry import context

        if opened.is_kept:
            opened.span.end()
        context.detach(opened.token)

    def _stack(self) -> list[_Open]:
        """Return the spans of this thread."""
        if threading.current_thread() is threading.main_thread():
            return self._tasks
        if not hasattr(self._local, "spans"):
            self._local.spans = []
        found: list[_Open] = self._local.spans
        return found

    def _current(self) -> _Open | None:
        """Return the span of this thread that has begun last. Threads of a task without own spans use the task's."""
        spans = self._stack() or self._tasks
        return spans[-1] if spans else None

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


def step(waiting: WaitingStep) -> AbstractContextManager[None]:
    """Return a block that is the span of a step which is done without its message."""
    if _tracer is None:
        return contextlib.nullcontext()
    return _tracer.step(waiting.task, waiting.trace, waiting.job_id)


def turn_to(trace: str, job_id: str, part: int, *, is_named: bool) -> None:
    """Move the current span to the trace of a part (see `Tracer.turn_to`)."""
    if _tracer is not None:
        _tracer.turn_to(trace, job_id, part, is_named=is_named)


def is_tracing() -> bool:
    """Return whether this process reports spans."""
    return _tracer is not None


def drop() -> None:
    """Do not export the current span (see `Tracer.drop`)."""
    if _tracer is not None:
        _tracer.drop()


def context() -> str:
    """Return the ``traceparent`` to send with a message; empty without tracing."""
    return _tracer.context() if _tracer is not None else ""


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
