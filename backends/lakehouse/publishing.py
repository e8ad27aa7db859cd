"""How a table changes: by an audited publish, by going back, or as a whole.

A publish has three steps: `stage` writes a branch, the caller audits what stands there, `publish` moves `main` to it.
Until the last, which is one commit, readers see the old rows; a crash at any point leaves at most
a branch, which the next `stage` of the same day removes. Two days at once both publish: the second is put on top of the
first, with the files that were audited. Whatever else moves `main` meanwhile is a `PublishConflictError`.
"""

import errno
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TypeVar

from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ValidationException
from pyiceberg.expressions import AlwaysTrue, EqualTo
from pyiceberg.table import Table
from pyiceberg.table.snapshots import ancestors_of
from sqlalchemy.exc import OperationalError

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import PROPERTIES, Snapshot, snapshot_of
from models.errors import LakehouseError, PublishConflictError, SnapshotNotFoundError

ATTEMPTS = 8  # of a commit that others come before
AUDIT_BRANCH = "audit_"
NIGHT_TAG = "night_"
ABANDONED_TAG = "rolled_back_"
DAY = "scored_on"  # the property that says which day a snapshot published

REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE}

RACES = (CommitFailedException, ValidationException, ValueError)

Result = TypeVar("Result")


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
    loaded = lake.load(table)
    before = loaded.current_snapshot()
    with _failures_named(table), loaded.transaction() as change:
        if before and snapshot_of(table, before).rows:
            change.delete(AlwaysTrue())
        change.add_files(list(parts), _prefixed(properties), check_duplicate_files=False)
    # Not read anew: an error after the commit would remove parts that the table now needs.
    return snapshot_of(table, loaded.current_snapshot())


def write_day(
    lake: Lakehouse, table: str, column: str, day: date, parts: Sequence[str], properties: dict[str, str]
) -> Snapshot:
    """Make the parts the content of one day's partition, in one commit on `main`; for tables that need no audit."""
    with _failures_named(table):
        return _retried(lambda: _write_day(lake, table, column, day, parts, properties))


def stage(
    lake: Lakehouse, table: str, column: str, day: date, parts: Sequence[str], properties: dict[str, str]
) -> Staged:
    """Replace one day's partition by the parts, on a branch of its own. Stale branches of that day are removed.

    `PublishConflictError` when others commit so often that there is no room.
    """
    lake.load(table)
    with _failures_named(table):
        return _retried(lambda: _stage(lake, table, column, day, parts, properties))


def publish(lake: Lakehouse, staged: Staged) -> Snapshot:
    """Move `main` to the staged snapshot, tag it `night_<day>` and drop the branch, in one commit.

    When only other days were published since it was staged, the same files are staged again on top of them.
    `PublishConflictError` when something else moved `main`, or the branch: rows would be lost, or unaudited ones seen.
    The branch is dropped then.
    """
    try:
        with _failures_named(staged.table):
            for _ in range(ATTEMPTS - 1):
                staged = _on_top(lake, staged)
                with suppress(CommitFailedException):
                    return _move_main(lake, staged)
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
            loaded.manage_snapshots().remove_branch(staged.branch).commit()


