"""The one folder that everything is made in, prepared for every tool that keeps files of its own."""

import os
import shutil

from backends.settings import QUIET, ROOT, Settings


def prepare(settings: Settings) -> dict[str, str]:
    """Make the folder ready and return the environment that points every tool at it; telemetry is off in it."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    settings.bentoml_home.mkdir(parents=True, exist_ok=True)
    config = settings.dagster_home / "dagster.yaml"
    if not config.exists():
        shutil.copyfile(ROOT / "deploy" / "dagster.yaml", config)
    environment = {
        **QUIET,
        "TANDEM_HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.dagster_home),
        "BENTOML_HOME": str(settings.bentoml_home),
    }
    os.environ.update(environment)
    return environment
