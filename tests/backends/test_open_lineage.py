"""Events on their way out: as OpenLineage's specification has them, in order, and without a secret in any message."""

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backends.open_lineage import Collector, Column, Dataset, Job, RunEvent, as_open_lineage, place_of
from backends.settings import Settings
from models.errors import LineageError
from tests.collectors import collecting, problems
from tests.serving import free_port

NIGHT = datetime(2026, 11, 21, 2, 0, 1, 500_000, UTC)
RUN, PART = "0b6cf3d4-6f0a-4a27-9ad8-4d2f6b1f1a10", "1f6e7a52-93ce-5d5c-8a24-0b8f62c1e7aa"
CUSTOMERS: Any = ("s3://lake", "silver/active_customers")
SECRET = "not-for-anybodys-eyes"

POPULATION = Dataset(CUSTOMERS, version="7", table="silver.active_customers", catalog="https://catalog")
GOLD = Dataset(
    ("s3://lake", "gold/churn_predictions"),
    description="One row for each customer and day.",
    version="8170927402156543211",
    table="gold.churn_predictions",
    catalog="https://catalog",
    address="s3://lake/gold/churn_predictions",
    owners=("team:growth",),
    columns=(
        Column("customer_id", "long", "The customer.", ((CUSTOMERS, "customer_id"),)),
        Column("churn_probability", "float", None, ((CUSTOMERS, "tenure_months"), (CUSTOMERS, "plan"))),
        Column("scored_on", "date"),
    ),
    rows=5_000_000,
    bytes=31_000_000,
    model={"sha256": "ab" * 32, "version": "7"},
)
SCORED = RunEvent(
    "COMPLETE",
    NIGHT,
    PART,
    Job("gold.churn_predictions", "ASSET", "One row for each customer and day."),
    parent=(RUN, "churn_nightly"),
    nominal=(NIGHT.replace(hour=0, second=0, microsecond=0), NIGHT.replace(hour=0, second=0) + timedelta(days=1)),
    inputs=(POPULATION,),
    outputs=(GOLD,),
)
FAILED = RunEvent("FAIL", NIGHT, RUN, Job("churn_nightly", "JOB"), error="The audit failed.")


def sent(events, **settings: Any) -> list[str]:
    with Collector.of(Settings(**settings)) as collector:
        return collector.send(events)


def written(event: RunEvent) -> dict[str, Any]:
    from openlineage.client.serde import Serde

    return json.loads(Serde.to_json(as_open_lineage(event, "tandem")))


@pytest.mark.parametrize("event", [SCORED, FAILED], ids=lambda event: event.state)
def test_an_event_is_as_the_specification_has_it(event):
    assert problems(written(event)) == []


def test_an_event_without_what_the_specification_requires_is_found():
    event = written(SCORED)
    del event["outputs"][0]["facets"]["version"]["datasetVersion"]
    event["run"]["runId"] = "tonight"
    event["outputs"][0]["facets"]["unknown"] = {}
    assert len(problems(event)) == 3


def test_a_published_partition_says_what_it_is():
    event = written(SCORED)
    assert (event["eventType"], event["eventTime"]) == ("COMPLETE", "2026-11-21T02:00:01.500+00:00")
    assert event["job"]["namespace"] == "tandem"
    assert event["run"]["facets"]["parent"]["run"]["runId"] == RUN
    (gold,) = event["outputs"]
    assert (gold["namespace"], gold["name"]) == GOLD.place
    facets = gold["facets"]
    assert facets["version"]["datasetVersion"] == "8170927402156543211"
    assert facets["tandem_model"]["sha256"] == "ab" * 32
    assert [column["name"] for column in facets["schema"]["fields"]] == [
        "customer_id",
        "churn_probability",
        "scored_on",
    ]
    made_of = facets["columnLineage"]["fields"]["churn_probability"]["inputFields"]
    assert [(field["namespace"], field["name"], field["field"]) for field in made_of] == [
        (*CUSTOMERS, "tenure_months"),
        (*CUSTOMERS, "plan"),
    ]
    assert "scored_on" not in facets["columnLineage"]["fields"]
    assert (gold["outputFacets"]["outputStatistics"]["rowCount"], GOLD.rows) == (5_000_000, 5_000_000)
    assert facets["symlinks"]["identifiers"][0]["name"] == "gold.churn_predictions"


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("file:///srv/lake/gold/scores", ("file", "/srv/lake/gold/scores")),
        ("/srv/lake/gold/scores", ("file", "/srv/lake/gold/scores")),
        ("s3://lake/tandem/gold/scores", ("s3://lake", "tandem/gold/scores")),
        (f"abfss://user:{SECRET}@store/gold/scores", ("abfss://store", "gold/scores")),
    ],
)
def test_a_table_is_named_by_where_its_files_are(location, place):
    assert place_of(location) == place


