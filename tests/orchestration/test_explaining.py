"""`tandem explain`: what stands in the Gold table, given features, a running service's answer, and what it refuses."""

import io
import json
from dataclasses import replace
from datetime import date

import pytest
from rich.console import Console
from typer.testing import CliRunner

from assets.resources import Backends
from backends.settings import Settings
from models.encoding import encode_rows
from models.errors import (
    ContractError,
    DeclarationError,
    EntityNotFoundError,
    NoChampionError,
    SnapshotNotFoundError,
    TandemError,
    ValueRejectedError,
)
from models.reasons import UNSEEN, Explainer
from models.scoring import Scorer
from orchestration.cli import app
from orchestration.explaining import explained, pictured
from tests.backends.nights import (
    FRIDAY,
    POPULATION,
    SATURDAY,
    customers,
    publish,
    published_rows,
    with_column,
    write_files,
)
from tests.lives import TINY, declare, promoted
from tests.tiny_model import tiny_contract, tiny_onnx_with_reference, tiny_rows

ONNX = tiny_onnx_with_reference(tiny_contract())
SCORER = Scorer(ONNX)
KEYS = 30
CHANGED = 3  # a customer whose row is another one on Saturday


@pytest.fixture(scope="module")
def home(tmp_path_factory, empty_mlflow) -> Settings:
    """A home with a champion and two published nights; the population has changed since."""
    folder = tmp_path_factory.mktemp("explained")
    settings = Settings(home=folder / "home", models=folder / "models", threads=2)
    settings.home.mkdir()
    (settings.home / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    declare(settings, TINY)
    declare(settings, TINY, name="nobody", predictions={"table": "gold.nobody"})
    version = promoted(settings, tiny_contract(), onnx=ONNX).version
    first = customers(KEYS)
    months = first["tenure_months"].to_numpy().copy()
    months[CHANGED] = (months[CHANGED] + 300) % 600
    with Backends(settings).lakehouse() as lake:
        for day, table in ((FRIDAY, first), (SATURDAY, with_column(first, "tenure_months", months))):
            write_files(lake, POPULATION, [table])
            publish(lake, scorer=SCORER, version=version, scored_on=day)
        write_files(lake, POPULATION, [customers(KEYS, seed=5)])
    return settings


def expected(row: dict) -> list[tuple[str, float]]:
    rows = encode_rows(SCORER.contract, [row])
    (found,) = Explainer(SCORER).explain(rows, SCORER.score(rows))
    return list(found.most(5))


def told(home: Settings, key=None, day=None, features=None, url=None, model="tiny"):
    return explained(home, model, key, day, features, url)


@pytest.mark.parametrize("day", [FRIDAY, SATURDAY])
def test_a_published_row_is_explained_from_what_was_scored_then(home, day):
    found = told(home, str(CHANGED), day)
    with Backends(home).lakehouse() as lake:
        rows = published_rows(lake, day)
    gold = dict(zip(rows["customer_id"].to_pylist(), rows["tiny_probability"].to_pylist(), strict=True))
    assert found.probability == found.published == gold[CHANGED]
    assert found.agrees
    row = customers(KEYS).slice(CHANGED, 1).to_pylist()[0]
    values = {name: value for name, value, _ in found.reasons}
    months = row["tenure_months"] if day == FRIDAY else (row["tenure_months"] + 300) % 600
    assert values["tenure_months"] == months
    scored = {name: row[name] for name in TINY["features"]} | {"tenure_months": months}
    assert [(name, amount) for name, _, amount in found.reasons] == expected(scored)


def test_the_newest_night_is_what_is_explained(home):
    assert told(home, "1").what == f"tiny version 1: customer_id 1 on {SATURDAY}"


def test_features_that_stand_nowhere_are_explained_by_the_champion(home):
    row = tiny_rows(tiny_contract(), 1)[0] | {"plan": "unheard of"}
    found = told(home, features=json.dumps(row))
    assert [(name, amount) for name, _, amount in found.reasons] == expected(row)
    assert UNSEEN in [value for _, value, _ in found.reasons]
    assert found.published is None


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"key": "999"}, EntityNotFoundError, r"no row of 2026-11-21 for customer_id 999.*gold\.tiny_rejects"),
        ({"key": "x"}, ContractError, "customer_id 'x' is no key: give a whole number"),
        ({"key": "1_7"}, ContractError, "customer_id '1_7' is no key"),
        ({"key": "1", "day": date(2026, 1, 1)}, SnapshotNotFoundError, "no published night of 2026-01-01.*2026-11-21"),
        ({"key": "1", "model": "nobody"}, SnapshotNotFoundError, "has no published night"),
        ({"features": "{}", "model": "nobody"}, NoChampionError, "nobody"),
        ({"key": "1", "model": "unknown"}, DeclarationError, "cannot be read"),
        ({"features": "[]"}, ValueRejectedError, "is not a JSON object"),
        ({"features": "{"}, ValueRejectedError, "is not JSON"),
        ({"features": '{"tenure_months": -1}'}, ValueRejectedError, "out of bounds"),
        ({}, TandemError, "Give a key of customer_id, or --features"),
        ({"key": "1", "features": "{}"}, TandemError, "one of them"),
        ({"features": "{}", "day": FRIDAY}, TandemError, "--day is for what stands in the Gold table"),
        ({"key": "1", "url": "http://127.0.0.1:9"}, TandemError, "does not answer"),
        ({"key": "1", "url": "http://service:port"}, TandemError, "http://service:port is no address of a service"),
    ],
)
def test_what_cannot_be_explained_says_why(home, asked, error, said):
    with pytest.raises(error, match=said):
        told(home, **asked)


def test_the_table_shows_the_largest_first_and_sums_the_others_up(home):
    found = told(home, "1")
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(pictured(found, 3))
    text = console.export_text()
    lines = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert lines[-4:] == [*[name for name, _, _ in found.reasons[:3]], "2"]
    assert f"{sum(amount for _, _, amount in found.reasons[3:]):+.3f}" in text
    assert "as published" in text
    assert f"base        {found.base_probability:.4f}" in text


def test_brackets_in_names_and_values_are_shown_as_they_are(home):
    found = replace(told(home, "1"), reasons=[("weight [kg]", "[under 30]", 0.5), ("plan", "a [/b] c", 0.2)])
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(pictured(found, 3))
    text = console.export_text()
    assert all(shown in text for shown in ("weight [kg]", "[under 30]", "a [/b] c"))


def test_the_verb_prints_it_and_says_what_is_wrong(home, monkeypatch):
    monkeypatch.setenv("TANDEM_HOME", str(home.home))
    monkeypatch.setenv("TANDEM_MODELS", str(home.models))
    done = CliRunner().invoke(app, ["explain", "tiny", "1", "--day", "2026-11-20", "--most", "2"])
    assert done.exit_code == 0, done.output
    assert "customer_id 1 on 2026-11-20" in done.output
    assert "3 others" in done.output
    assert isinstance(CliRunner().invoke(app, ["explain", "tiny", "999"]).exception, EntityNotFoundError)
