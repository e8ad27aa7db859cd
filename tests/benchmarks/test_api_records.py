"""From measured points to records, bars, a picture and a page."""

import json
import os
import sys
from dataclasses import asdict, replace

import numpy as np
import psutil
import pytest
from typer import BadParameter

from benchmarks.api import main
from benchmarks.api_bars import Bar, bars_of
from benchmarks.api_load import write_bodies
from benchmarks.api_pages import PAGE, filled, tables
from benchmarks.api_requests import Repeated
from benchmarks.api_rounds import Asked, Point, Record, measure, memory_of, percentiles, worker_of
from benchmarks.api_systems import free_port
from benchmarks.plots import waits
from benchmarks.processes import serving
from models.errors import TandemError

NEEDED = ["system", "store", "rate", "requests_per_second", "p50_ms", "p99_ms", "p999_ms", "errors", "rss_mb"]
POINTS = [Point("null", "none", 0, 2, 0.2), Point("null", "none", 100, 8, 0.2)]


@pytest.fixture(scope="module")
def null(tmp_path_factory):
    """A server that answers `{}` to everything, and how it is asked."""
    folder, port = tmp_path_factory.mktemp("null"), free_port()
    write_bodies(folder / "bodies", [b"{}"])
    command = [sys.executable, "-m", "benchmarks.api_null", str(port)]
    with serving(command, os.environ, folder / "log", lambda: _listens(port)) as (pid, seconds):
        assert seconds > 0
        requests = Repeated(str(folder / "bodies"), [2.0])
        yield Asked("http", port, "/", requests, pid, lambda answer: float(len(answer)))


def _listens(port: int) -> bool:
    return any(c.laddr.port == port and c.status == "LISTEN" for c in psutil.net_connections("tcp"))


@pytest.fixture(scope="module")
def records(null) -> list[Record]:
    said = []
    found = measure(POINTS, {("null", "none"): null}, 2, said.append)
    assert len(said) == 4
    return found


def test_a_record_has_what_is_asked_of_it(records):
    assert [(record.rate, record.connections) for record in records] == [(0, 2), (100, 8)]
    for record in records:
        written = json.loads(json.dumps(asdict(record)))
        assert written.keys() >= set(NEEDED)
        assert 0 < written["p50_ms"] <= written["p99_ms"] <= written["p999_ms"]
        assert len(record.p99_ms_of_rounds) == 2
        assert (record.errors, record.statuses, record.mapped_mb) == (0, {}, 0)
        assert record.rss_mb > 5
        assert 0 < record.checked <= record.requests
    assert records[1].requests == 40


def test_a_wrong_answer_ends_the_measurement(null):
    path, _ = null.requests.bodies(0, 1)
    wrong = replace(null, requests=Repeated(path, [np.nextafter(np.float32(2), np.float32(3))]))
    with pytest.raises(TandemError, match=r"null on none answers 2\.0 to request 0 of its file"):
        measure(POINTS[1:], {("null", "none"): wrong}, 1, lambda _: None)


def test_percentiles_are_times_that_were_measured():
    waited = list(range(1000, 2001))
    assert percentiles(waited, 50, 99, 100) == [1.5, 1.99, 2.0]
    assert percentiles([3, 10_000], 50, 99) == [10.0, 10.0]
    assert percentiles([], 50, 99) == [0.0, 0.0]


def test_the_worker_is_the_process_that_worked(null):
    worker, seconds = worker_of(null.pid, {})
    assert worker.pid == null.pid
    assert seconds > 0
    resident, mapped = memory_of(worker)
    assert resident > 5
    assert mapped == 0


def test_a_server_that_ends_is_named_with_what_it_said(tmp_path):
    broken = [sys.executable, "-c", "raise SystemExit('no such port')"]
    with pytest.raises(TandemError, match="no such port"), serving(broken, os.environ, tmp_path / "log", lambda: False):
        pass


# --- what is reached ------------------------------------------------------------------------------------------------


