"""The whole life once, as it was lived: what was made, what is told of it, and that every trace of it agrees."""

import base64
import io
import re
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
import yaml
from matplotlib.image import imread

from backends.batch_scoring import score_and_publish
from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.night_drift import histograms_of
from backends.nights import Night, newest_night
from bento.building.build import find_bento
from bento.client import ApiClient
from bento.lineage import MODEL_FILE
from models.audit import Limits
from models.encoding import encode_arrow
from models.profile import profile_in
from models.reference import METADATA_KEY as REFERENCE
from models.scoring import Scorer, sha256_of
from orchestration.definitions import assemble
from orchestration.processes import api_command
from orchestration.sensors.api import api_observer
from tests.backends.nights import write_files
from tests.lives import CUSTOMERS, EXAMPLES, TODAY, checks, materialized, reason_of

pytestmark = pytest.mark.slow

GOLD = "gold.churn_predictions"
EXPLAINED = 200  # customers
SEEN_BY_SENSORS = {"api_answers", "is_ready_in_time"}


@pytest.fixture(scope="module")
def champion(lived):
    return lived.backends.registry().champion("churn")


@pytest.fixture(scope="module")
def scorer(lived, champion) -> Scorer:
    return Scorer(lived.backends.registry().read_version(champion), champion.sha256)


@pytest.fixture(scope="module")
def gold(lived) -> pa.Table:
    with lived.backends.lakehouse() as lake:
        return lake.read(GOLD)


@pytest.fixture(scope="module")
def night(lived):
    with lived.backends.lakehouse() as lake:
        return newest_night(lake, GOLD)


def test_the_jobs_succeed_and_materialize_every_asset(lived):
    runs = (lived.training, lived.night, lived.requests, lived.watch)
    for run in runs:
        assert run.success, reason_of(run)
    made = set().union(*map(materialized, runs))
    graph = assemble(lived.settings).resolve_asset_graph()
    assert made == {key.to_user_string() for key in graph.materializable_asset_keys}


def test_every_check_of_the_definitions_was_evaluated_and_none_that_blocks_fails(lived):
    said = {**checks(lived.training), **checks(lived.night), **checks(lived.requests), **checks(lived.watch)}
    graph = assemble(lived.settings).resolve_asset_graph()
    assert set(said) | SEEN_BY_SENSORS == {key.name for key in graph.asset_check_keys}
    assert [name for name, check in said.items() if not check.passed and check.severity.value == "ERROR"] == []


def test_the_api_was_observed_with_the_version_that_answers(lived, champion):
    record = lived.instance.fetch_observations(dg.AssetKey(["churn", "api"]), limit=1).records[0]
    observed = record.asset_observation
    assert observed.metadata["model_sha256"].value == champion.sha256
    assert observed.tags["dagster/data_version"] == champion.sha256


# --- one file, one identity -------------------------------------------------------------------------------------------


def test_the_sha256_is_the_same_wherever_the_model_is_named(lived, champion, scorer, gold, night):
    bento = find_bento(lived.settings.bentoml_home, "churn")
    with ApiClient(lived.url) as client:
        served = client.lineage()["sha256"]
        answer = client.predict({"customer_id": gold["customer_id"][0].as_py()})
    everywhere = {
        "registry": champion.tags["sha256"],
        "ONNX bytes": scorer.sha256,
        "manifest": yaml.safe_load((lived.settings.home / "manifests/churn/quantized_model.json").read_text())[
            "sha256"
        ],
        "champion's metadata": lived.facts("churn", "champion")["sha256"].value,
        "Gold's metadata": lived.facts("gold", "churn_predictions")["model_sha256"].value,
        "Gold's snapshot": night.properties["model_sha256"],
        "file in the Bento": sha256_of((bento.model_folder / MODEL_FILE).read_bytes()),
        "Bento's labels": labels_of(bento)["model_sha256"],
        "service": served,
        "answer": answer["model_sha256"],
    }
    assert set(everywhere.values()) == {champion.sha256}, everywhere
    assert gold["model_sha256"].unique().to_pylist() == [champion.sha256]


def test_the_training_snapshot_travels_with_the_model(lived, champion, scorer, night):
    with lived.backends.lakehouse() as lake:
        snapshot = str(lake.snapshot("silver.churn_examples").id)
    run = mlflow_run(lived, champion)
    with ApiClient(lived.url) as client:
        served = client.lineage()["training_snapshot"]
    everywhere = {
        "training set": lived.facts("churn", "training_set")["iceberg_snapshot"].value,
        "contract": scorer.contract.training_snapshot,
        "MLflow's dataset": run.inputs.dataset_inputs[0].dataset.digest,
        "MLflow's tag": run.data.tags["training_snapshot"],
        "registered version": champion.tags["training_snapshot"],
        "Bento's labels": labels_of(find_bento(lived.settings.bentoml_home, "churn"))["training_snapshot"],
        "service": served,
        "Gold's snapshot": night.properties["training_snapshot"],
    }
    assert set(everywhere.values()) == {snapshot}, everywhere


