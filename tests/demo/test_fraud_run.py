"""`tandem demo --model fraud` as a person runs it, on few swipes and with a small network."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml

from backends.settings import ROOT, Settings
from demo.fraud_report import BEST, BLIND_TREES, CHAMPION, TREES
from tests.lives import SMALL, declare, merged

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory, empty_mlflow) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("fraud_demo")
    settings = Settings(home=folder / "home", models=folder / "models")
    settings.home.mkdir()
    shutil.copyfile(empty_mlflow, settings.home / "mlflow.db")
    # Two months, so that there is at least one whole month of test rows on any day that the tests are run.
    raw = merged(yaml.safe_load((ROOT / "models" / "fraud.yaml").read_text()), SMALL)
    declare(settings, raw, examples={"split": {"test_months": 2}})
    environment = {**os.environ, "TANDEM_HOME": str(settings.home), "TANDEM_MODELS": str(settings.models)}
    command = [sys.executable, "-m", "orchestration.cli", "demo", "--model", "fraud", "--rows", "40000"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def figures(done: subprocess.CompletedProcess[str], row: str) -> list[float]:
    (line,) = (line for line in done.stdout.splitlines() if line.strip("│ ").startswith(f"{row}  "))
    return [float(word.rstrip("%").replace(",", "")) for word in line.strip("│ ").removeprefix(row).split()]


def test_it_ends_well_and_tells_what_it_did(done):
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("40,000 card swipes", "histories", "gold.fraud_predictions", "a false alarm 4", "models/fraud.yaml"):
        assert said in done.stdout


def test_nobody_passes_the_ceiling(done):
    auc, pr_auc = ({row: figures(done, row)[i] for row in (CHAMPION, TREES, BLIND_TREES, BEST)} for i in (0, 1))
    assert max(auc, key=lambda row: auc[row]) == BEST
    assert max(pr_auc, key=lambda row: pr_auc[row]) == BEST
    assert figures(done, BEST)[4] > figures(done, CHAMPION)[4]  # cost saved
