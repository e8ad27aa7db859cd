"""`<model>/outcomes` in real nights: what people had is what is judged, and a missing outcome is no failure."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from assets.outcomes import OutcomesConfig, outcomes
from assets.resources import Backends
from backends.lakehouse.reading import partition_is
from backends.rollbacks import roll_back
from models.declaration import Declaration
from orchestration.definitions import assemble
from tests.backends.nights import PREDICTIONS, customers, turn_back
from tests.backends.published_nights import DATED, DAY, TODAY, label_rows, moment, publish_columns, write_labels
from tests.lives import TINY, checks, declare, merged, promoted, reason_of, run_job, write_table
from tests.lives import TODAY as WALL
from tests.tiny_model import tiny_contract

POPULATION, EXAMPLES = "silver.active_customers", "silver.tiny_examples"
RANKING, CALIBRATION = "realised_ranking_is_reached", "realised_probabilities_are_calibrated"
AS_OF_TODAY = {"ops": {"tiny__outcomes": {"config": {"as_of": TODAY.isoformat()}}}}


@pytest.fixture
def tiny(home) -> Declaration:
    return declare(home, merged(TINY, DATED))


def drawn(rows: int = 2000, seed: int = 0, answers: bool = True) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Return keys, scores and outcomes that come about as predicted; or at random, whatever was predicted."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 4, rows).astype(np.float32)
    return pa.array(np.arange(rows)), scores, rng.random(rows) < (scores if answers else 0.2)


def predicted(home, day=DAY, version=1, rows=2000, answers=True, seed=0, at=None) -> pa.Table:
    """Publish a night, and return its labels."""
    keys, scores, outcomes = drawn(rows, seed, answers)
    with Backends(home).lakehouse() as lake:
        publish_columns(lake, at or moment(day), keys, scores, day, version)
    return label_rows(dict(zip(keys.to_pylist(), outcomes.tolist(), strict=True)), day)


def known(home, *labels: pa.Table) -> None:
    with Backends(home).lakehouse() as lake:
        write_labels(lake, *labels)


def looked_at(home, instance) -> dg.ExecuteInProcessResult:
    """Materialize the asset as the definitions have it, on the day of these tests."""
    result = (
        assemble(home)
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(
            instance=instance,
            run_config=AS_OF_TODAY,
            asset_selection=[dg.AssetKey(["tiny", "outcomes"])],
            raise_on_error=False,
        )
    )
    assert result.success, reason_of(result)
    return result


def facts_of(result: dg.ExecuteInProcessResult) -> dict:
    (event,) = result.get_asset_materialization_events()
    facts = event.materialization.metadata.items()
    return {name: fact if isinstance(fact, dg.TableMetadataValue) else fact.value for name, fact in facts}


def rows_of(table) -> list[dict]:
    return [record.data for record in table.records]


# --- called as a function -------------------------------------------------------------------------------------------


def called(home, tiny, as_of=str(TODAY)) -> dg.MaterializeResult:
    return outcomes(tiny)(config=OutcomesConfig(as_of=as_of), backends=Backends(home))


def test_what_was_predicted_well_passes(home, tiny):
    known(home, predicted(home))
    result = called(home, tiny)
    assert {check.check_name: check.passed for check in result.check_results} == {RANKING: True, CALIBRATION: True}
    assert {check.metadata["reason"].value for check in result.check_results} == {"holds"}
    assert result.metadata["matured_rows"] == 2000
    assert result.metadata["realised_auc"] > 0.75


def test_a_day_that_is_none_is_refused(home, tiny):
    with pytest.raises(dg.Failure, match="as_of is 'yesterday', which is no day"):
        called(home, tiny, "yesterday")


def test_without_a_day_it_is_judged_today(home, tiny):
    known(home, predicted(home))
    result = called(home, tiny, "")
    assert result.metadata["as_of"] == datetime.now(UTC).date().isoformat()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcomes": {"table": "silver.none"}}, "not judged: The catalog has no table 'silver.none'"),
        ({"examples": {"time": None}}, "not judged: The declaration of 'tiny' names no time column"),
        ({"examples": {"time": "seen_on"}}, "not judged: Table 'silver.tiny_examples' has no column 'seen_on'"),
    ],
)
def test_impossible_outcomes_are_no_failure_and_say_why(home, changes, said):
    known(home, predicted(home))
    result = called(home, declare(home, merged(merged(TINY, DATED), changes)))
    assert [check.passed for check in result.check_results] == [True, True]
    assert all(check.metadata["reason"].value.startswith(said) for check in result.check_results)
    assert result.metadata["reason"].startswith(said)
    assert result.metadata["matured_rows"] == 0


def test_before_the_first_night_nothing_is_judged(home, tiny):
    known(home, label_rows({1: True}))
    result = called(home, tiny)
    assert "no table 'gold.tiny_predictions'" in result.metadata["reason"]
    assert [check.passed for check in result.check_results] == [True, True]


# --- materialized ---------------------------------------------------------------------------------------------------


def test_the_report_has_every_figure(home, tiny, instance):
    known(home, predicted(home), label_rows({10**9: True}))
    facts = facts_of(looked_at(home, instance))
    (version,) = rows_of(facts["by_version"])
    (day,) = rows_of(facts["by_day"])
    names = {"rows", "positives", "base_rate", "mean_predicted", "auc", "auc_error", "log_loss", "calibration_error"}
    assert version.keys() == names | {"model_version", "top_decile_lift"}
    assert (version["model_version"], version["rows"]) == ("1", 2000)
    assert (day["day"], day["model_version"], day["auc"]) == (str(DAY), "1", version["auc"])
    assert facts["realised_auc"] == pytest.approx(version["auc"], abs=1e-4)
    assert facts["realised_calibration_error"] == pytest.approx(version["calibration_error"], abs=1e-4)
    assert facts["labels_of_unscored_entities"] == 1
    assert facts["realised_quality"].startswith("![realised quality](data:image/png;base64,")
    assert facts["as_of"] == str(TODAY)


def test_bad_predictions_warn_and_block_nothing(home, tiny, instance):
    known(home, predicted(home, answers=False))
    found = checks(looked_at(home, instance))
    assert not found[RANKING].passed
    assert found[RANKING].severity == dg.AssetCheckSeverity.WARN
    assert "realised ROC-AUC is below 0.7" in found[RANKING].metadata["reason"].value
    assert found[RANKING].metadata["limit"].value == 0.7


def test_too_few_outcomes_are_reported_and_not_judged(home, instance):
    declare(home, merged(merged(TINY, DATED), {"outcomes": {"min_rows": 5000}}))
    known(home, predicted(home, answers=False))
    result = looked_at(home, instance)
    assert facts_of(result)["realised_auc"] < 0.7
    assert all(check.passed for check in checks(result).values())
    said = "not judged: of version 1, 2,000 matured predictions are fewer than outcomes.min_rows, 5,000"
    assert checks(result)[RANKING].metadata["reason"].value == said


def test_one_outcome_alone_is_reported_and_not_judged(home, tiny, instance):
    labels = predicted(home)
    known(home, labels.set_column(2, "churned", pa.array([False] * len(labels))))
    result = looked_at(home, instance)
    assert "realised_auc" not in facts_of(result)
    assert rows_of(facts_of(result)["by_version"])[0]["positives"] == 0
    assert (
        "the outcome of all 2,000 matured predictions is the same" in checks(result)[RANKING].metadata["reason"].value
    )


def test_the_version_in_service_is_judged_and_every_one_reported(home, tiny, instance):
    """A version that was replaced is not held against the one that replaced it."""
    old = predicted(home, DAY - timedelta(days=1), version=1, answers=False)
    new = predicted(home, DAY, version=2, seed=1)
    known(home, old, new)
    result = looked_at(home, instance)
    first, second = rows_of(facts_of(result)["by_version"])
    assert (first["model_version"], second["model_version"]) == ("1", "2")
    assert first["auc"] < 0.6 < 0.75 < second["auc"]
    assert all(check.passed for check in checks(result).values())
    assert checks(result)[RANKING].metadata["model_version"].value == 2


def test_a_new_version_is_not_judged_before_its_first_outcomes(home, tiny, instance):
    known(home, predicted(home, answers=False))
    predicted(home, DAY + timedelta(days=1), version=2)
    found = checks(looked_at(home, instance))[RANKING]
    assert found.passed
    assert found.metadata["reason"].value.startswith("not judged: of version 2, 0 matured predictions")


def test_after_every_night_was_withdrawn_what_people_had_is_reported_and_no_version_judged(home, tiny, instance):
    known(home, predicted(home, answers=False))
    with Backends(home).lakehouse() as lake:
        first = lake.history(PREDICTIONS)[-1]
        roll_back(lake, PREDICTIONS, str(first.id), "wrong", "marta")
    result = looked_at(home, instance)
    assert facts_of(result)["matured_rows"] == 2000
    assert checks(result)[RANKING].passed
    assert checks(result)[RANKING].metadata["reason"].value == "not judged: no version is in service"


def test_days_without_predictions_are_named(home, tiny, instance):
    early = DAY - timedelta(days=1)
    known(home, predicted(home), label_rows({1: True}, early))
    assert facts_of(looked_at(home, instance))["days_not_published"] == str(early)


# --- a real night ---------------------------------------------------------------------------------------------------


def test_what_the_model_said_that_morning_is_judged_and_not_what_a_rerun_said(home, tiny, instance):
    """Night, rerun by another champion at noon, outcomes: the first one's scores are those that people had."""
    first = promoted(home, tiny_contract())
    write_table(home, POPULATION, customers(600))
    assert run_job(home, instance, "tiny_nightly", WALL).success
    with Backends(home).lakehouse() as lake:
        said = lake.read(PREDICTIONS, where=partition_is("scored_on", WALL))
        turn_back(lake, PREDICTIONS, {lake.snapshot(PREDICTIONS).id: moment(WALL)})
    declare(home, merged(merged(TINY, DATED), {"gates": {"max_score_shift": 1000}}))
    second = promoted(home, tiny_contract(), seed=5)
    assert run_job(home, instance, "tiny_nightly", WALL).success
    with Backends(home).lakehouse() as lake:
        turn_back(lake, PREDICTIONS, {lake.snapshot(PREDICTIONS).id: moment(WALL, hour=12)})
    answer = [score > 0.5 for score in said["tiny_probability"].to_pylist()]  # the first one is always right
    known(home, label_rows(dict(zip(said["customer_id"].to_pylist(), answer, strict=True)), WALL))
    result = called(home, tiny, (WALL + timedelta(days=30)).isoformat())
    assert result.metadata["realised_auc"] == 1.0
    (version,) = rows_of(result.metadata["by_version"])
    assert version["model_version"] == str(first.version) != str(second.version)
