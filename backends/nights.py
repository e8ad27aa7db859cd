"""Nights: what one is asked to do, what it has published, and which there are."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Literal
from zoneinfo import ZoneInfo

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.night_tags import DAY
from backends.lakehouse.reading import Filter, Snapshot, partition_is
from backends.reasons_column import ReasonsColumn
from models.audit import AuditReport, Limits
from models.errors import SnapshotNotFoundError, TableNotFoundError
from models.scoring import Scorer

NEWEST_SHOWN = 8  # days that an error names


@dataclass(frozen=True)
class Night:
    """What to score, with what, into where."""

    population: str
    predictions: str
    rejects: str
    scorer: Scorer
    version: int
    scored_on: date
    scored_at: datetime  # with a time zone
    limits: Limits
    dagster_run_id: str = ""
    population_snapshot: int | None = None  # None reads the current one
    reasons: int = 0  # how many features are named in a row; 0 is no such column
    reasons_for: Literal["positives", "all"] = "positives"
    day_column: str | None = None  # the partition of the day alone is scored; None scores the whole population

    @cached_property
    def reasons_column(self) -> ReasonsColumn | None:
        """What makes the column of reasons; None where none are declared. `ModelFileError` when the model has none."""
        return ReasonsColumn.of(self.scorer, self.reasons, self.reasons_for == "all")

    @property
    def where(self) -> Filter | None:
        """Which rows of the population are scored; None for all of them."""
        return partition_is(self.day_column, self.scored_on) if self.day_column else None


@dataclass(frozen=True)
class Published:
    """One published night, in figures."""

    snapshot: Snapshot
    source: Snapshot  # its `rows` are those that were to be scored
    report: AuditReport
    positives: int
    parts: int
    unseen: dict[str, int]  # rows by column, for values that the vocabulary has not
    reasons: dict[tuple[str, str], int]  # rejected values by column and reason
    scoring_seconds: float
    audit_seconds: float
    cpu_seconds: float  # of all of it, on all machines
    bytes_read: int  # of the population, as they lie in its files


def published_nights(lake: Lakehouse, table: str) -> dict[str, Snapshot]:
    """Return the snapshot that published each day (ISO date -> snapshot), rollbacks and reruns taken into account."""
    nights: dict[str, Snapshot] = {}
    for snapshot in lake.history(table):  # newest first
        if DAY in snapshot.properties:
            nights.setdefault(snapshot.properties[DAY], snapshot)
    return nights


def night_of(lake: Lakehouse, table: str, day: str) -> Snapshot:
    """Return the snapshot that published a day (ISO date); `SnapshotNotFoundError` where none has, or it was undone."""
    try:
        nights = published_nights(lake, table)
    except TableNotFoundError:
        nights = {}
    if day not in nights:
        newest = sorted(nights, reverse=True)[:NEWEST_SHOWN]
        raise SnapshotNotFoundError(
            f"Table {table!r} has no published night of {day}, or it was rolled back. "
            f"Materialize {table.replace('.', '/')} of {day}. Its newest days: {', '.join(newest) or 'none'}."
        )
    return nights[day]


def newest_night(lake: Lakehouse, table: str) -> Snapshot:
    """Return the snapshot of the newest published day; `SnapshotNotFoundError` when there is none."""
    try:
        nights = published_nights(lake, table)
    except TableNotFoundError:
        nights = {}
    if not nights:
        raise SnapshotNotFoundError(f"Table {table!r} has no published night. Materialize {table.replace('.', '/')}.")
    return nights[max(nights)]


def start_of_day(day: date, timezone: str) -> datetime:
    """Return the day's midnight in its time zone: a day with a change of the clock in it does not take 24 hours."""
    return datetime.combine(day, time(), ZoneInfo(timezone))


def population_of_day(lake: Lakehouse, table: str, day: date, timezone: str) -> Snapshot | None:
    """Return the population as it stood at the end of a past day; None for today, and where no snapshot is so old.

    A day that is made up for is then scored from what was known on it, and always from the same rows.
    """
    end = start_of_day(day + timedelta(days=1), timezone)
    return None if end > datetime.now(UTC) else lake.snapshot_at(table, end)
