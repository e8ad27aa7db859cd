"""From a real lake into a real online store: the same customers in the same state as the newest night's."""

import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from backends.batch_scoring import score_and_publish
from backends.engines import LocalEngine
from backends.feature_loading import Loaded, load_features
from backends.lakehouse.catalog import Lakehouse
from backends.online_store import OnlineStore, open_store
from models.audit import Limits
from models.contract import Contract
from models.encoding import encode_arrow
from models.errors import (
    ColumnError,
    LakehouseError,
    SnapshotNotFoundError,
    StoreUnavailableError,
)
from models.scoring import Scorer
from tests.backends.nights import FRIDAY, POPULATION, PREDICTIONS, SATURDAY, customers, night, with_column, write_files
from tests.tiny_model import tiny_contract, tiny_onnx

CONTRACT = tiny_contract()


@pytest.fixture
def store(online_uri) -> OnlineStore:
    return open_store(online_uri, CONTRACT.model)


def publish(lake: Lakehouse, **changes):
    return score_and_publish(
        lake, LocalEngine(2), night(**({"limits": Limits(max_shift=100, max_rejected_share=0.1)} | changes))
    )


def load(lake: Lakehouse, store: OnlineStore, contract: Contract = CONTRACT, time_column: str | None = None) -> Loaded:
    return load_features(
        lake, LocalEngine(2), store, contract, POPULATION, time_column, PREDICTIONS, {"model_version": "3"}
    )


def event_times(store: OnlineStore, rows: int) -> list[datetime]:
    return store.get_many(CONTRACT, list(range(rows))).event_times.tolist()


def with_time(table: pa.Table, times: list, dtype: pa.DataType) -> pa.Table:
    return table.append_column("updated_at", pa.array(times, dtype))


def test_every_vector_scores_as_the_published_row_bit_for_bit(lake, store):
    files = [customers(700), customers(300, first_key=700)]
    write_files(lake, POPULATION, files)
    publish(lake)
    loaded = load(lake, store)
    vectors = store.get_many(CONTRACT, list(range(1000)))
    assert vectors.missing == ()
    assert loaded.report.rows == 1000
    expected = encode_arrow(CONTRACT, pa.concat_tables(files))
    assert vectors.rows.numbers.tobytes() == expected.numbers.tobytes()
    assert np.array_equal(vectors.rows.categories, expected.categories)
    published = lake.read(PREDICTIONS, ["customer_id", CONTRACT.output]).sort_by("customer_id")
    assert night().scorer.score(vectors.rows).tolist() == published[CONTRACT.output].to_pylist()


def test_the_store_has_the_snapshot_of_the_newest_night_whatever_came_later(lake, store):
    first = write_files(lake, POPULATION, [customers(20)])
    publish(lake)
    write_files(lake, POPULATION, [customers(30, first_key=1000)])
    assert load(lake, store).source == first
    assert (
        store.get_many(CONTRACT, [7]).rows.numbers.tobytes()
        == encode_arrow(CONTRACT, customers(20))[7:8].numbers.tobytes()
    )
    assert store.get_many(CONTRACT, [1000]).missing == (0,)
    facts = store.describe()
    assert (facts["source_snapshot"], facts["scored_on"], facts["model_version"]) == (str(first.id), "2026-11-21", "3")


def test_a_day_that_was_made_up_for_does_not_bring_old_features_back(lake, store):
    old = write_files(lake, POPULATION, [customers(20)])
    new = write_files(lake, POPULATION, [customers(20, seed=1)])
    publish(lake, scored_on=SATURDAY)
    publish(lake, scored_on=FRIDAY, population_snapshot=old.id)
    assert load(lake, store).source == new


def test_without_a_time_column_the_event_time_is_the_snapshots(lake, store):
    snapshot = write_files(lake, POPULATION, [customers(20)])
    publish(lake)
    load(lake, store)
    assert set(event_times(store, 20)) == {snapshot.committed_at.replace(tzinfo=None)}


MORNING = datetime(2026, 11, 20, 6, 30, 15, 123456)


