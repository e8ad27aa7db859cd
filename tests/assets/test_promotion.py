"""The champion's gates: what passes moves the alias, what fails is out of everybody's reach."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from assets.manifests import Candidate, TrainingSet
from assets.promotion import judge
from assets.resources import Backends
from backends.manual_moves import ManualMoves
from backends.promotion_ledger import Move, Why, moves_of
from backends.settings import Settings
from models.contract import CategoryFeature, NumberFeature
from models.errors import PromotionError
from tests.lives import (
    ARTIFACT,
    TINY,
    checks,
    declare,
    logged,
    materialized,
    promoted,
    reason_of,
    run_job,
    tiny_examples,
    write_table,
)
from tests.tiny_model import FEATURES, tiny_contract

pytestmark = pytest.mark.slow

Judge = Callable[..., dg.ExecuteInProcessResult]

LEDGER = "gold.tiny_promotions"
LENIENT = {"min_auc": 0.5, "max_calibration_error": 1.0}
WIDE = {"max_auc_behind_champion": 0.5, "max_log_loss_behind_champion": 5}
GOOD, BAD = 0, 1  # seeds of the tiny model: the outcomes are drawn from the first one's scores


@pytest.fixture
def examples(home) -> int:
    return write_table(home, "silver.tiny_examples", tiny_examples())


def judge_of(home: Settings, instance: dg.DagsterInstance, examples: int) -> Judge:
    """Return how to put a hand-made candidate before the gates; `changes` go into the declaration."""

    def judge(seed: int = GOOD, contract=None, snapshot=examples, **changes) -> dg.ExecuteInProcessResult:
        run_id, sha256 = logged(home, contract or tiny_contract(), seed)
        pinned = TrainingSet(table="silver.tiny_examples", snapshot_id=snapshot, rows=2000, entity_key_type="integer")
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


@pytest.fixture
def judged(home, instance, examples) -> Judge:
    return judge_of(home, instance, examples)


@pytest.fixture(scope="module")
def promoted_once(shared_home, shared_instance) -> Judge:
    """Make the good candidate the champion of the shared home."""
    examples = write_table(shared_home, "silver.tiny_examples", tiny_examples())
    judge = judge_of(shared_home, shared_instance, examples)
    result = judge()
    assert result.success, reason_of(result)
    return judge


@pytest.fixture
def challenged(promoted_once, shared_home) -> Iterator[Judge]:
    """Put a candidate before the gates where the good one is the champion already; all is forgotten afterwards."""
    with databases_as_they_were(shared_home):
        yield promoted_once


@contextmanager
def databases_as_they_were(settings: Settings) -> Iterator[None]:
    """Put back what is in the catalog and in MLflow, by SQLite itself: MLflow keeps its connections open."""
    live = [settings.home / name for name in ("catalog.db", "mlflow.db")]
    kept = [path.with_suffix(".kept") for path in live]
    for path, copy in zip(live, kept, strict=True):
        copied(path, copy)
    try:
        yield
    finally:
        for path, copy in zip(live, kept, strict=True):
            copied(copy, path)


def copied(path: Path, to: Path) -> None:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def promote(home, instance) -> dg.ExecuteInProcessResult:
    return run_job(home, instance, "tiny_training", stages=["tiny/champion"])


def failed(result: dg.ExecuteInProcessResult) -> set[str]:
    return {name for name, check in checks(result).items() if not check.passed}


def champion_facts(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def metrics_of(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, float]]:
    rows = checks(result)["keeps_up_with_the_champion"].metadata["metrics_on_the_same_rows"].records
    return {row.data["model"]: row.data for row in rows}


def moves(home) -> tuple[Move, ...]:
    with Backends(home).lakehouse() as lake:
        return moves_of(lake, LEDGER)


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


def test_a_failed_gate_leaves_the_old_champion(shared_home, challenged):
    before = serving(shared_home)
    result = challenged(seed=1, gates={"min_auc": 0.999})
    assert not result.success
    assert "reaches_the_least_auc" in failed(result)
    assert serving(shared_home) == before


def test_a_worse_candidate_is_compared_on_the_same_rows_and_refused(shared_home, challenged):
    before = serving(shared_home)
    result = challenged(seed=BAD, gates=LENIENT)
    assert failed(result) == {"keeps_up_with_the_champion", "beats_the_champion"}
    metrics = metrics_of(result)
    assert metrics["candidate"]["auc"] < metrics["champion"]["auc"] - 0.002
    assert serving(shared_home) == before


def test_a_worse_candidate_within_the_margins_ties_and_the_champion_stays(shared_home, challenged):
    before = serving(shared_home)
    result = challenged(seed=BAD, gates={**LENIENT, **WIDE})
    assert result.success, reason_of(result)
    assert failed(result) == {"beats_the_champion"}
    assert checks(result)["beats_the_champion"].severity is dg.AssetCheckSeverity.WARN
    assert serving(shared_home) == before
    facts = champion_facts(result)
    assert (facts["verdict"], facts["model_version"], facts["sha256"]) == ("kept: a tie", 1, before.sha256)


def test_a_better_candidate_is_promoted(home, judged):
    assert judged(seed=BAD, gates=LENIENT).success
    assert judged(seed=GOOD).success
    assert serving(home).version == 2


def test_promoting_the_same_bytes_again_keeps_the_version(shared_home, challenged):
    before = serving(shared_home)
    result = challenged()  # other run, same bytes
    assert result.success, reason_of(result)
    assert serving(shared_home) == before
    assert failed(result) == set()
    facts = champion_facts(result)
    assert (facts["verdict"], facts["reason"]) == (
        "kept: the same bytes",
        "The very bytes of version 1, the champion.",
    )
    assert len(moves(shared_home)) == 1


def test_a_champion_of_dropped_columns_does_not_stand_in_the_way(home, judged):
    wider = {**FEATURES, "branch": CategoryFeature(kind="category", values=("a", "b"))}
    assert not judged(contract=tiny_contract(features=wider)).success  # its column is not in the examples
    promoted(home, tiny_contract(features=wider))
    result = judged()
    assert result.success, reason_of(result)
    assert set(metrics_of(result)) == {"candidate"}
    assert failed(result) == {"beats_the_champion"}  # a warning: nobody was beaten
    reason = champion_facts(result)["reason"]
    assert reason.startswith("Not compared with version 1, which cannot read the rows: The data do not fit")
    assert "column 'branch' is missing" in reason
    assert serving(home).version == 2


def test_a_champion_is_compared_by_a_column_that_only_the_table_has_still(home, instance, judged):
    with_branch = tiny_examples()
    with_branch = with_branch.append_column("branch", pa.array(["a", "b"] * (len(with_branch) // 2)))
    snapshot = write_table(home, "silver.wide_examples", with_branch)
    wider = {**FEATURES, "branch": CategoryFeature(kind="category", values=("a", "b"))}
    promoted(home, tiny_contract(features=wider), seed=2)
    result = judged(snapshot=snapshot, examples={"table": "silver.wide_examples"})
    assert result.success, reason_of(result)
    assert set(metrics_of(result)) == {"candidate", "champion"}


def test_rows_that_only_the_champion_refuses_are_left_out_and_counted(home, judged):
    narrower = {**FEATURES, "tenure_months": NumberFeature(kind="number", min=0, max=500)}
    promoted(home, tiny_contract(features=narrower), seed=BAD)
    result = judged(gates={"min_auc": 0.5})
    assert result.success, reason_of(result)
    facts = champion_facts(result)
    found = re.search(r"gains on (\d+) rows, without (\d+) rows that the champion's contract refuses", facts["reason"])
    compared, left_out = map(int, found.groups())
    assert compared + left_out == 500
    assert 50 < left_out < 150
    assert facts["verdict"] == "promoted: better"


def test_a_champion_that_refuses_every_row_is_not_compared_and_that_is_told(home, judged):
    narrower = {**FEATURES, "tenure_months": NumberFeature(kind="number", min=10_000)}
    promoted(home, tiny_contract(features=narrower), seed=BAD)
    result = judged()
    assert result.success, reason_of(result)
    assert failed(result) == {"beats_the_champion"}
    said = "Not compared with version 1, which cannot read the rows: Its contract refuses 500 of 500 test rows."
    assert champion_facts(result)["reason"] == said
    assert serving(home).version == 2


# --- what is left of a verdict --------------------------------------------------------------------------------------


def test_a_promotion_is_in_the_ledger_with_its_gains_and_its_run(home, judged):
    assert judged(seed=BAD, gates=LENIENT).success
    result = judged(seed=GOOD)
    assert result.success, reason_of(result)
    first, second = moves(home)
    assert (first.kind, first.from_version, first.to_version, first.figures) == ("promotion", None, 1, {})
    assert first.reason == "The first champion: there was none to compare it with."
    assert (second.from_version, second.to_version, second.by) == (1, 2, "the gate")
    assert second.to_sha256 == serving(home).sha256
    assert second.dagster_run_id == result.run_id
    assert second.figures["auc_gain_lower"] > 0
    assert "Better than version 1: gains on 500 rows: ROC-AUC +0." in second.reason


def test_the_report_shows_both_models_the_gains_and_two_pictures(home, judged):
    assert judged(seed=BAD, gates=LENIENT).success
    result = judged(seed=GOOD)
    facts = champion_facts(result)
    assert list(facts)[:3] == ["verdict", "model_version", "reason"]
    gains = {row.data["metric"]: row.data for row in facts["gains"].records}
    assert set(gains) == {"ROC-AUC", "log-loss"}
    for row in gains.values():
        assert row["from"] <= row["gain"] <= row["to"]
    assert gains["ROC-AUC"]["gain"] == pytest.approx(
        gains["ROC-AUC"]["candidate"] - gains["ROC-AUC"]["champion"], abs=2e-4
    )
    for name in ("champion_and_candidate.png", "gains.png"):
        assert facts[name].startswith("![")
        assert checks(result)["beats_the_champion"].metadata[name].value == facts[name]


@pytest.mark.parametrize(
    ("gates", "verdict"), [({"min_auc": 0.5}, "rejected"), ({"min_auc": 0.5, **WIDE}, "tie")], ids=["worse", "tie"]
)
def test_the_report_is_in_mlflow_whatever_the_verdict(shared_home, challenged, gates, verdict):
    challenged(seed=BAD, gates={"max_calibration_error": 1.0, **gates})
    client = Backends(shared_home).registry()._client
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], f"tags.verdict = '{verdict}'")
    assert run.data.tags["verdict_against"] == "1"
    assert run.data.metrics["gate.auc_gain"] < 0
    assert run.data.metrics["gate.auc_gain_lower"] <= run.data.metrics["gate.auc_gain"]
    assert run.data.metrics["gate.candidate.auc"] < run.data.metrics["gate.champion.auc"]
    shown = {file.path for file in client.list_artifacts(run.info.run_id, "pictures")}
    assert shown == {"pictures/gate.champion_and_candidate.png", "pictures/gate.gains.png"}


# --- who can be reached ---------------------------------------------------------------------------------------------


def test_a_tie_is_registered_and_waits_for_a_person(shared_home, challenged):
    assert challenged(seed=BAD, gates={**LENIENT, **WIDE}).success
    tied, _ = Backends(shared_home).registry().versions("tiny")
    assert (tied.version, tied.tags["verdict"]) == (2, "tie")
    assert "promoted_by_dagster_run_id" not in tied.tags
    assert len(moves(shared_home)) == 1


def test_what_was_rejected_is_no_version_and_a_tie_that_is_rejected_later_cannot_be_promoted(shared_home, challenged):
    assert not challenged(seed=BAD, gates=LENIENT).success
    registry = Backends(shared_home).registry()
    assert [version.version for version in registry.versions("tiny")] == [1]
    assert challenged(seed=BAD, gates=LENIENT | WIDE).success
    assert registry.version("tiny", 2).tags["verdict"] == "tie"
    assert not challenged(seed=BAD, gates=LENIENT).success
    assert registry.version("tiny", 2).tags["verdict"] == "rejected"
    with Backends(shared_home).lakehouse() as lake:
        by_hand = ManualMoves(lake, registry, "tiny", LEDGER, "silver.active_customers")
        with pytest.raises(PromotionError, match="Version 2 of model 'tiny' cannot be promoted: it has not passed"):
            by_hand.promote(2, Why("manual", "marta", "why"))
    assert serving(shared_home).version == 1


def test_a_champion_that_is_judged_again_and_rejected_stays_and_keeps_its_verdict(shared_home, challenged):
    assert not challenged(gates={"min_auc": 0.999}).success
    assert serving(shared_home).tags["verdict"] == "unopposed"


def test_after_the_alias_was_taken_away_a_candidate_is_registered_and_a_person_asked(shared_home, challenged):
    Backends(shared_home).registry()._client.delete_registered_model_alias("tiny", "champion")
    result = challenged(seed=BAD, gates=LENIENT)
    assert not result.success
    assert "somebody took the alias away from version 1" in reason_of(result)
    assert "tandem promote tiny --to 2 --reason" in reason_of(result)
    assert serving(shared_home) is None
    with Backends(shared_home).lakehouse() as lake:
        by_hand = ManualMoves(lake, Backends(shared_home).registry(), "tiny", LEDGER, "silver.active_customers")
        assert by_hand.promote(2, Why("manual", "marta", "a new beginning"))[0].version == 2
    assert serving(shared_home).version == 2


def test_a_champion_that_changes_while_a_candidate_is_judged_is_not_overwritten(home, judged, monkeypatch):
    """The candidate beats version 1; meanwhile somebody has made version 2 the champion, by hand."""
    assert judged(seed=BAD, gates=LENIENT).success
    run_id, sha256 = logged(home, tiny_contract(), seed=3)
    registry = Backends(home).registry()
    other = registry.register("tiny", run_id, ARTIFACT, sha256, {})

    def judge_slowly(*arguments):
        verdict = judge(*arguments)
        registry.move_alias("tiny", other.version)
        return verdict

    monkeypatch.setattr("assets.promotion.judge", judge_slowly)
    result = judged(seed=GOOD)
    assert not result.success
    assert "Version 3 of model 'tiny' is not made the champion: somebody else moved it meanwhile" in reason_of(result)
    assert serving(home).version == other.version == 2
    assert [(move.kind, move.to_version) for move in moves(home)] == [("promotion", 1), ("by_hand", 2)]
    assert registry.version("tiny", 3).tags["verdict"] == "better"  # a person may still promote it


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
