"""A night that says why: the optional column, whom it is for, and tables that had it not, or have it no more."""

import pyarrow as pa
import pytest

from backends.gold_tables import predictions_schema, reasons_schema
from backends.lakehouse.appending import add_columns
from backends.lakehouse.catalog import Lakehouse
from backends.rollbacks import roll_back
from models.encoding import encode_arrow
from models.errors import ModelFileError
from models.reasons import Explainer
from models.scoring import Scorer
from tests.backends.nights import (
    FRIDAY,
    LAX,
    POPULATION,
    PREDICTIONS,
    customers,
    parts_on_disk,
    publish,
    published_rows,
    scored_directly,
    scores_by_key,
    with_column,
    write_files,
)
from tests.tiny_model import tiny_contract, tiny_onnx_with_reference

SCORER = Scorer(tiny_onnx_with_reference(tiny_contract()))
COLUMNS = predictions_schema(tiny_contract()).names


@pytest.fixture
def population(lake) -> pa.Table:
    files = [customers(120), customers(1, first_key=120), customers(79, first_key=121)]
    write_files(lake, POPULATION, files)
    return pa.concat_tables(files)


def reasoned(lake: Lakehouse, reasons: int = 2, **changes):
    return publish(lake, scorer=SCORER, reasons=reasons, **changes)


def explained_directly(population: pa.Table, count: int) -> dict[int, list[dict]]:
    """Return what must stand in the column, by key."""
    rows = encode_arrow(SCORER.contract, population)
    found = Explainer(SCORER).explain(rows, SCORER.score(rows))
    keys = population["customer_id"].to_pylist()
    return {
        key: [{"feature": name, "contribution": value} for name, value in reasons.most(count)]
        for key, reasons in zip(keys, found, strict=True)
    }


def column_of(rows: pa.Table) -> dict[int, list[dict] | None]:
    return dict(zip(rows["customer_id"].to_pylist(), rows["reasons"].to_pylist(), strict=True))


def test_rows_that_reach_the_threshold_say_why_and_others_do_not(lake, population):
    reasoned(lake)
    rows = published_rows(lake)
    assert rows.schema.names == [*COLUMNS, "reasons"]
    assert rows.schema.field("reasons").type.value_type.num_fields == 2
    positive = dict(zip(rows["customer_id"].to_pylist(), rows["tiny_predicted"].to_pylist(), strict=True))
    assert 0 < sum(positive.values()) < len(positive)
    expected = explained_directly(population, 2)
    assert column_of(rows) == {key: expected[key] if positive[key] else [] for key in positive}
    assert scores_by_key(rows) == scored_directly(population, SCORER)


def test_all_rows_may_say_why(lake, population):
    reasoned(lake, reasons_for="all")
    assert column_of(published_rows(lake)) == explained_directly(population, 2)


def test_more_reasons_than_features_are_all_of_them(lake, population):
    reasoned(lake, reasons=50, reasons_for="all")
    assert {len(reasons) for reasons in column_of(published_rows(lake)).values()} == {5}


def test_a_batch_in_which_nobody_is_explained(lake):
    write_files(lake, POPULATION, [customers(20)])
    contract = tiny_contract(decision_threshold=0.999999)
    publish(lake, scorer=Scorer(tiny_onnx_with_reference(contract)), reasons=2)
    assert list(column_of(published_rows(lake)).values()) == [[]] * 20


def test_a_table_that_had_no_reasons_gets_the_column_and_loses_nothing(lake, population):
    publish(lake, scorer=SCORER, scored_on=FRIDAY)
    before = published_rows(lake, FRIDAY)
    reasoned(lake)
    after = published_rows(lake, FRIDAY)
    assert after.select(COLUMNS).equals(before)
    assert after["reasons"].null_count == len(after)
    assert any(column_of(published_rows(lake)).values())


def test_a_night_without_reasons_publishes_into_a_table_that_has_them(lake, population):
    reasoned(lake, scored_on=FRIDAY)
    publish(lake, scorer=SCORER)
    assert published_rows(lake)["reasons"].null_count == len(population)
    assert any(column_of(published_rows(lake, FRIDAY)).values())
    reasoned(lake)
    assert any(column_of(published_rows(lake)).values())


def test_a_rollback_beyond_the_first_reasons_and_a_night_after_it(lake, population):
    publish(lake, scorer=SCORER, scored_on=FRIDAY)
    reasoned(lake)
    roll_back(lake, PREDICTIONS, f"night_{FRIDAY}", reason="a test", by="a test")
    assert published_rows(lake).num_rows == 0
    assert published_rows(lake, FRIDAY).num_rows == len(population)
    reasoned(lake)
    assert any(column_of(published_rows(lake)).values())


def test_two_nights_may_add_the_column_at_once(lake, settings, population, monkeypatch):
    publish(lake, scorer=SCORER, scored_on=FRIDAY)
    load, overtaken = lake.load, []

    def load_too_early(table: str):
        loaded = load(table)
        if not overtaken:
            overtaken.append(table)
            with Lakehouse.open(settings) as other:
                add_columns(other, table, reasons_schema())
        return loaded

    monkeypatch.setattr(lake, "load", load_too_early)
    add_columns(lake, PREDICTIONS, reasons_schema())
    assert overtaken == [PREDICTIONS]
    assert lake.schema(PREDICTIONS).names == [*COLUMNS, "reasons"]


def test_rejected_rows_shift_no_reason_to_another_row(lake, population):
    months = population["tenure_months"].to_numpy().copy()
    months[[0, 50, 199]] = 601
    write_files(lake, POPULATION, [with_column(population, "tenure_months", months)])
    reasoned(lake, reasons_for="all", limits=LAX)
    expected = explained_directly(population, 2)
    assert column_of(published_rows(lake)) == {key: r for key, r in expected.items() if key not in (0, 50, 199)}


def test_files_say_by_field_ids_which_column_is_which(lake, population):
    import pyarrow.parquet as pq

    reasoned(lake)
    there = lake.load(PREDICTIONS).schema()
    ids = {there.find_field(name).field_id for name in ("reasons", "reasons.element.feature")}
    for part in parts_on_disk(lake):
        field = pq.read_schema(part).field("reasons")
        element = field.type.value_field.type
        assert {int(f.metadata[b"PARQUET:field_id"]) for f in (field, element.field("feature"))} == ids


def test_without_reasons_nothing_is_added(lake, population):
    publish(lake, scorer=SCORER)
    assert published_rows(lake).schema.names == COLUMNS


def test_a_model_that_gives_no_reasons_says_so_before_the_night_begins(lake, population):
    with pytest.raises(ModelFileError, match=r"Train again.*declare `predictions\.reasons: 0`"):
        publish(lake, reasons=2)
    assert not lake.catalog.table_exists(PREDICTIONS)