def test_the_population_snapshot_ties_gold_the_online_features_and_the_service(lived, night):
    with lived.backends.lakehouse() as lake:
        snapshot = str(lake.snapshot("silver.active_customers").id)
    with ApiClient(lived.url) as client:
        online = client.lineage()["online_features"]
    everywhere = {
        "Gold's metadata": lived.facts("gold", "churn_predictions")["population_snapshot"].value,
        "Gold's snapshot": night.properties["source_snapshot"],
        "online features": lived.facts("churn", "online_features")["population_snapshot"].value,
        "Bento's labels": labels_of(find_bento(lived.settings.bentoml_home, "churn"))["population_snapshot"],
        "service": online["source_snapshot"],
    }
    assert set(everywhere.values()) == {snapshot}, everywhere


def test_dagster_runs_are_named_where_their_work_is(lived, champion, scorer, night):
    trained, scored = lived.training.run_id, lived.night.run_id
    assert mlflow_run(lived, champion).data.tags["dagster_run_id"] == trained
    assert champion.tags["dagster_run_id"] == trained
    assert champion.tags["promoted_by_dagster_run_id"] == trained
    assert scorer.contract.dagster_run_id == trained
    assert labels_of(find_bento(lived.settings.bentoml_home, "churn"))["trained_by_dagster_run"] == trained
    assert night.properties["dagster_run_id"] == scored
    assert lived.backends.online_store("churn").describe()["dagster_run_id"] == scored


def test_the_chosen_precision_is_told_everywhere_and_follows_from_the_checks(lived, champion, scorer):
    quality = {name: check for name, check in checks(lived.training).items() if name.startswith("int8_")}
    precision = "int8" if all(check.passed for check in quality.values()) else "float32"
    everywhere = {
        "contract": scorer.contract.precision,
        "registered version": champion.tags["precision"],
        "quantized model": lived.facts("churn", "quantized_model")["precision"].value,
        "champion": lived.facts("churn", "champion")["precision"].value,
        "MLflow's tag": mlflow_run(lived, champion).data.tags["served_precision"],
    }
    assert set(everywhere.values()) == {precision}, everywhere


def test_both_files_carry_the_profile_of_the_training_rows_and_scores_of_their_own(lived, champion):
    run = lived.settings.home / "mlflow" / "churn" / champion.mlflow_run_id / "artifacts"
    files = [(run / name / "model.onnx").read_bytes() for name in ("model_float32", "model_int8")]
    floating, int8 = (profile_in(Scorer(file).metadata) for file in files)
    assert list(floating.features) == list(lived.declaration.features)
    assert int8.features == floating.features
    assert int8.score != floating.score
    rows = lived.facts("churn", "training_set")["training_rows"].value
    assert {sum(bins.counts) for bins in (*floating.all_bins, *int8.all_bins)} == {rows}
    references = [Scorer(file).metadata[REFERENCE] for file in files]
    assert references[0] == references[1]


def test_the_night_was_counted_into_the_bins_of_the_file_that_scored_it(scorer, night):
    counted = histograms_of(night)
    assert counted.fit(profile_in(scorer.metadata))
    assert counted.rows == CUSTOMERS


# --- the Gold table ---------------------------------------------------------------------------------------------------


def test_gold_has_the_promised_columns(lived):
    with lived.backends.lakehouse() as lake:
        schema = lake.schema(GOLD)
    assert {field.name: str(field.type) for field in schema} == {
        "customer_id": "int64",
        "churn_probability": "float",
        "churn_predicted": "bool",
        "model_version": "int32",
        "model_sha256": "large_string",
        "scored_at": "timestamp[us, tz=UTC]",
        "scored_on": "date32[day]",
    }


def test_every_customer_is_scored_exactly_once(lived, gold):
    with lived.backends.lakehouse() as lake:
        population = lake.read("silver.active_customers", ["customer_id"])
    assert len(gold) == CUSTOMERS
    assert gold["customer_id"].null_count == 0
    assert set(gold["customer_id"].to_pylist()) == set(population["customer_id"].to_pylist())


