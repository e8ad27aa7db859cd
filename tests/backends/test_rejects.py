"""Rows that break the contract: never scored silently, never lost, and told to a person with key, reason and value."""

import math
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyiceberg.types import StringType

from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.nights import Published
from models.audit import Limits
from models.encoding import encode_arrow
from models.errors import AuditError, ColumnError
from models.scoring import Scorer
from tests.backends.nights import (
    FRIDAY,
    LAX,
    POPULATION,
    PREDICTIONS,
    REJECTS,
    SATURDAY,
    SCORED_AT,
    customers,
    night,
    parts_on_disk,
    publish,
    published_rows,
    rejected_rows,
    scored_directly,
    scores_by_key,
    with_column,
    write_files,
)
from tests.tiny_model import tiny_contract, tiny_onnx

MISSING, BOUNDS, REPEATED = "is missing", "is out of bounds", "stands in more than one row; none of them is scored"
TEXT_KEYS = Scorer(tiny_onnx(tiny_contract(entity_key_type="string")))


def with_values(table: pa.Table, column: str, values: dict[int, Any]) -> pa.Table:
    """Return the table with other values in some rows of a column."""
    cells = table[column].to_pylist()
    for row, value in values.items():
        cells[row] = value
    return table.set_column(
        table.schema.get_field_index(column), column, pa.array(cells, table[column].type, from_pandas=False)
    )


def told(lake: Lakehouse) -> list[tuple[Any, ...]]:
    """Return what a person reads of each refused value."""
    return [tuple(row[name] for name in ("customer_id", "column", "reason", "value")) for row in rejected_rows(lake)]


def distinct_rejected_rows(lake: Lakehouse) -> int:
    """Count the rows that the table of rejects speaks of: a key that is null or repeated is told once for each row."""
    rows = rejected_rows(lake)
    by_key = [row for row in rows if row["column"] == "customer_id"]
    known = {row["customer_id"] for row in by_key}
    others = {row["customer_id"] for row in rows if row["column"] != "customer_id"}
    return len(by_key) + len(others - known)


def assert_no_row_is_lost(lake: Lakehouse, published: Published) -> None:
    assert published.source.rows == len(published_rows(lake)) + distinct_rejected_rows(lake)
    assert published.report.rejected == distinct_rejected_rows(lake)
    assert published.reasons == Counter((row["column"], row["reason"]) for row in rejected_rows(lake))
    assert published.snapshot.properties["rejected_rows"] == str(published.report.rejected)


# --- what is rejected -----------------------------------------------------------------------------------------------


def test_each_refused_value_is_told_with_its_key_its_column_the_reason_and_the_value(lake):
    rows = customers(2000)
    rows = with_values(rows, "tenure_months", {3: 601, 4: -1, 9: None})
    rows = with_values(rows, "balance", {3: math.nan, 5: math.inf, 6: -10_001.5})
    rows = with_values(rows, "age_years", {7: 15.5, 8: math.nan})
    rows = with_values(rows, "plan", {10: None})
    write_files(lake, POPULATION, [rows.slice(0, 6), rows.slice(6)])
    published = publish(lake, limits=LAX)
    assert told(lake) == [
        (10, "plan", MISSING, None),
        (3, "balance", MISSING, "nan"),
        (3, "tenure_months", BOUNDS, "601"),
        (4, "tenure_months", BOUNDS, "-1"),
        (5, "balance", BOUNDS, "inf"),
        (6, "balance", BOUNDS, "-10001.5"),
        (7, "age_years", BOUNDS, "15.5"),
        (9, "tenure_months", MISSING, None),
    ]
    kept = [key for key in range(2000) if key not in {3, 4, 5, 6, 7, 9, 10}]
    assert scores_by_key(published_rows(lake)) == scored_directly(rows.take(kept), night().scorer)
    assert_no_row_is_lost(lake, published)


