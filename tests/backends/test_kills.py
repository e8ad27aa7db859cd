"""A night that is killed costs a rerun and nothing else: at exact moments, and at random ones of all its steps."""

import random
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.nights import published_nights
from backends.settings import Settings
from tests.backends.killed_night import MOMENTS, NightProcess, scorer_of
from tests.backends.nights import (
    FRIDAY,
    LAX,
    POPULATION,
    PREDICTIONS,
    SATURDAY,
    audit_branches,
    customers,
    parts_on_disk,
    publish,
    published_rows,
    rejected_rows,
    scored_directly,
    scores_by_key,
    with_column,
    write_files,
)

KILLS = 20
ROWS = 12_000


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Return customers of whom a few break the contract."""
    return with_column(customers(ROWS), "tenure_months", np.arange(ROWS, dtype=np.int32) % 605)


@pytest.fixture(scope="module")
def scores(rows) -> dict[int, dict[int | str, float]]:
    """Return what the rows that keep the contract score, by version."""
    good = rows.filter(pc.less_equal(rows["tenure_months"], 600))
    return {version: scored_directly(good, scorer_of(version)) for version in (1, 2)}


@pytest.fixture(scope="module")
def rejected(rows) -> list[int]:
    return sorted(rows.filter(pc.greater(rows["tenure_months"], 600))["customer_id"].to_pylist())


@pytest.fixture
def nights(lake, rows, scores) -> Lakehouse:
    """Publish Friday and Saturday with version 1; however often a later night dies, Friday is as it was."""
    write_files(lake, POPULATION, [rows.slice(start, ROWS // 10) for start in range(0, ROWS, ROWS // 10)])
    for day in (FRIDAY, SATURDAY):
        publish(lake, scorer=scorer_of(1), version=1, limits=LAX, scored_on=day)
    yield lake
    assert scores_by_key(published_rows(lake, FRIDAY)) == scores[1]


def version_on_main(lake: Lakehouse, scores: dict[int, dict[int | str, float]]) -> int:
    """Return which version's night main has; it must have all of it, row by row, and nothing else."""
    found = published_rows(lake)
    (version,) = pc.unique(found["model_version"]).to_pylist()
    assert scores_by_key(found) == scores[version]
    assert published_nights(lake, PREDICTIONS)["2026-11-21"].properties["model_version"] == str(version)
    return version


def assert_rerun_mends_it(lake: Lakehouse, version: int, scores: dict[int, dict[int | str, float]], rejected) -> None:
    publish(lake, scorer=scorer_of(version), version=version, limits=LAX)
    assert version_on_main(lake, scores) == version
    assert sorted(row["customer_id"] for row in rejected_rows(lake)) == rejected
    assert audit_branches(lake) == set()
    assert lake.snapshot(PREDICTIONS).rows == 2 * len(scores[version])


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_night_that_dies_at_an_exact_moment(nights, settings, scores, rejected, moment):
    parts = set(parts_on_disk(nights))
    night = NightProcess(settings.home, 2, moment)
    night.go()
    assert night.outcome() == "killed"
    assert version_on_main(nights, scores) == (2 if moment == "main has moved" else 1)
    assert sorted(row["customer_id"] for row in rejected_rows(nights)) == rejected
    assert set(parts_on_disk(nights)) > parts  # it was on its way
    assert_rerun_mends_it(nights, 2, scores, rejected)


def test_a_night_that_is_killed_at_any_of_twenty_random_moments(nights, settings, scores, rejected):
    whole = NightProcess(settings.home, 2)
    begun = time.perf_counter()
    whole.go()
    assert whole.outcome() == "published"
    seconds = time.perf_counter() - begun
    chance, main = random.Random(20261121), 2
    for kill in range(KILLS):
        version = 3 - main  # the other one, so that the old night and the new one differ in every row
        night = NightProcess(settings.home, version)
        night.go()
        time.sleep(seconds * (kill + chance.random()) / KILLS)
        night.kill()
        outcome = night.outcome()
        assert version_on_main(nights, scores) in ({version} if outcome == "published" else {main, version})
        assert sorted(row["customer_id"] for row in rejected_rows(nights)) == rejected
        assert_rerun_mends_it(nights, version, scores, rejected)
        main = version


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_very_first_night_can_be_killed_too(lake, settings, rows, scores, rejected, share, a_first_night):
    write_files(lake, POPULATION, [rows])
    night = NightProcess(settings.home, 1)
    night.go()
    time.sleep(share * a_first_night)
    night.kill()
    night.outcome()
    if lake.catalog.table_exists(PREDICTIONS) and lake.load(PREDICTIONS).current_snapshot():
        assert scores_by_key(published_rows(lake)) in ({}, scores[1])
    publish(lake, scorer=scorer_of(1), version=1, limits=LAX)
    assert scores_by_key(published_rows(lake)) == scores[1]
    assert sorted(row["customer_id"] for row in rejected_rows(lake)) == rejected
    assert audit_branches(lake) == set()


@pytest.fixture(scope="module")
def a_first_night(tmp_path_factory, rows) -> float:
    """Return how many seconds a first night takes here."""
    home: Path = tmp_path_factory.mktemp("timed")
    with Lakehouse.open(Settings(home=home)) as lake:
        write_files(lake, POPULATION, [rows])
    night, begun = NightProcess(home, 1), time.perf_counter()
    night.go()
    assert night.outcome() == "published"
    return time.perf_counter() - begun
