"""How a table changes: by an audited publish, by going back, or as a whole.

A publish has three steps: `stage` writes a branch, the caller audits what stands there, `publish` moves `main` to it.
Until the last, which is one commit, readers see the old rows; a crash at any point leaves at most
a branch, which the next `stage` of the same day removes. Two days at once both publish: the second is put on top of the
first, with the files that were audited. Whatever else moves `main` meanwhile is a `PublishConflictError`.
"""

import json
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, EqualTo, In
from pyiceberg.table import Table
from pyiceberg.table.snapshots import ancestors_of
from pyiceberg.table.update.snapshot import ManageSnapshots

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.commits import (
    ATTEMPTS,
    Change,
    commit_once,
    conflict,
    failures_named,
    give_way,
    retried,
)
from backends.lakehouse.night_tags import DAY, NIGHT_TAG, night_tags_at, set_tags
from backends.lakehouse.reading import PROPERTIES, Snapshot, prefixed, snapshot_of
from models.errors import PublishConflictError, SnapshotNotFoundError

AUDIT_BRANCH = "audit_"
ABANDONED_TAG = "rolled_back_"


@dataclass(frozen=True)
class Staged:
    """One day's rows on a branch, not published yet."""

    table: str
    column: str
    day: date
    parts: tuple[str, ...]
    properties: dict[str, str]
    branch: str
    base: int
    snapshot: Snapshot


@dataclass(frozen=True)
class RolledBack:
    """Where `main` was, where it is now, and the tag that keeps what was there."""

    before: Snapshot
    now: Snapshot
    tag: str


def write_whole(lake: Lakehouse, table: str, parts: Sequence[str], properties: dict[str, str]) -> Snapshot:
    """Make the parts the table's only content, in one commit on `main`; for tables that need no audit."""
    loaded = commit_once(lake.load(table))
    before = loaded.current_snapshot()
    with failures_named(table), Change(loaded) as change:
        if before and snapshot_of(table, before).rows:
            change.delete(AlwaysTrue())
        change.add_files(list(parts), prefixed(properties), check_duplicate_files=False)
    # Not read anew: an error after the commit would remove parts that the table now needs.
    return snapshot_of(table, loaded.current_snapshot())


def write_day(
    lake: Lakehouse, table: str, column: str, day: date, parts: Sequence[str], properties: dict[str, str]
) -> Snapshot:
    """Make the parts the content of one day's partition, in one commit on `main`; for tables that need no audit."""
    return write_days(lake, table, column, [day], parts, properties)


def write_days(
    lake: Lakehouse, table: str, column: str, days: Sequence[date], parts: Sequence[str], properties: dict[str, str]
) -> Snapshot:
    """Make the parts the content of some days' partitions, in one commit on `main`; for tables without an audit."""

    def write() -> Snapshot:
        loaded = commit_once(lake.load(table))
        with Change(loaded) as change:
            _replace(change, loaded, In(column, days), parts, properties, "main")
        return snapshot_of(table, loaded.current_snapshot())

    with failures_named(table):
        return retried(write)


def stage(
    lake: Lakehouse, table: str, column: str, day: date, parts: Sequence[str], properties: dict[str, str]
) -> Staged:
    """Replace one day's partition by the parts, on a branch of its own. Stale branches of that day are removed.

    `PublishConflictError` when others commit so often that there is no room.
    """
    lake.load(table)
    with failures_named(table):
        return retried(lambda: _stage(lake, table, column, day, parts, properties))


def publish(lake: Lakehouse, staged: Staged) -> Snapshot:
    """Move `main` to the staged snapshot, tag it `night_<day>` and drop the branch, in one commit.

    When only other days were published since it was staged, the same files are staged again on top of them.
    `PublishConflictError` when something else moved `main`, or the branch: rows would be lost, or unaudited ones seen.
    The branch is dropped then.
    """
    try:
        with failures_named(staged.table):
            for attempt in range(ATTEMPTS - 1):
                staged = _on_top(lake, staged)
                with suppress(CommitFailedException):
                    return _move_main(lake, staged)
                give_way(attempt)
            staged = _on_top(lake, staged)
            return _move_main(lake, staged)
    except PublishConflictError:
        discard(lake, staged)
        raise


def discard(lake: Lakehouse, staged: Staged) -> None:
    """Drop a staged branch that is not to be published; one that is gone already is no matter."""
    with suppress(CommitFailedException, ValueError):
        loaded = lake.load(staged.table)
        if staged.branch in loaded.refs():
            _references(loaded).remove_branch(staged.branch).commit()


def rollback(lake: Lakehouse, table: str, snapshot_id: int, reason: str, by: str) -> RolledBack:
    """Put `main` back to a snapshot that was once published; nothing is deleted.

    In the same commit a tag keeps what stood there, the nights' tags follow `main`, and the table's properties get the
    record: from, to, when, by whom and why.
    `SnapshotNotFoundError` for a snapshot that never was on `main`; `PublishConflictError` when somebody
    publishes in the same moment.
    """
    loaded = lake.load(table)
    published = {entry.snapshot_id for entry in loaded.metadata.snapshot_log}
    there = [s.snapshot_id for s in loaded.snapshots() if s.snapshot_id in published]
    if snapshot_id not in there:
        raise SnapshotNotFoundError(
            f"Table {table!r} cannot go back to snapshot {snapshot_id}: it was never published, or is expired. "
            f"Choose one of: {', '.join(map(str, there))}."
        )
    before, at = lake.snapshot(table), datetime.now(UTC)
    tag = f"{ABANDONED_TAG}{at:%Y%m%dT%H%M%S%f}"
    record = {"from": str(before.id), "to": str(snapshot_id), "at": at.isoformat(), "by": by, "reason": reason}
    with failures_named(table), Change(loaded) as change:
        refs = ManageSnapshots(change).set_current_snapshot(snapshot_id).create_tag(before.id, tag)
        set_tags(refs, night_tags_at(loaded.metadata, snapshot_id)).commit()
        change.set_properties({f"{PROPERTIES}rollback.{at:%Y%m%dT%H%M%S%f}": json.dumps(record)})
    return RolledBack(before, lake.snapshot(table), tag)


