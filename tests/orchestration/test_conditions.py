"""When things are requested, one rule at a time: looks at given times, and events that are told to Dagster by hand."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from orchestration.conditions import conditions
from orchestration.definitions import assemble
from tests.lives import TINY, declare
from tests.orchestration.daemon import Daemon

POPULATION, CHAMPION, GOLD = "silver/active_customers", "tiny/champion", "gold/tiny_predictions"
ONLINE, BENTO, PARITY, DRIFT = "tiny/online_features", "tiny/bento", "api_agrees_with_gold", "tiny/drift"
A, B = "a" * 64, "b" * 64  # sha256 of two champions


def at(time: str, day: int = 20, month: int = 11, zone: str = "UTC", fold: int = 0) -> datetime:
    hour, minute = map(int, time.split(":"))
    return datetime(2026, month, day, hour, minute, tzinfo=ZoneInfo(zone), fold=fold)


@pytest.fixture
def daemon(home, instance):
    """Make the daemon, which has looked once; `champion` was told before."""

    def make(since: datetime | None = None, champion: str | None = A, **when) -> Daemon:
        declare(home, TINY, predictions=when)
        daemon = Daemon(home, instance, since or at("22:00", 19))
        daemon.look()
        if champion:
            daemon.tell(CHAMPION, champion)
            daemon.look()
        return daemon

    return make


def told(daemon: Daemon, time: datetime, asset: str, version: str | None = None, day: str | None = None) -> None:
    daemon.now = time.astimezone(UTC)
    daemon.tell(asset, version, day)


# --- the night ------------------------------------------------------------------------------------------------------


def test_the_night_waits_for_its_hour_and_is_requested_once(daemon):
    night = daemon()
    told(night, at("01:30"), POPULATION)
    times = ("01:31", "01:59", "02:00", "02:01", "02:30", "08:00", "23:59")
    assert [night.requested_at(at(time), GOLD) for time in times] == [set(), set(), {"2026-11-20"}, *[set()] * 4]


def test_the_night_waits_for_its_population(daemon):
    night = daemon()
    assert night.requested_at(at("02:00"), GOLD) == set()
    assert night.requested_at(at("05:00"), GOLD) == set()
    told(night, at("05:10"), POPULATION)
    assert night.requested_at(at("05:11"), GOLD) == {"2026-11-20"}


def test_a_population_that_was_written_before_midnight_is_yesterdays(daemon):
    night = daemon()
    told(night, at("23:59", 19), POPULATION)
    assert night.requested_at(at("02:00"), GOLD) == set()


def test_the_night_waits_for_a_first_champion(daemon):
    night = daemon(champion=None)
    told(night, at("01:30"), POPULATION)
    assert night.requested_at(at("02:00"), GOLD) == set()
    told(night, at("11:00"), CHAMPION, A)
    assert night.requested_at(at("11:01"), GOLD) == {"2026-11-20"}


@pytest.mark.parametrize("down", [(at("22:10", 19), at("09:30")), (at("01:45"), at("09:30"))])
def test_after_a_stop_of_the_daemon_the_latest_day_is_requested(daemon, down):
    """Whether the population was told before, meanwhile or after."""
    begin, end = down
    for told_at in (at("01:30"), end):
        night = daemon()
        night.requested_at(begin, GOLD)
        told(night, told_at, POPULATION)
        assert night.requested_at(end, GOLD) | night.requested_at(at("09:31"), GOLD) == {"2026-11-20"}


def test_a_population_that_was_told_while_the_daemon_was_down_over_midnight_counts_for_its_own_day(daemon):
    night = daemon()
    told(night, at("23:30", 19), POPULATION)
    assert night.requested_at(at("03:00"), GOLD) == set()
    told(night, at("03:10"), POPULATION)
    assert night.requested_at(at("03:11"), GOLD) == {"2026-11-20"}


def test_after_a_week_without_the_daemon_only_today_is_requested(daemon):
    night = daemon()
    for day in range(20, 27):
        told(night, at("01:30", day), POPULATION)
    assert night.requested_at(at("09:00", 26), GOLD) == {"2026-11-26"}


def test_a_day_that_is_there_already_is_left_as_it_is(daemon):
    night = daemon()
    told(night, at("00:30"), GOLD, day="2026-11-20")  # by hand
    told(night, at("01:30"), POPULATION)
    assert night.requested_at(at("02:00"), GOLD) == set()


def test_another_day_that_was_made_up_for_does_not_stand_for_today(daemon):
    night = daemon()
    told(night, at("01:30"), POPULATION)
    told(night, at("01:45"), GOLD, day="2026-11-12")
    assert night.requested_at(at("02:00"), GOLD) == {"2026-11-20"}


def test_a_location_that_starts_after_the_hour_begins_with_the_next_night(daemon):
    night = daemon(since=at("10:00"))
    told(night, at("10:05"), POPULATION)
    assert night.requested_at(at("10:06"), GOLD) == set()
    told(night, at("01:30", 21), POPULATION)
    assert night.requested_at(at("02:00", 21), GOLD) == {"2026-11-21"}


def test_midnight_can_be_the_hour(daemon):
    night = daemon(score_at="00:00")
    told(night, at("00:10"), POPULATION)
    assert night.requested_at(at("00:11"), GOLD) == {"2026-11-20"}
    assert night.requested_at(at("00:12"), GOLD) == set()


def test_a_rejected_candidate_does_not_stop_the_night(daemon, instance):
    night = daemon()
    told(night, at("01:30"), POPULATION)
    with night.clock():
        gate = dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(["tiny", "champion"]), check_name="is_calibrated", passed=False
        )
        instance.report_runless_asset_event(gate)
    assert night.requested_at(at("02:00"), GOLD) == {"2026-11-20"}


@pytest.mark.parametrize(
    ("score_at", "day", "month", "hour"),
    [
        ("02:00", 29, 3, at("03:00", 29, 3, "Europe/Berlin")),  # 02:00 does not exist
        ("02:30", 29, 3, at("03:00", 29, 3, "Europe/Berlin")),
        ("02:00", 25, 10, at("02:00", 25, 10, "Europe/Berlin", fold=1)),  # 02:00 exists twice
        ("02:30", 25, 10, at("02:30", 25, 10, "Europe/Berlin", fold=1)),
        ("03:00", 25, 10, at("03:00", 25, 10, "Europe/Berlin")),
    ],
)
def test_a_change_of_the_clock_neither_skips_nor_doubles_a_night(daemon, score_at, day, month, hour):
    night = daemon(since=at("22:00", day - 1, month), score_at=score_at, timezone="Europe/Berlin")
    told(night, at("00:30", day, month, "Europe/Berlin"), POPULATION)
    begin = at("01:00", day, month, "Europe/Berlin").timestamp()
    looks = [datetime.fromtimestamp(begin + 1800 * number, UTC) for number in range(9)]
    assert [look for look in looks if night.requested_at(look, GOLD)] == [hour.astimezone(UTC)]


# --- what follows ---------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(daemon):
    """A daemon after a night, and after what followed it."""
    night = daemon()
    told(night, at("02:01"), GOLD, day="2026-11-20")
    night.requested_at(at("02:02"), ONLINE)
    told(night, at("02:03"), ONLINE)
    night.requested_at(at("02:04"), ONLINE)
    return night


def test_a_night_is_followed_by_the_online_features_and_their_replay_and_by_its_watch(daemon):
    night = daemon()
    told(night, at("02:01"), GOLD, day="2026-11-20")
    night.now = at("02:02")
    requested = night.look()
    names = {
        day: {getattr(key, "name", None) or key.to_user_string() for key in keys} for day, keys in requested.items()
    }
    assert names == {None: {ONLINE, PARITY, "tiny/outcomes"}, "2026-11-20": {DRIFT, "tiny/costs"}}


def test_the_newest_night_reloads_and_an_old_day_does_not(scored):
    told(scored, at("11:00"), GOLD, day="2026-11-12")
    assert scored.requested_at(at("11:01"), ONLINE) == set()
    told(scored, at("11:10"), GOLD, day="2026-11-20")
    assert scored.requested_at(at("11:11"), ONLINE) == {None}


def test_a_night_that_ends_after_midnight_still_reloads(scored):
    told(scored, at("23:59"), GOLD, day="2026-11-20")
    assert scored.requested_at(at("00:01", 21), ONLINE) == {None}


@pytest.mark.parametrize("asset", [DRIFT, "tiny/costs"])
def test_an_old_day_that_was_made_up_for_is_watched(scored, asset):
    told(scored, at("11:00"), GOLD, day="2026-11-12")
    assert scored.requested_at(at("11:01"), asset) == {"2026-11-12"}


def test_a_new_champion_gets_a_bento_and_the_online_features_its_contract(scored):
    told(scored, at("12:00"), CHAMPION, B)
    scored.now = at("12:01")
    assert {dg.AssetKey(["tiny", "bento"]), dg.AssetKey(["tiny", "online_features"])} <= scored.look()[None]
    assert scored.requested_at(at("12:02"), BENTO) == set()


def test_the_same_champion_again_changes_nothing(scored):
    told(scored, at("12:00"), CHAMPION, A)
    assert scored.requested_at(at("12:01"), BENTO) | scored.requested_at(at("12:02"), ONLINE) == set()


def test_a_champion_that_changes_while_its_bento_is_requested_gets_another(scored):
    told(scored, at("12:00"), CHAMPION, B)
    assert scored.requested_at(at("12:01"), BENTO) == {None}
    told(scored, at("12:01"), CHAMPION, A)  # in the very interval in which `eager()` forgets it
    assert scored.requested_at(at("12:02"), BENTO) == {None}
    assert scored.requested_at(at("12:03"), BENTO) == set()


def test_a_night_that_is_published_while_the_features_of_another_are_loaded_reloads_them(scored):
    told(scored, at("12:00"), CHAMPION, B)
    assert scored.requested_at(at("12:01"), ONLINE) == {None}
    scored.requested_at(at("12:02"), ONLINE)
    told(scored, at("12:03"), GOLD, day="2026-11-20")
    told(scored, at("12:03"), ONLINE)  # which was read before
    assert scored.requested_at(at("12:04"), ONLINE) == {None}


@pytest.mark.parametrize(("asset", "event"), [(ONLINE, CHAMPION), ("tiny/outcomes", "silver/tiny_examples")])
def test_what_reads_nights_waits_for_a_first_one(daemon, asset, event):
    first = daemon(champion=None)
    told(first, at("22:30", 19), event, A)
    assert first.requested_at(at("22:31", 19), asset) == set()
    told(first, at("02:01"), GOLD, day="2026-11-20")
    assert first.requested_at(at("02:02"), asset) == {None}


def test_requests_are_looked_at_once_a_day(scored):
    watched = "tiny/request_drift"
    looks = {}
    for time, day in (("03:15", 20), ("04:15", 20), ("12:15", 20), ("01:15", 21), ("02:15", 21), ("03:15", 21)):
        told(scored, at(time, day), "silver/tiny_requests")
        looks[f"{day} {time}"] = scored.requested_at(at(time, day).replace(minute=16), watched)
    assert [time for time, days in looks.items() if days] == ["20 03:15", "21 02:15"]


def test_new_outcomes_are_looked_at(scored):
    told(scored, at("14:00"), "silver/tiny_examples", "iceberg:7")
    assert scored.requested_at(at("14:01"), "tiny/outcomes") == {None}


# --- what stands in the way -----------------------------------------------------------------------------------------


def test_the_replay_waits_for_features_that_are_complete(scored, instance):
    told(scored, at("12:00"), ONLINE)
    complete = {"asset_key": dg.AssetKey(["tiny", "online_features"]), "check_name": "every_entity_is_online"}
    with scored.clock():
        instance.report_runless_asset_event(dg.AssetCheckEvaluation(passed=False, **complete))
    assert scored.requested_at(at("12:01"), PARITY) == set()
    scored.now = at("12:10")
    with scored.clock():
        instance.report_runless_asset_event(dg.AssetCheckEvaluation(passed=True, **complete))
    assert scored.requested_at(at("12:11"), PARITY) == {None}


def planned(daemon: Daemon, asset: str, day: str | None = None) -> dg.DagsterRun:
    """Start a run of an asset, which does not end."""
    key = dg.AssetKey(asset.split("/"))
    with daemon.clock():
        return daemon.instance.create_run_for_job(
            daemon.job.get_subset(asset_selection={key}),
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": day} if day else {},
            asset_selection={key},
        )


def fail(daemon: Daemon, run: dg.DagsterRun) -> None:
    with daemon.clock():
        daemon.instance.report_run_failed(run)


def test_what_runs_is_not_requested_again(daemon):
    night = daemon()
    told(night, at("01:30"), POPULATION)
    run = planned(night, GOLD, "2026-11-20")
    assert night.requested_at(at("02:00"), GOLD) == set()
    fail(night, run)
    assert night.requested_at(at("02:01"), GOLD) == {"2026-11-20"}


def test_a_night_that_failed_is_tried_once_more_half_way_to_the_deadline(daemon):
    night = daemon()
    told(night, at("01:30"), POPULATION)
    assert night.requested_at(at("02:00"), GOLD) == {"2026-11-20"}
    fail(night, planned(night, GOLD, "2026-11-20"))
    times = ("02:01", "04:59", "05:00", "05:01", "06:00")
    assert [night.requested_at(at(time), GOLD) for time in times] == [set(), set(), {"2026-11-20"}, set(), set()]


def test_what_followed_and_failed_is_tried_once_more_a_day(scored):
    fail(scored, planned(scored, ONLINE))
    times = ("04:00", "07:59", "08:00", "08:01")
    assert [scored.requested_at(at(time), ONLINE) for time in times] == [set(), set(), {None}, set()]


# --- the training ---------------------------------------------------------------------------------------------------


def test_nothing_of_the_training_is_made_by_itself(home):
    declare(home, TINY)
    graph = assemble(home).resolve_asset_graph()
    for stage in ("training_set", "trained_model", "quantized_model", "champion"):
        assert graph.get(dg.AssetKey(["tiny", stage])).automation_condition is None


def test_every_asset_and_check_that_has_a_condition_is_there(home):
    made = conditions(declare(home, TINY))
    graph = assemble(home).resolve_asset_graph()
    for key, condition in made.items():
        assert graph.get(key).automation_condition == condition, key
