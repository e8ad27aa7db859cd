"""The cost report: what was measured, at the declared price; what is not known is said, and never guessed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest

from assets.costs import costs
from assets.resources import Backends
from backends.nights import published_nights
from bento.lineage import Lineage
from bento.observing.metrics import Metrics
from models.declaration import Declaration
from tests.backends.nights import customers
from tests.lives import TINY, changed, declare, promoted, reason_of, run_job, silent_instance, write_table
from tests.tiny_model import tiny_contract

GOLD, ROWS = "gold.tiny_predictions", 600
FRIDAY, SATURDAY = date(2026, 11, 20), date(2026, 11, 21)
LINEAGE = Lineage(model="tiny", version="1", sha256="ab" * 32)


@pytest.fixture
def tiny(home) -> Declaration:
    declared = declare(home, TINY, costs={"cpu_hour": 3.6, "currency": "EUR"})
    promoted(home, tiny_contract())
    write_table(home, "silver.active_customers", customers(ROWS))
    return declared


@pytest.fixture
def scored(home, instance, tiny) -> Declaration:
    done = run_job(home, instance, "tiny_nightly", FRIDAY, ["gold/tiny_predictions"])
    assert done.success, reason_of(done)
    return tiny


def report(settings, instance, declaration, day=FRIDAY, **changes) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [costs(declaration)],
        instance=instance,
        resources={"backends": Backends(changed(settings, **changes))},
        partition_key=day.isoformat(),
        raise_on_error=False,
    )


def facts(result: dg.ExecuteInProcessResult) -> dict:
    assert result.success, reason_of(result)
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.partition == str(FRIDAY)
    return {name: value.value for name, value in event.materialization.metadata.items()}


@contextmanager
def answering(text: bytes) -> Iterator[str]:
    """Answer every request with a text on a free port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def counted(predictions: int, cpu_seconds: float) -> bytes:
    """Return what a service says that has answered so often and taken so long."""
    metrics = Metrics(LINEAGE)
    metrics.scores([0.5] * predictions)
    metrics._cpu_counted -= cpu_seconds
    return metrics.text()


def test_a_night_costs_its_cpu_time_at_the_declared_price(home, instance, scored):
    gold = instance.get_latest_materialization_event(dg.AssetKey(GOLD.split("."))).asset_materialization.metadata
    with Backends(home).lakehouse() as lake:
        snapshot = published_nights(lake, GOLD)[str(FRIDAY)]
    said = facts(report(home, instance, scored))
    assert said["rows"] == ROWS
    assert said["cpu_seconds"] == gold["cpu_seconds"].value > float(snapshot.properties["scoring_cpu_seconds"])
    assert said["money"] == pytest.approx(said["cpu_seconds"] / 1000, rel=1e-3)  # 3.6 EUR an hour
    assert said["money_per_million"] == pytest.approx(said["money"] / ROWS * 1e6, rel=1e-3)
    assert said["prices"] == "3.6 EUR for an hour of one core"
    assert (said["bytes_read"], said["bytes_written"]) == (int(snapshot.properties["bytes_read"]), snapshot.bytes_added)
    assert said["measured"] == "the whole night"
    assert said["seconds"] == gold["seconds"].value


def test_what_a_person_wants_first_comes_first(home, instance, scored):
    assert list(facts(report(home, instance, scored)))[:3] == ["money_per_million", "lanes", "api"]


def test_a_service_that_does_not_answer_is_not_guessed_at(home, instance, scored):
    said = facts(report(home, instance, scored))
    assert said["api"].startswith("Not measured. The service at http://127.0.0.1:")
    assert [record.data["lane"] for record in said["lanes"].records] == ["batch"]
    assert "api_money_per_million" not in said


def test_what_answers_and_is_no_service_of_ours_is_not_guessed_at(home, instance, scored):
    for text in (b"hello", b"# TYPE other_total counter\nother_total 3\n"):
        with answering(text) as url:
            assert "and no metrics of a Tandem service" in facts(report(home, instance, scored, api_url=url))["api"]


def test_the_running_service_stands_beside_the_night(home, instance, scored):
    with answering(counted(2000, 5.0)) as url:
        said = facts(report(home, instance, scored, api_url=url))
    batch, api = (record.data for record in said["lanes"].records)
    assert (api["lane"], api["predictions"]) == ("API", 2000)
    assert api["CPU µs each"] == pytest.approx(2500, rel=0.01)
    assert api["EUR / million"] == pytest.approx(2.5, rel=0.01)
    assert api.keys() == batch.keys()
    assert said["api_money_per_million"] == pytest.approx(2.5, rel=0.01)


def test_a_report_goes_on_where_the_last_one_ended(home, instance, scored):
    reports = []
    for predictions, seconds in [(1000, 5.0), (1500, 6.0), (1500, 6.5), (80, 0.4)]:
        with answering(counted(predictions, seconds)) as url:
            reports.append(facts(report(home, instance, scored, api_url=url)))
    rows = [[record.data for record in said["lanes"].records][1:] for said in reports]
    assert [[row["predictions"] for row in some] for some in rows] == [[1000], [500], [], [80]]
    assert rows[1][0]["CPU µs each"] == pytest.approx(2000, rel=0.05)
    said = ["All that its workers did since it was started.", "All that its workers did since the last report."]
    assert [report["api"] for report in reports[:3]] == [*said, "It answered no request since the last report."]
    assert rows[3][0]["CPU µs each"] == pytest.approx(5000, rel=0.05)  # it was started again


def test_after_a_report_without_the_service_nothing_is_counted_twice(home, instance, scored):
    with answering(counted(1000, 5.0)) as url:
        facts(report(home, instance, scored, api_url=url))
    assert facts(report(home, instance, scored))["api"].startswith("Not measured.")
    with answering(counted(1500, 6.0)) as url:
        said = facts(report(home, instance, scored, api_url=url))
    assert [record.data["predictions"] for record in said["lanes"].records][1:] == [500]


def test_the_night_itself_says_what_scoring_took_when_dagster_has_forgotten_the_run(home, scored):
    with Backends(home).lakehouse() as lake:
        said = published_nights(lake, GOLD)[str(FRIDAY)].properties
    with silent_instance() as another:
        report_of_it = facts(report(home, another, scored))
    assert report_of_it["cpu_seconds"] == float(said["scoring_cpu_seconds"])
    assert report_of_it["measured"].startswith("the scoring alone")


def test_a_day_that_is_not_published_has_no_costs(home, instance, scored):
    assert f"{GOLD!r} has no published night of {SATURDAY}" in reason_of(report(home, instance, scored, SATURDAY))
