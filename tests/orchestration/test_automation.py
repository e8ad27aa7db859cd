"""The sensor, the jobs and the schedules: which there are, and when a training is asked for."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import yaml
from dagster._core.test_utils import freeze_time
from dagster._core.utils import make_new_run_id

from assets.resources import Backends
from backends.settings import ROOT
from orchestration.definitions import assemble
from tests.lives import TINY, declare

SUNDAY = datetime(2026, 10, 25, 5, 0, tzinfo=ZoneInfo("Europe/Berlin"))  # the night on which the clock goes back


@pytest.fixture
def definitions(home) -> dg.Definitions:
    declare(home, TINY, predictions={"timezone": "Europe/Berlin"})
    return assemble(home)


def test_one_sensor_looks_at_every_asset_and_check_twice_a_minute(definitions):
    sensor = definitions.resolve_sensor_def("automation")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30
    graph = definitions.resolve_asset_graph()
    selected = sensor.asset_selection.resolve(graph) | sensor.asset_selection.resolve_checks(graph)
    automated = {
        key for key in graph.get_all_asset_keys() | graph.asset_check_keys if graph.get(key).automation_condition
    }
    assert automated
    assert automated <= selected


# --- the weekly training --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Iterator[dg.DagsterInstance]:
    """Schedules open the instance by its reference: one in memory has none."""
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as instance:
        yield instance


@pytest.fixture
def instance(stored) -> Iterator[dg.DagsterInstance]:
    yield stored
    stored.run_storage.wipe()


@pytest.fixture
def tick(definitions, instance):
    """Evaluate the schedule at a time."""

    def tick(at: datetime = SUNDAY) -> dg.RunRequest | str:
        schedule = definitions.resolve_schedule_def("tiny_training_schedule")
        repository = definitions.get_repository_def()
        with (
            freeze_time(at.astimezone(UTC)),
            dg.build_schedule_context(instance, scheduled_execution_time=at, repository_def=repository) as context,
        ):
            data = schedule.evaluate_tick(context)
        return data.run_requests[0] if data.run_requests else data.skip_message

    return tick


def begun(instance, ago: timedelta, status: dg.DagsterRunStatus, job: str = "tiny_training") -> str:
    run = dg.DagsterRun(job_name=job, run_id=make_new_run_id(), status=status)
    instance.run_storage.add_historical_run(run, (SUNDAY.astimezone(UTC) - ago).replace(tzinfo=None))
    return run.run_id


def test_a_training_is_asked_for_once_a_week_with_all_that_it_makes(tick):
    first, again = tick(), tick(SUNDAY.astimezone(UTC))
    assert first.run_key == again.run_key == "2026-W43"
    assert tick(SUNDAY + timedelta(days=7)).run_key == "2026-W44"
    stages = ("training_set", "trained_model", "quantized_model", "champion", "bento")
    assert first.asset_selection == [dg.AssetKey(["tiny", stage]) for stage in stages]


@pytest.mark.parametrize(
    ("declared", "cron"),
    [
        ({}, "0 5 * * SUN"),
        ({"day": "wednesday", "at": "22:30"}, "30 22 * * WED"),
    ],
)
def test_day_and_hour_of_the_training_are_declared(home, declared, cron):
    declare(home, TINY, predictions={"timezone": "Europe/Berlin"}, retraining=declared)
    schedule = assemble(home).resolve_schedule_def("tiny_training_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, "Europe/Berlin")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_never_is_a_day(home):
    declare(home, TINY, retraining={"day": "never"})
    names = {schedule.name for schedule in assemble(home).get_repository_def().schedule_defs}
    assert "tiny_training_schedule" not in names
    assert "tiny_requests_schedule" in names


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
)
def test_no_training_is_asked_for_while_one_is_under_way(tick, instance, status):
    run = begun(instance, timedelta(days=2), status)
    assert tick() == f"Run {run} of tiny_training is under way."


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
def test_a_training_of_the_last_day_stands_for_the_weekly_one(tick, instance, status):
    begun(instance, timedelta(hours=24.5), status)
    assert isinstance(tick(), dg.RunRequest)
    run = begun(instance, timedelta(hours=23.5), status)
    assert tick() == f"Run {run} of tiny_training was started within the last day."


def test_other_jobs_and_other_models_do_not_stand_for_a_training(tick, instance):
    for job in ("tiny_nightly", "other_training"):
        begun(instance, timedelta(hours=1), dg.DagsterRunStatus.STARTED, job)
    assert isinstance(tick(), dg.RunRequest)


def test_two_trainings_of_one_model_wait_for_each_other(definitions):
    """They would exchange their manifests; dagster.yaml lets one run of each value of the tag go at a time."""
    limits = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())["concurrency"]["runs"][
        "tag_concurrency_limits"
    ]
    (limit,) = [limit for limit in limits if limit["key"] == "tandem/training"]
    assert limit == {"key": "tandem/training", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
    assert definitions.resolve_job_def("tiny_training").tags["tandem/training"] == "tiny"


# --- one writer for each table ---------------------------------------------------------------------------------------

# What they write is their run's own, or Dagster's: a new asset has a pool, or stands here with good reason.
WITHOUT_POOL = {"training_set", "trained_model", "quantized_model", "bento"} | {
    *("drift", "outcomes", "request_drift", "costs"),
}


def test_each_asset_that_writes_a_table_or_a_store_does_so_alone(home):
    declare(home, TINY)
    declare(home, TINY, name="other", api={"port": 3009})
    assets = [asset for asset in assemble(home).resolve_asset_graph().assets_defs if asset.is_executable and asset.keys]
    pools = {asset.key.to_user_string(): asset.op.pool for asset in assets if asset.key.path[-1] not in WITHOUT_POOL}
    assert {"gold/tiny_predictions", "tiny/online_features", "silver/tiny_requests", "tiny/champion"} <= pools.keys()
    assert None not in pools.values(), pools
    assert len(set(pools.values())) == len(pools)


def test_each_step_that_a_person_starts_waits_for_the_writer_of_its_table(definitions):
    graph = definitions.resolve_asset_graph()
    pools = {asset.op.pool for asset in graph.assets_defs if asset.is_executable} - {None}
    for job in definitions.resolve_all_job_defs():
        for node in job.nodes if not job.asset_layer.executable_asset_keys else ():
            assert node.definition.pool in pools, (job.name, node.name)


# --- jobs -----------------------------------------------------------------------------------------------------------


def test_training_ends_with_the_bento_and_the_night_with_the_proof(definitions):
    steps = {
        job: {node.name for node in definitions.resolve_job_def(job).nodes}
        for job in ("tiny_training", "tiny_nightly", "tiny_watch")
    }
    stages = ("training_set", "trained_model", "quantized_model", "champion", "bento")
    assert steps["tiny_training"] == {f"tiny__{stage}" for stage in stages}
    proof = "tiny__api_api_agrees_with_gold"
    gold = {"gold__tiny_predictions", "gold__tiny_predictions_is_ready_in_time"}
    assert steps["tiny_nightly"] == {*gold, "tiny__online_features", proof}
    assert steps["tiny_watch"] == {f"tiny__{stage}" for stage in ("drift", "outcomes", "request_drift", "costs")}


def test_logged_requests_are_carried_away_each_hour_when_there_are_any(home, definitions):
    schedule = definitions.resolve_schedule_def("tiny_requests_schedule")
    assert (schedule.cron_schedule, schedule.default_status) == ("15 * * * *", dg.DefaultScheduleStatus.RUNNING)
    assert {node.name for node in definitions.resolve_job_def("tiny_requests").nodes} == {"silver__tiny_requests"}
    folder = home.request_log_of("tiny")
    for file, requests in ((None, 0), ("bad", 0), ("of a killed worker.open", 1), ("complete.jsonl", 1)):
        if file:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        with dg.build_schedule_context(
            scheduled_execution_time=datetime(2026, 11, 21, 2, 15, tzinfo=UTC),
            repository_def=definitions.get_repository_def(),
            resources={"backends": Backends(home)},
        ) as context:
            assert len(schedule.evaluate_tick(context).run_requests) == requests, file
