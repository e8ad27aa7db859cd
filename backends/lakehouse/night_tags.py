"""The tags `night_<day>`: each names the snapshot that published a day, as far as `main` shows that publication.

A publish sets its own tag. A rollback makes all of them agree with where `main` goes, in the same commit: a reader who
asks for a withdrawn night by its tag is told that there is none, and not given scores that were taken back.
"""

from collections.abc import Iterator

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from pyiceberg.table.update.snapshot import ManageSnapshots

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.commits import Change, assert_references, commit_once, failures_named, retried
from backends.lakehouse.reading import PROPERTIES

NIGHT_TAG = "night_"
DAY = "scored_on"  # the property that says which day a snapshot published


def line_of(metadata: TableMetadata, head: int | None) -> Iterator[IcebergSnapshot]:
    """Follow a snapshot and its ancestors, newest first, as far as they are not expired."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    while head is not None and (found := by_id.get(head)):
        yield found
        head = found.parent_snapshot_id


def day_of(snapshot: IcebergSnapshot) -> str | None:
    """Return the day that a snapshot published, as ISO date; None where it is no night."""
    return snapshot.summary.additional_properties.get(PROPERTIES + DAY) if snapshot.summary else None


def night_tags_at(metadata: TableMetadata, head: int) -> dict[str, int | None]:
    """Return the tags that have to change for `main` at `head`: the snapshot to name, or None for one that must go.

    A tag older than all that is known of that line stays: its night may well be on it.
    """
    nights: dict[str, int | None] = {}
    oldest = 0
    for snapshot in line_of(metadata, head):
        oldest = snapshot.sequence_number or 0
        if day := day_of(snapshot):
            nights.setdefault(NIGHT_TAG + day, snapshot.snapshot_id)
    there = {name: ref.snapshot_id for name, ref in metadata.refs.items() if name.startswith(NIGHT_TAG)}
    sequence = {snapshot.snapshot_id: snapshot.sequence_number or 0 for snapshot in metadata.snapshots}
    withdrawn = {name: None for name, at in there.items() if name not in nights and sequence[at] >= oldest}
    return {name: at for name, at in nights.items() if there.get(name) != at} | withdrawn


def settle_night_tags(lake: Lakehouse, table: str) -> dict[str, int | None]:
    """Make the tags agree with `main`, in one commit, after another tool has moved it; return what had to change.

    `PublishConflictError` when others commit so often that there is no room.
    """
    with failures_named(table):
        return retried(lambda: _settle(lake, table))


def _settle(lake: Lakehouse, table: str) -> dict[str, int | None]:
    loaded = commit_once(lake.load(table))
    head = loaded.metadata.current_snapshot_id
    changes = night_tags_at(loaded.metadata, head) if head is not None else {}
    if changes:
        with Change(loaded) as change:
            assert_references(change, loaded)
            set_tags(ManageSnapshots(change), changes).commit()
    return changes


def set_tags(refs: ManageSnapshots, tags: dict[str, int | None]) -> ManageSnapshots:
    """Add to a commit: the snapshot that each tag names, or None for one that goes."""
    for name, snapshot_id in tags.items():
        refs = refs.remove_tag(name) if snapshot_id is None else refs.create_tag(snapshot_id, name)
    return refs
