"""The life of a model of events: features of many days in one run, a training on them, and the night of one day."""

from datetime import date, timedelta

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from assets.resources import Backends
from backends.batch_scoring import population_plan
from backends.lakehouse.reading import is_plain, partition_is
from models.declaration import Declaration
from models.encoding import encode_arrow
from models.scoring import Scorer
from orchestration.definitions import assemble
from tests.event_model import DECLARED, by_hand, event_contract, labelled_swipes
from tests.lives import (
    SMALL,
    TINY,
    checks,
    declare,
    definitions_of,
    materialized,
    merged,
    promoted,
    reason_of,
    run_job,
    write_table,
)

FIRST, DAYS = date(2026, 10, 1), 45
LAST = FIRST + timedelta(days=DAYS - 1)
TRAINING = ["swipes/training_set", "swipes/trained_model", "swipes/quantized_model", "swipes/champion"]


def run_days(settings, instance, first: date, last: date) -> dg.ExecuteInProcessResult:
    """Make the features of a range of days in one run, as a backfill does."""
    tags = {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
    job = definitions_of(settings).resolve_job_def("swipes_features")
    return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)


@pytest.fixture(scope="module")
def swipes() -> pa.Table:
    return labelled_swipes(4000, FIRST, DAYS)


@pytest.fixture
def declared(home, swipes) -> Declaration:
    in_order = swipes.sort_by("swiped_at")  # five days a file, of which those of other days are not read
    write_table(home, "silver.card_swipes", *(in_order.slice(begin, 400) for begin in range(0, 4000, 400)))
    return declare(home, merged(DECLARED, SMALL), gates={"min_auc": 0.6, "max_calibration_error": 0.2})


def features(home, declared, day: date | None = None) -> pa.Table:
    with Backends(home).lakehouse() as lake:
        return lake.read(declared.features_table, where=partition_is("event_day", day) if day else None)


def of_days(swipes: pa.Table, first: date, last: date) -> pa.Table:
    days = np.array(swipes["swiped_at"].to_numpy(), "datetime64[D]")
    return swipes.filter(pa.array((days >= np.datetime64(first)) & (days <= np.datetime64(last))))


def test_an_events_model_lives_from_its_swipes_to_its_gold_table(home, instance, declared, swipes):
    made = run_days(home, instance, FIRST, LAST)
    assert made.success, reason_of(made)
    training = run_job(home, instance, "swipes_training", stages=TRAINING)
    assert training.success, reason_of(training)
    night = run_job(home, instance, "swipes_nightly", LAST)
    assert night.success, reason_of(night)
    tables = {"silver/swipes_features", "gold/swipes_predictions"}
    assert materialized(night) == tables | {"swipes/online_features"}

    version = Backends(home).registry().champion("swipes")
    scorer = Scorer(Backends(home).registry().read_version(version), version.sha256)
    assert (scorer.contract.row_key, scorer.contract.entity_key) == ("swipe_id", "card_id")
    assert scorer.contract.decision_threshold != declared.decision_threshold
    with Backends(home).lakehouse() as lake:
        gold = lake.read(declared.predictions_table).sort_by("swipe_id")
    rows = features(home, declared, LAST).sort_by("swipe_id")
    assert gold["swipe_id"].to_pylist() == rows["swipe_id"].to_pylist() == keys_of(of_days(swipes, LAST, LAST))
    scores = scorer.score(encode_arrow(scorer.contract, rows))
    np.testing.assert_array_equal(gold["swipes_probability"].to_numpy(), scores)
    np.testing.assert_array_equal(gold["swipes_predicted"].to_numpy(), scorer.decide(scores))


def keys_of(table: pa.Table) -> list[int]:
    return sorted(table["swipe_id"].to_pylist())


def test_many_days_are_made_in_one_run_and_are_what_a_loop_over_all_pairs_says(home, instance, declared, swipes):
    first, last = FIRST + timedelta(days=5), FIRST + timedelta(days=7)
    made = run_days(home, instance, first, last)
    assert made.success, reason_of(made)
    (facts, *_) = (e.step_materialization_data.materialization for e in made.get_asset_materialization_events())
    assert facts.metadata["events_read"].value < 600
    found, expected = features(home, declared), of_days(swipes, first, last)
    assert keys_of(found) == keys_of(expected)
    assert found.column_names[:4] == ["swipe_id", "card_id", "swiped_at", "event_day"]
    about = by_hand(event_contract(), of_days(swipes, first - timedelta(days=3), last))
    names = list(event_contract().history)
    for row in found.to_pylist():
        values = [np.nan if row[name] is None else row[name] for name in names]
        np.testing.assert_array_equal(values, np.asarray(about[row["swipe_id"]], np.float32))
    labels = dict(zip(swipes["swipe_id"].to_pylist(), swipes["is_fraud"].to_pylist(), strict=True))
    assert found["is_fraud"].to_pylist() == [labels[key] for key in found["swipe_id"].to_pylist()]