@pytest.mark.parametrize(
    ("dtype", "first", "expected"),
    [
        (pa.timestamp("us"), MORNING, MORNING.replace(microsecond=123000)),
        (pa.timestamp("us", tz="UTC"), MORNING.replace(tzinfo=UTC), MORNING.replace(microsecond=123000)),
        (pa.timestamp("ms"), MORNING.replace(microsecond=5000), MORNING.replace(microsecond=5000)),
        (pa.date32(), date(2026, 11, 20), datetime(2026, 11, 20)),
    ],
)
def test_a_time_column_gives_the_event_times_in_utc(lake, store, dtype, first, expected):
    times = [first + timedelta(days=i) for i in range(19)]
    write_files(lake, POPULATION, [with_time(customers(20), [*times, None], dtype)])
    publish(lake)
    load(lake, store, time_column="updated_at")
    assert event_times(store, 20) == [*(expected + timedelta(days=i) for i in range(19)), None]


def test_a_time_column_that_holds_no_time_is_named(lake, store):
    write_files(lake, POPULATION, [with_time(customers(20), ["yesterday"] * 20, pa.string())])
    publish(lake)
    with pytest.raises(ColumnError, match=r"'updated_at' of 'silver\.active_customers' has type .*string.*population"):
        load(lake, store, time_column="updated_at")
    with pytest.raises(StoreUnavailableError):
        store.get_many(CONTRACT, [0])


def test_a_time_column_that_is_missing_is_named(lake, store):
    write_files(lake, POPULATION, [customers(20)])
    publish(lake)
    with pytest.raises(LakehouseError, match="updated_at"):
        load(lake, store, time_column="updated_at")


def test_text_keys(lake, online_uri):
    contract = tiny_contract(entity_key_type="string")
    rows = with_column(customers(50), "customer_id", [f"Kunde-{i}-ß" for i in range(50)])
    write_files(lake, POPULATION, [rows])
    publish(lake, scorer=Scorer(tiny_onnx(contract)))
    store = open_store(online_uri, contract.model)
    load(lake, store, contract)
    found = store.get_many(contract, [f"Kunde-{i}-ß" for i in range(50)])
    assert found.missing == ()
    assert found.rows.numbers.tobytes() == encode_arrow(contract, rows).numbers.tobytes()


def test_narrow_integer_keys(lake, store):
    rows = with_column(customers(50), "customer_id", np.arange(50, dtype=np.int32) - 25)
    write_files(lake, POPULATION, [rows])
    publish(lake)
    load(lake, store)
    assert store.get_many(CONTRACT, list(range(-25, 25))).missing == ()


def test_before_the_first_night_there_is_nothing_to_load(lake, store):
    write_files(lake, POPULATION, [customers(20)])
    with pytest.raises(SnapshotNotFoundError, match=r"no published night\. Materialize gold/tiny_predictions"):
        load(lake, store)


def test_a_snapshot_that_is_gone_is_named(lake, store):
    first = write_files(lake, POPULATION, [customers(20)])
    publish(lake)
    write_files(lake, POPULATION, [customers(20)])
    lake.catalog.load_table(POPULATION).maintenance.expire_snapshots().by_id(first.id).commit()
    with pytest.raises(SnapshotNotFoundError, match=rf"no snapshot {first.id} \(any more\)"):
        load(lake, store)


def test_a_load_that_fails_midway_leaves_the_old_features(lake, store):
    write_files(lake, POPULATION, [customers(20), customers(20, first_key=20)])
    publish(lake)
    generation = load(lake, store).report.generation
    Path(lake.plan(POPULATION).files[1].address.removeprefix("file://")).unlink()
    with pytest.raises(LakehouseError, match=r"cannot be read.*Restore it"):
        load(lake, store)
    assert store.describe()["generation"] == generation


def test_rows_that_the_night_rejected_have_no_vector(lake, store):
    rows = customers(200)
    broken = with_column(rows, "balance", [math.inf if i == 3 else 1.0 for i in range(200)])
    keys = [None if i == 5 else 7 if i == 8 else i for i in range(200)]
    write_files(lake, POPULATION, [with_column(broken, "customer_id", keys)])
    published = publish(lake)
    loaded = load(lake, store)
    assert loaded.report.rows == loaded.scored == published.report.rows == 196
    assert store.get_many(CONTRACT, list(range(200))).missing == (3, 5, 7, 8)