def test_each_reject_says_where_the_row_is_from_and_who_refused_it(lake):
    rows = with_values(customers(100), "balance", {3: math.nan})
    source = write_files(lake, POPULATION, [rows])
    publish(lake, limits=LAX, version=12)
    (row,) = rejected_rows(lake)
    (file,) = lake.plan(POPULATION).files
    assert row == {
        "customer_id": 3,
        "column": "balance",
        "reason": MISSING,
        "value": "nan",
        "source_table": POPULATION,
        "source_snapshot": source.id,
        "source_file": file.address,
        "model_version": 12,
        "rejected_at": SCORED_AT,
        "scored_on": SATURDAY,
    }
    properties = lake.snapshot(REJECTS).properties
    assert (properties["scored_on"], properties["source_snapshot"]) == ("2026-11-21", str(source.id))


def test_null_keys_are_rejected_each_row_of_them(lake):
    rows = with_values(customers(1000), "customer_id", {3: None, 500: None, 999: None})
    write_files(lake, POPULATION, [rows.slice(0, 400), rows.slice(400)])
    published = publish(lake, limits=LAX)
    assert told(lake) == [(None, "customer_id", MISSING, None)] * 3
    assert_no_row_is_lost(lake, published)


@pytest.mark.parametrize("kind", ["integer", "string"])
@pytest.mark.parametrize(
    "cuts", [[], [500], [3, 4, 999]], ids=["in one file", "in one file and over two", "over four files"]
)
def test_of_a_key_that_stands_in_several_rows_none_is_scored(lake, kind, cuts):
    rows = with_values(customers(1000), "customer_id", {3: 7, 999: 7, 4: 5, 20: None})
    scorer = night().scorer
    if kind == "string":
        rows, scorer = with_column(rows, "customer_id", rows["customer_id"].cast("str")), TEXT_KEYS
    bounds = [0, *cuts, 1000]
    write_files(lake, POPULATION, [rows.slice(a, b - a) for a, b in pairwise(bounds)])
    published = publish(lake, limits=LAX, scorer=scorer)
    five, seven = ("5", "7") if kind == "string" else (5, 7)
    assert told(lake) == [
        *[(five, "customer_id", REPEATED, "5")] * 2,
        *[(seven, "customer_id", REPEATED, "7")] * 3,
        (None, "customer_id", MISSING, None),
    ]
    kept = [row for row in range(1000) if row not in {3, 4, 5, 7, 20, 999}]
    assert scores_by_key(published_rows(lake)) == scored_directly(rows.take(kept), scorer)
    assert_no_row_is_lost(lake, published)


class Listing(LocalEngine):
    """An engine that keeps the names of the functions that it mapped."""

    def __init__(self) -> None:
        super().__init__(2)
        self.mapped: list[str] = []

    def map(self, function: Any, tasks: Iterable[Any]) -> list[Any]:
        self.mapped.append(function.func.__name__)
        return super().map(function, tasks)


@pytest.mark.parametrize(
    ("repeats", "mapped"),
    [
        ({}, ["score_share", "count_share"]),
        ({700: 600, 800: 600}, ["score_share", "repeated_in", "score_share", "count_share"]),
    ],
)
def test_keys_of_files_in_order_are_not_read_before_they_are_scored(lake, repeats, mapped):
    rows = with_values(customers(1000), "customer_id", repeats)
    write_files(lake, POPULATION, [rows.slice(500), rows.slice(0, 500)])
    published = publish(lake, engine := Listing(), limits=LAX)
    assert engine.mapped == mapped
    assert told(lake) == [(600, "customer_id", REPEATED, "600")] * 3 * bool(repeats)
    kept = [row for row in range(1000) if not repeats or row not in {600, *repeats}]
    assert scores_by_key(published_rows(lake)) == scored_directly(rows.take(kept), night().scorer)
    assert len(parts_on_disk(lake)) == published.parts  # those of the first attempt are gone
    assert_no_row_is_lost(lake, published)


def test_a_row_with_several_mistakes_is_told_for_each_and_counted_once(lake):
    rows = with_values(customers(1000), "balance", {3: math.nan, 4: 1e9})
    rows = with_values(rows, "tenure_months", {3: 700, 4: 700})
    rows = with_values(rows, "customer_id", {3: None, 5: 4})
    write_files(lake, POPULATION, [rows])
    published = publish(lake, limits=LAX)
    assert len(told(lake)) == 7
    assert published.report.rejected == 3
    assert_no_row_is_lost(lake, published)


