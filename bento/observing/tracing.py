"""OpenTelemetry traces of requests, by setting: a span for a request and one for each of its stages.

Spans are made when a request is done, from times that are measured anyway: without a collector there is no cost, and a
request that is not sampled costs one decision. The caller's `traceparent` is honoured: its sample is ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from backends.settings import Settings
from bento.lineage import Lineage
from models.errors import TandemError

TRACE_CONTEXT = ("traceparent", "tracestate")  # headers of the W3C
SEND_SECONDS = 5


class Tracing:
    """The traces of one worker."""

    def __init__(self, lineage: Lineage, share: float, processor: SpanProcessor) -> None:
        facts = {"service.name": f"tandem-{lineage.model}", "service.version": lineage.version}
        sampler = ParentBased(TraceIdRatioBased(share))
        # The worker closes it; at the end of the interpreter it would be too late to send anything.
        self._provider = TracerProvider(sampler, Resource.create(facts), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tandem")
        self._facts = {"model": lineage.model, "model_version": lineage.version, "model_sha256": lineage.sha256}
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def open(cls, settings: Settings, lineage: Lineage) -> Self:
        """Return what sends traces to the settings' collector.

        `TandemError` when the package that sends them is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise TandemError(
                f"Traces cannot be sent to {settings.traces}: opentelemetry-exporter-otlp-proto-http is not installed. "
                "Install it, or unset TANDEM_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_ENDPOINT."
            ) from error
        exporter = OTLPSpanExporter(f"{settings.traces.rstrip('/')}/v1/traces", timeout=SEND_SECONDS)
        return cls(lineage, settings.trace_sample, BatchSpanProcessor(exporter))

    def record(
        self,
        begun: int,
        marks: Sequence[tuple[str, int]],
        ended: int,
        facts: Mapping[str, Any],
        headers: Iterable[tuple[Any, Any]] = (),
        error: str | None = None,
    ) -> None:
        """Record a request: when it began and ended, and the end of each stage in order, in nanoseconds since 1970.

        `error` is the class of what went wrong.
        """
        span = self._tracer.start_span("predict", self._parent(headers), SpanKind.SERVER, start_time=begun)
        if span.is_recording():
            span.set_attributes({**self._facts, **facts})
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, error))
            inside, start = trace.set_span_in_context(span), begun
            for stage, end in marks:
                self._tracer.start_span(stage, inside, start_time=start).end(end)
                start = end
            span.end(ended)

    def _parent(self, headers: Iterable[tuple[Any, Any]]) -> Context:
        given = ((_text(name), value) for name, value in headers)
        return self._propagator.extract(
            {name: _text(value) for name, value in given if name in TRACE_CONTEXT}, Context()
        )

    def close(self) -> None:
        """Send what waits, and stop."""
        self._provider.shutdown()


def _text(header: str | bytes) -> str:
    return header if isinstance(header, str) else header.decode("latin-1")
