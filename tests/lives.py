"""Lives for tests of the upper floors: declarations, tables and champions in a home of their own.

Two models. `churn` is the demo's, with a small network: it trains. `tiny` is `tests/tiny_model.py`'s: its ONNX file is
made by hand and promoted as it is, so that a night, a gate or a check can be tested without a training.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import yaml

from assets.resources import Backends
from backends.registry import Version
from backends.settings import ROOT, Settings
from demo.lake import write_customers, write_examples
from models.contract import Contract
from models.declaration import Declaration, load_declaration
from models.encoding import encode_arrow
from models.scoring import Scorer, sha256_of
from orchestration.definitions import assemble
from tests.backends.nights import customers, write_files
from tests.tiny_model import FEATURES, tiny_contract, tiny_onnx

TODAY = datetime.now(UTC).date()
CUSTOMERS, EXAMPLES, SEED = 5000, 8000, 7
ARTIFACT = "model_float32"

# A network that learns in a second or two: enough to rank, far from good.
SMALL = {
    "network": {"bins": 12},
    "training": {"teacher_folds": 2, "teacher_iterations": 40, "synthetic_rows": 2000, "row_presentations": 100_000},
    "gates": {"min_auc": 0.65, "max_calibration_error": 0.1},
}

TINY: dict[str, Any] = {
    "name": "tiny",
    "owner": "team:growth",
    "entity_key": "customer_id",
    "population": {"table": "silver.active_customers"},
    "examples": {"table": "silver.tiny_examples", "label": "churned", "split": {"method": "stratified"}},
    "features": {name: feature.model_dump(mode="json") for name, feature in FEATURES.items()},
    "gates": {"max_calibration_error": 0.1},
    **{key: SMALL[key] for key in ("network", "training")},
}


@dataclass(frozen=True)
class Lived:
    """A home in which churn was trained, promoted, scored, loaded and served; tests only read it."""

    settings: Settings
    declaration: Declaration
    instance: dg.DagsterInstance
    training: dg.ExecuteInProcessResult
    night: dg.ExecuteInProcessResult
    requests: dg.ExecuteInProcessResult
    watch: dg.ExecuteInProcessResult

    @property
    def backends(self) -> Backends:
        """The home's backends."""
        return Backends(self.settings)

    @property
    def url(self) -> str:
        """Where the service answers."""
        return self.settings.url_of_api("churn", self.declaration.api.port)

    def facts(self, *key: str) -> dict[str, Any]:
        """Return an asset's newest metadata."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(key))
        assert event is not None, f"{key} was never materialized"
        assert event.asset_materialization is not None
        return dict(event.asset_materialization.metadata)


def changed(settings: Settings, **changes: Any) -> Settings:
    """Return other settings of the same home."""
    return Settings(**{**settings.model_dump(), **changes})


# --- declarations ---------------------------------------------------------------------------------------------------


def merged(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `raw` with `changes` laid over it, mappings field by field."""
    both = {key: merged(raw[key], value) for key, value in changes.items() if isinstance(raw.get(key), dict)}
    return {**raw, **changes, **both}


def declare(settings: Settings, raw: Mapping[str, Any], **changes: Any) -> Declaration:
    """Drop a declaration into the settings' folder."""
    fields = merged(raw, changes)
    settings.models.mkdir(parents=True, exist_ok=True)
    path = settings.models / f"{fields['name']}.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return load_declaration(path)


def small_churn() -> dict[str, Any]:
    """Return the demo's declaration with a small network."""
    return merged(yaml.safe_load((ROOT / "models" / "churn.yaml").read_text()), SMALL)


# --- tables ---------------------------------------------------------------------------------------------------------


def populate(settings: Settings, rows: int = CUSTOMERS, examples: int = EXAMPLES) -> None:
    """Write the demo's two tables."""
    backends = Backends(settings)
    with backends.lakehouse() as lake:
        write_customers(lake, backends.engine(), rows, SEED, TODAY, lambda _: None)
        write_examples(lake, backends.engine(), examples, SEED, TODAY, lambda _: None)


