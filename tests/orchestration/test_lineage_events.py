"""The whole life of a model, told to the world outside Dagster: from the training snapshot to the service, in order."""

import time
from datetime import date
from itertools import pairwise

import dagster as dg
import pytest

from assets.columns import same_columns
from assets.metadata import table_key
from backends.nights import newest_night
from backends.open_lineage import RunEvent, as_open_lineage
from orchestration.definitions import assemble
from orchestration.lineage_events import Story, changes
from tests.backends.nights import customers
from tests.collectors import problems
from tests.lives import TINY, declare, promoted, reason_of, run_job, tiny_examples, write_table
from tests.tiny_model import FEATURES, tiny_contract

DAY = date(2026, 11, 20)
POPULATION, EXAMPLES, GOLD = "silver.active_customers", "silver.tiny_examples", "gold.tiny_predictions"


def told(settings, instance) -> list[RunEvent]:
    """Tell of every run of an instance; every event must be as the specification requires."""
    from openlineage.client.serde import Serde

    definitions = assemble(settings)
    graph, declarations = definitions.resolve_asset_graph(), [declare(settings, TINY)]
    places = {table: f"s3://lake/{table.replace('.', '/')}" for table in (POPULATION, EXAMPLES, GOLD)}
    story = Story(instance, graph, declarations, places.get, "tandem", "https://catalog")
    events = [event for change in changes(instance, 0, time.time(), 100) for event in story.tell(change)]
    assert [p for event in events for p in problems(Serde.to_dict(as_open_lineage(event, "tandem")))] == []
    return events


@pytest.fixture
def tiny(home):
    declared = declare(home, TINY)
    write_table(home, POPULATION, customers(600))
    return declared


def versions(datasets) -> dict[str, str]:
    return {dataset.place[1]: dataset.version for dataset in datasets}


def test_a_life_is_told_from_the_training_snapshot_to_the_online_features(home, instance, tiny):
    examples = write_table(home, EXAMPLES, tiny_examples())
    for run in (run_job(home, instance, "tiny_training"), run_job(home, instance, "tiny_nightly", DAY)):
        assert run.success, reason_of(run)
    write_table(home, EXAMPLES, tiny_examples(100))  # what comes later changes nothing of the story
    write_table(home, POPULATION, customers(10))
    with assemble_lake(home) as lake:
        gold = newest_night(lake, GOLD)
    events = told(home, instance)
    stages = ("training_set", "trained_model", "quantized_model", "champion", "bento")
    made = [f"tiny.{stage}" for stage in stages]
    assert [event.job.name for event in events if event.state == "COMPLETE"] == [
        *made,
        "tiny_training",
        GOLD,
        "tiny.online_features",
        "tiny_nightly",
    ]
    done = {event.job.name: event for event in events if event.state == "COMPLETE"}
    sha256 = gold.properties["model_sha256"]
    assert versions(done["tiny.training_set"].inputs) == {"silver/tiny_examples": str(examples)}
    assert versions(done["tiny.trained_model"].inputs) == {"tiny.training_set": str(examples)}
    for before, after in pairwise(made):  # what one makes, the next reads
        assert versions(done[before].outputs) == versions(done[after].inputs)
    assert versions(done["tiny.champion"].outputs) == {"tiny.champion": sha256}
    assert versions(done[GOLD].inputs) == {
        "tiny.champion": sha256,
        "silver/active_customers": gold.properties["source_snapshot"],
    }
    (night,) = done[GOLD].outputs
    assert (night.place, night.version) == (("s3://lake", "gold/tiny_predictions"), str(gold.id))
    assert (night.rows, night.bytes) == (600, gold.bytes_added)
    assert (night.model["sha256"], night.model["version"]) == (sha256, "1")
    score = next(column for column in night.columns if column.name == "tiny_probability")
    assert {(place, name) for place, name in score.made_of} == {
        (("s3://lake", "silver/active_customers"), name) for name in FEATURES
    }
    assert versions(done["tiny.online_features"].inputs)["gold/tiny_predictions"] == str(gold.id)


def assemble_lake(settings):
    from assets.resources import Backends

    return Backends(settings).lakehouse()