def test_days_that_are_made_one_by_one_are_the_same_as_together(home, instance, declared):
    first, last = FIRST + timedelta(days=1), FIRST + timedelta(days=2)
    assert run_days(home, instance, first, last).success
    together = features(home, declared)
    for day in (last, first):
        assert run_job(home, instance, "swipes_features", day).success
    assert features(home, declared).sort_by("swipe_id").equals(together.sort_by("swipe_id"))


def test_each_day_says_its_own_rows_and_the_commit_what_it_came_from(home, instance, declared, swipes):
    made = run_days(home, instance, FIRST, FIRST + timedelta(days=1))
    events = {e.partition: e.step_materialization_data.materialization for e in made.get_asset_materialization_events()}
    for day in (FIRST, FIRST + timedelta(days=1)):
        rows = events[str(day)].metadata["dagster/partition_row_count"].value
        assert rows == len(of_days(swipes, day, day))
    with Backends(home).lakehouse() as lake:
        properties = lake.snapshot(declared.features_table).properties
        assert properties["source_snapshot"] == str(lake.snapshot("silver.card_swipes").id)
    assert properties["features"] == declared.features_fingerprint
    assert properties["dagster_run_id"] == made.run_id


def test_a_day_of_another_time_zone_begins_at_its_midnight(home, instance, declared, swipes):
    declared = declare(home, DECLARED, predictions={"timezone": "America/New_York"})
    day = FIRST + timedelta(days=3)
    assert run_job(home, instance, "swipes_features", day).success
    at = swipes["swiped_at"].to_numpy().astype("datetime64[us]") - np.timedelta64(4, "h")  # daylight saving time
    expected = swipes.filter(pa.array(at.astype("datetime64[D]") == np.datetime64(day)))
    assert keys_of(features(home, declared)) == keys_of(expected)


def test_the_newest_day_is_over(home, instance, declared):
    job = assemble(home).resolve_job_def("swipes_nightly")
    newest = job.partitions_def.get_last_partition_key()
    assert newest < str(date.today())


def test_an_event_that_names_nobody_or_is_refused_is_rejected_at_night(home, instance, declared, swipes):
    promoted(home, event_contract())
    day = of_days(swipes, LAST, LAST)
    broken = day.slice(0, 2)
    nobody = broken.slice(0, 1).set_column(1, "card_id", pa.array([None], pa.int64()))
    dear = broken.slice(1, 1).set_column(2, "amount", pa.array([50_001.0]))
    write_table(
        home, "silver.card_swipes", of_days(swipes, FIRST, LAST - timedelta(days=1)), nobody, dear, day.slice(2)
    )
    night = run_job(home, instance, "swipes_nightly", LAST)
    assert night.success, reason_of(night)
    with Backends(home).lakehouse() as lake:
        rejects = lake.read(declared.rejects_table).to_pylist()
    assert {(row["swipe_id"], row["column"], row["reason"]) for row in rejects} == {
        (broken["swipe_id"][0].as_py(), "card_id", "is missing"),
        (broken["swipe_id"][1].as_py(), "amount", "is out of bounds"),
    }


def test_a_day_without_events_is_no_night(home, instance, declared):
    promoted(home, event_contract())
    empty = LAST + timedelta(days=1)
    night = run_job(home, instance, "swipes_nightly", empty)
    assert f"no rows of {empty}" in reason_of(night)


def test_events_whose_outcome_is_not_known_yet_are_not_learnt_from(home, instance, declared, swipes):
    known = np.array(swipes["is_fraud"].to_pylist(), object)
    known[:300] = None
    dear = np.where(np.arange(len(swipes)) == 400, 50_001, swipes["amount"].to_numpy())  # refused
    table = swipes.set_column(swipes.column_names.index("is_fraud"), "is_fraud", pa.array(list(known), pa.bool_()))
    write_table(home, "silver.card_swipes", table.set_column(2, "amount", pa.array(dear)))
    assert run_days(home, instance, FIRST, LAST).success
    pinned = run_job(home, instance, "swipes_training", stages=["swipes/training_set"])
    assert pinned.success, reason_of(pinned)
    (event,) = pinned.get_asset_materialization_events()
    facts = event.step_materialization_data.materialization.metadata
    assert (facts["dagster/row_count"].value, facts["left_out_rows"].value) == (len(swipes) - 301, 301)