def rollback(lake: Lakehouse, table: str, snapshot_id: int, reason: str, by: str) -> RolledBack:
    """Put `main` back to a snapshot that was once published; nothing is deleted.

    In the same commit a tag keeps what stood there, and the table's properties get the record: from, to, when, by
    whom and why. `SnapshotNotFoundError` for a snapshot that never was on `main`; `PublishConflictError` when somebody
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
    with _failures_named(table), loaded.transaction() as change:
        # `main` first: of several references, pyiceberg asserts only the first to be where it was.
        change.manage_snapshots().set_current_snapshot(snapshot_id).create_tag(before.id, tag).commit()
        change.set_properties({f"{PROPERTIES}rollback.{at:%Y%m%dT%H%M%S%f}": json.dumps(record)})
    return RolledBack(before, lake.snapshot(table), tag)


def rollbacks(lake: Lakehouse, table: str) -> list[dict[str, str]]:
    """Return the records of every rollback, oldest first: from, to, at, by, reason."""
    properties = lake.load(table).properties
    return [json.loads(properties[name]) for name in sorted(properties) if name.startswith(f"{PROPERTIES}rollback.")]


# --- the steps ------------------------------------------------------------------------------------------------------


def _write_day(
    lake: Lakehouse, table: str, column: str, day: date, parts: Sequence[str], properties: dict[str, str]
) -> Snapshot:
    loaded = lake.load(table)
    _replace_day(loaded, column, day, parts, properties, "main")
    return snapshot_of(table, loaded.current_snapshot())


def _replace_day(
    loaded: Table, column: str, day: date, parts: Sequence[str], properties: dict[str, str], branch: str
) -> None:
    partition, ours = EqualTo(column, day), _prefixed(properties)
    with loaded.transaction() as change:
        if any(True for _ in loaded.scan(row_filter=partition).use_ref(branch).plan_files()):
            change.delete(partition, ours, branch=branch)
        if parts:
            change.add_files(list(parts), ours, check_duplicate_files=False, branch=branch)


def _stage(
    lake: Lakehouse, table: str, column: str, day: date, parts: Sequence[str], properties: dict[str, str]
) -> Staged:
    loaded = lake.load(table)
    base, prefix = snapshot_of(table, loaded.current_snapshot()).id, f"{AUDIT_BRANCH}{day:%Y%m%d}_"
    branch = prefix + uuid.uuid4().hex[:8]
    # A commit of its own: pyiceberg, when it tries a commit of rows again, forgets branches made in the same one.
    refs = loaded.manage_snapshots().create_branch(base, branch)
    for stale in [name for name in loaded.refs() if name.startswith(prefix)]:
        refs.remove_branch(stale)
    refs.commit()
    _replace_day(loaded, column, day, parts, properties, branch)
    snapshot = snapshot_of(table, loaded.snapshot_by_name(branch))
    return Staged(table, column, day, tuple(parts), properties, branch, base, snapshot)


def _on_top(lake: Lakehouse, staged: Staged) -> Staged:
    """Return what is staged on the present `main`: itself, or the same files staged again where others published."""
    loaded = lake.load(staged.table)
    head = loaded.snapshot_by_name(staged.branch)
    if head is None or head.snapshot_id != staged.snapshot.id:
        raise _conflict(staged.table, f"branch {staged.branch} is not at {staged.snapshot.id} any more")
    if snapshot_of(staged.table, loaded.current_snapshot()).id == staged.base:
        return staged
    _check_only_other_days(loaded, staged)
    return _stage_again(lake, staged)


def _move_main(lake: Lakehouse, staged: Staged) -> Snapshot:
    loaded = lake.load(staged.table)
    if snapshot_of(staged.table, loaded.current_snapshot()).id != staged.base:
        raise CommitFailedException(f"main is not at {staged.base} any more")
    # By its id: what was audited is published, even if somebody moves the branch in this moment.
    change = loaded.manage_snapshots().set_current_snapshot(staged.snapshot.id)
    change.create_tag(staged.snapshot.id, f"{NIGHT_TAG}{staged.day}").remove_branch(staged.branch).commit()
    return snapshot_of(staged.table, loaded.current_snapshot())


def _check_only_other_days(loaded: Table, staged: Staged) -> None:
    """Raise a conflict unless all that `main` went through since the base are published nights of other days."""
    since = []
    for snapshot in ancestors_of(loaded.current_snapshot(), loaded.metadata):
        if snapshot.snapshot_id == staged.base:
            break
        since.append(snapshot_of(staged.table, snapshot))
    else:
        raise _conflict(staged.table, f"main does not descend from {staged.base} any more")
    for snapshot in since:
        if DAY not in snapshot.properties:
            raise _conflict(staged.table, f"snapshot {snapshot.id} on main is no published night")
        if snapshot.properties[DAY] == staged.day.isoformat():
            raise _conflict(staged.table, f"snapshot {snapshot.id} published {staged.day} too")


def _stage_again(lake: Lakehouse, staged: Staged) -> Staged:
    """Stage the audited files on top of the present `main`; they, and no others, are that day then."""
    again = _stage(lake, staged.table, staged.column, staged.day, staged.parts, staged.properties)
    scan = lake.load(staged.table).scan(row_filter=EqualTo(staged.column, staged.day)).use_ref(again.branch)
    if {task.file.file_path for task in scan.plan_files()} != set(staged.parts):
        discard(lake, again)
        raise _conflict(staged.table, f"branch {again.branch} has other files than those that were audited")
    return again


# --- what can go wrong ----------------------------------------------------------------------------------------------


def _retried(commit: Callable[[], Result]) -> Result:
    """Try again what another commit came before."""
    for _ in range(ATTEMPTS - 1):
        try:
            return commit()
        except RACES as error:
            if not _is_race(error):
                raise
    return commit()


def _is_race(error: Exception) -> bool:
    # pyiceberg's SQL catalog reports one of the races as a ValueError about sequence numbers.
    return not isinstance(error, ValueError) or "sequence number" in str(error)


@contextmanager
def _failures_named(table: str) -> Iterator[None]:
    """Turn the commit that came second into `PublishConflictError`, and what the storage refuses into `LakehouseError`.

    A connection that broke is neither: nobody knows then whether the commit arrived.
    """
    try:
        yield
    except RACES as error:
        if not _is_race(error):
            raise
        raise _conflict(table, str(error)) from error
    except (OSError, OperationalError) as error:
        if not _is_refusal(error):
            raise CommitStateUnknownException(
                f"Nobody knows whether the change of table {table!r} arrived: {error}. Run again: a day that was "
                "published is replaced by itself."
            ) from error
        raise LakehouseError(
            f"Table {table!r} cannot be changed: {error}. Nothing was published: make room for its metadata and for "
            "the catalog, and run again."
        ) from error


def _is_refusal(error: OSError | OperationalError) -> bool:
    """Tell a full or read-only disk, after which nothing can have been committed, from a broken connection."""
    if isinstance(error, OperationalError):
        return isinstance(error.orig, sqlite3.OperationalError)
    return error.errno in REFUSALS


def _conflict(table: str, what: str) -> PublishConflictError:
    return PublishConflictError(
        f"Table {table!r} was changed by somebody else while its new rows were written or audited ({what}). "
        "Nothing was published: run again, on top of that change."
    )


def _prefixed(properties: dict[str, str]) -> dict[str, str]:
    return {PROPERTIES + key: value for key, value in properties.items()}
