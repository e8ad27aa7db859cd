"""Outcomes that have become known of a span of days: read, checked, each entity of a day once, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Filter, is_within
from backends.repeated_keys import MIX, numbers_of
from models.declaration import Declaration
from models.errors import ColumnError
from models.training.split import Labels, labels

MOST_LABELS = 4_000_000  # held at once, 100 MB; of more, the entities are thinned out
KEY, DAY, LABEL = "key", "day", "label"


@dataclass(frozen=True)
class LabelsOfDay:
    """The outcomes of one day's entities: each key once, with its outcome as 0 or 1."""

    keys: pa.Array
    outcomes: Labels


@dataclass(frozen=True)
class Matured:
    """All outcomes of a span of days.

    `rows` were found; `incomplete` have no key or label; `repeated` say again what is known; `contradicting` ones, of
    an entity with both outcomes on one day, count for nothing. Of the entities, one in `one_in` is looked at. Rows
    without a time are of no day, and not found.
    """

    days: dict[date, LabelsOfDay]
    rows: int = 0
    incomplete: int = 0
    repeated: int = 0
    contradicting: int = 0
    one_in: int = 1


def matured_labels(
    lake: Lakehouse, declaration: Declaration, first: date, last: date, key_type: pa.DataType
) -> Matured:
    """Read the labels of the days from `first` to `last`, in the declaration's time zone; keys as `key_type`.

    `ColumnError` for columns that are missing or of a type that cannot be read, `TrainingDataError` for labels that
    are no outcomes, `TableNotFoundError` where there is no table.
    """
    _check(lake, declaration, key_type)
    gathered = _Gathered()
    for batch in _batches(lake, declaration, first, last):
        gathered.add(_as_labels(declaration, batch, key_type, first, last))
    return gathered.matured(declaration)


class _Gathered:
    """Rows as they come: whole while they fit, then those of every second, fourth, eighth ... entity."""

    def __init__(self) -> None:
        self._batches: list[pa.Table] = []
        self._held = self._rows = self._incomplete = 0
        self._one_in = 1

    def add(self, found: pa.Table) -> None:
        """Keep the complete rows."""
        complete = found.drop_null()
        self._rows += len(found)
        self._incomplete += len(found) - len(complete)
        self._keep(complete)
        while self._held > MOST_LABELS:
            self._one_in *= 2
            held, self._batches, self._held = self._batches, [], 0
            for batch in held:
                self._keep(batch)

    def _keep(self, batch: pa.Table) -> None:
        if self._one_in > 1 and len(batch):
            mixed = (numbers_of(batch[KEY].combine_chunks()).view(np.uint64) * MIX) >> np.uint64(32)
            batch = batch.filter(pa.array(mixed % np.uint64(self._one_in) == 0))
        self._batches.append(batch)
        self._held += len(batch)

    def matured(self, declaration: Declaration) -> Matured:
        """Put the rows together: an entity of a day once, if all that is said of it agrees."""
        if not self._held:
            return Matured({}, self._rows, self._incomplete)
        table = pa.concat_tables(self._batches).combine_chunks()
        named = table.select([LABEL]).rename_columns([declaration.examples.label])
        outcomes = labels(declaration, named, one_outcome_will_do=True)
        table = table.set_column(2, LABEL, pa.array(outcomes))
        asked = [(LABEL, "min"), (LABEL, "max"), ([], "count_all")]
        each = table.group_by([KEY, DAY], use_threads=False).aggregate(asked)
        agreed = each.filter(pc.equal(each[f"{LABEL}_min"], each[f"{LABEL}_max"]))
        repeated = int(pc.sum(agreed["count_all"]).as_py() or 0) - len(agreed)
        contradicting = len(table) - len(agreed) - repeated
        days = dict(_by_day(agreed))
        return Matured(days, self._rows, self._incomplete, repeated, contradicting, self._one_in)


