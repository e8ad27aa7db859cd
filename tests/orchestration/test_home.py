"""The folder that everything is made in."""

import os

import dagster as dg
import pytest
import yaml

from backends.settings import QUIET, ROOT
from orchestration.home import prepare
from orchestration.processes import addresses, api_command
from tests.lives import TINY, changed, declare


@pytest.fixture(autouse=True)
def _environment_is_restored(monkeypatch):
    for name in ("TANDEM_HOME", "DAGSTER_HOME", "BENTOML_HOME", *QUIET):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def test_every_tool_is_pointed_at_the_home_and_quiet(home):
    environment = prepare(home)
    folders = {name: environment[name] for name in ("TANDEM_HOME", "DAGSTER_HOME", "BENTOML_HOME")}
    assert folders == {
        "TANDEM_HOME": str(home.home),
        "DAGSTER_HOME": str(home.dagster_home),
        "BENTOML_HOME": str(home.bentoml_home),
    }
    assert QUIET.items() <= environment.items()
    assert environment.items() <= os.environ.items()
    assert home.dagster_home.is_dir()


def test_dagsters_configuration_is_written_once(home):
    prepare(home)
    config = home.dagster_home / "dagster.yaml"
    assert config.read_bytes() == (ROOT / "deploy" / "dagster.yaml").read_bytes()
    config.write_text("telemetry: {enabled: false}\n")
    prepare(home)
    assert config.read_text() == "telemetry: {enabled: false}\n"


def test_the_shipped_configuration_is_quiet_and_one_writer_at_a_time():
    config = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())
    assert config["telemetry"] == {"enabled": False}
    assert config["nux"] == {"enabled": False}
    assert config["concurrency"]["pools"]["default_limit"] == 1


def test_dagster_accepts_the_shipped_configuration(home):
    prepare(home)
    with dg.DagsterInstance.from_config(str(home.dagster_home)) as instance:
        assert instance.root_directory == str(home.dagster_home)
        assert instance.telemetry_enabled is False
        assert instance.global_op_concurrency_default_limit == 1


def test_addresses_of_everything_are_listed(home):
    settings = changed(home, api_url="http://{model}.example:{port}")
    declare(settings, TINY, api={"port": 3011})
    assert addresses(settings) == {
        "Dagster": "http://127.0.0.1:3000",
        "MLflow": "http://127.0.0.1:5000",
        "tiny API": "http://tiny.example:3011",
    }


def test_the_newest_bento_is_what_is_served(lived):
    command, environment = api_command(lived.settings, "churn", 4711)
    assert command[-1] == "4711"
    assert environment["TANDEM_ONLINE_STORE"] == lived.settings.online
    assert environment["TANDEM_MODEL_FOLDER"].startswith(str(lived.settings.bentoml_home / "bentos" / "churn"))
