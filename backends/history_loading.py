"""From the lake to the store of histories: what each entity did before the end of the day that was scored last.

Events stream through DuckDB, which sorts them by entity, in its memory or in the home's scratch folder; no entity has
more than its newest ones here at any time.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backends.event_source import EventSource, microseconds_of
from backends.gold_tables import PARTITION
from backends.histories import REACH, HistoryStore, Lake, Seeded, Span, of_lake
from backends.history_windows import Windows, by_entity
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Snapshot, partition_is
from backends.nights import newest_night, start_of_day
from models.declaration import Declaration
from models.history import NO_CODE, NO_UNITS, Events, History, key_number


@dataclass(frozen=True)
class LoadedHistories:
    """What was loaded, from which snapshot of the events; of the newest night's day, and how many rows that scored."""

    source: Snapshot
    seeded: Seeded
    span: Span
    of_the_day: int
    scored: int


def load_histories(
    lake: Lakehouse,
    store: HistoryStore,
    declaration: Declaration,
    scratch: Path,
    threads: int,
    properties: Mapping[str, str],
) -> LoadedHistories:
    """Make every entity's past in the store what the newest published night has counted from.

    Both lanes then see the same events up to the end of that night's day; what the service has recorded since then
    stays. `SnapshotNotFoundError` when no night was published.
    """
    assert declaration.events is not None
    night = newest_night(lake, declaration.predictions_table)
    features = lake.snapshot(declaration.features_table, int(night.properties["source_snapshot"]))
    day = date.fromisoformat(night.properties["scored_on"])
    begin, span = _span(store.history, day, declaration.predictions.timezone)
    events_snapshot = int(features.properties["source_snapshot"])
    source = EventSource(lake, declaration.events.table, store.contract, *span[:2], events_snapshot)
    windows = Windows(store.history, store.contract, source.columns, span.since, span.until)
    facts = {"source_snapshot": str(features.id), "events_snapshot": str(events_snapshot), "scored_on": day.isoformat()}
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch) as spill:
        sorted_events = by_entity(windows, source.schema, source.batches(), Path(spill), threads)
        entities = _Entities(store.history, sorted_events, span, begin)
        seeded = store.load(entities.lake(), span, {**facts, **properties})
    scored = lake.plan(
        declaration.predictions_table, [declaration.row_key], night.id, where=partition_is(PARTITION, day)
    )
    return LoadedHistories(source.snapshot, seeded, span, entities.since_begin, sum(file.rows for file in scored.files))


def _span(history: History, day: date, timezone: str) -> tuple[int, Span]:
    """Return where a day begins, and what is to be loaded when it was scored."""
    begin, until = (microseconds_of(start_of_day(on, timezone)) for on in (day, day + timedelta(days=1)))
    return begin, Span(until - history.longest - REACH, until, time.time_ns() // 1000)


class _Entities:
    """Cuts events in the order of entity and time into what each entity has; `since_begin` counts those since then."""

    def __init__(self, history: History, batches: Iterator[pa.RecordBatch], span: Span, begin: int) -> None:
        self._history = history
        self._batches = batches
        self._span = span
        self._begin = begin
        self.since_begin = 0

    def lake(self) -> Iterator[Lake]:
        """Yield the entities."""
        last: Lake | None = None
        for batch in self._batches:
            events = self._remembered(batch)
            self.since_begin += int((events["time"] >= self._begin).sum())
            for entity, some in _runs(batch.column(0), events):
                if last is not None and last.entity == entity:  # it began in the batch before
                    last = self._joined(last, some)
                    continue
                if last is not None:
                    yield last
                last = of_lake(self._history, entity, some, self._span)
        if last is not None:
            yield last

    def _joined(self, last: Lake, some: Events) -> Lake:
        joined = of_lake(self._history, last.entity, np.concatenate([last.events, some]), self._span)
        return joined._replace(complete_since=max(last.complete_since, joined.complete_since))

    def _remembered(self, batch: pa.RecordBatch) -> Events:
        numbers, categories = self._history.numbers, self._history.categories
        events = np.empty(batch.num_rows, self._history.dtype)
        events["key"] = _keys(batch.column(1))
        events["time"] = batch.column(2).to_numpy()
        for j in range(len(numbers)):
            events["units"][:, j] = batch.column(3 + j).fill_null(NO_UNITS).to_numpy()
        for j in range(len(categories)):
            events["codes"][:, j] = batch.column(3 + len(numbers) + j).fill_null(NO_CODE).to_numpy()
        return events


def _keys(column: pa.Array) -> npt.NDArray[np.int64]:
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]
    return np.array([key_number(key) for key in column.to_pylist()], np.int64)


def _runs(entities: pa.Array, events: Events) -> Iterator[tuple[Any, Events]]:
    """Yield each entity of a sorted column with its events."""
    runs = entities.dictionary_encode()
    codes = runs.indices.to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    words = runs.dictionary.to_pylist()
    for begin, end in pairwise(starts):
        if begin < end:
            yield words[codes[begin]], events[begin:end]
