"""Single stages: assets called as functions, and trainings that end otherwise than with an int8 champion."""

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from assets.bento import bento
from assets.manifests import ManifestFiles, TrainedModel, TrainingSet
from assets.online_features import online_features
from assets.predictions import predictions
from assets.quantized_model import quantized_model
from assets.resources import Backends
from assets.sources import report_tables
from assets.trained_model import trained_model
from assets.training_set import training_set
from bento.building.build import find_bento
from bento.lineage import MODEL_FILE
from models.encoding import encode_arrow
from models.errors import ColumnError, NoChampionError, TableNotFoundError, TrainingDataError
from models.scoring import Scorer, sha256_of
from tests.backends.nights import customers
from tests.lives import (
    TINY,
    TODAY,
    checks,
    declare,
    materialized,
    promoted,
    reason_of,
    run_job,
    tiny_examples,
    write_table,
)
from tests.tiny_model import tiny_contract

POPULATION, EXAMPLES = "silver.active_customers", "silver.tiny_examples"
TRAINING = [f"tiny/{stage}" for stage in ("training_set", "trained_model", "quantized_model", "champion")]
NO_CHANGE = {f"max_{name}": 0 for name in ("auc_drop", "log_loss_rise", "mean_change", "p99_change", "decision_flips")}


@pytest.fixture
def tiny(home):
    return declare(home, TINY)


@pytest.fixture
def tables(home) -> int:
    """Write population and examples; give the examples' snapshot."""
    write_table(home, POPULATION, customers(300))
    return write_table(home, EXAMPLES, tiny_examples())


# --- assets called as functions ---------------------------------------------------------------------------------------


def test_the_training_set_pins_a_snapshot(home, tiny, tables):
    result = training_set(tiny)(backends=Backends(home))
    with Backends(home).lakehouse() as lake:
        population = str(lake.snapshot(tiny.population.table).id)
    assert result.value == TrainingSet(
        table=EXAMPLES, snapshot_id=tables, rows=2000, entity_key_type="integer", population_snapshot=population
    )
    assert result.data_version == dg.DataVersion(f"iceberg:{tables}")
    assert result.metadata["test_rows"] == 500


def test_the_training_set_stays_what_it_was_when_the_table_changes(home, tiny, tables):
    pinned = training_set(tiny)(backends=Backends(home)).value
    write_table(home, EXAMPLES, tiny_examples(900, seed=1))
    with Backends(home).lakehouse() as lake:
        assert lake.read(EXAMPLES, snapshot_id=pinned.snapshot_id).num_rows == 2000
    assert training_set(tiny)(backends=Backends(home)).value.rows == 900


def test_training_and_quantization_as_functions(home, tiny, tables):
    backends = Backends(home)
    pinned = training_set(tiny)(backends=backends).value
    with dg.build_asset_context() as context:
        trained = trained_model(tiny)(context, backends=backends, training_set=pinned)
        *said, quantized = quantized_model(tiny)(context, backends=backends, trained_model=trained.value)
    registry, model, candidate = backends.registry(), trained.value, quantized.value
    floating = registry.read_onnx(model.mlflow_run_id, model.artifact, model.sha256)
    chosen = registry.read_onnx(candidate.mlflow_run_id, candidate.artifact, candidate.sha256)
    assert Scorer(floating).contract.precision == "float32"
    assert Scorer(chosen).contract.precision == candidate.precision
    assert (candidate.precision == "int8") == all(check.passed for check in said)
    assert trained.metadata["auc"] > 0.7  # its ceiling is 0.77


def test_predictions_as_a_function(home, tiny, tables):
    version = promoted(home, tiny_contract())
    with dg.build_asset_context(partition_key="2026-11-21") as context:
        *said, made = predictions(tiny)(context, backends=Backends(home))
    assert [check.passed for check in said] == [True] * 4
    assert made.metadata["dagster/partition_row_count"] == 300
    with Backends(home).lakehouse() as lake:
        assert made.data_version.value == f"{version.sha256[:16]}:{lake.snapshot(POPULATION).id}"


