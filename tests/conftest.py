"""Homes on temporary folders: an empty one for each test, and one in which a model has lived, for all of them."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from assets.resources import Backends
from backends.settings import Settings
from bento.building.build import find_bento
from tests.lives import TODAY, Lived, declare, populate, reason_of, run_job, silent_instance, small_churn
from tests.serving import free_port, running

OF_ONE_LIFE = ("tests/assets/test_life.py", "tests/assets/test_parity.py")  # whose tests read what `lived` has made
FOREIGN = ("TANDEM_", "DAGSTER_", "BENTOML_", "MLFLOW_", "PYICEBERG_", "AWS_")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process have all files that read the same life, else two processes would live it."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByLife(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return OF_ONE_LIFE[0] if file in OF_ONE_LIFE else file

    return ByLife(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files, so that none of them runs alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported: to look through it again and again is a sixth of all CPU time."""
    gc.freeze()
    gc.set_threshold(2_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> Iterator[None]:
    """Nothing of the developer's own environment is reached."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(FOREIGN)]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _migrations_are_read_once() -> Iterator[None]:
    """Dagster and MLflow read a hundred files of migrations with each storage that they open; they stay the same."""
    read = ScriptDirectory.from_config
    folders: dict[str | None, ScriptDirectory] = {}

    def remembered(config: Config) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        if place not in folders:
            folders[place] = read(config)
        return folders[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", remembered)
        yield


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory) -> Path:
    """MLflow's database without any run: making one takes seconds, copying it none."""
    settings = Settings(home=tmp_path_factory.mktemp("mlflow"))
    assert Backends(settings).registry().champion_or_none("churn") is None
    return settings.home / "mlflow.db"


def _home(folder: Path, empty_mlflow: Path) -> Settings:
    """Return settings of an empty home, with an empty folder of declarations; nothing answers at its API's address."""
    settings = Settings(home=folder / "home", models=folder / "models", threads=2, api_url=_nobody())
    settings.home.mkdir()
    settings.models.mkdir()
    shutil.copyfile(empty_mlflow, settings.home / "mlflow.db")
    return settings


def _nobody() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def home(tmp_path, empty_mlflow) -> Settings:
    """Settings of an empty home of the test's own."""
    return _home(tmp_path, empty_mlflow)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with silent_instance() as instance:
        yield instance


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory, empty_mlflow) -> Settings:
    """Settings of an empty home for all tests of a module, of which each leaves the tables as they were."""
    return _home(tmp_path_factory.mktemp("shared"), empty_mlflow)


@pytest.fixture(scope="module")
def shared_instance() -> Iterator[dg.DagsterInstance]:
    with silent_instance() as instance:
        yield instance


@pytest.fixture(scope="session")
def lived(tmp_path_factory, empty_mlflow) -> Iterator[Lived]:
    """One life of churn: trained, promoted, built, served, scored, loaded and proved. Tests only read it."""
    folder, port = tmp_path_factory.mktemp("lived"), free_port()
    settings = Settings(home=folder / "home", models=folder / "models", threads=2, api_url=f"http://127.0.0.1:{port}")
    settings.home.mkdir()
    shutil.copyfile(empty_mlflow, settings.home / "mlflow.db")
    declaration = declare(settings, small_churn())
    populate(settings)
    with silent_instance() as instance:
        training = run_job(settings, instance, "churn_training")
        assert training.success, reason_of(training)
        with running(find_bento(settings.bentoml_home, "churn"), settings, port):
            night = run_job(settings, instance, "churn_nightly", TODAY)
            requests = run_job(settings, instance, "churn_requests")
            watch = run_job(settings, instance, "churn_watch", TODAY)
            yield Lived(settings, declaration, instance, training, night, requests, watch)
