"""The champion's gates: what passes moves the alias, what fails is out of everybody's reach."""

import dagster as dg
import pytest

from assets.manifests import Candidate, TrainingSet
from assets.resources import Backends
from models.contract import CategoryFeature
from tests.lives import (
    ARTIFACT,
    TINY,
    checks,
    declare,
    logged,
    materialized,
    reason_of,
    run_job,
    tiny_examples,
    write_table,
)
from tests.tiny_model import FEATURES, tiny_contract

GOOD, BAD = 0, 1  # seeds of the tiny model: the outcomes are drawn from the first one's scores


@pytest.fixture
def examples(home) -> int:
    return write_table(home, "silver.tiny_examples", tiny_examples())


@pytest.fixture
def judged(home, instance, examples):
    """Put a hand-made candidate before the gates; `changes` go into the declaration."""

    def judge(seed: int = GOOD, contract=None, **changes) -> dg.ExecuteInProcessResult:
        run_id, sha256 = logged(home, contract or tiny_contract(), seed)
        pinned = TrainingSet(table="silver.tiny_examples", snapshot_id=examples, rows=2000, entity_key_type="integer")
        candidate = Candidate(
            training_set=pinned,
            mlflow_run_id=run_id,
            artifact=ARTIFACT,
            sha256=sha256,
            precision="float32",
            dagster_run_id="run-of-the-candidate",
        )
        manifest = home.home / "manifests" / "tiny" / "quantized_model.json"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(candidate.model_dump_json())
        declare(home, TINY, **changes)
        return promote(home, instance)

    return judge


def promote(home, instance) -> dg.ExecuteInProcessResult:
    return run_job(home, instance, "tiny_training", stages=["tiny/champion"])


def failed(result: dg.ExecuteInProcessResult) -> set[str]:
    return {name for name, check in checks(result).items() if not check.passed}


def serving(home):
    return Backends(home).registry().champion_or_none("tiny")


def test_a_good_candidate_becomes_the_first_champion(home, judged):
    result = judged()
    assert result.success, reason_of(result)
    assert failed(result) == set()
    assert materialized(result) == {"tiny/champion"}
    version = serving(home)
    assert version.version == 1
    assert version.tags["dagster_run_id"] == "run-of-the-candidate"
    assert version.tags["promoted_by_dagster_run_id"] == result.run_id
    assert 0.7 < float(version.tags["metric.auc"]) <= 1


@pytest.mark.parametrize(
    ("gates", "check", "said"),
    [
        ({"min_auc": 0.99}, "reaches_the_least_auc", "is below 0.99"),
        ({"max_calibration_error": 1e-6}, "is_calibrated", "is above 1e-06"),
    ],
)
def test_a_candidate_that_fails_a_gate_is_not_promoted(home, judged, gates, check, said):
    result = judged(gates=gates)
    assert not result.success
    assert failed(result) == {check}
    assert said in checks(result)[check].metadata["reason"].value
    assert said in reason_of(result)
    assert "the champion stays" in reason_of(result)
    assert materialized(result) == set()
    assert serving(home) is None


def test_a_failed_gate_leaves_the_old_champion(home, judged):
    assert judged().success
    before = serving(home)
    result = judged(seed=1, gates={"min_auc": 0.999})
    assert not result.success
    assert "reaches_the_least_auc" in failed(result)
    assert serving(home) == before


def test_a_worse_candidate_is_compared_on_the_same_rows_and_refused(home, judged):
    assert judged().success
    before = serving(home)
    result = judged(seed=BAD, gates={"min_auc": 0.5, "max_calibration_error": 1.0})
    assert failed(result) == {"keeps_up_with_the_champion"}
    rows = checks(result)["keeps_up_with_the_champion"].metadata["metrics_on_the_same_rows"].records
    auc = {row.data["model"]: row.data["auc"] for row in rows}
    assert auc["candidate"] < auc["champion"] - 0.002
    assert serving(home) == before


def test_a_worse_candidate_within_the_margin_is_promoted(home, judged):
    assert judged().success
    wide = {"min_auc": 0.5, "max_calibration_error": 1.0, "max_auc_behind_champion": 0.5}
    assert judged(seed=BAD, gates=wide).success
    assert serving(home).version == 2


def test_a_better_candidate_is_promoted(home, judged):
    assert judged(seed=BAD, gates={"min_auc": 0.5, "max_calibration_error": 1.0}).success
    assert judged(seed=GOOD).success
    assert serving(home).version == 2


def test_promoting_the_same_bytes_again_keeps_the_version(home, judged):
    assert judged().success
    before = serving(home)
    assert judged().success  # other run, same bytes
    assert serving(home) == before


def test_a_champion_of_dropped_columns_does_not_stand_in_the_way(home, judged):
    wider = {**FEATURES, "branch": CategoryFeature(kind="category", values=("a", "b"))}
    assert not judged(contract=tiny_contract(features=wider)).success  # its column is not in the examples
    run_id, sha256 = logged(home, tiny_contract(features=wider))
    Backends(home).registry().promote("tiny", run_id, ARTIFACT, sha256, {})
    result = judged()
    assert result.success, reason_of(result)
    rows = checks(result)["keeps_up_with_the_champion"].metadata["metrics_on_the_same_rows"].records
    assert [row.data["model"] for row in rows] == ["candidate"]
    assert serving(home).version == 2


def test_a_changed_candidate_file_is_refused(home, instance, judged):
    result = judged()
    assert result.success, reason_of(result)
    before = serving(home)
    (onnx,) = home.home.glob(f"mlflow/tiny/{before.mlflow_run_id}/artifacts/{ARTIFACT}/model.onnx")
    onnx.write_bytes(onnx.read_bytes() + b"\0")
    assert "It was changed after it was registered" in reason_of(promote(home, instance))
    assert serving(home) == before


def test_a_candidate_that_was_never_made_is_said(home, instance):
    declare(home, TINY)
    assert "Materialize tiny/quantized_model first" in reason_of(promote(home, instance))
