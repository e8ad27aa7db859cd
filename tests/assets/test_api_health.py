"""When an API is well: it is there, it is ready, and an hour after a promotion it answers with the champion."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from assets.api_health import GRACE, Answer, verdict
from assets.recorded import RecordedChampion, recorded_champion

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
URL = "http://127.0.0.1:3001"
OLD, NEW = "a" * 64, "b" * 64
CHAMPION = dg.AssetKey(["tiny", "champion"])


def champion(sha256: str, age: timedelta = timedelta(days=1)) -> RecordedChampion:
    return RecordedChampion("7", sha256, NOW - age)


def test_the_champion_is_what_should_answer():
    assert verdict("tiny", Answer(URL, NEW, "7"), champion(NEW), NOW).passed


@pytest.mark.parametrize(("age", "passed"), [(GRACE - timedelta(seconds=1), True), (GRACE, False)])
def test_the_former_champion_may_answer_for_a_while(age, passed):
    found = verdict("tiny", Answer(URL, OLD, "6"), champion(NEW, age), NOW)
    assert found.passed is passed
    assert "Version 6" in found.reason
    assert ("by " in found.reason) if passed else ("Deploy the newest Bento" in found.reason)


def test_troubles_have_occasions_of_their_own():
    answers = [Answer(URL, problem="no"), Answer(URL, OLD, "6", problem="store is away"), Answer(URL, OLD, "6")]
    found = [verdict("tiny", answer, champion(NEW), NOW) for answer in answers]
    assert [one.passed for one in found] == [False, False, False]
    assert len({one.occasion for one in found}) == 3
    assert [one.headline for one in found[:2]] == ["tiny: the API is down", "tiny: the API is not ready"]


def test_without_a_recorded_champion_readiness_is_enough():
    assert verdict("tiny", Answer(URL, OLD, "6"), None, NOW).passed


def test_a_tie_does_not_make_the_champion_newer(instance):
    assert recorded_champion(instance, "tiny") is None
    for sha256 in (OLD, NEW, NEW):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(CHAMPION, metadata={"model_version": 7}, tags={"dagster/data_version": sha256})
        )
    times = [record.timestamp for record in instance.fetch_materializations(CHAMPION, limit=3, ascending=True).records]
    found = recorded_champion(instance, "tiny")
    assert (found.version, found.sha256) == ("7", NEW)
    assert found.since.timestamp() == pytest.approx(times[1], rel=0, abs=1e-5)
    assert times[1] < times[2]