def test_unseen_categories_are_scored_in_the_bucket_other_and_counted(lake):
    rows = with_column(customers(900), "plan", ["basic", "platin", "gold"] * 300)
    rows = with_column(rows, "channel", [None, "web", "fax"] * 300)
    write_files(lake, POPULATION, [rows.slice(0, 450), rows.slice(450)])
    published = publish(lake)
    assert published.unseen == {"plan": 600, "channel": 300}
    other = with_column(rows, "plan", ["basic", "other", "other"] * 300)
    assert scores_by_key(published_rows(lake)) == scored_directly(other, night().scorer)
    assert rejected_rows(lake) == []


def test_unseen_categories_of_rejected_rows_are_no_puzzle(lake):
    rows = with_column(customers(300), "plan", ["basic"] * 299 + ["platin"])
    rows = with_column(with_values(rows, "balance", {299: math.nan}), "channel", ["web"] * 300)
    write_files(lake, POPULATION, [rows])
    published = publish(lake, limits=LAX)
    assert (published.unseen, published.report.rejected) == ({}, 1)


# --- above the declared share ---------------------------------------------------------------------------------------


def test_up_to_the_declared_share_the_night_is_published(lake):
    write_files(lake, POPULATION, [with_values(customers(1000), "balance", {3: math.nan})])
    published = publish(lake, limits=Limits(max_shift=0.25, max_rejected_share=0.001))
    assert (published.report.rejected, published.report.rejected_share) == (1, 0.001)


def test_above_the_declared_share_main_is_untouched_and_the_rejects_are_there_for_a_look(lake):
    good = customers(1000)
    write_files(lake, POPULATION, [good])
    publish(lake)
    before = published_rows(lake)
    write_files(lake, POPULATION, [with_values(good, "balance", {3: math.nan, 4: math.inf})])
    with pytest.raises(AuditError, match=r"rejected rows: are 0\.20% .*gates\.max_rejected_share.*table of rejects"):
        publish(lake)
    assert published_rows(lake).equals(before)
    assert told(lake) == [(3, "balance", MISSING, "nan"), (4, "balance", BOUNDS, "inf")]


def test_a_population_of_which_no_row_can_be_scored_is_not_published(lake):
    write_files(lake, POPULATION, [with_column(customers(50), "balance", np.full(50, np.nan, np.float32))])
    with pytest.raises(AuditError, match=r"are 100\.00% of the population's 50"):
        publish(lake, limits=LAX)
    assert len(told(lake)) == 50
    assert published_rows(lake).num_rows == 0


# --- reruns ---------------------------------------------------------------------------------------------------------


def test_a_rerun_replaces_the_days_rejects_and_a_clean_one_empties_them(lake):
    good = customers(1000)
    write_files(lake, POPULATION, [with_values(good, "balance", {3: math.nan})])
    publish(lake, scored_on=FRIDAY)
    publish(lake)
    publish(lake)
    assert told(lake) == [(3, "balance", MISSING, "nan")]
    write_files(lake, POPULATION, [with_values(good, "balance", {8: math.nan})])
    publish(lake)
    assert told(lake) == [(8, "balance", MISSING, "nan")]
    write_files(lake, POPULATION, [good])
    publish(lake)
    assert told(lake) == []
    assert [row["customer_id"] for row in rejected_rows(lake, FRIDAY)] == [3]
    assert published_rows(lake).num_rows == 1000


# --- types ----------------------------------------------------------------------------------------------------------

CASTS = {
    "small integers": ("balance", pa.int32(), [1, -2, 3], [1.0, -2.0, 3.0]),
    "large integers": ("balance", pa.int64(), [9_999, -10_000, 5], [9_999.0, -10_000.0, 5.0]),
    "doubles": ("balance", pa.float64(), [0.1, 1e-300, -0.3], [0.1, 1e-300, -0.3]),
    "decimals": ("balance", pa.decimal128(9, 2), [Decimal("1.25"), Decimal("-9.99"), Decimal(0)], [1.25, -9.99, 0.0]),
    "booleans": ("tenure_months", pa.bool_(), [True, False, True], [1, 0, 1]),
    "floats": ("tenure_months", pa.float32(), [1.0, 599.5, 0.0], [1.0, 599.5, 0.0]),
}


