"""The registry on a real MLflow: runs that can be read, versions that are exact bytes, and one champion."""

import hashlib
import json
import re
import socket
from pathlib import Path
from urllib.parse import urlparse

import pytest

from backends.registry import CHAMPION, Dataset, Registry
from backends.settings import Settings
from models.errors import ModelFileError, NoChampionError, RegistryError
from models.scoring import sha256_of
from tests.tiny_model import tiny_contract, tiny_onnx

ARTIFACT = "model_int8"
FLOAT, INT8 = tiny_onnx(tiny_contract()), tiny_onnx(tiny_contract(precision="int8"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def registry(settings) -> Registry:
    return Registry.open(settings)


@pytest.fixture(scope="module")
def client(settings, registry):
    """Return MLflow's own client: what anybody else sees."""
    from mlflow import MlflowClient

    return MlflowClient(settings.mlflow, settings.mlflow)


@pytest.fixture
def model(request) -> str:
    """Return a model's name of the test's own, so that the tests can share one MLflow."""
    return "m" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


def trained(registry: Registry, model: str, onnx: bytes = INT8) -> str:
    with registry.run(model, "train", {}) as run_id:
        registry.log_onnx(run_id, ARTIFACT, onnx)
    return run_id


def promoted(registry: Registry, model: str, onnx: bytes = INT8, **tags: str):
    return registry.promote(model, trained(registry, model, onnx), ARTIFACT, sha256_of(onnx), tags)


def artifact_on_disk(client, run_id: str) -> Path:
    return Path(urlparse(client.get_run(run_id).info.artifact_uri).path) / ARTIFACT / "model.onnx"


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_has_its_name_its_tags_and_ends(registry, client, model):
    with registry.run(model, "train", {"dagster_run_id": "abc"}) as run_id:
        assert client.get_run(run_id).info.status == "RUNNING"
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "train"
    assert run.data.tags["dagster_run_id"] == "abc"
    assert client.get_experiment(run.info.experiment_id).name == model
    assert registry.url(run_id) == f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{run_id}"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_run_whose_body_fails_ends_failed(registry, client, model, error):
    run_ids = []

    def fail() -> None:
        with registry.run(model, "train", {}) as run_id:
            run_ids.append(run_id)
            raise error

    with pytest.raises(error):
        fail()
    assert client.get_run(run_ids[0]).info.status == "FAILED"


def test_runs_of_one_model_share_an_experiment(registry, client, model):
    run_ids = [trained(registry, model), trained(registry, model)]
    assert len({client.get_run(run_id).info.experiment_id for run_id in run_ids}) == 1


def test_what_was_logged_can_be_read(registry, client, model):
    with registry.run(model, "train", {}) as run_id:
        registry.log_facts(run_id, {"hidden": (128, 32), "seed": 0}, {"auc": 0.8125, "rows": 5000})
        registry.log_curve(run_id, "loss", [0.9, 0.5, 0.25])
        registry.log_dataset(run_id, Dataset("silver.examples", "8170927402156543211", 4321))
        registry.log_pictures(run_id, {"roc.png": b"\x89PNG one", "reliability.png": b"\x89PNG two"})
    run = client.get_run(run_id)
    assert run.data.params == {"hidden": "(128, 32)", "seed": "0"}
    assert run.data.metrics == {"auc": 0.8125, "rows": 5000.0, "loss": 0.25}
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [(0, 0.9), (1, 0.5), (2, 0.25)]
    (dataset,) = [given.dataset for given in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest, dataset.source_type) == ("silver.examples", "8170927402156543211", "iceberg")
    assert json.loads(dataset.source) == {"table": "silver.examples", "snapshot_id": "8170927402156543211"}
    assert json.loads(dataset.profile) == {"num_rows": 4321}
    assert [file.path for file in client.list_artifacts(run_id, "pictures")] == [
        "pictures/reliability.png",
        "pictures/roc.png",
    ]


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_the_bytes_come_back_exactly(registry, model):
    run_id = trained(registry, model)
    assert registry.read_onnx(run_id, ARTIFACT, sha256_of(INT8)) == INT8


def test_the_embedded_registry_keeps_its_files_in_the_home(registry, client, settings, model):
    assert artifact_on_disk(client, trained(registry, model)).is_relative_to(settings.home)


def test_the_artifact_is_an_mlflow_model_of_flavour_onnx(registry, client, model):
    import mlflow.onnx
    from mlflow.models import Model

    version = promoted(registry, model)
    folder = artifact_on_disk(client, version.mlflow_run_id).parent
    assert Model.load(str(folder)).flavors["onnx"]["data"] == "model.onnx"
    assert mlflow.onnx.load_model(str(folder)).SerializeToString() == INT8


def test_a_registered_version_is_loadable_by_its_alias(registry, settings, model, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.mlflow)
    promoted(registry, model)
    assert mlflow.onnx.load_model(f"models:/{model}@{CHAMPION}").SerializeToString() == INT8


def test_bytes_that_were_changed_in_the_store_are_refused(registry, client, model):
    version = promoted(registry, model)
    path = artifact_on_disk(client, version.mlflow_run_id)
    path.write_bytes(INT8[:-1] + b"\0")
    with pytest.raises(ModelFileError, match=rf"{version.mlflow_run_id} has sha256 .* not {sha256_of(INT8)}.*restore"):
        registry.read_version(version)


def test_bytes_that_were_deleted_are_missed_by_name(registry, client, model):
    version = promoted(registry, model)
    artifact_on_disk(client, version.mlflow_run_id).unlink()
    with pytest.raises(RegistryError, match=f"{version.mlflow_run_id} has no file {ARTIFACT}/model.onnx"):
        registry.read_version(version)


def test_a_run_that_was_never_there_is_missed_by_name(registry):
    with pytest.raises(RegistryError, match="0123456789abcdef has no file"):
        registry.read_onnx("0123456789abcdef", ARTIFACT, "")


# --- the champion ---------------------------------------------------------------------------------------------------


def test_before_the_first_promotion_there_is_no_champion(registry, model):
    assert registry.champion_or_none(model) is None
    with pytest.raises(NoChampionError, match=rf"Model '{model}' has no champion\. Materialize {model}/champion"):
        registry.champion(model)


def test_a_registered_model_without_the_alias_has_no_champion(registry, client, model):
    client.create_registered_model(model)
    assert registry.champion_or_none(model) is None


def test_a_promotion_moves_the_alias_and_keeps_the_older_version(registry, client, model):
    first = promoted(registry, model, FLOAT, precision="float32")
    assert registry.champion(model) == first
    second = promoted(registry, model, INT8, precision="int8")
    assert registry.champion(model) == second == registry.champion_or_none(model)
    assert (first.version, second.version) == (1, 2)
    assert second.sha256 == sha256_of(INT8)
    assert second.tags == {"precision": "int8", "sha256": sha256_of(INT8), "artifact": ARTIFACT}
    assert client.get_model_version_by_alias(model, CHAMPION).version == 2
    assert registry.read_version(first) == FLOAT
    assert registry.read_version(second) == INT8


def test_the_alias_may_be_moved_back_by_hand(registry, client, model):
    first = promoted(registry, model, FLOAT)
    promoted(registry, model, INT8)
    client.set_registered_model_alias(model, CHAMPION, "1")
    assert registry.champion(model) == first
    assert registry.read_version(registry.champion(model)) == FLOAT


def test_promoting_the_same_bytes_twice_is_promoting_once(registry, client, model):
    first = promoted(registry, model, note="first")
    assert promoted(registry, model, note="second") == first
    assert len(client.search_model_versions(f"name = '{model}'")) == 1


def test_a_registered_version_is_served_to_nobody(registry, model):
    run_id = trained(registry, model)
    version = registry.register(model, run_id, ARTIFACT, sha256_of(INT8), {"precision": "int8"})
    assert registry.champion_or_none(model) is None
    assert registry.version(model, 1) == version
    assert registry.read_version(version) == INT8
    assert registry.register(model, trained(registry, model), ARTIFACT, sha256_of(INT8), {}) == version
    registry.move_alias(model, 1)
    assert registry.champion(model) == version


def test_versions_are_listed_newest_first_without_those_of_others(registry, client, model):
    promoted(registry, model, FLOAT)
    client.create_model_version(model, f"runs:/{trained(registry, model)}/{ARTIFACT}")
    promoted(registry, model, INT8)
    assert [version.version for version in registry.versions(model)] == [3, 1]
    assert registry.with_bytes(model, sha256_of(FLOAT)).version == 1
    assert registry.with_bytes(model, "f00") is None
    with pytest.raises(RegistryError, match=rf"Model '{model}' has no version 7\. There are: 3, 1\."):
        registry.version(model, 7)
    assert registry.versions("no_such_model") == []


def test_more_versions_than_fit_a_page_are_all_listed(registry, model, monkeypatch):
    monkeypatch.setattr("backends.registry._PAGE", 2)
    for seed in range(5):
        promoted(registry, model, tiny_onnx(tiny_contract(), seed))
    assert [version.version for version in registry.versions(model)] == [5, 4, 3, 2, 1]


def test_tags_of_versions_and_runs_are_replaced(registry, client, model):
    version = promoted(registry, model, verdict="tie")
    registry.tag_version(version, {"verdict": "rejected", "note": "new"})
    found = registry.version(model, 1)
    assert (found.tags["verdict"], found.tags["note"]) == ("rejected", "new")
    for verdict in ("tie", "better"):
        registry.tag_run(version.mlflow_run_id, {"verdict": verdict})
    assert client.get_run(version.mlflow_run_id).data.tags["verdict"] == "better"


@pytest.mark.parametrize("call", ["champion", "move_alias"])
def test_a_database_that_others_write_to_is_waited_for(settings, registry, model, call, monkeypatch):
    monkeypatch.setattr("mlflow.store.db.utils._logger.exception", lambda *_: None)
    version = promoted(registry, model)
    real, refused = registry._client._client, []

    def locked(*arguments):
        from mlflow.exceptions import MlflowException

        if len(refused) < 2:
            refused.append(arguments)
            raise MlflowException("(sqlite3.OperationalError) database is locked", 14)
        return getattr(real, name)(*arguments)

    name = {"champion": "get_model_version_by_alias", "move_alias": "set_registered_model_alias"}[call]
    monkeypatch.setattr(registry._client, "_client", type("Locked", (), {name: staticmethod(locked)})())
    getattr(registry, call)(model, *([1] if call == "move_alias" else []))
    monkeypatch.undo()
    assert len(refused) == 2
    assert registry.champion(model) == version


def test_two_models_do_not_meet(registry, model):
    one, other = f"{model}_one", f"{model}_other"
    promoted(registry, one, FLOAT)
    assert registry.champion_or_none(other) is None
    promoted(registry, other, INT8)
    assert (registry.champion(one).sha256, registry.champion(other).sha256) == (sha256_of(FLOAT), sha256_of(INT8))
    assert (registry.champion(one).version, registry.champion(other).version) == (1, 1)


def test_the_champion_outlives_the_process(registry, settings, model):
    version = promoted(registry, model)
    again = Registry.open(settings)
    assert again.champion(model) == version
    assert again.read_version(version) == INT8


def test_a_champion_that_somebody_else_registered_is_refused(registry, client, model):
    run_id = trained(registry, model)
    client.create_registered_model(model)
    client.create_model_version(model, f"runs:/{run_id}/{ARTIFACT}", run_id)
    client.set_registered_model_alias(model, CHAMPION, "1")
    with pytest.raises(RegistryError, match=rf"Version 1 of model '{model}' has no tag.*sha256"):
        registry.champion_or_none(model)


def test_a_registry_that_does_not_answer_is_not_one_without_a_champion(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    registry = Registry.open(Settings(home=tmp_path, mlflow_uri=uri))
    with pytest.raises(RegistryError, match=re.escape("cannot say which version of 'churn' is its champion")) as caught:
        registry.champion_or_none("churn")
    assert not isinstance(caught.value, NoChampionError)
