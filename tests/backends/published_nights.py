"""Nights whose scores and moments a test chooses, and labels of their customers: what outcomes are made of."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.publishing import publish, stage
from backends.lakehouse.reading import Snapshot
from models.declaration import Declaration
from tests.backends.nights import PREDICTIONS, turn_back, write_files
from tests.lives import TINY, merged

EXAMPLES = "silver.tiny_examples"
DAY = date(2025, 3, 3)
TODAY = DAY + timedelta(days=30)
DATED = {"examples": {"time": "observed_on"}, "outcomes": {"min_rows": 10}}


def dated_tiny(**changes: Any) -> Declaration:
    """Return the tiny declaration with a time in its examples, and with changes."""
    return Declaration.model_validate(merged(merged(TINY, DATED), changes))


def moment(day: date = DAY, hour: int = 2, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


def publish_at(
    lake: Lakehouse,
    at: datetime,
    scores: Mapping[Any, float],
    day: date = DAY,
    version: int = 1,
    key_type: pa.DataType | None = None,
    training_snapshot: str = "",
) -> Snapshot:
    """Publish scores by customer as the night of a day, as if that had been at a moment."""
    keys = pa.array(list(scores), key_type or pa.int64())
    return publish_columns(lake, at, keys, list(scores.values()), day, version, training_snapshot)


def publish_columns(
    lake: Lakehouse,
    at: datetime,
    keys: pa.Array,
    scores: Any,
    day: date = DAY,
    version: int = 1,
    training_snapshot: str = "",
) -> Snapshot:
    """Publish keys and their scores."""
    schema = pa.schema([("customer_id", keys.type), ("tiny_probability", pa.float32()), ("scored_on", pa.date32())])
    lake.ensure_table(PREDICTIONS, schema, "scored_on")
    days = pa.repeat(pa.scalar(day), len(keys))
    rows = pa.table([keys, pa.array(scores, pa.float32()), days], schema=schema)
    facts = {"scored_on": day.isoformat(), "model_version": str(version), "training_snapshot": training_snapshot}
    with lake.parts(PREDICTIONS, f"scored_on={day}/", schema) as parts:
        staged = stage(lake, PREDICTIONS, "scored_on", day, parts.write(0, rows.to_batches()), facts)
    night = publish(lake, staged)
    turn_back(lake, PREDICTIONS, {night.id: at})
    return night


def label_rows(outcomes: Mapping[Any, Any], on: Any = DAY, time_type: pa.DataType | None = None) -> pa.Table:
    """Return an outcome for each customer, observed on a day or at a moment."""
    times = pa.array([on] * len(outcomes), time_type or pa.date32())
    return pa.table({"customer_id": list(outcomes), "observed_on": times, "churned": list(outcomes.values())})


def write_labels(lake: Lakehouse, *files: pa.Table, table: str = EXAMPLES) -> Snapshot:
    """Make label rows a table's content, a file each."""
    return write_files(lake, table, list(files))


def alternating(customers: Sequence[int]) -> dict[int, bool]:
    """Return an outcome for each: every second one is positive."""
    return {customer: i % 2 == 1 for i, customer in enumerate(customers)}
