"""The lakehouse on a real catalog: pinned reads, and tables that change by an audited publish or not at all."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestWriterV2
from pyiceberg.table import Transaction
from pyiceberg.table.refs import SnapshotRef, SnapshotRefType
from pyiceberg.table.update.snapshot import ManageSnapshots
from pyiceberg.typedef import Record
from pyiceberg.types import LongType, StringType

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.publishing import Staged, publish, rollback, rollbacks, write_day, write_days, write_whole
from backends.lakehouse.publishing import stage as stage_parts
from backends.lakehouse.reading import Snapshot, is_one_of, partition_is
from models.errors import LakehouseError, PublishConflictError, SnapshotNotFoundError, TableNotFoundError
from tests.backends.nights import FRIDAY, POPULATION, SATURDAY, customers, write_files

GOLD = "gold.scores"
DAY = "scored_on"
SCHEMA = pa.schema([("key", pa.int64()), ("score", pa.float32()), (DAY, pa.date32())])


def scores(day: date, values: list[float]) -> pa.Table:
    return pa.table({"key": range(len(values)), "score": values, DAY: [day] * len(values)}, SCHEMA)


def stage(lake: Lakehouse, day: date, values: list[float], **properties: str) -> Staged:
    """Stage a day as a night does, with the property that says which."""
    properties = {DAY: day.isoformat(), **properties}
    with lake.parts(GOLD, f"{DAY}={day}/", SCHEMA) as parts:
        return stage_parts(lake, GOLD, DAY, day, parts.write(0, scores(day, values).to_batches()), properties)


def scores_of(lake: Lakehouse, day: date, snapshot_id: int | None = None) -> list[float]:
    rows = lake.read(GOLD, ["key", "score"], snapshot_id, partition_is(DAY, day))
    return rows.sort_by("key")["score"].to_pylist()


def branches(lake: Lakehouse) -> set[str]:
    return {name for name, ref in refs(lake).items() if ref.snapshot_ref_type == SnapshotRefType.BRANCH} - {"main"}


def tags(lake: Lakehouse) -> dict[str, int]:
    return {name: ref.snapshot_id for name, ref in refs(lake).items() if ref.snapshot_ref_type == SnapshotRefType.TAG}


def refs(lake: Lakehouse) -> dict[str, SnapshotRef]:
    return lake.load(GOLD).refs()


def data_files(lake: Lakehouse, table: str) -> list[Path]:
    return sorted(Path(urlparse(lake.location(table)).path).glob("data/**/*.parquet"))


@pytest.fixture
def gold(lake) -> Lakehouse:
    lake.ensure_table(GOLD, SCHEMA, DAY)
    return lake


# --- tables ---------------------------------------------------------------------------------------------------------


def test_a_new_table_has_its_columns_its_partition_and_an_empty_snapshot(gold):
    loaded = gold.catalog.load_table(GOLD)
    assert gold.schema(GOLD) == SCHEMA
    assert [(field.name, str(field.transform)) for field in loaded.spec().fields] == [(DAY, "identity")]
    assert gold.snapshot(GOLD).rows == 0
    assert gold.read(GOLD).num_rows == 0
    assert gold.location(GOLD).endswith("gold/scores")


def test_ensuring_a_table_again_changes_nothing(gold):
    publish(gold, stage(gold, FRIDAY, [0.25]))
    before = gold.catalog.load_table(GOLD).metadata
    gold.ensure_table(GOLD, SCHEMA, DAY)
    assert gold.catalog.load_table(GOLD).metadata == before


def test_a_table_whose_making_was_cut_short_is_finished_by_the_next_call(lake):
    lake.catalog.create_namespace("gold")
    lake.catalog.create_table(GOLD, SCHEMA)  # as a process leaves it that was killed after its first step
    lake.ensure_table(GOLD, SCHEMA, DAY)
    publish(lake, stage(lake, FRIDAY, [0.5]))
    publish(lake, stage(lake, FRIDAY, [0.75]))
    assert scores_of(lake, FRIDAY) == [0.75]
    assert not lake.catalog.load_table(GOLD).spec().is_unpartitioned()


def test_the_catalog_survives_its_process(settings, gold):
    publish(gold, stage(gold, FRIDAY, [0.5]))
    with Lakehouse.open(settings) as again:
        assert scores_of(again, FRIDAY) == [0.5]


# --- reading --------------------------------------------------------------------------------------------------------


def test_a_pinned_snapshot_reads_as_it_was(lake):
    first = write_files(lake, POPULATION, [customers(10)])
    second = write_files(lake, POPULATION, [customers(30, first_key=100), customers(3, first_key=200)])
    assert (first.rows, second.rows) == (10, 33)
    assert lake.snapshot(POPULATION) == second
    assert lake.snapshot(POPULATION, first.id) == first
    assert lake.read(POPULATION, snapshot_id=first.id)["customer_id"].to_pylist() == list(range(10))
    assert lake.read(POPULATION, ["customer_id"])["customer_id"].to_pylist() == [*range(100, 130), *range(200, 203)]


def test_a_plan_stays_pinned_while_the_table_changes(lake):
    write_files(lake, POPULATION, [customers(10)])
    plan = lake.plan(POPULATION, ["customer_id"])
    write_files(lake, POPULATION, [customers(5, first_key=50)])
    keys = [key for file in plan.files for batch in plan.batches(file) for key in batch.column(0).to_pylist()]
    assert keys == list(range(10))


def test_a_plan_has_the_files_in_a_fixed_order_with_their_rows(lake):
    write_files(lake, POPULATION, [customers(10), customers(20, first_key=10), customers(30, first_key=30)])
    plan = lake.plan(POPULATION)
    assert [file.position for file in plan.files] == [0, 1, 2]
    assert sorted(file.rows for file in plan.files) == [10, 20, 30]
    assert plan.snapshot == lake.snapshot(POPULATION)
    assert [len(next(plan.batches(file))) for file in plan.files] == [file.rows for file in plan.files]


def test_what_was_written_is_read(lake):
    rows = customers(1000)
    write_files(lake, POPULATION, [rows])
    assert lake.read(POPULATION).cast(rows.schema).equals(rows)


def test_the_columns_arrive_by_name_whatever_their_order(lake):
    write_files(lake, POPULATION, [customers(3)])
    assert lake.read(POPULATION, ["plan", "customer_id"]).select(["customer_id"])["customer_id"].to_pylist() == [
        0,
        1,
        2,
    ]


def test_a_filter_picks_keys(lake):
    write_files(lake, POPULATION, [customers(10), customers(10, first_key=10)])
    found = lake.read(POPULATION, ["customer_id"], where=is_one_of("customer_id", [3, 12, 99]))
    assert sorted(found["customer_id"].to_pylist()) == [3, 12]


def test_dictionary_columns_arrive_dictionary_encoded(lake):
    rows = customers(5000)
    write_files(lake, POPULATION, [rows, customers(10, first_key=5000)])
    plan = lake.plan(POPULATION, ["customer_id", "plan", "channel"], dictionary_columns=["plan", "channel"])
    batches = [batch for file in plan.files for batch in plan.batches(file)]
    for batch in batches:
        assert pa.types.is_dictionary(batch.column("plan").type)
        assert pa.types.is_dictionary(batch.column("channel").type)
    words = {k: w for b in batches for k, w in zip(b["customer_id"].to_pylist(), b["channel"].to_pylist(), strict=True)}
    assert [words[key] for key in range(5000)] == rows["channel"].to_pylist()


def test_a_column_that_was_added_later_reads_as_null_in_older_files(lake):
    write_files(lake, POPULATION, [customers(3)])
    table = lake.catalog.load_table(POPULATION)
    with table.update_schema() as change:
        change.add_column("device", StringType())
        change.rename_column("plan", "tariff")
        change.update_column("tenure_months", LongType())
    renamed = customers(2, first_key=3).rename_columns({"plan": "tariff"})
    widened = renamed.cast(renamed.schema.set(1, pa.field("tenure_months", pa.int64())))
    table.append(widened.append_column("device", pa.array(["sony", "nokia"])))
    rows = lake.read(POPULATION, ["customer_id", "tenure_months", "tariff", "device"]).sort_by("customer_id")
    assert rows["device"].to_pylist() == [None, None, None, "sony", "nokia"]
    assert rows["tariff"].to_pylist() == [*customers(3)["plan"].to_pylist(), *widened["tariff"].to_pylist()]
    assert rows["tenure_months"].type == pa.int64()
    plan = lake.plan(POPULATION, ["device"], dictionary_columns=["device"])
    assert sorted(str(word) for f in plan.files for b in plan.batches(f) for word in b.column(0).to_pylist()) == [
        *["None"] * 3,
        "nokia",
        "sony",
    ]


def test_a_changed_schema_is_read_before_any_row_is_written_under_it(lake):
    snapshot = write_files(lake, POPULATION, [customers(3)])
    with lake.catalog.load_table(POPULATION).update_schema() as change:
        change.rename_column("plan", "tariff")
        change.add_column("device", StringType())
    assert lake.snapshot(POPULATION) == snapshot
    for pin in (None, snapshot.id):
        rows = lake.read(POPULATION, ["tariff", "device"], pin)
        assert rows["tariff"].to_pylist() == customers(3)["plan"].to_pylist()
        assert rows["device"].null_count == 3


def delete_by_position(lake: Lakehouse, table: str, position: int, monkeypatch) -> None:
    """Delete a row of the first data file as an engine with merge-on-read does; pyiceberg only reads such tables."""
    loaded, (file, *_) = lake.catalog.load_table(table), lake.plan(table).files
    path = f"{loaded.location()}/data/deletes.parquet"
    deletes = pa.table({"file_path": [file.task.file.file_path], "pos": [position]})
    pq.write_table(deletes, urlparse(path).path)
    entry = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=1,
        file_size_in_bytes=Path(urlparse(path).path).stat().st_size,
    )
    entry.spec_id = 0
    monkeypatch.setattr(ManifestWriterV2, "content", lambda _: ManifestContent.DELETES)
    with loaded.transaction() as change, change._append_snapshot_producer({}, branch="main") as producer:
        producer.append_data_file(entry)


def test_rows_deleted_by_position_are_neither_read_nor_counted(lake, monkeypatch):
    write_files(lake, POPULATION, [customers(10)])
    delete_by_position(lake, POPULATION, 3, monkeypatch)
    assert lake.read(POPULATION, ["customer_id"])["customer_id"].to_pylist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert lake.snapshot(POPULATION).rows == 9


@pytest.mark.parametrize(
    "ask",
    [
        lambda lake: lake.snapshot("silver.nothing"),
        lambda lake: lake.plan("silver.nothing"),
        lambda lake: lake.read("silver.nothing"),
        lambda lake: lake.history("silver.nothing"),
        lambda lake: lake.schema("silver.nothing"),
        lambda lake: stage_parts(lake, "silver.nothing", DAY, FRIDAY, [], {}),
    ],
)
def test_a_missing_table_is_named(lake, ask):
    with pytest.raises(TableNotFoundError, match=r"'silver\.nothing'.*Create it"):
        ask(lake)


def test_a_missing_snapshot_is_named(gold):
    with pytest.raises(SnapshotNotFoundError, match=r"'gold\.scores' has no snapshot 4711 \(any more\)"):
        gold.read(GOLD, snapshot_id=4711)


def test_a_table_without_any_snapshot_says_so(lake):
    lake.catalog.create_namespace("silver")
    lake.catalog.create_table("silver.empty", SCHEMA)
    with pytest.raises(SnapshotNotFoundError, match=r"'silver\.empty' has no snapshot yet\. Write rows"):
        lake.snapshot("silver.empty")


def test_a_missing_column_is_named_with_those_that_there_are(gold):
    with pytest.raises(LakehouseError, match=r"'gold\.scores'.*'plan'.*key, score, scored_on"):
        gold.plan(GOLD, ["key", "plan"])


# --- publishing -----------------------------------------------------------------------------------------------------


def test_staged_rows_are_invisible_until_they_are_published(gold):
    before = gold.snapshot(GOLD)
    staged = stage(gold, FRIDAY, [0.25, 0.5], model="tiny")
    assert gold.snapshot(GOLD) == before
    assert scores_of(gold, FRIDAY) == []
    assert branches(gold) == {staged.branch}
    assert staged.base == before.id
    assert scores_of(gold, FRIDAY, staged.snapshot.id) == [0.25, 0.5]

    published = publish(gold, staged)
    assert published == staged.snapshot == gold.snapshot(GOLD)
    assert scores_of(gold, FRIDAY) == [0.25, 0.5]
    assert branches(gold) == set()


def test_a_days_rerun_replaces_exactly_that_day(gold):
    publish(gold, stage(gold, FRIDAY, [0.1, 0.2]))
    publish(gold, stage(gold, SATURDAY, [0.3, 0.4, 0.5]))
    saturday = scores_of(gold, SATURDAY)
    publish(gold, stage(gold, FRIDAY, [0.6]))
    assert scores_of(gold, FRIDAY) == pytest.approx([0.6])
    assert scores_of(gold, SATURDAY) == saturday
    assert gold.snapshot(GOLD).rows == 4


def test_replace_makes_the_parts_the_only_content(lake):
    first = write_files(lake, POPULATION, [customers(10), customers(10, first_key=10)])
    second = write_files(lake, POPULATION, [customers(5)])
    assert lake.read(POPULATION).num_rows == 5
    assert second.id != first.id
    with lake.parts(POPULATION, "", customers(1).schema) as parts:
        third = write_whole(lake, POPULATION, parts.write(0, customers(7).to_batches()), {"made_by": "a test"})
    assert third == lake.snapshot(POPULATION)
    assert (third.rows, third.properties) == (7, {"made_by": "a test"})


def test_parts_of_dictionary_columns_are_plain_text_to_a_reader(lake):
    rows = customers(50)
    encoded = rows.set_column(4, "plan", rows["plan"].dictionary_encode())
    lake.ensure_table(POPULATION, rows.schema)
    with lake.parts(POPULATION, "", encoded.schema) as parts:
        write_whole(lake, POPULATION, parts.write(0, encoded.to_batches()), {})
    assert lake.read(POPULATION)["plan"].to_pylist() == rows["plan"].to_pylist()
    assert pa.types.is_large_string(lake.schema(POPULATION).field("plan").type)


def test_the_next_stage_of_a_day_removes_its_stale_branches_and_no_others(gold):
    abandoned = [stage(gold, FRIDAY, [0.1]), stage(gold, SATURDAY, [0.2])]
    assert branches(gold) == {staged.branch for staged in abandoned}
    again = stage(gold, FRIDAY, [0.3])
    assert branches(gold) == {again.branch, abandoned[1].branch}
    publish(gold, again)
    assert scores_of(gold, FRIDAY) == pytest.approx([0.3])


def test_a_foreign_branch_is_left_alone(gold):
    table = gold.catalog.load_table(GOLD)
    table.manage_snapshots().create_branch(gold.snapshot(GOLD).id, "audited_by_somebody_else").commit()
    publish(gold, stage(gold, FRIDAY, [0.3]))
    assert branches(gold) == {"audited_by_somebody_else"}


def test_a_foreign_commit_between_stage_and_publish_is_a_conflict(gold):
    staged = stage(gold, FRIDAY, [0.5])
    gold.catalog.load_table(GOLD).append(scores(SATURDAY, [0.75]))
    theirs = gold.snapshot(GOLD)
    with pytest.raises(PublishConflictError, match=r"'gold\.scores' was changed by somebody else.*run again"):
        publish(gold, staged)
    assert gold.snapshot(GOLD) == theirs
    assert scores_of(gold, FRIDAY) == []
    publish(gold, stage(gold, FRIDAY, [0.5]))
    assert (scores_of(gold, FRIDAY), scores_of(gold, SATURDAY)) == ([0.5], [0.75])
    assert branches(gold) == set()


def test_of_two_days_staged_at_once_both_publish_and_the_second_with_the_audited_files(settings, gold):
    with Lakehouse.open(settings) as other:
        friday, saturday = stage(gold, FRIDAY, [0.25]), stage(other, SATURDAY, [0.75], note="from the audit")
        publish(gold, friday)
        published = publish(other, saturday)
    assert (scores_of(gold, FRIDAY), scores_of(gold, SATURDAY)) == ([0.25], [0.75])
    assert published == gold.snapshot(GOLD) != saturday.snapshot
    assert published.properties == {DAY: "2026-11-21", "note": "from the audit"}
    files = {file.address for file in gold.plan(GOLD).files}
    assert files == {*friday.parts, *saturday.parts}
    assert branches(gold) == set()


def test_days_staged_by_threads_all_publish(settings, gold):
    days = [FRIDAY + timedelta(days=i) for i in range(4)]

    def publish_a_day(day: date) -> None:
        with Lakehouse.open(settings) as lake:
            publish(lake, stage(lake, day, [0.5] * day.day))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish_a_day, days))
    assert [len(scores_of(gold, day)) for day in days] == [day.day for day in days]
    assert gold.snapshot(GOLD).rows == sum(day.day for day in days)
    assert branches(gold) == set()


def test_of_one_day_staged_twice_only_the_second_publishes(settings, gold):
    with Lakehouse.open(settings) as other:
        first, second = stage(gold, FRIDAY, [0.25]), stage(other, FRIDAY, [0.75, 1.0])
        with pytest.raises(PublishConflictError, match=first.branch):
            publish(gold, first)
        assert scores_of(gold, FRIDAY) == []
        publish(other, second)
    assert scores_of(gold, FRIDAY) == [0.75, 1.0]
    assert branches(gold) == set()


def test_a_day_that_was_published_meanwhile_is_a_conflict(gold):
    staged = stage(gold, FRIDAY, [0.25])
    publish(gold, stage(gold, SATURDAY, [0.5], scored_on="2026-11-20"))  # another process's rerun of Friday
    with pytest.raises(PublishConflictError, match=r"published 2026-11-20 too"):
        publish(gold, staged)
    assert scores_of(gold, FRIDAY) == []
    assert branches(gold) == set()


@pytest.fixture
def first(monkeypatch):
    """Let something happen once, just before pyiceberg does a step of a commit."""

    def happens(owner: type, step: str, action: Callable[[], object]) -> None:
        done, original = [], getattr(owner, step)

        def meddled(*arguments: Any, **named: Any) -> Any:
            if not done:
                done.append(True)
                action()
            return original(*arguments, **named)

        monkeypatch.setattr(owner, step, meddled)

    return happens


def append_foreign_rows(settings, day: date = SATURDAY, branch: str = "main") -> None:
    with Lakehouse.open(settings) as other:
        other.load(GOLD).append(scores(day, [0.125, 0.375]), branch=branch)


def test_a_foreign_commit_between_our_check_and_our_commit_is_a_conflict(gold, settings, first):
    staged = stage(gold, FRIDAY, [0.5])
    first(ManageSnapshots, "set_current_snapshot", lambda: append_foreign_rows(settings))
    with pytest.raises(PublishConflictError, match=r"on main is no published night\).*run again"):
        publish(gold, staged)
    assert (scores_of(gold, FRIDAY), scores_of(gold, SATURDAY)) == ([], [0.125, 0.375])
    assert branches(gold) == set()


def test_another_day_between_our_check_and_our_commit_is_no_conflict(gold, settings, first):
    def publish_saturday() -> None:
        with Lakehouse.open(settings) as other:
            publish(other, stage(other, SATURDAY, [0.75]))

    staged = stage(gold, FRIDAY, [0.5])
    first(ManageSnapshots, "set_current_snapshot", publish_saturday)
    publish(gold, staged)
    assert (scores_of(gold, FRIDAY), scores_of(gold, SATURDAY)) == ([0.5], [0.75])
    assert branches(gold) == set()


def test_a_foreign_commit_while_a_day_is_staged_on_top_of_another_is_a_conflict(gold, settings, first):
    staged, sunday = stage(gold, FRIDAY, [0.5]), SATURDAY + timedelta(days=1)
    publish(gold, stage(gold, SATURDAY, [0.75]))
    first(Transaction, "add_files", lambda: append_foreign_rows(settings, sunday))
    with pytest.raises(PublishConflictError, match="on main is no published night"):
        publish(gold, staged)
    assert [scores_of(gold, day) for day in (FRIDAY, SATURDAY, sunday)] == [[], [0.75], [0.125, 0.375]]
    assert branches(gold) == set()


def test_rows_that_come_to_the_branch_between_our_check_and_our_commit_are_not_published(gold, settings, first):
    staged = stage(gold, FRIDAY, [0.5])
    first(ManageSnapshots, "set_current_snapshot", lambda: append_foreign_rows(settings, FRIDAY, staged.branch))
    published = publish(gold, staged)
    assert published == staged.snapshot == gold.snapshot(GOLD)
    assert scores_of(gold, FRIDAY) == [0.5]


def test_a_rollback_during_the_audit_is_a_conflict(gold):
    friday = publish(gold, stage(gold, FRIDAY, [0.5]))
    publish(gold, stage(gold, SATURDAY, [0.75]))
    staged = stage(gold, SATURDAY, [0.875])
    rollback(gold, GOLD, friday.id, "wrong prices", "ops")
    with pytest.raises(PublishConflictError, match=f"main does not descend from {staged.base} any more"):
        publish(gold, staged)
    assert gold.snapshot(GOLD) == friday


def test_a_branch_that_somebody_moved_is_not_published(gold):
    staged = stage(gold, FRIDAY, [0.5])
    before = gold.snapshot(GOLD)
    gold.catalog.load_table(GOLD).append(scores(FRIDAY, [99.0]), branch=staged.branch)
    with pytest.raises(PublishConflictError, match=staged.branch):
        publish(gold, staged)
    assert gold.snapshot(GOLD) == before


def test_a_branch_that_somebody_removed_is_not_published(gold):
    staged = stage(gold, FRIDAY, [0.5])
    gold.catalog.load_table(GOLD).manage_snapshots().remove_branch(staged.branch).commit()
    with pytest.raises(PublishConflictError, match=staged.branch):
        publish(gold, staged)
    assert scores_of(gold, FRIDAY) == []


def test_nothing_is_published_twice(gold):
    staged = stage(gold, FRIDAY, [0.5])
    published = publish(gold, staged)
    with pytest.raises(PublishConflictError):
        publish(gold, staged)
    assert gold.snapshot(GOLD) == published


def test_history_has_the_published_snapshots_newest_first_with_our_properties_alone(gold):
    begun = datetime.now(UTC) - timedelta(seconds=1)
    friday = publish(gold, stage(gold, FRIDAY, [0.5], scored_on="friday", note="a, b = c"))
    saturday = publish(gold, stage(gold, SATURDAY, [0.5], scored_on="saturday"))
    stage(gold, SATURDAY, [0.5], scored_on="never published")
    assert [s.properties for s in gold.history(GOLD)] == [
        {"scored_on": "saturday"},
        {"scored_on": "friday", "note": "a, b = c"},
        {},
    ]
    assert gold.history(GOLD)[:2] == [saturday, friday]
    assert begun <= friday.committed_at <= saturday.committed_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert [s.rows for s in gold.history(GOLD)] == [2, 1, 0]


def test_each_published_night_has_a_tag_that_moves_with_its_reruns(gold):
    friday = publish(gold, stage(gold, FRIDAY, [0.5]))
    saturday = publish(gold, stage(gold, SATURDAY, [0.5]))
    assert tags(gold) == {"night_2026-11-20": friday.id, "night_2026-11-21": saturday.id}
    again = publish(gold, stage(gold, FRIDAY, [0.75]))
    assert tags(gold) == {"night_2026-11-20": again.id, "night_2026-11-21": saturday.id}


def test_a_day_is_written_without_an_audit_in_one_commit(gold):
    write_day(gold, GOLD, DAY, SATURDAY, written(gold, SATURDAY, [0.5]), {"note": "one"})
    for values in ([0.25, 0.75], [1.0], []):
        before = gold.snapshot(GOLD)
        after = write_day(gold, GOLD, DAY, FRIDAY, written(gold, FRIDAY, values), {"note": "two"})
        assert (scores_of(gold, FRIDAY), scores_of(gold, SATURDAY)) == (values, [0.5])
        assert after == gold.snapshot(GOLD) != before
        assert after.properties == {"note": "two"}


def written(lake: Lakehouse, day: date, values: list[float]) -> list[str]:
    with lake.parts(GOLD, f"{DAY}={day}/", SCHEMA) as parts:
        return parts.write(0, scores(day, values).to_batches())


def test_many_days_are_replaced_in_one_commit_and_no_others(gold):
    sunday = SATURDAY + timedelta(days=1)
    for day in (FRIDAY, SATURDAY, sunday):
        write_day(gold, GOLD, DAY, day, written(gold, day, [0.1, 0.2]), {})
    before = len(gold.history(GOLD))
    parts = written(gold, FRIDAY, [0.3])
    after = write_days(gold, GOLD, DAY, [FRIDAY, sunday], parts, {"note": "many"})  # nothing happened on Sunday
    assert after.properties["note"] == "many"
    assert gold.snapshot(GOLD).id == after.id
    assert len(gold.history(GOLD)) <= before + 2  # the deletion and the files, which one commit brings
    found = gold.read(GOLD).group_by(DAY).aggregate([([], "count_all")]).to_pylist()
    assert {row[DAY]: row["count_all"] for row in found} == {FRIDAY: 1, SATURDAY: 2}


def test_days_written_by_threads_are_all_there(settings, gold):
    days = [FRIDAY + timedelta(days=i) for i in range(4)]

    def write(day: date) -> None:
        with Lakehouse.open(settings) as lake:
            write_day(lake, GOLD, DAY, day, written(lake, day, [0.5] * day.day), {})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, days))
    assert [len(scores_of(gold, day)) for day in days] == [day.day for day in days]


# --- going back -----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_nights(gold) -> tuple[Snapshot, Snapshot]:
    return publish(gold, stage(gold, FRIDAY, [0.25])), publish(gold, stage(gold, SATURDAY, [0.75]))


def test_a_rollback_puts_main_back_and_keeps_what_stood_there(gold, two_nights):
    friday, saturday = two_nights
    files = data_files(gold, GOLD)
    done = rollback(gold, GOLD, friday.id, "Saturday's prices were wrong", "Mia")
    assert (done.before, done.now) == (saturday, friday)
    assert gold.snapshot(GOLD) == friday
    assert (scores_of(gold, FRIDAY), scores_of(gold, SATURDAY)) == ([0.25], [])
    assert tags(gold)[done.tag] == saturday.id
    assert scores_of(gold, SATURDAY, saturday.id) == [0.75]
    assert data_files(gold, GOLD) == files
    (record,) = rollbacks(gold, GOLD)
    assert datetime.fromisoformat(record.pop("at")) <= datetime.now(UTC)
    assert record == {
        "from": str(saturday.id),
        "to": str(friday.id),
        "by": "Mia",
        "reason": "Saturday's prices were wrong",
    }


def test_after_a_rollback_days_are_published_as_ever_and_one_can_go_forward_again(gold, two_nights):
    friday, saturday = two_nights
    rollback(gold, GOLD, friday.id, "one", "Mia")
    rollback(gold, GOLD, saturday.id, "two", "Mia")
    assert gold.snapshot(GOLD) == saturday
    rollback(gold, GOLD, friday.id, "three", "Mia")
    publish(gold, stage(gold, SATURDAY, [0.875]))
    assert (scores_of(gold, FRIDAY), scores_of(gold, SATURDAY)) == ([0.25], [0.875])
    assert [record["reason"] for record in rollbacks(gold, GOLD)] == ["one", "two", "three"]
    assert len([tag for tag in tags(gold) if tag.startswith("rolled_back_")]) == 3


def test_only_what_was_published_can_be_gone_back_to(gold, two_nights):
    _, saturday = two_nights
    unaudited = stage(gold, FRIDAY, [0.5]).snapshot
    publish(gold, stage(gold, FRIDAY, [0.5]))
    published = {snapshot.id for snapshot in gold.history(GOLD)}
    between = {snapshot.snapshot_id for snapshot in gold.load(GOLD).snapshots()} - published - {unaudited.id}
    emptied = gold.load(GOLD).current_snapshot().parent_snapshot_id  # Friday taken out, and not yet put in again
    before = gold.load(GOLD).metadata
    for wrong in (4711, unaudited.id, emptied, *between):
        with pytest.raises(SnapshotNotFoundError, match=f"snapshot {wrong}: .*never published.*{saturday.id}") as error:
            rollback(gold, GOLD, wrong, "a slip", "Mia")
        assert str(wrong) not in str(error.value).partition("Choose one of")[2]
    assert gold.load(GOLD).metadata == before


def test_a_night_that_is_published_in_the_moment_of_a_rollback_is_not_undone(gold, two_nights, settings, first):
    friday, _ = two_nights
    first(ManageSnapshots, "set_current_snapshot", lambda: append_foreign_rows(settings, FRIDAY))
    with pytest.raises(PublishConflictError):
        rollback(gold, GOLD, friday.id, "too late", "Mia")
    assert scores_of(gold, SATURDAY) == [0.75]
    assert len(scores_of(gold, FRIDAY)) == 3
    assert rollbacks(gold, GOLD) == []


# --- parts ----------------------------------------------------------------------------------------------------------


def test_parts_are_deleted_when_their_body_fails(gold):
    def fail() -> None:
        with gold.parts(GOLD, "", SCHEMA) as parts:
            parts.write(0, scores(FRIDAY, [0.5]).to_batches())
            parts.write(1, scores(FRIDAY, [0.5]).to_batches())
            assert len(data_files(gold, GOLD)) == 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert data_files(gold, GOLD) == []


def test_a_part_whose_rows_fail_midway_is_deleted_too(gold):
    def rows():
        yield from scores(FRIDAY, [0.5]).to_batches()
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"), gold.parts(GOLD, "", SCHEMA) as parts:
        parts.write(0, rows())
    assert data_files(gold, GOLD) == []


def test_parts_that_were_deleted_already_do_not_hide_the_error(gold):
    def fail() -> None:
        with gold.parts(GOLD, "", SCHEMA) as parts:
            parts.write(0, scores(FRIDAY, [0.5]).to_batches())
            data_files(gold, GOLD)[0].unlink()
            raise RuntimeError("the first error")

    with pytest.raises(RuntimeError, match="the first error"):
        fail()


def test_parts_stay_when_nobody_knows_whether_the_commit_arrived(gold):
    def lose_the_answer() -> None:
        with gold.parts(GOLD, "", SCHEMA) as parts:
            write_whole(gold, GOLD, parts.write(0, scores(FRIDAY, [0.5]).to_batches()), {})
            raise CommitStateUnknownException

    with pytest.raises(CommitStateUnknownException):
        lose_the_answer()
    assert scores_of(gold, FRIDAY) == [0.5]


def test_parts_of_two_writers_never_meet(gold):
    with gold.parts(GOLD, f"{DAY}=x/", SCHEMA) as one, gold.parts(GOLD, f"{DAY}=x/", SCHEMA) as two:
        rows = scores(FRIDAY, [0.5]).to_batches()
        addresses = [parts.write(0, rows) for parts in (one, two, one)]  # the last one is tried again
    assert len({address for (address,) in addresses}) == 3 == len(data_files(gold, GOLD))


def test_what_attempts_that_were_given_up_have_left_is_removed_and_nothing_else(gold):
    with gold.parts(GOLD, f"{DAY}=x/", SCHEMA) as theirs, gold.parts(GOLD, f"{DAY}=x/", SCHEMA) as parts:
        rows = scores(FRIDAY, [0.5]).to_batches()
        kept = [*theirs.write(0, rows), *parts.write(0, rows)]
        parts.write(0, rows)
        assert parts.remove_all_but(kept) == 1
    assert sorted(path.name for path in data_files(gold, GOLD)) == sorted(address.split("/")[-1] for address in kept)


def test_a_part_without_rows_never_exists(gold):
    with gold.parts(GOLD, "", SCHEMA) as parts:
        assert parts.write(0, scores(FRIDAY, []).to_batches()) == []
        assert data_files(gold, GOLD) == []


def test_a_stage_that_fails_leaves_main_as_it_was(gold):
    before = gold.snapshot(GOLD)
    mixed = pa.concat_tables([scores(FRIDAY, [0.5]), scores(SATURDAY, [0.5])])
    with pytest.raises(ValueError, match="partition"), gold.parts(GOLD, "", SCHEMA) as parts:
        stage_parts(gold, GOLD, DAY, FRIDAY, parts.write(0, mixed.to_batches()), {})
    assert gold.snapshot(GOLD) == before
    assert data_files(gold, GOLD) == []
    publish(gold, stage(gold, FRIDAY, [0.5]))
    assert branches(gold) == set()
