"""`tandem new` and `tandem run` as a person types them: from a messy file to nightly scores and an API."""

import os
import shutil
import subprocess
import sys
import time

import dagster as dg
import pytest
import yaml
from typer.testing import CliRunner

from backends.lakehouse.catalog import Lakehouse
from backends.settings import ROOT, Settings
from models.errors import OnboardingError
from orchestration.cli import app
from orchestration.whole_life import words_since
from tests.lives import SMALL, merged
from tests.onboarding.tables import Table, changed, customers, with_column, write_csv
from tests.serving import free_port

pytestmark = pytest.mark.slow

NAMES = {"customer_id": "Kunden Nr.", "age": "Größe in cm", "spend": "Umsatz, €", "plan": 'A "x" & <y>', "left": "weg?"}


def messy() -> Table:
    """Return a table with odd names, decimal commas, gaps, yes in four spellings, and rows without a label."""
    table = changed(customers(1500), "spend", lambda value: f"{value:.2f}".replace(".", ",") if value > 10 else "-")
    table = with_column(table, "emoji 😀'#", lambda n, _: ["ja", "nein", "JA", "Nein", "?"][n % 5])
    table = with_column(table, "#hash 100%", lambda n, _: n * 7 % 13)
    table["left"] = [None if n % 10 == 0 else value for n, value in enumerate(table["left"])]
    return {NAMES.get(name, name): values for name, values in table.items()}


@pytest.fixture(scope="module")
def settings(tmp_path_factory, empty_mlflow) -> Settings:
    folder, port = tmp_path_factory.mktemp("life"), free_port()
    settings = Settings(home=folder / "home", models=folder / "models", api_url=f"http://127.0.0.1:{port}")
    settings.home.mkdir()
    shutil.copyfile(empty_mlflow, settings.home / "mlflow.db")
    return settings


def variables(settings: Settings) -> dict[str, str]:
    home = {"TANDEM_HOME": str(settings.home), "TANDEM_MODELS": str(settings.models)}
    return home | {"TANDEM_API_URL": settings.api_url}


def lower_the_budget(settings: Settings, **changes: object) -> None:
    """Let the training take seconds, and the API answer where the test looks."""
    path = settings.models / "wechsel.yaml"
    port = int(settings.api_url.rpartition(":")[2])
    small = {key: SMALL[key] for key in ("network", "training")} | {"api": {"port": port}}
    raw = merged(yaml.safe_load(path.read_text()), merged(small, changes))
    path.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))


@pytest.fixture(scope="module")
def made(settings) -> str:
    """What `tandem new` prints."""
    source = write_csv(settings.home / "kunden.csv", messy(), ";", "utf-8-sig")
    names = ("--key", NAMES["customer_id"], "--label", NAMES["left"])
    done = CliRunner().invoke(app, ["new", "wechsel", "--from", str(source), *names], env=variables(settings))
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def ran(settings, made) -> subprocess.CompletedProcess[str]:
    lower_the_budget(settings)
    command = [sys.executable, "-m", "orchestration.cli", "run", "wechsel"]
    environment = os.environ | variables(settings)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_new_says_what_it_found_and_what_comes_next(made):
    for said in (
        "UTF-8 with BOM, separated by semicolon",
        "1,500 rows",
        "'yes' means yes",
        "'Kunden Nr.' is 'Kunden Nr_'",
    ):
        assert said in made
    assert made.rstrip().endswith("tandem run wechsel")


def test_run_opens_with_what_a_person_wants_to_know(ran):
    assert ran.returncode == 0, ran.stdout + ran.stderr
    shown = " ".join(ran.stdout.replace("│", " ").split())
    for said in (
        "test rows with the highest scores",
        "weg? = yes; of",
        "At the threshold",
        "boosted trees (AUC",
        "percentage points of what happens",
        "What matters most",
        "✓ parity of",
        "every answer is the same float32 as in Gold",
        "tandem serve wechsel",
    ):
        assert said in shown
    assert shown.index("highest scores") < shown.index("network, float32")


def test_every_row_of_the_file_has_a_score_labelled_or_not(settings, ran):
    assert ran.returncode == 0
    with Lakehouse.open(settings) as lake:
        gold = lake.read("gold.wechsel_predictions")
    assert sorted(gold["Kunden Nr_"].to_pylist()) == sorted(messy()["Kunden Nr."])


def test_the_report_of_a_model_that_was_not_promoted_is_shown_but_no_older_one(instance):
    key, words = dg.AssetKey(["wechsel", "trained_model"]), dg.MetadataValue.md("It ranks.\n\nWarning: a gate.")
    begun = time.time()
    assert words_since(instance, "wechsel", begun) == []
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"in_words": words}))
    assert words_since(instance, "wechsel", begun) == ["It ranks.", "Warning: a gate."]
    assert words_since(instance, "wechsel", time.time() + 1) == []


def test_what_cannot_be_is_refused(settings):
    arguments = ["new", "x", "--from", "nowhere.csv", "--key", "a", "--label", "b"]
    done = CliRunner().invoke(app, arguments, env=variables(settings))
    assert isinstance(done.exception, OnboardingError)
    assert "'nowhere.csv', which is no file and no table" in str(done.exception)
