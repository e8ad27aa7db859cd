"""Every environment variable that Tandem reads, typed, with its default. Nothing else reads the environment.

Without any, everything is embedded and lives in one folder, `TANDEM_HOME`; deleting it is a clean start.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent

# Telemetry of every tool is off, in every process that imports the settings.
QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


class Settings(BaseSettings):
    """Where things are. Each field is the environment variable `TANDEM_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="TANDEM_", frozen=True, extra="ignore")

    home: Path = Field(ROOT / ".tandem", description="Folder of everything that is made.")
    models: Path = Field(ROOT / "models", description="Folder of the declarations.")
    catalog_uri: str = Field(
        "", repr=False, description="Iceberg catalog: SQLAlchemy or REST. Default: SQLite in the home."
    )
    warehouse: str = Field("", description="Where the tables' files are: a path or s3://. Default: in the home.")
    mlflow_uri: str = Field("", repr=False, description="MLflow server or database. Default: SQLite in the home.")
    mlflow_ui: str = Field("http://127.0.0.1:5000", description="Address of MLflow's pages, for links.")
    online_store: str = Field("", repr=False, description="Online store. Default: LMDB in the home.")
    engine: Literal["local"] = Field("local", description="What maps the scoring function over files.")
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="Threads of the local engine.")
    api_url: str = Field(
        "http://127.0.0.1:{port}", description="Address of a model's API; {model} and {port} are filled in."
    )
    model_folder: Path = Field(ROOT / "model", description="What a service serves. Default: the model in its Bento.")
    base_image: str = Field("python:3.11-slim", description="Base image of the services' containers.")

    @field_validator("home", "models", "model_folder")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @cached_property
    def catalog(self) -> str:
        """URI of the Iceberg catalog."""
        return self.catalog_uri or f"sqlite:///{self.home}/catalog.db"

    @cached_property
    def lake(self) -> str:
        """Location of the Iceberg tables."""
        return self.warehouse or f"file://{self.home}/lake"

    @cached_property
    def mlflow(self) -> str:
        """URI of MLflow."""
        return self.mlflow_uri or f"sqlite:///{self.home}/mlflow.db"

    @cached_property
    def mlflow_artifacts(self) -> str:
        """Where the embedded MLflow keeps its files; a server of one's own decides for itself."""
        return "" if self.mlflow_uri else f"file://{self.home}/mlflow"

    @cached_property
    def online(self) -> str:
        """URI of the online store."""
        return self.online_store or f"lmdb://{self.home}/online"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own folder: runs, events, schedules."""
        return self.home / "dagster"

    @property
    def bentoml_home(self) -> Path:
        """BentoML's own folder: the built Bentos."""
        return self.home / "bentoml"

    def url_of_api(self, model: str, port: int) -> str:
        """Address of one model's running service."""
        return self.api_url.format(model=model, port=port)


def without_secrets(uri: str) -> str:
    """Return an address as it may be shown: without user name, password and query."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")) if parts.netloc else uri


def quiet() -> None:
    """Turn off the telemetry of every tool, for this process and its children."""
    os.environ.update(QUIET)
