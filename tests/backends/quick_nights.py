"""Nights that no model has scored: a few rows, staged and published like any other night, in a tenth of a second."""

from collections.abc import Sequence
from datetime import date

import pyarrow as pa

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.night_tags import NIGHT_TAG
from backends.lakehouse.publishing import Staged, publish, stage
from backends.lakehouse.reading import Snapshot
from tests.backends.nights import FRIDAY, PREDICTIONS, SATURDAY

SUNDAY, MONDAY = date(2026, 11, 22), date(2026, 11, 23)
SCHEMA = pa.schema([("customer_id", pa.int64()), ("score", pa.float32()), ("scored_on", pa.date32())])


def rows_of(day: date, scores: Sequence[float]) -> pa.Table:
    """Return a day's rows."""
    return pa.table([range(len(scores)), scores, [day] * len(scores)], schema=SCHEMA)


def stage_quickly(lake: Lakehouse, day: date, scores: Sequence[float], table: str = PREDICTIONS) -> Staged:
    """Write one part, and stage it."""
    lake.ensure_table(table, SCHEMA, "scored_on")
    with lake.parts(table, f"scored_on={day}/", SCHEMA) as parts:
        written = parts.write(0, rows_of(day, scores).to_batches())
        return stage(lake, table, "scored_on", day, written, {"scored_on": day.isoformat(), "model_version": "3"})


def publish_quickly(lake: Lakehouse, day: date, scores: Sequence[float], table: str = PREDICTIONS) -> Snapshot:
    """Stage one part, and publish it."""
    return publish(lake, stage_quickly(lake, day, scores, table))


def three_nights(lake: Lakehouse) -> dict[date, Snapshot]:
    """Publish Friday, Saturday and Sunday, each with other scores."""
    days = (FRIDAY, SATURDAY, SUNDAY)
    return {day: publish_quickly(lake, day, [0.25 * number, 0.125]) for number, day in enumerate(days)}


def night_tags(lake: Lakehouse) -> dict[str, int]:
    """Return what a reader who asks for the tag of a night is given, by day."""
    refs = lake.load(PREDICTIONS).refs().items()
    return {name.removeprefix(NIGHT_TAG): ref.snapshot_id for name, ref in refs if name.startswith(NIGHT_TAG)}


def scores_at(lake: Lakehouse, snapshot_id: int | None = None) -> dict[tuple[str, int], float]:
    """Return every score that a snapshot, or `main`, has, by day and customer."""
    rows = lake.read(PREDICTIONS, snapshot_id=snapshot_id).to_pylist()
    found = {(row["scored_on"].isoformat(), row["customer_id"]): row["score"] for row in rows}
    assert len(found) == len(rows)
    return found
