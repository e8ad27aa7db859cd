"""The drift of a night as Dagster shows it: what is told, what is judged, and that nothing is ever blocked."""

import base64
import re
from datetime import date

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from assets.resources import Backends
from tests.backends.nights import customers, with_column
from tests.lives import TINY, checks, declare, definitions_of, promoted, reason_of, run_job, write_table
from tests.tiny_model import tiny_contract, tiny_onnx_with_profile

POPULATION = "silver.active_customers"
FRIDAY, SATURDAY = date(2026, 11, 20), date(2026, 11, 21)
FEATURES, SCORES = "features_resemble_the_training_set", "scores_resemble_the_training_set"


@pytest.fixture
def tiny(home):
    return declare(home, TINY, gates={"max_score_shift": 100})


@pytest.fixture
def champion(home, tiny):
    onnx = tiny_onnx_with_profile(tiny_contract(), customers(5000, seed=1))
    return promoted(home, tiny_contract(), onnx=onnx)


@pytest.fixture
def scored(home, instance, champion):
    """Write a population and score it."""

    def night(rows: pa.Table, day: date = FRIDAY) -> None:
        write_table(home, POPULATION, rows)
        result = run_job(home, instance, "tiny_nightly", day, ["gold/tiny_predictions"])
        assert result.success, reason_of(result)

    return night


@pytest.fixture
def drift(home, instance):
    """Materialize the drift of a day."""

    def look(day: date = FRIDAY) -> dg.ExecuteInProcessResult:
        asset = definitions_of(home).get_assets_def(dg.AssetKey(["tiny", "drift"]))
        return dg.materialize(
            [asset],
            instance=instance,
            resources={"backends": Backends(home)},
            partition_key=day.isoformat(),
            raise_on_error=False,
        )

    return look


def facts_of(result: dg.ExecuteInProcessResult) -> dict:
    (event,) = result.get_asset_materialization_events()
    return {name: getattr(fact, "records", fact.value) for name, fact in event.materialization.metadata.items()}


def said(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, str]]:
    return {name: (check.passed, check.metadata["reason"].value) for name, check in checks(result).items()}


def test_a_night_like_the_training_set_holds(drift, scored, champion):
    scored(customers(2000, seed=2))
    result = drift()
    assert said(result) == {FEATURES: (True, "holds"), SCORES: (True, "holds")}
    facts = facts_of(result)
    assert list(facts)[:4] == ["largest_feature_psi", "most_shifted_feature", "features_beyond_limit", "score_psi"]
    assert 0 < facts["largest_feature_psi"] < 0.05
    assert (facts["features_beyond_limit"], facts["rows_counted"]) == (0, 2000)
    assert (facts["model_version"], facts["model_sha256"]) == (champion.version, champion.sha256)
    assert {name for name in facts if name.startswith("psi_")} == {f"psi_{name}" for name in tiny_contract().features}
    assert facts["features"][0].data["feature"] == "tiny_probability"
    assert {record.data["verdict"] for record in facts["features"]} == {"steady"}


def test_a_shifted_night_warns_by_feature_value_and_remedy_and_fails_nothing(drift, scored):
    rows = customers(2000, seed=2)
    scored(with_column(rows, "balance", np.full(2000, 9000, np.float32)))
    result = drift()
    assert result.success
    features, scores = (said(result)[check] for check in (FEATURES, SCORES))
    assert not features[0]
    assert features[1].startswith("balance: has moved away from the training set, most in above ")
    assert features[1].count("has moved away") == 1  # no other feature is named
    assert "drift.max_feature_shift" in features[1]
    assert not scores[0]
    assert scores[1].startswith("tiny_probability: has moved away")
    assert {check.metadata["model_version"].value for check in checks(result).values()} == {1}  # for retraining
    assert {check.severity for check in checks(result).values()} == {dg.AssetCheckSeverity.WARN}
    assert {check.blocking for check in checks(result).values()} == {False}
    facts = facts_of(result)
    assert facts["features_beyond_limit"] == 1
    assert facts["most_shifted_feature"].startswith("balance, most in above ")
    assert facts["psi_balance"] == facts["largest_feature_psi"] > 1


