"""Outcomes: each label meets the score that readers had on its day, whatever became of that day's rows since."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from backends import matured_labels, outcomes
from backends.engines import LocalEngine
from backends.lakehouse import maintenance
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.maintenance import Ages, maintain
from backends.lakehouse.reading import Snapshot
from backends.outcomes import Outcomes, realised_outcomes, version_in_service, window
from backends.rollbacks import roll_back
from models.errors import ColumnError, LakehouseError, TableNotFoundError, TrainingDataError
from tests.backends.nights import PREDICTIONS, turn_back
from tests.backends.published_nights import (
    DAY,
    TODAY,
    alternating,
    dated_tiny,
    label_rows,
    moment,
    publish_at,
    publish_columns,
    write_labels,
)

NEXT = DAY + timedelta(days=1)
MORNING, BEFORE_EIGHT, NOON = moment(hour=2), moment(hour=7, minute=59), moment(hour=12)
FIRST, SECOND = {1: 0.1, 2: 0.2}, {1: 0.8, 2: 0.9}


def found(lake: Lakehouse, today: date = TODAY, **changes) -> Outcomes:
    return realised_outcomes(lake, LocalEngine(2), dated_tiny(**changes), today)


def joined(done: Outcomes) -> list[tuple[date, int, float, float]]:
    """Return day, version, score and outcome of each matured prediction."""
    rows = [
        (day.day, day.version, round(float(score), 3), float(outcome))
        for day in done.days
        for score, outcome in zip(day.scores, day.outcomes, strict=True)
    ]
    return sorted(rows)


def scores(done: Outcomes) -> list[float]:
    return [score for _, _, score, _ in joined(done)]


@pytest.fixture
def labelled(lake) -> Lakehouse:
    """The outcomes of two customers are known."""
    write_labels(lake, label_rows({1: False, 2: True}))
    return lake


# --- the join -------------------------------------------------------------------------------------------------------


def test_each_label_meets_the_score_of_its_customer_and_day(lake):
    publish_at(lake, MORNING, {1: 0.1, 2: 0.2, 3: 0.3})
    publish_at(lake, moment(NEXT), {1: 0.4, 2: 0.5, 3: 0.6}, NEXT, version=2)
    write_labels(lake, label_rows({3: True, 1: False}), label_rows({2: True, 1: True}, NEXT))
    done = found(lake, TODAY + timedelta(days=1))
    expected = [(DAY, 1, 0.1, 0.0), (DAY, 1, 0.3, 1.0), (NEXT, 2, 0.4, 1.0), (NEXT, 2, 0.5, 1.0)]
    assert joined(done) == expected
    assert (done.rows, done.versions, done.unscored) == (4, [1, 2], 0)
    assert [part.tolist() for part in done.pooled(1)] == [[1.0, 0.0], pytest.approx([0.3, 0.1])]


def test_labels_of_customers_that_were_not_scored_are_counted(lake):
    publish_at(lake, MORNING, FIRST)
    write_labels(lake, label_rows({1: False, 7: True, 8: True}))
    done = found(lake)
    assert (done.rows, done.unscored, done.matured.rows) == (1, 2, 3)


def test_a_label_that_arrives_late_is_met_the_next_time(labelled):
    publish_at(labelled, MORNING, {**FIRST, 3: 0.3})
    assert found(labelled).rows == 2
    write_labels(labelled, label_rows({1: False, 2: True, 3: True}))
    assert scores(found(labelled)) == [0.1, 0.2, 0.3]


def test_keys_may_be_texts(lake):
    publish_at(lake, MORNING, {"anna": 0.1, "björn": 0.2}, key_type=pa.string())
    write_labels(lake, label_rows({"björn": True, "anna": False, "carla": True}))
    assert joined(found(lake)) == [(DAY, 1, 0.1, 0.0), (DAY, 1, 0.2, 1.0)]


# --- which publication counts ---------------------------------------------------------------------------------------


def test_a_rerun_after_readers_had_the_scores_does_not_matter(labelled):
    publish_at(labelled, MORNING, FIRST)
    publish_at(labelled, NOON, SECOND, version=2)
    publish_at(labelled, moment(NEXT), FIRST, NEXT)
    done = found(labelled)
    assert joined(done) == [(DAY, 1, 0.1, 0.0), (DAY, 1, 0.2, 1.0)]
    assert done.days[0].original


def test_a_rerun_before_readers_count_on_the_scores_is_what_they_had(labelled):
    publish_at(labelled, MORNING, FIRST)
    publish_at(labelled, BEFORE_EIGHT, SECOND, version=2)
    assert joined(found(labelled)) == [(DAY, 2, 0.8, 0.0), (DAY, 2, 0.9, 1.0)]


def test_readers_count_on_the_scores_at_the_declared_hour_of_the_declared_place(labelled):
    publish_at(labelled, MORNING, FIRST)
    publish_at(labelled, BEFORE_EIGHT, SECOND)  # 08:59 in Berlin
    assert scores(found(labelled, predictions={"timezone": "Europe/Berlin"})) == [0.1, 0.2]
    assert scores(found(labelled, predictions={"timezone": "Europe/Berlin", "ready_by": "09:00"})) == [0.8, 0.9]


def test_of_a_late_night_the_first_publication_counts(labelled):
    publish_at(labelled, moment(DAY - timedelta(days=1)), FIRST, DAY - timedelta(days=1))
    publish_at(labelled, NOON, FIRST)
    publish_at(labelled, moment(hour=13), SECOND, version=2)
    done = found(labelled)
    assert scores(done) == [0.1, 0.2]
    assert done.days[0].original


def test_a_night_withdrawn_before_readers_count_on_it_is_no_prediction(labelled):
    before = publish_at(labelled, moment(DAY - timedelta(days=1)), FIRST, DAY - timedelta(days=1))
    publish_at(labelled, MORNING, FIRST)
    withdrawn(labelled, before, moment(hour=4))
    assert found(labelled).unpublished == [DAY]
    publish_at(labelled, NOON, SECOND)
    assert scores(found(labelled)) == [0.8, 0.9]


def test_a_night_withdrawn_later_still_was_what_readers_had(labelled):
    before = publish_at(labelled, moment(DAY - timedelta(days=1)), FIRST, DAY - timedelta(days=1))
    publish_at(labelled, MORNING, FIRST)
    withdrawn(labelled, before, NOON)
    assert scores(found(labelled)) == [0.1, 0.2]


def withdrawn(lake: Lakehouse, to: Snapshot, at: datetime) -> None:
    """Put `main` back, as if at a moment: the newest entry of its log, and no other of that snapshot, gets it."""
    roll_back(lake, PREDICTIONS, str(to.id), "wrong", "marta")
    loaded = lake.load(PREDICTIONS)
    turned = loaded.metadata.snapshot_log[-1].model_copy(update={"timestamp_ms": int(at.timestamp() * 1000)})
    rewrite(lake, snapshot_log=[*loaded.metadata.snapshot_log[:-1], turned])


def rewrite(lake: Lakehouse, **changes) -> None:
    """Write the table's metadata file anew, with changes."""
    loaded = lake.load(PREDICTIONS)
    metadata = loaded.metadata.model_copy(update=changes)
    with loaded.io.new_output(loaded.metadata_location).create(overwrite=True) as file:
        file.write(metadata.model_dump_json(by_alias=True).encode())