def _by_day(agreed: pa.Table) -> Iterator[tuple[date, LabelsOfDay]]:
    ordered = agreed.sort_by(DAY).combine_chunks()
    starts = np.flatnonzero(np.diff(ordered[DAY].cast(pa.int32()).to_numpy(), prepend=np.int32(-(2**31))))
    for start, end in pairwise([*starts, len(ordered)]):
        rows = ordered.slice(start, end - start)
        outcomes: npt.NDArray[np.float32] = rows[f"{LABEL}_min"].to_numpy()
        yield rows[DAY][0].as_py(), LabelsOfDay(rows[KEY].combine_chunks(), outcomes)


# --- reading --------------------------------------------------------------------------------------------------------


def _check(lake: Lakehouse, declaration: Declaration, key_type: pa.DataType) -> None:
    """Raise `ColumnError` unless the table has key, time and label."""
    table, schema, examples = declaration.outcomes_table, lake.schema(declaration.outcomes_table), declaration.examples
    there = f"Its columns: {', '.join(schema.names)}."
    if examples.time is None:
        raise ColumnError(
            f"The declaration of {declaration.name!r} names no time column, so the day of an outcome is not known. "
            f"Name one as `examples.time`. The table is {table!r}. {there}"
        )
    wanted = (declaration.row_key, examples.time, examples.label)
    if missing := [name for name in wanted if name not in schema.names]:
        raise ColumnError(
            f"Table {table!r} has no column {', '.join(map(repr, missing))}: outcomes need the key, the time "
            f"and the label, named as in `examples`. Add it, or name another table as `outcomes.table`. {there}"
        )
    kind = schema.field(examples.time).type
    if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        raise ColumnError(
            f"Column {examples.time!r} of table {table!r} has type {kind}: make it a date or a timestamp."
        )
    found = schema.field(declaration.row_key).type
    if pa.types.is_integer(found) != pa.types.is_integer(key_type):
        raise ColumnError(
            f"The key {declaration.row_key!r} of table {table!r} has type {found}, but {key_type} in "
            f"{declaration.predictions_table!r}: no row of one is a row of the other. Mend the table."
        )


def _batches(lake: Lakehouse, declaration: Declaration, first: date, last: date) -> Iterator[pa.RecordBatch]:
    """Stream what the table has of the days, and perhaps of those beside them."""
    time_column = declaration.examples.time or ""
    columns = [declaration.row_key, time_column, declaration.examples.label]
    where = _about(time_column, lake.schema(declaration.outcomes_table).field(time_column).type, first, last)
    return lake.plan(declaration.outcomes_table, columns, where=where).stream()


def _about(column: str, kind: pa.DataType, first: date, last: date) -> Filter:
    """Filter for the days; for timestamps with a day more at both ends, since days begin at other times elsewhere."""
    end = last + timedelta(days=1)
    if pa.types.is_date(kind):
        return is_within(column, first, end)
    zone = UTC if kind.tz else None
    low, high = (datetime.combine(day, time(), zone) for day in (first - timedelta(days=1), end + timedelta(days=1)))
    return is_within(column, low, high)


def _as_labels(
    declaration: Declaration, batch: pa.RecordBatch, key_type: pa.DataType, first: date, last: date
) -> pa.Table:
    """Return key, day and label of the rows of the days."""
    examples = declaration.examples
    days = local_days(batch.column(examples.time), declaration.predictions.timezone)
    wanted = pc.and_(pc.greater_equal(days, first), pc.less_equal(days, last))
    label = batch.column(examples.label)
    if pa.types.is_floating(label.type):
        label = pc.if_else(pc.is_nan(label), None, label)
    return pa.table({KEY: batch.column(declaration.row_key).cast(key_type), DAY: days, LABEL: label}).filter(wanted)


def local_days(times: pa.Array, timezone: str) -> pa.Array:
    """Return the day of each date or timestamp as date32; a timestamp with a time zone is seen from `timezone`."""
    if pa.types.is_timestamp(times.type) and times.type.tz:
        times = pc.local_timestamp(times.cast(pa.timestamp("us", str(ZoneInfo(timezone)))))
    return times.cast(pa.date32(), safe=False)
