"""When a night is late: by the declared time zone, over clock changes, for a model that had a champion by then."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from assets.readiness import Readiness, evaluation, judge, readiness
from models.declaration import Predictions
from tests.event_model import DECLARED
from tests.lives import TINY, declare

BERLIN = Predictions(score_at="02:00", ready_by="08:00", timezone="Europe/Berlin", first_day=date(2026, 1, 1))
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def days(first: str, last: str) -> set[str]:
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    return {(begin + timedelta(days=n)).isoformat() for n in range((end - begin).days + 1)}


def judged(now: str, there: set[str], since: datetime = LONG_AGO, schedule: Predictions = BERLIN) -> Readiness:
    found = judge(schedule, since, there, at(now))
    assert found is not None
    return found


def test_before_the_deadline_the_day_before_counts():
    found = judged("2026-11-28 06:59", days("2026-11-01", "2026-11-27"))
    assert (found.day, found.ready, found.missed) == (date(2026, 11, 27), True, ())


def test_from_the_deadline_on_the_day_is_late():
    found = judged("2026-11-28 07:00", days("2026-11-01", "2026-11-27"))  # 08:00 in Berlin
    assert (found.day, found.ready) == (date(2026, 11, 28), False)


def test_it_is_ready_when_it_arrives():
    assert judged("2026-11-28 09:30", days("2026-11-01", "2026-11-28")).ready


@pytest.mark.parametrize(
    ("now", "late"),
    [
        ("2026-10-24 05:59", False),  # summer time: 07:59
        ("2026-10-24 06:00", True),
        ("2026-10-25 06:59", False),  # the clock went back at 03:00
        ("2026-10-25 07:00", True),
        ("2026-03-28 06:59", False),
        ("2026-03-28 07:00", True),
        ("2026-03-29 05:59", False),  # it went forward
        ("2026-03-29 06:00", True),
    ],
)
def test_the_deadline_follows_the_clock_of_the_time_zone(now, late):
    day = at(now).date()
    found = judged(now, days("2026-01-01", (day - timedelta(days=1)).isoformat()))
    assert found.ready is not late
    assert found.day == (day if late else day - timedelta(days=1))


def test_missed_days_of_the_week_before_are_named():
    there = days("2026-11-01", "2026-11-28") - {"2026-11-12", "2026-11-21", "2026-11-24", "2026-11-28"}
    found = judged("2026-11-28 10:00", there)
    assert found.missed == (date(2026, 11, 24), date(2026, 11, 21))  # the 12th is too long ago


def test_a_day_that_arrives_before_its_deadline_ends_the_lateness_of_the_one_before():
    there = days("2026-11-01", "2026-11-28") - {"2026-11-27"}
    found = judged("2026-11-28 02:00", there)
    assert (found.day, found.ready, found.missed) == (date(2026, 11, 27), True, (date(2026, 11, 27),))


def test_nothing_is_due_before_the_first_day():
    schedule = BERLIN.model_copy(update={"first_day": date(2026, 11, 28)})
    assert judge(schedule, LONG_AGO, set(), at("2026-11-28 06:59")) is None
    assert judged("2026-11-28 07:00", set(), schedule=schedule).missed == ()


def test_a_day_does_not_count_when_its_hour_of_scoring_was_before_the_first_champion():
    since = at("2026-11-28 05:00")  # trained in the morning, after the hour of scoring
    assert judge(BERLIN, since, set(), at("2026-11-28 20:00")) is None
    assert judged("2026-11-29 07:00", set(), since).missed == ()


def test_a_daemon_that_was_down_finds_the_newest_day_late_and_the_others_missed():
    found = judged("2026-11-28 13:00", days("2026-11-01", "2026-11-25"))
    assert (found.day, found.ready) == (date(2026, 11, 28), False)
    assert found.missed == (date(2026, 11, 27), date(2026, 11, 26))


def test_the_result_says_what_is_late_since_when_and_what_to_do(home):
    tiny = declare(home, TINY, predictions={"timezone": "Europe/Berlin"})
    now = at("2026-11-28 09:05")
    said = evaluation(tiny, judge(tiny.predictions, LONG_AGO, days("2026-11-01", "2026-11-26"), now), now)
    reason = said.metadata["reason"].value
    assert (said.passed, said.severity.value) == (False, "WARN")
    assert "2026-11-28 are not there, 2 h 5 min after readers count on them (08:00 Europe/Berlin)" in reason
    assert "Also missing: 2026-11-27." in reason
    assert "materialize gold/tiny_predictions" in reason
    assert said.metadata["headline"].value == "tiny is late: no predictions of 2026-11-28"


def test_a_day_of_events_is_due_the_morning_after(home):
    swipes, a_day = declare(home, DECLARED), timedelta(days=1)
    there = days("2026-11-01", "2026-11-26")
    early, late = (
        judge(BERLIN, LONG_AGO, there, at(f"2026-11-28 {t}"), swipes.scored_after) for t in ("06:59", "07:00")
    )
    assert (early.day, early.ready, early.missed) == (date(2026, 11, 26), True, ())
    assert (late.day, late.ready, late.due) == (date(2026, 11, 27), False, at("2026-11-28 07:00"))
    since = judge(BERLIN, at("2026-11-28 01:01"), there, at("2026-11-28 09:00"), a_day)  # the champion came after 02:00
    assert since is None
    assert (
        "See whether silver.card_swipes arrived"
        in evaluation(swipes, late, at("2026-11-28 09:05")).metadata["reason"].value
    )


def test_a_model_of_events_is_judged_by_the_day_that_is_over(home, instance):
    swipes = declare(home, DECLARED)
    with freeze_time(at("2026-11-25 12:00")):
        instance.report_runless_asset_event(dg.AssetMaterialization(["swipes", "champion"]))
    first, next_day = (readiness(swipes, instance, at(f"2026-11-{day} 08:00")) for day in (26, 27))
    assert (first.day, first.ready, first.missed) == (date(2026, 11, 25), False, ())
    assert (next_day.day, next_day.missed) == (date(2026, 11, 26), (date(2026, 11, 25),))