def test_a_day_that_was_never_published_is_named(labelled):
    publish_at(labelled, moment(NEXT), FIRST, NEXT)
    done = found(labelled)
    assert (done.unpublished, done.rows) == ([DAY], 0)


def test_where_the_original_is_expired_the_rerun_is_read_and_it_is_said(labelled, monkeypatch):
    monkeypatch.setattr(maintenance, "SHORTEST", timedelta(0))
    publish_at(labelled, MORNING, FIRST)
    rerun = publish_at(labelled, NOON, SECOND)
    publish_at(labelled, moment(NEXT), FIRST, NEXT)
    at_once = timedelta(milliseconds=1)
    maintain(labelled, PREDICTIONS, Ages(at_once, at_once), apply=True)
    assert labelled.load(PREDICTIONS).snapshot_by_name(f"night_{DAY}").snapshot_id == rerun.id
    done = found(labelled)
    assert scores(done) == [0.8, 0.9]
    assert [day.original for day in done.days] == [False]


def test_a_history_cut_short_by_another_tool_leaves_the_nights_tag(labelled):
    publish_at(labelled, MORNING, FIRST)
    newest = publish_at(labelled, moment(NEXT), SECOND, NEXT)
    metadata = labelled.load(PREDICTIONS).metadata
    alone = [s for s in metadata.snapshots if s.snapshot_id == newest.id or s.snapshot_id == tagged(labelled, DAY)]
    kept = [snapshot.model_copy(update={"parent_snapshot_id": None}) for snapshot in alone]
    rewrite(labelled, snapshots=kept, snapshot_log=metadata.snapshot_log[-1:])
    done = found(labelled)
    assert scores(done) == [0.1, 0.2]
    assert [day.original for day in done.days] == [False]


