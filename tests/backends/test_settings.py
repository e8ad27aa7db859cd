"""Settings: every default lives in the home, every variable replaces one thing, and children keep quiet too."""

import json
import os
import platform
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from backends.settings import QUIET, ROOT, Settings, quiet, without_secrets

PLACES = ["catalog", "lake", "mlflow", "mlflow_artifacts", "online", "dagster_home", "bentoml_home"]


@pytest.mark.parametrize("place", PLACES)
def test_everything_that_is_embedded_lives_in_the_home(tmp_path, place):
    address = str(getattr(Settings(home=tmp_path), place))
    assert address.startswith((str(tmp_path), f"sqlite:///{tmp_path}/", f"file://{tmp_path}/", f"lmdb://{tmp_path}/"))


def test_the_defaults_are_the_embedded_engines():
    settings = Settings()
    home = ROOT / ".tandem"
    assert (settings.home, settings.models) == (home, ROOT / "models")
    assert settings.catalog == f"sqlite:///{home}/catalog.db"
    assert settings.lake == f"file://{home}/lake"
    assert settings.mlflow == f"sqlite:///{home}/mlflow.db"
    assert settings.mlflow_artifacts == f"file://{home}/mlflow"
    assert settings.online == f"lmdb://{home}/online"
    assert settings.engine == "local"
    assert settings.threads == os.cpu_count()


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("TANDEM_CATALOG_URI", "postgresql+psycopg://lake/catalog", lambda s: s.catalog),
        ("TANDEM_WAREHOUSE", "s3://lake/warehouse", lambda s: s.lake),
        ("TANDEM_MLFLOW_URI", "http://mlflow:5000", lambda s: s.mlflow),
        ("TANDEM_MLFLOW_UI", "https://mlflow.example.com", lambda s: s.mlflow_ui),
        ("TANDEM_ONLINE_STORE", "redis://redis:6379/0", lambda s: s.online),
        ("TANDEM_THREADS", "5", lambda s: str(s.threads)),
        ("TANDEM_ENGINE", "spark", lambda s: s.engine),
        ("TANDEM_SPARK_MASTER", "spark://spark:7077", lambda s: s.spark_master),
        ("TANDEM_SPARK_PYTHON", "/opt/tandem/bin/python", lambda s: s.spark_python),
        ("TANDEM_SPARK_WAIT_SECONDS", "900", lambda s: str(s.spark_wait_seconds)),
        ("TANDEM_BASE_IMAGE", "registry/python:3.11", lambda s: s.base_image),
        ("TANDEM_MODEL_FOLDER", "/srv/model", lambda s: str(s.model_folder)),
        ("TANDEM_API_URL", "http://{model}:80", lambda s: s.api_url),
    ],
)
def test_a_variable_replaces_one_thing(monkeypatch, variable, value, read):
    embedded = read(Settings())
    monkeypatch.setenv(variable, value)
    assert read(Settings()) == value != embedded


def test_an_empty_variable_means_the_default(monkeypatch):
    expected = Settings().catalog
    monkeypatch.setenv("TANDEM_CATALOG_URI", "")
    assert Settings().catalog == expected


def test_an_empty_variable_means_the_default_of_any_kind(monkeypatch):
    expected = Settings()
    for variable in ("TANDEM_HOME", "TANDEM_CATALOG_PROPERTIES", "TANDEM_THREADS"):
        monkeypatch.setenv(variable, "")
    assert Settings() == expected


def test_properties_of_the_catalog_are_json(monkeypatch):
    told = {"s3.endpoint": "http://minio:9000", "ssl": {"cabundle": "/ca.pem"}}
    monkeypatch.setenv("TANDEM_CATALOG_PROPERTIES", json.dumps(told))
    assert Settings().catalog_properties == told


def test_properties_of_spark_are_texts_as_spark_writes_them(monkeypatch):
    told = {"spark.executor.memory": "4g", "spark.cores.max": 8, "spark.speculation": True}
    monkeypatch.setenv("TANDEM_SPARK_PROPERTIES", json.dumps(told))
    written = {"spark.executor.memory": "4g", "spark.cores.max": "8", "spark.speculation": "true"}
    assert Settings().spark_properties == written


def test_a_property_that_is_none_of_sparks_is_refused_unseen(monkeypatch):
    monkeypatch.setenv("TANDEM_SPARK_PROPERTIES", '{"executor.memory": "secret1"}')
    with pytest.raises(TypeError, match=r"TANDEM_SPARK_PROPERTIES has executor\.memory") as caught:
        Settings()
    assert "secret1" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("wrong", ['{"token": "secret1"', "secret1", '"secret1"', '["secret1"]'])