@pytest.mark.parametrize("cast", CASTS)
def test_numbers_of_another_type_are_read_as_the_float_that_they_are(lake, cast):
    column, dtype, given, same = CASTS[cast]
    rows = customers(3)
    write_files(lake, POPULATION, [with_column(rows, column, pa.array(given, dtype))])
    published = publish(lake)
    expected = scored_directly(with_column(rows, column, pa.array(same, pa.float32())), night().scorer)
    assert scores_by_key(published_rows(lake)) == expected
    assert published.report.rejected == 0


def test_values_of_another_type_are_refused_like_any_and_told_as_they_are_written(lake):
    rows = with_column(
        customers(4), "balance", pa.array([Decimal("1.5"), None, Decimal("10000.01"), 1], pa.decimal128(9, 2))
    )
    rows = with_column(rows, "tenure_months", pa.array([1, 2, 3, 2**40], pa.int64()))
    write_files(lake, POPULATION, [with_column(rows, "age_years", [None, None, None, 1e308])])
    published = publish(lake, limits=LAX)
    assert told(lake) == [
        (1, "balance", MISSING, None),
        (2, "balance", BOUNDS, "10000.01"),
        (3, "age_years", BOUNDS, "1e+308"),
        (3, "tenure_months", BOUNDS, str(2**40)),
    ]
    assert_no_row_is_lost(lake, published)


@pytest.mark.parametrize(
    ("dtype", "given", "words"),
    [
        (pa.int32(), [1, 2, 1, 3], ["1", "2"]),
        (pa.int64(), [-1, 2**40, -1, 0], ["-1", str(2**40)]),
        (pa.bool_(), [True, False, True, True], ["true", "false"]),
    ],
)
def test_integers_and_booleans_can_be_categories(lake, dtype, given, words):
    features = tiny_contract().features
    plan = features["plan"].model_copy(update={"values": tuple(words)})
    scorer = Scorer(tiny_onnx(tiny_contract(features={**features, "plan": plan})))
    rows = customers(4)
    write_files(lake, POPULATION, [with_column(rows, "plan", pa.array(given, dtype))])
    published = publish(lake, scorer=scorer)
    texts = with_column(rows, "plan", [str(value).lower() for value in given])
    assert scores_by_key(published_rows(lake)) == scored_directly(texts, scorer)
    assert published.unseen == ({} if dtype == pa.bool_() else {"plan": 1})


def test_text_that_is_dictionary_encoded_in_the_files_reads_like_any(lake):
    rows = with_values(customers(3000), "plan", {7: None})
    encoded = rows.set_column(4, "plan", rows["plan"].dictionary_encode())
    lake.ensure_table(POPULATION, rows.schema)
    write_files(lake, POPULATION, [encoded.slice(0, 1000), encoded.slice(1000)])
    published = publish(lake, limits=LAX)
    assert told(lake) == [(7, "plan", MISSING, None)]
    kept = [key for key in range(3000) if key != 7]
    assert scores_by_key(published_rows(lake)) == scored_directly(rows.take(kept), night().scorer)
    assert_no_row_is_lost(lake, published)


def test_a_population_that_is_retyped_or_loses_a_column_fails_before_any_row_is_read(lake):
    write_files(lake, POPULATION, [customers(100)])
    publish(lake, scored_on=FRIDAY)
    with lake.load(POPULATION).update_schema() as change:
        change.rename_column("balance", "money")
        change.add_column("device", StringType())
    for file in parts_on_disk(lake, POPULATION):
        file.unlink()  # whoever reads a row now fails otherwise
    before = [lake.snapshot(table) for table in (PREDICTIONS, REJECTS)]
    with pytest.raises(ColumnError, match="'balance' is missing"):
        publish(lake)
    with lake.load(POPULATION).update_schema() as change:
        change.add_column("balance", StringType())
    with pytest.raises(ColumnError, match="column 'balance' has type large_string, but a number is expected"):
        publish(lake)
    assert [lake.snapshot(table) for table in (PREDICTIONS, REJECTS)] == before


def test_a_column_that_is_added_or_moved_is_harmless(lake):
    rows = customers(100)
    write_files(lake, POPULATION, [rows])
    with lake.load(POPULATION).update_schema() as change:
        change.add_column("device", StringType())
        change.move_first("plan")
        change.move_after("customer_id", "balance")
    publish(lake)
    assert scores_by_key(published_rows(lake)) == scored_directly(rows, night().scorer)


