"""One trace leads from a request through the queue to its image: seen by a real collector's socket."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.pictures import photo
from tests.running import running_service

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector(ThreadingHTTPServer):
    """What an OTLP endpoint is told, as (process, span's name, trace's id)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.server.spans += [
                (names["service.name"], span.name, span.trace_id.hex())
                for scope in resource.scope_spans
                for span in scope.spans
            ]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_request_s_trace_leads_to_its_image(collector: Collector, state: Path, tiny_models: Path) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    with running_service(state, tiny_models, **endpoint) as service:
        answer = httpx.post(
            f"{service.url}/v1/upscale",
            params={"model": "tiny-s"},
            content=photo(24, 20),
            headers={"Content-Type": "image/png", "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
    mine = {(process, name) for process, name, trace_id in collector.spans if trace_id == TRACE_ID}
    assert {("omgsr-api", "POST /v1/upscale"), ("omgsr-worker", "job")} <= mine
    assert {name for process, name in mine if process == "omgsr-worker"} >= {"job", "read", "device", "write"}
