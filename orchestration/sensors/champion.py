"""The registry's alias `champion`, moved by hand in MLflow or by another Dagster: what reads the champion follows."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.patience import within
from assets.recorded import DATA_VERSION, recorded_version
from assets.resources import Backends
from models.declaration import Declaration
from models.errors import ForeignVersionError, NoChampionError, RegistryError
from orchestration.promotions import VERDICTS

if TYPE_CHECKING:
    from backends.promotion_ledger import Move
    from backends.registry import Version

SECONDS = 30
PATIENCE_SECONDS = 20.0  # the first tick imports MLflow
NONE, FOREIGN = "none", "foreign"  # cursors of what is no champion


def champion_observer(declaration: Declaration) -> dg.SensorDefinition:
    """Make the sensor that reports a champion that Dagster does not know. A registry that is down fails the tick."""
    name = declaration.name
    key = dg.AssetKey([name, "champion"])

    @dg.sensor(
        name=f"{name}_champion_observer",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Reports a champion of {name} that was set in MLflow, and that nobody is one any more.",
    )
    def _observer(
        context: dg.SensorEvaluationContext, backends: dg.ResourceParam[Backends]
    ) -> dg.SensorResult | dg.SkipReason:
        known, before = recorded_version(context.instance, key), context.cursor or ""
        try:
            version = within(PATIENCE_SECONDS, lambda: backends.registry().champion(name))
        except NoChampionError as error:
            if known is None or before == NONE:
                return dg.SkipReason(str(error))
            _last_move(declaration, backends)
            return _trouble(key, NONE, f"{name} has no champion any more", str(error))
        except ForeignVersionError as error:
            if before == f"{FOREIGN} {error}":
                return dg.SkipReason(str(error))
            return _trouble(key, f"{FOREIGN} {error}", f"{name}: the champion cannot be used", str(error))
        except TimeoutError as error:
            raise RegistryError(f"MLflow gives {error}. Start it, or correct TANDEM_MLFLOW_URI.") from None
        if known == version.sha256:
            return _known(key, before, version)
        move = _last_move(declaration, backends)
        if move and (run := _under_way(context.instance, move.dagster_run_id)):
            return dg.SkipReason(
                f"Version {version.version} is new; run {run.run_id} made it the champion and will say so."
            )
        return dg.SensorResult(cursor=version.sha256, asset_events=[_report(key, backends, version, move)])

    return _observer


def _last_move(declaration: Declaration, backends: Backends) -> "Move | None":
    """Return the move that led to the champion; one that was made by hand is written into the ledger before."""
    from backends.promotions import Promotions

    with backends.lakehouse() as lake:
        promotions = Promotions(lake, backends.registry(), declaration.name, declaration.promotions_table)
        promotions.record_by_hand()
        return promotions.settle().moves.last


def _under_way(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun | None:
    run = instance.get_run_by_id(run_id) if run_id else None
    return run if run and not run.is_finished else None


def _report(key: dg.AssetKey, backends: Backends, version: "Version", move: "Move | None") -> dg.AssetMaterialization:
    registry = backends.registry()
    facts: dict[str, Any] = {
        "model_version": version.version,
        "sha256": version.sha256,
        "precision": version.tags.get("precision"),
        "mlflow_run": dg.MetadataValue.url(registry.url(version.mlflow_run_id)),
    }
    if move and move.leads_to(version):
        facts |= {
            "verdict": VERDICTS[move.kind],
            "previous_version": "none" if move.from_version is None else move.from_version,
            "by": move.by,
            "reason": move.reason,
        }
    known = {name: value for name, value in facts.items() if value is not None}
    return dg.AssetMaterialization(key, metadata=known, tags={DATA_VERSION: version.sha256})


def _trouble(key: dg.AssetKey, cursor: str, headline: str, reason: str) -> dg.SensorResult:
    event = dg.AssetObservation(key, metadata={"headline": headline, "reason": reason})
    return dg.SensorResult(cursor=cursor, asset_events=[event])


def _known(key: dg.AssetKey, before: str, version: "Version") -> dg.SensorResult:
    if before.partition(" ")[0] in (NONE, FOREIGN):
        reason = f"Version {version.version}, as before."
        return _trouble(key, version.sha256, f"{key.path[0]} has its champion back", reason)
    return dg.SensorResult(cursor=version.sha256, skip_reason=f"Version {version.version} is recorded already.")
