"""From the table of events to the table of their features: a day's partition, or many days in one stream.

The days' partitions are replaced in one commit. What is counted is in `history_windows`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import pyarrow as pa

from backends.event_source import EventSource, microseconds_of
from backends.gold_tables import KEY_TYPES
from backends.history_windows import Counted, Windows, counted
from backends.lakehouse.appending import add_columns
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.parts import Part, Parts
from backends.lakehouse.publishing import write_days
from backends.lakehouse.reading import Snapshot
from backends.nights import start_of_day
from models.contract import Contract
from models.declaration import Declaration
from models.encoding import check_columns, entity_key_type
from models.errors import ColumnError, LakehouseError
from models.event_rules import EVENT_DAY
from models.history import history_of


@dataclass(frozen=True)
class Days:
    """What was written: how many events of each day, and how many of them the contract refuses."""

    source: Snapshot
    snapshot: Snapshot
    rows: dict[date, int]
    refused: dict[date, int]
    read: int  # rows, those of the windows before the days among them
    seconds: float


def write_event_features(
    lake: Lakehouse,
    declaration: Declaration,
    days: Sequence[date],
    scratch: Path,
    threads: int,
    properties: Mapping[str, str] | None = None,
) -> Days:
    """Replace the days' partitions of the feature table, in one commit: every event of a day, with its history.

    `ColumnError` when the events do not fit the declaration; `LakehouseError` when the table of features has columns
    of other types. A day without events has no rows.
    """
    begun, contract = time.perf_counter(), _contract(lake, declaration)
    stretch = _Stretch(days, declaration.predictions.timezone)
    history = history_of(declaration.features, declaration.history)
    assert declaration.events is not None
    begin, label = stretch.edges[0] - history.longest, declaration.examples.label
    source = EventSource(lake, declaration.events.table, contract, begin, stretch.edges[-1], beside=[label])
    table, schema = declaration.features_table, _table_schema(contract, source.schema)
    _ensure_table(lake, table, schema)
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch) as spill, lake.parts(table, "", schema, _distinct(contract)) as parts:
        windows = Windows(history, contract, source.columns, stretch.edges[0], stretch.edges[-1])
        with _Writing(contract, stretch, parts) as writing:
            for found in counted(windows, source.schema, source.batches(), Path(spill), threads):
                writing.write(found)
        lineage = {
            "source_table": source.snapshot.table,
            "source_snapshot": str(source.snapshot.id),
            "features": declaration.features_fingerprint,
            **(properties or {}),
        }
        snapshot = write_days(lake, table, EVENT_DAY, days, writing.addresses, lineage)
    seconds = time.perf_counter() - begun
    return Days(source.snapshot, snapshot, writing.rows, writing.refused, source.rows, seconds)


class _Stretch:
    """Days that follow each other from the first to the last that were asked for, and where each begins."""

    def __init__(self, days: Sequence[date], timezone: str) -> None:
        first = min(days)
        self.asked = set(days)
        self.days = [first + timedelta(days=i) for i in range((max(days) - first).days + 1)]
        beginnings = [*self.days, self.days[-1] + timedelta(days=1)]  # one more than days
        self.edges = [microseconds_of(start_of_day(day, timezone)) for day in beginnings]


# --- the events -----------------------------------------------------------------------------------------------------


def _contract(lake: Lakehouse, declaration: Declaration) -> Contract:
    """Return a contract by which the declared events are read; `ColumnError` when they do not fit it."""
    events = declaration.events
    assert events is not None
    schema = lake.schema(events.table)
    contract = Contract(
        model=declaration.name,
        entity_key=declaration.entity_key,
        entity_key_type=entity_key_type(schema, declaration.entity_key),
        events=declaration.events_of(entity_key_type(schema, events.key, "events.key")),
        features=declaration.features,
        decision_threshold=declaration.decision_threshold,
        precision="float32",
        examples_table=declaration.examples.table,
        training_snapshot="",
    )
    check_columns(contract.asked, schema)
    if events.time not in schema.names or not pa.types.is_timestamp(schema.field(events.time).type):
        found = f"has type {schema.field(events.time).type}" if events.time in schema.names else "is missing"
        raise ColumnError(
            f"Column {events.time!r} of {events.table!r} {found}, but a timestamp is needed: when each event happened. "
            f"Name another column as `events.time`, or mend the table. Its columns: {', '.join(schema.names)}."
        )
    return contract


# --- the table of features ------------------------------------------------------------------------------------------


def _table_schema(contract: Contract, source: pa.Schema) -> pa.Schema:
    """Return the columns of the feature table: those of the events, the day, and the histories."""
    events = contract.events
    assert events is not None
    types = {events.key: KEY_TYPES[events.key_type], contract.entity_key: KEY_TYPES[contract.entity_key_type]}
    types |= {events.time: pa.timestamp("us", tz="UTC"), EVENT_DAY: pa.date32()}
    types |= {f.name: pa.string() if _is_text(f.type) else f.type for f in source if f.name not in types}
    return pa.schema(list((types | dict.fromkeys(contract.history, pa.float32())).items()))


def _ensure_table(lake: Lakehouse, table: str, schema: pa.Schema) -> None:
    """Make the table, or the columns that it has not; `LakehouseError` where it has columns of other types."""
    lake.ensure_table(table, schema, EVENT_DAY)
    add_columns(lake, table, schema)
    there = {field.name: str(field.type).removeprefix("large_") for field in lake.schema(table)}
    if wrong := [f"{f.name} ({there[f.name]}, now {f.type})" for f in schema if there[f.name] != str(f.type)]:
        raise LakehouseError(
            f"Table {table!r} cannot take the features: it has columns of other types: {', '.join(wrong)}. "
            "Give the changed columns other names, or drop the table and materialize its days again."
        )


def _is_text(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype))


def _distinct(contract: Contract) -> list[str]:
    """Return the columns whose values hardly repeat."""
    assert contract.events is not None
    return [contract.events.key, contract.events.time]


class _Writing:
    """Writes events that come in the order of their time: one part for each day that was asked for."""

    def __init__(self, contract: Contract, stretch: _Stretch, parts: Parts) -> None:
        self._contract, self._stretch, self._parts = contract, stretch, parts
        self._part: Part | None = None
        self._day: date | None = None
        self.addresses: list[str] = []
        self.rows = dict.fromkeys(sorted(stretch.asked), 0)
        self.refused = dict.fromkeys(sorted(stretch.asked), 0)

    def write(self, found: Counted) -> None:
        """Write the next events."""
        places = np.searchsorted(found.times, self._stretch.edges)
        for i in np.flatnonzero(np.diff(places)):
            day, begin, end = self._stretch.days[i], int(places[i]), int(places[i + 1])
            if day in self._stretch.asked:
                self._part_of(day).write(self._columns(found, day, begin, end))
                self.rows[day] += end - begin
                self.refused[day] += int(found.refused[begin:end].sum())

    def _columns(self, found: Counted, day: date, begin: int, end: int) -> pa.RecordBatch:
        assert self._contract.events is not None
        schema, rows = self._parts.schema, found.rows.slice(begin, end - begin)
        values = found.values[begin:end]
        made = {name: pa.array(values[:, j], from_pandas=True) for j, name in enumerate(self._contract.history)}
        made[self._contract.events.time] = pa.array(found.times[begin:end])
        made[EVENT_DAY] = pa.repeat(pa.scalar(day), end - begin)
        columns = [(made[f.name] if f.name in made else rows.column(f.name)).cast(f.type) for f in schema]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _part_of(self, day: date) -> Part:
        if self._part is None or day != self._day:
            self._finish()
            self._part, self._day = self._parts.begin(self._stretch.days.index(day)), day
        return self._part

    def _finish(self) -> None:
        if self._part is not None:
            self._part.close()
            self.addresses += self._part.addresses
            self._part = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._part is not None and error is not None:
            self._part.__exit__(error)
        else:
            self._finish()