def test_what_is_missing_or_unseen_now_stands_beside_what_was(drift, scored):
    rows = with_column(customers(2000, seed=2), "age_years", pa.nulls(2000, pa.float64()))
    scored(with_column(rows, "plan", ["brand new"] * 2000))
    table = {record.data["feature"]: record.data for record in facts_of(drift())["features"]}
    assert table["age_years"]["missing_now"] == "100.00%"
    assert table["age_years"]["missing_in_training"] in {f"{share / 10000:.2%}" for share in range(900, 1100)}
    assert table["plan"]["unseen_now"] == "100.00%"
    assert table["plan"]["unseen_in_training"].startswith("2")
    assert table["age_years"]["unseen_now"] == ""
    assert table["plan"]["verdict"] == "shifted"


def test_declared_limits_decide(home, drift, scored):
    scored(with_column(customers(2000, seed=2), "balance", np.full(2000, 9000, np.float32)))
    declare(home, TINY, drift={"max_feature_shift": 100, "max_score_shift": 100})
    assert said(drift()) == {FEATURES: (True, "holds"), SCORES: (True, "holds")}


def test_few_rows_are_reported_and_not_judged(drift, scored):
    scored(with_column(customers(999, seed=2), "balance", np.full(999, 9000, np.float32)))
    result = drift()
    reason = "not judged: 999 rows were scored, but at least 1,000 are needed (drift.min_rows)"
    assert said(result) == {FEATURES: (True, reason), SCORES: (True, reason)}
    assert facts_of(result)["psi_balance"] > 1


def test_a_large_sampled_night_is_judged_by_the_rows_that_were_scored(home, drift, scored, monkeypatch):
    monkeypatch.setattr("models.counting.SAMPLED_ROWS", 500)
    scored(with_column(customers(2000, seed=2), "balance", np.full(2000, 9000, np.float32)))
    result = drift()
    assert facts_of(result)["rows_counted"] == pytest.approx(500, abs=4)
    assert not said(result)[FEATURES][0]


def test_a_champion_from_before_profiles_says_to_train_again(home, tiny, instance, drift):
    version = promoted(home, tiny_contract())
    write_table(home, POPULATION, customers(2000))
    assert run_job(home, instance, "tiny_nightly", FRIDAY, ["gold/tiny_predictions"]).success
    result = drift()
    assert result.success
    passed, reason = said(result)[FEATURES]
    assert passed
    assert f"version {version.version} was trained before the ONNX file had a profile" in reason
    assert "job tiny_training" in reason
    assert facts_of(result)["reason"] == reason


def test_each_night_is_held_against_the_file_that_scored_it(home, drift, scored):
    scored(customers(2000, seed=2))
    others = with_column(customers(5000, seed=3), "balance", np.linspace(8000, 10_000, 5000, dtype=np.float32))
    promoted(home, tiny_contract(), onnx=tiny_onnx_with_profile(tiny_contract(), others))
    assert facts_of(drift())["model_version"] == 1
    assert said(drift())[FEATURES] == (True, "holds")
    scored(customers(2000, seed=2), SATURDAY)
    later = drift(SATURDAY)
    assert facts_of(later)["model_version"] == 2
    assert said(later)[FEATURES][1].startswith("balance: ")


def test_nights_are_drawn_as_history_once_there_are_two(drift, scored):
    scored(customers(2000, seed=2))
    assert "history" not in facts_of(drift())
    scored(customers(2000, seed=4), SATURDAY)
    facts = facts_of(drift(SATURDAY))
    for name in ("how_far", "what_moved", "history"):
        found = re.fullmatch(r"!\[[^\]]+\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", facts[name])
        assert base64.b64decode(found[1]).startswith(b"\x89PNG")


def test_a_day_that_is_not_published_is_named(home, drift, scored):
    scored(customers(2000, seed=2))
    assert "no published night of 2026-11-21" in reason_of(drift(SATURDAY))
