"""The events of a stretch of time, read from a pinned snapshot of their table; files without any are not read."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from backends.history_windows import microseconds
from backends.lakehouse.catalog import Lakehouse
from models.contract import Contract

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class EventSource:
    """Events with begin <= time < end, in microseconds: what the contract asks of them, and columns `beside` if there.

    `rows` is how many were read.
    """

    def __init__(
        self,
        lake: Lakehouse,
        table: str,
        contract: Contract,
        begin: int,
        end: int,
        snapshot_id: int | None = None,
        beside: Sequence[str] = (),
    ) -> None:
        assert contract.events is not None
        self._time, self._begin, self._end = contract.events.time, begin, end
        there = lake.schema(table).names
        columns = [contract.events.key, contract.entity_key, self._time, *contract.asked.features]
        columns += [name for name in beside if name in there]
        self._plan = lake.plan(table, list(dict.fromkeys(columns)), snapshot_id, ranges_of=[self._time])
        self.snapshot, self.schema = self._plan.snapshot, self._plan.schema
        self.columns = tuple(name for name in self.schema.names if name != self._time)
        self.rows = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the events, in any order."""
        for file in self._plan.files:
            found = self._plan.reader.range_of(file, self._time)
            if found and (found[1] < self._begin or found[0] >= self._end):  # type: ignore[operator]  # integers
                continue
            for batch in self._plan.batches(file):
                times = microseconds(batch.column(self._time))
                within = pc.and_(pc.greater_equal(times, self._begin), pc.less(times, self._end))
                batch = batch.filter(within)
                self.rows += batch.num_rows
                yield batch.cast(self.schema)


def microseconds_of(at: datetime) -> int:
    """Return a time, with its zone, as microseconds since 1970."""
    return (at - EPOCH) // MICROSECOND
