"""What is told, to a real webhook: each failed run and check once, with the reason; over retries and outages."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from pydantic import Field

from assets.resources import Backends
from backends.settings import ROOT, Settings
from models.declaration import load_declaration
from models.errors import TrainingDataError
from orchestration.sensors import news, outbox
from orchestration.sensors.notifications import notifications
from orchestration.sensors.readiness import readiness_observer
from orchestration.sensors.wording import Words
from tests.inboxes import webhook
from tests.lives import TINY, changed, declare
from tests.postgres import postgres
from tests.serving import free_port

GOLD = dg.AssetKey(["gold", "tiny_predictions"])
UI = "https://dagster.example.com"


@pytest.fixture
def hook():
    with webhook() as running:
        yield running


@pytest.fixture
def told(home: Settings, tick, hook):
    """Let the sensor look; return the titles that arrived since."""
    declarations = [declare(home, TINY)]
    sensor = notifications(declarations, settle=timedelta(0))

    def look(notify: str | None = None) -> list[str]:
        before = len(hook.received)
        tick(sensor, changed(home, notify=hook.address if notify is None else notify, dagster_ui=f"{UI}/"))
        return hook.titles[before:]

    look()  # from now on
    return look


@pytest.fixture
def skips(home: Settings, tick, hook):
    """Let the sensor look; return what its tick says."""
    sensor = notifications([declare(home, TINY)], settle=timedelta(0))
    return lambda notify=hook.address: tick(sensor, changed(home, notify=notify)).skip_message


# --- runs -----------------------------------------------------------------------------------------------------------


class Night(dg.Config):
    """What goes wrong in a night."""

    failing: dict[str, str] = Field(default={}, description="Checks, and their severity.")
    error: str = ""


CHECKS = ("few_rows_are_rejected", "scores_resemble_last_night")


@dg.asset(
    key=GOLD,
    partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
    check_specs=[dg.AssetCheckSpec(check, asset=GOLD, blocking=check == CHECKS[0]) for check in CHECKS],
)
def night(config: Night):
    for check in CHECKS:
        severity = config.failing.get(check)
        yield dg.AssetCheckResult(
            check_name=check,
            passed=severity is None,
            severity=dg.AssetCheckSeverity(severity or "ERROR"),
            metadata={"reason": f"{check} is not so"},
        )
    if config.error == "own":
        raise TrainingDataError("The examples have no rows. Write some.") from KeyError("deep down")
    if config.error == "foreign":
        raise RuntimeError("it broke") from ZeroDivisionError("division by zero")
    if config.error:
        raise dg.Failure(config.error, allow_retries=False)
    yield dg.MaterializeResult(data_version=dg.DataVersion("1"))


NIGHTS = dg.Definitions(assets=[night], jobs=[dg.define_asset_job("tiny_nightly", [night])])


@pytest.fixture
def run(instance):
    """Run a night; return the id of the run."""

    def execute(job: str = "tiny_nightly", tags: dict[str, str] | None = None, **config) -> str:
        found = NIGHTS.resolve_job_def(job) if job == "tiny_nightly" else NIGHTS.resolve_implicit_global_asset_job_def()
        result = found.execute_in_process(
            instance=instance,
            partition_key="2026-01-20",
            raise_on_error=False,
            tags=tags,
            run_config={"ops": {"gold__tiny_predictions": {"config": config}}},
        )
        return result.run_id

    return execute


def test_what_happened_before_it_was_turned_on_is_not_told(run, skips, hook):
    run(error="of yesterday")
    assert "From now on" in skips()
    assert skips() == "Nothing to tell."
    assert hook.received == []


def test_a_run_that_went_well_is_not_told(run, told):
    run()
    assert told() == []


def test_a_failed_run_is_told_once_with_the_reason_whose_it_is_and_where_to_look(run, told, hook):
    run_id = run(error="The population is empty. Write rows to it.")
    assert told() == ["tiny_nightly (2026-01-20) failed"]
    (got,) = hook.received
    assert got["type"] == "failure"
    assert got["message"].splitlines() == [
        "gold/tiny_predictions: The population is empty. Write rows to it.",
        "Model tiny, owner team:growth.",
        f"{UI}/runs/{run_id}",
    ]
    assert told() == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("own", "The examples have no rows. Write some."),  # not the KeyError below it
        ("foreign", "ZeroDivisionError: division by zero"),
    ],
)
def test_the_reason_is_the_innermost_that_a_person_can_use(run, told, hook, error, reason):
    run(error=error)
    told()
    assert hook.received[0]["message"].splitlines()[0] == f"gold/tiny_predictions: {reason}"


def test_a_run_with_failed_checks_is_one_message_with_each_of_them(run, told, hook):
    run(failing={"few_rows_are_rejected": "ERROR", "scores_resemble_last_night": "WARN"})
    assert told() == ["tiny_nightly (2026-01-20) failed"]
    assert hook.received[0]["message"].splitlines()[:3] == [
        "few_rows_are_rejected of gold/tiny_predictions failed (ERROR): few_rows_are_rejected is not so",
        "scores_resemble_last_night of gold/tiny_predictions failed (WARN): scores_resemble_last_night is not so",
        "Model tiny, owner team:growth.",
    ]


def test_a_warning_in_a_run_that_went_well_is_told(run, told, hook):
    run(failing={"scores_resemble_last_night": "WARN"})
    assert told() == ["tiny_nightly (2026-01-20): 1 check failed"]
    assert hook.received[0]["type"] == "warning"


def test_a_run_of_the_features_of_events_says_whose_it_is():
    words = Words([load_declaration(ROOT / "models" / "fraud.yaml")], UI)
    (model,) = words.whose([], "fraud_training")
    assert words.whose([dg.AssetKey(["silver", "fraud_features"])]) == words.whose([], "fraud_features") == [model]


def test_a_run_of_chosen_assets_is_named_by_them(instance, told):
    failing = {"ops": {"gold__tiny_predictions": {"config": {"error": "no"}}}}
    dg.materialize([night], instance=instance, partition_key="2026-01-20", run_config=failing, raise_on_error=False)
    assert told() == ["gold/tiny_predictions (2026-01-20) failed"]


def test_runs_are_told_in_the_order_in_which_they_ended(run, told):
    run(failing={"scores_resemble_last_night": "WARN"})
    run(error="no")
    run(failing={"scores_resemble_last_night": "WARN"})
    warned = "tiny_nightly (2026-01-20): 1 check failed"
    assert told() == [warned, "tiny_nightly (2026-01-20) failed", warned]


def test_a_run_that_ended_in_this_moment_waits_for_the_next_tick(home, run, tick, hook):
    sensor, settings = notifications([declare(home, TINY)]), changed(home, notify=hook.address)
    tick(sensor, settings)
    run(error="no")
    assert tick(sensor, settings).skip_message == "Nothing to tell."


def test_a_run_that_died_before_it_began_is_told_with_what_dagster_says(instance, told, hook):
    run = instance.create_run_for_job(NIGHTS.resolve_job_def("tiny_nightly"), status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run, message="The process of the run is gone.")
    assert told() == ["tiny_nightly failed"]
    assert "The process of the run is gone." in hook.received[0]["message"]


# --- retries --------------------------------------------------------------------------------------------------------


def test_a_run_that_is_retried_speaks_through_its_retry(run, instance, told, hook):
    failed = run(error="no", tags={"dagster/will_retry": "true"})
    assert told() == []
    retry = run(error="no again", tags={"dagster/retry_number": "1"})
    instance.add_run_tags(failed, {"dagster/auto_retry_run_id": retry})
    assert told() == ["tiny_nightly (2026-01-20) failed"]
    assert "That was retry 1; there is no other." in hook.received[0]["message"]
    assert told() == []


def test_a_retry_that_helps_is_not_told(run, instance, told):
    failed = run(error="no", tags={"dagster/will_retry": "true"})
    told()
    instance.add_run_tags(failed, {"dagster/auto_retry_run_id": run()})
    assert told() == []


def test_a_promised_retry_that_cannot_be_launched_is_told(run, instance, told):
    failed = run(error="no", tags={"dagster/will_retry": "true"})
    assert told() == []
    instance.add_run_tags(failed, {"dagster/will_retry": "false"})
    assert told() == ["tiny_nightly (2026-01-20) failed"]
    assert told() == []


def test_a_promised_retry_that_does_not_come_is_told(run, told, monkeypatch):
    run(error="no", tags={"dagster/will_retry": "true"})
    assert told() == []
    monkeypatch.setattr(news, "RETRY_SECONDS", -1.0)
    assert told() == ["tiny_nightly (2026-01-20) failed"]


# --- what sensors see -----------------------------------------------------------------------------------------------


@pytest.fixture
def sees(instance):
    """Report a check as a sensor does."""

    def report(passed: bool, occasion: str | None = None, **facts: str) -> None:
        metadata = {"reason": "because", **({} if occasion is None else {"occasion": occasion}), **facts}
        event = dg.AssetCheckEvaluation(dg.AssetKey(["tiny", "api"]), "api_answers", passed=passed, metadata=metadata)
        instance.report_runless_asset_event(event)

    return report


def test_a_trouble_that_lasts_is_told_once_and_its_end_once(sees, told, hook):
    for passed in (True, False, False, False, True, True):
        sees(passed, "" if passed else "down")
    assert told() == ["tiny/api: api_answers failed", "tiny/api: api_answers passes"]
    assert [one["type"] for one in hook.received] == ["failure", "info"]
    assert hook.received[0]["message"].splitlines() == [
        "api_answers of tiny/api failed (ERROR): because",
        "Model tiny, owner team:growth.",
        f"{UI}/assets/tiny/api?view=checks",
    ]


def test_a_trouble_is_remembered_over_ticks(sees, told):
    sees(False, "down")
    assert len(told()) == 1
    sees(False, "down")
    assert told() == []
    sees(True, "")
    assert len(told()) == 1


def test_another_trouble_is_told_and_one_without_occasion_is_not(sees, told):
    sees(False, "")  # a service that never answered
    assert told() == []
    sees(False, "down", headline="the API is down")
    sees(False, "not ready", headline="the API is not ready")
    assert told() == ["the API is down", "the API is not ready"]


def test_a_failure_without_occasion_is_told_each_time(sees, told):
    sees(False)
    sees(False)
    assert len(told()) == 2


def test_a_late_night_is_told_once_for_each_day(instance, told):
    for day in ("2026-11-27", "2026-11-27", "2026-11-28"):
        late = dg.AssetCheckEvaluation(
            GOLD, "is_ready_in_time", passed=False, metadata={"occasion": day, "headline": f"late on {day}"}
        )
        instance.report_runless_asset_event(late)
    assert told() == ["late on 2026-11-27", "late on 2026-11-28"]


def test_an_observation_with_a_headline_is_told_and_others_are_not(instance, told):
    for headline in ({"headline": "tiny has no champion any more", "reason": "Promote one."}, {"latency_ms": 1}):
        instance.report_runless_asset_event(dg.AssetObservation(["tiny", "champion"], metadata=headline))
    assert told() == ["tiny has no champion any more"]


def test_a_late_night_is_told_when_it_is_due_and_when_it_arrives(home, instance, tick, hook):
    noon = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"  # where it is about noon
    today = datetime.now(ZoneInfo(noon)).date()
    tiny = declare(home, TINY, predictions={"score_at": "00:00", "ready_by": "00:01", "timezone": noon})
    settings, tell = changed(home, notify=hook.address), notifications([tiny], settle=timedelta(0))
    then = time.time() - 86_400
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: then)
        promote(instance, 1, "a" * 64)
    tick(tell, settings)
    for day in (today - timedelta(days=1), today):
        for _ in range(2):
            tick(readiness_observer(tiny), settings)
            tick(tell, settings)
        instance.report_runless_asset_event(dg.AssetMaterialization(GOLD, partition=day.isoformat()))
    tick(readiness_observer(tiny), settings)
    tick(tell, settings)
    assert hook.titles == [f"tiny is late: no predictions of {today}", f"tiny: predictions of {today} are there"]


# --- champions ------------------------------------------------------------------------------------------------------


def promote(instance, version: int, sha256: str, **facts: str) -> None:
    tags, metadata = {"dagster/data_version": sha256}, {"model_version": version, **facts}
    instance.report_runless_asset_event(dg.AssetMaterialization(["tiny", "champion"], metadata=metadata, tags=tags))


def test_a_new_champion_is_told_with_who_and_why_and_a_tie_is_not(instance, told, hook):
    promote(instance, 1, "a" * 64)
    assert told() == ["tiny: version 1 is the champion"]
    promote(instance, 1, "a" * 64)
    assert told() == []
    promote(instance, 2, "b" * 64, by="ann", verdict="rolled back", reason="It has the newer data.")
    told()
    assert hook.received[-1]["message"].splitlines() == [
        "It was version 1.",
        "Rolled back by ann: It has the newer data.",
        "Model tiny, owner team:growth.",
        f"{UI}/assets/tiny/champion",
    ]


def test_the_champion_from_before_is_known(home, instance, tick, hook):
    promote(instance, 1, "a" * 64)
    sensor, settings = notifications([declare(home, TINY)], settle=timedelta(0)), changed(home, notify=hook.address)
    tick(sensor, settings)
    promote(instance, 1, "a" * 64)
    tick(sensor, settings)
    assert hook.received == []


def test_a_run_that_is_deleted_brings_no_old_ones_back(run, instance, told):
    run(error="no")
    deleted = run(error="no")
    assert len(told()) == 2
    instance.delete_run(deleted)
    assert told() == []
    run(error="no")
    assert told() == ["tiny_nightly (2026-01-20) failed"]


def test_a_dagster_that_was_wiped_is_told_from_then_on(run, sees, instance, told):
    for _ in range(3):
        run(error="no")
        sees(False)
        promote(instance, 1, "a" * 64)
    assert len(told()) == 7
    instance.wipe()
    assert told() == []
    run(error="no")
    sees(False)
    promote(instance, 2, "b" * 64)
    assert sorted(told()) == [
        "tiny/api: api_answers failed",
        "tiny: version 2 is the champion",
        "tiny_nightly (2026-01-20) failed",
    ]


# --- delivery -------------------------------------------------------------------------------------------------------


def test_without_a_setting_nobody_is_told_now_or_later(skips, run, hook):
    assert skips("") == "TANDEM_NOTIFY is not set: nobody is told."
    run(error="no")
    assert "From now on" in skips()
    assert skips() == "Nothing to tell."
    assert hook.received == []


def test_a_message_that_is_refused_is_tried_again(run, told, hook):
    hook.status = 500
    run(error="no")
    assert told() == []
    assert told() == []
    hook.status = 200
    assert told() == ["tiny_nightly (2026-01-20) failed"]
    assert told() == []


def test_who_was_reached_is_not_told_again_because_another_was_not(run, told, hook):
    both = f"{hook.address} json://127.0.0.1:{free_port()}/gone"
    run(error="no")
    assert told(both) == ["tiny_nightly (2026-01-20) failed"]
    assert told(both) == []


def test_a_tick_says_whom_it_did_not_reach_and_never_the_address(run, skips, hook):
    skips()
    run(error="no")
    hook.status = 403
    said = skips()
    assert said.startswith("Told 0. 1 wait. Not reached: 1: JSON:")
    assert "403" in said
    assert "secret-token" not in said


def test_a_day_of_silence_ends_with_the_number_of_what_was_lost(run, told, hook, monkeypatch):
    hook.status = 500
    run(error="no")
    run(error="no")
    told()
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "DAY", -1.0)
        told()
        told()
    hook.status = 200
    assert told() == ["2 messages of Tandem could not be delivered to you"]
    assert told() == []


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request) -> Iterator[dict[str, Any]]:
    """Where Dagster keeps its events: SQLite has a database for each run and one for what sensors report."""
    if request.param == "sqlite":
        yield {}
        return
    with postgres() as server:
        url = server.new_database().replace("+psycopg:", "+psycopg2:")
        yield {"storage": {"postgres": {"postgres_url": url}}}


def test_nothing_is_missed_while_the_daemon_is_down(home, tmp_path, storage, hook):
    sensor, settings = notifications([declare(home, TINY)], settle=timedelta(0)), changed(home, notify=hook.address)
    resources, cursor = {"backends": Backends(settings)}, None
    failing = {"ops": {"gold__tiny_predictions": {"config": {"error": "no"}}}}
    for happens in (None, "run", "check", "champion"):
        with dg.DagsterInstance.local_temp(str(tmp_path), storage) as instance:  # another process, as it were
            if happens == "run":
                night_job = NIGHTS.resolve_job_def("tiny_nightly")
                night_job.execute_in_process(failing, instance, "2026-01-20", raise_on_error=False)
            if happens == "check":
                event = dg.AssetCheckEvaluation(dg.AssetKey(["tiny", "api"]), "api_answers", passed=False)
                instance.report_runless_asset_event(event)
            if happens == "champion":
                promote(instance, 1, "a" * 64)
            with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
                cursor = sensor.evaluate_tick(context).cursor
    assert hook.titles == [
        "tiny_nightly (2026-01-20) failed",
        "tiny/api: api_answers failed",
        "tiny: version 1 is the champion",
    ]


def test_a_cursor_of_another_kind_begins_anew(home, instance, hook):
    sensor, settings = notifications([declare(home, TINY)]), changed(home, notify=hook.address)
    resources = {"backends": Backends(settings)}
    with dg.build_sensor_context(instance=instance, cursor="from long ago", resources=resources) as context:
        assert "From now on" in sensor.evaluate_tick(context).skip_message