def record_of(system: str, store: str, rate: int, **figures: float) -> dict:
    usual = {"requests_per_second": 1000.0, "p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 20.0, "errors": 0, "rss_mb": 250.0}
    rest = {"connections": 64 if rate else 1, "mapped_mb": 20.0}
    return {"system": system, "store": store, "rate": rate} | usual | rest | figures


def verdicts(*records: dict, starts: tuple[dict, ...] = ()) -> dict[str, bool]:
    return {bar.name: bar.reached for bar in bars_of(records, starts)}


def test_everything_that_the_issue_asks_for_is_judged():
    starts = [{"system": "tandem", "store": "lmdb", "seconds": s} for s in (3.0, 7.0, 4.0)]
    records = [record_of("tandem-rest", "lmdb", rate) for rate in (0, 100, 300, 600, 1000)]
    records += [record_of("bare", "lmdb", 0), record_of("mlflow", "none", 0, requests_per_second=60.0)]
    reached = verdicts(*records, starts=tuple(starts))
    assert all(reached.values())
    assert list(reached) == [
        "tandem-rest on lmdb: p99 without queueing",
        "tandem-rest on lmdb: p99 at 300/s",
        "tandem-rest on lmdb: p99.9 at 300/s",
        "tandem-rest on lmdb: errors at 300/s",
        "worker's memory on lmdb",
        "tandem-rest / mlflow on lmdb, 1 connection",
        "tandem-rest / bare on lmdb, 1 connection",
        "cold start to ready, median of 3",
    ]


@pytest.mark.parametrize(
    ("record", "missed"),
    [
        (record_of("tandem-grpc", "redis", 300, p99_ms=15.001), "tandem-grpc on redis: p99 at 300/s"),
        (record_of("tandem-oip", "lmdb", 300, p999_ms=30.001), "tandem-oip on lmdb: p99.9 at 300/s"),
        (record_of("tandem-rest", "lmdb", 300, errors=1), "tandem-rest on lmdb: errors at 300/s"),
        (record_of("tandem-rest", "lmdb", 0, p99_ms=3.001), "tandem-rest on lmdb: p99 without queueing"),
        (record_of("tandem-rest", "lmdb", 100, rss_mb=320.1), "worker's memory on lmdb"),
    ],
)
def test_what_is_over_its_limit_is_missed(record, missed):
    reached = verdicts(record)
    assert [name for name, held in reached.items() if not held] == [missed]


def test_nothing_was_answered_is_not_taken_for_fast():
    silent = record_of("tandem-oip", "lmdb", 300, requests_per_second=0.0, p99_ms=0.0, p999_ms=0.0, errors=1200)
    assert not any(held for name, held in verdicts(silent).items() if "300/s" in name)


def test_a_ratio_has_to_be_at_least_its_limit():
    assert Bar("x", 0.5, 0.5, "x", at_least=True).reached
    assert not Bar("x", 0.49, 0.5, "x", at_least=True).reached


# --- the page and the picture ---------------------------------------------------------------------------------------


@pytest.fixture
def facts() -> dict:
    shown = [record_of(system, "lmdb", rate) for system in ("tandem-rest", "bare") for rate in (0, 100, 300)]
    shown += [record_of("mlflow", "none", rate, p99_ms=900.0) for rate in (0, 100, 300)]
    starts = [{"system": "tandem", "store": "lmdb", "seconds": 3.0}]
    machine = {"processor": "A CPU", "cores": 2, "instructions": ["avx2"], "python": "3.11", "versions": {"numpy": "2"}}
    return {
        "machine": machine,
        "model": "churn",
        "rows": 5_000_000,
        "what": "customers",
        "records": shown,
        "saturated": [record_of("tandem-rest", "lmdb", 0, connections=8)],
        "load": [record_of("null", "none", 1000)],
        "starts": starts,
        "bars": [asdict(bar) | {"reached": bar.reached} for bar in bars_of(shown, starts)],
    }


def test_the_tables_stand_between_their_markers_on_the_page(facts):
    page = filled(PAGE.read_text(), tables(facts))
    assert filled(page, tables(facts)) == page
    assert "| `mlflow` | none | 300 | 1,000 | 1.00 | 900.00 | 20.00 | 0 | 230 |" in page
    assert "| tandem-rest on lmdb: p99 at 300/s | 2 ms | at most 15 ms | reached |" in page
    assert "5,000,000 customers; A CPU, 2 cores, avx2; Python 3.11, numpy 2." in page
    with pytest.raises(TandemError, match="no markers"):
        filled("# A page", "a table")


def test_each_model_has_markers_and_a_picture_of_its_own(facts):
    of_fraud = tables(facts | {"model": "fraud", "rows": 2_000_000, "what": "card swipes"})
    assert "2,000,000 card swipes; A CPU" in of_fraud
    assert "(images/bench_api_fraud.png)" in of_fraud
    assert "(images/bench_api.png)" in tables(facts)
    page = "".join(f"<!-- {name}: begin -->\n<!-- {name}: end -->\n" for name in ("bench-api", "bench-api-fraud"))
    both = filled(filled(page, "of fraud", "bench-api-fraud"), "of churn")
    assert both.split("\n") == [
        *("<!-- bench-api: begin -->", "", "of churn", "<!-- bench-api: end -->"),
        *("<!-- bench-api-fraud: begin -->", "", "of fraud", "<!-- bench-api-fraud: end -->", ""),
    ]


@pytest.mark.parametrize("stores", [("lmdb",), ("lmdb", "redis")])
def test_the_picture_has_a_panel_for_each_store(facts, tmp_path, stores):
    others = [record | {"store": store} for record in facts["records"] for store in stores if record["store"] != "none"]
    waits([*others, *(record for record in facts["records"] if record["store"] == "none")], tmp_path / "waits.png")
    assert (tmp_path / "waits.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_the_demo_has_not_is_named():
    with pytest.raises(BadParameter, match=r"no such model: nobody\. There are: churn, fraud"):
        main(model="nobody")
