"""Traces: the spans of a request, whose sample decides, and what goes over the wire."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from backends.settings import Settings
from bento.lineage import Lineage
from bento.observing.tracing import Tracing
from models.errors import TandemError
from tests.bento.observing.collector import collecting

LINEAGE = Lineage(model="tiny", version="3", sha256="ab" * 32)
BEGUN = 1_795_600_000_000_000_000
MARKS = [("parse", BEGUN + 10_000), ("lookup", BEGUN + 30_000), ("score", BEGUN + 90_000), ("reply", BEGUN + 100_000)]
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def record(exporter, sample=1.0, headers=(), error=None, status=200):
    tracing = Tracing(LINEAGE, sample, SimpleSpanProcessor(exporter))
    tracing.record(BEGUN, MARKS, BEGUN + 100_000, {"protocol": "rest", "status": status}, headers, error)
    tracing.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_is_a_span_and_its_stages_are_spans_in_it(exporter):
    spans = record(exporter)
    request = spans.pop("predict")
    assert (request.start_time, request.end_time, request.parent) == (BEGUN, BEGUN + 100_000, None)
    assert list(spans) == ["parse", "lookup", "score", "reply"]
    assert {span.parent.span_id for span in spans.values()} == {request.context.span_id}
    assert [(spans[name].start_time, spans[name].end_time) for name in spans] == [
        (BEGUN, BEGUN + 10_000),
        (BEGUN + 10_000, BEGUN + 30_000),
        (BEGUN + 30_000, BEGUN + 90_000),
        (BEGUN + 90_000, BEGUN + 100_000),
    ]
    assert request.attributes["model_version"] == "3"
    assert request.attributes["model_sha256"] == LINEAGE.sha256
    assert request.resource.attributes["service.name"] == "tandem-tiny"


def test_an_error_is_said_by_its_class(exporter):
    status = record(exporter, error="EntityNotFoundError", status=404)["predict"].status
    assert (status.status_code, status.description) == (StatusCode.ERROR, "EntityNotFoundError")


@pytest.mark.parametrize("kind", [str, str.encode], ids=["gRPC's metadata", "ASGI's headers"])
def test_a_callers_trace_goes_on_here(exporter, kind):
    headers = [(kind("content-type"), kind("x")), (kind("traceparent"), kind(f"00-{TRACE}-{SPAN}-01"))]
    request = record(exporter, sample=0.0, headers=headers)["predict"]
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == SPAN


@pytest.mark.parametrize("traceparent", [f"00-{TRACE}-{SPAN}-00"])
def test_a_caller_who_does_not_sample_decides_for_us(exporter, traceparent):
    assert record(exporter, headers=[(b"traceparent", traceparent.encode())]) == {}


@pytest.mark.parametrize("traceparent", [b"", b"nonsense", b"\xff\xfe", b"00-0-0-01"])
def test_a_traceparent_that_is_none_is_ignored(exporter, traceparent):
    assert record(exporter, headers=[(b"traceparent", traceparent)])["predict"].parent is None


def test_without_a_callers_word_a_share_is_traced(exporter):
    assert record(exporter, sample=0.0) == {}


def test_no_address_is_no_traces_and_the_standard_variable_is_one(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert Settings().traces == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert Settings().traces == "http://127.0.0.1:4318"
    assert Settings(otlp_endpoint="http://127.0.0.1:1").traces == "http://127.0.0.1:1"


def test_an_exporter_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(TandemError, match="opentelemetry-exporter-otlp-proto-http is not installed"):
        Tracing.open(Settings(otlp_endpoint="http://127.0.0.1:1"), LINEAGE)


def test_spans_go_to_the_collector_as_otlp():
    with collecting() as collector:
        tracing = Tracing.open(Settings(otlp_endpoint=f"{collector.url}/", trace_sample=1.0), LINEAGE)
        tracing.record(BEGUN, MARKS, BEGUN + 100_000, {"protocol": "rest"})
        tracing.close()
    ((path, content_type, _),) = collector.taken
    assert (path, content_type) == ("/v1/traces", "application/x-protobuf")
    assert sorted(span.name for span in collector.spans()) == ["lookup", "parse", "predict", "reply", "score"]