def write_table(settings: Settings, table: str, *files: pa.Table) -> int:
    """Make `files` a table's content, one data file each; return the snapshot's id."""
    with Backends(settings).lakehouse() as lake:
        return write_files(lake, table, files).id


@contextmanager
def tables_as_they_were(settings: Settings) -> Iterator[None]:
    """Forget afterwards what is written to the tables: the catalog points to the files that it pointed to before."""
    catalog = settings.home / "catalog.db"
    before = catalog.read_bytes()
    try:
        yield
    finally:
        catalog.write_bytes(before)


def tiny_examples(rows: int = 2000, seed: int = 0) -> pa.Table:
    """Return customers whose outcomes are drawn from the tiny model's own scores: it ranks them and is calibrated."""
    table = customers(rows, seed=seed)
    scores = Scorer(tiny_onnx(tiny_contract())).score(encode_arrow(tiny_contract(), table))
    outcomes = np.random.default_rng(seed).random(rows) < scores
    return table.append_column("churned", pa.array(outcomes))


# --- champions ------------------------------------------------------------------------------------------------------


def logged(settings: Settings, contract: Contract, seed: int = 0, onnx: bytes = b"") -> tuple[str, str]:
    """Log a hand-made ONNX file to a run of its own; return the run's id and the file's sha256."""
    registry, onnx = Backends(settings).registry(), onnx or tiny_onnx(contract, seed)
    with registry.run(contract.model, "by hand", {}) as run_id:
        registry.log_onnx(run_id, ARTIFACT, onnx)
    return run_id, sha256_of(onnx)


def promoted(settings: Settings, contract: Contract, seed: int = 0, onnx: bytes = b"") -> Version:
    """Make a hand-made ONNX file the champion."""
    run_id, sha256 = logged(settings, contract, seed, onnx)
    return Backends(settings).registry().promote(contract.model, run_id, ARTIFACT, sha256, {"precision": "float32"})


# --- runs -----------------------------------------------------------------------------------------------------------


def silent_instance() -> dg.DagsterInstance:
    """Return an instance in memory that prints nothing."""
    return dg.DagsterInstance.ephemeral(settings={"python_logs": {"python_log_level": "CRITICAL"}})


def run_job(
    settings: Settings, instance: dg.DagsterInstance, job: str, day: date | None = None, stages: Sequence[str] = ()
) -> dg.ExecuteInProcessResult:
    """Run a job of the settings' definitions, or only some of its assets (`a/b`); a failure is in the result."""
    return (
        definitions_of(settings)
        .resolve_job_def(job)
        .execute_in_process(
            instance=instance,
            partition_key=day.isoformat() if day else None,
            asset_selection=[dg.AssetKey(stage.split("/")) for stage in stages] or None,
            raise_on_error=False,
        )
    )


_newest: dict[str, Any] = {}  # the location that was loaded last, and from what


def definitions_of(settings: Settings) -> dg.Definitions:
    """Return the settings' definitions, which are loaded once, as by Dagster, and again when a declaration changes."""
    source = settings.model_copy(), {path.name: path.read_text() for path in settings.models.glob("*.yaml")}
    if _newest.get("source") != source:
        _newest.update(definitions=assemble(settings), source=source)
    return _newest["definitions"]


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Return what each check of a run said, by name."""
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    """Return the assets that a run materialized, as `a/b`."""
    return {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}


def reason_of(result: dg.ExecuteInProcessResult) -> str:
    """Return why a run failed, with the causes; nothing when it succeeded."""
    errors = [event.event_specific_data.error for event in result.all_events if event.is_step_failure]
    return "\n".join(part.message for error in errors for part in _chain(error))


def _chain(error: Any) -> list[Any]:
    return [error, *_chain(error.cause)] if error else []
