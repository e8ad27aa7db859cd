"""Files read in pieces: every row once, whatever their writer wrote down of their row groups."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyiceberg.expressions import GreaterThan
from pyiceberg.types import LongType, StringType

from backends.batch_scoring import score_and_publish
from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import BATCH_ROWS, END, FileTask, Plan, is_plain
from tests.backends.nights import POPULATION, PREDICTIONS, customers, night

ROWS, GROUP = 10_000, 1024


@pytest.fixture
def one_file(lake) -> Lakehouse:
    """A population that is one file of ten row groups, as an engine that compacts would leave it."""
    lake.ensure_table(POPULATION, customers(1).schema)
    table = lake.catalog.load_table(POPULATION)
    with table.transaction() as change:
        change.set_properties({"write.parquet.row-group-limit": str(GROUP)})
    table.append(customers(ROWS))
    return lake


def keys_of(plan: Plan, files: list[FileTask]) -> list[int]:
    return [key for file in files for batch in plan.batches(file) for key in batch.column("customer_id").to_pylist()]


def test_a_file_is_read_in_pieces_and_each_row_once(one_file):
    plan = one_file.plan(POPULATION)
    assert len(plan.files) == 10
    assert len({file.address for file in plan.files}) == 1
    assert sum(file.rows for file in plan.files) == ROWS
    assert keys_of(plan, plan.files) == list(range(ROWS))
    assert [len(keys_of(plan, [file])) for file in plan.files] == [GROUP] * 9 + [ROWS - 9 * GROUP]


def test_pieces_are_dealt_out_so_that_one_file_keeps_all_slots_busy(one_file):
    shares = one_file.plan(POPULATION).shares(4)
    assert len(shares) == 4
    assert max(share.rows for share in shares) - min(share.rows for share in shares) <= GROUP


@pytest.mark.parametrize(
    "offsets",
    [
        [4],  # one offset for the whole file
        [4, 50_000],  # some row groups without one
        [4, 17, 18, 50_001, 10**9],  # between row groups, and beyond the end
        [1_000, 2_000],  # none at the beginning
    ],
)
def test_whatever_offsets_the_writer_left_each_row_is_read_once(one_file, offsets):
    plan = one_file.plan(POPULATION)
    starts = [0, *offsets[1:]]
    pieces = [
        replace(plan.files[0], start=start, end=end) for start, end in zip(starts, [*starts[1:], END], strict=True)
    ]
    assert keys_of(plan, pieces) == list(range(ROWS))


def test_a_night_of_one_large_file_is_that_of_many_small_ones(one_file):
    score_and_publish(one_file, LocalEngine(2), night())
    one = one_file.read(PREDICTIONS).sort_by("customer_id")
    table = one_file.catalog.load_table(POPULATION)
    table.delete("customer_id >= 0")
    for start in range(0, ROWS, 2500):
        table.append(customers(ROWS).slice(start, 2500))
    score_and_publish(one_file, LocalEngine(2), night())
    assert one_file.read(PREDICTIONS).sort_by("customer_id").equals(one)


def test_filtered_files_are_not_cut(one_file):
    plan = one_file.plan(POPULATION, where=GreaterThan("customer_id", 5000))
    (file,) = plan.files
    assert not is_plain(file.task)
    assert keys_of(plan, [file]) == list(range(5001, ROWS))


def test_batches_are_small_so_that_memory_is_bounded(lake):
    lake.ensure_table(POPULATION, customers(1).schema)
    lake.catalog.load_table(POPULATION).append(customers(3 * BATCH_ROWS))
    plan = lake.plan(POPULATION)
    sizes = [len(batch) for file in plan.files for batch in plan.batches(file)]
    assert max(sizes) <= BATCH_ROWS
    assert sum(sizes) == 3 * BATCH_ROWS


def test_files_whose_columns_are_named_alike_are_read_by_their_ids(lake):
    lake.ensure_table(POPULATION, customers(1).schema)
    table = lake.catalog.load_table(POPULATION)
    table.append(customers(10))
    with table.update_schema() as change:
        change.rename_column("plan", "channel_now")
        change.rename_column("channel", "plan")
    with table.update_schema() as change:
        change.rename_column("channel_now", "channel")
    with table.update_schema() as change:
        change.move_before("plan", "channel")  # the new file's columns have the old one's names, types and order
    table.append(customers(10, first_key=10))
    first, second = customers(10), customers(10, first_key=10)
    rows = lake.read(POPULATION).sort_by("customer_id")
    assert rows["plan"].to_pylist() == [*first["channel"].to_pylist(), *second["plan"].to_pylist()]
    assert rows["channel"].to_pylist() == [*first["plan"].to_pylist(), *second["channel"].to_pylist()]


def test_columns_that_were_added_renamed_or_widened_later_read_as_the_table_has_them_now(lake):
    lake.ensure_table(POPULATION, customers(1).schema)
    table = lake.catalog.load_table(POPULATION)
    table.append(customers(10))
    with table.update_schema() as change:
        change.add_column("city", StringType())
        change.rename_column("plan", "tariff")
        change.update_column("tenure_months", field_type=LongType())
    table.append(
        customers(10, first_key=10)
        .rename_columns({"plan": "tariff"})
        .append_column("city", pa.array(["Bern"] * 10))
        .set_column(1, "tenure_months", pa.array(range(10), pa.int64()))
    )
    rows = lake.read(POPULATION).sort_by("customer_id")
    assert rows["city"].to_pylist() == [None] * 10 + ["Bern"] * 10
    assert rows["tariff"].to_pylist() == [
        *customers(10)["plan"].to_pylist(),
        *customers(10, first_key=10)["plan"].to_pylist(),
    ]
    assert pc.sum(rows["tenure_months"].slice(10)).as_py() == 45
    assert rows.schema.field("tenure_months").type == pa.int64()
