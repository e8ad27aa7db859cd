"""`make demo-weeks`: customers live on, a competitor comes, and the model is watched, retrained and promoted."""

import sys
from datetime import UTC, datetime
from typing import Any

import yaml
from rich.console import Console

from backends.settings import Settings
from demo.company import FIRST_DAY, MODEL, WEEK, Company
from demo.population import CHUNK_ROWS
from demo.weeks_report import weeks_plot, weeks_table
from models.errors import TandemError
from orchestration.home import prepare
from orchestration.progress import Stages

# What differs from the declaration: the examples are of eight weeks, and a training takes seconds.
CHANGES: dict[str, Any] = {
    "examples": {"split": {"test_months": 1}},
    "training": {
        "teacher_folds": 2,
        "teacher_iterations": 150,
        "synthetic_rows": 20_000,
        "row_presentations": 600_000,
    },
    "outcomes": {"after_days": 30, "window_days": 7, "min_auc": 0.82},
    "retraining": {"day": "never", "cooldown_days": 0},
    "predictions": {"first_day": FIRST_DAY.isoformat()},
}


def run_weeks(settings: Settings, *, weeks: int, rows: int, seed: int) -> None:
    """Let the weeks pass, print them, and draw them."""
    if not 1 <= rows <= CHUNK_ROWS:
        raise TandemError(f"--rows is {rows}: the company has from 1 to {CHUNK_ROWS:,} customers.")
    if (last := FIRST_DAY + (weeks - 1) * WEEK) > datetime.now(UTC).date():
        raise TandemError(f"--weeks is {weeks}: they would end on {last}, which is still to come. Live fewer.")
    home = weeks_home(settings)
    prepare(home)
    console = Console() if sys.stdout.isatty() else Console(width=132)
    with Stages(console) as stages:
        company = Company(home, stages, rows, seed)
        for week in range(weeks):
            company.live(week)
    console.print(weeks_table(company.weeks))
    picture = home.home / "weeks.png"
    picture.write_bytes(weeks_plot(company.weeks, company.campaign.starts, company.declaration))
    console.print(
        f"{picture} has it as a picture; TANDEM_HOME={home.home} TANDEM_MODELS={home.models} shows it in Dagster."
    )


def weeks_home(settings: Settings) -> Settings:
    """Return the settings of a home of its own below the given one, embedded whatever those say; declare the model."""
    home = settings.home / "weeks"
    if (home / "catalog.db").exists():
        raise TandemError(f"{home} has lived already. Delete the folder to let it live again.")
    embedded = dict.fromkeys(("catalog_uri", "warehouse", "mlflow_uri", "online_store", "openlineage"), "")
    own = {"home": home, "models": home / "models", "engine": "local", "catalog_properties": {}}
    changed = Settings(**{**settings.model_dump(), **embedded, **own, "notify": "", "dagster_storage": ""})
    raw = yaml.safe_load((settings.models / f"{MODEL}.yaml").read_text())
    raw = _merged(raw, CHANGES)
    changed.models.mkdir(parents=True, exist_ok=True)
    (changed.models / f"{MODEL}.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return changed


def _merged(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Lay changes over a declaration, mappings field by field."""
    both = {
        key: _merged(raw[key], value) if isinstance(raw.get(key), dict) and isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return {**raw, **both}
