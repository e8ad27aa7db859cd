"""From the lake to the online store: the population that the newest night was scored from, packed ready to score."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from backends.batch_scoring import newest_night, population_plan
from backends.lakehouse import Lakehouse, Plan, Snapshot
from backends.online_store import Batch, LoadReport, OnlineStore
from backends.vectors import EventTimes
from models.contract import Contract
from models.encoding import encode_arrow
from models.errors import ColumnError


@dataclass(frozen=True)
class Loaded:
    """What was loaded, and the snapshot it came from."""

    source: Snapshot
    report: LoadReport


def load_features(
    lake: Lakehouse,
    store: OnlineStore,
    contract: Contract,
    population: str,
    time_column: str | None,
    predictions: str,
    properties: Mapping[str, str],
) -> Loaded:
    """Replace the store's vectors by those of the snapshot that the newest published night was scored from.

    Both lanes then see the same customers in the same state. The event time of a vector is that of `time_column`;
    without one, the time of the snapshot.
    """
    night = newest_night(lake, predictions)
    plan = population_plan(lake, contract, population, int(night.properties["source_snapshot"]), time_column)
    facts = {"source_snapshot": str(plan.snapshot.id), "scored_on": night.properties["scored_on"], **properties}
    report = store.load(contract, _batches(plan, contract, time_column), facts)
    return Loaded(plan.snapshot, report)


def _batches(plan: Plan, contract: Contract, time_column: str | None) -> Iterator[Batch]:
    for file in plan.files:
        for batch in plan.batches(file):
            keys = batch.column(contract.entity_key)
            values = keys.to_numpy() if contract.entity_key_type == "integer" else keys.to_pylist()
            yield values, encode_arrow(contract, batch), _event_times(plan, batch, time_column)


def _event_times(plan: Plan, batch: pa.RecordBatch, time_column: str | None) -> EventTimes:
    if time_column is None:
        committed = np.datetime64(plan.snapshot.committed_at.replace(tzinfo=None), "ms")
        return np.full(batch.num_rows, committed)
    column = batch.column(time_column)
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        raise ColumnError(
            f"Column {time_column!r} of {plan.snapshot.table!r} has type {column.type}, but a date or a timestamp is "
            "expected. Name another column as `population.time`, or none."
        )
    times = column.cast(pa.timestamp("ms"), safe=False)  # microseconds are cut off
    return times.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
