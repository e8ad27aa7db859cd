"""When the nights of a model of events are requested: a day's features when it is over, and the rest after them."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from tests.event_model import DECLARED
from tests.lives import declare
from tests.orchestration.daemon import Daemon, name_of

EVENTS, FEATURES, GOLD = "silver/card_swipes", "silver/swipes_features", "gold/swipes_predictions"
CHAMPION, A, B = "swipes/champion", "a" * 64, "b" * 64
YESTERDAY, TODAY = "2026-11-19", "2026-11-20"


def at(time: str, day: int = 20) -> datetime:
    hour, minute = map(int, time.split(":"))
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.fixture
def daemon(home, instance) -> Daemon:
    """A daemon that has looked once, in the evening; there is a champion."""
    declare(home, DECLARED)
    daemon = Daemon(home, instance, at("22:00", 19))
    daemon.look()
    daemon.tell(CHAMPION, A)
    daemon.look()
    return daemon


def told(daemon: Daemon, time: datetime, asset: str, version: str | None = None, day: str | None = None) -> None:
    daemon.now = time
    daemon.tell(asset, version, day)


def test_the_features_of_yesterday_wait_for_the_hour_and_are_requested_once(daemon):
    told(daemon, at("00:10"), EVENTS)
    times = ("00:11", "01:59", "02:00", "02:01", "23:59")
    assert [daemon.requested_at(at(time), FEATURES) for time in times] == [set(), set(), {YESTERDAY}, set(), set()]


def test_the_features_wait_for_what_is_written_after_midnight(daemon):
    told(daemon, at("23:59", 19), EVENTS)
    assert daemon.requested_at(at("02:00"), FEATURES) == set()
    told(daemon, at("05:10"), EVENTS)
    assert daemon.requested_at(at("05:11"), FEATURES) == {YESTERDAY}


def test_events_that_go_on_coming_do_not_make_a_day_again(daemon):
    told(daemon, at("01:00"), EVENTS)
    assert daemon.requested_at(at("02:00"), FEATURES) == {YESTERDAY}
    told(daemon, at("02:05"), FEATURES, day=YESTERDAY)
    told(daemon, at("02:10"), EVENTS)
    assert daemon.requested_at(at("02:11"), FEATURES) == set()


def test_features_are_made_before_there_is_a_champion(home, instance):
    declare(home, DECLARED)
    first = Daemon(home, instance, at("22:00", 19))
    first.look()
    told(first, at("01:00"), EVENTS)
    assert first.requested_at(at("02:00"), FEATURES) == {YESTERDAY}
    told(first, at("02:05"), FEATURES, day=YESTERDAY)
    assert first.requested_at(at("02:06"), GOLD) == set()
    told(first, at("11:00"), CHAMPION, A)
    assert first.requested_at(at("11:01"), GOLD) == {YESTERDAY}


def test_the_night_follows_the_features_of_its_day_and_is_requested_once(daemon):
    told(daemon, at("01:00"), EVENTS)
    assert daemon.requested_at(at("02:00"), GOLD) == set()
    told(daemon, at("02:05"), FEATURES, day=YESTERDAY)
    assert daemon.requested_at(at("02:06"), GOLD) == {YESTERDAY}
    assert daemon.requested_at(at("02:07"), GOLD) == set()


def test_the_features_of_an_old_day_bring_no_night(daemon):
    told(daemon, at("03:00"), FEATURES, day="2026-11-12")
    assert daemon.requested_at(at("03:01"), GOLD) == set()


def test_a_night_that_is_there_already_is_left_as_it_is(daemon):
    told(daemon, at("02:05"), FEATURES, day=YESTERDAY)
    told(daemon, at("02:06"), GOLD, day=YESTERDAY)  # both by hand
    assert daemon.requested_at(at("02:07"), GOLD) == set()
    told(daemon, at("12:00"), FEATURES, day=YESTERDAY)  # again, for events that came late
    assert daemon.requested_at(at("12:01"), GOLD) == set()


def test_a_night_is_followed_by_the_histories_and_their_replay_and_by_its_watch(daemon):
    told(daemon, at("02:10"), GOLD, day=YESTERDAY)
    daemon.now = at("02:11")
    requested = {day: set(map(name_of, keys)) for day, keys in daemon.look().items()}
    assert requested == {
        None: {"swipes/online_features", "api_agrees_with_gold", "swipes/outcomes"},
        YESTERDAY: {"swipes/drift", "swipes/costs"},
    }


def test_outcomes_are_looked_at_once_a_night_though_events_are_written_all_day(daemon):
    told(daemon, at("02:10"), GOLD, day=YESTERDAY)
    assert daemon.requested_at(at("02:11"), "swipes/outcomes") == {None}
    told(daemon, at("12:00"), EVENTS)
    assert daemon.requested_at(at("12:01"), "swipes/outcomes") == set()


def test_outcomes_of_a_table_of_their_own_are_looked_at_as_they_come(home, instance):
    declare(home, DECLARED, outcomes={"table": "silver.chargebacks"})
    daemon = Daemon(home, instance, at("22:00", 19))
    daemon.look()
    told(daemon, at("02:10"), GOLD, day=YESTERDAY)
    daemon.requested_at(at("02:11"), "swipes/outcomes")
    told(daemon, at("12:00"), "silver/chargebacks")
    assert daemon.requested_at(at("12:01"), "swipes/outcomes") == {None}


def test_a_day_is_counted_again_when_its_outcomes_are_known(home, instance):
    declare(home, DECLARED, outcomes={"after_days": 7})
    daemon = Daemon(home, instance, at("22:00", 19))
    daemon.look()
    for day in range(10, 20):
        told(daemon, at("22:10", 19), FEATURES, day=f"2026-11-{day}")
    times = (("01:59", 20), ("02:00", 20), ("02:01", 20), ("12:00", 20), ("02:00", 21))
    requested = [daemon.requested_at(at(*time), FEATURES) for time in times]
    assert requested == [set(), {"2026-11-12"}, set(), set(), {"2026-11-13"}]


def test_a_day_that_never_was_counted_is_not_counted_for_its_outcomes(home, instance):
    declare(home, DECLARED, outcomes={"after_days": 7})
    daemon = Daemon(home, instance, at("22:00", 19))
    daemon.look()
    assert daemon.requested_at(at("02:00"), FEATURES) == set()


def test_features_that_failed_are_tried_once_more_half_way_to_the_deadline(daemon):
    told(daemon, at("01:00"), EVENTS)
    assert daemon.requested_at(at("02:00"), FEATURES) == {YESTERDAY}
    key = dg.AssetKey(FEATURES.split("/"))
    with daemon.clock():
        run = daemon.instance.create_run_for_job(
            daemon.job.get_subset(asset_selection={key}),
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": YESTERDAY},
            asset_selection={key},
        )
        daemon.instance.report_run_failed(run)
    times = ("02:01", "04:59", "05:00", "05:01")
    assert [daemon.requested_at(at(time), FEATURES) for time in times] == [set(), set(), {YESTERDAY}, set()]
