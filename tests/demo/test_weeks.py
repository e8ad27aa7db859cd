"""`tandem demo-weeks`: a home of its own, a report, and one week of everything on few rows."""

import io
from dataclasses import replace
from datetime import date, timedelta

import pytest
from rich.console import Console

from backends.settings import ROOT, Settings
from demo import company, weeks
from demo.company import FIRST_DAY
from demo.weeks import run_weeks, weeks_home
from demo.weeks_report import Week, weeks_plot, weeks_table
from models.declaration import load_declaration
from models.errors import TandemError
from tests.lives import SMALL, merged
from tests.models.training.test_plots import size_of


def week(number: int, **changes) -> Week:
    plain = Week(
        number=number,
        day=FIRST_DAY + timedelta(days=7 * (number - 1)),
        version=1,
        feature="usage_trend",
        feature_psi=0.01,
        score_psi=0.02,
        realised_auc=None,
        served_auc=0.85,
        never_retrained_auc=0.84,
        best_possible_auc=0.88,
        failed=frozenset(),
    )
    return replace(plain, **changes)


STORY = [
    week(1),
    week(2, feature_psi=0.4, failed=frozenset({"features_resemble_the_training_set"}), event="trained: a tie"),
    week(3, realised_auc=0.71, failed=frozenset({"realised_ranking_is_reached"}), event="trained: version 3 promoted"),
    week(4, version=3, realised_auc=0.8),
]


def printed(table) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


# --- the home -------------------------------------------------------------------------------------------------------


def test_the_weeks_have_an_embedded_home_of_their_own_whatever_the_settings_say(tmp_path):
    engines = {"catalog_uri": "postgresql://db/lake", "mlflow_uri": "http://mlflow", "online_store": "redis://cache"}
    given = Settings(home=tmp_path / "home", engine="spark", notify="json://chat", **engines)
    home = weeks_home(given)
    assert home.home == tmp_path / "home" / "weeks"
    assert home.models == tmp_path / "home" / "weeks" / "models"
    assert home.catalog == f"sqlite:///{home.home}/catalog.db"
    assert home.mlflow == f"sqlite:///{home.home}/mlflow.db"
    assert home.online == f"lmdb://{home.home}/online"
    assert (home.engine, home.notify.get_secret_value()) == ("local", "")


def test_the_model_is_declared_as_the_demos_with_a_short_training(tmp_path):
    home = weeks_home(Settings(home=tmp_path))
    ours, demos = (load_declaration(folder / "churn.yaml") for folder in (home.models, ROOT / "models"))
    assert ours.features == demos.features
    assert ours.predictions.first_day == FIRST_DAY
    assert ours.training.row_presentations < demos.training.row_presentations
    assert ours.outcomes.after_days == 30


def test_a_home_that_has_lived_is_left_alone(tmp_path):
    (tmp_path / "weeks").mkdir()
    (tmp_path / "weeks" / "catalog.db").touch()
    with pytest.raises(TandemError, match="has lived already"):
        weeks_home(Settings(home=tmp_path))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"weeks": 100_000, "rows": 100}, "still to come. Live fewer"),
        ({"weeks": 1, "rows": 0}, "--rows is 0"),
        ({"weeks": 1, "rows": 250_001}, "--rows is 250001"),
    ],
)
def test_weeks_and_customers_that_cannot_be_are_refused(tmp_path, asked, said):
    with pytest.raises(TandemError, match=said):
        run_weeks(Settings(home=tmp_path), seed=7, **asked)
    assert not list(tmp_path.iterdir())


# --- the report -----------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_week_and_says_what_happened():
    lines = printed(weeks_table(STORY)).splitlines()
    assert len([line for line in lines if "2026-" in line]) == 4
    assert "trained: a tie" in lines[2]
    assert "0.710" in lines[3]
    assert "trained: version 3 promoted" in lines[3]


@pytest.mark.parametrize("lived", [STORY[:1], STORY], ids=["one", "four"])
def test_the_picture_is_drawn(lived):
    declaration = load_declaration(ROOT / "models" / "churn.yaml")
    assert size_of(weeks_plot(lived, date(2026, 1, 8), declaration)) == (1000, 700)


# --- one week of everything -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_week_with_a_campaign_is_scored_watched_and_answered_with_a_training(tmp_path, monkeypatch, capsys):
    """The campaign is at its height in the first week: drift is seen at once, and the sensor asks for a training."""
    short = {key: SMALL[key] for key in ("training", "gates")} | {"drift": {"min_rows": 100}}
    monkeypatch.setattr(weeks, "CHANGES", merged(weeks.CHANGES, short))
    monkeypatch.setattr(company, "CALM_WEEKS", -3)
    for name in ("TANDEM_HOME", "DAGSTER_HOME", "BENTOML_HOME"):
        monkeypatch.setenv(name, "")  # they are put back afterwards
    run_weeks(Settings(home=tmp_path, threads=2), weeks=1, rows=4000, seed=7)
    told = capsys.readouterr().out
    (row,) = [line for line in told.splitlines() if line.lstrip().startswith("1  2026-01-05")]
    assert "trained:" in row
    assert size_of((tmp_path / "weeks" / "weeks.png").read_bytes()) == (1000, 700)
