"""A training is asked for when a limit is crossed: once, with the reason, and not again before the cool-down."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from orchestration.definitions import assemble
from orchestration.sensors.retraining import ASKED_BY, REASON, retraining
from tests.lives import TINY, declare

FEATURES, SCORES = "features_resemble_the_training_set", "scores_resemble_the_training_set"
RANKING = "realised_ranking_is_reached"
FAILED, STARTED = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED


@dg.job
def tiny_training():
    pass


@dg.job
def other_training():
    pass


@pytest.fixture
def judge(instance):
    """Record what a check found."""

    def record(check: str, passed: bool, reason: str = "PSI of balance is 0.41", **facts: Any) -> None:
        asset = "drift" if check in (FEATURES, SCORES) else "outcomes"
        event = dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(["tiny", asset]),
            check_name=check,
            passed=passed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"reason": reason, **facts},
        )
        instance.report_runless_asset_event(event)

    return record


@pytest.fixture
def began(instance):
    """Record a training that began some days ago."""

    def record(days: float, status=dg.DagsterRunStatus.SUCCESS, asked: bool = True, job=tiny_training) -> dg.DagsterRun:
        tags = {ASKED_BY: "tiny_retraining", REASON: "drift"} if asked else {}
        run = instance.create_run_for_job(job, status=status, tags=tags)
        moment = (datetime.now(UTC) - timedelta(days=days)).replace(tzinfo=None)
        with instance.run_storage.connect() as connection:
            connection.exec_driver_sql(
                "UPDATE runs SET create_timestamp = ? WHERE run_id = ?", (str(moment), run.run_id)
            )
        return run

    return record


@pytest.fixture
def ask(home, tick):
    """Evaluate the sensor; return what it asks for, or why not."""

    def evaluate(**wanted):
        sensor = retraining(declare(home, TINY, retraining=wanted))
        data = tick(sensor)
        return data.run_requests[0] if data.run_requests else data.skip_message

    return evaluate


def test_while_no_limit_is_crossed_nothing_is_asked_for(ask, judge):
    assert FEATURES in ask()
    judge(FEATURES, True)
    judge(RANKING, True)
    assert "No limit is crossed" in ask()


@pytest.mark.parametrize("check", [FEATURES, SCORES, RANKING, "realised_probabilities_are_calibrated"])
def test_a_crossed_limit_asks_for_a_training_and_says_why(ask, judge, check):
    judge(check, False)
    request = ask()
    assert request.tags[ASKED_BY] == "tiny_retraining"
    assert request.tags[REASON].startswith(f"{check} failed at ")
    assert request.tags[REASON].endswith("PSI of balance is 0.41")


def test_the_training_job_of_the_model_is_what_is_asked_for(home):
    sensor = retraining(declare(home, TINY))
    assert (sensor.job_name, sensor.default_status) == ("tiny_training", dg.DefaultSensorStatus.RUNNING)


def test_the_definitions_can_run_what_is_asked_for(home, instance, judge):
    declare(home, TINY)
    judge(FEATURES, False)
    definitions = assemble(home)
    with dg.build_sensor_context(instance=instance, definitions=definitions) as context:
        (request,) = definitions.resolve_sensor_def("tiny_retraining").evaluate_tick(context).run_requests
    made = set(definitions.resolve_job_def(request.job_name).asset_layer.selected_asset_keys)
    assert {dg.AssetKey(["tiny", "champion"]), dg.AssetKey(["tiny", "bento"])} <= set(request.asset_selection) <= made


def test_the_same_failure_is_one_request_however_often_it_is_looked_at(ask, judge):
    judge(FEATURES, False)
    assert ask().run_key == ask().run_key
    first = ask().run_key
    judge(FEATURES, False)
    assert ask().run_key != first


def test_a_limit_that_holds_again_asks_for_nothing(ask, judge):
    judge(FEATURES, False)
    judge(FEATURES, True)
    assert "No limit is crossed" in ask()


@pytest.mark.parametrize(
    ("wanted", "check", "asks"),
    [
        ({"on_drift": False}, FEATURES, False),
        ({"on_drift": False}, RANKING, True),
        ({"on_outcomes": False}, RANKING, False),
        ({"on_outcomes": False}, SCORES, True),
    ],
)
def test_only_what_is_declared_asks(ask, judge, wanted, check, asks):
    judge(check, False)
    assert isinstance(ask(**wanted), dg.RunRequest) is asks


def test_a_model_that_is_trained_on_demand_only_says_so(ask, judge):
    judge(FEATURES, False)
    assert ask(on_drift=False, on_outcomes=False) == "retraining.on_drift and retraining.on_outcomes are both false."


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, FAILED])
def test_it_cools_down_whatever_became_of_the_last_one(ask, judge, began, status):
    began(6.9, status)
    judge(FEATURES, False)
    reason = ask()
    assert "Cooling down until" in reason
    assert "PSI of balance is 0.41" in reason
    assert isinstance(ask(cooldown_days=6.8), dg.RunRequest)


def test_after_the_cool_down_it_asks_again(ask, judge, began):
    began(7.1)
    judge(FEATURES, False)
    assert isinstance(ask(), dg.RunRequest)


def test_the_cool_down_counts_from_trainings_that_were_asked_for(ask, judge, began):
    began(1, asked=False)  # the weekly one
    began(1, job=other_training, asked=False)
    judge(FEATURES, False)
    assert isinstance(ask(), dg.RunRequest)


def test_a_failure_from_before_the_last_training_is_no_reason(ask, judge, began):
    judge(FEATURES, False)
    began(-0.001, asked=False)
    assert "Waiting for a newer result" in ask()
    began(-0.001, job=other_training, asked=False)


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, STARTED])
def test_no_training_is_asked_for_while_one_is_under_way(ask, judge, began, status):
    run = began(30, status, asked=False)
    judge(FEATURES, False)
    assert f"under way, run {run.run_id}" in ask()


def test_a_training_of_another_model_is_no_hindrance(ask, judge, began):
    began(0, STARTED, asked=False, job=other_training)
    judge(FEATURES, False)
    assert isinstance(ask(), dg.RunRequest)


def test_a_training_that_somebody_chose_in_the_ui_counts(ask, judge, instance):
    chosen = frozenset([dg.AssetKey(["tiny", "trained_model"])])
    run = instance.create_run_for_job(tiny_assets(), status=STARTED, asset_selection=chosen)
    judge(FEATURES, False)
    assert f"under way, run {run.run_id}" in ask()


def tiny_assets() -> dg.JobDefinition:
    @dg.asset(key=["tiny", "trained_model"])
    def trained_model() -> None: ...

    return dg.Definitions(assets=[trained_model], jobs=[dg.define_asset_job("chosen")]).resolve_job_def("chosen")


def test_a_failure_of_a_former_champion_is_no_reason(ask, judge, instance):
    event = dg.AssetMaterialization(
        ["tiny", "champion"], metadata={"model_version": 7}, tags={"dagster/data_version": "a" * 64}
    )
    instance.report_runless_asset_event(event)
    judge(FEATURES, False, model_version=6)
    assert "No limit is crossed" in ask()
    judge(FEATURES, False, model_version=7)
    assert isinstance(ask(), dg.RunRequest)


@pytest.mark.parametrize(("day", "asks"), [("2026-01-20", False), ("2026-01-28", True)])
def test_a_gap_that_was_filled_is_no_reason(ask, instance, day, asks):
    instance.report_runless_asset_event(dg.AssetMaterialization(["tiny", "drift"], partition="2026-01-27"))
    drifted = dg.Definitions(assets=[drift], jobs=[dg.define_asset_job("tiny_watch")]).resolve_job_def("tiny_watch")
    assert drifted.execute_in_process(instance=instance, partition_key=day).success
    assert isinstance(ask(), dg.RunRequest) is asks


@dg.asset(
    key=["tiny", "drift"],
    partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
    check_specs=[dg.AssetCheckSpec(FEATURES, asset=["tiny", "drift"])],
)
def drift() -> dg.MaterializeResult:
    result = dg.AssetCheckResult(check_name=FEATURES, passed=False, severity=dg.AssetCheckSeverity.WARN)
    return dg.MaterializeResult(check_results=[result])


def test_a_check_that_is_running_counts_with_its_last_result(ask, judge, instance):
    judge(FEATURES, False)
    key = dg.AssetCheckKey(dg.AssetKey(["tiny", "drift"]), FEATURES)
    plan(instance, key)
    assert isinstance(ask(), dg.RunRequest)


def plan(instance, key: dg.AssetCheckKey) -> None:
    from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
    from dagster._core.events import DagsterEvent, DagsterEventType

    planned = AssetCheckEvaluationPlanned(asset_key=key.asset_key, check_name=key.name)
    event = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
        job_name="tiny_watch",
        event_specific_data=planned,
    )
    instance.report_dagster_event(event, run_id=instance.create_run_for_job(other_training).run_id)
