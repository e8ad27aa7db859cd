"""Nights of a champion made by hand: reruns, bad days that nobody sees, and failures that name thing and remedy."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from dagster._core.definitions.backfill_policy import resolve_backfill_policy

from assets.resources import Backends
from backends.nights import published_nights
from orchestration.definitions import assemble
from tests.backends.nights import customers, turn_back, with_column
from tests.lives import TINY, checks, declare, materialized, promoted, reason_of, run_job, write_table
from tests.tiny_model import tiny_contract, tiny_onnx_with_reference

POPULATION, GOLD = "silver.active_customers", "gold.tiny_predictions"
FRIDAY, SATURDAY = date(2026, 11, 20), date(2026, 11, 21)
GOLD_AND_ONLINE = {"gold/tiny_predictions", "tiny/online_features"}


@pytest.fixture
def tiny(home):
    return declare(home, TINY)


@pytest.fixture
def champion(home, tiny):
    return promoted(home, tiny_contract())


@pytest.fixture
def population(home, champion) -> pa.Table:
    table = customers(600)
    write_table(home, POPULATION, table)
    return table


@pytest.fixture
def scored(home, instance):
    """Run a night as the schedule does."""

    def night(day: date = FRIDAY) -> dg.ExecuteInProcessResult:
        return run_job(home, instance, "tiny_nightly", day)

    return night


def gold_of(home) -> pa.Table:
    with Backends(home).lakehouse() as lake:
        return lake.read(GOLD).sort_by([("scored_on", "ascending"), ("customer_id", "ascending")])


def online_of(home) -> dict[str, str]:
    return Backends(home).online_store("tiny").describe()


def failed(result: dg.ExecuteInProcessResult) -> set[str]:
    return {name for name, check in checks(result).items() if not check.passed}


def test_a_night_is_published_and_its_features_go_online(home, champion, population, scored):
    result = scored()
    assert result.success, reason_of(result)
    assert materialized(result) == GOLD_AND_ONLINE
    assert gold_of(home)["customer_id"].to_pylist() == population["customer_id"].to_pylist()
    assert online_of(home)["rows"] == "600"


def test_a_declaration_that_asks_for_reasons_gets_them_and_dagster_shows_the_column(home, instance):
    declare(home, TINY, predictions={"reasons": 2, "reasons_for": "all"})
    promoted(home, tiny_contract(), onnx=tiny_onnx_with_reference(tiny_contract()))
    write_table(home, POPULATION, customers(30))
    result = run_job(home, instance, "tiny_nightly", FRIDAY)
    assert result.success, reason_of(result)
    assert [len(reasons) for reasons in gold_of(home)["reasons"].to_pylist()] == [2] * 30
    (made,) = [event for event in result.get_asset_materialization_events() if event.asset_key.path[-1] == GOLD[5:]]
    facts = made.materialization.metadata
    (shown,) = [column for column in facts["dagster/column_schema"].schema.columns if column.name == "reasons"]
    assert shown.description == "The 2 features that moved the score most, in log-odds."
    made_of = facts["dagster/column_lineage"].lineage.deps_by_column["reasons"]
    assert {dependency.column_name for dependency in made_of} == set(TINY["features"])


def test_a_rerun_replaces_its_day(home, population, scored):
    assert scored().success
    before = gold_of(home)
    write_table(home, POPULATION, customers(700))
    assert scored().success
    after = gold_of(home)
    assert (len(before), len(after)) == (600, 700)
    assert after["scored_on"].unique().to_pylist() == [FRIDAY]
    assert min(after["scored_at"].to_pylist()) > max(before["scored_at"].to_pylist())


def test_two_days_stand_side_by_side(home, population, scored):
    assert scored(FRIDAY).success
    assert scored(SATURDAY).success
    days = gold_of(home)["scored_on"].value_counts().to_pylist()
    assert {day["values"]: day["counts"] for day in days} == {FRIDAY: 600, SATURDAY: 600}


def test_a_past_day_scored_late_leaves_the_newest_one_online(home, population, scored):
    assert scored(SATURDAY).success
    write_table(home, POPULATION, customers(700))
    assert scored(FRIDAY).success
    with Backends(home).lakehouse() as lake:
        nights = published_nights(lake, GOLD)
    assert set(nights) == {"2026-11-20", "2026-11-21"}
    assert online_of(home)["source_snapshot"] == nights["2026-11-21"].properties["source_snapshot"]


@pytest.mark.parametrize(
    ("bad", "check", "said"),
    [
        (
            lambda table: pa.concat_tables([table, table.slice(7, 1)]),
            "few_rows_are_rejected",
            "rejected rows: are 0.33% of the population's 601",
        ),
        (
            lambda table: with_column(table, "customer_id", [None, *table["customer_id"].to_pylist()[1:]]),
            "few_rows_are_rejected",
            "rejected rows: are 0.17% of the population's 600",
        ),
        (
            lambda table: with_column(table, "balance", np.full(len(table), 10_000, np.float32)),
            "scores_resemble_last_night",
            "gates.max_score_shift",
        ),
    ],
    ids=["a key twice", "a key missing", "shifted scores"],
)
def test_a_bad_day_fails_its_audit_and_nobody_sees_it(home, population, scored, bad, check, said):
    assert scored(FRIDAY).success
    gold, online = gold_of(home), online_of(home)
    write_table(home, POPULATION, bad(population))
    result = scored(SATURDAY)
    assert not result.success
    assert failed(result) == {check}
    assert said in checks(result)[check].metadata["reason"].value
    assert "are not published" in reason_of(result)
    assert materialized(result) == set()
    assert gold_of(home).equals(gold)
    assert online_of(home) == online


def test_after_a_bad_day_the_mended_one_is_published(home, population, scored):
    write_table(home, POPULATION, pa.concat_tables([population, population.slice(0, 1)]))
    assert not scored().success
    write_table(home, POPULATION, population)
    assert scored().success
    assert len(gold_of(home)) == 600


def test_a_corrupt_onnx_file_is_refused(home, champion, population, scored):
    (onnx,) = home.home.glob(f"mlflow/tiny/{champion.mlflow_run_id}/artifacts/**/model.onnx")
    onnx.write_bytes(onnx.read_bytes()[:-100])
    result = scored()
    assert f"not {champion.sha256}. It was changed after it was registered" in reason_of(result)
    assert materialized(result) == set()
    with Backends(home).lakehouse() as lake:
        assert not lake.catalog.table_exists(GOLD)


def test_a_model_without_champion_says_what_to_do(home, tiny, scored):
    write_table(home, POPULATION, customers(10))
    assert "Model 'tiny' has no champion. Materialize tiny/champion" in reason_of(scored())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (customers(10).drop_columns(["balance"]), "column 'balance' is missing (a number is expected)"),
        (with_column(customers(10), "balance", ["much"] * 10), "column 'balance' has type large_string, but a number"),
        (with_column(customers(10), "plan", np.zeros(10)), "column 'plan' has type double, but a category needs text"),
        (customers(10).drop_columns(["customer_id"]), "there is no such column. Name another `entity_key`"),
        (
            with_column(customers(10), "customer_id", [f"c{i}" for i in range(10)]),
            "is now of type string, but the champion of 'tiny' was made for integer",
        ),
        (with_column(customers(10), "balance", np.full(10, 1e6)), "are 100.00% of the population's 10"),
        (customers(0), "Population table 'silver.active_customers' has no rows: there is nothing to score. Fill it."),
    ],
    ids=["column gone", "number as text", "category as float", "no key", "key as text", "out of bounds", "empty"],
)
def test_a_population_that_does_not_fit_fails_before_anything_is_published(home, champion, scored, table, said):
    write_table(home, POPULATION, table)
    result = scored()
    assert said in reason_of(result)
    assert materialized(result) == set()


def test_a_population_that_is_not_there_is_named(home, champion, scored):
    assert f"The catalog has no table {POPULATION!r}. Create it, or name another one" in reason_of(scored())


def test_the_metadata_of_a_night_tells_what_was_done(home, champion, population, scored):
    scored(FRIDAY)
    result = scored(SATURDAY)
    (event,) = result.asset_materializations_for_node("gold__tiny_predictions")
    facts = {name: fact.value for name, fact in event.metadata.items()}
    gold = gold_of(home).slice(600)
    assert event.partition == "2026-11-21"
    assert (facts["dagster/partition_row_count"], facts["dagster/row_count"]) == (600, 1200)
    assert facts["predicted_positive"] == gold["tiny_predicted"].to_pylist().count(True)
    assert facts["mean_score"] == pytest.approx(gold["tiny_probability"].to_numpy().mean(dtype=np.float64))
    assert facts["score_shift"] == 0
    assert (facts["model_version"], facts["model_sha256"]) == (1, champion.sha256)


def facts_of(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node("gold__tiny_predictions")
    return {name: getattr(fact, "records", fact.value) for name, fact in event.metadata.items()}


def test_a_range_of_past_days_is_one_commit_each_from_the_population_of_its_day(home, population, scored):
    noon = {day: datetime(day.year, day.month, day.day, 12, tzinfo=UTC) for day in (FRIDAY, SATURDAY)}
    with Backends(home).lakehouse() as lake:
        turn_back(lake, POPULATION, dict.fromkeys([s.id for s in lake.history(POPULATION)], noon[FRIDAY]))
    saturdays = write_table(home, POPULATION, customers(700))
    with Backends(home).lakehouse() as lake:
        turn_back(lake, POPULATION, {saturdays: noon[SATURDAY]})
    write_table(home, POPULATION, customers(800))
    thursday = FRIDAY - timedelta(days=1)
    for attempt in (1, 2):
        results = {day: scored(day) for day in (thursday, FRIDAY, SATURDAY)}
        days = gold_of(home)["scored_on"].value_counts().to_pylist()
        assert {day["values"]: day["counts"] for day in days} == {thursday: 800, FRIDAY: 600, SATURDAY: 700}
        read = {day: str(facts_of(result)["population_as_of"]) for day, result in results.items()}
        assert read[thursday].startswith("the current one, committed 20")
        assert read[FRIDAY] == "as it stood at the end of 2026-11-20, committed 2026-11-20 12:00:00 UTC"
        assert read[SATURDAY] == "as it stood at the end of 2026-11-21, committed 2026-11-21 12:00:00 UTC"
        with Backends(home).lakehouse() as lake:
            log = lake.load(GOLD).metadata.snapshot_log
            moves = [entry for entry in log if lake.snapshot(GOLD, entry.snapshot_id).rows]
        assert len(moves) == 3 * attempt


def test_a_backfill_makes_one_run_for_each_day(home, tiny):
    asset = assemble(home).get_assets_def(dg.AssetKey(["gold", "tiny_predictions"]))
    assert resolve_backfill_policy([asset.backfill_policy]).max_partitions_per_run == 1  # one night, one commit


def test_what_was_refused_or_unseen_is_shown_by_column_and_counted(home, instance, champion):
    declare(home, TINY, gates={"max_rejected_share": 0.01})
    rows = with_column(customers(1000), "balance", [float("nan"), 1e6, *[0.0] * 998])
    write_table(home, POPULATION, with_column(rows, "plan", ["platin"] * 5 + ["pro"] * 995))
    result = run_job(home, instance, "tiny_nightly", FRIDAY, ["gold/tiny_predictions"])
    assert result.success, reason_of(result)
    facts = facts_of(result)
    assert (facts["rejected_rows"], facts["dagster/partition_row_count"]) == (2, 998)
    assert [dict(record.data) for record in facts["rejects_in_gold.tiny_rejects"]] == [
        {"column": "balance", "reason": "is missing", "values": 1},
        {"column": "balance", "reason": "is out of bounds", "values": 1},
    ]
    assert [dict(record.data) for record in facts["unseen_categories"]] == [{"column": "plan", "rows": 3}]
    check = checks(result)["few_rows_are_rejected"]
    assert check.passed
    assert (check.metadata["rejected_rows"].value, check.metadata["rejected_share"].value) == (2, 0.002)


def test_above_the_declared_share_nothing_is_published_and_the_rejects_can_be_read(home, population, scored):
    write_table(home, POPULATION, with_column(population, "balance", np.array([np.nan] * 2 + [0.0] * 598, np.float32)))
    result = scored()
    assert failed(result) == {"few_rows_are_rejected"}
    with Backends(home).lakehouse() as lake:
        rejects = lake.read("gold.tiny_rejects")
        assert lake.snapshot(GOLD).rows == 0
    assert sorted(rejects["customer_id"].to_pylist()) == [0, 1]