# --- against a slow reference ---------------------------------------------------------------------------------------

FIELDS = {
    "customer_id": st.one_of(st.none(), st.integers(0, 12), st.integers(-(2**63), 2**63 - 1)),
    "tenure_months": st.one_of(st.none(), st.integers(-3, 603), st.integers(-(2**31), 2**31 - 1)),
    "age_years": st.one_of(st.none(), st.floats(10, 120), st.floats()),
    "balance": st.one_of(st.none(), st.floats(-10_100, 10_100, width=32), st.floats(width=32)),
    "plan": st.sampled_from(["basic", "plus", "pro", "", "Basic", "ß", None]),
    "channel": st.sampled_from(["web", "shop", "fax", None]),
}
SCHEMA = customers(0).schema
BROKEN = st.fixed_dictionaries(FIELDS)
SOUND = st.fixed_dictionaries(
    {
        "customer_id": st.integers(0, 1000),
        "tenure_months": st.integers(0, 600),
        "age_years": st.one_of(st.none(), st.floats(16, 110)),
        "balance": st.floats(-10_000, 10_000, width=32),
        "plan": st.sampled_from(["basic", "plus", "pro"]),
        "channel": st.sampled_from(["web", "shop", None]),
    }
)
Row = dict[str, Any]


def float32(value: float | str) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(value)


def reasons_of(row: Row, counts: Counter[Any]) -> list[tuple[str, str]]:
    """Say, slowly, what is wrong with a row of the tiny contract."""
    found = []
    if row["customer_id"] is None:
        found.append(("customer_id", MISSING))
    elif counts[row["customer_id"]] > 1:
        found.append(("customer_id", REPEATED))
    for name, low, high, may_miss in (
        ("tenure_months", 0, 600, False),
        ("age_years", 16, 110, True),
        ("balance", -10_000, 10_000, False),
    ):
        value = row[name]
        if value is None or math.isnan(value):
            found += [] if may_miss else [(name, MISSING)]
        elif not low <= float32(value) <= high:
            found.append((name, BOUNDS))
    if row["plan"] is None:
        found.append(("plan", MISSING))
    return found


@hypothesis_settings(
    max_examples=12,
    phases=[Phase.explicit, Phase.generate],  # each example is three commits: too slow to be shrunk
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.lists(st.one_of(SOUND, SOUND, BROKEN), max_size=30), min_size=1, max_size=3))
def test_any_mistakes_in_any_rows_are_found_as_a_slow_reference_finds_them(lake, files):
    rows = [row for file in files for row in file]
    if not rows:
        return
    counts = Counter(row["customer_id"] for row in rows)
    verdicts = [(row, reasons_of(row, counts)) for row in rows]
    good = [row for row, reasons in verdicts if not reasons]
    tables = [pa.Table.from_pylist(file, SCHEMA) for file in files]
    write_files(lake, POPULATION, tables)
    if good:
        published = publish(lake, limits=LAX)
        expected = scored_directly(pa.Table.from_pylist(good, SCHEMA), night().scorer)
        assert scores_by_key(published_rows(lake)) == expected
        assert_no_row_is_lost(lake, published)
        unseen = {
            "plan": sum(row["plan"] not in {"basic", "plus", "pro"} for row in good),
            "channel": sum(row["channel"] not in {"web", "shop", None} for row in good),
        }
        assert published.unseen == {name: count for name, count in unseen.items() if count}
    else:
        with pytest.raises(AuditError):
            publish(lake, limits=LAX)
    wrong = Counter((row["customer_id"], *reason) for row, reasons in verdicts for reason in reasons)
    assert Counter((key, column, reason) for key, column, reason, _ in told(lake)) == wrong
    values = {
        (row["customer_id"], column): row[column]
        for row, reasons in verdicts
        for column, reason in reasons
        if counts[row["customer_id"]] == 1 and reason == BOUNDS
    }
    for key, column, _, value in told(lake):
        if (key, column) in values:
            assert float32(value) == float32(values[key, column])


def test_the_reference_agrees_with_the_encoder_about_sound_rows():
    rows = customers(500)
    assert all(reasons_of(row, Counter()) == [] for row in rows.to_pylist())
    assert len(encode_arrow(tiny_contract(), rows)) == 500