def tagged(lake: Lakehouse, day: date) -> int:
    return lake.load(PREDICTIONS).snapshot_by_name(f"night_{day}").snapshot_id


# --- what could know the outcome ------------------------------------------------------------------------------------


def test_a_day_scored_once_its_outcomes_are_known_is_left_out(labelled):
    publish_at(labelled, moment(TODAY + timedelta(days=1)), FIRST)
    done = found(labelled)
    assert (done.rows, done.afterwards) == (0, [DAY])


def test_a_day_made_up_for_in_time_counts(labelled):
    publish_at(labelled, moment(TODAY, hour=23), FIRST)
    assert scores(found(labelled)) == [0.1, 0.2]


@pytest.mark.parametrize(("learned", "counts"), [(DAY - timedelta(days=1), True), (DAY, False)])
def test_a_day_scored_afterwards_counts_if_its_model_learned_from_earlier_days_alone(lake, learned, counts):
    examples = write_labels(lake, label_rows({5: True}, learned), label_rows({6: True}, learned - timedelta(days=9)))
    write_labels(lake, label_rows({1: False, 2: True}))
    publish_at(lake, moment(TODAY + timedelta(days=200)), FIRST, training_snapshot=str(examples.id))
    done = found(lake)
    assert (done.rows, done.afterwards) == ((2, []) if counts else (0, [DAY]))


def test_a_day_scored_afterwards_from_examples_that_are_gone_is_left_out(labelled):
    publish_at(labelled, moment(TODAY + timedelta(days=200)), FIRST, training_snapshot="12345")
    assert found(labelled).afterwards == [DAY]


# --- the days -------------------------------------------------------------------------------------------------------


def test_the_window_ends_with_the_newest_day_whose_outcomes_are_known():
    declaration = dated_tiny(outcomes={"after_days": 30, "window_days": 7})
    assert window(declaration, TODAY) == (DAY - timedelta(days=6), DAY)


