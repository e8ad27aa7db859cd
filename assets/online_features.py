"""`<model>/online_features`: what the API finds in microseconds: every entity's vector, or of events its history."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.columns import feature_texts, remembered_columns, same_columns
from assets.metadata import common, table_key
from assets.predictions import ready_by
from assets.resources import Backends
from backends.settings import without_secrets
from models.declaration import Declaration

if TYPE_CHECKING:
    from models.contract import Contract

VECTORS = (
    "One packed feature vector for each entity, of the snapshot that the newest predictions came from.",
    "As many vectors as the night scored rows.",
)
HISTORIES = (
    "Each entity's earlier events, up to the end of the day that was scored last; the API adds those that it is asked.",
    "All events of the day that the night has scored.",
)


def online_features(declaration: Declaration, store: str = "lmdb") -> dg.AssetsDefinition:
    """Make the asset that loads the online store from the very snapshot that the newest night was scored from."""
    key, gold = dg.AssetKey([declaration.name, "online_features"]), declaration.predictions_table
    about, checked = HISTORIES if declaration.events else VECTORS
    check = dg.AssetCheckSpec("every_entity_is_online", asset=key, blocking=True, description=checked)

    @dg.asset(
        key=key,
        deps=[dg.AssetKey([declaration.name, "champion"]), table_key(gold)],
        check_specs=[check],
        freshness_policy=ready_by(declaration),
        pool=f"{declaration.name}_online_features",  # one writer per store
        description=about,
        **common(declaration, store),
    )
    def _online_features(
        context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends]
    ) -> dg.MaterializeResult:
        from models.scoring import Scorer

        registry = backends.registry()
        version = registry.champion(declaration.name)
        contract: Contract = Scorer(registry.read_version(version), version.sha256).contract
        run = {"model_version": str(version.version), "dagster_run_id": context.op_execution_context.run_id}
        load = _histories if declaration.events else _vectors
        complete, source, facts = load(declaration, backends, contract, run)
        return dg.MaterializeResult(
            check_results=[dg.AssetCheckResult(check_name="every_entity_is_online", passed=complete)],
            data_version=dg.DataVersion(f"{contract.fingerprint.hex()}:{source}"),
            metadata={
                "model_version": version.version,
                **facts,
                "contract_fingerprint": contract.fingerprint.hex(),
                "dagster/uri": without_secrets(backends.settings.online),
                **_described(declaration, contract),
            },
        )

    return _online_features


def _vectors(
    declaration: Declaration, backends: Backends, contract: "Contract", run: dict[str, str]
) -> tuple[bool, int, dict[str, Any]]:
    """Load vectors; return whether they are complete, the snapshot that they come from, and facts."""
    from backends.feature_loading import load_features

    store, gold = backends.online_store(declaration.name), declaration.predictions_table
    population, time = declaration.scored_table, declaration.scored_time
    with backends.lakehouse() as lake:
        loaded = load_features(lake, backends.engine(), store, contract, population, time, gold, run)
    report, source = loaded.report, loaded.source.id
    facts = {"population_snapshot": str(source), **_figures(report.rows, report.bytes, report.seconds)}
    return report.rows == loaded.scored, source, facts


def _histories(
    declaration: Declaration, backends: Backends, contract: "Contract", run: dict[str, str]
) -> tuple[bool, int, dict[str, Any]]:
    """Load histories; return as `_vectors` does."""
    from backends.history_loading import load_histories

    settings, store = backends.settings, backends.histories(contract)
    with backends.lakehouse() as lake:
        loaded = load_histories(lake, store, declaration, settings.scratch, settings.threads, run)
    seeded, source = loaded.seeded, loaded.source.id
    facts = {
        "events_snapshot": str(source),
        "entities": seeded.entities,
        "events_of_the_day": loaded.of_the_day,
        "events_scored": loaded.scored,
        **_figures(seeded.events, seeded.bytes, seeded.seconds),
    }
    return loaded.of_the_day >= loaded.scored, source, facts


def _figures(rows: int, size: int, seconds: float) -> dict[str, Any]:
    return {
        "dagster/row_count": rows,
        "megabytes": round(size / 1e6, 1),
        "seconds": round(seconds, 2),
        "rows_per_second": round(rows / max(seconds, 1e-9)),
    }


def _described(declaration: Declaration, contract: "Contract") -> dict[str, Any]:
    """Describe what is packed under a key: the features in the contract's order, or what is remembered of events."""
    texts = feature_texts(declaration)
    kinds: dict[str, str] = {contract.entity_key: contract.entity_key_type}
    kinds |= {name: feature.kind for name, feature in contract.features.items()}
    texts[contract.entity_key] = "Whom it belongs to."
    if contract.events:
        kinds |= {contract.events.key: contract.events.key_type, contract.events.time: "time"}
        kinds = {name: kinds[name] for name in remembered_columns(declaration)}
    return {
        "dagster/column_schema": dg.TableSchema([dg.TableColumn(n, kind, texts.get(n)) for n, kind in kinds.items()]),
        "dagster/column_lineage": same_columns(table_key(declaration.source_table), kinds),
    }