def test_online_features_as_a_function(home, tiny, tables):
    promoted(home, tiny_contract())
    backends = Backends(home)
    with dg.build_asset_context(partition_key="2026-11-21") as context:
        list(predictions(tiny)(context, backends=backends))
    with dg.build_asset_context() as context:
        result = online_features(tiny)(context, backends=backends)
    assert result.check_results[0].passed
    with backends.lakehouse() as lake:
        population = lake.read(POPULATION)
    stored = backends.online_store("tiny").get_many(tiny_contract(), population["customer_id"].to_pylist())
    expected = encode_arrow(tiny_contract(), population)
    assert stored.missing == ()
    assert np.array_equal(stored.rows.numbers, expected.numbers, equal_nan=True)
    assert np.array_equal(stored.rows.categories, expected.categories)


def test_a_bento_holds_the_champions_bytes(home, tiny):
    version = promoted(home, tiny_contract())
    made = bento(tiny)(backends=Backends(home))
    built = find_bento(home.bentoml_home, "tiny")
    assert made.metadata["bento"] == built.tag
    assert sha256_of((built.model_folder / MODEL_FILE).read_bytes()) == version.sha256
    assert made.data_version == dg.DataVersion(version.sha256)


def test_a_bento_needs_a_champion(home, tiny):
    with pytest.raises(NoChampionError, match="Materialize tiny/champion"):
        bento(tiny)(backends=Backends(home))


def test_tables_written_elsewhere_are_reported(home, instance, tables):
    report_tables(Backends(home), instance, [EXAMPLES])
    event = instance.get_latest_materialization_event(dg.AssetKey(["silver", "tiny_examples"])).asset_materialization
    assert event.metadata["dagster/row_count"].value == 2000
    assert event.metadata["iceberg_snapshot"].value == str(tables)
    assert event.tags["dagster/data_version"] == f"iceberg:{tables}"


def test_manifests_are_read_back_as_they_were_written(home):
    files = ManifestFiles(home)
    pinned = TrainingSet(table=EXAMPLES, snapshot_id=2**62, rows=3, entity_key_type="string")
    written = TrainedModel(training_set=pinned, mlflow_run_id="r", artifact="a", sha256="s")
    key = dg.AssetKey(["tiny", "trained_model"])
    for manifest in (written, written.model_copy(update={"sha256": "t"})):
        files.handle_output(dg.build_output_context(asset_key=key), manifest)
        dtype = dg.DagsterType(lambda _, value: True, name="trained", typing_type=TrainedModel)
        assert files.load_input(dg.build_input_context(asset_key=key, dagster_type=dtype)) == manifest
    assert [path.name for path in (home.home / "manifests" / "tiny").iterdir()] == ["trained_model.json"]


# --- examples that cannot train ---------------------------------------------------------------------------------------


