"""The histories of a whole table of events, counted by SQL windows in DuckDB: exactly `models.history`, row by row.

Rows stream in, as Arrow batches from whatever storage the table is on, and out, in the order of time and key; what does
not fit into the memory that DuckDB may use goes to its scratch folder. SQL only counts whole numbers: what is read from
a row is done by the one encoder, and fractions by `finish`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from models.contract import Contract, HistoryFeature
from models.encoding import screen_arrow
from models.history import MICROSECONDS, NO_CODE, NO_UNITS, History, finish, remembered

MEMORY = "1GB"  # of DuckDB; what it reads and what it yields comes on top
ROWS = 65_536  # of a batch
Config = dict[str, str | bool | int | float | list[str]]
FAR = 2**62  # microseconds: as good as any time ago


@dataclass(frozen=True)
class Windows:
    """What to count: for the events of a stretch of time, in microseconds, `end` excluded."""

    history: History
    contract: Contract  # of the model
    columns: tuple[str, ...]  # that come out again as they came in, key and entity among them
    begin: int
    end: int


@dataclass(frozen=True)
class Counted:
    """Events in the order of time and key: their columns, their times, and their features, float32 [rows, features]."""

    rows: pa.RecordBatch
    times: np.ndarray[tuple[int], np.dtype[np.int64]]
    values: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    refused: np.ndarray[tuple[int], np.dtype[np.bool_]]  # the contract refuses the row, so that it has no history


def counted(
    windows: Windows,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    scratch: Path,
    threads: int,
    memory: str = MEMORY,
) -> Iterator[Counted]:
    """Yield the events between begin and end with their features.

    The batches, of `schema`, are those of the stretch and of the longest window before it, in any order. An event that
    the contract refuses, or that names no entity, is in nobody's history and has none: the API refuses it too. What
    goes wrong while the batches are read is raised as it is.
    """
    for batch in _asked(windows, schema, batches, _config(scratch, threads, memory), statement(windows)):
        yield _finished(windows, batch)


def _asked(
    windows: Windows, schema: pa.Schema, batches: Iterable[pa.RecordBatch], config: Config, sql: str
) -> Iterator[pa.RecordBatch]:
    """Yield what a statement finds in `events`, which stream in."""
    failures: list[BaseException] = []
    prepared = _watched((_prepared(windows, batch) for batch in batches), failures)
    with duckdb.connect(config=config) as connection:
        connection.register("events", pa.RecordBatchReader.from_batches(_ledger_schema(windows, schema), prepared))
        try:
            yield from connection.execute(sql).to_arrow_reader(ROWS)
        except duckdb.Error:
            if failures:
                raise failures[0] from None
            raise


def by_entity(
    windows: Windows,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    scratch: Path,
    threads: int,
    memory: str = MEMORY,
) -> Iterator[pa.RecordBatch]:
    """Yield the events between begin and end that are in a history, in the order of entity and time.

    Columns: entity, event, `~time`, and what is remembered: `~units<j>`, `~code<j>`, null where it is not counted.
    """
    contract, history = windows.contract, windows.history
    assert contract.events is not None
    entity, key = quoted(contract.entity_key), quoted(contract.events.key)
    own = ['"~time"', *(f'"~units{j}"' for j in range(len(history.numbers)))]
    own += [f'"~code{j}"' for j in range(len(history.categories))]
    sql = f"""
        SELECT {entity}, {key}, {", ".join(own)} FROM events
        WHERE "~counts" AND "~time" >= {windows.begin} AND "~time" < {windows.end}
        ORDER BY {entity}, "~time"
    """  # noqa: S608  # names are quoted, the rest is ours
    yield from _asked(windows, schema, batches, _config(scratch, threads, memory), sql)


def microseconds(column: pa.Array) -> pa.Array:
    """Return a timestamp column, which is UTC unless it says otherwise, as int64 microseconds since 1970."""
    return column.cast(pa.timestamp("us", tz=column.type.tz)).view(pa.int64())


def _config(scratch: Path, threads: int, memory: str) -> Config:
    return {
        "memory_limit": memory,
        "threads": threads,
        "temp_directory": str(scratch),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }


# --- into SQL -------------------------------------------------------------------------------------------------------


def _ledger_schema(windows: Windows, schema: pa.Schema) -> pa.Schema:
    history = windows.history
    own = [("~time", pa.int64()), ("~counts", pa.bool_())]
    own += [(f"~units{j}", pa.int64()) for j in range(len(history.numbers))]
    own += [(f"~code{j}", pa.int32()) for j in range(len(history.categories))]
    return pa.schema([*(schema.field(name) for name in windows.columns), *own])


def _prepared(windows: Windows, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Put beside the columns what is remembered of each event, and whether it is."""
    contract, history = windows.contract, windows.history
    assert contract.events is not None
    screened = screen_arrow(contract.asked, batch)
    times = microseconds(batch.column(contract.events.time))
    keys = (batch.column(name) for name in (contract.entity_key, contract.events.key, contract.events.time))
    counts = np.logical_and.reduce([key.is_valid().to_numpy(zero_copy_only=False) for key in keys])
    for violation in screened.violations:
        counts[violation.rows] = False
    zeros = np.zeros(batch.num_rows, np.int64)
    events = remembered(history, contract.asked, screened.encoded, zeros, zeros)
    units, codes = events["units"], events["codes"]
    columns = [
        *(batch.column(name) for name in windows.columns),
        times,
        pa.array(counts),
        *(pa.array(units[:, j], mask=units[:, j] == NO_UNITS) for j in range(len(history.numbers))),
        *(pa.array(codes[:, j], mask=codes[:, j] == NO_CODE) for j in range(len(history.categories))),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_ledger_schema(windows, batch.schema))


