"""Every environment variable that Tandem reads, typed, with its default. Nothing else reads the environment.

Without any, everything is embedded and lives in one folder, `TANDEM_HOME`; deleting it is a clean start.
"""

import ctypes
import json
import os
import sys
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent

M_ARENA_MAX, HEAPS = -8, "MALLOC_ARENA_MAX"  # of malloc.h, and what glibc reads in its place

# Telemetry of every tool is off, in every process that imports the settings.
QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
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
    online_store: str = Field(
        "", repr=False, description="Online store: lmdb://, redis:// or rediss://. Default: LMDB in the home."
    )
    engine: Literal["local", "spark"] = Field("local", description="What maps the scoring function over files.")
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="Threads of the local engine.")
    spark_master: str = Field("local[*]", description="Master of the Spark engine, like spark://host:7077.")
    spark_python: str = Field("", description="Python of Spark's executors. Default: the one that runs Tandem.")
    spark_properties: dict[str, Any] = Field({}, repr=False, description="Spark's own properties, as JSON.")
    spark_wait_seconds: int = Field(300, ge=1, description="How long to wait for Spark's first executor.")
    api_url: str = Field(
        "http://127.0.0.1:{port}", description="Address of a model's API; {model} and {port} are filled in."
    )
    api_keys_file: Path | None = Field(
        None, description="Hashed keys of those who may call an API. Default: none, and loopback only."
    )
    api_open: bool = Field(False, description="Listen beyond loopback without keys.")
    api_max_body_bytes: int = Field(0, ge=0, description="Longest request body. Default: by the model's batch limit.")
    api_max_connections: int = Field(1000, ge=1, description="Connections that one service holds open at most.")
    api_longest_wait_ms: float = Field(
        4.0, gt=0, description="Requests that would wait longer for their turn are refused with 503."
    )
    api_request_seconds: float = Field(10.0, gt=0, description="A slower request is cut off, arrival and answer.")
    tls_certificate: Path | None = Field(
        None, description="Certificate chain (PEM) of the APIs; with it they speak HTTPS only."
    )
    tls_key: Path | None = Field(None, description="Private key (PEM) of that certificate.")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="Port of a service's gRPC, 0 for none. Default: the declaration's."
    )
    api_key: SecretStr = Field(SecretStr(""), description="API key that Tandem's own calls of a service carry.")
    request_logs: Path | None = Field(None, description="Folder of the APIs' request logs. Default: in the home.")
    request_log_sample: float | None = Field(
        None, ge=0, le=1, description="Share of the requests that are logged. Default: the declaration's."
    )
    request_log_megabytes: int = Field(
        1024, ge=1, description="When so much of a model's log waits to be carried away, no more is logged."
    )
    access_log: Literal["none", "errors", "all"] = Field("none", description="Which requests have a line on stderr.")
    access_log_sample: float = Field(1.0, ge=0, le=1, description="Share of good answers with a line, with `all`.")
    log_format: Literal["text", "json"] = Field("text", description="How an API's lines on stderr are written.")
    otlp_endpoint: str = Field(
        "", description="Collector of traces, OTLP over HTTP. Default: OTEL_EXPORTER_OTLP_ENDPOINT, else no traces."
    )
    trace_sample: float = Field(
        0.01, ge=0, le=1, description="Share of the requests that are traced, where their caller has not decided."
    )
    notify: SecretStr = Field(
        SecretStr(""),
        description="Whom to tell of failed runs and checks: Apprise URLs (Slack, mail, webhooks), by space.",
    )
    dagster_storage: SecretStr = Field(
        SecretStr(""),
        description="PostgreSQL of Dagster's runs and events: postgresql://. Default: SQLite in the home.",
    )
    dagster_ui: str = Field("http://127.0.0.1:3000", description="Address of Dagster's pages, for links.")
    openlineage: str = Field(
        "",
        repr=False,
        description="Where OpenLineage events go: http(s):// of a collector, or a file. Default: nowhere.",
    )
    openlineage_key: SecretStr = Field(SecretStr(""), description="API key of that collector.")
    openlineage_namespace: str = Field("tandem", description="Namespace of the jobs in OpenLineage events.")
    model_folder: Path = Field(ROOT / "model", description="What a service serves. Default: the model in its Bento.")
    base_image: str = Field(
        default_factory=lambda: f"python:{sys.version_info.major}.{sys.version_info.minor}-slim",
        description="Base image of the services' containers.",
    )
    container_backend: Literal["", "docker", "podman"] = Field(
        "", description="What builds the images. Default: the one of Docker and podman that answers."
    )

    @field_validator("home", "models", "model_folder", "api_keys_file", "request_logs", "tls_certificate", "tls_key")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path is not None else None

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
    def online_technology(self) -> str:
        """What the online store is: lmdb or redis."""
        return "redis" if self.online.startswith("redis") else "lmdb"

    @cached_property
    def traces(self) -> str:
        """Address of the collector of traces; none where there is none."""
        return self.otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")

    def request_log_of(self, model: str) -> Path:
        """Folder of one model's request log."""
        return (self.request_logs or self.home / "requests") / model

    @property
    def spark_log(self) -> Path:
        """What Spark's driver writes to the console."""
        return self.home / "spark.log"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own folder: runs, events, schedules."""
        return self.home / "dagster"

    @property
    def scratch(self) -> Path:
        """Where what does not fit into memory is for a while."""
        return self.home / "scratch"

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


def thrifty() -> None:
    """Have glibc keep two heaps in place of eight for each core, unless MALLOC_ARENA_MAX says how many.

    Threads that come and go, as an engine's do, leave memory behind in all of them: 50 MB after a few nights. To be
    called before there are threads.
    """
    if HEAPS not in os.environ:
        os.environ[HEAPS] = "2"  # for children, which read it as they start
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