def test_dagster_shows_the_same_life_with_one_asset_more(home, declared):
    churn = declare(home, TINY)
    graph = assemble(home).resolve_asset_graph()
    stages = {key.to_user_string() for key in graph.get_all_asset_keys()}
    swipes = {key.replace("swipes", "tiny") for key in stages if "swipes" in key and key != "silver/card_swipes"}
    assert swipes - {"silver/tiny_features"} == {key for key in stages if "tiny" in key} - {"silver/tiny_examples"}
    features = dg.AssetKey(["silver", "swipes_features"])
    assert graph.get(features).parent_keys == {dg.AssetKey(["silver", "card_swipes"])}
    assert graph.get(features).group_name == "swipes"
    for child in (["swipes", "training_set"], ["gold", "swipes_predictions"]):
        assert features in graph.get(dg.AssetKey(child)).parent_keys
    assert churn.features_fingerprint != declared.features_fingerprint


def test_a_nights_files_are_read_whole_and_those_of_other_days_not_at_all(home, instance, declared):
    assert run_days(home, instance, FIRST, FIRST + timedelta(days=3)).success
    with Backends(home).lakehouse() as lake:
        plan = population_plan(
            lake, event_contract(), declared.features_table, None, where=partition_is("event_day", FIRST)
        )
    assert all(is_plain(file.task) for file in plan.files)
    assert plan.snapshot.rows == len(features(home, declared, FIRST)) > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["country"]), "column 'country' is missing"),
        (lambda t: t.drop_columns(["swipe_id"]), "The event key 'swipe_id' must be a column of integers or texts"),
        (lambda t: t.drop_columns(["swiped_at"]), "Column 'swiped_at' of 'silver.card_swipes' is missing"),
        (
            lambda t: t.set_column(6, "swiped_at", t["swiped_at"].cast(pa.int64())),
            "'swiped_at' of 'silver.card_swipes' has type int64, but a timestamp is needed",
        ),
    ],
    ids=["a feature", "the key", "the time", "no timestamp"],
)
def test_events_that_do_not_fit_are_refused_before_anything_is_written(home, instance, swipes, change, said):
    declared = declare(home, DECLARED)
    write_table(home, "silver.card_swipes", change(swipes))
    result = run_job(home, instance, "swipes_features", FIRST)
    assert said in reason_of(result)
    with Backends(home).lakehouse() as lake:
        assert not lake.catalog.table_exists(declared.features_table)


def test_new_features_get_columns_and_other_types_are_refused(home, instance, declared):
    plain = {name: f for name, f in DECLARED["features"].items() if name != "since_last"}
    declare(home, {**DECLARED, "features": plain})
    assert run_job(home, instance, "swipes_features", FIRST).success
    declare(home, DECLARED)
    assert run_job(home, instance, "swipes_features", FIRST + timedelta(days=1)).success
    assert features(home, declared, FIRST)["since_last"].null_count == len(features(home, declared, FIRST))
    changed = {**DECLARED["features"], "country": {"kind": "history", "measure": "count", "window": "1h"}}
    kept = {n: f for n, f in changed.items() if f.get("of") != "country"}
    declare(home, {**DECLARED, "features": kept})
    assert "other types: country (string, now float)" in reason_of(run_job(home, instance, "swipes_features", FIRST))


def test_a_run_that_fails_leaves_no_file_and_no_scratch(home, instance, declared, monkeypatch):
    assert run_job(home, instance, "swipes_features", FIRST).success
    before = set(home.home.glob("lake/**/*.parquet"))

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("backends.event_features.write_days", broken)
    assert not run_job(home, instance, "swipes_features", FIRST + timedelta(days=1)).success
    assert set(home.home.glob("lake/**/*.parquet")) == before
    assert not list(home.scratch.iterdir())


def test_checks_of_the_night_are_those_of_any_model(home, instance, declared):
    promoted(home, event_contract())
    found = checks(run_job(home, instance, "swipes_nightly", LAST))
    assert found["every_entity_is_scored_once"].passed
    assert found["few_rows_are_rejected"].passed
