"""Every environment variable that Tandem reads, typed, with its default. Nothing else reads the environment.

Without any, everything is embedded and lives in one folder, `TANDEM_HOME`; deleting it is a clean start.
"""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, ValidationInfo, field_validator
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

    model_config = SettingsConfigDict(env_prefix="TANDEM_", env_ignore_empty=True, frozen=True, extra="ignore")

    home: Path = Field(ROOT / ".tandem", description="Folder of everything that is made.")
    models: Path = Field(ROOT / "models", description="Folder of the declarations.")
    catalog_uri: str = Field(
        "", repr=False, description="Iceberg catalog: SQLAlchemy or REST. Default: SQLite in the home."
    )
    warehouse: str = Field("", description="Where the tables' files are: a path or s3://. Default: in the home.")
    catalog_properties: dict[str, Any] = Field(
        {}, repr=False, description="pyiceberg's properties of the catalog and its storage, as JSON."
    )
    mlflow_uri: str = Field("", repr=False, description="MLflow server or database. Default: SQLite in the home.")
    mlflow_ui: str = Field("http://127.0.0.1:5000", description="Address of MLflow's pages, for links.")
    online_store: str = Field("", repr=False, description="Online store. Default: LMDB in the home.")
    engine: Literal["local", "spark"] = Field("local", description="What maps the scoring function over files.")
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="Threads of the local engine.")
    spark_master: str = Field("local[*]", description="Master of the Spark engine, like spark://host:7077.")
    spark_python: str = Field("", description="Python of Spark's executors. Default: the one that runs Tandem.")
    spark_properties: dict[str, Any] = Field({}, repr=False, description="Spark's own properties, as JSON.")
    spark_wait_seconds: int = Field(300, ge=1, description="How long to wait for Spark's first executor.")
    api_url: str = Field(
        "http://127.0.0.1:{port}", description="Address of a model's API; {model} and {port} are filled in."
    )
    model_folder: Path = Field(ROOT / "model", description="What a service serves. Default: the model in its Bento.")
    base_image: str = Field("python:3.11-slim", description="Base image of the services' containers.")

    @field_validator("home", "models", "model_folder")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("catalog_properties", "spark_properties", mode="before")
    @classmethod
    def _an_object(cls, properties: Any, info: ValidationInfo) -> Any:
        if not isinstance(properties, dict):  # pydantic would show the value of a ValueError, which may be a secret
            variable = f"TANDEM_{str(info.field_name).upper()}"
            raise TypeError(f'{variable} is no JSON object. Write it as {{"property": "value"}}.')
        return properties

    @field_validator("spark_properties")
    @classmethod
    def _as_spark_writes_them(cls, properties: dict[str, Any]) -> dict[str, Any]:
        if strange := [name for name in properties if not name.startswith("spark.")]:
            raise TypeError(f"TANDEM_SPARK_PROPERTIES has {', '.join(strange)}, but Spark's own begin with `spark.`.")
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in properties.items()}

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
    def spark_log(self) -> Path:
        """What Spark's driver writes to the console."""
        return self.home / "spark.log"

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
    if "@" in parts.netloc:  # the last one: a password may have others, and slashes, that should have been encoded
        return f"{parts.scheme}://{(parts.netloc + parts.path).rpartition('@')[2]}"
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")) if parts.netloc else uri


def quiet() -> None:
    """Turn off the telemetry of every tool, for this process and its children."""
    os.environ.update(QUIET)
