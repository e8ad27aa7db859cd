"""Source tables: a new snapshot, whoever committed it, becomes a materialization, so that what reads it follows."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.metadata import table_facts, table_key
from assets.recorded import DATA_VERSION, recorded_version
from assets.resources import Backends
from assets.sources import tables_of_others
from models.declaration import Declaration
from models.errors import SnapshotNotFoundError, TableNotFoundError

SECONDS = 30


def source_observers(declarations: Sequence[Declaration]) -> list[dg.SensorDefinition]:
    """Make a sensor for each table that models read and others write, however many share it."""
    return list(map(source_observer, tables_of_others(declarations)))


def source_observer(table: str) -> dg.SensorDefinition:
    """Make the sensor of one table. Its cursor is the last look; a catalog that does not answer fails the tick."""
    key = table_key(table)

    @dg.sensor(
        name=f"{table.replace('.', '_')}_observer",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Reports a new snapshot of {table}, whichever tool committed it.",
    )
    def _observer(
        context: dg.SensorEvaluationContext, backends: dg.ResourceParam[Backends]
    ) -> dg.SensorResult | dg.SkipReason:
        from backends.lakehouse.watching import look

        with backends.lakehouse() as lake:
            try:
                seen = look(lake, table, context.cursor or "")
            except (TableNotFoundError, SnapshotNotFoundError) as error:
                return dg.SkipReason(str(error))
        if seen is None:
            return dg.SkipReason(f"No new snapshot of {table}.")
        version = f"iceberg:{seen.snapshot.id}"
        if seen.same_rows:
            return _moved_on(seen.mark, f"{table} was rewritten ({seen.operation}); its rows are the same.")
        if recorded_version(context.instance, key) == version:
            return _moved_on(seen.mark, f"Snapshot {seen.snapshot.id} of {table} is recorded already.")
        facts: dict[str, Any] = {
            **table_facts(seen.snapshot, seen.schema, seen.location),
            "operation": seen.operation,
            "change": seen.story,
            "commits": seen.commits,
            "added_rows": seen.added_rows,
        }
        known = {name: value for name, value in facts.items() if value is not None}
        event = dg.AssetMaterialization(key, metadata=known, tags={DATA_VERSION: version})
        return dg.SensorResult(cursor=seen.mark, asset_events=[event])

    return _observer


def _moved_on(mark: str, reason: str) -> dg.SensorResult:
    return dg.SensorResult(cursor=mark, skip_reason=reason)