def test_labels_outside_the_window_are_not_looked_at(lake):
    days = [DAY + timedelta(days=n) for n in (-7, -6, 0, 1)]
    for number, day in enumerate(days):
        publish_at(lake, moment(day), {1: number / 10}, day)
    write_labels(lake, *(label_rows({1: True}, day) for day in days))
    done = found(lake, outcomes={"window_days": 7})
    assert [(day.day, day.scores.tolist()) for day in done.days] == [
        (days[1], pytest.approx([0.1])),
        (days[2], pytest.approx([0.2])),
    ]
    assert done.matured.rows == 2


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("on", "kind", "day"),
    [
        (datetime(2025, 3, 3, 0, 0, tzinfo=BERLIN), pa.timestamp("us", "UTC"), DAY),  # 23:00 of the day before in UTC
        (datetime(2025, 3, 3, 23, 59, 59, tzinfo=BERLIN), pa.timestamp("us", "UTC"), DAY),
        (datetime(2025, 3, 3, 23, 30, tzinfo=UTC), pa.timestamp("us", "UTC"), NEXT),
        (datetime(2025, 3, 3, 23, 59, 59), pa.timestamp("us"), DAY),  # without a zone it is taken as it stands
        (date(2025, 3, 3), pa.date32(), DAY),
    ],
)
def test_a_label_belongs_to_the_day_in_the_declared_time_zone(lake, on, kind, day):
    for each in (DAY - timedelta(days=1), DAY, NEXT):
        publish_at(lake, moment(each), {1: 0.5}, each)
    write_labels(lake, label_rows({1: True}, on, kind))
    done = found(lake, TODAY + timedelta(days=1), predictions={"timezone": "Europe/Berlin"})
    assert [each.day for each in done.days] == [day]


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_a_window_of_one_day_has_that_day_from_its_first_to_its_last_second(lake, zone):
    publish_at(lake, moment(DAY - timedelta(days=1), hour=12), dict.fromkeys(range(4), 0.5))
    begin = datetime(2025, 3, 3, tzinfo=ZoneInfo(zone))
    end, second = datetime(2025, 3, 4, tzinfo=ZoneInfo(zone)), timedelta(seconds=1)
    times = (begin - second, begin, end - second, end)
    rows = (label_rows({key: True}, at, pa.timestamp("us", "UTC")) for key, at in enumerate(times))
    write_labels(lake, *rows)
    done = found(lake, predictions={"timezone": zone}, outcomes={"window_days": 1})
    assert [day.keys.to_pylist() for day in done.matured.days.values()] == [[1, 2]]


def test_a_moment_of_the_day_after_the_window_is_not_in_it(lake):
    publish_at(lake, moment(NEXT), {1: 0.5}, NEXT)
    write_labels(lake, label_rows({1: True}, datetime(2025, 3, 4, 0, 0, tzinfo=UTC), pa.timestamp("us", "UTC")))
    assert found(lake).matured.rows == 0
    assert found(lake, TODAY + timedelta(days=1)).rows == 1


# --- labels ---------------------------------------------------------------------------------------------------------


def test_labels_that_say_the_same_count_once_and_those_that_contradict_each_other_not_at_all(lake):
    publish_at(lake, MORNING, {1: 0.1, 2: 0.2, 3: 0.3})
    same, other = label_rows({1: True, 2: True, 3: False}), label_rows({1: True, 2: False})
    write_labels(lake, same, other, label_rows({1: True}))
    done = found(lake)
    assert joined(done) == [(DAY, 1, 0.1, 1.0), (DAY, 1, 0.3, 0.0)]
    assert (done.matured.rows, done.matured.repeated, done.matured.contradicting) == (6, 2, 2)


def test_labels_that_all_contradict_each_other_are_no_outcomes(lake):
    publish_at(lake, MORNING, FIRST)
    write_labels(lake, label_rows({1: True}), label_rows({1: False}))
    done = found(lake)
    assert (done.rows, done.days, done.matured.rows, done.matured.contradicting) == (0, [], 2, 2)


def test_days_that_one_model_scored_afterwards_need_one_look_at_its_examples(lake, monkeypatch):
    examples = write_labels(lake, label_rows({5: True}, DAY))
    write_labels(lake, label_rows({1: False}), label_rows({1: True}, NEXT))
    for day in (DAY, NEXT):
        publish_at(lake, moment(TODAY + timedelta(days=200)), FIRST, day, training_snapshot=str(examples.id))
    looked, newest = [], outcomes._newest_example
    monkeypatch.setattr(outcomes, "_newest_example", lambda *asked: looked.append(asked) or newest(*asked))
    done = found(lake, TODAY + timedelta(days=1))
    assert (done.afterwards, [day.day for day in done.days], len(looked)) == ([DAY], [NEXT], 1)


