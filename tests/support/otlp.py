"""A collector of OpenTelemetry traces: takes what is sent by OTLP over HTTP and keeps the spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Collector:
    """The spans that have come."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.spans: list[Any] = []

    def settings(self) -> dict[str, str]:
        """Return the environment of an Airflow that traces, and sends here."""
        return {
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{self.port}/v1/traces",
            # Milliseconds between two batches.
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def named(self, begin: str) -> list[Any]:
        """Return the spans whose names begin so."""
        return [one for one in list(self.spans) if one.name.startswith(begin)]


def attributes(span: Any) -> dict[str, Any]:
    """Return a span's attributes as plain values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """Listen on a free port of loopback for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            said = ExportTraceServiceRequest.FromString(body)
            found.spans += [
                span for one in said.resource_spans for scope in one.scope_spans for span in scope.spans
            ]
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        found = Collector(served.server_address[1])
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            served.shutdown()
            thread.join()
