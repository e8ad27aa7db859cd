"""`<model>/online_features`: every entity's vector, packed ready to score, where the API finds it in microseconds."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.metadata import common, table_key
from assets.resources import Backends
from backends.settings import without_secrets
from models.declaration import Declaration

if TYPE_CHECKING:
    from models.contract import Contract


def online_features(declaration: Declaration, store: str = "lmdb") -> dg.AssetsDefinition:
    """Make the asset that loads the online store from the very snapshot that the newest night was scored from."""
    key, gold = dg.AssetKey([declaration.name, "online_features"]), declaration.predictions_table
    check = dg.AssetCheckSpec(
        "every_entity_is_online", asset=key, blocking=True, description="As many vectors as the night scored rows."
    )

    @dg.asset(
        key=key,
        deps=[dg.AssetKey([declaration.name, "champion"]), table_key(gold)],
        check_specs=[check],
        pool=f"{declaration.name}_online_features",  # one writer per store
        description="One packed feature vector for each entity, of the snapshot that the newest predictions came from.",
        **common(declaration, store),
    )
    def _online_features(
        context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends]
    ) -> dg.MaterializeResult:
        from backends.feature_loading import load_features
        from models.scoring import Scorer

        registry = backends.registry()
        version = registry.champion(declaration.name)
        contract: Contract = Scorer(registry.read_version(version), version.sha256).contract
        with backends.lakehouse() as lake:
            loaded = load_features(
                lake,
                backends.engine(),
                backends.online_store(declaration.name),
                contract,
                declaration.population.table,
                declaration.population.time,
                gold,
                {"model_version": str(version.version), "dagster_run_id": context.op_execution_context.run_id},
            )
        complete = loaded.report.rows == loaded.scored
        return dg.MaterializeResult(
            check_results=[dg.AssetCheckResult(check_name="every_entity_is_online", passed=complete)],
            data_version=dg.DataVersion(f"{contract.fingerprint.hex()}:{loaded.source.id}"),
            metadata={
                "dagster/row_count": loaded.report.rows,
                "population_snapshot": str(loaded.source.id),
                "contract_fingerprint": contract.fingerprint.hex(),
                "megabytes": round(loaded.report.bytes / 1e6, 1),
                "seconds": round(loaded.report.seconds, 2),
                "rows_per_second": round(loaded.report.rows / max(loaded.report.seconds, 1e-9)),
                "dagster/uri": without_secrets(backends.settings.online),
            },
        )

    return _online_features
