"""Every run is told, once, in order, whatever becomes of the collector; and nothing of it can fail a night."""

import json
from typing import Any

import dagster as dg
import pytest

from assets.resources import Backends
from backends.settings import Settings
from models.errors import LineageError
from orchestration.sensors import open_lineage
from tests.backends.nights import customers
from tests.collectors import collecting, problems
from tests.lives import TINY, changed, declare, write_table
from tests.serving import free_port

POPULATION = "silver.active_customers"
STORY = ["START assets", "START tiny.thing", "COMPLETE tiny.thing", "COMPLETE assets"]


@dg.asset(key=["tiny", "thing"], deps=[POPULATION.split(".")], description="A thing.", owners=["team:growth"])
def thing() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"dagster/row_count": 3}, data_version=dg.DataVersion("v1"))


@dg.asset(key=["tiny", "broken"])
def broken() -> None:
    raise dg.Failure("The gate says no.")


SOURCE = dg.AssetSpec(POPULATION.split("."), metadata={"dagster/table_name": POPULATION})


@pytest.fixture(autouse=True)
def _records_settle_at_once(monkeypatch):
    monkeypatch.setattr(open_lineage, "SETTLED_SECONDS", 0.0)


@pytest.fixture
def sensor(home) -> dg.SensorDefinition:
    return open_lineage.open_lineage([declare(home, TINY)])


@pytest.fixture
def tick(home, instance, sensor):
    """Evaluate the sensor as Dagster does; give what it says, and keep its cursor unless it fails."""
    cursors = [None]

    def evaluate(address: str, **settings: Any) -> str:
        resources = {"backends": Backends(changed(home, openlineage=address, **settings))}
        definitions = dg.Definitions(assets=[SOURCE, thing, broken])
        with dg.build_sensor_context(instance, cursors[-1], definitions=definitions, resources=resources) as context:
            result = sensor.evaluate_tick(context)
        cursors.append(result.cursor)
        assert not result.run_requests
        return result.skip_message or ""

    return evaluate


def run(instance: dg.DagsterInstance, *assets: dg.AssetsDefinition) -> str:
    """Run assets as somebody does in the UI; return the run's id."""
    definitions = dg.Definitions(assets=[SOURCE, thing, broken])
    job = definitions.resolve_implicit_global_asset_job_def()
    keys = [asset.key for asset in assets]
    return job.execute_in_process(instance=instance, asset_selection=keys, raise_on_error=False).run_id


def told(events: list[dict[str, Any]]) -> list[str]:
    assert [problem for event in events for problem in problems(event)] == []
    return [f"{event['eventType']} {event['job']['name']}" for event in events]


def test_without_a_collector_nobody_is_told(tick, instance):
    run(instance, thing)
    assert "names no collector" in tick("")


def test_a_run_is_told_once(tick, instance):
    with collecting() as collector:
        run_id = run(instance, thing)
        assert tick(collector.url) == "Told of 2 beginnings and ends of runs."
        assert tick(collector.url) == "No run has begun or ended since the last tick."
        assert told(collector.events) == STORY
        run(instance, thing)
        tick(collector.url)
        assert told(collector.events) == STORY * 2
    first, made = (collector.events[i]["run"] for i in (0, 2))
    assert first["runId"] == run_id == made["facets"]["parent"]["run"]["runId"]
    assert len({event["run"]["runId"] for event in collector.events}) == 4


def test_the_history_is_told_when_a_collector_is_named_for_the_first_time(tick, instance):
    for _ in range(3):
        run(instance, thing)
    tick("")
    with collecting() as collector:
        tick(collector.url)
    assert told(collector.events) == STORY * 3


def test_a_failure_says_why(tick, instance, tmp_path):
    run(instance, broken)
    tick(str(tmp_path / "events.jsonl"))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert told(events) == ["START assets", "START tiny.broken", "FAIL tiny.broken", "FAIL assets"]
    assert events[2]["run"]["facets"]["errorMessage"]["message"] == "The gate says no."
    assert events[2]["outputs"] == []


def test_a_collector_that_is_down_fails_the_tick_and_loses_nothing(tick, instance):
    run(instance, thing)
    for _ in range(2):
        with pytest.raises(LineageError, match="does not take events"):
            tick(f"http://127.0.0.1:{free_port()}")
    run(instance, broken)
    with collecting() as collector:
        tick(collector.url)
    assert told(collector.events)[:4] == STORY
    assert len(collector.events) == 8


