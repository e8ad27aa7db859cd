"""When a night is requested: the local day at the declared hour, once."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._utils.schedules import schedule_execution_time_iterator  # what the daemon ticks by

from assets.resources import Backends
from orchestration.automation import nightly_schedule
from orchestration.definitions import assemble
from tests.lives import TINY, declare


@pytest.fixture
def definitions(home) -> dg.Definitions:
    when = {"score_at": "02:00", "timezone": "Europe/Berlin", "first_day": "2026-01-01"}
    declare(home, TINY, predictions=when)
    return assemble(home)


def requested(definitions: dg.Definitions, at: datetime) -> dg.RunRequest:
    schedule = definitions.resolve_schedule_def("tiny_nightly_schedule")
    with dg.build_schedule_context(
        scheduled_execution_time=at, repository_def=definitions.get_repository_def()
    ) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
    return request


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (datetime(2026, 11, 21, 2, 0, tzinfo=ZoneInfo("Europe/Berlin")), "2026-11-21"),
        (datetime(2026, 11, 21, 1, 0, tzinfo=UTC), "2026-11-21"),  # the same moment, told in UTC
        (datetime(2026, 11, 20, 23, 30, tzinfo=UTC), "2026-11-21"),  # past midnight in Berlin, not yet in London
        (datetime(2026, 11, 20, 22, 30, tzinfo=UTC), "2026-11-20"),
        (datetime(2026, 7, 20, 22, 30, tzinfo=UTC), "2026-07-21"),  # summer time: two hours ahead
        (datetime(2026, 10, 25, 0, 0, tzinfo=UTC), "2026-10-25"),  # 02:00, and at 01:00 UTC it is 02:00 again
    ],
)
def test_the_local_day_is_requested(definitions, at, day):
    request = requested(definitions, at)
    assert (request.partition_key, request.run_key) == (day, day)


def test_the_hour_is_that_of_the_declared_time_zone(definitions):
    schedule = definitions.resolve_schedule_def("tiny_nightly_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 2 * * *", "Europe/Berlin")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


@pytest.mark.parametrize(
    ("after", "ticks"),
    [
        # Spring: 02:00 does not exist on the 29th, the tick comes when the clock has jumped over it.
        (datetime(2026, 3, 28, 12, tzinfo=UTC), ["2026-03-29", "2026-03-30", "2026-03-31"]),
        # Autumn: 02:00 exists twice on the 25th, the night once.
        (datetime(2026, 10, 24, 12, tzinfo=UTC), ["2026-10-25", "2026-10-26", "2026-10-27"]),
    ],
)
def test_a_change_of_the_clock_neither_skips_nor_doubles_a_day(home, after, ticks):
    zone = ZoneInfo("Europe/Berlin")
    declaration = declare(home, TINY, predictions={"timezone": "Europe/Berlin", "first_day": "2026-01-01"})
    schedule = nightly_schedule(declaration)
    times = schedule_execution_time_iterator(
        after.timestamp(), schedule.cron_schedule, schedule.execution_timezone, ascending=True
    )
    assert [next(times).astimezone(zone).date().isoformat() for _ in ticks] == ticks


def test_training_ends_with_the_bento_and_the_night_with_the_proof(definitions):
    steps = {
        job: {node.name for node in definitions.resolve_job_def(job).nodes} for job in ("tiny_training", "tiny_nightly")
    }
    stages = ("training_set", "trained_model", "quantized_model", "champion", "bento")
    assert steps["tiny_training"] == {f"tiny__{stage}" for stage in stages}
    proof = "tiny__api_api_agrees_with_gold"
    assert steps["tiny_nightly"] == {"gold__tiny_predictions", "tiny__online_features", proof}


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