def test_the_same_customer_on_another_day_is_no_repetition(lake):
    publish_at(lake, MORNING, FIRST)
    publish_at(lake, moment(NEXT), FIRST, NEXT)
    write_labels(lake, label_rows({1: True}), label_rows({1: False}, NEXT))
    done = found(lake, TODAY + timedelta(days=1))
    assert (done.rows, done.matured.repeated, done.matured.contradicting) == (2, 0, 0)


def test_rows_without_key_label_or_number_are_counted_and_left_out(lake):
    publish_at(lake, MORNING, {1: 0.1, 2: 0.2, 3: 0.3})
    labels = label_rows({1: 1.0, 2: None, 3: float("nan"), None: 1.0})
    write_labels(lake, labels)
    done = found(lake)
    assert scores(done) == [0.1]
    assert (done.matured.rows, done.matured.incomplete) == (4, 3)


@pytest.mark.parametrize(
    ("values", "positive", "expected"),
    [
        (["left", "stayed"], "left", [1.0, 0.0]),
        (["stayed", "stayed"], "left", [0.0, 0.0]),
        (["left", "left"], "left", [1.0, 1.0]),
        ([1, 1], None, [1.0, 1.0]),
        ([False, False], None, [0.0, 0.0]),
    ],
)
def test_outcomes_are_read_as_the_examples_are_and_one_of_them_will_do(lake, values, positive, expected):
    publish_at(lake, MORNING, FIRST)
    write_labels(lake, label_rows(dict(zip((1, 2), values, strict=True))))
    done = found(lake, examples={"positive": positive})
    assert [outcome for *_, outcome in joined(done)] == expected


def test_no_label_at_all_is_no_error(lake):
    publish_at(lake, MORNING, FIRST)
    write_labels(lake, label_rows({1: True}, DAY - timedelta(days=300)))
    done = found(lake)
    assert (done.rows, done.days, done.unpublished, done.matured.rows) == (0, [], [], 0)
    assert [len(part) for part in done.pooled()] == [0, 0]


def test_another_table_may_have_the_outcomes(lake):
    publish_at(lake, MORNING, FIRST)
    write_labels(lake, label_rows({1: True, 2: False}), table="silver.later")
    assert found(lake, outcomes={"table": "silver.later"}).rows == 2


@pytest.mark.parametrize(
    ("labels", "changes", "error", "said"),
    [
        (label_rows({1: True}).drop_columns("customer_id"), {}, ColumnError, "no column 'customer_id'"),
        (label_rows({1: True}).drop_columns("observed_on"), {}, ColumnError, "no column 'observed_on'"),
        (label_rows({1: True}), {"examples": {"time": None}}, ColumnError, "`examples.time`"),
        (label_rows({1: True}, 5, pa.int64()), {}, ColumnError, "has type int64: make it a date"),
        (label_rows({"1": True}), {}, ColumnError, "has type large_string, but int64 in 'gold.tiny_predictions'"),
        (label_rows({1: 3}), {}, TrainingDataError, "'churned' has the value 3"),
        (label_rows({1: "yes", 2: "no"}), {}, TrainingDataError, "`examples.positive`"),
        (label_rows({1: True}), {"outcomes": {"table": "silver.none"}}, TableNotFoundError, "'silver.none'"),
    ],
)
def test_outcomes_that_cannot_be_are_said_with_their_reason(lake, labels, changes, error, said):
    publish_at(lake, MORNING, FIRST)
    write_labels(lake, labels)
    with pytest.raises(error, match=said):
        found(lake, **changes)