def test_a_collector_that_goes_down_in_between_is_told_the_rest_later(tick, instance):
    run(instance, thing)
    run(instance, thing)
    with collecting() as collector:
        collector.answer = lambda _: 201 if len(collector.events) < 6 else 503
        assert "answers with status 503" in tick(collector.url)  # in the middle of the second run
        collector.answer = lambda _: 201
        tick(collector.url)
    once = [json.dumps(event, sort_keys=True) for event in collector.events]
    assert told([json.loads(event) for event in dict.fromkeys(once)]) == STORY * 2  # what came twice came the same


def test_an_event_that_is_refused_for_good_does_not_stand_in_the_way(tick, instance):
    run(instance, thing)
    with collecting() as collector:
        collector.answer = lambda event: 400 if event["job"]["name"] == "tiny.thing" else 201
        assert tick(collector.url).endswith("2 events were refused for good.")
        assert told(collector.events) == ["START assets", "COMPLETE assets"]
        assert tick(collector.url).startswith("No run")


def test_a_tick_ends_when_its_time_is_up_and_the_next_goes_on(tick, instance, monkeypatch):
    for _ in range(2):
        run(instance, thing)
    monkeypatch.setattr(open_lineage, "BUDGET_SECONDS", 0.0)
    with collecting() as collector:
        for _ in range(4):
            assert tick(collector.url) == "Told of 1 beginnings and ends of runs."
        assert told(collector.events) == STORY * 2


def test_many_runs_are_told_in_several_ticks_in_the_order_of_dagsters_records(tick, instance, monkeypatch):
    for asset in (thing, broken, thing):
        run(instance, asset)
    monkeypatch.setattr(open_lineage, "MOST", 2)
    with collecting() as collector:
        while not tick(collector.url).startswith("No run"):
            pass
    ends = [line for line in told(collector.events) if line.endswith(" assets")]
    assert ends == ["START assets", "COMPLETE assets", "START assets", "FAIL assets", "START assets", "COMPLETE assets"]


def test_what_was_written_in_this_moment_waits_for_the_next_tick(tick, instance, monkeypatch):
    monkeypatch.setattr(open_lineage, "SETTLED_SECONDS", 3600.0)
    run(instance, thing)
    with collecting() as collector:
        assert tick(collector.url).startswith("No run")
    assert collector.events == []


def test_a_run_that_somebody_deleted_is_passed_over(tick, instance):
    instance.delete_run(run(instance, thing))
    run(instance, thing)
    with collecting() as collector:
        tick(collector.url)
    assert told(collector.events) == STORY


def test_after_runs_were_deleted_or_wiped_the_next_ones_are_told_and_old_ones_not_again(tick, instance):
    with collecting() as collector:
        run(instance, thing)
        deleted = run(instance, thing)
        tick(collector.url)
        for forget in (lambda: instance.delete_run(deleted), instance.wipe):
            before = len(collector.events)
            forget()
            assert tick(collector.url).startswith("No run")
            run(instance, thing)
            tick(collector.url)
            assert told(collector.events[before:]) == STORY


def test_a_table_is_named_by_its_place_and_one_that_was_dropped_by_its_name(tick, instance, home):
    with collecting() as collector:
        run(instance, thing)
        tick(collector.url)
        write_table(home, POPULATION, customers(10))
        run(instance, thing)
        tick(collector.url)
    places = [(dataset["namespace"], dataset["name"]) for event in collector.events for dataset in event["inputs"]]
    with Backends(home).lakehouse() as lake:
        assert places == [("tandem", POPULATION), ("file", lake.location(POPULATION).removeprefix("file://"))]


def test_the_namespaces_are_the_declared_one(tick, instance):
    run(instance, thing)
    with collecting() as collector:
        tick(collector.url, openlineage_namespace="production")
    assert {event["job"]["namespace"] for event in collector.events} == {"production"}
    (made,) = collector.events[2]["outputs"]
    assert (made["namespace"], made["name"]) == ("production", "tiny.thing")
    assert made["facets"]["version"]["datasetVersion"] == "v1"
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert made["facets"]["ownership"]["owners"] == [{"name": "team:growth"}]


def test_nothing_is_imported_and_no_catalog_opened_where_nothing_is_to_tell(tick, home):
    assert tick("http://127.0.0.1:1").startswith("No run")
    assert not (home.home / "catalog.db").exists()


def test_the_setting_alone_decides(sensor):
    assert Settings().openlineage == ""
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
