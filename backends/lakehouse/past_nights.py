"""Which publication of a day readers had: what `main` showed then, whatever reruns and rollbacks made of it since."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.night_tags import NIGHT_TAG, day_of, line_of
from backends.lakehouse.reading import Snapshot, snapshot_of


@dataclass(frozen=True)
class Publication:
    """One publication of a day. `original` is false where an earlier one may have been expired: this is a rerun."""

    snapshot: Snapshot
    original: bool


def publications_shown(lake: Lakehouse, table: str, moments: dict[date, datetime]) -> dict[date, Publication]:
    """Return the publication of each day that `main` showed at its moment, or else the first that it showed later.

    Days that were never published, or withdrawn before their moment and not published again, are left out; so are
    those of which nothing is left.
    """
    metadata = lake.load(table).metadata
    found = {day: _shown(metadata, day.isoformat(), moment) for day, moment in moments.items()}
    return {
        day: Publication(snapshot_of(table, snapshot), original)
        for day, (snapshot, original) in found.items()
        if snapshot is not None
    }


def _shown(metadata: TableMetadata, day: str, moment: datetime) -> tuple[IcebergSnapshot | None, bool]:
    """Return the snapshot, and whether it is surely the one that readers had."""
    then, later = _states(metadata, moment)
    if then is not None and (at_once := _on_line(metadata, then, day)):
        return at_once, True
    for head in later:
        if late := _on_line(metadata, head, day):
            return late, _is_first(metadata, late)
    tag = metadata.refs.get(NIGHT_TAG + day)  # other tools cut the history short when they expire snapshots
    return (metadata.snapshot_by_id(tag.snapshot_id), False) if tag else (None, False)


def _states(metadata: TableMetadata, moment: datetime) -> tuple[int | None, Iterator[int]]:
    """Return where `main` was at a moment, and where it was moved since, in that order, without what is expired."""
    at = moment.timestamp() * 1000
    before = [entry.snapshot_id for entry in metadata.snapshot_log if entry.timestamp_ms <= at]
    return (before[-1] if before else None), (e.snapshot_id for e in metadata.snapshot_log if e.timestamp_ms > at)


def _on_line(metadata: TableMetadata, head: int, day: str) -> IcebergSnapshot | None:
    return next((snapshot for snapshot in line_of(metadata, head) if day_of(snapshot) == day), None)


def _is_first(metadata: TableMetadata, night: IcebergSnapshot) -> bool:
    """Tell whether a night took no other's place: a rerun stands on the snapshot that took the day's rows away."""
    parent = night.parent_snapshot_id
    below = metadata.snapshot_by_id(parent) if parent is not None else None
    return below is not None and day_of(below) != day_of(night)
