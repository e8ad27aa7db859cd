"""From the lake to the online store: the population that the newest night was scored from, packed ready to score."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from backends.batch_scoring import population_plan
from backends.engines import Engine
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Plan, Snapshot
from backends.nights import newest_night
from backends.online_store import Batch, LoadReport, OnlineStore
from backends.rejects import Accepted, accept
from backends.repeated_keys import repeated_keys_of
from backends.vectors import EventTimes
from models.contract import Contract
from models.errors import ColumnError


@dataclass(frozen=True)
class Loaded:
    """What was loaded, and the snapshot it came from."""

    source: Snapshot
    report: LoadReport
    scored: int  # rows of the night


def load_features(
    lake: Lakehouse,
    engine: Engine,
    store: OnlineStore,
    contract: Contract,
    population: str,
    time_column: str | None,
    predictions: str,
    properties: Mapping[str, str],
) -> Loaded:
    """Replace the store's vectors by those of the snapshot that the newest published night was scored from.

    Both lanes then see the same customers in the same state: rows that the night rejected have no vector. The event
    time of a vector is that of `time_column`; without one, the time of the snapshot.
    """
    night = newest_night(lake, predictions)
    plan = population_plan(lake, contract, population, int(night.properties["source_snapshot"]), time_column)
    facts = {"source_snapshot": str(plan.snapshot.id), "scored_on": night.properties["scored_on"], **properties}
    repeated = repeated_keys_of(lake, engine, population, contract.entity_key, plan.snapshot.id, beside=predictions)
    report = store.load(contract, _batches(plan, contract, repeated, time_column), facts)
    return Loaded(plan.snapshot, report, plan.snapshot.rows - int(night.properties.get("rejected_rows", 0)))


def _batches(plan: Plan, contract: Contract, repeated: pa.Array, time_column: str | None) -> Iterator[Batch]:
    for batch in plan.stream():
        rows = accept(contract, batch, repeated)
        values = rows.keys.to_numpy() if contract.entity_key_type == "integer" else rows.keys.to_pylist()
        yield values, rows.encoded, _event_times(plan, batch, rows, time_column)


def _event_times(plan: Plan, batch: pa.RecordBatch, rows: Accepted, time_column: str | None) -> EventTimes:
    if time_column is None:
        committed = np.datetime64(plan.snapshot.committed_at.replace(tzinfo=None), "ms")
        return np.full(len(rows.keys), committed)
    column = rows.of(batch.column(time_column))
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        raise ColumnError(
            f"Column {time_column!r} of {plan.snapshot.table!r} has type {column.type}, but a date or a timestamp is "
            "expected. Name another column as `population.time`, or none."
        )
    times = column.cast(pa.timestamp("ms"), safe=False)  # microseconds are cut off
    return times.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
