"""`<model>/online_features`: every entity's vector, packed ready to score, where the API finds it in microseconds."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.columns import feature_texts, same_columns
from assets.metadata import common, table_key
from assets.predictions import ready_by
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
        freshness_policy=ready_by(declaration),
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
                "model_version": version.version,
                "seconds": round(loaded.report.seconds, 2),
                "megabytes": round(loaded.report.bytes / 1e6, 1),
                "rows_per_second": round(loaded.report.rows / max(loaded.report.seconds, 1e-9)),
                "population_snapshot": str(loaded.source.id),
                "contract_fingerprint": contract.fingerprint.hex(),
                "dagster/uri": without_secrets(backends.settings.online),
                "dagster/column_schema": _columns(declaration, contract),
                "dagster/column_lineage": same_columns(
                    table_key(declaration.population.table), [contract.entity_key, *contract.features]
                ),
            },
        )

    return _online_features


def _columns(declaration: Declaration, contract: "Contract") -> dg.TableSchema:
    """Describe a packed vector: the key that it is found by, and the features in the contract's order."""
    texts = feature_texts(declaration)
    key = dg.TableColumn(contract.entity_key, contract.entity_key_type, "Whom the vector belongs to.")
    kinds = ((name, feature.kind) for name, feature in contract.features.items())
    return dg.TableSchema([key, *(dg.TableColumn(name, kind, texts.get(name)) for name, kind in kinds)])
