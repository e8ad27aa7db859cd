from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from demo.churn_process import churn_probability
from demo.customers import MAY_BE_MISSING
from demo.population import (
    CHUNK_ROWS,
    OUTCOME_DAYS,
    Chunk,
    active_customers,
    best_possible_auc,
    churn_examples,
    customer_chunks,
    last_labelled_month,
)
from models.contract import Contract
from models.encoding import encode_arrow

AS_OF = date(2026, 11, 24)
LAST_MONTH = date(2026, 9, 1)


@pytest.fixture(scope="module")
def active() -> pa.Table:
    return active_customers(Chunk(0, 40_000), seed=5, as_of=AS_OF)


@pytest.fixture(scope="module")
def examples() -> pa.Table:
    return churn_examples(Chunk(0, 60_000), seed=5, last_month=LAST_MONTH)


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """Mann-Whitney with half points for ties, straight from the pairs' definition."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = label.sum()
    won = rank[label].sum() - positives * (positives + 1) / 2
    return float(won / (positives * (~label).sum()))


# --- reproducibility --------------------------------------------------------------------------------------------------


def both_tables(chunk: Chunk, seed: int) -> tuple[pa.Table, pa.Table]:
    return active_customers(chunk, seed=seed, as_of=AS_OF), churn_examples(chunk, seed=seed, last_month=LAST_MONTH)


def test_same_seed_and_chunk_give_the_same_rows_in_any_order():
    forwards = [both_tables(Chunk(i, 500), 3) for i in (0, 1, 2)]
    backwards = [both_tables(Chunk(i, 500), 3) for i in (2, 1, 0)]
    assert forwards == backwards[::-1]


def test_a_shorter_last_chunk_is_the_start_of_the_full_one():
    for short, full in zip(both_tables(Chunk(4, 700), 3), both_tables(Chunk(4, 2000), 3), strict=True):
        assert short == full.slice(0, 700)


def test_other_seeds_and_other_chunks_give_other_rows():
    first = both_tables(Chunk(0, 500), 3)
    for other in (both_tables(Chunk(0, 500), 4), both_tables(Chunk(1, 500), 3)):
        for a, b in zip(first, other, strict=True):
            assert all(a[name] != b[name] for name in a.column_names)


def test_chunks_cover_the_rows_once_and_only_the_last_is_shorter():
    chunks = customer_chunks(2 * CHUNK_ROWS + 7)
    assert chunks == [Chunk(0, CHUNK_ROWS), Chunk(1, CHUNK_ROWS), Chunk(2, 7)]
    assert customer_chunks(0) == []


def test_the_next_day_has_the_same_customers_a_day_nearer_to_their_contracts_end(active: pa.Table):
    tomorrow = active_customers(Chunk(0, 40_000), seed=5, as_of=AS_OF + timedelta(days=1))
    assert tomorrow["customer_id"] == active["customer_id"]
    assert tomorrow["monthly_charge"] == active["monthly_charge"]
    passed = active["days_to_contract_end"].to_pandas() - tomorrow["days_to_contract_end"].to_pandas()
    assert (passed == 1).sum() > 0.4 * passed.notna().sum()


# --- schema and values ------------------------------------------------------------------------------------------------


def test_schemas_have_the_declared_columns_in_types_that_iceberg_has(churn: Contract, active, examples):
    assert set(active.column_names) == {"customer_id", "updated_at", *churn.features}
    assert set(examples.column_names) == {"customer_id", "observed_on", "churned", *churn.features}
    for table in (active, examples):
        assert table.schema.field("customer_id").type == pa.int64()
        assert {table.schema.field(name).type for name in churn.numbers} == {pa.int32(), pa.float64()}
        assert {table.schema.field(name).type for name in churn.categories} == {pa.dictionary(pa.int8(), pa.string())}
    assert active.schema.field("updated_at").type == pa.timestamp("us", "UTC")
    assert examples.schema.field("observed_on").type == pa.date32()
    assert examples.schema.field("churned").type == pa.bool_()
    assert examples["churned"].null_count == 0


@pytest.mark.parametrize("seed", range(3))
def test_every_value_fits_the_declaration(churn: Contract, seed: int):
    for table in both_tables(Chunk(seed, 60_000), seed):
        encode_arrow(churn, table)  # refuses what is out of bounds, and missing where it may not be


def test_values_are_missing_exactly_where_the_declaration_says(churn: Contract, active, examples):
    declared = {name for name, feature in churn.features.items() if feature.missing}
    assert set(MAY_BE_MISSING) == declared
    for table in (active, examples):
        assert {name for name in churn.features if table[name].null_count} == declared


def test_a_contracts_end_is_missing_exactly_for_monthly_contracts(active: pa.Table):
    monthly = np.array(active["contract"].to_pylist()) == "monthly"
    assert (active["days_to_contract_end"].is_null().to_numpy() == monthly).all()


def test_customer_ids_are_unique_and_increasing_over_chunks_and_tables():
    chunks = [both_tables(Chunk(i, CHUNK_ROWS), 1) for i in (0, 1)]
    active, examples = (np.concatenate([pair[k]["customer_id"].to_numpy() for pair in chunks]) for k in (0, 1))
    assert (np.diff(active) > 0).all()
    assert (np.diff(examples) > 0).all()
    assert len(np.unique(np.diff(active))) > 1  # no plain counter
    assert not np.intersect1d(active, examples).size


def test_updates_are_on_the_day_before(active: pa.Table):
    times = active["updated_at"].to_pylist()
    end = datetime(2026, 11, 24, tzinfo=UTC)
    assert end - timedelta(days=1) <= min(times)
    assert max(times) < end


def test_every_declared_value_occurs_some_are_rare_and_some_brands_are_unseen(churn: Contract, active, examples):
    table = pa.concat_tables([active.select(churn.features), examples.select(churn.features)])
    codes = encode_arrow(churn, table).categories
    smallest = 1.0
    for j, (name, feature) in enumerate(churn.categories.items()):
        shares = np.bincount(codes[:, j], minlength=feature.missing_code + 1) / len(codes)
        assert shares[: len(feature.values)].min() > 0, name
        smallest = min(smallest, shares[: len(feature.values)].min())
        unseen = shares[feature.other_code]
        assert 0.005 < unseen < 0.03 if name == "device_brand" else unseen == 0, name
    assert smallest < 0.005


def test_numbers_are_skewed_and_zero_inflated(active: pa.Table):
    for name in ("monthly_charge", "data_used_gb", "call_minutes", "days_since_login"):
        values = active[name].drop_null().to_numpy()
        assert values.mean() > 1.2 * np.median(values), name
    for name in ("tickets_90d", "outage_hours_30d", "late_payments_12m", "discount_share"):
        assert (active[name].to_numpy() == 0).mean() > 0.5, name


def test_features_are_correlated_as_in_life(active: pa.Table):
    frame = active.to_pandas()
    ranks = frame[["tenure_months", "age_years", "monthly_charge", "data_used_gb"]].rank().corr()
    assert ranks.loc["tenure_months", "age_years"] > 0.1
    assert ranks.loc["monthly_charge", "data_used_gb"] > 0.25
    assert frame.groupby("payment_method", observed=True)["late_payments_12m"].mean()["cash"] > 1
    assert (frame["late_payments_12m"] <= frame["tenure_months"]).all()


# --- labels -----------------------------------------------------------------------------------------------------------


def test_churn_rate_and_label_follow_the_true_probability(examples: pa.Table):
    truth, label = churn_probability(examples), examples["churned"].to_numpy()
    assert 0.06 < label.mean() < 0.09
    for low, high in ((0, 0.02), (0.02, 0.1), (0.1, 0.3), (0.3, 1)):
        rows = (truth >= low) & (truth < high)
        noise = np.sqrt((truth[rows] * (1 - truth[rows])).sum()) / rows.sum()
        assert abs(label[rows].mean() - truth[rows].mean()) < 4 * noise


def test_each_month_has_examples_and_no_other_month(examples: pa.Table):
    months = examples["observed_on"].to_numpy().astype("datetime64[M]")
    assert (np.unique(months) == np.arange("2025-10", "2026-10", dtype="datetime64[M]")).all()
    assert np.unique(months, return_counts=True)[1].min() > 60_000 / 12 * 0.9
    assert examples["observed_on"].to_pylist().count(date(2026, 9, 30)) > 0  # months are whole
    other = churn_examples(Chunk(0, 2000), seed=5, last_month=date(2026, 2, 14), months=3)
    assert {str(day)[:7] for day in other["observed_on"].to_pylist()} == {"2025-12", "2026-01", "2026-02"}


@pytest.mark.parametrize(
    ("as_of", "month"),
    [
        (date(2026, 11, 24), date(2026, 9, 1)),
        (date(2026, 10, 30), date(2026, 9, 1)),  # the label of 30 September becomes known on this day
        (date(2026, 10, 29), date(2026, 8, 1)),
        (date(2026, 3, 2), date(2026, 1, 1)),  # February is not over by thirty days
    ],
)
def test_last_labelled_month_is_the_latest_whose_labels_are_all_known(as_of: date, month: date):
    assert last_labelled_month(as_of) == month
    table = churn_examples(Chunk(0, 3000), seed=0, last_month=month)
    assert max(table["observed_on"].to_pylist()) + timedelta(days=OUTCOME_DAYS) <= as_of


def test_churn_drifts_over_the_year_slowly(examples: pa.Table):
    day = np.datetime64("2025-10-15") + 30 * np.arange(13)
    features = examples.drop_columns(["observed_on"])
    rates = [
        churn_probability(features.append_column("observed_on", pa.array(np.full(len(features), d)))).mean()
        for d in day
    ]
    assert max(rates) / min(rates) > 1.1
    assert np.abs(np.diff(np.log(rates))).max() < 0.06


def test_neither_the_id_nor_any_feature_alone_nor_its_absence_gives_the_label_away(churn: Contract, examples: pa.Table):
    label, rows = examples["churned"].to_numpy(), encode_arrow(churn, examples)
    assert abs(auc(examples["customer_id"].to_numpy(), label) - 0.5) < 0.02
    assert abs(auc(np.arange(len(label)), label) - 0.5) < 0.02
    for name, column in zip(churn.numbers, rows.numbers.T, strict=True):
        known = ~np.isnan(column)
        assert abs(auc(column[known], label[known]) - 0.5) < 0.25, name
        limit = 0.15 if name == "days_to_contract_end" else 0.05  # its absence says `contract: monthly`
        assert abs(auc(known, label) - 0.5) < limit, name
    for name, codes in zip(churn.categories, rows.categories.T, strict=True):
        rate = np.bincount(codes, label) / np.maximum(np.bincount(codes), 1)
        assert auc(rate[codes], label) < 0.7, name


def test_the_ceiling_of_the_test_months_leaves_room_above_the_gates():
    ceiling = best_possible_auc(30_000, seed=5, last_month=LAST_MONTH)
    assert 0.86 < ceiling < 0.90
    table = churn_examples(Chunk(0, 30_000), seed=5, last_month=LAST_MONTH)
    latest = table.filter(pa.array(table["observed_on"].to_numpy() >= np.datetime64("2026-08")))
    assert abs(ceiling - auc(churn_probability(latest), latest["churned"].to_numpy())) < 0.03
