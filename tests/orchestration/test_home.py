"""The folder that everything is made in."""

import hashlib
import os
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickStatus

from backends.settings import QUIET, ROOT
from models.errors import HomeError
from orchestration.home import is_as_shipped, prepare
from orchestration.launcher import WatchedRunLauncher
from orchestration.processes import addresses
from tests.lives import TINY, changed, declare

FIRST = b"""\
# Copied into DAGSTER_HOME, where it may be changed; SQLite in that folder keeps runs, events and schedules.
telemetry: {enabled: false}
nux: {enabled: false}
run_retries: {enabled: true, max_retries: 1, retry_on_asset_or_op_failure: false}
concurrency:
  runs: {max_concurrent_runs: 2}
  pools: {default_limit: 1, granularity: op} # one writer per table and store
"""


@pytest.fixture(autouse=True)
def _environment_is_restored(monkeypatch):
    for name in ("TANDEM_HOME", "DAGSTER_HOME", "BENTOML_HOME", "DAGSTER_PG_URL", *QUIET):
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


# --- Dagster's configuration ----------------------------------------------------------------------------------------


def config_of(settings) -> Path:
    return settings.dagster_home / "dagster.yaml"


def test_dagsters_configuration_is_the_shipped_one_with_a_seal(home):
    prepare(home)
    seal, _, rest = config_of(home).read_text().partition("\n")
    assert seal.startswith("# As shipped: ")
    assert rest == (ROOT / "deploy" / "dagster.yaml").read_text()
    assert is_as_shipped(config_of(home).read_text())
    assert [path.name for path in home.dagster_home.iterdir()] == ["dagster.yaml"]


def test_a_changed_configuration_is_never_touched(home):
    prepare(home)
    changed = config_of(home).read_text().replace("max_concurrent_runs: 2", "max_concurrent_runs: 9")
    for text in (changed, "telemetry: {enabled: false}\n", ""):
        config_of(home).write_text(text)
        prepare(home)
        assert config_of(home).read_text() == text


def test_a_configuration_that_nobody_changed_is_brought_up_to_date(home, monkeypatch):
    config_of(home).parent.mkdir()
    config_of(home).write_bytes(FIRST)  # a home of the first release
    prepare(home)
    assert "run_monitoring" in config_of(home).read_text()
    config_of(home).write_text(_sealed("telemetry: {enabled: false}\n"))  # a home of some release in between
    prepare(home)
    assert "run_monitoring" in config_of(home).read_text()


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
        assert isinstance(instance.run_launcher, WatchedRunLauncher)
        assert instance.run_monitoring_enabled
        assert (instance.run_retries_max_retries, instance.run_retries_retry_on_asset_or_op_failure) == (2, False)
        assert instance.get_tick_retention_settings(InstigatorType.SENSOR)[TickStatus.SKIPPED] == 3


def test_what_an_old_home_knows_is_still_known(home):
    """A home of the first release: SQLite, the configuration of then, and a run."""
    config_of(home).parent.mkdir()
    config_of(home).write_bytes(FIRST)
    with dg.DagsterInstance.from_config(str(home.dagster_home)) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("old"))
    prepare(home)
    with dg.DagsterInstance.from_config(str(home.dagster_home)) as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey("old")) is not None


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_postgres_is_one_variable_and_its_password_stands_in_no_file(home, scheme):
    settings = changed(home, dagster_storage=f"{scheme}://tandem:secret@db.example:5432/dagster")
    environment = prepare(settings)
    assert environment["DAGSTER_PG_URL"] == "postgresql+psycopg2://tandem:secret@db.example:5432/dagster"
    text = config_of(home).read_text()
    assert yaml.safe_load(text)["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_PG_URL"}}}
    assert "secret" not in text
    assert is_as_shipped(text)
    prepare(home)  # back to SQLite
    assert "storage" not in yaml.safe_load(config_of(home).read_text())


@pytest.mark.parametrize("url", ["mysql://tandem:secret@db.example/dagster", "secret@db.example", "sqlite:///secret"])
def test_another_database_is_refused_without_telling_its_password(home, url):
    with pytest.raises(HomeError, match=r"which is no PostgreSQL. Write postgresql://") as caught:
        prepare(changed(home, dagster_storage=url))
    assert "tandem:secret" not in str(caught.value)
    assert not config_of(home).exists()


def test_a_changed_configuration_that_contradicts_the_settings_is_refused_with_the_remedy(home):
    postgres = changed(home, dagster_storage="postgresql://tandem:secret@db.example/dagster")
    prepare(home)
    config_of(home).write_text("telemetry: {enabled: false}\n")
    with pytest.raises(HomeError, match=r"dagster.yaml was changed and does not use it. Add the line `storage: "):
        prepare(postgres)
    config_of(home).write_text("storage: {postgres: {postgres_url: {env: DAGSTER_PG_URL}}}\n")
    prepare(postgres)
    with pytest.raises(HomeError, match="keeps runs in PostgreSQL, but TANDEM_DAGSTER_STORAGE is not set"):
        prepare(home)
    config_of(home).write_text("storage: [")
    with pytest.raises(HomeError, match="was changed and cannot be read"):
        prepare(home)


def _sealed(text: str) -> str:
    return f"# As shipped: {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


# --- the programs ---------------------------------------------------------------------------------------------------


def test_addresses_of_everything_are_listed(home):
    settings = changed(home, api_url="http://{model}.example:{port}")
    declare(settings, TINY, api={"port": 3011})
    assert addresses(settings) == {
        "Dagster": "http://127.0.0.1:3000",
        "MLflow": "http://127.0.0.1:5000",
        "tiny API": "http://tiny.example:3011",
    }
