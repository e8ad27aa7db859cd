"""MLflow: training runs, registered versions and the alias that says which one is served.

The one file that knows MLflow, whose import takes seconds: it is imported when a registry is opened, not before. The
registry keeps the exact ONNX bytes; every read is verified against the sha256 in the version's tags.
"""

import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from backends.settings import Settings, quiet
from models.errors import ForeignVersionError, ModelFileError, NoChampionError, RegistryError
from models.scoring import sha256_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
_NOT_FOUND = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}  # no such model, no such alias
_LOCKED, _PATIENCE = "database is locked", 60.0  # SQLite, written to by others; seconds until it is an error
_PAGE = 1000  # versions
OURS = {"sha256", "artifact"}  # tags of a version that Tandem registered
Pictures = Mapping[str, bytes]  # file name -> PNG


@dataclass(frozen=True)
class Dataset:
    """The pinned rows that a run learned from."""

    table: str
    snapshot_id: str
    rows: int


@dataclass(frozen=True)
class Version:
    """A registered version of a model: always one that passed its gates, though it may have tied with the champion."""

    model: str
    version: int
    mlflow_run_id: str
    sha256: str
    tags: dict[str, str] = field(default_factory=dict)


class Registry:
    """Runs and versions of the models in one MLflow."""

    def __init__(self, client: "MlflowClient", artifacts: str, ui: str) -> None:
        self._client: MlflowClient = _Patient(client)
        self._artifacts = artifacts
        self._ui = ui

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Connect to the MLflow that the settings name; the embedded database is made when there is none."""
        quiet()
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        if settings.mlflow.startswith("sqlite:///"):
            settings.home.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=settings.mlflow, registry_uri=settings.mlflow)
        return cls(client, settings.mlflow_artifacts, settings.mlflow_ui)

    # --- runs ---------------------------------------------------------------------------------------------------

    @contextmanager
    def run(self, model: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """Open a run of the model's experiment and yield its id; it ends FAILED when the body raises."""
        run_id = self._client.create_run(self._experiment(model), run_name=name, tags=dict(tags)).info.run_id
        try:
            yield run_id
        except BaseException:
            self._client.set_terminated(run_id, "FAILED")
            raise
        self._client.set_terminated(run_id, "FINISHED")

    def log_facts(self, run_id: str, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Add parameters and metrics to a run."""
        from mlflow.entities import Metric, Param
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        self._client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            params=[Param(key, str(value)) for key, value in params.items()],
        )

    def tag_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Add tags to a run; one that it has already is replaced."""
        for key, value in tags.items():
            self._client.set_tag(run_id, key, value)

    def log_curve(self, run_id: str, name: str, values: list[float]) -> None:
        """Add a metric's course to a run, one value a step."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        self._client.log_batch(run_id, metrics=[Metric(name, float(v), now, i) for i, v in enumerate(values)])

    def log_dataset(self, run_id: str, dataset: Dataset) -> None:
        """Add the pinned training rows to a run."""
        from mlflow.entities import Dataset as MlflowDataset
        from mlflow.entities import DatasetInput

        source = f'{{"table": "{dataset.table}", "snapshot_id": "{dataset.snapshot_id}"}}'
        profile = f'{{"num_rows": {dataset.rows}}}'
        entity = MlflowDataset(dataset.table, dataset.snapshot_id, "iceberg", source, profile=profile)
        self._client.log_inputs(run_id, [DatasetInput(entity, tags=[])])

    def log_pictures(self, run_id: str, pictures: Pictures) -> None:
        """Add PNG pictures to a run, below `pictures/`."""
        with tempfile.TemporaryDirectory() as folder:
            for name, png in pictures.items():
                Path(folder, name).write_bytes(png)
            self._client.log_artifacts(run_id, folder, "pictures")

    def log_onnx(self, run_id: str, name: str, onnx: bytes) -> None:
        """Add an ONNX file to a run as an MLflow model of flavour onnx; the bytes stay exactly as they are."""
        import mlflow.onnx
        import onnx as onnx_library

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            model = onnx_library.load_model_from_string(onnx)
            mlflow.onnx.save_model(model, str(path), pip_requirements=["onnxruntime"])
            (path / "model.onnx").write_bytes(onnx)
            self._client.log_artifacts(run_id, str(path), name)

    def read_onnx(self, run_id: str, name: str, sha256: str) -> bytes:
        """Read an ONNX file of a run back; `ModelFileError` when it is not the one with this sha256."""
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self._client.download_artifacts(run_id, f"{name}/model.onnx", folder)
            except (MlflowException, OSError) as error:
                raise RegistryError(f"MLflow run {run_id} has no file {name}/model.onnx: {error}") from error
            onnx = Path(path).read_bytes()
        if sha256_of(onnx) != sha256:
            raise ModelFileError(
                f"The ONNX file {name}/model.onnx of MLflow run {run_id} has sha256 {sha256_of(onnx)}, not {sha256}. "
                "It was changed after it was registered: restore it, or promote another version."
            )
        return onnx

    def url(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{self._ui}/#/experiments/{self._client.get_run(run_id).info.experiment_id}/runs/{run_id}"

    # --- versions -----------------------------------------------------------------------------------------------

    def champion(self, model: str) -> Version:
        """Return the version that is served; `NoChampionError` when none was ever promoted.

        A registry that does not answer is another `RegistryError`: no gate may take it for one without a champion.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version_by_alias(model, CHAMPION)
        except MlflowException as error:
            if error.error_code not in _NOT_FOUND:
                raise RegistryError(
                    f"MLflow cannot say which version of {model!r} is its champion: {error}. Check TANDEM_MLFLOW_URI."
                ) from error
            raise NoChampionError(
                f"Model {model!r} has no champion. Materialize {model}/champion; where its gate fails, see that check."
            ) from error
        return _version(found)

    def champion_or_none(self, model: str) -> Version | None:
        """Return the version that is served, or None before the first promotion."""
        try:
            return self.champion(model)
        except NoChampionError:
            return None

    def read_version(self, version: Version) -> bytes:
        """Return the version's ONNX bytes, verified."""
        return self.read_onnx(version.mlflow_run_id, version.tags["artifact"], version.sha256)

    def version(self, model: str, number: int) -> Version:
        """Return a version by its number; `RegistryError` where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._client.get_model_version(model, str(number)))
        except MlflowException as error:
            there = ", ".join(str(version.version) for version in self.versions(model)) or "none"
            raise RegistryError(f"Model {model!r} has no version {number}. There are: {there}.") from error

    def versions(self, model: str) -> list[Version]:
        """Return every version that Tandem registered, newest first; those of others are left out."""
        found: list[Version] = []
        named, more = f"name = '{model}'", None
        while more != "":
            page = self._client.search_model_versions(named, max_results=_PAGE, page_token=more)
            found, more = (
                [*found, *(_version(each) for each in page if dict(each.tags).keys() >= OURS)],
                page.token or "",
            )
        return sorted(found, key=lambda version: version.version, reverse=True)

    def with_bytes(self, model: str, sha256: str) -> Version | None:
        """Return the version of these bytes, the oldest if there are several; None where they are not registered."""
        return next((version for version in reversed(self.versions(model)) if version.sha256 == sha256), None)

    def register(self, model: str, run_id: str, artifact: str, sha256: str, tags: Mapping[str, str]) -> Version:
        """Make a run's ONNX file a version, which nobody is served yet. Bytes that are one already keep theirs.

        So do bytes that are registered twice at the same moment: the second version goes again.
        """
        if there := self.with_bytes(model, sha256):
            return there
        self._ensure_registered(model)
        all_tags = {**tags, "sha256": sha256, "artifact": artifact}
        source = f"runs:/{run_id}/{artifact}"
        made = self._client.create_model_version(model, source, run_id, tags=all_tags, await_creation_for=None)
        first = self.with_bytes(model, sha256) or _version(made)
        if first.version < int(made.version):
            self._client.delete_model_version(model, made.version)
        return first

    def tag_version(self, version: Version, tags: Mapping[str, str]) -> None:
        """Add tags to a version; one that it has already is replaced."""
        for key, value in tags.items():
            self._client.set_model_version_tag(version.model, str(version.version), key, value)

    def move_alias(self, model: str, number: int) -> None:
        """Let a version be the champion, in one step: a reader finds the old one or the new one."""
        self._client.set_registered_model_alias(model, CHAMPION, str(number))

    def promote(self, model: str, run_id: str, artifact: str, sha256: str, tags: Mapping[str, str]) -> Version:
        """Register a run's ONNX file and make it the champion, without a gate and without a ledger.

        Promotions that have to be earned, and recorded, are in `promotions`. Promoting twice is promoting once.
        """
        version = self.register(model, run_id, artifact, sha256, tags)
        self.move_alias(model, version.version)
        return self.champion(model)

    def _ensure_registered(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        if not self._client.search_registered_models(f"name = '{model}'"):
            try:
                self._client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # somebody else was faster
                    raise

    def _experiment(self, model: str) -> str:
        found = self._client.get_experiment_by_name(model)
        if found:
            return str(found.experiment_id)
        location = f"{self._artifacts}/{model}" if self._artifacts else None
        return str(self._client.create_experiment(model, artifact_location=location))


class _Patient:
    """MLflow's client, each call of which waits for its turn at a database that others write to."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return _in_turn(found) if callable(found) else found


def _in_turn(call: Callable[..., Any]) -> Callable[..., Any]:
    """Repeat a call that found SQLite locked: nothing was written then."""

    def called(*arguments: Any, **named: Any) -> Any:
        from mlflow.exceptions import MlflowException

        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return call(*arguments, **named)
            except MlflowException as error:
                if _LOCKED not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.02, 0.2))  # noqa: S311  # no secret

    return called


def _version(found: Any) -> Version:
    tags = dict(found.tags)
    if absent := OURS - tags.keys():
        raise ForeignVersionError(
            f"Version {found.version} of model {found.name!r} has no tag {' and '.join(sorted(absent))}: it was not "
            f"registered by Tandem. Materialize {found.name}/champion, or move the alias to a version that was."
        )
    return Version(found.name, int(found.version), found.run_id, tags["sha256"], tags)