def relabelled(table: pa.Table, labels: list[object]) -> pa.Table:
    return table.drop_columns(["churned"]).append_column("churned", pa.array(labels * (len(table) // len(labels))))


@pytest.mark.parametrize(
    ("examples", "error", "said"),
    [
        (lambda t: relabelled(t, [True]), TrainingDataError, "is True in every row: examples of both outcomes"),
        (lambda t: relabelled(t, ["a", "b", "c", "d"]), TrainingDataError, "has 4 values"),
        (lambda t: t.slice(0, 0), TrainingDataError, "have no rows: fill the table first"),
        (lambda t: t.drop_columns(["plan", "churned"]), ColumnError, "has no column 'plan', 'churned'"),
    ],
    ids=["one class", "four classes", "no rows", "no columns"],
)
def test_examples_that_cannot_train_are_refused_when_they_are_pinned(home, tiny, examples, error, said):
    write_table(home, POPULATION, customers(10))
    write_table(home, EXAMPLES, examples(tiny_examples(400)))
    with pytest.raises(error, match=said):
        training_set(tiny)(backends=Backends(home))


def test_a_table_of_examples_that_is_not_there_is_named(home, tiny):
    with pytest.raises(TableNotFoundError, match=r"The catalog has no table 'silver.tiny_examples'. Create it"):
        training_set(tiny)(backends=Backends(home))


def test_a_feature_of_a_wrong_type_fails_the_training_run(home, instance, tiny):
    write_table(home, POPULATION, customers(10))
    table = tiny_examples(400)
    table = table.set_column(table.schema.get_field_index("balance"), "balance", pa.array(["much"] * 400))
    write_table(home, EXAMPLES, table)
    result = run_job(home, instance, "tiny_training")
    assert "column 'balance' has type large_string, but a number is expected" in reason_of(result)
    assert Backends(home).registry().champion_or_none("tiny") is None


# --- other ends of a training -----------------------------------------------------------------------------------------


def test_a_network_that_int8_changes_is_served_in_float_and_everything_says_so(home, instance, tables):
    declare(home, TINY, gates={"int8": NO_CHANGE})
    result = run_job(home, instance, "tiny_training", stages=TRAINING)
    assert result.success, reason_of(result)  # the checks warn
    said = checks(result)["int8_keeps_the_probabilities"]
    assert (said.passed, said.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "The float graph is served" in said.metadata["reason"].value
    registry = Backends(home).registry()
    version = registry.champion("tiny")
    told = {
        "contract": Scorer(registry.read_version(version), version.sha256).contract.precision,
        "version": version.tags["precision"],
        "artifact": version.tags["artifact"].removeprefix("model_"),
        "run": registry._client.get_run(version.mlflow_run_id).data.tags["served_precision"],
        "quantized model": shown(result, "quantized_model")["precision"],
        "champion": shown(result, "champion")["precision"],
    }
    assert set(told.values()) == {"float32"}, told
    assert "The float graph is served" in shown(result, "quantized_model")["reason"]


def test_quantized_again_with_another_verdict_the_run_says_the_new_one(home, instance, tables):
    declare(home, TINY, gates={"int8": NO_CHANGE})
    trained = run_job(home, instance, "tiny_training", stages=TRAINING[:3])
    assert shown(trained, "quantized_model")["precision"] == "float32"
    declare(home, TINY)
    again = run_job(home, instance, "tiny_training", stages=TRAINING[2:3])
    assert again.success, reason_of(again)
    assert shown(again, "quantized_model")["precision"] == "int8"
    registry = Backends(home).registry()
    (run,) = registry._client.search_runs([registry._experiment("tiny")])
    assert run.data.tags["served_precision"] == "int8"


def shown(result: dg.ExecuteInProcessResult, stage: str) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node(f"tiny__{stage}")
    return {name: fact.value for name, fact in event.metadata.items() if hasattr(fact, "value")}


def test_a_candidate_that_fails_its_gate_reaches_neither_gold_nor_bento(home, instance, tables):
    old = promoted(home, tiny_contract())
    declare(home, TINY, gates={"min_auc": 0.99})
    result = run_job(home, instance, "tiny_training")
    assert not result.success
    assert not checks(result)["reaches_the_least_auc"].passed
    assert materialized(result) == {"tiny/training_set", "tiny/trained_model", "tiny/quantized_model"}
    assert Backends(home).registry().champion("tiny") == old
    assert run_job(home, instance, "tiny_nightly", TODAY).success
    made = bento(declare(home, TINY))(backends=Backends(home))
    with Backends(home).lakehouse() as lake:
        gold = lake.read("gold.tiny_predictions")
    assert gold["model_sha256"].unique().to_pylist() == [old.sha256]
    assert made.metadata["model_sha256"] == old.sha256


def test_an_expired_training_snapshot_says_to_pin_again(home, instance, tiny, tables):
    gone = TrainingSet(table=EXAMPLES, snapshot_id=4711, rows=1, entity_key_type="integer")
    with dg.build_asset_context() as context, pytest.raises(Exception, match="no snapshot 4711"):
        trained_model(tiny)(context, backends=Backends(home), training_set=gone)