@pytest.mark.parametrize("name", ["catalog_properties", "spark_properties"])
def test_properties_that_are_no_json_object_are_refused_unseen(monkeypatch, name, wrong):
    monkeypatch.setenv(f"TANDEM_{name.upper()}", wrong)
    with pytest.raises((SettingsError, TypeError), match=rf"(?i){name}") as caught:
        Settings()
    assert "secret1" not in "".join(traceback.format_exception(caught.value))


def test_an_mlflow_server_decides_itself_where_its_files_are(monkeypatch):
    monkeypatch.setenv("TANDEM_MLFLOW_URI", "http://mlflow:5000")
    assert Settings().mlflow_artifacts == ""


def test_paths_are_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("TANDEM_HOME", "there")
    monkeypatch.setenv("TANDEM_MODELS", "~/models")
    monkeypatch.setenv("TANDEM_MODEL_FOLDER", "../model")
    settings = Settings()
    assert settings.home == tmp_path / "there"
    assert settings.models == tmp_path / "me" / "models"
    assert settings.model_folder.is_absolute()
    assert settings.catalog == f"sqlite:///{tmp_path}/there/catalog.db"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TANDEM_THREADS", "0"),
        ("TANDEM_THREADS", "many"),
        ("TANDEM_ENGINE", "ray"),
        ("TANDEM_SPARK_WAIT_SECONDS", "0"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError, match=variable.removeprefix("TANDEM_").lower()):
        Settings()


def test_a_variable_of_somebody_else_is_no_matter(monkeypatch):
    monkeypatch.setenv("TANDEM_BICYCLE", "red")
    assert not hasattr(Settings(), "bicycle")


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().threads = 3


def test_the_address_of_an_api_is_filled_in(tmp_path):
    assert Settings(home=tmp_path).url_of_api("churn", 3001) == "http://127.0.0.1:3001"
    assert Settings(api_url="https://{model}.example.com").url_of_api("churn", 3001) == "https://churn.example.com"


def test_quiet_reaches_this_process_and_its_children(monkeypatch):
    for name in QUIET:
        monkeypatch.setenv(name, "loud")
    quiet()
    program = "import os, sys; print([os.environ[name] for name in sys.argv[1:]])"
    child = subprocess.run([sys.executable, "-c", program, *QUIET], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == str(list(QUIET.values()))


HEAPS_OF_THREADS = """
import ctypes, os, threading
from backends.settings import thrifty
thrifty()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
gate = threading.Barrier(12)
def work():
    gate.wait()
    libc.malloc(1000)
threads = [threading.Thread(target=work) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps of threads are glibc's")
@pytest.mark.parametrize(("said", "heaps"), [("", 2), ("5", 5)])
def test_threads_share_two_heaps_unless_the_environment_says_how_many(said: str, heaps: int):
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    environment |= {"MALLOC_ARENA_MAX": said} if said else {}
    command = [sys.executable, "-c", HEAPS_OF_THREADS]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.count("<heap nr=") == heaps


def test_reading_the_settings_makes_nothing(tmp_path):
    settings = Settings(home=tmp_path / "home")
    assert [getattr(settings, place) for place in PLACES]
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("redis://user:secret@host:6379/0", "redis://host:6379/0"),
        ("postgresql+psycopg2://u:p%40ss@db/lake?sslpassword=x", "postgresql+psycopg2://db/lake"),
        ("rediss://:secret@host", "rediss://host"),
        ("postgresql://u:p@ss/word@db/lake", "postgresql://db/lake"),  # what should have been encoded
        ("http://host:8181/tables@v1", "http://host:8181/tables@v1"),
        ("sqlite:////home/lake.db", "sqlite:////home/lake.db"),  # no host: nothing to hide
        ("lmdb:///data/online", "lmdb:///data/online"),
    ],
)
def test_addresses_are_shown_without_secrets(uri, shown):
    assert without_secrets(uri) == shown


def test_settings_do_not_show_addresses_that_may_hold_secrets():
    settings = Settings(
        catalog_uri="sql://u:secret1@h",
        catalog_properties={"token": "secret4"},
        mlflow_uri="http://u:secret2@h",
        online_store="redis://:secret3@h",
    )
    assert "secret" not in repr(settings)