def rollbacks(lake: Lakehouse, table: str) -> list[dict[str, str]]:
    """Return the records of every rollback, oldest first: from, to, at, by, reason."""
    properties = lake.load(table).properties
    return [json.loads(properties[name]) for name in sorted(properties) if name.startswith(f"{PROPERTIES}rollback.")]


# --- the steps ------------------------------------------------------------------------------------------------------


def _replace(
    change: Change,
    loaded: Table,
    partitions: BooleanExpression,
    parts: Sequence[str],
    properties: dict[str, str],
    branch: str,
) -> None:
    """Replace partitions of `main` as it was loaded, on a branch that begins there, or on `main` itself."""
    ours = prefixed(properties)
    if any(True for _ in loaded.scan(row_filter=partitions).plan_files()):
        change.delete(partitions, ours, branch=branch)
    if parts:
        change.add_files(list(parts), ours, check_duplicate_files=False, branch=branch)


def _stage(
    lake: Lakehouse, table: str, column: str, day: date, parts: Sequence[str], properties: dict[str, str]
) -> Staged:
    loaded = commit_once(lake.load(table))
    base, prefix = snapshot_of(table, loaded.current_snapshot()).id, f"{AUDIT_BRANCH}{day:%Y%m%d}_"
    branch = prefix + uuid.uuid4().hex[:8]
    with Change(loaded) as change:
        refs = ManageSnapshots(change).create_branch(base, branch)
        for stale in [name for name in loaded.refs() if name.startswith(prefix)]:
            refs.remove_branch(stale)
        refs.commit()
        _replace(change, loaded, EqualTo(column, day), parts, properties, branch)
    snapshot = snapshot_of(table, loaded.snapshot_by_name(branch))
    return Staged(table, column, day, tuple(parts), properties, branch, base, snapshot)


def _on_top(lake: Lakehouse, staged: Staged) -> Staged:
    """Return what is staged on the present `main`: itself, or the same files staged again where others published."""
    loaded = lake.load(staged.table)
    head = loaded.snapshot_by_name(staged.branch)
    if head is None or head.snapshot_id != staged.snapshot.id:
        raise conflict(staged.table, f"branch {staged.branch} is not at {staged.snapshot.id} any more")
    if snapshot_of(staged.table, loaded.current_snapshot()).id == staged.base:
        return staged
    return _stage_again(lake, staged)


def _move_main(lake: Lakehouse, staged: Staged) -> Snapshot:
    loaded = lake.load(staged.table)
    if snapshot_of(staged.table, loaded.current_snapshot()).id != staged.base:
        raise CommitFailedException(f"main is not at {staged.base} any more")
    # By its id: what was audited is published, even if somebody moves the branch in this moment.
    change = _references(loaded).set_current_snapshot(staged.snapshot.id)
    change.create_tag(staged.snapshot.id, f"{NIGHT_TAG}{staged.day}").remove_branch(staged.branch).commit()
    return snapshot_of(staged.table, loaded.current_snapshot())


def _stage_again(lake: Lakehouse, staged: Staged) -> Staged:
    """Stage the audited files on top of the present `main`, where only other days were published meanwhile."""
    again = retried(lambda: _stage(lake, staged.table, staged.column, staged.day, staged.parts, staged.properties))
    try:
        # Afterwards, since what comes to `main` while it is staged is below it too.
        _check_only_other_days(lake, staged, again)
        _check_files(lake, again)
    except PublishConflictError:
        discard(lake, again)
        raise
    return again


def _check_only_other_days(lake: Lakehouse, staged: Staged, again: Staged) -> None:
    """Raise a conflict unless all that `main` went through between the two bases are published nights of other days."""
    loaded, since = lake.load(staged.table), []
    for snapshot in ancestors_of(loaded.snapshot_by_id(again.base), loaded.metadata):
        if snapshot.snapshot_id == staged.base:
            break
        since.append(snapshot_of(staged.table, snapshot))
    else:
        raise conflict(staged.table, f"main does not descend from {staged.base} any more")
    for found in since:
        if DAY not in found.properties:
            raise conflict(staged.table, f"snapshot {found.id} on main is no published night")
        if found.properties[DAY] == staged.day.isoformat():
            raise conflict(staged.table, f"snapshot {found.id} published {staged.day} too")


def _check_files(lake: Lakehouse, again: Staged) -> None:
    """Raise a conflict unless the day on the branch is made of the audited files alone."""
    scan = lake.load(again.table).scan(row_filter=EqualTo(again.column, again.day), snapshot_id=again.snapshot.id)
    if {task.file.file_path for task in scan.plan_files()} != set(again.parts):
        raise conflict(again.table, f"branch {again.branch} has other files than those that were audited")


def _references(loaded: Table) -> ManageSnapshots:
    """Begin a commit of branches and tags."""
    return ManageSnapshots(Change(loaded, autocommit=True))
