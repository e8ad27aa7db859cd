"""`tandem demo` as a person runs it, on few rows: it ends well, tells what it found, and leaves nothing running."""

import os
import shutil
import subprocess
import sys

import httpx
import pytest

from backends.settings import ROOT, Settings
from tests.lives import declare, small_churn
from tests.serving import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def done(folder, port, empty_mlflow) -> subprocess.CompletedProcess[str]:
    """Run the demo once, with a small network and a port of its own."""
    settings = Settings(home=folder / "home", models=folder / "models")
    settings.home.mkdir()
    shutil.copyfile(empty_mlflow, settings.home / "mlflow.db")
    declare(settings, small_churn(), api={"port": port})
    environment = {**os.environ, "TANDEM_HOME": str(settings.home), "TANDEM_MODELS": str(settings.models)}
    command = [sys.executable, "-m", "orchestration.cli", "demo", "--rows", "5000", "--examples", "8000"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_it_ends_well(done):
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "said",
    [
        "AUC",
        "network, int8",
        "network, float32",
        "boosted trees",
        "best possible",
        "✓ parity of 6,000 answers: every answer is the same float32 as in Gold",
        "5,000 customers",
        "rows/s",
        "gold.churn_predictions",
        "in the Gold table",
        "from the API",
        "make dev",
        "make serve",
    ],
)
def test_the_summary_tells_it(done, said):
    assert said in done.stdout


def test_the_answer_stands_beside_the_same_gold_row(done):
    shown = {}
    for line in done.stdout.splitlines():
        for lane in ("in the Gold table", "from the API"):
            if lane in line:
                shown[lane] = line.replace(lane, "").strip("│ ").split()
    assert len(shown["from the API"]) == 4  # probability, decision, version, sha256
    assert shown["from the API"] == shown["in the Gold table"]


def test_everything_is_in_the_home(done, folder):
    made = {path.name for path in (folder / "home").iterdir()}
    assert {"bentoml", "catalog.db", "dagster", "lake", "manifests", "mlflow", "mlflow.db", "online"} <= made
    assert {path.name for path in folder.iterdir()} == {"home", "models"}


def test_nothing_is_left_running(done, port, folder):
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/readyz")
    shutil.rmtree(folder / "home")
    assert not (folder / "home").exists()