def test_published_scores_are_the_scorers_bit_for_bit(lived, scorer, gold):
    with lived.backends.lakehouse() as lake:
        population = lake.read("silver.active_customers").sort_by("customer_id")
    published = gold.sort_by("customer_id")
    expected = scorer.score(encode_arrow(scorer.contract, population))
    assert published["churn_probability"].to_numpy().tobytes() == expected.tobytes()
    assert np.array_equal(published["churn_predicted"].to_numpy(), expected >= np.float32(0.3))
    assert len(np.unique(expected)) > CUSTOMERS / 2, "the scores are as good as constant"


def test_every_row_says_when_and_by_which_version(gold, champion):
    assert gold["model_version"].unique().to_pylist() == [champion.version]
    assert gold["scored_on"].unique().to_pylist() == [TODAY]
    (scored_at,) = gold["scored_at"].unique().to_pylist()
    assert TODAY <= scored_at.date() <= TODAY + timedelta(days=1)  # the tests may run past midnight


def test_the_api_answers_the_same_float32_as_gold(lived, gold, champion):
    with ApiClient(lived.url) as client:
        for row in gold.slice(0, 20).to_pylist():
            answer = client.predict({"customer_id": row["customer_id"]})
            assert np.float32(answer["probability"]) == np.float32(row["churn_probability"])
            assert answer["decision"] == row["churn_predicted"]
            assert answer["model_version"] == str(champion.version)


# --- what people see --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (("churn", "training_set"), EXAMPLES),
        (("gold", "churn_predictions"), CUSTOMERS),
        (("churn", "online_features"), CUSTOMERS),
    ],
)
def test_row_counts_are_shown(lived, key, rows):
    assert lived.facts(*key)["dagster/row_count"].value == rows


@pytest.mark.parametrize(
    ("key", "columns"),
    [
        (("churn", "training_set"), {"plan": "string", "churned": "bool", "observed_on": "date32[day]"}),
        (("gold", "churn_predictions"), {"churn_probability": "float", "model_sha256": "large_string"}),
    ],
)
def test_table_schemas_are_shown(lived, key, columns):
    shown = {column.name: column.type for column in lived.facts(*key)["dagster/column_schema"].value.columns}
    assert {name: shown[name].removeprefix("large_") for name in columns} == {
        name: dtype.removeprefix("large_") for name, dtype in columns.items()
    }


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (("churn", "trained_model"), "roc_and_calibration.png"),
        (("churn", "trained_model"), "training_curve.png"),
        (("churn", "quantized_model"), "float_against_int8.png"),
    ],
)
def test_pictures_are_shown_as_real_pngs(lived, key, name):
    found = re.fullmatch(r"!\[[^\]]+\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", lived.facts(*key)[name].value)
    assert found, "not a picture in Markdown"
    height, width, _ = imread(io.BytesIO(base64.b64decode(found[1], validate=True)), format="png").shape
    assert (height > 200, width > 500) == (True, True)


def test_the_scores_of_a_night_are_drawn(lived):
    chart = lived.facts("gold", "churn_predictions")["scores"].value
    found = re.fullmatch(r"!\[scores\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", chart)
    assert found, chart[:100]
    assert f"{CUSTOMERS:,} scores" in base64.b64decode(found[1], validate=True).decode()


@pytest.mark.parametrize("stage", ["trained_model", "quantized_model", "champion"])
def test_the_mlflow_run_is_one_click_away(lived, champion, stage):
    url = lived.facts("churn", stage)["mlflow_run"].url
    experiment = mlflow_run(lived, champion).info.experiment_id
    assert url == f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{champion.mlflow_run_id}"


def test_yardsticks_stand_beside_the_network(lived):
    rows = {row.data["model"]: row.data for row in lived.facts("churn", "trained_model")["test_metrics"].records}
    assert set(rows) == {"network", "teacher", "boosted_trees"}
    assert all({"auc", "pr_auc", "log_loss", "calibration_error"} <= row.keys() for row in rows.values())


def test_the_trained_graph_equals_the_trainers_forward_pass(lived):
    assert 0 <= lived.facts("churn", "trained_model")["graph_difference"].value <= 1e-5


def test_int8_is_measured_against_float(lived):
    facts = lived.facts("churn", "quantized_model")
    changes = facts["changes"].data
    declared = {name.removeprefix("max_") for name in lived.declaration.gates.int8.model_dump()}
    assert changes.keys() == declared | {"speedup", "quantized_nodes", "size_ratio"}
    assert changes["quantized_nodes"] >= 1
    sizes = facts["kilobytes_int8"].value, facts["kilobytes_float32"].value
    assert changes["size_ratio"] == pytest.approx(sizes[0] / sizes[1], rel=0.01)
    assert changes["size_ratio"] < 0.6
    assert min(facts["rows_per_second_int8"].value, facts["rows_per_second_float32"].value) > 0


