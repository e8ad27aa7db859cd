"""One running service, a known handful of requests over every protocol, and what all that watches it says of them."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from backends.lakehouse.catalog import Lakehouse
from backends.online_store import open_store
from backends.request_logs import carry_requests
from backends.settings import ROOT, Settings
from bento.open_inference.client import GrpcInferenceClient, RestInferenceClient
from models.encoding import encode_arrow, encode_rows
from models.errors import ContractError
from models.scoring import Scorer
from tests.bento.conftest import FRESH, STALE, STALE_KEY
from tests.bento.observing.collector import collecting
from tests.bento.observing.test_metrics import samples
from tests.serving import free_port, running
from tests.tiny_model import tiny_contract, tiny_rows

ROWS = tiny_rows(tiny_contract(), 200)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass(frozen=True)
class Seen:
    """What was answered, and what the metrics, the log, the collector of traces and the table say of it."""

    answers: dict[str, dict[str, Any]]
    metrics: bytes
    lines: list[str]
    spans: list[Any]
    settings: Settings

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        return samples(self.metrics, name)


def ask(url: str, grpc: str) -> dict[str, dict[str, Any]]:
    """Make the requests; return their answers by request id."""
    answers = {}

    def post(name: str, route: str = "/predict", content: bytes | None = None, **body: Any) -> None:
        sent = json.dumps(body).encode() if content is None else content
        headers = {"X-Request-ID": name, "Content-Type": "application/json", "traceparent": TRACEPARENT}
        answers[name] = httpx.post(f"{url}{route}", content=sent, headers=headers).json()

    for i in range(3):
        post(f"key {i}", customer_id=i)
    post("stale", customer_id=STALE_KEY)
    post("features", features=ROWS[7])
    post("overridden", customer_id=8, features={"plan": "pro", "balance": 12.5})
    post("nobody", customer_id=999)
    post("wrong", customer_id=1, features={"age_years": 3})
    post("no JSON", content=b"{")
    post("too long", content=b"[" + b" " * (2 << 20) + b"]")
    rows = [{"customer_id": 20}, {"customer_id": 999}, {"features": ROWS[21]}, {"customer_id": 1.5}]
    post("many", "/predict_many", rows=rows)
    httpx.post(f"{url}/predict", content=b"{}", headers={"Content-Type": "text/plain"})
    with RestInferenceClient("tiny", url) as rest, GrpcInferenceClient("tiny", grpc) as remote:
        rest.infer({"customer_id": [30, 31]})
        remote.infer({"customer_id": [40]})
        for client in (rest, remote):
            with pytest.raises(ContractError):
                client.infer({"customer_id": [1], "age_years": [3.0]})
    return answers


@pytest.fixture(scope="module")
def seen(bento, tmp_path_factory) -> Seen:
    event_times = np.full(200, FRESH)
    event_times[STALE_KEY] = STALE
    batch = np.arange(200), encode_rows(tiny_contract(), ROWS), event_times
    port, grpc = free_port(), free_port()
    with collecting() as collector:
        settings = Settings(
            home=tmp_path_factory.mktemp("seen"),
            grpc_port=grpc,
            request_log_sample=1.0,
            log_format="json",
            access_log="all",
            otlp_endpoint=collector.url,
            trace_sample=0.0,  # but the caller samples
        )
        open_store(settings.online, "tiny").load(tiny_contract(), [batch], {})
        with running(bento, settings, port) as url:
            answers = ask(url, f"127.0.0.1:{grpc}")
            metrics = httpx.get(f"{url}/metrics").content
    lines = (settings.home / f"api-{port}.log").read_text().splitlines()
    return Seen(answers, metrics, lines, collector.spans(), settings)


# --- metrics --------------------------------------------------------------------------------------------------------


def test_every_request_is_counted_by_protocol_and_status(seen):
    assert seen.of("tandem_requests_total") == {
        ("rest", "200"): 7,
        ("rest", "404"): 1,
        ("rest", "413"): 1,
        ("rest", "415"): 1,
        ("rest", "422"): 2,
        ("oip_rest", "200"): 1,
        ("oip_rest", "422"): 1,
        ("oip_grpc", "200"): 1,
        ("oip_grpc", "422"): 1,
    }


def test_errors_are_counted_by_kind_those_of_single_rows_too(seen):
    assert seen.of("tandem_errors_total") == {
        ("EntityNotFoundError",): 2,
        ("UnsupportedMediaType",): 1,
        ("ValueRejectedError",): 5,
    }


def test_every_stage_of_a_scored_request_is_timed(seen):
    counts = seen.of("tandem_stage_duration_seconds_count")
    scored, looked_up, read = 7 + 1 + 1, 6 + 1 + 1, 7 + 1 + 1
    assert counts["score",] == counts["reply",] == scored
    assert counts["lookup",] == looked_up + 1  # for nobody too
    assert counts["parse",] >= read
    sums = seen.of("tandem_stage_duration_seconds_sum")
    assert 0 < sum(sums.values()) <= sum(seen.of("tandem_request_duration_seconds_sum").values())
    assert seen.of("tandem_request_duration_seconds_count") == {("rest",): 11, ("oip_rest",): 2, ("oip_grpc",): 2}
    assert "0.0001" in {bound for bound, _ in seen.of("tandem_stage_duration_seconds_bucket")}


def test_scores_and_the_ages_of_features_have_distributions(seen, onnx):
    rows = [ROWS[i] for i in (0, 1, 2, STALE_KEY, 7, 20, 21, 30, 31, 40)]
    rows.append(ROWS[8] | {"plan": "pro", "balance": 12.5})
    scores = Scorer(onnx).score(encode_rows(tiny_contract(), rows)).astype(np.float64)
    assert seen.of("tandem_score_count") == {(): 11}
    assert seen.of("tandem_score_sum")[()] == pytest.approx(scores.sum())
    buckets = seen.of("tandem_score_bucket")
    for bound in (0.05, 0.5, 0.95):
        assert buckets[str(bound),] == np.count_nonzero(scores <= bound)
    ages = seen.of("tandem_feature_age_seconds_bucket")
    assert (ages["86400.0",], ages["+Inf",]) == (8, 9)  # all but the stale one are of today


def test_the_model_is_named_in_full(seen, lineage):
    (labels,) = [line for line in seen.metrics.decode().splitlines() if line.startswith("tandem_model_info{")]
    assert f'model_sha256="{lineage.sha256}"' in labels
    assert 'model_version="3"' in labels


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_a_service_has(seen):
    text = seen.metrics.decode()
    exported = set(re.findall(r"^(\w+)(?:\{| )", text, re.MULTILINE))
    labels = set(re.findall(r'(\w+)="', text))
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "api.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    queries += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    queries += [note["expr"] for note in dashboard["annotations"]["list"]]
    queries.append(dashboard["templating"]["list"][1]["definition"])
    assert len(queries) > 20
    for query in queries:
        named = set(re.findall(r"tandem_\w+", query))
        assert named, query
        assert named <= exported, query
        used = {name for names in re.findall(r"by \(([^)]*)\)", query) for name in names.split(", ")}
        used |= set(re.findall(r"[{,] *(\w+)(?:=|!=|=~)\"", query))
        assert used <= labels, query


def test_every_panel_has_its_own_place(seen):
    panels = json.loads((ROOT / "deploy" / "grafana" / "api.json").read_text())["panels"]
    cells = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert set(cells.values()) == {1}
    assert len({panel["id"] for panel in panels}) == len(panels)


# --- logs -----------------------------------------------------------------------------------------------------------


def test_the_log_is_json_and_has_a_line_for_each_request_that_reached_the_service(seen):
    read = [json.loads(line) for line in seen.lines if line.startswith("{")]
    assert len(read) >= len(seen.lines) - 2  # the supervisor's own
    access = [line for line in read if line["logger"] == "tandem.access"]
    assert Counter((line["protocol"], line["status"]) for line in access) == {
        ("rest", 200): 7,
        ("rest", 404): 1,
        ("rest", 415): 1,
        ("rest", 422): 2,
        ("oip_rest", 200): 1,
        ("oip_rest", 422): 1,
        ("oip_grpc", 200): 1,
        ("oip_grpc", 422): 1,
    }
    by_id = {line["request_id"]: line for line in access}
    assert (by_id["many"]["rows"], by_id["many"]["errors"]) == (2, "EntityNotFoundError,ValueRejectedError")
    assert by_id["nobody"]["errors"] == "EntityNotFoundError"
    assert by_id["key 0"]["ms"] > 0


def test_a_line_says_nothing_of_what_a_request_was_about(seen):
    access = [json.loads(line) for line in seen.lines if "tandem.access" in line]
    known = {"time", "level", "logger", "message", "request_id", "protocol", "status", "ms", "rows", "errors"}
    assert {name for line in access for name in line} == known
    assert not any(name in line for line in seen.lines for name in ("customer_id", "age_years"))


# --- traces ---------------------------------------------------------------------------------------------------------


def test_the_requests_of_a_caller_who_samples_are_traced_below_the_callers_span(seen):
    _, trace, caller, _ = TRACEPARENT.split("-")
    requests = {attribute_of(span, "request_id"): span for span in seen.spans if span.name == "predict"}
    assert set(requests) == set(seen.answers) - {"too long"}
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in requests.values()} == {(trace, caller)}
    stages = [span.name for span in seen.spans if span.parent_span_id == requests["key 0"].span_id]
    assert stages == ["parse", "lookup", "score", "reply"]
    assert attribute_of(requests["many"], "rows") == "2"
    assert requests["nobody"].status.message == "EntityNotFoundError"


def attribute_of(span: Any, name: str) -> str:
    (value,) = [attribute.value for attribute in span.attributes if attribute.key == name]
    return value.string_value or str(value.int_value)


# --- requests -------------------------------------------------------------------------------------------------------


def test_every_answered_row_lands_in_iceberg_once_and_scores_to_the_same_bits(seen, onnx, lineage):
    folder = seen.settings.request_log_of("tiny")
    with Lakehouse.open(seen.settings) as lake:
        first = carry_requests(lake, "silver.tiny_requests", folder)
        again = carry_requests(lake, "silver.tiny_requests", folder)
        table = lake.read("silver.tiny_requests")
    assert (first.rows, first.bad_lines, again.files) == (11, 0, 0)
    rows = {(row["request_id"], row["position"]): row for row in table.to_pylist()}
    ours = {place: row for place, row in rows.items() if row["protocol"] == "rest"}
    names = ("key 0", "key 1", "key 2", "stale", "features", "overridden")
    assert set(ours) == {*((name, 0) for name in names), ("many", 0), ("many", 2)}
    scores = Scorer(onnx).score(encode_arrow(tiny_contract(), table))
    np.testing.assert_array_equal(scores, table["tiny_probability"].to_numpy())
    for name in names:
        row, answer = rows[name, 0], seen.answers[name]
        assert np.float32(answer["probability"]) == np.float32(row["tiny_probability"])
        assert (answer["decision"], answer["features_stale"]) == (row["tiny_predicted"], row["features_stale"])
        assert answer.get("customer_id") == row["customer_id"]
        assert (row["model_version"], row["model_sha256"]) == (3, lineage.sha256)
    assert (rows["overridden", 0]["plan"], rows["overridden", 0]["balance"]) == ("pro", 12.5)
    assert rows["features", 0]["features_as_of"] is None
    assert np.datetime64(rows["stale", 0]["features_as_of"].replace(tzinfo=None)) == STALE
    assert rows["many", 2]["customer_id"] is None
    assert Counter(row["protocol"] for row in rows.values()) == {"rest": 8, "oip_rest": 2, "oip_grpc": 1}
    assert sorted(row["customer_id"] for row in rows.values() if row["protocol"] != "rest") == [30, 31, 40]


def test_what_became_of_the_logged_rows_is_counted(seen):
    outcomes = seen.of("tandem_logged_rows_total")
    assert outcomes["written",] <= 11  # the rest was written after the scrape
    assert (outcomes["dropped",], outcomes["failed",]) == (0, 0)
