"""Days that are made up for: each from the population as it stood on that day, and the same however often they run."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Snapshot
from backends.nights import population_of_day, published_nights
from models.errors import TableNotFoundError
from tests.backends.nights import (
    LAX,
    POPULATION,
    PREDICTIONS,
    audit_branches,
    customers,
    night,
    publish,
    published_rows,
    scored_directly,
    scores_by_key,
    turn_back,
    write_files,
)

BERLIN = ZoneInfo("Europe/Berlin")


def write_at(lake: Lakehouse, moment: datetime, rows: int) -> Snapshot:
    """Write a population as if it had been committed at a moment of the past."""
    snapshot = write_files(lake, POPULATION, [customers(rows)])
    turn_back(lake, POPULATION, {snapshot.id: moment})
    return lake.snapshot(POPULATION)


def at(day: int, hour: int, minute: int = 0, second: int = 0, zone: ZoneInfo | None = None) -> datetime:
    return datetime(2025, 3, day, hour, minute, second, tzinfo=zone or BERLIN)


def read_on(lake: Lakehouse, day: date, timezone: str = "Europe/Berlin") -> int | None:
    """Return how many rows the population had at the end of a day; None where the current one is read."""
    found = population_of_day(lake, POPULATION, day, timezone)
    return found.rows if found else None


# --- which population is read ---------------------------------------------------------------------------------------


def test_a_day_is_read_as_it_stood_at_its_end(lake):
    lake.ensure_table(POPULATION, customers(1).schema)
    turn_back(lake, POPULATION, {lake.snapshot(POPULATION).id: at(1, 0)})
    write_at(lake, at(10, 12), 10)
    write_at(lake, at(12, 23, 59, 59), 20)
    write_at(lake, at(13, 0), 30)
    days = {day: read_on(lake, date(2025, 3, day)) for day in (9, 10, 11, 12, 13, 14)}
    assert days == {9: 0, 10: 10, 11: 10, 12: 20, 13: 30, 14: 30}


def test_before_the_first_snapshot_and_from_today_on_the_current_population_is_read(lake):
    write_files(lake, POPULATION, [customers(10)])
    today = datetime.now(BERLIN).date()
    assert read_on(lake, date(2025, 3, 1)) is None
    assert read_on(lake, today) is None
    assert read_on(lake, today + timedelta(days=1)) is None


@pytest.mark.parametrize(
    ("day", "moment", "counts"),
    [
        (date(2025, 3, 30), datetime(2025, 3, 30, 21, 59, 59, tzinfo=UTC), True),  # 23 hours long: ends at 22:00 UTC
        (date(2025, 3, 30), datetime(2025, 3, 30, 22, 0, 0, tzinfo=UTC), False),
        (date(2025, 3, 29), datetime(2025, 3, 29, 22, 59, 59, tzinfo=UTC), True),  # still winter: ends at 23:00 UTC
        (date(2025, 3, 29), datetime(2025, 3, 29, 23, 0, 0, tzinfo=UTC), False),
        (date(2025, 10, 26), datetime(2025, 10, 26, 22, 59, 59, tzinfo=UTC), True),  # 25 hours long: 23:00 UTC
        (date(2025, 10, 26), datetime(2025, 10, 26, 23, 0, 0, tzinfo=UTC), False),
        (date(2025, 10, 25), datetime(2025, 10, 25, 22, 0, 0, tzinfo=UTC), False),
    ],
)
def test_a_day_ends_at_midnight_of_its_time_zone_when_clocks_change_too(lake, day, moment, counts):
    lake.ensure_table(POPULATION, customers(1).schema)
    turn_back(lake, POPULATION, {lake.snapshot(POPULATION).id: at(1, 0)})
    write_at(lake, moment, 10)
    assert read_on(lake, day) == (10 if counts else 0)


@pytest.mark.parametrize(("timezone", "rows"), [("Pacific/Auckland", 0), ("UTC", 10), ("America/Los_Angeles", 10)])
def test_the_same_day_ends_at_other_moments_in_other_time_zones(lake, timezone, rows):
    lake.ensure_table(POPULATION, customers(1).schema)
    turn_back(lake, POPULATION, {lake.snapshot(POPULATION).id: at(1, 0)})
    write_at(lake, at(10, 18, zone=ZoneInfo("UTC")), 10)
    assert read_on(lake, date(2025, 3, 10), timezone) == rows


def test_a_population_that_was_rolled_back_is_read_as_it_was_then(lake):
    first = write_at(lake, at(10, 12), 10)
    write_at(lake, at(11, 12), 20)
    lake.load(POPULATION).manage_snapshots().set_current_snapshot(first.id).commit()
    assert (read_on(lake, date(2025, 3, 10)), read_on(lake, date(2025, 3, 11))) == (10, 20)
    assert lake.snapshot(POPULATION).rows == 10


def test_a_snapshot_that_is_expired_is_not_found_and_the_current_population_is_read(lake):
    first = write_at(lake, at(10, 12), 10)
    write_at(lake, at(11, 12), 20)
    lake.load(POPULATION).maintenance.expire_snapshots().by_id(first.id).commit()
    assert (read_on(lake, date(2025, 3, 10)), read_on(lake, date(2025, 3, 11))) == (None, 20)


def test_a_missing_population_is_named(lake):
    with pytest.raises(TableNotFoundError, match=r"'silver\.active_customers'"):
        population_of_day(lake, POPULATION, date(2025, 3, 1), "UTC")


# --- a range of days ------------------------------------------------------------------------------------------------

DAYS = [date(2025, 3, day) for day in (10, 11, 12)]


def backfill(lake: Lakehouse, days: list[date]) -> None:
    for day in days:
        past = population_of_day(lake, POPULATION, day, "UTC")
        publish(lake, scored_on=day, population_snapshot=past.id if past else None, limits=LAX)


def test_a_range_of_days_is_the_same_however_often_and_in_whatever_order_it_is_scored(lake):
    for day, rows in zip(DAYS, (100, 200, 300), strict=True):
        write_at(lake, datetime(day.year, day.month, day.day, 12, tzinfo=UTC), rows)
    write_files(lake, POPULATION, [customers(400)])  # today's, which no past day may see
    backfill(lake, DAYS)
    before = {day: published_rows(lake, day) for day in DAYS}
    sources = {day: night.properties["source_snapshot"] for day, night in published_nights(lake, PREDICTIONS).items()}
    for day, rows in zip(DAYS, (100, 200, 300), strict=True):
        assert scores_by_key(before[day]) == scored_directly(customers(rows), night().scorer)
    backfill(lake, [*reversed(DAYS), DAYS[1]])
    assert all(published_rows(lake, day).equals(before[day]) for day in DAYS)
    again = {day: night.properties["source_snapshot"] for day, night in published_nights(lake, PREDICTIONS).items()}
    assert again == sources
    assert len(set(sources.values())) == 3
    assert lake.snapshot(PREDICTIONS).rows == 600
    assert audit_branches(lake) == set()