def test_events_are_appended_to_a_file_in_their_order(tmp_path):
    path = tmp_path / "made" / "lineage.jsonl"
    assert sent([SCORED], openlineage=str(path)) == []
    assert sent([FAILED], openlineage=f"file://{path}") == []
    assert [json.loads(line)["eventType"] for line in path.read_text().splitlines()] == ["COMPLETE", "FAIL"]


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("", "/api/v1/lineage"),
        ("/", "/api/v1/lineage"),
        ("/openapi/openlineage", "/openapi/openlineage/api/v1/lineage"),
        ("/other/v2/lineage", "/other/v2/lineage"),
    ],
)
def test_a_collector_is_asked_where_the_specification_says(address, path):
    with collecting() as collector:
        assert sent([SCORED, FAILED], openlineage=collector.url + address, openlineage_key=SECRET) == []
    assert [event["eventType"] for event in collector.events] == ["COMPLETE", "FAIL"]
    assert set(collector.paths) == {path}
    assert set(collector.keys) == {f"Bearer {SECRET}"}


def test_without_a_key_none_is_sent():
    with collecting() as collector:
        sent([FAILED], openlineage=collector.url)
    assert collector.keys == [None]


def test_an_event_that_is_refused_for_good_is_named_and_the_others_go_on():
    with collecting() as collector:
        collector.answer = lambda event: 422 if event["eventType"] == "FAIL" else 201
        assert sent([FAILED, SCORED], openlineage=collector.url) == [f"FAIL of churn_nightly, run {RUN}: status 422"]
    assert [event["eventType"] for event in collector.events] == ["COMPLETE"]


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_collector_that_is_not_ready_is_an_error_and_ends_the_sending(status):
    with collecting() as collector:
        collector.answer = lambda _: status
        with pytest.raises(LineageError, match=f"answers with status {status}. Nothing is lost"):
            sent([SCORED, FAILED], openlineage=collector.url)


def test_no_message_and_no_log_has_a_secret(caplog):
    caplog.set_level(logging.INFO)
    told = []
    with collecting() as collector:
        collector.answer = lambda _: 403
        alive = collector.url.removeprefix("http://")
        for place in (alive, f"127.0.0.1:{free_port()}"):
            address = f"http://user:{SECRET}@{place}/?token={SECRET}"
            with pytest.raises(LineageError, match=place) as caught:
                sent([FAILED], openlineage=address, openlineage_key=SECRET)
            told += [str(caught.value), repr(caught.value.__cause__)]
    assert SECRET not in "".join(told) + caplog.text
    assert SECRET not in repr(Settings(openlineage=f"http://user:{SECRET}@host", openlineage_key=SECRET))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"kafka://user:{SECRET}@broker:9092", "neither http"),
        ("/proc/lineage/events.jsonl", "cannot be made"),
        ("/", "does not take events"),
    ],
)
def test_what_is_no_place_for_events_is_refused(address, said):
    with pytest.raises(LineageError, match=said) as caught:
        sent([FAILED], openlineage=address)
    assert SECRET not in str(caught.value)
