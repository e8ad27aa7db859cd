"""`silver/<model>_features`: every event of a day with its entity's history, which training and nights read."""

import warnings
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.columns import feature_texts, lineage_of_event_features
from assets.metadata import common, table_facts, table_key, tier
from assets.predictions import partitions
from assets.resources import Backends
from models.declaration import Declaration
from models.event_rules import EVENT_DAY

if TYPE_CHECKING:
    from backends.event_features import Days


def event_features(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset of the feature table; the days of a backfill are made in one run, one stream and one commit."""
    events, table = declaration.events, declaration.features_table
    assert events is not None

    def _event_features(
        context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends]
    ) -> dg.MaterializeResult:
        from backends.event_features import write_event_features

        settings, days = backends.settings, [date.fromisoformat(day) for day in context.partition_keys]
        run = {"dagster_run_id": context.op_execution_context.run_id}
        with backends.lakehouse() as lake:
            done = write_event_features(lake, declaration, days, settings.scratch, settings.threads, run)
            about = table_facts(done.snapshot, lake.schema(table), lake.location(table), _columns(declaration))
        for day, rows in done.rows.items():
            facts = {"dagster/partition_row_count": rows, "refused_by_the_contract": done.refused[day]}
            context.add_asset_metadata(facts, partition_key=day.isoformat())
        return dg.MaterializeResult(
            data_version=dg.DataVersion(f"{declaration.features_fingerprint}:{done.source.id}"),
            metadata=_facts(done) | about | {"dagster/column_lineage": lineage_of_event_features(declaration)},
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # of `backfill_policy`
        return dg.asset(
            key=table_key(table),
            deps=[table_key(events.table)],
            partitions_def=partitions(declaration),
            backfill_policy=dg.BackfillPolicy.single_run(),
            code_version=declaration.features_fingerprint,
            pool=table.replace(".", "_"),  # one writer per table
            description=(
                f"Every row of `{events.table}`, with what was known of its `{declaration.entity_key}` just before it: "
                "what the API counts when it is asked."
            ),
            metadata={"dagster/table_name": table},
            tags=tier(table),
            **common(declaration, "iceberg", "duckdb"),
        )(_event_features)


def _facts(done: "Days") -> dict[str, Any]:
    return {
        "days": len(done.rows),
        "events": sum(done.rows.values()),
        "refused_by_the_contract": sum(done.refused.values()),
        "events_read": done.read,
        "seconds": round(done.seconds, 2),
        "rows_per_second": round(done.read / max(done.seconds, 1e-9)),
        "source_snapshot": str(done.source.id),
    }


def _columns(declaration: Declaration) -> dict[str, str]:
    events = declaration.events
    assert events is not None
    return {
        events.key: "The event.",
        declaration.entity_key: "Whose history counts.",
        events.time: "When it happened, UTC.",
        EVENT_DAY: f"The day, {declaration.predictions.timezone}, and the partition.",
        declaration.examples.label: "The outcome, as it was known when the partition was made.",
        **feature_texts(declaration),
    }
