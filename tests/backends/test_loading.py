"""Tables that come in together: all of them or none, and what stood there before is not lost."""

import pyarrow as pa
import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.connection import CommitUnknownError, Connection
from backends.lakehouse.loading import Incoming, has_rows, load, loading
from backends.settings import Settings
from models.errors import LakehouseError, PublishConflictError

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


def overtaken(table: str, rows: pa.Table, by) -> Incoming:
    """Rows during whose writing somebody else does something."""

    def batches():
        yield from rows.to_batches()
        by()

    return Incoming(table, rows.schema, batches)


def test_tables_are_loaded_each_in_one_commit(lake):
    snapshots = load(lake, [incoming("silver.a", FIRST, ("id",)), incoming("silver.b", SECOND)], replace=False)
    assert [(snapshot.table, snapshot.rows) for snapshot in snapshots] == [("silver.a", 3), ("silver.b", 1)]
    assert lake.read("silver.a").to_pydict() == FIRST.to_pydict()
    assert lake.read("silver.b").to_pydict() == SECOND.to_pydict()


def test_when_one_fails_none_is_there(lake, tmp_path):
    with pytest.raises(OSError, match="gone"):
        load(lake, [incoming("silver.a", FIRST), failing("silver.b", SECOND)], replace=False)
    assert lake.catalog.list_tables("silver") == []
    assert list(tmp_path.rglob("*.parquet")) == []


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


OTHER = pa.table({"x": [1.5, None], "id": ["k", "l"], "z": [True, False]})  # every type changed


def rows(lake: Lakehouse, table: str) -> dict[str, list[object]]:
    """Return a table's rows; with the columns of `OTHER` in their order there, whoever added them when."""
    found = lake.read(table).to_pydict()
    return {name: found[name] for name in (OTHER.column_names if found.keys() == set(OTHER.column_names) else found)}


def load_and_fail(lake: Lakehouse, tables: list[Incoming], replace: bool, failing=None) -> None:
    """Load tables, and fail with what was to be done with them."""
    with loading(lake, tables, replace):
        assert [rows(lake, table.table) for table in tables] == [OTHER.to_pydict()] * len(tables)
        if failing:
            failing()
        raise OSError("no room.")


@pytest.mark.parametrize("replace", [False, True])
def test_when_what_comes_after_the_commits_fails_all_is_as_it_was(lake, tmp_path, replace):
    if replace:
        load(lake, [incoming("silver.a", FIRST), incoming("silver.b", SECOND)], replace=False)
    with pytest.raises(OSError, match="no room"):
        load_and_fail(lake, [incoming("silver.a", OTHER), incoming("silver.b", OTHER)], replace)
    if replace:
        assert rows(lake, "silver.a") == FIRST.to_pydict()
        assert rows(lake, "silver.b") == SECOND.to_pydict()
    else:
        assert lake.catalog.list_tables("silver") == []
        assert list(tmp_path.rglob("*.parquet")) == []


def test_a_replacement_that_was_put_back_stays_readable_and_can_be_done_again(lake):
    load(lake, [incoming("silver.a", FIRST)], replace=False)
    with pytest.raises(OSError, match="no room"):
        load_and_fail(lake, [incoming("silver.a", OTHER)], replace=True)
    latest = max(lake.load("silver.a").snapshots(), key=lambda snapshot: snapshot.sequence_number)
    assert sum(len(batch) for batch in lake.plan("silver.a", snapshot_id=latest.snapshot_id).stream()) == len(OTHER)
    load(lake, [incoming("silver.a", OTHER)], replace=True)
    assert rows(lake, "silver.a") == OTHER.to_pydict()


def test_when_the_second_commit_fails_the_first_is_put_back(lake, tmp_path):
    load(lake, [incoming("silver.a", FIRST), incoming("silver.b", SECOND)], replace=False)
    with Lakehouse.open(Settings(home=tmp_path / "home")) as other:

        def replace_the_second() -> None:
            load(other, [incoming("silver.b", FIRST)], replace=True)

        with pytest.raises(PublishConflictError, match=r"'silver.b' was changed by somebody else"):
            load(lake, [incoming("silver.a", OTHER), overtaken("silver.b", OTHER, replace_the_second)], replace=True)
    assert rows(lake, "silver.a") == rows(lake, "silver.b") == FIRST.to_pydict()


