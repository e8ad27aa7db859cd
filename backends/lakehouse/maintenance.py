"""Upkeep of a table: stale audit branches, snapshots that nobody can need, and files that nothing names.

What is kept, and why, is in `docs/operations.md`. A dry run makes the same plan from the same facts as a real one.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import zip_longest

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import SnapshotRef
from pyiceberg.table.update.snapshot import ExpireSnapshots, ManageSnapshots

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.commits import Change, assert_references
from backends.lakehouse.files import FoundFile, files_below
from backends.lakehouse.night_tags import day_of, line_of
from backends.lakehouse.orphans import KINDS, Orphan, all_or_nothing, orphans, plain
from backends.lakehouse.publishing import AUDIT_BRANCH
from backends.lakehouse.reading import PROPERTIES, Snapshot, snapshot_of
from models.errors import LakehouseError, PublishConflictError

HISTORY = timedelta(days=90)
LEFTOVERS = timedelta(days=3)
SHORTEST = timedelta(hours=1)  # a run in progress is never so old
DELETING_THREADS = 8
BRANCH_OF_A_NIGHT = re.compile(AUDIT_BRANCH + r"\d{8}_[0-9a-f]{8}")


@dataclass(frozen=True)
class Ages:
    """How old things must be to go: `history` for what `main` once showed, `leftovers` for what it never did."""

    history: timedelta = HISTORY
    leftovers: timedelta = LEFTOVERS

    def __post_init__(self) -> None:
        for name, age in (("history", self.history), ("leftovers", self.leftovers)):
            if age < SHORTEST:
                raise LakehouseError(
                    f"{name} is {age}: less than {SHORTEST}, within which a run may still be at work. Keep more."
                )


@dataclass(frozen=True)
class Upkeep:
    """What is to go from one table, or what went: `applied` tells; `failed` has why a file is still there."""

    table: str
    applied: bool
    branches: list[str] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    files: list[Orphan] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """How much the files take that are to go, or went."""
        return sum(orphan.file.size for orphan in self.files if orphan.file.address not in self.failed)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return number and bytes by kind, branches and snapshots first."""
        gone = [orphan for orphan in self.files if orphan.file.address not in self.failed]
        sizes = {kind: [orphan.file.size for orphan in gone if orphan.kind == kind] for kind in KINDS}
        files = {kind: (len(each), sum(each)) for kind, each in sizes.items()}
        return {"audit branch": (len(self.branches), 0), "snapshot": (len(self.snapshots), 0)} | files

    def lines(self) -> Iterator[str]:
        """Name each thing."""
        yield from (f"audit branch {name}" for name in self.branches)
        yield from (f"snapshot {each.id} of {each.committed_at:%Y-%m-%d %H:%M:%S} UTC" for each in self.snapshots)
        yield from (f"{orphan.kind} {orphan.file.address} ({orphan.file.size} bytes)" for orphan in self.files)


def maintain(lake: Lakehouse, table: str, ages: Ages, apply: bool = False, now: datetime | None = None) -> Upkeep:
    """Find what nobody needs; with `apply`, remove it.

    Branches and snapshots go in one commit, files after it. `LakehouseError`, and nothing removed, for a table that
    somebody else writes, and where the table's references cannot all be read; `PublishConflictError` when a branch or
    tag moved meanwhile. A file that cannot be deleted is in `failed`, and found again next time.
    """
    now = now or datetime.now(UTC)
    loaded = lake.load(table)
    found = list(files_below(loaded.io, loaded.location()))  # before the references: what they name since is young
    loaded = lake.load(table)
    _check_ours(table, loaded)
    with all_or_nothing(table):
        branches = _stale_branches(loaded, found, now - ages.leftovers)
    kept = _kept(loaded.metadata, {n: r for n, r in loaded.refs().items() if n not in branches}, ages, now)
    expired = [snapshot for snapshot in loaded.snapshots() if snapshot.snapshot_id not in kept]
    remaining = [snapshot for snapshot in loaded.snapshots() if snapshot.snapshot_id in kept]
    files = orphans(table, loaded, remaining, found, now - ages.leftovers)
    failed: dict[str, str] = {}
    if apply:
        _commit(table, loaded, branches, [snapshot.snapshot_id for snapshot in expired])
        loaded = lake.load(table)
        files = orphans(table, loaded, loaded.snapshots(), found, now - ages.leftovers)
        failed = _delete(loaded, files)
    return Upkeep(table, apply, branches, [snapshot_of(table, snapshot) for snapshot in expired], files, failed)


# --- what is kept ---------------------------------------------------------------------------------------------------