def _watched(batches: Iterator[pa.RecordBatch], failures: list[BaseException]) -> Iterator[pa.RecordBatch]:
    """Keep what goes wrong: DuckDB tells only its text."""
    try:
        yield from batches
    except BaseException as error:
        failures.append(error)
        raise


# --- the SQL --------------------------------------------------------------------------------------------------------


def statement(windows: Windows) -> str:
    """Return the SQL: the events' columns, then numerator and denominator of each feature.

    A window ends one microsecond before the event, and reaches back to its length, or to where the newest `max_events`
    begin: behind the microsecond of the one before those.
    """
    contract, most = windows.contract, windows.history.limits.max_events
    assert contract.events is not None
    entity, key = quoted(contract.entity_key), quoted(contract.events.key)
    past = f'(PARTITION BY {entity}, "~counts" ORDER BY "~time" RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)'
    sums = _Sums(entity)
    fractions = [
        f'CASE WHEN "~counts" THEN {part} ELSE 0 END AS "~{name}{j}"'
        for j, feature in enumerate(windows.history.features.values())
        for name, part in zip(("numerator", "denominator"), _fraction(windows.history, feature, sums), strict=True)
    ]
    columns = [*map(quoted, windows.columns), '"~time"', '"~counts"', *fractions]
    return f"""
        WITH numbered AS (
            SELECT *, count(*) OVER {past} AS "~earlier" FROM events
        ), reaching AS (
            SELECT *, CASE WHEN "~earlier" > {most}
                THEN "~time" - 1 - nth_value("~time", greatest("~earlier" - {most}, 1)) OVER {past}
                ELSE {FAR} END AS "~reach" FROM numbered
        ), summed AS (
            SELECT *{"".join(f", {sql} AS {name}" for sql, name in sums.names.items())} FROM reaching
        )
        SELECT {", ".join(columns)} FROM summed
        WHERE "~time" >= {windows.begin} AND "~time" < {windows.end}
        ORDER BY "~time", {key}
    """  # noqa: S608  # names are quoted, the rest is ours


class _Sums:
    """The window functions of a statement, each of them once, by the name of its column."""

    def __init__(self, entity: str) -> None:
        self._entity = entity
        self.names: dict[str, str] = {}

    def over(self, function: str, feature: HistoryFeature, beside: str = "") -> str:
        """Return the column of a function over the feature's window, among rows that are the same in `beside` too."""
        reach = f'least({feature.microseconds}, "~reach")'
        frame = f'PARTITION BY {self._entity}, "~counts"{beside} ORDER BY "~time"'
        sql = f"{function} OVER ({frame} RANGE BETWEEN {reach} PRECEDING AND 1 PRECEDING)"
        return self.names.setdefault(sql, f'"~sum{len(self.names)}"')


def _fraction(history: History, feature: HistoryFeature, sums: _Sums) -> tuple[str, str]:
    """Return numerator and denominator of one feature, as `models.history` counts them."""
    measure, of = feature.measure, feature.of or ""
    if measure == "count":
        return sums.over("count(*)", feature), "1"
    if measure == "since_last":
        last = sums.over('max("~time")', feature)
        return f'coalesce("~time" - {last}, 0)', f"CASE WHEN {last} IS NULL THEN 0 ELSE {MICROSECONDS} END"
    if measure in ("distinct", "same"):
        code = f'"~code{history.categories.index(of)}"'
        if measure == "distinct":
            return sums.over(f"count(DISTINCT {code})", feature), "1"
        return sums.over(f"count({code})", feature, f", {code}"), "1"
    units = f'"~units{history.numbers.index(of)}"'
    total = f"coalesce({sums.over(f'sum({units})', feature)}::BIGINT, 0)"
    count = sums.over(f"count({units})", feature)
    if measure == "ratio":
        return f"coalesce({units} * {count}, 0)", f"CASE WHEN {units} IS NULL THEN 0 ELSE {total} END"
    return total, count if measure == "mean" else "1"


def quoted(name: str) -> str:
    """Return a column's name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


# --- out of SQL -----------------------------------------------------------------------------------------------------


def _finished(windows: Windows, batch: pa.RecordBatch) -> Counted:
    count = len(windows.columns)
    rows = batch.select(list(windows.columns))
    times, counts = (batch.column(count + i).to_numpy(zero_copy_only=False) for i in range(2))
    whole = [column.cast(pa.int64()).to_numpy(zero_copy_only=False) for column in batch.columns[count + 2 :]]
    fractions = np.stack(whole, axis=1) if whole else np.empty((batch.num_rows, 0), np.int64)
    values = finish(windows.history, fractions[:, 0::2], fractions[:, 1::2])
    return Counted(rows, times, values, ~counts)