@pytest.mark.parametrize("moment", ["silver.a", "silver.b"])
def test_of_two_that_make_the_same_tables_at_once_one_wins_and_the_other_says_so(lake, tmp_path, moment):
    with Lakehouse.open(Settings(home=tmp_path / "home")) as faster:

        def win() -> None:
            load(faster, [incoming("silver.a", FIRST), incoming("silver.b", SECOND)], replace=False)

        slow = [overtaken(t, OTHER, win) if t == moment else incoming(t, OTHER) for t in ("silver.a", "silver.b")]
        with pytest.raises(PublishConflictError, match="made by somebody else in the same moment"):
            load(lake, slow, replace=False)
    assert rows(lake, "silver.a") == FIRST.to_pydict()
    assert rows(lake, "silver.b") == SECOND.to_pydict()
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def test_a_table_that_was_made_before_another_could_not_be_is_gone_again(lake, tmp_path):
    with Lakehouse.open(Settings(home=tmp_path / "home")) as faster:

        def win() -> None:
            load(faster, [incoming("silver.b", SECOND)], replace=False)

        with pytest.raises(PublishConflictError, match=r"'silver.b' was made by somebody else"):
            load(lake, [incoming("silver.a", OTHER), overtaken("silver.b", OTHER, win)], replace=False)
    assert [name for _, name in lake.catalog.list_tables("silver")] == ["b"]
    assert rows(lake, "silver.b") == SECOND.to_pydict()


def test_a_commit_whose_end_is_not_known_is_said_and_its_files_stay(lake, tmp_path):
    with pytest.raises(CommitUnknownError, match=r"Which of silver.a and silver.b .* is not known"):
        load_and_fail(lake, [incoming("silver.a", OTHER), incoming("silver.b", OTHER)], False, _vanish)
    assert rows(lake, "silver.a") == OTHER.to_pydict()
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def test_what_somebody_else_changed_after_the_commit_is_left_to_them_and_said(lake, tmp_path):
    with Lakehouse.open(Settings(home=tmp_path / "home")) as other:

        def change() -> None:
            load(other, [incoming("silver.a", FIRST)], replace=True)

        with pytest.raises(LakehouseError, match=r"no room\. silver.a was changed by somebody else since"):
            load_and_fail(lake, [incoming("silver.a", OTHER)], False, change)
    assert rows(lake, "silver.a") == FIRST.to_pydict()


def test_what_cannot_be_put_back_is_said_with_the_remedy(lake, monkeypatch):
    (old,) = load(lake, [incoming("silver.a", FIRST)], replace=False)

    def lose_the_catalog() -> None:
        monkeypatch.setattr(Connection, "commit_table", _away, raising=False)

    with pytest.raises(LakehouseError) as said:
        load_and_fail(lake, [incoming("silver.a", OTHER)], True, lose_the_catalog)
    assert f"silver.a could not be put back: it has its new rows (the old ones are snapshot {old.id})" in str(
        said.value
    )
    assert "Run again with --replace" in str(said.value)
    assert rows(lake, "silver.a") == OTHER.to_pydict()


def test_of_a_catalog_that_is_gone_before_the_commits_nobody_says_that_a_table_has_its_new_rows(
    lake, tmp_path, monkeypatch
):
    def lose_the_catalog() -> None:
        for call in ("commit_table", "load_table", "table_exists"):
            monkeypatch.setattr(Connection, call, _away, raising=False)

    with pytest.raises(LakehouseError) as said:
        load(lake, [incoming("silver.a", FIRST), overtaken("silver.b", SECOND, lose_the_catalog)], replace=False)
    assert "silver.a could not be put back: it may have its new rows. Run again with --replace" in str(said.value)
    assert "silver.b" not in str(said.value)  # its commit had not begun, so its file is gone
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


@pytest.mark.parametrize("moment", ["writing", "committing"])
def test_of_files_that_cannot_be_removed_either_nobody_says_that_a_table_has_them(lake, tmp_path, monkeypatch, moment):
    with Lakehouse.open(Settings(home=tmp_path / "home")) as faster:

        def lose_the_storage() -> None:
            monkeypatch.setattr("backends.lakehouse.parts.files_below", _away)
            if moment == "writing":
                raise OSError("the storage is gone")
            load(faster, [incoming("silver.b", SECOND)], replace=False)

        with pytest.raises((OSError, PublishConflictError), match=r"gone|made by somebody else") as said:
            load(lake, [incoming("silver.a", FIRST), overtaken("silver.b", FIRST, lose_the_storage)], replace=False)
    assert "put back" not in str(said.value)
    assert not lake.catalog.table_exists("silver.a")


def _vanish() -> None:
    raise CommitUnknownError("The catalog went away.")


def _away(*_: object) -> None:
    raise LakehouseError("The catalog does not answer.")