def _check_ours(table: str, loaded: Table) -> None:
    summaries = [s.summary.additional_properties for s in loaded.snapshots() if s.summary]
    ours = any(name.startswith(PROPERTIES) for summary in summaries for name in summary)
    if not ours and any(int(summary.get("total-records", 0)) for summary in summaries):
        raise LakehouseError(
            f"Table {table!r} has rows, and Tandem wrote none of them: its upkeep is left to whoever did. Name another "
            "table in the declaration if this is a mistake."
        )


def _kept(metadata: TableMetadata, refs: dict[str, SnapshotRef], ages: Ages, now: datetime) -> set[int]:
    """Return the snapshots that stay.

    Those that a branch or tag names, and those that were current at any time of the history; the ancestors of both
    within the history, so that it has no gap; the line of `main` down to the newest night, however old that is; and
    the young ones, which a run in progress may need. The history is counted from the last change of `main`: a table
    at rest loses nothing.
    """
    log = metadata.snapshot_log
    start = min(_millis(now), log[-1].timestamp_ms if log else _millis(now)) - ages.history // timedelta(milliseconds=1)
    until = [following.timestamp_ms if following else _millis(now) for _, following in zip_longest(log, log[1:])]
    shown = [entry.snapshot_id for entry, end in zip(log, until, strict=True) if end >= start]
    there = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    young = {i for i, each in there.items() if each.timestamp_ms >= _millis(now - ages.leftovers)}
    kept = set(_down_to_newest_night(metadata))
    walked: set[int] = set()
    for head in (*shown, *(ref.snapshot_id for ref in refs.values())):
        kept.add(head)
        for snapshot in line_of(metadata, head):
            if snapshot.snapshot_id in walked or snapshot.timestamp_ms < start:
                break
            walked.add(snapshot.snapshot_id)
    return (kept | walked | young) & set(there)


def _down_to_newest_night(metadata: TableMetadata) -> Iterator[int]:
    line = list(line_of(metadata, metadata.current_snapshot_id))
    days = [day_of(snapshot) or "" for snapshot in line]
    newest = days.index(max(days, default="")) if any(days) else 0
    return (snapshot.snapshot_id for snapshot in line[: newest + 1])


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


# --- stale branches -------------------------------------------------------------------------------------------------


def _stale_branches(loaded: Table, found: Sequence[FoundFile], before: datetime) -> list[str]:
    """Return the audit branches that were there before: those whose own rows are older, and empty ones of that time."""
    shown = {entry.snapshot_id for entry in loaded.metadata.snapshot_log}
    ours = {name: ref for name, ref in loaded.refs().items() if BRANCH_OF_A_NIGHT.fullmatch(name)}
    if not ours:
        return []
    empty = {name for name, ref in ours.items() if ref.snapshot_id in shown}
    committed = {snapshot.snapshot_id: snapshot.timestamp_ms for snapshot in loaded.snapshots()}
    old = {name for name in ours.keys() - empty if committed[ours[name].snapshot_id] < _millis(before)}
    return sorted(old | (empty & _references_at(loaded, found, before).keys() if empty else set()))


def _references_at(loaded: Table, found: Sequence[FoundFile], moment: datetime) -> dict[str, SnapshotRef]:
    """Return the branches and tags that the table had at a moment, by the metadata files that it keeps."""
    modified = {plain(file.address): file.modified for file in found}
    versions = [loaded.metadata_location, *(entry.metadata_file for entry in reversed(loaded.metadata.metadata_log))]
    for version in versions:
        written = modified.get(plain(version))
        if written and written < moment:
            return dict(FromInputFile.table_metadata(loaded.io.new_input(version)).refs)
    return {}


# --- what is done ---------------------------------------------------------------------------------------------------


def _commit(table: str, loaded: Table, branches: Sequence[str], expired: Sequence[int]) -> None:
    if not branches and not expired:
        return
    try:
        with Change(loaded) as change:
            assert_references(change, loaded)
            refs = ManageSnapshots(change)
            for name in branches:
                refs = refs.remove_branch(name)
            refs.commit()
            if expired:
                ExpireSnapshots(change).by_ids(list(expired)).commit()
    except CommitFailedException as error:
        raise PublishConflictError(
            f"Table {table!r} was changed by somebody else during its upkeep ({error}). Nothing was removed: run again."
        ) from error


def _delete(loaded: Table, files: Sequence[Orphan]) -> dict[str, str]:
    """Delete what nothing names; return why, for each file that could not be."""

    def delete(orphan: Orphan) -> str:
        try:
            loaded.io.delete(orphan.file.address)
        except FileNotFoundError:  # gone already is as good
            return ""
        except OSError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(DELETING_THREADS) as pool:
        reasons = list(pool.map(delete, files))
    return {orphan.file.address: reason for orphan, reason in zip(files, reasons, strict=True) if reason}
