"""What a declaration becomes: the assets and checks of one model, and the tables that it reads."""

from datetime import datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import yaml

from backends.settings import ROOT, Settings
from orchestration.definitions import assemble
from tests.lives import TINY, declare, merged

LINEAGE = {
    "silver/active_customers": set(),
    "silver/churn_examples": set(),
    "churn/training_set": {"silver/churn_examples"},
    "churn/trained_model": {"churn/training_set"},
    "churn/quantized_model": {"churn/trained_model"},
    "churn/champion": {"churn/quantized_model"},
    "gold/churn_predictions": {"churn/champion", "silver/active_customers"},
    "churn/online_features": {"churn/champion", "gold/churn_predictions"},
    "churn/bento": {"churn/champion"},
    "churn/api": {"churn/bento", "churn/online_features", "gold/churn_predictions"},
    "silver/churn_requests": {"churn/api"},
    "churn/costs": {"gold/churn_predictions"},
    "churn/drift": {"gold/churn_predictions"},
    "churn/request_drift": {"silver/churn_requests", "churn/champion"},
    "churn/outcomes": {"gold/churn_predictions", "silver/churn_examples"},
}
OF_FRAUD = {  # a model of events: its own table of features stands between what happens and the rest of its life
    "silver/card_transactions": set(),
    "silver/fraud_features": {"silver/card_transactions"},
    "fraud/training_set": {"silver/fraud_features"},
    "gold/fraud_predictions": {"fraud/champion", "silver/fraud_features"},
    "fraud/outcomes": {"gold/fraud_predictions", "silver/card_transactions"},
}


def of_fraud(name: str) -> str:
    return name.replace("churn", "fraud")


TABLES = {"silver/active_customers", "silver/churn_examples", "silver/card_transactions"}
SAME = {name: parents for name, parents in LINEAGE.items() if name not in TABLES}
LINEAGE |= {of_fraud(name): {of_fraud(parent) for parent in parents} for name, parents in SAME.items()} | OF_FRAUD
CHECKS = {
    "churn/quantized_model": {
        "int8_keeps_the_ranking",
        "int8_keeps_the_probabilities",
        "int8_keeps_the_decisions",
        "int8_is_real",
        "int8_is_smaller",
        "int8_is_faster",
    },
    "churn/champion": {
        "reaches_the_least_auc",
        "keeps_up_with_the_champion",
        "is_calibrated",
        "beats_the_champion",
    },
    "gold/churn_predictions": {
        "every_entity_is_scored_once",
        "few_rows_are_rejected",
        "scores_are_probabilities",
        "scores_resemble_last_night",
        "is_ready_in_time",
    },
    "churn/online_features": {"every_entity_is_online"},
    "churn/drift": {"features_resemble_the_training_set", "scores_resemble_the_training_set"},
    "churn/request_drift": {"requests_resemble_the_training_set"},
    "churn/outcomes": {"realised_ranking_is_reached", "realised_probabilities_are_calibrated"},
    "churn/api": {"api_agrees_with_gold", "api_answers"},
    "silver/churn_requests": {"every_logged_line_is_read"},
}
CHECKS |= {of_fraud(name): checks for name, checks in CHECKS.items()}
KINDS = {
    "silver/active_customers": {"iceberg"},
    "silver/churn_examples": {"iceberg"},
    "churn/training_set": {"iceberg"},
    "churn/trained_model": {"onnx", "scikitlearn", "mlflow"},
    "churn/quantized_model": {"onnx", "onnxruntime"},
    "churn/champion": {"mlflow", "onnx"},
    "gold/churn_predictions": {"iceberg", "onnx"},
    "churn/online_features": {"lmdb"},
    "churn/bento": {"bentoml", "docker"},
    "churn/costs": {"python"},
    "churn/drift": {"iceberg", "onnx"},
    "churn/request_drift": {"iceberg", "onnx"},
    "churn/outcomes": {"iceberg"},
    "churn/api": {"bentoml"},
    "silver/churn_requests": {"iceberg"},
}
KINDS |= {of_fraud(name): kinds for name, kinds in KINDS.items() if name not in TABLES}
KINDS |= {"silver/card_transactions": {"iceberg"}, "silver/fraud_features": {"iceberg", "duckdb"}}
BLOCKING = {"churn/champion", "gold/churn_predictions", "churn/online_features"}
BLOCKING |= set(map(of_fraud, BLOCKING))
WARNINGS = {"beats_the_champion", "is_ready_in_time"}  # on assets whose other checks block


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return assemble(Settings())


@pytest.fixture(scope="module")
def graph(definitions):
    return definitions.resolve_asset_graph()


def node(graph, name: str):
    return graph.get(dg.AssetKey(name.split("/")))


def test_the_lineage_is_the_designed_one(graph):
    keys = graph.get_all_asset_keys()
    found = {key.to_user_string(): {p.to_user_string() for p in graph.get(key).parent_keys} for key in keys}
    assert found == LINEAGE


def test_the_definitions_are_loadable(definitions):
    dg.Definitions.validate_loadable(definitions)


@pytest.mark.parametrize("name", LINEAGE)
def test_every_asset_says_what_it_is(graph, name):
    asset = node(graph, name)
    assert asset.description
    assert asset.kinds == KINDS[name]