def test_every_part_is_a_run_of_its_own_below_dagsters(home, instance, tiny):
    promoted(home, tiny_contract())
    run = run_job(home, instance, "tiny_nightly", DAY)
    events = told(home, instance)
    parts = [event for event in events if event.parent]
    assert {event.parent for event in parts} == {(run.run_id, "tiny_nightly")}
    assert {event.run_id for event in events if not event.parent} == {run.run_id}
    assert len({event.run_id for event in parts}) == len(parts) / 2 == 2
    for start, end in zip(parts[::2], parts[1::2], strict=True):
        assert (start.state, end.state, start.run_id, start.job) == ("START", "COMPLETE", end.run_id, end.job)
        assert start.at <= end.at
    night = next(event for event in parts if event.job.name == GOLD)
    assert [moment.isoformat() for moment in night.nominal or ()] == [
        "2026-11-20T00:00:00+00:00",
        "2026-11-21T00:00:00+00:00",
    ]


def test_what_is_told_again_is_told_the_same(home, instance, tiny):
    promoted(home, tiny_contract())
    run_job(home, instance, "tiny_nightly", DAY)
    first = told(home, instance)
    run_job(home, instance, "tiny_nightly", DAY)
    assert told(home, instance)[: len(first)] == first


def test_a_night_that_fails_says_why_and_what_it_would_have_read(home, instance, tiny):
    run_job(home, instance, "tiny_nightly", DAY)
    failed = [event for event in told(home, instance) if event.state == "FAIL"]
    assert [event.job.name for event in failed] == [GOLD, "tiny_nightly"]
    assert "Model 'tiny' has no champion" in failed[0].error or "Registered Model" in failed[0].error
    assert set(versions(failed[0].inputs)) == {"tiny.champion", "silver/active_customers"}
    assert failed[0].outputs == ()


def test_a_service_that_was_observed_in_a_run_is_told_and_one_that_is_down_is_not(home, instance, tiny):
    key = dg.AssetKey(["tiny", "api"])

    @dg.op
    def look(context: dg.OpExecutionContext) -> None:
        answer = {"model_sha256": "ab" * 32, "model_version": "3"}
        context.log_event(dg.AssetObservation(key, metadata=answer, tags={"dagster/data_version": "ab" * 32}))
        context.log_event(dg.AssetObservation(key, metadata={"reason": "down"}, tags={"dagster/data_version": "down"}))

    @dg.job
    def looking() -> None:
        look()

    looking.execute_in_process(instance=instance)
    served = [event for event in told(home, instance) if event.job.name == "tiny.api" and event.state == "COMPLETE"]
    assert [versions(event.outputs) for event in served] == [{"tiny.api": "ab" * 32}]
    assert {"tiny.bento", "tiny.online_features"} < set(versions(served[0].inputs))


def test_a_run_that_never_began_begins_and_fails(home, instance, tiny):
    run = instance.create_run_for_job(assemble(home).resolve_job_def("tiny_training"))
    instance.report_run_failed(run, "No worker could be started.")
    events = told(home, instance)
    assert [(event.state, event.error) for event in events] == [("START", ""), ("FAIL", "No worker could be started.")]


def test_a_backfill_in_one_run_is_a_part_for_each_day(home, instance, tiny):
    days = ["2026-11-19", "2026-11-20", "2026-11-21"]

    @dg.op
    def score(context: dg.OpExecutionContext) -> None:
        for day in days:
            context.log_event(dg.AssetMaterialization(table_key(GOLD), partition=day))

    @dg.job
    def scoring() -> None:
        score()

    scoring.execute_in_process(instance=instance)
    ends = [event for event in told(home, instance) if event.job.name == GOLD and event.state == "COMPLETE"]
    assert [event.nominal[0].date().isoformat() for event in ends if event.nominal] == days
    assert len({event.run_id for event in ends}) == 3


def test_columns_that_come_from_an_unknown_asset_are_still_named(home, instance, tiny):
    lineage = same_columns(dg.AssetKey(["elsewhere", "table"]), ["customer_id"])
    schema = dg.TableSchema([dg.TableColumn("customer_id", "long")])

    @dg.asset(key=["tiny", "training_set"])
    def training_set() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"dagster/column_schema": schema, "dagster/column_lineage": lineage})

    dg.materialize([training_set], instance=instance)
    (made,) = next(event for event in told(home, instance) if event.outputs).outputs
    assert made.columns[0].made_of == ((("tandem", "elsewhere.table"), "customer_id"),)
    assert table_key(EXAMPLES).to_user_string() == "silver/tiny_examples"
