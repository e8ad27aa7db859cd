"""Lateness is said once a day, and once that it is over; what is said can be asked for by hand."""

import time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from assets.readiness import CHECK, is_ready_in_time
from orchestration.sensors.readiness import readiness_observer
from tests.lives import TINY, declare
from tests.orchestration.sensors.checks import run_by_hand

GOLD = dg.AssetKey(["gold", "tiny_predictions"])
CHAMPION = dg.AssetKey(["tiny", "champion"])
NOON = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"  # where it is about noon, so that no test runs over midnight
TODAY = datetime.now(ZoneInfo(NOON)).date()


def arrives(instance, day: date) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(GOLD, partition=day.isoformat()))


def days_ago(days: int) -> date:
    return TODAY - timedelta(days=days)


@pytest.fixture
def tiny(home):
    """A model whose day is due a minute after midnight."""
    return declare(home, TINY, predictions={"score_at": "00:00", "ready_by": "00:01", "timezone": NOON})


@pytest.fixture
def champion_since_last_week(instance, monkeypatch):
    then = time.time() - 3 * 86_400
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: then)
        instance.report_runless_asset_event(dg.AssetMaterialization(CHAMPION))


def test_a_model_without_a_champion_owes_nothing(tiny, tick):
    assert "there was a champion" in tick(readiness_observer(tiny)).skip_message


@pytest.mark.usefixtures("champion_since_last_week")
def test_a_late_day_is_said_once_and_its_arrival_once(tiny, instance, tick):
    sensor = readiness_observer(tiny)
    arrives(instance, days_ago(2))
    (late,) = tick(sensor).asset_events
    assert (late.check_name, late.passed) == (CHECK, False)
    assert late.metadata["day"].value == TODAY.isoformat()
    assert late.metadata["missed_days"].value == days_ago(1).isoformat()
    assert tick(sensor).skip_message.startswith("unchanged")
    arrives(instance, TODAY)
    (there,) = tick(sensor).asset_events
    assert there.passed
    assert "Make up with a backfill" in there.metadata["reason"].value
    assert tick(sensor).asset_events == []


@pytest.mark.usefixtures("champion_since_last_week")
def test_a_failed_night_is_late_though_another_day_was_scored_today(tiny, instance, tick):
    arrives(instance, days_ago(1))  # a backfill of yesterday, in the very moment
    (late,) = tick(readiness_observer(tiny)).asset_events
    assert not late.passed


@pytest.mark.usefixtures("champion_since_last_week")
def test_the_check_run_by_hand_says_the_same(tiny, home, instance, tick):
    (said,) = tick(readiness_observer(tiny)).asset_events
    found = run_by_hand(is_ready_in_time(tiny), home, instance)
    assert (found.passed, found.severity) == (said.passed, said.severity)
    assert found.metadata["headline"] == said.metadata["headline"]


def test_the_check_run_by_hand_passes_when_nothing_is_due(tiny, home, instance):
    assert run_by_hand(is_ready_in_time(tiny), home, instance).passed