def test_where_things_are_is_shown(lived):
    with lived.backends.lakehouse() as lake:
        assert lived.facts("gold", "churn_predictions")["dagster/uri"].value == lake.location(GOLD)
    assert lived.facts("churn", "bento")["dagster/uri"].value == str(
        find_bento(lived.settings.bentoml_home, "churn").path
    )
    assert lived.facts("churn", "online_features")["dagster/uri"].value == lived.settings.online


def test_the_mlflow_run_has_parameters_metrics_curve_pictures_file_and_dataset(lived, champion):
    run = mlflow_run(lived, champion)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.teacher_iterations"] == "40"
    assert {"network.auc", "boosted_trees.auc", "int8.auc", "int8.speedup", "training_loss"} <= run.data.metrics.keys()
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.source_type) == ("silver.churn_examples", "iceberg")
    client = lived.backends.registry()._client
    files = {
        item.path for folder in ("pictures", "model_float32") for item in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"pictures/roc_and_calibration.png", "pictures/training_curve.png", "model_float32/model.onnx"} <= files


def test_the_split_is_told_and_looks_into_the_future(lived):
    facts = {name: fact.value for name, fact in lived.facts("churn", "training_set").items()}
    assert facts["training_rows"] + facts["calibration_rows"] + facts["test_rows"] == EXAMPLES
    assert facts["train_months"].split(" to ")[1] < facts["test_months"].split(" to ")[0]


# --- what stands beside its runs ------------------------------------------------------------------------------------


def test_the_newest_bento_is_what_is_served(lived):
    command, environment = api_command(lived.settings, "churn", 4711)
    assert command[-1] == "4711"
    assert environment["TANDEM_ONLINE_STORE"] == lived.settings.online
    assert environment["TANDEM_MODEL_FOLDER"].startswith(str(lived.settings.bentoml_home / "bentos" / "churn"))


def test_a_living_service_answers_its_sensor_with_its_champion(lived, champion):
    with dg.build_sensor_context(instance=lived.instance, resources={"backends": lived.backends}) as context:
        seen, check = api_observer(lived.declaration).evaluate_tick(context).asset_events
    assert seen.tags["dagster/data_version"] == champion.sha256
    assert (check.metadata["reason"].value, check.passed) == ("Version 1, the champion, answers.", True)
    assert seen.metadata["parity"].value.startswith("agrees with Gold")


# --- reasons ----------------------------------------------------------------------------------------------------------


def test_the_api_gives_the_reasons_that_a_night_writes_bit_for_bit(lived, champion, scorer, night, tmp_path):
    with lived.backends.lakehouse() as lake:
        customers = lake.read("silver.active_customers", snapshot_id=int(night.properties["source_snapshot"]))
    some = customers.slice(0, EXPLAINED)
    with Lakehouse.open(lived.settings.model_copy(update={"home": tmp_path})) as lake:
        write_files(lake, "silver.some_customers", [some])
        explained = Night(
            population="silver.some_customers",
            predictions="gold.explained",
            rejects="gold.explained_rejects",
            scorer=scorer,
            version=champion.version,
            scored_on=TODAY,
            scored_at=datetime.now(UTC),
            limits=Limits(max_shift=1000, max_rejected_share=0.1),
            reasons=3,
            reasons_for="all",
        )
        score_and_publish(lake, LocalEngine(1), explained)
        batch = lake.read("gold.explained").sort_by("customer_id").to_pylist()
    asked = [{"customer_id": row["customer_id"], "reasons": 3} for row in batch]
    with ApiClient(lived.url) as client:
        answers = [answer for i in range(0, EXPLAINED, 20) for answer in client.predict_many(asked[i : i + 20])]
    assert len(answers) == len(batch) == EXPLAINED
    for row, answer in zip(batch, answers, strict=True):
        api = [(one["feature"], np.float32(one["contribution"]).tobytes()) for one in answer["reasons"]]
        assert api == [(one["feature"], np.float32(one["contribution"]).tobytes()) for one in row["reasons"]]
        assert np.float32(answer["probability"]) == np.float32(row["churn_probability"])


def labels_of(bento) -> dict[str, str]:
    return yaml.safe_load((bento.path / "bento.yaml").read_text())["labels"]


def mlflow_run(lived, version):
    return lived.backends.registry()._client.get_run(version.mlflow_run_id)
