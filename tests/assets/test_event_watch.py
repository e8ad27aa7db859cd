"""What watches a model of events: drift, outcomes, requests, costs and columns of its nights, by the event's key."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from assets.columns import lineage_of_event_features, lineage_of_predictions, lineage_of_requests, remembered_columns
from assets.resources import Backends
from backends.engines import LocalEngine
from backends.lakehouse.reading import partition_is
from backends.nights import newest_night
from backends.outcomes import ready_at, realised_outcomes
from backends.settings import Settings
from bento.observing.request_files import RequestFiles
from bento.observing.request_log import Answered, RequestLog
from bento.observing.watch import Scored
from models.declaration import Declaration
from models.encoding import Encoded, screen_arrow
from models.scoring import Scorer, Scores
from orchestration.definitions import assemble
from orchestration.lineage_events import Story, changes
from tests.assets.test_event_life import TRAINING, run_days
from tests.event_model import DECLARED, labelled_swipes
from tests.lives import SMALL, checks, declare, merged, reason_of, run_job, tables_as_they_were, write_table

DAYS = 40
LAST = datetime.now(UTC).date() - timedelta(days=1)  # scored in time: before its outcomes could be known
FIRST = LAST - timedelta(days=DAYS - 1)
WATCHED = ["drift", "outcomes", "request_drift", "costs"]
CHANGES = {
    "gates": {"min_auc": 0.6, "max_calibration_error": 0.2},
    "outcomes": {"after_days": 7, "min_rows": 10},
    "drift": {"min_rows": 10},
    "predictions": {"first_day": str(FIRST)},
}
WATCH = {"ops": {"swipes__outcomes": {"config": {"as_of": str(LAST + timedelta(days=7))}}}}


@pytest.fixture(scope="module")
def home(shared_home) -> Settings:
    return shared_home


@pytest.fixture(scope="module")
def instance(shared_instance) -> dg.DagsterInstance:
    return shared_instance


@pytest.fixture(scope="module")
def declared(home) -> Declaration:
    examples = {"label": "is_fraud", "split": {"method": "stratified"}}  # the days may be of one month or of two
    return declare(home, merged(DECLARED, SMALL) | {"examples": examples}, **CHANGES)


@pytest.fixture(scope="module")
def swipes() -> pa.Table:
    return labelled_swipes(4000, FIRST, DAYS)


@pytest.fixture(scope="module")
def first_night(home, instance, declared, swipes) -> Declaration:
    write_table(home, "silver.card_swipes", swipes.sort_by("swiped_at"))
    for run in (
        run_days(home, instance, FIRST, LAST),
        run_job(home, instance, "swipes_training", stages=TRAINING),
        run_job(home, instance, "swipes_nightly", LAST, stages=["gold/swipes_predictions"]),
    ):
        assert run.success, reason_of(run)
    return declared


@pytest.fixture
def scored(home, first_night) -> Iterator[Declaration]:
    """A model of events with its first night, of the last day; what a test writes on top is forgotten."""
    with tables_as_they_were(home):
        yield first_night


def facts_of(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, object]]:
    made = [e.step_materialization_data.materialization for e in result.get_asset_materialization_events()]
    return {m.asset_key.path[-1]: {n: getattr(v, "value", v) for n, v in m.metadata.items()} for m in made}


def test_a_night_of_events_is_watched(home, instance, scored, swipes):
    job = assemble(home).resolve_job_def("swipes_watch")
    done = job.execute_in_process(instance=instance, partition_key=str(LAST), run_config=WATCH, raise_on_error=False)
    assert done.success, reason_of(done)
    facts, found = facts_of(done), checks(done)
    assert set(facts) == set(WATCHED)
    of_day = np.array(swipes["swiped_at"].to_numpy(), "datetime64[D]") == np.datetime64(LAST)
    assert facts["costs"]["rows"] == facts["outcomes"]["matured_rows"] <= int(of_day.sum())
    assert facts["costs"]["measured"] == "the whole night, without counting silver.swipes_features"
    assert facts["outcomes"]["labels"] == 4000 - int((~in_window(swipes)).sum())
    assert facts["outcomes"]["labels_repeated"] == facts["outcomes"]["labels_contradicting"] == 0
    assert found["realised_ranking_is_reached"].passed
    assert found["features_resemble_the_training_set"].metadata["feature"].value in scored.features
    assert found["requests_resemble_the_training_set"].metadata["reason"].value.startswith("not judged: no request")


def in_window(swipes: pa.Table) -> np.ndarray:
    """Tell which swipes are of the 28 days up to the last."""
    return np.array(swipes["swiped_at"].to_numpy(), "datetime64[D]") > np.datetime64(LAST - timedelta(days=28))


def test_each_outcome_meets_the_score_of_its_own_event(home, scored, swipes):
    """Of one card there are many events a day, with outcomes of their own."""
    with Backends(home).lakehouse() as lake:
        found = realised_outcomes(lake, LocalEngine(2), scored, LAST + timedelta(days=7))
        gold = lake.read(scored.predictions_table, where=partition_is("scored_on", LAST))
    (day,) = found.days
    labels = dict(zip(swipes["swipe_id"].to_pylist(), swipes["is_fraud"].to_pylist(), strict=True))
    scores = zip(gold["swipe_id"].to_pylist(), gold["swipes_probability"].to_pylist(), strict=True)
    expected = sorted((score, float(labels[key])) for key, score in scores)
    assert sorted(zip(day.scores.tolist(), day.outcomes.tolist(), strict=True)) == expected
    assert len(set(swipes["card_id"].to_pylist())) < 100 < len(swipes)


def test_an_outcome_that_is_not_known_yet_is_counted_and_not_judged(home, scored, swipes):
    unknown = pa.array([None] * len(swipes), pa.bool_())
    at = swipes.column_names.index("is_fraud")
    write_table(home, "silver.card_swipes", swipes.set_column(at, "is_fraud", unknown))
    with Backends(home).lakehouse() as lake:
        found = realised_outcomes(lake, LocalEngine(2), scored, LAST + timedelta(days=7))
    assert (found.rows, found.matured.rows) == (0, found.matured.incomplete)
    assert found.matured.incomplete > 0


def test_readers_of_events_count_on_a_day_the_morning_after(declared):
    assert ready_at(declared, LAST).isoformat() == f"{LAST + timedelta(days=1)}T08:00:00+00:00"


def test_the_story_says_which_events_were_counted_and_which_features_scored(home, instance, scored):
    definitions, key = assemble(home), "silver.swipes_features"
    write_table(home, "silver.card_swipes", labelled_swipes(10, FIRST, 1))  # what comes later changes nothing of it
    with Backends(home).lakehouse() as lake:
        made, night = lake.snapshot(key), newest_night(lake, scored.predictions_table)
    graph = definitions.resolve_asset_graph()
    story = Story(instance, graph, [scored], lambda table: None, "tandem", "https://catalog")
    events = [event for change in changes(instance, 0, time.time(), 100) for event in story.tell(change)]
    read = {e.job.name: {d.place[1]: d.version for d in e.inputs} for e in events if e.state == "COMPLETE"}
    assert read[key] == {"silver.card_swipes": made.properties["source_snapshot"]}
    assert read["gold.swipes_predictions"][key] == night.properties["source_snapshot"] == str(made.id)


def test_the_requests_of_events_are_judged_with_what_was_counted_for_them(home, instance, scored):
    version = Backends(home).registry().champion("swipes")
    scorer = Scorer(Backends(home).registry().read_version(version), version.sha256)
    contract = scorer.contract
    with Backends(home).lakehouse() as lake:
        screened = screen_arrow(contract, lake.read(scored.features_table))
    refused = [int(row) for violation in screened.violations for row in violation.rows]
    rows = screened.encoded[np.setdiff1d(np.arange(len(screened.encoded)), refused)]
    count = len(rows)
    files = RequestFiles(home.request_log_of("swipes"), 10**9)
    log = RequestLog(contract, "1", version.sha256, 1.0, files, lambda *_: None)
    log.offer(asked(rows, scorer.score(rows)))
    log.close()
    for job in ("swipes_requests", "swipes_watch"):
        done = run_job(home, instance, job, LAST if job == "swipes_watch" else None)
        assert done.success, reason_of(done)
    facts = facts_of(done)["request_drift"]
    assert facts["requests_to_the_champion"] == count
    assert facts["psi_swipes_2d"] < 0.1 > facts["psi_amount_ratio"]
    assert facts["rows_counted"] == count


def asked(rows: Encoded, scores: Scores) -> Answered:
    """Return what the service notes of a request for many events."""
    count, now = len(rows), time.time_ns() // 1000
    each = {"events": range(count), "happened": [now] * count, "event_times": [now // 1000] * count}
    decisions, none = (scores >= 0.5).tolist(), [False] * count
    scored = Scored(
        positions=range(count),
        keys=[1] * count,
        rows=rows,
        stale=none,
        scores=scores.tolist(),
        decisions=decisions,
        now=now // 1000,
        **each,
    )
    return Answered("rest", "request", time.time(), scored)


# --- columns --------------------------------------------------------------------------------------------------------


def sources(lineage: dg.TableColumnLineage) -> dict[str, set[str]]:
    return {
        column: {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in deps}
        for column, deps in lineage.deps_by_column.items()
    }


def test_a_history_comes_from_whose_it_is_when_it_was_and_what_is_measured(declared):
    found, table = sources(lineage_of_event_features(declared)), "silver/card_swipes"
    assert found["swipe_id"] == {f"{table}.swipe_id"}
    assert found["event_day"] == {f"{table}.swiped_at"}
    assert found["amount"] == {f"{table}.amount"}
    for name, feature in declared.features.items():
        if feature.kind == "history":
            measured = {f"{table}.{feature.of}"} if feature.of else set()
            assert found[name] == {f"{table}.card_id", f"{table}.swiped_at", *measured}


def test_a_score_comes_from_the_features_that_were_counted_and_a_row_from_its_event(declared):
    found = sources(lineage_of_predictions(declared))
    assert found["swipe_id"] == {"silver/swipes_features.swipe_id"}
    assert found["swipes_probability"] == {f"silver/swipes_features.{name}" for name in declared.features}


def test_what_a_request_of_an_event_sends_comes_from_no_store(declared):
    found = sources(lineage_of_requests(declared))
    histories = {name for name, feature in declared.features.items() if feature.kind == "history"}
    assert set(found) == {*histories, "swipes_probability", "swipes_predicted"}
    stored = {f"swipes/online_features.{column}" for column in remembered_columns(declared)}
    assert set().union(*found.values()) <= stored
