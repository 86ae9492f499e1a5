"""OpenTelemetry traces across the queue: one trace leads from a request to the batches of its image.

Nothing is recorded unless the standard variable OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) is
set; the SDK is an extra of its own: pip install 'omgsr-serve[otel]'.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.errors import Unavailable

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_tracer = trace.get_tracer("omgsr")
_w3c = TraceContextTextMapPropagator()


def configure_tracing(process: str) -> None:
    """Send this process's spans to the endpoint of the environment, if it names one. `process`: api or worker.

    Raises Unavailable when spans are wanted and the SDK is not installed.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Unavailable(
            f"{ENDPOINTS[0]} is set, but OpenTelemetry's SDK is not installed.",
            "Install it: pip install 'omgsr-serve[otel]'; or unset the variable.",
        ) from error
    name = os.environ.get("OTEL_SERVICE_NAME", f"omgsr-{process}")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # its own exit hook sends what is left at the process's end


@contextmanager
def span(name: str, *, traceparent: str = "", **attributes: str | float) -> Iterator[Span]:
    """A span around the block, under the current one, or under the remote one that `traceparent` (W3C) names."""
    remote = _w3c.extract({"traceparent": traceparent}) if traceparent else None
    kind = SpanKind.CONSUMER if traceparent else SpanKind.INTERNAL
    with _tracer.start_as_current_span(name, context=remote, kind=kind, attributes=attributes) as started:
        yield started


def traceparent() -> str:
    """The current span as a W3C header's value; empty when nothing is traced."""
    carrier: dict[str, str] = {}
    _w3c.inject(carrier)
    return carrier.get("traceparent", "")
