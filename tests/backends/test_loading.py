"""Tables that come in together: all of them or none, and what stood there before is not lost."""

import pyarrow as pa
import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.loading import Incoming, has_rows, load
from backends.settings import Settings
from models.errors import LakehouseError

FIRST = pa.table({"id": [1, 2, 3], "x": ["a", "b", None]})
SECOND = pa.table({"id": [4], "y": [1.5]})


@pytest.fixture
def lake(tmp_path):
    with Lakehouse.open(Settings(home=tmp_path / "home")) as lake:
        yield lake


def incoming(table: str, rows: pa.Table, distinct: tuple[str, ...] = ()) -> Incoming:
    return Incoming(table, rows.schema, rows.to_batches, distinct)


def failing(table: str, rows: pa.Table) -> Incoming:
    def batches():
        yield from rows.to_batches()
        raise OSError("the file is gone")

    return Incoming(table, rows.schema, batches)


def test_tables_are_loaded_each_in_one_commit(lake):
    snapshots = load(lake, [incoming("silver.a", FIRST, ("id",)), incoming("silver.b", SECOND)], replace=False)
    assert [(snapshot.table, snapshot.rows) for snapshot in snapshots] == [("silver.a", 3), ("silver.b", 1)]
    assert lake.read("silver.a").to_pydict() == FIRST.to_pydict()
    assert lake.read("silver.b").to_pydict() == SECOND.to_pydict()


def test_when_one_fails_none_is_there(lake):
    with pytest.raises(OSError, match="gone"):
        load(lake, [incoming("silver.a", FIRST), failing("silver.b", SECOND)], replace=False)
    assert lake.catalog.list_tables("silver") == []


def test_when_a_replacement_fails_the_old_rows_stay(lake):
    load(lake, [incoming("silver.a", FIRST)], replace=False)
    with pytest.raises(OSError, match="gone"):
        load(lake, [failing("silver.a", SECOND), incoming("silver.b", SECOND)], replace=True)
    assert lake.read("silver.a").to_pydict() == FIRST.to_pydict()
    assert not lake.catalog.table_exists("silver.b")


def test_tables_that_have_rows_are_refused_before_anything_is_written(lake):
    load(lake, [incoming("silver.a", FIRST)], replace=False)
    with pytest.raises(LakehouseError, match=r"silver.a already. --replace"):
        load(lake, [incoming("silver.b", SECOND), incoming("silver.a", SECOND)], replace=False)
    assert not lake.catalog.table_exists("silver.b")


def test_a_table_without_rows_is_what_a_killed_run_left_and_is_filled(lake):
    lake.ensure_table("silver.a", SECOND.schema)
    assert not has_rows(lake, "silver.a")
    load(lake, [incoming("silver.a", FIRST)], replace=False)
    assert lake.read("silver.a").to_pydict() == FIRST.to_pydict()


def test_a_replacement_has_its_own_columns_and_types_and_the_old_snapshot_its_rows(lake):
    (old,) = load(lake, [incoming("silver.a", FIRST)], replace=False)
    other = pa.table({"x": [1.5, None], "id": ["k", "l"], "z": [True, False]})  # every type changed
    load(lake, [incoming("silver.a", other)], replace=True)
    assert lake.read("silver.a", ("x", "id", "z")).to_pydict() == other.to_pydict()
    assert set(lake.schema("silver.a").names) == {"x", "id", "z"}
    before = lake.plan("silver.a", snapshot_id=old.id)
    assert sum(len(batch) for batch in before.stream()) == 3