def test_without_any_night_the_table_is_missed(labelled):
    with pytest.raises(TableNotFoundError, match=PREDICTIONS):
        found(labelled)


def test_a_gold_table_for_another_key_is_refused(labelled):
    publish_at(labelled, MORNING, FIRST)
    with pytest.raises(LakehouseError, match="no column 'account'"):
        found(labelled, entity_key="account")


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_large_night_is_read_some_rows_at_a_time(lake, monkeypatch):
    everybody = 3_000_000
    publish_columns(lake, MORNING, pa.array(np.arange(everybody)), np.linspace(0, 1, everybody, dtype=np.float32))
    wanted = [3, 1_250_000, everybody - 1]
    write_labels(lake, label_rows(alternating(wanted)))
    monkeypatch.setattr(outcomes, "ROWS_AT_ONCE", 50_000)
    before, held = pa.total_allocated_bytes(), []

    def index_in(*arguments, **options):
        held.append(pa.total_allocated_bytes() - before)
        return pc.index_in(*arguments, **options)

    monkeypatch.setattr(outcomes, "pc", SimpleNamespace(index_in=index_in, max=pc.max))
    done = found(lake)
    assert scores(done) == [0.0, 0.417, 1.0]
    assert len(held) >= 40
    assert max(held) < everybody * 12 / 3  # key and score of all of them take twelve bytes each


def test_the_rows_after_the_last_customer_that_is_looked_for_are_not_read(lake, monkeypatch):
    publish_at(lake, MORNING, dict.fromkeys(range(300_000), 0.5))
    write_labels(lake, label_rows({0: True}))
    monkeypatch.setattr(outcomes, "ROWS_AT_ONCE", 50_000)
    looked = []
    monkeypatch.setattr(
        outcomes, "pc", SimpleNamespace(index_in=lambda *a, **o: looked.append(1) or pc.index_in(*a, **o), max=pc.max)
    )
    assert found(lake).rows == 1
    assert len(looked) == 1


@pytest.mark.parametrize("key_type", [pa.int64(), pa.string()])
def test_of_too_many_labels_those_of_every_second_fourth_or_eighth_entity_are_kept(lake, monkeypatch, key_type):
    monkeypatch.setattr(matured_labels, "MOST_LABELS", 1000)
    keys = pa.array(range(5000)).cast(key_type).to_pylist()
    publish_at(lake, MORNING, dict.fromkeys(keys, 0.5), key_type=key_type)
    publish_at(lake, moment(NEXT), dict.fromkeys(keys, 0.5), NEXT, key_type=key_type)
    write_labels(lake, label_rows(alternating(keys)), label_rows(alternating(keys), NEXT))
    done = found(lake, TODAY + timedelta(days=1))
    assert done.matured.one_in == 16
    assert done.matured.rows == 10_000
    first, second = (set(day.keys.to_pylist()) for day in done.matured.days.values())
    assert first == second  # whole entities, whatever the day
    assert 200 < len(first) < 450
    assert done.rows == 2 * len(first)


def test_the_version_in_service_is_that_of_the_newest_night(lake):
    declaration = dated_tiny()
    publish_at(lake, MORNING, FIRST, version=4)
    publish_at(lake, moment(NEXT), FIRST, NEXT, version=5)
    assert version_in_service(lake, declaration, TODAY) == 5
    assert version_in_service(lake, declaration, DAY) == 4
    assert version_in_service(lake, declaration, DAY - timedelta(days=1)) is None


def test_the_time_of_a_publication_is_turned_back_for_these_tests(lake):
    night = publish_at(lake, MORNING, FIRST)
    assert lake.snapshot(PREDICTIONS, night.id).committed_at == MORNING
    turn_back(lake, PREDICTIONS, {night.id: NOON})
    assert lake.snapshot(PREDICTIONS, night.id).committed_at == NOON
