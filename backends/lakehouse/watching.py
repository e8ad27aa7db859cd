"""What has become of a table since somebody last looked, whoever wrote to it. No rows are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, ancestors_of
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Snapshot, snapshot_of


@dataclass(frozen=True)
class Look:
    """One look at a table's `main`, and what was committed since the one before.

    `commits` is None where that cannot be known: at the first look, or when history does not lead back to the last.
    """

    snapshot: Snapshot
    schema: pa.Schema
    location: str
    mark: str  # what the next look is told
    operation: str  # of the newest commit: append, overwrite, delete, replace
    story: str
    commits: int | None
    added_rows: int | None  # by those commits, as their writers say
    same_rows: bool  # files were rewritten, compacted for instance, and no row was changed


def look(lake: Lakehouse, table: str, since: str = "") -> Look | None:
    """Look at a table; None when it is as it was at the look that left the mark `since`.

    Raises `TableNotFoundError`, and `SnapshotNotFoundError` for a table that nobody has written to.
    """
    loaded = lake.load(table)
    found = loaded.current_snapshot()
    if found is None:
        lake.snapshot(table)  # which raises, with the remedy
        raise AssertionError(table)
    mark = f"{loaded.metadata.table_uuid}/{found.snapshot_id}"
    if mark == since:
        return None
    story, new = _since(loaded.metadata, found, since)
    return Look(
        snapshot=snapshot_of(table, found),
        schema=loaded.schema().as_arrow(),
        location=str(loaded.location()),
        mark=mark,
        operation=found.summary.operation.value if found.summary else "unknown",
        story=story,
        commits=None if new is None else len(new),
        added_rows=None if new is None else _added(new),
        same_rows=bool(new) and all(one.summary and one.summary.operation is Operation.REPLACE for one in new or ()),
    )


def _since(metadata: TableMetadata, found: IcebergSnapshot, mark: str) -> tuple[str, list[IcebergSnapshot] | None]:
    """Say what happened since a look, and return the commits, where they can be known."""
    table_id, _, seen = mark.partition("/")
    if not mark:
        return "seen for the first time", None
    if table_id != str(metadata.table_uuid):
        return "the table was made anew", None
    last = metadata.snapshot_by_id(int(seen))
    if last is None:
        return "new commits; the ones between are expired", None
    if found.snapshot_id in {old.snapshot_id for old in ancestors_of(last, metadata)}:
        return "put back to an earlier state", None
    new = _until(list(ancestors_of(found, metadata)), last)
    if new is None:
        return "put to another state, which does not descend from the last", None
    return f"{len(new)} commit{'s' if len(new) > 1 else ''} since the last look", new


def _until(newest_first: Sequence[IcebergSnapshot], last: IcebergSnapshot) -> list[IcebergSnapshot] | None:
    """Return the commits after `last`; None when it is not among them."""
    ids = [snapshot.snapshot_id for snapshot in newest_first]
    return list(newest_first[: ids.index(last.snapshot_id)]) if last.snapshot_id in ids else None


def _added(commits: Sequence[IcebergSnapshot]) -> int | None:
    """Sum the rows that commits say they added; None when one does not say."""
    entries = [commit.summary.additional_properties if commit.summary else {} for commit in commits]
    if not all("added-records" in one or "deleted-records" in one or "total-records" in one for one in entries):
        return None
    return sum(int(one.get("added-records", 0)) for one in entries)
