"""How a table grows, by rows that are added in one commit and by columns, and how its oldest days are dropped again."""

from collections.abc import Sequence
from datetime import date

import pyarrow as pa
from pyiceberg.expressions import LessThan
from pyiceberg.table import TableProperties

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.commits import Change, commit_once, conflict, failures_named, retried
from backends.lakehouse.reading import Snapshot, prefixed, snapshot_of


def append(lake: Lakehouse, table: str, parts: Sequence[str], properties: dict[str, str], on: Snapshot) -> Snapshot:
    """Add the parts to what stood in `on`, in one commit; `PublishConflictError` when `main` has moved since."""
    loaded = commit_once(lake.load(table))
    current = snapshot_of(table, loaded.current_snapshot())
    if current.id != on.id:
        raise conflict(table, f"main is at {current.id} and no more at {on.id}")
    with failures_named(table), Change(loaded) as change:
        if TableProperties.MANIFEST_MERGE_ENABLED not in loaded.properties:
            change.set_properties({TableProperties.MANIFEST_MERGE_ENABLED: "true"})  # else a manifest for each commit
        change.add_files(list(parts), prefixed(properties), check_duplicate_files=False)
    # Not read anew: an error after the commit would remove parts that the table now needs.
    return snapshot_of(table, loaded.current_snapshot())


def add_columns(lake: Lakehouse, table: str, schema: pa.Schema) -> None:
    """Give the table the columns of `schema` that it has not; older rows have null there. Types are not compared.

    Others may do the same, or commit something else, at the same moment.
    """

    def add() -> None:
        loaded = commit_once(lake.load(table))
        there = {field.name for field in loaded.schema().fields}
        if missing := [field for field in schema if field.name not in there]:
            with loaded.update_schema() as update:
                update.union_by_name(pa.schema(missing))

    with failures_named(table):
        retried(add)


def drop_days(lake: Lakehouse, table: str, column: str, before: date) -> int:
    """Delete the partitions of the days before one, in one commit; return how many rows that were.

    Files are not rewritten; what older snapshots show of them goes with those (`maintenance`).
    """
    loaded, old = commit_once(lake.load(table)), LessThan(column, before)
    rows = sum(task.file.record_count for task in loaded.scan(row_filter=old).plan_files())
    if rows:
        with failures_named(table), Change(loaded) as change:
            change.delete(old)
    return int(rows)


def newest_with(lake: Lakehouse, table: str, name: str) -> Snapshot | None:
    """Return the newest snapshot of `main` that has a property of ours; None when there is none."""
    return next((snapshot for snapshot in lake.history(table) if name in snapshot.properties), None)
