"""Which days a table of events holds: those whose histories a first run counts. How is said in `event_features`."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow.compute as pc

from backends.event_source import EPOCH, microseconds_of
from backends.history_windows import microseconds
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Plan
from models.declaration import Declaration
from models.errors import LakehouseError

FIRST, LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)  # that are days in every time zone


def days_with_events(lake: Lakehouse, declaration: Declaration) -> tuple[date, date]:
    """Return the first and the last day with an event, in the time zone of the nights.

    `LakehouseError` when the table of events is not there, or has none.
    """
    events = declaration.events
    assert events is not None
    plan = lake.plan(events.table, [events.time], ranges_of=[events.time])
    moments = [moment for bounds in _bounds(plan, events.time) for moment in bounds]
    if not moments:
        raise LakehouseError(f"Table {events.table!r} has no row with a time in {events.time!r}. Write events to it.")
    zone = ZoneInfo(declaration.predictions.timezone)
    first, last = (_moment(at).astimezone(zone).date() for at in (min(moments), max(moments)))
    return first, last


def _moment(at: int) -> datetime:
    """Return a time from its microseconds; the nearest that there is for those that mean never."""
    return EPOCH + timedelta(microseconds=min(max(at, microseconds_of(FIRST)), microseconds_of(LAST)))


def _bounds(plan: Plan, time: str) -> Iterator[tuple[int, int]]:
    """Yield the earliest and the latest time of each file, as its manifest has them, or else of its batches."""
    for file in plan.files:
        known = plan.reader.range_of(file, time)
        if known:
            yield int(known[0]), int(known[1])
            continue
        for batch in plan.batches(file):
            found = pc.min_max(microseconds(batch.column(time))).as_py()
            if found["min"] is not None:
                yield found["min"], found["max"]
