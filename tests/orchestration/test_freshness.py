"""`ready_by` as Dagster judges it at the declared hour, on the nights of a changing clock too."""

import asyncio
from datetime import datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.definitions.freshness_evaluator import CronFreshnessPolicyEvaluator  # what the daemon judges by
from dagster._core.loader import LoadingContextForTest
from dagster._core.test_utils import freeze_time

from orchestration.definitions import assemble
from tests.lives import TINY, declare

ZONE = ZoneInfo("Europe/Berlin")
GOLD = dg.AssetKey(["gold", "tiny_predictions"])


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZONE, fold=fold)


@pytest.fixture
def judged(home, instance):
    """Publish a night at one time, and judge the table at another."""

    def judge(published: datetime, at: datetime, **when) -> FreshnessState:
        declare(home, TINY, predictions={"timezone": "Europe/Berlin", **when})
        graph = assemble(home).resolve_asset_graph()
        with freeze_time(published):
            instance.report_runless_asset_event(dg.AssetMaterialization(GOLD, partition="2026-10-25"))
        with freeze_time(at):
            context = LoadingContextForTest(instance)
            return asyncio.run(CronFreshnessPolicyEvaluator().evaluate_freshness(context, graph.get(GOLD)))

    return judge


@pytest.mark.parametrize(
    ("published", "at", "state"),
    [
        ("2026-11-20 02:00", "2026-11-20 08:01", FreshnessState.PASS),
        ("2026-11-20 07:59", "2026-11-20 08:01", FreshnessState.PASS),
        ("2026-11-19 02:05", "2026-11-20 07:59", FreshnessState.PASS),  # nobody counts on today's yet
        ("2026-11-19 02:05", "2026-11-20 08:01", FreshnessState.FAIL),  # the night is missed
        ("2026-11-19 23:00", "2026-11-20 08:01", FreshnessState.FAIL),  # yesterday's, published very late
        ("2026-11-20 09:30", "2026-11-20 09:31", FreshnessState.PASS),  # late, but there
        ("2026-03-29 03:00", "2026-03-29 08:01", FreshnessState.PASS),  # 02:00 does not exist
        ("2026-03-28 02:00", "2026-03-29 08:01", FreshnessState.FAIL),
        ("2026-10-25 02:00", "2026-10-25 08:01", FreshnessState.PASS),  # 02:00 exists twice
        ("2026-10-24 02:00", "2026-10-25 08:01", FreshnessState.FAIL),
    ],
)
def test_a_night_is_late_from_the_declared_hour_on_until_it_is_there(judged, published, at, state):
    assert judged(berlin(published), berlin(at)) is state


def test_the_longer_night_of_autumn_is_not_late_when_it_began_before_the_change(judged):
    assert judged(berlin("2026-10-25 01:00"), berlin("2026-10-25 08:01"), score_at="01:00") is FreshnessState.PASS


def test_the_longest_window_is_a_day(judged):
    longest = {"score_at": "00:00", "ready_by": "23:59"}
    assert judged(berlin("2026-11-20 00:01"), berlin("2026-11-20 23:59"), **longest) is FreshnessState.PASS
