"""Nights at once, in threads and in processes; foreign commits among them; and a reader that looks all the time."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyiceberg.catalog.sql import SqlCatalogBaseTable
from sqlalchemy import event
from sqlalchemy.schema import CreateTable

from backends.batch_scoring import Counted
from backends.lakehouse.catalog import Lakehouse
from backends.nights import published_nights
from models.errors import PublishConflictError
from tests.backends.killed_night import NightProcess, outcomes, scorer_of
from tests.backends.nights import (
    FRIDAY,
    LAX,
    POPULATION,
    PREDICTIONS,
    SATURDAY,
    WatchedEngine,
    audit_branches,
    customers,
    publish,
    published_rows,
    rejected_rows,
    scored_directly,
    scores_by_key,
    with_column,
    write_files,
)

SUNDAY = SATURDAY + timedelta(days=1)


@pytest.fixture
def population(lake) -> pa.Table:
    """Return the rows that are scored; one more has no key."""
    rows = customers(3001)
    rows = with_column(rows, "customer_id", [*range(3000), None])
    write_files(lake, POPULATION, [rows.slice(start, 500) for start in range(0, 3001, 500)])
    return rows.slice(0, 3000)


@pytest.fixture
def friday(lake, population) -> Iterator[None]:
    """Publish Friday; whatever happens, it is there in the end."""
    publish(lake, scored_on=FRIDAY, limits=LAX)
    before = published_rows(lake, FRIDAY)
    yield
    assert published_rows(lake, FRIDAY).equals(before)


def versions_on_main(lake: Lakehouse, population: pa.Table, days: Any) -> list[int]:
    """Return the version that scored each day; the day must have all its rows of that version, and no others."""
    found = []
    for day in days:
        rows = published_rows(lake, day)
        (version,) = pc.unique(rows["model_version"]).to_pylist()
        assert scores_by_key(rows) == scored_directly(population, scorer_of(version))
        assert published_nights(lake, PREDICTIONS)[day.isoformat()].properties["model_version"] == str(version)
        assert [row["customer_id"] for row in rejected_rows(lake, day)] == [None]
        found.append(version)
    assert lake.snapshot(PREDICTIONS).rows == population.num_rows * len(published_nights(lake, PREDICTIONS))
    return found


# --- nights at once -------------------------------------------------------------------------------------------------


def test_two_days_in_two_processes_both_publish(lake, friday, population, settings):
    processes = [NightProcess(settings.home, version, scored_on=day) for version, day in ((1, SATURDAY), (2, SUNDAY))]
    assert outcomes(processes) == ["published", "published"]
    assert versions_on_main(lake, population, [SATURDAY, SUNDAY]) == [1, 2]
    assert audit_branches(lake) == set()


def test_one_day_in_two_processes_is_published_once_and_whole(lake, friday, population, settings):
    ends = outcomes([NightProcess(settings.home, version) for version in (1, 2)])
    assert "published" in ends
    assert set(ends) <= {"published", "PublishConflictError"}
    (main,) = versions_on_main(lake, population, [SATURDAY])
    assert ends[main - 1] == "published"
    publish(lake, scorer=scorer_of(3), version=3, limits=LAX)
    assert versions_on_main(lake, population, [SATURDAY]) == [3]
    assert audit_branches(lake) == set()


def test_four_days_in_four_threads_all_publish(lake, friday, population, settings):
    days = [SATURDAY + timedelta(days=i) for i in range(4)]

    def score(version: int) -> None:
        with Lakehouse.open(settings) as own:
            publish(own, scorer=scorer_of(version), version=version, limits=LAX, scored_on=days[version])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(score, range(4)))
    assert versions_on_main(lake, population, days) == [0, 1, 2, 3]
    assert audit_branches(lake) == set()


def test_a_reader_sees_the_old_night_or_the_new_one_and_nothing_between(lake, friday, population, settings):
    publish(lake, scorer=scorer_of(1), version=1, limits=LAX)
    expected = {version: scored_directly(population, scorer_of(version)) for version in (1, 2)}
    over = threading.Event()

    def rerun() -> None:
        try:
            with Lakehouse.open(settings) as own:
                for version in (2, 1, 2, 1, 2):
                    publish(own, scorer=scorer_of(version), version=version, limits=LAX)
        finally:
            over.set()

    seen = []
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(rerun)
        while not over.is_set() or not seen or seen[-1] != 2:
            rows = published_rows(lake)
            (version,) = pc.unique(rows["model_version"]).to_pylist()
            assert scores_by_key(rows) == expected[version]
            seen.append(version)
            if writer.done():
                writer.result()
    assert set(seen) == {1, 2}


# --- commits of others ----------------------------------------------------------------------------------------------


def meanwhile(kind: type, happens: Callable[[], object]) -> WatchedEngine:
    """Let something happen once, when the engine has made results of a kind: counts are the audit's."""
    done: list[bool] = []

    def watch(results: list[Any]) -> list[Any]:
        if not done and results and isinstance(results[0], kind):
            done.append(True)
            happens()
        return results

    return WatchedEngine(watch)