@pytest.mark.parametrize("name", LINEAGE)
def test_a_models_assets_are_its_group_and_tables_stand_apart(graph, name):
    asset, model = node(graph, name), "fraud" if "fraud" in name else "churn"
    assert asset.group_name == ("silver" if name in TABLES else model)
    team = {"churn": "team:growth", "fraud": "team:payments"}[model]
    assert asset.owners == ([] if name in TABLES else [team])


def test_tables_and_the_api_are_external_and_the_rest_is_made(graph):
    external = {key.to_user_string() for key in graph.external_asset_keys}
    assert external == {*TABLES, "churn/api", "fraud/api"}


def test_checks_say_what_must_hold(graph):
    found: dict[str, set[str]] = {}
    for key in graph.asset_check_keys:
        found.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
        assert graph.get(key).description
    assert found == CHECKS


def test_gates_and_audits_block_and_the_others_warn(graph):
    for key in graph.asset_check_keys:
        blocks = key.asset_key.to_user_string() in BLOCKING and key.name not in WARNINGS
        assert graph.get(key).blocking == blocks, key


def test_predictions_and_online_features_have_one_writer_at_a_time(definitions):
    pools = {a.key.to_user_string(): a.op.pool for a in definitions.assets if isinstance(a, dg.AssetsDefinition)}
    assert pools["gold/churn_predictions"] == "gold_churn_predictions"
    assert pools["churn/online_features"] == "churn_online_features"


def test_predictions_are_daily_from_the_declared_day_up_to_today(home):
    declare(home, TINY, predictions={"first_day": "2026-03-29", "timezone": "Europe/Berlin"})
    partitions = node(assemble(home).resolve_asset_graph(), "gold/tiny_predictions").partitions_def
    noon = datetime(2026, 11, 21, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    keys = partitions.get_partition_keys(noon)
    assert (keys[0], keys[-1], len(keys)) == ("2026-03-29", "2026-11-21", 238)
    after_midnight = noon.replace(day=22, hour=0, minute=1)
    assert partitions.get_partition_keys(after_midnight)[-1] == "2026-11-22"


def test_readers_are_promised_their_table_by_the_declared_hour(home):
    declare(home, TINY, predictions={"score_at": "01:30", "ready_by": "06:15", "timezone": "Europe/Berlin"})
    graph = assemble(home).resolve_asset_graph()
    for asset in ("gold/tiny_predictions", "tiny/online_features"):
        policy = node(graph, asset).freshness_policy
        assert policy.deadline_cron == "15 6 * * *"
        assert policy.timezone == "Europe/Berlin"
        assert policy.lower_bound_delta.total_seconds() == (4 * 60 + 45 + 60) * 60  # and the hour that autumn adds


# --- many models --------------------------------------------------------------------------------------------------


def test_a_second_file_is_a_second_model(home):
    declare(home, yaml.safe_load((ROOT / "models" / "churn.yaml").read_text()))
    declare(home, TINY)
    definitions = assemble(home)
    graph = definitions.resolve_asset_graph()
    stages = ("training_set", "trained_model", "quantized_model", "champion", "online_features", "bento", "api")
    for name in [f"tiny/{stage}" for stage in stages] + ["gold/tiny_predictions", "silver/tiny_examples"]:
        assert node(graph, name).description
    tiny_checks = {key.name for key in graph.asset_check_keys if key.asset_key.path[-1].startswith(("tiny", "api"))}
    assert "api_agrees_with_gold" in tiny_checks
    assert definitions.resolve_job_def("tiny_training")
    assert definitions.resolve_job_def("tiny_nightly")
    assert definitions.resolve_schedule_def("tiny_training_schedule")
    assert definitions.resolve_sensor_def("tiny_api_observer")
    ours = {name for name in LINEAGE if "fraud" not in name and name != "silver/card_transactions"}
    assert ours <= {key.to_user_string() for key in graph.get_all_asset_keys()}


def test_models_that_share_tables_share_their_assets(home):
    declare(home, TINY)
    declare(home, TINY, name="tiny_too", examples={"label": "stayed"})
    graph = assemble(home).resolve_asset_graph()
    tables = [k.to_user_string() for k in graph.get_all_asset_keys() if graph.get(k).group_name == "silver"]
    assert sorted(tables) == ["silver/active_customers", "silver/tiny_examples"]
    children = {key.to_user_string() for key in node(graph, "silver/active_customers").child_keys}
    assert children == {"gold/tiny_predictions", "gold/tiny_too_predictions"}


def test_twenty_models_load(home):
    for number in range(20):
        declare(home, TINY, name=f"model_{number:02d}")
    definitions = assemble(home)
    dg.Definitions.validate_loadable(definitions)
    assert len({key for key in definitions.resolve_asset_graph().get_all_asset_keys() if key.path[-1] == "api"}) == 20


def test_a_model_without_an_owner_loads(home):
    declare(home, merged(TINY, {"owner": None}))
    assert node(assemble(home).resolve_asset_graph(), "tiny/champion").owners == []


def test_no_declaration_at_all_loads(home):
    dg.Definitions.validate_loadable(assemble(home))
