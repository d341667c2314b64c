"""The trace context of the code that sends a message, if the application uses OpenTelemetry.

The context is in the headers of a message, and in the ledger beside the step that the message is for, because a step
may be done without its message.
"""

from __future__ import annotations

import sys
from typing import Any


def current() -> str:
    """Return the W3C ``traceparent`` of the current span; empty without OpenTelemetry, or without a span."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:  # then no code of this process has begun a span
        return ""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