@pytest.fixture
def elsewhere(settings) -> Callable[..., None]:
    """Publish a night as another process would."""

    def publish_elsewhere(**changes: Any) -> None:
        with Lakehouse.open(settings) as other:
            publish(other, **{"scorer": scorer_of(2), "version": 2, "limits": LAX, **changes})

    return publish_elsewhere


OURS = {"scorer": scorer_of(1), "version": 1, "limits": LAX}


def test_another_day_that_is_published_during_the_audit_is_no_conflict(lake, friday, population, elsewhere):
    engine = meanwhile(Counted, lambda: elsewhere(scored_on=SUNDAY))
    published = publish(lake, engine, **OURS)
    assert versions_on_main(lake, population, [SATURDAY, SUNDAY]) == [1, 2]
    assert published.snapshot == lake.snapshot(PREDICTIONS)
    assert audit_branches(lake) == set()


def test_the_same_day_that_is_published_during_the_audit_is_a_conflict(lake, friday, population, elsewhere):
    with pytest.raises(PublishConflictError, match="run again"):
        publish(lake, meanwhile(Counted, elsewhere), **OURS)
    assert versions_on_main(lake, population, [SATURDAY]) == [2]
    publish(lake, **OURS)
    assert versions_on_main(lake, population, [SATURDAY]) == [1]
    assert audit_branches(lake) == set()


@pytest.mark.parametrize("day", [SATURDAY, SUNDAY])
def test_foreign_rows_that_come_during_the_audit_are_never_overwritten(lake, friday, population, settings, day):
    foreign = published_rows(lake, FRIDAY).slice(0, 3)
    foreign = with_column(foreign, "scored_on", [day] * 3)

    def append() -> None:
        with Lakehouse.open(settings) as other:
            other.load(PREDICTIONS).append(foreign.cast(other.schema(PREDICTIONS)))

    with pytest.raises(PublishConflictError, match="on main is no published night"):
        publish(lake, meanwhile(Counted, append), **OURS)
    assert published_rows(lake, day)["customer_id"].to_pylist() == [0, 1, 2]
    assert audit_branches(lake) == set()
    assert set(published_nights(lake, PREDICTIONS)) == {"2026-11-20"}


def test_rows_that_others_delete_during_the_audit_stay_deleted(lake, friday, population, settings):
    publish(lake, **OURS)

    def delete() -> None:
        with Lakehouse.open(settings) as other:
            other.load(PREDICTIONS).delete(f"scored_on = '{SATURDAY}' and customer_id < 100")

    with pytest.raises(PublishConflictError, match="on main is no published night"):
        publish(lake, meanwhile(Counted, delete), scored_on=SUNDAY, **OURS)
    assert min(published_rows(lake)["customer_id"].to_pylist()) == 100
    assert published_rows(lake, SUNDAY).num_rows == 0


def test_a_new_catalog_whose_every_table_another_makes_first_is_opened(settings):
    tables = list(SqlCatalogBaseTable.metadata.tables.values())

    def made_by_another(table: Any, connection: Any, **_: Any) -> None:  # after it was found missing
        with closing(sqlite3.connect(connection.engine.url.database)) as other:
            other.execute(str(CreateTable(table).compile(dialect=connection.dialect)))

    for table in tables:
        event.listen(table, "before_create", made_by_another)
    try:
        with Lakehouse.open(settings) as lake:
            lake.ensure_table("gold.first", customers(1).schema)
    finally:
        for table in tables:
            event.remove(table, "before_create", made_by_another)
    assert len(tables) == 2  # one race each: every CREATE came too late


@pytest.mark.parametrize("attempt", range(4))
def test_a_table_that_four_make_at_once_is_made_once(settings, attempt):
    schema, together = customers(1).schema, threading.Barrier(4, timeout=60)

    def make() -> None:
        with Lakehouse.open(settings) as lake:
            together.wait()
            lake.ensure_table(f"new_{attempt}.table", schema, "customer_id")

    with ThreadPoolExecutor(4) as pool:
        for made in [pool.submit(make) for _ in range(4)]:
            made.result()
    with Lakehouse.open(settings) as lake:
        (snapshot,) = lake.history(f"new_{attempt}.table")
        (field,) = lake.load(f"new_{attempt}.table").spec().fields
    assert snapshot.rows == 0
    assert field.name == "customer_id"
