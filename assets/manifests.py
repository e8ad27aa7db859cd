"""What one asset tells the next: small typed facts, kept as JSON. Rows stay in the lake, bytes in MLflow."""

from pathlib import Path

import dagster as dg
from pydantic import BaseModel, ConfigDict

from backends.settings import Settings


class Manifest(BaseModel):
    """Facts that are written once and read downstream."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainingSet(Manifest):
    """Labelled rows, pinned: a table, one snapshot of it, and how it was split."""

    table: str
    snapshot_id: int
    rows: int
    entity_key_type: str
    event_key_type: str = ""  # of a model of events
    population_snapshot: str = ""  # the population as it stood when the examples were pinned


class TrainedModel(Manifest):
    """The float network of one training run."""

    training_set: TrainingSet
    mlflow_run_id: str
    artifact: str
    sha256: str


class Candidate(Manifest):
    """The file that asks to be promoted: int8, or float32 where int8 was not good enough."""

    training_set: TrainingSet
    mlflow_run_id: str
    artifact: str
    sha256: str
    precision: str
    dagster_run_id: str


class ManifestFiles(dg.IOManager):
    """Keeps each asset's newest manifest in one JSON file, replaced in one step."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "manifests"

    def handle_output(self, context: dg.OutputContext, obj: Manifest) -> None:
        """Write the manifest beside its place, then move it there."""
        path = self._path(context.asset_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(obj.model_dump_json(indent=2))
        fresh.replace(path)

    def load_input(self, context: dg.InputContext) -> Manifest:
        """Read the manifest of an upstream asset as the type that the downstream asset declares."""
        path = self._path(context.asset_key)
        if not path.exists():
            key = context.asset_key.to_user_string()
            raise dg.Failure(f"{key} was never materialized here ({path} is missing). Materialize {key} first.")
        return context.dagster_type.typing_type.model_validate_json(path.read_text())

    def _path(self, key: dg.AssetKey) -> Path:
        return self._folder.joinpath(*key.path).with_suffix(".json")
