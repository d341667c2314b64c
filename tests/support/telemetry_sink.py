"""A server in place of Sentry and of an OpenTelemetry collector."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Sink:
    """Runs an HTTP server that accepts every request, until its `with` block ends."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, gzip.decompress(body) if self.headers["Content-Encoding"] else body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def __enter__(self) -> Sink:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environ(self) -> dict[str, str]:
        return {
            "SENTRY_DSN": f"http://key@127.0.0.1:{self.port}/1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
        }

    def events(self) -> list[dict[str, Any]]:
        """Return the events in Sentry's envelopes. An envelope has a header line, and two lines for each item."""
        found = []
        for path, body in self.received:
            if path.endswith("/envelope/"):
                lines = body.splitlines()[1:]
                items = zip(map(json.loads, lines[::2]), lines[1::2], strict=True)
                found += [json.loads(item) for header, item in items if header["type"] == "event"]
        return found

    def spans(self) -> list[Span]:
        found: list[Span] = []
        for path, body in self.received:
            if path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    found += [span for scope in resource.scope_spans for span in scope.spans]
        return found


def attributes(span: Span) -> dict[str, Any]:
    return {
        item.key: item.value.string_value or item.value.int_value
        for item in span.attributes
        if item.key.startswith("scoreline.")
    }
